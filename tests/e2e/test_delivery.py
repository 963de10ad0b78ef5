"""Order, hostile peers and slow ones, over real sockets."""

from __future__ import annotations

import base64
import json
import socket
from random import Random  # noqa: TID251  # seeded, so that a failure repeats
from threading import Event, Thread
from typing import Any

from tests.e2e.cases import NodeTestCase
from tests.e2e.wire import Closed, Wire, frame, text_frame


def _publish(channel: str, id: str, data: Any = None) -> bytes:
    return text_frame(json.dumps({"action": "publish", "channel": channel, "id": id, "data": data}))


class OrderTests(NodeTestCase):
    def publish_three(self, *channels: str) -> None:
        """Publishes A1 B1 A2 in one write."""
        wire = self.connected()
        a, b = channels
        wire.write(b"".join(_publish(c, f"{self.channel}{d}", d) for c, d in ((a, "A1"), (b, "B1"), (a, "A2"))))
        for _ in range(3):
            wire.hear("ack")

    def test_across_channels(self) -> None:
        """What one connection published in two channels arrives in that order, with timestamps that rise."""
        channels = (f"{self.channel}:a", f"{self.channel}:b")
        wire = self.subscribed(*channels)

        self.publish_three(*channels)

        heard = [wire.hear("message") for _ in range(3)]
        self.assertEqual([event["data"] for event in heard], ["A1", "B1", "A2"])
        stamps = [event["timestamp"] for event in heard]
        self.assertEqual(stamps, sorted(set(stamps)))

    def test_cut_anywhere(self) -> None:
        """A connection that is cut behind any of the messages gets the others by its last timestamp."""
        for heard_before in (1, 2, 3):
            channels = [f"{self.channel}:{heard_before}:{letter}" for letter in "ab"]
            wire = self.subscribed(*channels)
            self.publish_three(*channels)
            heard = [wire.hear("message") for _ in range(heard_before)]
            wire.vanish()

            again = self.connected()
            token = json.dumps({"channels": channels, "lastTs": heard[-1]["timestamp"]})
            again.say(action="resume", resumeToken=base64.b64encode(token.encode()).decode())

            replayed = [event["data"] for event in again.rest() if event["action"] == "message"]
            self.assertEqual([e["data"] for e in heard] + replayed, ["A1", "B1", "A2"])


class Bystanders:
    """Two clients that publish to one another all the time; :meth:`count` tells how often, and that none was lost."""

    def __init__(self, publisher: Wire, subscriber: Wire, channel: str) -> None:
        self._publisher = publisher
        self._subscriber = subscriber
        self._channel = channel
        self._stop = Event()
        self._fault: BaseException | None = None
        self._rounds = 0
        self._thread = Thread(target=self._run)
        self._thread.start()

    def count(self) -> int:
        """Ends them; how many messages both saw. Raises what went wrong."""
        self._stop.set()
        self._thread.join()
        if self._fault is not None:
            raise self._fault
        return self._rounds

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._rounds += 1
                self._publisher.write(_publish(self._channel, f"{self._channel}{self._rounds}", self._rounds))
                ack, message = self._publisher.hear("ack"), self._subscriber.hear("message")
                assert (message["data"], message["sequence"]) == (self._rounds, ack["sequence"]), message
        except BaseException as e:  # it is raised in the test's thread
            self._fault = e


