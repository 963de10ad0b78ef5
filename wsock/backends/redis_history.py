"""History in a cluster: what is persisted, with what is not yet; or all from the channels' logs.

An acknowledged message is part of the answer on every node, wherever it is on its way.
"""

from __future__ import annotations

from collections.abc import Iterable

from zope.interface import implementer

from wsock.backends.redis_broker import RedisBroker
from wsock.interfaces import IMessageStore
from wsock.protocol.messages import HistoryQuery, Message, Page

__all__ = ["LogHistory", "MergedHistory"]


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
        waiting = await self._broker.shard(app, channel).page(app, channel, query, is_all=False)
        page = await self._store.page(app, channel, query)
        return _merged(page, waiting, query) if waiting.messages else page


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
        """A page of the log."""
        page = await self._broker.shard(app, channel).page(app, channel, query, is_all=True)
        return Page(_sorted(page.messages, query), page.has_more)


def _sorted(messages: Iterable[Message], query: HistoryQuery) -> list[Message]:
    is_backward = query.direction == "backward"
    return sorted(messages, key=lambda m: (m.timestamp, m.epoch, m.sequence), reverse=is_backward)


def _merged(page: Page, waiting: Page, query: HistoryQuery) -> Page:
    """What both have, as far as both go."""
    together = {message.position: message for message in (*waiting.messages, *page.messages)}
    messages = _sorted(together.values(), query)
    is_backward = query.direction == "backward"
    for part in (page, waiting):
        if part.has_more and part.messages:
            # Behind the end of a part that is cut, there are messages that are not known here.
            end = part.messages[-1].timestamp
            messages = [m for m in messages if (m.timestamp >= end if is_backward else m.timestamp <= end)]
    return _cut(messages, query, page.has_more or waiting.has_more)


def _cut(messages: list[Message], query: HistoryQuery, has_more: bool) -> Page:
    end = query.limit
    while end < len(messages) and messages[end].timestamp == messages[end - 1].timestamp:
        end += 1
    return Page(messages[:end], has_more or end < len(messages))
