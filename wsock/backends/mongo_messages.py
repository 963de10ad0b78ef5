"""The history of channels, in MongoDB.

A message is one document, unique by (app, channel, epoch, sequence), so that appending may be repeated after any
failure. Its data is kept as bytes: they come back as they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from typing import Any

import bson
from bson.errors import BSONError
from msgspec import Raw
from pymongo.errors import BulkWriteError
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from zope.interface import implementer

from wsock.backends.mongo_database import SYSTEMIC_CODES, MongoDatabase
from wsock.backends.mongo_schema import MESSAGES
from wsock.errors import Unavailable
from wsock.interfaces import IMessageStore, Rejected
from wsock.protocol.messages import HistoryQuery, Message, Page

__all__ = ["MongoMessages"]

_Document = dict[str, Any]

_DUPLICATE = 11000
_DOCUMENT_BYTES = 16 * 1024 * 1024
_LARGEST = (1 << 63) - 1
_LATEST_SECONDS = 253_402_300_799  # the last second of the year 9999
_FIELDS = dict.fromkeys(("id", "data", "timestamp", "publisher", "sequence", "epoch", "persist"), 1) | {"_id": 0}
_ORDER = ("timestamp", "epoch", "sequence")
_LOOKUPS_AT_ONCE = 8
# How many more are read than a page has, so that a few equal timestamps at its end cost no further query.
_AHEAD = 4

_Rejection = tuple[Message, str]


@implementer(IMessageStore)
class MongoMessages:
    """Keeps messages, each until its time has come.

    With ``ttl_seconds`` MongoDB deletes a message that long after its timestamp by itself, within a minute or so;
    ``expire`` deletes what is to go earlier.
    """

    def __init__(self, database: MongoDatabase, *, ttl_seconds: float | None = None) -> None:
        self._database = database
        self._ttl_ms = None if ttl_seconds is None else ttl_seconds * 1000

    async def append(self, app: str, messages: list[Message]) -> None:
        """Stores messages, on the majority's disks: see :class:`IMessageStore`.

        What :class:`Unavailable` ends may have been stored in part; it is repeated as a whole. Raises
        :class:`Rejected` for messages that MongoDB does not take, and for those whose place is taken by a
        message with another id; the others are stored then.
        """
        rejected: list[_Rejection] = []
        storable = []
        for message in messages:
            document = self._document(app, message)
            if reason := _unstorable(document):
                rejected.append((message, reason))
            else:
                storable.append((message, document))
        if storable:
            rejected += await self._insert(app, [message for message, _ in storable], [d for _, d in storable])
        if rejected:
            raise Rejected(rejected)

    async def page(self, app: str, channel: str, query: HistoryQuery) -> Page:
        """A page of the past: see :class:`IMessageStore`."""
        return await self._database.read(partial(_page, app, channel, query))

    async def expire(self, app: str, before: int, transient_before: int, limit: int) -> int:
        """Deletes old messages: see :class:`IMessageStore`."""
        deleted = 0
        for persist, bound in ((False, max(before, transient_before)), (True, before)):
            if deleted < limit:
                work = partial(_delete, app, persist, _clamped(bound), limit - deleted)
                deleted += await self._database.write(work)
        return deleted

    def _document(self, app: str, message: Message) -> _Document:
        document: _Document = {
            "app": app,
            "channel": message.channel,
            "epoch": message.epoch,
            "sequence": message.sequence,
            "timestamp": message.timestamp,
            "id": message.id,
            "publisher": message.publisher_id,
            "persist": message.persist,
            "data": bytes(message.data),
        }
        if self._ttl_ms is not None:
            document["expires_at"] = _date((message.timestamp + self._ttl_ms) / 1000)
        return document

    async def _insert(self, app: str, messages: Sequence[Message], documents: list[_Document]) -> list[_Rejection]:
        errors = await self._database.write(partial(_insert_many, documents))
        rejected: list[_Rejection] = []
        duplicates = []
        for error in errors:
            message = messages[error["index"]]
            if error["code"] == _DUPLICATE:
                duplicates.append(message)
            else:
                rejected.append((message, f"MongoDB rejects it: {_error_text(error)}"))
        return rejected + await self._conflicts(app, duplicates)

    async def _conflicts(self, app: str, duplicates: Sequence[Message]) -> list[_Rejection]:
        """Which of the messages, whose places are taken, are not the ones that are there."""
        places: dict[tuple[str, str], list[Message]] = {}
        for message in duplicates:
            places.setdefault((message.channel, message.epoch), []).append(message)
        lookups = DeferredSemaphore(_LOOKUPS_AT_ONCE)
        compared = await gatherResults(
            [lookups.run(self._compare, app, messages) for messages in places.values()], consumeErrors=True
        )
        return list(chain.from_iterable(compared))

    def _compare(self, app: str, messages: Sequence[Message]) -> Deferred[list[_Rejection]]:
        return Deferred.fromCoroutine(self._differing(app, messages))

    async def _differing(self, app: str, messages: Sequence[Message]) -> list[_Rejection]:
        """Which of the messages of one channel and epoch have other ids than what is stored in their places."""
        stored = await self._database.read(partial(_ids, app, messages))
        rejected: list[_Rejection] = []
        for message in messages:
            id = stored.get(message.sequence)
            if id is None:
                raise Unavailable("a stored message expired while it was compared; repeat the request")
            if id != message.id:
                place = f"{message.epoch}:{message.sequence} of channel {message.channel}"
                rejected.append((message, f"the place {place} is taken by the message {id}"))
        return rejected


def _unstorable(document: _Document) -> str | None:
    """Why the driver would not send it: one such document would hold up all that are sent with it."""
    try:
        size = len(bson.encode(document))
    except (BSONError, OverflowError, UnicodeError) as e:
        return f"it can't be written as BSON: {e}"
    if size > _DOCUMENT_BYTES - 64:  # the driver adds the _id
        return f"its document has {size} bytes, and MongoDB takes {_DOCUMENT_BYTES}"
    return None


def _date(seconds: float) -> datetime:
    return datetime.fromtimestamp(max(0.0, min(seconds, _LATEST_SECONDS)), UTC)


async def _insert_many(documents: list[_Document], database: Any) -> list[_Document]:
    """The errors of single documents; an error of all of them is raised."""
    try:
        await database[MESSAGES].insert_many(documents, ordered=False)
    except BulkWriteError as e:
        details: Any = e.details
        errors: list[_Document] = details["writeErrors"]
        if details["writeConcernErrors"] or any(error["code"] in SYSTEMIC_CODES for error in errors):
            raise
        return errors
    return []


async def _ids(app: str, messages: Sequence[Message], database: Any) -> dict[int, str]:
    """The ids that are stored at the places of the messages, which are of one channel and epoch, by sequence."""
    sequences = [message.sequence for message in messages]
    places = {"app": app, "channel": messages[0].channel, "epoch": messages[0].epoch, "sequence": {"$in": sequences}}
    found = await _find(database, places, {"sequence": 1, "id": 1})
    return {document["sequence"]: document["id"] for document in found}


async def _page(app: str, channel: str, query: HistoryQuery, database: Any) -> Page:
    after = None if query.after is None else _clamped(query.after)
    before = None if query.before is None else _clamped(query.before)
    is_forward = query.direction == "forward"
    select = partial(_select, database, app, channel, is_forward)
    rows = await select(after, before, query.limit + 1 + _AHEAD)
    if len(rows) <= query.limit:
        return Page(_messages(channel, rows), False)
    edge = rows[query.limit - 1]["timestamp"]
    end = next((n for n in range(query.limit, len(rows)) if rows[n]["timestamp"] != edge), None)
    if end is not None:
        return Page(_messages(channel, rows[:end]), True)
    if len(rows) <= query.limit + _AHEAD:
        return Page(_messages(channel, rows), False)
    complete = [row for row in rows if row["timestamp"] != edge] + await select(edge - 1, edge + 1, 0)
    beyond = await (select(edge, before, 1) if is_forward else select(after, edge, 1))
    return Page(_messages(channel, complete), bool(beyond))


async def _select(
    database: Any,
    app: str,
    channel: str,
    is_forward: bool,
    after: int | None,
    before: int | None,
    limit: int,
) -> list[_Document]:
    """Messages between two timestamps, exclusive both; a limit of 0 is none."""
    between = {"$gt": after, "$lt": before}
    bounds = {operator: bound for operator, bound in between.items() if bound is not None}
    wanted: _Document = {"app": app, "channel": channel, "persist": True}
    if bounds:
        wanted["timestamp"] = bounds
    direction = 1 if is_forward else -1
    return await _find(database, wanted, _FIELDS, dict.fromkeys(_ORDER, direction), limit)


async def _delete(app: str, persist: bool, before: int, limit: int, database: Any) -> int:
    """Deletes the oldest messages: a range of timestamps, and single ones of the last timestamp, to keep the limit."""
    old = {"app": app, "persist": persist, "timestamp": {"$lt": before}}
    found = await _find(database, old, {"timestamp": 1}, {"timestamp": 1}, limit)
    if not found:
        return 0
    edge = found[-1]["timestamp"]
    last = [document["_id"] for document in found if document["timestamp"] == edge]
    older = await database[MESSAGES].delete_many({**old, "timestamp": {"$lt": edge}})
    single = await database[MESSAGES].delete_many({"_id": {"$in": last}})
    return int(older.deleted_count + single.deleted_count)


async def _find(
    database: Any,
    wanted: _Document,
    fields: _Document,
    order: _Document | None = None,
    limit: int = 0,
) -> list[_Document]:
    """All documents that are wanted, in as many batches as it takes (each has 16 MB at most)."""
    cursor = database[MESSAGES].find(wanted, projection=fields, limit=limit, batch_size=limit)
    if order:
        cursor.sort(list(order.items()))
    return [document async for batch in cursor.batches() for document in batch]


def _messages(channel: str, rows: Iterable[_Document]) -> list[Message]:
    return [
        Message(
            channel,
            row["id"],
            Raw(row["data"]),
            int(row["timestamp"]),  # what the driver makes of a number is a subclass that not everybody takes
            row["publisher"],
            int(row["sequence"]),
            row["epoch"],
            row["persist"],
        )
        for row in rows
    ]


def _clamped(timestamp: int) -> int:
    """MongoDB's integers have 64 bits; a timestamp out of a request may have any number."""
    return max(-_LARGEST, min(timestamp, _LARGEST))


def _error_text(error: _Document) -> str:
    text = str(error.get("errmsg", "")).partition("{")[0].strip()
    return f"{text or 'no reason given'} (code {error['code']})"
