"""The database file: created, locked against a second process, opened, and brought to the current schema.

Everything here blocks and runs once, before the server serves; what is wrong is a
:class:`wsock.errors.ConfigError`.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from errno import EACCES
from importlib.resources import files
from pathlib import Path

from wsock.errors import ConfigError

__all__ = ["connect", "create", "load_migrations", "lock", "migrate"]

_OLDEST_SQLITE = (3, 37)
_BUSY_MILLISECONDS = 5000


def load_migrations() -> list[str]:
    """The SQL of each schema version, the first one first."""
    entries = files("wsock.backends").joinpath("schema").iterdir()
    scripts = {entry.name: entry.read_text(encoding="utf-8") for entry in entries if entry.name.endswith(".sql")}
    return [scripts[name] for name in sorted(scripts)]


def create(path: Path) -> None:
    """Makes the data directory (mode 0700) and an empty file (mode 0600) where there is none."""
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise ConfigError(
            f"this Python comes with SQLite {sqlite3.sqlite_version}; the embedded stores need 3.37 or later"
        )
    with _explained(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _touch(path)


def lock(path: Path) -> sqlite3.Connection:
    """Takes the data directory for this process, until the connection is closed or the process ends.

    The lock is a SQLite transaction on an empty file: that works on every system, and a kill releases it.
    """
    with _explained(path):
        beside = path.with_name(f"{path.name}.lock")
        _touch(beside)
        connection = sqlite3.connect(beside, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as e:
        connection.close()
        raise ConfigError(
            f"another wsock uses this data directory: {path.parent}; stop it, or name another one with --data"
        ) from e
    return connection


def connect(path: Path, synchronous: str, *, read_only: bool = False) -> sqlite3.Connection:
    """Opens a connection that may move between threads, in autocommit mode."""
    with _explained(path):
        connection = sqlite3.connect(
            path, timeout=_BUSY_MILLISECONDS / 1000, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {synchronous}")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA journal_size_limit = 67108864")
            connection.execute(f"PRAGMA query_only = {int(read_only)}")
        except sqlite3.Error:
            connection.close()
            raise
        return connection


def migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[str]) -> None:
    """Brings the schema to the last of the migrations, each in its own transaction.

    A database that is older, but not new, is copied aside first. One that is newer than the code is refused.
    """
    with _explained(path):
        [version] = connection.execute("PRAGMA user_version").fetchone()
    if version > len(migrations):
        raise ConfigError(
            f"{path} has schema version {version} and this wsock knows {len(migrations)} at most;"
            " run the wsock that wrote it or a later one"
        )
    if 0 < version < len(migrations):
        _copy_aside(connection, path, version)
    for number, script in enumerate(migrations[version:], version + 1):
        _apply(connection, path, number, script)


def _apply(connection: sqlite3.Connection, path: Path, number: int, script: str) -> None:
    try:
        connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")
    except sqlite3.Error as e:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise ConfigError(
            f"{path} can't be brought to schema version {number}: {e};"
            f" it is still version {number - 1}, run the wsock that wrote it"
        ) from e


def _copy_aside(connection: sqlite3.Connection, path: Path, version: int) -> None:
    """A copy through SQLite, since the file alone lacks what the write-ahead log holds."""
    unfinished = path.with_name(f"{path.name}.copy")
    with _explained(path):
        unfinished.unlink(missing_ok=True)
        _touch(unfinished)
        with contextlib.closing(sqlite3.connect(unfinished)) as copy:
            connection.backup(copy)
        unfinished.replace(path.with_name(f"{path.name}.v{version}"))


def _touch(path: Path) -> None:
    """Creates the file. One that exists is not opened: on POSIX, closing it drops this process's locks on it."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        if not os.access(path, os.R_OK | os.W_OK):
            raise PermissionError(EACCES, os.strerror(EACCES), str(path)) from None


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        reason = e.strerror or type(e).__name__
        raise ConfigError(
            f"the data directory {path.parent} can't be used: {reason}; name a writable one with --data"
        ) from e
    except sqlite3.Error as e:
        raise ConfigError(
            f"{path} can't be opened as a database of wsock: {e}; name another data directory with --data"
        ) from e
