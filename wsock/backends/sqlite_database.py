"""One SQLite file, used off the reactor thread: one thread that writes, a few that read.

What waits while a transaction is being committed goes into the next one together (group commit), since a
commit costs a flush to the disk whatever is in it. Readers see the last commit and are never blocked by the
writer (WAL). The tables are no concern of this module.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Barrier, Thread
from typing import Any, Literal, TypeVar

from twisted.internet.defer import Deferred, fail, gatherResults
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from wsock.backends.sqlite_file import connect, create, load_migrations, lock, migrate
from wsock.errors import Unavailable

__all__ = ["SqliteDatabase"]

_T = TypeVar("_T")
_MAX_WRITES = 64


@dataclass(slots=True)
class _Write:
    """A piece of work for the writer; its outcome is set on the writer's thread and told on the reactor's."""

    work: Callable[[sqlite3.Connection], Any]
    done: Deferred[Any]
    value: Any = None
    error: Exception | None = None


class _Thread(Thread):
    """A thread that doesn't hold up a process which ends without a stop; what it was writing is undone."""

    def __init__(self, *, target: Callable[[], object], name: str) -> None:
        super().__init__(target=target, name=name, daemon=True)


class _Outage:
    """Turns the driver's errors into :class:`Unavailable`, and logs the first of an outage and its end."""

    _log = Logger()

    def __init__(self, path: Path, act: str) -> None:
        self._path = path
        self._act = act
        self._is_on = False

    def over(self) -> None:
        """The store did its work."""
        if self._is_on:
            self._is_on = False
            self._log.info("the message store {path} can be {act} again", path=self._path, act=self._act)

    def unavailable(self, error: sqlite3.Error) -> Unavailable:
        """What the caller is told; the reason is for the log only."""
        if not self._is_on:
            self._is_on = True
            self._log.error(
                "the message store {path} can't be {act}: {reason}; check the disk's space and permissions",
                path=self._path,
                act=self._act,
                reason=str(error),
            )
        unavailable = Unavailable(f"the message store can't be {self._act} now; repeat the request later")
        unavailable.__cause__ = error
        return unavailable


