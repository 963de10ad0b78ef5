"""Measures how the cost of the server grows: with load, subscribers, connections, channels and nodes.

    python -m benchmarks.growth --redis redis://127.0.0.1:6379 --write
    python -m benchmarks.growth --quick

It starts the servers that it measures, in memory (``--dev``) and on loopback, and has ``wsock bench`` measure them. It
runs from the root of the repository, with the ``test`` extra installed. Without ``--redis`` it starts a Redis of its
own, if there is one to start; what needs Redis is left out where there is none. In the end ``plots/`` has the results
and the plots, and with ``--write`` the tables in ``README.md`` are made anew.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import selectors
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any, cast
from unittest import SkipTest
from urllib.parse import unquote, urlsplit

from benchmarks.paper import ASSUMPTIONS, Costs, need
from benchmarks.svg import Plot
from tests.e2e.node import Node
from tests.servers import RedisServer, own_redis

_HERE = Path(__file__).parent
_COMMAND = "from wsock.cli import main; main()"
_MARKS = ("<!-- growth: begin -->", "<!-- growth: end -->")
_OTHERS = 20
_SIZES = (1_000_000, 50_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much is measured."""

    seconds: float
    loads: tuple[int, ...]
    """In percent of the maximum."""
    subscribers: tuple[int, ...]
    workers: tuple[int, ...]
    connections: tuple[int, ...]
    channels: tuple[int, ...]


_FULL = Extent(
    seconds=5.0,
    loads=(10, 25, 50, 75, 90),
    subscribers=(10, 100, 500, 1_000, 5_000),
    workers=(1, 2),
    connections=(1_000, 5_000, 10_000),
    channels=(1_000, 10_000, 50_000),
)
_QUICK = Extent(
    seconds=1.0,
    loads=(10, 50),
    subscribers=(10, 100),
    workers=(1, 2),
    connections=(500, 1_000),
    channels=(500, 1_000),
)


class Redis:
    """A Redis that is asked what it has used, and listened to."""

    def __init__(self, url: str) -> None:
        self.url = url

    def cpu_seconds(self) -> float:
        """CPU time of all its threads."""
        found = self._info("cpu")
        return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])

    def memory_bytes(self) -> int:
        """Memory that its data takes."""
        return int(self._info("memory")["used_memory"])

    def topics(self) -> list[str]:
        """What nodes listen to."""
        return re.findall(r"^(?![*$+])(\S+)\r$", self._ask("PUBSUB CHANNELS"), re.MULTILINE)

    def connect(self) -> socket.socket:
        """A connection that may give commands."""
        parts = urlsplit(self.url)
        connection = socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 6379), 5.0)
        login = [unquote(word) for word in (parts.username, parts.password) if word]
        if login:
            connection.sendall(f"AUTH {' '.join(login)}\r\n".encode())
            connection.recv(1_024)
        return connection

    def _info(self, section: str) -> dict[str, str]:
        return dict(re.findall(r"^(\w+):(\S+)\r$", self._ask(f"INFO {section}"), re.MULTILINE))

    def _ask(self, command: str) -> str:
        with self.connect() as connection:
            connection.sendall(f"{command}\r\nQUIT\r\n".encode())
            return b"".join(iter(lambda: connection.recv(65_536), b"")).decode()


class Overhearing(Thread):
    """Listens to all that nodes listen to, on as many connections as there would be further nodes.

    To Redis, that is what a further node is: a connection that is sent each message.
    """

    _POLL_SECONDS = 0.05

    def __init__(self, redis: Redis, count: int) -> None:
        super().__init__(daemon=True)
        self._redis = redis
        self._count = count
        self._stopping = Event()

    def __enter__(self) -> Overhearing:
        self.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._stopping.set()
        self.join()

    def run(self) -> None:
        """Waits for somebody to listen to, and then reads until it is told to stop."""
        before = set(self._redis.topics())
        topics: set[str] = set()
        while self._count and not topics and not self._stopping.wait(self._POLL_SECONDS):
            topics = set(self._redis.topics()) - before
        with ExitStack() as stack, selectors.DefaultSelector() as ready:
            for _ in range(self._count if topics else 0):
                connection = stack.enter_context(self._redis.connect())
                connection.sendall(f"SUBSCRIBE {' '.join(topics)}\r\n".encode())
                ready.register(connection, selectors.EVENT_READ)
            while topics and not self._stopping.is_set():
                for key, _ in ready.select(self._POLL_SECONDS):
                    cast(socket.socket, key.fileobj).recv(1 << 20)


