"""``wsock push``: devices, pushes to them, and what an app pushes with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from wsock.cli.kinds import LENGTH, confirm, json_or_text
from wsock.cli.output import Column, Row, column
from wsock.cli.remote import Remote, about_app, limited, yes_option

__all__ = ["push"]

_PLATFORM = click.Choice(["web", "fcm", "apns"])
_URGENCIES = ("very-low", "low", "normal", "high")


def _channels(row: Row) -> str:
    return ", ".join(row.get("channels") or ()) or "-"


def _details(row: Row) -> str:
    return "; ".join(f"{name} {value}" for name, value in (row.get("details") or {}).items()) or "-"


_DEVICES = (
    column("id", "subscriptionId", is_whole=True),
    column("member", "memberId", is_whole=True),
    column("platform"),
    Column(title="channels", cell=_channels),
    column("registered", "updatedAt"),
)
_CREDENTIALS = (column("platform"), Column(title="details", cell=_details), column("created", "createdAt"))
_RULES = (column("id"), column("pattern", is_whole=True), column("created", "createdAt"))
_JOBS = (
    column("id"),
    column("state"),
    column("title"),
    column("total"),
    column("sent"),
    column("failed"),
    column("created", "createdAt"),
)
_RESULTS = (
    column("id", "subscriptionId", is_whole=True),
    column("member", "memberId", is_whole=True),
    column("platform"),
    column("success"),
    column("error", is_whole=True),
)


@click.group()
def push() -> None:
    """Notifications to phones and browsers."""


@push.command("send")
@click.argument("title")
@click.argument("body", required=False)
@click.option("--member", "members", multiple=True, help="Whom to; may be given several times.")
@click.option("--channel", help="Only devices that want this channel's pushes.")
@click.option("--everyone", is_flag=True, help="All devices of the app.")
@click.option("--data", help="What the app gets besides, as JSON or text.")
@click.option("--open", "link", metavar="URL", help="What opens when it is clicked.")
@click.option("--ttl", type=LENGTH, help="How long it may wait for a device, such as 1h.")
@click.option("--urgency", type=click.Choice(_URGENCIES), help="How soon a device is to be woken for it.")
@click.option("--collapse", help="A name: it replaces one of this name that was not delivered.")
@about_app
def send(server: Remote, title: str, **given: Any) -> None:
    """Pushes to members, to a channel, or to everyone."""
    if not (given["members"] or given["channel"] or given["everyone"]):
        raise click.UsageError("for whom is it? Give --member, --channel or --everyone")
    payload = {"title": title, "body": given["body"], "url": given["link"]}
    payload |= {name: given[name] for name in ("ttl", "urgency", "collapse")}
    payload["data"] = None if given["data"] is None else json_or_text(given["data"])
    body: dict[str, Any] = {"payload": {name: value for name, value in payload.items() if value is not None}}
    if given["members"]:
        body["memberIds"] = list(given["members"])
    if given["channel"]:
        body["channel"] = given["channel"]
    if given["everyone"]:
        body["broadcast"] = True
    _show_sent(server, server.api.post(server.in_app("push", "send"), body))


def _show_sent(server: Remote, answer: dict[str, Any]) -> None:
    if server.output.as_json:
        server.output.json(answer)
        return
    if answer.get("results"):
        server.output.rows({"items": answer["results"], "next": None}, _RESULTS)
    later = f"; {answer['queued']} go on as {answer['jobId']}" if answer.get("jobId") else ""
    click.echo(f"sent {answer.get('sent', 0)}, failed {answer.get('failed', 0)}{later}")


@push.command("devices")
@click.option("--member", help="Only this member's.")
@click.option("--platform", type=_PLATFORM, help="Only those of this platform.")
@click.option("--channel", help="Only those that want this channel's pushes.")
@limited
@about_app
def devices(server: Remote, limit: int, member: str | None, platform: str | None, channel: str | None) -> None:
    """Lists devices."""
    path = server.in_app("push", "subscriptions")
    items: list[Row] = []
    cursor: str | None = None
    while True:
        wanted = min(1000, limit - len(items)) if limit else 1000
        page = server.api.get(path, memberId=member, platform=platform, channel=channel, cursor=cursor, limit=wanted)
        items += page.get("subscriptions", [])
        cursor = page.get("next")
        if not cursor or (limit and len(items) >= limit):
            break
    server.output.rows({"items": items, "next": cursor}, _DEVICES)


@push.command("forget")
@click.argument("id", required=False)
@click.option("--member", help="All devices of this member instead.")
@click.option("--platform", type=_PLATFORM, help="With --member: only those of this platform.")
@about_app
def forget(server: Remote, id: str | None, member: str | None, platform: str | None) -> None:
    """Forgets a device, or a member's devices: nothing is pushed to them."""
    if (id is None) == (member is None):
        raise click.UsageError("give either the id of a device, or --member")
    if id is not None:
        server.api.delete(server.in_app("push", "subscriptions", id))
        server.output.done(None, f"forgot {id}")
        return
    body = {"memberId": member, "platform": platform}
    answer = server.api.post(server.in_app("push", "unregister"), body)
    server.output.done(answer, f"forgot {answer.get('removed', 0)} devices of {member}")


