"""What the webhooks of an embedded server are to be told, in SQLite, and what became of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from heapq import merge
from itertools import islice
from typing import Any

from zope.interface import implementer

from wsock.backends.outbox_rows import (
    BATCH_SECONDS,
    BATCHED,
    LANES_LOOKED_AT,
    PLAIN,
    batch_of,
    decode_log,
    due_of,
    encode_log,
    first_batch,
    flags_of,
    kind_of,
    log_of,
    number_of,
)
from wsock.backends.sqlite_database import SqliteDatabase
from wsock.interfaces import (
    Agendum,
    Attempt,
    Delivery,
    DeliveryPage,
    DeliveryQuery,
    Event,
    IOutboxStore,
    OutboxRow,
    Verdict,
)

__all__ = ["SqliteOutbox"]

_ADD = """
    INSERT INTO outbox (
        app, event, endpoint, channel, type, created, kind, state, due, tries, owner, batch, settled, data, attempts)
    VALUES (?, ?, ?, ?, ?, ?, ?, 'pending', ?, 0, '', '', 0, ?, CAST('[]' AS BLOB))
    ON CONFLICT (app, event, endpoint) DO NOTHING"""
_ROW = "app, event, endpoint, channel, type, created, kind, data"
_PENDING = f"SELECT {_ROW} FROM outbox WHERE app = ? AND state = 'pending' ORDER BY number LIMIT ?"
_DELIVERY = f"number, state, due, tries, batch, settled, {_ROW}"
_ENDPOINTS = """
    WITH RECURSIVE walk (endpoint) AS (
        SELECT (SELECT endpoint FROM outbox WHERE state = 'pending' AND endpoint > ? ORDER BY endpoint LIMIT 1)
        UNION ALL
        SELECT (
            SELECT endpoint FROM outbox WHERE state = 'pending' AND endpoint > walk.endpoint ORDER BY endpoint LIMIT 1)
        FROM walk WHERE walk.endpoint IS NOT NULL)
    SELECT endpoint FROM walk WHERE endpoint IS NOT NULL LIMIT ?"""
_FIRST_DUE = "SELECT app, due FROM outbox WHERE state = 'pending' AND endpoint = ? ORDER BY due LIMIT 1"
_DUE = """
    SELECT number FROM outbox WHERE state = 'pending' AND endpoint = ? AND kind = ? AND due <= ?
    ORDER BY due, number LIMIT ?"""
_LANE = """
    SELECT channel, number, due FROM outbox WHERE state = 'pending' AND kind = 1 AND endpoint = ? AND channel {} ?
    ORDER BY channel, number LIMIT 1"""
_BATCH = "SELECT batch FROM outbox WHERE number = ?"
_IN_BATCH = """
    SELECT number FROM outbox WHERE state = 'pending' AND batch <> '' AND endpoint = ? AND batch = ? AND due <= ?"""
_FRESH = """
    SELECT number, length(data) FROM outbox
    WHERE state = 'pending' AND endpoint = ? AND kind = 2 AND batch = '' AND due <= ?
    ORDER BY due, number LIMIT ?"""
_CLAIM = f"UPDATE outbox SET owner = ?, due = ?, batch = ? WHERE number = ? RETURNING {_DELIVERY}"
_RELEASE = "UPDATE outbox SET owner = '', due = ? WHERE state = 'pending' AND owner <> ''"
_ATTEMPTS = "SELECT attempts FROM outbox WHERE number = ? AND owner = ? AND state = 'pending'"
_SETTLE = """
    UPDATE outbox SET state = ?, due = ?, settled = ?, tries = tries + ?, owner = '', attempts = ? WHERE number = ?"""
_REDELIVER = """
    UPDATE outbox SET state = 'pending', due = ?, settled = 0, tries = 0, owner = '', batch = '' WHERE number = ?"""
_TO_BURY = "SELECT number, attempts FROM outbox WHERE state = 'pending' AND endpoint = ? AND due <= ? LIMIT ?"
_BURY = "UPDATE outbox SET state = 'dead', settled = ?, owner = '', attempts = ? WHERE number = ?"
_REMOVE = "DELETE FROM outbox WHERE number IN (SELECT number FROM outbox WHERE endpoint = ? LIMIT ?)"
_EXPIRE = """
    DELETE FROM outbox WHERE number IN (
        SELECT number FROM outbox WHERE state <> 'pending' AND settled < ? ORDER BY settled LIMIT ?)"""


@implementer(IOutboxStore)
class SqliteOutbox:
    """Keeps rows in the database; those of one call are stored all or none."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._turns: dict[str, str] = {}

    async def add(self, rows: list[OutboxRow]) -> None:
        """Stores the rows: see :class:`IOutboxStore`."""
        if rows:
            await self._database.write(self.adding(rows))

    def adding(self, rows: list[OutboxRow]) -> Callable[[sqlite3.Connection], None]:
        """What adds the rows in somebody else's transaction."""
        return partial(_add, rows)

    async def pending(self, app: str, limit: int) -> list[OutboxRow]:
        """The first rows of an app: see :class:`IOutboxStore`."""
        return await self._database.read(
            lambda connection: [_row(row) for row in connection.execute(_PENDING, (app, limit))]
        )

    async def agenda(self, after: str, limit: int) -> list[Agendum]:
        """What is pending for whom: see :class:`IOutboxStore`."""
        return await self._database.read(partial(_agenda, after, limit))

    async def claim(self, owner: str, endpoint: str, now: float, lease_seconds: float, limit: int) -> list[Delivery]:
        """Gives out deliveries: see :class:`IOutboxStore`."""

        def claim(connection: sqlite3.Connection) -> list[Delivery]:
            claimed = _plain(connection, endpoint, now, limit)
            if len(claimed) < limit:
                claimed += self._heads(connection, endpoint, now, limit - len(claimed))
            if len(claimed) < limit:
                claimed += _batch(connection, owner, endpoint, now, limit - len(claimed))
            lease = now + lease_seconds
            rows = [connection.execute(_CLAIM, (owner, lease, batch, number)).fetchone() for number, batch in claimed]
            return [_delivery(row) for row in rows]

        return await self._database.write(claim)

    def _heads(self, connection: sqlite3.Connection, endpoint: str, now: float, limit: int) -> list[tuple[int, str]]:
        """The first pending one of each channel, where it is due, from behind the channel that had its turn last."""
        found: list[tuple[int, str]] = []
        last = self._turns.pop(endpoint, None)
        for channel, number, due in islice(_lanes(connection, endpoint, last), LANES_LOOKED_AT):
            self._turns[endpoint] = channel
            if due <= now:
                found.append((number, ""))
                if len(found) >= limit:
                    break
        return found

    async def release(self, now: float) -> None:
        """Ends all leases: see :class:`IOutboxStore`."""
        await self._database.write(partial(_change, _RELEASE, (now,)))

    async def settle(self, owner: str, verdicts: Sequence[Verdict]) -> None:
        """Says what becomes of claimed deliveries: see :class:`IOutboxStore`."""
        if verdicts:
            await self._database.write(partial(_settle, owner, verdicts))

    async def page(self, query: DeliveryQuery, cursor: str | None, limit: int) -> DeliveryPage:
        """The deliveries that are asked for: see :class:`IOutboxStore`."""
        behind = None if cursor is None else number_of(cursor)
        if cursor is not None and behind is None:
            raise ValueError("this is no cursor of a list of deliveries")
        return await self._database.read(partial(_page, query, behind, limit))

    async def redeliver(self, query: DeliveryQuery, now: float, limit: int) -> int:
        """Makes settled deliveries pending again: see :class:`IOutboxStore`."""
        return await self._database.write(partial(_redeliver, query, now, limit))

    async def bury(self, endpoint: str, reason: str, now: float, limit: int) -> int:
        """Gives up what is due: see :class:`IOutboxStore`."""
        return await self._database.write(partial(_bury, endpoint, reason, now, limit))

    async def remove(self, endpoint: str, limit: int) -> int:
        """Deletes what there is for an endpoint: see :class:`IOutboxStore`."""
        return await self._database.write(partial(_change, _REMOVE, (endpoint, limit)))

    async def expire(self, before: float, limit: int) -> int:
        """Deletes what was settled before: see :class:`IOutboxStore`."""
        return await self._database.write(partial(_change, _EXPIRE, (before, limit)))


