"""The meters in memory: for ``--dev`` and for tests."""

from __future__ import annotations

from collections.abc import Sequence

from zope.interface import implementer

from wsock.interfaces import Bucket, IMeterStore, NodeReport, Sample
from wsock.measures import Span

__all__ = ["MemoryMeters"]


@implementer(IMeterStore)
class MemoryMeters:
    """Keeps them for as long as the process lives."""

    def __init__(self) -> None:
        self._parts: dict[Span, dict[tuple[str, int], Bucket]] = {span: {} for span in Span}
        self._numbers: dict[str, int] = {}
        self._reports: dict[str, NodeReport] = {}
        self._claims: set[tuple[str, str, int]] = set()

    async def add(self, node: str, number: int, at: int, samples: Sequence[Sample]) -> None:
        """Adds samples to the parts of all spans."""
        if number <= self._numbers.get(node, -1):
            return
        self._numbers[node] = number
        for span in Span:
            start = span.start(at)
            for sample in samples:
                part = self._parts[span].setdefault((sample.app, start), Bucket(start, {}, {}))
                _add(part, sample)

    async def buckets(self, apps: Sequence[str], span: Span, start: int) -> dict[str, Bucket]:
        """The parts of these apps."""
        found = {app: self._parts[span].get((app, start)) for app in apps}
        return {app: _copy(part) for app, part in found.items() if part is not None}

    async def series(self, app: str, span: Span, since: int, until: int, limit: int) -> list[Bucket]:
        """The parts of an app, the oldest first."""
        starts = sorted(start for of, start in self._parts[span] if of == app and since <= start < until)
        return [_copy(self._parts[span][app, start]) for start in starts[:limit]]

    async def report(self, report: NodeReport) -> None:
        """Replaces the node's report."""
        self._reports[report.node] = report

    async def withdraw(self, node: str) -> None:
        """The node has none any more."""
        self._reports.pop(node, None)

    async def reports(self, since: int) -> list[NodeReport]:
        """The reports of that time and later."""
        return [report for report in self._reports.values() if report.at >= since]

    async def claim(self, app: str, what: str, period: int) -> bool:
        """Whether nobody claimed it before."""
        is_first = (app, what, period) not in self._claims
        self._claims.add((app, what, period))
        return is_first

    async def expire(self, span: Span, before: int, limit: int) -> int:
        """Deletes old parts."""
        parts = self._parts[span]
        old = [key for key in parts if key[1] < before][:limit]
        for key in old:
            del parts[key]
        return len(old)

    async def forget(self, before: int, periods_before: int) -> None:
        """Forgets claims, reports and numbers."""
        self._claims = {claim for claim in self._claims if claim[2] >= periods_before}
        self._reports = {node: report for node, report in self._reports.items() if report.at >= before}
        self._numbers = {node: number for node, number in self._numbers.items() if number >= before}


def _add(part: Bucket, sample: Sample) -> None:
    for name, count in sample.counts.items():
        part.counts[name] = part.counts.get(name, 0) + count
    for name, peak in sample.peaks.items():
        part.peaks[name] = max(part.peaks.get(name, 0), peak)


def _copy(part: Bucket) -> Bucket:
    return Bucket(part.start, dict(part.counts), dict(part.peaks))
