"""Run all cases, each in its environment, and compare what was seen with the page about it.

``python -m tests.ecosystem [--write] [CASE …]``; ``--write`` writes ``docs/works-with.rst``.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import difflib
import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.ecosystem.cases import CASES, Case
from tests.ecosystem.cases.registry import faults
from tests.ecosystem.page import PAGE, make_page

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def environment(group: str) -> Path:
    """The Python of the group's environment, which is made if it is not there."""
    requirements = HERE / "requirements" / f"{group}.txt"
    folder = ROOT / ".venvs" / group
    python = folder / "bin" / "python"
    stamp = folder / "stamp"
    wanted = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        # The files name everything that is needed. Few of the modules are ever imported.
        subprocess.run(
            [*pip, "--no-deps", "--no-compile", "--prefer-binary", "-r", requirements], check=True
        )
        stamp.write_text(wanted)
    return python


def run(case: Case, python: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """What was seen, and what was wrong with it."""
    command = [python, "-m", "tests.ecosystem.trial", case.name]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return None, ["it took more than two minutes"]
    if done.returncode:
        return None, [done.stderr[-3000:]]
    seen = json.loads(done.stdout.splitlines()[-1])
    return seen, faults(case, seen)


def run_group(group: str, cases: list[Case]) -> dict[str, dict[str, Any]]:
    start = time.monotonic()
    python = environment(group)
    print(f"{group}: environment after {time.monotonic() - start:.0f} s", flush=True)
    results = {}
    for case in cases:
        seen, found = run(case, python)
        if case.fails:
            print(f"{'known' if found else 'FIXED'} {case.name}: {case.fails}", flush=True)
            results[case.name] = {}
            continue
        print(f"{'FAULT' if found else 'ok   '} {case.name}", *found, sep="\n      ", flush=True)
        if seen is not None and not found:
            results[case.name] = seen
    print(f"{group}: done after {time.monotonic() - start:.0f} s", flush=True)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.ecosystem", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the page")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="only these")
    arguments = parser.parse_args()
    cases = [CASES[name] for name in arguments.cases] or list(CASES.values())
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.group, []).append(case)
    results: dict[str, dict[str, Any]] = {}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for part in pool.map(run_group, groups, groups.values()):
            results.update(part)
    failed = [case.name for case in cases if case.name not in results]
    if failed:
        print(f"{len(failed)} of {len(cases)} failed: {'; '.join(failed)}")
        return 1
    if arguments.cases:
        return 0
    page = make_page(results)
    if arguments.write:
        PAGE.write_text(page, encoding="utf-8")
    before = PAGE.read_text(encoding="utf-8").splitlines() if PAGE.exists() else []
    if before != page.splitlines():
        print(*difflib.unified_diff(before, page.splitlines(), "the page", "seen"), sep="\n")
        print('make ecosystem ARGS="--write" writes the page.')
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
