"""Ends that may be taken back: who comes back soon makes no noise."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime

__all__ = ["Damping"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Damping(Generic[K, V]):
    """Holds the end of something back for so many seconds, and then tells of it, in the order in which they came.

    What begins again within that time has not ended: neither is told.
    """

    def __init__(self, clock: IReactorTime, seconds: float, tell: Callable[[V], None]) -> None:
        self._clock = clock
        self._seconds = seconds
        self._tell = tell
        # All are held for as long, so the first one in is the first one due.
        self._held: OrderedDict[K, tuple[float, V]] = OrderedDict()
        self._timer: IDelayedCall | None = None

    def __len__(self) -> int:
        return len(self._held)

    def ended(self, what: K, end: V) -> None:
        """It ended, as far as is known yet."""
        if not self._seconds:
            self._tell(end)
            return
        self._held.pop(what, None)
        self._held[what] = (self._clock.seconds() + self._seconds, end)
        if self._timer is None:
            self._timer = self._clock.callLater(self._seconds, self._due)

    def began(self, what: K) -> V | None:
        """It begins. Returns the end that is taken back thereby, if one is held."""
        due, end = self._held.pop(what, (0.0, None))
        return end

    def flush(self) -> None:
        """Tells of all ends that are held: nobody comes back any more."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        while self._held:
            self._tell(self._held.popitem(last=False)[1][1])

    def _due(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        while self._held:
            due, end = next(iter(self._held.values()))
            if due > now:
                self._timer = self._clock.callLater(due - now, self._due)
                return
            self._held.popitem(last=False)
            self._tell(end)
