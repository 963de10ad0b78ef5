"""Says hello through a development server with the published SDK, and hears it back."""

import asyncio

from wsocket import create_client


async def main() -> None:
    """Subscribes, publishes, and ends when the message came back."""
    client = create_client("ws://127.0.0.1:9001", "demo")
    await client.connect()
    heard = asyncio.get_running_loop().create_future()
    chat = client.channel("chat")
    chat.on_message(lambda data, meta: heard.set_result(data))
    chat.subscribe()
    chat.publish({"text": "hello"})
    print(await asyncio.wait_for(heard, 10))
    await client.disconnect()


asyncio.run(main())
