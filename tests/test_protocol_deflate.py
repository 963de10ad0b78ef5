"""Tests of :mod:`wsock.protocol.deflate`."""

from __future__ import annotations

import zlib

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.base import SynchronousTestCase
from wsock.protocol.deflate import Deflater, agree
from wsock.protocol.wire import close_frame, pong_frame, text_frame

repeatable = settings(max_examples=300)

AGREED = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


def window(bits: int) -> str:
    """The answer to an offer that bounds the server's window."""
    return f"{AGREED}; server_max_window_bits={bits}"


class AgreeTests(SynchronousTestCase):
    """Offers, and which of them is accepted how."""

    def answer(self, offers: str) -> str | None:
        """The header of the answer."""
        agreement = agree(offers)
        return agreement.response if agreement is not None else None

    def test_offers(self) -> None:
        """Each offer of RFC 7692 §7.1, alone."""
        for parameters, answer in [
            ("", AGREED),
            ("; client_max_window_bits", AGREED),  # what browsers send
            ("; client_max_window_bits=8", AGREED),
            ("; client_max_window_bits=15", AGREED),
            ("; client_max_window_bits=7", None),
            ("; client_max_window_bits=16", None),
            ("; client_max_window_bits=010", None),
            ("; client_max_window_bits=x", None),
            ("; server_max_window_bits=15", window(15)),
            ("; server_max_window_bits=9", window(9)),
            ('; server_max_window_bits="10"', window(10)),
            ("; server_max_window_bits=8", None),  # zlib makes no such window
            ("; server_max_window_bits=16", None),
            ("; server_max_window_bits=09", None),
            ("; server_max_window_bits=-9", None),
            ("; server_max_window_bits", None),
            ("; server_no_context_takeover", AGREED),
            ("; client_no_context_takeover", AGREED),
            (";server_no_context_takeover;client_no_context_takeover;server_max_window_bits=12", window(12)),
            ("; server_no_context_takeover=1", None),
            ("; client_no_context_takeover=1", None),
            ("; server_no_context_takeover; server_no_context_takeover", None),
            ("; server_max_window_bits=10; server_max_window_bits=10", None),
            ("; client_max_window_bits; client_max_window_bits=10", None),
            ("; foo", None),
            ("; foo=bar; client_max_window_bits", None),
            ("; Client_Max_Window_Bits", None),
        ]:
            self.assertEqual(self.answer(f"permessage-deflate{parameters}"), answer, parameters)

    def test_alternatives(self) -> None:
        """The first offer that can be accepted is; other extensions do not matter."""
        for offers, answer in [
            ("permessage-deflate; foo, permessage-deflate", AGREED),
            ("permessage-deflate; server_max_window_bits=8, permessage-deflate; server_max_window_bits=10", window(10)),
            ("permessage-deflate; server_max_window_bits=10, permessage-deflate", window(10)),
            ("permessage-deflate, permessage-deflate; server_max_window_bits=10", AGREED),
            ("x-webkit-deflate-frame, permessage-bzip2; a=1,permessage-deflate", AGREED),
            (" ,, permessage-deflate ,, x ,", AGREED),
            ("x; permessage-deflate", None),
            ("permessage-deflate; foo, permessage-deflate; bar", None),
            ("x-webkit-deflate-frame", None),
            ("", None),
            (" , ,", None),
        ]:
            self.assertEqual(self.answer(offers), answer, offers)

    def test_malformed(self) -> None:
        """A header that is no list of extensions offers nothing."""
        for offers in (
            "permessage-deflate;",
            "permessage-deflate; ",
            "permessage-deflate; ; client_max_window_bits",
            "permessage-deflate x",
            "permessage-deflate, (x)",
            "permessage-deflate; server_max_window_bits=",
            "permessage-deflate; server_max_window_bits = 10",
            'permessage-deflate; server_max_window_bits="10',
            'permessage-deflate; server_max_window_bits="1,0"',
            "permessage-deflate=1",
            "; permessage-deflate",
            "permessage-deflate, \xe9",
        ):
            self.assertIsNone(agree(offers), offers)

    def test_window(self) -> None:
        """The window is the one that the client asked for."""
        for offers, bits in (("permessage-deflate", 15), ("permessage-deflate; server_max_window_bits=10", 10)):
            agreement = agree(offers)
            assert agreement is not None
            self.assertEqual(agreement.window_bits, bits)

    @repeatable
    @given(
        st.lists(st.sampled_from(["permessage-deflate", ";", ",", "=", " ", '"', "a", "10", "server_max_window_bits"]))
    )
    def test_any_text(self, parts: list[str]) -> None:
        """Whatever the header, there is an answer or none."""
        agreement = agree("".join(parts))

        self.assertIn(agreement and agreement.response.partition("; server_max")[0], (None, AGREED))


