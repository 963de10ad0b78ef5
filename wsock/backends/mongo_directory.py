"""Apps, keys, accounts and all other records of a cluster, in MongoDB.

Several records are added all or none, also where MongoDB has no transactions (a single server has none) and whatever
dies in between. Such a creation has a document of its own, whose state ``committed`` is what makes it true, set in one
atomic step:

1. its document is stored, with the state ``open``;
2. the records are stored, each with the mark of the creation. Readers see none of them;
3. the state is changed from ``open`` to ``committed``. From now on readers see all of them;
4. the marks are taken off, which spares readers the look at the creation.

What a creation that never got to 3 has left keeps nobody from anything: a later one that needs the same id, API key
or e-mail address first changes the state to ``aborted``, which keeps the other from committing should it live, and
then deletes what it left. Committed creations are kept, one small document for each.

Whoever adds something looks for its owner after it is stored, and whoever removes an owner does so before its
belongings: whatever the order in which the two meet, nothing is left without an owner.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import msgspec
from bson import ObjectId
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError
from twisted.internet.defer import CancelledError
from zope.interface import implementer

from wsock.backends.mongo_database import MongoDatabase, Work
from wsock.backends.mongo_schema import COUNTERS, CREATIONS
from wsock.errors import Conflict, Unavailable
from wsock.interfaces import IDirectory
from wsock.records import KINDS, Account, App, Endpoint, Key, Kind, Listing, Record, kind_of

__all__ = ["MongoDirectory"]

_R = TypeVar("_R", bound=Record)
_T = TypeVar("_T")
_Document = dict[str, Any]

_MARK = "creation"
_REVISION = "directory"
# A creation takes a few round trips: one that is younger than this may be another server's, still at work.
_PATIENCE_SECONDS = 5.0
_PAUSE_SECONDS = 0.2
_ATTEMPTS = 100


@dataclass(frozen=True, slots=True)
class _Place:
    """What no two documents of a collection have alike; ``text`` says that another one has it."""

    wanted: _Document
    text: str


@dataclass(frozen=True, slots=True)
class _Taken:
    """Whose a document is: the creation's that it carries the mark of, if it carries one."""

    id: str
    mark: ObjectId | None
    is_committed: bool


