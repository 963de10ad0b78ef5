"""Tests of the client's automaton, without a transport."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from tests.base import SynchronousTestCase
from wsock.client import effects as fx
from wsock.client.conversation import Conversation
from wsock.client.effects import Call, Effect
from wsock.client.errors import ClientError
from wsock.client.frames import request
from wsock.protocol.codec import encode
from wsock.protocol.position import Position

Kind = Literal["publish", "subscribe", "unsubscribe", "history", "members", "present", "absent"]

ACTIONS: dict[Kind, str] = {"members": "presence.get", "present": "presence.enter", "absent": "presence.leave"}
FENCE = {"action": "resume", "positions": {}}
AT_4 = {"action": "resume", "positions": {"chat": {"epoch": "E", "sequence": 4}}}


class ConversationTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.conversation = Conversation(max_pending=4)
        self.sent: list[dict[str, Any]] = []
        self.results: dict[Call, Any] = {}
        self.told: list[Effect] = []

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case fx.Send(text):
                    self.sent.append(msgspec.json.decode(text))
                case fx.Done(call, value):
                    self.results[call] = value
                case fx.Failed(call, error):
                    self.results[call] = error.code
                case _:
                    self.told.append(effect)

    def opens(self) -> None:
        self.perform(self.conversation.opened())

    def hears(self, action: str, channel: str | None = "chat", **fields: Any) -> None:
        fields |= {} if channel is None else {"channel": channel}
        self.perform(self.conversation.received(encode({"action": action, **fields})))

    def subscribed(self, sequence: int, epoch: str = "E") -> None:
        self.hears("subscribed", epoch=epoch, sequence=sequence)

    def message(self, sequence: int) -> None:
        self.hears("message", id=f"m{sequence}", data=1, timestamp=1, publisherId="p", sequence=sequence)

    def resumed(self, *recovered: str, lost: tuple[str, ...] = ()) -> None:
        self.hears("ack", None, id="resume", data={"recovered": recovered, "lost": lost})

    def error(self, code: str, channel: str | None = "chat", **fields: Any) -> None:
        self.hears("error", channel, error="text", code=code, **fields)

    def asks(self, kind: Kind, **fields: Any) -> Call:
        text = request(ACTIONS.get(kind, kind), channel="chat")
        call = Call(kind=kind, channel="chat", text=text, presence=text if kind == "present" else None, **fields)
        self.perform(self.conversation.ask(call))
        return call

    def actions(self) -> list[str]:
        """What was sent since the last time; a fence is ``|``."""
        sent, self.sent = self.sent, []
        return ["|" if r == FENCE else r["action"] for r in sent]

    def news(self) -> list[Any]:
        """What the user was told since the last time, in short."""
        told, self.told = self.told, []
        return [_short(effect) for effect in told if not isinstance(effect, fx.Ready)]

    def is_subscribed(self, sequence: int = 4) -> None:
        """The chat is subscribed."""
        self.opens()
        self.asks("subscribe")
        self.subscribed(sequence)
        self.actions()


def _short(effect: Effect) -> Any:
    match effect:
        case fx.Deliver(message):
            return message.sequence
        case fx.Lost(channel):
            return f"lost {channel}"
        case fx.Fault(error) | fx.Restart(error) | fx.Expiring(error):
            return f"{type(effect).__name__} {error.code}"
        case _:
            return effect


class LaneTests(ConversationTestCase):
    def test_waits_for_the_connection(self) -> None:
        """What is asked before is sent when it opens."""
        self.asks("subscribe")
        self.asks("publish", id="1")
        self.assertEqual(self.actions(), [])
        self.opens()
        self.assertEqual(self.actions(), ["publish", "subscribe"])

    def test_one_at_a_time(self) -> None:
        """The requests of a channel, publishes aside, do not overtake each other, so each answer is the right one's."""
        self.opens()
        subscribe, history, members = (self.asks("subscribe"), self.asks("history"), self.asks("members"))
        self.assertEqual(self.actions(), ["subscribe"])
        self.subscribed(4)
        self.assertEqual(self.results[subscribe], Position("E", 4))
        self.assertEqual(self.actions(), ["history"])
        self.error("forbidden")
        self.assertEqual(self.results[history], "forbidden")
        self.assertEqual(self.actions(), ["presence.get"])
        self.hears("presence.members", data=[], members=[])
        self.assertEqual(self.results[members], [])

    def test_asked_again_on_the_next_connection(self) -> None:
        """A request without an answer is made again."""
        self.opens()
        history = self.asks("history")
        self.conversation.lost()
        self.opens()
        self.assertEqual(self.actions(), ["history", "history"])
        self.hears("history", data={"messages": [], "hasMore": False})
        self.assertIn(history, self.results)

    def test_given_up(self) -> None:
        """What was given up is not sent any more; if it was sent, its answer is not taken for the next one's."""
        self.opens()
        first, second, third = self.asks("members"), self.asks("members"), self.asks("members")
        self.conversation.give_up(first)
        self.conversation.give_up(second)
        self.hears("presence.members", data=[], members=[])
        self.assertEqual(self.actions(), ["presence.get", "presence.get"])
        self.assertEqual(self.results, {})
        self.hears("presence.members", data=[], members=[])
        self.assertEqual(self.results, {third: []})

    def test_bounded(self) -> None:
        """Too many requests are refused, publishes and others apart."""
        others = [self.asks("history") for _ in range(5)]
        publishes = [self.asks("publish", id=str(n)) for n in range(5)]
        self.assertEqual(self.results, {others[4]: "limit_exceeded", publishes[4]: "limit_exceeded"})

    def test_ended(self) -> None:
        """The end fails everything, and nothing is kept."""
        calls = [self.asks("history"), self.asks("publish", id="1")]
        self.perform(self.conversation.end(ClientError("closed", "closed")))
        self.assertEqual([self.results[call] for call in calls], ["closed", "closed"])
        self.opens()
        self.assertEqual(self.actions(), [])


