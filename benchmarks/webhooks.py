"""Measures how fast webhooks go out, against a bare loop of treq on the same machine.

    python -m benchmarks.webhooks
    python -m benchmarks.webhooks --deliveries 5000 --rounds 5 --latency 0.01

Both post the same bodies to the same receiver, a process of its own, over as many connections: the loop with nothing
else to do, and a server's delivery out of an outbox in SQLite, claimed, signed, logged and settled. In turns, round by
round; what is told is the ratio of each round, and the reactor's turns meanwhile. It runs from the root of the
repository, with the ``test`` extra installed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import treq
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater, react
from twisted.web.client import Agent, HTTPConnectionPool

from wsock.backends.memory_directory import MemoryDirectory
from wsock.backends.memory_outbox import MemoryOutbox
from wsock.backends.sqlite import SqliteDatabase, SqliteOutbox
from wsock.interfaces import App, DeliveryQuery, Event, IOutboxStore, OutboxRow
from wsock.records import Endpoint
from wsock.services.addresses import Guard
from wsock.services.delivery import Delivering, Terms
from wsock.services.outgoing import Outgoing

__all__ = ["main"]

_RECEIVER = """
import sys
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
ANSWER = b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok"
DELAY = float(sys.argv[1])
class Receiver(Protocol):
    data = b""
    def dataReceived(self, data):
        self.data += data
        while b"\\r\\n\\r\\n" in self.data:
            head, _, rest = self.data.partition(b"\\r\\n\\r\\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\\r\\n")[0])
            if len(rest) < length:
                return
            self.data = rest[length:]
            if DELAY:
                reactor.callLater(DELAY, self.transport.write, ANSWER)
            else:
                self.transport.write(ANSWER)
port = reactor.listenTCP(0, Factory.forProtocol(Receiver), interface="127.0.0.1")
print(port.getHost().port, flush=True)
reactor.run()
"""
_SECRET = "whsec_" + "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
_HEADERS: dict[bytes | str, bytes | str] = {
    "content-type": "application/json",
    "webhook-id": "msg_" + "0" * 32,
    "webhook-timestamp": "1700000000",
    "webhook-signature": "v1," + "A" * 44,
    "x-wsocket-signature": "0" * 64,
}
_DATA = b'{"text":"' + b"x" * 200 + b'"}'


@dataclass(frozen=True, slots=True)
class Found:
    """What a run took: seconds in all, CPU seconds, and the turns of the reactor in milliseconds."""

    seconds: float
    cpu: float
    turns: list[float]

    def __str__(self) -> str:
        p99 = statistics.quantiles(self.turns, n=100)[98] if len(self.turns) > 1 else 0.0
        longest = max(self.turns, default=0.0)
        return f"{self.seconds:6.2f} s, CPU {self.cpu:5.2f} s, turns: p99 {p99:.1f} ms, longest {longest:.1f} ms"


async def _measured(reactor: Any, work: Callable[[], Coroutine[Any, Any, None]]) -> Found:
    """Does it, and samples meanwhile how long a turn of the reactor takes: a timer of none is due once in each."""
    turns: list[float] = []
    is_over = False

    async def watch() -> None:
        while not is_over:
            began = time.perf_counter()
            await deferLater(reactor, 0)
            turns.append((time.perf_counter() - began) * 1000)
            await deferLater(reactor, 0.005)

    watching = Deferred.fromCoroutine(watch())
    began, cpu = time.perf_counter(), time.process_time()
    await work()
    seconds, used = time.perf_counter() - began, time.process_time() - cpu
    is_over = True
    await watching
    return Found(seconds, used, turns)


async def _bare(reactor: Any, url: str, deliveries: int, connections: int) -> None:
    """A loop of posts with treq for each connection."""
    pool = HTTPConnectionPool(reactor)
    pool.maxPersistentPerHost = connections
    client = treq.client.HTTPClient(Agent(reactor, pool=pool))
    body = b'{"type":"message.published","timestamp":"2026-01-01T00:00:00.000Z","data":' + _DATA + b"}"
    left = deliveries

    async def post() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            response = await client.post(
                url, data=body, headers=_HEADERS, timeout=20, allow_redirects=False, reactor=reactor
            )
            await treq.content(response)
            assert response.code == 200

    await gatherResults([Deferred.fromCoroutine(post()) for _ in range(connections)])
    await pool.closeCachedConnections()


async def _delivered(reactor: Any, outbox: IOutboxStore, url: str, deliveries: int, connections: int, run: int) -> None:
    """A server's delivery of what is in the outbox already."""
    directory = MemoryDirectory()
    endpoint = f"endpoint-{run}"
    target = Endpoint(id=endpoint, app="app", url=url, created_at=0, secret=_SECRET)
    await directory.add([App(id="app", name="App", created_at=0), target])
    outgoing = Outgoing(reactor, Guard("", ["127.0.0.1"], allows_http=True), per_host=connections)
    terms = Terms(per_endpoint=connections)
    delivering = Delivering(outbox, directory, outgoing, reactor, time.time, f"node-{run}", os.urandom, terms)
    delivering.startService()
    while delivering.delivered < deliveries:
        await deferLater(reactor, 0.002)
    assert not delivering.failed, f"{delivering.failed} requests failed: the times tell nothing"
    await delivering.stopService()
    await outgoing.stop()
    left = await outbox.page(DeliveryQuery(endpoint=endpoint, states=("pending", "dead")), None, 1)
    assert not left.items, left


