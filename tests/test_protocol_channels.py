"""Tests of :mod:`wsock.protocol.channels`."""

from __future__ import annotations

import re

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.base import SynchronousTestCase
from wsock.errors import Code, Refused
from wsock.protocol.channels import MAX_NAME_BYTES, Pattern, check_channel

repeatable = settings(max_examples=400)


class CheckChannelTests(SynchronousTestCase):
    """The grammar of names."""

    def assert_refused(self, name: str, part: str) -> None:
        """The name is refused as a channel name, with a text that holds the part."""
        refused = self.assertRaises(Refused, check_channel, name)
        self.assertEqual(refused.code, Code.CHANNEL_NAME)
        self.assertIn(part, refused.text)

    def test_names(self) -> None:
        """Whatever is printable is a name; nothing is reserved."""
        for name in (
            "a",
            " ",
            "chat:general",
            "support:o1:conv:2",
            "*",
            "private-x",
            "a/b",
            '"',
            "\u732b",
            "\U0001f600",
            "e\u0301",
        ):
            check_channel(name)

    def test_length_in_bytes(self) -> None:
        """255 bytes of UTF-8 are a name, 256 are not, however many characters they are."""
        self.assertEqual(MAX_NAME_BYTES, 255)
        check_channel("a" * 255)
        check_channel("\u732b" * 85)

        self.assert_refused("a" * 256, "255 bytes")
        self.assert_refused("a" + "\u732b" * 85, "255 bytes")
        self.assert_refused("\U0001f600" * 64, "255 bytes")

    def test_empty(self) -> None:
        """The empty name is refused."""
        self.assert_refused("", "empty")

    def test_control_characters(self) -> None:
        """No control character, line separator or surrogate, wherever it stands and whatever else the name holds."""
        for c in "\x00\t\n\r\x1b\x1f\x7f\x80\x85\x9f\u2028\u2029\ud800\udfff":
            for name in (c, f"a{c}b", f"\u732b{c}"):
                self.assert_refused(name, "control character")

    @repeatable
    @given(st.text(st.characters(), max_size=300))
    @example("\ud800" * 300)
    @example("\x00" * 300)
    def test_only_refused(self, name: str) -> None:
        """Any text is a name or is refused as one; a name has 1 to 255 bytes of UTF-8."""
        try:
            check_channel(name)
        except Refused as e:
            self.assertEqual(e.code, Code.CHANNEL_NAME)
        else:
            self.assertTrue(1 <= len(name.encode()) <= MAX_NAME_BYTES)


def expression(pattern: str) -> re.Pattern[str]:
    """The pattern as a regular expression: slow, and plainly right."""
    return re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)


class PatternTests(SynchronousTestCase):
    """Patterns over names."""

    def test_table(self) -> None:
        """A star is any run of characters, none included; everything else is itself."""
        cases = [
            ("chat", "chat", True),
            ("chat", "chats", False),
            ("", "", True),
            ("", "a", False),
            ("*", "", True),
            ("*", "a:b", True),
            ("chat:*", "chat:", True),
            ("chat:*", "chat:a:b", True),
            ("chat:*", "chat", False),
            ("*:x", "a:x", True),
            ("*:x", "a:xy", False),
            ("a*a", "a", False),
            ("a*a", "aa", True),
            ("ab*ba", "aba", False),
            ("a*b*c", "a-b-c", True),
            ("a*b*c", "acb", False),
            ("*ab*ab*", "abab", True),
            ("*ab*ab*", "aba", False),
            ("**", "", True),
            ("a**b", "ab", True),
            ("a.c", "abc", False),
            ("[a]?", "a", False),
            ("a*", "a\nb", True),
        ]
        for pattern, name, expected in cases:
            self.assertIs(Pattern(pattern).matches(name), expected, f"{pattern!r} on {name!r}")

    def test_keeps_its_text(self) -> None:
        """A pattern shows the text that it was made from."""
        self.assertEqual(Pattern("a*b").text, "a*b")

    @repeatable
    @given(st.text("ab*", max_size=8), st.text("ab", max_size=10))
    def test_like_the_expression(self, pattern: str, name: str) -> None:
        """A pattern matches what the regular expression of the same meaning matches."""
        self.assertIs(Pattern(pattern).matches(name), expression(pattern).fullmatch(name) is not None)

    @repeatable
    @given(st.text(max_size=12), st.text(max_size=12))
    def test_like_the_expression_on_any_text(self, pattern: str, name: str) -> None:
        """The same for all characters, those of regular expressions among them."""
        self.assertIs(Pattern(pattern).matches(name), expression(pattern).fullmatch(name) is not None)

    @repeatable
    @given(st.lists(st.text("ab", max_size=3), min_size=1, max_size=5), st.data())
    def test_fills(self, parts: list[str], data: st.DataObject) -> None:
        """A pattern matches whatever stands in the place of its stars."""
        name = parts[0] + "".join(data.draw(st.text("abc", max_size=3)) + part for part in parts[1:])

        self.assertTrue(Pattern("*".join(parts)).matches(name))

    def test_no_backtracking(self) -> None:
        """A pattern that makes a regular expression explode is decided at once."""
        self.assertFalse(Pattern("*a" * 120 + "*b").matches("a" * 254))
