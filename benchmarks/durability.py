"""Crashes a server while clients publish, again and again, and checks that no acknowledged message was lost.

    python -m benchmarks.durability --crashes 100 --messages 100000

It runs the checks of ``tests/e2e/durability.py``, from the root of the repository, with the ``test`` extra installed.
Each campaign has channels of its own on the same data directory; the status is 1 as soon as something does not hold.
"""

from __future__ import annotations

import argparse
import random
import sys

from tests.e2e.durability import Campaign
from tests.e2e.node import Node

_MESSAGES_OF_A_CAMPAIGN = 2_000  # a subscriber is away for less than the recovery window has messages


def main() -> int:
    """Runs the campaigns, with a line of progress for each crash."""
    parser = argparse.ArgumentParser(description="Kills a server while clients publish, and looks for lost messages.")
    parser.add_argument("--crashes", type=int, default=20)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--publishers", type=int, default=4)
    parser.add_argument("--window", type=int, default=50, help="publishes of each without an answer")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    source = random.Random(given.seed)
    campaigns = max(1, given.messages // _MESSAGES_OF_A_CAMPAIGN)
    node = Node(is_dev=False).start()
    try:
        for number in range(campaigns):
            crashes = given.crashes * (number + 1) // campaigns - given.crashes * number // campaigns
            messages = given.messages // campaigns // given.publishers * given.publishers
            campaign = Campaign(
                node, name=f"c{number}", messages=messages, publishers=given.publishers, window=given.window
            )
            print(f"campaign {number + 1} of {campaigns}", flush=True)
            campaign.run(sorted(source.sample(range(1, messages - 1), crashes)), _progress)
    except AssertionError as e:
        print(f"FAILED: {e}", file=sys.stderr)
        return 1
    finally:
        node.stop()
    return 0


def _progress(text: str) -> None:
    print(f"  {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
