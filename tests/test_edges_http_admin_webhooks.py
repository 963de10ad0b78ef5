"""Webhooks over the REST API of a whole server, and what it tells them of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from twisted.internet.testing import MemoryReactorClock

from tests.rest import RestAnswer, RestCase
from wsock.interfaces import OutboxRow
from wsock.records import App, Key, Plan, PlanLimits, Role
from wsock.services.addresses import Guard
from wsock.services.auth import hash_api_key
from wsock.services.outgoing import Outgoing

URL = "https://hooks.example.org/in"
PLACE = "/api/admin/apps/shop/webhooks"


class WebhooksCase(RestCase):
    """The app ``shop`` with the API key ``shop``; ``dev`` is a developer of its team, ``vera`` a viewer."""

    def setUp(self) -> None:
        super().setUp()
        self.tokens = {name: self.member(name) for name in ("dev", "vera", "sam")}
        self.team("t1", dev=Role.DEVELOPER, vera=Role.VIEWER)
        key = Key(id="shop", app="shop", name="Shop", created_at=0, api_key_hash=hash_api_key("shop"), client_ids="*")
        self.done(self.server.directory.add([App(id="shop", name="Shop", created_at=0, team="t1"), key]))

    def by(self, name: str, method: str, path: str = "", body: Any = None) -> RestAnswer:
        """The answer to somebody."""
        return self.ask(method, f"{PLACE}{path}", body, token=self.tokens[name])

    def good(self, method: str, path: str = "", body: Any = None, *, by: str = "dev", status: int = 200) -> Any:
        """The content of an answer that must be good."""
        answer = self.by(by, method, path, body)
        self.assertEqual(answer.status, status, answer.body)
        return answer.json if answer.body else None

    def create(self, **given: Any) -> Any:
        """A webhook, which is told of what happens from now on."""
        made = self.good("POST", "", {"url": URL, **given}, status=201)
        self.memory.advance(1)
        return made

    def rows(self) -> list[OutboxRow]:
        """What is to be told."""
        self.memory.settle()
        return list(self.done(self.server.stores.outbox.pending("shop", 1000)))

    def told(self, *types: str) -> list[tuple[str, str]]:
        """Type and channel of what is to be told, of these types if there are any."""
        return [(r.event.type, r.event.channel) for r in self.rows() if not types or r.event.type in types]


class RestTests(WebhooksCase):
    """The operations."""

    def test_created(self) -> None:
        """The answer has the id and, this once, the secret."""
        body = {
            "url": URL,
            "events": ["message.published", "presence.*"],
            "channels": "orders:*",
            "ordered": True,
            "description": "Orders",
        }
        made = self.good("POST", "", body, status=201)

        self.assertEqual({name: made[name] for name in body}, body)
        self.assertTrue(made["secret"].startswith("whsec_"))
        shown = self.good("GET", f"/{made['id']}", by="vera")
        self.assertEqual(shown, {name: value for name, value in made.items() if name != "secret"})
        self.assertEqual(self.good("GET", by="vera"), {"items": [shown], "next": None})
        self.assertEqual((shown["enabled"], shown["batched"], shown["disabledReason"]), (True, False, None))

    def test_minimal(self) -> None:
        """A URL is enough: it is told everything."""
        made = self.create()

        self.assertEqual((made["events"], made["channels"], made["ordered"]), ([], None, False))

    def test_wrong(self) -> None:
        """What is wrong is refused by the name of its field."""
        for body, field in (
            ({}, "url"),
            ({"url": "ftp://example.org"}, "url"),
            ({"url": "https://10.0.0.1/"}, "url"),
            ({"url": "https://[::ffff:10.0.0.1]/"}, "url"),
            ({"url": "https://169.254.169.254/latest"}, "url"),
            ({"url": "https://user:pass@example.org/"}, "url"),
            ({"url": URL, "events": ["presence"]}, "events"),
            ({"url": URL, "channels": ""}, "channels"),
            ({"url": URL, "filters": []}, "filters"),
        ):
            self.assert_refused(self.by("dev", "POST", "", body), 400, "bad_request", field)
        self.assertEqual(self.good("GET")["items"], [])

    def test_plan(self) -> None:
        """A plan's limit is quoted."""
        self.done(self.server.directory.add([Plan(id="one", name="One", limits=PlanLimits(webhooks=1))]))
        app = self.done(self.server.directory.app("shop"))
        self.done(self.server.directory.replace(msgspec.structs.replace(app, plan="one")))
        self.create()

        self.assert_refused(self.by("dev", "POST", "", {"url": URL}), 429, "quota_exceeded", "one", "1 webhooks")

    def test_changed(self) -> None:
        """PATCH changes what is given, and the version guards."""
        id = self.create(channels="a*")["id"]

        changed = self.good(
            "PATCH", f"/{id}", {"channels": None, "events": ["quota.*"], "enabled": False, "version": 1}
        )

        self.assertEqual((changed["channels"], changed["events"], changed["enabled"]), (None, ["quota.*"], False))
        self.assertIsInstance(changed["disabledAt"], int)
        self.assert_refused(self.by("dev", "PATCH", f"/{id}", {"enabled": True, "version": 1}), 409, "conflict")

    def test_rotated(self) -> None:
        """The new secret is shown once, and the old one is good for the overlap."""
        made = self.create()

        rotated = self.good("POST", f"/{made['id']}/rotate", {"overlapSeconds": 60}, status=201)

        self.assertNotEqual(rotated["secret"], made["secret"])
        self.assertEqual(rotated["oldSecretUntil"], int((self.memory.now() + 60) * 1000))

    def test_test_and_deliveries(self) -> None:
        """A test is a delivery like others, which can be found by its state."""
        id = self.create(events=["presence.*"])["id"]

        delivery = self.good("POST", f"/{id}/test", status=202)

        self.assertEqual((delivery["type"], delivery["channel"]), ("webhook.test", None))
        found = self.good("GET", f"/{id}/deliveries", by="vera")["items"]
        self.assertEqual([one["id"] for one in found], [delivery["id"]])
        self.assertEqual(self.good("GET", f"/{id}/deliveries?state=done")["items"], [])
        self.assert_refused(self.by("dev", "GET", f"/{id}/deliveries?state=x"), 400, "bad_request", "state")
        self.assert_refused(self.by("dev", "GET", f"/{id}/deliveries?cursor=!"), 400, "bad_request", "cursor")

    def test_redeliver(self) -> None:
        """It takes one of the two, and says how many."""
        id = self.create()["id"]

        self.assertEqual(self.good("POST", f"/{id}/redeliver", {"since": 0}, status=202), {"redelivered": 0})
        for body in ({}, {"deliveryId": "x", "since": 0}):
            self.assert_refused(self.by("dev", "POST", f"/{id}/redeliver", body), 400, "bad_request", "deliveryId")
        self.assert_refused(self.by("dev", "POST", f"/{id}/redeliver", {"deliveryId": "x"}), 404, "not_found")

    def test_deleted(self) -> None:
        """It is gone."""
        id = self.create()["id"]
        self.good("DELETE", f"/{id}", status=204)

        self.assert_refused(self.by("dev", "GET", f"/{id}"), 404, "not_found")
        self.assert_refused(self.by("dev", "GET", f"/{id}/deliveries"), 404, "not_found")

    def test_strangers(self) -> None:
        """To who is no member there is no such app."""
        id = self.create()["id"]
        for method, path in (("GET", ""), ("GET", f"/{id}"), ("GET", f"/{id}/deliveries"), ("DELETE", f"/{id}")):
            self.assert_refused(self.by("sam", method, path), 404, "not_found", "app")


