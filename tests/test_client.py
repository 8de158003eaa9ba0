"""A Client is a Session: all that requests documents of one, and the token besides."""

from __future__ import annotations

import copy
import gc
import hashlib
import inspect
import io
import multiprocessing
import pickle
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest
import requests
import trustme
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase, HTTPBasicAuth, HTTPDigestAuth

import alf.client
from alf import Client, NoAuth, TokenError, TokenManager
from alf.client import Health
from tests.servers import Api, Reply, Request, Server, TokenServer, TurnedClock, hang_up, running

MakeClient = Callable[..., Client]


# -- the first example -------------------------------------------------------------------------


def test_the_first_example(tokens: TokenServer, api: Api) -> None:
    with alf.client.Client(
        token_endpoint=tokens.endpoint, client_id="client-id", client_secret="secret"
    ) as client:
        client.put(api.url, data='{"name": "alf"}', headers={"Content-Type": "application/json"})
        client.get(api.url)
        client.delete(api.url)
    assert len(tokens.requests) == 1
    assert [request.method for request in api.requests] == ["PUT", "GET", "DELETE"]
    assert {request.authorization for request in api.requests} == {"Bearer token-1"}
    assert api.requests[0].body == b'{"name": "alf"}'
    assert api.requests[0].headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("method", ["get", "options", "head", "post", "put", "patch", "delete"])
def test_every_verb_carries_the_token(client: Client, api: Api, method: str) -> None:
    assert getattr(client, method)(api.url).status_code == 200
    assert api.requests[0].method == method.upper()


def test_the_token_can_be_handed_to_something_else(client: Client, tokens: TokenServer) -> None:
    assert client.ensure_token().access_token == "token-1"
    assert client.ensure_token() is client.ensure_token()
    assert client.renew_token().access_token == "token-2"
    assert client.ensure_token().access_token == "token-2"
    assert len(tokens.requests) == 2


def test_the_current_token_is_read_without_a_request(
    make_client: MakeClient, tokens: TokenServer, clock: TurnedClock
) -> None:
    client = make_client(clock=clock)
    assert client.token is None
    assert client.ensure_token() is client.token is client.manager.peek()
    clock.turn(3600)
    assert client.token is None
    assert len(tokens.requests) == 1


def test_reading_attributes_makes_no_request(client: Client, tokens: TokenServer) -> None:
    for name in dir(client):
        hasattr(client, name)
    inspect.getmembers(client)
    create_autospec(client)
    assert tokens.requests == []


def test_a_prepared_request_has_the_hooks_that_a_session_gives_it(client: Client, api: Api) -> None:
    seen: list[requests.Response] = []

    def see(response: requests.Response, **_settings: Any) -> None:
        seen.append(response)

    assert client.prepare_request(requests.Request("GET", api.url)).hooks["response"] == []
    client.hooks["response"].append(see)
    prepared = client.prepare_request(requests.Request("GET", api.url))
    assert prepared.hooks["response"] == [see]
    assert seen == [client.send(prepared)]


def test_prepared_requests_carry_the_token(client: Client, api: Api) -> None:
    prepared = client.prepare_request(requests.Request("GET", api.url))
    assert client.send(prepared).status_code == 200
    assert api.requests[0].authorization == "Bearer token-1"


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_a_request_that_was_sent_can_be_copied_and_pickled(
    client: Client, api: Api, duplicate: Any
) -> None:
    prepared = client.prepare_request(requests.Request("GET", api.url))
    client.send(prepared)
    copied = duplicate(prepared)
    assert b"top-secret" not in pickle.dumps(copied)
    with requests.Session() as session:
        assert session.send(copied).status_code == 200
    assert api.requests[-1].authorization == "Bearer token-1"


def test_a_request_that_is_not_prepared_is_refused_as_by_any_session(
    client: Client, tokens: TokenServer, api: Api
) -> None:
    with pytest.raises(ValueError, match="PreparedRequest"):
        client.send(requests.Request("GET", api.url))  # type: ignore[arg-type]
    assert not tokens.requests


