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
from typing import Any

import msgspec
from jwt import InvalidTokenError, PyJWS
from jwt.algorithms import get_default_algorithms
from jwt.exceptions import InvalidKeyError
from jwt.utils import base64url_decode
from msgspec import UNSET, UnsetType

from wsock.errors import Code, Malformed, Refused
from wsock.interfaces import App, IDirectory, Key
from wsock.protocol.channels import Pattern, check_channel
from wsock.protocol.permissions import Permissions
from wsock.services.directory_cache import DirectoryCache, Recent

__all__ = ["ALGORITHMS", "Auth", "Credential", "hash_api_key"]

ALGORITHMS = ("HS256", "HS384", "HS512", "RS256", "ES256", "EdDSA")
"""The JWT algorithms that a key may have; it verifies that one and no other."""

LEEWAY_SECONDS = 30.0
"""How far the clocks of issuer and server may differ."""

_MAX_API_KEY = 255
_MAX_TOKEN = 8192
_MAX_KID = 255
_LAST_SECOND = 253_402_300_799.0  # the end of the year 9999; milliseconds of today are far beyond it

_algorithms = {name: algorithm for name, algorithm in get_default_algorithms().items() if name in ALGORITHMS}
_jws = PyJWS(algorithms=ALGORITHMS)


def hash_api_key(text: str) -> str:
    """The SHA-256 of an API key in hex: the only form in which one is stored."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A verified credential.

    ``identity`` is what deduplication goes by: ``sub:`` and the JWT's subject, else ``key:`` and the key's
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


class _Claims(msgspec.Struct, frozen=True, kw_only=True):
    """The claims that are understood (RFC 7519 §4.1); others are ignored."""

    sub: str | UnsetType = UNSET
    exp: float | UnsetType = UNSET
    nbf: float | UnsetType = UNSET
    iat: float | UnsetType = UNSET
    iss: str | UnsetType = UNSET
    aud: str | list[str] | UnsetType = UNSET
    jti: str | UnsetType = UNSET
    permissions: dict[str, list[str]] | UnsetType = UNSET


@dataclass(frozen=True, slots=True)
class _Compiled:
    """What is made of a key once: its permissions, and its verifying key once a token needs it."""

    key: Key
    permissions: Permissions
    verifier: Callable[[bytes, bytes], bool] | None


class Auth:
    """Turns what a client presents into a :class:`Credential`.

    Keys and apps are remembered for ``cache_seconds``: that long may a revoked key still be accepted. Of a
    token that was verified only its times, key and app are checked again. Each memory holds at most
    ``cache_size`` entries. ``accepted`` is called with the id of the key of each credential.
    """

    def __init__(
        self,
        directory: IDirectory,
        now: Callable[[], float],
        *,
        cache_seconds: float = 5.0,
        cache_size: int = 10_000,
        accepted: Callable[[str], None] = lambda key_id: None,
    ) -> None:
        self._now = now
        self._accepted = accepted
        self._directory = DirectoryCache(directory, now, seconds=cache_seconds, size=cache_size)
        self._compiled: Recent[str, _Compiled] = Recent(cache_size)
        self._verified: Recent[bytes, tuple[Key, _Claims]] = Recent(cache_size)

    async def credential(
        self, *, key: str | None = None, token: str | None = None, client_id: str | None = None
    ) -> Credential:
        """The credential of a JWT, or else of an API key; with a token the key isn't looked at.

        ``client_id`` is the one that a client with an API key asks for: it gets it when the key allows it,
        and is anonymous otherwise. Raises :class:`Refused` with ``unauthorized``, ``token_expired``, or
        ``forbidden`` when the app is disabled.
        """
        credential = await self._credential(key, token, client_id)
        self._accepted(credential.key_id)
        return credential

    async def _credential(self, key: str | None, token: str | None, client_id: str | None) -> Credential:
        if token:
            return await self._by_token(token)
        if key:
            return await self._by_key(key, client_id)
        raise _unauthorized("a credential is missing: give an API key as ?key= or a JWT as ?token=")

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
            raise _unauthorized(f"the API key has more than {_MAX_API_KEY} characters")
        digest = hash_api_key(text)
        key = await self._directory.key_by_hash(digest)
        if key is None or not hmac.compare_digest(key.api_key_hash, digest):
            raise _unauthorized("the API key is unknown")
        app = await self._usable(key)
        return Credential(
            app=app.id,
            key_id=key.id,
            identity=f"key:{key.id}",
            client_id=_allowed_client_id(key, client_id),
            subject=None,
            permissions=self._compile(key).permissions,
            expires_at=_key_end(key),
            token_id=None,
            allowed_origins=app.allowed_origins,
        )

    async def _by_token(self, token: str) -> Credential:
        key, claims = await self._verify(token)
        app = await self._usable(key)
        _check_times(claims, self._now())
        subject = claims.sub or None
        return Credential(
            app=app.id,
            key_id=key.id,
            identity=f"sub:{subject}" if subject else f"key:{key.id}",
            client_id=subject,
            subject=subject,
            permissions=self._permissions(key, claims),
            expires_at=_earliest(claims.exp or None, _key_end(key)),
            token_id=claims.jti or None,
            allowed_origins=app.allowed_origins,
        )

    async def _usable(self, key: Key) -> App:
        """The key's app; both are good to use now."""
        if key.is_revoked:
            raise _unauthorized("the key is revoked")
        end = _key_end(key)
        if end is not None and self._now() >= end:
            was_replaced = end == _seconds(key.retire_at)
            raise _unauthorized("the key was replaced: use its successor" if was_replaced else "the key has expired")
        app = await self._directory.app(key.app)
        if app is None:
            raise _unauthorized("the app of the key does not exist")
        if not app.is_enabled:
            raise Refused(Code.FORBIDDEN, f"the app '{app.id}' is disabled")
        return app

    async def _verify(self, token: str) -> tuple[Key, _Claims]:
        """The key that signed the token, and its claims: well-formed, whatever the time is."""
        if len(token) > _MAX_TOKEN:
            raise _unauthorized(f"the token has more than {_MAX_TOKEN} characters")
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._verified.get(digest)
        kid = known[0].id if known is not None else _kid_and_algorithm(token)[0]
        key = await self._directory.key(kid)
        if key is None:
            raise _unauthorized("no key has the id that the token names as its 'kid'")
        if known is not None and known[0] == key:
            return known
        verified = key, self._signed_claims(token, key)
        self._verified.put(digest, verified)
        return verified

    def _signed_claims(self, token: str, key: Key) -> _Claims:
        if _kid_and_algorithm(token)[1] != key.algorithm:
            raise _unauthorized("the token's 'alg' is not the algorithm of its key")
        verifier = self._compile(key).verifier
        if verifier is None:
            raise _unauthorized(f"the key '{key.id}' can't verify tokens: it has no usable algorithm and secret")
        signed, _, signature = token.rpartition(".")
        if not verifier(signed.encode(), base64url_decode(signature)):
            raise _unauthorized("the token's signature is not that of its key")
        return _claims(base64url_decode(signed.partition(".")[2]), key)

    def _permissions(self, key: Key, claims: _Claims) -> Permissions:
        """What the token allows, within what its key allows."""
        own = self._compile(key).permissions
        if claims.permissions is UNSET:
            return own
        try:
            return Permissions(claims.permissions, within=own)
        except Malformed as e:
            raise _unauthorized(f"the token's claim {e.text}") from e

    def _compile(self, key: Key) -> _Compiled:
        known = self._compiled.get(key.id)
        if known is not None and known.key == key:
            return known
        try:
            compiled = _Compiled(key, Permissions(key.permissions), _verifier(key))
        except Malformed as e:
            raise _unauthorized(f"the key '{key.id}' is not usable: {e.text}") from e
        self._compiled.put(key.id, compiled)
        return compiled


