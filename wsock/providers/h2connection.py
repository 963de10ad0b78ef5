"""One HTTP/2 connection of a client: streams, flow control, GOAWAY and liveness over h2's state machine (RFC 9113).

It never repeats a request by itself. What the peer surely did not act on goes back to the owner, which may send it
again; all else that does not end in an answer fails, since nobody knows whether it was acted on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import NoSuchStreamError, ProtocolError
from h2.settings import SettingCodes, Settings
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IHandshakeListener, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from zope.interface import implementer

from wsock.providers.h2exchange import ConnectionFailed, Exchange, Limits, StreamFailed
from wsock.providers.h2response import Response

__all__ = ["Link", "Owner"]

_CONNECTION_WINDOW = 1_048_576
_CONNECTION_STEP = 262_144
_STREAM_STEP = 16_384
_LAST_STREAM = 2**31 - 1
_MAX_DETAIL = 200
_SLICE = 16
_SETTINGS = {SettingCodes.ENABLE_PUSH: 0, SettingCodes.MAX_HEADER_LIST_SIZE: 65_536}


class Owner(Protocol):
    """Who gives a connection its requests."""

    def pump(self) -> None:
        """There may be room for requests, or the connection takes no more."""

    def refused(self, exchange: Exchange) -> None:
        """The peer did not act on this one."""

    def lost(self, link: Link) -> None:
        """The connection is no more."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Stream:
    id: int
    exchange: Exchange
    unsent: memoryview
    response: Response | None = None
    unacknowledged: int = 0


class _PatientH2(H2Connection):
    """Goes on after a graceful GOAWAY.

    RFC 9113 §6.8 lets requests up to the last stream be answered after one. h2 takes every GOAWAY for the end
    (python-hyper/h2#1181), and what it had to send, acknowledgements among it, for lost.
    """

    def _receive_goaway_frame(self, frame: Any) -> Any:
        state, unsent = self.state_machine.state, bytes(self._data_to_send)
        result = super()._receive_goaway_frame(frame)
        if frame.error_code == ErrorCodes.NO_ERROR:
            self.state_machine.state = state
            self._data_to_send = bytearray(unsent)
        return result


