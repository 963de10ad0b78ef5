"""Tests of pushes to Apple's devices, with an agent that only records."""

from __future__ import annotations

import json
from typing import Any

import jwt
import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers
from zope.interface.verify import verifyObject

from tests.base import SynchronousTestCase
from tests.key_pairs import EC_KEY, RSA_KEY, pem_pair, wrong_curve_key
from tests.provider_cases import NOW, message
from wsock.errors import Refused
from wsock.interfaces import (
    ApnsCredentials,
    ApnsDevice,
    IPushProvider,
    PushMessage,
    PushOutcome,
    PushStatus,
    VapidCredentials,
    WebDevice,
)
from wsock.providers.apns import Apns, apns_payload
from wsock.providers.pauses import FAULTS, PAUSE_SECONDS

SECRET, PUBLIC = pem_pair(EC_KEY)
CREDENTIALS = ApnsCredentials(private_key=SECRET, key_id="ABCDE12345", team_id="TEAM123456", topic="com.x.app")
DEVICE = ApnsDevice(token="AB" * 32)


class Answer:
    """An answer whose body is there at once."""

    phrase = b""

    def __init__(self, code: int, body: Any = b"", **headers: str) -> None:
        self.code = code
        self.headers = Headers({name.replace("_", "-"): [value] for name, value in headers.items()})
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()

    def deliverBody(self, protocol: Any) -> None:  # noqa: N802  # Twisted's name
        """See IResponse."""
        protocol.makeConnection(StringTransport())
        protocol.dataReceived(self.body)
        protocol.connectionLost(Failure(ResponseDone()))


class Agent:
    """Keeps what it is asked."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], Any, Deferred[Any]]] = []
        self.closing: Deferred[None] = Deferred()
        self.is_closed = False

    def request(self, method: bytes, uri: bytes, headers: Any = None, bodyProducer: Any = None) -> Deferred[Any]:  # noqa: N803
        """See IAgent."""
        assert method == b"POST"
        parts: list[bytes] = []
        bodyProducer.startProducing(Parts(parts))
        given = {name.decode().lower(): values[0].decode() for name, values in headers.getAllRawHeaders()}
        answer: Deferred[Any] = Deferred()
        self.requests.append((uri.decode(), given, json.loads(b"".join(parts)), answer))
        return answer

    async def close(self) -> None:
        """See AgentOfOne."""
        self.is_closed = True
        await self.closing


class Parts:
    """A consumer."""

    def __init__(self, parts: list[bytes]) -> None:
        self.write = parts.append


class Case(SynchronousTestCase):
    """A provider."""

    def setUp(self) -> None:
        self.now = NOW
        self.clock = Clock()
        self.agents: list[Agent] = []
        self.push = self.provider()

    def provider(self, **options: Any) -> Apns:
        """One whose agents are the test's."""
        return Apns(self.agent, self.clock, lambda: self.now, **options)

    def agent(self) -> Agent:
        """Another one."""
        self.agents.append(Agent())
        return self.agents[-1]

    def send(
        self, told: PushMessage | None = None, device: ApnsDevice = DEVICE, credentials: ApnsCredentials = CREDENTIALS
    ) -> Deferred[PushOutcome]:
        """What becomes of a message."""
        return Deferred.fromCoroutine(self.push.send(credentials, device, told or message()))

    def answered(self, answer: Any, told: PushMessage | None = None) -> PushOutcome:
        """What becomes of it when it is answered so."""
        sending = self.send(told)
        self.last[3].callback(answer)
        return self.successResultOf(sending)

    @property
    def last(self) -> tuple[str, dict[str, str], Any, Deferred[Any]]:
        """The last request."""
        return self.agents[-1].requests[-1]


