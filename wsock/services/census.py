"""What goes on in an app on all nodes: its occupied channels, its connections, and the end of some of them.

Each node answers for itself, of the app that is asked about and no other, from what it has at that moment. Lists are
read in parts: each node gives what comes first behind the cursor, one more than is wanted, so the first so many of all
of them together are known exactly, whatever the nodes have behind those.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from heapq import merge, nsmallest
from operator import attrgetter
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from wsock.errors import Code, Gone, Refused
from wsock.interfaces import IBroker
from wsock.protocol.messages import HistoryQuery
from wsock.protocol.position import Position
from wsock.services.control import Control, Gathered
from wsock.services.hub import Hub
from wsock.services.messages import Messages
from wsock.services.presence import Presence

__all__ = [
    "Census",
    "ChannelInfo",
    "Client",
    "ConnectionDetail",
    "ConnectionInfo",
    "Connections",
    "Disconnected",
    "OccupiedChannel",
    "OpenConnection",
    "Seen",
]

T = TypeVar("T")

_MAX_LIMIT = 1000
_MAX_ASKED = 16
"""Questions about one app that this node has under way at once: all apps share a bounded number."""


class Seen(msgspec.Struct, Generic[T], frozen=True):
    """A part of a list; ``next`` is the cursor of the part behind it, or ``None`` at the end.

    Not ``is_complete``: a node that lives did not answer, and what it has is missing here.
    """

    items: list[T]
    next: str | None
    is_complete: bool


class OccupiedChannel(msgspec.Struct, frozen=True):
    """A channel with subscribers, and how many it has; ``members`` are present, subscribed or not."""

    channel: str
    subscribers: int
    members: int


class ChannelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A channel at this moment. ``last_message_at`` is in milliseconds, ``None`` when no message is known any more."""

    channel: str
    subscribers: int
    members: int
    epoch: str
    sequence: int
    last_message_at: int | None
    is_complete: bool


class ConnectionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A connection at this moment. ``connected_at`` is in milliseconds; ``token_id`` is that of its JWT.

    ``channels`` and ``present`` count those it is subscribed to and those its member is present in; ``queued_bytes``
    wait for the client to read.
    """

    id: str
    client_id: str
    key_id: str
    token_id: str | None
    connected_at: int
    ip: str
    user_agent: str
    node: str
    transport: str
    is_compressed: bool
    channels: int
    present: int
    queued_bytes: int


class ConnectionDetail(msgspec.Struct, frozen=True, kw_only=True):
    """A connection with the names of its channels, sorted."""

    info: ConnectionInfo
    channels: list[str]
    present: list[str]


class Disconnected(msgspec.Struct, frozen=True):
    """How many connections are ended; not ``is_complete``: a node that lives did not say."""

    count: int
    is_complete: bool


class Client(Protocol):
    """Who is at the other end of a connection; the channels are those of :class:`ConnectionInfo`."""

    @property
    def id(self) -> str:
        """The connection's."""

    @property
    def app(self) -> str:
        """The app."""

    @property
    def client_id(self) -> str:
        """The clientId."""

    @property
    def channels(self) -> Mapping[str, Any]:
        """By name."""

    @property
    def present(self) -> Mapping[str, Any]:
        """By name."""


class OpenConnection(Protocol):
    """A connection of this node."""

    @property
    def peer(self) -> Client:
        """Who is at its other end."""

    @property
    def is_ending(self) -> bool:
        """Whether it is about to be gone."""

    def describe(self, node: str) -> ConnectionInfo:
        """What there is to know of it."""

    def kick(self, reason: str) -> None:
        """Ends it, as an administrator wants it (protocol.md I.6)."""


class Connections(Protocol):
    """The connections of this node."""

    def connections_of(self, app: str) -> Iterable[OpenConnection]:
        """All of the app's."""


class _Occupied(msgspec.Struct, frozen=True, array_like=True):
    app: str
    prefix: str
    after: str
    limit: int


class _Counted(msgspec.Struct, frozen=True, array_like=True):
    channel: str
    subscribers: int


class _Subscribers(msgspec.Struct, frozen=True, array_like=True):
    app: str
    channel: str


class _Connected(msgspec.Struct, frozen=True, array_like=True):
    app: str
    client_id: str | None
    channel: str | None
    after: str
    limit: int


class _Inspected(msgspec.Struct, frozen=True, array_like=True):
    app: str
    id: str


class _Ended(msgspec.Struct, frozen=True, array_like=True):
    app: str
    id: str | None
    client_id: str | None
    reason: str


class _Node:
    """Answers for one node: of the app that is asked about, and no other."""

    def __init__(self, control: Control, hub: Hub, connections: Connections, name: str) -> None:
        self._hub = hub
        self._connections = connections
        self._name = name
        control.on(_Occupied, self.occupied)
        control.on(_Subscribers, self.subscribers)
        control.on(_Connected, self.connected)
        control.on(_Inspected, self.inspected)
        control.on(_Ended, self.ended)

    def occupied(self, asked: _Occupied) -> list[_Counted]:
        """The first of its occupied channels."""
        topics = self._hub.occupied(asked.app, asked.prefix, asked.after, asked.limit)
        return [_Counted(topic.channel, topic.subscribers) for topic in topics]

    def subscribers(self, asked: _Subscribers) -> int | None:
        """How many subscribers a channel has here."""
        topic = self._hub.topic(asked.app, asked.channel)
        return None if topic is None else topic.subscribers

    def connected(self, asked: _Connected) -> list[ConnectionInfo]:
        """The first of its connections."""
        found = (
            connection
            for connection in self._of(asked.app, asked.client_id)
            if connection.peer.id > asked.after and (asked.channel is None or asked.channel in connection.peer.channels)
        )
        first = nsmallest(asked.limit, found, key=lambda connection: connection.peer.id)
        return [connection.describe(self._name) for connection in first]

    def inspected(self, asked: _Inspected) -> ConnectionDetail | None:
        """The connection, if it is here."""
        for connection in self._of(asked.app, None):
            if connection.peer.id == asked.id:
                peer, info = connection.peer, connection.describe(self._name)
                return ConnectionDetail(info=info, channels=sorted(peer.channels), present=sorted(peer.present))
        return None

    def ended(self, asked: _Ended) -> int:
        """How many connections it ended just now."""
        found = [c for c in self._of(asked.app, asked.client_id) if asked.id is None or c.peer.id == asked.id]
        for connection in found:
            connection.kick(asked.reason)
        return len(found)

    def _of(self, app: str, client_id: str | None) -> Iterable[OpenConnection]:
        for connection in self._connections.connections_of(app):
            if (client_id is None or connection.peer.client_id == client_id) and not connection.is_ending:
                yield connection


