"""Connections to one Redis server: commands under a time limit, scripts, subscriptions, and coming back.

Driver errors end here: a command that can't be carried out raises :class:`wsock.errors.Unavailable`. A command whose
answer does not come in time ends its connection, since every later answer on it would be late as well; whether Redis
carried it out is then unknown, and it is repeatable by design (see the scripts).
"""

from __future__ import annotations

import hashlib
import importlib.resources
import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

import txredisapi
from OpenSSL.SSL import Error as SSLError
from twisted.application.internet import backoffPolicy
from twisted.internet import tcp, unix
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.ssl import Certificate, optionsForClientTLS, platformTrust, trustRootFromCertificates
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from wsock.errors import ConfigError, Unavailable

__all__ = ["RedisConnection", "RedisUrl", "Script", "Subscriptions", "all_answers"]

_DEFAULT_PORT = 6379
_SENTINEL_PORT = 26379
_CONNECT_SECONDS = 5
_PLAIN = (tcp.Client, unix.Client)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisUrl:
    """Where a Redis server is and how to log in: ``redis://``, ``rediss://`` (TLS), ``unix://``, ``redis+sentinel://``.

    With TLS the server's certificate is verified against the system's authorities, or those in ``?ssl_ca_certs=FILE``.
    Its text never shows the password.
    """

    host: str
    port: int
    path: str = ""
    is_tls: bool = False
    ca_file: str = ""
    username: str | None = None
    password: str | None = None
    database: int = 0
    sentinels: tuple[tuple[str, int], ...] = ()
    service: str = ""

    @classmethod
    def parse(cls, text: str) -> RedisUrl:
        """Reads a URL. Raises :class:`ConfigError` that says what is wrong, without the password."""
        try:
            return _parse(text)
        except _Unreadable as e:
            reason = str(e)
        except ValueError:
            # What the library says of it may hold a part of the password.
            reason = "its host or port can't be read; in a password, / # ? @ are written %2F %23 %3F %40"
        raise ConfigError(
            f"redis: this is no URL of a Redis server ({reason}); it takes redis://[user:password@]host:port/database,"
            " rediss://… for TLS, unix:///path?db=0, or redis+sentinel://host:port,host:port/service/database"
        )

    def __str__(self) -> str:
        if self.path:
            return f"unix://{self.path}"
        if self.sentinels:
            return f"redis+sentinel://{self.service}"
        return f"{'rediss' if self.is_tls else 'redis'}://{self.host}:{self.port}/{self.database}"

    __repr__ = __str__

    def endpoint(self, reactor: Any) -> IStreamClientEndpoint:
        """How to connect to the server."""
        if self.path:
            return UNIXClientEndpoint(reactor, self.path, timeout=_CONNECT_SECONDS)
        if self.sentinels:
            return SentinelEndpoint(self, reactor)
        return self.host_endpoint(reactor, self.host, self.port)

    def host_endpoint(self, reactor: Any, host: str, port: int) -> IStreamClientEndpoint:
        """How to connect to this host of the service."""
        endpoint = HostnameEndpoint(reactor, host, port, timeout=_CONNECT_SECONDS)
        return wrapClientTLS(optionsForClientTLS(host, self._authorities()), endpoint) if self.is_tls else endpoint

    def _authorities(self) -> Any:
        """Who may vouch for the server."""
        if not self.ca_file:
            return platformTrust()
        try:
            text = Path(self.ca_file).read_text("ascii")
            blocks = re.findall("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", text, re.DOTALL)
            return trustRootFromCertificates([Certificate.loadPEM(block) for block in blocks])
        except (OSError, ValueError, SSLError) as e:
            raise ConfigError(f"redis: the certificates in {self.ca_file} (ssl_ca_certs) can't be read: {e}") from e


class _Unreadable(Exception):
    """Why a URL can't be read; without what is secret in it."""


