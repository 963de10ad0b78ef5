"""Tests for :mod:`wsock.services.push_sending` and :mod:`wsock.services.push_jobs`: what becomes of a push."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.base import SynchronousTestCase
from tests.push_cases import FCM, outcome
from wsock.backends.memory_push import MemoryDevices, MemoryPushJobs
from wsock.errors import Code, Refused, Unavailable
from wsock.interfaces import (
    Audience,
    FcmDevice,
    PushCredentials,
    PushJob,
    PushMessage,
    PushOutcome,
    PushStatus,
    Registration,
)
from wsock.services.app_meter import AppMeters
from wsock.services.push_jobs import MAX_PENDING, MAX_TRIES, SLICE, PushJobs
from wsock.services.push_sending import BEGUN_AT_ONCE, PushSender
from wsock.testing import Now, RecordingPushProvider

OK, GONE, RETRY = PushStatus.OK, PushStatus.GONE, PushStatus.RETRY
REJECTED, MISCONFIGURED = PushStatus.REJECTED, PushStatus.MISCONFIGURED


class Credentials:
    """What apps have: the same for all, until a test says otherwise."""

    def __init__(self) -> None:
        self.known: PushCredentials | None = FCM
        self.is_away = False

    async def get(self, app: str, platform: str) -> PushCredentials | None:
        """As :class:`PushAccesses` does."""
        if self.is_away:
            raise Unavailable("the directory is away")
        return self.known


class TurningClock(Clock):
    """A clock that, as a reactor does, leaves what is asked for in a turn to the next one."""

    def advance(self, amount: float) -> None:
        """One turn."""
        self.rightNow += amount
        due = [call for call in self.calls if call.getTime() <= self.rightNow]
        for call in sorted(due, key=lambda one: one.getTime()):
            if call.active():
                self.calls.remove(call)
                call.called = 1
                call.func(*call.args, **call.kw)


class OneQuota:
    """Refuses when the test says so."""

    text = ""

    def check_push(self, app: str, count: int = 1) -> None:
        """As :class:`Quotas` does."""
        if self.text:
            raise Refused(Code.QUOTA_EXCEEDED, self.text)


class ScriptedProvider(RecordingPushProvider):
    """Answers for each device with what ``says`` tells of it."""

    def __init__(self) -> None:
        super().__init__("fcm")
        self.says: Callable[[str], PushOutcome] = lambda value: outcome(OK)

    async def send(self, credentials: Any, device: Any, message: PushMessage) -> PushOutcome:
        """Records the push."""
        self.outcomes.append(self.says(device.value))
        return await super().send(credentials, device, message)

    @property
    def values(self) -> list[str]:
        """The devices that were sent to, in order."""
        return [str(sent.device.value) for sent in self.sent if isinstance(sent.device, FcmDevice)]


class SendingCase(SynchronousTestCase):
    """Devices in memory, and one provider."""

    def setUp(self) -> None:
        self.clock = TurningClock()
        self.now = Now(self.clock)
        self.devices = MemoryDevices()
        self.provider = ScriptedProvider()
        self.credentials = Credentials()
        self.quota = OneQuota()
        quotas: Any = self.quota
        self.meters = AppMeters()
        self.failures: list[tuple[str, str, PushStatus]] = []
        accesses: Any = self.credentials
        self.sender = PushSender(
            {"fcm": self.provider},
            accesses,
            self.devices,
            self.meters,
            self.clock,
            self.now,
            quotas=quotas,
            failed=lambda app, one, what: self.failures.append((app, one.id, what.status)),
        )

    @property
    def milliseconds(self) -> int:
        return int(self.now() * 1000)

    def device(self, id: str, app: str = "shop", **values: Any) -> Registration:
        """A device that is known."""
        given = {"created_at": 0, "updated_at": self.milliseconds, **values}
        one = Registration(id=id, app=app, device=FcmDevice(value=id), **given)
        return self.successResultOf(Deferred.fromCoroutine(self.devices.put(one)))

    def message(self, **values: Any) -> PushMessage:
        return PushMessage(id="m", created=self.milliseconds, title="T", **values)

    def ids(self) -> list[str]:
        """The devices that are known."""
        page = self.devices.page("shop", Audience(), None, 1_000_000)
        return [one.id for one in self.successResultOf(Deferred.fromCoroutine(page))]


class SenderTests(SendingCase):
    def deliver(self, *ids: str, **values: Any) -> list[PushOutcome]:
        """What becomes of a push to these devices."""
        some = [self.device(id) for id in ids]
        sending = Deferred.fromCoroutine(self.sender.deliver(some, self.message(**values)))
        self.clock.pump([0.0] * (len(ids) // BEGUN_AT_ONCE + 1))
        return self.successResultOf(sending)

    def test_outcomes(self) -> None:
        """Each device has its own outcome, in their order; all are counted, and failures told."""
        statuses = {"a": OK, "b": GONE, "c": REJECTED, "d": MISCONFIGURED}
        self.provider.says = lambda value: outcome(statuses[value], value)

        outcomes = self.deliver(*"abcd")

        self.assertEqual([(one.status, one.detail) for one in outcomes], [(s, v) for v, s in statuses.items()])
        self.assertEqual(self.meters.app("shop").push, {"sent": 1, "gone": 1, "rejected": 1, "misconfigured": 1})
        self.assertEqual(self.failures, [("shop", id, statuses[id]) for id in "bcd"])
        self.assertEqual(self.ids(), ["a", "c", "d"])

    def test_came_back(self) -> None:
        """A device that registered again since the service saw it go is kept."""
        seen = self.milliseconds - 1
        self.provider.says = lambda value: outcome(GONE, gone_at=seen)
        self.deliver("a")
        self.assertEqual(self.ids(), ["a"])

        self.provider.says = lambda value: outcome(GONE, gone_at=seen + 1)
        self.deliver("a")
        self.assertEqual(self.ids(), [])

    def test_registers_meanwhile(self) -> None:
        """A device that registers while a push to its old self is on its way is kept."""
        held: Deferred[None] = Deferred()
        self.provider.held.append(held)
        self.provider.says = lambda value: outcome(GONE)
        sending = Deferred.fromCoroutine(self.sender.deliver([self.device("a")], self.message()))
        self.clock.advance(1)
        self.device("a")

        held.callback(None)

        self.assertEqual(self.successResultOf(sending)[0].status, GONE)
        self.assertEqual(self.ids(), ["a"])

    def test_nothing_to_send_with(self) -> None:
        """Without a provider or credentials nothing is sent or counted, and the text says what is missing."""
        self.credentials.known = None
        [one] = self.deliver("a")
        self.assertEqual((one.status, one.detail), (MISCONFIGURED, "the app has no credentials for 'fcm'"))
        self.sender._providers = {}
        [one] = self.deliver("a")
        self.assertIn("sends nothing to 'fcm'", one.detail)
        self.assertEqual((self.provider.sent, self.meters.app("shop").push, self.ids()), ([], {}, ["a"]))

    def test_directory_away(self) -> None:
        """While the credentials can't be read, a push is to be tried again."""
        self.credentials.is_away = True
        [one] = self.deliver("a")
        self.assertEqual((one.status, one.after_seconds, self.failures), (RETRY, 5.0, []))

    def test_quota(self) -> None:
        """Beyond the plan's quota nothing is asked of the service."""
        self.quota.text = "used up"
        [one] = self.deliver("a")
        self.assertEqual((one.status, one.detail, self.provider.sent), (REJECTED, "used up", []))

    def test_waits_for_all(self) -> None:
        """Where the whole app is to wait, nothing is asked until then; another app is not held up."""
        self.provider.says = lambda value: outcome(RETRY, "slow down", after_seconds=60.0, holds_for_all=True)
        self.deliver("a")
        self.clock.advance(20)

        [held] = self.deliver("b")

        self.assertEqual((held.status, held.after_seconds, held.detail), (RETRY, 40.0, "slow down"))
        self.assertEqual(self.provider.values, ["a"])
        self.provider.says = lambda value: outcome(OK)
        other = self.device("c", app="other")
        self.successResultOf(Deferred.fromCoroutine(self.sender.deliver([other], self.message())))
        self.clock.advance(40)
        self.assertEqual(self.deliver("b")[0].status, OK)

    def test_one_device_waits(self) -> None:
        """Where one device is to wait, others are not."""
        self.provider.says = lambda value: outcome(RETRY, after_seconds=60.0) if value == "a" else outcome(OK)
        self.assertEqual([one.status for one in self.deliver("a", "b")], [RETRY, OK])

    def test_wrong_credentials(self) -> None:
        """Credentials that are not accepted are not tried with each device: only after a while, or when they change."""
        self.provider.says = lambda value: outcome(MISCONFIGURED, "no")
        self.deliver(*"abc")
        asked = len(self.provider.sent)
        self.deliver(*"abc")
        self.assertEqual(len(self.provider.sent), asked)

        self.clock.advance(60)
        self.deliver("a")
        self.assertEqual(len(self.provider.sent), asked + 1)
        self.provider.says = lambda value: outcome(OK)
        self.credentials.known = replace(FCM, private_key="new")
        self.assertEqual(self.deliver("a")[0].status, OK)

    def test_in_turns(self) -> None:
        """Some are begun in a turn of the reactor, so that others have theirs."""
        some = [self.device(f"{n:03}") for n in range(BEGUN_AT_ONCE * 3)]
        sending = Deferred.fromCoroutine(self.sender.deliver(some, self.message()))
        begun = []
        while not sending.called:
            begun.append(len(self.provider.sent))
            self.clock.advance(0)
        self.assertEqual(begun, [BEGUN_AT_ONCE, BEGUN_AT_ONCE * 2])
        self.assertEqual(len(self.successResultOf(sending)), BEGUN_AT_ONCE * 3)

    def test_cancelled(self) -> None:
        """Who gives up waiting leaves nothing on its way."""
        self.provider.held += [Deferred() for _ in range(3)]
        sending = Deferred.fromCoroutine(self.sender.deliver([self.device(id) for id in "abc"], self.message()))

        sending.cancel()

        self.failureResultOf(sending)
        self.assertEqual(self.provider._on_their_way, 0)


