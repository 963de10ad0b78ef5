"""The contracts between the services and the backends, and the values that cross them.

Each interface has a contract suite in :mod:`wsock.testing` that every implementation passes. Driver errors never
cross: a backend that can't do its work raises :class:`wsock.errors.Unavailable`. Times are passed in: ``now`` is in
seconds since the epoch, timestamps are integer milliseconds. Every method is bounded to one app: tenants never meet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

import msgspec
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import Interface

from wsock.protocol.frames import Member
from wsock.protocol.messages import HistoryQuery, Located, Message, Page, Publication, Receipt
from wsock.protocol.position import Position
from wsock.protocol.presence import LeaveReason, PresenceChange
from wsock.records import Account, App, AuditEntry, AuditQuery, Endpoint, Key, Listing, Record

__all__ = [
    "Account",
    "App",
    "AuditPage",
    "ChannelTail",
    "Endpoint",
    "Event",
    "IAuditLog",
    "IBroker",
    "ICounters",
    "IDirectory",
    "IJournal",
    "IMailSender",
    "IMessageStore",
    "IOutboxStore",
    "IPresenceStore",
    "IReceiver",
    "IRecords",
    "IWorkQueue",
    "JournalRecord",
    "Key",
    "Lease",
    "Mail",
    "Outcome",
    "OutboxRow",
    "RecentId",
    "Rejected",
    "Stray",
    "Work",
]


R = TypeVar("R", bound=Record)


class Outcome(Protocol):
    """Who waits to hear what became of something: one of the two is called, once, and must not raise.

    A Deferred is one.
    """

    def callback(self, result: Receipt) -> object:
        """It was accepted."""

    def errback(self, fail: Failure) -> object:
        """It was not, or that can't be told."""


class IReceiver(Interface):
    """The node's side of a broker: what it is told. Calls are synchronous, never nested, and must not raise."""

    def message(app: str, message: Message) -> None:
        """A message of an attached channel: each one once, in sequence order."""

    def presence(app: str, change: PresenceChange) -> None:
        """A presence change of an attached channel, in the order in which the store made it."""

    def moved(app: str, channel: str, position: Position) -> None:
        """An attached channel has a new epoch, and nothing is missing: its position is this one now."""

    def lost(app: str, channel: str, position: Position) -> None:
        """Messages of an attached channel are missing and can't be had: the channel is at this position now."""


class IBroker(Interface):
    """Accepts messages, puts each channel's in order, and carries them to every node with subscribers."""

    def listen(receiver: IReceiver) -> None:
        """Names the one receiver; called once, before anything else."""

    def publish(publication: Publication, outcome: Outcome) -> None:
        """Accepts a message. When the outcome is called back, the message is durable as the backend is configured.

        Atomically for each channel: deduplication (a repeated (app, channel, identity, id) gets the first receipt and
        is not delivered again), the next sequence, a timestamp that never goes back in the app, the recovery window,
        delivery. Two publishes to one channel keep the order of their calls. The outcome gets :class:`Unavailable`
        when nothing was accepted; it may be called before this returns.
        """

    async def attach(app: str, channel: str) -> Position:
        """From now on the receiver gets the channel's messages behind the position that is returned.

        Idempotent. When the result is available without waiting, nothing is delivered in between.
        """

    def detach(app: str, channel: str) -> None:
        """The receiver gets the channel's messages no more. Detaching what is not attached does nothing."""

    def occupy(app: str, channel: str) -> None:
        """This node has subscribers in the channel: the first one joined. Said again it changes nothing."""

    def vacate(app: str, channel: str) -> None:
        """This node has no subscribers in the channel any more: the last one parted."""

    async def position(app: str, channel: str) -> Position:
        """Where the channel stands: the position of its last message, or (epoch, 0)."""

    async def read(app: str, channel: str, after: Position, limit: int) -> list[Message]:
        """The messages behind ``after`` from the recovery window, oldest first, at most ``limit``.

        An empty list means that ``after`` is the channel's position. Raises :class:`Gone` when the
        epoch is another one, the position is ahead of the channel, or messages behind it are no longer in the window.
        """

    async def locate(app: str, channel: str, timestamp: int) -> Located:
        """The place of a timestamp in the recovery window."""


