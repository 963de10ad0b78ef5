"""Tests for :mod:`wsock.workers`."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import CannotListenError, ProcessDone, ProcessTerminated, ReactorNotRunning
from twisted.internet.interfaces import IAddress, IProcessProtocol, IProcessTransport, IReadDescriptor
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.base import SynchronousTestCase
from wsock import workers
from wsock.config import Config, load
from wsock.edges.listening import bind_shared
from wsock.errors import ConfigError
from wsock.workers import Command, Kept, OwnRedis, Worker, Workers

MONGO = "mongodb://db/wsock"


@implementer(IProcessTransport)
class RecordedProcess:
    """A process that runs until the test ends it. ``signals`` are those that it got."""

    def __init__(self, protocol: IProcessProtocol, pid: int, arguments: list[str], env: dict[str, str]) -> None:
        self.protocol: Any = protocol
        self.pid = pid
        self.arguments = arguments
        self.env = env
        self.signals: list[str] = []
        self.closed: list[int] = []

    def serves(self) -> None:
        """It says that it serves."""
        self.protocol.childDataReceived(3, b"serves\n")

    def ends(self, status: int = 0, signal: int | None = None) -> None:
        """It ends."""
        value = ProcessTerminated(status, signal) if status or signal else ProcessDone(0)
        self.protocol.processExited(Failure(value))

    def closeStdin(self) -> None:  # noqa: N802  # Twisted's name
        """See IProcessTransport."""
        self.closed.append(0)

    def closeStdout(self) -> None:  # noqa: N802  # Twisted's name
        """See IProcessTransport."""
        self.closed.append(1)

    def closeStderr(self) -> None:  # noqa: N802  # Twisted's name
        """See IProcessTransport."""
        self.closed.append(2)

    def closeChildFD(self, descriptor: int) -> None:  # noqa: N802  # Twisted's name
        """See IProcessTransport."""
        self.closed.append(descriptor)

    def writeToChild(self, childFD: int, data: bytes) -> None:  # noqa: N802, N803  # Twisted's names
        """See IProcessTransport."""

    def loseConnection(self) -> None:
        """See IProcessTransport."""

    def write(self, data: bytes) -> None:
        """See ITransport."""

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """See ITransport."""

    def getPeer(self) -> IAddress:
        """See ITransport."""
        return UNIXAddress("")

    def getHost(self) -> IAddress:
        """See ITransport."""
        return UNIXAddress("")

    def signalProcess(self, signalID: str | int) -> None:  # noqa: N802, N803  # Twisted's names
        """See IProcessTransport."""
        self.signals.append(str(signalID))


class RecordingReactor(MemoryReactorClock):
    """A reactor that starts no process; ``processes`` are those that it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[RecordedProcess] = []
        self.descriptors: list[dict[int, int | str]] = []
        self.stops = 0
        self.is_stopped = False

    def spawnProcess(  # noqa: N802  # Twisted's name
        self,
        protocol: IProcessProtocol,
        executable: str,
        args: list[str],
        env: dict[str, str],
        childFDs: dict[int, int | str],  # noqa: N803  # Twisted's name
    ) -> RecordedProcess:
        """See IReactorProcess."""
        assert executable == args[0]
        process = RecordedProcess(protocol, 100 + len(self.processes), args, env)
        verifyObject(IProcessTransport, process)
        self.processes.append(process)
        self.descriptors.append(childFDs)
        return process

    def stop(self) -> None:
        """Counts."""
        if self.is_stopped:
            raise ReactorNotRunning("it has ended")
        self.is_stopped = True
        self.stops += 1


