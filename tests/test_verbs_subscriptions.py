"""``subscribe``, ``unsubscribe`` and ``resume``, as a client sees them."""

from __future__ import annotations

import base64
import json
from typing import Any

from twisted.internet.defer import Deferred

from tests.vocabulary import Gate, ServerTestCase
from wsock.config import Config, Limits, Recovery
from wsock.errors import Unavailable
from wsock.testing import InMemoryClient


def token_of(
    content: dict[str, Any], *, is_urlsafe: bool = True, is_padded: bool = False, charset: str = "utf-8"
) -> str:
    """A resume token as one of the SDKs makes it."""
    raw = json.dumps(content, ensure_ascii=False).encode(charset)
    text = (base64.urlsafe_b64encode if is_urlsafe else base64.b64encode)(raw).decode()
    return text if is_padded else text.rstrip("=")


class SubscribeTests(ServerTestCase):
    def test_position(self) -> None:
        """The answer names the position from which live delivery starts."""
        self.publish("news", 1, 2)
        client = self.connected()

        client.says({"action": "subscribe", "channel": "news"})

        event = self.assert_told(client, action="subscribed", channel="news", sequence=2)
        self.assertTrue(event["epoch"])
        self.publish("news", 3)
        self.assert_told(client, action="message", data=3, sequence=3)

    def test_idempotent(self) -> None:
        """Asking again is answered, and changes nothing: no second rewind, no second delivery."""
        self.publish("news", 1, 2)
        client = self.connected()

        client.says(*[{"action": "subscribe", "channel": "news", "rewind": 2}] * 3)
        events = client.take()
        self.assertEqual([e["action"] for e in events].count("subscribed"), 3)
        self.assertEqual([e["data"] for e in events if e["action"] == "message"], [1, 2])
        self.publish("news", 3)

        self.assert_told(client, action="message", data=3)

    def test_rewind_in_vain(self) -> None:
        """A second subscribe with a rewind, after one without or after unsubscribing, brings no second one."""
        self.publish("news", 1)
        client = self.connected()
        client.says({"action": "subscribe", "channel": "news"}, {"action": "subscribe", "channel": "news", "rewind": 1})
        self.assert_actions(client, "subscribed", "subscribed")
        unsubscribe = {"action": "unsubscribe", "channel": "news"}
        again = {"action": "subscribe", "channel": "news", "rewind": 1}

        client.says(unsubscribe, again)
        self.assert_actions(client, "unsubscribed", "subscribed", "message")
        client.says(unsubscribe, again)

        self.assert_actions(client, "unsubscribed", "subscribed")

    def test_rewind(self) -> None:
        """The last messages come first, oldest first, then the live ones."""
        self.publish("news", *range(10))
        client = self.connected()

        client.says({"action": "subscribe", "channel": "news", "rewind": 3})
        self.publish("news", 10)

        self.assertEqual(self.data_of(client), [7, 8, 9, 10])

    def test_rewinds_of_several_channels(self) -> None:
        """Each channel's rewind is sent, one after the other on one connection."""
        for channel in "abc":
            self.publish(channel, channel)
        client = self.connected()

        for channel in "abc":
            client.says({"action": "subscribe", "channel": channel, "rewind": 5})
        self.publish("b", "live")

        self.assertEqual(self.data_of(client), ["a", "b", "c", "live"])

    def test_odd_rewinds(self) -> None:
        """Zero, negative, null and enormous ones are clamped."""
        self.publish("news", 1, 2)
        for rewind, expected in ((0, []), (-1, []), (None, []), (0.5, []), (1.5, [2]), (10**9, [1, 2])):
            client = self.connected()
            client.says({"action": "subscribe", "channel": "news", "rewind": rewind})
            self.assertEqual(self.data_of(client), expected, rewind)

    def test_rewind_takes_history(self) -> None:
        """Without the permission for history the channel is subscribed, without the past."""
        self.publish("news", 1)
        client = self.connected(token=self.server.token(permissions={"*": ["subscribe"]}))

        client.says({"action": "subscribe", "channel": "news", "rewind": 5})

        refused, subscribed = self.assert_actions(client, "error", "subscribed")
        self.assert_fields(refused, code="forbidden", channel="news")
        self.assertIn("'history'", refused["error"])

    def test_published_during_a_rewind(self) -> None:
        """What is published while the past is read comes behind it, without a gap."""
        self.publish("news", 1, 2)
        history, gate = self.server.server.stores.history, Gate()
        client = self.connected()
        self.patch(history, "page", late(gate, history.page))
        client.says({"action": "subscribe", "channel": "news", "rewind": 5})

        self.publish("news", 3)
        gate.open()
        self.server.settle()
        self.publish("news", 4)

        self.assertEqual(self.data_of(client), [1, 2, 3, 4])

    def test_lost_during_a_rewind(self) -> None:
        """A client that goes meanwhile is subscribed to nothing."""
        history, gate = self.server.server.stores.history, Gate()
        client = self.connected()
        self.patch(history, "page", gate.guard(history.page))
        client.says({"action": "subscribe", "channel": "news", "rewind": 5})

        client.disappears()
        gate.open()
        self.server.settle()

        self.assertEqual(len(self.server.server.hub), 0)

    def test_failing_rewind(self) -> None:
        """When the past can't be read the client is told, and not subscribed."""

        async def fails(*_: Any) -> None:
            raise ValueError("a bug")

        client = self.connected()
        self.patch(self.server.server.stores.history, "page", fails)
        client.says({"action": "subscribe", "channel": "news", "rewind": 5})

        self.assert_refused(client, "internal", channel="news")
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(len(self.server.server.hub), 0)

    def test_permission(self) -> None:
        """Without the permission nothing is subscribed, and the error names it."""
        client = self.connected(token=self.server.token(permissions={"news:*": ["subscribe"]}))

        client.says({"action": "subscribe", "channel": "sports"}, {"action": "subscribe", "channel": "news:1"})

        refused, subscribed = client.take()
        self.assert_fields(refused, code="forbidden", channel="sports")
        self.assertIn("'subscribe'", refused["error"])
        self.assert_fields(subscribed, action="subscribed", channel="news:1")

    def test_names(self) -> None:
        """A name is 1 to 255 bytes without control characters, whatever else it holds."""
        client = self.connected()
        for name in ("", "x" * 256, "a\x00", "a\n", "é" * 128, "a\u2028b"):
            for action in ("subscribe", "unsubscribe"):
                client.says({"action": action, "channel": name})
                self.assert_refused(client, "channel_name", channel=name)
        for name in ("x" * 255, "a b", "é" * 127, "support:1:conv:2", "{*}", '"'):
            client.says({"action": "subscribe", "channel": name})
            self.assert_told(client, action="subscribed", channel=name)


