"""WebSocket connections: the bytes of hostile and friendly clients, what is under way, time, and endings."""

from __future__ import annotations

import json
import zlib
from random import Random  # noqa: TID251  # seeded: a failure repeats
from typing import Any

from autobahn.websocket.protocol import WebSocketProtocol

from tests.vocabulary import Gate, ServerTestCase
from wsock.config import Config, Heartbeat, Limits, WebSocket
from wsock.errors import CloseCode, Unavailable
from wsock.protocol.messages import HistoryQuery
from wsock.testing import InMemoryClient, client_frame

PING = client_frame(b'{"action":"ping"}')
CONTINUATION, TEXT, BINARY, CLOSE, WS_PING, WS_PONG = 0, 1, 2, 8, 9, 10
DEFLATED = 0x41


def publish_text(size: int, channel: str = "news") -> bytes:
    """A publish whose data is a string of this many bytes."""
    return json.dumps({"action": "publish", "channel": channel, "id": "big", "data": "x" * size}).encode()


def fragments(payload: bytes, size: int) -> list[bytes]:
    """The payload as frames of ``size`` bytes, as PHP's library sends it."""
    parts = [payload[at : at + size] for at in range(0, len(payload), size)]
    last = len(parts) - 1
    return [client_frame(part, CONTINUATION if n else TEXT, is_final=n == last) for n, part in enumerate(parts)]


def deflated(payload: bytes) -> bytes:
    """The payload as RFC 7692 §7.2.1 compresses it."""
    compressor = zlib.compressobj(wbits=-15)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


class FramesTests(ServerTestCase):
    """What is read as requests, however it is cut."""

    def test_several_frames_in_one_read(self) -> None:
        """Each frame of a read is a request."""
        client = self.connected()

        client.says_bytes(PING * 50)

        self.assert_actions(client, *["pong"] * 50)

    def test_cut_at_every_byte(self) -> None:
        """It makes no difference where a read ends: text, ping, fragments and text again."""
        data = b"".join(
            [
                PING,
                client_frame(b"hi", WS_PING),
                *fragments(b'{"action":"ping"}', 5),
                b"\x8a\x02{}",
                client_frame(publish_text(200)),
                PING,
            ]
        )
        client = self.connected()
        for cut in range(1, len(data)):
            client.says_bytes(data[:cut])
            client.says_bytes(data[cut:])

            actions = [event["action"] for event in client.take()]
            self.assertEqual(sorted(actions), ["ack", "pong", "pong", "pong"], cut)
        self.assertEqual(client.pongs, [b"hi"] * (len(data) - 1))

    def test_byte_by_byte(self) -> None:
        """A client may send one byte at a time."""
        client = self.connected()

        for byte in PING + client_frame(publish_text(70_000 - 10_000)) + PING:
            client.transport.send(bytes([byte]))
        self.server.settle()

        self.assert_actions(client, "pong", "ack", "pong")

    def test_fragmented(self) -> None:
        """PHP's library cuts its messages into frames of 4096 bytes."""
        client = self.connected()

        client.says_bytes(b"".join(fragments(publish_text(30_000), 4096)))
        client.says_bytes(PING)

        self.assert_actions(client, "ack", "pong")

    def test_control_frames_inside_fragments(self) -> None:
        """Pings and pongs may come between the fragments of a message."""
        client = self.connected()
        first, second, third = fragments(b'{"action":"ping"}', 6)

        client.says_bytes(first + client_frame(b"1", WS_PING) + second)
        client.says_bytes(client_frame(b"", WS_PONG) + client_frame(b"2", WS_PING) + third + PING)

        self.assertEqual(client.pongs, [b"1", b"2"])
        self.assert_actions(client, "pong", "pong")

    def test_empty_fragments(self) -> None:
        """An empty first or last fragment is a fragment."""
        client = self.connected()

        client.says_bytes(client_frame(b"", TEXT, is_final=False))
        client.says_bytes(client_frame(b'{"action":"ping"}', CONTINUATION, is_final=False))
        client.says_bytes(client_frame(b"", CONTINUATION))

        self.assert_told(client, action="pong")

    def test_endless_empty_fragments(self) -> None:
        """Fragments without content can't fill the memory either."""
        client = self.connected()
        client.says_bytes(client_frame(b"", TEXT, is_final=False))

        for _ in range(17):
            client.says_bytes(client_frame(b"", CONTINUATION, is_final=False) * 1000)

        self.assert_closed(client, CloseCode.TOO_BIG)

    def test_ping_is_answered_with_its_payload(self) -> None:
        """A WebSocket ping is answered, whatever its payload."""
        client = self.connected()

        for payload in (b"", b"x", b"y" * 125):
            client.pings(payload)

        self.assertEqual(client.pongs, [b"", b"x", b"y" * 125])

    def test_unmasked_pongs(self) -> None:
        """PHP's library does not mask its pongs: they are let pass, even thousands at once."""
        client = self.connected()

        client.says_bytes(b"\x8a\x00" * 30_000 + PING + b"\x8a\x02{}")
        client.says_bytes(b"\x8a")
        client.says_bytes(b"\x03ab")
        client.says_bytes(b"c" + PING)

        self.assert_actions(client, "pong", "pong")

    def test_the_parser_is_dropped(self) -> None:
        """Autobahn's parser is there only while something unusual is read."""
        client = self.connected()
        connection = client.transport.protocol

        client.says_bytes(client_frame(b"", WS_PING)[:3])
        self.assertIsInstance(connection._parser, WebSocketProtocol)
        client.says_bytes(client_frame(b"", WS_PING)[3:])

        self.assertIsNone(connection._parser)

    def test_largest_frame(self) -> None:
        """A frame may be as large as ``limits.frame_bytes``, in one piece or several."""
        client = self.connected()
        text = b'{"action":"ping","x":"'.ljust(262_142, b"x") + b'"}'

        client.says_text(text)
        client.says_bytes(b"".join(fragments(text, 4096)))

        self.assert_actions(client, "pong", "pong")


