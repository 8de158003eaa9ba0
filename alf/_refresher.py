"""Refreshes a live token while callers go on using it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import inf

from requests.exceptions import RequestException

from alf._background import run_in_background
from alf._backoff import jittered
from alf._clocks import Clock
from alf._failures import is_of_endpoint
from alf._lifetimes import CachedToken, Deadline
from alf._notices import Notices
from alf._single_flight import SingleFlight
from alf._storage_calls import LockBusyError
from alf._token_source import TokenSource

__all__ = ["Refresher"]

#: In the expiry margin a caller waits at most this fraction of the remaining life.
_MARGIN_WAIT_FRACTION = 1 / 4

#: If another process is refreshing the token, the storage is read again after this fraction of
#: the remaining life.
_NEXT_LOOK_FRACTION = 1 / 2

#: Seconds after which storing a token is tried again if the attempt was cut off.
_STORE_AGAIN = 60.0


class Refresher:
    """Refreshes the current token, or stores it, when that is due.

    :param source: where the next token comes from.
    :param flight: the flights of the token, and the current one.
    :param notices: the events and log lines of a flight.
    :param clock: the clock.
    :param is_background: whether a background thread does it instead of the caller.
    """

    __slots__ = ("_clock", "_flight", "_is_background", "_notices", "_source")

    def __init__(
        self,
        source: TokenSource,
        flight: SingleFlight[CachedToken],
        notices: Notices,
        clock: Clock,
        *,
        is_background: bool,
    ) -> None:
        self._source = source
        self._flight = flight
        self._notices = notices
        self._clock = clock
        self._is_background = is_background

    def refresh(self, cached: CachedToken) -> None:
        """Do what is due, unless it is under way or was tried a moment ago."""
        clock = self._clock
        if not cached.refresh_at.has_passed(clock):
            self._store(cached)
            return
        if self._source.failures.is_refresh_paused:
            return
        is_expired = not cached.is_good(clock)
        seconds = cached.dies_at.left(clock) * _MARGIN_WAIT_FRACTION

        def wanted(other: CachedToken, _landed: bool) -> bool:
            # A token requested since then is what the endpoint gives, even if it lives no longer.
            is_newer = other.token.issued_at > cached.token.issued_at
            return (is_newer or other.outlives(cached)) and other.is_good(clock)

        make = self._source.make(wanted, "expiring")
        flight = self._flight.start(
            cached, make, lambda lead: self._run(partial(self._lead, lead, cached))
        )
        if is_expired and flight is not None:
            self._flight.wait(flight, seconds)

    def _lead(self, lead: Callable[[], object], cached: CachedToken) -> None:
        """Lead a flight that no caller depends on: if it fails, the current token is still good."""
        try:
            lead()
        except LockBusyError:
            # Another process is refreshing it; its token will be in the storage later.
            left = cached.dies_at.left(self._clock) * _NEXT_LOOK_FRACTION
            look_at = Deadline(self._clock.monotonic(), self._clock.time()) + jittered(left)
            self._flight.replace(cached, replace(cached, refresh_at=look_at))
        except Exception as error:
            if not self._is_background and not is_of_endpoint(error):
                raise  # this caller's own time limit, for example
            self._notices.log(
                logging.WARNING,
                "the token was not renewed, and is used until it expires: %s",
                error,
                exc_info=None if isinstance(error, RequestException) else error,
            )
        finally:
            self._notices.flush()

    def _store(self, cached: CachedToken) -> None:
        # One caller stores it; the others see that it is not due.
        later = Deadline(self._clock.monotonic() + _STORE_AGAIN, inf)
        mine = replace(cached, store_at=later)
        if self._flight.replace(cached, mine):
            self._run(partial(self._source.store, mine))
            self._notices.flush()

    def _run(self, job: Callable[[], object]) -> None:
        if not (self._is_background and run_in_background(job)):
            job()