class SendTests(Case):
    """What APNs gets, and what its answers mean."""

    def test_provides(self) -> None:
        """It is a provider."""
        verifyObject(IPushProvider, self.push)

    def test_request(self) -> None:
        """Where, for which app, how urgently, until when, and in whose name."""
        outcome = self.answered(Answer(200), message(ttl_seconds=60, collapse="c" * 65, urgency="very-low"))

        self.assertEqual(outcome, PushOutcome(status=PushStatus.OK))
        url, headers, body, _ = self.last
        self.assertEqual(url, "https://api.push.apple.com/3/device/" + "AB" * 32)
        scheme, _, token = headers.pop("authorization").partition(" ")
        self.assertEqual(scheme, "bearer")
        self.assertEqual(jwt.get_unverified_header(token), {"alg": "ES256", "kid": "ABCDE12345", "typ": "JWT"})
        claims = jwt.decode(token, PUBLIC, ["ES256"], options={"verify_iat": False})
        self.assertEqual(claims, {"iss": "TEAM123456", "iat": int(NOW)})
        self.assertEqual(len(headers.pop("apns-id")), 36)
        self.assertEqual(len(headers.pop("apns-collapse-id")), 43)
        self.assertEqual(
            headers,
            {
                "apns-topic": "com.x.app",
                "apns-push-type": "alert",
                "apns-priority": "1",
                "apns-expiration": str(int(NOW) + 60),
            },
        )
        self.assertEqual(body, {"aps": {"alert": {"title": "Hello"}, "sound": "default"}})

    def test_sandbox(self) -> None:
        """Apps that are being developed are elsewhere."""
        self.send(credentials=msgspec.structs.replace(CREDENTIALS, environment="sandbox"))

        self.assertTrue(self.last[0].startswith("https://api.sandbox.push.apple.com/3/"))

    def test_id(self) -> None:
        """The same for the same message and device, so a repetition can be told."""
        ids = []
        for told, device in (
            (message(), DEVICE),
            (message(), ApnsDevice(token="ab" * 32)),
            (message(id="m2"), DEVICE),
            (message(), ApnsDevice(token="cd" * 32)),
        ):
            self.send(told, device)
            ids.append(self.last[1]["apns-id"])

        self.assertEqual(ids[0], ids[1])
        self.assertEqual(len(set(ids)), 3)

    def test_given_headers(self) -> None:
        """APNs' own may be chosen, the credential not; one that is no header never leaves."""
        headers = {"apns-push-type": "background", "Apns-Topic": "com.x.app.voip", "authorization": "x", "other": "y"}
        self.send(message(urgency="high", apns={"headers": headers}))
        given = self.last[1]
        self.assertEqual((given["apns-push-type"], given["apns-priority"]), ("background", "5"))
        self.assertEqual(given["apns-topic"], "com.x.app.voip")
        self.assertTrue(given["authorization"].startswith("bearer "))
        self.assertNotIn("other", given)
        for name, value in (("apns-id", "a\nb"), ("apns-id", "ü"), ("apns-x y", "a"), ("apns-id", "")):
            outcome = self.successResultOf(self.send(message(apns={"headers": {name: value}})))
            self.assertIs(outcome.status, PushStatus.REJECTED)

    def test_answers(self) -> None:
        """As Apple documents them."""
        for status, reason, expected in (
            (400, "BadDeviceToken", PushStatus.REJECTED),
            (400, "DeviceTokenNotForTopic", PushStatus.REJECTED),
            (400, "PayloadEmpty", PushStatus.REJECTED),
            (400, "TopicDisallowed", PushStatus.MISCONFIGURED),
            (403, "InvalidProviderToken", PushStatus.MISCONFIGURED),
            (403, "BadEnvironmentKeyIdInToken", PushStatus.MISCONFIGURED),
            (404, "BadPath", PushStatus.REJECTED),
            (410, "ExpiredToken", PushStatus.GONE),
            (413, "PayloadTooLarge", PushStatus.REJECTED),
            (429, "TooManyRequests", PushStatus.RETRY),
            (429, "TooManyProviderTokenUpdates", PushStatus.RETRY),
            (500, "InternalServerError", PushStatus.RETRY),
            (503, "Shutdown", PushStatus.RETRY),
        ):
            outcome = self.answered(Answer(status, {"reason": reason}))
            self.assertIs(outcome.status, expected, reason)
            self.assertEqual(outcome.detail, f"APNs answered {status} {reason}")
            self.assertEqual(outcome.blames_device, reason in ("BadDeviceToken", "DeviceTokenNotForTopic"))
            self.assertEqual(outcome.holds_for_all, reason == "TooManyProviderTokenUpdates")
        gone = self.answered(Answer(410, {"reason": "Unregistered", "timestamp": 1_700_000_000_123}))
        self.assertEqual(gone.gone_at, 1_700_000_000_123)
        for body in (b"<html>", b'{"reason": 3}', b"\xff"):
            self.assertEqual(self.answered(Answer(500, body)).detail, "APNs answered 500")

    def test_waits(self) -> None:
        """What Apple asks for, or what is wise."""
        for answer, seconds in (
            (Answer(429, {"reason": "TooManyRequests"}), 60),
            (Answer(429, {"reason": "TooManyRequests"}, retry_after="7"), 7),
            (Answer(429, {"reason": "TooManyProviderTokenUpdates"}, retry_after="7"), 60),
            (Answer(503, {"reason": "Shutdown"}, retry_after="5"), 5),
            (Answer(503, {"reason": "Shutdown"}), 0),
        ):
            self.assertEqual(self.answered(answer).after_seconds, seconds)

    def test_nobody_answers(self) -> None:
        """It is sent again."""
        refused = self.answered(Failure(ConnectionRefusedError()))
        self.assertIs(refused.status, PushStatus.RETRY)
        self.assertIn("can't be asked", refused.detail)
        late = self.send()
        self.clock.advance(20)
        self.assertIs(self.successResultOf(late).status, PushStatus.RETRY)

    def test_cancelled(self) -> None:
        """Who waits may give up."""
        sending = self.send()
        sending.cancel()

        self.failureResultOf(sending, CancelledError)

    def test_time_that_passed(self) -> None:
        """Nothing is sent when a message's time is over, also while it waits for its turn."""
        self.push = self.provider(at_once=1)
        first, second = self.send(), self.send(message(ttl_seconds=10))
        self.assertEqual(len(self.agents[0].requests), 1)
        self.now += 10
        self.last[3].callback(Answer(200))

        self.assertIs(self.successResultOf(first).status, PushStatus.OK)
        self.assertIs(self.successResultOf(second).status, PushStatus.REJECTED)
        self.assertEqual(len(self.agents[0].requests), 1)

    def test_turns(self) -> None:
        """The time limit of a request begins when it is its turn."""
        self.push = self.provider(at_once=1)
        first, second = self.send(), self.send()
        self.clock.advance(15)
        self.last[3].callback(Answer(200))
        self.clock.advance(15)
        self.last[3].callback(Answer(200))

        self.assertIs(self.successResultOf(first).status, PushStatus.OK)
        self.assertIs(self.successResultOf(second).status, PushStatus.OK)

    def test_key_that_is_refused(self) -> None:
        """One that keeps being refused is not shown for a while."""
        for _ in range(FAULTS):
            self.answered(Answer(403, {"reason": "InvalidProviderToken"}))
        outcome = self.successResultOf(self.send())
        self.assertIs(outcome.status, PushStatus.MISCONFIGURED)
        self.now += PAUSE_SECONDS
        self.assertIs(self.answered(Answer(200)).status, PushStatus.OK)

    def test_what_is_not_apples(self) -> None:
        """Nothing is raised for other devices, keys, or sizes."""
        vapid = VapidCredentials(private_key="", public_key="", subject="")
        web = WebDevice(endpoint="", p256dh="", auth="")
        bad = msgspec.structs.replace(CREDENTIALS, private_key="x")
        for credentials, device, status in (
            (vapid, DEVICE, PushStatus.REJECTED),
            (CREDENTIALS, web, PushStatus.REJECTED),
            (CREDENTIALS, ApnsDevice(token="../x"), PushStatus.REJECTED),
            (bad, DEVICE, PushStatus.MISCONFIGURED),
        ):
            outcome: Any = self.successResultOf(self.push.send(credentials, device, message()))
            self.assertIs(outcome.status, status)
        large = message(body="x" * 4090)
        self.assertIn("4096", self.successResultOf(self.send(large)).detail)
        voip = msgspec.structs.replace(large, apns={"headers": {"apns-push-type": "voip"}})
        self.assertNoResult(self.send(voip))


