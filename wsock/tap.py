"""``twistd wsocket``: its options, the service it runs, and how it ends when that can't start.

twistd answers an exception in ``makeService`` or ``startService`` with a traceback, and a usage error with
the whole help text. An operator wants one line that says what to do, and a status that a supervisor takes as
a failure. So a wrong setting ends the process from :func:`makeService`, and :class:`Program` watches the
server start: on a failure it logs one line, stops the reactor in the ordinary way (the PID file goes, the log
is complete), and has the interpreter exit with status 1 at its very end.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO, cast

from twisted.application.service import IService, Service
from twisted.internet.defer import CancelledError, Deferred, FirstError
from twisted.internet.error import CannotListenError
from twisted.logger import (
    FileLogObserver,
    ILogObserver,
    LegacyLogObserverWrapper,
    LogEvent,
    Logger,
    eventAsText,
    textFileLogObserver,
)
from twisted.python.components import Componentized
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile
from twisted.python.usage import Options as UsageOptions
from zope.interface import implementer

from wsock.config import Config, endpoints, load
from wsock.errors import ConfigError, Unavailable
from wsock.kept import python
from wsock.workers import Worker, Workers, is_worker

__all__ = ["Options", "Program", "RedactingObserver", "json_observer", "makeService", "redacted"]

_TWISTD = "from twisted.scripts.twistd import run; run()"

_REDACTIONS = (
    (re.compile(r"(?i)\b((?:api_?)?key|token|resumeToken)=[^&\s\"'<>#;,)]*"), r"\1=[hidden]"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]+"), r"\1 [hidden]"),
    (re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*"), "[hidden]"),
)

_KEPT = ("log_time", "log_level", "log_namespace", "log_system")


class Options(UsageOptions):
    """The command line of ``twistd wsocket``."""

    synopsis = "[options]"
    longdesc = (
        "A realtime messaging server. Every setting has a key in the TOML file and a variable WSOCK_... as well;"
        " 'wsock config' prints them all."
    )
    optFlags = [["dev", None, "In memory, with the well-known app 'demo'; loopback only. Never in production."]]
    optParameters = [
        ["config", "c", None, "The TOML file with the settings (default: the variable WSOCK_CONFIG)."],
        [
            "data",
            "d",
            None,
            "The directory of the embedded store (default: $STATE_DIRECTORY or ./wsock-data).",
        ],
        ["mongo", None, None, "The URL of the MongoDB of a cluster."],
        ["workers", None, None, "How many processes share the ports, as nodes of one cluster (default: 1)."],
        ["log-format", None, None, "'text' or 'json' (default: text)."],
    ]

    def __init__(self) -> None:
        super().__init__()
        self["listen"] = []
        self["redis"] = []

    def opt_redis(self, url: str) -> None:
        """The URL of a Redis server: this node is one of a cluster. May be repeated: channels are spread over them."""
        self["redis"].append(url)

    def opt_listen(self, endpoint: str) -> None:
        """An endpoint to listen on, such as tcp:9001:interface=127.0.0.1; may be repeated."""
        self["listen"].append(endpoint)

    opt_l = opt_listen

    def settings(self) -> dict[str, Any]:
        """What was given, as :func:`wsock.config.load` takes it."""
        workers = self["workers"]
        return {
            "dev": True if self["dev"] else None,
            "listen": self["listen"] or None,
            "data": self["data"],
            "log_format": self["log-format"],
            "redis.urls": self["redis"] or None,
            "mongo.url": self["mongo"],
            "workers": int(workers) if workers and workers.isdecimal() else workers,
        }

    def worker(self, number: int, listen: Sequence[str], redis: str | None) -> list[str]:
        """The command line of a worker: these options with other endpoints and, when given, with this Redis."""
        arguments = ["--workers", "1", *(["--dev"] if self["dev"] else [])]
        config = self["config"] or os.environ.get("WSOCK_CONFIG")
        given = {name: self[name] for name in ("data", "mongo", "log-format")}
        given["config"] = os.path.abspath(config) if config else None
        for name, value in given.items():
            arguments += [f"--{name}", value] if value else []
        for url in [redis] if redis else self["redis"]:
            arguments += ["--redis", url]
        for endpoint in listen:
            arguments += ["--listen", endpoint]
        return [*python("-c", _TWISTD), *_twistd_arguments(self.parent, number), "wsocket", *arguments]


def makeService(options: Options) -> IService:
    """The server as twistd runs it. Ends the process with one line and status 1 when a setting is wrong."""
    from twisted.internet import reactor

    try:
        config = _load(options, reactor)
        server = _workers(config, options, reactor) if config.workers > 1 else _server(config, reactor)
    except ConfigError as e:
        raise SystemExit(f"wsocket: {e}") from e
    return Program(server, reactor, _log_observer(config, options.parent), when_up=_spare_the_collector)


def _load(options: Options, reactor: Any) -> Config:
    file = options["config"]
    config = load(file=Path(file) if file else None, environ=os.environ, options=options.settings())
    endpoints(config, reactor)  # said now, on the terminal, rather than by a daemon in its log
    return config


def _server(config: Config, reactor: Any) -> Any:
    from wsock.server import Server  # with all that a server needs: not for the list of twistd's plugins

    server = Server(config, reactor=reactor)
    return Worker(server, reactor) if is_worker(os.environ) else server


def _workers(config: Config, options: Options, reactor: Any) -> Workers:
    return Workers(config, options.worker, reactor=reactor, environ=os.environ)


def _twistd_arguments(twistd: Any, number: int) -> list[str]:
    """What of twistd's own options a worker needs; the rest it inherits. Where there is a log file it has its own."""
    given: dict[str, Any] = dict(twistd or {})
    arguments = ["--nodaemon", "--pidfile="]
    if given.get("reactor"):
        arguments += ["--reactor", given["reactor"]]
    file = _log_path(given)
    if given.get("syslog"):
        arguments += ["--syslog", "--prefix", given["prefix"]]
    elif file is not None:
        arguments += ["--logfile", f"{file}-{number}"]
    return arguments


