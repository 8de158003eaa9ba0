"""One flight for many callers: interrupts, recursion, slow threads, forks, and what is shared."""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import requests

import alf
from alf import Client
from alf._background import run_in_background
from alf._failures import fresh_copy
from alf._forks import register_after_fork
from alf._single_flight import FlightOverdueError, RecursiveFlightError, SingleFlight
from alf.events import Event, TokenObtained
from tests.servers import Api, Reply, TokenServer, TurnedClock

MakeClient = Callable[..., Client]


class SharedError(Exception):
    """Of the family that waiting callers get, too."""


def make_flight(max_duration: float = 20.0) -> SingleFlight[int]:
    return SingleFlight(
        lambda current, landed, is_latest: landed if is_latest or current is None else current,
        lambda: max_duration,
        SharedError,
        lambda error: SharedError(*error.args),
    )


def wanted(_value: int, has_landed: bool) -> bool:
    return has_landed


def test_an_error_of_another_family_is_only_the_leaders() -> None:
    flight, arrived, go = make_flight(), threading.Event(), threading.Event()

    def fail(_land: Any) -> int:
        arrived.set()
        assert go.wait(20)
        raise KeyError

    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(flight.obtain, wanted, fail)
        assert arrived.wait(20)
        follower = pool.submit(flight.obtain, wanted, lambda _land: 7)
        go.set()
        assert follower.result(20) == 7
        with pytest.raises(KeyError):
            leader.result(20)


def test_a_value_that_needs_itself_is_an_error_in_this_context_only() -> None:
    flight = make_flight()

    def recurse(_land: Any) -> int:
        return flight.obtain(wanted, lambda _land: 1)

    with pytest.raises(RecursiveFlightError):
        flight.obtain(wanted, recurse)
    assert flight.obtain(wanted, lambda _land: 2) == 2


def test_a_flight_that_takes_too_long_is_left_alone() -> None:
    flight, arrived, go = make_flight(0.3), threading.Event(), threading.Event()

    def stuck(_land: Any) -> int:
        arrived.set()
        assert go.wait(20)
        return 1

    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(flight.obtain, wanted, stuck)
        assert arrived.wait(20)
        with pytest.raises(FlightOverdueError):
            flight.obtain(wanted, lambda _land: 2)
        assert flight.obtain(wanted, lambda _land: 3) == 3
        go.set()
        assert leader.result(20) == 1
    assert flight.current == 3


def test_a_flight_that_took_too_long_before_it_started_is_replaced() -> None:
    flight, leads = make_flight(0.0), []
    flight.replace(None, 1)
    first = flight.start(1, lambda _land: 2, leads.append)
    second = flight.start(1, lambda _land: 3, leads.append)
    assert second is not first
    for lead in leads:
        lead()
    assert flight.current == 3


def test_a_flight_whose_thread_is_slow_to_start_is_taken_over() -> None:
    flight, leads = make_flight(), []
    flight.replace(None, 1)
    assert flight.start(1, lambda _land: 2, leads.append) is not None
    assert flight.obtain(wanted, lambda _land: 3) == 3
    leads[0]()
    assert flight.current == 3
    assert flight.start(1, lambda _land: 4, leads.append) is None, "there is a newer value"


def test_a_wait_ends_with_the_flight_or_the_time_given() -> None:
    flight, leads = make_flight(), []
    flight.replace(None, 1)
    started = flight.start(1, lambda _land: 2, leads.append)
    assert started is not None
    flight.wait(started, 0.05)
    assert flight.current == 1
    leads[0]()
    flight.wait(started, 20)
    assert flight.current == 2


class Interrupt(Exception):
    """Raised anywhere, as Celery's soft time limit is."""


class Shelf(dict[str, Any]):
    """A storage with an atomic ``add``, such as memcached has."""

    def set(self, key: str, value: Any, _ttl: float | None = None) -> None:
        self[key] = value

    def add(self, key: str, value: Any, _ttl: float | None = None) -> bool:
        if key in self:
            return False
        self[key] = value
        return True

    def delete(self, key: str) -> None:
        self.pop(key, None)


