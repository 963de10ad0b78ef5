"""Tests for :mod:`wsock.services.outgoing`, on a network that is not there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure

from tests.base import SynchronousTestCase
from wsock.interfaces import Blocked, NotSent, Reply
from wsock.services.addresses import Guard
from wsock.services.outgoing import Outgoing

PUBLIC = "93.184.216.34"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Transport(StringTransport):
    """One that can be cut off, and tells how."""

    is_aborted = False
    is_stopped = False

    def abortConnection(self) -> None:  # noqa: N802
        """See ITCPTransport."""
        self.is_aborted = True

    def stopProducing(self) -> None:  # noqa: N802
        """See IPushProducer."""
        self.is_stopped = True


class Peer:
    """A server's side of a connection."""

    def __init__(self, client: Any) -> None:
        self.transport = Transport()
        self.protocol = client.buildProtocol(None)
        self.protocol.makeConnection(self.transport)

    def takes(self) -> bytes:
        """What was sent since the last time."""
        data: bytes = self.transport.value()
        self.transport.clear()
        return data

    def sends(self, data: bytes) -> None:
        """It sends this."""
        self.protocol.dataReceived(data)

    def closes(self, reason: type[Exception] = ConnectionDone) -> None:
        """The connection is lost."""
        self.protocol.connectionLost(Failure(reason()))


class OutgoingCase(SynchronousTestCase):
    """A client; ``addresses`` are those of every host."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.addresses: Sequence[str] = [PUBLIC]
        self.asked: list[tuple[str, int]] = []
        self.guard = Guard("webhooks.allowed_hosts", ["hooks.intern"], allows_http=True)
        self.outgoing = self.make()

    def make(self, **settings: Any) -> Outgoing:
        """A client with these settings."""
        return Outgoing(self.reactor, self.guard, resolve=self.resolve, **settings)

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Whatever the host."""
        self.asked.append((host, port))
        return self.addresses

    def post(self, url: str = "http://hooks.intern/a?b=c", body: bytes = b"{}", **how: Any) -> Deferred[Reply]:
        """Begins to post; what is still under way when the test ends is given up."""
        asked = self.outgoing.post(url, {"X-Own": "1", **how.pop("headers", {})}, body, **how)
        posting: Deferred[Reply] = Deferred.fromCoroutine(asked)
        self.addCleanup(self.give_up, posting)
        return posting

    def give_up(self, posting: Deferred[Reply]) -> None:
        """Who waits must go first: a place that is let go of wakes the next one."""
        posting.addErrback(lambda _: None).cancel()

    def peer(self, number: int = -1) -> Peer:
        """The other side of a connection that is being made."""
        return Peer(self.reactor.tcpClients[number][2])

    @property
    def connected_to(self) -> list[tuple[str, int]]:
        """The addresses that a connection was made to."""
        return [(client[0], client[1]) for client in self.reactor.tcpClients]

    def refusal(self, posting: Deferred[Reply]) -> str:
        """Why it was blocked."""
        return str(self.failureResultOf(posting, Blocked).value.reason)

    def reason(self, posting: Deferred[Reply]) -> str:
        """Why there was no answer."""
        return str(self.failureResultOf(posting, NotSent).value.reason)


