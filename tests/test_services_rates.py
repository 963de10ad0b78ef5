"""Tests of wsock.services.rates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from tests.base import SynchronousTestCase
from tests.rate_cases import LOADS, WINDOWS, CountingCounters, RateRun, SlowCounters
from wsock.backends.memory_counters import MemoryCounters
from wsock.errors import Code, Refused, Unavailable
from wsock.interfaces import ICounters
from wsock.protocol.rates import Rate, Rates
from wsock.services.limits import Tally
from wsock.services.rates import RateLimiter


@dataclass
class Outcomes:
    """What became of publishes, by their names: in the order in which it was known."""

    admitted: list[str] = field(default_factory=list)
    refused: dict[str, Refused] = field(default_factory=dict)


class LimiterCase(SynchronousTestCase):
    """The vocabulary of these tests."""

    rates: Rates | None = Rates(app=Rate(5, 10.0, 5))

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.tally = Tally()
        self.counters: Any = CountingCounters(MemoryCounters())
        self.limiter = self.make()
        self.outcomes = Outcomes()

    def make(self) -> RateLimiter:
        return RateLimiter(self.counters, self.clock.seconds, lambda app: self.rates, self.tally)

    def admits(self, channel: str = "room", user: str | None = "bob", app: str = "app") -> bool:
        """Whether a publish is admitted at once."""
        try:
            return self.limiter.admit(app, channel, user) is None
        except Refused:
            return False

    def refusal(self, channel: str = "room", user: str | None = "bob") -> Refused:
        refused: Refused = self.assertRaises(Refused, self.limiter.admit, "app", channel, user)
        return refused

    def publish(self, name: str, channel: str = "room", user: str | None = "bob") -> None:
        """A publish whose outcome is kept."""
        try:
            waiting = self.limiter.admit("app", channel, user)
        except Refused as e:
            self.outcomes.refused[name] = e
            return
        if waiting is None:
            self.outcomes.admitted.append(name)
            return
        waiting.addCallbacks(
            lambda _: self.outcomes.admitted.append(name),
            lambda failure: self.outcomes.refused.update({name: failure.value}),
        )


class LimitsTests(LimiterCase):
    """What is admitted."""

    def test_no_limits(self) -> None:
        """An app without rates has no limits, and nothing is counted."""
        for rates in (None, Rates(), Rates(channels=(("chat:*", Rate(1)),))):
            self.rates = rates
            self.assertTrue(all(self.admits() for _ in range(1000)))
        self.assertEqual(self.counters.leases, 0)

    def test_burst(self) -> None:
        """The burst is admitted at once, and not one more, whatever its size."""
        for burst in (1, 2, 10, 100, 1000):
            self.rates = Rates(app=Rate(burst, 10.0, burst))
            self.assertEqual(sum(self.admits(app=f"app-{burst}") for _ in range(burst + 50)), burst)

    def test_refusal(self) -> None:
        """A refusal names the setting and what it allows, and says when to try again."""
        self.rates = Rates(app=Rate(5, 10.0, 5))
        for _ in range(5):
            self.admits()
        self.clock.advance(4)

        refused = self.refusal()

        self.assertEqual((refused.code, refused.retry_after), (Code.RATE_LIMITED, 6))
        text = "limits.app_publish_rate allows 5 messages in 10 s in this app: try again in 6 s"
        self.assertEqual(refused.text, text)

    def test_refused_until_then(self) -> None:
        """While there is no room, nobody asks for any; whoever waits as long as it was told is admitted."""
        for _ in range(6):
            self.admits()
        leases = self.counters.leases
        for _ in range(100):
            self.assertFalse(self.admits())
        self.assertEqual(self.counters.leases, leases)

        wait = self.refusal().retry_after
        assert wait is not None
        self.clock.advance(wait)
        self.assertTrue(self.admits())

    def test_scopes(self) -> None:
        """An app, a channel and a user each have a limit, and the refusal says whose it is."""
        self.rates = Rates(Rate(9, 10.0, 9), Rate(3, 10.0, 3), (("chat:*", Rate(5, 10.0, 5)),))
        self.assertEqual([self.admits("chat:1", "ann") for _ in range(4)], [True] * 3 + [False])
        self.assertIn("limits.user_publish_rate", self.refusal("chat:1", "ann").text)
        self.assertEqual([self.admits("chat:1", "bob") for _ in range(3)], [True] * 2 + [False])
        self.assertIn("limits.channel_publish_rate", self.refusal("chat:1", "bob").text)
        self.assertEqual([self.admits("chat:2", None) for _ in range(5)], [True] * 4 + [False])
        self.assertIn("limits.app_publish_rate", self.refusal("news", None).text)
        self.assertEqual(self.tally.refused, {"user": 2, "channel": 2, "app": 2})

    def test_refusals_take_nothing(self) -> None:
        """What a user may not send leaves the app as much as before."""
        self.rates = Rates(Rate(5, 10.0, 5), Rate(1, 10.0, 1))
        self.assertTrue(self.admits(user="ann"))
        for _ in range(100):
            self.assertFalse(self.admits(user="ann"))

        self.assertEqual(sum(self.admits(user=f"user-{n}") for n in range(10)), 4)

    def test_tenants_never_meet(self) -> None:
        """Apps have their own limits, channels and users."""
        for app in ("a", "b"):
            self.assertEqual(sum(self.admits(app=app) for _ in range(10)), 5)

    def test_observed(self) -> None:
        """What is only observed is admitted and counted apart; by an app's setting, or by the server's."""
        self.rates = Rates(Rate(2), Rate(1), is_enforced=False)
        self.assertTrue(all(self.admits() for _ in range(10)))
        self.assertEqual((self.tally.refused, self.tally.observed), ({}, {"app": 8, "user": 9}))

        self.rates, self.tally = Rates(Rate(2)), Tally(is_enforced=False)
        self.limiter = self.make()
        self.assertTrue(all(self.admits(app="other") for _ in range(10)))
        self.assertEqual((self.tally.refused, self.tally.observed), ({}, {"app": 8}))

    def test_other_rates(self) -> None:
        """New rates hold from the next publish on, and what was counted stays counted."""
        self.assertEqual(sum(self.admits() for _ in range(10)), 5)
        self.rates = Rates(app=Rate(8, 10.0, 8))
        self.assertEqual(sum(self.admits() for _ in range(10)), 3)
        self.rates = None
        self.assertTrue(all(self.admits() for _ in range(10)))

    def test_equal_rates(self) -> None:
        """Rates that are made anew and say the same change nothing."""
        for _ in range(4):
            self.assertTrue(self.admits())
            self.rates = Rates(app=Rate(5, 10.0, 5))
        self.assertEqual(sum(self.admits() for _ in range(10)), 1)

    def test_clock_set_back(self) -> None:
        """A wall clock that is set back locks nobody out for longer than a window."""
        self.assertEqual(sum(self.admits() for _ in range(10)), 5)
        self.clock.rightNow -= 900
        self.assertFalse(self.admits())
        self.clock.advance(10.1)

        self.assertEqual(sum(self.admits() for _ in range(10)), 5)

    def test_broken_counters(self) -> None:
        """Nobody is refused because counting fails: a fault is logged, an outage is the counters' to tell of."""
        for error, logged in ((Unavailable("away"), 0), (KeyError("bug"), 5)):
            self.counters = SlowCounters()
            self.counters.fails_with = error
            self.limiter = self.make()
            for n in range(5):
                self.publish(f"{logged}-{n}")
                self.counters.answer_all()
            self.assertEqual(len(self.flushLoggedErrors(KeyError)), logged)
        self.assertEqual((len(self.outcomes.admitted), self.outcomes.refused), (10, {}))


