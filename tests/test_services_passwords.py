"""Tests for :mod:`wsock.services.passwords`, :mod:`wsock.services.totp` and :mod:`wsock.services.tokens`."""

from __future__ import annotations

import base64
import os
from typing import Any

from argon2 import PasswordHasher
from twisted.internet.defer import Deferred

from tests.accounts import CHEAP, PASSWORD, AccountsCase, OneThread
from tests.base import SynchronousTestCase
from wsock.errors import Code, Refused, Unavailable
from wsock.services.passwords import Passwords, check_password
from wsock.services.tokens import hash_token, new_token
from wsock.services.totp import accepted_step, code_at, new_secret, secret_uri


class PolicyTests(SynchronousTestCase):
    """Which passwords are taken."""

    def test_taken(self) -> None:
        """Length is enough: no kinds of characters are asked for, and every language will do."""
        for password in (
            PASSWORD,
            "nur kleine buchstaben",
            "\u5bc6\u7801\u5f88\u957f\u5f88\u5b89\u5168\u554a\u54c8\u54c8",
        ):
            check_password(password, "a@example.org")

    def test_refused(self) -> None:
        """What is short, long, monotonous, common or the address itself is refused with the reason."""
        for password, reason in (
            ("short", "10 characters"),
            ("x" * 2000, "1024 bytes"),
            ("ababababab", "different"),
            ("Password123", "tried first"),
            ("ANA.SMITH@example.org", "e-mail"),
            ("ana.smith2026", ""),
        ):
            if not reason:
                check_password(password, "ana.smith@example.org")
                continue
            refused = self.assertRaises(Refused, check_password, password, "ana.smith@example.org")
            self.assertEqual(refused.code, Code.BAD_REQUEST)
            self.assertIn(reason, refused.text)
            self.assertNotIn(password, refused.text)


class HeldThread(OneThread):
    """A reactor whose threads do nothing until they are let."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[tuple[Any, ...]] = []

    def callInThreadWithCallback(self, *call: Any, **named: Any) -> None:  # noqa: N802  # Twisted's name
        """Keeps the work."""
        self.held.append(call)

    def let(self) -> None:
        """Does the work that has waited longest."""
        super().callInThreadWithCallback(*self.held.pop(0))


class PasswordsTests(AccountsCase):
    """Hashing and verifying."""

    def test_verify(self) -> None:
        """The right password verifies, another one doesn't, and a hash that is none is never right."""
        kept = self.done(self.passwords.hash(PASSWORD))

        self.assertTrue(kept.startswith("$argon2id$"))
        self.assertTrue(self.done(self.passwords.verify(kept, PASSWORD)))
        for wrong, password in ((kept, "another one"), ("garbage", PASSWORD), ("", PASSWORD), (kept, "\ud800")):
            self.assertFalse(self.done(self.passwords.verify(wrong, password)))

    def test_nobody(self) -> None:
        """For an account that does not exist as much is done as for one that does."""
        kept = self.done(self.passwords.hash(PASSWORD))
        self.done(self.passwords.verify(None, PASSWORD))
        works = self.clock.works

        self.assertFalse(self.done(self.passwords.verify(None, PASSWORD)))
        self.assertFalse(self.done(self.passwords.verify(None, "nobody has this password")))
        self.done(self.passwords.verify(kept, PASSWORD))

        self.assertEqual(self.clock.works, works + 3)

    def test_outdated(self) -> None:
        """A hash of other parameters is told from one of today's."""
        self.assertTrue(self.passwords.is_outdated(PasswordHasher(time_cost=2, memory_cost=8, parallelism=1).hash("x")))
        self.assertFalse(self.passwords.is_outdated(CHEAP.hash("x")))

    def test_bounded(self) -> None:
        """Two at once, a hundred wait, and what comes beyond that is refused before it costs anything."""
        threads = HeldThread()
        passwords = Passwords(threads, CHEAP)
        hashes = [Deferred.fromCoroutine(passwords.hash("x")) for _ in range(102)]
        self.assertEqual(len(threads.held), 2)

        self.failureResultOf(Deferred.fromCoroutine(passwords.hash("x")), Unavailable)

        while threads.held:
            self.assertLessEqual(len(threads.held), 2)
            threads.let()
        for each in hashes:
            self.successResultOf(each)


class TotpTests(SynchronousTestCase):
    """One-time passwords by time."""

    secret = base64.b32encode(b"12345678901234567890").decode()

    def test_vectors(self) -> None:
        """The codes are those of RFC 6238, appendix B, in their last six digits."""
        for seconds, code in (
            (59, "287082"),
            (1111111109, "081804"),
            (1111111111, "050471"),
            (1234567890, "005924"),
            (2000000000, "279037"),
            (20000000000, "353130"),
        ):
            self.assertEqual(code_at(self.secret, seconds // 30), code)
            self.assertEqual(accepted_step(self.secret, code, seconds, 0), seconds // 30)

    def test_clocks_differ(self) -> None:
        """A code of the step before or behind is good as well, one further away is not."""
        accepted = [accepted_step(self.secret, code_at(self.secret, step), 3000.0, 0) for step in range(98, 103)]

        self.assertEqual(accepted, [None, 99, 100, 101, None])

    def test_replay(self) -> None:
        """No code is good again, nor one from before the last."""
        code = code_at(self.secret, 100)

        self.assertEqual(accepted_step(self.secret, f"{code[:3]} {code[3:]}", 3000.0, 99), 100)
        self.assertIsNone(accepted_step(self.secret, code, 3000.0, 100))
        self.assertIsNone(accepted_step(self.secret, code_at(self.secret, 99), 3000.0, 100))

    def test_garbage(self) -> None:
        """What is no code is wrong and nothing worse."""
        for code in ("", "12345", "1234567", "\u0661\u0662\u0663\u0664\u0665\u0666", "\ud800", "abcdef"):
            self.assertIsNone(accepted_step(self.secret, code, 3000.0, 0))

    def test_secret(self) -> None:
        """A secret has 160 bits, and its URI is what apps read."""
        secret = new_secret(lambda size: b"\x00" * size)

        self.assertEqual(secret, "A" * 32)
        self.assertEqual(
            secret_uri(secret, "a b@x", "w:s"), f"otpauth://totp/w%3As:a%20b%40x?secret={secret}&issuer=w%3As"
        )


class TokenTests(SynchronousTestCase):
    """Random tokens."""

    def test_token(self) -> None:
        """A token has 256 bits in letters that need no escaping, and says what it is for."""
        token = new_token(os.urandom, "wst")

        self.assertRegex(token, r"^wst_[A-Za-z0-9_-]{43}$")
        self.assertNotEqual(token, new_token(os.urandom, "wst"))

    def test_hash(self) -> None:
        """The hash takes any text."""
        self.assertEqual(len(hash_token("\ud800")), 64)
