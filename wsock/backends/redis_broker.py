"""The broker of a cluster: every node publishes into Redis, and gets what its channels carry from there.

Theory of operation =================== The script ``publish.lua`` gives a message its place: sequence, epoch,
timestamp; it appends it to the channel's log and publishes it, in one step, so the order in the log is the order on
the wire. A node subscribes to the topics of the channels that somebody on it wants. Redis' pub/sub forgets; so each
attached channel has a position here, and a message that does not follow it makes the node read what is missing from
the log before it delivers anything more from that server. The same look at the log follows each reconnect, and now
and then for channels that are quiet.

A channel moves to a new epoch with the first publish after its server was restarted or replaced. What was kept of the
old one is recorded, so that a position in it can still be followed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from wsock.backends.redis_batch import PublishBatches, decode_body
from wsock.backends.redis_link import RedisConnection, RedisUrl, Script, Subscriptions
from wsock.backends.redis_ring import Ring
from wsock.errors import Gone, Unavailable
from wsock.interfaces import IBroker, IReceiver
from wsock.protocol.messages import Located, Message, Publication, Receipt
from wsock.protocol.position import Position

__all__ = ["Durability", "IAttached", "RedisBroker", "RedisShard", "entry_message"]

_PROBE_SECONDS = 4.0
_QUIET_CHECK_SECONDS = 30.0
_HYSTERESIS_SECONDS = 5.0
_REPAIR_SECONDS = 5.0
_REPAIR_PAGE = 500
_MAX_HELD = 50_000
_SLACK_MS = 1000
"""How much earlier a resume by timestamp begins where channels live on several servers with clocks of their own."""

_publish, _heads, _read, _locate, _open = map(Script.load, ("publish", "heads", "read", "locate", "open"))


class _Attached:
    """An attached channel: the position up to which the receiver was told."""

    __slots__ = ("app", "channel", "epoch", "is_wanted", "sequence", "topic", "waiting")

    def __init__(self, app: str, channel: str) -> None:
        self.app = app
        self.channel = channel
        self.topic = _topic(app, channel)
        self.epoch = ""
        self.sequence = 0
        self.is_wanted = True
        self.waiting: list[Deferred[None]] | None = []

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.sequence)

    def move(self, position: Position) -> None:
        self.epoch, self.sequence = position.epoch, position.sequence


class Durability(msgspec.Struct, frozen=True, kw_only=True):
    """How a shard accepts and keeps messages.

    ``backlog`` bounds what waits to be persisted; 0: nothing is persisted elsewhere, and the log is the history, with
    at most ``history_messages`` for ``history_seconds``. With ``replicas`` an ack waits until so many have it.
    """

    recovery_seconds: float = 120
    recovery_messages: int = 1000
    dedup_seconds: float = 120
    backlog: int = 0
    history_messages: int = 10_000
    history_seconds: float = 604_800
    replicas: int = 0
    replica_seconds: float = 1.0


class IAttached(Protocol):
    """An attached channel, as the feed sees it. ``is_wanted``: whether the receiver is told of it now."""

    app: str
    channel: str
    topic: bytes
    is_wanted: bool


class PresenceFeed(Protocol):
    """Who is told of the presence changes of one server's attached channels. Channels are named by their topics."""

    async def attach(self, attached: IAttached, version: bytes) -> None:
        """The channel is subscribed; its members had this version then. Awaited before it counts as attached."""

    def announced(self, attached: IAttached, payload: bytes) -> None:
        """A change arrived, be the channel attached or on its way to it."""

    def detach(self, topic: bytes) -> None:
        """Nothing more arrives of this channel."""

    def reconnected(self) -> None:
        """Changes may have been missed."""


