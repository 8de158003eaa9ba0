"""Metrics for OpenTelemetry: ``Client(..., on_event=count)``, then ``watch("client-id", client)``.

Names and units follow OpenTelemetry's conventions: namespaces with dots, seconds as ``s``,
``error.type`` and ``server.address``. All other names are in the namespace ``alf``.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from opentelemetry.metrics import CallbackOptions, Observation, get_meter

from alf import Client, TokenError
from alf.events import Event

METER = get_meter("alf")
EVENTS = METER.create_counter(
    "alf.token.events", unit="{event}", description="What happened to tokens"
)
DURATION = METER.create_histogram(
    "alf.token.request.duration", unit="s", description="How long token requests took"
)


def count(event: Event) -> None:
    attributes = {"alf.client.id": event.client_id, "alf.event.name": type(event).__name__}
    for name in ("reason", "source"):
        if hasattr(event, name):
            attributes[f"alf.token.{name}"] = getattr(event, name)
    error = getattr(event, "error", None)
    if error is not None:
        code = error.error if isinstance(error, TokenError) else None
        kind = error if isinstance(error, str) else type(error).__qualname__
        attributes["error.type"] = code or kind
    EVENTS.add(1, attributes)
    if hasattr(event, "duration") and getattr(event, "source", "endpoint") == "endpoint":
        address = urlsplit(event.endpoint).hostname or ""
        DURATION.record(event.duration, {**attributes, "server.address": address})


def watch(client_id: str, client: Client) -> None:
    attributes = {"alf.client.id": client_id}

    def remaining(_: CallbackOptions) -> Iterable[Observation]:
        health = client.health()
        if health.expires_in is not None or not health.is_ready:
            yield Observation(health.expires_in or 0.0, attributes)

    def age(_: CallbackOptions) -> Iterable[Observation]:
        health = client.health()
        if health.age is not None:
            yield Observation(health.age, attributes)

    METER.create_observable_gauge(
        "alf.token.remaining", [remaining], unit="s", description="Time until the token expires"
    )
    METER.create_observable_gauge(
        "alf.token.age", [age], unit="s", description="Time since the token was requested"
    )
