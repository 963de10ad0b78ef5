"""Teams and their members: who belongs to them, in which role, and who is invited."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from wsock.errors import Code, Conflict, Refused
from wsock.interfaces import IDirectory, IMailSender, Mail
from wsock.records import Account, Invitation, Listing, Membership, Record, Role, Team, membership_id
from wsock.services.access import Access, Actor
from wsock.services.audit import Audit
from wsock.services.changes import change, each
from wsock.services.quotas import require_room
from wsock.services.roles import Permission
from wsock.services.tokens import hash_token, new_token

__all__ = ["Teams", "check_email", "check_name"]

INVITATION_SECONDS = 7 * 86_400
_MAX_NAME, _MAX_EMAIL = 100, 254
_MAX_OWNED = 20
_PAGE = 500


def check_name(name: str) -> str:
    """The name without space around it. Raises :class:`Refused` for one that is empty, long, or no single line."""
    name = name.strip()
    if not 0 < len(name) <= _MAX_NAME or not name.isprintable():
        raise Refused(Code.BAD_REQUEST, f"'name' takes 1 to {_MAX_NAME} characters in one line")
    return name


def check_email(email: str) -> str:
    """The address without space around it. Raises :class:`Refused` for what can be none."""
    email = email.strip()
    local, at, domain = email.rpartition("@")
    is_text = email.isprintable() and not any(character.isspace() or character in ',;<>"' for character in email)
    if not (local and at and domain and is_text and len(email) <= _MAX_EMAIL):
        raise Refused(Code.BAD_REQUEST, "'email' takes an address like name@example.org")
    return email


class Teams:
    """What members and operators do with teams; everything is recorded in the audit log.

    With ``is_open`` everybody who has an account may create teams, which are on the ``default_plan``; otherwise only
    operators, and theirs have no limits. ``url`` is where the dashboard is, for the links in mails.
    """

    def __init__(
        self,
        directory: IDirectory,
        mail: IMailSender,
        audit: Audit,
        now: Callable[[], float],
        random: Callable[[int], bytes],
        *,
        is_open: bool = False,
        url: str = "",
        default_plan: str = "unlimited",
    ) -> None:
        self._directory = directory
        self._mail = mail
        self._audit = audit
        self._now = now
        self._random = random
        self._is_open = is_open
        self._url = url.rstrip("/")
        self._default_plan = default_plan
        self._access = Access(directory)

    async def create(self, actor: Actor, name: str) -> Team:
        """A new team, whose owner is the actor.

        Raises :class:`Refused` with ``limit_exceeded`` for who owns many; operators may own more.
        """
        if not self._is_open:
            self._access.require_operator(actor, Permission.TEAMS_CREATE)
        self._access.require_login(actor)
        if not actor.is_operator:
            await self._require_few(actor.account)
        now = self._milliseconds()
        team = self.new_team(check_name(name), now)
        if actor.is_operator:
            team = replace(team, plan="unlimited")
        await self._directory.add([team, new_member(team.id, actor.account, Role.OWNER, now)])
        await self._audit.record(actor, "team.create", team=team.id, target=team.id, name=team.name)
        return team

    async def _require_few(self, account: str) -> None:
        members = [member async for member in each(self._directory, Membership, "account", account)]
        if sum(member.role is Role.OWNER for member in members) >= _MAX_OWNED:
            text = f"you own {_MAX_OWNED} teams, the most that an account makes: delete one, or ask an operator"
            raise Refused(Code.LIMIT_EXCEEDED, text)

    def new_team(self, name: str, now: int) -> Team:
        """A team of somebody who is no operator, to be stored; it begins now (in milliseconds)."""
        return Team(id=f"team_{self._random(8).hex()}", name=name, created_at=now, plan=self._default_plan)

    async def team(self, actor: Actor, team: str) -> Team:
        """The team. Raises :class:`Refused` with ``not_found`` for who is no member."""
        await self._access.require(actor, Permission.TEAM_READ, team)
        return await self._found(team)

    async def teams(self, actor: Actor, cursor: str | None, limit: int) -> Listing[Team]:
        """The teams that the actor is a member of; an operator sees all."""
        if actor.is_operator:
            self._access.require_operator(actor, Permission.SERVER_READ)
            return await self._directory.page(Team, {}, cursor, limit)
        self._access.check_token(actor, Permission.TEAM_READ)
        page = await self._directory.page(Membership, {"account": actor.account}, cursor, limit)
        found = [await self._directory.find(Team, member.team) for member in page.items]
        return Listing([team for team in found if team and actor.team in ("", team.id)], page.next)

    async def rename(self, actor: Actor, team: str, name: str, version: int | None = None) -> Team:
        """Gives the team another name. Raises :class:`Conflict` when a ``version`` is given and is not the last."""
        await self._access.require(actor, Permission.TEAM_UPDATE, team)
        name, known = check_name(name), await self._found(team)
        new = await self._directory.replace(replace(known, name=name, version=version or known.version))
        await self._audit.record(actor, "team.update", team=team, target=team, name=name)
        return new

    async def delete(self, actor: Actor, team: str) -> None:
        """Deletes the team with its apps, keys and members; accounts stay."""
        await self._access.require(actor, Permission.TEAM_DELETE, team)
        await self._directory.remove(Team, team)
        await self._audit.record(actor, "team.delete", team=team, target=team)

    # Members.

    async def members(self, actor: Actor, team: str, cursor: str | None, limit: int) -> Listing[Membership]:
        """The members of the team."""
        await self._access.require(actor, Permission.TEAM_READ, team)
        return await self._directory.page(Membership, {"team": team}, cursor, limit)

    async def people(self, members: Sequence[Membership]) -> list[Account]:
        """The accounts of members that one has been given; one that is deleted at this moment is left out."""
        found = [await self._directory.find(Account, member.account) for member in members]
        return [account for account in found if account is not None]

    async def role(self, actor: Actor, team: str) -> Role | None:
        """The actor's own role in the team, if any."""
        return await self._access.role(actor, team)

    async def change_role(self, actor: Actor, team: str, account: str, role: Role) -> Membership:
        """Gives a member another role. The last owner stays one."""
        own = await self._access.require(actor, Permission.MEMBERS_UPDATE, team)
        member = await self._member(team, account)
        _check_reach(own, member.role, role)
        if member.role is Role.OWNER and role is not Role.OWNER:
            new = await self._give_up(member, role)
        else:
            new = await self._directory.replace(replace(member, role=role))
        await self._audit.record(actor, "member.update", team=team, target=account, role=role, before=member.role)
        return new

    async def remove_member(self, actor: Actor, team: str, account: str) -> None:
        """Takes a member out of the team, or leaves it. The last owner can't: the team would be nobody's."""
        if account == actor.account:
            await self._access.require(actor, Permission.TEAM_READ, team)
            self._access.require_login(actor)
            member = await self._member(team, account)
        else:
            own = await self._access.require(actor, Permission.MEMBERS_REMOVE, team)
            member = await self._member(team, account)
            _check_reach(own, member.role)
        if member.role is Role.OWNER:
            member = await self._give_up(member, Role.VIEWER)
        await self._directory.remove(Membership, member.id)
        await self._audit.record(actor, "member.remove", team=team, target=account)

    async def check_may_leave(self, member: Membership) -> None:
        """Raises :class:`Conflict` for the last owner."""
        if member.role is Role.OWNER and not await self._has_owner(member.team, but=member.id):
            raise _last_owner(member.team)

    # Invitations.

    async def invite(self, actor: Actor, team: str, email: str, role: Role) -> Invitation:
        """Invites somebody by mail; the invitation is good for a week."""
        own = await self._access.require(actor, Permission.MEMBERS_INVITE, team)
        _check_reach(own, role)
        email, known = check_email(email), await self._found(team)
        await require_room(self._directory, known.plan, "members", await self._taken_seats(team))
        token, now = new_token(self._random, "wsi"), self._milliseconds()
        invitation = Invitation(
            id=f"inv_{self._random(8).hex()}",
            team=team,
            email=email,
            role=role,
            token_hash=hash_token(token),
            invited_by=actor.account,
            created_at=now,
            expires_at=now + INVITATION_SECONDS * 1000,
        )
        await self._directory.add([invitation])
        await self._audit.record(actor, "invitation.create", team=team, target=invitation.id, email=email, role=role)
        where = f"open {self._url}/join?token={token}" if self._url else f"use this token: {token}"
        text = f"You are invited to the team {known.name}.\n\nTo join it, {where}\n\nIt works once, for a week.\n"
        await self._mail.send(Mail(to=email, subject=f"Join {known.name}", text=text))
        return invitation

    async def invitations(self, actor: Actor, team: str, cursor: str | None, limit: int) -> Listing[Invitation]:
        """The invitations that nobody has used yet."""
        await self._access.require(actor, Permission.MEMBERS_INVITE, team)
        return await self._directory.page(Invitation, {"team": team}, cursor, limit)

    async def uninvite(self, actor: Actor, team: str, invitation: str) -> None:
        """Takes an invitation back."""
        await self._access.require(actor, Permission.MEMBERS_INVITE, team)
        known = await self._directory.find(Invitation, invitation)
        if known is None or known.team != team:
            raise Refused(Code.NOT_FOUND, f"there is no invitation with the id '{invitation}' to this team")
        await self._directory.remove(Invitation, invitation)
        await self._audit.record(actor, "invitation.delete", team=team, target=invitation)

    async def invitation(self, token: str) -> Invitation:
        """The invitation that has this token. Raises :class:`Refused` with ``unauthorized`` when it is not good."""
        known = await self._directory.find_by(Invitation, "token_hash", hash_token(token))
        if known is None or known.expires_at <= self._milliseconds():
            raise Refused(
                Code.UNAUTHORIZED, "this invitation is unknown, was used or taken back, or is over a week old"
            )
        return known

    async def join(self, actor: Actor, token: str) -> Membership:
        """Makes the actor a member of the team that they are invited to, by the address of their account."""
        self._access.require_login(actor)
        invitation = await self.invitation(token)
        account = await self._directory.find(Account, actor.account)
        if account is None or account.email.casefold() != invitation.email.casefold():
            raise Refused(Code.FORBIDDEN, "this invitation is for another e-mail address: log in with that account")
        member = new_member(invitation.team, account.id, invitation.role, self._milliseconds())
        await self.add_member(member)
        await self._directory.remove(Invitation, invitation.id)
        await self._audit.record(actor, "member.join", team=invitation.team, target=account.id, role=invitation.role)
        return member

    async def add_member(self, member: Membership, *with_it: Record) -> None:
        """Stores the member, and what has to be there before, if the team's plan allows one more.

        Two may come at the same moment. So it is looked at again afterwards: who finds too many goes again, at worst
        both do.
        """
        team = await self._found(member.team)
        await require_room(self._directory, team.plan, "members", await self._count(Membership, team.id))
        await self._directory.add([*with_it, member])
        try:
            await require_room(self._directory, team.plan, "members", await self._count(Membership, team.id) - 1)
        except Refused:
            for record in (member, *reversed(with_it)):
                await self._directory.remove(type(record), record.id)
            raise

    async def _taken_seats(self, team: str) -> int:
        """Members, and those who are invited."""
        return await self._count(Membership, team) + await self._count(Invitation, team)

    async def _count(self, kind: type[Record], team: str) -> int:
        count, cursor = 0, None
        while True:
            page = await self._directory.page(kind, {"team": team}, cursor, _PAGE)
            count, cursor = count + len(page.items), page.next
            if cursor is None:
                return count

    async def _found(self, team: str) -> Team:
        known = await self._directory.find(Team, team)
        if known is None:
            raise Refused(Code.NOT_FOUND, f"there is no team with the id '{team}'")
        return known

    async def _member(self, team: str, account: str) -> Membership:
        member = await self._directory.find(Membership, membership_id(team, account))
        if member is None:
            raise Refused(Code.NOT_FOUND, f"the account '{account}' is no member of this team")
        return member

    async def _give_up(self, member: Membership, role: Role) -> Membership:
        """An owner gives that up, unless there is no other.

        Two owners may give up at the same moment. So it is looked at again afterwards: who finds nobody left takes it
        back, at worst both do.
        """
        await self.check_may_leave(member)
        new = await self._directory.replace(replace(member, role=role))
        if not await self._has_owner(member.team, but=member.id):
            await change(self._directory, Membership, member.id, lambda known: replace(known, role=Role.OWNER))
            raise _last_owner(member.team)
        return new

    async def _has_owner(self, team: str, *, but: str) -> bool:
        cursor: str | None = None
        while True:
            page = await self._directory.page(Membership, {"team": team}, cursor, _PAGE)
            if any(member.role is Role.OWNER and member.id != but for member in page.items):
                return True
            cursor = page.next
            if cursor is None:
                return False

    def _milliseconds(self) -> int:
        return int(self._now() * 1000)


def new_member(team: str, account: str, role: Role, now: int) -> Membership:
    """A membership that begins now (in milliseconds)."""
    return Membership(id=membership_id(team, account), team=team, account=account, role=role, created_at=now)


def _check_reach(own: Role, *others: Role) -> None:
    for other in others:
        if not own.covers(other):
            raise Refused(
                Code.FORBIDDEN, f"your role in the team is {own}: nothing is done to or with the role {other}"
            )


def _last_owner(team: str) -> Conflict:
    return Conflict(f"this is the last owner of the team {team}: make somebody else an owner first, or delete the team")