def _add(rows: list[OutboxRow], connection: sqlite3.Connection) -> None:
    connection.executemany(_ADD, map(_values, rows))


def _agenda(after: str, limit: int, connection: sqlite3.Connection) -> list[Agendum]:
    endpoints = [endpoint for (endpoint,) in connection.execute(_ENDPOINTS, (after, limit))]
    firsts = [connection.execute(_FIRST_DUE, (endpoint,)).fetchone() for endpoint in endpoints]
    return [Agendum(app, endpoint, due) for endpoint, (app, due) in zip(endpoints, firsts, strict=True)]


def _plain(connection: sqlite3.Connection, endpoint: str, now: float, limit: int) -> list[tuple[int, str]]:
    return [(number, "") for (number,) in connection.execute(_DUE, (endpoint, PLAIN, now, limit))]


def _lanes(connection: sqlite3.Connection, endpoint: str, last: str | None) -> Iterable[tuple[str, int, float]]:
    """The first pending one of each channel: all of them once, round from behind the last one."""
    channel, comparison = (last, ">") if last is not None else ("", ">=")
    has_turned = last is None
    while True:
        lane = connection.execute(_LANE.format(comparison), (endpoint, channel)).fetchone()
        if lane is None:
            if has_turned:
                return
            has_turned, channel, comparison = True, "", ">="
            continue
        channel, comparison = lane[0], ">"
        if has_turned and last is not None and channel > last:
            return
        yield lane


