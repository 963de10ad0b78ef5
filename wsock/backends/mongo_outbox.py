"""What the webhooks of a cluster are to be told, in MongoDB, and what became of it.

A row is one document, unique by (app, event, endpoint), so that adding may be repeated after any failure. The rows
have numbers, which a counter gives out: they are the order of addition, whichever node adds. What several nodes
might do at once is decided by one update of one document: who changes it first has it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from bson import ObjectId
from pymongo import ReturnDocument, UpdateOne
from pymongo.errors import BulkWriteError
from zope.interface import implementer

from wsock.backends.mongo_database import MongoDatabase
from wsock.backends.mongo_schema import COUNTERS, OUTBOX
from wsock.backends.outbox_rows import (
    BATCH_SECONDS,
    BATCHED,
    KEPT_ATTEMPTS,
    LANES_LOOKED_AT,
    ORDERED,
    PLAIN,
    batch_of,
    due_of,
    first_batch,
    flags_of,
    kind_of,
    number_of,
)
from wsock.interfaces import (
    Agendum,
    Attempt,
    Delivery,
    DeliveryPage,
    DeliveryQuery,
    Event,
    IOutboxStore,
    OutboxRow,
    Verdict,
)

__all__ = ["MongoOutbox"]

_Document = dict[str, Any]

_DUPLICATE = 11000
_BATCH_ROWS, _BATCH_BYTES = 1000, 4 * 1024 * 1024
_AGENDUM = {"_id": 0, "app": 1, "endpoint": 1, "due": 1}
_ROWS_READ = 100
_HEAD = {"_id": 0, "channel": 1, "number": 1, "due": 1}
_DELIVERY = {"_id": 0, "attempts": 0}


@implementer(IOutboxStore)
class MongoOutbox:
    """Keeps rows, on the majority's disks when ``add`` returns."""

    def __init__(self, database: MongoDatabase) -> None:
        self._database = database
        self._turns: dict[str, str] = {}

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

    async def agenda(self, after: str, limit: int) -> list[Agendum]:
        """What is pending for whom: see :class:`IOutboxStore`."""
        return await self._database.read(partial(_agenda, after, limit))

    async def claim(self, owner: str, endpoint: str, now: float, lease_seconds: float, limit: int) -> list[Delivery]:
        """Gives out deliveries: see :class:`IOutboxStore`."""

        async def claim(database: Any) -> list[Delivery]:
            outbox = database[OUTBOX]
            taking = _Taking(outbox, owner, endpoint, now, now + lease_seconds)
            await taking.take(await _due_numbers(outbox, endpoint, PLAIN, now, limit))
            if len(taking.taken) < limit:
                await taking.take(await self._heads(outbox, endpoint, now, limit - len(taking.taken)))
            if len(taking.taken) < limit:
                await taking.take_batch(limit - len(taking.taken))
            return taking.taken

        return await self._database.write(claim)

    async def _heads(self, outbox: Any, endpoint: str, now: float, limit: int) -> list[int]:
        """The first pending one of each channel, where it is due, from behind the channel that had its turn last."""
        found: list[int] = []
        looked_at = 0
        async for head in _lanes(outbox, endpoint, self._turns.pop(endpoint, None)):
            looked_at += 1
            self._turns[endpoint] = head["channel"]
            if head["due"] <= now:
                found.append(head["number"])
            if len(found) >= limit or looked_at >= LANES_LOOKED_AT:
                break
        return found

    async def release(self, now: float) -> None:
        """Ends all leases: see :class:`IOutboxStore`."""

        async def release(database: Any) -> None:
            leased = {"state": "pending", "owner": {"$ne": ""}}
            await database[OUTBOX].update_many(leased, {"$set": {"owner": "", "due": now}})

        await self._database.write(release)

    async def settle(self, owner: str, verdicts: Sequence[Verdict]) -> None:
        """Says what becomes of claimed deliveries: see :class:`IOutboxStore`."""
        if verdicts:
            await self._database.write(partial(_settle, [_settling(owner, verdict) for verdict in verdicts]))

    async def page(self, query: DeliveryQuery, cursor: str | None, limit: int) -> DeliveryPage:
        """The deliveries that are asked for: see :class:`IOutboxStore`."""
        behind = None if cursor is None else number_of(cursor)
        if cursor is not None and behind is None:
            raise ValueError("this is no cursor of a list of deliveries")
        return await self._database.read(partial(_page, _filter(query, behind), limit))

    async def redeliver(self, query: DeliveryQuery, now: float, limit: int) -> int:
        """Makes settled deliveries pending again: see :class:`IOutboxStore`."""
        states = tuple(state for state in query.states if state != "pending")
        wanted = _filter(msgspec.structs.replace(query, states=states))
        fresh = {"state": "pending", "due": now, "settled": 0.0, "tries": 0, "owner": "", "batch": ""}
        return await self._database.write(partial(_change_some, wanted, {"$set": fresh}, limit))

    async def bury(self, endpoint: str, reason: str, now: float, limit: int) -> int:
        """Gives up what is due: see :class:`IOutboxStore`."""
        wanted = {"state": "pending", "endpoint": endpoint, "due": {"$lte": now}}
        change = {"$set": {"state": "dead", "settled": now, "owner": ""}, "$push": _log(Attempt(now, 0, 0, "", reason))}
        return await self._database.write(partial(_change_some, wanted, change, limit))

    async def remove(self, endpoint: str, limit: int) -> int:
        """Deletes what there is for an endpoint: see :class:`IOutboxStore`."""
        return await self._database.write(partial(_delete_some, {"endpoint": endpoint}, limit))

    async def expire(self, before: float, limit: int) -> int:
        """Deletes what was settled before: see :class:`IOutboxStore`."""
        wanted = {"state": {"$in": ["done", "dead"]}, "settled": {"$lt": before}}
        return await self._database.write(partial(_delete_some, wanted, limit))


