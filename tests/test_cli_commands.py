"""Tests for the commands of :mod:`wsock.cli` that ask for something and show it: what is asked, and what is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import jwt

from tests.cli_cases import NOW, SessionCase

AT = 1_767_225_600_123
APP = "/api/admin/apps/a"
TEAM = "/api/admin/teams/t"

REQUESTS: tuple[tuple[str, str, str, Any], ...] = (
    # app
    ("app list --team t", "GET", "/api/admin/apps?team=t&limit=100", None),
    ("app create Chat --team t --plan pro", "POST", "/api/admin/apps", {"name": "Chat", "team": "t", "plan": "pro"}),
    ("app create Chat", "POST", "/api/admin/apps", {"name": "Chat"}),
    ("app show a", "GET", APP, None),
    ("app update a --name B --disable", "PATCH", APP, {"name": "B", "isEnabled": False}),
    (
        "app update a --enable --plan free --origin x --origin y",
        "PATCH",
        APP,
        {"isEnabled": True, "plan": "free", "allowedOrigins": ["x", "y"]},
    ),
    ("app delete a --yes", "DELETE", APP, None),
    # key
    ("key list --app a", "GET", f"{APP}/keys?limit=100", None),
    ("key show k --app a", "GET", f"{APP}/keys/k", None),
    (
        "key update k --app a --name K --permission x=publish",
        "PATCH",
        f"{APP}/keys/k",
        {"name": "K", "permissions": {"x": ["publish"]}},
    ),
    (
        "key update k --app a --client-ids user-* --expires 1d",
        "PATCH",
        f"{APP}/keys/k",
        {"clientIds": "user-*", "expiresAt": int((NOW + 86_400) * 1000)},
    ),
    ("key retire k --app a --yes", "POST", f"{APP}/keys/k/retire", {}),
    ("key revoke k --app a --yes", "DELETE", f"{APP}/keys/k", None),
    # namespace
    ("namespace list --app a", "GET", f"{APP}/namespaces?limit=100", None),
    (
        "namespace create chat.* history=off --app a",
        "POST",
        f"{APP}/namespaces",
        {"pattern": "chat.*", "settings": {"history": False}},
    ),
    ("namespace update n --pattern x --app a", "PATCH", f"{APP}/namespaces/n", {"pattern": "x"}),
    ("namespace delete n --app a --yes", "DELETE", f"{APP}/namespaces/n", None),
    # revoke
    ("revoke token j --app a", "POST", f"{APP}/revocations", {"token": "j"}),
    (
        "revoke client c --app a --expires 1d",
        "POST",
        f"{APP}/revocations",
        {"clientId": "c", "expiresAt": int((NOW + 86_400) * 1000)},
    ),
    ("revoke list --app a", "GET", f"{APP}/revocations?limit=100", None),
    ("revoke lift r --app a", "DELETE", f"{APP}/revocations/r", None),
    # webhook
    ("webhook list --app a", "GET", f"{APP}/webhooks?limit=100", None),
    (
        "webhook create https://x.example --event presence.* --ordered --channels chat.* --app a",
        "POST",
        f"{APP}/webhooks",
        {"url": "https://x.example", "events": ["presence.*"], "ordered": True, "channels": "chat.*"},
    ),
    ("webhook show w --app a", "GET", f"{APP}/webhooks/w", None),
    (
        "webhook update w --disable --to https://y.example --app a",
        "PATCH",
        f"{APP}/webhooks/w",
        {"enabled": False, "url": "https://y.example"},
    ),
    ("webhook rotate w --overlap 1h --app a", "POST", f"{APP}/webhooks/w/rotate", {"overlapSeconds": 3600}),
    ("webhook delete w --app a --yes", "DELETE", f"{APP}/webhooks/w", None),
    ("webhook test w --app a", "POST", f"{APP}/webhooks/w/test", {}),
    ("webhook deliveries w --state dead --app a", "GET", f"{APP}/webhooks/w/deliveries?state=dead&limit=100", None),
    ("webhook redeliver w --delivery d --app a", "POST", f"{APP}/webhooks/w/redeliver", {"deliveryId": "d"}),
    # push
    (
        "push send Hi there --member b --member c --ttl 1h --urgency high --app a",
        "POST",
        f"{APP}/push/send",
        {"payload": {"title": "Hi", "body": "there", "ttl": 3600, "urgency": "high"}, "memberIds": ["b", "c"]},
    ),
    (
        'push send Hi --everyone --channel n --data {"x":1} --open https://a --collapse c --app a',
        "POST",
        f"{APP}/push/send",
        {
            "payload": {"title": "Hi", "url": "https://a", "collapse": "c", "data": {"x": 1}},
            "channel": "n",
            "broadcast": True,
        },
    ),
    ("push jobs --app a", "GET", f"{APP}/push/jobs?limit=100", None),
    ("push job j --app a", "GET", f"{APP}/push/jobs/j", None),
    ("push job j --cancel --app a", "POST", f"{APP}/push/jobs/j/cancel", {}),
    ("push rule list --app a", "GET", f"{APP}/push/rules?limit=100", None),
    ("push rule create chat:* --app a", "POST", f"{APP}/push/rules", {"pattern": "chat:*"}),
    ("push rule delete r --app a", "DELETE", f"{APP}/push/rules/r", None),
    ("push credentials web --app a", "PUT", f"{APP}/push/credentials/web", {}),
    (
        "push credentials web --subject mailto:a@b --app a",
        "PUT",
        f"{APP}/push/credentials/web",
        {"subject": "mailto:a@b"},
    ),
    ("push credentials delete fcm --yes --app a", "DELETE", f"{APP}/push/credentials/fcm", None),
    ("push credentials list --app a", "GET", f"{APP}/push/credentials?limit=100", None),
    # team
    ("team list", "GET", "/api/admin/teams?limit=100", None),
    ("team create Chat", "POST", "/api/admin/teams", {"name": "Chat"}),
    ("team show t", "GET", TEAM, None),
    ("team rename t B", "PATCH", TEAM, {"name": "B"}),
    ("team plan t pro", "PUT", f"{TEAM}/plan", {"plan": "pro"}),
    ("team delete t --yes", "DELETE", TEAM, None),
    ("team members t --limit 5", "GET", f"{TEAM}/members?limit=5", None),
    ("team role t m admin", "PATCH", f"{TEAM}/members/m", {"role": "admin"}),
    ("team remove t m --yes", "DELETE", f"{TEAM}/members/m", None),
    ("team invite t a@b --role viewer", "POST", f"{TEAM}/invitations", {"email": "a@b", "role": "viewer"}),
    ("team invitations t", "GET", f"{TEAM}/invitations?limit=100", None),
    ("team uninvite t i", "DELETE", f"{TEAM}/invitations/i", None),
    # plan
    ("plan list", "GET", "/api/admin/plans?limit=100", None),
    ("plan show p", "GET", "/api/admin/plans/p", None),
    (
        "plan create p message-bytes=5 apps=",
        "POST",
        "/api/admin/plans",
        {"id": "p", "name": "p", "limits": {"messageBytes": 5, "apps": None}},
    ),
    ("plan update p --name P", "PATCH", "/api/admin/plans/p", {"name": "P"}),
    ("plan delete p --yes", "DELETE", "/api/admin/plans/p", None),
    # analytics and audit
    (
        "analytics a --span day --since 2026-01-01 --until 2026-01-02",
        "GET",
        f"{APP}/analytics?span=day&since=1767225600000&until=1767312000000&limit=100",
        None,
    ),
    (
        "audit --team t --app a --actor c --since 2026-01-01",
        "GET",
        "/api/admin/audit?team=t&app=a&actor=c&since=1767225600000&limit=100",
        None,
    ),
    # tokens
    ("token list", "GET", "/api/admin/tokens?limit=100", None),
    ("token revoke k --yes", "DELETE", "/api/admin/tokens/k", None),
    # channels and connections
    ("channels --app a --prefix c", "GET", f"{APP}/channels?prefix=c&limit=100", None),
    ("channel c/d --app a", "GET", f"{APP}/channels/c%2Fd", None),
    ("connections --app a --client c --channel d", "GET", f"{APP}/connections?clientId=c&channel=d&limit=100", None),
    ("connections x --app a", "GET", f"{APP}/connections/x", None),
    ("disconnect x --app a --reason why", "DELETE", f"{APP}/connections/x?reason=why", None),
)


class RequestTests(SessionCase):
    """What commands ask."""

    def test_requests(self) -> None:
        """Each command makes one request, in people's and in programs' form."""
        content: dict[str, Any] = {"items": [], "next": None, "id": "x"}
        for line, method, path, body in REQUESTS:
            self.server.answers(method, path.partition("?")[0], content)
            self.server.asked.clear()

            self.told(*line.split())
            shown = self.json(*line.split())

            self.assertEqual(
                [(one.method, one.path, one.body) for one in self.server.asked], [(method, path, body)] * 2
            )
            self.assertEqual(shown, content, line)

    def test_refused(self) -> None:
        """What the server refuses is said on standard error, with nothing on standard output."""
        self.server.refuses("GET", APP, 404, "not_found", "there is no app with the id 'a'")

        result = self.ask("app", "show", "a", "--json")

        self.assertEqual((result.exit_code, result.stdout), (1, ""))
        self.assertEqual(result.stderr, "Error: there is no app with the id 'a' (not_found)\n")

    def test_asks_before_it_deletes(self) -> None:
        """Where nobody can be asked, --yes is needed, and nothing is done without."""
        for line in (
            "app delete a",
            "team delete t",
            "plan delete p",
            "key revoke k --app a",
            "disconnect --client c --app a",
        ):
            self.assertIn("--yes", self.refused(2, *line.split()), line)

        self.assertEqual(self.server.asked, [])

    def test_nothing_to_change(self) -> None:
        """A change of nothing is a mistake."""
        for line in ("app update a", "key update k --app a", "namespace update n --app a", "plan update p"):
            self.assertIn("nothing to change", self.refused(2, *line.split()), line)

    def test_lists_in_parts(self) -> None:
        """A list that goes on is put together, and that there is more is said to people."""
        self.server.answers("GET", "/api/admin/teams", {"items": [{"id": "t1", "name": "A"}], "next": "c"})

        result = self.ask("team", "list", "--limit", "2")

        self.assertEqual(len(result.stdout.splitlines()), 3)
        self.assertIn("--limit 0", result.stderr)
        self.assertEqual(self.json("team", "list", "--limit", "1")["next"], "c")

    def test_empty_list(self) -> None:
        """That there is nothing is said to people, apart from the answer."""
        self.server.answers("GET", "/api/admin/teams", {"items": [], "next": None})

        result = self.ask("team", "list")

        self.assertEqual((result.stdout, result.stderr), ("", "there are none\n"))


class SettingsTests(SessionCase):
    """Settings of apps, namespaces and plans."""

    def test_shown(self) -> None:
        """Those that are set are shown."""
        self.server.answers(
            "GET",
            APP,
            {
                "id": "a",
                "settings": {
                    "history": False,
                    "userRate": {"events": 60, "seconds": 60, "burst": 10},
                    "presence": None,
                },
            },
        )

        self.assertEqual(
            self.told("app", "settings", "a").splitlines(), ["history    no", "user rate  60 in 60 s, 10 at once"]
        )
        self.assertEqual(self.json("app", "settings", "a")["history"], False)

    def test_in_other_answers(self) -> None:
        """Where settings stand in an answer, people are shown those that are set."""
        settings = {"history": False, "historyTtlSeconds": None, "appRate": {"events": 5, "seconds": 1, "burst": 0}}
        self.server.answers("GET", APP, {"id": "a", "settings": settings})
        self.server.answers("GET", f"{APP}/namespaces", {"items": [{"id": "n", "settings": settings}], "next": None})

        self.assertEqual(
            self.told("app", "show", "a").splitlines(),
            ["id                 a", "settings history   no", "settings app rate  5 in 1 s"],
        )
        self.assertIn("history no; app rate 5 in 1 s", self.told("namespace", "list", "--app", "a"))
        self.assertEqual(self.json("app", "show", "a")["settings"], settings)

    def test_none_set(self) -> None:
        """Where none is set that is said."""
        self.server.answers("GET", APP, {"id": "a", "settings": {}})

        self.assertIn("none is set", self.told("app", "settings", "a"))

    def test_changed(self) -> None:
        """Only what is named is sent; what has no value is left to the server again."""
        changes = {"settings": {"history": False, "messageBytes": None}}
        for line, place, body in (
            ("app settings a history=off message-bytes=", APP, changes),
            ("namespace update n history=off message-bytes= --app a", f"{APP}/namespaces/n", changes),
            ("plan update p apps=5 members=", "/api/admin/plans/p", {"limits": {"apps": 5, "members": None}}),
        ):
            self.server.answers("PATCH", place, {"id": "x", "settings": {"history": False}})
            self.told(*line.split())
            asked = self.server.asked.pop()
            self.assertEqual((asked.method, asked.path, asked.body), ("PATCH", place, body))

        self.assertEqual(self.server.asked, [])


class SecretTests(SessionCase):
    """What is shown once."""

    def setUp(self) -> None:
        super().setUp()
        made = {"id": "k", "name": "K", "key": "wsk_1", "secret": "sec_1"}
        self.server.answers("POST", f"{APP}/keys", made, 201)
        self.server.answers("POST", f"{APP}/keys/k/rotate", made, 201)

    def test_key(self) -> None:
        """A new key is marked as shown once; programs get it as it is."""
        pem = Path(self.mktemp())
        pem.write_text("-----BEGIN PUBLIC KEY-----")
        line = ("key", "create", "K", "--app", "a", "--permission", "*=*", "--expires", "1d", "--client-ids", "*")
        more = ("--algorithm", "RS256", "--public-key", str(pem), "--issuer", "i", "--audience", "u")

        result = self.ask(*line, *more)

        self.assertEqual(result.exit_code, 0, result.output)
        self.assertIn("API key         wsk_1\nsigning secret  sec_1\n", result.stdout)
        self.assertIn("This is shown once", result.stderr)
        body = self.server.asked[0].body
        self.assertEqual(body["permissions"], {"*": ["*"]})
        self.assertEqual((body["algorithm"], body["publicKey"]), ("RS256", "-----BEGIN PUBLIC KEY-----"))
        self.assertEqual((body["issuer"], body["audience"]), ("i", "u"))
        self.assertEqual(self.json("key", "create", "K", "--app", "a", "--permission", "*")["key"], "wsk_1")

    def test_rotation(self) -> None:
        """So is the successor of a key."""
        self.assertIn("wsk_1", self.told("key", "rotate", "k", "--app", "a", "--overlap", "2h"))

        self.assertEqual(self.server.asked[0].body, {"overlapSeconds": 7200})

    def test_access_token(self) -> None:
        """So is an access token, which is asked for as limited as is wished."""
        self.server.answers("POST", "/api/admin/tokens", {"id": "tok_1", "name": "ci", "token": "wst_1"}, 201)

        text = self.told(
            "token", "create", "ci", "--role", "viewer", "--team", "t", "--permission", "apps.read", "--expires", "1d"
        )

        self.assertIn("token  wst_1", text)
        self.assertEqual(
            self.server.asked[0].body,
            {
                "name": "ci",
                "role": "viewer",
                "team": "t",
                "permissions": ["apps.read"],
                "expiresAt": int((NOW + 86_400) * 1000),
            },
        )


class SignTests(SessionCase):
    """``wsock token sign``."""

    SECRET = "a-secret-of-the-tests-with-256-bits-or-more"

    def claims(self, text: str) -> dict[str, Any]:
        """What a JWT says, if this secret has signed it."""
        self.assertEqual(jwt.get_unverified_header(text)["kid"], "k")
        options: Any = {"verify_exp": False, "verify_iat": False}
        claims: dict[str, Any] = jwt.decode(text, self.SECRET, algorithms=["HS256"], options=options)
        return claims

    def test_by_input(self) -> None:
        """The secret is a line of standard input; the JWT holds what was asked for, and an id to revoke it by."""
        text = self.told(
            "token", "sign", "--key-id", "k", "--sub", "ana", "--permission", "chat=publish", "--claim", "n=1",
            input=f"{self.SECRET}\n",
        )  # fmt: skip

        claims = self.claims(text.strip())
        self.assertEqual((claims["iat"], claims["exp"]), (NOW, NOW + 3600))
        self.assertEqual((claims["sub"], claims["permissions"], claims["n"]), ("ana", {"chat": ["publish"]}, 1))
        self.assertTrue(claims["jti"])
        self.assertEqual(self.server.asked, [])

    def test_by_variable(self) -> None:
        """Or it is in the environment."""
        shown = self.json("token", "sign", "--key-id", "k", "--expires", "5m", WSOCK_SIGNING_SECRET=self.SECRET)

        self.assertEqual(self.claims(shown["token"]), shown["claims"])
        self.assertNotIn("sub", shown["claims"])

    def test_wrong_claim(self) -> None:
        """A claim without a name is refused; the secret is not shown."""
        text = self.refused(2, "token", "sign", "--key-id", "k", "--claim", "x", WSOCK_SIGNING_SECRET=self.SECRET)

        self.assertIn("NAME=VALUE", text)
        self.assertNotIn(self.SECRET, text)


class ChannelTests(SessionCase):
    """Channels and connections, as an administrator and with an API key."""

    def test_publish(self) -> None:
        """Data is JSON if it is that, else text; it may come from standard input."""
        receipt = {"id": "m", "channel": "c", "timestamp": AT, "epoch": "e", "sequence": 4, "duplicate": False}
        self.server.answers("POST", f"{APP}/channels/c/messages", receipt)

        self.assertIn("published m as c 4 at 2026-01-01", self.told("publish", "c", '{"a": 1}', "--app", "a"))
        self.told("publish", "c", "hello", "--app", "a", "--id", "m", "--transient")
        self.told("publish", "c", "-", "--app", "a", input="[1]\n")
        self.told("publish", "c", "12", "--text", "--app", "a")
        self.told("publish", "--app", "a", "c", "--", "-1")

        self.assertEqual(
            [asked.body for asked in self.server.asked],
            [
                {"data": {"a": 1}},
                {"data": "hello", "id": "m", "persist": False},
                {"data": [1]},
                {"data": "12"},
                {"data": -1},
            ],
        )

    def test_with_a_key(self) -> None:
        """With an API key the app's own part of the API is asked, with the app if it was named."""
        self.server.answers(
            "GET", "/api/channels", {"items": [{"channel": "c", "subscribers": 2, "members": 1}], "next": None}
        )
        self.server.answers("GET", "/api/channels/c/presence", {"channel": "c", "members": [], "total": 0})

        [_, line] = self.told("channels", WSOCK_KEY="wsk_1").splitlines()
        self.assertEqual(line.split(), ["c", "2", "1"])
        self.told("presence", "c", "--app", "a", "--key-file", "-", input="wsk_2\n")

        first, second = self.server.asked
        self.assertEqual((first.token, "X-App-Id" in first.headers), ("wsk_1", False))
        self.assertEqual((second.token, second.headers["X-App-Id"]), ("wsk_2", "a"))

    def test_presence(self) -> None:
        """Members are shown with their data."""
        members = [{"clientId": "ana", "data": {"s": "ü\x1b"}, "joinedAt": AT}]
        self.server.answers("GET", f"{APP}/channels/c/presence", {"channel": "c", "members": members, "total": 1})

        [_, line] = self.told("presence", "c", "--app", "a").splitlines()

        self.assertEqual(line, 'ana     2026-01-01 00:00:00Z  {"s": "ü\\u001b"}')
        self.assertEqual(self.json("presence", "c", "--app", "a")["members"], members)

    def test_history(self) -> None:
        """The past is read page by page, from one timestamp to the next."""

        def page(*ats: int, more: bool) -> dict[str, Any]:
            found = [
                {"id": f"m{at}", "channel": "c", "data": at, "publisherId": "p", "timestamp": AT + at, "sequence": at}
                for at in ats
            ]
            return {"channel": "c", "messages": found, "hasMore": more}

        place = f"{APP}/channels/c/messages"
        self.server.answers("GET", place, page(9, 8, more=True))
        self.server.answers("GET", place, page(7, more=False))

        lines = self.told("history", "c", "--app", "a", "--limit", "0").splitlines()

        self.assertEqual([line.split()[-1] for line in lines[1:]], ["9", "8", "7"])
        self.assertEqual(self.server.asked[1].path, f"{place}?limit=1000&direction=backward&before={AT + 8}")

    def test_history_in_part(self) -> None:
        """With a limit and bounds that many are asked for, and that there is more is said."""
        place = f"{APP}/channels/c/messages"
        message = {"id": "m", "channel": "c", "data": 1, "publisherId": "p", "timestamp": AT, "sequence": 1}
        self.server.answers("GET", place, {"channel": "c", "messages": [message, message], "hasMore": True})

        shown = self.ask("history", "c", "--app", "a", "--forward", "--limit", "2", "--after", "2026-01-01")
        self.assertIn("there are more", shown.stderr)
        path = f"{place}?limit=2&direction=forward&after=1767225600000"
        self.assertEqual(self.server.asked[-1].path, path)
        self.assertTrue(self.json("history", "c", "--app", "a", "--limit", "2")["hasMore"])

    def test_disconnect_client(self) -> None:
        """All connections of a client are ended, as far as nodes answer."""
        self.server.answers("POST", f"{APP}/connections/disconnect", {"disconnected": 2, "isComplete": False})

        result = self.ask("disconnect", "--client", "c", "--reason", "r", "--yes", "--app", "a")

        self.assertEqual(result.stdout, "ended 2 of c\n")
        self.assertIn("did not answer", result.stderr)
        self.assertEqual(self.server.asked[0].body, {"clientId": "c", "reason": "r"})

    def test_disconnect_what(self) -> None:
        """It takes one thing to disconnect, and a login for all of a client."""
        self.refused(2, "disconnect", "--app", "a")
        self.refused(2, "disconnect", "x", "--client", "c", "--app", "a")
        self.assertIn("WSOCK_KEY", self.refused(2, "disconnect", "--client", "c", "--yes", WSOCK_KEY="k"))

    def test_incomplete(self) -> None:
        """That a node did not answer is said to people, and stands in the answer for programs."""
        self.server.answers("GET", f"{APP}/channels", {"items": [], "next": None, "isComplete": False})

        self.assertIn("did not answer", self.ask("channels", "--app", "a").stderr)
        self.assertEqual(self.json("channels", "--app", "a")["isComplete"], False)


