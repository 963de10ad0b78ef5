"""Waits until a server answers /ready with 200: ``wait_ready.py PORT PID`` (``--free PORT``: that none is there).

``PID`` is the process that is to become the server: when it has ended there is nothing to wait for.
"""

from __future__ import annotations

import http.client
import os
import socket
import sys
import time

DEADLINE = 300.0  # seconds; the command installs the server first


def is_free(port: int) -> bool:
    """Whether nothing accepts connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return True
    return False


def is_ready(port: int) -> bool:
    """Whether /ready says so now."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def is_running(pid: int) -> bool:
    """Whether the process group is still there."""
    try:
        os.killpg(pid, 0)
    except OSError:
        return False
    return True


def wait(port: int, pid: int) -> None:
    """Returns when the server is ready; exits with a message when it ended first or took too long."""
    started = time.monotonic()
    time.sleep(0.5)  # the session of the process may not exist yet
    while time.monotonic() - started < DEADLINE:
        if is_ready(port):
            print(f"ready after {time.monotonic() - started:.1f} s")
            return
        if not is_running(pid):
            sys.exit("the command ended before the server was ready")
        time.sleep(0.2)
    sys.exit(f"/ready was not answered with 200 within {DEADLINE:.0f} s")


if __name__ == "__main__":
    if sys.argv[1] == "--free":
        if not is_free(int(sys.argv[2])):
            sys.exit(f"port {sys.argv[2]} is in use: end what listens there, the README's server needs it")
    else:
        wait(int(sys.argv[1]), int(sys.argv[2]))
