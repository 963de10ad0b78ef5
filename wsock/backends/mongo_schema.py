"""The collections of a MongoDB and their indexes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "ACCOUNTS",
    "APPS",
    "COUNTERS",
    "CREATIONS",
    "ENDPOINTS",
    "INDEXES",
    "KEYS",
    "MESSAGES",
    "OUTBOX",
    "Index",
]

MESSAGES = "message"
APPS = "app"
KEYS = "key"
ACCOUNTS = "account"
CREATIONS = "creation"
ENDPOINTS = "endpoint"
OUTBOX = "outbox"
COUNTERS = "counter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """An index of a collection: the fields, ascending, and MongoDB's options."""

    collection: str
    name: str
    fields: Sequence[str]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def document(self) -> dict[str, Any]:
        """What ``createIndexes`` takes."""
        return {"name": self.name, "key": dict.fromkeys(self.fields, 1), **self.options}


INDEXES = (
    # A message is stored once, however often it is appended.
    Index(
        collection=MESSAGES,
        name="position",
        fields=("app", "channel", "epoch", "sequence"),
        options={"unique": True},
    ),
    # Pages: in the order in which they are read, so that nothing is sorted, and without what is no history.
    Index(collection=MESSAGES, name="history", fields=("app", "channel", "persist", "timestamp", "epoch", "sequence")),
    # What is too old in an app, those that do not persist apart from those that do.
    Index(collection=MESSAGES, name="age", fields=("app", "persist", "timestamp")),
    # MongoDB deletes by itself what carries a time that has come.
    Index(collection=MESSAGES, name="expiry", fields=("expires_at",), options={"expireAfterSeconds": 0}),
    # Several keys may have no API key: their documents lack the field, and a sparse index leaves them out.
    Index(collection=KEYS, name="api_key_hash", fields=("api_key_hash",), options={"unique": True, "sparse": True}),
    Index(collection=ACCOUNTS, name="email", fields=("folded_email",), options={"unique": True}),
    Index(collection=ENDPOINTS, name="app", fields=("app",)),
    # An endpoint is told of an event once, however often that is recorded.
    Index(collection=OUTBOX, name="event", fields=("app", "event", "endpoint"), options={"unique": True}),
    Index(collection=OUTBOX, name="order", fields=("app", "number")),
)
