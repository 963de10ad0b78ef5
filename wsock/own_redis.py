"""A Redis-compatible server of the workers' own, for one machine: started, kept running, and ended with them."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from twisted.internet.protocol import ClientFactory, Protocol
from twisted.internet.task import LoopingCall

from wsock.config import Config
from wsock.errors import ConfigError
from wsock.kept import Command, Kept, importing_alike, python

__all__ = ["OwnRedis", "launch"]

_KILL_AFTER_SECONDS = 10.0
_PING_SECONDS = 0.1
_SOCKET_PATH = re.compile(r"[\w./@+-]{1,100}", re.ASCII)  # what fits into a URL and into an address of the system
_SET_PDEATHSIG = 1


class OwnRedis:
    """A Redis-compatible server of the workers' own, kept running. No TCP port, nobody else's user.

    Outside ``--dev`` a message is on its disk before it is acknowledged. Raises :class:`ConfigError` when no such
    program is on the PATH.
    """

    def __init__(self, config: Config, *, reactor: Any, environ: Mapping[str, str]) -> None:
        path = environ.get("PATH", "")
        program = shutil.which("redis-server", path=path) or shutil.which("valkey-server", path=path)
        if program is None:
            raise ConfigError(
                "workers: several processes meet in Redis, and neither redis-server nor valkey-server is on the PATH:"
                " install one, or give the URL of a running one as --redis"
            )
        self._program = program
        self._config = config
        self._reactor = reactor
        self._environ = environ
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._kept: Kept | None = None

    async def start(self) -> str:
        """Starts it. Its URL, as soon as it answers; raises :class:`ConfigError` when it can't start."""
        directory = self._directory()
        address = str(directory / "redis.sock")
        if not _SOCKET_PATH.fullmatch(address):
            address = f"{self._temporary_directory()}/redis.sock"
        launcher = python(
            "-c", "from wsock.own_redis import launch; launch()", str(directory / "lock"), str(os.getpid())
        )
        command = Command(
            arguments=[*launcher, self._program, *_redis_arguments(directory, address, is_kept=not self._config.dev)],
            environment=importing_alike(self._environ),
            descriptors={1: 1, 2: 2},
        )
        self._kept = Kept("the workers' Redis", command, self._reactor, must_start=True)
        starting = self._kept.start()
        asking = LoopingCall(self._reactor.connectUNIX, address, _Ping(self._kept.is_ready))
        asking.clock = self._reactor
        asking.start(_PING_SECONDS, now=False)
        try:
            await starting
        finally:
            asking.stop()
        return f"unix://{address}"

    async def stop(self) -> None:
        """Ends it, when nobody needs it any more."""
        if self._kept is not None:
            await self._kept.stop(lambda transport: transport.signalProcess("TERM"), _KILL_AFTER_SECONDS)
        if self._temporary is not None:
            self._temporary.cleanup()

    def _directory(self) -> Path:
        if self._config.dev:
            return Path(self._temporary_directory())
        directory = Path(self._config.data).absolute() / "redis"
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as e:
            raise ConfigError(f"data: Redis can't keep its files in {directory}: {e.strerror}") from e
        return directory

    def _temporary_directory(self) -> str:
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="wsock-", ignore_cleanup_errors=True)
        return self._temporary.name


def _redis_arguments(directory: Path, address: str, *, is_kept: bool) -> list[str]:
    settings = {
        "port": "0",
        "unixsocket": address,
        "unixsocketperm": "700",
        "dir": str(directory),
        "save": "",
        "appendonly": "yes" if is_kept else "no",
        "appendfsync": "always",
        "daemonize": "no",
        "loglevel": "warning",
    }
    return [word for name, value in settings.items() for word in (f"--{name}", value)]


class _Ping(ClientFactory):
    """Asks a Redis whether it can be used yet."""

    noisy = False

    def __init__(self, answered: Callable[[], None]) -> None:
        self._answered = answered

    def buildProtocol(self, addr: object) -> Protocol:
        """See IProtocolFactory."""
        return _Pinging(self._answered)


class _Pinging(Protocol):
    """One question."""

    def __init__(self, answered: Callable[[], None]) -> None:
        self._answered = answered

    def connectionMade(self) -> None:
        """Asks."""
        assert self.transport is not None
        self.transport.write(b"PING\r\n")

    def dataReceived(self, data: bytes) -> None:
        """One that still reads its files says that it is loading, and is asked again."""
        if data.startswith(b"+PONG"):
            self._answered()
        assert self.transport is not None
        self.transport.loseConnection()


def launch() -> None:
    """Becomes the program behind the name of a lock file and the number of the parent process.

    Whoever becomes it holds the lock for as long as it lives, so that no two write the same files. It is away from the
    terminal, whose Ctrl-C is not meant for it, and ends with its parent where the system can do that (Linux).
    """
    lock, parent, *arguments = sys.argv[1:]
    held = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit(f"wsocket: another Redis uses {os.path.dirname(lock)}: end the server that it belongs to")
    os.set_inheritable(held, True)
    os.setsid()
    if sys.platform == "linux":
        _end_with_parent()
    if os.getppid() != int(parent):
        sys.exit("wsocket: the process that wanted Redis is gone")
    os.execv(arguments[0], arguments)


def _end_with_parent() -> None:
    import ctypes

    ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGTERM)
