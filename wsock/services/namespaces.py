"""Namespaces: settings of an app's channels whose names match a pattern."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from wsock.errors import Code, Refused
from wsock.interfaces import IRecords
from wsock.records import App, Listing, Namespace, Plan, Settings
from wsock.services.access import Access, Actor
from wsock.services.app_settings import Bounds, SettingsChange, check_settings
from wsock.services.audit import Audit
from wsock.services.checks import check_pattern
from wsock.services.roles import Permission

__all__ = ["Namespaces"]

_MAX_NAMESPACES = 100


class Namespaces:
    """Makes, shows, changes and deletes namespaces. ``bounds`` is what the server allows settings to be."""

    def __init__(
        self,
        records: IRecords,
        audit: Audit,
        now: Callable[[], float],
        random: Callable[[int], bytes],
        bounds: Bounds | None = None,
    ) -> None:
        self._records = records
        self._audit = audit
        self._now = now
        self._random = random
        self._bounds = bounds or Bounds()
        self._access = Access(records)

    async def create(self, actor: Actor, app: str, pattern: str, settings: SettingsChange) -> Namespace:
        """Settings for the channels that match. Raises :class:`Conflict` when the pattern has some already."""
        known = await self._access.require_app(actor, Permission.APPS_UPDATE, app)
        await self._check(actor, known, settings)
        check_pattern("pattern", pattern)
        if len((await self._records.page(Namespace, {"app": app}, None, _MAX_NAMESPACES)).items) == _MAX_NAMESPACES:
            text = f"an app has at most {_MAX_NAMESPACES} namespaces: delete one, or give the app itself the settings"
            raise Refused(Code.LIMIT_EXCEEDED, text)
        namespace = Namespace(
            id=f"ns_{self._random(8).hex()}",
            app=app,
            pattern=pattern,
            created_at=int(self._now() * 1000),
            settings=settings.applied(Settings()),
        )
        await self._records.add([namespace])
        await self._record(actor, "namespace.create", known, namespace)
        return namespace

    async def namespaces(self, actor: Actor, app: str, cursor: str | None, limit: int) -> Listing[Namespace]:
        """The namespaces of the app."""
        await self._access.require_app(actor, Permission.APPS_READ, app)
        return await self._records.page(Namespace, {"app": app}, cursor, limit)

    async def namespace(self, actor: Actor, app: str, id: str) -> Namespace:
        """The namespace."""
        await self._access.require_app(actor, Permission.APPS_READ, app)
        return await self._found(app, id)

    async def update(
        self,
        actor: Actor,
        app: str,
        id: str,
        *,
        pattern: str | None = None,
        settings: SettingsChange | None = None,
        version: int | None = None,
    ) -> Namespace:
        """Changes what is given. Raises :class:`Conflict` when a ``version`` is given and is not the last."""
        owner = await self._access.require_app(actor, Permission.APPS_UPDATE, app)
        known = await self._found(app, id)
        if settings is not None:
            await self._check(actor, owner, settings)
        new = replace(
            known,
            pattern=known.pattern if pattern is None else check_pattern("pattern", pattern),
            settings=known.settings if settings is None else settings.applied(known.settings),
            version=version or known.version,
        )
        stored = await self._records.replace(new)
        await self._record(actor, "namespace.update", owner, new)
        return stored

    async def delete(self, actor: Actor, app: str, id: str) -> None:
        """Deletes the namespace: its channels are left to the others, and to the app."""
        owner = await self._access.require_app(actor, Permission.APPS_UPDATE, app)
        namespace = await self._found(app, id)
        await self._records.remove(Namespace, id)
        await self._record(actor, "namespace.delete", owner, namespace)

    async def _check(self, actor: Actor, app: App, settings: SettingsChange) -> None:
        plan = await self._records.find(Plan, app.plan)
        check_settings(settings, plan, self._bounds, is_namespace=True, is_operator=actor.is_operator)

    async def _found(self, app: str, id: str) -> Namespace:
        namespace = await self._records.find(Namespace, id)
        if namespace is None or namespace.app != app:
            raise Refused(Code.NOT_FOUND, f"there is no namespace with the id '{id}' in this app")
        return namespace

    async def _record(self, actor: Actor, action: str, app: App, namespace: Namespace) -> None:
        about = {"pattern": namespace.pattern, "settings": msgspec.json.encode(namespace.settings).decode()}
        await self._audit.record(actor, action, team=app.team, app=app.id, target=namespace.id, **about)
