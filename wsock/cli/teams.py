"""``wsock team``: teams, their members, and invitations to them."""

from __future__ import annotations

import click

from wsock.cli.api import at
from wsock.cli.kinds import confirm, secret_from_input
from wsock.cli.output import column
from wsock.cli.remote import Remote, limited, remote, yes_option
from wsock.records import Role

__all__ = ["team"]

_TEAMS = (column("id"), column("name"), column("role"), column("created", "createdAt"))
_MEMBERS = (
    column("id"),
    column("email", is_whole=True),
    column("name"),
    column("role"),
    column("since", "createdAt"),
)
_INVITATIONS = (
    column("id"),
    column("email", is_whole=True),
    column("role"),
    column("invited by", "invitedBy"),
    column("expires", "expiresAt"),
)
_ROLES = click.Choice([role.value for role in Role])


@click.group()
def team() -> None:
    """Teams: people who run apps together."""


@team.command("list")
@limited
@remote
def list_teams(server: Remote, limit: int) -> None:
    """Lists your teams; for operators all of them."""
    server.output.rows(server.api.pages(at("admin", "teams"), limit), _TEAMS)


@team.command("create")
@click.argument("name")
@remote
def create_team(server: Remote, name: str) -> None:
    """Makes a team, whose owner you are."""
    server.output.object(server.api.post(at("admin", "teams"), {"name": name}))


@team.command("show")
@click.argument("team")
@remote
def show_team(server: Remote, team: str) -> None:
    """Shows a team."""
    server.output.object(server.api.get(at("admin", "teams", team)))


@team.command("rename")
@click.argument("team")
@click.argument("name")
@remote
def rename_team(server: Remote, team: str, name: str) -> None:
    """Gives a team another name."""
    server.output.object(server.api.patch(at("admin", "teams", team), {"name": name}))


@team.command("plan")
@click.argument("team")
@click.argument("plan")
@remote
def put_on_plan(server: Remote, team: str, plan: str) -> None:
    """Puts a team on a plan; for operators of the server."""
    server.output.object(server.api.put(at("admin", "teams", team, "plan"), {"plan": plan}))


@team.command("delete")
@click.argument("team")
@yes_option
@remote
def delete_team(server: Remote, team: str, yes: bool) -> None:
    """Deletes a team with its apps and all of theirs."""
    confirm(f"Delete the team {team} with all of its apps, keys and messages?", yes)
    server.output.done(server.api.delete(at("admin", "teams", team)), f"deleted {team}")


@team.command("members")
@click.argument("team")
@limited
@remote
def list_members(server: Remote, team: str, limit: int) -> None:
    """Lists the members of a team."""
    server.output.rows(server.api.pages(at("admin", "teams", team, "members"), limit), _MEMBERS)


@team.command("role")
@click.argument("team")
@click.argument("account")
@click.argument("role", type=_ROLES)
@remote
def change_role(server: Remote, team: str, account: str, role: str) -> None:
    """Gives a member, by the id of the account, another role."""
    server.output.object(server.api.patch(at("admin", "teams", team, "members", account), {"role": role}))


@team.command("remove")
@click.argument("team")
@click.argument("account")
@yes_option
@remote
def remove_member(server: Remote, team: str, account: str, yes: bool) -> None:
    """Removes a member, by the id of the account."""
    confirm(f"Remove {account} from the team {team}?", yes)
    answer = server.api.delete(at("admin", "teams", team, "members", account))
    server.output.done(answer, f"removed {account} from {team}")


@team.command("invite")
@click.argument("team")
@click.argument("email")
@click.option("--role", type=_ROLES, default=Role.DEVELOPER.value, show_default=True, help="The role to be.")
@remote
def invite(server: Remote, team: str, email: str, role: str) -> None:
    """Mails an invitation to a team; a server without a way to send mail writes it to its log."""
    answer = server.api.post(at("admin", "teams", team, "invitations"), {"email": email, "role": role})
    server.output.object(answer)


@team.command("invitations")
@click.argument("team")
@limited
@remote
def list_invitations(server: Remote, team: str, limit: int) -> None:
    """Lists the invitations that nobody has followed yet."""
    server.output.rows(server.api.pages(at("admin", "teams", team, "invitations"), limit), _INVITATIONS)


@team.command("uninvite")
@click.argument("team")
@click.argument("id")
@remote
def take_back(server: Remote, team: str, id: str) -> None:
    """Takes an invitation back."""
    server.output.done(server.api.delete(at("admin", "teams", team, "invitations", id)), f"took {id} back")


@team.command("join")
@remote
def join(server: Remote) -> None:
    """Follows an invitation with your account; its token is asked for, or is a line of standard input."""
    token = secret_from_input("Token of the invitation").strip()
    server.output.object(server.api.post(at("auth", "invitations", "join"), {"token": token}))
