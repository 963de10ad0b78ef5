"""``wsock account``: accounts, one's own password, and the way in when the operator's is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wsock.cli.api import Refusal, at
from wsock.cli.kinds import confirm, secret_from_input
from wsock.cli.offline import set_password
from wsock.cli.output import column
from wsock.cli.remote import Remote, limited, remote, yes_option

__all__ = ["account"]

_COLUMNS = (
    column("id"),
    column("email", is_whole=True),
    column("name"),
    column("enabled", "isEnabled"),
    column("operator", "isOperator"),
    column("created", "createdAt"),
)


@click.group()
def account() -> None:
    """Accounts of the people who administer.

    ACCOUNT is an id or an e-mail address. All but 'password' and 'reset' are for operators of the server.
    """


@account.command("list")
@limited
@remote
def list_accounts(server: Remote, limit: int) -> None:
    """Lists all accounts."""
    server.output.rows(server.api.pages(at("admin", "accounts"), limit), _COLUMNS)


@account.command("show")
@click.argument("account")
@remote
def show_account(server: Remote, account: str) -> None:
    """Shows an account."""
    server.output.object(server.api.get(at("admin", "accounts", _id(server, account))))


@account.command("enable")
@click.argument("account")
@remote
def enable_account(server: Remote, account: str) -> None:
    """Lets an account in again."""
    _change(server, account, {"isEnabled": True})


@account.command("disable")
@click.argument("account")
@remote
def disable_account(server: Remote, account: str) -> None:
    """Ends the sessions of an account, and lets it in no more."""
    _change(server, account, {"isEnabled": False})


@account.command("operator")
@click.argument("account")
@click.option("--take", is_flag=True, help="Make it one no more.")
@remote
def make_operator(server: Remote, account: str, take: bool) -> None:
    """Makes an account one that runs the server: every team is open to it."""
    _change(server, account, {"isOperator": not take})


@account.command("delete")
@click.argument("account")
@yes_option
@remote
def delete_account(server: Remote, account: str, yes: bool) -> None:
    """Deletes an account with its memberships and tokens."""
    confirm(f"Delete the account {account}?", yes)
    server.output.done(server.api.delete(at("admin", "accounts", _id(server, account))), f"deleted {account}")


@account.command("password")
@click.argument("email", required=False)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="The data directory of a server that is stopped: set the password there.",
)
@click.option("--without-second-factor", is_flag=True, help="With --data: take the second factor away as well.")
@remote
def password(server: Remote, email: str | None, data: Path | None, without_second_factor: bool) -> None:
    """Changes your password; with --data sets that of EMAIL, where a password is lost.

    Passwords are asked for, or are lines of standard input. All sessions of the account end.
    """
    if data is not None:
        if email is None:
            raise click.UsageError(
                "whose password? Give the e-mail address; that of the first start is owner@localhost"
            )
        new = secret_from_input("New password", is_new=True)
        set_password(data, email, new, removes_totp=without_second_factor)
        server.output.done({"email": email}, f"the password of {email} is set: start the server, and log in")
        return
    if email is not None or without_second_factor:
        text = "that of somebody else takes --data DIR, where their server is stopped, or 'wsock account reset EMAIL'"
        raise click.UsageError(text)
    old = secret_from_input("Password")
    new = secret_from_input("New password", is_new=True)
    answer = server.api.post(at("auth", "me", "password"), {"password": old, "newPassword": new})
    # All sessions have ended; that of this command goes on as another one.
    server.renewed(answer)
    server.output.done({"account": answer["account"]}, "your password is changed, and all other sessions have ended")


@account.command("reset")
@click.argument("email", required=False)
@click.option("--confirm", "confirms", is_flag=True, help="Set a new password, with the token that was mailed.")
@remote
def reset(server: Remote, email: str | None, confirms: bool) -> None:
    """Mails a token that sets a new password; with --confirm, uses it.

    A server without a way to send mail writes it to its log. The token and the password are asked for, or are lines of
    standard input.
    """
    if confirms:
        token = secret_from_input("Token")
        body = {"token": token.strip(), "password": secret_from_input("New password", is_new=True)}
        answer = server.api.ask_anyone("POST", at("auth", "reset", "confirm"), body)
        server.output.done(answer, "the password is set: log in with 'wsock login'")
        return
    if email is None:
        raise click.UsageError("whose password? Give the e-mail address")
    answer = server.api.ask_anyone("POST", at("auth", "reset"), {"email": email})
    server.output.done(
        answer, f"if {email} has an account, a token is on its way: 'wsock account reset --confirm' uses it"
    )


def _change(server: Remote, account: str, body: dict[str, Any]) -> None:
    server.output.object(server.api.patch(at("admin", "accounts", _id(server, account)), body))


def _id(server: Remote, account: str) -> str:
    """The id of the account that is named by it or by an e-mail address."""
    if "@" not in account:
        return account
    for one in server.api.pages(at("admin", "accounts"), 0)["items"]:
        if one["email"].casefold() == account.casefold():
            return str(one["id"])
    raise Refusal(f"nobody has an account with the address {account}: 'wsock account list' shows them")