class ViolationsTests(ServerTestCase):
    """What no client may send ends its connection, and no other's."""

    def assert_violates(self, data: bytes, code: CloseCode = CloseCode.PROTOCOL_ERROR) -> None:
        """These bytes end a connection with this code, within a second."""
        client, other = self.connected(), self.connected()

        client.says_bytes(PING + data)

        self.assert_told(client, action="pong")
        self.assert_closed(client, code)
        client.says_bytes(PING)
        self.assert_silent(client)
        self.server.advance(1)
        self.assertEqual(client.ending, "reset")
        self.assert_alive(other)

    def test_oversized_frame(self) -> None:
        """A frame beyond the limit is refused by its head, 1009."""
        self.assert_violates(client_frame(b"x" * 262_145)[:14], CloseCode.TOO_BIG)

    def test_oversized_64_bit(self) -> None:
        """A length of exabytes too."""
        self.assert_violates(b"\x81\xff\x7f" + b"\xff" * 7 + b"mask", CloseCode.TOO_BIG)
        self.assert_violates(b"\x81\xff\xff" + b"\xff" * 7 + b"mask")

    def test_oversized_in_fragments(self) -> None:
        """And a message that grows beyond it."""
        parts = fragments(b"x" * 300_000, 60_000)
        self.assert_violates(b"".join(parts), CloseCode.TOO_BIG)

    def test_unmasked_text(self) -> None:
        """Only pongs may lack the mask."""
        self.assert_violates(b"\x81\x02{}")
        self.assert_violates(b"\x89\x00")
        self.assert_violates(b"\x88\x02\x03\xe8")

    def test_unmasked_pong_too_long(self) -> None:
        """An unmasked pong is a control frame still."""
        self.assert_violates(b"\x8a\x7e\x00\x80" + b"x" * 128)

    def test_reserved_bits(self) -> None:
        """No extension was agreed upon."""
        for bit in (0x40, 0x20, 0x10):
            self.assert_violates(bytes([0x81 | bit]) + PING[1:])

    def test_reserved_opcodes(self) -> None:
        """Opcodes without meaning are refused."""
        for opcode in (3, 7, 11, 15):
            self.assert_violates(client_frame(b"", opcode))

    def test_length_not_minimal(self) -> None:
        """A length must have its shortest form."""
        self.assert_violates(b"\x81\xfe\x00\x02mask{}")
        self.assert_violates(b"\x81\xff" + b"\x00" * 6 + b"\xff\xffmask")

    def test_fragmented_control(self) -> None:
        """Control frames are whole and short."""
        self.assert_violates(client_frame(b"", WS_PING, is_final=False))
        self.assert_violates(client_frame(b"x" * 126, WS_PING))

    def test_continuation_of_nothing(self) -> None:
        """Fragments come in order."""
        self.assert_violates(client_frame(b"x", CONTINUATION))

    def test_message_inside_message(self) -> None:
        """A message ends before the next begins."""
        self.assert_violates(client_frame(b"{", TEXT, is_final=False) + PING)

    def test_close_payload_of_one_byte(self) -> None:
        """A close frame has a code or nothing."""
        self.assert_violates(client_frame(b"x", CLOSE))

    def test_many_ways_at_once(self) -> None:
        """10,000 random byte strings and frames, the same ones in each run, never hurt anybody else."""
        random = Random(20_240_217)
        other = self.connected()
        for number in range(10_000):
            if number % 20 == 0:
                client = self.connected()
            client.says_bytes(_noise(random))
            if client.closed is not None:
                client = self.connected()
            if number % 500 == 0:
                self.server.advance(61)
                self.assert_alive(other)
        self.assert_alive(other)


