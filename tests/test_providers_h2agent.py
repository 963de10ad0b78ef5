"""Tests of the HTTP/2 agent in memory: a peer whose every frame the test decides, and a clock that it moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    PingReceived,
    RequestReceived,
    SettingsAcknowledged,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseFailed, readBody
from twisted.web.error import SchemeNotSupported
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IAgent, IBodyProducer, IClientRequest, IResponse
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.base import SynchronousTestCase
from wsock.providers.h2agent import BytesProducer, H2Agent
from wsock.providers.h2connection import Link
from wsock.providers.h2exchange import ConnectionFailed, Limits, NotProcessed, StreamFailed


class Transport:
    """TLS over TCP that keeps what is written."""

    def __init__(self, protocol: Any, negotiated: bytes | None) -> None:
        self.protocol = protocol
        self.negotiatedProtocol = negotiated
        self.written = b""
        self.producer: Any = None
        self.is_open = True
        self.is_secret = False

    def shake_hands(self) -> None:
        """TLS is there, after a while."""
        if not self.is_secret:
            self.is_secret = True
            self.protocol.handshakeCompleted()

    def write(self, data: bytes) -> None:
        """See ITransport."""
        self.written += data

    def registerProducer(self, producer: Any, streaming: bool) -> None:  # noqa: N802  # Twisted's name
        """See IConsumer."""
        assert streaming
        self.producer = producer

    def abortConnection(self) -> None:  # noqa: N802  # Twisted's name
        """See ITCPTransport."""
        self.lose(ConnectionDone())

    def lose(self, error: Exception) -> None:
        """The connection ends."""
        if self.is_open:
            self.is_open = False
            self.protocol.connectionLost(Failure(error))


class Peer:
    """The other end of a connection."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self.heard: list[Event] = []

    def greet(self, **settings: int) -> None:
        """It speaks: its settings come first."""
        given = {SettingCodes[name.upper()]: value for name, value in settings.items()}
        self.h2.local_settings = Settings(
            client=False, initial_values={SettingCodes.MAX_CONCURRENT_STREAMS: 100, **given}
        )
        self.transport.shake_hands()
        self.h2.initiate_connection()
        self.exchange()

    def exchange(self) -> None:
        """Both get what the other one wrote, until neither has anything to say."""
        while self.transport.is_open:
            theirs, self.transport.written = self.transport.written, b""
            if theirs:
                self.heard.extend(self.h2.receive_data(theirs))
            ours = self.h2.data_to_send()
            if ours:
                self.transport.protocol.dataReceived(ours)
            if not ours and not theirs:
                return

    def all(self, kind: type[Any]) -> list[Any]:
        """What it heard of that kind."""
        self.exchange()
        return [event for event in self.heard if isinstance(event, kind)]

    @property
    def requests(self) -> list[int]:
        """The streams that were opened."""
        return [event.stream_id for event in self.all(RequestReceived)]

    def answer(self, stream_id: int, body: bytes = b"", status: int = 200, **headers: str) -> None:
        """A whole answer."""
        self.head(stream_id, status, **headers)
        self.h2.send_data(stream_id, body, end_stream=True)
        self.exchange()

    def head(self, stream_id: int, status: int = 200, **headers: str) -> None:
        """The head of an answer."""
        fields = [(":status", str(status)), *((name.replace("_", "-"), value) for name, value in headers.items())]
        self.h2.send_headers(stream_id, fields)
        self.exchange()

    def reset(self, stream_id: int, code: ErrorCodes) -> None:
        """Ends a stream."""
        self.h2.reset_stream(stream_id, code)
        self.exchange()

    def go_away(self, last: int, code: int = 0, said: bytes = b"") -> None:
        """Sends GOAWAY, and stays."""
        frame = GoAwayFrame(0)
        frame.last_stream_id, frame.error_code, frame.additional_data = last, code, said
        self.raw(frame.serialize())

    def raw(self, data: bytes) -> None:
        """Sends what h2 would not."""
        self.transport.protocol.dataReceived(data)
        self.exchange()


@implementer(IStreamClientEndpoint)
class Endpoint:
    """Connects at once to a new peer, unless ``answer`` says otherwise."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []
        self.negotiated: bytes | None = b"h2"
        self.answer: Any = None
        self.asked = 0

    def connect(self, protocolFactory: Any) -> Any:  # noqa: N803  # Twisted's name
        """See IStreamClientEndpoint."""
        self.asked += 1
        if self.answer is not None:
            return self.answer
        protocol = protocolFactory.buildProtocol(None)
        transport = Transport(protocol, self.negotiated)
        self.peers.append(Peer(transport))
        protocol.makeConnection(transport)
        connected: Deferred[Any] = Deferred()
        connected.callback(protocol)
        return connected


class Case(SynchronousTestCase):
    """An agent whose connections are the test's."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.endpoint = Endpoint()
        self.agent = self.make()

    def make(self, **options: Any) -> H2Agent:
        """An agent."""
        return H2Agent(self.clock, connect_to=lambda host, port: self.endpoint, **options)

    def ask(self, body: bytes | None = None, **headers: str) -> Deferred[Any]:
        """Sends a request."""
        producer = None if body is None else BytesProducer(body)
        fields = Headers({name.replace("_", "-"): [value] for name, value in headers.items()})
        return self.agent.request(b"POST" if producer else b"GET", b"https://x.example/p?q", fields, producer)

    def peer(self, **settings: int) -> Peer:
        """The peer of the newest connection, which has greeted."""
        peer = self.endpoint.peers[-1]
        peer.greet(**settings)
        return peer

    def body_of(self, asking: Deferred[Any]) -> bytes:
        """The body of an answer that is there."""
        body = self.successResultOf(readBody(self.successResultOf(asking)))
        assert isinstance(body, bytes)
        return body


