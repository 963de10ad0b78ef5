"""What the deleted apps of a team used in the month: its new apps begin with that.

Theory of operation. Meters go by app, so a new app would begin the month anew. Whoever deletes an app adds what it used
to the part of the month that its team has; whoever makes one copies that to it. It stands in counts of its own beside
those of what happened in the app itself, and ends with the month as they do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from wsock.interfaces import IMeterStore, Sample
from wsock.measures import Span
from wsock.records import App
from wsock.services.meters import Meters

__all__ = ["Carrying", "messages_used", "pushes_used"]

_MESSAGES, _PUSHES = "carried_messages", "carried_push"


class Carrying:
    """Carries the month's usage from deleted apps to new ones. ``now`` is the time in seconds."""

    def __init__(self, meters: Meters, store: IMeterStore, now: Callable[[], float]) -> None:
        self._meters = meters
        self._store = store
        self._now = now

    async def leave(self, app: App) -> None:
        """Notes what the app has used, before it is deleted. Raises :class:`Unavailable` when that can't be told."""
        await self._meters.flush()
        counts = await self._month(app.id)
        # What it was carried itself is noted already. Where deleting is tried again, the same number adds nothing.
        used = {_MESSAGES: counts.get("messages_in", 0), _PUSHES: _own_pushes(counts)}
        await self._add(f"deleted:{app.id}", Sample(_of_team(app), used, {}))

    async def begin(self, app: App) -> None:
        """The app is new: it begins with what was noted for its team. Raises :class:`Unavailable`."""
        counts = await self._month(_of_team(app))
        if counts:
            await self._add(f"created:{app.id}", Sample(app.id, counts, {}))

    async def _month(self, app: str) -> dict[str, int]:
        parts = await self._store.buckets([app], Span.MONTH, Span.MONTH.start(self._milliseconds()))
        return parts[app].counts if app in parts else {}

    async def _add(self, node: str, sample: Sample) -> None:
        await self._store.add(node, 1, self._milliseconds(), [sample])

    def _milliseconds(self) -> int:
        return int(self._now() * 1000)


def messages_used(counts: Mapping[str, int]) -> int:
    """The messages of a month that count for an app: its own, and those it was carried."""
    return counts.get("messages_in", 0) + counts.get(_MESSAGES, 0)


def pushes_used(counts: Mapping[str, int]) -> int:
    """The same for push messages."""
    return _own_pushes(counts) + counts.get(_PUSHES, 0)


def _own_pushes(counts: Mapping[str, int]) -> int:
    return sum(count for name, count in counts.items() if name.startswith("push:"))


def _of_team(app: App) -> str:
    """Under which name the store has what the team's deleted apps used; no app has such an id."""
    return f"team:{app.team}"
