"""What is posted to be published, one message or several, and what became of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType
from twisted.internet.defer import CancelledError, Deferred, gatherResults, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from wsock.edges.http.answers import internal_error
from wsock.errors import Code, Malformed, Refused
from wsock.protocol.channels import check_channel
from wsock.protocol.frames import NULL
from wsock.protocol.messages import Receipt
from wsock.services.oversight import Post

__all__ = ["MAX_BATCH", "Accepted", "AcceptedBatch", "Batch", "Item", "Outcome", "Posting", "SpreadBatch", "SpreadItem"]

MAX_BATCH = 100
"""Messages that one request may publish."""

_SPACE = b" \t\r\n"
T = TypeVar("T")


class Item(msgspec.Struct, frozen=True):
    """A message as it is posted. Unknown fields are ignored; ``id`` makes repeating it harmless."""

    data: Raw = msgspec.field(default_factory=lambda: NULL)
    id: Annotated[str, Meta(max_length=255)] | None = None
    persist: bool | None = None


class SpreadItem(Item, frozen=True):
    """A message with the channel that it is for."""

    channel: str = ""


class Batch(msgspec.Struct, frozen=True):
    """Several messages; a bare list of them is the same."""

    messages: Annotated[list[Item], Meta(min_length=1, max_length=MAX_BATCH)]


class SpreadBatch(msgspec.Struct, frozen=True):
    """Several messages, each with its channel; a bare list of them is the same."""

    messages: Annotated[list[SpreadItem], Meta(min_length=1, max_length=MAX_BATCH)]


class _Body(msgspec.Struct, frozen=True):
    """A posted object: one message, or several under ``messages``."""

    data: Raw | UnsetType = UNSET
    messages: list[Raw] | UnsetType = UNSET


class Accepted(msgspec.Struct, frozen=True):
    """That a message was accepted, and where; of a ``duplicate`` the first one's."""

    id: str
    channel: str
    timestamp: int
    epoch: str
    sequence: int
    duplicate: bool


class Outcome(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What became of one message of a batch: what an accepted one has, or else ``error`` and ``code``.

    ``retry_after`` is in seconds.
    """

    id: str | UnsetType = UNSET
    channel: str | UnsetType = UNSET
    timestamp: int | UnsetType = UNSET
    epoch: str | UnsetType = UNSET
    sequence: int | UnsetType = UNSET
    duplicate: bool | UnsetType = UNSET
    error: str | UnsetType = UNSET
    code: str | UnsetType = UNSET
    retry_after: float | UnsetType = UNSET


class AcceptedBatch(msgspec.Struct, frozen=True):
    """What became of each message, in the order in which they were posted."""

    messages: list[Outcome]


_decode_item = msgspec.json.Decoder(Item).decode
_decode_spread = msgspec.json.Decoder(SpreadItem).decode
_decode_body = msgspec.json.Decoder(_Body).decode
_decode_list = msgspec.json.Decoder(list[Raw]).decode


class Posting:
    """Publishes what bodies hold by ``post``. In a batch each message fares for itself."""

    _log = Logger()

    def __init__(self, post: Post) -> None:
        self._post = post

    async def publish(self, channel: str, body: Raw) -> Accepted | AcceptedBatch:
        """Publishes one message or a batch, as soon as the broker has accepted it."""
        batch = _batch(bytes(body))
        if batch is None:
            receipt = await self._publish(channel, _decode(_decode_item, body))
            return Accepted(
                receipt.id, receipt.channel, receipt.timestamp, receipt.epoch, receipt.sequence, receipt.is_duplicate
            )
        return await self._all([self._one(text, channel) for text in batch])

    async def spread(self, body: Raw) -> AcceptedBatch:
        """Publishes messages, each to the channel that it names."""
        batch = _batch(bytes(body))
        if batch is None:
            raise Malformed("the body takes 'messages': a list of messages, each with its 'channel'")
        return await self._all([self._one(text, None) for text in batch])

    async def _all(self, outcomes: list[Deferred[Outcome]]) -> AcceptedBatch:
        # They were handed to the broker in this order before any is waited for, so that it accepts them in it.
        return AcceptedBatch(await gatherResults(outcomes, consumeErrors=True))

    def _publish(self, channel: str, item: Item) -> Deferred[Receipt]:
        # A copy: the text of one message must not keep the whole body in memory.
        return self._post(channel, item.data.copy(), id=item.id, persist=item.persist is not False)

    def _one(self, text: Raw, channel: str | None) -> Deferred[Outcome]:
        """Always fires with an outcome. Without a ``channel`` the message names its own."""
        id: str | None = None
        try:
            item: Item = _decode(_decode_item if channel is not None else _decode_spread, text)
            id = item.id
            if isinstance(item, SpreadItem):
                check_channel(item.channel)
                channel = item.channel
            assert channel is not None, "it is given, or the item's"
            publishing = self._publish(channel, item)
        except Refused as e:
            return succeed(_not_accepted(e, id))
        return publishing.addCallbacks(_accepted, self._explain, errbackArgs=(id,))

    def _explain(self, failure: Failure, id: str | None) -> Outcome:
        error = failure.value
        if isinstance(error, Refused):
            return _not_accepted(error, id)
        if not failure.check(CancelledError):
            self._log.failure("a message of a batch failed", failure=failure)
        return _not_accepted(internal_error(), id)


def _decode(decode: Callable[[bytes], T], text: bytes | Raw) -> T:
    try:
        return decode(text)
    except msgspec.ValidationError as e:
        raise Malformed(f"the body: {e}") from e
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as e:
        raise Malformed(f"the body is not JSON: {e}") from e


def _batch(body: bytes) -> list[Raw] | None:
    """The texts of the messages, or ``None`` when the body is one message itself."""
    if body.lstrip(_SPACE).startswith(b"["):
        texts = _decode(_decode_list, body)
    else:
        posted = _decode(_decode_body, body)
        if posted.messages is UNSET:
            return None
        if posted.data is not UNSET:
            raise Malformed("the body takes either 'data' or 'messages'")
        texts = posted.messages
    if not texts:
        raise Malformed(f"'messages' is empty: it takes 1 to {MAX_BATCH} messages")
    if len(texts) > MAX_BATCH:
        raise Refused(Code.LIMIT_EXCEEDED, f"'messages' has {len(texts)} messages: it takes 1 to {MAX_BATCH}")
    return texts


def _accepted(receipt: Receipt) -> Outcome:
    r = receipt
    return Outcome(
        id=r.id,
        channel=r.channel,
        timestamp=r.timestamp,
        epoch=r.epoch,
        sequence=r.sequence,
        duplicate=r.is_duplicate,
    )


def _not_accepted(refused: Refused, id: str | None) -> Outcome:
    return Outcome(
        id=UNSET if id is None else id,
        error=refused.text,
        code=refused.code.value,
        retry_after=UNSET if refused.retry_after is None else refused.retry_after,
    )
