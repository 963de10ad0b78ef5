"""All WebSocket connections of this node: who may open one, their heartbeats, and how they all end.

Heartbeats and expiries come from one timer for all connections: each second it visits a fifth of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from wsock.edges.crowds import Crowds
from wsock.edges.outlet import Held
from wsock.edges.websocket import Connection, ConnectionLimits
from wsock.errors import CloseCode, Code, Refused
from wsock.protocol.codec import Codec
from wsock.protocol.deflate import Agreement, Deflater, agree
from wsock.protocol.handshake import Handshake, accept_response
from wsock.protocol.session import Session, SessionLimits
from wsock.services.auth import Credential
from wsock.services.limits import Limits, Tally
from wsock.services.standing import standing
from wsock.verbs import REQUESTS
from wsock.verbs.peer import Services

__all__ = ["WebSocketGate"]

_SLOTS = 5
_BATCH_PAUSE_SECONDS = 0.1
_OURS = "wsock/1"
_MAX_USER_AGENT = 120
_MAX_ADDRESS = 64


class WebSocketGate(Service):
    """Admits upgrades and keeps the connections that come of them.

    ``connect_rate`` is the connects a minute from one address, ``max_connections`` those at a time; 0 is no limit.
    ``is_ready`` says whether the server is able to serve, ``compresses`` whether clients that offer compression get it.
    """

    _log = Logger()

    def __init__(
        self,
        services: Services,
        limits: Limits,
        new_id: Callable[[], str],
        is_ready: Callable[[], bool],
        *,
        session_limits: SessionLimits,
        connection_limits: ConnectionLimits,
        connect_rate: int = 0,
        max_connections: int = 0,
        compresses: bool = False,
        tally: Tally | None = None,
    ) -> None:
        self._services = services
        self._limits = limits
        self._new_id = new_id
        self._is_ready = is_ready
        self.crowds = Crowds(services.tenants, services.clock, session_limits, tally)
        self._connection_limits = connection_limits
        self._connect_rate = connect_rate
        self._max_connections = max_connections
        self._compresses = compresses
        self._deflaters: dict[int, Deflater] = {}
        self._codec = Codec(REQUESTS)
        self._slots: list[dict[Connection, None]] = [{} for _ in range(_SLOTS)]
        self._next_slot = 0
        self._count = 0
        self._ending: dict[Deferred[None], None] = {}
        self._emptied: Deferred[None] | None = None
        self._is_draining = False
        self._ticking = LoopingCall(self._tick)
        self._ticking.clock = services.clock
        self.held = Held()
        self.opened = 0
        self.closed: dict[str, int] = {}
        self.refused: dict[str, int] = {}

    def __len__(self) -> int:
        return self._count

    # Opening.

    async def admit(self, handshake: Handshake, address: str) -> Callable[[Any], Connection]:
        """Verifies the credential and the limits; what is returned answers and opens it on a transport."""
        self._require_room()
        await self._limits.admit(f"connect:{address}", self._connect_rate, 60.0, what="limits.connect_rate_per_ip")
        query = handshake.query
        token, key = query.get("token"), query.get("key")
        scheme, _, bearer = handshake.headers.get("authorization", "").partition(" ")
        if not token and not key and scheme.lower() == "bearer":
            token, key = split_bearer(bearer.strip())
        auth = self._services.auth
        credential = await auth.credential(key=key, token=token, client_id=query.get("clientId"))
        auth.check_origin(credential, handshake.origin)
        quotas = self._services.quotas
        if quotas is not None:
            await quotas.admit_connection(credential.app)
        if self._services.tenants is not None:
            await self._services.tenants.learn_key(credential.app, credential.key_id)
        self._require_room()  # again: others came, or the end began, while the credential was looked up
        if quotas is not None:
            quotas.check_connection(credential.app)
        credential = self._standing(credential, handshake.origin)
        return lambda transport: self._open(handshake, credential, address, transport)

    def _standing(self, credential: Credential, origin: str | None) -> Credential:
        """The credential at this moment: what was changed since it was looked up, the connection is not told of."""
        tenants = self._services.tenants
        if tenants is None:
            return credential
        return standing(credential, origin, tenants.get(credential.app), self._services.now())

    def _require_room(self) -> None:
        if self._is_draining or not self._is_ready():
            raise Refused(Code.UNAVAILABLE, "the server is starting or ending: try again", retry_after=1.0)
        if self._max_connections and self._count >= self._max_connections:
            text = f"the server has {self._max_connections} connections already (limits.connections)"
            raise Refused(Code.UNAVAILABLE, text, retry_after=5.0)

    def _open(self, handshake: Handshake, credential: Credential, address: str, transport: Any) -> Connection:
        agreement = agree(handshake.headers.get("sec-websocket-extensions", "")) if self._compresses else None
        transport.write(accept_response(handshake, _extensions(agreement)))
        crowd = self.crowds.of(credential.app)
        session = Session(self._codec, crowd.session_limits, self._services.clock.seconds())
        is_tls = ISSLTransport.providedBy(transport) or handshake.headers.get("x-forwarded-proto") == "https"
        connection = Connection(
            self._services,
            self._connection_limits,
            self,
            session,
            is_ours=handshake.query.get("client") == _OURS,
            is_browser_on_tls=is_tls and handshake.origin is not None,
            deflater=self._deflater(agreement),
            crowd=crowd,
            # Connections of one site are many: they share the text.
            origin=None if handshake.origin is None else sys.intern(handshake.origin),
            address=address[:_MAX_ADDRESS],
            user_agent=_user_agent(handshake),
        )
        self._slots[self.opened % _SLOTS][connection] = None
        self.opened += 1
        self._count += 1
        self.crowds.enter(crowd, connection)
        self._services.meters.app(credential.app).opened()
        connection.open(self._new_id(), credential, transport)
        events = self._services.events
        if events is not None:
            events.connection_opened(credential.app, connection.peer.id, **_about(connection))
        return connection

    def _deflater(self, agreement: Agreement | None) -> Deflater | None:
        """The one of all connections with this window."""
        if agreement is None:
            return None
        return self._deflaters.setdefault(agreement.window_bits, Deflater(agreement.window_bits))

    # While they live.

    def startService(self) -> None:
        """Starts the heartbeats."""
        super().startService()
        self._ticking.start(1.0, now=False)

    def _tick(self) -> None:
        slot = self._slots[self._next_slot]
        self._next_slot = (self._next_slot + 1) % _SLOTS
        now = self._services.clock.seconds()
        for connection in tuple(slot):
            try:
                connection.tick(now)
            except Exception:
                # One connection's fault must not stop the heartbeat of all others.
                self._log.failure("a heartbeat failed", failure=Failure())

    def connection_ended(self, connection: Connection, ending: Deferred[None], why: str) -> None:
        """A connection tells that it is lost."""
        for slot in self._slots:
            if connection in slot:
                del slot[connection]
                self._count -= 1
                self.crowds.leave(connection.crowd, connection)
        self.closed[why] = self.closed.get(why, 0) + 1
        connection.peer.meter.closed(why)
        events = self._services.events
        if events is not None:
            events.connection_closed(connection.peer.app, connection.peer.id, **_about(connection), reason=why)
        if not ending.called:
            self._ending[ending] = None
            ending.addBoth(lambda _: self._ending.pop(ending, None))
        if not self._count and self._emptied is not None:
            emptied, self._emptied = self._emptied, None
            emptied.callback(None)

    def request_refused(self, code: str) -> None:
        """A connection tells that it answered a request with an error."""
        self.refused[code] = self.refused.get(code, 0) + 1

    def connections(self) -> list[Connection]:
        """All connections."""
        return [connection for slot in self._slots for connection in slot]

    def connections_of(self, app: str) -> Iterable[Connection]:
        """Those of the app."""
        return cast("Iterable[Connection]", self.crowds.connections(app))  # nothing else enters a crowd

    # Ending.

    def stop_admitting(self) -> None:
        """From now on upgrades are refused with 503."""
        self._is_draining = True

    async def drain(self, batch: int) -> None:
        """Ends all connections, so many every 100 ms, so that their clients come back and resume elsewhere.

        Clients of ours are asked first, and what is left is ended in the way that its kind of client understands.
        """
        self.stop_admitting()
        connections = self.connections()
        for start in range(0, len(connections), batch):
            some = connections[start : start + batch]
            for connection in some:
                connection.ask_to_reconnect(0)
                connection.drain()
            await deferLater(self._services.clock, _BATCH_PAUSE_SECONDS)
            for connection in some:
                connection.move_away()

    async def close(self, batch: int) -> None:
        """Closes all connections with 1001, so many every 100 ms: there is no server to come back to.

        Fires when they are gone: a client that doesn't answer is reset after a second.
        """
        self.stop_admitting()
        connections = self.connections()
        for start in range(0, len(connections), batch):
            some = connections[start : start + batch]
            for connection in some:
                connection.drain()
            # Meanwhile what was published is stored and acknowledged: behind a close frame no ack may follow.
            await deferLater(self._services.clock, _BATCH_PAUSE_SECONDS)
            for connection in some:
                connection.end(CloseCode.GOING_AWAY, "the server shuts down")
        if self._count:
            self._emptied = Deferred()
            await self._emptied

    def stopService(self) -> Deferred[None]:
        """Stops the heartbeats; fires when what the connections held is given back."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._ticking.running:
            self._ticking.stop()
        for connection in self.connections():
            connection.reset("stopped")
        await deferLater(self._services.clock, 0)
        await gatherResults(list(self._ending), consumeErrors=True)


def _extensions(agreement: Agreement | None) -> tuple[tuple[str, str], ...]:
    return (("Sec-WebSocket-Extensions", agreement.response),) if agreement is not None else ()


def _about(connection: Connection) -> dict[str, str | None]:
    """What webhooks are told of a connection."""
    peer = connection.peer
    return {"clientId": peer.client_id, "keyId": peer.credential.key_id, "address": connection.address}


def _user_agent(handshake: Handshake) -> str:
    """What the client calls itself: short, and the same text for all that call themselves alike."""
    text = handshake.headers.get("user-agent", "")[:_MAX_USER_AGENT]
    return sys.intern("".join(c for c in text if c.isprintable()))


def split_bearer(text: str) -> tuple[str | None, str | None]:
    """A bearer credential as (JWT, API key): a JWT has three parts, the first of which begins a JSON object."""
    return (text, None) if text.startswith("eyJ") and text.count(".") == 2 else (None, text)
