"""Nothing that a token request leaves behind shows a secret, and text from outside is tame."""

from __future__ import annotations

import base64
import contextlib
import html
import json
import random
import re
import traceback
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
import requests
from requests.auth import HTTPDigestAuth
from urllib3.connectionpool import ConnectionPool
from urllib3.exceptions import ProtocolError

from alf import BearerTokenAuth, Client, TokenError, TokenManager
from alf._redaction import redact_error, shown
from alf._urls import shown_url
from alf.client_auth import ClientAssertion, PrivateKeyJWT
from alf.dpop import DPoPKey
from tests.leaks import SHOWN
from tests.servers import Api, RawServer, Reply, Request, TokenServer, hang_up, running

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
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\ntoken-x", "IncompleteRead"),
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


ODD = "p\u00e4ss/w\u00f6rd & <k\"y'> 100%"


def quoted(text: str) -> str:
    return quote(text, safe="")


ESCAPES: dict[str, Callable[[str], str]] = {
    "plain": str,
    "lower case": str.lower,
    "HTML": html.escape,
    "HTML without quotes": lambda text: html.escape(text, quote=False),
    "HTML by number": lambda text: "".join(f"&#{ord(c)};" for c in text),
    "HTML by hexadecimal number": lambda text: "".join(f"&#X{ord(c):x};" for c in text),
    "JSON": json.dumps,
    "JSON as it is": lambda text: json.dumps(text, ensure_ascii=False),
    "JSON of PHP": lambda text: json.dumps(text).replace("/", "\\/"),
    "percent": quoted,
    "percent, lower case": lambda text: re.sub("%..", lambda m: m[0].lower(), quoted(text)),
    "percent, slashes kept": quote,
    "form": quote_plus,
    "percent, twice": lambda text: quoted(quoted(text)),
    "JSON in HTML": lambda text: html.escape(json.dumps(text)),
    "form in JSON": lambda text: json.dumps(quote_plus(text)),
    "Python": repr,
    "Python, ASCII": ascii,
    "Python, bytes": lambda text: repr(text.encode()),
    "Python, latin-1 bytes": lambda text: repr(text.encode("latin-1")),
    "C": lambda text: "".join(f"\\U{ord(c):08x}" for c in text),
}


@pytest.mark.parametrize("escape", ESCAPES.values(), ids=ESCAPES)
@pytest.mark.parametrize("secret", ["s3cr3t-s3cr3t", ODD])
def test_a_secret_is_found_however_a_gateway_escapes_it(
    make_client: MakeClient, tokens: TokenServer, secret: str, escape: Callable[[str], str]
) -> None:
    cited = escape(secret)
    client = make_client(client_secret=secret, client_auth="client_secret_post")
    tokens.replies = [Reply(400, {"error": "odd", "message": f"got {cited}, sorry"})]
    with pytest.raises(TokenError) as failure:
        client.renew_token()
    outside = "'\"b"
    description = (failure.value.error_description or "").replace(" ", "")
    assert description.strip(outside).startswith("got")
    rest = description.removeprefix("got").removesuffix(",sorry")
    assert rest.replace("&quot;", "").strip(outside) == "***"


def test_a_secret_is_found_however_escapes_are_combined() -> None:
    some = random.Random(1)
    ways = [
        lambda text: json.dumps(text)[1:-1],
        lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
        lambda text: repr(text)[1:-1],
        lambda text: repr(text.encode())[2:-1],
        html.escape,
        quote,
        quoted,
    ]
    for _ in range(2000):
        secret = "".join(some.choices("aZ0!$%&/()=?+*~#'\"\\<>;:,._- \u00e9\u20ac\U0001f600", k=10))
        cited = secret
        for way in some.choices(ways, k=3):
            cited = way(cited)
        assert shown(f"got {cited}!", [secret]) == "got ***!", (secret, cited)


def test_a_character_outside_the_basic_plane_is_found_in_a_pair_of_escapes() -> None:
    secret = "s3cr3t-\U0001f511-key"
    assert shown(f"got {json.dumps(secret)}", [secret]) == 'got "***"'
    assert shown("\\Uffffffff \\ud83d &bogus; %zz \\", [secret]) == (
        "\\Uffffffff \\ud83d &bogus; %zz \\"
    )


