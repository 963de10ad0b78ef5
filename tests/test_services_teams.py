"""Tests for :mod:`wsock.services.teams`, :mod:`wsock.services.access` and :mod:`wsock.services.roles`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from msgspec.structs import replace
from twisted.internet.defer import Deferred

from tests.accounts import PASSWORD, AccountsCase
from tests.base import SynchronousTestCase
from wsock.backends.memory_directory import MemoryDirectory
from wsock.errors import Code, Refused
from wsock.records import (
    AccessToken,
    Account,
    App,
    Invitation,
    Listing,
    Membership,
    Plan,
    PlanLimits,
    Record,
    Role,
    Team,
)
from wsock.services.access import Actor
from wsock.services.roles import PERMISSIONS, Permission
from wsock.services.teams import Teams, check_email, check_name, new_member

ROLES = {"vera": Role.VIEWER, "dev": Role.DEVELOPER, "adam": Role.ADMIN, "olga": Role.OWNER}


class TeamsCase(AccountsCase):
    """A team with a member of each role, an operator and a stranger."""

    is_open = False

    def setUp(self) -> None:
        super().setUp()
        self.actors = {name: self.person(name) for name in (*ROLES, "stranger")}
        self.actors["root"] = self.person("root", is_operator=True)
        self.team("t1", **ROLES)

    def role(self, name: str, team: str = "t1") -> Role | None:
        """The role that is stored."""
        member = self.done(self.directory.find(Membership, f"{team}.{name}"))
        return None if member is None else member.role


class RolesTests(SynchronousTestCase):
    """The table of permissions."""

    def test_complete(self) -> None:
        """Every permission is in the table, in the order in which it is documented."""
        self.assertEqual(list(PERMISSIONS), list(Permission))


class AccessTests(TeamsCase):
    """Who may do what."""

    def allowed(self, actor: Actor, permission: Permission, team: str = "t1") -> Code | None:
        """``None`` if it is allowed, else the code."""
        try:
            self.done(self.access.require(actor, permission, team))
        except self.failureException:
            refused = self.failureResultOf(
                Deferred.fromCoroutine(self.access.require(actor, permission, team)), Refused
            )
            return Code(refused.value.code)
        return None

    def test_matrix(self) -> None:
        """Each role may do what the table says, and nothing else; to strangers the team does not exist."""
        for permission, least in PERMISSIONS.items():
            for name, role in ROLES.items():
                may = least is not None and role.covers(least)
                self.assertEqual(self.allowed(self.actors[name], permission), None if may else Code.FORBIDDEN)
            self.assertEqual(self.allowed(self.actors["stranger"], permission), Code.NOT_FOUND)
            self.assertEqual(self.allowed(self.actors["olga"], permission, "t2"), Code.NOT_FOUND)
            self.assertIsNone(self.allowed(self.actors["root"], permission))

    def test_text(self) -> None:
        """A refusal names the permission, the role that it takes, and one's own."""
        refused = self.refused(Code.FORBIDDEN, self.access.require(self.actors["vera"], Permission.KEYS_WRITE, "t1"))

        for word in ("keys.write", "developer", "viewer"):
            self.assertIn(word, refused.text)

    def by_token(self, name: str, **limits: object) -> Actor:
        """Somebody with an access token."""
        token = AccessToken(id="x", account=name, name="x", token_hash="x", created_at=0, **limits)  # type: ignore[arg-type]  # each test has its own
        return Actor.by_token(self.stored(name), token)

    def test_tokens_reach_less_far(self) -> None:
        """A token has the smaller of its role and the member's, in its team, for its permissions."""
        viewer = self.by_token("olga", role=Role.VIEWER)
        self.assertIsNone(self.allowed(viewer, Permission.APPS_READ))
        self.assertEqual(self.allowed(viewer, Permission.APPS_UPDATE), Code.FORBIDDEN)
        self.assertEqual(self.done(self.access.role(self.by_token("vera"), "t1")), Role.VIEWER)
        self.assertEqual(self.allowed(self.by_token("olga", team="t2"), Permission.APPS_READ), Code.NOT_FOUND)
        one = self.by_token("olga", permissions=("apps.read",))
        self.assertIsNone(self.allowed(one, Permission.APPS_READ))
        self.assertEqual(self.allowed(one, Permission.TEAM_DELETE), Code.FORBIDDEN)

    def test_tokens_of_operators(self) -> None:
        """A limited token of an operator is no operator's."""
        self.assertIsNone(self.allowed(self.by_token("root"), Permission.PLANS_WRITE))
        self.assertEqual(self.allowed(self.by_token("root", team="t1"), Permission.PLANS_WRITE), Code.NOT_FOUND)
        self.assertEqual(self.allowed(self.by_token("root", role=Role.ADMIN), Permission.TEAM_READ), Code.NOT_FOUND)
        scoped = self.by_token("root", permissions=("plans.write",))
        self.assertIsNone(self.allowed(scoped, Permission.PLANS_WRITE))
        self.assertEqual(self.allowed(scoped, Permission.SERVER_READ), Code.FORBIDDEN)

    def test_tokens_without_teams(self) -> None:
        """A token that may not see teams does not list them either."""
        for name in ("vera", "root"):
            token = self.by_token(name, permissions=("channels.read",))
            self.refused(Code.FORBIDDEN, self.teams.teams(token, None, 10))
        reader = self.by_token("vera", permissions=("team.read",))
        self.assertEqual([team.id for team in self.done(self.teams.teams(reader, None, 10)).items], ["t1"])


