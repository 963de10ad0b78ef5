"""Tests for :mod:`wsock.bench.report` and :mod:`wsock.bench.results`."""

from __future__ import annotations

from typing import Any

import msgspec

from tests.base import SynchronousTestCase
from wsock.bench.report import table
from wsock.bench.results import ConnectionsResult, Report, StreamResult
from wsock.bench.tally import Faults

_PERCENTILES = {"p50": 1.0, "p90": 2.0, "p99": 3.0, "p99.9": 4.0, "max": 5.0}


def streamed(**given: Any) -> StreamResult:
    """A result without faults, with what is given in the place of its parts."""
    default: dict[str, Any] = {
        "scenario": "fanout",
        "subscribers": 200,
        "channels": 1,
        "publishers": 2,
        "size": 100,
        "window": 64,
        "rate": None,
        "seconds": 5.0,
        "published": 1_000,
        "accepted": 1_000,
        "unanswered": 0,
        "refused": {},
        "deliveries": 200_000,
        "faults": Faults(),
        "errors": {},
        "publishes_per_second": 200.0,
        "deliveries_per_second": 40_000.0,
        "latency_ms": {},
        "generator_cpu": 0.5,
        "generator_late_ms": 0.0,
        "server_cpu": None,
        "server_cpu_seconds_per_million": None,
    }
    return StreamResult(**{**default, **given})


def connected(**given: Any) -> ConnectionsResult:
    """A thousand connections, with what is given in the place of its parts."""
    default: dict[str, Any] = {
        "connections": 1_000,
        "connects_per_second": 2_000.0,
        "handshake_ms": _PERCENTILES,
        "errors": {},
        "generator_cpu": 0.5,
        "server_cpu": None,
        "memory_bytes": None,
        "memory_why": "nobody knows",
    }
    return ConnectionsResult(**{**default, **given})


def report(*results: StreamResult | ConnectionsResult, **given: Any) -> Report:
    """A run with these results."""
    return Report(version="1", url="ws://h:1", processes=1, results=list(results), **given)


class TableTests(SynchronousTestCase):
    def test_clean(self) -> None:
        """A run without faults says what was measured, and that nothing went wrong."""
        text = table(report(streamed(), connected()))

        for line in (
            "fanout          200 subscribers of 1 channel, 2 publishers of 100 bytes, 64 of each without an answer,",
            "  deliveries    40,000 a second\n",
            "  faults        0 lost, 0 duplicated, 0 out of order, 0 of other channels\n",
            "  connects      2,000 a second\n",
            "  handshake     p50 1.00 ms  p90 2.00 ms  p99 3.00 ms  p99.9 4.00 ms  max 5.00 ms\n",
            "  memory        unknown: nobody knows\n",
            "\nnothing was lost, duplicated, reordered or refused\n",
        ):
            self.assertIn(line, text)
        self.assertNotIn("warning", text)
        self.assertNotIn("latency", text)

    def test_faults(self) -> None:
        """Faults are told by kind, errors by how often."""
        errors = {f"reason {n}": n for n in range(1, 8)}
        text = table(report(streamed(faults=Faults(1, 2, 3, 4), refused={"rate_limited": 5}, errors=errors)))

        self.assertIn("1 lost, 2 duplicated, 3 out of order, 4 of other channels", text)
        self.assertIn("5 refused (rate_limited)", text)
        self.assertIn("reason 7 (7 times)", text)
        self.assertIn("and 2 more kinds", text)
        self.assertTrue(text.endswith("FAILED: see faults and errors\n"))

    def test_usage(self) -> None:
        """What the server used is told where it is known."""
        text = table(
            report(
                streamed(rate=200.0, latency_ms=_PERCENTILES, server_cpu=0.8, server_cpu_seconds_per_million=0.5),
                connected(memory_bytes=2_000.4, server_cpu=0.1),
            )
        )

        self.assertIn("200 a second, 5.0 s", text)
        self.assertIn("  latency       p50 1.00 ms", text)
        self.assertIn("80% of one core, 0.50 s for a million deliveries", text)
        self.assertIn("2,000 bytes of the server's for each connection", text)

    def test_limits_of_the_generator(self) -> None:
        """A generator that was busy or late itself says so."""
        text = table(report(streamed(generator_cpu=0.95, generator_late_ms=30.0), connected(generator_cpu=1.0)))

        self.assertIn("warning: fanout: the load generator used 95% of its core", text)
        self.assertIn("warning: fanout: the load generator was up to 30 ms late", text)
        self.assertIn("warning: connections: the load generator used 100% of its core", text)

    def test_window_was_the_limit(self) -> None:
        """Where neither side was busy, the window was what was measured."""
        told = "warning: fanout: neither the server nor the load generator was busy"

        self.assertIn(told, table(report(streamed(server_cpu=0.5))))
        for busy in (streamed(server_cpu=0.95), streamed(), streamed(server_cpu=0.5, window=None, rate=10.0)):
            self.assertNotIn(told, table(report(busy)))

    def test_scenario_failed(self) -> None:
        """What could not be measured is told below what was."""
        text = table(report(streamed(), failure="unicast: it can't be reached"))

        self.assertTrue(text.endswith("\nFAILED: unicast: it can't be reached\n"))

    def test_interrupted(self) -> None:
        """An interrupted run says so, whether it had measured something or not."""
        self.assertIn("interrupted; so far: nothing was lost", table(report(streamed(), interrupted=True)))
        self.assertEqual(table(report(interrupted=True)), "interrupted before anything was measured\n")


class ReportTests(SynchronousTestCase):
    def test_is_clean(self) -> None:
        """Any fault of any scenario counts."""
        self.assertTrue(report(streamed(), connected()).is_clean)
        self.assertFalse(report(streamed(), failure="x").is_clean)
        for fault in (
            streamed(faults=Faults(lost=1)),
            streamed(refused={"forbidden": 1}),
            streamed(unanswered=1),
            streamed(errors={"x": 1}),
            connected(errors={"x": 1}),
        ):
            self.assertFalse(report(streamed(), fault).is_clean)

    def test_json(self) -> None:
        """The file has all of it, by names."""
        shown = msgspec.json.decode(msgspec.json.encode(report(streamed(), connected())))

        self.assertEqual([one["scenario"] for one in shown["results"]], ["fanout", "connections"])
        self.assertEqual(shown["results"][0]["faults"], {"lost": 0, "duplicates": 0, "reordered": 0, "strays": 0})
