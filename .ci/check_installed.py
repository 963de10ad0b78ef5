"""Checks what an installation has, in an environment with the wheel and nothing else of the project.

Run it as ``python -I check_installed.py``: nothing of the checkout is on the path then.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path

from twisted.application.service import IServiceMaker
from twisted.plugin import getPlugins

BIN = Path(sys.executable).parent


def check(claim: str, *, holds: bool) -> None:
    """Prints the claim, or ends the run when it does not hold."""
    if not holds:
        sys.exit(f"not true of the installed package: {claim}")
    print(f"ok: {claim}")


def output(*command: str) -> str:
    """What a command of the environment prints; one that fails ends the run with it."""
    done = subprocess.run([BIN / command[0], *command[1:]], capture_output=True, text=True, timeout=60)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def main() -> None:
    """Checks all of it."""
    installed = [str(f) for f in distribution("wsock").files or ()]
    makers = [str(maker.tapname) for maker in getPlugins(IServiceMaker)]

    check("wsock is not imported from a checkout", holds="site-packages" in str(files("wsock")))
    check("its types are for users too (py.typed)", holds=files("wsock").joinpath("py.typed").is_file())
    check("the schema is there", holds=any(files("wsock.backends").joinpath("schema").iterdir()))
    check("the plugin is there", holds="twisted/plugins/wsocket_plugin.py" in installed)
    check("it hides no package of Twisted", holds=not any(_in_twisted(f) for f in installed))
    check("no test is installed", holds=not any(f.startswith("tests/") for f in installed))
    check("Twisted finds the plugin, once", holds=makers.count("wsocket") == 1)
    check("twistd lists it", holds="wsocket" in output("twistd", "--help"))
    check("twistd wsocket says what it takes", holds="--dev" in output("twistd", "wsocket", "--help"))
    check("wsock says what it takes", holds="Usage" in output("wsock", "--help"))


def _in_twisted(file: str) -> bool:
    return file.startswith("twisted/") and file.endswith("__init__.py")


if __name__ == "__main__":
    main()
