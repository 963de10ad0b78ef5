"""Tests for :mod:`wsock.services.key_use`."""

from __future__ import annotations

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.base import SynchronousTestCase
from wsock.backends.memory_directory import MemoryDirectory
from wsock.errors import Unavailable
from wsock.records import App, Key, Record
from wsock.services.auth import Auth, Credential, hash_api_key
from wsock.services.key_use import KeyUse
from wsock.testing.fakes import Now


class CountingDirectory(MemoryDirectory):
    """A directory that counts what is written, may be away, and may take its time."""

    writes = 0
    failure: Exception | None = None
    gate: Deferred[None] | None = None

    async def used(self, kind: type[Record], id: str, at: int) -> None:
        """See IRecords."""
        if self.gate is not None:
            await self.gate
        if self.failure is not None:
            raise self.failure
        self.writes += 1
        await super().used(kind, id, at)


class KeyUseTests(SynchronousTestCase):
    """A key that is used."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.now = Now(self.clock, 1000.0)
        self.directory = CountingDirectory()
        key = Key(id="k", app="shop", name="K", created_at=0, api_key_hash=hash_api_key("secret"))
        self.successResultOf(self.directory.add([App(id="shop", name="Shop", created_at=0), key]))
        self.use = KeyUse(self.directory, self.now, self.clock)
        self.auth = Auth(self.directory, self.now, accepted=self.use.note)
        self.use.startService()

    def last_used_at(self) -> int | None:
        """As it is stored."""
        key: Key | None = self.successResultOf(self.directory.key("k"))
        assert key is not None
        return key.last_used_at

    def rotate(self) -> None:
        """The key gets a successor."""
        key: Key | None = self.successResultOf(self.directory.key("k"))
        assert key is not None
        self.successResultOf(self.directory.replace(replace(key, replaced_by="k2")))
        self.clock.advance(6)

    def connect(self) -> Credential:
        """A client with the key connects."""
        return self.successResultOf(Deferred.fromCoroutine(self.auth.credential(key="secret")))

    def pass_time(self, seconds: int) -> None:
        """Time passes second by second."""
        self.clock.pump([1.0] * seconds)

    def test_written_sometimes(self) -> None:
        """However often it is used, once a minute its last use is written down."""
        for _ in range(31):
            self.connect()
            self.pass_time(4)

        self.assertEqual(self.directory.writes, 2)
        self.assertEqual(self.last_used_at(), 1_116_000)

    def test_rotating_key_is_written_at_once(self) -> None:
        """Of a key that is to go the last use is known within a second."""
        self.rotate()
        self.connect()
        self.pass_time(1)

        self.assertEqual(self.last_used_at(), 1_006_000)
        self.pass_time(5)
        self.assertEqual(self.directory.writes, 1)

    def test_open_connections(self) -> None:
        """A connection that is open uses its key as long as it lives."""
        credential = self.connect()
        self.use.live = lambda: [credential]
        self.pass_time(600)

        self.assertGreaterEqual(self.last_used_at() or 0, 1_540_000)

    def test_refused(self) -> None:
        """A credential that is refused was not used."""
        self.failureResultOf(Deferred.fromCoroutine(self.auth.credential(key="wrong")))
        self.pass_time(61)

        self.assertEqual(self.directory.writes, 0)

    def test_away(self) -> None:
        """What could not be written is written the next time."""
        self.connect()
        self.directory.failure = Unavailable("away")
        self.pass_time(61)
        self.directory.failure = None

        self.pass_time(60)

        self.assertEqual(self.last_used_at(), 1_000_000)
        self.assertEqual(self.directory.writes, 1)

    def test_fault(self) -> None:
        """A fault is logged, and does not end the rounds."""
        self.connect()
        self.directory.failure = KeyError("bug")
        self.pass_time(60)
        self.directory.failure = None
        self.pass_time(60)

        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertEqual(self.directory.writes, 1)

    def test_end(self) -> None:
        """At the end all that was noted is written, also while a round is under way."""
        self.rotate()
        gate: Deferred[None] = Deferred()
        self.directory.gate = gate
        self.connect()
        self.pass_time(1)
        self.clock.advance(0.5)
        self.connect()

        ended = self.use.stopService()

        self.assertNoResult(ended)
        self.directory.gate = None
        gate.callback(None)
        self.successResultOf(ended)
        self.assertEqual(self.last_used_at(), 1_007_500)
        self.assertEqual(self.clock.getDelayedCalls(), [])
