"""The push endpoints, with every form of every published SDK (protocol.md II.5)."""

from __future__ import annotations

from typing import Any

from tests.accounts import PASSWORD
from tests.push_cases import WEB, PushCase, outcome
from wsock.interfaces import ApnsDevice, Device, FcmDevice, PushStatus, WebDevice
from wsock.records import App, Role
from wsock.services.teams import new_member

G1 = "/api/admin/apps/demo/push"
G2 = "/api/push"

# The SDKs: the path that each puts before its own, the headers besides Authorization, and what it sends.
JSON = {"Content-Type": "application/json"}
OKHTTP = {"Content-Type": "application/json; charset=utf-8"}
WITH_APP = {**JSON, "X-App-Id": "demo"}
WITH_APP_OKHTTP = {**OKHTTP, "X-App-Id": "demo"}

REGISTRATIONS: tuple[tuple[str, str, dict[str, str], dict[str, Any], Device], ...] = (
    (
        "JS web",
        f"{G2}/register",
        JSON,
        {
            "provider": "web",
            "memberId": "anonymous",
            "webPush": WEB,
            "channels": ["news"],
            "metadata": {"language": "de", "timezone": "Europe/Berlin", "pageUrl": "https://a"},
        },
        WebDevice(endpoint=WEB["endpoint"], p256dh="BPUB", auth="AUTH"),
    ),
    (
        "JS fcm",
        f"{G2}/register",
        JSON,
        {"provider": "fcm", "memberId": "bob", "deviceToken": "T"},
        FcmDevice(value="T"),
    ),
    (
        "JS apns under a path",
        f"/some/prefix{G2}/register",
        JSON,
        {"provider": "apns", "memberId": "bob", "deviceToken": "AB12"},
        ApnsDevice(token="ab12"),
    ),
    (
        "Python fcm",
        f"{G1}/register",
        JSON,
        {"platform": "fcm", "memberId": None, "deviceToken": "T"},
        FcmDevice(value="T"),
    ),
    (
        "Python web",
        f"{G1}/register",
        JSON,
        {"platform": "web", "memberId": "bob", "webPush": WEB},
        WebDevice(endpoint=WEB["endpoint"], p256dh="BPUB", auth="AUTH"),
    ),
    ("Go", f"{G1}/register", JSON, {"platform": "fcm", "memberId": "bob", "deviceToken": "T"}, FcmDevice(value="T")),
    (
        "C#, Java",
        f"{G1}/register",
        OKHTTP,
        {"platform": "apns", "memberId": "bob", "deviceToken": "ab"},
        ApnsDevice(token="ab"),
    ),
    ("PHP", f"{G1}/register", JSON, {"platform": "fcm", "deviceToken": "T"}, FcmDevice(value="T")),
    ("Rust", f"{G2}/register", JSON, {"platform": "fcm", "memberId": "bob", "deviceToken": "T"}, FcmDevice(value="T")),
    (
        "Kotlin",
        f"//{G2}/register",
        WITH_APP_OKHTTP,
        {"memberId": "bob", "platform": "fcm", "subscription": {"deviceToken": "T"}},
        FcmDevice(value="T"),
    ),
    (
        "Swift, Dart, Ruby, Elixir, C, C++, Pascal",
        f"/{G2}/register",
        WITH_APP,
        {"memberId": "bob", "platform": "apns", "subscription": {"deviceToken": "ab"}},
        ApnsDevice(token="ab"),
    ),
    (
        "ours, by a Firebase installation's id",
        f"{G2}/register",
        JSON,
        {"memberId": "bob", "platform": "fcm", "fid": "F"},
        FcmDevice(value="F", kind="fid"),
    ),
)

UNREGISTRATIONS: tuple[tuple[str, str, str, dict[str, str], dict[str, Any]], ...] = (
    ("JS, Ruby", "DELETE", f"{G2}/unregister", JSON, {"memberId": "bob", "platform": "fcm"}),
    ("Rust, Kotlin, Dart", "DELETE", f"//{G2}/unregister", WITH_APP_OKHTTP, {"memberId": "bob"}),
    ("Swift, C, C++, Pascal", "POST", f"{G2}/unregister", WITH_APP, {"memberId": "bob", "platform": None}),
    ("Python, Go, C#, PHP, Java", "DELETE", f"{G1}/unregister", JSON, {"memberId": "bob", "platform": None}),
    ("G1 posted", "POST", f"{G1}/unregister", JSON, {"memberId": "bob"}),
)

