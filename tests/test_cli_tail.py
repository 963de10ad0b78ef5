"""Tests for :mod:`wsock.cli.tail`: what it prints, and when it ends."""

from __future__ import annotations

import io
import json
from typing import Any

from twisted.internet.defer import Deferred

from tests.test_client_peer import ClientTestCase
from wsock.cli.tail import Tail, _socket_url, _told
from wsock.client import ClientError
from wsock.errors import Code, Refused


class _Broken(io.StringIO):
    """What nobody reads any more."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


class TailTests(ClientTestCase):
    """A tail of the channel "chat"."""

    def setUp(self) -> None:
        super().setUp()
        self.out: io.StringIO = io.StringIO()
        self.notes: list[str] = []

    def tail(self, *, key: str = "demo", **how: Any) -> tuple[Tail, Deferred[None]]:
        """A tail that has begun, and what fires at its end."""
        how = {"as_json": False, "rewind": 0} | how
        tail = Tail(self.client(key=key), "chat", self.out, self.notes.append, **how)
        running = Deferred.fromCoroutine(tail.run())
        self.addCleanup(self.net.peers[-1].flush if self.net.peers else tail.stop)
        self.addCleanup(tail.stop)
        return tail, running

    def listening(self, **how: Any) -> tuple[Tail, Deferred[None]]:
        """A tail that is subscribed."""
        tail, running = self.tail(**how)
        [self.asked] = self.net.peer.asked()
        self.net.peer.subscribed("chat")
        return tail, running

    @property
    def lines(self) -> list[str]:
        """What was printed."""
        return self.out.getvalue().splitlines()

    def test_people(self) -> None:
        """A message is a line; nothing in it moves a cursor."""
        self.listening()

        self.net.peer.message("chat", 1, {"text": "ü\u202e"}, timestamp=1_767_225_600_123, publisherId="an\na")

        self.assertEqual(self.lines, ['2026-01-01 00:00:00Z  1 an\\na  {"text":"ü\\u202e"}'])
        self.assertEqual(self.notes, ["listening to chat; Ctrl-C ends"])

    def test_programs(self) -> None:
        """With --json it is an object of one line, with the data as it was published."""
        self.listening(as_json=True)

        self.net.peer.message("chat", 1, [1.10, "a\nb"])

        [line] = self.lines
        self.assertEqual(
            json.loads(line),
            {
                "type": "message",
                "channel": "chat",
                "id": "m1",
                "timestamp": 1001,
                "publisherId": "p",
                "sequence": 1,
                "data": [1.1, "a\nb"],
            },
        )

    def test_presence(self) -> None:
        """Who enters, changes and leaves is told, unless it is not wished."""
        change = {"channel": "chat", "clientId": "ana", "data": {"clientId": "ana", "joinedAt": 5, "data": {"s": 1}}}
        self.listening()
        for action in ("presence.enter", "presence.update", "presence.leave"):
            self.net.peer.says(action, timestamp=6, **change)

        self.assertEqual(
            [line.split()[:3] for line in self.lines],
            [["*", "ana", "entered"], ["*", "ana", "changed"], ["*", "ana", "left"]],
        )

    def test_rewind(self) -> None:
        """The last messages are asked for."""
        self.listening(rewind=3)

        self.assertEqual(self.asked["rewind"], 3)

    def test_count(self) -> None:
        """After so many messages it ends, and prints no more."""
        _, running = self.listening(count=2)

        for sequence in (1, 2, 3):
            self.net.peer.message("chat", sequence)
        self.net.peer.flush()

        self.assertIsNone(self.successResultOf(running))
        self.assertEqual(len(self.lines), 2)

    def test_stop(self) -> None:
        """Ctrl-C closes the connection properly."""
        tail, running = self.listening()

        tail.stop()
        self.net.peer.flush()

        self.assertIsNone(self.successResultOf(running))
        self.assertEqual(self.net.peer.close_code, 1000)

    def test_stop_before_it_listens(self) -> None:
        """Also while the server does not answer."""
        tail, running = self.tail()

        tail.stop()
        self.net.peer.flush()

        self.assertIsNone(self.successResultOf(running))

    def test_resumes(self) -> None:
        """A lost connection is made again, and goes on behind the last message that was printed."""
        self.listening()
        self.net.peer.message("chat", 1)

        peer = self.reconnect()
        [asked] = peer.asked()
        self.assertEqual(asked["positions"], {"chat": {"epoch": "E", "sequence": 1}})
        peer.subscribed("chat", 1)
        peer.resumed("chat")
        peer.message("chat", 2)

        self.assertEqual([line.split()[2] for line in self.lines], ["1", "2"])

    def test_away_at_first(self) -> None:
        """A server that can't be reached at first ends it; one that is away later does not."""
        self.net.is_down = True
        _, running = self.tail()
        self.assertIn("can't be reached", self.failureResultOf(running, ClientError).value.text)

        self.net.is_down = False
        _, running = self.listening()
        self.net.is_down = True
        self.reconnect()

        self.assertNoResult(running)
        self.assertIn("can't be reached", self.notes[-1])

    def test_refused(self) -> None:
        """A credential that is refused ends it, at first and later; that is said once."""
        refused = Refused(Code.UNAUTHORIZED, "the key is revoked")
        self.net.refusals.append(refused)
        _, running = self.tail()
        self.assertEqual(self.failureResultOf(running, ClientError).value.text, "the key is revoked")

        _, running = self.listening()
        self.net.refusals.append(refused)
        self.reconnect()

        self.failureResultOf(running, ClientError)
        self.assertNotIn("the key is revoked", self.notes)

    def test_may_not_subscribe(self) -> None:
        """A channel that the key does not allow ends it."""
        _, running = self.tail()
        self.net.peer.asked()
        self.net.peer.says("error", error="you may not", code="forbidden", channel="chat")
        self.net.peer.flush()

        self.failureResultOf(running, ClientError)

    def test_nobody_reads(self) -> None:
        """When who reads it has ended, it ends too, without complaint."""
        self.out = _Broken()
        _, running = self.listening()

        self.net.peer.message("chat", 1)
        self.net.peer.flush()

        self.assertIsNone(self.successResultOf(running))


class EndTests(ClientTestCase):
    """How its end is told."""

    def test_status(self) -> None:
        """That a server is away is told from a refusal."""
        for code, status in (("connection", 3), ("unauthorized", 1)):
            try:
                raise ClientError(code, "why\x1b")
            except ClientError as e:
                told = _told(e)
            self.assertEqual((told.exit_code, told.message), (status, rf"why\x1b ({code})"))

    def test_urls(self) -> None:
        """It connects to where the API is."""
        self.assertEqual(_socket_url("http://a:1"), "ws://a:1/")
        self.assertEqual(_socket_url("https://a/x"), "wss://a/x")
