"""Runs short jobs in threads; the end of the process waits for them briefly."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from alf._forks import register_after_fork

__all__ = ["run_in_background"]

logger = logging.getLogger("alf")

Job = Callable[[], object]

#: At most this many jobs run at a time, not counting those that run for longer than these seconds.
_MOST_AT_ONCE = 4
_SLOW = 5.0

#: Seconds in all that the end of the process waits for running jobs. A renewal that is cut off has
#: wasted a token request and may leave a lock behind.
_GRACE = 1.0


class Workers:
    """Daemon threads that run jobs and end when no job is left."""

    def __init__(self) -> None:
        self._after_fork()
        register_after_fork(self)

    def submit(self, job: Job) -> bool:
        with self._lock:
            self._jobs.append(job)
            now = time.monotonic()
            busy = sum(began > now - _SLOW for began in self._running.values())
            try:
                if busy < _MOST_AT_ONCE:
                    self._start(now)
            except RuntimeError:
                logger.debug("no thread for a job in the background", exc_info=True)
                self._jobs.remove(job)
                return False
        return True

    def _start(self, now: float) -> None:
        # Where green threads are patched in, current_thread() may not be this object.
        thread = threading.Thread(
            target=lambda: self._work(thread), name="alf-renewal", daemon=True
        )
        # Before it starts, so that the next caller counts it.
        self._running[thread] = now
        try:
            thread.start()
        except RuntimeError:
            del self._running[thread]
            raise

    def wait(self, seconds: float) -> None:
        """Wait until no job is left, for at most this many seconds."""
        deadline = time.monotonic() + seconds
        for thread in list(self._running):
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self, me: threading.Thread) -> None:
        try:
            while job := self._next_job(me):
                job()
        except BaseException:
            # Killed: the jobs that wait need another thread.
            with self._lock:
                self._running.pop(me, None)
                if self._jobs:
                    self._start(time.monotonic())
            raise

    def _next_job(self, me: threading.Thread) -> Job | None:
        with self._lock:
            if not self._jobs:
                # Under the same lock, so that the next caller starts a thread for its job.
                self._running.pop(me, None)
                return None
            self._running[me] = time.monotonic()
            return self._jobs.popleft()

    def _after_fork(self) -> None:
        # Re-entrant, because a signal handler may interrupt this very code.
        self._lock = threading.RLock()
        self._jobs: deque[Job] = deque()
        self._running: dict[threading.Thread, float] = {}


_workers = Workers()


def run_in_background(job: Job) -> bool:
    """Run the job in a daemon thread.

    :returns: whether a thread will run it. If not, the caller must: there are too many threads, the
        interpreter is shutting down, or it is a subinterpreter without daemon threads.
    """
    return _workers.submit(job)


@atexit.register
def _wait_for_jobs() -> None:
    _workers.wait(_GRACE)
