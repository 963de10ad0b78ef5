"""Tests for :mod:`wsock.services.logins` and :mod:`wsock.services.attempts`."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from tests.accounts import PASSWORD, AccountsCase
from wsock.errors import Code, Conflict, Refused, Unavailable
from wsock.records import Account, AuditQuery, DashboardSession, ResetToken
from wsock.services.access import Actor
from wsock.services.attempts import LoginAttempts
from wsock.services.logins import CodeNeeded
from wsock.services.totp import code_at
from wsock.testing.fakes import Now

ANA = "ana@example.org"
OTHER = "another good one"


class LoginsCase(AccountsCase):
    """Ana has an account."""

    def setUp(self) -> None:
        super().setUp()
        self.ana = self.person("ana")

    def log_in(self, password: str = PASSWORD, code: str | None = None, email: str = ANA) -> Account:
        """Logs in."""
        return self.done(self.logins.log_in(email, password, code, ip="192.0.2.9"))

    def fails(self, password: str = "wrong password", email: str = ANA, code: Code = Code.UNAUTHORIZED) -> Refused:
        """Fails to log in."""
        return self.refused(code, self.logins.log_in(email, password, ip="192.0.2.9"))

    def code(self, secret: str) -> str:
        """The code of this moment."""
        return code_at(secret, int(self.now()) // 30)


class LogInTests(LoginsCase):
    """Logging in."""

    def test_right(self) -> None:
        """The password opens the account, whatever the case of the address, and the audit log has it."""
        self.assertEqual(self.log_in(email="ANA@Example.org").id, "ana")
        self.assertEqual(self.acts(), ["account.login"])

    def test_wrong(self) -> None:
        """Neither the answer nor the work that was done tells whether there is an account."""
        self.fails()
        works = self.clock.works

        known = self.fails()
        unknown = self.fails(email="nobody@example.org")

        self.assertEqual(known.text, unknown.text)
        self.assertEqual(self.clock.works - works, 2)
        self.assertEqual(self.acts(), ["account.login_failed"] * 3)

    def test_too_long(self) -> None:
        """What nobody can have is refused before it costs anything."""
        works = self.clock.works

        self.fails("x" * 5000)
        self.fails(email="x" * 5000)

        self.assertEqual(self.clock.works, works)

    def test_disabled(self) -> None:
        """Only who knows the password learns that the account is disabled."""
        self.person("bob", is_enabled=False)

        self.fails(email="bob@example.org")
        self.fails(PASSWORD, "bob@example.org", Code.FORBIDDEN)

    def test_old_hash(self) -> None:
        """A hash of older parameters is made anew at the next login."""
        self.passwords.is_outdated = lambda kept: True  # type: ignore[method-assign]  # as after a change of them
        before = self.stored("ana").password_hash

        self.log_in()

        self.assertNotEqual(self.stored("ana").password_hash, before)
        self.log_in()

    def test_old_hash_of_an_old_password(self) -> None:
        """It is not made anew of a password that was replaced while it was looked at."""
        self.passwords.is_outdated = lambda kept: True  # type: ignore[method-assign]  # as after a change of them
        verify = self.passwords.verify

        async def slow(kept: str | None, password: str) -> bool:
            is_right = await verify(kept, password)
            self.passwords.verify = verify  # type: ignore[method-assign]  # once
            await self.logins.change_password(self.ana, PASSWORD, OTHER)
            return is_right

        self.passwords.verify = slow  # type: ignore[method-assign]  # as when somebody is faster

        self.fails(PASSWORD)

        self.log_in(OTHER)


class LockTests(LoginsCase):
    """What becomes of who guesses."""

    def test_locked_after_five(self) -> None:
        """After five failures the address is locked for 30 s, for the right password too; then it is open again."""
        for _ in range(5):
            self.fails()

        refused = self.fails(PASSWORD, code=Code.RATE_LIMITED)

        self.assertEqual(refused.retry_after, 30)
        self.assertIn("5 logins", refused.text)
        self.clock.advance(30)
        self.log_in()

    def test_longer_each_time(self) -> None:
        """Each further failure locks twice as long, up to an hour."""
        waits = []
        for _ in range(14):
            self.fails()
            refused = self.refused_now()
            waits.append(refused)
            self.clock.advance(refused)

        self.assertEqual(waits, [0, 0, 0, 0, 30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600])

    def refused_now(self) -> float:
        """How long the address is locked, without counting."""
        known = self.done(LoginAttempts(self.directory, self.now)._known(ANA))
        return max(known.locked_until / 1000 - self.now(), 0)

    def test_success_forgets(self) -> None:
        """After a success there are five again."""
        for _ in range(4):
            self.fails()
        self.log_in()

        for _ in range(4):
            self.fails()
        self.log_in()

    def test_address_without_account(self) -> None:
        """It is locked like any other: the lock does not tell who has an account."""
        for _ in range(5):
            self.fails(email="nobody@example.org")

        self.fails(email="Nobody@example.org", code=Code.RATE_LIMITED)
        self.log_in()

    def test_forgotten(self) -> None:
        """Failures of another day count no more, and nothing is kept of them."""
        for _ in range(4):
            self.fails()
        self.clock.advance(86_400)
        self.fails()
        self.log_in()
        self.clock.advance(86_400)

        self.assertEqual(self.done(self.directory.sweep(int(self.now() * 1000), 10)), 1)

    def test_many_at_once(self) -> None:
        """Each attempt counts before it is verified: many at once are no way around the lock."""
        attempts = LoginAttempts(self.directory, self.now)
        for _ in range(5):
            self.done(attempts.begin(ANA))

        self.refused(Code.RATE_LIMITED, attempts.begin(ANA))


class PasswordTests(LoginsCase):
    """Changing a password."""

    def test_changed(self) -> None:
        """The new one opens, the old one doesn't, and sessions that were open end."""
        session = DashboardSession(id="s", account="ana", family="f", token_hash="h", created_at=1, expires_at=1 << 50)
        self.done(self.directory.add([session]))

        account = self.done(self.logins.change_password(self.ana, PASSWORD, OTHER))

        self.assertEqual(account.sessions_from, int(self.now() * 1000))
        self.assertIsNone(self.done(self.directory.find(DashboardSession, "s")))
        self.fails(PASSWORD)
        self.log_in(OTHER)
        self.assertIn("account.password", self.acts())

    def test_not_changed(self) -> None:
        """It takes the old one and a good new one; guessing the old one here counts as well."""
        self.refused(Code.BAD_REQUEST, self.logins.change_password(self.ana, PASSWORD, "short"))
        for _ in range(5):
            self.refused(Code.UNAUTHORIZED, self.logins.change_password(self.ana, "wrong password", OTHER))

        self.refused(Code.RATE_LIMITED, self.logins.change_password(self.ana, PASSWORD, OTHER))

    def test_limited_token(self) -> None:
        """With an access token that is limited nobody changes what they log in with."""
        limited = Actor(account="ana", team="t1")

        self.refused(Code.FORBIDDEN, self.logins.change_password(limited, PASSWORD, OTHER))
        self.refused(Code.FORBIDDEN, self.logins.offer_totp(limited))
        self.refused(Code.FORBIDDEN, self.logins.sign_out_everywhere(limited))

    def test_gone(self) -> None:
        """An account that was deleted meanwhile can do nothing more."""
        self.refused(Code.UNAUTHORIZED, self.logins.sign_out_everywhere(Actor(account="gone")))

    def test_sign_out(self) -> None:
        """Sessions that began before end everywhere."""
        account = self.done(self.logins.sign_out_everywhere(self.ana))

        self.assertEqual(account.sessions_from, int(self.now() * 1000))