class RedisShard:
    """One Redis server of the cluster, as one node uses it."""

    _log = Logger()

    def __init__(
        self,
        url: RedisUrl,
        reactor: Any,
        node: str,
        new_name: Callable[[], str],
        durability: Durability,
        backlog_bytes: int,
    ) -> None:
        self._reactor = reactor
        self._node = node
        self._new_name = new_name
        self._durability = durability
        self._options = _options(durability)
        self._gen = ""
        self._attached: dict[bytes, _Attached] = {}
        self.presence: PresenceFeed | None = None
        self._held: deque[tuple[bytes, bytes]] | None = None
        self._repairing: Deferred[None] | None = None
        self._probe_at: float | None = None
        self._probe_topic = f"wsock:probe:{node}".encode()
        self._url = url
        scripts = (_publish, _heads, _read, _locate, _open)
        self.commands = RedisConnection(url, reactor, scripts=scripts, prepare=self.open)
        self.queries = RedisConnection(url, reactor, scripts=scripts)
        self._subscriptions = RedisConnection(
            url, reactor, prepare=self._subscribe_all, build=lambda: Subscriptions(self._received)
        )
        self._batches = PublishBatches(self._run_batch, reactor, backlog_bytes=backlog_bytes)
        self._probing = LoopingCall(self._probe)
        self._checking = LoopingCall(self._check_quiet)
        self._probing.clock = self._checking.clock = reactor

    def listen(self, receiver: IReceiver) -> None:
        """Names the receiver."""
        self._receiver = receiver

    # Life.

    async def start(self) -> None:
        """Connects; fails when the server can't be reached now."""
        connections = (self.commands, self.queries, self._subscriptions)
        for connection in connections:
            connection.start()
        for connection in connections:
            await connection.when_up()
        self._probing.start(_PROBE_SECONDS, now=False)
        self._checking.start(_QUIET_CHECK_SECONDS, now=False)

    async def stop(self) -> None:
        """Disconnects."""
        for loop in (self._probing, self._checking):
            if loop.running:
                loop.stop()
        if self._repairing is not None:
            self._repairing.cancel()
        for connection in (self._subscriptions, self.queries, self.commands):
            await connection.stop()

    @property
    def is_up(self) -> bool:
        """Whether the server can be used."""
        return self.commands.is_up and self._subscriptions.is_up

    def connect(
        self, scripts: tuple[Script, ...], prepare: Callable[[RedisConnection], Awaitable[None]] | None = None
    ) -> RedisConnection:
        """One more connection to the same server, for commands that may wait."""
        return RedisConnection(self._url, self._reactor, scripts=scripts, prepare=prepare)

    async def open(self, connection: RedisConnection) -> None:
        """A new connection may be to a new process: what it kept of its past is another generation."""
        info = await connection.call("INFO", "server")
        run = next((line[7:] for line in info.split(b"\r\n") if line.startswith(b"run_id:")), b"")
        gen = await connection.run(_open, run, self._new_name())
        self._gen = gen.decode()

    async def scripted(self, connection: RedisConnection, script: Script, *arguments: Any) -> Any:
        """Runs a script that expects the generation, which another node may have moved on."""
        try:
            return await connection.run(script, self._gen, *arguments)
        except Exception as e:
            if not str(e).startswith("STALE"):
                raise
        await self.open(connection)
        return await connection.run(script, self._gen, *arguments)

    # Publishing.

    def publish(self, publication: Publication) -> Deferred[Receipt]:
        """Accepts a message in the next batch."""
        return self._batches.add(publication)

    async def _run_batch(self, items: bytes) -> Sequence[Any]:
        answers: Sequence[Any] = await self.scripted(self.commands, _publish, self._options, items)
        replicas = self._durability.replicas
        if replicas:
            wait_ms = int(self._durability.replica_seconds * 1000)
            copied = await self.commands.call("WAIT", replicas, wait_ms, timeout_seconds=wait_ms / 1000 + 2)
            if copied < replicas:
                raise Unavailable(f"only {copied} of {replicas} replicas have the message (redis.replicas): repeat it")
        return answers

    # Attaching.

    async def attach(self, app: str, channel: str) -> Position:
        """Delivers what comes behind the position that is returned."""
        topic = _topic(app, channel)
        attached = self._attached.get(topic)
        if attached is None:
            attached = self._attached[topic] = _Attached(app, channel)
            try:
                await self._subscribe(attached)
            except BaseException:
                self._forget(attached, Failure())
                raise
        else:
            attached.is_wanted = True
            if attached.waiting is not None:
                subscribed: Deferred[None] = Deferred()
                attached.waiting.append(subscribed)
                await subscribed
        return attached.position

    async def _subscribe(self, attached: _Attached) -> None:
        await self._subscriptions.call("SUBSCRIBE", attached.topic)
        [head] = await self.scripted(self.commands, _heads, attached.app, attached.channel)
        attached.move(Position(head[0].decode(), head[1]))
        if self.presence is not None:
            await self.presence.attach(attached, head[3])
        waiting, attached.waiting = attached.waiting or [], None
        for subscribed in waiting:
            subscribed.callback(None)

    def _forget(self, attached: _Attached, failure: Failure) -> None:
        self._attached.pop(attached.topic, None)
        self._presence_detached(attached)
        waiting, attached.waiting = attached.waiting or [], None
        for subscribed in waiting:
            subscribed.errback(failure)

    def detach(self, app: str, channel: str) -> None:
        """Stays subscribed for some seconds, since who leaves often comes back."""
        attached = self._attached.get(_topic(app, channel))
        if attached is not None and attached.is_wanted:
            attached.is_wanted = False
            self._reactor.callLater(_HYSTERESIS_SECONDS, self._unsubscribe, attached)

    def _unsubscribe(self, attached: _Attached) -> None:
        if not attached.is_wanted and self._attached.get(attached.topic) is attached:
            del self._attached[attached.topic]
            self._presence_detached(attached)
            # When that fails the connection is lost, and with it the subscription.
            self._subscriptions.call("UNSUBSCRIBE", attached.topic).addErrback(lambda _: None)

    def _presence_detached(self, attached: _Attached) -> None:
        if self.presence is not None:
            self.presence.detach(attached.topic)

    async def _subscribe_all(self, connection: RedisConnection) -> None:
        """A new pub/sub connection: everything again, and a look at what was missed."""
        self._probe_at = None
        topics = [attached.topic for attached in self._attached.values() if attached.waiting is None]
        await connection.call("SUBSCRIBE", self._probe_topic)
        for topic in topics:
            await connection.call("SUBSCRIBE", topic)
        if topics:
            self._reactor.callLater(0, self._look_at_all)

    # What arrives.

    def _received(self, topic: bytes, payload: bytes) -> None:
        if topic == self._probe_topic:
            self._probe_at = None
        elif self._held is not None:
            self._hold(topic, payload)
        else:
            self._deliver(topic, payload)

    def _hold(self, topic: bytes, payload: bytes) -> None:
        assert self._held is not None
        if len(self._held) < _MAX_HELD:
            self._held.append((topic, payload))
        # Beyond the bound nothing is kept: the gap that this makes is found, and read from the log.

    def _deliver(self, topic: bytes, payload: bytes) -> None:
        attached = self._attached.get(topic)
        if attached is None:
            return
        kind, rest = payload[:2], payload[2:]
        if kind == b"p ":
            if self.presence is not None:
                self.presence.announced(attached, rest)
        elif kind == b"m " and attached.waiting is None:
            self._deliver_message(attached, rest)

    def _deliver_message(self, attached: _Attached, payload: bytes) -> None:
        epoch_bytes, number, timestamp, before, body = payload.split(b" ", 4)
        sequence = int(number)
        epoch = epoch_bytes.decode()
        if epoch != attached.epoch:
            if before != f"{attached.epoch}/{attached.sequence}".encode():
                self._repair([attached])
                return
            self._moved(attached, Position(epoch, sequence - 1))
        elif sequence <= attached.sequence:
            return
        elif sequence != attached.sequence + 1:
            self._repair([attached])
            return
        self._tell(attached, _message(attached.channel, epoch, sequence, int(timestamp), body))

    def _tell(self, attached: _Attached, message: Message) -> None:
        attached.move(message.position)
        if attached.is_wanted:
            self._receiver.message(attached.app, message)

    def _moved(self, attached: _Attached, position: Position) -> None:
        attached.move(position)
        if attached.is_wanted:
            self._receiver.moved(attached.app, attached.channel, position)

    # Repair.

    def _look_at_all(self) -> None:
        if self.presence is not None:
            self.presence.reconnected()
        self._repair([attached for attached in self._attached.values() if attached.waiting is None])

    def _repair(self, suspects: list[_Attached]) -> None:
        """Reads what is missing of these channels; until then nothing else of this server is delivered."""
        if self._held is not None:
            return
        self._held = deque()
        repairing = Deferred.fromCoroutine(self._repair_all(suspects))
        self._repairing = repairing.addTimeout(_REPAIR_SECONDS + len(suspects) * 0.01, self._reactor)
        self._repairing.addErrback(self._could_not_repair, suspects).addBoth(self._repaired)

    async def _repair_all(self, suspects: list[_Attached]) -> None:
        for attached in suspects:
            if self._attached.get(attached.topic) is attached:
                await self._repair_one(attached)

    async def _repair_one(self, attached: _Attached) -> None:
        while True:
            answer = await self.queries.run(
                _read, attached.app, attached.channel, attached.epoch, attached.sequence, _REPAIR_PAGE
            )
            past = _Past(answer, attached.channel)
            if not past.follows(attached.position, is_known_here=True):
                self._lost(attached, past.position)
                return
            for message in past.messages:
                if message.epoch != attached.epoch:
                    self._moved(attached, Position(message.epoch, message.sequence - 1))
                if message.sequence > attached.sequence:
                    self._tell(attached, message)
            if len(past.messages) < _REPAIR_PAGE:
                return

    def _lost(self, attached: _Attached, position: Position | None) -> None:
        self._log.warn("messages of a channel are lost: {channel}", channel=attached.channel)
        attached.move(position or Position("", 0))
        if attached.is_wanted:
            self._receiver.lost(attached.app, attached.channel, attached.position)

    def _could_not_repair(self, failure: Failure, suspects: list[_Attached]) -> None:
        """The log can't be read now: the connection is made anew, and everything is looked at again."""
        if not failure.check(Unavailable):
            self._log.failure("a repair failed", failure=failure)
        self._subscriptions.abort()

    def _repaired(self, _: object) -> None:
        self._repairing = None
        held, self._held = self._held or deque(), None
        while held:
            topic, payload = held.popleft()
            # What is delivered may show another gap, and then the rest is held again.
            self._received(topic, payload)

    # Watching.

    def _probe(self) -> None:
        """Finds a half-open pub/sub connection: what is published to it must come back."""
        now = self._reactor.seconds()
        if self._probe_at is not None and now - self._probe_at >= _PROBE_SECONDS:
            self._log.warn("nothing comes through a pub/sub connection: it is made anew")
            self._probe_at = None
            self._subscriptions.abort()
        elif self._subscriptions.is_up and self.commands.is_up:
            self._probe_at = now if self._probe_at is None else self._probe_at
            self.commands.call("PUBLISH", self._probe_topic, b"").addErrback(lambda _: None)

    def _check_quiet(self) -> Deferred[None]:
        checking = Deferred.fromCoroutine(self._find_behind())
        return checking.addErrback(self._could_not_check)

    async def _find_behind(self) -> None:
        """The last message of a channel may be lost in pub/sub without another one to show the gap."""
        suspects = [attached for attached in self._attached.values() if attached.waiting is None]
        before = {attached.topic: attached.position for attached in suspects}
        behind = []
        for start in range(0, len(suspects), _REPAIR_PAGE):
            some = suspects[start : start + _REPAIR_PAGE]
            names = [name for attached in some for name in (attached.app, attached.channel)]
            heads = await self.scripted(self.queries, _heads, *names)
            for attached, head in zip(some, heads, strict=True):
                is_quiet = attached.position == before[attached.topic]
                if is_quiet and Position(head[0].decode(), head[1]) != attached.position:
                    behind.append(attached)
        if behind:
            self._repair(behind)

    def _could_not_check(self, failure: Failure) -> None:
        if not failure.check(Unavailable):
            self._log.failure("the check of quiet channels failed", failure=failure)

    # The past.

    async def position(self, app: str, channel: str) -> Position:
        """Where the channel stands."""
        [head] = await self.scripted(self.queries, _heads, app, channel)
        return Position(head[0].decode(), head[1])

    async def read(self, app: str, channel: str, after: Position, limit: int) -> list[Message]:
        """Messages behind the position, from the log."""
        past = _Past(await self.queries.run(_read, app, channel, after.epoch, after.sequence, limit), channel)
        if not past.follows(after):
            raise Gone(f"messages of '{channel}' behind {after.sequence} are no longer kept")
        return past.messages

    async def locate(self, app: str, channel: str, timestamp: int, slack_ms: int) -> Located:
        """The place of a timestamp in the log; with a slack, of an earlier one."""
        answer = await self.scripted(self.queries, _locate, app, channel, timestamp - slack_ms)
        epoch, sequence, ties, trimmed = answer
        ties = 0 if slack_ms else ties
        return Located(
            Position(epoch.decode(), sequence), ties, timestamp > trimmed or (timestamp == trimmed and not ties)
        )


