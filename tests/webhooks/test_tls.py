"""HTTPS endpoints: the certificate is checked, for the name and not for the address."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.webhooks.conftest import delivery
from tests.webhooks.receiver import Receiver
from tests.webhooks.test_sending import end, resolve, send
from visionagents_runner.store import database
from visionagents_runner.webhooks.sender import Tally

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: Any) -> Path:
    """A certificate for hooks.example, which is its own authority, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hooks.example")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("hooks.example")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = Path(tmp_path_factory.mktemp("tls")) / "hooks.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    return path


@pytest.fixture
def secure(certificate: Path) -> Iterator[Receiver]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    receiver = Receiver(context=context)
    yield receiver
    receiver.close()


@pytest.fixture
def trusted(certificate: Path, monkeypatch: Any) -> None:
    """This machine trusts it."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))


async def error() -> str:
    return (await database.read(delivery)).last_error


async def test_a_trusted_certificate_for_the_name_is_accepted(
    secure: Receiver, configure: Any, monkeypatch: Any, trusted: None
) -> None:
    resolve(monkeypatch, {"hooks.example": ["127.0.0.1"]})
    configure(secure.entry(URL=secure.url(host="hooks.example", scheme="https")))
    await end()
    await end()
    assert await send() == Tally(delivered=2)
    assert all(request.is_signed() for request in secure.requests)


async def test_one_that_nobody_trusts_is_not_accepted(secure: Receiver, configure: Any, monkeypatch: Any) -> None:
    resolve(monkeypatch, {"hooks.example": ["127.0.0.1"]})
    configure(secure.entry(URL=secure.url(host="hooks.example", scheme="https")))
    await end()
    assert await send() == Tally(to_be_tried_again=1)
    assert "certificate verify failed: self-signed certificate" in await error()
    assert secure.requests == []


async def test_one_for_another_name_is_not_accepted(
    secure: Receiver, configure: Any, monkeypatch: Any, trusted: None
) -> None:
    resolve(monkeypatch, {"other.example": ["127.0.0.1"]})
    configure(secure.entry(URL=secure.url(host="other.example", scheme="https")))
    await end()
    assert await send() == Tally(to_be_tried_again=1)
    assert "Hostname mismatch" in await error()
    assert secure.requests == []


async def test_plain_http_at_a_tls_url_is_a_failure(receiver: Receiver, configure: Any) -> None:
    configure(receiver.entry(URL=receiver.url(scheme="https")))
    await end()
    assert await send() == Tally(to_be_tried_again=1)
    assert (await error()).startswith("No connection: ")
