"""The writing end of a connection: when it may go to the kernel, and what happens when the client does not read."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from zope.interface.verify import verifyObject

from tests.base import SynchronousTestCase
from tests.outlets import events_of
from wsock.edges.outlet import DeflatingOutlet, Held, TransportOutlet
from wsock.protocol.codec import Codec
from wsock.protocol.deflate import Deflater
from wsock.protocol.session import Session, SessionLimits
from wsock.protocol.wire import close_frame, text_frame
from wsock.records import SlowConsumer
from wsock.services.turn import Feed, Turn
from wsock.verbs import REQUESTS


class FakeSocket:
    """A socket that takes as many bytes of each write as ``takes`` says, or fails with that error; then everything."""

    family = socket.AF_INET

    def __init__(self, *takes: int | OSError) -> None:
        self.takes = list(takes)
        self.sent = b""

    def send(self, data: Any) -> int:
        taken = self.takes.pop(0) if self.takes else len(data)
        if isinstance(taken, OSError):
            raise taken
        self.sent += bytes(data[:taken])
        return min(taken, len(data))

    def fileno(self) -> int:
        return 99

    def setblocking(self, _: bool) -> None:
        """Blocks never."""

    def setsockopt(self, *_: Any) -> None:
        """Accepts any option."""

    def close(self) -> None:
        """Is closed."""

    def shutdown(self, _: int) -> None:
        """Is shut down."""


class SubclassedServer(tcp.Server):
    """Might override anything."""


AGAIN = OSError(errno.EAGAIN, "try again")


class OutletTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.session = Session(Codec(REQUESTS), SessionLimits(), 0.0)
        self.slow = 0
        self.held = Held()
        self.reactor = MemoryReactorClock()

    def transport(self, *takes: int | OSError, kind: type[Any] = tcp.Server) -> Any:
        """One of Twisted's own transports over a socket."""
        self.socket = FakeSocket(*takes)
        transport = kind(self.socket, Protocol(), ("192.0.2.1", 1), None, 1, self.reactor)
        transport.protocol.makeConnection(transport)
        return transport

    def outlet(self, transport: Any, limit: int = 1000) -> TransportOutlet:
        """An outlet on it."""
        return TransportOutlet(transport, self.session, limit, self.on_slow, self.held)

    def on_slow(self) -> None:
        """What the outlet calls."""
        self.slow += 1


class KernelTests(OutletTestCase):
    def test_plain_transports(self) -> None:
        """Bytes go straight to the kernel where the transport is exactly Twisted's own."""
        for kind in (tcp.Server, unix.Server):
            outlet = self.outlet(self.transport(kind=kind))

            outlet.write(b"hello")

            self.assertEqual(self.socket.sent, b"hello")
            self.assertTrue(self.session.sent)

    def test_subclass(self) -> None:
        """A subclass is not one of them."""
        outlet = self.outlet(self.transport(kind=SubclassedServer))

        outlet.write(b"hello")

        self.assertEqual(self.socket.sent, b"")

    def test_tls(self) -> None:
        """After STARTTLS bytes would leave in clear."""
        transport = self.transport()
        transport.TLS = True
        self.patch(transport, "registerProducer", lambda *_: None)
        written: list[bytes] = []
        transport.write = written.append
        outlet = self.outlet(transport)

        outlet.write(b"hello")

        self.assertEqual((self.socket.sent, written), (b"", [b"hello"]))

    def test_wrapper(self) -> None:
        """A wrapper forwards every attribute of the transport, and is not fooled by that."""
        transport = self.transport()
        factory: Any = WrappingFactory(None)
        factory.protocols = {}
        wrapper = ProtocolWrapper(factory, Protocol())
        wrapper.transport = transport
        written: list[bytes] = []
        self.patch(wrapper, "write", written.append)
        outlet = self.outlet(wrapper)

        outlet.write(b"hello")

        self.assertEqual((self.socket.sent, written), (b"", [b"hello"]))

    def test_partial_write(self) -> None:
        """What the kernel does not take goes the transport's way, in order with what follows."""
        transport = self.transport(3)
        outlet = self.outlet(transport)

        outlet.write(b"hello")
        outlet.write(b" you")
        self.assertEqual(self.socket.sent, b"hello"[:3])
        transport.doWrite()

        self.assertEqual(self.socket.sent, b"hello you")

    def test_full_kernel(self) -> None:
        """EAGAIN is a write of nothing."""
        transport = self.transport(AGAIN)
        outlet = self.outlet(transport)

        outlet.write(b"hello")
        self.assertEqual(self.socket.sent, b"")
        transport.doWrite()

        self.assertEqual(self.socket.sent, b"hello")

    def test_error(self) -> None:
        """An error is left to the reactor, which meets it again."""
        reset = OSError(errno.ECONNRESET, "reset")
        transport = self.transport(reset, reset)
        outlet = self.outlet(transport)

        outlet.write(b"hello")

        self.assertIsInstance(transport.doWrite(), Exception)

    def test_disconnecting(self) -> None:
        """A transport that ends is written to in its own way."""
        transport = self.transport()
        outlet = self.outlet(transport)
        transport.disconnecting = True

        outlet.write(b"hello")

        self.assertEqual(self.socket.sent, b"")

    def test_large_write(self) -> None:
        """More than one write takes, and more than the transport buffers: the transport pauses the outlet."""
        transport = self.transport(1000)
        outlet = self.outlet(transport, 1 << 20)
        data = bytes(range(256)) * 1000

        outlet.write(data)
        outlet.write(b"behind")
        self.assertEqual(outlet.queued, 6)
        while transport.dataBuffer or transport._tempDataLen or outlet.queued:
            transport.doWrite()

        self.assertEqual(self.socket.sent, data + b"behind")


