"""Tests for apps, keys, namespaces, revocations and plans over HTTP, in :mod:`wsock.edges.http.admin`."""

from __future__ import annotations

from typing import Any

import jwt

from tests.key_pairs import ED_KEY, pem_pair
from tests.rest import RestAnswer, RestCase
from wsock.config import Config, Limits
from wsock.records import App, Role

APPS = "/api/admin/apps"


class AppsRestCase(RestCase):
    """A team with members of each role, and an app that its administrator made."""

    def setUp(self) -> None:
        super().setUp()
        roles = {"vera": Role.VIEWER, "dev": Role.DEVELOPER, "adam": Role.ADMIN}
        self.tokens = {name: self.member(name) for name in (*roles, "sam")}
        self.tokens["root"] = self.operator()
        self.team("t1", **roles)
        self.app: str = self.good("POST", APPS, {"name": "Chat"}, by="adam", status=201)["id"]

    def by(self, name: str, method: str, path: str, body: Any = None) -> RestAnswer:
        """What somebody is answered."""
        return self.ask(method, path, body, token=self.tokens[name])

    def good(self, method: str, path: str, body: Any = None, *, by: str = "dev", status: int = 200) -> Any:
        """The JSON of an answer that is good."""
        answer = self.by(by, method, path, body)
        self.assertEqual(answer.status, status, answer.body)
        return answer.json if answer.body else None

    @property
    def place(self) -> str:
        """The path of the app."""
        return f"{APPS}/{self.app}"

    def key(self, **values: Any) -> Any:
        """A new key, as it is answered."""
        body = {"name": "Key", "permissions": {"*": ["*"]}, **values}
        return self.good("POST", f"{self.place}/keys", body, status=201)

    def lets_in(self, credential: str) -> bool:
        """Whether the credential is good for the app now."""
        answer = self.ask("GET", "/api/channels", token=credential)
        self.assertIn(answer.status, (200, 401), answer.body)
        return answer.status == 200


