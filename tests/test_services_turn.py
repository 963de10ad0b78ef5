"""Tests of wsock.services.turn."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock

from tests.base import SynchronousTestCase
from tests.outlets import RecordingOutlet
from wsock.services.turn import Feed, Turn


class TurnTests(SynchronousTestCase):
    """Feeds a and b; ``only_a`` gets a, ``both`` gets both."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.turn = Turn(self.clock)
        self.a, self.b = Feed(), Feed()
        self.only_a, self.both = RecordingOutlet(), RecordingOutlet()
        self.a.outlets = {self.only_a: None, self.both: None}
        self.b.outlets = {self.both: None}

    def end_turn(self) -> None:
        self.clock.advance(0)

    def test_nothing_is_written_before_the_end(self) -> None:
        """Frames are written when the turn ends."""
        self.turn.broadcast(self.a, b"A1")
        self.turn.send(self.both, b"x")

        self.assertEqual((self.only_a.writes, self.both.writes), ([], []))
        self.end_turn()
        self.assertEqual((self.only_a.writes, self.both.writes), ([b"A1"], [b"xA1"]))

    def test_one_feed_is_joined_once(self) -> None:
        """The outlets of the only active feed get the very same bytes, in one write each."""
        self.turn.broadcast(self.a, b"A1")
        self.turn.broadcast(self.a, b"A2")

        self.end_turn()

        self.assertEqual((self.only_a.writes, self.both.writes), ([b"A1A2"], [b"A1A2"]))
        self.assertIs(self.only_a.writes[0], self.both.writes[0])

    def test_several_feeds_are_merged_in_the_order_of_arrival(self) -> None:
        """An outlet of several feeds gets their frames as they came, in one write; others only their own."""
        for feed, frame in ((self.a, b"A1"), (self.b, b"B1"), (self.a, b"A2")):
            self.turn.broadcast(feed, frame)

        self.end_turn()

        self.assertEqual((self.only_a.writes, self.both.writes), ([b"A1A2"], [b"A1B1A2"]))

    def test_merged_bytes_are_shared(self) -> None:
        """Outlets of the same feeds get the very same bytes."""
        again = RecordingOutlet()
        self.a.outlets[again] = self.b.outlets[again] = None
        self.turn.broadcast(self.b, b"B1")
        self.turn.broadcast(self.a, b"A1")

        self.end_turn()

        self.assertEqual(again.writes, [b"B1A1"])
        self.assertIs(again.writes[0], self.both.writes[0])

    def test_each_turn_has_its_own(self) -> None:
        """What was written is not written again."""
        self.turn.broadcast(self.a, b"A1")
        self.turn.broadcast(self.b, b"B1")
        self.turn.send(self.only_a, b"x")
        self.end_turn()

        self.turn.broadcast(self.a, b"A2")
        self.end_turn()
        self.end_turn()

        self.assertEqual(self.only_a.writes, [b"xA1", b"A2"])
        self.assertEqual(self.both.writes, [b"A1B1", b"A2"])

    def test_sizes(self) -> None:
        """How many frames of feeds went out at once, and to how many outlets; own frames are not among them."""
        self.turn.broadcast(self.a, b"A1")
        self.turn.broadcast(self.a, b"A2")
        self.end_turn()
        self.turn.broadcast(self.a, b"A3")
        self.turn.broadcast(self.b, b"B1")
        self.turn.broadcast(self.b, b"B2")
        self.end_turn()
        self.turn.send(self.both, b"x")
        self.end_turn()
        self.turn.flush()

        self.assertEqual((len(self.turn.frames), self.turn.frames.total), (2, 5))
        self.assertEqual((len(self.turn.writes), self.turn.writes.total), (2, 4))

    def test_own_frames_in_one_write(self) -> None:
        """Frames for one outlet alone are kept in order, and need no feed."""
        self.turn.send(self.both, b"x")
        self.turn.send(self.both, b"y")
        self.turn.send(self.only_a, b"z")

        self.turn.broadcast(self.b, b"B1")
        self.end_turn()

        self.assertEqual((self.only_a.writes, self.both.writes), ([b"z"], [b"xyB1"]))

    def test_feed_without_outlets(self) -> None:
        """A frame that nobody gets is not kept for who comes later."""
        empty = Feed()
        self.turn.broadcast(empty, b"E1")
        empty.outlets[self.both] = None
        self.end_turn()

        self.assertEqual((empty.frames, self.both.writes), ([], []))

    def test_flush(self) -> None:
        """A flush writes at once; the end of the turn writes only what came after it."""
        self.turn.broadcast(self.a, b"A1")
        self.turn.flush()
        self.assertEqual(self.only_a.writes, [b"A1"])

        self.turn.broadcast(self.a, b"A2")
        self.end_turn()

        self.assertEqual(self.only_a.writes, [b"A1", b"A2"])

    def test_outlet_that_leaves_during_its_write(self) -> None:
        """A write that ends a connection does not disturb those of the others."""
        leaving = RecordingOutlet(lambda: self.a.outlets.pop(leaving, None))
        self.a.outlets = {leaving: None, self.only_a: None}
        self.turn.broadcast(self.a, b"A1")

        self.end_turn()

        self.assertEqual((leaving.writes, self.only_a.writes), ([b"A1"], [b"A1"]))
        self.assertNotIn(leaving, self.a.outlets)

    def test_broadcast_during_a_write(self) -> None:
        """What a write leads to goes into the next turn; it is neither lost nor merged into the bytes of this one."""
        ends = [self.both]

        def end() -> None:
            if ends:
                ends.pop()
                self.turn.broadcast(self.a, b"A2")
                self.turn.broadcast(self.b, b"B2")
                self.turn.send(self.only_a, b"x")

        leaving = RecordingOutlet(end)
        self.a.outlets = {leaving: None, self.only_a: None, self.both: None}
        self.turn.broadcast(self.a, b"A1")
        self.turn.broadcast(self.b, b"B1")
        self.end_turn()
        self.end_turn()

        self.assertEqual(b"".join(self.both.writes), b"A1B1A2B2")
        self.assertEqual(b"".join(self.only_a.writes), b"xA1A2")
        self.assertEqual(b"".join(leaving.writes), b"A1A2")

    def test_flush_during_a_write(self) -> None:
        """A write may lead to a flush: every frame is written once."""
        leaving = RecordingOutlet(self.turn.flush)
        self.a.outlets = {leaving: None, self.only_a: None, self.both: None}
        self.turn.broadcast(self.a, b"A1")
        self.turn.broadcast(self.b, b"B1")
        self.turn.send(self.both, b"x")

        self.end_turn()

        self.assertEqual(b"".join(self.both.writes), b"xA1B1")
        self.assertEqual((leaving.writes, self.only_a.writes), ([b"A1"], [b"A1"]))


