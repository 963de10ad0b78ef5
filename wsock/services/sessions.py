"""Sessions of the dashboard: short tokens that say who somebody is, and long ones that renew them.

Theory of operation. A login begins a *family*. It has one refresh token at a time, kept as its hash in the directory,
and any number of session tokens: JWTs that are good for some minutes, kept nowhere. Using the refresh token makes its
successor. That is computed from it with a key of the server, so requests of two tabs at the same moment, on whatever
node, get the same one, and so does a client that missed the answer. Who comes with a refresh token that was replaced
longer ago has stolen it, or was stolen from: the family ends.

A family ends by deleting its records, an account's sessions all by its ``sessions_from`` as well. A session token is
good while its family and account are, as this node remembers them: for less than a second, and not beyond a change that
it was told of.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec.structs import replace

from wsock.errors import Code, Conflict, Refused, Unavailable
from wsock.interfaces import IDirectory
from wsock.records import Account, DashboardSession, Listing
from wsock.services.access import Access, Actor
from wsock.services.audit import Audit
from wsock.services.changes import change, each, remove_all
from wsock.services.directory_cache import Recent
from wsock.services.tokens import hash_token, new_token

__all__ = ["REFRESH_PREFIX", "OpenSession", "Session", "Sessions", "wrong_csrf"]

REFRESH_PREFIX = "wsf"
"""What a refresh token begins with, before an underscore."""

_ALGORITHM, _TYPE, _AUDIENCE = "HS256", "wsock-session+jwt", "wsock-dashboard"
_FRESH_SECONDS = 0.9
_CACHE_SIZE = 10_000
_GRACE_SECONDS = 10
_WATCHED_SECONDS = 86_400
_MAX_TOKEN, _MAX_AGENT = 2048, 200
_MAX_SESSIONS = 100


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class OpenSession:
    """A session that has begun or was renewed, with its tokens; times are in milliseconds.

    ``csrf_token`` is what requests with cookies prove to come from the dashboard with; it lasts as long as the family.
    """

    account: Account
    family: str
    token: str
    expires_at: int
    refresh_token: str
    refresh_expires_at: int
    csrf_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A session token that is good: whose, and of which family."""

    account: Account
    family: str


@dataclass(frozen=True, slots=True)
class _Keys:
    """What is derived from one master key, each for one purpose."""

    token: bytes
    csrf: bytes
    refresh: bytes


@dataclass(frozen=True, slots=True)
class _Known:
    """A family and its account as they were at a time; ``None``: the family has ended."""

    at: float
    account: Account | None


