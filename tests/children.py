"""Programs as child processes, for the tests that run what a user runs."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorProcess, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from tests.base import TestCase

__all__ = ["ROOT", "Child", "start", "start_dev_server", "start_twistd"]

ROOT = Path(__file__).parent.parent
_PATIENCE_SECONDS = 30.0


class Child(ProcessProtocol):
    """A running program. What it writes, on either stream, is in ``output``; waiting for it has a deadline.

    ``status`` is its exit status once it has ended; ``None`` when a signal ended it.
    """

    def __init__(self, reactor: IReactorTime) -> None:
        self.output = ""
        self.status: int | None = None
        self.has_ended = False
        self._clock = reactor
        self._waiting: dict[Deferred[None], Callable[[], bool]] = {}

    def outReceived(self, data: bytes) -> None:  # noqa: N802
        """Twisted's hook."""
        self.output += data.decode("utf-8", "replace")
        self._tell()

    errReceived = outReceived  # noqa: N815

    def processEnded(self, reason: Failure) -> None:  # noqa: N802
        """Twisted's hook."""
        self.status = getattr(reason.value, "exitCode", None)
        self.has_ended = True
        self._tell()

    async def says(self, pattern: str, seconds: float = _PATIENCE_SECONDS) -> re.Match[str]:
        """The first place in the output that the pattern matches, as soon as there is one."""
        compiled = re.compile(pattern, re.MULTILINE)
        await self._until(lambda: self.has_ended or compiled.search(self.output) is not None, seconds)
        match = compiled.search(self.output)
        assert match is not None, f"the program ended, or {seconds} s passed, without {pattern!r}:\n{self.output}"
        return match

    async def ends(self, seconds: float = _PATIENCE_SECONDS) -> int | None:
        """The exit status, when the program has ended."""
        await self._until(lambda: self.has_ended, seconds)
        assert self.has_ended, f"the program did not end within {seconds} s:\n{self.output}"
        return self.status

    async def stop(self) -> None:
        """Ends the program with SIGTERM, and if need be with SIGKILL."""
        for name in ("TERM", "KILL"):
            if not self.has_ended:
                self.signal(name)
                await self._until(lambda: self.has_ended, 15.0)

    def signal(self, name: str) -> None:
        """Sends the program a signal."""
        assert self.transport is not None
        self.transport.signalProcess(name)

    def _tell(self) -> None:
        for waiting, is_over in list(self._waiting.items()):
            if is_over():
                waiting.callback(None)

    async def _until(self, is_over: Callable[[], bool], seconds: float) -> None:
        """Returns when it is over, or after so many seconds."""
        if is_over():
            return
        waiting: Deferred[None] = Deferred()
        self._waiting[waiting] = is_over
        deadline = self._clock.callLater(seconds, waiting.callback, None)
        await waiting
        del self._waiting[waiting]
        if deadline.active():
            deadline.cancel()


def start(case: TestCase, arguments: Sequence[str], env: Mapping[str, str] | None = None) -> Child:
    """Runs a program in a directory of its own, with the project importable; the test case stops it at its end."""
    from twisted.internet import reactor  # noqa: TID251  # trial's own: child processes report to it

    child = Child(cast(IReactorTime, reactor))
    directory = case.mktemp()
    Path(directory).mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(env or {})}
    cast(IReactorProcess, reactor).spawnProcess(child, arguments[0], arguments, env=environment, path=directory)
    case.addCleanup(lambda: Deferred.fromCoroutine(child.stop()))
    return child


def start_twistd(case: TestCase, *arguments: str, env: Mapping[str, str] | None = None) -> Child:
    """Runs twistd in the foreground."""
    run = "from twisted.scripts.twistd import run; run()"
    return start(case, [sys.executable, "-c", run, "--nodaemon", "--pidfile=", *arguments], env)


async def start_dev_server(case: TestCase, port: int = 0) -> tuple[Child, int]:
    """A server with ``--dev`` on loopback, and its port."""
    server = start_twistd(case, "wsocket", "--dev", "--listen", f"tcp:{port}:interface=127.0.0.1")
    match = await server.says(r"serves on (?:ws://)?127\.0\.0\.1:(\d+)")
    return server, int(match[1])
