"""A client whose node was killed goes on at another one, and misses nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

from tests.cluster.parts import ClusterNode, ClusterTestCase, soon
from tests.e2e.cases import dev_token
from tests.e2e.wire import Closed, Wire

_CHANNELS = [f"anywhere:{number}" for number in range(3)]
_BEFORE, _AMID, _AFTER = 30, 300, 60


class Follower:
    """A subscriber, and where it would resume from. ``heard`` are all its messages."""

    def __init__(self, form: str) -> None:
        self.form = form
        self.heard: list[dict[str, Any]] = []
        self.positions: dict[str, dict[str, Any]] = {}

    def subscribe(self, wire: Wire) -> None:
        """Subscribes to all channels."""
        for channel in _CHANNELS:
            answer = wire.ask("subscribed", action="subscribe", channel=channel)
            self.positions[channel] = {"epoch": answer["epoch"], "sequence": answer["sequence"]}

    def token(self) -> dict[str, Any]:
        """What a ``resume`` says, in this form."""
        if self.form == "positions":
            return {"positions": self.positions}
        key = "since" if self.form == "token" else "lastTs"
        text = json.dumps({"channels": _CHANNELS, key: max(message["timestamp"] for message in self.heard)})
        return {self.form: base64.urlsafe_b64encode(text.encode()).decode()}

    def read(self, wire: Wire, is_enough: Callable[[], bool] = lambda: False) -> None:
        """Takes messages until they are enough, or the connection is lost."""
        try:
            while not is_enough():
                event = wire.event()
                if event["action"] == "message":
                    self.heard.append(event)
                    self.positions[event["channel"]]["sequence"] = event["sequence"]
        except (Closed, OSError):
            pass


class ResumeTests(ClusterTestCase):
    def publish(self, wire: Wire, ids: list[str]) -> None:
        """Publishes these in turn to the channels, without waiting for the acks."""
        for number, id in enumerate(ids):
            wire.say(action="publish", channel=_CHANNELS[number % len(_CHANNELS)], id=id)

    def test_every_form(self) -> None:
        """In all three forms of the token; the node is killed in the middle of a burst, and the burst goes on."""
        cluster = self.cluster()
        a, b = cluster.nodes
        publisher = self.connected(b)
        ids = [f"m{number:04}" for number in range(_BEFORE + _AMID + _AFTER)]
        followers = [Follower(form) for form in ("resumeToken", "token", "positions")]
        wires = [self.connected(a) for _ in followers]
        for follower, wire in zip(followers, wires, strict=True):
            follower.subscribe(wire)
        self.publish(publisher, ids[:_BEFORE])
        for _ in range(_BEFORE):
            publisher.hear("ack")

        self.publish(publisher, ids[_BEFORE : _BEFORE + _AMID])
        publisher.hear("ack")
        a.kill()
        for follower, wire in zip(followers, wires, strict=True):
            follower.read(wire)
            self.assertGreaterEqual(len(follower.heard), _BEFORE)
            self.assertLess(len(follower.heard), _BEFORE + _AMID, "the node was killed too late")
        resumed = [self.connected(b) for _ in followers]
        for follower, wire in zip(followers, resumed, strict=True):
            wire.say(action="resume", **follower.token())
        self.publish(publisher, ids[_BEFORE + _AMID :])
        for _ in range(_AMID - 1 + _AFTER):
            publisher.hear("ack")

        for follower, wire in zip(followers, resumed, strict=True):
            follower.read(wire, lambda f=follower: {m["id"] for m in f.heard} >= set(ids))  # type: ignore[misc]
            self.assertEqual([e for e in wire.rest() if e["action"] == "message"], [])
            self.assert_in_order(follower)

    def assert_in_order(self, follower: Follower) -> None:
        """Each channel's messages once and in sequence; a resume by timestamp may repeat those of a tie."""
        if follower.form == "positions":
            self.assertEqual(len(follower.heard), _BEFORE + _AMID + _AFTER)
        for channel in _CHANNELS:
            mine = [message for message in follower.heard if message["channel"] == channel]
            once = list(dict.fromkeys(message["sequence"] for message in mine))
            self.assertEqual(once, list(range(1, len(once) + 1)))
            self.assertLessEqual(len(mine) - len(once), 1, "more is repeated than a tie explains")


class PresenceTests(ClusterTestCase):
    channel = "present"

    def member(self, node: ClusterNode, name: str) -> Wire:
        """A client who is present under this name."""
        wire = self.connected(node, key="", token=dev_token(name))
        wire.say(action="presence.enter", channel=self.channel)
        return wire

    def test_members_of_a_killed_node(self) -> None:
        """The members of a node that was killed leave within 30 s, once each; those that came back never left."""
        leaving, staying = 100, 20
        cluster = self.cluster()
        a, b = cluster.nodes
        watcher = self.connected(b)
        watcher.subscribe(self.channel)
        for number in range(leaving):
            self.member(a, f"leaves{number}")
        for number in range(staying):
            self.member(a, f"stays{number}")
        entered = [watcher.await_("presence.enter")["clientId"] for _ in range(leaving + staying)]
        self.assertEqual(len(set(entered)), leaving + staying)

        a.kill()
        back = [self.member(b, f"stays{number}") for number in range(staying)]
        left: list[str] = []

        def has_left() -> bool:
            left.append(self.next_leave(watcher))
            return len(left) == leaving

        watcher.socket.settimeout(30)
        soon(has_left, f"all {leaving} have left", 30)
        self.assertEqual(set(left), {f"leaves{number}" for number in range(leaving)})
        self.assertEqual([e["clientId"] for e in watcher.rest() if e["action"] == "presence.leave"], [])
        watcher.say(action="presence.get", channel=self.channel)
        members = watcher.await_("presence.members")["members"]
        self.assertEqual({member["clientId"] for member in members}, {f"stays{number}" for number in range(staying)})
        self.assertEqual(len(back), staying)

    def next_leave(self, watcher: Wire) -> str:
        """Who leaves next, because its node is lost."""
        event = watcher.await_("presence.leave")
        self.assertEqual(event["reason"], "node_lost")
        return str(event["clientId"])
