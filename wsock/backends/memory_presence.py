"""Presence in memory: who is present where, on one node."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush

import msgspec
from msgspec import Raw
from zope.interface import implementer

from wsock.errors import Code, Refused
from wsock.interfaces import IPresenceStore, IReceiver, Stray
from wsock.protocol.frames import Member
from wsock.protocol.presence import LeaveReason, PresenceChange

__all__ = ["MemoryPresence"]

_SLACK = 64


class _Suspension(msgspec.Struct, frozen=True, order=True, gc=False):
    """A lost connection holds a member until a time. Sorts by that time; ``number`` is its own alone."""

    until: float
    number: int
    app: str
    channel: str
    client_id: str
    connection: str


class _Suspensions:
    """The suspensions that count, found by client, and in the order in which they end."""

    __slots__ = ("_by_client", "_due", "_last_number", "_size")

    def __init__(self) -> None:
        self._by_client: dict[tuple[str, str], dict[int, _Suspension]] = {}
        self._due: list[_Suspension] = []
        self._last_number = 0
        self._size = 0

    @property
    def kept(self) -> int:
        """How many are kept in memory: those that count, and some that no longer do."""
        return len(self._due)

    def add(self, app: str, channel: str, client_id: str, connection: str, until: float) -> _Suspension:
        """Makes one that counts."""
        self._last_number += 1
        suspension = _Suspension(until, self._last_number, app, channel, client_id, connection)
        self._by_client.setdefault((app, client_id), {})[suspension.number] = suspension
        self._size += 1
        heappush(self._due, suspension)
        return suspension

    def drop(self, suspension: _Suspension) -> None:
        """It no longer counts."""
        client = (suspension.app, suspension.client_id)
        mine = self._by_client[client]
        del mine[suspension.number]
        if not mine:
            del self._by_client[client]
        self._size -= 1
        if not self._size or len(self._due) > 2 * self._size + _SLACK:
            self._due = [s for s in self._due if self._counts(s)]
            heapify(self._due)

    def of(self, app: str, client_id: str) -> list[_Suspension]:
        """Those of a client, the oldest first."""
        return list(self._by_client.get((app, client_id), {}).values())

    def due(self, now: float) -> Iterator[_Suspension]:
        """Those whose time has come, by time. Each must be dropped before the next is asked for."""
        while self._due and self._due[0].until <= now:
            suspension = heappop(self._due)
            if self._counts(suspension):
                yield suspension

    def _counts(self, suspension: _Suspension) -> bool:
        mine = self._by_client.get((suspension.app, suspension.client_id))
        return mine is not None and suspension.number in mine


class _Present:
    """A member and the connections that hold it; a lost one with its suspension."""

    __slots__ = ("connections", "member")

    def __init__(self, member: Member) -> None:
        self.member = member
        self.connections: dict[str, _Suspension | None] = {}

    def is_held_by(self, connection: str) -> bool:
        """Whether the connection holds it and is not lost."""
        return connection in self.connections and self.connections[connection] is None


@implementer(IPresenceStore)
class MemoryPresence:
    """The members of every channel, for as long as the process lives.

    Every method does all of its work before it returns to the reactor, so changes take effect in the order of
    the calls. ``len()`` of it is 0 when it keeps nothing.
    """

    def __init__(self, max_members: int = 10_000) -> None:
        self._max_members = max_members
        self._channels: dict[tuple[str, str], dict[str, _Present]] = {}
        self._suspensions = _Suspensions()
        self._unannounced: deque[tuple[str, PresenceChange]] = deque()
        self._is_announcing = False

    def __len__(self) -> int:
        return sum(map(len, self._channels.values())) + self._suspensions.kept

    def listen(self, receiver: IReceiver) -> None:
        """Names the receiver of all changes."""
        self._receiver = receiver

    async def enter(self, app: str, channel: str, client_id: str, connection: str, data: bytes, now: float) -> None:
        """The connection holds the member from now on; the client's lost connections hold it no more."""
        present = self._find(app, channel, client_id)
        if present is None:
            member = Member(client_id, Raw(bytes(data)), int(now * 1000))
            present = self._add(app, channel, member)
            present.connections[connection] = None
            self._announce(app, PresenceChange(channel, "enter", member))
        else:
            self._return(present, connection)
            if bytes(present.member.data) != data:
                self._replace(app, channel, present, data)

    async def update(self, app: str, channel: str, client_id: str, connection: str, data: bytes, now: float) -> bool:
        """Replaces the member's data; ``False`` when the connection is lost or does not hold the member."""
        present = self._find(app, channel, client_id)
        if present is None or not present.is_held_by(connection):
            return False
        self._replace(app, channel, present, data)
        return True

    async def leave(self, app: str, channel: str, client_id: str, connection: str, reason: LeaveReason) -> None:
        """The connection lets go of the member. Without effect when it does not hold it."""
        present = self._find(app, channel, client_id)
        if present is None or connection not in present.connections:
            return
        suspension = present.connections.pop(connection)
        if suspension is not None:
            self._suspensions.drop(suspension)
        if not present.connections:
            self._remove(app, channel, client_id)
            self._announce(app, PresenceChange(channel, "leave", present.member, reason))

    async def suspend(self, app: str, channel: str, client_id: str, connection: str, until: float) -> None:
        """The connection lets go at ``until``. Suspended again, the later call rules."""
        present = self._find(app, channel, client_id)
        if present is None or connection not in present.connections:
            return
        earlier = present.connections[connection]
        if earlier is not None:
            self._suspensions.drop(earlier)
        present.connections[connection] = self._suspensions.add(app, channel, client_id, connection, until)

    async def adopt(self, app: str, client_id: str, connection: str) -> list[str]:
        """The connection takes over what the client's lost ones held. The channels are in order of loss."""
        channels = dict.fromkeys(s.channel for s in self._suspensions.of(app, client_id))
        for channel in channels:
            self._return(self._channels[app, channel][client_id], connection)
        return list(channels)

    async def members(self, app: str, channel: str) -> list[Member]:
        """The members, in the order in which they entered."""
        return [present.member for present in self._channels.get((app, channel), {}).values()]

    async def counts(self, app: str, channels: Sequence[str]) -> list[int]:
        """How many members each of the channels has."""
        return [len(self._channels.get((app, channel), ())) for channel in channels]

    async def strays(self) -> list[Stray]:
        """None: with one node only, the loss of a connection is known to whoever has the client's others."""
        return []

    async def reap(self, now: float) -> None:
        """Lets go for every lost connection whose time has come, in the order of those times."""
        for s in self._suspensions.due(now):
            await self.leave(s.app, s.channel, s.client_id, s.connection, "disconnected")

    def _find(self, app: str, channel: str, client_id: str) -> _Present | None:
        members = self._channels.get((app, channel))
        return members.get(client_id) if members is not None else None

    def _add(self, app: str, channel: str, member: Member) -> _Present:
        members = self._channels.get((app, channel), {})
        if len(members) >= self._max_members:
            text = f"'{channel}' has {len(members)} members, which is the limit (limits.presence_members)"
            raise Refused(Code.LIMIT_EXCEEDED, text)
        present = members[member.client_id] = _Present(member)
        self._channels[app, channel] = members
        return present

    def _remove(self, app: str, channel: str, client_id: str) -> None:
        members = self._channels[app, channel]
        del members[client_id]
        if not members:
            del self._channels[app, channel]

    def _return(self, present: _Present, connection: str) -> None:
        """The client is back with this connection: its lost ones are forgotten."""
        lost = {c: s for c, s in present.connections.items() if s is not None}
        for lost_connection, suspension in lost.items():
            del present.connections[lost_connection]
            self._suspensions.drop(suspension)
        present.connections[connection] = None

    def _replace(self, app: str, channel: str, present: _Present, data: bytes) -> None:
        member = present.member
        present.member = Member(member.client_id, Raw(bytes(data)), member.joined_at)
        self._announce(app, PresenceChange(channel, "update", present.member))

    def _announce(self, app: str, change: PresenceChange) -> None:
        """Tells the receiver; a change that it causes itself is told when it has returned."""
        self._unannounced.append((app, change))
        if self._is_announcing:
            return
        self._is_announcing = True
        try:
            while self._unannounced:
                self._receiver.presence(*self._unannounced.popleft())
        finally:
            self._is_announcing = False
