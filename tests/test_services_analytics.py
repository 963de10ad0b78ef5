"""What an app uses and what happened in it, on a whole server in memory: counted where it happens, told over HTTP."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace
from twisted.internet.address import IPv4Address

from tests.base import SynchronousTestCase
from tests.http_client import Answer, answers, request
from tests.vocabulary import Gate
from wsock.errors import Malformed, Refused, Unavailable
from wsock.interfaces import Account, App, Key
from wsock.measures import Span
from wsock.records import Endpoint, Membership, Plan, PlanLimits, Role, Team, membership_id
from wsock.services.access import Actor
from wsock.services.analytics import MAX_BUCKETS, Use
from wsock.services.auth import hash_api_key
from wsock.testing import InMemoryClient, InMemoryServer
from wsock.testing.transport import MemoryTransport

APP = "/api/admin/apps/demo"


class UsageCase(SynchronousTestCase):
    """A server with the app ``demo``, and a viewer of its team who asks."""

    def setUp(self) -> None:
        self.server = InMemoryServer()
        self.addCleanup(self.server.stop)
        self.viewer = self.member("vera", "demo", Role.VIEWER)

    def member(self, name: str, team: str | None, role: Role) -> str:
        """The access token of somebody, who is a member of the team if there is one."""
        account = Account(id=name, email=f"{name}@example.org", password_hash="$", created_at=0, name=name)
        records: list[Any] = [account]
        if team is not None:
            if self.server.wait_for(self.server.server.directory.find(Team, team)) is None:
                records.append(Team(id=team, name=team.title(), created_at=0))
            id = membership_id(team, name)
            records.append(Membership(id=id, team=team, account=name, role=role, created_at=0))
        self.server.wait_for(self.server.server.directory.add(records))
        made = self.server.wait_for(self.server.server.access_tokens.create(Actor.of(account), "test"))
        return str(made.text)

    def ask(self, path: str, *, key: str | None = None) -> Answer:
        """What the server answers, at once: no time goes by."""
        heard: list[bytes] = []
        transport = MemoryTransport(self.server.clock, heard.append, lambda ending: None, peer="192.0.2.7")
        protocol = self.server.server.doors.buildProtocol(IPv4Address("TCP", "192.0.2.7", 50000))
        transport.protocol = protocol
        protocol.makeConnection(transport)
        transport.send(request("GET", path, None, key=key or self.viewer))
        self.server.settle()
        [answer] = answers(b"".join(heard))
        return answer

    def usage(self) -> dict[str, Any]:
        """The usage of the app."""
        answer = self.ask(f"{APP}/usage")
        self.assertEqual(answer.status, 200, answer.body)
        return dict(answer.json)

    def parts(self, query: str = "span=minute") -> list[dict[str, Any]]:
        """What happened in the app."""
        answer = self.ask(f"{APP}/analytics?{query}")
        self.assertEqual(answer.status, 200, answer.body)
        return list(answer.json["items"])

    def client(self, *channels: str, **how: Any) -> InMemoryClient:
        """A client that is subscribed."""
        client = self.server.connect(**how)
        client.says(*[{"action": "subscribe", "channel": channel} for channel in channels])
        client.take()
        return client

    def allow(self, **limits: int) -> None:
        """The app's plan has these limits, and all nodes know."""
        directory = self.server.server.directory
        self.server.wait_for(directory.add([Plan(id="small", name="Small", limits=PlanLimits(**limits), created_at=0)]))
        app = self.server.wait_for(directory.app("demo"))
        self.server.wait_for(directory.replace(replace(app, plan="small")))
        self.server.advance(2)


