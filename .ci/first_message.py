"""Sends one message through a running ``--dev`` server with the published SDK: ``first_message.py PORT``."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from wsocket import create_client


async def first_message(port: int) -> None:
    """Subscribes, publishes, and returns when the message came back; raises :class:`TimeoutError` if not."""
    loop = asyncio.get_running_loop()
    received: asyncio.Future[Any] = loop.create_future()
    client = create_client(f"ws://127.0.0.1:{port}", "demo")
    await client.connect()
    try:
        channel = client.channel("first-message")
        channel.on_message(lambda data, meta: received.set_result(data))
        channel.subscribe()
        channel.publish({"text": "hello"})
        data = await asyncio.wait_for(received, 10)
    finally:
        await client.disconnect()
    if data != {"text": "hello"}:
        raise ValueError(f"another message came back than was sent: {data!r}")
    print("a message went through the published SDK and back")


if __name__ == "__main__":
    asyncio.run(first_message(int(sys.argv[1])))
