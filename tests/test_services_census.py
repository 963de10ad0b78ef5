"""What goes on in an app on all nodes: over nodes in memory, and over a whole server."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.base import SynchronousTestCase
from tests.nodes import Node
from wsock.backends.memory_control import MemoryControl
from wsock.backends.memory_presence import MemoryPresence
from wsock.backends.memory_store import MemoryMessages
from wsock.backends.respondent import Respondent
from wsock.config import Config, Recovery
from wsock.errors import Code, Refused
from wsock.interfaces import Answers
from wsock.services.census import Census, ConnectionDetail, ConnectionInfo, Disconnected
from wsock.services.control import Control
from wsock.services.messages import Messages
from wsock.services.presence import Presence
from wsock.testing import InMemoryClient, InMemoryServer
from wsock.testing.fakes import RecordingReceiver

NAMES = st.text(alphabet="ab/é\U0001f600", min_size=1, max_size=4)
COUNTS = st.dictionaries(NAMES, st.integers(min_value=1, max_value=5), max_size=12)


@dataclass
class FakePeer:
    """A client."""

    id: str
    app: str
    client_id: str
    channels: dict[str, None]
    present: dict[str, None] = field(default_factory=dict)


@dataclass
class FakeConnection:
    """A connection; ``kicks`` are the reasons for which it was ended."""

    peer: FakePeer
    is_ending: bool = False
    kicks: list[str] = field(default_factory=list)

    def describe(self, node: str) -> ConnectionInfo:
        """What there is to know."""
        return info(self.peer.id, node, self.peer.client_id, channels=len(self.peer.channels))

    def kick(self, reason: str) -> None:
        """It ends."""
        self.kicks.append(reason)
        self.is_ending = True


class FakeGate:
    """The connections of a node."""

    def __init__(self) -> None:
        self.all: list[FakeConnection] = []

    def connections_of(self, app: str) -> Iterable[FakeConnection]:
        """Those of the app."""
        return [connection for connection in self.all if connection.peer.app == app]

    def add(self, id: str, client_id: str = "bob", *channels: str, app: str = "shop") -> FakeConnection:
        """One more."""
        connection = FakeConnection(FakePeer(id, app, client_id, dict.fromkeys(channels)))
        self.all.append(connection)
        return connection


def info(id: str, node: str, client_id: str = "bob", **more: Any) -> ConnectionInfo:
    """What a fake connection says of itself."""
    facts: dict[str, Any] = {
        "key_id": "k",
        "token_id": None,
        "connected_at": 1000,
        "ip": "192.0.2.1",
        "user_agent": "test",
        "transport": "websocket",
        "is_compressed": False,
        "channels": 0,
        "present": 0,
        "queued_bytes": 0,
    }
    return ConnectionInfo(id=id, node=node, client_id=client_id, **{**facts, **more})


class Nodes:
    """Nodes in memory that can ask one another; each has its own hub and connections, presence is shared."""

    def __init__(self, number: int) -> None:
        shared: list[Respondent] = []
        self.store = MemoryPresence()
        self.store.listen(RecordingReceiver())
        presence = Presence(self.store, Clock(), lambda: 0.0)
        self.nodes = [Node() for _ in range(number)]
        self.gates = [FakeGate() for _ in range(number)]
        self.controls = [MemoryControl(shared) for _ in range(number)]
        self.census = [
            Census(
                Control(control),
                node.hub,
                gate,
                node.broker,
                Messages(node.broker, MemoryMessages(), lambda: "id"),
                presence,
                node=f"n{position}",
            )
            for position, (control, node, gate) in enumerate(zip(self.controls, self.nodes, self.gates, strict=True))
        ]


class CensusTestCase(SynchronousTestCase):
    def done(self, work: Any) -> Any:
        """The result of a coroutine that does not wait."""
        return self.successResultOf(Deferred.fromCoroutine(work))

    def occupy(self, nodes: Nodes, node: int, channel: str, subscribers: int, app: str = "shop") -> None:
        """So many are subscribed to a channel on a node."""
        self.done(nodes.nodes[node].hub.open(app, channel)).subscribers = subscribers


class ChannelsTests(CensusTestCase):
    @given(counts=st.lists(COUNTS, min_size=1, max_size=4), prefix=st.text("ab", max_size=1), limit=st.integers(1, 8))
    def test_pages(self, counts: list[dict[str, int]], prefix: str, limit: int) -> None:
        """Whatever is on which node: the parts one after the other are all channels, in order, with their sums."""
        nodes = Nodes(len(counts))
        for node, channels in enumerate(counts):
            for channel, subscribers in channels.items():
                self.occupy(nodes, node, channel, subscribers)
                self.occupy(nodes, node, channel, 9, app="other")
        truth: dict[str, int] = {}
        for channels in counts:
            for channel, subscribers in channels.items():
                if channel.startswith(prefix):
                    truth[channel] = truth.get(channel, 0) + subscribers

        found: list[tuple[str, int]] = []
        cursor: str | None = None
        for _ in range(len(truth) // limit + 1):
            part = self.done(nodes.census[0].channels("shop", prefix=prefix, cursor=cursor, limit=limit))
            self.assertTrue(part.is_complete)
            self.assertLessEqual(len(part.items), limit)
            found += [(item.channel, item.subscribers) for item in part.items]
            cursor = part.next
            if cursor is None:
                break
            self.assertEqual(len(part.items), limit)

        self.assertIsNone(cursor)
        self.assertEqual(found, sorted(truth.items()))

    def test_unoccupied(self) -> None:
        """A channel that is only looked at, or where somebody is present only, is not occupied."""
        nodes = Nodes(2)
        self.occupy(nodes, 0, "news", 0)
        self.occupy(nodes, 1, "chat", 1)

        part = self.done(nodes.census[0].channels("shop"))

        self.assertEqual([item.channel for item in part.items], ["chat"])

    def test_members(self) -> None:
        """Members are counted by the presence store, of all nodes and each once."""
        nodes = Nodes(2)
        for node in (0, 1):
            self.occupy(nodes, node, "chat", 1)
        for client in ("ann", "bob"):
            self.done(nodes.store.enter("shop", "chat", client, f"{client}-1", b"{}", 0.0))
            self.done(nodes.store.enter("shop", "chat", client, f"{client}-2", b"{}", 0.0))

        [chat] = self.done(nodes.census[0].channels("shop")).items
        about = self.done(nodes.census[0].channel("shop", "chat"))

        self.assertEqual((chat.subscribers, chat.members), (2, 2))
        self.assertEqual((about.subscribers, about.members), (2, 2))

    def test_a_node_fails(self) -> None:
        """What the others have is told, and that it is not all."""
        nodes = Nodes(2)
        self.occupy(nodes, 0, "chat", 1)
        nodes.controls[1].listen(lambda question: 1 / 0)  # type: ignore[arg-type, return-value]

        part = self.done(nodes.census[0].channels("shop"))
        about = self.done(nodes.census[0].channel("shop", "chat"))

        self.assertEqual([item.channel for item in part.items], ["chat"])
        self.assertFalse(part.is_complete)
        self.assertEqual((about.subscribers, about.is_complete), (1, False))
        self.flushLoggedErrors(ZeroDivisionError)


class SlowControl(MemoryControl):
    """Answers when it is told to."""

    def __init__(self) -> None:
        super().__init__([])
        self.waiting: list[Deferred[Answers]] = []

    async def ask(self, question: bytes, timeout: float) -> Answers:
        """Waits."""
        self.waiting.append(Deferred())
        return await self.waiting[-1]


class SharesTests(CensusTestCase):
    def test_one_app(self) -> None:
        """One app can't take up all questions that may be under way."""
        node, control = Node(), SlowControl()
        messages = Messages(node.broker, MemoryMessages(), lambda: "id")
        presence = Presence(MemoryPresence(), Clock(), lambda: 0.0)
        census = Census(Control(control), node.hub, FakeGate(), node.broker, messages, presence, node="n")
        asking = [Deferred.fromCoroutine(census.connections("shop")) for _ in range(16)]

        refused = self.failureResultOf(Deferred.fromCoroutine(census.connections("shop")), Refused).value
        other = Deferred.fromCoroutine(census.connections("other"))
        for waiting in control.waiting:
            waiting.callback(Answers([], True))

        self.assertEqual((refused.code, refused.retry_after), (Code.RATE_LIMITED, 1.0))
        for one in (*asking, other):
            self.assertEqual(self.successResultOf(one).items, [])
        self.assertNoResult(Deferred.fromCoroutine(census.connections("shop")))


