"""Tests for :mod:`wsock.services.push`, its rules and credentials, through a server in memory."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from tests.push_cases import FCM, PushCase, outcome
from wsock.config import Config
from wsock.config import Push as PushSettings
from wsock.errors import Unavailable
from wsock.interfaces import Audience, FcmDevice, PushJob, PushMessage, PushStatus
from wsock.records import App, Endpoint, Plan, PlanLimits, PushAccess
from wsock.services.push import AT_ONCE, MAX_CHANNELS

ADMIN = "/api/admin/apps/demo/push"


class DeviceTests(PushCase):
    config = Config(push=PushSettings(devices_per_member=3))

    def test_eldest_gives_way(self) -> None:
        """A member has so many devices: with one more, the one that registered longest ago is forgotten."""
        for value in "abc":
            self.registered(value, memberId="bob")
            self.memory.advance(1)
        self.registered("a", memberId="bob")
        self.memory.advance(1)

        self.registered("d", memberId="bob")

        values = [self.done(self.push.device("demo", id)).device.value for id in self.devices(members=("bob",))]
        self.assertEqual(sorted(values), ["a", "c", "d"])

    def test_nobody_s_are_not_bounded(self) -> None:
        """Devices that are nobody's are as many as there are."""
        for number in range(5):
            self.registered(f"t{number}")
        self.assertEqual(len(self.devices()), 5)

    def test_channels(self) -> None:
        """A device has so many channels, whichever way it gets them."""
        names = [f"c{number}" for number in range(MAX_CHANNELS + 1)]
        body = {"platform": "fcm", "deviceToken": "x", "channels": names}
        answer = self.ask("POST", "/api/push/register", body, token="demo")
        self.assert_refused(answer, 422, "limit_exceeded", str(MAX_CHANNELS))
        self.registered("x", memberId="bob", channels=names[:-1])
        more = self.good("POST", "/api/push/channels/add", {"memberId": "bob", "channel": names[-1]})
        self.assertEqual(more, {"updated": 0})

    def test_deleted_app(self) -> None:
        """What a deleted app had is forgotten after a while, and nothing of another one's."""
        self.registered("a")
        self.registered("b", token="other")
        self.done(self.push.trigger(self._job("other")))
        self.done(self.server.directory.remove(App, "other"))

        self.memory.advance(12)

        self.assertEqual((len(self.devices()), self.devices("other")), (1, []))
        self.assertEqual(self.done(self.server.stores.push_jobs.apps()), [])

    def _job(self, app: str) -> PushJob:
        content: Any = self.push._job(app, Audience(members=("none",)), _message(), 0)
        assert isinstance(content, PushJob)
        return content

    def test_old_jobs(self) -> None:
        """How a job ended is kept for so many days."""
        self.done(self.push.trigger(self._job("demo")))
        self.memory.advance(2)
        find = self.server.stores.push_jobs.page
        self.assertEqual(len(self.done(find("demo", None, 9))), 1)
        for days, left in ((6.9, 1), (7.1, 0)):
            self.memory.now.set(1_700_000_000 + days * 86_400)
            self.memory.advance(11)
            self.assertEqual(len(self.done(find("demo", None, 9))), left)


def _message() -> PushMessage:
    return PushMessage(id="m", created=0, title="T", ttl_seconds=0)


class QuotaTests(PushCase):
    def setUp(self) -> None:
        super().setUp()
        directory = self.server.directory
        self.done(directory.add([Plan(id="tiny", name="Tiny", limits=PlanLimits(push_per_month=AT_ONCE + 1))]))
        app = self.done(directory.app("demo"))
        self.done(directory.replace(replace(app, plan="tiny")))
        self.memory.advance(1)
        self.memory.connect()
        self.memory.advance(1)

    def test_used_up(self) -> None:
        """Beyond the month's pushes a push is refused as a whole, before anything is sent."""
        for number in range(AT_ONCE):
            self.registered(f"t{number}")
        self.sends({"broadcast": True, "title": "T"})
        self.memory.advance(2)

        answer = self.refused_to_send({"broadcast": True, "title": "T"})

        self.assert_refused(answer, 429, "quota_exceeded", "push")
        self.assertEqual(len(self.fcm.sent), AT_ONCE)

    def test_large_push(self) -> None:
        """A large push is refused at once when it takes more than is left."""
        for number in range(AT_ONCE + 2):
            self.registered(f"t{number}")
        self.assertEqual(self.refused_to_send({"broadcast": True, "title": "T"}).status, 429)
        self.memory.advance(3)
        self.assertEqual(self.fcm.sent, [])


