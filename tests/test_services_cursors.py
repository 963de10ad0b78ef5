"""Tests for :mod:`wsock.services.cursors`."""

from __future__ import annotations

import os

from tests.base import SynchronousTestCase
from wsock.errors import Refused, Unavailable
from wsock.services.cursors import Cursors

OLD, NEW = b"o" * 32, b"n" * 32


def cursors(*master_keys: bytes) -> Cursors:
    """With these keys, the newest last."""
    made = Cursors(os.urandom)
    made.unlock(master_keys)
    return made


class CursorsTests(SynchronousTestCase):
    def test_nodes(self) -> None:
        """Another node reads it, also one that has got a newer master key already."""
        for place in ("news", "", "é" * 127, "x\0"):
            sealed = cursors(OLD).seal(place, "shop", "n")
            self.assertEqual(cursors(OLD, NEW).open(sealed, "shop", "n"), place)

    def test_foreign(self) -> None:
        """A cursor of another list, or by another key, is none."""
        sealed = cursors(OLD).seal("news", "shop", "n")
        for of in (("shop", ""), ("other", "n"), ("shopn",), ("sho", "pn")):
            self.assertRaises(Refused, cursors(OLD).open, sealed, *of)
        self.assertRaises(Refused, cursors(NEW).open, sealed, "shop", "n")

    def test_locked(self) -> None:
        """Before there are keys nothing is read or made."""
        self.assertRaises(Unavailable, Cursors(os.urandom).seal, "news")