class LeaseTests(LimiterCase):
    """What the counters are asked for."""

    def test_block_grows_with_use(self) -> None:
        """A node that uses much of a limit asks for a 32nd of that at a time."""
        self.rates = Rates(app=Rate(3200))
        for _ in range(5 * 3000):
            self.assertTrue(self.admits())
            self.clock.advance(1 / 3000)
        leases = self.counters.leases
        for _ in range(3000):
            self.assertTrue(self.admits())
            self.clock.advance(1 / 3000)

        self.assertTrue(30 <= self.counters.leases - leases <= 40, self.counters.leases - leases)

    def test_one_at_a_time(self) -> None:
        """A node that uses little of a limit takes nothing away that others could use."""
        self.rates = Rates(app=Rate(100))
        other = self.make()
        for _ in range(50):
            self.assertTrue(self.admits())
            self.clock.advance(0.1)
        admitted = 0
        for _ in range(150):
            try:
                admitted += other.admit("app", "room", None) is None
            except Refused:
                continue

        # The nine that this node used in the last second are counted, and nothing more.
        self.assertEqual(admitted, 91)

    def test_ahead_of_need(self) -> None:
        """A node in full swing never waits: it asks for more before it has nothing left."""
        self.counters = SlowCounters()
        self.rates = Rates(app=Rate(1000))
        self.limiter = self.make()
        waited = 0
        for n in range(3000):
            waiting = self.limiter.admit("app", "room", None)
            waited += n > 1000 and waiting is not None
            if n % 4 == 0:
                self.counters.answer_all()
            self.clock.advance(1 / 900)

        self.assertEqual(waited, 0)

    def test_left_over(self) -> None:
        """What was leased and not used is forgotten with its window."""
        self.rates = Rates(app=Rate(1000))
        for _ in range(900):
            self.admits()
        for _ in range(3):
            self.clock.advance(1.01)
            self.assertEqual(sum(self.admits() for _ in range(2000)), 1000)

    def test_idle_ones_are_forgotten(self) -> None:
        """However many users and channels there were: those of the last windows are kept."""
        self.rates = Rates(None, Rate(5), (("chat:*", Rate(5)),))
        for n in range(20_000):
            self.admits(f"chat:{n}", f"user-{n}", app=f"app-{n % 7}")
            self.admits(f"news:{n}", None, app=f"app-{n % 7}")
            self.clock.advance(0.01)

        self.assertLess(len(self.limiter), 5000)
        self.clock.advance(5)
        for _ in range(5000):
            self.admits("chat:0", "user", app="app")
            self.clock.advance(0.01)
        self.assertEqual(len(self.limiter), 3)


