"""Tests of wsock.services.replay."""

from __future__ import annotations

from typing import Any

from msgspec import Raw
from twisted.internet.defer import CancelledError, Deferred

from tests.base import SynchronousTestCase
from tests.nodes import Node
from tests.outlets import RecordingOutlet
from wsock.errors import Unavailable
from wsock.protocol.messages import Message
from wsock.protocol.position import Position
from wsock.services.replay import Cursor, Replay

CHUNK = 1 << 16


class ReplayTestCase(SynchronousTestCase):
    """A node, and the replay of one outlet. ``end`` counts how often the replay ended."""

    is_late = False

    def setUp(self) -> None:
        self.make_node()
        self.outlet = RecordingOutlet()
        self.ends = 0
        self.replay = self.make_replay()

    def make_node(self, **options: Any) -> None:
        self.node = Node(is_late=self.is_late, **options)

    def make_replay(self) -> Replay:
        node = self.node
        return Replay(node.hub, node.broker, node.turn, node.clock, self.outlet, self.end)

    def end(self) -> None:
        self.ends += 1

    def publish(self, *channels: str, size: int = 2) -> None:
        for channel in channels:
            self.successResultOf(self.node.publish(channel, data=b"1" * size))

    def add(self, channel: str, sequence: int = 0, unsent: tuple[Message, ...] = ()) -> None:
        topic = self.node.open(channel)
        self.replay.add(Cursor(topic, Position(topic.epoch, sequence), unsent))

    def run_replay(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.replay.run())

    def finish(self, running: Deferred[None], turns: int = 500) -> None:
        self.pump(turns)
        self.successResultOf(running)
        self.node.end_turn()
        self.assertEqual(self.ends, 1)

    def pump(self, turns: int = 50) -> None:
        """A broker that is late answers once in each."""
        self.node.clock.pump([0.001] * turns)

    def assert_rising(self) -> None:
        timestamps = [event["timestamp"] for event in self.outlet.events if event["action"] == "message"]
        self.assertEqual(timestamps, sorted(timestamps))


class ReplayTests(ReplayTestCase):
    """What a replay sends, in which order."""

    def test_merged_in_timestamp_order(self) -> None:
        """Messages of several channels come in the order of their timestamps."""
        published = [f"{'ABC'[n * n % 3]}" for n in range(50)] + [f"{'ABC'[n % 3]}" for n in range(50)]
        for channel in "ABC":
            self.add(channel)
        self.publish(*published)

        self.finish(self.run_replay())

        self.assertEqual([told.split()[0] for told in self.outlet.seen], published)
        self.assert_rising()

    def test_from_the_position_exactly(self) -> None:
        """Each channel begins behind its own position."""
        self.add("A")
        self.add("B")
        self.publish("A", "B", "A", "B")
        self.add("A", 1)
        self.add("B", 2)

        self.finish(self.run_replay())

        self.assertEqual(self.outlet.seen, ["A 2"])

    def test_nothing_missed(self) -> None:
        """A channel that is at its live position goes live at once."""
        self.add("A")

        self.successResultOf(self.run_replay())

        self.publish("A")
        self.node.end_turn()
        self.assertEqual((self.outlet.seen, self.ends), (["A 1"], 1))

    def test_nothing_to_replay(self) -> None:
        """A replay of no channel ends at once."""
        self.finish(self.run_replay(), 0)

        self.assertEqual(self.outlet.writes, [])

    def test_pages_of_a_hundred(self) -> None:
        """A thousand messages are read a hundred at a time, and sent once each."""
        self.add("A")
        self.publish(*["A"] * 1000)

        self.finish(self.run_replay())

        self.assertEqual(self.outlet.seen, [f"A {n}" for n in range(1, 1001)])
        self.assertEqual(self.node.broker.reads, [100] * 10)

    def test_long_channels_are_merged_across_pages(self) -> None:
        """Where a page of one channel ends, the other one waits for its next."""
        self.add("A")
        self.add("B")
        published = ["A"] * 150 + ["B"] * 150 + ["A", "B"] * 100
        self.publish(*published)

        self.finish(self.run_replay())

        self.assertEqual([told.split()[0] for told in self.outlet.seen], published)

    def test_unsent_messages_go_first(self) -> None:
        """What was handed over with the cursor is sent in its place, by timestamp."""
        old = Message("A", "old", Raw(b"1"), 1, "alice", 9, "before")
        self.add("B")
        self.publish("B")
        self.add("A", 0, (old,))
        self.publish("A")

        self.finish(self.run_replay())

        self.assertEqual(self.outlet.seen, ["A 9", "B 1", "A 1"])

    def test_live_after_the_switch(self) -> None:
        """After the switch messages are delivered live, once each."""
        self.add("A")
        self.publish("A")
        running = self.run_replay()
        self.publish("A")
        self.finish(running)

        self.publish("A")
        self.node.end_turn()

        self.assertEqual(self.outlet.seen, ["A 1", "A 2", "A 3"])

    def test_message_in_the_turn_of_the_switch(self) -> None:
        """A message whose delivery to others waits for the end of the turn is not sent twice."""
        other = RecordingOutlet()
        self.node.subscribe(other, "A")
        self.add("A")
        self.publish("A", "A")

        running = self.run_replay()
        self.publish("A")

        self.finish(running)
        self.assertEqual((self.outlet.seen, other.seen), (["A 1", "A 2", "A 3"],) * 2)

    def test_store_fails(self) -> None:
        """When the broker can't read, the replay fails, and no channel is live."""
        self.add("A")
        self.publish("A")
        self.node.broker.trouble = Unavailable("the disk is gone")

        self.failureResultOf(self.run_replay(), Unavailable)

        self.assertEqual((self.ends, self.node.hub.subscribers("app", "A")), (0, 0))


