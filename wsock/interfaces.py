"""The contracts between the services and the backends, and the values that cross them.

Each interface has a contract suite in :mod:`wsock.testing` that every implementation passes. Driver errors never
cross: a backend that can't do its work raises :class:`wsock.errors.Unavailable`. Times are passed in: ``now`` is in
seconds since the epoch, timestamps are integer milliseconds. Every method is bounded to one app: tenants never meet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal, Protocol, TypeVar

import msgspec
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import Attribute, Interface

from wsock.measures import Span
from wsock.protocol.frames import Member
from wsock.protocol.messages import HistoryQuery, Located, Message, Page, Publication, Receipt
from wsock.protocol.position import Position
from wsock.protocol.presence import LeaveReason, PresenceChange
from wsock.records import Account, App, AuditEntry, AuditQuery, Endpoint, Key, Listing, Record

__all__ = [
    "Account",
    "Agendum",
    "Answers",
    "ApnsCredentials",
    "ApnsDevice",
    "App",
    "Attempt",
    "Audience",
    "AuditPage",
    "Blocked",
    "Bucket",
    "ChannelTail",
    "Device",
    "Delivery",
    "DeliveryPage",
    "DeliveryQuery",
    "DeliveryState",
    "Endpoint",
    "Event",
    "FcmCredentials",
    "FcmDevice",
    "IAuditLog",
    "IBroker",
    "IControl",
    "ICounters",
    "IDeviceStore",
    "IDirectory",
    "IJournal",
    "IMailSender",
    "IMessageStore",
    "IMeterStore",
    "IOutboxStore",
    "IPresenceStore",
    "IPushJobs",
    "IPushProvider",
    "IReceiver",
    "IRecords",
    "IVapidKeys",
    "IWorkQueue",
    "JournalRecord",
    "Key",
    "Lease",
    "Mail",
    "NodeReport",
    "NotSent",
    "OutboxRow",
    "Outcome",
    "Posting",
    "PushCredentials",
    "PushJob",
    "PushJobState",
    "PushMessage",
    "PushOutcome",
    "PushStatus",
    "RecentId",
    "Registration",
    "Rejected",
    "Reply",
    "Sample",
    "Stray",
    "Verdict",
    "VapidCredentials",
    "WebDevice",
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

    async def occupied(app: str) -> int:
        """How many of the app's channels have subscribers, on whatever node.

        A node's own are counted as soon as it was told of them, those of others and of nodes that died a little later.
        """

    async def is_occupied(app: str, channel: str) -> bool:
        """Whether the channel has subscribers, on whatever node."""

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
    """An event that an endpoint is to be told. ``created`` is when that was decided, in seconds.

    ``ordered``: what the endpoint is told of a channel is told one after the other, in the order of addition.
    ``batched``: it may be told several events at once. Of both, the order counts.
    """

    event: Event
    endpoint: str
    created: float
    ordered: bool = False
    batched: bool = False


DeliveryState = Literal["pending", "done", "dead"]
"""What became of a delivery: it waits for its next attempt, it arrived, or it was given up."""


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """One attempt at a delivery, at a time in seconds. ``status`` is the answer's, 0 when there was none.

    ``body`` is the beginning of the answer, ``error`` says why there was none, or what is wrong with it.
    """

    at: float
    milliseconds: int
    status: int
    body: str = ""
    error: str = ""


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the outbox, and what became of it. ``id`` is the store's own, for URLs.

    ``due``: when its next attempt may be made, or when the lease of the one that is under way ends. ``tries`` counts
    the attempts since it was added or last asked for again. ``batch`` is the same for rows that are told at once, and
    empty for others. ``settled`` is when it was done or given up, 0 before.
    """

    id: str
    row: OutboxRow
    state: DeliveryState
    due: float
    tries: int
    batch: str = ""
    settled: float = 0.0
    attempts: tuple[Attempt, ...] = ()


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a delivery that was claimed: it is ``pending`` again, until ``due``, or settled ``at``.

    Without an ``attempt`` it was put back, and nothing is counted.
    """

    id: str
    state: DeliveryState
    at: float
    due: float = 0.0
    attempt: Attempt | None = None


class Agendum(msgspec.Struct, frozen=True, gc=False):
    """An endpoint for which something is pending. None of that can be claimed before ``due``."""

    app: str
    endpoint: str
    due: float


class DeliveryQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which deliveries of an endpoint: the one of this id, or those in these states.

    They were created from ``since`` on and before ``until``, in seconds.
    """

    endpoint: str
    states: tuple[DeliveryState, ...] = ("pending", "done", "dead")
    id: str | None = None
    since: float | None = None
    until: float | None = None


