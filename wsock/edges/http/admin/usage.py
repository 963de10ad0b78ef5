"""What apps and teams use of their plans, and what happened in apps over time."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from wsock.edges.http.operations import Answer, Call, Group, Items, Milliseconds, NoBody, NoQuery, Query, operation
from wsock.errors import Malformed
from wsock.measures import Span
from wsock.records import Plan
from wsock.services.analytics import MAX_BUCKETS, Analytics, AppUsage, Part, TeamUsage, Use
from wsock.services.roles import Permission

__all__ = ["UsageGroup"]

_METRICS = (
    "messagesIn",
    "messagesOut",
    "bytesIn",
    "bytesOut",
    "connectionsPeak",
    "opens",
    "closes",
    "refused",
    "latency",
    "webhooks",
    "push",
)


class UseAnswer(Answer, frozen=True):
    """What is used of a limit. ``limit`` and ``percent`` are null where the plan has none."""

    used: int
    limit: int | None
    percent: float | None


class PeriodAnswer(Answer, frozen=True):
    """The month that is counted, by UTC, in milliseconds since 1970; ``end`` is the beginning of the next one."""

    start: int
    end: int


class PlanInUse(Answer, frozen=True):
    """The plan that the limits are from. The last two bound every message and the history; null is no limit."""

    id: str
    name: str
    message_bytes: int | None
    history_ttl_seconds: int | None


class AppMetrics(Answer, frozen=True):
    """What an app uses of each limit of its plan: at this moment, or in the month."""

    connections: UseAnswer
    messages_per_month: UseAnswer
    channels: UseAnswer
    webhooks: UseAnswer
    push_per_month: UseAnswer


class ConnectionsUsed(Answer, frozen=True):
    """Connections on all nodes: ``now``, and at most at a time in the month."""

    now: int
    peak: int


class MessagesUsed(Answer, frozen=True):
    """Messages that were accepted, today and in this month, by UTC."""

    today: int
    month: int


class AppUsageAnswer(Answer, frozen=True):
    """What an app uses. ``channels`` are those that have subscribers now."""

    id: str
    name: str
    plan: PlanInUse
    period: PeriodAnswer
    metrics: AppMetrics
    connections: ConnectionsUsed
    messages: MessagesUsed
    channels: int


class TeamMetrics(Answer, frozen=True):
    """What a team has of each limit of its plan."""

    apps: UseAnswer
    members: UseAnswer


class TeamUsageAnswer(Answer, frozen=True):
    """What a team has, what its apps use together, and each of them. ``peak`` adds up the peaks of the apps."""

    id: str
    name: str
    plan: PlanInUse
    period: PeriodAnswer
    metrics: TeamMetrics
    connections: ConnectionsUsed
    messages: MessagesUsed
    channels: int
    apps: list[AppUsageAnswer]


class AnalyticsQuery(Query, frozen=True):
    """Which parts of time are asked for, and what of them."""

    span: Annotated[
        Literal["minute", "hour", "day", "month"], Meta(description="How long each part is; they begin by UTC.")
    ] = "hour"
    since: Annotated[Milliseconds | None, Meta(description="From the part on that this moment is in.")] = None
    until: Annotated[Milliseconds | None, Meta(description="Parts that begin before it.")] = None
    metrics: (
        Annotated[
            str, Meta(max_length=200, description="Names of fields with commas between them; all others are left out.")
        ]
        | None
    ) = None
    cursor: Annotated[str, Meta(max_length=20, description="The `next` of the answer before.")] | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_BUCKETS, description="How many parts at most.")] = MAX_BUCKETS


class Latency(Answer, frozen=True):
    """Milliseconds from a publish to its acknowledgement, for half of them, 95 % and 99 %; of some of all publishes."""

    p50: float
    p95: float
    p99: float


class PartAnswer(Answer, frozen=True):
    """What happened in the part of time that begins ``at``. ``latency`` is null when nothing was published."""

    at: int
    messages_in: int | UnsetType = UNSET
    messages_out: int | UnsetType = UNSET
    bytes_in: int | UnsetType = UNSET
    bytes_out: int | UnsetType = UNSET
    connections_peak: int | UnsetType = UNSET
    opens: int | UnsetType = UNSET
    closes: dict[str, int] | UnsetType = UNSET
    refused: dict[str, int] | UnsetType = UNSET
    latency: Latency | None | UnsetType = UNSET
    webhooks: dict[str, int] | UnsetType = UNSET
    push: dict[str, int] | UnsetType = UNSET


class UsageGroup(Group):
    """Usage and analytics."""

    tag = "Usage"
    about = "What apps and teams use of their plans, and what happened in apps over time."

    def __init__(self, analytics: Analytics) -> None:
        self._analytics = analytics

    @operation("GET", "/api/admin/apps/{appId}/usage", needs=Permission.USAGE_READ)
    async def app(self, call: Call[NoBody, NoQuery]) -> AppUsageAnswer:
        """Tells what an app uses of its plan now, today and this month.

        What happened on the node that answers is in it, what happened on others up to a second ago.
        """
        return _app_usage(await self._analytics.usage(call.actor, call.path["appId"]))

    @operation("GET", "/api/admin/apps/{appId}/analytics", needs=Permission.USAGE_READ)
    async def analytics(self, call: Call[NoBody, AnalyticsQuery]) -> Items[PartAnswer]:
        """Tells what happened in an app, by the minute, hour, day or month.

        The oldest part is the first; parts in which nothing happened and nobody was connected are left out. Minutes
        are kept for days, hours for months, days for years.
        """
        query = call.query
        fields = _fields(query.metrics)
        since = query.since if query.cursor is None else _place(query.cursor)
        series = await self._analytics.series(
            call.actor, call.path["appId"], Span(query.span), since, query.until, query.limit
        )
        return Items([_part(part, fields) for part in series.parts], None if series.next is None else str(series.next))

    @operation("GET", "/api/admin/teams/{teamId}/usage", needs=Permission.USAGE_READ)
    async def team(self, call: Call[NoBody, NoQuery]) -> TeamUsageAnswer:
        """Tells what a team has of its plan, and what its apps use."""
        return _team_usage(await self._analytics.team_usage(call.actor, call.path["teamId"]))


def _fields(text: str | None) -> frozenset[str]:
    names = frozenset(_METRICS if text is None else text.split(","))
    unknown = sorted(names.difference(_METRICS))
    if unknown:
        raise Malformed(f"'metrics': there is none called '{unknown[0]}'; there are {', '.join(_METRICS)}")
    return names


def _place(cursor: str) -> int:
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 16):
        raise Malformed("'cursor': this is no cursor of analytics: leave it out to begin with the oldest")
    return int(cursor)


def _part(part: Part, fields: frozenset[str]) -> PartAnswer:
    values = {
        "messagesIn": part.count("messages_in"),
        "messagesOut": part.count("messages_out"),
        "bytesIn": part.count("bytes_in"),
        "bytesOut": part.count("bytes_out"),
        "connectionsPeak": part.connections_peak,
        "opens": part.count("opens"),
        "closes": part.by_label("closes"),
        "refused": part.by_label("refused"),
        "latency": _latency(part),
        "webhooks": part.by_label("webhooks"),
        "push": part.by_label("push"),
    }
    names = dict(zip(PartAnswer.__struct_encode_fields__, PartAnswer.__struct_fields__, strict=True))
    asked = {names[field]: value for field, value in values.items() if field in fields}
    return PartAnswer(at=part.start, **asked)  # type: ignore[arg-type]  # each has the type of its field


def _latency(part: Part) -> Latency | None:
    p50, p95, p99 = part.latency(0.5), part.latency(0.95), part.latency(0.99)
    return None if p50 is None or p95 is None or p99 is None else Latency(p50=p50, p95=p95, p99=p99)


def _use(use: Use) -> UseAnswer:
    return UseAnswer(used=use.used, limit=use.limit, percent=use.percent)


def _plan(plan: Plan) -> PlanInUse:
    limits = plan.limits
    return PlanInUse(
        id=plan.id,
        name=plan.name,
        message_bytes=limits.message_bytes,
        history_ttl_seconds=limits.history_ttl_seconds,
    )


def _app_usage(usage: AppUsage) -> AppUsageAnswer:
    return AppUsageAnswer(
        id=usage.app.id,
        name=usage.app.name,
        plan=_plan(usage.plan),
        period=PeriodAnswer(start=usage.start, end=usage.end),
        metrics=AppMetrics(**{name: _use(use) for name, use in usage.metrics.items()}),
        connections=ConnectionsUsed(now=usage.connections, peak=usage.peak),
        messages=MessagesUsed(today=usage.messages_today, month=usage.messages_month),
        channels=usage.channels,
    )


def _team_usage(usage: TeamUsage) -> TeamUsageAnswer:
    apps = usage.apps
    return TeamUsageAnswer(
        id=usage.team.id,
        name=usage.team.name,
        plan=_plan(usage.plan),
        period=PeriodAnswer(start=usage.start, end=usage.end),
        metrics=TeamMetrics(**{name: _use(use) for name, use in usage.metrics.items()}),
        connections=ConnectionsUsed(now=sum(app.connections for app in apps), peak=sum(app.peak for app in apps)),
        messages=MessagesUsed(
            today=sum(app.messages_today for app in apps), month=sum(app.messages_month for app in apps)
        ),
        channels=sum(app.channels for app in apps),
        apps=[_app_usage(app) for app in apps],
    )
