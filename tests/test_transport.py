"""The session that token requests go over."""

from __future__ import annotations

import gc
import gzip
import io
import json
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from http.client import BadStatusLine
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
import trustme
from requests.adapters import HTTPAdapter
from urllib3.exceptions import InvalidHeader, LocationParseError, ReadTimeoutError
from urllib3.exceptions import SSLError as TLSError
from urllib3.util.retry import Retry

from alf import Client, TokenError
from alf.client_auth import PrivateKeyJWT
from tests.servers import Api, RawServer, Reply, Request, TokenServer, TurnedClock, running
from tests.test_client_auth import EC_KEY

MakeClient = Callable[..., Client]


# -- cookies -----------------------------------------------------------------------------------


def set_cookie(tokens: TokenServer) -> Reply:
    return Reply(200, tokens.granted().body, {"Set-Cookie": "gateway=stale; Path=/"})


def test_no_cookie_goes_from_one_token_request_to_the_next(
    client: Client, tokens: TokenServer
) -> None:
    tokens.script = lambda request: set_cookie(tokens)
    client.renew_token()
    client.renew_token()
    assert [request.headers["Cookie"] for request in tokens.requests] == [None, None]


def test_a_session_that_was_handed_in_keeps_its_own_cookies_and_gets_no_others(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    tokens.script = lambda request: set_cookie(tokens)
    with requests.Session() as session:
        session.cookies.set("tenant", "acme")
        client = make_client(token_session=session)
        client.renew_token()
        client.renew_token()
        assert [r.headers["Cookie"] for r in tokens.requests] == ["tenant=acme"] * 2
        assert list(session.cookies.keys()) == ["tenant"]


def test_cookies_of_an_error_are_not_kept_either(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    tokens.replies = [Reply(403, b"", {"Set-Cookie": "gateway=stale"})]
    client = make_client()
    with pytest.raises(TokenError):
        client.renew_token()
    client.renew_token()
    assert tokens.requests[1].headers["Cookie"] is None


# -- connections -------------------------------------------------------------------------------


def test_a_connection_is_not_used_again_after_the_machine_has_slept(
    make_client: MakeClient, tokens: TokenServer, clock: TurnedClock
) -> None:
    client = make_client(clock=clock)
    client.renew_token()
    clock.turn_wall(8 * 3600)
    client.renew_token()
    clock.turn_wall(-8 * 3600)
    client.renew_token()
    assert [request.connection for request in tokens.requests] == [1, 2, 2]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("verify", False),
        ("trust_env", False),
        ("proxies", {"http://other.example.com": "http://p"}),
    ],
)
def test_a_setting_of_the_client_that_changes_opens_the_connection_anew(
    client: Client, tokens: TokenServer, name: str, value: Any
) -> None:
    client.renew_token()
    client.renew_token()
    setattr(client, name, value)
    client.renew_token()
    client.renew_token()
    assert [request.connection for request in tokens.requests] == [1, 1, 2, 2]


def test_proxies_that_change_in_place_open_the_connection_anew(
    client: Client, tokens: TokenServer
) -> None:
    client.renew_token()
    client.proxies["http://other.example.com"] = "http://proxy.example.com"
    client.renew_token()
    assert [request.connection for request in tokens.requests] == [1, 2]


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_tokens(authority: trustme.CA) -> Iterator[TokenServer]:
    with running(TokenServer()) as server:
        server.use_tls(authority.issue_cert("127.0.0.1"), clients=authority)
        yield server


def test_a_certificate_that_changes_is_shown_at_once(
    make_client: MakeClient, tls_tokens: TokenServer, authority: trustme.CA, tmp_path: Path
) -> None:
    bundle = str(tmp_path / "ca.pem")
    authority.cert_pem.write_to_path(bundle)
    client = make_client(token_endpoint=tls_tokens.endpoint)
    client.verify = bundle
    for name in ("first.example.com", "second.example.com"):
        path = str(tmp_path / name)
        authority.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(path)
        client.cert = path
        client.renew_token()
        assert tls_tokens.requests[-1].certificate == name