_VALUES: tuple[Any, ...] = (None, True, 0, -1.5, 10**30, "", "é\0", "x" * 300, [], [[]], {}, {"a": {}})


def _noise(random: Random) -> bytes:
    kind = random.randrange(4)
    if kind == 0:
        return random.randbytes(random.randrange(1, 40))
    if kind == 1:
        return client_frame(random.randbytes(random.randrange(0, 40)))
    if kind == 2:
        opcode = random.choice((0, 1, 1, 2, 8, 9, 10))
        return client_frame(random.randbytes(random.randrange(0, 130)), opcode, is_final=random.random() < 0.7)
    actions = ("publish", "subscribe", "resume", "history", "presence.enter", "auth", "x")
    request: dict[str, Any] = {"action": random.choice(actions)}
    for field in ("channel", "data", "id", "token", "positions", "limit", "rewind", "persist"):
        if random.random() < 0.9:
            request[field] = random.choice(_VALUES)
    text = bytearray(json.dumps(request).encode())
    if random.random() < 0.3:
        text[random.randrange(len(text))] = random.randrange(256)
    return client_frame(bytes(text))


class MalformedTests(ServerTestCase):
    """Texts that are no requests: the connection lives, but not for ever."""

    def test_not_understood(self) -> None:
        """Whatever is no JSON object with an action is a bad request, and the next request is served."""
        for text in (b"", b"x", b"[]", b"[1]", b"null", b"1", b'"ping"', b"{", b"{}", b'{"action":1}', b"\xff\xfe"):
            client = self.connected()
            client.says_text(text)
            self.assert_refused(client, "bad_request")
            self.assert_alive(client)

    def test_hostile_data(self) -> None:
        """What would end a subscriber's SDK reaches nobody: in the data and in fields that nobody reads."""
        subscriber = self.subscribed("news")
        invalid = (b'"\xff"', b'"\xc0\x80"', b'"\xed\xa0\x80"')
        for hostile in (b"9" * 5000, b"[" * 2000 + b"]" * 2000, b"[" * 2000, *invalid):
            for field in (b"data", b"unknown"):
                client = self.connected()
                client.says_text(b'{"action":"publish","channel":"news","%b":%b}' % (field, hostile))
                self.assert_refused(client, "bad_request")
        self.assert_silent(subscriber)

    def test_wrong_types(self) -> None:
        """A field of the wrong type is named, and so are the channel and the id it was about."""
        client = self.connected()

        client.says({"action": "publish", "channel": "news", "id": "m1", "persist": "yes"})

        self.assert_refused(client, "bad_request", "persist", channel="news", id="m1")
        for request in (
            {"action": "subscribe"},
            {"action": "subscribe", "channel": None},
            {"action": "subscribe", "channel": "c", "rewind": "5"},
            {"action": "publish", "channel": "c", "id": 7},
            {"action": "history", "channel": "c", "limit": []},
            {"action": "resume", "positions": {"c": 5}},
            {"action": "auth"},
        ):
            client = self.connected()
            client.says(request)
            self.assert_refused(client, "bad_request", str(request["action"]))

    def test_unknown_action(self) -> None:
        """An unknown action is told apart, and never counts against the client."""
        client = self.connected()

        for _ in range(30):
            client.says({"action": "dance", "channel": "news", "id": "1"})
            self.assert_refused(client, "unknown_action", "dance", channel="news", id="1")

    def test_binary(self) -> None:
        """A binary message is a malformed one, in one frame or several."""
        client = self.connected()

        client.says_bytes(client_frame(b"{}", BINARY))
        self.assert_refused(client, "bad_request", "binary")
        client.says_bytes(client_frame(b"{", BINARY, is_final=False) + client_frame(b"}", CONTINUATION))

        self.assert_refused(client, "bad_request", "binary")

    def test_ten_a_minute(self) -> None:
        """The tenth malformed message in a minute closes with 1008; all ten are answered."""
        client = self.connected()

        for _ in range(9):
            client.says_text(b"x")
        self.assertIsNone(client.closed)
        client.says_text(b"x")

        self.assertEqual([e["code"] for e in client.take()], ["bad_request"] * 10)
        self.assert_closed(client, CloseCode.POLICY)

    def test_nine_a_minute(self) -> None:
        """A client that is malformed now and then stays."""
        client = self.connected()

        for _ in range(5):
            for _ in range(9):
                client.says_text(b"x")
            self.server.advance(61)

        self.assertIsNone(client.closed)

    def test_the_rest_of_a_read_is_not_served(self) -> None:
        """What comes behind the last straw is not performed."""
        subscriber, client = self.subscribed("news"), self.connected()

        client.says_bytes(client_frame(b"x") * 10 + client_frame(publish_text(1)))

        self.assert_silent(subscriber)


