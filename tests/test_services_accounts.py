"""Tests for accounts, access tokens, mail, the audit log and changes: the services around them."""

from __future__ import annotations

import os

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, LogLevel, globalLogPublisher
from zope.interface import provider
from zope.interface.verify import verifyObject

from tests.accounts import PASSWORD, AccountsCase
from wsock.errors import Code, Conflict, Unavailable
from wsock.interfaces import IMailSender, Mail
from wsock.records import AccessToken, Account, AuditQuery, DashboardSession, Membership, ResetToken, Role, Team
from wsock.services.access import Actor
from wsock.services.access_tokens import NewToken
from wsock.services.accounts import Accounts
from wsock.services.audit import Audit
from wsock.services.changes import change, remove_all
from wsock.services.mail import LogMailSender

NOW = 1_700_000_000_000


class SignUpTests(AccountsCase):
    """Getting an account."""

    def test_open(self) -> None:
        """Whoever signs up has an account and a team of their own, and can log in."""
        account = self.done(self.accounts.sign_up(" New@example.org ", PASSWORD, "New", ip="192.0.2.1"))

        self.assertEqual(self.done(self.logins.log_in("new@example.org", PASSWORD)), account)
        self.assertFalse(account.is_operator)
        [team] = self.done(self.teams.teams(Actor.of(account), None, 9)).items
        self.assertEqual(self.done(self.access.role(Actor.of(account), team.id)), Role.OWNER)
        self.assertEqual(team.plan, "free")

    def test_refused(self) -> None:
        """A bad address, name or password, or an address that has an account, creates nothing."""
        self.person("ana")
        for email, password, name, code in (
            ("nobody", PASSWORD, "x", Code.BAD_REQUEST),
            ("a@b.c", "short", "x", Code.BAD_REQUEST),
            ("a@b.c", PASSWORD, "", Code.BAD_REQUEST),
            ("ANA@example.org", PASSWORD, "x", Code.CONFLICT),
        ):
            self.refused(code, self.accounts.sign_up(email, password, name))

        self.assertEqual(len(self.done(self.directory.page(Account, {}, None, 9)).items), 1)
        self.assertEqual(self.done(self.directory.page(Team, {}, None, 9)).items, [])

    def test_closed(self) -> None:
        """Where sign-up is not open it is refused, with the setting's name."""
        accounts = Accounts(self.directory, self.passwords, self.teams, self.audit, self.now, os.urandom)

        refused = self.refused(Code.FORBIDDEN, accounts.sign_up("a@b.c", PASSWORD, "x"))

        self.assertIn("accounts.open_sign_up", refused.text)

    def test_invited(self) -> None:
        """An invitation makes an account for its address and a member of its team, once."""
        olga = self.person("olga")
        self.team("t1", olga=Role.OWNER)
        self.done(self.teams.invite(olga, "t1", "new@example.org", Role.DEVELOPER))
        token = self.mail.token()
        self.refused(Code.BAD_REQUEST, self.accounts.accept_invitation(token, "short", "New"))

        account = self.done(self.accounts.accept_invitation(token, PASSWORD, "New"))

        self.assertEqual(account.email, "new@example.org")
        self.assertEqual(self.done(self.access.role(Actor.of(account), "t1")), Role.DEVELOPER)
        self.refused(Code.UNAUTHORIZED, self.accounts.accept_invitation(token, PASSWORD, "New"))

    def test_invited_with_an_account(self) -> None:
        """Who has an account is told to log in, and the invitation stays good."""
        olga = self.person("olga")
        ana = self.person("ana")
        self.team("t1", olga=Role.OWNER)
        self.done(self.teams.invite(olga, "t1", "ana@example.org", Role.VIEWER))

        self.refused(Code.CONFLICT, self.accounts.accept_invitation(self.mail.token(), PASSWORD, "Ana"))

        self.done(self.teams.join(ana, self.mail.token()))


