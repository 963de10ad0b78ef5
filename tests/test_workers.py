"""Tests for :mod:`wsock.workers`."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import CannotListenError, ReactorNotRunning
from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from tests.base import SynchronousTestCase
from tests.processes import RecordingReactor
from wsock import workers
from wsock.config import load
from wsock.edges.listening import bind_shared
from wsock.errors import ConfigError
from wsock.kept import importing_alike
from wsock.workers import Worker, Workers

MONGO = "mongodb://db/wsock"


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
        self.assertEqual(env["PYTHONPATH"], importing_alike({})["PYTHONPATH"])
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
