"""Tests of wsock.backends.redis_broker over real servers: the contract, and what is repaired after every trouble."""

from __future__ import annotations

from itertools import count

from twisted.internet.defer import CancelledError, Deferred, gatherResults

from tests.redis_cases import REACTOR, Node, RedisTestCase, TcpProxy
from tests.servers import RedisServer
from wsock.backends.redis import RedisBroker, Watch
from wsock.errors import Code, Gone, Refused, Unavailable
from wsock.protocol.messages import Receipt
from wsock.protocol.position import Position
from wsock.testing.contracts.broker import BrokerContract, DurableBrokerContract, make_publication

_ids = count(1)


class _ContractCase(RedisTestCase):
    broker: RedisBroker
    servers = 1

    async def make_broker(self, recovery_messages: int) -> RedisBroker:
        self.urls = [self.redis().url for _ in range(self.servers)]
        return await self.open_broker(recovery_messages)

    async def open_broker(self, recovery_messages: int) -> RedisBroker:
        node = await self.node(self.urls, recovery_messages=recovery_messages, history_messages=recovery_messages)
        return node.broker

    async def settled(self) -> None:
        """A message behind all others has been delivered, on each server."""
        for number in range(20):
            channel = f"settled-{number}"
            position = await self.broker.attach("app", channel)
            told = len(self.receiver.messages)  # type: ignore[attr-defined]  # of the contract
            await self.broker.publish(make_publication(channel=channel))
            await self.until(lambda: self.has_settled(channel, position.sequence + 1))
            self.receiver.heard = [  # type: ignore[attr-defined]  # of the contract
                heard
                for heard in self.receiver.heard  # type: ignore[attr-defined]  # of the contract
                if getattr(getattr(heard, "message", None), "channel", "") != channel
            ]
            self.assertLessEqual(told, told)

    def has_settled(self, channel: str, sequence: int) -> bool:
        return False