NESTED = {"title": "Hi", "body": "there", "icon": "i", "image": "m", "badge": "b", "url": "u", "data": {"n": 1}}
SENDS: tuple[tuple[str, str, dict[str, str], dict[str, Any]], ...] = (
    ("JS", f"{G2}/send", JSON, {"memberId": "bob", "payload": NESTED, "channel": "news"}),
    ("JS several", f"/x{G2}/send", JSON, {"memberIds": ["bob", "bob", "none"], "payload": NESTED}),
    ("Python, Go, C#, PHP, Java", f"{G1}/send", JSON, {"memberId": "bob", **NESTED}),
    ("Python several", f"{G1}/send", JSON, {"memberIds": ["bob"], **NESTED}),
    ("Python to all", f"{G1}/send", JSON, {"broadcast": True, **NESTED}),
    ("Rust", f"{G2}/send", JSON, {"memberId": "bob", **NESTED}),
    ("Rust to all", f"{G2}/broadcast", JSON, NESTED),
    ("JS to all", f"{G2}/broadcast", JSON, {"payload": NESTED, "channel": "news"}),
    ("Kotlin, Dart", f"//{G2}/send", WITH_APP_OKHTTP, {"memberId": "bob", "payload": {**NESTED, "ttl": None}}),
    ("Swift, Ruby, Elixir, C, C++, Pascal", f"{G2}/send", WITH_APP, {"memberId": "bob", "payload": NESTED}),
    ("to all of these", f"{G2}/broadcast", WITH_APP, {"payload": NESTED}),
    ("G1 broadcast", f"{G1}/broadcast", JSON, {"payload": NESTED}),
)


class RegistrationTests(PushCase):
    def test_every_sdk(self) -> None:
        """Each SDK's request makes the same device known, and is told its id."""
        for name, path, headers, body, device in REGISTRATIONS:
            self.setUp()
            answer = self.good("POST", path, body, headers=headers)

            [id] = self.devices()
            self.assertEqual(answer, {"subscriptionId": id}, name)
            found = self.done(self.push.device("demo", id))
            member = body.get("memberId")
            self.assertEqual(found.device, device, name)
            self.assertEqual(found.member, "" if member in (None, "anonymous") else member, name)
            self.assertEqual(list(found.channels), body.get("channels", []), name)
            self.assertEqual(found.metadata, body.get("metadata", {}), name)

    def test_again(self) -> None:
        """A device that comes again keeps its id."""
        self.assertEqual(self.registered(memberId="bob"), self.registered(memberId="ann"))
        self.assertEqual(len(self.devices(members=("ann",))), 1)

    def test_incomplete(self) -> None:
        """What is missing is named."""
        for body, name in (
            ({}, "platform"),
            ({"platform": "fcm"}, "deviceToken"),
            ({"platform": "web", "deviceToken": "x"}, "webPush"),
            ({"platform": "smoke", "deviceToken": "x"}, "platform"),
            ({"platform": "fcm", "deviceToken": "x", "memberId": "a\nb"}, "memberId"),
            ({"platform": "fcm", "deviceToken": "x", "metadata": {"a": "x" * 5000}}, "metadata"),
            ({"platform": "fcm", "deviceToken": "x", "channels": [""]}, "channel"),
        ):
            answer = self.ask("POST", f"{G2}/register", body, token="demo")
            self.assertIn(answer.status, (400, 413), answer.body)
            self.assertIn(name, answer.json["error"])
        self.assertEqual(self.devices(), [])

    def test_other_platforms(self) -> None:
        """A device of a platform that the server sends nothing to is refused."""
        del self.memory.push["apns"]

        answer = self.ask("POST", f"{G2}/register", {"platform": "apns", "deviceToken": "ab"}, token="demo")

        self.assert_refused(answer, 400, "bad_request", "apns")


