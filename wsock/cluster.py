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
from wsock.backends.memory_meters import MemoryMeters
from wsock.backends.memory_outbox import MemoryOutbox
from wsock.backends.memory_push import MemoryDevices, MemoryPushJobs
from wsock.backends.mongo import (
    MongoAudit,
    MongoDatabase,
    MongoDevices,
    MongoDirectory,
    MongoMessages,
    MongoMeters,
    MongoOutbox,
    MongoPushJobs,
)
from wsock.backends.redis import (
    Durability,
    LogHistory,
    MergedHistory,
    RedisBroker,
    RedisControl,
    RedisCounters,
    RedisPresence,
    RedisQueue,
)
from wsock.backends.redis_nodes import LeaseTimes
from wsock.config import Config
from wsock.errors import ConfigError
from wsock.interfaces import (
    IAuditLog,
    IDeviceStore,
    IDirectory,
    IMessageStore,
    IMeterStore,
    IOutboxStore,
    IPushJobs,
)
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
        broker,
        reactor,
        node,
        now,
        backlog=durability.backlog,
        max_members=config.limits.presence_members,
        times=LeaseTimes(quiet_seconds=config.webhooks.quiet_seconds),
    )
    counters = RedisCounters(broker)
    control = RedisControl(broker, reactor, node)
    parts: list[Part] = [broker, control, presence, counters]
    history: IMessageStore = LogHistory(broker)
    directory: IDirectory = MemoryDirectory()
    audit: IAuditLog = MemoryAudit()
    meters: IMeterStore = MemoryMeters()
    outbox: IOutboxStore = MemoryOutbox()
    devices: IDeviceStore = MemoryDevices()
    push_jobs: IPushJobs = MemoryPushJobs()
    queues: tuple[RedisQueue, ...] = ()
    if config.mongo.url:
        database = MongoDatabase(config.mongo.url, reactor)
        history = MergedHistory(MongoMessages(database, ttl_seconds=config.history.ttl_seconds), broker)
        if not config.dev:
            directory, audit = MongoDirectory(database), MongoAudit(database)
        outbox = MongoOutbox(database)
        devices, push_jobs = MongoDevices(database), MongoPushJobs(database)
        meters = MongoMeters(database)
        queues = tuple(RedisQueue(shard, node, config.recovery.seconds) for shard in broker.shards)
        parts = [database, *parts, *queues]
    return Stores(
        broker=broker,
        history=history,
        directory=directory,
        audit=audit,
        meters=meters,
        shares_meters=bool(config.mongo.url),
        outbox=outbox,
        devices=devices,
        push_jobs=push_jobs,
        presence=presence,
        counters=FallbackCounters(counters, MemoryCounters()),
        control=control,
        node=node,
        parts=tuple(parts),
        queues=queues,
        batching=tuple(shard.batches for shard in broker.shards),
        is_up=lambda: broker.is_up,
        hear=lambda ears: broker.tell_of(lambda app, channel: ears.may_want(app, "message.published", channel)),
    )
