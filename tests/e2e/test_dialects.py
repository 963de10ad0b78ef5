"""What the SDKs of other languages send, byte for byte where it matters, and what they can not do without.

Dialect A nests what an event says under ``data``; dialect B (Kotlin, Swift, Dart, Ruby, Elixir) reads the top of the
frame. protocol.md I.3 and I.5 rule.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from tests.e2e.cases import NodeTestCase, dev_token
from tests.e2e.wire import Wire, text_frame


def _integer(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 53


class DialectTestCase(NodeTestCase):
    def assert_sound(self, event: dict[str, Any]) -> None:
        """No field of an event is of a type, or null, that ends some SDK."""
        for name in ("timestamp", "joinedAt", "sequence"):
            self.assertTrue(name not in event or _integer(event[name]), event)
        for name in ("action", "id", "channel", "clientId", "publisherId", "error", "code", "epoch", "reason"):
            self.assertTrue(name not in event or type(event[name]) is str, event)
        if event.get("action") == "ack":
            self.assertIsInstance(event.get("data", {}), dict, event)
        if event.get("action") == "message":
            self.assertLessEqual({"channel", "id", "data", "timestamp", "publisherId", "sequence"}, event.keys())

    def assert_member(self, member: dict[str, Any], client_id: str, data: dict[str, Any]) -> None:
        """A member as both dialects read it."""
        self.assertEqual((member["clientId"], member["data"]), (client_id, data))
        self.assert_sound(member)
        self.assertTrue(_integer(member["joinedAt"]))

    def hear(self, wire: Wire, action: str) -> dict[str, Any]:
        """The next event, of this action, sound."""
        event = wire.hear(action)
        self.assert_sound(event)
        return event

    def publish(self, wire: Wire, channel: str, *data: Any) -> list[int]:
        """Publishes; the timestamps of the acks."""
        stamps = []
        for one in data:
            wire.say(action="publish", channel=channel, data=one, id=f"p{one}")
            ack = wire.await_("ack")
            self.assert_sound(ack)
            stamps.append(ack["timestamp"])
        return stamps


class FlatDialectTests(DialectTestCase):
    def test_connect(self) -> None:
        """With key and token in the URL the token counts; a second ``?`` or slash does no harm."""
        token = dev_token("ana")
        wire = self.connected(token=token)

        wire.say(action="presence.enter", channel=self.channel)

        self.assertEqual(self.hear(wire, "presence.enter")["clientId"], "ana")

    def test_subscribe_again(self) -> None:
        """Each ``subscribe`` of a channel is answered, with no second rewind; each ``unsubscribe`` as well."""
        wire = self.connected()
        self.publish(wire, self.channel, 1)

        wire.say(action="subscribe", channel=self.channel, rewind=2)
        self.hear(wire, "subscribed")
        self.assertEqual(self.hear(wire, "message")["data"], 1)
        for action in ("subscribe", "subscribe", "unsubscribe", "unsubscribe"):
            wire.say(action=action, channel=self.channel, rewind=2)
            self.assertEqual(self.hear(wire, f"{action}d")["channel"], self.channel)
        self.assertEqual(wire.rest(), [])

    def test_publish(self) -> None:
        """Data that is absent is null; ``persist`` may be given or not, numbers and ids keep their form."""
        wire = self.subscribed(self.channel)
        frames = [
            '{"action":"publish","channel":"%s","id":"A1"}',
            '{"action":"publish","channel":"%s","id":"A2","data":null,"persist":true}',
            '{"action":"publish","channel":"%s","id":"A3","data":12345678901234567890123,"persist":false}',
            '{"action":"publish","channel":"%s","id":"{9F}","data":{"x":1.0}}',
        ]
        for frame in frames:
            wire.write(text_frame(frame % self.channel))
        heard = [event for event in wire.rest() if event["action"] == "message"]

        for event in heard:
            self.assert_sound(event)
        self.assertEqual([e["data"] for e in heard], [None, None, 12345678901234567890123, {"x": 1.0}])
        self.assertEqual([e["id"] for e in heard], ["A1", "A2", "A3", "{9F}"])

    def test_presence(self) -> None:
        """Presence stands at the top of the frame and nested, with the user's keys spread; all empty data is ``{}``."""
        watcher = self.subscribed(self.channel)
        wire = self.connected(token=dev_token("ana"))
        empty: list[dict[str, Any]] = [{}, {"data": None}, {"data": []}]
        for extra in [*empty, {"data": {"name": "Ana", "clientId": "evil"}}]:
            wire.say(action="presence.enter", channel=self.channel, **extra)
        wire.say(action="presence.update", channel=self.channel, data={"name": "Zoë"})
        wire.say(action="presence.get", channel=self.channel)
        members = wire.await_("presence.members")
        wire.say(action="presence.leave", channel=self.channel)

        events = [watcher.event() for _ in range(3)]
        while events[-1]["action"] != "presence.leave":
            events.append(watcher.event())
        for event in events:
            self.assert_sound(event)
            self.assert_member(event["data"], "ana", event["data"]["data"])
            self.assertTrue(_integer(event["joinedAt"]))
            self.assertEqual((event["clientId"], event["channel"]), ("ana", self.channel))
        self.assertEqual((events[0]["action"], events[0]["data"]["data"]), ("presence.enter", {}))
        named = [event["data"] for event in events if event["data"]["data"].get("name") == "Ana"]
        self.assertEqual((named[0]["name"], named[0]["clientId"]), ("Ana", "ana"))
        self.assertEqual(events[-2]["data"]["name"], "Zoë")
        self.assertEqual(members["data"], members["members"])
        self.assert_member(members["members"][0], "ana", {"name": "Zoë"})

    def test_history(self) -> None:
        """History stands at the top of the frame and nested; odd limits are clamped and unknown keys ignored."""
        wire = self.connected()
        self.publish(wire, self.channel, 1, 2, 3)
        for extra in ({"limit": 0}, {"limit": -5}, {"limit": 2.0, "before": None}, {"limit": 10**9, "foo": "bar"}):
            wire.say(action="history", channel=self.channel, **extra)
            event = self.hear(wire, "history")
            nested = event["data"]
            self.assertEqual((nested["messages"], nested["hasMore"]), (event["messages"], event["hasMore"]))
            self.assertEqual(nested["channel"], self.channel)
            self.assertIs(type(event["hasMore"]), bool)
            self.assertGreaterEqual(len(event["messages"]), 1)
            for entry in event["messages"]:
                self.assert_sound(entry)
                self.assertEqual(entry.keys(), {"id", "channel", "data", "publisherId", "timestamp", "sequence"})

    def test_large_history(self) -> None:
        """More history than fits into a frame comes in pages of at most 1 MiB."""
        wire = self.connected()
        for number in range(40):
            wire.say(action="publish", channel=self.channel, id=f"l{number}", data="x" * 60_000)
            wire.await_("ack")
        seen: list[str] = []
        more: dict[str, int] = {}
        while True:
            wire.say(action="history", channel=self.channel, limit=1000, **more)
            page = self.hear(wire, "history")  # which refuses a frame that is larger
            seen += [entry["id"] for entry in page["messages"]]
            if not page["hasMore"]:
                break
            more = {"before": page["messages"][-1]["timestamp"]}

        self.assertEqual(seen, [f"l{number}" for number in reversed(range(40))])

    def test_error(self) -> None:
        """An error has a text and a code, and the connection lives."""
        wire = self.connected()
        for request in ({"action": "dance"}, {"action": "subscribe", "channel": ""}, {"action": "publish"}):
            wire.say(**request)
            event = self.hear(wire, "error")
            self.assertTrue(event["error"] and event["code"])
        self.assertEqual(wire.rest(), [])


