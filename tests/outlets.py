"""The writing end of a connection, for tests: it keeps what is written to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.defer import Deferred

__all__ = ["RecordingOutlet", "events_of"]


class RecordingOutlet:
    """A Paced that keeps each write; ``writing`` is called in the middle of one."""

    def __init__(self, writing: Callable[[], object] | None = None) -> None:
        self.pending: list[bytes] | None = None
        self.writes: list[bytes] = []
        self.is_aborted = False
        self.is_paused = False
        self._writing = writing
        self._waiting: list[Deferred[None]] = []

    def write(self, frames: bytes) -> None:
        """Keeps what is pending and the frames, as one write."""
        if self.pending is not None:
            frames = b"".join(self.pending) + frames
            self.pending = None
        self.writes.append(frames)
        if self._writing is not None:
            self._writing()

    def abort(self) -> None:
        """Notes it."""
        self.is_aborted = True

    def drained(self) -> Deferred[None] | None:
        """Fires when the outlet resumes, if it is paused."""
        if not self.is_paused:
            return None
        drained: Deferred[None] = Deferred()
        self._waiting.append(drained)
        return drained

    def resume(self) -> None:
        """The client has read enough; it may be paused again at once by who is told."""
        self.is_paused = False
        waiting, self._waiting = self._waiting, []
        for drained in waiting:
            drained.callback(None)

    @property
    def bytes_written(self) -> int:
        """How much was written."""
        return sum(map(len, self.writes))

    @property
    def events(self) -> list[dict[str, Any]]:
        """All events that were written."""
        return events_of(b"".join(self.writes))

    @property
    def seen(self) -> list[str]:
        """What the client saw: ``room 3`` for a message, else ``error room``."""
        return [_told(event) for event in self.events]


def events_of(data: bytes) -> list[dict[str, Any]]:
    """The events in unmasked, unfragmented text frames."""
    events = []
    at = 0
    while at < len(data):
        size, body = data[at + 1], at + 2
        if size > 125:
            body += 2 if size == 126 else 8
            size = int.from_bytes(data[at + 2 : body], "big")
        events.append(msgspec.json.decode(data[body : body + size], type=dict[str, Any]))
        at = body + size
    return events


def _told(event: dict[str, Any]) -> str:
    if event["action"] == "message":
        return f"{event['channel']} {event['sequence']}"
    return f"{event.get('code', event['action'])} {event['channel']}"
