"""What every :class:`wsock.interfaces.IOutboxStore` is held to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import msgspec
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from wsock.interfaces import (
    Agendum,
    Attempt,
    Delivery,
    DeliveryQuery,
    DeliveryState,
    Event,
    IOutboxStore,
    OutboxRow,
    Verdict,
)
from wsock.testing.contracts.message_store import AWKWARD_DATA, AWKWARD_NAMES

if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase
else:
    TestCase = object

__all__ = ["DeliveryContract", "OutboxContract", "make_row"]

NOW = 1_700_000_000.25
SIZES = (60_000, 30_000, 20_000, 150_000)


def make_row(
    id: str,
    *,
    app: str = "app",
    channel: str = "room",
    type: str = "message.published",
    data: bytes = b"{}",
    endpoint: str = "endpoint",
    created: float = 1_700_000_000.25,
) -> OutboxRow:
    """A row of an event with this id."""
    return OutboxRow(Event(id=id, app=app, channel=channel, type=type, data=data), endpoint, created)


class OutboxContract(TestCase):
    """Mix it in and provide ``make_outbox``, which makes an empty outbox."""

    make_outbox: Callable[[], Awaitable[IOutboxStore]]
    outbox: IOutboxStore

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        """Makes a new one."""
        self.outbox = await self.make_outbox()

    async def test_provides_the_interface(self) -> None:
        """The outbox has the methods of IOutboxStore, with their arguments."""
        verifyObject(IOutboxStore, self.outbox)

    async def test_new_outbox_is_empty(self) -> None:
        """Before anything is added nothing is pending, and adding nothing changes that."""
        await self.outbox.add([])

        self.assertEqual(await self.outbox.pending("app", 10), [])

    async def test_rows_come_back_as_they_were(self) -> None:
        """Every field is kept, byte for byte, in the order of addition."""
        rows = [make_row(f"data-{n}@app", data=b'{"data":' + data + b"}") for n, data in enumerate(AWKWARD_DATA)]
        rows += [make_row(f"1@app/{name}", channel=name, type="presence.enter") for name in AWKWARD_NAMES]
        rows.append(make_row("soon@app", endpoint="\u00e9ndpoint", created=1_800_000_000.5))

        await self.outbox.add(rows)

        self.assertEqual(await self.outbox.pending("app", 100), rows)

    async def test_limit(self) -> None:
        """The first rows are told, as many as were asked for; they stay pending."""
        for first in (0, 3):
            await self.outbox.add([make_row(str(n)) for n in range(first, first + 3)])

        for _ in range(2):
            self.assertEqual(await self.outbox.pending("app", 4), [make_row(str(n)) for n in range(4)])

    async def test_order_is_that_of_addition(self) -> None:
        """Neither ids nor times decide the order."""
        rows = [make_row("b", created=3.0), make_row("c", created=2.0), make_row("a", created=1.0)]
        for row in rows:
            await self.outbox.add([row])

        self.assertEqual(await self.outbox.pending("app", 10), rows)

    async def test_repeated_rows_stay_as_they_are(self) -> None:
        """A row that is there keeps its content and its place; the others of the call are added."""
        await self.outbox.add([make_row("1"), make_row("2")])

        await self.outbox.add([make_row("2", created=5.0), make_row("3"), make_row("1", data=b'{"n":1}')])

        self.assertEqual(await self.outbox.pending("app", 10), [make_row("1"), make_row("2"), make_row("3")])

    async def test_row_twice_in_one_call(self) -> None:
        """The first one is stored."""
        await self.outbox.add([make_row("1"), make_row("1", created=5.0), make_row("2")])

        self.assertEqual(await self.outbox.pending("app", 10), [make_row("1"), make_row("2")])

    async def test_event_for_several_endpoints(self) -> None:
        """Each of them has a row of its own."""
        rows = [make_row("1", endpoint="a"), make_row("1", endpoint="b")]

        await self.outbox.add(rows)

        self.assertEqual(await self.outbox.pending("app", 10), rows)

    async def test_apps_are_apart(self) -> None:
        """What an app has pending is its own, also where the ids are the same."""
        theirs = make_row("1", app="other")

        await self.outbox.add([make_row("1"), theirs])

        self.assertEqual(await self.outbox.pending("app", 10), [make_row("1")])
        self.assertEqual(await self.outbox.pending("other", 10), [theirs])
        self.assertEqual(await self.outbox.pending("nobody", 10), [])

    async def test_many_rows_at_once(self) -> None:
        """A call may bring a thousand rows and megabytes, and be repeated."""
        large = b'{"data":"' + b"x" * 64_000 + b'"}'
        rows = [make_row(str(n), data=large if n % 10 == 0 else b"{}") for n in range(1500)]

        await self.outbox.add(rows)
        await self.outbox.add(rows)

        self.assertEqual(await self.outbox.pending("app", 2000), rows)

    async def test_row_that_is_ordered_and_batched(self) -> None:
        """The order counts: it is told by itself."""
        both = msgspec.structs.replace(make_row("1"), ordered=True, batched=True)

        await self.outbox.add([both])

        self.assertEqual(await self.outbox.pending("app", 1), [msgspec.structs.replace(both, batched=False)])


class DeliveryContract(TestCase):
    """What is claimed, and what becomes of it. Mix it in and provide ``make_outbox``, as above."""

    make_outbox: Callable[[], Awaitable[IOutboxStore]]
    outbox: IOutboxStore

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        """Makes a new one."""
        self.outbox = await self.make_outbox()

    async def add(self, *ids: str, channel: str = "room", endpoint: str = "endpoint", **flags: bool) -> None:
        """Adds rows that are due at once."""
        rows = [make_row(id, created=NOW, channel=channel, endpoint=endpoint) for id in ids]
        await self.outbox.add([msgspec.structs.replace(row, **flags) for row in rows])

    async def claim(
        self, limit: int = 10, *, owner: str = "node", endpoint: str = "endpoint", at: float = 0.0
    ) -> list[Delivery]:
        """Claims for a minute, so many seconds after the rows became due."""
        return await self.outbox.claim(owner, endpoint, NOW + at, 60.0, limit)

    async def settle(self, delivery: Delivery, state: DeliveryState, due: float = 0.0, owner: str = "node") -> None:
        """Says what became of it, with an attempt that tells the state."""
        attempt = Attempt(NOW, 5, 500, "body", state)
        verdict = Verdict(id=delivery.id, state=state, at=NOW + 1, due=NOW + due, attempt=attempt)
        await self.outbox.settle(owner, [verdict])

    async def all(self, *states: DeliveryState, endpoint: str = "endpoint") -> list[Delivery]:
        """The deliveries, those that were added first first."""
        query = DeliveryQuery(endpoint=endpoint, states=states or ("pending", "done", "dead"))
        return (await self.outbox.page(query, None, 1000)).items[::-1]

    async def test_claim(self) -> None:
        """What is due is given out, the first ones first, and is nobody else's until the lease ends."""
        await self.add("1", "2", "3")

        first = await self.claim(2)
        second = await self.claim(2, owner="other")

        self.assertEqual(ids(first), ["1", "2"])
        self.assertEqual(ids(second), ["3"])
        self.assertEqual(first[0].row, make_row("1", created=NOW))
        self.assertEqual((first[0].state, first[0].due, first[0].tries), ("pending", NOW + 60, 0))
        self.assertEqual(await self.claim(at=59.9), [])
        self.assertEqual(sorted(ids(await self.claim(at=60))), ["1", "2", "3"])

    async def test_nothing_to_claim(self) -> None:
        """What is not due, or another endpoint's, is not given out."""
        await self.add("1", endpoint="other")
        await self.outbox.add([make_row("2", created=NOW + 5)])

        self.assertEqual(await self.claim(), [])
        self.assertEqual(await self.claim(endpoint="nobody"), [])
        self.assertEqual(ids(await self.claim(at=5)), ["2"])

    async def test_done(self) -> None:
        """What arrived is not given out again, nor pending any more, and shows its attempt."""
        await self.add("1", "2")
        [first, second] = await self.claim()

        await self.settle(first, "done")

        self.assertEqual(ids(await self.claim(at=60)), ["2"])
        self.assertEqual(await self.outbox.pending("app", 10), [second.row])
        [done] = await self.all("done")
        self.assertEqual((done.row, done.tries, done.settled), (first.row, 1, NOW + 1))
        self.assertEqual(done.attempts, (Attempt(NOW, 5, 500, "body", "done"),))

    async def test_retry(self) -> None:
        """What failed is given out again when it is due, with its tries counted and its attempts kept."""
        await self.add("1")
        for number in range(3):
            [delivery] = await self.claim(at=number * 100.0)
            self.assertEqual((delivery.tries, delivery.attempts), (number, ()))
            await self.settle(delivery, "pending", due=(number + 1) * 100.0)
            self.assertEqual(await self.claim(at=number * 100.0 + 99), [])

        [pending] = await self.all()
        self.assertEqual((pending.state, pending.tries, len(pending.attempts)), ("pending", 3, 3))

    async def test_put_back(self) -> None:
        """Without an attempt nothing is counted."""
        await self.add("1")
        [delivery] = await self.claim()

        await self.outbox.settle("node", [Verdict(id=delivery.id, state="pending", at=NOW, due=NOW + 3)])

        self.assertEqual(await self.claim(at=2.9), [])
        [again] = await self.claim(at=3)
        self.assertEqual((again.tries, again.attempts), (0, ()))

    async def test_lost_lease(self) -> None:
        """Who lost a delivery to somebody else can say nothing of it any more; what was said once stays."""
        await self.add("1")
        [late] = await self.claim(owner="late")
        [now] = await self.claim(owner="now", at=60)

        await self.settle(late, "dead", owner="late")
        [pending] = await self.all()
        self.assertEqual((pending.state, pending.tries), ("pending", 0))

        await self.settle(now, "done", owner="now")
        await self.settle(now, "dead", owner="now")
        await self.settle(late, "dead", owner="late")
        [done] = await self.all()
        self.assertEqual((done.state, done.tries), ("done", 1))

    async def test_release(self) -> None:
        """All leases can be ended at once; what waits for its next attempt goes on waiting."""
        await self.add("1", "2", "3", "4")
        first, second, third = await self.claim(3)
        await self.settle(first, "pending", due=50)
        await self.settle(second, "done")

        await self.outbox.release(NOW + 1)

        self.assertEqual(sorted(ids(await self.claim(owner="next", at=1))), ["3", "4"])
        await self.settle(third, "dead")
        self.assertEqual(await self.all("dead"), [])

    async def test_settle_many(self) -> None:
        """Several at once, some of which are nobody's."""
        await self.add("1", "2", "3")
        claimed = await self.claim(2)
        verdicts = [Verdict(id=one.id, state="done", at=NOW, attempt=Attempt(NOW, 1, 200)) for one in claimed]
        stray = Verdict(id="999999", state="done", at=NOW)

        await self.outbox.settle("node", [verdicts[0], stray, verdicts[1]])
        await self.outbox.settle("node", [])

        self.assertEqual(ids(await self.all("done")), ["1", "2"])
        self.assertEqual(ids(await self.all("pending")), ["3"])

    async def test_log_is_bounded(self) -> None:
        """Of many attempts the newest twenty are kept."""
        await self.add("1")
        for number in range(25):
            [delivery] = await self.claim(at=number * 60.0)
            attempt = Attempt(float(number), 1, 500)
            verdict = Verdict(id=delivery.id, state="pending", at=NOW, due=NOW, attempt=attempt)
            await self.outbox.settle("node", [verdict])

        [pending] = await self.all()
        self.assertEqual(pending.tries, 25)
        self.assertEqual([attempt.at for attempt in pending.attempts], [float(n) for n in range(5, 25)])

    async def test_agenda(self) -> None:
        """It tells for whom something is pending, and when the first of that is due."""
        await self.add("1", endpoint="b")
        await self.add("1", "2", endpoint="a")
        await self.outbox.add([make_row("1", app="other", endpoint="c", created=NOW + 9)])
        [done] = await self.claim(endpoint="b")
        await self.settle(done, "done")
        await self.claim(1, endpoint="a")

        self.assertEqual(await self.outbox.agenda("", 10), [Agendum("app", "a", NOW), Agendum("other", "c", NOW + 9)])
        self.assertEqual([one.endpoint for one in await self.outbox.agenda("", 1)], ["a"])
        self.assertEqual([one.endpoint for one in await self.outbox.agenda("a", 10)], ["c"])
        await self.claim(1, endpoint="a")
        self.assertEqual((await self.outbox.agenda("", 1))[0].due, NOW + 60)

    async def test_ordered(self) -> None:
        """Of a channel only the first pending one is given out, whether it is leased, waits, or is done with."""
        await self.add("1", "2", "3", ordered=True)
        await self.add("4", "5", channel="other", ordered=True)

        claimed = await self.claim()
        self.assertEqual(sorted(ids(claimed)), ["1", "4"])
        self.assertEqual(await self.claim(owner="other"), [])
        first, fourth = sorted(claimed, key=lambda one: one.row.event.id)

        await self.settle(first, "pending", due=10)
        await self.settle(fourth, "dead")
        self.assertEqual(ids(await self.claim(owner="other")), ["5"])
        [again] = await self.claim(at=10)
        self.assertEqual(again.row.event.id, "1")
        await self.settle(again, "done")
        self.assertEqual(ids(await self.claim()), ["2"])

    async def test_ordered_with_many_channels(self) -> None:
        """Channels take turns, also where many of them are blocked."""
        rows = [make_row(f"{n}-{i}", channel=f"room-{n:04}", created=NOW) for n in range(600) for i in range(2)]
        await self.outbox.add([msgspec.structs.replace(row, ordered=True) for row in rows])

        claimed = [one for _ in range(12) for one in await self.claim(100)]

        self.assertEqual(sorted(ids(claimed)), sorted(f"{n}-0" for n in range(600)))

    async def test_batch(self) -> None:
        """What waits is told at once, and is given out again as the same batch only."""
        await self.add("1", "2", "3", batched=True)

        self.assertEqual(await self.claim(), [])
        batch = await self.claim(at=0.1)
        self.assertEqual(ids(batch), ["1", "2", "3"])
        [name] = {one.batch for one in batch}
        self.assertTrue(name)

        await self.add("4", batched=True)
        for one in batch:
            await self.settle(one, "pending", due=1)
        [fourth] = await self.claim(at=0.2)
        self.assertNotIn(fourth.batch, ("", name))
        again = await self.claim(1, at=1)
        self.assertEqual([(one.row.event.id, one.batch) for one in again], [(n, name) for n in ("1", "2", "3")])

    async def test_bounds_of_a_batch(self) -> None:
        """A batch has a hundred rows, and a hundred kilobytes, unless one row alone has more."""
        rows = [make_row(f"a{n:03}", created=NOW, endpoint="many") for n in range(150)]
        rows += [make_row(f"b{n}", created=NOW, endpoint="large", data=b"x" * size) for n, size in enumerate(SIZES)]
        await self.outbox.add([msgspec.structs.replace(row, batched=True) for row in rows])

        many = [len(await self.claim(500, endpoint="many", at=1)) for _ in range(3)]
        large = [ids(await self.claim(500, endpoint="large", at=1)) for _ in range(3)]

        self.assertEqual(many, [100, 50, 0])
        self.assertEqual(large, [["b0", "b1"], ["b2"], ["b3"]])

    async def test_page(self) -> None:
        """The newest first, page by page, in the states and the time that are asked for."""
        rows = [make_row(str(n), created=NOW + n) for n in range(6)]
        await self.outbox.add([*rows, make_row("theirs", endpoint="other")])
        claimed = await self.claim(4, at=10)
        for one, state in zip(claimed, ("done", "dead", "done", "dead"), strict=True):
            await self.settle(one, state)  # type: ignore[arg-type]  # a literal

        pages, cursor = [], None
        while True:
            page = await self.outbox.page(DeliveryQuery(endpoint="endpoint"), cursor, 4)
            pages.append(ids(page.items))
            cursor = page.next
            if cursor is None:
                break
        self.assertEqual(pages, [["5", "4", "3", "2"], ["1", "0"]])
        self.assertEqual(ids(await self.all("dead")), ["1", "3"])
        self.assertEqual(ids(await self.all("pending", "dead")), ["1", "3", "4", "5"])
        between = DeliveryQuery(endpoint="endpoint", since=NOW + 1, until=NOW + 4)
        self.assertEqual(ids((await self.outbox.page(between, None, 10)).items), ["3", "2", "1"])
        single = DeliveryQuery(endpoint="endpoint", id=claimed[2].id)
        self.assertEqual(ids((await self.outbox.page(single, None, 10)).items), ["2"])
        for id in ("", "x", "-1", "9" * 30):
            nothing = DeliveryQuery(endpoint="endpoint", id=id)
            self.assertEqual((await self.outbox.page(nothing, None, 10)).items, [], id)
        foreign = DeliveryQuery(endpoint="other", id=claimed[2].id)
        self.assertEqual((await self.outbox.page(foreign, None, 10)).items, [])
        for wrong in ("", "x", "-1", "9" * 30):
            with self.assertRaises(ValueError):
                await self.outbox.page(between, wrong, 10)

    async def test_full_last_page(self) -> None:
        """A page that holds the rest is the last one."""
        await self.add("1", "2")

        page = await self.outbox.page(DeliveryQuery(endpoint="endpoint"), None, 2)

        self.assertEqual((ids(page.items), page.next), (["2", "1"], None))

    async def test_redeliver(self) -> None:
        """What was settled is due again at once, as if it had never been tried; its log stays."""
        await self.add("1", "2", "3", "4")
        for one, state in zip(await self.claim(3), ("done", "dead", "dead"), strict=True):
            await self.settle(one, state)  # type: ignore[arg-type]  # a literal
        [done, *_] = await self.all("done")

        dead = DeliveryQuery(endpoint="endpoint", states=("dead", "pending"))
        self.assertEqual(await self.outbox.redeliver(dead, NOW + 9, 1), 1)
        self.assertEqual(await self.outbox.redeliver(dead, NOW + 9, 10), 1)
        self.assertEqual(await self.outbox.redeliver(dead, NOW + 9, 10), 0)
        single = DeliveryQuery(endpoint="endpoint", id=done.id)
        self.assertEqual(await self.outbox.redeliver(single, NOW + 9, 10), 1)
        elsewhere = DeliveryQuery(endpoint="other", id=done.id)
        self.assertEqual(await self.outbox.redeliver(elsewhere, NOW + 9, 10), 0)

        again = await self.claim(at=9)
        self.assertEqual(sorted(ids(again)), ["1", "2", "3", "4"])
        self.assertEqual({one.tries for one in again}, {0})
        self.assertEqual({len(one.attempts) for one in await self.all() if one.row.event.id != "4"}, {1})

    async def test_redeliver_range(self) -> None:
        """A time from when, and one until."""
        await self.outbox.add([make_row(str(n), created=NOW + n) for n in range(4)])
        for one in await self.claim(at=10):
            await self.settle(one, "dead")

        query = DeliveryQuery(endpoint="endpoint", since=NOW + 1, until=NOW + 3)
        self.assertEqual(await self.outbox.redeliver(query, NOW + 20, 10), 2)

        self.assertEqual(ids(await self.all("pending")), ["1", "2"])
        self.assertEqual([one.settled for one in await self.all("pending")], [0.0, 0.0])

    async def test_redelivery_keeps_the_order(self) -> None:
        """What is asked for again comes before what was added later."""
        await self.add("1", "2", ordered=True)
        [first] = await self.claim()
        await self.settle(first, "dead")
        query = DeliveryQuery(endpoint="endpoint", id=first.id)
        await self.outbox.redeliver(query, NOW, 10)

        self.assertEqual(ids(await self.claim()), ["1"])

    async def test_redelivery_is_batched_anew(self) -> None:
        """One of a batch that is asked for again is not taken for the whole."""
        await self.add("1", "2", batched=True)
        batch = await self.claim(at=1)
        for one in batch:
            await self.settle(one, "done")
        await self.outbox.redeliver(DeliveryQuery(endpoint="endpoint", id=batch[0].id), NOW + 2, 10)

        [again] = await self.claim(at=3)

        self.assertEqual(again.row.event.id, "1")
        self.assertNotIn(again.batch, ("", batch[0].batch))

    async def test_bury(self) -> None:
        """What is due is given up with a reason; what is leased or waits is not."""
        await self.add("1", "2", "3")
        [first] = await self.claim(1)
        await self.settle(first, "pending", due=50)
        await self.claim(1)

        self.assertEqual(await self.outbox.bury("endpoint", "switched off", NOW, 10), 1)
        self.assertEqual(await self.outbox.bury("endpoint", "switched off", NOW, 10), 0)
        self.assertEqual(await self.outbox.bury("nobody", "switched off", NOW, 10), 0)

        [dead] = await self.all("dead")
        self.assertEqual((dead.row.event.id, dead.settled), ("3", NOW))
        self.assertEqual(dead.attempts, (Attempt(NOW, 0, 0, error="switched off"),))
        self.assertEqual(ids(await self.all("pending")), ["1", "2"])

    async def test_remove(self) -> None:
        """What there is for an endpoint is gone, in all states; nothing else is."""
        await self.add("1", "2", "3")
        await self.add("1", endpoint="other")
        await self.settle((await self.claim(1))[0], "done")

        self.assertEqual(await self.outbox.remove("endpoint", 2), 2)
        self.assertEqual(await self.outbox.remove("endpoint", 2), 1)
        self.assertEqual(await self.outbox.remove("endpoint", 2), 0)

        self.assertEqual(await self.all(), [])
        self.assertEqual(ids(await self.all(endpoint="other")), ["1"])

    async def test_expire(self) -> None:
        """What was settled before is gone; what is pending stays however old it is. It may be added again then."""
        await self.add("1", "2", "3")
        for one, state in zip(await self.claim(2), ("done", "dead"), strict=True):
            await self.settle(one, state)  # type: ignore[arg-type]  # a literal

        self.assertEqual(await self.outbox.expire(NOW + 1, 10), 0)
        self.assertEqual(await self.outbox.expire(NOW + 1.5, 1), 1)
        self.assertEqual(await self.outbox.expire(NOW + 1.5, 10), 1)

        self.assertEqual(ids(await self.all()), ["3"])
        await self.add("1")
        self.assertEqual(ids(await self.all()), ["3", "1"])

    async def test_settled_rows_are_not_added_again(self) -> None:
        """A repeated event whose delivery is over makes no other one."""
        await self.add("1")
        await self.settle((await self.claim())[0], "done")

        await self.add("1")

        self.assertEqual([one.state for one in await self.all()], ["done"])

    async def test_claims_at_the_same_time(self) -> None:
        """Whoever claims when, no delivery is given to two."""
        await self.add(*(f"{n:03}" for n in range(100)))

        claims = [Deferred.fromCoroutine(self.claim(7, owner=f"node-{n}")) for n in range(20)]
        claimed = [one for claim in claims for one in await claim]

        self.assertEqual(sorted(ids(claimed)), sorted(set(ids(claimed))))
        rest = [one for _ in range(20) for one in await self.claim(7)]
        self.assertEqual(sorted(ids(claimed + rest)), [f"{n:03}" for n in range(100)])


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    """Of the events."""
    return [delivery.row.event.id for delivery in deliveries]
