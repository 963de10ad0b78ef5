"""How Sphinx builds the documentation; ``tox -e docs`` runs it with warnings as errors."""

from __future__ import annotations

import sys
from pathlib import Path

from wsock import __version__

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "wsock"
author = "wsock contributors"
copyright = "2026, wsock contributors"  # noqa: A001  # Sphinx's name
version = __version__
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "generated"]
myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"wsock {version}"

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "description"

nitpicky = True
# The names of the standard library and of the libraries that wsock stands on are documented elsewhere.
nitpick_ignore_regex = [(r"py:.*", r"(?!wsock\b).*")]
