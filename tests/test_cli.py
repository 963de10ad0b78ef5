"""Tests for :mod:`wsock.cli`."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

from click.testing import CliRunner, Result

from tests.base import SynchronousTestCase
from wsock import __version__, cli
from wsock.backends.sqlite_file import lock


class CliCase(SynchronousTestCase):
    """The command, run in this process with an environment of its own."""

    def setUp(self) -> None:
        for name in [name for name in os.environ if name.startswith(("WSOCK_", "STATE_DIRECTORY"))]:
            self.patch(os, "environ", {k: v for k, v in os.environ.items() if k != name})

    def run_wsock(self, *args: str, **env: str) -> Result:
        """Runs ``wsock`` with these arguments."""
        return CliRunner().invoke(cli.main, args, env=env)

    def free_port(self) -> int:
        """A port of loopback that nobody has."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            return port


class ConfigTests(CliCase):
    """``wsock config``."""

    def test_version(self) -> None:
        """The version is told."""
        self.assertIn(__version__, self.run_wsock("--version").output)

    def test_settings_with_sources(self) -> None:
        """Each effective setting stands on a line, with where it comes from."""
        path = Path(self.mktemp())
        path.write_text("[limits]\nmessage_bytes = 1000\n")

        result = self.run_wsock("config", "--config", str(path), WSOCK_DATA="here")

        self.assertEqual(result.exit_code, 0)
        self.assertIn(f"limits.message_bytes = 1000  # {path}\n", result.output)
        self.assertIn('data = "here"  # the environment variable WSOCK_DATA\n', result.output)
        self.assertIn('listen = ["tcp:9001:interface=127.0.0.1"]  # default\n', result.output)

    def test_json(self) -> None:
        """Programs get an object."""
        shown = json.loads(self.run_wsock("config", "--json").output)

        self.assertEqual(shown["limits.message_bytes"], {"value": 65536, "source": "default"})

    def test_passwords_are_hidden(self) -> None:
        """A password in a URL is not shown."""
        result = self.run_wsock("config", WSOCK_HTTP_CORS_ORIGINS="https://me:pw@x.example")

        self.assertIn("https://...@x.example", result.output)
        self.assertNotIn("pw", result.output)

    def test_master_keys_are_hidden(self) -> None:
        """They are not shown, only that there are some."""
        self.assertIn('vault.keys = ""  # default\n', self.run_wsock("config").output)
        result = self.run_wsock("config", WSOCK_VAULT_KEYS="c2VjcmV0")

        self.assertIn('vault.keys = "..."  # the environment variable WSOCK_VAULT_KEYS\n', result.output)
        self.assertNotIn("c2VjcmV0", result.output)

    def test_wrong(self) -> None:
        """A wrong setting is one line and a failure."""
        result = self.run_wsock("config", WSOCK_DATE="x")

        self.assertEqual(result.exit_code, 1)
        self.assertEqual(len(result.output.splitlines()), 1)
        self.assertIn("did you mean WSOCK_DATA?", result.output)


class BenchTests(CliCase):
    """The options of ``wsock bench``; ``tests/e2e/test_bench.py`` runs it."""

    def test_documented(self) -> None:
        """The reference has each option, and no other."""
        page = (Path(__file__).parent.parent / "docs/reference/bench.md").read_text("utf-8")
        options = {name for option in cli.bench.params for name in option.opts if name.startswith("--")}

        self.assertEqual(set(re.findall(r"^\| `(--[\w-]+)", page, re.MULTILINE)), options)

    def test_wrong_options(self) -> None:
        """Options that exclude each other, and numbers that can't be, are refused with words."""
        both = self.run_wsock("bench", "--window", "3", "--rate", "5")
        self.assertEqual(both.exit_code, 2)
        self.assertIn("--window and --rate exclude each other", both.output)

        for wrong in (
            ["--json", "/nowhere/at/all"],
            ["--rate", "0"],
            ["--subscribers", "0"],
            ["--seconds", "-1"],
            ["--scenario", "x"],
        ):
            self.assertEqual(self.run_wsock("bench", *wrong).exit_code, 2)

    def test_help(self) -> None:
        """Its help names the scenarios, and not the command that only it uses."""
        self.assertIn("connections|latency|fanout|unicast|all", self.run_wsock("bench", "--help").output)
        self.assertNotIn("bench-member", self.run_wsock("--help").output)