class TeamTests(TeamsCase):
    """Teams themselves."""

    def test_create(self) -> None:
        """Where sign-up is not open operators create teams, and own them."""
        self.refused(Code.FORBIDDEN, self.teams.create(self.actors["olga"], "Mine"))

        team = self.done(self.teams.create(self.actors["root"], "  New  "))

        self.assertEqual((team.name, self.role("root", team.id)), ("New", Role.OWNER))
        self.assertEqual(self.acts(), ["team.create"])

    def test_create_where_sign_up_is_open(self) -> None:
        """There everybody may, but not with a limited token."""
        around = (self.mail, self.audit, self.now, lambda size: b"x" * size)
        teams = Teams(self.directory, *around, is_open=True)

        self.refused(Code.FORBIDDEN, teams.create(Actor(account="vera", role=Role.ADMIN), "Mine"))
        self.assertEqual(self.role("vera", self.done(teams.create(self.actors["vera"], "Mine")).id), Role.OWNER)

    def test_many(self) -> None:
        """Who owns twenty teams makes no more; operators do."""
        around = (self.mail, self.audit, self.now, os.urandom)
        teams = Teams(self.directory, *around, is_open=True)
        for n in range(20):
            self.done(teams.create(self.actors["vera"], f"T{n}"))

        self.assertIn("20", self.refused(Code.LIMIT_EXCEEDED, teams.create(self.actors["vera"], "More")).text)
        for n in range(21):
            self.done(teams.create(self.actors["root"], f"T{n}"))

    def test_plan(self) -> None:
        """Teams of people who are no operators are on the default plan."""
        around = (self.mail, self.audit, self.now, lambda size: b"x" * size)
        teams = Teams(self.directory, *around, is_open=True, default_plan="free")

        self.assertEqual(self.done(teams.create(self.actors["vera"], "Mine")).plan, "free")
        self.done(self.directory.remove(Team, f"team_{(b'x' * 8).hex()}"))
        self.assertEqual(self.done(teams.create(self.actors["root"], "Ours")).plan, "unlimited")

    def test_seen(self) -> None:
        """Members see their teams, operators all, strangers none."""
        self.team("t2", vera=Role.VIEWER)

        for name, ids in (("vera", ["t1", "t2"]), ("olga", ["t1"]), ("stranger", []), ("root", ["t1", "t2"])):
            page = self.done(self.teams.teams(self.actors[name], None, 10))
            self.assertEqual([team.id for team in page.items], ids)
        only = self.done(self.teams.teams(Actor(account="vera", team="t2"), None, 10))
        self.assertEqual([team.id for team in only.items], ["t2"])
        self.assertEqual(self.done(self.teams.team(self.actors["vera"], "t1")).id, "t1")
        self.refused(Code.NOT_FOUND, self.teams.team(self.actors["stranger"], "t1"))
        self.refused(Code.NOT_FOUND, self.teams.team(self.actors["root"], "t9"))

    def test_rename(self) -> None:
        """Admins rename; who saw an older version is told so."""
        self.refused(Code.FORBIDDEN, self.teams.rename(self.actors["dev"], "t1", "x"))

        self.assertEqual(self.done(self.teams.rename(self.actors["adam"], "t1", "New", 1)).version, 2)
        self.refused(Code.CONFLICT, self.teams.rename(self.actors["adam"], "t1", "Newer", 1))
        self.assertEqual(self.done(self.teams.rename(self.actors["adam"], "t1", "Newer")).name, "Newer")

    def test_delete(self) -> None:
        """Owners delete the team with all that it has; accounts stay."""
        self.done(self.directory.add([App(id="shop", name="Shop", created_at=0, team="t1")]))
        self.refused(Code.FORBIDDEN, self.teams.delete(self.actors["adam"], "t1"))

        self.done(self.teams.delete(self.actors["olga"], "t1"))

        self.assertIsNone(self.done(self.directory.find(Team, "t1")))
        self.assertEqual(self.done(self.directory.apps()), [])
        self.stored("vera")

    def test_names(self) -> None:
        """A name is one line of 1 to 100 characters, an address one that mail could go to."""
        self.assertEqual(check_name(" \u00dcber \u65e5 "), "\u00dcber \u65e5")
        self.assertEqual(check_email(" a.b+c@localhost "), "a.b+c@localhost")
        for name in ("", " ", "x" * 101, "a\nb", "a\x00"):
            self.assertRaises(Refused, check_name, name)
        for email in ("", "a", "@b", "a@", "a b@c", "a@b\nBcc: c@d", "a@b,c@d", "<a@b>", f"{'x' * 251}@b.c"):
            self.assertRaises(Refused, check_email, email)


