"""Tests for :mod:`wsock.cli`: the program, and the commands that ask no server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import click

from tests.cli_cases import CliCase
from wsock import __version__
from wsock.cli import main
from wsock.cli.benchmark import bench

ROOT = Path(__file__).parent.parent


def commands(group: click.Group = main, before: str = "") -> Iterator[tuple[str, click.Command]]:
    """All commands that do something, with their names."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{before}{name} ")
        elif not command.hidden:
            yield f"{before}{name}", command


class ProgramTests(CliCase):
    """What is true of every command."""

    def test_help(self) -> None:
        """Each has a help that says what it does, and what each option is for."""
        for name, command in commands():
            result = self.run_wsock(*name.split(), "--help")
            self.assertEqual(result.exit_code, 0, name)
            self.assertRegex(command.help or "", r"^[A-Z][a-z]+s ", name)
            for option in command.params:
                if isinstance(option, click.Option):
                    self.assertTrue(option.help, f"{name} {option.name}")

    def test_json(self) -> None:
        """Each has --json."""
        for name, command in commands():
            self.assertIn("--json", [text for option in command.params for text in option.opts], name)

    def test_no_secrets_in_arguments(self) -> None:
        """None takes a password, a secret or a token as an argument, but for bench, which takes those of tests."""
        for name, command in commands():
            texts = {text for option in command.params for text in option.opts if name != "bench"}
            self.assertFalse(texts & {"--password", "--secret", "--token", "--key", "--code"}, name)

    def test_groups(self) -> None:
        """A group without a command tells which there are."""
        result = self.run_wsock("app")

        self.assertIn("settings", result.output)

    def test_sections(self) -> None:
        """The help has all commands, by what they are for, and not those that only commands use."""
        text = self.run_wsock("--help").output

        for name in {name.split()[0] for name, _ in commands()}:
            self.assertRegex(text, rf"(?m)^  {name} ")
        self.assertIn("Channels and connections:", text)
        self.assertNotIn("bench-member", text)

    def test_documented(self) -> None:
        """The reference has each command, and no other."""
        page = (ROOT / "docs/reference/commands.md").read_text("utf-8")
        words = re.findall(r"^\| `wsock ([a-z]+(?: [a-z]+){0,2})", page, re.MULTILINE)

        self.assertEqual(sorted(words), sorted(name for name, _ in commands()))

    def test_unknown(self) -> None:
        """A command that there is not is a mistake of whoever types."""
        self.assertEqual(self.run_wsock("ap").exit_code, 2)

    def test_version(self) -> None:
        """The version is told."""
        self.assertIn(__version__, self.run_wsock("--version").output)


class CompletionTests(CliCase):
    """``wsock completion``."""

    def test_scripts(self) -> None:
        """There is one for each shell, which asks wsock."""
        for shell in ("bash", "zsh", "fish"):
            result = self.run_wsock("completion", shell)
            self.assertEqual(result.exit_code, 0, shell)
            self.assertIn(f"_WSOCK_COMPLETE={shell}_complete", result.output)

    def test_json(self) -> None:
        """Programs get it in an object."""
        shown = json.loads(self.run_wsock("completion", "zsh", "--json").stdout)

        self.assertIn("#compdef wsock", shown["script"])

    def test_completes(self) -> None:
        """Commands are completed without being imported, their commands and options with it."""
        words = self.run_wsock(_WSOCK_COMPLETE="bash_complete", COMP_WORDS="wsock cha", COMP_CWORD="1").output
        self.assertEqual(words.split(), ["plain,channel", "plain,channels"])

        options = self.run_wsock(_WSOCK_COMPLETE="bash_complete", COMP_WORDS="wsock app list --te", COMP_CWORD="3")
        self.assertEqual(options.output.split(), ["plain,--team"])

    def test_unknown_shell(self) -> None:
        """Another shell is refused."""
        self.assertEqual(self.run_wsock("completion", "csh").exit_code, 2)


class ConfigTests(CliCase):
    """``wsock config``."""

    def test_settings_with_sources(self) -> None:
        """Each effective setting stands on a line, with where it comes from."""
        path = Path(self.mktemp())
        path.write_text("[limits]\nmessage_bytes = 1000\n")

        result = self.run_wsock("config", "--config", str(path), WSOCK_DATA="here")

        self.assertEqual(result.exit_code, 0)
        self.assertIn(f"limits.message_bytes = 1000  # {path}\n", result.output)
        self.assertIn('data = "here"  # the environment variable WSOCK_DATA\n', result.output)
        self.assertIn('listen = ["tcp:9001:interface=127.0.0.1"]  # default\n', result.output)

    def test_json(self) -> None:
        """Programs get an object."""
        shown = json.loads(self.run_wsock("config", "--json").output)

        self.assertEqual(shown["limits.message_bytes"], {"value": 65536, "source": "default"})

    def test_passwords_are_hidden(self) -> None:
        """A password in a URL is not shown."""
        result = self.run_wsock("config", WSOCK_HTTP_CORS_ORIGINS="https://me:pw@x.example")

        self.assertIn("https://...@x.example", result.output)
        self.assertNotIn("pw", result.output)

    def test_master_keys_are_hidden(self) -> None:
        """They are not shown, only that there are some."""
        self.assertIn('vault.keys = ""  # default\n', self.run_wsock("config").output)
        result = self.run_wsock("config", WSOCK_VAULT_KEYS="c2VjcmV0")

        self.assertIn('vault.keys = "..."  # the environment variable WSOCK_VAULT_KEYS\n', result.output)
        self.assertNotIn("c2VjcmV0", result.output)

    def test_wrong(self) -> None:
        """A wrong setting is one line and a failure."""
        result = self.run_wsock("config", WSOCK_DATE="x")

        self.assertEqual(result.exit_code, 1)
        self.assertEqual(len(result.output.splitlines()), 1)
        self.assertIn("did you mean WSOCK_DATA?", result.output)


class BenchTests(CliCase):
    """The options of ``wsock bench``; ``tests/e2e/test_bench.py`` runs it."""

    def test_documented(self) -> None:
        """The reference has each option, and no other."""
        page = (Path(__file__).parent.parent / "docs/reference/bench.md").read_text("utf-8")
        options = {name for option in bench.params for name in option.opts if name.startswith("--")}

        self.assertEqual(set(re.findall(r"^\| `(--[\w-]+)", page, re.MULTILINE)), options)

    def test_wrong_options(self) -> None:
        """Options that exclude each other, and numbers that can't be, are refused with words."""
        both = self.run_wsock("bench", "--window", "3", "--rate", "5")
        self.assertEqual(both.exit_code, 2)
        self.assertIn("--window and --rate exclude each other", both.output)

        for wrong in (
            ["--json", "/nowhere/at/all"],
            ["--rate", "0"],
            ["--subscribers", "0"],
            ["--seconds", "-1"],
            ["--scenario", "x"],
        ):
            self.assertEqual(self.run_wsock("bench", *wrong).exit_code, 2)

    def test_help(self) -> None:
        """Its help names the scenarios, and not the command that only it uses."""
        self.assertIn("connections|latency|fanout|unicast|all", self.run_wsock("bench", "--help").output)
        self.assertNotIn("bench-member", self.run_wsock("--help").output)
