"""What is live in an app, over HTTP: lists of channels and connections, messages to many channels, disconnecting."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote

import msgspec
from twisted.internet.address import IPv4Address

from tests.base import SynchronousTestCase
from tests.http_client import Answer, answers, request
from wsock.edges.http.admin.channels import AppChannelGroup
from wsock.edges.http.admin.connections import AppConnectionGroup
from wsock.edges.http.channels import ChannelGroup, ConnectionGroup
from wsock.edges.http.openapi import Description
from wsock.interfaces import Account, App, Key
from wsock.records import AuditQuery, Membership, Namespace, Role, Settings, Team, membership_id
from wsock.services.access import Actor
from wsock.services.auth import hash_api_key
from wsock.testing import InMemoryClient, InMemoryServer
from wsock.testing.transport import MemoryTransport

ADMIN = "/api/admin/apps/demo"


class LiveTestCase(SynchronousTestCase):
    """A whole server in memory, with the apps ``demo`` and ``other`` (key ``key-other``)."""

    def setUp(self) -> None:
        self.server = InMemoryServer()
        self.addCleanup(self.server.stop)
        other = App(id="other", name="other", created_at=0)
        self.server.create(other, key("other", "other"))
        for name, permissions in (
            ("news", {"news.*": ["*"]}),
            ("read", {"*": ["subscribe"]}),
            ("blind", {"*": ["publish"]}),
        ):
            self.server.wait_for(self.server.server.directory.add([key(name, "demo", permissions)]))

    def ask(self, method: str, path: str, body: Any = None, *, key: str | None = "demo") -> Answer:
        """What the server answers."""
        heard: list[bytes] = []
        transport = MemoryTransport(self.server.clock, heard.append, lambda ending: None, peer="192.0.2.7")
        protocol = self.server.server.doors.buildProtocol(IPv4Address("TCP", "192.0.2.7", 50000))
        transport.protocol = protocol
        protocol.makeConnection(transport)
        transport.send(request(method, path, body, key=key))
        self.server.settle()
        [answer] = answers(b"".join(heard))
        return answer

    def client(self, *channels: str, **how: Any) -> InMemoryClient:
        """A client that is subscribed."""
        client = self.server.connect(**how)
        client.says(*[{"action": "subscribe", "channel": channel} for channel in channels])
        client.take()
        return client

    def assert_refused(self, answer: Answer, status: int, code: str, *names: str) -> None:
        """The answer is this refusal, and its text names these things."""
        self.assertEqual((answer.status, answer.json.get("code")), (status, code), answer.body)
        for name in names:
            self.assertIn(name, answer.json["error"])


def key(name: str, app: str, permissions: dict[str, list[str]] | None = None) -> Key:
    """A key whose API key is ``key-`` and its name."""
    more: dict[str, Any] = {} if permissions is None else {"permissions": permissions}
    return Key(id=name, app=app, name=name, created_at=0, api_key_hash=hash_api_key(f"key-{name}"), **more)


class ChannelListTests(LiveTestCase):
    def test_list(self) -> None:
        """Occupied channels come by name, with how many are there."""
        self.client("news.b", "news.a")
        bob = self.client("news.a", token=self.server.token(sub="bob"))
        bob.says({"action": "presence.enter", "channel": "news.a"})
        self.client("news.a", key="key-other")

        answer = self.ask("GET", "/api/channels")

        self.assertEqual(answer.status, 200)
        self.assertEqual(
            answer.json,
            {
                "items": [
                    {"channel": "news.a", "subscribers": 2, "members": 1},
                    {"channel": "news.b", "subscribers": 1, "members": 0},
                ],
                "next": None,
                "isComplete": True,
            },
        )

    def test_pages(self) -> None:
        """The cursor leads on, and a prefix chooses."""
        self.client(*[f"c{number}" for number in range(5)], "other")

        first = self.ask("GET", "/api/channels?limit=2&prefix=c").json
        rest = self.ask("GET", f"/api/channels?limit=100&prefix=c&cursor={quote(first['next'])}").json

        self.assertEqual([item["channel"] for item in first["items"]], ["c0", "c1"])
        self.assertEqual([item["channel"] for item in rest["items"]], ["c2", "c3", "c4"])
        self.assertIsNone(rest["next"])

    def test_rights(self) -> None:
        """Only channels that the credential may subscribe to are told of, whichever parts they are in."""
        names = [f"chat.{number:03}" for number in range(150)] + ["news.a", "news.b"]
        self.client(*names)

        token = self.server.token(sub="ann", permissions={"news.b": ["subscribe"], "chat.000": ["publish"]})
        of_key = self.ask("GET", "/api/channels?limit=20", key="key-news").json
        of_token = self.ask("GET", "/api/channels?limit=20", key=token).json
        blind = self.ask("GET", "/api/channels", key="key-blind").json

        self.assertEqual([item["channel"] for item in of_key["items"]], ["news.a", "news.b"])
        self.assertEqual([item["channel"] for item in of_token["items"]], ["news.b"])
        self.assertEqual((blind["items"], blind["next"]), ([], None))

    def test_bounded(self) -> None:
        """Of very many channels that it may not know, a credential gets an empty part and how to go on."""
        for start in range(0, 700, 100):
            self.client(*[f"chat.{number:03}" for number in range(start, start + 100)])
        self.client("news.a")

        part = self.ask("GET", "/api/channels?limit=50", key="key-news").json
        rest = self.ask("GET", f"/api/channels?limit=50&cursor={part['next']}", key="key-news").json

        self.assertEqual(part["items"], [])
        self.assertEqual([item["channel"] for item in rest["items"]], ["news.a"])

    def test_cursor(self) -> None:
        """A cursor tells no name, and is good for its app and prefix only."""
        self.client("secret.1", "secret.2")
        cursor = self.ask("GET", "/api/channels?limit=1").json["next"]

        self.assertNotIn(b"secret", base64.urlsafe_b64decode(cursor))
        self.assertEqual(len(cursor), len(self.ask("GET", "/api/channels?limit=1&prefix=s").json["next"]))
        for query, key in ((cursor, "key-other"), (f"{cursor}&prefix=s", "demo"), (f"A{cursor[1:-4]}AAAA", "demo")):
            self.assert_refused(self.ask("GET", f"/api/channels?cursor={query}", key=key), 400, "bad_request", "cursor")
        for text in ("secret.1", "", "AAAA", "%C3%A9"):
            self.assert_refused(self.ask("GET", f"/api/channels?cursor={text}"), 400, "bad_request", "cursor")

    def test_bad_queries(self) -> None:
        """A wrong field is refused by name."""
        for query, name in (
            ("limit=0", "limit"),
            ("limit=101", "limit"),
            ("prefix=" + "x" * 256, "prefix"),
            ("x=1", "x"),
        ):
            self.assert_refused(self.ask("GET", f"/api/channels?{query}"), 400, "bad_request", f"'{name}'")

    def test_channel(self) -> None:
        """A channel is told of, be anybody there or not."""
        self.client("news.a")
        posted = self.ask("POST", "/api/channels/news.a/messages", {"data": 1}).json

        about = self.ask("GET", "/api/channels/news.a").json
        empty = self.ask("GET", "/api/channels/a%2Fb").json

        self.assertEqual(
            about,
            {
                "channel": "news.a",
                "subscribers": 1,
                "members": 0,
                "epoch": posted["epoch"],
                "sequence": 1,
                "lastMessageAt": posted["timestamp"],
                "isComplete": True,
            },
        )
        self.assertEqual((empty["channel"], empty["subscribers"], empty["lastMessageAt"]), ("a/b", 0, None))
        self.assert_refused(self.ask("GET", "/api/channels/news.a", key="key-blind"), 403, "forbidden", "'subscribe'")
        self.assertEqual(self.ask("GET", "/api/channels/news.a", key="key-other").json["sequence"], 0)


class SpreadTests(LiveTestCase):
    def test_each_for_itself(self) -> None:
        """Messages go to the channels that they name, those that can't are told why, in order."""
        batch = [
            {"channel": "news.a", "data": 1, "id": "x"},
            {"channel": "chat", "data": 2, "id": "y"},
            {"channel": "", "data": 3},
            {"data": 4, "id": "z"},
            5,
            {"channel": "news.b", "data": 6},
            {"channel": "news.a", "data": 7, "id": "x"},
        ]
        for body in (batch, {"messages": batch}):
            answer = self.ask("POST", "/api/messages", body, key="key-news")
            self.assertEqual(answer.status, 200)
        first, foreign, empty, none, number, other, again = answer.json["messages"]

        self.assertEqual((first["channel"], first["sequence"], first["duplicate"]), ("news.a", 1, True))
        self.assertEqual(again, first)
        self.assertEqual((foreign["code"], foreign["id"]), ("forbidden", "y"))
        self.assertEqual((empty["code"], none["code"], none["id"]), ("channel_name", "channel_name", "z"))
        self.assertEqual(number["code"], "bad_request")
        self.assertEqual((other["channel"], other["sequence"]), ("news.b", 2))

    def test_delivered(self) -> None:
        """Subscribers get what is theirs."""
        bob = self.client("news.a", "news.b")

        self.ask("POST", "/api/messages", [{"channel": "news.b", "data": 1}, {"channel": "news.a", "data": 2}])

        self.assertEqual([(m["channel"], m["data"]) for m in bob.take()], [("news.b", 1), ("news.a", 2)])

    def test_shape(self) -> None:
        """It takes 1 to 100 messages, and no single one."""
        bodies: list[Any] = [None, {}, {"channel": "a", "data": 1}, [], {"messages": []}, {"messages": 5}, "x"]
        for body in bodies:
            self.assert_refused(self.ask("POST", "/api/messages", body), 400, "bad_request")
        answer = self.ask("POST", "/api/messages", [{"channel": "a"}] * 101)
        self.assert_refused(answer, 422, "limit_exceeded", "100")


