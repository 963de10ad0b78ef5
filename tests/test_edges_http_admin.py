"""Tests for the modules of :mod:`wsock.edges.http.admin`: accounts, one's own, teams, access tokens, the audit log."""

from __future__ import annotations

from typing import Any

from tests.accounts import PASSWORD
from tests.rest import RestAnswer, RestCase
from wsock.records import Role


class AdminCase(RestCase):
    def setUp(self) -> None:
        super().setUp()
        self.op = self.operator()
        self.ana, self.ben = self.member("ana"), self.member("ben")
        self.team("t", ana=Role.OWNER, ben=Role.VIEWER)

    def items(self, path: str, token: str) -> list[dict[str, Any]]:
        """All of a list, a thing at a time."""
        found: list[dict[str, Any]] = []
        cursor = ""
        while True:
            answer = self.ask("GET", f"{path}{'&' if '?' in path else '?'}limit=1{cursor}", token=token)
            self.assertEqual((answer.status, set(answer.json)), (200, {"items", "next"}), answer.body)
            found += answer.json["items"]
            if answer.json["next"] is None:
                return found
            cursor = f"&cursor={answer.json['next']}"


class AccountTests(AdminCase):
    path = "/api/admin/accounts"

    def test_list(self) -> None:
        """Operators see all accounts, part by part, without what nobody is to see."""
        found = self.items(self.path, self.op)

        self.assertEqual([account["id"] for account in found], ["admin", "ana", "ben"])
        fields = {"id", "email", "name", "createdAt", "isEnabled", "isOperator", "hasTotp", "version"}
        self.assertEqual(set(found[0]), fields)
        self.assert_refused(self.ask("GET", self.path, token=self.ana), 403, "forbidden")

    def test_one(self) -> None:
        """Everybody sees themselves, operators everybody."""
        self.assertEqual(self.ask("GET", f"{self.path}/ana", token=self.ana).json["email"], "ana@example.org")
        self.assertEqual(self.ask("GET", f"{self.path}/ana", token=self.op).status, 200)
        self.assert_refused(self.ask("GET", f"{self.path}/ben", token=self.ana), 403, "forbidden")
        self.assert_refused(self.ask("GET", f"{self.path}/x", token=self.op), 404, "not_found", "'x'")

    def test_disable(self) -> None:
        """A disabled account is out at once, and comes in again when it is enabled."""
        changed = self.ask("PATCH", f"{self.path}/ana", {"isEnabled": False}, token=self.op)

        self.assertEqual((changed.status, changed.json["isEnabled"]), (200, False))
        self.assert_refused(self.ask("GET", "/api/auth/me", token=self.ana), 401, "unauthorized")
        login = {"email": "ana@example.org", "password": PASSWORD}
        self.assert_refused(self.ask("POST", "/api/auth/login", login), 403, "forbidden")
        self.ask("PATCH", f"{self.path}/ana", {"isEnabled": True}, token=self.op)
        self.assertEqual(self.ask("POST", "/api/auth/login", login).status, 200)

    def test_change(self) -> None:
        """Several changes in one, of the version that was read."""
        both = {"isEnabled": True, "isOperator": True, "version": 1}
        changed = self.ask("PATCH", f"{self.path}/ana", both, token=self.op)

        self.assertEqual((changed.json["isOperator"], changed.json["version"]), (True, 3))
        self.assert_refused(self.ask("PATCH", f"{self.path}/ana", both, token=self.op), 409, "conflict", "version")

    def test_bad_changes(self) -> None:
        """Nothing to change is refused, as is locking oneself out."""
        self.assert_refused(self.ask("PATCH", f"{self.path}/ana", {}, token=self.op), 400, "bad_request", "isEnabled")
        own = self.ask("PATCH", f"{self.path}/admin", {"isEnabled": False}, token=self.op)
        self.assert_refused(own, 409, "conflict")

    def test_delete(self) -> None:
        """A deleted account is gone with its sessions; the last owner of a team stays."""
        self.assertEqual(self.ask("DELETE", f"{self.path}/ben", token=self.op).status, 204)

        self.assert_refused(self.ask("GET", "/api/auth/me", token=self.ben), 401, "unauthorized")
        self.assert_refused(self.ask("DELETE", f"{self.path}/ana", token=self.op), 409, "conflict", "owner")


