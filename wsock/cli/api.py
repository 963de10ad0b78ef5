"""The REST API of a running server, as commands ask it: one request after the other, with a deadline each.

Nothing is followed that redirects, and certificates are verified: a token goes to the server that was named and to no
other one. What goes wrong is an exception that Click shows; no text of one holds a token.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import IO, Any, Protocol
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, ProxyHandler, Request, build_opener

import click

from wsock import __version__
from wsock.cli.output import printable

__all__ = [
    "Api",
    "Credential",
    "Fixed",
    "Refusal",
    "Reply",
    "Transport",
    "Unreachable",
    "at",
    "check_token",
    "check_url",
    "is_loopback",
    "open_transport",
]

_SECONDS = 30.0
_MAX_BYTES = 64 << 20
_PAGE = 100
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


class Refusal(click.ClickException):
    """The server said no. ``code`` is one of the table of codes, ``hint`` what the answer adds to it."""

    exit_code = 1

    def __init__(self, text: str, *, status: int = 0, code: str = "", hint: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        self.hint = hint


class Unreachable(click.ClickException):
    """The server can't be reached, or what answers there is none."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. ``location`` is where a redirect points."""

    status: int
    content: bytes
    location: str = ""


class Transport(Protocol):
    """How a request gets to the server. Raises :class:`Unreachable`."""

    def __call__(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> Reply:
        """The answer, whatever its status."""


class Credential(Protocol):
    """What a request is made with."""

    def token(self) -> str:
        """What stands behind ``Bearer``."""

    def renew(self) -> bool:
        """Whether there is another token, now that the server has refused this one."""


@dataclass(frozen=True, slots=True, repr=False)
class Fixed:
    """An access token, an API key or a JWT: there is no other one."""

    text: str

    def token(self) -> str:
        """The text itself."""
        return self.text

    def renew(self) -> bool:
        """Never."""
        return False


class Api:
    """Asks the server at ``url``; ``credential`` is called for when something is asked with one."""

    def __init__(
        self,
        url: str,
        transport: Transport,
        credential: Callable[[], Credential],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.url = url
        self._transport = transport
        self._credential = credential
        self._headers = headers or {}

    def get(self, path: str, **query: Any) -> Any:
        """Reads; what is ``None`` is left out of the query."""
        return self.ask("GET", path, query=query)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Makes or does something."""
        return self.ask("POST", path, body={} if body is None else body)

    def put(self, path: str, body: Mapping[str, Any]) -> Any:
        """Puts something in the place of what is there."""
        return self.ask("PUT", path, body=body)

    def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        """Changes something."""
        return self.ask("PATCH", path, body=body)

    def delete(self, path: str, **query: Any) -> Any:
        """Deletes or ends something."""
        return self.ask("DELETE", path, query=query)

    def pages(self, path: str, limit: int, **query: Any) -> dict[str, Any]:
        """The first ``limit`` items of a list, 0 for all, in the form of one part of it."""
        items: list[Any] = []
        whole: dict[str, Any] = {}
        cursor: str | None = None
        while True:
            wanted = min(_PAGE, limit - len(items)) if limit else _PAGE
            page = self.get(path, **query, cursor=cursor, limit=wanted)
            items += page["items"]
            cursor = page.get("next")
            # What one part says of itself, such as that a node did not answer, is so for all of it.
            whole = {**page, **{name: False for name, value in whole.items() if value is False}}
            if not cursor or (limit and len(items) >= limit):
                return {**whole, "items": items, "next": cursor}

    def ask(
        self, method: str, path: str, *, body: Mapping[str, Any] | None = None, query: Mapping[str, Any] | None = None
    ) -> Any:
        """What the server answers to this; ``{}`` where it has nothing to say."""
        credential = self._credential()
        reply = self._send(method, path, body, query, credential.token())
        if reply.status == 401 and credential.renew():
            reply = self._send(method, path, body, query, credential.token())
        return self._content(reply)

    def ask_anyone(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The same for what takes no credential."""
        return self._content(self._send(method, path, body, None, ""))

    def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        query: Mapping[str, Any] | None,
        token: str,
    ) -> Reply:
        headers = {"Accept": "application/json", "User-Agent": f"wsock/{__version__}", **self._headers}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        content = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            content = json.dumps(body).encode()
        given = {name: _query_value(value) for name, value in (query or {}).items() if value is not None}
        return self._transport(method, f"{path}?{urlencode(given)}" if given else path, headers, content)

    def _content(self, reply: Reply) -> Any:
        if 300 <= reply.status < 400:
            where = printable(reply.location) or "somewhere else"
            raise Unreachable(f"{self.url} redirects to {where}: if that is the server, give it as --url")
        content = _decoded(reply.content)
        if reply.status < 300:
            if content is None:
                raise Unreachable(f"what answers at {self.url} is no wsock: its answer is not JSON")
            return content
        if not isinstance(content, dict) or "code" not in content:
            raise Unreachable(
                f"{self.url} answers {reply.status}, and not as a wsock does: look at --url, or the proxy"
            )
        raise _refusal(reply.status, content)


def _query_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _decoded(content: bytes) -> Any:
    """The JSON, ``{}`` for nothing at all, or ``None`` for what is no JSON."""
    if not content:
        return {}
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _refusal(status: int, content: Mapping[str, Any]) -> Refusal:
    code, hint = str(content["code"]), str(content.get("hint") or "")
    text = printable(str(content.get("error") or f"the server answered {status}"))
    return Refusal(f"{text} ({printable(code)})", status=status, code=code, hint=hint)


# Places.


def at(*segments: str) -> str:
    """The path of the API that these segments make; each may hold anything but nothing."""
    if not all(segments):
        raise click.UsageError("a name or an id is empty")
    return "/".join(["/api", *(_segment(text) for text in segments)])


def _segment(text: str) -> str:
    # Proxies take dots for directories.
    return text.replace(".", "%2E") if text in (".", "..") else quote(text, safe="")


def check_url(text: str) -> str:
    """The URL of a server in its plain form. Raises :class:`click.UsageError`, which names no password."""
    parts = urlsplit(text)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if parts.scheme not in _SCHEMES or not host or parts.query or parts.fragment:
        raise click.UsageError("the URL of a server takes http://HOST[:PORT] or https://HOST[:PORT]")
    if parts.username is not None or parts.password is not None:
        raise click.UsageError("the URL of a server takes no user and no password: 'wsock login' asks for them")
    name = f"[{host}]" if ":" in host else host
    return f"{_SCHEMES[parts.scheme]}://{name}{'' if port is None else f':{port}'}{parts.path.rstrip('/')}"


def check_token(text: str, name: str) -> str:
    """The token without space around it. Raises :class:`click.UsageError` for what can be none, without showing it."""
    text = text.strip()
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise click.UsageError(f"{name}: this is no token: it takes letters, digits and a few signs in one line")
    return text


def is_loopback(url: str) -> bool:
    """Whether the server is on this machine."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


# The real way.


class _NoRedirects(HTTPRedirectHandler):
    """Hands a redirect out as it is: a token is not for somebody else."""

    def redirect_request(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str) -> None:
        """The standard library's hook."""
        return


def open_transport(url: str, cacert: str | None) -> Transport:
    """The way to the server at ``url``; the certificates in the file ``cacert`` are trusted as well."""
    handlers: list[Any] = [_NoRedirects(), HTTPSHandler(context=_tls(cacert))]
    if is_loopback(url):
        handlers.append(ProxyHandler({}))
    opener = build_opener(*handlers)

    def send(method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> Reply:
        request = Request(url + path, data=body, headers=dict(headers), method=method)  # noqa: S310
        try:
            with opener.open(request, timeout=_SECONDS) as answer:
                return Reply(answer.status, answer.read(_MAX_BYTES))
        except HTTPError as e:
            with e:
                return Reply(e.code, e.read(_MAX_BYTES), e.headers.get("Location") or "")
        except (OSError, HTTPException) as e:
            raise _unreachable(url, e) from e

    return send


def _tls(cacert: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if cacert:
        try:
            context.load_verify_locations(cacert)
        except (OSError, ssl.SSLError) as e:
            raise click.UsageError(f"--cacert {cacert}: no certificates in PEM form can be read there") from e
    return context


def _unreachable(url: str, error: Exception) -> Unreachable:
    reason = error.reason if isinstance(error, URLError) else error
    match reason:
        case ssl.SSLCertVerificationError():
            why = reason.verify_message or "it can't be verified"
            return Unreachable(f"the certificate of {url} is not trusted: {why}; --cacert FILE trusts one of your own")
        case ssl.SSLError():
            return Unreachable(f"{url} can't be spoken to by TLS: is it https:// there?")
        case TimeoutError():
            return Unreachable(
                f"no answer from {url} in {_SECONDS:g} s; what was asked for may have been done all the same"
            )
        case ConnectionRefusedError():
            return Unreachable(f"nothing listens at {url}: start the server, or give another --url")
        case OSError():
            text = reason.strerror or str(reason) or type(reason).__name__
            return Unreachable(f"{url} can't be reached: {printable(text)}; look at --url and the network")
    return Unreachable(f"what answers at {url} does not speak HTTP: give another --url")
