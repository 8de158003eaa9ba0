"""A Client's token for aiohttp: a client middleware (aiohttp 3.12 or later)."""

from __future__ import annotations

import asyncio

import aiohttp

import alf


class TokenMiddleware:
    """Brings the token, and answers a 401 with another one and the same request once more."""

    def __init__(self, client: alf.Client) -> None:
        self._manager = client.manager

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        # A look into memory; what may take time happens in a thread.
        token = self._manager.peek(is_fresh=True)
        if token is None:
            token = await asyncio.to_thread(self._manager.token)
        request.headers["Authorization"] = token.authorization
        response = await handler(request)
        if response.status != 401 or not isinstance(request.body, (bytes, aiohttp.BytesPayload)):
            return response
        other = await asyncio.to_thread(self._manager.replace, token, str(request.url.origin()))
        if other is None:
            return response
        response.release()
        request.headers["Authorization"] = other.authorization
        return await handler(request)


async def fetch(client: alf.Client, url: str) -> int:
    """The status of one call."""
    middlewares = (TokenMiddleware(client),)
    async with (
        aiohttp.ClientSession(middlewares=middlewares) as session,
        session.get(url) as response,
    ):
        return response.status
