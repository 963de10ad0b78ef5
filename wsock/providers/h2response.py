"""An answer over HTTP/2 as Twisted's agents give it: a head, and a body that comes as fast as somebody takes it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseFailed
from twisted.web.http import RESPONSES
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IClientRequest, IResponse
from zope.interface import implementer

__all__ = ["ClientRequest", "Response"]


@implementer(IClientRequest)
class ClientRequest:
    """What was asked."""

    def __init__(self, method: bytes, uri: bytes, headers: Headers) -> None:
        self.method = method
        self.absoluteURI = uri
        self.headers = headers


@implementer(IResponse)
class Response:
    """An answer. ``taken`` is told how many octets of flow control a reader took, ``cancel`` that it wants no more."""

    version = (b"HTTP", 2, 0)

    def __init__(
        self,
        code: int,
        headers: Headers,
        request: IClientRequest,
        taken: Callable[[int], None],
        cancel: Callable[[], None],
    ) -> None:
        self.code = code
        self.phrase = RESPONSES.get(code, b"")
        self.headers = headers
        self.length = _length(headers)
        self.request = request
        self.previousResponse: IResponse | None = None
        self._taken = taken
        self._cancel = cancel
        self._chunks: deque[tuple[bytes, int]] = deque()
        self._end: Failure | None = None
        self._reader: Any = None
        self._is_paused = False
        self._is_draining = False

    def setPreviousResponse(self, response: IResponse) -> None:  # noqa: N802
        """See IResponse."""
        self.previousResponse = response

    def deliverBody(self, protocol: Any) -> None:  # noqa: N802
        """See IResponse: once."""
        if self._reader is not None:
            raise RuntimeError("the body of an answer is delivered once")
        self._reader = protocol
        protocol.makeConnection(_BodyTransport(self))
        self._drain()

    # What the connection tells.

    def feed(self, data: bytes, flow: int) -> None:
        """A part of the body, which weighs ``flow`` octets in the stream's window."""
        self._chunks.append((data, flow))
        self._drain()

    def finish(self, reason: Failure | None = None) -> None:
        """Nothing follows: the body is whole, or it ends early for that reason."""
        if self._end is None:
            self._end = Failure(ResponseDone()) if reason is None else Failure(ResponseFailed([reason], self))
            self._drain()

    # What the reader wants.

    def pause(self) -> None:
        """Nothing is delivered until :meth:`resume`; when the stream's window is full, the peer waits too."""
        self._is_paused = True

    def resume(self) -> None:
        """Goes on."""
        self._is_paused = False
        self._drain()

    def stop(self) -> None:
        """The reader wants no more: the peer is told to stop, and the connection stays good for others."""
        self._cancel()
        self._chunks.clear()
        self.resume()
        self.finish(Failure(ConnectionAborted()))

    def _drain(self) -> None:
        # A reader that pauses and resumes while it is given a part must not be given the next one inside of it.
        if self._is_draining or self._reader is None:
            return
        self._is_draining = True
        try:
            while self._chunks and not self._is_paused:
                data, flow = self._chunks.popleft()
                self._taken(flow)
                self._reader.dataReceived(data)
        finally:
            self._is_draining = False
        if self._end is not None and not self._is_paused:
            reader, self._reader = self._reader, _NOBODY
            reader.connectionLost(self._end)


class _Nobody:
    """Reads after the end."""

    def dataReceived(self, data: bytes) -> None:
        """See IProtocol."""

    def connectionLost(self, reason: Failure) -> None:
        """See IProtocol."""


_NOBODY = _Nobody()


@implementer(IPushProducer)
class _BodyTransport:
    """What a body's reader sees as its transport: there is nothing to write to, but it can be held back or ended."""

    disconnecting = False

    def __init__(self, response: Response) -> None:
        self._response = response

    def pauseProducing(self) -> None:  # noqa: N802
        """See IPushProducer."""
        self._response.pause()

    def resumeProducing(self) -> None:  # noqa: N802
        """See IPushProducer."""
        self._response.resume()

    def stopProducing(self) -> None:  # noqa: N802
        """See IProducer."""
        self.disconnecting = True
        self._response.stop()

    loseConnection = stopProducing  # noqa: N815
    abortConnection = stopProducing  # noqa: N815


def _length(headers: Headers) -> Any:
    given = headers.getRawHeaders(b"content-length")
    return int(given[0]) if given and given[0].isdigit() else UNKNOWN_LENGTH