class MemberTests(TeamsCase):
    """Members and their roles."""

    def test_members(self) -> None:
        """Members see one another."""
        page = self.done(self.teams.members(self.actors["vera"], "t1", None, 10))

        self.assertEqual({member.account: member.role for member in page.items}, ROLES)

    def test_change_role(self) -> None:
        """Admins change roles below owner, owners all; a stranger can't be changed."""
        adam, olga = self.actors["adam"], self.actors["olga"]
        self.done(self.teams.change_role(adam, "t1", "vera", Role.ADMIN))
        self.assertEqual(self.role("vera"), Role.ADMIN)
        self.refused(Code.FORBIDDEN, self.teams.change_role(adam, "t1", "vera", Role.OWNER))
        self.refused(Code.FORBIDDEN, self.teams.change_role(adam, "t1", "olga", Role.VIEWER))
        self.refused(Code.FORBIDDEN, self.teams.change_role(self.actors["dev"], "t1", "dev", Role.ADMIN))
        self.refused(Code.NOT_FOUND, self.teams.change_role(adam, "t1", "stranger", Role.VIEWER))

        self.done(self.teams.change_role(olga, "t1", "vera", Role.OWNER))
        self.done(self.teams.change_role(olga, "t1", "olga", Role.VIEWER))

        self.assertEqual((self.role("vera"), self.role("olga")), (Role.OWNER, Role.VIEWER))

    def test_last_owner(self) -> None:
        """The last owner neither leaves nor becomes anything else, whoever wants it."""
        for name in ("olga", "root"):
            self.refused(Code.CONFLICT, self.teams.change_role(self.actors[name], "t1", "olga", Role.ADMIN))
            self.refused(Code.CONFLICT, self.teams.remove_member(self.actors[name], "t1", "olga"))

        self.assertEqual(self.role("olga"), Role.OWNER)

    def test_leave(self) -> None:
        """Everybody else may leave, and an owner when there is another."""
        self.done(self.teams.remove_member(self.actors["vera"], "t1", "vera"))
        self.done(self.teams.change_role(self.actors["olga"], "t1", "adam", Role.OWNER))
        self.done(self.teams.remove_member(self.actors["olga"], "t1", "olga"))

        self.assertEqual((self.role("vera"), self.role("olga"), self.role("adam")), (None, None, Role.OWNER))

    def test_remove(self) -> None:
        """Admins remove members up to their own role."""
        self.refused(Code.FORBIDDEN, self.teams.remove_member(self.actors["dev"], "t1", "vera"))
        self.refused(Code.FORBIDDEN, self.teams.remove_member(self.actors["adam"], "t1", "olga"))

        self.done(self.teams.remove_member(self.actors["adam"], "t1", "vera"))

        self.assertIsNone(self.role("vera"))
        self.refused(Code.NOT_FOUND, self.teams.team(self.actors["vera"], "t1"))

    def test_owners_leave_at_once(self) -> None:
        """Of two owners who give up at the same moment one at least stays."""
        slow = SlowDirectory()
        self.directory = slow
        self.team_of_two(slow)
        teams = Teams(slow, self.mail, self.audit, self.now, lambda size: b"x" * size)
        slow.holds = True
        leaving = [
            Deferred.fromCoroutine(teams.change_role(Actor(account=name), "t1", name, Role.VIEWER))
            for name in ("a", "b")
        ]
        while slow.waiting:
            slow.waiting.pop(0).callback(None)
        outcomes = [leave.result for leave in leaving if leave.called]
        for leave in leaving:
            leave.addErrback(lambda failure: failure.trap(Refused) and None)

        self.assertEqual(len(outcomes), 2)
        slow.holds = False
        self.assertIn(Role.OWNER, (self.role("a"), self.role("b")))

    def team_of_two(self, directory: MemoryDirectory) -> None:
        """A team with two owners."""
        for name in ("a", "b"):
            self.person(name)
        self.team("t1", a=Role.OWNER, b=Role.OWNER)


