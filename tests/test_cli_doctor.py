"""Tests for :mod:`wsock.cli.doctor`."""

from __future__ import annotations

import json
import resource
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

from tests.cli_cases import CliCase, ScriptedServer
from wsock import __version__
from wsock.backends.sqlite_file import lock
from wsock.cli import doctor
from wsock.cli.remote import Surroundings


def free_port() -> int:
    """A port of loopback that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class DoctorTests(CliCase):
    """``wsock doctor``."""

    def test_healthy(self) -> None:
        """Where a server can run, nothing fails."""
        self.patch(resource, "getrlimit", lambda which: (1_000_000, 1_000_000))
        environ = {
            "WSOCK_DATA": f"{self.mktemp()}/deeper",
            "WSOCK_LISTEN": f"tcp:{free_port()}:interface=127.0.0.1 unix:/run/x",
        }

        result = self.run_wsock("doctor", **environ)

        self.assertEqual(result.exit_code, 0, result.output)
        for word in (
            "versions: Twisted",
            "clock",
            "open files",
            "settings: valid",
            "writable",
            ": free",
            "not checked",
        ):
            self.assertIn(word, result.output)

    def test_wrong_settings(self) -> None:
        """Wrong settings fail, and what depends on them is not looked at."""
        result = self.run_wsock("doctor", WSOCK_DATE="x")

        self.assertEqual(result.exit_code, 1)
        self.assertIn("FAIL  settings: ", result.output)
        self.assertNotIn("listen on", result.output)

    def test_dev(self) -> None:
        """``--dev`` keeps no data, and has its own rules for listening."""
        port = free_port()
        self.assertNotIn("data in", self.run_wsock("doctor", "--dev", WSOCK_LISTEN=f"tcp:{port}:127.0.0.1").output)
        self.assertEqual(self.run_wsock("doctor", "--dev", WSOCK_LISTEN="tcp:1").exit_code, 1)

    def test_data(self) -> None:
        """A place that is no directory, and a disk that is full, fail with what to do."""
        path = Path(self.mktemp())
        path.write_text("a file")
        self.assertIn("--data", doctor._data_directory(path).text)
        self.assertEqual(doctor._data_directory(path / "below").state, "FAIL")
        self.patch(shutil, "disk_usage", lambda path: SimpleNamespace(free=5_000_000))
        self.assertIn("only 4 MiB", doctor._data_directory(Path(self.mktemp())).text)

    def test_data_in_use(self) -> None:
        """A directory that a running server has is told from one that it has left."""
        path = Path(self.mktemp())
        path.mkdir()
        self.assertNotIn("in use", doctor._data_directory(path).text)
        self.assertEqual([*path.iterdir()], [])
        held = lock(path / "wsock.db")
        self.assertIn("in use by a running server", doctor._data_directory(path).text)
        held.close()
        self.assertNotIn("in use", doctor._data_directory(path).text)

    def test_open_files(self) -> None:
        """A low limit is a warning, a very low one a failure."""
        states = [doctor._open_files(limit).state for limit in (256, 1024, 65_536, resource.RLIM_INFINITY)]

        self.assertEqual(states, ["FAIL", "warn", "ok", "ok"])

    def test_clock(self) -> None:
        """A clock that stands at 1970 fails."""
        self.assertEqual(doctor._clock(0).state, "FAIL")
        self.assertEqual(doctor._clock(1_800_000_000).state, "ok")

    def test_missing_package(self) -> None:
        """A package that is missing fails."""
        self.patch(doctor, "_REQUIREMENTS", ("no-such-distribution-of-wsock",))

        self.assertEqual([f.state for f in doctor._versions()], ["ok", "FAIL"])

    def test_port_taken(self) -> None:
        """A port that is taken is fine when a server answers there, and a failure otherwise."""
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]

            alive = doctor._port("x", "127.0.0.1", port, lambda host, port: True)
            dead = doctor._port("x", "127.0.0.1", port, lambda host, port: False)

        self.assertEqual((alive.state, dead.state), ("ok", "FAIL"))
        self.assertIn("--listen", dead.text)

    def test_port_unusable(self) -> None:
        """An address that is not this machine's, and a port that is none, fail."""
        self.assertEqual(doctor._port("x", "192.0.2.1", 9001, lambda host, port: False).state, "FAIL")
        self.assertEqual(doctor._port("x", "127.0.0.1", 99_999, lambda host, port: False).state, "FAIL")

    def test_health_of_nobody(self) -> None:
        """Where nobody answers, nobody is alive."""
        self.assertFalse(doctor._answers_health("127.0.0.1", free_port()))

    def test_json(self) -> None:
        """Programs get the findings as a list."""
        found = json.loads(self.run_wsock("doctor", "--dev", "--json", WSOCK_LISTEN=f"tcp:{free_port()}").stdout)

        self.assertEqual({"state", "subject", "text"}, set(found["items"][0]))


class RunningServerTests(CliCase):
    """``wsock doctor --url``."""

    def setUp(self) -> None:
        super().setUp()
        self.server = ScriptedServer()

    def check(self) -> tuple[int, str]:
        """The status and what is printed."""
        surroundings = Surroundings(open_transport=self.server.open)
        result = self.run_wsock("doctor", "--url", "https://server.example", obj=surroundings)
        return result.exit_code, result.output

    def test_ready(self) -> None:
        """A server that serves, in the version of the command."""
        self.server.answers("GET", "/ready", {"status": "ready"})
        self.server.answers("GET", "/api/openapi.json", {"info": {"version": __version__}})

        status, text = self.check()

        self.assertEqual(status, 0, text)
        self.assertIn("ok    server at https://server.example: ready", text)
        self.assertIn(f"ok    version of https://server.example: {__version__}", text)

    def test_not_ready(self) -> None:
        """One that does not serve is a failure, with its own words."""
        self.server.answers("GET", "/ready", {"status": "unavailable", "error": "a store is away"}, 503)
        self.server.answers("GET", "/api/openapi.json", {"info": {"version": "99"}})

        status, text = self.check()

        self.assertEqual(status, 1)
        self.assertIn("FAIL  server at https://server.example: unavailable: a store is away", text)
        self.assertIn("warn  version of https://server.example: 99, and this command is", text)

    def test_without_version(self) -> None:
        """A version that is not told is a warning."""
        self.server.answers("GET", "/ready", {"status": "ready"})
        self.server.answers("GET", "/api/openapi.json", b"<html>", 404)

        status, text = self.check()

        self.assertEqual(status, 0)
        self.assertIn("warn  version", text)

    def test_something_else(self) -> None:
        """What is no wsock counts as one that can't be reached."""
        self.server.answers("GET", "/ready", b"<html>")

        status, text = self.check()

        self.assertEqual(status, 3)
        self.assertIn("is no wsock", text)
