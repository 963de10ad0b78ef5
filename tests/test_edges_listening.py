"""What listening sockets are set to."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.internet import reactor as real_reactor  # noqa: TID251  # these ports are the system's own
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol

from tests.base import SynchronousTestCase, TestCase
from wsock.edges.listening import SharedPorts, bind_shared, check_free, tune_listener


class TuneListenerTests(SynchronousTestCase):
    def listener(self, family: int, address: object) -> socket.socket:
        """A bound socket."""
        listener = socket.socket(family, socket.SOCK_STREAM)
        self.addCleanup(listener.close)
        listener.bind(address)  # type: ignore[arg-type]
        tune_listener(SimpleNamespace(socket=listener))
        return listener

    def test_dead_peers_are_found(self) -> None:
        """An idle peer that is dead is found within 60 s, and unacknowledged data as well."""
        listener = self.listener(socket.AF_INET, ("127.0.0.1", 0))

        def option(name: str) -> int:
            return listener.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))

        self.assertTrue(listener.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
        self.assertTrue(option("TCP_NODELAY"))
        if hasattr(socket, "TCP_KEEPIDLE"):
            silence = option("TCP_KEEPIDLE") + option("TCP_KEEPINTVL") * option("TCP_KEEPCNT")
            self.assertLessEqual(silence, 60)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            self.assertLessEqual(option("TCP_USER_TIMEOUT"), 60_000)

    def test_accepted_sockets_inherit(self) -> None:
        """What is accepted needs no setting of its own."""
        listener = self.listener(socket.AF_INET, ("127.0.0.1", 0))
        client = socket.create_connection(listener.getsockname())
        self.addCleanup(client.close)
        accepted, _ = listener.accept()
        self.addCleanup(accepted.close)

        self.assertTrue(accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
        self.assertTrue(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    def test_unix_socket(self) -> None:
        """A UNIX socket has none of these options, and needs none."""
        listener = self.listener(socket.AF_UNIX, self.mktemp()[-100:].replace("/", "_"))

        self.assertFalse(listener.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))

    def test_no_socket(self) -> None:
        """A port without a socket of its own is left alone."""
        tune_listener(SimpleNamespace())
        tune_listener(SimpleNamespace(socket="wrapped"))


class Greeter(Protocol):
    """Says who accepted."""

    def connectionMade(self) -> None:
        """Greets and ends."""
        assert self.transport is not None
        self.transport.write(b"hello")
        self.transport.loseConnection()


class SharedPortsTests(TestCase):
    """Ports that several processes listen on."""

    async def listening(self, text: str) -> Any:
        """A port that listens at this endpoint, and shares it."""
        endpoint = serverFromString(SharedPorts(real_reactor), text)
        port: IListeningPort = await endpoint.listen(Factory.forProtocol(Greeter))
        self.addCleanup(port.stopListening)
        return port

    async def assert_shared(self, kind: str, interface: str, loopback: str) -> None:
        """Two may listen on one port."""
        first = await self.listening(f"{kind}:0:interface={interface}")
        address = first.getHost()
        second = await self.listening(f"{kind}:{address.port}:interface={interface}")

        self.assertEqual((second.getHost(), address.host), (address, loopback))
        for port in first, second:
            self.assertTrue(port.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))
            self.assertFalse(port.socket.get_inheritable())
            tune_listener(port)

    async def test_ipv4(self) -> None:
        """Two listen on one port of IPv4."""
        await self.assert_shared("tcp", "127.0.0.1", "127.0.0.1")

    async def test_ipv6(self) -> None:
        """Two listen on one port of IPv6."""
        await self.assert_shared("tcp", "\\:\\:1", "::1")
        await self.assert_shared("tcp6", "\\:\\:1", "::1")

    async def test_haproxy(self) -> None:
        """So they do behind a proxy that says who is calling."""
        await self.assert_shared("haproxy:tcp", "127.0.0.1", "127.0.0.1")

    async def test_not_with_others(self) -> None:
        """Nobody listens there who does not share it, and none shares the port of one who does not."""
        port = await self.listening("tcp:0:interface=127.0.0.1")
        number = port.getHost().port
        plain = serverFromString(real_reactor, f"tcp:{number}:interface=127.0.0.1")
        await self.assertFailure(plain.listen(Factory()), CannotListenError)
        self.assertRaises(CannotListenError, check_free, number, "127.0.0.1")

        with socket.create_server(("127.0.0.1", 0)) as alone:
            text = f"tcp:{alone.getsockname()[1]}:interface=127.0.0.1"
            await self.assertFailure(
                serverFromString(SharedPorts(real_reactor), text).listen(Factory()), CannotListenError
            )

    async def test_unix(self) -> None:
        """A UNIX socket is what it always is."""
        path = Path(self.mktemp()[-60:].replace("/", "_"))
        port = await self.listening(f"unix:{path}")

        self.assertEqual(Path(port.getHost().name.decode()).name, path.name)


class BindTests(SynchronousTestCase):
    """Taking a port without listening on it."""

    def test_bound(self) -> None:
        """Nobody is answered there, others may share it, and to who looks for listeners it is free."""
        with bind_shared(0, "127.0.0.1") as bound:
            number = bound.getsockname()[1]
            self.assertRaises(ConnectionRefusedError, socket.create_connection, ("127.0.0.1", number))
            self.assertFalse(bound.getblocking())
            bind_shared(number, "127.0.0.1").close()
            check_free(number, "127.0.0.1")

    def test_no_such_address(self) -> None:
        """An address that this machine does not have is named."""
        for interface in "192.0.2.1", "2001:db8::1":
            error = self.assertRaises(CannotListenError, bind_shared, 0, interface)
            self.assertIn(interface, str(error))
