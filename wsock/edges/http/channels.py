"""Channels and connections for an app's own API keys and JWTs, with the permissions of the WebSocket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from msgspec import Raw
from twisted.internet.defer import Deferred

from wsock.edges.gate import split_bearer
from wsock.edges.http.live import (
    AnyQuery,
    Channel,
    ChannelList,
    ChannelsPart,
    ClientEnd,
    Connection,
    ConnectionEnd,
    ConnectionList,
    ConnectionsPart,
    Ended,
    Members,
    Timestamps,
    channel_answer,
    channel_list,
    connection_list,
    detail_answer,
    ended_answer,
    history_page,
    members_answer,
)
from wsock.edges.http.operations import Call, Group, NoBody, NoQuery, Right, operation
from wsock.edges.http.posting import Accepted, AcceptedBatch, Batch, Item, Posting, SpreadBatch
from wsock.errors import Code, Refused
from wsock.protocol.frames import HistoryPage
from wsock.protocol.messages import Receipt
from wsock.protocol.permissions import OPERATIONS
from wsock.records import App
from wsock.services.access import Actor
from wsock.services.audit import Audit
from wsock.services.auth import Credential
from wsock.services.census import Census, OccupiedChannel, Seen
from wsock.services.cursors import Cursors
from wsock.services.messages import Messages
from wsock.services.oversight import connection_of, ended_one
from wsock.services.presence import Presence

__all__ = ["ChannelGroup", "ConnectionGroup"]

_ROUNDS = 10
_PUBLISHING = (Code.RATE_LIMITED, Code.QUOTA_EXCEEDED, Code.LIMIT_EXCEEDED)


class ChannelGroup(Group):
    """What the channels of an app carry."""

    tag = "Channels"
    about = "The channels of the app whose API key or JWT it is: who is there, what they carry, and publishing."

    def __init__(self, messages: Messages, presence: Presence, census: Census, cursors: Cursors) -> None:
        self._cursors = cursors
        self._messages = messages
        self._presence = presence
        self._census = census

    @operation("GET", "/api/channels", needs=Right(None), asks_cluster=True)
    async def channels(self, call: Call[NoBody, ChannelsPart]) -> ChannelList:
        """Lists the channels that have subscribers now, with how many.

        Only those that the credential may subscribe to; a part may then hold less than the limit, or nothing, though
        another one follows.
        """
        query, credential = call.query, call.credential
        found: list[OccupiedChannel] = []
        of = ("channels", credential.app, query.prefix)
        cursor = None if query.cursor is None else self._cursors.open(query.cursor, *of)
        is_complete = True
        for _ in range(_ROUNDS):
            limit = query.limit - len(found)
            seen = await self._census.channels(credential.app, prefix=query.prefix, cursor=cursor, limit=limit)
            found += [item for item in seen.items if credential.permissions.allows("subscribe", item.channel)]
            cursor, is_complete = seen.next, is_complete and seen.is_complete
            if cursor is None or len(found) == query.limit:
                break
        # The place may be a channel that the credential must not know.
        return channel_list(Seen(found, None if cursor is None else self._cursors.seal(cursor, *of), is_complete))

    @operation("GET", "/api/channels/{channel}", needs=Right("subscribe"), asks_cluster=True)
    async def channel(self, call: Call[NoBody, NoQuery]) -> Channel:
        """Shows a channel: how many are there, and its last message's place and time."""
        return channel_answer(await self._census.channel(call.credential.app, call.path["channel"]))

    @operation(
        "POST",
        "/api/channels/{channel}/messages",
        needs=Right("publish"),
        errors=_PUBLISHING,
        takes=Item | Batch,
        example={"data": {"text": "hello"}, "id": "order-17"},
    )
    async def publish(self, call: Call[Raw, AnyQuery]) -> Accepted | AcceptedBatch:
        """Publishes one message, or a batch of at most 100.

        With an ``id`` it may be repeated: within ``dedup.seconds`` the answer is the first one's, and nothing is
        delivered twice. A batch is an object with the list under ``messages``, or the bare list: its messages are
        accepted in their order, and each fares for itself, so look at every outcome.
        """
        post = partial(self._post, call.credential, is_client=_is_by_token(call))
        return await Posting(post).publish(call.path["channel"], call.body)

    @operation("GET", "/api/channels/{channel}/messages", needs=Right("history"))
    async def history(self, call: Call[NoBody, Timestamps]) -> HistoryPage:
        """Reads a part of the channel's history, the newest messages first."""
        channel = call.path["channel"]
        return history_page(channel, await self._messages.history(call.credential.app, channel, call.query.history()))

    @operation("GET", "/api/channels/{channel}/presence", needs=Right("presence"))
    async def members(self, call: Call[NoBody, AnyQuery]) -> Members:
        """Lists who is present, in the order in which they entered."""
        channel = call.path["channel"]
        return members_answer(channel, await self._presence.members(call.credential.app, channel))

    @operation(
        "POST",
        "/api/messages",
        needs=Right(None),
        errors=(*_PUBLISHING, Code.CHANNEL_NAME),
        takes=SpreadBatch,
        example={"messages": [{"channel": "news", "data": {"text": "hello"}, "id": "order-17"}]},
    )
    async def spread(self, call: Call[Raw, NoQuery]) -> AcceptedBatch:
        """Publishes at most 100 messages, each to a channel of its own.

        Each fares for itself, also where the credential may not publish to its channel; look at every outcome. An
        ``id`` makes repeating its message harmless, as it does for one.
        """
        post = partial(self._post_allowed, call.credential, is_client=_is_by_token(call))
        return await Posting(post).spread(call.body)

    def _post_allowed(self, credential: Credential, channel: str, data: Any, **how: Any) -> Deferred[Receipt]:
        credential.permissions.require("publish", channel)
        return self._post(credential, channel, data, **how)

    def _post(
        self, credential: Credential, channel: str, data: Any, *, id: str | None, persist: bool, is_client: bool
    ) -> Deferred[Receipt]:
        return self._messages.publish(
            credential.app,
            channel,
            data,
            id=id,
            identity=credential.identity,
            publisher_id=credential.client_id or ("anonymous" if is_client else "server"),
            persist=persist,
            user=credential.client_id,
            is_client=is_client,
        )


