"""What is measured, and how hard the server is made to work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

from wsock.bench.errors import BenchError

__all__ = ["LEAST_SIZE", "SCENARIOS", "Load", "Plan", "Scenario", "Target", "check", "plan", "target"]

Scenario = Literal["connections", "latency", "fanout", "unicast"]
SCENARIOS: tuple[Scenario, ...] = ("connections", "latency", "fanout", "unicast")
"""In the order in which they run: memory for each connection can only be told while the server is fresh."""

LEAST_SIZE = 64
"""Bytes that the data of a message needs: it holds its publisher, channel, number and time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The command line of ``wsock bench``. What is ``None`` is up to the scenario."""

    url: str
    key: str | None = None
    token: str | None = None
    ca: str | None = None
    """A file with further certificates to trust."""
    scenarios: tuple[Scenario, ...] = SCENARIOS
    connections: int = 1_000
    subscribers: int | None = None
    channels: int | None = None
    publishers: int | None = None
    size: int = 100
    window: int = 128
    rate: float | None = None
    seconds: float = 5.0
    persist: bool = False
    pid: int | None = None
    processes: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One scenario with messages. With a ``rate`` so many a second are published, else ``window`` without an ack."""

    name: str
    prefix: str
    """What the names of its channels begin with."""
    subscribers: int
    channels: int
    publishers: int
    size: int
    window: int
    rate: float | None
    seconds: float
    persist: bool

    def channel(self, number: int) -> str:
        """The name of a channel."""
        return f"{self.prefix}-{number}"

    def audience(self, channel: int) -> int:
        """How many subscribers a channel has: subscriber n listens to channel n modulo their count."""
        return len(range(channel, self.subscribers, self.channels))


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect. ``resource`` is the path with the credential: never shown."""

    host: str
    port: int
    is_secure: bool
    resource: str
    has_credential: bool

    @property
    def authority(self) -> str:
        """Host and port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def shown(self) -> str:
        """The URL without its credential."""
        return f"{'wss' if self.is_secure else 'ws'}://{self.authority}"

    @property
    def origin(self) -> str:
        """Where the same server answers HTTP."""
        return f"{'https' if self.is_secure else 'http'}://{self.authority}"


def plan(load: Load, name: Scenario, prefix: str) -> Plan:
    """What a scenario with messages does under this load."""
    subscribers = load.subscribers or {"fanout": 200, "unicast": 200}.get(name, 100)
    channels = subscribers if name == "unicast" else load.channels or {"latency": 10}.get(name, 1)
    return Plan(
        name=name,
        prefix=f"{prefix}-{name}",
        subscribers=subscribers,
        channels=min(channels, subscribers),
        publishers=load.publishers or {"unicast": 4, "fanout": 2}.get(name, 1),
        size=load.size,
        window=load.window,
        rate=load.rate or (200.0 if name == "latency" else None),
        seconds=load.seconds,
        persist=load.persist,
    )


def target(url: str, key: str | None, token: str | None) -> Target:
    """Where the URL points. Raises :class:`BenchError`."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as e:
        raise BenchError(f"'{url.partition('?')[0]}' is no URL ({e}): give ws://HOST:PORT or wss://HOST:PORT") from e
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise BenchError(f"'{url.partition('?')[0]}' is no WebSocket URL: give ws://HOST:PORT or wss://HOST:PORT")
    given = {"key": key, "token": token}
    replaced = {name for name, value in given.items() if value} and set(given)
    query = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name not in replaced]
    query += [(name, value) for name, value in given.items() if value]
    is_secure = parts.scheme == "wss"
    resource = f"{parts.path or '/'}{'?' if query else ''}{urlencode(query)}"
    has_credential = any(name in given for name, _ in query)
    return Target(parts.hostname, port or (443 if is_secure else 80), is_secure, resource, has_credential)


def check(load: Load) -> None:
    """Refuses a load that can't be made. Raises :class:`BenchError`."""
    if load.size < LEAST_SIZE:
        raise BenchError(f"--size takes at least {LEAST_SIZE}: a message holds its channel, number and time")
    if load.channels is not None and load.subscribers is not None and load.channels > load.subscribers:
        raise BenchError("--channels takes at most --subscribers: each subscriber listens to one channel")
