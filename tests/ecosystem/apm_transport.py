"""A transport for Elastic APM that keeps the spans; it is imported by name."""

from __future__ import annotations

from typing import Any

from elasticapm.transport.base import Transport

spans: list[Any] = []


class Keep(Transport):
    def queue(self, event_type: str, data: Any, flush: bool = False) -> None:
        if event_type == "span":
            spans.append(data)

    def start_thread(self, pid: int | None = None) -> None:
        """Nothing is sent."""
