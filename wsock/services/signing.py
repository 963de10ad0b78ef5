"""What a webhook request says and is signed with: Standard Webhooks 1.0, and a plain HMAC of the body beside it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from wsock.interfaces import Delivery, OutboxRow
from wsock.records import Endpoint

__all__ = ["body_of", "headers_of", "message_id", "secrets_of"]

_BATCH = "batch"
_PREFIX = "whsec_"

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


def message_id(deliveries: Sequence[Delivery]) -> str:
    """The ``webhook-id``: the same for every attempt, so that a receiver knows what it has seen.

    An event has the same one for all endpoints of its app.
    """
    first = deliveries[0]
    event = first.row.event
    parts = ("batch", event.app, first.batch) if first.batch else ("event", event.app, event.id)
    return f"msg_{hashlib.sha256(chr(0).join(parts).encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def body_of(deliveries: Sequence[Delivery]) -> bytes:
    """The body: an event, or a batch of them. It is the same bytes for every attempt."""
    first = deliveries[0].row
    if not deliveries[0].batch:
        return _encode(_told(first))
    events = [_told(delivery.row) for delivery in deliveries]
    data = {"appId": first.event.app, "events": events}
    return _encode({"type": _BATCH, "timestamp": _iso(max(one.row.created for one in deliveries)), "data": data})


def _told(row: OutboxRow) -> dict[str, Any]:
    event = row.event
    data: dict[str, Any] = {"appId": event.app}
    if event.channel:
        data["channel"] = event.channel
    return {"type": event.type, "timestamp": _iso(row.created), "data": _decode(event.data) | data}


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def secrets_of(endpoint: Endpoint, now: float) -> list[str]:
    """What requests are signed with now: the secret, and for a time the one before it."""
    has_old = endpoint.old_secret and now * 1000 < (endpoint.old_secret_until or 0)
    return [endpoint.secret, endpoint.old_secret] if has_old else [endpoint.secret]


def headers_of(id: str, now: float, body: bytes, secrets: Sequence[str]) -> dict[str, str]:
    """The headers of an attempt. The plain signature is by the first secret, as it is written, alone."""
    timestamp = str(int(now))
    signed = b"%s.%s." % (id.encode(), timestamp.encode()) + body
    signatures = [base64.b64encode(hmac.digest(_key(secret), signed, "sha256")).decode() for secret in secrets]
    return {
        "content-type": "application/json",
        "webhook-id": id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
        "x-wsocket-signature": hmac.digest(secrets[0].encode(), body, "sha256").hex(),
    }


def _key(secret: str) -> bytes:
    """The bytes that a secret stands for; a text that is no base64 stands for itself."""
    try:
        return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        return secret.encode()
