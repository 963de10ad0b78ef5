"""How many pushes a second each provider sends, against a bare treq loop that posts the same bytes.

    python -m benchmarks.push --pushes 2000 --rounds 5

Both send to one program of Node on loopback, in turns, with as many requests at once; told are the median of the ratios
and their range, and for how long the reactor is held up while the provider sends. Needs Node, treq, and the ``test``
extra. A push to a browser is encrypted for that browser alone, which the loop has done beforehand.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, time
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from treq.client import HTTPClient
from twisted.internet import reactor, task
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.http_headers import Headers

from tests.key_pairs import EC_KEY, RSA_KEY, pem_pair
from tests.peers.node import CERTIFICATE
from wsock.interfaces import (
    ApnsCredentials,
    ApnsDevice,
    FcmCredentials,
    FcmDevice,
    PushMessage,
    PushStatus,
    WebDevice,
)
from wsock.providers.apns import Apns
from wsock.providers.encryption import public_bytes
from wsock.providers.fcm import Fcm
from wsock.providers.h2agent import H2Agent
from wsock.providers.payloads import to_base64url
from wsock.providers.webpush import WebPush
from wsock.services.addresses import Guard
from wsock.services.outgoing import Outgoing

CLOCK: Any = reactor
Send = Callable[[], Coroutine[Deferred[Any], Any, Any]]
_TICK = 0.005


@dataclass(frozen=True)
class Contest:
    """What a provider sends, and the same from a loop."""

    name: str
    at_once: int
    provider: Send
    loop: Send


async def main(given: argparse.Namespace, plain: int, secret: int) -> None:
    """All contests."""
    print(f"{given.rounds} rounds of {given.pushes} pushes in turns; pushes a second relative to a bare treq loop")
    outgoing = Outgoing(reactor, Guard("none", allows_loopback=True), per_host=given.at_once, overall=given.at_once)
    apns = Apns(
        lambda: H2Agent(reactor, trust_root=CERTIFICATE.trust_root),
        CLOCK,
        time,
        hosts={"production": f"https://localhost:{secret}"},
    )
    pool = HTTPConnectionPool(CLOCK)
    pool.maxPersistentPerHost = given.at_once
    bare = HTTPClient(Agent(CLOCK, pool=pool))
    bare_agent = H2Agent(reactor, trust_root=CERTIFICATE.trust_root)
    for contest in (
        web(given, outgoing, bare, f"http://127.0.0.1:{plain}"),
        fcm(given, outgoing, bare, f"http://127.0.0.1:{plain}"),
        apple(given, apns, HTTPClient(bare_agent), f"https://localhost:{secret}"),
    ):
        await compete(contest, given.pushes, given.rounds)
    await apns.close()
    await bare_agent.close()
    await outgoing.stop()
    await pool.closeCachedConnections()


async def compete(contest: Contest, pushes: int, rounds: int) -> None:
    """Prints the ratio and the delays."""
    ratios, delays = [], []
    await run(contest.provider, 50, contest.at_once)
    await run(contest.loop, 50, contest.at_once)
    for _ in range(rounds):
        with Delays() as delayed:
            ours = await run(contest.provider, pushes, contest.at_once)
        delays.extend(delayed.seconds)
        ratios.append(ours / await run(contest.loop, pushes, contest.at_once))
    ratios.sort()
    delays.sort()
    held = delays[int(len(delays) * 0.99)] * 1000
    print(
        f"{contest.name:8} {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}), "
        f"the reactor comes back within {held:.1f} ms in 99 of 100 cases",
        flush=True,
    )


async def run(send: Send, pushes: int, at_once: int) -> float:
    """How many a second."""
    places = DeferredSemaphore(at_once)
    started = perf_counter()
    await gatherResults([places.run(lambda: Deferred.fromCoroutine(send())) for _ in range(pushes)])
    return pushes / (perf_counter() - started)


class Delays:
    """How late calls are that are due every few milliseconds."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._due = 0.0
        self._loop = task.LoopingCall(self._tick)

    def __enter__(self) -> Delays:
        self._due = perf_counter() + _TICK
        self._loop.start(_TICK, now=False)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.stop()

    def _tick(self) -> None:
        now = perf_counter()
        self.seconds.append(max(0.0, now - self._due))
        self._due = now + _TICK


