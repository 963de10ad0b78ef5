"""A message on its way: what is published, what was accepted, what is told to the publisher and to the curious."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Raw

from wsock.protocol.frames import HistoryEntry, MessageEvent
from wsock.protocol.position import Position

__all__ = ["HistoryQuery", "Located", "Message", "Page", "Publication", "Receipt"]


class Publication(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A message that somebody wants to be delivered.

    ``data`` is JSON text, passed through byte for byte. With an ``id`` of the publisher's the message is accepted once
    for each (app, channel, identity, id) in the deduplication window; ``has_id`` tells that from an id made by
    the server. A message that does not ``persist`` is delivered and recoverable, but is no history.
    """

    app: str
    channel: str
    data: Raw
    id: str
    has_id: bool
    identity: str
    publisher_id: str
    persist: bool = True


class Message(msgspec.Struct, frozen=True, gc=False):
    """An accepted message. ``timestamp`` is in milliseconds, unique in the app where its rate allows."""

    channel: str
    id: str
    data: Raw
    timestamp: int
    publisher_id: str
    sequence: int
    epoch: str
    persist: bool = True

    @property
    def position(self) -> Position:
        """Where a client stands that has received this message."""
        return Position(self.epoch, self.sequence)

    def event(self) -> MessageEvent:
        """The message as subscribers get it."""
        return MessageEvent(self.channel, self.id, self.data, self.timestamp, self.publisher_id, self.sequence)

    def entry(self) -> HistoryEntry:
        """The message as history shows it."""
        return HistoryEntry(self.id, self.channel, self.data, self.publisher_id, self.timestamp, self.sequence)


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """That a message was accepted, and where. A duplicate gets the first one's."""

    id: str
    channel: str
    timestamp: int
    epoch: str
    sequence: int
    is_duplicate: bool = False


class HistoryQuery(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Which part of the past: ``before`` and ``after`` are timestamps in milliseconds, exclusive both.

    ``backward`` begins with the newest, ``forward`` with the oldest; the answer is in that order.
    """

    limit: int = 50
    before: int | None = None
    after: int | None = None
    direction: Literal["forward", "backward"] = "backward"


class Page(msgspec.Struct, frozen=True, gc=False):
    """A page of the past. It never ends inside a run of equal timestamps."""

    messages: list[Message]
    has_more: bool


class Located(msgspec.Struct, frozen=True, gc=False):
    """The place of a timestamp in a channel's recovery window.

    ``start`` is the position behind which the messages of that timestamp and all later ones lie; ``ties`` is how many
    have exactly that timestamp. ``is_complete`` tells that nothing later than the timestamp is missing behind
    ``start``.
    """

    start: Position
    ties: int
    is_complete: bool
