"""``wsock channels``, ``channel``, ``history``, ``presence`` and ``publish``."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from wsock.cli.kinds import Moment, json_or_text
from wsock.cli.output import Column, column, number, printable, text
from wsock.cli.remote import Remote, limited, with_key

__all__ = ["channel", "channels", "history", "presence", "publish"]

_PAGE = 1000


def _data(row: Any) -> str:
    return printable(json.dumps(row.get("data"), ensure_ascii=False))


_CHANNELS = (
    column("channel", is_whole=True),
    number("subscribers"),
    number("members"),
)
_MESSAGES = (
    column("at", "timestamp", is_whole=True),
    number("sequence"),
    column("id"),
    column("publisher", "publisherId", is_whole=True),
    Column(title="data", cell=_data),
)
_MEMBERS = (
    column("client", "clientId", is_whole=True),
    column("since", "joinedAt", is_whole=True),
    Column(title="data", cell=_data),
)


@click.command()
@click.option("--prefix", help="Only those whose names begin so.")
@limited
@with_key
def channels(server: Remote, prefix: str | None, limit: int) -> None:
    """Lists the channels that somebody is in."""
    server.output.rows(server.api.pages(server.live("channels"), limit, prefix=prefix), _CHANNELS)


@click.command()
@click.argument("channel")
@with_key
def channel(server: Remote, channel: str) -> None:
    """Shows a channel."""
    server.output.object(server.api.get(server.live("channels", channel)))


@click.command()
@click.argument("channel")
@click.option("--before", type=Moment(), help="Only older messages: a date and time, or 24h for so long ago.")
@click.option("--after", type=Moment(), help="Only newer messages.")
@click.option("--forward", is_flag=True, help="Begin with the oldest.")
@limited
@with_key
def history(server: Remote, channel: str, limit: int, forward: bool, **bounds: int | None) -> None:
    """Shows the messages that a channel had, the newest first."""
    found = _history(server, channel, limit, "forward" if forward else "backward", bounds)
    rows = {"items": found["messages"], "next": None}
    if server.output.as_json:
        server.output.json(found)
        return
    server.output.rows(rows, _MESSAGES)
    if found["hasMore"]:
        server.output.note("there are more: --limit 0 shows all")


def _history(server: Remote, channel: str, limit: int, direction: str, bounds: dict[str, int | None]) -> dict[str, Any]:
    """As many messages as are wanted, page by page."""
    place = server.live("channels", channel, "messages")
    messages: list[Any] = []
    moving = "after" if direction == "forward" else "before"
    while True:
        wanted = min(_PAGE, limit - len(messages)) if limit else _PAGE
        page = server.api.get(place, limit=wanted, direction=direction, **bounds)
        messages += page["messages"]
        if not page["hasMore"] or not page["messages"] or limit and len(messages) >= limit:
            return {**page, "messages": messages}
        bounds = {**bounds, moving: page["messages"][-1]["timestamp"]}


@click.command()
@click.argument("channel")
@with_key
def presence(server: Remote, channel: str) -> None:
    """Shows who is present in a channel."""
    found = server.api.get(server.live("channels", channel, "presence"))
    if server.output.as_json:
        server.output.json(found)
    else:
        server.output.rows({"items": found["members"]}, _MEMBERS)


@click.command()
@click.argument("channel")
@click.argument("data")
@click.option("--id", help="The message's id: repeated with it, it is delivered once.")
@click.option("--text", "is_text", is_flag=True, help="DATA is text, even if it looks like JSON.")
@click.option("--transient", is_flag=True, help="Keep it out of the history.")
@with_key
def publish(server: Remote, channel: str, data: str, id: str | None, is_text: bool, transient: bool) -> None:
    """Publishes DATA: JSON, or else text; - reads it from standard input.

    What begins with a hyphen stands behind two of them: wsock publish chat -- -1
    """
    given = sys.stdin.read() if data == "-" else data
    body: dict[str, Any] = {"data": given if is_text else json_or_text(given)}
    if id is not None:
        body["id"] = id
    if transient:
        body["persist"] = False
    accepted = server.api.post(server.live("channels", channel, "messages"), body)
    server.output.answer(accepted, lambda: _accepted(accepted))


def _accepted(receipt: dict[str, Any]) -> str:
    again = " (it was published before)" if receipt.get("duplicate") else ""
    where = f"{printable(receipt['channel'])} {receipt['sequence']}"
    return f"published {printable(receipt['id'])} as {where} at {text('timestamp', receipt['timestamp'])}{again}"
