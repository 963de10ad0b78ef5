"""Tests of wsock.services.hub."""

from __future__ import annotations

from msgspec import Raw
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from tests.base import SynchronousTestCase
from tests.nodes import HeldJournal, Node
from tests.outlets import RecordingOutlet
from wsock.errors import Code, Unavailable
from wsock.interfaces import IReceiver
from wsock.protocol.frames import Member
from wsock.protocol.position import Position
from wsock.protocol.presence import PresenceChange


class HubTestCase(SynchronousTestCase):
    """A node, and the outlets of alice and bob."""

    def setUp(self) -> None:
        self.journal = HeldJournal()
        self.node = Node(self.journal)
        self.hub = self.node.hub
        self.alice, self.bob = RecordingOutlet(), RecordingOutlet()


class DeliveryTests(HubTestCase):
    """What subscribers get."""

    def test_provides_the_interface(self) -> None:
        """The hub is a broker's receiver."""
        verifyObject(IReceiver, self.hub)

    def test_message(self) -> None:
        """Every subscriber gets a message as the protocol says, as the very same bytes."""
        self.node.subscribe(self.alice, "room")
        self.node.subscribe(self.bob, "room")

        receipt = self.successResultOf(self.node.publish("room", "m1", data=b'{ "n":1.50 }'))
        self.node.end_turn()

        self.assertIn(b'"data":{ "n":1.50 }', self.alice.writes[0])
        self.assertEqual(
            self.alice.events,
            [
                {
                    "action": "message",
                    "channel": "room",
                    "id": "m1",
                    "data": {"n": 1.5},
                    "timestamp": receipt.timestamp,
                    "publisherId": "alice",
                    "sequence": 1,
                }
            ],
        )
        self.assertIs(self.alice.writes[0], self.bob.writes[0])

    def test_one_write_for_a_turn(self) -> None:
        """A1 B1 A2 of one turn come as A1 B1 A2 in one write; who is on A alone gets A1 A2."""
        self.node.subscribe(self.alice, "A", "B")
        self.node.subscribe(self.bob, "A")

        for channel in ("A", "B", "A"):
            self.node.publish(channel)
        self.node.end_turn()

        self.assertEqual((self.alice.seen, len(self.alice.writes)), (["A 1", "B 1", "A 2"], 1))
        self.assertEqual((self.bob.seen, len(self.bob.writes)), (["A 1", "A 2"], 1))

    def test_join_is_exact(self) -> None:
        """Who joins in the turn of a message gets what comes behind the topic's position, and only that."""
        self.node.subscribe(self.alice, "room")
        self.node.publish("room")
        topic = self.node.open("room")

        position = topic.position
        self.hub.join(topic, self.bob)

        self.node.publish("room")
        self.node.end_turn()
        self.assertEqual(position, Position("e1", 1))
        self.assertEqual((self.alice.seen, self.bob.seen), (["room 1", "room 2"], ["room 2"]))

    def test_part_is_exact(self) -> None:
        """Who parts has got what was delivered up to now, and gets no more."""
        self.node.subscribe(self.alice, "room")
        self.node.publish("room")

        self.hub.part(self.node.open("room"), self.alice)

        self.node.publish("room")
        self.node.end_turn()
        self.assertEqual(self.alice.seen, ["room 1"])

    def test_part_without_join(self) -> None:
        """Parting from what was not joined does nothing."""
        self.node.subscribe(self.alice, "room")

        self.hub.part(self.node.open("room"), self.bob)

        self.assertEqual(self.hub.subscribers("app", "room"), 1)

    def test_tenants_never_meet(self) -> None:
        """A channel of the same name in another app has its own subscribers."""
        self.node.subscribe(self.alice, "room")
        self.node.subscribe(self.bob, "room", app="other")

        self.node.publish("room")
        self.node.end_turn()

        self.assertEqual((self.alice.seen, self.bob.seen), (["room 1"], []))
        self.assertEqual((self.hub.subscribers("app", "room"), self.hub.subscribers("third", "room")), (1, 0))

    def test_position_is_known_without_subscribers(self) -> None:
        """A topic follows the channel even when nobody is live on it."""
        topic = self.node.open("room")

        receipt = self.successResultOf(self.node.publish("room"))

        self.assertEqual((topic.position, topic.timestamp), (Position("e1", 1), receipt.timestamp))

    def test_stray_deliveries(self) -> None:
        """What the broker tells of a channel that nobody holds is let pass."""
        self.hub.lost("app", "room", Position("e", 1))
        self.hub.presence("app", PresenceChange("room", "enter", Member("carol", Raw(b"{}"), 1)))
        self.node.end_turn()

        self.assertEqual(len(self.hub), 0)


