"""Apps, keys, accounts and all other records in memory: for ``--dev`` and for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from msgspec.structs import replace
from zope.interface import implementer

from wsock.errors import Conflict
from wsock.interfaces import IDirectory
from wsock.records import KINDS, Account, App, Endpoint, Key, Kind, Listing, Record, Unique, kind_of

__all__ = ["MemoryDirectory"]

_R = TypeVar("_R", bound=Record)


class _Shelf:
    """The records of one kind, by id and by what is unique."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.by_id: dict[str, Any] = {}
        self._taken: dict[Unique, dict[tuple[str, ...], str]] = {unique: {} for unique in kind.unique}

    def check(self, record: Record) -> None:
        """Raises :class:`Conflict` when another record has one of its unique values."""
        for unique, taken in self._taken.items():
            values = unique.values(record)
            if values is not None and taken.get(values, record.id) != record.id:
                raise Conflict(unique.text)

    def put(self, record: Record) -> None:
        """Adds or replaces it."""
        self.drop(record.id)
        self.by_id[record.id] = record
        for unique, taken in self._taken.items():
            values = unique.values(record)
            if values is not None:
                taken[values] = record.id

    def drop(self, id: str) -> bool:
        """Whether it was there."""
        record = self.by_id.pop(id, None)
        for unique, taken in self._taken.items():
            values = None if record is None else unique.values(record)
            if values is not None:
                del taken[values]
        return record is not None

    def by(self, name: str, value: str) -> Any:
        """The record that alone has this value."""
        unique = self.kind.unique_by(name)
        return self.by_id.get(self._taken[unique].get((unique.fold(value),), "")) if value else None

    def having(self, where: Mapping[str, str]) -> list[Any]:
        """The records with these values, in the order of their ids."""
        wanted = [record for record in self.by_id.values() if all(getattr(record, n) == v for n, v in where.items())]
        return sorted(wanted, key=lambda record: str(record.id))


@implementer(IDirectory)
class MemoryDirectory:
    """Keeps what was created for as long as the process lives."""

    def __init__(self) -> None:
        self._shelves = {type: _Shelf(kind) for type, kind in KINDS.items()}
        self._revision = 0

    # Records.

    async def find(self, kind: type[_R], id: str) -> _R | None:
        """The record of this id."""
        found: _R | None = self._shelves[kind].by_id.get(id)
        return found

    async def find_by(self, kind: type[_R], field: str, value: str) -> _R | None:
        """The record that alone has this value of a unique field."""
        found: _R | None = self._shelves[kind].by(field, value)
        return found

    async def page(self, kind: type[_R], where: Mapping[str, str], cursor: str | None, limit: int) -> Listing[_R]:
        """A part of the records with these values, in the order of their ids."""
        kind_of(kind).check_list(where)
        behind = [record for record in self._shelves[kind].having(where) if cursor is None or record.id > cursor]
        return Listing(behind[:limit], behind[limit - 1].id if len(behind) > limit else None)

    async def add(self, records: Sequence[Record]) -> None:
        """Stores new records, all or none."""
        added: list[Record] = []
        try:
            for record in records:
                self._add(record)
                added.append(record)
        except Conflict:
            for record in added:
                self._shelves[type(record)].drop(record.id)
            raise
        self._changed(*map(kind_of, records))

    async def replace(self, record: _R) -> _R:
        """Stores the record in the place of the version that it has."""
        shelf = self._shelves[type(record)]
        stored: Any = shelf.by_id.get(record.id)
        _check_version(shelf.kind, stored, record.version)
        self._check_owners(record)
        shelf.check(record)
        kept: Any = {"last_used_at": stored.last_used_at} if shelf.kind.is_used else {}
        new = replace(record, version=record.version + 1, **kept)
        shelf.put(new)
        self._changed(shelf.kind)
        return new

    async def remove(self, kind: type[Record], id: str, version: int | None = None) -> bool:
        """Deletes the record and all that belongs to it."""
        shelf = self._shelves[kind]
        if version is not None and id in shelf.by_id:
            _check_version(shelf.kind, shelf.by_id[id], version)
        was_there = self._remove(shelf.kind, id)
        self._changed(shelf.kind)
        return was_there

    async def used(self, kind: type[Record], id: str, at: int) -> None:
        """Notes the last use of a record that keeps one."""
        shelf = self._shelves[kind]
        record = shelf.by_id.get(id)
        if record is not None and (record.last_used_at or 0) < at:
            shelf.by_id[id] = replace(record, last_used_at=at)

    async def sweep(self, now: int, limit: int) -> int:
        """Deletes records whose time has come."""
        count = 0
        for shelf in (shelf for shelf in self._shelves.values() if shelf.kind.is_swept):
            for record in [r for r in shelf.by_id.values() if r.expires_at is not None and r.expires_at <= now][:limit]:
                count += self._remove(shelf.kind, record.id)
        return count

    async def revision(self) -> int:
        """A number that grows with every change."""
        return self._revision

    # What connections need.

    async def app(self, id: str) -> App | None:
        """The app of this id."""
        return await self.find(App, id)

    async def apps(self) -> list[App]:
        """All apps, in the order of their ids."""
        return self._shelves[App].having({})

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
        return self._shelves[Endpoint].having({"app": app})

    async def add_endpoint(self, endpoint: Endpoint) -> None:
        """Stores an endpoint."""
        await self.add([endpoint])

    async def is_empty(self) -> bool:
        """Whether there is no app yet."""
        return not self._shelves[App].by_id

    async def create(self, app: App, keys: list[Key], account: Account) -> None:
        """Stores an app with its keys and owner, all or none."""
        await self.add([app, *keys, account])

    def _add(self, record: Record) -> None:
        shelf = self._shelves[type(record)]
        self._check_owners(record)
        if record.id in shelf.by_id:
            raise Conflict(f"{shelf.kind.noun} has this id already")
        shelf.check(record)
        shelf.put(record)

    def _check_owners(self, record: Record) -> None:
        for name, owner in kind_of(record).owners.items():
            id = getattr(record, name)
            if id and id not in self._shelves[owner].by_id:
                raise Conflict(f"there is no {kind_of(owner).name} with the id '{id}'")

    def _remove(self, kind: Kind, id: str) -> bool:
        was_there = self._shelves[kind.struct].drop(id)
        for child, name in kind.belongings:
            for record in self._shelves[child.struct].having({name: id}):
                self._remove(child, record.id)
        return was_there

    def _changed(self, *kinds: Kind) -> None:
        self._revision += not all(kind.is_quiet for kind in kinds)


def _check_version(kind: Kind, stored: Record | None, version: int) -> None:
    if stored is None:
        raise Conflict(f"{kind.noun} that was to be changed is not there any more")
    if stored.version != version:
        raise Conflict(f"{kind.noun} was changed meanwhile: read it again, then decide")
