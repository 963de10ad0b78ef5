"""Tests of wsock.backends.redis_broker over real servers: the contract, and what is repaired after every trouble."""

from __future__ import annotations

import random  # noqa: TID251  # seeded, so that a failure repeats
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater

from tests.base import SynchronousTestCase
from tests.redis_cases import QUICK, REACTOR, Node, RedisTestCase, TcpProxy
from tests.servers import RedisServer
from wsock.backends.redis import RedisBroker, Watch
from wsock.backends.redis_broker import check_version
from wsock.errors import Code, ConfigError, Gone, Refused, Unavailable
from wsock.protocol.messages import Receipt
from wsock.protocol.position import Position
from wsock.testing.contracts.broker import BrokerContract, DurableBrokerContract, make_publication, published


class _ContractCase(RedisTestCase):
    servers = 1
    opened: RedisBroker

    async def made_broker(self, recovery_messages: int) -> RedisBroker:
        self.urls = [self.redis().url for _ in range(self.servers)]
        return await self.open_broker(recovery_messages)

    async def open_broker(self, recovery_messages: int) -> RedisBroker:
        node = await self.node(self.urls, recovery_messages=recovery_messages, history_messages=recovery_messages)
        self.opened = node.broker
        # Of what was in the millisecond when Redis began, it can't tell whether it is complete.
        await deferLater(REACTOR, 0.003)
        return node.broker

    async def everything_delivered(self) -> None:
        """What a server published before it answers on the same connection."""
        for shard in self.opened.shards:
            await shard.subscriptions.call("PING")


class SingleServerTests(DurableBrokerContract, _ContractCase):
    """The broker over one Redis server is an IBroker; a restart of the node changes nothing."""

    async def make_broker(self, recovery_messages: int) -> RedisBroker:
        return await self.made_broker(recovery_messages)

    async def settled(self) -> None:
        await self.everything_delivered()

    async def reopen_broker(self) -> RedisBroker:
        await self.opened.stop()
        return await self.open_broker(1000)


class TwoServersTests(BrokerContract, _ContractCase):
    """The broker over two Redis servers is an IBroker."""

    servers = 2
    has_one_clock = False

    async def make_broker(self, recovery_messages: int) -> RedisBroker:
        return await self.made_broker(recovery_messages)

    async def settled(self) -> None:
        await self.everything_delivered()

    async def test_channels_live_on_both(self) -> None:
        """Channels are spread over the servers, and one is on the same server for every node."""
        other = await self.node(self.urls)
        numbers = [self.opened.shards.index(self.opened.shard("app", f"room-{n}")) for n in range(100)]

        self.assertEqual(sorted(set(numbers)), [0, 1])
        theirs = [other.broker.shards.index(other.broker.shard("app", f"room-{n}")) for n in range(100)]
        self.assertEqual(theirs, numbers)

    async def test_resume_by_time_begins_earlier(self) -> None:
        """A timestamp's place allows for a second between the clocks of the servers."""
        [receipt] = await self.publish(1)

        located = await self.opened.locate("app", "room", receipt.timestamp + 900)

        self.assertEqual((located.start.sequence, located.ties), (0, 0))


class _Case(RedisTestCase):
    async def publish_when_back(self, node: Node, id: str | None = None) -> Receipt:
        """Publishes as soon as that is possible; each refusal is a temporary one."""
        deadline = REACTOR.seconds() + 15
        while True:
            try:
                return await published(node.broker, make_publication(id))
            except Unavailable:
                self.assertLess(REACTOR.seconds(), deadline)
                await self.pause()

    async def pause(self) -> None:
        await deferLater(REACTOR, 0.02)

    async def assert_gone(self, node: Node, after: Position) -> None:
        try:
            found = await node.read(after)
        except Gone:
            return
        self.fail(f"{found} behind {after}, instead of Gone")

    async def assert_unavailable(self, answer: Deferred[Any], seconds: float = 3.0) -> str:
        """It fails so within the time; why."""
        began = REACTOR.seconds()
        try:
            await answer
        except Unavailable as e:
            self.assertLess(REACTOR.seconds() - began, seconds)
            return str(e)
        raise self.failureException("it was accepted")


