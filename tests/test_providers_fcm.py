"""Tests of pushes by Firebase, and of Google's access tokens."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs

import jwt
import msgspec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from twisted.internet.defer import CancelledError, Deferred
from zope.interface.verify import verifyObject

from tests.base import SynchronousTestCase
from tests.key_pairs import EC_KEY, RSA_KEY, pem_pair, small_rsa_key
from tests.provider_cases import NOW, RecordedPosting, message, reply
from wsock.errors import Refused
from wsock.interfaces import (
    ApnsDevice,
    Blocked,
    FcmCredentials,
    FcmDevice,
    IPushProvider,
    NotSent,
    PushMessage,
    PushOutcome,
    PushStatus,
    VapidCredentials,
)
from wsock.providers.fcm import Fcm, fcm_message
from wsock.providers.pauses import FAULTS, PAUSE_SECONDS

SECRET, PUBLIC = pem_pair(RSA_KEY)
CREDENTIALS = FcmCredentials(
    project_id="my-app-1", client_email="push@my-app-1.iam.example", private_key=SECRET, private_key_id="k1"
)
DEVICE = FcmDevice(value="abc:DEF-_1")
GRANTED = {"access_token": "t1", "expires_in": 3599, "token_type": "Bearer"}
TAKEN = {"name": "projects/my-app-1/messages/1"}


def error(status: int, code: str, message: str = "", *details: Any, **headers: str) -> Any:
    """An answer as Google's APIs have it; FCM's own code is in the details."""
    told = {"code": status, "message": message, "status": code, "details": list(details)}
    if not details:
        told["details"] = [{"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code}]
    return reply(status, {"error": told}, **headers)


class Case(SynchronousTestCase):
    """A provider."""

    def setUp(self) -> None:
        self.now = NOW
        self.posting = RecordedPosting()
        self.push = Fcm(self.posting, lambda: self.now)

    def sending(
        self, told: PushMessage | None = None, device: FcmDevice = DEVICE, credentials: FcmCredentials = CREDENTIALS
    ) -> Deferred[PushOutcome]:
        """A message on its way."""
        return Deferred.fromCoroutine(self.push.send(credentials, device, told or message()))

    def send(self, *answers: Any, told: PushMessage | None = None) -> PushOutcome:
        """What becomes of a message when the servers answer so."""
        self.posting.answers.extend(answers)
        return self.successResultOf(self.sending(told))

    def granted(self) -> None:
        """There is a token."""
        self.assertIs(self.send(reply(200, GRANTED), reply(200, TAKEN)).status, PushStatus.OK)

    @property
    def asked_for_tokens(self) -> int:
        """How often."""
        return sum("oauth2" in posted.url for posted in self.posting.posted)


class SendTests(Case):
    """What FCM gets, and what its answers mean."""

    def test_provides(self) -> None:
        """It is a provider."""
        verifyObject(IPushProvider, self.push)
        self.successResultOf(self.push.close())

    def test_request(self) -> None:
        """To the project, with the token, for one device."""
        self.granted()

        posted = self.posting.posted[-1]
        self.assertEqual(posted.url, "https://fcm.googleapis.com/v1/projects/my-app-1/messages:send")
        self.assertEqual(posted.headers, {"Authorization": "Bearer t1", "Content-Type": "application/json"})
        self.assertEqual((posted.options["guard"], posted.options["kind"]), (True, "push"))
        self.assertEqual(
            json.loads(posted.body),
            {
                "message": {
                    "token": "abc:DEF-_1",
                    "notification": {"title": "Hello"},
                    "android": {"ttl": "2419200s", "priority": "normal"},
                }
            },
        )

    def test_installation_id(self) -> None:
        """What replaces tokens; and no override chooses another target."""
        self.granted()
        self.posting.answers.append(reply(200, TAKEN))
        told = message(fcm={"topic": "all", "token": "other", "fid": "x", "condition": "c"})
        self.successResultOf(self.sending(told, FcmDevice(value="f1", kind="fid")))

        sent = json.loads(self.posting.posted[-1].body)["message"]
        self.assertEqual(sent["fid"], "f1")
        self.assertFalse({"token", "topic", "condition"} & set(sent))

    def test_answers(self) -> None:
        """By FCM's own code first, then by the status."""
        self.granted()
        field_error = {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": []}
        for answer, expected in (
            (error(404, "UNREGISTERED"), PushStatus.GONE),
            (error(403, "SENDER_ID_MISMATCH"), PushStatus.GONE),
            (
                error(400, "INVALID_ARGUMENT", "The registration token is not a valid FCM registration token"),
                PushStatus.GONE,
            ),
            (error(400, "INVALID_ARGUMENT", "Message too big"), PushStatus.REJECTED),
            (error(400, "INVALID_ARGUMENT", "registration token", field_error), PushStatus.REJECTED),
            (error(429, "QUOTA_EXCEEDED"), PushStatus.RETRY),
            (error(503, "UNAVAILABLE"), PushStatus.RETRY),
            (error(500, "INTERNAL"), PushStatus.RETRY),
            (error(401, "THIRD_PARTY_AUTH_ERROR"), PushStatus.MISCONFIGURED),
            (error(403, "PERMISSION_DENIED"), PushStatus.MISCONFIGURED),
            (reply(404, b"<html>"), PushStatus.MISCONFIGURED),
            (reply(502, b"<html>"), PushStatus.RETRY),
            (reply(429, b"<html>"), PushStatus.RETRY),
            (reply(400, {"error": "x"}), PushStatus.REJECTED),
            (reply(301), PushStatus.REJECTED),
        ):
            self.assertIs(self.send(answer).status, expected, answer)
        self.assertEqual(self.asked_for_tokens, 1)

    def test_waits(self) -> None:
        """What Google asks for, or advises."""
        self.granted()
        for answer, seconds, for_all in (
            (error(429, "QUOTA_EXCEEDED"), 60, True),
            (error(429, "QUOTA_EXCEEDED", retry_after="7"), 7, True),
            (reply(429), 60, True),
            (error(503, "UNAVAILABLE"), 10, False),
            (error(503, "UNAVAILABLE", retry_after="30"), 30, False),
            (error(503, "UNAVAILABLE", retry_after="3"), 10, False),
        ):
            outcome = self.send(answer)
            self.assertEqual((outcome.after_seconds, outcome.holds_for_all), (seconds, for_all))

    def test_nobody_answers(self) -> None:
        """It is sent again, but not where it may not be sent at all."""
        self.granted()
        self.assertIs(self.send(NotSent("no route")).status, PushStatus.RETRY)
        self.assertIs(self.send(Blocked("not public")).status, PushStatus.REJECTED)

    def test_time_that_passed(self) -> None:
        """What is left of a message's time is what FCM gets; nothing is sent when it is over."""
        self.granted()
        self.now += 40
        self.send(reply(200, TAKEN), told=message(ttl_seconds=60))
        self.assertEqual(json.loads(self.posting.posted[-1].body)["message"]["android"]["ttl"], "20s")
        self.assertIs(self.send(told=message(ttl_seconds=40)).status, PushStatus.REJECTED)

    def test_what_is_not_fcms(self) -> None:
        """Nothing is raised for other devices, keys, or sizes."""
        vapid = VapidCredentials(private_key="", public_key="", subject="")
        for credentials, device in ((vapid, DEVICE), (CREDENTIALS, ApnsDevice(token="ab"))):
            outcome: Any = self.successResultOf(self.push.send(credentials, device, message()))
            self.assertIs(outcome.status, PushStatus.REJECTED)
        self.assertIn("4096", self.send(told=message(body="x" * 4090)).detail)
        bad = msgspec.structs.replace(CREDENTIALS, private_key="x")
        self.assertIs(self.successResultOf(self.sending(credentials=bad)).status, PushStatus.MISCONFIGURED)


class TokenTests(Case):
    """Access tokens."""

    def test_request(self) -> None:
        """The account's key signs what is asked for."""
        self.granted()

        posted = self.posting.posted[0]
        self.assertEqual(posted.url, "https://oauth2.googleapis.com/token")
        self.assertTrue(posted.options["guard"])
        self.assertEqual(posted.headers, {"Content-Type": "application/x-www-form-urlencoded"})
        form = parse_qs(posted.body.decode())
        self.assertEqual(form["grant_type"], ["urn:ietf:params:oauth:grant-type:jwt-bearer"])
        [assertion] = form["assertion"]
        self.assertEqual(jwt.get_unverified_header(assertion)["kid"], "k1")
        unchecked: Any = {"verify_iat": False, "verify_exp": False}
        claims = jwt.decode(assertion, PUBLIC, ["RS256"], audience=posted.url, options=unchecked)
        self.assertEqual(
            claims,
            {
                "iss": "push@my-app-1.iam.example",
                "scope": "https://www.googleapis.com/auth/firebase.messaging",
                "aud": "https://oauth2.googleapis.com/token",
                "iat": int(NOW),
                "exp": int(NOW) + 3600,
            },
        )

    def test_kept(self) -> None:
        """Until five minutes before it ends."""
        self.granted()
        self.now += 3599 - 301
        self.send(reply(200, TAKEN))
        self.assertEqual(self.asked_for_tokens, 1)
        self.now += 1
        self.granted()
        self.assertEqual(self.asked_for_tokens, 2)

    def test_asked_once(self) -> None:
        """However many wait for it, and also when the first of them gives up."""
        token: Deferred[Any] = Deferred()
        self.posting.answers.extend([token, *[reply(200, TAKEN)] * 4])
        sending = [self.sending() for _ in range(5)]
        sending[0].cancel()
        self.failureResultOf(sending[0], CancelledError)
        token.callback(reply(200, GRANTED))

        for one in sending[1:]:
            self.assertIs(self.successResultOf(one).status, PushStatus.OK)
        self.assertEqual(self.asked_for_tokens, 1)

    def test_refused_later(self) -> None:
        """A token that is refused is replaced, and the message sent once more; a new one that is refused is not."""
        self.granted()
        again = {**GRANTED, "access_token": "t2"}
        outcome = self.send(reply(401), reply(200, again), reply(200, TAKEN))
        self.assertIs(outcome.status, PushStatus.OK)
        self.assertEqual(self.posting.posted[-1].headers["Authorization"], "Bearer t2")

        outcome = self.send(reply(401), reply(200, GRANTED), reply(401))
        self.assertIs(outcome.status, PushStatus.MISCONFIGURED)
        self.assertEqual(self.posting.answers, [])

    def test_replaced_meanwhile(self) -> None:
        """A refusal of an old token does not drop the new one."""
        self.granted()
        late: Deferred[Any] = Deferred()
        self.posting.answers.append(late)
        waiting = self.sending()
        self.send(reply(401), reply(200, {**GRANTED, "access_token": "t2"}), reply(200, TAKEN))
        self.posting.answers.append(reply(200, TAKEN))
        late.callback(reply(401))

        self.assertIs(self.successResultOf(waiting).status, PushStatus.OK)
        self.assertEqual(self.asked_for_tokens, 2)

    def test_not_granted(self) -> None:
        """A deleted key or account is somebody's task; a server that is away is asked again."""
        for answer, expected, said in (
            (reply(400, {"error": "invalid_grant", "error_description": "Bad\nclock"}), "misconfigured", "Bad clock"),
            (reply(401, b"<html>"), "misconfigured", "401"),
            (reply(503), "retry", "503"),
            (reply(429, retry_after="9"), "retry", "429"),
            (reply(200, b"{}"), "retry", "no token"),
            (NotSent("no route"), "retry", "no route"),
            (Blocked("not public"), "misconfigured", "not public"),
            (RuntimeError("a bug"), "retry", "a bug"),
        ):
            outcome = self.send(answer)
            self.assertEqual(outcome.status, expected)
            self.assertIn(said, outcome.detail)
        self.assertEqual(self.send(reply(429, retry_after="9")).after_seconds, 9)

    def test_not_granted_to_all(self) -> None:
        """All that wait hear of it, and later ones ask again."""
        token: Deferred[Any] = Deferred()
        self.posting.answers.append(token)
        sending = [self.sending() for _ in range(3)]
        token.callback(reply(503))

        for one in sending:
            self.assertIs(self.successResultOf(one).status, PushStatus.RETRY)
        self.granted()

    def test_pause(self) -> None:
        """An account that is refused again and again is left alone for a while."""
        for _ in range(FAULTS):
            self.send(reply(400, {"error": "invalid_grant"}))
        self.assertIs(self.send().status, PushStatus.MISCONFIGURED)
        self.assertEqual(self.asked_for_tokens, FAULTS)
        self.now += PAUSE_SECONDS
        self.granted()

    def test_close(self) -> None:
        """Who waits for a token gets none."""
        self.posting.answers.append(Deferred())
        sending = self.sending()
        self.successResultOf(self.push.close())

        self.assertIs(self.successResultOf(sending).status, PushStatus.RETRY)

    def test_accounts(self) -> None:
        """Each has its own; of very many, those are forgotten that were not used for longest."""
        self.granted()
        for number in range(1000):
            other = msgspec.structs.replace(CREDENTIALS, client_email=f"{number}@x")
            self.posting.answers.extend([reply(200, GRANTED), reply(200, TAKEN)])
            self.successResultOf(self.sending(credentials=other))
        self.assertEqual(self.asked_for_tokens, 1001)
        self.granted()
        self.assertEqual(self.asked_for_tokens, 1002)


class MessageTests(SynchronousTestCase):
    """FCM's form of a message."""

    def test_fields(self) -> None:
        """What is shown, and the rest as data, whose values are text."""
        told = message(
            body="b",
            image="m",
            icon="i",
            badge="a",
            url="u",
            collapse="c",
            urgency="high",
            data={"x": 1, "y": "z", "url": "v", "n": None, "l": [1]},
        )

        self.assertEqual(
            fcm_message(told, 3_000_000),
            {
                "notification": {"title": "Hello", "body": "b", "image": "m"},
                "android": {"ttl": "2419200s", "priority": "high", "collapse_key": "c"},
                "data": {"icon": "i", "badge": "a", "url": "v", "x": "1", "y": "z", "n": "null", "l": "[1]"},
            },
        )
        self.assertEqual(fcm_message(message(data=[1]), 0)["data"], {"data": "[1]"})

    def test_override(self) -> None:
        """What is for FCM alone is merged."""
        told = message(fcm={"android": {"priority": "high"}, "data": {"a": "b"}})

        made = fcm_message(told, 5)
        self.assertEqual((made["android"], made["data"]), ({"ttl": "5s", "priority": "high"}, {"a": "b"}))


class CheckTests(Case):
    """What is refused before anything is sent."""

    def test_credentials(self) -> None:
        """A service account with a key that signs."""
        self.push.check_credentials(CREDENTIALS)
        encrypted = RSA_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")).decode()
        for changes in (
            {"project_id": ""},
            {"project_id": "a/b/c/d"},
            {"client_email": "x"},
            {"client_email": "ü@x"},
            {"token_uri": "ftp://x"},
            {"token_uri": "https://"},
            {"token_uri": "https://["},
            {"private_key": "x"},
            {"private_key": PUBLIC},
            {"private_key": encrypted},
            {"private_key": pem_pair(EC_KEY)[0]},
            {"private_key": pem_pair(small_rsa_key())[0]},
        ):
            bad = msgspec.structs.replace(CREDENTIALS, **changes)
            self.assertRaises(Refused, self.push.check_credentials, bad)
        vapid = VapidCredentials(private_key="", public_key="", subject="")
        self.assertRaises(Refused, self.push.check_credentials, vapid)

    def test_devices(self) -> None:
        """A token, or an installation's id."""
        self.push.check_device(DEVICE)
        for bad in ("", "a b", "ü", "a\n", "x" * 4097):
            self.assertRaises(Refused, self.push.check_device, FcmDevice(value=bad))
        self.assertRaises(Refused, self.push.check_device, ApnsDevice(token="ab"))

    def test_nothing_is_shown(self) -> None:
        """Neither devices nor keys show what they hold when they are printed."""
        self.assertNotIn("abc", repr(DEVICE))
        self.assertNotIn("PRIVATE", repr(CREDENTIALS))