def late(gate: Gate, method: Any) -> Any:
    """The method, whose result is held back."""

    async def waits(*args: Any) -> Any:
        result = await method(*args)
        await gate.guard(nothing)()
        return result

    return waits


async def nothing() -> None:
    """Does nothing."""


class UnsubscribeTests(ServerTestCase):
    def test_store_away(self) -> None:
        """While a store is away a subscribe is answered ``unavailable``, and made up for when it is back."""
        client = self.connected()

        async def fails(*_: Any) -> None:
            raise Unavailable("away")

        patch = self.patch(self.server.server.stores.broker, "attach", fails)
        for channel in ("a", "b"):
            client.says({"action": "subscribe", "channel": channel})
            self.assert_refused(client, "unavailable", channel=channel)
        client.says({"action": "unsubscribe", "channel": "b"})
        self.assert_told(client, action="unsubscribed")
        self.server.advance(5)
        self.assert_silent(client)
        patch.restore()
        self.server.advance(2)

        self.assert_told(client, action="subscribed", channel="a")
        self.publish("a", 1)
        self.assert_told(client, action="message", data=1)

    def test_many_while_a_store_is_away(self) -> None:
        """What is to be made up for is bounded like the subscriptions themselves."""
        self.server = self.serve(Config(limits=Limits(channels_per_connection=2)))
        client = self.connected()

        async def fails(*_: Any) -> None:
            raise Unavailable("away")

        patch = self.patch(self.server.server.stores.broker, "attach", fails)
        for number in range(5):
            client.says({"action": "subscribe", "channel": f"c{number}"})
            self.assert_refused(client, "unavailable")
        patch.restore()
        self.server.advance(2)

        self.assertEqual([e["channel"] for e in client.take()], ["c0", "c1"])

    def test_lost_while_it_is_made_up_for(self) -> None:
        """A client that goes meanwhile leaves nothing behind, and nothing is logged as a fault."""
        client = self.connected()
        pending: list[Deferred[None]] = []

        async def fails(*_: Any) -> None:
            raise Unavailable("away")

        async def waits(*_: Any) -> None:
            pending.append(Deferred())
            await pending[-1]

        patch = self.patch(self.server.server.stores.broker, "attach", fails)
        client.says({"action": "subscribe", "channel": "a"}, {"action": "subscribe", "channel": "b"})
        patch.restore()
        self.patch(self.server.server.stores.broker, "attach", waits)
        self.server.advance(2)
        self.assertEqual(len(pending), 1)

        client.disappears()
        self.server.advance(2)

        self.assertEqual((len(pending), len(self.server.server.hub)), (1, 0))

    def test_unsubscribe(self) -> None:
        """Delivery ends; other subscriptions go on."""
        client, other = self.subscribed("a", "b"), self.subscribed("a")

        client.says({"action": "unsubscribe", "channel": "a"})
        self.assert_told(client, action="unsubscribed", channel="a")
        self.publish("a", 1)
        self.publish("b", 2)

        self.assertEqual(self.data_of(client), [2])
        self.assertEqual(self.data_of(other), [1])

    def test_not_subscribed(self) -> None:
        """It is answered in any case."""
        client = self.connected()

        client.says({"action": "unsubscribe", "channel": "a"})

        self.assert_told(client, action="unsubscribed", channel="a")

    def test_during_a_replay(self) -> None:
        """A replay of the channel ends; the others' go on."""
        for channel in "ab":
            self.publish(channel, *[channel + "x" * 60_000] * 10)
        client = self.connected()
        client.stops_reading()
        client.says(*[{"action": "subscribe", "channel": channel, "rewind": 10} for channel in "ab"])

        client.says({"action": "unsubscribe", "channel": "a"})
        client.reads()

        events = client.take()
        at = [e["action"] for e in events].index("unsubscribed")
        self.assertNotIn("a", [e["channel"] for e in events[at + 1 :]])
        self.assertEqual([e["data"][0] for e in events if e["action"] == "message"].count("b"), 10)