class AppTests(AppsRestCase):
    """Apps over HTTP."""

    def test_made(self) -> None:
        """An app is answered with all that it has; nothing is set."""
        app = self.good("GET", self.place, by="vera")

        self.assertEqual(
            {name: app[name] for name in ("id", "name", "team", "plan", "isEnabled", "allowedOrigins", "version")},
            {
                "id": self.app,
                "name": "Chat",
                "team": "t1",
                "plan": "unlimited",
                "isEnabled": True,
                "allowedOrigins": ["*"],
                "version": 1,
            },
        )
        self.assertEqual(set(app["settings"].values()), {None})
        self.assertIn("historyTtlSeconds", app["settings"])

    def test_list(self) -> None:
        """A list has items and a cursor; it is of a team when that is asked for."""
        self.good("POST", APPS, {"name": "Second", "team": "t1"}, by="adam", status=201)
        page = self.good("GET", f"{APPS}?limit=1", by="vera")
        rest = self.good("GET", f"{APPS}?cursor={page['next'].replace('/', '%2F')}", by="vera")

        self.assertEqual((len(page["items"]), len(rest["items"]), rest["next"]), (1, 1, None))
        self.assertEqual([app["id"] for app in self.good("GET", f"{APPS}?team=demo", by="root")["items"]], ["demo"])
        self.assertEqual(self.good("GET", APPS, by="sam"), {"items": [], "next": None})
        self.assertEqual(len(self.good("GET", APPS, by="root")["items"]), 3)

    def test_changed(self) -> None:
        """PATCH changes what is given, null leaves a setting to the server, the version guards."""
        self.good("PATCH", self.place, {"settings": {"history": False, "userRate": {"events": 5, "burst": 20}}})

        body = {"name": "New", "settings": {"history": None, "messageBytes": 100}, "version": 2}
        app = self.good("PATCH", self.place, body)

        self.assertEqual((app["name"], app["version"]), ("New", 3))
        self.assertEqual(app["settings"]["userRate"], {"events": 5.0, "seconds": 1.0, "burst": 20})
        self.assertEqual((app["settings"]["history"], app["settings"]["messageBytes"]), (None, 100))
        self.assert_refused(self.by("dev", "PATCH", self.place, body), 409, "conflict")

    def test_wrong(self) -> None:
        """What is wrong is refused by the name of its field, before anything is changed."""
        for body, field in (
            ({"settings": {"hist": True}}, "hist"),
            ({"settings": {"messageBytes": 0}}, "settings.messageBytes"),
            ({"settings": {"userRate": {"events": 0}}}, "settings.userRate.events"),
            ({"settings": {"userRate": {"events": 1e7}}}, "settings.userRate.events"),
            ({"settings": {"userRate": {"events": 1, "burst": -1}}}, "settings.userRate.burst"),
            ({"settings": {"userRate": {"events": 1, "brust": 1}}}, "settings.userRate.brust"),
            ({"settings": {"userRate": {"events": 1, "seconds": 7200}}}, "settings.userRate"),
            ({"settings": {"slowConsumer": "wait"}}, "settings.slowConsumer"),
            ({"settings": []}, "settings"),
            ({"is_enabled": True}, "is_enabled"),
            ({"allowedOrigins": "https://a"}, "allowedOrigins"),
            ({"name": ""}, "name"),
        ):
            self.assert_refused(self.by("dev", "PATCH", self.place, body), 400, "bad_request", field)
        self.assertEqual(self.good("GET", self.place)["version"], 1)

    def test_beyond_the_server(self) -> None:
        """A setting beyond the server's names both."""
        answer = self.by("dev", "PATCH", self.place, {"settings": {"messageBytes": 65_537}})

        self.assert_refused(answer, 422, "limit_exceeded", "settings.messageBytes", "limits.message_bytes", "65536")

    def test_disabled(self) -> None:
        """Who disables an app locks its keys out, until it is enabled."""
        key = self.key()["key"]
        self.assertTrue(self.lets_in(key))
        self.good("PATCH", self.place, {"isEnabled": False})
        self.memory.clock.advance(1)
        answer = self.ask("GET", "/api/channels", token=key)
        self.assert_refused(answer, 403, "forbidden", self.app)

    def test_deleted(self) -> None:
        """A deleted app is gone with its keys."""
        key = self.key()["key"]
        self.assert_refused(self.by("dev", "DELETE", self.place), 403, "forbidden", "apps.delete")
        self.good("DELETE", self.place, by="adam", status=204)
        self.memory.clock.advance(1)

        self.assert_refused(self.by("adam", "GET", self.place), 404, "not_found")
        self.assertFalse(self.lets_in(key))

    def test_quota(self) -> None:
        """The plan of the team says how many apps it may have."""
        put = {"plan": "free"}
        self.assert_refused(self.by("adam", "PUT", "/api/admin/teams/t1/plan", put), 403, "forbidden")
        self.assertEqual(self.good("PUT", "/api/admin/teams/t1/plan", put, by="root")["plan"], "free")
        for _ in range(2):
            self.good("POST", APPS, {"name": "X"}, by="adam", status=201)

        self.assert_refused(self.by("adam", "POST", APPS, {"name": "X"}), 429, "quota_exceeded", "free", "3")

    def test_strangers(self) -> None:
        """To who is no member every path of the app is a path of no app."""
        key = self.key()["id"]
        namespace = self.good("POST", f"{self.place}/namespaces", {"pattern": "a*"}, status=201)["id"]
        revocation = self.good("POST", f"{self.place}/revocations", {"clientId": "ana"}, status=201)["id"]
        for method, path, body in (
            ("GET", "", None),
            ("PATCH", "", {"name": "X"}),
            ("DELETE", "", None),
            ("GET", "/keys", None),
            ("POST", "/keys", {"name": "X", "permissions": {}}),
            ("GET", f"/keys/{key}", None),
            ("PATCH", f"/keys/{key}", {"name": "X"}),
            ("DELETE", f"/keys/{key}", None),
            ("POST", f"/keys/{key}/rotate", {}),
            ("POST", f"/keys/{key}/retire", None),
            ("GET", "/namespaces", None),
            ("POST", "/namespaces", {"pattern": "x"}),
            ("GET", f"/namespaces/{namespace}", None),
            ("PATCH", f"/namespaces/{namespace}", {"pattern": "x"}),
            ("DELETE", f"/namespaces/{namespace}", None),
            ("GET", "/revocations", None),
            ("POST", "/revocations", {"token": "x"}),
            ("DELETE", f"/revocations/{revocation}", None),
        ):
            hidden = self.by("sam", method, self.place + path, body)
            nowhere = self.by("sam", method, f"{APPS}/none{path}", body)
            self.assertEqual(hidden.status, 404, (method, path, hidden.body))
            self.assertEqual(hidden.body.replace(self.app.encode(), b"none"), nowhere.body)
        self.assertEqual(self.ask("GET", self.place).status, 401)
        self.assertTrue(self.done(self.server.directory.find(App, self.app)))


