"""A journal that keeps with messages what webhooks are to be told of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.defer import Deferred
from zope.interface import implementer

from wsock.interfaces import ChannelTail, IJournal, JournalRecord, OutboxRow, RecentId

__all__ = ["OutboxJournal"]


async def _nothing(records: list[JournalRecord]) -> list[OutboxRow]:
    return []


@implementer(IJournal)
class OutboxJournal:
    """Another journal, with the outbox beside it.

    ``keep`` makes messages and rows durable, all or none, before its Deferred fires. Until they are set, ``rows``,
    which tells what is to be told of messages, finds nothing, and ``kept``, which is told of rows that were stored,
    does nothing.
    """

    def __init__(
        self, journal: IJournal, keep: Callable[[list[JournalRecord], list[OutboxRow]], Deferred[None]]
    ) -> None:
        self._journal = journal
        self._keep = keep
        self.rows: Callable[[list[JournalRecord]], Awaitable[list[OutboxRow]]] = _nothing
        self.kept: Callable[[list[OutboxRow]], None] = lambda rows: None

    def commit(self, records: list[JournalRecord]) -> Deferred[None]:
        """Makes the messages durable, and with them what is to be told of them."""
        return Deferred.fromCoroutine(self._commit(records))

    async def _commit(self, records: list[JournalRecord]) -> None:
        rows = await self.rows(records)
        if not rows:
            await self._journal.commit(records)
            return
        await self._keep(records, rows)
        self.kept(rows)

    async def tail(self, app: str, channel: str, cutoff: int, limit: int) -> ChannelTail | None:
        """The channel's end."""
        return await self._journal.tail(app, channel, cutoff, limit)

    async def recent_ids(self, cutoff: int) -> list[RecentId]:
        """The ids to deduplicate."""
        return await self._journal.recent_ids(cutoff)

    async def last_timestamps(self) -> dict[str, int]:
        """For each app the largest timestamp ever committed."""
        return await self._journal.last_timestamps()