class PaceTests(ReplayTestCase):
    """A replay goes as fast as the client reads."""

    def setUp(self) -> None:
        super().setUp()
        self.outlet.is_paused = True

    def test_paused_outlet(self) -> None:
        """While the outlet is paused nothing more is read or written than a chunk; the live messages wait."""
        self.add("A")
        self.publish(*["A"] * 200, size=1000)
        running = self.run_replay()
        self.pump()
        written, reads = self.outlet.bytes_written, len(self.node.broker.reads)
        self.assertLess(written, CHUNK + 2000)
        self.assertNoResult(running)

        self.publish(*["A"] * 10)
        self.pump()
        self.assertEqual((self.outlet.bytes_written, len(self.node.broker.reads)), (written, reads))
        self.outlet.resume()

        self.finish(running)
        self.assertEqual(self.outlet.seen, [f"A {n}" for n in range(1, 211)])

    def test_small_messages_are_paced(self) -> None:
        """Pages that are smaller than a chunk don't escape the pace."""
        self.add("A")
        self.publish(*["A"] * 1000, size=200)

        self.run_replay()
        self.pump()

        self.assertLess(self.outlet.bytes_written, CHUNK + 2000)

    def test_many_channels_are_paced(self) -> None:
        """Many channels with few messages each don't escape it either."""
        channels = [f"room-{n}" for n in range(300)]
        for channel in channels:
            self.add(channel)
        self.publish(*channels * 3, size=400)

        running = self.run_replay()
        self.pump()
        self.assertLess(self.outlet.bytes_written, CHUNK + 2000)
        self.outlet.resume()

        self.finish(running)
        self.assertEqual(len(self.outlet.seen), 900)
        self.assert_rising()

    def test_other_work_between_chunks(self) -> None:
        """Even to a client that reads at once, a chunk at a time is written."""
        self.outlet.is_paused = False
        self.add("A")
        self.publish(*["A"] * 1000, size=1000)

        running = self.run_replay()

        self.assertLess(self.outlet.bytes_written, CHUNK + 2000)
        self.finish(running)
        self.assertLess(max(map(len, self.outlet.writes)), CHUNK + 2000)
        self.assertEqual(len(self.outlet.seen), 1000)

    def test_cancelled_while_paused(self) -> None:
        """A replay whose connection is lost is cancelled: it sends no more, and nothing goes live."""
        self.add("A")
        self.publish(*["A"] * 200, size=1000)
        running = self.run_replay()
        self.node.end_turn()

        running.cancel()

        self.failureResultOf(running, CancelledError)
        self.outlet.resume()
        self.node.end_turn()
        self.assertEqual((self.node.hub.subscribers("app", "A"), self.node.clock.getDelayedCalls()), (0, []))


