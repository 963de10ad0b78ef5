"""Tests of wsock.backends.redis_link."""

from __future__ import annotations

import datetime
import ipaddress
import subprocess
from pathlib import Path
from typing import Any
from unittest import SkipTest

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.defer import Deferred

from tests.base import SynchronousTestCase
from tests.redis_cases import REACTOR, RedisTestCase
from tests.servers import RedisServer, free_port, redis_binary
from wsock.backends.redis_link import RedisConnection, RedisUrl, Script
from wsock.errors import ConfigError, Unavailable


class UrlTests(SynchronousTestCase):
    """Where a server is."""

    def test_plain(self) -> None:
        """Host, port and database, with their defaults."""
        url = RedisUrl.parse("redis://h")

        self.assertEqual((url.host, url.port, url.database, url.is_tls), ("h", 6379, 0, False))
        self.assertEqual(str(RedisUrl.parse("rediss://[::1]:7000/3")), "rediss://::1:7000/3")

    def test_login(self) -> None:
        """User and password are decoded, and the password is in no text."""
        url = RedisUrl.parse("redis://us%40er:p%2Fa%23ss@h:1/2")

        self.assertEqual((url.username, url.password, url.database), ("us@er", "p/a#ss", 2))
        self.assertNotIn("ss", str(url).replace("rediss", "") + repr(url))
        self.assertEqual(RedisUrl.parse("redis://:word@h").username, None)

    def test_unix(self) -> None:
        """A socket, with a database and a password."""
        url = RedisUrl.parse("unix://:word@/run/redis/r.sock?db=4")

        self.assertEqual((url.path, url.database, url.password), ("/run/redis/r.sock", 4, "word"))
        self.assertEqual(str(url), "unix:///run/redis/r.sock")

    def test_sentinels(self) -> None:
        """Several sentinels, the name of the service, and a database."""
        url = RedisUrl.parse("redis+sentinel://:word@a:1,[::1]:2,c/main/5")

        self.assertEqual(url.sentinels, (("a", 1), ("::1", 2), ("c", 26379)))
        self.assertEqual((url.service, url.database, url.password), ("main", 5, "word"))
        self.assertEqual(RedisUrl.parse("redis+sentinel://a").service, "mymaster")

    def test_errors(self) -> None:
        """What can't be read is a ConfigError that does not show the password, nor does its cause."""
        for text in (
            "http://:secret@h",
            "redis://",
            "redis://:secret@",
            "redis://:secret@h:port",
            "redis://:sec/ret@h:6379/0",
            "redis://:secret@h:99999",
            "redis://:secret@h/one",
            "redis://:secret@h/-1",
            "redis://secret@h",
            "redis://:secret@[::1",
            "unix://:secret@",
            "redis+sentinel://:secret@a:x/m",
            "redis+sentinel://:secret@,/m",
        ):
            with self.subTest(text=text), self.assertRaises(ConfigError) as caught:
                RedisUrl.parse(text)
            shown = f"{caught.exception!r}{caught.exception.__context__!r}{caught.exception.__cause__!r}"
            self.assertNotIn("sec", shown.replace("TLS", ""))
            self.assertIn("redis://[user:password@]host", shown)


