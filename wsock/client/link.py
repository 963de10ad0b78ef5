"""One connection: the upgrade, the text messages, its liveness and its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from autobahn.websocket.protocol import WebSocketProtocol
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall

from wsock.client.errors import ClientCode, ClientError
from wsock.client.frames import PING
from wsock.errors import CloseCode, Code

__all__ = ["Link", "LinkOwner", "Timing", "link_factory"]

_MAX_MESSAGE_BYTES = 2 << 20
_TICK_SECONDS = 5.0
_CODES = {401: Code.UNAUTHORIZED, 403: Code.FORBIDDEN, 429: Code.RATE_LIMITED, 503: Code.UNAVAILABLE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long a connection may take, in seconds."""

    handshake_seconds: float = 10.0
    """From the first byte sent to the end of the upgrade; and, before that, to reach the server."""
    ping_seconds: float = 25.0
    """Between two pings."""
    silence_seconds: float = 60.0
    """Without a byte from the server, after which the connection is aborted."""
    close_seconds: float = 5.0
    """From our close frame to the abort, when the server does not answer it."""
    stable_seconds: float = 10.0
    """What a connection has to last for the next attempt to count as the first one."""


class LinkOwner(Protocol):
    """Whom a link tells."""

    def received(self, link: Link, text: bytes) -> None:
        """A text message."""


class _Refusal(msgspec.Struct):
    error: str = ""
    code: str = ""


class _WebSocket(WebSocketClientProtocol):
    """Autobahn's protocol, which only passes on what happens to it."""

    link: Link

    def abort(self) -> None:
        """Drops the connection at once."""
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        """Twisted's hook."""
        self.link.heard()
        super().dataReceived(data)

    def onOpen(self) -> None:
        """Autobahn's hook."""
        self.link.upgraded()

    def onMessage(self, payload: bytes, isBinary: bool) -> None:  # noqa: N803
        """Autobahn's hook. The server sends no binary messages; one is passed over."""
        if not isBinary:
            self.link.received(payload)

    def failHandshake(self, reason: str) -> None:  # noqa: N802
        """Autobahn's hook: the answer to the upgrade is a refusal or no answer at all."""
        self.link.refused(_refusal(self, reason))
        super().failHandshake(reason)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:  # noqa: N803
        """Autobahn's hook: the connection is lost."""
        self.link.ended(f"{reason or 'closed'} ({code})")


