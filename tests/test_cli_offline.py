"""Tests for :mod:`wsock.cli.offline`; ``tests/e2e/test_cli.py`` uses it on the data of a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from argon2 import PasswordHasher
from twisted.internet.task import Clock

from tests.base import SynchronousTestCase
from tests.cli_cases import CliCase
from wsock.backends.sqlite_file import create, lock
from wsock.cli.offline import _set, set_password
from wsock.config import Config
from wsock.errors import Refused
from wsock.interfaces import Account
from wsock.records import AuditQuery, DashboardSession, ResetToken
from wsock.services.attempts import LoginAttempts
from wsock.stores import build_stores

EMAIL = "owner@localhost"


class SetTests(SynchronousTestCase):
    """What is changed in the stores."""

    def setUp(self) -> None:
        self.stores = build_stores(Config(dev=True), Clock(), lambda: 1000.0, lambda: "n")
        self.directory = self.stores.directory
        token: dict[str, Any] = {"account": "acc_1", "created_at": 0, "expires_at": 1 << 50}
        self.successResultOf(
            self.directory.add(
                [
                    Account(id="acc_1", email=EMAIL, password_hash="old", created_at=0, totp_secret="sealed:1:x"),
                    ResetToken(id="res_1", token_hash="a", **token),
                    DashboardSession(id="r1", family="ses_1", token_hash="b", **token),
                ]
            )
        )

    def set(self, email: str = EMAIL, **how: Any) -> Account:
        """The account after that."""
        self.successResultOf(_set(self.stores, email, "correct horse battery", **{"removes_totp": False} | how))
        account: Account | None = self.successResultOf(self.directory.find(Account, "acc_1"))
        assert account is not None
        return account

    def test_password(self) -> None:
        """The new password is the account's, and its second factor stays as it is kept: sealed."""
        account = self.set("Owner@LOCALHOST")

        self.assertTrue(PasswordHasher().verify(account.password_hash, "correct horse battery"))
        self.assertEqual(account.totp_secret, "sealed:1:x")

    def test_sessions_and_tokens_end(self) -> None:
        """Nothing that was begun with the old one goes on."""
        account = self.set()

        self.assertGreater(account.sessions_from, 0)
        self.assertIsNone(self.successResultOf(self.directory.find(DashboardSession, "r1")))
        self.assertIsNone(self.successResultOf(self.directory.find(ResetToken, "res_1")))

    def test_lock_is_lifted(self) -> None:
        """Failed logins do not keep out who has the new one."""
        attempts = LoginAttempts(self.directory, lambda: 1000.0)
        for _ in range(5):
            self.successResultOf(attempts.begin(EMAIL))
        self.failureResultOf(attempts.begin(EMAIL), Refused)

        self.set()

        self.successResultOf(LoginAttempts(self.directory, lambda: 1000.0).begin(EMAIL))

    def test_second_factor(self) -> None:
        """It is taken away if that is wished."""
        self.assertEqual(self.set(removes_totp=True).totp_secret, "")

    def test_audit(self) -> None:
        """The audit log tells of it."""
        self.set()
        page = self.successResultOf(self.stores.audit.page(AuditQuery(), None, 10))

        [entry] = page.items
        self.assertEqual((entry.action, entry.target, entry.actor), ("account.reset", "acc_1", ""))
        self.assertIn("--data", entry.details["by"])

    def test_nobody(self) -> None:
        """An address that has no account is said to have none."""
        failure = self.failureResultOf(_set(self.stores, "a@b", "x", removes_totp=False), click.ClickException)

        self.assertIn("a@b", failure.value.message)


class CheckTests(CliCase):
    """What is looked at before."""

    def setUp(self) -> None:
        super().setUp()
        self.data = Path(self.mktemp())

    def refused(self, password: str = "correct horse battery") -> str:
        """Why it is not done."""
        error = self.assertRaises(click.ClickException, set_password, self.data, EMAIL, password)
        return str(error.message)

    def test_no_data(self) -> None:
        """A directory that no server has used is not made one."""
        self.assertIn("no server has kept anything", self.refused())
        self.assertFalse(self.data.exists())

    def test_in_use(self) -> None:
        """While a server runs on the directory nothing is touched."""
        create(self.data / "wsock.db")
        held = lock(self.data / "wsock.db")
        self.addCleanup(held.close)

        self.assertIn("stop it first", self.refused())

    def test_weak(self) -> None:
        """A password that is too easy is refused, and not shown."""
        create(self.data / "wsock.db")

        self.assertIn("10 characters", self.refused("hush"))
        self.assertNotIn("hush", self.refused("hush"))
