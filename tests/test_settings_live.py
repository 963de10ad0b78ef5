"""Settings, keys and revocations that are changed while clients are connected: all of it holds within a second."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from tests.base import TestCase
from tests.vocabulary import Gate, ServerTestCase
from wsock.client import Client, ClientError
from wsock.config import Config, Limits
from wsock.interfaces import App, Key
from wsock.protocol.messages import HistoryQuery
from wsock.protocol.rates import Rate
from wsock.records import Namespace, Plan, PlanLimits, Record, Revocation, Revoked, Settings
from wsock.server import Server
from wsock.services.access import Actor
from wsock.services.auth import hash_api_key
from wsock.testing import InMemoryClient


class LiveTestCase(ServerTestCase):
    """A server with the app ``demo``, whose records a test changes as another node would: nobody tells this one."""

    @property
    def directory(self) -> Any:
        """Where the records are."""
        return self.server.server.stores.directory

    def change(self, kind: type[Record], id: str, **fields: Any) -> None:
        """Changes a record; a second passes."""
        stored = self.server.wait_for(self.directory.find(kind, id))
        self.server.wait_for(self.directory.replace(replace(stored, **fields)))
        self.server.advance(1)

    def set(self, pattern: str | None = None, **settings: Any) -> None:
        """Gives the app these settings, or the channels of a new namespace; a second passes."""
        if pattern is None:
            self.change(App, "demo", settings=Settings(**settings))
        else:
            self.add(Namespace(id=pattern, app="demo", pattern=pattern, created_at=0, settings=Settings(**settings)))

    def add(self, *records: Record) -> None:
        """Stores records; a second passes."""
        self.server.wait_for(self.directory.add(records))
        self.server.advance(1)

    def remove(self, kind: type[Record], id: str) -> None:
        """Deletes a record; a second passes."""
        self.server.wait_for(self.directory.remove(kind, id))
        self.server.advance(1)

    def key(self, id: str = "k", app: str = "demo", **fields: Any) -> None:
        """Makes a key whose API key is its id."""
        self.add(Key(id=id, app=app, name="", created_at=0, api_key_hash=hash_api_key(id), **fields))

    def says(self, client: InMemoryClient, action: str, channel: str = "news", **fields: Any) -> None:
        client.says({"action": action, "channel": channel, **fields})

    def assert_ended(self, client: InMemoryClient, *words: str, code: str = "unauthorized") -> None:
        """The client was told why and that it has to go, and is turned away now."""
        error = client.take()[-1]
        self.assert_fields(error, action="error", code=code)
        for word in words:
            self.assertIn(word, error["error"])
            self.assertIn(word, client.close_reason)
        self.assert_closed(client, 4403)


class SettingsTests(LiveTestCase):
    """What may be said of an app, or of some of its channels."""

    def test_message_bytes(self) -> None:
        """The refusal names the setting and where it comes from."""
        client = self.connected()
        self.set(message_bytes=50)
        self.set("small:*", message_bytes=10)

        self.says(client, "publish", data="x" * 30)
        self.assert_actions(client, "ack")
        self.says(client, "publish", data="x" * 60)
        self.assert_refused(client, "too_large", "more than 50", "message_bytes of the app")
        self.says(client, "publish", "small:a", data="x" * 30)
        self.assert_refused(client, "too_large", "more than 10", "message_bytes of the namespace 'small:*'")

    def test_plan(self) -> None:
        """So does one of the plan, which may itself be changed."""
        client = self.connected()
        self.add(Plan(id="tiny", name="Tiny", limits=PlanLimits(message_bytes=10)))
        self.change(App, "demo", plan="tiny")
        self.says(client, "publish", data="x" * 30)
        self.assert_refused(client, "too_large", "the plan 'tiny'")

        self.change(Plan, "tiny", limits=PlanLimits(message_bytes=100))

        self.says(client, "publish", data="x" * 30)
        self.assert_actions(client, "ack")

    def test_client_publish(self) -> None:
        """Clients may not publish where that is forbidden; the server and backends may, and elsewhere all may."""
        client = self.subscribed("news")
        self.set("news", client_publish=False)

        self.says(client, "publish", id="m1")
        self.assert_refused(client, "forbidden", "the namespace 'news'", id="m1", channel="news")
        self.publish("news", 1)
        self.assertEqual(self.data_of(client), [1])
        self.says(client, "publish", "chat")
        self.assert_actions(client, "ack")
        self.remove(Namespace, "news")
        self.says(client, "publish", id="m1")
        self.assert_actions(client, "ack", "message")

    def history(self, channel: str = "news") -> list[Any]:
        page = self.server.wait_for(self.server.server.messages.history("demo", channel, HistoryQuery()))
        return [int(bytes(message.data)) for message in page.messages]

    def test_history_off(self) -> None:
        """Where history is off, messages are recoverable and are no history."""
        self.publish("news", 1)
        self.set("news", history=False)

        self.publish("news", 2)
        self.publish("chat", 3)

        self.assertEqual((self.history(), self.history("chat")), ([1], [3]))

    def test_history_ttl(self) -> None:
        """A page never shows what is older, whether it is deleted yet or not; in the end it is."""
        self.publish("news", 1)
        self.publish("chat", 1)
        self.server.advance(10)
        self.publish("news", 2)
        self.set("news", history_ttl_seconds=5)

        self.assertEqual((self.history(), self.history("chat")), ([2], [1]))
        self.set(history_ttl_seconds=300)
        self.assertEqual((self.history(), self.history("chat")), ([2], [1]))
        self.server.advance(320)
        store: Any = self.server.server.stores.history
        self.assertEqual(self.server.wait_for(store.page("demo", "chat", HistoryQuery())).messages, [])

    def test_recovery_of_positions(self) -> None:
        """A position from before the recovery time counts as lost, and what is older is not replayed."""
        client = self.subscribed("news", "chat")
        position = {"epoch": self.epoch("news"), "sequence": 0}
        other = {"epoch": self.epoch("chat"), "sequence": 0}
        client.disappears()
        self.publish("news", 1)
        self.publish("chat", 1)
        self.server.advance(20)
        self.publish("news", 2)
        self.set("news", recovery_seconds=10)

        client = self.connected()
        client.says({"action": "resume", "positions": {"news": position, "chat": other}})

        events = client.take()
        [ack] = [e for e in events if e["action"] == "ack"]
        self.assertEqual(ack["data"], {"recovered": ["chat"], "lost": ["news"]})
        self.assertEqual([e["channel"] for e in events if e["action"] == "error"], ["news"])
        told = [(e["channel"], e["data"]) for e in events if e["action"] == "message"]
        self.assertEqual(sorted(told), [("chat", 1), ("news", 2)])

    def test_recovery_of_timestamps(self) -> None:
        """So does a timestamp from before it, but only when something was missed by then."""
        self.set(recovery_seconds=10)
        since = int(self.server.now() * 1000)
        self.server.advance(20)
        self.publish("news", 1)

        def resume() -> list[dict[str, Any]]:
            client = self.connected()
            client.says({"action": "resume", "resumeToken": _token(["news"], since)})
            return client.take()

        events = resume()
        self.assertEqual([e["data"] for e in events if e["action"] == "message"], [1])
        self.assertEqual([e["data"]["lost"] for e in events if e["action"] == "ack"], [[]])
        self.server.advance(20)
        events = resume()
        self.assertEqual([e["data"] for e in events if e["action"] == "message"], [])
        self.assertEqual([e["data"]["lost"] for e in events if e["action"] == "ack"], [["news"]])

    def test_rewind(self) -> None:
        """A rewind brings nothing older than the recovery time."""
        self.publish("news", 1)
        self.server.advance(20)
        self.publish("news", 2)
        self.set(recovery_seconds=10)
        client = self.connected()

        self.says(client, "subscribe", rewind=10)

        self.assertEqual(self.data_of(client), [2])

    def epoch(self, channel: str) -> str:
        return str(self.server.wait_for(self.server.server.stores.broker.position("demo", channel)).epoch)

    def test_presence_off(self) -> None:
        """Who is present leaves, with a word, and nobody enters any more; other channels are not concerned."""
        client, other = self.connected(client_id="bob"), self.subscribed("news", "chat")
        for channel in ("news", "chat"):
            self.says(client, "presence.enter", channel)
        client.take()
        other.take()
        self.set("news", presence=False)

        events = self.assert_actions(client, "error", "presence.leave")
        self.assert_fields(events[0], code="forbidden", channel="news")
        self.assertIn("switched off in 'news'", events[0]["error"])
        self.assert_told(other, action="presence.leave", channel="news")
        self.says(client, "presence.enter")
        self.assert_refused(client, "forbidden", "the namespace 'news'")
        self.says(client, "presence.enter", "chat")
        self.assert_alive(client)

    def test_presence_grace(self) -> None:
        """A member whose connection is lost stays for the app's own time, or the channel's."""
        self.set(presence_grace_seconds=30)
        self.set("chat", presence_grace_seconds=0)
        other = self.subscribed("news", "chat")
        client = self.connected()
        for channel in ("news", "chat"):
            self.says(client, "presence.enter", channel)
        other.take()

        client.disappears()
        self.assert_told(other, action="presence.leave", channel="chat")
        self.server.advance(25)
        self.assertEqual([e for e in other.take() if e["action"] != "pong"], [])
        self.server.advance(10)

        leaves = [e["channel"] for e in other.take() if e["action"] == "presence.leave"]
        self.assertEqual(leaves, ["news"])

    def test_rates(self) -> None:
        """Rates hold for whoever is connected, name the app's setting, and can be taken away again."""
        client = self.connected()
        self.set(user_rate=Rate(1))
        self.says(client, "publish")
        self.says(client, "publish")
        events = self.assert_actions(client, "ack", "error")
        self.assert_fields(events[1], code="rate_limited", retryAfter=1)
        self.assertIn("the app's setting user_rate allows 1 messages", events[1]["error"])

        self.set()

        for _ in range(5):
            self.says(client, "publish")
        self.assert_actions(client, *["ack"] * 5)

    def test_channel_rates(self) -> None:
        """A namespace's rate is of each of its channels."""
        client = self.connected()
        self.set("slow:*", channel_rate=Rate(1))

        for channel in ("slow:a", "slow:a", "slow:b", "news", "news"):
            self.says(client, "publish", channel)

        self.assert_actions(client, "ack", "error", "ack", "ack", "ack")

    def test_rate_mode(self) -> None:
        """An app may have its rates observed only; it is counted what would be refused."""
        client = self.connected()
        self.set(app_rate=Rate(1), rate_mode="observe")

        for _ in range(3):
            self.says(client, "publish")

        self.assert_actions(client, "ack", "ack", "ack")
        self.assertEqual(self.server.server.tally.observed, {"app": 2})

    def test_connection_rate(self) -> None:
        """The rate of each connection is set too, and taken away."""
        client = self.connected()
        self.set(connection_rate=Rate(1))
        for _ in range(2):
            self.says(client, "subscribe")
        events = self.assert_actions(client, "subscribed", "error")
        self.assertIn("the app's setting connection_rate", events[1]["error"])
        later = self.connected()
        for _ in range(2):
            self.says(later, "subscribe")
        self.assert_actions(later, "subscribed", "error")

        self.set()

        for _ in range(5):
            self.says(client, "subscribe")
        self.assert_actions(client, *["subscribed"] * 5)

    def test_origins(self) -> None:
        """A page whose origin is not allowed any more has to go; other clients stay."""
        page = self.connected(headers={"Origin": "https://old.example"})
        new = self.connected(headers={"Origin": "https://new.example"})
        client = self.connected()

        self.change(App, "demo", allowed_origins=("https://new.example",))

        self.assert_ended(page, "origin", code="forbidden")
        self.assert_alive(new)
        self.assert_alive(client)

    def test_other_apps(self) -> None:
        """The settings of one app mean nothing to another."""
        self.add(App(id="shop", name="", created_at=0))
        self.key("s", "shop")
        client = self.connected(key="s")

        self.set(client_publish=False, message_bytes=1)

        self.says(client, "publish", data="xyz")
        self.assert_actions(client, "ack")

    def test_own_publishes_of_an_app_not_read(self) -> None:
        """The first message that the server publishes itself is held to the settings as well, and the order is kept."""
        gate = Gate()
        self.change(App, "demo", settings=Settings(history=False))
        self.patch(self.directory, "app", gate.guard(self.directory.app))
        messages = self.server.server.messages
        published = [messages.publish("demo", "news", n) for n in range(3)]
        self.assertNoResult(published[0])

        gate.open()
        self.server.settle()

        self.assertEqual([self.successResultOf(p).sequence for p in published], [1, 2, 3])
        self.assertEqual(self.history(), [])

    def test_enforced_by_an_app(self) -> None:
        """On a server that observes, an app may enforce its own."""
        self.server = self.serve(Config(limits=Limits(rate_mode="observe")))
        client = self.connected()
        self.set(app_rate=Rate(1), rate_mode="enforce")

        self.says(client, "publish")
        self.says(client, "publish")

        self.assert_actions(client, "ack", "error")


