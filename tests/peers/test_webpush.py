"""Pushes to browsers by a push service that others wrote: the npm package web-push-testing."""

from __future__ import annotations

import json
import os
from time import time  # noqa: TID251  # the peer's clock is the real one
from typing import Any

from twisted.internet import reactor  # noqa: TID251  # trial's own: the sockets are real
from twisted.internet.defer import Deferred, gatherResults

from tests.base import TestCase
from tests.peers.node import start_push_service
from wsock.interfaces import PushMessage, PushOutcome, PushStatus, VapidCredentials, WebDevice
from wsock.providers.webpush import WebPush
from wsock.services.addresses import Guard
from wsock.services.outgoing import Outgoing


class WebPushTests(TestCase):
    """One provider and one service."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        self.port = await start_push_service(self)
        self.outgoing = Outgoing(reactor, Guard("push.allowed_hosts", allows_loopback=True))
        self.addCleanup(lambda: Deferred.fromCoroutine(self.outgoing.stop()))
        self.push = WebPush(self.outgoing, time, os.urandom, allows_loopback=True)
        self.credentials = self.push.create("mailto:ops@example.com")

    async def call(self, path: str, **values: Any) -> Any:
        """Asks the service for what a browser would."""
        headers = {"Content-Type": "application/json"}
        url = f"http://127.0.0.1:{self.port}/{path}"
        answer = await self.outgoing.post(url, headers, json.dumps(values).encode(), max_body=65_536)
        self.assertEqual(answer.status, 200, answer.body)
        return json.loads(answer.body)["data"] if answer.body != b"OK" else None

    async def subscribe(self) -> tuple[WebDevice, str]:
        """A browser that takes pushes with the app's key, and what the service knows it by."""
        told = await self.call("subscribe", userVisibleOnly="true", applicationServerKey=self.credentials.public_key)
        device = WebDevice(endpoint=told["endpoint"], **told["keys"])
        self.push.check_device(device)
        return device, told["clientHash"]

    def send(self, device: WebDevice, credentials: VapidCredentials | None = None, **values: Any) -> Any:
        """What becomes of a message."""
        message = PushMessage(**{"id": "m", "created": int(time() * 1000), "title": "Hello", **values})
        return Deferred.fromCoroutine(self.push.send(credentials or self.credentials, device, message))

    async def test_delivered(self) -> None:
        """The service knows the sender, and decrypts what was sent."""
        device, client = await self.subscribe()

        outcomes = await gatherResults([self.send(device, body=f"ü{i}") for i in range(20)])

        self.assertEqual(set(outcomes), {PushOutcome(status=PushStatus.OK)})
        told = await self.call("get-notifications", clientHash=client)
        messages = [json.loads(text) for text in told["messages"]]
        self.assertEqual(sorted(m["body"] for m in messages), sorted(f"ü{i}" for i in range(20)))

    async def test_largest(self) -> None:
        """A message that just fits arrives whole."""
        device, client = await self.subscribe()
        body = "x" * (3993 - len('{"title":"Hello","body":""}'))

        self.assertIs((await self.send(device, body=body)).status, PushStatus.OK)
        self.assertIs((await self.send(device, body=body + "x")).status, PushStatus.REJECTED)
        [text] = (await self.call("get-notifications", clientHash=client))["messages"]
        self.assertEqual(json.loads(text)["body"], body)

    async def test_other_key(self) -> None:
        """A subscription that was made for another key does not take it."""
        device, _ = await self.subscribe()

        outcome = await self.send(device, self.push.create("mailto:other@example.com"))

        self.assertIn(outcome.status, (PushStatus.MISCONFIGURED, PushStatus.REJECTED))

    async def test_expired(self) -> None:
        """A subscription that ended is told as gone."""
        device, client = await self.subscribe()
        await self.call(f"expire-subscription/{client}")

        self.assertIs((await self.send(device)).status, PushStatus.GONE)