class DeliveryPage(msgspec.Struct, frozen=True):
    """A part of a list of deliveries; ``next`` is the cursor of the part behind it, or ``None`` at the end."""

    items: list[Delivery]
    next: str | None


class IOutboxStore(Interface):
    """Keeps what webhooks are to be told until they have been, and what became of it.

    A delivery is claimed for a time. Whoever claimed it says what becomes of it, or somebody else claims it when that
    time is over: so each is attempted at least once, by one at a time. Ids of endpoints are unique among all apps.
    """

    async def add(rows: list[OutboxRow]) -> None:
        """Stores the rows; they are durable when this returns. May be repeated, as a whole, after any failure.

        A row that is there already (app, id of the event, endpoint) is left as it is, and keeps its place.
        """

    async def pending(app: str, limit: int) -> list[OutboxRow]:
        """The pending rows of an app that were added first, in the order in which they were, at most ``limit``."""

    async def agenda(after: str, limit: int) -> list[Agendum]:
        """The endpoints for which something is pending, in the order of their ids, from behind ``after``."""

    async def claim(owner: str, endpoint: str, now: float, lease_seconds: float, limit: int) -> list[Delivery]:
        """Gives out deliveries that are due, at most ``limit``; they are the owner's until the lease ends.

        Of those that are ordered only the first pending one of each channel is given out, and the channels take turns:
        a call looks at a bounded number of them. Of those that are batched, either fresh ones get a batch, or all of
        an earlier batch are given out again, whatever the limit. What is claimed has no ``attempts``: they are not
        read. After a failure it may be repeated: what it claimed is claimed again when the lease ends.
        """

    async def release(now: float) -> None:
        """Ends all leases: for the one user of a store, who begins and has claimed nothing yet."""

    async def settle(owner: str, verdicts: Sequence[Verdict]) -> None:
        """Says what becomes of claimed deliveries. May be repeated as it is after any failure.

        A delivery that is not the owner's any more is left as it is.
        """

    async def page(query: DeliveryQuery, cursor: str | None, limit: int) -> DeliveryPage:
        """The deliveries that are asked for, those that were added last first, from behind the cursor.

        Raises ``ValueError`` for a cursor that is none.
        """

    async def redeliver(query: DeliveryQuery, now: float, limit: int) -> int:
        """Makes settled deliveries pending again, due at once and with no tries; returns how many, at most ``limit``.

        Those that are pending already are left as they are. What was batched is batched anew.
        """

    async def bury(endpoint: str, reason: str, now: float, limit: int) -> int:
        """Gives up what is due for an endpoint, with the reason as an attempt's error; returns how many, as above."""

    async def remove(endpoint: str, limit: int) -> int:
        """Deletes what there is for an endpoint, whatever its state; returns how many, as above."""

    async def expire(before: float, limit: int) -> int:
        """Deletes what was settled before; returns how many, as above."""


class Work(msgspec.Struct, frozen=True, gc=False):
    """A piece of the work queue: messages of each app, events to be told, and their ids.

    Of the messages those are to be stored that persist; all of them may be to be told.
    """

    ids: list[str]
    messages: dict[str, list[Message]]
    events: list[Event]


class IWorkQueue(Interface):
    """What accepted messages and changes leave to be done, at least once, by one node of the cluster."""

    async def take(limit: int) -> Work:
        """Work that nobody else has now. Waits for a few seconds at most, and may be empty."""

    async def is_first(work: Work) -> bool:
        """Whether all work before this, whoever has it, is done."""

    async def take_left(limit: int) -> Work:
        """Work that somebody took and did not do in time; perhaps none. It does not wait."""

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

    async def counts(app: str, channels: Sequence[str]) -> list[int]:
        """How many members each of the channels has."""

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


