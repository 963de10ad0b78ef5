"""The scenarios: what is done, what is measured meanwhile, and what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from wsock.bench.connection import Connection, Dialler, close_all
from wsock.bench.listeners import Audience, Verdict
from wsock.bench.load import Plan
from wsock.bench.pace import Pace
from wsock.bench.publisher import Publisher
from wsock.bench.results import ConnectionsResult, StreamResult
from wsock.bench.server_side import UsageSource
from wsock.bench.tally import Latencies, Sent

__all__ = ["Generator", "connections", "stream"]

_WARM_UP_SECONDS = 0.5
_SETTLE_SECONDS = 10.0
_REST_SECONDS = 1.0
_NANO = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Generator:
    """What the scenarios work with. ``clock`` tells nanoseconds, ``cpu`` the CPU seconds of this process."""

    reactor: Any
    clock: Callable[[], int]
    cpu: Callable[[], float]
    pace: Pace
    dialler: Dialler
    usage: UsageSource
    audience: Callable[[Plan], Audience]


@dataclass(frozen=True, slots=True)
class _Mark:
    """How far everything was at a moment."""

    at: int
    cpu: float
    published: int
    delivered: int


class _Stage:
    """The publishers and subscribers of one scenario."""

    def __init__(self, plan: Plan, generator: Generator) -> None:
        self.plan = plan
        self.audience = generator.audience(plan)
        self.publishers: list[Publisher] = []
        self._generator = generator
        self._fan_out = max(1, round(plan.subscribers / plan.channels))

    async def open(self) -> None:
        """Connects everybody. Raises :class:`BenchError`."""
        name, pace = self.plan.name, self._generator.pace
        count = 0

        def opened() -> None:
            nonlocal count
            count += 1
            pace.progress.show(name, f"subscribing {self.plan.subscribers:,}", count / self.plan.subscribers)

        await self.audience.open(opened)
        for source in range(self.plan.publishers):
            self.publishers.append(self._publisher(source, await self._generator.dialler.open()))

    def _publisher(self, source: int, connection: Connection) -> Publisher:
        generator = self._generator
        return Publisher(
            source,
            self.plan,
            connection,
            reactor=generator.reactor,
            clock=generator.clock,
            may_go=self._subscribers_keep_up,
        )

    def _subscribers_keep_up(self) -> bool:
        """Whether no more deliveries are under way than the windows allow: else queues would be measured."""
        behind = self.published * self._fan_out - self.audience.received
        return behind <= 2 * self.plan.window * self.plan.publishers * self._fan_out

    @property
    def published(self) -> int:
        """Publishes so far."""
        return sum(publisher.published for publisher in self.publishers)

    def mark(self) -> _Mark:
        """How far everything is."""
        return _Mark(self._generator.clock(), self._generator.cpu(), self.published, self.audience.received)

    def stop(self) -> None:
        """Publishes no more."""
        for publisher in self.publishers:
            publisher.stop()

    def sent(self) -> dict[int, dict[int, Sent]]:
        """What was published, by channel and publisher."""
        sent: dict[int, dict[int, Sent]] = {}
        for source, publisher in enumerate(self.publishers):
            for channel, one in publisher.sent().items():
                sent.setdefault(channel, {})[source] = one
        return sent

    async def answers(self) -> None:
        """Waits until each publish has its answer, but not for ever."""
        ends_at = self._generator.reactor.seconds() + _SETTLE_SECONDS
        while any(one.waiting and one.end is None for one in self.publishers):
            if self._generator.reactor.seconds() >= ends_at:
                return
            await self._generator.pace.wait(0.02)

    async def close(self) -> None:
        """Closes all connections."""
        await close_all([one.connection for one in self.publishers], self._generator.reactor)
        await self.audience.close()


async def stream(plan: Plan, generator: Generator) -> StreamResult | None:
    """Publishes for as long as the plan says, and counts what arrives.

    ``None`` when it was interrupted before there was anything to measure. Raises :class:`BenchError`.
    """
    stage = _Stage(plan, generator)
    try:
        await stage.open()
        return await _measured(stage, generator)
    finally:
        stage.stop()
        await stage.close()


async def _measured(stage: _Stage, generator: Generator) -> StreamResult | None:
    name, pace = stage.plan.name, generator.pace
    for publisher in stage.publishers:
        publisher.start()
    await pace.spend(name, "warming up", _WARM_UP_SECONDS)
    before = await generator.usage.read()  # reading it keeps the server busy, so not while it is measured
    if pace.is_interrupted:
        return None
    stage.audience.measure()
    began = stage.mark()
    await pace.spend(name, "measuring", stage.plan.seconds)
    ended = stage.mark()
    stage.stop()
    after = await generator.usage.read()
    pace.progress.show(name, "waiting for the last messages", 1.0)
    await stage.answers()
    verdict = await stage.audience.settle(stage.sent(), _SETTLE_SECONDS)
    return _result(stage, verdict, began, ended, _difference(before.cpu_seconds, after.cpu_seconds))


def _result(stage: _Stage, verdict: Verdict, began: _Mark, ended: _Mark, server: float | None) -> StreamResult:
    plan, publishers = stage.plan, stage.publishers
    seconds = max((ended.at - began.at) / _NANO, 1e-9)
    deliveries = ended.delivered - began.delivered
    refused = sum((one.refused for one in publishers), Counter[str]())
    ends = Counter(f"a publisher: {one.end}" for one in publishers if one.end is not None)
    ends.update({f"a subscriber: {text}": count for text, count in verdict.ends.items()})
    return StreamResult(
        scenario=plan.name,
        subscribers=plan.subscribers,
        channels=plan.channels,
        publishers=plan.publishers,
        size=plan.size,
        window=plan.window if plan.rate is None else None,
        rate=plan.rate,
        seconds=seconds,
        published=stage.published,
        accepted=sum(one.accepted for one in publishers),
        unanswered=sum(one.waiting for one in publishers),
        refused=dict(refused),
        deliveries=verdict.deliveries,
        faults=verdict.faults,
        errors={**verdict.errors, **ends},
        publishes_per_second=(ended.published - began.published) / seconds,
        deliveries_per_second=deliveries / seconds,
        latency_ms=Latencies(Counter(verdict.latencies)).percentiles(),
        generator_cpu=max((ended.cpu - began.cpu) / seconds, verdict.cpu),
        generator_late_ms=max((one.lateness for one in publishers), default=0) / 1e6,
        server_cpu=None if server is None else server / seconds,
        server_cpu_seconds_per_million=None if server is None or not deliveries else server / deliveries * 1e6,
    )


async def connections(count: int, generator: Generator) -> ConnectionsResult:
    """Makes so many connections, keeps them, and closes them. Raises :class:`BenchError` when one can't be made."""
    opening = _Opening(count, generator)
    pace, usage = generator.pace, generator.usage
    try:
        before, cpu, began = await usage.read(), generator.cpu(), generator.clock()
        await opening.open()
        seconds = max((generator.clock() - began) / _NANO, 1e-9)
        used = generator.cpu() - cpu
        opened = await usage.read()
        await pace.spend("connections", f"{len(opening.connections):,} are open and idle", _REST_SECONDS)
        after = await usage.read()
    finally:
        await opening.close()
    memory = _difference(before.memory_bytes, after.memory_bytes)
    reused = "" if memory else "the server had memory left from before: measure it soon after its start"
    server = _difference(before.cpu_seconds, opened.cpu_seconds)
    made = len(opening.connections)
    return ConnectionsResult(
        connections=made,
        connects_per_second=made / seconds,
        handshake_ms=opening.handshakes.percentiles(),
        errors=dict(opening.ends),
        generator_cpu=used / seconds,
        server_cpu=None if server is None else server / seconds,
        memory_bytes=memory / made if memory and made else None,
        memory_why=before.why or after.why or reused,
    )


class _Opening:
    """Connections that are made and kept."""

    def __init__(self, count: int, generator: Generator) -> None:
        self.connections: list[Connection] = []
        self.handshakes = Latencies()
        self.ends: Counter[str] = Counter()
        self._count = count
        self._generator = generator

    async def open(self) -> None:
        """Makes them, as fast as the server answers; fewer when interrupted."""
        await self._generator.dialler.open_many(self._count, self._opened, self._is_wanted)

    async def close(self) -> None:
        """Closes them."""
        await close_all(self.connections, self._generator.reactor)

    def _is_wanted(self) -> bool:
        return not self._generator.pace.is_interrupted

    def _opened(self, connection: Connection) -> None:
        connection.on_end = self._ended
        self.connections.append(connection)
        self.handshakes.add(self._generator.clock(), [connection.asked_at])
        made = len(self.connections)
        if made % 16 == 0:
            self._generator.pace.progress.show("connections", f"opening {self._count:,}", made / self._count)

    def _ended(self, reason: str) -> None:
        self.ends[reason] += 1


def _difference(before: float | None, after: float | None) -> float | None:
    """How much it has grown; ``None`` when that can't be told, as when another node answered."""
    return None if before is None or after is None or after < before else after - before
