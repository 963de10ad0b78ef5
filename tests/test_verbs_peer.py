"""A peer between its services: what it holds, gives back, and does when a replay or a return goes wrong."""

from __future__ import annotations

from typing import Any

from tests.vocabulary import Gate, ServerTestCase
from wsock.errors import Unavailable
from wsock.verbs.peer import Peer


class PeerTestCase(ServerTestCase):
    def peer(self) -> Peer:
        """The peer of the only connection."""
        [connection] = self.server.server.gate.connections()
        return connection.peer


class HoldingTests(PeerTestCase):
    def test_topics(self) -> None:
        """A channel is held open by a subscription and by being present, and given up with the last of them."""
        client, hub = self.subscribed("a"), self.server.server.hub
        client.says({"action": "presence.enter", "channel": "a"})
        client.says({"action": "unsubscribe", "channel": "a"})
        self.assertEqual((len(hub), list(self.peer().channels), list(self.peer().present)), (1, [], ["a"]))

        client.says({"action": "presence.leave", "channel": "a"})

        self.assertEqual(len(hub), 0)

    def test_presence_without_subscription(self) -> None:
        """Leaving keeps the subscription, unsubscribing the presence, and each still brings its events."""
        client, other = self.subscribed("a"), self.connected(client_id="eve")
        client.says({"action": "presence.enter", "channel": "a"}, {"action": "unsubscribe", "channel": "a"})
        client.take()
        other.says({"action": "presence.enter", "channel": "a"})
        self.assert_told(client, action="presence.enter", clientId="eve")

        client.says({"action": "subscribe", "channel": "a"}, {"action": "presence.leave", "channel": "a"})
        client.take()
        other.says({"action": "presence.leave", "channel": "a"})

        self.assert_told(client, action="presence.leave", clientId="eve")

    def test_everything_is_given_back(self) -> None:
        """However it ends."""
        for end in ("closes", "disappears"):
            client = self.connected(client_id="bob")
            client.says(*[{"action": "subscribe", "channel": c} for c in "abc"])
            client.says(*[{"action": "presence.enter", "channel": c} for c in "bcd"])

            getattr(client, end)()
            self.server.advance(20)

            self.assertEqual((len(self.server.server.hub), len(self.server.server.gate)), (0, 0), end)

    def test_repeatedly(self) -> None:
        """A thousand connections later nothing is left of them."""
        for n in range(1000):
            client = self.connected(client_id=f"c{n % 7}")
            client.says({"action": "subscribe", "channel": f"a{n % 5}", "rewind": 1})
            client.says({"action": "presence.enter", "channel": "room"})
            client.closes() if n % 2 else client.disappears()
        self.server.advance(30)

        self.assertEqual((len(self.server.server.hub), len(self.server.server.gate)), (0, 0))
        self.assertEqual(self.server.wait_for(self.server.server.presence.members("demo", "room")), [])


class ReplayTests(PeerTestCase):
    def fails_to_read(self, error: Exception) -> Any:
        """A client whose replay fails with this error."""
        client = self.connected()
        self.publish("a", 1)

        async def fails(*_: Any) -> None:
            raise error

        position = self.server.wait_for(self.server.server.stores.broker.position("demo", "a"))
        read = self.server.server.stores.broker.read
        calls = []

        async def reads(*args: Any) -> Any:
            calls.append(args)
            return await (read if len(calls) == 1 else fails)(*args)

        self.patch(self.server.server.stores.broker, "read", reads)
        client.says({"action": "resume", "positions": {"a": {"epoch": position.epoch, "sequence": 0}}})
        return client

    def test_store_away(self) -> None:
        """A replay that can't go on ends with a reset: the client comes back and resumes."""
        client = self.fails_to_read(Unavailable("away"))

        self.assert_closed(client, "reset")
        self.assertEqual(len(self.server.server.hub), 0)

    def test_bug(self) -> None:
        """So does one that fails, and the log says why."""
        client = self.fails_to_read(ValueError("a bug"))

        self.assert_closed(client, "reset")
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_two_replays(self) -> None:
        """A channel that is subscribed while a replay runs joins it; afterwards another one can start."""
        self.publish("a", *["x" * 60_000] * 20)
        self.publish("b", "b")
        client = self.connected()
        client.stops_reading()
        client.says(*[{"action": "subscribe", "channel": channel, "rewind": 20} for channel in "ab"])
        client.reads()
        self.assertEqual(len(self.data_of(client)), 21)
        self.publish("c", "c")

        client.says({"action": "subscribe", "channel": "c", "rewind": 1})
        for channel in "abc":
            self.publish(channel, channel)

        self.assertEqual(self.data_of(client), ["c", "a", "b", "c"])


class ReturnTests(PeerTestCase):
    def test_requests_wait_for_the_return(self) -> None:
        """What a client asks first does not overtake its return."""
        bob = self.connected(client_id="bob")
        bob.says({"action": "presence.enter", "channel": "room"})
        bob.disappears()
        store, gate = self.server.server.stores.presence, Gate()
        self.patch(store, "adopt", gate.guard(store.adopt))
        bob = self.connected(client_id="bob")
        bob.says({"action": "presence.leave", "channel": "room"})
        self.assert_silent(bob)

        gate.open()
        self.server.settle()

        self.assert_told(bob, action="presence.leave", clientId="bob")

    def test_gone_again_at_once(self) -> None:
        """A client that goes again while it returns stays for another grace period, and then leaves."""
        bob, watcher = self.connected(client_id="bob"), self.subscribed("room")
        bob.says({"action": "presence.enter", "channel": "room"})
        bob.disappears()
        broker, gate = self.server.server.stores.broker, Gate()
        watcher.says({"action": "unsubscribe", "channel": "room"})
        self.patch(broker, "attach", gate.guard(broker.attach))
        bob = self.connected(client_id="bob")
        bob.disappears()
        gate.open()
        self.server.settle()
        members = self.server.server.presence.members

        self.assertEqual([m.client_id for m in self.server.wait_for(members("demo", "room"))], ["bob"])
        self.server.advance(12)

        self.assertEqual(self.server.wait_for(members("demo", "room")), [])
        self.assertEqual(len(self.server.server.hub), 0)

    def test_store_away(self) -> None:
        """When the store is away the client is told, and served."""

        async def fails(*_: Any) -> None:
            raise Unavailable("the presence store is away")

        self.patch(self.server.server.stores.presence, "adopt", fails)
        bob = self.connected(client_id="bob")

        self.assert_refused(bob, "unavailable", "presence")
        self.assert_alive(bob)
