"""Tests of wsock.services.quotas."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, LogLevel, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer, provider

from tests.base import SynchronousTestCase
from wsock.backends.memory_broker import MemoryBroker
from wsock.backends.memory_directory import MemoryDirectory
from wsock.backends.memory_meters import MemoryMeters
from wsock.backends.memory_store import MemoryMessages
from wsock.errors import Code, Refused, Unavailable
from wsock.interfaces import Bucket, IMeterStore
from wsock.measures import Span
from wsock.records import Plan, PlanLimits
from wsock.services.app_meter import AppMeter
from wsock.services.meters import Meters
from wsock.services.quotas import Quota, Quotas, check_count, require_room
from wsock.testing.fakes import Now

NOVEMBER_30 = 1_796_083_195.0  # five seconds before December begins, by UTC


@implementer(IMeterStore)
class AwayMeters(MemoryMeters):
    """Meters that are away while ``is_away``; ``reads`` counts how often totals were asked for."""

    is_away = False
    reads = 0

    async def buckets(self, apps: Sequence[str], span: Span, start: int) -> dict[str, Bucket]:
        """See IMeterStore."""
        self.reads += 1
        if self.is_away:
            raise Unavailable("the store is away")
        return await super().buckets(apps, span, start)


class Node:
    """A node of the cluster, or the only one, with its quotas."""

    def __init__(self, case: QuotaCase, name: str, *, is_alone: bool, broker: Any = None) -> None:
        self.case = case
        self.meters = Meters(case.store, case.clock, case.now, name, is_alone=is_alone)
        self.warned: list[tuple[str, str, int, int]] = []
        self.exceeded: list[tuple[str, str, int, int]] = []
        self.quotas = Quotas(
            self.meters,
            case.store,
            case.plan_of,
            warn=lambda *warning: self.warned.append(warning),
            exceeded=lambda *exceeded: self.exceeded.append(exceeded),
            broker=broker,
        )
        self.meters.startService()

    @property
    def meter(self) -> AppMeter:
        return self.meters.app("shop")

    @property
    def quota(self) -> Quota:
        quota = self.meter.quota
        assert quota is not None
        return quota

    def publish(self) -> Deferred[bool]:
        """Publishes, as soon as that is admitted; fires whether it was."""
        try:
            admission = self.quota.admit_message()
        except Refused as e:
            return self._refused(Failure(e))
        admitted: Deferred[bool] = Deferred()
        if admission is None:
            self._accepted(None)
            admitted.callback(True)
        else:
            admission.addCallbacks(self._accepted, self._refused_late).addCallback(admitted.callback)
        return admitted

    def _accepted(self, _: None) -> bool:
        self.meter.submitted += 1
        self.meter.messages_in += 1
        self.quota.ended()
        return True

    def _refused(self, failure: Failure) -> Deferred[bool]:
        refused: Deferred[bool] = Deferred()
        refused.callback(self._refused_late(failure))
        return refused

    def _refused_late(self, failure: Failure) -> bool:
        assert isinstance(failure.value, Refused)
        self.case.assertEqual(failure.value.code, Code.QUOTA_EXCEEDED)
        self.case.texts.append(failure.value.text)
        return False


class QuotaCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.now = Now(self.clock, NOVEMBER_30 - 20 * 86_400)
        self.store = AwayMeters()
        self.plan: Plan | None = None
        self.texts: list[str] = []

    def plan_of(self, app: str) -> Plan | None:
        return self.plan if app == "shop" else None

    def allow(self, **limits: int) -> None:
        """The app's plan has these limits."""
        self.plan = Plan(id="small", name="Small", limits=PlanLimits(**limits))

    def node(self, name: str = "n1", *, is_alone: bool = True, broker: Any = None) -> Node:
        node = Node(self, name, is_alone=is_alone, broker=broker)
        self.addCleanup(node.meters.stopService)
        return node

    def started(self, **how: Any) -> Node:
        """A node that has looked once."""
        node = self.node(**how)
        node.meter  # noqa: B018  # comes into use
        self.clock.pump([1, 1])
        return node

    def done(self, work: Coroutine[Deferred[Any], Any, Any]) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(work))

    def refused(self, work: Callable[[], Any]) -> str:
        """Why it is refused."""
        refused = self.assertRaises(Refused, work)
        self.assertEqual(refused.code, Code.QUOTA_EXCEEDED)
        return str(refused.text)

    def stored(self) -> int:
        start = Span.MONTH.start(int(self.now() * 1000))
        found = self.done(self.store.buckets(["shop"], Span.MONTH, start))
        return int(found["shop"].counts["messages_in"]) if found else 0