class JobsCase(SendingCase):
    """Jobs that are worked off; ``present`` are the members in every channel."""

    def setUp(self) -> None:
        super().setUp()
        self.jobs = MemoryPushJobs()
        self.present: set[str] = set()
        self.worker = self.make_worker()

    def make_worker(self, node: str = "n1", **how: Any) -> PushJobs:
        async def present(app: str, channel: str) -> set[str]:
            return self.present

        return PushJobs(self.jobs, self.devices, self.sender, present, self.clock, self.now, node=node, **how)

    def start(self, worker: PushJobs | None = None) -> None:
        worker = worker or self.worker
        worker.startService()
        self.addCleanup(lambda: worker.running and worker.stopService())

    def add(self, id: str = "j", app: str = "shop", audience: Audience | None = None, **values: Any) -> None:
        """Stores a job."""
        message = values.pop("message", None) or self.message()
        job = PushJob(
            id=id, app=app, audience=audience or Audience(), message=message, created_at=self.milliseconds, **values
        )
        self.successResultOf(Deferred.fromCoroutine(self.jobs.add(job)))

    def job(self, id: str = "j", app: str = "shop") -> PushJob:
        """The job as it is stored."""
        found = self.successResultOf(Deferred.fromCoroutine(self.jobs.find(app, id)))
        assert found is not None
        return found

    def advance(self, seconds: float) -> None:
        """Lets time pass, with turns enough for what comes of it."""
        for _ in range(int(seconds)):
            self.clock.advance(1)
            self.clock.pump([0.0] * 50)


