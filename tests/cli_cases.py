"""The command ``wsock`` in this process: in an environment of its own, and before a server that is a script."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from tests.base import SynchronousTestCase
from wsock.cli import main
from wsock.cli.api import Reply, Transport, Unreachable
from wsock.cli.remote import Surroundings
from wsock.cli.saved import SavedSession, SessionFile

__all__ = ["NOW", "URL", "Asked", "CliCase", "ScriptedServer", "SessionCase", "session"]

NOW = 1_800_000_000.0
URL = "http://server.example:9001"


@dataclass(frozen=True)
class Asked:
    """A request that came."""

    url: str
    method: str
    path: str
    token: str
    body: Any
    headers: Mapping[str, str]


@dataclass
class ScriptedServer:
    """Answers requests with what it was told to: for each path one answer after the other, and the last one again."""

    asked: list[Asked] = field(default_factory=list)
    cacerts: list[str | None] = field(default_factory=list)
    _answers: dict[tuple[str, str], list[Reply]] = field(default_factory=dict)

    def answers(self, method: str, path: str, content: Any = None, status: int = 200) -> None:
        """From now on, or after the answers so far, this is answered; bytes as they are, ``None`` as nothing."""
        body = content if isinstance(content, bytes) else b"" if content is None else json.dumps(content).encode()
        self._answers.setdefault((method, path), []).append(Reply(status, body))

    def refuses(self, method: str, path: str, status: int, code: str, text: str = "no", **more: Any) -> None:
        """The same for a refusal."""
        self.answers(method, path, {"error": text, "code": code, **more}, status)

    def open(self, url: str, cacert: str | None) -> Transport:
        """The way to it."""
        self.cacerts.append(cacert)

        def send(method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> Reply:
            token = headers.get("Authorization", "").removeprefix("Bearer ")
            content = None if body is None else json.loads(body)
            self.asked.append(Asked(url, method, path, token, content, headers))
            known = self._answers.get((method, path.partition("?")[0]))
            if known is None:
                raise Unreachable(f"nothing is scripted for {method} {path}")
            return known.pop(0) if len(known) > 1 else known[0]

        return send


class CliCase(SynchronousTestCase):
    """The command, with no variable of the outside, and a directory of its own for what it keeps."""

    def setUp(self) -> None:
        foreign = ("WSOCK_", "STATE_DIRECTORY", "XDG_")
        self.home = Path(self.mktemp()).absolute()
        environ = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        self.patch(os, "environ", {**environ, "XDG_CONFIG_HOME": str(self.home)})

    def run_wsock(self, *args: str, input: str | None = None, obj: Any = None, **env: str) -> Result:
        """Runs ``wsock`` with these arguments."""
        return CliRunner().invoke(main, args, input=input, env=env, obj=obj, prog_name="wsock")


class SessionCase(CliCase):
    """The same, logged in to a scripted server."""

    def setUp(self) -> None:
        super().setUp()
        self.server = ScriptedServer()
        self.now: Callable[[], float] = lambda: NOW
        self.sessions = SessionFile(self.home / "wsock" / "session.json")
        self.sessions.keep(URL, session())

    def ask(self, *args: str, input: str | None = None, **env: str) -> Result:
        """Runs ``wsock`` before the server."""
        surroundings = Surroundings(open_transport=self.server.open, now=lambda: self.now(), environ=os.environ)
        return self.run_wsock(*args, input=input, obj=surroundings, **env)

    def told(self, *args: str, input: str | None = None, **env: str) -> str:
        """What a command prints that does what it was asked to."""
        result = self.ask(*args, input=input, **env)
        self.assertEqual(result.exit_code, 0, result.output)
        return result.stdout

    def json(self, *args: str, input: str | None = None, **env: str) -> Any:
        """The same as JSON."""
        return json.loads(self.told(*args, "--json", input=input, **env))

    def refused(self, status: int, *args: str, input: str | None = None, **env: str) -> str:
        """What a command says that ends with this status, on standard error."""
        result = self.ask(*args, input=input, **env)
        self.assertEqual(result.exit_code, status, result.output)
        return result.stderr


def session(token: str = "token-1", *, refresh_token: str = "refresh-1", seconds: float = 900) -> SavedSession:
    """A session that lasts so long."""
    return SavedSession(
        email="ana@example.org", token=token, refresh_token=refresh_token, expires_at=int((NOW + seconds) * 1000)
    )