class RequestTests(Case):
    """Requests and answers."""

    def test_provides(self) -> None:
        """It is an agent with answers, bodies and requests as others have them."""
        verifyObject(IAgent, self.agent)
        verifyObject(IBodyProducer, BytesProducer(b""))
        asking = self.ask()
        self.peer().answer(1)
        response = self.successResultOf(asking)
        verifyObject(IResponse, response)
        verifyObject(IClientRequest, response.request)
        response.setPreviousResponse(response)
        self.assertIs(response.previousResponse, response)

    def test_head(self) -> None:
        """Pseudo-headers first; no header of HTTP/1.1's connections; the length is that of the body."""
        self.ask(b"hi", Authorization="a", Connection="close", Host="y", TE="trailers")
        [event] = self.peer().all(RequestReceived)

        self.assertEqual(
            event.headers,
            [
                (b":method", b"POST"),
                (b":scheme", b"https"),
                (b":authority", b"x.example"),
                (b":path", b"/p?q"),
                (b"content-length", b"2"),
                (b"authorization", b"a"),
                (b"te", b"trailers"),
            ],
        )

    def test_answer(self) -> None:
        """Status, headers, length and body."""
        asking = self.ask()
        self.peer().answer(1, b"hello", 404, content_length="5", x_y="z")

        response = self.successResultOf(asking)

        self.assertEqual((response.code, response.phrase, response.length), (404, b"Not Found", 5))
        self.assertEqual(response.headers.getRawHeaders("x-y"), ["z"])
        self.assertNotIn(b":status", dict(response.headers.getAllRawHeaders()))
        self.assertEqual(self.successResultOf(readBody(response)), b"hello")
        self.assertRaises(RuntimeError, response.deliverBody, Protocol())

    def test_unknown_length(self) -> None:
        """An answer need not say how long it is."""
        asking = self.ask()
        self.peer().answer(1)

        self.assertIs(self.successResultOf(asking).length, UNKNOWN_LENGTH)

    def test_one_connection_for_an_origin(self) -> None:
        """All requests to a host and port share it; others don't."""
        self.ask()
        self.ask()
        self.assertEqual(self.endpoint.asked, 1)
        self.agent.request(b"GET", b"https://x.example:8443/")
        self.assertEqual(self.endpoint.asked, 2)

    def test_nothing_before_the_settings(self) -> None:
        """How many streams are allowed is known from the peer's settings only."""
        self.ask()
        self.ask()
        peer = self.endpoint.peers[0]
        peer.transport.shake_hands()
        self.assertEqual(peer.requests, [])
        self.assertEqual(peer.h2.remote_settings.enable_push, 0)

        peer.greet(max_concurrent_streams=1)

        self.assertEqual(peer.requests, [1])
        peer.answer(1)
        self.assertEqual(peer.requests, [1, 3])

    def test_settings_that_change(self) -> None:
        """More requests go when more are allowed, and a limit of the agent's own holds too."""
        self.agent = self.make(limits=Limits(max_streams=4))
        for _ in range(9):
            self.ask()
        peer = self.peer(max_concurrent_streams=1)
        self.assertEqual(len(peer.requests), 1)
        peer.h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 3})
        self.assertEqual(len(peer.requests), 3)
        peer.h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 100})
        self.assertEqual(len(peer.requests), 4)

    def test_windows(self) -> None:
        """A body waits for the stream's window, for the connection's, and for larger settings."""
        self.ask(b"x" * 200_000)
        peer = self.peer()

        def received() -> int:
            return sum(len(event.data) for event in peer.all(DataReceived))

        self.assertEqual(received(), 65_535)
        peer.h2.increment_flow_control_window(100_000, 1)
        self.assertEqual(received(), 65_535)
        peer.h2.increment_flow_control_window(200_000)
        self.assertEqual(received(), 165_535)
        peer.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 131_070})
        self.assertEqual(received(), 200_000)

    def test_network_that_is_slow(self) -> None:
        """While the transport takes no more, no body grows and no request begins."""
        self.ask(b"x" * 60_000)
        peer = self.peer(initial_window_size=10)
        producer = peer.transport.producer
        producer.pauseProducing()
        peer.h2.increment_flow_control_window(50, 1)
        self.ask()
        self.assertEqual(peer.requests, [1])
        self.assertEqual(sum(len(e.data) for e in peer.all(DataReceived)), 10)

        producer.resumeProducing()

        self.assertEqual(peer.requests, [1, 3])
        self.assertEqual(sum(len(e.data) for e in peer.all(DataReceived)), 60)
        producer.stopProducing()

    def test_window_and_end_at_once(self) -> None:
        """A window that opens for a stream that ends in the same breath is no fault."""
        asking = self.ask(b"x" * 100_000)
        peer = self.peer()
        peer.exchange()
        peer.h2.increment_flow_control_window(10_000, 1)
        peer.h2.increment_flow_control_window(10_000)
        peer.reset(1, ErrorCodes.INTERNAL_ERROR)

        self.failureResultOf(asking, StreamFailed)
        self.ask()
        self.assertEqual(peer.requests, [1, 3])

    def test_others_do_something_in_between(self) -> None:
        """Many requests, and many answers that come at once, are not dealt with in one go."""
        asking = [self.ask() for _ in range(50)]
        peer = self.peer()
        self.assertEqual(self.turns(lambda: len(peer.requests)), [16, 32, 48, 50])
        for stream_id in peer.requests:
            peer.h2.send_headers(stream_id, [(":status", "200")], end_stream=True)
        peer.exchange()
        self.assertEqual(self.turns(lambda: sum(one.called for one in asking)), [16, 32, 48, 50])

    def turns(self, count: Callable[[], int]) -> list[int]:
        """What there is after each turn of the reactor, until it is 50."""
        counts = [count()]

        def turn() -> None:
            counts.append(count())
            if counts[-1] < 50:
                self.clock.callLater(0, turn)

        self.clock.callLater(0, turn)
        self.clock.advance(0)
        return counts

    def test_reader_that_fails(self) -> None:
        """One that fails at an answer that was left for later ends the connection, and nobody waits for ever."""
        read = self.ask()
        peer = self.peer()
        peer.exchange()
        peer.head(1)
        self.successResultOf(read).deliverBody(Failing())
        asking = [self.ask() for _ in range(20)]
        self.clock.advance(0)
        for stream_id in peer.requests[1:18]:
            peer.h2.send_headers(stream_id, [(":status", "200")], end_stream=True)
        peer.h2.send_data(1, b"x")
        peer.transport.protocol.dataReceived(peer.h2.data_to_send())
        self.assertTrue(peer.transport.is_open)

        self.assertRaises(ZeroDivisionError, self.clock.advance, 0)

        self.assertFalse(peer.transport.is_open)
        for one in asking[:17]:
            self.successResultOf(one)
        for one in asking[17:]:
            self.failureResultOf(one, ConnectionFailed)

    def test_end_behind_many_answers(self) -> None:
        """Answers that came before the connection ended count, however many; nothing new begins on it meanwhile."""
        for code in (ErrorCodes.NO_ERROR, ErrorCodes.INTERNAL_ERROR):
            self.setUp()
            asking = [self.ask() for _ in range(40)]
            peer = self.peer()
            while len(peer.requests) < 40:
                self.clock.advance(0)
            for stream_id in peer.requests:
                peer.h2.send_headers(stream_id, [(":status", "200")], end_stream=True)
            frame = GoAwayFrame(0)
            frame.last_stream_id, frame.error_code = peer.requests[-1], code
            peer.transport.protocol.dataReceived(peer.h2.data_to_send() + frame.serialize())
            later = self.ask()
            peer.transport.lose(ConnectionLost())

            for one in asking:
                self.successResultOf(one)
            self.peer().answer(1)
            self.successResultOf(later)

    def test_early_answer(self) -> None:
        """An answer that does not wait for the whole request ends the sending of it."""
        asking = self.ask(b"x" * 100_000)
        peer = self.peer()
        peer.answer(1, b"enough")

        self.assertEqual(self.body_of(asking), b"enough")
        [reset] = peer.all(StreamReset)
        self.assertEqual(reset.error_code, ErrorCodes.NO_ERROR)

    def test_not_https(self) -> None:
        """There is no HTTP/2 without TLS here."""
        self.failureResultOf(self.agent.request(b"GET", b"http://x/"), SchemeNotSupported)

    def test_usual_endpoint(self) -> None:
        """Without one of its own it connects to the host by TLS."""
        endpoint = H2Agent(self.clock)._endpoint(b"x.example", 443)

        self.assertTrue(IStreamClientEndpoint.providedBy(endpoint))


