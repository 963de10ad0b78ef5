"""Works off pushes to many devices, a slice at a time.

Theory of operation
===================
A job is stored with how far it is. Whoever claims it sends to one slice of its devices, stores how far it is then, and
lets go of it: so several nodes work on several jobs, none holds more than a slice of each in memory, and a crash
repeats one slice at most (a device may get the same message twice then; it has the same id). Apps take turns, whatever
number of jobs each has.

Devices whose service wants to have them later are remembered in the job, up to a number, and the job goes on with
others; when they are too many it waits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

from msgspec.structs import replace
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from wsock.errors import Unavailable
from wsock.interfaces import (
    Again,
    Audience,
    IDeviceStore,
    IPushJobs,
    PushJob,
    PushOutcome,
    PushStatus,
    Registration,
)
from wsock.services.push_sending import PushSender

__all__ = ["MAX_PENDING", "MAX_TRIES", "SLICE", "PushJobs", "retry_after"]

SLICE = 100
"""Devices that a job sends to before it lets others have their turn."""
MAX_PENDING = 500
"""Devices that a job remembers to try again."""
MAX_TRIES = 6
"""How often a device is tried."""

_LOOK_SECONDS = 1.0
_LEASE_SECONDS = 300.0
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 10.0, 900.0
_NEVER = Again(0, 0)

Present = Callable[[str, str], Awaitable[set[str]]]


def retry_after(outcome: PushOutcome, tries: int) -> float:
    """After how many seconds a device is tried again that was tried so often."""
    wait = 1.0 if outcome.holds_for_all else min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2.0 ** (tries - 1))
    return max(outcome.after_seconds, wait)


class PushJobs(Service):
    """Works on ``at_once`` jobs at a time, in the name of ``node``.

    ``present`` tells who is in a channel. It looks for jobs each second, when one ends, and when it is poked.
    """

    _log = Logger()

    def __init__(
        self,
        jobs: IPushJobs,
        devices: IDeviceStore,
        sender: PushSender,
        present: Present,
        clock: IReactorTime,
        now: Callable[[], float],
        *,
        node: str,
        at_once: int = 4,
    ) -> None:
        self._jobs = jobs
        self._devices = devices
        self._sender = sender
        self._present = present
        self._clock = clock
        self._now = now
        self._node = node
        self._at_once = at_once
        self._served: set[str] = set()
        self._working: set[Deferred[None]] = set()
        self._looking: Deferred[None] | None = None
        self._is_poked = False
        self._is_recovered = False
        self._loop = LoopingCall(self.poke)
        self._loop.clock = clock

    # The service.

    def startService(self) -> None:
        """Begins to look for jobs; first those that this node had when it ended."""
        super().startService()
        self._loop.start(_LOOK_SECONDS)

    def stopService(self) -> Deferred[None]:
        """Ends; what is under way is left as it was stored last. Fires when nothing is under way."""
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        ending = list(self._working if self._looking is None else {*self._working, self._looking})
        over = gatherResults(ending, consumeErrors=True)
        for one in ending:
            one.cancel()
        return over.addCallback(lambda _: Deferred.fromCoroutine(self._let_go()))

    def poke(self) -> None:
        """There may be a job: looks at once."""
        self._is_poked = True
        if self._looking is None and self.running:
            looking: Deferred[None] = Deferred(lambda _: look.cancel())
            self._looking = looking
            look = Deferred.fromCoroutine(self._look())
            look.addBoth(self._looked, looking)

    def _looked(self, _: object, looking: Deferred[None]) -> None:
        self._looking = None
        looking.callback(None)
        if self._is_poked:
            self.poke()

    async def _look(self) -> None:
        """Claims jobs for all hands that are free. Never raises."""
        self._is_poked = False
        try:
            if not self._is_recovered:
                await self._jobs.release(self._node)
                self._is_recovered = True
            while self.running and len(self._working) < self._at_once:
                job = await self._claim()
                if job is None:
                    return
                self._begin(job)
                await deferLater(self._clock, 0.0)
        except CancelledError:
            pass
        except Unavailable:
            pass  # the store has said so in the log; the next look tries again
        except Exception:
            self._log.failure("looking for pushes failed; the next look tries again")

    async def _let_go(self) -> None:
        self._is_recovered = False
        with suppress(Unavailable):  # the leases end by themselves
            await self._jobs.release(self._node)

    async def _claim(self) -> PushJob | None:
        """A job of an app that has had no turn since others had theirs."""
        now = self._milliseconds()
        lease_until = now + int(_LEASE_SECONDS * 1000)
        job = await self._jobs.claim(self._node, now, lease_until, tuple(self._served))
        if job is None and self._served:
            self._served.clear()
            job = await self._jobs.claim(self._node, now, lease_until, ())
        if job is not None:
            self._served.add(job.app)
        return job

    def _begin(self, job: PushJob) -> None:
        done: Deferred[None] = Deferred(lambda _: work.cancel())
        self._working.add(done)
        work = Deferred.fromCoroutine(self._work(job))
        work.addBoth(self._worked, done)

    def _worked(self, _: object, done: Deferred[None]) -> None:
        self._working.discard(done)
        done.callback(None)
        self.poke()

    # A job.

    async def _work(self, job: PushJob) -> None:
        """Goes on with the job by one slice. Never raises."""
        try:
            after = await self._slice(job)
            await self._jobs.save(replace(after, lease_until=0))
        except CancelledError:
            pass
        except Unavailable:
            pass  # the lease ends by itself
        except Exception:
            self._log.failure("the push {id} of {app} failed; it is tried again", id=job.id, app=job.app)

    async def _slice(self, job: PushJob) -> PushJob:
        """The job after its next slice."""
        now = self._milliseconds()
        if now >= _expiry(job):
            return self._ended(job, "its time was over before all devices were reached")
        ready = tuple(id for id, again in job.pending.items() if again.at <= now)[:SLICE]
        if ready:
            found = await self._devices.page(job.app, Audience(ids=ready), None, SLICE)
            lost = {*ready} - {one.id for one in found}
            left = {id: again for id, again in job.pending.items() if id not in lost}
            return await self._sent(replace(job, pending=left, skipped=job.skipped + len(lost)), found)
        if not job.is_read and len(job.pending) < MAX_PENDING:
            page = await self._devices.page(job.app, job.audience, job.cursor, SLICE)
            cursor = page[-1].id if page else job.cursor
            return await self._sent(replace(job, cursor=cursor, is_read=len(page) < SLICE), page)
        return self._onward(job)

    async def _sent(self, job: PushJob, devices: Sequence[Registration]) -> PushJob:
        wanted = await self._without_present(job, devices)
        outcomes = await self._sender.deliver(wanted, job.message)
        counted = replace(job, skipped=job.skipped + len(devices) - len(wanted))
        return self._onward(self._counted(counted, dict(zip((one.id for one in wanted), outcomes, strict=True))))

    async def _without_present(self, job: PushJob, devices: Sequence[Registration]) -> list[Registration]:
        if not job.absent_from or not devices:
            return list(devices)
        out = {*await self._present(job.app, job.absent_from), *job.excluded}
        return [one for one in devices if not one.member or one.member not in out]

    def _counted(self, job: PushJob, outcomes: Mapping[str, PushOutcome]) -> PushJob:
        """The job with what became of these devices."""
        now = self._milliseconds()
        pending = {id: again for id, again in job.pending.items() if id not in outcomes}
        sent, failed, removed, error = job.sent, job.failed, job.removed, job.error
        for id, outcome in outcomes.items():
            before = job.pending.get(id, _NEVER)
            # While the whole app has to wait, no device of it is tried.
            again = _again(replace(before, tries=before.tries + (not outcome.holds_for_all)), outcome, now)
            if outcome.status is PushStatus.OK:
                sent += 1
            elif outcome.status is PushStatus.RETRY and again.tries < MAX_TRIES and again.at < _last_retry(job):
                pending[id] = again
            else:
                failed += 1
                removed += outcome.status is PushStatus.GONE
                error = outcome.detail or error
        return replace(job, sent=sent, failed=failed, removed=removed, error=error, pending=pending)

    def _onward(self, job: PushJob) -> PushJob:
        """When the job goes on, or that it is done."""
        now = self._milliseconds()
        if not job.is_read and len(job.pending) < MAX_PENDING:
            return replace(job, due=now)
        if job.pending:
            return replace(job, due=max(now, min(again.at for again in job.pending.values())))
        return replace(job, state="done", finished_at=now)

    def _ended(self, job: PushJob, error: str) -> PushJob:
        known = job.sent + job.failed + job.skipped
        left = max(len(job.pending), job.total - known)
        return replace(
            job,
            state="done",
            finished_at=self._milliseconds(),
            failed=job.failed + left,
            error=error,
            pending={},
        )

    def _milliseconds(self) -> int:
        return int(self._now() * 1000)


def _again(before: Again, outcome: PushOutcome, now: int) -> Again:
    return Again(before.tries, now + int(retry_after(outcome, before.tries) * 1000))


def _expiry(job: PushJob) -> float:
    """From when on nobody is to get it. One that is for now or never is sent once to each, however long that takes."""
    ttl = job.message.ttl_seconds
    return job.message.created + ttl * 1000 if ttl else float("inf")


def _last_retry(job: PushJob) -> float:
    return _expiry(job) if job.message.ttl_seconds else 0.0
