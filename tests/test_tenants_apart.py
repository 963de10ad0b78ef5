"""Tenants are apart: whatever one asks for, by REST or WebSocket, nothing of another one is shown or changed.

The operations and the requests are the server's own lists, so a new one is in here. Each is asked for with things of
the other tenant, in each place where it names one.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from itertools import product
from typing import Any
from urllib.parse import urlencode

from msgspec import inspect

from tests.rest import RestAnswer
from tests.roles import minimal
from tests.tenants import SHARED, Tenant, TenantsCase
from wsock.edges.http.operations import ANYONE, AppOr, Operation, Right
from wsock.protocol.frames import Request
from wsock.services.access import Actor
from wsock.testing import InMemoryClient
from wsock.verbs import VERBS

NOT_FOUND = {401, 403, 404}
PLACES = ("/metrics", "/health", "/ready", "/api", "/api/admin", "/nowhere")
"""What is answered besides operations."""


class ApartCase(TenantsCase):
    """``a`` asks; ``b`` must not notice."""

    def setUp(self) -> None:
        self.build()

    def assert_nothing_of_b(self, data: bytes, what: str) -> None:
        """There is none of the words that only ``b`` has."""
        for secret in (self.b.word, self.b.address, self.b.secret, self.b.api_key):
            self.assertNotIn(secret.encode(), data, f"{what} shows what is another tenant's")

    def assert_b_unchanged(self, before: dict[str, bytes], what: str) -> None:
        """All that ``b`` sees is as before, and its clients are connected and heard nothing."""
        self.memory.advance(1)
        self.assertEqual([client.closed for client in self.b.clients], [None, None], what)
        heard = [text for text in self.silence(self.b) if text != b'{"action":"pong"}']
        self.assertEqual(heard, [], what)
        after = self.seen(self.b)
        for path, body in before.items():
            self.assertEqual(after[path], body, f"{what} changed {path}")


class OperationTests(ApartCase):
    """Every operation of the REST API."""

    def test_what_there_is(self) -> None:
        """What is looked for is there to be found: its owner is shown each of the texts."""
        seen = b"".join(self.seen(self.b).values())

        for text in self.b.planted:
            self.assertIn(text.encode(), seen)
        self.assertIn(self.b.address.encode(), seen)

    def test_every_operation(self) -> None:
        """With another tenant's ids it is refused, without them it shows and changes one's own only."""
        for operation in self.operations():
            self.build()
            before = self.seen(self.b)
            for caller in self.callers(operation):
                for answer, statuses, what in self.answers(operation, caller):
                    self.assert_nothing_of_b(_bytes(answer), what)
                    self.assertLess(answer.status, 500, what)
                    if statuses:
                        self.assertIn(answer.status, statuses, f"{what}: {answer.body!r}")
                        self.assertIn("error", answer.json, what)
            self.assert_b_unchanged(before, f"{operation.method} {operation.path}")
            self.assert_there(operation)

    def callers(self, operation: Operation) -> list[str]:
        """Who asks: those for whom it is meant come last, since they may end their own sessions."""
        callers = ["anonymous", "jwt", "key", "token", "owner"]
        return sorted(callers, key=lambda name: isinstance(operation.needs, Right | AppOr) == (name in ("jwt", "key")))

    def credential(self, caller: str) -> str | None:
        """A fresh one, since the last request may have ended it."""
        match caller:
            case "jwt":
                return self.jwt(self.a)
            case "key":
                return self.a.api_key
            case "owner":
                return self.session(self.owner(self.a))
            case "token":
                actor = Actor.of(self.owner(self.a))
                return str(self.done(self.server.access_tokens.create(actor, "all")).text)
        return None

    def answers(self, operation: Operation, caller: str) -> Iterator[tuple[RestAnswer, set[int], str]]:
        """The answers to a request with each mixture of things, and what they may be if it asked for one of ``b``."""
        for tenants in _mixtures(operation.parameters, (self.b, self.a)):
            ids = {name: tenant.ids[name] for name, tenant in tenants.items() if name in tenant.ids}
            path = self.path(operation, ids)
            is_foreign = self.b in [tenant for name, tenant in tenants.items() if name not in SHARED]
            statuses = NOT_FOUND if is_foreign else set()
            for query, body in self.variants(operation):
                target = f"{path}?{urlencode(query)}" if query else path
                answer = self.ask(operation.method, target, body, token=self.credential(caller))
                yield answer, statuses, f"{operation.method} {target} {body} by {caller} ({answer.status})"
                # The further ones name things beside one another that don't go together.
                statuses = statuses and {*NOT_FOUND, 400}

    def variants(self, operation: Operation) -> Iterator[tuple[dict[str, str], Any]]:
        """Queries and bodies that name things of either tenant, wherever they may name one; cursors of lists too."""
        body = self.body(operation)
        yield {}, body
        for query in self.naming(operation.query):
            yield query, body
        if "cursor" in operation.query.__struct_fields__ and operation.needs is not ANYONE:
            cursor = self.cursor(operation)
            own = {"team": self.a.ids["teamId"]} if "team" in operation.query.__struct_fields__ else {}
            if cursor is not None:
                yield {**own, "cursor": cursor}, body
        if isinstance(body, dict):
            for named in self.naming(operation.body):
                yield {}, {**body, **named}

    def naming(self, struct: Any) -> Iterator[dict[str, str]]:
        """Each way of naming things in the fields of the struct."""
        fields = [name for name in getattr(struct, "__struct_encode_fields__", ()) if name in self.b.nouns]
        for values in product(*[(None, self.a.nouns[name], self.b.nouns[name]) for name in fields]):
            named = {name: value for name, value in zip(fields, values, strict=True) if value is not None}
            if named:
                yield named

    def cursor(self, operation: Operation) -> str | None:
        """Where ``b``'s list goes on, if it does."""
        if self.is_operators(operation):
            return None
        answer = self.ask_own(operation, self.b, limit="1")
        return answer.json["next"] if answer.status == 200 else None

    def assert_there(self, operation: Operation) -> None:
        """What ``a`` was refused is there: ``b`` is not refused it."""
        if not operation.parameters or operation.needs is ANYONE or self.is_operators(operation):
            return
        answer = self.ask_own(operation, self.b)
        what = f"{operation.method} {operation.path} {answer.status} {answer.body!r}"
        self.assertNotIn(answer.status, NOT_FOUND, what)
        self.assertLess(answer.status, 500, what)

    def test_other_places(self) -> None:
        """What is answered besides operations names nobody."""
        for path in PLACES:
            for token in (None, self.a.api_key):
                self.assert_nothing_of_b(_bytes(self.ask("GET", path, token=token)), path)

    def test_same_message_ids(self) -> None:
        """A message with the id of another tenant's, in a channel of the same name, is no repetition of it."""
        before = self.seen(self.b)
        for number in range(3):
            body = {"id": f"m{number}-rest", "data": "mine"}
            other = {**body, "id": f"m{number}"}
            for item in (body, other, {**other, "id": f"m{number}"}):
                answer = self.ask("POST", "/api/channels/news/messages", item, token=self.a.api_key)
                self.assertEqual(answer.status, 200, answer.body)
        self.assert_b_unchanged(before, "publishing")
        history = self.ask("GET", "/api/channels/news/messages", token=self.a.api_key).json["messages"]
        self.assertEqual(len(history), 6)


