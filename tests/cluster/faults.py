"""Faults of every part of a cluster, each in the middle of a burst, and what must hold afterwards.

``tests/cluster/test_faults.py`` runs it for some seconds, ``benchmarks/faults.py`` for as long as one likes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random  # noqa: TID251  # seeded: a run can be repeated
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

from tests.cluster.load import Book, ByPosition, ByTimestamp, Publisher, Subscriber
from tests.cluster.parts import Cluster, ClusterNode
from tests.e2e.durability import Receipt, history

__all__ = ["FAULTS", "Campaign", "Load", "Summary"]

_READY_SECONDS = 30.0
_QUIET_SECONDS = 60.0
_STEP_SECONDS = 0.1
_SETTLE_SECONDS = 1.0
_DEAD_SECONDS = 0.5
_FAULT_PATIENCE_SECONDS = 30.0

FAULTS = ("node kill", "redis freeze", "redis kill", "mongo freeze", "mongo kill")


@dataclass(frozen=True, kw_only=True)
class Load:
    """Who publishes what to whom, for how long, and how often something breaks."""

    seconds: float
    every: float
    publishers: int = 4
    subscribers: int = 200
    channels: int = 20
    channels_each: int = 2
    burst: int = 25
    rest: float = 0.4
    redis_seconds: float = 3.0
    mongo_seconds: float = 10.0
    faults: tuple[str, ...] = FAULTS
    seed: int = 1


@dataclass
class Summary:
    """What a campaign measured; everything is well when ``problems`` is empty."""

    published: int = 0
    heard: int = 0
    repeated: int = 0
    reconnects: int = 0
    resumes: int = 0
    recovery_failed: int = 0
    lost_from_history: int = 0
    lost_for_subscribers: int = 0
    faults: list[str] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    quiet_after: float = 0.0
    problems: list[str] = field(default_factory=list)


class Campaign:
    """One run of a load over a cluster, with faults."""

    def __init__(self, cluster: Cluster, load: Load, tell: Callable[[float, str], None] = lambda *_: None) -> None:
        self._cluster = cluster
        self._load = load
        self._tell = tell
        self._source = Random(load.seed)
        self._book = Book()
        self._channels = [f"faults:{n}" for n in range(load.channels)]
        self._is_amid = asyncio.Event()
        self._broken: set[str] = set()
        self._deck: list[str] = []
        self._mending: set[asyncio.Task[None]] = set()
        self._summary = Summary()
        self._begin = 0.0

    def run(self) -> Summary:
        """Runs it, and looks at everything when it is quiet again."""
        asyncio.run(self._run())
        self._check_histories()
        book, summary = self._book, self._summary
        summary.published = len(book.receipts)
        summary.heard, summary.repeated, summary.reconnects = book.heard, book.repeated, book.reconnects
        summary.resumes, summary.recovery_failed = book.resumes, book.recovery_failed
        summary.errors = dict(book.errors)
        summary.problems = book.problems
        if book.recovery_failed:
            book.problems.append(f"{book.recovery_failed} times a subscriber was told that messages are lost")
        return summary

    # The load.

    async def _run(self) -> None:
        who = (self._any_url, self._book, self._source)
        subscribers = [self._subscriber(n, who) for n in range(self._load.subscribers)]
        publishers = [Publisher(f"p{n}", self._channels, self._is_amid, *who) for n in range(self._load.publishers)]
        running = [asyncio.create_task(client.run()) for client in [*subscribers, *publishers]]
        try:
            await self._all(subscribers, lambda s: s.is_ready.is_set(), "were not subscribed in time")
            await self._publish_everywhere(publishers[0], subscribers)
            await self._publish_and_break(publishers)
            await self._until_quiet(subscribers)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _subscriber(self, number: int, who: tuple[Any, ...]) -> Subscriber:
        first = number * self._load.channels_each
        channels = [self._channels[(first + n) % len(self._channels)] for n in range(self._load.channels_each)]
        kind, name = number % 4, f"s{number}"
        return ByPosition(name, channels, *who) if kind < 2 else ByTimestamp(kind == 3, name, channels, *who)

    def _any_url(self) -> str:
        nodes = self._cluster.serving() or self._cluster.nodes
        return f"{self._source.choice(nodes).url}/?key=demo"

    async def _publish_everywhere(self, publisher: Publisher, subscribers: list[Subscriber]) -> None:
        """Everybody gets a first message: an SDK that has none yet can't resume."""
        for _ in range(20):
            await publisher.burst(2 * len(self._channels))
            if all(subscriber.has_heard for subscriber in subscribers):
                return
        await self._all(subscribers, lambda s: s.has_heard, "heard nothing at the start")

    async def _publish_and_break(self, publishers: list[Publisher]) -> None:
        loop = asyncio.get_running_loop()
        self._begin = loop.time()
        end = self._begin + self._load.seconds
        publishing = [asyncio.create_task(self._bursts(publisher, end)) for publisher in publishers]
        breaking = asyncio.create_task(self._break_on(end))
        ticking = asyncio.create_task(self._tick())
        try:
            await asyncio.wait_for(breaking, self._load.seconds + _FAULT_PATIENCE_SECONDS)
            if self._mending:
                await asyncio.gather(*self._mending)
            done, late = await asyncio.wait(publishing, timeout=_QUIET_SECONDS)
            for task in done:
                task.result()
            if late:
                waiting = sum(publisher.waiting for publisher in publishers)
                self._book.problems.append(f"{waiting} publishes were not accepted after everything was mended")
        finally:
            for task in (breaking, ticking, *publishing):
                task.cancel()

    async def _bursts(self, publisher: Publisher, end: float) -> None:
        while asyncio.get_running_loop().time() < end:
            await publisher.burst(self._load.burst)
            await asyncio.sleep(self._source.uniform(0, 2 * self._load.rest))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1)
            self._say("")

    def _say(self, text: str) -> None:
        self._tell(asyncio.get_running_loop().time() - self._begin, text)

    # The faults.

    async def _break_on(self, end: float) -> None:
        """Breaks something every so often, as soon as a burst is under way."""
        loop = asyncio.get_running_loop()
        at = self._begin + self._load.every / 2
        while at < end:
            await asyncio.sleep(max(0.0, at - loop.time()))
            at += self._load.every
            name = self._next_fault()
            if name is None:
                continue
            self._is_amid.clear()
            with suppress(TimeoutError):
                # None is under way while publishes are refused: then the fault comes on top of another one.
                await asyncio.wait_for(self._is_amid.wait(), self._load.every)
            self._break(name)

    def _next_fault(self) -> str | None:
        """One of a shuffled deck, so that all of them come; not of a part that is still broken."""
        for _ in range(2):
            for name in self._deck:
                if name.split()[0] not in self._broken:
                    self._deck.remove(name)
                    return name
            self._deck += self._source.sample(self._load.faults, len(self._load.faults))
        return None

    def _break(self, name: str) -> None:
        part = name.split()[0]
        self._broken.add(part)
        self._summary.faults.append(name)
        self._say(name)
        mending: asyncio.Task[None] = asyncio.create_task(self._faults()[name]())
        self._mending.add(mending)
        mending.add_done_callback(lambda _: self._broken.discard(part))

    def _faults(self) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
        load, redis, mongo = self._load, self._cluster.redis, self._cluster.mongo
        return {
            "node kill": self._kill_node,
            "redis freeze": lambda: self._freeze(redis, load.redis_seconds),
            "redis kill": lambda: self._kill(redis, _DEAD_SECONDS),
            "mongo freeze": lambda: self._freeze(mongo, load.mongo_seconds),
            "mongo kill": lambda: self._kill(mongo, load.mongo_seconds),
        }

    async def _kill_node(self) -> None:
        node: ClusterNode = self._source.choice(self._cluster.nodes)
        node.kill()
        await asyncio.to_thread(node.start_at_last)

    async def _freeze(self, server: Any, seconds: float) -> None:
        server.stop()
        await asyncio.sleep(seconds)
        server.cont()

    async def _kill(self, server: Any, seconds: float) -> None:
        server.kill()
        await asyncio.sleep(seconds)
        await asyncio.to_thread(server.start)

    # Afterwards.

    async def _until_quiet(self, subscribers: list[Subscriber]) -> None:
        """Waits until everybody has everything and MongoDB too, and then a little for what is too much."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        expected = self._book.expected()
        complete = await self._wait(lambda: not any(s.missing(expected) for s in subscribers), _QUIET_SECONDS)
        self._summary.quiet_after = loop.time() - start
        if not complete:
            behind = {s: s.missing(expected) for s in subscribers if s.missing(expected)}
            self._summary.lost_for_subscribers = sum(behind.values())
            for subscriber, count in list(behind.items())[:10]:
                self._book.problems.append(f"{subscriber}: {count} messages never came")
        await asyncio.sleep(_SETTLE_SECONDS)

    async def _all(self, subscribers: list[Subscriber], holds: Callable[[Subscriber], bool], text: str) -> None:
        if not await self._wait(lambda: all(map(holds, subscribers)), _READY_SECONDS):
            raise AssertionError(f"{sum(not holds(s) for s in subscribers)} subscribers {text}")

    async def _wait(self, holds: Callable[[], bool], seconds: float) -> bool:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not (is_so := holds()) and loop.time() < end:
            await asyncio.sleep(_STEP_SECONDS)
        return is_so

    def _check_histories(self) -> None:
        """What was acknowledged is in history: on every node, by both ways, and once MongoDB has all of it as well."""
        self._check_history("at once")
        asyncio.run(self._until_persisted())
        self._check_history("from MongoDB")

    async def _until_persisted(self) -> None:
        if not await self._wait(lambda: self._cluster.queued() == 0, _QUIET_SECONDS):
            self._book.problems.append(f"{self._cluster.queued()} entries of the work queue were not worked off")

    def _check_history(self, when: str) -> None:
        for number, channel in enumerate(self._channels):
            for node in self._cluster.nodes:
                wire = node.connect()
                self._check_channel(f"{when}, {node.url}, {channel}", channel, history(wire, channel))
                wire.close()
            node = self._cluster.nodes[number % len(self._cluster.nodes)]
            self._check_channel(f"{when}, REST, {channel}", channel, rest_history(node, channel))

    def _check_channel(self, where: str, channel: str, entries: list[dict[str, Any]]) -> None:
        problems = self._book.problems
        found = {e["id"]: Receipt(channel, e["timestamp"], e["sequence"]) for e in entries}
        accepted = {id: receipt for id, receipt in self._book.receipts.items() if receipt.channel == channel}
        lost = accepted.keys() - found.keys()
        self._summary.lost_from_history += len(lost)
        if found != accepted:
            problems.append(f"{where}: {len(accepted)} accepted, {len(found)} found, {len(lost)} lost, or moved")
        if len(entries) != len(found):
            problems.append(f"{where}: {len(entries) - len(found)} messages are there twice")
        if [e["sequence"] for e in entries] != list(range(1, len(entries) + 1)):
            problems.append(f"{where}: a gap, or out of order")
        if any(one["timestamp"] > next["timestamp"] for one, next in pairwise(entries)):
            problems.append(f"{where}: timestamps go back")
        told = {id: place for id, place in self._book.places.items() if place.channel == channel and id in accepted}
        if any(accepted[id] != place for id, place in told.items()):
            problems.append(f"{where}: what was delivered is not what was acknowledged")


def rest_history(node: ClusterNode, channel: str) -> list[dict[str, Any]]:
    """All messages of a channel, oldest first, page by page through REST."""
    entries: list[dict[str, Any]] = []
    after = 0
    while True:
        url = f"http://127.0.0.1:{node.port}/api/channels/{quote(channel, safe='')}/messages"
        query = f"?limit=100&direction=forward&after={after}"
        request = Request(url + query, headers={"Authorization": f"Bearer {node.key}"})
        with urlopen(request, timeout=20) as answer:
            page = json.load(answer)
        entries += page["messages"]
        if not page["hasMore"]:
            return entries
        after = entries[-1]["timestamp"]
