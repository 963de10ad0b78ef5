"""The audit log of an embedded server, in SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec
from zope.interface import implementer

from wsock.backends.sqlite_database import SqliteDatabase
from wsock.interfaces import AuditPage, IAuditLog
from wsock.records import AuditEntry, AuditQuery

__all__ = ["SqliteAudit"]

_COLUMNS = AuditEntry.__struct_fields__
_INSERT = f"INSERT OR IGNORE INTO audit ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM audit"
_EXPIRE = "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at < ? LIMIT ?)"


@implementer(IAuditLog)
class SqliteAudit:
    """Keeps entries in the database's file."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def append(self, entries: Sequence[AuditEntry]) -> None:
        """Stores entries."""
        rows = [_row(entry) for entry in entries]
        await self._database.write(lambda connection: connection.executemany(_INSERT, rows).rowcount)

    async def page(self, query: AuditQuery, cursor: str | None, limit: int) -> AuditPage:
        """The entries that are asked for, the newest first."""
        wanted: dict[str, Any] = {f"{name} = ?": value for name, value in query.equals.items()}
        times: dict[str, Any] = {"at >= ?": query.since, "at < ?": query.until}
        wanted |= {condition: value for condition, value in times.items() if value is not None}
        values: list[Any] = list(wanted.values())
        conditions = list(wanted)
        if cursor is not None:
            conditions.append("(at, id) < (?, ?)")
            values.extend(AuditQuery.place(cursor))
        statement = f"{_SELECT} WHERE {' AND '.join(conditions) or 'TRUE'} ORDER BY at DESC, id DESC LIMIT ?"

        def read(connection: sqlite3.Connection) -> list[AuditEntry]:
            return [_entry(row) for row in connection.execute(statement, [*values, limit + 1])]

        found = await self._database.read(read)
        return AuditPage(found[:limit], found[limit - 1].cursor if len(found) > limit else None)

    async def expire(self, before: int, limit: int) -> int:
        """Deletes entries older than ``before``."""
        return await self._database.write(lambda connection: connection.execute(_EXPIRE, (before, limit)).rowcount)


def _row(entry: AuditEntry) -> list[Any]:
    values = msgspec.structs.asdict(entry)
    return list((values | {"details": msgspec.json.encode(entry.details).decode()}).values())


def _entry(row: tuple[Any, ...]) -> AuditEntry:
    values = dict(zip(_COLUMNS, row, strict=True))
    return AuditEntry(**values | {"details": msgspec.json.decode(values["details"], type=dict[str, str])})
