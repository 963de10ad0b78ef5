"""HTTP in memory: real services over the memory backends, a real site, and bytes in and out of a transport."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from itertools import count
from typing import Any

from prometheus_client import CollectorRegistry
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.web.server import Site

from wsock.backends.memory_audit import MemoryAudit
from wsock.backends.memory_broker import MemoryBroker
from wsock.backends.memory_control import MemoryControl
from wsock.backends.memory_counters import MemoryCounters
from wsock.backends.memory_directory import MemoryDirectory
from wsock.backends.memory_outbox import MemoryOutbox
from wsock.backends.memory_presence import MemoryPresence
from wsock.backends.memory_store import MemoryMessages
from wsock.edges.gate import WebSocketGate
from wsock.edges.http import HttpEdge, build_registry, build_site, node_measures
from wsock.edges.http.channels import ChannelGroup, ConnectionGroup
from wsock.edges.websocket import ConnectionLimits
from wsock.interfaces import Account, App, Key, NotSent, Reply
from wsock.measures import Batching
from wsock.protocol.session import SessionLimits
from wsock.services.access import Access
from wsock.services.audit import Audit
from wsock.services.auth import Auth, hash_api_key
from wsock.services.backlog import Backlog
from wsock.services.census import Census
from wsock.services.control import Control
from wsock.services.cursors import Cursors
from wsock.services.delivery import Delivering, Terms
from wsock.services.hub import Hub
from wsock.services.limits import Limits, Tally
from wsock.services.messages import Messages
from wsock.services.outbox import Outbox
from wsock.services.presence import Presence
from wsock.services.probe import ReactorProbe
from wsock.services.rates import RateLimiter
from wsock.services.turn import Turn
from wsock.verbs.peer import Services

__all__ = ["Answer", "World", "answers", "http_exchange", "open_http", "request"]

NOW = 1_800_000_000.0
SECRET = "a-secret-of-the-tests-with-256-bits-or-more"


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def answers(data: bytes, heads_only: int = 0) -> list[Answer]:
    """The answers that the bytes are, one after the other; the first ``heads_only`` have no body (HEAD)."""
    found: list[Answer] = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        size = 0 if len(found) < heads_only else int(headers.get("content-length", "0"))
        found.append(Answer(int(first.split(" ")[1]), headers, data[:size]))
        data = data[size:]
    return found


def open_http(site: Any) -> Any:
    """A client's connection to the site; ``transport.protocol`` is what gets the client's bytes."""
    transport: Any = StringTransport(peerAddress=IPv4Address("TCP", "192.0.2.7", 4711))
    channel = site.buildProtocol(transport.getPeer())
    transport.protocol = channel
    channel.makeConnection(transport)
    return transport


def http_exchange(site: Any, data: bytes) -> bytes:
    """What the site answers to the bytes on a connection of their own."""
    transport = open_http(site)
    transport.protocol.dataReceived(data)
    return bytes(transport.value())


def request(
    method: str,
    target: str,
    body: Any = None,
    *,
    key: str | None = "key-a",
    headers: dict[str, str] | None = None,
    version: str = "1.1",
) -> bytes:
    """The bytes of a request. A body that is no bytes is sent as JSON."""
    lines = [f"{method} {target} HTTP/{version}", "Host: test"]
    if key is not None:
        lines.append(f"Authorization: Bearer {key}")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    content = b""
    if body is not None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + content


class _Unsent:
    """A network that sends nothing."""

    async def post(self, url: str, headers: dict[str, str], body: bytes, **how: Any) -> Reply:
        """See Sending."""
        raise NotSent("there is no network")


class World:
    """A server without its door.

    Apps ``a`` and ``b`` have the keys ``key-a`` and ``key-b``; in ``a`` are also ``key-none``, which may do nothing
    over HTTP, and ``key-off``, which is revoked.
    """

    def __init__(self, clock: IReactorTime | None = None, **edge: Any) -> None:
        self.clock: Any = clock if clock is not None else Clock()
        self.state = "ready"
        self.directory = MemoryDirectory()
        self.store = MemoryMessages()
        epochs, ids = count(1), count(1)
        self.broker = MemoryBroker(self.store, self.now, lambda: f"e{next(epochs)}")
        self.turn = Turn(self.clock)
        self.hub = Hub(self.broker, self.turn)
        presence_store = MemoryPresence()
        presence_store.listen(self.hub)
        self.presence = Presence(presence_store, self.clock, self.now)
        self.auth = Auth(self.directory, self.now)
        rates = edge.pop("rates", None)
        limiter = RateLimiter(MemoryCounters(), self.now, lambda app: rates)
        self.messages = Messages(self.broker, self.store, lambda: f"made-{next(ids)}", max_bytes=65536, limiter=limiter)
        self.outbox = Outbox(self.directory, MemoryOutbox(), self.now)
        self.delivering = Delivering(
            MemoryOutbox(), self.directory, _Unsent(), self.clock, self.clock.seconds, "node", bytes, Terms()
        )
        self.probe = ReactorProbe(self.clock, self.clock.seconds, self.clock.seconds)
        self.batching: list[Batching] = []
        services = Services(
            auth=self.auth,
            broker=self.broker,
            hub=self.hub,
            messages=self.messages,
            presence=self.presence,
            turn=self.turn,
            clock=self.clock,
            now=self.now,
            max_channels=100,
        )
        self.gate = WebSocketGate(
            services,
            Limits(MemoryCounters(), self.now),
            lambda: f"c{next(ids)}",
            lambda: self.state == "ready",
            session_limits=SessionLimits(),
            connection_limits=ConnectionLimits(),
            connect_rate=edge.pop("connect_rate", 0),
        )
        audit = Audit(MemoryAudit(), Access(self.directory), self.now, os.urandom)
        control = Control(MemoryControl())
        self.census = Census(control, self.hub, self.gate, self.broker, self.messages, self.presence, node="local")
        self.max_body_bytes = edge.pop("max_body_bytes", 1 << 20)
        self.edge = HttpEdge(
            auth=self.auth,
            gate=self.gate,
            state=lambda: self.state,
            registry=edge.pop("registry", None) or self._registry(),
            groups=edge.pop("groups", None)
            or [
                ChannelGroup(self.messages, self.presence, self.census, Cursors(os.urandom)),
                ConnectionGroup(self.census, audit, self.directory.app),
            ],
            **edge,
        )
        self.site = build_site(self.edge.resource(), self.clock, max_body_bytes=self.max_body_bytes)
        self.foreign_site = Site(self.edge.resource(), reactor=self.clock)

    def now(self) -> float:
        """The wall clock."""
        return NOW + float(self.clock.seconds())

    async def create(self) -> None:
        """Fills the directory, and starts the broker."""
        await self.broker.start()
        closed = {"*": ["subscribe"]}
        await self._create("a", [_key("a"), _key("none", app="a", permissions=closed), _key("off", is_revoked=True)])
        await self._create("b", [_key("b")], ("https://b.example",))

    async def _create(self, app: str, keys: list[Key], origins: tuple[str, ...] = ("*",)) -> None:
        account = Account(id=app, email=f"{app}@example.org", password_hash="", created_at=0)
        await self.directory.create(App(id=app, name=app, created_at=0, allowed_origins=origins), keys, account)

    def _registry(self) -> CollectorRegistry:
        return build_registry(
            node_measures(
                gate=self.gate,
                hub=self.hub,
                turn=self.turn,
                messages=self.messages,
                batching=self.batching,
                persisters=[],
                backlog=Backlog([], 0, self.clock),
                outbox=self.outbox,
                delivering=self.delivering,
                probe=self.probe,
                tally=Tally(),
            )
        )

    def asks(self, *requests: bytes) -> list[Answer]:
        """The answers to requests on one connection."""
        return answers(http_exchange(self.site, b"".join(requests)))

    def ask(self, *args: Any, **kwargs: Any) -> Answer:
        """The answer to one request; takes what :func:`request` takes."""
        [answer] = self.asks(request(*args, **kwargs))
        return answer


def _key(name: str, app: str | None = None, **more: Any) -> Key:
    return Key(
        id=name,
        app=app or ("a" if name == "off" else name),
        name=name,
        created_at=0,
        api_key_hash=hash_api_key(f"key-{name}"),
        algorithm="HS256",
        secret=SECRET,
        **more,
    )
