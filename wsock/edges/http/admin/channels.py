"""The channels of an app, for its administrators."""

from __future__ import annotations

from msgspec import Raw

from wsock.edges.http.live import (
    AnyQuery,
    Channel,
    ChannelList,
    ChannelsPart,
    Members,
    Timestamps,
    channel_answer,
    channel_list,
    history_page,
    members_answer,
)
from wsock.edges.http.operations import Call, Group, NoBody, NoQuery, operation
from wsock.edges.http.posting import Accepted, AcceptedBatch, Batch, Item, Posting, SpreadBatch
from wsock.errors import Code
from wsock.protocol.frames import HistoryPage
from wsock.services.oversight import Oversight
from wsock.services.roles import Permission

__all__ = ["AppChannelGroup"]

_CHANNELS = "/api/admin/apps/{appId}/channels"
_PUBLISHING = (Code.RATE_LIMITED, Code.QUOTA_EXCEEDED, Code.LIMIT_EXCEEDED)


class AppChannelGroup(Group):
    """What the channels of an app carry, and publishing to them."""

    tag = "App channels"
    about = "The channels of an app, for those who administer it."

    def __init__(self, oversight: Oversight) -> None:
        self._oversight = oversight

    @operation("GET", _CHANNELS, needs=Permission.CHANNELS_READ, asks_cluster=True)
    async def channels(self, call: Call[NoBody, ChannelsPart]) -> ChannelList:
        """Lists the channels that have subscribers now, with how many."""
        q = call.query
        return channel_list(
            await self._oversight.channels(
                call.actor, call.path["appId"], prefix=q.prefix, cursor=q.cursor, limit=q.limit
            )
        )

    @operation("GET", f"{_CHANNELS}/{{channel}}", needs=Permission.CHANNELS_READ, asks_cluster=True)
    async def channel(self, call: Call[NoBody, NoQuery]) -> Channel:
        """Shows a channel: how many are there, and its last message's place and time."""
        return channel_answer(await self._oversight.channel(call.actor, call.path["appId"], call.path["channel"]))

    @operation(
        "POST",
        f"{_CHANNELS}/{{channel}}/messages",
        needs=Permission.CHANNELS_PUBLISH,
        errors=_PUBLISHING,
        takes=Item | Batch,
        example={"data": {"text": "hello"}},
    )
    async def publish(self, call: Call[Raw, NoQuery]) -> Accepted | AcceptedBatch:
        """Publishes one message, or a batch of at most 100, as the server.

        An ``id`` makes repeating a message harmless for the same account. It is noted in the audit log.
        """
        channel = call.path["channel"]
        return await self._oversight.publish(
            call.actor, call.path["appId"], channel, lambda post: Posting(post).publish(channel, call.body)
        )

    @operation("GET", f"{_CHANNELS}/{{channel}}/messages", needs=Permission.CHANNELS_READ)
    async def history(self, call: Call[NoBody, Timestamps]) -> HistoryPage:
        """Reads a part of the channel's history, the newest messages first."""
        channel = call.path["channel"]
        page = await self._oversight.history(call.actor, call.path["appId"], channel, call.query.history())
        return history_page(channel, page)

    @operation("GET", f"{_CHANNELS}/{{channel}}/presence", needs=Permission.CHANNELS_READ)
    async def members(self, call: Call[NoBody, AnyQuery]) -> Members:
        """Lists who is present, in the order in which they entered."""
        channel = call.path["channel"]
        return members_answer(channel, await self._oversight.members(call.actor, call.path["appId"], channel))

    @operation(
        "POST",
        "/api/admin/apps/{appId}/messages",
        needs=Permission.CHANNELS_PUBLISH,
        errors=(*_PUBLISHING, Code.CHANNEL_NAME),
        takes=SpreadBatch,
        example={"messages": [{"channel": "news", "data": {"text": "hello"}}]},
    )
    async def spread(self, call: Call[Raw, NoQuery]) -> AcceptedBatch:
        """Publishes at most 100 messages, each to a channel of its own, as the server; each fares for itself."""
        return await self._oversight.publish(
            call.actor, call.path["appId"], "", lambda post: Posting(post).spread(call.body)
        )
