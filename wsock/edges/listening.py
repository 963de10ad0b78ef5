"""The listening sockets: what they are set to, and how several processes share one port.

Accepted sockets inherit what the listening one is set to, so a connection costs no system call for it.
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.abstract import isIPv6Address
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory

__all__ = ["CAN_SHARE", "SharedPorts", "bind_shared", "check_free", "tune_listener"]

CAN_SHARE = hasattr(socket, "SO_REUSEPORT")
_BACKLOG = 4096
_IDLE_SECONDS, _INTERVAL_SECONDS, _PROBES = 20, 10, 3
_UNACKNOWLEDGED_MS = 45_000


def tune_listener(port: Any) -> None:
    """Lets many connect at once, and finds a dead peer within 60 s whether anything is sent to it or not."""
    listener = getattr(port, "socket", None)
    if not isinstance(listener, socket.socket):
        return
    listener.listen(_BACKLOG)
    if listener.family not in (socket.AF_INET, socket.AF_INET6):
        return
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _IDLE_SECONDS),
        ("TCP_KEEPINTVL", _INTERVAL_SECONDS),
        ("TCP_KEEPCNT", _PROBES),
        ("TCP_USER_TIMEOUT", _UNACKNOWLEDGED_MS),
    ):
        if hasattr(socket, name):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class SharedPorts:
    """A reactor whose TCP and TLS ports other processes of the same user may listen on as well.

    The system spreads connections over all that listen. Endpoints made for it work as they always do: Twisted's own
    have no word for ``SO_REUSEPORT``. UNIX sockets and sockets that are handed over are as with any reactor.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(
        self, port: int, factory: IProtocolFactory, backlog: int = _BACKLOG, interface: str = ""
    ) -> IListeningPort:
        """Listens on a TCP port. Raises :class:`CannotListenError`."""
        with bind_shared(port, interface) as listener:
            listener.listen(max(backlog, _BACKLOG))
            listening: IListeningPort = self._reactor.adoptStreamPort(listener.fileno(), listener.family, factory)
        return listening

    def listenSSL(
        self,
        port: int,
        factory: IProtocolFactory,
        contextFactory: Any,  # noqa: N803  # Twisted's name, by which it is given
        backlog: int = _BACKLOG,
        interface: str = "",
    ) -> IListeningPort:
        """Listens on a TCP port for TLS. Raises :class:`CannotListenError`."""
        from twisted.protocols.tls import TLSMemoryBIOFactory  # needs pyOpenSSL, which an 'ssl:' endpoint has found

        return self.listenTCP(port, TLSMemoryBIOFactory(contextFactory, False, factory), backlog, interface)


def bind_shared(port: int, interface: str) -> socket.socket:
    """A socket that is bound to the port, which others may share, and does not listen.

    As long as it is open, the system gives the port to nobody who leaves the choice to it. Raises
    :class:`CannotListenError`.
    """
    bound = _bind(port, interface, (socket.SO_REUSEADDR, socket.SO_REUSEPORT))
    bound.setblocking(False)
    return bound


def check_free(port: int, interface: str) -> None:
    """Raises :class:`CannotListenError` when anybody listens there, even one who shares the port."""
    _bind(port, interface, (socket.SO_REUSEADDR,)).close()


def _bind(port: int, interface: str, options: tuple[int, ...]) -> socket.socket:
    family = socket.AF_INET6 if isIPv6Address(interface) else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        for option in options:
            bound.setsockopt(socket.SOL_SOCKET, option, 1)
        bound.bind(_address(port, interface, family))
    except OSError as e:
        bound.close()
        raise CannotListenError(interface, port, e) from e
    return bound


def _address(port: int, interface: str, family: int) -> Any:
    if family == socket.AF_INET:
        return interface, port
    # The system's own form of an address of IPv6 has the number of the link behind a '%'.
    return socket.getaddrinfo(interface, port, family, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)[0][4]
