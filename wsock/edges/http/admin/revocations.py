"""Tokens and clients that are not let in any more."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from wsock.edges.http.operations import Answer, Body, Call, Group, Items, Milliseconds, NoBody, NoQuery, Page, operation
from wsock.errors import Code, Refused
from wsock.records import Revocation, Revoked
from wsock.services.revocations import Revocations
from wsock.services.roles import Permission

__all__ = ["RevocationGroup"]


class NewRevocation(Body, frozen=True):
    """What is to be revoked: a ``token`` by its ``jti``, or a client by its ``client_id``.

    Without ``expires_at`` it is so until it is lifted.
    """

    token: Annotated[str, Meta(max_length=255, description="The `jti` of JWTs.")] | None = None
    client_id: Annotated[str, Meta(max_length=255)] | None = None
    expires_at: Milliseconds | None = None


class RevocationAnswer(Answer, frozen=True):
    """A revocation: ``value`` is a ``jti`` or a clientId."""

    id: str
    kind: Revoked
    value: str
    created_at: int
    expires_at: int | None
    created_by: str


class RevocationGroup(Group):
    """Revocations."""

    tag = "Revocations"
    about = "Tokens and clients that an app does not let in any more; their connections end within a second."

    def __init__(self, revocations: Revocations) -> None:
        self._revocations = revocations

    @operation("GET", "/api/admin/apps/{appId}/revocations", needs=Permission.TOKENS_REVOKE)
    async def revocations(self, call: Call[NoBody, Page]) -> Items[RevocationAnswer]:
        """Lists what is revoked in an app."""
        page = await self._revocations.revocations(call.actor, call.path["appId"], call.query.cursor, call.query.limit)
        return Items([_answer(revocation) for revocation in page.items], page.next)

    @operation(
        "POST",
        "/api/admin/apps/{appId}/revocations",
        status=201,
        needs=Permission.TOKENS_REVOKE,
        errors=(Code.CONFLICT, Code.LIMIT_EXCEEDED),
        example={"clientId": "ana"},
    )
    async def revoke(self, call: Call[NewRevocation, NoQuery]) -> RevocationAnswer:
        """Revokes a token or a client.

        Give the token's own expiry as ``expires_at``: after it nothing has to be remembered.
        """
        body = call.body
        kind = Revoked.CLIENT if body.token is None else Revoked.TOKEN
        value = body.client_id if body.token is None else body.token
        if value is None or (body.token is not None and body.client_id is not None):
            raise Refused(Code.BAD_REQUEST, "the body takes one of 'token' (a JWT's 'jti') and 'clientId'")
        made = await self._revocations.revoke(call.actor, call.path["appId"], kind, value, body.expires_at)
        return _answer(made)

    @operation("DELETE", "/api/admin/apps/{appId}/revocations/{revocationId}", needs=Permission.TOKENS_REVOKE)
    async def lift(self, call: Call[NoBody, NoQuery]) -> None:
        """Takes a revocation back."""
        await self._revocations.lift(call.actor, call.path["appId"], call.path["revocationId"])


def _answer(revocation: Revocation) -> RevocationAnswer:
    return RevocationAnswer(
        id=revocation.id,
        kind=revocation.kind,
        value=revocation.value,
        created_at=revocation.created_at,
        expires_at=revocation.expires_at,
        created_by=revocation.created_by,
    )
