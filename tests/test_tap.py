"""Tests for :mod:`wsock.tap`."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

from twisted.application.service import Application, IService, Service
from twisted.internet.defer import CancelledError, Deferred, fail, gatherResults, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactor
from twisted.logger import FileLogObserver, ILogObserver, Logger, LogPublisher, textFileLogObserver
from twisted.python.failure import Failure
from twisted.python.usage import UsageError
from twisted.scripts.twistd import ServerOptions  # type: ignore[attr-defined]  # made on import, for the system
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.base import SynchronousTestCase
from wsock import tap
from wsock.config import load
from wsock.errors import ConfigError

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"


@implementer(IService)
class ScriptedServer(Service):
    """A server that starts as it is told to."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.raises: Exception | None = None
        self.when_started: Deferred[None] = Deferred()
        self.when_stopped: Deferred[None] = Deferred()

    def privilegedStartService(self) -> None:
        """See IService."""
        self.calls.append("privileged")

    def startService(self) -> None:
        """See IService."""
        self.calls.append("start")
        if self.raises is not None:
            raise self.raises

    def stopService(self) -> Deferred[None]:
        """See IService."""
        self.calls.append("stop")
        return self.when_stopped

    def started(self) -> Deferred[None]:
        """Fires when it serves."""
        return self.when_started


class ProgramTests(SynchronousTestCase):
    """The start of the server, and the end of the process when it fails."""

    def setUp(self) -> None:
        self.server = ScriptedServer()
        self.reactor = MemoryReactor()
        self.reactor.running = False
        self.stops: list[bool] = []
        self.reactor.stop = lambda: self.stops.append(True)  # type: ignore[method-assign]  # it only sets a flag
        self.exits: list[Callable[[], None]] = []
        observer = FileLogObserver(io.StringIO(), str)
        self.ups: list[str] = []
        self.program = tap.Program(
            self.server, self.reactor, observer, self.exits.append, when_up=lambda: self.ups.append("up")
        )

    def run_reactor(self) -> None:
        """What ``reactor.run()`` does first."""
        self.reactor.running = self.reactor.hasRun = True
        for hook, args, kwargs in self.reactor.whenRunningHooks:
            hook(*args, **kwargs)

    def test_interface(self) -> None:
        """It is a service."""
        verifyObject(IService, self.program)

    def test_success(self) -> None:
        """A server that starts runs on."""
        self.program.privilegedStartService()
        self.program.startService()
        self.assertEqual(self.ups, [])
        self.server.when_started.callback(None)
        self.run_reactor()

        self.assertEqual((self.server.calls, self.ups), (["privileged", "start"], ["up"]))
        self.assertEqual((self.stops, self.exits), ([], []))

    def test_stop(self) -> None:
        """Stopping waits for the server."""
        self.program.startService()

        self.assertIs(self.program.stopService(), self.server.when_stopped)

    def test_stopped_before_started(self) -> None:
        """A start that is given up because of a signal is no failure."""
        self.program.startService()
        self.program.stopService()

        self.server.when_started.errback(Failure(CancelledError()))

        self.assertEqual((self.stops, self.exits), ([], []))

    def test_fails_at_once(self) -> None:
        """A start that raises stops the reactor as soon as it runs, with a failure for the caller of the process."""
        self.server.raises = ConfigError("data: '/x' can't be written")

        self.program.startService()
        self.assertEqual(self.stops, [])
        self.run_reactor()

        self.assertEqual((self.stops, len(self.exits)), ([True], 1))

    def test_fails_later(self) -> None:
        """So does one that fails when the reactor runs."""
        self.program.startService()
        self.run_reactor()

        error = CannotListenError("127.0.0.1", 9001, OSError(98, "Address already in use"))
        several = gatherResults([fail(error)], consumeErrors=True)
        several.addErrback(self.server.when_started.errback)

        self.assertEqual((self.stops, len(self.exits)), ([True], 1))

    def test_privileged_failure(self) -> None:
        """After a failure with privileges the server is not started without them."""

        def fail() -> None:
            raise PermissionError(13, "Permission denied")

        self.server.privilegedStartService = fail  # type: ignore[method-assign]  # the fault

        self.program.privilegedStartService()
        self.program.startService()

        self.assertEqual((self.server.calls, len(self.exits)), ([], 1))

    def test_bug(self) -> None:
        """An error that nobody foresaw is logged with its traceback, and ends the process too."""
        self.program.startService()
        self.server.when_started.errback(KeyError("x"))
        self.run_reactor()

        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertEqual((self.stops, len(self.exits)), ([True], 1))

    def test_log_observer(self) -> None:
        """The observer is where twistd looks for it; one that is there already stays."""
        application = Application("x")
        self.program.setServiceParent(application)
        self.assertIs(application.getComponent(ILogObserver), self.program._observer)

        other = FileLogObserver(io.StringIO(), str)
        application = Application("x")
        application.setComponent(ILogObserver, other)
        tap.Program(self.server, self.reactor, self.program._observer).setServiceParent(application)
        self.assertIs(application.getComponent(ILogObserver), other)


