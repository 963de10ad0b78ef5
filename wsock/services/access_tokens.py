"""Personal access tokens: for scripts that administer in somebody's name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wsock.errors import Code, Refused
from wsock.interfaces import IDirectory
from wsock.records import AccessToken, Account, Listing, Role
from wsock.services.access import Access, Actor
from wsock.services.audit import Audit
from wsock.services.changes import each
from wsock.services.checks import check_future
from wsock.services.roles import Permission
from wsock.services.teams import check_name
from wsock.services.tokens import hash_token, new_token

__all__ = ["TOKEN_PREFIX", "AccessTokens", "NewToken"]

TOKEN_PREFIX = "wst"
"""What an access token begins with, before an underscore: so it is told from an API key and a JWT."""

_USE_SECONDS = 60
_MAX_TOKENS = 200


@dataclass(frozen=True, slots=True, repr=False)
class NewToken:
    """A token that was just made; ``text`` is shown once."""

    token: AccessToken
    text: str


class AccessTokens:
    """Makes and knows access tokens."""

    def __init__(
        self,
        directory: IDirectory,
        audit: Audit,
        now: Callable[[], float],
        random: Callable[[int], bytes],
    ) -> None:
        self._directory = directory
        self._audit = audit
        self._now = now
        self._random = random
        self._access = Access(directory)

    async def create(
        self,
        actor: Actor,
        name: str,
        *,
        role: Role = Role.OWNER,
        team: str = "",
        permissions: Sequence[str] = (),
        expires_at: int | None = None,
    ) -> NewToken:
        """A token for the actor's account that reaches as far as it says; ``expires_at`` is in milliseconds.

        Where another token makes it, it ends no later than that one.
        """
        self._access.require_login(actor)
        unknown = sorted(set(permissions) - set(Permission))
        if unknown:
            raise Refused(Code.BAD_REQUEST, f"'permissions' has none called '{unknown[0]}': see the table of roles")
        now = int(self._now() * 1000)
        check_future("expiresAt", expires_at, now)
        if actor.expires_at is not None and (expires_at is None or expires_at > actor.expires_at):
            text = f"this access token ends, and makes none that goes on: 'expiresAt' takes {actor.expires_at} or less"
            raise Refused(Code.FORBIDDEN, text)
        if team:
            await self._access.require(actor, Permission.TEAM_READ, team)
        text = new_token(self._random, TOKEN_PREFIX)
        token = AccessToken(
            id=f"tok_{self._random(8).hex()}",
            account=actor.account,
            name=check_name(name),
            token_hash=hash_token(text),
            created_at=now,
            role=role,
            team=team,
            permissions=tuple(permissions),
            expires_at=expires_at,
        )
        if len([known async for known in each(self._directory, AccessToken, "account", actor.account)]) >= _MAX_TOKENS:
            raise Refused(
                Code.LIMIT_EXCEEDED, f"an account has at most {_MAX_TOKENS} access tokens: revoke one that nobody uses"
            )
        await self._directory.add([token])
        await self._audit.record(actor, "token.create", team=team, target=token.id, name=token.name, role=role)
        return NewToken(token, text)

    async def tokens(self, actor: Actor, cursor: str | None, limit: int) -> Listing[AccessToken]:
        """The actor's own tokens, those that have expired too."""
        self._access.require_login(actor)
        return await self._directory.page(AccessToken, {"account": actor.account}, cursor, limit)

    async def revoke(self, actor: Actor, id: str) -> None:
        """Ends one of the actor's own tokens; operators end any."""
        self._access.require_login(actor)
        token = await self._directory.find(AccessToken, id)
        if token is None or (token.account != actor.account and not actor.is_operator):
            raise Refused(Code.NOT_FOUND, f"you have no access token with the id '{id}'")
        await self._directory.remove(AccessToken, id)
        await self._audit.record(actor, "token.revoke", team=token.team, target=id)

    async def actor(self, text: str, *, ip: str = "") -> Actor:
        """Who acts with this token. Raises :class:`Refused` with ``unauthorized`` when it is not good."""
        token = await self._directory.find_by(AccessToken, "token_hash", hash_token(text))
        now = int(self._now() * 1000)
        if token is None:
            raise Refused(Code.UNAUTHORIZED, "this access token is unknown or was revoked")
        if token.expires_at is not None and token.expires_at <= now:
            raise Refused(Code.TOKEN_EXPIRED, "this access token has expired: make a new one")
        account = await self._directory.find(Account, token.account)
        if account is None or not account.is_enabled:
            raise Refused(Code.UNAUTHORIZED, "the account of this access token is disabled")
        if token.last_used_at is None or now - token.last_used_at >= _USE_SECONDS * 1000:
            await self._directory.used(AccessToken, token.id, now)
        return Actor.by_token(account, token, ip)