class PublishTests(ConversationTestCase):
    def test_errors_by_id(self) -> None:
        """An error with an id fails the publish of that id, with or without a channel."""
        self.opens()
        first, second, third = (self.asks("publish", id=id) for id in "abc")
        self.error("too_large", id="b")
        self.error("rate_limited", None, id="c")
        self.error("forbidden", id="unknown")
        self.assertEqual(self.results, {second: "too_large", third: "rate_limited"})
        self.assertNotIn(first, self.results)
        self.assertEqual(self.news(), [])

    def test_an_id_in_use(self) -> None:
        """A second publish with the id of one under way is refused."""
        self.asks("publish", id="a")
        self.assertEqual(self.results[self.asks("publish", id="a")], "bad_request")

    def test_named_like_other_acks(self) -> None:
        """A publish may have the id that acks of resumes have."""
        self.is_subscribed()
        publish = self.asks("publish", id="resume")
        self.hears("ack", id="resume", timestamp=1, sequence=5)
        self.assertEqual(self.results[publish].sequence, 5)


class SubscribeTests(ConversationTestCase):
    def test_twice(self) -> None:
        """A channel that is subscribed is not asked for again."""
        self.is_subscribed()
        self.message(5)
        self.assertEqual(self.results[self.asks("subscribe")], Position("E", 5))
        self.assertEqual(self.actions(), [])

    def test_unsubscribe(self) -> None:
        """Delivery ends with the call, whatever is still on its way."""
        self.is_subscribed()
        unsubscribe = self.asks("unsubscribe")
        self.message(5)
        self.hears("unsubscribed")
        self.assertIn(unsubscribe, self.results)
        self.assertEqual(self.news(), [])
        self.conversation.lost()
        self.opens()
        self.assertEqual(self.actions(), ["unsubscribe"])

    def test_there_and_back(self) -> None:
        """The last word counts."""
        self.opens()
        calls = [self.asks("subscribe"), self.asks("unsubscribe"), self.asks("subscribe")]
        self.subscribed(4)
        self.hears("unsubscribed")
        self.subscribed(6)
        self.assertEqual(self.actions(), ["subscribe", "unsubscribe", "subscribe"])
        self.assertEqual(len(self.results), len(calls))
        self.message(7)
        self.assertEqual(self.news(), [7])

    def test_refused(self) -> None:
        """A refused subscription is none, and is not resumed."""
        self.opens()
        subscribe = self.asks("subscribe")
        self.error("forbidden")
        self.conversation.lost()
        self.opens()
        self.assertEqual(self.results[subscribe], "forbidden")
        self.assertEqual(self.actions(), ["subscribe"])

    def test_undone_after_a_failure(self) -> None:
        """A subscription that takes effect after its call failed is ended: it is all or nothing."""
        self.opens()
        self.asks("subscribe", rewind=5)
        self.error("forbidden")
        self.subscribed(4)
        self.message(5)
        self.hears("unsubscribed")
        self.assertEqual(self.actions(), ["subscribe", "unsubscribe"])
        self.assertEqual(self.news(), [])
        self.assertEqual(self.conversation.positions, {})

    def test_ended_by_the_server(self) -> None:
        """The user is told why, and the channel is not resumed."""
        self.is_subscribed()
        self.error("forbidden")
        self.hears("unsubscribed")
        self.assertEqual(self.news(), ["Fault forbidden"])
        self.assertEqual(self.conversation.positions, {})


