"""The outbox in memory: for ``--dev`` and for tests. It ends with the process."""

from __future__ import annotations

from itertools import islice

from zope.interface import implementer

from wsock.interfaces import IOutboxStore, OutboxRow

__all__ = ["MemoryOutbox"]


@implementer(IOutboxStore)
class MemoryOutbox:
    """Keeps at most ``max_rows``: the oldest go first."""

    def __init__(self, *, max_rows: int = 100_000) -> None:
        self._max_rows = max_rows
        self._rows: dict[tuple[str, str, str], OutboxRow] = {}

    async def add(self, rows: list[OutboxRow]) -> None:
        """Stores the rows: see :class:`IOutboxStore`."""
        for row in rows:
            self._rows.setdefault((row.event.app, row.event.id, row.endpoint), row)
        for key in list(islice(self._rows, max(0, len(self._rows) - self._max_rows))):
            del self._rows[key]

    async def pending(self, app: str, limit: int) -> list[OutboxRow]:
        """The first rows of an app: see :class:`IOutboxStore`."""
        return list(islice((row for row in self._rows.values() if row.event.app == app), limit))
