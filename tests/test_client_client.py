"""Tests of what a user of the client sees, over a connection."""

from __future__ import annotations

from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred

from tests.test_client_peer import ClientTestCase
from wsock.client import ClientError, Member, Position, Receipt
from wsock.errors import Code, Refused


class ConnectTests(ClientTestCase):
    def test_says_who_it_is(self) -> None:
        """The URL carries the key and that this client is ours."""
        self.connected()

        self.assertEqual(self.net.peer.query, {"key": ["demo"], "client": ["wsock/1"]})

    def test_escapes_the_token(self) -> None:
        """A token goes into the URL in a form that arrives as it was."""
        self.connected(token="a+b/c=&d")

        self.assertEqual(self.net.peer.query["token"], ["a+b/c=&d"])

    def test_takes_one_credential(self) -> None:
        """Neither none nor two of key and token are accepted."""
        with self.assertRaises(ValueError):
            self.client(key=None)
        with self.assertRaises(ValueError):
            self.client(token="t", key="k")

    def test_asks_for_a_token_on_each_connection(self) -> None:
        """A callable supplies every connection with a token of its own; it may take its time."""
        tokens: list[Deferred[str]] = []

        def renew() -> Deferred[str]:
            tokens.append(Deferred())
            return tokens[-1]

        connecting = self.client(token=renew).connect()
        self.assertNoResult(connecting)
        tokens[0].callback("one")
        self.successResultOf(connecting)
        self.reconnect()
        tokens[1].callback("two")

        self.assertEqual([peer.query["token"] for peer in self.net.peers], [["one"], ["two"]])

    def test_a_token_that_can_not_be_had(self) -> None:
        """It is told, and tried again."""

        def broken() -> str:
            raise KeyError("vault")

        connecting = self.client(token=broken).connect()

        self.assertNoResult(connecting)
        self.assertEqual(self.errors, ["token"])
        self.clock.advance(1)
        self.assertEqual(self.errors, ["token", "token"])

    def test_backs_off(self) -> None:
        """A server that can't be reached is tried again, each time later."""
        self.net.is_down = True
        connecting = self.client().connect()

        self.clock.advance(1)
        self.assertEqual(self.net.attempts, 2)
        self.clock.advance(1.9)
        self.assertEqual(self.net.attempts, 2)
        self.net.is_down = False
        self.clock.advance(0.1)

        self.successResultOf(connecting)
        self.assertEqual(self.errors, ["connection", "connection"])

    def test_honours_retry_after(self) -> None:
        """A refusal for now says when to come again."""
        for code in (Code.RATE_LIMITED, Code.UNAVAILABLE):
            self.net.refusals.append(Refused(code, "later", retry_after=7))
        connecting = self.client().connect()

        self.clock.advance(6.9)
        self.assertEqual(self.net.attempts, 1)
        self.clock.advance(0.1)
        self.assertEqual(self.net.attempts, 2)
        self.clock.advance(7)

        self.successResultOf(connecting)
        self.assertEqual(self.errors, ["rate_limited", "unavailable"])

    def test_stops_when_refused_for_good(self) -> None:
        """A key that is not accepted is not tried again, and everything that was asked fails with the reason."""
        for code, status in ((Code.UNAUTHORIZED, 401), (Code.FORBIDDEN, 403)):
            self.net.refusals.append(Refused(code, "unknown key"))
            client = self.client()
            publishing = client.channel("chat").publish("x")
            error = self.failureResultOf(client.connect(), ClientError).value

            self.assertEqual((error.code, error.status, error.text), (code, status, "unknown key"))
            self.assertEqual(self.failureResultOf(publishing, ClientError).value.code, code)
            self.assertEqual(self.failureResultOf(client.channel("chat").publish("x"), ClientError).value.code, code)
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_tries_a_new_token_when_refused(self) -> None:
        """A refused token is no end where the next one may be better."""
        self.net.refusals.append(Refused(Code.UNAUTHORIZED, "expired"))
        tokens = iter(["old", "new"])
        connecting = self.client(token=lambda: next(tokens)).connect()

        self.clock.advance(1)

        self.successResultOf(connecting)
        self.assertEqual(self.net.peer.query["token"], ["new"])

    def test_is_a_service(self) -> None:
        """It lives as long as its parent runs."""
        parent = MultiService()
        client = self.client()
        client.setServiceParent(parent)

        parent.startService()
        self.assertTrue(client.is_connected)
        stopping = parent.stopService()
        self.net.peer.flush()

        self.successResultOf(stopping)
        self.assertEqual(self.net.peer.close_code, 1000)