class ConnectionGroup(Group):
    """The connections of an app."""

    tag = "Connections"
    about = (
        "The connections of the app whose API key it is. It takes one that may do everything on every channel"
        ' (`{"*": ["*"]}`), and never a JWT.'
    )

    def __init__(self, census: Census, audit: Audit, find_app: Callable[[str], Awaitable[App | None]]) -> None:
        self._census = census
        self._audit = audit
        self._find_app = find_app

    @operation("GET", "/api/connections", needs=Right(None), asks_cluster=True)
    async def connections(self, call: Call[NoBody, ConnectionsPart]) -> ConnectionList:
        """Lists the connections, those of a client, or those subscribed to a channel."""
        query = call.query
        return connection_list(
            await self._census.connections(
                _whole_app(call),
                client_id=query.client_id,
                channel=query.channel,
                cursor=query.cursor,
                limit=query.limit,
            )
        )

    @operation("GET", "/api/connections/{connectionId}", needs=Right(None), asks_cluster=True)
    async def connection(self, call: Call[NoBody, NoQuery]) -> Connection:
        """Shows a connection, with the names of its channels."""
        return detail_answer(await connection_of(self._census, _whole_app(call), call.path["connectionId"]))

    @operation("DELETE", "/api/connections/{connectionId}", needs=Right(None), asks_cluster=True)
    async def disconnect(self, call: Call[NoBody, ConnectionEnd]) -> None:
        """Ends a connection with the close code 4403. Its client may connect again, unless it is blocked."""
        app, id = _whole_app(call), call.path["connectionId"]
        ended_one(await self._census.disconnect(app, id=id, reason=call.query.reason), id)
        await self._ended(call, id, reason=call.query.reason)

    @operation("POST", "/api/connections/disconnect", needs=Right(None), example={"clientId": "bob"}, asks_cluster=True)
    async def disconnect_client(self, call: Call[ClientEnd, NoQuery]) -> Ended:
        """Ends all connections of a client with the close code 4403."""
        app, body = _whole_app(call), call.body
        ended = await self._census.disconnect(app, client_id=body.client_id, reason=body.reason)
        about = {"clientId": body.client_id, "connections": str(ended.count), "reason": body.reason}
        await self._ended(call, body.client_id, **about)
        return ended_answer(ended)

    async def _ended(self, call: Call[Any, Any], target: str, **about: str) -> None:
        """Writes it down as the key's act, for the team of the app."""
        app = await self._find_app(call.credential.app)
        actor = Actor(account=f"key:{call.credential.key_id}", ip=call.ip)
        team = "" if app is None else app.team
        await self._audit.record(
            actor, "connection.disconnect", team=team, app=call.credential.app, target=target, **about
        )


def _is_by_token(call: Call[Any, Any]) -> bool:
    """Whether it is a JWT that was given: those are for clients, whether they have a subject or not."""
    token, _ = split_bearer(call.header("authorization").partition(" ")[2].strip())
    return token is not None


def _whole_app(call: Call[Any, Any]) -> str:
    """The app of an API key that may do everything in it."""
    if _is_by_token(call):
        raise Refused(Code.FORBIDDEN, "this takes an API key: a JWT is for clients, and never reaches connections")
    if call.credential.permissions.rules.get("*") != OPERATIONS:
        raise Refused(Code.FORBIDDEN, 'this takes an API key that may do everything: with the permissions {"*": ["*"]}')
    return call.credential.app
