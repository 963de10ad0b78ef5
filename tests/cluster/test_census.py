"""What two nodes over a real Redis tell of one another: their channels, their connections, and ending them."""

from __future__ import annotations

import json
import time
from http.client import HTTPConnection
from typing import Any

from tests.base import SynchronousTestCase
from tests.cluster.parts import ClusterNode, soon
from tests.e2e.cases import dev_token
from tests.e2e.wire import Closed, Wire
from tests.servers import RedisServer, own_redis

WITHIN_SECONDS = 1.0


def ask(node: ClusterNode, method: str, path: str, body: Any = None, token: str = "demo") -> tuple[int, Any]:
    """The status and the JSON of an answer."""
    connection = HTTPConnection("127.0.0.1", node.port, timeout=20)
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Authorization": f"Bearer {token}"} if token else {})
        answer = connection.getresponse()
        content = answer.read()
        return answer.status, json.loads(content) if content else None
    finally:
        connection.close()


class CensusTests(SynchronousTestCase):
    """Two nodes in memory that share a Redis."""

    redis: RedisServer

    def setUp(self) -> None:
        self.redis = own_redis()
        self.addCleanup(self.redis.close)
        self.nodes = [ClusterNode("--redis", self.redis.url) for _ in range(2)]
        for node in self.nodes:
            self.addCleanup(node.stop)
            node.start()

    def client(self, node: int, *channels: str, **query: str) -> Wire:
        """A client of a node that is subscribed."""
        wire = self.nodes[node].connect(**query)
        self.addCleanup(wire.socket.close)
        wire.subscribe(*channels)
        return wire

    def code(self, wire: Wire) -> int:
        """The close code, behind the error that says why."""
        error = wire.await_("error")
        self.assertEqual(error["code"], "forbidden")
        with self.assertRaises(Closed) as closed:
            wire.event()
        return int(closed.exception.code)

    def test_channels_and_connections(self) -> None:
        """Each node tells of both."""
        self.client(0, "a", "b").ask("presence.enter", action="presence.enter", channel="a")
        self.client(1, "b", "c").ask("presence.enter", action="presence.enter", channel="c")

        for node in self.nodes:
            status, channels = ask(node, "GET", "/api/channels")
            self.assertEqual(status, 200)
            self.assertTrue(channels["isComplete"])
            found = [(item["channel"], item["subscribers"], item["members"]) for item in channels["items"]]
            self.assertEqual(found, [("a", 1, 1), ("b", 2, 0), ("c", 1, 1)])
            _, about = ask(node, "GET", "/api/channels/b")
            self.assertEqual((about["subscribers"], about["isComplete"]), (2, True))
            _, connections = ask(node, "GET", "/api/connections")
            self.assertEqual(len({item["node"] for item in connections["items"]}), 2)
            for item in connections["items"]:
                status, shown = ask(node, "GET", f"/api/connections/{item['id']}")
                self.assertEqual((status, shown["id"], len(shown["channels"])), (200, item["id"], 2))

    def test_administrators(self) -> None:
        """Who logs in on one node sees the connections of the other, and ends one there; it is in the audit log."""
        wire = self.client(1, "b")
        login = {"email": "admin@localhost", "password": "admin"}
        _, session = ask(self.nodes[0], "POST", "/api/auth/login", login, token="")
        admin = "/api/admin/apps/demo"

        _, connections = ask(self.nodes[0], "GET", f"{admin}/connections", token=session["token"])
        [item] = connections["items"]
        status, _ = ask(self.nodes[0], "DELETE", f"{admin}/connections/{item['id']}", token=session["token"])
        _, audit = ask(self.nodes[0], "GET", "/api/admin/audit", token=session["token"])

        self.assertEqual((status, self.code(wire)), (204, 4403))
        self.assertIn("connection.disconnect", [act["action"] for act in audit["items"]])

    def test_disconnect(self) -> None:
        """The connections of a client end on every node within a second; they are counted."""
        token = dev_token(sub="bob")
        wires = [self.client(node, "b", token=token) for node in (0, 1, 1)]
        other = self.client(1, "b")

        start = time.monotonic()  # noqa: TID251  # real processes, real time
        _, ended = ask(self.nodes[0], "POST", "/api/connections/disconnect", {"clientId": "bob"})
        codes = [self.code(wire) for wire in wires]
        seconds = time.monotonic() - start  # noqa: TID251

        self.assertEqual((ended, codes), ({"disconnected": 3, "isComplete": True}, [4403] * 3))
        self.assertLess(seconds, WITHIN_SECONDS)
        self.assertEqual(other.rest(), [])

    def test_a_silent_node(self) -> None:
        """A node that is stopped is missed within the limit, and what the other has is told."""
        self.client(0, "a")
        self.client(1, "c")
        self.nodes[1].freeze()
        self.addCleanup(self.nodes[1].thaw)

        start = time.monotonic()  # noqa: TID251
        _, channels = ask(self.nodes[0], "GET", "/api/channels")
        seconds = time.monotonic() - start  # noqa: TID251
        self.nodes[1].thaw()

        self.assertEqual([item["channel"] for item in channels["items"]], ["a"])
        self.assertFalse(channels["isComplete"])
        self.assertLess(seconds, 2 * WITHIN_SECONDS)
        soon(lambda: ask(self.nodes[0], "GET", "/api/channels")[1]["isComplete"], "both nodes answer again")
