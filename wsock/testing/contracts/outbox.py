"""What every :class:`wsock.interfaces.IOutboxStore` is held to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from zope.interface.verify import verifyObject

from wsock.interfaces import Event, IOutboxStore, OutboxRow
from wsock.testing.contracts.message_store import AWKWARD_DATA, AWKWARD_NAMES

if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase
else:
    TestCase = object

__all__ = ["OutboxContract", "make_row"]


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
