"""Where the client stands in one channel, and what the sequence of a message says of it."""

from __future__ import annotations

from enum import Enum, auto

from wsock.protocol.frames import MessageEvent
from wsock.protocol.position import Position

__all__ = ["Subscription", "Verdict"]

_MAX_REWIND = 1000


class Verdict(Enum):
    """What is to be done with a message."""

    DELIVER = auto()
    """It is the next one."""
    DROP = auto()
    """It was delivered before."""
    REPAIR = auto()
    """Messages before it are missing, and are to be asked for."""
    LOSS = auto()
    """Messages before it are missing for good; it is delivered."""


class Subscription:
    """The position in a channel: the last message that was delivered.

    A message carries no epoch. Within one subscription the epoch stays what the server said last, but *rewound*
    messages, which come first when the subscription asked for them, may be older than the epoch, with sequences that
    mean nothing in it. So while they may still come every message is delivered and the position stays; what might have
    been a live message already is remembered, so that neither a later gap nor a repetition is taken for what it is not.
    """

    __slots__ = ("_is_adrift", "_is_fresh", "_is_repaired", "_maybe_live", "_rewound", "is_resuming", "position")

    def __init__(self, position: Position, rewind: int = 0) -> None:
        self.position = position
        self.is_resuming = False
        self._rewound = min(rewind, _MAX_REWIND)
        self._is_fresh = rewind > 0
        self._is_adrift = False
        self._is_repaired = False
        self._maybe_live: dict[int, set[tuple[int, str]]] = {}

    def admit(self, message: MessageEvent) -> Verdict:
        """Decides on a message, and moves the position if it is to be delivered."""
        if self.is_resuming:
            return Verdict.DROP
        if self._rewound:
            return self._rewind(message)
        if self._is_adrift:
            self._move(message.sequence)
            return Verdict.DELIVER
        if message.sequence <= self.position.sequence:
            # A rewind may be a little longer than asked for: it never ends between equal timestamps.
            return Verdict.DELIVER if self._is_fresh else Verdict.DROP
        if self._misses_before(message.sequence):
            return self._gap(message)
        is_known = (message.timestamp, message.id) in self._maybe_live.get(message.sequence, ())
        self._move(message.sequence)
        self._is_repaired = False
        return Verdict.DROP if is_known else Verdict.DELIVER

    def resume(self) -> None:
        """The position is being resumed: nothing is admitted until the server has said where it starts."""
        self.is_resuming = True
        self._rewound = 0
        self._is_fresh = False

    def repair(self) -> None:
        """The position is being resumed because of a gap; if that does not close it, nothing will."""
        self.resume()
        self._is_repaired = True

    def resumed(self, start: Position) -> None:
        """The server starts behind this position: our own, unless something is lost."""
        self.is_resuming = False
        self._is_adrift = False
        if start != self.position:
            self.position = start
            self._maybe_live.clear()

    def lost(self) -> None:
        """The server could not keep the channel complete: whatever comes next is where it goes on."""
        self._is_adrift = True
        self._maybe_live.clear()

    def refreshed(self, position: Position) -> None:
        """The server repeats where it stands. That counts when the position was lost or the epoch is a new one."""
        if self._is_adrift or position.epoch != self.position.epoch:
            self.position = position
            self.lost()

    def disconnected(self) -> None:
        """The connection is lost, and with it what was still to be rewound."""
        self.is_resuming = False
        self._is_repaired = False
        self._rewound = 0
        self._is_fresh = False

    def _rewind(self, message: MessageEvent) -> Verdict:
        self._rewound -= 1
        if message.sequence > self.position.sequence:
            self._maybe_live.setdefault(message.sequence, set()).add((message.timestamp, message.id))
        return Verdict.DELIVER

    def _misses_before(self, sequence: int) -> bool:
        first = self.position.sequence + 1
        if sequence - first > len(self._maybe_live):
            return True
        return any(number not in self._maybe_live for number in range(first, sequence))

    def _gap(self, message: MessageEvent) -> Verdict:
        if not self._is_repaired:
            return Verdict.REPAIR
        self._move(message.sequence)
        self._is_repaired = False
        return Verdict.LOSS

    def _move(self, sequence: int) -> None:
        self.position = Position(self.position.epoch, sequence)
        self._is_adrift = False
        self._is_fresh = False
        if self._maybe_live:
            self._maybe_live = {number: ids for number, ids in self._maybe_live.items() if number > sequence}
