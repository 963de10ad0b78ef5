"""Publishes texts to a channel with the published SDK, and says when all of them were accepted.

publisher.py chat "good morning" "and good night"
tail -f app.log | publisher.py logs
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

from wsocket import create_client

_MOST_UNDER_WAY = 100


class Publisher:
    """Publishes to one channel; at most a hundred messages wait for their acks at a time."""

    def __init__(self, client: Any, channel: str) -> None:
        self.accepted = 0
        self._channel = client.channel(channel)
        self._room = asyncio.Semaphore(_MOST_UNDER_WAY)
        client.on("ack", self._acknowledged)
        client.on("error", self._failed)
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def publish(self, data: Any) -> None:
        """Sends a message as soon as there is room for it."""
        await self._take_room()
        self._channel.publish(data)

    async def finish(self) -> None:
        """Returns when everything was accepted."""
        for _ in range(_MOST_UNDER_WAY):
            await self._take_room()

    async def _take_room(self) -> None:
        acquiring = asyncio.ensure_future(self._room.acquire())
        await asyncio.wait({acquiring, self._failure}, return_when=asyncio.FIRST_COMPLETED, timeout=30)
        if self._failure.done():
            self._failure.result()
        if not acquiring.done():
            raise TimeoutError("no ack for 30 s")

    def _acknowledged(self, id: str, channel: str) -> None:
        self.accepted += 1
        self._room.release()

    def _failed(self, error: Exception) -> None:
        if not self._failure.done():
            self._failure.set_exception(error)


async def lines() -> AsyncIterator[str]:
    """The lines of standard input, as they come."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        yield line.rstrip("\n")


async def run(url: str, key: str, channel: str, texts: list[str]) -> None:
    """Publishes the texts, or without any the lines of standard input."""
    client = create_client(url, key)
    await client.connect()
    try:
        publisher = Publisher(client, channel)
        for text in texts:
            await publisher.publish({"text": text})
        if not texts:
            async for text in lines():
                await publisher.publish({"text": text})
        await publisher.finish()
    finally:
        await client.disconnect()
    print(f"{publisher.accepted} accepted")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Publishes texts to a channel.")
    parser.add_argument("--url", default="ws://127.0.0.1:9001")
    parser.add_argument("--key", default="demo")
    parser.add_argument("channel")
    parser.add_argument("text", nargs="*", help="without any, each line of standard input")
    given = parser.parse_args()
    try:
        asyncio.run(run(given.url, given.key, given.channel, given.text))
    except Exception as error:
        sys.exit(f"publisher: {error}")


if __name__ == "__main__":
    main()
