"""What is administered on one node holds on the other within a second, and what both count is counted together.

Two nodes as in production: their own processes, Redis between them, MongoDB behind them, one master key.
"""

from __future__ import annotations

import atexit
import re
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

from tests.base import SynchronousTestCase
from tests.cluster.parts import ClusterNode, soon
from tests.e2e.wire import Closed, Wire, text_frame
from tests.rotating import Api, KeyPair, token_of
from tests.servers import own_mongo, own_redis

WITHIN_SECONDS = 1.0
_CONFIG = """
[vault]
keys = "d3NvY2sgdGVzdCBtYXN0ZXIga2V5LCAzMiBieXRlcyE="
[accounts]
logins_per_minute = 0
requests_per_minute = 0
"""
_WINDOW = 500


@cache
def shared_nodes() -> tuple[list[ClusterNode], dict[str, str]]:
    """Two nodes that serve until the tests end, and the owner's e-mail address and password."""
    redis, mongo = own_redis(), own_mongo()
    options = ("--redis", redis.url, "--mongo", f"{mongo.url}/wsock")
    nodes = [ClusterNode(*options, is_dev=False, config=_CONFIG) for _ in range(2)]
    atexit.register(_end, nodes, [redis, mongo])
    for node in nodes:
        node.start()  # one after the other: the first one makes the credentials
    text = (nodes[0].directory / "data" / "credentials.txt").read_text()
    found = re.search(r"^Account: (\S+) / password (\S+)$", text, re.MULTILINE)
    assert found is not None
    return nodes, {"email": found[1], "password": found[2]}


def _end(nodes: list[ClusterNode], servers: list[Any]) -> None:
    for node in nodes:
        node.stop()
    for server in servers:
        server.close()


def _now() -> float:
    return time.monotonic()  # noqa: TID251  # real processes, real time


class ControlPlaneCase(SynchronousTestCase):
    """Each test has an app of its own, and a session of the owner's. ``apis`` are the REST APIs of the nodes."""

    def setUp(self) -> None:
        self.nodes, self.login = shared_nodes()
        self.apis = [Api(node.port) for node in self.nodes]
        self.log_in()
        self.app = self.ask("POST", "/api/admin/apps", {"name": self._testMethodName}, 201)["id"]
        self.key = self.new_key()

    def log_in(self) -> None:
        """A new session on the first node, whose token is good on both."""
        status, session = self.apis[0].ask("POST", "/api/auth/login", self.login)
        self.assertEqual(status, 200, session)
        for api in self.apis:
            api.token = session["token"]

    def admin(self, method: str, path: str, body: Any = None, wanted: int = 200, node: int = 0) -> Any:
        """What is answered to something below the app, or at it."""
        return self.ask(method, f"/api/admin/apps/{self.app}{path}", body, wanted, node)

    def ask(self, method: str, path: str, body: Any = None, wanted: int = 200, node: int = 0) -> Any:
        """What is answered to something."""
        status, answer = self.apis[node].ask(method, path, body)
        self.assertEqual(status, wanted, answer)
        return answer

    def new_key(self) -> KeyPair:
        """Another key of the app, which may do everything."""
        return KeyPair.of(self.admin("POST", "/keys", {"name": "Test", "permissions": {"*": ["*"]}}, 201))

    def token(self, sub: str, key: KeyPair | None = None, **claims: Any) -> dict[str, str]:
        """How a client connects with a JWT."""
        return {"key": "", "token": token_of(key or self.key, sub, time.time(), **claims)}  # noqa: TID251

    def client(self, node: int, *channels: str, **how: str) -> Wire:
        """A client of a node that is subscribed; by default with the API key."""
        wire = self.nodes[node].connect(**(how or {"key": self.key.key}))
        self.addCleanup(wire.socket.close)
        wire.subscribe(*channels)
        return wire

    def on_both(self, **how: str) -> list[Wire]:
        """A client on each node."""
        return [self.client(node, "news", **how) for node in range(2)]

    def assert_ended(self, wires: list[Wire], act: Callable[[], object], *words: str) -> None:
        """The act ends these connections, on whatever node, within a second; they are told why."""
        start = _now()
        act()
        for wire in wires:
            error = wire.hear("error")
            with self.assertRaises(Closed) as closed:
                wire.event()
            self.assertEqual(closed.exception.code, 4403)
            for word in words:
                self.assertIn(word, error["error"])
        self.assertLess(_now() - start, WITHIN_SECONDS)

    def assert_turned_away(self, status: int, **how: str) -> None:
        """Neither node lets one in with that any more."""
        for node in self.nodes:
            with self.assertRaises(Closed) as refused:
                node.connect(**how)
            self.assertEqual(refused.exception.code, status)

    def assert_alive(self, wires: list[Wire]) -> None:
        """These are as they were."""
        for wire in wires:
            self.assertEqual(wire.rest(), [])


