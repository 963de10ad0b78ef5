"""What a server stands on, and the embedded backends. Those of a cluster are in :mod:`wsock.cluster`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from wsock.backends.memory_audit import MemoryAudit
from wsock.backends.memory_broker import MemoryBroker
from wsock.backends.memory_counters import MemoryCounters
from wsock.backends.memory_directory import MemoryDirectory
from wsock.backends.memory_outbox import MemoryOutbox
from wsock.backends.memory_presence import MemoryPresence
from wsock.backends.memory_store import MemoryMessages
from wsock.backends.sqlite import SqliteAudit, SqliteDatabase, SqliteDirectory, SqliteMessages, SqliteOutbox
from wsock.backends.sqlite_file import lock
from wsock.config import Config
from wsock.errors import ConfigError
from wsock.interfaces import (
    IAuditLog,
    IBroker,
    ICounters,
    IDirectory,
    IMessageStore,
    IOutboxStore,
    IPresenceStore,
    IWorkQueue,
)
from wsock.measures import Batching

__all__ = ["Part", "Stores", "build_stores", "is_data_in_use"]

_DATABASE = "wsock.db"


class Part(Protocol):
    """What has to be started before the server serves, and stopped after."""

    def start(self) -> Awaitable[None] | None:
        """Opens or connects; raises what an operator must know."""

    def stop(self) -> Awaitable[None]:
        """Closes."""


class _Started:
    """A part that only has to be started."""

    def __init__(self, start: Callable[[], Awaitable[None]]) -> None:
        self.start = start

    async def stop(self) -> None:
        """Nothing to close."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """The backends of one server. ``parts`` are started in order and stopped in reverse."""

    broker: IBroker
    history: IMessageStore
    directory: IDirectory
    audit: IAuditLog
    outbox: IOutboxStore
    presence: IPresenceStore
    counters: ICounters
    parts: tuple[Part, ...] = ()
    queues: tuple[IWorkQueue, ...] = ()
    batching: tuple[Batching, ...] = ()
    trim: Callable[[], None] = lambda: None
    is_up: Callable[[], bool] = lambda: True
    started: list[Part] = field(default_factory=list)

    async def start(self) -> None:
        """Opens all of them."""
        for part in self.parts:
            self.started.append(part)
            starting = part.start()
            if starting is not None:
                await starting

    async def stop(self) -> None:
        """Closes those that were opened."""
        while self.started:
            await self.started.pop().stop()


def build_stores(config: Config, reactor: Any, now: Callable[[], float], new_name: Callable[[], str]) -> Stores:
    """The embedded backends: in memory with ``dev``, else in a SQLite file."""
    if config.mongo.url:
        raise ConfigError("mongo.url: MongoDB serves a cluster: give --redis as well, or leave --mongo out")
    store: MemoryMessages | SqliteMessages
    directory: MemoryDirectory | SqliteDirectory
    audit: MemoryAudit | SqliteAudit
    outbox: MemoryOutbox | SqliteOutbox
    parts: tuple[Part, ...] = ()
    if config.dev:
        store, directory, audit, outbox = MemoryMessages(), MemoryDirectory(), MemoryAudit(), MemoryOutbox()
    else:
        path = Path(config.data) / _DATABASE
        database = SqliteDatabase(path, reactor, synchronous=config.sqlite.synchronous)
        store, directory, outbox = SqliteMessages(database), SqliteDirectory(database), SqliteOutbox(database)
        audit = SqliteAudit(database)
        parts = (database,)
    broker = MemoryBroker(
        store,
        now,
        new_name,
        recovery_seconds=config.recovery.seconds,
        recovery_messages=config.recovery.messages,
        recovery_bytes=config.recovery.bytes,
        dedup_seconds=config.dedup.seconds,
        backlog_bytes=config.limits.publish_backlog_bytes,
        unknown_before=int(now() * 1000) if config.dev else 0,
    )
    return Stores(
        broker=broker,
        history=store,
        directory=directory,
        audit=audit,
        outbox=outbox,
        presence=MemoryPresence(max_members=config.limits.presence_members),
        counters=MemoryCounters(),
        parts=(*parts, _Started(broker.start)),
        batching=(broker,),
        trim=broker.trim,
    )


def is_data_in_use(directory: Path) -> bool:
    """Whether a server runs on this data directory; one that was never used is not touched."""
    database = directory / _DATABASE
    if not database.with_name(f"{database.name}.lock").exists():
        return False
    try:
        lock(database).close()
    except ConfigError:
        return True
    return False
