"""Logs one warning for each failed token request that a caller waited for."""

from __future__ import annotations

import logging

from requests.exceptions import RequestException

from alf._inspection import reason

__all__ = ["is_logged", "log_failure"]

logger = logging.getLogger("alf")


def log_failure(error: Exception) -> None:
    """Log what the endpoint said and what to try. Copies of the error count as logged, too."""
    error._is_logged_by_alf = True  # type: ignore[attr-defined]
    if isinstance(error, RequestException):
        from alf._advice import advise  # most programs never need it

        hint = next(advise(error, {}))
        logger.warning("no token: %s; try: %s", reason(error), hint)
    else:
        # The text of a foreign exception may hold anything.
        logger.warning("no token: %s was raised", type(error).__name__)


def is_logged(error: Exception) -> bool:
    """Whether this error has been logged."""
    return getattr(error, "_is_logged_by_alf", False)