def test_a_redirect_that_a_hook_made_up_is_followed_with_the_token(
    client: Client, api: Api
) -> None:
    def redirect(response: requests.Response, **_: Any) -> requests.Response | None:
        if response.request.url != f"{api.url}/":
            return None
        made_up = requests.Response()
        made_up.status_code, made_up.url, made_up.raw = 302, response.url, response.raw
        made_up.headers["Location"] = "/there"
        made_up.request = requests.Request("GET", response.url).prepare()
        return made_up

    assert client.get(f"{api.url}/", hooks={"response": redirect}).status_code == 200
    assert [request.path for request in api.requests] == ["/", "/there"]
    assert api.requests[-1].authorization == "Bearer token-1"


KEPT: list[requests.Response] = []


def keep(response: requests.Response, **_kwargs: Any) -> None:
    pickled = pickle.dumps(response)
    assert b"top-secret" not in pickled
    KEPT[:] = [pickle.loads(pickled), copy.deepcopy(response)]


def test_a_hook_may_pickle_and_copy_a_response(client: Client, api: Api) -> None:
    client.get(api.url, hooks={"response": keep})
    pickled, copied = KEPT
    for kept in (pickled, copied):
        assert kept.json() == {"hello": "world"}
        with requests.Session() as session:
            assert session.send(kept.request).status_code == 200


# -- auth= -------------------------------------------------------------------------------------


@pytest.fixture
def open_api() -> Iterator[Server]:
    with running(Server(lambda _request: Reply(body={"hello": "world"}))) as server:
        yield server


class HeaderAuth(AuthBase):
    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = "Custom abc"
        return request


@pytest.mark.parametrize(
    ("auth", "header"),
    [
        (("user", "pass"), "Basic dXNlcjpwYXNz"),
        (HTTPBasicAuth("user", "pass"), "Basic dXNlcjpwYXNz"),
        (HeaderAuth(), "Custom abc"),
        (NoAuth(), None),
    ],
)
@pytest.mark.parametrize("place", ["call", "session"])
def test_auth_of_the_users_own_wins_and_asks_for_no_token(
    client: Client, tokens: TokenServer, open_api: Server, auth: Any, header: str, place: str
) -> None:
    if place == "session":
        client.auth = auth
        client.get(open_api.url)
    else:
        client.get(open_api.url, auth=auth)
    assert open_api.requests[0].authorization == header
    assert not tokens.requests


def test_digest_does_its_own_dance(client: Client, tokens: TokenServer) -> None:
    def digest(request: Request) -> Reply:
        if request.authorization is None:
            challenge = 'Digest realm="r", nonce="n", qop="auth", algorithm=MD5'
            return Reply(401, b"", {"WWW-Authenticate": challenge})
        fields = dict(
            part.split("=", 1) for part in request.authorization.removeprefix("Digest ").split(", ")
        )
        values = {name: value.strip('"') for name, value in fields.items()}
        ha1 = hashlib.md5(b"user:r:pass").hexdigest()
        ha2 = hashlib.md5(f"GET:{request.path}".encode()).hexdigest()
        middle = f"n:{values['nc']}:{values['cnonce']}:auth"
        expected = hashlib.md5(f"{ha1}:{middle}:{ha2}".encode()).hexdigest()
        return Reply(200 if values["response"] == expected else 403)

    with running(Server(digest)) as server:
        response = client.get(server.url, auth=HTTPDigestAuth("user", "pass"))
    assert response.status_code == 200
    assert [past.status_code for past in response.history] == [401]
    assert not tokens.requests


def test_a_401_to_a_request_without_our_token_starts_nothing(
    client: Client, tokens: TokenServer, api: Api
) -> None:
    assert client.get(api.url, auth=("user", "pass")).status_code == 401
    assert client.get(api.url, auth=NoAuth()).status_code == 401
    assert (len(api.requests), len(tokens.requests)) == (2, 0)


def test_a_header_of_the_users_own_does_not_keep_the_token_away(client: Client, api: Api) -> None:
    # As requests has it: auth comes last.
    client.get(api.url, headers={"Authorization": "Bearer other"})
    assert api.requests[0].authorization == "Bearer token-1"