class RestartTests(_Case):
    """Redis is killed and started again."""

    async def after_restart(self, node: Node, server: RedisServer) -> Receipt:
        server.restart()
        receipt = await self.publish_when_back(node)
        await self.until(lambda: node.broker.is_up)
        return receipt

    async def test_epoch_moves_and_nothing_is_lost(self) -> None:
        """The first publish begins another epoch; subscribers are told, and old positions that were kept are good."""
        server = self.durable_redis()
        node = await self.node(server.url)
        old = (await node.attach()).epoch
        await node.publish(5)

        receipt = await self.after_restart(node, server)

        self.assertNotEqual(receipt.epoch, old)
        self.assertEqual(receipt.sequence, 6)
        await self.until(lambda: node.sequences() == [1, 2, 3, 4, 5, 6])
        self.assertEqual([move.position for move in node.moves], [Position(receipt.epoch, 5)])
        self.assertEqual(node.losses, [])
        self.assertEqual(await node.read(Position(old, 3)), [4, 5, 6])
        self.assertEqual(await node.read(Position(old, 5)), [6])
        self.assertEqual(await node.read(Position(receipt.epoch, 5)), [6])
        await self.assert_gone(node, Position(old, 6))
        await self.assert_gone(node, Position(receipt.epoch, 7))

    async def test_positions_outlive_two_restarts(self) -> None:
        """A position of the epoch before last is followed as well."""
        server = self.durable_redis()
        node = await self.node(server.url)
        first = (await node.attach()).epoch
        await node.publish(3)
        await self.after_restart(node, server)

        await self.after_restart(node, server)

        self.assertEqual(await node.read(Position(first, 1)), [2, 3, 4, 5])
        self.assertEqual(node.losses, [])
        await self.until(lambda: len(node.sequences()) == 5)

    async def test_ids_and_timestamps_outlive_it(self) -> None:
        """A repeated id gets the first receipt, and timestamps do not go back."""
        server = self.durable_redis()
        node = await self.node(server.url)
        receipts = await gatherResults([published(node.broker, make_publication(f"m{n}")) for n in range(300)])

        server.restart()

        again = await self.publish_when_back(node, "m299")
        self.assertTrue(again.is_duplicate)
        self.assertEqual((again.sequence, again.epoch), (receipts[-1].sequence, receipts[-1].epoch))
        later = await published(node.broker, make_publication(channel="other"))
        self.assertGreater(later.timestamp, receipts[-1].timestamp)

    async def test_empty_after_the_restart(self) -> None:
        """When Redis forgot everything, subscribers are told, with the position from where it goes on."""
        server = self.redis()
        node = await self.node(server.url)
        old = await node.attach()
        [_, receipt] = [await published(node.broker, make_publication()) for _ in range(2)]

        server.restart()

        await self.until(lambda: node.losses)
        [lost] = node.losses
        self.assertEqual(lost.position.sequence, 0)
        self.assertNotEqual(lost.position.epoch, old.epoch)
        self.assertEqual((await self.publish_when_back(node)).epoch, lost.position.epoch)
        await self.until(lambda: node.sequences() == [1, 2, 1])
        await self.assert_gone(node, old)
        located = await node.broker.locate("app", "room", receipt.timestamp)
        self.assertFalse(located.is_complete)

    async def test_lost_tail_that_was_delivered(self) -> None:
        """What Redis lost, but this node had delivered, is no loss for its subscribers; for others it is."""
        server = self.redis()
        node = await self.node(server.url)
        old = (await node.attach()).epoch
        await node.publish(5)
        server.call(b"SAVE")
        await node.publish(3)
        await self.until(lambda: len(node.sequences()) == 8)

        receipt = await self.after_restart(node, server)

        self.assertEqual(receipt.sequence, 6)
        await self.until(lambda: len(node.sequences()) == 9)
        self.assertEqual(node.sequences(), [1, 2, 3, 4, 5, 6, 7, 8, 6])
        self.assertEqual([move.position for move in node.moves], [Position(receipt.epoch, 5)])
        self.assertEqual(node.losses, [])
        await self.assert_gone(node, Position(old, 8))
        self.assertEqual(await node.read(Position(old, 5)), [6])

    async def test_two_nodes_move_the_epoch_once(self) -> None:
        """Nodes that find out at the same time agree on one new epoch for each channel."""
        server = self.durable_redis()
        nodes = [await self.node(server.url) for _ in range(3)]
        for node in nodes:
            await node.attach()
            await node.publish(2)

        server.restart()

        publishing = [Deferred.fromCoroutine(self.publish_when_back(node)) for node in nodes]
        receipts = await gatherResults(publishing)
        self.assertEqual(len({receipt.epoch for receipt in receipts}), 1)
        self.assertEqual(sorted(receipt.sequence for receipt in receipts), [7, 8, 9])
        for node in nodes:
            await self.until(partial(self.has_heard, node, [7, 8, 9]))
            self.assertEqual((len(node.moves), node.losses), (1, []))

    def has_heard(self, node: Node, last: list[int]) -> bool:
        return node.sequences()[-len(last) :] == last

    async def test_amid_a_burst(self) -> None:
        """Every message that was acknowledged before and after the kill is delivered once, in order."""
        server = self.durable_redis()
        sender, node = await self.node(server.url), await self.node(server.url)
        await node.attach()
        answers = [published(sender.broker, make_publication(f"m{n}")) for n in range(2000)]
        await answers[300]

        server.restart()

        for n, answer in enumerate(answers):
            answer.addErrback(lambda failure: failure.trap(Unavailable) and None)
            if await answer is None:
                await self.publish_when_back(sender, f"m{n}")
        last = (await sender.position()).sequence
        await self.until(lambda: node.sequences()[-1:] == [last])
        self.assertEqual(node.sequences(), list(range(1, last + 1)))
        self.assertEqual({f"m{n}" for n in range(2000)} - {m.id for m in node.messages}, set())
        self.assertEqual(node.losses, [])

    async def test_flushed(self) -> None:
        """When somebody empties Redis, publishes go on, and subscribers are told of the loss."""
        server = self.redis()
        node = await self.node(server.url)
        await node.attach()
        await node.publish(3)

        server.flush()

        self.assertEqual((await self.publish_when_back(node)).sequence, 1)
        await self.until(lambda: node.losses)
        await node.publish()
        await self.until(lambda: node.sequences()[-1] == 2)