class UnregistrationTests(PushCase):
    def test_every_sdk(self) -> None:
        """Each SDK's request forgets the member's devices, and tells how many under both names."""
        for name, method, path, headers, body in UNREGISTRATIONS:
            self.setUp()
            for value, member in (("a", "bob"), ("b", "bob"), ("c", "ann")):
                self.registered(value, memberId=member)
            self.registered("ab", platform="apns", memberId="bob")
            gone = 2 if body.get("platform") else 3

            self.assertEqual(
                self.good(method, path, body, headers=headers), {"unregistered": gone, "removed": gone}, name
            )
            self.assertEqual(len(self.devices()), 4 - gone)
            self.assertEqual(self.good(method, path, body, headers=headers), {"unregistered": 0, "removed": 0}, name)

    def test_by_id(self) -> None:
        """A revision of some SDKs posts the id of the device; their READMEs give it as the member's."""
        for field in ("subscriptionId", "memberId"):
            id, _ = self.registered("a", memberId="bob"), self.registered("b", memberId="bob")
            answer = self.good("POST", f"{G2}/unregister", {field: id}, headers=WITH_APP)
            self.assertEqual(answer["removed"], 1)
            self.assertNotIn(id, self.devices())
        self.assertEqual(self.good("POST", f"{G2}/unregister", {"subscriptionId": "sub_none"})["removed"], 0)

    def test_whose(self) -> None:
        """Without a member nothing is forgotten; those of nobody are called so."""
        self.registered("a")
        self.registered("b", memberId="bob")

        self.assertEqual(self.ask("DELETE", f"{G2}/unregister", {}, token="demo").status, 400)
        self.assertEqual(self.ask("DELETE", f"{G2}/unregister", token="demo").status, 400)
        answer = self.good("DELETE", f"{G2}/unregister", {"memberId": "anonymous"})

        self.assertEqual((answer["removed"], len(self.devices())), (1, 1))

    def test_one(self) -> None:
        """One device is forgotten by its id, on both paths, with a content type and no body; the status is 200."""
        for path in (f"{G2}/subscriptions", f"{G1}/subscriptions", f"/a/b/{G2}/subscriptions"):
            id = self.registered()
            for deleted in (True, False):
                answer = self.good("DELETE", f"{path}/{id}", headers=WITH_APP)
                self.assertEqual(answer, {"deleted": deleted})
        self.assertEqual(self.good("DELETE", f"{G2}/subscriptions/sub%5Fnone"), {"deleted": False})


class ChannelTests(PushCase):
    def test_every_sdk(self) -> None:
        """A member's devices get a channel, and lose it; both tell how many. Some SDKs say which device."""
        id, _ = self.registered("a", memberId="bob"), self.registered("b", memberId="bob")
        for base in (G2, G1, f"//{G2}"):
            for whose, count in (({"memberId": "bob"}, 2), ({"subscriptionId": id}, 1), ({"memberId": id}, 1)):
                body = {**whose, "channel": "news"}
                self.assertEqual(self.good("POST", f"{base}/channels/add", body, headers=WITH_APP), {"updated": count})
                self.assertEqual(len(self.devices(channel="news")), count)
                self.assertEqual(
                    self.good("POST", f"{base}/channels/remove", body, headers=WITH_APP), {"updated": count}
                )
                self.assertEqual(self.devices(channel="news"), [])

    def test_wrong(self) -> None:
        """A channel has to be one."""
        answer = self.ask("POST", f"{G2}/channels/add", {"memberId": "bob", "channel": ""}, token="demo")
        self.assert_refused(answer, 400, "channel_name")
        self.assertEqual(self.ask("POST", f"{G2}/channels/add", {"memberId": "bob"}, token="demo").status, 400)


