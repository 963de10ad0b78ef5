"""Pushes to browsers: RFC 8030 as Chrome, Firefox, Safari and Edge have it, encrypted, with VAPID.

A subscription's endpoint is a URL that a browser named, so it is posted to with the guard that all foreign URLs have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from zope.interface import implementer

from wsock.errors import Code, Refused
from wsock.interfaces import (
    Blocked,
    Device,
    IPushProvider,
    IVapidKeys,
    NotSent,
    Posting,
    PushCredentials,
    PushMessage,
    PushOutcome,
    Reply,
    VapidCredentials,
    WebDevice,
)
from wsock.providers.encryption import AUTH_BYTES, MAX_PLAINTEXT, encrypt, public_bytes, read_point
from wsock.providers.outcomes import OK, gone, misconfigured, rejected, retry, retry_after
from wsock.providers.pauses import Pauses
from wsock.providers.payloads import collapse_key, from_base64url, merged, remaining_seconds, to_base64url
from wsock.providers.vapid import Vapid, private_key_of, subject_problem

__all__ = ["DECLARATIVE", "WebPush", "web_payload"]

DECLARATIVE = 8030
"""``{"web_push": 8030}`` in a message's ``web`` makes it a declarative one (W3C Push API), shown without a worker."""

_MAX_ENDPOINT = 2048
_MAX_TOPIC = 32
_SALT_BYTES = 16
_SHOWN = ("title", "body", "icon", "image", "badge", "url")


@implementer(IPushProvider, IVapidKeys)
class WebPush:
    """Sends to browsers.

    ``hosts`` are the push services that are sent to, as ``host`` or ``*.host``; none means all of the Internet's.
    With ``allows_loopback``, a push service on this machine may be reached by ``http:``.
    """

    platform = "web"

    def __init__(
        self,
        posting: Posting,
        now: Callable[[], float],
        random: Callable[[int], bytes],
        *,
        hosts: Sequence[str] = (),
        allows_loopback: bool = False,
    ) -> None:
        self._posting = posting
        self._now = now
        self._random = random
        self._hosts = tuple(host.lower() for host in hosts)
        self._allows_loopback = allows_loopback
        self._vapid = Vapid(now)
        self._pauses = Pauses(now)

    def create(self, subject: str) -> VapidCredentials:
        """See :class:`IVapidKeys`."""
        _check_subject(subject)
        key = generate_private_key(SECP256R1())
        scalar = key.private_numbers().private_value.to_bytes(32, "big")
        return VapidCredentials(
            private_key=to_base64url(scalar), public_key=to_base64url(public_bytes(key)), subject=subject
        )

    def check_credentials(self, credentials: PushCredentials) -> None:
        """See :class:`IPushProvider`."""
        if not isinstance(credentials, VapidCredentials):
            raise Refused(Code.BAD_REQUEST, "pushes to browsers take VAPID keys")
        _check_subject(credentials.subject)
        try:
            private_key_of(credentials)
        except ValueError as e:
            raise Refused(Code.BAD_REQUEST, f"these VAPID keys can't be used: {e}") from e

    def check_device(self, device: Device) -> None:
        """See :class:`IPushProvider`."""
        if not isinstance(device, WebDevice):
            raise Refused(Code.BAD_REQUEST, "pushes to browsers take a push subscription")
        self._check_endpoint(device.endpoint)
        _check_keys(device)

    async def send(self, credentials: PushCredentials, device: Device, message: PushMessage) -> PushOutcome:
        """See :class:`IPushProvider`."""
        if not isinstance(credentials, VapidCredentials) or not isinstance(device, WebDevice):
            return rejected("the device or the credentials are not those of a browser")
        left = remaining_seconds(message, self._now())
        if left is None:
            return rejected("its time to live was over before it could be sent")
        origin = _origin(device.endpoint)
        if self._pauses.is_paused((credentials, origin)):
            return misconfigured(f"{origin} refused the app's VAPID keys; it is asked again within a minute")
        try:
            self._check_endpoint(device.endpoint)
            body = self._encrypted(device, message)
        except (Refused, ValueError) as e:
            return rejected(str(e))
        try:
            headers = self._headers(credentials, origin, message, left)
        except ValueError as e:
            return misconfigured(f"these VAPID keys can't be used: {e}")
        return await self._post(credentials, origin, device.endpoint, headers, body)

    async def close(self) -> None:
        """See :class:`IPushProvider`; the connections are those of the HTTP client that it was given."""

    async def _post(
        self, credentials: VapidCredentials, origin: str, endpoint: str, headers: Mapping[str, str], body: bytes
    ) -> PushOutcome:
        try:
            reply = await self._posting.post(endpoint, headers, body, guard=True, kind="push")
        except Blocked as e:
            return rejected(e.reason)
        except NotSent as e:
            return retry(e.reason)
        outcome = self._outcome(reply)
        self._pauses.note((credentials, origin), outcome)
        return outcome

    def _encrypted(self, device: WebDevice, message: PushMessage) -> bytes:
        plaintext = web_payload(message)
        if len(plaintext) > MAX_PLAINTEXT:
            raise ValueError(f"the payload has {len(plaintext)} bytes; browsers take at most {MAX_PLAINTEXT}")
        p256dh, auth = from_base64url(device.p256dh), from_base64url(device.auth)
        return encrypt(plaintext, p256dh, auth, generate_private_key(SECP256R1()), self._random(_SALT_BYTES))

    def _headers(self, credentials: VapidCredentials, origin: str, message: PushMessage, left: int) -> dict[str, str]:
        headers = {
            "TTL": str(left),
            "Content-Type": "application/octet-stream",
            "Content-Encoding": "aes128gcm",
            "Urgency": message.urgency,
            "Authorization": self._vapid.authorization(credentials, origin),
        }
        if message.collapse:
            headers["Topic"] = collapse_key(message.collapse, _MAX_TOPIC)
        return headers

    def _outcome(self, reply: Reply) -> PushOutcome:
        """RFC 8030 §5, §8; RFC 8292 §4.2."""
        told = f"the push service answered {reply.status}: {reply.body.decode('utf-8', 'replace')}"
        match reply.status:
            case 200 | 201 | 202 | 204:
                return OK
            case 404 | 410:
                return gone(told)
            case 401 | 403:
                return misconfigured(told)
            case 429:
                return retry(told, retry_after(reply.headers, self._now()))
            case status if status >= 500:
                return retry(told, retry_after(reply.headers, self._now()))
            case 400 if _is_about_vapid(reply.body):
                return misconfigured(told)
            case _:
                return rejected(told)

    def _check_endpoint(self, endpoint: str) -> None:
        parts = _split(endpoint)
        if parts is None or not self._is_scheme_allowed(parts):
            raise Refused(Code.BAD_REQUEST, "a push subscription's endpoint is a URL like https://host/path")
        if self._hosts and not any(_is_host_of(parts.hostname or "", pattern) for pattern in self._hosts):
            raise Refused(
                Code.BAD_REQUEST, f"{parts.hostname} is none of the push services that the server may send to"
            )

    def _is_scheme_allowed(self, parts: SplitResult) -> bool:
        is_local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        return parts.scheme == "https" or (self._allows_loopback and parts.scheme == "http" and is_local)


