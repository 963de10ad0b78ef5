"""Tests of :mod:`wsock.protocol.session`."""

from __future__ import annotations

from typing import Any

from tests.base import SynchronousTestCase
from wsock.errors import CloseCode, Code, Malformed, Refused
from wsock.protocol.codec import Codec, encode
from wsock.protocol.frames import ErrorEvent, Pong, Request
from wsock.protocol.session import Answer, End, Session, SessionLimits, error_event


class Ping(Request, frozen=True, tag="ping"):
    """A request that no rate limits."""


class Say(Request, frozen=True, tag="say"):
    """A request that counts."""

    channel: str = "chat"
    id: str | None = None


class Bare(Request, frozen=True, tag="bare"):
    """A request that counts and has neither channel nor id."""


CODEC = Codec((Ping, Say, Bare))
PING, SAY, BARE = b'{"action":"ping"}', b'{"action":"say","id":"i"}', b'{"action":"bare"}'
BAD, UNKNOWN = b"[]", b'{"action":"hello"}'
START = 1000.0


class SessionCase(SynchronousTestCase):
    """The vocabulary of these tests."""

    def session(self, expires_at: float | None = None, **limits: Any) -> Session:
        """A session that began at START."""
        return Session(CODEC, SessionLimits(**limits), START, expires_at)

    def assert_error(self, effect: object, code: Code) -> ErrorEvent:
        """The effect is an answer with an error of the code, and nothing else."""
        assert isinstance(effect, Answer), effect
        assert isinstance(effect.event, ErrorEvent), effect
        self.assertEqual(effect.event.code, code)
        return effect.event

    def assert_end(self, effect: object, code: CloseCode) -> End:
        """The effect ends the connection with the code."""
        assert isinstance(effect, End), effect
        self.assertEqual(effect.code, code)
        return effect


class ReceiveTests(SessionCase):
    """Texts that arrive."""

    def test_request(self) -> None:
        """A request is to be performed."""
        self.assertEqual(self.session().receive(SAY, START), Say("chat", "i"))

    def test_malformed(self) -> None:
        """A malformed text is answered with an error that names what could be read of it."""
        effect = self.session().receive(b'{"action":"say","channel":"c","id":7}', START)

        event = self.assert_error(effect, Code.BAD_REQUEST)
        self.assertEqual(event.channel, "c")
        self.assertIn("$.id", event.error)

    def test_unknown_action(self) -> None:
        """An unknown action is answered, never counted: SDKs to come may send some."""
        session = self.session()

        for _ in range(50):
            self.assert_error(session.receive(UNKNOWN, START), Code.UNKNOWN_ACTION)
        self.assertEqual(session.receive(PING, START), Ping())

    def test_ended(self) -> None:
        """Nothing that arrives after the end means anything, nor does time."""
        session = self.session(expires_at=START)
        session.end()

        self.assertIsNone(session.receive(SAY, START))
        self.assertIsNone(session.receive(BAD, START))
        self.assertIsNone(session.tick(START + 1000))
        self.assertIsNone(session.blame(Malformed("binary"), START))


class MalformedTests(SessionCase):
    """Too many malformed texts."""

    def bad(self, session: Session, times: int, now: float = START) -> object:
        """What the last of so many malformed texts means."""
        effect: object = None
        for _ in range(times):
            effect = session.receive(BAD, now)
        return effect

    def test_nine(self) -> None:
        """Nine in a minute are answered one by one."""
        session = self.session()

        self.assert_error(self.bad(session, 9), Code.BAD_REQUEST)
        self.assertEqual(session.receive(SAY, START), Say("chat", "i"))

    def test_ten(self) -> None:
        """The tenth in a minute ends the connection with 1008; it is answered too."""
        session = self.session()
        self.bad(session, 9)

        end = self.assert_end(session.receive(BAD, START + 59), CloseCode.POLICY)

        assert isinstance(end.event, ErrorEvent)
        self.assertEqual(end.event.code, Code.BAD_REQUEST)
        self.assertIn("10 malformed", end.reason)
        self.assertIsNone(session.receive(SAY, START + 59))
        self.assertIsNone(session.tick(START + 100))

    def test_old_ones_are_forgotten(self) -> None:
        """What is a minute old does not count."""
        session = self.session()
        self.bad(session, 9)

        self.assert_error(self.bad(session, 9, START + 60), Code.BAD_REQUEST)
        self.assert_error(self.bad(session, 9, START + 120), Code.BAD_REQUEST)
        self.assert_end(session.receive(BAD, START + 121), CloseCode.POLICY)

    def test_steady(self) -> None:
        """One each seven seconds never ends the connection, and the memory of them stays small."""
        session = self.session()

        for number in range(500):
            self.assert_error(session.receive(BAD, START + 7 * number), Code.BAD_REQUEST)
        self.assertLess(len(session._malformed or ()), 10)

    def test_good_ones_between(self) -> None:
        """Good texts do not make up for malformed ones."""
        session = self.session()
        for _ in range(9):
            self.bad(session, 1)
            session.receive(SAY, START)

        self.assert_end(self.bad(session, 1), CloseCode.POLICY)

    def test_blame(self) -> None:
        """A message that is malformed as a message counts like a malformed text."""
        session = self.session()
        self.bad(session, 8)

        self.assert_error(session.blame(Malformed("binary"), START), Code.BAD_REQUEST)
        self.assert_end(session.blame(Malformed("binary"), START), CloseCode.POLICY)

    def test_limit(self) -> None:
        """How many end it is a setting."""
        self.assert_end(self.bad(self.session(malformed=2), 2), CloseCode.POLICY)


