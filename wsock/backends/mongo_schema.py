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
    "METERS",
    "METER_CLAIMS",
    "METER_REPORTS",
    "OUTBOX",
    "PUSH_DEVICES",
    "PUSH_JOBS",
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
METERS = "meter"
METER_REPORTS = "meter_report"
METER_CLAIMS = "meter_claim"
PUSH_DEVICES = "push_device"
PUSH_JOBS = "push_job"
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
    # What was claimed; what is due, and of what is ordered by channels the first; batches; lists; what has expired.
    Index(collection=OUTBOX, name="number", fields=("number",)),
    Index(collection=OUTBOX, name="due", fields=("state", "endpoint", "due")),
    Index(collection=OUTBOX, name="lane", fields=("state", "endpoint", "kind", "channel", "number")),
    Index(collection=OUTBOX, name="batch", fields=("endpoint", "batch", "number")),
    Index(collection=OUTBOX, name="list", fields=("endpoint", "state", "number")),
    Index(collection=OUTBOX, name="age", fields=("state", "settled")),
    *(
        Index(collection=AUDIT, name=name, fields=fields)
        for name, fields in {
            "time": ("at", "_id"),
            "team": ("team", "at", "_id"),
            "app": ("app", "at", "_id"),
            "actor": ("actor", "at", "_id"),
        }.items()
    ),
    # Charts of an app, and what has expired.
    Index(collection=METERS, name="series", fields=("app", "span", "start")),
    Index(collection=METERS, name="age", fields=("span", "start")),
    Index(collection=METER_REPORTS, name="age", fields=("at",)),
    Index(collection=METER_CLAIMS, name="age", fields=("period",)),
    # What a device is reached by is known once in an app; devices are read in the order of their ids.
    Index(collection=PUSH_DEVICES, name="reached", fields=("app", "reached"), options={"unique": True}),
    Index(collection=PUSH_DEVICES, name="id", fields=("app", "id"), options={"unique": True}),
    Index(collection=PUSH_DEVICES, name="member", fields=("app", "member", "id")),
    Index(collection=PUSH_DEVICES, name="channel", fields=("app", "channels", "id")),
    Index(collection=PUSH_DEVICES, name="platform", fields=("app", "platform", "id")),
    Index(collection=PUSH_JOBS, name="id", fields=("app", "id"), options={"unique": True}),
    Index(collection=PUSH_JOBS, name="due", fields=("state", "due")),
    Index(collection=PUSH_JOBS, name="end", fields=("finished_at",)),
)
