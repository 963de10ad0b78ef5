"""What the client hands to its user."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import msgspec
from msgspec import Raw

__all__ = ["Member", "Message", "Page", "PresenceChange", "Receipt"]


@dataclass(frozen=True)
class Message:
    """A message of a channel. ``timestamp`` is in milliseconds; ``sequence`` counts the channel's messages.

    ``raw`` is the JSON text of the data as it was published, byte for byte; ``data`` is what it says, parsed when first
    asked for.
    """

    channel: str
    id: str
    raw: Raw = field(repr=False)
    timestamp: int
    publisher_id: str
    sequence: int

    @cached_property
    def data(self) -> Any:
        """The data as Python objects."""
        return msgspec.json.decode(self.raw)


@dataclass(frozen=True, slots=True)
class Receipt:
    """That the server has accepted a message. ``timestamp`` is in milliseconds."""

    id: str
    channel: str
    timestamp: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the past. Where it ``has_more``, ask again from the timestamp of its last message on."""

    messages: list[Message]
    has_more: bool


@dataclass(frozen=True, slots=True)
class Member:
    """A client that is present; ``joined_at`` is in milliseconds."""

    client_id: str
    data: dict[str, Any]
    joined_at: int


@dataclass(frozen=True, slots=True)
class PresenceChange:
    """A member entered, changed its data or left. ``reason`` is that of a leave."""

    channel: str
    kind: Literal["enter", "update", "leave"]
    member: Member
    reason: str | None = None
