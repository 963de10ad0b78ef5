"""The events that are sent to clients, and the base of the requests that they send.

Each event is the superset of what the two generations of SDKs expect (protocol.md I.3, II.2.2): the same facts
nested under ``data`` for the one, flat at the top for the other. Field names are snake_case here and
camelCase on the wire. A request's struct lives beside the coroutine that answers it, in ``wsock.verbs``.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

__all__ = [
    "EMPTY_OBJECT",
    "NULL",
    "Ack",
    "ErrorEvent",
    "Event",
    "History",
    "HistoryEntry",
    "HistoryPage",
    "Member",
    "MessageEvent",
    "Pong",
    "PresenceEnter",
    "PresenceLeave",
    "PresenceMembers",
    "PresenceUpdate",
    "Reconnect",
    "Request",
    "Resumed",
    "Subscribed",
    "Token",
    "Unsubscribed",
    "spread_member",
]

NULL = Raw(b"null")
EMPTY_OBJECT = Raw(b"{}")


class Request(msgspec.Struct, tag_field="action", frozen=True, gc=False, rename="camel"):
    """What a client asks for. Unknown fields are ignored.

    While a request that is ``in_order`` is under way, those behind it on its connection wait (``ping`` excepted). The
    others hold nobody up: they are answered as their stores answer.
    """

    in_order: ClassVar[bool] = True


class Event(msgspec.Struct, tag_field="action", frozen=True, gc=False, rename="camel"):
    """What a client is told: one JSON object in one text frame."""


class Subscribed(Event, frozen=True, tag="subscribed"):
    """The channel is subscribed; live delivery starts behind this position."""

    channel: str
    epoch: str
    sequence: int


class Unsubscribed(Event, frozen=True, tag="unsubscribed"):
    """The channel is no longer subscribed."""

    channel: str


class MessageEvent(Event, frozen=True, tag="message"):
    """A message of a channel. ``timestamp`` is in milliseconds; ``sequence`` counts from 1 in the channel's epoch."""

    channel: str
    id: str
    data: Raw
    timestamp: int
    publisher_id: str
    sequence: int


class Resumed(msgspec.Struct, frozen=True):
    """Which of the channels of a resume get all they missed, and which may have lost something."""

    recovered: list[str]
    lost: list[str]


class Token(msgspec.Struct, frozen=True, rename="camel"):
    """A resume token made by the server (protocol.md I.5.4)."""

    resume_token: str


class Ack(Event, frozen=True, tag="ack"):
    """A publish was accepted, or (``id`` = ``resume``) a resume was."""

    id: str
    channel: str | UnsetType = UNSET
    timestamp: int | UnsetType = UNSET
    sequence: int | UnsetType = UNSET
    data: Resumed | Token | UnsetType = UNSET


class Member(msgspec.Struct, frozen=True, rename="camel"):
    """A client that is present: ``data`` is always an object, ``joined_at`` is in milliseconds."""

    client_id: str
    data: Raw
    joined_at: int


class _Presence(Event, frozen=True):
    """``data`` is the member with the user's own keys spread into it (see :func:`spread_member`)."""

    channel: str
    data: Raw
    client_id: str
    joined_at: int


class PresenceEnter(_Presence, frozen=True, tag="presence.enter"):
    """A client is now present."""


class PresenceUpdate(_Presence, frozen=True, tag="presence.update"):
    """A present client changed its data."""


class PresenceLeave(_Presence, frozen=True, tag="presence.leave"):
    """A client is no longer present. ``reason`` is left, disconnected, node_lost or kicked."""

    reason: str


class PresenceMembers(Event, frozen=True, tag="presence.members"):
    """Who is present. With ``has_more`` a further frame follows with the rest."""

    channel: str
    data: list[Member]
    members: list[Member]
    has_more: bool = False


class HistoryEntry(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """One message of the past."""

    id: str
    channel: str
    data: Raw
    publisher_id: str
    timestamp: int
    sequence: int


class HistoryPage(msgspec.Struct, frozen=True, rename="camel"):
    """A page of the past, as it is nested in the event and as HTTP answers it."""

    channel: str
    messages: list[HistoryEntry]
    has_more: bool


class History(Event, frozen=True, tag="history"):
    """A page of the past, nested and flat."""

    channel: str
    data: HistoryPage
    messages: list[HistoryEntry]
    has_more: bool


class ErrorEvent(Event, frozen=True, tag="error", omit_defaults=True):
    """A request was refused, or something the client must know. ``retry_after`` is in seconds."""

    error: str
    code: str
    channel: str | UnsetType = UNSET
    id: str | UnsetType = UNSET
    retry_after: float | UnsetType = UNSET


class Pong(Event, frozen=True, tag="pong"):
    """The answer to ``ping``, and the heartbeat."""


class Reconnect(Event, frozen=True, tag="reconnect"):
    """Clients of ours only: connect again after ``delay`` milliseconds, then close this connection."""

    delay: int


_RESERVED = ("clientId", "data", "joinedAt")
_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode


def spread_member(member: Member) -> Raw:
    """The member as a JSON object with the user's keys beside ``clientId``, ``data`` and ``joinedAt``.

    One generation of SDKs reads the member at this place, the other the user's data: both find theirs
    (protocol.md II.2.2). A user's key never replaces one of the three.
    """
    keys: dict[str, Any] = {k: v for k, v in _decode_object(member.data).items() if k not in _RESERVED}
    keys.update(clientId=member.client_id, data=member.data, joinedAt=member.joined_at)
    return Raw(msgspec.json.encode(keys))
