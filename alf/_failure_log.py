"""One warning for each token request that failed while a caller waited for it."""

from __future__ import annotations

import logging

from requests.exceptions import RequestException

from alf._advice import advise
from alf._inspection import reason

__all__ = ["is_logged", "log_failure"]

logger = logging.getLogger("alf")


def log_failure(error: Exception) -> None:
    """Log what the endpoint said, and what to try. Every copy of the error counts as logged."""
    error._is_logged_by_alf = True  # type: ignore[attr-defined]
    if isinstance(error, RequestException):
        hint = next(advise(error, {}))
        logger.warning("no token: %s; try: %s", reason(error), hint)
    else:
        # The text of another's exception may hold anything.
        logger.warning("no token: %s was raised", type(error).__name__)


def is_logged(error: Exception) -> bool:
    """Whether a warning has told of this error."""
    return getattr(error, "_is_logged_by_alf", False)
