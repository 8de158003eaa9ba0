"""Use a Client's token in aiohttp, with a client middleware (aiohttp 3.12 or later)."""

from __future__ import annotations

import asyncio

import aiohttp

import alf


class TokenMiddleware:
    """Adds the token to each request; after a 401 it sends the request again with another token."""

    def __init__(self, client: alf.Client) -> None:
        self._manager = client.manager

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        # peek() only reads memory; anything that may block runs in a thread.
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
    """Make one call and return its status."""
    middlewares = (TokenMiddleware(client),)
    async with (
        aiohttp.ClientSession(middlewares=middlewares) as session,
        session.get(url) as response,
    ):
        return response.status