class RuleTests(PushCase):
    def setUp(self) -> None:
        super().setUp()
        self.token = self.operator()
        made = self.ask("POST", f"{ADMIN}/rules", {"pattern": "chat:*"}, token=self.token)
        self.assertEqual(made.status, 201, made.body)
        self.rule = made.json["id"]
        for member in ("ann", "bob", "cat"):
            self.registered(member, memberId=member, channels=["chat:1"])
        self.registered("dan", memberId="dan", channels=["chat:2"])
        self.ann = self.memory.connect(token=self.memory.token(sub="ann"))
        self.bob = self.memory.connect(token=self.memory.token(sub="bob"))
        self.bob.says({"action": "presence.enter", "channel": "chat:1"})
        self.memory.advance(1)

    def publish(self, data: Any, channel: str = "chat:1", **values: Any) -> list[dict[str, Any]]:
        """What the publisher hears."""
        self.ann.take()
        self.ann.says({"action": "publish", "channel": channel, "data": data, **values})
        self.memory.advance(1)
        return self.ann.take()

    @property
    def reached(self) -> list[str]:
        return [str(sent.device.value) for sent in self.fcm.sent if isinstance(sent.device, FcmDevice)]

    def test_pushed(self) -> None:
        """A message that asks for it is pushed to who wants the channel's pushes, is not there, and did not publish."""
        [ack] = self.publish({"text": "x", "push": {"title": "Ann", "body": "Lunch?", "ttl": 60}}, id="m1")

        self.assertEqual((ack["action"], ack["id"]), ("ack", "m1"))
        self.assertEqual(self.reached, ["cat"])
        said = self.fcm.sent[0].message
        self.assertEqual((said.title, said.body, said.ttl_seconds), ("Ann", "Lunch?", 60))
        self.assertEqual(said.created, ack["timestamp"])

    def test_repeated(self) -> None:
        """A message that is published again with its id is pushed once."""
        for _ in range(2):
            self.publish({"push": {"title": "T"}}, id="m1")
        self.assertEqual(self.reached, ["cat"])
        self.publish({"push": {"title": "T"}}, id="m2")
        self.assertEqual(self.reached, ["cat", "cat"])

    def test_by_rest(self) -> None:
        """A message that a backend publishes is pushed as well."""
        body = {"data": {"push": {"title": "T"}}}
        self.good("POST", "/api/channels/chat%3A1/messages", body)
        self.memory.advance(1)
        self.assertEqual(sorted(self.reached), ["ann", "cat"])

    def test_not_pushed(self) -> None:
        """Messages without a push object, with one that is none, or in other channels are not pushed, but delivered."""
        with_push = {"push": {"title": "T"}}
        for data, channel in (
            ({"text": "push"}, "chat:1"),
            ('"push"', "chat:1"),
            (["push"], "chat:1"),
            ({"push": True}, "chat:1"),
            ({"push": {"body": "no title"}}, "chat:1"),
            ({"push": {"title": 5}}, "chat:1"),
            ({"deep": with_push}, "chat:1"),
            (with_push, "news"),
        ):
            [ack] = self.publish(data, channel)
            self.assertEqual(ack["action"], "ack", data)
        self.assertEqual(self.fcm.sent, [])

    def test_rule_goes(self) -> None:
        """When the rule is gone, nothing more is pushed."""
        self.assertEqual(self.ask("DELETE", f"{ADMIN}/rules/{self.rule}", token=self.token).status, 204)
        self.assertEqual(self.ask("DELETE", f"{ADMIN}/rules/{self.rule}", token=self.token).status, 404)
        self.memory.advance(1)
        self.publish({"push": {"title": "T"}})
        self.assertEqual(self.fcm.sent, [])

    def test_rules(self) -> None:
        """Rules are listed; there is one for a pattern."""
        listed = self.good("GET", f"{ADMIN}/rules", token=self.token)
        self.assertEqual([one["pattern"] for one in listed["items"]], ["chat:*"])
        answer = self.ask("POST", f"{ADMIN}/rules", {"pattern": "chat:*"}, token=self.token)
        self.assert_refused(answer, 409, "conflict", "pattern")

    def test_store_away(self) -> None:
        """While pushes can't be stored, who may repeat the message is told to; who can't is not held up."""
        add = self.server.stores.push_jobs.add

        async def away(job: PushJob) -> bool:
            raise Unavailable("away")

        self.patch(self.server.stores.push_jobs, "add", away)
        [error] = self.publish({"push": {"title": "T"}}, id="m1")
        self.assertEqual((error["action"], error["code"]), ("error", "unavailable"))
        [ack] = self.publish({"push": {"title": "T"}})
        self.assertEqual(ack["action"], "ack")

        self.patch(self.server.stores.push_jobs, "add", add)
        [ack] = self.publish({"push": {"title": "T"}}, id="m1")
        self.assertEqual((ack["action"], self.reached), ("ack", ["cat"]))

    def test_fault(self) -> None:
        """A fault of ours is logged, and the publisher gets its answer."""

        async def broken(job: PushJob) -> bool:
            raise KeyError("x")

        self.patch(self.server.stores.push_jobs, "add", broken)
        [ack] = self.publish({"push": {"title": "T"}})
        self.assertEqual(ack["action"], "ack")
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)


