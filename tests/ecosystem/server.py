"""A token endpoint and an API in a process of their own, which no patcher of the trial reaches.

Commands come as lines of JSON on standard input; each is answered by a line on standard output.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tests.servers import Reply, Request, Server, TokenServer

ROOT = Path(__file__).parent.parent.parent


class Remote:
    """The trial's end of the pipe."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.ecosystem.server"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.endpoint, self.url = self._read()

    def pages(self, pages: dict[str, Any]) -> None:
        """What the API answers, by path: a JSON value, a text, or [status, headers, text]."""
        self._call("pages", pages)

    def accept(self, token: str) -> None:
        """Count this token among those that the API accepts."""
        self._call("accept", token)

    def revoke_all(self) -> None:
        """From now on the API refuses every token that has been granted so far."""
        self._call("revoke_all")

    def seen(self) -> dict[str, Any]:
        """What has come in since the last look."""
        return self._call("seen")

    def stop(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _call(self, name: str, argument: Any = None) -> Any:
        assert self._process.stdin
        self._process.stdin.write(json.dumps([name, argument]).encode() + b"\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout
        return json.loads(self._process.stdout.readline())


class _Servers:
    def __init__(self) -> None:
        self._tokens = TokenServer()
        self._api = Server(self._protect)
        self._pages: dict[str, Any] = {}
        self._log: list[tuple[str, str, int]] = []

    def addresses(self) -> Any:
        return self._tokens.endpoint, self._api.url

    def pages(self, pages: dict[str, Any]) -> None:
        self._pages = pages

    def accept(self, token: str) -> None:
        self._tokens.alive.add(token)

    def revoke_all(self, _argument: None) -> None:
        self._tokens.alive.clear()

    def seen(self, _argument: None) -> Any:
        seen = {"tokens": len(self._tokens.requests), "api": self._log}
        self._tokens.requests.clear()
        self._log = []
        return seen

    def _protect(self, request: Request) -> Reply:
        reply = self._answer(request)
        self._log.append((request.method, request.path, reply.status))
        return reply

    def _answer(self, request: Request) -> Reply:
        scheme, _, token = (request.authorization or "").partition(" ")
        if scheme != "Bearer" or token not in self._tokens.alive:
            return Reply(401, {"error": "invalid_token"}, {"WWW-Authenticate": "Bearer"})
        path = unquote(request.path.partition("?")[0])
        page = self._pages.get(f"{request.method} {path}", self._pages.get(path))
        if isinstance(page, list) and page and isinstance(page[0], int):
            status, headers, body = page
            return Reply(status, body, headers)
        if page is None:
            return Reply(404, {"error": f"no page {request.method} {path}"})
        return Reply(body=page)


def _main() -> None:
    servers = _Servers()
    print(json.dumps(servers.addresses()), flush=True)
    for line in sys.stdin:
        name, argument = json.loads(line)
        print(json.dumps(getattr(servers, name)(argument)), flush=True)


if __name__ == "__main__":
    _main()
