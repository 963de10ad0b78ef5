"""The referee: what arrived, held against what was accepted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

__all__ = ["Faults", "Latencies", "Sent", "Stream"]


class Sent(msgspec.Struct, frozen=True):
    """What one publisher published in one channel: the numbers below ``count``, of which ``absent`` had no ack."""

    count: int
    absent: frozenset[int] = frozenset()

    @property
    def accepted(self) -> int:
        """How many had an ack."""
        return self.count - len(self.absent)


class Faults(msgspec.Struct):
    """Deliveries that did not happen as they should."""

    lost: int = 0
    duplicates: int = 0
    reordered: int = 0
    strays: int = 0
    """Messages of channels that were not subscribed, or of nobody known."""

    def __bool__(self) -> bool:
        return bool(self.lost or self.duplicates or self.reordered or self.strays)

    def add(self, other: Faults) -> None:
        """Adds what another one counted."""
        self.lost += other.lost
        self.duplicates += other.duplicates
        self.reordered += other.reordered
        self.strays += other.strays


class Stream:
    """What one subscriber heard from one publisher in one channel."""

    __slots__ = ("duplicates", "expected", "missing", "reordered")

    def __init__(self) -> None:
        self.expected = 0
        """The number that has to come next."""
        self.missing: set[int] = set()
        """Numbers that were passed over: lost, late, or never accepted."""
        self.duplicates = 0
        self.reordered = 0

    def heard(self, first: int, count: int) -> None:
        """These numbers came, one after the other."""
        if first == self.expected:
            self.expected = first + count
            return
        for number in range(first, first + count):
            self._heard(number)

    def faults(self, sent: Sent) -> Faults:
        """What is wrong with it, now that nothing more will come."""
        missing = {*self.missing, *range(self.expected, sent.count)} - sent.absent
        return Faults(len(missing), self.duplicates, self.reordered)

    def _heard(self, number: int) -> None:
        if number >= self.expected:
            self.missing.update(range(self.expected, number))
            self.expected = number + 1
        elif number in self.missing:
            self.missing.remove(number)
            self.reordered += 1
        else:
            self.duplicates += 1


@dataclass(slots=True)
class Latencies:
    """How long deliveries took, in microseconds of three significant digits; so many that all can be kept."""

    counts: Counter[int] = field(default_factory=Counter)

    def add(self, now: int, times: Iterable[int]) -> None:
        """Messages of these times (nanoseconds) have come."""
        for at in times:
            self.counts[_rounded((now - at) // 1_000)] += 1

    def merge(self, counts: Mapping[int, int]) -> None:
        """Adds what another process counted."""
        self.counts.update(counts)

    def percentiles(self) -> dict[str, float]:
        """In milliseconds: the least value that so many percent of all do not exceed. Empty when there are none."""
        total, seen, found = self.counts.total(), 0, {}
        wanted = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}
        for value, count in sorted(self.counts.items()):
            seen += count
            for name in [name for name, percent in wanted.items() if seen >= total * percent / 100]:
                del wanted[name]
                found[name] = value / 1_000
        return found


def _rounded(microseconds: int) -> int:
    if microseconds < 1_000:
        return microseconds
    unit: int = 10 ** (len(str(microseconds)) - 3)
    return -(-microseconds // unit) * unit
