"""Presence in Redis: who is present where, over all nodes of a cluster.

A change and its announcement are one script, so the announcements of a channel have the order of its changes. A
member belongs to the connections that hold it; each of those to the lease of its node (:mod:`redis_nodes`), until it
is lost and belongs to nobody. The times at which lost connections let go are kept on Redis' clock: a node says how long
it is until then, so its own clock may be wrong. ``joined_at`` is by the clock of the node where the member entered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall
from zope.interface import implementer

from wsock.backends.redis_broker import RedisBroker
from wsock.backends.redis_nodes import Holding, Lease, LeaseTimes, RedisNode, node_script
from wsock.backends.redis_roster import LOOK, Roster, members_of
from wsock.errors import Code, Refused, Unavailable
from wsock.interfaces import IPresenceStore, IReceiver, Stray
from wsock.protocol.frames import Member
from wsock.protocol.presence import LeaveReason, PresenceChange

__all__ = ["RedisPresence"]

_BATCH = 100
_STRAYS = 1000
_STRAYS_KEY = "wsock:strays"

_enter, _update, _leave = map(node_script, ("presence_enter", "presence_update", "presence_leave"))
_suspend, _adopt, _reap = map(node_script, ("presence_suspend", "presence_adopt", "presence_reap"))


@implementer(IPresenceStore)
class RedisPresence:
    """The members of every channel of a cluster, and the leases under which this node holds its own.

    ``node`` names this process, unlike any other; ``backlog`` is that of the broker's ``Durability``; ``now`` is the
    wall clock by which the callers' times are. Start it after the broker, stop it before.
    """

    def __init__(
        self,
        broker: RedisBroker,
        reactor: Any,
        node: str,
        now: Callable[[], float],
        *,
        backlog: int = 0,
        max_members: int = 10_000,
        times: LeaseTimes | None = None,
    ) -> None:
        self._now = now
        self._max_members = max_members
        self._times = times or LeaseTimes()
        scripts = (_enter, _update, _leave, _suspend, _adopt, _reap, LOOK)
        self._node = RedisNode(broker, reactor, node, backlog, self._times, scripts)
        self._rosters: list[Roster] = []
        for shard in broker.shards:
            roster = Roster(self._node.leases[len(self._rosters)], reactor, self._times, self._tell)
            shard.presence = roster
            self._rosters.append(roster)
        self._cursors = {lease: b"-" for lease in self._node.leases}
        self._unfinished: dict[Stray, None] = {}
        self._checking = LoopingCall(self._check)
        self._checking.clock = reactor

    def listen(self, receiver: IReceiver) -> None:
        """Names the receiver of the changes of attached channels."""
        self._receiver = receiver

    async def start(self) -> None:
        """Begins the leases; fails when a server can't be reached now."""
        await self._node.start()
        self._checking.start(self._times.lease_seconds / 3, now=False)

    async def stop(self) -> None:
        """Gives the leases back: what this node still holds, others let go of."""
        if self._checking.running:
            self._checking.stop()
        await self._node.stop()
        for roster in self._rosters:
            await roster.stop()

    # Members.

    async def enter(self, app: str, channel: str, client_id: str, connection: str, data: bytes, now: float) -> None:
        """The connection holds the member from now on; the client's lost connections hold it no more."""
        holding, lease = Holding(app, channel, client_id, connection), self._node.lease(app, channel)
        joined_at, was_held = int(now * 1000), lease.holds(holding)
        lease.take(holding, data, joined_at)
        try:
            answer = await lease.run(_enter, app, channel, client_id, connection, data, joined_at, self._max_members)
            _check_entered(channel, answer)
        except BaseException:
            # Where the answer was lost, the lease compares what it holds with Redis.
            if not was_held:
                lease.drop(holding)
            raise

    async def update(self, app: str, channel: str, client_id: str, connection: str, data: bytes, now: float) -> bool:
        """Replaces the member's data; ``False`` when the connection is lost or does not hold the member."""
        holding, lease = Holding(app, channel, client_id, connection), self._node.lease(app, channel)
        answer = await lease.run(_update, app, channel, client_id, connection, data)
        if answer == 0 and lease.holds(holding):
            # This node was thought dead and does not know it yet.
            await lease.renew(is_unsure=True)
            answer = await lease.run(_update, app, channel, client_id, connection, data)
        _check_queue(answer)
        if answer:
            lease.say(holding, data)
        return bool(answer)

    async def leave(self, app: str, channel: str, client_id: str, connection: str, reason: LeaveReason) -> None:
        """The connection lets go of the member. Without effect when it does not hold it."""
        lease = self._node.lease(app, channel)
        lease.drop(Holding(app, channel, client_id, connection))
        await lease.run(_leave, app, channel, client_id, connection, reason)

    async def suspend(self, app: str, channel: str, client_id: str, connection: str, until: float) -> None:
        """The connection lets go at ``until``. Suspended again, the later call rules."""
        lease = self._node.lease(app, channel)
        lease.drop(Holding(app, channel, client_id, connection))
        milliseconds = max(0, round((until - self._now()) * 1000))
        await lease.run(_suspend, app, channel, client_id, connection, milliseconds)

    async def members(self, app: str, channel: str) -> list[Member]:
        """The members, in the order in which they entered."""
        [[_, _, flat]] = await self._node.lease(app, channel).run(LOOK, self._times.lease_ms, app, channel, "")
        return members_of(flat)

    async def counts(self, app: str, channels: Sequence[str]) -> list[int]:
        """How many members each of the channels has: asked for all at once."""
        asking = [self._node.lease(app, channel).call("HLEN", _members_key(app, channel)) for channel in channels]
        return [int(count) for count in await _all(asking)]

    # Clients.

    async def adopt(self, app: str, client_id: str, connection: str) -> list[str]:
        """The connection takes over what the client's lost ones held. The channels are in order of loss.

        Of a server that is away the members are adopted when it is back: :meth:`strays` tells of the client again.
        """
        adopting = [self._adopt(lease, app, client_id, connection) for lease in self._node.leases]
        found = await _all(adopting)
        if None in found:
            self._unfinished[Stray(app, client_id)] = None
        known = [channels for channels in found if channels is not None]
        if not known:
            raise Unavailable("Redis is away: repeat the request", retry_after=1.0)
        return [channel for channels in known for channel in channels]

    async def _adopt(self, lease: Lease, app: str, client_id: str, connection: str) -> list[str] | None:
        try:
            answers = await lease.run(_adopt, app, client_id, connection)
        except Unavailable:
            return None
        channels = []
        for packed, member in answers:
            channel = packed.decode()
            _, joined_at, data = member.split(b" ", 2)
            lease.take(Holding(app, channel, client_id, connection), data, int(joined_at))
            channels.append(channel)
        return channels

    async def strays(self) -> list[Stray]:
        """The clients of whom a connection was lost on any node, in the last minutes or since the last call."""
        unfinished, self._unfinished = self._unfinished, {}
        found = await _all([self._strays(lease) for lease in self._node.leases])
        return list(unfinished | {stray: None for strays in found for stray in strays})

    async def _strays(self, lease: Lease) -> list[Stray]:
        try:
            entries = await lease.call("XRANGE", _STRAYS_KEY, self._cursors[lease], "+", "COUNT", _STRAYS)
        except Unavailable:
            return []
        if entries:
            self._cursors[lease] = b"(" + entries[-1][0]
        return [Stray(fields[1].decode(), fields[3].decode()) for _, fields in entries]

    async def reap(self, now: float) -> None:
        """Lets go for every lost connection whose time has come, on whatever node it was.

        Does nothing for a lease period after Redis came back: who could not come back meanwhile gets the time for it.
        """
        ahead_ms = round((now - self._now()) * 1000)
        # Each server by itself: one that is away does not keep members of the others.
        answers = await _all([self._reap(lease, ahead_ms) for lease in self._node.leases])
        for error in answers:
            if error is not None:
                raise error

    async def _reap(self, lease: Lease, ahead_ms: int) -> Unavailable | None:
        try:
            while await lease.run(_reap, ahead_ms, self._times.lease_ms, _BATCH) == _BATCH:
                pass
        except Unavailable as e:
            return e
        return None

    def _check(self) -> None:
        for roster in self._rosters:
            roster.check()

    def _tell(self, app: str, change: PresenceChange) -> None:
        self._receiver.presence(app, change)


async def _all(coroutines: list[Any]) -> list[Any]:
    """The results of all, which run at once."""
    found: list[Any] = await gatherResults(map(Deferred.fromCoroutine, coroutines), consumeErrors=True)
    return found


def _members_key(app: str, channel: str) -> str:
    """As in ``node_shared.lua``."""
    return f"wsock:members:{len(app.encode())}:{app}:{channel}"


def _check_entered(channel: str, answer: list[int]) -> None:
    if answer[0] == 1:
        text = f"'{channel}' has {answer[1]} members, which is the limit (limits.presence_members)"
        raise Refused(Code.LIMIT_EXCEEDED, text)
    _check_queue(answer[0])


def _check_queue(answer: int) -> None:
    if answer == 2:
        text = "too much waits to be stored and told (redis.backlog): the database is away or too slow"
        raise Unavailable(text, retry_after=5.0)