class EventTests(WebhooksCase):
    """What a server in memory tells, of each type, with what a client does."""

    def connect(self, client_id: str = "ana") -> Any:
        client = self.memory.connect(key="shop", client_id=client_id)
        client.take()
        return client

    def test_message(self) -> None:
        """A message is to be told before its publisher is told that it was accepted, history or not."""
        self.create(events=["message.*"])
        client = self.connect()
        for persist in (True, False):
            client.says(
                {"action": "publish", "channel": "a", "data": {"n": 1}, "id": f"m{persist}", "persist": persist}
            )

        self.assertEqual([event["action"] for event in client.take()], ["ack", "ack"])
        self.assertEqual(self.told(), [("message.published", "a")] * 2)
        [first, _] = self.rows()
        data = msgspec.json.decode(first.event.data)
        self.assertEqual((data["channel"], data["data"], data["publisherId"]), ("a", {"n": 1}, "ana"))

    def test_channels(self) -> None:
        """The first subscriber and the end of the last."""
        self.create(events=["channel.*"])
        ana, bob = self.connect(), self.connect("bob")
        for client in (ana, bob):
            client.says({"action": "subscribe", "channel": "a"})
        for client in (ana, bob):
            client.says({"action": "unsubscribe", "channel": "a"})
        self.assertEqual(self.told(), [("channel.occupied", "a")])

        self.memory.advance(3)

        self.assertEqual(self.told(), [("channel.occupied", "a"), ("channel.vacated", "a")])

    def test_presence(self) -> None:
        """Members come, change and go."""
        self.create(events=["presence.*"])
        client = self.connect()
        for action in ("enter", "update", "leave"):
            client.says({"action": f"presence.{action}", "channel": "a", "data": {"at": action}})
        self.memory.advance(3)

        self.assertEqual(self.told(), [(f"presence.{action}", "a") for action in ("enter", "update", "leave")])

    def test_connections(self) -> None:
        """A client connects, and its connection ends."""
        self.create(events=["connection.*"])
        client = self.connect()
        client.disappears()

        self.assertEqual(self.told(), [("connection.opened", ""), ("connection.closed", "")])
        opened, closed = (msgspec.json.decode(row.event.data) for row in self.rows())
        self.assertEqual((opened["clientId"], opened["keyId"]), ("ana", "shop"))
        self.assertEqual(opened["connectionId"], closed["connectionId"])
        self.assertIn("reason", closed)

    def test_quotas(self) -> None:
        """80 % of a limit, and all of it, once each."""
        plan = Plan(id="ten", name="Ten", limits=PlanLimits(connections=10))
        self.done(self.server.directory.add([plan]))
        app = self.done(self.server.directory.app("shop"))
        self.done(self.server.directory.replace(msgspec.structs.replace(app, plan="ten")))
        self.create(events=["quota.*"])
        clients = [self.connect(f"c{n}") for n in range(8)]
        self.memory.advance(3)
        self.assertEqual(self.told(), [("quota.warning", "")])
        clients += [self.connect(f"d{n}") for n in range(2)]
        for _ in range(3):
            self.memory.advance(1)

        self.assertEqual(self.told(), [("quota.warning", ""), ("quota.exceeded", "")])
        data = msgspec.json.decode(self.rows()[1].event.data)
        self.assertEqual(data, {"metric": "connections", "used": 10, "limit": 10})

    def test_reconnect_makes_no_noise(self) -> None:
        """A client that is back within 3 s neither left nor vacated its channel; one that stays away did."""
        self.create(events=["channel.*", "presence.*"])
        noise: list[tuple[str, str]] = [("channel.occupied", "a"), ("presence.enter", "a")]
        for _ in range(3):
            client = self.connect()
            client.says({"action": "subscribe", "channel": "a"}, {"action": "presence.enter", "channel": "a"})
            self.memory.advance(1)
            client.disappears()
            self.memory.advance(2)
        self.assertEqual(self.told(), noise)

        self.memory.advance(1)
        self.assertEqual(self.told(), [*noise, ("channel.vacated", "a")])
        for _ in range(15):  # the grace of presence, and the quiet after it
            self.memory.advance(1)
        self.assertEqual(self.told("presence.leave"), [("presence.leave", "a")])

    def test_switched_off(self) -> None:
        """One that is switched off, or deleted, is told nothing from the next second on."""
        off, gone = self.create(), self.create()
        self.connect().says({"action": "publish", "channel": "a", "data": 1, "id": "first"})
        self.assertIn("message.published", {type for type, _ in self.told()})
        self.good("PATCH", f"/{off['id']}", {"enabled": False})
        self.good("DELETE", f"/{gone['id']}", status=204)
        self.memory.advance(1)
        before = len(self.rows())

        self.connect().says({"action": "publish", "channel": "a", "data": 1, "id": "m"})

        self.assertEqual(len(self.rows()), before)

    def test_other_apps(self) -> None:
        """What happens in another app is none of this one's."""
        self.create()

        self.memory.connect(key="demo").says({"action": "publish", "channel": "a", "data": 1, "id": "m"})

        self.assertEqual(self.rows(), [])


