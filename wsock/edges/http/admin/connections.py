"""The connections of an app, for its administrators."""

from __future__ import annotations

from wsock.edges.http.live import (
    ClientEnd,
    Connection,
    ConnectionEnd,
    ConnectionList,
    ConnectionsPart,
    Ended,
    connection_list,
    detail_answer,
    ended_answer,
)
from wsock.edges.http.operations import Call, Group, NoBody, NoQuery, operation
from wsock.services.oversight import Oversight
from wsock.services.roles import Permission

__all__ = ["AppConnectionGroup"]

_CONNECTIONS = "/api/admin/apps/{appId}/connections"


class AppConnectionGroup(Group):
    """Who is connected to an app, and the end of that."""

    tag = "App connections"
    about = "The connections of an app, for those who administer it."

    def __init__(self, oversight: Oversight) -> None:
        self._oversight = oversight

    @operation("GET", _CONNECTIONS, needs=Permission.CONNECTIONS_READ, asks_cluster=True)
    async def connections(self, call: Call[NoBody, ConnectionsPart]) -> ConnectionList:
        """Lists the connections, those of a client, or those subscribed to a channel."""
        query = call.query
        return connection_list(
            await self._oversight.connections(
                call.actor,
                call.path["appId"],
                client_id=query.client_id,
                channel=query.channel,
                cursor=query.cursor,
                limit=query.limit,
            )
        )

    @operation("GET", f"{_CONNECTIONS}/{{connectionId}}", needs=Permission.CONNECTIONS_READ, asks_cluster=True)
    async def connection(self, call: Call[NoBody, NoQuery]) -> Connection:
        """Shows a connection, with the names of its channels."""
        app, id = call.path["appId"], call.path["connectionId"]
        return detail_answer(await self._oversight.connection(call.actor, app, id))

    @operation("DELETE", f"{_CONNECTIONS}/{{connectionId}}", needs=Permission.CONNECTIONS_DISCONNECT, asks_cluster=True)
    async def disconnect(self, call: Call[NoBody, ConnectionEnd]) -> None:
        """Ends a connection with the close code 4403. Its client may connect again, unless it is blocked."""
        app, id = call.path["appId"], call.path["connectionId"]
        await self._oversight.disconnect(call.actor, app, id, call.query.reason)

    @operation(
        "POST",
        f"{_CONNECTIONS}/disconnect",
        needs=Permission.CONNECTIONS_DISCONNECT,
        example={"clientId": "bob", "reason": "too loud"},
        asks_cluster=True,
    )
    async def disconnect_client(self, call: Call[ClientEnd, NoQuery]) -> Ended:
        """Ends all connections of a client with the close code 4403."""
        app, body = call.path["appId"], call.body
        return ended_answer(await self._oversight.disconnect_client(call.actor, app, body.client_id, body.reason))
