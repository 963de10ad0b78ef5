"""Tests for :mod:`wsock.services.sessions`."""

from __future__ import annotations

import os
from typing import Any

import jwt
from msgspec.structs import replace
from twisted.internet.defer import Deferred

from tests.accounts import AccountsCase
from wsock.errors import Code, Unavailable
from wsock.records import Account, DashboardSession
from wsock.services.access import Actor
from wsock.services.sessions import OpenSession, Sessions

KEY, OTHER_KEY = b"k" * 32, b"o" * 32


class SessionsCase(AccountsCase):
    def setUp(self) -> None:
        super().setUp()
        self.clock.advance(1_000)
        self.sessions = self.node()
        self.ana = self.account("ana")

    def node(self, *keys: bytes) -> Sessions:
        """The service as another node has it."""
        sessions = Sessions(self.directory, self.audit, self.now, os.urandom)
        sessions.unlock(keys or [KEY])
        return sessions

    def account(self, name: str, **values: Any) -> Account:
        return self.stored(self.person(name, **values).account)

    def begin(self, account: Account | None = None) -> OpenSession:
        return self.done(self.sessions.begin(account or self.ana, ip="192.0.2.7", user_agent="Browser"))

    def refresh(self, session: OpenSession, sessions: Sessions | None = None) -> OpenSession:
        return self.done((sessions or self.sessions).refresh(session.refresh_token))

    def assert_good(self, session: OpenSession, sessions: Sessions | None = None) -> None:
        known = self.done((sessions or self.sessions).session(session.token))
        self.assertEqual((known.account.id, known.family), (session.account.id, session.family))

    def assert_ended(self, session: OpenSession, sessions: Sessions | None = None) -> None:
        self.refused(Code.UNAUTHORIZED, (sessions or self.sessions).session(session.token))

    def records(self, account: str = "ana") -> list[DashboardSession]:
        return self.done(self.directory.page(DashboardSession, {"account": account}, None, 100)).items


class ManyTests(SessionsCase):
    def test_idle_ones_end(self) -> None:
        """An account has a hundred sessions; beyond that the one that was idle longest ends."""
        first, second = self.begin(), self.begin()
        self.clock.advance(1)
        first = self.refresh(first)
        others = [self.begin() for _ in range(98)]
        self.assert_good(second)

        self.begin()

        self.assert_ended(second)
        for session in (first, *others):
            self.assert_good(session)


