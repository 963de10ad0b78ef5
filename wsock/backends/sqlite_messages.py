"""The journal and the history of an embedded server, in SQLite.

Many rows go into one statement: each statement gives the interpreter's lock to other threads, and may wait
for a busy reactor thread (5 ms) to get it back.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from typing import Any

from msgspec import Raw
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from wsock.backends.sqlite_database import SqliteDatabase
from wsock.interfaces import ChannelTail, IJournal, IMessageStore, JournalRecord, RecentId
from wsock.protocol.messages import HistoryQuery, Message, Page, Receipt
from wsock.protocol.position import Position

__all__ = ["SqliteMessages"]

_Row = tuple[Any, ...]

_ROWS_PER_STATEMENT = (256, 64, 16, 4, 1)
_END_OF_TIME = 1 << 62

_TENANT = """
    INSERT INTO tenant (app, timestamp) VALUES (?, ?)
    ON CONFLICT (app) DO UPDATE SET timestamp = max(timestamp, excluded.timestamp) RETURNING id"""

_CHANNELS = "INSERT INTO channel (tenant, name, epoch, sequence, timestamp) VALUES "
_CHANNEL = "(?, ?, ?, ?, ?)"
_CHANNELS_MOVE = """
    ON CONFLICT (tenant, name) DO UPDATE
    SET epoch = excluded.epoch, sequence = excluded.sequence, timestamp = excluded.timestamp"""
_CHANNELS_STAY = """
    ON CONFLICT (tenant, name) DO UPDATE
    SET timestamp = max(timestamp, excluded.timestamp) WHERE epoch = ''"""

_MESSAGES = """
    INSERT INTO message (tenant, channel, epoch, sequence, timestamp, persist, id, identity, publisher, data)
    VALUES """
_MESSAGE = "(?, (SELECT id FROM channel WHERE tenant = ? AND name = ?), ?, ?, ?, ?, ?, ?, ?, ?)"
_MESSAGES_STAY = " ON CONFLICT (channel, epoch, sequence) DO NOTHING"

_COLUMNS = "id, data, timestamp, publisher, sequence, epoch, persist"

_PAGE = {
    "forward": f"""
        SELECT {_COLUMNS} FROM message
        WHERE channel = ? AND persist = 1 AND timestamp > ? AND timestamp < ?
        ORDER BY timestamp, epoch, sequence LIMIT ?""",
    "backward": f"""
        SELECT {_COLUMNS} FROM message
        WHERE channel = ? AND persist = 1 AND timestamp > ? AND timestamp < ?
        ORDER BY timestamp DESC, epoch DESC, sequence DESC LIMIT ?""",
}

_FIND_CHANNEL = """
    SELECT channel.id, epoch, sequence, channel.timestamp FROM tenant JOIN channel ON tenant = tenant.id
    WHERE app = ? AND name = ?"""

_TAIL = f"""
    SELECT {_COLUMNS} FROM message WHERE channel = ? AND epoch = ? AND sequence <= ?
    ORDER BY sequence DESC LIMIT ?"""

_RECENT_IDS = """
    SELECT app, identity, message.id, name, message.timestamp, message.epoch, message.sequence
    FROM tenant CROSS JOIN message ON message.tenant = tenant.id JOIN channel ON channel.id = message.channel
    WHERE message.timestamp > ? AND identity <> '' ORDER BY message.timestamp, message.rowid"""

_EXPIRE_TRANSIENT = """
    DELETE FROM message WHERE rowid IN (
        SELECT rowid FROM message WHERE tenant = ? AND persist = 0 AND timestamp < ?
        ORDER BY timestamp LIMIT ?)"""
_EXPIRE = """
    DELETE FROM message WHERE rowid IN (
        SELECT rowid FROM message WHERE tenant = ? AND timestamp < ? ORDER BY timestamp LIMIT ?)"""
_EXPIRE_CHANNELS = """
    DELETE FROM channel WHERE id IN (
        SELECT id FROM channel WHERE tenant = ? AND timestamp < ?
        AND NOT EXISTS (SELECT 1 FROM message WHERE channel = channel.id) ORDER BY timestamp LIMIT ?)"""


@implementer(IJournal, IMessageStore)
class SqliteMessages:
    """Commits messages with the positions of their channels, and answers for both from the same tables."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    def commit(self, records: list[JournalRecord]) -> Deferred[None]:
        """Makes the messages durable, all or none: see :class:`IJournal`."""
        if not records:
            return succeed(None)
        return self._database.write(partial(_commit, records))

    def commit_with(self, records: list[JournalRecord], also: Callable[[sqlite3.Connection], object]) -> Deferred[None]:
        """Makes the messages durable, and what else is written, in the same transaction: all or none."""

        def write(connection: sqlite3.Connection) -> None:
            _commit(records, connection)
            also(connection)

        return self._database.write(write)

    async def tail(self, app: str, channel: str, cutoff: int, limit: int) -> ChannelTail | None:
        """The channel's end: see :class:`IJournal`."""
        return await self._database.read(partial(_tail, app, channel, cutoff, limit))

    async def recent_ids(self, cutoff: int) -> list[RecentId]:
        """The ids to deduplicate: see :class:`IJournal`."""
        return await self._database.read(partial(_recent_ids, cutoff))

    async def last_timestamps(self) -> dict[str, int]:
        """For each app the largest timestamp ever committed."""
        return await self._database.read(_last_timestamps)

    async def append(self, app: str, messages: list[Message]) -> None:
        """Stores messages as history; the positions of their channels stay as commits left them."""
        if messages:
            await self._database.write(partial(_append, app, messages))

    async def page(self, app: str, channel: str, query: HistoryQuery) -> Page:
        """A page of the past: see :class:`IMessageStore`."""
        return await self._database.read(partial(_page, app, channel, query))

    async def expire(self, app: str, before: int, transient_before: int, limit: int) -> int:
        """Deletes old messages, and then the channels that have none left: see :class:`IMessageStore`."""
        return await self._database.write(partial(_expire, app, before, transient_before, limit))


