"""Plans: what apps and teams may use."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from wsock.edges.http.operations import (
    LOGIN,
    Answer,
    Body,
    Call,
    Group,
    Items,
    NoBody,
    NoQuery,
    Page,
    Version,
    operation,
)
from wsock.errors import Code
from wsock.records import Plan
from wsock.services.plans import LimitsChange, Plans
from wsock.services.roles import Permission

__all__ = ["PlanGroup"]

Name = Annotated[str, Meta(max_length=200, description="1 to 100 characters in one line.")]


class NewPlan(Body, frozen=True):
    """A plan that is to be."""

    id: Annotated[str, Meta(max_length=40, description="Small letters, digits, `-` and `_`.")]
    name: Name
    limits: LimitsChange = LimitsChange()


class PlanChange(Body, frozen=True):
    """What is to be otherwise."""

    name: Name | None = None
    limits: LimitsChange | None = None
    version: Version | None = None


class LimitsAnswer(Answer, frozen=True):
    """What a plan allows; null is no limit. ``apps`` and ``members`` are a team's, all else is an app's."""

    connections: int | None
    messages_per_month: int | None
    message_bytes: int | None
    channels: int | None
    history_ttl_seconds: int | None
    webhooks: int | None
    push_per_month: int | None
    apps: int | None
    members: int | None


class PlanAnswer(Answer, frozen=True):
    """A plan."""

    id: str
    name: str
    limits: LimitsAnswer
    created_at: int
    version: int


class TeamPlan(Body, frozen=True):
    """The plan that a team is to be on."""

    plan: Annotated[str, Meta(max_length=255)]
    version: Version | None = None


class TeamPlanAnswer(Answer, frozen=True):
    """The plan that a team is on; ``id`` is the team's."""

    id: str
    plan: str
    version: int


class PlanGroup(Group):
    """Plans."""

    tag = "Plans"
    about = "What apps and teams may use. Everybody sees plans, operators of the server change them."

    def __init__(self, plans: Plans) -> None:
        self._plans = plans

    @operation("GET", "/api/admin/plans", needs=LOGIN)
    async def plans(self, call: Call[NoBody, Page]) -> Items[PlanAnswer]:
        """Lists the plans."""
        page = await self._plans.plans(call.actor, call.query.cursor, call.query.limit)
        return Items([_answer(plan) for plan in page.items], page.next)

    @operation(
        "POST",
        "/api/admin/plans",
        status=201,
        needs=Permission.PLANS_WRITE,
        errors=(Code.CONFLICT,),
        example={"id": "gold", "name": "Gold", "limits": {"connections": 1000, "messagesPerMonth": 5000000}},
    )
    async def create(self, call: Call[NewPlan, NoQuery]) -> PlanAnswer:
        """Creates a plan; what is not given has no limit."""
        body = call.body
        return _answer(await self._plans.create(call.actor, body.id, body.name, body.limits))

    @operation("GET", "/api/admin/plans/{planId}", needs=LOGIN)
    async def plan(self, call: Call[NoBody, NoQuery]) -> PlanAnswer:
        """Shows a plan."""
        return _answer(await self._plans.plan(call.actor, call.path["planId"]))

    @operation(
        "PATCH",
        "/api/admin/plans/{planId}",
        needs=Permission.PLANS_WRITE,
        errors=(Code.CONFLICT,),
        example={"limits": {"connections": None}},
    )
    async def update(self, call: Call[PlanChange, NoQuery]) -> PlanAnswer:
        """Changes a plan, for all who are on it: its name, and of its limits those that are given."""
        body = call.body
        changed = await self._plans.update(
            call.actor, call.path["planId"], name=body.name, limits=body.limits, version=body.version
        )
        return _answer(changed)

    @operation("DELETE", "/api/admin/plans/{planId}", needs=Permission.PLANS_WRITE, errors=(Code.CONFLICT,))
    async def delete(self, call: Call[NoBody, NoQuery]) -> None:
        """Deletes a plan that nobody is on."""
        await self._plans.delete(call.actor, call.path["planId"])

    @operation(
        "PUT",
        "/api/admin/teams/{teamId}/plan",
        needs=Permission.PLANS_WRITE,
        errors=(Code.CONFLICT,),
        example={"plan": "pro"},
    )
    async def put_team(self, call: Call[TeamPlan, NoQuery]) -> TeamPlanAnswer:
        """Puts a team on a plan: so many apps and members it may have. New apps of it are on the same."""
        body = call.body
        team = await self._plans.put_team(call.actor, call.path["teamId"], body.plan, body.version)
        return TeamPlanAnswer(id=team.id, plan=team.plan, version=team.version)


def _answer(plan: Plan) -> PlanAnswer:
    return PlanAnswer(
        id=plan.id,
        name=plan.name,
        limits=LimitsAnswer(**msgspec.structs.asdict(plan.limits)),
        created_at=plan.created_at,
        version=plan.version,
    )