class TokenTests(SessionsCase):
    def test_good(self) -> None:
        """A session token tells whose it is, on every node with the same master key."""
        session = self.begin()

        self.assert_good(session)
        self.assert_good(session, self.node())

    def test_changed_while_it_begins(self) -> None:
        """Who proved who they are before sessions were ended, or the account was disabled, gets none behind that."""
        for changed in ({"sessions_from": int(self.now() * 1000)}, {"is_enabled": False}):
            proven = self.stored("ana")
            self.done(self.directory.replace(replace(proven, **changed)))
            self.clock.advance(0.1)

            self.refused(Code.UNAUTHORIZED, self.sessions.begin(proven))
            self.assertEqual(self.records(), [])
        self.done(self.directory.remove(Account, "ana"))
        self.refused(Code.UNAUTHORIZED, self.sessions.begin(self.ana))

    def test_expires(self) -> None:
        """After its minutes it is to be renewed, which has a code of its own."""
        session = self.begin()
        self.clock.advance(899.9)
        self.assert_good(session)
        self.clock.advance(0.1)

        self.refused(Code.TOKEN_EXPIRED, self.sessions.session(session.token))

    def test_forged(self) -> None:
        """A token that another key signed, or that is changed, is none."""
        session = self.begin()
        head, claims, signature = session.token.split(".")
        other = self.begin().token.split(".")

        for token in (f"{head}.{other[1]}.{signature}", f"{head}.{claims}.", "", "x", "a.b.c", "é", "x" * 5000):
            self.refused(Code.UNAUTHORIZED, self.sessions.session(token))
        self.assert_ended(session, self.node(OTHER_KEY))

    def test_no_other_jwt(self) -> None:
        """A JWT is no session token because of its signature alone: its type, audience and claims have to be right."""
        session = self.begin()
        key = self.sessions._keys[0].token
        claims = jwt.decode(session.token, options={"verify_signature": False})
        good = jwt.encode(claims, key, headers={"typ": "wsock-session+jwt"})
        self.done(self.sessions.session(good))

        for changed, head in (
            (claims, {"typ": "JWT"}),
            ({**claims, "aud": "another"}, {"typ": "wsock-session+jwt"}),
            ({**claims, "typ": "reset"}, {"typ": "wsock-session+jwt"}),
        ):
            self.refused(Code.UNAUTHORIZED, self.sessions.session(jwt.encode(changed, key, headers=head)))
        unsigned = jwt.encode(claims, "", algorithm="none", headers={"typ": "wsock-session+jwt"})
        self.refused(Code.UNAUTHORIZED, self.sessions.session(unsigned))

    def test_master_keys(self) -> None:
        """While master keys are replaced, what either node signs is good on both."""
        old, both = self.node(KEY), self.node(KEY, OTHER_KEY)
        by_old = self.done(old.begin(self.ana))
        self.assert_good(by_old, both)
        waiting = self.node(OTHER_KEY, KEY)  # the new key stands before the old one: it only verifies

        self.assert_good(self.done(both.begin(self.ana)), waiting)

    def test_starting(self) -> None:
        """Before there are keys nothing is good, and it is to be tried again."""
        sessions = Sessions(self.directory, self.audit, self.now, os.urandom)

        self.failureResultOf(Deferred.fromCoroutine(sessions.begin(self.ana)), Unavailable)
        self.failureResultOf(Deferred.fromCoroutine(sessions.session(self.begin().token)), Unavailable)

    def test_hidden(self) -> None:
        """Neither a session nor its record shows a token."""
        session = self.begin()
        shown = repr(session) + repr(self.records())

        for secret in (session.token, session.refresh_token, session.csrf_token):
            self.assertNotIn(secret, shown)

    def test_only_hashes_are_kept(self) -> None:
        """No token is in the directory."""
        session = self.begin()
        kept = repr([vars_of(record) for record in self.records()])

        self.assertNotIn(session.refresh_token, kept)
        self.assertNotIn(session.token, kept)

    def test_csrf(self) -> None:
        """The CSRF token is the session's own, and lasts as long as it does."""
        session, other = self.begin(), self.begin()

        self.assertTrue(self.sessions.is_csrf_token(session.family, session.csrf_token))
        self.assertTrue(self.node(KEY, OTHER_KEY).is_csrf_token(session.family, session.csrf_token))
        self.assertEqual(self.refresh(session).csrf_token, session.csrf_token)
        for wrong in (other.csrf_token, "", "é", session.csrf_token[:-1]):
            self.assertFalse(self.sessions.is_csrf_token(session.family, wrong))


