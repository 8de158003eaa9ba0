"""A Client of environment variables."""

from __future__ import annotations

import io
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from alf import Client
from tests.servers import Api, Reply, TokenServer

Variables = Callable[..., None]


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch, tokens: TokenServer) -> Variables:
    """Sets variables; those of a Client that works are set already."""

    def set_variables(**texts: str | None) -> None:
        for name, text in texts.items():
            if text is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, text)

    for name in os.environ:
        if name.startswith("ALF_"):
            monkeypatch.delenv(name)
    set_variables(
        ALF_TOKEN_ENDPOINT=tokens.endpoint, ALF_CLIENT_ID="client-id", ALF_CLIENT_SECRET="secret"
    )
    return set_variables


@pytest.fixture
def made() -> Iterator[Callable[..., Client]]:
    clients: list[Client] = []

    def make(*arguments: Any, cls: type[Client] = Client, **overrides: Any) -> Client:
        clients.append(cls.from_env(*arguments, **overrides))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


Made = Callable[..., Client]


def test_three_variables_make_a_client(made: Made, tokens: TokenServer, api: Api) -> None:
    assert made().get(api.url).status_code == 200
    # client-id:secret
    assert tokens.requests[0].authorization == "Basic Y2xpZW50LWlkOnNlY3JldA=="


def test_another_prefix(made: Made, variables: Variables, tokens: TokenServer) -> None:
    variables(X_TOKEN_ENDPOINT=tokens.endpoint, X_CLIENT_ID="other", X_CLIENT_SECRET="s")
    variables(ALF_TOKEN_ENDPOINT=None, ALF_SCOPE="not this")
    made("X_", client_auth="client_secret_post").renew_token()
    assert tokens.requests[0].form["client_id"] == "other"
    assert "scope" not in tokens.requests[0].form


@pytest.mark.parametrize(
    ("name", "text", "sent"),
    [
        ("SCOPE", "read write", [("scope", "read write")]),
        ("AUDIENCE", "https://api.example.com", [("audience", "https://api.example.com")]),
        ("RESOURCE", "urn:a urn:b", [("resource", "urn:a"), ("resource", "urn:b")]),
        ("TOKEN_PARAMS", "a=1%2C&b=", [("a", "1,")]),
        ("TOKEN_PARAMS", "grant_type=account_credentials", [("grant_type", "account_credentials")]),
        ("CLIENT_AUTH", "client_secret_post", [("client_secret", "secret")]),
    ],
)
def test_what_goes_into_the_form(
    made: Made,
    variables: Variables,
    tokens: TokenServer,
    name: str,
    text: str,
    sent: list[tuple[str, str]],
) -> None:
    variables(**{f"ALF_{name}": text})
    made().renew_token()
    assert set(sent) <= set(tokens.requests[0].pairs)


def test_headers_of_the_token_request(
    made: Made, variables: Variables, tokens: TokenServer
) -> None:
    variables(ALF_TOKEN_HEADERS="X-Merchant: 7\n\nX-Trace:on:1\n")
    made().renew_token()
    headers = tokens.requests[0].headers
    assert (headers["X-Merchant"], headers["X-Trace"]) == ("7", "on:1")


def test_hosts_retries_and_timeout(
    made: Made, variables: Variables, tokens: TokenServer, api: Api
) -> None:
    variables(ALF_TOKEN_HOSTS="api.example.com, *.example.org", ALF_TOKEN_RETRY="0")
    variables(ALF_TOKEN_TIMEOUT="2.5", ALF_TOKEN_SETTLE_TIME="0")
    assert made().get(api.url).status_code == 401
    assert api.requests[0].authorization is None
    assert not tokens.requests


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_retries_are_for_answers_too(
    made: Made, variables: Variables, tokens: TokenServer, status: int
) -> None:
    variables(ALF_TOKEN_RETRY="1")
    tokens.replies = [Reply(status)]
    assert made().renew_token().access_token == "token-1"
    assert len(tokens.requests) == 2


def test_tokens_bound_to_a_key(made: Made, variables: Variables, tokens: TokenServer) -> None:
    variables(ALF_DPOP="Yes")
    tokens.members = {"token_type": "DPoP"}
    assert made().renew_token().token_type == "DPoP"
    assert tokens.requests[0].headers["DPoP"]
    variables(ALF_DPOP="no")
    tokens.members = {}
    assert made().renew_token().token_type == "Bearer"


