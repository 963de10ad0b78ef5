"""Tests for :mod:`wsock.services.sealed`."""

from __future__ import annotations

import os

from msgspec.structs import replace

from tests.base import SynchronousTestCase, TestCase
from wsock.backends.memory_directory import MemoryDirectory
from wsock.errors import ConfigError, Unavailable
from wsock.records import Account, App, Endpoint, Key
from wsock.services.sealed import SealedDirectory
from wsock.services.vault import Vault
from wsock.testing.contracts.directory import DirectoryContract
from wsock.testing.contracts.records import RecordsContract

APP = App(id="shop", name="Shop", created_at=1)
KEY = Key(id="k1", app="shop", name="K", created_at=1, algorithm="HS256", secret="very secret", api_key_hash="ab")
ACCOUNT = Account(id="a", email="a@b", password_hash="x", created_at=1, totp_secret="JBSWY3DP")
OLD, NEW = b"o" * 32, b"n" * 32


def sealed(directory: MemoryDirectory, *keys: bytes) -> SealedDirectory:
    """The directory behind a vault with these keys."""
    vault = Vault(os.urandom)
    vault.unlock(keys or [OLD])
    return SealedDirectory(directory, vault)


class SealedDirectoryTests(DirectoryContract, TestCase):
    """What is behind a vault is an IDirectory."""

    async def make_directory(self) -> SealedDirectory:
        return sealed(MemoryDirectory())


class SealedRecordsTests(RecordsContract, TestCase):
    """What is behind a vault is an IRecords."""

    async def make_records(self) -> SealedDirectory:
        return sealed(MemoryDirectory())


class SealingTests(SynchronousTestCase):
    """What is kept."""

    def setUp(self) -> None:
        self.inside = MemoryDirectory()
        self.directory = sealed(self.inside)

    def kept(self) -> str:
        """All that the directory inside holds of secrets."""
        key = self.successResultOf(self.inside.key("k1"))
        account = self.successResultOf(self.inside.account_by_email("a@b"))
        return f"{key and key.secret} {account and account.totp_secret}"

    def test_secrets_are_not_kept_in_clear(self) -> None:
        """Neither signing secrets nor those of second factors, whichever way they get there."""
        self.successResultOf(self.directory.create(APP, [KEY], ACCOUNT))
        self.assertNotIn("very secret", self.kept())
        self.assertNotIn("JBSWY3DP", self.kept())

        self.successResultOf(self.directory.replace(replace(KEY, secret="another secret")))

        self.assertNotIn("another", self.kept())
        found = self.successResultOf(self.directory.key_by_hash("ab"))
        self.assertEqual(found and found.secret, "another secret")

    def test_endpoints(self) -> None:
        """Both secrets of an endpoint are sealed, however it is stored and read."""
        self.successResultOf(self.directory.add([APP]))
        endpoint = Endpoint(
            id="e", app=APP.id, url="https://a", created_at=0, secret="whsec_new", old_secret="whsec_old"
        )
        self.successResultOf(self.directory.add_endpoint(endpoint))

        self.assertEqual(self.successResultOf(self.directory.endpoints(APP.id)), [endpoint])
        self.assertNotIn("whsec_", repr(self.successResultOf(self.inside.endpoints(APP.id))[0].secret))
        [stored] = self.successResultOf(self.inside.endpoints(APP.id))
        self.assertTrue(stored.secret.startswith("sealed:") and stored.old_secret.startswith("sealed:"))

    def test_copied_secret(self) -> None:
        """A sealed secret that is copied to another app's key opens nothing."""
        self.successResultOf(self.directory.add([APP, replace(APP, id="other"), KEY]))
        stolen = self.successResultOf(self.inside.key("k1"))
        assert stolen is not None
        self.successResultOf(self.inside.add([replace(stolen, id="k2", app="other", api_key_hash="")]))

        self.failureResultOf(self.directory.key("k2"), Unavailable)

    def test_what_was_in_clear_is_sealed(self) -> None:
        """Secrets of an older wsock are read as they are, and sealed by the next start, once."""
        self.successResultOf(self.inside.create(APP, [KEY, replace(KEY, id="k2", api_key_hash="", secret="")], ACCOUNT))
        found = self.successResultOf(self.directory.key("k1"))
        self.assertEqual(found and found.secret, "very secret")

        self.assertEqual([self.successResultOf(self.directory.reseal()) for _ in range(2)], [2, 0])

        self.assertNotIn("very secret", self.kept())
        self.assertNotIn("JBSWY3DP", self.kept())
        self.assertEqual(self.successResultOf(self.directory.key("k1")), replace(KEY, version=2))

    def test_rotation(self) -> None:
        """With a new key behind the old one everything is sealed with it; then the old one can go."""
        self.successResultOf(self.directory.create(APP, [KEY], ACCOUNT))

        self.successResultOf(self.directory.unlock([OLD, NEW]))

        only_new = sealed(self.inside, NEW)
        self.assertEqual(self.successResultOf(only_new.reseal()), 0)
        found = self.successResultOf(only_new.key("k1"))
        self.assertEqual(found and found.secret, "very secret")

    def test_missing_key(self) -> None:
        """A start without the key that sealed something is refused with what to do."""
        self.successResultOf(self.directory.create(APP, [KEY], ACCOUNT))

        error = self.failureResultOf(sealed(self.inside, NEW).reseal(), ConfigError).value

        self.assertIn("vault.keys", str(error))
        self.assertNotIn("very secret", str(error))
