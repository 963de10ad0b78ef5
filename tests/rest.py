"""The REST API of a whole server in memory: what is asked, by whom, and what is answered."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from tests.accounts import CHEAP, PASSWORD, OneThread
from tests.base import SynchronousTestCase
from tests.http_client import open_http, request
from wsock.config import Config
from wsock.records import Account, Role, Team
from wsock.services.teams import new_member
from wsock.testing.server import InMemoryServer

__all__ = ["Cookie", "RestAnswer", "RestCase"]

_HASH = CHEAP.hash(PASSWORD)


@dataclass(frozen=True, slots=True)
class Cookie:
    """A cookie as it was set."""

    value: str
    attributes: frozenset[str]


@dataclass(frozen=True, slots=True)
class RestAnswer:
    """One answer; header names are in lower case."""

    status: int
    headers: dict[str, str]
    cookies: dict[str, Cookie]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @classmethod
    def read(cls, data: bytes) -> RestAnswer:
        """The one answer that the bytes are."""
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers, cookies = {}, {}
        for name, _, value in (line.partition(": ") for line in lines):
            headers[name.lower()] = value
            if name.lower() == "set-cookie":
                pair, *attributes = value.split("; ")
                cookies[pair.partition("=")[0]] = Cookie(pair.partition("=")[2], frozenset(attributes))
        return cls(int(first.split(" ")[1]), headers, cookies, body)


class RestCase(SynchronousTestCase):
    """A server in memory, as ``--dev`` starts it, but with the settings of ``config``.

    Passwords are hashed at once: time passes when the test says so.
    """

    config = Config()

    def setUp(self) -> None:
        self.clock = OneThread()
        self.memory = InMemoryServer(self.config, clock=self.clock)
        self.server = self.memory.server
        self.addCleanup(self.memory.stop)

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        cookies: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        server: InMemoryServer | None = None,
    ) -> RestAnswer:
        """The answer to a request; ``token`` is a bearer. A body that is no bytes is sent as JSON."""
        headers = dict(headers or {})
        if cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
        memory = server or self.memory
        transport = open_http(memory.server._site)
        transport.protocol.dataReceived(request(method, path, body, key=token, headers=headers))
        memory.settle()
        transport.protocol.connectionLost(Failure(ConnectionDone()))
        return RestAnswer.read(bytes(transport.value()))

    def done(self, work: Any) -> Any:
        """What the coroutine returns."""
        return self.memory.wait_for(work)

    def person(self, name: str, **values: Any) -> Account:
        """Somebody with an account and the password that all have."""
        account = Account(id=name, email=f"{name}@example.org", name=name, password_hash=_HASH, created_at=0, **values)
        self.done(self.server.directory.add([account]))
        return account

    def session(self, account: Account) -> str:
        """A session token of the account."""
        return str(self.done(self.server.plane.sessions.begin(account)).token)

    def member(self, name: str, **values: Any) -> str:
        """A session token of somebody new."""
        return self.session(self.person(name, **values))

    def team(self, id: str, **members: Role) -> Team:
        """A team with these members, who have accounts."""
        team = Team(id=id, name=id, created_at=0)
        self.done(self.server.directory.add([team, *(new_member(id, name, role, 0) for name, role in members.items())]))
        return team

    def operator(self) -> str:
        """A session token of the operator that ``--dev`` begins with."""
        account = self.done(self.server.directory.account_by_email("admin@localhost"))
        return self.session(account)

    def assert_refused(self, answer: RestAnswer, status: int, code: str, *names: str) -> None:
        """The answer is this refusal, and its text names these things."""
        self.assertEqual((answer.status, answer.json["code"]), (status, code), answer.body)
        for name in names:
            self.assertIn(name, answer.json["error"])
