"""A token that the API refuses: another one, and the request once more, as if nothing was."""

from __future__ import annotations

import io
import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from alf import BearerTokenAuth, Client, TokenError
from alf.events import Event, TokenRefused
from tests.servers import Api, HangUp, Reply, Request, TokenServer, TurnedClock, hang_up

MakeClient = Callable[..., Client]


@pytest.fixture
def revoked(client: Client, tokens: TokenServer) -> Client:
    """A Client whose token the API knows no more."""
    assert client.ensure_token().access_token == "token-1"
    tokens.alive.clear()
    return client


def statuses_seen(api: Api) -> list[str | None]:
    return [request.authorization for request in api.requests]


# -- the same request --------------------------------------------------------------------------


def test_a_refused_token_is_replaced_and_the_caller_sees_nothing(
    revoked: Client, tokens: TokenServer, api: Api
) -> None:
    response = revoked.get(api.url, params={"q": "1 & 2"}, headers={"X-Call": "one"})
    assert (response.status_code, response.history) == (200, [])
    first, second = api.requests
    assert (first.authorization, second.authorization) == ("Bearer token-1", "Bearer token-2")
    assert (first.method, first.path) == (second.method, second.path) == ("GET", "/?q=1+%26+2")
    assert first.headers["X-Call"] == second.headers["X-Call"] == "one"
    assert response.request.headers["Authorization"] == "Bearer token-2"
    assert len(tokens.requests) == 2


