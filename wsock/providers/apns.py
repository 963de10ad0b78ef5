"""Pushes to Apple's devices: APNs over HTTP/2, with tokens that the app's own key signs.

Apple takes one team's tokens per connection, so every key has connections of its own; and not too many tokens per
hour, so one serves for as long as it may.
"""

from __future__ import annotations

import re
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from typing import Protocol as Shape

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.web.client import readBody
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer, IResponse
from zope.interface import implementer

from wsock.errors import Code, Refused
from wsock.interfaces import (
    ApnsCredentials,
    ApnsDevice,
    Device,
    IPushProvider,
    PushCredentials,
    PushMessage,
    PushOutcome,
)
from wsock.providers.h2agent import BytesProducer
from wsock.providers.outcomes import OK, gone, misconfigured, rejected, retry, retry_after
from wsock.providers.pauses import Pauses
from wsock.providers.payloads import collapse_key, merged, remaining_seconds

__all__ = ["HOSTS", "AgentOfOne", "Apns", "apns_payload"]

HOSTS = {"production": "https://api.push.apple.com", "sandbox": "https://api.sandbox.push.apple.com"}
"""Apple's servers."""

_TOKEN_SECONDS = 50 * 60
_TOKEN_LEAST_SECONDS = 20 * 60
_MAX_PAYLOAD = 4096
_MAX_VOIP = 5120
_MAX_COLLAPSE = 64
_MAX_KEYS = 1000
_DEVICE_WAIT = 60.0
_PRIORITIES = {"very-low": "1", "low": "5", "normal": "10", "high": "10"}
_DEVICE_TOKEN = re.compile(r"[0-9a-fA-F]{16,512}")
_IDENTIFIER = re.compile(r"[A-Z0-9]{10}")
_HEADER_NAME = re.compile(r"[a-z0-9-]+")
_HEADER_VALUE = re.compile(r"[!-~]{1,255}")
_TOPIC = re.compile(r"[A-Za-z0-9.-]{1,255}")
_IDS = uuid.UUID("5b0f5f3a-2f0e-4c0e-9d52-7d4f6f6a7f10")
"""The name space of the ``apns-id`` that is made of a message and a device."""

_OF_CREDENTIALS = frozenset(("TopicDisallowed", "MissingTopic", "BadTopic", "BadCertificate"))
_OF_DEVICE = frozenset(("BadDeviceToken", "DeviceTokenNotForTopic"))


class AgentOfOne(Shape):
    """An IAgent that shares its connections with nobody, and can end them."""

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,  # noqa: N803  # IAgent's
    ) -> Deferred[IResponse]:
        """See IAgent."""

    async def close(self) -> None:
        """Ends the connections."""


class _Key(NamedTuple):
    """What a connection and a token belong to."""

    team_id: str
    key_id: str
    private_key: str
    environment: str


@dataclass(slots=True)
class _Sender:
    """What is kept for a key."""

    agent: AgentOfOne
    places: DeferredSemaphore
    key: EllipticCurvePrivateKey
    token: str = ""
    token_at: float = 0.0


