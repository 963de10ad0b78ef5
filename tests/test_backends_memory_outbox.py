"""Tests of wsock.backends.memory_outbox."""

from __future__ import annotations

from tests.base import SynchronousTestCase, TestCase
from wsock.backends.memory_outbox import MemoryOutbox
from wsock.testing.contracts.outbox import DeliveryContract, OutboxContract, make_row


class MemoryOutboxTests(OutboxContract, TestCase):
    """The memory outbox is an IOutboxStore."""

    async def make_outbox(self) -> MemoryOutbox:
        return MemoryOutbox()


class MemoryDeliveryTests(DeliveryContract, TestCase):
    """What is in it is given out and settled as in every IOutboxStore."""

    async def make_outbox(self) -> MemoryOutbox:
        return MemoryOutbox()


class BoundTests(SynchronousTestCase):
    """Memory is bounded."""

    def test_oldest_rows_go_first(self) -> None:
        """An outbox that nobody empties keeps its newest rows."""
        outbox = MemoryOutbox(max_rows=3)

        self.successResultOf(outbox.add([make_row(str(n)) for n in range(2)]))
        self.successResultOf(outbox.add([make_row(str(n)) for n in range(2, 5)]))

        self.assertEqual(self.successResultOf(outbox.pending("app", 10)), [make_row(str(n)) for n in (2, 3, 4)])
