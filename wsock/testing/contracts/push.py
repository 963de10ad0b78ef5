"""What every :class:`wsock.interfaces.IDeviceStore` and :class:`wsock.interfaces.IPushJobs` is held to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace
from twisted.internet.defer import Deferred, gatherResults
from zope.interface.verify import verifyObject

from wsock.interfaces import (
    Again,
    ApnsDevice,
    Audience,
    Device,
    FcmDevice,
    IDeviceStore,
    IPushJobs,
    PushJob,
    PushMessage,
    Registration,
    WebDevice,
)

if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase
else:
    TestCase = object

__all__ = ["DeviceStoreContract", "PushJobsContract"]

EVERYBODY = Audience()
WEB = WebDevice(endpoint="https://push.example.org/\u00e9", p256dh="k", auth="a")


def _registration(id: str, device: Device | None = None, **values: Any) -> Registration:
    given = {"app": "shop", "created_at": 1, "updated_at": 1, **values}
    return Registration(id=id, device=device or FcmDevice(value=f"token-{id}"), **given)


class DeviceStoreContract(TestCase):
    """Mix it in and provide ``make_devices``, which makes an empty store."""

    make_devices: Callable[[], Awaitable[IDeviceStore]]
    devices: IDeviceStore

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        """Makes a new one."""
        self.devices = await self.make_devices()

    async def put(self, id: str, device: Device | None = None, **values: Any) -> Registration:
        """Stores a device."""
        return await self.devices.put(_registration(id, device, **values))

    async def ids(self, audience: Audience = EVERYBODY, *, app: str = "shop", limit: int = 100) -> list[str]:
        """The ids of the audience, read part by part."""
        found: list[str] = []
        while True:
            part = await self.devices.page(app, audience, found[-1] if found else None, limit)
            self.assertLessEqual(len(part), limit)
            found += [one.id for one in part]
            if len(part) < limit:
                return found

    async def test_provides_the_interface(self) -> None:
        """The store has the methods of IDeviceStore, with their arguments."""
        verifyObject(IDeviceStore, self.devices)

    async def test_empty(self) -> None:
        """In a new store there is nothing, and nothing can be taken away."""
        self.assertEqual(await self.ids(), [])
        self.assertIsNone(await self.devices.find("shop", "a"))
        self.assertEqual(await self.devices.count("shop", EVERYBODY), 0)
        self.assertEqual(await self.devices.join("shop", EVERYBODY, "news", 5), 0)
        self.assertEqual(await self.devices.part("shop", EVERYBODY, "news"), 0)
        self.assertEqual(await self.devices.remove("shop", EVERYBODY, 5), 0)
        self.assertEqual(await self.devices.apps(), [])

    async def test_devices_come_back(self) -> None:
        """A device of each platform comes back with all that it had."""
        metadata = {"language": "\u00e9", "$set": {"a.b": [1, None]}}
        some: tuple[Device, ...] = (WEB, FcmDevice(value="t", kind="fid"), ApnsDevice(token="ab"))
        for number, device in enumerate(some):
            one = _registration(
                f"d{number}", device, member="b\u00f6b", channels=("a", "news.$x"), metadata=metadata, updated_at=7
            )

            self.assertEqual(await self.devices.put(one), one)

            self.assertEqual(await self.devices.find("shop", one.id), one)
            self.assertEqual(await self.devices.page("shop", Audience(platform=one.platform), None, 5), [one])

    async def test_times_are_plain_numbers(self) -> None:
        """What comes back can be written as JSON, whatever numbers a database has."""
        await self.put("d", WEB, created_at=1_800_000_000_000, updated_at=1_800_000_000_001)

        [found] = await self.devices.page("shop", Audience(), None, 5)

        self.assertIn(b"1800000000001", msgspec.json.encode(found))

    async def test_registers_again(self) -> None:
        """A device that comes again keeps its id, its age and its channels, and is the member's who came last."""
        await self.put("first", WEB, member="bob", channels=("b",), metadata={"old": 1})

        again = await self.put("second", WEB, member="bob", channels=("a",), created_at=5, updated_at=5)
        handed_on = await self.put("third", WEB, member="ann", channels=("c",), updated_at=9)

        self.assertEqual(
            again, _registration("first", WEB, member="bob", channels=("a", "b"), created_at=1, updated_at=5)
        )
        self.assertEqual(handed_on, _registration("first", WEB, member="ann", channels=("c",), updated_at=9))
        self.assertEqual(await self.devices.find("shop", "first"), handed_on)
        self.assertEqual(await self.ids(), ["first"])
        self.assertEqual(await self.ids(Audience(members=("bob",))), [])
        self.assertEqual(await self.ids(Audience(channel="a")), [])

    async def test_at_once(self) -> None:
        """A device that registers several times at once is there once, and all hear the same id."""
        outcomes = await gatherResults([Deferred.fromCoroutine(self.put(f"d{n}", WEB)) for n in range(5)])

        self.assertEqual(len({one.id for one in outcomes}), 1)
        self.assertEqual(await self.ids(), [outcomes[0].id])

    async def test_what_tells_devices_apart(self) -> None:
        """The same text on another platform, or of another kind, is another device; and so it is in another app."""
        await self.put("a", FcmDevice(value="x"))
        await self.put("b", FcmDevice(value="x", kind="fid"))
        await self.put("c", ApnsDevice(token="x"))
        await self.put("d", FcmDevice(value="x"), app="other")

        self.assertEqual(await self.ids(), ["a", "b", "c"])
        self.assertEqual(await self.ids(app="other"), ["d"])
        self.assertIsNone(await self.devices.find("other", "a"))
        self.assertEqual(await self.devices.apps(), ["other", "shop"])

    async def test_audiences(self) -> None:
        """An audience is those of which everything holds that it says, in the order of ids, in parts of any size."""
        known: dict[str, dict[str, Any]] = {
            "d": {"member": "bob", "channels": ("news",)},
            "B": {"member": "ann", "channels": ("news", "chat")},
            "a": {"member": "bob"},
            "c": {"channels": ("chat",)},
        }
        for id, values in known.items():
            await self.put(id, ApnsDevice(token=id) if id == "a" else None, **values)
        for audience, expected in (
            (EVERYBODY, ["B", "a", "c", "d"]),
            (Audience(members=("bob",)), ["a", "d"]),
            (Audience(members=("bob", "ann")), ["B", "a", "d"]),
            (Audience(members=("",)), ["c"]),
            (Audience(members=()), []),
            (Audience(ids=("d", "a", "none")), ["a", "d"]),
            (Audience(ids=()), []),
            (Audience(platform="apns"), ["a"]),
            (Audience(channel="news"), ["B", "d"]),
            (Audience(channel="chat", members=("ann", "bob")), ["B"]),
            (Audience(channel="news", platform="apns"), []),
        ):
            for limit in (1, 2, 5):
                self.assertEqual(await self.ids(audience, limit=limit), expected, audience)
            self.assertEqual(await self.devices.count("shop", audience), len(expected))

    async def test_channels(self) -> None:
        """Devices join and part channels; who has as many as there may be joins no other."""
        await self.put("a", member="bob", channels=("x", "y"))
        await self.put("b", member="bob")
        bob = Audience(members=("bob",))

        self.assertEqual(await self.devices.join("shop", bob, "news", 2), 1)
        self.assertEqual(await self.devices.join("shop", bob, "x", 2), 2)
        self.assertEqual(await self.devices.join("shop", bob, "x", 2), 2)

        self.assertEqual(await self.ids(Audience(channel="news")), ["b"])
        found = await self.devices.find("shop", "b")
        self.assertEqual(found and found.channels, ("news", "x"))
        self.assertEqual(await self.devices.part("shop", bob, "x"), 2)
        self.assertEqual(await self.devices.part("shop", bob, "x"), 0)
        self.assertEqual(await self.ids(Audience(channel="x")), [])

    async def test_removal(self) -> None:
        """Devices go, so many at once, and with a time only those that did not come again after it."""
        for id in "abcd":
            await self.put(id, member="bob", channels=("news",), updated_at=ord(id))
        await self.put("e", app="other", member="bob")
        bob = Audience(members=("bob",))

        self.assertEqual(await self.devices.remove("shop", Audience(ids=("c",)), 9, until=ord("b")), 0)
        self.assertEqual(await self.devices.remove("shop", Audience(ids=("c",)), 9, until=ord("c")), 1)
        self.assertEqual(await self.devices.remove("shop", bob, 2), 2)

        self.assertEqual(len(await self.ids()), 1)
        self.assertEqual(len(await self.ids(Audience(channel="news"))), 1)
        self.assertEqual(await self.ids(app="other"), ["e"])
        await self.put("new", FcmDevice(value="token-c"))
        self.assertIn("new", await self.ids())


