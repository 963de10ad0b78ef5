"""Tests of :mod:`wsock.protocol.presence`."""

from __future__ import annotations

from typing import get_args

from msgspec import Raw

from tests.base import SynchronousTestCase
from wsock.protocol.codec import encode
from wsock.protocol.frames import Member, PresenceEnter, PresenceLeave, PresenceUpdate
from wsock.protocol.presence import LeaveReason, PresenceChange

ANA = Member("ana", Raw(b'{"mood":"ok"}'), 5)
SPREAD = b'{"mood":"ok","clientId":"ana","data":{"mood":"ok"},"joinedAt":5}'


class PresenceChangeTests(SynchronousTestCase):
    """What subscribers are told of members."""

    def test_enter(self) -> None:
        """An enter tells the member, nested and flat."""
        event = PresenceChange("chat", "enter", ANA).event()

        self.assertEqual(event, PresenceEnter("chat", Raw(SPREAD), "ana", 5))

    def test_update(self) -> None:
        """An update tells the member as it is now."""
        event = PresenceChange("chat", "update", ANA).event()

        self.assertEqual(event, PresenceUpdate("chat", Raw(SPREAD), "ana", 5))

    def test_leave(self) -> None:
        """A leave tells why."""
        for reason in get_args(LeaveReason):
            event = PresenceChange("chat", "leave", ANA, reason).event()
            self.assertEqual(event, PresenceLeave("chat", Raw(SPREAD), "ana", 5, reason))

    def test_leave_without_a_reason(self) -> None:
        """A leave without a reason was the member's own wish; the reason is never null on the wire."""
        self.assertIn(b'"reason":"left"', encode(PresenceChange("chat", "leave", ANA).event()))

    def test_reasons(self) -> None:
        """The reasons are those that the protocol names."""
        self.assertEqual(set(get_args(LeaveReason)), {"left", "disconnected", "node_lost", "kicked"})