class RepairTests(_Case):
    """Pub/sub loses messages and connections. One node publishes; another gets them through a proxy."""

    async def prepare(self, watch: Watch = QUICK, **durability: Any) -> None:
        self.server = self.redis()
        self.way = await self.proxy(self.server)
        self.sender = await self.node(self.server.url, **durability)
        self.receiver = await self.node(self.way.url, watch=watch, **durability)

    def lose(self, mark: bytes) -> Callable[[], bool]:
        """What pub/sub delivers with the mark in it never arrives; whether that happened."""
        lost: list[bytes] = []

        def drop(data: bytes) -> bytes:
            if mark not in data:
                return data
            lost.append(data)
            return b""

        self.way.filter = drop
        return lambda: bool(lost)

    async def test_message_lost_in_the_middle(self) -> None:
        """The next message shows the gap; it is filled before anything else of the server is delivered."""
        await self.prepare(Watch(quiet_seconds=3600))
        for channel in ("room", "other"):
            await self.receiver.attach(channel)
        await self.sender.publish()
        await self.until(lambda: self.receiver.sequences() == [1])
        is_lost = self.lose(b'"lost"')
        await self.sender.publish(data=b'"lost"')
        await self.until(is_lost)

        burst = [self.sender.publish(1, channel=channel) for channel in ("room", "other", "room", "other")]
        await gatherResults([Deferred.fromCoroutine(publish) for publish in burst])

        await self.until(lambda: len(self.receiver.messages) == 6)
        self.assertEqual([(m.channel, m.sequence) for m in self.receiver.messages], [
            ("room", 1), ("room", 2), ("room", 3), ("other", 1), ("room", 4), ("other", 2)
        ])  # fmt: skip

    async def test_last_message_lost(self) -> None:
        """A channel that is quiet afterwards is found by the periodic check."""
        await self.prepare()
        await self.receiver.attach()
        is_lost = self.lose(b'"lost"')

        await self.sender.publish(data=b'"lost"')

        await self.until(lambda: self.receiver.sequences() == [1])
        self.assertTrue(is_lost())

    async def test_half_open_connection(self) -> None:
        """A connection that carries nothing any more is found by its probe, and what it owes is delivered."""
        await self.prepare(Watch(probe_seconds=0.3, quiet_seconds=3600))
        await self.receiver.attach()
        await self.sender.publish()
        await self.until(lambda: self.receiver.sequences() == [1])

        self.way.freeze()

        await self.sender.publish(5)
        await self.until(lambda: self.receiver.sequences() == [1, 2, 3, 4, 5, 6], 5)

    def test_half_open_connection_is_found_in_time(self) -> None:
        """With the defaults that takes less than ten seconds."""
        self.assertLess(2 * Watch().probe_seconds, 10)

    async def test_reconnect(self) -> None:
        """After a reconnect all channels are subscribed again, and what they missed comes in its order."""
        await self.prepare(Watch(quiet_seconds=3600))
        for n in range(30):
            await self.receiver.attach(f"room-{n}")
        self.way.is_closed = True
        self.way.cut()
        for n in range(90):
            await self.sender.publish(channel=f"room-{n % 30}")

        self.way.is_closed = False

        await self.until(lambda: len(self.receiver.messages) == 90)
        for n in range(30):
            await self.sender.publish(channel=f"room-{n}")
        await self.until(lambda: len(self.receiver.messages) == 120)
        timestamps = [message.timestamp for message in self.receiver.messages]
        self.assertEqual(timestamps, sorted(timestamps))
        self.assertEqual(self.receiver.sequences("room-7"), [1, 2, 3, 4])
        self.assertEqual(self.receiver.losses, [])

    async def test_reconnect_of_all_at_once_is_pipelined(self) -> None:
        """Hundreds of channels are attached, and attached again, without waiting for each other's answers."""
        await self.prepare()
        self.way.is_holding = lambda link: link.is_subscriber

        attaching = [Deferred.fromCoroutine(self.receiver.attach(f"room-{n}")) for n in range(500)]

        subscribed = b"room-499"
        await self.until(lambda: subscribed in self.server.call(b"PUBSUB CHANNELS *:room-499"))
        self.assertFalse(any(answer.called for answer in attaching))
        self.way.release()
        await gatherResults(attaching)
        self.way.cut(is_subscriber=True)
        await self.until(lambda: subscribed not in self.server.call(b"PUBSUB CHANNELS *:room-499"))
        await self.until(lambda: subscribed in self.server.call(b"PUBSUB CHANNELS *:room-499"))
        await self.sender.publish(channel="room-499")
        await self.until(lambda: self.receiver.sequences("room-499") == [1])

    async def test_many_missed(self) -> None:
        """More than a page of several channels is read and merged by time."""
        await self.prepare(Watch(quiet_seconds=3600), history_messages=10_000)
        await self.receiver.attach("room")
        await self.receiver.attach("other")
        self.way.is_closed = True
        self.way.cut()
        accepted = [
            published(self.sender.broker, make_publication(channel="other" if n % 3 else "room")) for n in range(3000)
        ]
        await gatherResults(accepted)

        self.way.is_closed = False

        await self.until(lambda: len(self.receiver.messages) == 3000)
        timestamps = [message.timestamp for message in self.receiver.messages]
        self.assertEqual(timestamps, sorted(timestamps))
        self.assertEqual(self.receiver.sequences("room"), list(range(1, 1001)))

    async def test_log_was_trimmed(self) -> None:
        """What is no longer kept can't be repaired: subscribers are told, and get what is left."""
        await self.prepare(history_messages=10)
        await self.receiver.attach()
        self.way.is_closed = True
        self.way.cut()
        await self.sender.publish(48)

        self.way.is_closed = False

        await self.until(lambda: self.receiver.losses)
        [lost] = self.receiver.losses
        self.assertEqual(lost.position.epoch, (await self.sender.position()).epoch)
        self.assertGreater(lost.position.sequence, 0)
        await self.sender.publish()
        left = list(range(lost.position.sequence + 1, 50))
        await self.until(lambda: self.receiver.sequences() == left)

    async def test_flood_during_a_repair(self) -> None:
        """What is held back is bounded; the rest is read from the log."""
        await self.prepare(Watch(quiet_seconds=3600, held_messages=10))
        await self.receiver.attach("room")
        await self.receiver.attach("other")
        is_lost = self.lose(b'"lost"')
        await self.sender.publish(data=b'"lost"')
        await self.until(is_lost)
        self.way.is_holding = lambda link: not link.is_subscriber
        await self.sender.publish(2)
        await self.until(lambda: self.way.held)

        for _ in range(50):
            await self.sender.publish(4)
            await self.sender.publish(1, channel="other")
        self.way.release()

        await self.until(lambda: len(self.receiver.messages) == 253)
        self.assertEqual(self.receiver.sequences("room"), list(range(1, 204)))
        self.assertEqual(self.receiver.sequences("other"), list(range(1, 51)))

    async def test_log_that_cant_be_read(self) -> None:
        """A repair waits for its connection, and begins anew with others when that takes too long."""
        await self.prepare(Watch(quiet_seconds=3600, retry_seconds=0.02, repair_seconds=0.1))
        await self.receiver.attach()
        is_lost = self.lose(b'"lost"')
        await self.sender.publish(data=b'"lost"')
        await self.until(is_lost)
        self.way.filter = lambda data: data
        number = self.way.number
        queries = self.receiver.broker.shards[0].queries
        self.way.is_closed = True
        queries.abort()
        await self.until(lambda: not queries.is_up)

        await self.sender.publish()

        await self.until(lambda: not self.receiver.broker.shards[0].subscriptions.is_up)
        self.way.is_closed = False
        await self.until(lambda: self.receiver.sequences() == [1, 2])
        self.assertGreaterEqual(self.way.number, number + 2)

    async def test_message_overtakes_the_answer_to_attach(self) -> None:
        """What arrives while the position is on its way is delivered right after it."""
        await self.prepare(Watch(quiet_seconds=3600))
        self.way.is_holding = lambda link: not link.is_subscriber
        attaching = Deferred.fromCoroutine(self.receiver.attach())
        await self.until(lambda: self.way.held)

        await self.sender.publish(3)
        await self.receiver.broker.shards[0].subscriptions.call("PING")
        self.way.release()

        self.assertEqual((await attaching).sequence, 0)
        await self.until(lambda: self.receiver.sequences() == [1, 2, 3], 1)

    async def test_connection_lost_during_attach(self) -> None:
        """A channel whose subscription went before its position came is subscribed again all the same."""
        await self.prepare(Watch(quiet_seconds=3600))
        others = [link for link in self.way.links if not link.is_subscriber]
        self.way.is_holding = lambda link: link in others
        attaching = Deferred.fromCoroutine(self.receiver.attach())
        await self.until(lambda: self.way.held)
        number = self.way.number
        self.way.cut(is_subscriber=True)
        await self.until(lambda: self.way.number > number and self.receiver.broker.shards[0].subscriptions.is_up)

        self.way.release()

        await attaching
        await self.sender.publish(2)
        await self.until(lambda: self.receiver.sequences() == [1, 2], 2)


