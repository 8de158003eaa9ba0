"""White space and control characters in what people paste, as the token endpoint sees it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alf import Client, TokenError
from tests.servers import Reply, TokenServer

MakeClient = Callable[..., Client]

INVALID_CLIENT = Reply(401, {"error": "invalid_client"})


def sent_secret(tokens: TokenServer) -> str:
    return tokens.requests[-1].form["client_secret"]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_blanks_around_urls_and_client_id_are_stripped(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    client = make_client(
        token_endpoint=f"\t{tokens.endpoint} \n",
        client_id=" client-id\r\n",
        client_auth="client_secret_post",
        revocation_endpoint=f" {tokens.url}/revoke\n",
    )
    client.renew_token()
    client.revoke_token()
    assert tokens.requests[0].form["client_id"] == "client-id"
    assert tokens.requests[0].path == "/token"
    assert tokens.requests[1].path == "/revoke"


def test_blanks_around_an_issuer_are_stripped(make_client: MakeClient, tokens: TokenServer) -> None:
    metadata = {"issuer": tokens.url, "token_endpoint": tokens.endpoint}
    tokens.replies = [Reply(200, metadata)]
    make_client(token_endpoint=None, issuer=f" {tokens.url}\n").renew_token()
    assert tokens.requests[1].path == "/token"


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("s3cret\n", "s3cret"),
        ("s3cret\r\n", "s3cret"),
        ("s3cret\r", "s3cret"),
        ("s3cret\n\n", "s3cret\n"),
        ("s3cret \n", "s3cret "),
        (" s3cret", " s3cret"),
        ("s3cret\t", "s3cret\t"),
        ("s3 cr\u00e9t", "s3 cr\u00e9t"),
    ],
)
def test_one_line_break_at_the_end_of_a_secret_is_removed(
    make_client: MakeClient,
    tokens: TokenServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    given: str,
    sent: str,
) -> None:
    auth = {"client_auth": "client_secret_post"}
    make_client(client_secret=lambda: given, **auth).renew_token()
    assert sent_secret(tokens) == sent
    file = tmp_path / "secret"
    file.write_bytes(given.encode())
    monkeypatch.setenv("ALF_CLIENT_SECRET_FILE", str(file))
    with Client.from_env(token_endpoint=tokens.endpoint, client_id="client-id", **auth) as client:
        client.renew_token()
    if "\r" not in given:
        assert sent_secret(tokens) == sent
    assert not warnings(caplog)
    client = make_client(client_secret=given, **auth)
    client.renew_token()
    client.renew_token()
    assert sent_secret(tokens) == sent
    assert len(warnings(caplog)) == (given != sent)
    assert all("ends with a line break" in text for text in warnings(caplog))
    assert "s3cr" not in caplog.text


def test_a_file_may_begin_with_a_byte_order_mark(
    tokens: TokenServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"\xef\xbb\xbfs3cret\r\n")
    monkeypatch.setenv("ALF_CLIENT_SECRET_FILE", str(file))
    options = {"token_endpoint": tokens.endpoint, "client_id": "client-id"}
    with Client.from_env(client_auth="client_secret_post", **options) as client:
        client.renew_token()
    assert sent_secret(tokens) == "s3cret"


@pytest.mark.parametrize("secret", [" s3cret", "s3cret ", lambda: "s3cret\t"])
@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_blanks_around_a_refused_secret_are_named(
    make_client: MakeClient,
    tokens: TokenServer,
    caplog: pytest.LogCaptureFixture,
    secret: Any,
    method: str,
) -> None:
    client = make_client(client_secret=secret, client_auth=method)
    client.renew_token()
    assert not warnings(caplog)
    tokens.script = lambda _request: INVALID_CLIENT
    with pytest.raises(TokenError):
        client.renew_token()
    [warning] = [text for text in warnings(caplog) if "begins or ends with white space" in text]
    assert "client-id" in warning
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"client_secret": "s3c\nret"}, "client_secret must not contain control"),
        ({"client_secret": "s3c\x00ret"}, "client_secret must not contain control"),
        ({"client_secret": "s3c\x85ret"}, "client_secret must not contain control"),
        ({"client_secret": "s3cret\udcff"}, "client_secret must be text that UTF-8"),
        ({"client_secret": " \n"}, "client_secret must not be empty"),
        ({"client_id": "client\tid"}, "client_id must not contain control"),
        ({"client_id": "client\udc80"}, "client_id must be text that UTF-8"),
        ({"client_id": " "}, "client_id must not be empty"),
        ({"token_endpoint": "http://id.te\nst/token"}, "token_endpoint must be"),
        ({"token_endpoint": "http://id.test/\x00token"}, "token_endpoint must be"),
        ({"token_endpoint": "http://id.test/\udcff"}, "token_endpoint must be text that UTF-8"),
        ({"scope": "a\udcff"}, "scope must be text that UTF-8"),
        ({"audience": "a\udcff"}, "audience must be text that UTF-8"),
        ({"token_params": {"password": "s3cret\udcff"}}, "'password' of token_params must be"),
        ({"token_cert": "-----BEGIN CERTIFICATE-----\ns3cret"}, "path of a file"),
        ({"token_timeout": float("inf")}, "above 0 seconds and finite"),
        ({"token_timeout": (5, float("nan"))}, "above 0 seconds and finite"),
    ],
)
def test_what_no_request_can_carry_is_refused_before_any_call(
    make_client: MakeClient, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words) as failure:
        make_client(**options)
    assert "s3c" not in str(failure.value)


def test_a_callable_that_gives_control_characters_is_told_so_before_any_call(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    with pytest.raises(ValueError, match="client_secret of client_id 'client-id' must not") as e:
        make_client(client_secret=lambda: "s3c\nret").renew_token()
    assert "s3c" not in str(e.value)
    assert not tokens.requests


def test_the_audience_of_an_assertion_has_neither_userinfo_nor_query(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    jwt = pytest.importorskip("jwt")
    endpoint = f"http://me:pass@127.0.0.1:{tokens.port}/token?key=s3cret"
    client = make_client(
        token_endpoint=endpoint, client_auth="client_secret_jwt", client_secret="s" * 32
    )
    client.renew_token()
    assertion = tokens.requests[0].form["client_assertion"]
    claims = jwt.decode(assertion, options={"verify_signature": False})
    assert claims["aud"] == tokens.endpoint
