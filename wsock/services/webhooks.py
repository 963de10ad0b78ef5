"""Webhooks: where apps want to be told of events, with what the requests are signed, and what was delivered.

What is delivered, and how, is decided elsewhere; who is told of what, by :mod:`wsock.services.outbox`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from wsock.errors import Code, Conflict, Refused, Unavailable
from wsock.interfaces import (
    Blocked,
    Delivery,
    DeliveryPage,
    DeliveryQuery,
    DeliveryState,
    Event,
    IOutboxStore,
    IRecords,
    OutboxRow,
)
from wsock.protocol.codec import encode
from wsock.records import App, Endpoint, Listing
from wsock.services.access import Access, Actor
from wsock.services.audit import Audit
from wsock.services.changes import change
from wsock.services.checks import check_pattern, check_text
from wsock.services.events import EVENT_TYPES
from wsock.services.quotas import require_room
from wsock.services.roles import Permission

__all__ = ["MAX_OVERLAP_SECONDS", "TEST", "NewWebhook", "Webhooks", "new_webhook_secret"]

MAX_OVERLAP_SECONDS = 30 * 86_400
"""How long a secret may be good beside its successor."""
TEST = "webhook.test"
"""The type of the event that tries an endpoint."""

_MAX_ENDPOINTS = 100
_MAX_EVENTS = 50
_AT_ONCE = 500
_SECRET_BYTES = 32
_MAX_URL = 2048
_SWITCHED_OFF = "switched off by an administrator"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class NewWebhook:
    """An endpoint with a secret that was just made, which is shown this once."""

    endpoint: Endpoint
    secret: str


class Webhooks:
    """Makes, shows, changes and deletes endpoints; tries them, and delivers again.

    ``check_url`` raises :class:`Blocked` for a URL that would never be asked, as far as its text tells. ``wake`` is
    called when there is something to be delivered.
    """

    def __init__(
        self,
        records: IRecords,
        audit: Audit,
        now: Callable[[], float],
        random: Callable[[int], bytes],
        store: IOutboxStore,
        check_url: Callable[[str], object],
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._records = records
        self._audit = audit
        self._now = now
        self._random = random
        self._store = store
        self._check_url = check_url
        self._wake = wake
        self._access = Access(records)

    # Endpoints.

    async def create(
        self,
        actor: Actor,
        app: str,
        url: str,
        events: Sequence[str] = (),
        *,
        channels: str | None = None,
        is_ordered: bool = False,
        is_batched: bool = False,
        description: str = "",
    ) -> NewWebhook:
        """A new endpoint. Raises :class:`Refused` with ``quota_exceeded`` beyond what the app's plan allows."""
        owner = await self._access.require_app(actor, Permission.WEBHOOKS_WRITE, app)
        secret = new_webhook_secret(self._random)
        endpoint = Endpoint(
            id=f"wh_{self._random(8).hex()}",
            app=app,
            url=self._checked_url(url),
            created_at=self._milliseconds(),
            events=_checked_events(events),
            channels=None if channels is None else check_pattern("channels", channels),
            is_ordered=is_ordered,
            is_batched=is_batched,
            description=_checked_description(description),
            secret=secret,
        )
        await self._require_room(owner)
        await self._records.add([endpoint])
        await self._record(actor, "webhook.create", owner, endpoint)
        return NewWebhook(endpoint=endpoint, secret=secret)

    async def webhooks(self, actor: Actor, app: str, cursor: str | None, limit: int) -> Listing[Endpoint]:
        """The endpoints of the app, those that are switched off too."""
        await self._access.require_app(actor, Permission.WEBHOOKS_READ, app)
        return await self._records.page(Endpoint, {"app": app}, cursor, limit)

    async def webhook(self, actor: Actor, app: str, id: str) -> Endpoint:
        """The endpoint."""
        await self._access.require_app(actor, Permission.WEBHOOKS_READ, app)
        return await self._found(app, id)

    async def update(
        self,
        actor: Actor,
        app: str,
        id: str,
        *,
        url: str | UnsetType = UNSET,
        events: Sequence[str] | UnsetType = UNSET,
        channels: str | None | UnsetType = UNSET,
        is_ordered: bool | UnsetType = UNSET,
        is_batched: bool | UnsetType = UNSET,
        is_enabled: bool | UnsetType = UNSET,
        description: str | UnsetType = UNSET,
        version: int | None = None,
    ) -> Endpoint:
        """Changes what is given; what waits to be delivered goes to the URL as it is then.

        Raises :class:`Conflict` when a ``version`` is given and is not the last.
        """
        owner = await self._access.require_app(actor, Permission.WEBHOOKS_WRITE, app)
        known = await self._found(app, id)
        changes: dict[str, Any] = {}
        if url is not UNSET:
            changes["url"] = self._checked_url(url)
        if events is not UNSET:
            changes["events"] = _checked_events(events)
        if channels is not UNSET:
            changes["channels"] = None if channels is None else check_pattern("channels", channels)
        if is_ordered is not UNSET:
            changes["is_ordered"] = is_ordered
        if is_batched is not UNSET:
            changes["is_batched"] = is_batched
        if description is not UNSET:
            changes["description"] = _checked_description(description)
        if is_enabled is not UNSET and is_enabled != known.is_enabled:
            changes |= {"is_enabled": is_enabled, "disabled_at": None, "disabled_reason": ""}
            if not is_enabled:
                changes |= {"disabled_at": self._milliseconds(), "disabled_reason": _SWITCHED_OFF}
        new = replace(known, **changes, version=version or known.version)
        stored = await self._records.replace(new)
        await self._record(actor, "webhook.update", owner, new, changed=", ".join(changes))
        self._wake()
        return stored

    async def delete(self, actor: Actor, app: str, id: str) -> None:
        """Deletes the endpoint, with all that was delivered or waits for it."""
        owner = await self._access.require_app(actor, Permission.WEBHOOKS_WRITE, app)
        endpoint = await self._found(app, id)
        await self._records.remove(Endpoint, id)
        await self._record(actor, "webhook.delete", owner, endpoint)
        while await self._store.remove(id, _AT_ONCE) == _AT_ONCE:
            pass

    async def rotate(self, actor: Actor, app: str, id: str, overlap_seconds: int) -> NewWebhook:
        """A new secret; for so long requests are signed with the one before as well.

        A secret that was rotated out earlier is good no more.
        """
        owner = await self._access.require_app(actor, Permission.WEBHOOKS_WRITE, app)
        if not 0 <= overlap_seconds <= MAX_OVERLAP_SECONDS:
            raise Refused(Code.BAD_REQUEST, f"'overlapSeconds' takes 0 to {MAX_OVERLAP_SECONDS}")
        await self._found(app, id)
        secret = new_webhook_secret(self._random)

        def rotated(endpoint: Endpoint) -> Endpoint:
            if not overlap_seconds:
                return replace(endpoint, secret=secret, old_secret="", old_secret_until=None)
            until = self._milliseconds() + overlap_seconds * 1000
            return replace(endpoint, secret=secret, old_secret=endpoint.secret, old_secret_until=until)

        stored = await change(self._records, Endpoint, id, rotated)
        await self._record(actor, "webhook.rotate", owner, stored, overlap=str(overlap_seconds))
        return NewWebhook(endpoint=stored, secret=secret)

    # Deliveries.

    async def test(self, actor: Actor, app: str, id: str) -> Delivery:
        """Sends an event that says that this is a test, whatever the endpoint is told of otherwise.

        Raises :class:`Conflict` for an endpoint that is switched off.
        """
        owner = await self._access.require_app(actor, Permission.WEBHOOKS_WRITE, app)
        endpoint = await self._found(app, id)
        if not endpoint.is_enabled:
            raise Conflict(f"the webhook '{id}' is switched off ({endpoint.disabled_reason}): enable it first")
        data = encode({"webhookId": id, "text": "This is a test.", "timestamp": self._milliseconds()})
        event = Event(id=f"evt_{self._random(8).hex()}", app=app, channel="", type=TEST, data=data)
        # Neither in order nor in a batch: a test must not wait for what is to be found out by it.
        await self._store.add([OutboxRow(event, id, self._now())])
        await self._record(actor, "webhook.test", owner, endpoint)
        self._wake()
        page = await self._store.page(DeliveryQuery(endpoint=id), None, _AT_ONCE)
        for delivery in page.items:
            if delivery.row.event.id == event.id:
                return delivery
        raise Unavailable("the test was sent, and can't be shown yet: see the webhook's deliveries")

    async def deliveries(
        self, actor: Actor, app: str, id: str, states: tuple[DeliveryState, ...], cursor: str | None, limit: int
    ) -> DeliveryPage:
        """What was delivered, waits, or was given up, the newest first; every state without any.

        Raises ``ValueError`` for a cursor that is none.
        """
        await self._access.require_app(actor, Permission.WEBHOOKS_READ, app)
        await self._found(app, id)
        query = DeliveryQuery(endpoint=id, states=states) if states else DeliveryQuery(endpoint=id)
        return await self._store.page(query, cursor, limit)

    async def redeliver(
        self,
        actor: Actor,
        app: str,
        id: str,
        *,
        delivery: str | None = None,
        since: int | None = None,
        until: int | None = None,
        is_all: bool = False,
    ) -> int:
        """Delivers again, with the same ids: one, or all that were given up and happened in that time.

        ``is_all``: also those that arrived. The times are in milliseconds. Returns how many. Raises :class:`Refused`
        with ``not_found`` when there is no such delivery, and :class:`Conflict` when it waits already.
        """
        owner = await self._access.require_app(actor, Permission.WEBHOOKS_WRITE, app)
        endpoint = await self._found(app, id)
        if (delivery is None) == (since is None):
            raise Refused(Code.BAD_REQUEST, "the body takes one of 'deliveryId' and 'since' (perhaps with 'until')")
        if delivery is not None:
            await self._require_settled(endpoint, delivery)
            query = DeliveryQuery(endpoint=id, id=delivery)
        else:
            assert since is not None
            query = DeliveryQuery(
                endpoint=id,
                states=("done", "dead") if is_all else ("dead",),
                since=since / 1000,
                until=None if until is None else until / 1000,
            )
        total = count = await self._store.redeliver(query, self._now(), _AT_ONCE)
        while count == _AT_ONCE:
            count = await self._store.redeliver(query, self._now(), _AT_ONCE)
            total += count
        await self._record(actor, "webhook.redeliver", owner, endpoint, count=str(total))
        self._wake()
        return total

    async def _require_settled(self, endpoint: Endpoint, delivery: str) -> None:
        found = (await self._store.page(DeliveryQuery(endpoint=endpoint.id, id=delivery), None, 1)).items
        if not found:
            raise Refused(Code.NOT_FOUND, f"there is no delivery with the id '{delivery}' to this webhook")
        if found[0].state == "pending":
            raise Conflict(f"the delivery '{delivery}' waits for its next attempt already")

    # Checks.

    async def _require_room(self, app: App) -> None:
        used = len((await self._records.page(Endpoint, {"app": app.id}, None, _MAX_ENDPOINTS)).items)
        await require_room(self._records, app.plan, "webhooks", used)
        if used == _MAX_ENDPOINTS:
            text = f"an app has at most {_MAX_ENDPOINTS} webhooks: delete one, or let one receive what several do"
            raise Refused(Code.LIMIT_EXCEEDED, text)

    def _checked_url(self, url: str) -> str:
        check_text("url", url, _MAX_URL)
        try:
            self._check_url(url)
        except Blocked as e:
            raise Refused(Code.BAD_REQUEST, f"'url': {e.reason}") from e
        return url

    async def _found(self, app: str, id: str) -> Endpoint:
        endpoint = await self._records.find(Endpoint, id)
        if endpoint is None or endpoint.app != app:
            raise Refused(Code.NOT_FOUND, f"there is no webhook with the id '{id}' in this app")
        return endpoint

    async def _record(self, actor: Actor, action: str, app: App, endpoint: Endpoint, **details: str) -> None:
        target = endpoint.id
        await self._audit.record(actor, action, team=app.team, app=app.id, target=target, url=endpoint.url, **details)

    def _milliseconds(self) -> int:
        return int(self._now() * 1000)


def new_webhook_secret(random: Callable[[int], bytes]) -> str:
    """A secret as Standard Webhooks writes it."""
    return f"whsec_{base64.b64encode(random(_SECRET_BYTES)).decode()}"


def _checked_events(events: Sequence[str]) -> tuple[str, ...]:
    """Types of events, or prefixes of some. Raises :class:`Refused`."""
    if len(events) > _MAX_EVENTS:
        raise Refused(Code.BAD_REQUEST, f"'events' takes at most {_MAX_EVENTS} types")
    for type in events:
        prefix = type.removesuffix("*")
        is_pattern = prefix != type and prefix.endswith(".") and any(one.startswith(prefix) for one in EVENT_TYPES)
        if type not in EVENT_TYPES and type != "*" and not is_pattern:
            known = ", ".join(EVENT_TYPES)
            raise Refused(Code.BAD_REQUEST, f"'events': there is no '{type}'; it takes {known}, and 'presence.*'")
    return tuple(dict.fromkeys(events))


def _checked_description(text: str) -> str:
    return check_text("description", text) if text else text