class LimitsTests(ServerTestCase):
    limits = Limits(connection_rate=10, connection_burst=20, message_bytes=1000)

    def test_large_message(self) -> None:
        """A message beyond the limit is refused and the connection lives."""
        client = self.connected()

        client.says_text(publish_text(1001))

        self.assert_refused(client, "too_large", "limits.message_bytes", "1000", channel="news", id="big")
        self.assert_alive(client)

    def test_rate(self) -> None:
        """Requests beyond the burst are refused, with the time to wait; pings are free."""
        client = self.connected()
        client.says(*[{"action": "publish", "channel": "news", "id": str(n)} for n in range(21)])

        *acks, refused = client.take()
        self.assertEqual({ack["action"] for ack in acks}, {"ack"})
        self.assert_fields(refused, code="rate_limited", id="20", channel="news", retryAfter=2.0)
        self.assertIn("limits.connection_rate", refused["error"])
        client.says_bytes(PING * 30)
        self.assert_actions(client, *["pong"] * 30)

    def test_sustained_rate(self) -> None:
        """What is allowed comes back at the rate, not at another one."""
        client = self.connected()
        accepted = 0
        for _ in range(100):
            client.says(*[{"action": "publish", "channel": "news"}] * 2)
            accepted += sum(event["action"] == "ack" for event in client.take())
            self.server.advance(0.1)

        self.assertTrue(97 <= accepted <= 103, accepted)


