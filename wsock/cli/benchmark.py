"""``wsock bench``: measures a server; :mod:`wsock.bench` does it."""

from __future__ import annotations

import secrets
import signal
import sys
import time
from typing import Any, BinaryIO, cast

import click
import msgspec
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from wsock.bench import SCENARIOS, BenchError, CrewMember, Load, Pace, Report, Surroundings, TextProgress, run, table

__all__ = ["bench", "bench_member"]

_count = click.IntRange(min=1)
_rate = click.FloatRange(min=0, min_open=True)


@click.command()
@click.argument("url", default="ws://127.0.0.1:9001/?key=demo")
@click.option("--key", help="The API key; it may stand in the URL as well.")
@click.option("--token", help="A JWT instead of a key.")
@click.option("--ca", type=click.Path(), help="A certificate in PEM form to trust, for wss:// with one of your own.")
@click.option(
    "--scenario",
    "scenarios",
    type=click.Choice([*SCENARIOS, "all"]),
    multiple=True,
    default=["all"],
    show_default=True,
    help="What to measure; may be repeated.",
)
@click.option("--subscribers", type=_count, help="Subscribers (default: 200; latency: 100).")
@click.option("--channels", type=_count, help="Channels they are spread over (default: 1; latency: 10).")
@click.option("--publishers", type=_count, help="Publishers (default: 2; unicast: 4; latency: 1).")
@click.option("--connections", type=_count, default=1_000, show_default=True, help="Connections to make and keep.")
@click.option("--size", type=_count, default=100, show_default=True, metavar="BYTES", help="The data of a message.")
@click.option("--window", type=_count, help="Publishes of each publisher without an answer (default: 128).")
@click.option("--rate", type=_rate, help="Publishes a second, instead of a window (default of latency: 200).")
@click.option("--seconds", type=_rate, default=5.0, show_default=True, help="How long each scenario is measured.")
@click.option("--persist", is_flag=True, help="Publish messages that become history, which they do not by default.")
@click.option("--pid", type=_count, help="The server's process on this machine, for its memory and CPU time.")
@click.option("--processes", type=_count, default=1, show_default=True, help="Processes that the subscribers run in.")
@click.option("--json", "file", type=click.File("wb", lazy=False), help="Write the results there too.")
def bench(scenarios: tuple[str, ...], file: BinaryIO | None, window: int | None, **given: Any) -> None:
    """Measures the server at URL, and checks that it loses nothing.

    Without a URL it is the one that "twistd wsocket --dev" starts. Publishes to channels of its own, whose names begin
    with "wsock-bench-". The status is 1 when a message was lost, doubled, out of order or refused.
    """
    if window is not None and given["rate"] is not None:
        raise click.UsageError("--window and --rate exclude each other: as fast as it goes, or so many a second")
    chosen = SCENARIOS if "all" in scenarios else tuple(name for name in SCENARIOS if name in scenarios)
    report = _measured(Load(scenarios=chosen, window=window or 128, **given))
    if file is not None:
        file.write(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    click.echo(table(report))
    sys.exit(130 if report.interrupted else 0 if report.is_clean else 1)


def _measured(load: Load) -> Report:
    """Runs the reactor for a benchmark; the first Ctrl-C ends it early, a second one at once."""
    from twisted.internet import reactor

    surroundings = Surroundings(
        reactor=reactor,
        clock=time.monotonic_ns,
        cpu=time.process_time,
        prefix=f"wsock-bench-{secrets.token_hex(4)}",
        mask=secrets.token_bytes(4),
    )
    pace = Pace(cast(Any, reactor), TextProgress(sys.stderr, sys.stderr.isatty()))
    outcome: list[Report | Failure] = []
    loop: Any = reactor

    def start() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: _interrupt(loop, pace))
        running = Deferred.fromCoroutine(run(load, surroundings, pace))
        running.addBoth(outcome.append).addBoth(lambda _: loop.stop())

    loop.callWhenRunning(start)
    loop.run()
    [result] = outcome
    if isinstance(result, Failure):
        if result.check(BenchError):
            raise click.ClickException(result.getErrorMessage())
        result.raiseException()
    return result


def _interrupt(reactor: Any, pace: Pace) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    reactor.callFromThread(pace.interrupt)


@click.command("bench-member", hidden=True)
def bench_member() -> None:
    """A process of "wsock bench --processes N"."""
    from twisted.internet import reactor
    from twisted.internet.stdio import StandardIO

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal tells all processes; this one is told by the first
    loop: Any = reactor
    mask = secrets.token_bytes(4)
    member = CrewMember(reactor=reactor, clock=time.monotonic_ns, cpu=time.process_time, mask=mask)
    loop.callWhenRunning(StandardIO, member)
    loop.run(installSignalHandlers=False)