class Sessions:
    """Begins, renews, knows and ends sessions.

    A session token is good for ``token_seconds``, a session that is not renewed for ``session_seconds``.
    """

    def __init__(
        self,
        directory: IDirectory,
        audit: Audit,
        now: Callable[[], float],
        random: Callable[[int], bytes],
        *,
        token_seconds: float = 900,
        session_seconds: float = 14 * 86_400,
    ) -> None:
        self._directory = directory
        self._audit = audit
        self._now = now
        self._random = random
        self._token_ms = int(token_seconds * 1000)
        self._session_ms = int(session_seconds * 1000)
        self._access = Access(directory)
        self._keys: list[_Keys] = []
        self._known: Recent[tuple[str, str], _Known] = Recent(_CACHE_SIZE)

    def unlock(self, master_keys: Sequence[bytes]) -> None:
        """Gives it the master keys, the newest last: that one signs, all of them verify."""
        self._keys = [
            _Keys(_derive(key, b"token"), _derive(key, b"csrf"), _derive(key, b"refresh"))
            for key in reversed(master_keys)
        ]

    async def changed(self) -> None:
        """The directory has changed: nothing that was remembered of it counts any more."""
        self._known = Recent(_CACHE_SIZE)

    # Their beginning.

    async def begin(self, account: Account, *, ip: str = "", user_agent: str = "") -> OpenSession:
        """A new session of somebody who has just proved who they are. Nothing of an earlier one is in it.

        The ``account`` is as it was when they proved it: raises :class:`Refused` with ``unauthorized`` when it was
        disabled since then, or all of its sessions were ended.
        """
        now = self._milliseconds()
        token = new_token(self._random, REFRESH_PREFIX)
        record = DashboardSession(
            id=_id(token),
            account=account.id,
            family=f"ses_{self._random(16).hex()}",
            token_hash=hash_token(token),
            created_at=max(now, account.sessions_from),
            expires_at=now + self._session_ms,
            ip=ip,
            user_agent=_printable(user_agent),
        )
        try:
            await self._directory.add([record])
        except Conflict as e:
            raise _changed_meanwhile() from e  # it was deleted
        current = await self._directory.find(Account, account.id)
        if current is None or not current.is_enabled or current.sessions_from != account.sessions_from:
            await self._end(record.family)
            raise _changed_meanwhile()
        await self._end_oldest(record)
        return self._opened(account, record, token)

    async def refresh(
        self, token: str, *, csrf_token: str | None = None, ip: str = "", user_agent: str = ""
    ) -> OpenSession:
        """The session of a refresh token, with new tokens; the old one is replaced.

        Where a ``csrf_token`` is given it has to be the session's. Raises :class:`Refused` with ``unauthorized`` when
        the token is not good, ``forbidden`` when only the CSRF token isn't. One that was replaced some time ago was
        stolen: its family ends, and that is in the audit log.
        """
        record = await self._directory.find_by(DashboardSession, "token_hash", hash_token(token))
        now = self._milliseconds()
        if record is None or record.is_revoked or record.expires_at <= now or len(token) > _MAX_TOKEN:
            raise _not_good()
        if csrf_token is not None and not self.is_csrf_token(record.family, csrf_token):
            raise wrong_csrf()
        account = await self._directory.find(Account, record.account)
        if account is None or not _is_open(account, record.created_at):
            raise _not_good()
        if record.replaced_at is not None and now - record.replaced_at > _GRACE_SECONDS * 1000:
            await self._end(record.family)
            actor = Actor(account="", ip=ip)
            await self._audit.record(actor, "account.session_stolen", target=account.id, session=record.family)
            raise Refused(Code.UNAUTHORIZED, "this refresh token was used before: the session has ended; log in again")
        return await self._replace(account, record, token, ip, user_agent)

    async def _replace(
        self, account: Account, old: DashboardSession, token: str, ip: str, user_agent: str
    ) -> OpenSession:
        for keys in self._keys if old.replaced_at is not None else ():
            # It may be another master key by which another node made the successor.
            successor = _successor(keys, token)
            made = await self._directory.find_by(DashboardSession, "token_hash", hash_token(successor))
            if made is not None:
                return self._opened(account, made, successor)
        now = self._milliseconds()
        successor = _successor(self._newest(), token)
        new = replace(
            old,
            id=_id(successor),
            version=1,
            token_hash=hash_token(successor),
            expires_at=now + self._session_ms,
            ip=ip,
            user_agent=_printable(user_agent),
            replaced_at=None,
        )
        try:
            await self._directory.add([new])
        except Conflict:
            new = await self._made_meanwhile(new)
        await self._mark_replaced(old, now)
        return self._opened(account, new, successor)

    async def _made_meanwhile(self, new: DashboardSession) -> DashboardSession:
        made = await self._directory.find(DashboardSession, new.id)
        if made is None:
            raise _not_good()  # the account was deleted at this moment
        return made

    async def _mark_replaced(self, old: DashboardSession, now: int) -> None:
        """It is kept for a while, to know it again; the family may have ended meanwhile."""

        def mark(known: DashboardSession) -> DashboardSession:
            if known.replaced_at is not None:
                return known
            return replace(known, replaced_at=now, expires_at=min(known.expires_at, now + _WATCHED_SECONDS * 1000))

        try:
            await change(self._directory, DashboardSession, old.id, mark)
        except Refused as e:
            if isinstance(e, Unavailable):
                raise
            await self._end(old.family)
            raise _not_good() from e

    def _opened(self, account: Account, record: DashboardSession, token: str) -> OpenSession:
        now = self._milliseconds()
        expires_at = now + self._token_ms
        claims = {
            "sub": account.id,
            "sid": record.family,
            "iat": now / 1000,
            "exp": expires_at / 1000,
            "aud": _AUDIENCE,
            "typ": "session",
            "began": record.created_at,
        }
        newest = self._newest()
        return OpenSession(
            account=account,
            family=record.family,
            token=jwt.encode(claims, newest.token, algorithm=_ALGORITHM, headers={"typ": _TYPE}),
            expires_at=expires_at,
            refresh_token=token,
            refresh_expires_at=record.expires_at,
            csrf_token=_csrf(newest, record.family),
        )

    # Their life.

    async def session(self, token: str) -> Session:
        """The session of a session token.

        Raises :class:`Refused` with ``token_expired`` when it is to be renewed, ``unauthorized`` when it is not good or
        the session has ended.
        """
        claims = self._claims(token)
        if self._now() >= claims["exp"]:
            raise Refused(Code.TOKEN_EXPIRED, "the session token has expired: get a new one at /api/auth/refresh")
        family = claims["sid"]
        account = await self._account(family, claims["sub"])
        if account is None or not _is_open(account, claims["began"]):
            raise Refused(Code.UNAUTHORIZED, "this session has ended: log in again")
        return Session(account=account, family=family)

    def is_session_token(self, token: str) -> bool:
        """Whether the text says that it is one; it need not be good."""
        try:
            return len(token) <= _MAX_TOKEN and jwt.get_unverified_header(token).get("typ") == _TYPE
        except jwt.InvalidTokenError:
            return False

    def csrf_token(self, family: str) -> str:
        """The CSRF token of the session."""
        return _csrf(self._newest(), family)

    def is_csrf_token(self, family: str, text: str) -> bool:
        """Whether the text is the CSRF token of the session."""
        given = text.encode("utf-8", "surrogatepass")
        return any([hmac.compare_digest(_csrf(keys, family).encode(), given) for keys in self._keys])

    def _claims(self, token: str) -> dict[str, Any]:
        if not self._keys:
            raise Unavailable("the server is starting: try again", retry_after=1.0)
        if not token.isascii() or not self.is_session_token(token):
            raise _bad_token()
        for keys in self._keys:
            try:
                claims: dict[str, Any] = jwt.decode(
                    token,
                    keys.token,
                    algorithms=[_ALGORITHM],
                    audience=_AUDIENCE,
                    options={"require": ["sub", "sid", "exp", "aud"], "verify_exp": False, "verify_iat": False},
                )
            except jwt.InvalidTokenError:
                continue
            if claims.get("typ") == "session":
                return claims
        raise _bad_token()

    async def _account(self, family: str, account: str) -> Account | None:
        """The account, if its family has not ended."""
        now = self._now()
        known = self._known.get((family, account))
        if known is None or not 0 <= now - known.at < _FRESH_SECONDS:
            remembering = self._known
            known = _Known(now, await self._look_up(family, account))
            remembering.put((family, account), known)  # forgotten if something has changed while it was looked up
        return known.account

    async def _look_up(self, family: str, account: str) -> Account | None:
        page = await self._directory.page(DashboardSession, {"family": family}, None, 1)
        if not any(record.account == account for record in page.items):
            return None
        return await self._directory.find(Account, account)

    # Their end.

    async def sessions(self, actor: Actor, cursor: str | None, limit: int) -> Listing[DashboardSession]:
        """The actor's own sessions that go on, each as its refresh token in use."""
        self._access.require_login(actor)
        page = await self._directory.page(DashboardSession, {"account": actor.account}, cursor, limit)
        now = self._milliseconds()
        alive = [known for known in page.items if known.replaced_at is None and known.expires_at > now]
        return Listing(alive, page.next)

    async def end(self, actor: Actor, family: str) -> None:
        """Ends one of the actor's own sessions, on this node at once, on every one within a second."""
        self._access.require_login(actor)
        page = await self._directory.page(DashboardSession, {"family": family}, None, 1)
        if not any(record.account == actor.account for record in page.items):
            raise Refused(Code.NOT_FOUND, f"you have no session with the id '{family}'")
        await self._end(family)
        await self._audit.record(actor, "account.logout", target=actor.account, session=family)

    async def _end_oldest(self, new: DashboardSession) -> None:
        """An account has so many sessions at most beside a new one: those that have been idle longest end."""
        known = [record async for record in each(self._directory, DashboardSession, "account", new.account)]
        others = [record for record in known if record.replaced_at is None and record.family != new.family]
        others.sort(key=self.last_used_at, reverse=True)
        for record in others[_MAX_SESSIONS - 1 :]:
            await self._end(record.family)

    async def _end(self, family: str) -> None:
        await remove_all(self._directory, DashboardSession, "family", family)
        await self.changed()

    def last_used_at(self, record: DashboardSession) -> int:
        """When the session was begun or renewed last, in milliseconds."""
        return max(record.created_at, record.expires_at - self._session_ms)

    def _newest(self) -> _Keys:
        if not self._keys:
            raise Unavailable("the server is starting: try again", retry_after=1.0)
        return self._keys[0]

    def _milliseconds(self) -> int:
        return int(self._now() * 1000)


