"""A key is rotated, and the old one retired, while clients publish and connect again all the time.

``WSOCK_TEST_ROTATION_SECONDS`` says how long.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

from twisted.internet.threads import deferToThread

from tests.base import TestCase
from tests.cluster.parts import soon
from tests.e2e.wire import Closed, Wire, connect
from tests.rotating import Api, Follower, KeyPair, Listener, Load, RestClient, SocketClient, token_of
from wsock.config import Accounts, Config
from wsock.server import Server
from wsock.services.keys import QUIET_SECONDS

SECONDS = float(os.environ.get("WSOCK_TEST_ROTATION_SECONDS", "10"))
CLOSED_WITHIN_SECONDS = 1.0
_EACH_KIND = 2
_MINUTE = 61.0
_CHANNEL = "rotation"


class RotationTests(TestCase):
    """A server on disk with sockets, in this process: its clock can be put forward."""

    timeout = 60 + 2 * SECONDS

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        from twisted.internet import reactor  # noqa: TID251  # trial's own: the sockets are real

        self.ahead = 0.0
        shown: list[str] = []
        directory = Path(self.mktemp())
        config = Config(
            data=str(directory),
            listen=("tcp:0:interface=127.0.0.1",),
            accounts=Accounts(requests_per_minute=0),
        )
        server = Server(config, reactor=reactor, now=self.now, show=shown.append)
        server.startService()
        self.addCleanup(server.stopService)
        await server.started()
        address: Any = server._ports[0].getHost()
        self.api = Api(address.port)
        self.shown = "".join(shown)

    def now(self) -> float:
        """The server's wall clock."""
        return time.time() + self.ahead  # noqa: TID251  # the server is a real one

    async def test_rotation(self) -> None:
        """Who follows the rotation is refused nothing and loses nothing; the old key is good for nothing after it."""
        await deferToThread(self.rotate)

    def rotate(self) -> None:
        """All of it, in a thread beside the server's."""
        self.log_in()
        old = KeyPair.of(self.admin("POST", "/keys", {"name": "Main", "permissions": {"*": ["*"]}}, 201))
        load = Load(self.api.port, _CHANNEL, [old, old], self.now)
        listeners, clients = self.start(load)
        try:
            self.work(load, clients, 0.2)

            new = self.begin(old)
            load.current[0] = new
            self.work(load, clients, 0.2)
            self.assert_both_in_use(old, new, clients)
            load.current[1] = new
            self.wait_until_moved([*clients, *listeners], new)
            self.wait_until_safe(old, new)
            self.work(load, clients, 0.2)

            self.retire(old)
            self.work(load, clients, 0.2)
            self.assert_good_for_nothing(old)
            self.work(load, clients, 0.1)
        finally:
            load.stop.set()
            for one in [*clients, *listeners]:
                one.join()
        self.assert_nothing_lost(load, listeners)

    # The clients.

    def start(self, load: Load) -> tuple[list[Listener], list[Follower]]:
        """Subscribers and publishers of every kind, in each stage of the move."""
        listeners: list[Listener] = []
        clients: list[Follower] = []
        for is_token in (False, True):
            kind = "token" if is_token else "key"
            listeners.append(Listener(f"hears-{kind}", load, 1, is_token=is_token))
            for number in range(_EACH_KIND):
                clients.append(SocketClient(f"socket-{kind}-{number}", load, number % 2, is_token=is_token))
                clients.append(RestClient(f"rest-{kind}-{number}", load, number % 2, is_token=is_token))
        for listener in listeners:
            listener.start()
            self.assertTrue(listener.is_ready.wait(20))
        for client in clients:
            client.start()
        return listeners, clients

    def work(self, load: Load, clients: list[Follower], part: float) -> None:
        """That part of the time passes; everybody has worked in it."""
        before = [client.connects for client in clients]
        load.stop.wait(part * SECONDS)
        soon(
            lambda: all(client.connects > count for client, count in zip(clients, before, strict=True)),
            "every client has connected again",
        )
        self.assertEqual(load.problems[:5], [])

    def wait_until_moved(self, clients: list[Follower], new: KeyPair) -> None:
        """Everybody works with the new key, and no session with the old one goes on."""
        soon(lambda: all(client.used == new.id for client in clients), "everybody works with the new key")

    # The rotation.

    def log_in(self) -> None:
        """As the owner that the first start made."""
        match = re.search(r"Account: (\S+) / password (\S+)", self.shown)
        app = re.search(r"App: (\S+)", self.shown)
        assert match is not None and app is not None
        status, session = self.api.ask("POST", "/api/auth/login", {"email": match[1], "password": match[2]})
        self.assertEqual(status, 200, session)
        self.api.token, self.app = session["token"], app[1]

    def admin(self, method: str, path: str, body: Any = None, wanted: int = 200) -> dict[str, Any]:
        """What is answered to something below the app."""
        status, answer = self.api.ask(method, f"/api/admin/apps/{self.app}{path}", body)
        self.assertEqual(status, wanted, answer)
        return dict(answer)

    def shows(self, pair: KeyPair) -> dict[str, Any]:
        """The key as it is shown."""
        return self.admin("GET", f"/keys/{pair.id}")

    def begin(self, old: KeyPair) -> KeyPair:
        """Both keys are good from now on."""
        new = KeyPair.of(self.admin("POST", f"/keys/{old.id}/rotate", {"overlapSeconds": 86_400}, 201))
        shown = self.shows(old)
        self.assertEqual((shown["state"], shown["replacedBy"]), ("rotating", new.id))
        self.assertEqual((self.shows(new)["state"], shown["safeToRetire"]), ("active", False))
        return new

    def assert_both_in_use(self, old: KeyPair, new: KeyPair, clients: list[Follower]) -> None:
        """Some work with the one, some with the other; that is seen of the old one, which must not go yet."""
        self.assertEqual({client.used for client in clients}, {old.id, new.id})
        before = int(self.now() * 1000)
        soon(lambda: (self.shows(old)["lastUsedAt"] or 0) > before, "the use of the old key is seen", 5)
        self.assertFalse(self.shows(old)["safeToRetire"])

    def wait_until_safe(self, old: KeyPair, new: KeyPair) -> None:
        """The old key may go when it was not used for five minutes, which the clock is put forward by."""
        self.ahead += _MINUTE
        soon(lambda: self.shows(new)["lastUsedAt"] is not None, "the use of the new key is seen", 10)
        self.assertFalse(self.shows(old)["safeToRetire"], "it was used a minute ago")
        self.ahead += QUIET_SECONDS
        soon(lambda: self.shows(old)["safeToRetire"], "the old key is safe to retire", 10)
        used = self.shows(old)["lastUsedAt"], self.shows(new)["lastUsedAt"]
        self.assertGreater(used[1], used[0])

    def retire(self, old: KeyPair) -> None:
        """Clients that have not followed are closed at once."""
        late = [connect(self.api.port, **how) for how in self.credentials(old)]
        for wire in late:
            self.addCleanup(wire.socket.close)
            wire.subscribe("elsewhere")
        soon(lambda: not self.shows(old)["safeToRetire"], "the late use of the old key is seen", 5)

        start = time.monotonic()  # noqa: TID251  # real sockets, real time
        self.assertEqual(self.admin("POST", f"/keys/{old.id}/retire")["state"], "retired")
        closed = [self.close_of(wire) for wire in late]
        seconds = time.monotonic() - start  # noqa: TID251

        self.assertEqual(closed, [4403, 4403])
        self.assertLess(seconds, CLOSED_WITHIN_SECONDS)

    def close_of(self, wire: Wire) -> int:
        """The close code, behind the error that says why."""
        error = wire.hear("error")
        self.assertIn("was retired", error["error"])
        with self.assertRaises(Closed) as closed:
            wire.event()
        return int(closed.exception.code)

    def credentials(self, pair: KeyPair) -> list[dict[str, Any]]:
        """Both kinds that the key is good for."""
        return [{"key": pair.key}, {"token": token_of(pair, "late", self.now())}]

    def assert_good_for_nothing(self, old: KeyPair) -> None:
        """The old key and its tokens are refused everywhere."""
        for how in self.credentials(old):
            with self.assertRaises(Closed) as refused:
                connect(self.api.port, **how)
            self.assertEqual(refused.exception.code, 401)
            [token] = how.values()
            for method, path, body in (
                ("POST", f"/api/channels/{_CHANNEL}/messages", {"data": 1}),
                ("GET", "/api/channels", None),
            ):
                status, answer = self.api.ask(method, path, body, token=token)
                self.assertEqual((status, answer["code"]), (401, "unauthorized"))

    def assert_nothing_lost(self, load: Load, listeners: list[Listener]) -> None:
        """What was acknowledged was heard by each subscriber once, and is in the history once."""
        self.assertEqual(load.problems, [])
        self.assertGreater(len(load.accepted), 100 * SECONDS)
        for listener in listeners:
            listener.catch_up()
            self.assertEqual(len(listener.heard), len(set(listener.heard)), "something was heard twice")
            self.assertEqual(load.accepted - set(listener.heard), set(), f"{listener.name} has lost messages")
        kept = self.history(load)
        self.assertEqual(len(kept), len(load.accepted))
        self.assertEqual(set(kept), load.accepted)

    def history(self, load: Load) -> list[str]:
        """The ids of all that is kept."""
        found: list[str] = []
        after = 0
        while True:
            path = f"/api/channels/{_CHANNEL}/messages?direction=forward&limit=1000&after={after}"
            status, page = self.api.ask("GET", path, token=load.current[0].key)
            self.assertEqual(status, 200, page)
            found += [entry["id"] for entry in page["messages"]]
            if not page["hasMore"]:
                return found
            after = page["messages"][-1]["timestamp"]
