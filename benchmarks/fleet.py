"""A fleet on one Redis: what its clients cost Redis and the token endpoint, and who waits how long.

Run it with ``python -m benchmarks.fleet``; it needs ``redis-server`` and the extra ``test``. Each
client has a Client and a connection to Redis of its own. Commands that make a connection are not
counted; what a script calls is.

- *cold*: all clients start at the same moment, with nothing in memory or in Redis;
- *expired*: all want a token at the same moment, and theirs has expired;
- *renewal*: they call at independent times while tokens are renewed. Their clocks and the endpoint
  run faster than real time; Redis does not, so its share is rather overstated.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import random
import threading
import time
from collections import Counter
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from alf import Client, TokenManager
from tests.caches import running_redis
from tests.servers import Reply, Request, TokenServer, running

_context = multiprocessing.get_context("spawn")

PROCESSES = 8

#: Seconds after which something hangs.
PATIENCE = 120

#: What makes a connection, or is the benchmark's own.
NOT_COUNTED = {"auth", "client", "config", "flushall", "hello", "info", "ping", "select"}


class FastClock:
    """A clock that runs ``speed`` times as fast as the real one, and can be turned."""

    def __init__(self, speed: float, turned: Any) -> None:
        self._speed = speed
        self._turned = turned

    def monotonic(self) -> float:
        return time.monotonic() * self._speed + float(self._turned.value)

    def time(self) -> float:
        return time.time() * self._speed + float(self._turned.value)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds / self._speed)


class Endpoint(TokenServer):
    """Takes its time for a token, and notes when it grants one."""

    def __init__(self, latency: float, lifetime: float) -> None:
        super().__init__()
        self.latency = latency
        self.expires_in = lifetime
        self.requested_at: list[float] = []
        self.granted_at = 0.0

    def grant(self, request: Request) -> Reply:
        self.requested_at.append(time.time())
        time.sleep(self.latency)
        self.granted_at = time.time()
        return super().grant(request)


class Fleet:
    """Processes with many clients each; all do the same thing at the same time."""

    def __init__(self, clients: int, endpoint: str, port: int, speed: float) -> None:
        self.clients = clients
        self._turned = _context.Value("d", 0.0)
        self._barrier = _context.Barrier(clients + 1)
        self._task = _context.Array("c", 16)
        self._results = _context.SimpleQueue()
        shares = [
            clients * (n + 1) // PROCESSES - clients * n // PROCESSES for n in range(PROCESSES)
        ]
        shared = (speed, self._turned, self._barrier, self._task, self._results)
        self._processes = [
            _context.Process(target=run_clients, args=(share, endpoint, port, *shared), daemon=True)
            for share in shares
        ]
        for process in self._processes:
            process.start()

    def start(self, task: str) -> None:
        self._task.value = task.encode()
        self._barrier.wait(PATIENCE)

    def results(self) -> list[float]:
        return [self._results.get() for _ in range(self.clients)]

    def turn(self, seconds: float) -> None:
        self._turned.value += seconds

    def stop_calling(self) -> list[float]:
        self._task.value = b""
        return self.results()

    def close(self) -> None:
        self.start("end")
        for process in self._processes:
            process.join(PATIENCE)


def run_clients(
    clients: int,
    endpoint: str,
    port: int,
    speed: float,
    turned: Any,
    barrier: Any,
    task: Any,
    results: Any,
) -> None:
    clock = FastClock(speed, turned)

    class FleetClient(Client):
        token_manager_class = staticmethod(functools.partial(TokenManager, clock=clock))

    def use() -> None:
        storage = redis.Redis(port=port, socket_timeout=0.5, retry=Retry(NoBackoff(), 1))
        storage.ping()

        def new_client() -> Client:
            return FleetClient(
                token_endpoint=endpoint, client_id="c", client_secret="s", token_storage=storage
            )

        client = new_client()
        while True:
            barrier.wait(PATIENCE)
            what = task.value.decode()
            if what == "end":
                return
            if what == "new":
                client.close()
                client = new_client()
                results.put(0.0)
            elif what == "token":
                client.ensure_token()
                results.put(time.time())
            else:
                failures = 0
                while task.value == b"calls":
                    try:
                        client.ensure_token()
                    except Exception:
                        failures += 1
                    clock.sleep(random.uniform(2, 8))
                results.put(float(failures))

    threads = [threading.Thread(target=use) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def commands(connection: Any) -> Counter[str]:
    """What Redis has served so far, by command."""
    stats = connection.info("commandstats")
    served = Counter({name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()})
    return Counter(
        {name: n for name, n in served.items() if name.partition("|")[0] not in NOT_COUNTED}
    )


def measure_starts(args: argparse.Namespace, latency: float) -> None:
    with running_redis() as server, running(Endpoint(latency, 3600)) as endpoint:
        connection = redis.Redis(port=server.port)
        fleet = Fleet(args.clients, endpoint.endpoint, server.port, 1.0)
        for round_number in range(args.rounds):
            for kind in ("cold", "expired"):
                if kind == "cold":
                    connection.flushall()
                    fleet.start("new")
                    fleet.results()
                else:
                    fleet.turn(7200)
                asked, served = len(endpoint.requests), commands(connection)
                fleet.start("token")
                got_at = sorted(fleet.results())
                spent = commands(connection) - served
                asked = len(endpoint.requests) - asked
                late = [max(0.0, at - endpoint.granted_at) for at in got_at]
                kinds = ", ".join(f"{name} {count}" for name, count in spent.most_common(5))
                print(
                    f"{latency:>4g} s  {kind:<8}{round_number + 1:>3} {asked:>9} "
                    f"{spent.total() / args.clients:>9.2f} {late[len(late) // 2]:>9.2f} s "
                    f"{late[-1]:>9.2f} s   {kinds}",
                    flush=True,
                )
        fleet.close()
        connection.close()


def measure_renewals(args: argparse.Namespace, latency: float) -> None:
    life, speed = args.lifetime, args.speed
    with running_redis() as server, running(Endpoint(latency / speed, life)) as endpoint:
        connection = redis.Redis(port=server.port)
        fleet = Fleet(args.clients, endpoint.endpoint, server.port, speed)
        fleet.start("calls")
        snapshots: list[tuple[int, int]] = []  # requests and commands before each renewal
        seen, last = 1, time.time()
        while len(snapshots) <= args.renewals:
            time.sleep(0.002)
            now = len(endpoint.requested_at)
            if now > seen and endpoint.requested_at[seen] - last > life / speed / 4:
                snapshots.append((seen, commands(connection).total()))
            if now > seen:
                seen, last = now, endpoint.requested_at[now - 1]
        failures = sum(fleet.stop_calling())
        fleet.close()
        connection.close()
        (first, before), (until, after) = snapshots[0], snapshots[-1]
        each = (after - before) / args.renewals / args.clients
        took = (endpoint.requested_at[until] - endpoint.requested_at[first]) * speed
        requests = until - first
        lives = took / life
        print(
            f"{latency:>4g} s  {args.renewals} renewals: {each:.3f} commands a client and "
            f"{requests / args.renewals:.2f} token requests each; "
            f"{requests / lives:.2f} token requests and {each * args.renewals / lives:.2f} "
            f"commands a client per expires_in; {failures:.0f} calls failed",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.fleet", description=__doc__)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3, help="of cold and expired starts")
    parser.add_argument("--renewals", type=int, default=4)
    parser.add_argument("--lifetime", type=float, default=3600.0, help="seconds (default: 3600)")
    parser.add_argument("--speed", type=float, default=60.0, help="of the clocks (default: 60)")
    parser.add_argument("--latency", type=float, nargs="*", default=[0.3, 3.0], help="seconds")
    parser.add_argument("--only", choices=("starts", "renewals"))
    args = parser.parse_args()
    print(f"{args.clients} clients in {PROCESSES} processes on one Redis")
    if args.only != "renewals":
        print("endpoint start round  requests  commands/client  token late: median   at most")
        for latency in args.latency:
            measure_starts(args, latency)
    if args.only != "starts":
        print(f"tokens of {args.lifetime:g} s, clocks {args.speed:g} times as fast")
        for latency in args.latency:
            measure_renewals(args, latency)


if __name__ == "__main__":
    main()
