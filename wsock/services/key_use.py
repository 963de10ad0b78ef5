"""When keys were last used: noted at once in memory, written down now and then."""

from __future__ import annotations

from collections.abc import Callable

from wsock.interfaces import IRecords
from wsock.records import Key

__all__ = ["KeyUse"]


class KeyUse:
    """Keeps ``last_used_at`` of keys, at most ``seconds`` behind, in one write for all uses of a key in that time.

    What was not written down when the process dies is lost; the next use is noted again.
    """

    def __init__(self, records: IRecords, now: Callable[[], float], *, seconds: float = 60.0) -> None:
        self._records = records
        self._now = now
        self._seconds = seconds
        self._used: dict[str, int] = {}
        self._written_at = now()

    def note(self, key: str) -> None:
        """The key of this id was accepted now."""
        self._used[key] = int(self._now() * 1000)

    async def write_sometimes(self) -> None:
        """Writes down what was noted, if the last time is long enough ago."""
        if not 0 <= self._now() - self._written_at < self._seconds:
            await self.write()

    async def write(self) -> None:
        """Writes down what was noted. What :class:`Unavailable` ends is written the next time."""
        self._written_at = self._now()
        for key, at in list(self._used.items()):
            await self._records.used(Key, key, at)
            if self._used.get(key) == at:
                del self._used[key]
