"""What a benchmark found, as values: the table and the JSON file are made from them."""

from __future__ import annotations

import msgspec

from wsock.bench.tally import Faults

__all__ = ["ConnectionsResult", "Report", "StreamResult"]


class StreamResult(msgspec.Struct, kw_only=True):
    """A scenario with messages. Rates are those of the measured time; counts are those of the whole scenario."""

    scenario: str
    subscribers: int
    channels: int
    publishers: int
    size: int
    window: int | None
    rate: float | None
    seconds: float
    """How long it was measured."""
    published: int
    accepted: int
    unanswered: int
    refused: dict[str, int]
    """By error code."""
    deliveries: int
    faults: Faults
    errors: dict[str, int]
    """Errors that the server told subscribers, and why connections ended, each with how often."""
    publishes_per_second: float
    deliveries_per_second: float
    latency_ms: dict[str, float]
    """From when a message was due to its arrival; only with a rate."""
    generator_cpu: float
    """The part of one core that the generator used: of its busiest process."""
    generator_late_ms: float
    """The longest time that a publish was sent after it was due; only with a rate."""
    server_cpu: float | None
    """Cores that the server used."""
    server_cpu_seconds_per_million: float | None
    """The server's CPU time for a million deliveries."""

    @property
    def is_clean(self) -> bool:
        """Whether everything that was published was accepted and delivered as it should."""
        return not (self.faults or self.refused or self.errors or self.unanswered)


class ConnectionsResult(msgspec.Struct, kw_only=True):
    """Connections that were made and kept."""

    scenario: str = "connections"
    connections: int
    connects_per_second: float
    handshake_ms: dict[str, float]
    errors: dict[str, int]
    generator_cpu: float
    server_cpu: float | None
    memory_bytes: float | None
    """Of the server's resident memory, for each connection."""
    memory_why: str
    """Why the memory can't be told."""

    @property
    def is_clean(self) -> bool:
        """Whether each connection was made, and none was lost."""
        return not self.errors


class Report(msgspec.Struct, kw_only=True):
    """A whole run."""

    version: str
    url: str
    """Without the credential."""
    processes: int
    interrupted: bool = False
    failure: str = ""
    """Why a scenario could not be measured, and those after it were not."""
    warnings: list[str] = []
    results: list[StreamResult | ConnectionsResult] = []

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost, doubled, reordered or refused."""
        return not self.failure and all(result.is_clean for result in self.results)
