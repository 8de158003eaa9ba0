"""Every example of the README, run as it stands but for the hosts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import docutils.core
import docutils.nodes
import docutils.utils
import pytest
import requests

from alf import Client, TokenError
from tests.servers import Api, Reply, Request, TokenServer

README = Path(__file__).parent.parent / "README.rst"


def code_blocks() -> list[str]:
    document = docutils.core.publish_doctree(
        README.read_text(encoding="utf-8"),
        source_path=str(README),
        settings_overrides={
            "halt_level": docutils.utils.Reporter.WARNING_LEVEL,
            "file_insertion_enabled": False,
        },
    )
    return [block.astext() for block in document.findall(docutils.nodes.literal_block)]


@pytest.mark.parametrize("block", code_blocks())
def test_an_example_runs(
    block: str,
    make_client: Callable[..., Client],
    tokens: TokenServer,
    api: Api,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    def grant(asked: Request) -> Reply:
        # Basic, of "client-id" and "secret" or "top-secret".
        if asked.authorization in (
            "Basic Y2xpZW50LWlkOnNlY3JldA==",
            "Basic Y2xpZW50LWlkOnRvcC1zZWNyZXQ=",
        ):
            return tokens.granted()
        return Reply(401, {"error": "invalid_client"})

    tokens.script = grant
    tokens.alive.add("a-token")
    original = api.script
    api.script = lambda asked: Reply() if asked.path in ("/health", "/legacy") else original(asked)
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
    for there, here in {
        "http://example.com/token": tokens.endpoint,
        "https://id.example.com": tokens.url,
        "http://example.com": api.url,
        "https://api.example.com": api.url,
        '"api.example.com"': '"127.0.0.1"',
    }.items():
        block = block.replace(there, here)
    if "port=6379" in block:
        port = request.getfixturevalue("redis_port")
        block = block.replace("port=6379", f"port={port}")
    names: dict[str, Any] = {} if "client = Client(" in block else {"client": make_client()}
    exec(compile(block, README.name, "exec"), names)
    sessions = [made for made in names.values() if isinstance(made, requests.Session)]
    assert sessions
    for session in sessions:
        # Also where the example makes a Client and no call.
        if 'client_secret="wrong"' in block:
            with pytest.raises(TokenError):
                session.get(api.url)
        else:
            assert session.get(api.url).status_code == 200
        session.close()
