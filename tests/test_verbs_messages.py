"""``publish`` and ``history``, as a client sees them."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from tests.base import SynchronousTestCase
from tests.vocabulary import ServerTestCase
from wsock.config import Config, History, Limits
from wsock.errors import Refused, Unavailable
from wsock.protocol.codec import encode
from wsock.protocol.messages import Message
from wsock.testing import InMemoryClient, client_frame
from wsock.verbs.messages import history_pages

MIB = 1 << 20


class PublishTests(ServerTestCase):
    def test_message_and_ack(self) -> None:
        """Subscribers get the message, the publisher its ack, with the same facts."""
        publisher, subscriber = self.connected(client_id="bob"), self.subscribed("news")

        publisher.says({"action": "publish", "channel": "news", "data": {"a": 1}, "id": "m1"})

        ack = self.assert_told(publisher, action="ack", id="m1", channel="news", sequence=1)
        message = self.assert_told(subscriber, action="message", channel="news", id="m1", data={"a": 1})
        self.assert_fields(message, sequence=1, timestamp=ack["timestamp"], publisherId="bob")
        self.assertEqual(type(ack["timestamp"]), int)

    def test_own_echo(self) -> None:
        """A publisher that is subscribed gets its own message."""
        client = self.subscribed("news")

        client.says({"action": "publish", "channel": "news", "data": 1})

        self.assertEqual(sorted(event["action"] for event in client.take()), ["ack", "message"])

    def test_without_data(self) -> None:
        """Absent data is null, and always there."""
        subscriber = self.subscribed("news")

        subscriber.says(
            {"action": "publish", "channel": "news"}, {"action": "publish", "channel": "news", "data": None}
        )

        messages = [event for event in subscriber.take() if event["action"] == "message"]
        self.assertEqual([message["data"] for message in messages], [None, None])

    def test_without_id(self) -> None:
        """Absent, null and empty ids are made by the server, each its own."""
        client = self.connected()

        client.says(*[{"action": "publish", "channel": "news", **more} for more in ({}, {"id": None}, {"id": ""})])

        self.assertEqual(len({ack["id"] for ack in client.take()} - {"", None}), 3)

    def test_data_byte_for_byte(self) -> None:
        """Data is passed through as it is: big numbers, spaces, escapes."""
        data = b'{ "n" : 123456789012345678901234567890.10 ,"e":"\\u00e9\\ud83d\\ude00\xc3\xa9","z":1e400}'
        client = self.subscribed("news")

        client.says_text(b'{"action":"publish","channel":"news","data":%b}' % data)

        self.assertTrue(any(b'"data":' + data + b"," in text for text in client.texts), client.texts)

    def test_duplicate(self) -> None:
        """A repeated id gets the first ack, and is delivered once; another identity's is another message."""
        subscriber, publisher = self.subscribed("news"), self.connected(token=self.server.token(sub="bob"))
        request = {"action": "publish", "channel": "news", "id": "m1"}
        publisher.says(request)
        first = publisher.take()
        again = self.connected(token=self.server.token(sub="bob"))
        self.server.advance(60)

        again.says(request)

        self.assertEqual([e for e in again.take() if e["action"] == "ack"], first)
        self.assertEqual(len(self.data_of(subscriber)), 1)
        other = self.connected(token=self.server.token(sub="eve"))
        other.says(request, {**request, "channel": "sports"})
        self.assertEqual(len(self.data_of(subscriber)), 1)

    def test_order(self) -> None:
        """Pipelined publishes keep their order, with sequences from 1 and timestamps that rise."""
        subscriber, publisher = self.subscribed("news"), self.connected()

        publisher.says(*[{"action": "publish", "channel": "news", "data": n} for n in range(50)])

        messages = subscriber.take()
        self.assertEqual([m["data"] for m in messages], list(range(50)))
        self.assertEqual([m["sequence"] for m in messages], list(range(1, 51)))
        timestamps = [m["timestamp"] for m in messages]
        self.assertEqual(timestamps, sorted(set(timestamps)))

    def test_order_across_channels(self) -> None:
        """On one connection timestamps never go back, whatever the channels."""
        subscriber, publisher = self.subscribed("a", "b", "c"), self.connected()

        publisher.says(*[{"action": "publish", "channel": "cab"[n % 3], "data": n} for n in range(30)])

        self.assertEqual(self.data_of(subscriber), list(range(30)))

    def test_permission(self) -> None:
        """Without the permission nothing is published, and the error names it."""
        token = self.server.token(sub="bob", permissions={"news": ["subscribe"]})
        client, subscriber = self.connected(token=token), self.subscribed("news")

        client.says({"action": "publish", "channel": "news", "id": "m1"})

        self.assert_refused(client, "forbidden", "publish", channel="news", id="m1")
        self.assert_silent(subscriber)

    def test_channel_names(self) -> None:
        """The name is checked, before anything is remembered of it."""
        client = self.connected()
        for name in ("", "x" * 256, "a\nb", "é" * 128):
            client.says({"action": "publish", "channel": name, "id": "m1"})
            self.assert_refused(client, "channel_name", id="m1")
        client.says({"action": "publish", "channel": "x" * 255})
        self.assert_told(client, action="ack")

    def test_id_too_long(self) -> None:
        """An id has a bound."""
        client = self.connected()

        client.says({"action": "publish", "channel": "news", "id": "x" * 256})

        self.assert_refused(client, "bad_request", "255")

    def test_unavailable(self) -> None:
        """With the store away the publisher is told to try again, and nobody gets anything."""

        def fails(_: Any) -> Any:
            raise Unavailable("the disk is full", retry_after=1.0)

        subscriber = self.subscribed("news")
        self.patch(self.server.server.stores.history, "commit", fails)

        subscriber.says({"action": "publish", "channel": "news", "id": "m1"})

        self.assert_refused(subscriber, "unavailable", "disk", id="m1", retryAfter=1.0)

    def test_backlog(self) -> None:
        """So is one whose message does not fit into what waits for the disk."""
        server = self.serve(Config(limits=Limits(publish_backlog_bytes=65_536, message_bytes=65_536)))
        client = server.connect()

        client.says({"action": "publish", "channel": "news", "data": "x" * 65_500})

        self.assert_refused(client, "unavailable", "limits.publish_backlog_bytes")