def test_netrc_does_not_replace_the_token(
    client: Client, api: Api, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    api.pages["/moved"] = Reply(302, b"", {"Location": "/"})
    assert client.get(f"{api.url}/moved").status_code == 200
    assert {request.authorization for request in api.requests} == {"Bearer token-1"}


# -- what a Session has ------------------------------------------------------------------------


def test_headers_params_and_cookies_of_the_session(client: Client, api: Api) -> None:
    client.headers["X-Team"] = "blue"
    client.params = {"page": "1"}
    client.cookies.set("session", "abc")
    client.get(api.url, params={"size": "2"}, headers={"X-Call": "one"}, cookies={"more": "x"})
    [request] = api.requests
    assert request.path == "/?page=1&size=2"
    assert (request.headers["X-Team"], request.headers["X-Call"]) == ("blue", "one")
    assert sorted(request.headers["Cookie"].split("; ")) == ["more=x", "session=abc"]


def test_cookies_that_the_api_sets(client: Client, api: Api) -> None:
    api.pages["/login"] = Reply(302, b"", {"Set-Cookie": "visited=1", "Location": "/"})
    client.get(f"{api.url}/login")
    assert client.cookies["visited"] == "1"
    assert api.requests[-1].headers["Cookie"] == "visited=1"


def test_hooks_of_session_and_call(client: Client, api: Api) -> None:
    seen: list[str] = []
    client.hooks["response"].append(lambda _response, **_: seen.append("session"))
    client.get(api.url)
    client.get(api.url, hooks={"response": lambda _response, **_: seen.append("call")})
    client.get(api.url, hooks={"response": [lambda _response, **_: seen.append("list")]})
    assert seen == ["session", "call", "list"]


def test_a_hook_may_replace_the_response(client: Client, api: Api) -> None:
    other = requests.Response()
    assert client.get(api.url, hooks={"response": lambda _response, **_: other}) is other


def test_redirects_history_and_max_redirects(client: Client, api: Api) -> None:
    api.pages["/a"] = Reply(302, b"", {"Location": "/b"})
    api.pages["/b"] = Reply(302, b"", {"Location": "/"})
    response = client.get(f"{api.url}/a")
    assert [past.url.rpartition("/")[2] for past in response.history] == ["a", "b"]
    assert client.get(f"{api.url}/a", allow_redirects=False).status_code == 302
    client.max_redirects = 1
    with pytest.raises(requests.exceptions.TooManyRedirects):
        client.get(f"{api.url}/a")


def test_stream(client: Client, api: Api) -> None:
    api.pages["/"] = Reply(body=b"x" * 100_000)
    with client.get(api.url, stream=True) as response:
        assert response.raw.read(1000) == b"x" * 1000
        assert sum(map(len, response.iter_content(1000))) == 99_000


def test_mounted_adapters(client: Client, api: Api) -> None:
    class Counting(HTTPAdapter):
        sent = 0

        def send(self, *args: Any, **kwargs: Any) -> requests.Response:
            self.sent += 1
            return super().send(*args, **kwargs)

    adapter = Counting()
    client.mount(api.url, adapter)
    client.get(api.url)
    assert adapter.sent == 1


def test_verify_and_cert(client: Client, api: Api, tmp_path: Path) -> None:
    ca = trustme.CA()
    bundle = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(bundle))
    api.use_tls(ca.issue_cert("127.0.0.1"))
    with pytest.raises(requests.exceptions.SSLError):
        client.get(api.url)
    assert client.get(api.url, verify=str(bundle)).status_code == 200


def test_proxies(client: Client, api: Api) -> None:
    client.proxies = {"http://api.example.com": api.url}
    assert client.get("http://api.example.com/x").status_code == 200
    assert api.requests[0].path == "http://api.example.com/x"


@pytest.mark.parametrize("url", ["", "example.com", "http://", "http:///x", "ftp://127.0.0.1/"])
def test_a_bad_url_costs_no_token(client: Client, tokens: TokenServer, url: str) -> None:
    with pytest.raises(requests.exceptions.RequestException) as expected:
        requests.get(url)
    with pytest.raises(type(expected.value)):
        client.get(url)
    assert not tokens.requests


