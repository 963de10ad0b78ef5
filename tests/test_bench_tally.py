"""Tests for :mod:`wsock.bench.tally`."""

from __future__ import annotations

from tests.base import SynchronousTestCase
from wsock.bench.tally import Faults, Latencies, Sent, Stream


def heard(*numbers: int) -> Stream:
    """A stream in which these came, one by one."""
    stream = Stream()
    for number in numbers:
        stream.heard(number, 1)
    return stream


class StreamTests(SynchronousTestCase):
    def test_all_in_order(self) -> None:
        """What came as it was sent has no faults, in however many pieces it came."""
        stream = Stream()
        stream.heard(0, 3)
        stream.heard(3, 1)

        self.assertEqual(stream.faults(Sent(4)), Faults())
        self.assertFalse(stream.faults(Sent(4)))

    def test_lost(self) -> None:
        """A gap is a loss, and so is an end that is missing."""
        self.assertEqual(heard(0, 1, 4).faults(Sent(5)), Faults(lost=2))
        self.assertEqual(heard(0, 1).faults(Sent(5)), Faults(lost=3))
        self.assertEqual(Stream().faults(Sent(2)), Faults(lost=2))

    def test_never_accepted(self) -> None:
        """What the server did not accept is not lost, in the middle and at the end."""
        sent = Sent(6, frozenset({2, 3, 5}))

        self.assertEqual(heard(0, 1, 4).faults(sent), Faults())
        self.assertEqual(heard(0, 1).faults(sent), Faults(lost=1))
        self.assertEqual(sent.accepted, 3)

    def test_duplicates(self) -> None:
        """What comes again is a duplicate each time, wherever it comes."""
        self.assertEqual(heard(0, 0, 1, 2, 1, 1).faults(Sent(3)), Faults(duplicates=3))

    def test_out_of_order(self) -> None:
        """What comes after a later one is out of order, and not lost; a second time it is a duplicate."""
        self.assertEqual(heard(0, 2, 1, 3).faults(Sent(4)), Faults(reordered=1))
        self.assertEqual(heard(2, 0, 1, 1).faults(Sent(3)), Faults(reordered=2, duplicates=1))

    def test_run_over_a_gap(self) -> None:
        """A run that begins elsewhere is counted number by number."""
        stream = Stream()
        stream.heard(0, 2)
        stream.heard(1, 3)
        stream.heard(6, 2)

        self.assertEqual(stream.faults(Sent(8)), Faults(duplicates=1, lost=2))

    def test_sum(self) -> None:
        """Faults of several are added up."""
        total = Faults(1, 2, 3, 4)
        total.add(Faults(10, 20, 30, 40))

        self.assertEqual(total, Faults(11, 22, 33, 44))
        self.assertTrue(total)


class LatenciesTests(SynchronousTestCase):
    def test_percentiles(self) -> None:
        """Each is the least value that so many percent do not exceed, in milliseconds."""
        latencies = Latencies()
        latencies.add(1_000_000, [1_000_000 - 1_000 * n for n in range(1, 1_001)])

        self.assertEqual(latencies.percentiles(), {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0})

    def test_few(self) -> None:
        """One value is all of them; of none there is nothing to tell."""
        latencies = Latencies()
        self.assertEqual(latencies.percentiles(), {})
        latencies.add(5_000_000, [0])

        self.assertEqual(set(latencies.percentiles().values()), {5.0})

    def test_never_too_small(self) -> None:
        """Three digits are kept, and the fourth is rounded up."""
        latencies = Latencies()
        latencies.add(12_341_000, [0])

        self.assertEqual(latencies.percentiles()["max"], 12.4)