class ConnectionTests(RedisTestCase):
    """Connections to real servers."""

    async def connect(self, url: str, **options: Any) -> RedisConnection:
        connection = RedisConnection(RedisUrl.parse(url), REACTOR, **options)
        self.addCleanup(lambda: Deferred.fromCoroutine(connection.stop()))
        connection.start()
        await connection.when_up()
        return connection

    async def assert_refused(self, url: str, text: str) -> None:
        with self.assertRaises(Unavailable) as caught:
            await self.connect(url)
        self.assertIn(text, str(caught.exception))

    async def test_password_user_and_database(self) -> None:
        """It logs in as the user of the URL and works in its database."""
        server = self.redis()
        server.call(b"ACL SETUSER bob on >w/rd ~* &* +@all")
        server.call(b"CONFIG SET requirepass main")
        where = f"127.0.0.1:{server.port}"

        bob = await self.connect(f"redis://bob:w%2Frd@{where}/3")
        main = await self.connect(f"redis://:main@{where}/3")

        self.assertEqual(await bob.call("ACL", "WHOAMI"), b"bob")
        await bob.call("SET", "key", "1")
        self.assertEqual(await main.call("GET", "key"), b"1")
        self.assertIn(b"db=3", await main.call("CLIENT", "LIST"))
        await self.assert_refused(f"redis://bob:wrong@{where}", "WRONGPASS")
        await self.assert_refused(f"redis://{where}", "NOAUTH")
        await self.assert_refused(f"redis://:main@{where}/99", "out of range")

    async def test_unix_socket(self) -> None:
        """It connects to a socket of the file system."""
        path = f"{self.mktemp()[-40:].replace('/', '-')}.sock"
        server = self.redis("--unixsocket", path)

        connection = await self.connect(f"unix://{server.directory / path}?db=2")

        self.assertEqual(await connection.call("PING"), b"PONG")

    async def test_tls(self) -> None:
        """The server's certificate is verified: one of a stranger is refused."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        _certificate(folder)
        port = free_port()
        files = ("--tls-cert-file", f"{folder}/cert.pem", "--tls-key-file", f"{folder}/key.pem")
        try:
            self.redis("--tls-port", str(port), *files, "--tls-ca-cert-file", f"{folder}/cert.pem",
                       "--tls-auth-clients", "no")  # fmt: skip
        except AssertionError as e:
            raise SkipTest(f"{redis_binary()} has no TLS") from e

        connection = await self.connect(f"rediss://127.0.0.1:{port}/1?ssl_ca_certs={folder}/cert.pem")

        self.assertEqual(await connection.call("PING"), b"PONG")
        with self.assertRaises(Unavailable):
            await self.connect(f"rediss://127.0.0.1:{port}")
        with self.assertRaises(ConfigError):
            await self.connect(f"rediss://127.0.0.1:{port}?ssl_ca_certs={folder}/none.pem")

    async def test_sentinel(self) -> None:
        """It follows the master that the sentinels name, also after a failover."""
        master = self.redis()
        replica = self.redis("--replicaof", "127.0.0.1", str(master.port))
        port = self.sentinel(master.port)
        url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{port}/main"
        connection = await self.connect(url, max_delay_seconds=0.2)
        await connection.call("SET", "key", "1")
        self.assertEqual(await connection.call("WAIT", 1, 5000, timeout_seconds=6), 1)
        await self.until(lambda: b"num-slaves\r\n$1\r\n1" in self.ask(port, b"SENTINEL MASTER main"))
        await self.until(lambda: b"master-link-status\r\n$2\r\nok" in self.ask(port, b"SENTINEL REPLICAS main"))

        master.kill()
        await self.until(lambda: not connection.is_up)

        await self.until(lambda: str(replica.port).encode() in self.ask(port, b"SENTINEL GET-MASTER-ADDR-BY-NAME main"))
        await self.until(lambda: connection.is_up)
        self.assertEqual(await connection.call("GET", "key"), b"1")

    def sentinel(self, master: int) -> int:
        port = free_port()
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        (folder / "sentinel.conf").write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\nsentinel monitor main 127.0.0.1 {master} 1\n"
            "sentinel down-after-milliseconds main 300\nsentinel failover-timeout main 1000\n"
        )
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([redis_binary(), f"{folder}/sentinel.conf", "--sentinel"], stdout=log)

        def end() -> None:
            process.kill()
            process.wait()

        self.addCleanup(end)
        return port

    def ask(self, port: int, command: bytes) -> bytes:
        server = RedisServer(lambda port, directory: [], f"redis://127.0.0.1:{port}")
        try:
            return server.call(command)
        except OSError:
            return b""
        finally:
            server.close()

    async def test_master_that_becomes_a_replica(self) -> None:
        """A write that a replica refuses is an outage, and another connection is made."""
        server = self.redis()
        way = await self.proxy(server)
        connection = await self.connect(way.url)
        server.call(b"REPLICAOF 127.0.0.1 1")

        with self.assertRaises(Unavailable):
            await connection.call("SET", "key", "1")

        await self.until(lambda: way.number == 2)

    async def test_answer_that_does_not_come(self) -> None:
        """It fails in time, and so do all commands behind it; the connection is made anew."""
        server = self.redis()
        connection = await self.connect(server.url, timeout_seconds=0.1)
        server.stop()

        waiting = [connection.call("PING") for _ in range(3)]

        for answer in waiting:
            with self.assertRaises(Unavailable):
                await answer
        server.cont()
        await self.until(lambda: not connection.is_up)
        await self.until(lambda: connection.is_up)
        self.assertEqual(await connection.call("PING"), b"PONG")

    async def test_lost_while_it_is_prepared(self) -> None:
        """A connection that is lost before it can be used is tried again."""
        server = self.redis()
        way = await self.proxy(server)
        way.is_closed = True
        connection = RedisConnection(RedisUrl.parse(way.url), REACTOR, scripts=(Script.load("read"),))
        self.addCleanup(lambda: Deferred.fromCoroutine(connection.stop()))
        connection.start()
        with self.assertRaises(Unavailable):
            await connection.when_up()

        way.is_closed = False

        await self.until(lambda: connection.is_up)

    async def test_stop(self) -> None:
        """Stopping ends what waits, at any stage, and nothing is left."""
        server = self.redis()
        for is_stopped in (False, True):
            connection = await self.connect(server.url)
            if is_stopped:
                server.stop()
            waiting = connection.call("BLPOP", "nothing", 0, timeout_seconds=60)

            await connection.stop()

            with self.assertRaises(Unavailable):
                await waiting
            with self.assertRaises(Unavailable):
                await connection.call("PING")
        early = RedisConnection(RedisUrl.parse(server.url), REACTOR)
        early.start()
        up = early.when_up()
        await early.stop()
        with self.assertRaises(Unavailable):
            await up
        server.cont()


def _certificate(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    today = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(today - datetime.timedelta(1)).not_valid_after(today + datetime.timedelta(9))
    certificate = builder.add_extension(address, critical=False).sign(key, hashes.SHA256())
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(*form))
