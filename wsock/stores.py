"""Which backends a server stands on: the embedded ones, or Redis and MongoDB.

With :mod:`wsock.server` the only place that names concrete backends.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from wsock.backends.memory_broker import MemoryBroker
from wsock.backends.memory_counters import MemoryCounters
from wsock.backends.memory_directory import MemoryDirectory
from wsock.backends.memory_outbox import MemoryOutbox
from wsock.backends.memory_presence import MemoryPresence
from wsock.backends.memory_store import MemoryMessages
from wsock.backends.mongo import MongoDatabase, MongoDirectory, MongoMessages, MongoOutbox
from wsock.backends.redis import (
    Durability,
    LogHistory,
    MergedHistory,
    RedisBroker,
    RedisCounters,
    RedisPresence,
    RedisQueue,
)
from wsock.backends.sqlite import SqliteDatabase, SqliteDirectory, SqliteMessages, SqliteOutbox
from wsock.backends.sqlite_file import lock
from wsock.config import Config
from wsock.errors import ConfigError
from wsock.interfaces import IBroker, ICounters, IDirectory, IMessageStore, IOutboxStore, IPresenceStore, IWorkQueue

__all__ = ["Stores", "build_stores", "is_data_in_use"]

_DATABASE = "wsock.db"


class _Part(Protocol):
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
    outbox: IOutboxStore
    presence: IPresenceStore
    counters: ICounters
    parts: tuple[_Part, ...] = ()
    queues: tuple[IWorkQueue, ...] = ()
    trim: Callable[[], None] = lambda: None
    is_up: Callable[[], bool] = lambda: True
    started: list[_Part] = field(default_factory=list)

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
    """The backends that the settings ask for. Raises :class:`ConfigError` where those don't go together."""
    if config.redis.urls:
        return _cluster(config, reactor, now, new_name)
    if config.mongo.url:
        raise ConfigError("mongo.url: MongoDB serves a cluster: give --redis as well, or leave --mongo out")
    return _embedded(config, reactor, now, new_name)


def _embedded(config: Config, reactor: Any, now: Callable[[], float], new_name: Callable[[], str]) -> Stores:
    store: MemoryMessages | SqliteMessages
    directory: MemoryDirectory | SqliteDirectory
    outbox: MemoryOutbox | SqliteOutbox
    parts: tuple[_Part, ...] = ()
    if config.dev:
        store, directory, outbox = MemoryMessages(), MemoryDirectory(), MemoryOutbox()
    else:
        path = Path(config.data) / _DATABASE
        database = SqliteDatabase(path, reactor, synchronous=config.sqlite.synchronous)
        store, directory, outbox = SqliteMessages(database), SqliteDirectory(database), SqliteOutbox(database)
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
        outbox=outbox,
        presence=MemoryPresence(max_members=config.limits.presence_members),
        counters=MemoryCounters(),
        parts=(*parts, _Started(broker.start)),
        trim=broker.trim,
    )


def _cluster(config: Config, reactor: Any, now: Callable[[], float], new_name: Callable[[], str]) -> Stores:
    if not config.mongo.url and not config.dev:
        raise ConfigError(
            "redis.urls: the nodes of a cluster share their apps and keys: give --mongo as well (or --dev for a try)"
        )
    node = new_name()
    durability = Durability(
        recovery_seconds=config.recovery.seconds,
        recovery_messages=config.recovery.messages,
        dedup_seconds=config.dedup.seconds,
        backlog=config.redis.backlog if config.mongo.url else 0,
        history_messages=config.redis.history_messages,
        history_seconds=config.history.ttl_seconds,
        replicas=config.redis.replicas,
    )
    broker = RedisBroker(
        config.redis.urls,
        reactor,
        node,
        new_name,
        durability,
        backlog_bytes=config.limits.publish_backlog_bytes,
    )
    presence = RedisPresence(
        broker, reactor, node, now, backlog=durability.backlog, max_members=config.limits.presence_members
    )
    counters = RedisCounters(broker)
    parts: list[_Part] = [broker, presence, counters]
    history: IMessageStore = LogHistory(broker)
    directory: IDirectory = MemoryDirectory()
    outbox: IOutboxStore = MemoryOutbox()
    queues: tuple[RedisQueue, ...] = ()
    if config.mongo.url:
        database = MongoDatabase(config.mongo.url, reactor)
        history = MergedHistory(MongoMessages(database, ttl_seconds=config.history.ttl_seconds), broker)
        directory = directory if config.dev else MongoDirectory(database)
        outbox = MongoOutbox(database)
        queues = tuple(RedisQueue(shard, node, config.recovery.seconds) for shard in broker.shards)
        parts = [database, *parts, *queues]
    return Stores(
        broker=broker,
        history=history,
        directory=directory,
        outbox=outbox,
        presence=presence,
        counters=counters,
        parts=tuple(parts),
        queues=queues,
        is_up=lambda: broker.is_up,
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
