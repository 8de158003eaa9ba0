"""When a token request is retried."""

from __future__ import annotations

from math import ceil

import requests
import urllib3
from urllib3.exceptions import HTTPError, InvalidHeader
from urllib3.util.retry import Retry

from alf._clocks import Clock

__all__ = ["LONGEST_RETRYING", "LONGEST_WAIT", "next_try", "retry_after", "retry_for_post"]

#: Seconds after which a token request is not retried any more.
LONGEST_RETRYING = 300.0

#: A ``Retry-After`` of more seconds is not waited for: the caller gets the response.
LONGEST_WAIT = 60.0

#: Statuses after which the same request may succeed a little later.
_TROUBLE = (429, 500, 502, 503, 504)

#: Half the seconds before the second retry. The first comes at once; each later pause is twice as
#: long as the one before.
_PAUSE = 0.5


def retry_for_post(retries: int | Retry) -> Retry:
    """The ``Retry`` for token requests that the option means.

    A number of retries covers failed connections, 429 and temporary server errors, with growing
    pauses. A ``Retry`` is used unchanged, except that its default methods include POST, which
    urllib3 leaves out.

    :raises TypeError: it is neither a ``Retry`` nor an int.
    :raises ValueError: it is negative.
    """
    if isinstance(retries, bool) or not isinstance(retries, (int, Retry)):
        message = f"token_retry must be a urllib3 Retry or an int, got {retries!r}"
        raise TypeError(message)
    if isinstance(retries, Retry):
        # Identity, not equality: the user may have named just these methods.
        if retries.allowed_methods is not Retry.DEFAULT_ALLOWED_METHODS:
            return retries.new(raise_on_status=False)
        return retries.new(raise_on_status=False, allowed_methods=None)
    if retries < 0:
        message = f"token_retry must not be negative, got {retries!r}"
        raise ValueError(message)
    return Retry(
        retries,
        status_forcelist=_TROUBLE,
        backoff_factor=_PAUSE,
        raise_on_status=False,
        allowed_methods=None,
    )


def next_try(
    retry: Retry | None,
    clock: Clock,
    give_up_at: float,
    *,
    response: requests.Response | None = None,
    error: HTTPError | None = None,
) -> Retry | None:
    """Wait for the next retry and return what remains; ``None`` if there is no other retry.

    :param give_up_at: the monotonic time by which the last pause must end.
    """
    assert retry is not None
    raw = wait = None
    if response is not None:
        wait = retry_after(response) if retry.respect_retry_after_header else None
        if not retry.is_retry("POST", response.status_code, wait is not None):
            return None
        if wait is not None and wait > LONGEST_WAIT:
            return None
        headers = {} if wait is None else {"Retry-After": str(ceil(wait))}
        raw = urllib3.HTTPResponse(status=response.status_code, headers=headers)
    elif error is None:
        return None
    try:
        retry = retry.increment("POST", "", response=raw, error=error)
    except HTTPError:  # a MaxRetryError or the error itself
        return None
    pause = retry.get_backoff_time() if wait is None else wait
    if clock.monotonic() + pause > give_up_at:
        return None
    retry.sleep(raw)
    return retry


def retry_after(response: requests.Response) -> float | None:
    """The seconds of the response's ``Retry-After`` (RFC 9110 §10.2.3); ``None`` without one."""
    value = response.headers.get("Retry-After")
    if value is None:
        return None
    try:
        return Retry().parse_retry_after(value)
    except (InvalidHeader, ValueError, OverflowError):  # not a date, or one outside the calendar
        return None
