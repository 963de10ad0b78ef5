"""Presence, as clients see it."""

from __future__ import annotations

from typing import Any

import msgspec

from tests.vocabulary import ServerTestCase
from wsock.config import Config, Limits, Presence
from wsock.testing import InMemoryClient

MIB = 1 << 20


class PresenceTestCase(ServerTestCase):
    def entered(self, client_id: str, data: Any = None, channel: str = "room", **how: Any) -> InMemoryClient:
        """A client that is present."""
        client = self.connected(client_id=client_id, **how)
        client.says({"action": "presence.enter", "channel": channel, "data": data})
        self.assert_told(client, action="presence.enter")
        return client

    def members(self, channel: str = "room") -> list[str]:
        """Who is present."""
        members = self.server.wait_for(self.server.server.presence.members("demo", channel))
        return [member.client_id for member in members]


class EventsTests(PresenceTestCase):
    def test_superset(self) -> None:
        """Events carry the member nested and flat, with the user's keys spread into it."""
        watcher, bob = self.subscribed("room"), self.connected(client_id="bob")

        bob.says({"action": "presence.enter", "channel": "room", "data": {"name": "Bob", "n": 1}})

        event = self.assert_told(watcher, action="presence.enter", channel="room", clientId="bob")
        self.assertEqual(
            event["data"],
            {
                "name": "Bob",
                "n": 1,
                "clientId": "bob",
                "data": {"name": "Bob", "n": 1},
                "joinedAt": event["joinedAt"],
            },
        )
        self.assertEqual(type(event["joinedAt"]), int)
        self.assertEqual(set(event), {"action", "channel", "data", "clientId", "joinedAt"})

    def test_user_keys_overwrite_nothing(self) -> None:
        """A user's ``clientId``, ``data`` and ``joinedAt`` stay in the inner data only."""
        watcher, eve = self.subscribed("room"), self.connected(client_id="eve")
        mine = {"clientId": "bob", "data": "x", "joinedAt": 0, "action": "y"}

        eve.says({"action": "presence.enter", "channel": "room", "data": mine})

        event = self.assert_told(watcher, action="presence.enter", clientId="eve")
        self.assert_fields(event["data"], clientId="eve", data=mine, joinedAt=event["joinedAt"], action="y")

    def test_who_is_told(self) -> None:
        """Subscribers and present members are, each once; nobody else is."""
        both = self.entered("both")
        both.says({"action": "subscribe", "channel": "room"})
        both.take()
        present, subscribed, neither = self.entered("present"), self.subscribed("room"), self.connected()
        both.take()

        bob = self.entered("bob", {})
        bob.says({"action": "presence.update", "channel": "room", "data": {"a": 1}})
        bob.says({"action": "presence.leave", "channel": "room"})

        for client in (both, present, subscribed):
            self.assert_actions(client, "presence.enter", "presence.update", "presence.leave")
        self.assert_actions(bob, "presence.update", "presence.leave")
        self.assert_silent(neither)

    def test_messages_are_for_subscribers(self) -> None:
        """Being present subscribes to nothing else."""
        bob = self.entered("bob")

        self.publish("room", 1)

        self.assert_silent(bob)

    def test_leave(self) -> None:
        """A leave says why, and is the last thing that a member is told."""
        bob, watcher = self.entered("bob", {"a": 1}), self.subscribed("room")

        bob.says({"action": "presence.leave", "channel": "room"})
        self.entered("eve")

        for client in (bob, watcher):
            event = client.take()[0]
            self.assert_fields(event, action="presence.leave", clientId="bob", reason="left")
            self.assertEqual(event["data"]["data"], {"a": 1})
        self.assertEqual(self.members(), ["eve"])

    def test_leave_where_not_present(self) -> None:
        """Does nothing."""
        bob = self.connected(client_id="bob")

        bob.says({"action": "presence.leave", "channel": "room"})

        self.assert_silent(bob)

    def test_enter_again(self) -> None:
        """A second enter is an update."""
        bob = self.entered("bob")

        bob.says({"action": "presence.enter", "channel": "room", "data": {"a": 1}})

        self.assert_told(bob, action="presence.update")
        self.assertEqual(self.members(), ["bob"])

    def test_update_where_not_present(self) -> None:
        """Is refused with advice."""
        bob = self.connected(client_id="bob")

        bob.says({"action": "presence.update", "channel": "room", "data": {}})

        self.assert_refused(bob, "bad_request", "presence.enter", channel="room")

    def test_no_data(self) -> None:
        """Absent, null and [] are an empty object."""
        bob = self.connected(client_id="bob")
        forms: list[dict[str, Any]] = [{}, {"data": None}, {"data": []}]
        for number, more in enumerate(forms):
            bob.says({"action": "presence.enter", "channel": f"room-{number}", **more})
            [event] = bob.take()
            self.assertEqual(event["data"]["data"], {})

    def test_data_that_is_no_object(self) -> None:
        """Is refused, and nobody becomes present."""
        bob = self.connected(client_id="bob")
        for data in ("x", 1, True, [1]):
            bob.says({"action": "presence.enter", "channel": "room", "data": data})
            self.assert_refused(bob, "bad_request", "object", channel="room")
        self.assertEqual(self.members(), [])
        self.assertEqual(len(self.server.server.hub), 0)

    def test_permission(self) -> None:
        """All four take the permission."""
        client = self.connected(token=self.server.token(sub="bob", permissions={"*": ["subscribe"]}))
        for action in ("enter", "update", "leave", "get"):
            client.says({"action": f"presence.{action}", "channel": "room", "data": {}})
            self.assert_refused(client, "forbidden", "'presence'", channel="room")
            client.says({"action": f"presence.{action}", "channel": "", "data": {}})
            self.assert_refused(client, "channel_name")

    def test_during_a_replay(self) -> None:
        """A subscriber whose replay waits for it to read is told of presence all the same."""
        self.publish("room", *["x" * 60_000] * 10)
        client = self.connected()
        client.stops_reading()
        client.says({"action": "subscribe", "channel": "room", "rewind": 10})

        bob = self.entered("bob")
        client.reads()
        bob.says({"action": "presence.leave", "channel": "room"})

        actions = [event["action"] for event in client.take()]
        self.assertEqual(actions.count("message"), 10)
        self.assertEqual([a for a in actions if a.startswith("presence")], ["presence.enter", "presence.leave"])


