"""Tests for :mod:`wsock.config`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactor

from tests.base import SynchronousTestCase
from wsock import config as config_module
from wsock.config import Config, describe, endpoints, load, resolve
from wsock.errors import ConfigError


class ConfigCase(SynchronousTestCase):
    """Settings from files, variables and options."""

    def file(self, text: str) -> Path:
        """A settings file."""
        path = Path(self.mktemp()).with_suffix(".toml")
        path.write_text(text)
        return path

    def assert_wrong(self, *words: str, **given: Any) -> None:
        """The settings are refused with a text that has all these words."""
        text = str(self.assertRaises(ConfigError, load, **given))
        for word in words:
            self.assertIn(word, text)


class SourceTests(ConfigCase):
    """Where values come from."""

    def test_defaults(self) -> None:
        """Without anything the defaults stand, and they are what the struct says."""
        self.assertEqual(load(), Config())
        self.assertEqual(load().listen, ("tcp:9001:interface=127.0.0.1",))
        self.assertEqual(set(resolve().sources.values()), {"default"})

    def test_precedence(self) -> None:
        """The command line beats the environment, that the file, that the default."""
        file = self.file('data = "f"\nlog_format = "json"\n[limits]\nmessage_bytes = 1000\nhead_bytes = 2000\n')
        environ = {"WSOCK_DATA": "e", "WSOCK_LIMITS_MESSAGE_BYTES": "1500"}

        resolved = resolve(file=file, environ=environ, options={"data": "o", "listen": None})

        config = resolved.config
        self.assertEqual((config.data, config.log_format), ("o", "json"))
        self.assertEqual((config.limits.message_bytes, config.limits.head_bytes), (1500, 2000))
        self.assertEqual(resolved.sources["data"], "the option --data")
        self.assertIn("WSOCK_LIMITS_MESSAGE_BYTES", resolved.sources["limits.message_bytes"])
        self.assertEqual(resolved.sources["limits.head_bytes"], str(file))
        self.assertEqual(resolved.sources["limits.frame_bytes"], "default")

    def test_types_from_environment(self) -> None:
        """Texts are read as the type of their key; white space separates several."""
        config = load(
            environ={
                "WSOCK_LISTEN": "tcp:1:interface=127.0.0.1  unix:/run/wsock.sock",
                "WSOCK_HISTORY_ENABLED": "False",
                "WSOCK_LIMITS_CONNECTION_RATE": "0.5",
                "WSOCK_SQLITE_SYNCHRONOUS": "normal",
            }
        )

        self.assertEqual(config.listen, ("tcp:1:interface=127.0.0.1", "unix:/run/wsock.sock"))
        self.assertIs(config.history.enabled, False)
        self.assertEqual(config.limits.connection_rate, 0.5)
        self.assertEqual(config.sqlite.synchronous, "normal")

    def test_named_file(self) -> None:
        """``WSOCK_CONFIG`` names the file, and the option beats it."""
        one, two = self.file('data = "one"'), self.file('data = "two"')

        self.assertEqual(load(environ={"WSOCK_CONFIG": str(one)}).data, "one")
        self.assertEqual(load(file=two, environ={"WSOCK_CONFIG": str(one)}).data, "two")

    def test_state_directory(self) -> None:
        """The first directory of systemd is the default for the data, and no more than that."""
        environ = {"STATE_DIRECTORY": "/var/lib/wsock:/var/lib/other"}

        self.assertEqual(load(environ=environ).data, "/var/lib/wsock")
        self.assertEqual(load(environ=environ, options={"data": "x"}).data, "x")

    def test_other_variables(self) -> None:
        """Variables of others and those of tests and benchmarks are left alone."""
        environ = {"HOME": "/", "WSOCK_TEST_REDIS": "x", "WSOCK_BENCH_N": "1", "WSOCK_CI": "1"}

        self.assertEqual(load(environ=environ), Config())


class ErrorTests(ConfigCase):
    """Whatever is wrong is named, with its place and a way out."""

    def test_unknown_key(self) -> None:
        """A key that there isn't is refused, and the near one suggested."""
        file = self.file("[limits]\nmesage_bytes = 1")
        self.assert_wrong("limits.mesage_bytes", str(file), "did you mean limits.message_bytes?", file=file)
        self.assert_wrong("limit", "did you mean limits?", file=self.file("[limit]\nx = 1"))
        self.assert_wrong("did you mean limits.message_bytes?", file=self.file("message_bytes = 1"))
        self.assert_wrong("'wsock config' lists them all", file=self.file("zzz = 1"))

    def test_unknown_variable(self) -> None:
        """A variable that there isn't is refused, and the near one suggested."""
        self.assert_wrong("WSOCK_LISTN", "did you mean WSOCK_LISTEN?", environ={"WSOCK_LISTN": "x"})

    def test_unknown_option(self) -> None:
        """An option that there isn't is refused."""
        self.assert_wrong("--listem", "did you mean listen?", options={"listem": ["x"]})

    def test_wrong_values(self) -> None:
        """A wrong type or a value beyond its bounds is refused with what the key takes."""
        for text, *words in (
            ("dev = 1", "dev", "true or false"),
            ('listen = "tcp:1"', "listen", "a list of texts", "tcp:1"),
            ("listen = []", "listen"),
            ("data = 1", "data", "a text"),
            ('log_format = "xml"', "log_format", "one of text, json", "'xml'"),
            ("limits = 1", "limits", "[limits]"),
            ("[limits]\nmessage_bytes = 0", "limits.message_bytes", "from 1 to 500000", "not 0"),
            ("[limits]\nmessage_bytes = 1.5", "a whole number"),
            ("[limits]\nmessage_bytes = true", "a whole number"),
            ("[limits]\nmessage_bytes = 99999999999999999999", "a whole number"),
            ("[history]\nttl_seconds = nan", "history.ttl_seconds", "a number"),
            ("[history]\nttl_seconds = inf", "a number"),
            ('[sqlite]\nsynchronous = "on"', "one of full, normal"),
        ):
            self.assert_wrong(*words, file=self.file(text))
        for text in ("", "x", "nan", "1e999", "0x10"):
            environ = {"WSOCK_RECOVERY_SECONDS": text}
            self.assert_wrong("recovery.seconds", "WSOCK_RECOVERY_SECONDS", "a number", environ=environ)

    def test_no_secret_in_text(self) -> None:
        """A password in a URL is not repeated."""
        text = str(self.assertRaises(ConfigError, load, environ={"WSOCK_DEV": "redis://me:pw@host"}))

        self.assertNotIn("pw", text)

    def test_files(self) -> None:
        """A file that is missing or no TOML is named."""
        missing = Path(self.mktemp())
        self.assert_wrong(str(missing), "can't be read", file=missing)
        self.assert_wrong("not TOML", file=self.file("= 1"))
        binary = self.file("")
        binary.write_bytes(b"\xff")
        self.assert_wrong("not TOML", file=binary)

    def test_limits_fit_together(self) -> None:
        """What a message may have must fit into a frame and into the output."""
        self.assert_wrong("limits.frame_bytes", "limits.message_bytes", environ={"WSOCK_LIMITS_FRAME_BYTES": "2048"})
        self.assert_wrong("limits.output_bytes", environ={"WSOCK_LIMITS_OUTPUT_BYTES": "4096"})


