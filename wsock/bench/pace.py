"""Waiting, which Ctrl-C ends early, and what a person sees meanwhile."""

from __future__ import annotations

from typing import Protocol, TextIO

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

__all__ = ["Pace", "Progress", "TextProgress"]

_STEP_SECONDS = 0.2
_WIDTH = 30


class Progress(Protocol):
    """Whom a scenario tells how far it is."""

    def show(self, name: str, phase: str, part: float) -> None:
        """This part, from 0 to 1, of this phase is done."""

    def clear(self) -> None:
        """Nothing is under way any more."""


class TextProgress:
    """A bar at a terminal; otherwise a line for each phase."""

    def __init__(self, out: TextIO, is_terminal: bool) -> None:
        self._out = out
        self._is_terminal = is_terminal
        self._phase = ""

    def show(self, name: str, phase: str, part: float) -> None:
        """Draws the bar anew, or a line when the phase is new."""
        if self._is_terminal:
            filled = "#" * round(min(1.0, part) * _WIDTH)
            self._write(f"\r{name:<12} [{filled:<{_WIDTH}}] {phase:<40}")
        elif f"{name}: {phase}" != self._phase:
            self._phase = f"{name}: {phase}"
            self._write(f"{self._phase}\n")

    def clear(self) -> None:
        """Removes the bar."""
        if self._is_terminal:
            self._write(f"\r{'':<{_WIDTH + 56}}\r")

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


class Pace:
    """The time that a measurement takes. After :meth:`interrupt` nothing waits that does not have to."""

    def __init__(self, clock: IReactorTime, progress: Progress) -> None:
        self.is_interrupted = False
        self.progress = progress
        self._clock = clock
        self._waiting: Deferred[None] | None = None

    async def spend(self, name: str, phase: str, seconds: float) -> None:
        """Waits so long, or until it is interrupted, and shows it."""
        started = self._clock.seconds()
        while not self.is_interrupted:
            spent = self._clock.seconds() - started
            self.progress.show(name, phase, spent / seconds if seconds else 1.0)
            if spent >= seconds:
                return
            await self._sleep(min(_STEP_SECONDS, seconds - spent))

    async def wait(self, seconds: float) -> None:
        """Waits so long, interrupted or not."""
        await deferLater(self._clock, seconds)

    def interrupt(self) -> None:
        """Ends what waits."""
        self.is_interrupted = True
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    async def _sleep(self, seconds: float) -> None:
        waiting = self._waiting = Deferred[None]()
        call = self._clock.callLater(seconds, self._wake)
        await waiting
        if call.active():
            call.cancel()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)
