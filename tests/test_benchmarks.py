"""Tests for what ``benchmarks/`` makes of its results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.growth import costs, plots, section, write
from benchmarks.paper import Assumptions, Costs, need
from benchmarks.svg import Plot
from tests.base import SynchronousTestCase

_LATENCY = {"p50": 1.0, "p90": 2.0, "p99": 4.0, "p99.9": 8.0, "max": 9.0}


def fanned(workers: int, subscribers: int, each: float) -> dict[str, Any]:
    """A row of the fan-out."""
    return {
        "workers": workers,
        "subscribers": subscribers,
        "deliveries_per_second": 1e6 / each,
        "server_cpu": 1.0,
        "server_cpu_seconds_per_million": each,
        "generator_cpu": 0.5,
    }


def found(**given: Any) -> dict[str, Any]:
    """Results as a campaign has them."""
    default: dict[str, Any] = {
        "machine": {"cores": 2, "system": "Linux x86_64", "python": "3.11"},
        "load": [{"percent": p, "latency_ms": _LATENCY, "server_cpu": 0.1, "generator_cpu": 0.1} for p in (10, 50)],
        "subscribers": [fanned(1, 10, 4.0), fanned(1, 100, 2.0), fanned(2, 10, 3.0), fanned(2, 100, 1.0)],
        "unicast": fanned(1, 100, 50.0),
        "paced": fanned(1, 1_000, 15.0),
        "connections": [{"connections": 1_000, "memory_bytes": 2_000.0, "connects_per_second": 5_000.0}],
        "channels": [{"channels": 1_000, "memory_bytes": 1_500.0}],
        "nodes": {
            "publishes": [{"nodes": n, "redis_us": us} for n, us in ((1, 30.0), (2, 33.0), (21, 90.0))],
            "message_bytes": 400.0,
        },
    }
    return {**default, **given}


class PlotTests(SynchronousTestCase):
    def plot(self, is_log: bool) -> Plot:
        """Two lines."""
        plot = Plot("A & B", "<x>", "y", x_log=is_log, y_log=is_log)
        plot.add("one", [(100, 5), (10, 2)])
        plot.add("two", [(10, 1), (1_000, 40)])
        plot.add("none", [])
        return plot

    def test_is_svg(self) -> None:
        """It is well-formed, has each line that has points, and names what it shows."""
        for is_log in (False, True):
            root = ElementTree.fromstring(self.plot(is_log).svg())
            texts = [element.text for element in root.iter() if element.tag.endswith("text")]

            self.assertEqual(sum(element.tag.endswith("polyline") for element in root.iter()), 2)
            for text in ("A & B", "<x>", "y", "one", "two"):
                self.assertIn(text, texts)

    def test_stays_inside(self) -> None:
        """All points are within the picture."""
        root = ElementTree.fromstring(self.plot(True).svg())
        for circle in (element for element in root.iter() if element.tag.endswith("circle")):
            self.assertTrue(0 < float(circle.attrib["cx"]) < 680 and 0 < float(circle.attrib["cy"]) < 360)

    def test_one_point(self) -> None:
        """A single point is drawn too."""
        plot = Plot("t", "x", "y", x_log=True)
        plot.add("one", [(1_000, 2_000)])

        ElementTree.fromstring(plot.svg())


class PaperTests(SynchronousTestCase):
    costs = Costs(
        connection_bytes=2_000,
        channel_bytes=1_000,
        delivery_us=1,
        message_us=50,
        redis_publish_us=30,
        redis_node_us=3,
        redis_message_bytes=400,
    )

    def test_memory(self) -> None:
        """Enough nodes that all connections fit into the part of their memory that may be used."""
        given = Assumptions(node_bytes=1e9, memory=0.5, kernel_bytes=6_000, channels_per_connection=2)

        self.assertEqual(need(1_000_000, self.costs, given).nodes_for_memory, 20)

    def test_cpu(self) -> None:
        """Enough nodes for the deliveries and for the messages that each of them hears of."""
        given = Assumptions(deliveries_per_connection=1, audience=20, cpu=0.5, node_bytes=1e15)
        wanted = need(1_000_000, self.costs, given)

        # 50,000 publishes, each heard of by the 20 nodes of its subscribers, take 50 cores, half of which may be used.
        self.assertEqual((wanted.deliveries_per_second, wanted.publishes_per_second), (1e6, 5e4))
        self.assertEqual(wanted.nodes_for_cpu, 100)
        self.assertEqual(wanted.nodes, wanted.nodes_for_cpu)

    def test_redis(self) -> None:
        """Enough shards for the publishes with what each node adds, and for what is kept."""
        given = Assumptions(deliveries_per_connection=1, audience=10, cpu=0.5, kept_seconds=100, shard_bytes=1e9)
        wanted = need(1_000_000, self.costs, given)

        self.assertEqual(wanted.shards_for_cpu, 12)
        self.assertEqual(wanted.redis_bytes, 4e9)
        self.assertEqual(wanted.shards_for_memory, 6)
        self.assertEqual(wanted.shards, 12)

    def test_grows(self) -> None:
        """More connections never need less."""
        few, many = need(1_000_000, self.costs), need(50_000_000, self.costs)

        self.assertGreater(many.nodes, few.nodes)
        self.assertGreaterEqual(many.shards, few.shards)


class GrowthTests(SynchronousTestCase):
    def test_costs(self) -> None:
        """The costs are those of the largest measurements; what each node adds to Redis is apart."""
        measured = costs(found())
        assert measured is not None

        self.assertEqual((measured.delivery_us, measured.message_us), (15.0, 50.0))
        self.assertEqual((measured.redis_publish_us, measured.redis_node_us), (27.0, 3.0))

    def test_without_redis(self) -> None:
        """Without Redis there are no costs of it, so nothing is planned; the rest is told."""
        without = found(nodes=None, subscribers=[fanned(1, 10, 4.0)])

        self.assertIsNone(costs(without))
        self.assertNotIn("on paper", section(without))
        self.assertIn("| 10 | 1 | 1.00 | 1.00 | 50% |", section(without))

    def test_ratios(self) -> None:
        """Rates and times are told relative to others, never as such."""
        text = section(found())

        self.assertIn("| 100 | 2 | 4.00 | 0.25 | 50% |", text)
        self.assertIn("| 10 % | 1.0 | 2.0 | 4.0 | 8.0 |", text)
        self.assertIn("| 2 | 1.10 |", text)
        self.assertNotIn("1,000,000 a second", text)

    def test_plots_of_the_section(self) -> None:
        """Each plot is shown, and each that is shown is there."""
        for name in plots(found()):
            self.assertIn(f"](plots/{name}.svg)", section(found()))

    def test_write(self) -> None:
        """The results, the plots and the part of the page between its marks are written; the rest of the page stays."""
        directory, readme = Path(self.mktemp()), Path(self.mktemp())
        readme.write_text("before\n<!-- growth: begin -->\nold\n<!-- growth: end -->\nafter\n")
        write(found(), directory, readme)
        text = readme.read_text()
        write(found(), directory, readme)

        self.assertEqual(readme.read_text(), text)
        self.assertTrue(text.startswith("before\n") and text.endswith("\nafter\n"))
        self.assertNotIn("old", text)
        self.assertEqual(json.loads((directory / "growth.json").read_text())["costs"]["delivery_us"], 15.0)
        self.assertEqual(len(list(directory.glob("*.svg"))), 5)

    def test_readme(self) -> None:
        """``benchmarks/README.md`` has the marks, once."""
        text = (Path(__file__).parent.parent / "benchmarks" / "README.md").read_text("utf-8")

        self.assertEqual((text.count("<!-- growth: begin -->"), text.count("<!-- growth: end -->")), (1, 1))
