"""What apps and teams use of their plans, and what happened in them over time: read from the meters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from wsock.errors import Code, Malformed, Refused
from wsock.interfaces import Bucket, IBroker, IDirectory, IMeterStore
from wsock.measures import SECONDS, Span, percentile
from wsock.records import App, Membership, Plan, Record, Team
from wsock.services.access import Access, Actor
from wsock.services.carrying import messages_used, pushes_used
from wsock.services.checks import LAST_MILLISECOND
from wsock.services.meters import Meters
from wsock.services.quotas import Quotas
from wsock.services.roles import Permission

__all__ = ["MAX_BUCKETS", "Analytics", "AppUsage", "Part", "Series", "TeamUsage", "Use"]

_R = TypeVar("_R", bound=Record)

MAX_BUCKETS = 1500
"""Parts that a series has at most."""

_PAGE = 500
_DEFAULT_PARTS = {Span.MINUTE: 60, Span.HOUR: 48, Span.DAY: 31, Span.MONTH: 13}


@dataclass(frozen=True, slots=True)
class Use:
    """What is used of what a plan allows; ``limit`` is ``None`` where that is not limited."""

    used: int
    limit: int | None

    @property
    def percent(self) -> float | None:
        """The used share."""
        if self.limit is None:
            return None
        return round(100 * self.used / self.limit, 1) if self.limit else 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AppUsage:
    """What an app uses now, today and in the month from ``start`` to ``end`` (in milliseconds, by UTC).

    ``metrics`` has the limits of its plan by their names in :class:`wsock.records.PlanLimits`. ``peak`` is the largest
    number of connections that it had at a time in the month.
    """

    app: App
    plan: Plan
    start: int
    end: int
    metrics: dict[str, Use]
    connections: int
    peak: int
    channels: int
    messages_today: int
    messages_month: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TeamUsage:
    """What a team has under its own ``plan``, and what each of its apps uses under theirs."""

    team: Team
    plan: Plan
    start: int
    end: int
    metrics: dict[str, Use]
    apps: list[AppUsage]


@dataclass(frozen=True, slots=True)
class Part:
    """What happened in an app in a part of a span."""

    bucket: Bucket

    @property
    def start(self) -> int:
        """When it begins, in milliseconds."""
        return self.bucket.start

    @property
    def connections_peak(self) -> int:
        """The largest number of connections of the cluster at a time."""
        return self.bucket.peaks.get("connections", 0)

    def count(self, name: str) -> int:
        """One of the counts."""
        return self.bucket.counts.get(name, 0)

    def by_label(self, kind: str) -> dict[str, int]:
        """The counts of a kind, such as ``closes``, by their labels."""
        return _by_label(self.bucket, kind)

    def latency(self, share: float) -> float | None:
        """The milliseconds within which this share of the publishes was acknowledged; ``None`` if none was."""
        counts = [self.count(f"latency:{number}") for number in range(len(SECONDS) + 1)]
        seconds = percentile(SECONDS, counts, share)
        return None if seconds is None else round(seconds * 1000, 3)


@dataclass(frozen=True, slots=True)
class Series:
    """Parts of a span, the oldest first; ``next`` is when the part behind them begins, if there is one."""

    parts: list[Part]
    next: int | None


class Analytics:
    """Reads the meters for those who may see the usage of an app's team.

    ``require_app`` finds an app and checks the permission in its team. The ``broker`` tells how many channels have
    subscribers, ``quotas`` how many count as in use.
    """

    def __init__(
        self,
        require_app: Callable[[Actor, Permission, str], Awaitable[App]],
        access: Access,
        directory: IDirectory,
        meters: Meters,
        store: IMeterStore,
        broker: IBroker,
        quotas: Quotas,
        now: Callable[[], float],
    ) -> None:
        self._require_app = require_app
        self._access = access
        self._directory = directory
        self._meters = meters
        self._store = store
        self._broker = broker
        self._quotas = quotas
        self._now = now

    async def usage(self, actor: Actor, app: str) -> AppUsage:
        """What the app uses at this moment; what other nodes counted is up to a second old."""
        known = await self._require_app(actor, Permission.USAGE_READ, app)
        [usage] = await self._usage([known])
        return usage

    async def team_usage(self, actor: Actor, team: str) -> TeamUsage:
        """What the team and all of its apps use."""
        await self._access.require(actor, Permission.USAGE_READ, team)
        known = await self._directory.find(Team, team)
        if known is None:
            raise Refused(Code.NOT_FOUND, f"there is no team with the id '{team}'")
        plan = await self._plan(known.plan)
        apps = await self._all(App, {"team": team})
        members = len(await self._all(Membership, {"team": team}))
        at = self._milliseconds()
        return TeamUsage(
            team=known,
            plan=plan,
            start=Span.MONTH.start(at),
            end=Span.MONTH.end(at),
            metrics={"apps": Use(len(apps), plan.limits.apps), "members": Use(members, plan.limits.members)},
            apps=await self._usage(apps),
        )

    async def series(
        self, actor: Actor, app: str, span: Span, since: int | None, until: int | None, limit: int
    ) -> Series:
        """What happened in the app from ``since`` to ``until``, by the span; parts in which nothing did are left out.

        Without ``until`` it ends now, without ``since`` it begins as many parts before as make a usual chart.
        """
        await self._require_app(actor, Permission.USAGE_READ, app)
        at = self._milliseconds()
        end = at + 1 if until is None else min(until, LAST_MILLISECOND)
        start = _earlier(span, end, _DEFAULT_PARTS[span]) if since is None else since
        if start >= end:
            raise Malformed("'since' takes a time before 'until'")
        if end > at - 1000:
            await self._meters.flush()
        limit = max(1, min(limit, MAX_BUCKETS))
        found = await self._store.series(app, span, span.start(start), end, limit + 1)
        following = found[limit].start if len(found) > limit else None
        return Series([Part(bucket) for bucket in found[:limit]], following)

    async def _usage(self, apps: Sequence[App]) -> list[AppUsage]:
        await self._meters.flush()
        at, ids = self._milliseconds(), [app.id for app in apps]
        month = await self._store.buckets(ids, Span.MONTH, Span.MONTH.start(at))
        day = await self._store.buckets(ids, Span.DAY, Span.DAY.start(at))
        nothing = Bucket(0, {}, {})
        return [await self._used(app, at, month.get(app.id, nothing), day.get(app.id, nothing)) for app in apps]

    async def _used(self, app: App, at: int, month: Bucket, day: Bucket) -> AppUsage:
        plan = await self._plan(app.plan)
        limits, connections = plan.limits, self._meters.connections(app.id)
        channels = await self._channels(app.id)
        webhooks = len(await self._directory.endpoints(app.id))
        return AppUsage(
            app=app,
            plan=plan,
            start=Span.MONTH.start(at),
            end=Span.MONTH.end(at),
            metrics={
                "connections": Use(connections, limits.connections),
                "messages_per_month": Use(messages_used(month.counts), limits.messages_per_month),
                "channels": Use(channels, limits.channels),
                "webhooks": Use(webhooks, limits.webhooks),
                "push_per_month": Use(pushes_used(month.counts), limits.push_per_month),
            },
            connections=connections,
            peak=max(month.peaks.get("connections", 0), connections),
            channels=channels,
            messages_today=day.counts.get("messages_in", 0),
            messages_month=month.counts.get("messages_in", 0),
        )

    async def _channels(self, app: str) -> int:
        """Channels in use, as a limit of them counts: with members that have no subscription as well."""
        meter = self._meters.known.get(app)
        return max(await self._broker.occupied(app), 0 if meter is None else self._quotas.channels(meter))

    async def _plan(self, id: str) -> Plan:
        """The plan, or one without limits where it is not there."""
        return await self._directory.find(Plan, id) or Plan(id=id, name=id)

    async def _all(self, kind: type[_R], where: dict[str, str]) -> list[_R]:
        found: list[_R] = []
        cursor: str | None = None
        while True:
            page = await self._directory.page(kind, where, cursor, _PAGE)
            found.extend(page.items)
            cursor = page.next
            if cursor is None:
                return found

    def _milliseconds(self) -> int:
        return int(self._now() * 1000)


def _by_label(bucket: Bucket, kind: str) -> dict[str, int]:
    return {name[len(kind) + 1 :]: count for name, count in bucket.counts.items() if name.startswith(f"{kind}:")}


def _earlier(span: Span, end: int, parts: int) -> int:
    """When the first of so many parts begins of which the last one is under way just before ``end``."""
    start = span.start(end - 1)
    for _ in range(parts - 1):
        start = span.start(start - 1)
    return start