class SlowDirectory(MemoryDirectory):
    """A directory whose lists are looked at before they are answered: much can happen in between."""

    def __init__(self) -> None:
        super().__init__()
        self.holds = False
        self.waiting: list[Deferred[None]] = []

    async def page(  # type: ignore[override]  # for any kind
        self, kind: type[Record], where: Mapping[str, str], cursor: str | None, limit: int
    ) -> Listing[Record]:
        """See IRecords."""
        found = await super().page(kind, where, cursor, limit)
        if self.holds:
            held: Deferred[None] = Deferred()
            self.waiting.append(held)
            await held
        return found


class InvitationTests(TeamsCase):
    """How people come into a team."""

    def invite(self, email: str = "stranger@example.org", role: Role = Role.DEVELOPER) -> Invitation:
        """Adam invites somebody."""
        return self.done(self.teams.invite(self.actors["adam"], "t1", email, role))

    def test_join(self) -> None:
        """The mail holds a token, with which who has an account of that address joins, once."""
        self.invite("STRANGER@example.org")
        [mail] = self.mail.sent
        self.assertIn(f"https://w.example/join?token={self.mail.token()}", mail.text)

        self.done(self.teams.join(self.actors["stranger"], self.mail.token()))

        self.assertEqual(self.role("stranger"), Role.DEVELOPER)
        self.refused(Code.UNAUTHORIZED, self.teams.join(self.actors["stranger"], self.mail.token()))
        self.assertEqual(self.acts(), ["invitation.create", "member.join"])

    def test_somebody_else(self) -> None:
        """A mail that was forwarded lets nobody else in."""
        self.invite()

        self.refused(Code.FORBIDDEN, self.teams.join(self.actors["root"], self.mail.token()))

    def test_member_already(self) -> None:
        """Who is a member stays what they are."""
        self.invite("vera@example.org", Role.ADMIN)

        self.refused(Code.CONFLICT, self.teams.join(self.actors["vera"], self.mail.token()))
        self.assertEqual(self.role("vera"), Role.VIEWER)

    def test_reach(self) -> None:
        """Nobody invites to more than they are themselves; members below admin invite nobody."""
        self.refused(Code.FORBIDDEN, self.teams.invite(self.actors["adam"], "t1", "a@b", Role.OWNER))
        self.refused(Code.FORBIDDEN, self.teams.invite(self.actors["dev"], "t1", "a@b", Role.VIEWER))

    def test_expired(self) -> None:
        """An invitation is good for a week."""
        self.invite()
        self.clock.advance(7 * 86_400)

        self.refused(Code.UNAUTHORIZED, self.teams.join(self.actors["stranger"], self.mail.token()))

    def test_taken_back(self) -> None:
        """Admins see invitations and take them back, those of their own team."""
        invitation = self.invite()
        page = self.done(self.teams.invitations(self.actors["adam"], "t1", None, 9))
        self.assertEqual(page.items, [invitation])
        self.team("t2", adam=Role.ADMIN)
        self.refused(Code.NOT_FOUND, self.teams.uninvite(self.actors["adam"], "t2", invitation.id))

        self.done(self.teams.uninvite(self.actors["adam"], "t1", invitation.id))

        self.refused(Code.UNAUTHORIZED, self.teams.join(self.actors["stranger"], self.mail.token()))
        self.refused(Code.NOT_FOUND, self.teams.uninvite(self.actors["adam"], "t1", invitation.id))

    def test_gone_account(self) -> None:
        """An account that was deleted meanwhile joins nothing."""
        self.invite()

        self.refused(Code.FORBIDDEN, self.teams.join(Actor(account="gone"), self.mail.token()))

    def test_without_a_dashboard(self) -> None:
        """Where no URL is set the mail holds the token alone."""
        teams = Teams(self.directory, self.mail, self.audit, self.now, lambda size: b"x" * size)

        self.done(teams.invite(self.actors["adam"], "t1", "a@b.c", Role.VIEWER))

        self.assertNotIn("http", self.mail.sent[0].text)
        self.assertEqual(replace(self.mail.sent[0], text="").to, "a@b.c")


