"""The broker of a cluster: every node publishes into Redis, and gets what its channels carry from there.

Theory of operation
===================
The script ``publish.lua`` gives a message its place: sequence, epoch,
timestamp; it appends it to the channel's log and publishes it, in one step, so the order in the log is the order on
the wire. A node subscribes to the topics of the channels that somebody on it wants. Redis' pub/sub forgets; so each
attached channel has a position here, and a message that does not follow it makes the node read what is missing from
the log before it delivers anything more from that server. The same look at the log follows each reconnect, and now
and then for channels that are quiet.

A channel moves to a new epoch with the first publish after its server was restarted or replaced. What was kept of the
old one is recorded, so that a position in it can still be followed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol, TypeVar

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from wsock.backends.redis_batch import PublishBatches, Run, decode_run, entry_messages
from wsock.backends.redis_link import RedisConnection, RedisUrl, Script, Subscriptions, all_answers
from wsock.backends.redis_ring import Ring
from wsock.errors import ConfigError, Gone, Unavailable
from wsock.interfaces import IBroker, IReceiver, Outcome
from wsock.protocol.messages import HistoryQuery, Located, Message, Page, Publication
from wsock.protocol.position import Position

__all__ = ["Durability", "IAttached", "RedisBroker", "RedisShard", "Watch", "check_version"]

_AT_ONCE = 500
_PAGE = 500
_MIN_PAGE = 16
_MAX_READ = 10_000
_HEADS_PAGE = 5000
_MAX_EARLY = 1000
_SLACK_MS = 1000
"""How much earlier a resume by timestamp begins where channels live on several servers with clocks of their own."""

_LEAST_VERSION = 7

_publish, _heads, _read, _locate, _open = map(Script.load, ("publish", "heads", "read", "locate", "open"))
_log_page = Script.load("page")

_T = TypeVar("_T")


class _Attached:
    """An attached channel: the position up to which the receiver was told.

    While it is on its way there, ``waiting`` are those who wait for it, and ``early`` what arrived meanwhile. Once it
    is not wanted any more it is ``leaving``.
    """

    __slots__ = ("app", "channel", "early", "epoch", "is_wanted", "leaving", "sequence", "topic", "waiting")

    def __init__(self, app: str, channel: str) -> None:
        self.app = app
        self.channel = channel
        self.topic = _topic(app, channel)
        self.epoch = ""
        self.sequence = 0
        self.is_wanted = True
        self.leaving: IDelayedCall | None = None
        self.waiting: list[Deferred[None]] | None = []
        self.early: list[bytes] = []

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.sequence)

    def move(self, position: Position) -> None:
        self.epoch, self.sequence = position.epoch, position.sequence


class _Gap:
    """What is missing of a channel, up to where its server had it when the repair began."""

    __slots__ = ("attached", "head", "is_closed", "messages")

    def __init__(self, attached: _Attached, head: Position) -> None:
        self.attached = attached
        self.head = head
        self.messages: list[Message] = []
        self.is_closed = False

    def take(self, past: _Past, limit: int) -> None:
        """The next messages of the log, at most ``limit`` that were asked for."""
        self.messages = [message for message in past.messages if message.sequence <= self.head.sequence]
        self.is_closed = len(past.messages) < limit or past.messages[-1].sequence >= self.head.sequence

    def is_left(self, horizon: float) -> bool:
        """Whether something is still to be told when everything up to this timestamp was."""
        return not self.is_closed or (bool(self.messages) and self.messages[-1].timestamp > horizon)


class _Held:
    """What arrived during a repair, up to a bound."""

    def __init__(self, watch: Watch) -> None:
        self.messages: deque[tuple[bytes, bytes]] = deque()
        self.is_full = False
        self._room = watch.held_messages
        self._bytes = watch.held_bytes

    def add(self, topic: bytes, payload: bytes) -> None:
        """Keeps it; once there was no room for one, no further one."""
        self._room -= 1
        self._bytes -= len(payload)
        self.is_full = self.is_full or self._room < 0 or self._bytes < 0
        if not self.is_full:
            self.messages.append((topic, payload))


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

    @property
    def kept_messages(self) -> int:
        """How many messages of a channel the log keeps."""
        return self.recovery_messages if self.backlog else self.history_messages


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """How a node watches over what it receives.

    A half-open connection is found within two ``probe_seconds``, the lost last message of a quiet channel within
    ``quiet_seconds``. A channel that was detached stays subscribed for ``leaving_seconds``. During a repair at most
    ``held_messages`` with ``held_bytes`` are held back; one that makes no progress for ``repair_seconds`` is given up,
    and begun anew with another connection.
    """

    probe_seconds: float = 4.0
    quiet_seconds: float = 30.0
    leaving_seconds: float = 5.0
    retry_seconds: float = 0.2
    repair_seconds: float = 10.0
    held_messages: int = 50_000
    held_bytes: int = 1 << 26


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
        watch: Watch,
    ) -> None:
        self._reactor = reactor
        self._watch = watch
        self._node = node
        self._new_name = new_name
        self._durability = durability
        self._options = _options(durability)
        self._gens: dict[RedisConnection, str] = {}
        self._attached: dict[bytes, _Attached] = {}
        self.presence: PresenceFeed | None = None
        self._held: _Held | None = None
        self._is_repairing = False
        self._looks_again = False
        self._connections_made = 0
        self._running: set[Deferred[None]] = set()
        self._probe_at: float | None = None
        self._probe_topic = f"wsock:probe:{node}".encode()
        self._url = url
        scripts = (_publish, _heads, _read, _locate, _log_page, _open)
        self.commands = RedisConnection(url, reactor, scripts=scripts, prepare=self.open)
        self.queries = RedisConnection(url, reactor, scripts=scripts, prepare=self.open, timeout_seconds=5.0)
        self.subscriptions = RedisConnection(
            url, reactor, prepare=self._subscribe_all, build=lambda: Subscriptions(self._received)
        )
        self.batches = PublishBatches(
            self._run_batch,
            reactor,
            backlog_bytes=backlog_bytes,
            # A run leaves the log as a whole: it is not to keep much more than it is set to.
            max_run=max(1, durability.kept_messages // 4),
        )
        self._probing = LoopingCall(self._probe)
        self._checking = LoopingCall(self._check_quiet)
        self._probing.clock = self._checking.clock = reactor

    def listen(self, receiver: IReceiver) -> None:
        """Names the receiver."""
        self._receiver = receiver

    # Life.

    async def start(self) -> None:
        """Connects; fails when the server can't be reached now."""
        connections = (self.commands, self.queries, self.subscriptions)
        for connection in connections:
            connection.start()
        for connection in connections:
            await connection.when_up()
        self._probing.start(self._watch.probe_seconds, now=False)
        self._checking.start(self._watch.quiet_seconds, now=False)

    async def stop(self) -> None:
        """Disconnects."""
        for loop in (self._probing, self._checking):
            if loop.running:
                loop.stop()
        for attached in self._attached.values():
            if attached.leaving is not None:
                attached.leaving.cancel()
                attached.leaving = None
        for running in list(self._running):
            running.cancel()
        for connection in (self.subscriptions, self.queries, self.commands):
            await connection.stop()

    @property
    def is_up(self) -> bool:
        """Whether the server can be used."""
        return self.commands.is_up and self.queries.is_up and self.subscriptions.is_up

    def connect(
        self,
        scripts: tuple[Script, ...] = (),
        prepare: Callable[[RedisConnection], Awaitable[None]] | None = None,
        *,
        timeout_seconds: float = 2.0,
        on_message: Callable[[bytes, bytes], None] | None = None,
    ) -> RedisConnection:
        """One more connection to the same server: for commands that may wait, or, with ``on_message``, for pub/sub."""
        more: dict[str, Any] = {} if on_message is None else {"build": lambda: Subscriptions(on_message)}
        return RedisConnection(
            self._url, self._reactor, scripts=scripts, prepare=prepare, timeout_seconds=timeout_seconds, **more
        )

    async def open(self, connection: RedisConnection) -> None:
        """A new connection may be to a new process: what it kept of its past is another generation."""
        # Until it is known which generation this process belongs to, nothing may be accepted through the connection.
        self._gens[connection] = ""
        info = await connection.call("INFO", "server")
        facts = dict(line.split(b":", 1) for line in info.split(b"\r\n") if b":" in line)
        check_version(facts.get(b"redis_version", b"0"))
        gen = await connection.run(_open, facts.get(b"run_id", b""), self._new_name())
        self._gens[connection] = gen.decode()

    async def scripted(self, connection: RedisConnection, script: Script, *arguments: Any) -> Any:
        """Runs a script that expects the generation, which another node may have moved on."""
        try:
            return await connection.run(script, self._gens.get(connection, ""), *arguments)
        except Exception as e:
            if not str(e).startswith("STALE"):
                raise
        await self.open(connection)
        return await connection.run(script, self._gens[connection], *arguments)

    def _run(self, work: Coroutine[Deferred[Any], Any, None]) -> None:
        """Work of its own, which ends at the latest when the shard stops."""
        running: Deferred[None] = Deferred.fromCoroutine(work)
        if not running.called:
            self._running.add(running)
            running.addBoth(lambda _: self._running.discard(running))

    # Publishing.

    async def _run_batch(self, runs: bytes) -> bytes:
        running = Deferred.fromCoroutine(self.scripted(self.commands, _publish, self._options, runs))
        self.commands.push()
        answers: bytes = await running
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
            self._run(self._settle(attached))
        attached.is_wanted = True
        if attached.leaving is not None:
            attached.leaving.cancel()
            attached.leaving = None
        if attached.waiting is not None:
            settled: Deferred[None] = Deferred()
            attached.waiting.append(settled)
            await settled
        return attached.position

    async def _settle(self, attached: _Attached) -> None:
        """Runs by itself, since nobody who gives up waiting takes the others along."""
        connections_made = self._connections_made
        try:
            await self._subscribe(attached)
        except CancelledError:
            self._forget(attached, Failure(Unavailable("this server is stopping")))
            return
        except Exception:
            self._forget(attached, Failure())
            return
        waiting, attached.waiting = attached.waiting or [], None
        for settled in waiting:
            settled.callback(None)
        if len(attached.early) > _MAX_EARLY or connections_made != self._connections_made:
            self._repair()
        early, attached.early = attached.early[:_MAX_EARLY], []
        for payload in early:
            self._received(attached.topic, payload)

    async def _subscribe(self, attached: _Attached) -> None:
        await self.subscriptions.call("SUBSCRIBE", attached.topic)
        [head] = await self.scripted(self.commands, _heads, attached.app, attached.channel)
        attached.move(Position(head[0].decode(), head[1]))
        if self.presence is not None:
            await self.presence.attach(attached, head[3])

    def _forget(self, attached: _Attached, failure: Failure) -> None:
        waiting, attached.waiting = attached.waiting or [], []
        if attached.leaving is not None:
            attached.leaving.cancel()
        self._drop(attached)
        for settled in waiting:
            settled.errback(failure)

    def detach(self, app: str, channel: str) -> None:
        """Stays subscribed for some seconds, since who leaves often comes back."""
        attached = self._attached.get(_topic(app, channel))
        if attached is not None and attached.is_wanted:
            attached.is_wanted = False
            attached.leaving = self._reactor.callLater(self._watch.leaving_seconds, self._drop, attached)

    def _drop(self, attached: _Attached) -> None:
        attached.leaving = None
        if self._attached.get(attached.topic) is attached:
            del self._attached[attached.topic]
            self._presence_detached(attached)
            # When that fails the connection is lost, and with it the subscription.
            self.subscriptions.call("UNSUBSCRIBE", attached.topic).addErrback(lambda _: None)

    def _presence_detached(self, attached: _Attached) -> None:
        if self.presence is not None:
            self.presence.detach(attached.topic)

    async def _subscribe_all(self, connection: RedisConnection) -> None:
        """A new pub/sub connection: everything again, and a look at what was missed."""
        self._probe_at = None
        self._connections_made += 1
        # Held from the start: no channel may go on while an older message of another one is missing.
        self._held = _Held(self._watch) if self._held is None else self._held
        for topics in _slices([self._probe_topic, *self._attached], _AT_ONCE):
            await all_answers([connection.call("SUBSCRIBE", topic) for topic in topics])
        if self.presence is not None:
            self.presence.reconnected()
        self._repair()

    # What arrives.

    def _received(self, topic: bytes, payload: bytes) -> None:
        if topic == self._probe_topic:
            self._probe_at = None
        elif self._held is not None:
            self._held.add(topic, payload)
        else:
            self._deliver(topic, payload)

    def _deliver(self, topic: bytes, payload: bytes) -> None:
        attached = self._attached.get(topic)
        if attached is None:
            return
        kind, rest = payload[:2], payload[2:]
        if kind == b"p ":
            if self.presence is not None:
                self.presence.announced(attached, rest)
        elif attached.waiting is not None:
            # One more than there is room for tells that something is missing.
            if len(attached.early) <= _MAX_EARLY:
                attached.early.append(payload)
        elif kind == b"m ":
            self._deliver_run(attached, decode_run(rest))

    def _deliver_run(self, attached: _Attached, run: Run) -> None:
        epoch, sequence, known = run.epoch, run.sequence, 0
        if epoch != attached.epoch:
            if run.before != f"{attached.epoch}/{attached.sequence}":
                self._repair()
                return
            self._moved(attached, Position(epoch, sequence - 1))
        elif sequence <= attached.sequence:
            known = attached.sequence + 1 - sequence
        elif sequence != attached.sequence + 1:
            self._repair()
            return
        app, channel, timestamp, cap = attached.app, attached.channel, run.timestamp, run.cap
        for b in run.bodies[known:] if known else run.bodies:
            place = sequence + known
            attached.sequence = place
            if attached.is_wanted:
                at = timestamp + known
                self._receiver.message(
                    app,
                    Message(channel, b.id, b.data, at if at < cap else cap, b.publisher_id, place, epoch, b.persist),
                )
            known += 1

    def _tell(self, attached: _Attached, message: Message) -> None:
        attached.move(message.position)
        if attached.is_wanted:
            self._receiver.message(attached.app, message)

    def _moved(self, attached: _Attached, position: Position) -> None:
        attached.move(position)
        if attached.is_wanted:
            self._receiver.moved(attached.app, attached.channel, position)

    # Repair.

    def _repair(self) -> None:
        """Reads what is missing of all channels; until then nothing of this server is delivered.

        Of all: where pub/sub lost one message it may have lost others, and a connection that has several channels must
        not get a newer one first.
        """
        self._looks_again = True
        if not self._is_repairing:
            self._is_repairing = True
            self._held = _Held(self._watch) if self._held is None else self._held
            self._run(self._repair_all())

    async def _repair_all(self) -> None:
        """Never raises."""
        deadline = self._reactor.seconds() + self._watch.repair_seconds
        try:
            while self._looks_again:
                self._looks_again = False
                try:
                    await self._catch_up([_Gap(attached, head) for attached, head in await self._behind()])
                except Unavailable:
                    self._looks_again = True
                    if self._reactor.seconds() >= deadline:
                        break
                    await deferLater(self._reactor, self._watch.retry_seconds)
        except CancelledError:
            return
        except Exception:
            self._log.failure("a repair failed")
            self._looks_again = True
        finally:
            self._is_repairing = False
        if self._looks_again:
            self._give_up()
        else:
            self._release()

    def _give_up(self) -> None:
        """The log can't be read now: with a new connection everything is looked at again."""
        self._looks_again = False
        self._held = None
        self.subscriptions.abort()

    def _release(self) -> None:
        """Delivers what was held back. That may show another gap, and then the rest is held again."""
        held, self._held = self._held, None
        if held is None:
            return
        for topic, payload in held.messages:
            self._received(topic, payload)
        if held.is_full:
            self._repair()

    async def _behind(self) -> list[tuple[_Attached, Position]]:
        """The channels of which the server has more than was delivered here, and where it has them.

        One that is ahead of its server is not: what the server lost of it was delivered before.
        """
        behind = []
        known = [attached for attached in self._attached.values() if attached.waiting is None]
        for some in _slices(known, _HEADS_PAGE):
            names = [name for attached in some for name in (attached.app, attached.channel)]
            heads = await self.scripted(self.queries, _heads, *names)
            for attached, head in zip(some, heads, strict=True):
                position = Position(head[0].decode(), head[1])
                if position.epoch != attached.epoch or position.sequence > attached.sequence:
                    behind.append((attached, position))
        return behind

    async def _catch_up(self, gaps: list[_Gap]) -> None:
        """Tells what is missing up to the heads, merged by timestamp; what came later is held, and follows."""
        while gaps:
            limit = max(_MIN_PAGE, min(_PAGE, _MAX_READ // len(gaps)))
            for some in _slices(gaps, _AT_ONCE):
                await all_answers([Deferred.fromCoroutine(self._read_on(gap, limit)) for gap in some])
            # Of what is not read to its end, nothing older than this is missing.
            horizon = min((gap.messages[-1].timestamp for gap in gaps if not gap.is_closed), default=math.inf)
            known = [(message, gap) for gap in gaps for message in gap.messages if message.timestamp <= horizon]
            for message, gap in sorted(known, key=lambda pair: pair[0].timestamp):
                self._tell_missed(gap.attached, message)
            gaps = [gap for gap in gaps if gap.is_left(horizon)]

    async def _read_on(self, gap: _Gap, limit: int, *, is_lost: bool = False) -> None:
        attached = gap.attached
        after = attached.position
        answer = await self.queries.run(_read, attached.app, attached.channel, after.epoch, after.sequence, limit)
        past = _Past(answer, attached.channel, after, limit)
        if past.follows(after, is_known_here=True):
            gap.take(past, limit)
            return
        gap.messages, gap.is_closed = [], True
        if past.position is None:
            # Its head went this very moment; another look makes a new one.
            self._looks_again = True
        elif is_lost:
            self._lost(attached, past.position)
        else:
            # What the log has of the new epoch is not lost: it follows.
            self._lost(attached, await self._before_kept(attached, past.position))
            gap.is_closed = False
            await self._read_on(gap, limit, is_lost=True)

    async def _before_kept(self, attached: _Attached, head: Position) -> Position:
        """The position before the oldest message in the log, if that is of the epoch that the channel is in now."""
        start = Position(head.epoch, 0)
        answer = await self.queries.run(_read, attached.app, attached.channel, start.epoch, start.sequence, 1)
        first = next(iter(_Past(answer, attached.channel, start, 1).messages), None)
        return Position(head.epoch, first.sequence - 1) if first is not None and first.epoch == head.epoch else head

    def _tell_missed(self, attached: _Attached, message: Message) -> None:
        if message.epoch != attached.epoch:
            self._moved(attached, Position(message.epoch, message.sequence - 1))
        if message.sequence > attached.sequence:
            self._tell(attached, message)

    def _lost(self, attached: _Attached, position: Position) -> None:
        self._log.warn("messages of a channel are lost: {channel}", channel=attached.channel)
        attached.move(position)
        if attached.is_wanted:
            self._receiver.lost(attached.app, attached.channel, position)

    # Watching.

    def _probe(self) -> None:
        """Finds a half-open pub/sub connection: what is published to it must come back."""
        now = self._reactor.seconds()
        if self._probe_at is not None and now - self._probe_at >= self._watch.probe_seconds * 0.9:
            self._log.warn("nothing comes through a pub/sub connection: it is made anew")
            self._probe_at = None
            self.subscriptions.abort()
        elif self.subscriptions.is_up and self.commands.is_up:
            self._probe_at = now if self._probe_at is None else self._probe_at
            self.commands.call("PUBLISH", self._probe_topic, b"").addErrback(self._not_probed)

    def _not_probed(self, _: object) -> None:
        self._probe_at = None

    def _check_quiet(self) -> Deferred[None]:
        checking = Deferred.fromCoroutine(self._find_behind())
        return checking.addErrback(self._could_not_check)

    async def _find_behind(self) -> None:
        """The last message of a channel may be lost in pub/sub without another one to show the gap."""
        before = {attached.topic: attached.position for attached in self._attached.values()}
        if any(attached.position == before.get(attached.topic) for attached, _ in await self._behind()):
            self._repair()

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
        answer = await self.queries.run(_read, app, channel, after.epoch, after.sequence, limit)
        past = _Past(answer, channel, after, limit)
        if not past.follows(after):
            raise Gone(f"messages of '{channel}' behind {after.sequence} are no longer kept")
        return past.messages

    async def page(self, app: str, channel: str, query: HistoryQuery, *, is_all: bool) -> Page:
        """A page of history from the log: of all of it, or of what may not be persisted yet."""
        bounds = ["" if bound is None else bound for bound in (query.after, query.before)]
        which = "all" if is_all else "unpersisted"
        answer = await self.queries.run(_log_page, app, channel, which, query.direction, *bounds, query.limit)
        has_more, count, entries = answer
        lowest, highest = query.after or 0, math.inf if query.before is None else query.before
        messages = [message for entry in entries for message in _in_order(channel, entry, query.direction)]
        within = (message for message in messages if lowest < message.timestamp < highest)
        return Page(list(islice(within, count)), bool(has_more))

    async def locate(self, app: str, channel: str, timestamp: int, slack_ms: int) -> Located:
        """The place of a timestamp in the log; with a slack, of an earlier one."""
        answer = await self.scripted(self.queries, _locate, app, channel, timestamp - slack_ms)
        epoch, sequence, ties, trimmed = answer
        begin = timestamp - slack_ms
        is_complete = begin > trimmed or (begin == trimmed and not ties)
        return Located(Position(epoch.decode(), sequence), 0 if slack_ms else ties, is_complete)


def _in_order(channel: str, entry: Sequence[Any], direction: str) -> Sequence[Message]:
    messages = entry_messages(channel, entry)
    return messages if direction == "forward" else messages[::-1]


class _Past:
    """What ``read.lua`` found: where the channel stands, and at most ``limit`` messages behind a position.

    ``kept`` is the last sequence that the log has of the position's epoch, or -1.
    """

    __slots__ = ("kept", "messages", "position")

    def __init__(self, answer: Sequence[Any], channel: str, after: Position, limit: int) -> None:
        self.position: Position | None = None
        self.messages: list[Message] = []
        if answer:
            epoch, sequence, self.kept, entries = answer
            self.position = Position(epoch.decode(), sequence)
            found = (message for entry in entries for message in entry_messages(channel, entry))
            start = min(after.sequence, self.kept)
            self.messages = list(islice((message for message in found if message.sequence > start), limit))

    def follows(self, after: Position, *, is_known_here: bool = False) -> bool:
        """Whether the messages are all that there is behind the position.

        ``is_known_here``: the node itself received up to the position, so what the server lost of it is not missed.
        """
        if self.position is None or self.kept < 0 or (after.sequence > self.kept and not is_known_here):
            return False
        start = min(after.sequence, self.kept)
        return start == self.position.sequence or (bool(self.messages) and self.messages[0].sequence == start + 1)


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
        watch: Watch | None = None,
    ) -> None:
        own = watch or Watch()
        self.shards = [
            RedisShard(RedisUrl.parse(url), reactor, node, new_name, durability, backlog_bytes, own) for url in urls
        ]
        self.occupancy: Callable[[str, str, bool], None] = lambda app, channel, is_occupied: None
        self._ring = Ring(len(self.shards))
        self._only = self.shards[0] if len(self.shards) == 1 else None
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

    def tell_of(self, is_told: Callable[[str, str], bool]) -> None:
        """Puts messages that are no history into the work queue too, where ``is_told`` says so of (app, channel)."""
        for shard in self.shards:
            shard.batches.is_told = is_told

    def publish(self, publication: Publication, outcome: Outcome) -> None:
        """Accepts a message; the outcome is known when Redis has it as durably as it is set up."""
        # The hot path of one server needs no ring.
        shard = self._only or self.shard(publication.app, publication.channel)
        shard.batches.add(publication, outcome)

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

    async def occupied(self, app: str) -> int:
        """How many of the app's channels have subscribers."""
        return sum([await shard.queries.call("SCARD", _channels_key(app)) for shard in self.shards])

    async def is_occupied(self, app: str, channel: str) -> bool:
        """Whether the channel has subscribers."""
        return bool(await self.shard(app, channel).queries.call("SISMEMBER", _channels_key(app), channel))

    async def position(self, app: str, channel: str) -> Position:
        """Where the channel stands."""
        return await self.shard(app, channel).position(app, channel)

    async def read(self, app: str, channel: str, after: Position, limit: int) -> list[Message]:
        """Messages behind the position, from the channel's log."""
        return await self.shard(app, channel).read(app, channel, after, limit)

    async def locate(self, app: str, channel: str, timestamp: int) -> Located:
        """The place of a timestamp in the channel's log."""
        return await self.shard(app, channel).locate(app, channel, timestamp, self._slack_ms)


def check_version(version: bytes) -> None:
    """The scripts write after asking the time, which Redis replicates rightly from 7 on (Valkey says 7.2)."""
    if int(version.split(b".")[0]) < _LEAST_VERSION:
        text = f"redis: the server's version is {version.decode()}; it takes Redis {_LEAST_VERSION} or later, or Valkey"
        raise ConfigError(text)


def _options(durability: Durability) -> bytes:
    d = durability
    idle = d.recovery_seconds if d.backlog else d.history_seconds
    milliseconds = [int(idle * 1000), int(d.dedup_seconds * 1000)]
    return msgspec.msgpack.encode([d.recovery_messages, *milliseconds, d.backlog, d.history_messages])


def _channels_key(app: str) -> str:
    return f"wsock:channels:{app}"


def _topic(app: str, channel: str) -> bytes:
    return f"wsock:topic:{len(app.encode())}:{app}:{channel}".encode()


def _slices(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
