"""``ping`` and ``auth``."""

from __future__ import annotations

from typing import ClassVar

from wsock.errors import Code, Refused
from wsock.protocol.frames import Ack, Pong, Request
from wsock.verbs.peer import Peer
from wsock.verbs.presence import leave_channel

__all__ = ["Authenticate", "Ping", "authenticate", "ping"]


class Ping(Request, frozen=True, tag="ping"):
    """Asks whether the server is there. It counts against no rate."""

    in_order: ClassVar[bool] = False


def ping(peer: Peer, request: Ping) -> None:
    """Answered by ``pong``."""
    peer.send(Pong())


class Authenticate(Request, frozen=True, tag="auth"):
    """Replaces the connection's credential by a token of the same app and the same ``sub``."""

    token: str


async def authenticate(peer: Peer, request: Authenticate) -> None:
    """Answered by ``ack`` with the id ``auth``. What the new token does not allow any more ends, with an error."""
    peer.credential = await peer.services.auth.renew(peer.credential, request.token)
    peer.session.renew(peer.expiry())
    peer.send(Ack("auth"))
    permissions = peer.credential.permissions
    for channel in [c for c in peer.channels if not permissions.allows("subscribe", c)]:
        peer.refuse(_lacks("subscribe", channel), channel=channel)
        peer.unsubscribe(channel)
    for channel in [c for c in peer.present if not permissions.allows("presence", c)]:
        peer.refuse(_lacks("presence", channel), channel=channel)
        await leave_channel(peer, channel)


def _lacks(operation: str, channel: str) -> Refused:
    return Refused(Code.FORBIDDEN, f"the new token lacks the permission '{operation}' on '{channel}'")