class SeatTests(AccountsCase):
    """A team's plan says how many members it may have."""

    def setUp(self) -> None:
        super().setUp()
        self.owner = self.person("olga")
        self.team("t1", olga=Role.OWNER)
        plan = Plan(id="small", name="Small", limits=PlanLimits(members=2))
        self.done(self.directory.add([plan]))
        team = self.done(self.directory.find(Team, "t1"))
        assert team is not None
        self.done(self.directory.replace(replace(team, plan="small")))

    def invited(self, name: str) -> str:
        """The token of somebody who is invited."""
        self.done(self.teams.invite(self.owner, "t1", f"{name}@example.org", Role.VIEWER))
        return self.mail.token()

    def test_invited_ones_count(self) -> None:
        """Nobody is invited who would find no seat."""
        self.invited("bob")

        refused = self.refused(Code.QUOTA_EXCEEDED, self.teams.invite(self.owner, "t1", "ann@example.org", Role.VIEWER))
        self.assertIn("'small' allows 2 members", refused.text)

    def test_join(self) -> None:
        """Who is invited joins while there is a seat, with an account or a new one."""
        token = self.invited("bob")
        self.done(self.directory.add([new_member("t1", self.person("eve").account, Role.VIEWER, 0)]))

        self.refused(Code.QUOTA_EXCEEDED, self.teams.join(self.person("bob"), token))
        self.done(self.teams.remove_member(self.owner, "t1", "eve"))
        self.done(self.teams.join(Actor(account="bob"), token))
        self.refused(Code.QUOTA_EXCEEDED, self.teams.invite(self.owner, "t1", "ann@example.org", Role.VIEWER))

    def test_new_account(self) -> None:
        """Where there is no seat, no account is left behind."""
        token = self.invited("new")
        self.done(self.directory.add([new_member("t1", self.person("eve").account, Role.VIEWER, 0)]))

        self.refused(Code.QUOTA_EXCEEDED, self.accounts.accept_invitation(token, PASSWORD, "New"))

        self.assertIsNone(self.done(self.directory.account_by_email("new@example.org")))

    def test_at_the_same_moment(self) -> None:
        """Of two who come for the last seat at the same moment no one is too many, and nothing is left of them."""
        records = self.directory
        late = new_member("t1", self.person("eve").account, Role.VIEWER, 0)
        account = self.stored("eve")
        add = records.add

        async def meanwhile(some: Sequence[Record]) -> None:
            self.patch(records, "add", add)
            await add([late])
            await add(some)

        self.patch(records, "add", meanwhile)
        bob = Account(id="bob", email="bob@example.org", password_hash="$", created_at=0)
        joining = self.teams.add_member(new_member("t1", "bob", Role.VIEWER, 0), bob)

        self.refused(Code.QUOTA_EXCEEDED, joining)
        self.assertEqual(self.stored("eve"), account)
        self.assertIsNone(self.done(records.find(Account, "bob")))
        self.assertEqual(len(self.done(records.page(Membership, {"team": "t1"}, None, 9)).items), 2)