class RefreshTests(SessionsCase):
    def test_rotation(self) -> None:
        """A refresh token is good once: each use gives the next one, of the same session."""
        first = self.begin()
        self.clock.advance(60)
        second = self.refresh(first)
        self.clock.advance(60)
        third = self.refresh(second)

        self.assertEqual(len({first.refresh_token, second.refresh_token, third.refresh_token}), 3)
        self.assertEqual({first.family}, {second.family, third.family})
        self.assert_good(third)
        self.assertEqual(len([record for record in self.records() if record.replaced_at is None]), 1)

    def test_stolen(self) -> None:
        """One that was replaced and comes again ends the whole session, and the audit log tells."""
        first = self.begin()
        second = self.refresh(first)
        self.clock.advance(10.1)

        refused = self.refused(Code.UNAUTHORIZED, self.sessions.refresh(first.refresh_token, ip="198.51.100.1"))

        self.assertIn("used before", refused.text)
        self.refused(Code.UNAUTHORIZED, self.sessions.refresh(second.refresh_token))
        self.assert_ended(second)
        self.assertEqual(self.acts()[-1], "account.session_stolen")
        self.assertEqual(self.records(), [])

    def test_stolen_of_another_session(self) -> None:
        """Other sessions of the account go on."""
        other, first = self.begin(), self.begin()
        self.refresh(first)
        self.clock.advance(11)
        self.refused(Code.UNAUTHORIZED, self.sessions.refresh(first.refresh_token))

        self.assert_good(other)

    def test_tabs(self) -> None:
        """Two tabs that renew at the same moment, or a client that missed the answer, get the same next token."""
        first = self.begin()
        second = self.refresh(first)
        self.clock.advance(10)
        again = self.refresh(first, self.node())

        self.assertEqual(again.refresh_token, second.refresh_token)
        self.assert_good(again)

    def test_tabs_over_a_change_of_keys(self) -> None:
        """Also when another node signs with another master key."""
        first = self.begin()
        second = self.refresh(first)
        again = self.refresh(first, self.node(KEY, OTHER_KEY))

        self.assertEqual(again.refresh_token, second.refresh_token)

    def test_together(self) -> None:
        """Of two nodes that renew at once, both tell the same next token, and there is one."""
        first = self.begin()
        [record] = self.records()
        done = self.refresh(first)
        # As the other node read it before.
        again = self.done(self.node()._replace(self.ana, record, first.refresh_token, "", ""))

        self.assertEqual(again.refresh_token, done.refresh_token)
        self.assertEqual(len(self.records()), 2)

    def test_ended_meanwhile(self) -> None:
        """A session that is ended while it is renewed stays ended."""
        first = self.begin()
        [record] = self.records()
        self.done(self.sessions.end(Actor(account="ana"), first.family))

        self.refused(Code.UNAUTHORIZED, self.sessions._replace(self.ana, record, first.refresh_token, "", ""))
        self.assertEqual(self.records(), [])

    def test_expires(self) -> None:
        """A session that nobody renews ends; renewing it puts that off."""
        first = self.begin()
        self.clock.advance(13 * 86_400)
        second = self.refresh(first)
        self.clock.advance(13 * 86_400)
        third = self.refresh(second)
        self.clock.advance(14 * 86_400)

        self.refused(Code.UNAUTHORIZED, self.sessions.refresh(third.refresh_token))

    def test_unknown(self) -> None:
        """What is none is refused."""
        for token in ("", "wsf_x", "é", "x" * 3000, self.begin().token):
            self.refused(Code.UNAUTHORIZED, self.sessions.refresh(token))

    def test_csrf(self) -> None:
        """Where a CSRF token is asked for, a wrong one uses nothing up."""
        session = self.begin()

        self.refused(Code.FORBIDDEN, self.sessions.refresh(session.refresh_token, csrf_token="x"))
        self.done(self.sessions.refresh(session.refresh_token, csrf_token=session.csrf_token))

    def test_disabled(self) -> None:
        """A disabled account renews nothing."""
        session = self.begin()
        self.done(self.directory.replace(replace(self.stored("ana"), is_enabled=False)))

        self.refused(Code.UNAUTHORIZED, self.sessions.refresh(session.refresh_token))

    def test_replaced_are_forgotten(self) -> None:
        """What was replaced is kept for a day to know it again, no longer."""
        self.refresh(self.begin())
        self.clock.advance(86_401)
        self.done(self.directory.sweep(int(self.now() * 1000), 100))

        self.assertEqual([record.replaced_at for record in self.records()], [None])


