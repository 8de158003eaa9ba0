"""Nothing that a token request leaves behind shows a secret, and text from outside is tame."""

from __future__ import annotations

import base64
import contextlib
import traceback
from collections.abc import Callable
from typing import Any

import pytest
import requests

from alf import Client, TokenError
from tests.servers import Api, RawServer, Reply, Request, TokenServer, running

MakeClient = Callable[..., Client]


def sign(name: str, value: str) -> Callable[[Any], Any]:
    def add_header(request: Any) -> Any:
        request.headers[name] = value
        return request

    return add_header


def test_the_error_response_holds_no_secret(client: Client, tokens: TokenServer, api: Api) -> None:
    tokens.replies = [Reply(401, {"error": "invalid_client"})]
    request = client.get(api.url).request
    assert (request.method, request.url) == ("POST", tokens.endpoint)
    assert "Authorization" not in request.headers
    assert request.body is None


@pytest.mark.parametrize(
    "reply",
    [
        Reply(400, {"error": "x", "error_description": "a\nb\x1b[31m" + "c" * 9999}),
        Reply(200, b"<html>", {"Content-Type": "a/\x1b[31m\x85b" + "c" * 9999}),
    ],
)
def test_an_answer_cannot_forge_a_log_line(
    make_client: MakeClient, tokens: TokenServer, api: Api, reply: Reply
) -> None:
    tokens.replies = [reply]
    with pytest.raises(TokenError) as failure:
        make_client(raise_token_error=True).get(api.url)
    assert str(failure.value).isprintable()
    assert len(str(failure.value)) < 1000


@pytest.mark.parametrize(
    "options",
    [
        {"client_secret": "s3cr3t s3cr3t"},
        {"client_secret": "s3cr3t s3cr3t", "client_auth": "client_secret_post"},
        {"client_secret": None, "client_auth": sign("X-Key", "s3cr3t s3cr3t")},
        {"client_secret": None, "client_auth": sign("Authorization", "Basic s3cr3t-s3cr3t")},
        {"token_params": {"child_secret": "s3cr3t s3cr3t"}},
        {"token_headers": {"X-Api-Key": "s3cr3t-s3cr3t"}},
    ],
)
def test_what_a_gateway_cites_of_the_request_is_not_shown(
    make_client: MakeClient, tokens: TokenServer, api: Api, options: dict[str, Any]
) -> None:
    def cite(request: Request) -> Reply:
        sent = [*request.headers.values(), request.body.decode(), *request.form.values()]
        with contextlib.suppress(ValueError):
            sent.append(base64.b64decode(str(request.authorization)[6:]).decode())
        return Reply(403, {"error": "odd", "message": f"Not a valid key=value pair: {sent}"})

    tokens.script = cite
    client = make_client(raise_token_error=True, **options)
    with pytest.raises(TokenError, match="Not a valid key=value pair") as failure:
        client.get(api.url)
    shown = f"{failure.value} {failure.value.error_description}"
    assert "***" in shown
    assert "s3cr3t" not in shown
    assert base64.b64encode(b"client-id:")[:12].decode() not in shown
    # A word of the form is no secret, and neither is who we are.
    assert "client_credentials" in shown
    assert failure.value.error == "odd"


def test_no_exception_shows_userinfo_or_query_of_the_endpoint(
    make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    tokens.replies = [Reply(400), Reply(200)]
    endpoint = f"http://user:s3cr3t@127.0.0.1:{tokens.port}/token?key=s3cr3t"
    client = make_client(token_endpoint=endpoint, raise_token_error=True)
    for _ in range(2):
        with pytest.raises(TokenError) as failure:
            client.get(api.url)
        assert "s3cr3t" not in str(failure.value)
    tokens.stop()
    client.close()
    with pytest.raises(requests.exceptions.ConnectionError) as no_answer:
        client.get(api.url)
    assert f"port={tokens.port}): Max retries exceeded with url: /token (" in str(no_answer.value)
    assert "s3cr3t" not in "".join(traceback.format_exception(no_answer.value))


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (b'{"access_token": "token-x"}', "BadStatusLine"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\ntoken-x", "InvalidChunkLength"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\ntoken-x", "IncompleteRead"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\ntoken-x", "decode"),
    ],
)
def test_no_exception_shows_a_piece_of_a_broken_answer(
    make_client: MakeClient, api: Api, answer: bytes, what: str
) -> None:
    with running(RawServer()) as server:
        server.answer = answer
        with pytest.raises(requests.exceptions.RequestException, match=what) as failure:
            make_client(token_endpoint=server.url).get(api.url)
    assert "token-x" not in "".join(traceback.format_exception(failure.value))


@pytest.mark.parametrize(
    "client_auth", ["client_secret_basic", "client_secret_post", sign("X-Key", "top-secret")]
)
def test_a_connection_error_holds_no_secret(
    make_client: MakeClient, client_auth: Any, tokens: TokenServer
) -> None:
    secret = "top-secret" if isinstance(client_auth, str) else None
    client = make_client(
        client_auth=client_auth,
        client_secret=secret,
        token_headers={"X-Subscription": "top-secret"},
    )
    tokens.stop()
    with pytest.raises(requests.exceptions.ConnectionError) as failure:
        client.renew_token()
    request = failure.value.request
    assert request is not None
    assert (request.method, request.url) == ("POST", tokens.endpoint)
    assert request.body is None
    assert set(request.headers) <= {
        "Accept",
        "Accept-Encoding",
        "Connection",
        "Content-Length",
        "Content-Type",
        "User-Agent",
    }


def test_the_target_of_a_redirect_holds_no_secret(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    tokens.replies = [Reply(307, b"", {"Location": "/elsewhere"})]
    with pytest.raises(TokenError) as failure:
        make_client(client_auth="client_secret_post").renew_token()
    response = failure.value.response
    assert response is not None
    assert response.next is None
    assert response.request.body is None
