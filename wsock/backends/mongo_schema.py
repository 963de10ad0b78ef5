"""The collections of a MongoDB and their indexes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wsock.records import KINDS, Kind

__all__ = [
    "ACCOUNTS",
    "APPS",
    "AUDIT",
    "COUNTERS",
    "CREATIONS",
    "ENDPOINTS",
    "INDEXES",
    "KEYS",
    "MESSAGES",
    "OUTBOX",
    "VERSIONS",
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
AUDIT = "audit"
VERSIONS = "version"


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


def _record_indexes(kind: Kind) -> list[Index]:
    """What is unique, and what lists and the deletion of an owner look for."""
    unique = [
        Index(
            collection=kind.name,
            name="_".join(unique.fields),
            fields=unique.columns,
            # What may be empty is left out of the documents, and a sparse index leaves those out.
            options={"unique": True} | ({"sparse": True} if unique.may_be_empty else {}),
        )
        for unique in kind.unique
    ]
    lists = [Index(collection=kind.name, name=name, fields=(name,)) for name in (*kind.owners, *kind.lists)]
    swept = [Index(collection=kind.name, name="expiry", fields=("expires_at",))] if kind.is_swept else []
    return [*unique, *lists, *swept]


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
    *(index for kind in KINDS.values() for index in _record_indexes(kind)),
    # An endpoint is told of an event once, however often that is recorded.
    Index(collection=OUTBOX, name="event", fields=("app", "event", "endpoint"), options={"unique": True}),
    Index(collection=OUTBOX, name="order", fields=("app", "number")),
    *(
        Index(collection=AUDIT, name=name, fields=fields)
        for name, fields in {
            "time": ("at", "_id"),
            "team": ("team", "at", "_id"),
            "app": ("app", "at", "_id"),
            "actor": ("actor", "at", "_id"),
        }.items()
    ),
)