def test_verify_of_the_client_wins_over_the_environment(
    make_client: MakeClient,
    tls_tokens: TokenServer,
    authority: trustme.CA,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle, other = str(tmp_path / "ca.pem"), str(tmp_path / "other.pem")
    authority.cert_pem.write_to_path(bundle)
    trustme.CA().cert_pem.write_to_path(other)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", other)
    client = make_client(token_endpoint=tls_tokens.endpoint)
    with pytest.raises(requests.exceptions.SSLError):
        client.renew_token()
    client.verify = bundle
    client.renew_token()


@pytest.mark.parametrize("key", ["http", "all", "http://id.example.com"])
def test_proxies_of_the_client_win_over_the_environment(
    make_client: MakeClient, tokens: TokenServer, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    client = make_client(token_endpoint="http://id.example.com/token")
    client.proxies = {key: tokens.url}
    client.renew_token()
    assert tokens.requests[0].path == "http://id.example.com/token"


# -- sessions of other kinds -------------------------------------------------------------------


def test_the_token_request_goes_over_a_session_of_requests_itself(
    make_client: MakeClient, tokens: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Replaced(requests.Session):
        def send(self, request: Any, **kwargs: Any) -> requests.Response:
            raise AssertionError

    monkeypatch.setattr(requests, "Session", Replaced)
    monkeypatch.setattr(requests.sessions, "Session", Replaced)
    assert make_client().ensure_token().access_token == "token-1"


def test_a_session_with_an_http_cache_requests_each_token(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    requests_cache = pytest.importorskip("requests_cache")
    with requests_cache.CachedSession(
        backend="memory", allowable_methods=["GET", "POST"]
    ) as session:
        client = make_client(token_session=session)
        assert client.renew_token().access_token == "token-1"
        assert client.renew_token().access_token == "token-2"
        assert not list(session.cache.responses)


class UnhashableResponse(requests.Response):
    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = None  # type: ignore[assignment]


def unhashable(response: requests.Response) -> requests.Response:
    response.__class__ = UnhashableResponse
    return response


def consumed(response: requests.Response) -> requests.Response:
    assert response.content
    return response


def handmade(response: requests.Response) -> requests.Response:
    made = requests.Response()
    made.status_code = response.status_code
    made._content = response.content
    made.request = response.request
    return made


def file_like(response: requests.Response) -> requests.Response:
    made = requests.Response()
    made.status_code = response.status_code
    made.raw = io.BytesIO(response.content)
    made.request = response.request
    return made


@pytest.mark.parametrize("change", [unhashable, consumed, handmade, file_like])
@pytest.mark.parametrize("status", [200, 400])
def test_responses_of_every_make_will_do(
    make_client: MakeClient, tokens: TokenServer, change: Any, status: int
) -> None:
    class Other(requests.Session):
        def send(self, request: Any, **kwargs: Any) -> requests.Response:
            return change(super().send(request, **kwargs))

    tokens.replies = [Reply(status, {"access_token": "token-x", "error": "odd"})]
    if status == 200:
        tokens.replies = [Reply(200, {"access_token": "token-x"})]
    with Other() as session:
        client = make_client(token_session=session)
        if status == 200:
            assert client.renew_token().access_token == "token-x"
            return
        with pytest.raises(TokenError) as failure:
            client.renew_token()
        assert failure.value.error == "odd"
        assert type(failure.value.response) is requests.Response


def test_a_response_without_anything_to_read_holds_no_token(make_client: MakeClient) -> None:
    class Empty(requests.Session):
        def send(self, request: Any, **kwargs: Any) -> requests.Response:
            response = requests.Response()
            response.status_code = 200
            response.request = request
            return response

    with Empty() as session, pytest.raises(TokenError, match="0 bytes"):
        make_client(token_session=session).renew_token()


def test_a_hook_may_keep_the_response_to_read_it_later(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    kept: list[requests.Response] = []
    with requests.Session() as session:
        session.hooks["response"].append(lambda response, **_: kept.append(response))
        make_client(token_session=session).renew_token()
    assert kept[0].json()["access_token"] == "token-1"


def test_what_a_hook_of_the_users_own_session_raises_is_passed_on(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    class OddError(ValueError):
        pass

    def fail(response: requests.Response, **_: Any) -> None:
        raise OddError

    with requests.Session() as session:
        session.hooks["response"].append(fail)
        with pytest.raises(OddError):
            make_client(token_session=session).renew_token()


@pytest.mark.parametrize(
    ("error", "family"),
    [
        (ValueError(), requests.exceptions.ConnectionError),
        (TypeError(), requests.exceptions.ConnectionError),
        (BadStatusLine("x"), requests.exceptions.ConnectionError),
        (LocationParseError("x"), requests.exceptions.InvalidURL),
        (UnicodeError(), requests.exceptions.InvalidURL),
        (InvalidHeader(), requests.exceptions.InvalidHeader),
        (TLSError(), requests.exceptions.SSLError),
        (ReadTimeoutError(None, "", "slow"), requests.exceptions.ReadTimeout),
        (OSError("no such CA bundle"), OSError),
    ],
)
def test_what_an_adapter_breaks_with_is_of_requests_family(
    make_client: MakeClient, error: Exception, family: type[Exception]
) -> None:
    class Breaking(HTTPAdapter):
        def send(self, *args: Any, **kwargs: Any) -> requests.Response:
            raise error

    with requests.Session() as session:
        session.mount("http://", Breaking())
        with pytest.raises(family) as failure:
            make_client(token_session=session).renew_token()
    assert type(failure.value) is family


def test_an_assertion_is_another_one_each_time_that_an_adapter_sends_it(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    tokens.replies = [Reply(503), Reply(503)]
    retry = Retry(total=3, status_forcelist=[503], allowed_methods=None)
    with requests.Session() as session:
        session.mount("http://", HTTPAdapter(max_retries=retry))
        client = make_client(
            client_auth=PrivateKeyJWT(key=EC_KEY), client_secret=None, token_session=session
        )
        assert client.renew_token().access_token == "token-1"
    assertions = [request.form["client_assertion"] for request in tokens.requests]
    claims = [
        jwt.decode(text, EC_KEY.public_key(), ["ES256"], audience=tokens.endpoint)
        for text in assertions
    ]
    assert len({claim["jti"] for claim in claims}) == len(claims) == 3


# -- answers -----------------------------------------------------------------------------------


def test_an_answer_is_requested_as_it_is(client: Client, tokens: TokenServer) -> None:
    client.renew_token()
    assert tokens.requests[0].headers["Accept-Encoding"] == "identity"


def deflate_without_header(body: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


@pytest.mark.parametrize(
    ("coding", "encode"),
    [
        ("gzip", gzip.compress),
        ("X-Gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", deflate_without_header),
        ("identity", bytes),
        ("identity, gzip", gzip.compress),
    ],
)
def test_an_answer_that_is_encoded_all_the_same_is_decoded(
    client: Client, tokens: TokenServer, coding: str, encode: Any
) -> None:
    body = encode(json.dumps({"access_token": "token-x"}).encode())
    tokens.replies = [Reply(200, body, {"Content-Encoding": coding})]
    assert client.renew_token().access_token == "token-x"


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip, gzip", gzip.compress(gzip.compress(b"{}"))),
        ("br", b"{}"),
        ("gzip", b"{}"),
        ("deflate", b"{}"),
    ],
)
def test_what_cannot_be_decoded_is_an_error(
    client: Client, tokens: TokenServer, coding: str, body: bytes
) -> None:
    tokens.replies = [Reply(200, body, {"Content-Encoding": coding})]
    with pytest.raises(requests.exceptions.ContentDecodingError, match="decoded"):
        client.renew_token()


@pytest.mark.parametrize(
    "reply",
    [
        lambda _request: Reply(
            200, gzip.compress(b" " * 200_000_000, 9), {"Content-Encoding": "gzip"}
        ),
        lambda _request: Reply(
            200,
            b"1\r\n \r\n" * 256 * 1024 + b"0\r\n\r\n",
            {"Transfer-Encoding": "chunked", "Content-Length": ""},
        ),
    ],
)
def test_an_answer_takes_little_memory(
    client: Client, tokens: TokenServer, reply: Callable[[Request], Reply]
) -> None:
    answer = reply(Request("POST", "/", tokens.requests, b"", 1))  # type: ignore[arg-type]
    tokens.replies = [answer]
    tracemalloc.start()
    try:
        with pytest.raises((TokenError, requests.exceptions.Timeout)):
            client.renew_token()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * 1024 * 1024


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabcdef",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nabcdef",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabcdef",
        b"HTTP/1.1 99999999999999999999 OK\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Type: \xff;charset=\0\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: \xff\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nSet-Cookie: \xff=\xff; expires=junk\r\n\r\n{}",
        b"HTTP/1.1 302 Found\r\nLocation: \xff\xfe\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"",
    ],
)
@pytest.mark.parametrize("is_handed_in", [False, True])
# urllib3 leaves the socket of two Content-Lengths to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_is_not_proper_http_is_an_error_of_requests_family(
    make_client: MakeClient, answer: bytes, is_handed_in: bool
) -> None:
    with running(RawServer()) as server, requests.Session() as session:
        server.answer = answer
        given = {"token_session": session} if is_handed_in else {}
        with pytest.raises(requests.exceptions.RequestException):
            make_client(token_endpoint=server.url, **given).renew_token()
    gc.collect()


@pytest.mark.parametrize("host", ["a" * 64 + ".example.com", "a..example.com", "ä" * 64])
@pytest.mark.parametrize("is_handed_in", [False, True])
def test_a_host_with_an_impossible_label_is_an_invalid_url(
    make_client: MakeClient, host: str, is_handed_in: bool
) -> None:
    with requests.Session() as session:
        given = {"token_session": session} if is_handed_in else {}
        client = make_client(token_endpoint=f"http://{host}/token", **given)
        with pytest.raises(requests.exceptions.InvalidURL):
            client.renew_token()


# -- retries -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_number_of_retries_is_for_a_server_in_trouble_too(
    make_client: MakeClient, tokens: TokenServer, api: Api, status: int
) -> None:
    tokens.replies = [Reply(status)]
    assert make_client(token_retry=1).get(api.url).status_code == 200
    assert len(tokens.requests) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 501])
def test_what_a_retry_would_not_help_is_not_retried(
    make_client: MakeClient, tokens: TokenServer, api: Api, status: int
) -> None:
    tokens.script = lambda _request: Reply(status)
    assert make_client(token_retry=3).get(api.url).status_code == status
    assert len(tokens.requests) == 1


def test_a_retry_object_means_what_it_says(
    make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    tokens.replies = [Reply(503)]
    assert make_client(token_retry=Retry(3)).get(api.url).status_code == 503
    assert len(tokens.requests) == 1


def test_without_retries_there_is_one_request(
    client: Client, tokens: TokenServer, api: Api
) -> None:
    tokens.replies = [Reply(503)]
    assert client.get(api.url).status_code == 503
    assert len(tokens.requests) == 1


def test_retries_end_after_five_minutes(
    make_client: MakeClient, tokens: TokenServer, api: Api, clock: TurnedClock
) -> None:
    class Turning(Retry):
        def sleep(self, response: Any = None) -> None:
            clock.turn(60)

    tokens.script = lambda _request: Reply(503, b"", {"Retry-After": "60"})
    client = make_client(token_retry=Turning(100, status_forcelist=[503]), clock=clock)
    assert client.get(api.url).status_code == 503
    assert len(tokens.requests) == 6