async def _fill(outbox: IOutboxStore, deliveries: int, run: int) -> None:
    rows = [
        OutboxRow(
            Event(id=f"{run}-{number}", app="app", channel="room", type="message.published", data=_DATA),
            f"endpoint-{run}",
            time.time(),
        )
        for number in range(deliveries)
    ]
    for first in range(0, deliveries, 1000):
        await outbox.add(rows[first : first + 1000])


async def _compare(reactor: Any, options: argparse.Namespace, url: str, directory: Path) -> None:
    database = SqliteDatabase(directory / "wsock.db", reactor)
    database.start()
    stores: dict[str, IOutboxStore] = {"memory": MemoryOutbox(), "sqlite": SqliteOutbox(database)}
    ratios: dict[str, list[float]] = {name: [] for name in stores}
    n, connections = options.deliveries, options.connections
    for run in range(options.rounds + 1):
        bare = await _measured(reactor, lambda: _bare(reactor, url, n, connections))
        lines = [f"treq    {bare}"]
        for name, outbox in stores.items():
            await _fill(outbox, n, run)
            found = await _measured(reactor, lambda: _delivered(reactor, outbox, url, n, connections, run))  # noqa: B023
            ratios[name].append(bare.seconds / found.seconds)
            lines.append(f"{name:7} {found}, ratio {ratios[name][-1]:.2f}")
        if run == 0:
            ratios = {name: [] for name in stores}  # the first round warms up
        else:
            print(f"round {run}", *lines, sep="\n  ", flush=True)
    for name, each in ratios.items():
        print(f"{name}: {statistics.median(each):.2f} of a bare treq loop ({min(each):.2f} to {max(each):.2f})")
    await database.stop()


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deliveries", type=int, default=2_000, help="posts in a round")
    parser.add_argument("--rounds", type=int, default=5, help="how often")
    parser.add_argument("--connections", type=int, default=4, help="posts under way at once")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds until the receiver answers")
    options = parser.parse_args()
    command = [sys.executable, "-c", _RECEIVER, str(options.latency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as receiver, tempfile.TemporaryDirectory() as directory:
        assert receiver.stdout is not None
        url = f"http://127.0.0.1:{int(receiver.stdout.readline())}/"
        try:
            react(lambda reactor: Deferred.fromCoroutine(_compare(reactor, options, url, Path(directory))), ())
        finally:
            receiver.kill()


if __name__ == "__main__":
    main()
