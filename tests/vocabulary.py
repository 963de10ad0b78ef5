"""Words for tests that speak to a whole server: what a client says, what it must be told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from tests.base import SynchronousTestCase
from wsock.config import Config, Limits
from wsock.testing import InMemoryClient, InMemoryServer

__all__ = ["Gate", "ServerTestCase"]


class Gate:
    """Holds calls of an asynchronous method back until :meth:`open` lets them through, in their order."""

    def __init__(self) -> None:
        self.held: list[Deferred[None]] = []
        self.is_open = False

    def guard(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """The method, which waits at the gate before it begins."""

        async def waits(*args: Any, **kwargs: Any) -> Any:
            if not self.is_open:
                held: Deferred[None] = Deferred()
                self.held.append(held)
                await held
            return await method(*args, **kwargs)

        return waits

    def guard_deferred(self, method: Callable[..., Deferred[Any]]) -> Callable[..., Deferred[Any]]:
        """The same for a method that returns a Deferred."""
        guarded = self.guard(method)

        def waits(*args: Any, **kwargs: Any) -> Deferred[Any]:
            return Deferred.fromCoroutine(guarded(*args, **kwargs))

        return waits

    def release(self) -> None:
        """Lets the first that waits through."""
        self.held.pop(0).callback(None)

    def open(self) -> None:
        """Lets all through, from now on."""
        self.is_open = True
        while self.held:
            self.release()


class ServerTestCase(SynchronousTestCase):
    """Tests of one server in memory. ``limits`` of a class are its settings under ``[limits]``."""

    limits = Limits()

    def setUp(self) -> None:
        self.server = self.serve(Config(limits=self.limits))

    def serve(self, config: Config) -> InMemoryServer:
        """Another server."""
        server = InMemoryServer(config)
        self.addCleanup(server.stop)
        return server

    def connected(self, **how: Any) -> InMemoryClient:
        """A client that is connected."""
        client = self.server.connect(**how)
        self.assertEqual(client.status, 101, client.body)
        return client

    def subscribed(self, *channels: str, **how: Any) -> InMemoryClient:
        """A client that is connected and subscribed."""
        client = self.connected(**how)
        for channel in channels:
            client.says({"action": "subscribe", "channel": channel})
        client.take()
        return client

    def publish(self, channel: str, *data: Any, app: str = "demo", **how: Any) -> None:
        """Publishes messages in process."""
        for one in data:
            self.server.wait_for(self.server.server.messages.publish(app, channel, one, **how))

    def assert_told(self, client: InMemoryClient, **fields: Any) -> dict[str, Any]:
        """The client heard exactly one thing, with these fields among others."""
        events = client.take()
        self.assertEqual(len(events), 1, events)
        self.assert_fields(events[0], **fields)
        return events[0]

    def assert_fields(self, event: dict[str, Any], **fields: Any) -> None:
        """The event has these fields among others."""
        self.assertEqual({name: event.get(name) for name in fields}, fields, event)

    def assert_actions(self, client: InMemoryClient, *actions: str) -> list[dict[str, Any]]:
        """The client heard these actions, in this order."""
        events = client.take()
        self.assertEqual([event["action"] for event in events], list(actions), events)
        return events

    def assert_refused(self, client: InMemoryClient, code: str, *words: str, **fields: Any) -> dict[str, Any]:
        """The client heard exactly one thing, an error of this code whose text has these words."""
        event = self.assert_told(client, action="error", code=code, **fields)
        for word in words:
            self.assertIn(word, event["error"])
        return event

    def assert_silent(self, client: InMemoryClient) -> None:
        """The client heard nothing."""
        self.assertEqual(client.take(), [])

    def assert_alive(self, client: InMemoryClient) -> None:
        """The client's connection serves it."""
        client.take()
        client.says({"action": "ping"})
        self.assert_told(client, action="pong")

    def assert_closed(self, client: InMemoryClient, code: int | str) -> None:
        """The connection was closed with this code, or ended so."""
        self.assertEqual(client.closed, code)

    def data_of(self, client: InMemoryClient) -> list[Any]:
        """The data of the messages that the client heard, and nothing else of what it heard."""
        return [event["data"] for event in client.take() if event["action"] == "message"]