def _unauthorized(text: str) -> Refused:
    return Refused(Code.UNAUTHORIZED, text)


def _key_end(key: Key) -> float | None:
    """When the key is no longer good, in seconds: it expires, or has been replaced long enough ago."""
    return _earliest(_seconds(key.expires_at), _seconds(key.retire_at))


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _earliest(*times: float | None) -> float | None:
    return min((time for time in times if time is not None), default=None)


def _is_client_id(text: str) -> bool:
    """Whether the text keeps to the grammar of names: 1 to 255 bytes, no control characters."""
    try:
        check_channel(text)
    except Refused:
        return False
    return True


def _allowed_client_id(key: Key, asked: str | None) -> str | None:
    if asked is None or key.client_ids is None or not _is_client_id(asked):
        return None
    return asked if Pattern(key.client_ids).matches(asked) else None


def _verifier(key: Key) -> Callable[[bytes, bytes], bool] | None:
    """Checks a signature with the key's own algorithm, or ``None`` when the key can't.

    The algorithm comes from the key alone. PyJWT refuses a public key as an HMAC secret besides, so that
    neither the header nor a mistake in the directory lets a token be signed with what everybody may know.
    """
    algorithm = _algorithms.get(key.algorithm)
    if algorithm is None or not key.secret:
        return None
    try:
        prepared: Any = algorithm.prepare_key(key.secret)
    except (InvalidKeyError, ValueError, TypeError):
        return None

    def verify(signed: bytes, signature: bytes) -> bool:
        return algorithm.verify(signed, prepared, signature)

    return verify


