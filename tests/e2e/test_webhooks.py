"""Webhooks of a real server, to a real receiver, through failures and crashes."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from itertools import groupby, pairwise
from typing import Any
from urllib.request import Request, urlopen

from tests.e2e.cases import ProgramTestCase
from tests.e2e.node import Node
from tests.receivers import Receiver
from wsock.services.provisioning import OWNER_EMAIL

CONFIG = """
[webhooks]
allowed_hosts = ["127.0.0.1"]
retry_seconds = [{}]
"""
EVENTS = 1_000
CHANNELS = 10


class Administrator:
    """The owner of a server that is not in memory."""

    def __init__(self, node: Node) -> None:
        self._base = f"http://127.0.0.1:{node.port}"
        self._token = ""
        text = (node.directory / "data" / "credentials.txt").read_text()
        password = re.findall(r"password (\S+)$", text, re.MULTILINE)[0]
        login = {"email": OWNER_EMAIL, "password": password}
        self._token = self.ask("POST", "/api/auth/login", login)["token"]
        [app] = self.ask("GET", "/api/admin/apps")["items"]
        self.place = f"/api/admin/apps/{app['id']}/webhooks"

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The content of the answer, which must be good."""
        headers = {"Content-Type": "application/json"} | (
            {"Authorization": f"Bearer {self._token}"} if self._token else {}
        )
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(self._base + path, data, headers, method=method), timeout=20) as answer:
            return json.loads(answer.read() or b"null")


class WebhookTests(ProgramTestCase):
    """What is told of published messages."""

    def setUp(self) -> None:
        self.receiver = Receiver()
        self.addCleanup(self.receiver.stop)

    def server(self, retry_seconds: str) -> Node:
        """A server on disk."""
        return self.node(is_dev=False, config=CONFIG.format(retry_seconds)).start()

    def webhook(self, owner: Administrator, name: str, **given: Any) -> str:
        """Makes a webhook that the receiver knows the secret of, and returns its id."""
        wanted = {"url": self.receiver.url(name), "events": ["message.published"], **given}
        made = owner.ask("POST", owner.place, wanted)
        self.receiver.secrets[name] = made["secret"]
        return str(made["id"])

    def publish(self, node: Node, count: int) -> None:
        """Publishes numbered messages to the channels in turn; each is acknowledged."""
        wire = self.connected(node)
        for number in range(count):
            wire.say(action="publish", channel=f"room-{number % CHANNELS}", data={"n": number}, id=f"m{number}")
        for _ in range(count):
            wire.hear("ack")
        wire.socket.close()

    def test_crashes(self) -> None:
        """A third fails and the server is killed three times: all arrive, repeated only under their ids; in order."""
        node = self.server(", ".join(["0.1", "0.2", *["0.4"] * 40]))
        owner = Administrator(node)
        self.webhook(owner, "plain")
        self.webhook(owner, "ordered", ordered=True)
        plain, ordered = self.receiver.taken["plain"], self.receiver.taken["ordered"]
        self.publish(node, EVENTS)

        for enough in (150, 400, 700):
            self.assertTrue(self.receiver.has(lambda: len(plain.ids) + len(ordered.ids) >= 2 * enough, 60), enough)  # noqa: B023
            node.kill()
            node.start()
        for taken in (plain, ordered):
            self.assertTrue(self.receiver.has(lambda: len(set(taken.ids)) >= EVENTS, 90), len(set(taken.ids)))  # noqa: B023
            self.assert_all(taken)
            self.assertGreater(taken.refused, EVENTS / 5)
        self.assert_in_order(ordered)
        # What has arrived is not sent again.
        self.assertFalse(self.receiver.has(lambda: len(plain.ids) + len(ordered.ids) > 2 * EVENTS + 100, 2))

    def assert_all(self, taken: Any) -> None:
        """Every event arrived, verified, and always under the same id, which is its alone."""
        self.assertEqual(taken.wrong, [])
        ids = defaultdict(set)
        for id, body in zip(taken.ids, taken.bodies, strict=True):
            ids[body["data"]["data"]["n"]].add(id)
        self.assertEqual(set(ids), set(range(EVENTS)))
        self.assertEqual({len(one) for one in ids.values()}, {1})
        self.assertEqual(len(set(taken.ids)), EVENTS)

    def assert_in_order(self, taken: Any) -> None:
        """What a crash repeated stands behind itself; apart from that the numbers of each channel only grow."""
        numbers = defaultdict(list)
        for body in taken.bodies:
            numbers[body["data"]["channel"]].append(body["data"]["data"]["n"])
        self.assertEqual(len(numbers), CHANNELS)
        for channel in numbers.values():
            once = [number for number, _ in groupby(channel)]
            self.assertTrue(all(earlier < later for earlier, later in pairwise(once)), channel)

    def test_gone_and_redelivered(self) -> None:
        """What was given up shows why, and arrives when it is asked for again."""
        node = self.server("0.1, 0.1")
        owner = Administrator(node)
        self.receiver.fails = 1.0
        id = self.webhook(owner, "late")
        self.publish(node, 5)
        late = self.receiver.taken["late"]
        self.assertTrue(self.receiver.has(lambda: late.refused >= 15, 30))

        dead = self.eventually(lambda: owner.ask("GET", f"{owner.place}/{id}/deliveries?state=dead")["items"], 5)
        self.assertEqual({len(one["attempts"]) for one in dead}, {3})
        self.receiver.fails = 0.0
        answer = owner.ask("POST", f"{owner.place}/{id}/redeliver", {"since": 0})
        self.assertEqual(answer["redelivered"], 5, answer)

        self.assertTrue(self.receiver.has(lambda: len(late.ids) >= 5, 30))
        self.assertEqual(late.wrong, [])

    def eventually(self, ask: Any, count: int) -> Any:
        """The answer, when it has so many items."""
        items: Any = []
        for _ in range(50):
            items = ask()
            if len(items) >= count:
                break
            self.receiver.has(lambda: False, 0.1)
        return items
