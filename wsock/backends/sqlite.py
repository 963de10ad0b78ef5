"""The embedded stores, in one SQLite file.

A database is started before and stopped after what uses it::

    database = SqliteDatabase(Path("wsock-data/wsock.db"), reactor)
    database.start()
    messages = SqliteMessages(database)
"""

from wsock.backends.sqlite_audit import SqliteAudit
from wsock.backends.sqlite_database import SqliteDatabase
from wsock.backends.sqlite_directory import SqliteDirectory
from wsock.backends.sqlite_messages import SqliteMessages
from wsock.backends.sqlite_meters import SqliteMeters
from wsock.backends.sqlite_outbox import SqliteOutbox
from wsock.backends.sqlite_push import SqliteDevices, SqlitePushJobs

__all__ = [
    "SqliteAudit",
    "SqliteDatabase",
    "SqliteDevices",
    "SqliteDirectory",
    "SqliteMessages",
    "SqliteMeters",
    "SqliteOutbox",
    "SqlitePushJobs",
]
