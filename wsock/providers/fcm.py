"""Pushes by Firebase Cloud Messaging: its HTTP v1 API."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
from zope.interface import implementer

from wsock.errors import Code, Refused
from wsock.interfaces import (
    Blocked,
    Device,
    FcmCredentials,
    FcmDevice,
    IPushProvider,
    NotSent,
    Posting,
    PushCredentials,
    PushMessage,
    PushOutcome,
    Reply,
)
from wsock.providers.google import AccessTokens, NoToken, signing_key
from wsock.providers.outcomes import OK, gone, misconfigured, rejected, retry, retry_after
from wsock.providers.pauses import Pauses
from wsock.providers.payloads import merged, remaining_seconds

__all__ = ["URL", "Fcm", "fcm_message"]

URL = "https://fcm.googleapis.com"
"""Google's server."""

_MAX_PAYLOAD = 4096
_MAX_TTL = 2_419_200
_MAX_ANSWER = 16_384
_QUOTA_WAIT = 60.0
_FIRST_WAIT = 10.0
_PROJECT = re.compile(r"[a-z0-9][a-z0-9.:-]{3,127}")
_VALUE = re.compile(r"[!-~]{1,4096}")
_FCM_ERROR = "google.firebase.fcm.v1.FcmError"
_AS_DATA = ("url", "icon", "badge")


@implementer(IPushProvider)
class Fcm:
    """Sends by Firebase."""

    platform = "fcm"

    def __init__(self, posting: Posting, now: Callable[[], float], *, url: str = URL) -> None:
        self._posting = posting
        self._now = now
        self._url = url
        self._tokens = AccessTokens(posting, now)
        self._pauses = Pauses(now)

    def check_credentials(self, credentials: PushCredentials) -> None:
        """See :class:`IPushProvider`."""
        if not isinstance(credentials, FcmCredentials):
            raise Refused(Code.BAD_REQUEST, "pushes by FCM take the JSON of a Google service account")
        if not _PROJECT.fullmatch(credentials.project_id):
            raise Refused(Code.BAD_REQUEST, "'project_id' is no id of a Google project")
        if "@" not in credentials.client_email or not credentials.client_email.isascii():
            raise Refused(Code.BAD_REQUEST, "'client_email' is no e-mail address")
        if not _is_url(credentials.token_uri):
            raise Refused(Code.BAD_REQUEST, "'token_uri' is no URL that begins with https://")
        try:
            signing_key(credentials.private_key)
        except ValueError as e:
            raise Refused(Code.BAD_REQUEST, f"'private_key' can't be used: {e}") from e

    def check_device(self, device: Device) -> None:
        """See :class:`IPushProvider`."""
        if not isinstance(device, FcmDevice) or not _VALUE.fullmatch(device.value):
            raise Refused(Code.BAD_REQUEST, "a device of FCM is known by its registration token or installation id")

    async def send(self, credentials: PushCredentials, device: Device, message: PushMessage) -> PushOutcome:
        """See :class:`IPushProvider`."""
        if not isinstance(credentials, FcmCredentials):
            return rejected("the credentials are not those of FCM")
        left = remaining_seconds(message, self._now())
        if left is None:
            return rejected("its time to live was over before it could be sent")
        try:
            self.check_device(device)
            body = _body(device, message, left)
        except (Refused, ValueError) as e:
            return rejected(str(e))
        if self._pauses.is_paused(credentials):
            return misconfigured("FCM refused the app's service account; it is asked again within a minute")
        outcome = await self._send(credentials, body)
        self._pauses.note(credentials, outcome)
        return outcome

    async def close(self) -> None:
        """See :class:`IPushProvider`; the connections are those of the HTTP client that it was given."""
        self._tokens.close()

    async def _send(self, credentials: FcmCredentials, body: bytes) -> PushOutcome:
        try:
            token = await self._tokens.token(credentials)
            reply = await self._post(credentials, token, body)
            if reply.status == 401 and _error(reply.body).code not in _THIRD_PARTY:
                # It may have been revoked before its time: one that is new decides.
                self._tokens.drop(credentials, token)
                reply = await self._post(credentials, await self._tokens.token(credentials), body)
        except NoToken as e:
            return e.outcome
        except Blocked as e:
            return rejected(e.reason)
        except NotSent as e:
            return retry(f"FCM can't be asked: {e.reason}")
        return self._outcome(reply)

    async def _post(self, credentials: FcmCredentials, token: str, body: bytes) -> Reply:
        url = f"{self._url}/v1/projects/{credentials.project_id}/messages:send"
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        return await self._posting.post(url, headers, body, guard=True, kind="push", max_body=_MAX_ANSWER)

    def _outcome(self, reply: Reply) -> PushOutcome:
        if reply.status == 200:
            return OK
        error = _error(reply.body)
        told = f"FCM answered {reply.status} {error.code} {error.message}"
        wait = retry_after(reply.headers, self._now())
        match error.code:
            case "UNREGISTERED" | "SENDER_ID_MISMATCH":
                return gone(told)
            case "INVALID_ARGUMENT" if error.is_of_token:
                return gone(told)
            case "QUOTA_EXCEEDED" | "RESOURCE_EXHAUSTED":
                return retry(told, wait or _QUOTA_WAIT, for_all=True)
            case "THIRD_PARTY_AUTH_ERROR" | "APNS_AUTH_ERROR":
                return misconfigured(told)
        if reply.status == 429:
            return retry(told, wait or _QUOTA_WAIT, for_all=True)
        if reply.status >= 500:
            return retry(told, max(wait, _FIRST_WAIT))
        return misconfigured(told) if reply.status in (401, 403, 404) else rejected(told)


