"""Tests of wsock.services.delivery, by a clock and a network that is not there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from itertools import count
from typing import Any

from msgspec.structs import replace
from standardwebhooks import Webhook
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tests.base import SynchronousTestCase
from tests.test_services_signing import OLD_SECRET, SECRET
from wsock.backends.memory_directory import MemoryDirectory
from wsock.backends.memory_outbox import MemoryOutbox
from wsock.errors import Unavailable
from wsock.interfaces import (
    Account,
    App,
    Blocked,
    Delivery,
    DeliveryQuery,
    DeliveryState,
    NotSent,
    Reply,
    Verdict,
)
from wsock.records import Endpoint
from wsock.services.delivery import Delivering, Terms
from wsock.services.signing import message_id
from wsock.testing.contracts.outbox import make_row
from wsock.testing.fakes import Now

START = 1_700_000_000.0
RETRIES = (1.0, 2.0, 4.0)


@dataclass(eq=False)
class Post:
    """A request that waits for its answer."""

    url: str
    headers: Mapping[str, str]
    body: bytes
    answered: Deferred[Reply]
    at: float

    @property
    def id(self) -> str:
        """What the receiver knows it by."""
        return self.headers["webhook-id"]

    @property
    def n(self) -> Any:
        """What the test put into the event."""
        return json.loads(self.body)["data"]["n"]


class Network:
    """Keeps the requests. ``answer`` answers them at once; without it they wait."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.posts: list[Post] = []
        self.answer: Any = None
        self.cancelled = 0

    async def post(self, url: str, headers: dict[str, str], body: bytes, **how: Any) -> Reply:
        """See Sending."""
        assert how == {"guard": True, "kind": "webhooks", "timeout_seconds": 20.0, "max_body": 1024}, how
        post = Post(url, headers, body, Deferred(self._cancel), self.clock.seconds())
        self.posts.append(post)
        if self.answer is not None:
            answers(post, self.answer(post))
        return await post.answered

    def _cancel(self, _: Deferred[Reply]) -> None:
        self.cancelled += 1

    def waiting(self, url: str = "") -> list[Post]:
        """The requests to URLs that begin so which were not answered."""
        return [post for post in self.posts if not post.answered.called and post.url.startswith(url)]


def answers(post: Post, outcome: int | Exception | tuple[int, dict[str, str]]) -> None:
    """The receiver answers: a status, perhaps with headers, or why there is none."""
    if isinstance(outcome, Exception):
        post.answered.errback(Failure(outcome))
        return
    status, headers = (outcome, {}) if isinstance(outcome, int) else outcome
    post.answered.callback(Reply(status=status, headers=headers, body=b"te\0xt\xff", seconds=0.25))


class FlakyOutbox(MemoryOutbox):
    """An outbox that is away while ``is_away``, and counts its calls."""

    is_away = False
    claims = 0
    settles = 0
    scans = 0

    async def agenda(self, after: str, limit: int) -> Any:
        self.scans += 1
        self._check()
        return await super().agenda(after, limit)

    async def claim(self, owner: str, endpoint: str, now: float, lease_seconds: float, limit: int) -> list[Delivery]:
        self.claims += 1
        self._check()
        return await super().claim(owner, endpoint, now, lease_seconds, limit)

    async def settle(self, owner: str, verdicts: Sequence[Verdict]) -> None:
        self.settles += 1
        self._check()
        await super().settle(owner, verdicts)

    def _check(self) -> None:
        if self.is_away:
            raise Unavailable("away")


