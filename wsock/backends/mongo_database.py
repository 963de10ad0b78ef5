"""One MongoDB, through txmongo: the connections, a time limit on every operation, and what an outage means.

The driver waits for ever while the server is away, so every operation is cut off here. Whether a write that was cut
off took place is unknown: those of the stores may be repeated. Importing this module installs the default
reactor if there is none yet (the driver does), so it is imported when a MongoDB is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from pymongo.errors import (
    BulkWriteError,
    CursorNotFound,
    OperationFailure,
    PyMongoError,
)
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from txmongo.errors import TimeExceeded

from wsock.backends.mongo_migrations import migrate
from wsock.backends.mongo_pool import connect
from wsock.backends.mongo_probe import check
from wsock.backends.mongo_schema import APPS, INDEXES, Index
from wsock.backends.mongo_url import MongoUrl, read_url
from wsock.errors import ConfigError, Unavailable

__all__ = ["SYSTEMIC_CODES", "MongoDatabase", "Work", "reason_of"]

_T = TypeVar("_T")

Work = Callable[[Any], Coroutine[Deferred[Any], Any, _T]]
"""A coroutine function on the driver's database."""

_DRIVER_ERRORS = (PyMongoError, TimeExceeded, DeferredTimeout, ConnectionClosed, ConnectError)

SYSTEMIC_CODES = frozenset(
    {
        *(6, 7, 24, 50, 64, 89, 91, 112, 134, 189, 202, 262, 317),  # network, locks, time, write concern, stepping down
        *(9001, 10058, 10107, 11600, 11602, 13388, 13435, 13436, 14031, 16500),  # shutdown, no primary, disk full
        *(8, 13, 18, 20, 47, 211, 335),  # not authorized, login, not allowed just now
    }
)
"""Error codes of MongoDB that say nothing about the document: the same write may succeed later."""

_UNAUTHORIZED = frozenset({13, 18})
_CONFLICTING_INDEX = frozenset({85, 86, 67, 11000})


class _Outage:
    """Turns the driver's errors into :class:`Unavailable`, and logs the first of an outage and its end."""

    _log = Logger()

    def __init__(self, url: MongoUrl, act: str) -> None:
        self._url = url
        self._act = act
        self.is_on = False

    def over(self) -> None:
        """The store did its work."""
        if self.is_on:
            self.is_on = False
            self._log.info("the MongoDB {url} can be {act} again", url=str(self._url), act=self._act)

    def unavailable(self, error: Exception) -> Unavailable:
        """What the caller is told; the reason is for the log only."""
        if not self.is_on:
            self.is_on = True
            self._log.error(
                "the MongoDB {url} can't be {act}: {reason}", url=str(self._url), act=self._act, reason=reason_of(error)
            )
        return Unavailable(f"the message store can't be {self._act} now; repeat the request later")