def _commit(records: list[JournalRecord], connection: sqlite3.Connection) -> None:
    newest: dict[str, int] = {}
    last: dict[tuple[str, str], Message] = {}
    for record in records:
        message = record.message
        newest[record.app] = max(message.timestamp, newest.get(record.app, 0))
        last[record.app, message.channel] = message
    tenants = {app: _tenant(connection, app, timestamp) for app, timestamp in newest.items()}
    channels = [_channel_row(tenants[app], m, m.epoch, m.sequence) for (app, _), m in last.items()]
    _insert(connection, _CHANNELS, _CHANNEL, _CHANNELS_MOVE, channels)
    rows = [_message_row(tenants[record.app], record.identity, record.message) for record in records]
    _insert(connection, _MESSAGES, _MESSAGE, "", rows)


def _append(app: str, messages: list[Message], connection: sqlite3.Connection) -> None:
    tenant = _tenant(connection, app, 0)
    newest: dict[str, Message] = {}
    for message in messages:
        if message.channel not in newest or message.timestamp > newest[message.channel].timestamp:
            newest[message.channel] = message
    channels = [_channel_row(tenant, message, "", 0) for message in newest.values()]
    _insert(connection, _CHANNELS, _CHANNEL, _CHANNELS_STAY, channels)
    rows = [_message_row(tenant, "", message) for message in messages]
    _insert(connection, _MESSAGES, _MESSAGE, _MESSAGES_STAY, rows)


def _tenant(connection: sqlite3.Connection, app: str, timestamp: int) -> int:
    [[tenant]] = connection.execute(_TENANT, (app, timestamp)).fetchall()
    return int(tenant)


def _channel_row(tenant: int, message: Message, epoch: str, sequence: int) -> _Row:
    return (tenant, message.channel, epoch, sequence, message.timestamp)


def _message_row(tenant: int, identity: str, message: Message) -> _Row:
    return (
        tenant,
        tenant,
        message.channel,
        message.epoch,
        message.sequence,
        message.timestamp,
        int(message.persist),
        message.id,
        identity,
        message.publisher_id,
        bytes(message.data),
    )