class SlowConsumerTests(LiveTestCase):
    """What becomes of clients that read too slowly, by the app's settings."""

    limits = Limits(output_bytes=20_000)

    def pile_up(self, **settings: Any) -> tuple[InMemoryClient, list[dict[str, Any]]]:
        """A subscriber that reads nothing for a while, and what it then hears."""
        client = self.subscribed("news", "chat")
        self.set(**settings)
        client.take()
        client.stops_reading()
        for number in range(400):
            self.publish("news", f"{number} {'x' * 1000}")
        self.publish("chat", "end")
        client.reads()
        return client, client.take()

    def numbers(self, events: list[dict[str, Any]]) -> list[int]:
        return [int(e["data"].split()[0]) for e in events if e["action"] == "message" and e["channel"] == "news"]

    def test_disconnect(self) -> None:
        """Without a setting the connection is reset."""
        client, _ = self.pile_up()

        self.assert_closed(client, "reset")

    def test_drop_oldest(self) -> None:
        """The oldest that wait are lost, in one place where the client is told so; it stays connected."""
        client, events = self.pile_up(slow_consumer="drop_oldest")

        self.assertIsNone(client.closed)
        numbers = self.numbers(events)
        [gap] = [n for n, (a, b) in enumerate(zip(numbers, numbers[1:], strict=False)) if b != a + 1]
        self.assertEqual(numbers[-1], 399)
        self.assertTrue(10 < len(numbers[gap + 1 :]) < 20, numbers)
        self.assertEqual(events[gap + 1]["code"], "recovery_failed")
        self.assertEqual(len([e for e in events if e["action"] == "error"]), 1)
        self.assertEqual(events[-1]["data"], "end")
        self.assertEqual(self.server.server.gate.held.dropped, 400 - len(numbers))
        self.assertEqual((self.server.server.gate.held.bytes, client.transport.connected), (0, True))

    def test_latest(self) -> None:
        """Only the newest of each channel waits."""
        _, events = self.pile_up(slow_consumer="latest")

        numbers = self.numbers(events)
        self.assertEqual(numbers[-1], 399)
        self.assertEqual(numbers[:-1], list(range(len(numbers) - 1)))
        self.assertEqual([e["action"] for e in events[-3:]], ["error", "message", "message"])

    def test_acks_alone(self) -> None:
        """What may not be dropped and exceeds the limit ends the connection, as ever."""
        client = self.connected()
        self.set(slow_consumer="drop_oldest")
        client.stops_reading()

        for start in range(0, 700, 100):
            ids = [f"{n} {'x' * 200}" for n in range(start, start + 100)]
            client.says(*[{"action": "publish", "channel": "c", "id": id} for id in ids])

        self.assert_closed(client, "reset")