class Link:
    """One connection, from the moment it is made to its end. Every timer of it ends with it."""

    def __init__(self, clock: IReactorTime, timing: Timing, owner: LinkOwner, socket: _WebSocket) -> None:
        self._clock = clock
        self._timing = timing
        self._owner = owner
        self._socket = socket
        self._opening: Deferred[None] = Deferred(lambda _: self.abort())
        self._endings: list[Deferred[str]] = []
        self._end: str | None = None
        self._error: ClientError | None = None
        self._deadline: IDelayedCall | None = clock.callLater(timing.handshake_seconds, self.abort)
        self._heard_at = self._pinged_at = clock.seconds()
        self._ticking = LoopingCall(self._tick)
        self._ticking.clock = clock

    def opened(self) -> Deferred[None]:
        """Fires when the upgrade is accepted, fails with :class:`ClientError` when it is not. To be asked for once."""
        return self._opening

    def closed(self) -> Deferred[str]:
        """Fires with the reason when the connection has ended."""
        ending = Deferred[str](self._endings.remove)
        self._endings.append(ending)
        if self._end is not None:
            self._tell(self._end)
        return ending

    def send(self, text: bytes) -> None:
        """Sends a text message; one that comes too late is dropped."""
        if self._socket.state == WebSocketProtocol.STATE_OPEN:
            self._socket.sendMessage(text, isBinary=False)

    def close(self) -> None:
        """Starts the closing handshake, and aborts the connection when the server does not complete it."""
        if self._end is not None or self._deadline is not None:
            return
        self._stop_ticking()
        self._deadline = self._clock.callLater(self._timing.close_seconds, self.abort)
        self._socket.sendClose(CloseCode.NORMAL.value)

    def abort(self) -> None:
        """Ends the connection at once."""
        if self._end is None:
            self._socket.abort()

    # What the socket tells.

    def heard(self) -> None:
        """Bytes have come: the server is alive."""
        self._heard_at = self._clock.seconds()

    def upgraded(self) -> None:
        """The upgrade is accepted."""
        self._cancel_deadline()
        self._ticking.start(min(_TICK_SECONDS, self._timing.ping_seconds), now=False)
        self._opening.callback(None)

    def refused(self, error: ClientError) -> None:
        """The upgrade is refused; the connection is about to end."""
        self._error = error

    def received(self, text: bytes) -> None:
        """A text message has come."""
        self._owner.received(self, text)

    def ended(self, why: str) -> None:
        """The connection is lost."""
        self._end = why
        self._cancel_deadline()
        self._stop_ticking()
        if not self._opening.called:
            text = f"the connection ended before the upgrade: {why}"
            self._opening.errback(self._error or ClientError(ClientCode.CONNECTION, text))
        self._tell(why)

    def _tell(self, why: str) -> None:
        endings, self._endings = self._endings, []
        for ending in endings:
            ending.callback(why)

    def _tick(self) -> None:
        now = self._clock.seconds()
        if now - self._heard_at >= self._timing.silence_seconds:
            self.abort()
        elif now - self._pinged_at >= self._timing.ping_seconds:
            self._pinged_at = now
            self.send(PING)

    def _cancel_deadline(self) -> None:
        deadline, self._deadline = self._deadline, None
        if deadline is not None and deadline.active():
            deadline.cancel()

    def _stop_ticking(self) -> None:
        if self._ticking.running:
            self._ticking.stop()


def link_factory(url: str, reactor: IReactorTime, timing: Timing, owner: LinkOwner) -> Any:
    """A factory whose protocols have a ``link``.

    None of Autobahn's own timers is used: they run on the global reactor.
    """
    factory = WebSocketClientFactory(url, reactor=reactor, useragent="wsock-client")
    factory.setProtocolOptions(
        maxFramePayloadSize=_MAX_MESSAGE_BYTES,
        maxMessagePayloadSize=_MAX_MESSAGE_BYTES,
        openHandshakeTimeout=0,
        closeHandshakeTimeout=0,
        serverConnectionDropTimeout=0,
        autoPingInterval=0,
    )

    factory.protocol = lambda: _socket(reactor, timing, owner)  # type: ignore[assignment]  # a callable is what is called
    return factory


def _socket(clock: IReactorTime, timing: Timing, owner: LinkOwner) -> _WebSocket:
    socket = _WebSocket()
    socket.link = Link(clock, timing, owner, socket)
    return socket


def _refusal(socket: _WebSocket, reason: str) -> ClientError:
    """The error that the HTTP answer is; its body, if it came along, tells more."""
    status = _status(getattr(socket, "http_status_line", ""))
    if status is None or status == 101:
        return ClientError(ClientCode.CONNECTION, f"the server's answer is no WebSocket upgrade: {reason}")
    body = _body(socket.data.partition(b"\r\n\r\n")[2])
    text = body.error or f"the server refused the upgrade with HTTP status {status}"
    code = body.code or _CODES.get(status, ClientCode.CONNECTION)
    return ClientError(code, text, retry_after=_seconds(socket.http_headers.get("retry-after")), status=status)


def _status(line: str) -> int | None:
    parts = line.split()
    return int(parts[1]) if len(parts) > 1 and parts[1].isdecimal() else None


def _body(data: bytes) -> _Refusal:
    try:
        return msgspec.json.decode(data, type=_Refusal)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return _Refusal()


def _seconds(value: str | None) -> float | None:
    """``Retry-After`` in seconds; its other form, a date, needs a clock that agrees and is passed over."""
    return float(value) if value is not None and value.strip().isdecimal() else None
