"""Tests of wsock.backends.memory_directory."""

from __future__ import annotations

from tests.base import TestCase
from wsock.backends.memory_directory import MemoryDirectory
from wsock.testing.contracts.directory import DirectoryContract
from wsock.testing.contracts.records import RecordsContract


class MemoryDirectoryTests(DirectoryContract, TestCase):
    """The memory directory is an IDirectory."""

    async def make_directory(self) -> MemoryDirectory:
        return MemoryDirectory()


class MemoryRecordsTests(RecordsContract, TestCase):
    """The memory directory is an IRecords."""

    async def make_records(self) -> MemoryDirectory:
        return MemoryDirectory()
