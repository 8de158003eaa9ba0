"""Limits the total time of a request, at each operation on its socket.

A timeout in requests applies to each operation on the socket, so a server that sends a byte now
and then can delay a call for ever. Here each operation gets the rest of the total time. That needs
no threads or timers, and works under gevent as well.

Two things are not limited as a whole: the system's lookup of host names, and SOCKS proxies, where
each operation may take the rest of the time.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import io
import socket
import ssl
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ReadTimeoutError
from urllib3.util.connection import allowed_gai_family
from urllib3.util.ssl_ import create_urllib3_context, resolve_cert_reqs

__all__ = ["DEFAULT_TIMEOUT", "LimitedAdapter", "TimeLimit", "Timeout"]

#: The default, in seconds: for the whole request, or for each part of a pair.
DEFAULT_TIMEOUT = 10.0

#: Seconds in all, or a pair: seconds to connect, and for the rest.
Timeout = float | tuple[float | None, float | None] | None

#: Timers may fire this many seconds early.
_EARLY = 0.005

#: The limit of the current request in this context.
_current: ContextVar[TimeLimit] = ContextVar("alf_time_limit")


class TimeLimit:
    """The time within which a request must end, counted from now on.

    As a context manager it limits what a :class:`LimitedAdapter` sends and receives. Several
    requests may share one limit.
    """

    def __init__(self, timeout: Timeout) -> None:
        pair = timeout if isinstance(timeout, tuple) else (timeout, 0.0)
        connect, rest = (DEFAULT_TIMEOUT if part is None else part for part in pair)
        self.total = connect + rest
        #: The part that is limited now: connecting, or the rest.
        self.is_connecting = False
        self._connect = connect
        self._rest = rest if isinstance(timeout, tuple) else self.total
        self._end = time.monotonic() + self.total
        self._part_end = time.monotonic() + self._rest

    def renewed(self) -> TimeLimit:
        """The same limit, counted from now on."""
        return TimeLimit((self._connect, self._rest))

    def part(self, fraction: float) -> TimeLimit:
        """A limit of a fraction of the remaining time, for an intermediate step."""
        return TimeLimit(max(self._end - time.monotonic(), _EARLY) * fraction)

    def __enter__(self) -> TimeLimit:
        self._token = _current.set(self)
        return self

    def __exit__(self, *_error: object) -> None:
        _current.reset(self._token)

    @contextlib.contextmanager
    def connecting(self) -> Iterator[None]:
        """Limit the block to the time for connecting."""
        self.is_connecting = True
        self._part_end = min(time.monotonic() + self._connect, self._end)
        yield
        self._part_end = min(time.monotonic() + self._rest, self._end)
        self.is_connecting = False

    @property
    def has_passed(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() > self._part_end - _EARLY

    def left(self) -> float:
        """The remaining seconds.

        :raises TimeoutError: the time is over.
        """
        if self.has_passed:
            raise TimeoutError
        return self._part_end - time.monotonic()

    def for_requests(self) -> tuple[float, float]:
        """The timeouts to pass to requests; raises as :meth:`left`."""
        left = self.left()
        return min(self._connect, left), min(self._rest, left)

    def error(self, place: str, request: Any) -> requests.exceptions.Timeout:
        """The exception to raise once the time is over.

        :param place: where the request went.
        :param request: the request, without its secrets.
        """
        if self.is_connecting:
            message = f"{place}: not connected within {self._connect:g} s"
            cause = ConnectTimeoutError(message)
            return requests.exceptions.ConnectTimeout(cause, request=request)
        message = f"no complete answer within {self.total:g} s"
        pool: Any = place  # only a part of the text
        slow = ReadTimeoutError(pool, "", message)
        return requests.exceptions.ReadTimeout(slow, request=request)


class LimitedAdapter(HTTPAdapter):
    """An adapter whose connections obey the :class:`TimeLimit` of the request."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        _limit(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        _limit(manager)
        return manager


def _limit(manager: Any) -> None:
    classes = manager.pool_classes_by_scheme
    manager.pool_classes_by_scheme = {name: _limited_pool(cls) for name, cls in classes.items()}


