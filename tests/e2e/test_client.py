"""The client of this project through crashes of the server."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread

from tests.base import TestCase
from tests.e2e.durability import history
from tests.e2e.node import Node
from wsock.client import Client, Message, Receipt

_COUNT = 600
_WINDOW = 40
_PATIENCE_SECONDS = 30.0


class CrashTests(TestCase):
    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        self.node = Node(is_dev=False)
        self.addCleanup(self.node.stop)
        await deferToThread(self.node.start)
        self.heard: list[Message] = []
        self.receipts: list[Receipt] = []
        self.all_heard: Deferred[None] = Deferred()

    def client(self) -> Client:
        """A client that is closed at the end of the test."""
        from twisted.internet import reactor  # noqa: TID251  # trial's own: the sockets are real

        client = Client(self.node.url, key=self.node.key, reactor=reactor, retry_policy=lambda _: 0.05)
        self.addCleanup(client.close)
        self.reactor: Any = reactor
        return client

    def hear(self, message: Message) -> None:
        """The subscriber's callback."""
        self.heard.append(message)
        if len(self.heard) == _COUNT:
            self.all_heard.callback(None)

    async def publish(self, client: Client, start: int) -> None:
        """Publishes every ``_WINDOW``-th message from this one on, each when the one before is accepted."""
        for number in range(start, _COUNT, _WINDOW):
            self.receipts.append(await client.channel("c").publish(number, id=f"m{number}"))
            if len(self.receipts) in (150, 400):
                self.node.kill()
                await deferToThread(self.node.start)

    async def test_kill_and_restart(self) -> None:
        """Publishes without an answer are repeated and delivered once; the subscription has no gap and no repeat."""
        subscriber, publisher = self.client(), self.client()
        await gatherResults([subscriber.connect(), publisher.connect()])
        lost: list[object] = []
        subscriber.on_lost(lost.append)
        subscriber.channel("c").on_message(self.hear)
        await subscriber.channel("c").subscribe()

        await gatherResults([Deferred.fromCoroutine(self.publish(publisher, n)) for n in range(_WINDOW)])
        await self.all_heard.addTimeout(_PATIENCE_SECONDS, self.reactor)

        self.assertEqual([m.sequence for m in self.heard], list(range(1, _COUNT + 1)))
        heard = {message.id: message.sequence for message in self.heard}
        self.assertEqual(heard, {receipt.id: receipt.sequence for receipt in self.receipts})
        entries = await deferToThread(lambda: history(self.node.connect(), "c"))
        self.assertEqual([entry["id"] for entry in entries], [message.id for message in self.heard])
        self.assertEqual(lost, [])
