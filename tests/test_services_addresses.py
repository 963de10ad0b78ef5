"""Tests for :mod:`wsock.services.addresses`."""

from __future__ import annotations

from threading import Event
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IResolutionReceiver
from twisted.internet.threads import deferToThread
from zope.interface.verify import verifyObject

from tests.base import SynchronousTestCase, TestCase
from wsock.services.addresses import Guard, Lookup, is_public, resolve_with, split_url

PUBLIC = "93.184.216.34"

NOT_PUBLIC = (
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "127.1.2.3",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "192.168.0.1",
    "192.88.99.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "fd00::1",
    "ff02::1",
    "ff0e::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:168.63.129.16",
    "2002:7f00:1::",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "2001:db8::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:0:5db8:d822:8000:63bf:3fff:fdd2",
    "3fff::1",
    "5f00::1",
)


class AddressTests(SynchronousTestCase):
    """What is public, also within another address."""

    def test_public(self) -> None:
        """Addresses of the Internet, and those through which they are reached."""
        for address in (PUBLIC, "8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8", "2002:808:808::1"):
            self.assertTrue(is_public(address), address)

    def test_not_public(self) -> None:
        """Networks of one's own, the cloud's metadata, groups, and what leads to them by another notation."""
        for address in NOT_PUBLIC:
            self.assertFalse(is_public(address), address)


class GuardTests(SynchronousTestCase):
    """What an operator allows besides."""

    def refusal(self, guard: Guard, url: str) -> str | None:
        """Of the text of a URL."""
        parts = split_url(url)
        assert parts is not None, url
        return guard.refusal_of_url(parts)

    def test_any_bad_address_refuses_the_name(self) -> None:
        """A public address beside another one makes it no better; the refusal tells which, and the setting."""
        guard = Guard("webhooks.allowed_hosts")

        self.assertIsNone(guard.refusal_of("a.example", [PUBLIC, "2606:4700::1111"]))
        for addresses in ([PUBLIC, "10.0.0.1"], ["10.0.0.1", PUBLIC]):
            refusal = guard.refusal_of("a.example", addresses)
            assert refusal is not None
            self.assertIn("10.0.0.1", refusal)
            self.assertIn("webhooks.allowed_hosts", refusal)

    def test_names(self) -> None:
        """A name that is listed may have any address; one that only ends like it may not."""
        guard = Guard("x", ["Hooks.Intern"])

        self.assertIsNone(guard.refusal_of("hooks.intern", ["10.0.0.1"]))
        self.assertIsNone(guard.refusal_of("hOOks.intern.", ["10.0.0.1"]))
        for host in ("evil.hooks.intern", "hooks.intern.evil", "intern"):
            self.assertIsNotNone(guard.refusal_of(host, ["10.0.0.1"]))

    def test_networks(self) -> None:
        """Addresses and networks are listed as such, and hold for every name."""
        guard = Guard("x", ["10.1.0.0/16", "192.168.0.7", "fd00::/8"])

        for address in ("10.1.2.3", "192.168.0.7", "fd00::1"):
            self.assertIsNone(guard.refusal_of("a.example", [address]), address)
        for address in ("10.2.0.1", "192.168.0.8", "fe80::1", "::ffff:10.1.2.3"):
            self.assertIsNotNone(guard.refusal_of("a.example", [address]), address)

    def test_plain_http(self) -> None:
        """HTTPS is needed but for this machine in development, and what is listed where that may do without."""
        for guard, url in (
            (Guard("x", ["hooks.intern", "10.0.0.0/8"]), "http://hooks.intern/"),
            (Guard("x", ["hooks.intern"], allows_http=True), "http://a.example/"),
            (Guard("x", ["10.0.0.0/8"], allows_http=True), "http://11.0.0.1/"),
            (Guard("x", allows_loopback=True), "http://a.example/"),
            (Guard("x"), "http://localhost/"),
        ):
            self.assertIn("https://", self.refusal(guard, url) or "", url)
        for guard, url in (
            (Guard("x", ["hooks.intern"], allows_http=True), "http://hooks.intern:8080/"),
            (Guard("x", ["10.0.0.0/8"], allows_http=True), "http://10.0.0.1/"),
            (Guard("x", allows_loopback=True), "http://localhost:9/"),
            (Guard("x", allows_loopback=True), "http://127.0.0.1:9/"),
            (Guard("x", allows_loopback=True), "http://[::1]:9/"),
        ):
            self.assertIsNone(self.refusal(guard, url), url)

    def test_literal_addresses(self) -> None:
        """An address in a URL is looked at when the URL is given already."""
        guard = Guard("x")

        self.assertIsNone(self.refusal(guard, f"https://{PUBLIC}/"))
        for url in ("https://127.0.0.1/", "https://169.254.169.254/latest", "https://[::ffff:10.0.0.1]/"):
            self.assertIn("not public", self.refusal(guard, url) or "", url)

    def test_loopback_only_in_development(self) -> None:
        """Development allows this machine, not the network around it."""
        guard = Guard("x", allows_loopback=True)

        self.assertIsNone(guard.refusal_of("localhost", ["127.0.0.1", "::1"]))
        self.assertIsNotNone(guard.refusal_of("localhost", ["127.0.0.1", "10.0.0.1"]))
        self.assertIsNotNone(guard.refusal_of("localhost", ["169.254.169.254"]))


