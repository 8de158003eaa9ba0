from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from alf import BearerTokenAuth, NoAuth, Token
from tests.servers import Reply, Request, Server, running


@pytest.fixture
def echo() -> Iterator[Server]:
    def answer(request: Request) -> Reply:
        if request.path == "/away":
            return Reply(302, b"", {"Location": f"http://localhost:{server.port}/"})
        return Reply(body={"authorization": request.authorization})

    with running(Server(answer)) as server:
        yield server


def carried(session: requests.Session, url: str, **kwargs: Any) -> str | None:
    authorization: str | None = session.get(url, **kwargs).json()["authorization"]
    return authorization


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


@pytest.mark.parametrize("token", ["a-token", Token("a-token"), lambda: "a-token"])
def test_a_token_on_a_plain_session(echo: Server, session: requests.Session, token: Any) -> None:
    session.auth = BearerTokenAuth(token)
    assert carried(session, echo.url) == "Bearer a-token"


def test_a_callable_is_asked_at_each_request(echo: Server, session: requests.Session) -> None:
    tokens = iter(["one", Token("two")])
    session.auth = BearerTokenAuth(lambda: next(tokens))
    assert [carried(session, echo.url) for _ in range(2)] == ["Bearer one", "Bearer two"]


def test_a_token_does_not_follow_to_another_host(echo: Server, session: requests.Session) -> None:
    session.auth = BearerTokenAuth("a-token")
    assert carried(session, f"{echo.url}/away") is None


@pytest.mark.parametrize(
    ("hosts", "url", "is_allowed"),
    [
        (["api.example.com"], "https://api.example.com/x", True),
        (["api.example.com"], "https://API.example.com:8443/x", True),
        (["api.example.com"], "https://user@api.example.com/x", True),
        (["api.example.com."], "https://api.example.com/", True),
        (["api.example.com"], "https://api.example.com./", True),
        (["API.Example.com"], "https://api.example.com/", True),
        (["api.example.com"], "https://example.com/", False),
        (["api.example.com"], "https://evil.example/api.example.com", False),
        (["api.example.com"], "https://api.example.com@evil.example/", False),
        (["api.example.com"], "https://api.example.com.evil.example/", False),
        (["api.example.com"], "https://xapi.example.com/", False),
        (["*.example.com"], "https://a.example.com/", True),
        (["*.example.com"], "https://a.b.example.com/", True),
        (["*.example.com."], "https://a.example.com/", True),
        (["*.example.com"], "https://example.com/", False),
        (["*.example.com"], "https://badexample.com/", False),
        (["bücher.example"], "https://xn--bcher-kva.example/", True),
        (["127.0.0.1"], "http://127.0.0.1:8080/", True),
        (["[::1]"], "http://[::1]:8080/", True),
        (["::1"], "http://[::1]:8080/", True),
        (["2001:DB8::1"], "https://[2001:db8::1]/", True),
        (["localhost"], "http://localhost/", True),
        (["api.example.com"], "http://api.example.com/", False),
        (["*.example.com"], "http://api.example.com/", False),
        (["10.0.0.1"], "http://10.0.0.1/", False),
        (["https://api.example.com"], "https://api.example.com/", True),
        (["https://api.example.com/"], "https://api.example.com:443/", True),
        (["https://api.example.com"], "https://api.example.com:8443/", False),
        (["https://api.example.com"], "http://api.example.com/", False),
        (["HTTPS://API.example.com:8443"], "https://api.example.com:8443/", True),
        (["https://api.example.com:8443"], "https://api.example.com/", False),
        (["http://api.example.com"], "http://api.example.com/", True),
        (["http://api.example.com"], "https://api.example.com/", False),
        (["http://api.example.com:8080"], "http://api.example.com:8080/", True),
        (["http://*.example.com:8080"], "http://api.example.com:8080/", True),
        (["http://[::2]:8080"], "http://[::2]:8080/", True),
        ([], "https://api.example.com/", False),
    ],
)
def test_only_the_hosts_named_see_the_token(hosts: list[str], url: str, is_allowed: bool) -> None:
    request = requests.Request("GET", url, auth=BearerTokenAuth("a-token", hosts)).prepare()
    assert request.headers.get("Authorization") == ("Bearer a-token" if is_allowed else None)


def test_a_url_that_was_never_prepared_gets_no_token() -> None:
    auth = BearerTokenAuth("a-token", ["https://api.example.com"])
    assert not auth.allows("https://api.example.com:99999/")
    assert not auth.allows(None)


def test_a_listed_host_over_http_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    auth = BearerTokenAuth("a-token", ["api.example.com"])
    for url in ["http://api.example.com:8080/x?secret=1"] * 2 + ["http://other.example.com/"]:
        requests.Request("GET", url, auth=auth).prepare()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "add 'http://api.example.com:8080' to token_hosts" in record.getMessage()
    assert "secret" not in record.getMessage()


def test_a_bounded_number_of_hosts_over_http_is_named(caplog: pytest.LogCaptureFixture) -> None:
    auth = BearerTokenAuth("a-token", ["*.example.com"])
    for number in range(150):
        requests.Request("GET", f"http://{number}.example.com/", auth=auth).prepare()
    assert len(caplog.records) == 100


def test_a_callable_is_not_asked_for_a_host_that_is_not_named() -> None:
    auth = BearerTokenAuth(lambda: pytest.fail("asked"), hosts=["api.example.com"])
    requests.Request("GET", "https://example.com/", auth=auth).prepare()


@pytest.mark.parametrize("hosts", ["api.example.com", b"api.example.com", [b"x"], [1]])
def test_hosts_of_another_type(hosts: Any) -> None:
    with pytest.raises(TypeError, match="token_hosts must be a sequence of host names"):
        BearerTokenAuth("a-token", hosts)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "ftp://api.example.com",
        "://api.example.com",
        "https://",
        "https://api.example.com/v1",
        "https://user@api.example.com",
        "https://api.example.com:port",
        "https://api.example.com:99999",
        "::1:8443:x",
        "a b",
        "a<b",
        "api.*",
        "api.example.com/v1",
        "api.example.com?x",
        "api.example.com#x",
        "user@api.example.com",
        "api.example.com:443",
        "*",
        "*.",
    ],
)
def test_hosts_that_are_none(host: str) -> None:
    with pytest.raises(ValueError, match="expected host names such as"):
        BearerTokenAuth("a-token", [host])


@pytest.mark.parametrize("token", [None, 7, b"a-token"])
def test_a_token_of_another_type(token: Any) -> None:
    with pytest.raises(TypeError, match="must be a str or an alf"):
        BearerTokenAuth(token)


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX: y"])
def test_a_token_that_no_header_can_carry(token: str) -> None:
    with pytest.raises(ValueError, match="visible ASCII"):
        BearerTokenAuth(token)


def test_no_auth_keeps_netrc_away(
    echo: Server, session: requests.Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    assert carried(session, echo.url) is not None
    assert carried(session, echo.url, auth=NoAuth()) is None


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))]
)
def test_a_prepared_request_can_be_copied_and_pickled(duplicate: Any) -> None:
    auth = BearerTokenAuth("a-token")
    request = duplicate(requests.Request("GET", "http://localhost/", auth=auth).prepare())
    assert request.headers["Authorization"] == "Bearer a-token"


def test_no_repr_shows_the_token() -> None:
    assert "a-token" not in repr(BearerTokenAuth("a-token"))
