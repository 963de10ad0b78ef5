"""Counters in Redis: a sliding window for each key, shared by all nodes of the cluster.

Events are counted as in :class:`wsock.protocol.rates.SlidingWindow`, in up to 128 groups a window, in one script. The
time is the caller's, so windows are as exact as the clocks of the nodes agree: where they differ by some seconds, an
event counts from the time of the clock that is ahead, and nobody is let in early. A clock that was set back by more
than the window takes the counts with it.

Leases are asked for in batches, of which one is under way for each server: what is asked for meanwhile goes with the
next.
"""

from __future__ import annotations

from collections import deque

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from wsock.backends.redis_broker import RedisBroker
from wsock.backends.redis_link import RedisConnection, Script
from wsock.interfaces import ICounters, Lease

__all__ = ["RedisCounters"]

_take = Script.load("counter_take")
_MAX_BATCH = 256


class _Lessor:
    """Asks one server for leases."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection
        self._asked: deque[tuple[tuple[object, ...], Deferred[Lease]]] = deque()
        self._is_busy = False

    def lease(self, *ask: object) -> Deferred[Lease]:
        """Fires when Redis has answered; the arguments are those of the script."""
        leased: Deferred[Lease] = Deferred()
        self._asked.append((ask, leased))
        if not self._is_busy:
            self._send()
        return leased

    def _send(self) -> None:
        batch = [self._asked.popleft() for _ in range(min(len(self._asked), _MAX_BATCH))]
        self._is_busy = bool(batch)
        if batch:
            answer = self._connection.run(_take, *(argument for ask, _ in batch for argument in ask))
            waiting = [leased for _, leased in batch]
            answer.addCallbacks(self._answered, self._failed, callbackArgs=(waiting,), errbackArgs=(waiting,))

    def _answered(self, answer: list[bytes | int], waiting: list[Deferred[Lease]]) -> None:
        # The next batch leaves first: what these answers set in motion is asked for with the one behind it.
        self._send()
        for number, leased in enumerate(waiting):
            leased.callback(Lease(int(answer[2 * number]), float(answer[2 * number + 1])))

    def _failed(self, failure: Failure, waiting: list[Deferred[Lease]]) -> None:
        self._send()
        for leased in waiting:
            leased.errback(failure)


@implementer(ICounters)
class RedisCounters:
    """Counts in the Redis servers of a broker. Keys expire by themselves.

    What is hit is spread over the servers by its key; what is leased is on its app's home shard.
    """

    def __init__(self, broker: RedisBroker) -> None:
        self._broker = broker
        self._connections = {shard: shard.connect(scripts=(_take,)) for shard in broker.shards}
        self._lessors = {shard: _Lessor(connection) for shard, connection in self._connections.items()}

    async def start(self) -> None:
        """Connects; fails when a server can't be reached now."""
        for connection in self._connections.values():
            connection.start()
        for connection in self._connections.values():
            await connection.when_up()
            await connection.call("PING")

    async def stop(self) -> None:
        """Disconnects."""
        for connection in self._connections.values():
            await connection.stop()

    async def hit(self, key: str, limit: int, window_seconds: float, now: float) -> float:
        """Counts one event if there is room. Returns 0, or the seconds after which there is room again."""
        connection = self._connections[self._broker.shard(key, "")]
        arguments = (f"count:{key}", limit, repr(float(window_seconds)), 1, repr(float(now)))
        taken, wait = await connection.run(_take, *arguments)
        return 0.0 if taken else float(wait)

    async def lease(self, app: str, key: str, limit: int, window_seconds: float, wanted: int, now: float) -> Lease:
        """Counts up to ``wanted`` events, as many as there is room for."""
        lessor = self._lessors[self._broker.shard(app, "")]
        name = f"lease:{app}:{key}"
        return await lessor.lease(name, limit, repr(float(window_seconds)), wanted, repr(float(now)))
