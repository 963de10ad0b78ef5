"""Nodes over a real Redis server, and a proxy to come between them, for the tests of the Redis backends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from twisted.internet import reactor  # noqa: TID251  # these tests need real connections
from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone
from twisted.internet.task import deferLater
from twisted.protocols.portforward import ProxyClient, ProxyClientFactory, ProxyFactory, ProxyServer
from twisted.python.failure import Failure

from tests.base import TestCase
from tests.servers import RedisServer, private_redis
from wsock.backends.redis import Durability, RedisBroker, RedisQueue, Watch
from wsock.backends.redis_batch import entry_messages
from wsock.protocol.messages import Message
from wsock.protocol.position import Position
from wsock.testing.contracts.broker import WaitingReceiver, make_publication, published
from wsock.testing.fakes import LossHeard, MoveHeard

__all__ = ["QUICK", "REACTOR", "Node", "RedisTestCase", "TcpProxy", "names"]

REACTOR: Any = reactor
QUICK = Watch(probe_seconds=0.3, quiet_seconds=0.3, leaving_seconds=0.2, retry_seconds=0.05)
_PATIENCE_SECONDS = 15.0
_numbers = count(1)


def names() -> str:
    """A name that never was in this process."""
    return f"n{next(_numbers)}"


class Node:
    """A broker with a receiver that records, as one node of the cluster."""

    def __init__(self, broker: RedisBroker, name: str) -> None:
        self.broker = broker
        self.name = name
        self.receiver = WaitingReceiver()
        broker.listen(self.receiver)

    async def publish(self, number: int = 1, *, id: str | None = None, **facts: Any) -> list[int]:
        """Publishes so many messages at once; their sequences."""
        accepted = [published(self.broker, make_publication(id, **facts)) for _ in range(number)]
        return [(await answer).sequence for answer in accepted]

    async def attach(self, channel: str = "room") -> Position:
        """Attaches a channel."""
        return await self.broker.attach("app", channel)

    @property
    def messages(self) -> list[Message]:
        """All that was delivered, in order."""
        return [heard.message for heard in self.receiver.messages]

    def sequences(self, channel: str = "room") -> list[int]:
        """What was delivered of a channel."""
        return [message.sequence for message in self.messages if message.channel == channel]

    @property
    def losses(self) -> list[LossHeard]:
        """What was told to be lost."""
        return [heard for heard in self.receiver.heard if isinstance(heard, LossHeard)]

    @property
    def moves(self) -> list[MoveHeard]:
        """The changes of epochs."""
        return [heard for heard in self.receiver.heard if isinstance(heard, MoveHeard)]

    async def position(self, channel: str = "room") -> Position:
        """Where a channel stands in Redis."""
        return await self.broker.position("app", channel)

    async def read(self, after: Position, channel: str = "room") -> list[int]:
        """The sequences behind a position."""
        return [message.sequence for message in await self.broker.read("app", channel, after, 10_000)]

    async def kept(self, channel: str = "room") -> int:
        """How many messages of a channel Redis has in its log."""
        entries = await self.ask("XRANGE", f"wsock:log:3:app:{channel}", "-", "+")
        return sum(len(entry_messages(channel, entry)) for entry in entries)

    async def ask(self, *command: Any) -> Any:
        """What Redis answers to a command."""
        return await self.broker.shards[0].queries.call(*command)


class RedisTestCase(TestCase):
    """Nodes over a Redis server of the test's own."""

    timeout = 60

    def redis(self, *arguments: str) -> RedisServer:
        """A server for this test alone."""
        return private_redis(self, *arguments)

    def durable_redis(self) -> RedisServer:
        """One that loses nothing when it is killed."""
        return self.redis("--appendonly", "yes", "--appendfsync", "always")

    async def node(
        self, urls: str | Sequence[str], *, watch: Watch = QUICK, backlog_bytes: int = 1 << 26, **durability: Any
    ) -> Node:
        """A node that has started; it stops with the test."""
        name = names()
        urls = [urls] if isinstance(urls, str) else urls
        how = Durability(**durability)
        broker = RedisBroker(urls, reactor, name, names, how, backlog_bytes=backlog_bytes, watch=watch)
        node = Node(broker, name)
        self.addCleanup(lambda: Deferred.fromCoroutine(broker.stop()))
        await broker.start()
        return node

    async def queue(self, node: Node, number: int = 0, **options: Any) -> RedisQueue:
        """The work queue as a node sees it; it stops with the test, before the node."""
        queue = RedisQueue(node.broker.shards[number], names(), 60, **options)
        self.addCleanup(lambda: Deferred.fromCoroutine(queue.stop()))
        await queue.start()
        return queue

    async def until(self, is_true: Callable[[], object], seconds: float = _PATIENCE_SECONDS) -> None:
        """Returns as soon as it is true; fails when that takes too long."""
        deadline = REACTOR.seconds() + seconds
        while not is_true():
            if REACTOR.seconds() > deadline:
                self.fail(f"it did not become true within {seconds} s")
            await deferLater(REACTOR, 0.01)

    async def restarted(self, server: RedisServer, node: Node) -> None:
        """The server is killed and started again, and the node has found out and is connected."""
        server.restart()
        await self.until(lambda: not node.broker.is_up)
        await self.until(lambda: node.broker.is_up)

    async def proxy(self, server: RedisServer) -> TcpProxy:
        """Comes between a node and the server."""
        proxy = TcpProxy(server.port)
        listening = REACTOR.listenTCP(0, proxy, interface="127.0.0.1")
        proxy.own_port = listening.getHost().port

        def stop() -> object:
            proxy.cut()
            return listening.stopListening()

        self.addCleanup(stop)
        return proxy


