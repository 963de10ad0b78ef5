"""``wsock key``: the credentials of an app."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wsock.cli.kinds import LENGTH, confirm, permissions_of
from wsock.cli.output import column
from wsock.cli.remote import Remote, about_app, limited, yes_option

__all__ = ["key"]

_COLUMNS = (
    column("id"),
    column("name"),
    column("state"),
    column("algorithm"),
    column("created", "createdAt"),
    column("expires", "expiresAt"),
    column("last used", "lastUsedAt"),
    column("replaced by", "replacedBy", is_whole=True),
    column("safe to retire", "safeToRetire"),
)
_PATTERN = "PATTERN=OPERATIONS"
_ALLOWS = "What it allows, such as 'chat.*=subscribe,publish' or '*=*'; repeatable."
_expires = click.option("--expires", type=LENGTH, help="How long it is good for, such as 90d.")
_public_key = click.option(
    "--public-key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The public key in PEM form that verifies JWTs, for RS256, ES256 and EdDSA.",
)
_client_ids = click.option("--client-ids", metavar="PATTERN", help="The clientIds that its clients may choose.")


@click.group()
def key() -> None:
    """Keys: what clients and backends of an app prove themselves with."""


@key.command("list")
@limited
@about_app
def list_keys(server: Remote, limit: int) -> None:
    """Lists the keys of an app, and when each was last used."""
    server.output.rows(server.api.pages(server.in_app("keys"), limit), _COLUMNS)


@key.command("create")
@click.argument("name")
@click.option("--permission", "permissions", multiple=True, required=True, metavar=_PATTERN, help=_ALLOWS)
@_expires
@_client_ids
@click.option("--algorithm", metavar="NAME", help="Of the JWTs that it verifies, such as ES256 (default: HS256).")
@_public_key
@click.option("--jwks-url", metavar="URL", help="Where the public keys are published instead.")
@click.option("--issuer", help="The 'iss' that JWTs must have.")
@click.option("--audience", help="The 'aud' that JWTs must have.")
@about_app
def create_key(server: Remote, name: str, **given: Any) -> None:
    """Makes a key; its API key and signing secret are shown once."""
    body = {"name": name, **_body(server, given)}
    for option, field in (("algorithm", "algorithm"), ("jwks_url", "jwksUrl"), ("issuer", "issuer")):
        if given[option]:
            body[field] = given[option]
    if given["audience"]:
        body["audience"] = given["audience"]
    _show_new(server, server.api.post(server.in_app("keys"), {**body, **_pem(given["public_key"])}))


def _pem(file: Path | None) -> dict[str, str]:
    if file is None:
        return {}
    try:
        return {"publicKey": file.read_text("utf-8")}
    except UnicodeDecodeError as e:
        raise click.UsageError(f"--public-key {file}: this is no text, and so no PEM") from e


def _body(server: Remote, given: dict[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = {}
    permissions = permissions_of(given["permissions"])
    if permissions is not None:
        body["permissions"] = permissions
    if given["expires"]:
        body["expiresAt"] = server.in_milliseconds(given["expires"])
    if given["client_ids"] is not None:
        body["clientIds"] = given["client_ids"]
    return body


def _show_new(server: Remote, made: dict[str, Any]) -> None:
    shown = {"API key": made.get("key"), "signing secret": made.get("secret")}
    if server.output.as_json:
        server.output.json(made)
    else:
        server.output.secrets({k: v for k, v in made.items() if k not in ("key", "secret")}, shown)


@key.command("show")
@click.argument("id")
@about_app
def show_key(server: Remote, id: str) -> None:
    """Shows a key, without its secrets."""
    server.output.object(server.api.get(server.in_app("keys", id)))


@key.command("update")
@click.argument("id")
@click.option("--name", help="Another name.")
@click.option("--permission", "permissions", multiple=True, metavar=_PATTERN, help=f"{_ALLOWS} All of them.")
@_expires
@_client_ids
@about_app
def update_key(server: Remote, id: str, name: str | None, **given: Any) -> None:
    """Changes a key; connections that are open follow within a second."""
    body = {**({"name": name} if name else {}), **_body(server, given)}
    if not body:
        raise click.UsageError("there is nothing to change: give --name, --permission, --expires or --client-ids")
    server.output.object(server.api.patch(server.in_app("keys", id), body))


@key.command("rotate")
@click.argument("id")
@click.option("--overlap", type=LENGTH, default="1d", show_default=True, help="How long the old one stays good.")
@_public_key
@about_app
def rotate_key(server: Remote, id: str, overlap: int, public_key: Path | None) -> None:
    """Makes the successor of a key, which is shown once; both are good for a while.

    'wsock key list' tells when each was last used: when the old one is not any more, 'wsock key retire' ends it.
    """
    body: dict[str, Any] = {"overlapSeconds": overlap, **_pem(public_key)}
    made = server.api.post(server.in_app("keys", id, "rotate"), body)
    _show_new(server, made)


@key.command("retire")
@click.argument("id")
@yes_option
@about_app
def retire_key(server: Remote, id: str, yes: bool) -> None:
    """Ends a key that was rotated, before its time is over."""
    confirm(f"Retire the key {id}? Clients that still use it are disconnected.", yes)
    server.output.done(server.api.post(server.in_app("keys", id, "retire")), f"retired {id}")


@key.command("revoke")
@click.argument("id")
@yes_option
@about_app
def revoke_key(server: Remote, id: str, yes: bool) -> None:
    """Ends a key, and all connections that were made with it."""
    confirm(f"Revoke the key {id}? Clients that use it are disconnected.", yes)
    server.output.done(server.api.delete(server.in_app("keys", id)), f"revoked {id}")
