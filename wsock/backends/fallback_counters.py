"""Counters that go on while those of the cluster are away."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from twisted.logger import Logger
from zope.interface import implementer

from wsock.errors import Unavailable
from wsock.interfaces import ICounters, Lease

__all__ = ["FallbackCounters"]

T = TypeVar("T")


@implementer(ICounters)
class FallbackCounters:
    """Counts with ``shared``, and with ``local`` when that is away: each node then allows all of every limit.

    So an outage refuses nobody who would be served, and nobody gets more than the limit from each node. What was
    counted locally is not told to the shared counters when they are back.
    """

    _log = Logger()

    def __init__(self, shared: ICounters, local: ICounters) -> None:
        self._shared = shared
        self._local = local
        self._is_away = False

    async def hit(self, key: str, limit: int, window_seconds: float, now: float) -> float:
        """Counts one event if there is room. Returns 0, or the seconds after which there is room again."""
        return await self._first(lambda counters: counters.hit(key, limit, window_seconds, now))

    async def lease(self, app: str, key: str, limit: int, window_seconds: float, wanted: int, now: float) -> Lease:
        """Counts up to ``wanted`` events, as many as there is room for."""
        return await self._first(lambda counters: counters.lease(app, key, limit, window_seconds, wanted, now))

    async def _first(self, count: Callable[[ICounters], Awaitable[T]]) -> T:
        try:
            counted = await count(self._shared)
        except Unavailable as e:
            if not self._is_away:
                self._is_away = True
                self._log.warn("rates are counted on this node alone: {reason}", reason=e.text)
            return await count(self._local)
        if self._is_away:
            self._is_away = False
            self._log.info("rates are counted with all nodes again")
        return counted