_THIRD_PARTY = frozenset(("THIRD_PARTY_AUTH_ERROR", "APNS_AUTH_ERROR"))


class _Detail(msgspec.Struct, kw_only=True):
    type: str = msgspec.field(default="", name="@type")
    code: str = msgspec.field(default="", name="errorCode")


class _Error(msgspec.Struct, kw_only=True):
    status: str = ""
    message: str = ""
    details: list[_Detail] = []

    @property
    def code(self) -> str:
        """FCM's own code, or the general one of Google's APIs."""
        return next((d.code for d in self.details if d.type.endswith(_FCM_ERROR) and d.code), self.status)

    @property
    def is_of_token(self) -> bool:
        """Whether it is the device's token that is wrong, not our message."""
        is_of_fcm = any(d.type.endswith(_FCM_ERROR) for d in self.details)
        return is_of_fcm and "registration token" in self.message.lower()


class _Failed(msgspec.Struct):
    error: _Error


def _error(body: bytes) -> _Error:
    try:
        return msgspec.json.decode(body, type=_Failed).error
    except msgspec.DecodeError:
        # A proxy of Google's answers in HTML.
        return _Error()


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("https", "http") and bool(parts.hostname)


def fcm_message(message: PushMessage, left: int) -> dict[str, Any]:
    """FCM's ``message``, without its target, with what stands in the message's ``fcm``. Values of ``data`` are text."""
    notification = {name: value for name in ("title", "body", "image") if (value := getattr(message, name))}
    android: dict[str, Any] = {
        "ttl": f"{min(left, _MAX_TTL)}s",
        "priority": "high" if message.urgency == "high" else "normal",
    }
    if message.collapse:
        android["collapse_key"] = message.collapse
    content: dict[str, Any] = {"notification": notification, "android": android}
    data = {name: value for name in _AS_DATA if (value := getattr(message, name))}
    data.update(_texts(message.data))
    if data:
        content["data"] = data
    return merged(content, message.fcm)


def _texts(data: Any) -> dict[str, str]:
    if data is None:
        return {}
    given = data if isinstance(data, Mapping) else {"data": data}
    return {
        name: value if isinstance(value, str) else msgspec.json.encode(value).decode() for name, value in given.items()
    }


def _body(device: Any, message: PushMessage, left: int) -> bytes:
    content = fcm_message(message, left)
    shown = msgspec.json.encode([content.get("notification"), content.get("data")])
    if len(shown) > _MAX_PAYLOAD:
        raise ValueError(f"the payload has {len(shown)} bytes; FCM takes at most {_MAX_PAYLOAD}")
    for other in ("token", "fid", "topic", "condition"):
        content.pop(other, None)
    return msgspec.json.encode({"message": {device.kind: device.value, **content}})
