"""The test cases of this package: each class has a server in memory, each test channels and clients of its own."""

from __future__ import annotations

import atexit
import time
from signal import SIGTERM
from typing import Any, ClassVar

import jwt

from tests.base import SynchronousTestCase
from tests.e2e.node import Node, Program
from tests.e2e.wire import Wire

__all__ = ["NodeTestCase", "ProgramTestCase", "dev_token"]

DEV_SECRET = "demo-secret-for-development-only"


_nodes: dict[str, Node] = {}


def _shared(config: str) -> Node:
    """The server in memory with this configuration, started when it is first asked for."""
    if config not in _nodes:
        _nodes[config] = Node(config=config).start()
        atexit.register(_nodes[config].stop)
    return _nodes[config]


class NodeTestCase(SynchronousTestCase):
    """Tests that share a server in memory, which ends with the test run: trial has no fixtures of classes.

    ``config`` is its TOML file.
    """

    config: ClassVar[str] = ""
    node: Node

    def setUp(self) -> None:
        self.node = _shared(self.config)

    @property
    def channel(self) -> str:
        """A channel that no other test has."""
        return f"test:{type(self).__name__}:{self._testMethodName}"

    def connected(self, **options: Any) -> Wire:
        """A client."""
        wire = self.node.connect(**options)
        self.addCleanup(wire.socket.close)
        return wire

    def subscribed(self, *channels: str, **options: Any) -> Wire:
        """A client that is subscribed."""
        wire = self.connected(**options)
        wire.subscribe(*channels)
        return wire


class ProgramTestCase(SynchronousTestCase):
    """Tests of servers that each test starts for itself."""

    def node(self, *options: str, **how: Any) -> Node:
        """A server that is not started yet."""
        node = Node(*options, **how)
        self.addCleanup(node.stop)
        return node

    def connected(self, node: Node, **options: Any) -> Wire:
        """A client."""
        wire = node.connect(**options)
        self.addCleanup(wire.socket.close)
        return wire

    def run_python(self, *arguments: str, cwd: Any) -> Program:
        """A program that is ended with the test."""
        program = Program.python(*arguments, cwd=cwd)
        self.addCleanup(program.stop)
        return program

    def assert_graceful(self, program: Program) -> None:
        """A server that was told to end does all its work and then, as twistd does, dies of the signal it got."""
        self.assertEqual(program.ends(5), -SIGTERM)
        self.assertIn("Server Shut Down.", program.output)
        self.assertNotIn("Traceback", program.output)


def dev_token(sub: str, permissions: dict[str, list[str]] | None = None, seconds: int = 60) -> str:
    """A JWT for the app of ``--dev``."""
    now = int(time.time())  # noqa: TID251  # the server in the other process reads the same clock
    claims: dict[str, object] = {"sub": sub, "iat": now, "exp": now + seconds}
    if permissions is not None:
        claims["permissions"] = permissions
    return jwt.encode(claims, DEV_SECRET, algorithm="HS256", headers={"kid": "demo"})
