"""``wsock app``: the apps of your teams, and their settings."""

from __future__ import annotations

from typing import Any

import click

from wsock.cli.api import at
from wsock.cli.kinds import confirm, setting
from wsock.cli.output import Row, column, details, text
from wsock.cli.remote import Remote, limited, remote, yes_option

__all__ = ["app", "given_settings", "show_with_settings"]

_COLUMNS = (
    column("id"),
    column("name"),
    column("team"),
    column("plan"),
    column("enabled", "isEnabled"),
    column("created", "createdAt"),
)


@click.group()
def app() -> None:
    """Apps: each has channels, keys and messages of its own."""


@app.command("list")
@click.option("--team", metavar="TEAM", help="Only those of this team.")
@limited
@remote
def list_apps(server: Remote, team: str | None, limit: int) -> None:
    """Lists the apps of your teams."""
    server.output.rows(server.api.pages(at("admin", "apps"), limit, team=team), _COLUMNS)


@app.command("create")
@click.argument("name")
@click.option("--team", metavar="TEAM", help="The team that it shall belong to (default: your only one).")
@click.option("--plan", metavar="PLAN", help="Its plan; for operators of the server.")
@remote
def create_app(server: Remote, name: str, team: str | None, plan: str | None) -> None:
    """Makes an app."""
    body = {"name": name, "team": team, "plan": plan}
    show_with_settings(server, server.api.post(at("admin", "apps"), {k: v for k, v in body.items() if v is not None}))


@app.command("show")
@click.argument("app")
@remote
def show_app(server: Remote, app: str) -> None:
    """Shows an app."""
    show_with_settings(server, server.api.get(at("admin", "apps", app)))


@app.command("update")
@click.argument("app")
@click.option("--name", help="Another name.")
@click.option("--enable/--disable", "is_enabled", default=None, help="Whether clients may connect to it.")
@click.option("--plan", metavar="PLAN", help="Another plan; for operators of the server.")
@click.option("--origin", "origins", multiple=True, help="Origins of pages that may use it, all of them; repeatable.")
@remote
def update_app(server: Remote, app: str, name: str | None, is_enabled: bool | None, **given: Any) -> None:
    """Changes an app; connections that are open follow within a second."""
    wanted = {"name": name, "isEnabled": is_enabled, "plan": given["plan"]}
    body: dict[str, Any] = {key: value for key, value in wanted.items() if value is not None}
    if given["origins"]:
        body["allowedOrigins"] = list(given["origins"])
    if not body:
        raise click.UsageError("there is nothing to change: give --name, --enable, --disable, --plan or --origin")
    show_with_settings(server, server.api.patch(at("admin", "apps", app), body))


@app.command("delete")
@click.argument("app")
@yes_option
@remote
def delete_app(server: Remote, app: str, yes: bool) -> None:
    """Deletes an app with its keys, namespaces and messages."""
    confirm(f"Delete the app {app} with all of its keys and messages?", yes)
    server.output.done(server.api.delete(at("admin", "apps", app)), f"deleted {app}")


@app.command("settings")
@click.argument("app")
@click.argument("changes", nargs=-1, metavar="[NAME=VALUE]...")
@remote
def app_settings(server: Remote, app: str, changes: tuple[str, ...]) -> None:
    """Shows the settings of an app, or changes those that are given.

    For example: history=off, history-ttl-seconds=86400, message-bytes=16384, client-publish=off, channel-rate=100/s,
    user-rate=60/m:10 (60 a minute, 10 at once). NAME= leaves a setting to the server again.
    """
    place = at("admin", "apps", app)
    change = dict(map(setting, changes))
    found = server.api.patch(place, {"settings": change}) if change else server.api.get(place)
    server.output.answer(found["settings"], lambda: settings_table(found))


def show_with_settings(server: Remote, content: dict[str, Any]) -> None:
    """Prints an object with its settings; people are shown those that are set."""
    server.output.answer(content, lambda: details({**content, "settings": given_settings(content)}))


def given_settings(content: Row) -> dict[str, str]:
    """The settings of an object that are set, as people read them."""
    settings = content.get("settings") or {}
    return {name: _shown(name, value) for name, value in settings.items() if value is not None}


def settings_table(content: Row) -> str:
    """The same, a line for each."""
    given = given_settings(content)
    return details(given) if given else "none is set: those of the server count"


def _shown(name: str, value: Any) -> str:
    if isinstance(value, dict) and "events" in value:
        burst = f", {value['burst']} at once" if value.get("burst") else ""
        return f"{value['events']:g} in {value.get('seconds', 1):g} s{burst}"
    return text(name, value)