def _parse(text: str) -> RedisUrl:
    url = urlsplit(text)
    query = parse_qs(url.query)
    login, _, hosts = url.netloc.rpartition("@")
    user, _, word = login.partition(":")
    username, password = unquote(user) or None, unquote(word) or None
    if username and not password:
        raise _Unreadable("there is a user without a password")
    parts = [unquote(part) for part in url.path.split("/") if part]
    if url.scheme == "unix":
        if not parts:
            raise _Unreadable("the path of the socket is missing")
        database = _database(query.get("db", ["0"])[0])
        return RedisUrl(
            host="", port=0, path=unquote(url.path), username=username, password=password, database=database
        )
    if url.scheme not in ("redis", "rediss", "redis+sentinel", "rediss+sentinel") or not hosts:
        raise _Unreadable("the scheme is none of redis, rediss, unix, redis+sentinel, or the host is missing")
    has_sentinels = url.scheme.endswith("+sentinel")
    numbers = parts[1:] if has_sentinels else parts
    first = _host_port(hosts, _DEFAULT_PORT) if not has_sentinels else ("", 0)
    return RedisUrl(
        host=first[0],
        port=first[1],
        is_tls=url.scheme.startswith("rediss"),
        ca_file=query.get("ssl_ca_certs", [""])[0],
        username=username,
        password=password,
        database=_database(numbers[0]) if numbers else 0,
        sentinels=tuple(_host_port(host, _SENTINEL_PORT) for host in hosts.split(",")) if has_sentinels else (),
        service=(parts[0] if parts else "mymaster") if has_sentinels else "",
    )


