"""Tests of wsock.services.webhooks."""

from __future__ import annotations

import base64
import os
from typing import Any

from msgspec.structs import replace

from tests.app_cases import AppsCase
from wsock.backends.memory_outbox import MemoryOutbox
from wsock.errors import Code, Conflict, Refused
from wsock.interfaces import Attempt, Blocked, Delivery, Event, OutboxRow, Verdict
from wsock.records import App, Endpoint
from wsock.services.webhooks import MAX_OVERLAP_SECONDS, TEST, Webhooks

URL = "https://hooks.example.org/in?a=1"


def check_url(url: str) -> None:
    """Blocks what is not HTTPS."""
    if not url.startswith("https://"):
        raise Blocked("it takes https")


class WebhooksCase(AppsCase):
    """The service, and an outbox in memory; ``woken`` counts the calls of ``wake``."""

    def setUp(self) -> None:
        super().setUp()
        self.store = MemoryOutbox()
        self.woken = 0
        self.webhooks = Webhooks(self.directory, self.audit, self.now, os.urandom, self.store, check_url, self.wake)

    def wake(self) -> None:
        self.woken += 1

    def create(self, *events: str, by: str = "dev", **given: Any) -> Endpoint:
        """A new endpoint of the shop."""
        return self.done(self.webhooks.create(self.actors[by], "shop", URL, events, **given)).endpoint

    def assert_said_no(self, work: Any, code: Code) -> str:
        """The text of the refusal."""
        error = self.failureResultOf(work, Refused).value
        self.assertEqual(error.code, code, error.text)
        return str(error.text)

    def add(self, endpoint: Endpoint, *numbers: int) -> None:
        """Something to be told, at these seconds."""
        rows = [
            OutboxRow(Event(id=f"e{n}", app="shop", channel="c", type="x", data=b"{}"), endpoint.id, float(n))
            for n in numbers
        ]
        self.done(self.store.add(rows))

    def settle(self, endpoint: Endpoint, state: Any) -> None:
        """What is due was attempted, and is settled so."""
        for delivery in self.done(self.store.claim("me", endpoint.id, 1e12, 60, 100)):
            attempt = Attempt(1.0, 5, 500, "sorry")
            self.done(self.store.settle("me", [Verdict(id=delivery.id, state=state, at=2.0, attempt=attempt)]))

    def deliveries(self, endpoint: Endpoint, *states: Any) -> list[Delivery]:
        page = self.done(self.webhooks.deliveries(self.actors["vera"], "shop", endpoint.id, states, None, 100))
        return list(page.items)