class EndedTests(LiveTestCase):
    """Connections whose credential is no longer good end with a word, and do not come back."""

    def test_revoked_key(self) -> None:
        """A key that is revoked ends its connections, and no others; members leave at once."""
        self.key("k", client_ids="*")
        mine, other = self.connected(key="k", client_id="bob"), self.subscribed("news")
        self.says(mine, "presence.enter")
        other.take()

        self.change(Key, "k", is_revoked=True)

        self.assert_ended(mine, "the key 'k' is revoked")
        self.server.advance(1)
        self.assert_told(other, action="presence.leave", clientId="bob", reason="kicked")
        self.assertEqual(self.server.connect(key="k").status, 401)

    def test_key_ends(self) -> None:
        """So does one that is deleted, expires or is retired."""
        now = int(self.server.now() * 1000)
        for id, fields, words in (
            ("e", {"expires_at": now}, "has expired"),
            ("r", {"retire_at": now, "replaced_by": "demo"}, "was retired"),
        ):
            self.key(id)
            client = self.connected(key=id)
            self.change(Key, id, **fields)
            self.assert_ended(client, words)
        self.key("d")
        client = self.connected(key="d")
        self.remove(Key, "d")
        self.assert_ended(client, "the key 'd' was deleted")

    def test_end_that_is_near(self) -> None:
        """A connection ends when its key does, though that was set while it lived; it may be put off again."""
        self.key("k")
        soon, later = self.connected(key="k"), self.connected(token=self.server.token(sub="bob"))
        self.change(Key, "k", retire_at=int(self.server.now() * 1000) + 20_000)
        self.assert_alive(soon)

        self.server.advance(60)

        self.assert_closed(soon, 4401)
        self.assert_alive(later)

    def test_app(self) -> None:
        """An app that is disabled or deleted keeps no connection."""
        self.add(App(id="shop", name="", created_at=0))
        self.key("s", "shop")
        client, other = self.connected(key="s"), self.connected()
        self.change(App, "shop", is_enabled=False)
        self.assert_ended(client, "the app 'shop' is disabled", code="forbidden")
        self.change(App, "shop", is_enabled=True)
        client = self.connected(key="s")

        self.remove(App, "shop")

        self.assert_ended(client, "the app 'shop' was deleted")
        self.assert_alive(other)
        self.assertEqual(self.server.connect(key="s").status, 401)

    def test_revoked_token(self) -> None:
        """A token's id can be revoked, and a clientId, until that ends."""
        one, two = self.server.token(sub="bob", jti="t1"), self.server.token(sub="eve", jti="t2")
        bob, eve = self.connected(token=one), self.connected(token=two)
        until = int(self.server.now() * 1000) + 60_000

        self.revoke(Revoked.TOKEN, "t1")
        self.assert_ended(bob, "'t1'")
        self.assert_alive(eve)
        self.revoke(Revoked.CLIENT, "eve", until)
        self.assert_ended(eve, "the client 'eve'")

        self.assertEqual([self.server.connect(token=token).status for token in (one, two)], [401, 401])
        self.server.advance(61)
        self.assertEqual([self.server.connect(token=token).status for token in (one, two)], [401, 101])

    def revoke(self, kind: Revoked, value: str, expires_at: int | None = None) -> None:
        self.add(Revocation(id=value, app="demo", kind=kind, value=value, created_at=0, expires_at=expires_at))

    def test_many(self) -> None:
        """Very many connections are ended a slice at a time, with the reactor's other work in between."""
        self.key("k")
        clients = [self.connected(key="k") for _ in range(600)]
        stored = self.server.wait_for(self.directory.find(Key, "k"))
        self.server.wait_for(self.directory.replace(replace(stored, is_revoked=True)))
        poked = self.server.server.watch.poke()
        closed = [sum(client.closed is not None for client in clients)]
        while closed[-1] < 600:
            self.server.settle()
            closed.append(sum(client.closed is not None for client in clients))

        self.assertEqual(closed, [250, 600])
        self.successResultOf(poked)

    def test_only_the_app_concerned(self) -> None:
        """Connections of apps of which nothing was changed are not looked at."""
        self.add(App(id="shop", name="", created_at=0))
        self.key("s", "shop")
        self.connected(key="s")
        [connection] = self.server.server.gate.connections()
        visits: list[object] = []
        self.patch(type(connection), "reassess", lambda connection, crowd: visits.append(connection.peer.app))
        self.connected()

        self.set(history=False)

        self.assertEqual(visits, ["demo"])

    def test_directory_away(self) -> None:
        """While the directory is away connections stay; what was changed holds when it is back."""
        self.key("k")
        client = self.connected(key="k")
        gate: dict[str, Any] = {"page": self.directory.page}

        async def away(*args: Any) -> None:
            raise RuntimeError("away")

        self.patch(self.directory, "page", away)
        self.change(Key, "k", is_revoked=True)
        self.assert_alive(client)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)) > 0, True)
        self.directory.page = gate["page"]
        self.server.advance(1)

        self.assert_ended(client, "revoked")

    def test_open_while_it_is_revoked(self) -> None:
        """A connection whose credential was looked up before the change and opens behind it is not forgotten."""
        self.key("k")
        gate = Gate()
        self.patch(self.directory, "app", gate.guard(self.directory.app))
        client = self.server.connect(key="k")
        self.assertIsNone(client.status)
        stored = self.server.wait_for(self.directory.find(Key, "k"))
        self.server.wait_for(self.directory.replace(replace(stored, is_revoked=True)))
        self.server.advance(1)

        gate.open()
        self.server.settle()

        self.assertEqual(client.status, 401)

    def test_new_key(self) -> None:
        """One that another node made a moment ago is good at once, though this node has not heard of a change yet."""
        self.connected()
        key = Key(id="fresh", app="demo", name="", created_at=0, api_key_hash=hash_api_key("fresh"))
        self.server.wait_for(self.directory.add([key]))

        client = self.server.connect(key="fresh")
        self.server.settle()

        self.says(client, "subscribe")
        self.assert_actions(client, "subscribed")

    def test_revoked_behind_the_credential(self) -> None:
        """Nor is one that waits for something else when its key is revoked."""
        self.key("k")
        gate, quotas = Gate(), self.server.server.quotas
        self.patch(type(quotas), "admit_connection", gate.guard(type(quotas).admit_connection))
        client = self.server.connect(key="k")
        self.change(Key, "k", is_revoked=True)

        gate.open()
        self.server.settle()

        self.assertEqual((client.status, client.body["code"]), (401, "unauthorized"))


