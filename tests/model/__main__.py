"""Explores random schedules: ``python -m tests.model --schedules 1000000``.

Each has a number, from which all that happens in it follows: ``--seed`` with the number of one that
broke a promise, and ``--schedules 1``, show it again. With ``--without LOCK`` that lock locks
nothing, to see whether the model notices; ``--without all`` tries each in turn.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time

from tests.model.explore import Totals, explore, explore_all, prepare
from tests.model.schedules import LOCKS


def _show(totals: Totals, seconds: float) -> None:
    counts = totals.counts
    print(
        f"{totals.schedules} schedules in {seconds:.0f} s, {totals.preemptions} times another "
        f"thread went on; {len(totals.broken)} schedules broke a promise; the longest call took "
        f"{totals.longest_wait:.1f} s of model time"
    )
    for name, count in sorted(counts.items()):
        print(f"{count:>12}  {name}")


def _show_without(lock: str, first: int, count: int) -> bool:
    totals = explore(first, count, lock)
    if not totals.broken:
        print(f"{lock}: not noticed in {totals.schedules} schedules", flush=True)
        return False
    outcome = totals.broken[0]
    print(f"{lock}: after {totals.schedules} schedules: {outcome.broken[0]}", flush=True)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.model", description=__doc__)
    parser.add_argument("--schedules", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0, help="the number of the first schedule")
    parser.add_argument("--workers", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--without", choices=(*LOCKS, "all"), help="a lock that locks nothing")
    args = parser.parse_args()
    began = time.monotonic()
    if args.without is not None:
        prepare()
        locks = LOCKS if args.without == "all" else (args.without,)
        noticed = [_show_without(lock, args.seed, args.schedules) for lock in locks]
        return 0 if all(noticed) else 1
    totals = explore_all(args.seed, args.schedules, args.workers)
    _show(totals, time.monotonic() - began)
    return 1 if totals.broken else 0


if __name__ == "__main__":
    sys.exit(main())