def test_four_layers_of_escapes_are_seen_through() -> None:
    cited = "s3cr3t/s3cr3t"
    for _ in range(4):
        cited = quoted(cited)
    assert shown(cited, ["s3cr3t/s3cr3t"]) == "***"
    assert shown(quoted(cited), ["s3cr3t/s3cr3t"]) == quoted(cited)


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("the secret pw7 is wrong", "the secret *** is wrong"),
        ("secret=pw7&x", "secret=***&x"),
        ("'pw7'", "'***'"),
        ("%70w7", "***"),
        ("pw77 or xpw7", "pw77 or xpw7"),
        ("", ""),
    ],
)
def test_a_short_secret_is_redacted_where_it_stands_alone(
    make_client: MakeClient, tokens: TokenServer, text: str, redacted: str
) -> None:
    client = make_client(client_secret="pw7", token_params={"zone": "is", "connection": "secret"})
    tokens.replies = [Reply(400, {"error": "odd", "message": f"{text}."})]
    with pytest.raises(TokenError) as failure:
        client.renew_token()
    assert failure.value.error_description == f"{redacted}."


def test_a_long_text_is_cut_without_showing_the_beginning_of_a_secret() -> None:
    secret = "s3cr3t-" * 100
    assert shown("x" * 299 + secret, [secret]) == "x" * 299 + "***"
    assert shown("x" * 300 + secret, [secret]) == "x" * 300
    assert shown(secret * 20, [secret]) == "***"
    assert shown("a" * 10**6) == "a" * 300


@pytest.mark.parametrize("place", ["query", "userinfo", "path", "header list"])
def test_a_key_elsewhere_in_the_request_is_redacted_too(
    make_client: MakeClient, tokens: TokenServer, place: str
) -> None:
    key = "Key-0123456789-Key-0123456789"
    options: dict[str, Any] = {
        "query": {"token_endpoint": f"{tokens.endpoint}?api={key}"},
        "userinfo": {"token_endpoint": f"http://me:{key}@127.0.0.1:{tokens.port}/token"},
        "path": {"token_endpoint": f"{tokens.url}/{key}/token"},
        "header list": {"token_headers": {"X-Signature": f'v=1, key="{key}"'}},
    }[place]
    tokens.replies = [Reply(403, {"message": f"key {key} is not known"})]
    client = make_client(**options)
    with pytest.raises(TokenError) as failure:
        client.renew_token()
    assert failure.value.error_description == "key *** is not known"
    response = failure.value.response
    assert response is not None
    with pytest.raises(requests.exceptions.HTTPError) as http_error:
        response.raise_for_status()
    for text in (str(failure.value), str(http_error.value), str(vars(response.request))):
        assert key not in text


@pytest.mark.parametrize(
    "target",
    [
        "/login/{}",
        "https://e.test/login;secret={}",
        "https://{}.e.test/",
        "app:{}",
        "//u:{}@e.test/x",
        "{}",
    ],
)
def test_the_target_of_a_redirect_is_shown_without_secrets(
    make_client: MakeClient, tokens: TokenServer, target: str
) -> None:
    tokens.replies = [Reply(302, b"", {"Location": target.format("s3cr3t-s3cr3t")})]
    client = make_client(client_secret="s3cr3t-s3cr3t")
    with pytest.raises(TokenError, match="a redirect to") as failure:
        client.renew_token()
    assert "s3cr3t" not in str(failure.value)


@pytest.mark.parametrize("value", ["s3cr3t\nX: y", "s3cr3t-\u20ac", b"s3cr3t\r"])
def test_a_header_that_cannot_be_sent_is_refused_without_its_value(
    make_client: MakeClient, tokens: TokenServer, value: Any
) -> None:
    client = make_client(client_secret=None, client_auth=sign("X-Key", value))
    with pytest.raises(requests.exceptions.InvalidHeader, match="'X-Key'") as failure:
        client.renew_token()
    assert "s3cr3t" not in "".join(traceback.format_exception(failure.value))
    assert "s3cr3t" not in "".join(everything_on(failure.value))
    assert not tokens.requests