class BodyTests(Case):
    """Bodies of answers, and who reads them."""

    def start(self) -> tuple[Any, Peer]:
        """The head of an answer."""
        asking = self.ask()
        peer = self.peer()
        peer.exchange()
        peer.head(1)
        return self.successResultOf(asking), peer

    def test_unread(self) -> None:
        """What nobody reads fills its own window; the connection's is given back."""
        response, peer = self.start()
        for _ in range(40):
            self.ask()
            peer.exchange()
        for stream_id in peer.requests[1:]:
            peer.head(stream_id)
        for stream_id in peer.requests:
            peer.h2.send_data(stream_id, b"x" * 16_000)
            peer.exchange()

        opened = peer.all(WindowUpdated)
        self.assertTrue(all(event.stream_id == 0 for event in opened))
        self.assertGreaterEqual(sum(event.delta for event in opened), 1_048_576 + 500_000)
        reader = Reader()
        response.deliverBody(reader)
        for _ in range(2):
            peer.h2.send_data(1, b"x" * 10_000)
            peer.exchange()
        self.assertEqual(reader.size, 36_000)
        self.assertEqual([e.delta for e in peer.all(WindowUpdated) if e.stream_id == 1], [26_000])

    def test_padding_counts(self) -> None:
        """Padding weighs in the windows like data."""
        response, peer = self.start()
        response.deliverBody(Reader())
        for _ in range(70):
            peer.h2.send_data(1, b"x", pad_length=255)
        peer.exchange()

        self.assertEqual([e.delta for e in peer.all(WindowUpdated) if e.stream_id == 1], [64 * 257])

    def test_pausing(self) -> None:
        """Nothing comes while the reader holds it back, the end neither."""
        response, peer = self.start()
        reader = Reader()
        response.deliverBody(reader)
        reader.transport.pauseProducing()
        peer.h2.send_data(1, b"abc", end_stream=True)
        peer.exchange()
        self.assertEqual((reader.size, reader.reason), (0, None))

        reader.transport.resumeProducing()

        self.assertEqual(reader.size, 3)
        reader.reason.trap(ResponseDone)

    def test_pausing_before_the_end(self) -> None:
        """The end alone waits too."""
        response, peer = self.start()
        reader = Reader()
        response.deliverBody(reader)
        reader.transport.pauseProducing()
        peer.h2.end_stream(1)
        peer.exchange()
        self.assertIsNone(reader.reason)
        reader.transport.resumeProducing()
        reader.reason.trap(ResponseDone)

    def test_pausing_inside(self) -> None:
        """A reader may pause and resume while it is given a part: parts come one after the other."""
        response, peer = self.start()
        reader = Reader(pauses=True)
        for _ in range(3):
            peer.h2.send_data(1, b"abc")
            peer.exchange()
        response.deliverBody(reader)

        self.assertEqual((reader.size, reader.depth), (9, 1))

    def test_stopping(self) -> None:
        """Who wants no more resets the stream once, and is told that it ended; the connection stays."""
        for name in ("stopProducing", "loseConnection", "abortConnection"):
            with self.subTest(name):
                self.setUp()
                response, peer = self.start()
                reader = Reader()
                response.deliverBody(reader)
                getattr(reader.transport, name)()
                getattr(reader.transport, name)()
                peer.exchange()

                reader.reason.trap(ResponseFailed)
                self.assertTrue(reader.transport.disconnecting)
                [reset] = peer.all(StreamReset)
                self.assertEqual(reset.error_code, ErrorCodes.CANCEL)
                peer.transport.protocol.dataReceived(b"")
                self.ask()
                self.assertEqual(peer.requests, [1, 3])

    def test_stopping_at_the_end(self) -> None:
        """A reader that stops at the last part, when the stream is over already, is told so too."""
        response, peer = self.start()
        reader = Reader(stops=True)
        response.deliverBody(reader)
        peer.h2.send_data(1, b"abc", end_stream=True)
        peer.exchange()

        reader.reason.trap(ResponseFailed)
        self.ask()
        self.assertEqual(peer.requests, [1, 3])

    def test_large_part_at_the_end(self) -> None:
        """A part that would open the window again, and the end, may come in one breath."""
        response, peer = self.start()
        reader = Reader()
        response.deliverBody(reader)
        for end in (False, True):
            peer.h2.send_data(1, b"x" * 16_384, end_stream=end)
        peer.exchange()

        self.assertEqual(reader.size, 32_768)
        reader.reason.trap(ResponseDone)

    def test_cut_off(self) -> None:
        """A body that ends early says so, by a reset or with the connection."""
        response, peer = self.start()
        reader = Reader()
        response.deliverBody(reader)
        peer.reset(1, ErrorCodes.INTERNAL_ERROR)
        self.assertIn("INTERNAL_ERROR", str(reader.reason.value.reasons))

        self.setUp()
        response, peer = self.start()
        reader = Reader()
        response.deliverBody(reader)
        peer.transport.lose(ConnectionLost())
        reader.reason.trap(ResponseFailed)


