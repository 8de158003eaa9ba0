"""Ten thousand clients on one storage, simulated: what they cost the storage and the endpoint.

Run it with ``python -m benchmarks.simulate``; it needs the extra ``test``. The clients are alf's
own TokenManagers, each in a greenlet. Time, storage and endpoint are simulated: whenever a client
waits, the next one goes on, and time jumps to the next event.
"""

from __future__ import annotations

import argparse
import heapq
import io
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import greenlet
import requests
from requests.adapters import BaseAdapter

from alf import TokenManager
from alf._storage_calls import StorageCalls

LIFE = 3600.0


class World:
    """The simulated time, and what happens when; it is the clock of all clients."""

    def __init__(self) -> None:
        self.now = 0.0
        self._order = itertools.count()
        self._events: list[tuple[float, int, greenlet.greenlet]] = []
        self._hub = greenlet.getcurrent()

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1_700_000_000.0 + self.now

    def sleep(self, seconds: float) -> None:
        self._at(self.now + seconds, greenlet.getcurrent())
        self._hub.switch()

    def start(self, function: Callable[[], object], seconds: float = 0.0) -> None:
        self._at(self.now + seconds, greenlet.greenlet(function, self._hub))

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, next_one = heapq.heappop(self._events)
            next_one.switch()
        self.now = until

    def _at(self, when: float, who: greenlet.greenlet) -> None:
        heapq.heappush(self._events, (when, next(self._order), who))


class Redis:
    """As much of redis-py as alf uses, and a count of commands."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._values: dict[str, tuple[str, float]] = {}
        self.commands = Counter[str]()

    def get(self, name: str) -> str | None:
        self.commands["get"] += 1
        return self._get(name)

    def mget(self, names: list[str]) -> list[str | None]:
        self.commands["mget"] += 1
        return [self._get(name) for name in names]

    def set(self, name: str, value: str, ex: int = 0, nx: bool = False) -> bool | None:
        self.commands["set"] += 1
        if nx and self._get(name) is not None:
            return None
        self._values[name] = (value, self._world.now + ex)
        return True

    def delete(self, name: str) -> None:
        self.commands["del"] += 1
        self._values.pop(name, None)

    def _get(self, name: str) -> str | None:
        value, ends = self._values.get(name, (None, 0.0))
        return value if self._world.now < ends else None


class Endpoint(BaseAdapter):
    """Grants tokens after a while."""

    def __init__(self, world: World, latency: float) -> None:
        super().__init__()
        self._world = world
        self._latency = latency
        self.requested_at: list[float] = []
        self.granted_at = 0.0

    def send(self, request: requests.PreparedRequest, **_options: Any) -> requests.Response:
        self.requested_at.append(self._world.now)
        number = len(self.requested_at)
        self._world.sleep(self._latency)
        self.granted_at = self._world.now
        body = {"access_token": f"token-{number}", "token_type": "Bearer", "expires_in": LIFE}
        response = requests.Response()
        response.status_code = 200
        response.url = str(request.url)
        response.request = request
        response.raw = io.BytesIO(json.dumps(body).encode())
        return response

    def close(self) -> None:
        """There is nothing to close."""


def simulate(clients: int, latency: float, lives: int) -> None:
    world = World()
    storage, endpoint = Redis(world), Endpoint(world, latency)
    session = requests.Session()
    session.trust_env = False
    session.mount("https://", endpoint)
    got_at: list[float] = []
    failures = Counter[str]()

    def use() -> None:
        manager = TokenManager(
            "https://id.example.com/token",
            "client",
            "secret",
            storage,
            token_session=session,
            token_refresh="blocking",
            clock=world,
        )
        manager.token()
        got_at.append(world.now)
        while True:
            world.sleep(random.uniform(30, 270))
            try:
                manager.token()
            except Exception as error:
                failures[type(error).__name__] += 1

    for _ in range(clients):
        world.start(use, random.uniform(0, 0.05))
    world.run(LIFE / 3)
    late = max(got_at) - endpoint.granted_at
    print(
        f"{clients} clients, endpoint {latency:g} s: cold start with "
        f"{storage.commands.total() / clients:.2f} commands a client and "
        f"{len(endpoint.requested_at)} token requests; nobody got the token more than "
        f"{late:.2f} s after it was there",
        flush=True,
    )
    before, requests_before, since = storage.commands.copy(), len(endpoint.requested_at), world.now
    world.run(since + lives * LIFE)
    times = endpoint.requested_at[requests_before:]
    renewals = 1 + sum(b - a > LIFE / 4 for a, b in itertools.pairwise(times))
    spent = storage.commands - before
    each = spent.total() / clients
    print(
        f"{'':>10}{renewals} renewals: {each / renewals:.3f} commands a client and "
        f"{len(times) / renewals:.2f} token requests each; {each / lives:.2f} and "
        f"{len(times) / lives:.2f} per expires_in; {dict(spent)}; {failures.total()} failures",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.simulate", description=__doc__)
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--lives", type=int, default=4, help="of the token")
    parser.add_argument("--latency", type=float, nargs="*", default=[0.3, 3.0], help="seconds")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    random.seed(args.seed)
    # Simulated calls take no time, and ten thousand threads would.
    StorageCalls._start = lambda _self: False  # type: ignore[method-assign]
    started_at = time.perf_counter()
    for latency in args.latency:
        simulate(args.clients, latency, args.lives)
    print(f"simulated in {time.perf_counter() - started_at:.0f} s, seed {args.seed}")


if __name__ == "__main__":
    main()
