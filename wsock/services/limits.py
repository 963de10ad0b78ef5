"""Rate limits that are asked for one by one, such as connects from an address; and the tally of all rate limits.

Publishes are limited by :mod:`wsock.services.rates`. The rate of one connection is not here: its
:class:`wsock.protocol.session.Session` counts that alone.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

from wsock.errors import Code, Refused
from wsock.interfaces import ICounters

__all__ = ["Limits", "Tally", "retry_after"]


class Tally:
    """How often each scope's limit was exceeded: ``app``, ``channel``, ``user``, ``connection``, ``connect``.

    What was ``refused`` and what was only ``observed`` is counted apart. When not ``is_enforced``, nothing is refused
    but by limits of apps that say otherwise.
    """

    def __init__(self, *, is_enforced: bool = True) -> None:
        self.is_enforced = is_enforced
        self.refused: dict[str, int] = {}
        self.observed: dict[str, int] = {}

    def refuses(self, is_enforced: bool | None = None) -> bool:
        """Whether what is beyond a limit is to be refused, by an app's own word or, for ``None``, by the server's."""
        return self.is_enforced if is_enforced is None else is_enforced

    def exceeded(self, scope: str, *, is_enforced: bool | None = None) -> bool:
        """Counts an event beyond its limit; whether it is to be refused."""
        is_refused = self.refuses(is_enforced)
        counts = self.refused if is_refused else self.observed
        counts[scope] = counts.get(scope, 0) + 1
        return is_refused


class Limits:
    """Admits events up to a limit in any window of time, and refuses the rest."""

    def __init__(self, counters: ICounters, now: Callable[[], float], tally: Tally | None = None) -> None:
        self._counters = counters
        self._now = now
        self._tally = tally or Tally()

    async def admit(self, key: str, limit: float, window_seconds: float, *, what: str, scope: str = "connect") -> None:
        """Counts an event of ``key``, or raises :class:`Refused` with ``rate_limited`` and ``retry_after``.

        ``what`` is the setting that the limit comes from, and the text names it; ``scope`` is what it is tallied as. A
        limit of 0 is none: nothing is counted. For a limit that is no whole number the window is longer: 0.5 in 1 s is
        1 in 2 s. The ``key`` says whose events these are, with the app's id where they are an app's. Raises
        :class:`wsock.errors.Unavailable` when the counters are away.
        """
        if limit <= 0:
            return
        whole = ceil(limit)
        wait = await self._counters.hit(key, whole, window_seconds * whole / limit, self._now())
        if wait > 0 and self._tally.exceeded(scope):
            seconds = retry_after(wait)
            text = f"{what} allows {limit:g} in {window_seconds:g} s: try again in {seconds:g} s"
            raise Refused(Code.RATE_LIMITED, text, retry_after=seconds)


def retry_after(wait: float) -> float:
    """What a client is told of a wait: whole milliseconds, at least one, and not too few."""
    return max(ceil(wait * 1000), 1) / 1000