class RefusedTests(Case):
    """What the peer surely did not act on, and what it may have."""

    def test_refused_once(self) -> None:
        """It goes again at once, with its body, and others wait until the peer shows that it takes more."""
        asking = [self.ask(b"%d" % i) for i in range(4)]
        peer = self.peer()
        self.assertEqual(peer.requests, [1, 3, 5, 7])
        peer.h2.reset_stream(3, ErrorCodes.REFUSED_STREAM)
        peer.h2.reset_stream(5, ErrorCodes.REFUSED_STREAM)
        peer.exchange()
        # Two are on their way, and two are allowed for now.
        self.assertEqual(peer.requests, [1, 3, 5, 7])
        peer.answer(1)
        self.assertEqual(len(peer.requests), 6)
        for stream_id in peer.requests[3:]:
            peer.answer(stream_id)

        bodies = {e.stream_id: e.data for e in peer.all(DataReceived)}
        self.assertEqual([bodies[s] for s in peer.requests], [b"0", b"1", b"2", b"3", b"2", b"1"])
        for one in asking:
            self.assertEqual(self.successResultOf(one).code, 200)

    def test_refused_for_ever(self) -> None:
        """It is tried less and less often, then fails."""
        asking = self.ask()
        peer = self.peer()
        waits = []
        for count in range(2, 8):
            peer.reset(peer.requests[-1], ErrorCodes.REFUSED_STREAM)
            waited = 0.0
            while len(peer.requests) < count and waited < 60:
                self.clock.advance(0.05)
                waited += 0.05
            waits.append(round(waited / 0.2))
        peer.reset(peer.requests[-1], ErrorCodes.REFUSED_STREAM)

        self.failureResultOf(asking, NotProcessed)
        self.assertEqual(len(peer.requests), 7)
        self.assertEqual(waits, [0, 1, 2, 4, 8, 16])

    def test_cancelled_while_it_waits_to_go_again(self) -> None:
        """It never goes."""
        asking = self.ask()
        peer = self.peer()
        for _ in range(2):
            peer.reset(peer.requests[-1], ErrorCodes.REFUSED_STREAM)
        asking.cancel()
        self.failureResultOf(asking, CancelledError)
        self.clock.advance(10)
        self.assertEqual(peer.requests, [1, 3])
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_refused_after_the_head(self) -> None:
        """An answer that began was acted on, whatever the peer says later."""
        asking = self.ask()
        peer = self.peer()
        peer.exchange()
        peer.head(1)
        reading = readBody(self.successResultOf(asking))
        peer.reset(1, ErrorCodes.REFUSED_STREAM)

        self.failureResultOf(reading, ResponseFailed)
        self.assertEqual(peer.requests, [1])

    def test_reset(self) -> None:
        """Another reset may have been acted on; it is not sent again."""
        for code in (ErrorCodes.INTERNAL_ERROR, ErrorCodes.NO_ERROR, 0x1234):
            asking = self.ask()
            peer = self.endpoint.peers[-1]
            if not peer.heard:
                self.peer()
            peer.exchange()
            peer.h2.reset_stream(peer.requests[-1], code)
            peer.exchange()
            failure = self.failureResultOf(asking, StreamFailed)
            self.assertEqual(failure.value.code, code)
        self.assertEqual(len(peer.requests), 3)

    def test_goaway(self) -> None:
        """What is above the last stream goes to a new connection, the rest is answered on the old one, which ends."""
        asking = [self.ask(b"%d" % i) for i in range(4)]
        old = self.peer()
        self.assertEqual(old.requests, [1, 3, 5, 7])
        old.go_away(3)
        self.assertEqual(len(self.endpoint.peers), 2)
        new = self.peer()
        self.assertEqual([e.data for e in new.all(DataReceived)], [b"3", b"2"])
        for stream_id in (1, 3):
            old.answer(stream_id, b"old")
        for stream_id in new.requests:
            new.answer(stream_id, b"new")

        self.assertEqual([self.body_of(one) for one in asking], [b"old", b"old", b"new", b"new"])
        self.assertFalse(old.transport.is_open)
        self.assertTrue(new.transport.is_open)

    def test_goaway_in_two_steps(self) -> None:
        """A peer may announce it first (RFC 9113 §6.8): nothing new goes there, and what is on its way may yet go."""
        asking = [self.ask() for _ in range(2)]
        old = self.peer()
        old.exchange()
        old.go_away(2**31 - 1)
        later = self.ask()
        self.assertEqual(old.requests, [1, 3])
        new = self.peer()
        self.assertEqual(new.requests, [1])
        old.go_away(1)
        self.assertEqual(new.requests, [1, 3])
        old.answer(1)
        new.answer(1)
        new.answer(3)

        for one in (*asking, later):
            self.assertEqual(self.successResultOf(one).code, 200)

    def test_goaway_keeps_what_was_to_be_said(self) -> None:
        """What came with GOAWAY is acknowledged all the same: settings, and a sign of life."""
        asking = self.ask()
        peer = self.peer()
        peer.exchange()
        acknowledged = len(peer.all(SettingsAcknowledged))
        peer.h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 7})
        frame = GoAwayFrame(0)
        frame.last_stream_id = 1
        peer.raw(peer.h2.data_to_send() + frame.serialize())

        self.assertEqual(len(peer.all(SettingsAcknowledged)), acknowledged + 1)
        peer.answer(1)
        self.successResultOf(asking)

    def test_goaway_with_an_error(self) -> None:
        """What is on its way may have been acted on: it fails, with the reason that the peer gives."""
        asking = [self.ask() for _ in range(2)]
        old = self.peer()
        old.exchange()
        old.go_away(1, ErrorCodes.ENHANCE_YOUR_CALM, b'{"reason":"Shutdown"}')

        failure = self.failureResultOf(asking[0], ConnectionFailed)
        self.assertIn("ENHANCE_YOUR_CALM", str(failure.value))
        self.assertIn("Shutdown", str(failure.value))
        new = self.peer()
        new.answer(1)
        self.successResultOf(asking[1])

    def test_goaway_with_an_error_behind_an_answer(self) -> None:
        """An answer that came in the same breath counts."""
        asking = self.ask()
        peer = self.peer()
        peer.exchange()
        peer.h2.send_headers(1, [(":status", "200")])
        for _ in range(3):
            peer.h2.send_data(1, b"x" * 16_384)
        frame = GoAwayFrame(0)
        frame.last_stream_id, frame.error_code = 1, ErrorCodes.INTERNAL_ERROR
        response = []
        asking.addCallback(lambda r: response.append(readBody(r)))
        peer.raw(peer.h2.data_to_send() + frame.serialize())

        self.assertEqual(len(response), 1)
        self.failureResultOf(response[0])

    def test_goaway_while_idle(self) -> None:
        """The connection ends, and the next request makes another one."""
        self.ask()
        peer = self.peer()
        peer.answer(1)
        peer.go_away(1)
        self.assertFalse(peer.transport.is_open)
        self.assertEqual(len(self.endpoint.peers), 1)
        self.ask()
        self.assertEqual(len(self.endpoint.peers), 2)

    def test_cancelled_after_goaway(self) -> None:
        """Who waits for the last answer may give up; then the connection ends."""
        asking = self.ask()
        peer = self.peer()
        peer.go_away(1)
        self.assertTrue(peer.transport.is_open)
        asking.cancel()
        self.failureResultOf(asking, CancelledError)
        self.assertFalse(peer.transport.is_open)

    def test_always_goes_away(self) -> None:
        """A peer that never takes a request is given up."""
        asking = self.ask()
        for _ in range(20):
            if asking.called:
                break
            self.peer().go_away(0)
            self.clock.advance(5)

        self.failureResultOf(asking, NotProcessed)
        self.assertEqual(len(self.endpoint.peers), 7)

    def test_lost(self) -> None:
        """A connection that ends without a word may have acted on all; what did not begin goes to another one."""
        asking = [self.ask() for _ in range(3)]
        old = self.peer(max_concurrent_streams=2)
        old.exchange()
        old.transport.lose(ConnectionLost())

        for one in asking[:2]:
            self.failureResultOf(one, ConnectionLost)
        self.peer().answer(1)
        self.successResultOf(asking[2])

    def test_breaks_the_protocol(self) -> None:
        """A peer that does is told so, and left."""
        asking = self.ask()
        peer = self.peer()
        peer.exchange()
        peer.transport.protocol.dataReceived(b"\0\0\1\0\0\0\0\0\0x")

        self.assertIn("broke HTTP/2", str(self.failureResultOf(asking, ConnectionFailed).value))
        events = peer.h2.receive_data(peer.transport.written)
        self.assertTrue(any(isinstance(event, ConnectionTerminated) for event in events))

    def test_requests_from_inside(self) -> None:
        """Whoever asks again as soon as one fails gets another connection, not the broken one."""
        again: list[Deferred[Any]] = []
        asking = self.ask()
        asking.addErrback(lambda _: again.append(self.ask()))
        peer = self.peer()
        peer.exchange()
        peer.transport.lose(ConnectionLost())

        self.peer().answer(1)
        self.successResultOf(again[0])


