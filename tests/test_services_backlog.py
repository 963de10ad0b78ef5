"""The watch over what waits to be persisted."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher
from twisted.test.proto_helpers import EventLoggingObserver

from tests.base import SynchronousTestCase
from wsock.errors import Unavailable
from wsock.services.backlog import Backlog


class _Queue:
    """A queue of a length that is set; ``None`` is away."""

    def __init__(self, length: int | None = 0) -> None:
        self.now = length

    async def length(self) -> int:
        if self.now is None:
            raise Unavailable("away")
        return self.now


class BacklogTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.queues = [_Queue(), _Queue()]
        self.backlog = Backlog(self.queues, 1000, self.clock)  # type: ignore[arg-type]  # all that is asked for
        self.seen = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)  # type: ignore[arg-type]  # Twisted's type is too narrow
        self.backlog.startService()
        self.addCleanup(self.backlog.stopService)

    def look(self, *lengths: int | None) -> list[LogLevel]:
        """What is logged when the queues have these lengths."""
        for queue, length in zip(self.queues, lengths, strict=True):
            queue.now = length
        before = len(list(self.seen))
        self.clock.advance(5)
        return [event["log_level"] for event in list(self.seen)[before:]]

    def test_length(self) -> None:
        """The length is that of all queues together."""
        self.look(3, 4)

        self.assertEqual(self.backlog.length, 7)

    def test_warning(self) -> None:
        """Half of the bound in one queue is warned of once, until it was well below."""
        self.assertEqual(self.look(500, 500), [])
        self.assertEqual(self.look(501, 0), [LogLevel.warn])
        self.assertEqual(self.look(900, 0), [])
        self.assertEqual(self.look(300, 0), [])
        self.assertEqual(self.look(249, 0), [LogLevel.info])
        self.assertEqual(self.look(501, 0), [LogLevel.warn])

    def test_away(self) -> None:
        """While a queue is away nothing is known, and the watch goes on."""
        self.look(3, 4)
        self.assertEqual(self.look(None, 9), [])
        self.assertEqual(self.backlog.length, 7)
        self.look(1, 1)

        self.assertEqual(self.backlog.length, 2)

    def test_no_queue(self) -> None:
        """A single node has none, and no timer for it."""
        clock = Clock()
        backlog = Backlog([], 1000, clock)
        backlog.startService()

        self.assertEqual(clock.getDelayedCalls(), [])
        self.assertIsNone(backlog.stopService())