class OrderTests(ServerTestCase):
    """What waits for what on one connection."""

    def setUp(self) -> None:
        super().setUp()
        self.attach, self.commit = Gate(), Gate()
        broker, store = self.server.server.stores.broker, self.server.server.stores.history
        self.patch(broker, "attach", self.attach.guard(broker.attach))
        self.patch(store, "commit", self.commit.guard_deferred(store.commit))  # type: ignore[attr-defined]

    def test_subscribe_holds_back_later_requests(self) -> None:
        """What comes behind a subscribe that waits starts when it is done, in order."""
        self.commit.open()
        client = self.connected()

        client.says(
            {"action": "subscribe", "channel": "a"},
            {"action": "publish", "channel": "a", "id": "m1"},
            {"action": "unsubscribe", "channel": "a"},
            {"action": "publish", "channel": "a", "id": "m2"},
        )
        self.assert_silent(client)
        self.attach.open()
        self.server.settle()

        events = client.take()
        self.assertEqual(
            sorted(event["action"] for event in events), ["ack", "ack", "message", "subscribed", "unsubscribed"]
        )
        self.assertEqual(events[0]["action"], "subscribed")

    def test_pings_are_not_held_back(self) -> None:
        """A ping is answered whatever waits."""
        client = self.connected()

        client.says({"action": "subscribe", "channel": "a"}, {"action": "subscribe", "channel": "b"})
        client.says({"action": "ping"})

        self.assert_told(client, action="pong")

    def test_other_connections_are_not_held_back(self) -> None:
        """One client's waiting is nobody else's."""
        self.commit.open()
        waiting, other = self.connected(), self.connected()
        waiting.says({"action": "subscribe", "channel": "a"})

        other.says({"action": "publish", "channel": "a", "id": "m1"})

        self.assert_told(other, action="ack")

    def test_publishes_run_at_once(self) -> None:
        """Publishes do not wait for one another's acks, and keep their order; a subscribe does not wait for them."""
        self.attach.open()
        client, subscriber = self.connected(), self.subscribed("a")
        client.says(*[{"action": "publish", "channel": "a", "id": str(n), "data": n} for n in range(5)])
        client.says({"action": "subscribe", "channel": "b"})
        self.assert_told(client, action="subscribed")

        self.commit.open()
        self.server.settle()

        self.assertEqual([event["id"] for event in client.take()], ["0", "1", "2", "3", "4"])
        self.assertEqual(self.data_of(subscriber), [0, 1, 2, 3, 4])

    def test_disconnect_while_waiting(self) -> None:
        """A client that is gone is subscribed to nothing, and its later requests are not performed."""
        self.commit.open()
        client, hub = self.connected(), self.server.server.hub
        client.says({"action": "subscribe", "channel": "a"}, {"action": "publish", "channel": "a"})

        client.disappears()
        self.attach.open()
        self.server.settle()

        self.assertEqual(len(hub), 0)
        page = self.server.wait_for(self.server.server.stores.history.page("demo", "a", HistoryQuery()))
        self.assertEqual(page.messages, [])

    def test_disconnect_while_entering(self) -> None:
        """Nor is it present."""
        client = self.connected()
        client.says({"action": "presence.enter", "channel": "a"})

        client.disappears()
        self.attach.open()
        self.server.advance(20)

        self.assertEqual(len(self.server.server.hub), 0)
        self.assertEqual(self.server.wait_for(self.server.server.presence.members("demo", "a")), [])

    def test_a_failing_store(self) -> None:
        """A fault of the server is told as such, without details, and the log has them; the next request is served."""

        async def fails(*_: Any) -> None:
            raise ValueError("secret")

        self.patch(self.server.server.stores.broker, "attach", fails)
        client = self.connected()

        client.says({"action": "subscribe", "channel": "a"})

        event = self.assert_refused(client, "internal", channel="a")
        self.assertNotIn("secret", event["error"])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assert_alive(client)

    def test_a_failing_verb(self) -> None:
        """The same when it fails at once."""

        def fails(*_: Any, **__: Any) -> None:
            raise ValueError("secret")

        self.patch(self.server.server.messages, "submit", fails)
        client = self.connected()

        client.says({"action": "publish", "channel": "a", "id": "m1"})

        self.assert_refused(client, "internal", channel="a", id="m1")
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assert_alive(client)


class InFlightTests(ServerTestCase):
    """Beyond the limits a connection is not read; nothing is refused."""

    limits = Limits(in_flight_requests=10, in_flight_bytes=1024)

    def setUp(self) -> None:
        super().setUp()
        self.commit = Gate()
        store = self.server.server.stores.history
        self.patch(store, "commit", self.commit.guard_deferred(store.commit))  # type: ignore[attr-defined]

    def publishes(self, client: InMemoryClient, count: int, size: int = 1) -> None:
        """Sends publishes, each in a read of its own."""
        for n in range(count):
            client.says({"action": "publish", "channel": "a", "id": str(n), "data": "x" * size})

    def test_many_requests(self) -> None:
        """Reading stops at the limit and goes on when half of them are answered; all are."""
        client = self.connected()

        self.publishes(client, 30)
        self.assertGreater(client.transport.unsent, 0)
        self.commit.open()
        self.server.settle()

        self.assertEqual([(e["action"], e["id"]) for e in client.take()], [("ack", str(n)) for n in range(30)])
        self.assertEqual(client.transport.unsent, 0)

    def test_many_bytes(self) -> None:
        """The same by bytes."""
        client = self.connected()

        self.publishes(client, 4, 500)
        self.assertGreater(client.transport.unsent, 0)
        self.commit.open()
        self.server.settle()

        self.assert_actions(client, *["ack"] * 4)

    def test_waiting_requests_count(self) -> None:
        """Requests behind a subscribe that waits count as well."""
        attach = Gate()
        self.patch(self.server.server.stores.broker, "attach", attach.guard(self.server.server.stores.broker.attach))
        client = self.connected()
        for n in range(30):
            client.says({"action": "subscribe", "channel": f"c{n}"})
        self.assertGreater(client.transport.unsent, 0)

        attach.open()
        self.server.settle()

        self.assert_actions(client, *["subscribed"] * 30)

    def test_loss_while_blocked(self) -> None:
        """A blocked connection that is lost leaves nothing behind."""
        client = self.connected()
        self.publishes(client, 30)

        client.disappears()
        self.commit.open()
        self.server.settle()

        self.assertEqual(len(self.server.server.gate), 0)
        self.assert_alive(self.connected())

    def test_end_while_blocked(self) -> None:
        """A blocked connection can be closed, and its answer is read."""
        client = self.connected()
        self.publishes(client, 30)
        [connection] = self.server.server.gate.connections()

        connection.end(CloseCode.DISCONNECTED, "kicked")

        self.assert_closed(client, CloseCode.DISCONNECTED)
        self.server.settle()
        client.closes()
        self.assertIsNotNone(client.ending)
        self.commit.open()


