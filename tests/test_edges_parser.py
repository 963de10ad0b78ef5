"""Autobahn's parser as we use it: what it finds it tells, and it never writes."""

from __future__ import annotations

import zlib

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


def compressed(payload: bytes, *, is_last: bool = False) -> bytes:
    """The payload as RFC 7692 §7.2.1 compresses it; with a last block, as §7.2.3.4 allows."""
    compressor = zlib.compressobj(wbits=-15)
    data = compressor.compress(payload)
    return data + (compressor.flush() + b"\0" if is_last else compressor.flush(zlib.Z_SYNC_FLUSH).removesuffix(TAIL))


TAIL = b"\x00\x00\xff\xff"
DEFLATED = 0x41


class CompressedTests(SynchronousTestCase):
    """What compressed frames are, where compression was agreed upon. Messages have at most 1000 bytes."""

    def feed(self, *parts: bytes) -> list[tuple[object, ...]]:
        """What a parser finds in these bytes."""
        receiver = RecordingReceiver()
        parser = FrameParser(receiver, 1000, is_compressing=True)
        for part in parts:
            parser.feed(part)
        return receiver.heard

    def test_messages(self) -> None:
        """Compressed and plain messages alternate; none depends on one before."""
        hello = client_frame(compressed(b"Hello" * 50), DEFLATED)
        heard = self.feed(hello, client_frame(b"plain", 1), hello)

        self.assertEqual([payload for _, payload, *_ in heard], [b"Hello" * 50, b"plain", b"Hello" * 50])

    def test_sample(self) -> None:
        """The frames of RFC 7692 §7.2.3.1, §7.2.3.3 and §7.2.3.4: compressed, stored, with a last block."""
        for data in ("f248cdc9c90700", "000500faff48656c6c6f00", "f348cdc9c9070000"):
            self.assertEqual(
                self.feed(client_frame(bytes.fromhex(data), DEFLATED)), [("message", b"Hello", False)], data
            )

    def test_last_block(self) -> None:
        """A message may end with a last block."""
        heard = self.feed(client_frame(compressed(b"abc" * 100, is_last=True), DEFLATED))

        self.assertEqual(heard, [("message", b"abc" * 100, False)])

    def test_empty(self) -> None:
        """An empty message is one zero byte (RFC 7692 §7.2.3.6)."""
        self.assertEqual(self.feed(client_frame(b"\0", DEFLATED)), [("message", b"", False)])

    def test_fragments(self) -> None:
        """Only the first fragment says that the message is compressed; it may be cut anywhere, with pings between."""
        data = compressed(bytes(range(256)) * 3)
        frames = [client_frame(data[:9], DEFLATED, is_final=False), client_frame(b"p", 9)]
        frames += [client_frame(data[9:50], 0, is_final=False), client_frame(data[50:], 0)]

        for parts in (frames, [bytes([byte]) for byte in b"".join(frames)]):
            heard = self.feed(*parts)
            self.assertEqual(heard, [("ping", b"p"), ("message", bytes(range(256)) * 3, False)])

    def test_limit(self) -> None:
        """The limit counts what comes out: a bomb is refused, in one frame or in fragments, and not unpacked."""
        self.assertEqual(self.feed(client_frame(compressed(b"x" * 1000), DEFLATED))[0][0], "message")
        bomb = compressed(b"x" * 500_000)
        self.assertLess(len(bomb), 1000)
        too_big = [("fail", CloseCode.TOO_BIG)]
        self.assertEqual(self.feed(client_frame(bomb, DEFLATED)), too_big)
        self.assertEqual(self.feed(client_frame(compressed(b"x" * 1001), DEFLATED)), too_big)
        parts = [client_frame(bomb[:5], DEFLATED, is_final=False), client_frame(bomb[5:], 0)]
        self.assertEqual(self.feed(*parts), too_big)

    def test_corrupt(self) -> None:
        """What can't be decompressed is told as that, once."""
        for data in (b"\x07\xff\xff", b"\xff" * 20):
            self.assertEqual(
                self.feed(client_frame(data, DEFLATED) + client_frame(b"x")), [("fail", CloseCode.INVALID_DATA)]
            )

    def test_violations(self) -> None:
        """The bit stands in the first frame of a message only; the other two bits mean nothing still."""
        data = compressed(b"Hello")
        violation = [("fail", CloseCode.PROTOCOL_ERROR)]
        self.assertEqual(self.feed(client_frame(b"p", 0x49)), violation)
        for bits in (0x20, 0x10, 0x60):
            self.assertEqual(self.feed(client_frame(data, 1 | bits)), violation)
        self.assertEqual(self.feed(client_frame(b"", DEFLATED, is_final=False), client_frame(data, 0x40)), violation)

    def test_not_agreed(self) -> None:
        """Without an agreement it is a violation."""
        receiver = RecordingReceiver()
        FrameParser(receiver, 1000).feed(client_frame(compressed(b"Hello"), DEFLATED))

        self.assertEqual(receiver.heard, [("fail", CloseCode.PROTOCOL_ERROR)])
