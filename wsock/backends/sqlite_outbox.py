"""What the webhooks of an embedded server are to be told, in SQLite."""

from __future__ import annotations

import sqlite3
from functools import partial
from typing import Any

from zope.interface import implementer

from wsock.backends.sqlite_database import SqliteDatabase
from wsock.interfaces import Event, IOutboxStore, OutboxRow

__all__ = ["SqliteOutbox"]

_ADD = """
    INSERT INTO outbox (app, event, endpoint, channel, type, created, data) VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (app, event, endpoint) DO NOTHING"""
_PENDING = """
    SELECT app, event, endpoint, channel, type, created, data FROM outbox
    WHERE app = ? ORDER BY number LIMIT ?"""


@implementer(IOutboxStore)
class SqliteOutbox:
    """Keeps rows in the database; those of one call are stored all or none."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def add(self, rows: list[OutboxRow]) -> None:
        """Stores the rows: see :class:`IOutboxStore`."""
        if rows:
            await self._database.write(partial(_add, rows))

    async def pending(self, app: str, limit: int) -> list[OutboxRow]:
        """The first rows of an app: see :class:`IOutboxStore`."""
        return await self._database.read(
            lambda connection: [_row(row) for row in connection.execute(_PENDING, (app, limit))]
        )


def _add(rows: list[OutboxRow], connection: sqlite3.Connection) -> None:
    connection.executemany(_ADD, map(_values, rows))


def _values(row: OutboxRow) -> tuple[Any, ...]:
    event = row.event
    return (event.app, event.id, row.endpoint, event.channel, event.type, row.created, event.data)


def _row(values: tuple[Any, ...]) -> OutboxRow:
    app, id, endpoint, channel, type, created, data = values
    return OutboxRow(Event(id=id, app=app, channel=channel, type=type, data=data), endpoint, created)
