"""The results as a table, with what a reader has to know about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from wsock.bench.results import ConnectionsResult, Report, StreamResult

__all__ = ["table"]

_BUSY = 0.9
_LATE_MS = 20.0
_MOST_ERRORS = 5


def table(report: Report) -> str:
    """The whole run, for people."""
    lines: list[str] = []
    for result in report.results:
        rows = _stream(result) if isinstance(result, StreamResult) else _connections(result)
        lines += ["", *_aligned(list(rows))]
    lines += ["", *(f"warning: {text}" for text in [*report.warnings, *_warnings(report)])]
    return "\n".join([*lines, _verdict(report), ""]).lstrip("\n")


def _stream(result: StreamResult) -> Iterator[tuple[str, str]]:
    how = f"{result.rate:,.0f} a second" if result.rate is not None else f"{result.window} of each without an answer"
    yield (
        result.scenario,
        (
            f"{_many(result.subscribers, 'subscriber')} of {_many(result.channels, 'channel')},"
            f" {_many(result.publishers, 'publisher')} of {result.size} bytes, {how}, {result.seconds:.1f} s"
        ),
    )
    yield "deliveries", f"{result.deliveries_per_second:,.0f} a second"
    yield "publishes", f"{result.publishes_per_second:,.0f} a second"
    if result.latency_ms:
        yield "latency", _percentiles(result.latency_ms)
    yield "counted", _counted(result)
    yield "faults", _faults(result)
    yield from _errors(result.errors)
    if result.server_cpu is not None:
        each = result.server_cpu_seconds_per_million
        costs = f", {each:.2f} s for a million deliveries" if each is not None else ""
        yield "server CPU", f"{result.server_cpu:.0%} of one core{costs}"
    yield "generator CPU", f"{result.generator_cpu:.0%} of one core"


def _connections(result: ConnectionsResult) -> Iterator[tuple[str, str]]:
    yield result.scenario, f"{_many(result.connections, 'connection')} made, 64 at once, and kept"
    yield "connects", f"{result.connects_per_second:,.0f} a second"
    yield "handshake", _percentiles(result.handshake_ms)
    if result.memory_bytes is None:
        yield "memory", f"unknown: {result.memory_why}"
    else:
        yield "memory", f"{result.memory_bytes:,.0f} bytes of the server's for each connection"
    yield from _errors(result.errors)
    if result.server_cpu is not None:
        yield "server CPU", f"{result.server_cpu:.0%} of one core"
    yield "generator CPU", f"{result.generator_cpu:.0%} of one core"


def _counted(result: StreamResult) -> str:
    refused = ", ".join(f"{count:,} refused ({code})" for code, count in sorted(result.refused.items()))
    return (
        f"{result.published:,} published, {result.accepted:,} accepted, {refused or '0 refused'},"
        f" {result.unanswered:,} without an answer, {result.deliveries:,} delivered"
    )


def _faults(result: StreamResult) -> str:
    faults = result.faults
    return (
        f"{faults.lost:,} lost, {faults.duplicates:,} duplicated, {faults.reordered:,} out of order,"
        f" {faults.strays:,} of other channels"
    )


def _errors(errors: dict[str, int]) -> Iterator[tuple[str, str]]:
    most = sorted(errors.items(), key=lambda item: -item[1])
    for text, count in most[:_MOST_ERRORS]:
        yield "error", f"{text} ({count} times)"
    if len(most) > _MOST_ERRORS:
        yield "error", f"and {len(most) - _MOST_ERRORS} more kinds"


def _warnings(report: Report) -> Iterator[str]:
    for result in report.results:
        if result.generator_cpu > _BUSY:
            advice = "more --processes, or another machine" if isinstance(result, StreamResult) else "another machine"
            yield (
                f"{result.scenario}: the load generator used {result.generator_cpu:.0%} of its core, so it may have"
                f" been the limit, not the server: try {advice}"
            )
        elif _waited(result):
            yield (
                f"{result.scenario}: neither the server nor the load generator was busy all the time. They waited for"
                " one another, so try a larger --window or more --publishers; or other programs had the CPU"
            )
        late = getattr(result, "generator_late_ms", 0.0)
        if late > _LATE_MS:
            yield (
                f"{result.scenario}: the load generator was up to {late:,.0f} ms late; that is part of the latencies."
                " It needs a core of its own, or a lower --rate"
            )


def _waited(result: StreamResult | ConnectionsResult) -> bool:
    """Whether the window was the limit."""
    if not isinstance(result, StreamResult) or result.window is None or result.server_cpu is None:
        return False
    return max(result.server_cpu, result.generator_cpu) < _BUSY


def _verdict(report: Report) -> str:
    if not report.results:
        return "interrupted before anything was measured"
    if report.failure:
        return f"FAILED: {report.failure}"
    told = "nothing was lost, duplicated, reordered or refused" if report.is_clean else "FAILED: see faults and errors"
    return f"interrupted; so far: {told}" if report.interrupted else told


def _percentiles(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:,.2f} ms" for name, value in values.items())


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _aligned(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    (head, load), *rest = rows
    yield f"{head:<16}{load}"
    for name, value in rest:
        yield f"  {name:<14}{value}"
