"""A directory whose secrets are encrypted where they are kept; whoever uses it sees them in clear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from msgspec.structs import replace
from twisted.logger import Logger
from zope.interface import implementer

from wsock.errors import ConfigError, Conflict, Unavailable
from wsock.interfaces import IDirectory
from wsock.records import KINDS, Account, App, Endpoint, Key, Kind, Listing, Record, kind_of
from wsock.services.vault import Vault

__all__ = ["SealedDirectory"]

_R = TypeVar("_R", bound=Record)
_PAGE = 500


@implementer(IDirectory)
class SealedDirectory:
    """Another directory, with a vault in between: it seals what :data:`wsock.records.KINDS` calls ``sealed``."""

    _log = Logger()

    def __init__(self, directory: IDirectory, vault: Vault) -> None:
        self._directory = directory
        self._vault = vault

    async def unlock(self, keys: Sequence[bytes]) -> None:
        """Gives the vault its master keys, and seals everything with the newest one."""
        self._vault.unlock(keys)
        await self.reseal()

    async def reseal(self) -> int:
        """Seals with the newest master key what is in clear or sealed with an older one; returns how many records.

        Raises :class:`ConfigError` when something can't be opened: a master key is missing.
        """
        kinds = [kind for kind in KINDS.values() if kind.sealed]
        count = sum([await self._reseal_kind(kind) for kind in kinds])
        if count:
            self._log.info("secrets of {count} records were sealed with the newest master key", count=count)
        return count

    async def _reseal_kind(self, kind: Kind) -> int:
        count, cursor, is_more = 0, None, True
        while is_more:
            page = await self._directory.page(kind.struct, {}, cursor, _PAGE)
            for record in page.items:
                count += await self._reseal(kind, record)
            cursor, is_more = page.next, page.next is not None
        return count

    async def _reseal(self, kind: Kind, stored: Record) -> bool:
        try:
            opened = self._opened(stored)
        except Unavailable as e:
            raise ConfigError(
                f"vault.keys: a secret of {kind.noun} ({stored.id}) can't be opened: give the master key that sealed"
                " it as well, before the newest one"
            ) from e
        if all(self._vault.is_current(getattr(stored, name)) for name in kind.sealed):
            return False
        try:
            await self._directory.replace(self._sealed(opened))
        except Conflict:
            return False  # whoever changed it meanwhile has sealed it
        return True

    # Records.

    async def find(self, kind: type[_R], id: str) -> _R | None:
        """The record of this id."""
        return self._maybe(await self._directory.find(kind, id))

    async def find_by(self, kind: type[_R], field: str, value: str) -> _R | None:
        """The record that alone has this value of a unique field."""
        return self._maybe(await self._directory.find_by(kind, field, value))

    async def page(self, kind: type[_R], where: Mapping[str, str], cursor: str | None, limit: int) -> Listing[_R]:
        """A part of the records with these values."""
        page = await self._directory.page(kind, where, cursor, limit)
        return Listing([self._opened(record) for record in page.items], page.next)

    async def add(self, records: Sequence[Record]) -> None:
        """Stores new records, all or none."""
        await self._directory.add([self._sealed(record) for record in records])

    async def replace(self, record: _R) -> _R:
        """Stores the record in the place of the version that it has."""
        return self._opened(await self._directory.replace(self._sealed(record)))

    async def remove(self, kind: type[Record], id: str, version: int | None = None) -> bool:
        """Deletes the record and all that belongs to it."""
        return await self._directory.remove(kind, id, version)

    async def used(self, kind: type[Record], id: str, at: int) -> None:
        """Notes the last use of a record that keeps one."""
        await self._directory.used(kind, id, at)

    async def sweep(self, now: int, limit: int) -> int:
        """Deletes records whose time has come."""
        return await self._directory.sweep(now, limit)

    async def revision(self) -> int:
        """A number that grows with every change."""
        return await self._directory.revision()

    # What connections need.

    async def app(self, id: str) -> App | None:
        """The app of this id."""
        return await self._directory.app(id)

    async def apps(self) -> list[App]:
        """All apps, in the order of their ids."""
        return await self._directory.apps()

    async def key(self, id: str) -> Key | None:
        """The key of this id."""
        return self._maybe(await self._directory.key(id))

    async def key_by_hash(self, api_key_hash: str) -> Key | None:
        """The key whose API key has this SHA-256 in hex."""
        return self._maybe(await self._directory.key_by_hash(api_key_hash))

    async def account_by_email(self, email: str) -> Account | None:
        """The account of this e-mail address, compared without case."""
        return self._maybe(await self._directory.account_by_email(email))

    async def endpoints(self, app: str) -> list[Endpoint]:
        """The endpoints of this app, in the order of their ids."""
        return [self._opened(endpoint) for endpoint in await self._directory.endpoints(app)]

    async def add_endpoint(self, endpoint: Endpoint) -> None:
        """Stores an endpoint."""
        await self._directory.add_endpoint(self._sealed(endpoint))

    async def is_empty(self) -> bool:
        """Whether there is no app yet."""
        return await self._directory.is_empty()

    async def create(self, app: App, keys: list[Key], account: Account) -> None:
        """Stores an app with its keys and owner, all or none."""
        await self.add([app, *keys, account])

    def _maybe(self, record: _R | None) -> _R | None:
        return None if record is None else self._opened(record)

    def _opened(self, record: _R) -> _R:
        return self._changed(record, self._vault.open)

    def _sealed(self, record: _R) -> _R:
        return self._changed(record, self._vault.seal)

    @staticmethod
    def _changed(record: _R, change: Any) -> _R:
        """The record with each of its secrets changed; a secret is for its field of this record of this owner."""
        kind = kind_of(record)
        if not kind.sealed:
            return record
        place = (kind.name, *(getattr(record, owner) for owner in kind.owners), record.id)
        return replace(record, **{name: change(getattr(record, name), *place, name) for name in kind.sealed})
