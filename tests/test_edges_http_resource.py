"""Tests for :mod:`wsock.edges.http.resource`."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.internet.testing import StringTransport
from twisted.web.resource import IResource, Resource
from twisted.web.server import Site
from zope.interface.verify import verifyObject

from tests.base import SynchronousTestCase
from tests.http_client import Answer, World, answers, http_exchange, request
from wsock.edges.http import build_registry
from wsock.edges.http.metrics import Measure

MESSAGES = "/api/channels/news/messages"


class ResourceTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = self.make()

    def make(self, **edge: Any) -> World:
        """A world that can be used."""
        world = World(**edge)
        self.successResultOf(world.create())
        return world

    def ask(self, *args: Any, **kwargs: Any) -> Answer:
        return self.world.ask(*args, **kwargs)


class StateTests(ResourceTestCase):
    def test_health(self) -> None:
        """Healthy as long as it answers, whatever the state."""
        self.world.state = "draining"

        self.assertEqual(self.ask("GET", "/health", key=None).json, {"status": "ok"})

    def test_ready(self) -> None:
        """Ready is 200, everything else 503 with its name."""
        self.assertEqual(self.ask("GET", "/ready", key=None).json, {"status": "ready"})
        for state in ("starting", "draining", "unavailable", "stopped"):
            self.world.state = state
            answer = self.ask("GET", "/ready", key=None)
            self.assertEqual((answer.status, answer.json["status"]), (503, state))
            self.assertEqual(answer.json["code"], "unavailable")
            self.assertEqual(answer.headers["retry-after"], "1")

    def test_head(self) -> None:
        """HEAD is GET without the body, for every status."""
        for path, status in (("/health", 200), ("/nothing", 404), (MESSAGES, 200)):
            data = http_exchange(self.world.site, request("HEAD", path))
            [answer] = answers(data, heads_only=1)
            self.assertEqual((answer.status, answer.body), (status, b""))
            self.assertTrue(data.endswith(b"\r\n\r\n"))
            self.assertGreater(int(answer.headers["content-length"]), 2)


class RoutingTests(ResourceTestCase):
    def test_resource(self) -> None:
        """It is a resource."""
        self.assertTrue(verifyObject(IResource, self.world.edge.resource()))

    def test_not_found(self) -> None:
        """An unknown path is 404, in JSON."""
        for path in ("/", "/x", "/api", "/api/channels/news/x", "/health/x", "/%FF%00", "/..", "/%2Fhealth"):
            answer = self.ask("GET", path)
            self.assertEqual((answer.status, answer.json["code"]), (404, "not_found"), path)

    def test_method(self) -> None:
        """A method that the path doesn't take is 405, with those that it does."""
        delete = self.ask("DELETE", MESSAGES, headers={"Content-Type": "application/json"})
        unknown = self.ask("BREW", "/health")

        self.assertEqual((delete.status, delete.json["code"]), (405, "bad_request"))
        self.assertEqual(delete.headers["allow"], "GET, HEAD, OPTIONS, POST")
        self.assertEqual(unknown.status, 405)
        self.assertIn("GET", unknown.headers["allow"])

    def test_hosts(self) -> None:
        """No host that a client invents is more than text."""
        for host in (b"", b"..", b"x" * 300, b"\xff\xfe", b"[::1]:80", b"a b", b":0"):
            data = b"GET /health HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"
            [answer] = answers(http_exchange(self.world.site, data))
            self.assertEqual(answer.status, 200, host)

    def test_unix_socket(self) -> None:
        """A connection without a host or a port is served."""
        address = UNIXAddress("/run/wsock.sock")
        transport = StringTransport(address, address)
        channel: Any = self.world.site.buildProtocol(address)
        channel.makeConnection(transport)
        channel.dataReceived(b"GET /health HTTP/1.0\r\n\r\n")

        self.assertEqual([a.status for a in answers(transport.value())], [200])

    def test_mounted(self) -> None:
        """Mounted in somebody else's site it answers what is below its place."""
        root = Resource()
        root.putChild(b"rt", self.world.edge.resource())
        site = Site(root, reactor=self.world.clock)
        below = http_exchange(site, request("POST", "/rt//api/channels/a%2Fb/messages", {"data": 1}))

        self.assertIn(b'"channel":"a/b"', below)
        self.assertIn(b"404", http_exchange(site, request("GET", "/health")).split(b"\r\n")[0])

    def test_mounted_body(self) -> None:
        """There a body is bounded too, if late."""
        world = self.make(max_body_bytes=1000)
        world.edge._router._max_body_bytes = 1000
        data = http_exchange(world.foreign_site, request("POST", MESSAGES, {"data": "x" * 1000}))

        self.assertTrue(data.startswith(b"HTTP/1.1 413 "))

    def test_fault(self) -> None:
        """A fault in what was injected is logged and answered with 500, without details."""

        def fail() -> str:
            raise KeyError("secret detail")

        self.world.edge._state = fail
        answer = self.ask("GET", "/ready")

        self.assertEqual((answer.status, answer.json["code"]), (500, "internal"))
        self.assertNotIn(b"secret", answer.body)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_fault_of_the_router(self) -> None:
        """So is a fault before or in the router."""

        def fail(_: Any) -> int:
            raise KeyError("secret detail")

        self.patch(self.world.edge._root._routed, "render", fail)
        answer = self.ask("GET", "/health")

        self.assertEqual((answer.status, answer.json["code"]), (500, "internal"))
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)