class EndTests(SessionsCase):
    """What ends sessions takes effect on every node within a second."""

    def setUp(self) -> None:
        super().setUp()
        self.other = self.node()
        self.session = self.begin()
        self.assert_good(self.session)
        self.assert_good(self.session, self.other)
        self.operator = Actor(account="op", is_operator=True)

    def assert_ends_everywhere(self) -> None:
        self.clock.advance(0.95)
        self.assert_ended(self.session)
        self.assert_ended(self.session, self.other)

    def test_logout(self) -> None:
        """Ending a session: on the node that does it at once, elsewhere within the second."""
        self.done(self.sessions.end(Actor.of(self.ana), self.session.family))

        self.assert_ended(self.session)
        self.assert_ends_everywhere()
        self.refused(Code.UNAUTHORIZED, self.sessions.refresh(self.session.refresh_token))

    def test_remembered(self) -> None:
        """Until then a node goes by what it remembers; told of a change it looks again at once."""
        self.done(self.sessions.end(Actor.of(self.ana), self.session.family))
        self.clock.advance(0.5)
        self.assert_good(self.session, self.other)
        self.done(self.other.changed())

        self.assert_ended(self.session, self.other)

    def test_everywhere(self) -> None:
        """Signing out everywhere."""
        second = self.begin()
        self.clock.advance(0.01)
        self.done(self.logins.sign_out_everywhere(Actor.of(self.ana)))
        self.assert_ends_everywhere()
        self.assert_ended(second)

        self.assert_good(self.begin(self.stored("ana")))

    def test_only_begun(self) -> None:
        """Sessions are over as soon as the account says so, also while their records are still being deleted."""
        at = int(self.now() * 1000) + 1
        self.done(self.directory.replace(replace(self.stored("ana"), sessions_from=at)))

        self.assert_ends_everywhere()
        self.refused(Code.UNAUTHORIZED, self.sessions.refresh(self.session.refresh_token))

    def test_disabling(self) -> None:
        """Disabling the account."""
        self.clock.advance(0.01)
        self.done(self.accounts.set_enabled(self.operator, "ana", is_enabled=False))

        self.assert_ends_everywhere()

    def test_enabling_again(self) -> None:
        """What ended with the account being disabled doesn't come back with it."""
        self.clock.advance(0.01)
        self.done(self.accounts.set_enabled(self.operator, "ana", is_enabled=False))
        self.done(self.accounts.set_enabled(self.operator, "ana", is_enabled=True))

        self.assert_ends_everywhere()

    def test_password(self) -> None:
        """Another password."""
        self.clock.advance(0.01)
        self.done(self.logins.change_password(Actor.of(self.ana), "correct horse battery", "staple horse correct"))

        self.assert_ends_everywhere()

    def test_deleting(self) -> None:
        """Deleting the account."""
        self.done(self.accounts.delete(self.operator, "ana"))

        self.assert_ends_everywhere()

    def test_another_account(self) -> None:
        """Nobody ends a session of somebody else, nor learns that there is one."""
        ben = Actor.of(self.account("ben"))

        self.refused(Code.NOT_FOUND, self.sessions.end(ben, self.session.family))
        self.refused(Code.NOT_FOUND, self.sessions.end(ben, "ses_unknown"))
        self.assert_good(self.session)

    def test_fixation(self) -> None:
        """A login begins a session of its own, whatever sessions there were."""
        second = self.begin()

        self.assertNotEqual(second.family, self.session.family)
        self.assertNotEqual(second.csrf_token, self.session.csrf_token)

    def test_moved(self) -> None:
        """A session token never is another account's, whatever it says of itself."""
        claims = jwt.decode(self.session.token, options={"verify_signature": False})
        self.account("ben")
        key = self.sessions._keys[0].token
        token = jwt.encode({**claims, "sub": "ben"}, key, headers={"typ": "wsock-session+jwt"})

        self.refused(Code.UNAUTHORIZED, self.sessions.session(token))


class ListTests(SessionsCase):
    def test_list(self) -> None:
        """The list has each session that goes on once, with its last renewal."""
        first, second = self.begin(), self.begin()
        self.clock.advance(60)
        self.refresh(first)
        self.begin(self.account("ben"))
        page = self.done(self.sessions.sessions(Actor.of(self.ana), None, 100))

        self.assertEqual({known.family for known in page.items}, {first.family, second.family})
        used = {known.family: self.sessions.last_used_at(known) for known in page.items}
        self.assertEqual(used[first.family] - used[second.family], 60_000)

    def test_limited_token(self) -> None:
        """A limited access token neither sees nor ends sessions."""
        session = self.begin()
        limited = Actor(account="ana", permissions=frozenset(["team.read"]))

        self.refused(Code.FORBIDDEN, self.sessions.sessions(limited, None, 100))
        self.refused(Code.FORBIDDEN, self.sessions.end(limited, session.family))


def vars_of(record: DashboardSession) -> dict[str, Any]:
    """All that is stored of a record."""
    return {name: getattr(record, name) for name in record.__struct_fields__}
