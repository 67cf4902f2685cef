"""Behind TLS of their own, daphne and uvicorn take a page of https:// for the site's, and none of http://."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.sync.client import connect

from tests.asgi_client import Client
from tests.auth.permissions.test_users import sign_in
from tests.processes import ROOT, environment
from tests.server.proxies import free_port
from tests.server.test_signals import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]

COMMANDS: dict[str, Any] = {
    "daphne": lambda port, key, cert: [
        *("-m", "daphne", "-e", f"ssl:{port}:privateKey={key}:certKey={cert}:interface=127.0.0.1"),
        "project.asgi:application",
    ],
    "uvicorn": lambda port, key, cert: [
        *("-m", "uvicorn", "--port", str(port), "--ssl-keyfile", str(key), "--ssl-certfile", str(cert)),
        "project.asgi:application",
    ],
}


def certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    files = folder / "key.pem", folder / "cert.pem"
    files[0].write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    files[1].write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(pem))
    return files


@pytest.mark.parametrize("server", COMMANDS)
def test_behind_tls_a_page_of_http_is_of_another_origin(server: str, tmp_path: Path) -> None:
    client, _ = async_to_sync(sign_in)(Client(None), "start_agentsession")
    port = free_port()
    trusting = ssl.create_default_context()
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    command = COMMANDS[server](port, *certificate(tmp_path))
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment(PYTHONASYNCIODEBUG=""),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def call(method: str, path: str, **headers: str) -> int:
        request = urllib.request.Request(f"https://localhost:{port}{path}", b'{"call_id": "x"}', headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20, context=trusting) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code

    try:
        wait_for(lambda: call("GET", "/ready") == 200)
        for scheme, status, word in (("https", 201, "welcome"), ("http", 403, "not_allowed")):
            origin = f"{scheme}://localhost:{port}"
            assert call("POST", "/sessions", Origin=origin, Cookie=client.headers["cookie"]) == status
            with connect(
                f"wss://localhost:{port}/ws/sessions/",
                ssl=trusting,
                origin=origin,  # type: ignore[arg-type]
                additional_headers={"Cookie": client.headers["cookie"]},
                proxy=None,
            ) as feed:
                feed.send(json.dumps({"type": "hello", "v": 1}))
                message = json.loads(feed.recv(20))
                assert (message.get("code") or message["type"]) == word
    finally:
        process.kill()
        process.wait()
