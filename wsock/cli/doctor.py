"""``wsock doctor``: whether a server can run here, and whether one that runs is well."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shutil
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import click

from wsock import __version__
from wsock.cli.api import Transport, Unreachable, check_url
from wsock.cli.output import Output, printable
from wsock.cli.remote import Surroundings
from wsock.cli.settings import config_option
from wsock.config import Resolved, resolve
from wsock.errors import ConfigError
from wsock.stores import is_data_in_use

__all__ = ["Finding", "doctor"]

_REQUIREMENTS = ("Twisted", "autobahn", "msgspec", "PyJWT", "cryptography", "argon2-cffi", "click")
_FREE_BYTES = 100 * 1_048_576
_FILES_FEW, _FILES_MANY = 1_024, 65_536
_EARLIEST = 1_767_225_600  # 2026-01-01: no clock that is right shows less


@click.command()
@config_option
@click.option("--dev", is_flag=True, help="Check for a start with --dev.")
@click.option("--url", metavar="URL", help="Check the server that runs there instead.")
@click.option("--cacert", type=click.Path(dir_okay=False), metavar="FILE", help="Certificates to trust, with --url.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object, for programs.")
@click.pass_context
def doctor(
    context: click.Context, file: Path | None, dev: bool, url: str | None, cacert: str | None, as_json: bool
) -> None:
    """Checks that a server can run here, and says what to do where it can't.

    With --url it asks the server that runs there whether it serves, and which version it is. The status is 1 when a
    check failed, and 3 when that server can't be reached.
    """
    if url is None:
        findings = list(_findings(file, {"dev": True} if dev else {}))
    else:
        surroundings = context.find_object(Surroundings) or Surroundings()
        place = check_url(url)
        findings = list(_running(surroundings.open_transport(place, cacert), place))
    Output(as_json=as_json).answer({"items": [asdict(one) for one in findings], "next": None}, lambda: _lines(findings))
    if any(finding.state == "FAIL" for finding in findings):
        sys.exit(1)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found. ``FAIL``: the server won't run; ``warn``: it will, but not well."""

    state: Literal["ok", "warn", "FAIL"]
    subject: str
    text: str


def _lines(findings: list[Finding]) -> str:
    return "\n".join(f"{finding.state:<5} {finding.subject}: {finding.text}" for finding in findings)


def _running(transport: Transport, url: str) -> Iterator[Finding]:
    """What a running server tells of itself. Raises :class:`Unreachable`."""
    reply = transport("GET", "/ready", {}, None)
    try:
        said = json.loads(reply.content)
        state = str(said["status"])
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise Unreachable(f"what answers at {url} is no wsock: /ready answers {reply.status}") from e
    if reply.status == 200:
        yield Finding("ok", f"server at {url}", printable(state))
    else:
        yield Finding("FAIL", f"server at {url}", printable(f"{state}: {said.get('error', 'its log tells why')}"))
    yield _version_of(transport, url)


def _version_of(transport: Transport, url: str) -> Finding:
    """From the API's description, which anybody may read."""
    subject = f"version of {url}"
    try:
        found = str(json.loads(transport("GET", "/api/openapi.json", {}, None).content)["info"]["version"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return Finding("warn", subject, "it tells none: it is older than this command, or a proxy keeps it back")
    if found != __version__:
        return Finding("warn", subject, printable(f"{found}, and this command is {__version__}: some may not fit"))
    return Finding("ok", subject, printable(found))


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
