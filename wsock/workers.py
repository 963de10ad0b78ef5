"""Several processes on one machine: ``twistd wsocket --workers N``.

Each worker is a whole server, a node of the cluster, and shares the ports with the others: the system spreads
connections over them. :class:`Workers` is the service of the process that starts them and keeps them running;
:class:`Worker` is what a server is in one. Two pipes join the two: the worker says through the one that it serves; the
other it only watches, and drains when it ends, whether that is because it was told to or because the first process is
gone.

The first worker starts alone. It makes what a first start makes, and if it can't start, none of them can. Afterwards a
worker that ends is started again, after a pause that grows.

Without ``--redis`` the workers meet in a Redis of their own, on a UNIX socket, whose files are in the data directory.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Any

from msgspec import structs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.protocol import ClientFactory, Factory, ProcessProtocol, Protocol
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from wsock.config import Config, endpoints
from wsock.edges.listening import bind_shared, check_free
from wsock.errors import ConfigError

__all__ = ["Command", "Kept", "OwnRedis", "Reservation", "Worker", "Workers", "is_worker", "python"]

_MARK = "_WSOCK_WORKER"
_REPORT_FD = 3
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 30.0
_WELL_AFTER_SECONDS = 60.0
_KILL_AFTER_SECONDS = 5.0
_PING_SECONDS = 0.1
_SOCKET_PATH = re.compile(r"[\w./@+-]{1,100}", re.ASCII)  # what fits into a URL and into an address of the system
_SET_PDEATHSIG = 1


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


class Reservation:
    """A reactor that takes ports without listening on them, for the workers to share. ``sockets`` hold them.

    With ``is_exclusive`` a port on which anybody listens is refused, even when he would share it.
    """

    def __init__(self, is_exclusive: bool) -> None:
        self.sockets: list[socket] = []
        self._is_exclusive = is_exclusive

    def listenTCP(self, port: int, factory: Any, backlog: int = 0, interface: str = "") -> None:
        """Takes a port. Raises :class:`CannotListenError`."""
        if self._is_exclusive:
            check_free(port, interface)
        self.sockets.append(bind_shared(port, interface))

    def listenSSL(self, port: int, factory: Any, contextFactory: Any, backlog: int = 0, interface: str = "") -> None:  # noqa: N803
        """Takes a port. Raises :class:`CannotListenError`."""
        self.listenTCP(port, factory, backlog, interface)

    def close(self) -> None:
        """Gives them up."""
        while self.sockets:
            self.sockets.pop().close()


class Workers(Service):
    """The workers as one service, with the same life as a server.

    ``command`` makes a worker's command line from its number, the endpoints and the URL of the workers' own Redis, if
    they have one. Raises :class:`ConfigError` when these settings can't be those of several processes.
    """

    _log = Logger()

    def __init__(
        self,
        config: Config,
        command: Callable[[int, Sequence[str], str | None], Sequence[str]],
        *,
        reactor: Any,
        environ: Mapping[str, str],
    ) -> None:
        if not config.dev and not config.mongo.url:
            raise ConfigError(
                "workers: several processes are a cluster, whose nodes share their apps and keys: give --mongo as well"
                " (or --dev for a try)"
            )
        self._config = config
        self._command = command
        self._reactor = reactor
        self._environ = environ
        self._redis = None if config.redis.urls else OwnRedis(config, reactor=reactor, environ=environ)
        self._reservation = Reservation(is_exclusive=not config.reuse_port)
        self._workers: list[Kept] = []
        self._starting: Deferred[None] | None = None

    def startService(self) -> None:
        """Takes the ports and starts the first worker; see :meth:`started`."""
        super().startService()
        self._starting = Deferred.fromCoroutine(self._start())

    def started(self) -> Deferred[None]:
        """Fires when the first worker serves; fails when it can't, with what an operator must know."""
        waiting: Deferred[None] = Deferred()
        assert self._starting is not None, "the service was not started"
        self._starting.addBoth(waiting.callback)
        return waiting

    async def _start(self) -> None:
        texts = await self._reserve()
        url = await self._redis.start() if self._redis is not None else None
        environment = worker_environment(self._environ)
        for number in range(1, self._config.workers + 1):
            command = Command(
                arguments=self._command(number, texts, url),
                environment=environment,
                descriptors={0: "w", 1: 1, 2: 2, _REPORT_FD: "r"},
            )
            name, is_first = f"worker {number}", number == 1
            self._workers.append(Kept(name, command, self._reactor, must_start=is_first))
        await self._workers[0].start()
        gatherResults([worker.start() for worker in self._workers[1:]]).addCallback(self._all_serve)

    async def _reserve(self) -> list[str]:
        """The endpoints, with the numbers of the ports that were left to the system."""
        texts = []
        config = structs.replace(self._config, reuse_port=False)  # here, the reservation is what shares
        for text, endpoint in zip(config.listen, endpoints(config, self._reservation), strict=True):
            await endpoint.listen(Factory())
            texts.append(_with_port(text, self._reservation.sockets[-1].getsockname()[1]))
        return texts

    def _all_serve(self, _: object) -> None:
        self._log.info("all {count} workers serve", count=len(self._workers))

    def stopService(self) -> Deferred[None]:
        """Drains all workers at once, for a client of one would only come back to the next; then ends Redis."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
        seconds = self._config.shutdown.seconds + _KILL_AFTER_SECONDS
        await gatherResults([worker.stop(_end_its_input, seconds) for worker in self._workers])
        if self._redis is not None:
            await self._redis.stop()
        self._reservation.close()


def _end_its_input(transport: Any) -> None:
    # Not a signal: at a terminal or from a supervisor the worker may have got it already, and two are one too many.
    transport.closeStdin()


def _with_port(text: str, port: int) -> str:
    """The endpoint with this port in the place of 0."""
    return re.sub(r"^((?:haproxy:)?(?:tcp6?|ssl):|.*:port=)(port=)?0(?=:|$)", rf"\g<1>\g<2>{port}", text)


def python(*arguments: str) -> list[str]:
    """A command line of this Python."""
    return [sys.executable, "-P", *arguments]


def worker_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a worker: it imports from where this process does, and shares its ports."""
    kept = {name: value for name, value in environ.items() if not name.startswith("LISTEN_")}
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    return {**kept, "PYTHONPATH": path, "WSOCK_REUSE_PORT": "true", _MARK: "1"}


