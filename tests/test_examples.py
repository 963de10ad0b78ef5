"""Each example does what it says, run as a user runs it: as a program, against a server of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jwt
from twisted.internet.threads import deferToThread
from websockets.sync.client import ClientConnection, connect

from tests.base import TestCase
from tests.children import ROOT, Child, start, start_dev_server, start_twistd

EXAMPLES = ROOT / "examples"
_PATIENCE_SECONDS = 20.0


class Listener:
    """A client in the plainest form: it sends and receives JSON texts, and waits for them with a deadline."""

    def __init__(self, url: str) -> None:
        self.connection: ClientConnection = connect(url, open_timeout=_PATIENCE_SECONDS, compression=None)

    def say(self, **request: object) -> None:
        """Sends a request."""
        self.connection.send(json.dumps(request))

    def hear(self, action: str) -> dict[str, Any]:
        """The next event of this action; others are skipped."""
        while True:
            event = json.loads(self.connection.recv(timeout=_PATIENCE_SECONDS))
            if event["action"] == action:
                return dict(event)
            assert event["action"] != "error", event


def python(case: TestCase, script: str, *arguments: str, **env: str) -> Child:
    """Runs one of the examples."""
    return start(case, [sys.executable, str(EXAMPLES / script), *arguments], env)


class ExampleTests(TestCase):
    def listen(self, url: str, channel: str) -> Listener:
        """A client that is subscribed to the channel."""
        listener = Listener(url)
        self.addCleanup(listener.connection.close)
        listener.say(action="subscribe", channel=channel)
        listener.hear("subscribed")
        return listener

    async def test_hello(self) -> None:
        """``hello.py`` prints the message that it published."""
        _, port = await start_dev_server(self)
        text = (EXAMPLES / "hello.py").read_text("utf-8")
        program = start(self, [sys.executable, "-c", text.replace(":9001", f":{port}")])

        self.assertEqual((await program.ends(), program.output), (0, "{'text': 'hello'}\n"))

    async def test_publisher(self) -> None:
        """``publisher.py`` publishes its arguments in order, and says how many were accepted."""
        _, port = await start_dev_server(self)
        listener = await deferToThread(self.listen, f"ws://127.0.0.1:{port}/?key=demo", "news")
        texts = [f"line {number}" for number in range(250)]

        program = python(self, "publisher.py", "--url", f"ws://127.0.0.1:{port}", "news", *texts)

        self.assertEqual((await program.ends(), program.output), (0, "250 accepted\n"))
        heard = await deferToThread(lambda: [listener.hear("message")["data"]["text"] for _ in texts])
        self.assertEqual(heard, texts)

    async def test_publisher_refused(self) -> None:
        """What the server refuses ends it with the server's reason."""
        _, port = await start_dev_server(self)

        program = python(self, "publisher.py", "--url", f"ws://127.0.0.1:{port}", "news", "x" * 70_000)

        self.assertEqual(await program.ends(), 1)
        self.assertIn("limits.message_bytes", program.output)

    async def test_issue_jwt(self) -> None:
        """``issue_jwt.py`` prints a token that opens a connection, with its ``sub`` as clientId and its permissions."""
        _, port = await start_dev_server(self)
        program = python(self, "issue_jwt.py", "ana", "--allow", "room:*=subscribe,publish")
        self.assertEqual(await program.ends(), 0)
        url = f"ws://127.0.0.1:{port}/?token={program.output.strip()}"

        listener = await deferToThread(self.listen, url, "room:1")
        listener.say(action="publish", channel="room:1", data=1)
        self.assertEqual((await deferToThread(listener.hear, "message"))["publisherId"], "ana")
        listener.say(action="history", channel="room:1")
        refused = json.loads(await deferToThread(listener.connection.recv, 10))
        while refused["action"] != "error":
            refused = json.loads(await deferToThread(listener.connection.recv, 10))
        self.assertEqual(refused["code"], "forbidden")

    async def test_issue_jwt_with_another_key(self) -> None:
        """The secret comes from the environment, the key's id from the command line."""
        secret = "a secret of at least thirty-two bytes"
        program = python(self, "issue_jwt.py", "ben", "--kid", "key_1", WSOCK_SIGNING_SECRET=secret)
        self.assertEqual(await program.ends(), 0)

        token = program.output.strip()

        self.assertEqual(jwt.get_unverified_header(token)["kid"], "key_1")
        self.assertEqual(jwt.decode(token, secret, algorithms=["HS256"])["sub"], "ben")

    async def test_embed(self) -> None:
        """``embed.py`` serves its page as before; below ``/realtime`` it serves WebSocket and the REST API."""
        loopback = "tcp:0:interface=127.0.0.1"
        program = start_twistd(
            self,
            "--no_save",
            "--python",
            str(EXAMPLES / "embed.py"),
            env={"LISTEN": loopback, "WSOCK_LISTEN": loopback},
        )
        port = int((await program.says(r"^.*\bSite starting on (\d+)"))[1])
        await program.says("serves on ")
        listener = await deferToThread(self.listen, f"ws://127.0.0.1:{port}/realtime/?key=demo", "visits")

        page = await deferToThread(fetch, f"http://127.0.0.1:{port}/")
        health = await deferToThread(fetch, f"http://127.0.0.1:{port}/realtime/health")

        self.assertIn(b"Visit number 1", page)
        self.assertEqual(health, b'{"status":"ok"}')
        self.assertEqual((await deferToThread(listener.hear, "message"))["data"], {"visits": 1})

    async def test_every_example_is_run(self) -> None:
        """No example is without a test here or in ``tests/browser``, and ``examples/README.md`` lists each."""
        tests = Path(__file__).read_text("utf-8") + "".join(
            file.read_text("utf-8") for file in (ROOT / "tests" / "browser").glob("test_*.py")
        )
        listed = (EXAMPLES / "README.md").read_text("utf-8")
        for file in EXAMPLES.iterdir():
            if file.suffix in (".py", ".html"):
                self.assertTrue(f'"{file.name}"' in tests, f"{file.name} has no test")
                self.assertIn(f"`{file.name}`", listed)


def fetch(url: str) -> bytes:
    """The body of what is at the URL."""
    from urllib.request import urlopen

    with urlopen(url, timeout=_PATIENCE_SECONDS) as answer:
        return bytes(answer.read())
