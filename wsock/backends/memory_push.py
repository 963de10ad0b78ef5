"""Devices, and pushes to many of them, in memory: for ``--dev`` and for tests."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Collection, Iterator
from itertools import islice

from msgspec.structs import replace
from zope.interface import implementer

from wsock.interfaces import Audience, IDeviceStore, IPushJobs, PushJob, Registration

__all__ = ["MemoryDevices", "MemoryPushJobs"]


class _App:
    """The devices of one app: by id, in the order of ids, and by what they are found by."""

    def __init__(self) -> None:
        self.by_id: dict[str, Registration] = {}
        self.ids: list[str] = []
        self.by_reached: dict[str, str] = {}
        self.by_member: dict[str, set[str]] = {}
        self.by_channel: dict[str, set[str]] = {}

    def put(self, registration: Registration) -> None:
        self.drop(registration.id)
        self.by_id[registration.id] = registration
        insort(self.ids, registration.id)
        self.by_reached[registration.reached] = registration.id
        self.by_member.setdefault(registration.member, set()).add(registration.id)
        for channel in registration.channels:
            self.by_channel.setdefault(channel, set()).add(registration.id)

    def drop(self, id: str) -> None:
        registration = self.by_id.pop(id, None)
        if registration is None:
            return
        del self.ids[bisect_right(self.ids, id) - 1]
        del self.by_reached[registration.reached]
        _discard(self.by_member, registration.member, id)
        for channel in registration.channels:
            _discard(self.by_channel, channel, id)

    def of(self, audience: Audience, cursor: str | None = None) -> Iterator[Registration]:
        """The devices of the audience in the order of their ids."""
        for id in self._candidates(audience, cursor):
            registration = self.by_id.get(id)
            if registration is not None and audience.includes(registration):
                yield registration

    def _candidates(self, audience: Audience, cursor: str | None) -> Iterator[str]:
        if audience.ids is not None:
            some: Collection[str] = set(audience.ids)
        elif audience.members is not None:
            some = {id for member in audience.members for id in self.by_member.get(member, ())}
        elif audience.channel is not None:
            some = self.by_channel.get(audience.channel, set())
        else:
            start = 0 if cursor is None else bisect_right(self.ids, cursor)
            return islice(self.ids, start, None)
        return iter(sorted(id for id in some if cursor is None or id > cursor))


def _discard(index: dict[str, set[str]], name: str, id: str) -> None:
    index[name].discard(id)
    if not index[name]:
        del index[name]


@implementer(IDeviceStore)
class MemoryDevices:
    """Keeps them for as long as the process lives."""

    def __init__(self) -> None:
        self._apps: dict[str, _App] = {}

    async def put(self, registration: Registration) -> Registration:
        """Stores a device: see :class:`IDeviceStore`."""
        app = self._apps.setdefault(registration.app, _App())
        known = app.by_reached.get(registration.reached)
        stored = registration if known is None else app.by_id[known].again(registration)
        app.put(stored)
        return stored

    async def find(self, app: str, id: str) -> Registration | None:
        """The device of this id."""
        return self._of(app).by_id.get(id)

    async def page(self, app: str, audience: Audience, cursor: str | None, limit: int) -> list[Registration]:
        """A part of the audience."""
        return list(islice(self._of(app).of(audience, cursor), limit))

    async def count(self, app: str, audience: Audience) -> int:
        """How many devices the audience has."""
        devices = self._of(app)
        return len(devices.ids) if audience == Audience() else sum(1 for _ in devices.of(audience))

    async def join(self, app: str, audience: Audience, channel: str, most: int) -> int:
        """The devices want the channel too."""
        devices, count = self._of(app), 0
        for one in list(devices.of(audience)):
            if channel not in one.channels:
                if len(one.channels) >= most:
                    continue
                devices.put(replace(one, channels=tuple(sorted({*one.channels, channel}))))
            count += 1
        return count

    async def part(self, app: str, audience: Audience, channel: str) -> int:
        """The devices don't want the channel any more."""
        devices = self._of(app)
        those = [one for one in devices.of(audience) if channel in one.channels]
        for one in those:
            devices.put(replace(one, channels=tuple(name for name in one.channels if name != channel)))
        return len(those)

    async def remove(self, app: str, audience: Audience, limit: int, until: int | None = None) -> int:
        """Deletes devices."""
        devices = self._of(app)
        those = (one.id for one in devices.of(audience) if until is None or one.updated_at <= until)
        ids = list(islice(those, limit))
        for id in ids:
            devices.drop(id)
        if not devices.ids:
            self._apps.pop(app, None)
        return len(ids)

    async def apps(self) -> list[str]:
        """The apps with devices."""
        return sorted(self._apps)

    def _of(self, app: str) -> _App:
        return self._apps.get(app) or _App()


@implementer(IPushJobs)
class MemoryPushJobs:
    """Keeps them for as long as the process lives."""

    def __init__(self) -> None:
        self._jobs: dict[tuple[str, str], PushJob] = {}

    async def add(self, job: PushJob) -> bool:
        """Stores a new one."""
        return self._jobs.setdefault((job.app, job.id), job) is job

    async def find(self, app: str, id: str) -> PushJob | None:
        """The job of this id."""
        return self._jobs.get((app, id))

    async def page(self, app: str, cursor: str | None, limit: int) -> list[PushJob]:
        """The jobs of an app, the newest first."""
        ids = sorted((id for of, id in self._jobs if of == app and (cursor is None or id < cursor)), reverse=True)
        return [self._jobs[app, id] for id in ids[:limit]]

    async def claim(self, owner: str, now: int, lease_until: int, skip: Collection[str]) -> PushJob | None:
        """The job that is due first."""
        free = [job for job in self._jobs.values() if _is_free(job, now) and job.app not in skip]
        if not free:
            return None
        claimed = replace(min(free, key=lambda job: (job.due, job.id)), owner=owner, lease_until=lease_until)
        self._jobs[claimed.app, claimed.id] = claimed
        return claimed

    async def save(self, job: PushJob) -> bool:
        """Stores how far it is."""
        known = self._jobs.get((job.app, job.id))
        if known is None or known.owner != job.owner or known.state != "pending":
            return False
        self._jobs[job.app, job.id] = job
        return True

    async def cancel(self, app: str, id: str, at: int) -> bool:
        """Ends a pending job."""
        known = self._jobs.get((app, id))
        if known is None or known.state != "pending":
            return False
        self._jobs[app, id] = replace(known, state="cancelled", finished_at=at)
        return True

    async def release(self, owner: str) -> None:
        """The owner has none any more."""
        for key, job in self._jobs.items():
            if job.owner == owner:
                self._jobs[key] = replace(job, lease_until=0)

    async def remove(self, app: str, limit: int) -> int:
        """Deletes jobs of an app."""
        return self._delete([key for key in self._jobs if key[0] == app][:limit])

    async def expire(self, before: int, limit: int) -> int:
        """Deletes what ended before."""
        old = [key for key, job in self._jobs.items() if job.finished_at is not None and job.finished_at < before]
        return self._delete(old[:limit])

    async def apps(self) -> list[str]:
        """The apps with jobs."""
        return sorted({app for app, _ in self._jobs})

    def _delete(self, keys: list[tuple[str, str]]) -> int:
        for key in keys:
            del self._jobs[key]
        return len(keys)


def _is_free(job: PushJob, now: int) -> bool:
    return job.state == "pending" and job.due <= now and job.lease_until <= now
