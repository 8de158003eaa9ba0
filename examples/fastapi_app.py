"""A FastAPI application that calls an API with a Client's token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI, Request, Response

import alf
from alf.httpx import TokenAuth


def make_app(client: alf.Client, api_url: str) -> FastAPI:
    """Make the application; in your own code ``client`` may be a global."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(client.ensure_token)
        async with httpx.AsyncClient(auth=TokenAuth(client), base_url=api_url) as api:
            app.state.api = api
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/reports")
    async def reports(request: Request) -> Any:
        response = await request.app.state.api.get("/reports")
        response.raise_for_status()
        return response.json()

    @app.get("/ready")
    async def ready() -> Response:
        return Response(status_code=200 if client.health().is_ready else 503)

    return app
