"""Tests for :mod:`wsock.services.key_use`."""

from __future__ import annotations

from twisted.internet.task import Clock

from tests.base import SynchronousTestCase
from wsock.backends.memory_directory import MemoryDirectory
from wsock.errors import Unavailable
from wsock.records import App, Key, Record
from wsock.services.auth import Auth, hash_api_key
from wsock.services.key_use import KeyUse
from wsock.testing.fakes import Now


class CountingDirectory(MemoryDirectory):
    """A directory that counts what is written, and may be away."""

    writes = 0
    is_away = False

    async def used(self, kind: type[Record], id: str, at: int) -> None:
        """See IRecords."""
        if self.is_away:
            raise Unavailable("away")
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
        self.use = KeyUse(self.directory, self.now)
        self.auth = Auth(self.directory, self.now, accepted=self.use.note)

    def last_used_at(self) -> int | None:
        """As it is stored."""
        key: Key | None = self.successResultOf(self.directory.key("k"))
        assert key is not None
        return key.last_used_at

    def connect(self) -> None:
        """A client with the key connects."""
        self.successResultOf(self.auth.credential(key="secret"))

    def test_written_sometimes(self) -> None:
        """However often it is used, once a minute its last use is written down."""
        for _ in range(30):
            self.connect()
            self.clock.advance(4)
            self.successResultOf(self.use.write_sometimes())

        self.assertEqual(self.directory.writes, 2)
        self.assertEqual(self.last_used_at(), 1_116_000)

    def test_refused(self) -> None:
        """A credential that is refused was not used."""
        self.failureResultOf(self.auth.credential(key="wrong"))
        self.successResultOf(self.use.write())

        self.assertEqual(self.directory.writes, 0)

    def test_away(self) -> None:
        """What could not be written is written the next time."""
        self.connect()
        self.directory.is_away = True
        self.failureResultOf(self.use.write(), Unavailable)
        self.directory.is_away = False

        self.successResultOf(self.use.write())

        self.assertEqual(self.last_used_at(), 1_000_000)
        self.successResultOf(self.use.write())
        self.assertEqual(self.directory.writes, 1)