class KeyTests(AppsRestCase):
    """Keys over HTTP."""

    def test_fixed_points(self) -> None:
        """A new key answers id, key and secret once; a JWT names it by its id; DELETE revokes it."""
        made = self.key()
        token = jwt.encode({"sub": "ana"}, made["secret"], "HS256", headers={"kid": made["id"]})

        self.assertTrue(self.lets_in(made["key"]))
        self.assertTrue(self.lets_in(token))
        for shown in (self.good("GET", f"{self.place}/keys/{made['id']}"), self.good("GET", f"{self.place}/keys")):
            text = repr(shown)
            for secret in (made["key"], made["secret"], "hash", "secret"):
                self.assertNotIn(secret, text)
        self.good("DELETE", f"{self.place}/keys/{made['id']}", status=204)
        self.memory.clock.advance(1)
        self.assertFalse(self.lets_in(made["key"]))
        self.assertFalse(self.lets_in(token))
        self.assertEqual(self.good("GET", f"{self.place}/keys/{made['id']}")["state"], "revoked")

    def test_another_apps_key(self) -> None:
        """A key acts on its own app only."""
        made = self.key()

        answer = self.ask("GET", "/api/channels", token=made["key"], headers={"X-App-Id": "demo"})

        self.assertEqual(answer.status, 403)

    def test_rotation(self) -> None:
        """Old and new are good side by side; the list shows which is used; the old one is retired."""
        old = self.key(permissions={"*": ["history"]})
        place = f"{self.place}/keys/{old['id']}"
        new = self.good("POST", f"{place}/rotate", {"overlapSeconds": 60}, status=201)
        self.assertEqual(new["permissions"], {"*": ["history"]})
        self.assertTrue(self.lets_in(old["key"]))
        self.assertTrue(self.lets_in(new["key"]))

        shown = self.good("GET", place)
        self.assertEqual((shown["state"], shown["replacedBy"], shown["safeToRetire"]), ("rotating", new["id"], False))
        self.memory.clock.advance(1)
        self.memory.clock.advance(1)
        self.assertIsNotNone(self.good("GET", place)["lastUsedAt"])

        self.assertEqual(self.good("POST", f"{place}/retire")["state"], "retired")
        self.memory.clock.advance(1)
        self.assertFalse(self.lets_in(old["key"]))
        self.assertTrue(self.lets_in(new["key"]))
        self.assert_refused(self.by("dev", "POST", f"{place}/rotate", {}), 409, "conflict", new["id"])

    def test_changed(self) -> None:
        """PATCH changes what is given, null takes away."""
        made = self.key(clientIds="u-*", issuer="i")
        place = f"{self.place}/keys/{made['id']}"

        shown = self.good("PATCH", place, {"name": "New", "clientIds": None, "permissions": {"a": ["publish"]}})

        self.assertEqual((shown["name"], shown["clientIds"], shown["issuer"]), ("New", None, "i"))
        self.assertEqual(shown["permissions"], {"a": ["publish"]})
        self.assert_refused(self.by("dev", "PATCH", place, {"name": "X", "version": 1}), 409, "conflict")

    def test_public_key(self) -> None:
        """With a public key there is no secret to show."""
        made = self.key(algorithm="EdDSA", publicKey=pem_pair(ED_KEY)[1])
        token = jwt.encode({"sub": "a"}, pem_pair(ED_KEY)[0], "EdDSA", headers={"kid": made["id"]})

        self.assertIsNone(made["secret"])
        self.assertTrue(self.lets_in(token))

    def test_wrong(self) -> None:
        """What is wrong is refused by the name of its field."""
        for values, field in (
            ({"permissions": {"*": ["write"]}}, "permissions"),
            ({"permissions": []}, "permissions"),
            ({"permissions": {"": ["*"]}}, "permissions"),
            ({"expiresAt": 1}, "expiresAt"),
            ({"jwksUrl": "http://id.example/", "issuer": "i"}, "jwksUrl"),
            ({"jwksUrl": "https://id.example/"}, "issuer"),
            ({"algorithm": "none"}, "algorithm"),
            ({"algorithm": "RS256"}, "publicKey"),
            ({"secret": "mine"}, "secret"),
        ):
            body = {"name": "Key", "permissions": {"*": ["*"]}, **values}
            self.assert_refused(self.by("dev", "POST", f"{self.place}/keys", body), 400, "bad_request", field)
        self.assertEqual(self.good("GET", f"{self.place}/keys")["items"], [])

    def test_roles(self) -> None:
        """A viewer sees no keys, a developer has them all."""
        self.assert_refused(self.by("vera", "GET", f"{self.place}/keys"), 403, "forbidden", "keys.read")
        self.assert_refused(
            self.by("vera", "POST", f"{self.place}/keys", {"name": "X", "permissions": {}}), 403, "forbidden"
        )

    def test_audit(self) -> None:
        """What was done with keys is recorded without their secrets."""
        made = self.key()
        self.good("DELETE", f"{self.place}/keys/{made['id']}", status=204)

        answer = self.by("adam", "GET", "/api/admin/audit?team=t1")

        self.assertEqual(answer.status, 200, answer.body)
        actions = [entry["action"] for entry in answer.json["items"]]
        self.assertEqual(actions[:2], ["key.revoke", "key.create"])
        self.assertNotIn(made["key"].encode(), answer.body)
        self.assertNotIn(made["secret"].encode(), answer.body)


