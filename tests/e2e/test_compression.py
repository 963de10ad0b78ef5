"""Compression with a client that somebody else wrote: ``websockets``, which has its own implementation of RFC 7692."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from websockets.exceptions import ConnectionClosedError
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.sync.client import ClientConnection, connect

from tests.e2e.cases import NodeTestCase
from tests.e2e.wire import PATIENCE_SECONDS


class CompressionTests(NodeTestCase):
    config = "[websocket]\ncompression = true\n"

    def compressing(self, *, agrees: bool = True, **offer: Any) -> ClientConnection:
        """A client that offers compression in this way, subscribed to the test's channel."""
        factory = ClientPerMessageDeflateFactory(**offer)
        client = connect(
            f"ws://127.0.0.1:{self.node.port}/?key=demo",
            extensions=[factory],
            compression=None,
            proxy=None,
            open_timeout=PATIENCE_SECONDS,
        )
        self.addCleanup(client.close)
        self.assertEqual(len(client.protocol.extensions), int(agrees))
        self.say(client, action="subscribe", channel=self.channel)
        self.hear(client, "subscribed")
        return client

    def say(self, client: ClientConnection, **request: Any) -> None:
        """Sends a request."""
        client.send(json.dumps(request))

    def hear(self, client: ClientConnection, action: str) -> dict[str, Any]:
        """The next event of this action."""
        while (event := json.loads(client.recv(PATIENCE_SECONDS)))["action"] != action:
            pass
        return dict(event)

    def exchange(self, clients: Sequence[ClientConnection]) -> None:
        """Each publishes something long and something short, and each hears all of it."""
        for number, client in enumerate(clients):
            for data in (f"{number}-" + "long " * 3000, f"{number}-short"):
                self.say(client, action="publish", channel=self.channel, data=data, id=data[:7])
                for hearing in clients:
                    self.assertEqual(self.hear(hearing, "message")["data"], data)

    def test_round_trip(self) -> None:
        """However it offers, what it says is understood and what it hears is what was said."""
        offers: list[dict[str, Any]] = [
            {},
            {"client_max_window_bits": True},
            {"server_no_context_takeover": True, "client_no_context_takeover": True},
            {"server_max_window_bits": 9, "client_max_window_bits": 9},
            {"server_max_window_bits": 12},
        ]
        self.exchange([self.compressing(**offer) for offer in offers])

    def test_declined(self) -> None:
        """An offer that can't be accepted is no obstacle."""
        self.exchange([self.compressing(server_max_window_bits=8, agrees=False)])

    def test_mixed(self) -> None:
        """A client without compression hears the same as one with it, and each hears the other."""
        wire, client = self.subscribed(self.channel), self.compressing()

        wire.say(action="publish", channel=self.channel, data="x" * 20_000, id="1")
        self.say(client, action="publish", channel=self.channel, data="y" * 20_000, id="2")

        self.assertEqual([wire.await_("message")["data"][0] for _ in range(2)], ["x", "y"])
        self.assertEqual([self.hear(client, "message")["data"][0] for _ in range(2)], ["x", "y"])

    def test_fragments(self) -> None:
        """A compressed message may come in fragments."""
        client = self.compressing()
        text = json.dumps({"action": "publish", "channel": self.channel, "data": "abc" * 10_000})

        client.send(_cut(text, 999))

        self.assertEqual(self.hear(client, "message")["data"], "abc" * 10_000)

    def test_history(self) -> None:
        """Large answers come compressed as well."""
        client = self.compressing()
        for number in range(20):
            self.say(client, action="publish", channel=self.channel, data=f"{number}" + "z" * 5_000)
            self.hear(client, "message")

        self.say(client, action="history", channel=self.channel, limit=20)

        self.assertEqual(len(self.hear(client, "history")["messages"]), 20)

    def test_bomb(self) -> None:
        """A message that unpacks to more than the limit closes the connection with 1009; others do not notice."""
        client, other = self.compressing(), self.compressing()

        with self.assertRaises(ConnectionClosedError) as caught:
            client.send(json.dumps("x" * 30_000_000))
            client.recv(PATIENCE_SECONDS)

        assert caught.exception.rcvd is not None
        self.assertEqual(caught.exception.rcvd.code, 1009)
        self.exchange([other])


def _cut(text: str, size: int) -> Iterator[str]:
    for at in range(0, len(text), size):
        yield text[at : at + size]
