"""Keys that an issuer publishes, fetched over real sockets, with and without TLS."""

from __future__ import annotations

import datetime
import json
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from twisted.internet import reactor  # noqa: TID251  # trial's own: the sockets are real
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.ssl import Certificate, PrivateCertificate, trustRootFromCertificates
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from tests.key_pairs import EC_KEY, RSA_KEY, jwk, pem_pair
from wsock.backends.memory_directory import MemoryDirectory
from wsock.errors import Refused
from wsock.records import App, Key
from wsock.services.addresses import Guard
from wsock.services.auth import Auth
from wsock.services.fetching import Fetcher, FetchFailed
from wsock.services.jwks import KeySets
from wsock.services.jwts import Party
from wsock.services.outgoing import Outgoing


class Published(Resource):
    """What the issuer publishes."""

    isLeaf = True  # noqa: N815  # Twisted's name

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[Any] = [jwk("r1", RSA_KEY)]
        self.asked = 0

    def render_GET(self, request: Request) -> bytes:  # noqa: N802
        """Twisted's hook."""
        self.asked += 1
        return json.dumps({"keys": self.keys}).encode()


def certificate(host: str) -> PrivateCertificate:
    """A certificate that its own key signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + made.public_bytes(Encoding.PEM)
    loaded: PrivateCertificate = PrivateCertificate.loadPEM(pem)
    return loaded


class JwksTests(TestCase):
    """An issuer on this machine."""

    def setUp(self) -> None:
        self.published = Published()
        self.now = 1_800_000_000.0

    def listen(self, tls: PrivateCertificate | None = None) -> str:
        """The issuer answers; returns its URL."""
        site: Any = Site(self.published)
        listening: Any = reactor
        port: IListeningPort
        if tls is None:
            port = listening.listenTCP(0, site, interface="127.0.0.1")
        else:
            port = listening.listenSSL(0, site, tls.options(), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return f"http{'s' if tls else ''}://localhost:{port.getHost().port}/jwks"  # type: ignore[attr-defined]  # IPv4

    def fetcher(self, tls: PrivateCertificate | None = None, **settings: Any) -> Fetcher:
        """A fetcher that trusts that certificate alone."""
        trust = None if tls is None else trustRootFromCertificates([Certificate.loadPEM(tls.dumpPEM())])

        async def resolve(host: str, port: int) -> list[str]:
            return ["127.0.0.1"]

        guard = Guard("keys.jwks_allowed_hosts", **settings)
        outgoing = Outgoing(reactor, guard, resolve=resolve, trust_root=trust)
        self.addCleanup(lambda: Deferred.fromCoroutine(outgoing.stop()))
        return Fetcher(outgoing, guard)

    async def test_issuer_rotates(self) -> None:
        """Tokens of the issuer are good by real HTTP, also after it has another key; then the old one is not."""
        url = self.listen()
        directory = MemoryDirectory()
        key = Key(id="k", app="a", name="K", created_at=0, jwks_url=url, issuer="i", jwks_party=Party("i", None).name)
        await directory.add([App(id="a", name="A", created_at=0), key])
        sets = KeySets(self.fetcher(allows_loopback=True).fetch, lambda: self.now)
        auth = Auth(directory, lambda: self.now, key_sets=sets)
        old = jwt.encode({"iss": "i", "sub": "x"}, pem_pair(RSA_KEY)[0], "RS256", headers={"kid": "r1"})
        new = jwt.encode({"iss": "i", "sub": "x"}, pem_pair(EC_KEY)[0], "ES256", headers={"kid": "e1"})
        self.assertEqual((await auth.credential(token=old)).app, "a")

        self.published.keys = [jwk("e1", EC_KEY)]
        self.now += 30

        self.assertEqual((await auth.credential(token=new)).app, "a")
        with self.assertRaises(Refused):
            await auth.credential(token=old)
        self.assertEqual(self.published.asked, 2)

    async def test_own_network(self) -> None:
        """Outside development this machine is not asked, not even by its name."""
        url = self.listen(certificate("localhost"))
        with self.assertRaises(FetchFailed) as caught:
            await self.fetcher().fetch(url)

        self.assertIn("not public", caught.exception.reason)
        self.assertEqual(self.published.asked, 0)

    async def test_tls(self) -> None:
        """By HTTPS, whose certificate is looked at, a host that the operator allows is asked."""
        tls = certificate("localhost")
        url = self.listen(tls)

        text = await self.fetcher(tls, allowed=["localhost"]).fetch(url)

        self.assertEqual(json.loads(text), {"keys": self.published.keys})

    async def test_wrong_certificate(self) -> None:
        """Neither a certificate that nobody trusts nor one of another host will do."""
        url = self.listen(certificate("localhost"))
        for fetcher in (
            self.fetcher(certificate("localhost"), allowed=["localhost"]),
            self.fetcher(allowed=["localhost"]),
        ):
            with self.assertRaises(FetchFailed):
                await fetcher.fetch(url)
        other = certificate("id.example")
        url = self.listen(other)
        with self.assertRaises(FetchFailed):
            await self.fetcher(other, allowed=["localhost"]).fetch(url)
        self.assertEqual(self.published.asked, 0)

    async def test_nobody_there(self) -> None:
        """A port that nobody listens on is a failure with a reason."""
        with self.assertRaises(FetchFailed) as caught:
            await self.fetcher(allows_loopback=True).fetch("http://127.0.0.1:1/")

        self.assertTrue(caught.exception.reason)