class PushJobsContract(TestCase):
    """Mix it in and provide ``make_jobs``, which makes an empty store."""

    make_jobs: Callable[[], Awaitable[IPushJobs]]
    jobs: IPushJobs

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        """Makes a new one."""
        self.jobs = await self.make_jobs()

    def job(self, id: str, **values: Any) -> PushJob:
        """A job."""
        message = PushMessage(id=f"m-{id}", created=1, title="H\u00e9", data={"a.b": [1]}, web={"$x": 1})
        given = {"app": "shop", "audience": Audience(channel="news"), "message": message, "created_at": 1, **values}
        return PushJob(id=id, **given)

    async def claimed(self, now: int = 10, owner: str = "n1", skip: tuple[str, ...] = ()) -> PushJob:
        """A job that is the owner's until then and 10 more."""
        found = await self.jobs.claim(owner, now, now + 10, skip)
        assert found is not None, "there is none to claim"
        return found

    async def test_provides_the_interface(self) -> None:
        """The store has the methods of IPushJobs, with their arguments."""
        verifyObject(IPushJobs, self.jobs)

    async def test_comes_back(self) -> None:
        """A job comes back as it was; one of the same id leaves it so."""
        job = self.job(
            "a", total=5, absent_from="r\u00f6om", excluded=("x",), cursor="c", pending={"d.1": Again(2, 5)}, due=3
        )

        self.assertTrue(await self.jobs.add(job))
        self.assertFalse(await self.jobs.add(self.job("a", total=9)))

        self.assertEqual(await self.jobs.find("shop", "a"), job)
        self.assertIsNone(await self.jobs.find("other", "a"))
        self.assertEqual(await self.jobs.apps(), ["shop"])

    async def test_times_are_plain_numbers(self) -> None:
        """What comes back can be written as JSON, whatever numbers a database has."""
        now = 1_800_000_000_000
        await self.jobs.add(self.job("a", created_at=now, due=now, lease_until=now, finished_at=now))

        self.assertIn(b"1800000000000", msgspec.json.encode(await self.jobs.find("shop", "a")))

    async def test_lists(self) -> None:
        """An app's jobs are listed, the newest first."""
        for id in "bca":
            await self.jobs.add(self.job(id))
        await self.jobs.add(self.job("z", app="other"))

        self.assertEqual([job.id for job in await self.jobs.page("shop", None, 2)], ["c", "b"])
        self.assertEqual([job.id for job in await self.jobs.page("shop", "b", 2)], ["a"])

    async def test_claims(self) -> None:
        """A job that is due is one owner's at a time, until the lease ends; what was due first comes first."""
        await self.jobs.add(self.job("b", due=1))
        await self.jobs.add(self.job("a", due=2))
        await self.jobs.add(self.job("later", due=30))

        first, second = await self.claimed(), await self.claimed(owner="n2")

        self.assertEqual((first.id, first.owner, first.lease_until), ("b", "n1", 20))
        self.assertEqual((second.id, second.owner), ("a", "n2"))
        self.assertIsNone(await self.jobs.claim("n1", 19, 29, ()))
        self.assertEqual((await self.claimed(20, "n3")).id, "b")
        self.assertEqual(await self.jobs.find("shop", "b"), replace(first, owner="n3", lease_until=30))

    async def test_at_once(self) -> None:
        """Of several who claim at once, each gets another job."""
        for id in "abc":
            await self.jobs.add(self.job(id))

        got = await gatherResults([Deferred.fromCoroutine(self.jobs.claim(f"n{n}", 5, 9, ())) for n in range(5)])

        self.assertEqual(sorted(job.id for job in got if job is not None), ["a", "b", "c"])

    async def test_skips_apps(self) -> None:
        """The apps that have had their turn are left out."""
        await self.jobs.add(self.job("a", due=1))
        await self.jobs.add(self.job("b", app="other", due=2))

        self.assertEqual((await self.claimed(skip=("shop",))).app, "other")
        self.assertIsNone(await self.jobs.claim("n1", 10, 20, ("shop", "other")))

    async def test_saves(self) -> None:
        """Who has a job stores how far it is, and lets go of it; who lost it doesn't."""
        await self.jobs.add(self.job("a"))
        job = replace(await self.claimed(), sent=3, cursor="d3", pending={"d1": Again(1, 7)}, lease_until=0, due=12)

        self.assertTrue(await self.jobs.save(job))

        self.assertEqual(await self.jobs.find("shop", "a"), job)
        self.assertIsNone(await self.jobs.claim("n2", 11, 20, ()))
        taken = await self.claimed(12, "n2")
        self.assertEqual(taken.sent, 3)
        self.assertFalse(await self.jobs.save(replace(job, sent=4)))
        self.assertTrue(await self.jobs.save(replace(taken, state="done", finished_at=15)))
        self.assertIsNone(await self.jobs.claim("n2", 100, 200, ()))

    async def test_cancels(self) -> None:
        """A job that is cancelled goes no further, whoever has it, and is not cancelled twice."""
        await self.jobs.add(self.job("a"))
        job = await self.claimed()

        self.assertTrue(await self.jobs.cancel("shop", "a", 15))

        self.assertFalse(await self.jobs.cancel("shop", "a", 16))
        self.assertFalse(await self.jobs.cancel("other", "a", 16))
        self.assertFalse(await self.jobs.save(job))
        self.assertIsNone(await self.jobs.claim("n1", 50, 60, ()))
        found = await self.jobs.find("shop", "a")
        self.assertEqual(found and (found.state, found.finished_at), ("cancelled", 15))

    async def test_releases(self) -> None:
        """What an owner had that has gone can be claimed at once; what others have can't."""
        await self.jobs.add(self.job("a"))
        await self.jobs.add(self.job("b"))
        mine, theirs = await self.claimed(), await self.claimed(owner="n2")

        await self.jobs.release("n1")

        self.assertEqual((await self.claimed(11)).id, mine.id)
        self.assertIsNone(await self.jobs.claim("n1", 11, 20, ()))
        self.assertEqual(theirs.owner, "n2")

    async def test_expire_and_remove(self) -> None:
        """What ended long ago goes, so many at once, and so does all of an app; what is pending stays."""
        for id in "abc":
            await self.jobs.add(self.job(id))
            await self.jobs.cancel("shop", id, 5)
        await self.jobs.add(self.job("d"))
        await self.jobs.add(self.job("e", app="other"))

        self.assertEqual(await self.jobs.expire(5, 9), 0)
        self.assertEqual(await self.jobs.expire(6, 2), 2)
        self.assertEqual(await self.jobs.expire(6, 2), 1)

        self.assertEqual([job.id for job in await self.jobs.page("shop", None, 9)], ["d"])
        self.assertEqual(await self.jobs.remove("shop", 9), 1)
        self.assertEqual(await self.jobs.apps(), ["other"])
