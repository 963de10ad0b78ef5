"""Tests of :mod:`wsock.protocol.handshake`."""

from __future__ import annotations

import contextlib
import json
from time import perf_counter

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.base import SynchronousTestCase
from wsock.errors import HTTP_STATUS, Code, Refused, Unavailable
from wsock.protocol.handshake import (
    Handshake,
    Head,
    HeadError,
    accept_response,
    is_upgrade,
    parse_head,
    refusal,
    upgrade,
)

repeatable = settings(max_examples=400)

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
NEEDED = {
    "Host": "server.example.com",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


def head(line: str = "GET /chat HTTP/1.1", *more: str, without: str = "", **changed: str) -> bytes:
    """A head that asks for WebSocket, with some headers changed, more of them, or one left out."""
    headers = NEEDED | {name.replace("_", "-"): value for name, value in changed.items()}
    lines = [f"{name}: {value}" for name, value in headers.items() if name != without]
    return "\r\n".join([line, *lines, *more]).encode("latin-1")


class ParseHeadTests(SynchronousTestCase):
    """Bytes to a request head."""

    def assert_refused(self, data: bytes, part: str = "malformed") -> None:
        """The bytes are no head, for the reason that has the part."""
        self.assertIn(part, str(self.assertRaises(HeadError, parse_head, data)))

    def test_head(self) -> None:
        """A head is its method, target, version and headers; names are in lower case, spaces around values are none."""
        read = parse_head(b"POST /a?b=c HTTP/1.0\r\nHost:x\r\nX-Note: \t a b \t\r\nEmpty:\r\nBlank: \t ")

        self.assertEqual(
            read,
            Head("POST", "/a?b=c", False, {"host": "x", "x-note": "a b", "empty": "", "blank": ""}, frozenset()),
        )

    def test_no_headers(self) -> None:
        """A request line alone is a head."""
        self.assertEqual(parse_head(b"GET / HTTP/1.1"), Head("GET", "/", True, {}, frozenset()))

    def test_repeated(self) -> None:
        """A repeated header is joined in order, whatever the case of its name, and told."""
        read = parse_head(b"GET / HTTP/1.1\r\nX-A: 1\r\nx-b: 2\r\nx-a: 3\r\nX-a: 4")

        self.assertEqual(read.headers, {"x-a": "1, 3, 4", "x-b": "2"})
        self.assertEqual(read.repeated, {"x-a"})

    def test_latin1(self) -> None:
        """Bytes beyond ASCII are Latin-1 text; a tab within a value is kept."""
        read = parse_head(b"GET / HTTP/1.1\r\nA: caf\xe9\tx")

        self.assertEqual(read.headers["a"], "caf\xe9\tx")

    def test_smuggling(self) -> None:
        """No value holds a character at which some parser splits lines: no forged header appears."""
        for c in (
            b"\x0b",
            b"\x0c",
            b"\x1c",
            b"\x1d",
            b"\x1e",
            b"\x85",
            b"\x00",
            b"\n",
            b"\r",
            b"\x1f",
            b"\x7f",
            b"\x08",
        ):
            self.assert_refused(b"GET / HTTP/1.1\r\nX-Note: a" + c + b"X-Forwarded-For: 6.6.6.6", "control character")
            self.assert_refused(b"GET / HTTP/1.1\r\nX-Note: a" + c, "control character")
            self.assert_refused(b"GET / HTTP/1.1\r\nX-Note:" + c + b"a", "control character")
            self.assert_refused(b"GET / HTTP/1.1\r\nX" + c + b"Y: a")
            self.assert_refused(b"GET /" + c + b" HTTP/1.1\r\nHost: x", "request line")
            self.assert_refused(b"GET / HTTP/1.1" + c + b"\r\nHost: x", "request line")

    def test_folding(self) -> None:
        """A header that goes on in the next line is refused: RFC 9112 §5.2 ended that."""
        for fold in (b" folded", b"\tfolded", b" X-A: b"):
            self.assert_refused(b"GET / HTTP/1.1\r\nX-Note: a\r\n" + fold)

    def test_header_lines(self) -> None:
        """A line without a colon, a name with a space, no name, an empty line."""
        for line in (b"Host", b"Host : x", b": x", b"", b"H\xe9: x", b"(x): y", b'"x": y', b"a b: c"):
            self.assert_refused(b"GET / HTTP/1.1\r\n" + line)

    def test_request_lines(self) -> None:
        """What is no request line of HTTP/1."""
        for line in (
            b"",
            b"GET",
            b"GET /",
            b"GET / HTTP/2",
            b"GET / HTTP/1.2",
            b"GET / http/1.1",
            b"GET  / HTTP/1.1",
            b"GET / HTTP/1.1 ",
            b" GET / HTTP/1.1",
            b"GET /a b HTTP/1.1",
            b"GET /\xe9 HTTP/1.1",
            b"GET\t/ HTTP/1.1",
            b"G@T / HTTP/1.1",
            b"PRI * HTTP/2.0",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        ):
            self.assert_refused(line, "request line")

    def test_linear_time(self) -> None:
        """Spaces, however many and wherever, do not make the parser go back and forth.

        The bound is far beyond any noise: cubic time would take hours.
        """
        spaces = b" \t" * 50_000
        for value in (spaces + b"\x00", b"x" + spaces + b"y", spaces + b"y" + spaces, b"x \x00" + spaces):
            started = perf_counter()
            with contextlib.suppress(HeadError):
                parse_head(b"GET / HTTP/1.1\r\nA:" + value)
            self.assertLess(perf_counter() - started, 5.0)

    @repeatable
    @given(st.binary(max_size=100))
    @example(b"GET / HTTP/1.1\r\n\r\n")
    def test_any_bytes(self, data: bytes) -> None:
        """Whatever follows a request line, it is a head or is refused."""
        for text in (data, b"GET / HTTP/1.1\r\n" + data, b"GET / HTTP/1.1\r\nA: " + data):
            try:
                parsed = parse_head(text)
            except HeadError:
                continue
            for value in parsed.headers.values():
                self.assertLessEqual(len(value.splitlines()), 1)


class UpgradeTests(SynchronousTestCase):
    """A head to a handshake."""

    def upgrade(self, data: bytes) -> Handshake:
        """The handshake that the bytes ask for."""
        return upgrade(parse_head(data))

    def assert_refused(self, data: bytes, part: str) -> None:
        """No handshake, for the reason that has the part."""
        self.assertIn(part, str(self.assertRaises(HeadError, self.upgrade, data)))

    def test_handshake(self) -> None:
        """A valid upgrade tells path, query, headers and key."""
        shake = self.upgrade(head("GET /ws?key=demo.k_1-x&token=a.b-c_d HTTP/1.1", "Origin: https://example.com"))

        self.assertEqual(shake.path, "/ws")
        self.assertEqual(shake.query, {"key": "demo.k_1-x", "token": "a.b-c_d"})
        self.assertEqual(shake.key, KEY)
        self.assertEqual(shake.origin, "https://example.com")
        self.assertEqual(shake.headers["host"], "server.example.com")

    def test_no_origin(self) -> None:
        """Only browsers tell an origin."""
        self.assertIsNone(self.upgrade(head()).origin)

    def test_paths(self) -> None:
        """Any path is good; repeated slashes are one, and escapes are read."""
        for target, path in [
            ("/?key=k", "/"),
            ("//?key=k", "/"),
            ("/ws/?key=k", "/ws/"),
            ("///a////b//", "/a/b/"),
            ("/a%20b", "/a b"),
            ("/%2F%2Fa", "/a"),
            ("/caf%C3%A9", "/caf\u00e9"),
            ("/%zz", "/%zz"),
            ("/%FF", "/\ufffd"),
            ("*", "*"),
        ]:
            self.assertEqual(self.upgrade(head(f"GET {target} HTTP/1.1")).path, path, target)

    def test_queries(self) -> None:
        """The query is read as a form: the first of a repeated name counts, an empty value is none."""
        for query, fields in [
            ("", {}),
            ("key=k", {"key": "k"}),
            ("key=", {}),
            ("key", {}),
            ("key=&token=t", {"token": "t"}),
            ("key=k&key=l", {"key": "k"}),
            ("key=a%2Bb%25%26", {"key": "a+b%&"}),
            ("key=a+b", {"key": "a b"}),
            ("key=100%", {"key": "100%"}),
            ("token=a=b==", {"token": "a=b=="}),
            ("key=k?x=y", {"key": "k?x=y"}),
            ("a;b=c&key=k", {"a;b": "c", "key": "k"}),
            ("key=%ff", {"key": "\ufffd"}),
            ("&&key=k&", {"key": "k"}),
        ]:
            self.assertEqual(self.upgrade(head(f"GET /?{query} HTTP/1.1")).query, fields, query)

    def test_too_many_fields(self) -> None:
        """A query of more than 100 fields is refused."""
        self.upgrade(head(f"GET /?{'&'.join(['a=b'] * 100)} HTTP/1.1"))
        self.assert_refused(head(f"GET /?{'&'.join(['a=b'] * 101)} HTTP/1.1"), "too many fields")

    def test_lists_and_case(self) -> None:
        """Upgrade and Connection are lists in which case does not matter: Firefox sends ``keep-alive, Upgrade``."""
        for value in ("websocket", "WebSocket", "WEBSOCKET", "h2c, websocket", "websocket ,foo"):
            self.assertTrue(is_upgrade(parse_head(head(Upgrade=value))), value)
        for value in ("Upgrade", "upgrade", "keep-alive, Upgrade", "Upgrade,keep-alive", "keep-alive , UPGRADE"):
            self.upgrade(head(Connection=value))

    def test_connection_in_two_headers(self) -> None:
        """A list may be told in several headers."""
        self.upgrade(head("GET / HTTP/1.1", "Connection: keep-alive"))

    def test_no_upgrade(self) -> None:
        """What does not ask for WebSocket is HTTP."""
        self.assertFalse(is_upgrade(parse_head(head(without="Upgrade"))))
        for value in ("h2c", "", "websockets", "web socket", "xwebsocket"):
            self.assertFalse(is_upgrade(parse_head(head(Upgrade=value))), value)

    def test_method_and_version(self) -> None:
        """An upgrade takes GET and HTTP/1.1."""
        for line in ("POST / HTTP/1.1", "HEAD / HTTP/1.1", "get / HTTP/1.1", "CONNECT / HTTP/1.1", "GET / HTTP/1.0"):
            self.assert_refused(head(line), "GET and HTTP/1.1")

    def test_missing(self) -> None:
        """Each header that the handshake needs is missed by name."""
        for name in ("Host", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version"):
            self.assert_refused(head(without=name), name.lower())

    def test_duplicated(self) -> None:
        """What two parsers could read differently may stand only once."""
        for line in (
            "Host: other",
            f"Sec-WebSocket-Key: {KEY}",
            "sec-websocket-key: x",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Version: 8",
        ):
            self.assert_refused(head("GET / HTTP/1.1", line), f"{line.partition(':')[0].lower()} appears twice")
        self.assert_refused(head("GET / HTTP/1.1", "Origin: https://a", "Origin: https://b"), "origin appears twice")

    def test_connection(self) -> None:
        """A Connection without ``upgrade``, as proxies leave it."""
        for value in ("keep-alive", "close", "", "upgrades"):
            self.assert_refused(head(Connection=value), "lacks 'upgrade'")

    def test_versions(self) -> None:
        """Only version 13 is spoken."""
        for version in ("8", "0", "14", "", "13, 8", "013", "\xb913"):
            self.assert_refused(head(Sec_WebSocket_Version=version), "takes 13")

    def test_keys(self) -> None:
        """A key is base64 of 16 bytes, nothing less, more or else."""
        for key in (
            "",
            "x",
            KEY[:-1],
            KEY[:-2],
            KEY + "=",
            "A" * 24,
            "A" * 22 + "=" * 3,
            "dGhlIHNhbXBsZSBub25jZS0=",
            "_" * 22 + "==",
            "dGhl IHNhbXBsZSBub25jZQ=",
            "=" * 24,
            "\xe9" * 22 + "==",
            "\xe9" * 24,
        ):
            self.assert_refused(head(Sec_WebSocket_Key=key), "base64 of 16 bytes")

    def test_no_body(self) -> None:
        """A body would be read as WebSocket frames: there is none."""
        self.upgrade(head("GET / HTTP/1.1", "Content-Length: 0"))
        for line in (
            "Content-Length: 5",
            "Content-Length: -0",
            "Content-Length: 0, 5",
            "Content-Length: ",
            "Transfer-Encoding: chunked",
        ):
            self.assert_refused(head("GET / HTTP/1.1", line), "no body")
        self.assert_refused(head("GET / HTTP/1.1", "Content-Length: 0", "Content-Length: 5"), "no body")

    @repeatable
    @given(
        st.sampled_from([*NEEDED, "Origin", "Content-Length"]), st.text(st.characters(max_codepoint=255), max_size=30)
    )
    def test_any_value(self, name: str, value: str) -> None:
        """Whatever a header says, the head is a handshake or is refused."""
        with contextlib.suppress(HeadError):
            self.upgrade(head(**{name.replace("-", "_"): value}))

    @repeatable
    @given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=60))
    def test_any_target(self, target: str) -> None:
        """Whatever the target, it is a handshake without repeated slashes in its path."""
        self.assertNotIn("//", self.upgrade(head(f"GET {target} HTTP/1.1")).path)


