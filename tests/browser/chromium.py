"""A headless Chromium, driven over the Chrome DevTools protocol."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SkipTest
from websockets.sync.client import connect

from tests.base import TestCase
from tests.children import start

__all__ = ["Browser", "Page", "start_browser"]

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1000,760",
    "--remote-debugging-port=0",
)
_PATIENCE_SECONDS = 30.0
_UNTIL = """
new Promise((resolve, reject) => {
  const observer = new MutationObserver(look);
  const deadline = setTimeout(() => reject(document.body.innerText), 15000);
  function look() {
    if (!(%s)) return;
    observer.disconnect(); clearTimeout(deadline); resolve(true);
  }
  addEventListener('load', look);
  observer.observe(document, {subtree: true, childList: true, attributes: true, characterData: true});
  look();
})
"""


async def start_browser(case: TestCase) -> Browser:
    """A browser with an empty profile; the test case ends it. Skips the test where none is installed."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        raise SkipTest("chromium is not installed")
    profile = Path(case.mktemp()).absolute()
    child = start(case, [program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"])
    address = (await child.says(r"DevTools listening on (ws://\S+)"))[1]
    return Browser(await deferToThread(connect, address, max_size=None, compression=None))


class Browser:
    """The browser's end of the DevTools protocol: one command at a time."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._last = 0

    async def open(self, url: str) -> Page:
        """A page of its own, that shares nothing with other pages."""
        context = await self.command("Target.createBrowserContext")
        target = await self.command("Target.createTarget", url="about:blank", **context)
        session = await self.command("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page = Page(self, session["sessionId"])
        await page.command("Page.enable")
        await page.command("Emulation.setFocusEmulationEnabled", enabled=True)
        await page.command("Page.navigate", url=url)
        await page.until("document.readyState === 'complete'")
        return page

    async def command(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """What the browser answers; raises :class:`AssertionError` with its text when it refuses."""
        return await deferToThread(self._command, method, session, params)

    def _command(self, method: str, session: str | None, params: dict[str, Any]) -> dict[str, Any]:
        self._last += 1
        command = {"id": self._last, "method": method, "params": params}
        self._connection.send(json.dumps(command if session is None else {**command, "sessionId": session}))
        while True:
            answer = json.loads(self._connection.recv(timeout=_PATIENCE_SECONDS))
            if answer.get("id") == self._last:
                assert "error" not in answer, answer["error"]
                return dict(answer["result"])


class Page:
    """One page."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    async def command(self, method: str, **params: Any) -> dict[str, Any]:
        """A DevTools command for this page."""
        return await self._browser.command(method, self._session, **params)

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; of a promise, what it resolves to."""
        answer = await self.command(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, f"{expression}\n{answer['exceptionDetails']}"
        return answer["result"].get("value")

    async def until(self, expression: str) -> None:
        """Returns when the expression holds, which is looked at when the document is loaded or changes."""
        await self.evaluate(_UNTIL % expression)

    async def type(self, selector: str, text: str) -> None:
        """Puts the focus on a field and types into it."""
        await self.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
        await self.command("Input.insertText", text=text)

    async def press_enter(self) -> None:
        """Presses the Enter key."""
        key: dict[str, Any] = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
        await self.command("Input.dispatchKeyEvent", type="keyDown", **key)
        await self.command("Input.dispatchKeyEvent", type="keyUp", **key)

    async def screenshot(self, file: str) -> None:
        """What it looks like, as a PNG."""
        answer = await self.command("Page.captureScreenshot")
        Path(file).write_bytes(base64.b64decode(answer["data"]))
