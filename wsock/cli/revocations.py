"""``wsock revoke``: tokens and clients that are not let in any more."""

from __future__ import annotations

from typing import Any

import click

from wsock.cli.kinds import LENGTH
from wsock.cli.output import column
from wsock.cli.remote import Remote, about_app, limited

__all__ = ["revoke"]

_COLUMNS = (
    column("id"),
    column("kind"),
    column("value", is_whole=True),
    column("created", "createdAt"),
    column("expires", "expiresAt"),
    column("by", "createdBy"),
)
_expires = click.option("--expires", type=LENGTH, help="For how long, such as 7d (default: until it is lifted).")


@click.group()
def revoke() -> None:
    """Keeps out a client, or who has a token, and ends their connections within a second."""


@revoke.command("token")
@click.argument("jti")
@_expires
@about_app
def revoke_token(server: Remote, jti: str, expires: int | None) -> None:
    """Revokes the JWT with this 'jti'."""
    _revoke(server, {"token": jti}, expires)


@revoke.command("client")
@click.argument("client")
@_expires
@about_app
def revoke_client(server: Remote, client: str, expires: int | None) -> None:
    """Keeps out the client with this clientId, whatever its token."""
    _revoke(server, {"clientId": client}, expires)


def _revoke(server: Remote, what: dict[str, Any], expires: int | None) -> None:
    body = {**what, **({} if expires is None else {"expiresAt": server.in_milliseconds(expires)})}
    server.output.object(server.api.post(server.in_app("revocations"), body))


@revoke.command("list")
@limited
@about_app
def list_revocations(server: Remote, limit: int) -> None:
    """Lists what is revoked."""
    server.output.rows(server.api.pages(server.in_app("revocations"), limit), _COLUMNS)


@revoke.command("lift")
@click.argument("id")
@about_app
def lift(server: Remote, id: str) -> None:
    """Takes a revocation back."""
    server.output.done(server.api.delete(server.in_app("revocations", id)), f"lifted {id}")