@implementer(IDirectory)
class MongoDirectory:
    """Looks up what is in the database at that moment; nothing is cached."""

    def __init__(self, database: MongoDatabase) -> None:
        self._database = database
        self._is_unheard = False

    # Records.

    async def find(self, kind: type[_R], id: str) -> _R | None:
        """The record of this id."""
        return await self._one(kind, {"_id": id})

    async def find_by(self, kind: type[_R], field: str, value: str) -> _R | None:
        """The record that alone has this value of a unique field."""
        unique = kind_of(kind).unique_by(field)
        return await self._one(kind, {unique.columns[0]: unique.fold(value)}) if value else None

    async def page(self, kind: type[_R], where: Mapping[str, str], cursor: str | None, limit: int) -> Listing[_R]:
        """A part of the records with these values, in the order of their ids."""
        kind_of(kind).check_list(where)
        wanted = {**where, **({} if cursor is None else {"_id": {"$gt": cursor}})}
        return await self._database.read(partial(_page, kind, wanted, limit))

    async def add(self, records: Sequence[Record]) -> None:
        """Stores new records, all or none: see :class:`IRecords`.

        Waits a few seconds for another server that is creating something with one of their values.
        :class:`Unavailable` ends it with nothing visible, unless only the answer to the last step was lost.
        """
        if records:
            adding = self._add_one(records[0]) if len(records) == 1 else self._add_all(records)
            await self._told(adding, *map(kind_of, records))

    async def replace(self, record: _R) -> _R:
        """Stores the record in the place of the version that it has."""
        kind = kind_of(record)
        return await self._told(self._replace(kind, record), kind)

    async def _replace(self, kind: Kind, record: _R) -> _R:
        await self._check_owners([record])
        places = [place for place in _places(kind, record) if "_id" not in place.wanted]
        stored = await self._placed(kind, record.id, places, partial(_update, kind, record), ObjectId())
        if stored is None:
            raise _outdated(kind, await self.find(type(record), record.id))
        return _read(stored, type(record))

    async def remove(self, kind: type[Record], id: str, version: int | None = None) -> bool:
        """Deletes the record and all that belongs to it."""
        known = kind_of(kind)
        return await self._told(self._remove(known, kind, id, version), known)

    async def _remove(self, known: Kind, kind: type[Record], id: str, version: int | None) -> bool:
        wanted = {"_id": id} if version is None else {"_id": id, "version": version}
        was_there = await self._database.write(partial(_delete_one, known.name, wanted))
        if version is not None and not was_there:
            stored = await self.find(kind, id)
            if stored is not None:
                raise _outdated(known, stored)
        await self._database.write(partial(_delete_belongings, known, [id]))
        return was_there

    async def used(self, kind: type[Record], id: str, at: int) -> None:
        """Notes the last use of a record that keeps one."""
        await self._database.write(partial(_use, kind_of(kind).name, id, at))

    async def sweep(self, now: int, limit: int) -> int:
        """Deletes records whose time has come."""
        names = [kind.name for kind in KINDS.values() if kind.is_swept]
        return sum([await self._database.write(partial(_sweep, name, now, limit)) for name in names])

    async def revision(self) -> int:
        """A number that grows with every change."""
        if self._is_unheard:
            self._is_unheard = False
            await self._grow()
        return await self._database.read(_revision)

    # What connections need.

    async def app(self, id: str) -> App | None:
        """The app of this id."""
        return await self.find(App, id)

    async def apps(self) -> list[App]:
        """All apps, in the order of their ids."""
        return await self._all(App, {})

    async def key(self, id: str) -> Key | None:
        """The key of this id."""
        return await self.find(Key, id)

    async def key_by_hash(self, api_key_hash: str) -> Key | None:
        """The key whose API key has this SHA-256 in hex; a key without an API key is never found."""
        return await self.find_by(Key, "api_key_hash", api_key_hash)

    async def account_by_email(self, email: str) -> Account | None:
        """The account of this e-mail address, compared without case."""
        return await self.find_by(Account, "email", email)

    async def endpoints(self, app: str) -> list[Endpoint]:
        """The endpoints of this app, in the order of their ids."""
        return await self._all(Endpoint, {"app": app})

    async def add_endpoint(self, endpoint: Endpoint) -> None:
        """Stores an endpoint. Repeated after :class:`Unavailable`, it may be "taken": only the answer was lost."""
        await self.add([endpoint])

    async def is_empty(self) -> bool:
        """Whether there is no app yet."""
        if await self._one(App, {_MARK: {"$exists": False}}) is not None:
            return False
        return not await self.apps()

    async def create(self, app: App, keys: list[Key], account: Account) -> None:
        """Stores an app with its keys and owner, all or none."""
        await self.add([app, *keys, account])

    async def _one(self, kind: type[_R], wanted: _Document) -> _R | None:
        documents = await self._database.read(partial(_visible, kind_of(kind).name, wanted))
        return _read(documents[0], kind) if documents else None

    async def _all(self, kind: type[_R], wanted: _Document) -> list[_R]:
        documents = await self._database.read(partial(_visible, kind_of(kind).name, wanted))
        return sorted((_read(document, kind) for document in documents), key=lambda record: record.id)

    async def _told(self, changing: Coroutine[Any, Any, _T], *kinds: Kind) -> _T:
        """Makes the change, and lets the revision grow.

        What ends in an outage may have been stored all the same: then it grows when it is looked at the next time, or
        what is revoked would be good until somebody changes something else.
        """
        if all(kind.is_quiet for kind in kinds):
            return await changing
        try:
            outcome = await changing
        except (Unavailable, CancelledError):
            self._is_unheard = True
            raise
        await self._grow()
        return outcome

    async def _grow(self) -> None:
        try:
            await self._database.write(_grow)
        except (Unavailable, CancelledError):
            self._is_unheard = True
            raise

    # Adding.

    async def _add_one(self, record: Record) -> None:
        kind = kind_of(record)
        await self._check_owners([record])
        await self._store(record, ObjectId(), {})
        try:
            await self._check_owners([record])
        except Conflict:
            await self._database.write(partial(_delete_one, kind.name, {"_id": record.id}))
            raise

    async def _add_all(self, records: Sequence[Record]) -> None:
        mark = ObjectId()
        await self._database.write(partial(_open, mark))
        try:
            for record in records:
                await self._store(record, mark, {_MARK: mark})
            await self._check_owners(records)
        except Conflict:
            await self._database.write(partial(_abort, mark))
            raise
        if not await self._database.write(partial(_commit, mark)):
            await self._database.write(partial(_abort, mark))
            raise Unavailable("another server took what this one was about to create; repeat the request")
        await self._database.write(partial(_unmark, mark))

    async def _check_owners(self, records: Sequence[Record]) -> None:
        """Raises :class:`Conflict` when an owner is neither stored nor among those before what it owns."""
        new: set[tuple[type[Record], str]] = set()
        for record in records:
            for name, owner in kind_of(record).owners.items():
                id = getattr(record, name)
                if id and (owner, id) not in new and await self.find(owner, id) is None:
                    raise Conflict(f"there is no {kind_of(owner).name} with the id '{id}'")
            new.add((type(record), record.id))

    async def _store(self, record: Record, mark: ObjectId, extra: _Document) -> None:
        kind = kind_of(record)
        document = {**_document(record), **extra}
        await self._placed(kind, record.id, list(_places(kind, record)), partial(_insert, kind.name, document), mark)

    async def _placed(
        self,
        kind: Kind,
        id: str,
        places: Sequence[_Place],
        write: Work[_Document | None],
        mark: ObjectId,
    ) -> _Document | None:
        """Does the write; what an unfinished creation has left in its places is cleared away."""
        for attempt in range(_ATTEMPTS):
            try:
                return await self._database.write(partial(_unless_duplicate, write))
            except _Duplicate:
                pass
            for place in places:
                await self._clear(kind, id, place, mark, attempt)
            await self._database.pause(_PAUSE_SECONDS if attempt else 0)
        raise Unavailable("the directory is being changed by other servers; repeat the request")

    async def _clear(self, kind: Kind, id: str, place: _Place, mark: ObjectId, attempt: int) -> None:
        """Makes the place free. Raises :class:`Conflict` when it is taken for good."""
        other = await self._database.read(partial(_marked, kind.name, place.wanted))
        if other is None or (other.id == id and "_id" not in place.wanted):
            return
        if other.mark is None or other.mark == mark or other.is_committed:
            raise Conflict(place.text)
        waited = attempt * _PAUSE_SECONDS
        if max(waited, _seconds_between(other.mark, mark)) >= _PATIENCE_SECONDS:
            await self._database.write(partial(_abort, other.mark))