class ResumeTests(ConversationTestCase):
    def test_in_order(self) -> None:
        """First the resume, then publishes; other requests wait until it is done."""
        self.is_subscribed()
        self.asks("history")
        self.asks("publish", id="1")
        self.conversation.lost()
        self.actions()
        self.opens()
        self.assertEqual(self.sent[0], AT_4)
        self.assertEqual(self.actions(), ["resume", "publish"])
        self.subscribed(4)
        self.resumed("chat")
        self.assertEqual(self.actions(), ["history"])
        self.message(5)
        self.assertEqual(self.news(), [5])

    def test_lost(self) -> None:
        """A loss is told once, and the new position counts."""
        self.is_subscribed()
        self.conversation.lost()
        self.opens()
        self.subscribed(0, epoch="F")
        self.resumed(lost=("chat",))
        self.error("recovery_failed")
        self.message(1)
        self.assertEqual(self.news(), ["lost chat", 1])
        self.assertEqual(self.conversation.positions, {"chat": Position("F", 1)})

    def test_refused(self) -> None:
        """A channel that may not be resumed is ended."""
        self.is_subscribed()
        self.conversation.lost()
        self.opens()
        self.error("forbidden")
        self.hears("unsubscribed")
        self.resumed()
        self.assertEqual(self.news(), ["Fault forbidden"])
        self.assertEqual(self.conversation.positions, {})

    def test_failed(self) -> None:
        """Without a resume the connection is of no use."""
        self.is_subscribed()
        self.conversation.lost()
        self.opens()
        self.error("unavailable", None)
        self.assertEqual(self.news(), ["Restart unavailable"])

    def test_many_channels(self) -> None:
        """Positions go in frames that the server reads, and all acks are waited for."""
        conversation = self.conversation = Conversation()
        self.opens()
        for n in range(450):
            text = request("subscribe", channel=f"c{n}")
            self.perform(conversation.ask(Call(kind="subscribe", channel=f"c{n}", text=text)))
            self.hears("subscribed", f"c{n}", epoch="E", sequence=n)
        conversation.lost()
        self.sent.clear()
        self.told.clear()
        self.opens()
        self.assertEqual([len(r["positions"]) for r in self.sent], [200, 200, 50])
        for _ in range(3):
            self.assertNotIn(fx.Ready(), self.told)
            self.resumed()
        self.assertIn(fx.Ready(), self.told)

    def test_a_token_is_no_answer(self) -> None:
        """The server's own resume tokens are for other clients."""
        self.is_subscribed()
        self.conversation.lost()
        self.opens()
        self.told.clear()
        self.hears("ack", None, id="resume", data={"resumeToken": "x"})
        self.assertEqual(self.told, [])