class RateTests(SessionCase):
    """Requests a second."""

    def throttled(self, session: Session, now: float, text: bytes = SAY) -> float | None:
        """How long the client is told to wait; ``None`` when the request is performed."""
        effect = session.receive(text, now)
        if isinstance(effect, Request):
            return None
        wait = self.assert_error(effect, Code.RATE_LIMITED).retry_after
        assert isinstance(wait, float)
        return wait

    def test_no_limit(self) -> None:
        """Without a rate any number is performed."""
        session = self.session()

        self.assertEqual([self.throttled(session, START) for _ in range(1000)], [None] * 1000)

    def test_burst(self) -> None:
        """The burst is performed at once; the next is refused, with its channel, its id and the time to wait."""
        session = self.session(rate=2, burst=5)
        self.assertEqual([self.throttled(session, START) for _ in range(5)], [None] * 5)

        event = self.assert_error(session.receive(SAY, START), Code.RATE_LIMITED)

        self.assertEqual((event.channel, event.id, event.retry_after), ("chat", "i", 2.5))
        self.assertIn("more than 2 requests a second", event.error)
        self.assertIn("limits.connection_rate", event.error)

    def test_no_channel_to_name(self) -> None:
        """A refused request without channel and id is refused without them."""
        session = self.session(rate=1, burst=1)
        session.receive(BARE, START)

        event = self.assert_error(session.receive(BARE, START), Code.RATE_LIMITED)

        self.assertNotIn(b"channel", encode(event))
        self.assertNotIn(b'"id"', encode(event))

    def test_wait(self) -> None:
        """Whoever waits as long as told is served."""
        session = self.session(rate=4, burst=4)
        now = START
        for _ in range(40):
            wait = self.throttled(session, now)
            if wait is not None:
                now += wait
                self.assertIsNone(self.throttled(session, now))

    def test_sustained(self) -> None:
        """A limit of 100 a second that is always exceeded lets 2,950 through in 29.5 s, within 3 %, with any burst."""
        for burst in (1, 20, 100, 1000):
            session = self.session(rate=100, burst=burst)

            served = sum(self.throttled(session, START + tick / 400) is None for tick in range(int(400 * 29.5)))

            self.assertLess(abs(served - 2950), 2950 * 0.03, burst)

    def test_window(self) -> None:
        """No more than the burst is performed in any time in which the rate allows as many."""
        session = self.session(rate=10, burst=20)
        served = [t / 64 for t in range(64 * 20) if self.throttled(session, START + t / 64) is None]

        most = max(sum(t <= other < t + 2 for other in served) for t in served)

        self.assertEqual(most, 20)

    def test_slow(self) -> None:
        """Half a request a second is one in two seconds."""
        session = self.session(rate=0.5, burst=0.5)

        served = [t for t in range(10) if self.throttled(session, START + t) is None]

        self.assertEqual(served, [0, 2, 4, 6, 8])

    def test_observed(self) -> None:
        """When it is told to, a session performs what is beyond the rate, and tells of it."""
        told: list[str] = []

        def exceeded() -> bool:
            told.append("exceeded")
            return False

        session = self.session(rate=1, burst=2, exceeded=exceeded)

        self.assertEqual([self.throttled(session, START) for _ in range(5)], [None] * 5)
        self.assertEqual(len(told), 3)

    def test_idle(self) -> None:
        """However long nothing came, no more than the burst is performed at once."""
        session = self.session(rate=10, burst=20)

        served = [self.throttled(session, START + 3600) is None for _ in range(50)]

        self.assertEqual(sum(served), 20)

    def test_ping_is_free(self) -> None:
        """Pings are neither limited nor counted."""
        session = self.session(rate=1, burst=1)
        for _ in range(100):
            self.assertEqual(session.receive(PING, START), Ping())

        self.assertIsNone(self.throttled(session, START))
        self.assertIsNotNone(self.throttled(session, START))
        self.assertEqual(session.receive(PING, START), Ping())

    def test_throttled_is_not_malformed(self) -> None:
        """Being too fast never ends the connection."""
        session = self.session(rate=1, burst=1)

        for _ in range(100):
            session.receive(SAY, START)
        self.assertIsNone(self.throttled(session, START + 1))


