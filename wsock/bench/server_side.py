"""What the server uses, as far as that can be seen from here: by its process, or by its ``/metrics``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from twisted.internet.defer import CancelledError
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool, readBody
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from wsock.bench.errors import BenchError
from wsock.bench.load import Target

__all__ = ["Metrics", "ProcessTree", "Usage", "UsageSource", "usage_source"]

_PATIENCE_SECONDS = 5.0
_MEMORY = "process_resident_memory_bytes"
_CPU = ("process_cpu_seconds_total", "wsock_reactor_cpu_seconds_total")


@dataclass(frozen=True, slots=True)
class Usage:
    """What the server uses at a moment; ``why`` says why something can't be told."""

    memory_bytes: int | None = None
    cpu_seconds: float | None = None
    why: str = ""


class UsageSource(Protocol):
    """Where the usage is read."""

    async def read(self) -> Usage:
        """What the server uses now; never fails."""


class ProcessTree:
    """A process of this machine with all its children, as Linux shows them in ``/proc``."""

    def __init__(self, pid: int, proc: Path = Path("/proc")) -> None:
        self._pid = pid
        self._proc = proc
        if not (proc / str(pid) / "stat").exists():
            raise BenchError(f"--pid: there is no process {pid} that this system shows in {proc}")

    async def read(self) -> Usage:
        """See :class:`UsageSource`."""
        try:
            stats = [self._stat(pid) for pid in self._family(self._pid)]
        except (OSError, ValueError, IndexError) as e:
            return Usage(why=f"the process {self._pid} can't be read any more: {e}")
        ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
        memory = sum(int(fields[21]) for fields in stats) * page
        return Usage(memory, sum(int(fields[11]) + int(fields[12]) for fields in stats) / ticks)

    def _stat(self, pid: int) -> list[str]:
        # The name of the program stands in parentheses, and may hold spaces and parentheses itself.
        return (self._proc / str(pid) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()

    def _family(self, pid: int) -> Iterator[int]:
        yield pid
        for task in (self._proc / str(pid) / "task").iterdir():
            for child in (task / "children").read_text().split():
                yield from self._family(int(child))


class Metrics:
    """The server's ``/metrics``, at the origin of the URL."""

    def __init__(self, target: Target, reactor: Any, policy: Any) -> None:
        self._url = f"{target.origin}/metrics"
        self._reactor = reactor
        # One connection for all reads: of several workers that share the port it stays with one.
        pool = HTTPConnectionPool(reactor, persistent=True)
        pool.maxPersistentPerHost = 1
        self._agent = Agent(reactor, policy, connectTimeout=_PATIENCE_SECONDS, pool=pool)

    async def read(self) -> Usage:
        """See :class:`UsageSource`."""
        try:
            response = await self._agent.request(b"GET", self._url.encode()).addTimeout(
                _PATIENCE_SECONDS, self._reactor
            )
            body = await readBody(response).addTimeout(_PATIENCE_SECONDS, self._reactor)
        except CancelledError:
            raise
        except Exception as e:  # whatever it is: that the server has no metrics here is no fault
            return Usage(why=f"{self._url} can't be read ({e}): give --pid")
        if response.code != 200:
            return Usage(why=f"{self._url} answers with HTTP status {response.code}: give --pid")
        return self._usage(body.decode("utf-8", "replace"))

    def _usage(self, text: str) -> Usage:
        values = {name: float(value) for name, value in re.findall(r"^([a-z_]+) ([0-9.e+-]+)$", text, re.MULTILINE)}
        memory = values.get(_MEMORY)
        cpu = next((values[name] for name in _CPU if name in values), None)
        if memory is None:
            return Usage(None, cpu, f"{self._url} does not tell {_MEMORY}: give --pid")
        return Usage(int(memory), cpu)


@implementer(IPolicyForHTTPS)
class _Trusting:
    """Uses the options of the WebSocket for HTTP as well: it is the same server."""

    def __init__(self, options: Any) -> None:
        self._options = options

    def creatorForNetloc(self, hostname: bytes, port: int) -> Any:  # noqa: N802  # Twisted's name
        """See IPolicyForHTTPS."""
        return self._options


def usage_source(target: Target, pid: int | None, reactor: Any, tls_options: Any) -> UsageSource:
    """Where the server's usage can be read. Raises :class:`BenchError` for a process that is not there."""
    if pid is not None:
        return ProcessTree(pid)
    return Metrics(target, reactor, _Trusting(tls_options) if tls_options is not None else BrowserLikePolicyForHTTPS())