class ExchangeTests(OutgoingCase):
    """A request and its answer."""

    def test_request(self) -> None:
        """The path is asked for, of the host, with the headers and the body, and nothing packed is wanted."""
        posting = self.post(headers={"Content-Type": "application/json"})
        peer = self.peer()
        head, _, body = peer.takes().partition(b"\r\n\r\n")

        self.assertTrue(head.startswith(b"POST /a?b=c HTTP/1.1\r\n"), head)
        for line in (b"Host: hooks.intern", b"Content-Type: application/json", b"X-Own: 1", b"Content-Length: 2"):
            self.assertIn(line.lower(), head.lower().split(b"\r\n"))
        self.assertNotIn(b"accept-encoding", head.lower())
        self.assertEqual(body, b"{}")
        self.assertNoResult(posting)

    def test_reply(self) -> None:
        """The status, the headers in lower case, the body, and how long it took."""
        posting = self.post()
        peer = self.peer()
        self.reactor.advance(0.5)
        peer.sends(b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\nwait")

        reply = self.successResultOf(posting)
        self.assertEqual((reply.status, reply.body, reply.is_whole), (503, b"wait", True))
        self.assertEqual(reply.headers["retry-after"], "7")
        self.assertAlmostEqual(reply.seconds, 0.5)

    def test_get(self) -> None:
        """What is there can be asked for as well."""
        getting = Deferred.fromCoroutine(self.outgoing.get("http://hooks.intern/x", {}))
        peer = self.peer()

        self.assertTrue(peer.takes().startswith(b"GET /x HTTP/1.1\r\n"))
        peer.sends(OK)
        self.assertEqual(self.successResultOf(getting).body, b"ok")

    def test_own_headers(self) -> None:
        """Nobody sets by a header where the request goes, or where it ends."""
        self.post(headers={"Host": "evil", "Content-Length": "99", "Transfer-Encoding": "chunked"})
        head = self.peer().takes().lower()

        self.assertIn(b"host: hooks.intern\r\n", head)
        self.assertIn(b"content-length: 2\r\n", head)
        self.assertNotIn(b"evil", head)
        self.assertNotIn(b"chunked", head)

    def test_redirect(self) -> None:
        """A redirect is an answer like others."""
        posting = self.post()
        self.peer().sends(b"HTTP/1.1 307 Go\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n")

        self.assertEqual(self.successResultOf(posting).status, 307)
        self.assertEqual(len(self.connected_to), 1)

    def test_cookies(self) -> None:
        """Cookies are not kept."""
        posting = self.post()
        peer = self.peer()
        peer.takes()
        peer.sends(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b; Path=/\r\nContent-Length: 0\r\n\r\n")
        self.successResultOf(posting)
        self.post()

        self.assertNotIn(b"cookie", peer.takes().lower())

    def test_packed(self) -> None:
        """What is packed though it was not asked for stays so: a small answer has no large body."""
        bomb = b"\x1f\x8b\x08" + b"\x00" * 20
        posting = self.post()
        self.peer().sends(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 23\r\n\r\n" + bomb)

        self.assertEqual(self.successResultOf(posting).body, bomb)

    def test_long_body(self) -> None:
        """Of a long body the beginning is kept; the connection stays for the next request."""
        posting = self.post(max_body=1024)
        peer = self.peer()
        peer.takes()
        peer.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000)
        reply = self.successResultOf(posting)
        self.assertEqual((reply.body, reply.is_whole), (b"x" * 1024, False))

        self.post()
        self.assertTrue(peer.takes())
        self.assertEqual(len(self.connected_to), 1)

    def test_endless_body(self) -> None:
        """An endless body is cut off, in the way that closes a TLS connection too."""
        posting = self.post(max_body=1024)
        peer = self.peer()
        peer.sends(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(5):
            peer.sends(b"x" * 4096)

        self.assertEqual(len(self.successResultOf(posting).body), 1024)
        self.assertTrue(peer.transport.is_stopped)

    def test_slow_body(self) -> None:
        """A body that does not come is not waited for: the status is known."""
        posting = self.post()
        peer = self.peer()
        peer.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc")
        self.reactor.advance(4.9)
        self.assertNoResult(posting)
        self.reactor.advance(0.2)

        reply = self.successResultOf(posting)
        self.assertEqual((reply.status, reply.body, reply.is_whole), (200, b"abc", False))
        self.assertTrue(peer.transport.is_stopped)
        peer.closes()

    def test_cut_off_body(self) -> None:
        """Of one that is cut off there is what came."""
        posting = self.post()
        peer = self.peer()
        peer.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc")
        peer.closes()

        reply = self.successResultOf(posting)
        self.assertEqual((reply.body, reply.is_whole), (b"abc", False))
        self.reactor.advance(10)

    def test_endless_head(self) -> None:
        """A head without an end is cut off."""
        posting = self.post()
        peer = self.peer()
        peer.sends(b"HTTP/1.1 200 OK\r\n")
        for number in range(600):
            peer.sends(b"X-%d: %s\r\n" % (number, b"y" * 1000))
            if peer.transport.is_aborted:
                break
        self.assertTrue(peer.transport.is_aborted)
        peer.closes(ConnectionLost)

        self.assertTrue(self.reason(posting))

    def test_many_answers(self) -> None:
        """What earlier answers brought is no part of that bound."""
        self.outgoing = self.make(max_exchange=3000)
        peer = None
        for _ in range(5):
            posting = self.post()
            peer = peer or self.peer()
            peer.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000)
            self.successResultOf(posting)

    def test_silent(self) -> None:
        """A server that takes a request and says nothing is given up."""
        posting = self.post(timeout_seconds=20.0)
        peer = self.peer()
        self.reactor.advance(19.9)
        self.assertNoResult(posting)
        self.reactor.advance(0.2)

        self.assertIn("20 s", self.reason(posting))
        self.assertTrue(peer.transport.is_aborted)
        peer.closes(ConnectionLost)
        self.assertEqual(len(self.connected_to), 1)

    def test_slow_lookup(self) -> None:
        """So is a name whose server says nothing."""
        waiting: Deferred[Sequence[str]] = Deferred()
        self.outgoing = Outgoing(self.reactor, self.guard, resolve=lambda host, port: waiting)
        posting = self.post()
        self.reactor.advance(20.1)

        self.assertIn("20 s", self.reason(posting))

    def test_refused(self) -> None:
        """A port where nobody listens is told as that."""
        posting = self.post()
        factory: Any = self.reactor.tcpClients[0][2]
        factory.clientConnectionFailed(None, Failure(ConnectionRefusedError()))

        self.assertIn("refused", self.reason(posting))

    def test_next_address(self) -> None:
        """When one address can't be connected to the next one is tried, three at most."""
        self.addresses = [PUBLIC, "2606:2800:220:1::1", "8.8.8.8", "9.9.9.9"]
        posting = self.post()
        for number in range(3):
            factory: Any = self.reactor.tcpClients[number][2]
            factory.clientConnectionFailed(None, Failure(ConnectionRefusedError()))

        self.assertIn("refused", self.reason(posting))
        self.assertEqual([host for host, _ in self.connected_to], self.addresses[:3])

    def test_connect_timeout(self) -> None:
        """A connection has five seconds to come about."""
        self.post()

        self.assertEqual(self.reactor.tcpClients[0][3], 5.0)

    def test_nonsense(self) -> None:
        """What is no HTTP is a failure with a reason."""
        posting = self.post()
        peer = self.peer()
        peer.sends(b"\x00\x01\r\n\r\n")
        peer.closes()

        self.assertTrue(self.reason(posting))

    def test_cancel(self) -> None:
        """Who does not wait any more closes the connection."""
        posting = self.post()
        peer = self.peer()
        posting.cancel()

        self.assertTrue(peer.transport.is_aborted)
        peer.closes(ConnectionLost)
        self.failureResultOf(posting)


class GuardTests(OutgoingCase):
    """Where connections go."""

    def test_very_address(self) -> None:
        """The connection is made to the address that was looked at; the name is looked up once."""
        self.post("https://a.example/")

        self.assertEqual(self.asked, [("a.example", 443)])
        self.assertEqual(self.connected_to, [(PUBLIC, 443)])

    def test_rebinding(self) -> None:
        """A name that tells another address the next time is looked at again, and refused."""
        self.post("https://a.example/")
        self.addresses = ["127.0.0.1"]

        self.assertIn("127.0.0.1", self.refusal(self.post("https://a.example/")))
        self.assertEqual(self.connected_to, [(PUBLIC, 443)])

    def test_not_public(self) -> None:
        """Neither by a name nor by itself, alone or beside a public one, is another address connected to."""
        for address in ("127.0.0.1", "169.254.169.254", "::ffff:10.0.0.1", "64:ff9b::7f00:1"):
            for self.addresses in ([address], [PUBLIC, address]):
                text = self.refusal(self.post("https://a.example/"))
                self.assertIn(address, text)
                self.assertIn("webhooks.allowed_hosts", text)
            literal = f"[{address}]" if ":" in address else address
            self.refusal(self.post(f"https://{literal}/"))
        self.assertEqual(self.connected_to, [])

    def test_ipv6_literal(self) -> None:
        """A public one is connected to."""
        self.addresses = ["2606:4700::1111"]
        for url, port in (("https://[2606:4700::1111]/", 443), ("https://[2606:4700::1111]:8443/", 8443)):
            self.post(url)
            self.assertEqual(self.asked[-1], ("2606:4700::1111", port))
            self.assertEqual(self.connected_to[-1], ("2606:4700::1111", port))

    def test_kept_connection(self) -> None:
        """A connection that is kept needs no look: its address was looked at."""
        posting = self.post()
        peer = self.peer()
        peer.sends(OK)
        self.successResultOf(posting)
        self.post()

        self.assertEqual(len(self.asked), 1)
        self.assertEqual(len(self.connected_to), 1)

    def test_unguarded(self) -> None:
        """Without the guard anything goes; what is kept of it is never used with the guard."""
        self.addresses = ["10.0.0.1"]
        posting = self.post("http://a.example/", guard=False)
        self.peer().sends(OK)
        self.successResultOf(posting)

        self.refusal(self.post("http://a.example/"))
        self.refusal(self.post("https://a.example/"))
        self.assertEqual(self.connected_to, [("10.0.0.1", 80)])

    def test_other_guard(self) -> None:
        """Each guard has its own connections."""
        posting = self.post()
        self.peer().sends(OK)
        self.successResultOf(posting)

        self.refusal(self.post(guard=Guard("other")))
        self.post(guard=Guard("other", ["hooks.intern"], allows_http=True))
        self.assertEqual(len(self.connected_to), 2)

    def test_no_url(self) -> None:
        """What is no URL is never asked, whatever it is."""
        for url in (
            "",
            "hooks.intern",
            "ftp://hooks.intern/",
            "http://hooks.intern\r\nX: y/",
            "http://a@hooks.intern/",
        ):
            self.refusal(self.post(url))
            self.refusal(self.post(url, guard=False))
            self.assertRaises(Blocked, self.outgoing.check_url, url)
        self.outgoing.check_url("https://a.example/")
        self.assertRaises(Blocked, self.outgoing.check_url, "http://a.example/")
        self.outgoing.check_url("http://a.example/", guard=False)

    def test_no_address(self) -> None:
        """A host without an address may have one later."""
        self.addresses = []
        self.assertIn("no address", self.reason(self.post("https://a.example/")))


class PoolTests(OutgoingCase):
    """Connections that are kept, and how many there are."""

    def answered(self, posting: Deferred[Reply], peer: Peer) -> None:
        """The request is answered."""
        peer.takes()
        peer.sends(OK)
        self.successResultOf(posting)

    def test_stale(self) -> None:
        """A kept connection that turns out to be dead is replaced at once, by one that is new."""
        first = self.post()
        peer = self.peer()
        self.answered(first, peer)
        for reason in (ConnectionLost, ConnectionDone):
            posting = self.post(body=b"again")
            self.assertIn(b"again", peer.takes())
            peer.closes(reason)
            self.assertNoResult(posting)
            fresh = self.peer()
            self.assertIn(b"again", fresh.takes())
            fresh.sends(OK)
            self.assertEqual(self.successResultOf(posting).status, 200)
            again = self.post()
            peer = self.peer()
            self.answered(again, peer)

    def test_stale_once(self) -> None:
        """That is done once: a server that always closes is not asked for ever."""
        peer = self.peer() if self.reactor.tcpClients else None
        first = self.post()
        peer = self.peer()
        self.answered(first, peer)
        posting = self.post()
        peer.closes(ConnectionLost)
        self.peer().closes(ConnectionLost)

        self.assertTrue(self.reason(posting))
        self.assertEqual(len(self.connected_to), 2)

    def test_new_connection_is_not_repeated(self) -> None:
        """A new connection that breaks is a failure: who asked decides when it is tried again."""
        posting = self.post()
        self.peer().closes(ConnectionLost)

        self.assertTrue(self.reason(posting))
        self.assertEqual(len(self.connected_to), 1)

    def test_per_host(self) -> None:
        """A host has so many requests at once; others wait, and other hosts do not wait for them."""
        self.outgoing = self.make(per_host=3)
        postings = [self.post() for _ in range(10)]
        self.assertEqual(len(self.connected_to), 3)
        self.post("https://a.example/")
        self.assertEqual(len(self.connected_to), 4)

        peers = [self.peer(number) for number in range(3)]
        for _ in range(4):
            for peer in peers:
                if peer.takes():
                    peer.sends(OK)
        self.assertEqual([self.successResultOf(posting).status for posting in postings], [200] * 10)
        self.assertEqual(len(self.connected_to), 4)

    def test_push_services(self) -> None:
        """What everybody pushes through is a few hosts: each has as many requests at once as all together."""
        self.outgoing = self.make(per_host=3, overall=7)
        for _ in range(10):
            self.post(kind="push")

        self.assertEqual(len(self.connected_to), 7)

    def test_overall(self) -> None:
        """All hosts together have so many requests at once, of each kind."""
        self.outgoing = self.make(overall=2)
        for number in range(5):
            self.post(f"https://{number}.example/")
        self.assertEqual(len(self.connected_to), 2)
        self.post("https://a.example/", kind="push")
        self.assertEqual(len(self.connected_to), 3)

    def test_cancelled_while_waiting(self) -> None:
        """Who does not wait for a turn any more takes none, and nothing is kept of the host in the end."""
        self.outgoing = self.make(per_host=1)
        first, second, third = (self.post() for _ in range(3))
        second.cancel()
        self.failureResultOf(second)
        peer = self.peer()
        self.answered(first, peer)
        self.answered(third, peer)

        [door] = self.outgoing._doors.values()
        self.assertEqual(door._places, {})

    def test_kept_for_a_while(self) -> None:
        """An idle connection is closed after half a minute."""
        posting = self.post()
        peer = self.peer()
        self.answered(posting, peer)
        self.reactor.advance(31)

        self.assertTrue(peer.transport.disconnecting)

    def test_stop(self) -> None:
        """Connections that are kept are closed at the end."""
        posting = self.post()
        peer = self.peer()
        self.answered(posting, peer)
        stopping = Deferred.fromCoroutine(self.outgoing.stop())

        self.assertTrue(peer.transport.disconnecting)
        peer.closes()
        self.successResultOf(stopping)
