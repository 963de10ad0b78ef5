"""The connections of this node by their apps: what each app's settings mean to them, and who has to go.

After a change only the connections of apps of which something was changed are looked at, so many in a turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wsock.protocol.session import SessionLimits
from wsock.records import SlowConsumer
from wsock.services.limits import Tally
from wsock.services.rules import Tenant
from wsock.services.tenants import Tenants

__all__ = ["Crowd", "Crowds", "Visited"]

_SLICE = 250
"""Connections in a turn: some milliseconds, should all of them have to be ended."""


class Visited(Protocol):
    """A connection, as far as it matters here."""

    def reassess(self, crowd: Crowd) -> None:
        """Something of the app was changed: the connection keeps to it, or ends. Must not wait."""


class Crowd:
    """The connections of one app. Its ``tenant`` is what they keep to, ``None`` for an app that is not there."""

    __slots__ = ("app", "connections", "is_settled", "session_limits", "tenant")

    def __init__(self, app: str, tenant: Tenant | None, session_limits: SessionLimits) -> None:
        self.app = app
        self.tenant = tenant
        self.session_limits = session_limits
        self.connections: dict[Visited, None] = {}
        self.is_settled = True

    @property
    def is_lossy(self) -> bool:
        """Whether a client that reads too slowly may lose messages instead of its connection."""
        return self.tenant is not None and self.tenant.is_lossy

    def policy(self, channel: str) -> SlowConsumer:
        """What becomes of the channel's messages for a client that reads too slowly."""
        return "disconnect" if self.tenant is None else self.tenant.channel(channel).slow_consumer


class Crowds:
    """All connections. Without ``tenants`` no app has settings and nothing is ever changed."""

    _log = Logger()

    def __init__(
        self,
        tenants: Tenants | None,
        clock: IReactorTime,
        session_limits: SessionLimits,
        tally: Tally | None = None,
    ) -> None:
        self._tenants = tenants
        self._clock = clock
        self._session_limits = session_limits
        self._tally = tally or Tally()
        self._crowds: dict[str, Crowd] = {}

    def of(self, app: str) -> Crowd:
        """The app's crowd, for a connection that is about to :meth:`enter` it."""
        crowd = self._crowds.get(app)
        if crowd is None:
            tenant = self._tenants.get(app) if self._tenants is not None else None
            return Crowd(app, tenant, self._limits(tenant))
        return crowd

    def connections(self, app: str) -> Iterable[Visited]:
        """The app's connections."""
        crowd = self._crowds.get(app)
        return () if crowd is None else crowd.connections

    def enter(self, crowd: Crowd, connection: Visited) -> None:
        """The connection is one of them."""
        if not crowd.connections:
            self._crowds[crowd.app] = crowd
            if self._tenants is not None:
                self._tenants.hold(crowd.app)
        crowd.connections[connection] = None

    def leave(self, crowd: Crowd, connection: Visited) -> None:
        """It is one of them no more."""
        if crowd.connections.pop(connection, self) is self:
            return
        if not crowd.connections:
            del self._crowds[crowd.app]
            if self._tenants is not None:
                self._tenants.release(crowd.app)

    async def recheck(self) -> None:
        """The tenants were read again: every connection of those that are others now is told so."""
        if self._tenants is None:
            return
        visited = 0
        for crowd in list(self._crowds.values()):
            tenant = self._tenants.get(crowd.app)
            if tenant is crowd.tenant and crowd.is_settled:
                continue
            crowd.tenant, crowd.session_limits, crowd.is_settled = tenant, self._limits(tenant), False
            for connection in tuple(crowd.connections):
                self._visit(connection, crowd)
                visited += 1
                if visited % _SLICE == 0:
                    await deferLater(self._clock, 0)
            crowd.is_settled = True

    def _visit(self, connection: Visited, crowd: Crowd) -> None:
        try:
            connection.reassess(crowd)
        except Exception:
            # The others have to be told all the same.
            self._log.failure("a connection could not be told of a change")

    def _limits(self, tenant: Tenant | None) -> SessionLimits:
        """What one connection of the app may do."""
        if tenant is None or tenant.is_plain:
            return self._session_limits
        exceeded: Callable[[], bool] = self._session_limits.exceeded
        if tenant.is_enforced is not None:
            exceeded = partial(self._tally.exceeded, "connection", is_enforced=tenant.is_enforced)
        rate = tenant.connection_rate
        if rate is None:
            return replace(self._session_limits, exceeded=exceeded)
        setting = "the app's setting connection_rate"
        per_second = rate.events / rate.seconds
        return replace(self._session_limits, rate=per_second, burst=rate.limit, exceeded=exceeded, setting=setting)
