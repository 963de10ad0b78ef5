"""Who connects, and what they may do: API keys and JWTs become credentials.

Here: looking up keys, verifying tokens and their claims, allowed origins. Not here: what an operation needs
(:mod:`wsock.protocol.permissions`), and when a live connection ends (:mod:`wsock.protocol.session`).

Texts of refusals never hold a key or a token, nor any part of one.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, replace

from msgspec import UNSET

from wsock.errors import Code, Malformed, Refused
from wsock.interfaces import App, IDirectory, Key
from wsock.protocol.channels import Pattern
from wsock.protocol.permissions import Permissions
from wsock.services.directory_cache import DirectoryCache, Recent
from wsock.services.jwks import KeySets
from wsock.services.jwts import (
    ALGORITHMS,
    LEEWAY_SECONDS,
    PUBLIC_ALGORITHMS,
    Claims,
    Header,
    Jwk,
    Party,
    Verifier,
    check_parties,
    check_times,
    is_client_id,
    parties,
    read_claims,
    read_header,
    signed_parts,
    unauthorized,
    verifier,
)
from wsock.services.tenants import Tenants

__all__ = ["ALGORITHMS", "LEEWAY_SECONDS", "Auth", "Credential", "hash_api_key"]

_MAX_API_KEY = 255
_MAX_TOKEN = 8192


def hash_api_key(text: str) -> str:
    """The SHA-256 of an API key in hex: the only form in which one is stored."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A verified credential.

    ``identity`` is what deduplication goes by: ``sub:`` and the JWT's subject, else ``key:`` and the first key's
    id. ``client_id`` is ``None`` for an anonymous client. ``expires_at`` (seconds since the epoch) is when a
    live connection must renew: the JWT's ``exp`` itself or the end of its key, whichever comes first. The
    leeway only counts when a token is presented.
    """

    app: str
    key_id: str
    identity: str
    client_id: str | None
    subject: str | None
    permissions: Permissions
    expires_at: float | None
    token_id: str | None
    allowed_origins: tuple[str, ...]
    token_expires_at: float | None = None
    """When the JWT alone expires."""
    is_replaced: bool = False
    """Whether the key has a successor that is to take its place."""


@dataclass(frozen=True, slots=True)
class _Compiled:
    """What is made of a key once: its permissions, and its verifying key once a token needs it."""

    key: Key
    permissions: Permissions
    verifier: Verifier | None


@dataclass(frozen=True, slots=True)
class _Verified:
    """A token that was verified: by which key, perhaps by which one of its set, and what it claims."""

    key: Key
    claims: Claims
    jwk: Jwk | None = None


class Auth:
    """Turns what a client presents into a :class:`Credential`.

    Keys and apps are remembered for ``cache_seconds``: that long may a revoked key still be accepted. Of a
    token that was verified only its times, key and app are checked again. Each memory holds at most
    ``cache_size`` entries. ``accepted`` is called with each credential. ``key_sets`` are where the keys of other
    issuers are found; without them a key with a ``jwks_url`` verifies nothing.
    """

    def __init__(
        self,
        directory: IDirectory,
        now: Callable[[], float],
        *,
        cache_seconds: float = 5.0,
        cache_size: int = 10_000,
        accepted: Callable[[Credential], None] = lambda credential: None,
        tenants: Tenants | None = None,
        key_sets: KeySets | None = None,
    ) -> None:
        self._now = now
        self._tenants = tenants
        self._key_sets = key_sets
        self._generation = 0
        self._accepted = accepted
        self._directory = DirectoryCache(directory, now, seconds=cache_seconds, size=cache_size)
        self._compiled: Recent[str, _Compiled] = Recent(cache_size)
        self._verified: Recent[bytes, _Verified] = Recent(cache_size)

    async def credential(
        self, *, key: str | None = None, token: str | None = None, client_id: str | None = None
    ) -> Credential:
        """The credential of a JWT, or else of an API key; with a token the key isn't looked at.

        ``client_id`` is the one that a client with an API key asks for: it gets it when the key allows it,
        and is anonymous otherwise. Raises :class:`Refused` with ``unauthorized``, ``token_expired``, or
        ``forbidden`` when the app is disabled.
        """
        generation = -1
        while generation != self._generation:
            # What was found while something was changed may be from before it, and would not be checked again.
            generation = self._generation
            credential = await self._credential(key, token, client_id)
            await self._require_unrevoked(credential)
        self._accepted(credential)
        return credential

    async def _require_unrevoked(self, credential: Credential) -> None:
        tenant = None if self._tenants is None else await self._tenants.load(credential.app)
        revoked = None if tenant is None else tenant.revoked(credential.token_id, credential.client_id)
        if revoked is not None:
            raise unauthorized(revoked)

    async def forget(self) -> None:
        """Something was changed in the directory: everything is looked up again."""
        self._generation += 1
        self._directory.forget()

    async def _credential(self, key: str | None, token: str | None, client_id: str | None) -> Credential:
        if token:
            return await self._by_token(token)
        if key:
            return await self._by_key(key, client_id)
        raise unauthorized("a credential is missing: give an API key as ?key= or a JWT as ?token=")

    async def renew(self, old: Credential, token: str) -> Credential:
        """The credential of a JWT that replaces another one on a live connection.

        Raises :class:`Refused` with ``forbidden`` unless app and subject are the same. The clientId stays
        what it was.
        """
        new = await self.credential(token=token)
        if (new.app, new.subject) != (old.app, old.subject):
            raise Refused(Code.FORBIDDEN, "the new token takes the app and the 'sub' of the old credential")
        return replace(new, client_id=old.client_id)

    @staticmethod
    def check_origin(credential: Credential, origin: str | None) -> None:
        """Refuses with ``forbidden`` a page whose origin the app doesn't allow. No origin: no browser, so fine."""
        if origin is None or "*" in credential.allowed_origins:
            return
        patterns = [Pattern(allowed.lower()) for allowed in credential.allowed_origins]
        if not any(pattern.matches(origin.lower()) for pattern in patterns):
            raise Refused(Code.FORBIDDEN, "this origin is not among the app's allowed origins")

    async def _by_key(self, text: str, client_id: str | None) -> Credential:
        if len(text) > _MAX_API_KEY:
            raise unauthorized(f"the API key has more than {_MAX_API_KEY} characters")
        digest = hash_api_key(text)
        key = await self._directory.key_by_hash(digest)
        if key is None or not hmac.compare_digest(key.api_key_hash, digest):
            raise unauthorized("the API key is unknown")
        app = await self._usable(key)
        return Credential(
            app=app.id,
            key_id=key.id,
            identity=key.identity,
            client_id=_allowed_client_id(key, client_id),
            subject=None,
            permissions=self._compile(key).permissions,
            expires_at=_key_end(key),
            token_id=None,
            allowed_origins=app.allowed_origins,
            is_replaced=bool(key.replaced_by),
        )

    async def _by_token(self, token: str) -> Credential:
        verified = await self._verify(token)
        key, claims = verified.key, verified.claims
        app = await self._usable(key)
        check_times(claims, self._now())
        subject = claims.sub or None
        return Credential(
            app=app.id,
            key_id=key.id,
            identity=f"sub:{subject}" if subject else key.identity,
            client_id=subject,
            subject=subject,
            permissions=self._permissions(key, claims),
            expires_at=_earliest(claims.exp or None, _key_end(key)),
            token_id=claims.jti or None,
            allowed_origins=app.allowed_origins,
            token_expires_at=claims.exp or None,
            is_replaced=bool(key.replaced_by),
        )

    async def _usable(self, key: Key) -> App:
        """The key's app; both are good to use now."""
        if key.is_revoked:
            raise unauthorized("the key is revoked")
        end = _key_end(key)
        if end is not None and self._now() >= end:
            was_replaced = end == _seconds(key.retire_at)
            raise unauthorized("the key was replaced: use its successor" if was_replaced else "the key has expired")
        app = await self._directory.app(key.app)
        if app is None:
            raise unauthorized("the app of the key does not exist")
        if not app.is_enabled:
            raise Refused(Code.FORBIDDEN, f"the app '{app.id}' is disabled")
        return app

    async def _verify(self, token: str) -> _Verified:
        """The key that signed the token, and its claims: well-formed, whatever the time is."""
        if len(token) > _MAX_TOKEN:
            raise unauthorized(f"the token has more than {_MAX_TOKEN} characters")
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._verified.get(digest)
        if known is not None and await self._is_still_good(known):
            return known
        header = read_header(token)
        key = await self._directory.key(header.kid)
        if key is None or key.jwks_url:
            verified = await self._by_key_set(token, header)
        else:
            verified = _Verified(key, self._signed_claims(token, header, key))
        self._verified.put(digest, verified)
        return verified

    async def _is_still_good(self, known: _Verified) -> bool:
        """Whether neither the key nor the one of its set was changed since."""
        if await self._directory.key(known.key.id) != known.key:
            return False
        return known.jwk is None or known.jwk == await self._jwk(known.key, known.jwk.kid, known.jwk.algorithm)

    def _signed_claims(self, token: str, header: Header, key: Key) -> Claims:
        if header.algorithm != key.algorithm:
            raise unauthorized("the token's 'alg' is not the algorithm of its key")
        verify = self._compile(key).verifier
        if verify is None:
            raise unauthorized(f"the key '{key.id}' can't verify tokens: it has no usable algorithm and secret")
        return _verified_claims(token, verify, key)

    async def _by_key_set(self, token: str, header: Header) -> _Verified:
        """A token whose issuer publishes its keys: the key here is the one for that issuer, ``kid`` is of the set."""
        key = await self._key_of(parties(read_claims(token)))
        if key is None:
            raise unauthorized("no key has the id that the token names as its 'kid', or is for its 'iss' and 'aud'")
        if header.algorithm not in ((key.algorithm,) if key.algorithm else PUBLIC_ALGORITHMS):
            raise unauthorized("the token's 'alg' is not an algorithm of its key")
        jwk = await self._jwk(key, header.kid, header.algorithm)
        if jwk is None:
            raise unauthorized("the issuer publishes no key of the token's 'kid' and 'alg'")
        return _Verified(key, _verified_claims(token, jwk.verify, key), jwk)

    async def _key_of(self, wanted: list[Party]) -> Key | None:
        """The key for one of the audiences, or else for all of the issuer's tokens.

        Whoever may make keys could name another team's issuer, and an audience that stands before that team's.
        """
        found = [key for party in wanted if (key := await self._directory.key_by_party(party.name)) is not None]
        special = [key for key in found if key.audience is not None]
        if len({await self._team_of(key) for key in special}) > 1:
            raise unauthorized("the token's claim 'aud' has audiences of several teams: it takes those of one")
        return next(iter(special or found), None)

    async def _team_of(self, key: Key) -> str | None:
        app = await self._directory.app(key.app)
        return None if app is None else app.team

    async def _jwk(self, key: Key, kid: str, algorithm: str) -> Jwk | None:
        return None if self._key_sets is None else await self._key_sets.find(key.jwks_url, kid, algorithm)

    def _permissions(self, key: Key, claims: Claims) -> Permissions:
        """What the token allows, within what its key allows."""
        own = self._compile(key).permissions
        if claims.permissions is UNSET:
            return own
        try:
            return Permissions(claims.permissions, within=own)
        except Malformed as e:
            raise unauthorized(f"the token's claim {e.text}") from e

    def _compile(self, key: Key) -> _Compiled:
        known = self._compiled.get(key.id)
        if known is not None and known.key == key:
            return known
        try:
            compiled = _Compiled(key, Permissions(key.permissions), verifier(key.algorithm, key.secret))
        except Malformed as e:
            raise unauthorized(f"the key '{key.id}' is not usable: {e.text}") from e
        self._compiled.put(key.id, compiled)
        return compiled


def _key_end(key: Key) -> float | None:
    """When the key is no longer good, in seconds: it expires, or has been replaced long enough ago."""
    return _earliest(_seconds(key.expires_at), _seconds(key.retire_at))


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _earliest(*times: float | None) -> float | None:
    return min((time for time in times if time is not None), default=None)


def _allowed_client_id(key: Key, asked: str | None) -> str | None:
    if asked is None or key.client_ids is None or not is_client_id(asked):
        return None
    return asked if Pattern(key.client_ids).matches(asked) else None


def _verified_claims(token: str, verify: Verifier, key: Key) -> Claims:
    """The claims, once the signature is verified, from the issuer and for the audience that the key asks for."""
    if not verify(*signed_parts(token)):
        raise unauthorized("the token's signature is not that of its key")
    claims = read_claims(token)
    check_parties(claims, key.issuer, key.audience)
    return claims