class QueueTests(OutletTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.string = StringTransport()
        self.string.abortConnection = self.abort  # type: ignore[method-assign]
        self.aborted = 0
        self.out = self.outlet(self.string)

    def abort(self) -> None:
        """What the outlet calls."""
        self.aborted += 1

    def test_interface(self) -> None:
        """The outlet is its transport's producer."""
        verifyObject(IPushProducer, self.out)
        self.assertIs(self.string.producer, self.out)

    def test_pending_goes_first(self) -> None:
        """What the turn left for this connection alone is written in front."""
        self.out.pending = [b"a", b"b"]

        self.out.write(b"c")
        self.out.write(b"d")

        self.assertEqual(self.string.value(), b"abcd")
        self.assertIsNone(self.out.pending)

    def test_paused(self) -> None:
        """While paused, frames wait, and are written in order when there is room."""
        self.out.write(b"a")
        self.out.pauseProducing()
        self.out.write(b"b")
        self.out.write(b"c")
        self.assertEqual((self.string.value(), self.out.queued), (b"a", 2))

        self.out.resumeProducing()
        self.out.write(b"d")

        self.assertEqual((self.string.value(), self.out.queued), (b"abcd", 0))

    def test_paused_again_in_the_middle(self) -> None:
        """A transport that pauses again while the queue is written gets no more of it."""
        self.out.pauseProducing()
        for frame in (b"a", b"b", b"c"):
            self.out.write(frame)
        self.patch(self.string, "write", self.write_and_pause)

        self.out.resumeProducing()
        self.assertEqual((self.string.value(), self.out.queued), (b"a", 2))
        self.assertIsNotNone(self.out.drained())
        self.out.resumeProducing()
        self.out.resumeProducing()

        self.assertEqual((self.string.value(), self.out.queued), (b"abc", 0))

    def write_and_pause(self, data: bytes) -> None:
        """A transport that is full after each write."""
        self.string.io.write(data)
        self.out.pauseProducing()

    def test_beyond_the_limit(self) -> None:
        """A queue of more than the limit resets the connection, once; exactly the limit does not."""
        self.out.pauseProducing()
        self.out.write(b"x" * 1000)
        self.assertEqual((self.aborted, self.slow), (0, 0))

        self.out.write(b"x")
        self.out.write(b"y")

        self.assertEqual((self.aborted, self.slow), (1, 1))
        self.assertIsNone(self.string.producer)

    def test_drained(self) -> None:
        """Who writes much learns when there is room."""
        self.assertIsNone(self.out.drained())
        self.out.pauseProducing()
        first, second = self.out.drained(), self.out.drained()
        assert first is not None and second is not None
        self.assertNoResult(first)

        self.out.resumeProducing()

        self.successResultOf(first)
        self.successResultOf(second)

    def test_drained_when_lost(self) -> None:
        """Nobody waits for a client that is gone, neither from before nor from then on."""
        self.out.pauseProducing()
        waiting = self.out.drained()
        assert waiting is not None

        self.out.stopProducing()

        self.successResultOf(waiting)
        self.assertIsNone(self.out.drained())
        self.out.write(b"a")
        self.assertEqual(self.string.value(), b"")

    def test_close(self) -> None:
        """A closed outlet hands over what waits and takes nothing more."""
        self.out.pauseProducing()
        self.out.write(b"a")

        self.out.close()
        self.out.close()
        self.out.write(b"b")

        self.assertEqual(self.string.value(), b"a")
        self.assertIsNone(self.string.producer)

    def test_abort(self) -> None:
        """A reset drops what waits."""
        self.out.pauseProducing()
        self.out.write(b"a")

        self.out.abort()

        self.assertEqual((self.string.value(), self.aborted, self.slow), (b"", 1, 0))


class HeldTests(QueueTests):
    """What waits in the outlets is counted together, whatever becomes of it."""

    def setUp(self) -> None:
        super().setUp()
        self.other = self.outlet(StringTransport())
        self.other.pauseProducing()
        self.other.write(b"12345")

    def tearDown(self) -> None:
        """However a test ended, an outlet that is gone counts for nothing."""
        self.out.stopProducing()
        self.assertEqual(self.counted(), (0, 0))

    def counted(self) -> tuple[int, int]:
        """Connections and bytes, without those of the other outlet."""
        return self.held.connections - 1, self.held.bytes - 5

    def test_counted(self) -> None:
        """A paused connection counts once, and its bytes while they wait."""
        self.out.write(b"a")
        self.assertEqual(self.counted(), (0, 0))
        self.out.pauseProducing()
        self.out.pauseProducing()
        self.out.write(b"bc")
        self.assertEqual(self.counted(), (1, 2))

        self.out.resumeProducing()
        self.out.resumeProducing()

        self.assertEqual(self.counted(), (0, 0))

    def test_paused_in_the_middle_is_counted(self) -> None:
        """What the transport took before it was full again waits no more."""
        self.out.pauseProducing()
        self.out.write(b"ab")
        self.out.write(b"c")
        self.patch(self.string, "write", self.write_and_pause)

        self.out.resumeProducing()

        self.assertEqual(self.counted(), (1, 1))

    def test_endings(self) -> None:
        """Closed, reset, too slow or lost: what waited is no longer counted."""
        endings: list[Callable[[TransportOutlet], object]] = [
            TransportOutlet.close,
            TransportOutlet.abort,
            TransportOutlet.stopProducing,
            lambda outlet: outlet.write(b"x" * 1000),
        ]
        for end in endings:
            outlet = self.outlet(StringTransport())
            outlet.pauseProducing()
            outlet.write(b"abc")
            self.assertEqual(self.counted(), (1, 3))

            end(outlet)

            self.assertEqual((self.counted(), outlet.queued), ((0, 0), 0))


class DeflatingTests(OutletTestCase):
    """The outlet of a connection that agreed upon compression."""

    def setUp(self) -> None:
        super().setUp()
        self.string = StringTransport()
        self.deflater = Deflater()
        self.out = DeflatingOutlet(self.string, self.session, 1000, self.on_slow, self.held, self.deflater)
        self.large = text_frame(b"x" * 2000)
        self.compressed = self.deflater.deflated(self.large)

    def test_written_compressed(self) -> None:
        """Frames are written compressed where that is worth it, those of the connection alone as well."""
        small, end = text_frame(b"{}"), close_frame(1000, "")
        self.out.pending = [small, self.large]

        self.out.write(self.large + small)
        self.out.write(end)

        self.assertEqual(self.string.value(), small + self.compressed * 2 + small + end)
        self.assertIsNone(self.out.pending)

    def test_what_waits_is_compressed(self) -> None:
        """The limit counts the bytes that wait, which are the compressed ones."""
        self.out.pauseProducing()
        for _ in range(3):
            self.out.write(self.large)

        self.assertEqual((self.out.queued, self.slow), (3 * len(self.compressed), 0))

    def test_idle(self) -> None:
        """It holds nothing more than one that does not compress, but for where its deflater is."""
        self.assertEqual(DeflatingOutlet.__slots__, ("_deflater",))
        self.assertFalse(hasattr(self.out, "__dict__"))

    def test_mixed(self) -> None:
        """Some subscribers of a channel agreed upon compression, some did not: each reads the same."""
        plain = StringTransport()
        turn, feed = Turn(Clock()), Feed()
        turn.join(feed, self.out)
        turn.join(feed, self.outlet(plain))

        turn.broadcast(feed, self.large)
        turn.flush()

        self.assertEqual((self.string.value(), plain.value()), (self.compressed, self.large))


class Lossy:
    """The messages of all channels may be dropped."""

    def __init__(self, policy: SlowConsumer = "latest") -> None:
        self.is_lossy = True
        self.now = policy

    def policy(self, channel: str) -> SlowConsumer:
        return self.now


def a_message(number: int, size: int = 0) -> bytes:
    """A message's frame."""
    return text_frame(b'{"action":"message","channel":"news","id":"%d","data":"%b"}' % (number, b"x" * size))


class LossyTests(OutletTestCase):
    """The outlet of an app whose slow clients lose messages."""

    def setUp(self) -> None:
        super().setUp()
        self.string = StringTransport()
        self.policies = Lossy()
        self.out = TransportOutlet(self.string, self.session, 1000, self.on_slow, self.held, self.policies)

    def ids(self) -> list[str]:
        return [event.get("id", event["action"]) for event in events_of(self.string.value())]

    def test_unpaused(self) -> None:
        """As long as the client reads it makes no difference."""
        for number in range(3):
            self.out.write(a_message(number))

        self.assertEqual(self.ids(), ["0", "1", "2"])

    def test_paused(self) -> None:
        """Only what waits may be dropped; what is pending for this client alone is not, and order is kept."""
        self.out.write(a_message(0))
        self.out.pauseProducing()
        for number in range(1, 4):
            self.out.pending = [text_frame(b'{"action":"ack","id":"a%d"}' % number)]
            self.out.write(a_message(number))

        self.out.resumeProducing()

        self.assertEqual(self.ids(), ["0", "a1", "error", "a2", "a3", "3"])
        self.assertEqual((self.held.dropped, self.held.bytes, self.out.queued), (2, 0, 0))
        self.assertTrue(self.session.sent)

    def test_exceeded(self) -> None:
        """A client for whom too much waits that may not be dropped is slow as ever; nothing is counted as waiting."""
        aborted: list[bool] = []
        self.string.abortConnection = lambda: aborted.append(True)  # type: ignore[method-assign]
        self.out.pauseProducing()
        self.out.write(a_message(1))

        self.out.write(text_frame(b'{"action":"presence.enter","data":"%b"}' % (b"x" * 900)))

        self.assertEqual((aborted, self.slow, self.held.bytes, self.held.connections), ([True], 1, 0, 0))

    def test_drop_oldest(self) -> None:
        """The limit is kept by dropping the oldest."""
        self.policies.now = "drop_oldest"
        self.out.pauseProducing()
        for number in range(50):
            self.out.write(a_message(number))
            self.assertLessEqual(self.out.queued, 1000)

        self.out.resumeProducing()

        self.assertEqual((self.ids()[0], self.ids()[-1], self.slow), ("error", "49", 0))
        self.assertEqual(self.held.dropped, 50 - len(self.ids()[1:]))

    def test_setting_that_changes_meanwhile(self) -> None:
        """What waits already when the setting comes stays; when it goes, the client keeps to it until it caught up."""
        self.policies.is_lossy = False
        self.out.pauseProducing()
        self.out.write(a_message(1) + a_message(2))
        self.policies.is_lossy = True
        self.out.write(a_message(3))
        self.policies.is_lossy = False
        self.out.write(a_message(4))

        self.out.resumeProducing()

        self.assertEqual(self.ids(), ["1", "2", "error", "4"])
        self.assertFalse(self.out._is_lossy)

    def test_close(self) -> None:
        """What waits goes to the transport, in order."""
        self.out.pauseProducing()
        self.out.write(a_message(1))
        self.out.write(a_message(2))

        self.out.close()

        self.assertEqual((self.ids(), self.held.bytes), (["error", "2"], 0))

    def test_compressed(self) -> None:
        """What waits is compressed when it leaves, and so may be told apart until then."""
        deflater, self.string = Deflater(), StringTransport()
        out = DeflatingOutlet(self.string, self.session, 9000, self.on_slow, self.held, deflater, self.policies)
        out.write(a_message(0, 600))
        out.pauseProducing()
        for number in (1, 2):
            out.pending = [a_message(number + 10, 500)]
            out.write(a_message(number, 600))
        out.resumeProducing()

        written = self.string.value()

        expected = [a_message(0, 600), a_message(11, 500), None, a_message(12, 500), a_message(2, 600)]
        for frame in expected:
            if frame is None:
                at = written.index(b'","code":"recovery_failed"')
                written = written[written.index(b"}", at) + 1 :]
            else:
                compressed = deflater.deflated(frame)
                self.assertTrue(written.startswith(compressed), frame)
                written = written[len(compressed) :]
        self.assertEqual(written, b"")


class FanOutTests(OutletTestCase):
    """A large fan-out, of which a turn does one write."""

    def test_slow_subscriber(self) -> None:
        """One that does not read is reset in the middle of it; the others get everything, and at their own time."""
        transports = [StringTransport() for _ in range(4)]
        outlets = [self.outlet(transport, limit=10) for transport in transports]
        slow, paused = outlets[1], outlets[2]
        aborted: list[bool] = []
        transports[1].abortConnection = lambda: aborted.append(True)  # type: ignore[method-assign]
        clock, feed = Clock(), Feed()
        turn = Turn(clock, slice_writes=1)
        for outlet in outlets:
            turn.join(feed, outlet)
        slow.pauseProducing()
        paused.pauseProducing()

        for frames in (b"1234", b"5678"):
            turn.broadcast(feed, frames)
            clock.advance(0)
        paused.resumeProducing()
        turn.broadcast(feed, b"9abc")
        clock.advance(0)

        self.assertEqual((aborted, self.slow), ([True], 1))
        whole = b"123456789abc"
        self.assertEqual([transport.value() for transport in transports], [whole, b"", whole, whole])
