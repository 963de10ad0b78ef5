"""``wsock login``, ``logout`` and ``whoami``."""

from __future__ import annotations

import sys
from typing import Any

import click

from wsock.cli.api import Refusal, Unreachable, at, is_loopback
from wsock.cli.kinds import secret_from_input
from wsock.cli.output import details
from wsock.cli.remote import Remote, remote, saved_session

__all__ = ["login", "logout", "whoami"]

_DEV_HINT = "a server with --dev takes admin@localhost / admin"


@click.command()
@click.option("--email", metavar="EMAIL", help="The account; asked for where it is not given.")
@remote
def login(server: Remote, email: str | None) -> None:
    """Logs in to a server, which other commands then ask.

    The password, and the one-time code of an account that has a second factor, are asked for; without a terminal they
    are the lines of standard input. The session is kept in wsock/session.json below XDG_CONFIG_HOME (or ~/.config),
    which only you can read. A server that "twistd wsocket --dev" runs takes admin@localhost with the password admin.
    """
    if server.url.startswith("http:") and not is_loopback(server.url):
        server.output.note(f"warning: the password goes to {server.url} in clear; https:// would protect it")
    email = email or _asked_email()
    answer = _logged_in(server, email, secret_from_input("Password"))
    server.surroundings.sessions.keep(server.url, saved_session(answer, email))
    account = answer["account"]
    server.output.done({"url": server.url, "account": account}, f"logged in to {server.url} as {email}")


def _asked_email() -> str:
    if not sys.stdin.isatty():
        raise click.UsageError("--email is missing, and there is no terminal to ask at")
    answer: str = click.prompt("E-mail", err=True)
    return answer


def _logged_in(server: Remote, email: str, password: str) -> Any:
    body = {"email": email, "password": password}
    try:
        return server.api.ask_anyone("POST", "/api/auth/login", body)
    except Refusal as e:
        if e.hint == "code_needed":
            code = secret_from_input("One-time code")
            return server.api.ask_anyone("POST", "/api/auth/login", {**body, "code": code.strip()})
        if e.status == 401 and is_loopback(server.url):
            raise Refusal(f"{e.message}; {_DEV_HINT}", status=e.status, code=e.code) from e
        raise


@click.command()
@click.option("--everywhere", is_flag=True, help="End all sessions of the account, on every machine.")
@remote
def logout(server: Remote, everywhere: bool) -> None:
    """Ends the session with a server, and forgets it."""
    try:
        server.session_api.post("/api/auth/logout-all" if everywhere else "/api/auth/logout")
    except Refusal as e:
        if e.status != 401:
            raise
    except Unreachable as e:
        server.surroundings.sessions.forget(server.url)
        text = f"{e.message}. The session is forgotten here; at the server it lasts until it expires"
        raise Unreachable(text) from e
    server.surroundings.sessions.forget(server.url)
    server.output.done({}, f"logged out of {server.url}")


@click.command()
@remote
def whoami(server: Remote) -> None:
    """Shows the account that commands act for."""
    found = server.api.get(at("auth", "me"))
    server.output.answer(found, lambda: details({"server": server.url, **found["account"]}))
