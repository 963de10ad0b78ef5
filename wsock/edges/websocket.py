"""A WebSocket connection: bytes to requests, requests to the verbs, endings to the peer.

Complete masked text frames are read here; every other frame goes through Autobahn's parser (:mod:`wsock.edges.parser`).
Requests that are in order start one after the other; publishes start at once and are answered as the broker
answers. When too many are under way the connection is not read any further: nothing is ever refused for that.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any
from typing import Protocol as Typing

from twisted.internet import tcp
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from wsock.edges.crowds import Crowd
from wsock.edges.outlet import DeflatingOutlet, Held, TransportOutlet
from wsock.edges.parser import FrameParser
from wsock.errors import CloseCode, Code, Malformed, Refused
from wsock.protocol.deflate import Deflater
from wsock.protocol.frames import ErrorEvent, Event, Reconnect, Request
from wsock.protocol.presence import LeaveReason
from wsock.protocol.session import Answer, End, Session, error_event
from wsock.protocol.wire import close_frame, complete_texts, pong_frame, wanted
from wsock.services.auth import Credential
from wsock.services.census import ConnectionInfo
from wsock.services.standing import standing
from wsock.verbs import VERBS
from wsock.verbs.connection import drop_forbidden, keep_within
from wsock.verbs.messages import Publish, Publishing
from wsock.verbs.peer import Peer, Services

__all__ = ["Connection", "ConnectionLimits", "ConnectionOwner"]

_LINGER_SECONDS = 1.0
_CREDENTIAL = "this credential"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """What one connection may hold of the server's memory."""

    frame_bytes: int = 1 << 18
    output_bytes: int = 1 << 20
    in_flight_requests: int = 1024
    in_flight_bytes: int = 1 << 20


class ConnectionOwner(Typing):
    """Whom a connection tells of its end, and of what waits for its client to read."""

    held: Held

    def connection_ended(self, connection: Connection, ending: Deferred[None], why: str) -> None:
        """The connection is lost; ``ending`` fires when it has given back what it held."""

    def request_refused(self, code: str) -> None:
        """A request was answered with an error."""


