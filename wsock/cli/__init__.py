"""``wsock``: administration from a shell.

Most commands ask a running server's REST API (:mod:`wsock.cli.api`); ``config``, ``doctor`` and ``account password
--data`` look at what is on this machine. Each answers for people by default, with ``--json`` for programs, and says
what to do next when something is wrong.
"""

from wsock.cli.program import main

__all__ = ["main"]