class NamespaceTests(AppsRestCase):
    """Namespaces over HTTP."""

    def test_whole_life(self) -> None:
        """A namespace is made, listed, changed and deleted."""
        place = f"{self.place}/namespaces"
        made = self.good("POST", place, {"pattern": "room:*", "settings": {"history": False}}, status=201)
        self.assertEqual((made["pattern"], made["settings"]["history"], made["version"]), ("room:*", False, 1))
        self.assertEqual(self.good("GET", place, by="vera"), {"items": [made], "next": None})

        changed = self.good("PATCH", f"{place}/{made['id']}", {"settings": {"presence": False}, "version": 1})

        self.assertEqual((changed["settings"]["history"], changed["settings"]["presence"]), (False, False))
        self.assertEqual(self.good("GET", f"{place}/{made['id']}"), changed)
        self.good("DELETE", f"{place}/{made['id']}", status=204)
        self.assert_refused(self.by("dev", "GET", f"{place}/{made['id']}"), 404, "not_found", made["id"])

    def test_wrong(self) -> None:
        """What has no place in a namespace is refused, and a pattern is there once."""
        place = f"{self.place}/namespaces"
        self.assert_refused(self.by("dev", "POST", place, {"settings": {}}), 400, "bad_request", "pattern")
        body = {"pattern": "a", "settings": {"appRate": {"events": 1}}}
        self.assert_refused(self.by("dev", "POST", place, body), 400, "bad_request", "appRate")
        self.good("POST", place, {"pattern": "a"}, status=201)
        self.assert_refused(self.by("dev", "POST", place, {"pattern": "a"}), 409, "conflict")


