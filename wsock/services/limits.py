"""Rate limits that several connections share: by address, app, channel or user.

The rate of one connection is not here: its :class:`wsock.protocol.session.Session` counts that alone.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

from wsock.errors import Code, Refused
from wsock.interfaces import ICounters

__all__ = ["Limits"]


class Limits:
    """Admits events up to a limit in any window of time, and refuses the rest."""

    def __init__(self, counters: ICounters, now: Callable[[], float]) -> None:
        self._counters = counters
        self._now = now

    async def admit(self, key: str, limit: float, window_seconds: float, *, what: str) -> None:
        """Counts an event of ``key``, or raises :class:`Refused` with ``rate_limited`` and ``retry_after``.

        ``what`` is the setting that the limit comes from, and the text names it. A limit of 0 is none:
        nothing is counted. For a limit that is no whole number the window is longer: 0.5 in 1 s is 1 in 2 s.
        The ``key`` says whose events these are, with the app's id where they are an app's. Raises
        :class:`wsock.errors.Unavailable` when the counters are away.
        """
        if limit <= 0:
            return
        whole = ceil(limit)
        wait = await self._counters.hit(key, whole, window_seconds * whole / limit, self._now())
        if wait > 0:
            seconds = max(ceil(wait * 1000), 1) / 1000
            text = f"{what} allows {limit:g} in {window_seconds:g} s: try again in {seconds:g} s"
            raise Refused(Code.RATE_LIMITED, text, retry_after=seconds)
