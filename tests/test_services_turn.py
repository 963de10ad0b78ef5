"""Tests of wsock.services.turn."""

from __future__ import annotations

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