class AccountsTests(AccountsCase):
    """What is done with accounts."""

    def setUp(self) -> None:
        super().setUp()
        self.ana, self.bob = self.person("ana"), self.person("bob")
        self.root = self.person("root", is_operator=True)

    def test_seen(self) -> None:
        """Everybody sees their own account, operators all."""
        self.assertEqual(self.done(self.accounts.account(self.ana)).id, "ana")
        self.assertEqual(self.done(self.accounts.account(self.root, "ana")).id, "ana")
        self.refused(Code.FORBIDDEN, self.accounts.account(self.ana, "bob"))
        self.refused(Code.NOT_FOUND, self.accounts.account(self.root, "nobody"))
        self.refused(Code.FORBIDDEN, self.accounts.accounts(self.ana, None, 9))
        page = self.done(self.accounts.accounts(self.root, None, 2))
        self.assertEqual([account.id for account in page.items], ["ana", "bob"])

    def test_rename(self) -> None:
        """Everybody chooses their own name."""
        self.assertEqual(self.done(self.accounts.rename(self.ana, " Ana M. ")).name, "Ana M.")

    def test_disable(self) -> None:
        """A disabled account is out at once and stays out; enabled, it is as before."""
        session = DashboardSession(id="s", account="ana", family="f", token_hash="h", created_at=1, expires_at=9)
        self.done(self.directory.add([session]))
        token = self.done(self.tokens.create(self.ana, "CI"))
        self.refused(Code.FORBIDDEN, self.accounts.set_enabled(self.bob, "ana", is_enabled=False))

        self.clock.advance(5)
        account = self.done(self.accounts.set_enabled(self.root, "ana", is_enabled=False))

        self.assertEqual(account.sessions_from, NOW + 5000)
        self.assertIsNone(self.done(self.directory.find(DashboardSession, "s")))
        self.refused(Code.UNAUTHORIZED, self.tokens.actor(token.text))
        self.refused(Code.FORBIDDEN, self.logins.log_in("ana@example.org", PASSWORD))
        self.done(self.accounts.set_enabled(self.root, "ana", is_enabled=True))
        self.done(self.logins.log_in("ana@example.org", PASSWORD))
        self.assertIn("account.disable", self.acts())

    def test_operators(self) -> None:
        """Operators make and unmake others; nobody locks themselves out."""
        self.assertTrue(self.done(self.accounts.set_operator(self.root, "ana", is_operator=True)).is_operator)
        self.refused(Code.CONFLICT, self.accounts.set_operator(self.root, "root", is_operator=False))
        self.refused(Code.CONFLICT, self.accounts.set_enabled(self.root, "root", is_enabled=False))
        self.refused(Code.CONFLICT, self.accounts.delete(self.root, "root"))
        self.refused(Code.FORBIDDEN, self.accounts.set_operator(self.bob, "bob", is_operator=True))
        limited = Actor(account="root", is_operator=True, permissions=frozenset({"accounts.manage"}))
        self.refused(Code.FORBIDDEN, self.accounts.set_operator(limited, "bob", is_operator=True))
        self.assertFalse(self.done(self.accounts.set_enabled(limited, "bob", is_enabled=False)).is_enabled)

    def test_delete(self) -> None:
        """An account goes with all that is its own, unless a team would have no owner left."""
        self.team("t1", ana=Role.OWNER, bob=Role.VIEWER)
        self.team("t0", ana=Role.VIEWER, bob=Role.OWNER)
        self.done(self.tokens.create(self.ana, "CI"))
        self.assertIn("t1", self.refused(Code.CONFLICT, self.accounts.delete(self.ana, "ana")).text)
        self.assertEqual(len(self.done(self.directory.page(Membership, {"account": "ana"}, None, 9)).items), 2)
        self.refused(Code.FORBIDDEN, self.accounts.delete(self.bob, "ana"))

        self.done(self.teams.change_role(self.ana, "t1", "bob", Role.OWNER))
        self.done(self.accounts.delete(self.root, "ana"))

        self.assertIsNone(self.done(self.directory.find(Account, "ana")))
        self.assertEqual(self.done(self.directory.page(AccessToken, {}, None, 9)).items, [])
        self.assertEqual(len(self.done(self.directory.page(Membership, {}, None, 9)).items), 2)


