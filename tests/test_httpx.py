"""A Client's token on requests of httpx and httpx2, sync and async."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import httpx
import httpx2
import pytest

from alf import Client, TokenError
from alf.httpx import TokenAuth
from tests.servers import Api, Reply, Request, Server, TokenServer, running

MakeClient = Callable[..., Client]


class Caller:
    """Sends requests, sync or async, with httpx or httpx2."""

    def __init__(self, module: Any, is_async: bool) -> None:
        self.module = module
        self.is_async = is_async

    def request(self, client: Client, method: str, url: str, **options: Any) -> Any:
        if not self.is_async:
            with self.module.Client(auth=TokenAuth(client), follow_redirects=True) as api:
                return api.request(method, url, **options)

        async def send() -> Any:
            async with self.module.AsyncClient(
                auth=TokenAuth(client), follow_redirects=True
            ) as api:
                return await api.request(method, url, **options)

        return asyncio.run(send())

    def get(self, client: Client, url: str, **options: Any) -> Any:
        return self.request(client, "GET", url, **options)

    def stream_of(self, *pieces: bytes) -> Any:
        async def generate() -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece

        return generate() if self.is_async else iter(pieces)


@pytest.fixture(
    params=[(httpx, False), (httpx, True), (httpx2, False), (httpx2, True)],
    ids=["httpx", "httpx async", "httpx2", "httpx2 async"],
)
def caller(request: pytest.FixtureRequest) -> Caller:
    return Caller(*request.param)


@pytest.fixture
def revoked(client: Client, tokens: TokenServer) -> Client:
    client.ensure_token()
    tokens.alive.clear()
    return client


def test_a_token_goes_along(caller: Caller, client: Client, tokens: TokenServer, api: Api) -> None:
    for _ in range(2):
        assert caller.get(client, api.url).status_code == 200
    assert {request.authorization for request in api.requests} == {"Bearer token-1"}
    assert len(tokens.requests) == 1


def test_a_refused_token_is_replaced(
    caller: Caller, revoked: Client, tokens: TokenServer, api: Api
) -> None:
    response = caller.request(revoked, "POST", api.url, content=b"body")
    assert response.status_code == 200
    assert [past.status_code for past in response.history] == [401]
    assert [(request.authorization, request.body) for request in api.requests] == [
        ("Bearer token-1", b"body"),
        ("Bearer token-2", b"body"),
    ]
    assert len(tokens.requests) == 2


def test_a_refusal_that_stands(
    caller: Caller, revoked: Client, tokens: TokenServer, api: Api
) -> None:
    tokens.on_grant = tokens.alive.clear
    assert caller.get(revoked, api.url).status_code == 401
    assert (len(api.requests), len(tokens.requests)) == (2, 2)


def test_a_body_that_can_be_read_once_is_sent_once(
    caller: Caller, revoked: Client, tokens: TokenServer, api: Api
) -> None:
    body = caller.stream_of(b"one", b"two")
    assert caller.request(revoked, "POST", api.url, content=body).status_code == 401
    body = caller.stream_of(b"one", b"two")
    assert caller.request(revoked, "POST", api.url, content=body).status_code == 200
    assert len(api.requests) == len(tokens.requests) == 2


def test_only_the_refused_hop_is_sent_again(
    caller: Caller, client: Client, tokens: TokenServer, api: Api
) -> None:
    def move_and_revoke(_request: Request) -> Reply:
        tokens.alive.clear()
        return Reply(307, b"", {"Location": "/b"})

    api.pages["/a"] = move_and_revoke
    assert caller.request(client, "POST", f"{api.url}/a", json={"a": 1}).status_code == 200
    assert [(request.path, request.authorization) for request in api.requests] == [
        ("/a", "Bearer token-1"),
        ("/b", "Bearer token-1"),
        ("/b", "Bearer token-2"),
    ]


def test_a_redirect_to_another_host_takes_the_token_away(
    caller: Caller, client: Client, tokens: TokenServer, api: Api
) -> None:
    elsewhere = api.url.replace("127.0.0.1", "localhost")
    api.pages["/a"] = Reply(302, b"", {"Location": elsewhere})
    assert caller.get(client, f"{api.url}/a").status_code == 401
    assert (api.requests[1].authorization, len(tokens.requests)) == (None, 1)


def test_token_hosts_hold(
    caller: Caller, make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    client = make_client(token_hosts=["api.example.com"])
    assert caller.get(client, api.url).status_code == 401
    assert api.requests[0].authorization is None
    assert not tokens.requests


def test_without_a_token_nothing_is_sent(
    caller: Caller, client: Client, tokens: TokenServer, api: Api
) -> None:
    tokens.replies = [Reply(400, {"error": "invalid_scope"})]
    with pytest.raises(TokenError, match="invalid_scope"):
        caller.get(client, api.url)
    assert not api.requests


def test_a_renewal_that_fails_leaves_the_401_and_a_warning(
    caller: Caller,
    revoked: Client,
    tokens: TokenServer,
    api: Api,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tokens.replies = [Reply(503)]
    response = caller.get(revoked, api.url)
    assert (response.status_code, response.json()) == (401, {"error": "invalid_token"})
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len([text for text in warnings if "503" in text]) == 1


def test_what_the_client_calls_a_refusal_is_one_here(
    caller: Caller, make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    class ForbiddenClient(Client):
        def is_token_refused(self, response: Any) -> bool:
            return response.status_code == 403 and "X-Dead-Token" in response.headers

    original = api.script

    def forbid(request: Request) -> Reply:
        reply = original(request)
        return Reply(403, b"", {"X-Dead-Token": "1"}) if reply.status == 401 else reply

    api.script = forbid
    client = make_client(ForbiddenClient)
    client.ensure_token()
    tokens.alive.clear()
    assert caller.get(client, api.url).status_code == 200


def test_tokens_bound_to_a_key(
    caller: Caller, make_client: MakeClient, tokens: TokenServer
) -> None:
    tokens.members = {"token_type": "DPoP"}

    def answer(request: Request) -> Reply:
        proofs.append(request.headers["DPoP"])
        if len(proofs) == 1:
            challenge = 'DPoP error="use_dpop_nonce"'
            return Reply(401, b"", {"WWW-Authenticate": challenge, "DPoP-Nonce": "a-nonce"})
        return Reply()

    proofs: list[str] = []
    with running(Server(answer)) as server:
        assert caller.get(make_client(dpop=True), server.url).status_code == 200
    assert len(set(proofs)) == len(server.requests) == 2
    assert len(tokens.requests) == 1


def test_a_stream_is_not_read(caller: Caller, client: Client, api: Api) -> None:
    api.pages["/"] = Reply(200, b"x" * 100_000)
    auth = TokenAuth(client)

    async def receive() -> bytes:
        async with (
            caller.module.AsyncClient(auth=auth) as http,
            http.stream("GET", api.url) as response,
        ):
            assert not response.is_stream_consumed
            return b"".join([piece async for piece in response.aiter_bytes()])

    if caller.is_async:
        assert asyncio.run(receive()) == b"x" * 100_000
    else:
        with (
            caller.module.Client(auth=auth) as http,
            http.stream("GET", api.url) as response,
        ):
            assert not response.is_stream_consumed


@pytest.mark.parametrize("module", [httpx, httpx2])
@pytest.mark.parametrize("is_cold", [True, False])
def test_two_hundred_tasks_make_one_token_request(
    module: Any, client: Client, tokens: TokenServer, api: Api, is_cold: bool
) -> None:
    if not is_cold:
        client.ensure_token()
        tokens.alive.clear()
        tokens.requests.clear()
    gaps: list[float] = []

    def grant_slowly(_request: Request) -> Reply:
        time.sleep(0.5)
        return tokens.granted()

    async def tick() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            gaps.append(time.monotonic() - before)

    async def work() -> list[int]:
        ticker = asyncio.create_task(tick())
        limits = module.Limits(max_connections=20)
        async with module.AsyncClient(auth=TokenAuth(client), timeout=30, limits=limits) as http:
            responses = await asyncio.gather(*(http.get(api.url) for _ in range(200)))
        ticker.cancel()
        return [response.status_code for response in responses]

    tokens.replies = [grant_slowly]
    assert asyncio.run(work()) == [200] * 200
    assert len(tokens.requests) == 1
    # While the token was requested the loop went on.
    assert len(gaps) > 20


def test_a_task_that_is_cancelled_is_gone_at_once(
    client: Client, tokens: TokenServer, api: Api
) -> None:
    is_over = threading.Event()

    def hang(_request: Request) -> Reply:
        is_over.wait(10)
        return tokens.granted()

    async def work() -> float:
        async with httpx.AsyncClient(auth=TokenAuth(client)) as http:
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(http.get(api.url), 0.2)
            waited = time.monotonic() - began
            is_over.set()
            return waited

    tokens.replies = [hang]
    assert asyncio.run(work()) < 5
    assert not api.requests


def test_a_token_that_is_due_is_renewed(
    make_client: MakeClient, tokens: TokenServer, api: Api, clock: Any
) -> None:
    client = make_client(clock=clock, token_refresh="blocking")

    async def work() -> None:
        async with httpx.AsyncClient(auth=TokenAuth(client)) as http:
            assert (await http.get(api.url)).status_code == 200
            clock.turn(3580)
            assert (await http.get(api.url)).status_code == 200

    asyncio.run(work())
    assert [request.authorization for request in api.requests] == [
        "Bearer token-1",
        "Bearer token-2",
    ]


def test_it_works_with_any_event_loop(client: Client, api: Api) -> None:
    async def work() -> int:
        async with httpx.AsyncClient(auth=TokenAuth(client)) as http:
            return (await http.get(api.url)).status_code

    assert anyio.run(work) == 200


class OwnManager:
    def __init__(self, **_options: Any) -> None:
        self.resets = 0

    def get_token(self) -> str:
        return f"token-{self.resets + 1}"

    def reset_token(self) -> None:
        self.resets += 1


def test_a_manager_of_alf_0_7(caller: Caller, tokens: TokenServer, api: Api) -> None:
    own: Any = type("OwnClient", (Client,), {"token_manager_class": OwnManager})
    client = own(token_endpoint=tokens.endpoint, client_id="c", client_secret="s")
    tokens.alive = {"token-2"}
    assert caller.get(client, api.url).status_code == 200
    assert not tokens.requests


@pytest.fixture(autouse=True)
def closed_loops() -> Iterator[None]:
    yield
    asyncio.set_event_loop(None)


def test_without_the_extra_the_error_names_it() -> None:
    program = """
import sys
sys.modules["httpx"] = sys.modules["httpx2"] = None
from alf import Client
from alf.httpx import TokenAuth
client = Client(token_endpoint="https://id.example.com/token", client_id="c", client_secret="s")
try:
    TokenAuth(client)
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "pip install 'alf[httpx]'" in done.stdout, done.stderr