class Connection(Protocol):
    """One client's WebSocket, from the end of its handshake to its end.

    ``crowd`` is that of its app, ``origin`` that of the page that opened it.
    ``address`` is the client's, ``user_agent`` what it calls itself, ``connected_at`` the time in seconds.
    """

    __slots__ = (
        "_busy",
        "_bytes_in_flight",
        "_deflater",
        "_in_flight",
        "_is_blocked",
        "_is_browser_on_tls",
        "_is_ending",
        "_is_ours",
        "_is_unsettled",
        "_limits",
        "_linger",
        "_leave_reason",
        "_origin",
        "_owner",
        "_parser",
        "_partial",
        "_services",
        "_waiting",
        "_wanted",
        "_was_asked_to_go",
        "_why",
        "address",
        "connected_at",
        "crowd",
        "outlet",
        "peer",
        "session",
        "transport",
        "user_agent",
    )

    _log = Logger()
    transport: Any

    def __init__(
        self,
        services: Services,
        limits: ConnectionLimits,
        owner: ConnectionOwner,
        session: Session,
        *,
        is_ours: bool = False,
        is_browser_on_tls: bool = False,
        deflater: Deflater | None = None,
        crowd: Crowd,
        origin: str | None = None,
        address: str = "",
        user_agent: str = "",
    ) -> None:
        self._services = services
        self._limits = limits
        self._owner = owner
        self._is_ours = is_ours
        self._is_browser_on_tls = is_browser_on_tls
        self._deflater = deflater
        self.crowd = crowd
        self._origin = origin
        self.address = address
        self.user_agent = user_agent
        self.connected_at = services.now()
        self.session = session
        self._parser: FrameParser | None = None
        self._partial: bytearray | None = None
        self._wanted = 0
        self._waiting: deque[tuple[Request, int]] | None = None
        self._busy = False
        self._in_flight = 0
        self._bytes_in_flight = 0
        self._is_blocked = False
        self._is_ending = False
        self._is_unsettled = False
        self._linger: IDelayedCall | None = None
        self._leave_reason: LeaveReason | None = None
        self._why = "lost"
        self._was_asked_to_go = False

    def open(self, id: str, credential: Credential, transport: Any) -> None:
        """The handshake is done: the connection speaks on this transport from now on."""
        self.transport = transport
        self.outlet = self._build_outlet(transport)
        self.peer = Peer(self._services, id, credential, self.session, self.outlet)
        self.session.renew(self.peer.expiry())
        if credential.client_id is not None:
            # What the client asks first must not overtake its return.
            self._services.presence.arrived(credential.app, self.peer.client_id, id, self.peer.return_home)
            self._track(Deferred.fromCoroutine(self.peer.return_home()), None, 0)

    def _build_outlet(self, transport: Any) -> TransportOutlet:
        limit, held = self._limits.output_bytes, self._owner.held
        if self._deflater is None:
            return TransportOutlet(transport, self.session, limit, self._too_slow, held, self.crowd)
        return DeflatingOutlet(transport, self.session, limit, self._too_slow, held, self._deflater, self.crowd)

    # Bytes in.

    def dataReceived(self, data: bytes) -> None:
        """Twisted's hook."""
        if self._is_ending:
            if data[0] & 0x0F == 0x8:
                self.transport.loseConnection()
            return
        if self._parser is not None:
            self._parse(data)
            return
        if self._partial is not None:
            self._partial += data
            if len(self._partial) < self._wanted:
                return
            data, self._partial = bytes(self._partial), None
        self._read(data)

    def _read(self, data: bytes) -> None:
        texts, at = complete_texts(data, self._limits.frame_bytes)
        now = self._services.clock.seconds()
        for text in texts:
            self._obey(self.session.receive(text, now), len(text))
        if at == len(data) or self._is_ending:
            return
        rest = data[at:]
        size = wanted(rest, self._limits.frame_bytes)
        if size is not None:
            self._partial, self._wanted = bytearray(rest), size
        else:
            is_compressing = self._deflater is not None
            self._parser = FrameParser(self, self._limits.frame_bytes, is_compressing=is_compressing)
            self._parse(rest)

    def _parse(self, data: bytes) -> None:
        parser = self._parser
        assert parser is not None
        parser.feed(data)
        if parser.is_at_rest:
            self._parser = None

    # What the parser finds.

    def received_message(self, payload: bytes, is_binary: bool) -> None:
        """A message that came in fragments or otherwise unusually."""
        if self._is_ending:
            return
        if is_binary:
            refused = Malformed("a binary message: every message is a text message with one JSON object")
            self._obey(self.session.blame(refused, self._services.clock.seconds()), 0)
        else:
            self._received(payload)

    def received_ping(self, payload: bytes) -> None:
        """A ping is answered in any case (RFC 6455 §5.5.2)."""
        if not self._is_ending:
            self._services.turn.send(self.outlet, pong_frame(payload))

    def received_close(self, code: int | None) -> None:
        """The client closes: it is answered with its own code, and its members leave at once."""
        if self._is_ending:
            return
        is_valid = code is not None and (
            1000 <= code <= 1014 and code not in (1004, 1005, 1006) or 3000 <= code <= 4999
        )
        answer = (
            code if is_valid and code is not None else CloseCode.NORMAL if code is None else CloseCode.PROTOCOL_ERROR
        )
        if not self._was_asked_to_go:
            self._leave_reason = "left"
        self._why = "closed"
        self._finish(close_frame(answer, ""))
        self.transport.loseConnection()

    def fail(self, code: CloseCode, reason: str) -> None:
        """The client broke the WebSocket protocol."""
        self.end(code, reason)

    # Requests.

    def _received(self, text: bytes) -> None:
        self._obey(self.session.receive(text, self._services.clock.seconds()), len(text))

    def _obey(self, what: Request | Answer | End | None, size: int) -> None:
        if isinstance(what, Request):
            if (self._busy or self._waiting is not None) and not _is_free(what):
                self._wait(what, size)
            else:
                self._perform(what, size)
        elif isinstance(what, Answer):
            if isinstance(what.event, ErrorEvent):
                self._owner.request_refused(what.event.code)
                if what.event.code == Code.RATE_LIMITED:
                    # Whatever it was: beyond the connection's rate nothing is looked at. Nearly always it is a publish.
                    self.peer.meter.refuse(what.event.code)
            self.peer.send(what.event)
        elif isinstance(what, End):
            self.end(what.code, what.reason, what.event)

    def _wait(self, request: Request, size: int) -> None:
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append((request, size))
        self._took(size)

    def _perform(self, request: Request, size: int) -> None:
        try:
            result = VERBS[type(request)](self.peer, request)
        except Exception:
            self._failed(Failure(), request)
            return
        if result is None:
            return
        if type(result) is Publishing:
            self._follow(result, request, size)
            return
        answer: Deferred[None] = result if isinstance(result, Deferred) else Deferred.fromCoroutine(result)  # type: ignore[arg-type]
        self._track(answer, request, size)

    def _follow(self, publishing: Publishing, request: Request, size: int) -> None:
        """Looks after a publish, the hot path."""
        if not publishing.is_over:
            self._in_flight += 1
            self._bytes_in_flight += size
            limits = self._limits
            if self._in_flight >= limits.in_flight_requests or self._bytes_in_flight >= limits.in_flight_bytes:
                self._block()
            publishing.when_over(self._done, request, size, False)
        elif publishing.failure is not None:
            self._failed(publishing.failure, request)

    def _track(self, answer: Deferred[None], request: Request | None, size: int) -> None:
        """Looks after what is under way; a result that is there already costs nothing more."""
        if answer.called and not answer.paused:
            answer.addErrback(self._failed, request)
            return
        is_ordered = request is None or request.in_order
        if is_ordered:
            self._busy = True
        self._took(size)
        answer.addBoth(self._done, request, size, is_ordered)

    def _done(self, result: Failure | None, request: Request | None, size: int, is_ordered: bool) -> None:
        if isinstance(result, Failure):
            self._failed(result, request)
        self._in_flight -= 1
        self._bytes_in_flight -= size
        if is_ordered:
            self._busy = False
            if self._is_unsettled and not self._is_ending:
                self._settle()
            self._go_on()
        if self._is_blocked and not self._is_ending and self._has_room(2):
            self._is_blocked = False
            self.transport.resumeProducing()

    def _go_on(self) -> None:
        while self._waiting and not self._busy:
            request, size = self._waiting.popleft()
            self._in_flight -= 1
            self._bytes_in_flight -= size
            if not self._is_ending:
                self._perform(request, size)
        if not self._waiting:
            self._waiting = None

    def _took(self, size: int) -> None:
        self._in_flight += 1
        self._bytes_in_flight += size
        if not self._has_room(1):
            self._block()

    def _block(self) -> None:
        if not self._is_blocked:
            self._is_blocked = True
            self.transport.pauseProducing()

    def _has_room(self, share: int) -> bool:
        limits = self._limits
        return (
            self._in_flight < limits.in_flight_requests // share
            and self._bytes_in_flight < limits.in_flight_bytes // share
        )

    def _failed(self, failure: Failure, request: Request | None) -> None:
        if isinstance(failure.value, Refused):
            self._refuse(failure.value, request)
        elif not failure.check(CancelledError):
            self._log.failure("{request} failed", failure=failure, request=type(request).__name__)
            self._refuse(Refused(Code.INTERNAL, "the server failed to do this; its log tells why"), request)

    def _refuse(self, refused: Refused, request: Request | None) -> None:
        channel, id = getattr(request, "channel", None), getattr(request, "id", None)
        if isinstance(refused, Malformed):
            channel, id = channel or refused.channel, id or refused.id
        self._owner.request_refused(refused.code)
        if type(request) is Publish:
            self.peer.meter.refuse(refused.code.value)
        self.peer.refuse(refused, channel=channel, id=id)

    # Time and endings.

    def tick(self, now: float) -> None:
        """Called every few seconds."""
        self._obey(self.session.tick(now), 0)
        self.peer.renew_token()

    def reassess(self, crowd: Crowd) -> None:
        """The app's settings, keys or revocations are others now: ends what they do not allow, or the connection."""
        if self._is_ending:
            return
        peer = self.peer
        self.session.limit(crowd.session_limits)
        try:
            credential = standing(peer.credential, self._origin, crowd.tenant, self._services.now())
        except Refused as e:
            self.end(CloseCode.DISCONNECTED, e.text, error_event(e), leave="kicked")
            return
        has_other_end = credential.expires_at != peer.credential.expires_at
        peer.credential = credential
        if has_other_end:
            self.session.renew(peer.expiry())
        self._settle()

    def _settle(self) -> None:
        """Ends what the credential and the settings do not allow any more.

        A request that is under way may still do what it was allowed when it began: so again when it is over.
        """
        self._is_unsettled = self._busy
        if self._busy:
            drop_forbidden(self.peer, _CREDENTIAL)
        elif self.peer.channels or self.peer.present:
            self._track(Deferred.fromCoroutine(keep_within(self.peer, _CREDENTIAL)), None, 0)

    def end(self, code: CloseCode, reason: str, event: Event | None = None, leave: LeaveReason | None = None) -> None:
        """Ends the connection with a close frame, and aborts it a second later whatever the client does."""
        if self._is_ending:
            return
        self._leave_reason = leave
        self._why = code.name.lower()
        if event is not None:
            self.peer.send(event)
        self._finish(close_frame(code, reason))

    def kick(self, reason: str) -> None:
        """An administrator ends the connection (protocol.md I.6): its members leave at once."""
        text = f"an administrator ended this connection{f': {reason}' if reason else ''}"
        self.end(CloseCode.DISCONNECTED, text, ErrorEvent(error=text, code=Code.FORBIDDEN.value), "kicked")

    @property
    def is_ending(self) -> bool:
        """Whether it is about to be gone."""
        return self._is_ending

    def describe(self, node: str) -> ConnectionInfo:
        """What there is to know of it on the node of this name."""
        peer, credential = self.peer, self.peer.credential
        return ConnectionInfo(
            id=peer.id,
            client_id=peer.client_id,
            key_id=credential.key_id,
            token_id=credential.token_id,
            connected_at=int(self.connected_at * 1000),
            ip=self.address,
            user_agent=self.user_agent,
            node=node,
            transport="websocket",
            is_compressed=self._deflater is not None,
            channels=len(peer.channels),
            present=len(peer.present),
            queued_bytes=self.outlet.queued,
        )

    def drain(self) -> None:
        """Reads what the socket still holds and answers it; a :meth:`reset` follows once the answers could leave."""
        if not self._is_ending and not self._is_blocked and isinstance(self.transport, tcp.Connection):
            self.transport.doRead()
        self._services.turn.settle(self.outlet)

    def reset(self, why: str) -> None:
        """Ends the connection without a close frame, so that every SDK comes back and resumes (protocol.md I.6)."""
        if not self._is_ending:
            self._why = why
            self._is_ending = True
            self.session.end()
            self.outlet.abort()

    def move_away(self) -> None:
        """Makes the client come back, here or elsewhere, and resume (protocol.md I.6).

        A reset is what every SDK understands; but TLS may turn it into a clean end, after which a browser's would
        stay away.
        """
        if self._is_browser_on_tls:
            self.end(CloseCode.SERVICE_RESTART, "the server restarts: connect again")
        else:
            self.reset("drained")

    def ask_to_reconnect(self, delay_ms: int) -> bool:
        """Asks a client of ours to connect again and to close; ``False`` when it is another's."""
        if self._is_ours and not self._is_ending:
            self._was_asked_to_go = True
            self.peer.send(Reconnect(delay_ms))
        return self._is_ours

    def _finish(self, last: bytes) -> None:
        """Writes the last bytes; nothing is delivered or read any more."""
        self._is_ending = True
        self._waiting = None
        self.session.end()
        self._services.turn.settle(self.outlet)
        self.outlet.write(last)
        self.outlet.close()
        self._linger = self._services.clock.callLater(_LINGER_SECONDS, self.transport.abortConnection)
        if self._is_blocked:
            self.transport.resumeProducing()

    def _too_slow(self) -> None:
        self._why = "slow consumer"
        self._is_ending = True
        self.session.end()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Twisted's hook: what the client held is given back."""
        self._is_ending = True
        self._waiting = self._partial = self._parser = None
        self.session.end()
        self.outlet.stopProducing()
        if self._linger is not None and self._linger.active():
            self._linger.cancel()
        ending = Deferred.fromCoroutine(self.peer.close(self._leave_reason))
        ending.addErrback(self._failed_to_end)
        self._owner.connection_ended(self, ending, self._why)

    def _failed_to_end(self, failure: Failure) -> None:
        if isinstance(failure.value, Refused):
            self._log.warn("a connection's members could not leave: {text}", text=failure.value.text)
        else:
            self._log.failure("a connection could not end", failure=failure)


def _is_free(request: Request) -> bool:
    """Pings are answered whatever else is under way."""
    return type(request).__struct_config__.tag == "ping"