def _standard(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _url_safe(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()


def _unpadded(data: bytes) -> str:
    return _url_safe(data).rstrip("=")


def _compact(**content: Any) -> str:
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False)


class ResumeTokenTests(DialectTestCase):
    """Every form in which an SDK says where it stopped; the channel has letters that the forms treat differently."""

    def resumed(self, field: str, token: str, channels: list[str], missed: list[Any]) -> None:
        """The token resumes the channels: each ``subscribed``, then the ack, then what was missed, in order."""
        wire = self.connected()
        wire.say(action="resume", **{field: token})
        answered = [self.hear(wire, "subscribed")["channel"] for _ in channels]
        self.assertEqual(sorted(answered), sorted(channels))
        ack = self.hear(wire, "ack")
        self.assertEqual(
            (ack["id"], sorted(ack["data"]["recovered"]), ack["data"]["lost"]), ("resume", sorted(channels), [])
        )
        self.assertNotIn("resumeToken", ack["data"])
        heard = [self.hear(wire, "message") for _ in missed]
        self.assertEqual([event["data"] for event in heard], missed)
        stamps = [event["timestamp"] for event in heard]
        self.assertEqual(stamps, sorted(set(stamps)))
        wire.say(action="publish", channel=channels[0], data="live", id=token[-8:] + str(len(missed)))
        self.assertEqual(wire.await_("message")["data"], "live")
        self.assertEqual([event for event in wire.rest() if event["action"] == "message"], [])

    def two_channels(self) -> tuple[list[str], int]:
        """Two channels with messages that alternate, and the timestamp of the third of ten."""
        channels = [f"{self.channel}/é", f"{self.channel}/b"]
        publisher = self.connected()
        stamps = [self.publish(publisher, channels[n % 2], n)[0] for n in range(10)]
        return channels, stamps[2]

    def check(self, field: str, key: str, *tokens: Any) -> None:
        """Tokens made by these functions from the channels and the timestamp all resume."""
        channels, since = self.two_channels()
        for number, token in enumerate(tokens):
            with self.subTest(number):
                # A live message of the round before is missed by the next, as any other.
                missed = [*range(3, 10), *["live"] * number]
                self.resumed(field, token({"channels": channels, key: since}), channels, missed)

    def test_javascript(self) -> None:
        """JS: ``btoa`` of Latin-1."""
        self.check("resumeToken", "lastTs", lambda content: _standard(_compact(**content).encode("latin-1")))

    def test_python(self) -> None:
        """Python: spaces and escapes, URL-safe, unpadded."""
        self.check("resumeToken", "lastTs", lambda content: _unpadded(json.dumps(content).encode()))

    def test_go(self) -> None:
        """Go: keys sorted, URL-safe, padded, UTF-8."""
        self.check(
            "resumeToken", "lastTs", lambda content: _url_safe(_compact(**dict(sorted(content.items()))).encode())
        )

    def test_c_sharp(self) -> None:
        """C#: escapes, compact, URL-safe, unpadded; a float is a timestamp as well."""
        self.check(
            "resumeToken",
            "lastTs",
            lambda content: _unpadded(
                json.dumps(content, separators=(",", ":")).replace("\\u00e9", "\\u00E9").encode()
            ),
            lambda content: _unpadded(json.dumps({**content, "lastTs": float(content["lastTs"])}).encode()),
        )

    def test_php(self) -> None:
        r"""PHP: ``\/`` and escapes."""
        self.check(
            "resumeToken",
            "lastTs",
            lambda content: _unpadded(json.dumps(content, separators=(",", ":")).replace("/", "\\/").encode()),
        )

    def test_java(self) -> None:
        """Java on a machine with ASCII: the letter is a ``?`` for good, the other channel is resumed all the same."""
        channels, since = self.two_channels()
        text = _compact(channels=channels, lastTs=since).encode("ascii", "replace")
        damaged = channels[0].replace("é", "?")

        self.resumed("resumeToken", _unpadded(text), [damaged, channels[1]], [3, 5, 7, 9])

    def test_kotlin_and_ruby(self) -> None:
        """Kotlin, Ruby, Elixir: ``since``, URL-safe, unpadded."""
        self.check("token", "since", lambda content: _unpadded(_compact(**content).encode()))

    def test_swift(self) -> None:
        r"""Swift: ``since``, standard, padded; its JSON escapes slashes."""
        self.check("token", "since", lambda content: _standard(_compact(**content).replace("/", "\\/").encode()))

    def test_dart(self) -> None:
        """Dart: ``since``, URL-safe, padded."""
        self.check("token", "since", lambda content: _url_safe(_compact(**content).encode()))

    def test_refused_channel(self) -> None:
        """A channel that is refused is answered by ``error`` and ``unsubscribed``; the others are resumed."""
        may, may_not = f"{self.channel}:open", f"{self.channel}:closed"
        since = self.publish(self.connected(), may, 1)[0]
        wire = self.connected(token=dev_token("ana", {may: ["subscribe"]}))

        wire.say(action="resume", token=_unpadded(_compact(channels=[may_not, may], since=since - 1).encode()))

        self.assertEqual(self.hear(wire, "error")["channel"], may_not)
        self.assertEqual(self.hear(wire, "unsubscribed")["channel"], may_not)
        self.assertEqual(self.hear(wire, "subscribed")["channel"], may)
        self.assertEqual(self.hear(wire, "ack")["data"], {"recovered": [may], "lost": []})
        self.assertEqual(self.hear(wire, "message")["data"], 1)

    def test_unreadable(self) -> None:
        """A token without readable channels is an error, and the connection lives."""
        wire = self.connected()
        for token in ("", "!!!", _unpadded(b"[]"), _unpadded(b'{"channels":[1],"since":5}')):
            wire.say(action="resume", token=token)
            self.assertEqual(self.hear(wire, "error")["code"], "bad_request")
        self.assertEqual(wire.rest(), [])

    def test_future(self) -> None:
        """A timestamp from the future still subscribes, and live messages come."""
        wire = self.connected()
        wire.say(action="resume", token=_unpadded(_compact(channels=[self.channel], since=1e300).encode()))
        self.hear(wire, "subscribed")
        self.hear(wire, "ack")

        self.publish(self.connected(), self.channel, 1)

        self.assertEqual(self.hear(wire, "message")["data"], 1)

    def test_beyond_latin_1(self) -> None:
        """A connection with a channel that JS could not put into a token is given one, which resumes it."""
        channel = f"{self.channel}:日本"
        publisher, wire = self.connected(), self.subscribed(channel)
        given = self.hear(wire, "ack")
        self.assertEqual(given["id"], "resume")
        self.publish(publisher, channel, 1)
        self.assertEqual(wire.await_("message")["data"], 1)
        wire.vanish()
        self.publish(publisher, channel, 2)

        again = self.connected()
        again.say(action="resume", resumeToken=given["data"]["resumeToken"])

        self.hear(again, "subscribed")
        self.assertEqual(again.await_("message")["data"], 1)  # the first token is from before it
        self.assertEqual(again.await_("message")["data"], 2)
