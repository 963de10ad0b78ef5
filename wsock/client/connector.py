"""Keeps a connection to the server: makes it, waits for its end, waits a little, makes the next."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import optionsForClientTLS
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from wsock.client.errors import ClientCode, ClientError
from wsock.client.link import Link, Timing, link_factory

__all__ = ["Connector", "ConnectorOwner", "Credential", "TokenSource", "endpoint_for"]

T = TypeVar("T")
TokenSource = Callable[[], "str | Awaitable[str]"]


class Credential:
    """An API key, a token, or what supplies tokens: then each connection has a new one."""

    def __init__(self, key: str | None, token: str | TokenSource | None) -> None:
        if (key is None) == (token is None):
            raise ValueError("the client takes either a key or a token")
        self._key = key
        self._token = token

    @property
    def is_renewable(self) -> bool:
        """Whether another try may have a better credential."""
        return callable(self._token)

    def __repr__(self) -> str:
        return f"<Credential {'key' if self._key is not None else 'token'}>"

    def renewed(self) -> Deferred[str]:
        """A new token. Fails with :class:`ClientError`."""
        token: Deferred[Any] = maybeDeferred(self._token) if callable(self._token) else succeed(self._token)
        return token.addCallbacks(str, _no_token)

    async def query(self) -> tuple[str, str]:
        """The parameter of the URL."""
        if self._key is not None:
            return ("key", self._key)
        return ("token", await self.renewed())


def _no_token(failure: Failure) -> Failure:
    if failure.check(CancelledError):
        return failure
    return Failure(ClientError(ClientCode.TOKEN, f"no token could be had: {failure.value}"))


def endpoint_for(url: str, reactor: Any) -> IStreamClientEndpoint:
    """Where the URL points."""
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or parts.hostname is None:
        raise ValueError("the URL takes ws://HOST[:PORT] or wss://HOST[:PORT]")
    is_secure = parts.scheme == "wss"
    endpoint = HostnameEndpoint(reactor, parts.hostname, parts.port or (443 if is_secure else 80))
    return wrapClientTLS(optionsForClientTLS(parts.hostname), endpoint) if is_secure else endpoint


class ConnectorOwner(Protocol):
    """Whom a connector tells."""

    def opened(self, link: Link) -> None:
        """A connection is open."""

    def received(self, link: Link, text: bytes) -> None:
        """A text message has come."""

    def lost(self) -> None:
        """The connection is lost, or being closed: nothing more comes from it."""

    def failed(self, error: ClientError) -> None:
        """No connection could be made; it is tried again."""


class Connector:
    """Runs from :meth:`run` to :meth:`stop`, or to a refusal that no other try could change."""

    _log = Logger()

    def __init__(
        self,
        url: str,
        credential: Credential,
        *,
        reactor: Any,
        endpoint: IStreamClientEndpoint,
        timing: Timing,
        retry_policy: Callable[[int], float],
        owner: ConnectorOwner,
    ) -> None:
        self._url = url
        self._credential = credential
        self._reactor = reactor
        self._endpoint = endpoint
        self._timing = timing
        self._retry_policy = retry_policy
        self._owner = owner
        self._awaited: Deferred[Any] | None = None
        self._link: Link | None = None
        self._is_stopping = False
        self._is_moving = False
        self._at_least = 0.0

    async def run(self) -> None:
        """Returns after :meth:`stop`. Raises :class:`ClientError` when the server refuses the credential for good."""
        attempt = 0
        while not self._is_stopping:
            self._is_moving, self._at_least, is_stable = False, 0.0, False
            try:
                is_stable = await self._connection()
            except CancelledError:
                return
            except ClientError as e:
                if e.status in (401, 403) and not self._credential.is_renewable:
                    raise
                self._at_least = e.retry_after or 0.0
                self._owner.failed(e)
            attempt = 0 if is_stable or self._is_moving else attempt
            await self._pause(0.0 if self._is_moving else max(self._retry_policy(attempt), self._at_least))
            attempt += 1

    def stop(self) -> None:
        """Closes the connection, and makes none any more."""
        self._is_stopping = True
        if self._awaited is not None:
            self._awaited.cancel()
        self.leave()

    def leave(self) -> None:
        """Closes the connection; the next one is made at once when it has ended."""
        if self._link is not None:
            self._is_moving = True
            self._forget().close()

    def give_up(self, seconds: float | None) -> None:
        """Aborts the connection; the next one is made as the retry policy says, but not before so many seconds."""
        if self._link is not None:
            self._at_least = seconds or 0.0
            self._forget().abort()

    def received(self, link: Link, text: bytes) -> None:
        """The link's news; what comes after its end was begun counts for nothing."""
        if link is self._link:
            self._owner.received(link, text)

    async def _connection(self) -> bool:
        """Makes a connection and waits for its end. Returns whether it lasted."""
        link = await self._open()
        since = self._reactor.seconds()
        self._link = link
        self._log.info("connected to {url}", url=self._url)
        self._owner.opened(link)
        why = await link.closed()
        self._log.info("disconnected from {url}: {why}", url=self._url, why=why)
        if self._link is link:
            self._forget()
        lasted: float = self._reactor.seconds() - since
        return lasted >= self._timing.stable_seconds

    async def _open(self) -> Link:
        query = await self._unless_stopped(Deferred.fromCoroutine(self._credential.query()))
        factory = link_factory(_with_query(self._url, query), self._reactor, self._timing, self)
        connecting = self._endpoint.connect(factory).addTimeout(self._timing.handshake_seconds, self._reactor)
        try:
            socket: Any = await self._unless_stopped(connecting)
        except CancelledError:
            raise
        except Exception as e:
            text = f"the server at {self._url} can't be reached: {str(e) or type(e).__name__}"
            raise ClientError(ClientCode.CONNECTION, text) from e
        link: Link = socket.link
        await self._unless_stopped(link.opened())
        return link

    def _forget(self) -> Link:
        link, self._link = self._link, None
        assert link is not None
        self._owner.lost()
        return link

    async def _pause(self, seconds: float) -> None:
        if self._is_stopping:
            return
        try:
            await self._unless_stopped(deferLater(self._reactor, seconds))
        except CancelledError:
            return

    async def _unless_stopped(self, awaited: Deferred[T]) -> T:
        self._awaited = awaited
        if self._is_stopping:
            awaited.cancel()
        try:
            return await awaited
        finally:
            self._awaited = None


def _with_query(url: str, credential: tuple[str, str]) -> str:
    parts = urlsplit(url)
    query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), credential, ("client", "wsock/1")])
    return urlunsplit((parts.scheme, parts.netloc, parts.path or "/", query, ""))
