"""Who gets in, with which credential, and how all connections end."""

from __future__ import annotations

import base64
from typing import Any

from twisted.internet.defer import Deferred

from tests.vocabulary import Gate, ServerTestCase
from wsock.config import Config, Limits, Shutdown
from wsock.edges.gate import split_bearer
from wsock.interfaces import App, Key
from wsock.services.auth import hash_api_key
from wsock.testing import InMemoryClient

SECRET = "a-secret-of-at-least-32-characters"


def a_key(app: str, id: str, **fields: Any) -> Key:
    """A key whose API key is its id."""
    return Key(
        id=id, app=app, name="", created_at=0, api_key_hash=hash_api_key(id), algorithm="HS256", secret=SECRET, **fields
    )


class CredentialsTests(ServerTestCase):
    def publisher(self, client: InMemoryClient) -> str:
        """As whom the client publishes."""
        self.assertEqual(client.status, 101, client.body)
        client.says({"action": "subscribe", "channel": "me"}, {"action": "publish", "channel": "me"})
        [message] = [event for event in client.take() if event["action"] == "message"]
        client.disappears()
        return str(message["publisherId"])

    def refusal(self, status: int, code: str, **how: Any) -> str:
        """The text with which a handshake is refused."""
        client = self.server.connect(**how)
        self.assertEqual((client.status, client.body and client.body["code"]), (status, code))
        self.assertEqual(set(client.body), {"error", "code"})
        self.assertEqual(client.ending, "lost")
        return str(client.body["error"])

    def test_key_in_the_query(self) -> None:
        """An API key alone opens an anonymous connection, with a name of its own."""
        first, second = self.publisher(self.connected(key="demo")), self.publisher(self.connected(key="demo"))

        self.assertTrue(first.startswith("conn-"))
        self.assertNotEqual(first, second)

    def test_token_in_the_query(self) -> None:
        """A JWT alone opens a connection whose clientId is its subject."""
        client = self.connected(token=self.server.token(sub="bob"), client_id="eve")

        self.assertEqual(self.publisher(client), "bob")

    def test_bearer(self) -> None:
        """Both may stand in the header, whose scheme has no case."""
        token = self.server.token(sub="bob")
        for value in (f"Bearer {token}", f"bearer  {token}"):
            self.assertEqual(self.publisher(self.connected(headers={"Authorization": value})), "bob")
        self.publisher(self.connected(headers={"Authorization": "Bearer demo"}))

    def test_token_wins_over_key(self) -> None:
        """Beside a token the key is not looked at, be it good or bad; a bad token is not replaced by a good key."""
        token = self.server.token(sub="bob")

        self.assertEqual(self.publisher(self.connected(key="wrong", token=token)), "bob")
        self.assertEqual(self.publisher(self.connected(key="demo", token=token)), "bob")
        self.refusal(401, "unauthorized", key="demo", token="x.y.z")

    def test_empty_token(self) -> None:
        """An empty token is none."""
        self.publisher(self.connected(key="demo", token=""))

    def test_query_wins_over_header(self) -> None:
        """With a credential in the query the header is not looked at."""
        self.publisher(self.connected(key="demo", headers={"Authorization": "Bearer wrong"}))

    def test_unauthorized(self) -> None:
        """401 for what is missing, unknown or malformed, and the answer repeats none of it."""
        for how in (
            {"key": ""},
            {"key": "s3cret"},
            {"token": "s3cret"},
            {"headers": {"Authorization": "Basic s3cret"}},
        ):
            self.assertNotIn("s3cret", self.refusal(401, "unauthorized", **how))

    def test_expired(self) -> None:
        """401 for an expired token."""
        self.refusal(401, "token_expired", token=self.server.token(exp=self.server.now() - 60))

    def test_disabled_app(self) -> None:
        """403 when the app is disabled."""
        self.server.create(App(id="shop", name="", created_at=0, is_enabled=False), a_key("shop", "k"))

        self.refusal(403, "forbidden", key="k")

    def test_origin(self) -> None:
        """403 for a page whose origin the app does not allow; without an origin it is no page."""
        app = App(id="shop", name="", created_at=0, allowed_origins=("https://shop.example",))
        self.server.create(app, a_key("shop", "k"))

        self.refusal(403, "forbidden", key="k", headers={"Origin": "https://evil.example"})
        self.connected(key="k", headers={"Origin": "https://shop.example"})
        self.connected(key="k")

    def test_client_id(self) -> None:
        """A client with an API key gets the clientId it asks for where the key's pattern allows it."""
        self.server.create(
            App(id="shop", name="", created_at=0), a_key("shop", "any", client_ids="user-*"), a_key("shop", "none")
        )

        self.assertEqual(self.publisher(self.connected(key="any", client_id="user-7")), "user-7")
        for how in ({"key": "any", "client_id": "admin"}, {"key": "none", "client_id": "user-7"}):
            self.assertTrue(self.publisher(self.connected(**how)).startswith("conn-"))

    def test_client_id_grammar(self) -> None:
        """A clientId that is no name is not given."""
        for client_id in ("a\nb", "x" * 256):
            self.assertTrue(self.publisher(self.connected(client_id=client_id)).startswith("conn-"))

    def test_tenants_never_meet(self) -> None:
        """A channel of one app is not that of another."""
        self.server.create(App(id="shop", name="", created_at=0), a_key("shop", "k"))
        ours, theirs = self.subscribed("news"), self.subscribed("news", key="k")

        self.publish("news", 1, app="shop")

        self.assert_silent(ours)
        self.assertEqual(self.data_of(theirs), [1])

    def test_split_bearer(self) -> None:
        """A bearer is a JWT when it has the form of one."""
        head = base64.urlsafe_b64encode(b'{"alg":"HS256"}').decode()

        self.assertEqual(split_bearer(f"{head}.b.c"), (f"{head}.b.c", None))
        for key in ("demo", "a.b.c", f"{head}.b"):
            self.assertEqual(split_bearer(key), (None, key))


