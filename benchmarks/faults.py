"""Breaks a cluster again and again while clients publish and resume, and looks for what was lost, doubled or moved.

    python -m benchmarks.faults --seconds 60 --seed 7

It runs the campaign of ``tests/cluster/faults.py``, from the root of the repository, with the ``test`` extra installed:
two nodes, a Redis with ``appendfsync always`` and a MongoDB, all of its own. The status is 1 when something does not
hold.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from tests.cluster.faults import FAULTS, Campaign, Load, Summary
from tests.cluster.parts import Cluster

_WIDTH = 40


class _Bar:
    """A line that shows how far the campaign is; what breaks stays above it."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._is_terminal = sys.stdout.isatty()

    def tell(self, elapsed: float, text: str) -> None:
        """Draws the line anew; ``text`` is a fault."""
        if text:
            print(f"\r{elapsed:6.1f} s  {text:<{_WIDTH + 20}}", flush=True)
        if self._is_terminal:
            part = min(1.0, elapsed / self._seconds)
            state = f"{elapsed:.0f} of {self._seconds:.0f} s" if part < 1 else "waiting until it is quiet"
            print(f"\r[{'#' * round(part * _WIDTH):<{_WIDTH}}] {state:<28}", end="", flush=True)


def main() -> int:
    """Runs one campaign and prints what came of it."""
    load = _load()
    bar = _Bar(load.seconds)
    cluster = Cluster()
    try:
        summary = Campaign(cluster, load, bar.tell).run()
    finally:
        cluster.close()
    _show(summary)
    return 1 if summary.problems else 0


def _load() -> Load:
    parser = argparse.ArgumentParser(description="Breaks a cluster under load, and looks for lost messages.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--every", type=float, default=5, help="seconds between faults")
    parser.add_argument("--publishers", type=int, default=4)
    parser.add_argument("--subscribers", type=int, default=200)
    parser.add_argument("--channels", type=int, default=20)
    parser.add_argument("--burst", type=int, default=25, help="messages that a publisher sends at once")
    parser.add_argument("--faults", default=",".join(FAULTS), help="which, separated by commas: %(default)s")
    parser.add_argument("--seed", type=int, default=1)
    given = vars(parser.parse_args())
    return Load(**{**given, "faults": tuple(given["faults"].split(","))})


def _show(summary: Summary) -> None:
    faults = ", ".join(f"{count} {name}" for name, count in sorted(Counter(summary.faults).items()))
    rows = {
        "faults": faults,
        "messages acknowledged": summary.published,
        "deliveries": summary.heard,
        "connections lost and made again": summary.reconnects,
        "resumes": summary.resumes,
        "publishes answered with an error": summary.errors or 0,
        "lost from history": summary.lost_from_history,
        "lost for subscribers": summary.lost_for_subscribers,
        "told that something is lost": summary.recovery_failed,
        "repeated, where the protocol allows it": summary.repeated,
        "everything delivered after the end of the load": f"{summary.quiet_after:.1f} s",
        "broken promises": len(summary.problems),
    }
    print()
    for name, value in rows.items():
        print(f"{name:<48} {value}")
    for problem in summary.problems[:20]:
        print(f"FAILED: {problem}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
