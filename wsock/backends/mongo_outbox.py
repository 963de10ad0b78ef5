"""What the webhooks of a cluster are to be told, in MongoDB.

A row is one document, unique by (app, event, endpoint), so that adding may be repeated after any failure. The rows
have numbers, which a counter gives out: they are the order of addition, whichever node adds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from pymongo import ReturnDocument
from pymongo.errors import BulkWriteError
from zope.interface import implementer

from wsock.backends.mongo_database import MongoDatabase
from wsock.backends.mongo_schema import COUNTERS, OUTBOX
from wsock.interfaces import Event, IOutboxStore, OutboxRow

__all__ = ["MongoOutbox"]

_Document = dict[str, Any]

_DUPLICATE = 11000
_BATCH_ROWS, _BATCH_BYTES = 1000, 4 * 1024 * 1024


@implementer(IOutboxStore)
class MongoOutbox:
    """Keeps rows, on the majority's disks when ``add`` returns."""

    def __init__(self, database: MongoDatabase) -> None:
        self._database = database

    async def add(self, rows: list[OutboxRow]) -> None:
        """Stores the rows: see :class:`IOutboxStore`. What :class:`Unavailable` ends may be stored in part."""
        if not rows:
            return
        first = await self._database.write(partial(_reserve, len(rows)))
        for batch in _batches(_document(row, number) for number, row in enumerate(rows, first)):
            await self._database.write(partial(_insert, batch))

    async def pending(self, app: str, limit: int) -> list[OutboxRow]:
        """The first rows of an app: see :class:`IOutboxStore`."""
        return await self._database.read(partial(_pending, app, limit))


def _batches(documents: Iterable[_Document]) -> Iterator[list[_Document]]:
    """The documents in batches, each of which takes a fraction of the time that an operation has."""
    batch: list[_Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document["data"])
        if len(batch) >= _BATCH_ROWS or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


async def _reserve(count: int, database: Any) -> int:
    """The first of so many numbers, which nobody else has."""
    counter = await database[COUNTERS].find_one_and_update(
        {"_id": OUTBOX}, {"$inc": {"number": count}}, upsert=True, return_document=ReturnDocument.AFTER
    )
    return int(counter["number"]) - count + 1


async def _insert(documents: list[_Document], database: Any) -> None:
    try:
        await database[OUTBOX].insert_many(documents, ordered=False)
    except BulkWriteError as e:
        details: Any = e.details
        if details["writeConcernErrors"] or any(error["code"] != _DUPLICATE for error in details["writeErrors"]):
            raise


async def _pending(app: str, limit: int, database: Any) -> list[OutboxRow]:
    cursor = database[OUTBOX].find({"app": app}, projection={"_id": 0}, limit=limit, batch_size=limit)
    cursor.sort([("number", 1)])
    return [_row(document) async for batch in cursor.batches() for document in batch]


def _document(row: OutboxRow, number: int) -> _Document:
    event = row.event
    return {
        "number": number,
        "app": event.app,
        "event": event.id,
        "endpoint": row.endpoint,
        "channel": event.channel,
        "type": event.type,
        "created": row.created,
        "data": event.data,
    }


def _row(document: _Document) -> OutboxRow:
    event = Event(
        id=document["event"],
        app=document["app"],
        channel=document["channel"],
        type=document["type"],
        data=document["data"],
    )
    return OutboxRow(event, document["endpoint"], document["created"])
