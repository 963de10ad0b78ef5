"""What brings documents of an older wsock to what this one reads; the indexes are no concern of this module.

A step may run twice, and on several servers at once: each leaves alone what is done already.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from pymongo.errors import DuplicateKeyError

from wsock.backends.mongo_schema import ACCOUNTS, APPS, ENDPOINTS, KEYS, OUTBOX, VERSIONS
from wsock.records import membership_id

__all__ = ["migrate"]

_FIRST_TEAM = "team_first"


async def migrate(database: Any) -> None:
    """Runs the steps that this database has not seen."""
    known = await database[VERSIONS].find_one({"_id": "documents"})
    done = int(known["number"]) if known else 0
    for number, step in enumerate(_STEPS[done:], done + 1):
        await step(database)
        await database[VERSIONS].update_one({"_id": "documents"}, {"$max": {"number": number}}, upsert=True)


async def _give_versions(database: Any) -> None:
    """Every record has a version, which is what changes compare."""
    for collection in (APPS, KEYS, ACCOUNTS, ENDPOINTS):
        await database[collection].update_many({"version": {"$exists": False}}, {"$set": {"version": 1}})


async def _make_first_team(database: Any) -> None:
    """One team has all apps, its members are all accounts, and who ran the server still does."""
    homeless = await database[APPS].find({"team": {"$exists": False}}, projection={"created_at": 1})
    if not homeless:
        return
    oldest = min(app["created_at"] for app in homeless)
    await _put(database, "team", {"_id": _FIRST_TEAM, "version": 1, "name": "First team", "created_at": oldest})
    for account in await database[ACCOUNTS].find({"role": {"$exists": True}}):
        id = membership_id(_FIRST_TEAM, account["_id"])
        member = {"_id": id, "version": 1, "team": _FIRST_TEAM, "account": account["_id"]}
        member |= {"role": account["role"], "created_at": account["created_at"]}
        await _put(database, "membership", member)
        changes = {"$set": {"is_operator": account["role"] == "owner"}, "$unset": {"role": ""}}
        await database[ACCOUNTS].update_one({"_id": account["_id"]}, changes)
    await database[APPS].update_many({"team": {"$exists": False}}, {"$set": {"team": _FIRST_TEAM}})


async def _give_plans(database: Any) -> None:
    """Every team has a plan; lists are asked for by it."""
    await database["team"].update_many({"plan": {"$exists": False}}, {"$set": {"plan": "unlimited"}})


async def _make_deliveries(database: Any) -> None:
    """What an endpoint is to be told is due at once."""
    fresh = {"kind": 0, "state": "pending", "due": 0.0, "tries": 0, "owner": "", "batch": "", "settled": 0.0}
    changes = {"$set": {**fresh, "size": 0, "attempts": []}}
    await database[OUTBOX].update_many({"state": {"$exists": False}}, changes)


async def _put(database: Any, collection: str, document: dict[str, Any]) -> None:
    with suppress(DuplicateKeyError):  # by another server, or before this one died
        await database[collection].insert_one(document)


_STEPS = (_give_versions, _make_first_team, _give_plans, _make_deliveries)
