"""For tests of code that uses alf: a token endpoint in this process, and a Client without one.

>>> with FakeTokenEndpoint() as endpoint:
...     client = Client(**endpoint.credentials)
...     assert client.ensure_token().access_token == endpoint.granted[-1]

Nothing here is for production.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import secrets
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote_plus

from alf.client import Client
from alf.tokens import Token

__all__ = ["FakeTokenEndpoint", "StaticToken", "TokenRequest"]


@dataclass(frozen=True)
class TokenRequest:
    """A token request as the endpoint saw it.

    :param form: the values of each parameter, such as ``{"scope": ["read write"]}``.
    :param headers: the headers, whose names are compared without case.
    """

    form: Mapping[str, list[str]]
    headers: Message


@dataclass
class _Answer:
    status: int
    payload: bytes
    headers: Mapping[str, str]
    times: float


class FakeTokenEndpoint:
    """A token endpoint (RFC 6749 §3.2) on a free port of loopback, for a ``with`` block.

    Each request gets a new token. What may be changed at any time, from any thread:

    :param expires_in: what the answers have as ``expires_in``, in seconds; ``None``: nothing.
    :param members: other members of the answers, such as ``scope``.
    :param client_id: the client that may have tokens.
    :param client_secret: its secret. Who brings another id or secret, by Basic or in the form, is
        refused as ``invalid_client``. Client assertions are not looked into.
    """

    def __init__(
        self,
        *,
        expires_in: Any = 3600,
        members: Mapping[str, Any] | None = None,
        client_id: str = "client-id",
        client_secret: str = "client-secret",
    ) -> None:
        self.expires_in = expires_in
        self.members = dict(members or {})
        self.client_id = client_id
        self.client_secret = client_secret
        #: The requests so far, refused ones included.
        self.requests: list[TokenRequest] = []
        #: The access tokens granted so far.
        self.granted: list[str] = []
        self._revoked: set[str] = set()
        self._answer: _Answer | None = None
        self._lock = threading.Lock()
        self._is_open = threading.Event()
        self._is_open.set()
        self._server: _Server | None = None

    def __enter__(self) -> FakeTokenEndpoint:
        self._server = _Server(("127.0.0.1", 0), functools.partial(_Handler, self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._is_open.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """The URL of the endpoint; after the ``with`` block nobody answers there.

        :raises RuntimeError: the block has not begun.
        """
        if self._server is None:
            message = "a FakeTokenEndpoint has a URL within its with block"
            raise RuntimeError(message)
        return f"http://127.0.0.1:{self._server.server_port}/token"

    @property
    def credentials(self) -> dict[str, str]:
        """The keyword arguments that make a Client of this endpoint."""
        return {
            "token_endpoint": self.url,
            "client_id": self.client_id,
            "client_secret": self.client_secret,
        }

    def refuse(self, error: str = "invalid_client", *, times: int | None = None) -> None:
        """Answer with an error as RFC 6749 §5.2 has it.

        :param error: its code.
        :param times: how often; ``None``: until :meth:`grant`.
        """
        status = 401 if error == "invalid_client" else 400
        self.answer(status, {"error": error}, times=times)

    def fail(self, status: int = 503, *, times: int | None = None) -> None:
        """Answer with a status and an empty body; ``times`` as in :meth:`refuse`."""
        self.answer(status, times=times)

    def answer(
        self,
        status: int,
        body: Any = b"",
        headers: Mapping[str, str] | None = None,
        *,
        times: int | None = None,
    ) -> None:
        """Answer with what is given; ``times`` as in :meth:`refuse`.

        :param status: the status.
        :param body: ``bytes``, or what becomes JSON.
        :param headers: such as ``{"Retry-After": "60"}``.
        """
        is_json = not isinstance(body, bytes)
        payload = json.dumps(body).encode() if is_json else body
        kind = {"Content-Type": "application/json" if is_json else "text/plain"}
        count = float("inf") if times is None else times
        with self._lock:
            self._answer = _Answer(status, payload, {**kind, **(headers or {})}, count)

    def grant(self) -> None:
        """Grant tokens again."""
        with self._lock:
            self._answer = None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Within the ``with`` block requests come in and are not answered before its end."""
        self._is_open.clear()
        try:
            yield
        finally:
            self._is_open.set()

    def revoke(self, access_token: str | None = None) -> None:
        """Have a token count as revoked; by default all that were granted so far."""
        with self._lock:
            self._revoked.update(self.granted if access_token is None else [access_token])

    def accepts(self, authorization: str | None) -> bool:
        """Whether an API should let a request with this ``Authorization`` header in.

        It should if the header carries a token that was granted here and not revoked since; its
        age is not looked at.
        """
        token = (authorization or "").partition(" ")[2]
        with self._lock:
            return token in self.granted and token not in self._revoked

    def _reply(self, request: TokenRequest) -> _Answer:
        with self._lock:
            self.requests.append(request)
        self._is_open.wait()
        with self._lock:
            answer = self._answer
            if answer is not None and answer.times > 0:
                answer.times -= 1
                return answer
            if not self._knows(request):
                payload = json.dumps({"error": "invalid_client"}).encode()
                return _Answer(401, payload, {"WWW-Authenticate": "Basic"}, 1)
            self.granted.append(f"token-{len(self.granted) + 1}-{secrets.token_urlsafe(12)}")
            members = {"access_token": self.granted[-1], "token_type": "Bearer", **self.members}
            if self.expires_in is not None:
                members["expires_in"] = self.expires_in
        return _Answer(200, json.dumps(members).encode(), {"Content-Type": "application/json"}, 1)

    def _knows(self, request: TokenRequest) -> bool:
        """Whether it comes from the client: by Basic, by the form, or by an assertion."""
        scheme, _, credentials = (request.headers["Authorization"] or "").partition(" ")
        if scheme == "Basic":
            pair = base64.b64decode(credentials).decode().partition(":")
            given = [unquote_plus(pair[0]), unquote_plus(pair[2])]
            return given == [self.client_id, self.client_secret]
        if "client_assertion" in request.form:
            return True
        given = [request.form.get(name, [""])[0] for name in ("client_id", "client_secret")]
        return given == [self.client_id, self.client_secret]