class PermissionsTests(LiveTestCase):
    """A key that may less than before."""

    def test_subscriptions(self) -> None:
        """What is not allowed any more ends, with a word; the connection and all else stays."""
        self.key("k")
        client = self.connected(key="k")
        for channel in ("news", "chat"):
            self.says(client, "subscribe", channel)
            self.says(client, "presence.enter", channel)
        client.take()

        self.change(Key, "k", permissions={"chat": ["*"], "news": ["publish"]})

        events = client.take()
        self.assertEqual(
            [(e["action"], e["channel"]) for e in events],
            [("error", "news"), ("unsubscribed", "news"), ("error", "news"), ("presence.leave", "news")],
        )
        self.assertIn("'subscribe' on 'news'", events[0]["error"])
        self.publish("news", 1)
        self.publish("chat", 2)
        self.assertEqual(self.data_of(client), [2])
        self.says(client, "subscribe")
        self.assert_refused(client, "forbidden")

    def test_more(self) -> None:
        """What is newly allowed works on the same connection."""
        self.key("k", permissions={"chat": ["subscribe"]})
        client = self.connected(key="k")
        self.change(Key, "k", permissions={"*": ["*"]})

        self.says(client, "publish")

        self.assert_actions(client, "ack")

    def test_token(self) -> None:
        """A token stays within its key, and within itself."""
        token = self.server.token(sub="bob", permissions={"news": ["subscribe"], "chat": ["subscribe"]})
        client = self.connected(token=token)
        for channel in ("news", "chat"):
            self.says(client, "subscribe", channel)
        client.take()

        self.change(Key, "demo", permissions={"news": ["*"]})

        self.assert_actions(client, "error", "unsubscribed")
        self.says(client, "publish")
        self.assert_refused(client, "forbidden")

    def test_request_under_way(self) -> None:
        """A subscription that was allowed when it was asked for and is not when it is made ends at once."""
        self.key("k")
        client = self.connected(key="k")
        gate = Gate()
        hub: Any = self.server.server.hub
        self.patch(hub, "open", gate.guard(hub.open))
        self.says(client, "subscribe")
        self.change(Key, "k", permissions={})

        gate.open()
        self.server.settle()

        self.assert_actions(client, "subscribed", "error", "unsubscribed")


