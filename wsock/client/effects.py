"""What the automaton wants done, and the requests that it is asked to make."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from wsock.client.errors import ClientError
from wsock.client.values import Member, Message, PresenceChange

__all__ = [
    "Call",
    "Changed",
    "Deliver",
    "Done",
    "Effect",
    "Expiring",
    "Failed",
    "Fault",
    "Lost",
    "Move",
    "Ready",
    "Restart",
    "Send",
]


@dataclass(eq=False, slots=True, kw_only=True)
class Call:
    """A request of the user's, from when it is made until it is settled.

    It is sent again after a reconnect, until it is answered or given up. ``id`` is set for a publish only;
    ``presence`` is the request that makes the client a member again; a call that does just that is ``is_restoring``.
    """

    kind: Literal["publish", "subscribe", "unsubscribe", "history", "members", "present", "absent"]
    channel: str
    text: bytes = field(repr=False)
    id: str = ""
    rewind: int = 0
    presence: bytes | None = field(default=None, repr=False)
    is_restoring: bool = False
    is_settled: bool = False
    members: list[Member] = field(default_factory=list, repr=False)

    @property
    def is_fenced(self) -> bool:
        """Whether it has no answer of its own."""
        return self.kind in ("present", "absent")


@dataclass(frozen=True, slots=True)
class Send:
    """This text is to be sent."""

    text: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Deliver:
    """The channel's callbacks get this message."""

    message: Message


@dataclass(frozen=True, slots=True)
class Changed:
    """The channel's callbacks get this change of presence."""

    change: PresenceChange


@dataclass(frozen=True, slots=True)
class Done:
    """The call has this result."""

    call: Call
    value: Any


@dataclass(frozen=True, slots=True)
class Failed:
    """The call has failed."""

    call: Call
    error: ClientError


@dataclass(frozen=True, slots=True)
class Lost:
    """Messages of the channel may be missing for good."""

    channel: str


@dataclass(frozen=True, slots=True)
class Fault:
    """Something went wrong that is no answer to a call."""

    error: ClientError


@dataclass(frozen=True, slots=True)
class Ready:
    """The connection has resumed all it had to."""


@dataclass(frozen=True, slots=True)
class Expiring:
    """The token has expired: a new one is to be sent soon."""

    error: ClientError


@dataclass(frozen=True, slots=True)
class Move:
    """The server asks to connect anew after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Restart:
    """The connection is of no use: it is to be given up, and another one tried."""

    error: ClientError


Effect = Send | Deliver | Changed | Done | Failed | Lost | Fault | Ready | Expiring | Move | Restart
