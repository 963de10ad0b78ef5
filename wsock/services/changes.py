"""Changes of records that others may be changing at the same moment."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from wsock.errors import Code, Conflict, Refused
from wsock.interfaces import IRecords
from wsock.records import Record, kind_of

__all__ = ["change", "each", "remove_all"]

_R = TypeVar("_R", bound=Record)

_ATTEMPTS = 20
_PAGE = 500


async def change(records: IRecords, kind: type[_R], id: str, how: Callable[[_R], _R]) -> _R:
    """Changes the record as it is then, again if another change was faster; returns what is stored.

    ``how`` may raise. Raises :class:`Refused` with ``not_found`` when there is no such record, and
    :class:`Conflict` when it can't be stored.
    """
    for attempt in range(_ATTEMPTS):
        stored = await records.find(kind, id)
        if stored is None:
            raise Refused(Code.NOT_FOUND, f"there is no {kind_of(kind).name} with the id '{id}'")
        try:
            return await records.replace(how(stored))
        except Conflict:
            if attempt == _ATTEMPTS - 1 or await records.find(kind, id) == stored:
                raise
    raise AssertionError("the last attempt returns or raises")


async def remove_all(records: IRecords, kind: type[Record], field: str, value: str) -> None:
    """Removes all records that have this value of a field that lists are asked for by."""
    async for record in each(records, kind, field, value):
        await records.remove(kind, record.id)


async def each(records: IRecords, kind: type[_R], field: str, value: str) -> AsyncIterator[_R]:
    """All records that have this value of a field that lists are asked for by."""
    cursor: str | None = None
    while True:
        page = await records.page(kind, {field: value}, cursor, _PAGE)
        for record in page.items:
            yield record
        cursor = page.next
        if cursor is None:
            return
