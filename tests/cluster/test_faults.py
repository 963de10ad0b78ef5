"""A cluster loses nothing, whatever of it breaks in the middle of a burst."""

from __future__ import annotations

from tests.base import SynchronousTestCase
from tests.cluster.faults import Campaign, Load
from tests.cluster.parts import Cluster


class FaultTests(SynchronousTestCase):
    def test_every_fault(self) -> None:
        """0 lost, 0 out of order, nothing twice but where a resume by timestamp may: the benchmark in short."""
        cluster = Cluster()
        self.addCleanup(cluster.close)
        load = Load(
            seconds=13,
            every=2.6,
            publishers=2,
            subscribers=40,
            channels=8,
            redis_seconds=2.5,
            mongo_seconds=4,
        )

        summary = Campaign(cluster, load).run()

        self.assertEqual(summary.problems, [], summary)
        self.assertEqual(len(summary.faults), 5, summary)
        self.assertGreater(summary.resumes, 0, summary)
        self.assertGreater(summary.published, 100, summary)
