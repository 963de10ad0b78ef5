"""What administrators did."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from wsock.edges.http.operations import Answer, Call, Group, Items, Milliseconds, NoBody, Page, operation
from wsock.errors import Malformed
from wsock.records import AuditEntry, AuditQuery
from wsock.services.audit import Audit
from wsock.services.roles import Permission

__all__ = ["AuditGroup"]

Id = Annotated[str, Meta(max_length=255)]


class AuditPart(Page, frozen=True):
    """Which acts are asked for: ``since`` is within the time, ``until`` is not."""

    team: Id | None = None
    app: Id | None = None
    actor: Id | None = None
    since: Milliseconds | None = None
    until: Milliseconds | None = None


class Act(Answer, frozen=True):
    """An administrative act. ``actor`` is the id of an account, empty when nobody was logged in."""

    id: str
    at: int
    actor: str
    action: str
    team: str
    app: str
    target: str
    details: dict[str, str]
    ip: str


class AuditGroup(Group):
    """The audit log."""

    tag = "Audit log"
    about = "Every administrative act: who did what to what, when, from where."

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    @operation("GET", "/api/admin/audit", needs=Permission.AUDIT_READ)
    async def acts(self, call: Call[NoBody, AuditPart]) -> Items[Act]:
        """Lists what was done in a `team`, the newest first; without a team, for operators, on the whole server."""
        asked = call.query
        query = AuditQuery(
            team=asked.team or None, app=asked.app, actor=asked.actor, since=asked.since, until=asked.until
        )
        try:
            page = await self._audit.page(call.actor, query, asked.cursor, asked.limit)
        except ValueError as e:
            raise Malformed(f"the query: 'cursor': {e}") from e
        return Items([_act(entry) for entry in page.items], page.next)


def _act(entry: AuditEntry) -> Act:
    return Act(
        id=entry.id,
        at=entry.at,
        actor=entry.actor,
        action=entry.action,
        team=entry.team,
        app=entry.app,
        target=entry.target,
        details=dict(entry.details),
        ip=entry.ip,
    )
