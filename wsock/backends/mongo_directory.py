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

from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
from bson import ObjectId
from pymongo.errors import DuplicateKeyError
from zope.interface import implementer

from wsock.backends.mongo_database import MongoDatabase
from wsock.backends.mongo_schema import ACCOUNTS, APPS, CREATIONS, KEYS
from wsock.errors import Unavailable
from wsock.interfaces import Account, App, IDirectory, Key

__all__ = ["MongoDirectory"]

_Document = dict[str, Any]

_MARK = "creation"
_MARKED = (APPS, KEYS, ACCOUNTS)
# A creation takes a few round trips: one that is younger than this may be another server's, still at work.
_PATIENCE_SECONDS = 10.0
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class _Record:
    """A document to be stored; ``taken`` tells, by field, what it means that another has the same value."""

    collection: str
    document: _Document
    taken: dict[str, str]


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

    async def is_empty(self) -> bool:
        """Whether there is no app yet."""
        if await self._one(APPS, {_MARK: {"$exists": False}}) is not None:
            return False
        return not await self._database.read(partial(_visible, APPS, {}))

    async def create(self, app: App, keys: list[Key], account: Account) -> None:
        """Stores them all or none. Raises ``ValueError`` when an id, an API key or the e-mail is taken.

        :class:`Unavailable` ends it with nothing visible; or, if the answer to the very last step was lost, with
        everything: repeated, it then raises ``ValueError``.
        """
        for key in keys:
            if key.app != app.id:
                raise ValueError(f"key {key.id} belongs to app {key.app}, not to {app.id}")
        records = [_app_record(app), *map(_key_record, keys), _account_record(account)]
        mark = ObjectId()
        await self._database.write(partial(_open, mark))
        try:
            for record in records:
                await self._store(record, mark)
            is_committed = await self._database.write(partial(_decide, mark, "committed"))
        except ValueError:
            await self._database.write(partial(_undo, mark))
            raise
        if not is_committed:
            await self._database.write(partial(_undo, mark))
            raise Unavailable("another server took what this one was about to create; repeat the request")
        await self._database.write(partial(_unmark, mark))

    async def _one(self, collection: str, wanted: _Document) -> _Document | None:
        documents = await self._database.read(partial(_visible, collection, wanted))
        return documents[0] if documents else None

    async def _store(self, record: _Record, mark: ObjectId) -> None:
        """Stores one record, clearing away what a creation that failed has left in its place."""
        for _ in range(_ATTEMPTS):
            if await self._database.write(partial(_insert, record, mark)):
                return
            for field, text in record.taken.items():
                await self._clear(record, field, text, mark)
        raise Unavailable("the directory is being changed by others; repeat the request")

    async def _clear(self, record: _Record, field: str, text: str, mark: ObjectId) -> None:
        """Makes place for the record's value of the field. Raises ``ValueError`` when it is taken for good."""
        if field not in record.document:
            return
        wanted = {field: record.document[field]}
        other = await self._database.read(partial(_find_one, record.collection, wanted))
        if other is None or (other.get(_MARK) == mark and other["_id"] == record.document["_id"] and field == "_id"):
            if other is None or not _is_repeated(other, record):
                return
        if other is not None and (_MARK not in other or other[_MARK] == mark):
            raise ValueError(text)
        assert other is not None
        if not await self._database.write(partial(_abort, other[_MARK], _age(other[_MARK], mark))):
            raise ValueError(text)