def test_a_body_is_not_read_for_a_request_that_is_not_sent(
    client: Client, tokens: TokenServer, api: Api
) -> None:
    def body() -> Iterator[bytes]:
        pytest.fail("read")
        yield b""

    tokens.replies = [Reply(503)] * 2
    upload = io.BytesIO(b"precious")
    assert client.post(api.url, data=body()).status_code == 503
    assert client.post(api.url, files={"f": upload}).status_code == 503
    assert upload.tell() == 0


def test_a_failed_token_request_is_an_exception_where_it_cannot_be_returned(
    client: Client, tokens: TokenServer, api: Api
) -> None:
    tokens.replies = [Reply(503)]
    with pytest.raises(TokenError, match="answered 503"):
        client.prepare_request(requests.Request("GET", api.url))


# -- where the token goes ----------------------------------------------------------------------


def test_the_token_does_not_follow_a_redirect_to_another_host(
    client: Client, tokens: TokenServer, api: Api, open_api: Server
) -> None:
    api.pages["/"] = Reply(302, b"", {"Location": f"http://localhost:{open_api.port}/"})
    assert client.get(api.url).status_code == 200
    assert open_api.requests[0].authorization is None


def test_a_401_after_a_redirect_that_took_the_token_away_starts_nothing(
    client: Client, tokens: TokenServer, api: Api
) -> None:
    api.pages["/away"] = Reply(302, b"", {"Location": f"http://localhost:{api.port}/"})
    assert client.get(f"{api.url}/away").status_code == 401
    assert (len(api.requests), len(tokens.requests)) == (2, 1)


def test_the_token_does_not_follow_a_redirect_from_https_to_http(
    client: Client, api: Api, open_api: Server, tmp_path: Path
) -> None:
    ca = trustme.CA()
    bundle = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(bundle))
    client.verify = str(bundle)
    api.use_tls(ca.issue_cert("127.0.0.1"))
    api.pages["/"] = Reply(302, b"", {"Location": open_api.url})
    assert client.get(api.url).status_code == 200
    assert open_api.requests[0].authorization is None


def test_token_hosts(make_client: MakeClient, tokens: TokenServer, api: Api) -> None:
    client = make_client(token_hosts=["127.0.0.1", "*.internal.example.com"])
    elsewhere = f"http://localhost:{api.port}/"
    assert client.get(elsewhere).status_code == 401
    assert not tokens.requests, "no token is asked for that would not be sent"
    assert client.get(api.url).status_code == 200
    api.pages["/away"] = Reply(302, b"", {"Location": elsewhere})
    assert client.get(f"{api.url}/away").status_code == 401
    assert [request.authorization for request in api.requests] == [
        None,
        "Bearer token-1",
        "Bearer token-1",
        None,
    ]


def test_token_hosts_are_checked_when_a_request_is_sent(make_client: MakeClient, api: Api) -> None:
    client = make_client(token_hosts=["127.0.0.1"])
    prepared = client.prepare_request(requests.Request("GET", api.url))
    prepared.url = f"http://localhost:{api.port}/"
    assert client.send(prepared).status_code == 401
    assert api.requests[0].authorization is None


