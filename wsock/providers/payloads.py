"""What is common to the forms in which the platforms take a notification."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from typing import Any

from wsock.interfaces import PushMessage

__all__ = ["collapse_key", "from_base64url", "merged", "remaining_seconds", "to_base64url"]

_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")


def merged(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """The base with the override's members; an object in both is merged the same way. Neither is changed."""
    result = dict(base)
    for name, value in override.items():
        before = result.get(name)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        result[name] = merged(before, value) if both else value  # type: ignore[arg-type]  # both are mappings
    return result


def remaining_seconds(message: PushMessage, now: float) -> int | None:
    """How long the message may still wait for its device; ``None`` when its time is over.

    A message that is for now or never, with a ttl of 0, is sent the first time and whenever a service said "later":
    the services themselves drop it when the device is away.
    """
    if message.ttl_seconds == 0:
        return 0
    left = message.ttl_seconds - int(max(0.0, now - message.created / 1000))
    return left if left > 0 else None


def collapse_key(collapse: str, most: int) -> str:
    """A name of at most so many characters of base64url that is the same for the same ``collapse``."""
    if len(collapse) <= most and _BASE64URL.fullmatch(collapse):
        return collapse
    return to_base64url(hashlib.sha256(collapse.encode("utf-8", "surrogatepass")).digest())[:most]


def to_base64url(data: bytes) -> str:
    """Without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def from_base64url(text: str) -> bytes:
    """What the text stands for, with or without padding. Raises ``ValueError``."""
    bare = text.rstrip("=")
    if not _BASE64URL.fullmatch(bare):
        raise ValueError("it is not base64url")
    return base64.urlsafe_b64decode(bare + "=" * (-len(bare) % 4))