class Census:
    """Looks at one app on all nodes. ``node`` is the name of this one.

    What it tells is of the moment, as far as the nodes answer within a second; see :class:`Seen`. Every method raises
    :class:`Unavailable` when too much is asked at once, or what it needs of a store can't be had, and :class:`Refused`
    with ``rate_limited`` when it is this app of which too much is asked.
    """

    def __init__(
        self,
        control: Control,
        hub: Hub,
        connections: Connections,
        broker: IBroker,
        messages: Messages,
        presence: Presence,
        *,
        node: str,
    ) -> None:
        self._control = control
        self._asked: dict[str, int] = {}
        self._broker = broker
        self._messages = messages
        self._presence = presence
        self._node = _Node(control, hub, connections, node)

    async def _ask(self, app: str, question: msgspec.Struct, answer: type[T]) -> Gathered[T]:
        asked = self._asked.get(app, 0)
        if asked >= _MAX_ASKED:
            text = f"{_MAX_ASKED} questions about this app are under way already: ask fewer at once"
            raise Refused(Code.RATE_LIMITED, text, retry_after=1.0)
        self._asked[app] = asked + 1
        try:
            return await self._control.ask(question, answer)
        finally:
            self._asked[app] -= 1
            if not self._asked[app]:
                del self._asked[app]

    # Channels.

    async def channels(
        self, app: str, *, prefix: str = "", cursor: str | None = None, limit: int = 50
    ) -> Seen[OccupiedChannel]:
        """The channels with subscribers whose names begin so, by name. A cursor is the last name before."""
        limit = max(1, min(limit, _MAX_LIMIT))
        found = await self._ask(app, _Occupied(app, prefix, cursor or "", limit + 1), list[_Counted])
        subscribers: dict[str, int] = {}
        for counted in merge(*found.parts, key=attrgetter("channel")):
            subscribers[counted.channel] = subscribers.get(counted.channel, 0) + counted.subscribers
        names = list(subscribers)[:limit]
        members = await self._presence.counts(app, names)
        return Seen(
            [OccupiedChannel(name, subscribers[name], count) for name, count in zip(names, members, strict=True)],
            names[-1] if len(subscribers) > limit else None,
            found.is_complete,
        )

    async def channel(self, app: str, channel: str) -> ChannelInfo:
        """The channel as it is, be anybody there or not."""
        found = await self._ask(app, _Subscribers(app, channel), int)
        [members] = await self._presence.counts(app, [channel])
        position = await self._broker.position(app, channel)
        return ChannelInfo(
            channel=channel,
            subscribers=sum(found.parts),
            members=members,
            epoch=position.epoch,
            sequence=position.sequence,
            last_message_at=await self._last_message_at(app, channel, position),
            is_complete=found.is_complete,
        )

    async def _last_message_at(self, app: str, channel: str, position: Position) -> int | None:
        """The time of the last message, from the recovery window; of one that left it, from the history."""
        if position.sequence:
            try:
                before = Position(position.epoch, position.sequence - 1)
                for message in await self._broker.read(app, channel, before, 1):
                    return message.timestamp
            except Gone:
                pass
        page = await self._messages.history(app, channel, HistoryQuery(limit=1))
        return max((message.timestamp for message in page.messages), default=None)

    # Connections.

    async def connections(
        self,
        app: str,
        *,
        client_id: str | None = None,
        channel: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Seen[ConnectionInfo]:
        """The connections, by id: all, a client's, or those subscribed to a channel. A cursor is the last id before."""
        limit = max(1, min(limit, _MAX_LIMIT))
        question = _Connected(app, client_id, channel, cursor or "", limit + 1)
        found = await self._ask(app, question, list[ConnectionInfo])
        infos = list(merge(*found.parts, key=attrgetter("id")))
        next_cursor = infos[limit - 1].id if len(infos) > limit else None
        return Seen(infos[:limit], next_cursor, found.is_complete)

    async def connection(self, app: str, id: str) -> Gathered[ConnectionDetail]:
        """The connection of this id, as the one part, or none."""
        return await self._ask(app, _Inspected(app, id), ConnectionDetail)

    async def disconnect(
        self, app: str, *, id: str | None = None, client_id: str | None = None, reason: str = ""
    ) -> Disconnected:
        """Ends the connection of this id, or all of this clientId: on this node at once, on others when they hear it.

        Their clients get an ``error`` and the close code 4403; a member leaves with ``kicked``.
        """
        if id is None and client_id is None:
            raise ValueError("say which: an id or a clientId")
        found = await self._ask(app, _Ended(app, id, client_id, reason), int)
        return Disconnected(sum(found.parts), found.is_complete)
