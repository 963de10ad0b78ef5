"""A node's life in the cluster: its lease on each Redis server, and what it holds there.

Theory of operation
===================
What ends with a node, its members and its channels with subscribers, is held under a lease, which is the name of one
incarnation of the node. The node renews it; when it does not for a lease period, any other node reaps what was held.
All times are Redis' own, so the clocks of nodes may differ. A node that was silent for too long (it was paused, or cut
off) finds that its lease is gone. It then begins a new one and takes again all that it holds; who is still there makes
no noise thereby. The node itself remembers what it holds, and compares that with Redis whenever an answer got lost.

Nothing is reaped until one lease period after Redis itself came back: it was started, replaced, or nobody renewed
anything for half a lease period.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from wsock.backends.redis_broker import RedisBroker, RedisShard
from wsock.backends.redis_link import RedisConnection, Script
from wsock.errors import Unavailable

__all__ = ["Channel", "Holding", "Lease", "LeaseTimes", "Mine", "RedisNode", "node_script"]

_BATCH = 100
_SCAN = 1000
_MAX_MOVES = 10_000
_decode = msgspec.msgpack.Decoder(list[str]).decode


def node_script(name: str) -> Script:
    """A script that begins with the backlog and the lease."""
    return Script.load(name, "node_shared")


_renew, _end, _reap = map(node_script, ("node_renew", "node_end", "node_reap"))
_restore, _suspend, _move = map(node_script, ("presence_restore", "presence_suspend", "occupancy_move"))


class LeaseTimes(msgspec.Struct, frozen=True, kw_only=True):
    """How long a node may be silent, and how long a client of a dead one has to be back on another node.

    For ``quiet_seconds`` the work queue is not told that a channel was vacated or a member left: who is back by then
    makes no noise.
    """

    lease_seconds: float = 10.0
    return_seconds: float = 5.0
    quiet_seconds: float = 0.0

    @property
    def lease_ms(self) -> int:
        """The lease period in milliseconds."""
        return int(self.lease_seconds * 1000)

    @property
    def return_ms(self) -> int:
        """The time for the way back in milliseconds."""
        return int(self.return_seconds * 1000)


class Channel(msgspec.Struct, frozen=True, gc=False):
    """A channel, of which this node holds that it is occupied."""

    app: str
    channel: str


class Name(msgspec.Struct, frozen=True, gc=False):
    """A member, named."""

    app: str
    channel: str
    client_id: str


class Holding(msgspec.Struct, frozen=True, gc=False):
    """A connection of this node holds a member."""

    app: str
    channel: str
    client_id: str
    connection: str

    @property
    def name(self) -> Name:
        """The member."""
        return Name(self.app, self.channel, self.client_id)


class Mine:
    """A member that connections of this node hold, as it was last known here."""

    __slots__ = ("connections", "data", "joined_at")

    def __init__(self, data: bytes, joined_at: int) -> None:
        self.data = data
        self.joined_at = joined_at
        self.connections: set[str] = set()


class Lease:
    """This node's lease on one Redis server, and what the node holds under it."""

    _log = Logger()

    def __init__(
        self, shard: RedisShard, reactor: Any, node: str, backlog: int, times: LeaseTimes, scripts: tuple[Script, ...]
    ) -> None:
        self._shard = shard
        self._reactor = reactor
        self._node = node
        self._backlog = backlog
        self._times = times
        self._incarnation = 1
        self._mine: dict[Name, Mine] = {}
        self._occupied: set[Channel] = set()
        self._moves: deque[tuple[Channel, bool]] = deque()
        self._moving: Deferred[None] | None = None
        self._renewing = DeferredLock()
        self._is_moving = False
        self._is_unsure = False
        self._is_ticking = False
        self._waking: Deferred[None] | None = None
        self._looping: Deferred[Any] | None = None
        own = (_renew, _end, _reap, _restore, _suspend, _move)
        self._connection = shard.connect(scripts=own + scripts, prepare=self._prepare)
        self._loop = LoopingCall(self._tick)
        self._loop.clock = reactor

    @property
    def id(self) -> str:
        """The name of the lease: of this incarnation of the node."""
        return f"{self._node}.{self._incarnation}"

    # Life.

    async def start(self) -> None:
        """Connects and begins the lease; fails when the server can't be reached now."""
        self._connection.start()
        await self._connection.when_up()
        await self._call_renew(may_begin=True)
        self._looping = self._loop.start(self._times.lease_seconds / 3, now=False)

    async def stop(self) -> None:
        """Gives the lease back and disconnects. What is still held goes the way of a dead node's, at once."""
        if self._loop.running:
            self._loop.stop()
        if self._connection.is_up:
            try:
                await self.run(_end)
            except Unavailable:
                self._log.info("a lease could not be given back: it will end by itself")
        await self._connection.stop()
        for running in (self._looping, self._waking, self._moving):
            if running is not None:
                await running

    async def _prepare(self, connection: RedisConnection) -> None:
        await self._shard.open(connection)
        await connection.call("HSET", "wsock:meta", "quiet", int(self._times.quiet_seconds * 1000))
        # What was under way when the last connection was lost may have been done or not.
        self._is_unsure = True
        self._reactor.callLater(0, self._wake)

    def _wake(self) -> None:
        if self._loop.running and not self._is_ticking:
            self._waking = self._tick()

    def _tick(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._tick_once())

    async def _tick_once(self) -> None:
        """Never raises, since a LoopingCall ends for good with the first exception."""
        if self._is_ticking:
            return
        self._is_ticking = True
        try:
            await self.renew()
            while await self.run(_reap, self._times.lease_ms, self._times.return_ms, _BATCH):
                pass
        except Unavailable:
            # The connection has said so in the log; the next tick tries again.
            self._is_unsure = True
        except Exception:
            self._log.failure("a lease could not be renewed")
        finally:
            self._is_ticking = False

    # The lease.

    async def run(self, script: Script, *arguments: Any) -> Any:
        """Runs a script under the lease; where that is gone, begins a new one, once."""
        lease = self.id
        try:
            return await self._connection.run(script, self._backlog, lease, *arguments)
        except Unavailable:
            self._is_unsure = True
            raise
        except Exception as e:
            if not str(e).startswith("LEASE"):
                raise
        await self._begin_after(lease)
        return await self._connection.run(script, self._backlog, self.id, *arguments)

    async def call(self, *command: Any) -> Any:
        """Carries out a command on the lease's connection, behind what was asked before."""
        return await self._connection.call(*command)

    async def renew(self, *, is_unsure: bool = False) -> None:
        """Renews the lease, or begins a new one; puts right what Redis may have otherwise than this node.

        ``is_unsure``: there is reason to believe that it has.
        """
        async with self._renewing:
            lease = self.id
            if not await self._call_renew(may_begin=False):
                await self._begin_after(lease)
            if self._is_unsure or is_unsure:
                await self._compare()

    async def _call_renew(self, *, may_begin: bool) -> int:
        arguments = (self._backlog, self.id, self._times.lease_ms, int(may_begin))
        answer: int = await self._connection.run(_renew, *arguments)
        return answer

    async def _begin_after(self, lease: str) -> None:
        """The lease is gone: with the next one everything is taken again. Several may find out; one begins."""
        self._is_unsure = True
        if lease == self.id:
            self._incarnation += 1
            self._log.warn("the lease {lease} is gone: this node was silent for too long", lease=lease)
            await self._call_renew(may_begin=True)

    async def _compare(self) -> None:
        """Makes what Redis has under the lease what this node holds."""
        self._is_unsure = False
        try:
            held = await self._held()
            await self._let_go_unknown(held)
            await self._take_missing(held)
        except BaseException:
            self._is_unsure = True
            raise

    async def _held(self) -> set[Channel | Holding]:
        key, cursor = f"wsock:held:{self.id}", b"0"
        held: set[Channel | Holding] = set()
        while True:
            cursor, entries = await self._connection.call("SSCAN", key, cursor, "COUNT", _SCAN)
            held.update(map(_entry, entries))
            if cursor == b"0":
                return held

    async def _let_go_unknown(self, held: Iterable[Channel | Holding]) -> None:
        """What was taken although the answer never came."""
        for entry in held:
            if isinstance(entry, Channel):
                if entry not in self._occupied:
                    self._occupancy(entry, is_occupied=False)
            elif not self.holds(entry):
                names = (entry.app, entry.channel, entry.client_id, entry.connection)
                await self.run(_suspend, *names, self._times.return_ms)

    async def _take_missing(self, held: set[Channel | Holding]) -> None:
        for channel in self._occupied - held:
            self._occupancy(channel, is_occupied=True)
        missing = [holding for holding in self.holdings() if holding not in held]
        for start in range(0, len(missing), _BATCH):
            some = missing[start : start + _BATCH]
            arguments = [part for holding in some for part in self._restored(holding)]
            if arguments:
                await self.run(_restore, *arguments)

    def _restored(self, holding: Holding) -> Sequence[Any]:
        mine = self._mine.get(holding.name)
        if mine is None or holding.connection not in mine.connections:
            return ()  # it left meanwhile
        names = (holding.app, holding.channel, holding.client_id, holding.connection)
        return (*names, mine.data, mine.joined_at)

    # What is held.

    def holdings(self) -> list[Holding]:
        """All members that connections of this node hold here."""
        return [
            Holding(name.app, name.channel, name.client_id, connection)
            for name, mine in self._mine.items()
            for connection in mine.connections
        ]

    def holds(self, holding: Holding) -> bool:
        """Whether the connection holds the member, as far as this node knows."""
        mine = self._mine.get(holding.name)
        return mine is not None and holding.connection in mine.connections

    def take(self, holding: Holding, data: bytes, joined_at: int) -> None:
        """The connection holds the member, or is about to."""
        mine = self._mine.setdefault(holding.name, Mine(data, joined_at))
        mine.data = data
        mine.connections.add(holding.connection)

    def say(self, holding: Holding, data: bytes) -> None:
        """The member has other data now."""
        mine = self._mine.get(holding.name)
        if mine is not None:
            mine.data = data

    def drop(self, holding: Holding) -> None:
        """The connection does not hold the member any more."""
        mine = self._mine.get(holding.name)
        if mine is not None:
            mine.connections.discard(holding.connection)
            if not mine.connections:
                del self._mine[holding.name]

    # Occupancy.

    def occupy(self, channel: Channel) -> None:
        """The node has subscribers in the channel."""
        if channel not in self._occupied:
            self._occupied.add(channel)
            self._occupancy(channel, is_occupied=True)

    def vacate(self, channel: Channel) -> None:
        """The node has none there any more."""
        if channel in self._occupied:
            self._occupied.remove(channel)
            self._occupancy(channel, is_occupied=False)

    def _occupancy(self, channel: Channel, *, is_occupied: bool) -> None:
        if len(self._moves) >= _MAX_MOVES:
            # Redis is away, or far behind: what counts in the end is compared later.
            self._moves.clear()
            self._is_unsure = True
            return
        self._moves.append((channel, is_occupied))
        if not self._is_moving:
            self._is_moving = True
            self._moving = Deferred.fromCoroutine(self._move_all())

    async def _move_all(self) -> None:
        try:
            while self._moves:
                some = [self._moves.popleft() for _ in range(min(_BATCH, len(self._moves)))]
                arguments = [part for c, is_occupied in some for part in (c.app, c.channel, int(is_occupied))]
                await self._connection.run(_move, self._backlog, self.id, *arguments)
        except Exception as e:
            # No lease, or no answer: the comparison that follows the next renewal finds out.
            self._moves.clear()
            self._is_unsure = True
            if not isinstance(e, Unavailable) and not str(e).startswith("LEASE"):
                self._log.failure("the occupancy of channels could not be told")
        finally:
            self._is_moving = False


