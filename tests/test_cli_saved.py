"""Tests for :mod:`wsock.cli.saved`."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import click

from tests.base import SynchronousTestCase
from tests.cli_cases import session
from wsock.cli.saved import SessionFile


class SessionFileTests(SynchronousTestCase):
    """The file with sessions."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute() / "wsock" / "session.json"
        self.file = SessionFile(self.path)

    def test_nothing(self) -> None:
        """Without a file there is no session, and forgetting one is fine."""
        self.assertEqual(self.file.url, "")
        self.assertIsNone(self.file.session("http://a"))
        self.file.forget("http://a")

    def test_kept(self) -> None:
        """Sessions are kept by server; the last one is the default."""
        self.file.keep("http://a", session("t-a"))
        self.file.keep("http://b", session("t-b"))

        again = SessionFile(self.path)

        self.assertEqual(again.url, "http://b")
        self.assertEqual(again.session("http://a"), session("t-a"))

    def test_forgotten(self) -> None:
        """Forgetting one leaves the others; with the last one the file is gone."""
        self.file.keep("http://a", session())
        self.file.keep("http://b", session())

        self.file.forget("http://b")
        self.assertEqual(self.file.url, "http://a")
        self.file.forget("http://a")

        self.assertFalse(self.path.exists())

    def test_private(self) -> None:
        """Only its owner can read the file and its directory, whatever the umask; nothing else is left behind."""
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        self.file.keep("http://a", session())
        self.file.keep("http://a", session("t-2"))

        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(self.path.parent.stat().st_mode), 0o700)
        self.assertEqual(os.listdir(self.path.parent), ["session.json"])

    def test_replaced_as_a_whole(self) -> None:
        """When it can't be written, what was there stays, and no part of a new one is left."""
        self.file.keep("http://a", session())
        self.patch(os, "replace", _fails)

        self.assertRaises(click.ClickException, self.file.keep, "http://b", session())

        self.assertEqual(self.file.url, "http://a")
        self.assertEqual(os.listdir(self.path.parent), ["session.json"])

    def test_damaged(self) -> None:
        """A file that is none is said to be one; no part of it is shown."""
        self.path.parent.mkdir(parents=True)
        self.path.write_text('{"sessions": {"http://a": {"token": "secret-of-mine"')

        error = self.assertRaises(click.ClickException, self.file.session, "http://a")

        self.assertIn("damaged", error.message)
        self.assertNotIn("secret-of-mine", error.message)

    def test_unreadable(self) -> None:
        """A place that can't be read is named."""
        self.path.mkdir(parents=True)

        self.assertIn("can't be read", self.assertRaises(click.ClickException, self.file.session, "u").message)

    def test_where(self) -> None:
        """The XDG directory counts if it is absolute, else that of the home directory."""
        self.assertEqual(SessionFile.of({"XDG_CONFIG_HOME": "/x"})._path, Path("/x/wsock/session.json"))
        for environ in ({}, {"XDG_CONFIG_HOME": ""}, {"XDG_CONFIG_HOME": "x"}):
            self.assertEqual(SessionFile.of(environ)._path, Path.home() / ".config/wsock/session.json")

    def test_nowhere(self) -> None:
        """Who has no home directory is told what to set instead."""

        def none() -> Path:
            raise RuntimeError("Could not determine home directory.")

        self.patch(Path, "home", none)

        self.assertIn("WSOCK_TOKEN", self.assertRaises(click.UsageError, SessionFile.of, {}).message)

    def test_shows_no_secret(self) -> None:
        """The representation of a session has none."""
        self.assertEqual(repr(session("t-secret")), "<SavedSession of ana@example.org>")


def _fails(*args: object) -> None:
    raise PermissionError(13, "Permission denied")