class LimitsTests(ServerTestCase):
    limits = Limits(channels_per_connection=2)

    def test_channels(self) -> None:
        """One connection has so many channels, the same one counted once."""
        client = self.subscribed("a", "b")

        client.says({"action": "subscribe", "channel": "a"})
        self.assert_told(client, action="subscribed")
        client.says({"action": "subscribe", "channel": "c"})
        self.assert_refused(client, "limit_exceeded", "limits.channels_per_connection", channel="c")
        client.says({"action": "unsubscribe", "channel": "a"}, {"action": "subscribe", "channel": "c"})

        self.assert_actions(client, "unsubscribed", "subscribed")

    def test_resume(self) -> None:
        """A resume can't exceed them either."""
        client = self.subscribed("a")

        client.says({"action": "resume", "positions": {c: {"epoch": "", "sequence": 0} for c in "bc"}})

        events = client.take()
        self.assertIn(("c", "limit_exceeded"), [(e.get("channel"), e.get("code")) for e in events])
        self.assertEqual([e["channel"] for e in events if e["action"] == "unsubscribed"], ["c"])
        self.assertEqual([e["channel"] for e in events if e["action"] == "subscribed"], ["b"])


class ResumeTestCase(ServerTestCase):
    def last_timestamp(self) -> int:
        """The timestamp of a message that is published now."""
        receipt = self.server.wait_for(self.server.server.messages.publish("demo", "clock", 0))
        return int(receipt.timestamp)

    def resumes(self, client: InMemoryClient, **fields: Any) -> list[dict[str, Any]]:
        """What the client hears when it resumes."""
        client.take()
        client.says({"action": "resume", **fields})
        return client.take()

    def missed(self, events: list[dict[str, Any]]) -> list[Any]:
        """The data of the messages."""
        return [event["data"] for event in events if event["action"] == "message"]