class Growth:
    """One campaign. ``found`` holds the results, series by series."""

    def __init__(self, extent: Extent, redis: Redis | None) -> None:
        self.extent = extent
        self.redis = redis
        self.found: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        """Measures everything."""
        self.found["machine"] = _machine()
        campaign = (
            self.load,
            self.subscribers,
            self.unicast,
            self.paced,
            self.connections,
            self.channels,
            self.nodes,
        )
        for series in campaign:
            _tell(f"{series.__name__}:")
            self.found[series.__name__] = series()
        return self.found

    def load(self) -> list[dict[str, Any]]:
        """Latency at a part of the greatest load, 100 subscribers of 10 channels."""
        shape = ("--subscribers", "100", "--channels", "10")
        with _server() as node:
            most = self._bench(node, "fanout", *shape, "--window", "512", "--publishers", "4")["publishes_per_second"]
            rows = []
            for percent in self.extent.loads:
                result = self._bench(node, "latency", *shape, "--rate", f"{most * percent / 100:.0f}")
                rows.append({"percent": percent, **_picked(result, "latency_ms", "server_cpu", "generator_cpu")})
        return rows

    def subscribers(self) -> list[dict[str, Any]]:
        """Fan-out from one channel to more and more subscribers, with one and more workers."""
        rows = []
        for workers in self.extent.workers:
            if workers > 1 and self.redis is None:
                _tell("  left out: several workers meet in a Redis, and there is none")
                continue
            options = ("--workers", str(workers), "--redis", self.redis.url) if workers > 1 and self.redis else ()
            with _server(*options) as node:
                for count in self.extent.subscribers:
                    result = self._bench(node, "fanout", "--subscribers", str(count))
                    rows.append({"workers": workers, "subscribers": count, **_rates(result)})
        return rows

    def unicast(self) -> dict[str, Any]:
        """Each message to one subscriber: what a message costs besides its deliveries."""
        options = ("--redis", self.redis.url) if self.redis else ()
        with _server(*options) as node:
            return _rates(self._bench(node, "unicast", "--subscribers", "100"))

    def connections(self) -> list[dict[str, Any]]:
        """Memory of idle connections; each time of a fresh server."""
        rows = []
        for count in self.extent.connections:
            with _server() as node:
                result = self._bench(node, "connections", "--connections", str(count))
            rows.append({"connections": count, **_picked(result, "memory_bytes", "connects_per_second")})
        return rows

    def channels(self) -> list[dict[str, Any]]:
        """Memory of channels with one subscriber, each connection subscribed to as many as it may be."""
        rows = []
        for count in self.extent.channels:
            with _server() as node:
                rows.append({"channels": count, "memory_bytes": _channel_bytes(node, count)})
            _tell(f"  {count} channels: {rows[-1]['memory_bytes']:.0f} bytes each")
        return rows

    def paced(self) -> dict[str, Any]:
        """Channels of 100 subscribers, so few messages that each delivery is a write of its own."""
        with _server() as node:
            shape = ("--subscribers", "1000", "--channels", "10", "--rate", "100")
            return _rates(self._bench(node, "latency", *shape))

    def nodes(self) -> dict[str, Any] | None:
        """What Redis does for a publish that one and more nodes hear of, and what it keeps of a message."""
        if self.redis is None:
            _tell("  left out: there is no Redis")
            return None
        rows = [{"nodes": w + more, "redis_us": self._redis_us(w, more)} for w, more in ((1, 0), (2, 0), (1, _OTHERS))]
        with _server("--redis", self.redis.url) as node:
            before = self.redis.memory_bytes()
            shape = ("--subscribers", "10", "--channels", "10", "--rate", "1000", "--persist")
            result = self._bench(node, "latency", *shape)
            kept = (self.redis.memory_bytes() - before) / result["accepted"]
        _tell(f"  {kept:.0f} bytes of Redis for a message")
        return {"publishes": rows, "message_bytes": kept}

    def _redis_us(self, workers: int, others: int) -> float:
        """CPU time of Redis for a publish. It is at a rate: then as many share a call of Redis, whoever hears them."""
        assert self.redis is not None
        options = ("--workers", str(workers), "--redis", self.redis.url)
        with _server(*options) as node, Overhearing(self.redis, others):
            before = self.redis.cpu_seconds()
            result = self._bench(node, "fanout", "--subscribers", "100", "--rate", "1000")
            accepted: int = result["accepted"]
            each = (self.redis.cpu_seconds() - before) / accepted * 1e6
        _tell(f"  {workers} nodes and {others} that only listen: {each:.1f} us of Redis for a publish")
        return each

    def _bench(self, node: Node, scenario: str, *options: str) -> dict[str, Any]:
        """One run of ``wsock bench``. Raises :class:`AssertionError` when something was lost."""
        assert node.program is not None
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "result.json"
            arguments = [f"{node.url}/?key={node.key}", "--pid", str(node.program.pid), "--scenario", scenario]
            arguments += ["--seconds", str(self.extent.seconds), "--json", str(file), *options]
            done = subprocess.run(
                [sys.executable, "-c", _COMMAND, "bench", *arguments], capture_output=True, text=True, check=False
            )
            if not file.exists() or not file.stat().st_size:
                raise AssertionError(f"wsock bench failed: {done.stderr}")
            report = json.loads(file.read_text("utf-8"))
        [result] = report["results"]
        _tell(f"  {scenario} {' '.join(options)}: {_summary(result)}")
        assert done.returncode == 0, done.stdout
        found: dict[str, Any] = result
        return found


