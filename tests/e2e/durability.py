"""Publishers and subscribers through crashes of the server, and what must hold afterwards.

``tests/e2e/test_durability.py`` runs it once, ``benchmarks/durability.py`` for as long as one likes.
"""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from threading import Condition, Thread
from typing import Any

from tests.e2e.node import Node
from tests.e2e.wire import PATIENCE_SECONDS, Closed, Wire

__all__ = ["Campaign", "Receipt", "history"]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the server said when it accepted a message."""

    channel: str
    timestamp: int
    sequence: int


class Publisher:
    """Publishes ``count`` messages in turn to the channels, ``window`` of them at a time without an answer.

    Those that have none when the connection is lost are sent again, in their order and with their ids, by the next
    :meth:`run`.
    """

    def __init__(self, name: str, channels: list[str], count: int, window: int, accepted: Callable[[], None]) -> None:
        self.receipts: dict[str, Receipt] = {}
        self.channel_of = {f"{name}-{n:07}": channels[n % len(channels)] for n in range(count)}
        self._window = window
        self._accepted = accepted

    @property
    def is_done(self) -> bool:
        """Whether all are accepted."""
        return len(self.receipts) == len(self.channel_of)

    def run(self, wire: Wire) -> None:
        """Publishes until all are accepted or the connection is lost."""
        waiting = [id for id in self.channel_of if id not in self.receipts]
        waiting.reverse()
        in_flight = 0
        try:
            while not self.is_done:
                while waiting and in_flight < self._window:
                    self._publish(wire, waiting.pop())
                    in_flight += 1
                self._take(wire.hear("ack"))
                in_flight -= 1
        except (Closed, OSError):
            pass
        finally:
            wire.socket.close()

    def _publish(self, wire: Wire, id: str) -> None:
        wire.say(action="publish", channel=self.channel_of[id], data={"from": id}, id=id)

    def _take(self, ack: dict[str, Any]) -> None:
        self.receipts[ack["id"]] = Receipt(ack["channel"], ack["timestamp"], ack["sequence"])
        self._accepted()


class Subscriber:
    """Takes all messages of the channels; resumes by ``positions``, exactly, or by ``timestamp``, as SDKs do."""

    def __init__(self, channels: list[str], by: str) -> None:
        self.heard: list[dict[str, Any]] = []
        self.changed = Condition()
        self._channels = channels
        self._by = by
        self._positions: dict[str, dict[str, Any]] = {}
        self._since = 0

    def join(self, wire: Wire) -> None:
        """Subscribes, or resumes where it has heard something already."""
        if not self._since:
            for channel in self._channels:
                answer = wire.ask("subscribed", action="subscribe", channel=channel)
                self._positions[channel] = {"epoch": answer["epoch"], "sequence": answer["sequence"]}
            return
        if self._by == "positions":
            wire.say(action="resume", positions=self._positions)
        else:
            content = json.dumps({"channels": self._channels, "lastTs": self._since})
            wire.say(action="resume", resumeToken=base64.urlsafe_b64encode(content.encode()).decode())
        for _ in self._channels:
            wire.hear("subscribed")
        ack = wire.hear("ack")
        assert ack["data"]["lost"] == [], ack

    def run(self, wire: Wire) -> None:
        """Hears until the connection is lost."""
        try:
            while True:
                event = wire.hear("message")
                with self.changed:
                    self._positions[event["channel"]]["sequence"] = event["sequence"]
                    self._since = event["timestamp"]
                    self.heard.append(event)
                    self.changed.notify_all()
        except (Closed, OSError):
            pass
        finally:
            wire.socket.close()

    def has_all(self, ids: set[str], seconds: float) -> bool:
        """Waits until it has heard all of these."""
        with self.changed:
            return self.changed.wait_for(lambda: ids <= {event["id"] for event in self.heard}, seconds)


class Campaign:
    """Several publishers and two subscribers of the same channels, on a server that crashes while they work.

    ``messages`` is how many are published altogether.
    """

    def __init__(self, node: Node, *, name: str = "c", messages: int, publishers: int = 4, window: int = 50) -> None:
        self._node = node
        self.channels = [f"{name}:{number}" for number in range(3)]
        self.accepted = 0
        self._changed = Condition()
        each = messages // publishers
        self.publishers = [
            Publisher(f"{name}-{number}", self.channels, each, window, self._count) for number in range(publishers)
        ]
        self.exact = Subscriber(self.channels, "positions")
        self.by_timestamp = Subscriber(self.channels, "timestamp")

    @property
    def receipts(self) -> dict[str, Receipt]:
        """All that were accepted, by id."""
        return {id: receipt for publisher in self.publishers for id, receipt in publisher.receipts.items()}

    def run(self, crashes: list[int], tell: Callable[[str], None] = lambda _: None) -> None:
        """Publishes all, and crashes the server each time so many were accepted; raises what does not hold after."""
        for goal in crashes:
            self._round(goal)
            self._node.start()
            tell(f"{self.accepted} accepted, crash at {goal}, restarted")
        self._round(None)
        self.check()
        tell(f"{self.accepted} accepted, each in history once and in order, {len(crashes)} crashes")

    def _round(self, goal: int | None) -> None:
        """One life of the server: until so many were accepted, or to the end."""
        threads = []
        for subscriber in (self.exact, self.by_timestamp):
            wire = self._node.connect()
            subscriber.join(wire)
            threads.append(Thread(target=subscriber.run, args=(wire,)))
        publishing = [Thread(target=p.run, args=(self._node.connect(),)) for p in self.publishers]
        for thread in threads + publishing:
            thread.start()
        if goal is not None:
            with self._changed:
                reached = self._changed.wait_for(lambda: self.accepted >= goal, PATIENCE_SECONDS * 3)
            self._node.kill()
            assert reached, f"{self.accepted} of {goal} were accepted in time"
        for thread in publishing:
            thread.join()
        if goal is None:
            self._finish()
            self._node.kill()  # which ends the subscribers
            self._node.start()
        for thread in threads:
            thread.join()

    def _finish(self) -> None:
        assert all(publisher.is_done for publisher in self.publishers), "a publisher was cut off"
        for subscriber in (self.exact, self.by_timestamp):
            assert subscriber.has_all(set(self.receipts), PATIENCE_SECONDS), "a subscriber misses messages"

    def _count(self) -> None:
        with self._changed:
            self.accepted += 1
            self._changed.notify_all()

    # What must hold.

    def check(self) -> None:
        """Raises ``AssertionError`` with what does not hold."""
        wire = self._node.connect()
        for channel in self.channels:
            entries = history(wire, channel)
            self._check_history(channel, entries)
            self._check_subscribers(channel, [entry["id"] for entry in entries])
        self._check_retry(wire)
        wire.close()
        stamps = [event["timestamp"] for event in self.by_timestamp.heard]
        assert stamps == sorted(stamps), "timestamps went back"

    def _check_history(self, channel: str, entries: list[dict[str, Any]]) -> None:
        """Each accepted message once, where its ack said, numbered without a gap, in its publisher's order."""
        found = {e["id"]: Receipt(channel, e["timestamp"], e["sequence"]) for e in entries}
        accepted = {id: receipt for id, receipt in self.receipts.items() if receipt.channel == channel}
        assert found == accepted, f"{channel}: {len(accepted)} accepted, {len(found)} found, or moved"
        assert len(entries) == len(found), f"{channel}: a message is there twice"
        assert [e["sequence"] for e in entries] == list(range(1, len(entries) + 1)), f"{channel}: a gap"
        for one, next in pairwise(entries):
            # Equal ones are allowed: beyond 1,000 messages a second there are not enough milliseconds.
            assert one["timestamp"] <= next["timestamp"], f"{channel}: {next} is earlier than {one}"
        order = defaultdict(list)
        for entry in entries:
            order[entry["id"].rpartition("-")[0]].append(entry["id"])
        assert all(ids == sorted(ids) for ids in order.values()), f"{channel}: a publisher's order was lost"

    def _check_subscribers(self, channel: str, ids: list[str]) -> None:
        exactly = [event["id"] for event in self.exact.heard if event["channel"] == channel]
        assert exactly == ids, f"{channel}: heard {len(exactly)} of {len(ids)}, or twice, or in another order"
        first = dict.fromkeys(event["id"] for event in self.by_timestamp.heard if event["channel"] == channel)
        assert list(first) == ids, f"{channel}: by timestamp heard {len(first)} of {len(ids)}, or in another order"

    def _check_retry(self, wire: Wire) -> None:
        """The last message of each publisher, sent again, gets the ack that it got."""
        for publisher in self.publishers:
            id, receipt = next(reversed(publisher.receipts.items()))
            ack = wire.ask("ack", action="publish", channel=receipt.channel, data="again", id=id)
            again = Receipt(ack["channel"], ack["timestamp"], ack["sequence"])
            assert again == receipt, f"{id}: accepted as {receipt}, then as {again}"


def history(wire: Wire, channel: str) -> list[dict[str, Any]]:
    """All messages of a channel, oldest first."""
    entries: list[dict[str, Any]] = []
    after: dict[str, int] = {}
    while True:
        wire.say(action="history", channel=channel, limit=1000, direction="forward", **after)
        page = wire.hear("history")
        entries += page["messages"]
        if not page["hasMore"]:
            return entries
        after = {"after": entries[-1]["timestamp"]}
