"""Waiting for several things at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from twisted.internet.defer import Deferred, FirstError, gatherResults

__all__ = ["all_of"]

T = TypeVar("T")


async def all_of(waiting: Sequence[Deferred[T]]) -> list[T]:
    """All results; as soon as one fails it raises that error, and the others are cancelled."""
    try:
        return await gatherResults(waiting, consumeErrors=True)
    except FirstError as e:
        for one in waiting:
            one.cancel()
        raise e.subFailure.value or e from e
