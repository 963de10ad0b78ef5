"""The root resource: what is asked of the server over HTTP, and who answers it.

``/metrics``, ``/health`` and ``/ready`` are open to whoever reaches the port: they tell numbers and no names. Where
that is too much, a proxy in front keeps them to itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from klein import Klein
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request
from werkzeug.exceptions import MethodNotAllowed, NotFound

from wsock.edges.doorway import Gate
from wsock.edges.http.answers import answers_json, internal_error, json_answer, refused_answer, send
from wsock.edges.http.callers import Callers
from wsock.edges.http.docs_page import DocsPage
from wsock.edges.http.operations import Group
from wsock.edges.http.router import Router
from wsock.edges.http.upgrade import Upgrades, asks_for_websocket
from wsock.errors import Code, Refused
from wsock.protocol.channels import Pattern
from wsock.services.auth import Auth

__all__ = ["HttpEdge"]

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_ALLOWED_HEADERS = b"Authorization, Content-Type, X-App-Id"
_EXPOSED_HEADERS = b"Retry-After, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset"
_PREFLIGHT_SECONDS = 600
_NOT_READY = {
    "starting": "the server is starting: try again",
    "draining": "the server is ending: try again, another one takes over",
    "unavailable": "a store of the server is away: try again",
}


class HttpEdge:
    """All that the server answers over HTTP.

    ``state`` tells ``ready``, ``starting``, ``draining`` or ``unavailable``; ``registry`` holds what ``/metrics``
    shows; pages of ``cors_origins`` (patterns) may use it from a browser; ``trusted_proxies`` is how many proxies
    before the server add to ``X-Forwarded-For``. ``max_body_bytes`` counts where somebody else's site does not
    bound bodies. ``groups`` are the operations of the REST API, and ``callers`` tells who asks for them.
    ``changed`` is awaited after each that changed something of the directory.
    """

    _log = Logger()
    app = Klein()

    def __init__(
        self,
        *,
        auth: Auth,
        gate: Gate,
        state: Callable[[], str],
        registry: CollectorRegistry | None = None,
        cors_origins: Iterable[str] = ("*",),
        trusted_proxies: int = 0,
        max_body_bytes: int = 1 << 20,
        groups: Sequence[Group] = (),
        callers: Callers | None = None,
        changed: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._state = state
        self._registry = registry if registry is not None else CollectorRegistry()
        self._router = Router(
            [*groups, DocsPage(groups)],
            callers or Callers(auth),
            state,
            max_body_bytes=max_body_bytes,
            trusted_proxies=trusted_proxies,
            changed=changed,
        )
        self._root = _Root(self.app.resource(), self._router, Upgrades(gate, trusted_proxies), cors_origins)

    def resource(self) -> IResource:
        """The resource, for a site's root or for a place in somebody else's site: it answers all below it."""
        return self._root

    async def stop(self) -> None:
        """Waits for the requests that are being answered."""
        await self._router.stop()

    @app.route("/health", methods=["GET"])
    @answers_json
    async def health(self, request: Request) -> dict[str, str]:
        """200 as long as the process lives."""
        return {"status": "ok"}

    @app.route("/ready", methods=["GET"])
    def ready(self, request: Request) -> bytes:
        """200 when the server can serve, else 503: take it out of the balancer."""
        state = self._state()
        if state == "ready":
            return json_answer(request, 200, {"status": state})
        request.setHeader(b"Retry-After", b"1")
        text = _NOT_READY.get(state, "the server does not serve now: try again")
        return json_answer(request, 503, {"status": state, "error": text, "code": Code.UNAVAILABLE.value})

    @app.route("/metrics", methods=["GET"])
    def metrics(self, request: Request) -> bytes:
        """The numbers in Prometheus' text format."""
        text = generate_latest(self._registry)
        request.setHeader(b"Content-Type", CONTENT_TYPE_LATEST.encode("ascii"))
        request.setHeader(b"Content-Length", b"%d" % len(text))
        request.setHeader(b"Cache-Control", b"no-store")
        return text

    @app.handle_errors(NotFound)
    def not_found(self, request: Any, failure: Failure) -> bytes:
        """404."""
        return refused_answer(request, Refused(Code.NOT_FOUND, "there is nothing at this path"))

    @app.handle_errors(MethodNotAllowed)
    def not_allowed(self, request: Any, failure: Failure) -> bytes:
        """405, with what is allowed."""
        error = failure.value
        assert isinstance(error, MethodNotAllowed)
        allowed = ", ".join(sorted({*(error.valid_methods or ()), "OPTIONS"}))
        request.setHeader(b"Allow", allowed.encode("ascii"))
        return refused_answer(request, Refused(Code.BAD_REQUEST, f"this path takes {allowed}"), 405)

    @app.handle_errors(Exception)
    def failed(self, request: Any, failure: Failure) -> bytes:
        """500; the details are in the log."""
        self._log.failure("an HTTP request failed", failure=failure)
        return refused_answer(request, internal_error())


