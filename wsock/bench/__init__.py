"""``wsock bench``: measures an installation from outside, over the wire, and counts what it lost.

It is a load generator and a referee. Nothing here knows the server's code: it speaks the wire protocol over its own
lean sockets (``connection``), numbers what it publishes (``publisher``), and holds what arrives against that
(``listeners``, ``tally``). The reactor, the clocks and the random bytes are handed in by :mod:`wsock.cli`.
"""

from wsock.bench.crew import CrewMember
from wsock.bench.errors import BenchError
from wsock.bench.load import SCENARIOS, Load
from wsock.bench.pace import Pace, TextProgress
from wsock.bench.program import Surroundings, run
from wsock.bench.report import table
from wsock.bench.results import Report

__all__ = [
    "SCENARIOS",
    "BenchError",
    "CrewMember",
    "Load",
    "Pace",
    "Report",
    "Surroundings",
    "TextProgress",
    "run",
    "table",
]
