"""The subscribers: they listen, and hold what they hear against what was accepted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from wsock.bench.connection import Connection, Dialler, close_all
from wsock.bench.errors import BenchError
from wsock.bench.load import Plan
from wsock.bench.tally import Faults, Latencies, Sent, Stream
from wsock.bench.wire import Chunk, ErrorFrame, Subscribed
from wsock.protocol.codec import encode

__all__ = ["Audience", "Listener", "Listeners", "Published", "Verdict"]

K = TypeVar("K")
Published = Mapping[int, Mapping[int, Sent]]
"""What was published, by channel and publisher."""

_STEP_SECONDS = 0.02


class Verdict(msgspec.Struct):
    """What all subscribers together heard, when nothing more will come.

    ``ends`` says why connections of subscribers ended too early, and how many did; what those missed is not counted as
    lost.
    """

    deliveries: int = 0
    faults: Faults = msgspec.field(default_factory=Faults)
    errors: dict[str, int] = {}
    ends: dict[str, int] = {}
    latencies: dict[int, int] = {}
    cpu: float = 0.0
    """The part of one core that listening took, where that was in a process of its own."""

    def add(self, other: Verdict) -> None:
        """Adds what other subscribers heard."""
        self.deliveries += other.deliveries
        self.faults.add(other.faults)
        self.cpu = max(self.cpu, other.cpu)
        _add(self.errors, other.errors)
        _add(self.ends, other.ends)
        _add(self.latencies, other.latencies)


class Audience(Protocol):
    """Subscribers, in this process or in another."""

    @property
    def received(self) -> int:
        """Deliveries so far."""

    async def open(self, opened: Callable[[], None]) -> None:
        """Connects and subscribes them all; tells of each. Raises :class:`BenchError`."""

    def measure(self) -> None:
        """From now on it counts how long deliveries take."""

    async def settle(self, sent: Published, patience_seconds: float) -> Verdict:
        """What they heard of what was published, as soon as they have it all, or after so long."""

    async def close(self) -> None:
        """Closes their connections."""


@dataclass(slots=True)
class Total:
    """Deliveries to all subscribers of this process."""

    received: int = 0


class Listener:
    """One subscriber, of one channel."""

    __slots__ = (
        "_clock",
        "_streams",
        "_total",
        "channel",
        "connection",
        "end",
        "errors",
        "latencies",
        "strays",
        "subscribed",
    )

    def __init__(self, channel: int, connection: Connection, total: Total, clock: Callable[[], int]) -> None:
        self.channel = channel
        self.connection = connection
        self.subscribed: Deferred[None] = Deferred()
        self.strays = 0
        self.errors: list[str] = []
        self.end: str | None = None
        self.latencies: Latencies | None = None
        """Where it notes how long deliveries took, once they count."""
        self._total = total
        self._clock = clock
        self._streams: dict[int, Stream] = {}
        connection.on_chunk = self._heard
        connection.on_end = self._ended

    @property
    def distinct(self) -> int:
        """Messages of its channel that came, those that came twice only once."""
        return sum([stream.expected - len(stream.missing) for stream in self._streams.values()])

    def verdict(self, sent: Mapping[int, Sent]) -> Faults:
        """What is wrong, when these were published in the channel, by publisher."""
        faults = Faults(strays=self.strays)
        for source in {*sent, *self._streams}:
            stream = self._streams.get(source) or Stream()
            if source in sent:
                faults.add(stream.faults(sent[source]))
            else:
                faults.strays += stream.expected
        return faults

    def _heard(self, chunk: Chunk) -> None:
        self.strays += chunk.strays
        for run in chunk.runs:
            if run.channel != self.channel:
                self.strays += run.count
                continue
            stream = self._streams.get(run.source)
            if stream is None:
                stream = self._streams[run.source] = Stream()
            stream.heard(run.first, run.count)
        self._total.received += chunk.count
        if self.latencies is not None and chunk.times:
            self.latencies.add(self._clock(), chunk.times)
        for answer in chunk.answers:
            if isinstance(answer, Subscribed) and not self.subscribed.called:
                self.subscribed.callback(None)
            elif isinstance(answer, ErrorFrame):
                self._refused(answer)

    def _refused(self, answer: ErrorFrame) -> None:
        if self.subscribed.called:
            self.errors.append(f"{answer.code}: {answer.error}")
        else:
            self.subscribed.errback(BenchError(f"the server refused to subscribe ({answer.code}): {answer.error}"))

    def _ended(self, reason: str) -> None:
        self.end = reason
        if not self.subscribed.called:
            self.subscribed.errback(BenchError(f"a subscriber got no answer: {reason}"))


class Listeners:
    """The subscribers with these numbers; subscriber n listens to channel n modulo the count of channels."""

    def __init__(
        self,
        plan: Plan,
        numbers: Iterable[int],
        dialler: Dialler,
        *,
        reactor: IReactorTime,
        clock: Callable[[], int],
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        self._plan = plan
        self._numbers = list(numbers)
        self._dialler = dialler
        self._reactor = reactor
        self._clock = clock
        self._is_wanted = is_wanted
        self._listeners: list[Listener] = []
        self._total = Total()
        self._latencies = Latencies()

    async def open(self, opened: Callable[[], None]) -> None:
        """Connects and subscribes them all; tells of each. Raises :class:`BenchError`."""
        numbers = iter(self._numbers)

        async def subscribe(connection: Connection) -> None:
            channel = next(numbers) % self._plan.channels
            listener = Listener(channel, connection, self._total, self._clock)
            self._listeners.append(listener)
            connection.send(encode({"action": "subscribe", "channel": self._plan.channel(channel)}))
            await listener.subscribed
            opened()

        await self._dialler.open_many(len(self._numbers), subscribe, self._is_wanted)

    def measure(self) -> None:
        """From now on it counts how long deliveries take."""
        if self._plan.rate is not None:
            for listener in self._listeners:
                listener.latencies = self._latencies

    @property
    def received(self) -> int:
        """Deliveries so far."""
        return self._total.received

    async def settle(self, sent: Published, patience_seconds: float) -> Verdict:
        """What they heard of what was published, as soon as they have it all, or after so long."""
        ends_at = self._reactor.seconds() + patience_seconds
        while not self._have_all(sent) and self._reactor.seconds() < ends_at:
            await deferLater(self._reactor, _STEP_SECONDS)
        verdict = Verdict(deliveries=self.received, latencies=dict(self._latencies.counts))
        for listener in self._listeners:
            _add(verdict.errors, Counter(listener.errors))
            if listener.end is not None:
                _add(verdict.ends, {listener.end: 1})
                continue
            verdict.faults.add(listener.verdict(sent.get(listener.channel, {})))
        return verdict

    def _have_all(self, sent: Published) -> bool:
        """Whether each that is still there got as many messages as were accepted in its channel."""
        wanted = {channel: sum(one.accepted for one in sources.values()) for channel, sources in sent.items()}
        return all(one.distinct >= wanted.get(one.channel, 0) for one in self._listeners if one.end is None)

    async def close(self) -> None:
        """Closes their connections."""
        await close_all([listener.connection for listener in self._listeners], self._reactor)


def _add(counts: dict[K, int], more: Mapping[K, int]) -> None:
    for key, count in more.items():
        counts[key] = counts.get(key, 0) + count
