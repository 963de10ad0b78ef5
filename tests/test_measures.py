"""Tests of wsock.measures."""

from __future__ import annotations

from tests.base import SynchronousTestCase
from wsock.measures import MANY, SECONDS, SIZES, Histogram, Peak, Span, merged, percentile


class HistogramTests(SynchronousTestCase):
    def test_observed(self) -> None:
        """A value counts for the first bound that it does not exceed, or as one above all of them."""
        histogram = Histogram([1, 10])

        for value in (0, 1, 1.5, 10, 11):
            histogram.observe(value)

        self.assertEqual(histogram.counts, [2, 2, 1])
        self.assertEqual((len(histogram), histogram.total), (5, 23.5))

    def test_bounds(self) -> None:
        """The bounds that others use ascend."""
        for bounds in (MANY, SECONDS, SIZES):
            self.assertEqual(list(bounds), sorted(set(bounds)))

    def test_merged(self) -> None:
        """Several as one have the values of all; none of them has none, and they stay as they are."""
        one, other = Histogram([1]), Histogram([1])
        one.observe(1)
        other.observe(0.5)
        other.observe(2)

        whole = merged([1], [one, other])

        self.assertEqual((whole.counts, whole.total), ([2, 1], 3.5))
        self.assertEqual((one.counts, len(merged([1], []))), ([1, 0], 0))


class PeakTests(SynchronousTestCase):
    def test_largest(self) -> None:
        """The largest value of the window, also when smaller ones follow; nothing is nothing."""
        peak = Peak(60.0)
        self.assertEqual(peak.at(0.0), 0.0)

        for now, value in ((1.0, 2.0), (2.0, 5.0), (3.0, 1.0)):
            peak.observe(value, now)

        self.assertEqual(peak.at(4.0), 5.0)

    def test_window(self) -> None:
        """A value is forgotten when its time is over, and what came after it is then the largest."""
        peak = Peak(60.0)
        for now, value in ((0.0, 5.0), (10.0, 3.0), (20.0, 1.0)):
            peak.observe(value, now)

        self.assertEqual([peak.at(now) for now in (59.0, 60.0, 70.0, 80.0)], [5.0, 3.0, 1.0, 0.0])

    def test_reading_changes_nothing(self) -> None:
        """Who reads takes nothing from others who do."""
        peak = Peak(60.0)
        peak.observe(1.0, 0.0)

        self.assertEqual([peak.at(1.0), peak.at(1.0)], [1.0, 1.0])


class PercentileTests(SynchronousTestCase):
    def test_between_bounds(self) -> None:
        """Between two bounds the values are taken to be spread evenly."""
        bounds = (1.0, 2.0, 4.0)

        self.assertEqual(percentile(bounds, [0, 10, 0, 0], 0.5), 1.5)
        self.assertEqual(percentile(bounds, [10, 0, 10, 0], 0.25), 0.5)
        self.assertEqual(percentile(bounds, [10, 0, 10, 0], 0.75), 3.0)
        self.assertEqual(percentile(bounds, [10, 0, 10, 0], 0.5), 1.0)

    def test_above_all(self) -> None:
        """Of what is above all bounds no more is known than that."""
        self.assertEqual(percentile((1.0, 2.0), [1, 0, 99], 0.5), 2.0)

    def test_nothing(self) -> None:
        """Of nothing there is none."""
        self.assertIsNone(percentile((1.0, 2.0), [0, 0, 0], 0.5))

    def test_ascending(self) -> None:
        """A larger share is never a smaller value."""
        counts = [3, 0, 7, 1, 0, 50, 2, 0, 0, 1, 0, 0, 4, 0, 2]
        found = [percentile(SECONDS, counts, share / 100) or 0.0 for share in range(1, 101)]

        self.assertEqual(found, sorted(found))


class SpanTests(SynchronousTestCase):
    def test_parts(self) -> None:
        """Every moment is in one part: it begins at or before the moment, and the next one begins where it ends."""
        for at in (0, 1, 1_582_934_400_000, 1_583_020_799_999, 1_793_500_000_000, 1_798_761_599_999, 4_102_444_800_000):
            for span in Span:
                start, end = span.start(at), span.end(at)
                self.assertTrue(start <= at < end, (span, at))
                self.assertEqual((span.start(start), span.start(end - 1), span.start(end)), (start, start, end))

    def test_months(self) -> None:
        """Months are as long as the calendar says, by UTC."""
        december, leap_year = 1_798_761_599_999, 1_582_934_400_000

        self.assertEqual(Span.MONTH.end(december), 1_798_761_600_000)  # 1 January 2027
        self.assertEqual(Span.MONTH.end(leap_year) - Span.MONTH.start(leap_year), 29 * 86_400_000)

    def test_many_at_once(self) -> None:
        """A value may be counted in for several."""
        histogram = Histogram([1, 10])
        histogram.observe_many(5, 3)

        self.assertEqual((histogram.counts, histogram.total), ([0, 3, 0], 15))
