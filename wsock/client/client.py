"""The client: channels, callbacks, and the timeouts of what is asked."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from twisted.application.internet import backoffPolicy
from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from wsock.client import effects as fx
from wsock.client.channel import Callbacks, Channel
from wsock.client.connector import Connector, Credential, TokenSource, endpoint_for
from wsock.client.conversation import Conversation
from wsock.client.effects import Call, Effect
from wsock.client.errors import ClientCode, ClientError
from wsock.client.frames import request
from wsock.client.link import Link, Timing
from wsock.errors import Refused
from wsock.protocol.channels import check_channel
from wsock.protocol.position import Position

__all__ = ["Client"]


class Client(Service):
    """A client of one server, with one API key or token. It keeps connected from :meth:`connect` to :meth:`close`.

    As a service it does so from ``startService`` to ``stopService``. What is asked before there is a connection waits
    for it.

    :param url: ``ws://HOST[:PORT]`` or ``wss://HOST[:PORT]``, with any path.
    :param key: an API key; or else:
    :param token: a JWT, or a callable that returns one (or a Deferred or coroutine of one). The callable is asked for
        each connection, and when the server says that the token has expired.
    :param endpoint: the way to the server, where it is not the one that the URL says.
    :param timeout: seconds after which a request fails without an answer.
    :param max_pending: publishes that may wait for their acks, and other requests for their answers; one more is
        refused.
    :param retry_policy: the seconds to wait after so many failures; see ``twisted.application.internet.backoffPolicy``.
    """

    _log = Logger()

    def __init__(
        self,
        url: str,
        *,
        reactor: Any,
        key: str | None = None,
        token: str | TokenSource | None = None,
        endpoint: IStreamClientEndpoint | None = None,
        timeout: float = 30.0,
        max_pending: int = 1024,
        timing: Timing | None = None,
        retry_policy: Callable[[int], float] | None = None,
        new_id: Callable[[], str] = secrets.token_urlsafe,
    ) -> None:
        self.new_id = new_id
        self._url = url
        self._reactor = reactor
        self._credential = Credential(key, token)
        self._endpoint = endpoint_for(url, reactor) if endpoint is None else endpoint
        self._timeout = timeout
        self._timing = timing or Timing()
        self._retry_policy = retry_policy or backoffPolicy(initialDelay=0.5, maxDelay=30.0, factor=1.6)
        self._conversation = Conversation(max_pending)
        self._connector: Connector | None = None
        self._link: Link | None = None
        self._is_ready = False
        self._end: ClientError | None = None
        self._channels: dict[str, Channel] = {}
        self._calls: dict[Call, Deferred[Any]] = {}
        self._readers: list[Deferred[None]] = []
        self._closers: list[Deferred[None]] = []
        self._moving: IDelayedCall | None = None
        self._renewal: Deferred[str] | None = None
        self._lost: Callbacks[Channel] = Callbacks()
        self._errors: Callbacks[ClientError] = Callbacks()

    def __repr__(self) -> str:
        return f"<Client {self._url} {'connected' if self.is_connected else 'not connected'}>"

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection on which all channels are resumed."""
        return self._is_ready

    @property
    def positions(self) -> dict[str, Position]:
        """By channel, the last message that was delivered to the callbacks."""
        return self._conversation.positions

    def connect(self) -> Deferred[None]:
        """Fires when the client is connected, however many attempts that takes.

        Fails with :class:`ClientError` when the server refuses the credential for good, or the client is closed.
        """
        if self._is_ready:
            return succeed(None)
        ready = Deferred[None](lambda d: self._readers.remove(d))
        self._readers.append(ready)
        if self._connector is None:
            self.startService()
        return ready

    def close(self) -> Deferred[None]:
        """Closes the connection and fires when it has ended. What has no answer yet fails with the code ``closed``."""
        return self.stopService()

    def startService(self) -> None:
        """Twisted's hook."""
        super().startService()
        if self._connector is not None:
            return
        self._end = None
        self._connector = Connector(
            self._url,
            self._credential,
            reactor=self._reactor,
            endpoint=self._endpoint,
            timing=self._timing,
            retry_policy=self._retry_policy,
            owner=self,
        )
        Deferred.fromCoroutine(self._connector.run()).addBoth(self._ended)

    def stopService(self) -> Deferred[None]:
        """Twisted's hook."""
        super().stopService()
        if self._connector is None:
            self._fail_all(ClientError(ClientCode.CLOSED, "the client is closed"))
            return succeed(None)
        closed: Deferred[None] = Deferred()
        self._closers.append(closed)
        self._connector.stop()
        return closed

    def channel(self, name: str) -> Channel:
        """The channel of this name; always the same object."""
        if name not in self._channels:
            try:
                check_channel(name)
            except Refused as e:
                raise ClientError(e.code, e.text) from e
            self._channels[name] = Channel(name, self)
        return self._channels[name]

    def on_lost(self, callback: Callable[[Channel], object]) -> Callable[[], None]:
        """Calls back when messages of a channel may be missing for good: read its history. Returns what ends that."""
        return self._lost.add(callback)

    def on_error(self, callback: Callable[[ClientError], object]) -> Callable[[], None]:
        """Calls back with what goes wrong without being the answer to a request. Returns what ends that.

        Such as: attempts to connect that failed, gaps that are being repaired, subscriptions that the server ended.
        """
        return self._errors.add(callback)

    def ask(self, call: Call, timeout: float | None) -> Deferred[Any]:
        """Makes a call (for :class:`Channel`)."""
        asked = Deferred[Any](lambda _: self._give_up(call))
        self._calls[call] = asked
        if self._end is not None:
            self._perform([fx.Failed(call, self._end)])
            return asked
        seconds = timeout or self._timeout
        asked.addTimeout(seconds, self._reactor, lambda result, _: _timed_out(result, call, seconds))
        self._perform(self._conversation.ask(call))
        return asked

    def _give_up(self, call: Call) -> None:
        self._calls.pop(call, None)
        self._conversation.give_up(call)

    # What the connector tells.

    def opened(self, link: Link) -> None:
        """A connection is open."""
        self._link = link
        self._perform(self._conversation.opened())

    def received(self, link: Link, text: bytes) -> None:
        """A text message has come."""
        self._perform(self._conversation.received(text))

    def lost(self) -> None:
        """The connection is lost."""
        self._link = None
        self._is_ready = False
        self._conversation.lost()
        moving, self._moving = self._moving, None
        if moving is not None and moving.active():
            moving.cancel()
        renewal, self._renewal = self._renewal, None
        if renewal is not None:
            renewal.cancel()

    def failed(self, error: ClientError) -> None:
        """No connection could be made."""
        self._log.info("no connection to {url}: {text}", url=self._url, text=error.text)
        self._errors.tell(error)

    def _ended(self, result: Any) -> None:
        self._connector = None
        cause = result.value if isinstance(result, Failure) else None
        if isinstance(result, Failure) and not isinstance(cause, ClientError):
            self._log.failure("the client ended", failure=result)
        error = cause if isinstance(cause, ClientError) else ClientError(ClientCode.CLOSED, "the client is closed")
        self._fail_all(error)
        if cause is not None:
            self._errors.tell(error)
        closers, self._closers = self._closers, []
        for closed in closers:
            closed.callback(None)

    def _fail_all(self, error: ClientError) -> None:
        self._end = error
        self._perform(self._conversation.end(error))
        readers, self._readers = self._readers, []
        for ready in readers:
            ready.errback(error)

    # Effects.

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case fx.Deliver(message):
                    self.channel(message.channel).messages.tell(message)
                case fx.Send(text):
                    if self._link is not None:
                        self._link.send(text)
                case fx.Done(call, value):
                    self._settle(call, value)
                case fx.Failed(call, error):
                    self._settle(call, Failure(error))
                case fx.Changed(change):
                    self.channel(change.channel).presence.changes.tell(change)
                case fx.Lost(channel):
                    self._lost.tell(self.channel(channel))
                case fx.Fault(error):
                    self._errors.tell(error)
                case fx.Ready():
                    self._ready()
                case fx.Expiring(error):
                    self._renew(error)
                case fx.Move(seconds):
                    self._move(seconds)
                case fx.Restart(error):
                    self._restart(error)

    def _settle(self, call: Call, result: Any) -> None:
        asked = self._calls.pop(call, None)
        if asked is not None:
            asked.callback(result)

    def _ready(self) -> None:
        self._is_ready = True
        readers, self._readers = self._readers, []
        for ready in readers:
            ready.callback(None)

    def _move(self, seconds: float) -> None:
        if self._moving is None and self._connector is not None:
            self._moving = self._reactor.callLater(seconds, self._connector.leave)

    def _restart(self, error: ClientError) -> None:
        self._errors.tell(error)
        if self._connector is not None:
            self._connector.give_up(error.retry_after)

    def _renew(self, error: ClientError) -> None:
        if not self._credential.is_renewable:
            self._errors.tell(error)
        elif self._renewal is None:
            self._renewal = self._credential.renewed()
            self._renewal.addCallbacks(self._authenticate, self._not_renewed)

    def _authenticate(self, token: str) -> None:
        self._renewal = None
        if self._link is not None:
            self._link.send(request("auth", token=token))

    def _not_renewed(self, failure: Failure) -> None:
        self._renewal = None
        if isinstance(failure.value, ClientError):
            self._errors.tell(failure.value)


def _timed_out(_: object, call: Call, seconds: float) -> None:
    text = f"no answer to '{call.kind}' on '{call.channel}' in {seconds:g} seconds"
    raise ClientError(ClientCode.TIMEOUT, text, channel=call.channel)
