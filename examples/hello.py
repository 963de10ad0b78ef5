"""Says hello through a development server with the published SDK, and hears it back."""

import asyncio

from wsocket import create_client


async def main() -> None:
    """Subscribes, publishes, and ends when the message came back."""
    heard = asyncio.Event()
    client = create_client("ws://127.0.0.1:9001", "demo")
    await client.connect()
    chat = client.channel("chat")

    @chat.on_message
    def on_message(data, meta):
        print(f"{meta.channel}: {data['text']}")
        heard.set()

    chat.subscribe()
    chat.publish({"text": "hello"})
    await asyncio.wait_for(heard.wait(), 10)
    await client.disconnect()


asyncio.run(main())