class UsageTests(UsageCase):
    def test_published(self) -> None:
        """What was published is told at once, by WebSocket and REST alike; a repetition is not counted again."""
        ann, bob = self.client("chat"), self.client("chat", "news")
        for number in range(10):
            ann.says({"action": "publish", "channel": "chat", "data": "1234", "id": f"m{number}"})
        ann.says({"action": "publish", "channel": "chat", "data": "1234", "id": "m0"})
        self.server.wait_for(self.server.server.messages.publish("demo", "news", {"a": 1}))
        bob.closes()

        usage = self.usage()

        self.assertEqual(usage["messages"], {"today": 11, "month": 11})
        self.assertEqual(usage["connections"], {"now": 1, "peak": 2})
        self.assertEqual(usage["channels"], 1)
        self.assertEqual(usage["metrics"]["messagesPerMonth"], {"used": 11, "limit": None, "percent": None})
        self.assertEqual((usage["id"], usage["plan"]["id"]), ("demo", "unlimited"))
        self.assertLessEqual(usage["period"]["start"], self.server.now() * 1000)
        self.assertGreater(usage["period"]["end"], self.server.now() * 1000)

    def test_limits(self) -> None:
        """What the plan allows stands beside what is used."""
        self.allow(connections=4, messages_per_month=8, webhooks=3, message_bytes=100)
        self.server.wait_for(
            self.server.server.directory.add_endpoint(Endpoint(id="e", app="demo", url="https://a", created_at=0))
        )
        ann = self.client("chat")
        for _ in range(2):
            ann.says({"action": "publish", "channel": "chat"})
        self.server.advance(0.1)

        usage = self.usage()

        self.assertEqual(
            usage["plan"], {"id": "small", "name": "Small", "messageBytes": 100, "historyTtlSeconds": None}
        )
        self.assertEqual(usage["metrics"]["connections"], {"used": 1, "limit": 4, "percent": 25.0})
        self.assertEqual(usage["metrics"]["messagesPerMonth"], {"used": 2, "limit": 8, "percent": 25.0})
        self.assertEqual(usage["metrics"]["webhooks"], {"used": 1, "limit": 3, "percent": 33.3})
        self.assertEqual(usage["metrics"]["channels"], {"used": 1, "limit": None, "percent": None})
        self.assertEqual((Use(0, 0).percent, Use(3, 0).percent), (100.0, 100.0))

    def test_team(self) -> None:
        """A team sees what its apps use together and each, and its apps and members."""
        self.server.create(
            App(id="other", name="Other", created_at=0, team="demo"),
            Key(id="k", app="other", name="k", created_at=0, api_key_hash=hash_api_key("k")),
        )
        self.client("chat").says({"action": "publish", "channel": "chat"})
        self.client("chat", key="k").says({"action": "publish", "channel": "chat"})

        answer = self.ask("/api/admin/teams/demo/usage").json

        self.assertEqual(answer["messages"], {"today": 2, "month": 2})
        self.assertEqual((answer["connections"], answer["channels"]), ({"now": 2, "peak": 2}, 2))
        self.assertEqual([app["id"] for app in answer["apps"]], ["demo", "other"])
        self.assertEqual([app["messages"]["month"] for app in answer["apps"]], [1, 1])
        self.assertEqual(answer["metrics"]["apps"], {"used": 2, "limit": None, "percent": None})
        self.assertGreaterEqual(answer["metrics"]["members"]["used"], 1)

    def test_strangers(self) -> None:
        """Who is no member learns nothing, not even that there is such an app or team."""
        stranger = self.member("sam", "elsewhere", Role.OWNER)
        for path in (f"{APP}/usage", f"{APP}/analytics", "/api/admin/teams/demo/usage"):
            self.assertEqual(self.ask(path, key=stranger).status, 404, path)
            self.assertEqual(self.ask(path.replace("demo", "nothing")).status, 404, path)
            self.assertEqual(self.ask(path, key="demo").status, 401, path)