class PlanTests(QuotaCase):
    def test_unlimited(self) -> None:
        """An app without limits has no quota: it is not looked at."""
        for plan in (None, Plan(id="u", name="U"), Plan(id="x", name="X", limits=PlanLimits(message_bytes=9, apps=1))):
            self.plan = plan
            node = self.started()
            self.assertIsNone(node.meter.quota)
            self.done(node.quotas.admit_connection("shop"))
            self.done(node.quotas.admit_channel(node.meter, "room"))
            node.quotas.check_push("shop")
        self.assertEqual(self.store.reads, 0)

    def test_changes(self) -> None:
        """A plan that changes holds at once after a reload, for better or worse."""
        self.allow(messages_per_month=5)
        node = self.started()
        for _ in range(5):
            self.assertTrue(self.successResultOf(node.publish()))
        self.assertFalse(self.successResultOf(node.publish()))

        self.allow(messages_per_month=7)
        self.done(node.quotas.reload())
        self.assertEqual([self.successResultOf(node.publish()) for _ in range(3)], [True, True, False])
        self.plan = Plan(id="unlimited", name="Unlimited")
        self.done(node.quotas.reload())
        self.assertIsNone(node.meter.quota)
        self.allow(messages_per_month=7)
        self.done(node.quotas.reload())
        self.clock.pump([1, 1])
        self.assertFalse(self.successResultOf(node.publish()))

    def test_known_late(self) -> None:
        """A plan that is not known when the app comes into use holds a second after it is."""
        node = self.started()
        self.allow(connections=1)
        self.clock.advance(1)

        self.assertIsNotNone(node.meter.quota)

    def test_counts(self) -> None:
        """What is only counted when it is made is refused at its limit; an unknown plan limits nothing."""
        plan = Plan(id="p", name="P", limits=PlanLimits(apps=2, webhooks=0))
        check_count(plan, "apps", 1)
        check_count(plan, "members", 1000)
        self.assertEqual(
            self.refused(lambda: check_count(plan, "apps", 2)),
            "the plan 'p' allows 2 apps in a team, and 2 are used: ask for a larger plan",
        )
        self.refused(lambda: check_count(plan, "webhooks", 0))
        directory = MemoryDirectory()
        self.done(require_room(directory, "p", "apps", 2))
        self.done(directory.add([plan]))
        failure = self.failureResultOf(Deferred.fromCoroutine(require_room(directory, "p", "apps", 2)), Refused)
        self.assertEqual(failure.value.code, Code.QUOTA_EXCEEDED)


class MessageTests(QuotaCase):
    def test_exact(self) -> None:
        """A single node lets exactly the month's messages through, however fast they come."""
        self.allow(messages_per_month=100)
        node = self.started()

        outcomes = [self.successResultOf(node.publish()) for _ in range(130)]

        self.assertEqual(outcomes, [True] * 100 + [False] * 30)
        for text in ("'small'", "100 messages a month", "100 are used", "2026-12-01 00:00 UTC"):
            self.assertIn(text, self.texts[0])
        self.clock.pump([1] * 3)
        self.assertFalse(self.successResultOf(node.publish()))
        self.assertEqual(self.stored(), 100)

    def test_first(self) -> None:
        """Before it is known what the month has used, publishes wait, and then go in their order."""
        self.allow(messages_per_month=3)
        node = self.started()
        for _ in range(2):
            node.publish()
        self.successResultOf(node.meters.stopService())
        again = self.node("n2")
        order: list[tuple[int, bool]] = []
        for number in range(3):
            again.publish().addCallback(lambda is_admitted, number: order.append((number, is_admitted)), number)
        self.assertEqual(order, [])

        self.clock.advance(0.1)

        self.assertEqual(order, [(0, True), (1, False), (2, False)])

    def test_failed_publishes(self) -> None:
        """What was admitted and then failed does not count."""
        self.allow(messages_per_month=2)
        node = self.started()
        for _ in range(5):
            self.assertIsNone(node.quota.admit_message())
            node.quota.ended()
            self.clock.advance(1)

        self.assertEqual([self.successResultOf(node.publish()) for _ in range(3)], [True, True, False])

    def test_under_way(self) -> None:
        """What is admitted and not yet accepted counts as used."""
        self.allow(messages_per_month=3)
        node = self.started()
        for _ in range(3):
            self.assertIsNone(node.quota.admit_message())
        self.clock.pump([1] * 3)

        self.refused(node.quota.admit_message)

    def test_next_month(self) -> None:
        """With the next month it begins anew."""
        self.now.set(NOVEMBER_30 - 3)
        self.allow(messages_per_month=2)
        node = self.started()
        self.assertEqual([self.successResultOf(node.publish()) for _ in range(3)], [True, True, False])

        self.clock.pump([1] * 8)

        self.assertEqual([self.successResultOf(node.publish()) for _ in range(3)], [True, True, False])

    def test_clock_jumps(self) -> None:
        """The quota is that of the month that the clock shows, wherever it jumps."""
        self.allow(messages_per_month=2)
        node = self.started()
        here = self.now()
        for jump in (0.0, 40 * 86_400, -40 * 86_400):
            self.now.set(here + jump)
            self.clock.pump([1, 1])
            self.assertEqual([self.successResultOf(node.publish()) for _ in range(3)], [True, True, False], jump)
            self.clock.pump([1, 1])
        self.now.set(here + 40 * 86_400)
        self.clock.pump([1, 1])
        self.assertFalse(self.successResultOf(node.publish()))

    def test_store_is_away(self) -> None:
        """While the store is away publishing goes on, up to what this node itself knows of."""
        self.allow(messages_per_month=4)
        self.store.is_away = True
        node = self.started()
        self.assertEqual([self.successResultOf(node.publish()) for _ in range(4)], [True] * 4)
        self.store.is_away = False
        self.clock.pump([1, 1])

        self.assertFalse(self.successResultOf(node.publish()))


