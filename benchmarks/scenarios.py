"""The measurements. ``python scenarios.py SCENARIO PEER SERVER`` prints one as a JSON object.

Runs in the peer's own environment, one process a measurement.
"""

from __future__ import annotations

import functools
import gc
import io
import json
import logging
import statistics
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests
from peers import CONTROLS, PEERS, Made, Peer, bare
from requests.adapters import BaseAdapter

Result = dict[str, float]
Get = Callable[[str], requests.Response]

RENEWAL_LIFE = 3
RENEWAL_LIFETIMES = 4

OUTAGE_LIFE = 8
OUTAGE_CALLS = 40

#: Ways in which a token endpoint fails, as settings of the server.
TROUBLES: dict[str, dict[str, Any]] = {
    "503": {"status": 503},
    "time-out": {"delay": 30.0},
    "unreachable": {"unreachable": True},
}

NOWHERE = "https://api.example.com/v1/things"


class World:
    """A token endpoint and an API of the server's."""

    def __init__(self, server: str, **settings: Any) -> None:
        opened = requests.post(f"{server}/open", json=settings, timeout=5).json()
        self.endpoint: str = opened["endpoint"]
        self.api = f"{server}/api/{opened['world']}"
        self._url = f"{server}/worlds/{opened['world']}"

    def change(self, **settings: Any) -> None:
        requests.post(self._url, json=settings, timeout=5).raise_for_status()

    @property
    def token_requests(self) -> int:
        return int(requests.get(self._url, timeout=5).json()["token_requests"])


def status_of(get: Get, url: str) -> int:
    """The call's status; 0 where it raised."""
    try:
        return get(url).status_code
    except Exception:
        return 0


def at_once(threads: int, call: Callable[[], int]) -> list[int]:
    """What ``call`` returned in threads that started at the same moment."""
    barrier = threading.Barrier(threads)

    def run(_number: int) -> int:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(run, range(threads)))


# -- one flight ----------------------------------------------------------------------------


def first_token(peer: Peer, server: str, *, threads: int, **settings: Any) -> Result:
    world = World(server, **settings)
    _, get = peer.make(world.endpoint)
    start = time.perf_counter()
    statuses = at_once(threads, lambda: status_of(get, world.api))
    seconds = time.perf_counter() - start
    return {"requests": world.token_requests, "seconds": seconds, "ok": statuses.count(200)}


def revoked(peer: Peer, server: str) -> Result:
    world = World(server, delay=0.2)
    _, get = peer.make(world.endpoint)
    get(world.api).raise_for_status()
    world.change(revoke=True)
    statuses = at_once(32, lambda: status_of(get, world.api))
    return {"requests": world.token_requests - 1, "seen_401": statuses.count(401)}


# -- renewal, outages, refusals ------------------------------------------------------------


def renewal(peer: Peer, server: str, **tuning: float) -> Result:
    world = World(server, delay=0.3, expires_in=RENEWAL_LIFE)
    _, get = peer.make(world.endpoint, **tuning)
    get(world.api).raise_for_status()
    end = time.perf_counter() + RENEWAL_LIFE * RENEWAL_LIFETIMES

    def calls(_number: int) -> list[tuple[float, int]]:
        outcomes = []
        while (start := time.perf_counter()) < end:
            status = status_of(get, world.api)
            outcomes.append((time.perf_counter() - start, status))
            time.sleep(0.05)  # so that the threads do not measure each other
        return outcomes

    with ThreadPoolExecutor(16) as pool:
        outcomes = [outcome for one in pool.map(calls, range(16)) for outcome in one]
    hurt = sum(seconds > 0.25 or status != 200 for seconds, status in outcomes)
    return {
        "calls": len(outcomes),
        "slow": sum(seconds > 0.25 for seconds, _ in outcomes),
        "slowest": max(seconds for seconds, _ in outcomes),
        "failed": sum(status != 200 for _, status in outcomes),
        "hurt_percent": 100 * hurt / len(outcomes),
        "requests": world.token_requests / RENEWAL_LIFETIMES,
    }


def outage(peer: Peer, server: str, *, trouble: dict[str, Any], **tuning: float) -> Result:
    world = World(server, expires_in=OUTAGE_LIFE)
    _, get = peer.make(world.endpoint, timeout=1.0, **tuning)
    start = time.perf_counter()
    get(world.api).raise_for_status()
    world.change(**trouble)

    def call(number: int) -> int:
        # The last one is a fiftieth of the life before the end: time to arrive in.
        due = start + OUTAGE_LIFE * 0.98 * (number + 1) / OUTAGE_CALLS
        time.sleep(max(0.0, due - time.perf_counter()))
        return status_of(get, world.api)

    with ThreadPoolExecutor(OUTAGE_CALLS) as pool:
        statuses = list(pool.map(call, range(OUTAGE_CALLS)))
    return {"failed": OUTAGE_CALLS - statuses.count(200)}


