"""Tests of pushes to browsers."""

from __future__ import annotations

import json
import os
from typing import Any
from urllib.parse import urlsplit

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from zope.interface.verify import verifyObject

from tests.base import SynchronousTestCase
from tests.provider_cases import NOW, Posted, RecordedPosting, message, reply
from tests.test_providers_encryption import decrypt
from wsock.errors import Refused
from wsock.interfaces import (
    ApnsDevice,
    Blocked,
    FcmCredentials,
    IPushProvider,
    IVapidKeys,
    NotSent,
    PushMessage,
    PushOutcome,
    PushStatus,
    VapidCredentials,
    WebDevice,
)
from wsock.providers.encryption import public_bytes, read_point
from wsock.providers.pauses import FAULTS, PAUSE_SECONDS
from wsock.providers.payloads import from_base64url, to_base64url
from wsock.providers.vapid import private_key_of
from wsock.providers.webpush import WebPush, web_payload


class Case(SynchronousTestCase):
    """A provider, a browser, and an app's keys."""

    def setUp(self) -> None:
        self.now = NOW
        self.posting = RecordedPosting()
        self.push = self.provider()
        self.credentials = self.push.create("mailto:ops@example.com")
        self.key = generate_private_key(SECP256R1())
        self.auth = os.urandom(16)
        self.device = self.browser()

    def provider(self, **options: Any) -> WebPush:
        """A provider that posts to the test."""
        return WebPush(self.posting, lambda: self.now, os.urandom, **options)

    def browser(self, endpoint: str = "https://push.example/send/abc", **values: Any) -> WebDevice:
        """The subscription."""
        keys = {"p256dh": to_base64url(public_bytes(self.key)), "auth": to_base64url(self.auth)}
        return WebDevice(endpoint=endpoint, **{**keys, **values})

    def send(self, message: PushMessage, *answers: Any, device: WebDevice | None = None) -> PushOutcome:
        """What becomes of it."""
        self.posting.answers.extend(answers)
        outcome = self.successResultOf(self.push.send(self.credentials, device or self.device, message))
        assert isinstance(outcome, PushOutcome)
        return outcome

    def status(self, status: int, body: Any = b"", **headers: str) -> PushOutcome:
        """What becomes of a message when the service answers so."""
        return self.send(message(), reply(status, body, **headers))

    @property
    def posted(self) -> Posted:
        """The last request."""
        return self.posting.posted[-1]