class Answers(msgspec.Struct, frozen=True):
    """What the nodes answered. ``is_complete``: every node that is known to live did, in time."""

    parts: list[bytes]
    is_complete: bool


class IControl(Interface):
    """Carries questions to every node of the cluster, this one too, and their answers back."""

    def listen(answer: Callable[[bytes], bytes | None]) -> None:
        """Names the one who answers on this node, and hears notices; called once, before anything else.

        It must not wait. ``None`` says that this node has nothing to tell; to a notice it is the only answer. When it
        raises, or an answer has more than 1 MiB, this node counts as one that did not answer.
        """

    async def ask(question: bytes, timeout: float) -> Answers:
        """Asks every node, and returns within so many seconds, whatever happened to the others.

        While the other nodes can't be asked, the answer is this node's own, and not complete. Raises
        :class:`Unavailable` when too many questions are under way already.
        """

    async def tell(notice: bytes) -> None:
        """Tells every node; this one has heard it then. Raises :class:`Unavailable`: others may not have."""


class AuditPage(msgspec.Struct, frozen=True):
    """A part of the audit log; ``next`` is the cursor of the part behind it, or ``None`` at the end."""

    items: list[AuditEntry]
    next: str | None


class Sample(msgspec.Struct, frozen=True):
    """What happened in an app: ``counts`` are to be added up, of ``peaks`` the largest is to be kept.

    Their names are the server's own, without dots.
    """

    app: str
    counts: dict[str, int]
    peaks: dict[str, int]


class Bucket(msgspec.Struct, frozen=True):
    """What happened in an app in the part of a span that begins at ``start`` (in milliseconds)."""

    start: int
    counts: dict[str, int]
    peaks: dict[str, int]


class NodeReport(msgspec.Struct, frozen=True):
    """How many connections of each app a node has, at that moment (in milliseconds)."""

    node: str
    at: int
    connections: dict[str, int]


class IMeterStore(Interface):
    """Adds up what happens in each app, by the minute, the hour, the day and the month."""

    async def add(node: str, number: int, at: int, samples: Sequence[Sample]) -> None:
        """Adds samples, one for an app, to the parts of all spans that the moment ``at`` is in.

        A node's numbers grow. May be repeated as it is after any failure: what a number was added for already stays as
        it is, so nothing is counted twice. Raises :class:`Unavailable` when it is not known to be added as a whole.
        """

    async def buckets(apps: Sequence[str], span: Span, start: int) -> dict[str, Bucket]:
        """The parts of the span that begin at ``start``, of those of the apps in which something happened."""

    async def series(app: str, span: Span, since: int, until: int, limit: int) -> list[Bucket]:
        """The app's parts of the span that begin from ``since`` on and before ``until``, the oldest first."""

    async def report(report: NodeReport) -> None:
        """Replaces what the node reported before."""

    async def withdraw(node: str) -> None:
        """The node has ended: its report is gone."""

    async def reports(since: int) -> list[NodeReport]:
        """The reports of that time and later, of all nodes."""

    async def claim(app: str, what: str, period: int) -> bool:
        """Whether the caller is the first one to claim this in the period, on whatever node."""

    async def expire(span: Span, before: int, limit: int) -> int:
        """Deletes parts of the span that began before, at most ``limit`` in one call; returns how many."""

    async def forget(before: int, periods_before: int) -> None:
        """Forgets reports and numbers of nodes that are smaller than ``before``, and claims of earlier periods."""


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


class WebDevice(msgspec.Struct, frozen=True, kw_only=True, tag_field="platform", tag="web"):
    """A browser's push subscription (W3C Push API): both keys are base64url, as the browser gives them."""

    endpoint: str
    p256dh: str
    auth: str

    def __repr__(self) -> str:
        return "<WebDevice>"


