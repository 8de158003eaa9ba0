"""A fleet on one Redis: token requests, and commands that Redis serves, per lifetime of a token.

Run it with ``python -m benchmarks.fleet``; it needs ``redis-server`` and the extra ``test``.
Each client has a Client and a connection to Redis of its own, and wants the token all the time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import threading
import time
from collections import Counter
from typing import Any

import redis

from alf import Client
from tests.caches import running_redis
from tests.servers import Reply, Request, TokenServer, running

_context = multiprocessing.get_context("spawn")

PROCESSES = 8

#: What the endpoint takes for a token, in seconds.
LATENCY = 0.3


class Endpoint(TokenServer):
    """Grants tokens slowly, and tells when it is asked for one."""

    def __init__(self, lifetime: float) -> None:
        super().__init__()
        self.expires_in = lifetime
        self.asked = threading.Condition()

    def grant(self, request: Request) -> Reply:
        with self.asked:
            self.asked.notify_all()
        time.sleep(LATENCY)
        return super().grant(request)

    def wait_for(self, count: int, patience: float) -> None:
        with self.asked:
            if not self.asked.wait_for(lambda: len(self.requests) >= count, patience):
                message = f"token request {count} did not come within {patience:.0f} s"
                raise RuntimeError(message)


def run_clients(
    clients: int, endpoint: str, port: int, is_on: Any, calls: Any, failures: Any
) -> None:
    def use() -> None:
        storage = redis.Redis(port=port)
        client = Client(
            token_endpoint=endpoint, client_id="client", client_secret="s", token_storage=storage
        )
        counted, failed = 0, 0
        while is_on.value:
            counted += 1
            try:
                assert client.ensure_token().access_token
            except Exception:
                failed += 1
            time.sleep(random.uniform(0.02, 0.08))
        for counter, count in ((calls, counted), (failures, failed)):
            with counter.get_lock():
                counter.value += count
        client.close()
        storage.close()

    threads = [threading.Thread(target=use) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def commands(connection: Any) -> Counter[str]:
    """What Redis has served so far, by command; not what this program asks itself."""
    stats = connection.info("commandstats")
    served = Counter({name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()})
    return Counter({name: calls for name, calls in served.items() if name != "info"})


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.fleet", description=__doc__)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--lifetimes", type=int, default=5)
    parser.add_argument("--lifetime", type=float, default=10.0, help="seconds (default: 10)")
    args = parser.parse_args()
    is_on = _context.Value("b", True)
    calls, failures = _context.Value("l", 0), _context.Value("l", 0)
    shares = [
        args.clients * (n + 1) // PROCESSES - args.clients * n // PROCESSES
        for n in range(PROCESSES)
    ]
    with running_redis() as server, running(Endpoint(args.lifetime)) as endpoint:
        connection = redis.Redis(port=server.port)
        processes = [
            _context.Process(
                target=run_clients,
                args=(share, endpoint.endpoint, server.port, is_on, calls, failures),
            )
            for share in shares
        ]
        print(f"{args.clients} clients in {PROCESSES} processes, tokens of {args.lifetime:g} s")
        print(
            f"{'lifetime':>8} {'token requests':>15} {'Redis commands':>15} {'a client':>9}  kinds"
        )
        for process in processes:
            process.start()
        asked, served = 0, commands(connection)
        total = Counter[str]()
        for lifetime in range(1, args.lifetimes + 1):
            endpoint.wait_for(asked + 1, 60 + args.lifetime)
            # Well after the last client has that token, well before the next is asked for.
            time.sleep(args.lifetime * 0.4)
            requests, asked = len(endpoint.requests) - asked, len(endpoint.requests)
            before, served = served, commands(connection)
            spent = served - before
            total += Counter(requests=requests, commands=spent.total())
            kinds = ", ".join(f"{name} {count}" for name, count in spent.most_common(4))
            each = spent.total() / args.clients
            print(
                f"{lifetime:>8} {requests:>15} {spent.total():>15} {each:>9.1f}  {kinds}",
                flush=True,
            )
        is_on.value = False
        for process in processes:
            process.join()
        connection.close()
    print(
        f"{total['requests'] / args.lifetimes:.2f} token requests and "
        f"{total['commands'] / args.lifetimes:.0f} Redis commands a lifetime; "
        f"the token was wanted {calls.value} times, {failures.value} times in vain"
    )


if __name__ == "__main__":
    main()
