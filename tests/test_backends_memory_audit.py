"""Tests of wsock.backends.memory_audit."""

from __future__ import annotations

from tests.base import TestCase
from wsock.backends.memory_audit import MemoryAudit
from wsock.records import AuditEntry, AuditQuery
from wsock.testing.contracts.audit import AuditContract


class MemoryAuditTests(AuditContract, TestCase):
    """The memory log is an IAuditLog."""

    async def make_audit(self) -> MemoryAudit:
        return MemoryAudit()


class BoundTests(TestCase):
    """What is beyond the log's size."""

    async def test_oldest_go(self) -> None:
        """It keeps the newest entries, whatever the order in which they came."""
        audit = MemoryAudit(2)

        for at in (3, 1, 2):
            await audit.append([AuditEntry(id=f"e{at}", at=at, actor="", action="x")])

        self.assertEqual([entry.at for entry in (await audit.page(AuditQuery(), None, 9)).items], [3, 2])
