"""Devices of an embedded server, and pushes to many of them, in SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable
from functools import partial
from typing import Any

import msgspec
from msgspec.structs import replace
from zope.interface import implementer

from wsock.backends.sqlite_database import SqliteDatabase
from wsock.interfaces import Audience, Device, IDeviceStore, IPushJobs, PushJob, Registration

__all__ = ["SqliteDevices", "SqlitePushJobs"]

_COLUMNS = "id, member, device, metadata, created_at, updated_at"
_PUT = """
    INSERT INTO push_device (app, id, reached, member, platform, device, metadata, created_at, updated_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (app, id) DO UPDATE SET
        member = excluded.member, device = excluded.device, metadata = excluded.metadata,
        updated_at = excluded.updated_at
"""
_JOIN = "INSERT OR IGNORE INTO push_channel (app, channel, device) VALUES (?, ?, ?)"
_ROOM = "(SELECT count(*) FROM push_channel AS c WHERE c.app = d.app AND c.device = d.id) < ?"
_HAS = "EXISTS (SELECT 1 FROM push_channel AS c WHERE c.app = d.app AND c.device = d.id AND c.channel = ?)"

_encode = msgspec.json.encode
_device = msgspec.json.Decoder(Device).decode
_job = msgspec.json.Decoder(PushJob).decode


@implementer(IDeviceStore)
class SqliteDevices:
    """Keeps devices in the database; each call is one transaction."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def put(self, registration: Registration) -> Registration:
        """Stores a device: see :class:`IDeviceStore`."""
        return await self._database.write(partial(_put, registration))

    async def find(self, app: str, id: str) -> Registration | None:
        """The device of this id."""
        found = await self.page(app, Audience(ids=(id,)), None, 1)
        return found[0] if found else None

    async def page(self, app: str, audience: Audience, cursor: str | None, limit: int) -> list[Registration]:
        """A part of the audience."""
        where, values = _where(app, audience)
        if cursor is not None:
            where, values = f"{where} AND d.id > ?", [*values, cursor]
        return await self._database.read(partial(_select, app, f"{where} ORDER BY d.id LIMIT ?", [*values, limit]))

    async def count(self, app: str, audience: Audience) -> int:
        """How many devices the audience has."""
        where, values = _where(app, audience)
        statement = f"SELECT count(*) FROM push_device AS d WHERE {where}"
        [count] = await self._database.read(lambda connection: connection.execute(statement, values).fetchone())
        return int(count)

    async def join(self, app: str, audience: Audience, channel: str, most: int) -> int:
        """The devices want the channel too."""
        where, values = _where(app, audience)

        def join(connection: sqlite3.Connection) -> int:
            room = [*values, most, channel]
            statement = f"SELECT d.id FROM push_device AS d WHERE {where} AND ({_ROOM} OR {_HAS})"
            ids = connection.execute(statement, room).fetchall()
            connection.executemany(_JOIN, [(app, channel, id) for (id,) in ids])
            return len(ids)

        return await self._database.write(join)

    async def part(self, app: str, audience: Audience, channel: str) -> int:
        """The devices don't want the channel any more."""
        where, values = _where(app, audience)
        those = f"SELECT d.id FROM push_device AS d WHERE {where}"
        statement = f"DELETE FROM push_channel WHERE app = ? AND channel = ? AND device IN ({those})"
        return await self._changed(statement, [app, channel, *values])

    async def remove(self, app: str, audience: Audience, limit: int, until: int | None = None) -> int:
        """Deletes devices."""
        where, values = _where(app, audience)
        if until is not None:
            where, values = f"{where} AND d.updated_at <= ?", [*values, until]
        those = f"SELECT d.id FROM push_device AS d WHERE {where} ORDER BY d.id LIMIT ?"
        return await self._changed(f"DELETE FROM push_device WHERE app = ? AND id IN ({those})", [app, *values, limit])

    async def apps(self) -> list[str]:
        """The apps with devices."""
        return await self._database.read(partial(_apps, "push_device"))

    async def _changed(self, statement: str, values: list[Any]) -> int:
        return await self._database.write(lambda connection: connection.execute(statement, values).rowcount)


def _where(app: str, audience: Audience) -> tuple[str, list[Any]]:
    """The condition on ``push_device AS d``; lists are one value, so that no list is too long for a statement."""
    conditions, values = ["d.app = ?"], [app]
    for column, some in (("id", audience.ids), ("member", audience.members)):
        if some is not None:
            conditions.append(f"d.{column} IN (SELECT value FROM json_each(?))")
            values.append(_encode(some).decode())
    if audience.platform is not None:
        conditions.append("d.platform = ?")
        values.append(audience.platform)
    if audience.channel is not None:
        conditions.append("d.id IN (SELECT c.device FROM push_channel AS c WHERE c.app = d.app AND c.channel = ?)")
        values.append(audience.channel)
    return " AND ".join(conditions), values


def _put(registration: Registration, connection: sqlite3.Connection) -> Registration:
    app = registration.app
    found = _select(app, "d.app = ? AND d.reached = ?", [app, registration.reached], connection)
    stored = found[0].again(registration) if found else registration
    values = (
        app,
        stored.id,
        stored.reached,
        stored.member,
        stored.platform,
        _encode(stored.device).decode(),
        _encode(stored.metadata).decode(),
        stored.created_at,
        stored.updated_at,
    )
    connection.execute(_PUT, values)
    connection.execute("DELETE FROM push_channel WHERE app = ? AND device = ?", (app, stored.id))
    connection.executemany(_JOIN, [(app, channel, stored.id) for channel in stored.channels])
    return stored


def _select(app: str, where: str, values: list[Any], connection: sqlite3.Connection) -> list[Registration]:
    rows = connection.execute(f"SELECT {_COLUMNS} FROM push_device AS d WHERE {where}", values).fetchall()
    channels: dict[str, list[str]] = {}
    ids = _encode([row[0] for row in rows]).decode()
    statement = """
        SELECT device, channel FROM push_channel
        WHERE app = ? AND device IN (SELECT value FROM json_each(?)) ORDER BY channel
    """
    for id, channel in connection.execute(statement, (app, ids)):
        channels.setdefault(id, []).append(channel)
    return [_registration(app, row, channels) for row in rows]


def _registration(app: str, row: tuple[Any, ...], channels: dict[str, list[str]]) -> Registration:
    id, member, device, metadata, created_at, updated_at = row
    return Registration(
        id=id,
        app=app,
        member=member,
        device=_device(device),
        metadata=msgspec.json.decode(metadata),
        channels=tuple(channels.get(id, ())),
        created_at=created_at,
        updated_at=updated_at,
    )


def _apps(table: str, connection: sqlite3.Connection) -> list[str]:
    """A step for each app, however many rows it has."""
    found: list[str] = []
    last = ""
    while row := connection.execute(f"SELECT app FROM {table} WHERE app > ? ORDER BY app LIMIT 1", (last,)).fetchone():
        last = row[0]
        found.append(last)
    return found


_ADD_JOB = """
    INSERT INTO push_job (app, id, state, due, owner, lease_until, finished_at, content)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (app, id) DO NOTHING
"""
_SAVE_JOB = """
    UPDATE push_job SET state = ?, due = ?, owner = ?, lease_until = ?, finished_at = ?, content = ?
    WHERE app = ? AND id = ?
"""
_DUE_JOB = """
    SELECT content FROM push_job
    WHERE state = 'pending' AND due <= ? AND lease_until <= ? AND app NOT IN (SELECT value FROM json_each(?))
    ORDER BY due, id LIMIT 1
"""


@implementer(IPushJobs)
class SqlitePushJobs:
    """Keeps jobs in the database; what they are found by has columns, the rest is JSON."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def add(self, job: PushJob) -> bool:
        """Stores a new one: see :class:`IPushJobs`."""
        values = (job.app, job.id, *_values(job))
        return await self._database.write(lambda connection: connection.execute(_ADD_JOB, values).rowcount == 1)

    async def find(self, app: str, id: str) -> PushJob | None:
        """The job of this id."""
        return await self._database.read(partial(_find_job, app, id))

    async def page(self, app: str, cursor: str | None, limit: int) -> list[PushJob]:
        """The jobs of an app, the newest first."""
        behind = "" if cursor is None else "AND id < ?"
        statement = f"SELECT content FROM push_job WHERE app = ? {behind} ORDER BY id DESC LIMIT ?"
        values = (app, limit) if cursor is None else (app, cursor, limit)
        return await self._database.read(lambda c: [_job(text) for (text,) in c.execute(statement, values)])

    async def claim(self, owner: str, now: int, lease_until: int, skip: Collection[str]) -> PushJob | None:
        """The job that is due first."""

        def claim(connection: sqlite3.Connection) -> PushJob | None:
            row = connection.execute(_DUE_JOB, (now, now, _encode(list(skip)).decode())).fetchone()
            if row is None:
                return None
            claimed = replace(_job(row[0]), owner=owner, lease_until=lease_until)
            _save_job(claimed, connection)
            return claimed

        return await self._database.write(claim)

    async def save(self, job: PushJob) -> bool:
        """Stores how far it is."""

        def save(connection: sqlite3.Connection) -> bool:
            known = _find_job(job.app, job.id, connection)
            if known is None or known.owner != job.owner or known.state != "pending":
                return False
            _save_job(job, connection)
            return True

        return await self._database.write(save)

    async def cancel(self, app: str, id: str, at: int) -> bool:
        """Ends a pending job."""

        def cancel(connection: sqlite3.Connection) -> bool:
            known = _find_job(app, id, connection)
            if known is None or known.state != "pending":
                return False
            _save_job(replace(known, state="cancelled", finished_at=at), connection)
            return True

        return await self._database.write(cancel)

    async def release(self, owner: str) -> None:
        """The owner has none any more."""

        def release(connection: sqlite3.Connection) -> None:
            rows = connection.execute("SELECT content FROM push_job WHERE state = 'pending' AND owner = ?", (owner,))
            for job in [_job(text) for (text,) in rows]:
                _save_job(replace(job, lease_until=0), connection)

        await self._database.write(release)

    async def remove(self, app: str, limit: int) -> int:
        """Deletes jobs of an app."""
        return await self._delete("app = ?", (app, limit))

    async def expire(self, before: int, limit: int) -> int:
        """Deletes what ended before."""
        return await self._delete("finished_at < ?", (before, limit))

    async def apps(self) -> list[str]:
        """The apps with jobs."""
        return await self._database.read(partial(_apps, "push_job"))

    async def _delete(self, where: str, values: tuple[Any, ...]) -> int:
        those = f"SELECT app, id FROM push_job WHERE {where} LIMIT ?"
        statement = f"DELETE FROM push_job WHERE (app, id) IN ({those})"
        return await self._database.write(lambda connection: connection.execute(statement, values).rowcount)


def _find_job(app: str, id: str, connection: sqlite3.Connection) -> PushJob | None:
    row = connection.execute("SELECT content FROM push_job WHERE app = ? AND id = ?", (app, id)).fetchone()
    return None if row is None else _job(row[0])


def _values(job: PushJob) -> Iterable[Any]:
    return (job.state, job.due, job.owner, job.lease_until, job.finished_at, _encode(job).decode())


def _save_job(job: PushJob, connection: sqlite3.Connection) -> None:
    connection.execute(_SAVE_JOB, (*_values(job), job.app, job.id))