def test_a_password_of_a_proxy_is_not_shown(make_client: MakeClient) -> None:
    for host in ("bad host:80", "127.0.0.1:1", "h[:8"):
        client = make_client()
        client.proxies = {"http": f"http://me:s3cr3t/@{host}"}
        with pytest.raises(requests.exceptions.RequestException) as failure:
            client.renew_token()
        assert "s3cr3t" not in "".join(traceback.format_exception(failure.value))
        assert "s3cr3t" not in "".join(everything_on(failure.value))


def is_error(value: object) -> bool:
    return isinstance(value, Exception)


def test_no_connection_hangs_off_an_exception(make_client: MakeClient) -> None:
    client = make_client(token_endpoint="http://127.0.0.1:1/")
    client.proxies = {"http": "http://me:s3cr3t@127.0.0.1:1"}
    with pytest.raises(requests.exceptions.ConnectionError) as failure:
        client.renew_token()
    causes: list[Any] = [failure.value]
    for cause in causes:
        causes += [one for one in (*cause.args, getattr(cause, "reason", None)) if is_error(one)]
    assert len(causes) > 3
    left = [value for cause in causes for value in vars(cause).values()]
    assert not [value for value in left if isinstance(value, (HTTPConnection, ConnectionPool))]


def everything_on(error: BaseException) -> Iterator[str]:
    """The text of what hangs off an exception, those before it and its response."""
    # The adapter, and what the server answered: that is as it came.
    left_out = ("connection", "_content")
    to_see: list[Any] = [error]
    seen: list[Any] = []
    while to_see:
        item = to_see.pop()
        if item is None or any(item is other for other in seen) or len(seen) > 2000:
            continue
        seen.append(item)
        yield repr(item)
        if isinstance(item, BaseException):
            to_see += [*item.args, item.__cause__, item.__context__]
            for frame, _ in traceback.walk_tb(item.__traceback__):
                if "/alf/" in frame.f_code.co_filename:
                    # As error reporters show them.
                    yield from map(repr, frame.f_locals.values())
        elif isinstance(item, (requests.Response, requests.PreparedRequest)):
            to_see += [value for name, value in vars(item).items() if name not in left_out]
            to_see += [getattr(item, "next", None), getattr(item, "url", None)]
        elif isinstance(item, (list, tuple)):
            to_see += item
        if isinstance(item, BaseException):
            to_see += vars(item).values()


class RaisingHook:
    def __call__(self, response: requests.Response, **_kwargs: Any) -> None:
        response.raise_for_status()


class OwnError(Exception):
    def __init__(self, message: str, response: requests.Response) -> None:
        super().__init__(message, requests.exceptions.RequestException(request=ODD_REQUEST))
        self.response, self.request = response, response.request


#: It was never prepared, so it may hold anything.
ODD_REQUEST: Any = requests.Request("POST", "https://id.test/", data={"password": "top-secret"})


