"""Tests of :mod:`wsock.protocol.wire`."""

from __future__ import annotations

import random  # noqa: TID251 - seeded, so that a failure repeats

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.base import SynchronousTestCase
from wsock.protocol.wire import close_frame, complete_texts, pong_frame, text_frame, unmask, wanted

repeatable = settings(max_examples=300)
MASK = b"\x37\xfa\x21\x3d"
LIMIT = 1 << 20


def naive_unmask(payload: bytes, mask: bytes) -> bytes:
    """Byte by byte, as RFC 6455 §5.3 says it."""
    return bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def client_frame(payload: bytes, mask: bytes = MASK, first: int = 0x81) -> bytes:
    """A frame as a client sends it."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 0x10000:
        length = b"\xfe" + size.to_bytes(2, "big")
    else:
        length = b"\xff" + size.to_bytes(8, "big")
    return bytes([first]) + length + mask + naive_unmask(payload, mask)


class TextFrameTests(SynchronousTestCase):
    """Text frames out."""

    def test_sample(self) -> None:
        """The frame of RFC 6455 §5.7."""
        self.assertEqual(text_frame(b"Hello"), b"\x81\x05Hello")

    def test_sizes(self) -> None:
        """The length takes the shortest of its three forms."""
        for size, header in [
            (0, b"\x81\x00"),
            (1, b"\x81\x01"),
            (125, b"\x81\x7d"),
            (126, b"\x81\x7e\x00\x7e"),
            (65535, b"\x81\x7e\xff\xff"),
            (65536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
            (1 << 20, b"\x81\x7f\x00\x00\x00\x00\x00\x10\x00\x00"),
        ]:
            payload = b"x" * size
            self.assertEqual(text_frame(payload), header + payload)


class ControlFrameTests(SynchronousTestCase):
    """Control frames out."""

    def test_close(self) -> None:
        """A close frame is its code and reason."""
        self.assertEqual(close_frame(1008, "no"), b"\x88\x04\x03\xf0no")
        self.assertEqual(close_frame(4401, ""), b"\x88\x02\x11\x31")

    def test_close_is_cut(self) -> None:
        """A reason has at most 123 bytes, and no character is cut in two."""
        self.assertEqual(close_frame(1000, "a" * 123), b"\x88\x7d\x03\xe8" + b"a" * 123)
        self.assertEqual(close_frame(1000, "a" * 124), b"\x88\x7d\x03\xe8" + b"a" * 123)
        for lead in range(4):
            for character in ("\u00e9", "\u732b", "\U0001f600"):
                frame = close_frame(1000, "a" * lead + character * 123)
                self.assertEqual(frame[1], len(frame) - 2)
                self.assertLessEqual(frame[1], 125)
                self.assertGreater(frame[1], 125 - len(character.encode()))
                self.assertEqual(frame[4:].decode(), "a" * lead + character * ((123 - lead) // len(character.encode())))

    def test_pong(self) -> None:
        """A pong has the payload of its ping."""
        self.assertEqual(pong_frame(b"{}"), b"\x8a\x02{}")
        self.assertEqual(pong_frame(b""), b"\x8a\x00")
        self.assertEqual(pong_frame(b"x" * 125), b"\x8a\x7d" + b"x" * 125)


class UnmaskTests(SynchronousTestCase):
    """Masked payloads."""

    def test_sample(self) -> None:
        """The masked frame of RFC 6455 §5.7."""
        self.assertEqual(unmask(b"\x7f\x9f\x4d\x51\x58", MASK), b"Hello")

    def test_sizes(self) -> None:
        """It is the XOR with the repeated mask for every size, leading and trailing zeros among the bytes."""
        dice = random.Random(53)
        for size in (*range(301), *range(505, 521)):
            for mask in (MASK, b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", dice.randbytes(4)):
                for payload in (dice.randbytes(size), bytes(size)):
                    self.assertEqual(unmask(payload, mask), naive_unmask(payload, mask))

    def test_large(self) -> None:
        """And for a large one."""
        payload = random.Random(54).randbytes(70_001)

        self.assertEqual(unmask(payload, MASK), naive_unmask(payload, MASK))

    @repeatable
    @given(st.binary(max_size=200), st.binary(min_size=4, max_size=4))
    def test_twice(self, payload: bytes, mask: bytes) -> None:
        """Masking what is masked gives the payload."""
        self.assertEqual(unmask(unmask(payload, mask), mask), payload)


class CompleteTextsTests(SynchronousTestCase):
    """Text frames in."""

    def test_sizes(self) -> None:
        """Frames of each form of length are read, one after another, whatever comes first."""
        payloads = [b"x" * size for size in (0, 1, 125, 126, 127, 65535, 65536, 3)]
        data = b"".join(map(client_frame, payloads))

        self.assertEqual(complete_texts(data, LIMIT), (payloads, len(data)))

    def test_nothing(self) -> None:
        """No bytes, no frames."""
        self.assertEqual(complete_texts(b"", LIMIT), ([], 0))

    def test_cut(self) -> None:
        """A frame that is cut anywhere stays where it is; those before it are read."""
        first = client_frame(b"one")
        for payload in (b"", b"two", b"x" * 126, b"x" * 65536):
            second = client_frame(payload)
            for end in [*range(min(len(second), 20)), len(second) - 1]:
                self.assertEqual(complete_texts(first + second[:end], LIMIT), ([b"one"], len(first)))

    def test_everything_else(self) -> None:
        """Other kinds of frames, fragments, reserved bits and unmasked frames are left for the full parser."""
        good = client_frame(b"one")
        for first in (0x01, 0x80, 0x00, 0x82, 0x88, 0x89, 0x8A, 0xC1, 0xA1, 0x91, 0x83):
            data = good + client_frame(b"two", first=first) + good
            self.assertEqual(complete_texts(data, LIMIT), ([b"one"], len(good)))
        self.assertEqual(complete_texts(good + text_frame(b"unmasked"), LIMIT), ([b"one"], len(good)))

    def test_limit(self) -> None:
        """A frame may be as large as the limit and no larger."""
        self.assertEqual(complete_texts(client_frame(b"x" * 200), 200)[0], [b"x" * 200])
        self.assertEqual(complete_texts(client_frame(b"x" * 201), 200), ([], 0))
        self.assertEqual(complete_texts(b"\x81\xff" + b"\xff" * 8 + MASK + b"x" * 50, 200), ([], 0))

    def test_shortest_form(self) -> None:
        """A length that is not in its shortest form is left for the full parser to refuse (RFC 6455 §5.2)."""
        for header in (b"\x81\xfe\x00\x05", b"\x81\xfe\x00\x7d", b"\x81\xff" + (65535).to_bytes(8, "big")):
            data = header + MASK + bytes(65535)
            self.assertEqual(complete_texts(data, LIMIT), ([], 0))
            self.assertIsNone(wanted(data, LIMIT))

    @repeatable
    @given(st.lists(st.tuples(st.binary(max_size=150), st.binary(min_size=4, max_size=4)), max_size=5), st.data())
    def test_any_cut(self, frames: list[tuple[bytes, bytes]], data: st.DataObject) -> None:
        """However a stream is cut in two, the same texts are read."""
        stream = b"".join(client_frame(payload, mask) for payload, mask in frames)
        cut = data.draw(st.integers(0, len(stream)))

        before, at = complete_texts(stream[:cut], LIMIT)
        after, end = complete_texts(stream[at:], LIMIT)

        self.assertEqual(before + after, [payload for payload, _ in frames])
        self.assertEqual(at + end, len(stream))

    @repeatable
    @given(st.binary(max_size=60) | st.binary(max_size=40).map(lambda tail: b"\x81\xfe" + tail))
    def test_any_bytes(self, data: bytes) -> None:
        """Whatever the bytes, what is read ends within them and was no longer than they are."""
        texts, at = complete_texts(data, LIMIT)

        self.assertTrue(0 <= at <= len(data))
        self.assertEqual(bool(texts), at > 0)


class WantedTests(SynchronousTestCase):
    """How many bytes to wait for."""

    def test_leads_to_a_frame(self) -> None:
        """Waiting for as many bytes as are wanted, again and again, ends with exactly the frame; no wait is in vain."""
        for size in (0, 1, 125, 126, 65535, 65536, 100_000):
            frame = client_frame(b"x" * size)
            have = 1
            for _ in range(4):
                more = wanted(frame[:have], LIMIT)
                assert more is not None
                if more == have:
                    break
                self.assertGreater(more, have)
                self.assertLessEqual(more, len(frame))
                have = more
            self.assertEqual(have, len(frame))
            self.assertEqual(complete_texts(frame[:have], LIMIT)[1], have)

    def test_at_every_cut(self) -> None:
        """At every cut of a frame more is wanted than there is, never more than the frame."""
        for size in (0, 5, 126, 70_000):
            frame = client_frame(b"x" * size)
            for have in range(1, min(len(frame), 40)):
                more = wanted(frame[:have], LIMIT)
                assert more is not None
                self.assertTrue(have < more <= len(frame), (size, have, more))

    def test_what_follows_does_not_count(self) -> None:
        """Only the first frame is looked at."""
        frame = client_frame(b"one")

        self.assertEqual(wanted(frame + b"\x00\xff", LIMIT), len(frame))

    def test_for_the_full_parser(self) -> None:
        """Nothing is wanted of what no text frame can become: other kinds, unmasked ones, too large ones."""
        for data in (b"\x88", b"\x01\x80", b"\xc1", b"\x81\x05", b"\x81\x7e", b"\x89\x80"):
            self.assertIsNone(wanted(data, LIMIT))
        self.assertIsNone(wanted(client_frame(b"x" * 201), 200))
        self.assertIsNone(wanted(b"\x81\xff" + b"\xff" * 8 + MASK, LIMIT))

    @repeatable
    @given(st.binary(min_size=1, max_size=60))
    def test_agrees(self, data: bytes) -> None:
        """A frame is complete when no more is wanted than there is, and only then."""
        more = wanted(data, LIMIT)

        self.assertIs(more is not None and more <= len(data), complete_texts(data, LIMIT)[1] > 0)
