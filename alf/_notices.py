"""Events and log lines of a flight, which are sent after it has landed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from alf._urls import shown_url
from alf.events import Event

__all__ = ["Notices"]

logger = logging.getLogger("alf")


class Notices:
    """Collects events and log lines until the flight has landed: handlers may use the Client.

    :param on_event: the user's callback; ``None``: events are dropped.
    :param url: the endpoint's URL, for events.
    :param client_id: the client's identifier, for events.
    """

    __slots__ = ("_client_id", "_endpoint", "_on_event", "_waiting")

    def __init__(
        self, on_event: Callable[[Event], object] | None, url: str, client_id: str
    ) -> None:
        self._on_event = on_event
        self._endpoint = shown_url(url)
        self._client_id = client_id
        # Not a deque, which takes ten times the memory for the one or two that wait here.
        self._waiting: list[Callable[[], object]] = []

    def tell(self, event: type[Event], **details: Any) -> None:
        """Send an event to the user's callback."""
        if self._on_event is not None:
            happened = event(self._endpoint, self._client_id, **details)
            self.add(partial(_call_back, self._on_event, happened))

    def log(self, level: int, message: str, *args: object, exc_info: Any = None) -> None:
        """Log a line."""
        self.add(partial(logger.log, level, message, *args, exc_info=exc_info))

    def add(self, notice: Callable[[], object]) -> None:
        """Call this."""
        self._waiting.append(notice)

    def flush(self) -> None:
        """Send everything collected, in order."""
        while True:
            try:
                notice = self._waiting.pop(0)
            except IndexError:
                return
            notice()


def _call_back(on_event: Callable[[Event], object], event: Event) -> None:
    try:
        on_event(event)
    except Exception:
        logger.warning("on_event failed at a %s", type(event).__name__, exc_info=True)
