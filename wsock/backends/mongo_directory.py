"""Apps, keys and accounts of a cluster, in MongoDB.

An app is created with its keys and its owner, all or none, also where MongoDB has no transactions (a single server has
none) and whatever dies in between. A creation has a document of its own, whose state ``committed`` is what makes it
true, set in one atomic step:

1. its document is stored, with the state ``open``;
2. app, keys and account are stored, each with the mark of the creation. Readers see none of them;
3. the state is changed from ``open`` to ``committed``. From now on readers see all of them;
4. the marks are taken off, which spares readers the look at the creation.

What a creation that never got to 3 has left keeps nobody from anything: a later one that needs the same id, API key
or e-mail address first changes the state to ``aborted``, which keeps the other from committing should it live, and
then deletes what it left. Committed creations are kept, one small document for each app.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import msgspec
from bson import ObjectId
from pymongo.errors import DuplicateKeyError
from zope.interface import implementer

from wsock.backends.mongo_database import MongoDatabase
from wsock.backends.mongo_schema import ACCOUNTS, APPS, CREATIONS, ENDPOINTS, KEYS
from wsock.errors import Unavailable
from wsock.interfaces import Account, App, Endpoint, IDirectory, Key

__all__ = ["MongoDirectory"]

_T = TypeVar("_T")
_Document = dict[str, Any]

_MARK = "creation"
_MARKED = (APPS, KEYS, ACCOUNTS)
# A creation takes a few round trips: one that is younger than this may be another server's, still at work.
_PATIENCE_SECONDS = 5.0
_PAUSE_SECONDS = 0.2
_ATTEMPTS = 100


@dataclass(frozen=True, slots=True)
class _Record:
    """A document to be stored; ``taken`` tells, by field, what it means that another has the same value."""

    collection: str
    document: _Document
    taken: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Taken:
    """Whose a document is: the creation's that it carries the mark of, if it carries one."""

    mark: ObjectId | None
    is_committed: bool


@implementer(IDirectory)
class MongoDirectory:
    """Looks up what is in the database at that moment; nothing is cached."""

    def __init__(self, database: MongoDatabase) -> None:
        self._database = database

    async def app(self, id: str) -> App | None:
        """The app of this id."""
        return _app(await self._one(APPS, {"_id": id}))

    async def apps(self) -> list[App]:
        """All apps, in the order of their ids."""
        documents = await self._database.read(partial(_visible, APPS, {}))
        return sorted(filter(None, map(_app, documents)), key=lambda app: app.id)

    async def key(self, id: str) -> Key | None:
        """The key of this id."""
        return _key(await self._one(KEYS, {"_id": id}))

    async def key_by_hash(self, api_key_hash: str) -> Key | None:
        """The key whose API key has this SHA-256 in hex; a key without an API key is never found."""
        return _key(await self._one(KEYS, {"api_key_hash": api_key_hash})) if api_key_hash else None

    async def account_by_email(self, email: str) -> Account | None:
        """The account of this e-mail address, compared without case."""
        return _account(await self._one(ACCOUNTS, {"folded_email": email.casefold()}))

    async def endpoints(self, app: str) -> list[Endpoint]:
        """The endpoints of this app, in the order of their ids."""
        documents = await self._database.read(partial(_endpoints, app))
        return sorted((_read(document, Endpoint) for document in documents), key=lambda endpoint: endpoint.id)

    async def add_endpoint(self, endpoint: Endpoint) -> None:
        """Stores an endpoint. Raises ``ValueError`` when its id is taken or its app does not exist.

        Repeated after :class:`Unavailable`, it may be "taken": only the answer was lost then.
        """
        if await self.app(endpoint.app) is None:
            raise ValueError("there is no app with this id")
        if not await self._database.write(partial(_insert_endpoint, _with_id(endpoint))):
            raise ValueError("an endpoint has this id already")

    async def is_empty(self) -> bool:
        """Whether there is no app yet."""
        if await self._one(APPS, {_MARK: {"$exists": False}}) is not None:
            return False
        return not await self._database.read(partial(_visible, APPS, {}))

    async def create(self, app: App, keys: list[Key], account: Account) -> None:
        """Stores them all or none. Raises ``ValueError`` when an id, an API key or the e-mail is taken.

        Waits a few seconds for another server that is creating something with one of them. :class:`Unavailable` ends
        it with nothing visible, unless only the answer to the last step was lost: repeated, it is "taken" then.
        """
        for key in keys:
            if key.app != app.id:
                raise ValueError(f"key {key.id} belongs to app {key.app}, not to {app.id}")
        mark = ObjectId()
        await self._database.write(partial(_open, mark))
        try:
            for record in (_app_record(app), *map(_key_record, keys), _account_record(account)):
                await self._store(record, mark)
        except ValueError:
            await self._database.write(partial(_abort, mark))
            raise
        if not await self._database.write(partial(_commit, mark)):
            await self._database.write(partial(_abort, mark))
            raise Unavailable("another server took what this one was about to create; repeat the request")
        await self._database.write(partial(_unmark, mark))

    async def _one(self, collection: str, wanted: _Document) -> _Document | None:
        documents = await self._database.read(partial(_visible, collection, wanted))
        return documents[0] if documents else None

    async def _store(self, record: _Record, mark: ObjectId) -> None:
        """Stores one record; what an unfinished creation has left in its place is cleared away."""
        for attempt in range(_ATTEMPTS):
            if await self._database.write(partial(_insert, record, mark)):
                return
            for field, text in record.taken.items():
                if field in record.document:
                    await self._clear(record, field, text, mark, attempt)
            await self._database.pause(_PAUSE_SECONDS if attempt else 0)
        raise Unavailable("the directory is being changed by other servers; repeat the request")

    async def _clear(self, record: _Record, field: str, text: str, mark: ObjectId, attempt: int) -> None:
        """Makes place for the record's value of the field. Raises ``ValueError`` when it is taken for good."""
        other = await self._database.read(partial(_marked, record.collection, field, record.document[field]))
        if other is None:
            return
        if other.mark is None or other.mark == mark or other.is_committed:
            raise ValueError(text)
        waited = attempt * _PAUSE_SECONDS
        if max(waited, _seconds_between(other.mark, mark)) >= _PATIENCE_SECONDS:
            await self._database.write(partial(_abort, other.mark))