class FcmDevice(msgspec.Struct, frozen=True, kw_only=True, tag_field="platform", tag="fcm"):
    """An app's registration with Firebase: a registration token, or the id of the installation that replaces it."""

    value: str
    kind: Literal["token", "fid"] = "token"

    def __repr__(self) -> str:
        return f"<FcmDevice {self.kind}>"


class ApnsDevice(msgspec.Struct, frozen=True, kw_only=True, tag_field="platform", tag="apns"):
    """An app on an Apple device, by its device token in hex."""

    token: str

    def __repr__(self) -> str:
        return "<ApnsDevice>"


Device = WebDevice | FcmDevice | ApnsDevice
"""Where a push goes. As JSON it is an object whose ``platform`` tells which one. Its representation hides it."""


class VapidCredentials(msgspec.Struct, frozen=True, kw_only=True, tag_field="platform", tag="web"):
    """How an app is known to the push services of browsers (RFC 8292): both keys are base64url.

    ``subject`` is a ``mailto:`` or ``https:`` URL at which the services reach who runs the app.
    """

    private_key: str
    public_key: str
    subject: str

    def __repr__(self) -> str:
        return f"<VapidCredentials {self.public_key}>"


class FcmCredentials(msgspec.Struct, frozen=True, kw_only=True, tag_field="platform", tag="fcm"):
    """A Google service account: fields of the JSON that its console gives, of which the others are ignored."""

    project_id: str
    client_email: str
    private_key: str
    private_key_id: str = ""
    token_uri: str = "https://oauth2.googleapis.com/token"

    def __repr__(self) -> str:
        return f"<FcmCredentials {self.project_id}>"


class ApnsCredentials(msgspec.Struct, frozen=True, kw_only=True, tag_field="platform", tag="apns"):
    """A token-signing key of Apple's developer site (the ``.p8`` file), and the app (``topic``) that it is used for."""

    private_key: str
    key_id: str
    team_id: str
    topic: str
    environment: Literal["production", "sandbox"] = "production"

    def __repr__(self) -> str:
        return f"<ApnsCredentials {self.team_id} {self.topic}>"


PushCredentials = VapidCredentials | FcmCredentials | ApnsCredentials
"""What an app shows to a platform's push service. Its representation hides the secrets."""


class PushMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A notification. ``id`` stays the same when it is sent again to the same device, which services may drop then.

    ``ttl_seconds`` counts from ``created`` (milliseconds): a device that can't be reached until then never gets it; 0
    means now or never. A later message with the same ``collapse`` replaces an undelivered one. What stands in ``web``
    is merged into the JSON that the browser gets, ``fcm`` into the ``message`` of FCM's HTTP v1 API; ``apns`` has
    ``headers`` and ``payload``. An object is merged member by member, anything else replaces what was there.
    """

    id: str
    created: int
    title: str
    body: str = ""
    icon: str = ""
    image: str = ""
    badge: str = ""
    url: str = ""
    data: Any = None
    ttl_seconds: int = 2_419_200
    urgency: Literal["very-low", "low", "normal", "high"] = "normal"
    collapse: str = ""
    web: Mapping[str, Any] = {}
    fcm: Mapping[str, Any] = {}
    apns: Mapping[str, Any] = {}

    def __repr__(self) -> str:
        return f"<PushMessage {self.id}>"


class PushStatus(StrEnum):
    """What became of a push to one device."""

    OK = "ok"
    """The platform's service has taken it over."""
    GONE = "gone"
    """The device is no more: forget it, unless it registered again after ``PushOutcome.gone_at``."""
    RETRY = "retry"
    """Not now: send it again after ``PushOutcome.after_seconds``, unless the message's time is over by then."""
    MISCONFIGURED = "misconfigured"
    """The app's credentials are not accepted: nothing reaches this platform until somebody changes them."""
    REJECTED = "rejected"
    """This message never reaches this device. The device may be good for others."""


class PushOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a push, and why, for people.

    ``holds_for_all``: the time to wait is not this device's but the whole app's at this platform.
    ``gone_at`` is in milliseconds, where the service tells it. ``blames_device``: it was rejected because of the
    device rather than the message; one that never took a push is of no use.
    """

    status: PushStatus
    detail: str = ""
    after_seconds: float = 0.0
    holds_for_all: bool = False
    gone_at: int | None = None
    blames_device: bool = False


class IPushProvider(Interface):
    """Sends notifications by one platform's push service."""

    platform = Attribute("``web``, ``fcm`` or ``apns``: the tag of its devices and credentials.")

    def check_credentials(credentials: PushCredentials) -> None:
        """Raises :class:`Refused` with ``bad_request`` for credentials that can never work; asks nobody for it."""

    def check_device(device: Device) -> None:
        """Raises :class:`Refused` with ``bad_request`` for a device that can never be reached; asks nobody for it."""

    async def send(credentials: PushCredentials, device: Device, message: PushMessage) -> PushOutcome:
        """Sends one message to one device, at most once unless it is known that the service did not take it.

        Never raises, except ``CancelledError``. May be called many times at once; how many requests are on their way
        together is bounded here, so a caller that holds back only saves memory.
        """

    async def close() -> None:
        """Ends its connections. What is on its way ends as to be sent again."""


class IVapidKeys(Interface):
    """Makes the keys of an app for browsers' push services; the web's :class:`IPushProvider` is one."""

    def create(subject: str) -> VapidCredentials:
        """New keys. Raises :class:`Refused` with ``bad_request`` for a subject that is no mailto: or https: URL."""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What a foreign HTTP server answered: the names of headers in lower case, and the beginning of the body.

    ``seconds`` it took, from the connecting to the end of the body. ``is_whole``: there was no more of the body.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float
    is_whole: bool = True


class Blocked(Exception):
    """The URL is one that the server never asks: ``reason`` is for who gave it. Asking again changes nothing."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotSent(Exception):
    """There was no whole answer; the request may have arrived. ``reason`` is for people."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Posting(Protocol):
    """Posts to foreign URLs: the part of the server's one HTTP client that push providers need."""

    async def post(
        self,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        guard: bool = True,
        kind: str = "push",
        max_body: int = 1024,
    ) -> Reply:
        """The answer, whatever its status, with so much of its body. With ``guard``, as far as foreign URLs may lead.

        Requests of another ``kind`` go over other connections. Raises :class:`Blocked` and :class:`NotSent`.
        """


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """A device that the pushes of an app reach: whose it is, and the channels whose pushes it wants.

    Without a ``member`` it is nobody's in particular. ``metadata`` is a JSON object. Times are in milliseconds;
    ``updated_at`` is when the device last registered.
    """

    id: str
    app: str
    device: Device
    created_at: int
    updated_at: int
    member: str = ""
    channels: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = {}

    @property
    def platform(self) -> str:
        """``web``, ``fcm`` or ``apns``."""
        return str(self.device.__struct_config__.tag)

    @property
    def reached(self) -> str:
        """The hash of what the device is reached by: no two of an app have the same."""
        match self.device:
            case WebDevice(endpoint=address):
                parts = ("web", address)
            case FcmDevice(kind=kind, value=address):
                parts = (f"fcm {kind}", address)
            case ApnsDevice(token=address):
                parts = ("apns", address)
        return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()

    def again(self, new: Registration) -> Registration:
        """What the device is when it registers once more, as ``new``."""
        channels = tuple(sorted({*self.channels, *new.channels})) if new.member == self.member else new.channels
        return msgspec.structs.replace(new, id=self.id, created_at=self.created_at, channels=channels)