class DoctorTests(CliCase):
    """``wsock doctor``."""

    def test_healthy(self) -> None:
        """Where a server can run, nothing fails."""
        self.patch(resource, "getrlimit", lambda which: (1_000_000, 1_000_000))
        environ = {
            "WSOCK_DATA": f"{self.mktemp()}/deeper",
            "WSOCK_LISTEN": f"tcp:{self.free_port()}:interface=127.0.0.1 unix:/run/x",
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
        port = self.free_port()
        self.assertNotIn("data in", self.run_wsock("doctor", "--dev", WSOCK_LISTEN=f"tcp:{port}:127.0.0.1").output)
        self.assertEqual(self.run_wsock("doctor", "--dev", WSOCK_LISTEN="tcp:1").exit_code, 1)

    def test_data(self) -> None:
        """A place that is no directory, and a disk that is full, fail with what to do."""
        path = Path(self.mktemp())
        path.write_text("a file")
        self.assertIn("--data", cli._data_directory(path).text)
        self.assertEqual(cli._data_directory(path / "below").state, "FAIL")
        self.patch(shutil, "disk_usage", lambda path: SimpleNamespace(free=5_000_000))
        self.assertIn("only 4 MiB", cli._data_directory(Path(self.mktemp())).text)

    def test_data_in_use(self) -> None:
        """A directory that a running server has is told from one that it has left."""
        path = Path(self.mktemp())
        path.mkdir()
        self.assertNotIn("in use", cli._data_directory(path).text)
        self.assertEqual([*path.iterdir()], [])
        held = lock(path / "wsock.db")
        self.assertIn("in use by a running server", cli._data_directory(path).text)
        held.close()
        self.assertNotIn("in use", cli._data_directory(path).text)

    def test_open_files(self) -> None:
        """A low limit is a warning, a very low one a failure."""
        states = [cli._open_files(limit).state for limit in (256, 1024, 65_536, resource.RLIM_INFINITY)]

        self.assertEqual(states, ["FAIL", "warn", "ok", "ok"])

    def test_clock(self) -> None:
        """A clock that stands at 1970 fails."""
        self.assertEqual(cli._clock(0).state, "FAIL")
        self.assertEqual(cli._clock(1_800_000_000).state, "ok")

    def test_missing_package(self) -> None:
        """A package that is missing fails."""
        self.patch(cli, "_REQUIREMENTS", ("no-such-distribution-of-wsock",))

        self.assertEqual([f.state for f in cli._versions()], ["ok", "FAIL"])

    def test_port_taken(self) -> None:
        """A port that is taken is fine when a server answers there, and a failure otherwise."""
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]

            alive = cli._port("x", "127.0.0.1", port, lambda host, port: True)
            dead = cli._port("x", "127.0.0.1", port, lambda host, port: False)

        self.assertEqual((alive.state, dead.state), ("ok", "FAIL"))
        self.assertIn("--listen", dead.text)

    def test_port_unusable(self) -> None:
        """An address that is not this machine's, and a port that is none, fail."""
        self.assertEqual(cli._port("x", "192.0.2.1", 9001, lambda host, port: False).state, "FAIL")
        self.assertEqual(cli._port("x", "127.0.0.1", 99_999, lambda host, port: False).state, "FAIL")

    def test_health_of_nobody(self) -> None:
        """Where nobody answers, nobody is alive."""
        self.assertFalse(cli._answers_health("127.0.0.1", self.free_port()))