def web_payload(message: PushMessage) -> bytes:
    """The JSON that the browser's service worker gets, with what stands in the message's ``web``."""
    content: dict[str, Any] = {name: value for name in _SHOWN if (value := getattr(message, name))}
    if message.data is not None:
        content["data"] = message.data
    if message.web.get("web_push") == DECLARATIVE:
        content = {"notification": _declarative(content)}
    return msgspec.json.encode(merged(content, message.web))


def _declarative(content: Mapping[str, Any]) -> dict[str, Any]:
    return {"navigate" if name == "url" else name: value for name, value in content.items()}


def _check_subject(subject: str) -> None:
    problem = subject_problem(subject)
    if problem is not None:
        raise Refused(Code.BAD_REQUEST, f"'subject' is how push services reach you: {problem}")


def _check_keys(device: WebDevice) -> None:
    try:
        read_point(from_base64url(device.p256dh))
    except ValueError as e:
        raise Refused(Code.BAD_REQUEST, "the subscription's 'p256dh' is no public key on the curve P-256") from e
    try:
        length = len(from_base64url(device.auth))
    except ValueError:
        length = 0
    if length != AUTH_BYTES:
        raise Refused(Code.BAD_REQUEST, f"the subscription's 'auth' is not {AUTH_BYTES} octets in base64url")


def _split(url: str) -> SplitResult | None:
    """The parts of a URL that can be posted to."""
    if not url.isascii() or not url.isprintable() or " " in url or len(url) > _MAX_ENDPOINT or "#" in url:
        return None
    try:
        parts = urlsplit(url)
        is_good = bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        return None
    return parts if is_good else None


def _origin(endpoint: str) -> str:
    """The origin (RFC 6454 §6.2) of a URL: what the service compares ``aud`` with."""
    parts = _split(endpoint)
    if parts is None:
        return ""
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    default = {"https": 443, "http": 80}.get(parts.scheme)
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port not in (None, default) else "")


def _is_host_of(host: str, pattern: str) -> bool:
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern


def _is_about_vapid(body: bytes) -> bool:
    """Some services answer 400 where they mean 403."""
    text = body.lower()
    return b"vapid" in text or b"unauthorized" in text
