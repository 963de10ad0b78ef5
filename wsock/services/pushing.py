"""All that pushes are made of, put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from wsock.interfaces import (
    IDeviceStore,
    IDirectory,
    IMeterStore,
    IPushJobs,
    IPushProvider,
    IVapidKeys,
    PushOutcome,
    Registration,
)
from wsock.services.app_meter import AppMeters
from wsock.services.audit import Audit
from wsock.services.push import Push
from wsock.services.push_access import PushAccesses
from wsock.services.push_jobs import Present, PushJobs
from wsock.services.push_overview import PushOverview
from wsock.services.push_rights import PushRights
from wsock.services.push_rules import PushRules, PushTriggers
from wsock.services.push_sending import PushSender
from wsock.services.quotas import Quotas

__all__ = ["Pushing", "failure_event"]


class Pushing:
    """The services of pushes.

    ``providers`` send, by platform; ``contact`` is who browsers' push services are told to turn to, and ``per_member``
    how many devices a member may have. ``present`` tells who is in a channel, and ``failed`` hears of what did not
    reach a device, for webhooks. What ended is kept for ``kept_seconds``.
    """

    def __init__(
        self,
        directory: IDirectory,
        audit: Audit,
        now: Callable[[], float],
        random: Callable[[int], bytes],
        clock: Any,
        *,
        devices: IDeviceStore,
        jobs: IPushJobs,
        providers: Mapping[str, IPushProvider],
        meters: AppMeters,
        meter_store: IMeterStore,
        quotas: Quotas,
        present: Present,
        failed: Callable[[str, Mapping[str, Any]], None],
        node: str,
        contact: str,
        per_member: int,
        kept_seconds: float,
    ) -> None:
        self._directory = directory
        self._kept_seconds = kept_seconds
        web: Any = providers.get("web")
        vapid = web if IVapidKeys.providedBy(web) else None
        self.providers = providers
        self.accesses = PushAccesses(directory, audit, now, providers, vapid, contact)
        sender = PushSender(
            providers,
            self.accesses,
            devices,
            meters,
            clock,
            now,
            quotas=quotas,
            failed=lambda app, registration, outcome: failed(app, failure_event(registration, outcome)),
        )
        self.worker = PushJobs(jobs, devices, sender, present, clock, now, node=node)
        self.push = Push(
            devices,
            jobs,
            sender,
            self.worker,
            providers,
            meter_store,
            now,
            random,
            quotas=quotas,
            most=per_member,
        )
        self.triggers = PushTriggers(self.push.trigger)
        self.rules = PushRules(directory, audit, now, random)
        self.overview = PushOverview(directory, jobs, audit, now)
        self.rights = PushRights(directory)

    async def sweep(self) -> None:
        """Forgets what ended long ago, and what deleted apps left behind."""
        await self.push.sweep(self._directory.app, self._kept_seconds)

    async def stop(self) -> None:
        """Waits for what is being stored, then lets go of the services."""
        await self.triggers.stop()
        for provider in self.providers.values():
            await provider.close()


def failure_event(registration: Registration, outcome: PushOutcome) -> Mapping[str, Any]:
    """What webhooks are told of a push that did not reach its device."""
    return {
        "subscriptionId": registration.id,
        "memberId": registration.member,
        "platform": registration.platform,
        "status": outcome.status.value,
        "error": outcome.detail,
    }
