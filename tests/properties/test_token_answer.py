"""Whatever a token endpoint says: a usable token, its error response, or an error of requests."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from alf import Client, TokenError
from tests.servers import RawServer, Reply, Request, Server, running

SECRET = "top-secret"
#: The same, as Basic sends it.
BASIC = "Y2xpZW50LWlkOnRvcC1zZWNyZXQ="

#: Begins all tokens that are granted here, so that they can be told from other text.
TOKEN = "tkn.~"


# -- what endpoints say ------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)
usable_tokens = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=40).map(
    lambda text: TOKEN + text
)
access_tokens = st.one_of(
    usable_tokens,
    usable_tokens,
    usable_tokens,
    st.builds(
        "{}{}{}".format,
        usable_tokens,
        st.sampled_from(["\r\nX-Evil: 1", "\n", "\r", "\0", " ", "\t", "\x7f", "é", "\u2028"]),
        st.sampled_from(["", "x"]),
    ),
    st.just(""),
    json_values,
)
lifetimes = st.one_of(
    st.integers(-(10**20), 10**20),
    st.integers(0, 10_000),
    st.floats(),
    st.sampled_from(
        ["", "3600", "3600.5", "-1", "1e3", "1e999", "nan", "inf", "1_0", "x" * 99, "9" * 5000]
    ),
    json_values,
)
token_types = st.sampled_from(
    ["Bearer", "bearer", "BearerToken", "mac", "DPoP", "pop", "", "Bearer\r\nX-Evil: 1", "a\nb"]
)
scopes = st.one_of(
    st.sampled_from(["read write", "\r\nforged line", "\x1b[31m", "a" * 5000]),
    st.lists(st.text(max_size=5) | st.integers(), max_size=3),
    json_values,
)
words = st.one_of(
    st.sampled_from(["invalid_client", "\r\nforged line", "\x1b[31m", "a" * 5000]),
    st.sampled_from([SECRET, BASIC]).map("you said {}, which is wrong".format),
    json_values,
)
members = st.fixed_dictionaries(
    {},
    optional={
        "access_token": access_tokens,
        "expires_in": lifetimes,
        "token_type": token_types | json_values,
        "scope": scopes,
        "error": words,
        "error_description": words,
        "errors": json_values | st.lists(st.dictionaries(st.just("code"), words), max_size=2),
        "message": words,
        "extra": json_values,
    },
)
grants = st.fixed_dictionaries(
    {"access_token": access_tokens},
    optional={"expires_in": lifetimes, "token_type": token_types, "scope": scopes, "error": words},
)
bodies = st.one_of(
    grants,
    members,
    json_values,
    st.binary(max_size=60),
    members.map(lambda answer: json.dumps(answer).encode()[:-1]),
    st.sampled_from(["utf-8-sig", "utf-16", "utf-32"]).map(
        lambda encoding: json.dumps({"access_token": TOKEN}).encode(encoding)
    ),
    st.sampled_from([b"[" * 20_000, b"[" * 200_000, b'{"access_token": ' + b"9" * 5000 + b"}"]),
    st.just(f"access_token={TOKEN}&expires_in=60&scope=a+b".encode()),
)
#: As the wire carries them: no line breaks, for these would be other headers.
header_texts = st.text(st.characters(max_codepoint=0xFF, exclude_characters="\r\n"), max_size=30)
headers = st.fixed_dictionaries(
    {},
    optional={
        "Content-Type": st.sampled_from(
            [
                "",
                "application/json",
                "text/html; charset=klingon",
                "application/x-www-form-urlencoded",
                "application/x-www-form-urlencoded; charset=\x1b[31m",
                "text/\x1b[31mred\x85forged line",
            ]
        )
        | header_texts,
        "Content-Encoding": st.sampled_from(["gzip", "deflate", "identity", "br", "zstd", "x"]),
        "Location": st.sampled_from(
            [
                "",
                "/elsewhere?code=1",
                "http://[::1",
                "http://[x]/",
                "http://user:pass@127.0.0.1:9/\x85",
                "http://a:port/",
                "//",
            ]
        )
        | header_texts,
        "Retry-After": st.sampled_from(
            [
                "0",
                "120",
                "-1",
                "1e3",
                "9" * 5000,
                "soon",
                "Fri, 31 Dec 1999 23:59:59 GMT",
                "Fri, 31 Dec 999999999999 23:59:59 GMT",
                "Fri, 31 Dec 1999 23:59:59 +99999999999999",
                "Fri, 99 Dec 1999 99:99:99 GMT",
            ]
        )
        | header_texts,
        "WWW-Authenticate": st.sampled_from(
            ["Basic", "DPoP error=use_dpop_nonce", 'Bearer realm="', ", ,="]
        )
        | header_texts,
        "DPoP-Nonce": header_texts,
        "Set-Cookie": st.sampled_from(["a=b", "a=b; Max-Age=x; Expires=never", "=;=,"])
        | header_texts,
        "Transfer-Encoding": st.sampled_from(["chunked", "x"]),
        "Content-Length": st.sampled_from(["0", "3", "-1", "x", "99999", "9" * 5000]),
        "Link": header_texts,
        "Date": header_texts,
    },
)
statuses = st.one_of(
    st.just(200),
    st.just(200),
    st.sampled_from([200, 201, 204, 206, 299, 300, 301, 302, 304, 307, 308]),
    st.sampled_from([400, 401, 403, 404, 407, 408, 418, 429, 500, 502, 503, 599]),
    st.integers(102, 999),
)


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """An HTTP response, mostly well-formed."""
    body = Reply(body=draw(bodies)).payload
    fields = draw(headers)
    if draw(st.booleans()):
        fields.setdefault("Content-Length", str(len(body)))
    head = [f"HTTP/1.1 {draw(statuses)} {draw(st.sampled_from(['', 'OK', 'No']))}"]
    head += [f"{name}: {value}" for name, value in fields.items()]
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


# -- what may come of it -----------------------------------------------------------------------


class Lines(logging.Handler):
    """All that alf logs, as text."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture(scope="module")