def test_an_exception_of_a_hooks_own_keeps_its_text_and_traceback_but_no_credentials(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    def raise_own(response: requests.Response, **_kwargs: Any) -> None:
        message = "what now?really"
        raise OwnError(message, response)

    with requests.Session() as session:
        session.hooks["response"].append(raise_own)
        client = make_client(token_session=session, client_auth="client_secret_post")
        with pytest.raises(OwnError, match=r"what now\?really") as failure:
            client.renew_token()
    assert "raise_own" in [
        frame.name for frame in traceback.extract_tb(failure.value.__traceback__)
    ]
    assert failure.value.request.body is None
    assert failure.value.args[1].request is None
    assert not [text for text in everything_on(failure.value) if SHOWN.search(text)]
    failure.value.response.close()


def test_a_bad_header_of_a_session_is_not_shown(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    with requests.Session() as session:
        session.headers["X-Key"] = "top-secret\n"
        with pytest.raises(requests.exceptions.InvalidHeader, match="header") as failure:
            make_client(token_session=session).renew_token()
    assert not [text for text in everything_on(failure.value) if SHOWN.search(text)]


@pytest.mark.parametrize(
    "client_auth",
    ["client_secret_basic", "client_secret_post", "digest", sign("X-Key", "top-secret")],
)
@pytest.mark.parametrize("trouble", ["hook", "refused", "hang up", "not HTTP", "HTML", "redirect"])
def test_nothing_that_hangs_off_an_exception_holds_a_secret(
    make_client: MakeClient, tokens: TokenServer, client_auth: Any, trouble: str
) -> None:
    challenge = {"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth"'}
    replies = {
        "hook": Reply(401, {"error": "invalid_client"}, challenge),
        "refused": Reply(401, b"", challenge),
        "hang up": hang_up,
        "not HTTP": Reply(200, b"x", {"Content-Encoding": "gzip"}),
        "HTML": Reply(200, b"<html>"),
        "redirect": Reply(302, b"", {"Location": "/elsewhere"}),
    }
    answers = iter([Reply(401, b"", challenge)] if client_auth == "digest" else [])

    def answer(request: Request) -> Reply:
        reply: Any = next(answers, replies[trouble])
        return reply if isinstance(reply, Reply) else reply(request)

    tokens.script = answer
    with requests.Session() as session:
        if trouble == "hook":
            session.hooks["response"].append(RaisingHook())
        auth = HTTPDigestAuth("client-id", "top-secret") if client_auth == "digest" else client_auth
        client = make_client(
            token_endpoint=f"{tokens.endpoint}?key=top-secret",
            client_auth=auth,
            client_secret="top-secret" if isinstance(auth, str) else None,
            token_session=session,
            token_headers={"X-Subscription": "top-secret"},
            token_params={"password": "top-secret"},
        )
        with pytest.raises(requests.exceptions.RequestException) as failure:
            client.renew_token()
        found = [text for text in everything_on(failure.value) if SHOWN.search(text)]
        if failure.value.response is not None:
            failure.value.response.close()
    assert not found


class OddStr(str):
    """Fails where it is looked at."""

    def strip(self, *_: Any) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    "wrong",
    [
        {"scope": 7},
        {"client_id": ""},
        {"client_id": OddStr("x")},
        {"token_endpoint": "https://me:top-secret@id.test:port/?key=top-secret"},
        {"client_auth": ("client-id", "top-secret")},
        {"client_auth": "basic"},
        {"client_secret": "top-secret\x00top-secret"},
        {"client_secret": "top-secret\udcff"},
        {"token_params": {"password": "top-secret\udcff"}},
        {"token_params": [("password", "top-secret", "more")]},
        {"token_headers": {"X-Key": "top-secret\n"}},
        {"token_cert": "-----BEGIN CERTIFICATE-----"},
        {"token_timeout": float("inf")},
    ],
)
@pytest.mark.parametrize("make", [Client, TokenManager])
def test_an_error_at_construction_shows_no_secret_in_local_variables(
    make: Any, wrong: dict[str, Any]
) -> None:
    given = {
        "token_endpoint": "https://me:top-secret@id.test/?key=top-secret",
        "client_id": "client-id",
        "client_secret": "top-secret",
        "token_params": {"password": "top-secret"},
        "token_headers": {"X-Key": "top-secret"},
        **wrong,
    }
    with pytest.raises((TypeError, ValueError, RuntimeError)) as failure:
        make(**given)
    found = [text for text in everything_on(failure.value) if SHOWN.search(text)]
    assert not [text for text in found if text != repr(wrong)]


@pytest.mark.parametrize(
    "key",
    [
        "-----BEGIN PRIVATE KEY-----\ntop-secret\n-----END PRIVATE KEY-----",
        b"-----BEGIN PRIVATE KEY-----\ntop-secret\n-----END PRIVATE KEY-----",
        "top-secret",
        b"top-secret",
        '{"kty": "EC", "crv": "P-256", "d": "top-secret"}',
        b'{"kty": "oct", "k": "top-secret"}',
        {"kty": "RSA", "d": "top-secret", "oth": [{"d": "top-secret"}]},
    ],
)
def test_a_key_that_cannot_be_read_is_not_in_local_variables(key: Any) -> None:
    pytest.importorskip("jwt")
    for make in (
        lambda: PrivateKeyJWT(key=key),
        lambda: DPoPKey(key),
        lambda: Client(
            token_endpoint="https://id.test", client_id="i", client_secret="s", dpop=key
        ),
    ):
        with pytest.raises((TypeError, ValueError)) as failure:
            make()
        assert not [text for text in everything_on(failure.value) if SHOWN.search(text)]


@pytest.mark.parametrize("password", ["top-secret", b"top-secret"])
def test_a_password_and_a_certificate_of_no_use_are_not_in_local_variables(password: Any) -> None:
    pytest.importorskip("jwt")
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
    )

    key = ec.generate_private_key(ec.SECP256R1())
    lock = BestAvailableEncryption(b"another")
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock)
    for make in (
        lambda: PrivateKeyJWT(key=encrypted, password=password),
        lambda: PrivateKeyJWT(key=key, password=password),
        lambda: DPoPKey(encrypted, password=password),
        lambda: PrivateKeyJWT(key=key, certificate=password),
    ):
        with pytest.raises(ValueError) as failure:
            make()
        assert not [text for text in everything_on(failure.value) if SHOWN.search(text)]


