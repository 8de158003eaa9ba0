"""Explores random schedules: ``python -m tests.model --schedules 1000000``.

Each has a number, from which all that happens in it follows: ``--seed`` with the number of one that
broke a promise, and ``--schedules 1``, show it again. With ``--without LOCK`` that lock locks
nothing, to see whether the model notices; ``--without all`` tries each in turn.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.model.schedules import LOCKS, Focus, Model, Outcome

#: Schedules that a process makes before it reports.
_BATCH = 500


@dataclass
class Totals:
    """What came of many schedules."""

    schedules: int = 0
    preemptions: int = 0
    longest_wait: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    broken: list[Outcome] = field(default_factory=list)

    def add(self, other: Totals) -> None:
        """Add those of others."""
        self.schedules += other.schedules
        self.preemptions += other.preemptions
        self.longest_wait = max(self.longest_wait, other.longest_wait)
        self.counts.update(other.counts)
        self.broken += other.broken


def explore(
    first: int, count: int, without: str | None = None, focus: Focus | None = None
) -> Totals:
    """Some schedules, one after the other; without a lock, up to the first that shows it."""
    totals = Totals()
    with Model() as model:
        for seed in range(first, first + count):
            outcome = model.run(seed, without=without, focus=focus)
            totals.schedules += 1
            totals.preemptions += outcome.preemptions
            totals.longest_wait = max(totals.longest_wait, outcome.longest_wait)
            totals.counts.update(outcome.counts)
            if outcome.broken:
                totals.broken.append(outcome)
                if without is not None:
                    break
    return totals


def _prepare() -> None:
    # Schedules leave cycles behind, and everything else stays.
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _explore_batch(batch: tuple[int, int]) -> Totals:
    return explore(*batch)


def _explore_all(first: int, count: int, workers: int) -> Totals:
    batches = [(at, min(_BATCH, first + count - at)) for at in range(first, first + count, _BATCH)]
    totals = Totals()
    began = shown = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(workers, _prepare) as pool:
        for part in pool.imap_unordered(_explore_batch, batches):
            totals.add(part)
            for outcome in part.broken:
                print(f"schedule {outcome.seed}: {outcome.about}: {'; '.join(outcome.broken)}")
            now = time.monotonic()
            if now > shown + 30:
                shown = now
                print(f"{now - began:.0f} s: {totals.schedules} schedules", flush=True)
    return totals


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
        _prepare()
        locks = LOCKS if args.without == "all" else (args.without,)
        noticed = [_show_without(lock, args.seed, args.schedules) for lock in locks]
        return 0 if all(noticed) else 1
    totals = _explore_all(args.seed, args.schedules, args.workers)
    _show(totals, time.monotonic() - began)
    return 1 if totals.broken else 0


if __name__ == "__main__":
    sys.exit(main())