def test_the_endpoints_error_runs_through_the_hooks(
    make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    client = make_client(token_endpoint=tokens.endpoint.replace("//", "//u:p@") + "?key=k")
    seen: list[tuple[str, Any]] = []

    def see(response: requests.Response, **settings: Any) -> None:
        seen.append((response.url, settings["timeout"]))

    tokens.replies = [Reply(503)] * 3
    response = client.get(api.url, timeout=7, hooks={"response": see})
    assert (response.status_code, response.url) == (503, tokens.endpoint)
    assert seen == [(tokens.endpoint, 7)]
    client.hooks["response"].append(lambda response, **_: response.raise_for_status())
    with pytest.raises(requests.HTTPError, match="503"):
        client.get(api.url)


@pytest.mark.parametrize("status", [204, 304, 600, 999])
def test_only_an_error_status_of_the_endpoint_is_returned(
    client: Client, tokens: TokenServer, api: Api, status: int
) -> None:
    tokens.replies = [Reply(status, {"balance": 1})]
    with pytest.raises(TokenError, match=str(status)):
        client.get(api.url)


# -- life of the object ------------------------------------------------------------------------


def test_closing_closes_both_sessions(tokens: TokenServer, api: Api) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Client(
            token_endpoint=tokens.endpoint, client_id="client-id", client_secret="secret"
        ) as client:
            client.get(api.url)
        del client
        gc.collect()
    # The servers see the end of each connection.
    tokens.wait_until_all_closed()
    api.wait_until_all_closed()


def test_a_closed_client_can_be_used_again(client: Client, api: Api) -> None:
    client.get(api.url)
    client.close()
    assert client.get(api.url).status_code == 200


def test_the_context_manager_swallows_nothing(client: Client) -> None:
    with pytest.raises(ZeroDivisionError), client:
        raise ZeroDivisionError


def test_an_object_half_built_can_be_thrown_away(tokens: TokenServer) -> None:
    with pytest.raises(ValueError, match="client_id"):
        Client(token_endpoint=tokens.endpoint, client_id="", client_secret="secret")
    gc.collect()


def configured(client: Client) -> Client:
    client.headers["X-Team"] = "blue"
    client.params = {"page": "1"}
    client.verify = False
    client.max_redirects = 3
    return client


def reset_hook(_response: requests.Response, **_kwargs: Any) -> None:
    pass


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda client: pickle.loads(pickle.dumps(client))]
)
def test_a_copy_has_the_whole_configuration_and_asks_for_its_own_token(
    make_client: MakeClient, tokens: TokenServer, api: Api, duplicate: Any
) -> None:
    original = configured(
        make_client(
            token_hosts=["127.0.0.1"], raise_token_error=True, token_timeout=5, token_retry=2
        )
    )
    original.hooks["response"].append(reset_hook)
    original.get(api.url)
    with duplicate(original) as other:
        assert type(other) is Client
        assert other.get(api.url).status_code == 200
        request = api.requests[-1]
        assert (request.authorization, request.path) == ("Bearer token-2", "/?page=1")
        assert request.headers["X-Team"] == "blue"
        assert (other.verify, other.max_redirects) == (False, 3)
        assert other.hooks["response"] == [reset_hook]
        assert other.get(f"http://localhost:{api.port}/").status_code == 401
        tokens.replies = [Reply(400)]
        with pytest.raises(TokenError):
            other.renew_token()
    assert original.get(api.url).status_code == 200


def test_a_copy_keeps_auth_of_the_users_own(make_client: MakeClient, open_api: Server) -> None:
    original = make_client()
    original.auth = ("user", "pass")
    with pickle.loads(pickle.dumps(original)) as other:
        other.get(open_api.url)
    assert open_api.requests[0].authorization == "Basic dXNlcjpwYXNz"


def test_a_pickle_holds_no_token(client: Client, api: Api) -> None:
    client.get(api.url)
    assert b"token-1" not in pickle.dumps(client)


def test_a_deep_copy_shares_storage_and_token_session(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    storage: dict[str, Any] = {}
    with requests.Session() as session:
        original = make_client(token_storage=storage, token_session=session)
        assert original.ensure_token().access_token == "token-1"
        with copy.deepcopy(original) as other:
            assert other.ensure_token().access_token == "token-1"
        assert other.renew_token().access_token == "token-2"
    assert len(storage) == 1


def call_api(client: Client, url: str, results: Any) -> None:
    with client:
        results.put(client.get(url).status_code)


def test_a_pickled_client_works_in_another_process(client: Client, api: Api) -> None:
    client.get(api.url)
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    process = context.Process(target=call_api, args=(client, api.url, results))
    process.start()
    assert results.get() == 200
    process.join()
    results.close()
    process.close()


def test_no_repr_shows_a_secret(client: Client, api: Api) -> None:
    response = client.get(api.url)
    shown = repr([client, response, response.request, client.auth, client.ensure_token()])
    assert "top-secret" not in shown
    assert "token-1" not in shown


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "client_id='client-id' without a token>"),
        ({"scope": "read"}, "client_id='client-id' scope='read' without a token>"),
        ({"scope": ["a", "b"]}, "client_id='client-id' scope='a b' without a token>"),
    ],
)
def test_the_repr_says_which_client_it_is(
    make_client: MakeClient, tokens: TokenServer, options: Any, expected: str
) -> None:
    endpoint = tokens.endpoint.replace("//", "//user:password@") + "?key=k"
    client = make_client(token_endpoint=endpoint, **options)
    assert repr(client) == f"<Client {tokens.endpoint} {expected}"
    client.ensure_token()
    assert re.search(r"with a token that expires in (3600|3599) s>$", repr(client))
    tokens.expires_in = None
    client.renew_token()
    assert repr(client).endswith("with a token of unknown lifetime>")


