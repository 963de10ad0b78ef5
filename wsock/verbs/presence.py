"""``presence.enter``, ``presence.update``, ``presence.leave`` and ``presence.get``."""

from __future__ import annotations

from msgspec import Raw

from wsock.protocol.channels import check_channel
from wsock.protocol.codec import encode
from wsock.protocol.frames import EMPTY_OBJECT, Member, PresenceMembers, Request
from wsock.verbs.messages import ENVELOPE, MAX_FRAME
from wsock.verbs.peer import Peer

__all__ = ["PresenceEnterRequest", "PresenceGet", "PresenceLeaveRequest", "PresenceUpdateRequest"]


class PresenceEnterRequest(Request, frozen=True, tag="presence.enter"):
    """Enters the channel as a member; ``data`` is an object (null, absent and ``[]`` mean an empty one)."""

    channel: str
    data: Raw = EMPTY_OBJECT


async def enter(peer: Peer, request: PresenceEnterRequest) -> None:
    """Answered by the ``presence.enter`` (or, when present already, ``presence.update``) that everybody gets."""
    channel = request.channel
    _check(peer, channel)
    topic = peer.present.get(channel)
    if topic is None:
        peer.require_room_to_enter()
        opened = await peer.open(channel)
        if peer.is_closed:
            peer.services.hub.close(opened)
            return
        peer.is_present(opened)
    try:
        await peer.services.presence.enter(peer.app, channel, peer.client_id, peer.id, request.data)
    except BaseException:
        if topic is None and channel in peer.present:
            peer.is_absent(peer.present[channel])
        raise
    if peer.is_closed:
        await peer.release([channel])


class PresenceUpdateRequest(Request, frozen=True, tag="presence.update"):
    """Replaces the member's data."""

    channel: str
    data: Raw = EMPTY_OBJECT


async def update(peer: Peer, request: PresenceUpdateRequest) -> None:
    """Answered by the ``presence.update`` that everybody gets."""
    _check(peer, request.channel)
    await peer.services.presence.update(peer.app, request.channel, peer.client_id, peer.id, request.data)


class PresenceLeaveRequest(Request, frozen=True, tag="presence.leave"):
    """Leaves the channel. Leaving where one is not present does nothing."""

    channel: str


async def leave(peer: Peer, request: PresenceLeaveRequest) -> None:
    """Answered by the ``presence.leave`` that everybody gets, the client that left included."""
    _check(peer, request.channel)
    if request.channel in peer.present:
        await leave_channel(peer, request.channel)


async def leave_channel(peer: Peer, channel: str) -> None:
    """The connection lets go of its member, and is still told of the leave."""
    await peer.services.presence.leave(peer.app, channel, peer.client_id, peer.id)
    if channel in peer.present:
        peer.is_absent(peer.present[channel])


class PresenceGet(Request, frozen=True, tag="presence.get"):
    """Asks who is present."""

    channel: str


async def get(peer: Peer, request: PresenceGet) -> None:
    """Answered by ``presence.members``, in several frames where one would be too large."""
    _check(peer, request.channel)
    members = await peer.services.presence.members(peer.app, request.channel)
    for part, has_more in _parts(members, MAX_FRAME // 2 - ENVELOPE):
        await peer.send_large(PresenceMembers(request.channel, part, part, has_more))


def _check(peer: Peer, channel: str) -> None:
    check_channel(channel)
    peer.credential.permissions.require("presence", channel)


def _parts(members: list[Member], room: int) -> list[tuple[list[Member], bool]]:
    parts: list[list[Member]] = [[]]
    left = room
    for member in members:
        size = len(encode(member)) + 1
        if size > left and parts[-1]:
            parts.append([])
            left = room
        parts[-1].append(member)
        left -= size
    return [(part, number < len(parts)) for number, part in enumerate(parts, 1)]
