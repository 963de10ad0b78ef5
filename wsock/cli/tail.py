"""``wsock tail``: the messages and presence of a channel as they come."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO, cast
from urllib.parse import urlsplit, urlunsplit

import click
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.python.failure import Failure

from wsock.cli.api import Refusal, Unreachable
from wsock.cli.output import printable, shown_time
from wsock.cli.remote import Remote, with_key
from wsock.client import Channel, Client, ClientCode, ClientError, Message, PresenceChange

__all__ = ["Tail", "tail"]

_KEY_SECONDS = 86_400
_KEY_NAME = "wsock tail"


class Tail:
    """Prints what comes in a channel, until :meth:`stop`, an end for good, or so many messages.

    ``out`` is where lines go; ``note`` says to people what is no message.
    """

    def __init__(
        self,
        client: Client,
        channel: str,
        out: TextIO,
        note: Callable[[str], None],
        *,
        as_json: bool,
        rewind: int,
        count: int = 0,
        with_presence: bool = True,
    ) -> None:
        self._client = client
        self._channel: Channel = client.channel(channel)
        self._out = out
        self._note = note
        self._as_json = as_json
        self._rewind = rewind
        self._left = count or None
        self._with_presence = with_presence
        self._was_connected = False
        self._reason: ClientError | None = None
        self._over: Deferred[None] = Deferred()

    async def run(self) -> None:
        """Returns when it is over. Raises :class:`ClientError` when the server refuses, or is away at first."""
        self._channel.on_message(self._message)
        if self._with_presence:
            self._channel.presence.on_change(self._change)
        self._client.on_lost(lambda _: self._note("messages were lost: 'wsock history' may have them"))
        self._client.on_error(self._error)
        try:
            await self._listen()
        except ClientError:
            if not self._over.called:
                raise
        finally:
            await self._client.close()
        if self._reason is not None:
            raise self._reason

    async def _listen(self) -> None:
        await self._client.connect()
        self._was_connected = True
        await self._channel.subscribe(rewind=self._rewind or None)
        if not self._over.called:
            self._note(f"listening to {printable(self._channel.name)}; Ctrl-C ends")
        await self._over

    def stop(self, reason: ClientError | None = None) -> None:
        """Ends it, also while it connects; with a ``reason``, it has failed."""
        if not self._over.called:
            self._reason = reason
            self._over.callback(None)
            self._client.close()

    def _error(self, error: ClientError) -> None:
        is_away = error.code == ClientCode.CONNECTION and not self._was_connected
        if is_away or error.status in (401, 403):
            self.stop(error)
        else:
            self._note(printable(error.text))

    def _message(self, message: Message) -> None:
        if self._left == 0:
            return
        if self._left is not None:
            self._left -= 1
        self._print(_message_json(message) if self._as_json else _message_line(message))
        if self._left == 0:
            self.stop()

    def _change(self, change: PresenceChange) -> None:
        self._print(_change_json(change) if self._as_json else _change_line(change))

    def _print(self, line: str) -> None:
        try:
            self._out.write(line + "\n")
            self._out.flush()
        except OSError:
            # Who read it has ended.
            self.stop()


def _message_json(message: Message) -> str:
    # The data as it was published, byte for byte: it may hold numbers that Python would write in another way.
    head = {"channel": message.channel, "id": message.id, "timestamp": message.timestamp}
    more = {"publisherId": message.publisher_id, "sequence": message.sequence}
    return f'{json.dumps({"type": "message", **head, **more})[:-1]}, "data": {_one_line(bytes(message.raw).decode())}}}'


def _one_line(data: str) -> str:
    """JSON without line breaks: those that it may have stand between its parts."""
    return data.replace("\r", " ").replace("\n", " ")


def _message_line(message: Message) -> str:
    who = f" {printable(message.publisher_id)}" if message.publisher_id else ""
    return (
        f"{shown_time(message.timestamp)}  {message.sequence}{who}  {printable(_one_line(bytes(message.raw).decode()))}"
    )


def _change_json(change: PresenceChange) -> str:
    member = {"clientId": change.member.client_id, "data": change.member.data, "joinedAt": change.member.joined_at}
    content = {"type": f"presence.{change.kind}", "channel": change.channel, **member, "reason": change.reason}
    return json.dumps({name: value for name, value in content.items() if value is not None})


def _change_line(change: PresenceChange) -> str:
    act = {"enter": "entered", "update": "changed", "leave": "left"}[change.kind]
    why = f" ({printable(change.reason)})" if change.reason else ""
    data = f"  {printable(json.dumps(change.member.data, ensure_ascii=False))}" if change.member.data else ""
    return f"* {printable(change.member.client_id)} {act}{why}{data}"


@click.command()
@click.argument("channel")
@click.option("--rewind", type=click.IntRange(0, 1000), default=0, metavar="N", help="The last N messages come first.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N messages.")
@click.option("--presence/--no-presence", default=True, help="Who enters and leaves, too (default).")
@with_key
def tail(server: Remote, channel: str, rewind: int, count: int | None, presence: bool) -> None:
    """Prints the messages of a channel as they come, and who enters and leaves; Ctrl-C ends it.

    A connection that is lost is made again, and goes on behind the last message that was printed. With --json each
    message and change is an object on a line of its own.

    It connects with the API key or JWT of WSOCK_KEY or --key-file. Without one it makes a key for this channel, which
    takes the role of a developer, and revokes it when it ends.
    """
    made = None if server.key else _make_key(server, channel)
    key = server.key or str(made and made["key"])
    try:
        _listen(server, channel, key, rewind=rewind, count=count or 0, with_presence=presence)
    finally:
        if made is not None:
            server.api.delete(server.in_app("keys", str(made["id"])))


def _make_key(server: Remote, channel: str) -> Any:
    body = {
        "name": _KEY_NAME,
        "permissions": {channel: ["subscribe", "presence", "history"]},
        # If this command is killed, the key ends by itself.
        "expiresAt": server.in_milliseconds(_KEY_SECONDS),
    }
    return server.api.post(server.in_app("keys"), body)


def _listen(server: Remote, channel: str, key: str, **how: Any) -> None:
    """Runs the reactor until Ctrl-C, SIGTERM, or the end of the tail."""
    from twisted.internet import reactor

    loop: Any = reactor
    url = _socket_url(server.url)
    endpoint = None if server.cacert is None else _endpoint(url, server.cacert, loop)
    credential = {"token" if key.count(".") == 2 else "key": key}
    outcome: list[object] = []

    def start() -> None:
        client = Client(url, reactor=loop, endpoint=endpoint, **cast(Any, credential))
        tail = Tail(client, channel, sys.stdout, server.output.note, as_json=server.output.as_json, **how)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: loop.callFromThread(tail.stop))
        Deferred.fromCoroutine(tail.run()).addBoth(outcome.append).addBoth(lambda _: loop.stop())

    loop.callWhenRunning(start)
    loop.run()
    [result] = outcome
    if isinstance(result, Failure):
        if isinstance(result.value, ClientError):
            raise _told(result.value)
        result.raiseException()


def _told(error: ClientError) -> click.ClickException:
    text = f"{printable(error.text)} ({error.code})"
    return Unreachable(text) if error.code == ClientCode.CONNECTION else Refusal(text, code=error.code)


def _socket_url(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(("wss" if parts.scheme == "https" else "ws", parts.netloc, parts.path or "/", "", ""))


def _endpoint(url: str, cacert: str, reactor: Any) -> IStreamClientEndpoint | None:
    parts = urlsplit(url)
    if parts.scheme != "wss" or parts.hostname is None:
        return None
    own = trustRootFromCertificates([Certificate.loadPEM(Path(cacert).read_bytes())])
    endpoint = HostnameEndpoint(reactor, parts.hostname, parts.port or 443)
    return wrapClientTLS(optionsForClientTLS(parts.hostname, trustRoot=own), endpoint)