class DevTests(ConfigCase):
    """``--dev``."""

    def test_loopback(self) -> None:
        """It listens where only this machine comes in."""
        for text in (
            "tcp:0:interface=127.0.0.1",
            "tcp:9001:127.0.0.1",
            "tcp:port=1:interface=localhost",
            "tcp6:1:interface=\\:\\:1",
            "ssl:1:interface=127.0.0.1:privateKey=k.pem",
            "haproxy:tcp:1:interface=127.0.0.2",
            "unix:/tmp/wsock.sock",
        ):
            self.assertTrue(load(options={"dev": True, "listen": [text]}).dev, text)
        self.assertTrue(load(environ={"WSOCK_DEV": "1"}).dev)

    def test_beyond(self) -> None:
        """Anything else is refused, and the text says what to write."""
        for text in (
            "tcp:9001",
            "tcp:9001:interface=0.0.0.0",
            "tcp:9001:interface=192.168.1.1",
            "tcp6:9001",
            "tcp6:9001:interface=\\:\\:",
            "ssl:1:127.0.0.1",
            "haproxy:tcp:1",
            "haproxy:",
            "systemd:domain=INET:index=0",
            "fd:3",
            "",
        ):
            self.assert_wrong("listen", "--dev", "interface=127.0.0.1", options={"dev": True, "listen": [text]})

    def test_no_rates(self) -> None:
        """Rate limits are off, whatever is set; other limits stay."""
        environ = {"WSOCK_LIMITS_CONNECTION_RATE": "5", "WSOCK_LIMITS_CONNECTIONS": "7", "WSOCK_DEV": "true"}

        resolved = resolve(environ=environ)

        self.assertEqual(resolved.config.limits.connection_rate, 0)
        self.assertEqual(resolved.config.limits.connections, 7)
        self.assertIn("--dev", resolved.sources["limits.connection_rate"])

    def test_no_publish_rates(self) -> None:
        """Nor are publishes limited; elsewhere they are as soon as a rate is set, and not before."""
        environ = {"WSOCK_LIMITS_APP_PUBLISH_RATE": "5", "WSOCK_LIMITS_USER_PUBLISH_RATE": "5"}
        unset = load().limits
        self.assertEqual((unset.app_publish_rate, unset.channel_publish_rate, unset.user_publish_rate), (0, 0, 0))
        self.assertEqual((unset.connection_rate, unset.connect_rate_per_ip, unset.rate_mode), (0, 0, "enforce"))
        self.assertEqual(load(environ=environ).limits.app_publish_rate, 5)

        limits = load(environ={**environ, "WSOCK_DEV": "true"}).limits

        self.assertEqual((limits.app_publish_rate, limits.user_publish_rate), (0, 0))
        self.assert_wrong("limits.rate_mode", "enforce", "observe", options={"limits.rate_mode": "off"})


