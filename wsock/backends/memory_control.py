"""Questions to all nodes where there is one, or where all are in this process."""

from __future__ import annotations

from collections.abc import Callable

from zope.interface import implementer

from wsock.backends.respondent import Respondent
from wsock.interfaces import Answers, IControl

__all__ = ["MemoryControl"]


@implementer(IControl)
class MemoryControl:
    """Asks this node; and those of the same process that were made with the same ``nodes``."""

    def __init__(self, nodes: list[Respondent] | None = None) -> None:
        self._nodes = [] if nodes is None else nodes
        self._respondent = Respondent()
        self._nodes.append(self._respondent)

    def listen(self, answer: Callable[[bytes], bytes | None]) -> None:
        """Names who answers."""
        self._respondent.answer = answer

    async def ask(self, question: bytes, timeout: float) -> Answers:
        """The answers are there at once."""
        answers = [respondent.ask(question) for respondent in self._nodes]
        return Answers([part for answer in answers for part in answer.parts], all(a.is_complete for a in answers))

    async def tell(self, notice: bytes) -> None:
        """Every node has heard it when this returns."""
        for respondent in self._nodes:
            respondent.ask(notice)