class MembersTests(PresenceTestCase):
    def test_members(self) -> None:
        """The list is in both places, in the order of entering."""
        self.entered("bob", {"a": 1})
        eve = self.entered("eve")

        eve.says({"action": "presence.get", "channel": "room"})

        event = self.assert_told(eve, action="presence.members", channel="room")
        self.assertEqual(event["data"], event["members"])
        self.assertEqual([m["clientId"] for m in event["members"]], ["bob", "eve"])
        self.assertEqual(set(event["members"][0]), {"clientId", "data", "joinedAt"})
        self.assertEqual(event["members"][0]["data"], {"a": 1})

    def test_nobody(self) -> None:
        """Nobody is an empty list."""
        client = self.connected()

        client.says({"action": "presence.get", "channel": "room"})

        self.assert_told(client, action="presence.members", data=[], members=[])

    def test_no_frame_beyond_a_mebibyte(self) -> None:
        """Many members come in several frames, which together are all."""
        channel = '"' * 255
        for n in range(150):
            self.entered(f"user{n}", {"x": "x" * 16_000}, channel)
        client = self.connected()
        client.says({"action": "presence.get", "channel": channel})

        texts = client.texts
        events = [msgspec.json.decode(text) for text in texts]
        self.assertGreater(len(texts), 3)
        self.assertLess(max(len(text) for text in texts), MIB)
        self.assertEqual([e["hasMore"] for e in events], [True] * (len(events) - 1) + [False])
        self.assertEqual(
            [m["clientId"] for e in events for m in e["members"]],
            [f"user{n}" for n in range(150)],
        )


