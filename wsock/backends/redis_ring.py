"""Which of several independent Redis servers a channel lives on: consistent hashing."""

from __future__ import annotations

from bisect import bisect
from hashlib import blake2b

__all__ = ["Ring"]

_POINTS = 128


class Ring:
    """Maps keys to the numbers 0 to ``size - 1``. With one more number about one key in ``size + 1`` moves."""

    def __init__(self, size: int) -> None:
        points = sorted((_hash(f"{number}-{point}"), number) for number in range(size) for point in range(_POINTS))
        self._hashes = [hash for hash, _ in points]
        self._numbers = [number for _, number in points]
        self._is_single = size == 1

    def number(self, app: str, channel: str) -> int:
        """The number of a channel."""
        if self._is_single:
            return 0
        place = bisect(self._hashes, _hash(f"{app}:{channel}")) % len(self._hashes)
        return self._numbers[place]


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
