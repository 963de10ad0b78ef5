"""Tests of wsock.measures."""

from __future__ import annotations

from tests.base import SynchronousTestCase
from wsock.measures import MANY, SECONDS, SIZES, Histogram, Peak, merged


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