class RevocationTests(AppsRestCase):
    """Revocations over HTTP."""

    def test_whole_life(self) -> None:
        """Who is revoked is not let in until that is lifted; others are."""
        made = self.key()
        token = jwt.encode({"sub": "ana", "jti": "t-1"}, made["secret"], "HS256", headers={"kid": made["id"]})
        other = jwt.encode({"sub": "ben", "jti": "t-2"}, made["secret"], "HS256", headers={"kid": made["id"]})
        place = f"{self.place}/revocations"
        for body, kind, value in (({"clientId": "ana"}, "client", "ana"), ({"token": "t-1"}, "token", "t-1")):
            self.assertTrue(self.lets_in(token))
            revocation = self.good("POST", place, body, status=201)
            self.assertEqual((revocation["kind"], revocation["value"], revocation["createdBy"]), (kind, value, "dev"))
            self.assertEqual(self.good("GET", place)["items"], [revocation])
            self.memory.clock.advance(1)
            self.assertFalse(self.lets_in(token))
            self.assertTrue(self.lets_in(other))
            self.good("DELETE", f"{place}/{revocation['id']}", status=204)
            self.memory.clock.advance(1)

    def test_wrong(self) -> None:
        """It takes one thing, of a kind that there is, not revoked yet."""
        place = f"{self.place}/revocations"
        for body in ({}, {"token": "a", "clientId": "b"}, {"token": None}):
            self.assert_refused(self.by("dev", "POST", place, body), 400, "bad_request", "token", "clientId")
        self.assert_refused(self.by("dev", "POST", place, {"jti": "a"}), 400, "bad_request", "jti")
        self.assert_refused(self.by("vera", "POST", place, {"token": "a"}), 403, "forbidden", "tokens.revoke")
        self.good("POST", place, {"token": "a"}, status=201)
        self.assert_refused(self.by("dev", "POST", place, {"token": "a"}), 409, "conflict")


class PlanTests(AppsRestCase):
    """Plans over HTTP."""

    def test_whole_life(self) -> None:
        """Everybody sees plans; operators make, change and delete them."""
        plans = self.good("GET", "/api/admin/plans", by="sam")
        self.assertEqual([plan["id"] for plan in plans["items"]], ["free", "pro", "unlimited"])
        self.assertEqual(set(plans["items"][2]["limits"].values()), {None})
        new = {"id": "gold", "name": "Gold", "limits": {"connections": 10, "apps": 2}}
        self.assert_refused(self.by("adam", "POST", "/api/admin/plans", new), 403, "forbidden", "operators")
        made = self.good("POST", "/api/admin/plans", new, by="root", status=201)
        self.assertEqual((made["limits"]["connections"], made["limits"]["channels"]), (10, None))

        change = {"limits": {"connections": None, "channels": 5}, "version": 1}
        changed = self.good("PATCH", "/api/admin/plans/gold", change, by="root")

        self.assertEqual((changed["limits"]["connections"], changed["limits"]["channels"]), (None, 5))
        self.assertEqual(changed["limits"]["apps"], 2)
        self.assertEqual(self.good("GET", "/api/admin/plans/gold", by="sam"), changed)
        self.assert_refused(self.by("adam", "PATCH", "/api/admin/plans/gold", {"name": "X"}), 403, "forbidden")
        self.assert_refused(self.by("adam", "DELETE", "/api/admin/plans/gold"), 403, "forbidden")
        self.good("DELETE", "/api/admin/plans/gold", by="root", status=204)
        self.assert_refused(self.by("root", "GET", "/api/admin/plans/gold"), 404, "not_found", "gold")

    def test_wrong(self) -> None:
        """A limit is a whole number that there is; a plan that somebody is on stays."""
        for limits, field in (({"connections": -1}, "limits.connections"), ({"users": 1}, "limits.users")):
            answer = self.by("root", "PATCH", "/api/admin/plans/pro", {"limits": limits})
            self.assert_refused(answer, 400, "bad_request", field)
        self.good("PATCH", self.place, {"plan": "pro"}, by="root")
        self.assert_refused(self.by("root", "DELETE", "/api/admin/plans/pro"), 409, "conflict", self.app)
        self.assert_refused(self.by("dev", "PATCH", self.place, {"plan": "free"}), 403, "forbidden", "plans.write")


class BoundsTests(AppsRestCase):
    """A server with limits of its own."""

    config = Config(limits=Limits(user_publish_rate=5.0, user_publish_burst=10))

    def test_rate(self) -> None:
        """No app gives itself more of a rate than the server allows."""
        answer = self.by("dev", "PATCH", self.place, {"settings": {"userRate": {"events": 6}}})

        self.assert_refused(answer, 422, "limit_exceeded", "settings.userRate", "limits.user_publish_rate")
        self.good("PATCH", self.place, {"settings": {"userRate": {"events": 5, "burst": 10}}})