class CrossOriginTests(ResourceTestCase):
    def preflight(self, world: World, origin: str) -> Answer:
        """What a browser is told before it asks."""
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        return world.ask("OPTIONS", MESSAGES, key=None, headers=headers)

    def test_preflight(self) -> None:
        """By default any page may use the API, with its headers and methods."""
        answer = self.preflight(self.world, "https://page.example")

        self.assertEqual((answer.status, answer.body), (204, b""))
        self.assertEqual(answer.headers["access-control-allow-origin"], "*")
        self.assertEqual(answer.headers["access-control-allow-headers"], "Authorization, Content-Type, X-App-Id")
        self.assertEqual(answer.headers["access-control-allow-methods"], "GET, POST, PUT, PATCH, DELETE, OPTIONS")
        self.assertEqual(answer.headers["vary"], "Origin")
        self.assertNotIn("content-length", answer.headers)

    def test_errors(self) -> None:
        """A page may read refusals as well."""
        answer = self.ask("GET", MESSAGES, key=None, headers={"Origin": "https://page.example"})

        self.assertEqual(answer.status, 401)
        self.assertEqual(answer.headers["access-control-allow-origin"], "*")
        exposed = "Retry-After, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset"
        self.assertEqual(answer.headers["access-control-expose-headers"], exposed)

    def test_chosen(self) -> None:
        """With a setting only its origins may, each told for itself."""
        world = self.make(cors_origins=("https://*.Example.org", "http://localhost:*"))
        for origin in ("https://a.example.org", "HTTPS://A.EXAMPLE.ORG", "http://localhost:8080"):
            self.assertEqual(self.preflight(world, origin).headers["access-control-allow-origin"], origin)
        for origin in ("https://example.org", "https://a.example.org.evil", "null", "https://\xe9.example.org"):
            answer = self.preflight(world, origin)
            self.assertNotIn("access-control-allow-origin", answer.headers)
            self.assertNotIn("access-control-allow-methods", answer.headers)
            self.assertEqual(answer.headers["vary"], "Origin")

    def test_no_origin(self) -> None:
        """What is no browser gets nothing of it."""
        answer = self.ask("GET", "/health")

        self.assertNotIn("access-control-allow-origin", answer.headers)
        self.assertEqual(answer.headers["vary"], "Origin")


class MetricsTests(ResourceTestCase):
    def test_page(self) -> None:
        """The numbers are those of the moment."""
        answer = self.ask("GET", "/metrics", key=None)

        self.assertEqual(answer.status, 200)
        self.assertTrue(answer.headers["content-type"].startswith("text/plain"))
        for line in (b"wsock_connections 0.0", b"wsock_connections_opened_total 0.0", b"wsock_topics 0.0"):
            self.assertIn(line, answer.body.split(b"\n"))

    def test_fault(self) -> None:
        """A number that can't be read is a fault like any other."""
        missing: dict[str, int] = {}
        registry = build_registry([Measure(name="x", text="X.", kind="gauge", read=lambda: missing["x"])])
        answer = self.make(registry=registry).ask("GET", "/metrics")

        self.assertEqual((answer.status, answer.json["code"]), (500, "internal"))
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