class SendTests(PushCase):
    def test_every_sdk(self) -> None:
        """Each SDK's request brings the same push to the member's device, and tells what became of it."""
        for name, path, headers, body in SENDS:
            self.setUp()
            id = self.registered(memberId="bob", channels=["news"])

            answer = self.good("POST", path, body, headers=headers)

            result = {"subscriptionId": id, "memberId": "bob", "platform": "fcm", "success": True}
            self.assertEqual(answer, {"sent": 1, "failed": 0, "results": [result]}, name)
            [sent] = self.fcm.sent
            said = sent.message
            self.assertEqual(sent.device, FcmDevice(value="t"))
            self.assertEqual((said.title, said.body, said.data), ("Hi", "there", {"n": 1}), name)
            self.assertEqual((said.icon, said.image, said.badge, said.url), ("i", "m", "b", "u"))

    def test_fields(self) -> None:
        """What is said beside the text reaches the provider; null and nothing are alike, for every field."""
        self.registered(memberId="bob")
        self.sends({"memberId": "bob", "title": "T", "ttl": 60.0, "urgency": "high", "collapse": "c", "badge": 3})
        self.sends({"memberId": "bob", "payload": {"title": "T", "web": {"a": 1}, "fcm": {"b": 2}, "apns": {"c": 3}}})
        self.sends({"memberId": "bob", "payload": {"title": "T"} | dict.fromkeys(("body", "data", "ttl", "urgency"))})

        first, second, third = (sent.message for sent in self.fcm.sent)
        self.assertEqual((first.ttl_seconds, first.urgency, first.collapse, first.badge), (60, "high", "c", "3"))
        self.assertEqual((second.web, second.fcm, second.apns), ({"a": 1}, {"b": 2}, {"c": 3}))
        self.assertEqual((third.body, third.data, third.ttl_seconds, third.urgency), ("", None, 2_419_200, "normal"))
        self.assertEqual(len({first.id, second.id, third.id}), 3)

    def test_results(self) -> None:
        """What became of each device is told; one that is no more is forgotten."""
        ids = [self.registered(f"t{n}", memberId="bob") for n in range(3)]
        by_id = sorted(ids)
        self.fcm.outcomes += [
            outcome(PushStatus.GONE, "it is no more"),
            outcome(PushStatus.REJECTED),
            outcome(PushStatus.OK),
        ]

        answer = self.sends({"memberId": "bob", "title": "T"})

        self.assertEqual((answer["sent"], answer["failed"]), (1, 2))
        self.assertEqual([one["subscriptionId"] for one in answer["results"]], by_id)
        self.assertEqual([one.get("error") for one in answer["results"]], ["it is no more", "rejected", None])
        self.assertEqual(self.devices(), by_id[1:])

    def test_nobody(self) -> None:
        """A push to nobody is done, and says so."""
        self.assertEqual(self.sends({"memberId": "none", "title": "T"}), {"sent": 0, "failed": 0, "results": []})
        self.assertEqual(self.sends({"memberIds": [], "title": "T"})["results"], [])

    def test_refused(self) -> None:
        """What says nothing, or not for whom, is refused, naming it."""
        for body, name in (
            ({"memberId": "bob"}, "title"),
            ({"memberId": "bob", "title": ""}, "title"),
            ({"memberId": "bob", "payload": {"body": "x"}}, "title"),
            ({"title": "T"}, "memberId"),
            ({"memberId": "bob", "title": "T", "urgency": "now"}, "urgency"),
            ({"memberIds": ["x"] * 1001, "title": "T"}, "memberIds"),
            ({"memberId": "bob", "title": "T", "data": "x" * 20_000}, "16384"),
        ):
            answer = self.refused_to_send(body)
            self.assertIn(answer.status, (400, 413))
            self.assertIn(name, answer.json["error"])

    def test_many(self) -> None:
        """To more than 100 devices it goes on by itself: the answer has the form it always has, and the job's id."""
        for number in range(101):
            self.registered(f"t{number}")
        answer = self.good("POST", f"{G1}/send", {"broadcast": True, "title": "T"})
        self.assertEqual((answer["sent"], answer["failed"], answer["results"], answer["queued"]), (0, 0, [], 101))

        self.memory.advance(2)

        self.assertEqual(len(self.fcm.sent), 101)
        job = self.good("GET", f"{G1}/jobs/{answer['jobId']}", token=self.operator())
        self.assertEqual((job["state"], job["sent"], job["total"]), ("done", 101, 101))

    def test_later(self) -> None:
        """What a service wants to have again later is tried again, and the answer says so."""
        self.registered(memberId="bob")
        self.fcm.outcomes.append(outcome(PushStatus.RETRY, "not now", after_seconds=30.0))

        answer = self.sends({"memberId": "bob", "title": "T"})

        self.assertEqual((answer["sent"], answer["failed"], answer["queued"]), (0, 0, 1))
        self.assertEqual(answer["results"][0]["retrying"], True)
        self.memory.advance(29)
        self.assertEqual(len(self.fcm.sent), 1)
        self.memory.advance(3)
        first, second = self.fcm.sent
        self.assertEqual(first.message.id, second.message.id)


