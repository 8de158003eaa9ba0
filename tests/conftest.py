from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import urllib3
from hypothesis import HealthCheck, settings

from alf import Client, TokenManager
from tests.caches import running_redis
from tests.leaks import SECRET, LeakWatch
from tests.servers import Api, TokenServer, TurnedClock, running

# The same examples each time, so that a run says the same twice. To look for what has not been
# found yet: pytest tests/properties --hypothesis-profile=search
settings.register_profile(
    "alf",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.register_profile(
    "search", settings.get_profile("alf"), derandomize=False, max_examples=2000
)
settings.load_profile("alf")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(LeakWatch())
    if urllib3.__version__.startswith("1."):
        # It leaves the sockets of a Session that was not closed to the garbage collector.
        config.addinivalue_line("filterwarnings", "ignore:unclosed <socket:ResourceWarning")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where all servers are installed (ALF_FORBID_SKIPS=1), a skipped test is a failure."""
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("ALF_FORBID_SKIPS") and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """requests asks the environment for proxies, certificates and passwords: here it has none."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("NETRC", os.devnull)


@pytest.fixture
def tokens() -> Iterator[TokenServer]:
    with running(TokenServer()) as server:
        yield server


@pytest.fixture
def api(tokens: TokenServer) -> Iterator[Api]:
    with running(Api(tokens)) as server:
        yield server


@pytest.fixture(scope="session")
def redis_port() -> Iterator[int]:
    """A redis-server of the tests' own, on a free port."""
    with running_redis() as server:
        yield server.port


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock()


@pytest.fixture
def make_client(tokens: TokenServer) -> Iterator[Callable[..., Client]]:
    """Clients of the token server, closed when the test ends; ``clock=`` hands one in."""
    clients: list[Client] = []

    def make(cls: type[Client] = Client, *, clock: Any = None, **options: Any) -> Client:
        if clock is not None:
            manager = functools.partial(TokenManager, clock=clock)
            # Static: partial objects are on their way to becoming methods (Python 3.14).
            members = {"token_manager_class": staticmethod(manager)}
            cls = type("ClockedClient", (cls,), members)
        given = {
            "token_endpoint": tokens.endpoint,
            "client_id": "client-id",
            "client_secret": SECRET,
            **options,
        }
        clients.append(cls(**given))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(make_client: Callable[..., Client]) -> Client:
    return make_client()
