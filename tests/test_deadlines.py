"""However an endpoint drags its feet, a token request ends when its time is over."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme

from alf import Client, TokenError
from tests.servers import Reply, Request, TokenServer, running

MakeClient = Callable[..., Client]
Script = Callable[[socket.socket], None]

#: Seconds that each request may take, and how late its end may be on a busy machine.
TIMEOUT = 0.6
LATE = 2.0


class SlowServer:
    """Runs ``script`` on each connection."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            self._threads.append(threading.Thread(target=self._run, args=(connection,)))
            self._threads[-1].start()

    def _run(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self._script(connection)
        connection.close()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)


@contextlib.contextmanager
def slow_server(script: Script) -> Iterator[SlowServer]:
    server = SlowServer(script)
    try:
        yield server
    finally:
        server.stop()


def read_request(connection: socket.socket) -> None:
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536) or b"\r\n\r\n"


def answer(head: bytes, piece: bytes, pause: float = 0.0) -> Script:
    """A script that answers with the head, and then with the piece again and again."""

    def run(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(head)
        while True:
            connection.sendall(piece)
            time.sleep(pause)

    return run


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"

DRIPS = {
    "silence": answer(b"", b"", 0.05),
    "head": answer(OK + b"X: ", b"a", 0.05),
    "body": answer(OK + b"Content-Length: 500000\r\n\r\n", b" ", 0.05),
    "body without a length": answer(OK + b"\r\n", b" ", 0.05),
    "chunks": answer(CHUNKED, b"1\r\n \r\n", 0.05),
    "chunk extension": answer(CHUNKED + b"5;x=", b"a", 0.05),
    "trailers": answer(CHUNKED + b"0\r\n", b"X: y\r\n", 0.05),
    "endless 100": answer(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "endless 102": answer(b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
    "endless 103": answer(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n"),
    "endless trailers": answer(CHUNKED + b"0\r\n", b"X: y\r\n"),
}


@contextlib.contextmanager
def ends_in_time(error: type[Exception] = requests.exceptions.Timeout) -> Iterator[None]:
    began = time.monotonic()
    with pytest.raises(error):
        yield
    took = time.monotonic() - began
    assert 0.9 * TIMEOUT < took < TIMEOUT + LATE


@pytest.mark.parametrize("name", DRIPS)
def test_a_token_request_ends_in_time(make_client: MakeClient, name: str) -> None:
    with slow_server(DRIPS[name]) as server:
        client = make_client(token_endpoint=server.url, token_timeout=TIMEOUT)
        with ends_in_time(requests.exceptions.ReadTimeout):
            client.ensure_token()


@pytest.mark.parametrize("name", ["head", "body", "chunks"])
def test_a_request_for_metadata_ends_in_time(make_client: MakeClient, name: str) -> None:
    with slow_server(DRIPS[name]) as server:
        client = make_client(token_endpoint=None, issuer=server.url, token_timeout=TIMEOUT)
        with ends_in_time():
            client.ensure_token()


@pytest.mark.parametrize("name", ["head", "body", "chunks"])
def test_a_revocation_ends_in_time(make_client: MakeClient, name: str) -> None:
    with slow_server(DRIPS[name]) as server:
        client = make_client(revocation_endpoint=server.url, token_timeout=TIMEOUT)
        client.ensure_token()
        with ends_in_time():
            client.revoke_token()


@pytest.mark.parametrize("name", ["body", "chunks", "body without a length"])
def test_a_session_that_was_handed_in_ends_in_time_while_the_body_comes(
    make_client: MakeClient, name: str
) -> None:
    with slow_server(DRIPS[name]) as server, requests.Session() as session:
        client = make_client(
            token_endpoint=server.url, token_timeout=TIMEOUT, token_session=session
        )
        with ends_in_time():
            client.ensure_token()


def test_all_that_one_try_needs_shares_its_time(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    """The first form of Basic, which is refused, takes from what the second has."""

    def refuse(_request: Request) -> Reply:
        time.sleep(0.6 * TIMEOUT)
        return Reply(401, {"error": "invalid_client"})

    tokens.script = refuse
    client = make_client(client_secret="not ascii letters: ~!", token_timeout=TIMEOUT)
    with ends_in_time():
        client.ensure_token()
    assert len(tokens.requests) == 2


def test_each_retry_has_its_own_time(make_client: MakeClient) -> None:
    with slow_server(DRIPS["body"]) as server:
        client = make_client(token_endpoint=server.url, token_timeout=TIMEOUT / 3, token_retry=2)
        with ends_in_time():
            client.ensure_token()


def test_a_pair_limits_connecting_and_the_rest(make_client: MakeClient) -> None:
    with slow_server(DRIPS["body"]) as server:
        client = make_client(token_endpoint=server.url, token_timeout=(30, TIMEOUT))
        with ends_in_time(requests.exceptions.ReadTimeout):
            client.ensure_token()


# -- connecting --------------------------------------------------------------------------------


@contextlib.contextmanager
def full_addresses(count: int, good: int = 0) -> Iterator[tuple[int, list[str]]]:
    """Loopback addresses at which connecting takes for ever, before some at which it does not."""
    with contextlib.ExitStack() as stack:
        port = 0
        addresses = []
        for number in range(1, count + 1):
            address = f"127.0.0.{number}"
            listener = stack.enter_context(socket.socket())
            listener.bind((address, port))
            port = listener.getsockname()[1]
            listener.listen(0)
            for _ in range(3):  # more than wait in its queue
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex((address, port))
            addresses.append(address)
        yield port, addresses


def resolve_to(addresses: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def resolve(host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        hosts = addresses if host == "id.example.com" else [host]
        return [found for host in hosts for found in real(host, port, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.mark.skipif(sys.platform != "linux", reason="a full queue of a listener is Linux's affair")
@pytest.mark.parametrize("timeout", [TIMEOUT, (TIMEOUT, 30)])
def test_several_dead_addresses_take_no_longer_than_one(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, timeout: Any
) -> None:
    with full_addresses(5) as (port, addresses):
        resolve_to(addresses, monkeypatch)
        client = make_client(
            token_endpoint=f"http://id.example.com:{port}/token", token_timeout=timeout
        )
        with ends_in_time(requests.exceptions.ConnectTimeout):
            client.ensure_token()


@pytest.mark.skipif(sys.platform != "linux", reason="a full queue of a listener is Linux's affair")
def test_a_dead_address_leaves_time_for_the_next(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with full_addresses(1) as (port, addresses):
        resolve_to([*addresses, "127.0.0.2"], monkeypatch)
        with running(TokenServer("127.0.0.2", port)):
            client = make_client(
                token_endpoint=f"http://id.example.com:{port}/token", token_timeout=2
            )
            assert client.ensure_token().access_token == "token-1"


def test_a_name_that_has_no_address_is_a_connection_error(make_client: MakeClient) -> None:
    client = make_client(token_endpoint="http://does-not-exist.invalid/token")
    with pytest.raises(requests.exceptions.ConnectionError):
        client.ensure_token()


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def drip_tls(authority: trustme.CA, until: str) -> Script:
    """A TLS server whose bytes come one by one, the handshake's or those of the answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    def run(connection: socket.socket) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        is_slow = until == "handshake"
        is_open = False
        while True:
            try:
                if not is_open:
                    tls.do_handshake()
                    is_open = True
                if b"\r\n\r\n" in tls.read(65536):
                    tls.write(OK + b"Content-Length: 90000\r\n\r\n" + b" " * 9000)
                    is_slow = True
            except ssl.SSLWantReadError:
                pass
            for byte in outgoing.read():
                connection.sendall(bytes([byte]))
                if is_slow:
                    time.sleep(0.05)
            incoming.write(connection.recv(65536))

    return run


@pytest.mark.parametrize("until", ["handshake", "answer"])
def test_dripping_tls_ends_in_time(
    make_client: MakeClient, authority: trustme.CA, tmp_path: Path, until: str
) -> None:
    bundle = str(tmp_path / "ca.pem")
    authority.cert_pem.write_to_path(bundle)
    with slow_server(drip_tls(authority, until)) as server:
        client = make_client(
            token_endpoint=f"https://127.0.0.1:{server.port}/token", token_timeout=TIMEOUT
        )
        client.verify = bundle
        with ends_in_time():
            client.ensure_token()


def test_dripping_tls_ends_in_time_under_gevent(authority: trustme.CA, tmp_path: Path) -> None:
    pytest.importorskip("gevent")
    bundle = str(tmp_path / "ca.pem")
    authority.cert_pem.write_to_path(bundle)
    program = """
        from gevent import monkey

        monkey.patch_all()
        import sys, time
        import requests
        from alf import Client

        bundle, timeout, *endpoints = sys.argv[1:]
        for endpoint in endpoints:
            client = Client(
                token_endpoint=endpoint,
                client_id="id",
                client_secret="secret",
                token_timeout=float(timeout),
            )
            client.verify = bundle
            began = time.monotonic()
            try:
                client.ensure_token()
            except requests.exceptions.Timeout:
                print(time.monotonic() - began)
    """
    with (
        slow_server(drip_tls(authority, "handshake")) as first,
        slow_server(drip_tls(authority, "answer")) as second,
        slow_server(DRIPS["body"]) as third,
    ):
        endpoints = [
            f"https://127.0.0.1:{first.port}",
            f"https://127.0.0.1:{second.port}",
            third.url,
        ]
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program), bundle, str(TIMEOUT), *endpoints],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    seconds = [float(line) for line in done.stdout.split()]
    assert len(seconds) == 3
    assert all(0.9 * TIMEOUT < took < TIMEOUT + LATE for took in seconds)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_dripping_proxy_ends_in_time(make_client: MakeClient, scheme: str) -> None:
    with slow_server(DRIPS["head"]) as proxy:
        client = make_client(
            token_endpoint=f"{scheme}://id.example.com/token", token_timeout=TIMEOUT
        )
        client.proxies = {scheme: proxy.url}
        with ends_in_time():
            client.ensure_token()


# -- what must work as ever --------------------------------------------------------------------


def test_a_token_comes_through_a_proxy_and_its_tunnel(
    make_client: MakeClient, authority: trustme.CA, tmp_path: Path
) -> None:
    bundle = str(tmp_path / "ca.pem")
    authority.cert_pem.write_to_path(bundle)
    with running(TokenServer()) as tokens:
        tokens.use_tls(authority.issue_cert("id.example.com"))

        def tunnel(connection: socket.socket) -> None:
            read_request(connection)
            connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            with socket.create_connection(("127.0.0.1", tokens.port)) as onward:
                back = threading.Thread(target=pump, args=(onward, connection))
                back.start()
                pump(connection, onward)
                back.join(10)

        with slow_server(tunnel) as proxy:
            client = make_client(token_endpoint="https://id.example.com/token")
            client.verify = bundle
            client.proxies = {"https": proxy.url}
            assert client.ensure_token().access_token == "token-1"
            assert client.renew_token().access_token == "token-2"
            assert [request.connection for request in tokens.requests] == [1, 1]
            client.close()


def test_a_token_comes_through_a_socks_proxy_that_looks_up_the_name(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    pytest.importorskip("socks")
    hosts: list[bytes] = []

    def socks(connection: socket.socket) -> None:
        with connection.makefile("rb") as file:
            _version, count = file.read(2)
            file.read(count)
            connection.sendall(b"\5\0")
            _version, _command, _reserved, kind, length = file.read(5)
            assert kind == 3  # a name
            hosts.append(file.read(length))
            file.read(2)
        connection.sendall(b"\5\0\0\1" + bytes(6))
        with socket.create_connection(("127.0.0.1", tokens.port)) as onward:
            back = threading.Thread(target=pump, args=(onward, connection))
            back.start()
            pump(connection, onward)
            back.join(10)

    with slow_server(socks) as proxy:
        client = make_client(token_endpoint="http://id.example.com/token")
        client.proxies = {"http": proxy.url.replace("http://", "socks5h://")}
        assert client.ensure_token().access_token == "token-1"
        client.close()
    assert hosts == [b"id.example.com"]


def pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def test_interim_responses_are_skipped(make_client: MakeClient) -> None:
    body = json.dumps({"access_token": "token-x"}).encode()

    def run(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(
            b"HTTP/1.1 100 Continue\r\n\r\n"
            b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"
            b"HTTP/1.1 102 Processing\r\n\r\n"
            + OK
            + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        connection.recv(1)

    with slow_server(run) as server:
        client = make_client(token_endpoint=server.url)
        assert client.ensure_token().access_token == "token-x"
        client.close()


# -- what ends early ---------------------------------------------------------------------------


def gzip_bomb() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return packer.compress(b" " * 100_000_000) + packer.flush()


def empty_blocks() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return packer.compress(b"") + packer.flush(zlib.Z_SYNC_FLUSH)


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (answer(OK + b"\r\n", b" " * 65536), TokenError),
        (answer(CHUNKED, b"ffff\r\n" + b" " * 0xFFFF + b"\r\n"), TokenError),
        (
            answer(OK + b"Content-Encoding: gzip\r\n\r\n" + empty_blocks(), b"\0\0\0\xff\xff" * 99),
            requests.exceptions.ContentDecodingError,
        ),
        (answer(CHUNKED + b"5;x=", b"a" * 65536), requests.exceptions.ChunkedEncodingError),
        (answer(CHUNKED + b"-1\r\n", b"a" * 65536), requests.exceptions.ChunkedEncodingError),
        (answer(CHUNKED + b"-5\r\n", b"a" * 65536), requests.exceptions.ChunkedEncodingError),
        (answer(OK, b"X: y\r\n"), requests.exceptions.ConnectionError),
        (answer(OK + b"X: ", b"a" * 65536), requests.exceptions.ConnectionError),
    ],
)
def test_an_endless_answer_ends_at_once(
    make_client: MakeClient, script: Script, error: type[Exception]
) -> None:
    with slow_server(script) as server:
        client = make_client(token_endpoint=server.url, token_timeout=30)
        began = time.monotonic()
        with pytest.raises(error):
            client.ensure_token()
        assert time.monotonic() - began < 15