class JobTests(JobsCase):
    def test_all_are_sent_to(self) -> None:
        """A job ends when all devices of its audience were sent to, each once, and says how that went."""
        for number in range(2 * SLICE + 5):
            self.device(f"d{number:04}", member="bob" if number % 2 else "ann")
        self.device("x", app="other")
        self.provider.says = lambda value: outcome(GONE, "no more") if value in ("d0001", "d0007") else outcome(OK)
        self.add(audience=Audience(members=("bob",)), total=102)
        self.start()

        self.advance(2)

        job = self.job()
        self.assertEqual((job.state, job.sent, job.failed, job.removed, job.error), ("done", 100, 2, 2, "no more"))
        self.assertEqual(sorted(self.provider.values), [f"d{n:04}" for n in range(1, 2 * SLICE + 5, 2)])

    def test_empty(self) -> None:
        """A job with nobody to send to is done."""
        self.add()
        self.start()
        self.advance(1)
        self.assertEqual((self.job().state, self.job().sent), ("done", 0))

    def test_present_members(self) -> None:
        """Members who are present, and those left out, don't get it; devices that are nobody's do."""
        for id, member in (("a", "ann"), ("b", "bob"), ("c", ""), ("d", "dan")):
            self.device(id, member=member)
        self.present = {"ann"}
        self.add(absent_from="news", excluded=("dan",))
        self.start()
        self.advance(1)
        self.assertEqual((self.provider.values, self.job().sent, self.job().skipped), (["b", "c"], 2, 2))

    def test_poked(self) -> None:
        """A job is begun when the worker is told of it, not only when it looks by itself."""
        self.start()
        self.clock.advance(0.5)
        self.device("a")
        self.add()
        self.assertEqual(self.provider.sent, [])

        self.worker.poke()
        self.clock.pump([0.0] * 5)

        self.assertEqual(self.job().state, "done")

    def test_tried_again(self) -> None:
        """Who is to be tried later is, with growing waits, while the others have long got it; then it is given up."""
        self.device("a")
        self.device("b")
        self.provider.says = lambda value: outcome(RETRY, "not now") if value == "a" else outcome(OK)
        self.add()
        self.start()
        self.advance(1)
        self.assertEqual((self.provider.values, self.job().sent, self.job().state), (["a", "b"], 1, "pending"))
        times: list[float] = []
        for _ in range(1000):
            before = len(self.provider.sent)
            self.advance(1)
            if len(self.provider.sent) > before:
                times.append(self.clock.seconds())
            if self.job().state == "done":
                break

        self.assertEqual(len(times), MAX_TRIES - 1)
        waits = [later - sooner for sooner, later in zip([0.0, *times], times, strict=False)]
        for wait, expected in zip(waits, (10, 20, 40, 80, 160), strict=True):
            self.assertAlmostEqual(wait, expected, delta=3)
        self.assertEqual((self.job().sent, self.job().failed, self.job().error), (1, 1, "not now"))

    def test_succeeds_later(self) -> None:
        """Who is to be tried after a while is, not before, and once."""
        self.device("a")
        self.provider.outcomes.append(outcome(RETRY, after_seconds=50.0))
        self.provider.says = lambda value: outcome(OK)
        self.add()
        self.start()
        self.advance(49)
        self.assertEqual(len(self.provider.sent), 1)
        self.advance(3)
        self.assertEqual((len(self.provider.sent), self.job().state, self.job().sent), (2, "done", 1))

    def test_gone_while_waiting(self) -> None:
        """A device that is forgotten while it waits is skipped."""
        self.device("a")
        self.provider.says = lambda value: outcome(RETRY)
        self.add()
        self.start()
        self.advance(1)
        self.successResultOf(Deferred.fromCoroutine(self.devices.remove("shop", Audience(), 9)))
        self.advance(12)
        self.assertEqual((self.job().state, self.job().skipped, len(self.provider.sent)), ("done", 1, 1))

    def test_time_is_over(self) -> None:
        """What is not sent in the message's time is not sent, and counts as failed; nobody is tried after it."""
        for id in "abc":
            self.device(id)
        self.provider.says = lambda value: outcome(OK) if value == "a" else outcome(RETRY, "not now")
        self.add(message=self.message(ttl_seconds=15), total=3)
        self.start()
        self.advance(9)
        self.assertEqual(self.job().state, "pending")
        self.advance(10)
        self.assertEqual((self.job().state, self.job().sent, self.job().failed), ("done", 1, 2))
        self.add("late", message=replace(self.message(ttl_seconds=5), created=self.milliseconds - 5000), total=7)
        self.advance(2)
        self.assertEqual((self.job("late").failed, self.job("late").state), (7, "done"))
        self.assertIn("time was over", self.job("late").error)

    def test_now_or_never(self) -> None:
        """A message for now or never is tried once."""
        self.device("a")
        self.provider.says = lambda value: outcome(RETRY)
        self.add(message=self.message(ttl_seconds=0))
        self.start()
        self.advance(2)
        self.assertEqual((self.job().state, self.job().failed, len(self.provider.sent)), ("done", 1, 1))

    def test_service_holds_all(self) -> None:
        """While a service holds the whole app the job waits, asks nothing, gives nobody up, and remembers so many."""
        for number in range(MAX_PENDING + 3 * SLICE):
            self.device(f"d{number:04}")
        is_slow = True
        self.provider.says = lambda value: (
            outcome(RETRY, after_seconds=100.0, holds_for_all=True) if is_slow else outcome(OK)
        )
        self.add()
        self.start()
        self.advance(90)
        self.assertEqual(len(self.provider.sent), 1)
        self.assertEqual((len(self.job().pending), self.job().is_read, self.job().failed), (MAX_PENDING, False, 0))

        is_slow = False
        self.advance(30)

        self.assertEqual((self.job().state, self.job().sent), ("done", MAX_PENDING + 3 * SLICE))
        self.assertEqual(len(self.provider.sent), MAX_PENDING + 3 * SLICE + 1)

    def test_held_again_and_again(self) -> None:
        """However often a service makes the whole app wait, no device is given up for it."""
        self.device("a")
        self.provider.says = lambda value: outcome(RETRY, after_seconds=20.0, holds_for_all=True)
        self.add()
        self.start()
        self.advance(25 * MAX_TRIES)
        self.assertGreater(len(self.provider.sent), MAX_TRIES)
        self.assertEqual((self.job().state, self.job().failed), ("pending", 0))

        self.provider.says = lambda value: outcome(OK)
        self.advance(25)

        self.assertEqual((self.job().state, self.job().sent), ("done", 1))

    def test_apps_take_turns(self) -> None:
        """An app with many jobs does not keep another one's waiting: they take turns."""
        for number in range(3 * SLICE):
            self.device(f"d{number:04}")
            self.device(f"o{number:04}", app="other")
        self.worker = self.make_worker(at_once=1)
        for number in range(5):
            self.add(f"j{number}")
        self.add("k", app="other")
        self.start()
        self.advance(6)
        apps = ["other" if value.startswith("o") else "shop" for value in self.provider.values]
        turns = [apps[start] for start in range(0, len(apps), SLICE)]
        self.assertEqual(turns[:6], ["shop", "other"] * 3)
        self.assertEqual(len(apps), 6 * 3 * SLICE)

    def test_cancelled(self) -> None:
        """A job that is cancelled goes no further than its slice."""
        for number in range(3 * SLICE):
            self.device(f"d{number:04}")
        held: Deferred[None] = Deferred()
        self.provider.held.append(held)
        self.add()
        self.start()
        self.advance(1)
        self.assertTrue(self.successResultOf(Deferred.fromCoroutine(self.jobs.cancel("shop", "j", 5))))

        held.callback(None)
        self.advance(5)

        self.assertEqual((self.job().state, len(self.provider.sent)), ("cancelled", SLICE))

    def test_ends_and_goes_on(self) -> None:
        """A worker that is stopped leaves the job as it was stored last; the next one goes on from there at once."""
        for number in range(2 * SLICE):
            self.device(f"d{number:04}")
        self.add()
        self.start()
        for _ in range(100):
            if self.job().sent == SLICE:
                break
            self.clock.advance(0)
        self.provider.held.append(Deferred())
        self.clock.pump([0.0] * 3)

        self.successResultOf(self.worker.stopService())
        begun = len(self.provider.sent)
        self.assertLess(begun, 2 * SLICE)
        self.assertEqual((self.job().sent, self.job().lease_until), (SLICE, 0))

        self.provider.held.clear()
        self.start(self.make_worker("n2"))
        self.advance(2)
        self.assertEqual((self.job().state, self.job().sent), ("done", 2 * SLICE))
        self.assertEqual(set(self.provider.values), {f"d{n:04}" for n in range(2 * SLICE)})

    def test_crash(self) -> None:
        """What a node had that died is taken over when its lease ends; the same node takes it at once."""
        self.device("a")
        self.add()
        self.successResultOf(
            Deferred.fromCoroutine(self.jobs.claim("n1", self.milliseconds, self.milliseconds + 30_000, ()))
        )
        self.start(self.make_worker("n2"))
        self.advance(29)
        self.assertEqual(self.job().sent, 0)
        self.start(self.make_worker("n1"))
        self.advance(1)
        self.assertEqual(self.job().sent, 1)

    def test_store_away(self) -> None:
        """While the store is away nothing is lost, and the worker goes on when it is back."""
        self.device("a")
        self.add()
        claim, is_away = self.jobs.claim, True

        async def away(owner: str, now: int, lease_until: int, skip: Collection[str]) -> PushJob | None:
            if is_away:
                raise Unavailable("away")
            return await claim(owner, now, lease_until, skip)

        self.patch(self.jobs, "claim", away)
        self.start()
        self.advance(3)
        self.assertEqual(self.provider.sent, [])
        is_away = False
        self.advance(2)
        self.assertEqual(self.job().state, "done")

    def test_fault(self) -> None:
        """A fault of ours is logged, holds up no other job, and the job is tried again when its lease ends."""
        self.device("a")
        self.device("b", app="other")
        fault: list[Exception] = [KeyError("x")]

        def says(value: str) -> PushOutcome:
            if value == "a" and fault:
                raise fault.pop()
            return outcome(OK)

        self.provider.says = says
        self.add("j")
        self.add("k", app="other")
        self.start()
        self.advance(2)
        self.assertEqual(len(self.flushLoggedErrors()), 1)
        self.assertEqual(self.job("k", "other").state, "done")
        self.advance(301)
        self.assertEqual(self.job().state, "done")