class TimeTests(ServerTestCase):
    def test_heartbeat(self) -> None:
        """A client that was sent nothing for 20 s gets a pong, and again and again."""
        client = self.connected()
        self.server.advance(19)
        self.assert_silent(client)

        self.server.advance(7)
        self.assert_told(client, action="pong")
        self.server.advance(60)

        self.assertIn(len(client.take()), (2, 3))

    def test_no_heartbeat_beside_messages(self) -> None:
        """A client that is sent something gets no pongs."""
        client = self.subscribed("news")

        for n in range(20):
            self.publish("news", n)
            self.server.advance(10)

        self.assert_actions(client, *["message"] * 20)

    def test_heartbeat_setting(self) -> None:
        """The time is a setting."""
        server = self.serve(Config(heartbeat=Heartbeat(seconds=50)))
        client = server.connect()
        server.advance(49)
        self.assert_silent(client)
        server.advance(7)

        self.assert_told(client, action="pong")

    def test_many_connections_all_get_theirs(self) -> None:
        """Every connection is visited, one slot after the other, and one's fault stops nobody's heartbeat."""
        clients = [self.connected() for _ in range(12)]
        first = self.server.server.gate.connections()[0]

        def fails(now: float) -> None:
            raise ValueError("a bug")

        self.patch(first, "tick", fails)
        self.server.advance(26)

        heard = sum(len(client.take()) for client in clients)
        self.assertEqual(heard, 11)
        self.assertTrue(self.flushLoggedErrors(ValueError))

    def test_expiry(self) -> None:
        """An expired token is told, and the connection closed with 4401 30 s later."""
        client = self.connected(token=self.server.token(sub="bob", exp=self.server.now() + 60))
        self.server.advance(59)
        client.take()

        self.server.advance(6)
        self.assert_refused(client, "token_expired", "auth")
        self.assertIsNone(client.closed)
        self.server.advance(24)
        self.assertIsNone(client.closed)
        self.server.advance(11)

        self.assert_closed(client, CloseCode.TOKEN_EXPIRED)
        self.assertEqual(client.ending, "reset")

    def test_expired_client_is_served_until_then(self) -> None:
        """In these 30 s it may renew."""
        client = self.connected(token=self.server.token(sub="bob", exp=self.server.now() + 60))
        self.server.advance(66)
        client.take()

        client.says({"action": "auth", "token": self.server.token(sub="bob", exp=self.server.now() + 600)})
        self.assert_told(client, action="ack", id="auth")
        self.server.advance(60)

        self.assertIsNone(client.closed)