class MeTests(AdminCase):
    def test_rename(self) -> None:
        """One's name is changed, of the version that was read."""
        renamed = self.ask("PATCH", "/api/auth/me", {"name": " Ana B. ", "version": 1}, token=self.ana)
        again = self.ask("PATCH", "/api/auth/me", {"name": "x", "version": 1}, token=self.ana)

        self.assertEqual((renamed.json["name"], renamed.json["version"]), ("Ana B.", 2))
        self.assert_refused(again, 409, "conflict")
        self.assert_refused(
            self.ask("PATCH", "/api/auth/me", {"name": " "}, token=self.ana), 400, "bad_request", "'name'"
        )

    def test_password(self) -> None:
        """With another password all sessions end, and one goes on as a new one."""
        other = self.session(self.done(self.server.directory.account_by_email("ana@example.org")))
        self.clock.advance(0.01)
        body = {"password": PASSWORD, "newPassword": "staple battery horse"}
        changed = self.ask("POST", "/api/auth/me/password", body, token=self.ana)

        self.assertEqual(changed.status, 200)
        for token in (self.ana, other):
            self.assert_refused(self.ask("GET", "/api/auth/me", token=token), 401, "unauthorized")
        self.assertEqual(self.ask("GET", "/api/auth/me", token=changed.json["token"]).status, 200)

    def test_wrong_password(self) -> None:
        """It takes the one so far, and a good one."""
        wrong = {"password": "x", "newPassword": "staple battery horse"}
        short = {"password": PASSWORD, "newPassword": "short"}

        self.assert_refused(self.ask("POST", "/api/auth/me/password", wrong, token=self.ana), 401, "unauthorized")
        self.assert_refused(self.ask("POST", "/api/auth/me/password", short, token=self.ana), 400, "bad_request")

    def test_sessions(self) -> None:
        """One sees one's own sessions, and ends them."""
        answer = self.ask("POST", "/api/auth/login", {"email": "ana@example.org", "password": PASSWORD})
        other = answer.json["token"]
        found = {session["isCurrent"]: session for session in self.items("/api/auth/me/sessions", self.ana)}

        self.assertEqual(set(found), {True, False})
        self.assertEqual(found[False]["ip"], "192.0.2.7")
        path = f"/api/auth/me/sessions/{found[False]['id']}"
        self.assert_refused(self.ask("DELETE", path, token=self.ben), 404, "not_found")
        self.assertEqual(self.ask("DELETE", path, token=self.ana).status, 204)
        self.assert_refused(self.ask("GET", "/api/auth/me", token=other), 401, "unauthorized")
        self.assertEqual(self.ask("GET", "/api/auth/me", token=self.ana).status, 200)

    def test_totp(self) -> None:
        """Taking a second factor out of use takes the password."""
        wrong = self.ask("DELETE", "/api/auth/me/totp", {"password": "x"}, token=self.ana)

        self.assert_refused(wrong, 401, "unauthorized")
        self.assertEqual(self.ask("DELETE", "/api/auth/me/totp", {"password": PASSWORD}, token=self.ana).status, 204)


