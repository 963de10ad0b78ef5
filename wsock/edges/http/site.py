"""twisted.web's site with our bounds: bodies, time, no access log, no forms, nothing that tells what serves.

Twisted reads a whole body before anybody is asked, and starts its timeout anew with every byte; here a body is refused
as soon as it is known to be too large, and a request must be complete within the time that its first byte started.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.http import HTTPChannel
from twisted.web.resource import IResource

from wsock.errors import Code, Malformed, Refused
from wsock.protocol.handshake import refusal

__all__ = ["Channel", "Request", "Site", "build_site"]

_LINGER_SECONDS = 2.0


def build_site(
    root: IResource, clock: IReactorTime, *, max_body_bytes: int = 1 << 20, timeout_seconds: float = 60.0
) -> Site:
    """A site for the connections that are no WebSocket: ``buildProtocol`` makes what speaks HTTP on one.

    A body has at most ``max_body_bytes``; a request must be complete, and an idle connection used again, within
    ``timeout_seconds``.
    """
    return Site(root, clock, max_body_bytes, timeout_seconds)


class Channel(HTTPChannel):
    """One HTTP/1 connection."""

    site: Site
    transport: Any
    is_over = False
    persistent: bool

    def connectionMade(self) -> None:
        """Twisted's hook."""
        super().connectionMade()
        self.site.channels[self] = None

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Twisted's hook."""
        self.site.channels.pop(self, None)
        super().connectionLost(reason)

    def end(self) -> None:
        """Ends the connection: after the answer that is under way, if there is one."""
        if self._handlingRequest and not self.is_over:
            self.persistent = False
        else:
            self.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        """Twisted's hook: only the first byte of a request restarts the timeout."""
        if self.is_over:
            return
        if not self.requests and not self._buffer:
            self.resetTimeout()
        LineReceiver.dataReceived(self, data)

    def headerReceived(self, line: bytes) -> bool:  # noqa: N802
        """Twisted's hook."""
        try:
            return bool(super().headerReceived(line))
        except ValueError:
            # A Content-Length of more digits than Python makes a number of.
            self._respondToBadRequestAndDisconnect()
            return False

    def allHeadersReceived(self) -> None:  # noqa: N802
        """Twisted's hook: a body that says it is too large is refused before it is read or asked for."""
        if self.length is not None and self.length > self.site.max_body_bytes:
            self.refuse(too_large(self.site.max_body_bytes))
            return
        super().allHeadersReceived()

    def allContentReceived(self) -> None:  # noqa: N802
        """Twisted's hook: a request that was refused on its way is not performed."""
        if not self.is_over:
            super().allContentReceived()

    def refuse(self, refused: Refused) -> None:
        """Answers at once and ends the connection; what still comes is dropped.

        The client is given a moment to read the answer: closing with unread input would reset the connection.
        """
        if self.is_over:
            return
        self.is_over = True
        self.clearLineBuffer()
        self.transport.write(refusal(refused))
        self.setTimeout(_LINGER_SECONDS)

    def timeoutConnection(self) -> None:  # noqa: N802
        """Twisted's hook, without its line in the log for each connection."""
        self._abortingCall = self.callLater(self.abortTimeout, self.forceAbortClient)
        self.loseConnection()

    def forceAbortClient(self) -> None:  # noqa: N802
        """Twisted's hook: the client doesn't even read the end."""
        self._abortingCall = None
        self.transport.abortConnection()

    def _respondToBadRequestAndDisconnect(self) -> None:  # noqa: N802
        self.refuse(Malformed("this is not a valid HTTP/1.1 request"))


class Request(server.Request):
    """One HTTP request; its body is read by whoever it is for, and never parsed as a form."""

    channel: Channel
    content: Any

    def handleContentChunk(self, data: bytes) -> None:  # noqa: N802
        """Twisted's hook: counts a body that did not say its length."""
        if self.channel.is_over:
            return
        limit = self.channel.site.max_body_bytes
        if self.content.tell() + len(data) > limit:
            self.channel.refuse(too_large(limit))
        else:
            self.content.write(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:  # noqa: N802
        """Twisted's hook: the request is complete."""
        self.content.seek(0)
        self.method, self.uri, self.clientproto = command, _origin_form(path), version
        self.path = self.uri.partition(b"?")[0]
        self.args = {}
        self.process()

    def write(self, data: bytes) -> None:
        """Writes some of the answer; nothing in it names the software."""
        self.responseHeaders.removeHeader(b"Server")
        super().write(data)


class Site(server.Site):
    """Builds the channels; see :func:`build_site`."""

    protocol = Channel  # type: ignore[assignment]  # Twisted declares what it wraps for HTTP/2
    requestFactory = Request  # noqa: N815
    noisy = False

    def __init__(self, root: IResource, clock: IReactorTime, max_body_bytes: int, timeout_seconds: float) -> None:
        super().__init__(root, timeout=timeout_seconds, reactor=clock)
        self.max_body_bytes = max_body_bytes
        self.channels: dict[Channel, None] = {}

    def end_connections(self) -> None:
        """Ends the connections that there are: those that wait for an answer get it first."""
        for channel in tuple(self.channels):
            channel.end()

    def getContentFile(self, length: int | None) -> BytesIO:  # noqa: N802
        """Twisted's hook: bodies are bounded, so they need no file."""
        return BytesIO()

    def startFactory(self) -> None:
        """Twisted's hook: there is no access log to open."""

    def stopFactory(self) -> None:
        """Twisted's hook."""

    def log(self, request: Any) -> None:
        """Twisted's hook: no line for each request, and never a query with a credential in it."""

    def acceptableProtocols(self) -> list[bytes]:  # noqa: N802
        """Twisted's hook: HTTP/1.1 only."""
        return [b"http/1.1"]


def too_large(limit: int) -> Refused:
    """That a body exceeds its bound."""
    return Refused(Code.TOO_LARGE, f"the body has more than {limit} bytes (limits.http_body_bytes)")


def _origin_form(target: bytes) -> bytes:
    """The target as a path, also where a client sent the absolute form (RFC 9112 §3.2.2)."""
    if not target.lower().startswith((b"http://", b"https://")):
        return target
    _, slash, path = target.partition(b"://")[2].partition(b"/")
    return slash + path or b"/"