class Turns(Clock):
    """A clock that can go on by just one turn of the reactor: what a call has called later comes in the next one."""

    def turn(self) -> None:
        """All that is due at its beginning happens."""
        due, self.calls = self.calls, []
        for call in due:
            call.called = 1
            call.func(*call.args, **call.kw)


class FanOutTests(SynchronousTestCase):
    """Two writes a turn, and feed a with six outlets, of which ``both`` has b too."""

    def setUp(self) -> None:
        self.clock = Turns()
        self.turn = Turn(self.clock, slice_writes=2, max_gathered=10)
        self.a, self.b = Feed(), Feed()
        self.outlets = [RecordingOutlet() for _ in range(6)]
        self.a.outlets = dict.fromkeys(self.outlets)
        self.both = self.outlets[4]
        self.b.outlets = {self.both: None}

    @property
    def written(self) -> list[bytes]:
        """All bytes that each of the six got."""
        return [b"".join(outlet.writes) for outlet in self.outlets]

    def finish(self) -> None:
        """As many turns as are needed for everything."""
        for _ in range(10):
            self.clock.turn()

    def test_bounded_writes(self) -> None:
        """A turn has at most a slice of writes; everybody gets the very same bytes in the end, and then all is done."""
        self.turn.broadcast(self.a, b"A1")
        counts = []
        for _ in range(3):
            self.clock.turn()
            counts.append(sum(len(outlet.writes) for outlet in self.outlets))

        self.assertEqual((counts, self.written), ([2, 4, 6], [b"A1"] * 6))
        self.assertEqual(len({id(outlet.writes[0]) for outlet in self.outlets}), 1)
        self.assertEqual((self.turn.writes.total, self.turn.delivered), (6, 6))
        self.clock.turn()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_other_work_in_between(self) -> None:
        """What the reactor has to do besides comes between two slices."""
        seen: list[int] = []
        self.turn.broadcast(self.a, b"A1")
        self.clock.turn()
        self.clock.callLater(0, lambda: seen.append(self.written.count(b"A1")))

        self.finish()

        self.assertTrue(0 < seen[0] < 6, seen)

    def test_frames_gather_meanwhile(self) -> None:
        """Frames never overtake those of the fan-out, and go together when it is finished."""
        self.turn.broadcast(self.a, b"A1")
        for number in (2, 3, 4):
            self.clock.turn()
            self.turn.broadcast(self.a, b"A%d" % number)

        self.finish()

        self.assertEqual(self.written, [b"A1A2A3A4"] * 6)
        self.assertLess(max(len(outlet.writes) for outlet in self.outlets), 4)

    def test_order_across_feeds(self) -> None:
        """A1 B1 A2 come as A1 B1 A2, though the fan-out of A1 was not finished."""
        self.turn.broadcast(self.a, b"A1")
        self.clock.turn()
        self.turn.broadcast(self.b, b"B1")
        self.clock.turn()
        self.turn.broadcast(self.a, b"A2")

        self.finish()

        self.assertEqual(self.written, [b"A1A2"] * 4 + [b"A1B1A2", b"A1A2"])

    def test_merged_fan_out(self) -> None:
        """A fan-out of several feeds is cut into slices too."""
        self.turn.broadcast(self.b, b"B1")
        self.turn.broadcast(self.a, b"A1")
        self.clock.turn()
        self.assertEqual(self.written.count(b""), 4)

        self.finish()

        self.assertEqual(self.written, [b"A1"] * 4 + [b"B1A1", b"A1"])

    def test_join_in_the_middle(self) -> None:
        """Who joins gets nothing from before: neither of the fan-out nor of what gathers behind it."""
        joiner = RecordingOutlet()
        self.turn.broadcast(self.a, b"A1")
        self.clock.turn()
        self.turn.broadcast(self.a, b"A2")
        self.turn.join(self.a, joiner)
        self.turn.broadcast(self.a, b"A3")
        self.clock.turn()
        self.turn.broadcast(self.a, b"A4")

        self.finish()

        self.assertEqual((joiner.writes, self.written), ([b"A3A4"], [b"A1A2A3A4"] * 6))
        self.assertEqual(self.turn.delivered, 6 * 4 + 2)

    def test_join_in_the_middle_and_nothing_more(self) -> None:
        """Who joined and gets nothing is not written to, not even in vain."""
        joiner, other = RecordingOutlet(), RecordingOutlet()
        self.turn.broadcast(self.a, b"A1")
        self.turn.join(self.a, joiner)
        self.finish()
        self.turn.broadcast(self.a, b"A2")
        self.turn.join(self.b, other)
        self.turn.broadcast(self.b, b"B1")

        self.finish()

        self.assertEqual((joiner.writes, other.writes), ([b"A2"], [b"B1"]))

    def test_join_writes_to_nobody(self) -> None:
        """A join does not finish what is under way."""
        self.turn.broadcast(self.a, b"A1")

        self.turn.join(self.a, RecordingOutlet())

        self.assertEqual(self.written, [b""] * 6)

    def test_part_in_the_middle(self) -> None:
        """Who parts has got everything from before, at once, and gets no more."""
        self.turn.broadcast(self.a, b"A1")
        self.clock.turn()
        self.turn.broadcast(self.b, b"B1")
        self.turn.broadcast(self.a, b"A2")

        self.turn.part(self.a, self.both)
        self.assertEqual(self.written[4], b"A1B1A2")
        self.turn.send(self.both, b"x")
        self.turn.broadcast(self.a, b"A3")
        self.turn.broadcast(self.b, b"B3")
        self.finish()

        self.assertEqual(self.written, [b"A1A2A3"] * 4 + [b"A1B1A2xB3", b"A1A2A3"])

    def test_part_and_join_again(self) -> None:
        """Who parts and joins again misses what came in between, and only that."""
        self.turn.broadcast(self.a, b"A1")
        self.clock.turn()
        self.turn.broadcast(self.a, b"A2")
        self.turn.part(self.a, self.both)
        self.turn.broadcast(self.a, b"A3")
        self.turn.join(self.a, self.both)
        self.turn.broadcast(self.a, b"A4")

        self.finish()

        self.assertEqual(self.written, [b"A1A2A3A4"] * 4 + [b"A1A2A4", b"A1A2A3A4"])

    def test_end_in_the_middle(self) -> None:
        """A connection that a write ends is off the list; the others get everything."""
        ending = self.outlets[5]
        ending._writing = lambda: self.turn.part(self.a, ending)
        self.turn.broadcast(self.a, b"A1")
        self.clock.turn()
        self.turn.broadcast(self.a, b"A2")

        self.finish()

        self.assertEqual(self.written, [b"A1A2"] * 5 + [b"A1"])

    def test_own_frames_do_not_wait(self) -> None:
        """An answer is written at the end of its turn, with all that is older in front of it, in one write."""
        self.turn.broadcast(self.a, b"A1")
        self.clock.turn()
        self.turn.broadcast(self.a, b"A2")
        self.clock.turn()
        last = next(outlet for outlet in self.outlets if not outlet.writes)
        self.turn.send(last, b"x")
        self.turn.send(last, b"y")
        self.turn.broadcast(self.a, b"A3")
        self.clock.turn()
        self.assertEqual(last.writes, [b"A1A2xyA3"])

        self.finish()

        self.assertEqual(sorted(self.written), [b"A1A2A3"] * 5 + [b"A1A2xyA3"])

    def test_own_frames_of_the_turn_in_which_it_begins(self) -> None:
        """Own frames of that turn come first, as ever, and do not wait for the slice either."""
        last = self.outlets[0]
        self.turn.broadcast(self.a, b"A1")
        self.turn.send(last, b"x")

        self.clock.turn()

        self.assertEqual(last.writes, [b"xA1"])

    def test_settle(self) -> None:
        """One outlet is brought up to date, and no other."""
        self.turn.broadcast(self.a, b"A1")
        self.turn.send(self.both, b"x")

        self.turn.settle(self.both)
        self.assertEqual(self.written, [b""] * 4 + [b"xA1", b""])
        self.turn.settle(self.both)
        self.finish()

        self.assertEqual((self.both.writes, self.written), ([b"xA1"], [b"A1"] * 4 + [b"xA1", b"A1"]))

    def test_bounded_bytes(self) -> None:
        """When more gathers than the bound, the fan-out is finished at once; so an outlet is not given too much."""
        self.turn.broadcast(self.a, b"A1")
        self.clock.turn()
        self.turn.send(self.outlets[5], b"x")
        self.turn.broadcast(self.a, b"2" * 10)
        self.assertEqual(self.written.count(b""), 4)

        self.turn.broadcast(self.a, b"A3")
        self.assertEqual(self.written, [b"A1"] * 5 + [b"A1x" + b"2" * 10 + b"A3"])
        self.finish()

        self.assertEqual({text.replace(b"x", b"") for text in self.written}, {b"A1" + b"2" * 10 + b"A3"})
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_slice_of_joins(self) -> None:
        """Joins that write what was collected use the same slice: a turn's writes are bounded with them too."""
        self.a.outlets = {self.outlets[0]: None}
        for number in range(4):
            self.turn.broadcast(self.a, b"%d" % number)
            self.turn.join(self.a, self.outlets[1 + number])

        self.assertEqual(sum(len(outlet.writes) for outlet in self.outlets), 1)
        self.finish()

        self.assertEqual(self.written, [b"0123", b"123", b"23", b"3", b"", b""])