class AccessTokenTests(AccountsCase):
    """Personal access tokens."""

    def setUp(self) -> None:
        super().setUp()
        self.ana = self.person("ana")
        self.team("t1", ana=Role.ADMIN)

    def create(self, **limits: object) -> NewToken:
        """Ana makes a token."""
        return self.done(self.tokens.create(self.ana, "CI", **limits))  # type: ignore[arg-type]  # each test has its own

    def test_acts(self) -> None:
        """A token acts for its account, as far as it reaches, and its last use is seen."""
        made = self.create(role=Role.VIEWER, team="t1", permissions=["apps.read"])
        self.assertNotIn(made.text, repr(made) + str(made.token.token_hash))

        actor = self.done(self.tokens.actor(made.text, ip="192.0.2.1"))

        self.assertEqual((actor.account, actor.role, actor.team, actor.ip), ("ana", Role.VIEWER, "t1", "192.0.2.1"))
        self.assertEqual(actor.permissions, {"apps.read"})
        [seen] = self.done(self.tokens.tokens(self.ana, None, 9)).items
        self.assertEqual(seen.last_used_at, NOW)

    def test_many(self) -> None:
        """An account has two hundred tokens, no more."""
        tokens = [self.create() for _ in range(200)]

        self.assertIn("200", self.refused(Code.LIMIT_EXCEEDED, self.tokens.create(self.ana, "CI")).text)
        self.done(self.tokens.revoke(self.ana, tokens[0].token.id))
        self.create()

    def test_last_use_is_coarse(self) -> None:
        """A token that is used all the time is written down once a minute."""
        made = self.create()
        used = []
        for _ in range(5):
            self.done(self.tokens.actor(made.text))
            used.append(self.done(self.tokens.tokens(self.ana, None, 9)).items[0].last_used_at)
            self.clock.advance(20)

        self.assertEqual([(at or 0) - NOW for at in used], [0, 0, 0, 60_000, 60_000])

    def test_not_good(self) -> None:
        """Unknown, expired and revoked tokens, and those of accounts that are gone, open nothing."""
        made = self.create(expires_at=NOW + 10_000)
        self.refused(Code.UNAUTHORIZED, self.tokens.actor("wst_unknown"))
        self.done(self.tokens.actor(made.text))
        self.clock.advance(10)
        self.refused(Code.TOKEN_EXPIRED, self.tokens.actor(made.text))
        other = self.create()
        self.done(self.tokens.revoke(self.ana, other.token.id))
        self.refused(Code.UNAUTHORIZED, self.tokens.actor(other.text))

    def test_limits_are_checked(self) -> None:
        """A token is not made for a permission, a time or a team that there is not, nor by a limited one."""
        self.refused(Code.BAD_REQUEST, self.tokens.create(self.ana, "x", permissions=["fly"]))
        text = self.refused(Code.BAD_REQUEST, self.tokens.create(self.ana, "x", expires_at=1)).text
        self.assertIn("'expiresAt'", text)
        self.refused(Code.NOT_FOUND, self.tokens.create(self.ana, "x", team="t2"))
        limited = self.done(self.tokens.actor(self.create(role=Role.VIEWER).text))
        self.refused(Code.FORBIDDEN, self.tokens.create(limited, "x"))

    def test_no_longer_than_itself(self) -> None:
        """A token that ends makes none that goes on behind it."""
        end = int(self.now() * 1000) + 60_000
        actor = self.done(self.tokens.actor(self.create(expires_at=end).text))

        self.refused(Code.FORBIDDEN, self.tokens.create(actor, "x"))
        self.refused(Code.FORBIDDEN, self.tokens.create(actor, "x", expires_at=end + 1))
        self.assertEqual(self.done(self.tokens.create(actor, "x", expires_at=end)).token.expires_at, end)

    def test_somebody_elses(self) -> None:
        """Only operators revoke what is not their own."""
        made = self.create()

        self.refused(Code.NOT_FOUND, self.tokens.revoke(self.person("bob"), made.token.id))
        self.done(self.tokens.revoke(self.person("root", is_operator=True), made.token.id))


class AwayLog:
    """An audit log that is away."""

    async def append(self, entries: object) -> None:
        """See IAuditLog."""
        raise Unavailable("away")


