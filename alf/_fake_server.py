"""What the servers of :mod:`alf.testing` have in common: HTTP on loopback, delays and outages."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

__all__ = ["Answer", "FakeServer", "Request"]

S = TypeVar("S", bound="FakeServer")


@dataclass(frozen=True)
class Request:
    """A request as the server saw it.

    :param method: such as ``"GET"``.
    :param path: the path and the query.
    :param headers: the headers, whose names are compared without case.
    :param body: the body.
    """

    method: str
    path: str
    headers: Message
    body: bytes


@dataclass(frozen=True)
class Answer:
    """A response. A body that is not ``bytes`` is sent as JSON."""

    status: int = 200
    body: Any = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_json(self) -> bool:
        return not isinstance(self.body, bytes)

    @property
    def payload(self) -> bytes:
        return json.dumps(self.body).encode() if self.is_json else self.body


class FakeServer(ABC):
    """An HTTP server on a free port of loopback, for a ``with`` block.

    Everything may be changed at any time, from any thread.
    """

    def __init__(self) -> None:
        #: Seconds that the server takes for each answer, in real time.
        self.latency = 0.0
        self._lock = threading.Lock()
        self._is_open = threading.Event()
        self._is_open.set()
        self._is_over = threading.Event()
        self._is_down = False
        self._script: Answer | None = None
        self._times_left: float = 0
        self._server: _Server | None = None

    def __enter__(self: S) -> S:
        self._is_over.clear()
        self._server = _Server(("127.0.0.1", 0), functools.partial(_Handler, self))
        # A prompt or a script that does not end the block can exit all the same.
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._is_open.set()
        self._is_over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(
        self,
        status: int,
        body: Any = b"",
        headers: Mapping[str, str] | None = None,
        *,
        times: int | None = None,
    ) -> None:
        """Answer with this from now on.

        :param status: the status.
        :param body: ``bytes``, or a value to send as JSON.
        :param headers: such as ``{"Retry-After": "60"}``.
        :param times: how often; ``None``: until something else is set.
        """
        with self._lock:
            self._script = Answer(status, body, dict(headers or {}))
            self._times_left = float("inf") if times is None else times

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Within the ``with`` block requests arrive, and are not answered before its end."""
        self._is_open.clear()
        try:
            yield
        finally:
            self._is_open.set()

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """Within the ``with`` block each connection is closed without an answer."""
        self._is_down = True
        try:
            yield
        finally:
            self._is_down = False

    @property
    def _origin(self) -> str:
        if self._server is None:
            message = f"a {type(self).__name__} has a URL within its with block"
            raise RuntimeError(message)
        return f"http://127.0.0.1:{self._server.server_port}"

    def _serve(self, request: Request) -> Answer | None:
        """The answer; ``None``: none at all."""
        if self._is_down:
            return None
        self._record(request)
        self._is_open.wait()
        self._is_over.wait(self.latency)
        return None if self._is_down else self._reply(request)

    @abstractmethod
    def _record(self, request: Request) -> None:
        """Keep the request for the test to look at."""

    @abstractmethod
    def _reply(self, request: Request) -> Answer:
        """The answer to the request."""

    def _scripted(self) -> Answer | None:
        """What :meth:`answer` was given, if it is still to be sent."""
        with self._lock:
            if self._times_left <= 0:
                return None
            self._times_left -= 1
            return self._script


class _Server(ThreadingHTTPServer):
    #: Closing waits for the threads: none outlives the `with` block.
    daemon_threads = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Many tests have a client that does not wait for its answer.
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    #: Seconds to wait for what the client does not send.
    timeout = 10

    def __init__(self, server: FakeServer, *arguments: Any) -> None:
        self._fake = server
        super().__init__(*arguments)

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        answer = self._fake._serve(Request(self.command, self.path, self.headers, body))
        if answer is None:
            return
        payload = answer.payload
        kind = "application/json" if answer.is_json else "text/plain"
        self.send_response(answer.status)
        length = {"Content-Length": str(len(payload))}
        for name, value in {"Content-Type": kind, **answer.headers, **length}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _serve  # noqa: N815

    def log_message(self, *_: Any, **__: Any) -> None:
        """Tests have their own output."""
