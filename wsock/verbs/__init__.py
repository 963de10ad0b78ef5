"""What clients may ask for: each request's struct beside what answers it.

A new request is one module here (or one struct in a module) and its line in :data:`VERBS`. What answers is called with
the peer and the request, returns ``None``, something to await, or a :class:`~wsock.verbs.messages.Publishing`, and
raises :class:`~wsock.errors.Refused` to refuse.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from wsock.protocol.frames import Request
from wsock.verbs import connection, messages, presence, subscriptions

__all__ = ["REQUESTS", "VERBS"]

VERBS: dict[type[Request], Callable[[Any, Any], Awaitable[None] | messages.Publishing | None]] = {
    subscriptions.Subscribe: subscriptions.subscribe,
    subscriptions.Unsubscribe: subscriptions.unsubscribe,
    subscriptions.Resume: subscriptions.resume,
    messages.Publish: messages.publish,
    messages.HistoryRequest: messages.history,
    presence.PresenceEnterRequest: presence.enter,
    presence.PresenceUpdateRequest: presence.update,
    presence.PresenceLeaveRequest: presence.leave,
    presence.PresenceGet: presence.get,
    connection.Ping: connection.ping,
    connection.Authenticate: connection.authenticate,
}
"""The verb table."""

REQUESTS: tuple[type[Request], ...] = tuple(VERBS)
"""All requests, for the codec."""