class ClusterTests(QuotaCase):
    def nodes(self, count: int) -> list[Node]:
        nodes = [self.node(f"n{number}", is_alone=False) for number in range(count)]
        for node in nodes:
            node.meter  # noqa: B018  # comes into use
        self.clock.pump([1] * 7)
        return nodes

    def burst(self, nodes: list[Node], each: int) -> list[bool]:
        """Publishes much more than is allowed on all nodes at once; what became of it."""
        outcomes: list[bool] = []
        for _ in range(each):
            for node in nodes:
                node.publish().addCallback(outcomes.append)
        self.clock.pump([0.005] * 5000)
        self.assertEqual(len(outcomes), each * len(nodes))
        return outcomes

    def test_no_overshoot(self) -> None:
        """Nodes that publish all they can at the same moment exceed the limit by one percent at most."""
        for limit, count in ((1000, 2), (2000, 4)):
            self.store = AwayMeters()
            self.allow(messages_per_month=limit)
            nodes = self.nodes(count)

            admitted = sum(self.burst(nodes, limit))

            self.assertTrue(limit <= admitted <= limit * 1.01, (limit, admitted))
            for node in nodes:
                self.successResultOf(node.meters.stopService())
            self.assertEqual(self.stored(), admitted)

    def test_small_limit(self) -> None:
        """A limit of which a percent is less than one is exceeded by one for each other node at most."""
        self.allow(messages_per_month=10)
        nodes = self.nodes(3)

        admitted = sum(self.burst(nodes, 20))

        self.assertTrue(10 <= admitted <= 12, admitted)

    def test_far_from_the_limit(self) -> None:
        """Far from a limit nothing waits and nothing is asked more than once a second."""
        self.allow(messages_per_month=1_000_000)
        nodes = self.nodes(2)
        reads = self.store.reads

        for _ in range(5):
            for node in nodes:
                for _ in range(500):
                    self.assertTrue(self.successResultOf(node.publish()))
            self.clock.advance(1)

        self.assertEqual(self.store.reads - reads, 10)

    def test_connections(self) -> None:
        """Connections of all nodes count, and none goes far ahead of what the others know."""
        self.allow(connections=20)
        nodes = self.nodes(2)
        admitted = 0
        for number in range(60):
            node = nodes[number % 2]
            opening = Deferred.fromCoroutine(node.quotas.admit_connection("shop"))
            if not opening.called:
                self.clock.advance(0.05)
            opening.addCallback(lambda _, meter: meter.opened(), node.meter)
            opening.addErrback(lambda failure: failure.trap(Refused))
            admitted = sum(node.meter.connections for node in nodes)

        self.assertTrue(20 <= admitted <= 21, admitted)


class ConnectionTests(QuotaCase):
    def test_peak(self) -> None:
        """As many connections as the plan allows are let in; when one ends, another may come."""
        self.allow(connections=2)
        node = self.started()
        for _ in range(2):
            self.done(node.quotas.admit_connection("shop"))
            node.meter.opened()

        text = self.refused(lambda: node.quotas.check_connection("shop"))
        self.assertEqual(text, "the plan 'small' allows 2 connections at a time, and 2 are used: ask for a larger plan")
        node.meter.closed("lost")
        self.done(node.quotas.admit_connection("shop"))


