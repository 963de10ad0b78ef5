"""Who is to be told of what happened: turns events into the rows of the outbox, from which webhooks are sent.

A row is stored before the work that the event came with is acknowledged, so that a crash repeats an event and never
loses it. A repeated one has the same id, and makes no second row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from wsock.interfaces import Endpoint, Event, IDirectory, IOutboxStore, JournalRecord, OutboxRow
from wsock.protocol.channels import Pattern
from wsock.protocol.codec import encode
from wsock.protocol.messages import Message
from wsock.services.directory_cache import Lookups

__all__ = ["Outbox"]

_PUBLISHED = "message.published"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listener:
    """An enabled endpoint, with its patterns compiled."""

    endpoint: str
    types: tuple[Pattern, ...]
    channels: Pattern | None
    is_ordered: bool
    is_batched: bool

    def wants_type(self, type: str) -> bool:
        return not self.types or any(pattern.matches(type) for pattern in self.types)

    def wants_channel(self, channel: str) -> bool:
        """Whether events of the channel are told; those of no channel (empty) always are."""
        return self.channels is None or not channel or self.channels.matches(channel)


class Outbox:
    """Fills the outbox.

    The endpoints of an app are remembered for ``seconds``, those of ``size`` apps: so soon does a change of them take
    effect, or as soon as :meth:`forget` is called. ``stored`` counts the rows. ``added`` is called after each addition:
    there is something to be delivered.
    """

    def __init__(
        self,
        directory: IDirectory,
        store: IOutboxStore,
        now: Callable[[], float],
        *,
        seconds: float = 5.0,
        size: int = 10_000,
    ) -> None:
        self._directory = directory
        self._store = store
        self._now = now
        self.stored = 0
        self.added: Callable[[], None] = lambda: None
        self._listeners: Lookups[tuple[_Listener, ...]] = Lookups(self._find_listeners, now, seconds, size)

    async def record(self, events: Iterable[Event], messages: Mapping[str, Sequence[Message]] | None = None) -> None:
        """Stores what is to be told of the events, and of the messages (by app) that they were published.

        It is durable when this returns. Raises :class:`Unavailable`, and may be repeated then.
        """
        rows: list[OutboxRow] = []
        for event in events:
            wanting = await self._wanting(event.app, event.type)
            rows += self._rows(event, (one for one in wanting if one.wants_channel(event.channel)))
        for app, published in (messages or {}).items():
            rows += self._published(app, published, await self._wanting(app, _PUBLISHED))
        if rows:
            await self._store.add(rows)
            self.note(rows)

    async def is_ordered(self, events: Iterable[Event], messages: Mapping[str, Sequence[Message]]) -> bool:
        """Whether any of these may be to be told in order: then they are to be recorded so."""
        for app in {event.app for event in events} | messages.keys():
            if any(one.is_ordered for one in await self._listeners.get(app) or ()):
                return True
        return False

    async def rows(self, records: Sequence[JournalRecord]) -> list[OutboxRow]:
        """What is to be told of messages that are about to be committed: whoever commits them stores these as well.

        Raises :class:`Unavailable` when that can't be known now.
        """
        rows: list[OutboxRow] = []
        wanting: dict[str, list[_Listener]] = {}
        for record in records:
            listeners = wanting.get(record.app)
            if listeners is None:
                listeners = wanting[record.app] = await self._wanting(record.app, _PUBLISHED)
            if listeners:
                rows += self._published(record.app, [record.message], listeners)
        return rows

    def note(self, rows: Sequence[OutboxRow]) -> None:
        """These rows were stored."""
        self.stored += len(rows)
        self.added()

    def may_want(self, app: str, type: str, channel: str = "") -> bool:
        """Whether somebody wants such an event, as far as is known at this moment; what is not known may be."""
        listeners = self._listeners.known(app)
        if listeners is None:
            return True
        return any(one.wants_type(type) and one.wants_channel(channel) for one in listeners)

    async def forget(self) -> None:
        """The directory was changed: endpoints are looked up again."""
        self._listeners.forget()

    async def _wanting(self, app: str, type: str) -> list[_Listener]:
        return [listener for listener in await self._listeners.get(app) or () if listener.wants_type(type)]

    async def _find_listeners(self, app: str) -> tuple[_Listener, ...]:
        return tuple(_listener(endpoint) for endpoint in await self._directory.endpoints(app) if endpoint.is_enabled)

    def _published(self, app: str, messages: Sequence[Message], listeners: Sequence[_Listener]) -> list[OutboxRow]:
        """The rows of messages. An event is made only where somebody wants it: it costs a copy of the message."""
        if not listeners:
            return []
        rows: list[OutboxRow] = []
        for message in messages:
            if wanting := [one for one in listeners if one.wants_channel(message.channel)]:
                rows += self._rows(_published_event(app, message), wanting)
        return rows

    def _rows(self, event: Event, listeners: Iterable[_Listener]) -> list[OutboxRow]:
        now = self._now()
        return [OutboxRow(event, one.endpoint, now, one.is_ordered, one.is_batched) for one in listeners]


def _listener(endpoint: Endpoint) -> _Listener:
    return _Listener(
        endpoint=endpoint.id,
        types=tuple(map(Pattern, endpoint.events)),
        channels=None if endpoint.channels is None else Pattern(endpoint.channels),
        is_ordered=endpoint.is_ordered,
        is_batched=endpoint.is_batched,
    )


def _published_event(app: str, message: Message) -> Event:
    """That the message was published, with the message as history shows it."""
    id = f"{message.epoch}-{message.sequence}@{app}/{message.channel}"
    return Event(id=id, app=app, channel=message.channel, type=_PUBLISHED, data=encode(message.entry()))
