"""Tests of wsock.services.directory_cache. That it remembers is tested with who uses it: tests.test_services_auth."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from tests.base import SynchronousTestCase
from wsock.backends.memory_directory import MemoryDirectory
from wsock.records import App
from wsock.services.directory_cache import DirectoryCache, Lookups


class ForgetTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reads: list[Deferred[str | None]] = []
        self.lookups: Lookups[str] = Lookups(self.fetch, lambda: 0.0, 5.0, 10)

    async def fetch(self, name: str) -> str | None:
        self.reads.append(Deferred())
        return await self.reads[-1]

    def get(self) -> Deferred[str | None]:
        return Deferred.fromCoroutine(self.lookups.get("a"))

    def test_found_and_missing(self) -> None:
        """Neither what was found nor that nothing was is remembered."""
        for value in ("old", None):
            self.get()
            self.reads[-1].callback(value)
            self.lookups.forget()
        last = self.get()
        self.reads[-1].callback("new")

        self.assertEqual((self.successResultOf(last), len(self.reads)), ("new", 3))

    def test_look_up_under_way(self) -> None:
        """One that began before is neither shared with those behind it nor remembered, in whatever order they end."""
        before = self.get()
        self.lookups.forget()
        after = self.get()
        self.assertEqual(len(self.reads), 2)
        self.reads[1].callback("new")
        self.reads[0].callback("old")

        self.assertEqual((self.successResultOf(before), self.successResultOf(after)), ("old", "new"))
        self.assertEqual(self.successResultOf(self.get()), "new")

    def test_directory(self) -> None:
        """Whatever was remembered of apps and keys is read again."""
        directory = MemoryDirectory()
        cache = DirectoryCache(directory, lambda: 0.0, seconds=5.0, size=10)
        self.assertIsNone(self.successResultOf(cache.app("a")))
        app = App(id="a", name="", created_at=0)
        self.successResultOf(directory.add([app]))
        self.assertIsNone(self.successResultOf(cache.app("a")))

        cache.forget()

        self.assertEqual(self.successResultOf(cache.app("a")), app)