class RateTests(ServerTestCase):
    """Publishes beyond a rate, on a whole server."""

    limits = Limits(
        app_publish_rate=10,
        channel_publish_rate=0.5,
        channel_publish_burst=4,
        user_publish_rate=2,
        user_publish_burst=3,
        connection_rate=100,
    )

    def publish_as(self, client: InMemoryClient, number: int, channel: str = "news") -> list[dict[str, Any]]:
        """What the client is answered to so many publishes."""
        client.says(*[{"action": "publish", "channel": channel, "id": f"m{n}"} for n in range(number)])
        return client.take()

    def test_user(self) -> None:
        """Beyond a user's rate a publish is refused on all the user's connections, with the time to wait."""
        first, second = (self.connected(token=self.server.token(sub="bob")) for _ in range(2))
        acks = self.publish_as(first, 2, "a") + self.publish_as(second, 1, "b")
        self.assertEqual([event["action"] for event in acks], ["ack"] * 3)
        self.server.advance(0.5)

        second.says({"action": "publish", "channel": "c", "id": "late"})

        text = "limits.user_publish_rate allows 3 messages in 1.5 s by this client: try again in 1 s"
        event = self.assert_told(second, action="error", code="rate_limited", channel="c", id="late", retryAfter=1)
        self.assertEqual(event["error"], text)
        self.server.advance(1)
        self.assertEqual(self.publish_as(second, 1, "c")[0]["action"], "ack")

    def test_channel(self) -> None:
        """Beyond a channel's rate it is refused to everybody; other channels go on."""
        for _ in range(2):
            self.publish_as(self.connected(), 2)
        client = self.connected()

        [event] = self.publish_as(client, 1)

        self.assert_fields(event, code="rate_limited", channel="news", retryAfter=8)
        self.assertIn("limits.channel_publish_rate allows 4 messages in 8 s in this channel", event["error"])
        self.assertEqual(self.publish_as(client, 1, "other")[0]["action"], "ack")

    def test_app(self) -> None:
        """Beyond the app's rate it is refused in all channels, in process too; nothing else is."""
        for n in range(5):
            self.publish_as(self.connected(), 2, f"channel-{n}")
        client = self.connected()

        [event] = self.publish_as(client, 1)

        self.assert_fields(event, code="rate_limited", retryAfter=1)
        self.assertIn("limits.app_publish_rate allows 10 messages in 1 s in this app", event["error"])
        self.assertRaises(Refused, self.publish, "news", 1)
        client.says({"action": "subscribe", "channel": "news"}, {"action": "ping"})
        self.assert_actions(client, "subscribed", "pong")

    def test_pipelined(self) -> None:
        """Of publishes that are sent at once, the first ones are accepted and delivered in order, the rest refused."""
        client = self.subscribed("news")

        events = self.publish_as(client, 6)

        answers = [event for event in events if event["action"] != "message"]
        self.assertEqual([event["id"] for event in answers if event["action"] == "ack"], ["m0", "m1", "m2"])
        self.assertEqual([event["id"] for event in answers if event["action"] == "error"], ["m3", "m4", "m5"])
        self.assertEqual([event["id"] for event in events if event["action"] == "message"], ["m0", "m1", "m2"])

    def test_metrics(self) -> None:
        """What was refused is counted by whose limit it was."""
        self.publish_as(self.connected(), 5)
        tally = self.server.server.tally

        self.assertEqual((tally.refused, tally.observed), ({"user": 2}, {}))
        self.assertEqual(self.server.server.gate.refused, {"rate_limited": 2})

    def test_observed(self) -> None:
        """In the mode `observe` everything is accepted, and what would have been refused is counted, of every scope."""
        limits = replace(self.limits, rate_mode="observe", connection_rate=1, connect_rate_per_ip=1)
        self.server = self.serve(Config(limits=limits))
        self.connected()

        events = self.publish_as(self.connected(), 12)

        self.assertEqual({event["action"] for event in events}, {"ack"})
        tally = self.server.server.tally
        self.assertEqual(tally.refused, {})
        self.assertEqual(tally.observed, {"app": 2, "channel": 8, "user": 9, "connection": 11, "connect": 1})

    def test_no_limits(self) -> None:
        """Until somebody sets a rate, there is none."""
        self.server = self.serve(Config())
        client = self.connected()

        self.assertEqual({event["action"] for event in self.publish_as(client, 5000)}, {"ack"})

    def test_sustained_rate(self) -> None:
        """A limit of 100/s that is exceeded for 29.5 s lets 2,950 messages through, within 3 %."""
        for limits in (Limits(app_publish_rate=100), Limits(connection_rate=100)):
            self.server = self.serve(Config(limits=limits))
            client = self.connected()
            accepted = 0
            for _ in range(295):
                accepted += sum(event["action"] == "ack" for event in self.publish_as(client, 20))
                self.server.clock.advance(0.1)
            self.assertLess(abs(accepted - 2950), 2950 * 0.03)