def texts_of(frames: bytes, bits: int = 15) -> list[bytes]:
    """The payloads of text frames, decompressed with a window of so many bits where they are compressed."""
    texts, at = [], 0
    while at < len(frames):
        start = at + (2 if frames[at + 1] < 126 else 4 if frames[at + 1] == 126 else 10)
        size = frames[at + 1] if start == at + 2 else int.from_bytes(frames[at + 2 : start], "big")
        payload = frames[start : start + size]
        texts.append(zlib.decompressobj(-bits).decompress(payload) if frames[at] == 0xC1 else payload)
        at = start + size
    return texts


class DeflaterTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.deflater = Deflater()

    def test_compressed(self) -> None:
        """A text of some size is compressed, of any form of length, without the tail that RFC 7692 §7.2.1 takes off."""
        for size in (256, 1000, 65_535, 65_536, 1 << 20):
            frames = self.deflater.deflated(text_frame(b"ab" * size))

            self.assertEqual((frames[0], texts_of(frames)), (0xC1, [b"ab" * size]))
            self.assertLess(len(frames), size)
            self.assertNotEqual(frames[-4:], b"\0\0\xff\xff")

    def test_small(self) -> None:
        """A small one is not, be it alone or beside others."""
        small, large = text_frame(b"x" * 200), text_frame(b"x" * 300)

        self.assertIs(self.deflater.deflated(small), small)
        frames = self.deflater.deflated(small + large + small)

        self.assertEqual(texts_of(frames), [b"x" * 200, b"x" * 300, b"x" * 200])
        self.assertEqual([frames[0], frames[len(small)], frames[-len(small)]], [0x81, 0xC1, 0x81])

    def test_incompressible(self) -> None:
        """Nor what would not become shorter."""
        frame = text_frame(zlib.compress(b"".join(str(n * n).encode() for n in range(1000))))

        self.assertEqual(self.deflater.deflated(frame), frame)

    def test_control_frames(self) -> None:
        """Control frames are never compressed."""
        frames = pong_frame(b"x" * 125) * 3 + close_frame(1000, "x" * 123)

        self.assertEqual(self.deflater.deflated(frames), frames)

    def test_shared(self) -> None:
        """What many get is made once: the joined frames, and each frame in other company."""
        first, second = text_frame(b"1" * 300), text_frame(b"2" * 300)
        both = first + second

        self.assertIs(self.deflater.deflated(both), self.deflater.deflated(both))
        self.assertEqual(
            self.deflater.deflated(both), self.deflater.deflated_own([first]) + self.deflater.deflated(second)
        )

    def test_windows(self) -> None:
        """The window is kept: who has only so much of the past can read it."""
        noise = zlib.compress(b"".join(str(n * n).encode() for n in range(1000)))[:1200].hex().encode()
        for bits in range(9, 16):
            frames = Deflater(bits).deflated(text_frame(noise * 3))

            self.assertEqual(texts_of(frames, bits), [noise * 3])

    def test_bounded_memory(self) -> None:
        """It forgets what is old: 20 MiB went through, and about two are remembered at most."""
        for number in range(20):
            self.deflater.deflated(text_frame(b"%03d" % number * 350_000))

        for memory in (self.deflater._frames, self.deflater._joined):
            self.assertLess(sum(map(len, memory._made)), 1_100_000)
            self.assertEqual(memory._bytes, sum(len(a) + len(b) for a, b in memory._made.items()))

    @repeatable
    @given(st.lists(st.binary(max_size=70) | st.integers(256, 5000).map(lambda n: b"{%d}" % n * (n // 4)), max_size=6))
    def test_any_texts(self, texts: list[bytes]) -> None:
        """Whatever the texts, they are the same when they are read."""
        frames = list(map(text_frame, texts))

        self.assertEqual(texts_of(self.deflater.deflated(b"".join(frames))), texts)
        self.assertEqual(texts_of(self.deflater.deflated_own(frames)), texts)
