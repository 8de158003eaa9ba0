"""The token request and its answer, seen from a Client that needs a token."""

from __future__ import annotations

import base64
import datetime
import email.utils
import json
import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import trustme
import urllib3
from requests.packages.urllib3.util import Retry

from alf import Client, TokenError
from tests.servers import (
    Api,
    Reply,
    Request,
    Server,
    TokenServer,
    TurnedClock,
    hang_up,
    running,
)

MakeClient = Callable[..., Client]


def good(token: str = "token-x", **members: Any) -> Reply:
    return Reply(body={"access_token": token, "token_type": "Bearer", **members})


# -- the request -------------------------------------------------------------------------------


def test_the_token_request_is_the_one_of_rfc_6749(
    client: Client, tokens: TokenServer, api: Api
) -> None:
    client.headers["X-Api-Key"] = "for the API alone"
    client.cookies.set("session", "for-the-api-alone")
    client.params = {"page": "1"}
    client.hooks["response"].append(lambda response, **_: response.raise_for_status())
    client.get(api.url)
    [request] = tokens.requests
    assert (request.method, request.path) == ("POST", "/token")
    assert request.body == b"grant_type=client_credentials"
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert request.headers["Accept"] == "application/json"
    assert request.authorization is not None
    scheme, _, credentials = request.authorization.partition(" ")
    assert (scheme, base64.b64decode(credentials)) == ("Basic", b"client-id:top-secret")
    assert request.headers["X-Api-Key"] is None
    assert request.headers["Cookie"] is None