@contextmanager
def _server(*options: str) -> Iterator[Node]:
    node = Node(*options).start()
    try:
        yield node
    finally:
        node.stop()


def _channel_bytes(node: Node, count: int) -> float:
    """What a channel takes; the connections are there before it is measured."""
    wires = [node.connect() for _ in range(-(-count // 1_000))]
    before = _resident_bytes(node)
    for first in range(0, count, 100):
        wire = wires[first // 1_000]
        names = [f"wsock-bench-{number}" for number in range(first, min(first + 100, count))]
        for name in names:
            wire.say(action="subscribe", channel=name)
        for _ in names:
            wire.hear("subscribed")
    used = _resident_bytes(node) - before
    for wire in wires:
        wire.socket.close()
    return used / count


def _resident_bytes(node: Node) -> int:
    assert node.program is not None
    pages = Path(f"/proc/{node.program.pid}/statm").read_text("ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _picked(result: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: result[name] for name in names}


def _rates(result: dict[str, Any]) -> dict[str, Any]:
    names = ("deliveries_per_second", "server_cpu", "server_cpu_seconds_per_million", "generator_cpu")
    return _picked(result, *names)


def _summary(result: dict[str, Any]) -> str:
    shown = {"deliveries/s": "deliveries_per_second", "connects/s": "connects_per_second", "bytes": "memory_bytes"}
    parts = [f"{result[key]:,.0f} {name}" for name, key in shown.items() if result.get(key) is not None]
    latency = result.get("latency_ms") or {}
    return ", ".join([*parts, *(f"{name} {latency[name]:.2f} ms" for name in ("p50", "p99") if name in latency)])


def _machine() -> dict[str, Any]:
    cores = os.cpu_count()
    return {"cores": cores, "system": f"{platform.system()} {platform.machine()}", "python": platform.python_version()}


def _tell(text: str) -> None:
    print(text, flush=True)


# What is made of the results.


def costs(found: dict[str, Any]) -> Costs | None:
    """What single things cost, if all was measured that has to be."""
    nodes = found["nodes"]
    if nodes is None:
        return None
    first, *_, last = nodes["publishes"]
    each = max((last["redis_us"] - first["redis_us"]) / (last["nodes"] - first["nodes"]), 0.0)
    return Costs(
        connection_bytes=found["connections"][-1]["memory_bytes"],
        channel_bytes=found["channels"][-1]["memory_bytes"],
        delivery_us=found["paced"]["server_cpu_seconds_per_million"],
        message_us=found["unicast"]["server_cpu_seconds_per_million"],
        redis_publish_us=max(first["redis_us"] - each, 0.0),
        redis_node_us=each,
        redis_message_bytes=nodes["message_bytes"],
    )


def plots(found: dict[str, Any]) -> dict[str, Plot]:
    """The plots by their names. Rates and times are relative: how fast a machine is shall not matter."""
    latency = Plot("Latency against load", "load, % of the maximum", "× p50 at the least load", y_log=True)
    least = found["load"][0]["latency_ms"]["p50"]
    for name in ("p50", "p99"):
        latency.add(name, [(row["percent"], row["latency_ms"][name] / least) for row in found["load"]])
    rates = Plot("Deliveries a second", "subscribers of one channel", "× the least audience", x_log=True, y_log=True)
    cpu = Plot("CPU time for a delivery", "subscribers of one channel", "× the least audience", x_log=True, y_log=True)
    first = found["subscribers"][0]
    for plot, key in ((rates, "deliveries_per_second"), (cpu, "server_cpu_seconds_per_million")):
        for workers in sorted({row["workers"] for row in found["subscribers"]}):
            rows = [row for row in found["subscribers"] if row["workers"] == workers]
            plot.add(
                f"{workers} worker{'s' * (workers > 1)}", [(row["subscribers"], row[key] / first[key]) for row in rows]
            )
    memory = Plot("Memory of an idle connection", "connections", "bytes each", x_log=True)
    memory.add("connections", [(row["connections"], row["memory_bytes"]) for row in found["connections"]])
    channels = Plot("Memory of a channel", "channels with one subscriber", "bytes each", x_log=True)
    channels.add("channels", [(row["channels"], row["memory_bytes"]) for row in found["channels"]])
    return {"latency": latency, "deliveries": rates, "cpu": cpu, "connections": memory, "channels": channels}


def section(found: dict[str, Any]) -> str:
    """The part of README.md that is made of the results."""
    machine = found["machine"]
    parts = [
        f"Measured on {machine['cores']} cores ({machine['system']}), Python {machine['python']}, server and generator"
        " on the same machine.",
        *_load_part(found),
        *_subscribers_part(found),
        *_memory_part(found),
        *_nodes_part(found),
        *_paper_part(found),
    ]
    return "\n\n".join(parts)


def _load_part(found: dict[str, Any]) -> Iterator[str]:
    least = found["load"][0]["latency_ms"]["p50"]
    yield "### Latency against load"
    yield "![Latency against load](plots/latency.svg)"
    rows = [
        [f"{row['percent']} %", *(f"{row['latency_ms'][p] / least:.1f}" for p in ("p50", "p90", "p99", "p99.9"))]
        for row in found["load"]
    ]
    yield "100 subscribers of 10 channels; each value is a multiple of the p50 at the least load."
    yield _table(["load", "p50", "p90", "p99", "p99.9"], rows)


def _subscribers_part(found: dict[str, Any]) -> Iterator[str]:
    first = found["subscribers"][0]
    rows = [
        [
            f"{row['subscribers']:,}",
            str(row["workers"]),
            f"{row['deliveries_per_second'] / first['deliveries_per_second']:.2f}",
            f"{row['server_cpu_seconds_per_million'] / first['server_cpu_seconds_per_million']:.2f}",
            f"{row['generator_cpu']:.0%}",
        ]
        for row in found["subscribers"]
    ]
    yield "### Deliveries against subscribers"
    yield "![Deliveries a second](plots/deliveries.svg)"
    yield "![CPU time for a delivery](plots/cpu.svg)"
    yield (
        "One channel, one publisher; relative to the first row. Where the generator used most of a core, or where there"
        " are not more cores than workers, it was the limit."
    )
    yield _table(["subscribers", "workers", "deliveries a second", "CPU for a delivery", "generator's core"], rows)


def _memory_part(found: dict[str, Any]) -> Iterator[str]:
    yield "### Memory of connections and channels"
    yield "![Memory of an idle connection](plots/connections.svg)"
    yield "![Memory of a channel](plots/channels.svg)"
    rows = [[f"{row['connections']:,} connections", f"{row['memory_bytes']:,.0f}"] for row in found["connections"]]
    rows += [[f"{row['channels']:,} channels", f"{row['memory_bytes']:,.0f}"] for row in found["channels"]]
    yield _table(["of a fresh server", "bytes each"], rows)


def _nodes_part(found: dict[str, Any]) -> Iterator[str]:
    nodes = found["nodes"]
    if nodes is None:
        return
    one = nodes["publishes"][0]["redis_us"]
    rows = [[str(row["nodes"]), f"{row['redis_us'] / one:.2f}"] for row in nodes["publishes"]]
    yield "### Redis against nodes"
    yield (
        f"1,000 publishes a second. Of the {rows[-1][0]} nodes all but one are connections that only listen, which is"
        " the same to Redis. Nodes that are busier send larger batches, of which each publish costs Redis less."
    )
    yield f"A message that is kept takes {nodes['message_bytes']:,.0f} bytes of Redis (100 bytes of data)."
    yield _table(["nodes that hear of a publish", "CPU time of Redis for it"], rows)


def _paper_part(found: dict[str, Any]) -> Iterator[str]:
    measured = costs(found)
    if measured is None:
        return
    yield "### A plan on paper"
    given = ASSUMPTIONS
    yield (
        "Computed by `paper.py` from the unit costs of this run; an installation of that size was not measured. Costs"
        " in CPU time are in microseconds of a core of this machine. A delivery is counted as a write of its own, as it"
        " is where messages are rare; under load many share one, and cost a small part of it."
    )
    yield _table(
        ["cost of", "measured"], [[name.replace("_", " "), f"{v:,.2f}"] for name, v in asdict(measured).items()]
    )
    yield (
        f"Assumed: {given.deliveries_per_connection:g} deliveries a second for each connection, {given.audience}"
        f" subscribers of a message's channel, spread evenly over the nodes; {given.channels_per_connection:g} channels"
        f" for each connection; nodes of one core and {given.node_bytes / 1e9:g} GB, {given.kernel_bytes:,.0f} bytes of"
        f" the system's for each connection; {given.cpu:.0%} of each core and {given.memory:.0%} of the memory used;"
        f" Redis keeps a message for {given.kept_seconds:g} s, in shards of {given.shard_bytes / 1e9:g} GB."
    )
    wanted = [need(size, measured) for size in _SIZES]
    rows = [
        ["deliveries a second", *(f"{one.deliveries_per_second:,.0f}" for one in wanted)],
        ["publishes a second", *(f"{one.publishes_per_second:,.0f}" for one in wanted)],
        ["nodes (cores)", *(f"{one.nodes:,}" for one in wanted)],
        ["of these for memory alone", *(f"{one.nodes_for_memory:,}" for one in wanted)],
        ["of these for CPU alone", *(f"{one.nodes_for_cpu:,}" for one in wanted)],
        ["Redis shards", *(f"{one.shards:,}" for one in wanted)],
        ["memory of Redis", *(f"{one.redis_bytes / 1e9:,.2f} GB" for one in wanted)],
    ]
    yield _table(["", *(f"{size:,} connections" for size in _SIZES)], rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(found: dict[str, Any], directory: Path, readme: Path | None) -> None:
    """Writes the results and plots, and with ``readme`` its section."""
    directory.mkdir(exist_ok=True)
    measured = costs(found)
    shown = {**found, "costs": asdict(measured) if measured is not None else None}
    (directory / "growth.json").write_text(json.dumps(shown, indent=2) + "\n", "utf-8")
    for name, plot in plots(found).items():
        (directory / f"{name}.svg").write_text(plot.svg(), "utf-8")
    if readme is not None:
        before, _, rest = readme.read_text("utf-8").partition(_MARKS[0])
        after = rest.partition(_MARKS[1])[2]
        readme.write_text(f"{before}{_MARKS[0]}\n\n{section(found)}\n\n{_MARKS[1]}{after}", "utf-8")


@contextmanager
def _redis(url: str | None) -> Iterator[Redis | None]:
    if url is not None:
        yield Redis(url)
        return
    try:
        own: RedisServer = own_redis("--appendonly", "no")
    except SkipTest as e:
        _tell(str(e))
        yield None
        return
    try:
        yield Redis(own.url)
    finally:
        own.close()


def main() -> int:
    """Measures, or makes the plots and tables of an earlier run anew."""
    parser = argparse.ArgumentParser(description="Measures how the cost of the server grows.")
    parser.add_argument("--redis", metavar="URL", help="a running Redis (redis://) for what needs one")
    parser.add_argument("--quick", action="store_true", help="few and short measurements: to see that it works")
    parser.add_argument("--seconds", type=float, help="how long each measurement takes")
    parser.add_argument("--plots", type=Path, default=_HERE / "plots", help="where results go: %(default)s")
    parser.add_argument("--write", action="store_true", help="make the tables in benchmarks/README.md anew")
    parser.add_argument("--from", dest="file", type=Path, help="results of an earlier run: nothing is measured")
    given = parser.parse_args()
    extent = _QUICK if given.quick else _FULL
    if given.seconds:
        extent = Extent(**{**{name: getattr(extent, name) for name in Extent.__slots__}, "seconds": given.seconds})
    if given.file:
        found = json.loads(given.file.read_text("utf-8"))
    else:
        with _redis(given.redis) as redis:
            found = Growth(extent, redis).run()
    write(found, given.plots, _HERE / "README.md" if given.write else None)
    _tell(f"results and plots are in {given.plots}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
