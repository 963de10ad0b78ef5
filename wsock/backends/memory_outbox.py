"""The outbox in memory: for ``--dev`` and for tests. It ends with the process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from zope.interface import implementer

from wsock.backends.outbox_rows import (
    BATCH_SECONDS,
    BATCHED,
    ORDERED,
    PLAIN,
    batch_of,
    due_of,
    first_batch,
    flags_of,
    kind_of,
    log_of,
    number_of,
)
from wsock.interfaces import (
    Agendum,
    Attempt,
    Delivery,
    DeliveryPage,
    DeliveryQuery,
    DeliveryState,
    IOutboxStore,
    OutboxRow,
    Verdict,
)

__all__ = ["MemoryOutbox"]

_Key = tuple[str, str, str]


@dataclass(slots=True)
class _Kept:
    """A row and what became of it."""

    number: int
    row: OutboxRow
    kind: int
    due: float
    state: DeliveryState = "pending"
    tries: int = 0
    owner: str = ""
    batch: str = ""
    settled: float = 0.0
    attempts: tuple[Attempt, ...] = ()

    def delivery(self, *, attempts: bool = True) -> Delivery:
        """As it is told."""
        return Delivery(
            id=str(self.number),
            row=self.row,
            state=self.state,
            due=self.due,
            tries=self.tries,
            batch=self.batch,
            settled=self.settled,
            attempts=self.attempts if attempts else (),
        )


@dataclass(slots=True)
class _Rows:
    """The rows of one endpoint by their numbers, in order: all, and those that are pending."""

    all: dict[int, _Kept] = field(default_factory=dict)
    pending: dict[int, _Kept] = field(default_factory=dict)


@implementer(IOutboxStore)
class MemoryOutbox:
    """Keeps at most ``max_rows``: the oldest go first."""

    def __init__(self, *, max_rows: int = 100_000) -> None:
        self._max_rows = max_rows
        self._number = 0
        self._rows: dict[_Key, _Kept] = {}
        self._by_id: dict[str, _Kept] = {}
        self._endpoints: dict[str, _Rows] = {}

    async def add(self, rows: list[OutboxRow]) -> None:
        """Stores the rows: see :class:`IOutboxStore`."""
        for row in rows:
            self._add(row)
        for key in list(islice(self._rows, max(0, len(self._rows) - self._max_rows))):
            self._drop(self._rows[key])

    def _add(self, row: OutboxRow) -> None:
        key = _key(row)
        if key in self._rows:
            return
        self._number += 1
        kind = kind_of(row)
        stored = OutboxRow(row.event, row.endpoint, row.created, *flags_of(kind))
        kept = self._rows[key] = _Kept(self._number, stored, kind, due_of(row))
        self._by_id[str(kept.number)] = kept
        of_endpoint = self._endpoints.setdefault(row.endpoint, _Rows())
        of_endpoint.all[kept.number] = of_endpoint.pending[kept.number] = kept

    def _drop(self, kept: _Kept) -> None:
        del self._rows[_key(kept.row)], self._by_id[str(kept.number)]
        of_endpoint = self._endpoints[kept.row.endpoint]
        del of_endpoint.all[kept.number]
        of_endpoint.pending.pop(kept.number, None)
        if not of_endpoint.all:
            del self._endpoints[kept.row.endpoint]

    async def pending(self, app: str, limit: int) -> list[OutboxRow]:
        """The first rows of an app: see :class:`IOutboxStore`."""
        rows = (kept.row for kept in self._rows.values() if kept.row.event.app == app and kept.state == "pending")
        return list(islice(rows, limit))

    async def agenda(self, after: str, limit: int) -> list[Agendum]:
        """What is pending for whom: see :class:`IOutboxStore`."""
        waiting = sorted(endpoint for endpoint, rows in self._endpoints.items() if rows.pending and endpoint > after)
        return [self._agendum(endpoint) for endpoint in waiting[:limit]]

    def _agendum(self, endpoint: str) -> Agendum:
        first = min(self._endpoints[endpoint].pending.values(), key=lambda kept: kept.due)
        return Agendum(first.row.event.app, endpoint, first.due)

    async def claim(self, owner: str, endpoint: str, now: float, lease_seconds: float, limit: int) -> list[Delivery]:
        """Gives out deliveries: see :class:`IOutboxStore`."""
        rows = self._endpoints.get(endpoint)
        pending = rows.pending if rows is not None else {}
        claimed = list(islice(_due(_singles(pending.values()), now), limit))
        if len(claimed) < limit:
            claimed += _batch(pending.values(), owner, now, limit - len(claimed))
        for kept in claimed:
            kept.owner, kept.due = owner, now + lease_seconds
        return [kept.delivery(attempts=False) for kept in claimed]

    async def release(self, now: float) -> None:
        """Ends all leases: see :class:`IOutboxStore`."""
        for rows in self._endpoints.values():
            for kept in rows.pending.values():
                if kept.owner:
                    kept.owner, kept.due = "", now

    async def settle(self, owner: str, verdicts: Sequence[Verdict]) -> None:
        """Says what becomes of claimed deliveries: see :class:`IOutboxStore`."""
        for verdict in verdicts:
            kept = self._by_id.get(verdict.id)
            if kept is not None and kept.state == "pending" and kept.owner == owner:
                self._settle(kept, verdict)

    async def page(self, query: DeliveryQuery, cursor: str | None, limit: int) -> DeliveryPage:
        """The deliveries that are asked for: see :class:`IOutboxStore`."""
        behind = None if cursor is None else number_of(cursor)
        if cursor is not None and behind is None:
            raise ValueError("this is no cursor of a list of deliveries")
        found = list(islice((one for one in self._asked(query) if behind is None or one.number < behind), limit + 1))
        items = [kept.delivery() for kept in found[:limit]]
        return DeliveryPage(items, items[-1].id if len(found) > limit else None)

    async def redeliver(self, query: DeliveryQuery, now: float, limit: int) -> int:
        """Makes settled deliveries pending again: see :class:`IOutboxStore`."""
        found = list(islice((kept for kept in self._asked(query) if kept.state != "pending"), limit))
        for kept in found:
            kept.state, kept.due, kept.settled, kept.tries, kept.owner, kept.batch = "pending", now, 0.0, 0, "", ""
        if found:
            rows = self._endpoints[query.endpoint]
            rows.pending = dict(sorted((rows.pending | {kept.number: kept for kept in found}).items()))
        return len(found)

    async def bury(self, endpoint: str, reason: str, now: float, limit: int) -> int:
        """Gives up what is due: see :class:`IOutboxStore`."""
        rows = self._endpoints.get(endpoint, _Rows())
        found = list(islice(_due(rows.pending.values(), now), limit))
        for kept in found:
            self._settle(kept, Verdict(id="", state="dead", at=now, due=kept.due))
            kept.attempts = log_of((*kept.attempts, Attempt(now, 0, 0, error=reason)))
        return len(found)

    async def remove(self, endpoint: str, limit: int) -> int:
        """Deletes what there is for an endpoint: see :class:`IOutboxStore`."""
        found = list(islice(self._endpoints.get(endpoint, _Rows()).all.values(), limit))
        for kept in found:
            self._drop(kept)
        return len(found)

    async def expire(self, before: float, limit: int) -> int:
        """Deletes what was settled before: see :class:`IOutboxStore`."""
        settled = (kept for kept in self._rows.values() if kept.state != "pending" and kept.settled < before)
        found = list(islice(settled, limit))
        for kept in found:
            self._drop(kept)
        return len(found)

    def _settle(self, kept: _Kept, verdict: Verdict) -> None:
        kept.state, kept.due, kept.owner = verdict.state, verdict.due, ""
        if verdict.state != "pending":
            kept.settled = verdict.at
            del self._endpoints[kept.row.endpoint].pending[kept.number]
        if verdict.attempt is not None:
            kept.tries += 1
            kept.attempts = log_of((*kept.attempts, verdict.attempt))

    def _asked(self, query: DeliveryQuery) -> Iterator[_Kept]:
        """What is asked for, the newest first."""
        rows = self._endpoints.get(query.endpoint, _Rows())
        for kept in reversed(list(rows.all.values())):
            created = kept.row.created
            if (
                kept.state in query.states
                and (query.id is None or query.id == str(kept.number))
                and (query.since is None or created >= query.since)
                and (query.until is None or created < query.until)
            ):
                yield kept


def _key(row: OutboxRow) -> _Key:
    return row.event.app, row.event.id, row.endpoint


def _due(rows: Iterable[_Kept], now: float) -> Iterator[_Kept]:
    return (kept for kept in rows if kept.due <= now)


def _singles(rows: Iterable[_Kept]) -> Iterator[_Kept]:
    """What is told by itself: of each channel that is ordered only the first."""
    channels: set[str] = set()
    for kept in rows:
        channel = kept.row.event.channel
        if kept.kind == PLAIN:
            yield kept
        elif kept.kind == ORDERED and channel not in channels:
            channels.add(channel)
            yield kept


def _batch(rows: Iterable[_Kept], owner: str, now: float, limit: int) -> list[_Kept]:
    """A whole batch: an earlier one, or one that is made of what waits."""
    batched = {kept.number: kept for kept in rows if kept.kind == BATCHED}
    first = min(_due(batched.values(), now), key=lambda kept: (kept.due, kept.number), default=None)
    if first is None:
        return []
    if first.batch:
        return [kept for kept in _due(batched.values(), now) if kept.batch == first.batch]
    fresh = [kept for kept in _due(batched.values(), now + BATCH_SECONDS) if not kept.batch]
    numbers = first_batch(((kept.number, len(kept.row.event.data)) for kept in fresh), limit)
    for number in numbers:
        batched[number].batch = batch_of(owner, numbers[0], now)
    return [batched[number] for number in numbers]
