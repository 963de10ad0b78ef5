"""What waits for a slow client that may lose messages: nothing else is lost, and never in silence."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from tests.base import SynchronousTestCase
from tests.outlets import events_of
from wsock.edges.lossy import LossyQueue
from wsock.protocol.codec import encode
from wsock.protocol.frames import Ack, Event, MessageEvent, Pong
from wsock.protocol.wire import text_frame
from wsock.records import SlowConsumer

POLICIES: dict[str, SlowConsumer] = {
    "old": "drop_oldest",
    'q"\\\u00e9': "drop_oldest",
    "new": "latest",
    "new2": "latest",
    "all": "disconnect",
}
CHANNELS = list(POLICIES)


def frame(event: Event) -> bytes:
    """The event as it is written."""
    return text_frame(encode(event))


def message(channel: str, sequence: int, size: int = 0) -> bytes:
    """A message's frame."""
    data = Raw(b'"' + b"x" * size + b'"')
    return frame(MessageEvent(channel, f"m{sequence}", data, 1_700_000_000_000 + sequence, "bob", sequence))


def seen(frames: list[bytes]) -> list[str]:
    """``old 3`` for a message, ``ack m1``, ``pong``, ``lost old`` for a notice."""
    return [_seen(event) for event in events_of(b"".join(frames))]


def _seen(event: dict[str, Any]) -> str:
    match event["action"]:
        case "message":
            return f"{event['channel']} {event['sequence']}"
        case "error":
            assert event["code"] == "recovery_failed"
            return f"lost {event['channel']}"
        case "ack":
            return f"ack {event['id']}"
    return str(event["action"])


class LossyQueueTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.queue = LossyQueue(POLICIES.__getitem__)

    def add(self, channel: str, *sequences: int) -> None:
        self.queue.add(b"".join(message(channel, sequence) for sequence in sequences))

    def take(self) -> list[str]:
        taken: list[bytes] = []
        while self.queue:
            taken += self.queue.take()
        return seen(taken)

    def test_latest(self) -> None:
        """Of a channel only the newest waits, with one notice before it; others are not concerned."""
        self.add("new", 1)
        self.add("all", 1)
        self.add("new2", 1)
        self.add("new", 2, 3)

        self.assertEqual(self.queue.dropped, 2)
        self.assertEqual(self.take(), ["lost new", "all 1", "new2 1", "new 3"])

    def test_drop_oldest(self) -> None:
        """The oldest go, as few as possible; nothing does while there is room."""
        self.add("old", *range(1, 101))
        self.assertTrue(self.queue.shed(self.queue.size))
        self.assertEqual(self.queue.dropped, 0)

        self.assertTrue(self.queue.shed(self.queue.size // 2))

        taken = self.take()
        first = self.queue.dropped + 1
        self.assertTrue(50 <= self.queue.dropped < 54, self.queue.dropped)
        self.assertEqual(taken, ["lost old", *(f"old {n}" for n in range(first, 101))])

    def test_never_dropped(self) -> None:
        """Acks, presence, errors and messages of other channels stay, even if there is no room for them."""
        self.queue.add(frame(Ack("m1", "old", 5, 1)) + frame(Pong()))
        self.add("all", 1)
        self.add("old", 1)

        self.assertFalse(self.queue.shed(100))

        self.assertEqual(self.take(), ["ack m1", "pong", "all 1", "lost old"])

    def test_own_frames(self) -> None:
        """What is sent to this client alone, a replay say, stays; a gap behind it has a notice of its own."""
        self.add("new", 1, 2)
        self.queue.keep([message("new", 3)])
        self.add("new", 4)

        self.assertEqual(self.take(), ["lost new", "lost new", "new 3", "new 4"])

    def test_told_again(self) -> None:
        """Once a notice has left, another loss is told by another one."""
        self.add("new", 1, 2)
        first = self.take()
        self.add("new", 3, 4, 5)

        self.assertEqual((first, self.take()), (["lost new", "new 2"], ["lost new", "new 5"]))

    def test_policy_is_asked_once(self) -> None:
        """The policy of a channel is that of the first message that waits."""
        asked: list[str] = []

        def policy(channel: str) -> SlowConsumer:
            asked.append(channel)
            return "latest"

        self.queue = LossyQueue(policy)
        self.add("a", 1, 2, 3)

        self.assertEqual(asked, ["a"])

    def test_chunks(self) -> None:
        """It leaves in pieces that suit a transport, and its size goes with it."""
        self.queue.add(b"".join(message("old", n, 1000) for n in range(200)))

        sizes = []
        while self.queue:
            sizes.append(sum(map(len, self.queue.take())))

        self.assertTrue(len(sizes) > 2 and max(sizes) < 67_000, sizes)
        self.assertEqual(self.queue.size, 0)

    def test_bounded(self) -> None:
        """However long a client does not read, what is kept of its channels does not grow."""
        for sequence in range(5000):
            self.add("new", sequence)
            self.add("old", sequence)
            self.queue.shed(10_000)

        self.assertLess(self.queue.size, 10_001)
        self.assertLess(len(self.queue._droppable), 100)

    @settings(max_examples=200)
    @given(
        st.lists(
            st.one_of(
                st.tuples(st.just("say"), st.lists(st.sampled_from([*CHANNELS, "ack", "pong"]), max_size=5)),
                st.tuples(st.just("own"), st.sampled_from(["ack", "pong"])),
                st.tuples(st.just("take"), st.none()),
                st.tuples(st.just("shed"), st.integers(200, 3000)),
            ),
            max_size=40,
        )
    )
    def test_any_course(self, steps: list[tuple[str, Any]]) -> None:
        """Order is kept, nothing is dropped that may not be, and a notice stands exactly where messages are missing."""
        self.queue = LossyQueue(POLICIES.__getitem__)
        number = 0
        said: list[str] = []
        heard: list[bytes] = []
        sequences: dict[str, int] = defaultdict(int)

        def make(what: str) -> bytes:
            nonlocal number
            number += 1
            if what in POLICIES:
                sequences[what] += 1
                said.append(f"{what} {sequences[what]}")
                return message(what, sequences[what], number % 40)
            said.append(f"ack m{number}" if what == "ack" else "pong")
            return frame(Ack(f"m{number}", "all", 1, 1) if what == "ack" else Pong())

        for step, how in steps:
            match step:
                case "say":
                    self.queue.add(b"".join(map(make, how)))
                case "own":
                    self.queue.keep([make(how)])
                case "take":
                    heard += self.queue.take()
                case "shed":
                    has_room = self.queue.shed(how)
                    self.assertEqual(has_room, self.queue.size <= how)
                    if not has_room:
                        self.assertFalse(self.queue._droppable)
        size = self.queue.size
        rest: list[bytes] = []
        while self.queue:
            rest += self.queue.take()
        self.assertEqual((size, self.queue.size), (sum(len(f) + 128 for f in rest), 0))

        got = seen(heard + rest)
        self.check(said, got, sequences)

    def check(self, said: list[str], got: list[str], sequences: dict[str, int]) -> None:
        """What was heard is what was said, but for messages that may be dropped."""
        kept = [what for what in got if not what.startswith("lost ")]
        places = {what: place for place, what in enumerate(w for w in said if w != "pong")}
        order = [places[what] for what in kept if what != "pong"]
        self.assertEqual(order, sorted(order))
        dropped = set(said) - set(kept)
        self.assertEqual(kept.count("pong"), said.count("pong"))
        self.assertEqual(len([w for w in said if w != "pong"]) - len(order), self.queue.dropped)
        for what in dropped:
            self.assertNotEqual(POLICIES.get(what.rpartition(" ")[0], "disconnect"), "disconnect", what)
        for channel in CHANNELS:
            if POLICIES[channel] == "latest" and sequences[channel]:
                self.assertIn(f"{channel} {sequences[channel]}", kept)
            self.check_channel(channel, got)

    def check_channel(self, channel: str, got: list[str]) -> None:
        """Between two messages there is a notice exactly when some are missing between them."""
        last, is_told = 0, False
        for what in got:
            if what == f"lost {channel}":
                is_told = True
            elif what.rpartition(" ")[0] == channel:
                sequence = int(what.rpartition(" ")[2])
                self.assertEqual(is_told, sequence > last + 1, got)
                last, is_told = sequence, False