class ReachTests(ControlPlaneCase):
    """From REST on the first node to connections on both."""

    def test_setting(self) -> None:
        """A setting of the app and one of a namespace hold on a live connection of the other node."""
        wire = self.client(1)
        wire.ask("ack", action="publish", channel="news", data="x" * 200)

        for path, method, body, channel in (
            ("/namespaces", "POST", {"pattern": "small:*", "settings": {"messageBytes": 100}}, "small:a"),
            ("", "PATCH", {"settings": {"messageBytes": 100}}, "news"),
        ):
            start = _now()
            self.admin(method, path, body, 201 if method == "POST" else 200)
            soon(lambda channel=channel: self.says(wire, channel) == "too_large", "the setting holds")  # type: ignore[misc]
            self.assertLess(_now() - start, WITHIN_SECONDS)

    def says(self, wire: Wire, channel: str) -> str:
        """How a large publish is answered."""
        wire.say(action="publish", channel=channel, data="x" * 200)
        event = wire.event()
        return str(event.get("code", event["action"]))

    def test_key(self) -> None:
        """A key that is revoked ends its connections and those of its tokens."""
        key = self.new_key()
        others = self.on_both()
        wires = [*self.on_both(key=key.key), *self.on_both(**self.token("bob", key))]

        self.assert_ended(wires, lambda: self.admin("DELETE", f"/keys/{key.id}", None, 204), key.id, "revoked")

        self.assert_turned_away(401, key=key.key)
        self.assert_turned_away(401, **self.token("bob", key))
        self.assert_alive(others)

    def test_token(self) -> None:
        """So does a token by its jti."""
        one, two = self.token("bob", jti="t1"), self.token("bob", jti="t2")
        others, wires = self.on_both(**two), self.on_both(**one)

        self.assert_ended(wires, lambda: self.admin("POST", "/revocations", {"token": "t1"}, 201), "t1")

        self.assert_turned_away(401, **one)
        self.assert_alive(others)

    def test_client(self) -> None:
        """And a clientId, until that is lifted."""
        bob = self.token("bob")
        others, wires = self.on_both(**self.token("eve")), self.on_both(**bob)
        made: list[str] = []

        def revoke() -> None:
            made.append(self.admin("POST", "/revocations", {"clientId": "bob"}, 201)["id"])

        self.assert_ended(wires, revoke, "bob")

        self.assert_turned_away(401, **bob)
        self.assert_alive(others)
        start = _now()
        self.admin("DELETE", f"/revocations/{made[0]}", None, 204)
        soon(lambda: self.comes_in(1, bob), "the client is let in again")
        self.assertLess(_now() - start, WITHIN_SECONDS)

    def comes_in(self, node: int, how: dict[str, str]) -> bool:
        """Whether the node lets one in with that."""
        try:
            self.client(node, **how)
        except Closed as e:
            self.assertEqual(e.code, 401)
            return False
        return True

    def test_disabled_app(self) -> None:
        """An app that is disabled keeps no connection, and lets nobody in."""
        wires = self.on_both()

        self.assert_ended(wires, lambda: self.admin("PATCH", "", {"isEnabled": False}), "disabled")

        for node in self.nodes:
            with self.assertRaises(Closed) as refused:
                node.connect(key=self.key.key)
            self.assertIn(refused.exception.code, (401, 403))

    def test_permissions(self) -> None:
        """What a key may not any more, its connections may not any more."""
        key = self.new_key()
        wires = self.on_both(key=key.key)

        start = _now()
        self.admin("PATCH", f"/keys/{key.id}", {"permissions": {"news": ["publish"]}})
        for wire in wires:
            self.assertEqual((wire.hear("error")["code"], wire.hear("unsubscribed")["channel"]), ("forbidden", "news"))
        self.assertLess(_now() - start, WITHIN_SECONDS)

    def test_sessions(self) -> None:
        """Who signs out everywhere on one node has no session on the other one."""
        self.assertEqual(self.apis[1].ask("GET", "/api/auth/me")[0], 200)
        status, other = self.apis[1].ask("POST", "/api/auth/login", self.login)
        self.assertEqual(status, 200, other)

        start = _now()
        self.ask("POST", "/api/auth/logout-all", None, 204)
        soon(lambda: self.apis[1].ask("GET", "/api/auth/me")[0] == 401, "the session has ended on the other node")
        soon(lambda: self.apis[1].ask("GET", "/api/auth/me", token=other["token"])[0] == 401, "so has the other one")
        self.assertLess(_now() - start, WITHIN_SECONDS)
        self.assertEqual(self.apis[1].ask("POST", "/api/auth/refresh", {"refreshToken": other["refreshToken"]})[0], 401)