class PokeTests(LiveTestCase):
    def test_rest(self) -> None:
        """What is changed by this node's REST API holds here when that is answered, without a second passing."""
        self.key("k")
        client = self.connected(key="k")
        account = self.server.wait_for(self.directory.account_by_email("admin@localhost"))
        made = self.server.wait_for(self.server.server.access_tokens.create(Actor.of(account), "test"))
        head = f"DELETE /api/admin/apps/demo/keys/k HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {made.text}\r\n\r\n"

        asked = self.server.accept()
        asked.says_bytes(head.encode())

        self.assertEqual(asked.status, 204, asked.body)
        self.assertEqual(client.closed, 4403)


class RealServerTests(TestCase):
    """A development server with sockets and this project's client."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        from twisted.internet import reactor  # noqa: TID251  # trial's own: the sockets are real

        self.reactor: Any = reactor
        self.server = Server(
            Config(dev=True, listen=("tcp:0:interface=127.0.0.1",)), reactor=reactor, show=lambda text: None
        )
        self.server.startService()
        self.addCleanup(self.server.stopService)
        await self.server.started()
        address: Any = self.server._ports[0].getHost()
        port = address.port
        self.client = Client(f"ws://127.0.0.1:{port}", key="demo", reactor=reactor)
        self.addCleanup(self.client.close)
        await self.client.connect()

    async def test_setting(self) -> None:
        """A change in the directory that nobody tells this node of holds on a live connection within a second."""
        channel = self.client.channel("news")
        await channel.publish("x" * 100)
        app = await self.server.directory.app("demo")
        assert app is not None
        heard: Deferred[None] = Deferred()

        async def reloaded() -> None:
            if not heard.called:
                heard.callback(None)

        await deferLater(self.reactor, 0)
        self.server.watch.listen(reloaded)
        await self.server.directory.replace(replace(app, settings=Settings(message_bytes=50)))
        await heard.addTimeout(1.0, self.reactor)

        try:
            await channel.publish("x" * 100)
        except ClientError as e:
            self.assertEqual(e.code, "too_large")
        else:
            self.fail("the message was accepted")


def _token(channels: list[str], since: int) -> str:
    import base64
    import json

    return base64.urlsafe_b64encode(json.dumps({"channels": channels, "lastTs": since}).encode()).decode()