class SendTests(Case):
    """What the push service gets, and what its answers mean."""

    def test_provides(self) -> None:
        """It is a provider, and makes keys."""
        verifyObject(IPushProvider, self.push)
        verifyObject(IVapidKeys, self.push)

    def test_request(self) -> None:
        """The browser can read it, and the service knows who sends, how long, how urgently, and what it replaces."""
        told = message(body="World", ttl_seconds=60, urgency="high", collapse="score", data={"a": [1]})

        outcome = self.send(told, reply(201))

        self.assertEqual(outcome, PushOutcome(status=PushStatus.OK))
        self.assertEqual(self.posted.url, self.device.endpoint)
        self.assertEqual((self.posted.options["guard"], self.posted.options["kind"]), (True, "push"))
        headers = dict(self.posted.headers)
        self.check_authorization(headers.pop("Authorization"), "https://push.example")
        self.assertEqual(
            headers,
            {
                "TTL": "60",
                "Content-Type": "application/octet-stream",
                "Content-Encoding": "aes128gcm",
                "Urgency": "high",
                "Topic": "score",
            },
        )
        shown = json.loads(decrypt(self.posted.body, self.key, self.auth))
        self.assertEqual(shown, {"title": "Hello", "body": "World", "data": {"a": [1]}})

    def check_authorization(self, header: str, audience: str) -> None:
        """It is a good one for that origin (RFC 8292)."""
        scheme, _, fields = header.partition(" ")
        values = dict(field.strip().split("=", 1) for field in fields.split(","))
        self.assertEqual((scheme, values["k"]), ("vapid", self.credentials.public_key))
        key = read_point(from_base64url(values["k"]))
        claims = jwt.decode(values["t"], key, ["ES256"], audience=audience, options={"verify_exp": False})
        self.assertEqual(claims["sub"], "mailto:ops@example.com")
        self.assertTrue(self.now + 3600 <= claims["exp"] <= self.now + 86_400)

    def test_every_body_is_its_own(self) -> None:
        """Salt and key are never used twice."""
        self.send(message(), reply(201))
        self.send(message(), reply(201))

        first, second = self.posting.posted
        self.assertNotEqual(first.body[:16], second.body[:16])
        self.assertNotEqual(first.body[21:86], second.body[21:86])

    def test_long_topic(self) -> None:
        """A name that is no topic becomes one, always the same."""
        topics = []
        for name in ("a" * 33, "ü", "a b", "a" * 33):
            self.send(message(collapse=name), reply(201))
            topics.append(self.posted.headers["Topic"])

        self.assertEqual(topics[0], topics[3])
        self.assertEqual(len(set(topics)), 3)
        self.assertTrue(all(len(t) == 32 and t.replace("-", "").replace("_", "").isalnum() for t in topics))

    def test_origins(self) -> None:
        """The audience is the endpoint's origin, with a port that is not the usual one."""
        for endpoint, origin in (
            ("https://push.example:443/x", "https://push.example"),
            ("https://PUSH.example:8443/x?y", "https://push.example:8443"),
            ("https://[2001:db8::1]:99/", "https://[2001:db8::1]:99"),
        ):
            self.send(message(), reply(201), device=self.browser(endpoint))
            self.check_authorization(self.posted.headers["Authorization"], origin)

    def test_header_is_kept(self) -> None:
        """One header serves an origin for hours, and is renewed while the old one is good for an hour."""
        self.send(message(), reply(201))
        first = self.posted.headers["Authorization"]
        self.now += 10 * 3600
        self.send(message(), reply(201))
        self.assertEqual(self.posted.headers["Authorization"], first)
        self.now += 3600
        self.send(message(), reply(201))
        self.assertNotEqual(self.posted.headers["Authorization"], first)
        self.send(message(), reply(201), device=self.browser("https://other.example/x"))
        self.check_authorization(self.posted.headers["Authorization"], "https://other.example")

    def test_time_that_passed(self) -> None:
        """What is left of a message's time is what the service gets; nothing is sent when it is over."""
        self.now += 40.9
        self.send(message(ttl_seconds=60), reply(201))
        self.assertEqual(self.posted.headers["TTL"], "20")
        self.send(message(ttl_seconds=0), reply(201))
        self.assertEqual(self.posted.headers["TTL"], "0")

        outcome = self.send(message(ttl_seconds=40))

        self.assertEqual(outcome.status, PushStatus.REJECTED)
        self.assertIn("time to live", outcome.detail)
        self.assertEqual(len(self.posting.posted), 2)

    def test_answers(self) -> None:
        """RFC 8030, RFC 8292, and what services do."""
        for status, expected in (
            (200, PushStatus.OK),
            (202, PushStatus.OK),
            (301, PushStatus.REJECTED),
            (400, PushStatus.REJECTED),
            (401, PushStatus.MISCONFIGURED),
            (403, PushStatus.MISCONFIGURED),
            (404, PushStatus.GONE),
            (410, PushStatus.GONE),
            (413, PushStatus.REJECTED),
            (429, PushStatus.RETRY),
            (500, PushStatus.RETRY),
            (503, PushStatus.RETRY),
        ):
            self.assertIs(self.status(status, b"why\nso").status, expected)
        self.assertIs(self.status(400, b"Unauthorized Registration").status, PushStatus.MISCONFIGURED)
        self.assertIs(self.status(400, b"bad VAPID").status, PushStatus.MISCONFIGURED)
        self.assertEqual(self.status(410, b"why\nso").detail, "the push service answered 410: why so")

    def test_retry_after(self) -> None:
        """In seconds, or as a date."""
        self.assertEqual(self.status(429, retry_after="17").after_seconds, 17)
        self.assertEqual(self.status(503, retry_after="Fri, 15 Jan 2027 08:01:00 GMT").after_seconds, 60)
        self.assertEqual(self.status(503, retry_after="soon").after_seconds, 0)
        self.assertEqual(self.status(503).after_seconds, 0)

    def test_nobody_answers(self) -> None:
        """It is sent again, but not where it may not be sent at all."""
        self.assertEqual(self.send(message(), NotSent("no route")).status, PushStatus.RETRY)
        blocked = self.send(message(), Blocked("10.0.0.1 is not public"))
        self.assertEqual((blocked.status, blocked.detail), (PushStatus.REJECTED, "10.0.0.1 is not public"))

    def test_too_large(self) -> None:
        """What no browser takes is not sent."""
        outcome = self.send(message(body="x" * 4000))

        self.assertEqual(outcome.status, PushStatus.REJECTED)
        self.assertIn("3993", outcome.detail)

    def test_keys_that_are_refused(self) -> None:
        """A service that keeps refusing the keys is left alone for a while; another one, or an acceptance, is not."""
        for _ in range(FAULTS - 1):
            self.status(403)
        self.status(503)
        self.status(201)
        for _ in range(FAULTS):
            self.assertIs(self.status(403).status, PushStatus.MISCONFIGURED)

        asked = len(self.posting.posted)
        self.assertIs(self.send(message()).status, PushStatus.MISCONFIGURED)
        self.assertEqual(len(self.posting.posted), asked)
        other = self.browser("https://other.example/x")
        self.assertIs(self.send(message(), reply(201), device=other).status, PushStatus.OK)
        self.now += PAUSE_SECONDS
        self.assertIs(self.status(201).status, PushStatus.OK)

    def test_what_is_not_a_browser(self) -> None:
        """Other devices and keys, and ones that went bad, are told from good ones; nothing is raised."""
        for credentials, device, status in (
            (self.credentials, ApnsDevice(token="00"), PushStatus.REJECTED),
            (FcmCredentials(project_id="p", client_email="e", private_key="k"), self.device, PushStatus.REJECTED),
            (self.credentials, self.browser(p256dh="AAAA"), PushStatus.REJECTED),
            (self.credentials, self.browser(auth="*"), PushStatus.REJECTED),
            (self.credentials, self.browser("https://x y/"), PushStatus.REJECTED),
            (msgspec.structs.replace(self.credentials, private_key="AA"), self.device, PushStatus.MISCONFIGURED),
        ):
            outcome: Any = self.successResultOf(self.push.send(credentials, device, message()))
            self.assertIs(outcome.status, status)
        self.successResultOf(self.push.close())