class UrlTests(SynchronousTestCase):
    """Which URLs can be asked at all."""

    def test_taken(self) -> None:
        """A host, and perhaps a port, a path and a query."""
        for url in ("https://a.example/b?c=d", "https://a.example:444", "http://[2606:4700::1]/"):
            self.assertIsNotNone(split_url(url), url)

    def test_refused(self) -> None:
        """All else."""
        for url in (
            "",
            "a.example",
            "//a.example/",
            "ftp://a.example/",
            "file:///etc/passwd",
            "https://",
            "https:///x",
            "https://user@a.example/",
            "https://user:word@a.example/",
            "https://a.example/#x",
            "https://a.example:0/",
            "https://a.example:99999/",
            "https://a.example:x/",
            "https://a.exa mple/",
            "https://a.example\\@b.example/",
            "https://a.example/\r\nX: y",
            "https://id\u00e9.example/",
            "https://[::1/",
            "https://\u2460\u2461\u2466.0.0.1/",
            f"https://a.example/{'x' * 2048}",
        ):
            self.assertIsNone(split_url(url), url)


class ResolverTests(SynchronousTestCase):
    """Looking hosts up as the reactor does."""

    def test_addresses(self) -> None:
        """Each address is told once, in the order in which they came."""

        class Reactor:
            """Knows one host."""

            @property
            def nameResolver(self) -> Any:  # noqa: N802
                """See IReactorPluggableNameResolver."""
                return self

            def resolveHostName(self, receiver: Any, host: str, port: int) -> None:  # noqa: N802
                """See IHostnameResolver."""
                verifyObject(IResolutionReceiver, receiver)
                receiver.resolutionBegan(None)
                for address in (
                    IPv4Address("TCP", PUBLIC, port),
                    IPv6Address("TCP", "::1", port),
                    IPv4Address("TCP", PUBLIC, port),
                ):
                    receiver.addressResolved(address)
                receiver.resolutionComplete()

        looking: Any = resolve_with(Reactor())("id.example", 443)
        resolved: Deferred[Any] = Deferred.fromCoroutine(looking)

        self.assertEqual(self.successResultOf(resolved), [PUBLIC, "::1"])


class LookupTests(TestCase):
    """Threads of its own, with the system's resolver."""

    def lookup(self, threads: int = 2) -> Lookup:
        """One that is stopped at the end."""
        from twisted.internet import reactor  # noqa: TID251  # trial's own: it has the threads

        lookup = Lookup(reactor, threads)
        self.addCleanup(lookup.stop)
        return lookup

    async def test_numbers_in_disguise(self) -> None:
        """What the system takes for an address of this machine is found out as that."""
        lookup = self.lookup()

        for host in ("127.1", "2130706433", "0x7f000001", "0177.0.0.1", "localhost"):
            addresses = await lookup(host, 443)
            self.assertTrue(addresses, host)
            self.assertIsNotNone(Guard("x").refusal_of(host, addresses), host)

    async def test_literal(self) -> None:
        """An address is its own, and needs no thread."""
        self.assertEqual(await self.lookup()("2606:4700::1", 443), ["2606:4700::1"])

    async def test_again_after_a_stop(self) -> None:
        """One that was stopped begins anew when it is asked."""
        lookup = self.lookup()
        await lookup("127.1", 1)
        lookup.stop()
        lookup.stop()

        self.assertEqual(await lookup("127.1", 1), ["127.0.0.1"])

    async def test_slow_names_hold_up_nobody_else(self) -> None:
        """Names whose server does not answer leave the reactor's threads alone."""
        from twisted.internet import reactor  # noqa: TID251  # trial's own: it has the threads

        lookup: Any = self.lookup(threads=2)
        slow = Event()

        def blocked(*_: Any) -> list[Any]:
            slow.wait(10)
            return []

        lookup._resolver._getaddrinfo = blocked
        waiting = [Deferred.fromCoroutine(lookup(f"{n}.example", 1)) for n in range(30)]

        self.assertEqual(await deferToThread(lambda: "at once"), "at once")

        self.assertFalse(any(one.called for one in waiting))
        slow.set()
        await gatherResults(waiting)
        del reactor
