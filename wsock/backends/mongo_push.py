"""Devices of a cluster, and pushes to many of them, in MongoDB."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

import msgspec
from msgspec.structs import replace
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError
from zope.interface import implementer

from wsock.backends.mongo_database import MongoDatabase
from wsock.backends.mongo_schema import PUSH_DEVICES, PUSH_JOBS
from wsock.interfaces import Audience, Device, IDeviceStore, IPushJobs, PushJob, Registration

__all__ = ["MongoDevices", "MongoPushJobs"]

_Document = dict[str, Any]

_ATTEMPTS = 5

_encode = msgspec.json.encode
_device = msgspec.json.Decoder(Device).decode
_job_of = msgspec.json.Decoder(PushJob).decode


@implementer(IDeviceStore)
class MongoDevices:
    """Keeps a document for each device, on the majority's disks when a call returns."""

    def __init__(self, database: MongoDatabase) -> None:
        self._database = database

    async def put(self, registration: Registration) -> Registration:
        """Stores a device: see :class:`IDeviceStore`."""
        return await self._database.write(partial(_put, registration))

    async def find(self, app: str, id: str) -> Registration | None:
        """The device of this id."""
        found = await self.page(app, Audience(ids=(id,)), None, 1)
        return found[0] if found else None

    async def page(self, app: str, audience: Audience, cursor: str | None, limit: int) -> list[Registration]:
        """A part of the audience."""
        where = _where(app, audience)
        if cursor is not None:
            where = {"$and": [where, {"id": {"$gt": cursor}}]}
        return await self._database.read(partial(_page, where, limit))

    async def count(self, app: str, audience: Audience) -> int:
        """How many devices the audience has."""
        return await self._database.read(partial(_count, _where(app, audience)))

    async def join(self, app: str, audience: Audience, channel: str, most: int) -> int:
        """The devices want the channel too."""
        has_room = {f"channels.{most - 1}": {"$exists": False}}
        where = {"$and": [_where(app, audience), {"$or": [{"channels": channel}, has_room]}]}
        return await self._database.write(partial(_update, where, {"$addToSet": {"channels": channel}}))

    async def part(self, app: str, audience: Audience, channel: str) -> int:
        """The devices don't want the channel any more."""
        where = {"$and": [_where(app, audience), {"channels": channel}]}
        return await self._database.write(partial(_update, where, {"$pull": {"channels": channel}}))

    async def remove(self, app: str, audience: Audience, limit: int, until: int | None = None) -> int:
        """Deletes devices."""
        where = _where(app, audience)
        if until is not None:
            where["updated_at"] = {"$lte": until}
        return await self._database.write(partial(_delete, PUSH_DEVICES, where, limit))

    async def apps(self) -> list[str]:
        """The apps with devices."""
        return await self._database.read(partial(_apps, PUSH_DEVICES))


def _where(app: str, audience: Audience) -> _Document:
    where: _Document = {"app": app}
    if audience.ids is not None:
        where["id"] = {"$in": list(audience.ids)}
    if audience.members is not None:
        where["member"] = {"$in": list(audience.members)}
    if audience.platform is not None:
        where["platform"] = audience.platform
    if audience.channel is not None:
        where["channels"] = audience.channel
    return where


async def _put(registration: Registration, database: Any) -> Registration:
    """Replaces what is there, or adds it; again where another node was faster."""
    collection = database[PUSH_DEVICES]
    place = {"app": registration.app, "reached": registration.reached}
    for _ in range(_ATTEMPTS):
        known = await collection.find_one(place)
        stored = registration if known is None else _registration(known).again(registration)
        document = _document(stored)
        if known is not None:
            seen = {**place, "updated_at": known["updated_at"], "channels": known["channels"]}
            replaced = await collection.replace_one(seen, document)
            if replaced.matched_count:
                return stored
            continue
        try:
            await collection.insert_one(document)
        except DuplicateKeyError:
            continue
        return stored
    raise RuntimeError(f"the device {registration.id} is being changed by others all the time")


async def _page(where: _Document, limit: int, database: Any) -> list[Registration]:
    cursor = database[PUSH_DEVICES].find(where, limit=limit, batch_size=limit)
    cursor.sort([("id", 1)])
    return [_registration(document) async for batch in cursor.batches() for document in batch]


async def _count(where: _Document, database: Any) -> int:
    return int(await database[PUSH_DEVICES].count(where))


async def _update(where: _Document, update: _Document, database: Any) -> int:
    return int((await database[PUSH_DEVICES].update_many(where, update)).matched_count)


async def _delete(collection: str, where: _Document, limit: int, database: Any) -> int:
    found = await database[collection].find(where, projection={"_id": 1}, limit=limit)
    if not found:
        return 0
    deleted = await database[collection].delete_many({**where, "_id": {"$in": [one["_id"] for one in found]}})
    return int(deleted.deleted_count)


async def _apps(collection: str, database: Any) -> list[str]:
    return sorted(await database[collection].distinct("app"))


