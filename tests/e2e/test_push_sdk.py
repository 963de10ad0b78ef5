"""The published Python SDK's PushClient, unchanged, against a server with what stands in for a push service."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.request import Request, urlopen

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from wsocket.client import PushClient

from tests.e2e.cases import NodeTestCase, dev_token


class PushService(ThreadingHTTPServer):
    """A browsers' push service on loopback: keeps the requests, and answers 201, or 410 for ``/gone``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Answer(BaseHTTPRequestHandler):
    server: PushService

    def do_POST(self) -> None:  # noqa: N802  # the name that http.server calls
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append((self.path, headers, body))
        self.send_response(410 if self.path == "/gone" else 201)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def _keys() -> dict[str, str]:
    """The keys of a browser's subscription."""
    point = generate_private_key(SECP256R1()).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return {
        name: base64.urlsafe_b64encode(data).rstrip(b"=").decode()
        for name, data in (("p256dh", point), ("auth", b"a" * 16))
    }


class PushClientTests(NodeTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.service = PushService()
        self.addCleanup(self.service.server_close)
        self.addCleanup(self.service.shutdown)
        self.base = f"http://127.0.0.1:{self.node.port}"

    def client(self, token: str = "demo", base: str | None = None) -> PushClient:
        """A client of the SDK."""
        return PushClient(base or self.base, token, "demo")

    def login(self) -> str:
        """A dashboard's session token."""
        body = json.dumps({"email": "admin@localhost", "password": "admin"}).encode()
        request = Request(f"{self.base}/api/auth/login", body, {"Content-Type": "application/json"})
        with urlopen(request) as answer:
            return str(json.load(answer)["token"])

    def test_all_of_it(self) -> None:
        """Everything that the client can do works with an API key, an administrator's JWT and a dashboard's token."""
        admin = dev_token("admin", {"*": ["*"]})
        for number, token in enumerate(("demo", admin, self.login())):
            asyncio.run(self._all_of_it(self.client(token), f"member-{number}"))
        asyncio.run(self._all_of_it(self.client("demo", f"{self.base}/behind/a/path/"), "member-path"))

    async def _all_of_it(self, push: PushClient, member: str) -> None:
        key = await push.get_vapid_key()
        assert key is not None
        self.assertEqual(len(base64.urlsafe_b64decode(key + "=")), 65)

        web = await push.register_web_push(f"{self.service.url}/{member}", _keys(), member)
        gone = await push.register_web_push(f"{self.service.url}/gone", _keys(), f"{member}-gone")
        fcm = await push.register_fcm(f"token-{member}", member)
        apns = await push.register_apns("ab" * 32, f"{member}-apple")
        self.assertEqual(len({web, gone, fcm, apns}), 4)

        self.assertEqual(await push.add_channel(member, "news"), {"updated": 2})
        self.assertEqual(await push.remove_channel(member, "news"), {"updated": 2})
        listed = await push.list_subscriptions(member_id=member, platform="web", limit=5)
        self.assertEqual([one["subscriptionId"] for one in listed["subscriptions"]], [web])
        self.assertEqual((await push.list_subscriptions())["total"], 4)

        sent = await push.send_to_member(member, title="Hello", body="World", data={"a": 1}, ttl=60, urgency="high")
        self.assertEqual((sent["sent"], sent["failed"]), (1, 1))
        outcomes = {one["platform"]: one for one in sent["results"]}
        self.assertTrue(outcomes["web"]["success"])
        self.assertIn("credentials", outcomes["fcm"]["error"])
        path, headers, body = self.service.requests[-1]
        self.assertEqual((path, headers["content-encoding"], headers["urgency"]), (f"/{member}", "aes128gcm", "high"))
        self.assertIn(f"k={key}", headers["authorization"])
        self.assertNotIn(b"Hello", body)

        several = await push.send_to_members([member, f"{member}-gone"], title="Hello")
        self.assertEqual((several["sent"], several["failed"]), (1, 2))
        self.assertEqual((await push.list_subscriptions(member_id=f"{member}-gone"))["total"], 0)
        self.assertEqual((await push.broadcast(title="All"))["sent"], 1)

        self.assertTrue(await push.delete_subscription(apns))
        self.assertFalse(await push.delete_subscription(apns))
        self.assertEqual(await push.unregister(member, "fcm"), 1)
        self.assertEqual(await push.unregister(member), 1)
        await asyncio.sleep(1.2)
        stats = await push.get_stats()
        self.assertEqual(stats["subscriptions"], 0)
        self.assertGreaterEqual(stats["sent"], 3)

    def test_refused(self) -> None:
        """What is refused is an exception with the status and the text."""
        with self.assertRaisesRegex(Exception, "Push API error 401"):
            asyncio.run(self.client("wrong").get_stats())
        with self.assertRaisesRegex(Exception, "Push API error 403.*other"):
            asyncio.run(PushClient(self.base, "demo", "other").broadcast(title="T"))
        with self.assertRaisesRegex(Exception, "Push API error 400.*title"):
            asyncio.run(self.client().send_to_member("bob", body="B"))
