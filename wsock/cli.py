"""``wsock``: administration from a shell.

Each command answers for people by default, and says what to do next when something is wrong.
"""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import click
import msgspec
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from wsock import __version__
from wsock.bench import SCENARIOS, BenchError, CrewMember, Load, Pace, Report, Surroundings, TextProgress, run, table
from wsock.config import HIDDEN, Config, Resolved, describe, resolve
from wsock.errors import ConfigError
from wsock.stores import is_data_in_use

__all__ = ["Finding", "main"]

_REQUIREMENTS = ("Twisted", "autobahn", "msgspec", "PyJWT", "cryptography", "argon2-cffi", "click")
_FREE_BYTES = 100 * 1_048_576
_FILES_FEW, _FILES_MANY = 1_024, 65_536
_EARLIEST = 1_767_225_600  # 2026-01-01: no clock that is right shows less


@click.group()
@click.version_option(__version__, prog_name="wsock")
def main() -> None:
    """Administers a wsock server."""


_config_option = click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The TOML file with the settings (default: the variable WSOCK_CONFIG).",
)


@main.command()
@_config_option
@click.option("--json", "as_json", is_flag=True, help="A JSON object, for programs.")
def config(file: Path | None, as_json: bool) -> None:
    """Prints the effective settings and where each comes from; passwords are hidden."""
    try:
        resolved = resolve(file=file, environ=os.environ)
    except ConfigError as e:
        raise click.ClickException(str(e)) from e
    rows = [(s.key, _shown(resolved.config, s.key), resolved.sources[s.key]) for s in describe()]
    if as_json:
        click.echo(json.dumps({key: {"value": value, "source": source} for key, value, source in rows}, indent=2))
        return
    for key, value, source in rows:
        click.echo(f"{key} = {json.dumps(value)}  # {source}")


@main.command()
@_config_option
@click.option("--dev", is_flag=True, help="Check for a start with --dev.")
def doctor(file: Path | None, dev: bool) -> None:
    """Checks that a server can run here, and says what to do where it can't."""
    findings = list(_findings(file, {"dev": True} if dev else {}))
    for finding in findings:
        click.echo(f"{finding.state:<5} {finding.subject}: {finding.text}")
    if any(finding.state == "FAIL" for finding in findings):
        sys.exit(1)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found. ``FAIL``: the server won't run; ``warn``: it will, but not well."""

    state: Literal["ok", "warn", "FAIL"]
    subject: str
    text: str


_count = click.IntRange(min=1)
_rate = click.FloatRange(min=0, min_open=True)


@main.command()
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


@main.command("bench-member", hidden=True)
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


def _findings(file: Path | None, options: dict[str, Any]) -> Iterator[Finding]:
    yield from _versions()
    yield _clock(time.time())
    yield _open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    try:
        resolved = resolve(file=file, environ=os.environ, options=options)
    except ConfigError as e:
        yield Finding("FAIL", "settings", str(e))
        return
    yield _settings(resolved)
    if not resolved.config.dev:
        yield _data_directory(Path(resolved.config.data))
    for text in resolved.config.listen:
        yield _listen(text)


def _value(config: Config, key: str) -> Any:
    section, _, name = key.rpartition(".")
    return getattr(getattr(config, section) if section else config, name)


def _shown(config: Config, key: str) -> Any:
    value = _value(config, key)
    return "..." if key in HIDDEN and value else _hidden(value)


def _hidden(value: Any) -> Any:
    """The value without the user and password of a URL."""
    if isinstance(value, tuple):
        return [_hidden(part) for part in value]
    return re.sub(r"(?<=//)[^/@\s]+@", "...@", value) if isinstance(value, str) else value


def _versions() -> Iterator[Finding]:
    yield Finding("ok", "versions", f"wsock {__version__} on Python {sys.version.split()[0]}")
    for name in _REQUIREMENTS:
        try:
            yield Finding("ok", "versions", f"{name} {version(name)}")
        except PackageNotFoundError:
            yield Finding("FAIL", "versions", f"{name} is not installed; install wsock again with pip")


def _clock(now: float) -> Finding:
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < _EARLIEST:
        return Finding("FAIL", "clock", f"it is {shown}, which can't be; set the clock, or tokens are refused")
    return Finding("ok", "clock", f"it is {shown}")


def _open_files(limit: int) -> Finding:
    if limit == resource.RLIM_INFINITY or limit >= _FILES_MANY:
        return Finding("ok", "open files", "the limit leaves room for many connections")
    advice = (
        f"the limit is {limit}, and each connection takes one; raise it with LimitNOFILE= or 'ulimit -n {_FILES_MANY}'"
    )
    return Finding("FAIL" if limit < _FILES_FEW else "warn", "open files", advice)


def _settings(resolved: Resolved) -> Finding:
    given = sum(source != "default" for source in resolved.sources.values())
    return Finding("ok", "settings", f"valid; {given} given, the others are defaults ('wsock config' shows them)")


def _data_directory(path: Path) -> Finding:
    """Whether the store can write there; the server makes a directory that is missing."""
    subject, there = f"data in {path}", path
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):
            free = shutil.disk_usage(there).free
    except OSError as e:
        return Finding("FAIL", subject, f"can't write to {there}: {e.strerror}; give another directory as --data")
    if free < _FREE_BYTES:
        return Finding(
            "FAIL",
            subject,
            f"only {free // 1_048_576} MiB are free; make room or give another directory as --data",
        )
    user = ", in use by a running server" if is_data_in_use(path) else ""
    return Finding("ok", subject, f"writable, {free // 1_048_576} MiB free{user}")


def _listen(text: str) -> Finding:
    """Whether the endpoint is free, or taken by a server that lives."""
    subject = f"listen on {text}"
    kind, *parts = [part.replace("\\", "") for part in re.split(r"(?<!\\):", text)]
    named = dict(part.split("=", 1) for part in parts if "=" in part)
    plain = [part for part in parts if "=" not in part]
    port = named.get("port", plain[0] if plain else "")
    if kind not in ("tcp", "tcp6", "ssl") or not port.isdigit():
        return Finding("ok", subject, "not checked: only tcp: and ssl: endpoints are")
    host = named.get("interface", plain[1] if kind != "ssl" and len(plain) > 1 else "")
    return _port(subject, host or ("::" if kind == "tcp6" else ""), int(port), _answers_health)


def _port(subject: str, host: str, port: int, is_alive: Callable[[str, int], bool]) -> Finding:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, OverflowError) as e:
        if getattr(e, "errno", None) != errno.EADDRINUSE:
            reason = getattr(e, "strerror", None) or str(e)
            return Finding("FAIL", subject, f"can't be bound: {reason}; give another with --listen")
        if is_alive(host, port):
            return Finding("ok", subject, "in use by a server that answers /health")
        return Finding("FAIL", subject, "in use by another program; end it, or give another port with --listen")
    return Finding("ok", subject, "free")


def _answers_health(host: str, port: int) -> bool:
    address = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    try:
        with urllib.request.urlopen(f"http://{address}:{port}/health", timeout=2) as reply:
            return isinstance(json.loads(reply.read(65_536)), dict)
    except (OSError, ValueError, urllib.error.URLError):
        return False