def test_a_client_half_built_has_a_repr() -> None:
    assert repr(Client.__new__(Client)) == "<Client None client_id=None>"


def test_health_is_read_without_a_request(client: Client, tokens: TokenServer) -> None:
    assert client.health() == Health(is_ready=False)
    assert tokens.requests == []
    tokens.members = {"scope": "read"}
    client.ensure_token()
    health = client.health()
    assert (health.is_ready, health.scope) == (True, "read")
    assert health.age is not None
    assert health.age < 60
    assert health.expires_in is not None
    assert 3540 < health.expires_in <= 3600


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_a_failed_token_request_logs_one_warning_for_all_who_wait(
    client: Client, tokens: TokenServer, api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    barrier = threading.Barrier(8)

    def refuse(_request: Request) -> Reply:
        time.sleep(0.2)
        return Reply(401, {"error": "invalid_client", "error_description": "who are you"})

    def call() -> None:
        barrier.wait()
        assert client.get(api.url).status_code == 401

    tokens.replies = [refuse] * 8
    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    logged = warnings_of(caplog)
    assert len(logged) == len(tokens.requests) < 8
    assert "401 invalid_client (who are you); try: " in logged[0]


def test_a_token_request_without_an_answer_logs_one_warning(
    client: Client, tokens: TokenServer, api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    tokens.replies = [hang_up, hang_up]
    with pytest.raises(requests.ConnectionError):
        client.get(api.url)
    (message,) = warnings_of(caplog)
    assert message.startswith(f"no token: no answer from {tokens.endpoint}")
    assert "; try: " in message


def test_a_secret_that_cannot_be_read_logs_one_warning(
    make_client: MakeClient, api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    def read() -> str:
        message = "the vault says top-secret"
        raise LookupError(message)

    with pytest.raises(LookupError):
        make_client(client_secret=read).get(api.url)
    assert warnings_of(caplog) == ["no token: LookupError was raised"]


# -- subclasses and managers of the user's own -------------------------------------------------


def test_a_subclass_that_overrides_request(make_client: MakeClient, api: Api) -> None:
    class BaseUrlClient(Client):
        def request(self, method: str, url: Any, *args: Any, **kwargs: Any) -> requests.Response:
            return super().request(method, f"{api.url}{url}", *args, **kwargs)

    assert make_client(BaseUrlClient).get("/things").status_code == 200
    assert api.requests[0].path == "/things"


def test_a_subclass_that_makes_whole_urls_of_paths(make_client: MakeClient, api: Api) -> None:
    class Based(Client):
        def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
            request.url = f"{api.url}{request.url}"
            return super().prepare_request(request)

    assert make_client(Based).get("/reports").status_code == 200
    assert api.requests[0].authorization == "Bearer token-1"


def test_a_subclass_that_says_what_a_refusal_is(
    make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    class SessionTimeoutClient(Client):
        def is_token_refused(self, response: requests.Response) -> bool:
            return response.status_code == 419

    def refuse_the_first(request: Request) -> Reply:
        return Reply(419 if request.authorization == "Bearer token-1" else 200)

    api.pages["/"] = refuse_the_first
    assert make_client(SessionTimeoutClient).get(api.url).status_code == 200
    assert len(tokens.requests) == 2


def test_a_refusal_that_is_a_redirect(
    make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    class LoginPageClient(Client):
        def is_token_refused(self, response: requests.Response) -> bool:
            return response.headers.get("Location") == "/login"

    original = api.script

    def redirect_to_the_login_page(request: Request) -> Reply:
        reply = original(request)
        return Reply(302, b"", {"Location": "/login"}) if reply.status == 401 else reply

    api.script = redirect_to_the_login_page
    client = make_client(LoginPageClient)
    assert client.ensure_token()
    tokens.alive.clear()
    assert client.get(api.url).status_code == 200
    tokens.on_grant = tokens.alive.clear
    tokens.alive.clear()
    # Where the refusal stands there is nobody to log in.
    assert client.get(api.url).status_code == 302
    assert {request.path for request in api.requests} == {"/"}


class ManagerOf07:
    """What a manager had to have in alf 0.7."""

    def __init__(self, token_endpoint: str, client_id: str, client_secret: str) -> None:
        self.given = (token_endpoint, client_id, client_secret)
        self.tokens = iter(["token-a", "token-b", "token-c", "token-d", "token-e"])
        self.current: str | None = None
        self.resets = 0

    def get_token(self) -> str:
        if self.current is None:
            self.current = next(self.tokens)
        return self.current

    def reset_token(self) -> None:
        self.resets += 1
        self.current = None


def test_a_manager_with_the_interface_of_alf_0_7(tokens: TokenServer, api: Api) -> None:
    managers: list[ManagerOf07] = []

    class OwnManagerClient(Client):
        def token_manager_class(self, **options: Any) -> ManagerOf07:  # type: ignore[override]
            managers.append(ManagerOf07(**options))
            return managers[-1]

    tokens.alive = {"token-a", "token-b"}
    with OwnManagerClient(
        token_endpoint=tokens.endpoint, client_id="client-id", client_secret="secret"
    ) as client:
        assert client.get(api.url).status_code == 200
        tokens.alive = {"token-b"}
        assert client.get(api.url).status_code == 200
        tokens.alive = set()
        assert client.get(api.url).status_code == 401
        tokens.alive = {"token-d"}
        assert client.renew_token().access_token == "token-d"
        token = client.ensure_token()
        assert client.token == token
        other = client.manager.replace(token)
        assert other is not None
        assert other.access_token == "token-e"
    assert managers[0].given == (tokens.endpoint, "client-id", "secret")
    assert not tokens.requests


def test_a_manager_of_the_users_own_is_closed_and_told_the_session_if_it_can_be(
    tokens: TokenServer,
) -> None:
    told: list[Any] = []

    class Closing(ManagerOf07):
        follow = staticmethod(told.append)

        def close(self) -> None:
            told.append("closed")

    class OwnManagerClient(Client):
        token_manager_class = Closing

    options = {"client_id": "client-id", "client_secret": "secret"}
    with OwnManagerClient(token_endpoint=tokens.endpoint, **options) as client:
        assert told == [client]
    assert told == [client, "closed"]


def test_a_manager_of_alf_0_7_that_has_a_new_token_already(tokens: TokenServer, api: Api) -> None:
    managers: list[ManagerOf07] = []

    class OwnManagerClient(Client):
        def token_manager_class(self, **options: Any) -> ManagerOf07:  # type: ignore[override]
            managers.append(ManagerOf07(**options))
            return managers[-1]

    original = api.script

    def refuse(request: Request) -> Reply:
        reply = original(request)
        if reply.status == 401:
            managers[0].current = "token-z"
        return reply

    api.script = refuse
    tokens.alive = {"token-z"}
    with OwnManagerClient(
        token_endpoint=tokens.endpoint, client_id="client-id", client_secret="secret"
    ) as client:
        assert client.get(api.url).status_code == 200
    assert managers[0].resets == 0


def test_a_manager_that_overrides_get_token_as_in_alf_0_7(
    make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    class Prefixed(TokenManager):
        def get_token(self) -> str:
            return f"prefix-{super().get_token()}"

    class PrefixedClient(Client):
        token_manager_class = Prefixed

    tokens.alive = {"prefix-token-1", "prefix-token-2"}
    client = make_client(PrefixedClient)
    assert client.get(api.url).status_code == 200
    assert api.requests[0].authorization == "Bearer prefix-token-1"
    tokens.alive = {"prefix-token-2"}
    assert client.get(api.url).status_code == 200


def test_a_manager_of_alf_0_7_that_fails(tokens: TokenServer, api: Api) -> None:
    class Failing(ManagerOf07):
        def get_token(self) -> str:
            if self.resets < 1:
                response = requests.Response()
                response.status_code = 503
                message = "no token"
                raise TokenError(message, response)
            return super().get_token()

    class FailingClient(Client):
        token_manager_class = Failing

    tokens.alive = {"token-a"}
    with FailingClient(
        token_endpoint=tokens.endpoint, client_id="client-id", client_secret="secret"
    ) as client:
        assert client.get(api.url).status_code == 503
        assert client.get(api.url).status_code == 200


# -- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"token_endpoint": ""}, ValueError, "token_endpoint"),
        ({"token_endpoint": None}, TypeError, "token_endpoint"),
        ({"token_endpoint": 7}, TypeError, "token_endpoint"),
        ({"token_endpoint": "example.com/token"}, ValueError, "token_endpoint"),
        ({"token_endpoint": "ftp://example.com/token"}, ValueError, "token_endpoint"),
        ({"token_endpoint": "http:///token"}, ValueError, "token_endpoint"),
        ({"token_endpoint": "http://example.com:port/"}, ValueError, "token_endpoint"),
        ({"token_endpoint": "http://example.com/token#x"}, ValueError, "token_endpoint"),
        ({"token_endpoint": "x://a:top-secret@example.com/?b"}, ValueError, "'x://example.com/'"),
        ({"token_endpoint": "a:top-secret@example.com?b"}, ValueError, "'example.com'"),
        ({"token_endpoint": "a:top-secret@http://b@example.com"}, ValueError, "'example.com'"),
        ({"client_id": ""}, ValueError, "client_id"),
        ({"client_id": None}, TypeError, "client_id"),
        ({"client_id": b"client-id"}, TypeError, "client_id"),
        ({"client_secret": ""}, ValueError, "client_secret"),
        ({"client_secret": None}, TypeError, "client_secret"),
        ({"client_secret": 7}, TypeError, "client_secret"),
        ({"token_storage": object()}, TypeError, "token_storage"),
        ({"token_storage": "redis://"}, TypeError, "token_storage"),
        ({"token_retry": "5"}, TypeError, "token_retry"),
        ({"token_retry": True}, TypeError, "token_retry"),
        ({"token_retry": -1}, ValueError, "token_retry"),
        ({"token_retry": 1, "token_retries": 1}, TypeError, "token_retries"),
        ({"token_timeout": "5"}, TypeError, "token_timeout"),
        ({"token_timeout": True}, TypeError, "token_timeout"),
        ({"token_timeout": (1, 2, 3)}, TypeError, "token_timeout"),
        ({"token_timeout": 0}, ValueError, "token_timeout"),
        ({"token_timeout": (1, -1)}, ValueError, "token_timeout"),
        ({"token_request_params": {"verify": False}}, TypeError, "token_request_params"),
        (
            {"token_request_params": {"timeout": 1}, "token_timeout": 1},
            TypeError,
            "token_request_params",
        ),
        ({"token_session": object()}, TypeError, "token_session"),
        ({"token_hosts": "api.example.com"}, TypeError, "token_hosts"),
        ({"token_hosts": ["https://api.example.com/v1"]}, ValueError, "token_hosts"),
        ({"token_refresh": "never"}, ValueError, "token_refresh"),
        ({"token_settle_time": "1"}, TypeError, "token_settle_time"),
        ({"token_settle_time": -1}, ValueError, "token_settle_time"),
        ({"token_settle_time": float("nan")}, ValueError, "token_settle_time"),
        ({"token_edpoint": "http://example.com"}, TypeError, "token_edpoint"),
    ],
)
def test_bad_input_is_refused_before_any_call(
    tokens: TokenServer, change: dict[str, Any], error: type[Exception], text: str
) -> None:
    given = {
        "token_endpoint": tokens.endpoint,
        "client_id": "client-id",
        "client_secret": "top-secret",
    }
    with pytest.raises(error, match=text) as failure:
        Client(**{**given, **change})
    assert "top-secret" not in str(failure.value)
    assert not tokens.requests


@pytest.mark.parametrize("name", ["token_endpoint", "client_id"])
def test_what_is_missing_is_named(name: str) -> None:
    given: dict[str, Any] = {"token_endpoint": "http://example.com", "client_id": "client-id"}
    del given[name]
    with pytest.raises(TypeError, match=name):
        Client(**given, client_secret="secret")