class CredentialTests(ApartCase):
    """Keys and tokens that are partly another tenant's."""

    def mixed(self) -> dict[str, dict[str, Any]]:
        """Handshakes that are to be refused."""
        a, b = self.a, self.b
        return {
            "the other's kid": {"token": self.jwt(a, kid="b-main")},
            "the other's signature": {"token": self.jwt(b, kid="a-main")},
            "no kid of anybody": {"token": self.jwt(a, kid="b-app")},
            "the other's key id": {"key": "b-main"},
            "the other's hash": {"key": "b-key"},
        }

    def test_handshakes(self) -> None:
        """A credential is of one app, whatever it claims."""
        before = self.seen(self.b)
        for what, how in self.mixed().items():
            client = self.memory.connect(**how)
            self.assertEqual(client.status, 401, what)
            bearer = how.get("token") or how.get("key")
            for path in ("/api/channels", "/api/connections"):
                answer = self.ask("GET", path, token=bearer)
                self.assertEqual(answer.status, 401, what)
                self.assert_nothing_of_b(_bytes(answer), what)
        self.assert_b_unchanged(before, "mixed credentials")

    def test_claims(self) -> None:
        """Neither claims nor parameters open another app."""
        named = {"app": "b-app", "appId": "b-app", "app_id": "b-app", "team": "b-team", "aud": "b-app", "iss": "b-main"}
        handshakes: tuple[dict[str, Any], ...] = (
            {"token": self.jwt(self.a, **named)},
            {"key": self.a.api_key, "query": named},
            {"key": self.a.api_key, "path": "/b-app"},
            {"key": self.a.api_key, "headers": {"X-App-Id": "b-app"}},
        )
        for how in handshakes:
            client = self.memory.connect(**how)
            self.assertEqual(client.status, 101, client.body)
            client.says({"action": "history", "channel": "news"})
            self.assertIn(b"wombat-message", client.texts[-1])
            self.assert_nothing_of_b(b"".join(client.texts), str(how))


