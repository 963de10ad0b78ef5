"""Pushes by Firebase against a server of our own that answers as Google's documents say, over real sockets."""

from __future__ import annotations

import json
from time import time  # noqa: TID251  # the token's times are real
from typing import Any, cast

import jwt
from twisted.internet import reactor  # noqa: TID251  # trial's own: the sockets are real
from twisted.internet.defer import Deferred, gatherResults
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from tests.base import TestCase
from tests.key_pairs import RSA_KEY, pem_pair
from wsock.interfaces import FcmCredentials, FcmDevice, PushMessage, PushOutcome, PushStatus
from wsock.providers.fcm import Fcm
from wsock.services.addresses import Guard
from wsock.services.outgoing import Outgoing

SECRET, PUBLIC = pem_pair(RSA_KEY)
ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"


class Google(Resource):
    """Gives tokens to whom the account's key vouches for, and takes messages by them; ``dead`` devices are gone."""

    isLeaf = True  # noqa: N815  # Twisted's name

    def __init__(self) -> None:
        super().__init__()
        self.tokens: list[str] = []
        self.taken: list[Any] = []

    def render_POST(self, request: Request) -> bytes:  # noqa: N802
        """Twisted's hook."""
        request.setHeader("Content-Type", "application/json")
        is_token = request.path == b"/token"
        status, answer = self.token(request) if is_token else self.message(request)
        request.setResponseCode(status)
        return json.dumps(answer).encode()

    def token(self, request: Any) -> tuple[int, Any]:
        """RFC 7523."""
        audience = f"http://127.0.0.1:{request.getHost().port}/token"
        claims = jwt.decode(request.args[b"assertion"][0].decode(), PUBLIC, ["RS256"], audience=audience)
        if claims["iss"] != "push@example.com":
            return 400, {"error": "invalid_grant"}
        self.tokens.append(f"token{len(self.tokens)}")
        return 200, {"access_token": self.tokens[-1], "expires_in": 3599, "token_type": "Bearer"}

    def message(self, request: Any) -> tuple[int, Any]:
        """projects.messages.send."""
        assert request.path == b"/v1/projects/my-app-1/messages:send"
        if request.getHeader("authorization") != f"Bearer {self.tokens[-1]}":
            return 401, {"error": {"code": 401, "status": "UNAUTHENTICATED", "message": "no"}}
        message = json.loads(request.content.read())["message"]
        if message["token"].startswith("dead"):
            details = [{"@type": ERROR, "errorCode": "UNREGISTERED"}]
            return 404, {"error": {"code": 404, "status": "NOT_FOUND", "message": "gone", "details": details}}
        self.taken.append(message)
        return 200, {"name": f"projects/my-app-1/messages/{len(self.taken)}"}


class FcmTests(TestCase):
    """One provider and one server."""

    def setUp(self) -> None:
        self.google = Google()
        site: Any = Site(self.google)
        port: Any = cast(Any, reactor).listenTCP(0, site, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.url = f"http://127.0.0.1:{port.getHost().port}"
        outgoing = Outgoing(reactor, Guard("push.allowed_hosts", allows_loopback=True))
        self.addCleanup(lambda: Deferred.fromCoroutine(outgoing.stop()))
        self.push = Fcm(outgoing, time, url=self.url)

    def send(self, device: str, client_email: str = "push@example.com") -> Deferred[PushOutcome]:
        """What becomes of a message."""
        credentials = FcmCredentials(
            project_id="my-app-1", client_email=client_email, private_key=SECRET, token_uri=f"{self.url}/token"
        )
        message = PushMessage(id="m", created=int(time() * 1000), title="Hello", data={"a": 1})
        return Deferred.fromCoroutine(self.push.send(credentials, FcmDevice(value=device), message))

    async def test_many(self) -> None:
        """Each device gets its own, by one token."""
        outcomes = await gatherResults([self.send(f"device{i}") for i in range(50)])

        self.assertEqual(set(outcomes), {PushOutcome(status=PushStatus.OK)})
        self.assertEqual(sorted(m["token"] for m in self.google.taken), sorted(f"device{i}" for i in range(50)))
        self.assertEqual(self.google.taken[0]["data"], {"a": "1"})
        self.assertEqual(len(self.google.tokens), 1)

    async def test_revoked_token(self) -> None:
        """A token that is no longer good is replaced, and what was refused is sent."""
        await self.send("one")
        self.google.tokens.append("another")

        outcomes = await gatherResults([self.send(f"device{i}") for i in range(3)])

        self.assertEqual({o.status for o in outcomes}, {PushStatus.OK})
        self.assertEqual(len(self.google.tokens), 3)

    async def test_refused(self) -> None:
        """A device that is gone, and an account that is."""
        self.assertIs((await self.send("dead1")).status, PushStatus.GONE)
        self.assertIs((await self.send("one", "deleted@example.com")).status, PushStatus.MISCONFIGURED)
