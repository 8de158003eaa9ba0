"""When a token is good, who renews it, who waits: with clocks turned by hand."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import requests

from alf import Client, TokenError, TokenManager
from tests.servers import Api, Reply, Request, TokenServer, TurnedClock, hang_up

MakeClient = Callable[..., Client]


@pytest.fixture
def blocking(make_client: MakeClient, clock: TurnedClock) -> Client:
    """A Client whose time is turned by hand and whose renewals are done by the caller."""
    return make_client(clock=clock, token_refresh="blocking")


class Gate:
    """A token request that arrives, and is answered when the test says so."""

    def __init__(self, reply: Callable[[], Reply]) -> None:
        self._reply = reply
        self.arrived = threading.Event()
        self._open = threading.Event()

    def __call__(self, _request: Request) -> Reply:
        self.arrived.set()
        assert self._open.wait(20)
        return self._reply()

    def open(self) -> None:
        self._open.set()


def together(count: int, call: Callable[[], Any]) -> list[Future[Any]]:
    """The results of a call made by so many threads at once."""
    barrier = threading.Barrier(count)

    def meet_and_call() -> Any:
        barrier.wait(20)
        return call()

    with ThreadPoolExecutor(count) as pool:
        return [pool.submit(meet_and_call) for _ in range(count)]


def renewal_has_ended() -> None:
    for thread in threading.enumerate():
        if thread.name == "alf-renewal":
            thread.join(20)
            assert not thread.is_alive()


# -- time --------------------------------------------------------------------------------------


# The leeway is the smaller of 10 s and a twentieth. The refresh window is the last three eighths,
# 22 minutes at most, and opens up to a quarter earlier.
WINDOWS = [
    (3600, 1950, 2280, 3590),
    (300, 159, 187.5, 290),
    (100, 53, 62.5, 95),
    (20, 10.6, 12.5, 19),
    ("100", 53, 62.5, 95),
]


@pytest.mark.parametrize(("expires_in", "earliest", "latest", "good"), WINDOWS)
def test_a_token_is_used_until_its_refresh_window_opens(
    blocking: Client,
    tokens: TokenServer,
    clock: TurnedClock,
    expires_in: Any,
    earliest: float,
    latest: float,
    good: int,
) -> None:
    tokens.expires_in = expires_in
    assert blocking.ensure_token().access_token == "token-1"
    clock.turn(earliest - 0.01)
    assert blocking.ensure_token().access_token == "token-1"
    clock.turn(latest - earliest + 0.02)
    assert blocking.ensure_token().access_token == "token-2"


@pytest.mark.parametrize(("expires_in", "earliest", "latest", "good"), WINDOWS)
@pytest.mark.parametrize("is_good", [True, False])
def test_a_caller_waits_from_the_leeway_on(
    make_client: MakeClient,
    tokens: TokenServer,
    clock: TurnedClock,
    expires_in: Any,
    earliest: float,
    latest: float,
    good: int,
    is_good: bool,
) -> None:
    tokens.expires_in = expires_in
    client = make_client(clock=clock)
    assert client.ensure_token().access_token == "token-1"
    clock.turn(good - 0.01 if is_good else good + 0.01)
    gate = Gate(tokens.granted)
    tokens.replies = [gate]
    if not is_good:
        threading.Thread(target=lambda: gate.arrived.wait(20) and gate.open()).start()
    assert client.ensure_token().access_token == ("token-1" if is_good else "token-2")
    gate.open()


@pytest.mark.parametrize("expires_in", [None, "soon", float("nan"), True, [1]])
def test_a_token_without_a_known_lifetime_serves_until_it_is_refused(
    blocking: Client, tokens: TokenServer, api: Api, clock: TurnedClock, expires_in: Any
) -> None:
    tokens.expires_in = expires_in
    for _ in range(3):
        assert blocking.get(api.url).status_code == 200
        clock.turn(10**7)
    assert len(tokens.requests) == 1
    tokens.alive.clear()
    assert blocking.get(api.url).status_code == 200
    assert len(tokens.requests) == 2


@pytest.mark.parametrize("expires_in", [0, -1, "0", "-3600"])
def test_a_token_without_life_serves_the_call_at_hand(
    blocking: Client, tokens: TokenServer, api: Api, expires_in: Any
) -> None:
    tokens.expires_in = expires_in
    for _ in range(3):
        assert blocking.get(api.url).status_code == 200
    assert len(tokens.requests) == 3


def test_a_refused_token_without_life_is_replaced(
    blocking: Client, tokens: TokenServer, api: Api
) -> None:
    tokens.expires_in = 0
    tokens.on_grant = lambda: tokens.alive.discard("token-1")
    assert blocking.get(api.url).status_code == 200
    assert len(tokens.requests) == 2


def test_an_early_renewal_that_brings_a_token_without_life_displaces_nothing(
    blocking: Client, tokens: TokenServer, clock: TurnedClock
) -> None:
    assert blocking.ensure_token().access_token == "token-1"
    clock.turn(3535)
    tokens.expires_in = 0
    for _ in range(10):
        assert blocking.ensure_token().access_token == "token-1"
        clock.turn(1)
    assert len(tokens.requests) == 2, "asking early gains nothing here, and is not repeated"


def test_a_huge_lifetime_is_clamped(blocking: Client, tokens: TokenServer) -> None:
    tokens.expires_in = 10**30
    assert blocking.ensure_token().lifetime == 2**31 - 1


def test_life_is_counted_from_before_the_request(
    blocking: Client, tokens: TokenServer, clock: TurnedClock
) -> None:
    tokens.expires_in = 100
    asked_at = clock.time()
    tokens.on_grant = lambda: clock.turn(50)
    assert blocking.ensure_token().issued_at == asked_at
    clock.turn(45.1)
    tokens.on_grant = lambda: None
    assert blocking.ensure_token().access_token == "token-2"


def test_a_sleeping_laptop_wakes_up_with_a_dead_token(
    blocking: Client, tokens: TokenServer, clock: TurnedClock
) -> None:
    assert blocking.ensure_token().access_token == "token-1"
    clock.turn_wall(3600)
    assert blocking.ensure_token().access_token == "token-2"


@pytest.mark.parametrize("jump", [-86400, 86400])
def test_a_clock_that_is_set_costs_one_token_at_most(
    blocking: Client, tokens: TokenServer, clock: TurnedClock, jump: float
) -> None:
    assert blocking.ensure_token()
    clock.turn_wall(jump)
    for _ in range(10):
        assert blocking.ensure_token()
        clock.turn(1)
    assert len(tokens.requests) <= 2
    # Set back, the wall clock sees life in a token whose end the other one knows.
    clock.turn(3600)
    before = len(tokens.requests)
    assert blocking.ensure_token()
    assert len(tokens.requests) == before + 1


def test_the_same_token_again_lives_until_its_first_end(
    blocking: Client, tokens: TokenServer, clock: TurnedClock
) -> None:
    end = clock.monotonic() + 100

    def same(_request: Request) -> Reply:
        rest = max(0, round(end - clock.monotonic()))
        return Reply(body={"access_token": "token-same", "expires_in": rest})

    tokens.script = same
    for _ in range(99):
        assert blocking.ensure_token().access_token == "token-same"
        clock.turn(1)
    # One to start with, and a refresh that gained no life: repeated after 30 s at the earliest.
    assert len(tokens.requests) <= 3
    for _ in range(10):
        assert blocking.ensure_token().access_token == "token-same"
        clock.turn(0.5)
    assert len(tokens.requests) <= 8, "a dead token that is handed out again serves for a second"


def test_the_same_token_with_a_longer_life_is_renewed_like_any_other(
    blocking: Client, tokens: TokenServer, clock: TurnedClock
) -> None:
    tokens.script = lambda _request: Reply(body={"access_token": "same", "expires_in": 100})
    for _ in range(300):
        assert blocking.ensure_token().access_token == "same"
        clock.turn(1)
    assert 5 <= len(tokens.requests) <= 6


def test_another_token_with_no_longer_life_is_not_renewed_early_again(
    blocking: Client, tokens: TokenServer, clock: TurnedClock
) -> None:
    assert blocking.ensure_token().access_token == "token-1"
    clock.turn(3600 - 50)
    tokens.expires_in = 40
    for _ in range(29):
        assert blocking.ensure_token().access_token == "token-2"
        clock.turn(1)
    assert len(tokens.requests) == 2


def test_a_token_in_place_of_a_refused_one_is_renewed_early_like_any_other(
    blocking: Client, tokens: TokenServer, api: Api, clock: TurnedClock
) -> None:
    tokens.expires_in = None
    assert blocking.get(api.url).status_code == 200
    tokens.alive.clear()
    tokens.expires_in = 3600
    assert blocking.get(api.url).status_code == 200
    clock.turn(3600 - 50)
    tokens.replies = [Reply(503)]
    assert blocking.get(api.url).status_code == 200
    assert len(tokens.requests) == 3


# -- early renewal -----------------------------------------------------------------------------


def test_one_renewal_in_the_background_and_nobody_waits(
    make_client: MakeClient, tokens: TokenServer, clock: TurnedClock
) -> None:
    client = make_client(clock=clock)
    assert client.ensure_token().access_token == "token-1"
    clock.turn(3540)
    gate = Gate(tokens.granted)
    tokens.replies = [gate]
    # Were one of them to wait, it would wait for ever.
    futures = together(16, lambda: client.ensure_token().access_token)
    assert {future.result() for future in futures} == {"token-1"}
    assert gate.arrived.wait(20)
    assert client.ensure_token().access_token == "token-1"
    gate.open()
    renewal_has_ended()
    assert client.ensure_token().access_token == "token-2"
    assert len(tokens.requests) == 2


def test_the_renewing_thread_is_a_daemon_and_comes_when_it_is_needed(
    make_client: MakeClient, tokens: TokenServer, clock: TurnedClock
) -> None:
    def renewing() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "alf-renewal"]

    client = make_client(clock=clock)
    assert client.ensure_token()
    assert not renewing()
    clock.turn(3540)
    gate = Gate(tokens.granted)
    tokens.replies = [gate]
    assert client.ensure_token()
    assert [thread.daemon for thread in renewing()] == [True]
    gate.open()
    renewal_has_ended()
    assert not renewing()


def test_a_renewal_in_the_background_that_fails_is_logged(
    make_client: MakeClient,
    tokens: TokenServer,
    clock: TurnedClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = make_client(clock=clock)
    assert client.ensure_token()
    clock.turn(3540)
    tokens.replies = [Reply(503, {"error": "server_error"})]
    assert client.ensure_token().access_token == "token-1"
    renewal_has_ended()
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "503 server_error" in record.getMessage()
    assert not record.exc_info


def test_a_renewal_in_the_background_that_breaks_is_logged_with_its_traceback(
    make_client: MakeClient,
    tokens: TokenServer,
    clock: TurnedClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Breaking(requests.Session):
        is_broken = False

        def post(self, *args: Any, **kwargs: Any) -> requests.Response:
            if self.is_broken:
                raise ZeroDivisionError
            return super().post(*args, **kwargs)

    with Breaking() as session:
        client = make_client(clock=clock, token_session=session)
        assert client.ensure_token()
        clock.turn(3540)
        session.is_broken = True
        assert client.ensure_token().access_token == "token-1"
        renewal_has_ended()
        [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert record.exc_info
        session.is_broken = False
        clock.turn(30)
        assert client.ensure_token()
        renewal_has_ended()
        assert client.ensure_token().access_token == "token-2"


def test_a_call_that_needs_the_token_under_way_waits_for_it(
    make_client: MakeClient, tokens: TokenServer, clock: TurnedClock
) -> None:
    client = make_client(clock=clock)
    assert client.ensure_token()
    clock.turn(3540)
    gate = Gate(tokens.granted)
    tokens.replies = [gate]
    assert client.ensure_token().access_token == "token-1"
    assert gate.arrived.wait(20)
    clock.turn(100)  # the old one is dead
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(lambda: client.ensure_token().access_token)
        gate.open()
        assert future.result(20) == "token-2"
    assert len(tokens.requests) == 2


def test_a_token_that_was_replaced_at_once_is_renewed_early_like_any_other(
    blocking: Client, tokens: TokenServer, clock: TurnedClock
) -> None:
    assert blocking.ensure_token().access_token == "token-1"
    assert blocking.renew_token().access_token == "token-2"
    clock.turn(3535)
    assert blocking.ensure_token().access_token == "token-3"


class ClockWithVisitors(TurnedClock):
    """Somebody else does something whenever this clock is looked at, until it is done."""

    visitor: Callable[[], object] | None = None

    def monotonic(self) -> float:
        now = super().monotonic()
        visitor, self.visitor = self.visitor, None
        if visitor is not None:
            visitor()
        return now


@pytest.mark.parametrize("passed", [3540, 3600])
def test_a_token_that_somebody_else_has_just_renewed_is_not_renewed_again(
    make_client: MakeClient, tokens: TokenServer, passed: float
) -> None:
    clock = ClockWithVisitors()
    client = make_client(clock=clock, token_refresh="blocking")
    assert client.ensure_token().access_token == "token-1"
    clock.turn(passed)
    clock.visitor = client.renew_token
    assert client.ensure_token().access_token == "token-2"
    assert len(tokens.requests) == 2


# -- one flight --------------------------------------------------------------------------------


def test_64_threads_without_a_token_make_one_request(client: Client, tokens: TokenServer) -> None:
    gate = Gate(tokens.granted)
    tokens.replies = [gate]
    threading.Thread(target=lambda: gate.arrived.wait(20) and gate.open()).start()
    futures = together(64, lambda: client.ensure_token().access_token)
    assert {future.result() for future in futures} == {"token-1"}
    assert len(tokens.requests) == 1


def test_32_threads_whose_token_is_revoked_make_one_request_and_see_no_401(
    client: Client, tokens: TokenServer, api: Api
) -> None:
    assert client.ensure_token()
    tokens.alive.clear()
    all_refused = threading.Barrier(32)
    original = api.script

    def refuse_all_at_once(request: Request) -> Reply:
        reply = original(request)
        if reply.status == 401:
            all_refused.wait(20)
        return reply

    api.script = refuse_all_at_once
    futures = together(32, lambda: client.get(api.url).status_code)
    assert {future.result() for future in futures} == {200}
    assert len(tokens.requests) == 2


def wait_until_waiting(threads: set[threading.Thread], count: int) -> None:
    """Until so many of these threads wait for something."""
    deadline = time.monotonic() + 20
    waiting = 0
    while waiting < count:
        assert time.monotonic() < deadline, f"only {waiting} threads wait"
        frames = sys._current_frames()
        tops = [frames.get(thread.ident or 0) for thread in threads]
        waiting = sum(top is not None and top.f_code.co_name == "wait" for top in tops)


def test_those_who_wait_get_the_failure_too(client: Client, tokens: TokenServer, api: Api) -> None:
    gate = Gate(lambda: Reply(503, {"error": "temporarily_unavailable"}))
    tokens.script = gate
    with ThreadPoolExecutor(32) as pool:
        before = set(threading.enumerate())
        futures = [pool.submit(client.get, api.url) for _ in range(32)]
        assert gate.arrived.wait(20)
        wait_until_waiting(set(threading.enumerate()) - before, 31)
        gate.open()
        responses = [future.result(20) for future in futures]
    assert {response.status_code for response in responses} == {503}
    assert {response.json()["error"] for response in responses} == {"temporarily_unavailable"}
    assert len(set(map(id, responses))) == 32
    assert len(tokens.requests) == 1
    assert not api.requests


def test_each_who_waits_gets_an_exception_of_its_own(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    client = make_client(raise_token_error=True)
    gate = Gate(lambda: Reply(503))
    tokens.script = gate
    threading.Thread(target=lambda: gate.arrived.wait(20) and gate.open()).start()
    errors = [future.exception() for future in together(8, lambda: client.ensure_token())]
    assert all(isinstance(error, TokenError) for error in errors)
    assert len(set(map(id, errors))) == 8


class Stuck(requests.Session):
    """Never comes back from its first request, until the test is over."""

    def __init__(self) -> None:
        super().__init__()
        self.stuck = threading.Event()
        self.over = threading.Event()

    def post(self, *args: Any, **kwargs: Any) -> requests.Response:
        if not self.stuck.is_set():
            self.stuck.set()
            self.over.wait(60)
        return super().post(*args, **kwargs)


def test_a_request_that_is_stuck_holds_nobody_beyond_its_time(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    with Stuck() as session:
        client = make_client(token_session=session, token_timeout=0.5)
        with ThreadPoolExecutor(1) as pool:
            stuck = pool.submit(lambda: client.ensure_token().access_token)
            assert session.stuck.wait(20)
            with pytest.raises(requests.exceptions.Timeout, match="did not answer in time"):
                client.ensure_token()
            # The next caller does not wait for it, too.
            assert client.ensure_token().access_token == "token-1"
            session.over.set()
            # It was overtaken: what it brings is good for itself, and replaces nothing.
            assert stuck.result(20) == "token-2"
        assert client.ensure_token().access_token == "token-1"


def test_an_exception_of_another_family_is_not_remembered(make_client: MakeClient) -> None:
    class OddError(Exception):
        def __init__(self, *, reason: str) -> None:
            super().__init__(reason)

    class Odd(requests.Session):
        calls = 0

        def post(self, *args: Any, **kwargs: Any) -> requests.Response:
            self.calls += 1
            raise OddError(reason="odd")

    with Odd() as session:
        client = make_client(token_session=session)
        for _ in range(5):
            with pytest.raises(OddError, match="odd"):
                _ = client.ensure_token()
        assert session.calls == 5


def test_a_token_request_that_needs_its_own_token_is_an_error(make_client: MakeClient) -> None:
    class Circular(requests.Session):
        client: Client

        def post(self, *args: Any, **kwargs: Any) -> requests.Response:
            self.headers["X-Token"] = self.client.ensure_token().access_token
            return super().post(*args, **kwargs)

    with Circular() as session:
        session.client = make_client(token_session=session)
        with pytest.raises(RuntimeError, match="needs a token of the same client"):
            session.client.get("http://127.0.0.1:9")


# -- outages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [Reply(503), Reply(429), Reply(200, b"<html>"), hang_up])
def test_an_outage_in_the_last_stretch_costs_no_call(
    blocking: Client, tokens: TokenServer, api: Api, clock: TurnedClock, failure: Any
) -> None:
    tokens.expires_in = 300
    assert blocking.get(api.url).status_code == 200
    original = tokens.script
    tokens.script = failure if callable(failure) else lambda _request: failure
    clock.turn(231)
    for _ in range(58):
        assert blocking.get(api.url).status_code == 200
        clock.turn(1)
    # Spaced out: after 1, 2, 4, 8, 16 s at the most, and 30 s from then on, less some jitter.
    attempts = len(tokens.requests) - 1
    assert 4 <= attempts <= 2 * 12
    tokens.script = original
    clock.turn(31)
    assert blocking.get(api.url).status_code == 200
    assert blocking.ensure_token().access_token == "token-2"


def test_an_outage_that_shows_in_the_leeway_costs_no_call_until_the_token_is_dead(
    blocking: Client, tokens: TokenServer, api: Api, clock: TurnedClock
) -> None:
    tokens.expires_in = 300
    assert blocking.get(api.url).status_code == 200
    clock.turn(291)
    tokens.script = lambda _request: Reply(503)
    for _ in range(18):
        assert blocking.get(api.url).status_code == 200
        clock.turn(0.5)
    assert len(tokens.requests) <= 16, "spaced out"
    assert blocking.get(api.url).status_code == 503


def test_a_token_that_dies_while_the_endpoint_is_asked_in_vain_is_not_used(
    blocking: Client, tokens: TokenServer, api: Api, clock: TurnedClock
) -> None:
    tokens.expires_in = 300
    assert blocking.get(api.url).status_code == 200
    clock.turn(291)

    def too_slow(_request: Request) -> Reply:
        clock.turn(10)
        return Reply(503)

    tokens.replies = [too_slow]
    assert blocking.get(api.url).status_code == 200
    first, second = api.requests
    assert (first.authorization, second.authorization) == ("Bearer token-1", "Bearer token-2")


def test_when_the_token_has_died_the_endpoints_error_is_the_answer(
    blocking: Client, tokens: TokenServer, api: Api, clock: TurnedClock
) -> None:
    assert blocking.get(api.url).status_code == 200
    clock.turn(3600)
    tokens.replies = [Reply(503, {"error": "down"})]
    response = blocking.get(api.url)
    assert (response.status_code, response.json()) == (503, {"error": "down"})
    # The first success heals all.
    assert blocking.get(api.url).status_code == 200


def test_from_the_third_failure_in_a_row_on_they_are_spaced_out(
    blocking: Client, tokens: TokenServer, api: Api, clock: TurnedClock
) -> None:
    original = tokens.script
    tokens.script = lambda _request: Reply(401, {"error": "invalid_client"})
    for _ in range(1000):
        assert blocking.get(api.url).status_code == 401
        clock.turn(0.1)  # 100 s in all
    # 3 at once, then after 1, 2, 4, 8, 16, 30 s at the most, less some jitter.
    assert 6 <= len(tokens.requests) <= 16
    tokens.script = original
    clock.turn(30)
    assert blocking.get(api.url).status_code == 200


def test_the_spacing_is_shared_by_all_threads(
    blocking: Client, tokens: TokenServer, api: Api
) -> None:
    tokens.script = lambda _request: Reply(401, {"error": "invalid_client"})
    for _ in range(3):
        assert blocking.get(api.url).status_code == 401
    futures = together(16, lambda: blocking.get(api.url).json()["error"])
    assert {future.result() for future in futures} == {"invalid_client"}
    assert len(tokens.requests) == 3


@pytest.mark.parametrize("is_dead", [False, True])
def test_retry_after_spaces_the_token_requests(
    blocking: Client, tokens: TokenServer, api: Api, clock: TurnedClock, is_dead: bool
) -> None:
    assert blocking.ensure_token()
    clock.turn(3600 if is_dead else 2400)
    tokens.script = lambda _request: Reply(429, b"", {"Retry-After": "40"})
    for _ in range(3):
        blocking.get(api.url)
    before = len(tokens.requests)
    clock.turn(39)
    blocking.get(api.url)
    assert len(tokens.requests) == before
    clock.turn(2)
    blocking.get(api.url)
    assert len(tokens.requests) == before + 1


def test_an_absurd_retry_after_is_cut(
    blocking: Client, tokens: TokenServer, api: Api, clock: TurnedClock
) -> None:
    original = tokens.script
    tokens.script = lambda _request: Reply(429, b"", {"Retry-After": str(10**6)})
    for _ in range(3):
        assert blocking.get(api.url).status_code == 429
    tokens.script = original
    clock.turn(301)
    assert blocking.get(api.url).status_code == 200


def test_failures_of_other_kinds_are_counted_anew_after_a_success(
    blocking: Client, tokens: TokenServer, api: Api, clock: TurnedClock
) -> None:
    for _ in range(5):
        tokens.replies = [Reply(503), Reply(503)]
        assert [blocking.get(api.url).status_code for _ in range(3)] == [503, 503, 200]
        clock.turn(3600)


# -- refused tokens and their races ------------------------------------------------------------


@pytest.fixture
def held_back(api: Api) -> Iterator[Callable[[str], Gate]]:
    """Answers of the API to requests with a certain token that wait for the test."""
    gates: dict[str, Gate] = {}
    original = api.script

    def script(request: Request) -> Reply:
        reply = original(request)
        gate = gates.pop(request.path, None)
        if gate is not None:
            gate(request)
        return reply

    api.script = script

    def hold(path: str) -> Gate:
        return gates.setdefault(path, Gate(Reply))

    yield hold
    for gate in gates.values():
        gate.open()


def test_a_token_that_another_thread_has_already_replaced(
    client: Client, tokens: TokenServer, api: Api, held_back: Callable[[str], Gate]
) -> None:
    assert client.ensure_token()
    tokens.alive.clear()
    slow = held_back("/slow")
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(lambda: client.get(f"{api.url}/slow").status_code)
        assert slow.arrived.wait(20)
        assert client.get(api.url).status_code == 200
        slow.open()
        assert future.result(20) == 200
    assert len(tokens.requests) == 2


def test_two_threads_refused_with_different_tokens(
    client: Client, tokens: TokenServer, api: Api, held_back: Callable[[str], Gate]
) -> None:
    assert client.ensure_token()
    tokens.alive.clear()
    old, new = held_back("/old"), held_back("/new")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(lambda: client.get(f"{api.url}/old").status_code)
        assert old.arrived.wait(20)
        client.renew_token()
        tokens.alive.clear()
        second = pool.submit(lambda: client.get(f"{api.url}/new").status_code)
        assert new.arrived.wait(20)
        new.open()
        assert second.result(20) == 200
        old.open()
        assert first.result(20) == 200
    assert len(tokens.requests) == 3


def test_a_renewal_that_was_under_way_when_the_refusal_came(
    make_client: MakeClient, tokens: TokenServer, api: Api, clock: TurnedClock
) -> None:
    client = make_client(clock=clock)
    assert client.ensure_token()
    clock.turn(3540)
    gate = Gate(tokens.granted)
    tokens.replies = [gate]
    assert client.ensure_token().access_token == "token-1"
    assert gate.arrived.wait(20)
    tokens.alive.clear()
    # token-2 is granted before the API's keys change, so to say: it will be refused as well.
    tokens.on_grant = lambda: tokens.alive.discard("token-2")
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(lambda: client.get(api.url).status_code)
        gate.open()
        # An answer to what was asked before the refusal is tried, but it is not the last word.
        assert future.result(20) == 200
    assert [request.authorization for request in api.requests] == [
        "Bearer token-1",
        "Bearer token-2",
        "Bearer token-3",
    ]


def test_a_new_token_that_kills_the_old_one_heals_calls_in_flight(
    client: Client, tokens: TokenServer, api: Api, held_back: Callable[[str], Gate]
) -> None:
    def only_the_newest(_request: Request) -> Reply:
        tokens.alive.clear()
        return tokens.granted()

    tokens.script = only_the_newest
    assert client.ensure_token()
    slow = held_back("/slow")
    with ThreadPoolExecutor(1) as pool:
        tokens.alive.clear()  # the neighbour renews
        future = pool.submit(lambda: client.get(f"{api.url}/slow").status_code)
        assert slow.arrived.wait(20)
        client.renew_token()
        slow.open()
        assert future.result(20) == 200
    assert len(tokens.requests) == 2


def test_a_renewal_asked_for_does_not_take_a_flight_that_began_before(
    client: Client, tokens: TokenServer
) -> None:
    gate = Gate(tokens.granted)
    tokens.replies = [gate]
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(lambda: client.ensure_token().access_token)
        assert gate.arrived.wait(20)
        second = pool.submit(lambda: client.renew_token().access_token)
        gate.open()
        assert (first.result(20), second.result(20)) == ("token-1", "token-2")


# -- as in alf 0.7 -----------------------------------------------------------------------------


def test_the_manager_by_itself_as_in_alf_0_7(tokens: TokenServer) -> None:
    storage: dict[str, str] = {}
    manager = TokenManager(tokens.endpoint, "client-id", "top-secret", storage)
    assert manager.get_token() == manager.get_token() == "token-1"
    manager.reset_token()
    assert manager.get_token() == "token-2"
    manager.reset_token()
    manager.reset_token()
    assert manager.get_token() == "token-3"
    manager.close()
    assert len(tokens.requests) == 3


def test_the_manager_takes_the_positions_of_alf_0_7(tokens: TokenServer) -> None:
    manager = TokenManager(tokens.endpoint, "client-id", "top-secret", None, 1, {"timeout": 5})
    tokens.replies = [hang_up]
    assert manager.get_token() == "token-1"
    manager.close()


def test_a_manager_that_is_reset_before_anything_asks_storage_for_no_old_token(
    tokens: TokenServer,
) -> None:
    storage: dict[str, str] = {}
    first = TokenManager(tokens.endpoint, "client-id", "top-secret", storage)
    assert first.get_token() == "token-1"
    second = TokenManager(tokens.endpoint, "client-id", "top-secret", storage)
    second.reset_token()
    assert second.get_token() == "token-2"
    first.close()
    second.close()


# -- what is logged ----------------------------------------------------------------------------


def test_logs_tell_what_happens_and_no_secret(
    client: Client, tokens: TokenServer, api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="alf")
    tokens.members = {"scope": "read"}
    client.get(api.url)
    tokens.alive.clear()
    client.get(api.url)
    messages = [
        f"{record.levelname} {record.getMessage()}"
        for record in caplog.records
        if record.name == "alf"
    ]
    endpoint = f"token endpoint {tokens.endpoint} (client_id 'client-id')"
    assert messages == [
        f"INFO {endpoint}: token obtained, lifetime 3600 s, scope 'read'",
        f"INFO {endpoint}: token obtained, lifetime 3600 s, scope 'read'",
        f"WARNING {api.url} refused the token of {endpoint}",
    ]
    assert "top-secret" not in caplog.text
    assert "token-1" not in caplog.text