def _document(registration: Registration) -> _Document:
    # The device and the metadata as text: an object of the user's may have names that MongoDB does not take.
    return {
        "app": registration.app,
        "id": registration.id,
        "reached": registration.reached,
        "member": registration.member,
        "platform": registration.platform,
        "channels": list(registration.channels),
        "device": _encode(registration.device).decode(),
        "metadata": _encode(registration.metadata).decode(),
        "created_at": registration.created_at,
        "updated_at": registration.updated_at,
    }


def _registration(document: _Document) -> Registration:
    return Registration(
        id=document["id"],
        app=document["app"],
        member=document["member"],
        device=_device(document["device"]),
        metadata=msgspec.json.decode(document["metadata"]),
        channels=tuple(sorted(document["channels"])),
        # An Int64 of the driver's can't be written as JSON.
        created_at=int(document["created_at"]),
        updated_at=int(document["updated_at"]),
    )


@implementer(IPushJobs)
class MongoPushJobs:
    """Keeps a document for each job; what it is found by has fields, the rest is the text of JSON."""

    def __init__(self, database: MongoDatabase) -> None:
        self._database = database

    async def add(self, job: PushJob) -> bool:
        """Stores a new one: see :class:`IPushJobs`."""
        return await self._database.write(partial(_add_job, job))

    async def find(self, app: str, id: str) -> PushJob | None:
        """The job of this id."""
        found = await self._database.read(partial(_jobs, {"app": app, "id": id}, 1))
        return found[0] if found else None

    async def page(self, app: str, cursor: str | None, limit: int) -> list[PushJob]:
        """The jobs of an app, the newest first."""
        behind = {} if cursor is None else {"id": {"$lt": cursor}}
        return await self._database.read(partial(_jobs, {"app": app, **behind}, limit))

    async def claim(self, owner: str, now: int, lease_until: int, skip: Collection[str]) -> PushJob | None:
        """The job that is due first."""
        where: _Document = {"state": "pending", "due": {"$lte": now}, "lease_until": {"$lte": now}}
        if skip:
            where["app"] = {"$nin": list(skip)}
        lease = {"owner": owner, "lease_until": lease_until}
        return await self._database.write(partial(_claim, where, lease))

    async def save(self, job: PushJob) -> bool:
        """Stores how far it is."""
        where = {"app": job.app, "id": job.id, "owner": job.owner, "state": "pending"}
        return await self._database.write(partial(_set, where, _job_fields(job)))

    async def cancel(self, app: str, id: str, at: int) -> bool:
        """Ends a pending job."""
        where = {"app": app, "id": id, "state": "pending"}
        return await self._database.write(partial(_set, where, {"state": "cancelled", "finished_at": at}))

    async def release(self, owner: str) -> None:
        """The owner has none any more."""
        await self._database.write(partial(_release, owner))

    async def remove(self, app: str, limit: int) -> int:
        """Deletes jobs of an app."""
        return await self._database.write(partial(_delete, PUSH_JOBS, {"app": app}, limit))

    async def expire(self, before: int, limit: int) -> int:
        """Deletes what ended before."""
        where = {"finished_at": {"$ne": None, "$lt": before}}
        return await self._database.write(partial(_delete, PUSH_JOBS, where, limit))

    async def apps(self) -> list[str]:
        """The apps with jobs."""
        return await self._database.read(partial(_apps, PUSH_JOBS))


async def _add_job(job: PushJob, database: Any) -> bool:
    try:
        await database[PUSH_JOBS].insert_one({"app": job.app, "id": job.id, **_job_fields(job)})
    except DuplicateKeyError:
        return False
    return True


async def _jobs(where: _Document, limit: int, database: Any) -> list[PushJob]:
    cursor = database[PUSH_JOBS].find(where, limit=limit, batch_size=limit)
    cursor.sort([("id", -1)])
    return [_job(document) async for batch in cursor.batches() for document in batch]


async def _claim(where: _Document, lease: _Document, database: Any) -> PushJob | None:
    first = {"orderby": [("due", 1), ("id", 1)]}  # the driver's own form
    found = await database[PUSH_JOBS].find_one_and_update(
        where, {"$set": lease}, sort=first, return_document=ReturnDocument.AFTER
    )
    return None if found is None else _job(found)


async def _set(where: _Document, values: _Document, database: Any) -> bool:
    return bool((await database[PUSH_JOBS].update_one(where, {"$set": values})).matched_count)


async def _release(owner: str, database: Any) -> None:
    await database[PUSH_JOBS].update_many({"owner": owner, "state": "pending"}, {"$set": {"lease_until": 0}})


def _job_fields(job: PushJob) -> _Document:
    return {
        "state": job.state,
        "due": job.due,
        "owner": job.owner,
        "lease_until": job.lease_until,
        "finished_at": job.finished_at,
        "content": _encode(job).decode(),
    }


def _integer(number: int | None) -> int | None:
    return None if number is None else int(number)


def _job(document: _Document) -> PushJob:
    return replace(
        _job_of(document["content"]),
        state=document["state"],
        owner=document["owner"],
        lease_until=int(document["lease_until"]),
        finished_at=_integer(document["finished_at"]),
    )
