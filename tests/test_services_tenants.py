"""Tests of wsock.services.tenants."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace
from twisted.internet.task import Clock

from tests.base import SynchronousTestCase
from tests.vocabulary import Gate
from wsock.backends.memory_directory import MemoryDirectory
from wsock.errors import Unavailable
from wsock.protocol.rates import Rate, Rates
from wsock.records import App, Key, Namespace, Plan, PlanLimits, Record, Revocation, Revoked, Settings
from wsock.services.rules import Defaults
from wsock.services.tenants import Tenants
from wsock.testing.fakes import Now


class TenantsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.now = Now(self.clock)
        self.directory = MemoryDirectory()
        self.add(App(id="a", name="", created_at=0), App(id="b", name="", created_at=0))
        self.tenants = self.make()

    def make(self, **options: Any) -> Tenants:
        return Tenants(self.directory, self.now, **options)

    def add(self, *records: Record) -> None:
        self.successResultOf(self.directory.add(records))

    def set(self, app: str = "a", **settings: Any) -> None:
        """Gives the app these settings."""
        stored = self.successResultOf(self.directory.app(app))
        assert stored is not None
        self.successResultOf(self.directory.replace(replace(stored, settings=Settings(**settings))))

    def load(self, app: str = "a") -> Any:
        return self.successResultOf(self.tenants.load(app))

    def reload(self) -> None:
        self.successResultOf(self.tenants.reload())

    def test_load(self) -> None:
        """An app is read once, with all that belongs to it; one that is not there is none."""
        self.add(
            Namespace(id="n", app="a", pattern="chat:*", created_at=0, settings=Settings(history=False)),
            Key(id="k", app="a", name="", created_at=0, secret="s3cret", api_key_hash="h", last_used_at=7),
        )
        self.assertIsNone(self.tenants.get("a"))

        tenant = self.load()

        self.assertIs(self.tenants.get("a"), tenant)
        self.assertIs(self.load(), tenant)
        self.assertFalse(tenant.channel("chat:1").history)
        self.assertEqual((tenant.keys["k"].secret, tenant.keys["k"].api_key_hash), ("", ""))
        self.assertIsNone(self.load("nobody"))

    def test_special(self) -> None:
        """Only apps with settings are looked at on the hot path; one that had some stays there."""
        self.load()
        self.assertEqual(dict(self.tenants.special), {})
        self.assertIsNone(self.tenants.rules("a", "x"))

        self.set(client_publish=False)
        self.reload()
        rules = self.tenants.rules("a", "x")
        assert rules is not None
        self.assertFalse(rules.client_publish)

        self.set()
        self.reload()
        rules = self.tenants.rules("a", "x")
        assert rules is not None
        self.assertTrue(rules.client_publish)

    def test_reload_keeps_what_is_the_same(self) -> None:
        """Of an app of which nothing was changed the same object stays: who holds it has nothing to do."""
        a, b = self.load("a"), self.load("b")
        self.set("a", history=False)

        self.reload()

        self.assertIs(self.tenants.get("b"), b)
        self.assertIsNot(self.tenants.get("a"), a)

    def test_reload_of_many(self) -> None:
        """Many apps are read in parts, not each for itself; all changes are seen, and nothing else is."""
        count = 1200
        self.add(*[App(id=f"m{number}", name="", created_at=0) for number in range(count)])
        self.add(*[Key(id=f"k{n}", app=f"m{n}", name="", created_at=0, api_key_hash=f"{n}") for n in range(count)])
        self.tenants = self.make()
        before = [self.load(f"m{number}") for number in range(count)]
        self.add(
            Plan(id="tiny", name="Tiny", limits=PlanLimits(message_bytes=5)),
            Namespace(id="n", app="m2", pattern="x", created_at=0, settings=Settings(history=False)),
            Revocation(id="r", app="m3", kind=Revoked.CLIENT, value="eve", created_at=0),
        )
        self.change(App, "m1", plan="tiny")
        self.change(Key, "k4", is_revoked=True)
        self.successResultOf(self.directory.remove(App, "m5"))
        reads = self.counted()

        self.reload()

        after = [self.tenants.get(f"m{number}") for number in range(count)]
        changed = [number for number in range(count) if after[number] is not before[number]]
        self.assertEqual(changed, [1, 2, 3, 4, 5])
        _, small, quiet, revoked, ended, gone = after[:6]
        assert small is not None and quiet is not None and revoked is not None and ended is not None
        self.assertEqual(small.channel("x").message_bytes, 5)
        self.assertFalse(quiet.channel("x").history)
        self.assertTrue(revoked.is_revoked(None, "eve"))
        self.assertTrue(ended.keys["k4"].is_revoked)
        self.assertIsNone(gone)
        self.assertLess(len(reads), 20)

    def change(self, kind: type[Record], id: str, **values: Any) -> None:
        """Changes a record."""
        stored: Any = self.successResultOf(self.directory.find(kind, id))
        self.successResultOf(self.directory.replace(replace(stored, **values)))

    def counted(self) -> list[str]:
        """What is read of the directory from now on."""
        reads: list[str] = []
        for name in ("app", "find", "page"):
            self.patch(self.directory, name, self.noting(getattr(self.directory, name), reads))
        return reads

    @staticmethod
    def noting(method: Any, reads: list[str]) -> Any:
        def noted(*args: Any) -> Any:
            reads.append(method.__name__)
            return method(*args)

        return noted

    def test_use_of_a_key_is_no_change(self) -> None:
        """A key's last use is none of a tenant's concerns."""
        self.add(Key(id="k", app="a", name="", created_at=0))
        before = self.load()
        self.successResultOf(self.directory.used(Key, "k", 5))

        self.reload()

        self.assertIs(self.tenants.get("a"), before)

    def test_deleted(self) -> None:
        """A deleted app is none any more."""
        self.set(history=False)
        self.load()
        self.successResultOf(self.directory.remove(App, "a"))

        self.reload()

        self.assertIsNone(self.tenants.get("a"))
        self.assertEqual(dict(self.tenants.special), {})

    def test_shared_load(self) -> None:
        """Those who need an app at once wait for the same reading."""
        gate = Gate()
        self.patch(self.directory, "app", gate.guard(self.directory.app))
        loads = [self.defer(self.tenants.load("a")) for _ in range(3)]
        self.assertEqual(len(gate.held), 1)

        gate.open()

        first, *others = [self.successResultOf(load) for load in loads]
        self.assertTrue(all(other is first for other in others))

    def test_learn_key(self) -> None:
        """Many who come with the same new key wait for the same reading; another key is looked for again."""
        self.load()
        self.add(Key(id="k", app="a", name="", created_at=0), Key(id="l", app="a", name="", created_at=0))
        gate = Gate()
        self.patch(self.directory, "app", gate.guard(self.directory.app))
        learning = [self.defer(self.tenants.learn_key("a", key)) for key in ("k", "k", "k", "l")]
        self.assertEqual(len(gate.held), 2)

        gate.open()

        for one in learning:
            self.successResultOf(one)
        self.assertEqual(set(self.load().keys), {"k", "l"})

    def defer(self, work: Any) -> Any:
        from twisted.internet.defer import Deferred

        return Deferred.fromCoroutine(work)

    def test_change_during_a_load(self) -> None:
        """An app that is changed while it is read is read again: what is remembered is what is stored."""
        gate = Gate()
        self.patch(self.directory, "find", gate.guard(self.directory.find))
        self.patch(self.directory, "app", self.app_of_memory)
        loading = self.defer(self.tenants.load("a"))
        gate.is_open = True
        self.set(history=False)
        self.reload()

        gate.open()

        self.assertFalse(self.successResultOf(loading).channel("x").history)

    async def app_of_memory(self, id: str) -> App | None:
        return self.directory._shelves[App].by_id.get(id)

    def test_directory_away(self) -> None:
        """A failure is passed on, and what was known stays."""
        before = self.load()

        async def away(id: str) -> None:
            raise Unavailable("away")

        self.patch(self.directory, "app", away)

        self.failureResultOf(self.tenants.reload(), Unavailable)
        self.failureResultOf(self.tenants.load("b"), Unavailable)
        self.assertIs(self.tenants.get("a"), before)

    def test_bounded(self) -> None:
        """Apps that nobody holds give way to newer ones; who is held stays."""
        self.tenants = self.make(size=1)
        self.add(App(id="c", name="", created_at=0))
        self.tenants.hold("a")
        for app in ("a", "b", "c"):
            self.load(app)
        self.assertEqual([self.tenants.get(app) is not None for app in "abc"], [True, False, True])

        self.tenants.release("a")

        self.assertEqual([self.tenants.get(app) is not None for app in "abc"], [True, False, False])

    def test_held_twice(self) -> None:
        """Who is held twice is to be let go of twice."""
        self.tenants = self.make(size=0)
        for _ in range(2):
            self.tenants.hold("a")
        self.load()

        self.tenants.release("a")
        self.assertEqual(len(self.tenants), 1)
        self.tenants.release("a")
        self.assertEqual(len(self.tenants), 0)

    def test_idle(self) -> None:
        """Apps that nobody needed for ten minutes are not read again, but forgotten."""
        self.load("a")
        self.clock.advance(500)
        self.load("b")
        self.clock.advance(150)

        self.reload()

        self.assertEqual([self.tenants.get(app) is not None for app in "ab"], [False, True])

    def test_rates(self) -> None:
        """The rate limiter gets the server's rates for apps without any of their own, always the same object."""
        default = Rates(user=Rate(5))
        self.tenants = self.make(defaults=Defaults(rates=default))
        self.load()
        self.assertIs(self.tenants.rates("a"), default)

        self.set(app_rate=Rate(7))
        self.reload()

        rates = self.tenants.rates("a")
        assert rates is not None
        self.assertEqual((rates.app, rates.user), (Rate(7), Rate(5)))
        self.assertIs(self.tenants.rates("a"), rates)

    def test_history_seconds(self) -> None:
        """The longest time to live of an app, whether it is remembered or not."""
        self.add(Plan(id="short", name="", limits=PlanLimits(history_ttl_seconds=30)))

        def seconds(app: App) -> float:
            return float(self.successResultOf(self.tenants.history_seconds(app)))

        app = App(id="a", name="", created_at=0)
        self.assertEqual(seconds(app), 604_800)
        self.assertEqual(seconds(replace(app, plan="short")), 30)
        app = replace(app, settings=Settings(history_ttl_seconds=10))
        self.assertEqual(seconds(app), 10)
        self.add(Namespace(id="n", app="a", pattern="x", created_at=0, settings=Settings(history_ttl_seconds=20)))
        self.assertEqual(seconds(app), 20)
