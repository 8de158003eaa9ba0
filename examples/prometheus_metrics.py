"""Metrics for Prometheus: ``Client(..., on_event=count)``, then ``watch("client-id", client)``."""

from __future__ import annotations

from math import inf, nan

from prometheus_client import Counter, Gauge, Histogram

from alf import Client
from alf.events import Event

EVENTS = Counter(
    "alf_events", "What happened to tokens", ["client_id", "event", "reason", "source"]
)
SECONDS = Histogram(
    "alf_token_request_seconds", "How long token requests took", ["client_id", "event"]
)
REMAINING = Gauge(
    "alf_token_remaining_seconds",
    "Seconds until the token expires; 0 without a token",
    ["client_id"],
)
AGE = Gauge("alf_token_age_seconds", "Seconds since the token was requested", ["client_id"])


def count(event: Event) -> None:
    name = type(event).__name__
    reason, source = (getattr(event, label, "none") for label in ("reason", "source"))
    EVENTS.labels(event.client_id, name, reason, source).inc()
    if hasattr(event, "duration") and source != "storage":
        SECONDS.labels(event.client_id, name).observe(event.duration)


def watch(client_id: str, client: Client) -> None:
    def remaining() -> float:
        health = client.health()
        if not health.is_ready:
            return 0.0
        return inf if health.expires_in is None else health.expires_in

    def age() -> float:
        seconds = client.health().age
        return nan if seconds is None else seconds

    REMAINING.labels(client_id).set_function(remaining)
    AGE.labels(client_id).set_function(age)
