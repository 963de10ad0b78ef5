"""Personal access tokens."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from wsock.edges.http.operations import (
    LOGIN,
    Answer,
    Body,
    Call,
    Group,
    Items,
    Milliseconds,
    NoBody,
    NoQuery,
    Page,
    operation,
)
from wsock.errors import Code
from wsock.records import AccessToken, Role
from wsock.services.access_tokens import AccessTokens
from wsock.services.roles import Permission

__all__ = ["TokenGroup"]


class NewAccessToken(Body, frozen=True):
    """How far a token shall reach: no further than ``role``, in ``team`` only, for ``permissions`` only."""

    name: Annotated[str, Meta(max_length=200, description="1 to 100 characters in one line.")]
    role: Role = Role.OWNER
    team: Annotated[str, Meta(max_length=255)] = ""
    permissions: Annotated[list[Permission], Meta(max_length=100)] = []  # noqa: RUF012  # msgspec copies it
    expires_at: Milliseconds | None = None


class TokenAnswer(Answer, frozen=True):
    """An access token, without its text. An empty ``team`` is every team, no ``permissions`` are all of the role's."""

    id: str
    name: str
    role: Role
    team: str
    permissions: list[str]
    created_at: int
    expires_at: int | None
    last_used_at: int | None


class CreatedToken(TokenAnswer, frozen=True):
    """An access token that was just made; ``token`` is shown this once."""

    token: str


class TokenGroup(Group):
    """Personal access tokens."""

    tag = "Access tokens"
    about = "For scripts: a token acts for its account, as far as it reaches. It begins with `wst_`."

    def __init__(self, tokens: AccessTokens) -> None:
        self._tokens = tokens

    @operation("GET", "/api/admin/tokens", needs=LOGIN)
    async def tokens(self, call: Call[NoBody, Page]) -> Items[TokenAnswer]:
        """Lists one's own tokens."""
        page = await self._tokens.tokens(call.actor, call.query.cursor, call.query.limit)
        return Items([_answer(token) for token in page.items], page.next)

    @operation(
        "POST",
        "/api/admin/tokens",
        status=201,
        needs=LOGIN,
        errors=(Code.NOT_FOUND, Code.CONFLICT),
        example={"name": "deploy", "role": "developer"},
    )
    async def create(self, call: Call[NewAccessToken, NoQuery]) -> CreatedToken:
        """Makes a token; its text is shown this once."""
        body = call.body
        new = await self._tokens.create(
            call.actor,
            body.name,
            role=body.role,
            team=body.team,
            permissions=[str(permission) for permission in body.permissions],
            expires_at=body.expires_at,
        )
        known = _answer(new.token)
        return CreatedToken(token=new.text, **{name: getattr(known, name) for name in known.__struct_fields__})

    @operation("DELETE", "/api/admin/tokens/{tokenId}", needs=LOGIN)
    async def revoke(self, call: Call[NoBody, NoQuery]) -> None:
        """Ends one of one's own tokens; operators end any."""
        await self._tokens.revoke(call.actor, call.path["tokenId"])


def _answer(token: AccessToken) -> TokenAnswer:
    return TokenAnswer(
        id=token.id,
        name=token.name,
        role=token.role,
        team=token.team,
        permissions=list(token.permissions),
        created_at=token.created_at,
        expires_at=token.expires_at,
        last_used_at=token.last_used_at,
    )
