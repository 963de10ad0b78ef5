"""``wsock token``: access tokens of an account, and JWTs for an app's clients."""

from __future__ import annotations

import secrets
from typing import Any

import click
import jwt

from wsock.cli.api import at
from wsock.cli.kinds import LENGTH, confirm, json_or_text, permissions_of, secret_from_input
from wsock.cli.output import Output, column
from wsock.cli.remote import Remote, Surroundings, limited, remote, yes_option
from wsock.records import Role

__all__ = ["token"]

_COLUMNS = (
    column("id"),
    column("name"),
    column("role"),
    column("team"),
    column("created", "createdAt"),
    column("expires", "expiresAt"),
    column("last used", "lastUsedAt"),
)


@click.group()
def token() -> None:
    """Access tokens for scripts that administer in your name."""


@token.command("list")
@limited
@remote
def list_tokens(server: Remote, limit: int) -> None:
    """Lists your access tokens."""
    server.output.rows(server.api.pages(at("admin", "tokens"), limit), _COLUMNS)


@token.command("create")
@click.argument("name")
@click.option("--role", type=click.Choice([role.value for role in Role]), help="The greatest role that counts.")
@click.option("--team", metavar="TEAM", help="The only team it is good for.")
@click.option("--permission", "permissions", multiple=True, help="All that it allows, such as apps.read; repeatable.")
@click.option("--expires", type=LENGTH, help="How long it is good for, such as 90d (default: until it is revoked).")
@remote
def create_token(
    server: Remote, name: str, role: str | None, team: str | None, permissions: tuple[str, ...], expires: int | None
) -> None:
    """Makes an access token, which is shown once."""
    body: dict[str, Any] = {"name": name}
    if role:
        body["role"] = role
    if team:
        body["team"] = team
    if permissions:
        body["permissions"] = list(permissions)
    if expires:
        body["expiresAt"] = server.in_milliseconds(expires)
    made = server.api.post(at("admin", "tokens"), body)
    server.output.secrets(made, {"token": made.get("token")})


@token.command("revoke")
@click.argument("id")
@yes_option
@remote
def revoke_token(server: Remote, id: str, yes: bool) -> None:
    """Ends an access token."""
    confirm(f"Revoke the access token {id}?", yes)
    server.output.done(server.api.delete(at("admin", "tokens", id)), f"revoked {id}")


@token.command("sign")
@click.option("--key-id", required=True, metavar="KID", help="The id of the key, which the JWT names.")
@click.option("--sub", metavar="CLIENT", help="The clientId that the JWT is for.")
@click.option("--expires", type=LENGTH, default="1h", show_default=True, help="How long it is good for.")
@click.option(
    "--permission",
    "permissions",
    multiple=True,
    metavar="PATTERN=OPERATIONS",
    help="What it allows, such as 'chat.*=subscribe,publish'; repeatable (default: what its key allows).",
)
@click.option("--claim", "claims", multiple=True, metavar="NAME=VALUE", help="Another claim; repeatable.")
@click.option(
    "--algorithm", type=click.Choice(["HS256", "HS384", "HS512"]), default="HS256", show_default=True, help="The key's."
)
@click.option("--json", "as_json", is_flag=True, help="A JSON object, for programs.")
@click.pass_context
def sign(context: click.Context, /, as_json: bool, claims: tuple[str, ...], **given: Any) -> None:
    """Makes a JWT for a client of an app, here: no server is asked.

    The signing secret is that of WSOCK_SIGNING_SECRET, or it is asked for, or it is a line of standard input.
    """
    surroundings = context.find_object(Surroundings) or Surroundings()
    secret = surroundings.environ.get("WSOCK_SIGNING_SECRET") or secret_from_input("Signing secret")
    content = _claims(int(surroundings.now()), claims, **given)
    text = jwt.encode(content, secret, algorithm=given["algorithm"], headers={"kid": given["key_id"]})
    Output(as_json=as_json).answer({"token": text, "claims": content}, lambda: text)


def _claims(now: int, others: tuple[str, ...], **given: Any) -> dict[str, Any]:
    # With an id of its own it can be revoked.
    claims: dict[str, Any] = {"iat": now, "exp": now + given["expires"], "jti": secrets.token_urlsafe(12)}
    if given["sub"]:
        claims["sub"] = given["sub"]
    permissions = permissions_of(given["permissions"])
    if permissions is not None:
        claims["permissions"] = permissions
    for text in others:
        name, is_given, value = text.partition("=")
        if not name or not is_given:
            raise click.UsageError(f"--claim takes NAME=VALUE, and not '{text}'")
        claims[name] = json_or_text(value)
    return claims