class OptionTests(SynchronousTestCase):
    """The command line."""

    def settings(self, *args: str) -> dict[str, object]:
        """What these arguments set."""
        options = tap.Options()
        options.parseOptions(list(args))
        return {name: value for name, value in options.settings().items() if value is not None}

    def test_none(self) -> None:
        """Without options nothing is set, so that file and environment count."""
        self.assertEqual(self.settings(), {})

    def test_all(self) -> None:
        """Each option sets its key; ``--listen`` may be repeated."""
        given = self.settings(
            "--dev", "-l", "unix:/a", "--listen", "unix:/b", "--data", "d", "--log-format", "json", "-c", "f"
        )

        self.assertEqual(given, {"dev": True, "listen": ["unix:/a", "unix:/b"], "data": "d", "log_format": "json"})
        self.assertTrue(load(options=given).dev)

    def test_workers(self) -> None:
        """The number is read where it is one; what else was written is the settings' to refuse."""
        self.assertEqual(self.settings("--workers", "3"), {"workers": 3})
        self.assertEqual(self.settings("--workers", "x"), {"workers": "x"})

    def worker(self, *args: str, redis: str | None = None) -> list[str]:
        """What follows Python and its program on the command line of the second worker."""
        twistd = ServerOptions()
        twistd.parseOptions(["--logfile", "/log", "wsocket", *args])
        options = cast(tap.Options, twistd.subOptions)
        return options.worker(2, ["tcp:7"], redis)[4:]

    def test_worker(self) -> None:
        """A worker has the options of the first process, but other endpoints, and a log of its own."""
        words = self.worker("--dev", "--listen", "tcp:0", "--workers", "4", "-c", "f", "--redis", "redis://a")

        self.assertEqual(words[:5], ["--nodaemon", "--pidfile=", "--logfile", "/log-2", "wsocket"])
        options = tap.Options()
        options.parseOptions(words[5:])
        given = {name: value for name, value in options.settings().items() if value is not None}
        self.assertEqual(given, {"dev": True, "listen": ["tcp:7"], "redis.urls": ["redis://a"], "workers": 1})
        self.assertEqual(options["config"], os.path.abspath("f"))

    def test_worker_with_redis(self) -> None:
        """The workers' own Redis is handed to them."""
        words = self.worker("--mongo", "mongodb://m/d", "--data", "d", redis="unix:///r")

        self.assertEqual(words[words.index("--redis") + 1], "unix:///r")
        self.assertEqual((words[words.index("--mongo") + 1], words[words.index("--data") + 1]), ("mongodb://m/d", "d"))

    def test_worker_of_twistd(self) -> None:
        """Of twistd's own options it gets those that are not inherited."""
        self.assertEqual(tap._twistd_arguments(None, 1), ["--nodaemon", "--pidfile="])
        self.assertEqual(
            tap._twistd_arguments({"reactor": "poll", "syslog": True, "prefix": "ws", "nodaemon": False}, 1)[2:],
            ["--reactor", "poll", "--syslog", "--prefix", "ws"],
        )
        self.assertEqual(tap._twistd_arguments({"nodaemon": False}, 1)[2:], ["--logfile", "twistd.log-1"])

    def test_wrong(self) -> None:
        """What is no option is twistd's usage error."""
        self.assertRaises(UsageError, self.settings, "--lisen", "x")


