"""The rate limits of publishes: of an app, of each of its channels, of each of its users.

Theory of operation
===================
Each limit is a sliding window in the counters, which all nodes share. A publish that is within its limits must not wait
for them, so a node takes *leases*: events that are counted already and may happen. It spends them one by one, in
memory, and asks for more before they are used up.

How many a node asks for is a 32nd of what it used in the last window. So a lease is used up in a 32nd of a window, and
the window that the counters see is as much off at most, however the load is spread over however many nodes. A node that
publishes little asks for one at a time: it takes nothing away that others could use. What a node did not use is
forgotten when it leaves the window in the counters too.

When there is nothing left and an answer is under way, nobody knows whether a publish is within its limit. Then it
waits: letting it through would let every node exceed the limit by what comes while it asks. The order is kept:
publishes wait in one line for each limit, and go through the limits one after the other (app, channel, user), always
the same way, so that two publishes of one client to one channel never overtake each other. What a publish has taken is
given back when a later limit refuses it. When the counters said that there is no room, and until when, publishes are
refused at once until then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from math import ceil, exp

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from wsock.errors import Code, Refused, Unavailable
from wsock.interfaces import ICounters, Lease
from wsock.protocol.rates import Rate, Rates
from wsock.services.limits import Tally, retry_after

__all__ = ["RateLimiter"]

_SHARE = 32
"""The part of what was used in the last window that is leased at a time."""
_SWEEP_AT = 1024
_MAX_UNLIMITED = 10_000
_SETTINGS = {
    "app": "limits.app_publish_rate",
    "channel": "limits.channel_publish_rate",
    "user": "limits.user_publish_rate",
}
_OWN_SETTINGS = {
    "app": "the app's setting app_rate",
    "channel": "the channel's setting channel_rate",
    "user": "the app's setting user_rate",
}
_WHERE = {"app": "in this app", "channel": "in this channel", "user": "by this client"}


class _Allowance:
    """What this node may spend of one limit: ``left`` events until ``ends_at``; then it leases more.

    ``has_had`` is what it had when it last asked for more and what it got since; ``recent`` is what it used in the last
    window, fading; at ``low`` left it asks ahead of need. Until ``wait_until`` there is no room. While publishes
    ``wait``, a lease is under way and nothing is left.
    """

    __slots__ = (
        "ends_at",
        "has_had",
        "is_leasing",
        "key",
        "left",
        "limit",
        "low",
        "recent",
        "recent_at",
        "scope",
        "seconds",
        "setting",
        "wait_until",
        "waiting",
    )

    def __init__(self, scope: str, name: str, rate: Rate, own: tuple[str, ...] = ()) -> None:
        self.scope = scope
        self.setting = (_OWN_SETTINGS if scope in own else _SETTINGS)[scope]
        self.key = f"{scope}:{name}"
        self.limit = rate.limit
        self.seconds = rate.window_seconds
        self.left = 0
        self.has_had = 0
        self.ends_at = 0.0
        self.low = -1
        self.recent = 0.0
        self.recent_at = 0.0
        self.wait_until = 0.0
        self.is_leasing = False
        self.waiting: deque[_Publish] = deque()

    def is_idle(self, now: float) -> bool:
        """Whether nothing is lost when it is forgotten."""
        return not self.is_leasing and now >= max(self.ends_at, self.wait_until, self.recent_at + self.seconds)

    def asks_for(self, now: float) -> int:
        """How many to lease; what is left over from an earlier window is forgotten."""
        used = self.has_had - self.left
        if now >= self.ends_at:
            self.left = 0
        self.has_had = self.left
        self.recent = self.recent * exp(min(self.recent_at - now, 0.0) / self.seconds) + used
        self.recent_at = now
        share = min(ceil(self.recent / _SHARE), self.limit) or 1
        self.low = share // 2 or -1
        return max(share, len(self.waiting))

    def leased(self, lease: Lease, asked_at: float) -> None:
        """The counters answered."""
        self.is_leasing = False
        self.left += lease.granted
        self.has_had += lease.granted
        self.ends_at = asked_at + self.seconds
        wait = lease.wait if lease.granted else max(lease.wait, 0.001)
        self.wait_until = asked_at + min(wait, self.seconds) if wait > 0 else 0.0

    def is_full(self, now: float) -> bool:
        """Whether there is no room; a clock that was set back is no reason to believe so for long."""
        return now < self.wait_until <= now + self.seconds

    def refusal(self, now: float) -> Refused:
        """What a publish is told for which there is no room."""
        seconds = retry_after(self.wait_until - now)
        allowed = f"{self.setting} allows {self.limit} messages in {self.seconds:g} s {_WHERE[self.scope]}"
        return Refused(Code.RATE_LIMITED, f"{allowed}: try again in {seconds:g} s", retry_after=seconds)


class _Tenant:
    """The allowances of one app, as long as its rates are these."""

    __slots__ = ("app", "channels", "id", "rates", "unlimited", "users", "waiting")

    def __init__(self, id: str, rates: Rates) -> None:
        self.id = id
        self.rates = rates
        self.app = None if rates.app is None else _Allowance("app", "", rates.app, rates.own)
        self.channels: dict[str, _Allowance] = {}
        self.unlimited: set[str] = set()
        self.users: dict[str, _Allowance] = {}
        self.waiting = 0

    def __len__(self) -> int:
        return 1 + len(self.channels) + len(self.users)

    def allowances(self, channel: str, user: str | None) -> list[_Allowance]:
        """Those that a publish needs, in the order in which it goes through them."""
        found = [] if self.app is None else [self.app]
        if self.rates.channels and channel not in self.unlimited:
            of_channel = self.channels.get(channel) or self._new_channel(channel)
            if of_channel is not None:
                found.append(of_channel)
        if self.rates.user is not None and user is not None:
            of_user = self.users.get(user)
            if of_user is None:
                of_user = self.users[user] = _Allowance("user", user, self.rates.user, self.rates.own)
            found.append(of_user)
        return found

    def _new_channel(self, name: str) -> _Allowance | None:
        rate = self.rates.channel(name)
        if rate is not None:
            self.channels[name] = _Allowance("channel", name, rate, self.rates.own)
            return self.channels[name]
        if len(self.unlimited) >= _MAX_UNLIMITED:
            self.unlimited.clear()
        self.unlimited.add(name)
        return None

    def is_idle(self, now: float) -> bool:
        """Forgets what is idle; whether that is everything."""
        self.channels = {name: a for name, a in self.channels.items() if not a.is_idle(now)}
        self.users = {name: a for name, a in self.users.items() if not a.is_idle(now)}
        return not self.channels and not self.users and (self.app is None or self.app.is_idle(now))


class _Publish:
    """A publish on its way through its limits; ``admitted`` is there when it had to wait."""

    __slots__ = ("admitted", "at", "needs", "refused", "taken", "tenant")

    def __init__(self, tenant: _Tenant, needs: list[_Allowance]) -> None:
        self.tenant = tenant
        self.needs = needs
        self.at = 0
        self.taken: list[_Allowance] = []
        self.refused: Refused | None = None
        self.admitted: Deferred[None] | None = None

    @property
    def is_over(self) -> bool:
        """Whether it is decided."""
        return self.refused is not None or self.at == len(self.needs)

    def tell(self) -> None:
        """Tells who waits."""
        admitted, self.admitted = self.admitted, None
        if admitted is None:
            return
        if self.refused is not None:
            admitted.errback(Failure(self.refused))
        else:
            admitted.callback(None)


class RateLimiter:
    """Says whether a publish is within the limits of its app, its channel and its user.

    ``rates`` tells an app's limits, or ``None`` when it has none; it is asked for every publish, so it should give the
    same object until they change. ``now`` is the wall clock in seconds, which the nodes should agree about.
    """

    _log = Logger()

    def __init__(
        self,
        counters: ICounters,
        now: Callable[[], float],
        rates: Callable[[str], Rates | None],
        tally: Tally | None = None,
    ) -> None:
        self._counters = counters
        self._now = now
        self._rates = rates
        self.tally = tally or Tally()
        self._tenants: dict[str, _Tenant] = {}
        self._until_sweep = _SWEEP_AT

    def __len__(self) -> int:
        return sum(len(tenant) for tenant in self._tenants.values())

    def admit(self, app: str, channel: str, user: str | None) -> Deferred[None] | None:
        """Counts a publish: ``None`` when it is within its limits, which costs no call of the counters.

        Raises :class:`Refused` with ``rate_limited`` and ``retry_after`` when it is not. When that is not known yet,
        the Deferred fires when it is, or fails with the refusal; later publishes of the user to the channel fire
        later. Without a ``user`` there is no limit of the user.
        """
        rates = self._rates(app)
        if self._until_sweep <= 0:
            self._sweep(self._now())
        tenant = self._tenants.get(app)
        if tenant is None or (tenant.rates is not rates and not tenant.waiting):
            if rates is None:
                return None
            tenant = self._tenant(app, rates)
        now = self._now()
        needs = tenant.allowances(channel, user)
        for allowance in needs:
            if allowance.left <= 0 or now >= allowance.ends_at:
                return self._admit_slowly(tenant, needs, now)
        for allowance in needs:
            self._spend(tenant, allowance, now)
        return None

    # Through the limits.

    def _admit_slowly(self, tenant: _Tenant, needs: list[_Allowance], now: float) -> Deferred[None] | None:
        self._until_sweep -= 1
        if self.tally.refuses(tenant.rates.is_enforced):
            self._require_room(needs, now)
        publish = _Publish(tenant, needs)
        self._go_on(publish, now)
        if publish.refused is not None:
            raise publish.refused
        if publish.is_over:
            return None
        publish.admitted = Deferred()
        return publish.admitted

    def _require_room(self, needs: list[_Allowance], now: float) -> None:
        """Refuses where a limit is known to have no room, before anything is taken from the others."""
        for allowance in needs:
            if (allowance.left <= 0 or now >= allowance.ends_at) and allowance.is_full(now):
                self.tally.exceeded(allowance.scope)
                raise allowance.refusal(now)

    def _go_on(self, publish: _Publish, now: float) -> None:
        """Takes what the publish needs, until it has to wait, is refused or has everything."""
        while not publish.is_over:
            allowance = publish.needs[publish.at]
            taken = None if allowance.waiting else self._take(publish.tenant, allowance, now)
            if taken is None:
                allowance.waiting.append(publish)
                publish.tenant.waiting += 1
                return
            self._pass(publish, allowance, taken, now)

    def _pass(self, publish: _Publish, allowance: _Allowance, is_taken: bool, now: float) -> None:
        """The publish is through this limit, or refused by it."""
        if is_taken:
            publish.taken.append(allowance)
        elif self.tally.exceeded(allowance.scope, is_enforced=publish.tenant.rates.is_enforced):
            publish.refused = allowance.refusal(now)
            self._give_back(publish.tenant, publish.taken, now)
            return
        publish.at += 1

    def _take(self, tenant: _Tenant, allowance: _Allowance, now: float) -> bool | None:
        """Whether one could be taken; ``None`` when that will be known."""
        if allowance.left <= 0 or now >= allowance.ends_at:
            if allowance.is_full(now):
                return False
            if not allowance.is_leasing:
                self._lease(tenant, allowance, now)
            if allowance.left <= 0 or now >= allowance.ends_at:
                return False if allowance.is_full(now) else None
        self._spend(tenant, allowance, now)
        return True

    def _spend(self, tenant: _Tenant, allowance: _Allowance, now: float) -> None:
        allowance.left -= 1
        if allowance.left == allowance.low and not allowance.is_leasing and now >= allowance.wait_until:
            self._lease(tenant, allowance, now)

    def _give_back(self, tenant: _Tenant, taken: Iterable[_Allowance], now: float) -> None:
        for allowance in taken:
            if now < allowance.ends_at:
                allowance.left += 1
                self._serve(tenant, allowance)

    # Leases.

    def _lease(self, tenant: _Tenant, allowance: _Allowance, now: float) -> None:
        """Asks for more. Counters in memory have answered when this returns."""
        allowance.is_leasing = True
        leased = Deferred.fromCoroutine(self._ask(tenant.id, allowance, now))
        if allowance.is_leasing:
            leased.addCallback(lambda _: self._serve(tenant, allowance))

    async def _ask(self, app: str, allowance: _Allowance, now: float) -> None:
        wanted = allowance.asks_for(now)
        try:
            lease = await self._counters.lease(app, allowance.key, allowance.limit, allowance.seconds, wanted, now)
        except Unavailable:
            lease = Lease(wanted, 0.0)
        except Exception:
            # Whatever is wrong with counting, nobody is refused and nobody waits for ever because of it.
            self._log.failure("a rate could not be counted")
            lease = Lease(wanted, 0.0)
        allowance.leased(lease, now)

    def _serve(self, tenant: _Tenant, allowance: _Allowance) -> None:
        """Lets those go on who waited for this allowance, in their order."""
        now = self._now()
        while allowance.waiting:
            taken = self._take(tenant, allowance, now)
            if taken is None:
                return
            publish = allowance.waiting.popleft()
            tenant.waiting -= 1
            self._pass(publish, allowance, taken, now)
            self._go_on(publish, now)
            if publish.is_over:
                publish.tell()

    # Apps.

    def _tenant(self, app: str, rates: Rates) -> _Tenant:
        """The app with these rates. What was counted under others stays counted."""
        tenant = self._tenants.get(app)
        if tenant is None or tenant.rates != rates:
            tenant = self._tenants[app] = _Tenant(app, rates)
        tenant.rates = rates
        return tenant

    def _sweep(self, now: float) -> None:
        """Forgets idle allowances, so seldom that it costs little: each came here once when it was new."""
        self._tenants = {app: tenant for app, tenant in self._tenants.items() if not tenant.is_idle(now)}
        self._until_sweep = max(_SWEEP_AT, 2 * len(self))
