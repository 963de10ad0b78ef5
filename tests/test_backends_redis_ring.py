"""Tests of wsock.backends.redis_ring."""

from __future__ import annotations

from collections import Counter

from tests.base import SynchronousTestCase
from wsock.backends.redis_ring import Ring

_CHANNELS = [f"room-{n}" for n in range(4000)]


class RingTests(SynchronousTestCase):
    """Where channels live."""

    def test_one_server_has_all(self) -> None:
        """With one server there is no choice."""
        self.assertEqual({Ring(1).number("app", channel) for channel in _CHANNELS}, {0})

    def test_same_for_every_node(self) -> None:
        """The place depends on nothing but the names: it is the same in every process and version."""
        ring = Ring(3)

        self.assertEqual([ring.number("app", f"room-{n}") for n in range(12)], [2, 0, 1, 0, 2, 0, 2, 2, 1, 2, 2, 0])

    def test_even(self) -> None:
        """Every server gets about its share."""
        ring = Ring(4)

        shares = Counter(ring.number("app", channel) for channel in _CHANNELS)

        self.assertEqual(sorted(shares), [0, 1, 2, 3])
        self.assertTrue(all(600 < share < 1400 for share in shares.values()), shares)

    def test_one_more_server_moves_its_share_only(self) -> None:
        """A channel that moves goes to the new server."""
        before, after = Ring(4), Ring(5)

        moves = [(before.number("app", c), after.number("app", c)) for c in _CHANNELS]

        moved = [there for here, there in moves if here != there]
        self.assertEqual(set(moved), {4})
        self.assertTrue(400 < len(moved) < 1200, len(moved))