class GapTests(ConversationTestCase):
    def test_repaired(self) -> None:
        """A gap makes the channel resume, on the same connection; nothing is delivered out of order."""
        self.is_subscribed()
        self.message(6)
        self.assertEqual(self.news(), ["Fault gap"])
        self.assertEqual(self.sent[1], AT_4)
        self.assertEqual(self.actions(), ["unsubscribe", "resume"])
        self.message(7)
        self.hears("unsubscribed")
        self.subscribed(4)
        self.resumed("chat")
        for sequence in (5, 6, 7):
            self.message(sequence)
        self.assertEqual(self.news(), [5, 6, 7])

    def test_not_repaired(self) -> None:
        """It is tried once: then the loss is told."""
        self.is_subscribed()
        self.message(6)
        self.hears("unsubscribed")
        self.subscribed(4)
        self.resumed("chat")
        self.message(6)
        self.message(7)
        self.assertEqual(self.news(), ["Fault gap", "lost chat", 6, 7])

    def test_interrupted(self) -> None:
        """A connection lost during the repair resumes as ever."""
        self.is_subscribed()
        self.message(6)
        self.conversation.lost()
        self.actions()
        self.opens()
        self.assertEqual(self.sent, [AT_4])
        self.subscribed(4)
        self.resumed("chat")
        self.message(5)
        self.assertEqual(self.news(), ["Fault gap", 5])

    def test_refused(self) -> None:
        """A repair that is not allowed any more ends the subscription."""
        self.is_subscribed()
        self.message(6)
        self.hears("unsubscribed")
        self.error("forbidden")
        self.hears("unsubscribed")
        self.resumed()
        self.assertEqual(self.news(), ["Fault gap", "Fault forbidden"])
        self.assertEqual(self.conversation.positions, {})

    def test_the_server_lost_something(self) -> None:
        """The loss is told, the server is asked where it stands, and delivery goes on."""
        self.is_subscribed()
        self.error("recovery_failed")
        self.assertEqual(self.actions(), ["subscribe"])
        self.subscribed(2, epoch="F")
        self.message(3)
        self.assertEqual(self.news(), ["lost chat", 3])
        self.assertEqual(self.conversation.positions, {"chat": Position("F", 3)})

    def test_a_loss_fails_no_request(self) -> None:
        """A loss is no answer to the request that is under way."""
        self.is_subscribed()
        history = self.asks("history")
        self.error("recovery_failed")
        self.assertNotIn(history, self.results)


class PresenceTests(ConversationTestCase):
    def test_fenced(self) -> None:
        """Presence requests are done when the server has answered what follows them."""
        self.opens()
        enter = self.asks("present")
        self.assertEqual(self.actions(), ["presence.enter", "|"])
        self.assertNotIn(enter, self.results)
        self.resumed()
        self.assertIsNone(self.results[enter])

    def test_refused(self) -> None:
        """An error is the answer; what follows it is not taken for the next request's."""
        self.opens()
        enter, leave = self.asks("present"), self.asks("absent")
        self.error("forbidden")
        self.assertEqual(self.actions(), ["presence.enter", "|", "presence.leave", "|"])
        self.resumed()
        self.assertEqual(self.results, {enter: "forbidden"})
        self.resumed()
        self.assertEqual(self.results, {enter: "forbidden", leave: None})

    def test_a_refused_fence(self) -> None:
        """An error that names nothing fails the request whose fence it must be."""
        self.opens()
        enter = self.asks("present")
        self.error("rate_limited", None)
        self.assertEqual(self.results, {enter: "rate_limited"})

    def test_restored(self) -> None:
        """A member enters again on each connection, until it leaves."""
        self.opens()
        self.asks("present")
        self.resumed()
        self.conversation.lost()
        self.actions()
        self.opens()
        self.assertEqual(self.actions(), ["presence.enter", "|"])
        self.resumed()
        self.asks("absent")
        self.resumed()
        self.conversation.lost()
        self.actions()
        self.opens()
        self.assertEqual(self.actions(), [])

    def test_not_restored(self) -> None:
        """The user is told when that is refused, and it is not tried again."""
        self.opens()
        self.asks("present")
        self.resumed()
        self.conversation.lost()
        self.opens()
        self.error("forbidden")
        self.assertEqual(self.news(), ["Fault forbidden"])
        self.conversation.lost()
        self.actions()
        self.opens()
        self.assertEqual(self.actions(), [])


class FrameTests(ConversationTestCase):
    def test_unknown_actions(self) -> None:
        """What the client does not know is ignored."""
        self.opens()
        self.hears("hello")
        self.assertEqual(self.news(), [])

    def test_bad_frames(self) -> None:
        """What is no frame is told."""
        self.opens()
        for text in (b"[]", b"{", b'{"action":"message"}', b"\xff"):
            self.perform(self.conversation.received(text))
        self.assertEqual(self.news(), ["Fault bad_frame"] * 4)

    def test_moves_and_expiry(self) -> None:
        """Both are for the connection's keeper."""
        self.opens()
        self.hears("reconnect", None, delay=1500)
        self.error("token_expired", None)
        self.assertEqual(self.news(), [fx.Move(1.5), "Expiring token_expired"])

    def test_errors_that_answer_nothing(self) -> None:
        """They are told."""
        self.opens()
        self.error("internal", None)
        self.error("forbidden", "other")
        self.assertEqual(self.news(), ["Fault internal", "Fault forbidden"])