class Audience(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which devices of an app: those of which everything holds that is said here. Without a word, all of them."""

    ids: tuple[str, ...] | None = None
    members: tuple[str, ...] | None = None
    platform: str | None = None
    channel: str | None = None

    def includes(self, registration: Registration) -> bool:
        """Whether the device is one of them."""
        return (
            (self.ids is None or registration.id in self.ids)
            and (self.members is None or registration.member in self.members)
            and (self.platform is None or registration.platform == self.platform)
            and (self.channel is None or self.channel in registration.channels)
        )


class IDeviceStore(Interface):
    """Keeps the devices that pushes go to. What a device is reached by is known once in an app."""

    async def put(registration: Registration) -> Registration:
        """Stores a device, and returns it as it is now.

        One that the app has already, by what it is reached by, keeps its id and the time at which it came, and of the
        same member its channels besides the new ones; all else is replaced (:meth:`Registration.again`).
        """

    async def find(app: str, id: str) -> Registration | None:
        """The device of this id."""

    async def page(app: str, audience: Audience, cursor: str | None, limit: int) -> list[Registration]:
        """The devices of the audience in the order of their ids, from behind the id ``cursor``, at most ``limit``.

        Less than the limit says that there are no more. A list read part by part holds every device once that was
        there all the while.
        """

    async def count(app: str, audience: Audience) -> int:
        """How many devices the audience has."""

    async def join(app: str, audience: Audience, channel: str, most: int) -> int:
        """The devices want the channel too, but for those that want ``most`` others; returns how many want it now."""

    async def part(app: str, audience: Audience, channel: str) -> int:
        """The devices don't want the channel any more; returns how many did."""

    async def remove(app: str, audience: Audience, limit: int, until: int | None = None) -> int:
        """Deletes devices of the audience, at most ``limit``; returns how many.

        With ``until``, only those that did not register later than that.
        """

    async def apps() -> list[str]:
        """The ids of the apps that have devices."""


PushJobState = Literal["pending", "done", "cancelled"]
"""Whether a push to many devices is under way, or how it ended."""


class Again(msgspec.Struct, frozen=True):
    """A device that is to be tried again at that time: it was tried so often."""

    tries: int
    at: int


class PushJob(msgspec.Struct, frozen=True, kw_only=True):
    """A push to many devices, and how far it is. Ids grow with the time.

    ``total`` is how many devices there were when it began; ``sent``, ``failed`` and ``skipped`` how many have been
    dealt with, and ``removed`` how many of those that failed are no more. Members who are present in the channel
    ``absent_from`` are skipped, and so are ``excluded`` ones.
    ``cursor`` is the last device that was looked at, ``is_read`` says that there are no more, and ``pending`` are those
    to try again, by id. From ``due`` on somebody is to go on with it, who is the ``owner`` until ``lease_until``. Times
    are in milliseconds.
    """

    id: str
    app: str
    audience: Audience
    message: PushMessage
    created_at: int
    total: int = 0
    absent_from: str = ""
    excluded: tuple[str, ...] = ()
    state: PushJobState = "pending"
    finished_at: int | None = None
    sent: int = 0
    failed: int = 0
    removed: int = 0
    skipped: int = 0
    error: str = ""
    cursor: str | None = None
    is_read: bool = False
    pending: Mapping[str, Again] = {}
    due: int = 0
    owner: str = ""
    lease_until: int = 0


class IPushJobs(Interface):
    """Keeps pushes to many devices until they are done, and for a while after."""

    async def add(job: PushJob) -> bool:
        """Stores a new one, durably; ``False`` when one with this id is there already, which stays as it is."""

    async def find(app: str, id: str) -> PushJob | None:
        """The job of this id."""

    async def page(app: str, cursor: str | None, limit: int) -> list[PushJob]:
        """The jobs of an app, the newest first, from behind the id ``cursor``, at most ``limit``."""

    async def claim(owner: str, now: int, lease_until: int, skip: Collection[str]) -> PushJob | None:
        """A pending job that is due and that nobody has: it is the owner's until then.

        Of several, the one that is due first; none of the apps in ``skip``.
        """

    async def save(job: PushJob) -> bool:
        """Stores how far the job is, if its ``owner`` still has it and it is still pending; else returns ``False``."""

    async def cancel(app: str, id: str, at: int) -> bool:
        """Ends a pending job; ``False`` when there is none."""

    async def release(owner: str) -> None:
        """Whatever the owner has, anybody may claim now."""

    async def remove(app: str, limit: int) -> int:
        """Deletes jobs of an app, whatever their state, at most ``limit``; returns how many."""

    async def expire(before: int, limit: int) -> int:
        """Deletes jobs that ended before, at most ``limit`` in one call; returns how many."""

    async def apps() -> list[str]:
        """The ids of the apps that have jobs."""
