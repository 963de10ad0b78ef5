"""Tests of wsock.services.signing."""

from __future__ import annotations

import base64
import hmac
import json
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from tests.base import SynchronousTestCase
from wsock.interfaces import Delivery, Event, OutboxRow
from wsock.records import Endpoint
from wsock.services.signing import body_of, headers_of, message_id, secrets_of

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OLD_SECRET = "whsec_" + base64.b64encode(bytes(range(100, 132))).decode()
OTHER_SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()


def delivery(id: str = "1@app/room", *, data: Any = None, channel: str = "room", batch: str = "") -> Delivery:
    """An event that an endpoint is to be told."""
    event = Event(id=id, app="shop", channel=channel, type="message.published", data=json.dumps(data or {}).encode())
    row = OutboxRow(event, "endpoint", 1_700_000_000.25)
    return Delivery(id="7", row=row, state="pending", due=0.0, tries=0, batch=batch)


class BodyTests(SynchronousTestCase):
    """What is said."""

    def test_event(self) -> None:
        """The type, the time, and the event's data with its app and channel."""
        body = body_of([delivery(data={"text": "h\u00e9 \U0001f600", "channel": "elsewhere", "appId": "other"})])

        self.assertEqual(
            json.loads(body),
            {
                "type": "message.published",
                "timestamp": "2023-11-14T22:13:20.250Z",
                "data": {"text": "h\u00e9 \U0001f600", "channel": "room", "appId": "shop"},
            },
        )

    def test_no_channel(self) -> None:
        """An event of no channel names none."""
        self.assertNotIn("channel", json.loads(body_of([delivery(channel="")]))["data"])

    def test_batch(self) -> None:
        """The events stand in a list, in their order, each as it would be by itself."""
        events = [delivery("1", batch="b", data={"n": 1}), delivery("2", batch="b", data={"n": 2})]

        body = json.loads(body_of(events))

        self.assertEqual((body["type"], body["data"]["appId"]), ("batch", "shop"))
        self.assertEqual([one["data"]["n"] for one in body["data"]["events"]], [1, 2])
        self.assertEqual(body["data"]["events"][0], json.loads(body_of([delivery("1", data={"n": 1})])))

    def test_timestamp(self) -> None:
        """It is one that others can read."""
        text = json.loads(body_of([delivery()]))["timestamp"]

        self.assertEqual(datetime.fromisoformat(text), datetime.fromtimestamp(1_700_000_000.25, UTC))


class IdTests(SynchronousTestCase):
    """What a receiver knows an event by."""

    def test_same(self) -> None:
        """It is the event's own, whatever became of the delivery, and fit for a header whatever the channel."""
        once = message_id([delivery("1-1@shop/\u00e9\n\ud800 room")])
        again = message_id([replace(delivery("1-1@shop/\u00e9\n\ud800 room"), id="8", tries=3, state="dead")])

        self.assertEqual(once, again)
        self.assertRegex(once, r"\Amsg_[0-9a-f]{32}\Z")

    def test_different(self) -> None:
        """Other events, other apps and batches have other ones."""
        event = delivery()
        other_app = replace(event, row=replace(event.row, event=replace(event.row.event, app="other")))
        different = [event, delivery("2@app/room"), other_app, delivery(batch="b"), delivery(batch="c")]

        self.assertEqual(len({message_id([one]) for one in different}), len(different))
        batch = [delivery(batch="b"), delivery("2@app/room", batch="b")]
        self.assertEqual(message_id(batch), message_id(batch[:1]))


class SignatureTests(SynchronousTestCase):
    """What requests are signed with."""

    def headers(self, body: bytes, *secrets: str) -> dict[str, str]:
        """Of a request that is sent now."""
        return headers_of("msg_1", datetime.now(UTC).timestamp(), body, secrets)

    def test_standard_webhooks(self) -> None:
        """The library of the standard verifies it, and nothing else than the body and the id that were signed."""
        body = body_of([delivery(data={"text": "h\u00e9"})])
        headers = self.headers(body, SECRET)

        self.assertEqual(Webhook(SECRET).verify(body, headers), json.loads(body))
        self.assertRaises(WebhookVerificationError, Webhook(OTHER_SECRET).verify, body, headers)
        self.assertRaises(WebhookVerificationError, Webhook(SECRET).verify, body + b" ", headers)
        self.assertRaises(WebhookVerificationError, Webhook(SECRET).verify, body, {**headers, "webhook-id": "msg_2"})

    def test_rotation(self) -> None:
        """With two secrets, whoever has one of them verifies it."""
        body = body_of([delivery()])
        headers = self.headers(body, SECRET, OLD_SECRET)

        Webhook(SECRET).verify(body, headers)
        Webhook(OLD_SECRET).verify(body, headers)
        self.assertRaises(WebhookVerificationError, Webhook(OTHER_SECRET).verify, body, headers)

    def test_secrets(self) -> None:
        """The old one counts until its time is over."""
        endpoint = Endpoint(id="e", app="a", url="", created_at=0, secret=SECRET, old_secret=OLD_SECRET)

        self.assertEqual(secrets_of(endpoint, 10.0), [SECRET])
        rotated = replace(endpoint, old_secret_until=10_000)
        self.assertEqual(secrets_of(rotated, 9.9), [SECRET, OLD_SECRET])
        self.assertEqual(secrets_of(rotated, 10.0), [SECRET])

    def test_plain(self) -> None:
        """The plain form is the hex HMAC of the body, by the secret as it is written."""
        headers = self.headers(b"{}", SECRET, OLD_SECRET)

        self.assertEqual(headers["x-wsocket-signature"], hmac.new(SECRET.encode(), b"{}", "sha256").hexdigest())

    def test_own_secret(self) -> None:
        """One that is no base64 is taken as it is."""
        self.assertEqual(len(self.headers(b"{}", "not base64!")["webhook-signature"]), 47)
