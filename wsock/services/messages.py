"""Publishing, and the past."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Raw
from twisted.internet.defer import Deferred

from wsock.errors import Code, Refused
from wsock.interfaces import IBroker, IMessageStore, Outcome
from wsock.protocol.channels import check_channel
from wsock.protocol.codec import check_text, encode
from wsock.protocol.messages import HistoryQuery, Page, Publication, Receipt
from wsock.services.rates import RateLimiter

__all__ = ["MAX_HISTORY", "Messages"]

MAX_HISTORY = 1000
"""Messages that one page of history may have (a run of equal timestamps is not cut, so it may be a little longer)."""

_MAX_ID = 255


class Messages:
    """The messages of all channels.

    ``max_bytes`` bounds the JSON text of a message's data; with ``keeps_history`` off, messages are recoverable for
    the recovery window and are no history. The ``limiter`` says what is too much; without one nothing is. ``published``
    counts what was handed to the broker.
    """

    def __init__(
        self,
        broker: IBroker,
        store: IMessageStore,
        new_id: Callable[[], str],
        *,
        max_bytes: int = 65536,
        keeps_history: bool = True,
        limiter: RateLimiter | None = None,
    ) -> None:
        self._broker = broker
        self._store = store
        self._new_id = new_id
        self._max_bytes = max_bytes
        self._keeps_history = keeps_history
        self._limiter = limiter
        self.published = 0

    def publish(
        self,
        app: str,
        channel: str,
        data: Any,
        *,
        id: str | None = None,
        identity: str = "server",
        publisher_id: str = "server",
        persist: bool = True,
        user: str | None = None,
    ) -> Deferred[Receipt]:
        """Accepts a message; fires with its receipt when it is as durable as the broker makes it.

        ``data`` is anything that JSON can say, or its text as :class:`msgspec.Raw`, which must have been through
        :func:`~wsock.protocol.codec.check_text` and is passed on byte for byte. With an ``id`` a repeated publish by
        the same ``identity`` within the deduplication window gets the first receipt and is delivered once. The
        ``user`` is whose rate it counts for; an app's and a channel's it counts for in any case. Raises
        :class:`Refused` at once for what can't be published; the Deferred fails with a :class:`Refused` when that
        turns out later, and :class:`~wsock.errors.Unavailable` when nothing was accepted.
        """
        check_channel(channel)
        accepted: Deferred[Receipt] = Deferred()
        self.submit(
            app,
            channel,
            data,
            accepted,
            id=id,
            identity=identity,
            publisher_id=publisher_id,
            persist=persist,
            user=user,
        )
        return accepted

    def submit(
        self,
        app: str,
        channel: str,
        data: Any,
        outcome: Outcome,
        *,
        id: str | None = None,
        identity: str = "server",
        publisher_id: str = "server",
        persist: bool = True,
        user: str | None = None,
    ) -> None:
        """As :meth:`publish`, of a channel whose name is known to be valid; tells the outcome without a Deferred."""
        if not isinstance(data, Raw):
            text = encode(data)
            check_text(text)
            data = Raw(text)
        size = len(memoryview(data))
        if size > self._max_bytes:
            limit = self._max_bytes
            raise Refused(Code.TOO_LARGE, f"the data has {size} bytes, more than {limit} (limits.message_bytes)")
        if id is not None and len(id) > _MAX_ID:
            raise Refused(Code.BAD_REQUEST, f"the id has more than {_MAX_ID} characters")
        admission = None if self._limiter is None else self._limiter.admit(app, channel, user)
        publication = Publication(
            app=app,
            channel=channel,
            data=data,
            id=id or self._new_id(),
            has_id=bool(id),
            identity=identity,
            publisher_id=publisher_id,
            persist=persist and self._keeps_history,
        )
        if admission is None:
            self._accept(publication, outcome)
        else:
            admission.addCallbacks(lambda _: self._accept(publication, outcome), outcome.errback)

    def _accept(self, publication: Publication, outcome: Outcome) -> None:
        self.published += 1
        self._broker.publish(publication, outcome)

    async def history(self, app: str, channel: str, query: HistoryQuery) -> Page:
        """A page of the channel's past. The query's limit is clamped to 1 to :data:`MAX_HISTORY`."""
        check_channel(channel)
        limit = max(1, min(query.limit, MAX_HISTORY))
        return await self._store.page(
            app,
            channel,
            HistoryQuery(limit=limit, before=query.before, after=query.after, direction=query.direction),
        )
