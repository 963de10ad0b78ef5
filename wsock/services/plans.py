"""The plans that apps and teams are on: what there is, and who is on which. Quotas are kept elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType
from msgspec.structs import replace

from wsock.errors import Code, Conflict, Refused
from wsock.interfaces import IRecords
from wsock.records import App, Listing, Plan, PlanLimits, Record, Team
from wsock.services.access import Access, Actor
from wsock.services.audit import Audit
from wsock.services.roles import Permission
from wsock.services.teams import check_name

__all__ = ["LimitsChange", "Plans", "find_plan"]

_DEFAULT = "unlimited"
_Limit = Annotated[int, Meta(ge=0, le=1 << 53)] | None
_is_id = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}").fullmatch


class LimitsChange(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Limits of a plan. What is not given stays as it is; null is no limit."""

    connections: _Limit | UnsetType = UNSET
    messages_per_month: _Limit | UnsetType = UNSET
    message_bytes: _Limit | UnsetType = UNSET
    channels: _Limit | UnsetType = UNSET
    history_ttl_seconds: _Limit | UnsetType = UNSET
    webhooks: _Limit | UnsetType = UNSET
    push_per_month: _Limit | UnsetType = UNSET
    apps: _Limit | UnsetType = UNSET
    members: _Limit | UnsetType = UNSET

    def applied(self, limits: PlanLimits) -> PlanLimits:
        """The limits with this change."""
        given = {name: value for name, value in msgspec.structs.asdict(self).items() if value is not UNSET}
        return replace(limits, **given)


async def find_plan(records: IRecords, id: str) -> Plan:
    """The plan. Raises :class:`Refused` with ``bad_request`` when something is to be put on one that is not there."""
    plan = await records.find(Plan, id)
    if plan is None:
        raise Refused(Code.BAD_REQUEST, f"'plan': there is no plan with the id '{id}'; GET /api/admin/plans lists them")
    return plan


class Plans:
    """Everybody with an account sees plans, operators change them. Changes count at once for all who are on one."""

    def __init__(self, records: IRecords, audit: Audit, now: Callable[[], float]) -> None:
        self._records = records
        self._audit = audit
        self._now = now
        self._access = Access(records)

    async def plans(self, actor: Actor, cursor: str | None, limit: int) -> Listing[Plan]:
        """All plans."""
        return await self._records.page(Plan, {}, cursor, limit)

    async def plan(self, actor: Actor, id: str) -> Plan:
        """The plan. Raises :class:`Refused` with ``not_found``."""
        plan = await self._records.find(Plan, id)
        if plan is None:
            raise Refused(Code.NOT_FOUND, f"there is no plan with the id '{id}'")
        return plan

    async def create(self, actor: Actor, id: str, name: str, limits: LimitsChange) -> Plan:
        """A new plan; what is not limited has no limit."""
        self._access.require_operator(actor, Permission.PLANS_WRITE)
        if not _is_id(id):
            raise Refused(Code.BAD_REQUEST, "'id' takes 1 to 40 small letters, digits, '-' and '_', no sign first")
        created_at = int(self._now() * 1000)
        plan = Plan(id=id, name=check_name(name), limits=limits.applied(PlanLimits()), created_at=created_at)
        await self._records.add([plan])
        await self._audit.record(actor, "plan.create", target=id, **_shown(plan.limits))
        return plan

    async def update(
        self,
        actor: Actor,
        id: str,
        *,
        name: str | None = None,
        limits: LimitsChange | None = None,
        version: int | None = None,
    ) -> Plan:
        """Changes what is given. Raises :class:`Conflict` when a ``version`` is given and is not the last."""
        self._access.require_operator(actor, Permission.PLANS_WRITE)
        known = await self.plan(actor, id)
        new = replace(
            known,
            name=known.name if name is None else check_name(name),
            limits=known.limits if limits is None else limits.applied(known.limits),
            version=version or known.version,
        )
        stored = await self._records.replace(new)
        await self._audit.record(actor, "plan.update", target=id, name=new.name, **_shown(new.limits))
        return stored

    async def delete(self, actor: Actor, id: str) -> None:
        """Deletes a plan that neither an app nor a team is on. Raises :class:`Conflict` for another one."""
        self._access.require_operator(actor, Permission.PLANS_WRITE)
        plan = await self.plan(actor, id)
        if id == _DEFAULT:
            raise Conflict(f"the plan '{id}' is what apps and teams are on without a word: it stays")
        await self._require_unused(id)
        await self._records.remove(Plan, id)
        try:
            # Something may have been put on it meanwhile.
            await self._require_unused(id)
        except Conflict:
            await self._records.add([plan])
            raise
        await self._audit.record(actor, "plan.delete", target=id)

    async def put_team(self, actor: Actor, team: str, plan: str, version: int | None = None) -> Team:
        """Puts a team on a plan: so many apps and members it may have, and its new apps are on the same."""
        self._access.require_operator(actor, Permission.PLANS_WRITE)
        known = await self._records.find(Team, team)
        if known is None:
            raise Refused(Code.NOT_FOUND, f"there is no team with the id '{team}'")
        await find_plan(self._records, plan)
        stored = await self._records.replace(replace(known, plan=plan, version=version or known.version))
        await self._audit.record(actor, "team.plan", team=team, target=team, plan=plan, before=known.plan)
        return stored

    async def _require_unused(self, plan: str) -> None:
        kinds: dict[str, type[Record]] = {"app": App, "team": Team}
        for noun, kind in kinds.items():
            users = (await self._records.page(kind, {"plan": plan}, None, 1)).items
            if users:
                raise Conflict(f"the {noun} {users[0].id} is on the plan '{plan}': put it on another one first")


def _shown(limits: PlanLimits) -> dict[str, str]:
    """Limits as the audit log keeps them."""
    values = msgspec.structs.asdict(limits).items()
    return {f"limit_{name}": "none" if value is None else str(value) for name, value in values}