class UsageTests(SessionCase):
    """``wsock usage`` and ``wsock analytics``."""

    USAGE: ClassVar[dict[str, Any]] = {
        "id": "a",
        "name": "Chat",
        "plan": {"id": "free", "name": "Free"},
        "period": {"start": 1_793_491_200_000, "end": 1_796_083_200_000},
        "metrics": {
            "connections": {"used": 12, "limit": 100, "percent": 12.0},
            "messagesPerMonth": {"used": 1234, "limit": None, "percent": None},
        },
        "connections": {"now": 12, "peak": 40},
        "messages": {"today": 7, "month": 1234},
        "channels": 3,
    }

    def test_app(self) -> None:
        """What is used stands beside its limit; without a limit there is a hyphen."""
        self.server.answers("GET", f"{APP}/usage", self.USAGE)

        text = self.told("usage", "a")

        self.assertIn("Chat (a), plan Free, 2026-11-01 00:00:00Z to 2026-12-01 00:00:00Z", text)
        self.assertIn("connections            12    100       12\nmessages per month  1,234      -        -\n", text)
        self.assertIn("connections: 12 now, 40 at most this month", text)
        self.assertEqual(self.json("usage", "a"), self.USAGE)

    def test_team(self) -> None:
        """For a team its apps are listed."""
        self.server.answers("GET", f"{TEAM}/usage", {**self.USAGE, "id": "t", "apps": [self.USAGE]})

        self.assertEqual(
            self.told("usage", "--team", "t").splitlines()[-1].split(), ["a", "Chat", "free", "12", "7", "1,234", "3"]
        )

    def test_analytics(self) -> None:
        """Each part of time is a line; what was counted by name is named."""
        part = {
            "at": AT,
            "messagesIn": 5,
            "latency": {"p50": 1.04, "p99": 9.96},
            "closes": {"normal": 2},
            "refused": {},
        }
        self.server.answers("GET", f"{APP}/analytics", {"items": [part, {"at": AT, "latency": None}], "next": None})

        _, first, second = self.told("analytics", "a").splitlines()

        self.assertIn("1.0 10.0  normal 2  -", first)
        self.assertEqual(second.split()[2:], ["-"] * 11)