def web(given: argparse.Namespace, outgoing: Outgoing, bare: HTTPClient, url: str) -> Contest:
    """A browser's push service."""
    provider = WebPush(outgoing, time, os.urandom, allows_loopback=True)
    credentials = provider.create("mailto:ops@example.com")
    keys = {"p256dh": to_base64url(public_bytes(generate_private_key(SECP256R1()))), "auth": to_base64url(b"x" * 16)}
    device = WebDevice(endpoint=f"{url}/web/1", **keys)
    headers = {
        "TTL": "60",
        "Content-Type": "application/octet-stream",
        "Content-Encoding": "aes128gcm",
        "Urgency": "normal",
        "Authorization": "vapid t=" + "x" * 250,
    }
    body = os.urandom(250)

    async def push() -> None:
        _check(await provider.send(credentials, device, message()))

    async def post() -> None:
        await _post(bare, device.endpoint, headers, body)

    return Contest("web", given.at_once, push, post)


def fcm(given: argparse.Namespace, outgoing: Outgoing, bare: HTTPClient, url: str) -> Contest:
    """Firebase."""
    provider = Fcm(outgoing, time, url=url)
    credentials = FcmCredentials(
        project_id="my-app", client_email="a@b", private_key=pem_pair(RSA_KEY)[0], token_uri=f"{url}/token"
    )
    headers = {"Authorization": "Bearer t", "Content-Type": "application/json"}
    body = json.dumps({"message": {"token": "abc", "notification": {"title": "Hello", "body": "World"}}}).encode()

    async def push() -> None:
        _check(await provider.send(credentials, FcmDevice(value="abc"), message()))

    async def post() -> None:
        await _post(bare, f"{url}/v1/projects/my-app/messages:send", headers, body)

    return Contest("fcm", given.at_once, push, post)


def apple(given: argparse.Namespace, provider: Apns, bare: HTTPClient, url: str) -> Contest:
    """APNs; the loop has the same HTTP/2 agent, since there is no other one for Twisted."""
    credentials = ApnsCredentials(
        private_key=pem_pair(EC_KEY)[0], key_id="ABCDE12345", team_id="TEAM123456", topic="com.x.app"
    )
    headers = {"authorization": "bearer " + "x" * 200, "apns-topic": "com.x.app", "apns-push-type": "alert"}
    body = json.dumps({"aps": {"alert": {"title": "Hello", "body": "World"}}}).encode()

    async def push() -> None:
        _check(await provider.send(credentials, ApnsDevice(token="ab" * 32), message()))

    async def post() -> None:
        await _post(bare, f"{url}/3/device/{'ab' * 32}", headers, body)

    return Contest("apns", given.streams, push, post)


def message() -> PushMessage:
    """One of now."""
    return PushMessage(id="m", created=int(time() * 1000), title="Hello", body="World")


def _check(outcome: Any) -> None:
    assert outcome.status is PushStatus.OK, outcome


async def _post(bare: HTTPClient, url: str, headers: dict[str, str], body: bytes) -> None:
    fields = Headers({name: [value] for name, value in headers.items()})
    response = await bare.post(url, headers=fields, data=body, allow_redirects=False, timeout=20, reactor=CLOCK)
    await response.content()


def start_sink() -> tuple[subprocess.Popen[bytes], int, int]:
    """The program that takes everything."""
    node = shutil.which("node")
    if node is None:
        sys.exit("node is not installed")
    script = Path(__file__).with_name("push_sink.mjs")
    options = json.dumps({"key": CERTIFICATE.key, "cert": CERTIFICATE.cert})
    process = subprocess.Popen([node, str(script), options], stdout=subprocess.PIPE)
    assert process.stdout is not None
    plain, secret = process.stdout.readline().split()[1:]
    return process, int(plain), int(secret)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Pushes a second, relative to a bare treq loop.")
    parser.add_argument("--pushes", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--at-once", type=int, default=20, help="requests at once by HTTP/1.1")
    parser.add_argument("--streams", type=int, default=100, help="requests at once by HTTP/2")
    arguments = parser.parse_args()
    sink, plain_port, secret_port = start_sink()
    try:
        task.react(lambda _: Deferred.fromCoroutine(main(arguments, plain_port, secret_port)))
    finally:
        sink.kill()