@implementer(IService)
class Program(Service):
    """A server whose failed start ends the process with status 1.

    ``server`` is an :class:`IService` whose ``started()`` returns a Deferred that fires when it serves, and
    fails otherwise. Its ``stopService`` is called in both cases. ``when_up`` is called once it serves.
    """

    _log = Logger()

    def __init__(
        self,
        server: Any,
        reactor: Any,
        observer: ILogObserver,
        at_exit: Callable[[Callable[[], None]], object] = atexit.register,
        when_up: Callable[[], None] = lambda: None,
    ) -> None:
        self.server = server
        self._reactor = reactor
        self._observer = observer
        self._at_exit = at_exit
        self._when_up = when_up
        self._has_failed = False

    def setServiceParent(self, parent: Any) -> None:
        """Joins the application and gives it the log observer, which twistd asks for before it starts."""
        if isinstance(parent, Componentized) and parent.getComponent(ILogObserver, None) is None:
            parent.setComponent(ILogObserver, self._observer)
        super().setServiceParent(parent)

    def privilegedStartService(self) -> None:
        """Passes on what has to be done before privileges are shed."""
        super().privilegedStartService()
        self._attempt(self.server.privilegedStartService)

    def startService(self) -> None:
        """Starts the server; a failure, now or later, ends the process."""
        super().startService()
        if not self._has_failed and self._attempt(self.server.startService):
            self.server.started().addCallbacks(lambda _: self._when_up(), self._failed)

    def stopService(self) -> Deferred[None] | None:
        """Stops the server, which fires when it has ended."""
        super().stopService()
        return cast("Deferred[None] | None", self.server.stopService())

    def _attempt(self, start: Callable[[], None]) -> bool:
        try:
            start()
        except Exception:  # an edge: whatever it is, it must end the process and not be a traceback of twistd's
            self._failed(Failure())
            return False
        return True

    def _failed(self, failure: Failure) -> None:
        if failure.check(CancelledError) and not self.running:
            return  # stopped before it had started
        self._has_failed = True
        while isinstance(failure.value, FirstError):
            failure = failure.value.subFailure
        if failure.check(ConfigError, Unavailable, CannotListenError, OSError):
            self._log.critical("wsocket can't start: {reason}", reason=failure.getErrorMessage())
        else:
            self._log.failure("wsocket can't start: this is a bug, please report it", failure=failure)
        self._at_exit(_exit_as_failed)
        self._reactor.callWhenRunning(self._stop)

    def _stop(self) -> None:
        if self._reactor.running:
            self._reactor.stop()


