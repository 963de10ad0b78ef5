"""Two tenants of one server, with a thing of every kind that bear the same names: for tests that they are apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from tests.accounts import CHEAP, PASSWORD
from tests.push_cases import access
from tests.rest import RestAnswer, RestCase
from tests.roles import minimal
from wsock.config import Accounts, Config
from wsock.edges.http.docs_page import DocsPage
from wsock.edges.http.operations import ANYONE, AppOr, NoBody, Operation, Right
from wsock.interfaces import Audience, FcmCredentials, FcmDevice, PushJob, PushMessage
from wsock.records import (
    Account,
    App,
    Endpoint,
    Invitation,
    Key,
    Namespace,
    PushRule,
    Revocation,
    Revoked,
    Role,
    Team,
)
from wsock.services.access import Actor
from wsock.services.auth import hash_api_key
from wsock.services.roles import PERMISSIONS
from wsock.services.teams import new_member
from wsock.testing import InMemoryClient

__all__ = ["SHARED", "Tenant", "TenantsCase"]

SHARED = {"planId", "channel", "platform", "subscriptionId"}
"""Parameters of paths that name nothing of one tenant: plans are the server's, channels bear the same names.

A device that there is none of is no error: SDKs are told that it was not deleted.
"""
_SAME = "bob"
_HASH = CHEAP.hash(PASSWORD)


@dataclass
class Tenant:
    """Somebody with a team and all that belongs to it. ``word`` is in every text of theirs, and in no other one.

    ``ids`` are the things that parameters of paths may name.
    """

    name: str
    word: str
    address: str
    ids: dict[str, str]
    planted: set[str] = field(default_factory=set)
    session: str = ""
    clients: list[InMemoryClient] = field(default_factory=list)

    def text(self, what: str) -> str:
        """A text that nobody else has."""
        text = f"{self.word}-{what}"
        self.planted.add(text)
        return text

    @property
    def api_key(self) -> str:
        """The API key of its app, which may do everything."""
        return f"{self.name}-api-key"

    @property
    def secret(self) -> str:
        """What signs its JWTs."""
        return f"{self.name}-" + "s" * 32

    @property
    def nouns(self) -> dict[str, str]:
        """What fields of queries and bodies may name."""
        # A plan is nobody's, and under "subscription" stands what a device is reached by.
        ids = {name: id for name, id in self.ids.items() if name not in ("planId", "subscriptionId")}
        short = {name.removesuffix("Id"): id for name, id in ids.items()}
        return {**short, **self.ids, "actor": self.ids["accountId"], "clientId": _SAME}


class TenantsCase(RestCase):
    """A server with the tenants ``a`` and ``b``. What is of ``b`` is nobody else's business."""

    config = Config(
        accounts=Accounts(logins_per_minute=0, sign_ups_per_minute=0, resets_per_minute=0, requests_per_minute=0)
    )

    def build(self) -> None:
        """A server with both."""
        RestCase.setUp(self)
        # Attempts would change what is seen of a delivery, whatever anybody does.
        self.done(self.server.delivering.stopService())
        self.done(self.server.pushing.worker.stopService())
        self.a = self.tenant("a", "wombat", "192.0.2.66")
        self.b = self.tenant("b", "quokka", "198.51.100.77")

    # What they have.

    def tenant(self, name: str, word: str, address: str) -> Tenant:
        """A tenant with all there is."""
        tenant = Tenant(name, word, address, self.ids(name))
        self.done(self.server.directory.add(self.records(tenant)))
        self.memory.advance(1)
        self.administers(tenant)
        self.pushes(tenant)
        self.connects(tenant)
        return tenant

    @staticmethod
    def ids(name: str) -> dict[str, str]:
        """The ids that can be chosen."""
        kinds = ("team", "app", "key", "namespace", "invitation", "account", "revocation", "webhook", "rule")
        shared = {"planId": "pro", "channel": "news", "platform": "fcm"}
        return {**{f"{kind}Id": f"{name}-{kind}" for kind in kinds}, **shared}

    def records(self, tenant: Tenant) -> list[Any]:
        """What is stored: two of what stands in lists."""
        name, text, ids = tenant.name, tenant.text, tenant.ids
        team, app = ids["teamId"], ids["appId"]
        people = [
            Account(id=id, email=f"{text(id)}@example.org", name=text(f"{id}-name"), password_hash=_HASH, created_at=0)
            for id in (f"{name}-owner", ids["accountId"])
        ]
        found: list[Any] = [
            Team(id=team, name=text("team"), created_at=0),
            *people,
            new_member(team, people[0].id, Role.OWNER, 0),
            new_member(team, people[1].id, Role.VIEWER, 0),
            Key(
                id=f"{name}-main",
                app=app,
                name=text("key"),
                created_at=0,
                api_key_hash=hash_api_key(tenant.api_key),
                algorithm="HS256",
                secret=tenant.secret,
                client_ids="*",
            ),
        ]
        found.insert(
            1,
            App(
                id=app,
                name=text("app"),
                created_at=0,
                team=team,
                allowed_origins=(f"https://{text('origin')}.example",),
            ),
        )
        found.insert(2, App(id=f"{app}-2", name=text("other"), created_at=0, team=team))
        for end in ("", "-2"):
            found += self._doubled(tenant, end)
        return found

    def _doubled(self, tenant: Tenant, end: str) -> list[Any]:
        text, ids, app = tenant.text, tenant.ids, tenant.ids["appId"]
        return [
            Key(
                id=ids["keyId"] + end,
                app=app,
                name=text(f"spare{end}"),
                created_at=0,
                api_key_hash=hash_api_key(f"{tenant.name}-spare{end}"),
                algorithm="HS256",
                secret=tenant.secret,
                permissions={f"{text('rights')}{end}:*": ["subscribe"]},
                issuer=text("issuer"),
            ),
            Endpoint(
                id=ids["webhookId"] + end,
                app=app,
                url=f"https://{tenant.name}.example/{text(f'hook{end}')}",
                created_at=0,
                secret=tenant.secret,
            ),
            PushRule(id=ids["ruleId"] + end, app=app, pattern=f"{text('rule')}{end}:*", created_at=0),
            Namespace(id=ids["namespaceId"] + end, app=app, pattern=f"{text('pattern')}{end}:*", created_at=0),
            Revocation(
                id=ids["revocationId"] + end,
                app=app,
                kind=Revoked.TOKEN,
                value=text(f"jti{end}"),
                created_at=0,
                created_by=f"{tenant.name}-owner",
            ),
            Invitation(
                id=ids["invitationId"] + end,
                team=ids["teamId"],
                email=f"{text(f'guest{end}')}@example.org",
                role=Role.VIEWER,
                token_hash=f"{tenant.name}{end}",
                invited_by=f"{tenant.name}-owner",
                created_at=0,
                expires_at=1 << 50,
            ),
        ]

    def administers(self, tenant: Tenant) -> None:
        """The owner is logged in twice, has access tokens, and has done something."""
        owner = self.owner(tenant)
        actor = Actor(account=owner.id, ip=tenant.address)
        for number in range(2):
            agent = tenant.text(f"browser-{number}")
            begun = self.done(self.server.plane.sessions.begin(owner, ip=tenant.address, user_agent=agent))
            made = self.done(self.server.access_tokens.create(actor, tenant.text(f"token-{number}")))
            where = {"team": tenant.ids["teamId"], "app": tenant.ids["appId"], "target": tenant.ids["keyId"]}
            self.done(self.server.plane.audit.record(actor, "key.create", **where, name=tenant.text(f"act-{number}")))
            tenant.session = tenant.session or str(begun.token)
            tenant.ids |= {"sessionId": begun.family, "tokenId": made.token.id}

    def pushes(self, tenant: Tenant) -> None:
        """Two devices of the member that both have, and two pushes to many that are not done."""
        app, text = tenant.ids["appId"], tenant.text
        credentials = FcmCredentials(project_id=text("project"), client_email=text("sender"), private_key=tenant.secret)
        self.done(self.server.directory.add([access(credentials, app)]))
        for number in range(2):
            device = FcmDevice(value=f"{tenant.secret}-{number}")
            metadata = {"page": text(f"page-{number}")}
            registering = self.server.pushing.push.register(app, device, member=_SAME, metadata=metadata)
            tenant.ids["subscriptionId"] = self.done(registering).id
            message = PushMessage(id=f"m{number}", created=0, title=text(f"push-{number}"))
            tenant.ids["jobId"] = f"job_{tenant.name}{number}"
            job = PushJob(id=tenant.ids["jobId"], app=app, audience=Audience(), message=message, created_at=0)
            self.done(self.server.stores.push_jobs.add(job))

    def owner(self, tenant: Tenant) -> Account:
        """The owner of the tenant's team."""
        account: Account | None = self.done(self.server.directory.find(Account, f"{tenant.name}-owner"))
        assert account is not None
        return account

    def connects(self, tenant: Tenant) -> None:
        """Two clients are subscribed, present, and have published: to a channel that both tenants have, and another."""
        agent = {"User-Agent": tenant.text("agent")}
        how: dict[str, Any] = {"address": tenant.address, "headers": agent}
        ana = self.memory.connect(key=tenant.api_key, client_id=tenant.text("ana"), **how)
        tenant.clients = [ana, self.memory.connect(token=self.jwt(tenant), **how)]
        for client in tenant.clients:
            assert client.status == 101, client.body
            for channel in ("news", f"den-{tenant.text('den')}"):
                client.says({"action": "subscribe", "channel": channel})
                enter = {"action": "presence.enter", "channel": channel, "data": {"mood": tenant.text("mood")}}
                client.says(enter)
        for number in range(3):
            publish = {"action": "publish", "channel": "news", "id": f"m{number}"}
            ana.says({**publish, "data": tenant.text(f"message-{number}")})
        self.silence(tenant)
        [first, *_] = [c.peer.id for c in self.server.gate.connections() if c.peer.app == tenant.ids["appId"]]
        tenant.ids["connectionId"] = first

    def jwt(self, tenant: Tenant, **claims: Any) -> str:
        """A JWT of the tenant's app for the client that both have."""
        kid, secret = claims.pop("kid", f"{tenant.name}-main"), claims.pop("secret", tenant.secret)
        return self.memory.token(kid=kid, secret=secret, **{"sub": _SAME, **claims})

    def silence(self, tenant: Tenant) -> list[bytes]:
        """All that the tenant's clients have heard until now."""
        heard = [text for client in tenant.clients for text in client.texts]
        for client in tenant.clients:
            client.take()
        return heard

    # Asking.

    def operations(self) -> list[Operation]:
        """All that the server answers."""
        return [o for group in self.server.plane.groups for o in group.operations()] + list(DocsPage.operations())

    def path(self, operation: Operation, ids: Mapping[str, str]) -> str:
        """The operation's path with these things in it."""
        path = operation.path
        for name in operation.parameters:
            if name not in ids:
                self.fail(f"{operation.path}: tests.tenants has no thing for {{{name}}} to name: give each tenant one")
            path = path.replace(f"{{{name}}}", quote(ids[name], safe=""))
        return path

    def body(self, operation: Operation) -> Any:
        """A body that is well-formed, or ``None``."""
        if operation.body is NoBody:
            return None
        return operation.example if operation.example is not None else minimal(operation.takes)

    # What a tenant sees of its own.

    def seen(self, tenant: Tenant) -> dict[str, bytes]:
        """All that the tenant's owner and API key are shown of what is theirs: the bodies, by path."""
        return {operation.path: answer.body for operation, answer in self.shown(tenant)}

    def shown(self, tenant: Tenant) -> Iterator[tuple[Operation, RestAnswer]]:
        """What everything that shows something shows the tenant."""
        for operation in self.operations():
            if operation.method != "GET" or operation.needs is ANYONE or self.is_operators(operation):
                continue
            answer = self.ask_own(operation, tenant)
            self.assertEqual(answer.status, 200, f"{operation.path}: {answer.body!r}")
            yield operation, answer

    def ask_own(self, operation: Operation, tenant: Tenant, **query: str) -> RestAnswer:
        """The tenant asks for what is its own."""
        if operation.path == "/api/admin/audit":
            query["team"] = tenant.ids["teamId"]
        path = self.path(operation, tenant.ids)
        token = tenant.api_key if isinstance(operation.needs, Right | AppOr) else tenant.session
        return self.ask(operation.method, f"{path}?{urlencode(query)}", self.body(operation), token=token)

    @staticmethod
    def is_operators(operation: Operation) -> bool:
        """Whether it is for operators of the server only."""
        needs: Any = operation.needs
        return needs in PERMISSIONS and PERMISSIONS[needs] is None
