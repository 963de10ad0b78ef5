"""Pushes to many devices, for administrators: how far they are, and their end before the time."""

from __future__ import annotations

from collections.abc import Callable

from wsock.errors import Code, Refused
from wsock.interfaces import IPushJobs, IRecords, PushJob
from wsock.services.access import Access, Actor
from wsock.services.audit import Audit
from wsock.services.roles import Permission

__all__ = ["PushOverview"]


class PushOverview:
    """Shows jobs, and ends them."""

    def __init__(self, records: IRecords, jobs: IPushJobs, audit: Audit, now: Callable[[], float]) -> None:
        self._jobs = jobs
        self._audit = audit
        self._now = now
        self._access = Access(records)

    async def jobs(self, actor: Actor, app: str, cursor: str | None, limit: int) -> list[PushJob]:
        """The jobs of the app, the newest first."""
        await self._access.require_app(actor, Permission.PUSH_READ, app)
        return await self._jobs.page(app, cursor, limit)

    async def job(self, actor: Actor, app: str, id: str) -> PushJob:
        """The job as it is."""
        await self._access.require_app(actor, Permission.PUSH_READ, app)
        return await self._found(app, id)

    async def cancel(self, actor: Actor, app: str, id: str) -> PushJob:
        """The job, which goes no further; devices that are being sent to at this moment may still get it."""
        owner = await self._access.require_app(actor, Permission.PUSH_SEND, app)
        await self._found(app, id)
        if await self._jobs.cancel(app, id, int(self._now() * 1000)):
            await self._audit.record(actor, "push.job.cancel", team=owner.team, app=app, target=id)
        return await self._found(app, id)

    async def _found(self, app: str, id: str) -> PushJob:
        job = await self._jobs.find(app, id)
        if job is None:
            raise Refused(Code.NOT_FOUND, f"there is no push job with the id '{id}' in this app")
        return job
