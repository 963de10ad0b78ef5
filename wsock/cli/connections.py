"""``wsock connections`` and ``disconnect``."""

from __future__ import annotations

import click

from wsock.cli.kinds import confirm
from wsock.cli.output import column, number
from wsock.cli.remote import Remote, limited, with_key, yes_option

__all__ = ["connections", "disconnect"]

_COLUMNS = (
    column("id"),
    column("client", "clientId", is_whole=True),
    column("since", "connectedAt", is_whole=True),
    column("ip", is_whole=True),
    number("channels", "channelCount"),
    column("key", "keyId", is_whole=True),
    column("node"),
    column("agent", "userAgent"),
)


@click.command()
@click.argument("id", required=False)
@click.option("--client", metavar="CLIENT", help="Only those of this clientId.")
@click.option("--channel", metavar="CHANNEL", help="Only those that are subscribed to this channel.")
@limited
@with_key
def connections(server: Remote, id: str | None, client: str | None, channel: str | None, limit: int) -> None:
    """Lists the connections of an app, on all nodes, or shows the one with this ID and its channels."""
    if id is not None:
        server.output.object(server.api.get(server.live("connections", id)))
        return
    found = server.api.pages(server.live("connections"), limit, clientId=client, channel=channel)
    server.output.rows(found, _COLUMNS)


@click.command()
@click.argument("id", required=False)
@click.option("--client", metavar="CLIENT", help="All connections of this clientId instead.")
@click.option("--reason", help="What the client is told.")
@yes_option
@with_key
def disconnect(server: Remote, id: str | None, client: str | None, reason: str | None, yes: bool) -> None:
    """Ends a connection, or all of a client; 'wsock revoke client' keeps it from coming back."""
    if (id is None) == (client is None):
        raise click.UsageError("give the id of a connection, or --client")
    if id is not None:
        server.output.done(server.api.delete(server.live("connections", id), reason=reason), f"ended {id}")
        return
    if server.key:
        raise click.UsageError("--client takes a login or an access token: leave out WSOCK_KEY and --key-file")
    confirm(f"End all connections of {client}?", yes)
    body = {"clientId": client, **({"reason": reason} if reason else {})}
    ended = server.api.post(server.in_app("connections", "disconnect"), body)
    server.output.done(ended, f"ended {ended['disconnected']} of {client}")
    server.output.warn_of_parts(ended)