def _kid_and_algorithm(token: str) -> tuple[str, str]:
    """What the header of a token of the right form says, not verified (RFC 7515 §4.1)."""
    try:
        header = _jws.get_unverified_header(token) if token.isascii() else {}
    except (InvalidTokenError, RecursionError) as e:
        raise _unauthorized("the token is not a JWT in compact form") from e
    kid, alg = header.get("kid"), header.get("alg")
    if not isinstance(kid, str) or not 0 < len(kid) <= _MAX_KID:
        raise _unauthorized("the token's header takes the id of its key as 'kid'")
    if not isinstance(alg, str):
        raise _unauthorized("the token's header takes its algorithm as 'alg'")
    if "crit" in header or "b64" in header:
        raise _unauthorized("the token's header asks for an extension that is not supported")
    return kid, alg


def _claims(payload: bytes, key: Key) -> _Claims:
    """The claims, each of the right type, and from the issuer and for the audience that the key asks for."""
    try:
        claims = msgspec.json.decode(payload, type=_Claims)
    except msgspec.ValidationError as e:
        raise _unauthorized(f"the token's claims: {e}") from e
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise _unauthorized("the token's claims are not a JSON object") from e
    for name in ("exp", "nbf", "iat"):
        value = getattr(claims, name)
        if value is not UNSET and not 0 < value <= _LAST_SECOND:
            raise _unauthorized(f"the token's claim '{name}' takes seconds since 1970")
    if claims.sub is not UNSET and not _is_client_id(claims.sub):
        raise _unauthorized("the token's claim 'sub' takes 1 to 255 bytes without control characters")
    _check_parties(claims, key)
    return claims


def _check_parties(claims: _Claims, key: Key) -> None:
    if key.issuer is not None and claims.iss != key.issuer:
        raise _unauthorized("the token's claim 'iss' is not the issuer that its key asks for")
    audience = claims.aud if isinstance(claims.aud, list) else [claims.aud]
    if key.audience is not None and key.audience not in audience:
        raise _unauthorized("the token's claim 'aud' lacks the audience that its key asks for")


def _check_times(claims: _Claims, now: float) -> None:
    if claims.exp is not UNSET and now >= claims.exp + LEEWAY_SECONDS:
        raise Refused(Code.TOKEN_EXPIRED, "the token has expired: get a new one")
    for name, value in (("nbf", claims.nbf), ("iat", claims.iat)):
        if value is not UNSET and now < value - LEEWAY_SECONDS:
            raise _unauthorized(f"the token is not valid yet: its claim '{name}' is in the future")
