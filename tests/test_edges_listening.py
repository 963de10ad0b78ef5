"""What listening sockets are set to."""

from __future__ import annotations

import socket
from types import SimpleNamespace

from tests.base import SynchronousTestCase
from wsock.edges.listening import tune_listener


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