class HistoryTests(ServerTestCase):
    def history(self, client: InMemoryClient, **fields: Any) -> dict[str, Any]:
        """A page."""
        client.take()
        client.says({"action": "history", "channel": "news", **fields})
        return self.assert_told(client, action="history", channel="news")

    def ids(self, page: dict[str, Any]) -> list[Any]:
        """The data of its messages."""
        return [message["data"] for message in page["messages"]]

    def test_superset(self) -> None:
        """A page is nested for one generation of SDKs and flat for the other."""
        client = self.connected(client_id="bob")
        client.says({"action": "publish", "channel": "news", "data": 1, "id": "m1"})

        page = self.history(client)

        self.assertEqual(page["data"], {"channel": "news", "messages": page["messages"], "hasMore": False})
        self.assertIs(page["hasMore"], False)
        [entry] = page["messages"]
        self.assertEqual(set(entry), {"id", "channel", "data", "publisherId", "timestamp", "sequence"})
        self.assert_fields(entry, id="m1", channel="news", data=1, publisherId="bob", sequence=1)

    def test_pages(self) -> None:
        """Backward from the newest by default, or forward; bounds are exclusive."""
        self.publish("news", *range(10))
        client = self.connected()
        first, *_, last = [m["timestamp"] for m in self.history(client, direction="forward")["messages"]]

        self.assertEqual(self.ids(self.history(client, limit=3)), [9, 8, 7])
        self.assertIs(self.history(client, limit=3)["hasMore"], True)
        self.assertEqual(self.ids(self.history(client, limit=3, direction="forward")), [0, 1, 2])
        self.assertEqual(self.ids(self.history(client, before=last, limit=2)), [8, 7])
        self.assertEqual(self.ids(self.history(client, after=first, limit=2, direction="forward")), [1, 2])
        self.assertEqual(self.ids(self.history(client, after=first + 0.5, limit=1, direction="forward")), [1])

    def test_clamped(self) -> None:
        """Zero, negative and null are no bounds, as some SDKs send them; an enormous one is later than everything."""
        self.publish("news", *range(60))
        client = self.connected()

        self.assertEqual(len(self.ids(self.history(client))), 50)
        for limit in (0, -5, 0.5):
            self.assertEqual(self.ids(self.history(client, limit=limit)), [59])
        self.assertEqual(len(self.ids(self.history(client, limit=10**9))), 60)
        self.assertEqual(len(self.ids(self.history(client, before=1e300, limit=60))), 60)
        self.assertEqual(self.ids(self.history(client, after=1e300)), [])
        for nothing in (0, -1, None):
            page = self.history(client, before=nothing, after=nothing, limit=60, direction="", unknown=1)
            self.assertEqual(len(self.ids(page)), 60)

    def test_direction(self) -> None:
        """Another direction is refused."""
        client = self.connected()

        client.says({"action": "history", "channel": "news", "direction": "up"})

        self.assert_refused(client, "bad_request", "direction", channel="news")

    def test_not_persistent(self) -> None:
        """A message with ``persist: false`` is no history."""
        client = self.connected()
        client.says(*[{"action": "publish", "channel": "news", "data": p, "persist": p} for p in (True, False, None)])

        self.assertEqual(self.ids(self.history(client)), [None, True])

    def test_history_off(self) -> None:
        """With history off nothing is."""
        self.server = self.serve(Config(history=History(enabled=False)))
        self.publish("news", 1)

        self.assertEqual(self.ids(self.history(self.connected())), [])

    def test_permission(self) -> None:
        """It takes a permission of its own."""
        client = self.connected(token=self.server.token(permissions={"*": ["subscribe"]}))

        client.says({"action": "history", "channel": "news"}, {"action": "history", "channel": ""})

        first, second = client.take()
        self.assert_fields(first, code="forbidden", channel="news")
        self.assertIn("'history'", first["error"])
        self.assert_fields(second, code="channel_name")

    def test_no_frame_beyond_a_mebibyte(self) -> None:
        """However much is asked for: the page says that there is more."""
        self.publish("news", *["x" * 60_000] * 40)
        client = self.connected()
        client.says({"action": "history", "channel": "news", "limit": 1000})

        [text] = client.texts
        self.assertLess(len(text), MIB)
        page = msgspec.json.decode(text)
        self.assertIs(page["hasMore"], True)
        self.assertEqual(len(page["messages"]), 8)

    def test_pages_that_follow_lose_nothing(self) -> None:
        """Whoever asks on with the last timestamp gets every message once."""
        self.publish("news", *[f"{n:3}" + "x" * 50_000 for n in range(40)])
        client = self.connected()
        seen: list[str] = []
        page = self.history(client, limit=1000)
        while page["messages"]:
            seen += [data[:3] for data in self.ids(page)]
            page = self.history(client, limit=1000, before=page["messages"][-1]["timestamp"])

        self.assertEqual(seen, [f"{n:3}" for n in reversed(range(40))])

    def test_slow_reader(self) -> None:
        """Large answers wait until the client has read: asking for much is no way to be cut off."""
        self.publish("news", *["x" * 60_000] * 40)
        client = self.connected()
        client.stops_reading()
        for _ in range(10):
            client.says({"action": "history", "channel": "news", "limit": 1000})

        self.assertIsNone(client.closed)
        client.reads()

        self.assert_actions(client, *["history"] * 10)

    def test_slow_reader_that_goes(self) -> None:
        """One who goes meanwhile leaves nothing behind."""
        self.publish("news", *["x" * 60_000] * 40)
        client = self.connected()
        client.stops_reading()
        client.says_bytes(client_frame(b'{"action":"history","channel":"news","limit":1000}') * 5)
        [connection] = self.server.server.gate.connections()

        client.disappears()

        self.assertEqual((connection._in_flight, len(self.server.server.gate)), (0, 0))


