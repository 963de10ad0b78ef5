"""Prints the command that README.md gives after a marker: ``readme_command.py ci:run``.

The marker is an HTML comment, ``<!-- ci:run -->``; the next fenced block is the command. A prompt (``$ ``) at the
start of a line is left out.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def command(text: str, marker: str) -> str:
    """The lines of the block after the marker; raises :class:`LookupError` when there is not exactly one."""
    pattern = rf"<!--\s*{re.escape(marker)}\s*-->\s*\n```(?:console|sh)\n(.*?)\n```"
    blocks = re.findall(pattern, text, flags=re.DOTALL)
    if len(blocks) != 1:
        raise LookupError(f"README.md has {len(blocks)} blocks right after <!-- {marker} -->; it needs one")
    return re.sub(r"^\$ ", "", blocks[0], flags=re.MULTILINE)


if __name__ == "__main__":
    try:
        print(command(README.read_text(encoding="utf-8"), sys.argv[1]))
    except LookupError as e:
        sys.exit(str(e))
