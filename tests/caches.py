"""Redis and memcached for a test: each on a free port, stopped by its process id."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator

import pytest


class CacheServer:
    """A server program that listens on a port of its own, and can be killed and started again."""

    def __init__(self, *command: str, port: int | None = None) -> None:
        if shutil.which(command[0]) is None:
            pytest.skip(f"{command[0]} is not installed")
        with socket.create_server(("127.0.0.1", port or 0)) as probe:
            self.port = probe.getsockname()[1]
        self._command = [part.format(port=self.port) for part in command]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 20
        while not self._listens():
            assert self._process.poll() is None, f"{self._command[0]} did not start"
            assert time.monotonic() < deadline, f"{self._command[0]} does not listen"
            time.sleep(0.01)

    def kill(self) -> None:
        """As a crash would: nothing is saved, no connection is closed in order."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """The server stands still: it takes connections and says nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True


@contextlib.contextmanager
def running_redis(*options: str) -> Iterator[CacheServer]:
    command = ["redis-server", "--port", "{port}", "--bind", "127.0.0.1", "--save", ""]
    # A replica writes what it is sent to a file.
    with (
        tempfile.TemporaryDirectory() as folder,
        _running(CacheServer(*command, "--dir", folder, "--appendonly", "no", *options)) as server,
    ):
        yield server


@contextlib.contextmanager
def running_memcached() -> Iterator[CacheServer]:
    # Root needs to name a user; others may not.
    command = ["memcached", "-u", "nobody", "-l", "127.0.0.1", "-p", "{port}", "-U", "0"]
    with _running(CacheServer(*command)) as server:
        yield server


@contextlib.contextmanager
def _running(server: CacheServer) -> Iterator[CacheServer]:
    server.start()
    try:
        yield server
    finally:
        server.kill()