class VersionTests(SynchronousTestCase):
    def test_old(self) -> None:
        """A server that is too old is refused, with what is taken."""
        error = self.assertRaises(ConfigError, check_version, b"6.2.14")

        self.assertIn("6.2.14", str(error))
        self.assertIn("Redis 7", str(error))

    def test_new(self) -> None:
        """Redis 7 and what says that it is like it are taken."""
        for version in (b"7.0.15", b"7.2.4", b"8.2.3", b"10.0.0"):
            check_version(version)


class AttachTests(_Case):
    """Interest in channels."""

    def subscribers(self, server: RedisServer) -> int:
        return int(server.call(b"PUBSUB NUMSUB wsock:topic:3:app:room").split(b":")[-1])

    async def test_who_leaves_and_comes_back(self) -> None:
        """A channel stays subscribed for a while after a detach; then it is not any more."""
        server = self.redis()
        node = await self.node(server.url, watch=Watch(leaving_seconds=0.3))
        await node.attach()
        node.broker.detach("app", "room")
        await node.publish(2)
        await node.broker.shards[0].subscriptions.call("PING")
        self.assertEqual(self.subscribers(server), 1)

        self.assertEqual((await node.attach()).sequence, 2)

        await node.publish()
        await self.until(lambda: node.sequences() == [3])
        node.broker.detach("app", "room")
        await self.until(lambda: self.subscribers(server) == 0)
        self.assertEqual((await node.attach()).sequence, 3)
        await node.publish()
        await self.until(lambda: node.sequences() == [3, 4])

    async def test_who_gives_up_takes_nobody_along(self) -> None:
        """When the first who asked is cancelled, the channel is attached for the others."""
        node = await self.node(self.redis().url)
        first = Deferred.fromCoroutine(node.attach())
        second = Deferred.fromCoroutine(node.attach())

        first.cancel()

        self.assertEqual((await second).sequence, 0)
        self.failureResultOf(first, CancelledError)
        await node.publish()
        await self.until(lambda: node.sequences() == [1])

    async def test_away(self) -> None:
        """While the server is away attaching is refused to all who wait, and works when it is back."""
        server = self.redis()
        node = await self.node(server.url)
        server.stop()
        waiting = [Deferred.fromCoroutine(node.attach()) for _ in range(2)]
        for answer in waiting:
            await self.assert_unavailable(answer)
        server.cont()

        await self.until(lambda: node.broker.is_up)

        await node.attach()
        await self.publish_when_back(node)
        await self.until(lambda: node.sequences() == [1])


