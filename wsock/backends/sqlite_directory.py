"""Apps, keys and accounts of an embedded server, in SQLite."""

from __future__ import annotations

import sqlite3
from functools import partial
from typing import Any

import msgspec
from zope.interface import implementer

from wsock.backends.sqlite_database import SqliteDatabase
from wsock.interfaces import Account, App, Endpoint, IDirectory, Key

__all__ = ["SqliteDirectory"]

_APP = "id, name, created_at, is_enabled, allowed_origins"
_KEY = (
    "id, app, name, created_at, api_key_hash, algorithm, secret, issuer, audience, permissions, client_ids,"
    " expires_at, is_revoked"
)
_ENDPOINT = "id, app, url, created_at, events, channels, is_enabled"
_ACCOUNT = "id, email, password_hash, created_at, role"

_TAKEN = {
    "app.id": "an app has this id already",
    "key.id": "a key has this id already",
    "key.api_key_hash": "a key has this API key already",
    "endpoint.id": "an endpoint has this id already",
    "account.id": "an account has this id already",
    "account.folded_email": "an account has this e-mail address already",
}


@implementer(IDirectory)
class SqliteDirectory:
    """Looks up what is in the database at that moment; nothing is cached."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def app(self, id: str) -> App | None:
        """The app of this id."""
        row = await self._row(f"SELECT {_APP} FROM app WHERE id = ?", id)
        return None if row is None else _app(row)

    async def apps(self) -> list[App]:
        """All apps, in the order of their ids."""
        statement = f"SELECT {_APP} FROM app ORDER BY id"
        return await self._database.read(lambda connection: [_app(row) for row in connection.execute(statement)])

    async def key(self, id: str) -> Key | None:
        """The key of this id."""
        row = await self._row(f"SELECT {_KEY} FROM key WHERE id = ?", id)
        return None if row is None else _key(row)

    async def key_by_hash(self, api_key_hash: str) -> Key | None:
        """The key whose API key has this SHA-256 in hex; a key without an API key is never found."""
        statement = f"SELECT {_KEY} FROM key WHERE api_key_hash = ? AND api_key_hash <> ''"
        row = await self._row(statement, api_key_hash)
        return None if row is None else _key(row)

    async def account_by_email(self, email: str) -> Account | None:
        """The account of this e-mail address, compared without case."""
        row = await self._row(f"SELECT {_ACCOUNT} FROM account WHERE folded_email = ?", email.casefold())
        return None if row is None else _account(row)

    async def endpoints(self, app: str) -> list[Endpoint]:
        """The endpoints of this app, in the order of their ids."""
        statement = f"SELECT {_ENDPOINT} FROM endpoint WHERE app = ? ORDER BY id"
        return await self._database.read(
            lambda connection: [_endpoint(row) for row in connection.execute(statement, (app,))]
        )

    async def add_endpoint(self, endpoint: Endpoint) -> None:
        """Stores an endpoint. Raises ``ValueError`` when its id is taken or its app does not exist."""
        await self._database.write(partial(_add_endpoint, endpoint))

    async def is_empty(self) -> bool:
        """Whether there is no app yet."""
        return await self._row("SELECT 1 FROM app LIMIT 1") is None

    async def create(self, app: App, keys: list[Key], account: Account) -> None:
        """Stores them all or none. Raises ``ValueError`` when an id, an API key or the e-mail is taken."""
        for key in keys:
            if key.app != app.id:
                raise ValueError(f"key {key.id} belongs to app {key.app}, not to {app.id}")
        await self._database.write(partial(_create, app, keys, account))

    async def _row(self, statement: str, *values: str) -> tuple[Any, ...] | None:
        return await self._database.read(lambda connection: connection.execute(statement, values).fetchone())


def _app(row: tuple[Any, ...]) -> App:
    id, name, created_at, is_enabled, allowed_origins = row
    return App(
        id=id,
        name=name,
        created_at=created_at,
        is_enabled=bool(is_enabled),
        allowed_origins=msgspec.json.decode(allowed_origins, type=tuple[str, ...]),
    )


def _key(row: tuple[Any, ...]) -> Key:
    values = dict(zip(_KEY.split(", "), row, strict=True))
    values["permissions"] = msgspec.json.decode(values["permissions"], type=dict[str, list[str]])
    values["is_revoked"] = bool(values["is_revoked"])
    return Key(**values)


def _endpoint(row: tuple[Any, ...]) -> Endpoint:
    values = dict(zip(_ENDPOINT.split(", "), row, strict=True))
    values["events"] = msgspec.json.decode(values["events"], type=tuple[str, ...])
    values["is_enabled"] = bool(values["is_enabled"])
    return Endpoint(**values)


def _account(row: tuple[Any, ...]) -> Account:
    return Account(**dict(zip(_ACCOUNT.split(", "), row, strict=True)))


def _create(app: App, keys: list[Key], account: Account, connection: sqlite3.Connection) -> None:
    try:
        connection.execute(
            f"INSERT INTO app ({_APP}) VALUES (?, ?, ?, ?, ?)",
            (app.id, app.name, app.created_at, app.is_enabled, _json(app.allowed_origins)),
        )
        for key in keys:
            _create_key(connection, key)
        connection.execute(
            f"INSERT INTO account ({_ACCOUNT}, folded_email) VALUES (?, ?, ?, ?, ?, ?)",
            (
                account.id,
                account.email,
                account.password_hash,
                account.created_at,
                account.role,
                account.email.casefold(),
            ),
        )
    except sqlite3.IntegrityError as e:
        raise _taken(e) from e


def _create_key(connection: sqlite3.Connection, key: Key) -> None:
    _insert(connection, "key", _KEY, msgspec.structs.asdict(key) | {"permissions": _json(key.permissions)})


def _add_endpoint(endpoint: Endpoint, connection: sqlite3.Connection) -> None:
    if connection.execute("SELECT 1 FROM app WHERE id = ?", (endpoint.app,)).fetchone() is None:
        raise ValueError("there is no app with this id")
    values = msgspec.structs.asdict(endpoint) | {"events": _json(endpoint.events)}
    try:
        _insert(connection, "endpoint", _ENDPOINT, values)
    except sqlite3.IntegrityError as e:
        raise _taken(e) from e


def _insert(connection: sqlite3.Connection, table: str, columns: str, values: dict[str, Any]) -> None:
    names = columns.split(", ")
    marks = ", ".join("?" * len(names))
    connection.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", [values[name] for name in names])


def _taken(error: sqlite3.IntegrityError) -> ValueError:
    constraint = str(error).rpartition(": ")[2]
    return ValueError(_TAKEN.get(constraint, f"it does not go with what is stored: {constraint}"))


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
