"""Clients that publish and connect again all the time, follow the rotation of a key, and keep book of every refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPConnection
from threading import Event, Lock, Thread
from typing import Any

import jwt

from tests.e2e.wire import Closed, Wire, connect

__all__ = ["Api", "Follower", "KeyPair", "Listener", "Load", "RestClient", "SocketClient", "token_of"]

_EACH = 20
_PAUSE_SECONDS = 0.01
_TOKEN_SECONDS = 7200


@dataclass(frozen=True, slots=True)
class KeyPair:
    """What the answer to a new key shows once."""

    id: str
    key: str
    secret: str

    @classmethod
    def of(cls, answer: dict[str, Any]) -> KeyPair:
        """The one of an answer."""
        return cls(answer["id"], answer["key"], answer["secret"])


def token_of(pair: KeyPair, sub: str, now: float, **claims: Any) -> str:
    """A JWT that this key signs."""
    claims = {"sub": sub, "iat": int(now), "exp": int(now) + _TOKEN_SECONDS, **claims}
    return jwt.encode(claims, pair.secret, algorithm="HS256", headers={"kid": pair.id})


class Api:
    """REST on one port."""

    def __init__(self, port: int, token: str = "") -> None:
        self.port = port
        self.token = token

    def ask(self, method: str, path: str, body: Any = None, *, token: str | None = None) -> tuple[int, Any]:
        """The status and the JSON of the answer, on a connection of its own."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            return _exchange(connection, method, path, body, self.token if token is None else token)
        finally:
            connection.close()


def _exchange(connection: HTTPConnection, method: str, path: str, body: Any, token: str) -> tuple[int, Any]:
    text = None if body is None else json.dumps(body)
    connection.request(method, path, text, {"Authorization": f"Bearer {token}"} if token else {})
    answer = connection.getresponse()
    content = answer.read()
    return answer.status, json.loads(content) if content else None


@dataclass
class Load:
    """What all clients share. ``current`` is the key that a client takes when it connects the next time.

    ``problems`` are refusals and lost connections, in words; ``accepted`` are the ids of what was acknowledged.
    """

    port: int
    channel: str
    current: list[KeyPair]
    now: Callable[[], float]
    stop: Event = field(default_factory=Event)
    accepted: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def problem(self, text: str) -> None:
        """Something went wrong that must not."""
        with self.lock:
            self.problems.append(text)

    def accept(self, ids: list[str]) -> None:
        """These were acknowledged."""
        with self.lock:
            self.accepted.update(ids)


class Follower:
    """A client. Which of the keys it takes is its ``stage``'s: they are moved in two stages.

    ``used`` is the id of the key that it works with, ``connects`` counts its connections.
    """

    def __init__(self, name: str, load: Load, stage: int, *, is_token: bool) -> None:
        self.name = name
        self.load = load
        self.stage = stage
        self.used = ""
        self.connects = 0
        self._is_token = is_token
        self._number = 0
        self._thread = Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begins to work."""
        self._thread.start()

    def join(self) -> None:
        """Returns when it has ended, within a time."""
        self._thread.join(30)
        if self._thread.is_alive():
            self.load.problem(f"{self.name} hangs")

    def credential(self) -> dict[str, Any]:
        """The one to connect with now."""
        pair = self.load.current[self.stage]
        self.used = pair.id
        if self._is_token:
            return {"token": token_of(pair, self.name, self.load.now())}
        return {"key": pair.key}

    def next_id(self) -> str:
        """A message id that nobody else has."""
        self._number += 1
        return f"{self.name}-{self._number:06}"

    def _run(self) -> None:
        while not self.load.stop.wait(_PAUSE_SECONDS):
            try:
                self.session()
            except (AssertionError, Closed, OSError) as e:
                self.load.problem(f"{self.name} with {self.used}: {type(e).__name__} {e}")
            self.connects += 1

    def session(self) -> None:
        """Connects, publishes some, and leaves."""
        raise AssertionError("what kind of client is it?")


class SocketClient(Follower):
    """One that publishes by WebSocket."""

    def session(self) -> None:
        """Each publish must be acknowledged."""
        wire = connect(self.load.port, **self.credential())
        ids = [self.next_id() for _ in range(_EACH)]
        for id in ids:
            wire.say(action="publish", channel=self.load.channel, id=id)
        for _ in ids:
            self.load.accept([wire.hear("ack")["id"]])
        wire.close()


class RestClient(Follower):
    """One that publishes by HTTP."""

    def session(self) -> None:
        """Each publish must be answered with 200."""
        connection = HTTPConnection("127.0.0.1", self.load.port, timeout=20)
        try:
            [token] = self.credential().values()
            for _ in range(_EACH // 4):
                id = self.next_id()
                path = f"/api/channels/{self.load.channel}/messages"
                status, answer = _exchange(connection, "POST", path, {"id": id}, token)
                assert status == 200, f"{status} {answer}"
                self.load.accept([id])
        finally:
            connection.close()


class Listener(Follower):
    """A subscriber. When its key has a successor it connects with that, goes on where it was, and leaves the old one.

    ``heard`` are the ids of all messages, in their order.
    """

    def __init__(self, name: str, load: Load, stage: int, *, is_token: bool) -> None:
        super().__init__(name, load, stage, is_token=is_token)
        self.heard: list[str] = []
        self.is_ready = Event()
        self._position: dict[str, Any] = {}

    def session(self) -> None:
        """Hears as long as its key is the current one."""
        wire = connect(self.load.port, **self.credential())
        if self._position:
            wire.say(action="resume", positions={self.load.channel: self._position})
        else:
            wire.say(action="subscribe", channel=self.load.channel)
        subscribed = wire.hear("subscribed")
        self._position = self._position or {key: subscribed[key] for key in ("epoch", "sequence")}
        self.is_ready.set()
        while self.load.current[self.stage].id == self.used and not self.load.stop.is_set():
            self._hear(wire)
        wire.close()

    def _hear(self, wire: Wire) -> None:
        # The answer to a ping is behind all that was there before: nobody waits for a message that never comes.
        wire.say(action="ping")
        while (event := wire.any_event())["action"] != "pong":
            if event["action"] == "message":
                self.heard.append(event["id"])
                self._position["sequence"] = event["sequence"]
            elif event["action"] != "ack":
                self.load.problem(f"{self.name}: {event}")
        self.load.stop.wait(_PAUSE_SECONDS)

    def catch_up(self) -> None:
        """Hears what came since it ended."""
        wire = connect(self.load.port, **self.credential())
        wire.say(action="resume", positions={self.load.channel: self._position})
        for event in wire.rest():
            if event["action"] == "message":
                self.heard.append(event["id"])
        wire.close()