class _LimitedPool(HTTPConnectionPool):
    @property
    def ConnectionCls(self) -> Any:  # type: ignore[override]  # noqa: N802
        # Looked up each time, because tools that record HTTP replace it for a while.
        cls: Any = super().ConnectionCls
        return _limited_connection(cls) if issubclass(cls, HTTPConnection) else cls


class _LimitedConnection(HTTPConnection):
    def connect(self) -> None:
        with _current.get().connecting():
            if isinstance(self, HTTPSConnection) and self.ssl_context is None:
                context = create_urllib3_context(cert_reqs=resolve_cert_reqs(self.cert_reqs))
                context.sslsocket_class = _limited_tls_socket(ssl.SSLContext.sslsocket_class)
                self.ssl_context = context
            super().connect()
        sock: Any = _LimitedSocket(self.sock)
        self.sock = sock

    def _new_conn(self) -> socket.socket:
        """Connect to the first address that answers; all attempts share the time."""
        limit = _current.get()
        host, timeout = self._dns_host, self.timeout
        addresses = self._addresses()
        sock: Any = None
        try:
            while sock is None:
                self.timeout = limit.left() / len(addresses)
                self._dns_host = addresses.pop(0)
                try:
                    sock = super()._new_conn()
                except (ConnectTimeoutError, NewConnectionError):
                    if not addresses:
                        raise
        finally:
            self._dns_host, self.timeout = host, timeout
        # For the TLS handshake, which Python limits as a whole.
        sock.settimeout(limit.left())
        connected: socket.socket = sock
        return connected

    def _addresses(self) -> list[str]:
        host = self._dns_host
        if hasattr(self, "_socks_options"):
            return [host]  # the proxy looks it up
        try:
            found = socket.getaddrinfo(
                host.strip("[]"), self.port, allowed_gai_family(), socket.SOCK_STREAM
            )
        except (OSError, UnicodeError):
            return [host]  # urllib3 will raise a fitting error
        return list(dict.fromkeys(str(address[0]) for *_, address in found))

    def _tunnel(self) -> None:
        sock: Any = self.sock
        limited: Any = _LimitedSocket(sock)
        self.sock = limited
        super()._tunnel()
        sock.settimeout(_current.get().left())
        self.sock = sock


class _LimitedSocket:
    """A socket whose operations take no longer than the limit allows."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def settimeout(self, _timeout: float | None) -> None:
        """Ignored: the limit applies."""

    def sendall(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self._sock.settimeout(_current.get().left())
            rest = rest[self._sock.send(rest) :]

    def makefile(self, *_args: Any, **_kwargs: Any) -> io.BufferedReader:
        return _Reader(_LimitedStream(self._sock))


class _LimitedStream(io.RawIOBase):
    def __init__(self, sock: Any) -> None:
        self._sock = sock
        # Keeps the socket open as long as this stream is open, like the file of a socket.
        self._file = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_current.get().left())
        count: int | None = self._file.readinto(buffer)
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _Reader(io.BufferedReader):
    def read(self, size: int | None = -1, /) -> bytes:
        # http.client would read until the end for a chunk of negative size.
        if size is None or size < 0:
            message = "negative size"
            raise http.client.HTTPException(message)
        return super().read(size)


class _FinalResponse(http.client.HTTPResponse):
    """Skips every interim response (RFC 9110 §15.2), as http.client skips ``100 Continue``."""

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            status_line: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
            if not 101 < status_line[1] < 200:
                return status_line
            http.client.parse_headers(self.fp)


_LimitedConnection.response_class = _FinalResponse


@functools.cache
def _limited_pool(cls: type) -> type:
    if issubclass(cls, _LimitedPool):
        return cls
    return type(cls.__name__, (_LimitedPool, cls), {})


@functools.cache
def _limited_connection(cls: type) -> type:
    return type(cls.__name__, (_LimitedConnection, cls), {})


@functools.cache
def _limited_tls_socket(cls: Any) -> type:
    """A class of TLS sockets; gevent's read ``timeout`` at each step of a handshake."""
    given = cls.timeout

    def timeout(self: Any) -> Any:
        limit = _current.get(None)
        return given.__get__(self) if limit is None else limit.left()

    members = {"timeout": property(timeout, given.__set__)}
    return type(cls.__name__, (cls,), members)
