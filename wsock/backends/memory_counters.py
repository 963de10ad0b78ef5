"""Counters in memory: a sliding window for each key, on one node.

Events are counted in up to 64 groups a window. A group opens with an event, takes the next ones until it has
a 64th of the limit (rounded up), and leaves the window as a whole when its first event does. So:

* limits up to 64 are exact; of larger ones any window has less than one group too many, which is 1.6 %
  (3 % just above 64),
* whoever always asks for more gets the limit in each window on end: the rate that lasts is limit / window,
* a key takes at most 65 times and counts (about 1 KiB), whatever its limit.
"""

from __future__ import annotations

from array import array
from heapq import heappop, heappush, heapreplace

from zope.interface import implementer

from wsock.interfaces import ICounters

__all__ = ["MemoryCounters"]

_GROUPS = 64
_SWEEP = 2


class _Window:
    """The groups of one key, the oldest first: when each opened, and how many events it has."""

    __slots__ = ("counts", "ends_at", "opened", "total")

    def __init__(self) -> None:
        self.opened = array("d")
        self.counts = array("Q")
        self.total = 0
        self.ends_at = 0.0

    def slide(self, start: float, now: float) -> None:
        """Forgets the groups that opened at ``start`` or before."""
        if self.opened and self.opened[-1] > now:
            self._set_back(self.opened[-1] - now)
        gone = 0
        while gone < len(self.opened) and self.opened[gone] <= start:
            self.total -= self.counts[gone]
            gone += 1
        del self.opened[:gone]
        del self.counts[:gone]

    def count(self, room: int, now: float) -> None:
        """One event more, in the newest group if that has fewer than ``room``."""
        if self.opened and self.counts[-1] < room:
            self.counts[-1] += 1
        else:
            self.opened.append(now)
            self.counts.append(1)
        self.total += 1

    def _set_back(self, seconds: float) -> None:
        """Follows a wall clock that was set back; else nobody had room until it is where it was."""
        self.opened = array("d", (opened - seconds for opened in self.opened))


@implementer(ICounters)
class MemoryCounters:
    """Counts for at most ``max_keys`` keys. ``len()`` of it is the number of keys that it has counts of.

    A key is forgotten when its events have left the window (as others are counted), or, where there are too
    many, when it is the one that would be forgotten soonest.
    """

    def __init__(self, max_keys: int = 100_000) -> None:
        self._max_keys = max_keys
        self._windows: dict[str, _Window] = {}
        # One entry a key. Its time may be too early: whoever meets it puts it right, so that a hit need not.
        self._ends: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._windows)

    async def hit(self, key: str, limit: int, window_seconds: float, now: float) -> float:
        """Counts one event if there is room. Returns 0, or the seconds after which there is room again."""
        self._sweep(now)
        window = self._windows.get(key)
        if window is not None:
            window.slide(now - window_seconds, now)
            if window.total >= limit:
                return _wait(window, limit, window_seconds, now)
        elif limit < 1:
            return window_seconds
        else:
            window = self._add(key, now + window_seconds)
        window.count(-(-limit // _GROUPS), now)
        window.ends_at = window.opened[-1] + window_seconds
        return 0.0

    def _add(self, key: str, ends_at: float) -> _Window:
        while len(self._windows) >= self._max_keys:
            self._forget_first()
        window = self._windows[key] = _Window()
        heappush(self._ends, (ends_at, key))
        return window

    def _sweep(self, now: float) -> None:
        """Forgets what has ended, a little with each hit: more than hits can bring, never long at once."""
        for _ in range(_SWEEP):
            if not self._ends or self._ends[0][0] > now:
                return
            self._forget_first()

    def _forget_first(self) -> None:
        """Forgets the key that ends first, or puts its entry right when it ends later than that says."""
        ends_at, key = self._ends[0]
        actual = self._windows[key].ends_at
        if actual > ends_at:
            heapreplace(self._ends, (actual, key))
        else:
            heappop(self._ends)
            del self._windows[key]


def _wait(window: _Window, limit: int, window_seconds: float, now: float) -> float:
    """Until so many groups are gone that the total is below the limit."""
    total = window.total
    for opened, count in zip(window.opened, window.counts, strict=True):
        total -= count
        if total < limit:
            return opened + window_seconds - now
    return window_seconds
