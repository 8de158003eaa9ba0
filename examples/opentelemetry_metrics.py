"""Metrics for OpenTelemetry: ``Client(..., on_event=count)``."""

from __future__ import annotations

from opentelemetry import metrics

from alf.events import Event

METER = metrics.get_meter("alf")
EVENTS = METER.create_counter("alf.events", description="What happened to tokens")
SECONDS = METER.create_histogram("alf.token_request.duration", unit="s")


def count(event: Event) -> None:
    name = type(event).__name__
    EVENTS.add(1, {"event": name, "reason": getattr(event, "reason", "none")})
    if hasattr(event, "duration"):
        SECONDS.record(event.duration, {"event": name})
