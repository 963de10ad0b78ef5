"""Tests of wsock.services.housekeeping."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.base import SynchronousTestCase
from wsock.backends.memory_directory import MemoryDirectory
from wsock.backends.memory_store import MemoryMessages
from wsock.errors import Unavailable
from wsock.interfaces import Account, App
from wsock.protocol.messages import HistoryQuery
from wsock.services.housekeeping import Housekeeping
from wsock.testing.contracts.message_store import make_message
from wsock.testing.fakes import Now


class RecordingStore(MemoryMessages):
    """Keeps what it was asked to delete; waits for ``slow``, and fails with ``trouble``."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.slow: Deferred[None] | None = None
        self.trouble: Exception | None = None

    async def expire(self, app: str, before: int, transient_before: int, limit: int) -> int:
        self.asked.append(app)
        if self.slow is not None:
            await self.slow
        if self.trouble is not None:
            raise self.trouble
        return await super().expire(app, before, transient_before, limit)


class HousekeepingTests(SynchronousTestCase):
    """Messages live for 100 s, those that do not persist for 20 s; a round every 10 s."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.now = Now(self.clock, 1000.0)
        self.store = RecordingStore()
        self.directory = MemoryDirectory()
        self.trims = 0
        self.chores = 0
        self.trim_trouble: Exception | None = None
        for id in ("app", "other"):
            account = Account(id=id, email=f"{id}@localhost", password_hash="", created_at=0)
            self.successResultOf(self.directory.create(App(id=id, name=id, created_at=0), [], account))
        self.housekeeping = Housekeeping(
            self.directory,
            self.store,
            self.trim,
            self.clock,
            self.now,
            ttl_seconds=100,
            transient_seconds=20,
            chores=[self.chore],
        )
        self.housekeeping.startService()
        self.addCleanup(self.stop)

    def trim(self) -> None:
        self.trims += 1
        if self.trim_trouble is not None:
            raise self.trim_trouble

    async def chore(self) -> None:
        self.chores += 1

    def test_chores(self) -> None:
        """What else has to be done is done in each round."""
        self.clock.pump([10, 10])

        self.assertEqual(self.chores, 2)

    def stop(self) -> None:
        if self.housekeeping.running:
            self.housekeeping.stopService()

    def append(self, app: str, *timestamps: int, **facts: Any) -> None:
        messages = [make_message(n, timestamp=timestamp, **facts) for n, timestamp in enumerate(timestamps, 1)]
        self.successResultOf(self.store.append(app, messages))

    def kept(self, app: str = "app", channel: str = "room") -> list[int]:
        query = HistoryQuery(limit=10_000, direction="forward")
        page = self.successResultOf(self.store.page(app, channel, query))
        return [message.timestamp for message in page.messages]

    def test_expired_messages_are_deleted(self) -> None:
        """A round deletes what is older than its time to live, in every app."""
        for app in ("app", "other"):
            self.append(app, 909_999, 910_000)
        self.clock.advance(9.9)
        self.assertEqual(len(self.kept()), 2)

        self.clock.advance(0.1)

        self.assertEqual((self.kept(), self.kept("other"), self.trims), ([910_000], [910_000], 1))

    def test_transient_messages_are_deleted_earlier(self) -> None:
        """A message that is no history is kept for the recovery window only."""
        self.append("app", 989_999, 990_000, persist=False)
        self.clock.advance(10)

        self.assertEqual(self.successResultOf(self.store.expire("app", 0, 990_001, 10)), 1)

    def test_a_slice_at_a_time(self) -> None:
        """Many messages are deleted in slices, with a pause between them."""
        self.append("app", *range(1, 2501))
        self.clock.advance(10)
        self.assertEqual(len(self.kept()), 1500)

        self.clock.advance(0.05)
        self.assertEqual(len(self.kept()), 500)
        self.clock.advance(0.05)

        self.assertEqual((self.kept(), self.store.asked), ([], ["app"] * 3 + ["other"]))

    def test_rounds_do_not_overlap(self) -> None:
        """A round that takes long is waited for."""
        self.store.slow = Deferred()
        self.clock.pump([10] * 3)
        self.assertEqual(self.store.asked, ["app"])

        self.store.slow.callback(None)
        self.store.slow = None

        self.clock.advance(10)
        self.assertEqual(self.store.asked, ["app", "other"] * 2)

    def test_outage_is_survived(self) -> None:
        """While the store is away nothing happens; the next round tries again."""
        self.append("app", 1)
        self.store.trouble = Unavailable("the disk is gone")
        self.clock.pump([10] * 2)
        self.store.trouble = None

        self.clock.advance(10)

        self.assertEqual((self.kept(), self.trims), ([], 3))

    def test_fault_is_survived(self) -> None:
        """A fault is logged; the next round tries again."""
        self.append("app", 1)
        self.trim_trouble = ValueError("a bug")
        self.clock.advance(10)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.trim_trouble = None

        self.clock.advance(10)

        self.assertEqual(self.kept(), [])

    def test_stop_between_rounds(self) -> None:
        """After a stop there are no more rounds, until the next start."""
        self.clock.advance(10)
        stopped = self.housekeeping.stopService()

        if stopped is not None:
            self.successResultOf(stopped)
        self.clock.pump([10] * 3)
        self.assertEqual(self.trims, 1)
        self.housekeeping.startService()
        self.clock.advance(10)
        self.assertEqual(self.trims, 2)

    def test_stop_during_a_round(self) -> None:
        """A stop ends the round that is under way, in a pause or while the store works, and is told when it has."""
        self.append("app", *range(1, 2501))
        self.clock.advance(10)

        stopped = self.housekeeping.stopService()

        assert stopped is not None
        self.successResultOf(stopped)
        self.assertEqual((self.clock.getDelayedCalls(), len(self.kept())), ([], 1500))

    def test_stop_while_the_store_works(self) -> None:
        """A stop does not wait for a store that does not answer."""
        self.store.slow = Deferred()
        self.clock.advance(10)

        stopped = self.housekeeping.stopService()

        assert stopped is not None
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])
