"""The fixtures of :mod:`alf.testing` for pytest, which finds this module by its entry point.

It is outside the package so that pytest does not import alf, and requests with it, before a test
wants a fixture: coverage would miss those lines, and gevent would patch too late.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from alf import Client
    from alf.testing import FakeAPI, FakeTokenEndpoint


@pytest.fixture
def alf_endpoint() -> Iterator[FakeTokenEndpoint]:
    """A token endpoint on loopback: an alf.testing.FakeTokenEndpoint."""
    from alf.testing import FakeTokenEndpoint

    with FakeTokenEndpoint() as endpoint:
        yield endpoint


@pytest.fixture
def alf_api(alf_endpoint: FakeTokenEndpoint) -> Iterator[FakeAPI]:
    """An API on loopback that accepts only live tokens of alf_endpoint: an alf.testing.FakeAPI."""
    from alf.testing import FakeAPI

    with FakeAPI(alf_endpoint) as api:
        yield api


@pytest.fixture
def alf_client(alf_endpoint: FakeTokenEndpoint) -> Iterator[Client]:
    """An alf.Client for alf_endpoint, with raise_token_error=True."""
    from alf import Client

    with Client(**alf_endpoint.credentials, raise_token_error=True) as client:
        yield client