class TeamTests(AdminCase):
    path = "/api/admin/teams"

    def test_list(self) -> None:
        """One sees one's own teams with one's role in each, operators all."""
        self.team("u", ben=Role.ADMIN)

        self.assertEqual(
            [(team["id"], team["role"]) for team in self.items(self.path, self.ben)], [("t", "viewer"), ("u", "admin")]
        )
        self.assertEqual(
            [(team["id"], team["role"]) for team in self.items(self.path, self.op)],
            [("demo", "owner"), ("t", "owner"), ("u", "owner")],
        )

    def test_create(self) -> None:
        """A new team is its maker's; where sign-up is closed only operators make one."""
        made = self.ask("POST", self.path, {"name": "Chat"}, token=self.op)

        self.assertEqual((made.status, made.json["name"], made.json["role"]), (201, "Chat", "owner"))
        self.assertEqual(set(made.json), {"id", "name", "createdAt", "version", "role"})
        self.assert_refused(self.ask("POST", self.path, {"name": "Chat"}, token=self.ana), 403, "forbidden")

    def test_change(self) -> None:
        """A team gets another name, of the version that was read."""
        renamed = self.ask("PATCH", f"{self.path}/t", {"name": "New", "version": 1}, token=self.ana)

        self.assertEqual((renamed.json["name"], renamed.json["version"]), ("New", 2))
        again = self.ask("PATCH", f"{self.path}/t", {"name": "New", "version": 1}, token=self.ana)
        self.assert_refused(again, 409, "conflict")
        self.assert_refused(
            self.ask("PATCH", f"{self.path}/t", {"name": "x"}, token=self.ben), 403, "forbidden", "admin"
        )

    def test_others(self) -> None:
        """Who is no member is told that there is no such team, whatever they try."""
        stranger = self.member("eve")
        for method, path, body in (
            ("GET", "", None),
            ("PATCH", "", {"name": "x"}),
            ("DELETE", "", None),
            ("GET", "/members", None),
            ("PATCH", "/members/ben", {"role": "owner"}),
            ("DELETE", "/members/ben", None),
            ("GET", "/invitations", None),
            ("POST", "/invitations", {"email": "x@example.org"}),
            ("DELETE", "/invitations/x", None),
        ):
            self.assert_refused(self.ask(method, f"{self.path}/t{path}", body, token=stranger), 404, "not_found")

    def test_delete(self) -> None:
        """A deleted team is gone."""
        self.assertEqual(self.ask("DELETE", f"{self.path}/t", token=self.ana).status, 204)

        self.assert_refused(self.ask("GET", f"{self.path}/t", token=self.ana), 404, "not_found")

    def test_members(self) -> None:
        """Members are seen with their names, get other roles, and leave."""
        found = self.items(f"{self.path}/t/members", self.ben)
        self.assertEqual([(one["id"], one["role"]) for one in found], [("ana", "owner"), ("ben", "viewer")])
        self.assertEqual((found[0]["email"], found[0]["name"]), ("ana@example.org", "ana"))

        changed = self.ask("PATCH", f"{self.path}/t/members/ben", {"role": "admin"}, token=self.ana)
        self.assertEqual((changed.json["id"], changed.json["role"]), ("ben", "admin"))
        unknown = self.ask("PATCH", f"{self.path}/t/members/ben", {"role": "king"}, token=self.ana)
        self.assert_refused(unknown, 400, "bad_request", "'role'")
        self.assertEqual(self.ask("DELETE", f"{self.path}/t/members/ben", token=self.ben).status, 204)
        last = self.ask("DELETE", f"{self.path}/t/members/ana", token=self.ana)
        self.assert_refused(last, 409, "conflict", "owner")

    def test_invitations(self) -> None:
        """Invitations are made, seen without their token, and taken back."""
        made = self.ask("POST", f"{self.path}/t/invitations", {"email": "x@example.org"}, token=self.ana)
        self.assertEqual((made.status, made.json["role"], made.json["invitedBy"]), (201, "developer", "ana"))
        self.assertEqual(set(made.json), {"id", "email", "role", "invitedBy", "createdAt", "expiresAt"})
        self.assertEqual(self.items(f"{self.path}/t/invitations", self.ana), [made.json])

        path = f"{self.path}/t/invitations/{made.json['id']}"
        self.assertEqual(self.ask("DELETE", path, token=self.ana).status, 204)
        self.assert_refused(self.ask("DELETE", path, token=self.ana), 404, "not_found")


