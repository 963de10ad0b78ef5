"""The documentation says what is so: what it shows, names and links to is there.

That it builds without a warning is for ``tox -e docs``, which has Sphinx.
"""

from __future__ import annotations

import re
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.base import SynchronousTestCase
from tests.children import ROOT
from wsock import config, errors
from wsock.edges.http import HttpEdge
from wsock.services.events import EVENT_TYPES
from wsock.services.roles import Permission
from wsock.verbs import VERBS

DOCS = ROOT / "docs"
EXTENSION = DOCS / "_ext" / "generated.py"


def generated() -> ModuleType:
    """The extension that makes the reference; it needs no Sphinx."""
    spec = spec_from_file_location("generated", EXTENSION)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages() -> dict[Path, str]:
    """Every page that is written in Markdown, with its text."""
    files = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("examples/*.md"), *ROOT.glob("deploy/*.md")]
    return {
        file: file.read_text("utf-8") for file in [*files, *(f for f in DOCS.rglob("*.md") if "_build" not in f.parts)]
    }


def python_blocks(text: str) -> list[str]:
    """The Python that a page shows."""
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


class ReferenceTests(SynchronousTestCase):
    """The reference is whole: each part is made from the code, and has its place in a page."""

    def setUp(self) -> None:
        self.module: Any = generated()

    def test_requests(self) -> None:
        """Every request has its section, with an example that the codec reads as that request."""
        text = self.module.PAGES["requests"]()

        for request in VERBS:
            self.assertIn(f"## `{request.__struct_config__.tag}`\n", text)

    def test_events(self) -> None:
        """Every event has its section with an example of its own."""
        text = self.module.PAGES["events"]()

        for event in self.module._event_types():
            tag = event.__struct_config__.tag
            self.assertIn(f"## `{tag}`\n", text)
            self.assertRegex(text, rf'"action": ?"{re.escape(tag)}"')

    def test_codes(self) -> None:
        """Every error and close code is explained."""
        self.assertEqual(
            re.findall(r"^\| `(\w+)`", self.module.PAGES["error codes"](), re.MULTILINE), [c.value for c in errors.Code]
        )
        self.assertEqual(
            re.findall(r"^\| (\d+)", self.module.PAGES["close codes"](), re.MULTILINE),
            [str(int(c)) for c in errors.CloseCode],
        )

    def test_settings(self) -> None:
        """Every setting is described, with its variable."""
        text = self.module.PAGES["settings"]()

        for setting in config.describe():
            self.assertIn(f"`{setting.key}`\n: ", text)
            self.assertIn(f"`{setting.env}`", text)

    def test_routes(self) -> None:
        """Every path is listed."""
        text = self.module.PAGES["routes"]()

        for rule in HttpEdge.app.url_map.iter_rules():
            self.assertIn(f"`{rule.rule.replace('<', '{').replace('>', '}')}`", text)

    def test_places(self) -> None:
        """What can be generated stands in exactly one page, and no page asks for anything else."""
        asked = [
            name for text in pages().values() for name in re.findall(r"^<!-- generated: (.+) -->$", text, re.MULTILINE)
        ]

        self.assertEqual(sorted(asked), sorted(self.module.PAGES))

    def test_only_markdown(self) -> None:
        """No markup of docstrings is left over in the pages."""
        for name, page in self.module.PAGES.items():
            self.assertNotRegex(page(), r":\w+:`|(?<!`)``\w|protocol\.md", name)

    def test_unknown_type(self) -> None:
        """A field of a type that the reference has no words for fails the build."""
        error = self.assertRaises(ValueError, self.module._type, complex)

        self.assertIn("_TYPES", str(error))


class SnippetTests(SynchronousTestCase):
    """Code in the prose is code that runs."""

    def test_readme_is_the_example(self) -> None:
        """The README's first program is ``examples/hello.py``, its three lines are those of ``examples/embed.py``."""
        hello, embedding = python_blocks((ROOT / "README.md").read_text("utf-8"))

        self.assertEqual((ROOT / "examples" / "hello.py").read_text("utf-8").partition("\n\n")[2], hello)
        self.assertTrue((ROOT / "examples" / "embed.py").read_text("utf-8").endswith(embedding))

    def test_snippets_compile(self) -> None:
        """Whatever Python the pages show is Python."""
        for file, text in pages().items():
            for snippet in python_blocks(text):
                compile(snippet, str(file), "exec", flags=0x2000)  # PyCF_ALLOW_TOP_LEVEL_AWAIT

    def test_included_parts(self) -> None:
        """What a page includes from a file, and from where to where, is in that file."""
        blocks = re.compile(r"^```\{literalinclude\} (\S+)\n(.*?)```", re.MULTILINE | re.DOTALL)
        for file, text in pages().items():
            for name, options in blocks.findall(text):
                included = (file.parent / name).read_text("utf-8")
                for marker in re.findall(r'^:(?:start-at|end-before): "?(.*?)"?$', options, re.MULTILINE):
                    self.assertIn(marker.replace('\\"', '"'), included, f"{file}: {name}")


class NameTests(SynchronousTestCase):
    """What the pages name exists."""

    def test_tests(self) -> None:
        """Every test that the guarantees name is one."""
        names = re.findall(r"`(tests\.[\w.]+)`", (DOCS / "topics" / "guarantees.md").read_text("utf-8"))
        self.assertTrue(names)

        for name in names:
            module, case, test = name.rsplit(".", 2)
            self.assertTrue(callable(getattr(getattr(import_module(module), case, None), test, None)), name)

    def test_settings(self) -> None:
        """Every setting that a page names in code is one."""
        keys = {setting.key for setting in config.describe()}
        actions = {str(frame.__struct_config__.tag) for frame in [*VERBS, *generated()._event_types()]}
        sections = "|".join(sorted({key.partition(".")[0] for key in keys if "." in key}))

        for file, text in pages().items():
            for name in re.findall(rf"`((?:{sections})\.[a-z_]+)\b(?![./(])[^`]*`", text):
                self.assertIn(name, keys | actions | set(EVENT_TYPES) | set(Permission), file)

    def test_modules(self) -> None:
        """Every source file that the topics name is there."""
        for file in (DOCS / "topics").glob("*.md"):
            for name in re.findall(
                r"`((?:edges|protocol|services|backends|verbs)/[\w/]+(?:\.py)?)`", file.read_text("utf-8")
            ):
                path = ROOT / "wsock" / name
                self.assertTrue(path.is_file() or path.with_suffix(".py").is_file(), f"{file}: {name}")

    def test_links(self) -> None:
        """Every link to a file of the repository leads there."""
        for file, text in pages().items():
            for target in re.findall(r"\]\((?!https?:|mailto:|#)([^)#]+)", text):
                self.assertTrue((file.parent / target).exists(), f"{file}: {target}")

    def test_paths(self) -> None:
        """Every file of ``examples/`` that a page names is there."""
        for file, text in pages().items():
            for name in re.findall(r"\bexamples/[\w.]+\w", text):
                self.assertTrue((ROOT / name).exists(), f"{file}: {name}")


class BuildTests(SynchronousTestCase):
    def test_needs_no_sphinx(self) -> None:
        """The reference can be made, and so be tested, without Sphinx: ``tox -e docs`` alone has it."""
        self.assertNotIn("\nimport sphinx", EXTENSION.read_text("utf-8"))
        generated()
        self.assertNotIn("sphinx.application", sys.modules)