class ResumeByTokenTests(ResumeTestCase):
    def test_order_of_the_answer(self) -> None:
        """First ``subscribed`` for each, then the ack, then everything missed in the order of its timestamps."""
        since = self.last_timestamp()
        for n in range(6):
            self.publish("ab"[n % 2], n)
        client = self.connected()

        events = self.resumes(client, resumeToken=token_of({"channels": ["a", "b"], "lastTs": since}))

        self.assertEqual([e["action"] for e in events], ["subscribed"] * 2 + ["ack"] + ["message"] * 6)
        self.assertEqual(events[2], {"action": "ack", "id": "resume", "data": {"recovered": ["a", "b"], "lost": []}})
        self.assertEqual(self.missed(events), list(range(6)))
        self.publish("a", "live")
        self.assertEqual(self.data_of(client), ["live"])

    def test_forms(self) -> None:
        """Every SDK's form of the token is read."""
        since = self.last_timestamp()
        self.publish("é?>", 1)
        forms: list[dict[str, Any]] = [
            {"is_urlsafe": True},
            {"is_urlsafe": True, "is_padded": True},
            {"is_urlsafe": False, "is_padded": True},
            {"is_urlsafe": False},
            {"is_urlsafe": False, "is_padded": True, "charset": "latin-1"},
        ]
        for form in forms:
            for field, key in (("resumeToken", "lastTs"), ("token", "since")):
                for value in (since, float(since)):
                    token = token_of({"channels": ["é?>"], key: value}, **form)
                    events = self.resumes(self.connected(), **{field: token})
                    self.assertEqual(self.missed(events), [1], (form, field, value))

    def test_unreadable(self) -> None:
        """A token without readable channels is a bad request, and nothing is subscribed."""
        client = self.connected()
        for token in ("", "!!", "bm9wZQ", token_of({}), token_of({"channels": []}), token_of({"channels": "a"})):
            self.resumes(client, resumeToken=token)
            client.says({"action": "resume", "resumeToken": token})
            self.assert_refused(client, "bad_request", "resume token")
            if len(self.server.server.hub):
                self.fail(token)
            client = self.connected()

    def test_future(self) -> None:
        """A timestamp of the future misses nothing, and delivery is live."""
        client = self.connected()

        events = self.resumes(client, token=token_of({"channels": ["a"], "since": 1 << 60}))

        self.assertEqual([e["action"] for e in events], ["subscribed", "ack"])
        self.publish("a", 1)
        self.assertEqual(self.data_of(client), [1])

    def test_partial_refusal(self) -> None:
        """A channel that may not be subscribed is refused and unsubscribed; the others are resumed."""
        since = self.last_timestamp()
        self.publish("a", 1)
        client = self.connected(token=self.server.token(permissions={"a": ["subscribe"], "c": ["subscribe"]}))

        events = self.resumes(client, token=token_of({"channels": ["a", "b", "", "c"], "since": since}))

        refused = [(e["channel"], e["code"]) for e in events if e["action"] == "error"]
        self.assertEqual(refused, [("b", "forbidden"), ("", "channel_name")])
        self.assertEqual([e["channel"] for e in events if e["action"] == "unsubscribed"], ["b", ""])
        [ack] = [e for e in events if e["action"] == "ack"]
        self.assertEqual(ack["data"], {"recovered": ["a", "c"], "lost": []})
        self.assertEqual(self.missed(events), [1])

    def test_lost(self) -> None:
        """A channel that can't be proved complete is named, once as lost and once in an error."""
        self.publish("a", 1)
        self.server.advance(1)
        client = self.connected()

        events = self.resumes(client, token=token_of({"channels": ["a"], "since": 1}))

        self.assertEqual([e["action"] for e in events], ["subscribed", "ack", "error", "message"])
        self.assertEqual(events[1]["data"], {"recovered": [], "lost": ["a"]})
        self.assert_fields(events[2], code="recovery_failed", channel="a")

    def test_twice(self) -> None:
        """A second resume repeats nothing of what is subscribed already."""
        since = self.last_timestamp()
        self.publish("a", 1)
        client, token = self.connected(), token_of({"channels": ["a"], "since": since})
        self.assertEqual(self.missed(self.resumes(client, token=token)), [1])

        events = self.resumes(client, token=token)
        self.assertEqual([e["action"] for e in events], ["subscribed", "ack"])
        self.publish("a", 2)

        self.assertEqual(self.data_of(client), [2])

    def test_subscribe_behind_a_resume(self) -> None:
        """An SDK that subscribes again to what it resumed gets no message twice."""
        since = self.last_timestamp()
        self.publish("a", 1)
        client = self.connected()

        client.says(
            {"action": "resume", "resumeToken": token_of({"channels": ["a"], "lastTs": since})},
            {"action": "subscribe", "channel": "a", "rewind": 5},
        )

        self.assertEqual(self.data_of(client), [1])

    def test_not_persistent(self) -> None:
        """Messages that are no history are recovered as well."""
        since = self.last_timestamp()
        self.publish("a", 1, persist=False)

        events = self.resumes(self.connected(), token=token_of({"channels": ["a"], "since": since}))

        self.assertEqual(self.missed(events), [1])

    def test_no_token_in_the_ack(self) -> None:
        """The ack holds no token: the SDK would use that one for ever."""
        events = self.resumes(self.connected(), token=token_of({"channels": ["a"], "since": 1}))

        self.assertFalse(any("resumeToken" in e.get("data", {}) for e in events if e["action"] == "ack"))

    def test_slow_reader(self) -> None:
        """A replay goes at the pace at which the client reads, and live messages wait for it, in order."""
        since = self.last_timestamp()
        for n in range(40):
            self.publish("ab"[n % 2], [n, "x" * 60_000])
        client = self.connected()
        client.stops_reading()
        client.says({"action": "resume", "token": token_of({"channels": ["a", "b", "quiet"], "since": since})})
        for n in range(40, 60):
            self.publish(("a", "b", "quiet")[n % 3], [n, "x" * 60_000])
        self.assertIsNone(client.closed)

        client.reads()
        self.server.advance(1)

        self.assertEqual([data[0] for data in self.data_of(client)], list(range(60)))
        self.publish("quiet", "live")
        self.assertEqual(self.data_of(client), ["live"])

    def test_lost_during_a_replay(self) -> None:
        """A client that goes in the middle of it leaves nothing behind."""
        since = self.last_timestamp()
        self.publish("a", *["x" * 60_000] * 40)
        client = self.connected()
        client.stops_reading()
        client.says({"action": "resume", "token": token_of({"channels": ["a"], "since": since})})

        client.disappears()
        self.server.advance(1)

        self.assertEqual((len(self.server.server.hub), len(self.server.server.gate)), (0, 0))

    def test_lost_while_opening(self) -> None:
        """Nor does one that goes while its channels are opened or looked at."""
        for method in ("attach", "locate"):
            broker, gate = self.server.server.stores.broker, Gate()
            guard = self.patch(broker, method, gate.guard(getattr(broker, method)))
            client = self.connected()
            client.says({"action": "resume", "token": token_of({"channels": ["a"], "since": 1})})

            client.disappears()
            gate.open()
            self.server.settle()
            guard.restore()

            self.assertEqual(len(self.server.server.hub), 0)

    def test_failure(self) -> None:
        """When the broker fails, the client is told and nothing is subscribed."""

        async def fails(*_: Any) -> None:
            raise ValueError("a bug")

        client = self.connected()
        self.patch(self.server.server.stores.broker, "locate", fails)

        events = self.resumes(client, token=token_of({"channels": ["a"], "since": 1}))

        self.assertEqual([e.get("code") for e in events], ["internal"])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(len(self.server.server.hub), 0)

    def test_store_away(self) -> None:
        """While a store is away a resume resets the connection: an SDK that is told of an error would stay deaf."""

        async def fails(*_: Any) -> None:
            raise Unavailable("away")

        for name, fields in (
            ("attach", {"token": token_of({"channels": ["a"], "since": 1})}),
            ("locate", {"token": token_of({"channels": ["a"], "since": 1})}),
            ("read", {"positions": {"a": {"epoch": "e", "sequence": 1}}}),
        ):
            client = self.connected()
            patch = self.patch(self.server.server.stores.broker, name, fails)

            self.assertEqual(self.resumes(client, **fields), [])

            self.assert_closed(client, "reset")
            self.assertEqual(len(self.server.server.hub), 0)
            patch.restore()


