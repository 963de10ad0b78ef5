"""The history, the directory and the outbox of a cluster, in MongoDB.

A database is started before and stopped after what uses it::

    database = MongoDatabase("mongodb://user:password@host/wsock", reactor)
    await database.start()
    messages = MongoMessages(database, ttl_seconds=604_800)
    directory = MongoDirectory(database)
    outbox = MongoOutbox(database)
"""

from wsock.backends.mongo_audit import MongoAudit
from wsock.backends.mongo_database import MongoDatabase
from wsock.backends.mongo_directory import MongoDirectory
from wsock.backends.mongo_messages import MongoMessages
from wsock.backends.mongo_meters import MongoMeters
from wsock.backends.mongo_outbox import MongoOutbox
from wsock.backends.mongo_push import MongoDevices, MongoPushJobs

__all__ = [
    "MongoAudit",
    "MongoDatabase",
    "MongoDevices",
    "MongoDirectory",
    "MongoMessages",
    "MongoMeters",
    "MongoOutbox",
    "MongoPushJobs",
]