class PresenceTests(HubTestCase):
    """Who gets presence changes."""

    def change(self) -> None:
        self.hub.presence("app", PresenceChange("room", "enter", Member("carol", Raw(b"{}"), 1)))
        self.node.end_turn()

    def test_subscribers_and_watchers(self) -> None:
        """Subscribers and present members get a change once each, whichever they are."""
        topic = self.node.open("room")
        self.node.subscribe(self.alice, "room")
        self.hub.watch(topic, self.alice)
        self.hub.watch(topic, self.bob)

        self.change()

        self.assertEqual((self.alice.seen, self.bob.seen), (["presence.enter room"], ["presence.enter room"]))

    def test_unwatch(self) -> None:
        """Who watches no more gets nothing; who is subscribed too goes on as a subscriber."""
        topic = self.node.open("room")
        self.node.subscribe(self.alice, "room")
        for outlet in (self.alice, self.bob):
            self.hub.watch(topic, outlet)
            self.hub.unwatch(topic, outlet)
            self.hub.unwatch(topic, outlet)

        self.change()

        self.assertEqual((self.alice.seen, self.bob.seen), (["presence.enter room"], []))

    def test_watchers_get_no_messages(self) -> None:
        """A present member that is not subscribed gets presence only."""
        self.hub.watch(self.node.open("room"), self.bob)

        self.node.publish("room")
        self.node.end_turn()

        self.assertEqual(self.bob.seen, [])

    def test_change_among_messages(self) -> None:
        """Subscribers get changes and messages in the order in which they came."""
        self.node.subscribe(self.alice, "room")
        self.node.publish("room")
        self.hub.presence("app", PresenceChange("room", "leave", Member("carol", Raw(b"{}"), 1), "left"))
        self.node.publish("room")
        self.node.end_turn()

        self.assertEqual(self.alice.seen, ["room 1", "presence.leave room", "room 2"])


class LossTests(HubTestCase):
    """What subscribers are told when messages are missing."""

    def test_subscribers_are_told(self) -> None:
        """Subscribers of the channel get an error frame, in its place, and the topic stands at the new position."""
        self.node.subscribe(self.alice, "room", "other")
        self.node.subscribe(self.bob, "other")
        self.node.publish("room")

        self.hub.lost("app", "room", Position("e9", 7))
        self.node.end_turn()

        self.assertEqual((self.alice.seen, self.bob.seen), (["room 1", "recovery_failed room", "subscribed room"], []))
        self.assertEqual(self.node.open("room").position, Position("e9", 7))
        self.assertEqual(self.alice.events[1]["code"], Code.RECOVERY_FAILED)
        self.assertIn("'room'", self.alice.events[1]["error"])


class OccupancyTests(HubTestCase):
    """What the broker is told of subscribers."""

    def test_first_and_last(self) -> None:
        """A channel is occupied by its first subscriber and vacated by its last; whoever only holds it is none."""
        told: list[tuple[str, str, bool]] = []
        self.node = Node(on_occupancy=lambda *what: told.append(what))
        self.hub = self.node.hub
        topic = self.node.open("room")
        self.hub.watch(topic, self.bob)
        self.assertEqual(told, [])

        self.node.subscribe(self.alice, "room")
        self.node.subscribe(self.bob, "room")
        self.node.subscribe(self.bob, "room")
        self.hub.part(topic, self.alice)
        self.assertEqual(told, [("app", "room", True)])
        self.hub.part(topic, self.bob)
        self.hub.part(topic, self.bob)

        self.assertEqual(told, [("app", "room", True), ("app", "room", False)])

    def test_said_again(self) -> None:
        """A broker that is told twice tells once."""
        told: list[bool] = []
        broker = Node(on_occupancy=lambda app, channel, is_occupied: told.append(is_occupied)).memory_broker
        for _ in range(2):
            broker.vacate("app", "room")
        for _ in range(2):
            broker.occupy("app", "room")
        for _ in range(2):
            broker.vacate("app", "room")

        self.assertEqual(told, [True, False])


class HoldingTests(HubTestCase):
    """How topics come and go."""

    def test_held_until_the_last_lets_go(self) -> None:
        """A channel stays attached as long as somebody holds its topic."""
        first, second = self.node.open("room"), self.node.open("room")
        self.assertIs(first, second)

        self.hub.close(first)
        self.node.publish("room")
        self.assertEqual((first.sequence, len(self.hub)), (1, 1))
        self.hub.close(second)

        self.node.publish("room")
        self.assertEqual((first.sequence, len(self.hub)), (1, 0))
        self.assertEqual(self.node.open("room").sequence, 2)

    def test_opened_once_for_all(self) -> None:
        """Who opens a topic that is being opened waits for the same one."""
        self.journal.holds_tails = True
        opening = [Deferred.fromCoroutine(self.hub.open("app", "room")) for _ in range(2)]
        self.assertNoResult(opening[1])

        self.journal.release()

        first, second = map(self.successResultOf, opening)
        self.assertIs(first, second)
        self.assertEqual((first.holders, self.journal.tails), (2, 1))

    def test_failure_to_open(self) -> None:
        """When the broker can't attach, all who wait are told so, and the next one tries again."""
        self.journal.holds_tails = True
        self.journal.tail_trouble = Unavailable("the disk is gone")
        opening = [Deferred.fromCoroutine(self.hub.open("app", "room")) for _ in range(2)]

        self.journal.release()

        for opened in opening:
            self.failureResultOf(opened, Unavailable)
        self.assertEqual(len(self.hub), 0)
        self.journal.tail_trouble, self.journal.holds_tails = None, False
        self.assertEqual(self.node.open("room").holders, 1)

    def test_message_before_attach_is_answered(self) -> None:
        """A message that is delivered before the broker answers is part of the topic's position."""
        self.node.broker.is_late = True
        opening = Deferred.fromCoroutine(self.hub.open("app", "room"))
        self.node.publish("room")

        self.node.clock.advance(0.001)

        self.assertEqual(self.successResultOf(opening).position, Position("e1", 1))