class _Far(ProxyClient):
    """The proxy's connection to the server."""

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        near: Any = self.peer
        if near.is_frozen:
            return
        if near.is_subscriber:
            data = near.factory.filter(data)
        if near.factory.is_holding(near):
            near.factory.held.append((near, data))
        else:
            near.transport.write(data)


class _FarFactory(ProxyClientFactory):
    protocol = _Far
    noisy = False


class _Near(ProxyServer):
    """The node's connection to the proxy."""

    clientProtocolFactory = _FarFactory  # noqa: N815
    is_subscriber = False
    is_frozen = False
    factory: Any
    transport: Any

    def connectionMade(self) -> None:  # noqa: N802
        self.factory.links.append(self)
        if self.factory.is_closed:
            self.transport.abortConnection()
            return
        self.factory.number += 1
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        self.is_subscriber = self.is_subscriber or b"\r\nSUBSCRIBE\r\n" in data
        if not self.is_frozen:
            super().dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        self.factory.links.remove(self)
        super().connectionLost(reason)


class TcpProxy(ProxyFactory):
    """Forwards connections to a port of this machine, and knows which of them subscribed to something.

    What the server sends to those passes ``filter``. ``is_holding`` tells which connections get no answers until
    ``release``. While it ``is_closed`` it ends every connection.
    """

    protocol = _Near
    noisy = False

    def __init__(self, port: int) -> None:
        super().__init__("127.0.0.1", port)
        self.own_port = 0
        self.links: list[Any] = []
        self.number = 0
        self.is_closed = False
        self.held: list[tuple[Any, bytes]] = []
        self.is_holding: Callable[[Any], bool] = lambda link: False
        self.filter: Callable[[bytes], bytes] = lambda data: data

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://127.0.0.1:{self.own_port}"

    def freeze(self) -> None:
        """The pub/sub connections there are now stay open, and carry nothing any more."""
        for link in self.links:
            link.is_frozen = link.is_frozen or link.is_subscriber

    def cut(self, *, is_subscriber: bool | None = None) -> None:
        """Ends connections."""
        for link in list(self.links):
            if is_subscriber is None or link.is_subscriber == is_subscriber:
                link.transport.abortConnection()

    def release(self) -> None:
        """Hands out what was held."""
        self.is_holding = lambda link: False
        held, self.held = self.held, []
        for link, data in held:
            link.transport.write(data)