@pytest.mark.parametrize(
    "content", ["top-secret", "a.b.c top-secret", b"a.b.top-secret", None, "top-secret.b.c"]
)
@pytest.mark.parametrize("kind", ["file", "callable"])
def test_no_assertion_of_anothers_is_in_local_variables(
    tokens: TokenServer, tmp_path: Path, kind: str, content: Any
) -> None:
    """Whether it is no assertion, or is refused."""
    tokens.script = lambda request: Reply(
        401, {"error": "invalid_client", "x": request.body.decode()}
    )
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    client = Client(
        token_endpoint=tokens.endpoint,
        client_id="client-id",
        client_auth=ClientAssertion(path if kind == "file" else lambda: content),
    )
    with client, pytest.raises(TokenError) as failure:
        client.renew_token()
    assert not [text for text in everything_on(failure.value) if SHOWN.search(text)]


def test_an_assertion_in_the_place_of_its_path_is_not_in_local_variables() -> None:
    with pytest.raises(ValueError, match="the token itself") as failure:
        ClientAssertion("top-secret.b.c")
    assert not [text for text in everything_on(failure.value) if SHOWN.search(text)]


def test_an_environment_that_is_wrong_shows_no_secret_in_local_variables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALF_TOKEN_ENDPOINT", "https://me:top-secret@id.test/?key=top-secret")
    monkeypatch.setenv("ALF_CLIENT_ID", "client-id")
    monkeypatch.setenv("ALF_CLIENT_SECRET", "top-secret")
    monkeypatch.setenv("ALF_TOKEN_PARAMS", "password=top-secret")
    monkeypatch.setenv("ALF_TOKEN_HEADERS", "X-Key: top-secret")
    for name, value in {
        "TOKEN_TIMEOUT": "top-secret",
        "CLIENT_AUTH": "top-secret",
        "RESOURCE": "top-secret",
        "TOKEN_CERT": "top-secret",
        "PRIVATE_KEY_FILE": "top-secret",
        "CLIENT_ASSERTION_FILE": "top-secret",
        "CLIENT_SECRET_FILE": "top-secret",
    }.items():
        with monkeypatch.context() as patch:
            patch.setenv(f"ALF_{name}", value)
            if name == "CLIENT_SECRET_FILE":
                patch.delenv("ALF_CLIENT_SECRET")
            with pytest.raises(ValueError) as failure:
                Client.from_env()
            assert not [text for text in everything_on(failure.value) if SHOWN.search(text)]


@pytest.mark.parametrize("storage", [None, {}])
@pytest.mark.parametrize("trouble", [hang_up, Reply(200, b"<html>"), Reply(400, {"error": "odd"})])
def test_no_token_is_in_local_variables_while_a_refusal_is_healed(
    make_client: MakeClient, tokens: TokenServer, api: Api, storage: Any, trouble: Any
) -> None:
    calls: list[Callable[[Client], object]] = [
        lambda client: client.get(api.url),
        lambda client: client.renew_token(),
        lambda client: client.manager.refusal(api.url).replacement(client.ensure_token()),
    ]
    for call in calls:
        client = make_client(token_storage=storage, raise_token_error=True)
        client.renew_token()
        tokens.alive.clear()
        tokens.replies = [trouble] * 3
        with pytest.raises(requests.exceptions.RequestException) as failure:
            call(client)
        assert not [text for text in everything_on(failure.value) if SHOWN.search(text)]
        tokens.replies = []