class CredentialTests(PushCase):
    def setUp(self) -> None:
        super().setUp()
        self.token = self.operator()

    def listed(self) -> dict[str, Any]:
        items = self.good("GET", f"{ADMIN}/credentials", token=self.token)["items"]
        return {one["platform"]: one["details"] for one in items}

    def put(self, platform: str, body: Any) -> Any:
        return self.good("PUT", f"{ADMIN}/credentials/{platform}", body, token=self.token)

    def test_set(self) -> None:
        """Credentials of each platform are set and replaced, are used at once, and never shown."""
        account = {"project_id": "p2", "client_email": "e", "private_key": "SECRET", "type": "service_account"}
        key = {"privateKey": "SECRET", "keyId": "K2", "teamId": "T2", "topic": "t", "environment": "sandbox"}
        self.assertEqual(self.put("fcm", {"serviceAccount": account})["version"], 2)
        self.put("apns", key)

        text = str(self.listed())

        self.assertEqual(self.listed()["fcm"], {"projectId": "p2", "clientEmail": "e"})
        self.assertEqual(self.listed()["apns"], {n: v for n, v in key.items() if n != "privateKey"})
        self.assertNotIn("SECRET", text)
        self.assertNotIn("private", text)
        self.registered(memberId="bob")
        self.sends({"memberId": "bob", "title": "T"})
        expected = replace(FCM, project_id="p2", client_email="e", private_key="SECRET")
        self.assertEqual(self.fcm.sent[0].credentials, expected)
        stored = self.done(self.server.directory.find(PushAccess, "demo.fcm"))
        self.assertNotIn("SECRET", repr(stored))

    def test_web(self) -> None:
        """Keys for browsers are made once; another subject keeps them, and only their removal makes new ones."""
        self.assertEqual(self.listed()["web"], {"publicKey": "public-1", "subject": "mailto:push@localhost"})
        self.put("web", {"subject": "https://shop.example"})
        self.assertEqual(self.listed()["web"], {"publicKey": "public-1", "subject": "https://shop.example"})
        answer = self.ask("PUT", f"{ADMIN}/credentials/web", {"subject": "shop"}, token=self.token)
        self.assert_refused(answer, 400, "bad_request", "mailto")

        self.assertEqual(self.ask("DELETE", f"{ADMIN}/credentials/web", token=self.token).status, 204)
        self.assertNotIn("web", self.listed())
        self.assertNotEqual(self.good("GET", "/api/push/vapid-key")["vapidPublicKey"], "public-1")

    def test_removed(self) -> None:
        """Without credentials nothing is sent, the outcome says why, and no device is forgotten."""
        self.registered(memberId="bob")
        self.assertEqual(self.ask("DELETE", f"{ADMIN}/credentials/fcm", token=self.token).status, 204)
        answer = self.sends({"memberId": "bob", "title": "T"})
        self.assertIn("no credentials", answer["results"][0]["error"])
        self.assertEqual((self.fcm.sent, len(self.devices())), ([], 1))
        again = self.ask("DELETE", f"{ADMIN}/credentials/fcm", token=self.token)
        self.assert_refused(again, 404, "not_found", "fcm")

    def test_audit(self) -> None:
        """What is set and removed is in the audit log, without secrets."""
        self.put("apns", {"privateKey": "SECRET", "keyId": "K", "teamId": "T", "topic": "t"})
        self.ask("DELETE", f"{ADMIN}/credentials/apns", token=self.token)
        log = self.good("GET", "/api/admin/audit?app=demo", token=self.token)
        actions = [entry["action"] for entry in log["items"]]
        self.assertEqual(actions[:2], ["push.credentials.delete", "push.credentials.update"])
        self.assertNotIn("SECRET", str(log))

    def test_one_app_s_keys(self) -> None:
        """Apps have keys of their own, and two that ask at once get the same."""
        other = self.good("GET", "/api/push/vapid-key", token="other")["vapidPublicKey"]
        self.assertNotEqual(other, "public-1")
        self.assertEqual(self.good("GET", "/api/push/vapid-key", token="other")["vapidPublicKey"], other)


