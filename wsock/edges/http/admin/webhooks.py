"""Webhooks of apps, and what was delivered to them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from wsock.edges.http.operations import (
    Answer,
    Body,
    Call,
    Group,
    Items,
    Milliseconds,
    NoBody,
    NoQuery,
    Page,
    Version,
    operation,
)
from wsock.errors import Code, Malformed
from wsock.interfaces import Delivery, DeliveryState
from wsock.records import Endpoint
from wsock.services.roles import Permission
from wsock.services.webhooks import MAX_OVERLAP_SECONDS, NewWebhook, Webhooks

__all__ = ["WebhookGroup"]

Url = Annotated[str, Meta(max_length=2048, description="Where the requests go, by HTTPS.")]
Types = Annotated[
    list[Annotated[str, Meta(max_length=100)]],
    Meta(max_length=50, description="What it is told of, such as `message.published` or `presence.*`; empty: all."),
]
Channels = Annotated[str, Meta(max_length=255, description="A pattern: events of other channels are not told.")] | None
Description = Annotated[str, Meta(max_length=255)]
Ordered = Annotated[bool, Meta(description="Whether each channel's events are told one after the other.")]
Batched = Annotated[bool, Meta(description="Whether a request may tell several events at once.")]

_WRITE = Permission.WEBHOOKS_WRITE
_PATH = "/api/admin/apps/{appId}/webhooks"


class NewWebhookBody(Body, frozen=True):
    """An endpoint that is to be."""

    url: Url
    events: Types = []
    channels: Channels = None
    ordered: Ordered = False
    batched: Batched = False
    description: Description = ""


class WebhookChange(Body, frozen=True):
    """What is to be otherwise; null takes away."""

    url: Url | UnsetType = UNSET
    events: Types | UnsetType = UNSET
    channels: Channels | UnsetType = UNSET
    ordered: Ordered | UnsetType = UNSET
    batched: Batched | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    version: Version | None = None


class SecretRotation(Body, frozen=True):
    """How long requests are signed with the old secret as well."""

    overlap_seconds: Annotated[int, Meta(ge=0, le=MAX_OVERLAP_SECONDS)] = 86_400


class Redelivery(Body, frozen=True):
    """What is to be delivered again: one delivery, or those of events ``since`` a time and before ``until``.

    Of those, the dead ones; with ``all`` also those that arrived.
    """

    delivery_id: Annotated[str, Meta(max_length=100)] | None = None
    since: Milliseconds | None = None
    until: Milliseconds | None = None
    all: bool = False


class WebhookAnswer(Answer, frozen=True):
    """An endpoint, without its secrets. Where it is not ``enabled``, ``disabled_reason`` says why."""

    id: str
    url: str
    events: list[str]
    channels: str | None
    ordered: bool
    batched: bool
    description: str
    enabled: bool
    disabled_at: int | None
    disabled_reason: str | None
    old_secret_until: int | None
    created_at: int
    version: int


class CreatedWebhook(WebhookAnswer, frozen=True):
    """An endpoint with a secret that was just made, and is shown this once."""

    secret: str


class AttemptAnswer(Answer, frozen=True):
    """An attempt: ``status`` is the answer's, null when there was none; ``body`` is the first 1 KB of it."""

    at: int
    milliseconds: int
    status: int | None
    body: str
    error: str | None


class DeliveryAnswer(Answer, frozen=True):
    """An event that was told, or is to be.

    ``tries`` are those since it was added, or asked for again; ``next_at`` is when the next one is due.
    """

    id: str
    event_id: str
    type: str
    channel: str | None
    state: DeliveryState
    created_at: int
    next_at: int | None
    settled_at: int | None
    tries: int
    attempts: list[AttemptAnswer]


class Redelivered(Answer, frozen=True):
    """How many deliveries are attempted again."""

    redelivered: int


class Deliveries(Page, frozen=True):
    """Which deliveries are asked for."""

    state: Annotated[
        Literal["pending", "done", "dead"] | None,
        Meta(description="`pending` waits for its next attempt, `done` arrived, `dead` was given up."),
    ] = None


