"""The published Python SDK, unchanged but for URL and key."""

from __future__ import annotations

import asyncio
import importlib.metadata
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from wsocket import create_client
from wsocket.client import WSocketOptions

from tests.e2e.cases import NodeTestCase, dev_token
from tests.e2e.node import Program

_PATIENCE_SECONDS = 15.0


class Heard:
    """What callbacks were called with, in order; waiting for it has a deadline."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Any] = asyncio.Queue()

    def __call__(self, *arguments: Any) -> None:
        """The callback."""
        self._queue.put_nowait(arguments[0] if len(arguments) == 1 else arguments)

    async def next(self) -> Any:
        """The next call's argument, or arguments."""
        return await asyncio.wait_for(self._queue.get(), _PATIENCE_SECONDS)

    async def several(self, count: int) -> list[Any]:
        """The next calls."""
        return [await self.next() for _ in range(count)]

    @property
    def is_empty(self) -> bool:
        """Whether there was no other call."""
        return self._queue.empty()


class Line:
    """A line to the server that can be cut: it resets what is connected, as a broken network does."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._ends: list[asyncio.StreamWriter] = []
        self._pumps: set[asyncio.Task[None]] = set()
        self.port = 0
        self.connects = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Line]:
        """Listens for the time of the block."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.cut()
            await asyncio.gather(*self._pumps, return_exceptions=True)

    def cut(self) -> None:
        """Resets all connections; new ones are taken at once."""
        ends, self._ends = self._ends, []
        for end in ends:
            end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connects += 1
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._ends += [writer, far_writer]
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            pump = asyncio.ensure_future(_pump(source, sink))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()
    except ConnectionError:
        pass
    finally:
        sink.close()