class HostileTests(NodeTestCase):
    def test_random_frames(self) -> None:
        """10,000 frames of any kind and content end connections at most; other clients do not notice."""
        bystanders = Bystanders(self.connected(), self.subscribed(self.channel), self.channel)
        random, noise = Random(20_260_314), f"{self.channel}:noise"
        for _ in range(1_000):
            # The last one may be what ends a connection: the server is to see those before it too.
            self.send([*(_random_text(random, noise) for _ in range(9)), _random_frame(random)])

        self.assertGreater(bystanders.count(), 100)
        self.assertEqual(self.connected().rest(), [])

    def send(self, frames: list[bytes]) -> None:
        """Sends frames on a connection of their own, and reads what is answered until the server ends it."""
        wire = self.connected()
        try:
            wire.write(b"".join(frames))
            wire.socket.shutdown(socket.SHUT_WR)
            while wire.frame().opcode != 8:
                pass
        except (OSError, Closed):
            pass
        wire.socket.close()

    def test_too_many_malformed(self) -> None:
        """Ten malformed frames are answered, then the connection is closed with 1008."""
        wire = self.connected()

        with self.assertRaises(Closed) as caught:
            for _ in range(12):
                wire.write(text_frame("no JSON"))
                wire.hear("error")

        self.assertEqual(caught.exception.code, 1008)

    def test_too_big(self) -> None:
        """A frame beyond the limit closes the connection with 1009."""
        wire = self.connected()
        wire.write(text_frame('"' + "x" * 300_000 + '"'))

        with self.assertRaises(Closed) as caught:
            wire.event()

        self.assertEqual(caught.exception.code, 1009)


def _random_frame(random: Random) -> bytes:
    """Bytes that are no frame, frames of any opcode, text that is no UTF-8."""
    match random.randrange(3):
        case 0:
            return random.randbytes(random.randrange(1, 200))
        case 1:
            return frame(random.randrange(16), random.randbytes(random.randrange(125)))
    return frame(1, random.randbytes(random.randrange(300)))


def _random_text(random: Random, channel: str) -> bytes:
    """Deep nesting, JSON that is cut off, requests that are right or not."""
    match random.randrange(8):
        case 0:
            return text_frame("[" * random.randrange(1, 5_000))
        case 1:
            text = json.dumps({"action": "publish", "channel": channel, "data": "é" * random.randrange(50)})
            return text_frame(text[: random.randrange(len(text))])
    return text_frame(json.dumps(_random_request(random, channel)))


_ACTIONS = ["subscribe", "unsubscribe", "publish", "history", "ping", "resume", "auth", "dance", ""]
_ACTIONS += ["presence.enter", "presence.update", "presence.leave", "presence.get"]
_ODD: list[Any] = [None, True, 0, -1, 1e308, 10**400, "", "x" * 300, [], {}, [None], {"a": [1]}, "\ud800", "\x00"]


def _random_request(random: Random, channel: str) -> dict[str, Any]:
    request: dict[str, Any] = {"action": random.choice(_ACTIONS), "channel": channel}
    fields = ("data", "id", "rewind", "limit", "before", "after", "direction", "token", "resumeToken", "positions")
    for field in random.sample(fields, random.randrange(4)):
        request[field] = random.choice(_ODD)
    if not random.randrange(10):
        request[random.choice(("action", "channel"))] = random.choice(_ODD)
    return request


class SlowConsumerTests(NodeTestCase):
    config = "[limits]\noutput_bytes = 262144\nmessage_bytes = 65536\n"

    def test_reset(self) -> None:
        """A client that stops reading is reset; all others get every message."""
        slow = self.connected(receive_buffer=4_096)
        slow.subscribe(self.channel)
        wire, publisher = self.subscribed(self.channel), self.connected()
        count = 150
        for number in range(count):
            publisher.write(_publish(self.channel, f"s{number}", str(number) + "x" * 60_000))
            publisher.hear("ack")
            self.assertTrue(wire.hear("message")["data"].startswith(f"{number}x"))

        with self.assertRaises((ConnectionResetError, Closed)) as caught:
            for _ in range(count):
                slow.hear("message")
        self.assertEqual(getattr(caught.exception, "code", 0), 0)  # no close frame
        self.assertEqual(wire.rest(), [])

    def test_half_open(self) -> None:
        """A client that closes its sending side is not served for ever."""
        wire = self.connected()
        wire.socket.shutdown(socket.SHUT_WR)

        with self.assertRaises((ConnectionResetError, Closed)):
            wire.event()
