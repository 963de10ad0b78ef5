"""Counters in Redis: a sliding window for each key, shared by all nodes of the cluster.

Events are counted as in :mod:`wsock.backends.memory_counters`, in up to 64 groups a window, in one script. The time is
the caller's, so windows are as exact as the clocks of the nodes agree: where they differ by some seconds, an event
counts from the time of the clock that is ahead, and nobody is let in early. A clock that was set back by more than the
window takes the counts with it.
"""

from __future__ import annotations

from zope.interface import implementer

from wsock.backends.redis_broker import RedisBroker
from wsock.backends.redis_link import Script
from wsock.interfaces import ICounters

__all__ = ["RedisCounters"]

_hit = Script.load("counter_hit")


@implementer(ICounters)
class RedisCounters:
    """Counts in the Redis servers of a broker; each key on one of them. Keys expire by themselves."""

    def __init__(self, broker: RedisBroker) -> None:
        self._broker = broker
        self._connections = {shard: shard.connect(scripts=(_hit,)) for shard in broker.shards}

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
        return float(await connection.run(_hit, key, limit, repr(float(window_seconds)), repr(float(now))))
