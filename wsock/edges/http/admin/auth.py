"""Getting in and out: logins, sessions, sign-up, invitations, lost passwords."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from wsock.edges.http.admin.accounts import AccountAnswer, account_answer
from wsock.edges.http.answers import Hinted
from wsock.edges.http.callers import check_is_json
from wsock.edges.http.cookies import REFRESH, cookie, forget_session, keep_session
from wsock.edges.http.operations import ANYONE, LOGIN, Answer, Body, Call, Group, NoBody, NoQuery, operation
from wsock.edges.http.throttle import Throttle
from wsock.errors import Code, Refused
from wsock.records import Account, Role
from wsock.services.accounts import Accounts
from wsock.services.logins import CodeNeeded, Logins
from wsock.services.sessions import OpenSession, Sessions
from wsock.services.teams import Teams

__all__ = ["Auth", "OpenedSession", "Opener"]

Email = Annotated[str, Meta(max_length=320, description="An e-mail address.")]
Password = Annotated[str, Meta(max_length=1024)]
NewPassword = Annotated[str, Meta(max_length=1024, description="10 characters or more, and none of the first guesses.")]
Secret = Annotated[str, Meta(max_length=255)]
Name = Annotated[str, Meta(max_length=200, description="1 to 100 characters in one line.")]


class Login(Body, frozen=True):
    """Who somebody is, and how they prove it. With ``cookie`` the tokens are cookies and not in the answer."""

    email: Email
    password: Password
    code: Annotated[str, Meta(max_length=20, description="The one-time code of the second factor.")] | None = None
    cookie: bool = False


class Renewal(Body, frozen=True):
    """A refresh token; without it the cookie's counts."""

    refresh_token: Secret | None = None


class SignUp(Body, frozen=True):
    """Who wants an account."""

    email: Email
    password: NewPassword
    name: Name
    cookie: bool = False


class Acceptance(Body, frozen=True):
    """The token of an invitation, and what the new account shall be."""

    token: Secret
    password: NewPassword
    name: Name
    cookie: bool = False


class Joining(Body, frozen=True):
    """The token of an invitation."""

    token: Secret


class LostPassword(Body, frozen=True):
    """Whose password is lost."""

    email: Email


class NewPasswordByToken(Body, frozen=True):
    """The token that was mailed, and the new password."""

    token: Secret
    password: NewPassword


class OpenedSession(Answer, frozen=True):
    """A session. ``token`` is a bearer for ``/api/admin`` until ``expires_at``; ``refresh_token`` renews it, once.

    With cookies neither is in the answer, but ``csrf_token``: requests that change something take it in the header
    ``X-CSRF-Token``. Scripts also find it in a cookie.
    """

    account: AccountAnswer
    expires_at: int
    token: str | UnsetType = UNSET
    refresh_token: str | UnsetType = UNSET
    csrf_token: str | UnsetType = UNSET


class MemberAnswer(Answer, frozen=True):
    """A membership that has begun."""

    team: str
    account: str
    role: Role


class ResetSent(Answer, frozen=True):
    """That the address is told, if it has an account."""

    is_sent_if_known: bool


class Opener:
    """Gives sessions to those who come in: in the answer, or as cookies. ``now`` is the time in seconds."""

    def __init__(self, sessions: Sessions, now: Callable[[], float]) -> None:
        self._sessions = sessions
        self._now = now

    async def open(self, call: Call[object, object], account: Account, *, by_cookie: bool) -> OpenedSession:
        """A new session for the account."""
        session = await self._sessions.begin(account, ip=call.ip, user_agent=call.header("user-agent"))
        return self.hand_over(call, session, by_cookie=by_cookie)

    def hand_over(self, call: Call[object, object], session: OpenSession, *, by_cookie: bool) -> OpenedSession:
        """What is answered of the session; cookies, where it is to be cookies, are set."""
        account = account_answer(session.account)
        if by_cookie:
            keep_session(call.request, session, self._now(), secure=call.is_secure)
            return OpenedSession(account=account, expires_at=session.expires_at, csrf_token=session.csrf_token)
        return OpenedSession(
            account=account,
            expires_at=session.expires_at,
            token=session.token,
            refresh_token=session.refresh_token,
        )