class KeptTests(SynchronousTestCase):
    """A program that is kept running."""

    def setUp(self) -> None:
        self.reactor = RecordingReactor()

    def kept(self, *, must_start: bool = False) -> Kept:
        """One."""
        command = Command(arguments=["/bin/x", "y"], environment={"A": "b"}, descriptors={0: "w"})
        return Kept("the program", command, self.reactor, must_start=must_start)

    @property
    def last(self) -> RecordedProcess:
        """The process that was started last."""
        return self.reactor.processes[-1]

    def test_starts(self) -> None:
        """It is started as the command says, and is ready when it says so for the first time."""
        starting = self.kept().start()
        self.assertNoResult(starting)
        self.last.serves()
        self.last.serves()

        self.assertIsNone(self.successResultOf(starting))
        self.assertEqual((self.last.arguments, self.last.env), (["/bin/x", "y"], {"A": "b"}))
        self.assertEqual(self.reactor.descriptors, [{0: "w"}])

    def test_is_given_up(self) -> None:
        """What must start and can't is not started again; how it ended is said."""
        for ending, words in (((1,), "the program ended with status 1"), ((0, 9), "was ended by signal 9")):
            starting = self.kept(must_start=True).start()
            self.last.ends(*ending)

            self.assertIn(words, str(self.failureResultOf(starting, ConfigError).value))
        self.reactor.advance(60)
        self.assertEqual(len(self.reactor.processes), 2)

    def test_starts_again(self) -> None:
        """One that has served before is started again, whatever it ended with."""
        starting = self.kept(must_start=True).start()
        self.last.serves()
        for ending in (0,), (1,), (0, 9):
            self.last.ends(*ending)
            self.reactor.advance(30)

        self.assertEqual(len(self.reactor.processes), 4)
        self.successResultOf(starting)

    def test_need_not_start(self) -> None:
        """One that need not start is started again even when it never served."""
        starting = self.kept().start()
        self.last.ends(1)
        self.reactor.advance(0.5)
        self.last.serves()

        self.successResultOf(starting)
        self.assertEqual(len(self.reactor.processes), 2)

    def test_pauses_grow(self) -> None:
        """The pause doubles up to half a minute, and is short again for one that ran well."""
        self.kept().start()
        pauses = []
        for lived in (0, 0, 0, 0, 0, 0, 0, 0, 60, 0):
            self.reactor.advance(lived)
            self.last.ends(1)
            [call] = self.reactor.getDelayedCalls()
            pauses.append(call.getTime() - self.reactor.seconds())
            self.reactor.advance(pauses[-1])

        self.assertEqual(pauses, [0.5, 1, 2, 4, 8, 16, 30, 30, 0.5, 0.5])

    def test_stops(self) -> None:
        """It is asked to end, and not started again when it has."""
        kept = self.kept()
        kept.start()
        asked: list[object] = []
        stopping = kept.stop(asked.append, 5)
        self.assertNoResult(stopping)
        self.last.ends()

        self.successResultOf(stopping)
        self.assertEqual((asked, self.last.signals), ([self.last], []))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_is_killed(self) -> None:
        """One that does not end in time is killed."""
        kept = self.kept()
        kept.start()
        stopping = kept.stop(lambda _: None, 5)
        self.reactor.advance(5)
        self.assertEqual(self.last.signals, ["KILL"])
        self.last.ends(0, 9)

        self.successResultOf(stopping)

    def test_stops_in_a_pause(self) -> None:
        """One that would have been started again is not."""
        kept = self.kept()
        kept.start()
        self.last.ends(1)

        self.successResultOf(kept.stop(self.fail, 5))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_stops_before_its_start(self) -> None:
        """One that never ran has ended."""
        self.successResultOf(self.kept().stop(self.fail, 5))