class TokenTests(AdminCase):
    path = "/api/admin/tokens"

    def make(self, **body: Any) -> RestAnswer:
        return self.ask("POST", self.path, {"name": "ci", **body}, token=self.ana)

    def test_create(self) -> None:
        """The text of a token is shown once, and acts for its account."""
        made = self.make(role="viewer", team="t")
        token = made.json["token"]

        self.assertEqual((made.status, made.json["role"], made.json["team"]), (201, "viewer", "t"))
        self.assertTrue(token.startswith("wst_"))
        self.assertEqual(self.ask("GET", "/api/admin/teams/t", token=token).status, 200)
        [listed] = self.items(self.path, self.ana)
        self.assertNotIn("token", listed)
        self.assertIsInstance(listed["lastUsedAt"], int)
        self.assert_refused(self.ask("DELETE", "/api/admin/teams/t", token=token), 403, "forbidden")

    def test_limits(self) -> None:
        """A limited token makes no other one, and its limits are checked."""
        limited = self.make(permissions=["team.read"]).json["token"]

        self.assert_refused(self.ask("POST", self.path, {"name": "x"}, token=limited), 403, "forbidden")
        self.assert_refused(self.make(permissions=["team.rule"]), 400, "bad_request", "'permissions[0]'")
        self.assert_refused(self.make(expiresAt=1), 400, "bad_request", "expires")
        self.assert_refused(self.make(expiresAt=1 << 70), 400, "bad_request", "'expiresAt'")
        self.assert_refused(self.make(team="unknown"), 404, "not_found")

    def test_revoke(self) -> None:
        """A revoked token opens nothing; nobody revokes another's."""
        made = self.make().json
        path = f"{self.path}/{made['id']}"

        self.assert_refused(self.ask("DELETE", path, token=self.ben), 404, "not_found")
        self.assertEqual(self.ask("DELETE", path, token=self.ana).status, 204)
        self.assert_refused(self.ask("GET", "/api/auth/me", token=made["token"]), 401, "unauthorized")


class AuditTests(AdminCase):
    path = "/api/admin/audit"

    def test_team(self) -> None:
        """Administrators see what was done in their team, the newest first; nobody else does."""
        self.ask("PATCH", "/api/admin/teams/t", {"name": "One"}, token=self.ana)
        self.clock.advance(1)
        self.ask("PATCH", "/api/admin/teams/t", {"name": "Two"}, token=self.ana)
        found = self.items(f"{self.path}?team=t", self.ana)

        self.assertEqual([act["details"] for act in found], [{"name": "Two"}, {"name": "One"}])
        self.assertEqual((found[0]["actor"], found[0]["action"], found[0]["ip"]), ("ana", "team.update", "192.0.2.7"))
        self.assert_refused(self.ask("GET", f"{self.path}?team=t", token=self.ben), 403, "forbidden", "admin")
        self.assert_refused(self.ask("GET", f"{self.path}?team=t", token=self.member("eve")), 404, "not_found")

    def test_server(self) -> None:
        """Without a team it is the whole server's, for operators."""
        self.ask("PATCH", "/api/admin/teams/t", {"name": "One"}, token=self.ana)

        self.assertEqual(len(self.items(f"{self.path}?actor=ana", self.op)), 1)
        self.assertEqual(self.items(f"{self.path}?actor=ana&until=1", self.op), [])
        for query in ("", "?team="):
            self.assert_refused(self.ask("GET", self.path + query, token=self.ana), 403, "forbidden")

    def test_cursor(self) -> None:
        """A cursor that is none is refused."""
        for cursor in ("x", "1", "1:", ":a", "-1:a", "9" * 30 + ":a"):
            answer = self.ask("GET", f"{self.path}?cursor={cursor}", token=self.op)
            self.assert_refused(answer, 400, "bad_request", "'cursor'")