def test_a_certificate_and_its_key(made: Made, variables: Variables, tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    variables(ALF_TOKEN_ENDPOINT="https://127.0.0.1:1/token", ALF_TOKEN_CERT=str(certificate))
    expected = "ALF_TOKEN_CERT: expected the path of a file, or two with ':' between: no such file"
    for paths in (str(certificate), f"{certificate}{os.pathsep}{key}", "x" * 5000, "\0"):
        variables(ALF_TOKEN_CERT=paths.replace("\0", "-----BEGIN CERTIFICATE-----"))
        with pytest.raises(ValueError, match=expected):
            made()
        certificate.touch()
    key.touch()
    for paths in (str(certificate), f"{certificate}{os.pathsep}{key}"):
        variables(ALF_TOKEN_CERT=paths)
        with pytest.raises(OSError):
            made().renew_token()


def test_a_key_to_sign_with(
    made: Made, variables: Variables, tokens: TokenServer, tmp_path: Path
) -> None:
    jose = pytest.importorskip("jwt")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    path = tmp_path / "key.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    variables(ALF_PRIVATE_KEY_FILE=str(path), ALF_CLIENT_SECRET=None)
    made().renew_token()
    claims = jose.decode(
        tokens.requests[0].form["client_assertion"],
        key.public_key(),
        algorithms=["ES256"],
        audience=tokens.endpoint,
    )
    assert claims["iss"] == claims["sub"] == "client-id"


def test_the_secret_in_a_file_is_read_anew_each_time(
    made: Made, variables: Variables, tokens: TokenServer, tmp_path: Path
) -> None:
    path = tmp_path / "secret"
    path.write_text("first secret \n", encoding="utf-8")
    variables(ALF_CLIENT_SECRET=None, ALF_CLIENT_SECRET_FILE=str(path))
    client = made(client_auth="client_secret_post")
    client.renew_token()
    path.write_text("sécond\r\n", encoding="utf-8")
    client.renew_token()
    with pickle.loads(pickle.dumps(client)) as copy:
        copy.renew_token()
    secrets = [request.form["client_secret"] for request in tokens.requests]
    # A blank may be part of a secret, the line's end is not.
    assert secrets == ["first secret ", "sécond", "sécond"]


def test_the_secret_from_standard_input(
    made: Made, variables: Variables, tokens: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("piped\n"))
    variables(ALF_CLIENT_SECRET=None, ALF_CLIENT_SECRET_FILE="-")
    client = made(client_auth="client_secret_post")
    client.renew_token()
    client.renew_token()
    assert {request.form["client_secret"] for request in tokens.requests} == {"piped"}


def test_an_issuer_instead_of_the_endpoint(
    made: Made, variables: Variables, tokens: TokenServer
) -> None:
    variables(ALF_TOKEN_ENDPOINT=None, ALF_ISSUER=tokens.url)
    with pytest.raises(Exception, match="metadata"):
        made(raise_token_error=True).renew_token()
    assert "/.well-known/" in tokens.requests[0].path


def test_an_argument_takes_the_place_of_its_variable(
    made: Made, variables: Variables, tokens: TokenServer
) -> None:
    variables(ALF_SCOPE="of the environment", ALF_CLIENT_SECRET_FILE="/nowhere")
    made(scope="mine", client_secret="mine", client_auth="client_secret_post").renew_token()
    form = tokens.requests[0].form
    assert (form["scope"], form["client_secret"]) == ("mine", "mine")


def test_an_issuer_given_takes_the_place_of_the_endpoint(made: Made, tokens: TokenServer) -> None:
    with pytest.raises(Exception, match="metadata"):
        made(issuer=tokens.url, raise_token_error=True).renew_token()


def test_a_variable_that_is_empty_is_not_set(
    made: Made, variables: Variables, tokens: TokenServer
) -> None:
    variables(ALF_SCOPE="", ALF_TOKEN_TIMEOUT="", ALF_CLIENT_SECRET_FILE="")
    made().renew_token()
    assert set(tokens.requests[0].form) == {"grant_type"}


@pytest.mark.parametrize(
    ("unset", "named"),
    [
        (["TOKEN_ENDPOINT"], "not set: ALF_TOKEN_ENDPOINT (or ALF_ISSUER)"),
        (["CLIENT_ID"], "not set: ALF_CLIENT_ID"),
        (["CLIENT_SECRET"], "not set: ALF_CLIENT_SECRET (or ALF_CLIENT_SECRET_FILE)"),
        (["CLIENT_ID", "CLIENT_SECRET"], "not set: ALF_CLIENT_ID, ALF_CLIENT_SECRET (or"),
    ],
)
def test_what_is_missing_is_named(
    made: Made, variables: Variables, unset: list[str], named: str
) -> None:
    variables(**{f"ALF_{name}": None for name in unset})
    with pytest.raises(ValueError, match="not set") as failure:
        made()
    assert named in str(failure.value)


@pytest.mark.parametrize(
    ("client_auth", "is_needed"),
    [(None, True), ("client_secret_jwt", True), ("none", False), (lambda request: request, False)],
)
def test_a_secret_is_missed_only_where_it_is_needed(
    made: Made, variables: Variables, client_auth: Any, is_needed: bool
) -> None:
    variables(ALF_CLIENT_SECRET=None)
    if is_needed:
        with pytest.raises(ValueError, match="not set: ALF_CLIENT_SECRET"):
            made(client_auth=client_auth)
    else:
        made(client_auth=client_auth)


def test_an_issuer_may_take_a_certificate_for_a_secret(
    made: Made, variables: Variables, tokens: TokenServer, tmp_path: Path
) -> None:
    certificate = tmp_path / "certificate.pem"
    certificate.touch()
    variables(ALF_TOKEN_ENDPOINT=None, ALF_CLIENT_SECRET=None)
    variables(ALF_ISSUER=tokens.url, ALF_TOKEN_CERT=str(certificate))
    made()


def test_a_subclass_may_know_what_no_variable_says(
    made: Made, variables: Variables, tokens: TokenServer
) -> None:
    endpoint = tokens.endpoint

    class ReportsClient(Client):
        def __init__(self, **options: Any) -> None:
            super().__init__(token_endpoint=endpoint, **options)

    variables(ALF_TOKEN_ENDPOINT=None)
    client = made(cls=ReportsClient)
    assert isinstance(client, ReportsClient)
    client.renew_token()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("TOKEN_TIMEOUT", "s3cret", "ALF_TOKEN_TIMEOUT: expected a number"),
        ("TOKEN_RETRY", "-1", "ALF_TOKEN_RETRY: expected a whole number"),
        ("TOKEN_PARAMS", "s3cret", "ALF_TOKEN_PARAMS: expected name=value"),
        ("TOKEN_HEADERS", "s3cret", "ALF_TOKEN_HEADERS: expected 'Name: value'"),
        ("TOKEN_HEADERS", ": s3cret", "ALF_TOKEN_HEADERS: expected 'Name: value'"),
        ("DPOP", "s3cret", "ALF_DPOP: expected yes or no"),
        ("CLIENT_SECRET_FILE", "/nowhere", "ALF_CLIENT_SECRET and ALF_CLIENT_SECRET_FILE"),
    ],
)
def test_a_variable_of_no_use_is_named_and_not_shown(
    made: Made, variables: Variables, name: str, text: str, words: str
) -> None:
    variables(**{f"ALF_{name}": text})
    with pytest.raises(ValueError, match=words) as failure:
        made()
    assert "s3cret" not in str(failure.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "No such file"), (b"\n", "is empty"), (b"s\xffcret", "is not UTF-8")],
)
@pytest.mark.parametrize("name", ["ALF_CLIENT_SECRET_FILE", "ALF_PRIVATE_KEY_FILE"])
def test_a_file_of_no_use_is_named(
    made: Made,
    variables: Variables,
    tmp_path: Path,
    content: bytes | None,
    words: str,
    name: str,
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    variables(**{"ALF_CLIENT_SECRET": None, name: str(path)})
    with pytest.raises(ValueError, match=words) as failure:
        made()
    assert name in str(failure.value)
    # A path that leads nowhere may be the secret itself.
    assert (str(path) in str(failure.value)) == path.exists()


def test_an_encrypted_key_with_its_certificate(
    made: Made, variables: Variables, tokens: TokenServer, tmp_path: Path
) -> None:
    jwt = pytest.importorskip("jwt")
    leaf = trustme.CA().issue_cert("client.example.com")
    key = load_pem_private_key(leaf.private_key_pem.bytes(), None)
    encrypted = key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"s3cret")
    )
    (tmp_path / "key.pem").write_bytes(encrypted)
    leaf.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    variables(
        ALF_CLIENT_SECRET=None,
        ALF_PRIVATE_KEY_FILE=str(tmp_path / "key.pem"),
        ALF_PRIVATE_KEY_CERTIFICATE=str(tmp_path / "cert.pem"),
        ALF_PRIVATE_KEY_PASSWORD="s3cret",
    )
    made().renew_token()
    header = jwt.get_unverified_header(tokens.requests[0].form["client_assertion"])
    assert {"x5t", "x5t#S256"} < header.keys()
    for password, words in ((None, "encrypted: give its password="), ("x", "password= is wrong")):
        variables(ALF_PRIVATE_KEY_PASSWORD=password)
        with pytest.raises(ValueError, match=f"ALF_PRIVATE_KEY_FILE: key: .*{words}"):
            made()


def test_a_key_in_a_binary_form_is_named(made: Made, variables: Variables, tmp_path: Path) -> None:
    pytest.importorskip("jwt")
    leaf = trustme.CA().issue_cert("client.example.com")
    key = load_pem_private_key(leaf.private_key_pem.bytes(), None)
    path = tmp_path / "key.der"
    path.write_bytes(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
    variables(ALF_CLIENT_SECRET=None, ALF_PRIVATE_KEY_FILE=str(path))
    with pytest.raises(ValueError, match=f"ALF_PRIVATE_KEY_FILE: key: .*{path}.* holds DER"):
        made()


def test_a_key_that_is_none(made: Made, variables: Variables, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_text("s3cret")
    variables(ALF_CLIENT_SECRET=None, ALF_PRIVATE_KEY_FILE=str(path))
    with pytest.raises(ValueError, match="ALF_PRIVATE_KEY_FILE: ") as failure:
        made()
    assert "s3cret" not in str(failure.value)


def test_an_argument_that_nobody_knows(made: Made) -> None:
    with pytest.raises(TypeError, match="token_hots"):
        made(token_hots=["api.example.com"])