class _Duplicate(Exception):
    """Another document has a unique value of the one that was to be stored."""


async def _unless_duplicate(write: Work[_Document | None], database: Any) -> _Document | None:
    try:
        return await write(database)
    except DuplicateKeyError as e:
        raise _Duplicate from e


async def _insert(collection: str, document: _Document, database: Any) -> _Document:
    await database[collection].insert_one(document)
    return document


async def _update(kind: Kind, record: Record, database: Any) -> _Document | None:
    """What is stored now, or ``None`` when another version was."""
    document = _document(record)
    del document["_id"]
    document.pop("last_used_at", None)
    changes: _Document = {"$set": {**document, "version": record.version + 1}}
    absent = [column for unique in kind.unique for column in unique.columns if column not in document]
    if absent:
        changes["$unset"] = dict.fromkeys(absent, "")
    stored: _Document | None = await database[kind.name].find_one_and_update(
        {"_id": record.id, "version": record.version}, changes, return_document=ReturnDocument.AFTER
    )
    return stored


def _outdated(kind: Kind, stored: Record | None) -> Conflict:
    if stored is None:
        return Conflict(f"{kind.noun} that was to be changed is not there any more")
    return Conflict(f"{kind.noun} was changed meanwhile: read it again, then decide")


async def _delete_one(collection: str, wanted: _Document, database: Any) -> bool:
    result = await database[collection].delete_one(wanted)
    return bool(result.deleted_count)


async def _delete_belongings(kind: Kind, ids: list[str], database: Any) -> None:
    for child, name in kind.belongings:
        wanted = {name: {"$in": ids}}
        found = await database[child.name].find(wanted, projection={"_id": 1}) if child.belongings else []
        await database[child.name].delete_many(wanted)
        if found:
            await _delete_belongings(child, [document["_id"] for document in found], database)


async def _use(collection: str, id: str, at: int, database: Any) -> None:
    await database[collection].update_one({"_id": id}, {"$max": {"last_used_at": at}})


async def _sweep(collection: str, now: int, limit: int, database: Any) -> int:
    found = await database[collection].find({"expires_at": {"$lte": now}}, projection={"_id": 1}, limit=limit)
    if not found:
        return 0
    result = await database[collection].delete_many({"_id": {"$in": [document["_id"] for document in found]}})
    return int(result.deleted_count)