class AuditTests(AccountsCase):
    """What is written down."""

    def test_record(self) -> None:
        """An entry says who did what to what in which team, when and from where."""
        self.clock.advance(7)
        actor = Actor(account="ana", ip="192.0.2.1")

        self.done(self.audit.record(actor, "key.create", team="t1", app="shop", target="k1", name="Server"))

        [entry] = self.done(self.log.page(AuditQuery(), None, 9)).items
        self.assertEqual((entry.actor, entry.ip, entry.at), ("ana", "192.0.2.1", NOW + 7000))
        self.assertEqual((entry.action, entry.team, entry.app, entry.target), ("key.create", "t1", "shop", "k1"))
        self.assertEqual(entry.details, {"name": "Server"})

    def test_seen(self) -> None:
        """Admins see what was done in their team, operators everything."""
        adam, vera = self.person("adam"), self.person("vera")
        root = self.person("root", is_operator=True)
        self.team("t1", adam=Role.ADMIN, vera=Role.VIEWER)
        for team in ("t1", "t2"):
            self.done(self.audit.record(adam, "x", team=team))

        self.assertEqual(len(self.done(self.audit.page(adam, AuditQuery(team="t1"), None, 9)).items), 1)
        self.assertEqual(len(self.done(self.audit.page(root, AuditQuery(), None, 9)).items), 2)
        self.refused(Code.FORBIDDEN, self.audit.page(vera, AuditQuery(team="t1"), None, 9))
        self.refused(Code.NOT_FOUND, self.audit.page(adam, AuditQuery(team="t2"), None, 9))
        self.assertIn("'team'", self.refused(Code.FORBIDDEN, self.audit.page(adam, AuditQuery(), None, 9)).text)

    def test_expire(self) -> None:
        """What is older than so long goes, all of it."""
        for _ in range(1500):
            self.done(self.audit.record(Actor(account="a"), "x"))
        self.clock.advance(10)
        self.done(self.audit.record(Actor(account="a"), "y"))

        self.done(self.audit.expire(5.0))

        self.assertEqual(self.acts(), ["y"])

    def test_away(self) -> None:
        """An act is done though it can't be written down; it stands in the server's log then."""
        events: list[object] = []

        @provider(ILogObserver)
        def observe(event: LogEvent) -> None:
            if event.get("log_level") is LogLevel.error:
                events.append(event["entry"])

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        audit = Audit(AwayLog(), self.access, self.now, os.urandom)  # type: ignore[arg-type]  # as far as it is used

        self.done(audit.record(Actor(account="ana"), "key.create"))

        self.assertIn("key.create", str(events))


class ChangeTests(AccountsCase):
    """Changes of what others change as well."""

    def test_changed_meanwhile(self) -> None:
        """The change is made to what is stored then, whoever was faster."""
        team = self.team("t1")
        rivals = iter(["one", "two"])

        def rename(known: Team) -> Team:
            for name in rivals:
                self.done(self.directory.replace(replace(known, name=name)))
                break
            return replace(known, name=f"{known.name}!")

        new = self.done(change(self.directory, Team, team.id, rename))

        self.assertEqual((new.name, new.version), ("two!", 4))

    def test_can_not_be_stored(self) -> None:
        """A change that no attempt could make is a conflict at once; what is not there is not found."""
        self.person("ana")
        self.person("bob")
        self.refused(Code.NOT_FOUND, change(self.directory, Team, "t9", lambda team: team))
        taken = change(self.directory, Account, "ana", lambda known: replace(known, email="bob@example.org"))

        self.failureResultOf(Deferred.fromCoroutine(taken), Conflict)

    def test_never_stored(self) -> None:
        """Where others are always faster it is given up."""
        self.team("t1")
        with self.assertRaises(AssertionError):
            self.done(change(self.directory, Team, "t1", self.overtaken))

    def overtaken(self, known: Team) -> Team:
        """Somebody else is faster."""
        self.done(self.directory.replace(known))
        return known

    def test_remove_all(self) -> None:
        """All that have the value go, however many; others stay."""
        self.person("ana")
        self.person("bob")
        tokens = [
            ResetToken(id=f"r{n}", account="bob" if n == 0 else "ana", token_hash=f"h{n}", created_at=1, expires_at=1)
            for n in range(1200)
        ]
        self.done(self.directory.add(tokens))

        self.done(remove_all(self.directory, ResetToken, "account", "ana"))

        self.assertEqual([token.id for token in self.done(self.directory.page(ResetToken, {}, None, 9)).items], ["r0"])


class MailTests(AccountsCase):
    """The embedded sender."""

    def test_logged(self) -> None:
        """A mail stands in the log, with what it says."""
        verifyObject(IMailSender, LogMailSender())
        verifyObject(IMailSender, self.mail)
        texts: list[str] = []

        @provider(ILogObserver)
        def observe(event: LogEvent) -> None:
            texts.append(str(event.get("text", "")))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)

        self.done(LogMailSender().send(Mail(to="a@b", subject="Hi", text="the token")))

        self.assertIn("the token", texts)