class DeliveryCase(SynchronousTestCase):
    """A node that delivers, for two apps."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.now = Now(self.clock, START)
        self.directory = MemoryDirectory()
        self.outbox = FlakyOutbox()
        self.network = Network(self.clock)
        self.numbers = count()
        for id in ("app", "other"):
            account = Account(id=id, email=f"{id}@localhost", password_hash="", created_at=0)
            self.successResultOf(self.directory.create(App(id=id, name=id, created_at=0), [], account))
        self.delivering = self.make()
        self.delivering.startService()
        self.addCleanup(self.stop)

    def make(self, owner: str = "node", **terms: Any) -> Delivering:
        """A node; retries come exactly when they are due."""
        terms = {"retry_seconds": RETRIES, **terms}
        middle = lambda size: bytes([128]) * size  # noqa: E731
        network, directory = self.network, self.directory
        return Delivering(self.outbox, directory, network, self.clock, self.now, owner, middle, Terms(**terms))

    def stop(self) -> None:
        """Ends the node, if it runs."""
        if self.delivering.running:
            ended = Deferred.fromCoroutine(_wait(self.delivering.stopService()))
            self.clock.pump([1.0] * 8)
            self.successResultOf(ended)

    def use(self, **terms: Any) -> None:
        """Has another node in place of the first."""
        self.stop()
        self.delivering = self.make(**terms)
        self.delivering.startService()

    def endpoint(self, id: str = "endpoint", app: str = "app", **fields: Any) -> Endpoint:
        """Adds an endpoint."""
        fields = {"url": f"https://{id}.example/", "secret": SECRET, **fields}
        endpoint = Endpoint(id=id, app=app, created_at=0, **fields)
        self.successResultOf(self.directory.add_endpoint(endpoint))
        return endpoint

    def add(
        self, n: int = 1, endpoint: str = "endpoint", app: str = "app", channel: str = "room", **flags: bool
    ) -> None:
        """Adds so many events, each with its number."""
        rows = []
        for _ in range(n):
            number = next(self.numbers)
            data = b'{"n":%d}' % number
            row = make_row(f"e{number}", app=app, channel=channel, data=data, endpoint=endpoint, created=self.now())
            rows.append(replace(row, **flags))
        self.successResultOf(self.outbox.add(rows))
        self.delivering.wake()
        self.clock.advance(0.1)

    def all(self, *states: DeliveryState, endpoint: str = "endpoint") -> list[Delivery]:
        """What there is in the outbox, the oldest first."""
        query = DeliveryQuery(endpoint=endpoint, states=states or ("pending", "done", "dead"))
        items: list[Delivery] = self.successResultOf(self.outbox.page(query, None, 1000)).items
        return items[::-1]

    def pass_time(self, seconds: float, step: float = 0.1) -> None:
        """Time passes."""
        for _ in range(round(seconds / step)):
            self.clock.advance(step)


async def _wait(done: Deferred[None]) -> None:
    await done


class AttemptTests(DeliveryCase):
    """One delivery, and what its receiver says."""

    def setUp(self) -> None:
        super().setUp()
        self.endpoint()

    def test_delivered(self) -> None:
        """What was added is posted at once, signed, and is done when the receiver says so."""
        self.add()

        [post] = self.network.posts
        self.assertEqual(post.url, "https://endpoint.example/")
        self.assertTrue(post.headers["webhook-signature"].startswith("v1,"))
        self.assertEqual(json.loads(post.body)["data"], {"n": 0, "appId": "app", "channel": "room"})
        self.assertEqual(len(self.all("pending")), 1)

        answers(post, 204)
        [done] = self.all("done")
        [attempt] = done.attempts
        self.assertEqual((attempt.status, attempt.milliseconds, attempt.error), (204, 250, ""))
        self.assertEqual(attempt.body, "text\ufffd")
        self.assertEqual(self.delivering.delivered, 1)
        self.pass_time(100, 1)
        self.assertEqual(len(self.network.posts), 1)

    def test_both_secrets(self) -> None:
        """While the secret is being rotated, requests are signed with both, by what stands in the directory then."""
        stored = self.successResultOf(self.directory.find(Endpoint, "endpoint"))
        until = int(self.now() * 1000) + 60_000
        changed = replace(stored, old_secret=OLD_SECRET, old_secret_until=until)
        self.successResultOf(self.directory.replace(changed))
        self.add()

        self.assertEqual(len(self.network.posts[0].headers["webhook-signature"].split()), 2)

    def test_retries(self) -> None:
        """It is tried again after each of the times, with the same id and body, signed anew, and then given up."""
        self.network.answer = lambda post: 500
        self.add()
        self.pass_time(30)

        posts = self.network.posts
        self.assertEqual([int(post.at - posts[0].at) for post in posts], [0, 1, 3, 7])
        self.assertEqual(len({(post.id, post.body) for post in posts}), 1)
        self.assertEqual(len({post.headers["webhook-timestamp"] for post in posts}), 4)
        [dead] = self.all("dead")
        self.assertEqual([attempt.status for attempt in dead.attempts], [500] * 4)
        self.assertEqual((self.delivering.failed, self.delivering.dead), (4, 1))

    def test_jitter(self) -> None:
        """Retries come a fifth sooner or later."""
        for byte, delay in ((0, 8.0), (255, 12.0)):
            self.use(retry_seconds=(10.0,))
            self.delivering._random = lambda size, byte=byte: bytes([byte]) * size  # type: ignore[misc]
            self.network.posts.clear()
            self.add()
            [post] = self.network.posts
            answers(post, 500)

            [pending] = self.all("pending")
            self.assertAlmostEqual(pending.due - self.now(), delay)
            self.pass_time(13)
            answers(self.network.posts[-1], 200)

    def test_no_answer(self) -> None:
        """When there is no answer, why stands in the log, and it is tried again."""
        self.network.answer = lambda post: NotSent("connection refused")
        self.add()
        self.network.answer = lambda post: 200
        self.pass_time(2)

        [done] = self.all("done")
        first, second = done.attempts
        self.assertEqual((first.status, first.error, second.status), (0, "connection refused", 200))

    def test_blocked(self) -> None:
        """A URL that is never asked is given up at once, and the owner sees why."""
        self.network.answer = lambda post: Blocked("the host has the address 10.0.0.1, which is not public")
        self.add()

        [dead] = self.all("dead")
        self.assertIn("10.0.0.1", dead.attempts[0].error)
        self.pass_time(30)
        self.assertEqual(len(self.network.posts), 1)

    def test_redirect(self) -> None:
        """A redirect is a failure that says so."""
        self.network.answer = lambda post: 301
        self.add()

        [pending] = self.all()
        self.assertIn("redirects", pending.attempts[0].error)

    def test_gone(self) -> None:
        """410 switches the endpoint off; what waits is given up, and comes when it is on again and asked for."""
        self.add(3)
        first = self.network.posts[0]
        self.network.answer = lambda post: 200
        answers(first, 410)

        stored = self.successResultOf(self.directory.find(Endpoint, "endpoint"))
        self.assertEqual((stored.is_enabled, stored.disabled_at is None), (False, False))
        self.assertIn("410", stored.disabled_reason)
        self.assertEqual(len(self.all("dead")), 1)
        self.add(2)
        dead = self.all("dead")
        self.assertEqual(len(dead), 3)
        self.assertIn("410", dead[-1].attempts[-1].error)

        self.successResultOf(self.directory.replace(replace(stored, is_enabled=True)))
        self.successResultOf(self.delivering.forget())
        query = DeliveryQuery(endpoint="endpoint", states=("dead",))
        self.successResultOf(self.outbox.redeliver(query, self.now(), 10))
        self.delivering.wake()
        self.pass_time(1)
        self.assertEqual(len(self.all("done")), 3)

    def test_retry_after(self) -> None:
        """A busy receiver says when, in seconds or by a date, a day at most; others have nothing to say."""
        for status, text, delay in (
            (429, "30", 30.0),
            (503, "30", 30.0),
            (503, formatdate(START + 500, usegmt=True), None),
            (429, "0", 1.0),
            (429, "99999999999", 86_400.0),
            (429, "soon", 1.0),
            (429, "-5", 1.0),
            (500, "30", 1.0),
        ):
            self.network.posts.clear()
            self.add()
            answers(self.network.posts[-1], (status, {"retry-after": text}))
            pending = self.all("pending")[-1]
            wanted = START + 500 - self.now() if delay is None else delay
            self.assertAlmostEqual(pending.due - self.now(), wanted, 1, text)

    def test_endpoint_is_gone(self) -> None:
        """What was to be told to an endpoint that is deleted is deleted."""
        self.successResultOf(self.directory.remove(Endpoint, "endpoint"))
        self.add(5)

        self.assertEqual(self.all(), [])
        self.assertEqual(self.network.posts, [])

    def test_unusable_event(self) -> None:
        """An event of which no request can be made is given up, and holds up nobody."""
        self.successResultOf(self.outbox.add([make_row("bad", data=b"nonsense", created=self.now())]))
        self.add()

        self.assertEqual(len(self.all("dead")), 1)
        self.assertEqual([post.n for post in self.network.posts], [0])
        self.flushLoggedErrors()

    def test_redelivery(self) -> None:
        """What is asked for again comes with the same id and a fresh schedule."""
        self.network.answer = lambda post: 500
        self.add()
        self.pass_time(30)
        self.network.answer = lambda post: 200
        query = DeliveryQuery(endpoint="endpoint", states=("dead",))
        self.assertEqual(self.successResultOf(self.outbox.redeliver(query, self.now(), 10)), 1)
        self.delivering.wake()
        self.pass_time(1)

        [done] = self.all()
        self.assertEqual((done.state, done.tries, len(done.attempts)), ("done", 1, 5))
        self.assertEqual(len({post.id for post in self.network.posts}), 1)


class TurnTests(DeliveryCase):
    """How much is sent at once, and whose turn it is."""

    def test_per_endpoint(self) -> None:
        """An endpoint has four requests under way; an answer makes room for the next, without waiting for a timer."""
        self.endpoint()
        self.add(100)
        self.assertEqual(len(self.network.posts), 4)

        for expected in range(5, 101):
            answers(self.network.waiting()[0], 200)
            self.assertEqual(len(self.network.posts), expected)
        for post in self.network.waiting():
            answers(post, 200)
        self.assertEqual(len(self.all("done")), 100)
        self.assertEqual(len({post.id for post in self.network.posts}), 100)

    def test_overall(self) -> None:
        """All endpoints together have so many requests under way."""
        self.use(at_once=6)
        for id in ("a", "b", "c"):
            self.endpoint(id)
            self.add(4, id)

        self.assertEqual(len(self.network.waiting()), 6)
        answers(self.network.waiting()[0], 200)
        self.assertEqual(len(self.network.waiting()), 6)

    def test_apps_take_turns(self) -> None:
        """An app with many endpoints and a backlog has no more than its share."""
        self.use(at_once=8)
        for number in range(20):
            self.endpoint(f"busy{number:02}")
            self.add(50, f"busy{number:02}")
        self.endpoint("quiet", "other")
        self.add(8, "quiet", "other")

        sent = []
        for _ in range(24):
            post = self.network.waiting()[0]
            answers(post, 200)
            sent.append(self.network.posts[-1].url)
        self.assertEqual(sum("quiet" in url for url in sent), 8)

    def test_endpoints_take_turns(self) -> None:
        """In an app, an endpoint with a backlog does not keep the others waiting."""
        self.use(at_once=4)
        self.endpoint("a")
        self.add(50, "a")
        self.endpoint("b")
        self.add(4, "b")
        for _ in range(8):
            answers(self.network.waiting()[0], 200)

        self.assertGreaterEqual(sum(post.url.startswith("https://b") for post in self.network.posts), 3)

    def test_slow_receiver(self) -> None:
        """A receiver that does not answer keeps the other ones waiting in nothing."""
        self.endpoint("slow")
        self.endpoint("fast")
        self.add(50, "slow")
        self.network.answer = lambda post: 200 if "fast" in post.url else None
        self.network.answer = None
        self.add(50, "fast")
        for _ in range(50):
            answers(self.network.waiting("https://fast")[0], 200)

        self.assertEqual(len(self.all("done", endpoint="fast")), 50)

    def test_claimed_ahead_is_bounded(self) -> None:
        """What was claimed and waits for its turn is bounded, whatever the number of endpoints."""
        self.use(at_once=10)
        for number in range(100):
            self.endpoint(f"e{number:02}")
            rows = [make_row(f"{number}-{n}", endpoint=f"e{number:02}", created=self.now()) for n in range(40)]
            self.successResultOf(self.outbox.add(rows))
        self.delivering.wake()
        self.pass_time(1)

        leased = 0
        for number in range(100):
            leased += sum(one.due > self.now() for one in self.all("pending", endpoint=f"e{number:02}"))
        self.assertLess(leased, 10 + 4 * 10 + 8 * 32)

    def test_late_turn(self) -> None:
        """What comes to its turn too late for its lease is put back, and nothing is counted."""
        self.endpoint()
        self.add(5)
        self.assertEqual(len(self.network.posts), 4)
        self.clock.advance(75)
        answers(self.network.posts[0], 200)
        self.pass_time(1)

        self.assertEqual(len(self.network.posts), 5)
        fifth = self.all()[4]
        self.assertEqual((fifth.tries, fifth.attempts), (0, ()))
        self.assertGreater(fifth.due, self.now() + 80)

    def test_host_without_time(self) -> None:
        """What waits for its host until the lease is nearly over counts as a failure."""
        self.endpoint()
        self.add()
        self.clock.advance(85)

        self.assertEqual(self.network.cancelled, 1)
        [pending] = self.all()
        self.assertIn("no time", pending.attempts[0].error)
        self.assertGreater(pending.due, self.now())


class OrderTests(DeliveryCase):
    """Endpoints that are told in order."""

    def test_one_at_a_time(self) -> None:
        """In a channel the next one goes out when the one before arrived or was given up; channels go side by side."""
        self.endpoint()
        self.add(2, channel="a", ordered=True)
        self.add(2, channel="b", ordered=True)
        self.assertEqual([post.n for post in self.network.posts], [0, 2])

        answers(self.network.posts[0], 200)
        self.assertEqual([post.n for post in self.network.posts], [0, 2, 1])
        answers(self.network.posts[1], 500)
        self.pass_time(1.2)
        self.assertEqual([post.n for post in self.network.posts], [0, 2, 1, 2])
        self.network.answer = lambda post: 500
        answers(self.network.posts[3], 500)
        self.pass_time(8)
        self.assertEqual([post.n for post in self.network.posts][4:7], [2, 2, 3])

    def test_in_order_whatever_fails(self) -> None:
        """Where a third fails, the receiver takes everything in order."""
        self.endpoint()
        self.use(retry_seconds=(0.2,) * 10)
        taken: list[int] = []
        tries = count(1)

        def answer(post: Post) -> int:
            if next(tries) % 3 == 0:
                return 503
            taken.append(post.n)
            return 200

        self.network.answer = answer
        self.add(60, ordered=True)
        self.pass_time(60)

        self.assertEqual(taken, list(range(60)))


class BatchTests(DeliveryCase):
    """Endpoints that are told several events at once."""

    def test_batch(self) -> None:
        """What comes within a moment is told at once, and again as the same bytes under the same id."""
        self.endpoint()
        self.add(3, batched=True)
        self.pass_time(0.3)
        [post] = self.network.posts
        self.assertEqual([one["data"]["n"] for one in json.loads(post.body)["data"]["events"]], [0, 1, 2])

        self.add(1, batched=True)
        answers(post, 500)
        self.pass_time(1.5)
        same = [one for one in self.network.posts if one.id == post.id]
        self.assertEqual([one.body for one in same], [post.body] * 2)
        self.assertEqual(len(self.network.posts), 3)

        for one in self.network.waiting():
            answers(one, 200)
        self.assertEqual(len(self.all("done")), 4)

    def test_never_across_endpoints(self) -> None:
        """A batch is one endpoint's, so it is one app's."""
        self.endpoint("a")
        self.endpoint("b", "other")
        self.add(2, "a", batched=True)
        self.add(2, "b", "other", batched=True)
        self.pass_time(0.3)

        apps = [(post.url, json.loads(post.body)["data"]["appId"]) for post in self.network.posts]
        self.assertEqual(sorted(apps), [("https://a.example/", "app"), ("https://b.example/", "other")])

    def test_backlog(self) -> None:
        """A backlog goes out batch by batch."""
        self.endpoint()
        self.network.answer = lambda post: 200
        self.add(250, batched=True)
        self.pass_time(1)

        sizes = [len(json.loads(post.body)["data"]["events"]) for post in self.network.posts]
        self.assertEqual(sum(sizes), 250)
        self.assertLess(len(sizes), 15)


class BreakerTests(DeliveryCase):
    """Receivers that fail are left alone."""

    def setUp(self) -> None:
        super().setUp()
        self.endpoint()
        self.use(retry_seconds=(0.3,) * 1000)
        self.network.answer = lambda post: 500

    def open(self) -> None:
        """Twenty attempts fail."""
        self.add(30)
        self.assertGreaterEqual(len(self.network.posts), 20)
        self.assertLess(len(self.network.posts), 25)
        self.network.posts.clear()

    def test_opens(self) -> None:
        """After twenty failures nothing is sent for a while; what was claimed is put back, and nothing is counted."""
        self.open()
        self.pass_time(9)

        self.assertEqual(self.network.posts, [])
        deliveries = self.all("pending")
        self.assertEqual(len(deliveries), 30)
        untried = [one for one in deliveries if not one.attempts]
        self.assertTrue(untried)
        self.assertEqual({one.tries for one in untried}, {0})
        self.assertLess(max(one.due for one in untried), self.now() + 5)

    def test_probe(self) -> None:
        """Then one is sent; while that fails the pause doubles, to a quarter of an hour."""
        self.open()
        self.pass_time(2000)

        times = [post.at for post in self.network.posts]
        pauses = [round(later - earlier) for earlier, later in zip(times, times[1:], strict=False)]
        self.assertEqual(pauses[:6], [20, 40, 80, 160, 320, 640])

    def test_longest_pause(self) -> None:
        """It doubles no further."""
        self.open()
        self.pass_time(5000, 1.0)

        times = [post.at for post in self.network.posts]
        self.assertAlmostEqual(times[-1] - times[-2], 900, delta=3)

    def test_closes(self) -> None:
        """When the probe arrives, everything else goes out."""
        self.open()
        self.network.answer = None
        self.pass_time(12)
        [probe] = self.network.posts
        self.network.answer = lambda post: 200
        answers(probe, 200)
        self.pass_time(2)

        self.assertEqual(len(self.all("done")), 30)

    def test_rate(self) -> None:
        """Where every fifth arrives it stays closed."""
        tries = count(1)
        self.network.answer = lambda post: 200 if next(tries) % 5 == 0 else 500
        self.add(100)
        self.pass_time(20)

        self.assertEqual(len(self.all("done")), 100)

    def test_only_that_endpoint(self) -> None:
        """Other endpoints of the app go on."""
        self.open()
        self.endpoint("other")
        self.add(1, "other")

        self.assertEqual(len(self.network.posts), 1)


class OutageTests(DeliveryCase):
    """A store that is away, nodes that end."""

    def setUp(self) -> None:
        super().setUp()
        self.endpoint()

    def test_away(self) -> None:
        """While the store is away nothing is sent; when it is back, everything is, once."""
        self.outbox.is_away = True
        self.add(3)
        self.pass_time(10)
        self.assertEqual(self.network.posts, [])

        self.outbox.is_away = False
        self.pass_time(6)
        self.assertEqual(len(self.network.posts), 3)

    def test_away_when_it_arrived(self) -> None:
        """What arrived while the store was away is settled when it is back, and not sent again."""
        self.add(3)
        self.outbox.is_away = True
        for post in self.network.waiting():
            answers(post, 200)
        self.pass_time(10)
        self.outbox.is_away = False
        self.pass_time(200, 1)

        self.assertEqual(len(self.all("done")), 3)
        self.assertEqual(len(self.network.posts), 3)

    def test_dead_node(self) -> None:
        """What a node had claimed when it died is another's when the lease ends, with the same id."""
        self.stop()
        row = make_row("1", data=b'{"n":1}', created=self.now())
        self.successResultOf(self.outbox.add([row]))
        [lost] = self.successResultOf(self.outbox.claim("dead", "endpoint", self.now(), 90.0, 1))

        self.delivering = self.make("alive")
        self.delivering.startService()
        self.pass_time(89, 1)
        self.assertEqual(self.network.posts, [])
        self.pass_time(6, 1)

        self.assertEqual([post.id for post in self.network.posts], [message_id([lost])])

    def test_node_that_is_alone(self) -> None:
        """What the only node had claimed when it died is due as soon as it is back, when the store is."""
        self.stop()
        self.successResultOf(self.outbox.add([make_row("1", data=b'{"n":1}', created=self.now())]))
        self.successResultOf(self.outbox.claim("dead", "endpoint", self.now(), 90.0, 1))
        self.outbox.is_away = True

        self.delivering = self.make("alive")
        self.delivering._has_begun = False
        self.delivering.startService()
        self.pass_time(6)
        self.outbox.is_away = False
        self.pass_time(6)

        self.assertEqual([post.n for post in self.network.posts], [1])

    def test_stop(self) -> None:
        """What was not sent yet is put back at once; what is under way may end, and is settled."""
        self.add(6)
        stopping = Deferred.fromCoroutine(_wait(self.delivering.stopService()))
        self.assertNoResult(stopping)
        for post in self.network.posts:
            answers(post, 200)
        self.successResultOf(stopping)

        self.assertEqual(len(self.network.posts), 4)
        self.assertEqual(len(self.all("done")), 4)
        self.assertEqual([one.due <= self.now() for one in self.all("pending")], [True, True])

    def test_stop_without_an_answer(self) -> None:
        """What does not end in time is given up, to be sent by somebody else."""
        self.add(1)
        stopping = Deferred.fromCoroutine(_wait(self.delivering.stopService()))
        self.pass_time(4)
        self.successResultOf(stopping)

        self.assertEqual(self.network.cancelled, 1)
        [pending] = self.all("pending")
        self.assertEqual((pending.tries, pending.due <= self.now()), (0, True))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_two_nodes(self) -> None:
        """Two nodes share the work, and send nothing twice."""
        second = self.make("second")
        second.startService()
        self.network.answer = lambda post: 200
        self.add(200)
        second.wake()
        self.pass_time(10)

        self.assertEqual(len(self.network.posts), 200)
        self.assertEqual(len({post.id for post in self.network.posts}), 200)
        self.successResultOf(_stopped(second, self.clock))

    def test_quiet(self) -> None:
        """With nothing to do it looks every few seconds, and claims nothing."""
        self.network.answer = lambda post: 200
        self.add()
        self.outbox.claims = self.outbox.scans = 0
        self.pass_time(60)

        self.assertEqual(self.outbox.claims, 0)
        self.assertLessEqual(self.outbox.scans, 13)

    def test_many_wakes(self) -> None:
        """Being woken a hundred times makes it look a few times."""
        self.outbox.scans = 0
        for _ in range(100):
            self.delivering.wake()
            self.clock.advance(0.001)
        self.clock.advance(0.1)

        self.assertLessEqual(self.outbox.scans, 3)

    def test_expire(self) -> None:
        """What was settled a week ago is deleted."""
        self.network.answer = lambda post: 200
        self.add(3)
        self.clock.advance(7 * 86_400 - 1)
        self.successResultOf(self.delivering.expire())
        self.assertEqual(len(self.all("done")), 3)
        self.clock.advance(2)
        self.successResultOf(self.delivering.expire())

        self.assertEqual(self.all(), [])

    def test_signed(self) -> None:
        """What goes out is what the standard's library verifies."""
        self.add()
        [post] = self.network.posts
        headers = {**post.headers, "webhook-timestamp": post.headers["webhook-timestamp"]}

        signature = Webhook(SECRET).sign(post.id, _at(headers["webhook-timestamp"]), post.body.decode())

        self.assertEqual(headers["webhook-signature"], signature)


def _at(timestamp: str) -> Any:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(int(timestamp), UTC)


def _stopped(delivering: Delivering, clock: Clock) -> Deferred[None]:
    stopping = Deferred.fromCoroutine(_wait(delivering.stopService()))
    clock.pump([1.0] * 8)
    return stopping