class WaitingTests(LimiterCase):
    """While an answer is under way."""

    rates: Rates | None = Rates(app=Rate(5, 10.0, 5), user=Rate(3, 10.0, 3))

    def setUp(self) -> None:
        super().setUp()
        self.counters = SlowCounters()
        verifyObject(ICounters, self.counters)
        self.limiter = self.make()

    def test_first_publishes_wait(self) -> None:
        """The first publishes wait until it is known whether they are within the limits; those beyond are refused."""
        for n in range(8):
            self.publish(str(n), user=None)
        self.assertEqual(self.outcomes, Outcomes())

        self.counters.answer_all()

        self.assertEqual(self.outcomes.admitted, ["0", "1", "2", "3", "4"])
        self.assertEqual(list(self.outcomes.refused), ["5", "6", "7"])
        self.assertEqual(self.counters.wanted, [("app:", 1), ("app:", 7)])
        refused = self.outcomes.refused["7"]
        self.assertEqual((refused.code, refused.retry_after), (Code.RATE_LIMITED, 10))

    def test_order(self) -> None:
        """Publishes of a client to a channel are admitted in their order, whichever limit is answered first."""
        for n in range(3):
            self.publish(str(n))
        self.counters.answer()
        self.publish("3")
        self.counters.answer()
        self.publish("4")
        self.counters.answer_all()

        self.assertEqual(self.outcomes.admitted, ["0", "1", "2"])
        self.assertEqual(list(self.outcomes.refused), ["3", "4"])

    def test_given_back(self) -> None:
        """What a refused publish took of an earlier limit goes to one that waits for it."""
        for n in range(4):
            self.publish(f"bob-{n}", user="bob")
        self.counters.answer_all()
        self.assertEqual(list(self.outcomes.refused), ["bob-3"])

        for n in range(3):
            self.publish(f"ann-{n}", user="ann")
        self.counters.answer_all()

        self.assertEqual([name for name in self.outcomes.admitted if name.startswith("ann")], ["ann-0", "ann-1"])

    def test_rates_change_meanwhile(self) -> None:
        """Those who wait go through the limits as they were, and no later one overtakes them."""
        self.publish("first")
        self.rates = Rates(app=Rate(2, 10.0, 2))
        self.publish("second")
        self.rates = None
        self.publish("third")
        self.assertEqual(self.outcomes, Outcomes())
        self.counters.answer_all()
        self.rates = Rates(app=Rate(3, 10.0, 3))
        self.publish("fourth")
        self.counters.answer_all()

        self.assertEqual(self.outcomes.admitted, ["first", "second", "third"])
        self.assertEqual(list(self.outcomes.refused), ["fourth"])

    def test_publishes_again_when_told(self) -> None:
        """Whoever is told may publish at once, from within."""
        waiting = self.limiter.admit("app", "room", None)
        assert waiting is not None

        def publish(_: None) -> None:
            for n in range(6):
                self.publish(str(n), user=None)

        waiting.addCallback(publish)
        self.counters.answer_all()

        self.assertEqual(self.outcomes.admitted, ["0", "1", "2", "3"])
        self.assertEqual(list(self.outcomes.refused), ["4", "5"])

    @settings(max_examples=150)
    @given(
        st.lists(
            st.one_of(
                st.tuples(st.sampled_from("ab"), st.sampled_from("xy")),
                st.integers(1, 3),
                st.floats(0, 0.4),
            ),
            max_size=80,
        ),
        st.tuples(st.integers(1, 12), st.integers(1, 8), st.integers(1, 8)),
    )
    def test_anything(self, steps: list[Any], limits: tuple[int, int, int]) -> None:
        """Whatever comes when: everything is decided, in order, and no window has more than its limits.

        What a later limit refused is given back, and may come later in the window than it was counted.
        """
        self.setUp()
        app, user, channel = limits
        self.rates = Rates(Rate(app), Rate(user), (("*", Rate(channel)),))
        asked: list[tuple[str, str, str]] = []
        decided_at: dict[str, float] = {}
        for step in [*steps, 0.0]:
            if isinstance(step, tuple):
                asked.append((str(len(asked)), *step))
                self.publish(*asked[-1])
            elif isinstance(step, int):
                self.counters.answer(min(step, len(self.counters.held)))
            else:
                self.counters.answer_all()
                decided_at = {name: self.clock.seconds() for name in self.outcomes.admitted} | decided_at
                self.clock.advance(step)

        self.assertEqual(len(self.outcomes.admitted) + len(self.outcomes.refused), len(asked))
        for of_user in "xy":
            for of_channel in "ab":
                names = [name for name, ch, us in asked if (ch, us) == (of_channel, of_user)]
                order = [name for name in self.outcomes.admitted if name in names]
                self.assertEqual(order, sorted(order, key=int))
        spare = [sum(f".{scope}_" in r.text for r in self.outcomes.refused.values()) for scope in ("channel", "user")]
        self._assert_within(decided_at, {name for name, *_ in asked}, app + sum(spare))
        for letter in "xy":
            self._assert_within(decided_at, {name for name, _, us in asked if us == letter}, user)
        for letter in "ab":
            self._assert_within(decided_at, {name for name, ch, _ in asked if ch == letter}, channel + spare[1])

    def _assert_within(self, decided_at: dict[str, float], names: set[str], limit: int) -> None:
        times = sorted(at for name, at in decided_at.items() if name in names)
        most = max((sum(t <= other < t + 31 / 32 - 1e-6 for other in times) for t in times), default=0)
        self.assertLessEqual(most, limit)


class SustainedTests(SynchronousTestCase):
    """The rate that lasts, on two nodes and on ten that share counters."""

    def test_sustained_rate(self) -> None:
        """A limit of 100/s that is exceeded for 29.5 s lets 2,950 through within 3 %, in windows of every length."""
        for window in WINDOWS:
            for load in LOADS:
                rate = window.rate.events / window.rate.seconds
                shared = MemoryCounters()
                run = RateRun([shared] * len(load), window.rate)

                came = self.successResultOf(run.run(window.run_seconds, [part * rate for part in load]))

                self.assertLess(abs(came - 2950), 2950 * 0.03, f"{window} {load}")
                self.assertLessEqual(run.most(window.rate.window_seconds), window.most, f"{window} {load}")

    def test_below_the_limit(self) -> None:
        """Nobody is refused below the limit, however the load is spread."""
        for load in ((45.0, 45.0), (88.0, 2.0), (9.0,) * 10):
            run = RateRun([MemoryCounters()] * len(load), Rate(100))

            came = self.successResultOf(run.run(29.5, load))

            self.assertEqual(came, sum(round(29.5 * part) for part in load), load)
