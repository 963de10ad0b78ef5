"""What every :class:`wsock.interfaces.IMeterStore` is held to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, gatherResults
from zope.interface.verify import verifyObject

from wsock.interfaces import Bucket, IMeterStore, NodeReport, Sample
from wsock.measures import Span

if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase
else:
    TestCase = object

__all__ = ["MeterStoreContract"]

AT = 1_793_500_000_000  # 1 November 2026, 04:26:40
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000


class MeterStoreContract(TestCase):
    """Mix it in and provide ``make_meters``, which makes an empty store."""

    make_meters: Callable[[], Awaitable[IMeterStore]]
    meters: IMeterStore

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        """Makes a new one."""
        self.meters = await self.make_meters()

    async def add(self, number: int, at: int = AT, *, app: str = "shop", node: str = "n1", **counts: int) -> None:
        """Adds one sample."""
        await self.meters.add(node, number, at, [Sample(app, counts, {})])

    async def counts(self, span: Span = Span.MONTH, at: int = AT, app: str = "shop") -> dict[str, int]:
        """What was counted in the part of the span."""
        found = await self.meters.buckets([app], span, span.start(at))
        return found[app].counts if app in found else {}

    async def test_provides_the_interface(self) -> None:
        """The store has the methods of IMeterStore, with their arguments."""
        verifyObject(IMeterStore, self.meters)

    async def test_adds_up_in_every_span(self) -> None:
        """A sample is added to the minute, the hour, the day and the month; of a peak the largest is kept."""
        await self.meters.add("n1", 1, AT, [Sample("shop", {"in": 2, "closes:slow consumer": 1}, {"peak": 5})])
        await self.meters.add("n1", 2, AT + 1, [Sample("shop", {"in": 3}, {"peak": 4, "other": 1})])

        for span in Span:
            start = span.start(AT)
            self.assertEqual(
                await self.meters.buckets(["shop", "none"], span, start),
                {"shop": Bucket(start, {"in": 5, "closes:slow consumer": 1}, {"peak": 5, "other": 1})},
            )

    async def test_large_numbers(self) -> None:
        """Numbers beyond 32 bits come back as plain ones, which every encoder takes."""
        await self.meters.add("n1", 1, AT, [Sample("shop", {"bytes_in": 1 << 40}, {"peak": 1 << 33})])

        [found] = await self.meters.series("shop", Span.MONTH, 0, 2 * AT, 10)

        numbers = [found.start, found.counts["bytes_in"], found.peaks["peak"]]
        self.assertEqual(numbers, [Span.MONTH.start(AT), 1 << 40, 1 << 33])
        self.assertEqual({type(number) for number in numbers}, {int})

    async def test_parts_are_apart(self) -> None:
        """What happens a minute, an hour, a day or a month later is not in the same part."""
        later = {Span.MINUTE: MINUTE, Span.HOUR: HOUR, Span.DAY: DAY, Span.MONTH: 30 * DAY}
        await self.add(1, x=1)
        for number, (span, milliseconds) in enumerate(later.items(), 2):
            await self.add(number, AT + milliseconds, x=10 * number)

            self.assertEqual(await self.counts(span, AT + milliseconds), {"x": 10 * number})
        self.assertEqual(await self.counts(Span.MINUTE), {"x": 1})

    async def test_many_at_once(self) -> None:
        """Samples of several apps are added together; tenants never meet, whatever their ids are."""
        ids = ["shop", "a.b", "$x", "o:1", "n\u00e4me"]
        await self.meters.add("n1", 1, AT, [Sample(id, {"x": at}, {}) for at, id in enumerate(ids, 1)])

        found = await self.meters.buckets(ids, Span.DAY, Span.DAY.start(AT))

        self.assertEqual({id: part.counts["x"] for id, part in found.items()}, dict(zip(ids, range(1, 6), strict=True)))
        self.assertEqual(await self.meters.buckets([], Span.DAY, AT), {})
        await self.meters.add("n1", 2, AT, [])

    async def test_repeated_is_added_once(self) -> None:
        """A number that was added for already changes nothing, nor does a smaller one; other nodes have their own."""
        await self.add(7, x=1)
        await self.add(7, x=1)
        await self.add(6, x=1)
        self.assertEqual(await self.counts(), {"x": 1})

        await self.add(8, x=10)
        await self.add(7, x=100, node="n2")
        self.assertEqual(await self.counts(), {"x": 111})

    async def test_nodes_at_the_same_moment(self) -> None:
        """What several nodes add at once is all there, in parts that are new as well."""
        adding = [Deferred.fromCoroutine(self.add(1, node=f"n{node}", x=1)) for node in range(8)]
        await gatherResults(adding, consumeErrors=True)
        for span in Span:
            self.assertEqual(await self.counts(span), {"x": 8})

    async def test_series(self) -> None:
        """The parts come the oldest first, from the beginning on, without the end, at most so many."""
        start = Span.MINUTE.start(AT)
        for number in (3, 1, 2, 5):
            await self.add(10 + number, start + number * MINUTE, x=number, node=f"n{number}")
        await self.add(1, start + 4 * MINUTE, app="other", x=4, node="n9")

        async def found(since: int, until: int, limit: int = 100) -> list[int]:
            parts = await self.meters.series("shop", Span.MINUTE, start + since * MINUTE, start + until * MINUTE, limit)
            for part in parts:
                self.assertEqual(part.start, start + part.counts["x"] * MINUTE)
            return [part.counts["x"] for part in parts]

        self.assertEqual(await found(0, 9), [1, 2, 3, 5])
        self.assertEqual(await found(2, 5), [2, 3])
        self.assertEqual(await found(0, 9, 2), [1, 2])
        self.assertEqual(await found(6, 9), [])

    async def test_reports(self) -> None:
        """A node's last report counts, until it is old or withdrawn."""
        await self.meters.report(NodeReport("n1", 10, {"a.b": 1}))
        await self.meters.report(NodeReport("n1", 20, {"a.b": 2, "$c": 1}))
        await self.meters.report(NodeReport("n2", 30, {}))

        reports = await self.meters.reports(20)

        told = {report.node: (report.at, report.connections) for report in reports}
        self.assertEqual(told, {"n1": (20, {"a.b": 2, "$c": 1}), "n2": (30, {})})
        self.assertEqual([r.node for r in await self.meters.reports(21)], ["n2"])
        await self.meters.withdraw("n2")
        await self.meters.withdraw("n3")
        self.assertEqual(await self.meters.reports(21), [])

    async def test_claims(self) -> None:
        """One caller is the first, for each app, thing and period."""
        claims = [("a", "x", 1), ("a", "x", 1), ("b", "x", 1), ("a", "y", 1), ("a", "x", 2), ("a", "x", 2)]

        self.assertEqual([await self.meters.claim(*claim) for claim in claims], [True, False, True, True, True, False])

    async def test_expiry(self) -> None:
        """Old parts of a span go, some at a time; those of other spans stay."""
        start = Span.MINUTE.start(AT)
        for number in range(5):
            await self.add(number + 1, start + number * MINUTE, x=1, y=1)

        expired = [await self.meters.expire(Span.MINUTE, start + 3 * MINUTE, 2) for _ in range(3)]

        self.assertEqual(expired, [2, 1, 0])
        self.assertEqual(len(await self.meters.series("shop", Span.MINUTE, 0, AT + DAY, 9)), 2)
        self.assertEqual(await self.counts(Span.HOUR), {"x": 5, "y": 5})

    async def test_forgetting(self) -> None:
        """Claims, reports and numbers of long ago are forgotten, later ones are not."""
        await self.meters.report(NodeReport("n1", AT, {}))
        await self.meters.report(NodeReport("n2", AT + DAY, {}))
        await self.meters.claim("a", "x", AT)
        await self.meters.claim("a", "x", AT + 2)
        await self.add(AT + DAY, node="kept", x=1)

        await self.meters.forget(AT + DAY, AT + 1)
        await self.add(AT + DAY, node="kept", x=1)

        self.assertEqual([r.node for r in await self.meters.reports(0)], ["n2"])
        self.assertTrue(await self.meters.claim("a", "x", AT))
        self.assertFalse(await self.meters.claim("a", "x", AT + 2))
        self.assertEqual(await self.counts(), {"x": 1})
