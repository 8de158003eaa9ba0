"""Forks, exits and green threads: each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.servers import Api, Reply, Request, TokenServer, hang_up


def require(name: str) -> None:
    """Skip without the package; it is not imported: eventlet would warn of forks from then on."""
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed")


ROOT = Path(__file__).parent.parent

SET_UP = """
import os, sys, threading
from alf import Client
token_endpoint, api = sys.argv[1:]
client = Client(token_endpoint=token_endpoint, client_id="client-id", client_secret="top-secret")

def in_child(call):
    pid = os.fork()
    if not pid:
        try:
            call()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return pid

def wait_for(pid):
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""

#: For those that turn time by hand.
CLOCKED = """
import functools
from alf import TokenManager
from tests.servers import TurnedClock
clock = TurnedClock()
class ClockedClient(Client):
    token_manager_class = staticmethod(functools.partial(TokenManager, clock=clock))
"""


def run(code: str, tokens: TokenServer, api: Api, set_up: str = SET_UP) -> str:
    """What the code prints, run by an interpreter of its own that ends by itself."""
    done = subprocess.run(
        [sys.executable, "-c", set_up + code, tokens.endpoint, api.url],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")


@needs_fork
def test_a_fork_while_another_thread_asks_for_a_token(tokens: TokenServer, api: Api) -> None:
    second = threading.Event()

    def wait_for_the_child(_request: Request) -> Reply:
        assert second.wait(20), "the child did not ask"
        return tokens.granted()

    def from_the_child(_request: Request) -> Reply:
        second.set()
        return tokens.granted()

    arrived = threading.Event()
    api.pages["/arrived"] = lambda _request: Reply(200 if arrived.wait(20) else 500)
    tokens.replies = [lambda r: arrived.set() or wait_for_the_child(r), from_the_child]
    tokens.alive.add("for-the-test")
    run(
        """
import requests
from alf import BearerTokenAuth
statuses = []
thread = threading.Thread(target=lambda: statuses.append(client.get(api).status_code))
thread.start()
# The API answers this when the token request of the thread has arrived.
requests.get(f"{api}/arrived", auth=BearerTokenAuth("for-the-test")).raise_for_status()
pid = in_child(lambda: client.get(api).raise_for_status())
wait_for(pid)
thread.join()
assert statuses == [200]
""",
        tokens,
        api,
    )
    assert len(tokens.requests) == 2


@needs_fork
def test_a_child_keeps_the_token_and_shares_no_connection(tokens: TokenServer, api: Api) -> None:
    api.pages["/"] = lambda request: Reply(body=request.body)
    run(
        """
def calls():
    mine = str(os.getpid())
    for _ in range(20):
        assert client.post(api, data=mine, headers={"X-Process": mine}).text == mine
client.get(api)
pids = [in_child(calls) for _ in range(3)]
calls()
for pid in pids:
    wait_for(pid)
client.renew_token()
wait_for(in_child(client.renew_token))
client.renew_token()
""",
        tokens,
        api,
    )
    # The first token serves all; the three renewals are two of the parent's and one of a child's.
    assert len(tokens.requests) == 4
    assert [request.connection for request in tokens.requests] == [1, 1, 2, 1]
    processes: dict[int, set[str]] = {}
    for request in api.requests[1:]:
        processes.setdefault(request.connection, set()).add(request.headers["X-Process"])
    assert [len(owners) for owners in processes.values()] == [1, 1, 1, 1]


@needs_fork
def test_a_child_of_a_client_that_was_never_used(tokens: TokenServer, api: Api) -> None:
    run(
        """
from requests.adapters import BaseAdapter
client.mount("memory://", type("Memory", (BaseAdapter,), {"close": lambda self: None})())
wait_for(in_child(lambda: client.get(api).raise_for_status()))
client.get(api).raise_for_status()
""",
        tokens,
        api,
    )
    assert len(tokens.requests) == 2


@needs_fork
def test_a_child_whose_first_connection_breaks_does_not_try_again(
    tokens: TokenServer, api: Api
) -> None:
    tokens.replies = [lambda _request: tokens.granted(), hang_up]
    run(
        """
import requests

def renew():
    try:
        client.renew_token()
    except requests.exceptions.ConnectionError:
        os._exit(7)

client.renew_token()
child = in_child(renew)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
""",
        tokens,
        api,
    )
    assert len(tokens.requests) == 2


@needs_fork
def test_a_fork_in_the_middle_of_a_load(tokens: TokenServer, api: Api) -> None:
    """As gunicorn with a preloaded application, or a Celery worker, may do it."""
    run(
        """
def calls():
    for n in range(10):
        assert client.get(api).status_code == 200
        if n % 3 == 0:
            client.renew_token()

def load():
    threads = [threading.Thread(target=calls) for _ in range(4)]
    for thread in threads:
        thread.start()
    return threads

threads = load()
pids = [in_child(lambda: [thread.join() for thread in load()]) for _ in range(4)]
for pid in pids:
    wait_for(pid)
for thread in threads:
    thread.join()
""",
        tokens,
        api,
    )


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """What a server waits for that is to answer only when the test is over."""
    event = threading.Event()
    yield event
    event.set()


def test_a_renewal_under_way_does_not_keep_the_process_from_exiting(
    tokens: TokenServer, api: Api, never: threading.Event
) -> None:
    arrived = threading.Event()

    def hang(_request: Request) -> Reply:
        arrived.set()
        never.wait(60)
        return Reply(503)

    api.pages["/arrived"] = lambda _request: Reply(200 if arrived.wait(20) else 500)
    tokens.replies = [lambda _request: tokens.granted(), hang]
    run(
        CLOCKED
        + """
client = ClockedClient(token_endpoint=token_endpoint, client_id="c", client_secret="s")
client.get(api).raise_for_status()
clock.turn(3540)
client.get(f"{api}/arrived").raise_for_status()
""",
        tokens,
        api,
    )
    assert len(tokens.requests) == 2


def test_short_processes_with_a_file_storage_renew_once(
    tokens: TokenServer, api: Api, tmp_path: Path
) -> None:
    short = (
        CLOCKED
        + f"""
from alf.storages import FileStorage
client = ClockedClient(token_endpoint=token_endpoint, client_id="c", client_secret="s",
                       token_storage=FileStorage({str(tmp_path / "tokens")!r}))
"""
    )
    run(short + "client.get(api).raise_for_status()", tokens, api)

    def slow(_request: Request) -> Reply:
        time.sleep(0.3)  # for longer than the rest of the process takes
        return tokens.granted()

    tokens.replies = [slow] * 6
    for _ in range(6):
        # The second call finds the token due for a refresh, and then the process ends.
        run(short + "clock.turn(3500); [client.get(api) for _ in range(2)]", tokens, api)
    # One, but on a machine under load more than the second of grace can pass.
    assert len(tokens.requests) in (2, 3)
    assert api.requests[-1].authorization == f"Bearer token-{len(tokens.requests)}"


def test_200_greenlets_of_gevent_make_one_token_request(tokens: TokenServer, api: Api) -> None:
    require("gevent")
    printed = run(
        """
import gevent.pool
pool = gevent.pool.Pool(200)
statuses = pool.map(lambda _: client.get(api).status_code, range(200))
print(sorted(set(statuses)))
""",
        tokens,
        api,
        set_up="from gevent import monkey; monkey.patch_all()\n" + SET_UP,
    )
    assert printed.strip() == "[200]"
    assert len(tokens.requests) == 1


def test_200_green_threads_of_eventlet_make_one_token_request(
    tokens: TokenServer, api: Api
) -> None:
    require("eventlet")
    printed = run(
        """
import eventlet
pool = eventlet.GreenPool(200)
print(sorted(set(pool.imap(lambda _: client.get(api).status_code, range(200)))))
""",
        tokens,
        api,
        set_up="import eventlet; eventlet.monkey_patch()\n" + SET_UP,
    )
    assert printed.strip() == "[200]"
    assert len(tokens.requests) == 1


def test_where_no_thread_can_be_started_the_caller_renews(tokens: TokenServer, api: Api) -> None:
    run(
        CLOCKED
        + """
import threading
with ClockedClient(token_endpoint=token_endpoint, client_id="c", client_secret="s") as client:
    assert client.ensure_token().access_token == "token-1"
    clock.turn(3540)
    threading.stack_size(1 << 46)  # more than there is
    try:
        threading.Thread(target=print).start()
    except RuntimeError:
        pass
    else:
        raise SystemExit("a thread could be started")
    assert client.ensure_token().access_token == "token-2"
""",
        tokens,
        api,
    )


@pytest.mark.parametrize(
    ("patch", "join"),
    [
        ("from gevent import monkey; monkey.patch_all()\n", "gevent"),
        ("import eventlet; eventlet.monkey_patch()\n", "eventlet"),
    ],
)
def test_renewal_in_the_background_is_a_green_thread_too(
    tokens: TokenServer, api: Api, patch: str, join: str
) -> None:
    require(join)
    run(
        CLOCKED
        + """
import time
with ClockedClient(token_endpoint=token_endpoint, client_id="c", client_secret="s") as client:
    assert client.ensure_token().access_token == "token-1"
    clock.turn(3540)
    # Starting a thread may run it.
    assert client.ensure_token().access_token in ("token-1", "token-2")
    while client.ensure_token().access_token != "token-2":  # for as long as this process may run
        time.sleep(0.01)
""",
        tokens,
        api,
        set_up=patch + SET_UP,
    )