class ConnectingTests(Case):
    """Before there is a connection, and the end of one."""

    def test_no_alpn(self) -> None:
        """A server that does not choose HTTP/2 is not spoken to."""
        for negotiated in (None, b"http/1.1"):
            self.setUp()
            self.endpoint.negotiated = negotiated
            asking = self.ask()
            self.endpoint.peers[0].transport.shake_hands()
            failure = self.failureResultOf(asking, ConnectionFailed)
            self.assertIn("does not speak HTTP/2", str(failure.value))
            self.assertEqual(self.endpoint.peers[0].transport.written, b"")

    def test_silence(self) -> None:
        """A server has to speak in time; all that wait hear of it, and later ones try again."""
        asking = [self.ask() for _ in range(2)]
        self.clock.advance(9.9)
        self.assertNoResult(asking[0])
        self.clock.advance(0.2)
        for one in asking:
            self.assertIn("within 10 s", str(self.failureResultOf(one, ConnectionFailed).value))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.ask()
        self.assertEqual(self.endpoint.asked, 2)

    def test_refused(self) -> None:
        """All that wait hear why there is no connection."""
        self.endpoint.answer = Deferred()
        asking = [self.ask() for _ in range(2)]

        def failed(reason: Failure) -> Failure:
            asking[1].cancel()
            return reason

        asking[0].addErrback(failed)
        self.endpoint.answer.errback(ConnectionRefusedError())

        self.failureResultOf(asking[0], ConnectionRefusedError)
        self.failureResultOf(asking[1], CancelledError)
        self.endpoint.answer = fail(ConnectionRefusedError())
        self.failureResultOf(self.ask(), ConnectionRefusedError)

    def test_cancelled(self) -> None:
        """A request that is taken back while it waits is never sent."""
        asking = [self.ask(b"%d" % i) for i in range(3)]
        asking[1].cancel()
        self.failureResultOf(asking[1], CancelledError)
        peer = self.peer()

        self.assertEqual([e.data for e in peer.all(DataReceived)], [b"0", b"2"])
        asking[0].cancel()
        self.failureResultOf(asking[0], CancelledError)
        [reset] = peer.all(StreamReset)
        self.assertEqual((reset.stream_id, reset.error_code), (1, ErrorCodes.CANCEL))
        peer.answer(3)
        self.successResultOf(asking[2])

    def test_head_that_is_none(self) -> None:
        """A request that HTTP/2 can't carry fails alone; later ones go over another connection."""
        before = self.ask()
        old = self.peer()
        self.assertEqual(old.requests, [1])
        bad = self.agent.request(b"CONNECT", b"https://x.example/", Headers({"x-new": ["y"]}))
        after = self.ask(x_new="y")

        self.failureResultOf(bad, ProtocolError)
        new = self.peer()
        new.answer(1)
        self.successResultOf(after)
        old.answer(1)
        self.successResultOf(before)
        self.assertFalse(old.transport.is_open)

    def test_head_that_is_none_alone(self) -> None:
        """The same with nothing else on its way, and others waiting behind it."""
        bad = self.agent.request(b"CONNECT", b"https://x.example/", Headers({"x-new": ["y"]}))
        after = self.ask(x_new="y")
        old = self.peer()

        self.failureResultOf(bad, ProtocolError)
        self.assertFalse(old.transport.is_open)
        self.peer().answer(1)
        self.successResultOf(after)

    def test_closed(self) -> None:
        """Everything ends: what waits, what is on its way, what waits to go again."""
        self.endpoint.answer = Deferred()
        connecting = self.ask()
        self.successResultOf(self.agent.close())
        self.failureResultOf(connecting, ConnectionFailed)
        self.endpoint.answer = None
        asking = [self.ask() for _ in range(3)]
        peer = self.peer(max_concurrent_streams=1)
        for _ in range(2):
            peer.reset(peer.requests[-1], ErrorCodes.REFUSED_STREAM)

        self.successResultOf(self.agent.close())

        for one in asking:
            self.failureResultOf(one, ConnectionFailed)
        self.assertFalse(peer.transport.is_open)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.successResultOf(self.agent.close())

    def test_closed_before_the_settings(self) -> None:
        """A connection that is not ready yet ends too."""
        asking = self.ask()

        self.successResultOf(self.agent.close())

        self.failureResultOf(asking, ConnectionFailed)
        self.assertFalse(self.endpoint.peers[0].transport.is_open)

    def test_streams_run_out(self) -> None:
        """A connection has only so many; then there is a new one."""
        self.ask()
        peer = self.peer()
        peer.answer(1)
        link = peer.transport.protocol
        assert isinstance(link, Link)
        link._h2.highest_outbound_stream_id = 2**31 - 3
        self.ask()
        self.assertEqual(peer.requests, [1, 2**31 - 1])
        self.ask()

        self.assertEqual(len(self.endpoint.peers), 2)