class AnalyticsTests(UsageCase):
    def test_everything(self) -> None:
        """What happened is told by kind."""
        ann, bob = self.client("chat"), self.client("chat")
        ann.says({"action": "publish", "channel": "chat", "data": "12"})
        ann.says({"action": "publish", "channel": "chat", "data": "x" * 70_000})
        bob.closes()
        self.client().disappears()

        [part] = self.parts()

        self.assertEqual(part["at"] % 60_000, 0)
        self.assertEqual((part["messagesIn"], part["messagesOut"], part["bytesIn"]), (1, 2, 4))
        self.assertGreater(part["bytesOut"], 100)
        self.assertEqual((part["opens"], part["connectionsPeak"]), (3, 2))
        self.assertEqual(part["closes"], {"closed": 1, "lost": 1})
        self.assertEqual(part["refused"], {"too_large": 1})
        self.assertEqual((part["webhooks"], part["push"]), ({}, {}))
        self.assertEqual(set(part["latency"]), {"p50", "p95", "p99"})
        self.assertLessEqual(part["latency"]["p99"], 0.5)

    def test_refused_by_rest(self) -> None:
        """A publish that REST refuses is counted as well."""
        publishing = self.server.server.messages.publish("demo", "chat", "x" * 70_000)
        self.failureResultOf(publishing, Refused)

        [part] = self.parts()
        self.assertEqual((part["refused"], part["messagesIn"], part["latency"]), ({"too_large": 1}, 0, None))

    def test_spans(self) -> None:
        """The parts of each span hold what happened in them; what nothing happened in is left out."""
        ann = self.client("chat")
        ann.says({"action": "publish", "channel": "chat"})
        self.server.advance(120)
        for _ in range(2):
            ann.says({"action": "publish", "channel": "chat"})
        ann.closes()
        self.server.advance(600)

        self.assertEqual([part["messagesIn"] for part in self.parts("span=minute&metrics=messagesIn,opens")], [1, 0, 2])
        for span in ("hour", "day", "month"):
            self.assertEqual(sum(part["messagesIn"] for part in self.parts(f"span={span}")), 3)

    def test_fields(self) -> None:
        """Only what is asked for is told."""
        self.client("chat").says({"action": "publish", "channel": "chat"})

        [part] = self.parts("span=day&metrics=messagesIn,latency")

        self.assertEqual(set(part), {"at", "messagesIn", "latency"})
        answer = self.ask(f"{APP}/analytics?metrics=nonsense")
        self.assertEqual((answer.status, answer.json["code"]), (400, "bad_request"))
        self.assertIn("nonsense", answer.json["error"])

    def test_pages(self) -> None:
        """A long series comes in parts, each of them once, the oldest first."""
        ann = self.client("chat")
        for _ in range(7):
            ann.says({"action": "publish", "channel": "chat"})
            self.server.advance(60)

        path, cursor, found = f"{APP}/analytics?span=minute&limit=3", "", []
        for _ in range(5):
            answer = self.ask(path + cursor).json
            self.assertLessEqual(len(answer["items"]), 3)
            found += [part["at"] for part in answer["items"]]
            if answer["next"] is None:
                break
            cursor = f"&cursor={answer['next']}"

        self.assertEqual(found, [part["at"] for part in self.parts()])
        self.assertEqual(found, sorted(set(found)))
        self.assertGreaterEqual(len(found), 7)

    def test_times(self) -> None:
        """From the part on that ``since`` is in, up to those that begin before ``until``."""
        ann = self.client("chat")
        for _ in range(4):
            ann.says({"action": "publish", "channel": "chat"})
            self.server.advance(60)
        whole = [part["at"] for part in self.parts()]

        since, until = whole[1] + 59_999, whole[3]
        self.assertEqual([p["at"] for p in self.parts(f"span=minute&since={since}&until={until}")], whole[1:3])
        for span in ("minute", "hour", "day", "month"):
            self.assertEqual(self.ask(f"{APP}/analytics?span={span}&until={1 << 53}").status, 200, span)
            self.assertEqual(self.ask(f"{APP}/analytics?span={span}&since={1 << 53}").status, 400, span)
        for query in (f"since={until}&until={since}", "span=year", "limit=0", f"limit={MAX_BUCKETS + 1}", "cursor=x"):
            self.assertEqual(self.ask(f"{APP}/analytics?{query}").status, 400, query)

    def test_store_is_away(self) -> None:
        """While the store is away, that is the answer."""
        self.client("chat").says({"action": "publish", "channel": "chat"})

        async def fail(*arguments: Any) -> None:
            raise Unavailable("the store is away")

        self.patch(self.server.server.stores.meters, "add", fail)

        self.assertEqual(self.ask(f"{APP}/usage").status, 503)