def _insert(connection: sqlite3.Connection, head: str, row: str, end: str, rows: Sequence[_Row]) -> None:
    """Inserts rows with as few statements as there are, of a few lengths only: SQLite keeps them prepared."""
    start = 0
    for size in _ROWS_PER_STATEMENT:
        while len(rows) - start >= size:
            values = chain.from_iterable(rows[start : start + size])
            connection.execute(head + ", ".join([row] * size) + end, list(values))
            start += size


def _find_channel(connection: sqlite3.Connection, app: str, channel: str) -> _Row | None:
    row: _Row | None = connection.execute(_FIND_CHANNEL, (app, channel)).fetchone()
    return row


def _messages(channel: str, rows: Iterable[_Row]) -> list[Message]:
    return [_message(channel, row) for row in rows]


def _message(channel: str, row: _Row) -> Message:
    id, data, timestamp, publisher, sequence, epoch, persist = row
    return Message(channel, id, Raw(data), timestamp, publisher, sequence, epoch, bool(persist))


def _tail(app: str, name: str, cutoff: int, limit: int, connection: sqlite3.Connection) -> ChannelTail | None:
    found = _find_channel(connection, app, name)
    if found is None or not found[1]:
        return None
    id, epoch, last, timestamp = found
    position = Position(epoch, last)
    recent: list[Message] = []
    for row in connection.execute(_TAIL, (id, epoch, last, limit + 1)):
        message = _message(name, row)
        if message.sequence != last - len(recent):
            break
        if message.timestamp <= cutoff or len(recent) == limit:
            return ChannelTail(position, timestamp, recent[::-1], message.timestamp)
        recent.append(message)
    return ChannelTail(position, timestamp, recent[::-1], _trimmed(recent[::-1], timestamp))


def _trimmed(recent: list[Message], last_timestamp: int) -> int:
    """What can be said of the newest message before ``recent`` when it isn't stored any more."""
    if not recent:
        return last_timestamp
    return 0 if recent[0].sequence == 1 else recent[0].timestamp - 1


def _recent_ids(cutoff: int, connection: sqlite3.Connection) -> list[RecentId]:
    rows = connection.execute(_RECENT_IDS, (cutoff,))
    return [RecentId(app, identity, Receipt(*receipt)) for app, identity, *receipt in rows]


def _last_timestamps(connection: sqlite3.Connection) -> dict[str, int]:
    return dict(connection.execute("SELECT app, timestamp FROM tenant WHERE timestamp > 0"))


def _page(app: str, channel: str, query: HistoryQuery, connection: sqlite3.Connection) -> Page:
    found = _find_channel(connection, app, channel)
    if found is None:
        return Page([], False)
    after = _bounded(query.after, -_END_OF_TIME)
    before = _bounded(query.before, _END_OF_TIME)
    select = partial(_select, connection, query.direction, found[0])
    rows = select(after, before, query.limit + 1)
    if len(rows) <= query.limit:
        return Page(_messages(channel, rows), False)
    edge = rows[query.limit - 1][2]
    if rows[query.limit][2] != edge:
        return Page(_messages(channel, rows[: query.limit]), True)
    complete = [row for row in rows if row[2] != edge] + select(edge - 1, edge + 1, -1)
    beyond = select(edge, before, 1) if query.direction == "forward" else select(after, edge, 1)
    return Page(_messages(channel, complete), bool(beyond))


def _select(
    connection: sqlite3.Connection, direction: str, channel: int, after: int, before: int, limit: int
) -> list[_Row]:
    return connection.execute(_PAGE[direction], (channel, after, before, limit)).fetchall()


def _bounded(timestamp: int | None, default: int) -> int:
    """SQLite's integers have 64 bits; a timestamp out of a request may have any number."""
    return default if timestamp is None else max(-_END_OF_TIME, min(timestamp, _END_OF_TIME))


def _expire(app: str, before: int, transient_before: int, limit: int, connection: sqlite3.Connection) -> int:
    found = connection.execute("SELECT id FROM tenant WHERE app = ?", (app,)).fetchone()
    if found is None:
        return 0
    deleted = connection.execute(_EXPIRE_TRANSIENT, (found[0], transient_before, limit)).rowcount
    deleted += connection.execute(_EXPIRE, (found[0], before, limit - deleted)).rowcount
    connection.execute(_EXPIRE_CHANNELS, (found[0], before, limit - deleted))
    return deleted