class RequestTests(ApartCase):
    """Every request of the WebSocket."""

    def test_every_request(self) -> None:
        """It reaches the client's own app, whatever it names."""
        before = self.seen(self.b)
        credentials: tuple[dict[str, Any], ...] = (
            {"key": self.a.api_key, "client_id": "bob"},
            {"token": self.jwt(self.a)},
        )
        for request in VERBS:
            for how in credentials:
                for frame in self.frames(request):
                    client = self.memory.connect(**how)
                    self.assertEqual(client.status, 101, client.body)
                    client.says(frame)
                    self.assert_nothing_of_b(b"".join(client.texts) + client.close_reason.encode(), str(frame))
                    self.assert_still_a(client)
                    client.disappears()
            self.assert_b_unchanged(before, str(request))

    def frames(self, request: type[Request]) -> Iterator[dict[str, Any]]:
        """The request with things of ``b`` in each of its fields that may name any, alone and together."""
        config, shape = request.__struct_config__, inspect.type_info(request)
        assert isinstance(shape, inspect.StructType)
        known = self.fields()
        choices: list[list[tuple[str, Any]]] = []
        for one in shape.fields:
            if one.encode_name not in known:
                self.fail(f"'{config.tag}' has the field '{one.encode_name}': say in fields() what it may name")
            values = known[one.encode_name] if one.required else [None, *known[one.encode_name]]
            choices.append([(one.encode_name, value) for value in values])
        for chosen in product(*choices):
            given = {name: value for name, value in chosen if value is not None}
            yield {"action": config.tag, **minimal(request), **given}

    def fields(self) -> dict[str, list[Any]]:
        """Values for the fields of requests that lead to what is ``b``'s, if anything does."""
        epoch = self.ask("GET", "/api/channels/news", token=self.b.api_key).json["epoch"]
        past = _token(["news"], 1)
        return {
            "channel": ["news", "b-app:news", "b-app/news"],
            "data": [{"x": 1}],
            "id": ["m1"],
            "persist": [True],
            "limit": [1000],
            "before": [1 << 50],
            "after": [1],
            "direction": ["forward"],
            "rewind": [100],
            "token": [self.jwt(self.b), past],
            "resumeToken": [past],
            "positions": [{"news": {"epoch": epoch, "sequence": 0}}, {"news": {"epoch": epoch, "sequence": 2}}],
        }

    def assert_still_a(self, client: InMemoryClient) -> None:
        """The connection is one of ``a``'s app still."""
        if client.closed is None:
            client.take()
            client.says({"action": "history", "channel": "news"})
            self.assertIn(b"wombat-message-0", b"".join(client.texts))

    def test_live(self) -> None:
        """What happens in a channel of the same name is heard by one's own clients only."""
        for other, tenant in ((self.a, self.b), (self.b, self.a)):
            self.silence(other)
            speaker = tenant.clients[1]
            speaker.says({"action": "publish", "channel": "news", "id": "live", "data": tenant.text("live")})
            speaker.says({"action": "presence.update", "channel": "news", "data": {"mood": tenant.text("new")}})
            speaker.says({"action": "presence.leave", "channel": "news"})
            self.ask("POST", "/api/channels/news/messages", {"data": tenant.text("rest")}, token=tenant.api_key)
            self.ask(
                "POST",
                f"/api/admin/apps/{tenant.ids['appId']}/channels/news/messages",
                {"data": tenant.text("admin")},
                token=tenant.session,
            )
            heard = b"".join(self.silence(tenant))
            for text in ("live", "new", "rest", "admin"):
                self.assertIn(tenant.text(text).encode(), heard)
            self.assertEqual(self.silence(other), [])


def _mixtures(names: tuple[str, ...], tenants: tuple[Tenant, ...]) -> list[dict[str, Tenant]]:
    """Each name as one of either tenant, in all ways; the last one is all of the last tenant."""
    return [dict(zip(names, chosen, strict=True)) for chosen in product(tenants, repeat=len(names))]


def _bytes(answer: RestAnswer) -> bytes:
    """All that was answered."""
    return f"{answer.headers}{answer.cookies}".encode() + answer.body


def _token(channels: list[str], since: int) -> str:
    return base64.urlsafe_b64encode(json.dumps({"channels": channels, "lastTs": since}).encode()).decode()