class ResetTests(LoginsCase):
    """A password that was lost."""

    def test_reset(self) -> None:
        """The token in the mail sets a new password, once, ends the sessions and lifts a lock."""
        for _ in range(5):
            self.fails()
        self.logins.request_reset("ANA@example.org", ip="192.0.2.3")
        [mail] = self.mail.sent
        token = self.mail.token()
        self.assertEqual(mail.to, ANA)
        self.assertNotIn(token, repr(mail))

        self.done(self.logins.reset_password(token, OTHER))

        self.log_in(OTHER)
        self.assertEqual(self.stored("ana").sessions_from, int(self.now() * 1000))
        self.refused(Code.UNAUTHORIZED, self.logins.reset_password(token, "yet another one"))
        self.assertEqual([act for act in self.acts() if "reset" in act], ["account.reset_request", "account.reset"])

    def test_only_hash_is_kept(self) -> None:
        """Whoever reads the store can't set a password."""
        self.logins.request_reset(ANA)

        [kept] = self.done(self.directory.page(ResetToken, {}, None, 9)).items
        self.assertNotIn(self.mail.token(), str(kept.__struct_fields__) + kept.token_hash)

    def test_expired(self) -> None:
        """It is good for an hour."""
        self.logins.request_reset(ANA)
        self.clock.advance(3600)

        self.refused(Code.UNAUTHORIZED, self.logins.reset_password(self.mail.token(), OTHER))

    def test_bad_password_keeps_the_token(self) -> None:
        """A password that can't be taken does not use the token up."""
        self.logins.request_reset(ANA)
        self.refused(Code.BAD_REQUEST, self.logins.reset_password(self.mail.token(), "short"))

        self.done(self.logins.reset_password(self.mail.token(), OTHER))

    def test_change_ends_resets(self) -> None:
        """A mail from before a password was changed sets none any more."""
        self.logins.request_reset(ANA)
        self.done(self.logins.change_password(self.ana, PASSWORD, OTHER))

        self.refused(Code.UNAUTHORIZED, self.logins.reset_password(self.mail.token(), "yet another one"))

    def test_nobody(self) -> None:
        """Who has no account gets no mail, and the caller learns nothing of that."""
        self.person("bob", is_enabled=False)

        for email in ("nobody@example.org", "bob@example.org", "x" * 5000):
            self.logins.request_reset(email)

        self.assertEqual(self.mail.sent, [])

    def test_one_a_minute(self) -> None:
        """An address is not flooded."""
        for _ in range(3):
            self.logins.request_reset(ANA)
        self.assertEqual(len(self.mail.sent), 1)

        self.clock.advance(60)
        self.logins.request_reset(ANA)
        self.assertEqual(len(self.mail.sent), 2)

    def test_mail_is_away(self) -> None:
        """The operator reads of it in the log."""
        self.mail.failure = Unavailable("the mail server is away")

        self.logins.request_reset(ANA)

        self.assertEqual(len(self.flushLoggedErrors(Unavailable)), 1)
        self.done(self.logins.stop())

    def test_stop_waits(self) -> None:
        """A mail that is being sent is sent before the service has stopped; many at once are refused."""
        gate: Deferred[None] = Deferred()
        send = self.mail.send

        async def slowly(mail: object) -> None:
            await gate
            await send(mail)  # type: ignore[arg-type]  # it is one

        self.mail.send = slowly  # type: ignore[method-assign]  # a slow server
        for number in range(100):
            self.person(f"p{number}")
            self.logins.request_reset(f"p{number}@example.org")
        self.assertRaises(Refused, self.logins.request_reset, ANA)
        stopping = Deferred.fromCoroutine(self.logins.stop())
        self.assertNoResult(stopping)

        gate.callback(None)

        self.successResultOf(stopping)
        self.assertEqual(len(self.mail.sent), 100)


