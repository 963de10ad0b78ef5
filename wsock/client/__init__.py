"""A client that resumes exactly: what was delivered to its callbacks is what it asks the server to go on from.

    client = Client("ws://127.0.0.1:9001", key="demo", reactor=reactor)
    await client.connect()
    chat = client.channel("chat")
    chat.on_message(lambda message: print(message.data))
    await chat.subscribe(rewind=5)
    await chat.publish({"text": "hi"})
    await client.close()

The protocol's side is an automaton without I/O (:mod:`wsock.client.conversation`); :mod:`wsock.client.link` is one
connection, :mod:`wsock.client.client` keeps one open.
"""

from wsock.client.channel import Channel, Presence
from wsock.client.client import Client
from wsock.client.errors import ClientCode, ClientError
from wsock.client.link import Timing
from wsock.client.values import Member, Message, Page, PresenceChange, Receipt
from wsock.protocol.position import Position

__all__ = [
    "Channel",
    "Client",
    "ClientCode",
    "ClientError",
    "Member",
    "Message",
    "Page",
    "Position",
    "Presence",
    "PresenceChange",
    "Receipt",
    "Timing",
]
