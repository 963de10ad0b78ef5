"""Apps, keys, accounts and all other records of an embedded server, in SQLite.

A kind of record has a table of its name with a column for each field; what is no plain value is JSON. Owners and
unique values are looked at before a write, in its transaction: there is one writer, so nothing comes in between.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, TypeVar

import msgspec
from msgspec import inspect
from zope.interface import implementer

from wsock.backends.sqlite_database import SqliteDatabase
from wsock.errors import Conflict
from wsock.interfaces import IDirectory
from wsock.records import KINDS, Account, App, Endpoint, Key, Kind, Listing, Record, Unique, kind_of

__all__ = ["SqliteDirectory"]

_R = TypeVar("_R", bound=Record)
_Values = list[Any]

_PLAIN = (inspect.StrType, inspect.IntType, inspect.BoolType, inspect.NoneType, inspect.EnumType)


class _Table:
    """How the records of a kind become rows, and rows become records."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.name = kind.name
        struct = inspect.type_info(kind.struct)
        assert isinstance(struct, inspect.StructType)
        self._decoders = {field.name: _decoder(field.type) for field in struct.fields}
        self.select = f"SELECT {', '.join(self._decoders)} FROM {self.name}"
        self._folded = {f"folded_{u.fields[0]}": u for u in kind.unique if u.is_folded}

    def row(self, record: Record) -> dict[str, Any]:
        """What is stored, by column."""
        values: dict[str, Any] = msgspec.to_builtins(record)
        row = {name: _plain(value) for name, value in values.items()}
        return row | {column: unique.fold(values[unique.fields[0]]) for column, unique in self._folded.items()}

    def record(self, row: tuple[Any, ...]) -> Any:
        """What was stored."""
        pairs = zip(self._decoders.items(), row, strict=True)
        return msgspec.convert({name: decode(value) for (name, decode), value in pairs}, self.kind.struct)

    def insert(self, connection: sqlite3.Connection, record: Record) -> None:
        """Adds a row."""
        row = self.row(record)
        marks = ", ".join("?" * len(row))
        connection.execute(f"INSERT INTO {self.name} ({', '.join(row)}) VALUES ({marks})", list(row.values()))

    def update(self, connection: sqlite3.Connection, record: Record) -> None:
        """Replaces a row, all but its last use."""
        row = self.row(record)
        row.pop("last_used_at", None)
        sets = ", ".join(f"{column} = ?" for column in row)
        connection.execute(f"UPDATE {self.name} SET {sets} WHERE id = ?", [*row.values(), record.id])

    def one(self, connection: sqlite3.Connection, id: str) -> Any:
        """The record of this id."""
        row = connection.execute(f"{self.select} WHERE id = ?", (id,)).fetchone()
        return None if row is None else self.record(row)


def _decoder(type: inspect.Type) -> Callable[[Any], Any]:
    parts = type.types if isinstance(type, inspect.UnionType) else (type,)
    if not all(isinstance(part, _PLAIN) for part in parts):
        return msgspec.json.decode
    return bool if isinstance(type, inspect.BoolType) else _as_it_is


def _as_it_is(value: Any) -> Any:
    return value


@cache
def _table(struct: type[Record]) -> _Table:
    return _Table(kind_of(struct))


