"""``wsock`` as a user runs it, against servers that run: in one process with the tests but for what needs a reactor."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.e2e.cases import NodeTestCase, ProgramTestCase
from tests.e2e.node import Node, Program
from tests.test_cli import commands
from wsock.cli import main


def private_key(key: Any) -> str:
    """The key in PEM form."""
    form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    text: bytes = key.private_bytes(*form)
    return text.decode()


_WSOCK = "from wsock.cli import main; main()"


class _Wsock:
    """Runs commands for a server, with sessions of their own; mixed into test cases."""

    node: Any
    patch: Any
    mktemp: Any
    assertEqual: Any  # noqa: N815
    addCleanup: Any  # noqa: N815

    def settle_in(self) -> None:
        """Takes the variables of the outside away, and gives sessions a place."""
        self.home = Path(self.mktemp()).absolute()
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("WSOCK_", "XDG_"))}
        self.patch(os, "environ", {**environ, "XDG_CONFIG_HOME": str(self.home)})

    @property
    def url(self) -> str:
        """Where the server is."""
        return f"http://127.0.0.1:{self.node.port}"

    def run_wsock(self, *args: str, input: str | None = None, **env: str) -> Result:
        """Runs a command."""
        return CliRunner().invoke(main, args, input=input, env={"WSOCK_URL": self.url, **env}, prog_name="wsock")

    def told(self, *args: str, input: str | None = None, **env: str) -> str:
        """What a command prints that does what it was asked to."""
        result = self.run_wsock(*args, input=input, **env)
        self.assertEqual(result.exit_code, 0, f"{args}: {result.output}{result.exception!r}")
        return result.stdout

    def json(self, *args: str, input: str | None = None, **env: str) -> Any:
        """The same as JSON."""
        return json.loads(self.told(*args, "--json", input=input, **env))

    def login(self, password: str = "admin", email: str = "admin@localhost") -> None:
        """Logs in."""
        self.told("login", "--email", email, input=f"{password}\n")

    def program(self, *args: str, env: Mapping[str, str] | None = None) -> Program:
        """A command in a process of its own."""
        environment = {"WSOCK_URL": self.url, "XDG_CONFIG_HOME": str(self.home), **(env or {})}
        program = Program.python("-c", _WSOCK, *args, cwd=self.node.directory, env=environment)
        self.addCleanup(program.stop)
        return program


class DevServerTests(_Wsock, NodeTestCase):
    """A server with ``--dev``."""

    def setUp(self) -> None:
        super().setUp()
        self.settle_in()
        self.login()

    def test_session(self) -> None:
        """Logging in, being somebody, and logging out; the session is for nobody else to read."""
        file = self.home / "wsock" / "session.json"
        self.assertEqual(stat.S_IMODE(file.stat().st_mode), 0o600)
        self.assertEqual(self.json("whoami")["account"]["email"], "admin@localhost")

        self.told("logout")

        self.assertFalse(file.exists())
        self.assertEqual(self.run_wsock("whoami").exit_code, 1)

    def test_access_token(self) -> None:
        """An access token does what its role may, and nothing after it was revoked."""
        made = self.json("token", "create", "ci", "--role", "viewer", "--expires", "1d")
        self.assertIn(made["id"], self.told("token", "list"))
        env = {"WSOCK_TOKEN": made["token"]}
        self.told("team", "list", **env)
        self.assertEqual(self.run_wsock("team", "rename", "demo", "X", **env).exit_code, 1)

        self.told("token", "revoke", made["id"], "--yes")

        result = self.run_wsock("team", "list", **env)
        self.assertEqual(result.exit_code, 1)
        self.assertNotIn(made["token"], result.output)

    def test_apps_and_settings(self) -> None:
        """An app is made, changed, and deleted."""
        app = self.json("app", "create", "Chat", "--team", "demo")["id"]
        self.assertIn("Chat", self.told("app", "list"))
        self.assertIs(self.json("app", "update", app, "--name", "Talk", "--disable")["isEnabled"], False)
        self.told("app", "settings", app, "history=off", "channel-rate=100/s")
        self.assertEqual(self.json("app", "settings", app, "history=")["channelRate"]["events"], 100)
        self.assertNotIn("history", self.told("app", "settings", app))

        self.told("app", "delete", app, "--yes")

        self.assertEqual(self.run_wsock("app", "show", app).exit_code, 1)

    def test_keys(self) -> None:
        """A key is made, used, signed with, rotated, retired and revoked."""
        made = self.json("key", "create", "K", "--app", "demo", "--permission", "*=*", "--client-ids", "*")
        self.assertIn(made["id"], self.told("key", "list", "--app", "demo"))
        self.told("publish", self.channel, "1", WSOCK_KEY=made["key"])
        token = self.told("token", "sign", "--key-id", made["id"], "--sub", "ana", WSOCK_SIGNING_SECRET=made["secret"])
        self.told("publish", self.channel, "2", WSOCK_KEY=token.strip())
        self.assertNotIn(made["secret"], self.told("key", "show", made["id"], "--app", "demo"))
        self.told("key", "update", made["id"], "--name", "L", "--app", "demo")

        new = self.json("key", "rotate", made["id"], "--overlap", "1h", "--app", "demo")
        self.told("publish", self.channel, "3", WSOCK_KEY=new["key"])
        self.told("key", "retire", made["id"], "--yes", "--app", "demo")
        self.told("key", "revoke", new["id"], "--yes", "--app", "demo")

        self.assertEqual(self.run_wsock("publish", self.channel, "4", WSOCK_KEY=new["key"]).exit_code, 1)

    def test_namespaces(self) -> None:
        """Settings of a pattern are made, changed and deleted."""
        made = self.json("namespace", "create", f"{self.channel}*", "history=off", "--app", "demo")["id"]
        changed = self.json("namespace", "update", made, "presence=off", "--app", "demo")
        self.assertEqual((changed["settings"]["history"], changed["settings"]["presence"]), (False, False))
        self.assertIn(self.channel, self.told("namespace", "list", "--app", "demo"))

        self.told("namespace", "delete", made, "--yes", "--app", "demo")

    def test_revocations(self) -> None:
        """A client is kept out, and let in again."""
        made = self.json("revoke", "client", "mallory", "--expires", "1d", "--app", "demo")["id"]
        self.json("revoke", "token", "some-jti", "--app", "demo")
        self.assertIn("mallory", self.told("revoke", "list", "--app", "demo"))

        self.told("revoke", "lift", made, "--app", "demo")

        self.assertNotIn("mallory", self.told("revoke", "list", "--app", "demo"))

    def test_teams(self) -> None:
        """A team with its members and invitations."""
        team = self.json("team", "create", "Chat")["id"]
        self.told("team", "rename", team, "Talk")
        self.assertIn("admin@localhost", self.told("team", "members", team))
        invitation = self.json("team", "invite", team, "ben@example.org", "--role", "viewer")["id"]
        self.assertIn("ben@example.org", self.told("team", "invitations", team))
        self.told("team", "uninvite", team, invitation)
        self.assertEqual(self.run_wsock("team", "role", team, "admin", "viewer").exit_code, 1)
        self.assertEqual(self.json("usage", "--team", team)["id"], team)

        self.told("team", "delete", team, "--yes")

    def test_accounts(self) -> None:
        """Accounts are listed, and found by their address."""
        self.assertIn("admin@localhost", self.told("account", "list"))
        self.assertEqual(self.json("account", "show", "ADMIN@localhost")["id"], "admin")
        self.assertEqual(self.run_wsock("account", "disable", "admin").exit_code, 1)

    def test_plans(self) -> None:
        """A plan is made, changed and deleted."""
        self.assertIn("1,000,000", self.told("plan", "list"))
        self.told("plan", "create", "small", "connections=5", "--name", "Small")
        changed = self.json("plan", "update", "small", "apps=2", "connections=")
        self.assertEqual((changed["limits"]["apps"], changed["limits"]["connections"]), (2, None))
        self.assertIn("Small", self.told("plan", "show", "small"))

        team = self.json("team", "create", "Small team")["id"]
        self.assertEqual(self.json("team", "plan", team, "small")["plan"], "small")
        self.assertEqual(self.run_wsock("plan", "delete", "small", "--yes").exit_code, 1)
        self.told("team", "delete", team, "--yes")

        self.told("plan", "delete", "small", "--yes")

    def test_usage(self) -> None:
        """What is used, now and over time."""
        self.told("publish", self.channel, "1", WSOCK_KEY="demo")

        self.assertGreaterEqual(self.json("usage", "demo")["messages"]["today"], 1)
        self.assertIn("connections", self.told("usage", "demo"))
        self.assertGreaterEqual(self.json("analytics", "demo", "--span", "minute")["items"][-1]["messagesIn"], 1)
        self.told("analytics", "demo", "--since", "1h")

    def test_audit(self) -> None:
        """What was done is told, with who did it."""
        self.assertIn("account.login", self.told("audit", "--actor", "admin"))

    def test_channels(self) -> None:
        """Messages, members and connections, as an administrator and with an API key."""
        wire = self.subscribed(self.channel)
        for env in ({"WSOCK_APP": "demo"}, {"WSOCK_KEY": "demo"}):
            self.assertEqual(self.json("publish", self.channel, '{"a": "ü"}', **env)["channel"], self.channel)
            self.assertIn(self.channel, self.told("channels", "--prefix", self.channel, **env))
            self.assertEqual(self.json("channel", self.channel, **env)["subscribers"], 1)
            self.assertEqual(self.json("history", self.channel, **env)["messages"][0]["data"], {"a": "ü"})
            self.assertEqual(self.json("presence", self.channel, **env)["total"], 0)
            [found] = self.json("connections", "--channel", self.channel, **env)["items"]
            self.assertEqual(self.json("connections", found["id"], **env)["channels"], [self.channel])

        self.told("disconnect", found["id"], "--app", "demo")

        self.assertEqual(self.json("connections", "--channel", self.channel, "--app", "demo")["items"], [])
        wire.socket.close()

    def test_disconnect_client(self) -> None:
        """All connections of a client are ended."""
        self.connected(clientId=f"c-{self.channel}")

        ended = self.json("disconnect", "--client", f"c-{self.channel}", "--yes", "--app", "demo")

        self.assertEqual(ended["disconnected"], 1)

    def test_tail(self) -> None:
        """Messages are printed as they come; Ctrl-C ends it, and the key that was made for it."""
        self.told("publish", self.channel, '"before"', WSOCK_KEY="demo")
        program = self.program("tail", self.channel, "--rewind", "1", "--json", "--app", "demo")
        program.says("before")
        program.says("listening to", where="errors")
        self.told("publish", self.channel, '"after"', WSOCK_KEY="demo")
        program.says("after")

        os.kill(program.pid, signal.SIGINT)

        self.assertEqual(program.ends(), 0, program.errors)
        shown = [json.loads(line)["data"] for line in program.output.splitlines()]
        self.assertEqual(shown, ["before", "after"])
        self.assertNotIn("Traceback", program.errors)
        keys = self.json("key", "list", "--app", "demo", "--limit", "0")["items"]
        self.assertEqual([key for key in keys if key["name"] == "wsock tail" and key["state"] != "revoked"], [])

    def test_tail_with_a_key(self) -> None:
        """With an API key no other one is made; so many messages end it."""
        program = self.program("tail", self.channel, "--count", "1", env={"WSOCK_KEY": "demo"})
        program.says("listening to", where="errors")

        self.told("publish", self.channel, "1", WSOCK_KEY="demo")

        self.assertEqual(program.ends(), 0, program.errors)
        refused = self.program("tail", self.channel, env={"WSOCK_KEY": "nobodys"})
        self.assertEqual(refused.ends(), 1)
        self.assertNotIn("nobodys", refused.errors)

    def test_doctor(self) -> None:
        """The server that runs is asked how it is."""
        self.assertIn("ready", self.told("doctor", "--url", self.url))

    def test_webhooks(self) -> None:
        """A webhook is made, changed, tried, rotated and deleted; its secret is shown when it is made."""
        made = self.json("webhook", "create", f"{self.url}/hook", "--event", "presence.*", "--ordered")
        id = made["id"]
        self.assertTrue(made["secret"].startswith("whsec_"))
        self.assertIn(id, self.told("webhook", "list"))
        self.assertNotIn(made["secret"], self.told("webhook", "show", id))
        self.assertEqual(self.json("webhook", "update", id, "--description", "Ours")["description"], "Ours")
        self.assertNotEqual(self.json("webhook", "rotate", id)["secret"], made["secret"])
        self.told("webhook", "test", id)
        [delivery] = self.json("webhook", "deliveries", id)["items"]
        self.told("webhook", "redeliver", id, "--since", "1h")

        self.told("webhook", "delete", id, "--yes")

        self.assertEqual(delivery["type"], "webhook.test")
        self.assertNotIn(id, self.told("webhook", "list"))

    def test_push(self) -> None:
        """Credentials are set, and shown without what is secret; devices are listed, pushed to, and forgotten."""
        apple, google = self.home / "key.p8", self.home / "account.json"
        apple.write_text(private_key(ec.generate_private_key(ec.SECP256R1())))
        account = {
            "project_id": "our-project",
            "client_email": "a@p.iam",
            "private_key_id": "k",
            "token_uri": "https://t.example",
        }
        signing = private_key(rsa.generate_private_key(public_exponent=65537, key_size=2048))
        google.write_text(json.dumps({**account, "type": "service_account", "private_key": signing}))
        self.told("push", "credentials", "web", "--subject", "mailto:us@example.org")
        self.told("push", "credentials", "fcm", str(google))
        apple_facts = ("--key-id", "ABCDE12345", "--team-id", "TEAM123456", "--topic", "org.example.app")
        self.told("push", "credentials", "apns", str(apple), *apple_facts)
        shown = self.told("push", "credentials", "list")
        for platform in ("web", "fcm", "apns"):
            self.assertIn(platform, shown)
        self.assertNotIn("PRIVATE", shown)
        # The server is other tests' as well.
        for platform in ("apns", "fcm"):
            self.told("push", "credentials", "delete", platform, "--yes")
        self.register("ann")
        self.assertIn("ann", self.told("push", "devices"))
        self.assertEqual(self.json("push", "send", "Hi", "--member", "nobody")["sent"], 0)
        self.told("push", "stats")
        self.told("push", "jobs")
        self.assertEqual(self.run_wsock("push", "job", "none").exit_code, 1)
        rule = self.json("push", "rule", "create", "chat:*")["id"]
        self.assertIn("chat:*", self.told("push", "rule", "list"))
        self.told("push", "rule", "delete", rule)

        self.told("push", "forget", "--member", "ann")

        self.assertNotIn("ann", self.told("push", "devices"))

    def register(self, member: str) -> None:
        """A phone of the member, as its SDK registers it."""
        device = {"platform": "fcm", "memberId": member, "deviceToken": "t" * 40}
        headers = {"Authorization": "Bearer demo", "Content-Type": "application/json"}
        asked = Request(f"{self.url}/api/push/register", json.dumps(device).encode(), headers)
        urlopen(asked, timeout=10).close()

    def test_unreachable(self) -> None:
        """A server that is not there is a status of its own."""
        self.assertEqual(self.run_wsock("whoami", WSOCK_URL="http://127.0.0.1:1", WSOCK_TOKEN="t").exit_code, 3)

    def test_every_command_is_tried(self) -> None:
        """There is none that only a script was asked by, but for those that it takes mail or another account to try."""
        source = Path(__file__).read_text("utf-8")
        untried = {
            "account delete",
            "account enable",
            "account operator",
            "account reset",
            "bench",
            "completion",
            "config",
        }
        untried |= {"team join", "team remove", "team show"}
        for name, _ in commands():
            words = r"\s*".join(f'"{word}",?' for word in name.split())
            self.assertEqual(re.search(rf"\(\s*{words}", source) is not None, name not in untried, name)


class DataTests(_Wsock, ProgramTestCase):
    """A server that keeps what it has."""

    def setUp(self) -> None:
        self.settle_in()
        self.server: Node = self.node_on_disk()

    def node_on_disk(self) -> Node:
        """The server, started once; its credentials are in its data directory."""
        node = Node(is_dev=False)
        self.addCleanup(node.stop)
        return node.start()

    def test_lost_password(self) -> None:
        """A password that is lost is set where the server is stopped, and only there."""
        data = self.server.directory / "data"
        self.node = self.server
        old = re.findall(r"password (\S+)$", (data / "credentials.txt").read_text(), re.MULTILINE)[0]
        self.login(old, "owner@localhost")
        line = ("account", "password", "owner@localhost", "--data", str(data))

        def set_password() -> tuple[int, str]:
            feed = f"import io, sys; sys.stdin = io.StringIO('correct horse battery'); {_WSOCK}"
            program = Program.python("-c", feed, *line, cwd=self.server.directory)
            self.addCleanup(program.stop)
            return program.ends(), program.output + program.errors

        status, text = set_password()
        self.assertEqual(status, 1)
        self.assertIn("stop it first", text)
        assert self.server.program is not None
        self.server.program.stop()

        status, text = set_password()

        self.assertEqual(status, 0, text)
        self.assertIn("start the server", text)
        self.server.start()
        self.assertEqual(self.run_wsock("whoami").exit_code, 1)
        self.assertEqual(self.run_wsock("login", "--email", "owner@localhost", input=f"{old}\n").exit_code, 1)
        self.login("correct horse battery", "owner@localhost")
        self.assertIn("account.reset", self.told("audit"))
        changed = self.told("account", "password", input="correct horse battery\nstaple battery horse\n")
        self.assertIn("is changed", changed)
        self.told("whoami")
