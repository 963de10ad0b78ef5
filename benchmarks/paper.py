"""From what single things cost to what a large installation needs: the plan on paper."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["ASSUMPTIONS", "Costs", "Need", "need"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What single things cost, as measured. CPU times are in microseconds of one core."""

    connection_bytes: float
    """Resident memory of a node for an idle connection."""
    channel_bytes: float
    """Resident memory of a node for a channel with one subscriber."""
    delivery_us: float
    """A node's time to bring a message to one more subscriber, in a write of its own."""
    message_us: float
    """A node's time for a message that it accepts or hears of, with its first subscriber: the upper bound of both."""
    redis_publish_us: float
    """Redis' time for a publish, without what each node adds."""
    redis_node_us: float
    """Redis' time for each node that hears of it."""
    redis_message_bytes: float
    """Memory of Redis for a message that is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """What is not measured but supposed; each can be replaced by what is known of a real application."""

    deliveries_per_connection: float = 0.1
    """Messages a second that reach one connection: one for each ten connections."""
    audience: int = 100
    """Subscribers of a message's channel."""
    channels_per_connection: float = 2.0
    node_bytes: float = 4e9
    """Memory of a node; a node is one process, and so one core."""
    kernel_bytes: float = 8_192.0
    """Memory of the system for one idle TCP connection, which no process shows."""
    cpu: float = 0.7
    """The part of a core that may be used, so that a peak or the loss of a node is no emergency."""
    memory: float = 0.7
    """The part of the memory that may be used."""
    kept_seconds: float = 120.0
    """How long Redis keeps a message: the recovery window."""
    shard_bytes: float = 8e9
    """Memory of a Redis shard."""


ASSUMPTIONS = Assumptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What so many connections need."""

    connections: int
    deliveries_per_second: float
    publishes_per_second: float
    nodes_for_memory: int
    nodes_for_cpu: int
    shards_for_cpu: int
    shards_for_memory: int
    redis_bytes: float

    @property
    def nodes(self) -> int:
        """Nodes, and so cores for them."""
        return max(self.nodes_for_memory, self.nodes_for_cpu)

    @property
    def shards(self) -> int:
        """Redis servers."""
        return max(self.shards_for_cpu, self.shards_for_memory)


def need(connections: int, costs: Costs, given: Assumptions = ASSUMPTIONS) -> Need:
    """What so many connections need, at these costs and under these assumptions.

    Each message is heard of by as many nodes as have a subscriber of its channel: spread evenly, these are as many as
    it has subscribers, or all nodes when those are fewer. That makes the nodes' work depend on their count, so it is
    looked for until it fits.
    """
    deliveries = connections * given.deliveries_per_connection
    publishes = deliveries / given.audience
    per_connection = costs.connection_bytes + given.kernel_bytes + costs.channel_bytes * given.channels_per_connection
    nodes_for_memory = math.ceil(connections * per_connection / (given.node_bytes * given.memory))
    nodes_for_cpu = 1
    while _cores(deliveries, publishes, max(nodes_for_cpu, nodes_for_memory), costs, given) > nodes_for_cpu * given.cpu:
        nodes_for_cpu += max(1, nodes_for_cpu // 100)
    hearing = min(given.audience, max(nodes_for_memory, nodes_for_cpu))
    redis_cores = publishes * (costs.redis_publish_us + costs.redis_node_us * hearing) / 1e6
    redis_bytes = publishes * given.kept_seconds * costs.redis_message_bytes
    return Need(
        connections=connections,
        deliveries_per_second=deliveries,
        publishes_per_second=publishes,
        nodes_for_memory=nodes_for_memory,
        nodes_for_cpu=nodes_for_cpu,
        shards_for_cpu=math.ceil(redis_cores / given.cpu),
        shards_for_memory=math.ceil(redis_bytes / (given.shard_bytes * given.memory)),
        redis_bytes=redis_bytes,
    )


def _cores(deliveries: float, publishes: float, nodes: int, costs: Costs, given: Assumptions) -> float:
    """The cores that all nodes use together. One node accepts a message, others only hear of it."""
    heard = publishes * min(given.audience, nodes)
    return (heard * costs.message_us + (deliveries - heard) * costs.delivery_us) / 1e6
