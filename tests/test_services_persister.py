"""Tests of wsock.services.persister."""

from __future__ import annotations

from collections import deque

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.base import SynchronousTestCase
from wsock.backends.memory_store import MemoryMessages
from wsock.errors import Unavailable
from wsock.interfaces import Event, IMessageStore, IWorkQueue, Rejected, Work
from wsock.protocol.messages import HistoryQuery, Message, Page
from wsock.services.persister import Persister
from wsock.testing.contracts.message_store import make_message


def _event(number: int) -> Event:
    return Event(id=f"e{number}", app="app", channel="room", type="channel.occupied", data=b"{}")


def _work(*numbers: int, events: int = 0) -> Work:
    messages = {"app": [make_message(n) for n in numbers]} if numbers else {}
    return Work([f"{n}-0" for n in numbers], messages, [_event(n) for n in range(events)])


@implementer(IWorkQueue)
class _Queue:
    """Gives out what it is given; an error in its place is raised."""

    def __init__(self) -> None:
        self.finished: list[Work] = []
        self.buried: list[str] = []
        self.trouble: Exception | None = None
        self.taken = 0
        self.left: list[Work] = []
        self.before = 0
        self._waiting: Deferred[None] | None = None
        self._work: deque[Work | Exception] = deque()

    def add(self, work: Work | Exception) -> None:
        self._work.append(work)
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting.callback(None)

    async def take(self, limit: int) -> Work:
        self.taken += 1
        if not self._work:
            self._waiting = Deferred()
            await self._waiting
        work = self._work.popleft()
        if isinstance(work, Exception):
            raise work
        return work

    async def is_first(self, work: Work) -> bool:
        return self.before <= len(self.finished)

    async def take_left(self, limit: int) -> Work:
        return self.left.pop() if self.left else Work([], {}, [])

    async def length(self) -> int:
        return len(self._work)

    async def done(self, work: Work) -> None:
        if self.trouble is not None:
            raise self.trouble
        self.finished.append(work)

    async def bury(self, work: Work, text: str, reason: str) -> None:
        self.buried.append(f"{reason}: {text}")


@implementer(IMessageStore)
class _Store(MemoryMessages):
    """A store that can be away, and that rejects some."""

    trouble: Exception | None = None
    rejected: tuple[int, ...] = ()

    async def append(self, app: str, messages: list[Message]) -> None:
        if self.trouble is not None:
            raise self.trouble
        bad = [(message, "too big") for message in messages if message.sequence in self.rejected]
        await super().append(app, [message for message in messages if message.sequence not in self.rejected])
        if bad:
            raise Rejected(bad)