@implementer(IPushProvider)
class Apns:
    """Sends to Apple's devices; ``agents`` makes the HTTP/2 agent of another key.

    ``at_once`` requests are on their way for a key, each for ``timeout_seconds`` at most.
    """

    platform = "apns"

    def __init__(
        self,
        agents: Callable[[], AgentOfOne],
        clock: IReactorTime,
        now: Callable[[], float],
        *,
        hosts: Mapping[str, str] = HOSTS,
        at_once: int = 256,
        timeout_seconds: float = 20.0,
    ) -> None:
        self._agents = agents
        self._clock = clock
        self._now = now
        self._hosts = hosts
        self._at_once = at_once
        self._timeout_seconds = timeout_seconds
        self._senders: OrderedDict[_Key, _Sender] = OrderedDict()
        self._ending: set[Deferred[None]] = set()
        self._pauses = Pauses(now)

    def check_credentials(self, credentials: PushCredentials) -> None:
        """See :class:`IPushProvider`."""
        if not isinstance(credentials, ApnsCredentials):
            raise Refused(Code.BAD_REQUEST, "pushes to Apple's devices take an APNs key")
        for name, value in (("keyId", credentials.key_id), ("teamId", credentials.team_id)):
            if not _IDENTIFIER.fullmatch(value):
                raise Refused(Code.BAD_REQUEST, f"'{name}' takes 10 characters of A-Z and 0-9")
        if not _TOPIC.fullmatch(credentials.topic):
            raise Refused(Code.BAD_REQUEST, "'topic' takes the app's bundle id, like com.example.app")
        try:
            _signing_key(credentials.private_key)
        except ValueError as e:
            raise Refused(Code.BAD_REQUEST, f"'privateKey' takes the text of the .p8 file: {e}") from e

    def check_device(self, device: Device) -> None:
        """See :class:`IPushProvider`."""
        if not isinstance(device, ApnsDevice) or not _DEVICE_TOKEN.fullmatch(device.token):
            raise Refused(Code.BAD_REQUEST, "an Apple device is known by its device token, in hex")

    async def send(self, credentials: PushCredentials, device: Device, message: PushMessage) -> PushOutcome:
        """See :class:`IPushProvider`."""
        if not isinstance(credentials, ApnsCredentials):
            return rejected("the credentials are not those of APNs")
        try:
            self.check_device(device)
            body = _body(message)
        except (Refused, ValueError) as e:
            return rejected(str(e))
        key = _key_of(credentials)
        if self._pauses.is_paused(key):
            return misconfigured("APNs refused the app's key; it is asked again within a minute")
        try:
            sender = self._sender(key)
        except ValueError as e:
            return misconfigured(f"the app's APNs key can't be used: {e}")
        await sender.places.acquire()
        try:
            outcome = await self._send(credentials, sender, device, message, body)
        finally:
            sender.places.release()
        self._pauses.note(key, outcome)
        return outcome

    async def close(self) -> None:
        """See :class:`IPushProvider`."""
        senders, self._senders = self._senders, OrderedDict()
        for sender in senders.values():
            self._end(sender)
        await gatherResults([_waiting(ending) for ending in self._ending], consumeErrors=True)

    # Sending.

    async def _send(
        self, credentials: ApnsCredentials, sender: _Sender, device: Any, message: PushMessage, body: bytes
    ) -> PushOutcome:
        token = self._token(credentials, sender)
        outcome, is_expired = await self._ask(credentials, sender, device, message, body, token)
        if not is_expired or not self._renew(sender, token):
            return outcome
        token = self._token(credentials, sender)
        outcome, _ = await self._ask(credentials, sender, device, message, body, token)
        return outcome

    async def _ask(
        self,
        credentials: ApnsCredentials,
        sender: _Sender,
        device: ApnsDevice,
        message: PushMessage,
        body: bytes,
        token: str,
    ) -> tuple[PushOutcome, bool]:
        """What became of it, and whether that is because the token is too old."""
        left = remaining_seconds(message, self._now())
        if left is None:
            return rejected("its time to live was over before it could be sent"), False
        url = f"{self._hosts[credentials.environment]}/3/device/{device.token}".encode("ascii")
        headers = _headers(credentials.topic, device, message, token)
        asking = Deferred.fromCoroutine(_exchange(sender.agent, url, headers, body))
        try:
            status, answered, said = await asking.addTimeout(self._timeout_seconds, self._clock)
        except CancelledError:
            raise
        except Exception as e:
            # Whatever the network, TLS or HTTP/2 had to say: nobody knows whether APNs took it, unless it says so.
            return retry(f"APNs can't be asked: {str(e) or type(e).__name__}"), False
        return self._outcome(status, answered, said)

    def _outcome(self, status: int, headers: Headers, said: bytes) -> tuple[PushOutcome, bool]:
        if status == 200:
            return OK, False
        reason, at = _reason(said)
        told = f"APNs answered {status} {reason}".strip()
        wait = retry_after({"retry-after": (headers.getRawHeaders("retry-after") or [""])[0]}, self._now())
        match status:
            case 410:
                return gone(told, at), False
            case 403:
                return misconfigured(told), reason == "ExpiredProviderToken"
            case 429 if reason == "TooManyProviderTokenUpdates":
                return retry(told, max(wait, _DEVICE_WAIT), for_all=True), False
            case 429:
                return retry(told, wait or _DEVICE_WAIT), False
            case _ if status >= 500:
                return retry(told, wait), False
            case 400 if reason in _OF_CREDENTIALS:
                return misconfigured(told), False
            case _:
                return rejected(told, blames_device=reason in _OF_DEVICE), False

    # What is kept for a key.

    def _sender(self, key: _Key) -> _Sender:
        sender = self._senders.get(key)
        if sender is not None:
            self._senders.move_to_end(key)
            return sender
        signing = _signing_key(key.private_key)
        sender = self._senders[key] = _Sender(self._agents(), DeferredSemaphore(self._at_once), signing)
        if len(self._senders) > _MAX_KEYS:
            self._end(self._senders.popitem(last=False)[1])
        return sender

    def _end(self, sender: _Sender) -> None:
        ending = Deferred.fromCoroutine(sender.agent.close())
        self._ending.add(ending)

        def ended(result: Any) -> Any:
            self._ending.discard(ending)
            return result

        ending.addBoth(ended)

    def _token(self, credentials: ApnsCredentials, sender: _Sender) -> str:
        now = self._now()
        if not sender.token or now - sender.token_at >= _TOKEN_SECONDS:
            sender.token = jwt.encode(
                {"iss": credentials.team_id, "iat": int(now)}, sender.key, "ES256", headers={"kid": credentials.key_id}
            )
            sender.token_at = now
        return sender.token

    def _renew(self, sender: _Sender, token: str) -> bool:
        """Whether there is a token to try that is newer than one that APNs calls too old."""
        if sender.token == token:
            # One that is made more often than every 20 minutes makes APNs refuse all of them.
            if self._now() - sender.token_at < _TOKEN_LEAST_SECONDS:
                return False
            sender.token = ""
        return True