@implementer(IHandshakeListener, IPushProducer)
class Link(TwistedProtocol):
    """A connection. ``ready`` fires when requests may be sent: after the TLS handshake and the peer's settings."""

    transport: Any = None

    def __init__(self, owner: Owner, clock: IReactorTime, limits: Limits) -> None:
        self.ready: Deferred[Link] = Deferred(lambda _: self.abort(ConnectionFailed("nobody wants it any more")))
        self.is_draining = False
        self._owner = owner
        self._clock = clock
        self._limits = limits
        config = H2Configuration(client_side=True, header_encoding=None, normalize_outbound_headers=False)
        self._h2 = _PatientH2(config)
        self._h2.local_settings = Settings(client=True, initial_values=_SETTINGS)
        self._streams: dict[int, _Stream] = {}
        self._blocked: dict[int, _Stream] = {}
        self._ceiling: int | None = None
        self._unacknowledged = 0
        self._is_choked = False
        self._is_heard = False
        self._error: Exception | None = None
        self._idle_since = clock.seconds()
        self._timer: IDelayedCall | None = None
        self._events: deque[Event] = deque()
        self._working: IDelayedCall | None = None
        self._is_lost = False

    # What the owner does.

    @property
    def has_room(self) -> bool:
        """Whether a request may be started now."""
        can_send = self._is_usable and not self.is_draining and not self._is_choked
        return can_send and len(self._streams) < self._room()

    def start(self, exchange: Exchange) -> None:
        """Sends a request; only when there is room."""
        stream_id = self._h2.get_next_available_stream_id()
        self.is_draining = stream_id + 2 > _LAST_STREAM
        stream = _Stream(id=stream_id, exchange=exchange, unsent=memoryview(exchange.body))
        try:
            self._h2.send_headers(stream_id, exchange.head, end_stream=not exchange.body)
        except ProtocolError as e:
            # What h2 had encoded of the head before it refused it is in its table, but never sent: the peer could read
            # no other head.
            self.is_draining = True
            exchange.fail(Failure(e))
            self._end_if_drained()
            return
        self._streams[stream_id] = stream
        exchange.stop = lambda: self._reset(stream)
        self._send_body(stream)
        self._flush()

    def close(self) -> None:
        """Ends the connection; what is on its way fails."""
        self.abort(ConnectionFailed("the client ended the connection"))

    def abort(self, error: Exception) -> None:
        """Ends the connection for that reason."""
        self.is_draining = True
        self._error = self._error or error
        if self.transport is not None and not self._is_lost:
            self.transport.abortConnection()

    # What Twisted tells.

    def connectionMade(self) -> None:
        """Twisted's hook: TCP is there, TLS is not. Until the peer's settings are, all of it has one time limit."""
        self._set_timer(self._limits.setup_seconds, self._too_slow)

    def handshakeCompleted(self) -> None:  # noqa: N802
        """Twisted's hook. A server that knows no ALPN has none negotiated."""
        protocol = self.transport.negotiatedProtocol
        if protocol != b"h2":
            self.abort(ConnectionFailed("the server does not speak HTTP/2"))
            return
        self.transport.registerProducer(self, True)
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(_CONNECTION_WINDOW)
        self._flush()

    def dataReceived(self, data: bytes) -> None:
        """Twisted's hook."""
        self._is_heard = True
        try:
            events = self._h2.receive_data(data)
        except ProtocolError as e:
            self._flush()
            self.abort(ConnectionFailed(f"the server broke HTTP/2: {e}"))
            return
        self._events.extend(events)
        if self._working is None:
            self._work()

    def connectionLost(self, reason: Failure = Failure(ConnectionFailed())) -> None:  # noqa: B008  # Twisted's
        """Twisted's hook."""
        self.is_draining = self._is_lost = True
        for call in (self._timer, self._working):
            if call is not None and call.active():
                call.cancel()
        while self._events:
            # What the peer said before the end counts.
            self._take(self._events.popleft())
        why = reason if self._error is None else Failure(self._error)
        if not self.ready.called:
            self.ready.errback(why)
        streams, self._streams = list(self._streams.values()), {}
        self._blocked.clear()
        for stream in streams:
            self._fail(stream, why)
        self._owner.lost(self)

    def pauseProducing(self) -> None:  # noqa: N802
        """See IPushProducer: the network takes no more for now."""
        self._is_choked = True

    def resumeProducing(self) -> None:  # noqa: N802
        """See IPushProducer."""
        self._is_choked = False
        self._resume()
        self._flush()
        self._owner.pump()

    def stopProducing(self) -> None:  # noqa: N802
        """See IProducer: connectionLost follows."""

    # Events.

    def _work(self) -> None:
        """Tells what came, some answers at a time: whoever waits for one does something then, and others wait for it.

        How much can be left for later is bounded by the windows and by the streams.
        """
        self._working = None
        answers = 0
        while self._events and answers < _SLICE:
            event = self._events.popleft()
            answers += isinstance(event, ResponseReceived)
            self._take(event)
        if self._events:
            self._working = self._clock.callLater(0, self._work_on)
        self._flush()
        self._end_if_drained()
        self._owner.pump()

    def _work_on(self) -> None:
        try:
            self._work()
        except Exception:
            # As Twisted does with a protocol that fails in dataReceived: nobody waits for what is left.
            self.abort(ConnectionFailed("a reader of an answer failed"))
            raise

    def _take(self, event: Event) -> None:
        match event:
            case ResponseReceived():
                self._answer(event)
            case DataReceived():
                self._receive(event)
            case StreamEnded():
                self._finish(event.stream_id)
            case StreamReset():
                self._was_reset(event)
            case WindowUpdated():
                self._resume()
            case RemoteSettingsChanged():
                self._settle()
            case ConnectionTerminated():
                self._go_away(event)

    def _settle(self) -> None:
        """The peer's settings hold from now on; nothing is sent before the first ones, which may allow one stream."""
        self._ceiling = None
        self._resume()
        if not self.ready.called:
            self._set_timer(self._limits.ping_after, self._check_alive)
            self.ready.callback(self)

    def _answer(self, event: ResponseReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None:
            return
        headers, status = Headers(), 0
        for name, value in event.headers:
            if name == b":status":
                status = int(value)
            else:
                headers.addRawHeader(name, value)
        exchange = stream.exchange
        stream.response = Response(
            status, headers, exchange.request, lambda flow: self._taken(stream, flow), lambda: self._reset(stream)
        )
        exchange.stop = None
        exchange.answered.callback(stream.response)

    def _receive(self, event: DataReceived) -> None:
        # The connection's window is given back at once, the stream's when somebody reads: an answer that nobody reads
        # would stall all others otherwise.
        flow = event.flow_controlled_length or 0
        self._unacknowledged += flow
        if self._unacknowledged >= _CONNECTION_STEP and self._is_usable:
            self._h2.increment_flow_control_window(self._unacknowledged)
            self._unacknowledged = 0
        stream = self._streams.get(event.stream_id)
        if stream is not None and stream.response is not None:
            stream.response.feed(event.data, flow)

    def _taken(self, stream: _Stream, flow: int) -> None:
        stream.unacknowledged += flow
        if stream.unacknowledged >= _STREAM_STEP and stream.id in self._streams and self._is_usable:
            # What came at once was all taken in before the first of it is told: the stream may be over for h2.
            with suppress(NoSuchStreamError):
                self._h2.increment_flow_control_window(stream.unacknowledged, stream.id)
            stream.unacknowledged = 0
            self._flush()

    def _finish(self, stream_id: int) -> None:
        stream = self._forget(stream_id)
        if stream is None or stream.response is None:
            return
        if stream.unsent and self._is_usable:
            # It answered without having read all (RFC 9113 §8.1): the rest is of no use to it.
            with suppress(NoSuchStreamError):
                self._h2.reset_stream(stream_id, ErrorCodes.NO_ERROR)
        if self._ceiling is not None:
            self._ceiling += 1
        stream.response.finish()

    def _was_reset(self, event: StreamReset) -> None:
        stream = self._forget(event.stream_id)
        if stream is None:
            return
        if event.error_code == ErrorCodes.REFUSED_STREAM and stream.response is None:
            # It takes fewer than its settings say, or said so too late: not more than now, until it proves otherwise.
            self._ceiling = max(1, len(self._streams))
            self._owner.refused(stream.exchange)
            return
        self._fail(stream, Failure(StreamFailed(int(event.error_code or 0))))

    def _go_away(self, event: ConnectionTerminated) -> None:
        """No new requests. Those above the last stream were not acted on (RFC 9113 §6.8), the others go on."""
        self.is_draining = True
        last = event.last_stream_id or 0
        for stream_id in [id for id in self._streams if id > last]:
            stream = self._streams[stream_id]
            if stream.response is None:
                self._forget(stream_id)
                self._owner.refused(stream.exchange)
        if event.error_code != ErrorCodes.NO_ERROR:
            said = (event.additional_data or b"")[:_MAX_DETAIL].decode("utf-8", "replace")
            self.abort(ConnectionFailed(f"the server ended the connection with {event.error_code!r} {said}"))

    # Sending.

    def _room(self) -> int:
        room = min(self._h2.remote_settings.max_concurrent_streams, self._limits.max_streams)
        return room if self._ceiling is None else min(room, self._ceiling)

    def _send_body(self, stream: _Stream) -> None:
        """As much as the windows allow; the rest waits."""
        while stream.unsent:
            window = self._h2.local_flow_control_window(stream.id)
            size = min(window, self._h2.max_outbound_frame_size, len(stream.unsent))
            if size <= 0 or self._is_choked:
                self._blocked[stream.id] = stream
                return
            part, stream.unsent = stream.unsent[:size], stream.unsent[size:]
            self._h2.send_data(stream.id, bytes(part), end_stream=not stream.unsent)
        self._blocked.pop(stream.id, None)

    @property
    def _is_usable(self) -> bool:
        """Whether frames may be sent: what came with the peer's last frame is still told after that."""
        return self._error is None and self._h2.state_machine.state is not ConnectionState.CLOSED

    def _resume(self) -> None:
        if not self._is_usable:
            return
        for stream in list(self._blocked.values()):
            with suppress(NoSuchStreamError):
                self._send_body(stream)

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data and self.transport is not None:
            self.transport.write(data)

    # Ending streams.

    def _reset(self, stream: _Stream) -> None:
        """Nobody wants the answer: the stream ends, the connection stays."""
        if self._forget(stream.id) is None or not self._is_usable:
            return
        with suppress(NoSuchStreamError):
            self._h2.reset_stream(stream.id, ErrorCodes.CANCEL)
        self._flush()
        self._end_if_drained()
        self._owner.pump()

    def _end_if_drained(self) -> None:
        if self.is_draining and not self._streams:
            self.abort(ConnectionFailed("the server ended the connection"))

    def _forget(self, stream_id: int) -> _Stream | None:
        stream = self._streams.pop(stream_id, None)
        self._blocked.pop(stream_id, None)
        self._idle_since = self._clock.seconds()
        return stream

    def _fail(self, stream: _Stream, reason: Failure) -> None:
        if stream.response is not None:
            stream.response.finish(reason)
        else:
            stream.exchange.fail(reason)

    # Liveness.

    def _set_timer(self, seconds: float, then: Callable[[], None]) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = self._clock.callLater(seconds, then)

    def _too_slow(self) -> None:
        self.abort(ConnectionFailed(f"the server did not speak HTTP/2 within {self._limits.setup_seconds:g} s"))

    def _check_alive(self) -> None:
        if not self._streams and self._clock.seconds() - self._idle_since >= self._limits.idle_seconds:
            self.close()
            return
        if self._is_heard:
            self._is_heard = False
            self._set_timer(self._limits.ping_after, self._check_alive)
            return
        self._h2.ping(b"liveness")
        self._flush()
        self._set_timer(self._limits.ping_within, self._check_ping)

    def _check_ping(self) -> None:
        if self._is_heard:
            self._check_alive()
        else:
            self.abort(
                ConnectionFailed(f"the server is silent; a PING had no answer in {self._limits.ping_within:g} s")
            )