class TokenTests(Case):
    """Provider tokens, and the connections that they are shown on."""

    def token(self) -> str:
        """That of the last request."""
        return self.last[1]["authorization"]

    def test_kept(self) -> None:
        """One serves for 50 minutes."""
        self.send()
        first = self.token()
        self.now += 50 * 60 - 1
        self.send()
        self.assertEqual(self.token(), first)
        self.now += 1
        self.send()
        self.assertNotEqual(self.token(), first)

    def test_expired(self) -> None:
        """One that APNs calls too old is made anew once, and the message sent again once."""
        expired = {"reason": "ExpiredProviderToken"}
        self.send()
        self.now += 20 * 60
        sending = self.send(), self.send()
        first = self.token()
        for request in self.agents[0].requests[1:3]:
            request[3].callback(Answer(403, expired))
        again = self.agents[0].requests[3:]
        self.assertEqual(len({request[1]["authorization"] for request in again}), 1)
        self.assertNotEqual(self.token(), first)
        again[0][3].callback(Answer(200))
        again[1][3].callback(Answer(403, expired))

        self.assertIs(self.successResultOf(sending[0]).status, PushStatus.OK)
        self.assertIs(self.successResultOf(sending[1]).status, PushStatus.MISCONFIGURED)
        self.assertEqual(len(again), 2)

    def test_expired_too_soon(self) -> None:
        """APNs refuses all tokens of a team that makes them too often: then the clock is wrong, and somebody's task."""
        self.send()
        self.now += 20 * 60 - 1
        outcome = self.answered(Answer(403, {"reason": "ExpiredProviderToken"}))

        self.assertIs(outcome.status, PushStatus.MISCONFIGURED)
        self.assertEqual(len(self.agents[0].requests), 2)

    def test_connections(self) -> None:
        """Every key has its own; topics of one key share them."""
        for changes in (
            {},
            {"topic": "com.x.other"},
            {"team_id": "TEAM654321"},
            {"key_id": "FGHIJ12345"},
            {"environment": "sandbox"},
        ):
            self.send(credentials=msgspec.structs.replace(CREDENTIALS, **changes))
        self.assertEqual([len(agent.requests) for agent in self.agents], [2, 1, 1, 1])

    def test_close(self) -> None:
        """All connections end, and have when it is done."""
        self.send()
        self.send(credentials=msgspec.structs.replace(CREDENTIALS, team_id="TEAM654321"))
        closing = Deferred.fromCoroutine(self.push.close())
        self.assertTrue(all(agent.is_closed for agent in self.agents))
        self.agents[0].closing.callback(None)
        self.assertNoResult(closing)
        self.agents[1].closing.callback(None)
        self.successResultOf(closing)

    def test_many_keys(self) -> None:
        """Of the keys that were not used for longest, the connections end."""
        for number in range(1001):
            self.send(credentials=msgspec.structs.replace(CREDENTIALS, team_id=f"T{number:09}"))

        self.assertEqual([i for i, agent in enumerate(self.agents) if agent.is_closed], [0])