def is_worker(environ: Mapping[str, str]) -> bool:
    """Whether this process was started by :class:`Workers`."""
    return _MARK in environ


class Worker(Service):
    """A server in a worker: it tells the first process that it serves, and ends with it."""

    def __init__(self, server: Any, reactor: Any, *, input_fd: int = 0, report_fd: int = _REPORT_FD) -> None:
        self._server = server
        self._reactor = reactor
        self._report_fd = report_fd
        self._lifeline = _Lifeline(input_fd, self._end)

    def privilegedStartService(self) -> None:
        """See the server's."""
        super().privilegedStartService()
        self._server.privilegedStartService()

    def startService(self) -> None:
        """Starts the server."""
        super().startService()
        self._reactor.addReader(self._lifeline)
        self._server.startService()

    def started(self) -> Deferred[None]:
        """Fires when the server serves, which the first process is told."""
        started: Deferred[None] = self._server.started()
        return started.addCallback(self._report)

    def stopService(self) -> Deferred[None] | None:
        """Stops the server."""
        super().stopService()
        self._reactor.removeReader(self._lifeline)
        stopping: Deferred[None] | None = self._server.stopService()
        return stopping

    def _report(self, _: object) -> None:
        try:
            os.write(self._report_fd, b"serves\n")
        except BrokenPipeError:
            return  # the first process is gone, which the lifeline tells as well
        os.close(self._report_fd)

    def _end(self) -> None:
        self._reactor.removeReader(self._lifeline)
        try:
            self._reactor.stop()
        except ReactorNotRunning:
            return  # it ends already


@implementer(IReadDescriptor)
class _Lifeline:
    """A pipe on which nothing is said: its end is the message."""

    def __init__(self, fd: int, end: Callable[[], None]) -> None:
        self._fd = fd
        self._end = end

    def fileno(self) -> int:
        """See IFileDescriptor."""
        return self._fd

    def logPrefix(self) -> str:
        """See ILoggingContext."""
        return "lifeline"

    def doRead(self) -> None:  # noqa: N802  # Twisted's name
        """See IReadDescriptor."""
        if not os.read(self._fd, 1024):
            self._end()

    def connectionLost(self, reason: Failure) -> None:  # noqa: N802  # Twisted's name
        """See IFileDescriptor."""
        self._end()


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
        launcher = python("-c", "from wsock.workers import launch; launch()", str(directory / "lock"), str(os.getpid()))
        command = Command(
            arguments=[*launcher, self._program, *_redis_arguments(directory, address, is_kept=not self._config.dev)],
            environment={**self._environ, "PYTHONPATH": worker_environment({})["PYTHONPATH"]},
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
