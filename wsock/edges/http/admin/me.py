"""One's own account: its name, its password and second factor, its sessions."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from wsock.edges.http.admin.accounts import AccountAnswer, account_answer
from wsock.edges.http.admin.auth import Name, NewPassword, OpenedSession, Opener, Password
from wsock.edges.http.operations import (
    LOGIN,
    Answer,
    Body,
    Call,
    Group,
    Items,
    NoBody,
    NoQuery,
    Page,
    Version,
    operation,
)
from wsock.errors import Code
from wsock.services.accounts import Accounts
from wsock.services.logins import Logins
from wsock.services.sessions import Sessions

__all__ = ["Me"]

OneTimeCode = Annotated[str, Meta(max_length=20, description="The six digits that the app shows.")]


class Self(Answer, frozen=True):
    """Who is logged in. ``session`` is absent with an access token, ``csrf_token`` with everything but a cookie."""

    account: AccountAnswer
    session: str | UnsetType = UNSET
    csrf_token: str | UnsetType = UNSET


class Rename(Body, frozen=True):
    """Another name."""

    name: Name
    version: Version | None = None


class PasswordChange(Body, frozen=True):
    """The password so far, and the new one."""

    password: Password
    new_password: NewPassword


class Totp(Answer, frozen=True):
    """A secret for an app that makes one-time codes; ``uri`` is what a QR code for it holds."""

    secret: str
    uri: str


class TotpConfirmation(Body, frozen=True):
    """The secret that was offered, a code of it, and the password."""

    secret: Annotated[str, Meta(max_length=64)]
    code: OneTimeCode
    password: Password


class TotpRemoval(Body, frozen=True):
    """The password and a code."""

    password: Password
    code: OneTimeCode = ""


class SessionAnswer(Answer, frozen=True):
    """A session that goes on. ``ip`` and ``user_agent`` are of its last renewal; ``is_current``: it is this one."""

    id: str
    created_at: int
    last_used_at: int
    expires_at: int
    ip: str
    user_agent: str
    is_current: bool


class Me(Group):
    """One's own account."""

    tag = "Own account"
    about = "The account of whoever is logged in."

    def __init__(self, accounts: Accounts, logins: Logins, sessions: Sessions, opener: Opener) -> None:
        self._accounts = accounts
        self._logins = logins
        self._sessions = sessions
        self._opener = opener

    @operation("GET", "/api/auth/me", needs=LOGIN)
    async def me(self, call: Call[NoBody, NoQuery]) -> Self:
        """Tells who is logged in."""
        caller = call.caller
        return Self(
            account=account_answer(await self._accounts.account(call.actor)),
            session=caller.session or UNSET,
            csrf_token=self._sessions.csrf_token(caller.session) if caller.by_cookie else UNSET,
        )

    @operation("PATCH", "/api/auth/me", needs=LOGIN, errors=(Code.CONFLICT,), example={"name": "Ana"})
    async def rename(self, call: Call[Rename, NoQuery]) -> AccountAnswer:
        """Changes one's name."""
        return account_answer(await self._accounts.rename(call.actor, call.body.name, call.body.version))

    @operation(
        "POST",
        "/api/auth/me/password",
        needs=LOGIN,
        errors=(Code.RATE_LIMITED,),
        example={"password": "correct horse battery", "newPassword": "staple battery horse"},
    )
    async def change_password(self, call: Call[PasswordChange, NoQuery]) -> OpenedSession:
        """Changes one's password. All sessions end, and this one goes on as a new one."""
        account = await self._logins.change_password(call.actor, call.body.password, call.body.new_password)
        await self._sessions.changed()
        return await self._opener.open(call, account, by_cookie=call.caller.by_cookie)

    @operation("POST", "/api/auth/me/totp", needs=LOGIN)
    async def offer_totp(self, call: Call[NoBody, NoQuery]) -> Totp:
        """Offers a secret for a second factor; it is in use once it is confirmed."""
        offer = await self._logins.offer_totp(call.actor)
        return Totp(secret=offer.secret, uri=offer.uri)

    @operation(
        "POST",
        "/api/auth/me/totp/confirm",
        needs=LOGIN,
        errors=(Code.CONFLICT, Code.RATE_LIMITED),
        example={"secret": "A" * 32, "code": "000000", "password": "correct horse battery"},
    )
    async def enable_totp(self, call: Call[TotpConfirmation, NoQuery]) -> AccountAnswer:
        """Puts the second factor into use: from now on logins take a code as well."""
        body = call.body
        return account_answer(await self._logins.enable_totp(call.actor, body.secret, body.code, body.password))

    @operation(
        "DELETE",
        "/api/auth/me/totp",
        needs=LOGIN,
        errors=(Code.RATE_LIMITED,),
        example={"password": "correct horse battery", "code": "000000"},
    )
    async def disable_totp(self, call: Call[TotpRemoval, NoQuery]) -> None:
        """Takes the second factor out of use."""
        await self._logins.disable_totp(call.actor, call.body.password, call.body.code)

    @operation("GET", "/api/auth/me/sessions", needs=LOGIN)
    async def sessions(self, call: Call[NoBody, Page]) -> Items[SessionAnswer]:
        """Lists one's sessions. A part may have fewer than the limit though another one follows."""
        page = await self._sessions.sessions(call.actor, call.query.cursor, call.query.limit)
        current = call.caller.session
        items = [
            SessionAnswer(
                id=known.family,
                created_at=known.created_at,
                last_used_at=self._sessions.last_used_at(known),
                expires_at=known.expires_at,
                ip=known.ip,
                user_agent=known.user_agent,
                is_current=known.family == current,
            )
            for known in page.items
        ]
        return Items(items, page.next)

    @operation("DELETE", "/api/auth/me/sessions/{sessionId}", needs=LOGIN)
    async def end_session(self, call: Call[NoBody, NoQuery]) -> None:
        """Ends one of one's sessions, on every node within a second."""
        await self._sessions.end(call.actor, call.path["sessionId"])
