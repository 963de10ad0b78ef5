"""Everything around accounts in memory, for the tests of the services that have to do with them."""

from __future__ import annotations

import os
from collections.abc import Coroutine
from itertools import count
from typing import Any, TypeVar

from argon2 import PasswordHasher
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.base import SynchronousTestCase
from wsock.backends.memory_audit import MemoryAudit
from wsock.backends.memory_directory import MemoryDirectory
from wsock.errors import Code, Refused
from wsock.interfaces import IMailSender, Mail
from wsock.records import Account, AuditQuery, Role, Team
from wsock.services.access import Access, Actor
from wsock.services.access_tokens import AccessTokens
from wsock.services.accounts import Accounts
from wsock.services.audit import Audit
from wsock.services.logins import Logins
from wsock.services.passwords import Passwords
from wsock.services.teams import Teams, new_member
from wsock.testing.fakes import Now

__all__ = ["CHEAP", "PASSWORD", "AccountsCase", "OneThread", "RecordingMail"]

_T = TypeVar("_T")

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
PASSWORD = "correct horse battery"
_HASH = CHEAP.hash(PASSWORD)


class OneThread(Clock):
    """A reactor whose only thread does everything at once; ``works`` counts what it did."""

    def __init__(self) -> None:
        super().__init__()
        self.works = 0

    def getThreadPool(self) -> OneThread:  # noqa: N802  # Twisted's name
        """This one."""
        return self

    def callInThreadWithCallback(self, told: Any, work: Any, *given: Any, **named: Any) -> None:  # noqa: N802
        """Twisted's hook: does the work and tells the outcome."""
        self.works += 1
        try:
            told(True, work(*given, **named))
        except Exception:
            told(False, Failure())

    def callFromThread(self, work: Any, *given: Any, **named: Any) -> None:  # noqa: N802
        """Twisted's hook: this is the reactor's thread."""
        work(*given, **named)


@implementer(IMailSender)
class RecordingMail:
    """Keeps what is sent; with a ``failure`` nothing can be."""

    def __init__(self) -> None:
        self.sent: list[Mail] = []
        self.failure: Exception | None = None

    async def send(self, mail: Mail) -> None:
        """See IMailSender."""
        if self.failure is not None:
            raise self.failure
        self.sent.append(mail)

    def token(self) -> str:
        """The token in the last mail."""
        words = self.sent[-1].text.replace("=", " ").split()
        return next(word for word in words if word.startswith(("wsi_", "wsr_")))


class AccountsCase(SynchronousTestCase):
    """The services on a directory in memory, at a time that the test moves."""

    is_open = True

    def setUp(self) -> None:
        self.clock = OneThread()
        self.now = Now(self.clock)
        self.directory = MemoryDirectory()
        self.log = MemoryAudit()
        self.mail = RecordingMail()
        self.access = Access(self.directory)
        numbers = count()
        self.audit = Audit(self.log, self.access, self.now, lambda size: next(numbers).to_bytes(size, "big"))
        self.passwords = Passwords(self.clock, CHEAP)
        around = (self.audit, self.now, os.urandom)
        how: dict[str, Any] = {"is_open": self.is_open, "url": "https://w.example/", "default_plan": "free"}
        self.teams = Teams(self.directory, self.mail, *around, **how)
        self.logins = Logins(self.directory, self.passwords, self.mail, *around)
        self.accounts = Accounts(self.directory, self.passwords, self.teams, *around, is_open=self.is_open)
        self.tokens = AccessTokens(self.directory, *around)

    def done(self, work: Coroutine[Deferred[Any], Any, _T]) -> _T:
        """What the coroutine returns, at once."""
        return self.successResultOf(Deferred.fromCoroutine(work))

    def refused(self, code: Code, work: Coroutine[Deferred[Any], Any, Any]) -> Refused:
        """The coroutine ends refused with this code."""
        refused: Refused = self.failureResultOf(Deferred.fromCoroutine(work), Refused).value
        self.assertEqual(refused.code, code, refused.text)
        return refused

    def person(self, name: str, **values: Any) -> Actor:
        """Somebody with an account and the password that all have, logged in."""
        account = Account(id=name, email=f"{name}@example.org", name=name, password_hash=_HASH, created_at=0, **values)
        self.done(self.directory.add([account]))
        return Actor.of(account, "192.0.2.7")

    def team(self, id: str, **members: Role) -> Team:
        """A team with these members, who have accounts."""
        team = Team(id=id, name=id, created_at=0)
        self.done(self.directory.add([team, *(new_member(id, name, role, 0) for name, role in members.items())]))
        return team

    def stored(self, id: str) -> Account:
        """The account as it is stored."""
        account = self.done(self.directory.find(Account, id))
        assert account is not None
        return account

    def acts(self) -> list[str]:
        """What the audit log holds, the oldest first."""
        page = self.done(self.log.page(AuditQuery(), None, 1000))
        return [entry.action for entry in sorted(page.items, key=lambda entry: entry.place)]
