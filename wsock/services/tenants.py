"""The apps that this node has to do with, each with its settings as they are now.

Theory of operation
===================
An app is read when it is first needed, and again after each change of the directory that
:class:`~wsock.services.watch.Watch` notices. What comes of it, a :class:`~wsock.services.rules.Tenant`, never changes:
when something of it was changed another one takes its place, so "is it the same object" says whether it was.

Nearly all apps have no settings of their own. The hot path asks :attr:`Tenants.special`, which has only those that do:
it costs one look into a dict where there is nothing to find.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TypeVar

from msgspec.structs import replace
from twisted.internet.defer import Deferred, DeferredSemaphore, FirstError, gatherResults
from twisted.python.failure import Failure

from wsock.interfaces import IDirectory
from wsock.protocol.rates import Rates
from wsock.records import App, Key, Namespace, Plan, PushRule, Record, Revocation
from wsock.services.rules import ChannelRules, Defaults, Facts, Tenant

__all__ = ["Tenants"]

_R = TypeVar("_R", bound=Record)
_OfApp = TypeVar("_OfApp", Namespace, Key, Revocation)
_PAGE = 500
_AT_ONCE = 8
_MANY = 300
_IDLE_SECONDS = 600.0


class Tenants:
    """Apps with their settings. An app is remembered as long as somebody holds it, and while there is room.

    ``defaults`` is what the server says, ``size`` how many apps are remembered that nobody holds. ``special`` are those
    for which anything of their own holds.
    """

    def __init__(
        self,
        directory: IDirectory,
        now: Callable[[], float],
        defaults: Defaults | None = None,
        *,
        size: int = 10_000,
    ) -> None:
        self._directory = directory
        self._now = now
        self.defaults = defaults or Defaults()
        self._size = size
        self._tenants: dict[str, Tenant] = {}
        self._special: dict[str, Tenant] = {}
        self.special: Mapping[str, Tenant] = self._special
        self._held: dict[str, int] = {}
        self._idle: OrderedDict[str, float] = OrderedDict()
        self._loading: dict[tuple[str, str], list[Deferred[Tenant | None]]] = {}
        self._generation = 0

    def __len__(self) -> int:
        return len(self._tenants)

    def get(self, app: str) -> Tenant | None:
        """The app as it is remembered; ``None`` when it was not read, or is none any more."""
        return self._tenants.get(app)

    def rules(self, app: str, channel: str) -> ChannelRules | None:
        """What holds in the channel; ``None``: nothing but what the server says."""
        tenant = self._special.get(app)
        return None if tenant is None else tenant.channel(channel)

    def rates(self, app: str) -> Rates | None:
        """What the app's publishes are limited to, for the rate limiter."""
        tenant = self._special.get(app)
        return self.defaults.rates if tenant is None else tenant.rates

    async def load(self, app: str) -> Tenant | None:
        """The app, which is remembered from now on; ``None`` when there is none."""
        tenant = self._tenants.get(app)
        if tenant is None:
            tenant = await self._shared(app)
        if app in self._idle:
            self._touch(app)
        return tenant

    async def learn_key(self, app: str, key_id: str) -> None:
        """Reads the app again when this key, which was accepted, is not known of it yet: it is a new one."""
        tenant = self._tenants.get(app)
        if tenant is not None and key_id not in tenant.keys:
            await self._shared(app, key_id)

    def hold(self, app: str) -> None:
        """The app is in use: once it is read, it is remembered until it was let go as often as it was held."""
        self._held[app] = self._held.get(app, 0) + 1
        self._idle.pop(app, None)

    def release(self, app: str) -> None:
        """One who held the app lets go of it."""
        left = self._held.pop(app) - 1
        if left:
            self._held[app] = left
        elif app in self._tenants:
            self._touch(app)

    async def reload(self) -> None:
        """Reads all remembered apps again: something was changed. Raises what the directory raises.

        Those of which nothing was changed stay the same objects. Apps that nobody needed lately are forgotten.
        """
        self._generation += 1
        while self._idle and self._now() - next(iter(self._idle.values())) >= _IDLE_SECONDS:
            self._forget(next(iter(self._idle)))
        if len(self._tenants) > _MANY:
            await self._reload_many()
            return
        at_once = DeferredSemaphore(_AT_ONCE)
        reading = [at_once.run(self._reloading, app) for app in list(self._tenants)]
        try:
            await gatherResults(reading, consumeErrors=True)
        except FirstError as e:
            e.subFailure.raiseException()

    async def history_seconds(self, app: App) -> float:
        """How long the app's messages are kept, those of the channel that keeps them longest."""
        plan = await self._directory.find(Plan, app.plan)
        if app.settings.history_ttl_seconds is None and (plan is None or plan.limits.history_ttl_seconds is None):
            return self.defaults.history_ttl_seconds
        facts = Facts(app=app, plan=plan, namespaces=await self._all(Namespace, app.id))
        return Tenant(facts, self.defaults, self._now).history_seconds()

    # Reading.

    def _shared(self, app: str, new_key: str = "") -> Deferred[Tenant | None]:
        """The reading that is under way, or a new one; one that began before a new key came does not have it."""
        loaded: Deferred[Tenant | None] = Deferred()
        what = app, new_key
        if what in self._loading:
            self._loading[what].append(loaded)
        else:
            self._loading[what] = [loaded]
            Deferred.fromCoroutine(self._load(app)).addBoth(self._answer, what)
        return loaded

    def _answer(self, outcome: Tenant | None | Failure, what: tuple[str, str]) -> None:
        for waiting in self._loading.pop(what):
            waiting.callback(outcome)

    async def _load(self, app: str) -> Tenant | None:
        tenant = None
        generation = None
        while generation != self._generation:
            # What was changed while it was read may be in one part of it and not in another.
            generation = self._generation
            tenant = await self._read(app)
        self._remember(app, tenant)
        return tenant

    def _reloading(self, app: str) -> Deferred[None]:
        return Deferred.fromCoroutine(self._reload(app))

    async def _reload_many(self) -> None:
        """Reads all apps in parts, and what belongs to them: asking for each by itself takes seconds."""
        wanted = set(self._tenants)
        plans = {plan.id: plan async for plan in self._each(Plan, {})}
        namespaces = await self._by_app(Namespace, wanted)
        keys = await self._by_app(Key, wanted)
        revocations = await self._by_app(Revocation, wanted)
        apps = {app.id: app async for app in self._each(App, {}) if app.id in wanted}
        for id in wanted.difference(apps):
            self._forget(id)
        for id, app in apps.items():
            facts = Facts(
                app=app,
                plan=plans.get(app.plan),
                namespaces=tuple(namespaces.get(id, ())),
                keys=tuple(map(_without_secrets, keys.get(id, ()))),
                revocations=tuple(revocations.get(id, ())),
            )
            if id in self._tenants:
                self._remember(id, self._tenant(facts))

    async def _by_app(self, kind: type[_OfApp], wanted: set[str]) -> dict[str, list[_OfApp]]:
        found: dict[str, list[_OfApp]] = {}
        async for record in self._each(kind, {}):
            if record.app in wanted:
                found.setdefault(record.app, []).append(record)
        return found

    async def _reload(self, app: str) -> None:
        tenant = await self._read(app)
        if app in self._tenants:
            self._remember(app, tenant)

    async def _read(self, id: str) -> Tenant | None:
        """The app as it is stored; the object that is remembered when that is the same."""
        app = await self._directory.app(id)
        if app is None:
            return None
        facts = Facts(
            app=app,
            plan=await self._directory.find(Plan, app.plan),
            namespaces=await self._all(Namespace, id),
            keys=tuple(map(_without_secrets, await self._all(Key, id))),
            revocations=await self._all(Revocation, id),
            push_rules=await self._all(PushRule, id),
        )
        return self._tenant(facts)

    def _tenant(self, facts: Facts) -> Tenant:
        """What comes of the facts; what is remembered, when they are the same."""
        known = self._tenants.get(facts.app.id)
        return known if known is not None and known.facts == facts else Tenant(facts, self.defaults, self._now)

    async def _all(self, kind: type[_R], app: str) -> tuple[_R, ...]:
        return tuple([record async for record in self._each(kind, {"app": app})])

    async def _each(self, kind: type[_R], where: Mapping[str, str]) -> AsyncIterator[_R]:
        cursor: str | None = None
        while True:
            page = await self._directory.page(kind, where, cursor, _PAGE)
            for record in page.items:
                yield record
            cursor = page.next
            if cursor is None:
                return

    # Remembering.

    def _remember(self, app: str, tenant: Tenant | None) -> None:
        if tenant is None:
            self._forget(app)
            return
        self._tenants[app] = tenant
        # One that was special stays so: publishes that wait for a rate that was taken away must not be overtaken.
        if not tenant.is_plain or app in self._special:
            self._special[app] = tenant
        if app not in self._held and app not in self._idle:
            self._touch(app)

    def _touch(self, app: str) -> None:
        self._idle[app] = self._now()
        self._idle.move_to_end(app)
        if len(self._idle) > self._size:
            self._forget(next(iter(self._idle)))

    def _forget(self, app: str) -> None:
        self._tenants.pop(app, None)
        self._special.pop(app, None)
        self._idle.pop(app, None)


def _without_secrets(key: Key) -> Key:
    return replace(key, secret="", api_key_hash="", last_used_at=None)
