"""Tests of :mod:`wsock.protocol.codec`."""

from __future__ import annotations

import contextlib
import json
import random  # noqa: TID251 - seeded, so that a failure repeats
from time import perf_counter

from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import Raw

from tests.base import SynchronousTestCase
from wsock.errors import Code, Malformed
from wsock.protocol.codec import MAX_DEPTH, MAX_DIGITS, Codec, check_text, encode
from wsock.protocol.frames import NULL, Pong, Request

repeatable = settings(max_examples=400)


class Say(Request, frozen=True, tag="say"):
    """A request with every kind of field that a verb has."""

    channel: str
    data: Raw = NULL
    id: str | None = None
    limit: float | None = None
    is_kept: bool | None = None


class Hush(Request, frozen=True, tag="hush"):
    """A request without fields."""


CODEC = Codec((Say, Hush))
VALID = (
    b'{"action":"hush"}',
    b'{"action":"say","channel":"c","data":{"a":[1,2.5e3,"x\\"[{",null,true]},"id":"i","limit":5,"isKept":false}',
    b'{"action": "say", "channel": "caf\\u00e9 \xe7\x8c\xab", "data": "\\\\", "extra": [[[{}]]]}',
)


def nested(depth: int) -> bytes:
    """A text of that many levels, arrays and objects in turn."""
    opening = b"".join(b'{"a":' if level % 2 else b"[" for level in range(depth))
    closing = b"".join(b"}" if level % 2 else b"]" for level in reversed(range(depth)))
    return opening + b"0" + closing


