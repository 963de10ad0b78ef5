"""Several processes on one port, from the command line to the last of them."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.cases import ProgramTestCase
from tests.e2e.node import Program, free_port
from tests.e2e.wire import Closed, Wire, connect
from tests.servers import fresh_name, redis_binary, redis_server

_TWISTD = "from twisted.scripts.twistd import run; run()"
_CONNECTIONS = 40
_PATIENCE_SECONDS = 10.0


class WorkersTests(ProgramTestCase):
    """``twistd wsocket --workers``."""

    if sys.platform != "linux":
        skip = "only Linux spreads connections over processes, and tells whose they are"

    def setUp(self) -> None:
        self.port = free_port()
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.channel = fresh_name()

    def start(self, *options: str, path: str | None = None) -> Program:
        """Starts a server in memory, which ends with the test."""
        listen = f"tcp:{self.port}:interface=127.0.0.1"
        run = ["-c", _TWISTD, "--nodaemon", "--pidfile=", "wsocket", "--listen", listen]
        env = None if path is None else {"PATH": path}
        program = Program.python(*run, *options, cwd=self.directory, env=env)
        self.addCleanup(program.stop)
        return program

    def serving(self, *options: str, path: str | None = None) -> Program:
        """Two workers that serve."""
        program = self.start("--dev", "--workers", "2", *options, path=path)
        program.says("all 2 workers serve")
        return program

    def serving_with_redis(self) -> tuple[Program, list[int]]:
        """Two workers with a Redis of their own, and all processes but the first."""
        directory = self.directory / "bin"
        directory.mkdir()
        (directory / "redis-server").symlink_to(redis_binary())
        program = self.serving(path=str(directory))
        return program, [*worker_pids(program), *pids(program, r"the workers' Redis runs as process (\d+)")]

    def subscribed(self) -> Iterator[Wire]:
        """A crowd of subscribers."""
        for _ in range(_CONNECTIONS):
            wire = connect(self.port, key="demo")
            self.addCleanup(wire.socket.close)
            wire.subscribe(self.channel)
            yield wire

    def assert_fails(self, program: Program, *words: str) -> None:
        """It ends with status 1 and one line that has these words."""
        self.assertEqual(program.ends(), 1)
        text = program.output + program.errors
        lines = [line for line in text.splitlines() if "wsocket:" in line or "can't start" in line]
        self.assertEqual(len(lines), 1, text)
        for word in words:
            self.assertIn(word, lines[0])
        self.assertNotIn("Traceback", text)

    def test_share_and_survive(self) -> None:
        """Connections are spread; what one publishes reaches all; the end of one worker is not that of the others."""
        program = self.serving("--redis", redis_server().url)
        wires = list(self.subscribed())
        owners = worker_pids(program)
        self.assertEqual(len(owners), 2)
        counts = connections_of(owners, self.port)
        self.assertEqual(sum(counts.values()), _CONNECTIONS)
        self.assertTrue(all(counts.values()), counts)
        self.assert_reaches_all(wires, "first")

        os.kill(owners[0], signal.SIGKILL)
        program.says(r"worker 1 was ended by signal 9; it is started again")
        alive = [wire for wire in wires if not is_cut(wire)]
        self.assertEqual(len(alive), counts[owners[1]])
        self.assert_reaches_all(alive, "second")
        program.says(r"(?s)started again.*worker 1 runs as process \d+.*serves on")
        late = connect(self.port, key="demo")
        self.addCleanup(late.socket.close)

        program.terminate()
        self.assert_graceful(program)
        self.assert_ended(worker_pids(program))
        self.assertRaises(ConnectionResetError, alive[0].event)  # to come back to another node

    def test_own_redis(self) -> None:
        """With a Redis on the PATH none has to run; all end together."""
        program, processes = self.serving_with_redis()
        self.assert_reaches_all(list(self.subscribed()), "hello")

        program.terminate()
        self.assert_graceful(program)
        self.assert_ended(processes)

    def test_parent_is_killed(self) -> None:
        """Nothing is left when the first process is killed."""
        program, processes = self.serving_with_redis()
        program.kill()

        self.assert_ended(processes)

    def test_busy_port(self) -> None:
        """A port in use is said at once, before a worker is started."""
        with socket.create_server(("127.0.0.1", self.port)):
            program = self.start("--dev", "--workers", "2", "--redis", redis_server().url)
            self.assert_fails(program, str(self.port), "already in use")
        self.assertEqual(worker_pids(program), [])

    def test_second_server(self) -> None:
        """Two servers do not get into each other's port by mistake."""
        self.serving("--redis", redis_server().url)

        self.assert_fails(self.start("--dev", "--workers", "2", "--redis", redis_server().url), "already in use")

    def test_no_redis(self) -> None:
        """Without a Redis on the PATH it says what to do."""
        self.assert_fails(self.start("--dev", "--workers", "2", path=""), "redis-server", "--redis")

    def test_no_mongo(self) -> None:
        """Outside of --dev it says what is missing."""
        self.assert_fails(self.start("--workers", "2"), "--mongo")

    def test_not_a_number(self) -> None:
        """A wrong number is one line as well."""
        self.assert_fails(self.start("--dev", "--workers", "some"), "workers", "a whole number from 1 to 256")

    def test_redis_is_away(self) -> None:
        """When the first worker can't start, its reason is there and nothing is left running."""
        program = self.start("--dev", "--workers", "2", "--redis", f"redis://127.0.0.1:{free_port()}")

        self.assertEqual(program.ends(), 1)
        self.assertIn("can't start: worker 1 ended with status 1 before it served", program.output)
        self.assert_ended(worker_pids(program))

    def test_one(self) -> None:
        """One worker is a server as always."""
        program = self.start("--dev", "--workers", "1")
        program.says("serves on")

        self.assertEqual(worker_pids(program), [])

    def assert_reaches_all(self, wires: list[Wire], data: str) -> None:
        """What the first one publishes, all are told."""
        wires[0].say(action="publish", channel=self.channel, data=data)
        for wire in wires:
            self.assertEqual(wire.await_("message")["data"], data)

    def assert_ended(self, numbers: list[int]) -> None:
        """None of these processes is left."""
        self.assertTrue(numbers)
        for number in numbers:
            with contextlib.suppress(ProcessLookupError):  # there is nobody to reap it: it may be a zombie
                watched = os.pidfd_open(number)
                self.addCleanup(os.close, watched)
                ended, _, _ = select.select([watched], [], [], _PATIENCE_SECONDS)
                self.assertTrue(ended, f"process {number} still runs")


def pids(program: Program, pattern: str) -> list[int]:
    """The numbers of processes that the log names."""
    return [int(number) for number in re.findall(pattern, program.output)]


def worker_pids(program: Program) -> list[int]:
    """The processes that were workers."""
    return pids(program, r"worker \d+ runs as process (\d+)")


def connections_of(owners: list[int], port: int) -> dict[int, int]:
    """How many connections to the port each process has."""
    inodes = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(f":{port:04X}") and fields[3] == "01":
            inodes.add(f"socket:[{fields[9]}]")
    return {owner: len(inodes.intersection(open_files(owner))) for owner in owners}


def open_files(owner: int) -> Iterator[str]:
    """What the descriptors of a process are."""
    for file in Path(f"/proc/{owner}/fd").iterdir():
        with contextlib.suppress(OSError):
            yield os.readlink(file)


def is_cut(wire: Wire) -> bool:
    """Whether the connection has ended."""
    try:
        wire.rest()
    except (Closed, OSError):
        return True
    return False
