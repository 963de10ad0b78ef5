"""What a server stands on, and the embedded backends. Those of a cluster are in :mod:`wsock.cluster`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from wsock.backends.memory_audit import MemoryAudit
from wsock.backends.memory_broker import MemoryBroker
from wsock.backends.memory_control import MemoryControl
from wsock.backends.memory_counters import MemoryCounters
from wsock.backends.memory_directory import MemoryDirectory
from wsock.backends.memory_meters import MemoryMeters
from wsock.backends.memory_outbox import MemoryOutbox
from wsock.backends.memory_presence import MemoryPresence
from wsock.backends.memory_push import MemoryDevices, MemoryPushJobs
from wsock.backends.memory_store import MemoryMessages
from wsock.backends.outbox_journal import OutboxJournal
from wsock.backends.sqlite import (
    SqliteAudit,
    SqliteDatabase,
    SqliteDevices,
    SqliteDirectory,
    SqliteMessages,
    SqliteMeters,
    SqliteOutbox,
    SqlitePushJobs,
)
from wsock.backends.sqlite_file import lock
from wsock.config import Config
from wsock.errors import ConfigError
from wsock.interfaces import (
    IAuditLog,
    IBroker,
    IControl,
    ICounters,
    IDeviceStore,
    IDirectory,
    IMessageStore,
    IMeterStore,
    IOutboxStore,
    IPresenceStore,
    IPushJobs,
    IWorkQueue,
    JournalRecord,
    OutboxRow,
)
from wsock.measures import Batching

__all__ = ["Ears", "Part", "Stores", "build_stores", "is_data_in_use"]

_DATABASE = "wsock.db"


class Part(Protocol):
    """What has to be started before the server serves, and stopped after."""

    def start(self) -> Awaitable[None] | None:
        """Opens or connects; raises what an operator must know."""

    def stop(self) -> Awaitable[None]:
        """Closes."""


class Ears(Protocol):
    """Who tells webhooks what happens in the backends."""

    def occupancy(self, app: str, channel: str, is_occupied: bool) -> None:
        """A channel has its first subscriber, or has lost its last one. Only of an embedded broker."""

    async def rows(self, records: list[JournalRecord]) -> list[OutboxRow]:
        """What is to be told of messages that are about to be committed. Only of an embedded broker."""

    def kept(self, rows: list[OutboxRow]) -> None:
        """These were stored with their messages."""

    def may_want(self, app: str, type: str, channel: str) -> bool:
        """Whether such an event is wanted, as far as is known at this moment."""


class _Started:
    """A part that only has to be started."""

    def __init__(self, start: Callable[[], Awaitable[None]]) -> None:
        self.start = start

    async def stop(self) -> None:
        """Nothing to close."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """The backends of one server, which is the ``node``. ``parts`` are started in order and stopped in reverse.

    ``is_embedded``: there are no other nodes. ``shares_meters``: other nodes add to the same meters. ``hear`` connects
    what happens in the backends, and is to be told, with who tells it.
    """

    broker: IBroker
    history: IMessageStore
    directory: IDirectory
    audit: IAuditLog
    meters: IMeterStore
    outbox: IOutboxStore
    devices: IDeviceStore
    push_jobs: IPushJobs
    presence: IPresenceStore
    counters: ICounters
    control: IControl
    node: str = "local"
    is_embedded: bool = False
    shares_meters: bool = False
    parts: tuple[Part, ...] = ()
    queues: tuple[IWorkQueue, ...] = ()
    batching: tuple[Batching, ...] = ()
    trim: Callable[[], None] = lambda: None
    hear: Callable[[Ears], None] = lambda ears: None
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
    meters: MemoryMeters | SqliteMeters
    outbox: MemoryOutbox | SqliteOutbox
    devices: MemoryDevices | SqliteDevices
    push_jobs: MemoryPushJobs | SqlitePushJobs
    parts: tuple[Part, ...] = ()
    keep: Callable[[list[JournalRecord], list[OutboxRow]], Deferred[None]]
    if config.dev:
        store, directory, audit, outbox = MemoryMessages(), MemoryDirectory(), MemoryAudit(), MemoryOutbox()
        meters = MemoryMeters()
        devices, push_jobs = MemoryDevices(), MemoryPushJobs()
        keep = partial(_keep_in_memory, store, outbox)
    else:
        path = Path(config.data) / _DATABASE
        database = SqliteDatabase(path, reactor, synchronous=config.sqlite.synchronous)
        store, directory, outbox = SqliteMessages(database), SqliteDirectory(database), SqliteOutbox(database)
        audit, meters = SqliteAudit(database), SqliteMeters(database)
        devices, push_jobs = SqliteDevices(database), SqlitePushJobs(database)
        parts = (database,)
        keep = partial(_keep_in_file, store, outbox)
    journal = OutboxJournal(store, keep)
    broker = MemoryBroker(
        journal,
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
        meters=meters,
        outbox=outbox,
        devices=devices,
        push_jobs=push_jobs,
        presence=MemoryPresence(max_members=config.limits.presence_members),
        counters=MemoryCounters(),
        control=MemoryControl(),
        is_embedded=True,
        parts=(*parts, _Started(broker.start)),
        batching=(broker,),
        trim=broker.trim,
        hear=partial(_hear, journal, broker),
    )


def _hear(journal: OutboxJournal, broker: MemoryBroker, ears: Ears) -> None:
    journal.rows, journal.kept = ears.rows, ears.kept
    broker.on_occupancy = ears.occupancy


def _keep_in_memory(
    store: MemoryMessages, outbox: MemoryOutbox, records: list[JournalRecord], rows: list[OutboxRow]
) -> Deferred[None]:
    async def keep() -> None:
        await store.commit(records)
        await outbox.add(rows)

    return Deferred.fromCoroutine(keep())


def _keep_in_file(
    store: SqliteMessages, outbox: SqliteOutbox, records: list[JournalRecord], rows: list[OutboxRow]
) -> Deferred[None]:
    return store.commit_with(records, outbox.adding(rows))


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