class ListTests(ControlPlaneCase):
    """What one node tells of both."""

    def test_lists(self) -> None:
        """Channels, members and connections of the other node are in the lists, and a connection ends by its id."""
        wire = self.client(1, "there", **self.token("bob"))
        wire.ask("presence.enter", action="presence.enter", channel="there", data={"mood": "fine"})
        self.client(0, "here", "there")

        channels = self.admin("GET", "/channels")
        found = [(item["channel"], item["subscribers"], item["members"]) for item in channels["items"]]
        self.assertEqual((found, channels["isComplete"]), ([("here", 1, 0), ("there", 2, 1)], True))
        members = self.admin("GET", "/channels/there/presence")["members"]
        self.assertEqual([member["clientId"] for member in members], ["bob"])
        connections = self.admin("GET", "/connections")["items"]
        self.assertEqual(len({item["node"] for item in connections}), 2)
        [id] = [item["id"] for item in connections if item["clientId"] == "bob"]
        self.assertEqual(self.admin("GET", f"/connections/{id}")["channels"], ["there"])

        self.assert_ended([wire], lambda: self.admin("DELETE", f"/connections/{id}", None, 204))

        self.assertEqual(len(self.admin("GET", "/connections")["items"]), 1)

    def test_connections_now(self) -> None:
        """The connections of both nodes are counted together."""
        wires = [*self.on_both(), self.client(1)]

        for node in range(2):
            soon(lambda node=node: self.connections(node) == 3, "both nodes count three", 5)  # type: ignore[misc]
        wires[2].close()
        for node in range(2):
            soon(lambda node=node: self.connections(node) == 2, "both nodes count two", 5)  # type: ignore[misc]

    def connections(self, node: int) -> int:
        """How many the node counts."""
        return int(self.admin("GET", "/usage", node=node)["connections"]["now"])


class StoreTests(ControlPlaneCase):
    """What is kept in Redis and MongoDB, as REST shows it."""

    def test_everything_is_shown(self) -> None:
        """Each thing that REST shows is shown by both nodes, from these stores as from memory."""
        wire = self.client(1, "news", **self.token("bob"))
        wire.ask("ack", action="publish", channel="news", data="x")
        ids = self.things()
        soon(lambda: self.admin("GET", "/usage")["messages"]["month"] == 1, "the message is counted", 5)

        shown = 0
        for path, operations in self.ask("GET", "/api/openapi.json")["paths"].items():
            if "get" not in operations or path in ("/api/docs", "/api/openapi.json"):
                continue
            for node in range(2):
                is_apps = path.startswith(("/api/channels", "/api/connections"))
                where = re.sub(r"\{(\w+)\}", lambda found: ids[found[1]], path)
                if path.startswith("/api/push/"):
                    where += f"?appId={ids['appId']}"
                status, answer = self.apis[node].ask("GET", where, token=self.key.key if is_apps else None)
                self.assertEqual(status, 200, f"{where}: {answer}")
            shown += 1
        self.assertGreater(shown, 30)

    def things(self) -> dict[str, str]:
        """One of each kind, by the parameter of a path that names it."""
        [connection] = self.admin("GET", "/connections")["items"]
        return {
            "appId": self.app,
            "teamId": self.admin("GET", "")["team"],
            "accountId": self.ask("GET", "/api/auth/me")["account"]["id"],
            "keyId": self.key.id,
            "namespaceId": self.admin("POST", "/namespaces", {"pattern": "a:*"}, 201)["id"],
            "revocationId": self.admin("POST", "/revocations", {"token": "t"}, 201)["id"],
            "planId": "pro",
            "channel": "news",
            "connectionId": connection["id"],
            "webhookId": self.admin("POST", "/webhooks", {"url": "https://example.org/"}, 201)["id"],
            "jobId": self.push_job(),
        }

    def push_job(self) -> str:
        """The id of a push to more devices than one answer has room for."""
        for number in range(101):
            device = {"platform": "fcm", "memberId": f"m{number}", "deviceToken": f"{number:040}"}
            self.admin("POST", "/push/register", device)
        return str(self.admin("POST", "/push/send", {"broadcast": True, "title": "Hello"})["jobId"])