class EndpointTests(WebhooksCase):
    """Making, changing and deleting endpoints."""

    def test_created(self) -> None:
        """An endpoint has what was given, and a secret of 32 bytes that only its maker sees."""
        made = self.done(
            self.webhooks.create(
                self.actors["dev"],
                "shop",
                URL,
                ["presence.*", "message.published", "presence.*"],
                channels="room:*",
                is_ordered=True,
                description="Orders",
            )
        )

        stored = self.get(Endpoint, made.endpoint.id)
        self.assertEqual((stored.secret, stored.app, stored.url), (made.secret, "shop", URL))
        self.assertEqual(stored.events, ("presence.*", "message.published"))
        self.assertEqual((stored.channels, stored.is_ordered, stored.is_batched), ("room:*", True, False))
        self.assertEqual((stored.is_enabled, stored.description), (True, "Orders"))
        self.assertTrue(made.secret.startswith("whsec_"))
        self.assertEqual(len(base64.b64decode(made.secret.removeprefix("whsec_"))), 32)
        self.assertNotIn(made.secret, repr(made) + repr(stored))
        self.assert_no_secret_in_log(made.secret)
        [entry] = [entry for entry in self.entries() if entry.action == "webhook.create"]
        self.assertEqual((entry.actor, entry.app, entry.target, entry.details["url"]), ("dev", "shop", stored.id, URL))

    def test_wrong(self) -> None:
        """What is wrong is refused with what it takes."""
        create, dev = self.webhooks.create, self.actors["dev"]

        self.assertIn("it takes https", self.assert_said_no(create(dev, "shop", "http://a", []), Code.BAD_REQUEST))
        self.assert_said_no(create(dev, "shop", f"https://{'a' * 2048}", []), Code.BAD_REQUEST)
        for type in (
            "presence",
            "presence.",
            "presence.*x",
            "nothing.*",
            ".*",
            "message.publishe*",
            "webhook.test",
            "",
        ):
            self.assertIn("message.published", self.assert_said_no(create(dev, "shop", URL, [type]), Code.BAD_REQUEST))
        self.assert_said_no(create(dev, "shop", URL, [], channels=""), Code.BAD_REQUEST)
        self.assert_said_no(create(dev, "shop", URL, [], description="two\nlines"), Code.BAD_REQUEST)
        self.assert_said_no(create(dev, "shop", URL, ["*"] * 51), Code.BAD_REQUEST)
        self.assertEqual(self.done(self.directory.endpoints("shop")), [])

    def test_everything(self) -> None:
        """A star and no types are all types."""
        self.assertEqual((self.create("*").events, self.create().events), (("*",), ()))

    def test_plan(self) -> None:
        """The plan says how many an app has; those that are switched off count."""
        self.plan("two", webhooks=2)
        self.done(self.directory.replace(replace(self.get(App, "shop"), plan="two")))
        first = self.create()
        self.create()
        self.done(self.webhooks.update(self.actors["dev"], "shop", first.id, is_enabled=False))

        text = self.assert_said_no(self.webhooks.create(self.actors["dev"], "shop", URL), Code.QUOTA_EXCEEDED)

        self.assertIn("2 webhooks in an app", text)
        self.done(self.webhooks.delete(self.actors["dev"], "shop", first.id))
        self.create()

    def test_bound(self) -> None:
        """Whatever the plan, there is a bound."""
        self.put(*(Endpoint(id=f"e{n:03}", app="shop", url=URL, created_at=0) for n in range(100)))

        self.assert_said_no(self.webhooks.create(self.actors["dev"], "shop", URL), Code.LIMIT_EXCEEDED)

    def test_rights(self) -> None:
        """Who may see does not thereby change; strangers and other apps find nothing."""
        endpoint, webhooks = self.create(), self.webhooks
        vera, sam, mia = (self.actors[name] for name in ("vera", "sam", "mia"))

        self.assertEqual(self.done(webhooks.webhook(vera, "shop", endpoint.id)), endpoint)
        for work in (
            webhooks.create(vera, "shop", URL),
            webhooks.update(vera, "shop", endpoint.id, is_enabled=False),
            webhooks.delete(vera, "shop", endpoint.id),
            webhooks.rotate(vera, "shop", endpoint.id, 0),
            webhooks.test(vera, "shop", endpoint.id),
            webhooks.redeliver(vera, "shop", endpoint.id, since=0),
        ):
            self.assert_said_no(work, Code.FORBIDDEN)
        self.assert_said_no(webhooks.webhook(sam, "shop", endpoint.id), Code.NOT_FOUND)
        self.assert_said_no(webhooks.webhook(mia, "other", endpoint.id), Code.NOT_FOUND)
        self.assert_said_no(webhooks.update(mia, "other", endpoint.id, is_enabled=False), Code.NOT_FOUND)
        self.assert_said_no(webhooks.delete(mia, "other", endpoint.id), Code.NOT_FOUND)
        self.assert_said_no(webhooks.redeliver(mia, "other", endpoint.id, since=0), Code.NOT_FOUND)
        self.assert_said_no(webhooks.deliveries(mia, "other", endpoint.id, (), None, 1), Code.NOT_FOUND)

    def test_updated(self) -> None:
        """What is given is changed, the secret is not, and an outdated version is refused."""
        endpoint, dev = self.create("presence.*", channels="a*"), self.actors["dev"]

        changed = self.done(
            self.webhooks.update(dev, "shop", endpoint.id, url="https://b", events=[], channels=None, is_batched=True)
        )

        self.assertEqual((changed.url, changed.events, changed.channels), ("https://b", (), None))
        self.assertEqual((changed.is_batched, changed.secret, changed.version), (True, endpoint.secret, 2))
        self.failureResultOf(self.webhooks.update(dev, "shop", endpoint.id, is_ordered=True, version=1), Conflict)
        self.assert_said_no(self.webhooks.update(dev, "shop", endpoint.id, url="ftp://b"), Code.BAD_REQUEST)
        self.assertEqual(self.woken, 1)

    def test_switched_off_and_on(self) -> None:
        """One that is switched off says why and since when, until it is on again."""
        endpoint, dev = self.create(), self.actors["dev"]

        off = self.done(self.webhooks.update(dev, "shop", endpoint.id, is_enabled=False))
        again = self.done(self.webhooks.update(dev, "shop", endpoint.id, is_enabled=False))
        on = self.done(self.webhooks.update(dev, "shop", endpoint.id, is_enabled=True))

        self.assertEqual((off.is_enabled, off.disabled_at), (False, int(self.now() * 1000)))
        self.assertIn("administrator", off.disabled_reason)
        self.assertEqual(again.disabled_at, off.disabled_at)
        self.assertEqual((on.is_enabled, on.disabled_at, on.disabled_reason), (True, None, ""))

    def test_rotated(self) -> None:
        """Both secrets are good for the overlap; of three, the two newest."""
        endpoint, dev = self.create(), self.actors["dev"]

        second = self.done(self.webhooks.rotate(dev, "shop", endpoint.id, 60))
        third = self.done(self.webhooks.rotate(dev, "shop", endpoint.id, 60))

        stored = self.get(Endpoint, endpoint.id)
        self.assertEqual((stored.secret, stored.old_secret), (third.secret, second.secret))
        self.assertEqual(stored.old_secret_until, int((self.now() + 60) * 1000))
        self.assertEqual(len({endpoint.secret, second.secret, third.secret}), 3)
        self.assert_no_secret_in_log(second.secret, third.secret)

        self.done(self.webhooks.rotate(dev, "shop", endpoint.id, 0))
        stored = self.get(Endpoint, endpoint.id)
        self.assertEqual((stored.old_secret, stored.old_secret_until), ("", None))
        for seconds in (-1, MAX_OVERLAP_SECONDS + 1):
            self.assert_said_no(self.webhooks.rotate(dev, "shop", endpoint.id, seconds), Code.BAD_REQUEST)

    def test_deleted(self) -> None:
        """A deleted endpoint is gone, with what waits for it; others keep theirs."""
        endpoint, other = self.create(), self.create()
        self.add(endpoint, 1, 2)
        self.add(other, 3)

        self.done(self.webhooks.delete(self.actors["dev"], "shop", endpoint.id))

        self.assertEqual(self.done(self.directory.endpoints("shop")), [other])
        self.assertEqual([row.endpoint for row in self.done(self.store.pending("shop", 9))], [other.id])