class SqliteDatabase:
    """A database file in a data directory that belongs to this process alone.

    ``synchronous`` is ``full`` (an acknowledged write survives a power failure) or ``normal`` (it survives a
    crash of the process only). ``migrations`` are the SQL of the schema's versions, by default the package's.
    """

    def __init__(
        self,
        path: Path,
        reactor: IReactorFromThreads,
        *,
        synchronous: Literal["full", "normal"] = "full",
        readers: int = 2,
        migrations: Sequence[str] | None = None,
    ) -> None:
        self._path = path
        self._reactor = reactor
        self._synchronous = synchronous
        self._migrations = migrations
        self._reader_count = readers
        self._resources = contextlib.ExitStack()
        self._idle_readers: SimpleQueue[sqlite3.Connection] = SimpleQueue()
        self._waiting: deque[_Write] = deque()
        self._is_open = False
        self._is_writing = False
        self._drained: Deferred[None] | None = None
        self._writes = _Outage(path, "written")
        self._reads = _Outage(path, "read")

    def start(self) -> None:
        """Opens the file, creating or migrating it, and starts the threads. Raises :class:`ConfigError`.

        Blocks for as long as a migration takes; when it raises, nothing stays open.
        """
        self._idle_readers = SimpleQueue()
        with contextlib.ExitStack() as resources:
            create(self._path)
            resources.enter_context(contextlib.closing(lock(self._path)))
            self._writer = resources.enter_context(contextlib.closing(connect(self._path, self._synchronous)))
            migrate(self._writer, self._path, self._migrations or load_migrations())
            for _ in range(self._reader_count):
                reader = connect(self._path, self._synchronous, read_only=True)
                self._idle_readers.put(resources.enter_context(contextlib.closing(reader)))
            self._resources = resources.pop_all()
        self._writing = _thread_pool(1, "wsock-sqlite-writer")
        self._reading = _thread_pool(self._reader_count, "wsock-sqlite-reader")
        self._is_open = True

    async def stop(self) -> None:
        """Finishes what was asked for, then closes the file and ends the threads. Twice is as once."""
        if not self._is_open:
            return
        self._is_open = False
        if self._is_writing:
            self._drained = Deferred()
            await self._drained
            self._drained = None
        # All reading threads meet: then every read before has ended, also one that nobody waits for any more, and none
        # of them is left without a reader.
        meeting = Barrier(self._reader_count)
        taken = [deferToThreadPool(self._reactor, self._reading, meeting.wait) for _ in range(self._reader_count)]
        await gatherResults(taken, consumeErrors=True)
        await deferToThreadPool(self._reactor, self._writing, self._resources.close)
        self._reading.stop()
        self._writing.stop()

    def read(self, work: Callable[[sqlite3.Connection], _T]) -> Deferred[_T]:
        """Runs the work on a reading thread, in a transaction that sees one state of the database."""
        if not self._is_open:
            return fail(_closed())
        return deferToThreadPool(self._reactor, self._reading, self._view, work).addCallbacks(
            self._read, self._not_read
        )

    def write(self, work: Callable[[sqlite3.Connection], _T]) -> Deferred[_T]:
        """Runs the work on the writing thread; when the Deferred fires, its changes are on the disk.

        Works run in the order of the calls. One that raises is undone alone, and its Deferred fires it.
        """
        if not self._is_open:
            return fail(_closed())
        done: Deferred[_T] = Deferred()
        self._waiting.append(_Write(work, done))
        self._write_next()
        return done

    def _view(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        reader = self._idle_readers.get()
        try:
            reader.execute("BEGIN")
            return work(reader)
        finally:
            _roll_back(reader)
            self._idle_readers.put(reader)

    def _read(self, value: _T) -> _T:
        self._reads.over()
        return value

    def _not_read(self, failure: Failure) -> Failure:
        if isinstance(failure.value, sqlite3.Error):
            raise self._reads.unavailable(failure.value)
        return failure

    def _write_next(self) -> None:
        if self._is_writing or not self._waiting:
            return
        self._is_writing = True
        batch = [self._waiting.popleft() for _ in range(min(_MAX_WRITES, len(self._waiting)))]
        deferToThreadPool(self._reactor, self._writing, self._transact, batch).addCallback(self._written)

    def _transact(self, batch: list[_Write]) -> list[_Write]:
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            for write in batch:
                self._perform(write)
            self._writer.execute("COMMIT")
        except Exception as e:
            _roll_back(self._writer)
            for write in batch:
                write.error = write.error or e
        return batch

    def _perform(self, write: _Write) -> None:
        self._writer.execute("SAVEPOINT work")
        try:
            write.value = write.work(self._writer)
        except Exception as e:
            if not self._writer.in_transaction:  # a full disk, for one, undoes the transaction as a whole
                raise
            write.error = e
            self._writer.execute("ROLLBACK TO work")
        self._writer.execute("RELEASE work")

    def _written(self, batch: list[_Write]) -> None:
        self._is_writing = False
        self._write_next()  # before the outcomes are told: the disk works while the reactor does
        for write in batch:
            self._tell(write)
        if self._drained is not None and not self._is_writing:
            self._drained.callback(None)

    def _tell(self, write: _Write) -> None:
        match write.error:
            case None:
                self._writes.over()
                write.done.callback(write.value)
            case sqlite3.Error() as error:
                write.done.errback(self._writes.unavailable(error))
            case error:
                write.done.errback(error)


def _thread_pool(size: int, name: str) -> ThreadPool:
    pool = ThreadPool(size, size, name)
    pool.threadFactory = _Thread  # type: ignore[assignment]  # a pool gives it these two arguments
    pool.start()
    return pool


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")


def _closed() -> Unavailable:
    return Unavailable("the message store is closed, the server is starting or ending; repeat the request later")
