"""One part of a cluster is away in the middle of a burst: what publishers and subscribers see, and what is there after.

Subscribers are read only in the end: what they are sent meanwhile fits in the buffers of their connections.
"""

from __future__ import annotations

import time
from threading import Event
from typing import Any

from tests.cluster.parts import Cluster, ClusterNode, ClusterTestCase, soon
from tests.e2e.cases import ProgramTestCase
from tests.e2e.durability import history
from tests.e2e.node import free_port
from tests.e2e.wire import Wire

_BURST = 200
_RETRY_SECONDS = 0.3


class Publisher:
    """What one connection was answered to its publishes: ``acks`` and ``errors`` by id."""

    def __init__(self, wire: Wire, channel: str) -> None:
        self._wire = wire
        self._channel = channel
        self.acks: dict[str, dict[str, Any]] = {}
        self.errors: dict[str, dict[str, Any]] = {}

    def publish(self, ids: list[str]) -> None:
        """Publishes these, all at once."""
        for id in ids:
            self._wire.say(action="publish", channel=self._channel, id=id, data={"from": id})

    def take(self, count: int) -> None:
        """Hears so many answers."""
        for _ in range(count):
            event = self._wire.event()
            (self.acks if event["action"] == "ack" else self.errors)[event["id"]] = event

    def insist(self, ids: list[str]) -> None:
        """Publishes these, with the same ids, until all are accepted."""
        pause = Event()
        while missing := [id for id in ids if id not in self.acks]:
            self.publish(missing)
            self.take(len(missing))
            pause.wait(_RETRY_SECONDS)


def names(prefix: str, count: int) -> list[str]:
    """Ids that sort as they are counted."""
    return [f"{prefix}{number:05}" for number in range(count)]


class StartTests(ProgramTestCase):
    def test_without_redis(self) -> None:
        """A node that finds no Redis ends with status 1 and a line that says where it looked."""
        node = self.node("--redis", f"redis://127.0.0.1:{free_port()}")

        with self.assertRaises(AssertionError):
            node.start()

        assert node.program is not None
        self.assertEqual(node.program.ends(), 1)
        self.assertRegex(
            node.program.output, r"can't start: redis://127\.0\.0\.1:\d+/0 can't be used: Connection was refused"
        )


