"""Frames as the client reads and writes them.

Of the superset that the server sends (protocol.md I.3) the client reads the nested form, so it does not matter whether
the server leaves the flat one out.
"""

from __future__ import annotations

from typing import Any, get_args

import msgspec

from wsock.client.errors import ClientCode, ClientError
from wsock.client.values import Member, Message, Page, PresenceChange
from wsock.protocol.codec import encode
from wsock.protocol.frames import (
    ErrorEvent,
    Event,
    HistoryEntry,
    MessageEvent,
    Pong,
    Reconnect,
    Subscribed,
    Unsubscribed,
)
from wsock.protocol.position import Position

__all__ = [
    "FENCE",
    "PING",
    "Acknowledged",
    "Incoming",
    "MembersListed",
    "PageRead",
    "PresenceEntered",
    "PresenceLeft",
    "PresenceUpdated",
    "change",
    "decode",
    "member",
    "message",
    "page",
    "request",
    "resume_requests",
]

_CHANNELS_PER_RESUME = 200


class Outcome(msgspec.Struct, frozen=True):
    """The ``data`` of the ack of a resume; ``recovered`` is absent where the ack is no answer but a new token."""

    recovered: list[str] | None = None
    lost: list[str] = []


class Acknowledged(Event, frozen=True, tag="ack"):
    """A publish (it has a channel), a resume or a renewal was accepted."""

    id: str
    channel: str | None = None
    timestamp: int = 0
    sequence: int = 0
    data: Outcome | None = None


class MemberFrame(msgspec.Struct, frozen=True, rename="camel"):
    """A member, nested."""

    client_id: str
    joined_at: int
    data: dict[str, Any] = {}


class _Presence(Event, frozen=True):
    channel: str
    data: MemberFrame


class PresenceEntered(_Presence, frozen=True, tag="presence.enter"):
    """A client is now present."""


class PresenceUpdated(_Presence, frozen=True, tag="presence.update"):
    """A present client changed its data."""


class PresenceLeft(_Presence, frozen=True, tag="presence.leave"):
    """A client is no longer present."""

    reason: str | None = None


class MembersListed(Event, frozen=True, tag="presence.members"):
    """Who is present, or a part of them."""

    channel: str
    data: list[MemberFrame]
    has_more: bool = False


class _Page(msgspec.Struct, frozen=True, rename="camel"):
    messages: list[HistoryEntry]
    has_more: bool


class PageRead(Event, frozen=True, tag="history"):
    """A page of the past."""

    channel: str
    data: _Page


Incoming = (
    Subscribed
    | Unsubscribed
    | MessageEvent
    | Acknowledged
    | PresenceEntered
    | PresenceUpdated
    | PresenceLeft
    | MembersListed
    | PageRead
    | ErrorEvent
    | Pong
    | Reconnect
)

_decode = msgspec.json.Decoder(Incoming).decode


class _Glimpse(msgspec.Struct):
    action: str = ""


_glimpse = msgspec.json.Decoder(_Glimpse).decode
_known = frozenset(frame.__struct_config__.tag for frame in get_args(Incoming))


def decode(text: bytes) -> Incoming | None:
    """The frame that the text is; ``None`` for an action that this client does not know.

    Raises :class:`ClientError` with the code ``bad_frame`` for anything else.
    """
    try:
        frame: Incoming = _decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as e:
        if _is_unknown(text):
            return None
        raise ClientError(ClientCode.BAD_FRAME, f"the server sent a frame that is not understood: {e}") from e
    return frame


def _is_unknown(text: bytes) -> bool:
    try:
        return _glimpse(text).action not in _known
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return False


def request(action: str, **fields: Any) -> bytes:
    """A request as text; fields that are ``None`` are left out."""
    return encode({"action": action} | {k: v for k, v in fields.items() if v is not None})


def resume_requests(positions: dict[str, Position]) -> list[tuple[tuple[str, ...], bytes]]:
    """Requests to resume at these positions, and which channels each is for: several, so that none grows too large."""
    names = list(positions)
    parts = [tuple(names[at : at + _CHANNELS_PER_RESUME]) for at in range(0, len(names), _CHANNELS_PER_RESUME)]
    return [(part, request("resume", positions={name: positions[name] for name in part})) for part in parts]


PING = request("ping")
FENCE = request("resume", positions={})
"""A resume of nothing: the server answers requests in order, so its ack proves that those before it were carried out.

Presence requests have no answer of their own that could be told from the events of others."""


def message(frame: MessageEvent | HistoryEntry, channel: str) -> Message:
    """The message that the frame is."""
    return Message(channel, frame.id, frame.data, frame.timestamp, frame.publisher_id, frame.sequence)


def member(frame: MemberFrame) -> Member:
    """The member that the frame describes."""
    return Member(frame.client_id, frame.data, frame.joined_at)


def page(frame: PageRead) -> Page:
    """The page of history that the frame is."""
    return Page([message(entry, frame.channel) for entry in frame.data.messages], frame.data.has_more)


def change(frame: PresenceEntered | PresenceUpdated | PresenceLeft) -> PresenceChange:
    """The change of presence that the frame tells of."""
    match frame:
        case PresenceEntered():
            return PresenceChange(frame.channel, "enter", member(frame.data))
        case PresenceUpdated():
            return PresenceChange(frame.channel, "update", member(frame.data))
        case PresenceLeft():
            return PresenceChange(frame.channel, "leave", member(frame.data), frame.reason)
