"""The door: heads of requests, in time and in bounds, and what they may not smuggle."""

from __future__ import annotations

from tests.vocabulary import Gate, ServerTestCase
from wsock.config import Config, Http, Limits
from wsock.testing import InMemoryClient, client_frame

KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
HEAD = b"\r\n".join(
    [
        b"GET /?key=demo HTTP/1.1",
        b"Host: wsock.example",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        KEY,
        b"Sec-WebSocket-Version: 13",
    ]
)
PING = client_frame(b'{"action":"ping"}')


class DoorTestCase(ServerTestCase):
    def asks(self, head: bytes, rest: bytes = b"\r\n\r\n") -> InMemoryClient:
        """A connection on which this head was sent."""
        client = self.server.accept()
        client.says_bytes(head + rest)
        return client

    def with_header(self, header: bytes) -> InMemoryClient:
        """A connection that asked for WebSocket with one header more."""
        return self.asks(HEAD + b"\r\n" + header)

    def without(self, name: bytes) -> InMemoryClient:
        """A connection that asked for WebSocket without a header."""
        lines = HEAD.split(b"\r\n")
        return self.asks(b"\r\n".join(line for line in lines if not line.lower().startswith(name.lower())))

    def assert_bad(self, client: InMemoryClient, *words: str) -> None:
        """The head was refused with 400 and JSON, and the connection ended."""
        self.assertEqual((client.status, client.headers["content-type"]), (400, "application/json"))
        self.assertEqual(client.body["code"], "bad_request")
        for word in words:
            self.assertIn(word, client.body["error"])
        self.server.settle()
        self.assertEqual(client.ending, "lost")


