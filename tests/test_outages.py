"""A provider that is down: what a token's life outlasts, and what renewal costs."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import requests
from requests.adapters import BaseAdapter

from alf import TokenManager
from tests.servers import TurnedClock


class Provider(BaseAdapter):
    """A token endpoint in place of the network, which can be down."""

    def __init__(self, clock: TurnedClock, expires_in: float, **members: Any) -> None:
        super().__init__()
        self.clock = clock
        self.expires_in = expires_in
        self.members = members
        self.down = (float("inf"), float("inf"))
        self.headers: dict[str, str] = {}
        self.granted: list[float] = []
        self.failed: list[float] = []

    def send(self, request: Any, *_args: Any, **_settings: Any) -> requests.Response:
        now = self.clock.monotonic()
        response = requests.Response()
        response.request, response.url = request, request.url
        if self.down[0] <= now < self.down[1]:
            self.failed.append(now)
            response.status_code = 503
            response.headers.update(self.headers)
            response._content = b"{}"
            return response
        self.granted.append(now)
        response.status_code = 200
        token = {"access_token": f"token-{len(self.granted)}", "expires_in": self.expires_in}
        response._content = json.dumps({**token, **self.members}).encode()
        return response

    def close(self) -> None:
        pass

    def manager(self, **options: Any) -> TokenManager:
        session = requests.Session()
        session.mount("https://", self)
        options = {"token_refresh": "blocking", "token_session": session, **options}
        return TokenManager(
            "https://id.example.com/token", "client-id", "secret", clock=self.clock, **options
        )


def failed_calls(manager: TokenManager, clock: TurnedClock, seconds: float, every: float) -> int:
    failed = 0
    for _ in range(int(seconds / every)):
        try:
            manager.token()
        except requests.exceptions.RequestException:
            failed += 1
        clock.turn(every)
    return failed


@pytest.mark.parametrize(
    ("life", "outage", "every"),
    [(3600, 1200, 5), (1800, 660, 5), (300, 90, 1), (60, 18, 0.5), (60, 18, 5), (3600, 300, 300)],
)
def test_no_call_feels_an_outage_of_a_third_of_the_life(
    life: float, outage: float, every: float
) -> None:
    clock = TurnedClock()
    provider = Provider(clock, life)
    manager = provider.manager()
    for start in range(120):
        manager.renew()
        began = clock.monotonic()
        provider.down = (began + life * start / 120, began + life * start / 120 + outage)
        assert failed_calls(manager, clock, 2 * life, every) == 0, start


def test_a_renewal_costs_two_token_requests_a_life_at_most() -> None:
    clock = TurnedClock()
    provider = Provider(clock, 3600)
    assert failed_calls(provider.manager(), clock, 50 * 3600, 10) == 0
    assert len(provider.granted) <= 2 * 50 + 1


def test_failed_renewals_are_spaced_by_a_part_of_what_is_left() -> None:
    clock = TurnedClock()
    provider = Provider(clock, 3600)
    manager = provider.manager()
    manager.token()
    provider.down = (0, float("inf"))
    clock.turn(2400)
    assert failed_calls(manager, clock, 1199, 1) == 0
    gaps = [b - a for a, b in zip(provider.failed, provider.failed[1:], strict=False)]
    assert max(gaps[:30]) <= 31
    assert min(gaps[:30]) >= 15
    assert gaps[-1] < 5


def test_clients_that_start_together_do_not_renew_together() -> None:
    clock = TurnedClock()
    provider = Provider(clock, 3600)
    managers = [provider.manager() for _ in range(200)]
    for manager in managers:
        manager.token()
    provider.granted.clear()
    calls = sorted(
        (random.Random(number).uniform(0, 5) + 5 * turn, number)
        for number in range(200)
        for turn in range(300, 600)
    )
    began = clock.monotonic()
    for at, number in calls:
        clock.turn(began + at - clock.monotonic())
        managers[number].token()
    assert len(provider.granted) >= 200
    assert max(Counter(map(int, provider.granted)).values()) <= 10


@pytest.mark.parametrize(
    ("refresh_in", "earliest", "latest"),
    [
        (1200, 1200, 1440),
        ("1200", 1200, 1440),
        (0, 1950, 2280),
        (-5, 1950, 2280),
        (3600, 1950, 2280),
        ("soon", 1950, 2280),
        (True, 1950, 2280),
    ],
)
def test_the_servers_refresh_in_opens_the_window(
    refresh_in: Any, earliest: float, latest: float
) -> None:
    clock = TurnedClock()
    provider = Provider(clock, 3600, refresh_in=refresh_in)
    manager = provider.manager()
    manager.token()
    clock.turn(earliest - 1)
    assert manager.token().access_token == "token-1"
    clock.turn(latest - earliest + 2)
    assert manager.token().access_token == "token-2"


def test_a_window_of_zero_renews_only_what_has_expired() -> None:
    clock = TurnedClock()
    provider = Provider(clock, 3600)
    manager = provider.manager(token_refresh_window=0, token_leeway=0)
    manager.token()
    clock.turn(3599)
    assert manager.token().access_token == "token-1"
    clock.turn(2)
    assert manager.token().access_token == "token-2"


def test_margins_are_cut_to_half_of_a_short_life() -> None:
    clock = TurnedClock()
    provider = Provider(clock, 100)
    manager = provider.manager(token_refresh_window=300, token_leeway=300)
    manager.token()
    clock.turn(37)
    assert manager.token().access_token == "token-1"
    clock.turn(14)
    assert manager.token().access_token == "token-2"


@pytest.mark.parametrize("name", ["token_refresh_window", "token_leeway", "token_settle_time"])
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (-1, ValueError),
        ("60", TypeError),
        (True, TypeError),
        (float("nan"), ValueError),
        (float("inf"), ValueError),
    ],
)
def test_margins_that_are_not_seconds_are_refused(
    name: str, value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match=name):
        TokenManager("https://id.example.com/token", "client-id", "secret", **{name: value})


def test_retry_after_counts_from_the_first_failure() -> None:
    clock = TurnedClock()
    provider = Provider(clock, 3600)
    provider.down, provider.headers = (0, float("inf")), {"Retry-After": "3600"}
    manager = provider.manager()
    assert failed_calls(manager, clock, 6, 1) == 6
    assert len(provider.failed) == 1
    clock.turn(60)  # no longer than this without a token
    provider.down = (float("inf"), float("inf"))
    assert manager.token().access_token == "token-1"


def test_retry_after_takes_half_of_what_is_left_of_a_life_at_most() -> None:
    clock = TurnedClock()
    provider = Provider(clock, 3600)
    manager = provider.manager()
    manager.token()
    provider.down, provider.headers = (0, float("inf")), {"Retry-After": "3600"}
    clock.turn(3600 - 1200)
    assert failed_calls(manager, clock, 598, 1) == 0
    assert len(provider.failed) == 1
    clock.turn(4)
    manager.token()
    assert len(provider.failed) == 2


def test_failures_while_a_test_had_frozen_time_pause_nothing_afterwards() -> None:
    clock = TurnedClock()
    provider = Provider(clock, 3600)
    manager = provider.manager()
    clock.turn(1e9)
    provider.down = (0, float("inf"))
    assert failed_calls(manager, clock, 0.06, 0.01) == 6
    assert len(provider.failed) == 3
    clock.turn(-1e9)
    provider.down = (float("inf"), float("inf"))
    assert manager.token().access_token == "token-1"


@pytest.mark.parametrize("refresh", ["background", "blocking"])
def test_a_failing_secret_callable_is_a_failing_endpoint(
    make_secret: Callable[[], str], refresh: str
) -> None:
    clock = TurnedClock()
    provider = Provider(clock, 3600)
    session = requests.Session()
    session.mount("https://", provider)
    manager = TokenManager(
        "https://id.example.com/token",
        "client-id",
        make_secret,
        clock=clock,
        token_session=session,
        token_refresh=refresh,
    )
    manager.token()
    make_secret.fails = True  # type: ignore[attr-defined]
    clock.turn(3595)
    assert manager.token().access_token == "token-1"
    clock.turn(10)
    with pytest.raises(OSError, match="no secret now"):
        manager.token()


@pytest.fixture
def make_secret() -> Callable[[], str]:
    class Secret:
        fails = False

        def __call__(self) -> str:
            if self.fails:
                message = "no secret now"
                raise OSError(message)
            return "secret"

    return Secret()
