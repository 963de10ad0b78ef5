"""A channel and its presence, as the client's user sees them."""

from __future__ import annotations

from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Any, Generic, Literal, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from wsock.client.effects import Call
from wsock.client.frames import request
from wsock.client.values import Member, Message, Page, PresenceChange, Receipt
from wsock.protocol.position import Position

__all__ = ["Asker", "Callbacks", "Channel", "Presence"]

T = TypeVar("T")


class Asker(Protocol):
    """Who makes calls."""

    def ask(self, call: Call, timeout: float | None) -> Deferred[Any]:
        """Fires with the call's result; fails with :class:`~wsock.client.errors.ClientError`."""

    def new_id(self) -> str:
        """An id that nobody else has."""


class Callbacks(Generic[T]):
    """Functions that are told of something, in the order in which they were added."""

    _log = Logger()

    def __init__(self) -> None:
        self._functions: list[Callable[[T], object]] = []

    def tell(self, what: T) -> None:
        """Calls them. One that raises is logged, and keeps the others from nothing."""
        for function in list(self._functions):
            try:
                function(what)
            except Exception:
                self._log.failure("a callback for {what} failed", what=type(what).__name__)

    def add(self, function: Callable[[T], object]) -> Callable[[], None]:
        """Adds the function. Returns what removes it again."""
        if iscoroutinefunction(function):
            raise TypeError("a callback is a plain function: what it returns is not awaited")
        self._functions.append(function)
        return lambda: self._functions.remove(function)


class Presence:
    """Who is present in a channel. Membership is restored after a reconnect, until :meth:`leave`."""

    def __init__(self, channel: str, asker: Asker) -> None:
        self._channel = channel
        self._asker = asker
        self.changes: Callbacks[PresenceChange] = Callbacks()

    def enter(self, data: dict[str, Any] | None = None, *, timeout: float | None = None) -> Deferred[None]:
        """Enters the channel with this data; entering again replaces it."""
        return self._present("presence.enter", data, timeout)

    def update(self, data: dict[str, Any], *, timeout: float | None = None) -> Deferred[None]:
        """Replaces the data."""
        return self._present("presence.update", data, timeout)

    def leave(self, *, timeout: float | None = None) -> Deferred[None]:
        """Leaves the channel."""
        text = request("presence.leave", channel=self._channel)
        return self._asker.ask(Call(kind="absent", channel=self._channel, text=text), timeout)

    def get(self, *, timeout: float | None = None) -> Deferred[list[Member]]:
        """Fires with all that are present."""
        text = request("presence.get", channel=self._channel)
        return self._asker.ask(Call(kind="members", channel=self._channel, text=text), timeout)

    def on_change(self, callback: Callable[[PresenceChange], object]) -> Callable[[], None]:
        """Calls back for each change while the channel is subscribed, or the client present. Returns what ends that.

        Changes are not replayed: after a connection was lost, :meth:`get` tells who is present.
        """
        return self.changes.add(callback)

    def _present(self, action: str, data: dict[str, Any] | None, timeout: float | None) -> Deferred[None]:
        data = data or {}
        text = request(action, channel=self._channel, data=data)
        again = request("presence.enter", channel=self._channel, data=data)
        return self._asker.ask(Call(kind="present", channel=self._channel, text=text, presence=again), timeout)


class Channel:
    """A channel of a client; :meth:`wsock.client.Client.channel` makes it.

    Every request returns a Deferred, which fails with :class:`wsock.client.ClientError`. A request that has no answer
    when its connection is lost is made again on the next one; after ``timeout`` seconds (the client's, where not given)
    it fails.
    """

    def __init__(self, name: str, asker: Asker) -> None:
        self.name = name
        self.presence = Presence(name, asker)
        self.messages: Callbacks[Message] = Callbacks()
        self._asker = asker

    def __repr__(self) -> str:
        return f"<Channel {self.name}>"

    def on_message(self, callback: Callable[[Message], object]) -> Callable[[], None]:
        """Calls back with each message of the subscribed channel, in order. Returns what ends that.

        A message counts as delivered when the callbacks have returned, whatever they raise (it is logged).
        """
        return self.messages.add(callback)

    def subscribe(self, rewind: int | None = None, *, timeout: float | None = None) -> Deferred[Position]:
        """Subscribes; fires with the position behind which live messages begin.

        The last ``rewind`` messages come first; a connection lost meanwhile cuts those short, and only those. A channel
        that is subscribed already stays as it is. The subscription lasts, across reconnects, until :meth:`unsubscribe`.
        """
        text = request("subscribe", channel=self.name, rewind=rewind)
        return self._asker.ask(Call(kind="subscribe", channel=self.name, text=text, rewind=rewind or 0), timeout)

    def unsubscribe(self, *, timeout: float | None = None) -> Deferred[None]:
        """Ends the subscription: no message is delivered any more, from this call on."""
        text = request("unsubscribe", channel=self.name)
        return self._asker.ask(Call(kind="unsubscribe", channel=self.name, text=text), timeout)

    def publish(
        self, data: Any, *, persist: bool | None = None, id: str | None = None, timeout: float | None = None
    ) -> Deferred[Receipt]:
        """Publishes what JSON can hold; fires when the server has accepted it.

        Without an answer it is repeated after a reconnect, with the same id, so it is delivered once.
        ``persist=False`` keeps it out of the history.
        """
        id = id or self._asker.new_id()
        text = request("publish", channel=self.name, data=data, id=id, persist=persist)
        return self._asker.ask(Call(kind="publish", channel=self.name, text=text, id=id), timeout)

    def history(
        self,
        limit: int = 50,
        *,
        before: int | None = None,
        after: int | None = None,
        direction: Literal["forward", "backward"] = "backward",
        timeout: float | None = None,
    ) -> Deferred[Page]:
        """A page of the past; ``limit`` is at most 1000.

        ``before`` and ``after`` are timestamps in milliseconds, exclusive. ``backward`` begins with the newest,
        ``forward`` with the oldest.
        """
        text = request("history", channel=self.name, limit=limit, before=before, after=after, direction=direction)
        return self._asker.ask(Call(kind="history", channel=self.name, text=text), timeout)
