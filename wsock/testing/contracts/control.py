"""What every :class:`wsock.interfaces.IControl` is held to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, gatherResults
from zope.interface.verify import verifyObject

from wsock.interfaces import Answers, IControl

if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase
else:
    TestCase = object

__all__ = ["ControlContract", "Respond"]

_SECONDS = 5.0
_TOO_MUCH = (1 << 20) + 1


class Respond:
    """Answers on a node: its name and the question, or what ``how`` says. Keeps what it was ``asked``."""

    def __init__(self, name: str) -> None:
        self.name = name.encode()
        self.asked: list[bytes] = []
        self.how: Callable[[bytes], bytes | None] = lambda question: self.name + b":" + question

    def __call__(self, question: bytes) -> bytes | None:
        """The answer."""
        self.asked.append(question)
        return self.how(question)


class ControlContract(TestCase):
    """Mix it in and provide ``make_controls``, which makes that many nodes of one new cluster, started.

    Where ``max_nodes`` is 1 it is asked for one only. One that tells later than it returns also overrides ``heard``.
    """

    make_controls: Callable[[int], Awaitable[list[IControl]]]
    max_nodes = 3
    nodes: list[IControl]
    respond: list[Respond]

    async def make(self, number: int) -> None:
        """The test is about so many nodes, or as many as there can be."""
        self.nodes = await self.make_controls(min(number, self.max_nodes))
        self.respond = [Respond(f"n{position}") for position in range(len(self.nodes))]
        for node, respond in zip(self.nodes, self.respond, strict=True):
            node.listen(respond)

    async def heard(self, is_so: Callable[[], bool]) -> None:
        """Waits until a notice has arrived."""

    def ask(self, question: bytes = b"?", seconds: float = _SECONDS) -> Deferred[Answers]:
        """The first node asks."""
        return Deferred.fromCoroutine(self.nodes[0].ask(question, seconds))

    def assert_answered(self, answers: Answers, *parts: bytes, is_complete: bool = True) -> None:
        """These are the answers, in whatever order."""
        self.assertEqual((sorted(answers.parts), answers.is_complete), (sorted(parts), is_complete))

    async def test_provides_the_interface(self) -> None:
        """The control has the methods of IControl, with their arguments."""
        await self.make(1)

        verifyObject(IControl, self.nodes[0])

    async def test_one(self) -> None:
        """A single node answers itself."""
        await self.make(1)

        self.assert_answered(await self.ask(b"how are you\x00\xff"), b"n0:how are you\x00\xff")
        self.assertEqual(self.respond[0].asked, [b"how are you\x00\xff"])

    async def test_all(self) -> None:
        """Every node answers, each once, whoever asks."""
        await self.make(3)

        for node in self.nodes:
            answers = await node.ask(b"?", _SECONDS)
            self.assert_answered(answers, *[respond.name + b":?" for respond in self.respond])
        for respond in self.respond:
            self.assertEqual(respond.asked, [b"?"] * len(self.nodes))

    async def test_nothing_to_tell(self) -> None:
        """A node without anything to tell has answered; an empty answer is one."""
        await self.make(2)
        self.respond[-1].how = lambda question: None
        self.respond[0].how = lambda question: b"" if len(self.nodes) > 1 else None

        self.assert_answered(await self.ask(), *[b""] * (len(self.nodes) - 1))

    async def test_failing(self) -> None:
        """One whose answer fails counts as one that did not answer, at once; the others are heard."""
        await self.make(2)

        def fail(question: bytes) -> bytes:
            raise ValueError("broken")

        for failing, respond in enumerate(self.respond):
            how, respond.how = respond.how, fail
            answers = await self.ask()
            others = [r.name + b":?" for number, r in enumerate(self.respond) if number != failing]
            self.assert_answered(answers, *others, is_complete=False)
            respond.how = how
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), len(self.nodes))
        self.assertTrue((await self.ask()).is_complete)

    async def test_too_large(self) -> None:
        """An answer of 1 MiB arrives, a larger one does not."""
        await self.make(2)
        last = self.respond[-1]
        others = [respond.name + b":?" for respond in self.respond[:-1]]

        last.how = lambda question: b"x" * (_TOO_MUCH - 1)
        self.assert_answered(await self.ask(), *others, b"x" * (_TOO_MUCH - 1))
        last.how = lambda question: b"x" * _TOO_MUCH
        self.assert_answered(await self.ask(), *others, is_complete=False)

    async def test_at_once(self) -> None:
        """Each of several questions at once gets its own answers."""
        await self.make(3)
        questions = [b"%d" % number for number in range(20)]

        found = await gatherResults([self.ask(question) for question in questions])

        for question, answers in zip(questions, found, strict=True):
            self.assert_answered(answers, *[respond.name + b":" + question for respond in self.respond])

    async def test_tell(self) -> None:
        """Every node hears a notice, the one that tells it at once; what they return is no answer to anything."""
        await self.make(3)

        await self.nodes[0].tell(b"news")

        self.assertEqual(self.respond[0].asked, [b"news"])
        await self.heard(lambda: all(respond.asked for respond in self.respond))
        self.assertEqual([respond.asked for respond in self.respond], [[b"news"]] * len(self.nodes))

    async def test_tell_failing(self) -> None:
        """One that fails to hear a notice keeps nobody else from it."""
        await self.make(2)

        def fail(question: bytes) -> bytes:
            raise ValueError("broken")

        self.respond[0].how = fail
        await self.nodes[0].tell(b"news")

        await self.heard(lambda: all(respond.asked for respond in self.respond))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