class LivenessTests(Case):
    """Whether the peer is there."""

    def setUp(self) -> None:
        super().setUp()
        self.asking = self.ask()
        self.silent = self.peer()
        self.silent.exchange()

    def test_pinged(self) -> None:
        """After a minute of silence it is asked; an answer is enough."""
        self.clock.advance(60)
        self.assertEqual(self.silent.all(PingReceived), [])
        for i in range(1, 4):
            self.clock.advance(60)
            self.assertEqual(len(self.silent.all(PingReceived)), i)
            self.clock.advance(10)
        self.assertTrue(self.silent.transport.is_open)

    def test_dead(self) -> None:
        """One that says nothing within 10 s is given up."""
        self.clock.advance(60)
        self.clock.advance(60)
        self.clock.advance(9)
        self.assertNoResult(self.asking)
        self.clock.advance(1)

        self.assertIn("PING", str(self.failureResultOf(self.asking, ConnectionFailed).value))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_idle(self) -> None:
        """A connection that nobody uses for an hour ends; one with a request does not."""
        for _ in range(70):
            self.clock.advance(60)
            self.silent.exchange()
        self.assertTrue(self.silent.transport.is_open)
        self.silent.answer(1)
        for _ in range(59):
            self.clock.advance(60)
            self.silent.exchange()
        self.assertTrue(self.silent.transport.is_open)
        for _ in range(3):
            self.clock.advance(60)
            self.silent.exchange()
        self.assertFalse(self.silent.transport.is_open)
        self.assertEqual(self.clock.getDelayedCalls(), [])