class WorkersTests(SynchronousTestCase):
    """The processes of one server."""

    def setUp(self) -> None:
        self.reactor = RecordingReactor()
        self.asked: list[tuple[int, list[str], str | None]] = []

    def command(self, number: int, listen: Sequence[str], redis: str | None) -> list[str]:
        """A command line that tells what it was made from."""
        self.asked.append((number, list(listen), redis))
        return ["/bin/worker", str(number)]

    def workers(self, environ: dict[str, str] | None = None, **options: Any) -> Workers:
        """Two workers with a Redis that is somebody else's, unless told otherwise."""
        given = {"dev": True, "workers": 2, "redis.urls": ["redis://r"], "listen": ["tcp:0:interface=127.0.0.1"]}
        config = load(options={**given, **{name.replace("__", "."): value for name, value in options.items()}})
        made = Workers(config, self.command, reactor=self.reactor, environ=environ or {})
        self.addCleanup(made._reservation.close)
        return made

    def test_first_alone(self) -> None:
        """The others are started when the first serves."""
        made = self.workers(workers=3)
        made.startService()
        started = made.started()
        self.assertEqual(len(self.reactor.processes), 1)
        self.assertNoResult(started)
        self.reactor.processes[0].serves()

        self.successResultOf(started)
        self.assertEqual([process.arguments[1] for process in self.reactor.processes], ["1", "2", "3"])
        self.assertEqual(self.reactor.descriptors, [{0: "w", 1: 1, 2: 2, 3: "r"}] * 3)

    def test_first_fails(self) -> None:
        """If the first can't serve, none is started, and the start fails."""
        made = self.workers()
        made.startService()
        started = made.started()
        self.reactor.processes[0].ends(1)

        self.failureResultOf(started, ConfigError)
        self.reactor.advance(60)
        self.assertEqual(len(self.reactor.processes), 1)
        self.successResultOf(made.stopService())

    def test_others_are_kept(self) -> None:
        """Any of them is started again later on."""
        made = self.workers()
        made.startService()
        self.reactor.processes[0].serves()
        self.reactor.processes[1].ends(0, 9)
        self.reactor.processes[0].ends(0, 9)
        self.reactor.advance(1)

        self.assertEqual([process.arguments[1] for process in self.reactor.processes], ["1", "2", "2", "1"])

    def test_endpoints(self) -> None:
        """Ports that were left to the system are the same for all; they are bound and nobody listens."""
        made = self.workers(
            listen=["tcp:0:interface=127.0.0.1", "tcp:interface=\\:\\:1:port=0", "tcp6:0:interface=\\:\\:1"]
        )
        made.startService()
        ports = [held.getsockname()[1] for held in made._reservation.sockets]

        [(_, listen, redis), _] = self.asked
        self.assertEqual(
            listen,
            [
                f"tcp:{ports[0]}:interface=127.0.0.1",
                f"tcp:interface=\\:\\:1:port={ports[1]}",
                f"tcp6:{ports[2]}:interface=\\:\\:1",
            ],
        )
        self.assertIsNone(redis)
        self.assertRaises(ConnectionRefusedError, socket.create_connection, ("127.0.0.1", ports[0]))

    def test_port_of_their_own(self) -> None:
        """A port that is given stays as it is."""
        self.assertEqual(workers._with_port("tcp:9001:interface=127.0.0.1", 9001), "tcp:9001:interface=127.0.0.1")
        self.assertEqual(workers._with_port("haproxy:tcp:0", 7), "haproxy:tcp:7")
        self.assertEqual(workers._with_port("ssl:port=0:privateKey=k", 7), "ssl:port=7:privateKey=k")

    def test_busy_port(self) -> None:
        """A port that is in use ends the start before anything ran, even when it could be shared."""
        with bind_shared(0, "127.0.0.1") as other:
            other.listen()
            listen = [f"tcp:{other.getsockname()[1]}:interface=127.0.0.1"]
            made = self.workers(listen=listen)
            made.startService()

            self.failureResultOf(made.started(), CannotListenError)
            self.assertEqual(self.reactor.processes, [])

            sharing = self.workers(listen=listen, reuse_port=True)  # who says so shares it
            sharing.startService()
            self.assertEqual(len(self.reactor.processes), 1)

    def test_environment(self) -> None:
        """A worker shares its ports, imports from the same places, and is not mistaken for systemd's own child."""
        made = self.workers({"A": "b", "LISTEN_FDS": "1", "LISTEN_PID": "2"})
        made.startService()
        env = self.reactor.processes[0].env

        self.assertEqual((env["A"], env["WSOCK_REUSE_PORT"]), ("b", "true"))
        self.assertEqual({name for name in env if name.startswith("LISTEN_")}, set())
        self.assertIn(os.path.abspath(sys.path[-1]), env["PYTHONPATH"].split(os.pathsep))
        self.assertTrue(workers.is_worker(env))
        self.assertFalse(workers.is_worker({}))
        self.assertTrue(load(environ=env).reuse_port)

    def test_stops(self) -> None:
        """All drain at once; the end is when all have ended."""
        made = self.workers()
        made.startService()
        self.reactor.processes[0].serves()
        stopping = made.stopService()
        self.assertEqual([process.closed for process in self.reactor.processes], [[0], [0]])
        self.reactor.processes[0].ends()
        self.assertNoResult(stopping)
        self.reactor.processes[1].ends()

        self.successResultOf(stopping)
        self.assertEqual(made._reservation.sockets, [])

    def test_stops_in_time(self) -> None:
        """Those that have not ended soon after ``shutdown.seconds`` are killed."""
        made = self.workers(shutdown__seconds=3)
        made.startService()
        started = made.started()
        stopping = made.stopService()
        self.failureResultOf(started, CancelledError)
        self.reactor.advance(7.9)
        self.assertEqual(self.reactor.processes[0].signals, [])
        self.reactor.advance(0.2)
        self.assertEqual(self.reactor.processes[0].signals, ["KILL"])
        self.reactor.processes[0].ends(0, 9)

        self.successResultOf(stopping)

    def test_needs_mongo(self) -> None:
        """Outside of --dev the nodes of a cluster share their apps."""
        error = self.assertRaises(ConfigError, self.workers, dev=None)
        self.assertIn("--mongo", str(error))

        self.workers(dev=None, mongo__url=MONGO)

    def test_needs_redis(self) -> None:
        """Without the URL of a Redis one must be on the PATH."""
        error = self.assertRaises(ConfigError, self.workers, {"PATH": self.mktemp()}, redis__urls=None)

        self.assertIn("--redis", str(error))

    def test_endpoints_that_are_not_shared(self) -> None:
        """A UNIX socket or one that was handed over belongs to one process."""
        for text in "unix:/x", "systemd:domain=INET:index=0":
            error = self.assertRaises(ConfigError, self.workers, dev=None, listen=[text])
            self.assertIn(text, str(error))


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
        program = f"import sys; sys.argv[1:] = {words!r}; from wsock.workers import launch; launch()"
        null = os.open(os.devnull, os.O_WRONLY)
        self.addCleanup(os.close, null)
        env = workers.worker_environment(os.environ)
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


