"""Tests for :mod:`wsock.bench.load`."""

from __future__ import annotations

from tests.base import SynchronousTestCase
from tests.bench_nets import a_plan
from wsock.bench.errors import BenchError
from wsock.bench.load import Load, check, plan, target


class TargetTests(SynchronousTestCase):
    def test_url(self) -> None:
        """Host, port and path are the URL's, the credential is the option's or the URL's."""
        given = target("ws://[::1]:9001/ws?key=old&clientId=a%20b", "new", None)

        self.assertEqual((given.host, given.port, given.is_secure), ("::1", 9001, False))
        self.assertEqual(given.resource, "/ws?clientId=a+b&key=new")
        self.assertEqual((given.shown, given.origin), ("ws://[::1]:9001", "http://[::1]:9001"))
        self.assertTrue(given.has_credential)

    def test_token(self) -> None:
        """A token takes the place of a key."""
        self.assertEqual(target("ws://h/?key=demo", None, "t.t").resource, "/?token=t.t")

    def test_defaults(self) -> None:
        """The ports are those of the schemes."""
        secure = target("wss://example.org", None, None)

        self.assertEqual((secure.port, secure.resource, secure.origin), (443, "/", "https://example.org:443"))
        self.assertEqual(target("ws://h", "k", None).port, 80)
        self.assertFalse(secure.has_credential)

    def test_no_url(self) -> None:
        """What is no URL of a WebSocket is refused without a word of the credential."""
        for url in ("http://h/?key=secret", "ws:///?key=secret", "9001?key=secret", "ws://h:x/?key=secret", "ws://["):
            error = self.assertRaises(BenchError, target, url, None, None)
            self.assertIn("give ws://HOST:PORT", str(error))
            self.assertNotIn("secret", str(error))


class PlanTests(SynchronousTestCase):
    def test_scenarios(self) -> None:
        """Each scenario has its shape; what is given changes it."""
        fanout = plan(Load(url=""), "fanout", "p")
        unicast = plan(Load(url="", subscribers=7, channels=3), "unicast", "p")
        latency = plan(Load(url="", channels=20, subscribers=20), "latency", "p")

        self.assertEqual((fanout.subscribers, fanout.channels, fanout.rate), (200, 1, None))
        self.assertEqual((unicast.subscribers, unicast.channels), (7, 7))
        self.assertEqual((latency.channels, latency.rate), (20, 200.0))
        self.assertEqual(fanout.channel(0), "p-fanout-0")

    def test_audience(self) -> None:
        """Subscribers are dealt out to the channels."""
        dealt = a_plan(subscribers=8, channels=3)

        self.assertEqual([dealt.audience(n) for n in range(3)], [3, 3, 2])

    def test_check(self) -> None:
        """A load that can't be is refused with the option's name."""
        check(Load(url=""))
        for load, name in (
            (Load(url="", size=10), "--size"),
            (Load(url="", channels=3, subscribers=2), "--channels"),
        ):
            self.assertIn(name, str(self.assertRaises(BenchError, check, load)))
