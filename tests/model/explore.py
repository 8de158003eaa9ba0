"""Runs many schedules, in several processes."""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.model.schedules import Focus, Model, Outcome

__all__ = ["Totals", "explore", "explore_all", "prepare"]

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


def prepare() -> None:
    # Schedules leave cycles behind, and everything else stays.
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _explore_batch(batch: tuple[int, int]) -> Totals:
    return explore(*batch)


def explore_all(first: int, count: int, workers: int) -> Totals:
    batches = [(at, min(_BATCH, first + count - at)) for at in range(first, first + count, _BATCH)]
    totals = Totals()
    began = shown = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(workers, prepare) as pool:
        for part in pool.imap_unordered(_explore_batch, batches):
            totals.add(part)
            for outcome in part.broken:
                print(f"schedule {outcome.seed}: {outcome.about}: {'; '.join(outcome.broken)}")
            now = time.monotonic()
            if now > shown + 30:
                shown = now
                print(f"{now - began:.0f} s: {totals.schedules} schedules", flush=True)
    return totals
