"""The composition root: how a server starts, what it shows, and how it ends."""

from __future__ import annotations

import gc
import stat
from pathlib import Path
from typing import Any, cast

import msgspec
from twisted.application.service import IService, MultiService
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import CancelledError, Deferred, FirstError, TimeoutError, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.testing import EventLoggingObserver, MemoryReactorClock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.web.resource import IResource
from zope.interface.verify import verifyObject

from tests.base import SynchronousTestCase, TestCase
from tests.vocabulary import Gate, ServerTestCase
from wsock.config import Accounts, Config, Shutdown
from wsock.errors import ConfigError, Refused
from wsock.server import Server, _address
from wsock.testing import InMemoryClient, InMemoryServer, Now

LOCAL = "tcp:0:interface=127.0.0.1"


def cause(error: BaseException | None) -> BaseException | None:
    """What went wrong, where several things were waited for."""
    return cause(error.subFailure.value) if isinstance(error, FirstError) else error


class BusyReactor(MemoryReactorClock):
    """A reactor on which somebody else has the port 9002."""

    def listenTCP(self, port: int, *args: Any, **kwargs: Any) -> Any:  # noqa: N802
        """Refuses that port."""
        if port == 9002:
            raise CannotListenError("127.0.0.1", port, OSError("in use"))
        return super().listenTCP(port, *args, **kwargs)


