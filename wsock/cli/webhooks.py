"""``wsock webhook``: where an app is told what happens in it."""

from __future__ import annotations

from typing import Any

import click

from wsock.cli.kinds import LENGTH, Moment, confirm
from wsock.cli.output import column
from wsock.cli.remote import Remote, about_app, limited, yes_option

__all__ = ["webhook"]

_COLUMNS = (
    column("id"),
    column("url", is_whole=True),
    column("enabled"),
    column("ordered"),
    column("channels"),
    column("description"),
    column("created", "createdAt"),
    column("why it is off", "disabledReason"),
)
_DELIVERIES = (
    column("id"),
    column("type"),
    column("channel"),
    column("state"),
    column("tries"),
    column("created", "createdAt"),
    column("next", "nextAt"),
    column("status"),
    column("error", is_whole=True),
)
_events = click.option(
    "--event", "events", multiple=True, metavar="TYPE", help="What it is told of, such as 'presence.*'; repeatable."
)
_channels = click.option("--channels", metavar="PATTERN", help="Events of other channels are not told.")
_ordered = click.option("--ordered/--unordered", default=None, help="Each channel's events one after the other.")
_batched = click.option("--batched/--single", default=None, help="Several events in a request.")
_description = click.option("--description", help="What it is for.")
_target = click.option("--to", "target", metavar="URL", help="Another URL.")


@click.group()
def webhook() -> None:
    """Webhooks: where an app is told by HTTP what happens in it."""


@webhook.command("list")
@limited
@about_app
def list_webhooks(server: Remote, limit: int) -> None:
    """Lists the webhooks of an app."""
    server.output.rows(server.api.pages(server.in_app("webhooks"), limit), _COLUMNS)


@webhook.command("create")
@click.argument("target", metavar="URL")
@_events
@_channels
@_ordered
@_batched
@_description
@about_app
def create_webhook(server: Remote, target: str, **given: Any) -> None:
    """Makes a webhook; its secret is shown once. Without --event it is told everything."""
    _show_new(server, server.api.post(server.in_app("webhooks"), _body({"target": target, **given})))


def _body(given: dict[str, Any]) -> dict[str, Any]:
    named = {"url": given["target"], **{name: value for name, value in given.items() if name != "target"}}
    body = {name: value for name, value in named.items() if value is not None and name != "events"}
    return {**body, **({"events": list(given["events"])} if given["events"] else {})}


def _show_new(server: Remote, made: dict[str, Any]) -> None:
    if server.output.as_json:
        server.output.json(made)
    else:
        shown = {name: value for name, value in made.items() if name != "secret"}
        server.output.secrets(shown, {"secret": made.get("secret")})


@webhook.command("show")
@click.argument("id")
@about_app
def show_webhook(server: Remote, id: str) -> None:
    """Shows a webhook, without its secret."""
    server.output.object(server.api.get(server.in_app("webhooks", id)))


@webhook.command("update")
@click.argument("id")
@_target
@_events
@_channels
@_ordered
@_batched
@_description
@click.option("--enable/--disable", "enabled", default=None, help="Switches it on or off.")
@about_app
def update_webhook(server: Remote, id: str, **given: Any) -> None:
    """Changes a webhook, or switches it on or off."""
    body = _body(given)
    if not body:
        raise click.UsageError("there is nothing to change: give --to, --event, --channels, --enable, --disable, ...")
    server.output.object(server.api.patch(server.in_app("webhooks", id), body))


@webhook.command("rotate")
@click.argument("id")
@click.option("--overlap", type=LENGTH, default="1d", show_default=True, help="How long both secrets sign.")
@about_app
def rotate_webhook(server: Remote, id: str, overlap: int) -> None:
    """Makes a new secret, which is shown once; for a while requests carry the signatures of both."""
    _show_new(server, server.api.post(server.in_app("webhooks", id, "rotate"), {"overlapSeconds": overlap}))


@webhook.command("delete")
@click.argument("id")
@yes_option
@about_app
def delete_webhook(server: Remote, id: str, yes: bool) -> None:
    """Deletes a webhook, with what waits for it."""
    confirm(f"Delete the webhook {id}? What waits for it is not delivered.", yes)
    server.output.done(server.api.delete(server.in_app("webhooks", id)), f"deleted {id}")


@webhook.command("test")
@click.argument("id")
@about_app
def test_webhook(server: Remote, id: str) -> None:
    """Sends a test event; 'wsock webhook deliveries' tells what became of it."""
    server.output.object(server.api.post(server.in_app("webhooks", id, "test"), {}))


@webhook.command("deliveries")
@click.argument("id")
@click.option("--state", type=click.Choice(["pending", "done", "dead"]), help="Only those.")
@limited
@about_app
def deliveries(server: Remote, id: str, state: str | None, limit: int) -> None:
    """Lists what was delivered, waits, or was given up, the newest first, with the last attempt."""
    found = server.api.pages(server.in_app("webhooks", id, "deliveries"), limit, state=state)
    shown = found if server.output.as_json else {**found, "items": list(map(_with_last, found["items"]))}
    server.output.rows(shown, _DELIVERIES)


def _with_last(delivery: dict[str, Any]) -> dict[str, Any]:
    last = delivery["attempts"][-1] if delivery["attempts"] else {"status": None, "error": None}
    return {**delivery, "status": last["status"], "error": last["error"]}


@webhook.command("redeliver")
@click.argument("id")
@click.option("--delivery", metavar="ID", help="This one.")
@click.option("--since", type=Moment(), help="All that were given up since then, such as 24h.")
@click.option("--until", type=Moment(), help="And before that.")
@click.option("--all", "is_all", is_flag=True, help="Also those that arrived.")
@about_app
def redeliver(
    server: Remote, id: str, delivery: str | None, since: int | None, until: int | None, is_all: bool
) -> None:
    """Delivers again: one, or those that were given up since a time."""
    if (delivery is None) == (since is None):
        raise click.UsageError("give either --delivery or --since")
    given = {"deliveryId": delivery, "since": since, "until": until, "all": is_all or None}
    body = {name: value for name, value in given.items() if value is not None}
    made = server.api.post(server.in_app("webhooks", id, "redeliver"), body)
    server.output.done(made, f"delivering {made.get('redelivered', 0)} again")