class _Server(ThreadingHTTPServer):
    #: Closing waits for the threads: none outlives the `with` block.
    daemon_threads = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that does not wait for its answer is part of many a test.
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    #: Seconds to wait for what the client does not send.
    timeout = 10

    def __init__(self, endpoint: FakeTokenEndpoint, *arguments: Any) -> None:
        self._endpoint = endpoint
        super().__init__(*arguments)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()
        form = parse_qs(body, keep_blank_values=True)
        answer = self._endpoint._reply(TokenRequest(form, self.headers))
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.payload)))
        self.end_headers()
        self.wfile.write(answer.payload)

    def log_message(self, *_: Any, **__: Any) -> None:
        """Tests have their own output."""


class _Static:
    """A token manager that has one token for ever."""

    def __init__(self, access_token: str, **_: Any) -> None:
        self._access_token = Token(access_token).access_token

    def get_token(self) -> str:
        return self._access_token

    def reset_token(self) -> None:
        pass


class StaticToken(Client):
    """A Client that has this token and asks nobody for one.

    Its calls are made as ever: over the network, or to what a library such as ``responses`` has
    in its place. A 401 is handed back at once.

    >>> client = StaticToken("a-token")

    :param access_token: the token.
    :param options: what a :class:`~alf.Client` takes; without any use, but for ``token_hosts``
        and the check of their names, so that this class can take a Client's place.
    :raises ValueError: ``access_token`` is no token that a header can carry.
    """

    __attrs__: list[str] = [*Client.__attrs__, "token_manager_class"]  # noqa: RUF012

    def __init__(self, access_token: str = "static-token", **options: Any) -> None:
        self.token_manager_class = functools.partial(_Static, access_token)
        place = {"token_endpoint": "https://static.invalid/token", "client_id": "static"}
        super().__init__(**{**place, **options})
