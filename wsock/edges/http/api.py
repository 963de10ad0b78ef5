"""The REST API: publishing, history and presence, with the permissions of the WebSocket."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qs, unquote_to_bytes

import msgspec
from msgspec import UNSET, Raw, UnsetType
from twisted.internet.defer import CancelledError, Deferred, gatherResults, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Request

from wsock.edges.gate import split_bearer
from wsock.edges.http.answers import internal_error
from wsock.errors import Code, Malformed, Refused
from wsock.protocol.channels import check_channel
from wsock.protocol.codec import check_text
from wsock.protocol.frames import NULL, HistoryPage, Member
from wsock.protocol.messages import HistoryQuery, Receipt
from wsock.protocol.permissions import Operation
from wsock.services.auth import Auth, Credential
from wsock.services.messages import MAX_HISTORY, Messages
from wsock.services.presence import Presence

__all__ = ["MAX_BATCH", "Accepted", "AcceptedBatch", "Api", "Members", "NotAccepted"]

MAX_BATCH = 100
"""Messages that one request may publish."""

_MAX_TIMESTAMP = 1 << 53
T = TypeVar("T")

_integer = re.compile(r"[0-9]{1,16}").fullmatch


class _Item(msgspec.Struct, frozen=True):
    """A message as it is posted. Unknown fields are ignored."""

    data: Raw = NULL
    id: str | None = None
    persist: bool | None = None


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


class NotAccepted(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """Why one message of a batch was not accepted. ``retry_after`` is in seconds."""

    error: str
    code: str
    id: str | UnsetType = UNSET
    retry_after: float | UnsetType = UNSET


class AcceptedBatch(msgspec.Struct, frozen=True):
    """What became of each message, in the order in which they were posted."""

    messages: list[Accepted | NotAccepted]


class Members(msgspec.Struct, frozen=True):
    """Who is present in a channel."""

    channel: str
    members: list[Member]
    total: int


_decode_item = msgspec.json.Decoder(_Item).decode
_decode_body = msgspec.json.Decoder(_Body).decode
_decode_list = msgspec.json.Decoder(list[Raw]).decode


class Api:
    """Answers requests; what they may not or can't do is raised as :class:`Refused`."""

    _log = Logger()

    def __init__(self, messages: Messages, presence: Presence, auth: Auth, *, max_body_bytes: int) -> None:
        self._messages = messages
        self._presence = presence
        self._auth = auth
        self._max_body_bytes = max_body_bytes

    async def publish(self, request: Request, channel: str) -> Accepted | AcceptedBatch:
        """Publishes what the body says, as soon as the broker has accepted it."""
        credential, channel = await self._authorize(request, channel, "publish")
        body = self._body(request)
        batch = _batch(body)
        if batch is None:
            item = _decode(_decode_item, body)
            return _accepted(await self._publish(credential, channel, item))
        # They are handed to the broker in this order before any is waited for, so that it accepts them in it.
        outcomes = [self._publish_one(credential, channel, text) for text in batch]
        return AcceptedBatch(await gatherResults(outcomes, consumeErrors=True))

    async def history(self, request: Request, channel: str) -> HistoryPage:
        """The page that the query asks for: ``limit``, ``before``, ``after``, ``direction``."""
        credential, channel = await self._authorize(request, channel, "history")
        page = await self._messages.history(credential.app, channel, _history_query(request))
        return HistoryPage(channel, [message.entry() for message in page.messages], page.has_more)

    async def members(self, request: Request, channel: str) -> Members:
        """The members of the channel."""
        credential, channel = await self._authorize(request, channel, "presence")
        members = await self._presence.members(credential.app, channel)
        return Members(channel, members, len(members))

    # Who asks.

    async def _authorize(self, request: Request, segment: str, operation: Operation) -> tuple[Credential, str]:
        """The credential, and the name of the channel on which it allows the operation."""
        credential = await self._credential(request)
        channel = _channel(segment)
        credential.permissions.require(operation, channel)
        return credential, channel

    async def _credential(self, request: Request) -> Credential:
        scheme, _, text = _header(request, "authorization").partition(" ")
        if scheme.lower() != "bearer" or not text.strip():
            text = "a credential is missing: give an API key or a JWT as 'Authorization: Bearer ...'"
            raise Refused(Code.UNAUTHORIZED, text)
        token, key = split_bearer(text.strip())
        credential = await self._auth.credential(key=key, token=token)
        self._auth.check_origin(credential, _header(request, "origin") or None)
        app = _header(request, "x-app-id")
        if app and app != credential.app:
            raise Refused(Code.FORBIDDEN, "the credential is not one of the app that X-App-Id names")
        return credential

    # What is published.

    def _body(self, request: Request) -> bytes:
        content: Any = request.content
        content.seek(0)
        body: bytes = content.read(self._max_body_bytes + 1)
        if len(body) > self._max_body_bytes:
            limit = self._max_body_bytes
            raise Refused(Code.TOO_LARGE, f"the body has more than {limit} bytes (limits.http_body_bytes)")
        if not body:
            raise Malformed("the body is empty: it takes a JSON object with 'data', or with 'messages'")
        check_text(body)
        return body

    def _publish(self, credential: Credential, channel: str, item: _Item) -> Deferred[Receipt]:
        return self._messages.publish(
            credential.app,
            channel,
            # A copy: the text of one message must not keep the whole body in memory.
            item.data.copy(),
            id=item.id,
            identity=credential.identity,
            publisher_id=credential.client_id or "server",
            persist=item.persist is not False,
            user=credential.client_id,
        )

    def _publish_one(self, credential: Credential, channel: str, text: Raw) -> Deferred[Accepted | NotAccepted]:
        """Always fires with an outcome: in a batch each message fares for itself."""
        item = _Item()
        try:
            item = _decode(_decode_item, text)
            publishing = self._publish(credential, channel, item)
        except Refused as e:
            return succeed(_not_accepted(e, item.id))
        return publishing.addCallbacks(_accepted, self._explain, errbackArgs=(item.id,))

    def _explain(self, failure: Failure, id: str | None) -> NotAccepted:
        error = failure.value
        if isinstance(error, Refused):
            return _not_accepted(error, id)
        if not failure.check(CancelledError):
            self._log.failure("a message of a batch failed", failure=failure)
        return _not_accepted(internal_error(), id)


