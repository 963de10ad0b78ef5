"""The cookies of a dashboard's session.

The session's and the refresh token's are for nobody's scripts (``HttpOnly``), and a browser sends none of them along
with what another site made it ask (``SameSite=Strict``). By TLS they are ``Secure``, and their names say so: a browser
takes such a name from nobody who doesn't speak TLS, nor from another host. The CSRF token's cookie is there to be read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from twisted.web.server import Request

from wsock.services.sessions import OpenSession

__all__ = ["CSRF", "REFRESH", "SESSION", "cookie", "forget_session", "keep_session"]

_AUTH = "/api/auth"

_is_plain = re.compile(r"[A-Za-z0-9/_.~-]*").fullmatch


@dataclass(frozen=True, slots=True)
class _Cookie:
    """A cookie: what it is called, how by TLS, and whether scripts may read it."""

    name: str
    prefix: str
    is_hidden: bool = True
    is_for_auth: bool = False

    def named(self, *, secure: bool) -> str:
        return self.prefix + self.name if secure else self.name


SESSION = _Cookie("wsock_session", "__Host-")
REFRESH = _Cookie("wsock_refresh", "__Secure-", is_for_auth=True)
CSRF = _Cookie("wsock_csrf", "__Host-", is_hidden=False)


def cookie(request: Request, kind: _Cookie, *, secure: bool) -> str:
    """The value that came with the request, empty when there is none. By TLS a name without its prefix is no cookie."""
    value = request.getCookie(kind.named(secure=secure).encode("ascii"))
    return "" if value is None else value.decode("latin-1")


def keep_session(request: Request, session: OpenSession, now: float, *, secure: bool) -> None:
    """Gives the tokens of the session to a browser, for as long as they are good."""
    lasts = int(session.refresh_expires_at / 1000 - now)
    _set(request, SESSION, session.token, int(session.expires_at / 1000 - now), secure=secure)
    _set(request, REFRESH, session.refresh_token, lasts, secure=secure)
    _set(request, CSRF, session.csrf_token, lasts, secure=secure)


def forget_session(request: Request, *, secure: bool) -> None:
    """Lets a browser forget all of it."""
    for kind in (SESSION, REFRESH, CSRF):
        _set(request, kind, "", 0, secure=secure)


def _set(request: Request, kind: _Cookie, value: str, seconds: int, *, secure: bool) -> None:
    request.addCookie(
        kind.named(secure=secure),
        value,
        path=_place(request) if kind.is_for_auth else "/",
        max_age=str(max(seconds, 0)),
        secure=secure,
        httpOnly=kind.is_hidden,
        sameSite="strict",
    )


def _place(request: Request) -> str:
    """Where the operations of sessions are: below what the server is mounted at."""
    before = request.uri.partition(b"?")[0].decode("latin-1").partition(_AUTH)[0]
    return f"{before}{_AUTH}" if _is_plain(before) else _AUTH
