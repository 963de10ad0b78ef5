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

import os
import re
from collections.abc import Callable, Mapping, Sequence
from socket import socket
from typing import Any

from msgspec import structs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from wsock.config import Config, endpoints
from wsock.edges.listening import bind_shared, check_free
from wsock.errors import ConfigError
from wsock.kept import Command, Kept, importing_alike
from wsock.own_redis import OwnRedis

__all__ = ["Reservation", "Worker", "Workers", "is_worker", "worker_environment"]

_MARK = "_WSOCK_WORKER"
_REPORT_FD = 3
_KILL_AFTER_SECONDS = 5.0


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


def worker_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a worker: it imports from where this process does, and shares its ports."""
    kept = {name: value for name, value in environ.items() if not name.startswith("LISTEN_")}
    return {**importing_alike(kept), "WSOCK_REUSE_PORT": "true", _MARK: "1"}


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