class CountTests(ControlPlaneCase):
    """What both nodes count."""

    def publish(self, node: int, count: int, name: str) -> Counter[str]:
        """Publishes so many as fast as the node takes them; how each was answered."""
        wire = self.client(node)
        answers: Counter[str] = Counter()
        for start in range(0, count, _WINDOW):
            numbers = range(start, min(start + _WINDOW, count))
            wire.write(b"".join(text_frame(_publish(f"{name}-{number}")) for number in numbers))
            for _ in numbers:
                event = wire.event()
                answers[event.get("code", event["action"])] += 1
        return answers

    def publish_on_both(self, count: int, name: str) -> Counter[str]:
        """So many on each node at the same time; how all were answered."""
        with ThreadPoolExecutor() as pool:
            running = [pool.submit(self.publish, node, count, f"{name}{node}") for node in range(2)]
            return sum((one.result() for one in running), Counter())

    def month(self, node: int) -> int:
        """How many messages of this month the node tells of."""
        return int(self.admin("GET", "/usage", node=node)["messages"]["month"])

    def assert_agreed(self, total: int) -> None:
        """Both nodes tell of so many within one percent, and of exactly so many when both have told each other."""
        soon(lambda: abs(self.month(0) - total) <= total / 100, "the first node knows to within 1 %", 2)
        soon(lambda: abs(self.month(1) - total) <= total / 100, "the second node knows to within 1 %", 2)
        for node in range(2):
            soon(lambda node=node: self.month(node) == total, f"node {node} has counted {total}", 5)  # type: ignore[misc]

    def test_usage(self) -> None:
        """The totals agree with the truth, also when a node has ended and begun again."""
        count = 10_000
        self.assertEqual(self.publish_on_both(count, "u"), {"ack": 2 * count})
        self.assert_agreed(2 * count)

        # A node that is told to end stores what it has counted up to then.
        self.assertEqual(self.publish(1, 1000, "before"), {"ack": 1000})
        node = self.nodes[1]
        assert node.program is not None
        node.program.terminate()
        node.program.ends()
        soon(lambda: self.month(0) == 2 * count + 1000, "what it had counted is not lost", 5)
        node.start()

        self.assert_agreed(2 * count + 1000)
        self.assertEqual(self.publish_on_both(500, "after"), {"ack": 1000})
        self.assert_agreed(2 * count + 2000)
        for node_number in range(2):
            parts = self.admin("GET", "/analytics?span=hour", node=node_number)["items"]
            self.assertEqual(sum(part["messagesIn"] for part in parts), 2 * count + 2000)

    def test_quota(self) -> None:
        """A plan's messages are enforced across the nodes: all of them may be used, and at most one percent more."""
        quota = 5000
        plan = f"plan-{self.app[-8:]}".lower().replace("_", "-")
        limits = {"messagesPerMonth": quota}
        self.ask("POST", "/api/admin/plans", {"id": plan, "name": "Small", "limits": limits}, 201)
        self.admin("PATCH", "", {"plan": plan})
        soon(lambda: self.admin("GET", "/usage", node=1)["plan"]["id"] == plan, "the other node knows the plan", 5)
        # Its connections are held to it from the moment on when it has noticed the change.
        wire = self.client(1)
        wire.ask("ack", action="publish", channel="news", persist=False)

        answers = self.publish_on_both(4000, "q")

        accepted = answers["ack"] + 1
        self.assertEqual(answers["ack"] + answers["quota_exceeded"], 8000, answers)
        self.assertLessEqual(accepted, quota * 1.01)
        self.assertGreaterEqual(accepted, quota)
        for node in range(2):
            self.assertEqual(self.publish(node, 10, f"over{node}"), {"quota_exceeded": 10})
            soon(lambda node=node: self.month(node) == accepted, "what was used is shown", 5)  # type: ignore[misc]
            metric = self.admin("GET", "/usage", node=node)["metrics"]["messagesPerMonth"]
            self.assertEqual((metric["used"], metric["limit"]), (accepted, quota))

        # A larger plan takes effect on both.
        self.ask("PATCH", f"/api/admin/plans/{plan}", {"limits": {"messagesPerMonth": 2 * quota}})
        for node in range(2):
            soon(lambda node=node: self.publish(node, 1, f"more{node}")["ack"] == 1, "more may be published", 5)  # type: ignore[misc]


def _publish(id: str) -> str:
    return f'{{"action":"publish","channel":"count","id":"{id}","data":{{}},"persist":false}}'