@implementer(IBodyProducer)
class Slow:
    """A request's body that comes when the test says so."""

    length = UNKNOWN_LENGTH

    def __init__(self) -> None:
        self.consumer: Any = None
        self.done: Deferred[None] = Deferred()
        self.stopped = 0

    def startProducing(self, consumer: Any) -> Deferred[None]:  # noqa: N802  # Twisted's name
        """See IBodyProducer."""
        self.consumer = consumer
        return self.done

    def stopProducing(self) -> None:  # noqa: N802  # Twisted's name
        """See IBodyProducer."""
        self.stopped += 1

    def pauseProducing(self) -> None:  # noqa: N802  # Twisted's name
        """See IBodyProducer."""

    resumeProducing = pauseProducing  # noqa: N815  # Twisted's name


class ProducerTests(Case):
    """Bodies of requests, which are read whole first."""

    def setUp(self) -> None:
        super().setUp()
        self.agent = self.make(max_body=10)
        self.slow = Slow()

    def put(self) -> Deferred[Any]:
        """Sends that body."""
        return self.agent.request(b"PUT", b"https://x.example/", None, self.slow)

    def test_whole(self) -> None:
        """Nothing goes before the end of it."""
        asking = self.put()
        self.slow.consumer.write(b"12345")
        self.slow.consumer.write(b"67890")
        self.assertEqual(self.endpoint.asked, 0)
        self.slow.done.callback(None)
        peer = self.peer()

        self.assertEqual([e.data for e in peer.all(DataReceived)], [b"1234567890"])
        peer.answer(1)
        self.successResultOf(asking)

    def test_too_long(self) -> None:
        """One that is longer than it may be is stopped, and fails."""
        asking = self.put()
        for _ in range(3):
            self.slow.consumer.write(b"12345")
        self.slow.done.callback(None)

        self.failureResultOf(asking, ValueError)
        self.assertEqual((self.slow.stopped, self.endpoint.asked), (1, 0))
        self.failureResultOf(self.agent.request(b"PUT", b"https://x/", None, BytesProducer(b"x" * 11)), ValueError)

    def test_too_long_and_never_done(self) -> None:
        """Some producers never say that they are done after they were stopped."""
        asking = self.put()
        for _ in range(4):
            self.slow.consumer.write(b"12345")

        self.failureResultOf(asking, ValueError)
        self.assertEqual(self.slow.stopped, 1)

    def test_broken(self) -> None:
        """One that can't be read fails the request."""
        asking = self.put()
        self.slow.done.errback(OSError("disk"))

        self.failureResultOf(asking, OSError)

    def test_cancelled(self) -> None:
        """A request that is taken back stops its producer, and is not sent."""
        asking = self.put()
        asking.cancel()
        self.slow.done.callback(None)

        self.failureResultOf(asking, CancelledError)
        self.assertEqual((self.slow.stopped, self.endpoint.asked), (1, 0))

    def test_empty(self) -> None:
        """A body of nothing ends the stream with its head, and says its length."""
        producer = BytesProducer(b"")
        for name in ("pauseProducing", "resumeProducing", "stopProducing"):
            getattr(producer, name)()
        asking = self.agent.request(b"POST", b"https://x.example/", None, producer)
        peer = self.peer()
        [event] = peer.all(RequestReceived)

        self.assertIn((b"content-length", b"0"), event.headers)
        self.assertIsNotNone(event.stream_ended)
        peer.answer(1)
        self.successResultOf(asking)


class Failing(Protocol):
    """A reader with a bug."""

    def dataReceived(self, data: bytes) -> None:
        """Twisted's hook."""
        raise ZeroDivisionError


class Reader(Protocol):
    """Reads a body."""

    transport: Any = None

    def __init__(self, *, pauses: bool = False, stops: bool = False) -> None:
        self.size = 0
        self.reason: Any = None
        self.depth = 0
        self._inside = 0
        self._pauses = pauses
        self._stops = stops

    def dataReceived(self, data: bytes) -> None:
        """Twisted's hook."""
        self._inside += 1
        self.depth = max(self.depth, self._inside)
        self.size += len(data)
        if self._pauses:
            self.transport.pauseProducing()
            self.transport.resumeProducing()
        if self._stops:
            self.transport.stopProducing()
        self._inside -= 1

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Twisted's hook."""
        self.reason = reason
