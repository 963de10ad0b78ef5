"""Counters in memory: a sliding window for each key, on one node.

How exact they are, and what a key takes, says :class:`wsock.protocol.rates.SlidingWindow`.
"""

from __future__ import annotations

from heapq import heappop, heappush, heapreplace

from zope.interface import implementer

from wsock.interfaces import ICounters, Lease
from wsock.protocol.rates import SlidingWindow

__all__ = ["MemoryCounters"]

_SWEEP = 2


class _Counted(SlidingWindow):
    """The window of one key, which can be forgotten at ``forget_at``."""

    __slots__ = ("forget_at",)

    forget_at: float


@implementer(ICounters)
class MemoryCounters:
    """Counts for at most ``max_keys`` keys. ``len()`` of it is the number of keys that it has counts of.

    A key is forgotten when its events have left the window (as others are counted), or, where there are too
    many, when it is the one that would be forgotten soonest.
    """

    def __init__(self, max_keys: int = 100_000) -> None:
        self._max_keys = max_keys
        self._windows: dict[str | tuple[str, str], _Counted] = {}
        # One entry a key. Its time may be too early: whoever meets it puts it right, so that a hit need not.
        # The number keeps keys of both kinds from being compared.
        self._ends: list[tuple[float, int, str | tuple[str, str]]] = []
        self._added = 0

    def __len__(self) -> int:
        return len(self._windows)

    async def hit(self, key: str, limit: int, window_seconds: float, now: float) -> float:
        """Counts one event if there is room. Returns 0, or the seconds after which there is room again."""
        lease = self._take(key, limit, window_seconds, 1, now)
        return 0.0 if lease.granted else lease.wait

    async def lease(self, app: str, key: str, limit: int, window_seconds: float, wanted: int, now: float) -> Lease:
        """Counts up to ``wanted`` events, as many as there is room for."""
        return self._take((app, key), limit, window_seconds, wanted, now)

    def _take(self, key: str | tuple[str, str], limit: int, seconds: float, wanted: int, now: float) -> Lease:
        self._sweep(now)
        window = self._windows.get(key)
        if window is None:
            if limit < 1:
                return Lease(0, seconds)
            window = self._add(key, now + seconds)
        granted = window.take(wanted, limit, seconds, now)
        if granted:
            window.forget_at = window.ends_at(seconds)
        return Lease(granted, window.wait(limit, seconds, now))

    def _add(self, key: str | tuple[str, str], ends_at: float) -> _Counted:
        while len(self._windows) >= self._max_keys:
            self._forget_first()
        window = self._windows[key] = _Counted()
        window.forget_at = ends_at
        self._added += 1
        heappush(self._ends, (ends_at, self._added, key))
        return window

    def _sweep(self, now: float) -> None:
        """Forgets what has ended, a little with each hit: more than hits can bring, never long at once."""
        for _ in range(_SWEEP):
            if not self._ends or self._ends[0][0] > now:
                return
            self._forget_first()

    def _forget_first(self) -> None:
        """Forgets the key that ends first, or puts its entry right when it ends later than that says."""
        ends_at, number, key = self._ends[0]
        actual = self._windows[key].forget_at
        if actual > ends_at:
            heapreplace(self._ends, (actual, number, key))
        else:
            heappop(self._ends)
            del self._windows[key]
