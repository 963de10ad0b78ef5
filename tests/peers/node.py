"""Programs of Node as peers."""

from __future__ import annotations

import datetime
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from twisted.internet.ssl import Certificate, trustRootFromCertificates
from twisted.trial.unittest import SkipTest

from tests.base import TestCase
from tests.children import Child, start

__all__ = ["CERTIFICATE", "Identity", "certificate", "node", "start_apns", "start_push_service"]

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Identity:
    """A server's key and certificate in PEM, which its own key signed."""

    key: str
    cert: str

    @property
    def trust_root(self) -> Any:
        """What a client trusts that trusts this server alone."""
        return trustRootFromCertificates([Certificate.loadPEM(self.cert.encode())])


def certificate(host: str) -> Identity:
    """An identity for a host."""
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
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return Identity(pem, made.public_bytes(Encoding.PEM).decode())


CERTIFICATE = certificate("localhost")


def node() -> str:
    """The program. Skips the test where there is none."""
    program = shutil.which("node")
    if program is None:
        raise SkipTest("node is not installed (Debian: apt-get install nodejs)")
    return program


async def start_apns(case: TestCase, **options: Any) -> tuple[Child, int]:
    """The push service of apns.mjs with these options, and its port; the test case ends it."""
    settings = {"key": CERTIFICATE.key, "cert": CERTIFICATE.cert, **options}
    child = start(case, [node(), str(HERE / "apns.mjs"), json.dumps(settings)])
    match = await child.says(r"serves (\d+)")
    return child, int(match[1])


async def start_push_service(case: TestCase) -> int:
    """The push service for browsers of push_service.cjs, by its port; the test case ends it.

    Skips the test where its package is not installed.
    """
    program = node()
    if not (HERE / "node_modules" / "web-push-testing").is_dir():
        raise SkipTest("web-push-testing is not installed (npm install --prefix tests/peers)")
    child = start(case, [program, str(HERE / "push_service.cjs")])
    return int((await child.says(r"serves (\d+)"))[1])