class DeliveryTests(WebhooksCase):
    """Tests, lists, and delivering again."""

    def test_test(self) -> None:
        """A test is added whatever the endpoint is told of, outside of order and batches, and is told at once."""
        endpoint = self.create("presence.enter", channels="a", is_ordered=True, is_batched=True)

        delivery = self.done(self.webhooks.test(self.actors["dev"], "shop", endpoint.id))

        [row] = self.done(self.store.pending("shop", 9))
        self.assertEqual((delivery.row, delivery.state, row.event.type), (row, "pending", TEST))
        self.assertEqual((row.endpoint, row.ordered, row.batched, self.woken), (endpoint.id, False, False, 1))

    def test_test_of_one_that_is_off(self) -> None:
        """It is refused with why it is off."""
        endpoint, dev = self.create(), self.actors["dev"]
        self.done(self.webhooks.update(dev, "shop", endpoint.id, is_enabled=False))

        error = self.failureResultOf(self.webhooks.test(dev, "shop", endpoint.id), Conflict).value

        self.assertIn("administrator", error.text)

    def test_list(self) -> None:
        """The newest first, by state when that is asked for, with their attempts."""
        endpoint = self.create()
        self.add(endpoint, 1)
        self.settle(endpoint, "dead")
        self.add(endpoint, 2)
        self.add(self.create(), 3)

        self.assertEqual([d.row.event.id for d in self.deliveries(endpoint)], ["e2", "e1"])
        [dead] = self.deliveries(endpoint, "dead")
        self.assertEqual((dead.row.event.id, dead.attempts[0].status, dead.attempts[0].body), ("e1", 500, "sorry"))
        self.assertEqual([d.row.event.id for d in self.deliveries(endpoint, "pending")], ["e2"])
        self.assertEqual(self.deliveries(endpoint, "done"), [])

    def test_one_again(self) -> None:
        """One delivery is told again, whatever became of it; one that waits, or is none, is refused."""
        endpoint, other, dev = self.create(), self.create(), self.actors["dev"]
        self.add(endpoint, 1)
        self.settle(endpoint, "done")
        [done] = self.deliveries(endpoint)

        count = self.done(self.webhooks.redeliver(dev, "shop", endpoint.id, delivery=done.id))

        [again] = self.deliveries(endpoint)
        self.assertEqual((count, again.state, again.row.event.id, self.woken), (1, "pending", "e1", 1))
        self.failureResultOf(self.webhooks.redeliver(dev, "shop", endpoint.id, delivery=done.id), Conflict)
        self.assert_said_no(self.webhooks.redeliver(dev, "shop", other.id, delivery=done.id), Code.NOT_FOUND)
        self.assert_said_no(self.webhooks.redeliver(dev, "shop", endpoint.id, delivery="no"), Code.NOT_FOUND)

    def test_range_again(self) -> None:
        """Those that were given up, in a time; with ``is_all`` those that arrived too."""
        endpoint, dev = self.create(), self.actors["dev"]
        self.add(endpoint, 1)
        self.settle(endpoint, "done")
        self.add(endpoint, 2, 3, 4)
        self.settle(endpoint, "dead")

        self.assertEqual(self.done(self.webhooks.redeliver(dev, "shop", endpoint.id, since=3000, until=4000)), 1)
        self.assertEqual([d.row.event.id for d in self.deliveries(endpoint, "pending")], ["e3"])
        self.assertEqual(self.done(self.webhooks.redeliver(dev, "shop", endpoint.id, since=0)), 2)
        self.assertEqual(self.done(self.webhooks.redeliver(dev, "shop", endpoint.id, since=0, is_all=True)), 1)

    def test_many_again(self) -> None:
        """However many they are."""
        endpoint, dev = self.create(), self.actors["dev"]
        self.add(endpoint, *range(1, 1202))
        while self.done(self.store.pending("shop", 1)):
            self.settle(endpoint, "dead")

        self.assertEqual(self.done(self.webhooks.redeliver(dev, "shop", endpoint.id, since=0)), 1201)

    def test_neither(self) -> None:
        """It takes one of the two."""
        endpoint, dev = self.create(), self.actors["dev"]

        self.assert_said_no(self.webhooks.redeliver(dev, "shop", endpoint.id), Code.BAD_REQUEST)
        self.assert_said_no(self.webhooks.redeliver(dev, "shop", endpoint.id, delivery="x", since=1), Code.BAD_REQUEST)