class AppName(str):
    """An app's name that counts how often it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        AppName.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


class CostTests(CensusTestCase):
    def test_channels(self) -> None:
        """What one app asks does not look at the channels of the others."""
        nodes = Nodes(1)
        for number in range(100):
            self.occupy(nodes, 0, f"c{number}", 1, AppName("other"))
        self.occupy(nodes, 0, "chat", 1)
        AppName.compared = 0

        part = self.done(nodes.census[0].channels("shop"))

        self.assertEqual([item.channel for item in part.items], ["chat"])
        self.assertEqual(AppName.compared, 0)

    def test_connections(self) -> None:
        """A node gives the connections of one app, while they are open."""
        server = InMemoryServer()
        self.addCleanup(server.stop)
        client = server.connect()
        gate = server.server.gate

        self.assertEqual(list(gate.connections_of("demo")), gate.connections())
        self.assertEqual(list(gate.connections_of("other")), [])
        client.closes()
        self.assertEqual(list(gate.connections_of("demo")), [])


class ConnectionsTests(CensusTestCase):
    def setUp(self) -> None:
        self.nodes = Nodes(2)
        self.census = self.nodes.census[0]
        one, other = self.nodes.gates
        self.a = one.add("a", "ann", "chat", "news")
        self.b = other.add("b", "bob", "chat")
        self.c = one.add("c", "bob")
        self.d = other.add("d", "bob", "chat", app="other")

    def ids(self, **how: Any) -> list[str]:
        """The ids of a list."""
        return [item.id for item in self.done(self.census.connections("shop", **how)).items]

    @given(ids=st.lists(st.lists(st.text("0123456789ab", min_size=2, max_size=3), max_size=10), min_size=1, max_size=3))
    def test_pages(self, ids: list[list[str]]) -> None:
        """The parts one after the other are all connections, by id."""
        nodes = Nodes(len(ids))
        truth = sorted({id for some in ids for id in some})
        for id in truth:
            nodes.gates[next(n for n, some in enumerate(ids) if id in some)].add(id)

        found: list[str] = []
        cursor = None
        while True:
            part = self.done(nodes.census[0].connections("shop", cursor=cursor, limit=3))
            found += [item.id for item in part.items]
            cursor = part.next
            if cursor is None:
                break
            self.assertEqual(len(part.items), 3)

        self.assertEqual(found, truth)

    def test_list(self) -> None:
        """The connections of all nodes, each with the name of its node; another app's are not among them."""
        part = self.done(self.census.connections("shop"))

        self.assertEqual(
            part.items, [info("a", "n0", "ann", channels=2), info("b", "n1", channels=1), info("c", "n0", channels=0)]
        )
        self.assertEqual((part.next, part.is_complete), (None, True))

    def test_filters(self) -> None:
        """By clientId, by channel, or both."""
        self.assertEqual(self.ids(client_id="bob"), ["b", "c"])
        self.assertEqual(self.ids(channel="chat"), ["a", "b"])
        self.assertEqual(self.ids(client_id="bob", channel="chat"), ["b"])
        self.assertEqual(self.ids(client_id="nobody"), [])

    def test_ending(self) -> None:
        """What is about to be gone is not listed, nor found, nor ended again."""
        self.b.is_ending = True

        self.assertEqual(self.ids(), ["a", "c"])
        self.assertEqual(self.done(self.census.connection("shop", "b")).parts, [])
        self.assertEqual(self.done(self.census.disconnect("shop", id="b")), Disconnected(0, True))

    def test_one(self) -> None:
        """A connection is found on whatever node, with its channels by name; in its own app only."""
        self.a.peer.present = {"chat": None}

        found = self.done(self.census.connection("shop", "a"))
        foreign = self.done(self.census.connection("shop", "d"))

        self.assertEqual(
            found.parts,
            [ConnectionDetail(info=info("a", "n0", "ann", channels=2), channels=["chat", "news"], present=["chat"])],
        )
        self.assertEqual((foreign.parts, foreign.is_complete), ([], True))

    def test_disconnect_one(self) -> None:
        """Exactly the connection of this id ends."""
        ended = self.done(self.census.disconnect("shop", id="b", reason="too loud"))

        self.assertEqual(ended, Disconnected(1, True))
        self.assertEqual([c.kicks for c in (self.a, self.b, self.c, self.d)], [[], ["too loud"], [], []])

    def test_disconnect_client(self) -> None:
        """All connections of a clientId end, on every node, and not those of another app's client of that name."""
        ended = self.done(self.census.disconnect("shop", client_id="bob", reason="x"))

        self.assertEqual(ended, Disconnected(2, True))
        self.assertEqual([c.kicks for c in (self.a, self.b, self.c, self.d)], [[], ["x"], ["x"], []])

    def test_disconnect_foreign(self) -> None:
        """An id of another app ends nothing."""
        self.assertEqual(self.done(self.census.disconnect("shop", id="d")), Disconnected(0, True))
        self.assertEqual(self.d.kicks, [])

    def test_disconnect_whom(self) -> None:
        """Nobody can be disconnected without saying whom."""
        self.failureResultOf(Deferred.fromCoroutine(self.census.disconnect("shop")), ValueError)
        self.assertEqual(self.a.kicks, [])


