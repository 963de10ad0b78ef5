"""Makes ``twistd wsocket`` known to Twisted.

The service is named by a string, so that listing twistd's plugins imports nothing of it. Neither this
directory nor the one above has an ``__init__.py``: with one, it would hide Twisted's own packages.
"""

from twisted.application.service import ServiceMaker

wsocket = ServiceMaker(
    "wsocket",
    "wsock.tap",
    "A realtime messaging server: channels, presence and history over WebSocket.",
    "wsocket",
)