class SwitchTests(ReplayTestCase):
    """Messages that come during a replay arrive once, in order; a chunk is 60 messages of 1000 bytes."""

    def test_published_before_between_and_at_the_switch(self) -> None:
        """Before the start, between pages while paused, and in the turn of the switch."""
        self.outlet.is_paused = True
        self.add("A")
        self.add("B")
        self.publish(*["A", "B"] * 50, size=1000)
        running = self.run_replay()
        self.pump(5)
        self.publish(*["B", "A", "A"] * 20, size=1000)
        self.outlet.resume()
        for _ in range(20):
            self.publish("A", "B")
            self.pump(1)
        self.pump(10)
        self.publish("A", "B")

        self.finish(running)

        for channel in "AB":
            sequences = [int(told.split()[1]) for told in self.outlet.seen if told[0] == channel]
            self.assertEqual(sequences, list(range(1, self.node.open(channel).sequence + 1)))
        self.assert_rising()

    def test_all_channels_switch_at_once(self) -> None:
        """No channel is live while another one still has something to send."""
        self.outlet.is_paused = True
        self.add("A")
        self.add("B")
        self.publish(*["A"] * 200, size=1000)
        running = self.run_replay()
        self.pump(5)

        self.publish("B")

        self.assertEqual([self.node.hub.subscribers("app", channel) for channel in "AB"], [0, 0])
        self.outlet.resume()
        self.finish(running)
        self.assertEqual([self.node.hub.subscribers("app", channel) for channel in "AB"], [1, 1])
        self.assertEqual(self.outlet.seen[-1], "B 1")

    def test_channel_dropped_midway(self) -> None:
        """A channel that is dropped is sent no more and does not go live; the others go on."""
        self.outlet.is_paused = True
        self.add("A")
        self.add("B")
        self.publish(*["A", "B"] * 100, size=1000)
        running = self.run_replay()
        self.pump(5)
        seen = len(self.outlet.seen)

        self.replay.drop("A")
        self.replay.drop("unknown")

        self.outlet.resume()
        self.finish(running)
        self.assertNotIn("A", {told.split()[0] for told in self.outlet.seen[seen:]})
        self.assertEqual(self.outlet.seen[-1], "B 100")
        self.assertEqual([self.node.hub.subscribers("app", channel) for channel in "AB"], [0, 1])

    def test_all_dropped_midway(self) -> None:
        """When every channel is dropped the replay ends."""
        self.outlet.is_paused = True
        self.add("A")
        self.publish(*["A"] * 200, size=1000)
        running = self.run_replay()
        self.pump(5)

        self.replay.drop("A")
        self.outlet.resume()

        self.finish(running)
        self.assertEqual(self.node.hub.subscribers("app", "A"), 0)

    def test_channel_added_midway(self) -> None:
        """A channel that is subscribed during a replay joins it: timestamps never go back."""
        self.outlet.is_paused = True
        self.add("A")
        self.publish(*["A"] * 200, size=1000)
        running = self.run_replay()
        self.pump(5)

        self.publish("B")
        self.add("B", 1)
        self.publish("B", "A", "B")
        self.outlet.resume()

        self.finish(running)
        self.assertEqual(self.outlet.seen[-3:], ["B 2", "A 201", "B 3"])
        self.assert_rising()

    def test_gone_midway(self) -> None:
        """When what is next is no longer kept, the client is told so, and where the channel goes on, live."""
        self.make_node(recovery_messages=150)
        self.replay = self.make_replay()
        self.outlet.is_paused = True
        self.add("A")
        self.add("B")
        self.publish(*["A"] * 150, size=1000)
        running = self.run_replay()
        self.pump(5)
        self.publish("B", *["A"] * 140)
        self.outlet.resume()

        self.finish(running)

        sent = [f"A {n}" for n in range(1, 101)]
        self.assertEqual(self.outlet.seen, [*sent, "recovery_failed A", "subscribed A", "B 1"])
        self.assertEqual(self.outlet.events[-2]["sequence"], 290)
        self.publish("A")
        self.node.end_turn()
        self.assertEqual(self.outlet.seen[-1], "A 291")


