"""``ping`` and ``auth``, as a client sees them."""

from __future__ import annotations

from typing import Any

from tests.vocabulary import Gate, ServerTestCase
from wsock.interfaces import App, Key
from wsock.testing import InMemoryClient


class PingTests(ServerTestCase):
    def test_ping(self) -> None:
        """A ping is answered; whatever else it holds is ignored."""
        client = self.connected()

        client.says({"action": "ping", "id": "1", "n": [1]})

        self.assertEqual(client.take(), [{"action": "pong"}])


class AuthTests(ServerTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.bob = self.connected(token=self.token())

    def token(self, **claims: Any) -> str:
        """A token of Bob's."""
        return self.server.token(**{"sub": "bob", **claims})

    def renews(self, **claims: Any) -> list[dict[str, Any]]:
        """What Bob hears when he renews his credential."""
        self.bob.take()
        self.bob.says({"action": "auth", "token": self.token(**claims)})
        return self.bob.take()

    def test_ack(self) -> None:
        """It is answered by an ack of this id."""
        self.assertEqual(self.renews(), [{"action": "ack", "id": "auth"}])

    def test_new_permissions(self) -> None:
        """What the new token allows counts from then on, for less and for more."""
        self.renews(permissions={"a": ["publish"]})
        self.bob.says({"action": "subscribe", "channel": "a"})
        self.assert_refused(self.bob, "forbidden", "'subscribe'")

        self.renews(permissions={"a": ["subscribe"]})
        self.bob.says({"action": "subscribe", "channel": "a"})

        self.assert_told(self.bob, action="subscribed")

    def test_revoked_channels(self) -> None:
        """Channels that it does not allow are unsubscribed, each with an error; the others go on."""
        for channel in "abc":
            self.bob.says({"action": "subscribe", "channel": channel})

        events = self.renews(permissions={"a": ["subscribe"]})

        self.assertEqual(
            [(e["action"], e.get("channel"), e.get("code")) for e in events],
            [
                ("ack", None, None),
                ("error", "b", "forbidden"),
                ("unsubscribed", "b", None),
                ("error", "c", "forbidden"),
                ("unsubscribed", "c", None),
            ],
        )
        for channel in "abc":
            self.publish(channel, channel)
        self.assertEqual(self.data_of(self.bob), ["a"])

    def test_revoked_presence(self) -> None:
        """Where it allows no presence the member leaves, and everybody is told."""
        for channel in "ab":
            self.bob.says({"action": "presence.enter", "channel": channel})
        watcher = self.subscribed("a", "b")

        events = self.renews(permissions={"a": ["presence"]})

        self.assert_told(watcher, action="presence.leave", channel="b", clientId="bob")
        self.assertEqual([e["channel"] for e in events if e["action"] == "error"], ["b"])
        [member] = self.server.wait_for(self.server.server.presence.members("demo", "a"))
        self.assertEqual(member.client_id, "bob")

    def test_lost_while_presence_is_revoked(self) -> None:
        """A connection that is lost in the middle of it leaves everywhere all the same."""
        for channel in "ab":
            self.bob.says({"action": "presence.enter", "channel": channel})
        store, gate = self.server.server.stores.presence, Gate()
        leave = self.patch(store, "leave", gate.guard(store.leave))
        self.renews(permissions={})

        self.bob.disappears()
        gate.open()
        leave.restore()
        self.server.advance(20)

        for channel in "ab":
            self.assertEqual(self.server.wait_for(self.server.server.presence.members("demo", channel)), [])
        self.assertEqual(len(self.server.server.hub), 0)

    def test_somebody_else(self) -> None:
        """Another subject, none, or another app is forbidden, and the old credential stays."""
        key = Key(id="k", app="shop", name="", created_at=0, algorithm="HS256", secret="x" * 32)
        self.server.create(App(id="shop", name="", created_at=0), key)
        tokens = [
            self.server.token(sub="eve"),
            self.server.token(),
            self.server.token(kid="k", secret="x" * 32, sub="bob"),
        ]
        for token in tokens:
            self.bob.says({"action": "auth", "token": token})
            self.assert_refused(self.bob, "forbidden", "sub")

        self.bob.says({"action": "subscribe", "channel": "a"})
        self.assert_told(self.bob, action="subscribed")

    def test_bad_tokens(self) -> None:
        """A bad or expired token is refused, and the connection lives."""
        self.bob.says({"action": "auth", "token": "x.y.z"})
        self.assert_refused(self.bob, "unauthorized")
        self.bob.says({"action": "auth", "token": self.token(exp=self.server.now() - 60)})

        self.assert_refused(self.bob, "token_expired")
        self.assert_alive(self.bob)

    def test_new_expiry(self) -> None:
        """The new token's expiry counts, be it later or earlier."""
        self.renews(exp=self.server.now() + 30)
        self.server.advance(36)
        self.assertEqual(self.codes(self.bob), ["token_expired"])

        self.renews(exp=self.server.now() + 600)
        self.server.advance(500)

        self.assertIsNone(self.bob.closed)
        self.assertEqual(self.codes(self.bob), [])

    def codes(self, client: InMemoryClient) -> list[str]:
        """The codes of the errors that the client heard."""
        return [event["code"] for event in client.take() if event["action"] == "error"]

    def test_anonymous(self) -> None:
        """A client with an API key may take a token without a subject, and stays who it is."""
        client = self.connected(client_id="guest")

        client.says({"action": "auth", "token": self.server.token(permissions={"a": ["*"]})})
        self.assert_told(client, action="ack", id="auth")
        client.says({"action": "subscribe", "channel": "a"}, {"action": "publish", "channel": "a"})

        self.assertIn("guest", [event.get("publisherId") for event in client.take()])