class CloseTests(ClientTestCase):
    def test_closes_normally(self) -> None:
        """The server sees a normal close; ``close`` waits for the end, and no timer is left."""
        client = self.connected()
        publishing = client.channel("chat").publish("x")

        closing = client.close()
        self.assertNoResult(closing)
        self.net.peer.flush()

        self.successResultOf(closing)
        self.assertEqual(self.net.peer.close_code, 1000)
        self.assertEqual(self.failureResultOf(publishing, ClientError).value.code, "closed")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_does_not_wait_for_ever(self) -> None:
        """A server that does not answer the close is left after some seconds."""
        client = self.connected()
        self.net.peer.is_mute = True

        closing = client.close()
        self.net.peer.flush()
        self.assertNoResult(closing)
        self.clock.advance(5)
        self.net.peer.flush()

        self.successResultOf(closing)

    def test_while_it_waits_for_the_next_attempt(self) -> None:
        """Closing ends the waiting."""
        self.net.is_down = True
        client = self.client()
        connecting = client.connect()

        self.successResultOf(client.close())

        self.assertEqual(self.failureResultOf(connecting, ClientError).value.code, "closed")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_in_the_moment_of_connecting(self) -> None:
        """A user may close as soon as it is connected, in the same breath."""
        client = self.client()
        closing: list[Deferred[None]] = []
        client.connect().addCallback(lambda _: closing.append(client.close()))

        self.net.peer.flush()

        self.successResultOf(closing[0])

    def test_twice_and_before_the_start(self) -> None:
        """Closing is idempotent; a client that was closed may be connected again."""
        client = self.client()
        self.successResultOf(client.close())
        self.successResultOf(client.connect())
        both = [client.close(), client.close()]
        self.net.peer.flush()
        for closing in both:
            self.successResultOf(closing)

    def test_while_a_token_is_awaited(self) -> None:
        """Closing does not wait for a token."""
        never: Deferred[str] = Deferred()
        client = self.client(token=lambda: never)
        connecting = client.connect()

        self.successResultOf(client.close())
        self.failureResultOf(connecting, ClientError)


class LivenessTests(ClientTestCase):
    def test_pings(self) -> None:
        """Every 25 seconds the server is asked whether it is there."""
        self.connected()
        self.clock.pump([5] * 10)
        self.assertEqual(self.net.peer.asked(), [{"action": "ping"}] * 2)

    def test_leaves_a_dead_server(self) -> None:
        """After 60 seconds without a byte the connection is given up, and another one made."""
        self.connected()
        self.net.peer.asked()

        self.clock.pump([5] * 12)
        self.net.peer.flush()
        self.assertTrue(self.net.peer.is_lost)
        self.clock.advance(1)

        self.assertEqual(len(self.net.peers), 2)

    def test_stays_with_a_quiet_server(self) -> None:
        """A heartbeat now and then is enough."""
        self.connected()
        for _ in range(5):
            self.clock.pump([5] * 10)
            self.net.peer.says("pong")
        self.assertEqual(len(self.net.peers), 1)

    def test_moves(self) -> None:
        """Asked to connect anew, it closes after the delay and resumes at once."""
        client = self.connected()
        self.subscribed(client, sequence=4)
        first = self.net.peer
        first.says("reconnect", delay=1500)

        self.clock.advance(1.4)
        self.assertFalse(first.is_lost)
        first.message("chat", 5)
        self.clock.advance(0.1)
        first.flush()
        self.clock.advance(0)

        self.assertEqual(first.close_code, 1000)
        self.assertEqual(
            self.net.peer.asked(), [{"action": "resume", "positions": {"chat": {"epoch": "E", "sequence": 5}}}]
        )

    def test_connections_that_do_not_last_back_off(self) -> None:
        """A server that accepts and hangs up is not hammered."""
        self.connected()
        self.net.peer.vanishes()
        self.clock.advance(1)
        self.net.peer.vanishes()
        self.clock.advance(1)
        self.assertEqual(self.net.attempts, 2)
        self.clock.advance(1)
        self.assertEqual(self.net.attempts, 3)

    def test_a_handshake_that_does_not_end(self) -> None:
        """A server that accepts the connection and says nothing is left."""
        self.net.is_mute = True
        connecting = self.client().connect()

        self.clock.advance(10)
        self.net.peer.flush()

        self.assertEqual(self.errors, ["connection"])
        self.assertNoResult(connecting)