class SdkTestCase(NodeTestCase):
    def run_loop(self, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Runs a scenario; the clients that it made are disconnected at its end."""

        async def run() -> None:
            self.clients: list[Any] = []
            try:
                await scenario()
            finally:
                for client in self.clients:
                    await client.disconnect()

        asyncio.run(run())

    async def client(self, url: str | None = None, key: str = "demo", **options: Any) -> Any:
        """A connected client of the SDK."""
        client = create_client(url or self.node.url, key, WSocketOptions(**options))
        self.clients.append(client)
        await client.connect()
        return client

    async def listening(self, client: Any, channel: str, **subscribe: Any) -> Heard:
        """The messages of a channel, as (data, meta); the server has answered the subscription."""
        heard, subscribed = Heard(), Heard()
        client.on("subscribed", subscribed)
        client.channel(channel).on_message(heard)
        client.channel(channel).subscribe(**subscribe)
        self.assertEqual(await subscribed.next(), channel)
        return heard


class QuickStartTests(SdkTestCase):
    def test_quick_start(self) -> None:
        """The program in the SDK's own README receives what it publishes."""
        readme = importlib.metadata.distribution("wsocket-io").read_text("METADATA") or ""
        script = re.search(r"## Quick Start\s+```python\n(.*?)```", readme, re.DOTALL)
        assert script is not None
        text = script[1].replace("wss://node00.wsocket.online", self.node.url).replace("your-api-key", "demo")

        program = Program.python("-c", text, cwd=self.node.directory)
        self.addCleanup(program.stop)

        self.assertEqual(program.ends(), 0, program.errors)
        self.assertEqual(program.output, "[chat:general] {'text': 'Hello from Python!'}\n")

    def test_presence(self) -> None:
        """Two clients see one another come, change and go, and in the list of members."""
        self.run_loop(self._presence)

    async def _presence(self) -> None:
        alice, bob = await self.client(token=dev_token("alice")), await self.client(token=dev_token("bob"))
        entered, updated, left, members = Heard(), Heard(), Heard(), Heard()
        await self.listening(alice, self.channel)
        presence = alice.channel(self.channel).presence
        presence.on_enter(entered).on_update(updated).on_leave(left).on_members(members)

        presence.enter({"name": "Alice"})
        self.assertEqual((await entered.next()).client_id, "alice")
        theirs = bob.channel(self.channel).presence
        theirs.enter({"name": "Bob"})
        member = await entered.next()
        self.assertEqual((member.client_id, member.data), ("bob", {"name": "Bob"}))
        self.assertIs(type(member.joined_at), int)
        theirs.update({"name": "Bobby"})
        self.assertEqual((await updated.next()).data, {"name": "Bobby"})
        presence.get()
        self.assertEqual({m.client_id: m.data for m in await members.next()}, _BOTH)
        theirs.leave()
        self.assertEqual((await left.next()).client_id, "bob")
        presence.get()
        self.assertEqual([m.client_id for m in await members.next()], ["alice"])


_BOTH = {"alice": {"name": "Alice"}, "bob": {"name": "Bobby"}}


class MessageTests(SdkTestCase):
    def test_publish(self) -> None:
        """A subscriber gets a message once, its publisher as well, with the id of its ack."""
        self.run_loop(self._publish)

    async def _publish(self) -> None:
        ana, bob = await self.client(), await self.client()
        acks = Heard()
        ana.on("ack", acks)
        echoes, messages = await self.listening(ana, self.channel), await self.listening(bob, self.channel)

        ana.channel(self.channel).publish({"text": "hi", "großes": 10**20})

        data, meta = await messages.next()
        self.assertEqual((data, meta.channel), ({"text": "hi", "großes": 10**20}, self.channel))
        self.assertIs(type(meta.timestamp), int)
        self.assertEqual(await echoes.next(), (data, meta))
        self.assertEqual(await acks.next(), (meta.id, self.channel))
        self.assertTrue(echoes.is_empty and messages.is_empty)

    def test_rewind(self) -> None:
        """A subscription may begin with the last messages, oldest first."""
        self.run_loop(self._rewind)

    async def _rewind(self) -> None:
        await self._publish_numbers(await self.client(), 5)

        heard = await self.listening(await self.client(), self.channel, rewind=3)

        self.assertEqual([data["n"] for data, _ in await heard.several(3)], [2, 3, 4])

    async def _publish_numbers(self, client: Any, count: int) -> None:
        acks = Heard()
        client.on("ack", acks)
        for number in range(count):
            client.channel(self.channel).publish({"n": number})
        await acks.several(count)

    def test_history(self) -> None:
        """History comes in pages, in either direction."""
        self.run_loop(self._history)

    async def _history(self) -> None:
        client = await self.client()
        await self._publish_numbers(client, 5)
        channel, pages = client.channel(self.channel), Heard()
        channel.on_history(pages)

        channel.history(limit=2)
        newest = await pages.next()
        self.assertEqual(([m.data["n"] for m in newest.messages], newest.has_more), ([4, 3], True))
        channel.history(before=newest.messages[-1].timestamp)
        older = await pages.next()
        self.assertEqual(([m.data["n"] for m in older.messages], older.has_more), ([2, 1, 0], False))
        channel.history(direction="forward", limit=2)
        self.assertEqual([m.data["n"] for m in (await pages.next()).messages], [0, 1])
        channel.history(direction="forward", after=older.messages[0].timestamp)
        last = (await pages.next()).messages
        self.assertEqual(
            [(m.data["n"], m.sequence, m.channel) for m in last], [(3, 4, channel.name), (4, 5, channel.name)]
        )
        self.assertTrue(all(type(m.timestamp) is int and m.publisher_id for m in last))

    def test_unsubscribe(self) -> None:
        """An unsubscribed client hears nothing more."""
        self.run_loop(self._unsubscribe)

    async def _unsubscribe(self) -> None:
        client, unsubscribed = await self.client(), Heard()
        client.on("unsubscribed", unsubscribed)
        heard = await self.listening(client, self.channel)

        client.channel(self.channel).unsubscribe()

        self.assertEqual(await unsubscribed.next(), self.channel)
        await self._publish_numbers(client, 1)
        self.assertTrue(heard.is_empty)


class ResumeTests(SdkTestCase):
    def test_killed_connection(self) -> None:
        """A client whose connection is cut, again and again, misses nothing and hears nothing twice."""
        self.run_loop(self._killed_connection)

    async def _killed_connection(self) -> None:
        async with Line(self.node.port).open() as line:
            client, publisher = await self.client(f"ws://127.0.0.1:{line.port}"), await self.client()
            names = [f"{self.channel}:{letter}" for letter in "abé"]
            heard, acks = Heard(), Heard()
            subscribed, connected = Heard(), Heard()
            client.on("subscribed", subscribed).on("connected", connected)
            publisher.on("ack", acks)
            for name in names:
                client.channel(name).on_message(heard)
                client.channel(name).subscribe()
            await subscribed.several(len(names))
            await self._spread(publisher, names, 0, acks)
            for cut in (1, 2):
                got = [(meta.channel, data["n"]) for data, meta in await heard.several(30)]
                self.assertEqual(got, [(names[n % 3], n) for n in range(30 * (cut - 1), 30 * cut)])
                line.cut()
                await self._spread(publisher, names, 30 * cut, acks)
                await connected.next()
            got = [(meta.channel, data["n"]) for data, meta in await heard.several(30)]
            self.assertEqual(got, [(names[n % 3], n) for n in range(60, 90)])
            self.assertEqual((heard.is_empty, line.connects), (True, 3))

    async def _spread(self, publisher: Any, names: list[str], start: int, acks: Heard) -> None:
        for number in range(start, start + 30):
            publisher.channel(names[number % 3]).publish({"n": number})
        await acks.several(30)

    def test_presence_outlives_the_cut(self) -> None:
        """A member with a token of its own that comes back in time never left."""
        self.run_loop(self._presence_outlives_the_cut)

    async def _presence_outlives_the_cut(self) -> None:
        async with Line(self.node.port).open() as line:
            client = await self.client(f"ws://127.0.0.1:{line.port}", token=dev_token("ana"))
            watcher, left, members, acks = await self.client(), Heard(), Heard(), Heard()
            heard = await self.listening(client, self.channel)
            await self.listening(watcher, self.channel)
            presence = watcher.channel(self.channel).presence.on_leave(left).on_members(members)
            client.channel(self.channel).presence.enter()
            client.on("ack", acks)
            client.channel(self.channel).publish("seen")
            await heard.next()
            await acks.next()

            line.cut()

            self.assertEqual((await acks.next())[0], "resume")
            presence.get()
            self.assertEqual([m.client_id for m in await members.next()], ["ana"])
            self.assertTrue(left.is_empty)


class RefusalTests(SdkTestCase):
    def test_wrong_key(self) -> None:
        """A wrong key makes ``connect`` raise, with the status 401."""
        self.run_loop(self._wrong_key)

    async def _wrong_key(self) -> None:
        for how in ({"key": "wrong"}, {"token": "not.a.jwt"}):
            with self.assertRaisesRegex(Exception, "401"):
                await self.client(**how)

    def test_error(self) -> None:
        """What a token does not permit is an error that names it, and the connection lives."""
        self.run_loop(self._error)

    async def _error(self) -> None:
        client = await self.client(token=dev_token("ana", {f"{self.channel}*": ["subscribe"]}))
        errors = Heard()
        client.on("error", errors)
        await self.listening(client, self.channel)

        client.channel(self.channel).publish("no")

        self.assertIn(f"'publish' on '{self.channel}'", str(await errors.next()))
        await self.listening(client, f"{self.channel}:other")
