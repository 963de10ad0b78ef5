"""Revocations: tokens and clients that an app does not let in any more."""

from __future__ import annotations

from collections.abc import Callable

from wsock.errors import Code, Refused
from wsock.interfaces import IRecords
from wsock.records import Listing, Revocation, Revoked
from wsock.services.access import Access, Actor
from wsock.services.audit import Audit
from wsock.services.checks import check_future, check_pattern
from wsock.services.roles import Permission

__all__ = ["Revocations"]

_MOST = 10_000
_PAGE = 500


class Revocations:
    """Revokes, and lifts what was revoked. Connections that are open end by themselves, on every node."""

    def __init__(
        self, records: IRecords, audit: Audit, now: Callable[[], float], random: Callable[[int], bytes]
    ) -> None:
        self._records = records
        self._audit = audit
        self._now = now
        self._random = random
        self._access = Access(records)

    async def revoke(
        self, actor: Actor, app: str, kind: Revoked, value: str, expires_at: int | None = None
    ) -> Revocation:
        """Refuses this client, or the tokens with this ``jti``, until then (in milliseconds) or until it is lifted.

        A token is best revoked until it expires. Raises :class:`Conflict` for what is revoked already.
        """
        owner = await self._access.require_app(actor, Permission.TOKENS_REVOKE, app)
        now = int(self._now() * 1000)
        field = "token" if kind is Revoked.TOKEN else "clientId"
        revocation = Revocation(
            id=f"rev_{self._random(8).hex()}",
            app=app,
            kind=kind,
            value=check_pattern(field, value),
            created_at=now,
            expires_at=check_future("expiresAt", expires_at, now),
            created_by=actor.account,
        )
        await self._drop_expired(app, now)
        await self._records.add([revocation])
        await self._audit.record(
            actor, "revocation.create", team=owner.team, app=app, target=revocation.id, kind=kind, value=value
        )
        return revocation

    async def revocations(self, actor: Actor, app: str, cursor: str | None, limit: int) -> Listing[Revocation]:
        """What is revoked in the app."""
        await self._access.require_app(actor, Permission.TOKENS_REVOKE, app)
        page = await self._records.page(Revocation, {"app": app}, cursor, limit)
        now = self._now() * 1000
        return Listing([r for r in page.items if r.expires_at is None or now < r.expires_at], page.next)

    async def lift(self, actor: Actor, app: str, id: str) -> None:
        """Takes a revocation back."""
        owner = await self._access.require_app(actor, Permission.TOKENS_REVOKE, app)
        revocation = await self._records.find(Revocation, id)
        if revocation is None or revocation.app != app:
            raise Refused(Code.NOT_FOUND, f"there is no revocation with the id '{id}' in this app")
        await self._records.remove(Revocation, id)
        await self._audit.record(
            actor,
            "revocation.delete",
            team=owner.team,
            app=app,
            target=id,
            kind=revocation.kind,
            value=revocation.value,
        )

    async def _drop_expired(self, app: str, now: int) -> None:
        """Removes those whose time is over, which may still be in the way, and sees that there is room for one more."""
        count = 0
        cursor: str | None = None
        while True:
            page = await self._records.page(Revocation, {"app": app}, cursor, _PAGE)
            for revocation in page.items:
                if revocation.expires_at is not None and revocation.expires_at <= now:
                    await self._records.remove(Revocation, revocation.id)
                else:
                    count += 1
            cursor = page.next
            if cursor is None:
                break
        if count >= _MOST:
            text = f"an app has at most {_MOST} revocations: let them expire with their tokens, or revoke the key"
            raise Refused(Code.LIMIT_EXCEEDED, text)