class ResumeByPositionTests(ResumeTestCase):
    def position(self, channel: str) -> dict[str, Any]:
        """Where the channel stands, as clients say it."""
        at = self.server.wait_for(self.server.server.stores.broker.position("demo", channel))
        return {"epoch": at.epoch, "sequence": at.sequence}

    def test_exactly(self) -> None:
        """What is behind the positions is sent, no more and no less, in the order of time."""
        self.publish("a", 1)
        self.publish("b", 2)
        positions = {channel: self.position(channel) for channel in "ab"}
        for n in range(3, 7):
            self.publish("ab"[n % 2], n)

        events = self.resumes(self.connected(), positions=positions)

        self.assertEqual(self.missed(events), [3, 4, 5, 6])
        starts = {e["channel"]: e["sequence"] for e in events if e["action"] == "subscribed"}
        self.assertEqual(starts, {"a": 1, "b": 1})

    def test_level(self) -> None:
        """Who missed nothing is live at once."""
        self.publish("a", 1)
        client = self.connected()

        events = self.resumes(client, positions={"a": self.position("a")})

        self.assertEqual([e["action"] for e in events], ["subscribed", "ack"])
        self.assertEqual(events[1]["data"], {"recovered": ["a"], "lost": []})

    def test_another_epoch(self) -> None:
        """Another epoch, or a position ahead of the channel, is lost, and all that is there is sent."""
        self.publish("a", 1, 2)
        here = self.position("a")
        for position in ({"epoch": "other", "sequence": 1}, {**here, "sequence": 9}):
            events = self.resumes(self.connected(), positions={"a": position})
            self.assertEqual([e["action"] for e in events], ["subscribed", "ack", "error", "message", "message"])
            self.assertEqual(events[1]["data"], {"recovered": [], "lost": ["a"]})

    def test_beyond_the_window(self) -> None:
        """A position older than the recovery window is lost."""
        self.server = self.serve(Config(recovery=Recovery(messages=2)))
        self.publish("a", 1)
        position = self.position("a")
        self.publish("a", 2, 3, 4)

        events = self.resumes(self.connected(), positions={"a": position})

        self.assertEqual(events[1]["data"], {"recovered": [], "lost": ["a"]})
        self.assertEqual(self.missed(events), [3, 4])

    def test_nothing(self) -> None:
        """No positions are nothing to resume."""
        events = self.resumes(self.connected(), positions={})

        self.assertEqual(events, [{"action": "ack", "id": "resume", "data": {"recovered": [], "lost": []}}])