class ReadingTests(PushCase):
    def test_vapid_key(self) -> None:
        """Both names of the key, with a content type and no body, with the app in the query or not."""
        for path in (
            f"{G2}/vapid-key",
            f"{G2}/vapid-key?appId=demo",
            f"{G1}/config",
            f"//{G2}/vapid-key",
            f"/ws{G2}/vapid-key",
        ):
            self.assertEqual(self.good("GET", path, headers=WITH_APP), {"vapidPublicKey": "public-1"})

    def test_no_web_push(self) -> None:
        """Where there is no Web Push the key is left out: one SDK takes no null."""
        self.assertNotEqual(self.good("GET", f"{G2}/vapid-key", token="other"), {})
        self.patch(self.pushing.accesses, "_vapid", None)
        self.done(self.server.directory.remove(App, "other"))
        self.memory.create(App(id="third", name="Third", created_at=0))

        self.assertIsNone(self.done(self.pushing.accesses.vapid_key("third")))

    def test_subscriptions(self) -> None:
        """Devices are listed by member, platform and number, on both paths; without what they are reached by."""
        a = self.registered("a", memberId="bob", channels=["news"], metadata={"x": 1})
        b = self.registered("ab", platform="apns", memberId="bob")
        c = self.registered("c", memberId="ann")
        for base in (G2, G1):
            whole = self.good("GET", f"{base}/subscriptions", headers=WITH_APP)
            self.assertEqual(
                ([one["subscriptionId"] for one in whole["subscriptions"]], whole["total"]), (sorted([a, b, c]), 3)
            )
            for query, expected in (
                ("memberId=bob", [a, b]),
                ("memberId=bob&platform=apns&limit=50", [b]),
                ("channel=news", [a]),
                ("memberId=&platform=&limit=0&junk=1", [a, b, c]),
                ("memberId=none", []),
            ):
                found = self.good("GET", f"{base}/subscriptions?{query}", headers=JSON)
                self.assertEqual([one["subscriptionId"] for one in found["subscriptions"]], sorted(expected), query)
                self.assertEqual(found["total"], len(expected))
        [one] = self.good("GET", f"{G2}/subscriptions?channel=news")["subscriptions"]
        self.assertEqual(
            (one["memberId"], one["platform"], one["channels"], one["metadata"]), ("bob", "fcm", ["news"], {"x": 1})
        )
        self.assertEqual(one["createdAt"], int(self.memory.now() * 1000))
        self.assertNotIn("deviceToken", str(one))

    def test_parts(self) -> None:
        """A list comes in parts."""
        ids = sorted(self.registered(f"t{n}") for n in range(3))
        first = self.good("GET", f"{G2}/subscriptions?limit=2")
        second = self.good("GET", f"{G2}/subscriptions?limit=2&cursor={first['next']}")
        got = [one["subscriptionId"] for part in (first, second) for one in part["subscriptions"]]
        self.assertEqual((got, first["total"], second["next"]), (ids, 3, None))

    def test_swift(self) -> None:
        """The Swift SDK, which its system's user agent tells, gets a bare list."""
        self.registered()
        found = self.good("GET", f"{G2}/subscriptions", headers={"User-Agent": "App/1 CFNetwork/1494 Darwin/23.4.0"})
        self.assertEqual([one["platform"] for one in found], ["fcm"])

    def test_stats(self) -> None:
        """Devices and the month's pushes are counted."""
        self.registered("a", memberId="bob")
        self.registered("ab", platform="apns", memberId="bob")
        self.fcm.outcomes.append(outcome(PushStatus.GONE))
        self.sends({"memberId": "bob", "title": "T"})
        self.memory.advance(1)

        stats = self.good("GET", f"{G1}/stats", headers=JSON)["stats"]

        self.assertEqual(stats, {"subscriptions": 1, "web": 0, "fcm": 0, "apns": 1, "sent": 1, "failed": 1, "gone": 1})

    def test_cors(self) -> None:
        """A page in a browser may ask for all of it, under any path."""
        for path in (f"{G2}/register", f"/ws{G2}/unregister"):
            headers = {"Origin": "https://a.example", "Access-Control-Request-Method": "DELETE"}
            answer = self.ask("OPTIONS", path, headers=headers)
            self.assertEqual(answer.status, 204)
            for method in ("GET", "POST", "DELETE"):
                self.assertIn(method, answer.headers["access-control-allow-methods"])
            for name in ("Authorization", "Content-Type", "X-App-Id"):
                self.assertIn(name, answer.headers["access-control-allow-headers"])
        answer = self.ask("GET", f"{G2}/vapid-key", token="demo", headers={"Origin": "https://a.example"})
        self.assertEqual(answer.headers["access-control-allow-origin"], "*")

    def test_errors(self) -> None:
        """An error is an object with a text; nothing else is under these paths."""
        answer = self.ask("POST", f"{G2}/send", b"{", token="demo")
        self.assertEqual((answer.status, answer.headers["content-type"]), (400, "application/json"))
        self.assertIsInstance(answer.json["error"], str)
        for path in (f"{G2}/nothing", f"/a{G2}", "/a/api/admin/apps/demo/keys", "/a/api/channels"):
            self.assertEqual(self.ask("GET", path, token="demo").status, 404, path)


