"""Stand-ins for what surrounds a service or a backend: a receiver that records, and a wall clock to set."""

from __future__ import annotations

from typing import NamedTuple

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from wsock.interfaces import IReceiver
from wsock.protocol.messages import Message
from wsock.protocol.position import Position
from wsock.protocol.presence import PresenceChange

__all__ = ["ChangeHeard", "LossHeard", "MessageHeard", "MoveHeard", "Now", "RecordingReceiver"]


class MessageHeard(NamedTuple):
    """A message, and the app it is of."""

    app: str
    message: Message


class ChangeHeard(NamedTuple):
    """A presence change, and the app it is of."""

    app: str
    change: PresenceChange


class LossHeard(NamedTuple):
    """Messages of a channel are missing; it is at this position now."""

    app: str
    channel: str
    position: Position


class MoveHeard(NamedTuple):
    """A channel has a new epoch, and nothing is missing; it is at this position now."""

    app: str
    channel: str
    position: Position


@implementer(IReceiver)
class RecordingReceiver:
    """Keeps what it is told: by kind, and all of it in ``heard``, in order."""

    def __init__(self) -> None:
        self.heard: list[MessageHeard | ChangeHeard | LossHeard | MoveHeard] = []

    @property
    def messages(self) -> list[MessageHeard]:
        """The messages, in the order in which they came."""
        return [heard for heard in self.heard if isinstance(heard, MessageHeard)]

    @property
    def changes(self) -> list[ChangeHeard]:
        """The presence changes, in the order in which they came."""
        return [heard for heard in self.heard if isinstance(heard, ChangeHeard)]

    @property
    def losses(self) -> list[LossHeard]:
        """The losses, in the order in which they came."""
        return [heard for heard in self.heard if isinstance(heard, LossHeard)]

    @property
    def moves(self) -> list[MoveHeard]:
        """The new epochs, in the order in which they came."""
        return [heard for heard in self.heard if isinstance(heard, MoveHeard)]

    def message(self, app: str, message: Message) -> None:
        """Records a message."""
        self.heard.append(MessageHeard(app, message))

    def presence(self, app: str, change: PresenceChange) -> None:
        """Records a presence change."""
        self.heard.append(ChangeHeard(app, change))

    def lost(self, app: str, channel: str, position: Position) -> None:
        """Records a loss."""
        self.heard.append(LossHeard(app, channel, position))

    def moved(self, app: str, channel: str, position: Position) -> None:
        """Records a new epoch."""
        self.heard.append(MoveHeard(app, channel, position))


class Now:
    """A wall clock in seconds since the epoch: goes with the clock, and can be set to any time."""

    def __init__(self, clock: IReactorTime, seconds: float = 1_700_000_000.0) -> None:
        self._clock = clock
        self.set(seconds)

    def __call__(self) -> float:
        """The time."""
        return self._start + self._clock.seconds()

    def set(self, seconds: float) -> None:
        """It is this time now, whatever it was; the clock is left alone."""
        self._start = seconds - self._clock.seconds()