def lines() -> Iterator[list[str]]:
    handler, logger = Lines(), logging.getLogger("alf")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler.lines
    logger.removeHandler(handler)
    logger.setLevel(before)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[RawServer]:
    with running(RawServer()) as server:
        yield server


@pytest.fixture(scope="module")
def open_api() -> Iterator[Server]:
    with running(Server(lambda _request: Reply(body={"hello": "world"}))) as server:
        yield server


def texts(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield from (str(error), repr(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def is_usable(authorization: str | None) -> bool:
    return re.fullmatch(r"Bearer [\x21-\x7e]+", authorization or "") is not None


def call(endpoint: RawServer, open_api: Server, lines: list[str], **options: Any) -> str:
    """One call, and all that must hold of it; tells how it ended."""
    open_api.requests.clear()
    lines.clear()
    shown: list[str] = []
    with Client(
        token_endpoint=f"{endpoint.url}/token",
        client_id="client-id",
        client_secret=SECRET,
        **options,
    ) as client:
        try:
            response = client.get(open_api.url)
        except TokenError as error:
            end = "no token"
            shown += texts(error)
            shown += (str(error.error), str(error.error_description))
        except requests.exceptions.RequestException as error:
            end = "no answer"
            shown += texts(error)
        else:
            end = "token" if response.url.startswith(open_api.url) else "error response"
            shown += (repr(response), repr(response.request))
            if end == "error response":
                assert response.status_code >= 400
                assert response.request.body is None
    if end == "token":
        [request] = open_api.requests
        check(request)
        shown = [text.replace(str(request.authorization), "") for text in shown]
    else:
        assert not open_api.requests, "the call went out without a token"
    for text in [*shown, *lines]:
        assert end != "no token" or (text.isprintable() and len(text) < 5000)
        assert SECRET not in text
        assert BASIC not in text
        assert TOKEN not in text
    return end


def check(request: Request) -> None:
    assert is_usable(request.authorization)
    assert sorted(request.headers) == [
        "Accept",
        "Accept-Encoding",
        "Authorization",
        "Connection",
        "Host",
        "User-Agent",
    ]


# -- the properties ----------------------------------------------------------------------------


@given(answers())
def test_any_answer(endpoint: RawServer, open_api: Server, lines: list[str], answer: bytes) -> None:
    endpoint.answer = answer
    call(endpoint, open_api, lines)


@given(answers())
def test_any_answer_with_retries(
    endpoint: RawServer, open_api: Server, lines: list[str], answer: bytes
) -> None:
    endpoint.answer = answer
    call(endpoint, open_api, lines, token_retry=1, token_refresh="blocking")


@given(st.binary(max_size=200))
def test_any_bytes(endpoint: RawServer, open_api: Server, lines: list[str], answer: bytes) -> None:
    endpoint.answer = answer
    assert call(endpoint, open_api, lines) == "no answer"


@given(grants)
def test_any_grant(
    endpoint: RawServer, open_api: Server, lines: list[str], answer: dict[str, Any]
) -> None:
    """What makes a grant usable is said here once more, in other words."""
    endpoint.answer = b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps(answer).encode()
    token = answer["access_token"]
    is_good = (
        isinstance(token, str)
        and is_usable(f"Bearer {token}")
        and str(answer.get("token_type")).lower() not in {"mac", "dpop", "pop"}
        and not answer.get("error")
    )
    assert (call(endpoint, open_api, lines) == "token") is is_good