class TeamTests(SessionCase):
    """What is asked for in the team commands."""

    def test_join(self) -> None:
        """The token of an invitation is a line of standard input."""
        self.server.answers("POST", "/api/auth/invitations/join", {"team": "t", "account": "a", "role": "viewer"})

        self.told("team", "join", input="wsi_1\n")

        self.assertEqual(self.server.asked[0].body, {"token": "wsi_1"})

    def test_unknown_role(self) -> None:
        """A role that there is not is refused here."""
        self.assertIn("viewer", self.refused(2, "team", "role", "t", "m", "king"))


class JsonTests(SessionCase):
    """JSON for programs."""

    def test_ascii(self) -> None:
        """It goes through any pipe: what is not ASCII is escaped, and says the same."""
        self.server.answers("GET", APP, {"id": "a", "name": "聊\x9b"})

        text = self.told("app", "show", "a", "--json")

        self.assertTrue(text.isascii())
        self.assertEqual(json.loads(text)["name"], "聊\x9b")


class PushTests(SessionCase):
    """``wsock push``, where it does more than ask and show."""

    def test_devices(self) -> None:
        """Devices are listed from all parts of the list, up to a number."""
        one = {"subscriptionId": "sub_1", "memberId": "bob", "platform": "fcm", "channels": ["a", "b"], "updatedAt": AT}
        self.server.answers("GET", f"{APP}/push/subscriptions", {"subscriptions": [one], "total": 2, "next": "c"})
        self.server.answers("GET", f"{APP}/push/subscriptions", {"subscriptions": [one], "total": 2, "next": None})

        text = self.told("push", "devices", "--app", "a", "--member", "bob", "--limit", "2")

        self.assertEqual(text.count("sub_1"), 2)
        self.assertIn("a, b", text)
        self.assertEqual(
            [asked.path.partition("?")[2] for asked in self.server.asked],
            ["memberId=bob&limit=2", "memberId=bob&cursor=c&limit=1"],
        )

    def test_forgets(self) -> None:
        """A device, or those of a member, are forgotten; one of the two has to be said."""
        self.server.answers("DELETE", f"{APP}/push/subscriptions/d", {"deleted": True})
        self.server.answers("POST", f"{APP}/push/unregister", {"removed": 3})

        self.assertIn("forgot d", self.told("push", "forget", "d", "--app", "a"))
        self.assertIn("forgot 3", self.told("push", "forget", "--member", "bob", "--app", "a"))
        self.assertIn("either", self.refused(2, "push", "forget", "--app", "a"))
        self.assertIn("either", self.refused(2, "push", "forget", "d", "--member", "b", "--app", "a"))

    def test_sent(self) -> None:
        """What became of a push is shown for each device, and what goes on later."""
        result = {"subscriptionId": "sub_1", "memberId": "bob", "platform": "fcm", "success": False, "error": "no"}
        answer = {"sent": 1, "failed": 1, "results": [result], "queued": 5, "jobId": "job_1"}
        self.server.answers("POST", f"{APP}/push/send", answer)

        text = self.told("push", "send", "Hi", "--everyone", "--app", "a")

        self.assertIn("sub_1", text)
        self.assertIn("sent 1, failed 1; 5 go on as job_1", text)
        self.assertIn("for whom", self.refused(2, "push", "send", "Hi", "--app", "a"))

    def test_stats(self) -> None:
        """The numbers are shown without what is around them."""
        self.server.answers("GET", f"{APP}/push/stats", {"stats": {"sent": 7}})
        self.assertEqual(self.json("push", "stats", "--app", "a"), {"sent": 7})

    def test_credentials_from_files(self) -> None:
        """Secrets are read from files, never from arguments."""
        account, key, junk = (self.home / name for name in ("account.json", "key.p8", "junk"))
        self.home.mkdir(exist_ok=True)
        account.write_text('{"project_id": "p"}')
        key.write_text("PEM")
        junk.write_bytes(b"\xff")
        for platform in ("fcm", "apns"):
            answer = {"platform": platform, "details": {"topic": "t"}, "createdAt": AT, "version": 1}
            self.server.answers("PUT", f"{APP}/push/credentials/{platform}", answer)
        names = ("--key-id", "K", "--team-id", "T", "--topic", "t", "--app", "a")

        self.told("push", "credentials", "fcm", str(account), "--app", "a")
        self.assertIn("topic", self.told("push", "credentials", "apns", str(key), *names, "--sandbox"))

        self.assertEqual(self.server.asked[0].body, {"serviceAccount": {"project_id": "p"}})
        self.assertEqual(
            self.server.asked[1].body,
            {"privateKey": "PEM", "keyId": "K", "teamId": "T", "topic": "t", "environment": "sandbox"},
        )
        self.assertIn("no JSON", self.refused(2, "push", "credentials", "fcm", str(junk), "--app", "a"))
        self.assertIn("no .p8", self.refused(2, "push", "credentials", "apns", str(junk), *names))