class LimitsTests(ServerTestCase):
    limits = Limits(connect_rate_per_ip=2, connections=3)

    def test_connect_rate(self) -> None:
        """429 with Retry-After beyond the rate of one address, whatever the credential; others are not concerned."""
        for _ in range(2):
            self.server.connect(key="wrong")
        client = self.server.connect()

        self.assertEqual((client.status, client.body["code"]), (429, "rate_limited"))
        self.assertIn("limits.connect_rate_per_ip", client.body["error"])
        self.assertTrue(0 < int(client.headers["retry-after"]) <= 60)
        self.connected(address="192.0.2.2")
        self.server.advance(61)
        self.connected()

    def test_connections(self) -> None:
        """503 beyond the number of connections, until one ends."""
        clients = [self.connected(address=f"192.0.2.{n}") for n in range(3)]
        client = self.server.connect(address="192.0.2.9")

        self.assertEqual((client.status, client.body["code"]), (503, "unavailable"))
        self.assertIn("limits.connections", client.body["error"])
        self.assertGreaterEqual(int(client.headers["retry-after"]), 1)
        clients[0].disappears()
        self.connected(address="192.0.2.8")


class ReadyTests(ServerTestCase):
    def test_not_ready(self) -> None:
        """503 with Retry-After while the server starts."""
        self.server.server._state = "starting"

        client = self.server.connect()

        self.assertEqual((client.status, client.body["code"]), (503, "unavailable"))
        self.assertIn("retry-after", client.headers)
        self.server.server._state = "ready"

    def test_draining(self) -> None:
        """And while it ends."""
        self.server.server.gate.stop_admitting()

        self.assertEqual(self.server.connect().status, 503)


class EndingTests(ServerTestCase):
    def test_drain(self) -> None:
        """Connections are reset in batches, without a close frame, each after what it was owed."""
        clients = [self.subscribed("news") for _ in range(5)]
        self.publish("news", 1)
        gate = self.server.server.gate
        draining = Deferred.fromCoroutine(gate.drain(2))
        self.server.settle()
        self.assertEqual(len(gate), 5)
        counts = []
        for _ in range(3):
            self.server.clock.advance(0.1)
            self.server.settle()
            counts.append(len(gate))

        self.successResultOf(draining)
        self.assertEqual(counts, [3, 1, 0])
        for client in clients:
            self.assertEqual((self.data_of(client), client.closed), ([1], "reset"))
        self.assertEqual(gate.closed, {"drained": 5})

    def test_clients_of_ours_are_told(self) -> None:
        """A wsock/1 client is asked to reconnect before it is reset."""
        ours, other = self.connected(query={"client": "wsock/1"}), self.connected()
        server = self.server
        server.server.gate.stop_admitting()
        draining = Deferred.fromCoroutine(server.server.gate.drain(10))
        server.settle()

        self.assert_told(ours, action="reconnect", delay=0)
        self.assert_silent(other)
        ours.closes()
        server.advance(1)
        self.successResultOf(draining)
        self.assertEqual((ours.closed, other.closed), (1000, "reset"))

    def test_close(self) -> None:
        """The last node says 1001, in batches, and waits a second for those who do not answer."""
        server = self.serve(Config(shutdown=Shutdown(mode="close", batch=2)))
        clients = [server.connect() for _ in range(3)]

        stopping = server.server.stopService()
        server.settle()
        self.assertEqual([client.closed for client in clients], [None] * 3)
        server.clock.advance(0.1)
        self.assertEqual([client.closed for client in clients], [1001, 1001, None])
        server.clock.advance(0.1)
        self.assertEqual([client.closed for client in clients], [1001] * 3)
        for client in clients[:2]:
            client.closes(1001)
        server.clock.advance(0.5)
        self.assertNoResult(stopping)
        server.advance(1)

        self.successResultOf(stopping)
        self.assertEqual([client.ending for client in clients], ["lost", "lost", "reset"])

    def test_acks_before_the_close(self) -> None:
        """What is stored meanwhile is acknowledged in front of the close frame."""
        server, gate = self.serve(Config(shutdown=Shutdown(mode="close"))), Gate()
        history: Any = server.server.stores.history
        self.patch(history, "commit", gate.guard_deferred(history.commit))
        client = server.connect()
        client.says({"action": "publish", "channel": "news", "id": "m1"})
        server.server.stopService()
        server.settle()

        gate.open()
        server.advance(2)

        self.assert_told(client, action="ack", id="m1")
        self.assertEqual(client.closed, 1001)

    def test_upgrade_that_waits(self) -> None:
        """An upgrade whose credential is still looked up when the end begins is refused."""
        server, gate = self.serve(Config(shutdown=Shutdown(mode="close"))), Gate()
        self.patch(server.server.auth, "credential", gate.guard(server.server.auth.credential))
        client = server.connect()
        stopping = server.server.stopService()

        gate.open()
        server.advance(2)

        self.successResultOf(stopping)
        self.assertEqual(client.status, 503)

    def test_close_without_connections(self) -> None:
        """With nobody there nothing is waited for."""
        server = self.serve(Config(shutdown=Shutdown(mode="close")))

        stopping = server.server.stopService()
        server.settle()

        self.successResultOf(stopping)
