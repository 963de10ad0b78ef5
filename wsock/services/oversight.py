"""What administrators see of an app while it runs, and what they do there: each act checked, and written down."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred

from wsock.errors import Code, Refused, Unavailable
from wsock.protocol.frames import Member
from wsock.protocol.messages import HistoryQuery, Page, Receipt
from wsock.records import App
from wsock.services.access import Actor
from wsock.services.audit import Audit
from wsock.services.census import (
    Census,
    ChannelInfo,
    ConnectionDetail,
    ConnectionInfo,
    Disconnected,
    OccupiedChannel,
    Seen,
)
from wsock.services.messages import Messages
from wsock.services.presence import Presence
from wsock.services.roles import Permission

__all__ = ["Oversight", "Post", "Require", "connection_of", "ended_one"]

T = TypeVar("T")


class Post(Protocol):
    """Publishes a message in an app, to a channel: as :meth:`Messages.publish` does."""

    def __call__(self, channel: str, data: Any, *, id: str | None, persist: bool) -> Deferred[Receipt]:
        """Fires with the receipt; raises what is refused at once."""


class Require(Protocol):
    """As :meth:`wsock.services.access.Access.require_app`."""

    def __call__(self, actor: Actor, permission: Permission, app_id: str, /) -> Awaitable[App]:
        """The app, if the actor may do that in its team; ``not_found`` for who is no member."""


class Oversight:
    """The live side of an app, for those who administer it."""

    def __init__(
        self,
        require: Require,
        census: Census,
        messages: Messages,
        presence: Presence,
        audit: Audit,
    ) -> None:
        self._require = require
        self._census = census
        self._messages = messages
        self._presence = presence
        self._audit = audit

    # Channels.

    async def channels(
        self, actor: Actor, app: str, *, prefix: str, cursor: str | None, limit: int
    ) -> Seen[OccupiedChannel]:
        """The app's occupied channels."""
        await self._require(actor, Permission.CHANNELS_READ, app)
        return await self._census.channels(app, prefix=prefix, cursor=cursor, limit=limit)

    async def channel(self, actor: Actor, app: str, channel: str) -> ChannelInfo:
        """A channel as it is."""
        await self._require(actor, Permission.CHANNELS_READ, app)
        return await self._census.channel(app, channel)

    async def history(self, actor: Actor, app: str, channel: str, query: HistoryQuery) -> Page:
        """A page of the channel's past."""
        await self._require(actor, Permission.CHANNELS_READ, app)
        return await self._messages.history(app, channel, query)

    async def members(self, actor: Actor, app: str, channel: str) -> list[Member]:
        """Who is present."""
        await self._require(actor, Permission.CHANNELS_READ, app)
        return await self._presence.members(app, channel)

    async def publish(self, actor: Actor, app: str, target: str, work: Callable[[Post], Awaitable[T]]) -> T:
        """Does work that publishes as the server, by what it is handed; what was accepted is written down.

        ``target`` is the channel, empty for several. A repeated id counts as the same message when it is the same
        account that repeats it.
        """
        found = await self._require(actor, Permission.CHANNELS_PUBLISH, app)
        accepted: list[Receipt] = []

        def post(channel: str, data: Any, *, id: str | None, persist: bool) -> Deferred[Receipt]:
            identity = f"account:{actor.account}"
            publishing = self._messages.publish(app, channel, data, id=id, identity=identity, persist=persist)
            return publishing.addCallback(noted)

        def noted(receipt: Receipt) -> Receipt:
            accepted.append(receipt)
            return receipt

        try:
            return await work(post)
        finally:
            if accepted:
                about = {"target": target, "messages": str(len(accepted))}
                await self._audit.record(actor, "channel.publish", team=found.team, app=app, **about)

    # Connections.

    async def connections(
        self,
        actor: Actor,
        app: str,
        *,
        client_id: str | None,
        channel: str | None,
        cursor: str | None,
        limit: int,
    ) -> Seen[ConnectionInfo]:
        """The app's connections."""
        await self._require(actor, Permission.CONNECTIONS_READ, app)
        return await self._census.connections(app, client_id=client_id, channel=channel, cursor=cursor, limit=limit)

    async def connection(self, actor: Actor, app: str, id: str) -> ConnectionDetail:
        """A connection. Raises :class:`Refused` with ``not_found`` when there is none."""
        await self._require(actor, Permission.CONNECTIONS_READ, app)
        return await connection_of(self._census, app, id)

    async def disconnect(self, actor: Actor, app: str, id: str, reason: str) -> None:
        """Ends a connection. Raises :class:`Refused` with ``not_found`` when there is none."""
        found = await self._require(actor, Permission.CONNECTIONS_DISCONNECT, app)
        ended_one(await self._census.disconnect(app, id=id, reason=reason), id)
        await self._audit.record(actor, "connection.disconnect", team=found.team, app=app, target=id, reason=reason)

    async def disconnect_client(self, actor: Actor, app: str, client_id: str, reason: str) -> Disconnected:
        """Ends all connections of a client."""
        found = await self._require(actor, Permission.CONNECTIONS_DISCONNECT, app)
        ended = await self._census.disconnect(app, client_id=client_id, reason=reason)
        about = {"clientId": client_id, "connections": str(ended.count), "reason": reason}
        await self._audit.record(actor, "connection.disconnect", team=found.team, app=app, target=client_id, **about)
        return ended


async def connection_of(census: Census, app: str, id: str) -> ConnectionDetail:
    """The connection of this id. Raises :class:`Refused` with ``not_found``, or that not all nodes answered."""
    found = await census.connection(app, id)
    for detail in found.parts:
        return detail
    raise _none(id, is_complete=found.is_complete)


def ended_one(ended: Disconnected, id: str) -> None:
    """Raises :class:`Refused` when it was none that ended."""
    if not ended.count:
        raise _none(id, is_complete=ended.is_complete)


def _none(id: str, *, is_complete: bool) -> Refused:
    if is_complete:
        return Refused(Code.NOT_FOUND, f"there is no connection with the id '{id}'")
    text = f"not every node of the cluster answered, and none of the others has the connection '{id}': try again"
    return Unavailable(text, retry_after=1.0)