def test_a_token_from_the_storage_that_was_refused_is_not_tried_again(
    make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    storage: dict[str, Any] = {}
    client = make_client(token_storage=storage)
    client.get(api.url)
    tokens.alive.clear()
    # Another process, of which this one knows nothing, stores a second token.
    other_storage: dict[str, Any] = {}
    other = make_client(token_storage=other_storage)
    other.get(api.url)
    storage.update(other_storage)
    tokens.alive.clear()
    client.get(api.url)
    tokens.alive.clear()
    sent = len(api.requests)
    assert client.get(api.url).status_code == 200
    assert statuses_seen(api)[sent:] == ["Bearer token-3", "Bearer token-4"]


class Unseekable(io.RawIOBase):
    """A pipe: it can be read once."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._content.readinto(buffer)

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        raise OSError

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._content)


@pytest.mark.parametrize(
    "body",
    [
        {"data": b"some bytes \x00\xff"},
        {"data": bytearray(b"some bytes")},
        {"data": "ein Text mit Ümläuten".encode()},
        {"data": "a text"},
        {"data": {"a": "1", "b": ["2", "3"]}},
        {"data": [("a", "1"), ("a", "2")]},
        {"json": {"name": "älf", "list": [1, 2]}},
        {"files": {"f": ("name.bin", b"\x00\x01", "application/octet-stream")}},
        {"files": {"f": io.BytesIO(b"in memory")}, "data": {"more": "fields"}},
        {"data": io.BytesIO(b"a file")},
        {"data": io.StringIO("a text file")},
        {"data": b""},
        {},
    ],
    ids=repr,
)
def test_the_server_gets_the_same_bytes_again(revoked: Client, api: Api, body: Any) -> None:
    assert revoked.post(api.url, **body).status_code == 200
    first, second = api.requests
    assert (first.body, first.headers["Content-Type"], first.headers["Content-Length"]) == (
        second.body,
        second.headers["Content-Type"],
        second.headers["Content-Length"],
    )
    assert bool(body) == bool(first.body) or body == {"data": b""}


@pytest.mark.parametrize("offset", [0, 7])
def test_a_file_is_sent_again_from_where_it_stood(
    revoked: Client, api: Api, tmp_path: Path, offset: int
) -> None:
    path = tmp_path / "upload"
    path.write_bytes(b"header\nbody" * 10_000)
    with path.open("rb") as upload:
        upload.seek(offset)
        assert revoked.put(api.url, data=upload).status_code == 200
    expected = path.read_bytes()[offset:]
    assert [request.body for request in api.requests] == [expected, expected]


def test_multipart_with_a_real_file(revoked: Client, api: Api, tmp_path: Path) -> None:
    path = tmp_path / "upload"
    path.write_bytes(b"\x00\x01\x02" * 10_000)
    with path.open("rb") as upload:
        assert revoked.post(api.url, files={"f": upload}).status_code == 200
    first, second = api.requests
    assert first.body == second.body
    assert path.read_bytes() in first.body


@pytest.mark.parametrize(
    "make_body",
    [
        lambda: (piece for piece in [b"one", b"two"]),
        lambda: Unseekable(b"onetwo"),
        lambda: iter([b"onetwo"]),
    ],
)
def test_a_body_that_can_be_read_once_is_sent_once(
    revoked: Client, tokens: TokenServer, api: Api, make_body: Any
) -> None:
    seen: list[int] = []
    response = revoked.post(
        api.url,
        data=make_body(),
        hooks={"response": lambda response, **_: seen.append(response.status_code)},
    )
    assert response.status_code == 401
    assert seen == [401]
    assert response.json() == {"error": "invalid_token"}
    assert [request.body for request in api.requests] == [b"onetwo"]
    # The next call has a fresh token.
    assert revoked.post(api.url, data=make_body()).status_code == 200
    assert statuses_seen(api) == ["Bearer token-1", "Bearer token-2"]
    assert len(tokens.requests) == 2


def test_a_generator_and_an_endpoint_that_is_down(
    revoked: Client, tokens: TokenServer, api: Api
) -> None:
    tokens.replies = [Reply(503)]
    # What the API said of this request is the truth about it.
    assert revoked.post(api.url, data=iter([b"one"])).status_code == 401


# -- connections, hooks, cookies ---------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_the_refused_response_gives_its_connection_back(
    revoked: Client, api: Api, stream: bool
) -> None:
    with revoked.get(api.url, stream=stream) as response:
        assert response.status_code == 200
    assert {request.connection for request in api.requests} == {1}


def test_a_refused_response_without_end_is_not_read_to_it(
    revoked: Client, tokens: TokenServer, api: Api
) -> None:
    original = api.script

    def script(request: Request) -> Reply:
        reply = original(request)
        if reply.status == 401:
            return Reply(401, b"x" * 8_000_000)
        return reply

    api.script = script
    with revoked.get(api.url, stream=True) as response:
        assert response.status_code == 200


def test_a_refused_response_that_breaks_off(revoked: Client, api: Api) -> None:
    original = api.script

    def script(request: Request) -> Reply:
        reply = original(request)
        if reply.status == 401:
            return Reply(401, b"x", {"Content-Length": "100", "Connection": "close"})
        return reply

    api.script = script
    with revoked.get(api.url, stream=True) as response:
        assert response.status_code == 200


def test_hooks_see_the_healed_response_alone(revoked: Client, api: Api) -> None:
    seen: list[int] = []
    revoked.hooks["response"].append(lambda response, **_: seen.append(response.status_code))
    revoked.hooks["response"].append(lambda response, **_: response.raise_for_status())
    assert revoked.get(api.url).status_code == 200
    assert seen == [200]


def test_hooks_see_a_refused_response_that_stands(
    revoked: Client, tokens: TokenServer, api: Api
) -> None:
    tokens.replies = [Reply(body={"access_token": "token-1"})]
    original = api.script

    def refuse_with_a_cookie(request: Request) -> Reply:
        reply = original(request)
        return Reply(reply.status, reply.body, {"Set-Cookie": "refused=1"})

    api.script = refuse_with_a_cookie
    seen: list[tuple[int, bool]] = []
    revoked.hooks["response"].append(
        lambda response, **kwargs: seen.append((response.status_code, kwargs["stream"]))
    )
    with revoked.get(api.url, stream=True) as response:
        assert response.raw.read(3) == b'{"e'
    assert revoked.get(api.url).json() == {"error": "invalid_token"}
    assert seen == [(401, True), (401, False)]
    assert revoked.cookies["refused"] == "1"


def test_a_request_that_was_healed_keeps_its_own_hooks_only(revoked: Client, api: Api) -> None:
    seen: list[int] = []

    def see(response: requests.Response, **_: Any) -> None:
        seen.append(response.status_code)

    prepared = revoked.prepare_request(requests.Request("GET", api.url, hooks={"response": see}))
    response = revoked.send(prepared)
    assert prepared.hooks == response.request.hooks == {"response": [see]}
    # Sent by another session it is a request like any other.
    with requests.Session() as session:
        assert session.send(prepared).status_code == 401
    assert seen == [200, 401]


@pytest.mark.parametrize("is_healed", [True, False])
def test_each_real_request_is_sent_as_a_session_sends_it(
    revoked: Client, tokens: TokenServer, api: Api, monkeypatch: pytest.MonkeyPatch, is_healed: bool
) -> None:
    """What wraps ``Session.send``, as tracing does, sees each of them, token calls included."""
    sent: list[str] = []
    original = requests.Session.send

    def send(self: requests.Session, request: Any, **kwargs: Any) -> requests.Response:
        depth.append(1)
        if len(depth) == 1:
            sent.append(request.url)
        try:
            return original(self, request, **kwargs)
        finally:
            depth.pop()

    depth: list[int] = []
    monkeypatch.setattr(requests.Session, "send", send)
    if not is_healed:
        tokens.on_grant = tokens.alive.clear
    assert revoked.get(f"{api.url}/").status_code == (200 if is_healed else 401)
    assert sent == [f"{api.url}/", tokens.endpoint, f"{api.url}/"]


def test_a_single_hook_of_a_prepared_request(revoked: Client, api: Api) -> None:
    seen: list[int] = []
    prepared = revoked.prepare_request(requests.Request("GET", api.url))
    prepared.hooks = {"response": lambda response, **_: seen.append(response.status_code)}
    assert revoked.send(prepared).status_code == 200
    assert seen == [200]


def test_a_prepared_request_can_be_sent_again_and_again(
    client: Client, tokens: TokenServer, api: Api
) -> None:
    prepared = client.prepare_request(requests.Request("POST", api.url, data=b"body"))
    for _ in range(3):
        assert client.send(prepared).status_code == 200
        tokens.alive.clear()
    assert {request.body for request in api.requests} == {b"body"}


def test_elapsed_is_that_of_the_final_response(revoked: Client, api: Api) -> None:
    assert revoked.get(api.url).elapsed.total_seconds() > 0


def test_cookies_of_the_healed_response_are_kept(revoked: Client, api: Api) -> None:
    api.pages["/"] = Reply(200, b"", {"Set-Cookie": "seen=1"})
    response = revoked.get(api.url)
    assert (revoked.cookies["seen"], response.cookies["seen"]) == ("1", "1")


def test_timeout_and_the_like_hold_for_the_second_try(revoked: Client, api: Api) -> None:
    is_over = threading.Event()

    def slow(_request: Request) -> Reply:
        is_over.wait(10)
        return Reply()

    api.pages["/"] = slow
    with pytest.raises(requests.exceptions.ReadTimeout):
        revoked.get(api.url, timeout=(5, 0.05))
    is_over.set()


# -- redirects ---------------------------------------------------------------------------------


def test_only_the_refused_hop_is_sent_again(client: Client, tokens: TokenServer, api: Api) -> None:
    def move_and_revoke(_request: Request) -> Reply:
        tokens.alive.clear()
        return Reply(307, b"", {"Location": "/b?x=1"})

    api.pages["/a"] = move_and_revoke
    response = client.post(f"{api.url}/a", data=b"body")
    assert response.status_code == 200
    assert [past.status_code for past in response.history] == [307]
    assert [(request.path, request.authorization, request.body) for request in api.requests] == [
        ("/a", "Bearer token-1", b"body"),
        ("/b?x=1", "Bearer token-1", b"body"),
        ("/b?x=1", "Bearer token-2", b"body"),
    ]


def test_redirects_after_a_healed_hop_carry_the_new_token(revoked: Client, api: Api) -> None:
    api.pages["/a"] = Reply(302, b"", {"Location": "/b"})
    response = revoked.get(f"{api.url}/a")
    assert (response.status_code, [past.status_code for past in response.history]) == (200, [302])
    assert [(request.path, request.authorization) for request in api.requests] == [
        ("/a", "Bearer token-1"),
        ("/a", "Bearer token-2"),
        ("/b", "Bearer token-2"),
    ]


def test_redirects_after_a_hop_healed_on_the_way_carry_the_new_token(
    client: Client, tokens: TokenServer, api: Api
) -> None:
    def move_and_revoke(_request: Request) -> Reply:
        tokens.alive.clear()
        return Reply(302, b"", {"Location": "/b"})

    api.pages["/a"] = move_and_revoke
    api.pages["/b"] = Reply(302, b"", {"Location": "/c"})
    assert client.get(f"{api.url}/a").status_code == 200
    assert [(request.path, request.authorization) for request in api.requests] == [
        ("/a", "Bearer token-1"),
        ("/b", "Bearer token-1"),
        ("/b", "Bearer token-2"),
        ("/c", "Bearer token-2"),
    ]


# -- when it does not help ---------------------------------------------------------------------


def test_a_second_401_is_the_answer(revoked: Client, tokens: TokenServer, api: Api) -> None:
    tokens.on_grant = tokens.alive.clear
    response = revoked.get(api.url)
    assert (response.status_code, response.json()) == (401, {"error": "invalid_token"})
    assert statuses_seen(api) == ["Bearer token-1", "Bearer token-2"]
    assert len(tokens.requests) == 2


def test_a_refused_token_that_somebody_elses_auth_object_wrote_stays_as_it_is(
    revoked: Client, tokens: TokenServer, api: Api
) -> None:
    """Even if it is the same token: it is not this Client's to replace."""
    for auth in (BearerTokenAuth("token-1"), BearerTokenAuth("token-x")):
        assert revoked.get(api.url, auth=auth).status_code == 401
    assert statuses_seen(api) == ["Bearer token-1", "Bearer token-x"]
    assert len(tokens.requests) == 1


def test_the_same_token_again_leaves_nothing_to_try(
    revoked: Client, tokens: TokenServer, api: Api
) -> None:
    tokens.replies = [Reply(body={"access_token": "token-1", "expires_in": 3600})]
    assert revoked.get(api.url).status_code == 401
    assert (len(api.requests), len(tokens.requests)) == (1, 2)


@pytest.mark.parametrize("status", [400, 503])
def test_where_no_new_token_is_to_be_had_the_endpoints_error_is_the_answer(
    revoked: Client, tokens: TokenServer, api: Api, status: int
) -> None:
    tokens.replies = [Reply(status, {"error": "no"})]
    response = revoked.get(api.url)
    assert (response.status_code, response.url) == (status, tokens.endpoint)


def test_where_no_new_token_is_to_be_had_send_raises(
    revoked: Client, tokens: TokenServer, api: Api
) -> None:
    prepared = revoked.prepare_request(requests.Request("GET", api.url))
    tokens.replies = [Reply(503)]
    with pytest.raises(TokenError, match="answered 503"):
        revoked.send(prepared)
    # And the refused response's connection is in the pool again.
    assert revoked.send(prepared).status_code == 200
    assert {request.connection for request in api.requests} == {1}


def test_an_endpoint_that_cannot_be_reached_is_the_answer_to_a_refusal(
    revoked: Client, tokens: TokenServer, api: Api
) -> None:
    tokens.replies = [hang_up, hang_up]
    with pytest.raises(requests.exceptions.ConnectionError):
        revoked.get(api.url)


@pytest.mark.parametrize("status", [400, 403, 404, 419, 500])
def test_other_statuses_are_no_refusal(
    client: Client, tokens: TokenServer, api: Api, status: int
) -> None:
    challenge = {"WWW-Authenticate": 'Bearer error="insufficient_scope"'}
    api.pages["/"] = Reply(status, b"", challenge)
    assert client.get(api.url).status_code == status
    assert (len(api.requests), len(tokens.requests)) == (1, 1)


# -- an API that is slow to know a new token ---------------------------------------------------


def test_a_token_too_new_for_the_api_is_tried_once_more(
    make_client: MakeClient, tokens: TokenServer, api: Api, clock: TurnedClock
) -> None:
    client = make_client(clock=clock, token_settle_time=3)
    assert client.ensure_token()
    tokens.alive.clear()
    clock.turn(1)
    clock.on_sleep = lambda: tokens.alive.add("token-1")
    assert client.get(api.url).status_code == 200
    assert statuses_seen(api) == ["Bearer token-1", "Bearer token-1"]
    assert (clock.slept, len(tokens.requests)) == ([2.0], 1)


def test_a_token_that_had_its_time_is_replaced_at_once(
    make_client: MakeClient, tokens: TokenServer, api: Api, clock: TurnedClock
) -> None:
    client = make_client(clock=clock, token_settle_time=3)
    assert client.ensure_token()
    tokens.alive.clear()
    clock.turn(3)
    assert client.get(api.url).status_code == 200
    assert (clock.slept, len(tokens.requests)) == ([], 2)


def test_a_token_that_settling_did_not_help_is_replaced(
    make_client: MakeClient, tokens: TokenServer, api: Api, clock: TurnedClock
) -> None:
    client = make_client(clock=clock, token_settle_time=3)
    assert client.ensure_token()
    tokens.alive.clear()
    assert client.get(api.url).status_code == 200
    assert statuses_seen(api) == ["Bearer token-1", "Bearer token-1", "Bearer token-2"]
    assert (clock.slept, len(tokens.requests)) == ([3.0], 2)


def test_the_replacement_may_be_slow_to_settle_too(
    make_client: MakeClient, tokens: TokenServer, api: Api, clock: TurnedClock
) -> None:
    client = make_client(clock=clock, token_settle_time=3)
    assert client.ensure_token()
    clock.turn(10)
    tokens.alive.clear()
    tokens.on_grant = tokens.alive.clear
    clock.on_sleep = lambda: tokens.alive.add("token-2")
    assert client.get(api.url).status_code == 200
    assert statuses_seen(api) == ["Bearer token-1", "Bearer token-2", "Bearer token-2"]
    assert len(tokens.requests) == 2


def test_settling_is_off_by_default(
    make_client: MakeClient, tokens: TokenServer, api: Api, clock: TurnedClock
) -> None:
    client = make_client(clock=clock)
    assert client.ensure_token()
    tokens.alive.clear()
    assert client.get(api.url).status_code == 200
    assert (clock.slept, len(tokens.requests)) == ([], 2)


# -- an origin that refuses for ever -----------------------------------------------------------


@pytest.fixture
def choosy() -> Iterator[Api]:
    """An API that takes no token at all."""
    nobody = TokenServer()
    server = Api(nobody)
    yield server
    server.stop()
    nobody.stop()


def test_an_origin_that_refuses_for_ever_leaves_the_endpoint_in_peace(
    make_client: MakeClient, tokens: TokenServer, choosy: Api, clock: TurnedClock
) -> None:
    times: list[float] = []
    tokens.on_grant = lambda: times.append(clock.monotonic())
    client = make_client(clock=clock)
    for _ in range(1000):
        assert client.get(choosy.url).status_code == 401
        clock.turn(0.1)  # 100 s in all
    # One to start with, one for the first refusal, then after 1, 2, 4, 8, 16, 32 s.
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert pauses == pytest.approx([0, 1, 2, 4, 8, 16, 32], abs=0.11)
    # Between renewals nothing is sent twice.
    assert len(choosy.requests) <= 1000 + len(tokens.requests)


def test_the_guard_opens_at_least_once_a_minute(
    make_client: MakeClient, tokens: TokenServer, choosy: Api, clock: TurnedClock
) -> None:
    client = make_client(clock=clock)
    for _ in range(100):
        client.get(choosy.url)
        clock.turn(1)
    for _ in range(3):
        before = len(tokens.requests)
        for _ in range(61):
            client.get(choosy.url)
            clock.turn(1)
        assert len(tokens.requests) == before + 1


def test_another_origins_revocation_is_healed_at_once(
    make_client: MakeClient, tokens: TokenServer, api: Api, choosy: Api, clock: TurnedClock
) -> None:
    client = make_client(clock=clock)
    for _ in range(20):
        assert client.get(choosy.url).status_code == 401
        assert client.get(api.url).status_code == 200
    tokens.alive.clear()
    assert client.get(choosy.url).status_code == 401
    assert client.get(api.url).status_code == 200
    assert api.refused == 1


def test_an_origin_that_comes_to_its_senses_is_served_again(
    make_client: MakeClient, tokens: TokenServer, api: Api, clock: TurnedClock
) -> None:
    client = make_client(clock=clock)
    tokens.on_grant = tokens.alive.clear
    for _ in range(5):
        assert client.get(api.url).status_code == 401
    tokens.on_grant = lambda: None
    clock.turn(60)
    assert client.get(api.url).status_code == 200
    # A real revocation after that is healed at once again.
    tokens.alive.clear()
    assert client.get(api.url).status_code == 200


def test_a_revocation_each_minute_is_no_origin_that_refuses_for_ever(
    make_client: MakeClient, tokens: TokenServer, api: Api, clock: TurnedClock
) -> None:
    client = make_client(clock=clock)
    for _ in range(20):
        assert client.get(api.url).status_code == 200
        tokens.alive.clear()
        clock.turn(60)
    assert api.refused == 19


def test_a_replacement_that_never_reached_the_api_is_no_refused_one(
    make_client: MakeClient, tokens: TokenServer, api: Api, clock: TurnedClock
) -> None:
    client = make_client(clock=clock)
    assert client.ensure_token()
    tokens.alive.clear()
    original = api.script

    def hang_up_on_the_second(request: Request) -> Reply:
        if request.authorization == "Bearer token-2":
            raise HangUp
        return original(request)

    api.script = hang_up_on_the_second
    with pytest.raises(requests.exceptions.ConnectionError):
        client.get(api.url)
    api.script = original
    client.renew_token()
    tokens.alive.clear()
    assert client.get(api.url).status_code == 200


def test_an_origin_may_be_forgotten_while_its_call_is_under_way(
    make_client: MakeClient, tokens: TokenServer, api: Api, choosy: Api, clock: TurnedClock
) -> None:
    def meanwhile(request: Request) -> Reply:
        if request.authorization != "Bearer token-2":
            return Reply(401)
        clock.turn(121)
        assert client.get(choosy.url).status_code == 401
        return Reply(200)

    client = make_client(clock=clock)
    api.script = meanwhile
    assert client.get(api.url).status_code == 200


def test_an_event_handler_may_have_an_origin_forgotten(
    make_client: MakeClient,
    tokens: TokenServer,
    api: Api,
    choosy: Api,
    clock: TurnedClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def call_another(event: Event) -> None:
        if isinstance(event, TokenRefused) and event.origin == api.url:
            clock.turn(121)
            assert client.get(choosy.url).status_code == 401

    client = make_client(clock=clock, on_event=call_another)
    client.ensure_token()
    tokens.alive.clear()
    assert client.get(api.url).status_code == 200
    said = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert any(text.startswith(f"{api.url} refused the token") for text in said)


def test_what_is_long_past_is_not_held_against_an_origin(
    make_client: MakeClient, tokens: TokenServer, api: Api, choosy: Api, clock: TurnedClock
) -> None:
    client = make_client(clock=clock)
    for _ in range(10):
        assert client.get(choosy.url).status_code == 401
        clock.turn(10)
    clock.turn(600)
    tokens.alive.clear()
    assert client.get(api.url).status_code == 200
    before = len(tokens.requests)
    for _ in range(3):
        assert client.get(choosy.url).status_code == 401
        clock.turn(1.1)
    # Spaced out from one second on again.
    assert len(tokens.requests) >= before + 2
