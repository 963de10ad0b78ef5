"""Tests for :mod:`wsock.bench.server_side`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.testing import MemoryReactorClock, StringTransport
from zope.interface.verify import verifyObject

from tests.base import SynchronousTestCase
from wsock.bench.errors import BenchError
from wsock.bench.load import Target
from wsock.bench.server_side import Metrics, ProcessTree, Usage, usage_source

_TARGET = Target("127.0.0.1", 9001, False, "/", False)
_TEXT = b"""# HELP process_resident_memory_bytes Resident memory size in bytes.
process_resident_memory_bytes 1.048576e+06
process_cpu_seconds_total 2.5
wsock_reactor_cpu_seconds_total 1.5
wsock_connections 3.0
"""


def _process(proc: Path, pid: int, children: str, pages: int, ticks: int) -> None:
    directory = proc / str(pid) / "task" / str(pid)
    directory.mkdir(parents=True)
    (directory / "children").write_text(children)
    fields = ["0"] * 40
    fields[11], fields[12], fields[21] = str(ticks), str(ticks), str(pages)
    (proc / str(pid) / "stat").write_text(f"{pid} (a (b) c) {' '.join(fields)}\n")


class ProcessTreeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.proc = Path(self.mktemp())

    def test_with_children(self) -> None:
        """A process is told with its children and theirs, whatever it is called."""
        _process(self.proc, 10, "11 12 ", 1, 100)
        _process(self.proc, 11, "", 2, 200)
        _process(self.proc, 12, "13", 4, 0)
        _process(self.proc, 13, "", 8, 0)

        usage = self.successResultOf(Deferred.fromCoroutine(ProcessTree(10, self.proc).read()))

        self.assertEqual(usage.memory_bytes, 15 * os.sysconf("SC_PAGE_SIZE"))
        self.assertEqual(usage.cpu_seconds, 600 / os.sysconf("SC_CLK_TCK"))

    def test_gone(self) -> None:
        """One that is not there is an error; one that goes is a reason."""
        self.assertRaises(BenchError, ProcessTree, 10, self.proc)
        _process(self.proc, 10, "11", 1, 100)

        usage = self.successResultOf(Deferred.fromCoroutine(ProcessTree(10, self.proc).read()))

        self.assertIsNone(usage.memory_bytes)
        self.assertIn("can't be read", usage.why)


class MetricsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        source = usage_source(_TARGET, None, self.reactor, None)
        assert isinstance(source, Metrics)
        self.reading = Deferred.fromCoroutine(source.read())

    def answer(self, status: str, body: bytes) -> Usage:
        """What is read from this answer."""
        [(host, port, factory, _, _)] = self.reactor.tcpClients
        self.assertEqual((host, port), ("127.0.0.1", 9001))
        protocol: Any = factory.buildProtocol(None)
        transport = StringTransport()
        verifyObject(IPushProducer, transport)
        protocol.makeConnection(transport)
        self.assertTrue(transport.value().startswith(b"GET /metrics HTTP/1.1\r\n"))
        protocol.dataReceived(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status.encode(), len(body), body))
        usage: Usage = self.successResultOf(self.reading)
        return usage

    def test_all(self) -> None:
        """Memory and CPU time are those of the process."""
        self.assertEqual(self.answer("200 OK", _TEXT), Usage(1_048_576, 2.5))

    def test_without_memory(self) -> None:
        """Where memory is not told, the reason says what to do; the CPU time may be the reactor's."""
        usage = self.answer("200 OK", _TEXT.partition(b"process_cpu")[2].partition(b"\n")[2])

        self.assertEqual((usage.memory_bytes, usage.cpu_seconds), (None, 1.5))
        self.assertIn("give --pid", usage.why)

    def test_no_metrics(self) -> None:
        """Without metrics there is a reason."""
        self.assertIn("status 404", self.answer("404 Not Found", b"").why)

    def test_silence(self) -> None:
        """A server that does not answer is not waited for."""
        self.reactor.advance(6)

        self.assertIn("can't be read", self.successResultOf(self.reading).why)


class SourceTests(SynchronousTestCase):
    def test_process(self) -> None:
        """A process that is given is what is read."""
        self.assertIsInstance(usage_source(_TARGET, os.getpid(), MemoryReactorClock(), None), ProcessTree)
        self.assertRaises(BenchError, usage_source, _TARGET, 1 << 30, MemoryReactorClock(), None)