class TotpTests(LoginsCase):
    """The second factor."""

    def enabled(self) -> str:
        """Its secret; it is in use."""
        offer = self.done(self.logins.offer_totp(self.ana))
        self.assertIn(offer.secret, offer.uri)
        self.assertNotIn(offer.secret, repr(offer))
        self.done(self.logins.enable_totp(self.ana, offer.secret, self.code(offer.secret), PASSWORD))
        self.clock.advance(30)
        return offer.secret

    def test_needed(self) -> None:
        """Password and code open the account; the password alone tells that a code is needed, and is no failure."""
        secret = self.enabled()

        for _ in range(7):
            self.failureResultOf(Deferred.fromCoroutine(self.logins.log_in(ANA, PASSWORD)), CodeNeeded)
        self.fails()

        self.log_in(code=self.code(secret))

    def test_replay(self) -> None:
        """A code opens once."""
        secret = self.enabled()
        self.log_in(code=self.code(secret))

        self.refused(Code.UNAUTHORIZED, self.logins.log_in(ANA, PASSWORD, self.code(secret)))

        self.clock.advance(30)
        self.log_in(code=self.code(secret))

    def test_guessing(self) -> None:
        """Wrong codes lock like wrong passwords; asking without one in between does not help."""
        self.enabled()
        for _ in range(5):
            self.refused(Code.UNAUTHORIZED, self.logins.log_in(ANA, PASSWORD, "x"))

        self.refused(Code.RATE_LIMITED, self.logins.log_in(ANA, PASSWORD))

    def test_enabling(self) -> None:
        """It takes the password, a code of the very secret, and that there is none yet."""
        secret = self.done(self.logins.offer_totp(self.ana)).secret

        self.refused(Code.UNAUTHORIZED, self.logins.enable_totp(self.ana, secret, self.code(secret), "wrong password"))
        self.refused(Code.UNAUTHORIZED, self.logins.enable_totp(self.ana, secret, "x", PASSWORD))
        self.refused(Code.BAD_REQUEST, self.logins.enable_totp(self.ana, "short", "000000", PASSWORD))
        self.assertEqual(self.stored("ana").totp_secret, "")

        self.enabled()
        self.refused(Code.CONFLICT, self.logins.enable_totp(self.ana, secret, self.code(secret), PASSWORD))

    def test_disabling(self) -> None:
        """It takes password and code; then the password is enough."""
        secret = self.enabled()
        self.refused(Code.UNAUTHORIZED, self.logins.disable_totp(self.ana, PASSWORD, "x"))

        self.done(self.logins.disable_totp(self.ana, PASSWORD, self.code(secret)))

        self.log_in()
        self.assertIn("account.totp_disable", self.acts())


class FasterAttempts(AccountsCase):
    """A directory in which others are always faster."""

    def test_gives_up(self) -> None:
        """A login that can't be counted is not let through."""

        async def conflict(record: object) -> None:
            raise Conflict("changed")

        attempts = LoginAttempts(self.directory, Now(self.clock))
        self.done(attempts.begin(ANA))
        self.directory.replace = conflict  # type: ignore[method-assign,assignment]  # the others

        self.refused(Code.RATE_LIMITED, attempts.begin(ANA))
        self.assertFalse(self.done(attempts.take_step(ANA, lambda last: last + 1)))


class AuditTests(LoginsCase):
    """What is written down of logins."""

    def test_entry(self) -> None:
        """Who, from where, and nothing secret."""
        self.log_in()

        [entry] = self.done(self.log.page(AuditQuery(), None, 9)).items
        self.assertEqual((entry.actor, entry.target, entry.ip), ("ana", "ana", "192.0.2.9"))
        self.assertNotIn(PASSWORD, repr(entry))
