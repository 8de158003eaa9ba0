"""Failed token requests: how long to wait before the next one."""

from __future__ import annotations

import copy
import traceback

import requests
from requests.exceptions import RequestException

from alf._backoff import Backoff, Pause, jittered
from alf._clocks import Clock
from alf._jose import SigningKey
from alf._retries import retry_after
from alf._sources import Source
from alf.client_auth import Credentials

__all__ = ["Failures", "fresh_copy", "is_of_endpoint"]

#: The pause after a failed refresh: this fraction of the token's remaining life, at most this many
#: seconds.
_REFRESH_PAUSE_FRACTION = 1 / 4
_LONGEST_REFRESH_PAUSE = 30.0

#: ``Retry-After`` is obeyed for at most this fraction of the live token's remaining life, and
#: without a live token for at most this many seconds.
_RETRY_AFTER_FRACTION = 1 / 2
_LONGEST_RETRY_AFTER = 60.0

#: So many failed token requests in a row cause no pause.
_FREE_FAILURES = 2


class Failures:
    """Counts the failed requests for one token and spaces them out.

    :param clock: the clock.
    """

    __slots__ = ("_last_error", "_refresh_pause", "_streak")

    def __init__(self, clock: Clock) -> None:
        self._streak = Backoff(clock, free=_FREE_FAILURES)
        self._last_error: Exception | None = None
        self._refresh_pause = Pause(clock)

    @property
    def is_refresh_paused(self) -> bool:
        """Whether it is too early to refresh the live token."""
        return self._refresh_pause.is_on

    def note(self, error: Exception, left: float, *, is_refresh: bool) -> None:
        """Record a failure.

        :param left: the remaining life of the current token in seconds; 0 without a token.
        :param is_refresh: whether it was a refresh, for which no caller waited.
        """
        response = getattr(error, "response", None)
        asked = (retry_after(response) if response is not None else None) or 0.0
        if left > 0:
            pause = jittered(min(left * _REFRESH_PAUSE_FRACTION, _LONGEST_REFRESH_PAUSE))
            self._refresh_pause.begin(max(pause, min(asked, left * _RETRY_AFTER_FRACTION)))
        if not is_refresh and isinstance(error, RequestException):
            # Only an error of this family is raised again for other callers.
            self._last_error = fresh_copy(error)
            self._streak.fail(min(asked, _LONGEST_RETRY_AFTER))

    def succeed(self) -> None:
        """Record a success."""
        self._streak.succeed()
        self._refresh_pause.end()

    def raise_if_paused(self) -> None:
        """Raise the last error again if it is too early for the next request."""
        if self._streak.is_paused and self._last_error is not None:
            raise fresh_copy(self._last_error)


def is_of_endpoint(error: BaseException) -> bool:
    """Whether the endpoint failed, or a callable of the user's that gives a credential."""
    if isinstance(error, RequestException):
        return True
    frames = traceback.walk_tb(error.__traceback__)
    credentials = (Credentials.secret, Source.read, SigningKey.sign)
    codes = {call.__code__ for call in credentials}
    return any(frame.f_code in codes for frame, _ in frames)


def fresh_copy(error: Exception) -> Exception:
    """The error for one more caller, with a traceback and a response of its own."""
    try:
        fresh = copy.copy(error)
    except Exception:  # a foreign exception class that cannot be copied
        return error
    response = getattr(fresh, "response", None)
    if isinstance(response, requests.Response):
        fresh.response = copy.copy(response)  # type: ignore[attr-defined]
    return fresh.with_traceback(None)
