"""The server as an operator meets it: how it starts, what it prints, how it ends, and each kind of endpoint."""

from __future__ import annotations

import datetime
import ipaddress
import json
import re
import socket
import ssl
import stat
from collections.abc import Callable
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.e2e.cases import ProgramTestCase
from tests.e2e.node import Node, free_port
from tests.e2e.wire import Closed, over

_WSOCK = "from wsock.cli import main; main()"


class StartTests(ProgramTestCase):
    def test_first_start(self) -> None:
        """Credentials are printed once, on standard error; they open the server and never stand in its log."""
        node = self.node("--log-format", "text", is_dev=False).start()
        assert node.program is not None
        first = node.program
        first.says(r"^API key: .*\n", where="errors")
        printed = re.findall(r"^API key: (\S+)$", first.errors, re.MULTILINE)
        self.assertEqual(printed, [node.key])
        file = node.directory / "data" / "credentials.txt"
        self.assertEqual(stat.S_IMODE(file.stat().st_mode), 0o600)
        self.assertEqual(self.connected(node).rest(), [])
        first.terminate()
        self.assert_graceful(first)

        node.start()

        self.assertEqual(self.connected(node).rest(), [])
        node.program.stop()
        self.assertNotIn("API key", node.program.errors)
        secrets = re.findall(r"(?:key|secret|password):? (\S{16,})$", file.read_text(), re.MULTILINE)
        for secret in (node.key, *secrets):
            self.assertNotIn(secret, first.output + node.program.output)

    def test_secrets_are_encrypted(self) -> None:
        """What is in the database signs nothing without the master key, and without that the server does not start."""
        node = self.node("--log-format", "text", is_dev=False).start()
        assert node.program is not None
        node.program.stop()
        data = node.directory / "data"
        key = data / "master.key"
        self.assertEqual(stat.S_IMODE(key.stat().st_mode), 0o600)
        secret = re.findall(r"^Signing secret: (\S+)$", (data / "credentials.txt").read_text(), re.MULTILINE)[0]
        stored = b"".join(path.read_bytes() for path in data.glob("wsock.db*"))
        self.assertNotIn(secret.encode(), stored)
        self.assertIn(b"sealed:1:", stored)

        key.unlink()

        self.assertIn("vault.keys", self.refused(node))

    def refused(self, node: Node) -> str:
        """What a server that can't start says, in one line, before it exits with a failure."""
        with self.assertRaises(AssertionError):
            node.start()
        assert node.program is not None
        self.assertEqual(node.program.ends(), 1)
        text = node.program.output + node.program.errors
        self.assertNotIn("Traceback", text)
        lines = [line for line in text.splitlines() if "wsocket: " in line or "can't start" in line]
        self.assertEqual(len(lines), 1, text)
        return lines[0]

    def test_busy_port(self) -> None:
        """A port in use ends it with a line that says so."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            node = self.node()
            node.port = taken.getsockname()[1]

            self.assertIn(str(node.port), self.refused(node))

    def test_bad_setting(self) -> None:
        """A setting that is wrong ends it with a line that names it."""
        self.assertIn("limits.mesage_bytes", self.refused(self.node(config="[limits]\nmesage_bytes = 1\n")))
        self.assertIn("message_bytes", self.refused(self.node(config="[limits]\nmessage_bytes = 'x'\n")))

    def test_bad_data_directory(self) -> None:
        """A data directory that can't be one ends it with a line that names it."""
        node = self.node(is_dev=False)
        (node.directory / "data").write_text("a file")

        self.assertIn("data", self.refused(node))

    def test_data_directory_in_use(self) -> None:
        """A second server on one data directory ends with a line that names it; the first goes on."""
        node = self.node(is_dev=False).start()
        second = self.node("--data", str(node.directory / "data"), is_dev=False)

        self.assertIn("data", self.refused(second))
        self.assertEqual(self.connected(node).rest(), [])


