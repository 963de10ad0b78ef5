"""Tests for :mod:`wsock.own_redis`."""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.testing import StringTransport

from tests.base import SynchronousTestCase
from tests.processes import RecordingReactor
from wsock.config import Config, load
from wsock.errors import ConfigError
from wsock.kept import importing_alike
from wsock.own_redis import OwnRedis


class OwnRedisTests(SynchronousTestCase):
    """The Redis that comes with the workers."""

    def setUp(self) -> None:
        self.reactor = RecordingReactor()

    def redis(self, *names: str, **options: Any) -> OwnRedis:
        """One whose PATH has these programs."""
        path = Path(self.mktemp()).absolute()
        path.mkdir()
        for name in names or ("redis-server",):
            (path / name).write_text("")
            (path / name).chmod(0o755)
        config: Config = load(options=options)
        return OwnRedis(config, reactor=self.reactor, environ={"PATH": str(path)})

    def answer(self, answer: bytes) -> StringTransport:
        """The next question is answered so."""
        self.reactor.advance(0.1)
        factory = self.reactor.unixClients[-1][1]
        assert factory is not None
        protocol: Any = factory.buildProtocol(None)
        transport = StringTransport()
        protocol.makeConnection(transport)
        protocol.dataReceived(answer)
        return transport

    def settings(self) -> dict[str, str]:
        """What the program was told."""
        words = self.reactor.processes[-1].arguments
        start = words.index("--port")
        return dict(zip(words[start::2], words[start + 1 :: 2], strict=True))

    def test_in_memory(self) -> None:
        """With --dev nothing is kept: its directory goes with it."""
        redis = self.redis(dev=True)
        starting = Deferred.fromCoroutine(redis.start())
        transport = self.answer(b"+PONG\r\n")

        settings = self.settings()
        self.assertEqual(self.successResultOf(starting), f"unix://{settings['--unixsocket']}")
        self.assertEqual((settings["--port"], settings["--appendonly"], settings["--save"]), ("0", "no", ""))
        self.assertTrue(Path(settings["--dir"]).is_dir())
        self.assertEqual(transport.value(), b"PING\r\n")
        self.assertTrue(transport.disconnecting)

        stopping = Deferred.fromCoroutine(redis.stop())
        self.assertEqual(self.reactor.processes[0].signals, ["TERM"])
        self.reactor.processes[0].ends()
        self.successResultOf(stopping)
        self.assertFalse(Path(settings["--dir"]).exists())

    def test_on_disk(self) -> None:
        """Otherwise all is on the disk of the data directory before it is acknowledged."""
        data = Path(self.mktemp())
        redis = self.redis(data=str(data))
        starting = Deferred.fromCoroutine(redis.start())
        self.answer(b"-LOADING\r\n")
        self.assertNoResult(starting)
        self.answer(b"+PONG\r\n")

        settings = self.settings()
        self.successResultOf(starting)
        self.assertEqual((settings["--appendonly"], settings["--appendfsync"]), ("yes", "always"))
        self.assertEqual(Path(settings["--dir"]), data.absolute() / "redis")
        self.assertEqual(Path(settings["--dir"]).stat().st_mode & 0o777, 0o700)

    def test_long_path(self) -> None:
        """Where the path is too long for a socket, the socket is in a directory of its own."""
        data = Path(self.mktemp()) / ("x" * 120)
        redis = self.redis(data=str(data))
        starting = Deferred.fromCoroutine(redis.start())
        self.answer(b"+PONG\r\n")

        settings = self.settings()
        self.successResultOf(starting)
        self.assertLess(len(settings["--unixsocket"]), 100)
        self.assertEqual(Path(settings["--dir"]), data.absolute() / "redis")
        stopping = Deferred.fromCoroutine(redis.stop())
        self.reactor.processes[0].ends()
        self.successResultOf(stopping)

    def test_valkey(self) -> None:
        """Valkey does as well."""
        Deferred.fromCoroutine(self.redis("valkey-server", dev=True).start())

        self.assertTrue(any(word.endswith("/valkey-server") for word in self.reactor.processes[0].arguments))

    def test_fails(self) -> None:
        """One that can't start is not asked any more, and says so."""
        starting = Deferred.fromCoroutine(self.redis(dev=True).start())
        self.reactor.processes[0].ends(1)

        self.assertIn("Redis ended with status 1", str(self.failureResultOf(starting, ConfigError).value))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_no_directory(self) -> None:
        """A data directory that can't be made is named."""
        file = Path(self.mktemp())
        file.write_text("")

        error = self.failureResultOf(Deferred.fromCoroutine(self.redis(data=str(file)).start()), ConfigError)
        self.assertIn(str(file), str(error.value))

    def test_never_started(self) -> None:
        """One that was not started has ended."""
        self.successResultOf(Deferred.fromCoroutine(self.redis(dev=True).stop()))

    def launch(self, lock: str, parent: int, *arguments: str) -> int:
        """The status of a process that was to become another."""
        words = [lock, str(parent), *arguments]
        program = f"import sys; sys.argv[1:] = {words!r}; from wsock.own_redis import launch; launch()"
        null = os.open(os.devnull, os.O_WRONLY)
        self.addCleanup(os.close, null)
        env = importing_alike(os.environ)
        actions = [(os.POSIX_SPAWN_DUP2, null, 1), (os.POSIX_SPAWN_DUP2, null, 2)]
        pid = os.posix_spawn(sys.executable, [sys.executable, "-c", program], env, file_actions=actions)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def test_launch(self) -> None:
        """The launcher becomes the program, and holds the lock as long as that lives."""
        lock = self.mktemp()
        check = f"import fcntl, sys; f = open({lock!r}); fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)"

        self.assertEqual(self.launch(lock, os.getpid(), sys.executable, "-c", "import sys; sys.exit(7)"), 7)
        self.assertEqual(self.launch(lock, os.getpid(), sys.executable, "-c", check), 1)

    def test_launch_refuses(self) -> None:
        """Nothing is started beside another one, or for a parent that is gone."""
        lock = self.mktemp()
        self.assertEqual(self.launch(lock, 1 << 22, sys.executable, "-c", ""), 1)
        with open(lock) as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            self.assertEqual(self.launch(lock, os.getpid(), sys.executable, "-c", ""), 1)
        self.assertEqual(self.launch(lock, os.getpid(), sys.executable, "-c", ""), 0)