class _Root(Resource):
    """Before the router: upgrades, cross-origin headers, and a path that the router can be trusted with."""

    isLeaf = True  # noqa: N815
    _log = Logger()

    def __init__(self, routed: Resource, router: Router, upgrades: Upgrades, cors_origins: Iterable[str]) -> None:
        super().__init__()
        self._routed = routed
        self._router = router
        self._upgrades = upgrades
        self._origins = [Pattern(origin.lower()) for origin in cors_origins]
        self._is_public = any(origin.text == "*" for origin in self._origins)

    def render(self, request: Request) -> int:
        """Twisted's hook."""
        try:
            self._answer(request)
        except Exception:
            self._log.failure("an HTTP request failed")
            if not request.startedWriting:
                send(request, refused_answer(request, internal_error()))
        return NOT_DONE_YET

    def _answer(self, request: Request) -> None:
        if asks_for_websocket(request):
            self._upgrades.accept(request)
            return
        self._share(request)
        method = request.method.decode("latin-1")
        if method == "OPTIONS":
            self._answer_options(request)
        elif method not in (*_METHODS, "HEAD"):
            self._refuse_method(request)
        else:
            _make_routable(request)
            segments = [part.decode("ascii") for part in request.postpath or ()]
            match = self._router.match(segments) or self._router.match(_without_prefix(segments))
            if match is not None:
                self._router.answer(request, match)
            else:
                self._routed.render(request)

    def _share(self, request: Request) -> None:
        """Says whether the page that asks may read the answer."""
        request.setHeader(b"Vary", b"Origin")
        origin = request.getHeader(b"origin")
        if origin is None:
            return
        text = origin.decode("latin-1")
        is_clean = text.isascii() and text.isprintable()
        if self._is_public:
            request.setHeader(b"Access-Control-Allow-Origin", b"*")
        elif is_clean and any(pattern.matches(text.lower()) for pattern in self._origins):
            request.setHeader(b"Access-Control-Allow-Origin", origin)
        else:
            return
        request.setHeader(b"Access-Control-Expose-Headers", _EXPOSED_HEADERS)

    def _answer_options(self, request: Request) -> None:
        request.setResponseCode(204)
        methods = ", ".join(_METHODS).encode("ascii")
        request.setHeader(b"Allow", methods)
        if request.responseHeaders.hasHeader(b"Access-Control-Allow-Origin"):
            request.setHeader(b"Access-Control-Allow-Methods", methods)
            request.setHeader(b"Access-Control-Allow-Headers", _ALLOWED_HEADERS)
            request.setHeader(b"Access-Control-Max-Age", b"%d" % _PREFLIGHT_SECONDS)
        send(request, b"")

    def _refuse_method(self, request: Request) -> None:
        allowed = ", ".join(_METHODS)
        request.setHeader(b"Allow", allowed.encode("ascii"))
        send(request, refused_answer(request, Refused(Code.BAD_REQUEST, f"this server takes {allowed}"), 405))


def _make_routable(request: Request) -> None:
    """The path below the resource as segments in one way of percent-encoding, without empty ones.

    The router sees them encoded, so that a slash in a channel's name is none between segments. It also binds itself
    to the host name and fails with one that is no domain name, or with none: no route depends on it.
    """
    path = request.uri.partition(b"?")[0]
    below = path.split(b"/")[1 + len(request.prepath or ()) :]
    request.prepath = []
    request.postpath = [quote(unquote_to_bytes(part), safe="").encode("ascii") for part in below if part]
    request.requestHeaders.setRawHeaders(b"host", [b"localhost"])


def _without_prefix(segments: list[str]) -> list[str]:
    """The path of pushes behind whatever stands before it: SDKs keep the path of their socket's URL (protocol.md II.5).

    Of other paths nothing is left.
    """
    for start in range(1, len(segments)):
        match segments[start:]:
            case ["api", "push", *_] | ["api", "admin", "apps", _, "push", *_]:
                return segments[start:]
    return []