class BlockedTests(WebhooksCase):
    """A URL that leads to what is not public is never asked, and the owner reads why."""

    def setUp(self) -> None:
        super().setUp()
        self.network = MemoryReactorClock()
        self.addresses: list[list[str]] = []
        self.lookups = 0
        self.server.delivering._sending = Outgoing(
            self.network, Guard("webhooks.allowed_hosts", allows_http=True), resolve=self.resolve
        )

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """The next answer; the last one is that of all later look-ups."""
        self.lookups += 1
        return self.addresses.pop(0) if len(self.addresses) > 1 else self.addresses[0]

    def attempt(self, id: str) -> Any:
        """What became of a test."""
        delivery = self.good("POST", f"/{id}/test", status=202)["id"]
        self.memory.advance(1)
        [found] = [one for one in self.good("GET", f"/{id}/deliveries")["items"] if one["id"] == delivery]
        return found

    def test_resolves_to_it(self) -> None:
        """Whatever the form of the address, and though others of the host are public."""
        id = self.create(events=["push.*"])["id"]
        for address in ("127.0.0.1", "169.254.169.254", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "168.63.129.16"):
            for addresses in ([address], ["93.184.216.34", address]):
                self.addresses = [addresses]

                found = self.attempt(id)

                self.assertEqual((found["state"], found["tries"]), ("dead", 1))
                [attempt] = found["attempts"]
                self.assertEqual(attempt["status"], None)
                for text in ("hooks.example.org", address, "webhooks.allowed_hosts"):
                    self.assertIn(text, attempt["error"])
        self.assertEqual(self.network.tcpClients, [])
        self.assertEqual(len(self.good("GET", f"/{id}/deliveries?state=dead", by="vera")["items"]), 10)

    def test_rebinds(self) -> None:
        """A name is looked up once for a connection, and it goes to what was looked at; the next is looked up anew."""
        id = self.create(events=["push.*"])["id"]
        self.addresses = [["93.184.216.34"], ["127.0.0.1"]]

        first = self.attempt(id)

        self.assertEqual((first["state"], self.lookups), ("pending", 1))
        self.assertEqual([(client[0], client[1]) for client in self.network.tcpClients], [("93.184.216.34", 443)])
        second = self.attempt(id)
        self.assertEqual((second["state"], self.lookups), ("dead", 2))
        self.assertIn("127.0.0.1", second["attempts"][0]["error"])
        self.assertEqual(len(self.network.tcpClients), 1)