def _derive(master_key: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"wsock session " + purpose).derive(master_key)


def _successor(keys: _Keys, token: str) -> str:
    digest = hmac.digest(keys.refresh, token.encode(), "sha256")
    return f"{REFRESH_PREFIX}_{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def _csrf(keys: _Keys, family: str) -> str:
    return base64.urlsafe_b64encode(hmac.digest(keys.csrf, family.encode(), "sha256")).rstrip(b"=").decode()


def _id(token: str) -> str:
    """The id of a refresh token's record: the same wherever it is made, and no way to the token."""
    return f"rft_{hashlib.sha256(b'id ' + token.encode()).hexdigest()[:24]}"


def _is_open(account: Account, began: int) -> bool:
    """Whether a session of the account that began then may go on."""
    return account.is_enabled and began >= account.sessions_from


def _printable(user_agent: str) -> str:
    return "".join(character for character in user_agent if character.isprintable())[:_MAX_AGENT]


def _changed_meanwhile() -> Refused:
    return Refused(Code.UNAUTHORIZED, "the account was changed at this moment: log in again")


def _not_good() -> Refused:
    return Refused(Code.UNAUTHORIZED, "this refresh token is unknown, has expired, or its session has ended: log in")


def wrong_csrf() -> Refused:
    """That a request with a cookie doesn't prove that it is the dashboard's."""
    return Refused(Code.FORBIDDEN, "with a cookie this takes the session's CSRF token in the header X-CSRF-Token")


def _bad_token() -> Refused:
    return Refused(Code.UNAUTHORIZED, "this is no session token of this server: log in at /api/auth/login")