class ServerTokenTests(ResumeTestCase):
    """The tokens for clients that can't make one: ``btoa`` knows no character beyond U+00FF."""

    def tokens(self, client: InMemoryClient) -> list[dict[str, Any]]:
        """The content of the tokens that the client was sent."""
        acks = [e for e in client.take() if e["action"] == "ack" and "resumeToken" in e.get("data", {})]
        self.assertTrue(all(ack["id"] == "resume" for ack in acks))
        return [json.loads(base64.urlsafe_b64decode(ack["data"]["resumeToken"])) for ack in acks]

    def test_latin_1(self) -> None:
        """Who can make its own gets none."""
        client = self.connected()
        client.says({"action": "subscribe", "channel": "café ÿ"})
        self.server.advance(30)

        self.assertEqual(self.tokens(client), [])

    def test_renewed(self) -> None:
        """One is sent with each change of the channels, and as messages come."""
        client = self.connected()
        client.says({"action": "subscribe", "channel": "日本"})
        [first] = self.tokens(client)
        self.assertEqual(first["channels"], ["日本"])
        client.says({"action": "subscribe", "channel": "a"})
        [second] = self.tokens(client)
        self.assertEqual(second["channels"], ["日本", "a"])

        self.server.advance(10)
        self.assertEqual(self.tokens(client), [])
        self.publish("a", 1)
        [message] = [e for e in client.events if e["action"] == "message"]
        self.server.advance(6)

        [third] = self.tokens(client)
        self.assertEqual(third["lastTs"], message["timestamp"])
        client.says({"action": "unsubscribe", "channel": "日本"})
        self.assertEqual(self.tokens(client), [])

    def test_resumes_without_loss(self) -> None:
        """A token that was made before any message came recovers the first one, even of the same millisecond."""
        client = self.connected()
        client.says({"action": "subscribe", "channel": "日本"})
        [ack] = [e for e in client.take() if e["action"] == "ack"]
        client.disappears()
        self.publish("日本", 1)

        client = self.connected()
        events = self.resumes(client, resumeToken=ack["data"]["resumeToken"])

        self.assertEqual(self.missed(events), [1])
        self.assertIn("resumeToken", events[-1].get("data", {}))

    def test_not_before_the_replay(self) -> None:
        """While a replay runs there is none, since it would claim what was not sent yet; then there is."""
        since = self.last_timestamp()
        self.publish("日本", *["x" * 60_000] * 20)
        client = self.connected()
        client.stops_reading()
        client.says({"action": "resume", "token": token_of({"channels": ["日本"], "since": since})})
        self.server.advance(10)

        client.reads()
        self.server.advance(6)

        actions = ["token" if "resumeToken" in (e.get("data") or "") else e["action"] for e in client.events]
        self.assertLess(max(n for n, a in enumerate(actions) if a == "message"), actions.index("token"))
        [token] = self.tokens(client)
        self.assertGreater(token["lastTs"], since)