class StartTests(SynchronousTestCase):
    """A development server over a reactor in memory."""

    def setUp(self) -> None:
        self.reactor = BusyReactor()

    def build(self, *listen: str) -> Server:
        """A server that was not started."""
        config = Config(dev=True, listen=listen or (LOCAL,))
        return Server(config, reactor=self.reactor, now=Now(self.reactor), show=self.fail)

    def connect(self, server: Server) -> InMemoryClient:
        """A client that asks for the readiness over what the port was bound with."""
        client = InMemoryClient(cast(Any, self.reactor), "192.0.2.1")
        factory = self.reactor.tcpServers[0][1]
        protocol: Any = factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 1))
        client.transport.protocol = protocol
        protocol.makeConnection(client.transport)
        client.says_bytes(b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n")
        return client

    def test_start(self) -> None:
        """The port is bound, and then it serves."""
        server = self.build()
        verifyObject(IService, server)

        server.startService()

        self.successResultOf(server.started())
        self.assertEqual([(port, host) for port, _, _, host in self.reactor.tcpServers], [(0, "127.0.0.1")])
        self.assertEqual(self.connect(server).status, 200)

    def test_not_ready_before_the_stores(self) -> None:
        """The port is bound first; until the stores are open it answers 503."""
        server, gate = self.build(), Gate()
        self.patch(server.stores.directory, "add", gate.guard(server.stores.directory.add))
        server.startService()
        started = server.started()
        self.assertNoResult(started)
        self.assertEqual(self.connect(server).status, 503)

        gate.open()

        self.successResultOf(started)
        self.assertEqual(self.connect(server).status, 200)

    def test_privileged(self) -> None:
        """Ports are bound while the process may still bind low ones, and once."""
        server = self.build()
        server.privilegedStartService()
        self.assertEqual(len(self.reactor.tcpServers), 1)

        server.startService()

        self.assertEqual(len(self.reactor.tcpServers), 1)

    def test_busy_port(self) -> None:
        """A port that can't be bound ends the start before anything was created."""
        server = self.build("tcp:9002:interface=127.0.0.1", LOCAL)

        server.startService()

        self.assertIsInstance(cause(self.failureResultOf(server.started()).value), CannotListenError)
        self.assertTrue(self.successResultOf(Deferred.fromCoroutine(server.stores.directory.is_empty())))

    def test_no_endpoint(self) -> None:
        """A text that is no endpoint is found when the server is built."""
        self.assertRaises(ConfigError, self.build, "nonsense")

    def test_embedded(self) -> None:
        """It is a service among others, and publishes and reads in process."""
        parent, server = MultiService(), self.build()
        server.setServiceParent(parent)
        parent.privilegedStartService()
        parent.startService()
        self.successResultOf(server.started())

        receipt = self.successResultOf(server.messages.publish("demo", "news", {"a": 1}))
        stopping = maybeDeferred(parent.stopService)
        self.reactor.pump([0.1] * 30)

        self.assertEqual(receipt.sequence, 1)
        self.successResultOf(stopping)

    def test_resource(self) -> None:
        """Somebody else's site can carry it."""
        verifyObject(IResource, self.build().resource())

    def test_stop_while_starting(self) -> None:
        """A start that still waits is given up."""
        server, gate = self.build(), Gate()
        self.patch(server.stores.directory, "add", gate.guard(server.stores.directory.add))
        server.startService()
        started = server.started()

        stopping = server.stopService()
        self.reactor.pump([0.1] * 30)

        self.failureResultOf(started, CancelledError)
        self.successResultOf(stopping)

    def test_addresses(self) -> None:
        """Addresses are written as people write them."""

        class Port:
            def __init__(self, host: Any) -> None:
                self.getHost = lambda: host

        self.assertEqual(_address(cast(Any, Port(IPv4Address("TCP", "127.0.0.1", 9001)))), "127.0.0.1:9001")
        self.assertEqual(_address(cast(Any, Port(IPv6Address("TCP", "::1", 9001)))), "[::1]:9001")
        self.assertIn("/run/wsock.sock", _address(cast(Any, Port(UNIXAddress("/run/wsock.sock")))))


class StopTests(ServerTestCase):
    def stops(self, server: InMemoryServer) -> InMemoryClient:
        """A client of a server that stopped."""
        client = server.connect()
        server.stop()
        return client

    def set_listen(self, server: InMemoryServer, listen: str) -> None:
        """From now on the server believes to listen there."""
        server.server.config = msgspec.structs.replace(server.server.config, listen=(listen,))

    def test_modes(self) -> None:
        """``reset`` resets, ``close`` says 1001, and ``auto`` says it where nobody takes over."""
        for mode, ending in (("reset", "reset"), ("close", 1001), ("auto", 1001)):
            server = self.serve(Config(shutdown=Shutdown(mode=cast(Any, mode))))
            self.assert_closed(self.stops(server), cast(Any, ending))

    def test_inherited_socket(self) -> None:
        """``auto`` resets where the next process inherits the socket."""
        for listen in ("systemd:domain=INET:index=0", "adopt:fd=3"):
            server = self.serve(Config())
            self.set_listen(server, listen)
            self.assert_closed(self.stops(server), "reset")

    def test_refuses_while_stopping(self) -> None:
        """New clients are refused, in time for a balancer to see it."""
        self.connected()
        stopping = self.server.server.stopService()

        self.assertEqual(self.server.connect().status, 503)
        self.server.advance(3)

        self.successResultOf(stopping)

    def test_a_phase_that_fails(self) -> None:
        """The phases behind it come all the same, and the log says what was left undone."""

        def fails() -> None:
            raise ValueError("a bug")

        stopped: list[bool] = []

        async def stops() -> None:
            stopped.append(True)

        server = self.serve(Config())
        self.patch(server.server._site, "end_connections", fails)
        self.patch(server.server, "_close_stores", stops)
        server.stop()

        self.assertEqual(stopped, [True])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_a_phase_that_does_not_end(self) -> None:
        """It is cut off after ``shutdown.seconds``."""

        async def never(_: int) -> None:
            await Deferred()

        server = self.serve(Config(shutdown=Shutdown(seconds=5, mode="close")))
        self.patch(server.server.gate, "close", never)
        stopping = server.server.stopService()
        server.advance(4)
        self.assertNoResult(stopping)

        server.advance(2)

        self.successResultOf(stopping)
        self.assertEqual(len(self.flushLoggedErrors(TimeoutError)), 1)

    def test_presence_is_given_back(self) -> None:
        """When the server has stopped nothing of its clients is left."""
        server = self.serve(Config(shutdown=Shutdown(mode="reset")))
        client = server.connect(client_id="bob")
        client.says({"action": "presence.enter", "channel": "a"}, {"action": "subscribe", "channel": "a"})

        server.stop()

        self.assertEqual((len(server.server.gate), len(server.server.hub)), (0, 0))


class FirstStartTests(TestCase):
    """A server on a directory, with the real reactor: SQLite and password hashing work in threads."""

    def setUp(self) -> None:
        from twisted.internet import reactor  # noqa: TID251  # trial's own: threads report to it

        self.reactor = reactor
        self.data = Path(self.mktemp()).absolute()
        self.shown: list[str] = []
        self.log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)

    def build(self, listen: str = LOCAL, **settings: Any) -> Server:
        """A server on the directory."""
        config = Config(data=str(self.data), listen=(listen,), **settings)
        return Server(config, reactor=self.reactor, show=self.shown.append)

    async def run_once(self) -> Server:
        """A server that served and ended."""
        server = self.build()
        server.startService()
        await server.started()
        await server.stopService()
        return server

    def secrets(self) -> dict[str, str]:
        """The credentials in the file."""
        lines = (self.data / "credentials.txt").read_text().splitlines()
        return dict(cast(Any, line.split(": ", 1)) for line in lines)

    async def test_credentials(self) -> None:
        """They are shown once, kept in a file of mode 0600, and never logged; the API key opens the door."""
        server = self.build()
        server.startService()
        await server.started()
        self.addCleanup(server.stopService)

        secrets = self.secrets()
        [shown] = self.shown
        self.assertEqual(stat.S_IMODE((self.data / "credentials.txt").stat().st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(self.data.stat().st_mode), 0o700)
        hidden = [secrets["API key"], secrets["Signing secret"], secrets["Account"].rpartition(" ")[2]]
        logged = "\n".join(formatEvent(event) + repr(event) for event in self.log)
        self.assertIn("credentials.txt", logged)
        for secret in hidden:
            self.assertIn(secret, shown)
            self.assertNotIn(secret, logged)
        credential = await server.auth.credential(key=secrets["API key"])
        self.assertEqual(credential.app, secrets["App"])

    async def test_second_start(self) -> None:
        """The second start shows nothing, makes nothing, and knows what the first one made."""
        await self.run_once()
        before = self.secrets()
        server = self.build()
        server.startService()
        await server.started()
        self.addCleanup(server.stopService)

        self.assertEqual((len(self.shown), self.secrets()), (1, before))
        await server.auth.credential(key=before["API key"])

    async def test_credentials_before_ready(self) -> None:
        """They are kept before anything can be entered with them."""
        server, seen = self.build(), []
        self.patch(server, "_show", lambda _: seen.append((server._state_now(), bool(self.secrets()))))
        server.startService()
        await server.started()
        self.addCleanup(server.stopService)

        self.assertEqual(seen, [("starting", True)])
        self.assertEqual(server._state_now(), "ready")

    async def test_credentials_that_can_not_be_written(self) -> None:
        """The start fails with what an operator must know, and nothing was made: the next one makes new ones."""
        self.data.mkdir()
        (self.data / "credentials.txt").mkdir()
        (self.data / "credentials.txt" / "x").touch()
        server = self.build()
        server.startService()

        with self.assertRaises(ConfigError) as raised:
            await server.started()
        await server.stopService()

        self.assertIn("credentials", str(raised.exception))
        self.assertEqual(self.shown, [])
        (self.data / "credentials.txt" / "x").unlink()
        (self.data / "credentials.txt").rmdir()
        await self.run_once()
        self.assertEqual(len(self.shown), 1)

    async def test_busy_port(self) -> None:
        """A port that somebody has ends the start before the directory exists."""
        other = self.build()
        other.startService()
        await other.started()
        self.addCleanup(other.stopService)
        port = other._ports[0].getHost().port  # type: ignore[attr-defined]  # a TCP port
        self.data = Path(self.mktemp()).absolute()
        server = self.build(f"tcp:{port}:interface=127.0.0.1")
        server.startService()

        with self.assertRaises(Exception) as raised:
            await server.started()
        await server.stopService()

        error = cause(raised.exception)
        self.assertIsInstance(error, CannotListenError)
        self.assertIn(str(port), str(error))
        self.assertFalse(self.data.exists())

    async def test_default_plan(self) -> None:
        """A plan for new teams that is not there ends the start, by the name of the setting."""
        server = self.build(accounts=Accounts(default_plan="gold"))
        server.startService()

        with self.assertRaises(ConfigError) as raised:
            await server.started()
        await server.stopService()

        self.assertIn("accounts.default_plan", str(raised.exception))
        self.assertIn("'gold'", str(raised.exception))

    async def test_directory_in_use(self) -> None:
        """A second server on the same directory is refused."""
        first, second = self.build(), self.build()
        first.startService()
        await first.started()
        self.addCleanup(first.stopService)
        second.startService()

        await self.assertFailure(second.started(), ConfigError)
        await second.stopService()

    async def test_messages_survive(self) -> None:
        """What was acknowledged is history after a restart, under the same epoch, and the sequence goes on."""
        server = self.build()
        server.startService()
        await server.started()
        first = await server.messages.publish("app", "news", 1)
        await server.stopService()
        server = self.build()
        server.startService()
        await server.started()
        self.addCleanup(server.stopService)

        second = await server.messages.publish("app", "news", 2)

        self.assertEqual((second.epoch, second.sequence), (first.epoch, 2))

    async def test_not_started(self) -> None:
        """A key of nobody's is refused by a server that was just made."""
        server = self.build()
        server.startService()
        await server.started()
        self.addCleanup(server.stopService)

        await self.assertFailure(Deferred.fromCoroutine(server.auth.credential(key="demo")), Refused)


class UnobservedStartTests(SynchronousTestCase):
    def test_logged(self) -> None:
        """A failed start that nobody asks about is logged."""
        server = Server(Config(dev=True, listen=("tcp:9002:interface=127.0.0.1",)), reactor=BusyReactor())
        server.startService()

        del server
        gc.collect()

        [failure] = self.flushLoggedErrors(CannotListenError, FirstError)
        self.assertIsInstance(cause(failure.value), CannotListenError)
