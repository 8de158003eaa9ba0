"""A refused request is sent again, in a way that what sits around ``Session.send`` can follow."""

from __future__ import annotations

import copy
import functools
import gc
import io
import pickle
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPResponse

from alf import BearerTokenAuth, Client, TokenError
from tests.servers import Api, Reply, Request, Server, TokenServer, hang_up, running

MakeClient = Callable[..., Client]


@pytest.fixture
def revoked(client: Client, tokens: TokenServer) -> Client:
    """A Client whose token the API no longer knows."""
    client.ensure_token()
    tokens.alive.clear()
    return client


def revoke_and_move(tokens: TokenServer, location: str) -> Callable[[Request], Reply]:
    def page(_request: Request) -> Reply:
        tokens.alive.clear()
        return Reply(302, b"", {"Location": location})

    return page


class RefusingServer:
    """Refuses ``token-1`` with an answer that never ends, sent piece by piece."""

    def __init__(self, headers: bytes, piece: bytes, pause: float = 0.0) -> None:
        self.connections = 0
        self.sent = 0
        is_over = self._is_over = threading.Event()
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                outer.connections += 1
                while line := self.rfile.readline():
                    authorization = b""
                    while line.strip():
                        if line.lower().startswith(b"authorization:"):
                            authorization = line
                        line = self.rfile.readline()
                    if b"token-1" not in authorization:
                        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                        continue
                    self.wfile.write(b"HTTP/1.1 401 Unauthorized\r\n" + headers + b"\r\n")
                    while not is_over.wait(pause):
                        self.wfile.write(piece)
                        outer.sent += len(piece)

        class Listener(socketserver.ThreadingTCPServer):
            daemon_threads = True

            def handle_error(self, *args: Any) -> None:
                pass

        self._server = Listener(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        self._is_over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


CHUNK = b"2000\r\n" + b"x" * 0x2000 + b"\r\n"


@pytest.fixture(
    params=[
        (b"Transfer-Encoding: chunked\r\n", CHUNK),
        (b"Transfer-Encoding: chunked\r\n", b"1\r\nx\r\n", 0.05),
        (b"Content-Length: 500\r\n", b"x", 0.05),
        (b"Content-Length: 500\r\n", b"", 0.05),
        (b"Content-Length: 50000000\r\n", b"x" * 8192),
        (b"Content-Length: 500\r\nConnection: close\r\n", b"x", 0.05),
    ],
    ids=["endless", "dripping chunks", "dripping", "silent", "large", "closing"],
)
def slow(request: pytest.FixtureRequest) -> Iterator[RefusingServer]:
    server = RefusingServer(*request.param)
    yield server
    server.stop()


# -- what sits around a Session ----------------------------------------------------------------


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a tracer around ``Session.send`` records."""
    seen: list[Any] = []
    original = requests.Session.send

    def traced(self: requests.Session, request: Any, **kwargs: Any) -> requests.Response:
        try:
            response = original(self, request, **kwargs)
        except Exception as error:
            seen.append(type(error).__name__)
            raise
        seen.append(response.status_code)
        return response

    monkeypatch.setattr(requests.Session, "send", traced)
    return seen


def test_a_tracer_sees_a_401_and_a_second_request(
    revoked: Client, api: Api, seen: list[Any]
) -> None:
    assert revoked.get(api.url).status_code == 200
    assert seen == [401, 200, 200]  # between them the token request


def test_a_tracer_sees_a_hop_that_is_healed(
    client: Client, tokens: TokenServer, api: Api, seen: list[Any]
) -> None:
    api.pages["/a"] = revoke_and_move(tokens, "/b")
    client.ensure_token()
    seen.clear()
    assert client.get(f"{api.url}/a").status_code == 200
    # The hop that was refused, the token request, the hop again, and the whole call.
    assert seen == [401, 200, 200, 200]


@pytest.mark.parametrize("path", ["/", "/a"])
def test_no_exception_passes_a_tracer_where_the_token_is_not_renewed(
    client: Client, tokens: TokenServer, api: Api, seen: list[Any], path: str
) -> None:
    api.pages["/a"] = revoke_and_move(tokens, "/b")
    client.ensure_token()
    if path == "/":
        tokens.alive.clear()
    prepared = client.prepare_request(requests.Request("GET", api.url + path))
    seen.clear()
    tokens.replies = [Reply(503)]
    with pytest.raises(TokenError, match="503"):
        client.send(prepared)
    expected = [401, 503] if path == "/" else [401, 503, 401]
    assert seen == expected
    # The request is left as it was found, and the connection can be used again.
    assert prepared.hooks == {"response": []}
    assert client.get(f"{api.url}/c").status_code == 200
    assert {request.connection for request in api.requests} == {1}


def test_an_endpoint_that_fails_while_a_redirect_is_followed_is_the_answer(
    client: Client, tokens: TokenServer, api: Api
) -> None:
    api.pages["/a"] = revoke_and_move(tokens, "/b")
    client.ensure_token()
    tokens.replies = [Reply(503)]
    assert client.get(f"{api.url}/a").status_code == 503
    tokens.replies = [hang_up, hang_up]
    with pytest.raises(requests.ConnectionError):
        client.get(f"{api.url}/a")


def test_what_retries_around_send_repeats_nothing(
    revoked: Client, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = requests.Session.send

    def retrying(self: requests.Session, request: Any, **kwargs: Any) -> requests.Response:
        for _ in range(2):
            try:
                return original(self, request, **kwargs)
            except Exception:
                continue
        return original(self, request, **kwargs)

    monkeypatch.setattr(requests.Session, "send", retrying)
    assert revoked.get(api.url).status_code == 200
    assert len(api.requests) == 2


def test_what_wraps_the_adapter_sees_both_requests(revoked: Client, api: Api) -> None:
    statuses: list[int] = []

    class Watched(HTTPAdapter):
        def send(self, *args: Any, **kwargs: Any) -> requests.Response:
            response = super().send(*args, **kwargs)
            statuses.append(response.status_code)
            return response

    revoked.mount("http://", Watched())
    assert revoked.get(api.url).status_code == 200
    assert statuses == [401, 200]


def test_a_default_timeout_patched_into_every_session(
    client: Client, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    patched = functools.partialmethod(requests.Session.request, timeout=5)
    monkeypatch.setattr(requests.Session, "request", patched)
    assert client.get(api.url).status_code == 200
    assert client.get(api.url, timeout=None).status_code == 200


def test_a_wrapper_that_adds_to_the_headers(
    client: Client, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = requests.Session.request

    def traced(self: requests.Session, *args: Any, **kwargs: Any) -> requests.Response:
        kwargs.setdefault("headers", {}).update({"traceparent": "x"})
        return original(self, *args, **kwargs)

    monkeypatch.setattr(requests.Session, "request", traced)
    assert client.get(api.url).status_code == 200
    assert api.requests[0].headers["traceparent"] == "x"


class NamedSession(requests.Session):
    """A Session with parameters of its own, as jira, requests-cache and locust have them."""

    names: list[str | None]

    def request(  # type: ignore[override]
        self, method: str, url: str, name: str | None = None, *, headers: Any = None, **kwargs: Any
    ) -> requests.Response:
        self.__dict__.setdefault("names", []).append(name)
        return super().request(method, url, headers=headers, **kwargs)

    def send(self, request: Any, retries: int = 0, **kwargs: Any) -> requests.Response:
        return super().send(request, **kwargs)


@pytest.mark.parametrize("order", [(Client, NamedSession), (NamedSession, Client)])
def test_another_session_is_mixed_in(
    make_client: MakeClient, tokens: TokenServer, api: Api, order: Any
) -> None:
    client: Any = make_client(type("Mixed", order, {}))
    assert client.get(api.url, params={"q": "1"}, headers={"X-Call": "1"}).status_code == 200
    tokens.alive.clear()
    assert client.get(api.url, name="report").status_code == 200
    assert client.names == [None, "report"]
    assert api.requests[0].path == "/?q=1"


def test_arguments_may_come_by_position(client: Client, api: Api) -> None:
    response = client.request("POST", api.url, {"q": "1"}, b"body", {"X-Call": "1"})
    assert response.status_code == 200
    (request,) = api.requests
    assert (request.path, request.body, request.headers["X-Call"]) == ("/?q=1", b"body", "1")


def test_an_auth_by_position_is_not_replaced(client: Client, api: Api) -> None:
    assert client.request("GET", api.url, *[None] * 5, ("a", "b")).status_code == 401
    assert (api.requests[0].authorization or "").startswith("Basic ")


@pytest.mark.parametrize(
    ("args", "kwargs"), [([{}], {"params": {}}), ([None] * 15, {}), ([], {"parms": {}})]
)
def test_arguments_that_request_does_not_take(
    client: Client, tokens: TokenServer, args: list[Any], kwargs: Any
) -> None:
    client.ensure_token()
    with pytest.raises(TypeError, match="argument"):
        client.request("GET", "http://localhost/", *args, **kwargs)


# -- what takes the place of a Session's parts -------------------------------------------------


class Unhashable(requests.Response):
    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = None  # type: ignore[assignment]


def hand_made(request: requests.PreparedRequest, tokens: TokenServer) -> requests.Response:
    token = request.headers["Authorization"].split()[1]
    response = Unhashable()
    response.status_code = 200 if token in tokens.alive else 401
    response.url = request.url or ""
    response.request = request
    response._content = b"made by hand"
    return response


def test_a_send_that_runs_no_hooks(
    revoked: Client, tokens: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[requests.PreparedRequest] = []
    original = requests.Session.send

    def send(self: requests.Session, request: Any, **kwargs: Any) -> requests.Response:
        if request.url.endswith("/token"):
            return original(self, request, **kwargs)
        sent.append(request)
        response = hand_made(request, tokens)
        del response.raw
        return response

    monkeypatch.setattr(requests.Session, "send", send)
    seen: list[int] = []
    revoked.hooks["response"].append(lambda response, **_: seen.append(response.status_code))
    assert revoked.get("http://api.example.com/").status_code == 200
    assert revoked.get("http://api.example.com/", stream=True).text == "made by hand"
    tokens.alive.clear()
    tokens.on_grant = tokens.alive.clear
    assert revoked.get("http://api.example.com/").status_code == 401
    assert (len(sent), seen) == (5, [])


def test_an_adapter_whose_responses_are_made_by_hand(revoked: Client, tokens: TokenServer) -> None:
    class Adapter(HTTPAdapter):
        def send(self, request: Any, **kwargs: Any) -> requests.Response:  # type: ignore[override]
            return hand_made(request, tokens)

    revoked.mount("mock://", Adapter())
    assert revoked.get("mock://api/").text == "made by hand"
    assert revoked.get("mock://api/", stream=True).text == "made by hand"


def test_an_adapter_whose_bodies_come_from_memory(revoked: Client, tokens: TokenServer) -> None:
    class Adapter(HTTPAdapter):
        def send(self, request: Any, **kwargs: Any) -> requests.Response:  # type: ignore[override]
            status = 401 if "token-1" in request.headers["Authorization"] else 200
            headers = {"Content-Length": "4"}
            raw = HTTPResponse(io.BytesIO(b"page"), headers, status, preload_content=False)
            return self.build_response(request, raw)

    revoked.mount("mock://", Adapter())
    assert revoked.get("mock://api/", stream=True).text == "page"


def rewrite(request: requests.PreparedRequest) -> requests.PreparedRequest:
    request.headers["Authorization"] = "".join(list(request.headers["Authorization"]))
    return request


def encode(request: requests.PreparedRequest) -> requests.PreparedRequest:
    request.headers["Authorization"] = request.headers["Authorization"].encode()
    return request


@pytest.mark.parametrize(
    "handle",
    [
        rewrite,
        encode,
        copy.copy,
        copy.deepcopy,
        lambda r: r.copy(),
        lambda r: pickle.loads(pickle.dumps(r)),
    ],
    ids=["rewritten", "encoded", "copied", "deep-copied", "request's copy", "pickled"],
)
@pytest.mark.parametrize("is_before", [True, False])
def test_a_header_that_was_handled_on_the_way_is_still_our_token(
    revoked: Client, api: Api, monkeypatch: pytest.MonkeyPatch, handle: Any, is_before: bool
) -> None:
    if is_before:
        prepared = revoked.prepare_request(requests.Request("GET", api.url))
        assert revoked.send(handle(prepared)).status_code == 200
    else:
        original = requests.Session.send

        def send(self: requests.Session, request: Any, **kwargs: Any) -> requests.Response:
            if "Authorization" in request.headers and "Bearer" in request.headers["Authorization"]:
                request = handle(request)
            return original(self, request, **kwargs)

        monkeypatch.setattr(requests.Session, "send", send)
        last_seen.clear()
        assert revoked.get(api.url, hooks={"response": see_last}).status_code == 200
        assert last_seen == {"status": 200}
    assert [request.authorization for request in api.requests] == [
        "Bearer token-1",
        "Bearer token-2",
    ]


last_seen: dict[str, int] = {}


def see_last(response: requests.Response, **_kwargs: Any) -> None:
    """A hook that can be pickled."""
    last_seen["status"] = response.status_code


def see(seen: list[int], response: requests.Response, **_kwargs: Any) -> None:
    seen.append(response.status_code)


def test_a_token_that_another_auth_object_wrote_stays_as_it_is(
    revoked: Client, tokens: TokenServer, api: Api
) -> None:
    auth = BearerTokenAuth("token-1")
    assert revoked.get(api.url, auth=auth).status_code == 401
    assert [request.authorization for request in api.requests] == ["Bearer token-1"]


def test_a_plain_header_of_an_old_token_of_ours_is_recognised(
    client: Client, tokens: TokenServer, api: Api
) -> None:
    prepared = client.prepare_request(requests.Request("GET", api.url))
    old = pickle.loads(pickle.dumps(prepared))
    client.renew_token()
    assert client.get(api.url).status_code == 200
    tokens.alive.discard("token-1")
    assert client.send(old).status_code == 200
    assert len(tokens.requests) == 2
    old.headers["Authorization"] = "Bearer of-another"
    assert client.send(old).status_code == 401


def test_threads_may_send_the_same_prepared_request(
    revoked: Client, tokens: TokenServer, api: Api
) -> None:
    prepared = revoked.prepare_request(requests.Request("GET", api.url))
    barrier = threading.Barrier(8)
    statuses: list[int] = []

    def send() -> None:
        barrier.wait()
        statuses.extend(revoked.send(prepared).status_code for _ in range(10))

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 80
    assert len(tokens.requests) == 2


# -- hooks -------------------------------------------------------------------------------------


def test_a_hook_that_raises_for_the_status_hides_no_hop_that_can_be_cured(
    client: Client, tokens: TokenServer, api: Api
) -> None:
    api.pages["/a"] = revoke_and_move(tokens, "/b")
    seen: list[int] = []
    client.hooks["response"] += [
        lambda response, **_: response.raise_for_status(),
        functools.partial(see, seen),
    ]
    assert client.get(f"{api.url}/a").status_code == 200
    assert seen == [302, 200]


def test_a_hook_that_raises_for_a_refusal_that_stands(
    revoked: Client, tokens: TokenServer, api: Api
) -> None:
    tokens.on_grant = tokens.alive.clear
    revoked.hooks["response"].append(lambda response, **_: response.raise_for_status())
    with pytest.raises(requests.HTTPError, match="401"):
        revoked.get(api.url)


@pytest.mark.parametrize("stream", [True, False])
def test_a_hook_that_replaces_a_refusal_that_stands(
    revoked: Client, tokens: TokenServer, api: Api, stream: bool
) -> None:
    tokens.on_grant = tokens.alive.clear
    with running(Server(lambda _: Reply(200, b"other", {"Set-Cookie": "other=1"}))) as other:

        def go_elsewhere(response: requests.Response, **kwargs: Any) -> requests.Response:
            request = requests.Request("GET", other.url).prepare()
            second = response.connection.send(request, **kwargs)  # type: ignore[attr-defined]
            second.history.append(response)
            replaced: requests.Response = second
            return replaced

        response = revoked.get(api.url, hooks={"response": go_elsewhere}, stream=stream)
        assert response.text == "other"
        assert revoked.cookies["other"] == "1"


def test_the_next_request_of_a_redirect_has_the_callers_hooks_only(
    client: Client, api: Api
) -> None:
    api.pages["/a"] = Reply(302, b"", {"Location": "/b"})
    response = client.get(f"{api.url}/a", allow_redirects=False)
    assert response.next is not None
    assert response.next.hooks == {"response": []}
    assert client.send(response.next).status_code == 200


# -- cookies -----------------------------------------------------------------------------------


def refuse_with_cookie(tokens: TokenServer, cookie: str) -> Callable[[Request], Reply]:
    def script(request: Request) -> Reply:
        token = (request.authorization or "").partition(" ")[2]
        if token in tokens.alive:
            return Reply(body={"cookie": request.headers["Cookie"]})
        return Reply(401, b"", {"Set-Cookie": cookie})

    return script


@pytest.mark.parametrize(
    ("cookie", "expected"),
    [
        ("NODE=b; Path=/", "SID=old; NODE=b"),
        ("SID=new; Path=/", "SID=new"),
        ("SID=; Path=/; Max-Age=0", None),
    ],
)
def test_the_cookies_of_a_refused_response_reach_the_jar_and_the_second_try(
    client: Client, tokens: TokenServer, api: Api, cookie: str, expected: str | None
) -> None:
    api.pages["/"] = Reply(headers={"Set-Cookie": "SID=old; Path=/"})
    assert client.get(api.url).status_code == 200
    tokens.alive.clear()
    api.script = refuse_with_cookie(tokens, cookie)
    assert client.get(api.url).json()["cookie"] == expected
    jar = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    assert (jar or None) == expected


def test_a_cookie_header_of_the_callers_own_stays(
    revoked: Client, tokens: TokenServer, api: Api
) -> None:
    api.script = refuse_with_cookie(tokens, "NODE=b; Path=/")
    response = revoked.get(api.url, headers={"Cookie": "mine=1"})
    assert response.json()["cookie"] == "mine=1"
    assert revoked.cookies["NODE"] == "b"


def test_a_cookie_of_the_call_goes_with_the_second_try(
    revoked: Client, tokens: TokenServer, api: Api
) -> None:
    api.script = refuse_with_cookie(tokens, "NODE=b; Path=/")
    revoked.cookies.set("a", "session")
    response = revoked.get(api.url, cookies={"a": "call"})
    assert response.json()["cookie"] == "a=call; NODE=b"
    assert dict(revoked.cookies) == {"a": "session", "NODE": "b"}


def test_a_request_that_was_never_given_a_jar(
    revoked: Client, tokens: TokenServer, api: Api
) -> None:
    prepared = revoked.prepare_request(requests.Request("GET", api.url))
    prepared._cookies = None
    api.script = refuse_with_cookie(tokens, "NODE=b; Path=/")
    assert revoked.send(prepared).status_code == 200
    assert revoked.cookies["NODE"] == "b"


# -- refused responses that take long ----------------------------------------------------------


def test_a_stream_does_not_wait_for_the_end_of_a_refused_response(
    client: Client, slow: RefusingServer
) -> None:
    client.ensure_token()
    started_at = time.monotonic()
    with client.get(slow.url, stream=True) as response:
        assert response.text == "ok"
    assert time.monotonic() - started_at < 3
    assert slow.connections == 2


def test_a_refused_response_without_end_is_read_to_a_limit(client: Client) -> None:
    server = RefusingServer(b"Transfer-Encoding: chunked\r\n", CHUNK)
    try:
        assert client.get(server.url).text == "ok"
        assert server.connections == 2
        assert client.get(server.url).text == "ok"
        assert server.connections == 2
        # A mebibyte, and what fits into the buffers of the two sockets.
        assert server.sent < 16 * 1024 * 1024
    finally:
        server.stop()


def test_a_short_refused_response_gives_its_connection_back(revoked: Client, api: Api) -> None:
    with revoked.get(api.url, stream=True, timeout=7) as response:
        assert response.status_code == 200
    assert {request.connection for request in api.requests} == {1}


def test_a_large_refused_response_that_stands_is_delivered_whole(
    revoked: Client, tokens: TokenServer, api: Api
) -> None:
    tokens.on_grant = tokens.alive.clear
    api.script = lambda _request: Reply(401, b"x" * 3_000_000)
    assert revoked.get(api.url).content == b"x" * 3_000_000


def test_a_refused_response_that_breaks_off_is_the_callers_error_only_if_it_stands(
    revoked: Client, tokens: TokenServer, api: Api
) -> None:
    original = api.script

    def script(request: Request) -> Reply:
        reply = original(request)
        if reply.status == 401:
            return Reply(401, b"x", {"Content-Length": "100", "Connection": "close"})
        return reply

    api.script = script
    assert revoked.get(api.url).status_code == 200
    tokens.alive.clear()
    tokens.on_grant = tokens.alive.clear
    # Whether a body that is cut short is an error depends on urllib3.
    try:
        expected: Any = requests.get(api.url).status_code
    except requests.exceptions.RequestException as error:
        expected = type(error)
    try:
        seen: Any = revoked.get(api.url).status_code
    except requests.exceptions.RequestException as error:
        seen = type(error)
    assert seen == expected


# -- how often ---------------------------------------------------------------------------------


class ChangingStorage(dict[str, str]):
    """An entry that is another token each time that it is read."""

    def __init__(self, entry: str) -> None:
        super().__init__()
        self._entry = entry
        self._reads = 0

    def get(self, key: str, default: Any = None) -> Any:
        self._reads += 1
        return self._entry.replace("token-1", f"stored-{self._reads}")


def test_a_call_goes_out_three_times_at_most(
    make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    storage: dict[str, str] = {}
    make_client(token_storage=storage, token_storage_key="mine").ensure_token()
    changing = ChangingStorage(storage["mine"])
    client = make_client(token_storage=changing, token_storage_key="mine")
    tokens.alive.clear()
    tokens.on_grant = tokens.alive.clear
    assert client.post(api.url, data=b"amount=100").status_code == 401
    assert len(api.requests) <= 3


# -- client.auth on another Session ------------------------------------------------------------


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


def test_the_auth_of_a_client_on_a_call_of_requests_itself(
    client: Client, tokens: TokenServer, api: Api
) -> None:
    assert requests.get(api.url, auth=client.auth).status_code == 200
    tokens.alive.clear()
    response = requests.post(api.url, data=b"body", auth=client.auth, params={"q": "1"})
    assert response.status_code == 200
    assert [past.status_code for past in response.history] == [401]
    assert response.history[0].json() == {"error": "invalid_token"}
    assert response.history[0].request.headers["Authorization"] == "Bearer token-1"
    assert response.request.headers["Authorization"] == "Bearer token-2"
    assert [(request.authorization, request.body) for request in api.requests[1:]] == [
        ("Bearer token-1", b"body"),
        ("Bearer token-2", b"body"),
    ]
    assert {request.path for request in api.requests[1:]} == {"/?q=1"}


@pytest.mark.parametrize("stream", [True, False])
def test_the_auth_of_a_client_on_another_session(
    client: Client, tokens: TokenServer, api: Api, session: requests.Session, stream: bool
) -> None:
    session.auth = client.auth
    api.pages["/"] = Reply(headers={"Set-Cookie": "SID=old; Path=/"})
    assert session.get(api.url).status_code == 200
    tokens.alive.clear()
    api.script = refuse_with_cookie(tokens, "SID=new; Path=/")
    seen: list[int] = []
    session.hooks["response"].append(functools.partial(see, seen))
    response = session.get(api.url, stream=stream)
    assert response.json()["cookie"] == "SID=new"
    assert session.cookies["SID"] == "new"
    assert seen == [200]
    assert {request.connection for request in api.requests} == {1}


def test_a_redirect_after_a_refusal_carries_the_new_token(
    client: Client, tokens: TokenServer, api: Api, session: requests.Session
) -> None:
    client.ensure_token()
    tokens.alive.clear()
    session.auth = client.auth
    api.pages["/a"] = Reply(302, b"", {"Location": "/b"})
    response = session.get(f"{api.url}/a")
    assert response.status_code == 200
    assert [(request.path, request.authorization) for request in api.requests] == [
        ("/a", "Bearer token-1"),
        ("/a", "Bearer token-2"),
        ("/b", "Bearer token-2"),
    ]


def test_a_hop_that_is_refused_is_healed(
    client: Client, tokens: TokenServer, api: Api, session: requests.Session
) -> None:
    session.auth = client.auth
    api.pages["/a"] = revoke_and_move(tokens, "/b")
    api.pages["/b"] = Reply(302, b"", {"Location": "/c"})
    assert session.get(f"{api.url}/a").status_code == 200
    assert [(request.path, request.authorization) for request in api.requests] == [
        ("/a", "Bearer token-1"),
        ("/b", "Bearer token-1"),
        ("/b", "Bearer token-2"),
        ("/c", "Bearer token-2"),
    ]


def test_without_a_token_a_foreign_call_raises(
    client: Client, tokens: TokenServer, api: Api
) -> None:
    tokens.replies = [Reply(400, {"error": "invalid_scope"})]
    with pytest.raises(TokenError, match="invalid_scope"):
        requests.get(api.url, auth=client.auth)
    assert not api.requests


def test_a_renewal_that_fails_leaves_the_401_and_a_warning(
    revoked: Client, tokens: TokenServer, api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    tokens.replies = [Reply(503)]
    response = requests.get(api.url, auth=revoked.auth)
    assert (response.status_code, response.history) == (401, [])
    assert response.json() == {"error": "invalid_token"}
    failures = [
        record.getMessage()
        for record in caplog.records
        if record.levelname == "WARNING" and "refused the token of" not in record.getMessage()
    ]
    assert len(failures) == 1
    assert "503" in failures[0]


def test_a_renewal_that_is_spaced_out_leaves_the_401_and_a_warning(
    revoked: Client, tokens: TokenServer, api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    tokens.replies = [Reply(503)] * 9
    for _ in range(3):
        with pytest.raises(TokenError):
            revoked.renew_token()
    caplog.clear()
    assert requests.get(api.url, auth=revoked.auth).status_code == 401
    messages = [record.getMessage() for record in caplog.records if record.levelno >= 30]
    assert any("it was not renewed" in message and "503" in message for message in messages)
    assert len(tokens.requests) == 4


def test_a_foreign_call_that_is_refused_for_good(
    revoked: Client, tokens: TokenServer, api: Api
) -> None:
    tokens.on_grant = tokens.alive.clear
    response = requests.get(api.url, auth=revoked.auth)
    assert [answer.status_code for answer in (*response.history, response)] == [401, 401]
    assert len(tokens.requests) == 2


def test_a_foreign_body_that_can_be_read_once_is_sent_once(
    revoked: Client, tokens: TokenServer, api: Api
) -> None:
    assert requests.post(api.url, data=iter([b"one"]), auth=revoked.auth).status_code == 401
    assert requests.post(api.url, data=iter([b"one"]), auth=revoked.auth).status_code == 200
    assert len(api.requests) == len(tokens.requests) == 2


def test_a_foreign_file_is_sent_again(revoked: Client, api: Api) -> None:
    body = io.BytesIO(b"header body")
    body.seek(7)
    assert requests.put(api.url, data=body, auth=revoked.auth).status_code == 200
    assert [request.body for request in api.requests] == [b"body", b"body"]


def test_a_foreign_response_that_knows_no_connection_stands(
    revoked: Client, tokens: TokenServer, session: requests.Session
) -> None:
    class Adapter(HTTPAdapter):
        def send(self, request: Any, **kwargs: Any) -> requests.Response:  # type: ignore[override]
            return hand_made(request, tokens)

    session.mount("mock://", Adapter())
    assert session.get("mock://api/", auth=revoked.auth).status_code == 401
    assert session.get("mock://api/", auth=revoked.auth).status_code == 200


def test_a_hop_that_lost_the_token_is_not_healed(
    client: Client, tokens: TokenServer, api: Api, session: requests.Session
) -> None:
    elsewhere = api.url.replace("127.0.0.1", "localhost")
    api.pages["/a"] = Reply(302, b"", {"Location": elsewhere})
    session.auth = client.auth
    assert session.get(f"{api.url}/a").status_code == 401
    assert (len(api.requests), len(tokens.requests)) == (2, 1)


def test_what_the_client_calls_a_refusal_is_one_elsewhere_too(
    make_client: MakeClient, tokens: TokenServer, api: Api, session: requests.Session
) -> None:
    class LoginPageClient(Client):
        def is_token_refused(self, response: requests.Response) -> bool:
            return response.headers.get("Location") == "/login"

    original = api.script

    def redirect_to_the_login_page(request: Request) -> Reply:
        reply = original(request)
        return Reply(302, b"", {"Location": "/login"}) if reply.status == 401 else reply

    api.script = redirect_to_the_login_page
    session.auth = make_client(LoginPageClient).auth
    assert session.get(api.url).status_code == 200
    tokens.alive.clear()
    assert session.get(api.url).status_code == 200
    assert {request.path for request in api.requests} == {"/"}


def test_a_foreign_stream_does_not_wait_for_the_end_of_a_refused_response(
    client: Client, slow: RefusingServer
) -> None:
    client.ensure_token()
    started_at = time.monotonic()
    with requests.get(slow.url, stream=True, auth=client.auth) as response:
        assert response.text == "ok"
    assert time.monotonic() - started_at < 3


def test_nothing_is_healed_twice(revoked: Client, tokens: TokenServer, api: Api) -> None:
    tokens.on_grant = tokens.alive.clear
    assert revoked.get(api.url, auth=revoked.auth).status_code == 401
    with requests.Session() as session:
        abroad = session.prepare_request(requests.Request("GET", api.url, auth=revoked.auth))
    assert len(abroad.hooks["response"]) == 1
    tokens.alive.clear()
    api.requests.clear()
    response = revoked.send(abroad)
    assert (response.status_code, response.history) == (401, [])
    assert len(api.requests) <= 2
    assert response.request.hooks == {"response": []}


def test_a_request_of_one_client_with_the_auth_of_another(
    revoked: Client, make_client: MakeClient, api: Api
) -> None:
    response = make_client().get(api.url, auth=revoked.auth)
    assert [answer.status_code for answer in (*response.history, response)] == [401, 200]


def duplicates() -> list[Any]:
    return [copy.copy, copy.deepcopy, lambda auth: pickle.loads(pickle.dumps(auth))]


@pytest.mark.parametrize("duplicate", duplicates(), ids=["copy", "deepcopy", "pickle"])
def test_the_auth_can_be_copied_and_pickled(
    make_client: MakeClient, tokens: TokenServer, api: Api, duplicate: Any
) -> None:
    client = make_client(scope="read", token_hosts=["127.0.0.1"])
    auth = duplicate(client.auth)
    assert requests.get(api.url, auth=auth).status_code == 200
    tokens.alive.clear()
    assert requests.get(api.url, auth=auth).status_code == 200
    assert [request.form["scope"] for request in tokens.requests] == ["read"] * 2
    other = api.url.replace("127.0.0.1", "localhost")
    assert requests.get(other, auth=auth).status_code == 401
    assert api.requests[-1].authorization is None


@pytest.mark.parametrize("duplicate", duplicates()[1:], ids=["deepcopy", "pickle"])
def test_a_copied_auth_lives_without_its_client(
    tokens: TokenServer, api: Api, duplicate: Any
) -> None:
    client = Client(token_endpoint=tokens.endpoint, client_id="c", client_secret="s")
    auth = duplicate(client.auth)
    del client
    assert requests.get(api.url, auth=auth).status_code == 200


def test_a_session_with_the_auth_of_a_client_can_be_pickled(
    client: Client, tokens: TokenServer, api: Api, session: requests.Session
) -> None:
    session.auth = client.auth
    restored = pickle.loads(pickle.dumps(session))
    assert restored.get(api.url).status_code == 200
    tokens.alive.clear()
    assert restored.get(api.url).status_code == 200


def test_a_pickled_request_leaves_the_hook_behind(
    client: Client, tokens: TokenServer, api: Api, session: requests.Session
) -> None:
    prepared = session.prepare_request(requests.Request("GET", api.url, auth=client.auth))
    pickled = pickle.dumps(prepared)
    assert b"top-secret" not in pickled
    tokens.alive.clear()
    assert session.send(pickle.loads(pickled)).status_code == 401
    assert session.send(copy.deepcopy(prepared)).status_code == 200


def test_a_request_does_not_keep_a_client_alive(
    tokens: TokenServer, api: Api, session: requests.Session
) -> None:
    client = Client(token_endpoint=tokens.endpoint, client_id="c", client_secret="s")
    prepared = session.prepare_request(requests.Request("GET", api.url, auth=client.auth))
    del client
    gc.collect()
    tokens.alive.clear()
    assert session.send(prepared).status_code == 401