class Auth(Group):
    """See the table of the API."""

    tag = "Auth"
    about = (
        "Logging in and out. A login gives a session token for `Authorization: Bearer`, good for some minutes, and a"
        " refresh token, good once, for the next ones. Browsers had better ask for cookies."
    )

    def __init__(
        self,
        logins: Logins,
        accounts: Accounts,
        teams: Teams,
        sessions: Sessions,
        opener: Opener,
        *,
        logins_throttle: Throttle,
        sign_ups_throttle: Throttle,
        resets_throttle: Throttle,
    ) -> None:
        self._logins = logins
        self._accounts = accounts
        self._teams = teams
        self._sessions = sessions
        self._opener = opener
        self._logins_throttle = logins_throttle
        self._sign_ups_throttle = sign_ups_throttle
        self._resets_throttle = resets_throttle

    @operation(
        "POST",
        "/api/auth/login",
        needs=ANYONE,
        errors=(Code.UNAUTHORIZED, Code.FORBIDDEN, Code.RATE_LIMITED),
        example={"email": "admin@localhost", "password": "admin"},
    )
    async def login(self, call: Call[Login, NoQuery]) -> OpenedSession:
        """Logs in.

        When only the one-time code of the second factor is missing, the refusal says so: `"hint": "code_needed"`.
        """
        _check_cookie_wish(call, by_cookie=call.body.cookie)
        await self._logins_throttle.admit(call.request, call.ip)
        body = call.body
        try:
            account = await self._logins.log_in(body.email, body.password, body.code, ip=call.ip)
        except CodeNeeded as e:
            raise Hinted(e, "code_needed") from e
        return await self._opener.open(call, account, by_cookie=body.cookie)

    @operation(
        "POST",
        "/api/auth/refresh",
        needs=ANYONE,
        errors=(Code.UNAUTHORIZED, Code.FORBIDDEN, Code.RATE_LIMITED),
        example={"refreshToken": "wsf_..."},
    )
    async def refresh(self, call: Call[Renewal, NoQuery]) -> OpenedSession:
        """Renews a session by its refresh token, in the body or a cookie; the answer holds the next one.

        With the cookie it takes the CSRF token in the header `X-CSRF-Token`. A refresh token that was used before ends
        the session: it was stolen. Within 10 seconds it does not, and gets the same answer as the first time.
        """
        await self._logins_throttle.admit(call.request, call.ip)
        token, around = call.body.refresh_token, {"ip": call.ip, "user_agent": call.header("user-agent")}
        if token is not None:
            return self._opener.hand_over(call, await self._sessions.refresh(token, **around), by_cookie=False)
        token = cookie(call.request, REFRESH, secure=call.is_secure)
        if not token:
            raise Refused(Code.UNAUTHORIZED, "a refresh token is missing: give it as 'refreshToken', or as the cookie")
        check_is_json(call.request)
        session = await self._sessions.refresh(token, csrf_token=call.header("x-csrf-token"), **around)
        return self._opener.hand_over(call, session, by_cookie=True)

    @operation("POST", "/api/auth/logout", needs=LOGIN, errors=(Code.NOT_FOUND,))
    async def logout(self, call: Call[NoBody, NoQuery]) -> None:
        """Ends the session that asks, on every node within a second."""
        if not call.caller.session:
            raise Refused(Code.FORBIDDEN, "this takes a session: an access token is revoked at /api/admin/tokens")
        await self._sessions.end(call.actor, call.caller.session)
        forget_session(call.request, secure=call.is_secure)

    @operation("POST", "/api/auth/logout-all", needs=LOGIN)
    async def logout_all(self, call: Call[NoBody, NoQuery]) -> None:
        """Signs out everywhere: ends all sessions of the account, on every node within a second."""
        await self._logins.sign_out_everywhere(call.actor)
        await self._sessions.changed()
        forget_session(call.request, secure=call.is_secure)

    @operation(
        "POST",
        "/api/auth/signup",
        status=201,
        needs=ANYONE,
        errors=(Code.FORBIDDEN, Code.CONFLICT, Code.RATE_LIMITED),
        example={"email": "ana@example.org", "password": "correct horse battery", "name": "Ana"},
    )
    async def sign_up(self, call: Call[SignUp, NoQuery]) -> OpenedSession:
        """Makes an account with a team of its own and logs in, where `accounts.open_sign_up` is on."""
        _check_cookie_wish(call, by_cookie=call.body.cookie)
        await self._sign_ups_throttle.admit(call.request, call.ip)
        body = call.body
        account = await self._accounts.sign_up(body.email, body.password, body.name, ip=call.ip)
        return await self._opener.open(call, account, by_cookie=body.cookie)

    @operation(
        "POST",
        "/api/auth/invitations/accept",
        status=201,
        needs=ANYONE,
        errors=(Code.UNAUTHORIZED, Code.CONFLICT, Code.RATE_LIMITED),
        example={"token": "wsi_...", "password": "correct horse battery", "name": "Ana"},
    )
    async def accept(self, call: Call[Acceptance, NoQuery]) -> OpenedSession:
        """Makes an account for the address that was invited, a member of the team, and logs in."""
        _check_cookie_wish(call, by_cookie=call.body.cookie)
        await self._sign_ups_throttle.admit(call.request, call.ip)
        body = call.body
        account = await self._accounts.accept_invitation(body.token, body.password, body.name, ip=call.ip)
        return await self._opener.open(call, account, by_cookie=body.cookie)

    @operation("POST", "/api/auth/invitations/join", needs=LOGIN, errors=(Code.CONFLICT,), example={"token": "wsi_..."})
    async def join(self, call: Call[Joining, NoQuery]) -> MemberAnswer:
        """Makes who is logged in a member of the team that they are invited to."""
        member = await self._teams.join(call.actor, call.body.token)
        return MemberAnswer(team=member.team, account=member.account, role=member.role)

    @operation(
        "POST",
        "/api/auth/reset",
        status=202,
        needs=ANYONE,
        errors=(Code.RATE_LIMITED,),
        example={"email": "ana@example.org"},
    )
    async def reset(self, call: Call[LostPassword, NoQuery]) -> ResetSent:
        """Mails a token to set a new password with, if the address has an account; the answer doesn't tell."""
        await self._resets_throttle.admit(call.request, call.ip)
        self._logins.request_reset(call.body.email, ip=call.ip)
        return ResetSent(is_sent_if_known=True)

    @operation(
        "POST",
        "/api/auth/reset/confirm",
        needs=ANYONE,
        errors=(Code.UNAUTHORIZED, Code.RATE_LIMITED),
        example={"token": "wsr_...", "password": "correct horse battery"},
    )
    async def confirm(self, call: Call[NewPasswordByToken, NoQuery]) -> None:
        """Sets a new password by the token that was mailed, and ends all sessions of the account."""
        await self._resets_throttle.admit(call.request, call.ip)
        await self._logins.reset_password(call.body.token, call.body.password, ip=call.ip)
        await self._sessions.changed()


def _check_cookie_wish(call: Call[object, object], *, by_cookie: bool) -> None:
    """No form of another page may put somebody into a session that is not theirs."""
    if by_cookie:
        check_is_json(call.request)