class MakeServiceTests(SynchronousTestCase):
    """Wrong settings end the process with one line."""

    def test_wrong_settings(self) -> None:
        """The line names the setting; no traceback and no help text is shown."""
        for args, word in (
            (["--listen", "nonsense"], "listen: 'nonsense'"),
            (["--config", "/missing/wsock.toml"], "/missing/wsock.toml"),
            (["--dev", "--listen", "tcp:1"], "--dev"),
            (["--log-format", "xml"], "log_format"),
            (["--workers", "2"], "--mongo"),
        ):
            options = tap.Options()
            options.parseOptions(args)
            end = self.assertRaises(SystemExit, tap.makeService, options)
            self.assertIn(word, str(end.code))
            self.assertEqual(len(str(end.code).splitlines()), 1)


class LogTests(SynchronousTestCase):
    """What stands in the log, and what never does."""

    def log(self, observer_of: Callable[[io.StringIO], ILogObserver]) -> tuple[Logger, io.StringIO]:
        """A logger that writes to a file in memory."""
        file = io.StringIO()
        return Logger("wsock.test", observer=LogPublisher(observer_of(file))), file

    def test_redacted(self) -> None:
        """Neither keys nor tokens get through, in whatever form."""
        for text in (
            "GET /ws?key=SECRET&x=1 HTTP/1.1",
            "GET /?a=b&token=SECRET HTTP/1.1",
            "wss://h/?KEY=SECRET",
            "Authorization: Bearer SECRET",
            f"bad {JWT}SECRET",
            "api_key='SECRET'".replace("'", ""),
        ):
            self.assertNotIn("SECRET", tap.redacted(text), text)
            self.assertIn("[hidden]", tap.redacted(text))
        self.assertEqual(tap.redacted("channel monkey=1 of 2"), "channel monkey=1 of 2")
        self.assertIn("&x=1 HTTP/1.1", tap.redacted("GET /ws?key=S&x=1 HTTP/1.1"))

    def test_text(self) -> None:
        """Lines keep level and namespace, and tracebacks are redacted as well."""
        log, file = self.log(lambda file: tap.RedactingObserver(textFileLogObserver(file)))

        log.info("connect {url}", url="/?key=SECRET")
        try:
            raise ValueError("/?token=SECRET")
        except ValueError:
            log.failure("failed")

        text = file.getvalue()
        self.assertIn("[wsock.test#info] connect /?key=[hidden]\n", text)
        self.assertIn("ValueError: /?token=[hidden]", text)
        self.assertNotIn("SECRET", text)

    def test_json(self) -> None:
        """Each event is one line, an object with the plain fields of the event."""
        log, file = self.log(tap.json_observer)

        log.info("{channel} at {url}", channel="news", url="/?key=SECRET", count=3, thing=object())
        try:
            raise ValueError("/?token=SECRET\nsecond line")
        except ValueError:
            log.failure("failed")

        first, second = map(json.loads, file.getvalue().splitlines())
        self.assertEqual((first["level"], first["namespace"]), ("info", "wsock.test"))
        self.assertEqual((first["channel"], first["count"]), ("news", 3))
        self.assertEqual(first["text"], "news at /?key=[hidden]")
        self.assertNotIn("thing", first)
        self.assertRegex(first["time"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00$")
        self.assertIn("Traceback", second["text"])
        self.assertNotIn("SECRET", file.getvalue())

    def test_nothing_to_say(self) -> None:
        """An event without a text is no line."""
        self.assertIsNone(tap._json_line({"log_format": ""}))

    def test_file(self) -> None:
        """The log goes where twistd's options say."""
        path = Path(self.mktemp()).absolute()
        for log_format in ("text", "json"):
            config = load(options={"log_format": log_format})
            observer = tap._log_observer(config, {"logfile": str(path), "nodaemon": True})
            Logger("wsock.test", observer=LogPublisher(observer)).info(f"as {log_format}")

        self.assertIn("as text", path.read_text())
        self.assertIn('"text": "as json"', path.read_text())

    def test_syslog(self) -> None:
        """With ``--syslog`` it goes there, redacted."""
        observer = tap._log_observer(load(), {"syslog": True, "prefix": "wsock"})

        self.assertIsInstance(observer, tap.RedactingObserver)

    def test_started(self) -> None:
        """A Deferred that has fired already is fine as ``started()``."""
        server = ScriptedServer()
        server.when_started = succeed(None)
        tap.Program(server, MemoryReactor(), FileLogObserver(io.StringIO(), str)).startService()

        self.assertEqual(server.calls, ["start"])