_step = st.tuples(
    st.sampled_from(("broadcast", "broadcast", "send", "join", "part", "settle", "turn")), st.integers(0, 11)
)


class ModelTests(SynchronousTestCase):
    """Whatever happens in whatever order, each outlet sees what a simple model says."""

    def setUp(self) -> None:
        self.number = 0

    @example([("broadcast", 1), ("turn", 0), ("send", 0), ("settle", 0), ("broadcast", 1)], 186, 64)
    @settings(max_examples=1000)
    @given(st.lists(_step, max_size=60), st.integers(0, 4095), st.sampled_from((8, 64, 10_000)))
    def test_any_steps(self, steps: list[tuple[str, int]], joined: int, max_gathered: int) -> None:
        """Four outlets, three feeds, two writes a turn."""
        model = Model(joined, max_gathered)
        acts: dict[str, Callable[[int], None]] = {
            "broadcast": model.broadcast,
            "send": model.send,
            "join": model.join,
            "part": model.part,
            "settle": model.settle,
            "turn": model.turn,
        }
        for name, number in steps:
            acts[name](number)
        for _ in range(40):
            model.turn(0)

        model.check()


class Model:
    """Frames are ``.KIND TURN NUMBER``: an outlet must get its own and its feeds' in order, and turn by turn."""

    def __init__(self, joined: int, max_gathered: int) -> None:
        self._clock = Turns()
        self._turn = Turn(self._clock, slice_writes=2, max_gathered=max_gathered)
        self._feeds = [Feed() for _ in range(3)]
        self._outlets = [RecordingOutlet() for _ in range(4)]
        self._shared: list[list[bytes]] = [[] for _ in range(4)]
        self._own: list[list[bytes]] = [[] for _ in range(4)]
        self._turns = 0
        self._frames = 0
        self._delivered = 0
        for bit in range(12):
            if joined & 1 << bit:
                self.join(bit)

    def _frame(self, kind: str) -> bytes:
        self._frames += 1
        return f".{kind} {self._turns:03} {self._frames:03}".encode()

    def broadcast(self, number: int) -> None:
        """Everybody who is in the feed at this moment must get it."""
        feed, frame = self._feeds[number % 3], self._frame(f"shared{number % 3}")
        for outlet, shared in zip(self._outlets, self._shared, strict=True):
            if outlet in feed.outlets:
                shared.append(frame)
                self._delivered += 1
        self._turn.broadcast(feed, frame)

    def send(self, number: int) -> None:
        """The outlet must get it."""
        frame = self._frame("own")
        self._own[number % 4].append(frame)
        self._turn.send(self._outlets[number % 4], frame)

    def join(self, number: int) -> None:
        """Unless it did."""
        feed, outlet = self._feeds[number % 3], self._outlets[number // 3]
        if outlet not in feed.outlets:
            self._turn.join(feed, outlet)

    def part(self, number: int) -> None:
        """If it joined: then it has all of the feed by now."""
        feed, outlet = self._feeds[number % 3], self._outlets[number // 3]
        if outlet in feed.outlets:
            self._turn.part(feed, outlet)
            seen = self._seen(outlet)
            assert all(frame in seen for frame in self._shared[number // 3] if b"shared%d" % (number % 3) in frame)

    def settle(self, number: int) -> None:
        """The outlet has everything by now."""
        outlet = self._outlets[number % 4]
        self._turn.settle(outlet)
        assert sorted(self._seen(outlet)) == sorted(self._shared[number % 4] + self._own[number % 4])

    def turn(self, _: int) -> None:
        """Own frames are written at the end of the turn, and shared ones to two outlets at most besides."""
        before = [len(outlet.writes) for outlet in self._outlets]
        expects = [outlet.pending is not None for outlet in self._outlets]
        self._clock.turn()
        self._turns += 1
        wrote = [len(outlet.writes) > count for outlet, count in zip(self._outlets, before, strict=True)]
        assert all(outlet.pending is None for outlet in self._outlets)
        assert sum(w and not e for w, e in zip(wrote, expects, strict=True)) <= 2

    def _seen(self, outlet: RecordingOutlet) -> list[bytes]:
        return [b"." + frame for frame in b"".join(outlet.writes).split(b".")[1:]]

    def check(self) -> None:
        """Everything came, in order, and nothing else."""
        assert not self._clock.getDelayedCalls()
        assert self._turn.delivered == self._delivered
        for outlet, shared, own in zip(self._outlets, self._shared, self._own, strict=True):
            seen = self._seen(outlet)
            assert [frame for frame in seen if b"shared" in frame] == shared, (seen, shared)
            assert [frame for frame in seen if b"own" in frame] == own, (seen, own)
            turns = [frame.split()[1] for frame in seen]
            assert turns == sorted(turns), seen
            assert b"" not in outlet.writes
