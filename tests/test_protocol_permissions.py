"""Tests of :mod:`wsock.protocol.permissions`."""

from __future__ import annotations

from typing import get_args

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.base import SynchronousTestCase
from wsock.errors import Code, Malformed, Refused
from wsock.protocol import permissions
from wsock.protocol.channels import Pattern
from wsock.protocol.permissions import EVERYTHING, OPERATIONS, Operation, Permissions

repeatable = settings(max_examples=200)
operations: tuple[Operation, ...] = get_args(Operation)
rules = st.dictionaries(
    st.text("ab*", min_size=1, max_size=4), st.sets(st.sampled_from((*operations, "*"))), max_size=4
)


class PermissionsTests(SynchronousTestCase):
    """What a credential may do."""

    def test_operations(self) -> None:
        """The operations that are checked are those that can be granted."""
        self.assertEqual(set(operations), OPERATIONS)

    def test_union(self) -> None:
        """On a channel all operations are allowed that any matching pattern grants."""
        held = Permissions({"chat:*": ["subscribe"], "chat:a": ["publish"], "x": ["presence"]})

        self.assertTrue(held.allows("subscribe", "chat:a"))
        self.assertTrue(held.allows("publish", "chat:a"))
        self.assertFalse(held.allows("publish", "chat:b"))
        self.assertFalse(held.allows("presence", "chat:a"))
        self.assertFalse(held.allows("subscribe", "x"))

    def test_nothing(self) -> None:
        """Without rules nothing is allowed."""
        self.assertFalse(Permissions({}).allows("subscribe", "a"))
        self.assertFalse(Permissions({"*": []}).allows("subscribe", "a"))

    def test_everything(self) -> None:
        """A star among the operations is all of them, and so is the constant on all channels."""
        for operation in operations:
            self.assertTrue(EVERYTHING.allows(operation, "a"))
            self.assertTrue(Permissions({"a": ["*"]}).allows(operation, "a"))
            self.assertFalse(Permissions({"a": ["*"]}).allows(operation, "b"))

    def test_require(self) -> None:
        """What is not allowed is refused, and the text names the permission and the channel."""
        held = Permissions({"a": ["subscribe"]})
        held.require("subscribe", "a")

        refused = self.assertRaises(Refused, held.require, "publish", "a")

        self.assertEqual(refused.code, Code.FORBIDDEN)
        self.assertIn("'publish' on 'a'", refused.text)

    def test_remembered(self) -> None:
        """A decision is the same when it is asked for again."""
        held = Permissions({"a*": ["subscribe"]})

        for _ in range(2):
            self.assertTrue(held.allows("subscribe", "ab"))
            self.assertFalse(held.allows("publish", "ab"))
            self.assertFalse(held.allows("subscribe", "b"))

    def test_memory_is_bounded(self) -> None:
        """A client that asks for ever new names makes neither its permissions nor the wider ones grow."""
        wider = Permissions({"*": ["*"]})
        held = Permissions({"*": ["subscribe"]}, within=wider)

        for number in range(2500):
            self.assertTrue(held.allows("subscribe", f"c{number}"))

        for each in (held, wider):
            self.assertLessEqual(len(each._known), permissions._MAX_REMEMBERED)

    def test_within(self) -> None:
        """A set within a wider one never exceeds it, however it is written."""
        key = Permissions({"chat:*": ["subscribe", "publish"]})
        token = Permissions({"*": ["*"]}, within=key)

        self.assertTrue(token.allows("publish", "chat:a"))
        self.assertFalse(token.allows("presence", "chat:a"))
        self.assertFalse(token.allows("subscribe", "other"))

    def test_within_narrows_only(self) -> None:
        """What the wider set allows is not allowed by that alone."""
        token = Permissions({"chat:a": ["subscribe"]}, within=EVERYTHING)

        self.assertFalse(token.allows("publish", "chat:a"))
        self.assertFalse(token.allows("subscribe", "chat:b"))

    @repeatable
    @given(rules, rules, st.text("ab", max_size=4), st.sampled_from(operations))
    def test_within_is_the_intersection(
        self, own: dict[str, set[str]], wider: dict[str, set[str]], channel: str, operation: Operation
    ) -> None:
        """Allowed is what both allow, each by the union of its matching patterns."""

        def grants(rules: dict[str, set[str]]) -> bool:
            return any(names & {operation, "*"} for text, names in rules.items() if Pattern(text).matches(channel))

        held = Permissions(own, within=Permissions(wider))

        self.assertIs(held.allows(operation, channel), grants(own) and grants(wider))

    def test_rules_are_told(self) -> None:
        """The rules can be read again, with the star spelled out."""
        held = Permissions({"a": ["*"], "b": ["publish", "publish"]})

        self.assertEqual(held.rules, {"a": OPERATIONS, "b": frozenset(["publish"])})


class MalformedRulesTests(SynchronousTestCase):
    """Rules that make no sense are refused when they are made, not when they are used."""

    def assert_malformed(self, rules: dict[str, list[str] | str], part: str) -> None:
        """The rules are refused with a text that holds the part."""
        self.assertIn(part, self.assertRaises(Malformed, Permissions, rules).text)

    def test_unknown_operation(self) -> None:
        """An operation that does not exist; the text names those that do."""
        self.assert_malformed({"a": ["read"]}, "history, presence, publish, subscribe")

    def test_text_for_list(self) -> None:
        """One text in the place of a list would be taken letter by letter."""
        self.assert_malformed({"a": "publish"}, "takes a list")

    def test_pattern_size(self) -> None:
        """A pattern has 1 to 255 bytes."""
        Permissions({"a" * 255: ["*"]})

        self.assert_malformed({"": ["*"]}, "1 to 255 bytes")
        self.assert_malformed({"a" * 256: ["*"]}, "1 to 255 bytes")
        self.assert_malformed({"\u732b" * 86: ["*"]}, "1 to 255 bytes")

    def test_pattern_count(self) -> None:
        """A credential has at most 100 patterns."""
        Permissions({f"c{n}": ["*"] for n in range(100)})

        self.assert_malformed({f"c{n}": ["*"] for n in range(101)}, "more than 100 patterns")