def apns_payload(message: PushMessage) -> dict[str, Any]:
    """What the device gets, with what stands in the message's ``apns``."""
    alert = {"title": message.title, "body": message.body} if message.body else {"title": message.title}
    aps: dict[str, Any] = {"alert": alert, "sound": "default"}
    if message.badge.isascii() and message.badge.isdigit():
        aps["badge"] = int(message.badge[:9])
    if message.image:
        # The app's notification service extension fetches it.
        aps["mutable-content"] = 1
    payload: dict[str, Any] = {"aps": aps}
    payload.update({name: value for name in ("url", "image", "icon") if (value := getattr(message, name))})
    if message.data is not None:
        payload["data"] = message.data
    return merged(payload, _mapping(message.apns.get("payload")))


def _body(message: PushMessage) -> bytes:
    body = msgspec.json.encode(apns_payload(message))
    is_voip = _given_headers(message).get("apns-push-type") == "voip"
    most = _MAX_VOIP if is_voip else _MAX_PAYLOAD
    if len(body) > most:
        raise ValueError(f"the payload has {len(body)} bytes; APNs takes at most {most}")
    return body


def _headers(topic: str, device: ApnsDevice, message: PushMessage, token: str) -> Headers:
    fields = {
        "apns-topic": topic,
        "apns-push-type": "alert",
        "apns-priority": _PRIORITIES[message.urgency],
        "apns-expiration": str(message.created // 1000 + message.ttl_seconds if message.ttl_seconds else 0),
        # The same for the same message and device, so that what is sent again can be told from another one.
        "apns-id": str(uuid.uuid5(_IDS, f"{message.id}/{device.token.lower()}")),
    }
    if message.collapse:
        fields["apns-collapse-id"] = collapse_key(message.collapse, _MAX_COLLAPSE)
    given = _given_headers(message)
    if given.get("apns-push-type") == "background":
        fields["apns-priority"] = "5"
    fields.update(given)
    fields["authorization"] = f"bearer {token}"
    return Headers({name: [value] for name, value in fields.items()})


def _given_headers(message: PushMessage) -> dict[str, str]:
    """Those headers of the message's ``apns`` that are APNs' own. Raises ``ValueError`` for values that are none."""
    given = _mapping(message.apns.get("headers"))
    own = {name.lower(): str(value) for name, value in given.items() if name.lower().startswith("apns-")}
    for name, value in own.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise ValueError(f"the header {name} takes printable ASCII without spaces")
    return own


async def _exchange(agent: AgentOfOne, url: bytes, headers: Headers, body: bytes) -> tuple[int, Headers, bytes]:
    response = await agent.request(b"POST", url, headers, BytesProducer(body))
    said = await readBody(response)
    return response.code, response.headers, said


class _Said(msgspec.Struct):
    reason: str = ""
    timestamp: int | None = None


def _reason(said: bytes) -> tuple[str, int | None]:
    try:
        told = msgspec.json.decode(said, type=_Said)
    except msgspec.DecodeError:
        return "", None
    return told.reason, told.timestamp


def _key_of(credentials: ApnsCredentials) -> _Key:
    return _Key(credentials.team_id, credentials.key_id, credentials.private_key, credentials.environment)


def _signing_key(pem: str) -> EllipticCurvePrivateKey:
    """The key in the PEM. Raises ``ValueError``."""
    try:
        key = load_pem_private_key(pem.encode("utf-8"), password=None)
    except (ValueError, TypeError) as e:
        # TypeError: it is encrypted.
        raise ValueError("it is no unencrypted key in PEM") from e
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise ValueError("it is no key on the curve P-256")
    return key


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _waiting(ending: Deferred[None]) -> Deferred[None]:
    """Fires with the other one, which others may wait for too."""
    waiting: Deferred[None] = Deferred()

    def ended(result: Any) -> Any:
        waiting.callback(None)
        return result

    ending.addBoth(ended)
    return waiting