class MessageTests(ClientTestCase):
    def test_a_message(self) -> None:
        """Callbacks get the message, with its data parsed on demand and its text as it was."""
        client = self.connected()
        got: list[Any] = []
        client.channel("chat").on_message(got.append)
        self.subscribed(client)

        self.net.peer.message("chat", 1, {"n": 123456789012345678901234567890})

        (message,) = got
        self.assertEqual(message.data, {"n": 123456789012345678901234567890})
        self.assertEqual(bytes(message.raw), b'{"n":123456789012345678901234567890}')
        self.assertEqual((message.id, message.timestamp, message.publisher_id), ("m1", 1001, "p"))

    def test_a_callback_that_fails(self) -> None:
        """It is logged, the others are called, and the message counts as delivered."""
        client = self.connected()
        client.channel("chat").on_message(lambda message: message.data["x"])
        self.subscribed(client)

        self.net.peer.message("chat", 1, {})

        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertEqual(self.received, [1])
        self.assertEqual(client.positions, {"chat": Position("E", 1)})

    def test_a_coroutine_function_is_no_callback(self) -> None:
        """What would never be awaited is refused at once."""

        async def callback(message: object) -> None:
            """Never called."""

        with self.assertRaises(TypeError):
            self.client().channel("chat").on_message(callback)

    def test_a_callback_may_be_removed(self) -> None:
        """What ``on_message`` returns ends it."""
        client = self.connected()
        self.subscribed(client)
        got: list[Any] = []
        remove = client.channel("chat").on_message(got.append)
        remove()
        self.net.peer.message("chat", 1)
        self.assertEqual(got, [])

    def test_names_are_checked(self) -> None:
        """A name that no channel can have is refused without asking the server."""
        with self.assertRaises(ClientError) as caught:
            self.client().channel("")
        self.assertEqual(caught.exception.code, "channel_name")

    def test_resumes(self) -> None:
        """After a reset it goes on from what was delivered, and delivers what was missed, in order and once."""
        client = self.connected()
        self.subscribed(client, sequence=7)
        self.net.peer.message("chat", 8)

        peer = self.reconnect()
        self.assertFalse(client.is_connected)
        self.assertEqual(peer.asked(), [{"action": "resume", "positions": {"chat": {"epoch": "E", "sequence": 8}}}])
        peer.subscribed("chat", 8)
        peer.resumed("chat")
        for sequence in (9, 10, 10, 11):
            peer.message("chat", sequence)

        self.assertTrue(client.is_connected)
        self.assertEqual(self.received, [8, 9, 10, 11])
        self.assertEqual((self.lost, self.errors), ([], []))

    def test_a_callback_may_publish_and_close(self) -> None:
        """Callbacks may use the client they are called by."""
        client = self.connected()
        self.subscribed(client)
        results: list[Any] = []

        def answer(message: object) -> None:
            results.append(client.channel("chat").publish("re", id="r"))
            results.append(client.close())

        client.channel("chat").on_message(answer)
        self.net.peer.message("chat", 1)

        self.assertEqual([r["action"] for r in self.net.peer.asked()], ["publish"])
        self.failureResultOf(results[0], ClientError)
        self.successResultOf(results[1])


