"""A server as a child process, and other programs that a user runs; waiting for them always has a deadline."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from threading import Condition, Thread
from typing import IO, Any

from tests.e2e.wire import Wire, connect

__all__ = ["ROOT", "Node", "Program", "free_port"]

ROOT = Path(__file__).parent.parent.parent
_PATIENCE_SECONDS = 30.0
_TWISTD = "from twisted.scripts.twistd import run; run()"


class Program:
    """A running program. ``output`` and ``errors`` are what it has written so far."""

    def __init__(self, *arguments: str, cwd: str | Path, env: Mapping[str, str] | None = None) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(env or {})}
        self._process = subprocess.Popen(
            arguments,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._changed = Condition()
        self._texts = {"output": "", "errors": ""}
        self._open = set(self._texts)
        assert self._process.stdout is not None and self._process.stderr is not None
        self._readers = [
            Thread(target=self._read, args=(name, stream), daemon=True)
            for name, stream in (("output", self._process.stdout), ("errors", self._process.stderr))
        ]
        for reader in self._readers:
            reader.start()

    @classmethod
    def python(cls, *arguments: str, cwd: str | Path, env: Mapping[str, str] | None = None) -> Program:
        """Runs Python with the project importable."""
        return cls(sys.executable, *arguments, cwd=cwd, env=env)

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.pid

    @property
    def output(self) -> str:
        """What stands on standard output."""
        return self._texts["output"]

    @property
    def errors(self) -> str:
        """What stands on standard error."""
        return self._texts["errors"]

    def says(self, pattern: str, seconds: float = _PATIENCE_SECONDS, *, where: str = "output") -> re.Match[str]:
        """The first place in the ``output``, or the ``errors``, that the pattern matches, as soon as there is one."""
        compiled = re.compile(pattern, re.MULTILINE)
        with self._changed:
            self._changed.wait_for(lambda: compiled.search(self._texts[where]) or self._has_ended(), seconds)
        match = compiled.search(self._texts[where])
        assert match is not None, f"no {pattern!r} in:\n{self.output}\n{self.errors}"
        return match

    def ends(self, seconds: float = _PATIENCE_SECONDS) -> int:
        """The exit status, when the program has ended and all it wrote was read."""
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired as e:
            raise AssertionError(f"still running after {seconds} s:\n{self.output}\n{self.errors}") from e
        for reader in self._readers:
            reader.join(seconds)
        return status

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """Ends it at once, as a crash does."""
        self._process.kill()
        self.ends()

    def stop(self) -> None:
        """Ends it, if it runs, whatever that takes."""
        if self._process.poll() is None:
            self.terminate()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self.ends()

    def _has_ended(self) -> bool:
        return not self._open

    def _read(self, name: str, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                with self._changed:
                    self._texts[name] += line.decode("utf-8", "replace")
                    self._changed.notify_all()
        with self._changed:
            self._open.remove(name)
            self._changed.notify_all()


class Node:
    """A server on loopback, in a directory of its own; with ``is_dev`` in memory, else on disk.

    ``port`` stays the same when it is started again. ``key`` is an API key that may do everything.
    """

    def __init__(self, *options: str, is_dev: bool = True, config: str = "", listen: str | None = None) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="wsock-e2e-")
        self.directory = Path(self._directory.name)
        self._options = ["--dev", *options] if is_dev else ["--data", "data", *options]
        self._listen = listen
        if config:
            (self.directory / "wsock.toml").write_text(config)
            self._options += ["--config", "wsock.toml"]
        self.key = "demo"
        self.port = 0
        self.program: Program | None = None

    @property
    def url(self) -> str:
        """Where SDKs connect."""
        return f"ws://127.0.0.1:{self.port}"

    def start(self) -> Node:
        """Starts it; returns when it serves."""
        listen = self._listen or f"tcp:{self.port}:interface=127.0.0.1"
        run = ["-c", _TWISTD, "--nodaemon", "--pidfile=", "wsocket", "--listen", listen]
        self.program = Program.python(*run, *self._options, cwd=self.directory)
        try:
            match = self.program.says(r"serves on (?:ws://)?(?:127\.0\.0\.1:(\d+)|\S)")
        except AssertionError:
            self.program.stop()
            raise
        self.port = int(match[1] or 0)
        credentials = self.directory / "data" / "credentials.txt"
        if credentials.exists():
            key = re.search(r"^API key: (\S+)$", credentials.read_text(), re.MULTILINE)
            assert key is not None
            self.key = key[1]
        return self

    def kill(self) -> None:
        """Ends it as a crash does."""
        assert self.program is not None
        self.program.kill()

    def stop(self) -> None:
        """Ends it and removes its directory."""
        if self.program is not None:
            self.program.stop()
        self._directory.cleanup()

    def connect(self, **options: Any) -> Wire:
        """A client of it; see :func:`tests.e2e.wire.connect`."""
        return connect(self.port, key=options.pop("key", self.key), **options)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
