"""The examples of docs/private-keys.rst, each run with stand-ins for the server and the service."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates
from cryptography.x509.oid import NameOID

from alf import Client
from tests.servers import Reply, Request, Server, TokenServer, running
from tests.test_providers import recipes_of

PAGE = Path(__file__).parent.parent / "docs" / "private-keys.rst"

EXAMPLES = recipes_of(PAGE)
PREAMBLE = EXAMPLES.pop("preamble")

KEY = ec.generate_private_key(ec.SECP256R1())


def certificate() -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "client")])
    now = datetime.now(timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(KEY, SHA256())
    )


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the examples read, in the current directory."""
    monkeypatch.chdir(tmp_path)
    lock = BestAvailableEncryption(b"password")
    shown = certificate()
    contents = {
        "key.pem": KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "key.der": KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        "encrypted.pem": KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock),
        "certificate.pem": shown.public_bytes(Encoding.PEM),
        "client.p12": serialize_key_and_certificates(b"client", KEY, shown, None, lock),
    }
    for name, content in contents.items():
        Path(name).write_bytes(content)


@pytest.fixture
def kms(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Signs as AWS KMS documents it."""

    def sign(request: Request) -> Reply:
        asked = json.loads(request.body)
        assert request.headers["X-Amz-Target"] == "TrentService.Sign"
        assert (asked["KeyId"], asked["MessageType"]) == ("alias/reports", "RAW")
        signature = KEY.sign(base64.b64decode(asked["Message"]), ec.ECDSA(SHA256()))
        return Reply(
            body={
                "KeyId": "arn:aws:kms:eu-central-1:1:key/1",
                "Signature": base64.b64encode(signature).decode(),
                "SigningAlgorithm": asked["SigningAlgorithm"],
            }
        )

    with running(Server(sign)) as server:
        for name, value in {
            "AWS_ENDPOINT_URL_KMS": server.url,
            "AWS_ACCESS_KEY_ID": "key-id",
            "AWS_SECRET_ACCESS_KEY": "access-key",
        }.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def run(tokens: TokenServer) -> Iterator[Callable[[str], Client]]:
    clients: list[Client] = []

    def answer(request: Request) -> Reply:
        if request.method == "GET":
            return Reply(body={"issuer": tokens.url, "token_endpoint": tokens.endpoint})
        return tokens.grant(request)

    def run(code: str) -> Client:
        namespace: dict[str, Any] = {}
        exec(PREAMBLE + code.replace("https://id.example.com", tokens.url), namespace)
        clients.append(namespace["client"])
        return clients[-1]

    tokens.script = answer
    yield run
    for client in clients:
        client.close()


@pytest.mark.usefixtures("files", "kms")
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(run: Callable[[str], Client], tokens: TokenServer, name: str) -> None:
    run(EXAMPLES[name]).renew_token()
    assertion = tokens.requests[-1].form["client_assertion"]
    has_issuer = "issuer=" in EXAMPLES[name]
    audience = tokens.url if has_issuer else tokens.endpoint
    claims = jwt.decode(assertion, KEY.public_key(), ["ES256"], audience=audience)
    assert claims["iss"] == "client-id"
    header = jwt.get_unverified_header(assertion)
    assert header["typ"] == ("client-authentication+jwt" if has_issuer else "JWT")
    assert ("x5t" in header) == (name in ("certificate", "pkcs12"))


@pytest.mark.usefixtures("kms")
def test_a_signature_of_the_service_that_is_not_converted_is_refused(
    run: Callable[[str], Client], tokens: TokenServer
) -> None:
    code = EXAMPLES["kms"]
    start, end = code.index("    r, s ="), code.index("\n\n\nclient")
    client = run(f'{code[:start]}    return answer["Signature"]{code[end:]}')
    with pytest.raises(ValueError, match="bytes of DER, as key services return it"):
        client.renew_token()
    assert [request.method for request in tokens.requests if request.method == "POST"] == []


def test_every_code_block_of_the_page_is_run() -> None:
    assert PAGE.read_text(encoding="utf-8").count(".. code-block::") == len(EXAMPLES) + 1
