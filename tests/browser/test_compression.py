"""Compression with a browser, which offers it always and compresses all that it sends."""

from __future__ import annotations

from pathlib import Path

from tests.base import TestCase
from tests.browser.chromium import start_browser
from tests.children import start_twistd

_EXCHANGE = """
new Promise((resolve, reject) => {
  const socket = new WebSocket('ws://127.0.0.1:%d/?key=demo');
  const send = request => socket.send(JSON.stringify(request));
  const texts = ['long '.repeat(5000), 'short', 'other '.repeat(5000)];
  const heard = [];
  socket.onopen = () => send({action: 'subscribe', channel: 'news'});
  socket.onclose = event => reject(new Error('closed: ' + event.code));
  socket.onmessage = ({data}) => {
    const event = JSON.parse(data);
    if (event.action === 'subscribed') texts.forEach(data => send({action: 'publish', channel: 'news', data}));
    if (event.action === 'message' && heard.push(event.data) === texts.length)
      resolve([socket.extensions, JSON.stringify(heard) === JSON.stringify(texts)]);
  };
})
"""


class CompressionTests(TestCase):
    async def test_exchange(self) -> None:
        """A browser's offer is accepted as it can bear, and both understand each other."""
        config = Path(self.mktemp()).absolute()
        config.write_text("dev = true\nlisten = ['tcp:0:interface=127.0.0.1']\n[websocket]\ncompression = true\n")
        server = start_twistd(self, "wsocket", "--config", str(config))
        port = int((await server.says(r"serves on (?:ws://)?127\.0\.0\.1:(\d+)"))[1])
        empty = Path(self.mktemp() + ".html").absolute()
        empty.write_text("<!doctype html>")  # from about:blank no browser connects to loopback
        page = await (await start_browser(self)).open(empty.as_uri())

        extensions, is_same = await page.evaluate(_EXCHANGE % port)

        self.assertIn("permessage-deflate", extensions)
        self.assertTrue(is_same)
