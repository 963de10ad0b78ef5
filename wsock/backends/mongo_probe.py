"""The first look at a MongoDB: whether it can be reached, is the one that is meant, and lets us in.

The driver tells none of these: it tries for ever, and goes on without a login that failed. So before it is
used, each server is asked over a connection of its own that ends here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from OpenSSL import SSL
from pymongo.errors import PyMongoError
from service_identity import VerificationError
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError, UserError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from txmongo.protocol import MongoProtocol

from wsock.backends.mongo_url import Address, MongoUrl
from wsock.errors import ConfigError, Unavailable

__all__ = ["check"]

_OLDEST_WIRE_VERSION = 7


class _ProbeFactory(Factory):
    """Makes the one connection, and keeps why it ended."""

    protocol = MongoProtocol
    reason: Failure | None = None
    noisy = False

    def setInstance(self, instance: object = None, reason: Failure | None = None) -> None:  # noqa: N802
        """The driver's hook for an end."""
        self.reason = reason


@dataclass(slots=True)
class _Probe:
    """A look at one server."""

    url: MongoUrl
    address: Address
    reactor: IReactorTime
    seconds: float

    async def look(self) -> dict[str, Any]:
        """Asks who the server is, and logs in if it is the primary. Raises what keeps it from being used."""
        factory = _ProbeFactory()
        protocol = await self._connect(factory)
        try:
            hello: dict[str, Any] = await self._limited(self._ask(protocol, factory), "did not answer")
            self._check(hello)
            if hello.get("ismaster") and self.url.user:
                await self._limited(self._log_in(protocol, factory), "did not answer to the login")
            return hello
        finally:
            protocol.transport.abortConnection()

    async def _connect(self, factory: _ProbeFactory) -> Any:
        endpoint: Any = HostnameEndpoint(
            cast(Any, self.reactor), self.address.host, self.address.port, timeout=self.seconds
        )
        if self.url.is_tls:
            endpoint = wrapClientTLS(self.url.tls(self.address.host), endpoint)
        try:
            return await endpoint.connect(factory)
        except (ConnectError, DNSLookupError, UserError) as e:
            raise Unavailable(f"{self.address} can't be reached: {e}") from e

    async def _limited(self, work: Any, verdict: str) -> Any:
        try:
            return await Deferred.fromCoroutine(work).addTimeout(self.seconds, self.reactor)
        except DeferredTimeout as e:
            raise Unavailable(f"{self.address} {verdict} within {self.seconds:g} s{self._hint()}") from e

    async def _ask(self, protocol: Any, factory: _ProbeFactory) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = await protocol.send_op_query_command("admin", {"ismaster": 1})
        except (PyMongoError, ConnectionClosed) as e:
            raise self._ended(factory.reason) from e
        return answer

    def _ended(self, reason: Failure | None) -> Exception:
        if reason is not None and isinstance(reason.value, SSL.Error | VerificationError):
            return ConfigError(
                f"TLS with the MongoDB at {self.address} fails: {reason.value!r}; is it the host of its"
                " certificate, and does tlsCAFile hold the authority that signed it?"
            )
        return Unavailable(f"{self.address} closed the connection{self._hint()}")

    def _hint(self) -> str:
        if self.url.is_tls:
            return "; does it speak TLS, as the URL says?"
        return "; if it speaks TLS, say tls=true in the URL"

    def _check(self, hello: dict[str, Any]) -> None:
        found = hello.get("setName")
        if self.url.replica_set is not None and found != self.url.replica_set:
            raise ConfigError(
                f"the MongoDB at {self.address} is of the replica set {found}, and its URL says {self.url.replica_set}"
            )
        if hello.get("maxWireVersion", 0) < _OLDEST_WIRE_VERSION:
            raise ConfigError(f"the MongoDB at {self.address} is too old: wsock needs 4.0 or later")

    async def _log_in(self, protocol: Any, factory: _ProbeFactory) -> None:
        url = self.url
        try:
            await protocol.authenticate(url.auth_source, url.user, url.password, "SCRAM-SHA-1")
        except CancelledError:
            raise
        except Exception as e:  # the driver looks for what a refusal lacks: KeyError and others
            if factory.reason is not None:
                raise Unavailable(f"{self.address} closed the connection during the login") from e
            raise ConfigError(
                f"the MongoDB at {self.address} refuses the login of {url.user} (authSource={url.auth_source}):"
                " check user, password and authSource in its URL; the user needs SCRAM-SHA-1 credentials,"
                ' createUser with mechanisms: ["SCRAM-SHA-1"]'
            ) from e


async def check(url: MongoUrl, reactor: IReactorTime, seconds: float) -> None:
    """Returns when the primary was found and let us in; each server has so many seconds for each answer.

    Raises :class:`ConfigError` when a setting is wrong, :class:`Unavailable` when the MongoDB is away.
    """
    waiting = list(url.addresses)
    reasons: list[str] = []
    for address in waiting:  # grows: a server names the others
        try:
            hello = await _Probe(url, address, reactor, seconds).look()
        except Unavailable as e:
            reasons.append(e.text)
            continue
        if hello.get("ismaster"):
            return
        reasons.append(f"{address} is not the primary")
        waiting.extend(other for other in _others(hello) if other not in waiting)
    raise Unavailable(f"the MongoDB {url} can't be used: {', '.join(reasons)}")


def _others(hello: dict[str, Any]) -> list[Address]:
    named = [str(name).rpartition(":") for name in hello.get("hosts") or ()]
    return [Address(host, int(port)) for host, _, port in named if host and port.isdigit()]