def test_a_bearer_token_that_no_header_can_carry_is_not_in_local_variables(api: Api) -> None:
    with pytest.raises(ValueError) as failure:
        BearerTokenAuth("top-secret\n")
    assert not [text for text in everything_on(failure.value) if SHOWN.search(text)]
    with pytest.raises(ValueError) as failure:
        requests.get(api.url, auth=BearerTokenAuth(lambda: "top-secret\n"))
    assert not [text for text in everything_on(failure.value) if SHOWN.search(text)]


def test_a_failed_revocation_shows_no_token_in_local_variables(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    client = make_client(revocation_endpoint=f"{tokens.url}/revoke")
    client.renew_token()
    for reply in (hang_up, Reply(400, {"error": "token-1 is odd"})):
        tokens.replies = [reply, reply]
        with pytest.raises(requests.exceptions.RequestException) as failure:
            client.revoke_token()
        assert not [text for text in everything_on(failure.value) if SHOWN.search(text)]


def test_no_answer_that_is_refused_is_shown_in_local_variables(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    for members in (
        {"access_token": "top-secret", "token_type": "mac"},
        {"access_token": "top-secret\n"},
        {"refresh_token": "top-secret"},
        {"access_token": "top-secret", "error": "odd"},
        {"access_token": ["top-secret"]},
    ):
        tokens.replies = [Reply(200, members)]
        with pytest.raises(TokenError) as failure:
            make_client().renew_token()
        assert not [text for text in everything_on(failure.value) if SHOWN.search(text)], members


def test_no_repr_shows_a_secret(make_client: MakeClient, tokens: TokenServer, api: Api) -> None:
    client = make_client(
        token_endpoint=f"{tokens.endpoint}?key=top-secret",
        client_secret="top-secret",
        token_params={"password": "top-secret"},
        token_headers={"X-Key": "top-secret"},
    )
    response = client.get(api.url)
    manager: Any = client.manager
    to_see = [client, manager, client.auth, *vars(client).values(), *vars(manager).values()]
    for item in to_see[:]:
        to_see += getattr(item, "__dict__", {}).values()
    to_see += [response, response.request, response.request.headers]
    assert not [text for text in map(repr, to_see) if SHOWN.search(text)]


@pytest.mark.parametrize(
    ("url", "shown_as"),
    [
        ("https://id.test:8443/a/b?key=x#y", "https://id.test:8443/a/b"),
        ("https://me:pa?ss@id.test/t", "https://id.test/t"),
        ("https://me:pa#ss@id.test/t", "https://id.test/t"),
        ("https://me:p@ss@id.test/t?x", "https://id.test/t"),
        ("https://me:pa/ss@id.test/t", "https://id.test/t"),
        ("https://id.test/realms/a@b/token?c@d", "https://id.test/realms/a@b/token"),
        ("https://[::1]:80/a@b", "https://[::1]:80/a@b"),
        ("https//me:pass@id.test/t", "id.test/t"),
        ("me:pass@id.test", "id.test"),
        ("//me:pass@id.test/t", "//id.test/t"),
        ("/login@x?y@z", "/login@x"),
        ("https://id.test/Key-0123456789-Key-0123456789/t", "https://id.test/***/t"),
        ("https://id.test/Key-0123456789-Key-012345/t", "https://id.test/***/t"),
        ("https://id.test/Key-0123456789-Key-0123/", "https://id.test/Key-0123456789-Key-0123/"),
        ("https://id.test/production-realm-eu-west-1/t",) * 2,
        ("https://id.test/11111111-2222-3333-4444-555555555555/t",) * 2,
        ("", ""),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown_as: str) -> None:
    assert shown_url(url) == shown_as


def test_what_the_system_says_of_a_broken_connection_stays() -> None:
    reset = ConnectionResetError(104, "Connection reset by peer")
    error = requests.exceptions.ConnectionError(ProtocolError("Connection aborted.", reset))
    redact_error(error)
    assert "Connection reset by peer" in str(error)