class ServerTests(SynchronousTestCase):
    """Over a whole server in memory."""

    def setUp(self) -> None:
        self.server = InMemoryServer()
        self.addCleanup(self.server.stop)
        self.census = self.server.server.census

    def client(self, *channels: str, **how: Any) -> InMemoryClient:
        """A client that is subscribed."""
        client = self.server.connect(**how)
        client.says(*[{"action": "subscribe", "channel": channel} for channel in channels])
        return client

    def occupied(self) -> dict[str, int]:
        """The channels and how many are subscribed."""
        return {c.channel: c.subscribers for c in self.server.wait_for(self.census.channels("demo")).items}

    def test_subscribers(self) -> None:
        """Subscribing twice counts once; unsubscribing, closing and vanishing count at once."""
        ann, bob, carol = self.client("chat", "chat"), self.client("chat", "news"), self.client("chat")
        self.assertEqual(self.occupied(), {"chat": 3, "news": 1})

        ann.says({"action": "unsubscribe", "channel": "chat"}, {"action": "unsubscribe", "channel": "chat"})
        self.assertEqual(self.occupied(), {"chat": 2, "news": 1})
        bob.closes()
        self.server.settle()
        self.assertEqual(self.occupied(), {"chat": 1})
        carol.disappears()
        self.assertEqual(self.occupied(), {})

    def test_while_it_catches_up(self) -> None:
        """Who still catches up is subscribed."""
        for number in range(300):
            self.server.server.messages.publish("demo", "chat", "x" * 1000, id=str(number))
        self.server.settle()
        ann = self.server.connect(client_id="ann")
        ann.stops_reading()
        ann.says({"action": "subscribe", "channel": "chat", "rewind": 300})

        self.assertEqual(self.occupied(), {"chat": 1})
        ann.reads()
        self.assertEqual(self.occupied(), {"chat": 1})

    def test_channel(self) -> None:
        """A channel tells the place and the time of its last message; nobody needs to be there."""
        about = self.server.wait_for(self.census.channel("demo", "chat"))
        self.assertEqual((about.sequence, about.last_message_at, about.subscribers), (0, None, 0))

        self.server.advance(5)
        at = int(self.server.now() * 1000)
        receipt = self.server.wait_for(self.server.server.messages.publish("demo", "chat", 1))
        about = self.server.wait_for(self.census.channel("demo", "chat"))

        self.assertEqual((about.epoch, about.sequence, about.last_message_at), (receipt.epoch, 1, at))

    def test_channel_beyond_the_window(self) -> None:
        """The time of a message that left the recovery window is that in the history."""
        server = InMemoryServer(Config(recovery=Recovery(seconds=1.0)))
        self.addCleanup(server.stop)
        receipt = server.wait_for(server.server.messages.publish("demo", "chat", 1))
        server.advance(600)

        about = server.wait_for(server.server.census.channel("demo", "chat"))

        self.assertEqual(about.last_message_at, receipt.timestamp)

    def test_connection(self) -> None:
        """A connection tells who and where from it is, and what it has."""
        self.server.advance(7)
        at = int(self.server.now() * 1000)
        token = self.server.token(sub="ann", jti="t1")
        self.client("chat", "news", token=token, headers={"User-Agent": "Ann/1"}, address="192.0.2.9")
        self.server.advance(3)

        [found] = self.server.wait_for(self.census.connections("demo")).items

        self.assertEqual((found.client_id, found.key_id, found.token_id), ("ann", "demo", "t1"))
        self.assertEqual((found.ip, found.user_agent, found.connected_at), ("192.0.2.9", "Ann/1", at))
        self.assertEqual((found.node, found.transport, found.is_compressed), ("local", "websocket", False))
        self.assertEqual((found.channels, found.present, found.queued_bytes), (2, 0, 0))
        [detail] = self.server.wait_for(self.census.connection("demo", found.id)).parts
        self.assertEqual((detail.info, detail.channels, detail.present), (found, ["chat", "news"], []))

    def test_queued(self) -> None:
        """What waits for a client to read is told."""
        ann = self.client("chat")
        ann.stops_reading()
        for _ in range(5):
            self.server.wait_for(self.server.server.messages.publish("demo", "chat", "x" * 50_000))

        [found] = self.server.wait_for(self.census.connections("demo")).items

        self.assertGreater(found.queued_bytes, 50_000)

    def test_user_agent_is_shared(self) -> None:
        """It is short, and kept once for all who call themselves alike."""
        for _ in range(2):
            self.server.connect(headers={"User-Agent": "x" * 500})
        one, other = self.server.server.gate.connections()

        self.assertEqual(len(one.user_agent), 120)
        self.assertIs(one.user_agent, other.user_agent)

    def test_disconnect(self) -> None:
        """The client is told why, and gets 4403; others stay."""
        ann = self.client("chat", token=self.server.token(sub="ann"))
        bob = self.client("chat", token=self.server.token(sub="bob"))
        bob.says({"action": "presence.enter", "channel": "chat"})
        ann.take()
        bob.take()

        ended = self.server.wait_for(self.census.disconnect("demo", client_id="bob", reason="too loud"))

        self.assertEqual(ended, Disconnected(1, True))
        [error] = bob.take()
        self.assertEqual((error["action"], error["code"]), ("error", "forbidden"))
        self.assertIn("too loud", error["error"])
        self.assertEqual(bob.closed, 4403)
        self.server.advance(1.5)
        self.assertIsNone(ann.closed)
        [left] = ann.take()
        self.assertEqual((left["action"], left["clientId"], left["reason"]), ("presence.leave", "bob", "kicked"))
        self.assertEqual(self.occupied(), {"chat": 1})
