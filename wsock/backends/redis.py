"""What a cluster keeps in Redis: the broker, presence, counters, the work queue, and history from the logs.

A node makes one :class:`RedisBroker` for all its servers; the other parts use its connections.
"""

from wsock.backends.redis_broker import Durability, RedisBroker, Watch
from wsock.backends.redis_control import RedisControl
from wsock.backends.redis_counters import RedisCounters
from wsock.backends.redis_history import LogHistory, MergedHistory
from wsock.backends.redis_presence import RedisPresence
from wsock.backends.redis_queue import RedisQueue

__all__ = [
    "Durability",
    "LogHistory",
    "MergedHistory",
    "RedisBroker",
    "RedisControl",
    "RedisCounters",
    "RedisPresence",
    "RedisQueue",
    "Watch",
]
