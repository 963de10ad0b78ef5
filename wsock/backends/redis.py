"""What a cluster keeps in Redis: the broker, presence and counters.

A node that starts makes one :class:`RedisBroker` for all its servers; the other parts use its connections.
"""

from wsock.backends.redis_broker import Durability, RedisBroker

__all__ = ["Durability", "RedisBroker"]
