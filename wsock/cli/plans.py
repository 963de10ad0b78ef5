"""``wsock plan``: what apps and teams may use."""

from __future__ import annotations

from typing import Any

import click

from wsock.cli.api import at
from wsock.cli.kinds import confirm, setting
from wsock.cli.output import Column, column, number
from wsock.cli.remote import Remote, limited, remote, yes_option

__all__ = ["plan"]


def _limit(title: str, name: str) -> Column:
    return number(title, f"limits.{name}")


_COLUMNS = (
    column("id"),
    column("name"),
    _limit("connections", "connections"),
    _limit("messages/month", "messagesPerMonth"),
    _limit("bytes", "messageBytes"),
    _limit("channels", "channels"),
    _limit("apps", "apps"),
    _limit("members", "members"),
)


@click.group()
def plan() -> None:
    """Plans: what apps and teams may use. Changing them is for operators of the server.

    Limits are connections, messages-per-month, message-bytes, channels, history-ttl-seconds, webhooks, push-per-month,
    apps and members; NAME= sets no limit.
    """


@plan.command("list")
@limited
@remote
def list_plans(server: Remote, limit: int) -> None:
    """Lists the plans; - is no limit."""
    server.output.rows(server.api.pages(at("admin", "plans"), limit), _COLUMNS)


@plan.command("show")
@click.argument("plan")
@remote
def show_plan(server: Remote, plan: str) -> None:
    """Shows a plan; - is no limit."""
    server.output.object(server.api.get(at("admin", "plans", plan)))


@plan.command("create")
@click.argument("id")
@click.argument("limits", nargs=-1, metavar="[NAME=LIMIT]...")
@click.option("--name", help="What people call it (default: its id).")
@remote
def create_plan(server: Remote, id: str, limits: tuple[str, ...], name: str | None) -> None:
    """Makes a plan; what is not named has no limit."""
    body = {"id": id, "name": name or id, "limits": dict(map(setting, limits))}
    server.output.object(server.api.post(at("admin", "plans"), body))


@plan.command("update")
@click.argument("plan")
@click.argument("limits", nargs=-1, metavar="[NAME=LIMIT]...")
@click.option("--name", help="Another name.")
@remote
def update_plan(server: Remote, plan: str, limits: tuple[str, ...], name: str | None) -> None:
    """Changes the limits that are given; they count at once for all apps on the plan."""
    body: dict[str, Any] = {"name": name} if name else {}
    if limits:
        body["limits"] = dict(map(setting, limits))
    if not body:
        raise click.UsageError("there is nothing to change: give --name, or limits as NAME=LIMIT")
    server.output.object(server.api.patch(at("admin", "plans", plan), body))


@plan.command("delete")
@click.argument("plan")
@yes_option
@remote
def delete_plan(server: Remote, plan: str, yes: bool) -> None:
    """Deletes a plan that no app is on."""
    confirm(f"Delete the plan {plan}?", yes)
    server.output.done(server.api.delete(at("admin", "plans", plan)), f"deleted {plan}")
