"""Leaves a service alone for a while that keeps refusing an app's credentials."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from wsock.interfaces import PushOutcome, PushStatus

__all__ = ["FAULTS", "PAUSE_SECONDS", "Pauses"]

FAULTS = 10
"""So many refusals in a row. One says little: anybody may register a subscription that was made for other keys."""

PAUSE_SECONDS = 60.0
_MOST = 1000


class Pauses:
    """Which credentials are refused, by whatever they and the service are known by."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._refused: dict[Hashable, tuple[int, float]] = {}

    def is_paused(self, who: Hashable) -> bool:
        """Whether the service refused the last ones, the last time not long ago."""
        count, until = self._refused.get(who, (0, 0.0))
        return count >= FAULTS and self._now() < until

    def note(self, who: Hashable, outcome: PushOutcome) -> None:
        """What the service answered. That it can't be reached says nothing of the credentials."""
        if outcome.status is PushStatus.MISCONFIGURED:
            count, _ = self._refused.pop(who, (0, 0.0))
            self._refused[who] = (count + 1, self._now() + PAUSE_SECONDS)
            if len(self._refused) > _MOST:
                del self._refused[next(iter(self._refused))]
        elif outcome.status is not PushStatus.RETRY:
            self._refused.pop(who, None)