class LargeTests(JobsCase):
    def test_a_hundred_thousand(self) -> None:
        """A push to 100,000 devices never has more in hand than a slice, and a few in a turn of the reactor.

        The reactor has a turn after every few, another app's push is done meanwhile, and the record tells the progress.
        """
        total = 100_000
        for number in range(total):
            one = Registration(
                id=f"d{number:06}", app="shop", device=FcmDevice(value=f"{number}"), created_at=0, updated_at=0
            )
            self.successResultOf(Deferred.fromCoroutine(self.devices.put(one)))
        self.device("other", app="other")
        read: list[int] = []
        page = self.devices.page

        async def counted(app: str, audience: Audience, cursor: str | None, limit: int) -> list[Registration]:
            found = await page(app, audience, cursor, limit)
            read.append(len(found))
            return found

        self.patch(self.devices, "page", counted)
        self.worker = self.make_worker(at_once=1)
        self.add(total=total)
        self.start()
        most_in_a_turn, turns, seen = 0, 0, []
        for _ in range(3 * total):
            if self.job().state == "done":
                break
            before = len(self.provider.sent)
            self.clock.advance(0)
            most_in_a_turn = max(most_in_a_turn, len(self.provider.sent) - before)
            turns += 1
            seen.append(self.job().sent)
            if self.job().sent == 300:
                self.add("small", app="other")
                self.worker.poke()
            if self.job().sent == 300 + 3 * SLICE:
                self.assertEqual(self.job("small", "other").state, "done")

        self.assertEqual((self.job().sent, self.job().failed), (total, 0))
        self.assertEqual(len(set(self.provider.values)), total + 1)
        self.assertLessEqual(max(read), SLICE)
        self.assertLessEqual(most_in_a_turn, 2 * BEGUN_AT_ONCE)
        self.assertLessEqual(self.provider.most_at_once, SLICE)
        self.assertGreaterEqual(turns, total // (2 * BEGUN_AT_ONCE))
        self.assertEqual(seen, sorted(seen))
        self.assertLessEqual(max(b - a for a, b in zip(seen, seen[1:], strict=False)), SLICE)
