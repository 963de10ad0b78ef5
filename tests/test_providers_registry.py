"""Tests of the list of platforms, and of the small parts that the providers share."""

from __future__ import annotations

import os

from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from tests.base import SynchronousTestCase
from tests.provider_cases import NOW, RecordedPosting, message
from wsock.interfaces import IPushProvider, PushStatus
from wsock.providers.apns import Apns
from wsock.providers.outcomes import OK, gone, misconfigured, rejected, retry, retry_after
from wsock.providers.pauses import FAULTS, PAUSE_SECONDS, Pauses
from wsock.providers.payloads import collapse_key, from_base64url, merged, remaining_seconds, to_base64url
from wsock.providers.registry import push_providers
from wsock.providers.vapid import Vapid
from wsock.providers.webpush import WebPush


class RegistryTests(SynchronousTestCase):
    """Which platforms there are."""

    def test_providers(self) -> None:
        """One for each, by its name."""
        providers = push_providers(Clock(), RecordedPosting(), lambda: NOW, os.urandom, web_push_hosts=["push.example"])

        self.assertEqual(set(providers), {"web", "fcm", "apns"})
        for name, provider in providers.items():
            verifyObject(IPushProvider, provider)
            self.assertEqual(provider.platform, name)
            self.successResultOf(provider.close())

    def test_every_key_has_its_own_agent(self) -> None:
        """Of HTTP/2."""
        apns = push_providers(Clock(), RecordedPosting(), lambda: NOW, os.urandom)["apns"]
        assert isinstance(apns, Apns)

        self.assertIsNot(apns._agents(), apns._agents())


class OutcomeTests(SynchronousTestCase):
    """What became of a push."""

    def test_details(self) -> None:
        """A service's text is kept short, and can be shown."""
        for made in (gone, misconfigured, rejected, retry):
            self.assertEqual(made("a\r\n\x1b[1mb" + "x" * 1000).detail, "a   [1mb" + "x" * 292)

    def test_retry_after(self) -> None:
        """A number or a date; a day at most; what is none of them is as if it were not there."""
        for given, seconds in (
            ("120", 120),
            (" 5 ", 5),
            ("0", 0),
            ("9" * 1000, 86_400),
            ("-5", 3),
            ("1.5", 3),
            ("", 3),
            ("soon", 3),
            ("٣", 3),
            ("Fri, 15 Jan 2027 08:00:30 GMT", 30),
            ("Fri, 15 Jan 2027 08:00:30 -0000", 30),
            ("Fri, 15 Jan 2027 07:00:00 GMT", 0),
            ("Fri, 15 Jan 2100 07:00:00 GMT", 86_400),
            ("Fri, 99 Jan 99999 07:00:00 GMT", 3),
        ):
            self.assertEqual(retry_after({"retry-after": given}, NOW, 3), seconds, given)
        self.assertEqual(retry_after({}, NOW), 0)


class PayloadTests(SynchronousTestCase):
    """What is common to the platforms' forms of a message."""

    def test_merged(self) -> None:
        """Objects member by member, at any depth; anything else replaces. Neither is changed."""
        base = {"a": {"b": {"c": 1, "d": 2}, "l": [1]}, "x": 1}
        over = {"a": {"b": {"d": 3, "e": 4}, "l": [2]}, "x": {"y": 1}}

        self.assertEqual(merged(base, over), {"a": {"b": {"c": 1, "d": 3, "e": 4}, "l": [2]}, "x": {"y": 1}})
        self.assertEqual(base, {"a": {"b": {"c": 1, "d": 2}, "l": [1]}, "x": 1})

    def test_remaining(self) -> None:
        """What is left, down to a second; a clock that is behind takes nothing away and adds nothing."""
        for ttl, passed, left in ((60, 0, 60), (60, 59.9, 1), (60, 60, None), (60, -100, 60), (0, 0, 0), (0, 500, 0)):
            self.assertEqual(remaining_seconds(message(ttl_seconds=ttl), NOW + passed), left)

    def test_collapse(self) -> None:
        """A name that fits stays; another one becomes one of the characters that are allowed."""
        self.assertEqual(collapse_key("a-b_C9", 6), "a-b_C9")
        for name in ("a-b_C9x", "a b", "ü", "\ud800"):
            key = collapse_key(name, 6)
            self.assertEqual((key, len(key)), (collapse_key(name, 6), 6))

    def test_base64url(self) -> None:
        """With or without padding; nothing else."""
        for data in (b"a", b"ab", b"abc", b"\xff\xfe\xfd\xfc"):
            self.assertEqual(from_base64url(to_base64url(data)), data)
        self.assertEqual(from_base64url("YQ=="), b"a")
        for bad in ("", "=", "a+b/", "a b", "aaaaa", "ü"):
            self.assertRaises(ValueError, from_base64url, bad)


class PausesTests(SynchronousTestCase):
    """Credentials that keep being refused."""

    def setUp(self) -> None:
        self.now = NOW
        self.pauses = Pauses(lambda: self.now)

    def refuse(self, who: str, times: int = FAULTS) -> None:
        """Again and again."""
        for _ in range(times):
            self.pauses.note(who, misconfigured("no"))

    def test_pause(self) -> None:
        """After so many in a row, for a while; one more refusal then is enough."""
        self.refuse("a", FAULTS - 1)
        self.assertFalse(self.pauses.is_paused("a"))
        self.refuse("a", 1)
        self.assertTrue(self.pauses.is_paused("a"))
        self.assertFalse(self.pauses.is_paused("b"))
        self.now += PAUSE_SECONDS
        self.assertFalse(self.pauses.is_paused("a"))
        self.refuse("a", 1)
        self.assertTrue(self.pauses.is_paused("a"))

    def test_what_says_something(self) -> None:
        """Whatever is judged by its message shows that the credentials are good; a failure to ask shows nothing."""
        for outcome in (OK, gone("x"), rejected("x")):
            self.refuse("a")
            self.pauses.note("a", outcome)
            self.assertFalse(self.pauses.is_paused("a"), outcome.status)
        self.refuse("a")
        self.pauses.note("a", retry("x"))
        self.assertTrue(self.pauses.is_paused("a"))
        self.assertIs(retry("x").status, PushStatus.RETRY)

    def test_bounded(self) -> None:
        """Of very many, the oldest is forgotten."""
        self.refuse("a")
        for number in range(1000):
            self.refuse(str(number), 1)
        self.assertFalse(self.pauses.is_paused("a"))
        self.refuse("b")
        self.assertTrue(self.pauses.is_paused("b"))


class VapidTests(SynchronousTestCase):
    """Headers that are kept."""

    def test_bounded(self) -> None:
        """Of very many origins, the oldest is forgotten; it gets a new header."""
        credentials = WebPush(RecordedPosting(), lambda: NOW, os.urandom).create("https://example.com")
        vapid = Vapid(lambda: NOW)
        first = vapid.authorization(credentials, "https://first.example")
        self.assertIs(vapid.authorization(credentials, "https://first.example"), first)
        for number in range(1000):
            vapid.authorization(credentials, f"https://{number}.example")

        self.assertNotEqual(vapid.authorization(credentials, "https://first.example"), first)
