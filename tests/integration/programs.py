"""Authorization servers as programs: started on a free loopback port, stopped by process id."""

from __future__ import annotations

import contextlib
import json
import select
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

#: Seconds that a program may take to say that it is ready, and to end.
PATIENCE = 60

ROOT = Path(__file__).parents[2]
OIDC_PROVIDER = Path(__file__).parent / "oidc_provider"


@contextlib.contextmanager
def running_program(
    command: Sequence[str], configuration: dict[str, Any], folder: Path, cwd: Path
) -> Iterator[str]:
    """Run a program that reads its configuration from stdin and prints its URL when it is ready.

    :param folder: where what it says on stderr goes, to the file ``stderr``.
    """
    given, log = folder / "configuration.json", folder / "stderr"
    given.write_text(json.dumps(configuration))
    with (
        given.open() as stdin,
        log.open("w") as stderr,
        subprocess.Popen(
            command, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=cwd
        ) as program,
    ):
        try:
            assert program.stdout is not None
            is_ready, _, _ = select.select([program.stdout], [], [], PATIENCE)
            url = program.stdout.readline().strip() if is_ready else ""
            if not url:
                message = f"{' '.join(command)} did not start:\n{log.read_text()}"
                raise RuntimeError(message)
            yield url
        finally:
            program.terminate()
            try:
                program.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                program.kill()


def node_command() -> list[str]:
    """The command that runs oidc-provider; skips the test where it is not installed."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    if not (OIDC_PROVIDER / "node_modules").is_dir():
        pytest.skip(f"oidc-provider is not installed: run npm ci in {OIDC_PROVIDER}")
    return [node, "server.js"]