class PayloadTests(SynchronousTestCase):
    """The JSON that the service worker gets."""

    def payload(self, **values: Any) -> Any:
        """Of a message."""
        return json.loads(web_payload(message(**values)))

    def test_fields(self) -> None:
        """What is not given is left out."""
        self.assertEqual(self.payload(), {"title": "Hello"})
        fields = {"body": "b", "icon": "i", "image": "m", "badge": "a", "url": "u", "data": {"x": None}}
        self.assertEqual(self.payload(**fields), {"title": "Hello", **fields})

    def test_override(self) -> None:
        """What is for browsers alone is merged."""
        told = self.payload(data={"a": 1, "b": 2}, web={"title": "Web", "data": {"b": 3}, "tag": "t"})

        self.assertEqual(told, {"title": "Web", "data": {"a": 1, "b": 3}, "tag": "t"})

    def test_declarative(self) -> None:
        """A browser that shows it by itself gets the shape for that."""
        told = self.payload(body="b", url="https://x/", web={"web_push": 8030, "notification": {"silent": True}})

        self.assertEqual(
            told,
            {
                "web_push": 8030,
                "notification": {"title": "Hello", "body": "b", "navigate": "https://x/", "silent": True},
            },
        )


class CheckTests(Case):
    """What is refused before anything is sent."""

    def test_keys(self) -> None:
        """New keys are a pair on P-256, unlike all others, and good."""
        self.push.check_credentials(self.credentials)
        self.assertEqual(len(from_base64url(self.credentials.public_key)), 65)
        self.assertNotEqual(self.credentials, self.push.create("mailto:ops@example.com"))
        private_key_of(msgspec.structs.replace(self.credentials, public_key=self.credentials.public_key + "="))

    def test_bad_keys(self) -> None:
        """Keys of two pairs, and what is none."""
        other = self.push.create("https://example.com")
        for changes in (
            {"public_key": other.public_key},
            {"private_key": "AA"},
            {"private_key": to_base64url(bytes(32))},
            {"private_key": "+/" * 20},
            {"private_key": ""},
            {"subject": "example.com"},
        ):
            bad: VapidCredentials = msgspec.structs.replace(self.credentials, **changes)
            self.assertRaises(Refused, self.push.check_credentials, bad)
        fcm = FcmCredentials(project_id="p", client_email="e", private_key="k")
        self.assertRaises(Refused, self.push.check_credentials, fcm)

    def test_subjects(self) -> None:
        """Whoever runs a push service can reach the sender."""
        for good in ("mailto:a@b", "https://example.com/contact"):
            self.push.create(good)
        for bad in (
            "",
            "mailto:",
            "mailto:@",
            "a@b",
            "http://x",
            "https://",
            "https://[",
            "mailto:a@ü",
            "mailto:a b@c",
        ):
            self.assertRaises(Refused, self.push.create, bad)
        self.assertRaises(Refused, self.push.create, "mailto:" + "a" * 250 + "@b")

    def test_endpoints(self) -> None:
        """An https URL; one of this machine where that is allowed."""
        self.push.check_device(self.browser())
        for bad in (
            "",
            "http://push.example/",
            "http://localhost/",
            "ftp://x/",
            "https://",
            "https://u:p@x/",
            "https://x/#f",
            "https://x:0/",
            "https://x:99999/",
            "https://[/",
            "https://ü/",
            "https://x/ y",
            "https://x/" + "a" * 2048,
        ):
            self.assertRaises(Refused, self.push.check_device, self.browser(bad))
        local = self.provider(allows_loopback=True)
        local.check_device(self.browser("http://localhost:8090/x"))
        self.assertRaises(Refused, local.check_device, self.browser("http://push.example/"))
        self.assertRaises(Refused, self.push.check_device, ApnsDevice(token="00"))

    def test_hosts(self) -> None:
        """Only the push services that the operator names."""
        push = self.provider(hosts=["fcm.example", "*.Push.example"])
        for good in ("https://fcm.example/x", "https://a.push.example/x", "https://a.b.PUSH.example/x"):
            push.check_device(self.browser(good))
        for bad in (
            "https://push.example/",
            "https://xpush.example/",
            "https://a.fcm.example/",
            "https://fcm.example.x/",
        ):
            self.assertRaises(Refused, push.check_device, self.browser(bad))

    def test_subscription_keys(self) -> None:
        """A point on the curve, and a secret of 16 octets."""
        for bad in (
            {"p256dh": ""},
            {"p256dh": "AAAA"},
            {"p256dh": to_base64url(b"\x04" + b"\x01" * 64)},
            {"auth": ""},
            {"auth": to_base64url(b"x" * 15)},
            {"auth": "*"},
        ):
            self.assertRaises(Refused, self.push.check_device, self.browser(**bad))

    def test_nothing_is_shown(self) -> None:
        """Neither devices nor keys show what they hold when they are printed."""
        for value, secret in (
            (self.device, urlsplit(self.device.endpoint).path),
            (self.credentials, self.credentials.private_key),
        ):
            self.assertNotIn(secret, repr(value))
