"""What channels and connections look like over HTTP, to an app's own credentials and to administrators alike."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from wsock.edges.http.operations import Answer, Body, Page, Query
from wsock.protocol.channels import MAX_NAME_BYTES
from wsock.protocol.frames import HistoryPage, Member
from wsock.protocol.messages import HistoryQuery
from wsock.protocol.messages import Page as HistoryPart
from wsock.services.census import (
    ChannelInfo,
    ConnectionDetail,
    ConnectionInfo,
    Disconnected,
    OccupiedChannel,
    Seen,
)
from wsock.services.messages import MAX_HISTORY

__all__ = [
    "AnyQuery",
    "Channel",
    "ChannelList",
    "ChannelsPart",
    "ClientEnd",
    "Connection",
    "ConnectionEnd",
    "ConnectionList",
    "ConnectionsPart",
    "Ended",
    "HistoryPart",
    "Members",
    "Occupied",
    "Timestamps",
    "channel_answer",
    "channel_list",
    "connection_answer",
    "connection_list",
    "detail_answer",
    "ended_answer",
    "history_page",
    "members_answer",
]

_MAX_TIMESTAMP = 1 << 53
_Timestamp = Annotated[int, Meta(ge=0, le=_MAX_TIMESTAMP)]
_Name = Annotated[str, Meta(max_length=MAX_NAME_BYTES)]
_Reason = Annotated[str, Meta(max_length=100, description="What the client is told.")]


class AnyQuery(Query, frozen=True, forbid_unknown_fields=False):
    """Whatever stands behind the question mark is ignored."""


class Timestamps(AnyQuery, frozen=True):
    """Which part of the history is asked for. Other fields are ignored."""

    limit: Annotated[int, Meta(ge=1, le=MAX_HISTORY, description="How many at most.")] = 50
    before: Annotated[_Timestamp | None, Meta(description="Only messages before this timestamp.")] = None
    after: Annotated[_Timestamp | None, Meta(description="Only messages after this timestamp.")] = None
    direction: Annotated[Literal["forward", "backward"], Meta(description="`backward`: the newest first.")] = "backward"

    def history(self) -> HistoryQuery:
        """The same for the services."""
        return HistoryQuery(limit=self.limit, before=self.before, after=self.after, direction=self.direction)


class ChannelsPart(Page, frozen=True):
    """Which occupied channels are asked for."""

    prefix: Annotated[_Name, Meta(description="Only channels whose names begin so.")] = ""


class ConnectionsPart(Page, frozen=True):
    """Which connections are asked for."""

    client_id: Annotated[_Name | None, Meta(description="Only those of this client.")] = None
    channel: Annotated[_Name | None, Meta(description="Only those that are subscribed to this channel.")] = None


class ConnectionEnd(Query, frozen=True):
    """How a connection is to end."""

    reason: _Reason = ""


class ClientEnd(Body, frozen=True):
    """Which client's connections are to end, all of them."""

    client_id: Annotated[str, Meta(min_length=1, max_length=MAX_NAME_BYTES)]
    reason: _Reason = ""


class Occupied(Answer, frozen=True):
    """A channel with subscribers: how many there are, and how many members are present."""

    channel: str
    subscribers: int
    members: int


class ChannelList(Answer, frozen=True):
    """A part of the occupied channels, by name. ``is_complete``: every node of the cluster answered."""

    items: list[Occupied]
    next: str | None
    is_complete: bool


class Channel(Answer, frozen=True):
    """A channel at this moment, be anybody there or not; its position is that of the last message.

    ``last_message_at`` is null when no message is known any more. ``is_complete``: every node of the cluster answered.
    """

    channel: str
    subscribers: int
    members: int
    epoch: str
    sequence: int
    last_message_at: int | None
    is_complete: bool


class Connection(Answer, frozen=True):
    """A connection at this moment. ``key_id`` is the key of its credential, ``token_id`` the ``jti`` of its JWT.

    ``channel_count`` and ``presence_count`` are those it is subscribed to and those it is present in; where one
    connection is asked for, ``channels`` and ``presence`` are their names. ``queued_bytes`` wait for the client to
    read.
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
    channel_count: int
    presence_count: int
    queued_bytes: int
    channels: list[str] | UnsetType = UNSET
    presence: list[str] | UnsetType = UNSET


class ConnectionList(Answer, frozen=True):
    """A part of the connections, by id. ``is_complete``: every node of the cluster answered."""

    items: list[Connection]
    next: str | None
    is_complete: bool


class Ended(Answer, frozen=True):
    """How many connections were ended. ``is_complete``: every node of the cluster answered."""

    disconnected: int
    is_complete: bool


class Members(msgspec.Struct, frozen=True):
    """Who is present in a channel."""

    channel: str
    members: list[Member]
    total: int


def channel_list(seen: Seen[OccupiedChannel]) -> ChannelList:
    """Occupied channels."""
    items = [Occupied(channel=c.channel, subscribers=c.subscribers, members=c.members) for c in seen.items]
    return ChannelList(items=items, next=seen.next, is_complete=seen.is_complete)


def channel_answer(info: ChannelInfo) -> Channel:
    """A channel."""
    return Channel(
        channel=info.channel,
        subscribers=info.subscribers,
        members=info.members,
        epoch=info.epoch,
        sequence=info.sequence,
        last_message_at=info.last_message_at,
        is_complete=info.is_complete,
    )


def members_answer(channel: str, members: list[Member]) -> Members:
    """Who is present."""
    return Members(channel, members, len(members))


def history_page(channel: str, page: HistoryPart) -> HistoryPage:
    """A page of history."""
    return HistoryPage(channel, [message.entry() for message in page.messages], page.has_more)


def connection_answer(
    info: ConnectionInfo, channels: list[str] | UnsetType = UNSET, presence: list[str] | UnsetType = UNSET
) -> Connection:
    """A connection."""
    return Connection(
        id=info.id,
        client_id=info.client_id,
        key_id=info.key_id,
        token_id=info.token_id,
        connected_at=info.connected_at,
        ip=info.ip,
        user_agent=info.user_agent,
        node=info.node,
        transport=info.transport,
        is_compressed=info.is_compressed,
        channel_count=info.channels,
        presence_count=info.present,
        queued_bytes=info.queued_bytes,
        channels=channels,
        presence=presence,
    )


def detail_answer(detail: ConnectionDetail) -> Connection:
    """A connection with its channels."""
    return connection_answer(detail.info, detail.channels, detail.present)


def connection_list(seen: Seen[ConnectionInfo]) -> ConnectionList:
    """Connections."""
    items = [connection_answer(info) for info in seen.items]
    return ConnectionList(items=items, next=seen.next, is_complete=seen.is_complete)


def ended_answer(ended: Disconnected) -> Ended:
    """How many connections were ended."""
    return Ended(disconnected=ended.count, is_complete=ended.is_complete)