class EndingsTests(ServerTestCase):
    def test_close_is_answered_with_its_code(self) -> None:
        """A client that closes gets its own code back, and the connection ends properly."""
        for code in (1000, 1001, 1003, 1007, 1011, 1012, 1014, 3000, 4000, 4999):
            client = self.connected()
            client.closes(code)
            self.assert_closed(client, code)
            self.assertEqual(client.ending, "lost")

    def test_close_without_a_code(self) -> None:
        """Without a code the answer is 1000."""
        client = self.connected()

        client.closes(None)

        self.assertEqual(client.closed, 1000)

    def test_close_with_an_invalid_code(self) -> None:
        """A code that may not be sent is answered with 1002."""
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535):
            client = self.connected()
            client.closes(code)
            self.assertEqual(client.closed, 1002, code)

    def test_close_with_a_hostile_reason(self) -> None:
        """The reason is nobody's concern."""
        client = self.connected()

        client.says_bytes(client_frame(b"\x03\xe8\xff\xfe", CLOSE))

        self.assertEqual(client.closed, 1000)

    def test_nothing_is_delivered_behind_a_close(self) -> None:
        """Once the close frame is out, nothing follows, and nothing is read."""
        client = self.subscribed("news")
        client.closes()
        self.publish("news", 1)

        client.says({"action": "publish", "channel": "news"})
        self.server.advance(2)

        self.assert_silent(client)

    def test_what_was_said_before_is_written_first(self) -> None:
        """Requests in front of the close frame are answered in front of its answer."""
        client = self.connected()

        client.says_bytes(PING + client_frame(b"\x03\xe8", CLOSE) + PING)

        self.assert_actions(client, "pong")
        self.assertEqual(client.closed, 1000)

    def test_a_client_that_does_not_answer_a_close(self) -> None:
        """It is reset a second later."""
        client = self.connected()
        [connection] = self.server.server.gate.connections()
        connection.end(CloseCode.DISCONNECTED, "kicked")
        self.assert_closed(client, CloseCode.DISCONNECTED)
        self.assertIsNone(client.ending)

        connection.end(CloseCode.POLICY, "again")
        self.server.advance(1)

        self.assertEqual(client.ending, "reset")

    def test_a_client_that_answers_a_close(self) -> None:
        """It ends properly, whatever it said before."""
        client = self.connected()
        [connection] = self.server.server.gate.connections()
        connection.end(CloseCode.DISCONNECTED, "kicked")
        client.says_bytes(PING)
        client.closes(4403)

        self.assertEqual(client.ending, "lost")
        self.server.advance(5)
        self.assertEqual(len(self.server.server.gate), 0)

    def test_loss(self) -> None:
        """A connection that is lost is counted, and holds nothing any more."""
        client = self.subscribed("news")
        client.disappears()

        gate = self.server.server.gate
        self.assertEqual((len(gate), gate.opened, gate.closed), (0, 1, {"lost": 1}))
        self.assertEqual(len(self.server.server.hub), 0)

    def test_members_that_can_not_leave(self) -> None:
        """A store that is away at the end is a warning, a bug is a failure in the log."""
        for error in (Unavailable("away"), ValueError("a bug")):

            async def fails(*_: Any, error: Exception = error) -> None:
                raise error

            client = self.connected(client_id="bob")
            client.says({"action": "presence.enter", "channel": "a"})
            self.patch(self.server.server.presence, "lost", fails)
            client.disappears()

            self.assertEqual(len(self.server.server.gate), 0)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)


class SlowConsumerTests(ServerTestCase):
    limits = Limits(output_bytes=100_000)

    def test_slow_consumer(self) -> None:
        """A client that does not read is reset when its queue is full; the others get everything."""
        slow, quick = self.subscribed("news"), self.subscribed("news")
        slow.stops_reading()

        for n in range(20):
            self.publish("news", f"{n:2}" + "x" * 10_000)

        self.assert_closed(slow, "reset")
        self.assertEqual([data[:2] for data in self.data_of(quick)], [f"{n:2}" for n in range(20)])
        self.assertEqual(self.server.server.gate.closed, {"slow consumer": 1})
        self.assert_alive(quick)

    def test_slow_for_a_while(self) -> None:
        """A client that reads again in time gets everything, in order."""
        slow = self.subscribed("news")
        slow.stops_reading()
        for n in range(10):
            self.publish("news", f"{n:2}" + "x" * 12_000)
        [connection] = self.server.server.gate.connections()
        self.assertGreater(connection.outlet.queued, 0)

        slow.reads()

        self.assertEqual([data[:2] for data in self.data_of(slow)], [f"{n:2}" for n in range(10)])

    def test_close_behind_a_queue(self) -> None:
        """A slow client that is closed gets what was written before, if it reads in time."""
        slow = self.subscribed("news")
        slow.stops_reading()
        for n in range(10):
            self.publish("news", f"{n:2}" + "x" * 12_000)
        [connection] = self.server.server.gate.connections()
        connection.end(CloseCode.DISCONNECTED, "kicked")

        slow.reads()

        self.assertEqual(len(self.data_of(slow)), 10)
        self.assertEqual(slow.closed, 4403)