def _entry(packed: bytes) -> Channel | Holding:
    names = _decode(packed)
    return Channel(*names) if len(names) == 2 else Holding(*names)


class RedisNode:
    """A node's leases on all Redis servers of a broker, which tells it of occupied channels.

    ``node`` names this process, unlike any other; ``backlog`` is that of the broker's :class:`Durability`.
    ``scripts`` are further ones that are run under the leases.
    """

    def __init__(
        self,
        broker: RedisBroker,
        reactor: Any,
        node: str,
        backlog: int,
        times: LeaseTimes,
        scripts: tuple[Script, ...] = (),
    ) -> None:
        self.times = times
        self._broker = broker
        self._leases = {shard: Lease(shard, reactor, node, backlog, times, scripts) for shard in broker.shards}
        broker.occupancy = self._occupancy

    @property
    def leases(self) -> list[Lease]:
        """The lease on each server."""
        return list(self._leases.values())

    def lease(self, app: str, channel: str) -> Lease:
        """The lease on the server where the channel lives."""
        return self._leases[self._broker.shard(app, channel)]

    async def start(self) -> None:
        """Begins the leases; fails when a server can't be reached now."""
        for lease in self.leases:
            await lease.start()

    async def stop(self) -> None:
        """Gives the leases back."""
        for lease in self.leases:
            await lease.stop()

    def _occupancy(self, app: str, channel: str, is_occupied: bool) -> None:
        lease = self.lease(app, channel)
        if is_occupied:
            lease.occupy(Channel(app, channel))
        else:
            lease.vacate(Channel(app, channel))