class LimitsTests(PresenceTestCase):
    limits = Limits(presence_bytes=100, presence_members=2, channels_per_connection=2)

    def test_data(self) -> None:
        """The data of a member has a bound."""
        client = self.connected(client_id="bob")

        client.says({"action": "presence.enter", "channel": "room", "data": {"x": "x" * 100}})

        self.assert_refused(client, "too_large", "limits.presence_bytes", channel="room")

    def test_members(self) -> None:
        """So has the number of members."""
        self.entered("a")
        self.entered("b")
        client = self.connected(client_id="c")

        client.says({"action": "presence.enter", "channel": "room"})

        self.assert_refused(client, "limit_exceeded", "limits.presence_members", channel="room")

    def test_channels(self) -> None:
        """And the number of channels in which one connection is present."""
        client = self.entered("a", channel="r1")
        client.says({"action": "presence.enter", "channel": "r2"})
        client.take()

        client.says({"action": "presence.enter", "channel": "r3"})
        self.assert_refused(client, "limit_exceeded", "limits.channels_per_connection", channel="r3")

        client.says({"action": "presence.enter", "channel": "r2", "data": {"again": True}})
        self.assert_told(client, action="presence.update")
        client.says({"action": "presence.leave", "channel": "r1"}, {"action": "presence.enter", "channel": "r3"})
        self.assert_actions(client, "presence.leave", "presence.enter")


class EndingTests(PresenceTestCase):
    def test_clean_close(self) -> None:
        """A client that closes leaves at once."""
        bob, watcher = self.entered("bob"), self.subscribed("room")

        bob.closes()

        self.assert_told(watcher, action="presence.leave", clientId="bob", reason="left")

    def test_abrupt_loss(self) -> None:
        """A client that is lost stays for the grace period."""
        bob, watcher = self.entered("bob"), self.subscribed("room")
        bob.disappears()
        self.server.advance(9)
        self.assertEqual(self.members(), ["bob"])
        self.assert_silent(watcher)

        self.server.advance(3)

        self.assert_told(watcher, action="presence.leave", clientId="bob", reason="disconnected")

    def test_anonymous_loss(self) -> None:
        """So does an anonymous one, though it can't come back."""
        client, watcher = self.connected(), self.subscribed("room")
        client.says({"action": "presence.enter", "channel": "room"})
        watcher.take()
        client.disappears()
        self.assert_silent(watcher)

        self.server.advance(12)

        self.assert_told(watcher, action="presence.leave", reason="disconnected")

    def test_return(self) -> None:
        """A client that comes back in time never left, and is told of the others again."""
        bob, watcher = self.entered("bob", {"a": 1}), self.subscribed("room")
        bob.disappears()
        self.server.advance(5)
        bob = self.connected(client_id="bob")
        self.server.advance(30)
        bob.take()
        watcher.take()
        self.assertEqual(self.members(), ["bob"])

        self.entered("eve")

        self.assert_told(bob, action="presence.enter", clientId="eve")
        bob.closes()
        self.assert_actions(watcher, "presence.enter", "presence.leave")

    def test_return_by_token(self) -> None:
        """The same for a client with a JWT, that resumes."""
        token = self.server.token(sub="bob")
        bob, watcher = self.connected(token=token), self.subscribed("room")
        bob.says({"action": "presence.enter", "channel": "room"})
        self.assert_actions(watcher, "presence.enter")
        bob.disappears()

        bob = self.connected(token=token)
        bob.says({"action": "resume", "positions": {}}, {"action": "presence.update", "channel": "room", "data": {}})
        self.server.advance(9)

        self.assertEqual([e["action"] for e in watcher.take()], ["presence.update"])

    def test_somebody_else_does_not_return(self) -> None:
        """Another client's coming changes nothing."""
        self.entered("bob").disappears()
        self.connected(client_id="eve")

        self.server.advance(12)

        self.assertEqual(self.members(), [])

    def test_two_connections(self) -> None:
        """A client with two connections leaves with the last one."""
        first, second, watcher = self.entered("bob"), self.connected(client_id="bob"), self.subscribed("room")
        second.says({"action": "presence.enter", "channel": "room"})
        watcher.take()

        first.closes()
        self.assert_silent(watcher)
        second.closes()

        self.assert_told(watcher, action="presence.leave", clientId="bob")

    def test_no_grace(self) -> None:
        """Without a grace period a loss is a leave at once."""
        self.server = self.serve(Config(presence=Presence(grace_seconds=0)))
        bob, watcher = self.entered("bob"), self.subscribed("room")

        bob.disappears()

        self.assert_told(watcher, action="presence.leave", reason="disconnected")
