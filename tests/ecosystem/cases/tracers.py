"""Tracers: what they record of a healed refusal is a 401, not an error of alf's."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from tests.ecosystem.cases.registry import case

Call = Callable[[int], Any]


def _traced(lab: Any) -> Callable[[], Any]:
    lab.pages({"/reports": {"title": "May"}})
    session = lab.session()

    def get() -> Any:
        response = session.get(f"{lab.url}/reports", timeout=20)
        response.raise_for_status()
        return response.json()

    return get


@case("ddtrace", "sessions", "``ddtrace.patch(requests=True)``")
def ddtrace(lab: Any) -> Call:
    os.environ.update(
        DD_TRACE_STARTUP_LOGS="0",
        DD_INSTRUMENTATION_TELEMETRY_ENABLED="0",
        DD_REMOTE_CONFIGURATION_ENABLED="0",
    )
    from ddtrace import patch
    from ddtrace.trace import TraceFilter, tracer

    spans: list[Any] = []

    class Keep(TraceFilter):
        def process_trace(self, trace: Any) -> None:
            spans.extend(trace)

    patch(requests=True)
    tracer.configure(trace_processors=[Keep()])
    get = _traced(lab)

    def call(number: int) -> Any:
        spans.clear()
        with tracer.trace("work"):
            result = get()
        assert any(span.get_tag("http.status_code") == "200" for span in spans)
        assert not [span for span in spans if span.get_tag("error.type")]
        return result

    return call


@case("elastic-apm", "sessions", "``elasticapm.instrument()``")
def elastic_apm(lab: Any) -> Call:
    import elasticapm

    apm = elasticapm.get_client() or elasticapm.Client(
        service_name="alf",
        transport_class="tests.ecosystem.apm_transport.Keep",
        cloud_provider="none",
        central_config=False,
        metrics_interval="0ms",
    )
    elasticapm.instrument()
    get = _traced(lab)

    def call(number: int) -> Any:
        from tests.ecosystem.apm_transport import spans

        spans.clear()
        apm.begin_transaction("work")
        result = get()
        apm.end_transaction("work", "done")
        assert any(span["context"]["http"]["status_code"] == 200 for span in spans)
        return result

    return call


@case(
    "opentelemetry-instrumentation-requests", "sessions", "``RequestsInstrumentor().instrument()``"
)
def opentelemetry(lab: Any) -> Call:
    from opentelemetry.instrumentation.requests import RequestsInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    RequestsInstrumentor().uninstrument()
    RequestsInstrumentor().instrument(tracer_provider=provider)
    get = _traced(lab)

    def call(number: int) -> Any:
        exporter.clear()
        result = get()
        spans = exporter.get_finished_spans()
        assert any(200 in (span.attributes or {}).values() for span in spans)
        assert not [span for span in spans if span.events]  # exceptions
        return result

    return call


@case("opencensus-ext-requests", "older", "``trace.trace_integration(tracer)``")
def opencensus(lab: Any) -> Call:
    from opencensus.ext.requests import trace
    from opencensus.trace.samplers import AlwaysOnSampler
    from opencensus.trace.tracer import Tracer

    spans: list[Any] = []

    class Keep:
        def export(self, found: Any) -> None:
            spans.extend(found)

        emit = export

    tracer = Tracer(exporter=Keep(), sampler=AlwaysOnSampler())
    trace.trace_integration(tracer)
    get = _traced(lab)

    def call(number: int) -> Any:
        spans.clear()
        with tracer.span("work"):
            result = get()
        assert any(span.attributes.get("http.status_code") == 200 for span in spans)
        return result

    return call