def _batch(connection: sqlite3.Connection, owner: str, endpoint: str, now: float, limit: int) -> list[tuple[int, str]]:
    """A whole batch: an earlier one, or one that is made of what waits."""
    first = connection.execute(_DUE, (endpoint, BATCHED, now, 1)).fetchone()
    if first is None:
        return []
    (batch,) = connection.execute(_BATCH, first).fetchone()
    if batch:
        return [(number, batch) for (number,) in connection.execute(_IN_BATCH, (endpoint, batch, now))]
    fresh = connection.execute(_FRESH, (endpoint, now + BATCH_SECONDS, max(limit, 1)))
    numbers = first_batch(fresh, limit)
    name = batch_of(owner, numbers[0], now)
    return [(number, name) for number in numbers]


def _settle(owner: str, verdicts: Sequence[Verdict], connection: sqlite3.Connection) -> None:
    for verdict in verdicts:
        number = number_of(verdict.id)
        found = connection.execute(_ATTEMPTS, (number, owner)).fetchone()
        if found is None:
            continue
        attempts, tries = found[0], 0
        if verdict.attempt is not None:
            attempts, tries = _logged(attempts, verdict.attempt), 1
        settled = 0.0 if verdict.state == "pending" else verdict.at
        connection.execute(_SETTLE, (verdict.state, verdict.due, settled, tries, attempts, number))


def _page(query: DeliveryQuery, behind: int | None, limit: int, connection: sqlite3.Connection) -> DeliveryPage:
    columns = f"{_DELIVERY}, attempts"
    found = [connection.execute(*_select(query, state, columns, behind, limit + 1)) for state in query.states]
    rows = list(islice(merge(*found, key=lambda row: -row[0]), limit + 1))
    items = [_delivery(row[:-1], row[-1]) for row in rows[:limit]]
    return DeliveryPage(items, items[-1].id if len(rows) > limit else None)


def _select(
    query: DeliveryQuery, state: str, columns: str, behind: int | None, limit: int
) -> tuple[str, tuple[Any, ...]]:
    """The statement for what is asked for in one state, the newest first."""
    terms: dict[str, Any] = {"endpoint = ?": query.endpoint, "state = ?": state}
    if query.id is not None:
        terms["number = ?"] = number_of(query.id)
    if behind is not None:
        terms["number < ?"] = behind
    if query.since is not None:
        terms["created >= ?"] = query.since
    if query.until is not None:
        terms["created < ?"] = query.until
    text = f"SELECT {columns} FROM outbox WHERE {' AND '.join(terms)} ORDER BY number DESC LIMIT ?"
    return text, (*terms.values(), limit)


def _redeliver(query: DeliveryQuery, now: float, limit: int, connection: sqlite3.Connection) -> int:
    numbers: list[int] = []
    for state in query.states:
        if state != "pending":
            found = connection.execute(*_select(query, state, "number", None, limit - len(numbers)))
            numbers += (number for (number,) in found)
    connection.executemany(_REDELIVER, ((now, number) for number in numbers))
    return len(numbers)


def _bury(endpoint: str, reason: str, now: float, limit: int, connection: sqlite3.Connection) -> int:
    found = connection.execute(_TO_BURY, (endpoint, now, limit)).fetchall()
    attempt = Attempt(now, 0, 0, error=reason)
    connection.executemany(_BURY, ((now, _logged(attempts, attempt), number) for number, attempts in found))
    return len(found)


def _change(statement: str, values: tuple[Any, ...], connection: sqlite3.Connection) -> int:
    return connection.execute(statement, values).rowcount


def _logged(attempts: bytes, attempt: Attempt) -> bytes:
    return encode_log(log_of((*decode_log(attempts), attempt)))


def _values(row: OutboxRow) -> tuple[Any, ...]:
    event = row.event
    told = (event.app, event.id, row.endpoint, event.channel, event.type, row.created)
    return (*told, kind_of(row), due_of(row), event.data)


def _row(values: Sequence[Any]) -> OutboxRow:
    app, id, endpoint, channel, type, created, kind, data = values
    event = Event(id=id, app=app, channel=channel, type=type, data=data)
    return OutboxRow(event, endpoint, created, *flags_of(kind))


def _delivery(values: Sequence[Any], attempts: bytes = b"[]") -> Delivery:
    number, state, due, tries, batch, settled, *row = values
    return Delivery(
        id=str(number),
        row=_row(row),
        state=state,
        due=due,
        tries=tries,
        batch=batch,
        settled=settled,
        attempts=decode_log(attempts),
    )
