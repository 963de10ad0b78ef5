"""The commands that README.md and the documentation tell people to type are there."""

from __future__ import annotations

import re
import subprocess
import sys
from configparser import ConfigParser
from importlib import import_module
from pathlib import Path

from tests.base import SynchronousTestCase

ROOT = Path(__file__).parent.parent


def _readme_command(marker: str) -> subprocess.CompletedProcess[str]:
    script = ROOT / ".ci" / "readme_command.py"
    return subprocess.run([sys.executable, script, marker], capture_output=True, text=True, check=False)


def _environments() -> set[str]:
    tox = ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini", encoding="utf-8")
    named = {section.partition(":")[2] for section in tox.sections() if section.startswith("testenv:")}
    return named | {"py"}


class ReadmeTests(SynchronousTestCase):
    def test_run_command(self) -> None:
        """The README's way to a running server is one that CI can take from it: ``twistd`` with ``--dev``."""
        found = _readme_command("ci:run")

        self.assertEqual((found.returncode, found.stderr), (0, ""))
        self.assertRegex(found.stdout, r"twistd -n wsocket --dev\n\Z")

    def test_test_command(self) -> None:
        """The README's way to run the tests is one that CI can take from it, and runs all, in random order."""
        found = _readme_command("ci:test")

        self.assertEqual((found.returncode, found.stderr), (0, ""))
        self.assertRegex(found.stdout, r"trial --random=0 tests\n\Z")

    def test_unknown_marker(self) -> None:
        """A marker that the README has not is an error that names it, never an empty command that passes."""
        found = _readme_command("ci:absent")

        self.assertEqual((found.returncode, found.stdout), (1, ""))
        self.assertIn("<!-- ci:absent -->", found.stderr)


class ToxTests(SynchronousTestCase):
    def test_documented_environments(self) -> None:
        """Each ``tox -e NAME`` in CONTRIBUTING.md names an environment, and each environment is named there."""
        text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")

        self.assertEqual(set(re.findall(r"tox -e (\w+)", text)), _environments())


class ConsoleScriptTests(SynchronousTestCase):
    def test_wsock(self) -> None:
        """``wsock`` starts something that can be called."""
        setup = ConfigParser()
        setup.read(ROOT / "setup.cfg", encoding="utf-8")
        script = setup["options.entry_points"]["console_scripts"].strip()
        name, module, function = re.split(r"\s*[=:]\s*", script)

        self.assertEqual(name, "wsock")
        self.assertTrue(callable(getattr(import_module(module), function)))
