"""``wsock usage`` and ``wsock analytics``: what apps use, now and over time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from wsock.cli.api import at
from wsock.cli.kinds import Moment
from wsock.cli.output import Column, Row, column, number, printable, shown_time, table, words
from wsock.cli.remote import Remote, about_named_app, limited

__all__ = ["analytics", "usage"]


def _counts(key: str) -> Callable[[Row], str]:
    """What was counted by name, such as the reasons of closes."""

    def cell(row: Row) -> str:
        counts = row.get(key) or {}
        return ", ".join(f"{printable(name)} {count:,}" for name, count in counts.items()) or "-"

    return cell


def _latency(row: Row) -> str:
    found = row.get("latency")
    return "-" if not found else f"{found['p50']:.1f} {found['p99']:.1f}"


_PARTS = (
    column("at", is_whole=True),
    number("in", "messagesIn"),
    number("out", "messagesOut"),
    number("bytes in", "bytesIn"),
    number("bytes out", "bytesOut"),
    number("peak", "connectionsPeak"),
    number("opens"),
    Column(title="p50 p99 ms", cell=_latency, is_number=True, is_whole=True),
    Column(title="closes", cell=_counts("closes")),
    Column(title="refused", cell=_counts("refused")),
    Column(title="webhooks", cell=_counts("webhooks")),
    Column(title="push", cell=_counts("push")),
)
_METRICS = (column("of the plan", "name", is_whole=True), number("used"), number("limit"), number("percent"))
_APPS = (
    column("id"),
    column("name"),
    column("plan", "plan.id"),
    number("connections", "connections.now"),
    number("today", "messages.today"),
    number("month", "messages.month"),
    number("channels"),
)


@click.command()
@click.option("--team", metavar="TEAM", help="The usage of a team and its apps instead.")
@about_named_app
def usage(server: Remote, team: str | None) -> None:
    """Shows what an app, or a team, uses of its plan: now, today and this month."""
    found = server.api.get(at("admin", "teams", team, "usage") if team else server.in_app("usage"))
    server.output.answer(found, lambda: _usage(found))


def _usage(found: Row) -> str:
    month, plan = found["period"], printable(str(found["plan"]["name"]))
    name = f"{printable(found['name'])} ({printable(found['id'])})"
    metrics = [{"name": words(name), **use} for name, use in found["metrics"].items()]
    connections, messages = found["connections"], found["messages"]
    parts = [
        f"{name}, plan {plan}, {shown_time(month['start'])} to {shown_time(month['end'])}",
        table(metrics, _METRICS),
        f"connections: {connections['now']:,} now, {connections['peak']:,} at most this month\n"
        f"messages: {messages['today']:,} today, {messages['month']:,} this month\n"
        f"channels: {found['channels']:,} now",
    ]
    if found.get("apps"):
        parts.append(table(found["apps"], _APPS))
    return "\n\n".join(parts)


@click.command()
@click.option(
    "--span",
    type=click.Choice(["minute", "hour", "day", "month"]),
    default="hour",
    show_default=True,
    help="How long each line is.",
)
@click.option("--since", type=Moment(), help="From then on: a date and time, or 24h for so long ago.")
@click.option("--until", type=Moment(), help="Up to then.")
@limited
@about_named_app
def analytics(server: Remote, limit: int, **query: Any) -> None:
    """Shows what happened in an app, by minute, hour, day or month, the oldest first."""
    server.output.rows(server.api.pages(server.in_app("analytics"), limit, **query), _PARTS)
