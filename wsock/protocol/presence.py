"""What happens to the members of a channel."""

from __future__ import annotations

from typing import Literal

import msgspec

from wsock.protocol.frames import Member, PresenceEnter, PresenceLeave, PresenceUpdate, spread_member

__all__ = ["LeaveReason", "PresenceChange"]

LeaveReason = Literal["left", "disconnected", "node_lost", "kicked"]


class PresenceChange(msgspec.Struct, frozen=True, gc=False):
    """A member entered, changed its data or left. ``reason`` is set for a leave only."""

    channel: str
    kind: Literal["enter", "update", "leave"]
    member: Member
    reason: LeaveReason | None = None

    def event(self) -> PresenceEnter | PresenceUpdate | PresenceLeave:
        """The change as subscribers and members are told of it."""
        member = self.member
        data = spread_member(member)
        match self.kind:
            case "enter":
                return PresenceEnter(self.channel, data, member.client_id, member.joined_at)
            case "update":
                return PresenceUpdate(self.channel, data, member.client_id, member.joined_at)
            case "leave":
                reason = self.reason or "left"
                return PresenceLeave(self.channel, data, member.client_id, member.joined_at, reason)
