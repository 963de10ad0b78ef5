"""Tests of :mod:`wsock.protocol.position`."""

from __future__ import annotations

import base64
import json
import random  # noqa: TID251 - seeded, so that a failure repeats

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.base import SynchronousTestCase
from tests.vectors import TOKENS
from wsock.errors import Code, Malformed
from wsock.protocol.position import Position, ResumeToken, decode_token

repeatable = settings(max_examples=300)


def token(content: str | bytes) -> str:
    """The content as a token."""
    return base64.b64encode(content.encode() if isinstance(content, str) else content).decode()


class PositionTests(SynchronousTestCase):
    """Positions in a channel."""

    def test_order(self) -> None:
        """Positions of an epoch are ordered by sequence; the same place is equal."""
        self.assertLess(Position("e", 7), Position("e", 8))
        self.assertEqual(Position("e", 7), Position("e", 7))
        self.assertNotEqual(Position("e", 7), Position("f", 7))

    def test_from_the_wire(self) -> None:
        """A client's position has a sequence that stores can count with: 0 to 2^53."""
        read = msgspec.json.Decoder(Position).decode
        self.assertEqual(read(b'{"epoch":"e","sequence":9007199254740992}'), Position("e", 1 << 53))

        for sequence in (b"-1", b"9007199254740993", b"1.5", b"null", b'"1"', b"9" * 400):
            self.assertRaises(msgspec.ValidationError, read, b'{"epoch":"e","sequence":%b}' % sequence)


class SdkTokenTests(SynchronousTestCase):
    """The tokens of the published SDKs."""

    def test_each(self) -> None:
        """The token of every SDK is read, in its own alphabet, padding and character set."""
        for vector in TOKENS:
            self.assertEqual(decode_token(vector.token), ResumeToken(vector.channels, vector.since), vector.sdk)

    def test_both_alphabets(self) -> None:
        """The vectors hold both alphabets' own characters, and all three lengths of padding."""
        text = "".join(vector.token for vector in TOKENS)

        self.assertTrue(set("-_") & set(text))
        self.assertEqual({len(vector.token.rstrip("=")) % 4 for vector in TOKENS}, {0, 2, 3})

    @repeatable
    @given(
        st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), min_size=1, max_size=5, unique=True),
        st.integers(0, 1 << 53),
        st.sampled_from([base64.b64encode, base64.urlsafe_b64encode]),
        st.sampled_from(["", "=", "=="]),
        st.booleans(),
        st.sampled_from(["lastTs", "since"]),
    )
    def test_any_form(self, channels, since, encode, padding, is_ascii, name) -> None:  # type: ignore[no-untyped-def]
        """Any alphabet, padding, escaping and name of the timestamp give the same."""
        content = json.dumps({name: since, "channels": channels}, ensure_ascii=is_ascii)
        text = encode(content.encode()).decode().rstrip("=") + padding

        self.assertEqual(decode_token(text), ResumeToken(tuple(channels), since))

    @repeatable
    @given(st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=8), min_size=1, unique=True))
    def test_latin1(self, channels: list[str]) -> None:
        """A name of Latin-1 is read as UTF-8 where its bytes are, else as Latin-1: never garbage or an error."""
        content = json.dumps({"channels": channels, "lastTs": 5}, ensure_ascii=False).encode("latin-1")
        try:
            expected = json.loads(content.decode())["channels"]
        except UnicodeDecodeError:
            expected = channels

        self.assertEqual(decode_token(token(content)).channels, tuple(dict.fromkeys(expected)))


class LenienceTests(SynchronousTestCase):
    """What is made of tokens that are not quite right."""

    def test_white_space(self) -> None:
        """Line breaks that a base64 encoder made, and spaces, do not matter."""
        text = token('{"channels":["a"],"since":5}')

        self.assertEqual(decode_token(f" {text[:7]}\r\n{text[7:]}\n").channels, ("a",))

    def test_timestamps(self) -> None:
        """A timestamp is cut to an integer within 0 and 2^53; what is no number is 0."""
        for written, since in [
            ("1767225600000.9", 1767225600000),
            ("1.7672256e12", 1767225600000),
            ("-5", 0),
            ("-1e300", 0),
            ("1e300", 1 << 53),
            ("9" * 60, 1 << 53),
            ("null", 0),
            ('"5"', 0),
            ("true", 0),
            ("[]", 0),
        ]:
            for name in ("lastTs", "since"):
                text = token(f'{{"channels":["a"],"{name}":{written}}}')
                self.assertEqual(decode_token(text), ResumeToken(("a",), since), written)

    def test_no_timestamp(self) -> None:
        """Without a timestamp the channels are wanted all the same."""
        self.assertEqual(decode_token(token('{"channels":["a"]}')), ResumeToken(("a",), 0))

    def test_names(self) -> None:
        """A name counts once, and what is no text is no name."""
        text = token('{"channels":["b",7,null,"a","b",["c"]],"since":5,"x":{}}')

        self.assertEqual(decode_token(text).channels, ("b", "a"))


class GarbageTests(SynchronousTestCase):
    """Tokens of which no channel can be read."""

    def assert_malformed(self, text: str, part: str = "the resume token") -> None:
        """The token is refused as a bad request, for the reason that has the part."""
        e = self.assertRaises(Malformed, decode_token, text)
        self.assertEqual(e.code, Code.BAD_REQUEST)
        self.assertIn(part, e.text)

    def test_no_base64(self) -> None:
        """Text that base64 cannot be."""
        for text in ("", "=", "====", "a", "abcde", "\u732b", "\ud800", "\x00", "a" * 1001):
            self.assert_malformed(text, "not base64 of a JSON object")

    def test_no_json(self) -> None:
        """Base64 of no JSON."""
        for content in (b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"channels":["\\ud800"]}', b"NaN", b"\x00"):
            self.assert_malformed(token(content), "not base64 of a JSON object")
        self.assert_malformed(token('{"channels":["a"],"since":1e999}'), "not base64 of a JSON object")
        self.assert_malformed(token(f'{{"channels":["a"],"since":{"9" * 5000}}}'), "not base64 of a JSON object")

    def test_no_channels(self) -> None:
        """JSON that names no channel."""
        for content in (
            "[]",
            "7",
            "null",
            '"x"',
            "{}",
            '{"channels":[]}',
            '{"channels":"a"}',
            '{"channels":{"a":1}}',
            '{"channels":[7]}',
        ):
            self.assert_malformed(token(content), "names no channels")

    def test_too_long(self) -> None:
        """A token beyond 256 KiB is not even looked at."""
        self.assert_malformed("A" * ((1 << 18) + 1), "longer than")

    @repeatable
    @given(st.text(st.characters(), max_size=60))
    def test_any_text(self, text: str) -> None:
        """Whatever the text, nothing but Malformed is raised."""
        self.check(text)

    @repeatable
    @given(st.binary(max_size=60))
    def test_any_content(self, content: bytes) -> None:
        """Whatever is encoded, nothing but Malformed is raised."""
        self.check(token(content))

    def test_mutations(self) -> None:
        """Tokens of the SDKs with bits turned over."""
        dice = random.Random(4648)
        for _ in range(3000):
            content = bytearray(base64.b64decode(dice.choice(TOKENS).token.replace("-", "+").replace("_", "/") + "=="))
            content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
            self.check(token(bytes(content)))

    def check(self, text: str) -> None:
        """The token is malformed, or it has channels and a timestamp in bounds."""
        try:
            read = decode_token(text)
        except Malformed:
            return
        self.assertTrue(read.channels)
        self.assertTrue(0 <= read.since <= 1 << 53)