class HeartbeatTests(SessionCase):
    """Silence towards the client."""

    def test_silence(self) -> None:
        """A pong goes to a client that was sent nothing for 20 s, and again after 20 more."""
        session = self.session()

        effects = [session.tick(START + second) for second in range(0, 61, 5)]

        pong = Answer(Pong())
        self.assertEqual([5 * i for i, effect in enumerate(effects) if effect == pong], [20, 40, 60])
        self.assertEqual(len([effect for effect in effects if effect is not None]), 3)

    def test_sent(self) -> None:
        """What was sent counts from the tick after it."""
        session = self.session()
        session.tick(START + 15)
        session.sent = True

        self.assertIsNone(session.tick(START + 20))
        self.assertFalse(session.sent)
        self.assertIsNone(session.tick(START + 39))
        self.assertEqual(session.tick(START + 40), Answer(Pong()))

    def test_busy(self) -> None:
        """A client that is sent something all the time needs no heartbeat."""
        session = self.session()

        for second in range(0, 300, 5):
            session.sent = True
            self.assertIsNone(session.tick(START + second))

    def test_received_is_not_sent(self) -> None:
        """What the client sends does not count: it is the client that reconnects after silence."""
        session = self.session()
        session.receive(SAY, START + 19)

        self.assertEqual(session.tick(START + 20), Answer(Pong()))

    def test_period(self) -> None:
        """The period is a setting."""
        session = self.session(heartbeat_seconds=5)

        self.assertIsNone(session.tick(START + 4.9))
        self.assertEqual(session.tick(START + 5), Answer(Pong()))


class ExpiryTests(SessionCase):
    """Credentials that expire."""

    def test_warned_and_ended(self) -> None:
        """The client is warned once when its credential expires, and 30 s later the connection ends with 4401."""
        session = self.session(expires_at=START + 100, heartbeat_seconds=1000)

        self.assertIsNone(session.tick(START + 99.9))
        event = self.assert_error(session.tick(START + 100), Code.TOKEN_EXPIRED)
        self.assertIn("'auth'", event.error)
        self.assertIsNone(session.tick(START + 110))
        self.assertIsNone(session.tick(START + 129.9))
        end = self.assert_end(session.tick(START + 130), CloseCode.TOKEN_EXPIRED)
        self.assertIsNone(end.event)
        self.assertIsNone(session.tick(START + 135))
        self.assertIsNone(session.receive(SAY, START + 135))

    def test_grace_counts_from_the_warning(self) -> None:
        """A tick that comes late delays the end, not shortens the grace."""
        session = self.session(expires_at=START)
        self.assert_error(session.tick(START + 50), Code.TOKEN_EXPIRED)

        self.assertIsNone(session.tick(START + 79))
        self.assert_end(session.tick(START + 80), CloseCode.TOKEN_EXPIRED)

    def test_lives_while_warned(self) -> None:
        """Requests are still requests in the grace: ``auth`` among them."""
        session = self.session(expires_at=START)
        session.tick(START)

        self.assertEqual(session.receive(SAY, START + 1), Say("chat", "i"))

    def test_renewed(self) -> None:
        """A renewed credential cancels the end, and expires in its own time with a warning of its own."""
        session = self.session(expires_at=START + 10, heartbeat_seconds=1000)
        self.assert_error(session.tick(START + 10), Code.TOKEN_EXPIRED)

        session.renew(START + 100)

        self.assertIsNone(session.tick(START + 45))
        self.assert_error(session.tick(START + 100), Code.TOKEN_EXPIRED)
        self.assertIsNone(session.tick(START + 129))
        self.assert_end(session.tick(START + 130), CloseCode.TOKEN_EXPIRED)

    def test_renewed_for_ever(self) -> None:
        """A credential may also expire no more."""
        session = self.session(expires_at=START, heartbeat_seconds=10_000)
        session.tick(START)

        session.renew(None)

        self.assertIsNone(session.tick(START + 5000))

    def test_no_expiry(self) -> None:
        """A credential without an end never expires."""
        session = self.session(heartbeat_seconds=float("inf"))

        self.assertIsNone(session.tick(START + 1e9))

    def test_malformed_while_warned(self) -> None:
        """Too many malformed texts end a warned session as well."""
        session = self.session(expires_at=START, malformed=1)
        session.tick(START)

        self.assert_end(session.receive(BAD, START + 1), CloseCode.POLICY)
        self.assertIsNone(session.tick(START + 30))


class ErrorEventTests(SynchronousTestCase):
    """The frame that tells of a refusal."""

    def test_bare(self) -> None:
        """A refusal is its text and code; nothing is null."""
        event = error_event(Refused(Code.FORBIDDEN, "no"))

        self.assertEqual(encode(event), b'{"action":"error","error":"no","code":"forbidden"}')

    def test_full(self) -> None:
        """It may name the channel, the id and the seconds to wait."""
        event = error_event(Refused(Code.RATE_LIMITED, "no", retry_after=2), channel="c", id="i")

        self.assertEqual(
            encode(event),
            b'{"action":"error","error":"no","code":"rate_limited","channel":"c","id":"i","retryAfter":2}',
        )

    def test_empty_names(self) -> None:
        """An empty channel or id is told as such."""
        event = error_event(Refused(Code.CHANNEL_NAME, "no"), channel="", id="")

        self.assertEqual(encode(event), b'{"action":"error","error":"no","code":"channel_name","channel":"","id":""}')
