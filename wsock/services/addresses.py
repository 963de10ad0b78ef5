"""Which addresses the server may be sent to by somebody else's choice.

Whoever may name a URL for the server to use could have it ask its own network: the cloud's metadata, a database's
port, the neighbour's admin page. So a host is looked up once, every address that it has must be a public one, and the
connection is made to the very address that was looked at: a name that tells another one the second time gains nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from threading import Thread
from typing import Any
from urllib.parse import SplitResult, urlsplit

from twisted.internet._resolver import GAIResolver
from twisted.internet.address import IPv4Address as IPv4Place
from twisted.internet.address import IPv6Address as IPv6Place
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHostResolution, IResolutionReceiver
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

__all__ = ["Guard", "Lookup", "Resolve", "is_public", "resolve_with", "split_url"]

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a host, of which connections go to that port."""

_MAX_URL = 2048
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_NOT_PUBLIC = (
    # Azure's agent answers at a public address from within; what the registries keep for themselves; 6to4's relays.
    IPv4Network("168.63.129.16/32"),
    IPv4Network("192.88.99.0/24"),
    IPv6Network("3fff::/20"),
    IPv6Network("5f00::/16"),
)


class Guard:
    """What may be connected to: public addresses by HTTPS, and what the operator lists besides.

    ``allowed`` has hosts, addresses and networks (``10.0.0.0/8``); with ``allows_http`` those need no HTTPS. With
    ``allows_loopback`` this machine may be connected to, by HTTP too. ``setting`` is the one that an operator lists
    them in, for refusals.
    """

    def __init__(
        self,
        setting: str,
        allowed: Iterable[str] = (),
        *,
        allows_http: bool = False,
        allows_loopback: bool = False,
    ) -> None:
        self._setting = setting
        networks, names = [], set()
        for text in allowed:
            try:
                networks.append(ip_network(text.strip("[]"), strict=False))
            except ValueError:
                names.add(text.lower().rstrip("."))
        self._networks: tuple[IPv4Network | IPv6Network, ...] = tuple(networks)
        self._names = frozenset(names)
        self._allows_http = allows_http
        self._allows_loopback = allows_loopback

    def refusal_of_url(self, parts: SplitResult) -> str | None:
        """Why the URL is not used, as far as its text tells; ``None`` where it may be."""
        host = parts.hostname or ""
        address = _address(host)
        is_literal = address is not None
        if parts.scheme != "https" and not self._may_be_plain(host):
            return "the URL has to begin with https://"
        if is_literal and (reason := self.refusal_of(host, [host])):
            return reason
        return None

    def refusal_of(self, host: str, addresses: Sequence[str]) -> str | None:
        """Why the host, which has these addresses, is not connected to; ``None`` where it may be."""
        if _name(host) in self._names:
            return None
        for text in addresses:
            if not (is_public(text) or self._is_listed(text)):
                return (
                    f"the host {host} has the address {text}, which is not public; the operator may allow it in"
                    f" {self._setting}"
                )
        return None

    def _may_be_plain(self, host: str) -> bool:
        if self._allows_loopback and (_name(host) == "localhost" or _is_loopback(host)):
            return True
        return self._allows_http and (_name(host) in self._names or self._is_in_network(host))

    def _is_listed(self, text: str) -> bool:
        return (self._allows_loopback and _is_loopback(text)) or self._is_in_network(text)

    def _is_in_network(self, text: str) -> bool:
        address = _address(text)
        return address is not None and any(address in network for network in self._networks)


class Lookup:
    """Looks hosts up in threads of its own: slow names hold up nobody who waits for a thread of the reactor."""

    def __init__(self, reactor: Any, threads: int = 10) -> None:
        self._pool = ThreadPool(0, threads, "wsock-lookup")
        self._pool.threadFactory = _Thread  # type: ignore[assignment]  # a pool gives it these two arguments
        self._is_started = False
        self._resolver = GAIResolver(reactor, lambda: self._pool)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """The addresses of a host."""
        if _address(host) is not None:
            return [host]
        if not self._is_started:
            self._is_started = True
            self._pool.start()
        return await _addresses_from(self._resolver, host, port)

    def stop(self) -> None:
        """Ends the threads that wait; one that looks something up ends with the process."""
        if self._is_started:
            self._is_started = False
            for _ in range(self._pool.workers):
                self._pool.stopAWorker()


class _Thread(Thread):
    """A thread that doesn't hold up a process which ends."""

    def __init__(self, *, target: Callable[[], object], name: str) -> None:
        super().__init__(target=target, name=name, daemon=True)


def resolve_with(reactor: Any) -> Resolve:
    """Looks hosts up as the reactor does."""

    async def resolve(host: str, port: int) -> Sequence[str]:
        return await _addresses_from(reactor.nameResolver, host, port)

    return resolve


async def _addresses_from(resolver: Any, host: str, port: int) -> Sequence[str]:
    receiver = _Addresses()
    resolver.resolveHostName(receiver, host, port)
    return await receiver.done


@implementer(IResolutionReceiver)
class _Addresses:
    def __init__(self) -> None:
        self.done: Deferred[Sequence[str]] = Deferred()
        self._found: list[str] = []

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:  # noqa: N802, N803
        """Twisted's hook."""

    def addressResolved(self, address: Any) -> None:  # noqa: N802
        """Twisted's hook."""
        if isinstance(address, IPv4Place | IPv6Place):
            self._found.append(address.host)

    def resolutionComplete(self) -> None:  # noqa: N802
        """Twisted's hook."""
        if not self.done.called:
            self.done.callback(list(dict.fromkeys(self._found)))


def split_url(url: str) -> SplitResult | None:
    """The parts of a URL that can be asked at all: ``http(s)://host/path``, in ASCII, without user and fragment."""
    if not url.isascii() or not url.isprintable() or " " in url or len(url) > _MAX_URL:
        return None
    try:
        parts = urlsplit(url)
        is_good = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    if not is_good or parts.scheme not in ("http", "https") or "@" in parts.netloc or "#" in url or "\\" in url:
        return None
    return parts


def is_public(text: str) -> bool:
    """Whether the address is one of the public Internet, also where it holds another one that is connected to."""
    address: IPv4Address | IPv6Address = ip_address(text)
    if isinstance(address, IPv6Address):
        inner = _inside(address)
        if inner is None:
            return address in _GLOBAL_UNICAST and address.is_global and not _is_kept(address)
        address = inner
    return address.is_global and not address.is_multicast and not _is_kept(address)


def _is_kept(address: IPv4Address | IPv6Address) -> bool:
    return any(address in network for network in _NOT_PUBLIC)


def _inside(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that is reached through this one (RFC 4291 §2.5.5.2, RFC 3056, RFC 6052)."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _is_loopback(text: str) -> bool:
    address = _address(text)
    return address is not None and address.is_loopback


def _name(host: str) -> str:
    return host.lower().rstrip(".")
