"""wsock: an open, self-hosted realtime messaging server on Twisted and Autobahn.

Importing this package imports no reactor. The parts a program starts from:

* :class:`wsock.server.Server`: the whole server as one Twisted service,
* :class:`wsock.config.Config`: its settings,
* :mod:`wsock.testing`: fakes, an in-memory server and the contract suites for backends of your own,
* :mod:`wsock.client`: a client that resumes exactly.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
