"""``ping`` and ``auth``."""

from __future__ import annotations

from typing import ClassVar

from wsock.errors import Code, Refused
from wsock.protocol.frames import Ack, Pong, Request
from wsock.verbs.peer import Peer
from wsock.verbs.presence import leave_channel

__all__ = ["Authenticate", "Ping", "authenticate", "drop_forbidden", "keep_within", "ping"]


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
    await keep_within(peer, "the new token")


def drop_forbidden(peer: Peer, what: str) -> None:
    """Ends the subscriptions that ``what``, the credential, does not allow, each with an error."""
    permissions = peer.credential.permissions
    for channel in [c for c in peer.channels if not permissions.allows("subscribe", c)]:
        peer.refuse(_lacks(what, "subscribe", channel), channel=channel)
        peer.unsubscribe(channel)


async def keep_within(peer: Peer, what: str) -> None:
    """Ends what ``what``, the credential, or the settings do not allow: subscriptions, and being present."""
    drop_forbidden(peer, what)
    for channel in list(peer.present):
        refused = _not_present(peer, what, channel)
        if refused is not None and channel in peer.present:
            peer.refuse(refused, channel=channel)
            await leave_channel(peer, channel)


def _not_present(peer: Peer, what: str, channel: str) -> Refused | None:
    """Why the client may not be present in the channel."""
    if not peer.credential.permissions.allows("presence", channel):
        return _lacks(what, "presence", channel)
    tenants = peer.services.tenants
    rules = None if tenants is None else tenants.rules(peer.app, channel)
    try:
        if rules is not None:
            rules.require_presence(channel)
    except Refused as e:
        return e
    return None


def _lacks(what: str, operation: str, channel: str) -> Refused:
    return Refused(Code.FORBIDDEN, f"{what} lacks the permission '{operation}' on '{channel}'")