class WebhookGroup(Group):
    """Webhooks."""

    tag = "Webhooks"
    about = "Where an app is told by HTTP what happens in it, and what became of each request."

    def __init__(self, webhooks: Webhooks) -> None:
        self._webhooks = webhooks

    @operation("GET", _PATH, needs=Permission.WEBHOOKS_READ)
    async def webhooks(self, call: Call[NoBody, Page]) -> Items[WebhookAnswer]:
        """Lists the webhooks of an app."""
        page = await self._webhooks.webhooks(call.actor, call.path["appId"], call.query.cursor, call.query.limit)
        return Items([_answer(endpoint) for endpoint in page.items], page.next)

    @operation(
        "POST",
        _PATH,
        status=201,
        needs=_WRITE,
        errors=(Code.CONFLICT, Code.LIMIT_EXCEEDED, Code.QUOTA_EXCEEDED),
    )
    async def create(self, call: Call[NewWebhookBody, NoQuery]) -> CreatedWebhook:
        """Creates a webhook; its secret is shown this once."""
        body = call.body
        made = await self._webhooks.create(
            call.actor,
            call.path["appId"],
            body.url,
            body.events,
            channels=body.channels,
            is_ordered=body.ordered,
            is_batched=body.batched,
            description=body.description,
        )
        return _created(made)

    @operation("GET", f"{_PATH}/{{webhookId}}", needs=Permission.WEBHOOKS_READ)
    async def webhook(self, call: Call[NoBody, NoQuery]) -> WebhookAnswer:
        """Shows a webhook."""
        return _answer(await self._webhooks.webhook(call.actor, call.path["appId"], call.path["webhookId"]))

    @operation(
        "PATCH",
        f"{_PATH}/{{webhookId}}",
        needs=_WRITE,
        errors=(Code.CONFLICT,),
        example={"events": ["message.published"], "enabled": True},
    )
    async def update(self, call: Call[WebhookChange, NoQuery]) -> WebhookAnswer:
        """Changes a webhook, or switches it on or off; it takes effect within seconds."""
        body = call.body
        changed = await self._webhooks.update(
            call.actor,
            call.path["appId"],
            call.path["webhookId"],
            url=body.url,
            events=body.events,
            channels=body.channels,
            is_ordered=body.ordered,
            is_batched=body.batched,
            is_enabled=body.enabled,
            description=body.description,
            version=body.version,
        )
        return _answer(changed)

    @operation("DELETE", f"{_PATH}/{{webhookId}}", needs=_WRITE)
    async def delete(self, call: Call[NoBody, NoQuery]) -> None:
        """Deletes a webhook, with what waits for it and the log of what was delivered."""
        await self._webhooks.delete(call.actor, call.path["appId"], call.path["webhookId"])

    @operation(
        "POST",
        f"{_PATH}/{{webhookId}}/rotate",
        status=201,
        needs=_WRITE,
        errors=(Code.CONFLICT,),
        example={"overlapSeconds": 86400},
    )
    async def rotate(self, call: Call[SecretRotation, NoQuery]) -> CreatedWebhook:
        """Makes a new secret, which is shown this once; for so long requests carry the signatures of both."""
        made = await self._webhooks.rotate(
            call.actor, call.path["appId"], call.path["webhookId"], call.body.overlap_seconds
        )
        return _created(made)

    @operation("POST", f"{_PATH}/{{webhookId}}/test", status=202, needs=_WRITE, errors=(Code.CONFLICT,))
    async def test(self, call: Call[NoBody, NoQuery]) -> DeliveryAnswer:
        """Sends a `webhook.test` event; the list of deliveries tells what became of it."""
        return _delivery(await self._webhooks.test(call.actor, call.path["appId"], call.path["webhookId"]))

    @operation("GET", f"{_PATH}/{{webhookId}}/deliveries", needs=Permission.WEBHOOKS_READ)
    async def deliveries(self, call: Call[NoBody, Deliveries]) -> Items[DeliveryAnswer]:
        """Lists deliveries, the newest first, each with its attempts."""
        state = call.query.state
        try:
            page = await self._webhooks.deliveries(
                call.actor,
                call.path["appId"],
                call.path["webhookId"],
                () if state is None else (state,),
                call.query.cursor,
                call.query.limit,
            )
        except ValueError as e:
            raise Malformed(f"the query: 'cursor': {e}") from e
        return Items([_delivery(delivery) for delivery in page.items], page.next)

    @operation(
        "POST",
        f"{_PATH}/{{webhookId}}/redeliver",
        status=202,
        needs=_WRITE,
        errors=(Code.CONFLICT,),
        example={"since": 1767225600000},
    )
    async def redeliver(self, call: Call[Redelivery, NoQuery]) -> Redelivered:
        """Delivers again: one delivery by its id, or the dead ones since a time, with the same `webhook-id`."""
        body = call.body
        count = await self._webhooks.redeliver(
            call.actor,
            call.path["appId"],
            call.path["webhookId"],
            delivery=body.delivery_id,
            since=body.since,
            until=body.until,
            is_all=body.all,
        )
        return Redelivered(redelivered=count)


def _answer(endpoint: Endpoint) -> WebhookAnswer:
    return WebhookAnswer(**_values(endpoint))


def _created(made: NewWebhook) -> CreatedWebhook:
    return CreatedWebhook(**_values(made.endpoint), secret=made.secret)


def _values(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "id": endpoint.id,
        "url": endpoint.url,
        "events": list(endpoint.events),
        "channels": endpoint.channels,
        "ordered": endpoint.is_ordered,
        "batched": endpoint.is_batched,
        "description": endpoint.description,
        "enabled": endpoint.is_enabled,
        "disabled_at": endpoint.disabled_at,
        "disabled_reason": endpoint.disabled_reason or None,
        "old_secret_until": endpoint.old_secret_until,
        "created_at": endpoint.created_at,
        "version": endpoint.version,
    }


def _delivery(delivery: Delivery) -> DeliveryAnswer:
    event = delivery.row.event
    is_pending = delivery.state == "pending"
    return DeliveryAnswer(
        id=delivery.id,
        event_id=event.id,
        type=event.type,
        channel=event.channel or None,
        state=delivery.state,
        created_at=int(delivery.row.created * 1000),
        next_at=int(delivery.due * 1000) if is_pending else None,
        settled_at=None if is_pending else int(delivery.settled * 1000),
        tries=delivery.tries,
        attempts=[
            AttemptAnswer(
                at=int(attempt.at * 1000),
                milliseconds=attempt.milliseconds,
                status=attempt.status or None,
                body=attempt.body,
                error=attempt.error or None,
            )
            for attempt in delivery.attempts
        ],
    )
