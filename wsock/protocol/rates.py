"""Rates, and the window in which events are counted.

A rate of ``events`` in ``seconds`` with a ``burst`` is one sliding window: at most ``burst`` events in any time in
which the rate allows just so many. That bounds both what comes at once and what lasts: 6000 in 60 s with a burst of 100
are 100 in any second. So the burst decides how long the window is.
"""

from __future__ import annotations

from array import array
from math import ceil

import msgspec

from wsock.protocol.channels import Pattern

__all__ = ["Rate", "Rates", "SlidingWindow"]

_GROUPS = 128
_LATE = 32
"""The part of a window by which events may come late to take the room that others left, and count as in time."""
_REMEMBERED = 4
"""The part of a window for which it is remembered that events left it."""
_SOON = 1e-6
"""The shortest wait there is, in seconds: 0 says that there is room."""


class Rate(msgspec.Struct, frozen=True):
    """At most ``events`` in ``seconds`` in the long run, and at most ``burst`` at once.

    A burst of 0 is what the rate allows in one second, rounded up. With a burst as large as ``events`` the window is
    ``seconds`` long: all that the rate allows in that time may come at its beginning.
    """

    events: float
    seconds: float = 1.0
    burst: int = 0

    @property
    def limit(self) -> int:
        """Events in any window."""
        # What floats make of a whole number must not be rounded up to the next one.
        return self.burst or max(1, ceil(self.events / self.seconds - 1e-9))

    @property
    def window_seconds(self) -> float:
        """How long the window is."""
        return self.limit * self.seconds / self.events


class Rates(msgspec.Struct, frozen=True):
    """What an app's publishes are limited to: all together, each user's, and each channel's.

    ``channels`` are patterns with their rates, of which the first that matches counts. When not ``is_enforced``, what
    is beyond a rate is counted and not refused; ``None`` leaves that to the server. The limits of the scopes in ``own``
    (``app``, ``channel``, ``user``) are settings of the app itself.
    """

    app: Rate | None = None
    user: Rate | None = None
    channels: tuple[tuple[str, Rate], ...] = ()
    is_enforced: bool | None = None
    own: tuple[str, ...] = ()

    def channel(self, name: str) -> Rate | None:
        """The rate of this channel, if it has one."""
        return next((rate for pattern, rate in self.channels if Pattern(pattern).matches(name)), None)


class SlidingWindow:
    """Counts of events in any window of time, in up to 128 groups.

    A group opens with an event, takes the next ones until it has a 128th of the limit (rounded up), and leaves the
    window as a whole when its first event does. So:

    * limits up to 128 are exact; of larger ones any window has less than one group too many, which is 0.8 %
      (1.6 % just above 128), and who keeps below the limit is never refused,
    * whoever always asks for more gets the limit in each window on end: the rate that lasts is limit / window. For
      that, events that take the room which others left count from when those left it, by up to a 32nd of the window:
      else each window would begin a little later than the one before, by what passes until somebody asks, and who asks
      by a clock of its own would miss a turn each time. So some window may have 3 % too many,
    * it has at most some 160 times and counts (about 2.5 KiB), whatever the limit.
    """

    __slots__ = ("_counts", "_late", "_opened", "_total")

    def __init__(self) -> None:
        self._opened = array("d")
        self._counts = array("Q")
        # The first of them have left, not long ago.
        self._late = 0
        self._total = 0

    def __len__(self) -> int:
        return len(self._opened)

    def take(self, wanted: int, limit: int, seconds: float, now: float) -> int:
        """Counts so many events, or as many as there is room for, and returns their number."""
        self._slide(seconds, now)
        taken = min(wanted, limit - self._total)
        if taken <= 0:
            return 0
        self._total += taken
        left, room = taken, -(-limit // _GROUPS)
        while left and self._late:
            count, left_at = min(left, self._counts[0]), max(self._opened[0] + seconds, now - seconds / _LATE)
            self._forget(count)
            self._count(count, room, left_at)
            left -= count
        self._count(left, room, now)
        return taken

    def room(self, limit: int) -> int:
        """How many more there was room for when events were last taken."""
        return max(limit - self._total, 0)

    def wait(self, limit: int, seconds: float, now: float) -> float:
        """The seconds after which there is room, as the window was when events were last taken; 0: there is room."""
        total = self._total
        if total < limit:
            return 0.0
        for n in range(self._late, len(self._opened)):
            total -= self._counts[n]
            if total < limit:
                return min(max(self._opened[n] + seconds - now, _SOON), seconds)
        return seconds

    def ends_at(self, seconds: float) -> float:
        """When the last event leaves the window."""
        return self._opened[-1] + seconds if self._opened else 0.0

    def _count(self, count: int, room: int, at: float) -> None:
        """Counts these in the newest group as far as that has fewer than ``room``, and in a new one."""
        if count and len(self._opened) > self._late:
            more = max(0, min(count, room - self._counts[-1]))
            self._counts[-1] += more
            count -= more
            at = max(at, self._opened[-1])
        if count:
            self._opened.append(at)
            self._counts.append(count)

    def _slide(self, seconds: float, now: float) -> None:
        """Tells which groups left, and forgets those that did so long ago."""
        if self._opened and self._opened[-1] > now:
            self._set_back(self._opened[-1] - now)
        start = now - seconds
        while self._late < len(self._opened) and self._opened[self._late] <= start:
            self._total -= self._counts[self._late]
            self._late += 1
        start -= seconds / _REMEMBERED
        while self._late and self._opened[0] <= start:
            self._forget(self._counts[0])

    def _forget(self, count: int) -> None:
        """So many of the first group, which has left."""
        self._counts[0] -= count
        if not self._counts[0]:
            del self._opened[:1]
            del self._counts[:1]
            self._late -= 1

    def _set_back(self, seconds: float) -> None:
        """Follows a clock that was set back; else nobody had room until it is where it was."""
        self._opened = array("d", (opened - seconds for opened in self._opened))