class CredentialTests(PushCase):
    """Who may do what."""

    def test_nobody(self) -> None:
        """Without a credential, or with a wrong one, nothing is done."""
        for token in (None, "wrong"):
            self.assertEqual(self.ask("POST", f"{G2}/register", {"platform": "fcm"}, token=token).status, 401)

    def test_other_app(self) -> None:
        """A credential is good for its own app, whatever app is named; ids of another app name nothing."""
        id = self.registered(memberId="bob")
        for path, headers in ((f"{G1}/send", {}), (f"{G2}/send", {"X-App-Id": "demo"})):
            answer = self.ask("POST", path, {"broadcast": True, "title": "T"}, token="other", headers=headers)
            self.assert_refused(answer, 403, "forbidden")
        self.assertEqual(self.good("DELETE", f"{G2}/subscriptions/{id}", token="other"), {"deleted": False})
        self.assertEqual(self.good("GET", f"{G2}/subscriptions?appId=demo", token="other")["total"], 0)
        self.assertEqual(self.sends({"broadcast": True, "title": "T"}, token="other")["sent"], 0)
        self.assertEqual(self.devices(), [id])

    def test_client_with_a_jwt(self) -> None:
        """A JWT with a subject acts for that member, also when it names nobody, and for no other."""
        token = self.memory.token(sub="bob")
        ann = self.registered("a", memberId="ann")
        for given in ("bob", None, "anonymous"):
            self.registered("b", memberId=given, token=token)
        self.assertEqual(len(self.devices(members=("bob",))), 1)
        refused = [
            ("POST", f"{G2}/register", {"platform": "fcm", "deviceToken": "x", "memberId": "ann"}),
            ("DELETE", f"{G2}/unregister", {"memberId": "ann"}),
            ("POST", f"{G2}/channels/add", {"memberId": "ann", "channel": "news"}),
            ("GET", f"{G2}/subscriptions?memberId=ann", None),
            ("POST", f"{G2}/send", {"memberId": "bob", "title": "T"}),
            ("POST", f"{G2}/broadcast", {"title": "T"}),
            ("GET", f"{G1}/stats", None),
        ]
        for method, path, body in refused:
            self.assert_refused(self.ask(method, path, body, token=token), 403, "forbidden")

        self.assertEqual(self.good("DELETE", f"{G2}/subscriptions/{ann}", token=token), {"deleted": False})
        self.assertEqual(self.good("GET", f"{G2}/subscriptions", token=token)["total"], 1)
        self.assertEqual(self.good("POST", f"{G2}/channels/add", {"channel": "news"}, token=token)["updated"], 1)
        self.assertEqual(self.good("DELETE", f"{G2}/unregister", {}, token=token)["removed"], 1)

    def test_administrator_with_a_jwt(self) -> None:
        """A JWT with all rights of its own is the whole app's, if its key may; so is one without a subject."""
        self.registered(memberId="ann")
        both: tuple[dict[str, Any], ...] = ({"sub": "admin", "permissions": {"*": ["*"]}}, {})
        for claims in both:
            answer = self.sends({"broadcast": True, "title": "T"}, token=self.memory.token(**claims))
            self.assertEqual(answer["sent"], 1)
        self.key("weak", {"*": ["subscribe"]}, algorithm="HS256", secret="s" * 40)
        token = self.memory.token(kid="weak", secret="s" * 40, sub="admin", permissions={"*": ["*"]})
        self.assertEqual(self.refused_to_send({"broadcast": True, "title": "T"}, token=token).status, 403)

    def test_limited_key(self) -> None:
        """An API key that may not do everything acts for nobody's devices, and for members that it may name."""
        plain = self.key("plain", {"news*": ["subscribe"]})
        named = self.key("named", {"news*": ["subscribe", "publish"]}, client_ids="user-*")
        self.registered("a", token=plain)
        self.registered("b", memberId="user-1", token=named, channels=["news"])
        answer = self.ask(
            "POST", f"{G2}/register", {"platform": "fcm", "deviceToken": "x", "memberId": "user-1"}, token=plain
        )
        self.assert_refused(answer, 403, "forbidden", "clientIds")
        body = {"platform": "fcm", "deviceToken": "x", "channels": ["secret"]}
        self.assert_refused(self.ask("POST", f"{G2}/register", body, token=plain), 403, "forbidden", "secret")
        self.assertEqual(self.ask("DELETE", f"{G2}/unregister", {"memberId": "anonymous"}, token=plain).status, 400)
        self.assertEqual(self.ask("GET", f"{G2}/subscriptions", token=plain).status, 403)

        self.assertEqual(self.sends({"channel": "news", "title": "T"}, token=named)["sent"], 1)
        self.assertEqual(self.refused_to_send({"channel": "news", "title": "T"}, token=plain).status, 403)
        self.assertEqual(self.refused_to_send({"memberId": "user-1", "title": "T"}, token=named).status, 403)

    def test_people(self) -> None:
        """People push by their roles: a viewer looks, a developer sends, a stranger finds nothing."""
        self.registered(memberId="bob")
        people = [self.person(name) for name in ("vera", "dan", "sam")]
        tokens = {person.name: self.session(person) for person in people}
        roles = {"vera": Role.VIEWER, "dan": Role.DEVELOPER}
        self.done(self.server.directory.add([new_member("demo", name, role, 0) for name, role in roles.items()]))
        for path in (f"{G2}/subscriptions", f"{G1}/subscriptions"):
            self.assertEqual(self.good("GET", path, token=tokens["vera"])["total"], 1)
            self.assertEqual(self.ask("GET", path, token=tokens["sam"]).status, 404)
        for path in (f"{G2}/send", f"{G1}/send"):
            body = {"memberId": "bob", "title": "T"}
            self.assert_refused(self.ask("POST", path, body, token=tokens["vera"]), 403, "forbidden", "push.send")
            self.assertEqual(self.good("POST", path, body, token=tokens["dan"])["sent"], 1)

    def test_which_app(self) -> None:
        """Who has several apps names one: in the path, in the header, or in the query."""
        token = self.operator()
        self.registered(memberId="bob")
        answer = self.ask("GET", f"{G2}/subscriptions", token=token)
        self.assert_refused(answer, 400, "bad_request", "X-App-Id")

        for path, headers in (
            (f"{G1}/subscriptions", {}),
            (f"{G2}/subscriptions", {"X-App-Id": "demo"}),
            (f"{G2}/subscriptions?appId=demo", {}),
        ):
            self.assertEqual(self.good("GET", path, token=token, headers=headers)["total"], 1)

    def test_cookie(self) -> None:
        """A dashboard with a session's cookie pushes with the CSRF token, and not without."""
        self.person("root", is_operator=True)
        self.registered(memberId="bob")
        login = self.ask("POST", "/api/auth/login", {"email": "root@example.org", "password": PASSWORD, "cookie": True})
        cookies = {name: cookie.value for name, cookie in login.cookies.items()}
        body = {"memberId": "bob", "title": "T"}

        self.assertEqual(self.ask("POST", f"{G1}/send", body, cookies=cookies).status, 403)
        headers = {"X-CSRF-Token": login.json["csrfToken"]}
        self.assertEqual(self.good("POST", f"{G1}/send", body, token=None, cookies=cookies, headers=headers)["sent"], 1)
