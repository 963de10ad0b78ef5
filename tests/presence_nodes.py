"""Nodes of a cluster within the test process, as far as presence is concerned: a broker and a presence store each."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from uuid import uuid4

from twisted.internet import reactor  # noqa: TID251  # trial's own: the servers are real
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from tests.servers import RedisServer, redis_server
from wsock.backends.redis import Durability, RedisBroker, RedisQueue
from wsock.backends.redis_nodes import Lease, LeaseTimes
from wsock.backends.redis_presence import RedisPresence
from wsock.interfaces import Event
from wsock.protocol.presence import PresenceChange
from wsock.testing.fakes import RecordingReceiver

__all__ = ["NOW", "TIMES", "Node", "emptied", "events", "line", "until"]

NOW = 1_700_000_000.25
TIMES = LeaseTimes(lease_seconds=0.9, return_seconds=0.3)
_DEADLINE_SECONDS = 20.0
_STEP_SECONDS = 0.01
_SWEEP = (
    b"EVAL \"for _, k in ipairs(redis.call('KEYS', 'wsock:*')) do"
    b" if k ~= 'wsock:meta' then redis.call('DEL', k) end end\" 0"
)

_numbers = count(1)


def emptied() -> RedisServer:
    """The Redis server of the tests, with nothing in it; but it is still known how long it has been there."""
    server = redis_server()
    server.call(_SWEEP)
    return server


async def until(is_so: Callable[[], object], what: str = "that", seconds: float = _DEADLINE_SECONDS) -> None:
    """Waits until it is so, and fails when it never is."""
    clock = IReactorTime(reactor)
    deadline = clock.seconds() + seconds
    while not is_so():
        if clock.seconds() > deadline:
            raise AssertionError(f"{what} has not happened in {seconds} s")
        await deferLater(clock, _STEP_SECONDS)


class Node:
    """One node: ``broker``, ``presence`` and what its receiver was told."""

    def __init__(
        self,
        case: TestCase,
        *urls: str,
        times: LeaseTimes = TIMES,
        backlog: int = 0,
        max_members: int = 1000,
    ) -> None:
        self.name = f"node{next(_numbers)}"
        self.receiver = RecordingReceiver()
        self.broker = RedisBroker(urls, reactor, self.name, lambda: uuid4().hex[:12], Durability(backlog=backlog))
        self.presence = RedisPresence(
            self.broker, reactor, self.name, lambda: NOW, backlog=backlog, max_members=max_members, times=times
        )
        self._times = times
        self.broker.listen(self.receiver)
        self.presence.listen(self.receiver)
        case.addCleanup(self.stop)

    async def start(self, *channels: str) -> Node:
        """Connects, and attaches these channels of the app ``shop``."""
        await self.broker.start()
        await self.presence.start()
        for channel in channels:
            await self.broker.attach("shop", channel)
        return self

    async def stop(self) -> None:
        """Ends in good order."""
        await self.presence.stop()
        await self.broker.stop()

    async def die(self) -> None:
        """Ends as a killed process does: its connections break, nothing is given back."""
        self.pause()
        for lease in self.leases:
            await lease._connection.stop()
        await self.broker.stop()

    def pause(self) -> None:
        """Stops renewing, as a process that is stopped does; what it asks Redis still goes through."""
        for lease in self.leases:
            lease._loop.stop()

    def go_on(self) -> None:
        """Renews again."""
        for lease in self.leases:
            lease._looping = lease._loop.start(self._times.lease_seconds / 3)

    @property
    def leases(self) -> list[Lease]:
        """The node's leases."""
        return self.presence._node.leases

    @property
    def lines(self) -> list[str]:
        """What was announced, each as :func:`line` says it."""
        return [line(heard.change) for heard in self.receiver.changes]

    async def settled(self) -> Node:
        """Waits until the servers have been there for a lease period."""
        for number, lease in enumerate(self.leases):
            channel = next(c for c in map(str, count()) if self.presence._node.lease("settling", c) is lease)
            await self.presence.enter("settling", channel, "probe", f"p{number}", b"{}", NOW)
            await self.presence.suspend("settling", channel, "probe", f"p{number}", NOW)
            while await self.presence.members("settling", channel):
                await self.presence.reap(NOW)
                await deferLater(IReactorTime(reactor), _STEP_SECONDS)
        await self.presence.strays()
        return self

    async def enter(self, channel: str, client: str, connection: str, data: bytes = b"{}") -> None:
        """The connection enters a channel of the app ``shop``."""
        await self.presence.enter("shop", channel, client, connection, data, NOW)

    async def present(self, channel: str) -> list[str]:
        """Who is present there."""
        return [member.client_id for member in await self.presence.members("shop", channel)]

    async def reaped(self, is_so: Callable[[], object]) -> None:
        """Reaps as the service does, until it is so."""
        clock = IReactorTime(reactor)
        deadline = clock.seconds() + _DEADLINE_SECONDS
        while not is_so():
            assert clock.seconds() < deadline, self.lines
            await self.presence.reap(NOW)
            await deferLater(clock, _STEP_SECONDS)


def line(change: PresenceChange) -> str:
    """A change as ``kind channel client data [reason]``."""
    words = [change.kind, change.channel, change.member.client_id, bytes(change.member.data).decode()]
    return " ".join(words + ([change.reason] if change.reason else []))


async def events(node: Node) -> list[Event]:
    """Takes what is in the work queues."""
    found: list[Event] = []
    for shard in node.broker.shards:
        queue = RedisQueue(shard, node.name, 120)
        await queue.start()
        while await queue.length():
            work = await queue.take(1000)
            found.extend(work.events)
            await queue.done(work)
        await queue.stop()
    return found
