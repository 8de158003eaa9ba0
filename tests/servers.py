"""A token endpoint and an API on loopback, told by each test what to answer."""

from __future__ import annotations

import contextlib
import json
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import trustme


@dataclass(frozen=True)
class Request:
    """A request as a server saw it."""

    method: str
    path: str
    headers: Message
    body: bytes
    connection: int  # which of the server's connections it came over
    certificate: str | None = None  # whose certificate the client showed

    @property
    def form(self) -> dict[str, str]:
        return dict(self.pairs)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The form, a parameter that comes twice included."""
        return parse_qsl(self.body.decode(), keep_blank_values=True)

    @property
    def authorization(self) -> str | None:
        return self.headers["Authorization"]


@dataclass(frozen=True)
class Reply:
    """What a server answers; a ``dict`` or ``list`` as the body becomes JSON."""

    status: int = 200
    body: Any = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def payload(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        return self.body.encode() if isinstance(self.body, str) else json.dumps(self.body).encode()


class HangUp(Exception):
    """Raised by a script: the connection is closed without an answer."""


class Server:
    """An HTTP/1.1 server on a free loopback port; ``script`` answers each request."""

    def __init__(self, script: Callable[[Request], Reply], host: str = "127.0.0.1") -> None:
        self.script = script
        self.requests: list[Request] = []
        self.connections = 0
        self._open = 0
        self._closing = threading.Condition()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                with outer._closing:
                    outer.connections += 1
                    outer._open += 1
                    self.number = outer.connections
                self.certificate = None
                if isinstance(self.connection, ssl.SSLSocket):
                    shown: Any = self.connection.getpeercert() or {"subjectAltName": ()}
                    self.certificate = next((name for _, name in shown["subjectAltName"]), None)

            def finish(self) -> None:
                super().finish()
                with outer._closing:
                    outer._open -= 1
                    outer._closing.notify_all()

            def answer(self) -> None:
                request = Request(
                    self.command,
                    self.path,
                    self.headers,
                    self.body(),
                    self.number,
                    self.certificate,
                )
                outer.requests.append(request)
                try:
                    reply = outer.script(request)
                except HangUp:
                    self.close_connection = True
                    return
                payload = reply.payload
                self.send_response(reply.status)
                headers = {"Content-Type": "application/json", **reply.headers}
                headers.setdefault("Content-Length", str(len(payload)))
                for name, value in headers.items():
                    if value:
                        self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(payload)

            def body(self) -> bytes:
                if self.headers["Transfer-Encoding"] == "chunked":
                    chunks = []
                    while size := int(self.rfile.readline(), 16):
                        chunks.append(self.rfile.read(size))
                        self.rfile.readline()
                    self.rfile.readline()
                    return b"".join(chunks)
                return self.rfile.read(int(self.headers["Content-Length"] or 0))

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

            def log_message(self, *args: Any) -> None:
                pass

        class Listener(socketserver.ThreadingTCPServer):
            daemon_threads = True
            request_queue_size = 256
            allow_reuse_address = True

            def handle_error(self, *args: Any) -> None:
                # A client that goes away is not an error of the test.
                pass

        self._server = Listener((host, 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://{host}:{self.port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()

    def use_tls(self, certificate: trustme.LeafCert, clients: trustme.CA | None = None) -> None:
        """Speak TLS from now on; ``clients``: the CA of the certificates that clients may show."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        if clients is not None:
            clients.configure_trust(context)
            context.verify_mode = ssl.CERT_OPTIONAL
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.port}"

    def wait_until_all_closed(self) -> None:
        """Until the clients have closed all their connections to this server."""
        with self._closing:
            is_closed = self._closing.wait_for(lambda: not self._open, timeout=10)
        assert is_closed, f"{self._open} connections are still open"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class RawServer:
    """Answers each request by ``answer``, bytes that need not be HTTP, and hangs up."""

    def __init__(self) -> None:
        self.answer = b""
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                size = 0
                while (line := self.rfile.readline()).strip():
                    name, _, value = line.partition(b":")
                    size = int(value) if name.lower() == b"content-length" else size
                self.rfile.read(size)
                self.wfile.write(outer.answer)

        class Listener(socketserver.ThreadingTCPServer):
            daemon_threads = True

            def handle_error(self, *args: Any) -> None:
                # The client had read enough.
                pass

        self._server = Listener(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class TokenServer(Server):
    """Grants ``token-1``, ``token-2`` … and knows which of them are alive."""

    def __init__(self) -> None:
        super().__init__(self.grant)
        self.expires_in: Any = 3600
        self.members: dict[str, Any] = {}
        self.alive: set[str] = set()
        self.replies: list[Reply | Callable[[Request], Reply]] = []
        self.on_grant: Callable[[], object] = lambda: None
        self._granted = 0
        self._lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        return f"{self.url}/token"

    def grant(self, request: Request) -> Reply:
        """The next of ``replies``, or a new token."""
        with self._lock:
            reply = self.replies.pop(0) if self.replies else None
        if reply is None:
            return self.granted()
        return reply if isinstance(reply, Reply) else reply(request)

    def granted(self) -> Reply:
        with self._lock:
            self._granted += 1
            token = f"token-{self._granted}"
            self.alive.add(token)
            self.on_grant()
        answer = {"access_token": token, "token_type": "Bearer", "expires_in": self.expires_in}
        return Reply(body={**answer, **self.members})


class Api(Server):
    """Answers who comes with a token that is alive, and says 401 to the rest."""

    def __init__(self, tokens: TokenServer) -> None:
        super().__init__(self.protect)
        self.tokens = tokens
        self.pages: dict[str, Reply | Callable[[Request], Reply]] = {}
        self.refused = 0

    def protect(self, request: Request) -> Reply:
        scheme, _, token = (request.authorization or "").partition(" ")
        if scheme != "Bearer" or token not in self.tokens.alive:
            self.refused += 1
            return Reply(401, {"error": "invalid_token"}, {"WWW-Authenticate": "Bearer"})
        page = self.pages.get(urlsplit(request.path).path, Reply(body={"hello": "world"}))
        return page if isinstance(page, Reply) else page(request)


@contextlib.contextmanager
def running(server: Server | RawServer) -> Iterator[Any]:
    try:
        yield server
    finally:
        server.stop()


class TurnedClock:
    """A clock that stands still until a test turns it; ``sleep`` turns it, too."""

    def __init__(self) -> None:
        self._monotonic = 1000.0
        self._time = 1_700_000_000.0
        self.slept: list[float] = []
        self.on_sleep: Callable[[], object] = lambda: None

    def monotonic(self) -> float:
        return self._monotonic

    def time(self) -> float:
        return self._time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.turn(seconds)
        self.on_sleep()

    def turn(self, seconds: float) -> None:
        self._monotonic += seconds
        self._time += seconds

    def turn_wall(self, seconds: float) -> None:
        """Only the wall clock moves: it was set, or the machine slept."""
        self._time += seconds
