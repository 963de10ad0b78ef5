"""Questions to every node of a cluster, over the pub/sub of its first Redis server.

A question is published on one topic, and in the same script the leases of :mod:`wsock.backends.redis_nodes` are read:
whose lease lasts is a node that is waited for. Each node has a topic of its own for answers. Pub/sub forgets, and no
question is repeated: without an answer that does not come in time the others are not complete; later it is ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from wsock.backends.redis_broker import RedisBroker
from wsock.backends.redis_link import RedisConnection, Script
from wsock.backends.respondent import Respondent
from wsock.errors import Unavailable
from wsock.interfaces import Answers, IControl

__all__ = ["RedisControl"]

_TOPIC = b"wsock:control"
_MAX_ASKED = 64
_RETRY_SECONDS = 1.0

_ask = Script.load("control_ask")


class _Question(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A question of a node; without a ``number`` it is a notice."""

    node: str
    number: int
    text: bytes


class _Answer(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a node answers to a question of this number."""

    node: str
    number: int
    answers: Answers


_decode_question = msgspec.msgpack.Decoder(_Question).decode
_decode_answer = msgspec.msgpack.Decoder(_Answer).decode


class _Asked:
    """A question of this node that is under way; ``gathered`` fires when nothing more is to come."""

    def __init__(self, own: Answers) -> None:
        self.gathered: Deferred[Answers] = Deferred()
        self._parts = list(own.parts)
        self._is_complete = own.is_complete
        self._answered: set[str] = set()
        self._expected: set[str] | None = None

    def sent(self, expected: set[str]) -> None:
        """These nodes are to answer."""
        self._expected = expected
        self._look()

    def answer(self, node: str, answers: Answers) -> None:
        """A node has answered: at most once."""
        if node not in self._answered:
            self._answered.add(node)
            self._parts += answers.parts
            self._is_complete = self._is_complete and answers.is_complete
            self._look()

    def give_up(self) -> None:
        """Who has not answered by now, does not."""
        if not self.gathered.called:
            self.gathered.callback(Answers(self._parts, False))

    def _look(self) -> None:
        if not self.gathered.called and self._expected is not None and self._expected <= self._answered:
            self.gathered.callback(Answers(self._parts, self._is_complete))


@implementer(IControl)
class RedisControl:
    """Asks the nodes that hold a lease on the broker's first server.

    ``node`` names this process as its lease does. Start it before the lease begins, stop it after that has ended: who
    has one is waited for. A half-open subscription is found within two ``probe_seconds``.
    """

    _log = Logger()

    def __init__(self, broker: RedisBroker, reactor: Any, node: str, *, probe_seconds: float = 4.0) -> None:
        shard = broker.shards[0]
        self._reactor = reactor
        self._node = node
        self._own_topic = _answers_topic(node)
        self._respondent = Respondent()
        self._commands = shard.connect(scripts=(_ask,))
        self._subscriptions = shard.connect(prepare=self._subscribe, on_message=self._received)
        self._numbers = count(1)
        self._asked: dict[int, _Asked] = {}
        self._probe_seconds = probe_seconds
        self._probed_at: float | None = None
        self._probing = LoopingCall(self._probe)
        self._probing.clock = reactor

    def listen(self, answer: Callable[[bytes], bytes | None]) -> None:
        """Names who answers."""
        self._respondent.answer = answer

    async def start(self) -> None:
        """Connects; fails when the server can't be reached now."""
        connections = (self._commands, self._subscriptions)
        for connection in connections:
            connection.start()
        for connection in connections:
            await connection.when_up()
        self._probing.start(self._probe_seconds, now=False)

    async def stop(self) -> None:
        """Disconnects. What is asked gets no further answers."""
        if self._probing.running:
            self._probing.stop()
        for asked in list(self._asked.values()):
            asked.give_up()
        await self._subscriptions.stop()
        await self._commands.stop()

    # Asking.

    async def ask(self, question: bytes, timeout: float) -> Answers:
        """The answers of all nodes that gave one in time."""
        if len(self._asked) >= _MAX_ASKED:
            text = f"{_MAX_ASKED} questions to the nodes are under way already: repeat the request"
            raise Unavailable(text, retry_after=_RETRY_SECONDS)
        number = next(self._numbers)
        asked = self._asked[number] = _Asked(self._respondent.ask(question))
        deadline = self._reactor.callLater(timeout, asked.give_up)
        self._publish(_Question(self._node, number, question), asked)
        try:
            return await asked.gathered
        finally:
            del self._asked[number]
            if deadline.active():
                deadline.cancel()

    def _publish(self, question: _Question, asked: _Asked) -> None:
        publishing = self._commands.run(_ask, _TOPIC, msgspec.msgpack.encode(question))
        publishing.addCallback(lambda leases: asked.sent({_node_of(lease) for lease in leases} - {self._node}))
        publishing.addErrback(self._not_asked, asked)

    def _not_asked(self, failure: Failure, asked: _Asked) -> None:
        if not failure.check(Unavailable, CancelledError):
            self._log.failure("the nodes could not be asked", failure=failure)
        asked.give_up()

    async def tell(self, notice: bytes) -> None:
        """This node hears it at once, the others as soon as Redis has it."""
        self._respondent.ask(notice)
        await self._commands.call("PUBLISH", _TOPIC, msgspec.msgpack.encode(_Question(self._node, 0, notice)))

    # What arrives.

    async def _subscribe(self, connection: RedisConnection) -> None:
        self._probed_at = None
        for topic in (_TOPIC, self._own_topic):
            await connection.call("SUBSCRIBE", topic)

    def _received(self, topic: bytes, payload: bytes) -> None:
        try:
            if topic == _TOPIC:
                self._questioned(_decode_question(payload))
            elif payload:
                self._answered(_decode_answer(payload))
            else:
                self._probed_at = None
        except msgspec.MsgspecError as e:
            self._log.warn("what came from another node can't be read: {reason}", reason=str(e))

    def _questioned(self, question: _Question) -> None:
        if question.node == self._node:
            return
        answers = self._respondent.ask(question.text)
        if question.number:
            answer = msgspec.msgpack.encode(_Answer(self._node, question.number, answers))
            # When that fails, the asker finds the answer missing.
            self._commands.call("PUBLISH", _answers_topic(question.node), answer).addErrback(lambda _: None)

    def _answered(self, answer: _Answer) -> None:
        asked = self._asked.get(answer.number)
        if asked is not None:
            asked.answer(answer.node, answer.answers)

    # Watching.

    def _probe(self) -> None:
        """Finds a half-open connection: what this node tells itself must come back."""
        now = self._reactor.seconds()
        if self._probed_at is not None and now - self._probed_at >= self._probe_seconds * 0.9:
            self._log.warn("nothing comes through the connection for questions: it is made anew")
            self._probed_at = None
            self._subscriptions.abort()
        elif self._subscriptions.is_up and self._commands.is_up:
            self._probed_at = now if self._probed_at is None else self._probed_at
            self._commands.call("PUBLISH", self._own_topic, b"").addErrback(self._not_probed)

    def _not_probed(self, _: object) -> None:
        self._probed_at = None


def _answers_topic(node: str) -> bytes:
    return b"%b:%b" % (_TOPIC, node.encode())


def _node_of(lease: bytes) -> str:
    """The node whose incarnation the lease is."""
    return lease.rpartition(b".")[0].decode()