class EndTests(ProgramTestCase):
    def ended(self, mode: str) -> BaseException:
        """How a client sees a server end that is told to by SIGTERM; it must do so soon."""
        node = self.node(config=f'[shutdown]\nmode = "{mode}"\n').start()
        assert node.program is not None
        wire = self.connected(node)
        wire.subscribe("c")
        node.program.terminate()
        with self.assertRaises((Closed, ConnectionResetError)) as caught:
            try:
                wire.event()
            finally:
                wire.close()
        self.assert_graceful(node.program)
        return cast(BaseException, caught.exception)

    def test_close(self) -> None:
        """With the mode ``close`` clients are told 1001."""
        ended = self.ended("close")

        assert isinstance(ended, Closed)
        self.assertEqual(ended.code, 1001)

    def test_auto(self) -> None:
        """By default a server that nobody replaces closes as well."""
        ended = self.ended("auto")

        assert isinstance(ended, Closed)
        self.assertEqual(ended.code, 1001)

    def test_reset(self) -> None:
        """With the mode ``reset`` connections end without a close frame, which is what brings SDKs back."""
        self.assertIsInstance(self.ended("reset"), ConnectionResetError)

    def test_keeps_what_was_read(self) -> None:
        """Publishes that a server had got when it was told to end are acknowledged and kept."""
        node = self.node(is_dev=False).start()
        assert node.program is not None
        wire = self.connected(node)
        for number in range(200):
            wire.say(action="publish", channel="c", id=f"k{number}", data=number)
        wire.hear("ack")
        node.program.terminate()
        acked = 1
        try:
            while True:
                wire.hear("ack")
                acked += 1
        except (Closed, OSError):
            wire.close()
        self.assert_graceful(node.program)
        node.start()
        page = self.connected(node).ask("history", action="history", channel="c", limit=1000)
        self.assertGreaterEqual(len(page["messages"]), acked)
        self.assertEqual(acked, 200)


class EndpointTests(ProgramTestCase):
    config = "[limits]\noutput_bytes = 4194304\n"

    def talk(self, connect: Callable[[], socket.socket]) -> None:
        """A client gets 2 MB that it reads only when all are published, so that the server has to wait for it."""
        reader, publisher = over(connect(), key="demo"), over(connect(), key="demo")
        for wire in (reader, publisher):
            self.addCleanup(wire.socket.close)
        reader.subscribe("c")
        texts = [f"{number}-" + "x" * 60_000 for number in range(34)]
        for number, text in enumerate(texts):
            publisher.ask("ack", action="publish", channel="c", id=f"t{number}", data=text)

        self.assertEqual([reader.hear("message")["data"] for _ in texts], texts)
        self.assertEqual(reader.rest(), [])

    def test_unix(self) -> None:
        """A UNIX socket."""
        node = self.node(config=self.config, listen="unix:server.sock").start()

        def connect() -> socket.socket:
            plain = socket.socket(socket.AF_UNIX)
            plain.connect(str(node.directory / "server.sock"))
            return plain

        self.talk(connect)

    def test_tls(self) -> None:
        """TLS; nothing is ever sent in clear: a byte of it would be a bad record, and end the connection."""
        port = free_port()
        listen = f"ssl:{port}:interface=127.0.0.1:privateKey=key.pem:certKey=cert.pem"
        node = self.node(config=self.config, listen=listen)
        _write_certificate(node.directory)
        node.start()
        context = ssl.create_default_context(cafile=node.directory / "cert.pem")

        def connect() -> socket.socket:
            plain = socket.socket()
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            plain.connect(("127.0.0.1", port))
            return context.wrap_socket(plain, server_hostname="127.0.0.1")

        self.talk(connect)


def _write_certificate(directory: Path) -> None:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (directory / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


class CommandTests(ProgramTestCase):
    def test_config(self) -> None:
        """``wsock config`` prints the settings that the server would have, and where each comes from."""
        node = self.node(config="[limits]\nmessage_bytes = 1234\n")
        program = self.run_python("-c", _WSOCK, "config", "--config", "wsock.toml", "--json", cwd=node.directory)

        self.assertEqual(program.ends(), 0, program.errors)
        shown = json.loads(program.output)
        self.assertEqual(shown["limits.message_bytes"], {"value": 1234, "source": "wsock.toml"})
        self.assertEqual(shown["limits.frame_bytes"]["source"], "default")

    def test_doctor(self) -> None:
        """``wsock doctor`` finds a running server, and says what is wrong where it can't run."""
        node = self.node(is_dev=False).start()
        own = f'listen = ["tcp:{node.port}:interface=127.0.0.1"]\ndata = "data"\n'
        (node.directory / "own.toml").write_text(own)
        (node.directory / "bad.toml").write_text('data = "own.toml"\n')

        healthy = self.run_python("-c", _WSOCK, "doctor", "--config", "own.toml", cwd=node.directory)
        self.assertEqual(healthy.ends(), 0, healthy.output)
        self.assertIn("answers /health", healthy.output)
        ill = self.run_python("-c", _WSOCK, "doctor", "--config", "bad.toml", cwd=node.directory)
        self.assertEqual(ill.ends(), 1, ill.output)
        self.assertRegex(ill.output, r"(?m)^FAIL .*own\.toml")