class JournalRecord(msgspec.Struct, frozen=True, gc=False):
    """A message to be made durable. ``identity`` is empty when its id is not to be deduplicated."""

    app: str
    identity: str
    message: Message


class ChannelTail(msgspec.Struct, frozen=True, gc=False):
    """What a journal knows of a channel.

    ``position`` and ``timestamp`` are those of its last message; ``recent`` are the last messages without a gap, oldest
    first; ``trimmed`` is the timestamp of the newest message that is not among them (0: there is none).
    """

    position: Position
    timestamp: int
    recent: list[Message]
    trimmed: int


class RecentId(msgspec.Struct, frozen=True, gc=False):
    """An id that must still be deduplicated, with the receipt that it got."""

    app: str
    identity: str
    receipt: Receipt


class IJournal(Interface):
    """What makes an embedded broker durable: it commits messages, and after a start tells where every channel was."""

    def commit(records: list[JournalRecord]) -> Deferred[None]:
        """Makes the messages durable, all or none, with each channel's position, before the Deferred fires.

        Calls do not overlap. Fires :class:`Unavailable` when nothing was stored.
        """

    async def tail(app: str, channel: str, cutoff: int, limit: int) -> ChannelTail | None:
        """The channel's end, with at most ``limit`` messages later than the timestamp ``cutoff``.

        ``None`` when the channel is unknown: no message was ever committed, or all expired long ago.
        """

    async def recent_ids(cutoff: int) -> list[RecentId]:
        """The ids to deduplicate of messages later than the timestamp ``cutoff``, oldest first."""

    async def last_timestamps() -> dict[str, int]:
        """For each app the largest timestamp ever committed."""


class IMessageStore(Interface):
    """Keeps the history of channels."""

    async def append(app: str, messages: list[Message]) -> None:
        """Stores accepted messages. A message that is there already (channel, epoch, sequence) is left as it is.

        Raises :class:`Rejected` when some can never be stored; the others are then.
        """

    async def page(app: str, channel: str, query: HistoryQuery) -> Page:
        """The persistent messages that the query asks for, in the order (timestamp, epoch, sequence) or its reverse.

        The page may be longer than the limit where it would end between equal timestamps.
        """

    async def expire(app: str, before: int, transient_before: int, limit: int) -> int:
        """Deletes messages older than ``before``, and those that do not persist older than ``transient_before``.

        Both are timestamps in milliseconds. At most ``limit`` in one call, so that it never blocks for long; returns
        how many it deleted.
        """


