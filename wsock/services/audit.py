"""Writes down what administrators do."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from wsock.errors import Code, Refused, Unavailable
from wsock.interfaces import AuditPage, IAuditLog
from wsock.records import AuditEntry, AuditQuery
from wsock.services.access import Access, Actor
from wsock.services.roles import Permission

__all__ = ["Audit"]

_EXPIRED_AT_ONCE = 1000


class Audit:
    """The audit log of a server: acts are recorded when they are done.

    ``random`` gives that many unpredictable bytes, ``now`` is the time in seconds.
    """

    _log = Logger()

    def __init__(
        self, log: IAuditLog, access: Access, now: Callable[[], float], random: Callable[[int], bytes]
    ) -> None:
        self._entries = log
        self._access = access
        self._now = now
        self._random = random

    async def record(
        self, actor: Actor, action: str, *, team: str = "", app: str = "", target: str = "", **details: str
    ) -> None:
        """Records an act; ``details`` must hold no secret. When the store is away the entry is in the log at least."""
        entry = AuditEntry(
            id=f"aud_{self._random(8).hex()}",
            at=int(self._now() * 1000),
            actor=actor.account,
            action=action,
            team=team,
            app=app,
            target=target,
            details=details,
            ip=actor.ip,
        )
        try:
            await self._entries.append([entry])
        except Unavailable:
            self._log.error("the audit log can't be written: {entry}", entry=entry)

    async def page(self, actor: Actor, query: AuditQuery, cursor: str | None, limit: int) -> AuditPage:
        """The acts in a team, for those who may see them; without a team those of the whole server."""
        if query.team:
            await self._access.require(actor, Permission.AUDIT_READ, query.team)
        elif not actor.is_operator:
            text = "what was done on the whole server is for its operators: name a 'team' whose administrator you are"
            raise Refused(Code.FORBIDDEN, text)
        else:
            self._access.require_operator(actor, Permission.SERVER_READ)
        return await self._entries.page(query, cursor, limit)

    async def expire(self, keep_seconds: float) -> None:
        """Deletes what is older, some at a time."""
        before = int((self._now() - keep_seconds) * 1000)
        while await self._entries.expire(before, _EXPIRED_AT_ONCE) == _EXPIRED_AT_ONCE:
            pass
