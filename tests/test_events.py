"""What users are told for their metrics, and two ways to make metrics of it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any, Literal

import pytest
import requests

from alf import Client, TokenError
from alf.events import Event, RenewalFailed, StorageFailed, TokenObtained, TokenRefused
from tests.servers import Api, Reply, TokenServer, TurnedClock, hang_up

MakeClient = Callable[..., Client]


@pytest.fixture
def told() -> list[Event]:
    return []


@pytest.fixture
def telling(make_client: MakeClient, clock: TurnedClock, told: list[Event]) -> Client:
    return make_client(clock=clock, token_refresh="blocking", on_event=told.append)


def test_a_token_obtained_tells_why_and_how_long_it_took(
    telling: Client, tokens: TokenServer, api: Api, clock: TurnedClock, told: list[Event]
) -> None:
    tokens.members = {"scope": "read"}
    tokens.on_grant = lambda: clock.turn(0.5)

    def reasons() -> list[str]:
        reasons = [event.reason for event in told if isinstance(event, TokenObtained)]
        told.clear()
        return reasons

    telling.get(api.url)
    assert told == [
        TokenObtained(
            endpoint=tokens.endpoint,
            client_id="client-id",
            reason="missing",
            duration=0.5,
            lifetime=3600.0,
            scope="read",
        )
    ]
    telling.get(api.url)
    assert reasons() == ["missing"], "reuse is no event"
    telling.renew_token()
    clock.turn(3540)
    telling.get(api.url)
    clock.turn(3600)
    telling.get(api.url)
    tokens.alive.clear()
    telling.get(api.url)
    assert reasons() == ["forced", "expiring", "expired", "refused"]


def test_a_token_refused_tells_by_whom_and_whether_it_was_a_fresh_one(
    telling: Client, tokens: TokenServer, api: Api, clock: TurnedClock, told: list[Event]
) -> None:
    telling.get(api.url)
    clock.turn(60)
    tokens.alive.clear()
    tokens.on_grant = tokens.alive.clear
    assert telling.get(api.url).status_code == 401
    refused = [event for event in told if isinstance(event, TokenRefused)]
    assert refused == [
        TokenRefused(tokens.endpoint, "client-id", origin=api.url, age=60.0, is_fresh=False),
        TokenRefused(tokens.endpoint, "client-id", origin=api.url, age=0.0, is_fresh=True),
    ]


def test_a_renewal_that_failed_tells_why(
    telling: Client, tokens: TokenServer, api: Api, clock: TurnedClock, told: list[Event]
) -> None:
    telling.get(api.url)
    told.clear()
    clock.turn(3540)
    tokens.replies = [Reply(503, {"error": "server_error"})]
    assert telling.get(api.url).status_code == 200
    clock.turn(100)
    tokens.replies = [hang_up, hang_up]
    with pytest.raises(requests.exceptions.ConnectionError):
        telling.get(api.url)
    first, second = told
    assert isinstance(first, RenewalFailed)
    assert isinstance(second, RenewalFailed)
    assert (first.reason, second.reason) == ("expiring", "expired")
    assert isinstance(first.error, TokenError)
    assert first.error.error == "server_error"
    assert isinstance(second.error, requests.exceptions.ConnectionError)


class Broken:
    """A storage whose errors quote what it was given."""

    def get(self, key: str) -> None:
        raise OSError(key)

    def set(self, key: str, value: str) -> None:
        raise OSError(value)


def test_a_storage_that_failed_is_told_of_once_an_outage(
    make_client: MakeClient, tokens: TokenServer, api: Api, clock: TurnedClock, told: list[Event]
) -> None:
    client = make_client(
        clock=clock, token_refresh="blocking", token_storage=Broken(), on_event=told.append
    )
    for _ in range(10):
        assert client.get(api.url).status_code == 200
        clock.turn(30)
    failed = [event for event in told if isinstance(event, StorageFailed)]
    assert failed == [
        StorageFailed(tokens.endpoint, "client-id", operation="reading", error="OSError")
    ]
    assert "token-1" not in repr(told)


def test_events_are_frozen_and_show_no_secret(
    make_client: MakeClient, tokens: TokenServer, told: list[Event]
) -> None:
    endpoint = f"http://user:s3cr3t@127.0.0.1:{tokens.port}/token?key=s3cr3t"
    assert make_client(token_endpoint=endpoint, on_event=told.append).ensure_token()
    [event] = told
    assert "s3cr3t" not in repr(event)
    assert "top-secret" not in repr(event)
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.client_id = "other"  # type: ignore[misc]


def test_a_callback_that_raises_costs_no_call(
    make_client: MakeClient, api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_event: Event) -> None:
        raise ZeroDivisionError

    assert make_client(on_event=fail).get(api.url).status_code == 200
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.getMessage() == "on_event failed at a TokenObtained"


def test_a_callback_that_cannot_be_called_is_refused(make_client: MakeClient) -> None:
    with pytest.raises(TypeError, match="on_event must be callable"):
        make_client(on_event="print")


def test_an_example_with_prometheus(make_client: MakeClient, tokens: TokenServer, api: Api) -> None:
    pytest.importorskip("prometheus_client")
    import prometheus_client

    from examples import prometheus_metrics

    client = make_client(on_event=prometheus_metrics.count)
    client.get(api.url)
    tokens.alive.clear()
    client.get(api.url)
    text = prometheus_client.generate_latest().decode()
    who = 'client_id="client-id",event'
    obtained = f'alf_events_total{{{who}="TokenObtained",reason="missing",source="endpoint"}} 1.0'
    assert obtained in text
    assert f'alf_events_total{{{who}="TokenRefused",reason="none",source="none"}} 1.0' in text
    assert f'alf_token_request_seconds_count{{{who}="TokenObtained"}} 2.0' in text


def test_gauges_with_prometheus(make_client: MakeClient, tokens: TokenServer) -> None:
    import prometheus_client

    from examples import prometheus_metrics

    def gauges() -> tuple[float | None, float | None]:
        labels = {"client_id": "watched"}
        read = prometheus_client.REGISTRY.get_sample_value
        remaining = read("alf_token_remaining_seconds", labels)
        return remaining, read("alf_token_age_seconds", labels)

    client = make_client()
    prometheus_metrics.watch("watched", client)
    remaining, age = gauges()
    assert remaining == 0
    assert str(age) == "nan"
    client.ensure_token()
    remaining, age = gauges()
    assert remaining == pytest.approx(3600, abs=60)
    assert age == pytest.approx(0, abs=60)
    tokens.expires_in = None
    client.renew_token()
    assert gauges()[0] == float("inf")
    assert not tokens.requests[2:], "a gauge requests nothing"


def test_an_example_with_opentelemetry(
    make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    metrics.set_meter_provider(provider)
    from examples import opentelemetry_metrics

    def points(name: str) -> list[Any]:
        data: Any = reader.get_metrics_data()
        return [
            point
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    client = make_client(on_event=opentelemetry_metrics.count)
    opentelemetry_metrics.watch("client-id", client)
    assert [point.value for point in points("alf.token.remaining")] == [0]
    assert not points("alf.token.age")
    client.get(api.url)
    obtained = {
        "alf.client.id": "client-id",
        "alf.event.name": "TokenObtained",
        "alf.token.reason": "missing",
        "alf.token.source": "endpoint",
    }
    (event,) = points("alf.token.events")
    assert (event.value, event.attributes) == (1, obtained)
    (duration,) = points("alf.token.request.duration")
    assert (duration.count, duration.attributes) == (1, {**obtained, "server.address": "127.0.0.1"})
    for name, seconds in {"alf.token.remaining": 3600, "alf.token.age": 0}.items():
        (point,) = points(name)
        assert point.value == pytest.approx(seconds, abs=60)
        assert point.attributes == {"alf.client.id": "client-id"}

    tokens.expires_in = None
    client.renew_token()
    assert not points("alf.token.remaining")

    # A connection that was kept is tried once more.
    hang_ups = [hang_up] * 2
    tokens.replies = [Reply(400, {"error": "invalid_scope"}), Reply(200, "<html>"), *hang_ups]
    for _ in range(3):
        with pytest.raises(requests.RequestException):
            client.renew_token()
    told = StorageFailed(tokens.endpoint, "client-id", "reading", "redis.exceptions.TimeoutError")
    opentelemetry_metrics.count(told)
    kinds = {point.attributes.get("error.type") for point in points("alf.token.events")}
    assert kinds == {
        None,
        "invalid_scope",
        "TokenError",
        "ConnectionError",
        "redis.exceptions.TimeoutError",
    }
    requested = sum(point.count for point in points("alf.token.request.duration"))
    stored = TokenObtained(tokens.endpoint, "client-id", "missing", 0.1, 60, None, "storage")
    opentelemetry_metrics.count(stored)
    assert sum(point.count for point in points("alf.token.request.duration")) == requested
    provider.shutdown()


def test_a_token_from_the_storage_says_so(
    make_client: MakeClient, tokens: TokenServer, told: list[Event]
) -> None:
    storage: dict[str, str] = {}
    tokens.members = {"scope": "read"}
    for _ in range(2):
        make_client(token_storage=storage, on_event=told.append).ensure_token()
    first, second = told
    assert isinstance(first, TokenObtained)
    assert isinstance(second, TokenObtained)
    assert [event.source for event in (first, second)] == ["endpoint", "storage"]
    assert [event.reason for event in (first, second)] == ["missing", "missing"]
    assert (second.lifetime, second.scope) == (3600, "read")
    assert 0 <= second.duration < 60
    assert len(tokens.requests) == 1


@pytest.mark.parametrize(("source", "count"), [("endpoint", 1), ("storage", None)])
def test_only_token_requests_have_a_duration_in_prometheus(
    source: Literal["endpoint", "storage"], count: int | None
) -> None:
    import prometheus_client

    from examples import prometheus_metrics

    client_id = f"from {source}"
    obtained = TokenObtained("https://a.example", client_id, "missing", 0.1, 60, None, source)
    prometheus_metrics.count(obtained)
    labels = {"client_id": client_id, "event": "TokenObtained"}
    read = prometheus_client.REGISTRY.get_sample_value
    assert read("alf_token_request_seconds_count", labels) == count