class AcceptTests(SynchronousTestCase):
    """The 101."""

    def test_sample(self) -> None:
        """The key of RFC 6455 §1.3 is answered with the accept value given there."""
        shake = upgrade(parse_head(head()))

        self.assertEqual(
            accept_response(shake),
            b"HTTP/1.1 101 Switching Protocols\r\n"
            b"Upgrade: websocket\r\n"
            b"Connection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
            b"\r\n",
        )

    def test_extra(self) -> None:
        """More headers follow."""
        response = accept_response(upgrade(parse_head(head())), (("Server", "wsock"), ("X-Node", "n1")))

        self.assertTrue(response.endswith(b"xOo=\r\nServer: wsock\r\nX-Node: n1\r\n\r\n"))


class RefusalTests(SynchronousTestCase):
    """The answer that refuses an upgrade."""

    def test_bytes(self) -> None:
        """It is a complete HTTP response with a JSON body, after which the connection ends."""
        self.assertEqual(
            refusal(Refused(Code.UNAUTHORIZED, 'the key "x" is unknown')),
            b"HTTP/1.1 401 Unauthorized\r\n"
            b"Content-Type: application/json\r\n"
            b"Connection: close\r\n"
            b"Content-Length: 58\r\n"
            b"\r\n"
            b'{"error":"the key \\"x\\" is unknown","code":"unauthorized"}',
        )

    def test_retry_after(self) -> None:
        """The time to wait is whole seconds, at least one."""
        for seconds, header in [(0.01, b"1"), (1.4, b"1"), (29.6, b"30")]:
            response = refusal(Unavailable("draining", retry_after=seconds))
            self.assertTrue(response.startswith(b"HTTP/1.1 503 Service Unavailable\r\n"))
            self.assertIn(b"\r\nRetry-After: " + header + b"\r\n", response)

    def test_extra(self) -> None:
        """More headers may be told."""
        self.assertIn(b"\r\nX-A: b\r\n\r\n{", refusal(Refused(Code.FORBIDDEN, "no"), (("X-A", "b"),)))

    def test_every_code(self) -> None:
        """Every code has its status; text beyond ASCII is UTF-8 and counted in bytes."""
        for code in Code:
            first, _, rest = refusal(Refused(code, "caf\u00e9 \u732b\r\nX: y")).partition(b"\r\n")
            fields, _, body = rest.partition(b"\r\n\r\n")
            self.assertEqual(int(first.split()[1]), HTTP_STATUS[code])
            self.assertIn(b"Content-Length: %d" % len(body), fields)
            self.assertEqual(json.loads(body), {"error": "caf\u00e9 \u732b\r\nX: y", "code": code.value})