class ChannelTests(QuotaCase):
    def test_alone(self) -> None:
        """As many channels as the plan allows may be in use at a time."""
        self.allow(channels=2)
        node = self.started()
        for _ in range(2):
            self.done(node.quotas.admit_channel(node.meter, "room"))
            node.meter.channels += 1

        failure = self.failureResultOf(Deferred.fromCoroutine(node.quotas.admit_channel(node.meter, "c")), Refused)
        self.assertIn("2 channels in use", failure.value.text)
        node.meter.channels -= 1
        self.done(node.quotas.admit_channel(node.meter, "c"))

    def test_cluster(self) -> None:
        """A channel with subscribers on several nodes is one; one that is in use elsewhere may be used here too."""
        broker = MemoryBroker(MemoryMessages(), self.now, lambda: "epoch")
        self.allow(channels=3)
        node = self.started(is_alone=False, broker=broker)
        for channel in ("a", "b", "c"):
            broker.occupy("shop", channel)
        self.clock.advance(1)

        failure = self.failureResultOf(Deferred.fromCoroutine(node.quotas.admit_channel(node.meter, "d")), Refused)
        self.assertEqual(failure.value.code, Code.QUOTA_EXCEEDED)
        self.done(node.quotas.admit_channel(node.meter, "a"))
        broker.vacate("shop", "c")
        self.clock.advance(1)
        self.done(node.quotas.admit_channel(node.meter, "d"))


class PushTests(QuotaCase):
    def test_month(self) -> None:
        """Push messages of the month are counted, those of this second too."""
        self.allow(push_per_month=5)
        node = self.started()
        for _ in range(3):
            node.meter.pushed("sent")
        node.quotas.check_push("shop", 2)
        self.refused(lambda: node.quotas.check_push("shop", 3))
        self.clock.pump([1, 1])
        node.quotas.check_push("shop", 2)
        self.refused(lambda: node.quotas.check_push("shop", 3))


class WarningTests(QuotaCase):
    def setUp(self) -> None:
        super().setUp()
        self.events: list[Any] = []

        @provider(ILogObserver)
        def observe(event: LogEvent) -> None:
            if event["log_level"] is LogLevel.warn and "quotas" in event.get("log_namespace", ""):
                self.events.append(event)

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)

    def test_once(self) -> None:
        """At 80 percent there is one warning in a month for each metric, on whatever node, also after a restart."""
        self.allow(messages_per_month=10, connections=10)
        nodes = [self.started(name=name, is_alone=False) for name in "ab"]
        for _ in range(7):
            nodes[0].publish()
            self.clock.advance(1)
        self.assertEqual(nodes[0].warned + nodes[1].warned, [])

        for _ in range(3):
            nodes[0].publish()
            self.clock.pump([1, 1])
        for _ in range(8):
            nodes[1].meter.opened()
        self.clock.pump([1] * 10)
        for node in nodes:
            self.successResultOf(node.meters.stopService())
        again = self.started(name="c", is_alone=False)
        again.meter.opened()
        self.clock.pump([1] * 3)

        warned = nodes[0].warned + nodes[1].warned + again.warned
        self.assertEqual(sorted(warned), [("shop", "connections", 8, 10), ("shop", "messages_per_month", 8, 10)])
        self.assertEqual(len(self.events), 2)
        self.assertEqual(
            {self.events[0]["what"], self.events[1]["what"]}, {"connections at a time", "messages a month"}
        )

    def test_next_month(self) -> None:
        """In the next month there is another one."""
        self.now.set(NOVEMBER_30 - 10)
        self.allow(messages_per_month=5)
        node = self.started()
        for _ in range(2):
            for _ in range(4):
                node.publish()
            self.clock.pump([1] * 15)

        self.assertEqual(node.warned, [("shop", "messages_per_month", 4, 5)] * 2)

    def test_exceeded(self) -> None:
        """When all is used that is told as well, once in a month, on whatever node, behind the warning."""
        self.allow(messages_per_month=5)
        nodes = [self.started(name=name, is_alone=False) for name in "ab"]
        for _ in range(4):
            nodes[0].publish()
            self.clock.advance(1)
        self.clock.pump([1, 1])
        self.assertEqual(nodes[0].exceeded + nodes[1].exceeded, [])

        nodes[1].publish()
        self.clock.pump([1] * 5)

        self.assertEqual(nodes[0].exceeded + nodes[1].exceeded, [("shop", "messages_per_month", 5, 5)])
        self.assertEqual(nodes[0].warned + nodes[1].warned, [("shop", "messages_per_month", 4, 5)])

    def test_short_peak(self) -> None:
        """Connections that were there for less than a second are noticed."""
        self.allow(connections=5)
        node = self.started()
        for _ in range(4):
            node.meter.opened()
        for _ in range(4):
            node.meter.closed("lost")
        self.clock.advance(1)

        self.assertEqual(node.warned, [("shop", "connections", 4, 5)])