class ClientPublishTests(LiveTestCase):
    def test_switched_off(self) -> None:
        """Where clients may not publish no JWT does, whether it has a subject or not; API keys do."""
        namespace = Namespace(
            id="ns", app="demo", pattern="news", created_at=0, settings=Settings(client_publish=False)
        )
        self.server.wait_for(self.server.server.directory.add([namespace]))
        self.server.advance(1)
        messages = [{"channel": "news"}, {"channel": "chat"}]
        for claims in ({"sub": "ann"}, {}):
            token = self.server.token(**claims)
            one = self.ask("POST", "/api/channels/news/messages", {"data": 1}, key=token)
            several = self.ask("POST", "/api/messages", {"messages": messages}, key=token)

            self.assert_refused(one, 403, "forbidden", "clients may not publish in 'news'")
            self.assertEqual([m.get("code") for m in several.json["messages"]], ["forbidden", None])
        self.assertEqual(self.ask("POST", "/api/channels/news/messages", {"data": 1}).status, 200)


class ConnectionTests(LiveTestCase):
    def ids(self, query: str = "", key: str = "demo") -> list[str]:
        """The clientIds of a list."""
        answer = self.ask("GET", f"/api/connections{query}", key=key)
        self.assertEqual(answer.status, 200, answer.body)
        return sorted(item["clientId"] for item in answer.json["items"])

    def named(self, *names: str) -> list[InMemoryClient]:
        """Clients of these names, subscribed to ``chat``."""
        return [self.client("chat", token=self.server.token(sub=name)) for name in names]

    def test_list(self) -> None:
        """All connections of the app, or some, and none of another one's."""
        self.named("ann", "bob", "bob")
        self.client("chat", key="key-other")

        self.assertEqual(self.ids(), ["ann", "bob", "bob"])
        self.assertEqual(self.ids("?clientId=bob"), ["bob", "bob"])
        self.assertEqual(self.ids("?channel=news"), [])
        self.assertEqual(len(self.ids(key="key-other")), 1)

    def test_pages(self) -> None:
        """The parts one after the other are all."""
        self.named(*"abcde")
        found: list[str] = []
        path = "/api/connections?limit=2"
        while True:
            part = self.ask("GET", path).json
            found += [item["clientId"] for item in part["items"]]
            if part["next"] is None:
                break
            path = f"/api/connections?limit=2&cursor={part['next']}"

        self.assertEqual(sorted(found), list("abcde"))

    def test_one(self) -> None:
        """A connection is shown with its channels; in a list only their number is."""
        self.named("ann")
        [listed] = self.ask("GET", "/api/connections").json["items"]

        shown = self.ask("GET", f"/api/connections/{listed['id']}").json

        self.assertEqual(shown, {**listed, "channels": ["chat"], "presence": []})
        self.assertEqual((listed["channelCount"], listed["presenceCount"]), (1, 0))
        self.assert_refused(self.ask("GET", f"/api/connections/{listed['id']}", key="key-other"), 404, "not_found")
        self.assert_refused(self.ask("GET", "/api/connections/nobody"), 404, "not_found", "nobody")

    def test_disconnect(self) -> None:
        """A connection ends, once."""
        ann, bob = self.named("ann", "bob")
        [listed] = self.ask("GET", "/api/connections?clientId=ann").json["items"]
        path = f"/api/connections/{listed['id']}"

        self.assert_refused(self.ask("DELETE", path, key="key-other"), 404, "not_found")
        answer = self.ask("DELETE", f"{path}?reason=too%20loud")

        self.assertEqual((answer.status, answer.body), (204, b""))
        self.assertIn("too loud", ann.take()[0]["error"])
        self.assertEqual((ann.closed, bob.closed), (4403, None))
        self.assert_refused(self.ask("DELETE", path), 404, "not_found")

    def test_written_down(self) -> None:
        """What a key disconnects is in the audit log of the app's team, as the key's act."""
        self.named("ann")
        [listed] = self.ask("GET", "/api/connections").json["items"]
        self.ask("DELETE", f"/api/connections/{listed['id']}?reason=x")
        self.ask("POST", "/api/connections/disconnect", {"clientId": "bob"})

        root = Actor(account="root", is_operator=True)
        page = self.server.wait_for(self.server.server.audit.page(root, AuditQuery(team="demo"), None, 10))

        acts = {(entry.actor, entry.action, entry.target, entry.ip) for entry in page.items}
        act = ("key:demo", "connection.disconnect")
        self.assertEqual(acts, {(*act, listed["id"], "192.0.2.7"), (*act, "bob", "192.0.2.7")})

    def test_disconnect_client(self) -> None:
        """All connections of a clientId end, and their number is told."""
        clients = self.named("bob", "bob", "ann")

        foreign = self.ask("POST", "/api/connections/disconnect", {"clientId": "bob"}, key="key-other")
        answer = self.ask("POST", "/api/connections/disconnect", {"clientId": "bob"})

        self.assertEqual(foreign.json, {"disconnected": 0, "isComplete": True})
        self.assertEqual(answer.json, {"disconnected": 2, "isComplete": True})
        self.assertEqual([client.closed for client in clients], [4403, 4403, None])
        self.assert_refused(self.ask("POST", "/api/connections/disconnect", {}), 400, "bad_request", "'clientId'")

    def test_who_may(self) -> None:
        """Only an API key that may do everything: no other key, and no JWT, whatever it says."""
        self.named("ann")
        token = self.server.token(permissions={"*": ["*"]})
        whole = self.server.token()
        for credential in ("key-news", "key-read", token, whole):
            for method, path, body in (
                ("GET", "/api/connections", None),
                ("GET", "/api/connections/x", None),
                ("DELETE", "/api/connections/x", None),
                ("POST", "/api/connections/disconnect", {"clientId": "ann"}),
            ):
                self.assert_refused(self.ask(method, path, body, key=credential), 403, "forbidden", "API key")
        self.assert_refused(self.ask("GET", "/api/connections", key=None), 401, "unauthorized")

    def test_a_node_is_silent(self) -> None:
        """What a silent node may have is not said to be absent: try again."""
        control = self.server.server.stores.control
        control.listen(lambda question: 1 / 0)  # type: ignore[arg-type, return-value]

        self.assert_refused(self.ask("GET", "/api/connections/x"), 503, "unavailable", "not every node")
        self.assert_refused(self.ask("DELETE", "/api/connections/x"), 503, "unavailable", "not every node")
        self.assertFalse(self.ask("GET", "/api/connections").json["isComplete"])
        self.flushLoggedErrors(ZeroDivisionError)


