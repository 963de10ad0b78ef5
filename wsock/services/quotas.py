"""What plans allow, and who has used it up.

Theory of operation
===================
What an app has used in the cluster is known as of the last flush of :class:`~wsock.services.meters.Meters`, a second
ago at most; what this node did since then it knows by itself. Alone that is exact. With other nodes each may go ahead
only by its part of one percent of the limit: then it has to flush, and hears of what the others did, before it goes
on. Publishes wait for that, in their order. So all nodes together never exceed a limit by more than one percent, or by
one for each other node where that is more.

While the store is away nobody is refused for what others may have done: each node goes by what it knows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from math import inf

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from wsock.errors import Code, Refused, Unavailable
from wsock.interfaces import IBroker, IMeterStore, IRecords, Sample
from wsock.measures import Span
from wsock.records import Plan, PlanLimits
from wsock.services.app_meter import AppMeter
from wsock.services.carrying import messages_used, pushes_used
from wsock.services.meters import Meters

__all__ = ["METRICS", "Quota", "Quotas", "check_count", "require_room"]

METRICS = {
    "connections": "connections at a time",
    "messages_per_month": "messages a month",
    "message_bytes": "bytes in a message",
    "channels": "channels in use at a time",
    "history_ttl_seconds": "seconds of history",
    "webhooks": "webhooks in an app",
    "push_per_month": "push messages a month",
    "apps": "apps in a team",
    "members": "members of a team",
}
"""The limits of a plan, as people are told of them."""

_WARN_AT = 0.8
_MONTHLY = ("messages_per_month", "push_per_month")
_WATCHED = ("connections", "channels", *_MONTHLY)


class Quota:
    """What one app may still use on this node, under its plan.

    ``left`` are publishes that may go ahead without asking; those that ``waiting`` holds come first. ``messages`` and
    ``pushes`` are what the cluster has used in the month, as of the last look; ``flushing`` is what was taken from
    the meter since then and is on its way.
    """

    __slots__ = (
        "channels",
        "flushing",
        "in_flight",
        "is_known",
        "left",
        "messages",
        "meter",
        "owner",
        "own_channels",
        "peak",
        "period_end",
        "plan",
        "pushes",
        "waiting",
        "warned",
    )

    def __init__(self, owner: Quotas, meter: AppMeter, plan: Plan) -> None:
        self.owner = owner
        self.meter = meter
        self.plan = plan
        self.left: float = inf if plan.limits.messages_per_month is None else 0
        self.messages = self.pushes = 0
        self.flushing = self.in_flight = 0
        self.channels = self.own_channels = 0
        self.peak = 0
        self.period_end = 0
        self.is_known = False
        self.waiting: deque[Deferred[None]] = deque()
        self.warned: set[tuple[str, int]] = set()

    # Publishes.

    def admit_message(self) -> Deferred[None] | None:
        """Admits a publish: ``None`` when it may go ahead.

        Raises :class:`Refused` with ``quota_exceeded`` when the month's messages are used up. When that is not known
        yet, the Deferred fires when it is, in the order of the calls, or fails with the refusal. Whoever was admitted
        calls :meth:`ended` when the publish was accepted or failed.
        """
        if self.left > 0 and not self.waiting:
            self.left -= 1
            self.in_flight += 1
            return None
        if self.is_known:
            self._require_messages()
        admitted: Deferred[None] = Deferred()
        self.waiting.append(admitted)
        self.owner.look_soon()
        return admitted

    def ended(self) -> None:
        """A publish that was admitted was accepted, and is counted by the meter; or it failed."""
        self.in_flight -= 1

    @property
    def messages_used(self) -> int:
        """Messages of this month, as far as is known here, with those under way."""
        return self.messages + self.flushing + self.meter.unflushed + self.in_flight

    @property
    def pushes_used(self) -> int:
        """Push messages of this month, as far as is known here."""
        return self.pushes + self.meter.unflushed_push

    def _require_messages(self) -> None:
        self.require("messages_per_month", self.messages_used)

    # What comes of a flush.

    def took(self, sample: Sample) -> None:
        """The sample was taken from the meter."""
        self.flushing += sample.counts.get("messages_in", 0)
        self.peak = sample.peaks.get("connections", 0)

    def added(self, sample: Sample) -> None:
        """The sample is in the store."""
        count = sample.counts.get("messages_in", 0)
        self.flushing -= count
        self.messages += count

    def renew(self, most: float) -> None:
        """Goes on with at most so many publishes ahead of the next look, whatever is known now."""
        limit = self.plan.limits.messages_per_month
        if limit is None:
            self.left = inf
        else:
            own = self.flushing + self.meter.unflushed + self.in_flight
            self.left = max(0, min(limit - self.messages_used, most - own))
        self._serve()

    def _serve(self) -> None:
        while self.waiting:
            if self.left > 0:
                self.left -= 1
                self.in_flight += 1
                self.waiting.popleft().callback(None)
                continue
            try:
                self._require_messages()
            except Refused:
                self.waiting.popleft().errback(Failure())
                continue
            self.owner.look_soon()
            return

    # Everything that a plan limits.

    def require(self, metric: str, used: int) -> None:
        """Refuses one more with ``quota_exceeded`` when this much is used."""
        check_count(self.plan, metric, used, self.period_end if metric in _MONTHLY else 0)


class Quotas:
    """Holds the apps on this node to their plans.

    ``plan_of`` tells an app's plan, as far as it is known at that moment. ``warn(app, metric, used, limit)`` is called
    when 80 % of a limit are used, and ``exceeded`` with the same when all of it is: once in a month for each app and
    metric, on one node. The ``broker`` tells how many channels of an app have subscribers in the cluster; without it,
    those of this node are all.
    """

    _log = Logger()

    def __init__(
        self,
        meters: Meters,
        store: IMeterStore,
        plan_of: Callable[[str], Plan | None],
        *,
        warn: Callable[[str, str, int, int], None] = lambda app, metric, used, limit: None,
        exceeded: Callable[[str, str, int, int], None] = lambda app, metric, used, limit: None,
        broker: IBroker | None = None,
    ) -> None:
        self._meters = meters
        self._store = store
        self._plan_of = plan_of
        self._warn = warn
        self._exceeded = exceeded
        self._broker = broker
        meters.looks.append(self.look)
        meters.on_new = self._attach

    # Plans.

    async def reload(self) -> None:
        """Plans may have changed: goes by what they say now."""
        for meter in self._meters.meters():
            self._attach(meter)

    def _attach(self, meter: AppMeter) -> None:
        plan = self._plan_of(meter.app)
        quota = meter.quota
        if quota is not None and plan is not None and plan.limits == quota.plan.limits:
            quota.plan = plan
        elif plan is not None and _is_watched(plan.limits):
            self._change(meter, plan)
        elif quota is not None and plan is not None:
            # Those that wait may go ahead, and what is under way still tells its end.
            quota.plan = plan
            quota.renew(inf)
            meter.quota = None

    def _change(self, meter: AppMeter, plan: Plan) -> None:
        """The app has limits, or others than before."""
        if meter.quota is None:
            meter.quota = Quota(self, meter, plan)
            self.look_soon()
            return
        meter.quota.plan = plan
        meter.quota.renew(self._most(plan))

    # Admitting.

    def look_soon(self) -> None:
        """Looks at what all nodes have used, without waiting for the next second."""
        self._meters.flush_soon()

    async def admit_connection(self, app: str) -> None:
        """Refuses a connection with ``quota_exceeded`` when the app has as many as its plan allows.

        Look again with :meth:`check_connection` when it opens.
        """
        meter = self._meters.app(app)
        quota = meter.quota
        limit = None if quota is None else quota.plan.limits.connections
        if limit is not None and self._meters.unreported(meter) >= self._part(limit):
            await self._look_now()
        self.check_connection(app)

    def check_connection(self, app: str) -> None:
        """Refuses one more connection, as far as is known at this moment."""
        quota = self._meters.app(app).quota
        if quota is not None:
            quota.require("connections", self._meters.connections(app))

    async def admit_channel(self, meter: AppMeter, channel: str) -> None:
        """Refuses a channel that this node has not in use yet, when the app uses as many as its plan allows.

        One that has subscribers on another node is no further one. Raises :class:`Refused` with ``quota_exceeded``.
        """
        quota = meter.quota
        limit = None if quota is None else quota.plan.limits.channels
        if quota is None or limit is None:
            return
        if self._broker is not None and meter.channels - quota.own_channels >= self._part(limit):
            await self._look_now()
        try:
            quota.require("channels", self.channels(meter))
        except Refused:
            if self._broker is None or not await self._broker.is_occupied(meter.app, channel):
                raise

    def check_push(self, app: str, count: int = 1) -> None:
        """Refuses so many push messages with ``quota_exceeded`` when the month's are used up."""
        quota = self._meters.app(app).quota
        if quota is not None:
            quota.require("push_per_month", quota.pushes_used + count - 1)

    def channels(self, meter: AppMeter) -> int:
        """Channels of the app in use in the cluster, as far as is known here."""
        quota = meter.quota
        if quota is None:
            return meter.channels
        return max(meter.channels, quota.channels + meter.channels - quota.own_channels)

    async def _look_now(self) -> None:
        try:
            await self._meters.flush()
        except CancelledError:
            raise
        except Unavailable:
            # Then what this node knows has to do.
            return

    def _part(self, limit: int) -> float:
        """By how much this node may go ahead of what the others know."""
        return inf if self._meters.is_alone else max(1, limit // 100 // self._meters.nodes)

    def _most(self, plan: Plan) -> float:
        limit = plan.limits.messages_per_month
        return inf if limit is None else self._part(limit)

    # Looking.

    async def look(self, at: int) -> None:
        """Reads what the cluster has used at that moment (in milliseconds), and goes by it."""
        await self.reload()
        quotas = [meter.quota for meter in self._meters.meters() if meter.quota is not None]
        if not quotas:
            return
        month = Span.MONTH.start(at)
        try:
            parts = await self._store.buckets([quota.meter.app for quota in quotas], Span.MONTH, month)
        except Unavailable:
            for quota in quotas:
                quota.renew(inf)
            return
        for quota in quotas:
            part = parts.get(quota.meter.app)
            counts = {} if part is None else part.counts
            quota.messages = messages_used(counts)
            quota.pushes = pushes_used(counts)
            quota.period_end = Span.MONTH.end(at)
            await self._count_channels(quota)
            quota.is_known = True
            quota.renew(self._most(quota.plan))
            await self._warn_early(quota, month)

    async def _count_channels(self, quota: Quota) -> None:
        own = quota.meter.channels
        if self._broker is None or quota.plan.limits.channels is None:
            quota.channels = quota.own_channels = own
            return
        # While it can't be told, what was told last has to do.
        with suppress(Unavailable):
            quota.channels, quota.own_channels = await self._broker.occupied(quota.meter.app), own

    async def _warn_early(self, quota: Quota, month: int) -> None:
        used = {
            "connections": max(quota.peak, self._meters.connections(quota.meter.app)),
            "channels": self.channels(quota.meter),
            "messages_per_month": quota.messages_used,
            "push_per_month": quota.pushes_used,
        }
        for metric in _WATCHED:
            limit = getattr(quota.plan.limits, metric)
            if not limit:
                continue
            if used[metric] >= _WARN_AT * limit and await self._is_first(quota, metric, month):
                self._log.warn(
                    "the app {app} has used {used} of the {limit} {what} that its plan '{plan}' allows",
                    app=quota.meter.app,
                    used=used[metric],
                    limit=limit,
                    what=METRICS[metric],
                    plan=quota.plan.id,
                )
                self._warn(quota.meter.app, metric, used[metric], limit)
            if used[metric] >= limit and await self._is_first(quota, f"{metric}_exceeded", month):
                self._exceeded(quota.meter.app, metric, used[metric], limit)

    async def _is_first(self, quota: Quota, what: str, month: int) -> bool:
        """Whether this is told for the first time in the month, on whatever node."""
        if (what, month) in quota.warned:
            return False
        try:
            is_first = await self._store.claim(quota.meter.app, what, month)
        except Unavailable:
            return False
        quota.warned.add((what, month))
        return is_first


def check_count(plan: Plan, metric: str, used: int, until: int = 0) -> None:
    """Refuses one more with ``quota_exceeded`` when this much is used; ``until`` when, if that ends by itself."""
    limit: int | None = getattr(plan.limits, metric)
    if limit is None or used < limit:
        return
    ends = f"; they begin anew at {_written(until)}" if until else ""
    text = f"the plan '{plan.id}' allows {limit} {METRICS[metric]}, and {used} are used{ends}: ask for a larger plan"
    raise Refused(Code.QUOTA_EXCEEDED, text)


async def require_room(records: IRecords, plan: str, metric: str, used: int) -> None:
    """As :func:`check_count`, by the id of the plan; one that is not there limits nothing."""
    known = await records.find(Plan, plan)
    if known is not None:
        check_count(known, metric, used)


def _is_watched(limits: PlanLimits) -> bool:
    return any(getattr(limits, metric) is not None for metric in _WATCHED)


def _written(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