def refused(peer: Peer, server: str) -> Result:
    world = World(server, refuses=True)
    _, get = peer.make(world.endpoint)
    start = time.perf_counter()
    for number in range(1000):
        time.sleep(max(0.0, start + number * 0.005 - time.perf_counter()))
        assert get(world.api).status_code == 401
    return {"requests": world.token_requests}


# -- the hot path --------------------------------------------------------------------------


class NullAdapter(BaseAdapter):
    """Answers at once, and wants a token on what it answers."""

    def send(self, request: Any, **_kwargs: Any) -> requests.Response:  # type: ignore[override]
        assert "Authorization" in request.headers
        response = requests.Response()
        response.status_code = 200
        response.url = request.url
        response.request = request
        response.raw = io.BytesIO(b"{}")
        return response

    def close(self) -> None:
        pass


def off_line(made: Made) -> Get:
    """The client without its API's network: what is left is the client's own work."""
    session, get = made
    session.mount("https://", NullAdapter())
    get(NOWHERE).raise_for_status()
    return get


def hot_path(peer: Peer, server: str) -> Result:
    """CPU of calls with a good token, in rounds that take turns with those of a bare Session."""
    client, plain = off_line(peer.make(World(server).endpoint)), off_line(bare(""))

    def cpu(get: Get, calls: int = 20) -> float:
        start = time.process_time()
        for _ in range(calls):
            get(NOWHERE)
        return (time.process_time() - start) / calls

    cpu(client), cpu(plain)  # warm both up
    # Many short rounds: what slows the machine down for a while slows both down.
    rounds: dict[Get, list[float]] = {client: [], plain: []}
    for number in range(400):
        for get in (client, plain) if number % 2 else (plain, client):
            rounds[get].append(cpu(get))
    client_cpu, plain_cpu = (statistics.median(rounds[get]) for get in (client, plain))
    return {"ratio": client_cpu / plain_cpu, "µs": (client_cpu - plain_cpu) * 1e6}


def memory(peer: Peer, server: str) -> Result:
    """What a client that has made a call holds, less what a bare Session that has does."""
    endpoint = World(server).endpoint

    def held(make: Callable[..., Made], count: int = 50) -> float:
        off_line(make(endpoint))  # what is made once a process
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        kept = []
        for _ in range(count):
            kept.append(made := make(endpoint))
            off_line(made)
        gc.collect()
        return (tracemalloc.get_traced_memory()[0] - before) / len(kept)

    tracemalloc.start()
    return {"kilobytes": (held(peer.make) - held(bare)) / 1000}


def storage_reads(peer: Peer, server: str) -> Result:
    class Storage(dict[str, Any]):
        reads = 0
        set = dict.__setitem__

        def get(self, key: str, default: Any = None) -> Any:
            self.reads += 1
            return super().get(key, default)

    storage = Storage({"not": "empty"})  # alf 0.7.1 takes an empty one for none
    get = off_line(peer.make(World(server).endpoint, storage=storage))
    assert storage.reads
    storage.reads = 0
    for _ in range(1000):
        get(NOWHERE)
    return {"reads": storage.reads}


SCENARIOS: dict[str, Callable[[Peer, str], Result]] = {
    "cold": functools.partial(first_token, threads=64, delay=0.2),
    "failing": functools.partial(first_token, threads=32, delay=1.0, status=503),
    "revoked": revoked,
    "renewal": renewal,
    "renewal, tuned": functools.partial(renewal, leeway=RENEWAL_LIFE / 20),
    "refused": refused,
    "hot path": hot_path,
    "memory": memory,
    "storage reads": storage_reads,
}
for _name, _trouble in TROUBLES.items():
    _outage = functools.partial(outage, trouble=_trouble)
    SCENARIOS[f"outage, {_name}"] = _outage
    SCENARIOS[f"outage, {_name}, tuned"] = functools.partial(_outage, leeway=OUTAGE_LIFE / 20)


if __name__ == "__main__":
    logging.disable()  # what a peer has to say of a failure is counted here, not read
    scenario, name, server = sys.argv[1:]
    print(json.dumps(SCENARIOS[scenario]((CONTROLS | PEERS)[name], server)))