def a_message(sequence: int, timestamp: int, size: int = 100) -> Message:
    """A message whose entry takes about this many bytes."""
    return Message("news", "m", msgspec.Raw(b'"%b"' % (b"x" * size)), timestamp, "bob", sequence, "e")


class HistoryPagesTests(SynchronousTestCase):
    """Cutting a page by size."""

    def cut(self, timestamps: list[int], fitting: int, *, has_more: bool = False) -> list[tuple[list[int], bool]]:
        """The timestamps of each page of those, where so many entries fit into one."""
        messages = [a_message(n, at) for n, at in enumerate(timestamps, 1)]
        room = 1024 + fitting * (len(encode(messages[0].entry())) + 1)
        return [([m.timestamp for m in page], more) for page, more in history_pages(messages, has_more, room)]

    def test_everything_fits(self) -> None:
        """Then it is one page."""
        self.assertEqual(self.cut([1, 2, 3], 3), [([1, 2, 3], False)])
        self.assertEqual(self.cut([1, 2, 3], 9, has_more=True), [([1, 2, 3], True)])

    def test_cut(self) -> None:
        """Else the page ends where there is no more room."""
        self.assertEqual(self.cut([1, 2, 3], 2), [([1, 2], True)])

    def test_not_between_equal_timestamps(self) -> None:
        """But never inside a run of equal timestamps: who asks on would miss the rest of it."""
        self.assertEqual(self.cut([1, 2, 2, 2], 3), [([1], True)])

    def test_a_run_that_is_too_large(self) -> None:
        """A run that fits into no page is sent as several, of which the last one says whether there is more."""
        self.assertEqual(self.cut([2, 2, 2, 2, 2], 2), [([2, 2], True), ([2, 2], True), ([2], False)])
        self.assertEqual(self.cut([2, 2, 2, 3], 2), [([2, 2], True), ([2], True)])

    def test_an_entry_that_is_too_large(self) -> None:
        """An entry without room is sent alone."""
        self.assertEqual(self.cut([1, 2], 0), [([1], True)])