class _Taking:
    """One claim: what was ``taken`` so far. Its rows carry its name: so it finds those that it got."""

    def __init__(self, outbox: Any, owner: str, endpoint: str, now: float, lease: float) -> None:
        self._outbox = outbox
        self._owner = owner
        self._endpoint = endpoint
        self._now = now
        self._claim = {"owner": owner, "due": lease, "claim": str(ObjectId())}
        self.taken: list[Delivery] = []

    async def take(self, numbers: list[int], due: float | None = None, batch: str = "") -> None:
        """Takes those of the rows that nobody else has taken."""
        if not numbers:
            return
        limit = self._now if due is None else due
        wanted = {"number": {"$in": numbers}, "state": "pending", "due": {"$lte": limit}, "batch": ""}
        await self._outbox.update_many(wanted, {"$set": {**self._claim, "batch": batch}})
        await self._find({"number": {"$in": numbers}})

    async def take_batch(self, limit: int) -> None:
        """Takes a whole batch: an earlier one, or one that is made of what waits."""
        wanted = {"state": "pending", "endpoint": self._endpoint, "kind": BATCHED, "due": {"$lte": self._now}}
        first = await _first(self._outbox, wanted, {"_id": 0, "batch": 1}, [("due", 1), ("number", 1)])
        if first is None:
            return
        if first["batch"]:
            await self._take_again(first["batch"])
            return
        wanted |= {"batch": "", "due": {"$lte": self._now + BATCH_SECONDS}}
        columns = {"_id": 0, "number": 1, "size": 1}
        waiting = await _all(self._outbox, wanted, columns, [("due", 1), ("number", 1)], limit)
        numbers = first_batch(((one["number"], one["size"]) for one in waiting), limit)
        if numbers:
            name = batch_of(self._owner, numbers[0], self._now)
            await self.take(numbers, self._now + BATCH_SECONDS, name)

    async def _take_again(self, batch: str) -> None:
        """The whole batch, or nothing: who has its first row has it."""
        wanted = {"endpoint": self._endpoint, "batch": batch, "state": "pending"}
        first = await _first(self._outbox, wanted, {"_id": 0, "number": 1}, [("number", 1)])
        if first is None:
            return
        due = {"due": {"$lte": self._now}}
        has_first = await self._outbox.update_one({"number": first["number"], **wanted, **due}, {"$set": self._claim})
        if has_first.matched_count:
            await self._outbox.update_many({**wanted, **due}, {"$set": self._claim})
            await self._find({"endpoint": self._endpoint, "batch": batch})

    async def _find(self, wanted: dict[str, Any]) -> None:
        mine = {**wanted, "claim": self._claim["claim"]}
        found = await _all(self._outbox, mine, _DELIVERY, [("number", 1)], 0)
        self.taken += (_delivery(document) for document in found)


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
    wanted = {"app": app, "state": "pending"}
    return [_row(one) for one in await _all(database[OUTBOX], wanted, {"_id": 0}, [("number", 1)], limit)]


async def _all(
    outbox: Any, wanted: Mapping[str, Any], columns: Mapping[str, int], order: list[tuple[str, int]], limit: int
) -> list[_Document]:
    cursor = outbox.find(wanted, projection=columns, limit=limit, batch_size=limit or 1000)
    cursor.sort(order)
    return [document async for batch in cursor.batches() for document in batch]


async def _first(
    outbox: Any, wanted: Mapping[str, Any], columns: Mapping[str, int], order: list[tuple[str, int]]
) -> _Document | None:
    found = await _all(outbox, wanted, columns, order, 1)
    return found[0] if found else None


async def _agenda(after: str, limit: int, database: Any) -> list[Agendum]:
    """Endpoint by endpoint: what is pending for one is not read to find the next."""
    outbox = database[OUTBOX]
    found: list[Agendum] = []
    while len(found) < limit:
        wanted = {"state": "pending", "endpoint": {"$gt": after}}
        first = await _first(outbox, wanted, _AGENDUM, [("endpoint", 1), ("due", 1)])
        if first is None:
            break
        after = first["endpoint"]
        found.append(Agendum(first["app"], after, first["due"]))
    return found