@implementer(IDirectory)
class SqliteDirectory:
    """Looks up what is in the database at that moment; nothing is cached."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    # Records.

    async def find(self, kind: type[_R], id: str) -> _R | None:
        """The record of this id."""
        found: _R | None = await self._database.read(lambda connection: _table(kind).one(connection, id))
        return found

    async def find_by(self, kind: type[_R], field: str, value: str) -> _R | None:
        """The record that alone has this value of a unique field."""
        unique = kind_of(kind).unique_by(field)
        if not value:
            return None
        # The partial index of what may be empty is only used by a statement that says so too.
        wanted = f"{unique.columns[0]} = ?{f' AND {field} <> {_EMPTY}' if unique.may_be_empty else ''}"
        found = await self._records(kind, wanted, [unique.fold(value)])
        return found[0] if found else None

    async def page(self, kind: type[_R], where: Mapping[str, str], cursor: str | None, limit: int) -> Listing[_R]:
        """A part of the records with these values, in the order of their ids."""
        kind_of(kind).check_list(where)
        conditions = [*(f"{name} = ?" for name in where), *(["id > ?"] if cursor is not None else [])]
        values: _Values = [*where.values(), *([cursor] if cursor is not None else []), limit + 1]
        found = await self._records(kind, f"{' AND '.join(conditions) or 'TRUE'} ORDER BY id LIMIT ?", values)
        return Listing(found[:limit], found[limit - 1].id if len(found) > limit else None)

    async def add(self, records: Sequence[Record]) -> None:
        """Stores new records, all or none."""
        await self._database.write(partial(_add, records))

    async def replace(self, record: _R) -> _R:
        """Stores the record in the place of the version that it has."""
        new: _R = await self._database.write(partial(_replace, record))
        return new

    async def remove(self, kind: type[Record], id: str, version: int | None = None) -> bool:
        """Deletes the record and all that belongs to it."""
        return await self._database.write(partial(_remove_checked, kind_of(kind), id, version))

    async def used(self, kind: type[Record], id: str, at: int) -> None:
        """Notes the last use of a record that keeps one."""
        statement = f"UPDATE {kind_of(kind).name} SET last_used_at = ? WHERE id = ? AND ifnull(last_used_at, 0) < ?"
        await self._database.write(lambda connection: connection.execute(statement, (at, id, at)).rowcount)

    async def sweep(self, now: int, limit: int) -> int:
        """Deletes records whose time has come."""
        return await self._database.write(partial(_sweep, now, limit))

    async def revision(self) -> int:
        """A number that grows with every change."""
        [number] = await self._database.read(lambda c: c.execute("SELECT revision FROM directory").fetchone())
        return int(number)

    # What connections need.

    async def app(self, id: str) -> App | None:
        """The app of this id."""
        return await self.find(App, id)

    async def apps(self) -> list[App]:
        """All apps, in the order of their ids."""
        return await self._records(App, "TRUE ORDER BY id", [])

    async def key(self, id: str) -> Key | None:
        """The key of this id."""
        return await self.find(Key, id)

    async def key_by_hash(self, api_key_hash: str) -> Key | None:
        """The key whose API key has this SHA-256 in hex; a key without an API key is never found."""
        return await self.find_by(Key, "api_key_hash", api_key_hash)

    async def account_by_email(self, email: str) -> Account | None:
        """The account of this e-mail address, compared without case."""
        return await self.find_by(Account, "email", email)

    async def endpoints(self, app: str) -> list[Endpoint]:
        """The endpoints of this app, in the order of their ids."""
        return await self._records(Endpoint, "app = ? ORDER BY id", [app])

    async def add_endpoint(self, endpoint: Endpoint) -> None:
        """Stores an endpoint."""
        await self.add([endpoint])

    async def is_empty(self) -> bool:
        """Whether there is no app yet."""
        return not await self._records(App, "TRUE LIMIT 1", [])

    async def create(self, app: App, keys: list[Key], account: Account) -> None:
        """Stores an app with its keys and owner, all or none."""
        await self.add([app, *keys, account])

    async def _records(self, kind: type[_R], wanted: str, values: _Values) -> list[_R]:
        table = _table(kind)

        def read(connection: sqlite3.Connection) -> list[_R]:
            return [table.record(row) for row in connection.execute(f"{table.select} WHERE {wanted}", values)]

        return await self._database.read(read)


_EMPTY = "''"


def _add(records: Sequence[Record], connection: sqlite3.Connection) -> None:
    for record in records:
        table = _table(type(record))
        _check_owners(connection, record)
        if table.one(connection, record.id) is not None:
            raise Conflict(f"{table.kind.noun} has this id already")
        _check_unique(connection, table, record)
        table.insert(connection, record)
    _changed(connection, *map(kind_of, records))


def _replace(record: Record, connection: sqlite3.Connection) -> Any:
    table = _table(type(record))
    _check_version(table.kind, table.one(connection, record.id), record.version)
    _check_owners(connection, record)
    _check_unique(connection, table, record)
    table.update(connection, msgspec.structs.replace(record, version=record.version + 1))
    _changed(connection, table.kind)
    return table.one(connection, record.id)


def _check_version(kind: Kind, stored: Record | None, version: int) -> None:
    if stored is None:
        raise Conflict(f"{kind.noun} that was to be changed is not there any more")
    if stored.version != version:
        raise Conflict(f"{kind.noun} was changed meanwhile: read it again, then decide")


def _check_owners(connection: sqlite3.Connection, record: Record) -> None:
    for name, owner in kind_of(record).owners.items():
        id = getattr(record, name)
        if id and _table(owner).one(connection, id) is None:
            raise Conflict(f"there is no {kind_of(owner).name} with the id '{id}'")


def _check_unique(connection: sqlite3.Connection, table: _Table, record: Record) -> None:
    for unique in table.kind.unique:
        values = unique.values(record)
        if values is not None and _is_taken(connection, table, unique, values, record.id):
            raise Conflict(unique.text)


def _is_taken(connection: sqlite3.Connection, table: _Table, unique: Unique, values: tuple[str, ...], id: str) -> bool:
    wanted = " AND ".join(f"{column} = ?" for column in unique.columns)
    if unique.may_be_empty:
        wanted += "".join(f" AND {column} <> {_EMPTY}" for column in unique.columns)
    row = connection.execute(f"SELECT 1 FROM {table.name} WHERE {wanted} AND id <> ?", (*values, id)).fetchone()
    return row is not None


def _remove_checked(kind: Kind, id: str, version: int | None, connection: sqlite3.Connection) -> bool:
    stored = _table(kind.struct).one(connection, id)
    if version is not None and stored is not None:
        _check_version(kind, stored, version)
    _remove(connection, kind, id)
    _changed(connection, kind)
    return stored is not None


def _remove(connection: sqlite3.Connection, kind: Kind, id: str) -> None:
    """What belongs to it goes first: the database refuses anything that has lost what it belongs to."""
    for child, name in kind.belongings:
        for [belonging] in connection.execute(f"SELECT id FROM {child.name} WHERE {name} = ?", (id,)).fetchall():
            _remove(connection, child, belonging)
    connection.execute(f"DELETE FROM {kind.name} WHERE id = ?", (id,))


def _sweep(now: int, limit: int, connection: sqlite3.Connection) -> int:
    count = 0
    for name in (kind.name for kind in KINDS.values() if kind.is_swept):
        expired = f"SELECT id FROM {name} WHERE expires_at <= ? LIMIT ?"
        count += connection.execute(f"DELETE FROM {name} WHERE id IN ({expired})", (now, limit)).rowcount
    return count


def _changed(connection: sqlite3.Connection, *kinds: Kind) -> None:
    if not all(kind.is_quiet for kind in kinds):
        connection.execute("UPDATE directory SET revision = revision + 1")


def _plain(value: Any) -> Any:
    return msgspec.json.encode(value).decode() if isinstance(value, list | tuple | dict) else value
