"""A whole run: the scenarios one after the other, and what came of them."""

from __future__ import annotations

import resource
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from wsock import __version__
from wsock.bench.connection import Dialler, close_all, endpoints, tls_options
from wsock.bench.crew import Crew
from wsock.bench.errors import BenchError
from wsock.bench.listeners import Audience, Listeners
from wsock.bench.load import Load, Plan, Scenario, Target, check, plan, target
from wsock.bench.pace import Pace
from wsock.bench.results import ConnectionsResult, Report, StreamResult
from wsock.bench.scenarios import Generator, connections, stream
from wsock.bench.server_side import usage_source

__all__ = ["Surroundings", "run"]

_OTHER_FILES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What an entry point chooses. ``clock`` tells nanoseconds, ``cpu`` the CPU seconds of this process.

    ``prefix`` begins the name of each channel; ``mask`` are the four bytes that all frames of the run are masked with.
    """

    reactor: Any
    clock: Callable[[], int]
    cpu: Callable[[], float]
    prefix: str
    mask: bytes


async def run(load: Load, surroundings: Surroundings, pace: Pace) -> Report:
    """Measures. Raises :class:`BenchError` when something can't be; after an interruption it tells what there is."""
    check(load)
    where = target(load.url, load.key, load.token)
    options = tls_options(where, load.ca)
    report = Report(version=__version__, url=where.shown, processes=load.processes)
    streams = [name for name in load.scenarios if name != "connections"]
    plans: dict[Scenario, Plan] = {name: plan(load, name, surroundings.prefix) for name in streams}
    most = max([one.subscribers + one.publishers for one in plans.values()], default=0)
    allow_files(max(most, load.connections if "connections" in load.scenarios else 0) + _OTHER_FILES)
    generator = _generator(load, where, options, surroundings, pace)
    # Whatever is wrong is said at once; and from here on the address is known.
    await close_all([await generator.dialler.open()], surroundings.reactor)
    try:
        await measure(load, plans, generator, report)
    finally:
        pace.progress.clear()
    report.interrupted = pace.is_interrupted
    return report


async def measure(load: Load, plans: Mapping[Scenario, Plan], generator: Generator, report: Report) -> None:
    """Adds each scenario's result to the report, until one fails. Raises :class:`BenchError` if that is the first."""
    for name in load.scenarios:
        if generator.pace.is_interrupted:
            return
        work = stream(plans[name], generator) if name in plans else connections(load.connections, generator)
        try:
            result: StreamResult | ConnectionsResult | None = await work
        except BenchError as e:
            if not report.results:
                raise
            report.failure = f"{name}: {e}"  # what was measured before it is told all the same
            return
        report.results += [result] if result is not None else []


def _generator(load: Load, where: Target, options: Any, surroundings: Surroundings, pace: Pace) -> Generator:
    reactor, clock = surroundings.reactor, surroundings.clock
    dialler = Dialler(where, endpoints(where, reactor, options), reactor=reactor, clock=clock, mask=surroundings.mask)

    def audience(plan: Plan) -> Audience:
        if load.processes > 1:
            return Crew(load, plan, reactor=reactor)
        return Listeners(
            plan,
            range(plan.subscribers),
            dialler,
            reactor=reactor,
            clock=clock,
            is_wanted=lambda: not pace.is_interrupted,
        )

    return Generator(
        reactor=reactor,
        clock=clock,
        cpu=surroundings.cpu,
        pace=pace,
        dialler=dialler,
        usage=usage_source(where, load.pid, reactor, options),
        audience=audience,
    )


def allow_files(wanted: int) -> None:
    """Lets this process have so many open files, as far as it may. Raises :class:`BenchError`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise BenchError(
            f"so many connections need {wanted:,} open files, and the limit is {hard:,}: raise it with"
            f" 'ulimit -n {wanted}', or give less --subscribers and --connections"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else hard, hard))
