"""``wsock namespace``: settings of the channels whose names match a pattern."""

from __future__ import annotations

from typing import Any

import click

from wsock.cli.apps import given_settings, show_with_settings
from wsock.cli.kinds import confirm, setting
from wsock.cli.output import Column, Row, column, words
from wsock.cli.remote import Remote, about_app, limited, yes_option

__all__ = ["namespace"]


def _settings_in_one_line(row: Row) -> str:
    return "; ".join(f"{words(name)} {value}" for name, value in given_settings(row).items()) or "-"


_COLUMNS = (
    column("id"),
    column("pattern"),
    column("created", "createdAt"),
    Column(title="settings", cell=_settings_in_one_line),
)


@click.group()
def namespace() -> None:
    """Namespaces: settings of the channels whose names match a pattern.

    Settings are those of 'wsock app settings'.
    """


@namespace.command("list")
@limited
@about_app
def list_namespaces(server: Remote, limit: int) -> None:
    """Lists the namespaces of an app."""
    server.output.rows(server.api.pages(server.in_app("namespaces"), limit), _COLUMNS)


@namespace.command("create")
@click.argument("pattern")
@click.argument("settings", nargs=-1, metavar="[NAME=VALUE]...")
@about_app
def create_namespace(server: Remote, pattern: str, settings: tuple[str, ...]) -> None:
    """Gives the channels that match PATTERN settings of their own, such as history=off."""
    body = {"pattern": pattern, "settings": dict(map(setting, settings))}
    show_with_settings(server, server.api.post(server.in_app("namespaces"), body))


@namespace.command("update")
@click.argument("id")
@click.argument("settings", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--pattern", help="Another pattern.")
@about_app
def update_namespace(server: Remote, id: str, settings: tuple[str, ...], pattern: str | None) -> None:
    """Changes the settings that are given; NAME= leaves one to the app again."""
    body: dict[str, Any] = {"pattern": pattern} if pattern else {}
    if settings:
        body["settings"] = dict(map(setting, settings))
    if not body:
        raise click.UsageError("there is nothing to change: give --pattern, or settings as NAME=VALUE")
    show_with_settings(server, server.api.patch(server.in_app("namespaces", id), body))


@namespace.command("delete")
@click.argument("id")
@yes_option
@about_app
def delete_namespace(server: Remote, id: str, yes: bool) -> None:
    """Deletes a namespace: the app's settings count for its channels."""
    confirm(f"Delete the namespace {id}?", yes)
    server.output.done(server.api.delete(server.in_app("namespaces", id)), f"deleted {id}")
