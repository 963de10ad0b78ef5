"""What the server counts, as Prometheus reads it. Nothing is counted here: each number is asked for when it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Literal

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from wsock.edges.gate import WebSocketGate
from wsock.measures import SECONDS, SIZES, Batching, Histogram, merged
from wsock.services.backlog import Backlog
from wsock.services.delivery import Delivering
from wsock.services.hub import Hub
from wsock.services.limits import Tally
from wsock.services.messages import Messages
from wsock.services.outbox import Outbox
from wsock.services.persister import Persister
from wsock.services.probe import ReactorProbe
from wsock.services.turn import Turn

__all__ = ["Measure", "MeasureCollector", "build_registry", "node_measures"]

_MAX_LABELS = 50
_OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One metric. ``read`` returns its value, or with a ``label`` a value for each of the label's."""

    name: str
    text: str
    kind: Literal["counter", "gauge", "histogram"]
    read: Callable[[], float | Mapping[str, float] | Histogram]
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
            match measure.read(), family:
                case Histogram() as histogram, HistogramMetricFamily():
                    family.add_metric([], _buckets(histogram), histogram.total)
                case Mapping() as values, CounterMetricFamily() | GaugeMetricFamily():
                    for label, number in _bounded(values).items():
                        family.add_metric([label], number)
                case float() | int() as number, CounterMetricFamily() | GaugeMetricFamily():
                    family.add_metric([], number)
            yield family


def build_registry(measures: list[Measure]) -> CollectorRegistry:
    """A registry of its own that reads these measures, and what Linux knows of the process: memory, CPU time, files."""
    registry = CollectorRegistry(auto_describe=True)
    registry.register(MeasureCollector(measures))
    ProcessCollector(registry=registry)
    return registry


def node_measures(
    *,
    gate: WebSocketGate,
    hub: Hub,
    turn: Turn,
    messages: Messages,
    batching: Sequence[Batching],
    persisters: Sequence[Persister],
    backlog: Backlog,
    outbox: Outbox,
    delivering: Delivering,
    probe: ReactorProbe,
    tally: Tally,
) -> list[Measure]:
    """All metrics of a node."""
    return [
        *_connection_measures(gate, tally),
        *_delivery_measures(hub, turn),
        *_publish_measures(messages, batching),
        *_storing_measures(persisters, backlog, outbox),
        *_webhook_measures(delivering),
        *_reactor_measures(probe),
    ]