class Event(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Something that happened in a channel, to be told to the app's webhooks. ``data`` is the text of a JSON object.

    ``type`` is ``message.published``, ``channel.occupied``, ``channel.vacated`` or ``presence.enter|update|leave``.
    """

    id: str
    app: str
    channel: str
    type: str
    data: bytes


class OutboxRow(msgspec.Struct, frozen=True, gc=False):
    """An event that an endpoint is to be told. ``created`` is when that was decided, in seconds."""

    event: Event
    endpoint: str
    created: float


class IOutboxStore(Interface):
    """Keeps what webhooks are to be told until they have been."""

    async def add(rows: list[OutboxRow]) -> None:
        """Stores the rows; they are durable when this returns. May be repeated, as a whole, after any failure.

        A row that is there already (app, id of the event, endpoint) is left as it is, and keeps its place.
        """

    async def pending(app: str, limit: int) -> list[OutboxRow]:
        """The rows of an app that were added first, in the order in which they were, at most ``limit``."""


class Work(msgspec.Struct, frozen=True, gc=False):
    """A piece of the work queue: messages of each app to be persisted, events to be told, and their ids."""

    ids: list[str]
    messages: dict[str, list[Message]]
    events: list[Event]


class IWorkQueue(Interface):
    """What accepted messages and changes leave to be done, at least once, by one node of the cluster."""

    async def take(limit: int) -> Work:
        """Work that nobody else has now. Waits for a few seconds at most, and may be empty."""

    async def done(work: Work) -> None:
        """The work is done: it is not given out again."""

    async def bury(work: Work, text: str, reason: str) -> None:
        """Keeps what can never be done for a person to look at, before the work is done."""

    async def length() -> int:
        """How much waits, taken or not."""


class Rejected(Exception):
    """Some messages can never be stored; the others were. ``reasons`` pairs each of them with its reason."""

    def __init__(self, reasons: list[tuple[Message, str]]) -> None:
        super().__init__(f"{len(reasons)} messages can't be stored")
        self.reasons = reasons


class Stray(msgspec.Struct, frozen=True, gc=False):
    """A client whose connection was lost, on whatever node."""

    app: str
    client_id: str


class IPresenceStore(Interface):
    """Who is present where. A member is a clientId; it is present as long as one of its connections holds it."""

    def listen(receiver: IReceiver) -> None:
        """Names the one receiver of changes; called once, before anything else."""

    async def enter(app: str, channel: str, client_id: str, connection: str, data: bytes, now: float) -> None:
        """The connection holds the member from now on. ``data`` is the text of a JSON object.

        Announces an enter when the member is new, and an update when it was there with other data: a client that comes
        back and enters again as before makes no noise. Raises :class:`Refused` with ``limit_exceeded``
        when the channel is full.
        """

    async def update(app: str, channel: str, client_id: str, connection: str, data: bytes, now: float) -> bool:
        """Replaces the member's data and announces it; ``False`` when this connection holds no such member."""

    async def leave(app: str, channel: str, client_id: str, connection: str, reason: LeaveReason) -> None:
        """The connection lets go of the member; the last one to do so announces the leave."""

    async def suspend(app: str, channel: str, client_id: str, connection: str, until: float) -> None:
        """The connection was lost: it lets go at ``until``, unless the client is back by then."""

    async def adopt(app: str, client_id: str, connection: str) -> list[str]:
        """A connection of the client is back: it takes over what its lost ones held. Returns the channels."""

    async def members(app: str, channel: str) -> list[Member]:
        """The members, in the order in which they entered."""

    async def strays() -> list[Stray]:
        """The clients that lost a connection since the last call, as far as this node can't know it by itself.

        Whoever has another connection of one lets that :meth:`adopt`. One that was told of may be told of again.
        """

    async def reap(now: float) -> None:
        """Announces the leave (``disconnected``) of every member whose last connection's time has come."""


class Lease(msgspec.Struct, frozen=True):
    """Events that may happen. ``wait`` is 0, or the seconds after which there is room for more."""

    granted: int
    wait: float


class ICounters(Interface):
    """Counts events in sliding windows."""

    async def hit(key: str, limit: int, window_seconds: float, now: float) -> float:
        """Counts one event if there is room. Returns 0, or the seconds after which there will be room again."""

    async def lease(app: str, key: str, limit: int, window_seconds: float, wanted: int, now: float) -> Lease:
        """Counts up to ``wanted`` events of the app's key, as many as there is room for: these may happen.

        They count from now on, whenever they happen, so those that did not are to be forgotten with the window. Keys
        that are leased and keys that are hit are counted apart, as are those of different apps.
        """


class AuditPage(msgspec.Struct, frozen=True):
    """A part of the audit log; ``next`` is the cursor of the part behind it, or ``None`` at the end."""

    items: list[AuditEntry]
    next: str | None


class Mail(msgspec.Struct, frozen=True, kw_only=True):
    """A mail in plain text. Never log one: it may hold a token, and its representation hides that."""

    to: str
    subject: str
    text: str

    def __repr__(self) -> str:
        return f"<Mail {self.subject!r}>"


class IRecords(Interface):
    """Keeps the records of :mod:`wsock.records`, each kind by the same rules (:data:`wsock.records.KINDS`).

    Whoever changes something says which version of it they saw, so that two administrators never overwrite one
    another. Every method raises :class:`Unavailable` when the store is away. A write that ended so may have been done:
    :meth:`add` may say "taken" when it is repeated, the others may be repeated as they are.
    """

    async def find(kind: type[R], id: str) -> R | None:
        """The record of this id."""

    async def find_by(kind: type[R], field: str, value: str) -> R | None:
        """The record that alone has this value of a unique field; an empty value finds nothing."""

    async def page(kind: type[R], where: Mapping[str, str], cursor: str | None, limit: int) -> Listing[R]:
        """The records with these values, in the order of their ids, from behind the cursor, at most ``limit``.

        A list read page by page holds every record once that was there all the while. A page may hold less than the
        limit though another one follows. Raises ``ValueError`` for a field that lists are not asked for by.
        """

    async def add(records: Sequence[Record]) -> None:
        """Stores new records, all or none; what one belongs to is there already, or among those before it.

        Raises :class:`Conflict` when an id or another unique value is taken, or an owner is not there.
        """

    async def replace(record: R) -> R:
        """Stores the record in the place of the version that it has, and returns it with the next one.

        ``last_used_at`` stays as it is. Raises :class:`Conflict` when the stored version is another one, the record
        is gone, a unique value is taken, or an owner is not there.
        """

    async def remove(kind: type[Record], id: str, version: int | None = None) -> bool:
        """Deletes the record and all that belongs to it; ``False`` when there is none.

        With a ``version``, raises :class:`Conflict` when the stored one is another. Repeated after a failure, it
        deletes what was left.
        """

    async def used(kind: type[Record], id: str, at: int) -> None:
        """Notes the last use of a record that keeps one. It never goes back, and is no change of the record."""

    async def sweep(now: int, limit: int) -> int:
        """Deletes records whose time has come and that nobody needs then; at most ``limit`` of a kind.

        ``now`` is in milliseconds. Returns how many it deleted.
        """

    async def revision() -> int:
        """A number that grows with every change that somebody may remember otherwise; read it before what it is of.

        It grows after the change can be read: who sees a new one and reads again sees the change.
        """


class IDirectory(IRecords):
    """Apps, their keys and endpoints, accounts, and all other records, with the look-ups that connections need."""

    async def app(id: str) -> App | None:
        """The app of this id."""

    async def apps() -> list[App]:
        """All apps, in the order of their ids."""

    async def key(id: str) -> Key | None:
        """The key of this id (a JWT's ``kid``)."""

    async def key_by_hash(api_key_hash: str) -> Key | None:
        """The key whose API key has this SHA-256 in hex."""

    async def account_by_email(email: str) -> Account | None:
        """The account of this e-mail address, compared without case."""

    async def endpoints(app: str) -> list[Endpoint]:
        """The endpoints of this app, those that are not enabled too, in the order of their ids."""

    async def add_endpoint(endpoint: Endpoint) -> None:
        """Stores an endpoint. Raises :class:`Conflict` when its id is taken or its app does not exist."""

    async def is_empty() -> bool:
        """Whether there is no app yet: the first start."""

    async def create(app: App, keys: list[Key], account: Account) -> None:
        """Stores an app with its keys and owner, all or none. Raises :class:`Conflict` as :meth:`add` does."""


class IAuditLog(Interface):
    """Keeps what administrators did."""

    async def append(entries: Sequence[AuditEntry]) -> None:
        """Stores entries. One whose id is there already is left as it is."""

    async def page(query: AuditQuery, cursor: str | None, limit: int) -> AuditPage:
        """The entries that are asked for, the newest first, from behind the cursor, at most ``limit``.

        Raises ``ValueError`` for a cursor that is none.
        """

    async def expire(before: int, limit: int) -> int:
        """Deletes entries older than ``before``, at most ``limit`` in one call; returns how many."""


class IMailSender(Interface):
    """Sends mail to people."""

    async def send(mail: Mail) -> None:
        """Takes the mail over. Raises :class:`Unavailable` when that can't be done."""