class LateReplayTests(ReplayTests):
    """All that holds when a read is answered in a later turn."""

    is_late = True

    def test_nothing_missed(self) -> None:
        """A channel that is at its live position goes live without a read."""
        super().test_nothing_missed()
        self.assertEqual(self.node.broker.reads, [])

    def test_store_fails(self) -> None:
        """When the broker can't read, the replay fails, and no channel is live."""
        self.add("A")
        self.publish("A")
        self.node.broker.trouble = Unavailable("the disk is gone")
        running = self.run_replay()
        self.pump(1)

        self.failureResultOf(running, Unavailable)
        self.assertEqual((self.ends, self.node.hub.subscribers("app", "A")), (0, 0))

    def test_publishes_during_reads(self) -> None:
        """Messages that come while a read is under way arrive once, in order, whichever channel they are of."""
        for channel in "ABC":
            self.add(channel)
        self.publish("A", "B", "A")
        running = self.run_replay()
        for turn in range(40):
            self.publish(*"ABC"[turn % 3 :])
            self.pump(1)
        self.publish("C", "A")

        self.finish(running)

        for channel in "ABC":
            sequences = [int(told.split()[1]) for told in self.outlet.seen if told[0] == channel]
            self.assertEqual(sequences, list(range(1, self.node.open(channel).sequence + 1)))
        self.assert_rising()

    def test_another_channel_is_published_to_during_a_read(self) -> None:
        """A channel that falls behind while another one is read is read before anything later is sent."""
        self.add("A")
        self.add("B")
        self.publish("B")
        running = self.run_replay()
        self.publish("A", "B")
        self.pump(1)
        self.publish("A")

        self.finish(running)

        self.assertEqual(self.outlet.seen, ["B 1", "A 1", "B 2", "A 2"])

    def test_dropped_during_its_read(self) -> None:
        """What was read of a channel that was dropped meanwhile is not sent, nor is its loss."""
        self.add("A")
        self.add("B")
        self.publish("A", "B")
        running = self.run_replay()

        self.replay.drop("A")

        self.finish(running)
        self.assertEqual(self.outlet.seen, ["B 1"])

    def test_read_ahead_of_delivery(self) -> None:
        """What a broker's log has before its deliveries is sent when it is delivered: once, and no earlier.

        Else a newer message of one channel would overtake an older one of another that is not delivered yet.
        """
        self.add("A")
        self.add("B")
        self.publish("A")
        topic = self.node.open("A")
        held = self.node.hub.message
        late: list[tuple[str, Message]] = []
        self.patch(self.node.hub, "message", lambda *told: late.append(told))
        self.publish("B", "A")
        running = self.run_replay()
        self.pump(20)
        self.assertEqual((self.outlet.seen, topic.sequence), (["A 1"], 1))

        self.patch(self.node.hub, "message", held)
        for told in late:
            held(*told)

        self.finish(running)
        self.publish("A")
        self.node.end_turn()
        self.assertEqual(self.outlet.seen, ["A 1", "B 1", "A 2", "A 3"])


class LateSwitchTests(SwitchTests):
    """The switch, when a read is answered in a later turn."""

    is_late = True