class QuotaTests(UsageCase):
    """Plans are held to on the way of every request."""

    def test_messages(self) -> None:
        """The message beyond the month's is refused, by WebSocket and REST, and is neither delivered nor counted."""
        self.allow(messages_per_month=3)
        ann = self.client("chat")
        for number in range(4):
            ann.says({"action": "publish", "channel": "chat", "id": f"m{number}"})
        self.server.advance(0.1)  # the first ones wait until it is known what the month has used

        events = ann.take()

        self.assertEqual([event["id"] for event in events if event["action"] == "ack"], ["m0", "m1", "m2"])
        [refused] = [event for event in events if event["action"] == "error"]
        self.assertEqual((refused["code"], refused["id"]), ("quota_exceeded", "m3"))
        for text in ("'small'", "3 messages a month", "3 are used", "UTC"):
            self.assertIn(text, refused["error"])
        self.assertEqual(self.usage()["metrics"]["messagesPerMonth"], {"used": 3, "limit": 3, "percent": 100.0})
        [part] = self.parts("span=day")
        self.assertEqual(part["refused"], {"quota_exceeded": 1})

    def test_deleted_apps(self) -> None:
        """An app begins with what its team's deleted apps used in the month."""
        self.allow(messages_per_month=3)
        apps, root = self.server.server.plane.apps, Actor(account="root", is_operator=True)
        app = "demo"
        for n in range(2):
            publishing = self.server.server.messages.publish(app, "chat", n)
            self.server.advance(2)
            self.server.wait_for(publishing)
            self.server.wait_for(apps.delete(root, app))
            app = self.server.wait_for(apps.create(root, "Next", team="demo", plan="small")).id
        key = Key(id="k", app=app, name="k", created_at=0, api_key_hash=hash_api_key("k"))
        self.server.wait_for(self.server.server.directory.add([key]))

        usage = self.ask(f"/api/admin/apps/{app}/usage").json
        self.assertEqual(usage["metrics"]["messagesPerMonth"], {"used": 2, "limit": 3, "percent": 66.7})
        self.assertEqual(usage["messages"], {"today": 0, "month": 0})
        ann = self.client("chat", key="k")
        for number in range(2):
            ann.says({"action": "publish", "channel": "chat", "id": f"m{number}"})
        self.server.advance(0.1)
        self.assertEqual([event["action"] for event in ann.take() if event["action"] != "message"], ["ack", "error"])

    def test_connections(self) -> None:
        """The connection beyond the plan's is refused, until another one ends."""
        self.allow(connections=2)
        ann = self.client()
        self.client()

        late = self.server.connect()
        self.assertEqual((late.status, late.body["code"]), (429, "quota_exceeded"))
        ann.closes()
        self.assertEqual(self.server.connect().status, 101)

    def test_connections_at_the_same_moment(self) -> None:
        """Of those that wait for the same thing behind the look at the plan no more get in than it allows."""
        self.allow(connections=2)
        gate, tenants = Gate(), self.server.server.tenants
        self.patch(tenants, "learn_key", gate.guard(tenants.learn_key))
        clients = [self.server.connect() for _ in range(4)]

        gate.open()
        self.server.settle()

        self.assertEqual(sorted(client.status for client in clients), [101, 101, 429, 429])

    def test_channels_of_members(self) -> None:
        """A channel in which somebody is present is in use: entering is no way around the plan."""
        self.allow(channels=2)
        ann = self.client("a")
        for channel in ("a", "b", "c"):
            ann.says({"action": "presence.enter", "channel": channel})
        ann.says({"action": "subscribe", "channel": "c"})

        answers = [(event["action"], event["channel"]) for event in ann.take()]

        entered = [("presence.enter", "a"), ("presence.enter", "b")]
        self.assertEqual(answers, [*entered, ("error", "c"), ("error", "c")])
        usage = self.usage()
        self.assertEqual((usage["channels"], usage["metrics"]["channels"]["used"]), (2, 2))

    def test_channels(self) -> None:
        """The channel beyond the plan's is refused; one that is in use may be subscribed to by anybody."""
        self.allow(channels=2)
        ann = self.client("a", "b")
        bob = self.client("a")
        bob.says({"action": "subscribe", "channel": "c"})
        [refused] = bob.take()
        self.assertEqual((refused["code"], refused["channel"]), ("quota_exceeded", "c"))
        bob.says({"action": "subscribe", "channel": "b"})
        self.assertEqual(bob.take()[0]["action"], "subscribed")

        for client in (ann, bob):
            client.says({"action": "unsubscribe", "channel": "b"})
            client.take()
        bob.says({"action": "subscribe", "channel": "c"})
        self.assertEqual(bob.take()[0]["action"], "subscribed")

    def test_apps_are_apart(self) -> None:
        """What one app has used up is no other's business."""
        self.server.create(
            App(id="other", name="Other", created_at=0, team="demo"),
            Key(id="k", app="other", name="k", created_at=0, api_key_hash=hash_api_key("k")),
        )
        self.allow(messages_per_month=0, connections=1)
        self.client()
        other = self.client("chat", key="k")
        other.says({"action": "publish", "channel": "chat"})

        self.assertIn("ack", [event["action"] for event in other.take()])

    def test_bad_series(self) -> None:
        """A series that ends before it begins is refused by the service as well."""
        analytics = next(group for group in self.server.server.plane.groups if group.tag == "Usage")._analytics  # type: ignore[attr-defined]
        actor = Actor(account="admin", is_operator=True)

        failing = analytics.series(actor, "demo", Span.DAY, 10, 10, 5)
        self.assertRaises(Malformed, self.server.wait_for, failing)
