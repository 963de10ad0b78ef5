"""Devices and pushes to many of them are kept alike in memory, in SQLite and in MongoDB."""

from __future__ import annotations

from tests.base import TestCase
from tests.test_backends_mongo import MongoTestCase
from tests.test_backends_sqlite import SqliteTestCase
from wsock.backends.memory_push import MemoryDevices, MemoryPushJobs
from wsock.backends.mongo import MongoDevices, MongoPushJobs
from wsock.backends.sqlite import SqliteDevices, SqlitePushJobs
from wsock.testing.contracts.push import DeviceStoreContract, PushJobsContract


class MemoryDevicesTests(DeviceStoreContract, TestCase):
    """The memory store is an IDeviceStore."""

    async def make_devices(self) -> MemoryDevices:
        return MemoryDevices()


class SqliteDevicesTests(DeviceStoreContract, SqliteTestCase):
    """SQLite is an IDeviceStore."""

    async def make_devices(self) -> SqliteDevices:
        return SqliteDevices(self.open())


class MongoDevicesTests(DeviceStoreContract, MongoTestCase):
    """MongoDB is an IDeviceStore."""

    async def make_devices(self) -> MongoDevices:
        return MongoDevices(await self.open())


class MemoryPushJobsTests(PushJobsContract, TestCase):
    """The memory store is an IPushJobs."""

    async def make_jobs(self) -> MemoryPushJobs:
        return MemoryPushJobs()


class SqlitePushJobsTests(PushJobsContract, SqliteTestCase):
    """SQLite is an IPushJobs."""

    async def make_jobs(self) -> SqlitePushJobs:
        return SqlitePushJobs(self.open())


class MongoPushJobsTests(PushJobsContract, MongoTestCase):
    """MongoDB is an IPushJobs."""

    async def make_jobs(self) -> MongoPushJobs:
        return MongoPushJobs(await self.open())