async def _due_numbers(outbox: Any, endpoint: str, kind: int, now: float, limit: int) -> list[int]:
    wanted = {"state": "pending", "endpoint": endpoint, "kind": kind, "due": {"$lte": now}}
    found = await _all(outbox, wanted, {"_id": 0, "number": 1}, [("due", 1), ("number", 1)], limit)
    return [one["number"] for one in found]


async def _lanes(outbox: Any, endpoint: str, last: str | None) -> AsyncIterator[_Document]:
    """The first pending one of each channel: all of them once, round from behind the last one."""
    channel: dict[str, str] = {"$gte": ""} if last is None else {"$gt": last}
    has_turned = last is None
    while True:
        wanted = {"state": "pending", "endpoint": endpoint, "kind": ORDERED, "channel": channel}
        # Many channels have one row each, and some have many: those are passed over with the next question.
        rows = await _all(outbox, wanted, _HEAD, [("channel", 1), ("number", 1)], _ROWS_READ)
        for head in _first_of_each(rows):
            if has_turned and last is not None and head["channel"] > last:
                return
            yield head
            channel = {"$gt": head["channel"]}
        if len(rows) < _ROWS_READ:
            if has_turned:
                return
            has_turned, channel = True, {"$gte": ""}


def _first_of_each(rows: Iterable[_Document]) -> Iterable[_Document]:
    heads: dict[str, _Document] = {}
    for row in rows:
        heads.setdefault(row["channel"], row)
    return heads.values()


def _settling(owner: str, verdict: Verdict) -> UpdateOne:
    settled = 0.0 if verdict.state == "pending" else verdict.at
    change: dict[str, Any] = {
        "$set": {"state": verdict.state, "due": verdict.due, "settled": settled, "owner": ""},
    }
    if verdict.attempt is not None:
        change |= {"$inc": {"tries": 1}, "$push": _log(verdict.attempt)}
    return UpdateOne({"number": number_of(verdict.id), "owner": owner, "state": "pending"}, change)


async def _settle(changes: list[UpdateOne], database: Any) -> None:
    await database[OUTBOX].bulk_write(changes, ordered=False)


def _log(attempt: Attempt) -> dict[str, Any]:
    return {"attempts": {"$each": [msgspec.to_builtins(attempt)], "$slice": -KEPT_ATTEMPTS}}


async def _page(wanted: Mapping[str, Any], limit: int, database: Any) -> DeliveryPage:
    found = await _all(database[OUTBOX], wanted, {"_id": 0}, [("number", -1)], limit + 1)
    items = [_delivery(document) for document in found[:limit]]
    return DeliveryPage(items, items[-1].id if len(found) > limit else None)


def _filter(query: DeliveryQuery, behind: int | None = None) -> dict[str, Any]:
    created = {"$gte": query.since, "$lt": query.until}
    terms: dict[str, Any] = {"endpoint": query.endpoint, "state": {"$in": list(query.states)}}
    if query.since is not None or query.until is not None:
        terms["created"] = {name: value for name, value in created.items() if value is not None}
    if query.id is not None:
        terms["number"] = number_of(query.id)
    elif behind is not None:
        terms["number"] = {"$lt": behind}
    return terms


async def _some(outbox: Any, wanted: Mapping[str, Any], limit: int) -> dict[str, Any]:
    """The filter for the first of what is wanted."""
    found = await _all(outbox, wanted, {"_id": 0, "number": 1}, [("number", 1)], limit)
    return {**wanted, "number": {"$in": [one["number"] for one in found]}}


async def _change_some(wanted: Mapping[str, Any], change: Mapping[str, Any], limit: int, database: Any) -> int:
    changed = await database[OUTBOX].update_many(await _some(database[OUTBOX], wanted, limit), change)
    return int(changed.matched_count)


async def _delete_some(wanted: Mapping[str, Any], limit: int, database: Any) -> int:
    deleted = await database[OUTBOX].delete_many(await _some(database[OUTBOX], wanted, limit))
    return int(deleted.deleted_count)


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
        "kind": kind_of(row),
        "state": "pending",
        "due": due_of(row),
        "tries": 0,
        "owner": "",
        "batch": "",
        "settled": 0.0,
        "size": len(event.data),
        "data": event.data,
        "attempts": [],
    }


def _row(document: _Document) -> OutboxRow:
    event = Event(
        id=document["event"],
        app=document["app"],
        channel=document["channel"],
        type=document["type"],
        data=document["data"],
    )
    return OutboxRow(event, document["endpoint"], document["created"], *flags_of(document["kind"]))


def _delivery(document: _Document) -> Delivery:
    return Delivery(
        id=str(document["number"]),
        row=_row(document),
        state=document["state"],
        due=document["due"],
        tries=document["tries"],
        batch=document["batch"],
        settled=document["settled"],
        attempts=msgspec.convert(document.get("attempts", ()), tuple[Attempt, ...]),
    )
