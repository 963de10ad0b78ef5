"""Who answers questions on a node, behind every :class:`wsock.interfaces.IControl`."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from wsock.interfaces import Answers

__all__ = ["MAX_ANSWER", "Respondent"]

MAX_ANSWER = 1 << 20
"""Bytes that one node's answer may have."""


class Respondent:
    """Answers on one node; what goes wrong there ends here."""

    _log = Logger()

    def __init__(self) -> None:
        self.answer: Callable[[bytes], bytes | None] = lambda question: None

    def ask(self, question: bytes) -> Answers:
        """The node's answer, of at most one part; not complete when it has none to give."""
        try:
            part = self.answer(question)
        except Exception:
            self._log.failure("a question to this node could not be answered")
            return Answers([], False)
        if part is not None and len(part) > MAX_ANSWER:
            self._log.error("an answer of {size} bytes is too large: nobody gets it", size=len(part))
            return Answers([], False)
        return Answers([] if part is None else [part], True)
