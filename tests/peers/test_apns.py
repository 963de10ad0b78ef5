"""Pushes to Apple's devices against a service on Node's HTTP/2 that is as strict as Apple's."""

from __future__ import annotations

import json
from time import time  # noqa: TID251  # the peer's clock is the real one
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet import reactor  # noqa: TID251  # trial's own: the sockets are real
from twisted.internet.defer import Deferred, gatherResults
from twisted.web.client import readBody

from tests.base import TestCase
from tests.key_pairs import EC_KEY, pem_pair
from tests.peers.node import CERTIFICATE, start_apns
from wsock.interfaces import ApnsCredentials, ApnsDevice, PushMessage, PushOutcome, PushStatus
from wsock.providers.apns import Apns
from wsock.providers.h2agent import H2Agent

CLOCK: Any = reactor
SECRET, PUBLIC = pem_pair(EC_KEY)


class ApnsTests(TestCase):
    """One provider and one service."""

    async def start(self, **options: Any) -> None:
        """A service that looks at provider tokens, and a provider that trusts it."""
        _, self.port = await start_apns(self, publicKey=PUBLIC, **options)
        self.now: Any = time
        url = f"https://localhost:{self.port}"
        self.provider = Apns(self.agent, CLOCK, lambda: self.now(), hosts={"production": url})
        self.addCleanup(lambda: Deferred.fromCoroutine(self.provider.close()))

    def agent(self) -> H2Agent:
        """Of one key."""
        return H2Agent(CLOCK, trust_root=CERTIFICATE.trust_root)

    def send(self, device: str, secret: str = SECRET, **values: Any) -> Deferred[PushOutcome]:
        """What becomes of a message."""
        credentials = ApnsCredentials(private_key=secret, key_id="ABCDE12345", team_id="TEAM123456", topic="com.x.app")
        message = PushMessage(**{"id": "m", "created": int(time() * 1000), "title": "Hello", **values})
        return Deferred.fromCoroutine(self.provider.send(credentials, ApnsDevice(token=device), message))

    async def state(self) -> Any:
        """What the service has seen."""
        agent = self.agent()
        response = await agent.request(b"GET", f"https://localhost:{self.port}/state".encode())
        state = json.loads(await readBody(response))
        await agent.close()
        return state

    async def test_taken(self) -> None:
        """The service knows the token's signature, and gets what belongs to a notification."""
        await self.start()

        outcome = await self.send("ab" * 32, body="World", collapse="score", ttl_seconds=0, urgency="low")

        self.assertEqual(outcome, PushOutcome(status=PushStatus.OK))
        [taken] = (await self.state())["taken"]
        self.assertEqual(taken["device"], "ab" * 32)
        self.assertEqual(taken["body"], {"aps": {"alert": {"title": "Hello", "body": "World"}, "sound": "default"}})
        headers = {name: value for name, value in taken["headers"].items() if name.startswith("apns-")}
        self.assertEqual(len(headers.pop("apns-id")), 36)
        self.assertEqual(
            headers,
            {
                "apns-topic": "com.x.app",
                "apns-push-type": "alert",
                "apns-priority": "5",
                "apns-expiration": "0",
                "apns-collapse-id": "score",
            },
        )

    async def test_refused(self) -> None:
        """What the service answers, as outcomes."""
        await self.start()
        tail = "0" * 60
        for device, status, said in (
            ("bad0", PushStatus.REJECTED, "BadDeviceToken"),
            ("dead", PushStatus.GONE, "Unregistered"),
            ("4130", PushStatus.REJECTED, "PayloadTooLarge"),
            ("4030", PushStatus.MISCONFIGURED, "InvalidProviderToken"),
            ("4290", PushStatus.RETRY, "TooManyRequests"),
            ("5030", PushStatus.RETRY, "ServiceUnavailable"),
        ):
            outcome = await self.send(device + tail)
            self.assertIs(outcome.status, status)
            self.assertIn(said, outcome.detail)
        self.assertEqual((await self.send("dead" + tail)).gone_at, 1_700_000_000_000)

    async def test_wrong_key(self) -> None:
        """A key that is not the team's is the app's fault."""
        await self.start()
        secret, _ = pem_pair(ec.generate_private_key(ec.SECP256R1()))

        self.assertIs((await self.send("ab" * 32, secret)).status, PushStatus.MISCONFIGURED)

    async def test_fifty_at_once(self) -> None:
        """One stream until a token is seen, then GOAWAY in the middle, twice: none is lost, none doubled."""
        for refused_after in (1, 10, 25):
            await self.start(strict=True, goawayAfter=refused_after, goaways=2, answerAfter=10)
            devices = [f"{i:064x}" for i in range(50)]

            outcomes = await gatherResults([self.send(device) for device in devices], consumeErrors=True)

            self.assertEqual([o.status for o in outcomes], [PushStatus.OK] * 50)
            state = await self.state()
            self.assertEqual(sorted(t["device"] for t in state["taken"]), devices)
            self.assertEqual(len(state["tokens"]), 1)

    async def test_token_that_expires(self) -> None:
        """One that is too old is made anew, once for all that wait; but not more often than APNs lets one."""
        await self.start(expireAfter=1)
        started = time()
        self.assertIs((await self.send("ab" * 32)).status, PushStatus.OK)
        self.now = lambda: started + 600
        self.assertIs((await self.send("ab" * 32)).status, PushStatus.MISCONFIGURED)
        self.now = lambda: started + 1300

        outcomes = await gatherResults([self.send(f"{i:064x}") for i in range(20)])

        self.assertEqual([o.status for o in outcomes], [PushStatus.OK] * 20)
        self.assertEqual(len((await self.state())["tokens"]), 2)
