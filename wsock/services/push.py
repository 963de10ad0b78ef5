"""The devices of an app, and pushes to them: to members, to a channel, to everyone.

A push to few devices is done when it is asked for, with what became of each. To more it is a job
(:mod:`wsock.services.push_jobs`), which is stored first and then worked off. So is what a push service wants to have
again later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec.structs import replace

from wsock.errors import Code, Refused
from wsock.interfaces import (
    Again,
    Audience,
    Device,
    IDeviceStore,
    IMeterStore,
    IPushJobs,
    IPushProvider,
    PushJob,
    PushMessage,
    PushOutcome,
    PushStatus,
    Registration,
)
from wsock.measures import Span
from wsock.protocol.channels import check_channel
from wsock.services.checks import check_text
from wsock.services.push_content import PushContent, push_message
from wsock.services.push_jobs import PushJobs, retry_after
from wsock.services.push_sending import PushSender
from wsock.services.quotas import Quotas
from wsock.services.tokens import new_secret

__all__ = ["AT_ONCE", "MAX_CHANNELS", "Push", "PushStats", "Result", "Sent"]

AT_ONCE = 100
"""Devices that a push may have to be done at once."""
MAX_CHANNELS = 100
"""Channels whose pushes a device may want."""

_MAX_METADATA = 4096
_SOME = 500
_PLATFORMS = ("web", "fcm", "apns")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of a push to one device; one that is not over is tried again."""

    registration: Registration
    outcome: PushOutcome

    @property
    def is_over(self) -> bool:
        """Whether this is the last word."""
        return self.outcome.status is not PushStatus.RETRY


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What became of a push: of each device, or the ``job`` that goes on with it, or both."""

    results: list[Result]
    job: PushJob | None = None

    def count(self, *, reached: bool) -> int:
        """How many devices were reached, or were not."""
        return sum(one.is_over and (one.outcome.status is PushStatus.OK) is reached for one in self.results)


@dataclass(frozen=True, slots=True, kw_only=True)
class PushStats:
    """What an app has: devices by platform, and what became of the pushes of this month."""

    devices: Mapping[str, int]
    outcomes: Mapping[str, int]


class Push:
    """Registers devices and sends to them. ``most`` bounds the devices of one member."""

    def __init__(
        self,
        devices: IDeviceStore,
        jobs: IPushJobs,
        sender: PushSender,
        worker: PushJobs,
        providers: Mapping[str, IPushProvider],
        meters: IMeterStore,
        now: Callable[[], float],
        random: Callable[[int], bytes],
        *,
        quotas: Quotas | None = None,
        most: int = 100,
    ) -> None:
        self._devices = devices
        self._jobs = jobs
        self._sender = sender
        self._worker = worker
        self._providers = providers
        self._meters = meters
        self._now = now
        self._random = random
        self._quotas = quotas
        self._most = most

    # Devices.

    async def register(
        self,
        app: str,
        device: Device,
        *,
        member: str = "",
        channels: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> Registration:
        """Makes the device known, or the member's who registers it now. Raises :class:`Refused`."""
        now = self._milliseconds()
        new = Registration(
            id=f"sub_{new_secret(self._random, 16)}",
            app=app,
            device=device,
            member=check_text("memberId", member) if member else "",
            channels=_channels(channels),
            metadata=_metadata(metadata),
            created_at=now,
            updated_at=now,
        )
        provider = self._providers.get(new.platform)
        if provider is None:
            raise Refused(Code.BAD_REQUEST, f"this server sends nothing to '{new.platform}'")
        provider.check_device(device)
        if member:
            await self._make_room(app, member)
        return await self._devices.put(new)

    async def _make_room(self, app: str, member: str) -> None:
        """Browsers come with a new address now and then, and leave the old one behind: the eldest give way."""
        audience = Audience(members=(member,))
        if await self._devices.count(app, audience) < self._most:
            return
        devices = await self._devices.page(app, audience, None, self._most + _SOME)
        eldest = sorted(devices, key=lambda one: one.updated_at)[: len(devices) - self._most + 1]
        await self._devices.remove(app, Audience(ids=tuple(one.id for one in eldest)), len(eldest))

    async def device(self, app: str, id: str) -> Registration | None:
        """The device of this id."""
        return await self._devices.find(app, id)

    async def page(self, app: str, audience: Audience, cursor: str | None, limit: int) -> list[Registration]:
        """Devices of the audience, in the order of their ids."""
        return await self._devices.page(app, audience, cursor, limit)

    async def count(self, app: str, audience: Audience) -> int:
        """How many devices the audience has."""
        return await self._devices.count(app, audience)

    async def unregister(self, app: str, audience: Audience) -> int:
        """Forgets the devices; returns how many."""
        count = 0
        while removed := await self._devices.remove(app, audience, _SOME):
            count += removed
        return count

    async def join(self, app: str, audience: Audience, channel: str) -> int:
        """The devices want the channel's pushes; returns how many do."""
        check_channel(channel)
        return await self._devices.join(app, audience, channel, MAX_CHANNELS)

    async def part(self, app: str, audience: Audience, channel: str) -> int:
        """The devices don't want the channel's pushes any more; returns how many did."""
        return await self._devices.part(app, audience, channel)

    async def stats(self, app: str) -> PushStats:
        """What the app has now, and what became of its pushes since the month began, as of a second ago."""
        devices = {name: await self._devices.count(app, Audience(platform=name)) for name in _PLATFORMS}
        buckets = await self._meters.buckets([app], Span.MONTH, Span.MONTH.start(self._milliseconds()))
        counts = buckets[app].counts if app in buckets else {}
        outcomes = {name.partition(":")[2]: n for name, n in counts.items() if name.startswith("push:")}
        return PushStats(devices=devices, outcomes=outcomes)

    # Pushes.

    async def send(self, app: str, audience: Audience, content: PushContent) -> Sent:
        """Sends to the audience: at once, or as a job where it is large.

        Raises :class:`Refused` for a content that is none, and with ``quota_exceeded``.
        """
        message = push_message(content, f"push_{self._random(12).hex()}", self._milliseconds())
        some = await self._devices.page(app, audience, None, AT_ONCE + 1)
        if len(some) > AT_ONCE:
            total = await self._devices.count(app, audience)
            self._check_quota(app, total)
            return Sent(results=[], job=await self._begin(self._job(app, audience, message, total)))
        self._check_quota(app, len(some))
        outcomes = await self._sender.deliver(some, message)
        results = [Result(registration=one, outcome=what) for one, what in zip(some, outcomes, strict=True)]
        again = [one for one in results if not one.is_over]
        if not again or not message.ttl_seconds:
            return Sent(results=results)
        return Sent(results=results, job=await self._begin(self._again(app, message, again)))

    async def trigger(self, job: PushJob) -> None:
        """Begins a job that may have begun already; it is durable when this returns."""
        if await self._jobs.add(job):
            self._worker.poke()

    def _again(self, app: str, message: PushMessage, results: Sequence[Result]) -> PushJob:
        """The job that tries those again that are to be tried later."""
        now = self._milliseconds()
        waits = {one.registration.id: int(retry_after(one.outcome, 1) * 1000) for one in results}
        job = self._job(app, Audience(ids=tuple(waits)), message, len(waits))
        pending = {id: Again(1, now + wait) for id, wait in waits.items()}
        return replace(job, is_read=True, pending=pending, due=now + min(waits.values()))

    def _job(self, app: str, audience: Audience, message: PushMessage, total: int) -> PushJob:
        now = self._milliseconds()
        id = f"job_{now:011x}{self._random(8).hex()}"
        return PushJob(id=id, app=app, audience=audience, message=message, created_at=now, total=total, due=now)

    async def _begin(self, job: PushJob) -> PushJob:
        await self.trigger(job)
        return job

    def _check_quota(self, app: str, count: int) -> None:
        if self._quotas is not None and count:
            self._quotas.check_push(app, count)

    # Housekeeping.

    async def sweep(self, apps: Callable[[str], Any], kept_seconds: float) -> None:
        """Forgets jobs that ended long ago, and what apps left behind that are no more."""
        while await self._jobs.expire(int((self._now() - kept_seconds) * 1000), _SOME) == _SOME:
            pass
        for app in sorted({*await self._devices.apps(), *await self._jobs.apps()}):
            if await apps(app) is not None:
                continue
            await self.unregister(app, Audience())
            while await self._jobs.remove(app, _SOME) == _SOME:
                pass

    def _milliseconds(self) -> int:
        return int(self._now() * 1000)


def _channels(channels: Sequence[str]) -> tuple[str, ...]:
    if len(channels) > MAX_CHANNELS:
        raise Refused(Code.LIMIT_EXCEEDED, f"a device may want the pushes of {MAX_CHANNELS} channels, not more")
    for channel in channels:
        check_channel(channel)
    return tuple(sorted(set(channels)))


def _metadata(metadata: Mapping[str, Any] | None) -> Mapping[str, Any]:
    size = len(msgspec.json.encode(metadata or {}))
    if size > _MAX_METADATA:
        raise Refused(Code.TOO_LARGE, f"the metadata has {size} bytes of JSON, more than {_MAX_METADATA}")
    return metadata or {}
