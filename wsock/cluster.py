"""The backends of a node in a cluster: Redis between the nodes, MongoDB behind them.

Imported only when a cluster is asked for: the drivers cost 25 MB, and importing them installs the reactor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wsock.backends.fallback_counters import FallbackCounters
from wsock.backends.memory_audit import MemoryAudit
from wsock.backends.memory_counters import MemoryCounters
from wsock.backends.memory_directory import MemoryDirectory
from wsock.backends.memory_outbox import MemoryOutbox
from wsock.backends.mongo import MongoAudit, MongoDatabase, MongoDirectory, MongoMessages, MongoOutbox
from wsock.backends.redis import (
    Durability,
    LogHistory,
    MergedHistory,
    RedisBroker,
    RedisCounters,
    RedisPresence,
    RedisQueue,
)
from wsock.config import Config
from wsock.errors import ConfigError
from wsock.interfaces import IAuditLog, IDirectory, IMessageStore, IOutboxStore
from wsock.stores import Part, Stores

__all__ = ["build_cluster"]


def build_cluster(config: Config, reactor: Any, now: Callable[[], float], new_name: Callable[[], str]) -> Stores:
    """The backends of a cluster. Raises :class:`ConfigError` where the settings don't go together."""
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
    parts: list[Part] = [broker, presence, counters]
    history: IMessageStore = LogHistory(broker)
    directory: IDirectory = MemoryDirectory()
    audit: IAuditLog = MemoryAudit()
    outbox: IOutboxStore = MemoryOutbox()
    queues: tuple[RedisQueue, ...] = ()
    if config.mongo.url:
        database = MongoDatabase(config.mongo.url, reactor)
        history = MergedHistory(MongoMessages(database, ttl_seconds=config.history.ttl_seconds), broker)
        if not config.dev:
            directory, audit = MongoDirectory(database), MongoAudit(database)
        outbox = MongoOutbox(database)
        queues = tuple(RedisQueue(shard, node, config.recovery.seconds) for shard in broker.shards)
        parts = [database, *parts, *queues]
    return Stores(
        broker=broker,
        history=history,
        directory=directory,
        audit=audit,
        outbox=outbox,
        presence=presence,
        counters=FallbackCounters(counters, MemoryCounters()),
        parts=tuple(parts),
        queues=queues,
        batching=tuple(shard.batches for shard in broker.shards),
        is_up=lambda: broker.is_up,
    )
