"""When a token request is tried again."""

from __future__ import annotations

from math import ceil

import requests
import urllib3
from urllib3.exceptions import HTTPError, InvalidHeader
from urllib3.util.retry import Retry

from alf._clocks import Clock

__all__ = ["LONGEST_RETRYING", "LONGEST_WAIT", "next_try", "retry_after", "retry_for_post"]

#: Seconds after which a token request is not tried again.
LONGEST_RETRYING = 300.0

#: A longer ``Retry-After``, in seconds, is not waited for: its answer goes back to the caller.
LONGEST_WAIT = 60.0

#: Statuses of a server that may answer the same request otherwise a little later.
_TROUBLE = (429, 500, 502, 503, 504)

#: Half the seconds before the second retry. The first has none before it, each later one twice as
#: many as the last.
_PAUSE = 0.5


def retry_for_post(retries: int | Retry) -> Retry:
    """What to retry of a token request.

    A number of retries is for connections that fail and for the statuses of a server in trouble,
    with pauses that grow. A ``Retry`` means what it says; where it says nothing of methods it is
    for a POST, which urllib3 leaves out.

    :raises TypeError: neither a ``Retry`` nor an int.
    :raises ValueError: a negative number.
    """
    if isinstance(retries, bool) or not isinstance(retries, (int, Retry)):
        message = f"token_retry must be a urllib3 Retry or an int, got {retries!r}"
        raise TypeError(message)
    if isinstance(retries, Retry):
        # Identity, not equality: a Retry that names these methods itself means them.
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
    """The retries that are left when it is time for the next one; ``None``: there is none.

    :param give_up_at: when, by the monotonic clock, the last pause has to be over.
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
    except HTTPError:  # MaxRetryError, or the error itself
        return None
    pause = retry.get_backoff_time() if wait is None else wait
    if clock.monotonic() + pause > give_up_at:
        return None
    retry.sleep(raw)
    return retry


def retry_after(response: requests.Response) -> float | None:
    """Seconds that the response asks to wait (RFC 9110 §10.2.3); ``None`` if it does not."""
    value = response.headers.get("Retry-After")
    if value is None:
        return None
    try:
        return Retry().parse_retry_after(value)
    except (InvalidHeader, ValueError, OverflowError):  # junk, or a date outside the calendar
        return None