class AcceptTests(_Case):
    """What is accepted, and what is not."""

    async def test_scripts_flushed(self) -> None:
        """When somebody flushes the scripts, publishes keep their order."""
        server = self.redis()
        node = await self.node(server.url)
        await node.attach()
        publishing = []
        for n in range(40):
            publishing.append(Deferred.fromCoroutine(node.publish(30)))
            if n % 4 == 0:
                server.call(b"SCRIPT FLUSH")
                await self.pause()

        sequences = await gatherResults(publishing)

        self.assertEqual([sequence for some in sequences for sequence in some], list(range(1, 1201)))
        await self.until(lambda: len(node.sequences()) == 1200)
        self.assertEqual(node.sequences(), list(range(1, 1201)))

    async def test_bad_item_fails_alone(self) -> None:
        """A message that Redis can't take is refused, and the others of its batch are accepted."""
        server = self.redis()
        node = await self.node(server.url)
        server.call(b"SET wsock:log:3:app:bad 1")

        accepted = [published(node.broker, make_publication(channel=channel)) for channel in ("room", "bad", "room")]

        self.assertEqual([(await accepted[n]).sequence for n in (0, 2)], [1, 2])
        refused = (await self.failed(accepted[1])).value
        self.assertIsInstance(refused, Refused)
        self.assertEqual(refused.code, Code.INTERNAL)
        server.call(b"DEL wsock:log:3:app:bad")
        self.assertEqual(await node.publish(channel="bad"), [1])

    async def test_failed_message_may_be_repeated(self) -> None:
        """One that failed after its id was remembered is forgotten again: the repetition is accepted, and delivered."""
        node = await self.node(self.redis().url)
        await node.attach()
        await node.publish()
        await node.ask("XADD", "wsock:log:3:app:room", "1000-1", "b", "in the way")
        await self.failed(published(node.broker, make_publication("m1")))
        await node.ask("XDEL", "wsock:log:3:app:room", "1000-1")
        await node.ask("DEL", "wsock:log:3:app:room")

        receipt = await published(node.broker, make_publication("m1"))

        self.assertEqual((receipt.sequence, receipt.is_duplicate), (2, False))
        await self.until(lambda: node.sequences() == [1, 2])

    async def test_run_that_is_known_in_part(self) -> None:
        """Of a run that begins before the position only what lies behind it is delivered."""
        node = await self.node(self.redis().url)
        await node.attach()
        await node.publish(3)
        await self.until(lambda: node.sequences() == [1, 2, 3])
        epoch = node.messages[0].epoch
        bodies = [[f"m{n}", n, "alice", True] for n in (2, 3, 4, 5)]
        run = msgspec.json.encode([epoch, 2, 1000, 1002, "", bodies])

        await node.ask("PUBLISH", "wsock:topic:3:app:room", b"m " + run)

        await self.until(lambda: node.sequences() == [1, 2, 3, 4, 5])
        self.assertEqual([bytes(message.data) for message in node.messages[3:]], [b"4", b"5"])
        self.assertEqual([message.timestamp for message in node.messages[3:]], [1002, 1002])

    async def test_expiries_are_renewed_by_spans(self) -> None:
        """A log's and a head's expiry is set when the log is new, and again when a message comes in a later span."""
        node = await self.node(self.redis().url, history_seconds=6.4)
        log, long = "wsock:log:3:app:room", 10**9
        await node.publish()
        self.assertTrue(6_000 < await node.ask("PTTL", log) <= 6_500)
        await node.ask("PEXPIRE", log, long)
        await deferLater(REACTOR, 0.11)
        await node.publish()
        self.assertTrue(6_000 < await node.ask("PTTL", log) <= 6_500)
        await node.ask("DEL", log)
        await node.publish()

        self.assertTrue(6_000 < await node.ask("PTTL", log) <= 6_500)
        self.assertGreater(await node.ask("PTTL", "wsock:head:3:app:room"), 604_800_000)

    async def failed(self, answer: Deferred[Any]) -> Any:
        failures: list[Any] = []
        await answer.addErrback(failures.append)
        return failures[0]

    async def test_names_that_look_alike(self) -> None:
        """Apps and channels with colons in their names don't meet."""
        node = await self.node(self.redis().url)

        self.assertEqual(await node.publish(2, app="a:b", channel="c"), [1, 2])
        self.assertEqual(await node.publish(1, app="a", channel="b:c"), [1])

    async def test_server_is_away(self) -> None:
        """While Redis does not answer, publishes are refused in time; a repetition is accepted once it does."""
        server = self.durable_redis()
        node = await self.node(server.url)
        await node.attach()
        server.stop()
        text = await self.assert_unavailable(published(node.broker, make_publication("m1")))
        self.assertIn(f"redis://127.0.0.1:{server.port}", text)
        await self.assert_unavailable(published(node.broker, make_publication("m2")))
        self.assertFalse(node.broker.is_up)
        server.cont()

        for id in ("m1", "m2"):
            await self.publish_when_back(node, id)

        await self.until(lambda: len(node.sequences()) == 2)
        self.assertEqual([message.id for message in node.messages], ["m1", "m2"])

    async def test_server_is_killed(self) -> None:
        """So are they when it is gone."""
        server = self.durable_redis()
        node = await self.node(server.url)
        answer = published(node.broker, make_publication())
        server.kill()

        answer.addErrback(lambda failure: failure.trap(Unavailable))
        await answer
        await self.assert_unavailable(published(node.broker, make_publication()))
        server.start()
        await self.publish_when_back(node)

    async def test_replicas(self) -> None:
        """With ``replicas`` an ack waits for them; without them nothing is acknowledged."""
        server = self.redis()
        node = await self.node(server.url, replicas=1, replica_seconds=0.2)
        text = await self.assert_unavailable(published(node.broker, make_publication("m1")))
        self.assertIn("redis.replicas", text)

        replica = self.redis("--replicaof", "127.0.0.1", str(server.port))

        receipt = await self.publish_when_back(node, "m1")
        self.assertEqual((receipt.sequence, receipt.is_duplicate), (1, True))
        self.assertIn(b"\r\n1-", replica.call(b"XRANGE wsock:log:3:app:room - +"))

    async def test_backlog_of_a_node(self) -> None:
        """What waits in this node is bounded, and the refusal names the setting."""
        node = await self.node(self.redis().url, backlog_bytes=5000)
        accepted = [published(node.broker, make_publication(data=b'"' + b"x" * 900 + b'"')) for _ in range(5)]

        self.assertIn("publish_backlog_bytes", await self.assert_unavailable(accepted[-1]))

        self.assertEqual([(await answer).sequence for answer in accepted[:4]], [1, 2, 3, 4])
        await node.publish()

    async def test_messages_that_are_no_history_are_bounded_too(self) -> None:
        """Behind a message that waits to be persisted a log does not grow for ever."""
        server = self.redis()
        node = await self.node(server.url, recovery_messages=20, backlog=30)
        await node.publish()
        accepted = [published(node.broker, make_publication(persist=False)) for _ in range(60)]

        self.assertIn("redis.backlog", await self.assert_unavailable(accepted[-1]))

        for answer in accepted[:-1]:
            answer.addErrback(lambda failure: failure.trap(Unavailable))
        self.assertEqual(await node.kept(), 50)
        await node.ask("XTRIM", "wsock:queue", "MAXLEN", 0)
        await node.publish(16, persist=False)
        self.assertLess(await node.kept(), 50)

    async def test_every_place_in_runs(self) -> None:
        """Whatever pieces messages were accepted in, each position and each timestamp leads to what is behind it."""
        node = await self.node(self.redis().url)
        rolls = random.Random(5)
        for ahead in (0, 0, 0, 993, 1000, 0, 2000):
            if ahead:
                seconds, micros = await node.ask("TIME")
                await node.ask("SET", "wsock:clock:app", int(seconds) * 1000 + int(micros) // 1000 + ahead)
            count = 40 if 0 < ahead < 1000 else rolls.randrange(1, 12)
            some = [published(node.broker, make_publication(persist=rolls.random() < 0.8)) for _ in range(count)]
            await gatherResults(some)
        epoch = (await node.position()).epoch
        messages = await node.broker.read("app", "room", Position(epoch, 0), 1000)
        count = len(messages)
        self.assertEqual([message.sequence for message in messages], list(range(1, count + 1)))
        self.assertLess(await node.ask("XLEN", "wsock:log:3:app:room"), count // 2)

        for after in range(count + 1):
            for limit in (1, 3, 1000):
                found = await node.broker.read("app", "room", Position(epoch, after), limit)
                self.assertEqual(found, messages[after : after + limit])
        for timestamp in {message.timestamp + beside for message in messages for beside in (-1, 0, 1)}:
            located = await node.broker.locate("app", "room", timestamp)
            before = sum(message.timestamp < timestamp for message in messages)
            ties = sum(message.timestamp == timestamp for message in messages)
            self.assertEqual((located.start.sequence, located.ties), (before, ties if before + ties else 0), timestamp)

    async def test_idle_log_makes_room(self) -> None:
        """What expired with an idle log counts no longer for the bound of it."""
        node = await self.node(self.redis().url, recovery_messages=8, recovery_seconds=3600, backlog=10)
        await node.publish()
        await node.publish(17, persist=False)
        await self.assert_unavailable(published(node.broker, make_publication(persist=False)))
        await node.ask("XTRIM", "wsock:queue", "MAXLEN", 0)
        await node.ask("DEL", "wsock:log:3:app:room")

        self.assertEqual(await node.publish(2, persist=False), [19, 20])

    async def test_repetition_within_a_run(self) -> None:
        """What is known already is answered as it was, and what is new around it is accepted once."""
        node = await self.node(self.redis().url)
        await node.attach()
        [first] = await gatherResults([published(node.broker, make_publication("m1"))])

        receipts = await gatherResults(
            [published(node.broker, make_publication(id)) for id in ("m0", "m1", "m2", "m2")]
        )

        self.assertEqual([receipt.sequence for receipt in receipts], [2, 1, 3, 3])
        self.assertEqual([receipt.is_duplicate for receipt in receipts], [False, True, False, True])
        self.assertEqual(receipts[1].timestamp, first.timestamp)
        self.assertEqual(receipts[3].timestamp, receipts[2].timestamp)
        await self.until(lambda: node.sequences() == [1, 2, 3])
        self.assertEqual([message.id for message in node.messages], ["m1", "m0", "m2"])
        self.assertEqual([message.timestamp for message in node.messages[1:]], [receipts[n].timestamp for n in (0, 2)])
        again = await gatherResults([published(node.broker, make_publication(id)) for id in ("m2", "m0")])
        self.assertEqual([(receipt.sequence, receipt.is_duplicate) for receipt in again], [(3, True), (2, True)])
        await node.ask("SET", "wsock:clock:app", receipts[2].timestamp + 10_000)
        ahead = [published(node.broker, make_publication(id)) for id in ("m3", "m1", "m4", "m5", "m3")]
        capped = [(receipt.sequence, receipt.timestamp) for receipt in await gatherResults(ahead)]
        await self.until(lambda: len(node.messages) == 6)
        self.assertEqual([(m.sequence, m.timestamp) for m in node.messages[3:]], [capped[n] for n in (0, 2, 3)])
        self.assertEqual((capped[1], capped[4]), ((1, first.timestamp), capped[0]))

    async def test_expired_window_is_incomplete(self) -> None:
        """What left with an idle log is remembered to have been there."""
        node = await self.node(self.redis().url, recovery_seconds=0.1, backlog=10)
        first = await published(node.broker, make_publication(persist=False))
        while await node.ask("EXISTS", "wsock:log:3:app:room"):
            await self.pause()
        self.assertTrue((await node.broker.locate("app", "room", first.timestamp)).is_complete)
        self.assertFalse((await node.broker.locate("app", "room", first.timestamp - 1)).is_complete)

        await node.publish()

        self.assertFalse((await node.broker.locate("app", "room", first.timestamp - 1)).is_complete)
        self.assertTrue((await node.broker.locate("app", "room", first.timestamp + 1)).is_complete)
        await self.assert_gone(node, Position(first.epoch, 0))
        self.assertEqual(await node.read(Position(first.epoch, 1)), [2])

    async def test_log_that_outlived_its_head(self) -> None:
        """The sequence goes on behind it, so nothing in it is lost or mistaken."""
        node = await self.node(self.redis().url)
        before = await node.attach()
        await node.publish(3)
        await node.ask("DEL", "wsock:head:3:app:room")

        [sequence] = await node.publish()

        self.assertEqual(sequence, 4)
        self.assertEqual(await node.kept(), 4)
        await self.assert_gone(node, before)
        await self.until(lambda: node.losses)


class LifeTests(_Case):
    """Start and stop."""

    async def test_stop_amid_work(self) -> None:
        """Everybody who waits is told, nothing is left running, and no connection is made any more."""
        server = self.redis()
        way: TcpProxy = await self.proxy(server)
        node = await self.node(way.url)
        await node.attach()
        node.broker.detach("app", "room")
        server.stop()
        waiting = [published(node.broker, make_publication()) for _ in range(600)]
        waiting.append(Deferred.fromCoroutine(node.attach("other")))  # type: ignore[arg-type]  # any answer
        await self.pause()

        await node.broker.stop()

        for answer in waiting:
            await self.assert_unavailable(answer)
        number = way.number
        await self.assert_unavailable(published(node.broker, make_publication()))
        server.cont()
        await self.pause()
        self.assertEqual((way.number, way.links), (number, []))

    async def test_start_without_a_server(self) -> None:
        """A server that is away, or refuses the password, fails the start with a clear text."""
        server = self.redis()
        server.call(b"CONFIG SET requirepass right")

        for url in ("redis://127.0.0.1:1", f"redis://:wrong@127.0.0.1:{server.port}"):
            with self.assertRaises(Unavailable) as caught:
                await self.node(url)
            self.assertIn("redis://127.0.0.1", str(caught.exception))
            self.assertNotIn(":wrong", str(caught.exception))
