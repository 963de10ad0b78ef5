"""Rates of the REST API that are an address's or an account's, and what answers say of them."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

from twisted.web.server import Request

from wsock.errors import Refused
from wsock.protocol.rates import SlidingWindow
from wsock.services.directory_cache import Recent
from wsock.services.limits import Limits

__all__ = ["Throttle"]

_WINDOW_SECONDS = 60.0
_SIZE = 1_000


class Throttle:
    """Admits so many requests a minute of each key, on all nodes together; 0: as many as there are.

    ``name`` tells its counts from other throttles', ``setting`` is what refusals name. Answers say what is left
    (``X-RateLimit-...``): of what this node has counted, so where there are others it may be less.
    """

    def __init__(self, limits: Limits, now: Callable[[], float], *, name: str, per_minute: int, setting: str) -> None:
        self._limits = limits
        self._now = now
        self._name = name
        self._per_minute = per_minute
        self._setting = setting
        self._seen: Recent[str, SlidingWindow] = Recent(_SIZE)

    async def admit(self, request: Request, key: str) -> None:
        """Counts a request. Raises :class:`Refused` with ``rate_limited`` for one too many."""
        if not self._per_minute:
            return
        try:
            await self._limits.admit(
                f"{self._name}:{key}", self._per_minute, _WINDOW_SECONDS, what=self._setting, scope=self._name
            )
        except Refused as e:
            if e.retry_after is not None:
                self._tell(request, 0, e.retry_after)
            raise
        self._tell(request, *self._count(key))

    def _count(self, key: str) -> tuple[int, float]:
        """How many are left, and the seconds until all are there again."""
        now = self._now()
        window = self._seen.get(key) or SlidingWindow()
        self._seen.put(key, window)
        window.take(1, self._per_minute, _WINDOW_SECONDS, now)
        return window.room(self._per_minute), window.ends_at(_WINDOW_SECONDS) - now

    def _tell(self, request: Request, left: int, seconds: float) -> None:
        request.setHeader(b"X-RateLimit-Limit", b"%d" % self._per_minute)
        request.setHeader(b"X-RateLimit-Remaining", b"%d" % left)
        request.setHeader(b"X-RateLimit-Reset", b"%d" % ceil(seconds))
