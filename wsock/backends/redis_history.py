"""History in a cluster: what is persisted, with what is not yet; or all from the channels' logs.

An acknowledged message is part of the answer on every node, wherever it is on its way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zope.interface import implementer

from wsock.backends.redis_broker import RedisBroker, entry_message
from wsock.backends.redis_link import Script
from wsock.interfaces import IMessageStore
from wsock.protocol.messages import HistoryQuery, Message, Page

__all__ = ["LogHistory", "MergedHistory"]

_MAX_UNPERSISTED = 10_000
_CHUNK = 500

_unpersisted = Script.load("unpersisted")


@implementer(IMessageStore)
class MergedHistory:
    """A store, and what the logs have that it does not have yet."""

    def __init__(self, store: IMessageStore, broker: RedisBroker) -> None:
        self._store = store
        self._broker = broker

    async def append(self, app: str, messages: list[Message]) -> None:
        """Stores messages."""
        await self._store.append(app, messages)

    async def expire(self, app: str, before: int, transient_before: int, limit: int) -> int:
        """Deletes old messages."""
        return await self._store.expire(app, before, transient_before, limit)

    async def page(self, app: str, channel: str, query: HistoryQuery) -> Page:
        """A page of both together. The log is read first: what leaves it meanwhile is in the store by then."""
        shard = self._broker.shard(app, channel)
        entries = await shard.queries.run(_unpersisted, app, channel, _MAX_UNPERSISTED)
        waiting = [m for m in (entry_message(channel, entry) for entry in entries) if m.persist and _asks(query, m)]
        page = await self._store.page(app, channel, query)
        return _merged(page, waiting, query) if waiting else page


@implementer(IMessageStore)
class LogHistory:
    """The logs are the history, as far back as they go. Redis trims and expires them."""

    def __init__(self, broker: RedisBroker) -> None:
        self._broker = broker

    async def append(self, app: str, messages: list[Message]) -> None:
        """They are in the logs already."""

    async def expire(self, app: str, before: int, transient_before: int, limit: int) -> int:
        """Redis does that."""
        return 0

    async def page(self, app: str, channel: str, query: HistoryQuery) -> Page:
        """A page, read from one end of the log until it is full."""
        found: list[Message] = []
        is_backward = query.direction == "backward"
        command, start = ("XREVRANGE", "+") if is_backward else ("XRANGE", "-")
        end = "-" if is_backward else "+"
        queries = self._broker.shard(app, channel).queries
        while True:
            entries: list[Any] = await queries.call(command, _log(app, channel), start, end, "COUNT", _CHUNK)
            messages = [entry_message(channel, entry) for entry in entries]
            found += [m for m in messages if m.persist and _asks(query, m)]
            if len(entries) < _CHUNK or _is_full(found, query) or _is_past(query, messages[-1]):
                return _cut(found, query, has_more=False)
            start = f"({entries[-1][0].decode()}"


def _log(app: str, channel: str) -> str:
    return f"wsock:log:{app}:{channel}"


def _asks(query: HistoryQuery, message: Message) -> bool:
    is_early = query.before is None or message.timestamp < query.before
    return is_early and (query.after is None or message.timestamp > query.after)


def _is_full(found: list[Message], query: HistoryQuery) -> bool:
    """Whether there is a message behind the page's end that has another timestamp."""
    return len(found) > query.limit and found[-1].timestamp != found[query.limit - 1].timestamp


def _is_past(query: HistoryQuery, last: Message) -> bool:
    if query.direction == "backward":
        return query.after is not None and last.timestamp <= query.after
    return query.before is not None and last.timestamp >= query.before


def _order(query: HistoryQuery) -> Callable[[Message], tuple[int, str, int]]:
    return lambda m: (m.timestamp, m.epoch, m.sequence)


def _merged(page: Page, waiting: list[Message], query: HistoryQuery) -> Page:
    stored = {m.position for m in page.messages}
    is_backward = query.direction == "backward"
    key = _order(query)
    new = [m for m in waiting if m.position not in stored]
    if page.has_more and page.messages:
        # Behind the end of a page that is cut, the store has messages that are not known here.
        end = key(page.messages[-1])
        new = [m for m in new if (key(m) > end if is_backward else key(m) < end)]
    everything = sorted([*page.messages, *new], key=key, reverse=is_backward)
    return _cut(everything, query, page.has_more)


def _cut(messages: list[Message], query: HistoryQuery, has_more: bool) -> Page:
    end = query.limit
    while end < len(messages) and messages[end].timestamp == messages[end - 1].timestamp:
        end += 1
    return Page(messages[:end], has_more or end < len(messages))