def _connection_measures(gate: WebSocketGate, tally: Tally) -> list[Measure]:
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
            text="WebSocket connections that ended, by reason; `slow consumer` are those reset because they read too"
            " slowly.",
            kind="counter",
            # There from the start: an increase from nothing is none to Prometheus.
            read=lambda: {"slow consumer": 0, **gate.closed},
            label="reason",
        ),
        Measure(
            name="wsock_connections_paused",
            text="WebSocket connections that take no more at the moment, since their clients have not read yet.",
            kind="gauge",
            read=lambda: gate.held.connections,
        ),
        Measure(
            name="wsock_output_waiting_bytes",
            text="Bytes that wait until these clients read; each may let `limits.output_bytes` wait.",
            kind="gauge",
            read=lambda: gate.held.bytes,
        ),
        Measure(
            name="wsock_messages_left_out",
            text="Messages left out for clients that read too slowly, where an app's settings say so.",
            kind="counter",
            read=lambda: gate.held.dropped,
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


def _delivery_measures(hub: Hub, turn: Turn) -> list[Measure]:
    return [
        Measure(name="wsock_topics", text="Channels in use on this node.", kind="gauge", read=lambda: len(hub)),
        Measure(
            name="wsock_messages_delivered",
            text="Messages and presence changes written to subscribers.",
            kind="counter",
            read=lambda: turn.delivered,
        ),
        Measure(
            name="wsock_flush_frames",
            text="Frames of channels that were written together, at the end of a turn of the reactor.",
            kind="histogram",
            read=lambda: turn.frames,
        ),
        Measure(
            name="wsock_flush_writes",
            text="Connections to which they were written.",
            kind="histogram",
            read=lambda: turn.writes,
        ),
    ]


def _publish_measures(messages: Messages, batching: Sequence[Batching]) -> list[Measure]:
    return [
        Measure(
            name="wsock_messages_published",
            text="Messages handed to the broker.",
            kind="counter",
            read=lambda: messages.published,
        ),
        Measure(
            name="wsock_publishes_waiting",
            text="Publishes that wait for the next batch.",
            kind="gauge",
            read=lambda: sum(one.queued for one in batching),
        ),
        Measure(
            name="wsock_publishes_waiting_bytes",
            text="The memory that they take; at `limits.publish_backlog_bytes` publishes are refused.",
            kind="gauge",
            read=lambda: sum(one.queued_bytes for one in batching),
        ),
        Measure(
            name="wsock_publish_batch_size",
            text="Publishes in a batch: one call of Redis, or one commit.",
            kind="histogram",
            read=lambda: merged(SIZES, (one.batch_sizes for one in batching)),
        ),
        Measure(
            name="wsock_publish_batch_seconds",
            text="How long a batch was under way, until it was accepted or failed.",
            kind="histogram",
            read=lambda: merged(SECONDS, (one.batch_seconds for one in batching)),
        ),
    ]


def _storing_measures(persisters: Sequence[Persister], backlog: Backlog, outbox: Outbox) -> list[Measure]:
    return [
        Measure(
            name="wsock_queue_length",
            text="Messages and events of the cluster that wait to be persisted or told.",
            kind="gauge",
            read=lambda: backlog.length,
        ),
        Measure(
            name="wsock_persist_batch_size",
            text="Messages and events of the cluster that this node persisted at once.",
            kind="histogram",
            read=lambda: merged(SIZES, (one.batch_sizes for one in persisters)),
        ),
        Measure(
            name="wsock_persist_batch_seconds",
            text="How long that took, waiting for a database that was away included.",
            kind="histogram",
            read=lambda: merged(SECONDS, (one.batch_seconds for one in persisters)),
        ),
        Measure(
            name="wsock_outbox_rows",
            text="Events stored for webhooks, once for each endpoint that is to be told.",
            kind="counter",
            read=lambda: outbox.stored,
        ),
    ]


def _webhook_measures(delivering: Delivering) -> list[Measure]:
    return [
        Measure(
            name="wsock_webhook_requests",
            text="Requests to webhooks that ended, by whether the receiver took what it was told.",
            kind="counter",
            label="outcome",
            read=lambda: {"delivered": delivering.delivered, "failed": delivering.failed},
        ),
        Measure(
            name="wsock_webhook_dead",
            text="Deliveries that were given up: their last attempt failed, or their webhook is switched off.",
            kind="counter",
            read=lambda: delivering.dead,
        ),
    ]


def _reactor_measures(probe: ReactorProbe) -> list[Measure]:
    return [
        Measure(
            name="wsock_reactor_lag_seconds",
            text="How late a timer fired, ten samples a second: how long everything waits for its turn.",
            kind="histogram",
            read=lambda: probe.lag,
        ),
        Measure(
            name="wsock_reactor_turn_seconds",
            text="How long one turn of the reactor took without its idle time, ten samples a second.",
            kind="histogram",
            read=lambda: probe.turns,
        ),
        Measure(
            name="wsock_reactor_longest_seconds",
            text="The largest of both in the last minute.",
            kind="gauge",
            read=lambda: probe.longest,
        ),
        Measure(
            name="wsock_reactor_cpu_seconds",
            text="CPU time that the reactor's thread has used; at 1 a second a node has no more to give.",
            kind="counter",
            read=lambda: probe.cpu_seconds,
        ),
    ]


def _family(measure: Measure) -> CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily:
    labels = [measure.label] if measure.label is not None else None
    match measure.kind:
        case "counter":
            return CounterMetricFamily(measure.name, measure.text, labels=labels)
        case "gauge":
            return GaugeMetricFamily(measure.name, measure.text, labels=labels)
        case "histogram":
            return HistogramMetricFamily(measure.name, measure.text, labels=labels)


def _buckets(histogram: Histogram) -> list[tuple[str, int]]:
    """As Prometheus wants them: each with how many values are at most its bound."""
    bounds = map(floatToGoString, chain(histogram.bounds, [float("inf")]))
    return list(zip(bounds, accumulate(histogram.counts), strict=True))


def _bounded(values: Mapping[str, float]) -> dict[str, float]:
    if len(values) <= _MAX_LABELS:
        return dict(values)
    largest = sorted(values.items(), key=lambda item: item[1], reverse=True)
    bounded = dict(largest[: _MAX_LABELS - 1])
    bounded[_OTHER] = bounded.get(_OTHER, 0) + sum(number for _, number in largest[_MAX_LABELS - 1 :])
    return bounded
