"""The HTTP/2 agent against Node's HTTP/2, over real sockets with TLS."""

from __future__ import annotations

import json
import os
import signal
from typing import Any, cast

from service_identity import VerificationError
from twisted.internet import reactor  # noqa: TID251  # trial's own: the sockets are real
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.defer import TimeoutError as TooLate
from twisted.internet.endpoints import SSL4ServerEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions, PrivateCertificate
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web.client import ContentDecoderAgent, GzipDecoder, ResponseFailed, readBody
from twisted.web.error import SchemeNotSupported
from twisted.web.http_headers import Headers

from tests.base import TestCase
from tests.children import Child
from tests.peers.node import CERTIFICATE, certificate, start_apns
from wsock.providers.h2agent import BytesProducer, H2Agent
from wsock.providers.h2exchange import ConnectionFailed, Limits, NotProcessed, StreamFailed

CLOCK: Any = reactor


class H2AgentTests(TestCase):
    """One agent and one server."""

    port: int
    peer: Child

    async def start(self, limits: Limits | None = None, **options: Any) -> H2Agent:
        """A server with these options, and an agent that trusts it."""
        self.peer, self.port = await start_apns(self, **options)
        return self.agent(limits)

    def agent(self, limits: Limits | None = None, **options: Any) -> H2Agent:
        """An agent that the test closes."""
        agent = H2Agent(CLOCK, limits=limits, **{"trust_root": CERTIFICATE.trust_root, **options})
        self.addCleanup(lambda: Deferred.fromCoroutine(agent.close()))
        return agent

    def ask(self, agent: Any, path: str, body: bytes | None = None) -> Deferred[Any]:
        """The answer's head."""
        producer = None if body is None else BytesProducer(body)
        url = f"https://localhost:{self.port}{path}".encode()
        asking: Deferred[Any] = agent.request(b"GET" if body is None else b"POST", url, Headers(), producer)
        return asking.addTimeout(15, CLOCK)

    async def json(self, agent: H2Agent, path: str, body: bytes | None = None) -> Any:
        """The answer's body."""
        response = await self.ask(agent, path, body)
        return json.loads(await readBody(response))

    def jsons(self, agent: H2Agent, paths: list[str]) -> Deferred[list[Any]]:
        """The answers' bodies of requests that are all sent at once."""
        return gatherResults([Deferred.fromCoroutine(self.json(agent, p)) for p in paths], consumeErrors=True)

    async def fails(self, asking: Deferred[Any], kind: type[Exception]) -> str:
        """It fails so; returns the text."""
        return str(await self.assertFailure(asking, kind))

    async def test_a_request_and_its_answer(self) -> None:
        """Method, headers and body arrive; names are in lower case, and HTTP/1.1's own headers are left out."""
        agent = await self.start()
        headers = Headers({"X-Thing": ["a", "b"], "Connection": ["close"], "Host": ["elsewhere"], "TE": ["gzip"]})
        url = f"https://localhost:{self.port}/echo?x=1".encode()

        response = await agent.request(b"POST", url, headers, BytesProducer(b"hello"))
        told = json.loads(await readBody(response))

        self.assertEqual((response.code, response.phrase, response.version), (200, b"OK", (b"HTTP", 2, 0)))
        self.assertEqual((response.request.absoluteURI, response.request.method), (url, b"POST"))
        self.assertEqual(told["length"], 5)
        got = told["headers"]
        self.assertEqual((got["x-thing"], got["content-length"]), ("a, b", "5"))
        self.assertEqual((got[":authority"], got[":path"]), (f"localhost:{self.port}", "/echo?x=1"))
        self.assertFalse({"host", "connection", "te"} & set(got))

    async def test_works_below_twisteds_own(self) -> None:
        """Agents that wrap agents take it for one."""
        agent = ContentDecoderAgent(await self.start(), [(b"gzip", GzipDecoder)])

        self.assertEqual((await self.ask(agent, "/state")).code, 200)

    async def test_many_at_once_over_one_connection(self) -> None:
        """They share it, and wait for their turn where the server allows few."""
        agent = await self.start(maxStreams=5)

        told = await self.jsons(agent, ["/state"] * 100)

        self.assertEqual({t["sessions"] for t in told}, {1})

    async def test_much_in_both_directions(self) -> None:
        """A body of 1 MB arrives, and 20 MB come back: both are more than the windows."""
        agent = await self.start()

        self.assertEqual((await self.json(agent, "/echo", b"x" * 1_000_000))["length"], 1_000_000)
        response = await self.ask(agent, "/big?n=20000000")
        self.assertEqual(response.length, 20_000_000)
        self.assertEqual(len(await readBody(response)), 20_000_000)

    async def test_body_that_nobody_reads(self) -> None:
        """Answers that are left alone, or held back, don't hold back others; a reader gets them later."""
        agent = await self.start()
        unread = await gatherResults([self.ask(agent, "/big?n=300000") for _ in range(20)])
        held = Held()
        (await self.ask(agent, "/big?n=300000")).deliverBody(held)

        self.assertEqual(len(await readBody(await self.ask(agent, "/big?n=3000000"))), 3_000_000)
        held.transport.resumeProducing()
        await held.done
        self.assertEqual(held.size, 300_000)
        for response in unread:
            self.assertEqual(len(await readBody(response)), 300_000)

    async def test_body_that_is_not_wanted_any_more(self) -> None:
        """Who stops reading stops the server, and the connection stays."""
        agent = await self.start()
        for stop in ("stopProducing", "loseConnection", "abortConnection"):
            held = Held()
            (await self.ask(agent, "/big?n=5000000")).deliverBody(held)
            getattr(held.transport, stop)()
            await held.done
            self.assertLess(held.size, 200_000)
        reading = readBody(await self.ask(agent, "/big?n=5000000"))
        reading.cancel()
        await self.assertFailure(reading, ResponseFailed)

        self.assertEqual((await self.json(agent, "/state"))["sessions"], 1)

    async def test_cancelled(self) -> None:
        """Who waits no longer gives the stream back; the connection stays."""
        agent = await self.start(maxStreams=2)
        asking = [self.ask(agent, "/silent") for _ in range(3)]
        await deferLater(CLOCK, 0.2, lambda: None)
        for one in reversed(asking):
            one.cancel()
            await self.fails(one, CancelledError)

        self.assertEqual((await self.json(agent, "/state"))["sessions"], 1)

    async def test_timeout(self) -> None:
        """A time limit ends one request alone."""
        agent = await self.start()
        await self.json(agent, "/state")
        url = f"https://localhost:{self.port}/silent".encode()

        await self.assertFailure(agent.request(b"GET", url).addTimeout(0.2, CLOCK), TooLate)

        self.assertEqual((await self.json(agent, "/state"))["sessions"], 1)

    async def test_reset(self) -> None:
        """A stream that the server ends with an error fails, also in the middle of its body."""
        agent = await self.start()

        self.assertIn("INTERNAL_ERROR", await self.fails(self.ask(agent, "/reset"), StreamFailed))
        response = await self.ask(agent, "/half")
        held = Held()
        response.deliverBody(held)
        held.transport.resumeProducing()
        await held.done
        self.assertIn("INTERNAL_ERROR", str(held.reason))
        self.assertEqual((await self.json(agent, "/state"))["sessions"], 1)

    async def test_refused(self) -> None:
        """What the server surely did not act on is sent again, but not for ever."""
        agent = await self.start()

        told = await self.jsons(agent, [f"/refuse-once?id={i}" for i in range(50)])

        self.assertEqual([t["id"] for t in told], [str(i) for i in range(50)])
        await self.fails(self.ask(agent, "/refuse"), NotProcessed)

    async def test_answer_before_the_whole_request(self) -> None:
        """A server that needs no more says so early; the rest is not sent, and the connection stays."""
        agent = await self.start()

        self.assertEqual(await self.json(agent, "/early", b"x" * 2_000_000), {"early": True})
        self.assertEqual((await self.json(agent, "/state"))["sessions"], 1)

    async def test_graceful_goaway(self) -> None:
        """Requests that are on their way are answered, later ones go over a new connection."""
        agent = await self.start()
        await self.json(agent, "/state")

        told = await self.jsons(agent, ["/goaway", *["/state"] * 20])

        self.assertEqual(told[0], {"after": "goaway"})
        self.assertEqual((await self.json(agent, "/state"))["sessions"], 2)

    async def test_goaway_with_an_error(self) -> None:
        """What is on its way fails with the server's reason; later ones go over a new connection."""
        agent = await self.start()

        self.assertIn("BecauseAsked", await self.fails(self.ask(agent, "/goaway?code=11"), ConnectionFailed))
        self.assertEqual((await self.json(agent, "/state"))["sessions"], 2)

    async def test_hung_up(self) -> None:
        """A connection that ends without a word fails what is on its way, and is replaced."""
        agent = await self.start()
        silent = self.ask(agent, "/silent")

        await self.assertFailure(self.ask(agent, "/hang-up"), Exception)
        await self.assertFailure(silent, Exception)
        self.assertEqual((await self.json(agent, "/state"))["sessions"], 2)

    async def test_frozen_peer(self) -> None:
        """A server that is silent is asked whether it lives, and given up when it does not say so."""
        agent = await self.start(Limits(ping_after=0.3, ping_within=0.3))
        await self.json(agent, "/state")
        pid = cast(Any, self.peer.transport).pid
        os.kill(pid, signal.SIGSTOP)
        self.addCleanup(os.kill, pid, signal.SIGCONT)

        self.assertIn("PING", await self.fails(self.ask(agent, "/silent"), ConnectionFailed))

    async def test_quiet_peer(self) -> None:
        """A server that answers to PING is left alone, however long an answer takes."""
        agent = await self.start(Limits(ping_after=0.1, ping_within=0.3))
        silent = self.ask(agent, "/silent")
        await deferLater(CLOCK, 1.0, lambda: None)

        self.assertEqual((await self.json(agent, "/state"))["sessions"], 1)
        silent.cancel()
        await self.fails(silent, CancelledError)

    async def test_idle(self) -> None:
        """A connection that nobody uses ends."""
        agent = await self.start(Limits(ping_after=0.1, ping_within=0.3, idle_seconds=0.2))
        await self.json(agent, "/state")
        await deferLater(CLOCK, 0.8, lambda: None)

        self.assertEqual((await self.json(agent, "/state"))["sessions"], 2)

    async def test_strict_peer(self) -> None:
        """50 at once, where one is allowed until the first is accepted, and GOAWAY: none is lost, none doubled."""
        for refused_after in (1, 7, 30, 49):
            agent = await self.start(strict=True, goawayAfter=refused_after, goaways=2, answerAfter=5)
            paths = [f"/3/device/{i:04x}" for i in range(0x1000, 0x1032)]

            responses = await gatherResults([self.ask(agent, path, b"{}") for path in paths], consumeErrors=True)

            taken = [t["device"] for t in (await self.json(agent, "/state"))["taken"]]
            self.assertEqual({r.code for r in responses}, {200})
            self.assertEqual(sorted(taken), [path.rpartition("/")[2] for path in paths])

    async def test_server_that_always_goes_away(self) -> None:
        """Every request gets its answer from a server that ends each connection after one."""
        agent = await self.start(goawayAfter=1, goaways=10_000)
        told = [await self.ask(agent, f"/3/device/{i:04x}", b"{}") for i in range(5)]

        self.assertEqual({r.code for r in told}, {200})

    async def test_not_trusted(self) -> None:
        """A certificate of another name, or that nobody vouches for, is refused."""
        await self.start()
        await self.assertFailure(self.ask(self.agent(trust_root=certificate("x").trust_root), "/state"), Exception)
        url = f"https://127.0.0.1:{self.port}/state".encode()
        await self.assertFailure(self.agent().request(b"GET", url), VerificationError)

    async def test_server_without_http2(self) -> None:
        """A server that speaks no ALPN, or only HTTP/1.1, is told from one that can be used."""
        key = PrivateCertificate.loadPEM((CERTIFICATE.key + CERTIFICATE.cert).encode())
        for protocols in (None, [b"http/1.1"]):
            options = CertificateOptions(
                privateKey=key.privateKey.original, certificate=key.original, acceptableProtocols=protocols
            )
            endpoint = SSL4ServerEndpoint(CLOCK, 0, options, interface="127.0.0.1")
            listening = await endpoint.listen(Factory.forProtocol(Protocol))
            self.addCleanup(listening.stopListening)
            self.port = cast(Any, listening.getHost()).port
            await self.assertFailure(self.ask(self.agent(), "/"), Exception)

    async def test_server_that_says_nothing(self) -> None:
        """One that accepts and is silent is given up in time."""
        listening = await TCP4ServerEndpoint(CLOCK, 0, interface="127.0.0.1").listen(Factory.forProtocol(Protocol))
        self.addCleanup(listening.stopListening)
        self.port = cast(Any, listening.getHost()).port

        text = await self.fails(self.ask(self.agent(Limits(setup_seconds=0.2)), "/"), ConnectionFailed)

        self.assertIn("within 0.2 s", text)

    async def test_nobody_listens(self) -> None:
        """All that wait fail when there is no connection."""
        listening = await TCP4ServerEndpoint(CLOCK, 0, interface="127.0.0.1").listen(Factory.forProtocol(Protocol))
        self.port = cast(Any, listening.getHost()).port
        await listening.stopListening()
        agent = self.agent()

        for asking in [self.ask(agent, "/") for _ in range(3)]:
            await self.assertFailure(asking, Exception)

    async def test_closed(self) -> None:
        """Closing ends what is on its way and what waits, also while it connects; the agent can be used again."""
        agent = await self.start(maxStreams=1)
        early = self.ask(agent, "/silent")
        await agent.close()
        await self.fails(early, ConnectionFailed)
        asking = [self.ask(agent, "/silent") for _ in range(3)]
        await deferLater(CLOCK, 0.2, lambda: None)
        await agent.close()
        for one in asking:
            await self.fails(one, ConnectionFailed)

        self.assertEqual((await self.json(agent, "/state"))["sessions"], 2)

    async def test_http(self) -> None:
        """Without TLS there is no HTTP/2."""
        await self.assertFailure(self.agent().request(b"GET", b"http://localhost/"), SchemeNotSupported)


class Held(Protocol):
    """A reader that stops at once."""

    transport: Any = None

    def __init__(self) -> None:
        self.size = 0
        self.reason: Any = None
        self.done: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        """Twisted's hook."""
        self.transport.pauseProducing()

    def dataReceived(self, data: bytes) -> None:
        """Twisted's hook."""
        self.size += len(data)

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Twisted's hook."""
        self.reason = reason and getattr(reason.value, "reasons", reason)
        self.done.callback(None)
