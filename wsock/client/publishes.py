"""The publishes that wait for their acks, in the order in which they were made."""

from __future__ import annotations

from collections.abc import Iterator

from wsock.client.effects import Call
from wsock.client.errors import ClientError
from wsock.errors import Code

__all__ = ["Publishes"]


class Publishes:
    """Publishes by channel and id; at most ``limit``."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._calls: dict[tuple[str, str], Call] = {}

    def __iter__(self) -> Iterator[Call]:
        return iter(list(self._calls.values()))

    def add(self, call: Call) -> ClientError | None:
        """Keeps the publish until it is answered, or says why not."""
        if len(self._calls) >= self._limit:
            text = f"{self._limit} publishes are waiting for their acks already (max_pending)"
            return ClientError(Code.LIMIT_EXCEEDED, text, channel=call.channel)
        if (call.channel, call.id) in self._calls:
            text = f"a publish with the id '{call.id}' is waiting for its ack already"
            return ClientError(Code.BAD_REQUEST, text, channel=call.channel)
        self._calls[call.channel, call.id] = call
        return None

    def remove(self, channel: str, id: str) -> Call | None:
        """The publish, which is answered or given up."""
        return self._calls.pop((channel, id), None)

    def find(self, channel: str | None, id: str) -> Call | None:
        """The publish that failed; an error may lack the channel."""
        if channel is not None:
            return self.remove(channel, id)
        found = next((key for key in self._calls if key[1] == id), None)
        return self._calls.pop(found) if found is not None else None

    def clear(self) -> None:
        """Forgets all of them."""
        self._calls.clear()
