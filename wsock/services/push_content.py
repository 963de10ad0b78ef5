"""What a push says, as people write it: in the fields that SDKs send, and in the ``push`` object of a message."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from wsock.errors import Code, Refused
from wsock.interfaces import PushMessage

__all__ = ["MAX_CONTENT", "PushContent", "push_message"]

MAX_CONTENT = 16_384
"""Bytes of JSON that the content may have. The platforms take less, each in its own form."""

_LONGEST_SECONDS = 2_419_200

Urgency = Literal["very-low", "low", "normal", "high"]
Override = Annotated[dict[str, Any] | None, Meta(description="Merged into what this platform alone is sent.")]


class PushContent(msgspec.Struct, kw_only=True, rename="camel", frozen=True):
    """A notification. Unknown fields are ignored, and null is as good as nothing.

    ``ttl`` is how many seconds it may wait for its device, 28 days at most. A later one with the same ``collapse``
    replaces one that was not delivered. ``web``, ``fcm`` and ``apns`` are merged into what these platforms are sent.
    """

    title: str | None = None
    body: str | None = None
    icon: str | None = None
    image: str | None = None
    badge: str | int | None = None
    url: str | None = None
    data: Any = None
    ttl: Annotated[float | None, Meta(description="How many seconds it may wait for its device.")] = None
    urgency: Urgency | None = None
    collapse: str | None = None
    web: Override = None
    fcm: Override = None
    apns: Override = None


def push_message(content: PushContent, id: str, created: int) -> PushMessage:
    """The message with this content. Raises :class:`Refused` for one that says nothing or too much."""
    if not content.title:
        raise Refused(Code.BAD_REQUEST, "a push takes a 'title'")
    size = len(msgspec.json.encode(content))
    if size > MAX_CONTENT:
        raise Refused(Code.TOO_LARGE, f"the push has {size} bytes of JSON, more than {MAX_CONTENT}")
    ttl = _LONGEST_SECONDS if content.ttl is None else int(max(0, min(content.ttl, _LONGEST_SECONDS)))
    return PushMessage(
        id=id,
        created=created,
        title=content.title,
        body=content.body or "",
        icon=content.icon or "",
        image=content.image or "",
        badge="" if content.badge is None else str(content.badge),
        url=content.url or "",
        data=content.data,
        ttl_seconds=ttl,
        urgency=content.urgency or "normal",
        collapse=content.collapse or "",
        web=content.web or {},
        fcm=content.fcm or {},
        apns=content.apns or {},
    )