@push.command("stats")
@about_app
def stats(server: Remote) -> None:
    """Counts devices, and this month's pushes."""
    server.output.object(server.api.get(server.in_app("push", "stats"))["stats"])


@push.command("jobs")
@limited
@about_app
def jobs(server: Remote, limit: int) -> None:
    """Lists pushes to many devices, the newest first."""
    server.output.rows(server.api.pages(server.in_app("push", "jobs"), limit), _JOBS)


@push.command("job")
@click.argument("id")
@click.option("--cancel", is_flag=True, help="End it.")
@about_app
def job(server: Remote, id: str, cancel: bool) -> None:
    """Shows how far a push to many devices is, or ends it."""
    path = server.in_app("push", "jobs", id)
    server.output.object(server.api.post(f"{path}/cancel") if cancel else server.api.get(path))


@push.group("rule")
def rule() -> None:
    """Channels whose messages are pushed to members who are not there."""


@rule.command("list")
@limited
@about_app
def list_rules(server: Remote, limit: int) -> None:
    """Lists push rules."""
    server.output.rows(server.api.pages(server.in_app("push", "rules"), limit), _RULES)


@rule.command("create")
@click.argument("pattern")
@about_app
def create_rule(server: Remote, pattern: str) -> None:
    """Lets messages with a 'push' object be pushed, in channels that match PATTERN."""
    server.output.object(server.api.post(server.in_app("push", "rules"), {"pattern": pattern}))


@rule.command("delete")
@click.argument("id")
@about_app
def delete_rule(server: Remote, id: str) -> None:
    """Deletes a push rule."""
    server.output.done(server.api.delete(server.in_app("push", "rules", id)), f"deleted {id}")


@push.group("credentials")
def credentials() -> None:
    """What the app shows to push services."""


@credentials.command("list")
@about_app
def list_credentials(server: Remote) -> None:
    """Lists the platforms that there are credentials for."""
    server.output.rows(server.api.pages(server.in_app("push", "credentials"), 0), _CREDENTIALS)


@credentials.command("web")
@click.option("--subject", help="Whom push services can turn to: a mailto: or https: URL.")
@about_app
def web(server: Remote, subject: str | None) -> None:
    """Makes keys for Web Push (VAPID), or gives those there are another subject."""
    _put(server, "web", {"subject": subject} if subject else {})


@credentials.command("fcm")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@about_app
def fcm(server: Remote, file: Path) -> None:
    """Sets the service account for Firebase: FILE is the JSON that Google's console gives."""
    try:
        account = json.loads(file.read_text("utf-8"))
    except ValueError as e:
        raise click.UsageError(f"{file}: this is no JSON") from e
    _put(server, "fcm", {"serviceAccount": account})


@credentials.command("apns")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--key-id", required=True, help="The key's id, 10 characters.")
@click.option("--team-id", required=True, help="The team's id, 10 characters.")
@click.option("--topic", required=True, help="The app's bundle id.")
@click.option("--sandbox", is_flag=True, help="Builds for development.")
@about_app
def apns(server: Remote, file: Path, key_id: str, team_id: str, topic: str, sandbox: bool) -> None:
    """Sets the key for Apple's push service: FILE is the .p8 file of the developer site."""
    try:
        private_key = file.read_text("utf-8")
    except UnicodeDecodeError as e:
        raise click.UsageError(f"{file}: this is no text, and so no .p8 file") from e
    body = {"privateKey": private_key, "keyId": key_id, "teamId": team_id, "topic": topic}
    _put(server, "apns", body | {"environment": "sandbox" if sandbox else "production"})


@credentials.command("delete")
@click.argument("platform", type=_PLATFORM)
@yes_option
@about_app
def delete_credentials(server: Remote, platform: str, yes: bool) -> None:
    """Forgets the credentials for a platform."""
    confirm(f"Forget the credentials for {platform}? Browsers would have to subscribe again.", yes)
    server.output.done(
        server.api.delete(server.in_app("push", "credentials", platform)), f"forgot those for {platform}"
    )


def _put(server: Remote, platform: str, body: dict[str, Any]) -> None:
    answer = server.api.put(server.in_app("push", "credentials", platform), body)
    if server.output.as_json:
        server.output.json(answer)
    else:
        server.output.object({**{k: v for k, v in answer.items() if k != "details"}, **(answer.get("details") or {})})
