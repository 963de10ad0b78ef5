"""A server with somebody in every role, and a thing of every kind to ask for: for tests of each operation there is."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from msgspec import inspect

from tests.rest import RestCase
from wsock.config import Accounts, Config
from wsock.edges.http.docs_page import DocsPage
from wsock.edges.http.operations import NoBody, Operation
from wsock.records import Endpoint, Invitation, Key, Namespace, PushAccess, PushRule, Revocation, Revoked, Role
from wsock.services.access import Actor
from wsock.services.auth import hash_api_key
from wsock.services.teams import new_member

__all__ = ["PARAMETERS", "QUERIES", "RolesCase", "minimal"]

TEAM, APP = "demo", "demo"
PARAMETERS = {
    "teamId": TEAM,
    "appId": APP,
    "keyId": "spare",
    "namespaceId": "ns",
    "invitationId": "inv",
    "accountId": "mate",
    "planId": "pro",
    "revocationId": "rev",
    "webhookId": "hook",
    "ruleId": "rule",
    "platform": "fcm",
    "channel": "news",
}
"""What parameters of paths name a thing that is there. Of others there is none: it is not found."""
QUERIES = {("GET", "/api/admin/audit"): f"team={TEAM}", ("GET", "/api/admin/apps"): f"team={TEAM}"}
"""What some operations are asked with."""
BODIES = {
    ("POST", "/api/admin/apps"): {"name": "New", "team": TEAM},
    ("POST", "/api/admin/apps/{appId}/webhooks"): {"url": "https://example.org/new"},
}
"""Bodies that name things that are there, where an example can't."""


class RolesCase(RestCase):
    """``tokens`` has a credential of each kind of caller, under its name.

    People: ``viewer``, ``developer``, ``admin``, ``owner`` of the team, the ``operator`` of the server, a ``stranger``
    who is no member, ``limited`` (an access token of the owner that allows one thing), and ``anonymous``. Of the app:
    ``key``, which may do everything, and ``subscriber``, which may subscribe only.
    """

    config = Config(
        accounts=Accounts(logins_per_minute=0, sign_ups_per_minute=0, resets_per_minute=0, requests_per_minute=0)
    )

    def setUp(self) -> None:
        super().setUp()
        self.build()

    def build(self) -> None:
        """Everybody and everything, as it is at first."""
        self.tokens: dict[str, str | None] = {"anonymous": None, "key": "demo", "subscriber": "subscriber"}
        members = []
        for role in Role:
            self.tokens[role.value] = self.member(f"the-{role}")
            members.append(new_member(TEAM, f"the-{role}", role, 0))
        self.person("mate")
        self.tokens["stranger"] = self.member("stranger")
        self.tokens["operator"] = self.member("the-operator", is_operator=True)
        self.done(self.server.directory.add([*members, new_member(TEAM, "mate", Role.VIEWER, 0), *self.things()]))
        made = self.done(
            self.server.access_tokens.create(Actor(account="the-owner"), "limited", permissions=["webhooks.read"])
        )
        self.tokens["limited"] = made.text

    def things(self) -> list[Any]:
        """One of each kind, which :data:`PARAMETERS` name."""
        return [
            Key(
                id="spare",
                app=APP,
                name="Spare",
                created_at=0,
                api_key_hash=hash_api_key("spare"),
                algorithm="HS256",
                secret="s" * 32,
            ),
            Revocation(id="rev", app=APP, kind=Revoked.CLIENT, value="bob", created_at=0, created_by="the-owner"),
            Key(
                id="subscriber",
                app=APP,
                name="Subscriber",
                created_at=0,
                api_key_hash=hash_api_key("subscriber"),
                permissions={"*": ["subscribe"]},
            ),
            Endpoint(id="hook", app=APP, url="https://example.org/hook", created_at=0),
            Namespace(id="ns", app=APP, pattern="news*", created_at=0),
            PushRule(id="rule", app=APP, pattern="chat*", created_at=0),
            PushAccess(
                id=f"{APP}.fcm",
                app=APP,
                platform="fcm",
                content='{"platform":"fcm","project_id":"p","client_email":"e","private_key":"k"}',
                created_at=0,
            ),
            Invitation(
                id="inv",
                team=TEAM,
                email="new@example.org",
                role=Role.VIEWER,
                token_hash="h",
                invited_by="the-owner",
                created_at=0,
                expires_at=1 << 50,
            ),
        ]

    def operations(self) -> list[Operation]:
        """All that the server answers."""
        found = [one for group in self.server.plane.groups for one in group.operations()]
        return [*found, *DocsPage.operations()]

    def ask_for(self, operation: Operation, caller: str) -> Any:
        """The answer to a request for the operation that is well-formed."""
        path = operation.path
        for name in operation.parameters:
            path = path.replace(f"{{{name}}}", quote(PARAMETERS.get(name, "unknown"), safe=""))
        query = QUERIES.get((operation.method, operation.path))
        body = BODIES.get((operation.method, operation.path), operation.example)
        if body is None and operation.body is not NoBody:
            body = minimal(operation.takes)
        return self.ask(operation.method, f"{path}?{query}" if query else path, body, token=self.tokens[caller])


def minimal(wanted: Any) -> Any:
    """A value of the type with no more in it than has to be."""
    return _value(inspect.type_info(wanted))


def _value(kind: Any) -> Any:
    match kind:
        case inspect.StructType(fields=fields):
            return {field.encode_name: _value(field.type) for field in fields if field.required}
        case inspect.IntType(ge=least) | inspect.FloatType(ge=least):
            return least or 1
        case inspect.StrType(min_length=least):
            return "x" * max(least or 1, 1)
        case inspect.BoolType():
            return False
        case inspect.ListType():
            return []
        case inspect.DictType():
            return {}
        case inspect.EnumType(cls=cls):
            return next(iter(cls)).value
        case inspect.LiteralType(values=values):
            return values[0]
        case inspect.UnionType(types=types):
            return _value(types[0])
        case inspect.Metadata(type=inner):
            return _value(inner)
        case inspect.RawType() | inspect.AnyType():
            return None
    raise ValueError(f"a value for {kind} is missing: give the operation an example, or add it to tests/roles.py")