class _Past:
    """What ``read.lua`` found: where the channel stands, where it changed its epoch, and entries behind a position."""

    __slots__ = ("kept", "messages", "position", "previous")

    def __init__(self, answer: Sequence[Any], channel: str) -> None:
        self.position: Position | None = None
        self.messages: list[Message] = []
        if answer:
            epoch, sequence, previous, self.kept, entries = answer
            self.position = Position(epoch.decode(), sequence)
            self.previous = previous.decode()
            self.messages = [entry_message(channel, entry) for entry in entries]

    def follows(self, after: Position, *, is_known_here: bool = False) -> bool:
        """Whether the messages are all that there is behind the position.

        ``is_known_here``: the node itself received up to the position, so what the server lost of it is not missed.
        """
        if self.position is None:
            return False
        start = after.sequence
        if after.epoch == self.previous and after.epoch != self.position.epoch:
            if after.sequence > self.kept and not is_known_here:
                return False
            start = min(after.sequence, self.kept)
        elif after.epoch != self.position.epoch or after.sequence > self.position.sequence:
            return False
        if start == self.position.sequence:
            return True
        return bool(self.messages) and self.messages[0].sequence == start + 1


@implementer(IBroker)
class RedisBroker:
    """Carries messages between the nodes of a cluster through one or several Redis servers.

    ``node`` names this process, unlike any other; ``new_name`` makes names that never were. ``occupancy`` is told of
    the channels that this node has subscribers in, or has no more.
    """

    def __init__(
        self,
        urls: Sequence[str],
        reactor: Any,
        node: str,
        new_name: Callable[[], str],
        durability: Durability,
        *,
        backlog_bytes: int = 1 << 26,
    ) -> None:
        self.shards = [
            RedisShard(RedisUrl.parse(url), reactor, node, new_name, durability, backlog_bytes) for url in urls
        ]
        self.occupancy: Callable[[str, str, bool], None] = lambda app, channel, is_occupied: None
        self._ring = Ring(len(self.shards))
        self._slack_ms = _SLACK_MS if len(self.shards) > 1 else 0

    async def start(self) -> None:
        """Connects to all servers; fails when one can't be reached now."""
        for shard in self.shards:
            await shard.start()

    async def stop(self) -> None:
        """Disconnects."""
        for shard in self.shards:
            await shard.stop()

    @property
    def is_up(self) -> bool:
        """Whether all servers can be used."""
        return all(shard.is_up for shard in self.shards)

    def shard(self, app: str, channel: str) -> RedisShard:
        """Where the channel lives."""
        return self.shards[self._ring.number(app, channel)]

    def listen(self, receiver: IReceiver) -> None:
        """Names the receiver."""
        for shard in self.shards:
            shard.listen(receiver)

    def publish(self, publication: Publication) -> Deferred[Receipt]:
        """Accepts a message; fires when Redis has it as durably as it is set up."""
        return self.shard(publication.app, publication.channel).publish(publication)

    async def attach(self, app: str, channel: str) -> Position:
        """Delivers the channel's messages from now on."""
        return await self.shard(app, channel).attach(app, channel)

    def detach(self, app: str, channel: str) -> None:
        """Delivers them no more."""
        self.shard(app, channel).detach(app, channel)

    def occupy(self, app: str, channel: str) -> None:
        """This node has subscribers in the channel."""
        self.occupancy(app, channel, True)

    def vacate(self, app: str, channel: str) -> None:
        """This node has none there any more."""
        self.occupancy(app, channel, False)

    async def position(self, app: str, channel: str) -> Position:
        """Where the channel stands."""
        return await self.shard(app, channel).position(app, channel)

    async def read(self, app: str, channel: str, after: Position, limit: int) -> list[Message]:
        """Messages behind the position, from the channel's log."""
        return await self.shard(app, channel).read(app, channel, after, limit)

    async def locate(self, app: str, channel: str, timestamp: int) -> Located:
        """The place of a timestamp in the channel's log."""
        return await self.shard(app, channel).locate(app, channel, timestamp, self._slack_ms)


def _options(durability: Durability) -> bytes:
    d = durability
    idle = d.recovery_seconds if d.backlog else d.history_seconds
    milliseconds = [int(idle * 1000), int(d.dedup_seconds * 1000)]
    return msgspec.msgpack.encode([d.recovery_messages, *milliseconds, d.backlog, d.history_messages])


def _topic(app: str, channel: str) -> bytes:
    return f"wsock:topic:{app}:{channel}".encode()


def _message(channel: str, epoch: str, sequence: int, timestamp: int, body: bytes) -> Message:
    b = decode_body(body)
    return Message(channel, b.id, b.data, timestamp, b.publisher_id, sequence, epoch, b.persist)


def entry_message(channel: str, entry: Sequence[Any]) -> Message:
    """The message that an entry of the channel's log holds."""
    id, fields = entry
    sequence, _, timestamp = id.partition(b"-")
    return _message(channel, fields[3].decode(), int(sequence), int(timestamp), fields[1])
