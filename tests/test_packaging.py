"""What is published is what is here: the packages, their data, the plugin, and the dependencies."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from importlib.metadata import packages_distributions
from pathlib import Path

from twisted.application.service import IServiceMaker
from twisted.plugin import getPlugins

import wsock
from tests.base import SynchronousTestCase

ROOT = Path(__file__).parent.parent
BROUGHT_BY_DEPENDENCIES = {
    "txaio": "autobahn",  # its logging and futures layer: one cannot be had without the other
    "OpenSSL": "twisted",  # twisted[tls] names it
    "service_identity": "twisted",  # and this one
    "werkzeug": "klein",  # the exceptions that klein's routing raises
}


def _setup_cfg() -> ConfigParser:
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def _listed(section: str, key: str) -> list[str]:
    lines = _setup_cfg()[section][key].splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _distribution(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None
    return _normal(match[0])


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _imports(source: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def _foreign_imports() -> set[str]:
    names = {name.partition(".")[0] for source in (ROOT / "wsock").rglob("*.py") for name in _imports(source)}
    return names - sys.stdlib_module_names - {"wsock", "__future__"}


class PluginTests(SynchronousTestCase):
    def test_found_once(self) -> None:
        """Twisted finds the plugin ``wsocket``, which names its module without importing it."""
        [maker] = [m for m in getPlugins(IServiceMaker) if str(m.tapname) == "wsocket"]

        self.assertEqual(getattr(maker, "module", None), "wsock.tap")

    def test_hides_no_package_of_twisted(self) -> None:
        """Neither ``twisted/`` nor ``twisted/plugins/`` of the project is a package: that would hide Twisted."""
        self.assertEqual(list((ROOT / "twisted").rglob("__init__.py")), [])


class PackageTests(SynchronousTestCase):
    def test_every_package_is_listed(self) -> None:
        """``setup.cfg`` lists each package on disk and no other, in order."""
        on_disk = [".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "wsock").rglob("__init__.py")]

        self.assertEqual(_listed("options", "packages"), sorted([*on_disk, "twisted.plugins"]))

    def test_every_module_is_in_a_package(self) -> None:
        """No module stands in a directory without an ``__init__.py``, where it would not be published."""
        directories = {source.parent for source in (ROOT / "wsock").rglob("*.py")}

        self.assertEqual([d for d in sorted(directories) if not (d / "__init__.py").exists()], [])

    def test_every_data_file_is_published(self) -> None:
        """A file that is not Python matches a pattern of its package in ``setup.cfg``."""
        patterns = _setup_cfg()["options.package_data"]
        published = {
            file
            for package, globs in patterns.items()
            for glob in globs.split()
            for file in ROOT.joinpath(*package.split(".")).glob(glob)
        }
        data = {
            f
            for f in (ROOT / "wsock").rglob("*")
            if f.is_file() and f.suffix not in {".py", ".pyc"} and not f.name.startswith(".")
        }

        self.assertEqual(sorted(data - published), [])

    def test_types_are_published(self) -> None:
        """The package says that it is typed."""
        self.assertTrue(Path(wsock.__file__).with_name("py.typed").is_file())


class DependencyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.required = {_distribution(r) for r in _listed("options", "install_requires")}

    def test_every_import_is_required(self) -> None:
        """What wsock imports is in ``install_requires``, not there by chance through something else."""
        providers = packages_distributions()
        missing = {
            name
            for name in _foreign_imports() - BROUGHT_BY_DEPENDENCIES.keys()
            if not self.required & {_normal(d) for d in providers.get(name, [])}
        }

        self.assertEqual(missing, set())

    def test_every_requirement_is_imported(self) -> None:
        """What is in ``install_requires`` is imported by some module."""
        providers = packages_distributions()
        imported = {_normal(d) for name in _foreign_imports() for d in providers.get(name, [])}
        # pyjwt imports the one when it meets a public-key algorithm, txredisapi the other when it is there.
        imported |= {"cryptography", "hiredis"}

        self.assertEqual(self.required - imported, set())

    def test_every_requirement_has_its_reason(self) -> None:
        """``docs/topics/dependencies.md`` has a row for each dependency, of each extra too."""
        text = (ROOT / "docs/topics/dependencies.md").read_text(encoding="utf-8")
        explained = {_normal(name) for name in re.findall(r"\[([\w.-]+)\]\(https://pypi", text)}
        extras = _setup_cfg()["options.extras_require"]
        wanted = self.required | {
            _distribution(r) for extra in extras for r in _listed("options.extras_require", extra)
        }

        self.assertEqual(wanted - explained - {"wsock"}, set())