class PersisterCase(SynchronousTestCase):
    """A persister that runs, over a queue and a store that can be away."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.queue = _Queue()
        self.store = _Store()
        self.events: list[Event] = []
        self.recorded: list[int] = []
        self.record_trouble: Exception | None = None
        self.persister = Persister(self.queue, self.store, self.record, self.clock)
        self.persister.startService()

    async def record(self, events: list[Event], messages: dict[str, list[Message]]) -> None:
        if self.record_trouble is not None:
            raise self.record_trouble
        self.events += events
        self.recorded += [message.sequence for app in messages for message in messages[app]]

    def stored(self) -> list[int]:
        query = HistoryQuery(limit=1000, direction="forward")
        page: Page = self.successResultOf(Deferred.fromCoroutine(self.store.page("app", "room", query)))
        return [message.sequence for message in page.messages]

    def stop(self) -> None:
        stopping = self.persister.stopService()
        assert stopping is not None
        self.assertIsNone(self.successResultOf(stopping))
        self.assertEqual(self.clock.getDelayedCalls(), [])


class PersisterTests(PersisterCase):
    """Work is done, then acknowledged."""

    def test_fakes_provide_their_interfaces(self) -> None:
        """The fakes of this test are what they stand for."""
        verifyObject(IWorkQueue, self.queue)
        verifyObject(IMessageStore, self.store)

    def test_no_history(self) -> None:
        """What is no history is recorded, and not stored."""
        transient = replace(make_message(2), persist=False)
        self.queue.add(Work(["1-0", "2-0"], {"app": [make_message(1), transient], "other": [transient]}, []))

        self.assertEqual(self.recorded, [1, 2, 2])
        self.assertEqual(self.successResultOf(self.store.expire("app", 1 << 50, 1 << 50, 9)), 1)
        self.assertEqual(self.successResultOf(self.store.expire("other", 1 << 50, 1 << 50, 9)), 0)

    def test_gathers(self) -> None:
        """The first work is done at once, what comes soon after it together; behind a whole batch nobody waits."""
        self.stop()
        self.persister = Persister(self.queue, self.store, self.record, self.clock, gather_seconds=0.1)
        self.queue.taken = 0
        self.queue.add(_work(1))
        self.persister.startService()

        self.assertEqual((self.stored(), self.queue.taken), ([1], 1))
        self.queue.add(_work(*range(2, 502)))
        self.clock.advance(0.09)
        self.assertEqual(self.queue.taken, 1)
        self.clock.advance(0.02)
        self.assertEqual((len(self.stored()), self.queue.taken), (501, 3))
        self.stop()

    def test_stores_and_records(self) -> None:
        """Messages are in the store and events recorded before the work is done."""
        work = _work(1, 2, events=2)

        self.queue.add(work)

        self.assertEqual((self.stored(), [event.id for event in self.events]), ([1, 2], ["e0", "e1"]))
        self.assertEqual((self.recorded, self.queue.finished), ([1, 2], [work]))
        self.stop()

    def test_goes_on(self) -> None:
        """The next piece of work follows without a delay; an empty one is no trouble."""
        for work in (_work(1), _work(), _work(2)):
            self.queue.add(work)

        self.assertEqual(self.stored(), [1, 2])
        self.assertEqual(len(self.queue.finished), 3)

    def test_measured(self) -> None:
        """How much was done at once and how long it took is told; to find nothing to do is no work."""
        self.queue.add(_work())
        self.queue.add(_work(1, 2))
        self.store.trouble = Unavailable("away")
        self.queue.add(_work(3))
        self.store.trouble = None
        self.clock.advance(0.2)

        self.assertEqual((len(self.persister.batch_sizes), self.persister.batch_sizes.total), (2, 3))
        self.assertEqual((len(self.persister.batch_seconds), self.persister.batch_seconds.total), (2, 0.2))

    def test_clock_put_back(self) -> None:
        """No work takes less than no time, whatever becomes of the wall clock."""
        self.store.trouble = Unavailable("away")
        self.queue.add(_work(1))
        self.store.trouble = None
        [retry] = self.clock.getDelayedCalls()
        retry.delay(-3600)
        self.clock.rightNow -= 3600
        self.clock.advance(0.2)

        self.assertEqual((len(self.persister.batch_seconds), self.persister.batch_seconds.total), (1, 0))

    def test_store_is_away(self) -> None:
        """The work is kept and tried again, ever more slowly, until the store is back; then it is done once."""
        self.store.trouble = Unavailable("away")
        self.queue.add(_work(1))
        self.assertEqual(self.queue.finished, [])
        for _ in range(20):
            self.clock.advance(5)
        self.assertEqual(self.queue.taken, 1)

        self.store.trouble = None

        self.clock.advance(5)
        self.assertEqual((self.stored(), len(self.queue.finished)), ([1], 1))
        self.store.trouble = Unavailable("away")
        self.queue.add(_work(2))
        self.store.trouble = None
        self.clock.advance(0.2)
        self.assertEqual(self.stored(), [1, 2])

    def test_events_cant_be_recorded(self) -> None:
        """The work is not done before its events are recorded."""
        self.record_trouble = Unavailable("away")
        self.queue.add(_work(1, events=1))
        self.assertEqual(self.queue.finished, [])

        self.record_trouble = None

        self.clock.advance(0.2)
        self.assertEqual((len(self.events), len(self.queue.finished)), (1, 1))

    def test_rejected_are_buried(self) -> None:
        """What can never be stored is kept elsewhere with its reason, and holds up nothing."""
        self.store.rejected = (2,)

        self.queue.add(_work(1, 2, 3))

        self.assertEqual(self.stored(), [1, 3])
        [buried] = self.queue.buried
        self.assertIn("too big: app epoch-a ", buried)
        self.assertIn('"epoch-a-2"', buried)
        self.assertEqual(len(self.queue.finished), 1)

    def test_queue_is_away(self) -> None:
        """It is asked again after a while."""
        self.queue.add(Unavailable("away"))
        self.queue.add(_work(1))
        self.persister = Persister(self.queue, self.store, self.record, self.clock)

        self.persister.startService()

        self.clock.advance(0.2)
        self.assertEqual(self.stored(), [1])

    def test_work_that_could_not_be_acknowledged(self) -> None:
        """It may be given out again, and is stored once."""
        self.queue.trouble = Unavailable("away")
        self.queue.add(_work(1))
        self.queue.trouble = None
        self.clock.advance(0.2)

        self.queue.add(_work(1))

        self.assertEqual((self.stored(), len(self.queue.finished)), ([1], 1))

    def test_a_bug_is_logged_and_does_not_end_it(self) -> None:
        """An error that nobody expects is logged, and the next work is done."""
        self.record_trouble = ValueError("bug")
        self.queue.add(_work(1, events=1))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.record_trouble = None

        self.clock.advance(0.2)

        self.queue.add(_work(2))
        self.assertEqual(self.stored(), [1, 2])

    def test_stop(self) -> None:
        """It ends wherever it is: waiting for work, for the store, or for the queue."""
        self.stop()
        self.assertIsNone(self.persister.stopService())
        for trouble in (Unavailable("away"), None):
            self.queue = _Queue()
            self.store.trouble = trouble
            self.queue.add(_work(7) if trouble else Unavailable("away"))
            self.persister = Persister(self.queue, self.store, self.record, self.clock)
            self.persister.startService()

            self.stop()

            self.assertEqual(self.queue.finished, [])


class OrderTests(PersisterCase):
    """Some of the work is to be told in order."""

    def setUp(self) -> None:
        super().setUp()
        self.stop()
        self.asked: list[int] = []

        async def is_ordered(events: list[Event], messages: dict[str, list[Message]]) -> bool:
            self.asked.append(len(events))
            return bool(messages)

        self.persister = Persister(self.queue, self.store, self.record, self.clock, is_ordered=is_ordered)
        self.persister.startService()

    def test_waits_for_its_turn(self) -> None:
        """It is stored at once, and recorded when all before it is done."""
        self.queue.before = 1
        self.queue.add(_work(1, 2))
        self.clock.advance(0.1)
        self.assertEqual((self.stored(), self.recorded), ([1, 2], []))

        self.queue.finished.append(_work())
        self.clock.advance(0.1)

        self.assertEqual((self.recorded, len(self.queue.finished)), ([1, 2], 2))

    def test_what_was_left(self) -> None:
        """What somebody left undone before it is done first."""
        self.queue.before = 1
        self.queue.left = [_work(events=1)]
        self.queue.left[0].ids.append("0-0")

        self.queue.add(_work(1))

        self.assertEqual((len(self.events), self.recorded, len(self.queue.finished)), (1, [1], 2))

    def test_without_order(self) -> None:
        """What need not be in order waits for nobody."""
        self.queue.before = 9
        self.queue.add(_work(events=2))

        self.assertEqual((len(self.events), self.asked), (2, [2]))
