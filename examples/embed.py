"""A Twisted web application with a realtime server in it: each visit of its page is told to everybody who listens.

Run it with twistd -ny examples/embed.py
"""

from __future__ import annotations

import os

from twisted.application.service import Application
from twisted.application.strports import service
from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from wsock.config import load
from wsock.server import Server


class Home(Resource):
    """A page of the application."""

    visits = 0

    def render_GET(self, request: Request) -> bytes:  # noqa: N802
        """Counts the visit and publishes it, from inside the process."""
        self.visits += 1
        server.messages.publish("demo", "visits", {"visits": self.visits})
        return b"<p>Visit number %d. Others see it at once.</p>" % self.visits


# The application as it was before.
application = Application("shop")
root = Resource()
root.putChild(b"", Home())
service(os.environ.get("LISTEN", "tcp:8080:interface=127.0.0.1"), Site(root)).setServiceParent(application)

# What makes it realtime.
server = Server(load(environ=os.environ, options={"dev": True}), reactor=reactor)
server.setServiceParent(application)
root.putChild(b"realtime", server.resource())
