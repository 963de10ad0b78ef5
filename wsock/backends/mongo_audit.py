"""The audit log of a cluster, in MongoDB."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
from pymongo.errors import BulkWriteError
from zope.interface import implementer

from wsock.backends.mongo_database import MongoDatabase
from wsock.backends.mongo_schema import AUDIT
from wsock.interfaces import AuditPage, IAuditLog
from wsock.records import AuditEntry, AuditQuery

__all__ = ["MongoAudit"]

_Document = dict[str, Any]

_DUPLICATE = 11000


@implementer(IAuditLog)
class MongoAudit:
    """Keeps entries, on the majority's disks when ``append`` returns."""

    def __init__(self, database: MongoDatabase) -> None:
        self._database = database

    async def append(self, entries: Sequence[AuditEntry]) -> None:
        """Stores entries."""
        if entries:
            await self._database.write(partial(_insert, [_document(entry) for entry in entries]))

    async def page(self, query: AuditQuery, cursor: str | None, limit: int) -> AuditPage:
        """The entries that are asked for, the newest first."""
        wanted: _Document = dict(query.equals)
        times = {"$gte": query.since, "$lt": query.until}
        within = {operator: value for operator, value in times.items() if value is not None}
        if within:
            wanted["at"] = within
        if cursor is not None:
            at, id = AuditQuery.place(cursor)
            wanted["$or"] = [{"at": {"$lt": at}}, {"at": at, "_id": {"$lt": id}}]
        found = await self._database.read(partial(_page, wanted, limit + 1))
        return AuditPage(found[:limit], found[limit - 1].cursor if len(found) > limit else None)

    async def expire(self, before: int, limit: int) -> int:
        """Deletes entries older than ``before``."""
        return await self._database.write(partial(_expire, before, limit))


async def _insert(documents: list[_Document], database: Any) -> None:
    try:
        await database[AUDIT].insert_many(documents, ordered=False)
    except BulkWriteError as e:
        details: Any = e.details
        if details["writeConcernErrors"] or any(error["code"] != _DUPLICATE for error in details["writeErrors"]):
            raise


async def _page(wanted: _Document, limit: int, database: Any) -> list[AuditEntry]:
    cursor = database[AUDIT].find(wanted, limit=limit)
    cursor.sort([("at", -1), ("_id", -1)])
    return [_entry(document) for document in await cursor]


async def _expire(before: int, limit: int, database: Any) -> int:
    found = await database[AUDIT].find({"at": {"$lt": before}}, projection={"_id": 1}, limit=limit)
    if not found:
        return 0
    result = await database[AUDIT].delete_many({"_id": {"$in": [document["_id"] for document in found]}})
    return int(result.deleted_count)


def _document(entry: AuditEntry) -> _Document:
    document: _Document = msgspec.to_builtins(entry)
    # The names of details may be what MongoDB does not take in the name of a field.
    return {"_id": document.pop("id"), **document, "details": [list(pair) for pair in entry.details.items()]}


def _entry(document: _Document) -> AuditEntry:
    values = {**document, "id": document["_id"], "details": dict(document["details"])}
    return msgspec.convert(values, AuditEntry)
