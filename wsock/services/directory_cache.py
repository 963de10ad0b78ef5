"""What the directory said lately: apps and keys, remembered for a few seconds and within a bound.

What was not found is remembered apart, so that a flood of invented keys never drives the real ones out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from wsock.interfaces import App, IDirectory, Key

__all__ = ["DirectoryCache", "Lookups", "Recent"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """A mapping of the ``size`` entries that were used last."""

    __slots__ = ("_entries", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """The entry, which counts as used."""
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        """Adds or replaces an entry; the one used longest ago goes when there is no room."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)


@dataclass(slots=True)
class Lookups(Generic[V]):
    """One kind of look-up, by one name; an answer is good for ``seconds``, and ``size`` of them are remembered.

    Look-ups of the same name that run at once are one. Errors are passed on and not remembered.
    """

    fetch: Callable[[str], Awaitable[V | None]]
    now: Callable[[], float]
    seconds: float
    size: int
    found: Recent[str, tuple[float, V]] = field(init=False)
    missing: Recent[str, float] = field(init=False)
    waiting: dict[str, list[Deferred[V | None]]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.found = Recent(self.size)
        self.missing = Recent(self.size)

    async def get(self, name: str) -> V | None:
        """What was found lately, or is found now."""
        entry = self.found.get(name)
        if entry is not None and self._is_fresh(entry[0]):
            return entry[1]
        missed = self.missing.get(name)
        if missed is not None and self._is_fresh(missed):
            return None
        return await self._shared(name)

    def known(self, name: str) -> V | None:
        """What was found lately; ``None`` when that has to be looked up, or there is nothing."""
        entry = self.found.get(name)
        return entry[1] if entry is not None and self._is_fresh(entry[0]) else None

    def _is_fresh(self, at: float) -> bool:
        return 0 <= self.now() - at < self.seconds

    def _shared(self, name: str) -> Deferred[V | None]:
        """The look-up that is under way, or a new one. Whoever cancels it gives up alone."""
        result: Deferred[V | None] = Deferred()
        waiting = self.waiting.get(name)
        if waiting is not None:
            waiting.append(result)
            return result
        waiting = self.waiting[name] = [result]
        Deferred.fromCoroutine(self._remember(name)).addBoth(self._answer, name, waiting)
        return result

    async def _remember(self, name: str) -> V | None:
        found, missing = self.found, self.missing
        value = await self.fetch(name)
        if value is None:
            missing.put(name, self.now())
        else:
            found.put(name, (self.now(), value))
        return value

    def _answer(self, outcome: V | None | Failure, name: str, waiting: list[Deferred[V | None]]) -> None:
        if self.waiting.get(name) is waiting:
            del self.waiting[name]
        for one in waiting:
            one.callback(outcome)

    def forget(self) -> None:
        """Nothing of before is remembered, nor what look-ups that are under way find; later ones don't share them."""
        self.found = Recent(self.size)
        self.missing = Recent(self.size)
        self.waiting = {}


def _without_use(fetch: Callable[[str], Awaitable[Key | None]]) -> Callable[[str], Awaitable[Key | None]]:
    """The look-up, of keys without their last use: it is no change of a key, so what was made of one stays good."""

    async def look_up(name: str) -> Key | None:
        key = await fetch(name)
        return key if key is None or key.last_used_at is None else replace(key, last_used_at=None)

    return look_up


class DirectoryCache:
    """Apps and keys, at most ``seconds`` old, and not older than the last :meth:`forget`. A key's last use is left out.

    Look-ups of the same name that run at once are one. Errors of the directory are passed on and not
    remembered.
    """

    def __init__(self, directory: IDirectory, now: Callable[[], float], *, seconds: float, size: int) -> None:
        self._apps: Lookups[App] = Lookups(directory.app, now, seconds, size)
        self._keys: Lookups[Key] = Lookups(_without_use(directory.key), now, seconds, size)
        self._hashes: Lookups[Key] = Lookups(_without_use(directory.key_by_hash), now, seconds, size)

        async def find(party: str) -> Key | None:
            return await directory.find_by(Key, "jwks_party", party)

        self._parties: Lookups[Key] = Lookups(_without_use(find), now, seconds, size)

    async def app(self, id: str) -> App | None:
        """The app of this id."""
        return await self._apps.get(id)

    async def key(self, id: str) -> Key | None:
        """The key of this id."""
        return await self._keys.get(id)

    async def key_by_hash(self, api_key_hash: str) -> Key | None:
        """The key whose API key has this SHA-256 in hex."""
        return await self._hashes.get(api_key_hash)

    async def key_by_party(self, party: str) -> Key | None:
        """The key that verifies the tokens of these parties."""
        return await self._parties.get(party)

    def forget(self) -> None:
        """Something was changed: everything is looked up again."""
        for lookups in (self._apps, self._keys, self._hashes, self._parties):
            lookups.forget()
