"""Teams, their members, and who is invited."""

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
    NoBody,
    NoQuery,
    Page,
    Version,
    operation,
)
from wsock.errors import Code
from wsock.records import Invitation, Role, Team
from wsock.services.access import Actor
from wsock.services.roles import Permission
from wsock.services.teams import Teams

__all__ = ["TeamGroup"]

Name = Annotated[str, Meta(max_length=200, description="1 to 100 characters in one line.")]


class NewTeam(Body, frozen=True):
    """A team that is to be."""

    name: Name


class TeamChange(Body, frozen=True):
    """What is to be otherwise."""

    name: Name
    version: Version | None = None


class TeamAnswer(Answer, frozen=True):
    """A team. ``role`` is that of who asks; operators are owners everywhere."""

    id: str
    name: str
    created_at: int
    version: int
    role: Role | None


class TeamMember(Answer, frozen=True):
    """A member of a team; ``id`` is the account's."""

    id: str
    email: str
    name: str
    role: Role
    created_at: int


class RoleChange(Body, frozen=True):
    """Another role."""

    role: Role


class NewInvitation(Body, frozen=True):
    """Who is to be invited, and to what."""

    email: Annotated[str, Meta(max_length=320, description="An e-mail address.")]
    role: Role = Role.DEVELOPER


class InvitationAnswer(Answer, frozen=True):
    """An invitation that nobody has used yet. Its token is in the mail only."""

    id: str
    email: str
    role: Role
    invited_by: str
    created_at: int
    expires_at: int


class TeamGroup(Group):
    """Teams."""

    tag = "Teams"
    about = "People who run apps together. Whoever is no member of a team is told that there is none."

    def __init__(self, teams: Teams) -> None:
        self._teams = teams

    @operation("GET", "/api/admin/teams", needs=LOGIN)
    async def teams(self, call: Call[NoBody, Page]) -> Items[TeamAnswer]:
        """Lists the teams that one is a member of; operators see all."""
        page = await self._teams.teams(call.actor, call.query.cursor, call.query.limit)
        return Items([await self._answer(call.actor, team) for team in page.items], page.next)

    @operation("POST", "/api/admin/teams", status=201, needs=Permission.TEAMS_CREATE, example={"name": "Chat"})
    async def create(self, call: Call[NewTeam, NoQuery]) -> TeamAnswer:
        """Creates a team, whose owner is who asks. Where sign-up is open everybody may."""
        return await self._answer(call.actor, await self._teams.create(call.actor, call.body.name))

    @operation("GET", "/api/admin/teams/{teamId}", needs=Permission.TEAM_READ)
    async def team(self, call: Call[NoBody, NoQuery]) -> TeamAnswer:
        """Shows a team."""
        return await self._answer(call.actor, await self._teams.team(call.actor, call.path["teamId"]))

    @operation(
        "PATCH",
        "/api/admin/teams/{teamId}",
        needs=Permission.TEAM_UPDATE,
        errors=(Code.CONFLICT,),
        example={"name": "Chat"},
    )
    async def rename(self, call: Call[TeamChange, NoQuery]) -> TeamAnswer:
        """Changes a team's name."""
        body = call.body
        return await self._answer(
            call.actor, await self._teams.rename(call.actor, call.path["teamId"], body.name, body.version)
        )

    @operation("DELETE", "/api/admin/teams/{teamId}", needs=Permission.TEAM_DELETE)
    async def delete(self, call: Call[NoBody, NoQuery]) -> None:
        """Deletes a team with its apps and all of theirs; accounts stay."""
        await self._teams.delete(call.actor, call.path["teamId"])

    @operation("GET", "/api/admin/teams/{teamId}/members", needs=Permission.TEAM_READ)
    async def members(self, call: Call[NoBody, Page]) -> Items[TeamMember]:
        """Lists the members of a team."""
        page = await self._teams.members(call.actor, call.path["teamId"], call.query.cursor, call.query.limit)
        accounts = {account.id: account for account in await self._teams.people(page.items)}
        items = [
            TeamMember(
                id=member.account,
                email=accounts[member.account].email,
                name=accounts[member.account].name,
                role=member.role,
                created_at=member.created_at,
            )
            for member in page.items
            if member.account in accounts
        ]
        return Items(items, page.next)

    @operation(
        "PATCH",
        "/api/admin/teams/{teamId}/members/{accountId}",
        needs=Permission.MEMBERS_UPDATE,
        errors=(Code.CONFLICT,),
        example={"role": "developer"},
    )
    async def change_role(self, call: Call[RoleChange, NoQuery]) -> TeamMember:
        """Gives a member another role, no greater than one's own. The last owner stays one."""
        team, id = call.path["teamId"], call.path["accountId"]
        member = await self._teams.change_role(call.actor, team, id, call.body.role)
        found = await self._teams.people([member])
        return TeamMember(
            id=member.account,
            email=found[0].email if found else "",
            name=found[0].name if found else "",
            role=member.role,
            created_at=member.created_at,
        )

    @operation(
        "DELETE",
        "/api/admin/teams/{teamId}/members/{accountId}",
        needs=Permission.MEMBERS_REMOVE,
        errors=(Code.CONFLICT,),
    )
    async def remove_member(self, call: Call[NoBody, NoQuery]) -> None:
        """Takes a member out of a team. Everybody may leave, but for the last owner."""
        await self._teams.remove_member(call.actor, call.path["teamId"], call.path["accountId"])

    @operation("GET", "/api/admin/teams/{teamId}/invitations", needs=Permission.MEMBERS_INVITE)
    async def invitations(self, call: Call[NoBody, Page]) -> Items[InvitationAnswer]:
        """Lists the invitations that nobody has used yet."""
        page = await self._teams.invitations(call.actor, call.path["teamId"], call.query.cursor, call.query.limit)
        return Items([_invitation(invitation) for invitation in page.items], page.next)

    @operation(
        "POST",
        "/api/admin/teams/{teamId}/invitations",
        status=201,
        needs=Permission.MEMBERS_INVITE,
        errors=(Code.CONFLICT,),
        example={"email": "ben@example.org", "role": "viewer"},
    )
    async def invite(self, call: Call[NewInvitation, NoQuery]) -> InvitationAnswer:
        """Invites somebody by mail, for a week, to a role no greater than one's own."""
        body = call.body
        return _invitation(await self._teams.invite(call.actor, call.path["teamId"], body.email, body.role))

    @operation("DELETE", "/api/admin/teams/{teamId}/invitations/{invitationId}", needs=Permission.MEMBERS_INVITE)
    async def uninvite(self, call: Call[NoBody, NoQuery]) -> None:
        """Takes an invitation back."""
        await self._teams.uninvite(call.actor, call.path["teamId"], call.path["invitationId"])

    async def _answer(self, actor: Actor, team: Team) -> TeamAnswer:
        return TeamAnswer(
            id=team.id,
            name=team.name,
            created_at=team.created_at,
            version=team.version,
            role=await self._teams.role(actor, team.id),
        )


def _invitation(invitation: Invitation) -> InvitationAnswer:
    return InvitationAnswer(
        id=invitation.id,
        email=invitation.email,
        role=invitation.role,
        invited_by=invitation.invited_by,
        created_at=invitation.created_at,
        expires_at=invitation.expires_at,
    )