class AdministratorTests(LiveTestCase):
    """The same for people, by their roles in the app's team."""

    def setUp(self) -> None:
        super().setUp()
        team = Team(id="crew", name="crew", created_at=0)
        directory = self.server.server.directory
        self.server.wait_for(directory.add([team]))
        demo = self.server.wait_for(directory.app("demo"))
        self.server.wait_for(directory.replace(msgspec.structs.replace(demo, team="crew")))
        self.tokens = {role: self.member(role) for role in Role}
        self.tokens_of_nobody = self.person("stranger")

    def member(self, role: Role) -> str:
        """An access token of somebody with the role in the team of ``demo``."""
        name = f"some-{role}"
        token = self.person(name)
        member = Membership(id=membership_id("crew", name), team="crew", account=name, role=role, created_at=0)
        self.server.wait_for(self.server.server.directory.add([member]))
        return token

    def person(self, name: str) -> str:
        """An access token of somebody."""
        account = Account(id=name, email=f"{name}@example.org", password_hash="", created_at=0)
        self.server.wait_for(self.server.server.directory.add([account]))
        made = self.server.wait_for(self.server.server.access_tokens.create(Actor.of(account), "test"))
        return str(made.text)

    def acts(self, action: str) -> list[tuple[str, str, str, dict[str, str]]]:
        """Who did that, where and to what."""
        page = self.server.wait_for(self.server.server.stores.audit.page(AuditQuery(), None, 100))
        return [(e.actor, e.app, e.target, e.details) for e in page.items if e.action == action]

    def test_read(self) -> None:
        """Viewers see channels, their past, members and connections."""
        viewer = self.tokens[Role.VIEWER]
        bob = self.client("chat", token=self.server.token(sub="bob"))
        bob.says({"action": "presence.enter", "channel": "chat"})
        self.ask("POST", "/api/channels/chat/messages", {"data": 1})

        channels = self.ask("GET", f"{ADMIN}/channels?prefix=ch", key=viewer).json
        channel = self.ask("GET", f"{ADMIN}/channels/chat", key=viewer).json
        history = self.ask("GET", f"{ADMIN}/channels/chat/messages?limit=1", key=viewer).json
        members = self.ask("GET", f"{ADMIN}/channels/chat/presence", key=viewer).json
        connections = self.ask("GET", f"{ADMIN}/connections?channel=chat", key=viewer).json
        [listed] = connections["items"]
        connection = self.ask("GET", f"{ADMIN}/connections/{listed['id']}", key=viewer).json

        self.assertEqual(channels["items"], [{"channel": "chat", "subscribers": 1, "members": 1}])
        self.assertEqual((channel["sequence"], channel["members"]), (1, 1))
        self.assertEqual([message["data"] for message in history["messages"]], [1])
        self.assertEqual([member["clientId"] for member in members["members"]], ["bob"])
        self.assertEqual((listed["clientId"], connection["channels"]), ("bob", ["chat"]))

    def test_publish(self) -> None:
        """Developers publish as the server; what was accepted is written down, without what it was."""
        developer = self.tokens[Role.DEVELOPER]
        bob = self.client("chat", "news")

        one = self.ask("POST", f"{ADMIN}/channels/chat/messages", {"data": "secret", "id": "x"}, key=developer)
        again = self.ask("POST", f"{ADMIN}/channels/chat/messages", {"data": "secret", "id": "x"}, key=developer)
        batch = [{"channel": "news", "data": 1}, {"channel": "", "data": 2}]
        spread = self.ask("POST", f"{ADMIN}/messages", batch, key=developer)
        none = self.ask("POST", f"{ADMIN}/channels/chat/messages", [5], key=developer)

        self.assertEqual(again.json, {**one.json, "duplicate": True})
        self.assertEqual([m.get("code") for m in spread.json["messages"]], [None, "channel_name"])
        self.assertEqual(none.status, 200)
        heard = [(m["channel"], m["data"], m["publisherId"]) for m in bob.take()]
        self.assertEqual(heard, [("chat", "secret", "server"), ("news", 1, "server")])
        self.assertEqual(
            sorted(self.acts("channel.publish"), key=str),
            sorted(
                [
                    ("some-developer", "demo", "chat", {"messages": "1"}),
                    ("some-developer", "demo", "chat", {"messages": "1"}),
                    ("some-developer", "demo", "", {"messages": "1"}),
                ],
                key=str,
            ),
        )

    def test_disconnect(self) -> None:
        """Developers end connections, which is written down."""
        developer = self.tokens[Role.DEVELOPER]
        ann, bob = (self.client("chat", token=self.server.token(sub=name)) for name in ("ann", "bob"))
        [listed] = self.ask("GET", f"{ADMIN}/connections?clientId=ann", key=developer).json["items"]

        one = self.ask("DELETE", f"{ADMIN}/connections/{listed['id']}?reason=x", key=developer)
        body = {"clientId": "bob", "reason": "y"}
        others = self.ask("POST", f"{ADMIN}/connections/disconnect", body, key=developer)

        self.assertEqual((one.status, others.json["disconnected"]), (204, 1))
        self.assertEqual((ann.closed, bob.closed), (4403, 4403))
        self.assertEqual(
            sorted(self.acts("connection.disconnect"), key=str),
            sorted(
                [
                    ("some-developer", "demo", listed["id"], {"reason": "x"}),
                    ("some-developer", "demo", "bob", {"clientId": "bob", "connections": "1", "reason": "y"}),
                ],
                key=str,
            ),
        )
        self.assert_refused(self.ask("DELETE", f"{ADMIN}/connections/x", key=developer), 404, "not_found")

    def test_who_may(self) -> None:
        """Viewers only look; who is no member finds nothing; credentials of the app are none of people."""
        acts: list[tuple[str, str, Any]] = [
            ("POST", f"{ADMIN}/channels/chat/messages", {"data": 1}),
            ("POST", f"{ADMIN}/messages", [{"channel": "chat"}]),
            ("DELETE", f"{ADMIN}/connections/x", None),
            ("POST", f"{ADMIN}/connections/disconnect", {"clientId": "bob"}),
        ]
        looks: list[tuple[str, str, Any]] = [
            ("GET", f"{ADMIN}/{place}", None)
            for place in (
                "channels",
                "channels/chat",
                "channels/chat/messages",
                "channels/chat/presence",
                "connections",
                "connections/x",
            )
        ]
        for method, path, body in acts:
            answer = self.ask(method, path, body, key=self.tokens[Role.VIEWER])
            self.assert_refused(answer, 403, "forbidden", "developer")
        for method, path, body in acts + looks:
            self.assert_refused(self.ask(method, path, body, key=self.tokens_of_nobody), 404, "not_found", "demo")
            for credential in ("demo", None, self.server.token()):
                self.assert_refused(self.ask(method, path, body, key=credential), 401, "unauthorized")
            elsewhere = path.replace("/demo/", "/other/")
            self.assert_refused(self.ask(method, elsewhere, body, key=self.tokens[Role.OWNER]), 404, "not_found")
        self.assertEqual(self.acts("channel.publish") + self.acts("connection.disconnect"), [])


class DescriptionTests(LiveTestCase):
    def test_described(self) -> None:
        """Every operation stands in the description of the API, with a summary and its answers."""
        groups = [ChannelGroup, ConnectionGroup, AppChannelGroup, AppConnectionGroup]
        paths = Description(groups).document["paths"]

        for path in ("/api/channels", "/api/messages", "/api/connections/{connectionId}", f"{ADMIN}/channels"):
            self.assertIn(path.replace("/demo", "/{appId}"), paths)
        spread = paths["/api/messages"]["post"]
        self.assertIn("200", spread["responses"])
        self.assertEqual(spread["x-required-right"], "any")
