"""What the server counts, as Prometheus reads it. Nothing is counted here: each number is asked for when it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from wsock.edges.gate import WebSocketGate
from wsock.services.backlog import Backlog
from wsock.services.hub import Hub
from wsock.services.limits import Tally
from wsock.services.messages import Messages
from wsock.services.turn import Turn

__all__ = ["Measure", "MeasureCollector", "build_registry", "node_measures"]

_MAX_LABELS = 50
_OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One metric. ``read`` returns its value, or with a ``label`` a value for each of the label's."""

    name: str
    text: str
    kind: Literal["counter", "gauge"]
    read: Callable[[], float | Mapping[str, float]]
    label: str | None = None


class MeasureCollector(Collector):
    """Reads measures when the registry is read.

    Of a label at most 50 values are shown, the largest; the rest is added up under ``other``, so that
    no client can make as many time series as it likes.
    """

    def __init__(self, measures: list[Measure]) -> None:
        self._measures = measures

    def describe(self) -> Iterator[Metric]:
        """Names and kinds, without reading anything."""
        return (_family(measure) for measure in self._measures)

    def collect(self) -> Iterator[Metric]:
        """The values of this moment."""
        for measure in self._measures:
            family = _family(measure)
            value = measure.read()
            if isinstance(value, Mapping):
                for label, number in _bounded(value).items():
                    family.add_metric([label], number)
            else:
                family.add_metric([], value)
            yield family


def build_registry(measures: list[Measure]) -> CollectorRegistry:
    """A registry of its own that reads these measures."""
    registry = CollectorRegistry(auto_describe=True)
    registry.register(MeasureCollector(measures))
    return registry


def node_measures(
    gate: WebSocketGate, hub: Hub, turn: Turn, messages: Messages, backlog: Backlog, tally: Tally
) -> list[Measure]:
    """All metrics of a node."""
    return [
        Measure(name="wsock_connections", text="WebSocket connections now.", kind="gauge", read=lambda: len(gate)),
        Measure(
            name="wsock_connections_opened",
            text="WebSocket connections ever opened.",
            kind="counter",
            read=lambda: gate.opened,
        ),
        Measure(
            name="wsock_connections_closed",
            text="WebSocket connections that ended, by reason.",
            kind="counter",
            read=lambda: gate.closed,
            label="reason",
        ),
        Measure(name="wsock_topics", text="Channels in use on this node.", kind="gauge", read=lambda: len(hub)),
        Measure(
            name="wsock_queue_length",
            text="Messages and events of the cluster that wait to be persisted or told.",
            kind="gauge",
            read=lambda: backlog.length,
        ),
        Measure(
            name="wsock_messages_published",
            text="Messages handed to the broker.",
            kind="counter",
            read=lambda: messages.published,
        ),
        Measure(
            name="wsock_messages_delivered",
            text="Messages and presence changes written to subscribers.",
            kind="counter",
            read=lambda: turn.delivered,
        ),
        Measure(
            name="wsock_requests_refused",
            text="Requests on WebSockets answered with an error, by its code.",
            kind="counter",
            read=lambda: gate.refused,
            label="code",
        ),
        Measure(
            name="wsock_rate_limited",
            text="Publishes, requests and connects refused because of a rate limit, by whose limit it is.",
            kind="counter",
            read=lambda: tally.refused,
            label="scope",
        ),
        Measure(
            name="wsock_rate_observed",
            text="What would have been refused so, were the limits enforced.",
            kind="counter",
            read=lambda: tally.observed,
            label="scope",
        ),
    ]


def _family(measure: Measure) -> CounterMetricFamily | GaugeMetricFamily:
    labels = [measure.label] if measure.label is not None else None
    if measure.kind == "counter":
        return CounterMetricFamily(measure.name, measure.text, labels=labels)
    return GaugeMetricFamily(measure.name, measure.text, labels=labels)


def _bounded(values: Mapping[str, float]) -> dict[str, float]:
    if len(values) <= _MAX_LABELS:
        return dict(values)
    largest = sorted(values.items(), key=lambda item: item[1], reverse=True)
    bounded = dict(largest[: _MAX_LABELS - 1])
    bounded[_OTHER] = bounded.get(_OTHER, 0) + sum(number for _, number in largest[_MAX_LABELS - 1 :])
    return bounded
