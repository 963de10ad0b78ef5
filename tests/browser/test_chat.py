"""The chat page of ``examples/``, in a browser."""

from __future__ import annotations

import os
from typing import Any, cast
from urllib.parse import urlencode

from twisted.protocols.portforward import ProxyFactory, ProxyServer

from tests.base import TestCase
from tests.browser.chromium import Browser, Page, start_browser
from tests.children import ROOT, start_dev_server

CHAT = ROOT / "examples" / "chat.html"


class _Wire(ProxyServer):
    """A connection through the line."""

    factory: Line
    transport: Any

    def connectionMade(self) -> None:
        """Twisted's hook."""
        if self.factory.is_cut:
            self.transport.abortConnection()
            return
        self.factory.wires.append(self)
        super().connectionMade()


class Line(ProxyFactory):
    """A line to a server that can be cut."""

    protocol = _Wire
    noisy = False

    def __init__(self, port: int) -> None:
        super().__init__("127.0.0.1", port)
        self.is_cut = False
        self.wires: list[_Wire] = []

    def cut(self) -> None:
        """Resets what is connected, and lets nobody connect."""
        self.is_cut = True
        for wire in self.wires:
            wire.transport.abortConnection()

    def mend(self) -> None:
        """Lets everybody connect."""
        self.is_cut = False


class ChatTests(TestCase):
    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        from twisted.internet import reactor  # noqa: TID251  # trial's own: the line is a real one

        self.browser: Browser = await start_browser(self)
        _, self.port = await start_dev_server(self)
        self.line = Line(self.port)
        listening = cast(Any, reactor).listenTCP(0, self.line, interface="127.0.0.1")
        self.addCleanup(listening.stopListening)
        self.addCleanup(self.line.cut)
        self.line_port = listening.getHost().port

    async def join(self, name: str, port: int) -> Page:
        """A page in which somebody has joined the chat."""
        page = await self.browser.open(f"{CHAT.as_uri()}?{urlencode({'url': f'ws://127.0.0.1:{port}'})}")
        await page.type("[name=name]", name)
        await page.press_enter()
        await page.until("document.querySelector('#status').textContent === 'Connected'")
        await page.until(f"document.querySelector('#members').innerText.includes('{name} (you)')")
        return page

    async def say(self, page: Page, text: str) -> None:
        """Somebody types a message and sends it."""
        await page.type("#text", text)
        await page.press_enter()

    async def texts(self, page: Page) -> list[str]:
        """The messages that the page shows."""
        return list(await page.evaluate("Array.from(document.querySelectorAll('#messages .text'), e => e.textContent)"))

    async def shows(self, page: Page, text: str, *, pending: bool = False) -> None:
        """The page shows the message, as delivered or as still on its way."""
        mark = "li.pending" if pending else "li:not(.pending)"
        items = f"Array.from(document.querySelectorAll('#messages {mark} .text'))"
        await page.until(f"{items}.some(e => e.textContent === {text!r})")

    async def test_chat(self) -> None:
        """Two people see each other and each other's messages, as text whatever it holds."""
        ana = await self.join("ana", self.port)
        await self.say(ana, "is anybody here?")
        await self.shows(ana, "is anybody here?")
        ben = await self.join("ben", self.port)
        await ana.until("document.querySelector('#members').innerText.includes('ben')")

        await self.shows(ben, "is anybody here?")
        await self.say(ben, "<img src=x onerror=alert(1)> hello")
        await self.shows(ana, "<img src=x onerror=alert(1)> hello")

        self.assertEqual(await self.texts(ana), await self.texts(ben))
        self.assertFalse(await ana.evaluate("document.querySelector('#messages img') !== null"))
        if directory := os.environ.get("WSOCK_TEST_SCREENSHOTS"):
            await ana.screenshot(f"{directory}/chat.png")

    async def test_lost_line(self) -> None:
        """Who loses the line and comes back in time misses nothing, sends nothing twice and never left."""
        ben = await self.join("ben", self.port)
        ana = await self.join("ana", self.line_port)
        await self.say(ana, "before")
        await self.shows(ben, "before")

        self.line.cut()
        await ana.until("document.querySelector('#status').textContent.startsWith('Not connected')")
        await self.say(ben, "missed")
        await self.shows(ben, "missed")
        await self.say(ana, "written while away")
        await self.shows(ana, "written while away", pending=True)
        self.line.mend()
        await ana.evaluate("void dispatchEvent(new Event('online'))")
        await self.shows(ana, "written while away")
        await self.shows(ben, "written while away")

        self.assertEqual(await self.texts(ana), ["before", "missed", "written while away"])
        self.assertEqual(await self.texts(ben), ["before", "missed", "written while away"])
        self.assertNotIn("ana left", await ben.evaluate("document.querySelector('#messages').innerText"))

    async def test_labels(self) -> None:
        """Every field and region has an accessible name."""
        page = await self.browser.open(CHAT.as_uri())
        names = await page.evaluate(
            "Array.from(document.querySelectorAll('input'), e => e.labels[0]?.textContent ?? '')"
        )

        self.assertNotIn("", [name.strip() for name in names])
