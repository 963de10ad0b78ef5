"""What was acknowledged outlives a crash."""

from __future__ import annotations

from tests.e2e.cases import ProgramTestCase
from tests.e2e.durability import Campaign, history


class CrashTests(ProgramTestCase):
    def test_kill_while_publishing(self) -> None:
        """2,000 messages through two crashes: each in history once, in order; retries and resumes are exact."""
        node = self.node(is_dev=False).start()
        campaign = Campaign(node, messages=2_000)

        campaign.run([600, 1_300])

        self.assertEqual(campaign.accepted, 2_000)

    def test_torn_write(self) -> None:
        """A publisher that vanishes right behind its publish loses none that another client was shown."""
        node = self.node(is_dev=False).start()
        watcher = self.connected(node)
        watcher.subscribe("c")
        for number in range(3):
            wire = self.connected(node)
            wire.say(action="publish", channel="c", data=number, id=f"v{number}")
            shown = watcher.hear("message")
            node.kill()
            node.start()
            entries = history(self.connected(node), "c")
            self.assertEqual((entries[-1]["id"], entries[-1]["timestamp"]), (shown["id"], shown["timestamp"]))
            watcher = self.connected(node)
            watcher.subscribe("c")
