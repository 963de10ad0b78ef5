"""Who sends a request: sessions, access tokens, API keys and JWTs, in headers and cookies.

A session comes as ``Authorization: Bearer`` or as a cookie. A browser sends cookies by itself, whichever page made it
ask; so with one, whatever changes something takes the CSRF token in a header, and a body that is called JSON: no form
of another page can send those.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from twisted.web.server import Request

from wsock.edges.gate import split_bearer
from wsock.edges.http.cookies import SESSION, cookie
from wsock.edges.http.throttle import Throttle
from wsock.errors import Code, Refused
from wsock.services.access import Actor
from wsock.services.access_tokens import TOKEN_PREFIX, AccessTokens
from wsock.services.auth import Auth, Credential
from wsock.services.sessions import Session, Sessions, wrong_csrf

__all__ = ["Caller", "Callers", "check_is_json", "client_address", "header", "is_secure"]

_SAFE = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who is logged in. ``session`` is the id of the session, empty with an access token."""

    actor: Actor
    session: str = ""
    by_cookie: bool = False


class Callers:
    """Tells who asks. Without ``sessions`` and ``access_tokens`` there are no accounts, and nobody is logged in.

    ``throttle`` bounds the requests of each account, ``questions`` what each account or key asks all nodes.
    """

    def __init__(
        self,
        auth: Auth,
        sessions: Sessions | None = None,
        access_tokens: AccessTokens | None = None,
        throttle: Throttle | None = None,
        questions: Throttle | None = None,
    ) -> None:
        self._auth = auth
        self._throttle = throttle
        self._questions = questions
        self._sessions = sessions
        self._access_tokens = access_tokens

    async def caller(self, request: Request, ip: str, *, secure: bool) -> Caller:
        """Who is logged in: by an access token, a session token, or a session's cookie.

        Raises :class:`Refused` with ``unauthorized``, ``token_expired``, ``rate_limited``, or ``forbidden`` for a
        request with a cookie that may be another page's.
        """
        caller = await self._caller(request, ip, secure=secure)
        if self._throttle is not None:
            await self._throttle.admit(request, caller.actor.account)
        return caller

    async def _caller(self, request: Request, ip: str, *, secure: bool) -> Caller:
        if self._sessions is None or self._access_tokens is None:
            raise Refused(Code.UNAUTHORIZED, "this server has no accounts to log in with")
        bearer = _bearer(request)
        if bearer.startswith(f"{TOKEN_PREFIX}_"):
            return Caller(actor=await self._access_tokens.actor(bearer, ip=ip))
        if bearer:
            if not self._sessions.is_session_token(bearer):
                raise Refused(
                    Code.UNAUTHORIZED,
                    "this takes a login, not an app's credential: give a session token of /api/auth/login or an access"
                    " token as 'Authorization: Bearer ...'",
                )
            session = await self._sessions.session(bearer)
            return _caller(session, ip)
        token = cookie(request, SESSION, secure=secure)
        if not token:
            raise Refused(Code.UNAUTHORIZED, "this takes a login: POST /api/auth/login gives a token to come with")
        session = await self._sessions.session(token)
        self.check_page(request, session.family)
        return replace(_caller(session, ip), by_cookie=True)

    def check_page(self, request: Request, family: str) -> None:
        """Refuses with ``forbidden`` what may be the doing of another page.

        With a cookie, a request that changes something takes the CSRF token of its session.
        """
        if request.method.decode("latin-1") in _SAFE:
            return
        check_is_json(request)
        assert self._sessions is not None, "there are cookies of sessions only"
        if not self._sessions.is_csrf_token(family, header(request, "x-csrf-token")):
            raise wrong_csrf()

    def is_login(self, request: Request, *, secure: bool) -> bool:
        """Whether who asks comes as a person would, with a session or an access token, and not as an app does."""
        bearer = _bearer(request)
        if not bearer:
            return bool(cookie(request, SESSION, secure=secure))
        is_session = self._sessions is not None and self._sessions.is_session_token(bearer)
        return is_session or bearer.startswith(f"{TOKEN_PREFIX}_")

    async def admit_question(self, request: Request, caller: Caller | None, credential: Credential | None) -> None:
        """Counts a question to all nodes. Raises :class:`Refused` with ``rate_limited`` for one too many."""
        if self._questions is None:
            return
        if credential is not None:
            await self._questions.admit(request, f"key:{credential.key_id}")
        elif caller is not None:
            await self._questions.admit(request, f"account:{caller.actor.account}")

    async def credential(self, request: Request) -> Credential:
        """The credential of an API key or a JWT of an app."""
        bearer = _bearer(request)
        if not bearer:
            text = "a credential is missing: give an API key or a JWT as 'Authorization: Bearer ...'"
            raise Refused(Code.UNAUTHORIZED, text)
        token, key = split_bearer(bearer)
        credential = await self._auth.credential(key=key, token=token)
        self._auth.check_origin(credential, header(request, "origin") or None)
        app = header(request, "x-app-id")
        if app and app != credential.app:
            raise Refused(Code.FORBIDDEN, "the credential is not one of the app that X-App-Id names")
        return credential


def _caller(session: Session, ip: str) -> Caller:
    return Caller(actor=Actor.of(session.account, ip), session=session.family)


def check_is_json(request: Request) -> None:
    """Refuses a body that is not called JSON: a form or a script of another page could have sent it."""
    kind = header(request, "content-type").partition(";")[0].strip().lower()
    if kind != "application/json" and (kind or _has_body(request)):
        raise Refused(Code.BAD_REQUEST, "with cookies a body takes 'Content-Type: application/json'")


def _has_body(request: Request) -> bool:
    content: Any = request.content
    content.seek(0)
    return bool(content.read(1))


def header(request: Request, name: str) -> str:
    """A header of the request, empty when there is none."""
    value = request.getHeader(name.encode("ascii"))
    return "" if value is None else value.decode("latin-1").strip()


def _bearer(request: Request) -> str:
    """The bearer credential, empty when there is none. Another scheme is none of ours."""
    scheme, _, text = header(request, "authorization").partition(" ")
    return text.strip() if scheme.lower() == "bearer" else ""


def client_address(request: Request, trusted_proxies: int) -> str:
    """Where the request comes from: by as many hops of ``X-Forwarded-For`` as there are trusted proxies."""
    if trusted_proxies:
        values = request.requestHeaders.getRawHeaders(b"x-forwarded-for", [])
        hops = [part.strip() for part in b",".join(values).decode("latin-1").split(",")]
        if len(hops) >= trusted_proxies and hops[-trusted_proxies]:
            return hops[-trusted_proxies]
    host: str = getattr(request.client, "host", "local")
    return host


def is_secure(request: Request, trusted_proxies: int) -> bool:
    """Whether the client speaks TLS, to the server or to a trusted proxy."""
    if request.isSecure():
        return True
    return bool(trusted_proxies) and header(request, "x-forwarded-proto").lower() == "https"
