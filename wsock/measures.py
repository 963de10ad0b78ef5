"""What the server measures about itself: numbers that are cheap to write down, and are read by the metrics.

Nothing here knows who reads. Everything that works in batches or turns keeps its own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Protocol

__all__ = ["MANY", "SECONDS", "SIZES", "Batching", "Histogram", "Peak", "Span", "merged", "percentile"]

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Bounds for how many there are in a batch."""

MANY = (1, 4, 16, 64, 256, 1024, 4096, 16_384, 65_536)
"""Bounds for how many there are of what is as many as the clients are."""

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bounds for how long something took."""


class Histogram:
    """How values are spread: how many are at most each of the bounds, which ascend, and how many are above.

    An :meth:`observe` is a search in a tuple and two additions. ``counts`` has one number more than there are bounds,
    each of the values above the bound before it; ``total`` is the sum of the values.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total: float = 0

    def observe(self, value: float) -> None:
        """Counts the value in."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def observe_many(self, value: float, times: int) -> None:
        """Counts the value in so many times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def __len__(self) -> int:
        """How many values were observed."""
        return sum(self.counts)


def merged(bounds: Sequence[float], histograms: Iterable[Histogram]) -> Histogram:
    """All of them as one. They have these bounds."""
    whole = Histogram(bounds)
    for one in histograms:
        whole.counts = [a + b for a, b in zip(whole.counts, one.counts, strict=True)]
        whole.total += one.total
    return whole


def percentile(bounds: Sequence[float], counts: Sequence[int], share: float) -> float | None:
    """The value that this share of what a histogram counted does not exceed, as nearly as its bounds tell.

    Between two bounds the values are taken to be spread evenly; of those above the last bound, that bound is all that
    is known. ``None`` when nothing was counted.
    """
    rank = share * sum(counts)
    if not rank:
        return None
    below = 0
    for number, count in enumerate(counts[: len(bounds)]):
        if count and below + count >= rank:
            least = bounds[number - 1] if number else 0.0
            return least + (bounds[number] - least) * (rank - below) / count
        below += count
    return bounds[-1]


class Span(StrEnum):
    """How long the parts are that what happened is counted in. They begin with a minute, hour, day or month of UTC."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"

    def start(self, at: int) -> int:
        """When the part began that this moment is in; both in milliseconds since 1970."""
        if self is not Span.MONTH:
            return at - at % _MILLISECONDS[self]
        day = datetime.fromtimestamp(at / 1000, UTC)
        return int(datetime(day.year, day.month, 1, tzinfo=UTC).timestamp()) * 1000

    def end(self, at: int) -> int:
        """When it ends, and the next one begins."""
        start = self.start(at)
        return self.start(start + _LONGEST_MONTH) if self is Span.MONTH else start + _MILLISECONDS[self]


_MILLISECONDS = {Span.MINUTE: 60_000, Span.HOUR: 3_600_000, Span.DAY: 86_400_000}
_LONGEST_MONTH = 31 * 86_400_000


class Peak:
    """The largest of the values that were observed in the last ``seconds``, whoever reads it and how often."""

    __slots__ = ("_falling", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        # Each with the moment when it came; one that a later one reached can never be the largest again.
        self._falling: deque[tuple[float, float]] = deque()

    def observe(self, value: float, now: float) -> None:
        """Counts the value in. ``now`` never goes back."""
        while self._falling and self._falling[-1][1] <= value:
            self._falling.pop()
        self._falling.append((now, value))
        self._forget(now)

    def at(self, now: float) -> float:
        """The largest one of the time before ``now``; 0 when there was none."""
        self._forget(now)
        return self._falling[0][1] if self._falling else 0.0

    def _forget(self, now: float) -> None:
        while self._falling and self._falling[0][0] <= now - self._seconds:
            self._falling.popleft()


class Batching(Protocol):
    """What gathers publishes in a queue and hands them on in batches."""

    @property
    def batch_sizes(self) -> Histogram:
        """Publishes in each batch, with the bounds :data:`SIZES`."""

    @property
    def batch_seconds(self) -> Histogram:
        """How long each batch was under way until it was accepted or failed, with the bounds :data:`SECONDS`."""

    @property
    def queued(self) -> int:
        """Publishes that wait for the next batch."""

    @property
    def queued_bytes(self) -> int:
        """The memory that they take, as their limit counts it."""