def test_the_endpoints_own_query_is_kept(
    make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    make_client(token_endpoint=f"{tokens.endpoint}?tenant=a%20b").get(api.url)
    assert tokens.requests[0].path == "/token?tenant=a%20b"


def test_cookies_of_the_endpoint_do_not_reach_the_api(
    client: Client, tokens: TokenServer, api: Api
) -> None:
    tokens.replies = [Reply(200, tokens.granted().body, {"Set-Cookie": "idp=1"})]
    client.get(api.url)
    assert api.requests[0].headers["Cookie"] is None
    assert not client.cookies


def test_an_entry_of_netrc_does_not_replace_the_clients_credentials(
    client: Client,
    tokens: TokenServer,
    api: Api,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    client.get(api.url)
    assert tokens.requests[0].authorization == "Basic Y2xpZW50LWlkOnRvcC1zZWNyZXQ="
    assert api.requests[0].authorization == "Bearer token-1"


def test_a_session_of_the_users_own_is_asked_and_never_closed(
    make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    with requests.Session() as own:
        own.headers["X-Tenant"] = "acme"
        client = make_client(token_session=own)
        client.get(api.url)
        client.close()
        client.renew_token()
        assert [request.headers["X-Tenant"] for request in tokens.requests] == ["acme", "acme"]
        # Closed in between, it would have had to connect anew.
        assert {request.connection for request in tokens.requests} == {1}


@pytest.fixture
def tls_tokens(tls: trustme.CA) -> Iterator[TokenServer]:
    with running(TokenServer()) as server:
        server.use_tls(tls.issue_cert("127.0.0.1"))
        yield server


@pytest.fixture
def tls() -> trustme.CA:
    return trustme.CA()


def test_the_token_call_follows_verify_of_the_client(
    make_client: MakeClient, tls_tokens: TokenServer, api: Api, tls: trustme.CA, tmp_path: Any
) -> None:
    client = make_client(token_endpoint=tls_tokens.endpoint)
    with pytest.raises(requests.exceptions.SSLError):
        client.get(api.url)
    bundle = tmp_path / "ca.pem"
    tls.cert_pem.write_to_path(str(bundle))
    client.verify = str(bundle)
    api.tokens = tls_tokens
    assert client.get(api.url).status_code == 200
    assert len(tls_tokens.requests) == 1


def test_the_token_call_follows_proxies_of_the_client(
    make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    client = make_client(token_endpoint="http://id.example.com/token")
    client.proxies = {"http://id.example.com": tokens.url}
    assert client.get(api.url).status_code == 200
    assert tokens.requests[0].path == "http://id.example.com/token"


def test_the_token_call_follows_trust_env_of_the_client(
    make_client: MakeClient, tokens: TokenServer, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    client = make_client()
    with pytest.raises(requests.exceptions.ProxyError):
        client.get(api.url)
    client.trust_env = False
    assert client.get(api.url).status_code == 200


@pytest.mark.parametrize(
    "options",
    [
        {"token_timeout": 0.05},
        {"token_timeout": (5, 0.05)},
        {"token_request_params": {"timeout": 0.05}},
    ],
)
def test_the_token_request_has_a_timeout_of_its_own(
    make_client: MakeClient, tokens: TokenServer, api: Api, options: dict[str, Any]
) -> None:
    is_over = threading.Event()

    def slow(_request: Request) -> Reply:
        is_over.wait(10)
        return good()

    tokens.replies = [slow]
    with pytest.raises(requests.exceptions.ReadTimeout):
        make_client(**options).get(api.url, timeout=60)
    is_over.set()
    assert not api.requests


# -- what it can end as ------------------------------------------------------------------------

OAUTH_ERROR = {"error": "invalid_client", "error_description": "who are you?"}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503])
def test_an_error_response_is_what_the_caller_gets(
    client: Client, tokens: TokenServer, api: Api, status: int
) -> None:
    tokens.replies = [Reply(status, OAUTH_ERROR)]
    response = client.post(api.url, data="precious")
    assert (response.status_code, response.json()) == (status, OAUTH_ERROR)
    assert response.url == tokens.endpoint
    assert not api.requests
    with pytest.raises(requests.exceptions.HTTPError):
        response.raise_for_status()


def test_the_error_response_can_be_pickled(
    make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    tokens.replies = [Reply(503, {"error": "temporarily_unavailable"})]
    with pytest.raises(TokenError) as failure:
        make_client(raise_token_error=True).get(api.url)
    pickled = pickle.dumps([failure.value, failure.value.response])
    assert b"top-secret" not in pickled
    error, response = pickle.loads(pickled)
    assert str(error) == str(failure.value)
    assert response.json() == {"error": "temporarily_unavailable"}


def test_the_error_response_can_be_raised_instead(
    make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    tokens.replies = [Reply(401, OAUTH_ERROR)]
    with pytest.raises(TokenError) as failure:
        make_client(raise_token_error=True).get(api.url)
    error = failure.value
    assert (error.error, error.error_description) == ("invalid_client", "who are you?")
    assert str(error) == (
        f"token endpoint {tokens.endpoint} (client_id 'client-id') answered "
        "401 invalid_client (who are you?)"
    )
    assert error.response is not None
    assert error.response.status_code == 401
    assert not api.requests


@pytest.mark.parametrize(
    ("body", "code", "description"),
    [
        ({"error": "invalid_scope"}, "invalid_scope", None),
        ({"errorCode": "E1", "errorSummary": "no"}, "E1", "no"),
        ({"ErrorCode": "invalid_client", "Error": "no"}, "invalid_client", "no"),
        ({"status": 400, "message": "invalid client"}, None, "invalid client"),
        ({"errors": [{"code": "NOT.AUTHORIZED", "message": "no"}]}, "NOT.AUTHORIZED", "no"),
        ({"response": {"errors": [{"code": "10429", "message": "slow"}]}}, "10429", "slow"),
        ({"fault": {"faultstring": "x", "detail": {"errorcode": "oauth.x"}}}, "oauth.x", "x"),
        ({"error": {"status": 400, "message": "no"}}, None, "no"),
        ({"status_code": 401, "error_type": "t", "error_message": "m"}, "t", "m"),
        ({"name": "RATE_LIMIT_REACHED", "message": "m"}, "RATE_LIMIT_REACHED", "m"),
        ({"errors": []}, None, None),
        ({"error": 7, "error_description": ["x"]}, None, None),
        (["invalid_client"], None, None),
        (b"<html>Service unavailable</html>", None, None),
        (b"", None, None),
        (b"\xff\xfe\x00", None, None),
    ],
)
def test_every_known_shape_of_an_error(
    make_client: MakeClient,
    tokens: TokenServer,
    api: Api,
    body: Any,
    code: str | None,
    description: str | None,
) -> None:
    """Whatever the status is: some gateways answer 200."""
    client = make_client(raise_token_error=True)
    for status in (400, 200):
        tokens.replies = [Reply(status, body)]
        with pytest.raises(TokenError) as failure:
            client.get(api.url)
        assert (failure.value.error, failure.value.error_description) == (code, description)


@pytest.mark.parametrize("code", ["0", "200", "ok"])
def test_a_token_with_a_code_of_success_is_a_token(
    client: Client, tokens: TokenServer, code: str
) -> None:
    tokens.members = {"code": code, "message": "success", "errors": []}
    assert client.renew_token().access_token == "token-1"


@pytest.mark.parametrize("status", [200, 201])
def test_any_2xx_with_a_token_will_do(
    client: Client, tokens: TokenServer, api: Api, status: int
) -> None:
    tokens.replies = [Reply(status, tokens.granted().body)]
    assert client.get(api.url).status_code == 200


@pytest.mark.parametrize("content_type", ["text/plain", "text/html; charset=utf-8", "a/b", ""])
def test_json_is_json_under_any_content_type(
    client: Client, tokens: TokenServer, api: Api, content_type: str
) -> None:
    tokens.replies = [Reply(200, tokens.granted().body, {"Content-Type": content_type})]
    assert client.get(api.url).status_code == 200


FORM = "access_token=abc&expires_in=60&token_type=bearer"


@pytest.mark.parametrize(
    "content_type",
    [
        "application/x-www-form-urlencoded",
        "Application/X-WWW-Form-Urlencoded;a=b",
        "text/plain",
        "",
    ],
)
def test_an_answer_that_is_a_form(client: Client, tokens: TokenServer, content_type: str) -> None:
    tokens.replies = [Reply(200, FORM, {"Content-Type": content_type})]
    token = client.renew_token()
    assert (token.access_token, token.lifetime) == ("abc", 60.0)


def test_json_under_the_label_of_a_form(client: Client, tokens: TokenServer) -> None:
    label = {"Content-Type": "application/x-www-form-urlencoded"}
    tokens.replies = [Reply(200, {"access_token": "abc", "url": "?access_token=x&y=z"}, label)]
    assert client.renew_token().access_token == "abc"


@pytest.mark.parametrize(
    ("content_type", "what"),
    [
        ("text/plain", "21 bytes of text/plain that are not JSON"),
        ("text/html", "21 bytes of text/html that are not JSON"),
        ("application/x-www-form-urlencoded", "has no access_token"),
    ],
)
def test_text_that_only_looks_like_a_form(
    client: Client, tokens: TokenServer, content_type: str, what: str
) -> None:
    tokens.replies = [Reply(200, "Welcome, user=7&lang=", {"Content-Type": content_type})]
    with pytest.raises(TokenError, match=what):
        client.renew_token()


@pytest.mark.parametrize(
    ("encoding", "content_type"),
    [
        ("iso-8859-1", "application/json;charset=ISO-8859-1"),
        ("cp1252", 'application/json; charset="windows-1252"'),
        ("shift_jis", "text/json; charset=Shift_JIS"),
        ("utf-8-sig", "application/json"),
        ("utf-8-sig", "application/json; charset=utf-8"),
        ("utf-16", "application/json"),
        ("utf-16-be", "application/json"),
        ("utf-16-le", "application/json; charset=utf-16"),
        ("utf-16-be", "application/json; charset=utf-16"),
        ("utf-32", "text/plain; charset=utf-8"),
        ("utf-32-le", ""),
        ("utf-8", "application/json; charset=klingon"),
        ("utf-8", "application/json; charset=hex"),
        ("utf-8", "application/json; charset=punycode"),
        ("utf-8", "application/json; charset*=x''y"),
        ("utf-8", "application/json; charset=utf-16"),
        ("iso-8859-1", "application/json; charset=utf-8"),
        ("iso-8859-1", "application/json"),
    ],
)
def test_json_in_any_charset(
    make_client: MakeClient, tokens: TokenServer, encoding: str, content_type: str
) -> None:
    label = {"Content-Type": content_type}
    name = "ソ" if encoding == "shift_jis" else "Société"

    def reply(status: int, **members: str) -> Reply:
        body = json.dumps({**members, "organization": name}, ensure_ascii=False)
        return Reply(status, body.encode(encoding), label)

    client = make_client(raise_token_error=True)
    tokens.replies = [reply(200, access_token="abc"), reply(400, error="invalid_scope")]
    token = client.renew_token()
    assert token.access_token == "abc"
    is_told = encoding != "iso-8859-1" or "8859" in content_type
    assert token.extra["organization"] == (name if is_told else "Soci\ufffdt\ufffd")
    with pytest.raises(TokenError) as failure:
        client.renew_token()
    assert failure.value.error == "invalid_scope"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(200, b"<html>hi</html>", {"Content-Type": "text/html"}), "15 bytes of text/html"),
        (Reply(200, b""), "0 bytes of application/json that are not JSON"),
        (Reply(200, b"x", {"Content-Type": ""}), "1 bytes of no content type"),
        (Reply(200, b"[" * 100_000), "not JSON"),
        (Reply(200, ["abc"]), "a JSON list"),
        (Reply(200, b'"abc"'), "a JSON str"),
        (Reply(200, b"null"), "a JSON NoneType"),
        (Reply(200, {}), "has no access_token"),
        (Reply(204), "204"),
        (Reply(200, {"access_token": ""}), "visible ASCII"),
        (Reply(200, {"access_token": "a\r\nX-Evil: 1"}), "visible ASCII"),
        (Reply(200, {"access_token": "a", "token_type": "mac"}), "token_type 'mac'"),
        (Reply(200, {"access_token": "a", "token_type": "DPoP"}), "token_type 'dpop'"),
        (Reply(200, {"error": "invalid_client"}), "200 invalid_client"),
        (Reply(302, b"", {"Location": "https://login.example.com/x?y"}), "login.example.com/x'"),
        (Reply(307, b"", {"Location": "/elsewhere"}), "redirect"),
        (Reply(302, b"", {"Location": "http://[::1"}), "a redirect to 'http://[::1'"),
        (Reply(302, b"", {"Location": "http://a:s3cr3t@b/c?d"}), "a redirect to 'http://b/c'"),
        (Reply(302, b"", {"Location": "http://a/\x85"}), "a redirect to 'http://a/ '"),
        (Reply(304), "304: expected a 200"),
    ],
)
def test_what_is_no_usable_token_is_a_token_error(
    client: Client, tokens: TokenServer, api: Api, reply: Reply, reason: str
) -> None:
    tokens.replies = [reply]
    with pytest.raises(TokenError) as failure:
        client.get(api.url)
    assert reason in str(failure.value)
    assert tokens.endpoint in str(failure.value)
    assert failure.value.response is not None
    assert failure.value.response.status_code == reply.status
    assert not api.requests
    # Nothing of it is kept, and redirects were not followed.
    assert client.get(api.url).status_code == 200
    assert [request.path for request in tokens.requests] == ["/token", "/token"]


@pytest.mark.parametrize("head", [b"200 OK", b"302 Found\r\nLocation: /elsewhere"])
def test_no_more_than_a_mebibyte_of_an_answer_is_read(
    make_client: MakeClient, api: Api, head: bytes
) -> None:
    served = threading.Event()

    def flood(connection: socket.socket) -> None:
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 " + head + b"\r\nContent-Type: application/json\r\n\r\n")
            try:
                while True:
                    connection.sendall(b" " * 65536)
            except OSError:
                served.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=lambda: flood(listener.accept()[0]))
        thread.start()
        with pytest.raises(TokenError) as failure:
            make_client(token_endpoint=f"http://127.0.0.1:{port}/token").get(api.url)
        assert failure.value.response is not None
        assert len(failure.value.response.content) == 1024 * 1024
        assert served.wait(10), "the connection was left open"
        thread.join()


def test_no_server_at_all_is_requests_own_connection_error(
    make_client: MakeClient, api: Api
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(requests.exceptions.ConnectionError):
        make_client(token_endpoint=f"http://127.0.0.1:{port}/token").get(api.url)
    assert not api.requests


@pytest.mark.parametrize(
    ("requested", "granted", "missing"),
    [
        ("read write", "write read", None),
        ("read write", "read,write", None),
        ("read,write", "write read admin", None),
        ("read write", "read", "write"),
        ("write admin read", "read", "admin, write"),
        ("read,write", "read", "write"),
        (None, "read", None),
        ("read", None, None),
    ],
)
def test_a_scope_that_was_not_granted_is_named_once(
    make_client: MakeClient,
    tokens: TokenServer,
    caplog: pytest.LogCaptureFixture,
    requested: str | None,
    granted: str | None,
    missing: str | None,
) -> None:
    tokens.members = {"scope": granted}
    client = make_client(scope=requested)
    client.renew_token()
    client.renew_token()
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [text.partition(" without ")[2] for text in said] == ([missing] if missing else [])


# -- retries -----------------------------------------------------------------------------------


def test_six_requests_then_the_500(make_client: MakeClient, tokens: TokenServer, api: Api) -> None:
    tokens.script = lambda _request: Reply(500, {"error": "server_error"})
    retry = Retry(total=5, status_forcelist=[500], backoff_factor=0.003)
    response = make_client(token_retry=retry).get(api.url)
    assert (response.status_code, len(tokens.requests)) == (500, 6)
    assert not api.requests


@pytest.mark.parametrize("name", ["token_retry", "token_retries"])
def test_retries_that_help(
    make_client: MakeClient, tokens: TokenServer, api: Api, name: str
) -> None:
    tokens.replies = [Reply(500), Reply(500)]
    client = make_client(**{name: Retry(total=2, status_forcelist=[500])})
    assert client.get(api.url).status_code == 200
    assert len(tokens.requests) == 3


def test_a_number_of_retries_is_for_connections_that_break(
    make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    tokens.replies = [hang_up, hang_up]
    assert make_client(token_retry=2).get(api.url).status_code == 200
    assert len(tokens.requests) == 3


def test_an_answer_cut_short_is_tried_again(
    make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    tokens.replies = [
        Reply(200, b'{"access', {"Content-Length": "1000", "Connection": "close"}),
    ]
    assert make_client(token_retry=1).get(api.url).status_code == 200


def test_an_answer_cut_short_without_retries(client: Client, tokens: TokenServer, api: Api) -> None:
    tokens.replies = [
        Reply(200, b'{"access', {"Content-Length": "1000", "Connection": "close"}),
    ]
    with pytest.raises(requests.exceptions.RequestException):
        client.get(api.url)


def test_allowed_methods_that_were_given_are_respected(
    make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    tokens.replies = [Reply(500)]
    retry = Retry(total=5, status_forcelist=[500], allowed_methods=["GET"])
    assert make_client(token_retry=retry).get(api.url).status_code == 500
    assert len(tokens.requests) == 1


def test_the_users_retry_object_is_left_as_it_was(
    make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    retry = Retry(total=1, status_forcelist=[500])
    tokens.replies = [Reply(500)] * 3
    client = make_client(token_retry=retry)
    assert client.get(api.url).status_code == 500
    assert client.get(api.url).status_code == 200
    assert (retry.total, retry.history) == (1, ())
    assert retry.allowed_methods == Retry.DEFAULT_ALLOWED_METHODS


class SleptRetry(Retry):
    """A Retry that notes how long it would have slept."""

    slept: list[float]

    def new(self, **changes: Any) -> SleptRetry:
        retry: SleptRetry = super().new(**changes)
        retry.slept = self.slept
        return retry

    def sleep(self, response: urllib3.BaseHTTPResponse | None = None) -> None:
        header = None if response is None else response.headers.get("Retry-After")
        wait = self.get_backoff_time() if header is None else self.parse_retry_after(header)
        self.slept.append(wait)


def slept_retry(**settings: Any) -> SleptRetry:
    retry = SleptRetry(**settings)
    retry.slept = []
    return retry


def http_date(seconds: float) -> str:
    at = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    return email.utils.format_datetime(at, usegmt=True)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("retry_after", ["7", lambda: http_date(7)])
def test_retry_after_is_obeyed(
    make_client: MakeClient, tokens: TokenServer, api: Api, status: int, retry_after: Any
) -> None:
    value = retry_after if isinstance(retry_after, str) else retry_after()
    tokens.replies = [Reply(status, b"", {"Retry-After": value})]
    retry = slept_retry(total=1)
    assert make_client(token_retry=retry).get(api.url).status_code == 200
    [wait] = retry.slept
    assert 5 <= wait <= 7


def test_a_retry_after_that_is_too_long_is_the_callers_to_decide_on(
    make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    tokens.replies = [Reply(429, b"", {"Retry-After": "86400"})]
    retry = slept_retry(total=3, status_forcelist=[429])
    response = make_client(token_retry=retry).get(api.url)
    assert (response.status_code, response.headers["Retry-After"]) == (429, "86400")
    assert (len(tokens.requests), retry.slept) == (1, [])


@pytest.mark.parametrize(
    "value",
    [
        "in a while",
        "9" * 5000,
        "Fri, 31 Dec 99999 23:59:59 GMT",
        "Fri, 31 Dec 999999999999 23:59:59 GMT",
    ],
)
def test_a_retry_after_that_is_junk_is_none(
    make_client: MakeClient, tokens: TokenServer, api: Api, value: str
) -> None:
    tokens.replies = [Reply(503, b"", {"Retry-After": value})]
    retry = slept_retry(total=3, status_forcelist=[503], backoff_factor=2)
    assert make_client(token_retry=retry).get(api.url).status_code == 200
    assert len(retry.slept) == 1


def test_a_wrong_certificate_is_not_tried_again(
    make_client: MakeClient, tls_tokens: TokenServer, api: Api
) -> None:
    retry = slept_retry(total=5)
    client = make_client(token_endpoint=tls_tokens.endpoint, token_retry=retry)
    with pytest.raises(requests.exceptions.SSLError):
        client.get(api.url)
    assert retry.slept == []


def test_what_is_no_token_is_not_asked_for_again(
    make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    tokens.replies = [Reply(200, b"<html>")]
    with pytest.raises(TokenError):
        make_client(token_retry=Retry(total=5, status_forcelist=[500])).get(api.url)
    assert len(tokens.requests) == 1


# -- connections -------------------------------------------------------------------------------


def test_a_kept_alive_connection_that_died_is_replaced_whatever_the_retries(
    client: Client, tokens: TokenServer, api: Api
) -> None:
    client.get(api.url)

    tokens.replies = [hang_up]
    assert client.renew_token().access_token == "token-2"
    assert [request.connection for request in tokens.requests] == [1, 1, 2]


def test_a_new_connection_that_breaks_is_an_error(
    client: Client, tokens: TokenServer, api: Api
) -> None:
    tokens.replies = [hang_up]
    with pytest.raises(requests.exceptions.ConnectionError):
        client.get(api.url)
    assert len(tokens.requests) == 1


def test_a_connection_that_breaks_after_a_failure_is_an_error(
    client: Client, tokens: TokenServer
) -> None:
    client.renew_token()
    tokens.replies = [hang_up, hang_up, hang_up]
    with pytest.raises(requests.exceptions.ConnectionError):
        client.renew_token()
    assert len(tokens.requests) == 3
    with pytest.raises(requests.exceptions.ConnectionError):
        client.renew_token()
    assert len(tokens.requests) == 4


@pytest.mark.parametrize("reason", ["idle", "closed"])
def test_a_connection_that_breaks_after_the_last_was_closed_is_an_error(
    make_client: MakeClient, tokens: TokenServer, clock: TurnedClock, reason: str
) -> None:
    client = make_client(clock=clock)
    client.renew_token()
    if reason == "idle":
        clock.turn(61)
    else:
        client.close()
    tokens.replies = [hang_up]
    with pytest.raises(requests.exceptions.ConnectionError):
        client.renew_token()
    assert [request.connection for request in tokens.requests] == [1, 2]


def test_a_connection_that_was_idle_for_long_is_not_used_again(
    make_client: MakeClient, tokens: TokenServer, clock: Any
) -> None:
    client = make_client(clock=clock)
    client.renew_token()
    clock.turn(59)
    client.renew_token()
    clock.turn(61)
    client.renew_token()
    assert [request.connection for request in tokens.requests] == [1, 1, 2]


def test_a_token_server_may_speak_to_the_wire_in_pieces(make_client: MakeClient, api: Api) -> None:
    def chunked(_request: Request) -> Reply:
        body = json.dumps({"access_token": "token-c", "expires_in": 60}).encode()
        pieces = b"".join(b"%x\r\n%c\r\n" % (1, byte) for byte in body) + b"0\r\n\r\n"
        return Reply(200, pieces, {"Transfer-Encoding": "chunked", "Content-Length": ""})

    with running(Server(chunked)) as server:
        assert make_client(token_endpoint=server.url).ensure_token().access_token == "token-c"
