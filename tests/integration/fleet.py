"""A fleet: processes of several threads each, that call an API in step."""

from __future__ import annotations

import functools
import multiprocessing
import threading
import time
from collections.abc import Callable
from typing import Any

from alf import Client, TokenManager

# Not forked from this process, whose threads may hold locks, but from one that has none.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__, "redis"])

#: Seconds after which something hangs.
PATIENCE = 60


class FleetClock:
    """The real time, and what the test has turned it by; the same in all processes."""

    def __init__(self, turned: Any) -> None:
        self._turned = turned

    def monotonic(self) -> float:
        return time.monotonic() + float(self._turned.value)

    def time(self) -> float:
        return time.time() + float(self._turned.value)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Fleet:
    """Processes with one Client each, and threads that share it.

    :param make_storage: called in each process; must be picklable.
    :param url: what to call.
    :param verify: the CA that vouches for the servers, as requests takes it.
    :param options: of the Clients.
    """

    def __init__(
        self,
        make_storage: Callable[[], Any],
        url: str,
        processes: int = 8,
        threads: int = 8,
        verify: bool | str = True,
        **options: Any,
    ) -> None:
        self.size = processes * threads
        self._barrier = _context.Barrier(self.size + 1)
        self._answers = _context.SimpleQueue()
        self._turned = _context.Value("d", 0.0)
        self._is_on = _context.Value("b", True)
        self._calls_on = _context.Value("b", False)
        self._processes = [
            _context.Process(
                target=_work,
                args=(
                    *(make_storage, url, threads, verify, options, self._barrier, self._answers),
                    *(self._turned, self._is_on, self._calls_on),
                ),
                daemon=True,
            )
            for _ in range(processes)
        ]
        for process in self._processes:
            process.start()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._is_on.value = self._calls_on.value = False
        try:
            self._barrier.wait(PATIENCE)
        except threading.BrokenBarrierError:
            for process in self._processes:
                process.kill()
        for process in self._processes:
            process.join(PATIENCE)
            process.close()

    def turn(self, seconds: float) -> None:
        """Turn all clocks."""
        self._turned.value += seconds

    def call(self) -> set[Any]:
        """All threads call at the same time; the different statuses and errors they got."""
        self.start_calling()
        return self.stop_calling()

    def start_calling(self, *, on: bool = False) -> None:
        """All threads call at the same time; where ``on``, over and over until they are stopped."""
        self._calls_on.value = on
        self._barrier.wait(PATIENCE)

    def stop_calling(self) -> set[Any]:
        """Wait for the last call of each thread; the different statuses and errors they got."""
        self._calls_on.value = False
        return set().union(*(self._answers.get() for _ in range(self.size)))


def _work(
    make_storage: Callable[[], Any],
    url: str,
    threads: int,
    verify: bool | str,
    options: dict[str, Any],
    barrier: Any,
    answers: Any,
    turned: Any,
    is_on: Any,
    calls_on: Any,
) -> None:
    class FleetClient(Client):
        token_manager_class = staticmethod(
            functools.partial(TokenManager, clock=FleetClock(turned))
        )

    credentials = {"client_id": "client-id", "client_secret": "top-secret"}
    client = FleetClient(token_storage=make_storage(), **{**credentials, **options})
    client.verify = verify
    client.get_adapter(url).init_poolmanager(threads, threads)  # type: ignore[attr-defined]

    def call() -> Any:
        try:
            return client.get(url).status_code
        except Exception as error:
            return repr(error)

    def work() -> None:
        while True:
            barrier.wait(PATIENCE)
            if not is_on.value:
                return
            seen = {call()}
            while calls_on.value:
                seen.add(call())
            answers.put(seen)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    client.close()
