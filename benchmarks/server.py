"""Token endpoints and an API on loopback, in a process of their own so that their CPU is not ours.

``python server.py`` prints its address and serves until its standard input is closed. Every
measurement opens a world of its own: a token endpoint on a port that no other has, an API that
takes that endpoint's tokens, and counts of what both saw.

    POST /open            {settings of World}      -> {"world": 1, "endpoint": "http://…/token"}
    POST /worlds/1        {settings, "revoke": true} -> {}
    GET  /worlds/1                                 -> {"token_requests": 3, "refused": 0}
    GET  /api/1           200, or 401 without a token that is alive
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

#: Path, headers (lower case) and body of a request to status and JSON of its answer.
Answer = Callable[[str, dict[str, str], bytes], Awaitable[tuple[int, dict[str, Any]]]]


@dataclass
class World:
    """One token endpoint, and what an API knows of its tokens."""

    delay: float = 0.0  # seconds that the endpoint takes to answer
    status: int = 200
    expires_in: int = 3600
    refuses: bool = False  # the API says 401 to every token
    unreachable: bool = False  # nothing listens on the endpoint's port

    token_requests: int = 0
    refused: int = 0
    alive_until: dict[str, float] = field(default_factory=dict)
    connections: set[asyncio.StreamWriter] = field(default_factory=set)

    async def grant(self, _path: str, _headers: object, _body: bytes) -> tuple[int, dict[str, Any]]:
        self.token_requests += 1
        number = self.token_requests
        await asyncio.sleep(self.delay)
        if self.status != 200:
            return self.status, {"error": "temporarily_unavailable"}
        # As long as an opaque token is; a JWT is longer.
        token = f"{id(self):x}-{number}-".ljust(40, "x")
        self.alive_until[token] = time.monotonic() + self.expires_in
        members = {"token_type": "Bearer", "expires_in": self.expires_in}
        return 200, {"access_token": token, **members}

    def protect(self, authorization: str) -> tuple[int, dict[str, Any]]:
        scheme, _, token = authorization.partition(" ")
        is_alive = time.monotonic() < self.alive_until.get(token, 0.0)
        if self.refuses or scheme != "Bearer" or not is_alive:
            self.refused += 1
            return 401, {"error": "invalid_token"}
        return 200, {"hello": "world"}


async def listen(answer: Answer, connections: set[asyncio.StreamWriter]) -> asyncio.Server:
    """Serve HTTP/1.1 on a free loopback port; ``connections`` are those that are open."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(writer)
        # Cancelled: the server's end.
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                line, *fields = head.rstrip().split("\r\n")
                pairs = (one.partition(":") for one in fields)
                headers = {name.lower(): value.strip() for name, _, value in pairs}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                status, members = await answer(line.split()[1], headers, body)
                payload = json.dumps(members).encode()
                writer.write(
                    f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\n"
                    f"Content-Length: {len(payload)}\r\n\r\n".encode()
                    + payload
                )
        connections.discard(writer)
        writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", 0, backlog=256)


async def main() -> None:
    worlds: dict[int, tuple[World, asyncio.Server]] = {}
    numbers = itertools.count(1)

    async def change(world: World, listener: asyncio.Server, settings: dict[str, Any]) -> None:
        if settings.pop("revoke", False):
            world.alive_until.clear()
        for name, value in settings.items():
            if not hasattr(world, name):
                raise AttributeError(name)
            setattr(world, name, value)
        if world.unreachable:
            listener.close()
            for connection in world.connections:
                connection.transport.abort()

    async def answer(path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, Any]]:
        _, kind, *rest = path.split("/")
        if kind == "open":
            world, number = World(**json.loads(body)), next(numbers)
            listener = await listen(world.grant, world.connections)
            worlds[number] = world, listener
            port = listener.sockets[0].getsockname()[1]
            return 200, {"world": number, "endpoint": f"http://127.0.0.1:{port}/token"}
        world, listener = worlds[int(rest[0])]
        if kind == "api":
            return world.protect(headers.get("authorization", ""))
        if body:
            await change(world, listener, json.loads(body))
            return 200, {}
        return 200, {"token_requests": world.token_requests, "refused": world.refused}

    server = await listen(answer, set())
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