class UpgradeTests(DoorTestCase):
    def test_accepted(self) -> None:
        """The answer is the one of RFC 6455 §1.3."""
        client = self.asks(HEAD)

        self.assertEqual(client.status, 101)
        self.assertEqual(client.headers["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        self.assertEqual(client.headers["upgrade"], "websocket")

    def test_nothing_of_http_is_left(self) -> None:
        """The transport speaks to the connection alone from then on."""
        client = self.asks(HEAD)

        self.assertIs(client.transport.protocol, self.server.server.gate.connections()[0])

    def test_any_path(self) -> None:
        """The upgrade is accepted on any path, with slashes doubled or not, even below /api."""
        for path in (b"/", b"//", b"/ws", b"/ws/", b"/a//b", b"/api/x", b"/health", b"/%2F", b"/%ff"):
            client = self.asks(HEAD.replace(b"GET /?", b"GET " + path + b"?"))
            self.assertEqual(client.status, 101, path)

    def test_head_in_pieces(self) -> None:
        """A head may come byte by byte, with the first frames right behind it."""
        client = self.server.accept()
        for byte in HEAD + b"\r\n\r\n" + PING + PING:
            client.transport.send(bytes([byte]))
        self.server.settle()

        self.assert_actions(client, "pong", "pong")

    def test_frames_in_the_same_read(self) -> None:
        """A client need not wait for the answer."""
        client = self.asks(HEAD, b"\r\n\r\n" + PING)

        self.assert_told(client, action="pong")

    def test_frames_while_admission_waits(self) -> None:
        """Nor lose what it says while its credential is looked up."""
        auth, gate = self.server.server.auth, Gate()
        self.patch(auth, "credential", gate.guard(auth.credential))
        client = self.asks(HEAD, b"\r\n\r\n" + PING)
        client.says_bytes(PING)
        self.assertIsNone(client.status)

        gate.open()
        self.server.settle()

        self.assert_actions(client, "pong", "pong")

    def test_flood_while_admission_waits(self) -> None:
        """But it can't fill the memory with it."""
        auth, gate = self.server.server.auth, Gate()
        self.patch(auth, "credential", gate.guard(auth.credential))
        client = self.asks(HEAD)

        client.says_bytes(PING * 1000)

        self.assert_closed(client, "reset")
        gate.open()
        self.server.settle()
        self.assertEqual(len(self.server.server.gate), 0)

    def test_loss_while_admission_waits(self) -> None:
        """A client that gives up leaves nothing behind."""
        auth, gate = self.server.server.auth, Gate()
        self.patch(auth, "credential", gate.guard(auth.credential))
        client = self.asks(HEAD)

        client.disappears()
        gate.open()
        self.server.settle()

        self.assertEqual((self.server.server.gate.opened, client.status), (0, None))

    def test_failing_directory(self) -> None:
        """A fault of the server is 500 without details, and a failure in the log."""

        async def fails(**_: object) -> None:
            raise ValueError("secret")

        self.patch(self.server.server.auth, "credential", fails)
        client = self.asks(HEAD)

        self.assertEqual((client.status, client.body["code"]), (500, "internal"))
        self.assertNotIn("secret", client.body["error"])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)


class BadHeadTests(DoorTestCase):
    def test_no_head(self) -> None:
        """What is no HTTP is refused."""
        for text in (b"x", b"GET", b"GET / HTTP/2.0", b"GET  / HTTP/1.1", b"\x16\x03\x01\x00", b"GET /\x00 HTTP/1.1"):
            self.assert_bad(self.asks(text))

    def test_missing_headers(self) -> None:
        """An upgrade lacks nothing."""
        for name in (b"Host", b"Connection", b"Sec-WebSocket-Key", b"Sec-WebSocket-Version"):
            self.assert_bad(self.without(name), name.decode().lower())

    def test_wrong_headers(self) -> None:
        """Nor has it anything wrong."""
        self.assert_bad(self.asks(HEAD.replace(b"GET", b"POST")), "GET")
        self.assert_bad(self.asks(HEAD.replace(b"HTTP/1.1", b"HTTP/1.0")), "HTTP/1.1")
        self.assert_bad(self.asks(HEAD.replace(b"Version: 13", b"Version: 8")), "13")
        self.assert_bad(self.asks(HEAD.replace(b"dGhl", b"dGh")), "sec-websocket-key")
        self.assert_bad(self.with_header(b"Content-Length: 5"), "body")
        self.assert_bad(self.with_header(b"Transfer-Encoding: chunked"), "body")

    def test_smuggling(self) -> None:
        """A header with a line separator of some kind would be two headers to somebody else."""
        for separator in (b"\x0b", b"\x0c", b"\x1c", b"\x1d", b"\x1e", b"\x85", b"\r", b"\n", b"\x00"):
            self.assert_bad(self.with_header(b"X-Note: a" + separator + b"X-Forwarded-For: 6.6.6.6"))

    def test_folded_and_nameless(self) -> None:
        """Nor are there continued lines, or spaces in front of a colon."""
        for header in (b" folded: x", b"\tfolded", b"Name : x", b": x", b"no colon"):
            self.assert_bad(self.with_header(header))

    def test_twice(self) -> None:
        """What decides something may appear once."""
        for header in (b"Host: other", KEY, b"Sec-WebSocket-Version: 13", b"Origin: a\r\nOrigin: b"):
            self.assert_bad(self.with_header(header), "twice")

    def test_too_large(self) -> None:
        """A head of more than ``limits.head_bytes`` is refused, whether it ends or not."""
        self.assert_bad(self.with_header(b"X: " + b"x" * 16_384), "limits.head_bytes")
        self.assert_bad(self.asks(b"x" * 16_385, b""), "limits.head_bytes")

    def test_nothing_behind_a_refusal(self) -> None:
        """What comes behind a refused head is not read."""
        client = self.asks(b"x", b"\r\n\r\n")
        client.transport.protocol.dataReceived(HEAD + b"\r\n\r\n")

        self.assertEqual(len(self.server.server.gate), 0)


class TimeTests(DoorTestCase):
    def test_slow_handshake(self) -> None:
        """A head that does not come in time is refused, however little of it came last."""
        slow = self.asks(HEAD, b"")
        for _ in range(9):
            self.server.advance(1)
            slow.says_bytes(b"x")
        self.assertIsNone(slow.status)

        self.server.advance(2)

        self.assert_bad(slow, "limits.handshake_seconds")

    def test_silence(self) -> None:
        """Nor does a silent connection stay; those who did come are not disturbed."""
        silent = self.server.accept()
        self.server.advance(5)
        later, served = self.server.accept(), self.connected()

        self.server.advance(6)

        self.assert_bad(silent)
        self.assertIsNone(later.status)
        self.assert_alive(served)

    def test_gone_in_time(self) -> None:
        """One that is gone already is not refused."""
        client = self.server.accept()
        client.disappears()

        self.server.advance(20)

        self.assertIsNone(client.status)


class AddressTests(DoorTestCase):
    def opens(self, server_config: Config, forwarded: str, address: str) -> int | None:
        """The status of the second of two handshakes, of which one a minute is allowed for each address."""
        server = self.serve(server_config)
        server.connect(address="192.0.2.7", headers={"X-Forwarded-For": "1.1.1.1, 203.0.113.5"})
        return server.connect(address=address, headers={"X-Forwarded-For": forwarded}).status

    def test_peer(self) -> None:
        """Without a proxy the address is the peer's, whatever the client says."""
        config = Config(limits=Limits(connect_rate_per_ip=1))

        self.assertEqual(self.opens(config, "9.9.9.9", "192.0.2.7"), 429)
        self.assertEqual(self.opens(config, "1.1.1.1, 203.0.113.5", "192.0.2.8"), 101)

    def test_proxy(self) -> None:
        """Behind a proxy it is what the proxy saw, whatever the client put in front."""
        config = Config(limits=Limits(connect_rate_per_ip=1), http=Http(trusted_proxies=1))

        self.assertEqual(self.opens(config, "9.9.9.9, 203.0.113.5", "192.0.2.9"), 429)
        self.assertEqual(self.opens(config, "203.0.113.5, 9.9.9.9", "192.0.2.7"), 101)
        self.assertEqual(self.opens(config, "", "192.0.2.7"), 101)


class HttpTests(DoorTestCase):
    def test_other_requests(self) -> None:
        """What is no upgrade is for HTTP, with every byte of it, also in pieces."""
        client = self.server.accept()

        client.says_bytes(b"GET /health HTTP/1.1\r\nHo")
        client.says_bytes(b"st: a\r\n\r\n")

        self.assertEqual(client.status, 200)
        client.says_bytes(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertIn(b"HTTP/1.1 200", client._data)

    def test_http_loss(self) -> None:
        """HTTP learns when its connection is lost."""
        client = self.asks(b"POST /health HTTP/1.1\r\nHost: a\r\nContent-Length: 5")

        client.disappears()

        self.assertFalse(client.transport.protocol._http.transport.connected)

    def test_no_http(self) -> None:
        """Where nobody speaks HTTP the connection ends."""
        self.patch(self.server.server.doors, "build_http", lambda _: None)

        client = self.asks(b"GET /health HTTP/1.1\r\nHost: a")

        self.assertEqual(client.ending, "lost")
