"""The driver's pool of connections, mended where it falls short."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from txmongo.connection import ConnectionPool
from zope.interface import implementer

from wsock.backends.mongo_url import MongoUrl

__all__ = ["connect"]

# Within it the TCP connection and the first answer each have to come; it is also the pause between two attempts.
_RETRY_SECONDS = 2.0
_PING_SECONDS = 5


@implementer(IOpenSSLClientConnectionCreator)
class _Tls:
    """TLS for the driver's connections: each server has to show a certificate of the name it is known by.

    The driver takes one maker of TLS for all servers, and connects its pings to numeric addresses.
    """

    def __init__(self, url: MongoUrl) -> None:
        self._url = url
        self._names = {address.host for address in url.addresses}
        self.pool: Any = None

    def clientConnectionForTLS(self, tls_protocol: Any) -> Any:  # noqa: N802
        """Twisted's hook."""
        name = self._name(tls_protocol.factory.wrappedFactory.connector.host)
        return self._url.tls(name).clientConnectionForTLS(tls_protocol)

    def _name(self, host: str) -> str:
        if host not in self._names:
            for connection in self.pool.getprotocols():
                if connection.instance and connection.instance.transport.getPeer().host == host:
                    return str(connection.connector.host)
        return host


class _Pool(ConnectionPool):  # type: ignore[misc]  # the driver has no types
    """Takes any connection that is up; the driver's own waits for the next in turn, be it down or not."""

    _turn = 0

    def getprotocol(self) -> Deferred[Any]:
        """The driver's hook: a connection, as soon as there is one."""
        up = [connection for connection in self.getprotocols() if connection.instance]
        if not up:
            return self._first()
        self._turn += 1
        return succeed(up[self._turn % len(up)].instance)

    def _first(self) -> Deferred[Any]:
        def cancel(_: object = None) -> None:
            for waiting in pending:
                waiting.cancel()

        def tell(connection: Any) -> None:
            if not first.called:
                first.callback(connection.instance)
                cancel()

        pending: list[Deferred[Any]] = []
        first: Deferred[Any] = Deferred(cancel)
        for connection in self.getprotocols():
            waiting = connection.notifyReady()
            pending.append(waiting)
            waiting.addCallbacks(tell, lambda _: None)
        return first


def connect(url: MongoUrl, size: int, wtimeout_ms: int) -> Any:
    """A pool that connects, logs in, and connects again for ever; whether any of it works is not told.

    A write is acknowledged by the majority, from their journals, unless the URL says otherwise.
    """
    tls = _Tls(url) if url.is_tls else None
    pool = _Pool(
        url.driver_url,
        pool_size=size,
        ssl_context_factory=tls,
        ping_interval=_PING_SECONDS,
        ping_timeout=_PING_SECONDS,
        retry_delay=_RETRY_SECONDS,
        max_delay=_RETRY_SECONDS,
        w="majority" if url.w is None else url.w,
        j=True if url.journal is None else url.journal,
        wtimeout=url.wtimeout_ms or wtimeout_ms,
    )
    if tls is not None:
        tls.pool = pool
    if url.user:
        # The driver takes credentials out of a URL only if it names a database too.
        pool.authenticate(url.auth_source, url.user, url.password, "SCRAM-SHA-1")
    return pool
