"""Programs that are started and kept running, by a process that does nothing else."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from wsock.errors import ConfigError

__all__ = ["Command", "Kept", "importing_alike", "python"]

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 30.0
_WELL_AFTER_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A program as it is started. ``descriptors`` are its file descriptors, as ``spawnProcess`` takes them."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    descriptors: Mapping[int, int | str]


class Kept:
    """A program that is kept running: when it ends it is started again, after a pause that grows.

    With ``must_start`` it is given up when it ends before it was ready the first time. ``name`` is for the log.
    """

    _log = Logger()

    def __init__(self, name: str, command: Command, reactor: Any, *, must_start: bool = False) -> None:
        self._name = name
        self._command = command
        self._reactor = reactor
        self._must_start = must_start
        self._transport: Any = None
        self._since = 0.0
        self._failures = 0
        self._pause: Any = None
        self._ready: Deferred[None] | None = None
        self._stopping: Deferred[None] | None = None

    def start(self) -> Deferred[None]:
        """Starts it. Fires when it is ready for the first time; with ``must_start``, fails when that can't be."""
        self._ready = Deferred()
        self._spawn()
        return self._ready

    def is_ready(self) -> None:
        """The program serves."""
        ready, self._ready = self._ready, None
        if ready is not None:
            ready.callback(None)

    def stop(self, ask: Callable[[Any], None], seconds: float) -> Deferred[None]:
        """Asks its process to end, and kills it after so many seconds. Fires when there is none."""
        self._ready = None
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._transport is None:
            return succeed(None)
        ended: Deferred[None] = Deferred()
        self._stopping = ended
        ask(self._transport)
        killing = self._reactor.callLater(seconds, self._kill)
        return ended.addCallback(lambda _: killing.cancel() if killing.active() else None)

    def _spawn(self) -> None:
        self._pause = None
        self._since = self._reactor.seconds()
        command = self._command
        self._transport = self._reactor.spawnProcess(
            _Watch(self),
            command.arguments[0],
            list(command.arguments),
            env=dict(command.environment),
            childFDs=dict(command.descriptors),
        )
        self._log.info("{name} runs as process {pid}", name=self._name, pid=self._transport.pid)

    def _kill(self) -> None:
        self._log.warn("{name} did not end in time and is killed", name=self._name)
        self._transport.signalProcess("KILL")

    def ended(self, reason: Failure) -> None:
        """Its process has ended."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.loseConnection()  # what of its pipes is still open
        stopping, self._stopping = self._stopping, None
        if stopping is not None:
            stopping.callback(None)
            return
        how = _how_it_ended(reason.value)
        ready = self._ready
        if ready is not None and self._must_start:
            self._ready = None
            ready.errback(ConfigError(f"{self._name} {how} before it served; what it said stands above"))
            return
        self._start_again(how)

    def _start_again(self, how: str) -> None:
        is_well = self._reactor.seconds() - self._since >= _WELL_AFTER_SECONDS
        self._failures = 0 if is_well else self._failures + 1
        pause = min(_FIRST_PAUSE_SECONDS * 2 ** max(self._failures - 1, 0), _LONGEST_PAUSE_SECONDS)
        self._log.error("{name} {how}; it is started again in {pause} s", name=self._name, how=how, pause=pause)
        self._pause = self._reactor.callLater(pause, self._spawn)


class _Watch(ProcessProtocol):
    """Tells a :class:`Kept` about one process."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept

    def childDataReceived(self, childFD: int, data: bytes) -> None:  # noqa: N802, N803  # Twisted's names
        """The only thing that it says is that it serves."""
        self._kept.is_ready()

    def processExited(self, reason: Failure) -> None:  # noqa: N802  # Twisted's name
        """Somebody else may still hold its pipes; that is no reason to wait."""
        self._kept.ended(reason)


def _how_it_ended(value: Any) -> str:
    if value.signal is not None:
        return f"was ended by signal {value.signal}"
    return f"ended with status {value.exitCode}"


def python(*arguments: str) -> list[str]:
    """A command line of this Python."""
    return [sys.executable, "-P", *arguments]


def importing_alike(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a Python that imports from where this one does."""
    return {**environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path)}
