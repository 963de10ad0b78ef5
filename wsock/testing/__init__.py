"""For the tests of those who use or extend wsock: a server in memory, fakes, and the contract suites.

:class:`InMemoryServer` is a whole server without sockets and real time. The suites that every backend passes are in
:mod:`wsock.testing.contracts`.
"""

from wsock.testing.fakes import Now, Pushed, RecordingPushProvider, RecordingReceiver, RecordingWebPush
from wsock.testing.server import InMemoryClient, InMemoryServer, client_frame

__all__ = [
    "InMemoryClient",
    "InMemoryServer",
    "Now",
    "Pushed",
    "RecordingPushProvider",
    "RecordingReceiver",
    "RecordingWebPush",
    "client_frame",
]