ALF = str(Path(alf.__file__).parent) + os.sep


def interrupt() -> None:
    raise Interrupt


def steps(client: Client, api: Api, stop_at: int, strike: Callable[[], object] = interrupt) -> int:
    """Make a call with an interrupt at one of alf's steps; how many steps there were.

    CPython raises a signal handler's exception at calls, ends of loops and returns, clean-up code
    included. A line, a call or a return of alf's code is a step here, which covers them all.
    """
    count = 0

    def trace(frame: FrameType, _event: str, _argument: Any) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(ALF):
            return None
        count += 1
        if count == stop_at:
            strike()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        client.get(api.url)
    except Interrupt:
        pass
    finally:
        sys.settrace(before)
    return count


# What is interrupted leaves its sockets to the garbage collector.
UNCLOSED = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@UNCLOSED
@pytest.mark.parametrize("storage", [None, dict, Shelf])
@pytest.mark.parametrize("state", ["cold", "due", "expired", "revoked"])
def test_an_interrupt_at_any_step_strands_nobody(
    make_client: MakeClient,
    tokens: TokenServer,
    api: Api,
    state: str,
    storage: Callable[[], Any] | None,
) -> None:
    def prepare() -> Client:
        clock = TurnedClock()
        client = make_client(
            clock=clock,
            token_refresh="blocking",
            token_storage=storage and storage(),
            # A caller that was stranded would wait that long.
            token_timeout=60,
        )
        if state != "cold":
            client.get(api.url)
        if state == "revoked":
            tokens.alive.clear()
        clock.turn({"due": 3000, "expired": 4000}.get(state, 0))
        return client

    total = steps(prepare(), api, 0)
    # An odd stride of each case's own: all cases together are about 500 different steps.
    for stop_at in range(1 + len(state), total, max(1, total // 41)):
        client = prepare()
        steps(client, api, stop_at)
        assert client.get(api.url).status_code == 200
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(client.get, api.url).result(20).status_code == 200
        client.close()
    gc.collect()


@pytest.mark.parametrize("storage", [None, dict])
@pytest.mark.parametrize("state", ["cold", "revoked"])
def test_a_call_from_within_at_any_step_never_hangs(
    make_client: MakeClient,
    tokens: TokenServer,
    api: Api,
    state: str,
    storage: Callable[[], Any] | None,
) -> None:
    """Signal handlers and finalizers come between any two steps, and may use the Client."""

    def prepare() -> Client:
        client = make_client(token_storage=storage and storage())
        if state != "cold":
            client.get(api.url)
            tokens.alive.clear()
        return client

    results: list[object] = []

    def call(client: Client) -> None:
        trace = sys.gettrace()
        sys.settrace(None)
        try:
            results.append(client.get(api.url).status_code)
        except RuntimeError as error:
            results.append("needs a token of the same client" in str(error))
        finally:
            sys.settrace(trace)

    total = steps(prepare(), api, 0)
    for stop_at in range(1, total, max(1, total // 60)):
        client = prepare()
        steps(client, api, stop_at, partial(call, client))
        assert client.get(api.url).status_code == 200
        client.close()
    assert set(results) == {200, True}


REAL_SIGNALS = """
import signal, sys
from alf import Client

class Interrupt(Exception): pass

def interrupt(*_): raise Interrupt

signal.signal(signal.SIGALRM, interrupt)
interrupts = 0
for number in range(40):
    client = Client(token_endpoint=sys.argv[1], client_id="client-id", client_secret="top-secret")
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.0005 + number * 0.0002)
            client.get(sys.argv[2])
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except Interrupt:
        interrupts += 1
    assert client.get(sys.argv[2]).status_code == 200
    client.close()
assert interrupts
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="Windows has no such timer")
def test_real_signals_strand_nobody(tokens: TokenServer, api: Api) -> None:
    # Not measured: an exception raised in coverage's own code leaves its lock taken.
    environment = {name: os.environ[name] for name in os.environ if "COV" not in name}
    command = [sys.executable, "-c", REAL_SIGNALS, tokens.endpoint, api.url]
    subprocess.run(command, check=True, timeout=60, env=environment)


# -- forks and threads -------------------------------------------------------------------------

FORK_IN_C = """
import ctypes, os, sys
from alf import Client

client = Client(token_endpoint=sys.argv[1], client_id="client-id", client_secret="top-secret")
client.get(sys.argv[2]).raise_for_status()
read, write = os.pipe()
child = ctypes.CDLL(None).fork()  # as uWSGI does it: none of Python's hooks runs
if child == 0:
    status = client.get(sys.argv[2]).status_code
    os.write(write, str(status).encode())
    os._exit(0)
assert client.get(sys.argv[2]).status_code == 200
os.waitpid(child, 0)
assert os.read(read, 10) == b"200"
"""


SUBINTERPRETER = """
import os, sys, textwrap
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

script = textwrap.dedent(f'''
    import sys
    sys.path[:] = {sys.path!r}
    import warnings
    warnings.simplefilter("ignore")  # requests: some packages cannot be loaded here
    from alf import TokenManager

    class Clock:
        now = 1e9
        def monotonic(self): return self.now
        time = monotonic

    clock = Clock()
    manager = TokenManager(
        {sys.argv[1]!r}, "client-id", "top-secret", token_storage={{}}, clock=clock
    )
    assert manager.token().access_token == "token-1"
    clock.now += 3000  # due for a refresh
    while manager.token().access_token != "token-2":
        pass
    manager.close()
''')
interpreter = interpreters.create()
failed = interpreters.run_string(interpreter, script)
print(failed and failed.formatted, flush=True)
os._exit(failed is not None)  # Python 3.12.1 itself crashes when it destroys the interpreter
"""


def test_a_subinterpreter_refreshes_without_daemon_threads(tokens: TokenServer) -> None:
    # From Python 3.12 on there are such threads in the main interpreter only.
    command = [sys.executable, "-c", SUBINTERPRETER, tokens.endpoint]
    subprocess.run(command, check=True, timeout=60)
    assert len(tokens.requests) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="forks in C")
def test_a_fork_without_pythons_hooks_is_noticed(tokens: TokenServer, api: Api) -> None:
    command = [sys.executable, "-c", FORK_IN_C, tokens.endpoint, api.url]
    subprocess.run(command, check=True, timeout=60)
    assert len({request.connection for request in api.requests}) == 2
    assert len(tokens.requests) == 1


FAILING_HOOK = """
import os
from alf._forks import register_after_fork

class Failing:
    __hash__ = None
    def __eq__(self, other): return True
    def _after_fork(self): raise RuntimeError("of one hook")

class Working:
    seen = 0
    def _after_fork(self): Working.seen += 1

objects = [Failing(), Working(), Failing(), Working()]
for each in objects: register_after_fork(each)
child = os.fork()
if child == 0:
    os._exit(0 if Working.seen == 2 else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_hook_that_fails_skips_no_other() -> None:
    subprocess.run([sys.executable, "-c", FAILING_HOOK], check=True, timeout=60)


def test_an_object_that_is_gone_is_not_called() -> None:
    class Short:
        def _after_fork(self) -> None:
            raise AssertionError

    register_after_fork(Short())


GONE_MEANWHILE = """
import os
from alf._forks import register_after_fork

class First:
    def _after_fork(self): objects.clear()

class Second:
    def _after_fork(self): os._exit(1)

objects = [First(), Second()]
for each in objects: register_after_fork(each)
del each
child = os.fork()
if child == 0:
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_an_object_that_another_one_lets_go_of_is_not_called() -> None:
    subprocess.run([sys.executable, "-c", GONE_MEANWHILE], check=True, timeout=60)


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "alf-renewal":
            message = "can't start new thread"
            raise RuntimeError(message)
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        yield


def test_without_a_thread_the_caller_does_the_job(
    no_threads: None, make_client: MakeClient, tokens: TokenServer, clock: TurnedClock
) -> None:
    assert not run_in_background(lambda: None)
    client = make_client(clock=clock)
    client.ensure_token()
    clock.turn(2400)
    assert client.ensure_token().access_token == "token-2"


NEVER_STARTED = """
import threading
from alf._background import run_in_background

# As where green threads are patched in, and their loop has ended.
threading.Thread.start = lambda thread: None
assert run_in_background(lambda: None)
"""


def test_a_thread_that_never_started_does_not_keep_a_process_from_ending() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NEVER_STARTED],
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""


def test_four_jobs_run_at_once_and_the_others_after_them() -> None:
    go, done, running = threading.Event(), threading.Semaphore(0), []
    at_once: list[int] = []

    def job() -> None:
        running.append(1)
        at_once.append(len(running))
        assert go.wait(20)
        running.pop()
        done.release()

    for _ in range(12):
        assert run_in_background(job)
    time.sleep(0.2)
    go.set()
    assert all(done.acquire(timeout=20) for _ in range(12))
    assert max(at_once) == 4


# -- APIs that refuse at random ----------------------------------------------------------------


def test_two_nodes_of_which_one_refuses_cost_few_token_requests(
    make_client: MakeClient, tokens: TokenServer, api: Api, clock: TurnedClock
) -> None:
    client = make_client(clock=clock)
    nodes = iter(range(10_000))
    api.script = lambda _request: Reply(401 if next(nodes) % 2 else 200)
    for _ in range(40):
        client.get(api.url)
        clock.turn(1)
    assert len(tokens.requests) <= 10


def test_random_refusals_cost_few_token_requests_a_minute(
    make_client: MakeClient, tokens: TokenServer, api: Api, clock: TurnedClock
) -> None:
    client = make_client(clock=clock)
    chance = random.Random(17)
    api.script = lambda _request: Reply(401 if chance.random() < 0.05 else 200)
    statuses = []
    for _ in range(3000):  # a minute with 50 calls a second
        statuses.append(client.get(api.url).status_code)
        clock.turn(0.02)
    assert len(tokens.requests) <= 12
    # Both tries were refused: one call of 400 by chance.
    assert statuses.count(401) <= 20


def test_refusals_while_a_test_had_frozen_time_hold_up_no_healing_afterwards(
    make_client: MakeClient, tokens: TokenServer, api: Api, clock: TurnedClock
) -> None:
    client = make_client(clock=clock)
    client.get(api.url)
    clock.turn(1e9)
    for _ in range(10):
        tokens.alive.clear()
        client.get(api.url)
    assert client.get(api.url).status_code == 401, "the budget is spent"
    clock.turn(-1e9)
    client.ensure_token()
    for _ in range(2):
        tokens.alive.clear()
        assert client.get(api.url).status_code == 200
        clock.turn(15)


def test_the_previous_token_is_tried_where_the_new_one_is_not_known_yet(
    make_client: MakeClient, tokens: TokenServer, api: Api, clock: TurnedClock
) -> None:
    client = make_client(clock=clock, token_refresh="blocking")
    client.get(api.url)
    clock.turn(2400)
    known = ["Bearer token-1"]
    api.script = lambda request: Reply(200 if request.authorization in known else 401)
    assert client.get(api.url).status_code == 200
    assert [request.authorization for request in api.requests[1:]] == [
        "Bearer token-2",
        "Bearer token-1",
    ]
    assert len(tokens.requests) == 2


def test_an_outage_of_an_api_is_one_warning(
    make_client: MakeClient, tokens: TokenServer, api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    client = make_client()
    api.script = lambda _request: Reply(401)
    for _ in range(100):
        assert client.get(api.url).status_code == 401
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


# -- who is told may use the Client ------------------------------------------------------------


def test_a_logging_handler_may_post_through_the_client(
    client: Client, tokens: TokenServer, api: Api
) -> None:
    posted: list[int] = []

    class Posting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            posted.append(client.post(api.url, data=record.getMessage()).status_code)

    handler = Posting(logging.INFO)
    logging.getLogger("alf").addHandler(handler)
    try:
        assert client.get(api.url).status_code == 200
        tokens.alive.clear()
        assert client.get(api.url).status_code == 200
    finally:
        logging.getLogger("alf").removeHandler(handler)
    assert len(posted) >= 2
    assert set(posted) == {200}
    assert len(tokens.requests) == 2


def test_a_callback_may_use_the_client_and_holds_up_nobody(
    make_client: MakeClient, api: Api
) -> None:
    called, go = threading.Event(), threading.Event()

    def call(event: Event) -> None:
        if isinstance(event, TokenObtained):
            assert client.get(api.url).status_code == 200
            called.set()
            assert go.wait(20)

    client = make_client(on_event=call)
    with ThreadPoolExecutor(1) as pool:
        leader = pool.submit(client.get, api.url)
        assert called.wait(20)
        assert client.get(api.url).status_code == 200, "while the callback has not returned"
        go.set()
        assert leader.result(20).status_code == 200


def test_a_signal_handler_may_use_the_client(client: Client, api: Api) -> None:
    seen: list[int] = []
    usual = signal.signal(signal.SIGUSR1, lambda *_: seen.append(client.get(api.url).status_code))
    try:
        signal.raise_signal(signal.SIGUSR1)
        client.get(api.url)
        signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, usual)
    assert seen == [200, 200]


def test_a_client_may_be_a_dataclass(tokens: TokenServer, api: Api) -> None:
    @dataclass
    class Named(Client):
        name: str

        def __post_init__(self) -> None:
            super().__init__(
                token_endpoint=tokens.endpoint, client_id="client-id", client_secret="top-secret"
            )

    with Named("reports") as client:
        assert client.get(api.url).status_code == 200


# -- what is left ------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_job_that_is_killed_makes_room_for_the_next() -> None:
    done = threading.Event()

    def killed() -> None:
        raise SystemExit

    for _ in range(8):
        assert run_in_background(killed)
    assert run_in_background(done.set)
    assert done.wait(20)
    for thread in threading.enumerate():
        if thread.name == "alf-renewal":
            thread.join(20)
    gc.collect()


def test_an_error_that_cannot_be_copied_is_passed_on_as_it_came() -> None:
    class OddError(requests.exceptions.RequestException):
        def __copy__(self) -> OddError:
            raise TypeError

    error = OddError()
    assert fresh_copy(error) is error


def test_a_time_limit_that_strikes_during_a_refresh_is_the_callers(
    make_client: MakeClient, clock: TurnedClock
) -> None:
    class Limited(requests.Session):
        strikes = False

        def post(self, *args: Any, **kwargs: Any) -> requests.Response:
            if self.strikes:
                raise Interrupt
            return super().post(*args, **kwargs)

    with Limited() as session:
        client = make_client(token_session=session, token_refresh="blocking", clock=clock)
        client.ensure_token()
        session.strikes = True
        clock.turn(2400)
        with pytest.raises(Interrupt):
            client.ensure_token()


def test_a_follower_of_the_same_thread_sleeps_so_that_its_leader_can_run() -> None:
    import greenlet

    flight = make_flight()
    main = greenlet.getcurrent()
    slept: list[float] = []

    def make(_land: Any) -> int:
        main.switch()
        return 1

    leader = greenlet.greenlet(lambda: flight.obtain(wanted, make))
    leader.switch()
    assert flight.current is None

    def sleep(seconds: float) -> None:
        # What a patched time.sleep() does: another greenlet runs.
        slept.append(seconds)
        leader.switch()

    usual, time.sleep = time.sleep, sleep
    try:
        assert flight.obtain(wanted, lambda _land: 2) == 1
    finally:
        time.sleep = usual
    assert slept
