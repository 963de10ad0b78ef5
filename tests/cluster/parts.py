"""A cluster of child processes: two nodes, a Redis and a MongoDB, each of which can be killed, frozen and restarted."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from threading import Event

from tests.base import SynchronousTestCase
from tests.e2e.node import Node
from tests.e2e.wire import Wire
from tests.servers import MongoServer, RedisServer, own_mongo, own_redis

__all__ = ["DURABLE", "Cluster", "ClusterNode", "ClusterTestCase", "soon"]

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
"""A Redis that has each write on its disk before it answers."""

_MASTER_KEY = "d3NvY2sgdGVzdCBtYXN0ZXIga2V5LCAzMiBieXRlcyE="
_STARTS = 20
_PATIENCE_SECONDS = 30.0
_STEP_SECONDS = 0.05


class ClusterNode(Node):
    """A node; ``is_serving`` is what a balancer in front of it would know."""

    is_serving = False

    def start(self) -> ClusterNode:
        """Starts it; returns when it serves."""
        super().start()
        self.is_serving = True
        return self

    def kill(self) -> None:
        """Ends it as a crash does."""
        self.is_serving = False
        super().kill()

    def start_at_last(self) -> None:
        """Starts it as a supervisor does: again and again, while what it needs is away."""
        for attempt in range(_STARTS):
            try:
                self.start()
                return
            except AssertionError:
                if attempt == _STARTS - 1:
                    raise

    def readiness(self) -> int:
        """The status of ``/ready``."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", "/ready")
            return connection.getresponse().status
        finally:
            connection.close()

    def freeze(self) -> None:
        """Stops it in its tracks; its connections stay."""
        self.is_serving = False
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it go on."""
        self._signal(signal.SIGCONT)
        self.is_serving = True

    def _signal(self, number: int) -> None:
        assert self.program is not None
        os.kill(self.program.pid, number)


class Cluster:
    """Starts everything when it is made; :meth:`close` ends everything.

    ``redis`` are words of Redis' command line, ``config`` is the nodes' configuration file.
    """

    def __init__(self, nodes: int = 2, *, redis: Sequence[str] = DURABLE, config: str = "") -> None:
        self.redis: RedisServer = own_redis(*redis)
        self.mongo: MongoServer = own_mongo()
        options = ("--redis", self.redis.url, "--mongo", f"{self.mongo.url}/wsock")
        config = f'{config}\n[vault]\nkeys = "{_MASTER_KEY}"\n'
        self.nodes = [ClusterNode(*options, config=config) for _ in range(nodes)]
        try:
            with ThreadPoolExecutor() as pool:
                list(pool.map(ClusterNode.start, self.nodes))
        except BaseException:
            self.close()
            raise

    def serving(self) -> list[ClusterNode]:
        """The nodes that a balancer would choose from."""
        return [node for node in self.nodes if node.is_serving]

    def queued(self) -> int:
        """How many messages and events wait in Redis for MongoDB."""
        return int(self.redis.call(b"XLEN wsock:queue").strip(b":\r\n"))

    def close(self) -> None:
        """Kills whatever runs and removes its files."""
        for node in self.nodes:
            if node.program is not None:
                node.kill()
            node.stop()
        self.redis.close()
        self.mongo.close()


class ClusterTestCase(SynchronousTestCase):
    """Tests of a cluster that each test starts for itself."""

    def cluster(self, config: str = "", redis: Sequence[str] = DURABLE) -> Cluster:
        """Two nodes that serve."""
        cluster = Cluster(config=config, redis=redis)
        self.addCleanup(cluster.close)
        return cluster

    def connected(self, node: ClusterNode, **query: str) -> Wire:
        """A client."""
        wire = node.connect(**query)
        self.addCleanup(wire.socket.close)
        return wire


def soon(is_so: Callable[[], bool], what: str, seconds: float = _PATIENCE_SECONDS) -> float:
    """Waits until it is so, and returns how many seconds that took; fails when it never is."""
    pause = Event()
    for step in range(round(seconds / _STEP_SECONDS)):
        if is_so():
            return step * _STEP_SECONDS
        pause.wait(_STEP_SECONDS)
    raise AssertionError(f"{what}: not so after {seconds} s")