class CompressionTests(ServerTestCase):
    """Connections of which some agreed upon compression (RFC 7692)."""

    OFFER = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}

    def setUp(self) -> None:
        self.server = self.serve(Config(websocket=WebSocket(compression=True)))
        self.heard: list[int] = []

    def compressing(self, offer: str = "permessage-deflate") -> InMemoryClient:
        """A client that agreed upon compression and is subscribed; ``heard`` are the sizes of what it is sent."""
        client = self.subscribed("news", headers={"Sec-WebSocket-Extensions": offer})
        self.assertIn("permessage-deflate", client.headers["sec-websocket-extensions"])
        write = client.transport.write

        def heard(data: bytes) -> None:
            self.heard.append(len(data))
            write(data)

        self.patch(client.transport, "write", heard)
        return client

    def test_off_by_default(self) -> None:
        """Without the setting an offer is not answered, and a compressed frame violates the protocol."""
        server = self.serve(Config())
        client = server.connect(headers=self.OFFER)
        self.assertNotIn("sec-websocket-extensions", client.headers)

        client.says_bytes(client_frame(deflated(b'{"action":"ping"}'), DEFLATED))

        self.assert_closed(client, CloseCode.PROTOCOL_ERROR)

    def test_not_offered(self) -> None:
        """With it, a client that offers nothing, or what can't be accepted, is served without."""
        for headers in ({}, {"Sec-WebSocket-Extensions": "permessage-deflate; foo, x-webkit-deflate-frame"}):
            client = self.connected(headers=headers)
            self.assertNotIn("sec-websocket-extensions", client.headers)
            self.assert_alive(client)
            client.says_bytes(client_frame(deflated(b'{"action":"ping"}'), DEFLATED))
            self.assert_closed(client, CloseCode.PROTOCOL_ERROR)

    def test_answer(self) -> None:
        """No context is taken over, and the window is bounded where the client asks for it."""
        answer = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
        self.assertEqual(self.connected(headers=self.OFFER).headers["sec-websocket-extensions"], answer)
        offer = {"Sec-WebSocket-Extensions": "permessage-deflate; server_max_window_bits=10"}
        self.assertEqual(
            self.connected(headers=offer).headers["sec-websocket-extensions"], f"{answer}; server_max_window_bits=10"
        )

    def test_mixed_subscribers(self) -> None:
        """Those who agreed upon it and those who did not hear the same, in the same order."""
        clients = [
            self.compressing(),
            self.subscribed("news"),
            self.compressing("permessage-deflate"),
            self.compressing("permessage-deflate; server_max_window_bits=9"),
        ]

        self.publish("news", "x" * 5000, "small", "y" * 5000)

        for client in clients:
            self.assertEqual(self.data_of(client), ["x" * 5000, "small", "y" * 5000])
        self.assertTrue(self.heard and max(self.heard) < 1000, self.heard)

    def test_requests(self) -> None:
        """Requests may be compressed or not, one after another, whole or in fragments."""
        client = self.compressing()
        text = publish_text(3000)
        data = deflated(text)
        parts = [client_frame(data[:10], DEFLATED, is_final=False), client_frame(data[10:], CONTINUATION)]

        client.says_bytes(client_frame(deflated(b'{"action":"ping"}'), DEFLATED) + PING)
        self.assert_actions(client, "pong", "pong")
        client.says_bytes(client_frame(data, DEFLATED))
        self.assert_actions(client, "ack", "message")
        client.says_bytes(parts[0] + client_frame(b"p", WS_PING))
        client.says_bytes(parts[1] + PING)

        self.assertEqual(sorted(event["action"] for event in client.take()), ["ack", "pong"])  # the same id again
        self.assertEqual(client.pongs, [b"p"])
        self.assertIsNone(client.transport.protocol._parser)

    def test_bomb(self) -> None:
        """What would unpack to more than ``limits.frame_bytes`` closes with 1009, as if it were as large."""
        client, other = self.compressing(), self.compressing()
        client.says_bytes(client_frame(deflated(b'"' + b"x" * 50_000_000 + b'"'), DEFLATED))

        self.assert_closed(client, CloseCode.TOO_BIG)
        self.assert_alive(other)

    def test_corrupt(self) -> None:
        """What can't be unpacked closes with 1007; what is no JSON once it is unpacked is malformed like any."""
        client = self.compressing()
        client.says_bytes(client_frame(deflated(b"no JSON"), DEFLATED))
        self.assert_refused(client, "bad_request")
        client.says_bytes(client_frame(b"\xff" * 20, DEFLATED))

        self.assert_closed(client, CloseCode.INVALID_DATA)

    def test_endings(self) -> None:
        """Control frames are never compressed, and the end is as ever."""
        client = self.compressing()
        client.pings(b"y" * 125)
        client.closes(4000)

        self.assertEqual((client.pongs, client.closed), ([b"y" * 125], 4000))
