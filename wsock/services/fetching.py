"""Fetches what is at a URL that a customer gave, and no more than that customer could reach from outside."""

from __future__ import annotations

from wsock.errors import Code, Refused
from wsock.services.addresses import Guard
from wsock.services.outgoing import Blocked, NotSent, Outgoing

__all__ = ["FetchFailed", "Fetcher"]

_HEADERS = {"Accept": "application/json"}


class FetchFailed(Exception):
    """It could not be fetched; ``reason`` is for the server's log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Fetcher:
    """Fetches from what the ``guard`` allows. A fetch takes ``timeout_seconds`` and ``max_bytes`` at most."""

    def __init__(
        self,
        outgoing: Outgoing,
        guard: Guard,
        *,
        timeout_seconds: float = 5.0,
        max_bytes: int = 262_144,
    ) -> None:
        self._outgoing = outgoing
        self._guard = guard
        self._timeout_seconds = timeout_seconds
        self._max_bytes = max_bytes

    def check_url(self, field: str, url: str) -> str:
        """The URL as it is. Raises :class:`Refused` with ``bad_request`` for one that would never be fetched."""
        try:
            self._outgoing.check_url(url, guard=self._guard)
        except Blocked as e:
            raise Refused(Code.BAD_REQUEST, f"'{field}': {e.reason}") from e
        return url

    async def fetch(self, url: str) -> bytes:
        """What is there. Raises :class:`FetchFailed`."""
        try:
            reply = await self._outgoing.get(
                url,
                _HEADERS,
                guard=self._guard,
                kind="keys",
                timeout_seconds=self._timeout_seconds,
                max_body=self._max_bytes,
            )
        except (Blocked, NotSent) as e:
            raise FetchFailed(e.reason) from e
        if reply.status != 200:
            raise FetchFailed(f"the answer has the status {reply.status}, not 200; redirects are not followed")
        if not reply.is_whole:
            raise FetchFailed(f"the answer was cut off, or has more than {self._max_bytes} bytes")
        return reply.body
