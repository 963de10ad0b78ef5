"""Apps: the tenants of a server. Each belongs to a team, and what is done with it is done by members of that."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from wsock.errors import Code, Refused
from wsock.interfaces import IRecords
from wsock.records import App, Listing, Membership, Plan, Team
from wsock.services.access import Access, Actor
from wsock.services.app_settings import Bounds, SettingsChange, check_settings
from wsock.services.audit import Audit
from wsock.services.carrying import Carrying
from wsock.services.checks import check_text
from wsock.services.plans import find_plan
from wsock.services.quotas import require_room
from wsock.services.roles import Permission
from wsock.services.teams import check_name

__all__ = ["Apps"]

_MAX_ORIGINS = 100
_PAGE = 500


class Apps:
    """Makes, shows, changes and deletes apps. ``bounds`` is what the server allows their settings to be.

    With ``carrying``, new apps begin with what the deleted ones of their team used in the month.
    """

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
        self.carrying: Carrying | None = None

    async def create(self, actor: Actor, name: str, *, team: str | None = None, plan: str | None = None) -> App:
        """A new app of a team, by default of the only one that the actor is in. It is on the plan of its team.

        Another ``plan`` is for operators to choose. Raises :class:`Refused` with ``quota_exceeded`` when the team's
        plan allows no more apps.
        """
        team = await self._only_team(actor) if team is None else team
        await self._access.require(actor, Permission.APPS_CREATE, team)
        owner = await self._records.find(Team, team)
        if owner is None:
            raise Refused(Code.NOT_FOUND, f"there is no team with the id '{team}'")
        if plan is not None:
            await self._require_plan(actor, plan)
        name = check_name(name)
        await require_room(self._records, owner.plan, "apps", await self._count(team))
        app = App(
            id=f"app_{self._random(8).hex()}",
            name=name,
            created_at=int(self._now() * 1000),
            team=team,
            plan=owner.plan if plan is None else plan,
        )
        if self.carrying is not None:
            await self.carrying.begin(app)
        await self._records.add([app])
        await self._require_still_room(app, owner)
        await self._audit.record(actor, "app.create", team=team, app=app.id, target=app.id, name=name, plan=app.plan)
        return app

    async def app(self, actor: Actor, id: str) -> App:
        """The app. Raises :class:`Refused` with ``not_found`` for who is no member of its team."""
        return await self._access.require_app(actor, Permission.APPS_READ, id)

    async def apps(self, actor: Actor, cursor: str | None, limit: int, *, team: str | None = None) -> Listing[App]:
        """The apps of a team, or those of all teams that the actor is in; an operator sees all."""
        if team is not None:
            await self._access.require(actor, Permission.APPS_READ, team)
            return await self._records.page(App, {"team": team}, cursor, limit)
        if actor.is_operator:
            self._access.require_operator(actor, Permission.APPS_READ)
            return await self._records.page(App, {}, cursor, limit)
        return await self._of_teams(actor, cursor, limit)

    async def update(
        self,
        actor: Actor,
        id: str,
        *,
        name: str | None = None,
        is_enabled: bool | None = None,
        allowed_origins: Sequence[str] | None = None,
        plan: str | None = None,
        settings: SettingsChange | None = None,
        version: int | None = None,
    ) -> App:
        """Changes what is given; connections that are open follow.

        The ``plan`` is for operators to choose; settings beyond what a new plan allows count only as far as it does.
        Raises :class:`Conflict` when a ``version`` is given and is not the last, and :class:`Refused` with
        ``limit_exceeded`` for settings beyond a limit.
        """
        known = await self._access.require_app(actor, Permission.APPS_UPDATE, id)
        if plan is not None and plan != known.plan:
            await self._require_plan(actor, plan)
        new = replace(
            known,
            name=known.name if name is None else check_name(name),
            is_enabled=known.is_enabled if is_enabled is None else is_enabled,
            allowed_origins=known.allowed_origins if allowed_origins is None else _origins(allowed_origins),
            plan=known.plan if plan is None else plan,
            settings=known.settings if settings is None else settings.applied(known.settings),
            version=version or known.version,
        )
        if settings is not None:
            on = await self._records.find(Plan, new.plan)
            check_settings(settings, on, self._bounds, is_operator=actor.is_operator)
        stored = await self._records.replace(new)
        fields = ("name", "is_enabled", "allowed_origins", "plan", "settings")
        changed = [field for field in fields if getattr(known, field) != getattr(new, field)]
        details = {"changed": ", ".join(changed)}
        if "plan" in changed:
            details["plan"] = new.plan
        if "is_enabled" in changed:
            details["is_enabled"] = "yes" if new.is_enabled else "no"
        if settings is not None and "settings" in changed:
            details["settings"] = ", ".join(settings.given)
        await self._audit.record(actor, "app.update", team=new.team, app=id, target=id, **details)
        return stored

    async def delete(self, actor: Actor, id: str) -> None:
        """Deletes the app with its keys, namespaces, revocations and endpoints. Nobody can read its messages then."""
        app = await self._access.require_app(actor, Permission.APPS_DELETE, id)
        if self.carrying is not None:
            await self.carrying.leave(app)
        await self._records.remove(App, id)
        await self._audit.record(actor, "app.delete", team=app.team, app=id, target=id, name=app.name)

    async def _require_plan(self, actor: Actor, plan: str) -> None:
        self._access.require_operator(actor, Permission.PLANS_WRITE)
        await find_plan(self._records, plan)

    async def _only_team(self, actor: Actor) -> str:
        if actor.team:
            return actor.team
        teams = await self._teams(actor)
        if len(teams) != 1:
            many = "you are in several teams" if teams else "you are in no team"
            raise Refused(Code.BAD_REQUEST, f"'team' is missing: {many}; GET /api/admin/teams lists them")
        return teams[0]

    async def _teams(self, actor: Actor) -> list[str]:
        """The teams that the actor is in and may act in, in order."""
        teams: list[str] = []
        cursor: str | None = None
        while True:
            page = await self._records.page(Membership, {"account": actor.account}, cursor, _PAGE)
            teams += [member.team for member in page.items if actor.team in ("", member.team)]
            cursor = page.next
            if cursor is None:
                return sorted(teams)

    async def _of_teams(self, actor: Actor, cursor: str | None, limit: int) -> Listing[App]:
        """Apps team by team. A cursor is a team, and the app in it behind which to go on."""
        first, _, behind = (cursor or "").partition("/")
        teams = [team for team in await self._teams(actor) if team >= first]
        items: list[App] = []
        for team in teams:
            if len(items) == limit:
                return Listing(items, f"{team}/")
            await self._access.require(actor, Permission.APPS_READ, team)
            start = behind or None if team == first else None
            page = await self._records.page(App, {"team": team}, start, limit - len(items))
            items += page.items
            if page.next is not None:
                return Listing(items, f"{team}/{page.next}")
        return Listing(items, None)

    async def _count(self, team: str) -> int:
        count, cursor = 0, None
        while True:
            page = await self._records.page(App, {"team": team}, cursor, _PAGE)
            count += len(page.items)
            cursor = page.next
            if cursor is None:
                return count

    async def _require_still_room(self, app: App, owner: Team) -> None:
        """Of apps that are made at the same moment none may be one too many: who sees that takes its own back."""
        try:
            await require_room(self._records, owner.plan, "apps", await self._count(owner.id) - 1)
        except Refused:
            await self._records.remove(App, app.id)
            raise


def _origins(origins: Sequence[str]) -> tuple[str, ...]:
    if len(origins) > _MAX_ORIGINS:
        raise Refused(Code.BAD_REQUEST, f"'allowedOrigins' takes at most {_MAX_ORIGINS} origins")
    return tuple(check_text("allowedOrigins", origin) for origin in origins)
