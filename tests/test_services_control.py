"""Questions of several kinds between nodes."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from tests.base import SynchronousTestCase
from wsock.backends.memory_control import MemoryControl
from wsock.backends.respondent import Respondent
from wsock.services.control import Control, Gathered


class Sum(msgspec.Struct, frozen=True, array_like=True):
    """A question."""

    numbers: list[int]


class Name(msgspec.Struct, frozen=True):
    """Another one."""

    prefix: str


class ControlTests(SynchronousTestCase):
    def setUp(self) -> None:
        shared: list[Respondent] = []
        self.one, self.other = (Control(MemoryControl(shared)) for _ in range(2))
        self.heard: list[Name] = []

    def ask(self, question: msgspec.Struct, answer: Any) -> Gathered[Any]:
        return self.successResultOf(Deferred.fromCoroutine(self.one.ask(question, answer)))

    def test_kinds(self) -> None:
        """Each kind of question is answered by whoever answers that kind, on every node, and read as what it is."""
        self.one.on(Sum, lambda asked: sum(asked.numbers))
        self.other.on(Sum, lambda asked: sum(asked.numbers) + 1)
        self.one.on(Name, lambda asked: Name(f"{asked.prefix}0"))
        self.other.on(Name, lambda asked: Name(f"{asked.prefix}1"))

        self.assertEqual(self.ask(Sum([1, 2]), int), Gathered([3, 4], True))
        self.assertEqual(self.ask(Name("n"), Name), Gathered([Name("n0"), Name("n1")], True))

    def test_nothing_to_say(self) -> None:
        """Who has nothing to say has no part in the answers; falsy answers are answers."""
        self.one.on(Sum, lambda asked: 0)
        self.other.on(Sum, lambda asked: None)

        self.assertEqual(self.ask(Sum([]), int), Gathered([0], True))

    def test_unknown_kind(self) -> None:
        """A node that doesn't know the kind, of an older version, makes the answers incomplete."""
        self.one.on(Sum, lambda asked: 1)

        self.assertEqual(self.ask(Sum([]), int), Gathered([1], False))
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_unreadable_answer(self) -> None:
        """An answer of another shape is none."""
        self.one.on(Sum, lambda asked: 1)
        self.other.on(Sum, lambda asked: "one")

        self.assertEqual(self.ask(Sum([]), int), Gathered([1], False))

    def test_twice(self) -> None:
        """A kind has one who answers."""
        self.one.on(Sum, lambda asked: 1)

        self.assertRaises(ValueError, self.one.on, Sum, lambda asked: 2)

    def test_tell(self) -> None:
        """Every node hears a notice."""
        for control in (self.one, self.other):
            control.on(Name, self.heard.append)

        self.successResultOf(Deferred.fromCoroutine(self.one.tell(Name("x"))))

        self.assertEqual(self.heard, [Name("x")] * 2)
