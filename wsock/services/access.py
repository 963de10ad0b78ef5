"""Who acts, and whether they may."""

from __future__ import annotations

from dataclasses import dataclass

from wsock.errors import Code, Refused
from wsock.interfaces import IRecords
from wsock.records import AccessToken, Account, App, Membership, Role, membership_id
from wsock.services.roles import PERMISSIONS, Permission

__all__ = ["Access", "Actor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who asks for an administrative act: an account, perhaps through an access token that reaches less far.

    ``ip`` is where from. ``role`` is the greatest that counts in any team; with a ``team`` no other one is open, and
    with ``permissions`` nothing else is allowed. ``expires_at`` is when the access token ends, in milliseconds.
    """

    account: str
    ip: str = ""
    is_operator: bool = False
    role: Role = Role.OWNER
    team: str = ""
    permissions: frozenset[str] = frozenset()
    expires_at: int | None = None

    @classmethod
    def of(cls, account: Account, ip: str = "") -> Actor:
        """Somebody who has logged in."""
        return cls(account=account.id, ip=ip, is_operator=account.is_operator)

    @classmethod
    def by_token(cls, account: Account, token: AccessToken, ip: str = "") -> Actor:
        """Somebody with an access token. An operator is one with it only if it is good for everything."""
        is_whole = token.role is Role.OWNER and not token.team
        return cls(
            account=account.id,
            ip=ip,
            is_operator=account.is_operator and is_whole,
            role=token.role,
            team=token.team,
            permissions=frozenset(token.permissions),
            expires_at=token.expires_at,
        )

    @property
    def is_limited(self) -> bool:
        """Whether it is an access token that reaches less far than its account."""
        return self.role is not Role.OWNER or bool(self.team) or bool(self.permissions)


class Access:
    """Decides by :data:`wsock.services.roles.PERMISSIONS` and the memberships at that moment."""

    def __init__(self, records: IRecords) -> None:
        self._records = records

    async def role(self, actor: Actor, team: str) -> Role | None:
        """The role that counts in the team; ``None`` for who is no member. An operator is an owner everywhere."""
        if actor.team not in ("", team):
            return None
        if actor.is_operator:
            return Role.OWNER
        member = await self._records.find(Membership, membership_id(team, actor.account))
        if member is None:
            return None
        return member.role if actor.role.covers(member.role) else actor.role

    async def require(self, actor: Actor, permission: Permission, team: str) -> Role:
        """The role in the team, if it is enough.

        Raises :class:`Refused` with ``forbidden``, and with ``not_found`` for who is no member: what teams there are
        is nobody else's business.
        """
        role = await self.role(actor, team)
        if role is None:
            raise Refused(Code.NOT_FOUND, f"there is no team with the id '{team}', or you are no member")
        least = PERMISSIONS[permission]
        if least is None:
            self.require_operator(actor, permission)
        elif not role.covers(least):
            raise Refused(Code.FORBIDDEN, f"'{permission}' takes the role {least} in the team; yours is {role}")
        self.check_token(actor, permission)
        return role

    async def require_app(self, actor: Actor, permission: Permission, id: str) -> App:
        """The app, if that is allowed in its team. To who is no member of that, there is no such app."""
        app = await self._records.find(App, id)
        if app is None or await self.role(actor, app.team) is None:
            raise Refused(Code.NOT_FOUND, f"there is no app with the id '{id}', or you are no member of its team")
        await self.require(actor, permission, app.team)
        return app

    def require_operator(self, actor: Actor, permission: Permission) -> None:
        """Raises :class:`Refused` with ``forbidden`` for who is no operator of the server."""
        if not actor.is_operator:
            raise Refused(Code.FORBIDDEN, f"'{permission}' is for operators of the server")
        self.check_token(actor, permission)

    def require_login(self, actor: Actor) -> None:
        """Raises :class:`Refused` for an access token that is limited: with it nobody can make a greater one."""
        if actor.is_limited:
            raise Refused(Code.FORBIDDEN, "this takes a login, or an access token without limits")

    @staticmethod
    def check_token(actor: Actor, permission: Permission) -> None:
        """Raises :class:`Refused` with ``forbidden`` for an access token that is not good for this."""
        if actor.permissions and permission not in actor.permissions:
            raise Refused(Code.FORBIDDEN, f"this access token lacks the permission '{permission}'")