def _database(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise _Unreadable("the database is no number")
    return int(text)


def _host_port(text: str, default: int) -> tuple[str, int]:
    url = urlsplit(f"//{text}")
    if not url.hostname:
        raise _Unreadable("the host is missing")
    return url.hostname, default if url.port is None else url.port


@implementer(IStreamClientEndpoint)
class SentinelEndpoint:
    """Asks the sentinels who the master is, at each connect, and connects to that."""

    def __init__(self, url: RedisUrl, reactor: Any, timeout_seconds: float = 2.0) -> None:
        self._url = url
        self._reactor = reactor
        self._timeout_seconds = timeout_seconds

    def connect(self, factory: Any) -> Deferred[Any]:
        """Twisted's hook."""
        return Deferred.fromCoroutine(self._connect(factory))

    async def _connect(self, factory: Any) -> Any:
        for host, port in self._url.sentinels:
            try:
                master = await self._ask(host, port)
            except CancelledError:
                raise
            except Exception:
                # A sentinel that is away is what the others are for.
                continue
            if master is not None:
                endpoint = self._url.host_endpoint(self._reactor, *master)
                return await endpoint.connect(factory)
        raise Unavailable(f"no sentinel knows the master of '{self._url.service}'")

    async def _ask(self, host: str, port: int) -> tuple[str, int] | None:
        connecting = HostnameEndpoint(self._reactor, host, port).connect(_quiet_factory(_Commands))
        protocol: Any = await connecting.addTimeout(self._timeout_seconds, self._reactor)
        try:
            asking = protocol.execute_command("SENTINEL", "get-master-addr-by-name", self._url.service)
            answer = await asking.addTimeout(self._timeout_seconds, self._reactor)
        finally:
            protocol.transport.abortConnection()
        return (answer[0].decode(), int(answer[1])) if isinstance(answer, list) else None


def _quiet_factory(build: Callable[[], Any]) -> Factory:
    factory = Factory.forProtocol(build)
    factory.noisy = False
    return factory


class _Commands(txredisapi.RedisProtocol):  # type: ignore[misc]
    """Replies as hiredis gives them, in bytes: the driver would look at each value in them again."""

    def __init__(self) -> None:
        super().__init__(charset=None, convertNumbers=False)

    def dataReceived(self, data: bytes) -> None:
        """Twisted's hook."""
        self._reader.feed(data)
        reply = self._reader.gets()
        while reply is not False:
            self.replyReceived(reply)
            reply = self._reader.gets()


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script of this package, known to Redis by its digest."""

    text: str
    digest: str

    @classmethod
    def load(cls, name: str, *parts: str) -> Script:
        """Reads ``lua/<name>.lua``, with the shared functions and these parts before it."""
        folder = importlib.resources.files("wsock.backends") / "lua"
        text = "".join((folder / f"{part}.lua").read_text("utf-8") for part in ("shared", *parts, name))
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


class RedisConnection:
    """One connection that comes back by itself.

    ``prepare`` is awaited on each new connection, after login and loading the scripts and before anything else may use
    it. ``build`` makes the protocol. Times are in seconds.
    """

    _log = Logger()

    def __init__(
        self,
        url: RedisUrl,
        reactor: Any,
        *,
        scripts: tuple[Script, ...] = (),
        prepare: Callable[[RedisConnection], Awaitable[None]] | None = None,
        on_lost: Callable[[], None] | None = None,
        build: Callable[[], Any] = _Commands,
        timeout_seconds: float = 2.0,
        max_delay_seconds: float = 1.0,
    ) -> None:
        self._url = url
        self._reactor: Any = reactor
        self._scripts = scripts
        self._prepare = prepare
        self._on_lost = on_lost
        self._timeout_seconds = timeout_seconds
        self._protocol: Any = None
        self._is_away = False
        self._is_ready = False
        self._endpoint = url.endpoint(reactor)
        self._factory = _quiet_factory(build)
        # Without a jitter: the nodes are few, and leases wait for them.
        self._delay_seconds = backoffPolicy(0.1, max_delay_seconds, jitter=lambda: 0.0)
        self._is_wanted = False
        self._running: Deferred[None] | None = None
        self._waiting: list[Deferred[None]] = []

    @property
    def is_up(self) -> bool:
        """Whether it is made, and prepared."""
        return self._is_ready

    def start(self) -> None:
        """Connects, and again whenever the connection is lost."""
        self._is_wanted = True
        self._running = Deferred.fromCoroutine(self._stay_connected())

    def when_up(self) -> Deferred[None]:
        """Fires when the connection can be used; fires :class:`Unavailable` when the next attempt fails."""
        if self.is_up:
            return succeed(None)
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        return waiting

    async def stop(self) -> None:
        """Ends the connection for good."""
        self._is_wanted = False
        running, self._running = self._running, None
        if running is not None:
            # Who waited for the connection may stop it at once: that is still within what is to be cancelled.
            await deferLater(self._reactor, 0)
            running.cancel()
            await running

    async def _stay_connected(self) -> None:
        # Twisted's ClientService can't be told of a connection that is lost while it is prepared.
        failures = 0
        while True:
            try:
                await self._connect()
                failures = 0
            except Exception as e:
                failures += 1
                text = f"{self._url} can't be used: {e}" if self._is_wanted else f"{self._url} is not used any more"
                self._tell_waiting(Failure(Unavailable(text, retry_after=1.0)))
            if self._is_wanted:
                with suppress(CancelledError):
                    await deferLater(self._reactor, self._delay_seconds(failures))
            # Asked rather than caught: an attempt to connect that is cancelled has errors of its own.
            if not self._is_wanted:
                return

    async def _connect(self) -> None:
        """Returns when a connection that could be used is lost; raises when none could."""
        protocol: Any = await self._endpoint.connect(self._factory)
        lost, over = protocol.whenDisconnected(), protocol.whenDisconnected()
        try:
            await self._prepared(protocol)
            self._is_ready = True
            self._tell_waiting(None)
            await lost
        finally:
            self._is_ready = False
            self._protocol = None
            if not over.called:
                protocol.transport.abortConnection()
                await over

    def _tell_waiting(self, result: Failure | None) -> None:
        told, self._waiting = self._waiting, []
        for waiting in told:
            if result is None:
                waiting.callback(None)
            else:
                waiting.errback(result)

    def call(self, *command: Any, timeout_seconds: float | None = None) -> Deferred[Any]:
        """Carries out a command; bytes in, bytes out. Fires :class:`Unavailable` when that can't be."""
        protocol = self._protocol
        if protocol is None:
            return fail(Unavailable(f"{self._url} is away: repeat the request", retry_after=1.0))
        return self._send(protocol, command, timeout_seconds or self._timeout_seconds)

    def run(self, script: Script, *arguments: Any) -> Deferred[Any]:
        """Runs a script without keys; its arguments say all."""
        running = self.call("EVALSHA", script.digest, 0, *arguments)
        return running.addErrback(self._reload, script, arguments)

    def push(self) -> None:
        """What was written goes to the kernel now, not behind everything else that this turn of the reactor brings."""
        transport: Any = self._protocol.transport if self._protocol is not None else None
        # By exact type: what wraps a transport has a buffer of its own.
        if type(transport) in _PLAIN and not transport.TLS and transport.connected:
            # An error is found again by the reactor, on its own way.
            transport.doWrite()

    def abort(self) -> None:
        """Ends this connection; another one is made."""
        if self._protocol is not None:
            self._protocol.transport.abortConnection()

    def _send(self, protocol: Any, command: tuple[Any, ...], seconds: float) -> Deferred[Any]:
        try:
            answer: Deferred[Any] = protocol.execute_command(*command)
        except txredisapi.ConnectionError:
            return fail(Unavailable(f"{self._url} is away: repeat the request", retry_after=1.0))
        answer.addTimeout(seconds, self._reactor)
        return answer.addErrback(self._translate, protocol)

    def _translate(self, failure: Failure, protocol: Any) -> Any:
        if failure.check(DeferredTimeout):
            protocol.transport.abortConnection()
            raise Unavailable(f"{self._url} does not answer: repeat the request", retry_after=1.0) from failure.value
        if failure.check(txredisapi.ConnectionError):
            raise Unavailable(f"{self._url} is away: repeat the request", retry_after=1.0) from failure.value
        if failure.check(txredisapi.ResponseError) and _is_outage(str(failure.value)):
            if str(failure.value).startswith(("READONLY", "MASTERDOWN")):
                # This was the master; who is it now is asked with the next connection.
                protocol.transport.abortConnection()
            raise Unavailable(f"{self._url} can't do this now: repeat the request", retry_after=1.0) from failure.value
        return failure

    def _reload(self, failure: Failure, script: Script, arguments: tuple[Any, ...]) -> Any:
        """Somebody flushed the scripts: the answer is late, but nothing was carried out and nothing overtook it."""
        if not str(failure.value).startswith("NOSCRIPT"):
            return failure
        return self.call("EVAL", script.text, 0, *arguments)

    async def _prepared(self, protocol: Any) -> None:
        try:
            await self._log_in(protocol)
            for script in self._scripts:
                await self._send(protocol, ("SCRIPT", "LOAD", script.text), self._timeout_seconds)
            self._protocol = protocol
            if self._prepare is not None:
                await self._prepare(self)
        except Exception as e:
            if not self._is_away and not isinstance(e, CancelledError):
                self._is_away = True
                self._log.error("{url} can't be used: {reason}", url=str(self._url), reason=str(e))
            raise
        if self._is_away:
            self._is_away = False
            self._log.info("{url} is back", url=str(self._url))
        protocol.whenDisconnected().addCallback(self._lost, protocol)

    async def _log_in(self, protocol: Any) -> None:
        url = self._url
        if url.password is not None:
            login = ("AUTH", url.username, url.password) if url.username else ("AUTH", url.password)
            await self._send(protocol, login, self._timeout_seconds)
        # Answered by nobody but a server that serves: a frozen one accepts connections too.
        await self._send(protocol, ("SELECT", url.database), self._timeout_seconds)
        if url.sentinels:
            role = await self._send(protocol, ("ROLE",), self._timeout_seconds)
            if role[0] != b"master":
                raise Unavailable(f"{url}: the server that the sentinels name is no master yet")

    def _lost(self, _: object, protocol: Any) -> None:
        if self._protocol is protocol:
            self._is_ready = False
            self._protocol = None
            self._is_away = True
            self._log.error("the connection to {url} is lost", url=str(self._url))
            if self._on_lost is not None:
                self._on_lost()


_OUTAGES = ("LOADING", "BUSY ", "READONLY", "OOM", "MASTERDOWN", "CLUSTERDOWN", "NOREPLICAS", "MISCONF")
"""How the answers begin that say so; BUSYGROUP is no outage."""


async def all_answers(waiting: Iterable[Deferred[_T]]) -> list[_T]:
    """The results of what is under way at once; the first failure when there is one."""
    left = deque(waiting)
    answers = []
    try:
        while left:
            answers.append(await left.popleft())
    finally:
        for deferred in left:
            deferred.addErrback(lambda _: None)
    return answers


def _is_outage(text: str) -> bool:
    """Whether the answer says that the server can't serve now, rather than that the command is wrong."""
    return text.startswith(_OUTAGES)


class Subscriptions(txredisapi.SubscriberProtocol):  # type: ignore[misc]
    """A pub/sub connection that tells of each message: ``on_message(channel, payload)``, bytes both."""

    def __init__(self, on_message: Callable[[bytes, bytes], None]) -> None:
        super().__init__(charset=None, convertNumbers=False)
        self._on_message = on_message

    def dataReceived(self, data: bytes) -> None:
        """Twisted's hook: sorts messages from answers."""
        self._reader.feed(data)
        reply = self._reader.gets()
        while reply is not False:
            if type(reply) is list and reply[0] == b"message":
                self._on_message(reply[1], reply[2])
            else:
                self.replyReceived(reply)
            reply = self._reader.gets()
