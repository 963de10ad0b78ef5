"""``wsock bench`` as a user runs it, against a server. What is asserted is what was counted, never how fast it was."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from tests.e2e.cases import ProgramTestCase
from tests.e2e.node import Node, Program, free_port
from tests.e2e.test_program import _write_certificate

_WSOCK = "from wsock.cli import main; main()"
_ON_ONE_STREAM = f"import os; os.dup2(1, 2); {_WSOCK}"
_SHORT = ("--seconds", "0.5", "--subscribers", "20", "--connections", "50")


class BenchTests(ProgramTestCase):
    def setUp(self) -> None:
        self.server = self.node().start()

    def bench(self, *options: str, node: Node | None = None, url: str = "") -> Program:
        """The command, under way."""
        node = node or self.server
        return self.run_python(
            "-c", _WSOCK, "bench", url or f"{node.url}/?key={node.key}", *options, cwd=node.directory
        )

    def results(self, *options: str) -> tuple[dict[str, Any], str]:
        """The results of a run without faults, by scenario, and what was printed."""
        program = self.bench(*options, "--json", "result.json")
        self.assertEqual(program.ends(60), 0, program.output + program.errors)
        report = json.loads((self.server.directory / "result.json").read_text("utf-8"))
        self.assertNotIn(self.server.key, report["url"])
        return {one["scenario"]: one for one in report["results"]}, program.output

    def assert_counted(self, result: dict[str, Any]) -> None:
        """Everything that was published was accepted and delivered once, in order."""
        self.assertGreater(result["accepted"], 0)
        self.assertEqual(result["published"], result["accepted"])
        self.assertEqual(set(result["faults"].values()), {0})
        fan_out = result["subscribers"] // result["channels"]
        self.assertEqual(result["deliveries"], result["accepted"] * fan_out)
        self.assertGreater(result["deliveries_per_second"], 0)

    def test_all(self) -> None:
        """All scenarios run, nothing is lost, and the server's process is looked at."""
        assert self.server.program is not None
        results, printed = self.results(*_SHORT, "--pid", str(self.server.program.pid))

        self.assertEqual(set(results), {"connections", "latency", "fanout", "unicast"})
        for name in ("latency", "fanout", "unicast"):
            self.assert_counted(results[name])
            self.assertIsNotNone(results[name]["server_cpu"])
            self.assertIn(f"\n{name} ", f"\n{printed}")
        self.assertEqual(results["unicast"]["channels"], 20)
        self.assertLessEqual(results["latency"]["latency_ms"]["p50"], results["latency"]["latency_ms"]["max"])
        self.assertEqual(results["connections"]["connections"], 50)
        self.assertIn("nothing was lost, duplicated, reordered or refused", printed)

    def test_processes(self) -> None:
        """Subscribers in several processes hear the same."""
        results, _ = self.results("--scenario", "fanout", "--channels", "2", "--processes", "2", *_SHORT)

        self.assert_counted(results["fanout"])

    def test_refusals(self) -> None:
        """Refused publishes are a failure, counted by their code."""
        node = self.node(config="[limits]\nmessage_bytes = 80\n").start()
        program = self.bench("--scenario", "fanout", *_SHORT, node=node)

        self.assertEqual(program.ends(60), 1)
        self.assertRegex(program.output, r"counted +[\d,]+ published, 0 accepted, [\d,]+ refused \(too_large\)")
        self.assertIn("0 lost", program.output)

    def test_interrupted(self) -> None:
        """Ctrl-C ends it soon, with what was measured so far."""
        options = ("--scenario", "fanout", "--seconds", "600", "--subscribers", "5")
        program = self.run_python("-c", _ON_ONE_STREAM, "bench", f"{self.server.url}/?key=demo", *options, cwd=".")
        program.says("^fanout: measuring$")
        os.kill(program.pid, signal.SIGINT)

        self.assertEqual(program.ends(), 130, program.errors)
        self.assertIn("interrupted; so far: nothing was lost", program.output)

    def test_errors(self) -> None:
        """What is wrong is one line, with what to do, and never the key."""
        for url, options, word in (
            (f"ws://127.0.0.1:{free_port()}/?key=secret", (), "can't be reached"),
            (f"{self.server.url}/?key=secret", (), "the API key is unknown"),
            (self.server.url, (), "--key"),
            ("localhost:9001", (), "give ws://HOST:PORT"),
            (f"{self.server.url}/?key=demo", ("--subscribers", "100000000"), "ulimit -n"),
        ):
            program = self.bench(*options, url=url)
            self.assertEqual(program.ends(), 1)
            self.assertIn(word, program.errors)
            self.assertEqual(len(program.errors.splitlines()), 1, program.errors)
            self.assertNotIn("secret", program.errors + program.output)

    def test_tls(self) -> None:
        """Over TLS it trusts the certificate that it is given."""
        port = free_port()
        listen = f"ssl:{port}:interface=127.0.0.1:privateKey=key.pem:certKey=cert.pem"
        node = self.node(listen=listen)
        _write_certificate(Path(node.directory))
        node.start()
        url = f"wss://127.0.0.1:{port}/?key=demo"
        program = self.bench("--scenario", "fanout", "--ca", "cert.pem", *_SHORT, node=node, url=url)
        self.assertEqual(program.ends(60), 0, program.output + program.errors)
        refused = self.bench("--scenario", "fanout", *_SHORT, node=node, url=url)

        self.assertEqual(refused.ends(), 1)
        self.assertNotIn("Traceback", refused.errors)
