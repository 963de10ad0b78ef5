"""Questions of several kinds between the nodes of a cluster, and who answers them on this one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Raw, msgpack
from twisted.logger import Logger

from wsock.interfaces import IControl

__all__ = ["Control", "Gathered"]

Q = TypeVar("Q", bound=msgspec.Struct)
A = TypeVar("A")


class Gathered(msgspec.Struct, Generic[A], frozen=True):
    """What the nodes answered. ``is_complete``: every node that is known to live did, in time."""

    parts: list[A]
    is_complete: bool


class _Envelope(msgspec.Struct, frozen=True, array_like=True):
    """A question with its kind, which is the name of its type."""

    kind: str
    content: Raw


_decode = msgpack.Decoder(_Envelope).decode


class Control:
    """Asks all nodes, and answers for this one. ``seconds`` is how long a question waits for the slowest node."""

    _log = Logger()

    def __init__(self, carrier: IControl, *, seconds: float = 1.0) -> None:
        self._carrier = carrier
        self._seconds = seconds
        self._kinds: dict[str, Callable[[Raw], Any]] = {}
        carrier.listen(self._answer)

    def on(self, kind: type[Q], answer: Callable[[Q], Any]) -> None:
        """Questions (or notices) of this kind are answered so. What is answered is encoded; ``None`` is no answer."""
        decode = msgpack.Decoder(kind).decode
        if kind.__name__ in self._kinds:
            raise ValueError(f"{kind.__name__} is answered already")
        self._kinds[kind.__name__] = lambda content: answer(decode(content))

    async def ask(self, question: msgspec.Struct, answer: type[A]) -> Gathered[A]:
        """What each node that has something to say answers.

        Raises :class:`wsock.errors.Unavailable` when too much is asked at once.
        """
        answers = await self._carrier.ask(_encode(question), self._seconds)
        parts, is_complete = [], answers.is_complete
        for part in answers.parts:
            try:
                parts.append(msgpack.decode(part, type=answer))
            except msgspec.MsgspecError as e:
                # A node of another version, while one takes the other's place.
                self._log.warn("an answer of another node can't be read: {reason}", reason=str(e))
                is_complete = False
        return Gathered(parts, is_complete)

    async def tell(self, notice: msgspec.Struct) -> None:
        """Tells every node, this one too. Raises :class:`wsock.errors.Unavailable` when others may not hear it."""
        await self._carrier.tell(_encode(notice))

    def _answer(self, text: bytes) -> bytes | None:
        envelope = _decode(text)
        answer = self._kinds[envelope.kind](envelope.content)
        return None if answer is None else msgpack.encode(answer)


def _encode(question: msgspec.Struct) -> bytes:
    return msgpack.encode([type(question).__name__, question])