class RequestTests(ClientTestCase):
    def test_publish(self) -> None:
        """The ack is the receipt."""
        client = self.connected()

        publishing = client.channel("chat").publish({"text": "hi"}, persist=False)
        (request,) = self.net.peer.asked()
        self.net.peer.says("ack", id=request["id"], channel="chat", timestamp=5, sequence=6)

        self.assertEqual(request["data"], {"text": "hi"})
        self.assertIs(request["persist"], False)
        self.assertEqual(self.successResultOf(publishing), Receipt(request["id"], "chat", 5, 6))

    def test_publish_is_repeated_with_its_id(self) -> None:
        """A publish whose ack was lost with the connection is made again, with the same id and in the same order."""
        client = self.connected()
        publishing = [client.channel("chat").publish(n) for n in range(3)]
        before = self.net.peer.asked()

        peer = self.reconnect()

        self.assertEqual(peer.asked(), before)
        for number, request in enumerate(before):
            peer.says("ack", id=request["id"], channel="chat", timestamp=1, sequence=number)
        self.assertEqual([self.successResultOf(p).sequence for p in publishing], [0, 1, 2])

    def test_publish_times_out(self) -> None:
        """It is not repeated for ever."""
        client = self.connected()
        publishing = client.channel("chat").publish("x", timeout=3)

        self.clock.advance(3)

        self.assertEqual(self.failureResultOf(publishing, ClientError).value.code, "timeout")
        self.assertEqual(self.reconnect().asked(), [])

    def test_history(self) -> None:
        """A page of messages."""
        client = self.connected()
        reading = client.channel("chat").history(limit=2, before=9)
        (request,) = self.net.peer.asked()
        entry = {"id": "a", "channel": "chat", "data": 1, "publisherId": "p", "timestamp": 3, "sequence": 2}
        nested = {"channel": "chat", "messages": [entry], "hasMore": True}
        self.net.peer.says("history", channel="chat", data=nested, messages=[entry], hasMore=True)

        page = self.successResultOf(reading)
        self.assertEqual(
            request, {"action": "history", "channel": "chat", "limit": 2, "before": 9, "direction": "backward"}
        )
        self.assertEqual(([m.data for m in page.messages], page.has_more), ([1], True))

    def test_members(self) -> None:
        """A list of members that comes in parts is one list."""
        client = self.connected()
        asking = client.channel("chat").presence.get()
        self.net.peer.asked()
        for name, has_more in (("ann", True), ("bob", False)):
            members = [{"clientId": name, "data": {"a": 1}, "joinedAt": 5}]
            self.net.peer.says("presence.members", channel="chat", data=members, members=members, hasMore=has_more)

        self.assertEqual(self.successResultOf(asking), [Member("ann", {"a": 1}, 5), Member("bob", {"a": 1}, 5)])

    def test_presence_changes(self) -> None:
        """Callbacks are told who came, changed and went."""
        client = self.connected()
        got: list[Any] = []
        client.channel("chat").presence.on_change(got.append)
        who = {"clientId": "ann", "data": {"a": 1}, "joinedAt": 5}
        for kind, more in (("enter", {}), ("update", {}), ("leave", {"reason": "left"})):
            self.net.peer.says(f"presence.{kind}", channel="chat", **who | more | {"data": who | {"a": 1}})

        self.assertEqual([(c.kind, c.reason) for c in got], [("enter", None), ("update", None), ("leave", "left")])
        self.assertEqual(got[0].member, Member("ann", {"a": 1}, 5))

    def test_a_token_that_expires(self) -> None:
        """A live connection gets the next token."""
        tokens = iter(["one", "two"])
        self.connected(token=lambda: next(tokens))

        self.net.peer.says("error", error="expired", code="token_expired")

        self.assertEqual(self.net.peer.asked(), [{"action": "auth", "token": "two"}])
        self.assertEqual(self.errors, [])

    def test_a_fixed_token_that_expires(self) -> None:
        """The user is told."""
        self.connected(token="one")
        self.net.peer.says("error", error="expired", code="token_expired")
        self.assertEqual(self.errors, ["token_expired"])

    def test_a_resume_that_fails(self) -> None:
        """The connection is given up and tried again, no sooner than the server wants."""
        client = self.connected()
        self.subscribed(client)
        peer = self.reconnect()
        peer.says("error", error="redis is away", code="unavailable", retryAfter=9)
        peer.flush()

        self.assertTrue(peer.is_lost)
        self.assertEqual(self.errors, ["unavailable"])
        self.clock.advance(8.9)
        self.assertIs(self.net.peer, peer)
        self.clock.advance(0.1)
        self.assertEqual(self.net.peer.asked()[0]["action"], "resume")

    def test_presence(self) -> None:
        """Membership is asked for, with the data, and restored after a reconnect as it was last."""
        presence = self.connected().channel("chat").presence
        asked = [presence.enter({"a": 1}), presence.update({"a": 2})]
        for _ in asked:
            self.net.peer.asked()
            self.net.peer.resumed()
        for deferred in asked:
            self.successResultOf(deferred)

        peer = self.reconnect()
        enter = {"action": "presence.enter", "channel": "chat", "data": {"a": 2}}
        self.assertEqual(peer.asked()[0], enter)
        peer.resumed()
        leaving = presence.leave()
        self.assertEqual(peer.asked()[0], {"action": "presence.leave", "channel": "chat"})
        peer.resumed()
        self.successResultOf(leaving)

    def test_unsubscribe(self) -> None:
        """The server is told, and answers."""
        client = self.connected()
        self.subscribed(client)
        ending = client.channel("chat").unsubscribe()
        self.assertEqual(self.net.peer.asked(), [{"action": "unsubscribe", "channel": "chat"}])
        self.net.peer.says("unsubscribed", channel="chat")
        self.successResultOf(ending)

    def test_losses_are_told(self) -> None:
        """What can't be recovered is told by channel."""
        client = self.connected()
        self.subscribed(client)
        peer = self.reconnect()
        peer.subscribed("chat", 0, "F")
        peer.resumed(lost=("chat",))
        self.assertEqual(self.lost, ["chat"])

    def test_a_token_that_can_not_be_renewed(self) -> None:
        """It is told; the connection stays until the server ends it."""
        tokens = iter(["one"])
        client = self.connected(token=lambda: next(tokens))
        self.net.peer.says("error", error="expired", code="token_expired")
        self.assertEqual(self.errors, ["token"])
        self.assertTrue(client.is_connected)

    def test_a_renewal_ends_with_its_connection(self) -> None:
        """A token that comes too late is not sent, nor is its absence told."""
        late: Deferred[str] = Deferred()
        tokens = iter(["one", late, "two"])
        self.connected(token=lambda: next(tokens))
        self.net.peer.says("error", error="expired", code="token_expired")
        self.assertEqual(self.reconnect().query["token"], ["two"])
        self.assertEqual(self.errors, [])

    def test_a_move_is_forgotten_with_its_connection(self) -> None:
        """A connection that ends before it was to be left leaves no timer behind."""
        client = self.connected()
        self.net.peer.says("reconnect", delay=60000)
        self.net.peer.says("reconnect", delay=60000)
        self.reconnect()
        self.successResultOf(self.closed(client))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def closed(self, client: Any) -> Deferred[None]:
        """Closes the client."""
        closing: Deferred[None] = client.close()
        self.net.peer.flush()
        return closing
