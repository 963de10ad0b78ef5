"""Tests for :mod:`wsock.services.provisioning`."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

from argon2 import PasswordHasher
from msgspec.structs import asdict
from twisted.internet.defer import Deferred, succeed

from tests.base import SynchronousTestCase
from wsock.backends.memory_directory import MemoryDirectory
from wsock.errors import Conflict
from wsock.interfaces import Account, App
from wsock.records import PLANS, Membership, Plan, Record, Role, Team
from wsock.services.auth import Auth, hash_api_key
from wsock.services.provisioning import Provisioned, add_plans, dev_records, provision, write_credentials


def predictable() -> Callable[[int], bytes]:
    """Bytes that differ at each call."""
    numbers: Iterator[int] = count(1)
    return lambda size: bytes([next(numbers)]) * size


def at_once(call: Callable[[str], str], text: str) -> Deferred[str]:
    """Stands for a thread."""
    return succeed(call(text))


class FasterNode(MemoryDirectory):
    """A directory into which another node puts its app just before this one."""

    async def add(self, records: Sequence[Record]) -> None:
        """See IRecords."""
        account = next(record for record in records if isinstance(record, Account))
        await super().add([App(id="theirs", name="Theirs", created_at=0), account])
        await super().add(records)


class BrokenDirectory(MemoryDirectory):
    """A directory that refuses every app."""

    async def add(self, records: Sequence[Record]) -> None:
        """See IRecords."""
        raise Conflict("taken")


class ProvisionTests(SynchronousTestCase):
    """The first start."""

    def setUp(self) -> None:
        self.directory = MemoryDirectory()
        self.kept: list[Provisioned] = []

    def provision(self) -> Deferred[Provisioned | None]:
        """The first start, now."""
        return Deferred.fromCoroutine(
            provision(self.directory, lambda: 1_800_000_000.5, predictable(), at_once, self.kept.append)
        )

    def made(self) -> Provisioned:
        """What the first start made."""
        made = self.successResultOf(self.provision())
        assert made is not None
        return made

    def test_credentials_work(self) -> None:
        """API key and password open what was created; neither is stored in clear."""
        made = self.made()

        auth = Auth(self.directory, lambda: 1_800_000_001.0)
        credential = self.successResultOf(Deferred.fromCoroutine(auth.credential(key=made.api_key)))
        self.assertEqual(credential.app, made.app.id)
        account = self.successResultOf(self.directory.account_by_email("owner@localhost"))
        assert account is not None
        self.assertTrue(PasswordHasher().verify(account.password_hash, made.password))
        self.assertIn("$argon2id$", account.password_hash)
        self.assertNotIn(made.api_key, str(asdict(made.key)))
        self.assertNotIn(made.password, str(asdict(made.account)))
        self.assertEqual(made.app.created_at, 1_800_000_000_500)

    def test_strength(self) -> None:
        """Keys keep to the alphabet that SDKs need, with 128 and 256 bits at least."""
        made = self.made()

        for text in (made.api_key, made.key.id, made.key.secret, made.app.id, made.password):
            self.assertTrue(re.fullmatch(r"[A-Za-z0-9_.-]+", text), text)
        self.assertGreaterEqual(len(made.api_key.removeprefix("wsk_")) * 6, 128)
        self.assertGreaterEqual(len(made.key.secret) * 6, 256)
        self.assertGreaterEqual(len(made.password) * 6, 128)

    def test_second_start(self) -> None:
        """Where there is an app nothing is made."""
        self.made()

        self.assertIsNone(self.successResultOf(self.provision()))
        self.assertEqual(len(self.successResultOf(self.directory.apps())), 1)
        self.assertEqual(len(self.kept), 1)

    def test_kept_first(self) -> None:
        """The credentials are kept before anything is stored: a crash never locks everybody out."""
        seen: list[bool] = []

        def keep(made: Provisioned) -> None:
            seen.append(self.successResultOf(self.directory.is_empty()))
            raise OSError("disk full")

        result = Deferred.fromCoroutine(provision(self.directory, lambda: 0.0, predictable(), at_once, keep))

        self.failureResultOf(result, OSError)
        self.assertEqual(seen, [True])
        self.assertTrue(self.successResultOf(self.directory.is_empty()))

    def test_other_node_was_faster(self) -> None:
        """Its credentials are the ones."""
        self.directory = FasterNode()

        self.assertIsNone(self.successResultOf(self.provision()))

    def test_refused(self) -> None:
        """A directory that takes no app is a fault that is passed on."""
        self.directory = BrokenDirectory()

        self.failureResultOf(self.provision(), Conflict)

    def test_redacted(self) -> None:
        """Nothing that may be logged shows a secret; the text for people shows all."""
        made = self.made()

        for secret in (made.api_key, made.password, made.key.secret):
            self.assertNotIn(secret, f"{made!r} {made} {made.key!r} {made.account!r}")
            self.assertIn(secret, made.text)
        self.assertEqual(
            [line.split(":")[0] for line in made.text.splitlines()],
            ["App", "API key", "Key id (JWT kid)", "Signing secret", "Account"],
        )

    def test_team(self) -> None:
        """The owner runs the server, and owns the team that has the app."""
        made = self.made()

        self.assertTrue(made.account.is_operator)
        [team] = self.successResultOf(self.directory.page(Team, {}, None, 9)).items
        [member] = self.successResultOf(self.directory.page(Membership, {}, None, 9)).items
        self.assertEqual((made.app.team, member.team), (team.id, team.id))
        self.assertEqual((member.account, member.role), (made.account.id, Role.OWNER))

    def test_plans(self) -> None:
        """A directory without a plan gets those that there are; one with any is left as it is."""
        self.successResultOf(add_plans(self.directory))
        self.assertEqual(len(self.successResultOf(self.directory.page(Plan, {}, None, 9)).items), len(PLANS))
        self.successResultOf(self.directory.remove(Plan, "pro"))

        self.successResultOf(add_plans(self.directory))

        self.assertIsNone(self.successResultOf(self.directory.find(Plan, "pro")))

    def test_plans_of_a_faster_node(self) -> None:
        """Of several nodes that start at once one adds them."""
        self.successResultOf(add_plans(BrokenDirectory()))


class DevTests(SynchronousTestCase):
    """The app of ``--dev``."""

    def test_records(self) -> None:
        """Its credentials are the ones that the documentation gives."""
        made = dev_records()

        self.assertEqual((made.app.id, made.key.id, made.api_key), ("demo", "demo", "demo"))
        self.assertEqual(made.key.api_key_hash, hash_api_key("demo"))
        self.assertEqual(made.key.secret, "demo-secret-for-development-only")
        self.assertEqual((made.key.client_ids, made.key.algorithm), ("*", "HS256"))
        self.assertEqual(made.account.email, "admin@localhost")
        self.assertTrue(PasswordHasher().verify(made.account.password_hash, "admin"))


class WriteTests(SynchronousTestCase):
    """The file of the credentials."""

    def test_owner_only(self) -> None:
        """Only its owner can read it, whatever the umask is; an old one is replaced."""
        path = Path(self.mktemp())
        path.write_text("old")
        path.with_name(f"{path.name}.new").write_text("left by a crash")
        self.addCleanup(os.umask, os.umask(0))

        write_credentials(path, dev_records())

        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        self.assertEqual(path.read_text(), dev_records().text)
        self.assertFalse(path.with_name(f"{path.name}.new").exists())

    def test_no_directory(self) -> None:
        """A directory that is missing is the caller's fault."""
        self.assertRaises(OSError, write_credentials, Path(self.mktemp()) / "x", dev_records())
