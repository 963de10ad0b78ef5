"""The meters of a cluster, in MongoDB.

A part of a span is a document, and a sample is added to four of them, one after the other. Each remembers the last
number of every node that added to it: so what is repeated, because it is not known how far the first attempt came, is
added to those documents only that did not have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from pymongo import UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError
from zope.interface import implementer

from wsock.backends.mongo_database import MongoDatabase
from wsock.backends.mongo_schema import METER_CLAIMS, METER_REPORTS, METERS
from wsock.interfaces import Bucket, IMeterStore, NodeReport, Sample
from wsock.measures import Span

__all__ = ["MongoMeters"]

_Document = dict[str, Any]

_DUPLICATE = 11000
_VALUES = {"counts": 1, "peaks": 1, "start": 1, "app": 1}
_DAY = 86_400_000


@implementer(IMeterStore)
class MongoMeters:
    """Keeps them, on the majority's disks when ``add`` returns."""

    def __init__(self, database: MongoDatabase) -> None:
        self._database = database

    async def add(self, node: str, number: int, at: int, samples: Sequence[Sample]) -> None:
        """Adds samples to the parts of all spans, to each of them once."""
        if samples:
            await self._database.write(partial(_add, node, number, at, samples))

    async def buckets(self, apps: Sequence[str], span: Span, start: int) -> dict[str, Bucket]:
        """The parts of these apps."""
        ids = [_id(app, span, start) for app in apps]
        found = await self._database.read(partial(_find, {"_id": {"$in": ids}}, len(ids))) if ids else []
        return {document["app"]: _bucket(document) for document in found}

    async def series(self, app: str, span: Span, since: int, until: int, limit: int) -> list[Bucket]:
        """The parts of an app, the oldest first."""
        wanted = {"app": app, "span": span.value, "start": {"$gte": since, "$lt": until}}
        return [_bucket(document) for document in await self._database.read(partial(_find, wanted, limit))]

    async def report(self, report: NodeReport) -> None:
        """Replaces the node's report."""
        await self._database.write(partial(_report, report))

    async def withdraw(self, node: str) -> None:
        """The node has none any more."""
        await self._database.write(partial(_delete, METER_REPORTS, {"_id": node}))

    async def reports(self, since: int) -> list[NodeReport]:
        """The reports of that time and later."""
        return await self._database.read(partial(_reports, since))

    async def claim(self, app: str, what: str, period: int) -> bool:
        """Whether nobody claimed it before."""
        return await self._database.write(partial(_claim, {"_id": f"{period}:{what}:{app}", "period": period}))

    async def expire(self, span: Span, before: int, limit: int) -> int:
        """Deletes old parts."""
        return await self._database.write(partial(_expire, {"span": span.value, "start": {"$lt": before}}, limit))

    async def forget(self, before: int, periods_before: int) -> None:
        """Forgets claims, reports and numbers."""
        await self._database.write(partial(_delete, METER_CLAIMS, {"period": {"$lt": periods_before}}))
        await self._database.write(partial(_delete, METER_REPORTS, {"at": {"$lt": before}}))
        await self._database.write(partial(_forget_numbers, before))


def _id(app: str, span: Span, start: int) -> str:
    return f"{span}:{start}:{app}"


async def _add(node: str, number: int, at: int, samples: Sequence[Sample], database: Any) -> None:
    updates = [_update(node, number, span, span.start(at), sample) for span in Span for sample in samples]
    taken = await _write([UpdateOne(*update, upsert=True) for update in updates], database)
    if taken:
        # Another node made the document at the same moment, or it has this number already: the filter tells which.
        await _write([UpdateOne(*updates[index]) for index in taken], database)


def _update(node: str, number: int, span: Span, start: int, sample: Sample) -> tuple[_Document, _Document]:
    update: _Document = {
        "$setOnInsert": {"app": sample.app, "span": span.value, "start": start},
        "$set": {f"numbers.{node}": number},
        "$inc": {f"counts.{name}": count for name, count in sample.counts.items()},
        "$max": {f"peaks.{name}": peak for name, peak in sample.peaks.items()},
    }
    wanted = {"_id": _id(sample.app, span, start), f"numbers.{node}": {"$not": {"$gte": number}}}
    return wanted, {operator: values for operator, values in update.items() if values}


async def _write(updates: list[UpdateOne], database: Any) -> list[int]:
    """Which of the updates found their document's id taken."""
    try:
        await database[METERS].bulk_write(updates, ordered=False)
    except BulkWriteError as e:
        details: Any = e.details
        if details["writeConcernErrors"] or any(error["code"] != _DUPLICATE for error in details["writeErrors"]):
            raise
        return [error["index"] for error in details["writeErrors"]]
    return []


async def _find(wanted: _Document, limit: int, database: Any) -> list[_Document]:
    cursor = database[METERS].find(wanted, projection=_VALUES, limit=limit)
    cursor.sort([("start", 1)])
    found: list[_Document] = await cursor
    return found


async def _report(report: NodeReport, database: Any) -> None:
    # The ids of apps may be what MongoDB does not take in the name of a field.
    values = {"at": report.at, "connections": [list(pair) for pair in report.connections.items()]}
    await database[METER_REPORTS].update_one({"_id": report.node}, {"$set": values}, upsert=True)


async def _reports(since: int, database: Any) -> list[NodeReport]:
    found = await database[METER_REPORTS].find({"at": {"$gte": since}})
    return [NodeReport(one["_id"], one["at"], dict(one["connections"])) for one in found]


async def _claim(document: _Document, database: Any) -> bool:
    try:
        await database[METER_CLAIMS].insert_one(document)
    except DuplicateKeyError:
        return False
    return True


async def _expire(wanted: _Document, limit: int, database: Any) -> int:
    found = await database[METERS].find(wanted, projection={"_id": 1}, limit=limit)
    if not found:
        return 0
    result = await database[METERS].delete_many({"_id": {"$in": [document["_id"] for document in found]}})
    return int(result.deleted_count)


async def _delete(collection: str, wanted: _Document, database: Any) -> None:
    await database[collection].delete_many(wanted)


async def _forget_numbers(before: int, database: Any) -> None:
    """Of the parts in which many nodes may have come and gone; what is repeated is never that old."""
    ended = {"span": Span.DAY.value, "start": {"$gte": before - 3 * _DAY, "$lt": before - _DAY}}
    await database[METERS].update_many({**ended, "numbers": {"$exists": True}}, {"$unset": {"numbers": ""}})
    wanted = {"span": Span.MONTH.value, "start": {"$gte": Span.MONTH.start(before)}}
    for document in await database[METERS].find(wanted, projection={"numbers": 1}):
        old = {f"numbers.{node}": "" for node, number in document.get("numbers", {}).items() if number < before}
        if old:
            await database[METERS].update_one({"_id": document["_id"]}, {"$unset": old})


def _bucket(document: _Document) -> Bucket:
    # A 64-bit number comes as bson's own kind of int, which JSON encoders don't know.
    counts, peaks = ({name: int(n) for name, n in document.get(part, {}).items()} for part in ("counts", "peaks"))
    return Bucket(int(document["start"]), counts, peaks)