class CheckTextTests(SynchronousTestCase):
    """Texts that could hurt whoever parses them."""

    def assert_refused(self, text: bytes, part: str) -> None:
        """The text is refused as a bad request, for the reason that has the part."""
        refused = self.assertRaises(Malformed, check_text, text)
        self.assertEqual(refused.code, Code.BAD_REQUEST)
        self.assertIn(part, refused.text)

    def test_limits(self) -> None:
        """The limits are those of the protocol."""
        self.assertEqual((MAX_DEPTH, MAX_DIGITS), (64, 1000))

    def test_depth(self) -> None:
        """64 levels pass, 65 do not."""
        check_text(nested(64))
        check_text(b"[" * 64 + b"]" * 64)
        check_text(b'{"a":' * 64 + b"0" + b"}" * 64)

        self.assert_refused(nested(65), "deeper than 64 levels")
        self.assert_refused(b"[" * 65 + b"]" * 65, "deeper than 64 levels")
        self.assert_refused(b'{"a":' * 65 + b"0" + b"}" * 65, "deeper than 64 levels")

    def test_many_is_not_deep(self) -> None:
        """Any number of brackets may stand side by side."""
        check_text(b"[" + b"[],{}," * 10000 + b"[]]")

    def test_brackets_in_strings(self) -> None:
        """Brackets in strings are no nesting, whatever is escaped there; those behind the string are."""
        for string in (b'"%b"', b'"\\"%b"', b'"\\\\\\"%b"', b'"%b\\\\"', b'"\\u0022%b"', b'"\xe7\x8c\xab%b"'):
            full = string % (b"[{" * 100)
            check_text(b"[" + full + b"]")
            check_text(b"[" * 63 + b"[" + full + b"]" + b"]" * 63)
            self.assert_refused(b"[" * 64 + b"[" + full + b"]" + b"]" * 64, "deeper")
            self.assert_refused(b"[" + full + b"," + nested(64) + b"]", "deeper")
            check_text(b"[" + full + b"," + nested(63) + b"]")

    def test_closing_brackets_in_strings(self) -> None:
        """Closing brackets in strings do not make up for real ones."""
        self.assert_refused(b'["]]]",' * 65 + b"0" + b"]" * 65, "deeper")

    def test_escaped_quotes_end_no_string(self) -> None:
        """A string ends at its own quote, behind any even number of backslashes."""
        self.assert_refused(b'["\\\\",' + b"[" * 64 + b'"' + b"]" * 65, "deeper")
        check_text(b'["\\\\\\",' + b"[" * 64 + b'"]')

    def test_unterminated_strings(self) -> None:
        """A string that never ends goes on to the end of the text; parsers tell why it is wrong."""
        check_text(b'["' + b"[" * 100)
        check_text(b'["' + b"[" * 100 + b"\\")
        check_text(b'["' + b"[" * 100 + b'\\"')

    def test_digits(self) -> None:
        """A run of 1,000 digits passes, of 1,001 does not, in numbers and strings alike."""
        for form in (b"%b", b'"%b"', b"[1.%b]", b"1e%b", b"-%b", b'{"%b":0}', b'"a%bb"'):
            check_text(form % (b"7" * 1000))
            self.assert_refused(form % (b"7" * 1001), "more than 1000 digits")
            self.assert_refused(form % (b"7" * 5000), "more than 1000 digits")

    def test_many_digits(self) -> None:
        """Many numbers are no long number."""
        check_text(b"[" + b",".join([b"1" * 999] * 50) + b"]")

    def test_utf8(self) -> None:
        """Whatever is UTF-8 passes."""
        for text in ("\u00e9", "\u732b", "\U0001f600", "\ufeff", "\uffff", "\U0010ffff", "\x00"):
            check_text(f'"{text}"'.encode())

    def test_not_utf8(self) -> None:
        """Broken, overlong and too large characters and surrogates are refused, with their place."""
        for bad in (
            b"\x80",
            b"\xbf",
            b"\xc3",
            b"\xc3(",
            b"\xe7\x8c",
            b"\xf0\x9f\x98",
            b"\xc0\x80",
            b"\xc1\xbf",
            b"\xe0\x80\x80",
            b"\xf0\x80\x80\x80",
            b"\xed\xa0\x80",
            b"\xed\xbf\xbf",
            b"\xf4\x90\x80\x80",
            b"\xf8\x88\x80\x80\x80",
            b"\xff",
            b"\xfe",
        ):
            self.assert_refused(b'["' + bad + b'"]', "not valid UTF-8 at byte 2")

    def test_100000_levels(self) -> None:
        """No nesting is too deep for the check itself."""
        self.assert_refused(b"[" * 100_000, "deeper")
        self.assert_refused(b'{"a":' * 100_000, "deeper")
        self.assert_refused(nested(2000), "deeper")

    def test_linear_time(self) -> None:
        """Hostile texts of 400 KB take no more than a few times what a harmless one of 400 KB takes.

        The bound is far beyond any noise: quadratic time would be thousands of times as much.
        """
        size = 400_000
        deep = b"[" * 65
        for unit in (
            b'"\\"',
            b'\\"',
            b'"',
            b"\\",
            b'"\\\\"',
            b'"[',
            b'["\\',
            b"7" * 999 + b",",
            b'"a',
            b"\xe7\x8c\xab",
        ):
            for text in (deep + unit * (size // len(unit)), deep + b'"' + unit * (size // len(unit))):
                started = perf_counter()
                with contextlib.suppress(Malformed):
                    check_text(text)
                self.assertLess(perf_counter() - started, 5.0, unit)


class DecodeTests(SynchronousTestCase):
    """Texts to requests."""

    def test_request(self) -> None:
        """A text becomes the request that its action names; fields are in camelCase on the wire."""
        request = CODEC.decode(b'{"action":"say","channel":"c","data":[1],"id":"i","limit":5,"isKept":true,"x":0}')

        assert isinstance(request, Say)
        self.assertEqual((request.channel, request.id, request.limit, request.is_kept), ("c", "i", 5, True))
        self.assertEqual(bytes(request.data), b"[1]")

    def test_defaults(self) -> None:
        """Absent fields have their defaults, in any order of the others."""
        request = CODEC.decode(b' {"channel" : "c" , "action" : "say"} \n')

        assert isinstance(request, Say)
        self.assertEqual((request.channel, bytes(request.data), request.id), ("c", b"null", None))
        self.assertEqual(CODEC.decode(b'{"action":"hush"}'), Hush())

    def test_data_is_kept_byte_for_byte(self) -> None:
        """The data of a request is its very bytes, without the space around them."""
        for data in (
            b"12345678901234567890123",
            b"1.0",
            b"1e5",
            b'"\\u00e9\\/"',
            b'{ "b" : 1, "a" : [ ] }',
            b'"\xe7\x8c\xab"',
        ):
            request = CODEC.decode(b'{"action":"say","channel":"c","data": ' + data + b" }")
            assert isinstance(request, Say)
            self.assertEqual(bytes(request.data), data)

    def assert_malformed(
        self, text: bytes, part: str, code: Code = Code.BAD_REQUEST, channel: str | None = None, id: str | None = None
    ) -> None:
        """The text is malformed, for the reason that has the part; so much could be told of it."""
        e = self.assertRaises(Malformed, CODEC.decode, text)
        self.assertIn(part, e.text)
        self.assertEqual((e.code, e.channel, e.id), (code, channel, id))

    def test_no_object(self) -> None:
        """Other JSON than an object, and no JSON at all."""
        for text in (b"[]", b"1", b'"hush"', b"null", b"true"):
            self.assert_malformed(text, "not a JSON object")
        for text in (b"", b" ", b"{", b'{"action":"hush"', b'{"action":"hush"} x', b"\x00", b"{'action':'hush'}"):
            self.assert_malformed(text, "not JSON")

    def test_action(self) -> None:
        """An action that is missing, no string, or unknown; the long name of an unknown one is cut."""
        self.assert_malformed(b"{}", "'action' is missing")
        self.assert_malformed(b'{"action":1,"channel":"c","id":"i"}', "'action' is missing", channel="c", id="i")
        self.assert_malformed(b'{"action":"x","id":"i"}', "unknown action 'x'", Code.UNKNOWN_ACTION, id="i")
        self.assert_malformed(b'{"action":"Say"}', "unknown action 'Say'", Code.UNKNOWN_ACTION)
        e = self.assertRaises(Malformed, CODEC.decode, b'{"action":"%b"}' % (b"x" * 5000))
        self.assertLess(len(e.text), 100)

    def test_fields(self) -> None:
        """A field that is missing or of a wrong type is named, and so are the channel and id where they can be."""
        self.assert_malformed(b'{"action":"say","id":"i"}', "say: Object missing required field `channel`", id="i")
        self.assert_malformed(b'{"action":"say","channel":7}', "$.channel")
        self.assert_malformed(b'{"action":"say","channel":"c","id":7}', "$.id", channel="c")
        self.assert_malformed(b'{"action":"say","channel":"c","limit":"5"}', "$.limit", channel="c")
        self.assert_malformed(b'{"action":"say","channel":"c","isKept":0}', "$.isKept", channel="c")

    def test_checked_everywhere(self) -> None:
        """What hurts is refused wherever it stands: in data, in unknown fields, in keys, in what is read."""
        for bad in (b'"\xff"', nested(65), nested(2000), b"1" * 1001, b"1" * 5000):
            for name in (b"data", b"x", b"limit", b"channel", b"id", b"action"):
                text = b'{"action":"say","channel":"c","%b":%b}' % (name, bad)
                e = self.assertRaises(Malformed, CODEC.decode, text)
                self.assertEqual(e.code, Code.BAD_REQUEST)
                self.assertIn("the text", e.text)
        self.assert_malformed(b'{"action":"hush","\xff":1}', "UTF-8")
        self.assert_malformed(b'{"action":"hush","%b":1}' % (b"1" * 1001), "digits")
        self.assert_malformed(b'{"action":"say","channel":"\xed\xa0\x80"}', "UTF-8")
        self.assert_malformed(b'{"action":"say","channel":"c","data":{"\xc0\x80":1}}', "UTF-8", channel="c")
        self.assert_malformed(b'{"action":"hush","x":' + b"[" * 100_000, "deeper")
        self.assert_malformed(b'{"action":"hush","channel":' + b"[" * 100_000, "deeper")

    def test_what_hurts_is_named(self) -> None:
        """A text that is refused for what it holds tells its channel and id all the same."""
        for bad in (b'"\xff"', nested(65), b"1" * 1001, b"1" * 5000):
            text = b'{"action":"say","channel":"c","id":"i","data":%b}' % bad
            self.assert_malformed(text, "the text", channel="c", id="i")
        self.assert_malformed(b'{"action":"nope","channel":"c","x":%b}' % nested(65), "nested deeper", channel="c")

    def test_one_request_type(self) -> None:
        """A table of one request is a table."""
        self.assertEqual(Codec([Hush]).decode(b'{"action":"hush"}'), Hush())


class HostileInputTests(SynchronousTestCase):
    """Nothing but Malformed escapes, and what passes does not hurt."""

    def decode(self, text: bytes) -> Request | None:
        """The request that the text is, or nothing if it is malformed."""
        try:
            return CODEC.decode(text)
        except Malformed as e:
            encode({"error": e.text, "channel": e.channel, "id": e.id}).decode()
            return None

    def assert_harmless(self, text: bytes) -> None:
        """The text is malformed, or it is JSON that any parser reads."""
        request = self.decode(text)
        if request is not None:
            json.loads(text)
        if isinstance(request, Say):
            json.loads(bytes(request.data))
            request.channel.encode()

    @repeatable
    @given(st.binary(max_size=200))
    def test_any_bytes(self, text: bytes) -> None:
        """Arbitrary bytes."""
        self.assert_harmless(text)

    def test_10000_random_bytes(self) -> None:
        """Ten thousand random texts, half of them of the characters of JSON only."""
        dice = random.Random(6455)
        alphabet = b'{}[]",:\\ue0123456789.-+ntfa \xc3\xa9'
        for number in range(10_000):
            size = dice.randrange(60)
            self.assert_harmless(dice.randbytes(size) if number % 2 else bytes(dice.choices(alphabet, k=size)))

    @repeatable
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(
                    st.sampled_from(["action", "channel", "data", "id", "limit", "isKept"]) | st.text(), inner
                )
            ),
            max_leaves=20,
        )
    )
    @example({"action": "say", "channel": "\ud800"})
    @example({"action": ["say"], "channel": {}})
    def test_any_json(self, value: object) -> None:
        """Arbitrary JSON, with NaN and lone surrogates as Python writes them."""
        self.decode(json.dumps(value).encode())

    @repeatable
    @given(
        st.fixed_dictionaries(
            {"action": st.sampled_from(["say", "hush", "", "Say"])},
            optional={
                name: st.none()
                | st.booleans()
                | st.integers()
                | st.floats()
                | st.text(max_size=4)
                | st.just([])
                | st.just({})
                for name in ("channel", "data", "id", "limit", "isKept")
            },
        )
    )
    def test_any_fields(self, value: dict[str, object]) -> None:
        """Known actions with fields of any type."""
        self.decode(json.dumps(value).encode())

    @settings(repeatable, max_examples=1500)
    @given(st.sampled_from(VALID), st.data())
    def test_mutations(self, text: bytes, data: st.DataObject) -> None:
        """Valid texts with some bytes removed and others put in their place."""
        for _ in range(data.draw(st.integers(1, 3))):
            start = data.draw(st.integers(0, len(text)))
            stop = start + data.draw(st.integers(0, 4))
            text = text[:start] + data.draw(st.binary(max_size=4) | st.sampled_from(MENDINGS)) + text[stop:]
        self.assert_harmless(text)

    def test_cut_anywhere(self) -> None:
        """A valid text that is cut is malformed, wherever."""
        for text in VALID:
            for end in range(len(text)):
                self.assertIsNone(self.decode(text[:end]))


MENDINGS = [
    b'"',
    b"\\",
    b"\\u",
    b"\\ud800",
    b"[",
    b"{",
    b"]",
    b"}",
    b",",
    b":",
    b"0",
    b"-",
    b"1e9",
    b"\x00",
    b"\xed\xa0\x80",
    b"\n",
]


class EncodeTests(SynchronousTestCase):
    """Events to texts."""

    def test_compact(self) -> None:
        """An event is its JSON without any space."""
        self.assertEqual(encode(Pong()), b'{"action":"pong"}')