class JobRestTests(PushCase):
    def setUp(self) -> None:
        super().setUp()
        self.token = self.operator()
        for number in range(AT_ONCE + 50):
            self.registered(f"t{number}")

    def test_progress(self) -> None:
        """A job tells how far it is, is listed, and ends when it is cancelled."""
        self.fcm.outcomes.extend([outcome(PushStatus.RETRY, after_seconds=60.0)] * 150)
        id = self.sends({"broadcast": True, "title": "Hi"})["jobId"]
        self.memory.advance(2)

        job = self.good("GET", f"{ADMIN}/jobs/{id}", token=self.token)
        self.assertEqual((job["state"], job["title"], job["total"], job["waiting"]), ("pending", "Hi", 150, 150))
        listed = self.good("GET", f"{ADMIN}/jobs?limit=1", token=self.token)
        self.assertEqual([one["id"] for one in listed["items"]], [id])
        for _ in range(2):
            ended = self.good("POST", f"{ADMIN}/jobs/{id}/cancel", token=self.token)
            self.assertEqual(ended["state"], "cancelled")
        self.memory.advance(100)
        self.assertEqual(len(self.fcm.sent), 150)
        unknown = self.ask("POST", f"{ADMIN}/jobs/none/cancel", token=self.token)
        self.assert_refused(unknown, 404, "not_found", "none")

    def test_failures_are_told(self) -> None:
        """A webhook hears of each device that was not reached, and nothing of what it is reached by."""
        hook = Endpoint(id="hook", app="demo", url="https://example.org", created_at=0, events=("push.failed",))
        self.done(self.server.directory.add([hook]))
        self.memory.advance(6)
        id = self.registered("secret-token", memberId="bob")
        self.fcm.outcomes.append(outcome(PushStatus.REJECTED, "too long"))
        told: list[tuple[str, Any]] = []
        self.patch(self.server.events, "push_failed", lambda app, data: told.append((app, data)))
        self.sends({"memberId": "bob", "title": "T"})

        [(app, data)] = told
        self.assertEqual((app, data["subscriptionId"], data["error"]), ("demo", id, "too long"))
        self.assertNotIn("secret-token", str(data))


class EndTests(PushCase):
    def test_stops(self) -> None:
        """A server that ends lets go of the push services, and of jobs."""
        self.memory.stop()
        self.assertTrue(self.web.is_closed and self.fcm.is_closed and self.apns.is_closed)
