"""Tests of positions and of what a sequence means."""

from __future__ import annotations

from msgspec import Raw

from tests.base import SynchronousTestCase
from wsock.client.subscription import Subscription, Verdict
from wsock.protocol.frames import MessageEvent
from wsock.protocol.position import Position

DELIVER, DROP, REPAIR, LOSS = Verdict.DELIVER, Verdict.DROP, Verdict.REPAIR, Verdict.LOSS


def message(sequence: int, epoch: str = "E") -> MessageEvent:
    """A message; its id and timestamp differ from one epoch to the other."""
    timestamp = sequence + (1000 if epoch == "E" else 0)
    return MessageEvent("chat", f"{epoch}{sequence}", Raw(b"null"), timestamp, "p", sequence)


class SubscriptionTests(SynchronousTestCase):
    def admits(self, subscription: Subscription, *sequences: int, epoch: str = "E") -> list[Verdict]:
        return [subscription.admit(message(sequence, epoch)) for sequence in sequences]

    def test_one_after_the_other(self) -> None:
        """Each message moves the position."""
        subscription = Subscription(Position("E", 4))
        self.assertEqual(self.admits(subscription, 5, 6), [DELIVER, DELIVER])
        self.assertEqual(subscription.position, Position("E", 6))

    def test_a_repetition(self) -> None:
        """What was delivered is not delivered again."""
        subscription = Subscription(Position("E", 4))
        self.assertEqual(self.admits(subscription, 5, 5, 3, 6), [DELIVER, DROP, DROP, DELIVER])

    def test_a_gap(self) -> None:
        """A gap stops delivery; the position stays where it was."""
        subscription = Subscription(Position("E", 4))
        self.assertEqual(self.admits(subscription, 6), [REPAIR])
        subscription.repair()
        self.assertEqual(self.admits(subscription, 7), [DROP])
        self.assertEqual(subscription.position, Position("E", 4))

    def test_a_gap_that_is_repaired(self) -> None:
        """After the repair it goes on, and the next gap is repaired as well."""
        subscription = Subscription(Position("E", 4))
        subscription.repair()
        subscription.resumed(Position("E", 4))
        self.assertEqual(self.admits(subscription, 5, 6, 8), [DELIVER, DELIVER, REPAIR])

    def test_a_gap_that_stays(self) -> None:
        """A gap that the repair does not close is a loss, and delivery goes on behind it."""
        subscription = Subscription(Position("E", 4))
        subscription.repair()
        subscription.resumed(Position("E", 4))
        self.assertEqual(self.admits(subscription, 6, 7), [LOSS, DELIVER])

    def test_lost(self) -> None:
        """After a loss the next message is accepted whatever its sequence."""
        subscription = Subscription(Position("E", 4))
        subscription.lost()
        self.assertEqual(self.admits(subscription, 2, 3, 5), [DELIVER, DELIVER, REPAIR])

    def test_refreshed(self) -> None:
        """The server's position counts after a loss and for a new epoch only."""
        subscription = Subscription(Position("E", 4))
        subscription.refreshed(Position("E", 9))
        self.assertEqual(subscription.position, Position("E", 4))
        subscription.refreshed(Position("F", 2))
        self.assertEqual(subscription.position, Position("F", 2))
        self.assertEqual(self.admits(subscription, 2, 3), [DELIVER, DELIVER])

    def test_resumed_elsewhere(self) -> None:
        """Where something is lost, the server's start is the new position."""
        subscription = Subscription(Position("E", 4))
        subscription.resume()
        subscription.resumed(Position("F", 0))
        self.assertEqual(self.admits(subscription, 1), [DELIVER])
        self.assertEqual(subscription.position, Position("F", 1))


class RewindTests(SubscriptionTests):
    def test_rewound(self) -> None:
        """Rewound messages are delivered without moving the position, then the live ones follow."""
        subscription = Subscription(Position("E", 4), rewind=2)
        self.assertEqual(self.admits(subscription, 3, 4), [DELIVER, DELIVER])
        self.assertEqual(subscription.position, Position("E", 4))
        self.assertEqual(self.admits(subscription, 5, 6), [DELIVER, DELIVER])

    def test_longer_than_asked_for(self) -> None:
        """A rewind that does not end between equal timestamps is delivered whole."""
        subscription = Subscription(Position("E", 4), rewind=1)
        self.assertEqual(self.admits(subscription, 3, 4, 5, 4), [DELIVER, DELIVER, DELIVER, DROP])

    def test_shorter_than_asked_for(self) -> None:
        """Live messages that come while more rewound ones could come are neither repeated nor taken for a gap."""
        subscription = Subscription(Position("E", 1), rewind=5)
        self.assertEqual(self.admits(subscription, 1, 2, 3, 4, 5), [DELIVER] * 5)
        self.assertEqual(self.admits(subscription, 6), [DELIVER])
        self.assertEqual(subscription.position, Position("E", 6))

    def test_of_an_older_epoch(self) -> None:
        """Rewound messages whose sequences look like live ones do not hide the live ones."""
        subscription = Subscription(Position("E", 0), rewind=3)
        self.assertEqual(self.admits(subscription, 1, 2, 3, epoch="D"), [DELIVER] * 3)
        self.assertEqual(self.admits(subscription, 1, 2, 3, 4), [DELIVER] * 4)

    def test_resumed_before_it_was_clear(self) -> None:
        """After a reconnect the position is the safe one, and what was delivered already is not repeated."""
        subscription = Subscription(Position("E", 1), rewind=4)
        self.admits(subscription, 1, 2, 3)
        subscription.disconnected()
        self.assertEqual(subscription.position, Position("E", 1))
        subscription.resume()
        subscription.resumed(Position("E", 1))
        self.assertEqual(self.admits(subscription, 2, 3, 4), [DROP, DROP, DELIVER])

    def test_a_gap_behind_it(self) -> None:
        """A gap after the rewound messages is seen."""
        subscription = Subscription(Position("E", 4), rewind=1)
        self.assertEqual(self.admits(subscription, 4, 6), [DELIVER, REPAIR])