def _header(request: Request, name: str) -> str:
    value = request.getHeader(name.encode("ascii"))
    return "" if value is None else value.decode("latin-1").strip()


def _channel(segment: str) -> str:
    """The name that a segment of the path is the percent-encoding of."""
    try:
        name = unquote_to_bytes(segment).decode()
    except UnicodeDecodeError as e:
        raise Refused(Code.CHANNEL_NAME, "the channel name in the path is not percent-encoded UTF-8") from e
    check_channel(name)
    return name


def _decode(decode: Callable[[bytes], T], text: bytes) -> T:
    try:
        return decode(text)
    except msgspec.ValidationError as e:
        raise Malformed(f"the body: {e}") from e
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as e:
        raise Malformed(f"the body is not JSON: {e}") from e


def _batch(body: bytes) -> list[Raw] | None:
    """The texts of the messages, or ``None`` when the body is one message itself."""
    if body.lstrip(b" \t\r\n").startswith(b"["):
        texts = _decode(_decode_list, body)
    else:
        posted = _decode(_decode_body, body)
        if posted.messages is UNSET:
            return None
        if posted.data is not UNSET:
            raise Malformed("the body takes either 'data' or 'messages'")
        texts = posted.messages
    if not texts:
        raise Malformed("'messages' is empty: it takes 1 to 100 messages")
    if len(texts) > MAX_BATCH:
        raise Refused(Code.LIMIT_EXCEEDED, f"'messages' has {len(texts)} messages: it takes 1 to {MAX_BATCH}")
    return texts


def _accepted(receipt: Receipt) -> Accepted:
    r = receipt
    return Accepted(r.id, r.channel, r.timestamp, r.epoch, r.sequence, r.is_duplicate)


def _not_accepted(refused: Refused, id: str | None) -> NotAccepted:
    retry_after = UNSET if refused.retry_after is None else refused.retry_after
    return NotAccepted(refused.text, refused.code.value, UNSET if id is None else id, retry_after)


def _history_query(request: Request) -> HistoryQuery:
    fields = _query(request)
    limit = _number(fields, "limit", 1, MAX_HISTORY)
    return HistoryQuery(
        limit=50 if limit is None else limit,
        before=_number(fields, "before", 0, _MAX_TIMESTAMP),
        after=_number(fields, "after", 0, _MAX_TIMESTAMP),
        direction=_direction(fields),
    )


def _query(request: Request) -> dict[str, list[str]]:
    text = request.uri.partition(b"?")[2].decode("latin-1")
    try:
        return parse_qs(text, keep_blank_values=True, max_num_fields=100)
    except ValueError as e:
        raise Malformed("the query has too many fields") from e


def _single(fields: dict[str, list[str]], name: str) -> str | None:
    values = fields.get(name)
    if values is None:
        return None
    if len(values) > 1:
        raise Malformed(f"'{name}' appears more than once in the query")
    return values[0]


def _number(fields: dict[str, list[str]], name: str, least: int, most: int) -> int | None:
    text = _single(fields, name)
    if text is None:
        return None
    if not _integer(text) or not least <= int(text) <= most:
        raise Malformed(f"'{name}' takes an integer from {least} to {most}")
    return int(text)


def _direction(fields: dict[str, list[str]]) -> Literal["forward", "backward"]:
    match _single(fields, "direction"):
        case None | "backward":
            return "backward"
        case "forward":
            return "forward"
    raise Malformed("'direction' takes forward or backward")