def _spare_the_collector() -> None:
    """What is there by now stays: the garbage collector need not look at it again, and less often at the rest.

    A full collection of what Python and Twisted have loaded stops everything for 50 ms, and next to nothing of the
    server's garbage is in cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def _exit_as_failed() -> None:
    """Ends the process with status 1 when all is done: twistd itself has no way to set one."""
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            stream.flush()
    os._exit(1)


def redacted(text: str) -> str:
    """The text without the values of ``key=`` and ``token=``, bearer credentials, and JWTs."""
    for pattern, replacement in _REDACTIONS:
        text = pattern.sub(replacement, text)
    return text


@implementer(ILogObserver)
class RedactingObserver:
    """Passes events on as redacted text, tracebacks included; no other field of an event gets through."""

    def __init__(self, observer: Callable[[LogEvent], None]) -> None:
        self._observer = observer

    def __call__(self, event: LogEvent) -> None:
        """Observes an event."""
        kept: LogEvent = {name: event[name] for name in _KEPT if name in event}
        text = redacted(eventAsText(event, includeTimestamp=False, includeSystem=False))
        self._observer({**kept, "log_format": "{log_text}", "log_text": text})


def json_observer(file: TextIO) -> FileLogObserver:
    """Writes a JSON object a line: ``time``, ``level``, ``namespace``, ``text``, and the event's plain fields."""
    return FileLogObserver(file, _json_line)


def _json_line(event: LogEvent) -> str | None:
    text = redacted(eventAsText(event, includeTimestamp=False, includeSystem=False))
    if not text:
        return None
    level = event.get("log_level")
    line = {
        "time": datetime.fromtimestamp(event.get("log_time", 0.0), UTC).isoformat(timespec="milliseconds"),
        "level": level.name if level is not None else "info",
        "namespace": event.get("log_namespace", ""),
        "text": text,
    }
    fields = {
        name: redacted(value) if isinstance(value, str) else value
        for name, value in event.items()
        if not name.startswith("log_") and name not in line and isinstance(value, (str, int, float, bool))
    }
    return json.dumps(line | fields) + "\n"


def _log_observer(config: Config, twistd: Any) -> ILogObserver:
    """Writes where twistd's own observer would: by its ``--logfile``, ``--nodaemon`` and ``--syslog``."""
    given: dict[str, Any] = dict(twistd or {})
    if given.get("syslog") and config.log_format == "text":
        from twisted.python.syslog import SyslogObserver

        legacy = SyslogObserver(given["prefix"])
        return cast(ILogObserver, RedactingObserver(LegacyLogObserverWrapper(cast(Any, legacy.emit))))
    file = _log_file(given)
    if config.log_format == "json":
        return cast(ILogObserver, json_observer(file))
    return cast(ILogObserver, RedactingObserver(textFileLogObserver(file)))


def _log_file(given: dict[str, Any]) -> TextIO:
    path = _log_path(given)
    return sys.stdout if path is None else cast(TextIO, LogFile.fromFullPath(path))


def _log_path(given: dict[str, Any]) -> str | None:
    """The file to log to; ``None`` stands for the standard output."""
    name: str | None = given.get("logfile")
    if name == "-" or (not name and given.get("nodaemon", True)):
        return None
    return name or "twistd.log"