class PayloadTests(SynchronousTestCase):
    """What the device gets."""

    def test_fields(self) -> None:
        """What is shown is in ``aps``, the rest beside it."""
        told = message(body="b", icon="i", image="m", badge="3", url="u", data={"x": 1})

        self.assertEqual(
            apns_payload(told),
            {
                "aps": {"alert": {"title": "Hello", "body": "b"}, "sound": "default", "badge": 3, "mutable-content": 1},
                "url": "u",
                "image": "m",
                "icon": "i",
                "data": {"x": 1},
            },
        )
        self.assertNotIn("badge", apns_payload(message(badge="https://x/badge.png"))["aps"])

    def test_override(self) -> None:
        """What is for Apple's devices alone is merged."""
        told = message(apns={"payload": {"aps": {"sound": "ping.caf", "thread-id": "t"}, "x": 1}})

        self.assertEqual(
            apns_payload(told),
            {"aps": {"alert": {"title": "Hello"}, "sound": "ping.caf", "thread-id": "t"}, "x": 1},
        )
        self.assertEqual(apns_payload(message(apns={"payload": 3})), apns_payload(message()))


class CheckTests(Case):
    """What is refused before anything is sent."""

    def test_credentials(self) -> None:
        """A key on P-256, and ids as Apple gives them."""
        self.push.check_credentials(CREDENTIALS)
        for changes in (
            {"private_key": "x"},
            {"private_key": pem_pair(RSA_KEY)[0]},
            {"private_key": pem_pair(wrong_curve_key())[0]},
            {"private_key": PUBLIC},
            {"key_id": "short"},
            {"key_id": "abcde12345"},
            {"team_id": "TEAM1234567"},
            {"topic": ""},
            {"topic": "a b"},
        ):
            bad = msgspec.structs.replace(CREDENTIALS, **changes)
            self.assertRaises(Refused, self.push.check_credentials, bad)
        vapid = VapidCredentials(private_key="", public_key="", subject="")
        self.assertRaises(Refused, self.push.check_credentials, vapid)

    def test_devices(self) -> None:
        """A device token in hex."""
        self.push.check_device(DEVICE)
        for bad in ("", "ab", "xy" * 32, "ab" * 32 + "/..", "a" * 513):
            self.assertRaises(Refused, self.push.check_device, ApnsDevice(token=bad))
        self.assertRaises(Refused, self.push.check_device, WebDevice(endpoint="", p256dh="", auth=""))

    def test_nothing_is_shown(self) -> None:
        """Neither devices nor keys show what they hold when they are printed."""
        self.assertNotIn("AB", repr(DEVICE))
        self.assertNotIn("PRIVATE", repr(CREDENTIALS))