class MongoDatabase:
    """A database of a MongoDB, which may be shared with other servers of the cluster.

    Every operation has ``operation_seconds``, waiting for a connection included. A write is acknowledged by the
    majority of the replica set, from their journals, unless the URL says otherwise with ``w`` and ``journal``. Raises
    :class:`ConfigError` for a URL that can't be used.
    """

    def __init__(
        self,
        url: str,
        reactor: IReactorTime,
        *,
        pool_size: int = 6,
        operation_seconds: float = 10.0,
        index_seconds: float = 120.0,
        connect_seconds: float = 5.0,
        retry_seconds: float = 1.0,
        indexes: Sequence[Index] = INDEXES,
    ) -> None:
        self._url = read_url(url)
        self._reactor = reactor
        self._pool_size = pool_size
        self._operation_seconds = operation_seconds
        self._index_seconds = index_seconds
        self._connect_seconds = connect_seconds
        self._retry_seconds = retry_seconds
        self._indexes = indexes
        self._pool: Any = None
        self._is_open = False
        self._doing: set[Deferred[Any]] = set()
        self._drained: Deferred[None] | None = None
        self._waiting: set[Deferred[None]] = set()
        self._watch: Deferred[None] | None = None
        self._reach = _Outage(self._url, "reached")
        self._reads = _Outage(self._url, "read")
        self._writes = _Outage(self._url, "written")

    def __repr__(self) -> str:
        return f"<MongoDatabase {self._url}>"

    async def start(self) -> None:
        """Connects, logs in, makes the indexes, and brings documents of an older wsock to what this one reads.

        Raises :class:`ConfigError` when a setting is wrong, and :class:`Unavailable` when the MongoDB is away, both
        with a line that tells why, and without the password. Nothing stays open then, and it may be called again.
        """
        await check(self._url, self._reactor, self._connect_seconds)
        self._pool = connect(self._url, self._pool_size, int(self._operation_seconds * 800))
        self._is_open = True
        try:
            await self._explained(_look, self._operation_seconds)
            for collection in dict.fromkeys(index.collection for index in self._indexes):
                await self._explained(self._make_indexes(collection), self._index_seconds)
            await self._explained(migrate, self._index_seconds)
        except Exception:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Finishes what was asked for, unless the MongoDB is away, then disconnects. Twice is as once.

        What is not finished after ``operation_seconds`` at the latest ends as unavailable; nothing stays pending.
        """
        if not self._is_open:
            return
        await self._drain()
        self._is_open = False
        if self._watch is not None:
            self._watch.cancel()
        for doing in list(self._doing):
            doing.cancel()
        waiting, self._waiting = self._waiting, set()
        for waiter in waiting:
            waiter.errback(_closed())
        await self._disconnect()

    @property
    def is_available(self) -> bool:
        """Whether it is started and can be reached, as far as is known."""
        return self._is_open and not self._reach.is_on

    def when_back(self) -> Deferred[None]:
        """Fires when the MongoDB can be reached, at once if it can; :class:`Unavailable` when it is stopped first."""
        if not self._is_open:
            return fail(_closed())
        if self.is_available:
            return succeed(None)
        waiter: Deferred[None] = Deferred(self._waiting.discard)
        self._waiting.add(waiter)
        return waiter

    async def read(self, work: Work[_T]) -> _T:
        """Does work that changes nothing. Raises :class:`Unavailable`."""
        return await self._do(work, self._reads)

    async def write(self, work: Work[_T]) -> _T:
        """Does work that may change something, and may be repeated. Raises :class:`Unavailable`.

        ``DuplicateKeyError`` and ``BulkWriteError`` are the work's to deal with: one that gets here is an outage.
        """
        return await self._do(work, self._writes)

    async def pause(self, seconds: float) -> None:
        """Returns after so many seconds; :class:`Unavailable` when the database is stopped first."""

        async def wait(_: Any) -> None:
            await deferLater(self._reactor, seconds)

        await self._uncut(wait, seconds + self._operation_seconds)

    async def _do(self, work: Work[_T], outage: _Outage) -> _T:
        try:
            value = await self._uncut(work, self._operation_seconds)
        except _DRIVER_ERRORS as e:
            raise self._failed(e, outage) from e
        self._reached()
        outage.over()
        return value

    async def _uncut(self, work: Work[_T], seconds: float) -> _T:
        """Does the work, unless the database is closed before it is done."""
        if not self._is_open:
            raise _closed()
        try:
            return await self._limited(work, seconds)
        except CancelledError:
            if not self._is_open:
                raise _closed() from None
            raise

    async def _limited(self, work: Work[_T], seconds: float) -> _T:
        doing: Deferred[_T] = Deferred.fromCoroutine(work(self._pool[self._url.database]))
        doing.addTimeout(seconds, self._reactor)
        self._doing.add(doing)
        try:
            return await doing
        finally:
            self._doing.discard(doing)
            if self._drained is not None and not self._doing:
                drained, self._drained = self._drained, None
                drained.callback(None)

    def _failed(self, error: Exception, outage: _Outage) -> Unavailable:
        if not _is_outage(error):
            return outage.unavailable(error)
        unavailable = self._reach.unavailable(error)
        if self._watch is None and self._is_open:
            self._watch = Deferred.fromCoroutine(self._watch_for_return())
            self._watch.addErrback(lambda failure: failure.trap(CancelledError) and None)
        return unavailable

    def _reached(self) -> None:
        self._reach.over()
        waiting, self._waiting = self._waiting, set()
        for waiter in waiting:
            waiter.callback(None)

    async def _watch_for_return(self) -> None:
        """Looks again and again until the MongoDB answers, whether anybody asks for something or not."""
        try:
            while self._reach.is_on:
                await deferLater(self._reactor, self._retry_seconds)
                try:
                    await self._limited(_look, self._operation_seconds)
                except _DRIVER_ERRORS:
                    continue
                self._reached()
        finally:
            self._watch = None

    async def _explained(self, work: Work[None], seconds: float) -> None:
        """Does work of the start, whose failure is told in full: an operator reads it."""
        try:
            await self._limited(work, seconds)
        except OperationFailure as e:
            raise self._explain(e) from e
        except _DRIVER_ERRORS as e:
            raise Unavailable(f"the MongoDB {self._url} can't be used: {reason_of(e)}") from e

    def _explain(self, error: OperationFailure) -> Exception:
        if error.code in _UNAUTHORIZED:
            return ConfigError(
                f"the MongoDB {self._url} does not allow {self._url.user or 'a user without a login'} to use the"
                f" database: {reason_of(error)}; its URL needs a user with the role readWrite on {self._url.database}"
            )
        if error.code in _CONFLICTING_INDEX:
            return ConfigError(
                f"the MongoDB {self._url} has indexes or documents of something else in the database:"
                f" {reason_of(error)}; name another database in its URL, or drop the index"
            )
        return Unavailable(f"the MongoDB {self._url} can't be used: {reason_of(error)}")

    def _make_indexes(self, collection: str) -> Work[None]:
        documents = [index.document for index in self._indexes if index.collection == collection]

        async def make(database: Any) -> None:
            await database.command("createIndexes", collection, indexes=documents)

        return make

    async def _drain(self) -> None:
        if self._doing and self.is_available:
            self._drained = Deferred()
            await self._drained.addTimeout(self._operation_seconds, self._reactor, lambda *_: None)
            self._drained = None

    async def _disconnect(self) -> None:
        pool, self._pool = self._pool, None
        for connection in pool.getprotocols():
            connection.stopTrying()
            if connection.instance is not None:
                # Nothing is under way; a connection whose peer is frozen would wait for its output to be taken.
                connection.instance.transport.abortConnection()
        await pool.disconnect()
        await deferLater(self._reactor, 0)


async def _look(database: Any) -> None:
    """A command that needs no rights and a read that does."""
    await database.command("ping")
    await database[APPS].find_one({"_id": ""})


def _is_outage(error: Exception) -> bool:
    """Whether the server can't be used at all, as opposed to one that refused something."""
    if isinstance(error, OperationFailure) and not isinstance(error, CursorNotFound):
        return error.code in SYSTEMIC_CODES and not isinstance(error, BulkWriteError)
    return True


def reason_of(error: Exception) -> str:
    """Why the driver failed, in words that hold neither documents nor filters."""
    if isinstance(error, DeferredTimeout | TimeExceeded):
        return "no answer in time"
    if not isinstance(error, OperationFailure):
        return str(error) or type(error).__name__
    details = error.details or {}
    return f"{_said(details)} (code {error.code}, {details.get('codeName', 'no name')})"


def _said(details: Any) -> str:
    """MongoDB quotes the command in some messages: from the first brace on."""
    text = str(details.get("errmsg", "the operation failed"))
    return text.partition("{")[0].strip() or "the operation failed"


def _closed() -> Unavailable:
    return Unavailable("the message store is closed, the server is starting or ending; repeat the request later")
