"""Tests for :mod:`wsock.cli.kinds`."""

from __future__ import annotations

import time

import click

from tests.base import SynchronousTestCase
from wsock.cli.kinds import LENGTH, Moment, camel, confirm, json_or_text, permissions_of, setting


class LengthTests(SynchronousTestCase):
    """Lengths of time."""

    def test_units(self) -> None:
        """A number with a unit is so many seconds."""
        lengths = [LENGTH.convert(text, None, None) for text in ("90s", "2m", "12h", "30d", "2w")]

        self.assertEqual(lengths, [90, 120, 43_200, 2_592_000, 1_209_600])

    def test_wrong(self) -> None:
        """Anything else is refused, with an example."""
        for text in ("", "30", "0d", "-1d", "1y", "1.5h", "d"):
            error = self.assertRaises(click.BadParameter, LENGTH.convert, text, None, None)
            self.assertIn("30d", error.message)


class MomentTests(SynchronousTestCase):
    """Moments."""

    def test_dates(self) -> None:
        """A date and time counts as UTC unless it says otherwise."""
        moments = [
            Moment().convert(text, None, None)
            for text in ("2026-01-01", "2026-01-01T12:00", "2026-01-01T12:00+02:00", "2026-01-01T00:00:00Z")
        ]

        hour = 3_600_000
        start = 1_767_225_600_000
        self.assertEqual(moments, [start, start + 12 * hour, start + 10 * hour, start])

    def test_ago(self) -> None:
        """A length of time is so long ago."""
        self.patch(time, "time", lambda: 1000.0)

        self.assertEqual(Moment().convert("10s", None, None), 990_000)

    def test_wrong(self) -> None:
        """Anything else is refused, with an example."""
        error = self.assertRaises(click.BadParameter, Moment().convert, "yesterday", None, None)

        self.assertIn("2026-01-31", error.message)


class SettingTests(SynchronousTestCase):
    """Names with values."""

    def test_names(self) -> None:
        """A name may be written with hyphens, with underscores, or as the API does."""
        for text in ("history-ttl-seconds", "history_ttl_seconds", "historyTtlSeconds"):
            self.assertEqual(camel(text), "historyTtlSeconds")

    def test_values(self) -> None:
        """Words, numbers, rates, and nothing for what is not to be set."""
        for text, value in (
            ("history=off", False),
            ("history=on", True),
            ("history=", None),
            ("history-ttl-seconds=60", 60),
            ("slow-consumer=latest", "latest"),
            ("channel-rate=100/s", {"events": 100.0, "seconds": 1.0, "burst": 0}),
            ("channel-rate=60/m:10", {"events": 60.0, "seconds": 60.0, "burst": 10}),
            ("channel-rate=0.5/10s", {"events": 0.5, "seconds": 10.0, "burst": 0}),
        ):
            self.assertEqual(setting(text)[1], value, text)

    def test_wrong(self) -> None:
        """Without a name or a sign of equality it is refused, and what should be a rate and is none."""
        for text in ("history", "=off"):
            self.assertRaises(click.UsageError, setting, text)
        for text in ("user-rate=abc", "appRate=1/w", "channel_rate=5/s:x"):
            self.assertIn("60/m:10", self.assertRaises(click.UsageError, setting, text).message)

    def test_permissions(self) -> None:
        """A pattern with operations, or alone with all of them; a pattern may hold a sign of equality."""
        self.assertEqual(
            permissions_of(("chat.*=subscribe, publish", "news", "a=b=history")),
            {"chat.*": ["subscribe", "publish"], "news": ["*"], "a=b": ["history"]},
        )
        self.assertIsNone(permissions_of(()))

    def test_json_or_text(self) -> None:
        """What is JSON is read as that, and what Python alone takes for it is text."""
        self.assertEqual(json_or_text('{"a": [1]}'), {"a": [1]})
        self.assertEqual(json_or_text("hello"), "hello")
        for text in ("NaN", "[Infinity]", "[" * 100_000):
            self.assertEqual(json_or_text(text), text)


class ConfirmTests(SynchronousTestCase):
    """Asking before something is deleted."""

    def test_said(self) -> None:
        """With --yes nobody is asked."""
        confirm("Really?", True)