async def _grow(database: Any) -> None:
    await database[COUNTERS].update_one({"_id": _REVISION}, {"$inc": {"number": 1}}, upsert=True)


async def _revision(database: Any) -> int:
    counter = await database[COUNTERS].find_one({"_id": _REVISION})
    return int(counter["number"]) if counter else 0


async def _page(kind: type[_R], wanted: _Document, limit: int, database: Any) -> Listing[_R]:
    cursor = database[kind_of(kind).name].find(wanted, limit=limit + 1)
    cursor.sort([("_id", 1)])
    documents: list[_Document] = await cursor
    visible = await _only_visible(documents[:limit], database)
    behind = documents[limit - 1]["_id"] if len(documents) > limit else None
    return Listing([_read(document, kind) for document in visible], behind)


async def _open(mark: ObjectId, database: Any) -> None:
    await database[CREATIONS].insert_one({"_id": mark, "state": "open"})


async def _commit(mark: ObjectId, database: Any) -> bool:
    """Whether it is true now; if not, another server has aborted it."""
    return await _change(mark, "committed", database)


async def _change(mark: ObjectId, state: str, database: Any) -> bool:
    result = await database[CREATIONS].update_one({"_id": mark, "state": "open"}, {"$set": {"state": state}})
    return bool(result.matched_count)


async def _unmark(mark: ObjectId, database: Any) -> None:
    for collection in _collections():
        await database[collection].update_many({_MARK: mark}, {"$unset": {_MARK: ""}})


async def _abort(mark: ObjectId, database: Any) -> None:
    """Deletes what an unfinished creation has left; one that is committed stays as it is."""
    if not await _change(mark, "aborted", database) and await _are_committed([mark], database):
        return
    for collection in _collections():
        await database[collection].delete_many({_MARK: mark})
    await database[CREATIONS].delete_one({"_id": mark})


def _collections() -> Iterator[str]:
    return (kind.name for kind in KINDS.values())


async def _marked(collection: str, wanted: _Document, database: Any) -> _Taken | None:
    """What is known of the document that is in a place."""
    document = await database[collection].find_one(wanted)
    if document is None:
        return None
    mark = document.get(_MARK)
    return _Taken(document["_id"], mark, mark is not None and bool(await _are_committed([mark], database)))


async def _visible(collection: str, wanted: _Document, database: Any) -> list[_Document]:
    """The documents that are wanted, without those of creations that are not committed."""
    return await _only_visible(await database[collection].find(wanted), database)


async def _only_visible(documents: list[_Document], database: Any) -> list[_Document]:
    marks = [document[_MARK] for document in documents if _MARK in document]
    committed = await _are_committed(marks, database) if marks else set()
    return [document for document in documents if _MARK not in document or document[_MARK] in committed]


async def _are_committed(marks: Sequence[ObjectId], database: Any) -> set[ObjectId]:
    """Those of the creations that are committed."""
    found = await database[CREATIONS].find({"_id": {"$in": marks}, "state": "committed"})
    return {creation["_id"] for creation in found}


def _seconds_between(earlier: ObjectId, later: ObjectId) -> float:
    return (later.generation_time - earlier.generation_time).total_seconds()


def _places(kind: Kind, record: Record) -> Iterator[_Place]:
    yield _Place({"_id": record.id}, f"{kind.noun} has this id already")
    for unique in kind.unique:
        values = unique.values(record)
        if values is not None:
            yield _Place(dict(zip(unique.columns, values, strict=True)), unique.text)


def _document(record: Record) -> _Document:
    document: _Document = msgspec.to_builtins(record)
    for name, value in document.items():
        if isinstance(value, dict) and isinstance(getattr(record, name), dict):
            # Its keys may hold what MongoDB does not take in the name of a field.
            document[name] = [list(pair) for pair in value.items()]
    for unique in kind_of(record).unique:
        values = unique.values(record)
        document |= dict(zip(unique.columns, values or (), strict=bool(values)))
        if values is None:
            for column in unique.columns:
                del document[column]
    return {"_id": document.pop("id"), **document}


def _read(document: _Document, type: type[_R]) -> _R:
    """The value that was stored; fields that it does not have are left out."""
    fields = msgspec.structs.fields(type)
    mappings = {field.name for field in fields if getattr(field.type, "__origin__", None) is dict}
    values = {name: dict(value) if name in mappings else value for name, value in document.items()}
    return msgspec.convert({**values, "id": document["_id"]}, type)
