"""The audit log in memory: for ``--dev`` and for tests."""

from __future__ import annotations

from collections.abc import Sequence

from zope.interface import implementer

from wsock.interfaces import AuditPage, IAuditLog
from wsock.records import AuditEntry, AuditQuery

__all__ = ["MemoryAudit"]


@implementer(IAuditLog)
class MemoryAudit:
    """Keeps the last ``size`` entries for as long as the process lives."""

    def __init__(self, size: int = 10_000) -> None:
        self._size = size
        self._entries: dict[str, AuditEntry] = {}

    async def append(self, entries: Sequence[AuditEntry]) -> None:
        """Stores entries."""
        for entry in entries:
            self._entries.setdefault(entry.id, entry)
        for entry in self._newest_first()[self._size :]:
            del self._entries[entry.id]

    async def page(self, query: AuditQuery, cursor: str | None, limit: int) -> AuditPage:
        """The entries that are asked for, the newest first."""
        before = None if cursor is None else AuditQuery.place(cursor)
        found = [e for e in self._newest_first() if query.matches(e) and (before is None or e.place < before)]
        return AuditPage(found[:limit], found[limit - 1].cursor if len(found) > limit else None)

    async def expire(self, before: int, limit: int) -> int:
        """Deletes entries older than ``before``."""
        old = [entry.id for entry in self._entries.values() if entry.at < before][:limit]
        for id in old:
            del self._entries[id]
        return len(old)

    def _newest_first(self) -> list[AuditEntry]:
        return sorted(self._entries.values(), key=lambda entry: entry.place, reverse=True)