class EndpointTests(ConfigCase):
    """What ``listen`` stands for."""

    def test_endpoints(self) -> None:
        """Each text is an endpoint."""
        config = load(options={"listen": ["tcp:1:interface=127.0.0.1", "unix:/tmp/x"]})

        self.assertEqual(len(endpoints(config, MemoryReactor())), 2)

    def test_shared(self) -> None:
        """With ``reuse_port`` the ports are such as others may listen on too; other endpoints are as they are."""
        reactor = MemoryReactor()
        config = load(options={"listen": ["tcp:0:interface=127.0.0.1", "unix:/x"], "reuse_port": True})
        for endpoint in endpoints(config, reactor):
            endpoint.listen(Factory())

        self.assertEqual(len(reactor.adoptedPorts), 1)
        self.assertEqual((reactor.tcpServers, len(reactor.unixServers)), ([], 1))

    def test_workers(self) -> None:
        """Several workers listen on ports, for nothing else can be shared; the number has its bounds."""
        load(options={"workers": 2, "listen": ["tcp:1", "ssl:2", "haproxy:tcp:3", "tcp6:4"]})
        for listen in ["unix:/x"], ["tcp:1", "haproxy:unix:/x"], ["systemd:domain=INET:index=0"]:
            error = self.assertRaises(ConfigError, load, options={"workers": 2, "listen": listen})
            self.assertIn(f"'{listen[-1]}'", str(error))
        for number in 0, 257, "two":
            error = self.assertRaises(ConfigError, load, options={"workers": number})
            self.assertIn("workers in the option --workers: takes a whole number from 1 to 256", str(error))

    def test_can_not_share(self) -> None:
        """A system that can't share ports has one process."""
        self.patch(config_module, "CAN_SHARE", False)
        for options in {"workers": 2}, {"reuse_port": True}:
            error = self.assertRaises(ConfigError, load, options=options)
            self.assertIn("can't share a port", str(error))

    def test_wrong(self) -> None:
        """A text that is no endpoint is named together with the key."""
        for text in ("9001", "nothing:1", "tcp:http-alt-x", "tcp:1:nothing=2", "ssl:1:privateKey=/missing.pem"):
            config = load(options={"listen": [text]})
            error = self.assertRaises(ConfigError, endpoints, config, MemoryReactor())
            self.assertIn(f"listen: '{text}'", str(error))


class DescribeTests(SynchronousTestCase):
    """What the reference is made from."""

    def test_complete(self) -> None:
        """Every key has a text, a variable of its own, and a default that it takes itself."""
        settings = list(describe())

        self.assertEqual(len({setting.env for setting in settings}), len(settings))
        for setting in settings:
            self.assertTrue(setting.description.endswith("."), setting.key)
            self.assertNotEqual(setting.takes, "")
        keys = [setting.key for setting in settings]
        self.assertEqual(keys[:4], ["dev", "listen", "data", "log_format"])
        self.assertIn("limits.message_bytes", keys)

    def test_defaults_are_valid(self) -> None:
        """Each default may be written out in the environment."""
        environ = {}
        for setting in describe():
            value = setting.default
            environ[setting.env] = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)

        self.assertEqual(load(environ=environ), Config())

    def test_no_reactor(self) -> None:
        """Importing the settings imports no reactor."""
        code = "import sys, wsock.config; sys.exit('twisted.internet.reactor' in sys.modules)"

        self.assertEqual(subprocess.run([sys.executable, "-c", code], check=False).returncode, 0)
