"""Metrics for Prometheus: ``Client(..., on_event=count)``."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

from alf.events import Event

EVENTS = Counter("alf_events", "What happened to tokens", ["event", "reason"])
SECONDS = Histogram("alf_token_request_seconds", "How long token requests took", ["event"])


def count(event: Event) -> None:
    name = type(event).__name__
    EVENTS.labels(name, getattr(event, "reason", "none")).inc()
    if hasattr(event, "duration"):
        SECONDS.labels(name).observe(event.duration)
