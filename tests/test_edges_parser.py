"""Autobahn's parser as we use it: what it finds it tells, and it never writes."""

from __future__ import annotations

from tests.base import SynchronousTestCase
from wsock.edges.parser import FrameParser
from wsock.errors import CloseCode
from wsock.testing import client_frame


class RecordingReceiver:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.heard: list[tuple[object, ...]] = []

    def received_message(self, payload: bytes, is_binary: bool) -> None:
        self.heard.append(("message", payload, is_binary))

    def received_ping(self, payload: bytes) -> None:
        self.heard.append(("ping", payload))

    def received_close(self, code: int | None) -> None:
        self.heard.append(("close", code))

    def fail(self, code: CloseCode, reason: str) -> None:
        self.heard.append(("fail", code))


class FrameParserTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.receiver = RecordingReceiver()
        self.parser = FrameParser(self.receiver, 100)

    def feed(self, *parts: bytes) -> list[tuple[object, ...]]:
        """What is found in these bytes."""
        for part in parts:
            self.parser.feed(part)
        heard, self.receiver.heard = self.receiver.heard, []
        return heard

    def test_messages(self) -> None:
        """Messages in one or more fragments, with control frames in between."""
        heard = self.feed(
            client_frame(b"ab", 1, is_final=False),
            client_frame(b"p", 9),
            client_frame(b"q", 10),
            client_frame(b"cd", 0),
            client_frame(b"ef", 2),
        )

        self.assertEqual(heard, [("ping", b"p"), ("message", b"abcd", False), ("message", b"ef", True)])

    def test_rest(self) -> None:
        """It is at rest between messages only, however the bytes are cut."""
        data = client_frame(b"ab", 1, is_final=False) + client_frame(b"", 9) + client_frame(b"cd", 0)
        self.assertTrue(self.parser.is_at_rest)
        for at in range(len(data) - 1):
            self.feed(data[at : at + 1])
            self.assertFalse(self.parser.is_at_rest, at)

        self.feed(data[-1:])

        self.assertTrue(self.parser.is_at_rest)

    def test_close(self) -> None:
        """A close frame is the last thing that is found."""
        heard = self.feed(client_frame(b"\x03\xe8bye", 8) + client_frame(b"", 9))

        self.assertEqual(heard, [("close", 1000)])
        self.assertEqual(self.feed(client_frame(b"", 9)), [])

    def test_failure_is_told_once(self) -> None:
        """Behind a violation nothing is found any more."""
        self.assertEqual(self.feed(b"\x81\x00", b"\x81\x00"), [("fail", CloseCode.PROTOCOL_ERROR)])

    def test_too_big(self) -> None:
        """A message beyond the limit is refused as soon as its size is known."""
        self.assertEqual(self.feed(client_frame(b"x" * 101)[:6]), [("fail", CloseCode.TOO_BIG)])

    def test_unmasked_pongs(self) -> None:
        """Unmasked pongs are dropped, whole or cut, wherever a frame may begin."""
        heard = self.feed(b"\x8a\x01a\x8a", b"\x02", b"b", b"c" + client_frame(b"ab", 1, is_final=False) + b"\x8a\x00")
        self.assertEqual(heard, [])

        heard = self.feed(client_frame(b"cd", 0) + b"\x8a\x00" + client_frame(b"p", 9))

        self.assertEqual(heard, [("message", b"abcd", False), ("ping", b"p")])
        self.assertTrue(self.parser.is_at_rest)