class OutageTests(ClusterTestCase):
    channel = "outage"

    def start(self, config: str = "", **how: Any) -> tuple[Cluster, ClusterNode, ClusterNode]:
        """Two nodes, with a subscriber on each."""
        cluster = self.cluster(config, **how)
        self.listeners = [self.connected(node) for node in cluster.nodes]
        for listener in self.listeners:
            listener.subscribe(self.channel)
        a, b = cluster.nodes
        return cluster, a, b

    def publisher(self, node: ClusterNode) -> Publisher:
        """One that publishes to the channel."""
        return Publisher(self.connected(node), self.channel)

    def assert_delivered(self, publisher: Publisher) -> None:
        """Each subscriber got each accepted message once, numbered without a gap, on the connection it had."""
        for listener in self.listeners:
            heard: list[dict[str, Any]] = []
            while len(heard) < len(publisher.acks):
                event = listener.event()
                if event["action"] != "subscribed":  # the channel has moved to another epoch
                    self.assertEqual(event["action"], "message", event)
                    heard.append(event)
            self.assertEqual([event["sequence"] for event in heard], list(range(1, len(heard) + 1)))
            self.assertEqual({event["id"] for event in heard}, set(publisher.acks))
            self.assertEqual([event for event in listener.rest() if event["action"] != "subscribed"], [])

    def assert_kept(self, cluster: Cluster, publisher: Publisher) -> None:
        """Each node's history has each accepted message once, where its ack said."""
        acks = sorted(publisher.acks.values(), key=lambda ack: ack["sequence"])
        for node in cluster.nodes:
            entries = history(self.connected(node), self.channel)
            self.assertEqual(
                [(e["id"], e["sequence"], e["timestamp"]) for e in entries],
                [(ack["id"], ack["sequence"], ack["timestamp"]) for ack in acks],
            )

    def test_redis_frozen(self) -> None:
        """Publishes are refused within 3 s, accepted later under the same ids; connections stay; all is delivered."""
        cluster, a, b = self.start()
        publisher = self.publisher(a)
        ids = names("r", 2 * _BURST)
        publisher.publish(ids[:_BURST])
        publisher.take(1)
        cluster.redis.stop()
        start = time.monotonic()  # noqa: TID251  # how long other processes take
        publisher.publish(ids[_BURST:])
        publisher.take(2 * _BURST - 1)
        seconds = time.monotonic() - start  # noqa: TID251

        self.assertLess(seconds, 3.5)
        self.assertEqual({error["code"] for error in publisher.errors.values()}, {"unavailable"})
        self.assertGreaterEqual(len(publisher.errors), _BURST)
        soon(lambda: (a.readiness(), b.readiness()) == (503, 503), "both nodes say that they are not ready", 10)
        for listener in self.listeners:
            listener.say(action="ping")
        cluster.redis.cont()
        publisher.insist(ids)
        self.assert_delivered(publisher)
        self.assert_kept(cluster, publisher)
        soon(lambda: (a.readiness(), b.readiness()) == (200, 200), "both nodes say that they are ready", 10)

    def test_redis_killed(self) -> None:
        """A Redis that has each write on its disk loses nothing that was acknowledged."""
        cluster, a, b = self.start()
        publisher = self.publisher(a)
        ids = names("k", 3 * _BURST)
        publisher.publish(ids[:_BURST])
        publisher.take(1)
        cluster.redis.kill()
        publisher.take(_BURST - 1)
        soon(lambda: (a.readiness(), b.readiness()) == (503, 503), "both nodes say that they are not ready", 10)

        cluster.redis.start()
        publisher.insist(ids)

        self.assert_delivered(publisher)
        self.assert_kept(cluster, publisher)
        soon(lambda: (a.readiness(), b.readiness()) == (200, 200), "both nodes say that they are ready", 10)

    def test_redis_forgets(self) -> None:
        """A Redis that keeps nothing: subscribers are told of the loss, and what MongoDB had is still there."""
        cluster, a, b = self.start(redis=())
        publisher = self.publisher(a)
        kept, late, amid, after = (names(prefix, _BURST) for prefix in "abcd")
        publisher.insist(kept)
        soon(lambda: cluster.queued() == 0, "everything is persisted")
        publisher.publish(late)
        publisher.take(1)
        cluster.redis.kill()
        publisher.take(_BURST - 1)
        cluster.redis.start()
        publisher.insist(amid)
        soon(lambda: (a.readiness(), b.readiness()) == (200, 200), "both nodes say that they are ready", 10)
        publisher.insist(after)

        for listener in self.listeners:
            events = [listener.event()]
            while events[-1].get("id") != after[-1]:
                events.append(listener.event())
            told = [event.get("code") for event in events if event["action"] == "error"]
            self.assertEqual(told, ["recovery_failed"])
            end = [event["id"] for event in events if event["action"] == "message"][-_BURST:]
            self.assertEqual(end, after)
        for node in cluster.nodes:
            found = [entry["id"] for entry in history(self.connected(node), self.channel)]
            self.assertEqual([id for id in found if id in set(kept)], kept)
            self.assertEqual(found[-_BURST:], after)
            self.assertEqual(set(found[-2 * _BURST : -_BURST]), set(amid))

    def test_mongo_away(self) -> None:
        """Publishing and delivery go on, nodes stay ready, and MongoDB catches up when it is back."""
        cluster, a, b = self.start()
        publisher = self.publisher(a)
        ids = names("m", 5 * _BURST)
        publisher.publish(ids[:_BURST])
        publisher.take(1)
        cluster.mongo.kill()
        publisher.take(_BURST - 1)
        for at in range(_BURST, len(ids), _BURST):
            publisher.publish(ids[at : at + _BURST])
            publisher.take(_BURST)

        self.assertEqual(publisher.errors, {})
        self.assertEqual((a.readiness(), b.readiness()), (200, 200))
        self.assert_delivered(publisher)
        self.assertGreater(cluster.queued(), 0)
        self.assert_shown_or_refused(a, publisher)
        cluster.mongo.start()
        self.assert_kept_soon(cluster, publisher)
        soon(lambda: cluster.queued() == 0, "MongoDB has caught up")
        self.assert_kept(cluster, publisher)

    def assert_shown_or_refused(self, node: ClusterNode, publisher: Publisher) -> None:
        """History is whole or refused, never a part of it without a word."""
        answer = self.ask_history(node)
        if answer["action"] == "error":
            self.assertEqual(answer["code"], "unavailable")
        else:
            newest = sorted(publisher.acks.values(), key=lambda ack: -ack["sequence"])[:50]
            self.assertEqual([e["id"] for e in answer["messages"]], [ack["id"] for ack in newest])

    def assert_kept_soon(self, cluster: Cluster, publisher: Publisher) -> None:
        """As soon as a node answers, its answer is whole."""
        for node in cluster.nodes:
            soon(lambda node=node: self.ask_history(node)["action"] == "history", "history is answered")  # type: ignore[misc]
        self.assert_kept(cluster, publisher)

    def ask_history(self, node: ClusterNode) -> dict[str, Any]:
        """The answer to a request for the last messages."""
        wire = self.connected(node)
        wire.say(action="history", channel=self.channel)
        return wire.event()

    def test_backlog_is_bounded(self) -> None:
        """With MongoDB away publishes are refused beyond ``redis.backlog``, and accepted when it is back."""
        backlog = 1000
        cluster, a, b = self.start(f"[redis]\nbacklog = {backlog}\n")
        publishers = [self.publisher(a), self.publisher(b)]
        publishers[0].insist(names("w", 1))
        soon(lambda: cluster.queued() == 0, "the first message is persisted")
        cluster.mongo.stop()
        ids = [names("x", backlog), names("y", backlog)]
        for publisher, mine in zip(publishers, ids, strict=True):
            publisher.publish(mine)
        for publisher in publishers:
            publisher.take(backlog)

        accepted = [len(publisher.acks) for publisher in publishers]
        self.assertLessEqual(backlog, sum(accepted))
        self.assertLessEqual(sum(accepted), backlog + 1)
        refusals = [error for publisher in publishers for error in publisher.errors.values()]
        self.assertEqual({error["code"] for error in refusals}, {"unavailable"})
        self.assertIn("redis.backlog", refusals[0]["error"])
        cluster.mongo.cont()
        for publisher, mine in zip(publishers, ids, strict=True):
            publisher.insist(mine)
        publishers[0].acks.update(publishers[1].acks)
        self.assert_delivered(publishers[0])
        self.assert_kept(cluster, publishers[0])

    def test_node_frozen(self) -> None:
        """A node that stood still for 15 s gives its subscribers what they missed, on the connections they had."""
        cluster, a, b = self.start()
        publisher = self.publisher(b)
        ids = names("n", 5 * _BURST)
        publisher.publish(ids[:_BURST])
        publisher.take(1)
        a.freeze()
        publisher.take(_BURST - 1)
        for at in range(_BURST, 4 * _BURST, _BURST):
            Event().wait(5)
            publisher.publish(ids[at : at + _BURST])
            publisher.take(_BURST)
        a.thaw()
        publisher.insist(ids)

        self.assertEqual(publisher.errors, {})
        self.assert_delivered(publisher)
        self.assert_kept(cluster, publisher)
        soon(lambda: a.readiness() == 200, "the node is ready again", 10)
