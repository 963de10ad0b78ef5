"""The meters of an embedded server, in SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from zope.interface import implementer

from wsock.backends.sqlite_database import SqliteDatabase
from wsock.interfaces import Bucket, IMeterStore, NodeReport, Sample
from wsock.measures import Span

__all__ = ["SqliteMeters"]

_NUMBER = """
    INSERT INTO meter_flush (node, number) VALUES (?, ?)
    ON CONFLICT (node) DO UPDATE SET number = excluded.number WHERE number < excluded.number
"""
_ADD = """
    INSERT INTO meter (app, span, start, is_peak, name, value) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (app, span, start, is_peak, name) DO UPDATE
        SET value = iif(is_peak, max(value, excluded.value), value + excluded.value)
"""
_BUCKET = "SELECT app, start, is_peak, name, value FROM meter WHERE app = ? AND span = ? AND start = ?"
_SERIES = """
    SELECT app, start, is_peak, name, value FROM meter WHERE app = ? AND span = ? AND start IN (
        SELECT DISTINCT start FROM meter WHERE app = ? AND span = ? AND start >= ? AND start < ? ORDER BY start LIMIT ?
    ) ORDER BY start
"""
_REPORT = "INSERT OR REPLACE INTO meter_report (node, at, connections) VALUES (?, ?, ?)"
_CLAIM = "INSERT OR IGNORE INTO meter_claim (app, what, period) VALUES (?, ?, ?)"
_OLD = "SELECT DISTINCT app, start FROM meter WHERE span = ? AND start < ? LIMIT ?"


@implementer(IMeterStore)
class SqliteMeters:
    """Keeps them in the database's file."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def add(self, node: str, number: int, at: int, samples: Sequence[Sample]) -> None:
        """Adds samples to the parts of all spans, all or none."""
        rows = [row for span in Span for sample in samples for row in _rows(sample, span, span.start(at))]

        def add(connection: sqlite3.Connection) -> None:
            if connection.execute(_NUMBER, (node, number)).rowcount:
                connection.executemany(_ADD, rows)

        await self._database.write(add)

    async def buckets(self, apps: Sequence[str], span: Span, start: int) -> dict[str, Bucket]:
        """The parts of these apps."""

        def read(connection: sqlite3.Connection) -> dict[str, Bucket]:
            found = {app: _parts(connection.execute(_BUCKET, (app, span, start))) for app in apps}
            return {app: parts[0] for app, parts in found.items() if parts}

        return await self._database.read(read)

    async def series(self, app: str, span: Span, since: int, until: int, limit: int) -> list[Bucket]:
        """The parts of an app, the oldest first."""
        values = (app, span, app, span, since, until, limit)
        return await self._database.read(lambda connection: _parts(connection.execute(_SERIES, values)))

    async def report(self, report: NodeReport) -> None:
        """Replaces the node's report."""
        values = (report.node, report.at, msgspec.json.encode(report.connections).decode())
        await self._database.write(lambda connection: connection.execute(_REPORT, values).rowcount)

    async def withdraw(self, node: str) -> None:
        """The node has none any more."""
        await self._delete("DELETE FROM meter_report WHERE node = ?", node)

    async def reports(self, since: int) -> list[NodeReport]:
        """The reports of that time and later."""

        def read(connection: sqlite3.Connection) -> list[NodeReport]:
            rows = connection.execute("SELECT node, at, connections FROM meter_report WHERE at >= ?", (since,))
            return [NodeReport(node, at, msgspec.json.decode(text, type=dict[str, int])) for node, at, text in rows]

        return await self._database.read(read)

    async def claim(self, app: str, what: str, period: int) -> bool:
        """Whether nobody claimed it before."""
        values = (app, what, period)
        return bool(await self._database.write(lambda connection: connection.execute(_CLAIM, values).rowcount))

    async def expire(self, span: Span, before: int, limit: int) -> int:
        """Deletes old parts."""

        def expire(connection: sqlite3.Connection) -> int:
            old = connection.execute(_OLD, (span, before, limit)).fetchall()
            statement = f"DELETE FROM meter WHERE span = '{span}' AND app = ? AND start = ?"
            connection.executemany(statement, old)
            return len(old)

        return await self._database.write(expire)

    async def forget(self, before: int, periods_before: int) -> None:
        """Forgets claims, reports and numbers."""
        await self._delete("DELETE FROM meter_claim WHERE period < ?", periods_before)
        await self._delete("DELETE FROM meter_report WHERE at < ?", before)
        await self._delete("DELETE FROM meter_flush WHERE number < ?", before)

    async def _delete(self, statement: str, value: Any) -> None:
        await self._database.write(lambda connection: connection.execute(statement, (value,)).rowcount)


def _rows(sample: Sample, span: Span, start: int) -> Iterable[tuple[Any, ...]]:
    for is_peak, values in enumerate((sample.counts, sample.peaks)):
        for name, value in values.items():
            yield (sample.app, span, start, is_peak, name, value)


def _parts(rows: Iterable[tuple[str, int, int, str, int]]) -> list[Bucket]:
    """The parts that the rows of one app make, in their order."""
    parts: dict[int, Bucket] = {}
    for _, start, is_peak, name, value in rows:
        part = parts.setdefault(start, Bucket(start, {}, {}))
        (part.peaks if is_peak else part.counts)[name] = value
    return list(parts.values())