class StartedServer(Service):
    """A server that starts when it is told to."""

    def __init__(self) -> None:
        self.when_started: Deferred[None] = Deferred()
        self.when_stopped: Deferred[None] = Deferred()
        self.is_privileged = False

    def privilegedStartService(self) -> None:
        """See IService."""
        self.is_privileged = True

    def started(self) -> Deferred[None]:
        """Fires when it serves."""
        return self.when_started

    def stopService(self) -> Deferred[None]:
        """See IService."""
        super().stopService()
        return self.when_stopped


class WorkerTests(SynchronousTestCase):
    """A server in a worker."""

    def setUp(self) -> None:
        self.reactor = RecordingReactor()
        self.server = StartedServer()
        self.input, self.parents_input = os.pipe()
        self.parents_report, self.report = os.pipe()
        self.worker = Worker(self.server, self.reactor, input_fd=self.input, report_fd=self.report)
        self.addCleanup(os.close, self.input)
        self.worker.privilegedStartService()
        self.worker.startService()

    @property
    def lifeline(self) -> Any:
        """What the reactor watches."""
        [lifeline] = self.reactor.getReaders()
        verifyObject(IReadDescriptor, lifeline)
        self.assertEqual(lifeline.fileno(), self.input)
        self.assertEqual(lifeline.logPrefix(), "lifeline")
        return lifeline

    def test_serves(self) -> None:
        """The first process hears when the server serves, and nothing else."""
        started = self.worker.started()
        self.assertTrue(self.server.running and self.server.is_privileged)
        self.server.when_started.callback(None)

        self.successResultOf(started)
        self.assertEqual(os.read(self.parents_report, 100), b"serves\n")
        self.assertEqual(os.read(self.parents_report, 100), b"")

    def test_fails(self) -> None:
        """A failure is handed on."""
        started = self.worker.started()
        self.server.when_started.errback(ConfigError("no"))

        self.failureResultOf(started, ConfigError)

    def test_nobody_hears(self) -> None:
        """When the first process is gone by then, the lifeline will tell."""
        handler = signal.getsignal(signal.SIGPIPE)
        self.addCleanup(signal.signal, signal.SIGPIPE, handler)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        os.close(self.parents_report)
        started = self.worker.started()
        self.server.when_started.callback(None)

        self.successResultOf(started)

    def test_drains(self) -> None:
        """The end of the pipe is the end of the worker; what is said on it is nothing."""
        os.write(self.parents_input, b"x")
        lifeline = self.lifeline
        lifeline.doRead()
        self.assertEqual(self.reactor.stops, 0)
        os.close(self.parents_input)
        lifeline.doRead()

        self.assertEqual(self.reactor.stops, 1)
        self.assertEqual(self.reactor.getReaders(), [])

    def test_hang_up(self) -> None:
        """Some reactors tell the end of a pipe as a lost connection."""
        self.lifeline.connectionLost(Failure(ReactorNotRunning()))

        self.assertEqual(self.reactor.stops, 1)

    def test_ends_already(self) -> None:
        """A signal may have ended it before."""
        lifeline = self.lifeline
        self.reactor.stop()
        os.close(self.parents_input)
        lifeline.doRead()

        self.assertEqual(self.reactor.stops, 1)

    def test_stops(self) -> None:
        """Its end is that of the server."""
        self.assertIs(self.worker.stopService(), self.server.when_stopped)
        self.assertEqual(self.reactor.getReaders(), [])
