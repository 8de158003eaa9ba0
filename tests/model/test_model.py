"""A small part of what ``make model`` explores, and whether the model would notice a missing lock.

In processes of their own: coverage does not follow greenlets.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

#: Locks that no token request depends on: those of cookie jars in a child, and of the test kit.
NOT_MODELLED = {"_forks", "_fake_server"}

#: The schedules in which a lock is needed, so that a few of them are enough.
FOCUS = {
    "SingleFlight": ("crowd", "none"),
    "Refusals": ("refused", "none"),
    "StorageCalls": ("any", "redis"),
    "ProcessLocks": ("crowd", "mapping"),
    "Workers": ("refresh", "none"),
    "Siblings": ("any", "mapping"),
    "entry": ("crowd", "add"),
}


def run(code: str) -> str:
    environ = {name: value for name, value in os.environ.items() if "COV" not in name}
    code = f"from tests.model.explore import explore\nfrom tests.model.schedules import *\n{code}"
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environ,
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    ).stdout


def test_no_schedule_breaks_a_promise() -> None:
    assert run("print([(o.seed, o.about, o.broken) for o in explore(0, 400).broken])") == "[]\n"


def test_a_number_gives_the_same_schedule_again() -> None:
    first, again = (
        run("t = explore(8, 60); print(t.preemptions, t.longest_wait, sorted(t.counts.items()))")
        for _ in range(2)
    )
    assert first == again


@pytest.mark.parametrize("lock", FOCUS)
def test_the_model_notices_a_lock_that_locks_nothing(lock: str) -> None:
    scene, kind = FOCUS[lock]
    code = f"print(len(explore(0, 4000, {lock!r}, Focus({scene!r}, {kind!r})).broken))"
    assert run(code) == "1\n"


def test_the_model_knows_each_lock_of_alf() -> None:
    makers = set()
    for path in (ROOT / "alf").glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            text = ast.unparse(node)
            if "threading.RLock()" in text or "threading.Condition()" in text:
                name = node.name if isinstance(node, ast.ClassDef) else ""
                makers |= {name} if path.stem not in NOT_MODELLED else set()
            assert "threading.Lock()" not in text or path.stem in NOT_MODELLED
    assert makers | {"entry"} == set(FOCUS)
