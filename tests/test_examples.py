"""The recipes in examples/ for other HTTP clients, run against servers."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import httpx
import pytest

from alf import Client, TokenError
from examples.aiohttp_client import TokenMiddleware, fetch
from examples.fastapi_app import make_app
from examples.grpc_credentials import call, secure_channel
from tests.servers import Api, Reply, Request, TokenServer

ROOT = Path(__file__).parent.parent


@pytest.fixture
def revoked(client: Client, tokens: TokenServer) -> Client:
    client.ensure_token()
    tokens.alive.clear()
    return client


# -- aiohttp -----------------------------------------------------------------------------------


def test_aiohttp_has_the_token(client: Client, tokens: TokenServer, api: Api) -> None:
    assert asyncio.run(fetch(client, api.url)) == 200
    assert asyncio.run(fetch(client, api.url)) == 200
    tokens.alive.clear()
    assert asyncio.run(fetch(client, api.url)) == 200
    assert [request.authorization for request in api.requests] == [
        "Bearer token-1",
        "Bearer token-1",
        "Bearer token-1",
        "Bearer token-2",
    ]


def test_tasks_of_aiohttp_share_a_token_request(
    client: Client, tokens: TokenServer, api: Api
) -> None:
    async def work() -> set[int]:
        async with aiohttp.ClientSession(middlewares=(TokenMiddleware(client),)) as session:

            async def one() -> int:
                async with session.post(api.url, json={"a": 1}) as response:
                    return response.status

            return set(await asyncio.gather(*(one() for _ in range(50))))

    assert asyncio.run(work()) == {200}
    assert len(tokens.requests) == 1
    tokens.alive.clear()
    assert asyncio.run(work()) == {200}
    assert len(tokens.requests) == 2


def test_aiohttp_gets_a_refusal_that_stands(revoked: Client, tokens: TokenServer, api: Api) -> None:
    tokens.replies = [Reply(body={"access_token": "token-1"})]
    assert asyncio.run(fetch(revoked, api.url)) == 401


# -- gRPC --------------------------------------------------------------------------------------


@pytest.fixture
def target(tokens: TokenServer) -> Iterator[str]:
    """A gRPC server that echoes, for who comes with a token that is alive."""

    def echo(request: bytes, context: grpc.ServicerContext) -> bytes:
        metadata = dict(context.invocation_metadata())
        if str(metadata["authorization"]).removeprefix("Bearer ") not in tokens.alive:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no such token")
        return request

    server = grpc.server(ThreadPoolExecutor(2))
    handlers = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Echo", handlers)])
    port = server.add_secure_port("127.0.0.1:0", grpc.local_server_credentials())
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_grpc_has_the_token(client: Client, tokens: TokenServer, target: str) -> None:
    with secure_channel(client, target, grpc.local_channel_credentials()) as channel:
        method = channel.unary_unary("/test.Echo/Echo")
        assert call(client, method, b"one") == b"one"
        tokens.alive.clear()
        assert call(client, method, b"two") == b"two"
        assert len(tokens.requests) == 2
        tokens.alive.clear()
        tokens.on_grant = tokens.alive.clear
        with pytest.raises(grpc.RpcError, match="no such token"):
            call(client, method, b"three")


def test_grpc_without_a_token(client: Client, tokens: TokenServer, target: str) -> None:
    tokens.replies = [Reply(400, {"error": "invalid_scope"})] * 2
    with secure_channel(client, target, grpc.local_channel_credentials()) as channel:
        method = channel.unary_unary("/test.Echo/Echo")
        with pytest.raises(TokenError):
            call(client, method, b"one")
        with pytest.raises(grpc.RpcError, match="invalid_scope"):
            method(b"one")


# -- FastAPI -----------------------------------------------------------------------------------


def test_fastapi(client: Client, tokens: TokenServer, api: Api) -> None:
    async def work() -> list[Any]:
        app = make_app(client, api.url)
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://app") as http,
        ):
            tokens.alive.clear()
            answers = [await http.get(path) for path in ("/reports", "/ready")]
            return [(answer.status_code, answer.content) for answer in answers]

    assert asyncio.run(work()) == [(200, b'{"hello":"world"}'), (200, b"")]
    assert len(tokens.requests) == 2


# -- HTTPie ------------------------------------------------------------------------------------


def test_httpie(tokens: TokenServer, api: Api, tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    info = plugins / "httpie_alf-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: httpie-alf\nVersion: 1\n")
    entry = "[httpie.plugins.auth.v1]\nalf = examples.httpie_alf:AlfPlugin\n"
    (info / "entry_points.txt").write_text(entry)
    original = api.script

    def forget_the_first_token(request: Request) -> Reply:
        tokens.alive.discard("token-1")
        return original(request)

    api.script = forget_the_first_token
    program = [sys.executable, "-m", "httpie", "--ignore-stdin", "--auth-type=alf"]
    done = subprocess.run(
        [*program, "--check-status", "POST", f"{api.url}/reports", "a=1"],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{plugins}",
            "HTTPIE_CONFIG_DIR": str(tmp_path),
            "ALF_TOKEN_ENDPOINT": tokens.endpoint,
            "ALF_CLIENT_ID": "client-id",
            "ALF_CLIENT_SECRET": "secret",
        },
    )
    assert done.returncode == 0, done.stderr
    assert '"hello"' in done.stdout
    assert [(request.authorization, request.body) for request in api.requests] == [
        ("Bearer token-1", b'{"a": "1"}'),
        ("Bearer token-2", b'{"a": "1"}'),
    ]
