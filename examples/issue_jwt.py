"""Issues a token for one client, as the backend of an application does: issue_jwt.py ana --allow 'room:*=subscribe'.

The signing secret comes from the environment (WSOCK_SIGNING_SECRET), where it stays out of the process list; without
it, the well-known one of --dev is taken.
"""

from __future__ import annotations

import argparse
import os
import time

import jwt

DEV_KEY, DEV_SECRET = "demo", "demo-secret-for-development-only"


def issue(kid: str, secret: str, sub: str, permissions: dict[str, list[str]] | None, seconds: int, now: float) -> str:
    """A token that makes its bearer the client ``sub`` for so many seconds, with these permissions.

    ``kid`` is the id of the key whose signing secret this is. Without ``permissions`` it may do what the key may.
    """
    claims: dict[str, object] = {"sub": sub, "iat": int(now), "exp": int(now) + seconds}
    if permissions is not None:
        claims["permissions"] = permissions
    return jwt.encode(claims, secret, algorithm="HS256", headers={"kid": kid})


def permission(text: str) -> tuple[str, list[str]]:
    """``PATTERN=OPERATION,OPERATION`` as a pair."""
    pattern, _, operations = text.rpartition("=")
    if not pattern:
        raise argparse.ArgumentTypeError("takes PATTERN=OPERATION,OPERATION such as 'room:*=subscribe,publish'")
    return pattern, operations.split(",")


def main() -> None:
    """Reads the command line and prints the token."""
    parser = argparse.ArgumentParser(description="Prints a token for one client.")
    parser.add_argument("sub", help="who the client is: its clientId")
    parser.add_argument("--kid", default=DEV_KEY, help="the id of the key that signs")
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument(
        "--allow", type=permission, action="append", help="PATTERN=OPERATION,OPERATION; may be repeated"
    )
    given = parser.parse_args()
    secret = os.environ.get("WSOCK_SIGNING_SECRET", DEV_SECRET)
    permissions = dict(given.allow) if given.allow else None
    print(issue(given.kid, secret, given.sub, permissions, given.minutes * 60, time.time()))


if __name__ == "__main__":
    main()
