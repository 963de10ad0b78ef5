"""``wsock audit``: what administrators did."""

from __future__ import annotations

from typing import Any

import click

from wsock.cli.api import at
from wsock.cli.kinds import Moment
from wsock.cli.output import column
from wsock.cli.remote import Remote, limited, remote

__all__ = ["audit"]

_COLUMNS = (
    column("at", is_whole=True),
    column("actor", is_whole=True),
    column("action", is_whole=True),
    column("target", is_whole=True),
    column("app"),
    column("team"),
    column("ip", is_whole=True),
    column("details"),
)


@click.command()
@click.option("--team", metavar="TEAM", help="What was done in this team (default: on the whole server).")
@click.option("--app", metavar="APP", help="Only what was done to this app.")
@click.option("--actor", metavar="ACCOUNT", help="Only what this account did.")
@click.option("--since", type=Moment(), help="From then on: a date and time, or 24h for so long ago.")
@click.option("--until", type=Moment(), help="Up to then.")
@limited
@remote
def audit(server: Remote, limit: int, **query: Any) -> None:
    """Shows what administrators did, the newest first."""
    server.output.rows(server.api.pages(at("admin", "audit"), limit, **query), _COLUMNS)
