"""Tests for :mod:`wsock.services.vault`."""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.base import SynchronousTestCase
from wsock.errors import ConfigError, Unavailable
from wsock.services.vault import Vault, keep_master_keys, read_master_keys

OLD, NEW = b"o" * 32, b"n" * 32


def unlocked(*keys: bytes) -> Vault:
    """A vault with these keys."""
    vault = Vault(os.urandom)
    vault.unlock(keys)
    return vault


class VaultTests(SynchronousTestCase):
    """Sealing and opening."""

    def setUp(self) -> None:
        self.vault = unlocked(OLD, NEW)

    def assert_closed(self, vault: Vault, text: str, *context: str, why: str) -> None:
        """It can't be opened; the log says why, the answer does not."""
        refused = self.assertRaises(Unavailable, vault.open, text, *context)
        self.assertIn("log", refused.text)
        self.assertNotIn(why, refused.text)

    @settings(max_examples=50)
    @given(st.text(), st.lists(st.text(max_size=5), max_size=3))
    def test_opens(self, text: str, context: list[str]) -> None:
        """What is sealed for a place opens there, whatever it is, and does not show."""
        sealed = self.vault.seal(text, *context)

        self.assertEqual(self.vault.open(sealed, *context), text)
        self.assertTrue(self.vault.is_current(sealed))
        self.assertFalse(len(text) > 8 and text in sealed)

    def test_never_alike(self) -> None:
        """The same text is sealed differently each time."""
        self.assertNotEqual(self.vault.seal("secret"), self.vault.seal("secret"))

    def test_another_place(self) -> None:
        """It opens in no other place, nor where the parts are cut otherwise."""
        sealed = self.vault.seal("secret", "key", "shop", "k1")

        for context in (("key", "shop", "k2"), ("key", "shopk1"), ("key", "sho", "pk1"), ()):
            self.assert_closed(self.vault, sealed, *context, why="another place")

    def test_changed(self) -> None:
        """Not a bit of it can be changed, and garbage is no fault of the program."""
        sealed = self.vault.seal("secret")
        head, _, body = sealed.rpartition(":")
        data = bytearray(base64.urlsafe_b64decode(body))
        data[-1] ^= 1

        for text in (f"{head}:{base64.urlsafe_b64encode(data).decode()}", f"{head}:", f"{head}:%", f"{head}:AAA"):
            self.assert_closed(self.vault, text, why="changed")

    def test_rotation(self) -> None:
        """The newest key seals, older ones open; without its key a text stays closed."""
        old = unlocked(OLD).seal("secret")

        self.assertEqual(self.vault.open(old), "secret")
        self.assertFalse(self.vault.is_current(old))
        self.assert_closed(unlocked(NEW), old, why="master key")
        self.assertEqual(unlocked(NEW).open(self.vault.seal("secret")), "secret")

    def test_never_sealed(self) -> None:
        """What was stored in clear is read as it is, and isn't current; an empty text needs no sealing."""
        self.assertEqual(self.vault.open("plain"), "plain")
        self.assertFalse(self.vault.is_current("plain"))
        self.assertEqual(self.vault.seal(""), "")
        self.assertTrue(self.vault.is_current(""))

    def test_shows_no_key(self) -> None:
        """Its representation names the keys by their ids."""
        self.assertNotIn("ooo", repr(self.vault))

    def test_locked(self) -> None:
        """Before it has a key it neither seals nor opens; what is in clear it lets through."""
        vault = Vault(os.urandom)

        self.assert_closed(vault, self.vault.seal("secret"), why="master key")
        self.assertRaises(Unavailable, vault.seal, "secret")
        self.assertEqual(vault.open("plain"), "plain")


class MasterKeyTests(SynchronousTestCase):
    """Where master keys come from."""

    def text(self, *keys: bytes) -> str:
        """Keys as they are given."""
        return "\n".join(base64.b64encode(key).decode() for key in keys)

    def keep(self, keys: str = "", file: str = "", beside: Path | None = None) -> list[bytes]:
        """What a server starts with."""
        return keep_master_keys(keys, file, beside, lambda size: b"r" * size)

    def test_read(self) -> None:
        """Several keys stand apart by white space or commas, in either alphabet."""
        odd = bytes(range(223, 255))
        urlsafe = base64.urlsafe_b64encode(odd).decode()

        self.assertEqual(read_master_keys(f"{self.text(OLD)},{urlsafe}\n", "x"), [OLD, odd])

    def test_unusable(self) -> None:
        """What is no key is refused with where it came from and how to make one, and is not repeated."""
        for text in ("", "  ", "c2hvcnQ=", "secretsecret!", f"{self.text(OLD)} x"):
            error = str(self.assertRaises(ConfigError, read_master_keys, text, "vault.keys"))
            self.assertIn("vault.keys", error)
            self.assertIn("openssl rand", error)
            self.assertNotIn("secretsecret", error)

    def test_given(self) -> None:
        """Keys come from the settings or from the file that they name, not from both."""
        path = Path(self.mktemp())
        path.write_text(self.text(OLD, NEW))

        self.assertEqual(self.keep(keys=self.text(NEW)), [NEW])
        self.assertEqual(self.keep(file=str(path)), [OLD, NEW])
        self.assertRaises(ConfigError, self.keep, keys=self.text(NEW), file=str(path))

    def test_made(self) -> None:
        """Where none is given one is made beside the store, for its owner only, and found at the next start."""
        self.addCleanup(os.umask, os.umask(0))
        beside = Path(self.mktemp()) / "data" / "master.key"

        self.assertEqual(self.keep(beside=beside), [b"r" * 32])

        self.assertEqual(stat.S_IMODE(beside.stat().st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(beside.parent.stat().st_mode), 0o700)
        self.assertEqual([path.name for path in beside.parent.iterdir()], ["master.key"])
        beside.write_text(self.text(NEW))
        self.assertEqual(self.keep(beside=beside), [NEW])

    def test_cluster(self) -> None:
        """Where several nodes would each make their own, one has to be given."""
        error = str(self.assertRaises(ConfigError, self.keep))

        self.assertIn("cluster", error)
        self.assertIn("openssl rand", error)

    def test_file_that_is_not_there(self) -> None:
        """The error names the setting and the file."""
        error = str(self.assertRaises(ConfigError, self.keep, file="/nowhere/key"))

        self.assertIn("vault.key_file", error)
        self.assertIn("/nowhere/key", error)

    def test_no_place(self) -> None:
        """A key that can't be written is an error that names the file."""
        file = Path(self.mktemp())
        file.write_text("")

        self.assertIn("master.key", str(self.assertRaises(ConfigError, self.keep, beside=file / "master.key")))
