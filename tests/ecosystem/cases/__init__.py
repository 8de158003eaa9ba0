"""How a Client is put into each library; see :mod:`tests.ecosystem.cases.registry`."""

from tests.ecosystem.cases import apis, data, services, sessions, tracers
from tests.ecosystem.cases.registry import CASES, Case

__all__ = ["CASES", "Case", "apis", "data", "services", "sessions", "tracers"]