async def _open(mark: ObjectId, database: Any) -> None:
    await database[CREATIONS].insert_one({"_id": mark, "state": "open"})


async def _insert(record: _Record, mark: ObjectId, database: Any) -> bool:
    """Whether there was place for it."""
    try:
        await database[record.collection].insert_one({**record.document, _MARK: mark})
    except DuplicateKeyError:
        return False
    return True


async def _endpoints(app: str, database: Any) -> list[_Document]:
    documents: list[_Document] = await database[ENDPOINTS].find({"app": app})
    return documents


async def _insert_endpoint(document: _Document, database: Any) -> bool:
    """Whether its id was free."""
    try:
        await database[ENDPOINTS].insert_one(document)
    except DuplicateKeyError:
        return False
    return True


async def _commit(mark: ObjectId, database: Any) -> bool:
    """Whether it is true now; if not, another server has aborted it."""
    return await _change(mark, "committed", database)


async def _change(mark: ObjectId, state: str, database: Any) -> bool:
    result = await database[CREATIONS].update_one({"_id": mark, "state": "open"}, {"$set": {"state": state}})
    return bool(result.matched_count)


async def _unmark(mark: ObjectId, database: Any) -> None:
    for collection in _MARKED:
        await database[collection].update_many({_MARK: mark}, {"$unset": {_MARK: ""}})


async def _abort(mark: ObjectId, database: Any) -> None:
    """Deletes what an unfinished creation has left; one that is committed stays as it is."""
    if not await _change(mark, "aborted", database) and await _are_committed([mark], database):
        return
    for collection in _MARKED:
        await database[collection].delete_many({_MARK: mark})
    await database[CREATIONS].delete_one({"_id": mark})


async def _marked(collection: str, field: str, value: str, database: Any) -> _Taken | None:
    """What is known of the document that has this value of a unique field."""
    document = await database[collection].find_one({field: value})
    if document is None:
        return None
    mark = document.get(_MARK)
    return _Taken(mark, mark is not None and bool(await _are_committed([mark], database)))


async def _visible(collection: str, wanted: _Document, database: Any) -> list[_Document]:
    """The documents that are wanted, without those of creations that are not committed."""
    documents: list[_Document] = await database[collection].find(wanted)
    marks = [document[_MARK] for document in documents if _MARK in document]
    committed = await _are_committed(marks, database) if marks else set()
    return [document for document in documents if _MARK not in document or document[_MARK] in committed]


async def _are_committed(marks: Sequence[ObjectId], database: Any) -> set[ObjectId]:
    """Those of the creations that are committed."""
    found = await database[CREATIONS].find({"_id": {"$in": marks}, "state": "committed"})
    return {creation["_id"] for creation in found}


def _seconds_between(earlier: ObjectId, later: ObjectId) -> float:
    return (later.generation_time - earlier.generation_time).total_seconds()


def _app_record(app: App) -> _Record:
    return _Record(APPS, _with_id(app), {"_id": "an app has this id already"})


def _key_record(key: Key) -> _Record:
    document = _with_id(key)
    # A pattern may hold what MongoDB does not take in the name of a field.
    document["permissions"] = [list(grant) for grant in key.permissions.items()]
    if not key.api_key_hash:
        del document["api_key_hash"]
    return _Record(
        KEYS,
        document,
        {"_id": "a key has this id already", "api_key_hash": "a key has this API key already"},
    )


def _account_record(account: Account) -> _Record:
    return _Record(
        ACCOUNTS,
        {**_with_id(account), "folded_email": account.email.casefold()},
        {"_id": "an account has this id already", "folded_email": "an account has this e-mail address already"},
    )


def _with_id(value: App | Key | Account | Endpoint) -> _Document:
    document: _Document = msgspec.to_builtins(value)
    return {"_id": document.pop("id"), **document}


def _read(document: _Document, type: type[_T]) -> _T:
    """The value that was stored; fields that it does not have are left out."""
    return msgspec.convert({**document, "id": document["_id"]}, type)


def _app(document: _Document | None) -> App | None:
    return None if document is None else _read(document, App)


def _key(document: _Document | None) -> Key | None:
    return None if document is None else _read({**document, "permissions": dict(document["permissions"])}, Key)


def _account(document: _Document | None) -> Account | None:
    return None if document is None else _read(document, Account)
