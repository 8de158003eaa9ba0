"""The watch over all tests sees what it is there for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

CONFTEST = """
from tests.leaks import LeakWatch

def pytest_configure(config):
    config.pluginmanager.register(LeakWatch())
"""

SHOWS = """
import logging, os, sys, warnings
import pytest
from alf import TokenManager

def test_log_of_alf():
    logging.getLogger("alf").debug("got %s", "token-17")

def test_log_of_urllib3():
    logging.getLogger("urllib3.connectionpool").warning("top-secret")

def test_log_of_an_exception():
    try:
        raise ValueError("token-17")
    except ValueError:
        logging.getLogger("alf").info("oh", exc_info=True)

def test_stdout():
    print("token-17")

def test_stdout_of_a_child():
    os.system("echo token-17")

def test_stderr():
    sys.stderr.write("Y2xpZW50LWlkOnRvcC1zZWNyZXQ=")

def test_warning():
    warnings.warn("top-secret")

def test_exception():
    with pytest.raises(ValueError):
        TokenManager("x://token-17", "client-id", "top-secret")
"""

SHOWS_NOT = """
import logging
import pytest

def test_log():
    logging.getLogger("alf").debug("a token of 17 bytes")

def test_exception_of_the_test_itself():
    with pytest.raises(ValueError):
        raise ValueError("token-17")

def test_output_that_is_read(capsys):
    print("token-17")
    assert capsys.readouterr().out == "token-17\\n"
"""


def run(folder: Path, tests: str) -> tuple[int, str]:
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_inner.py").write_text(tests)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout


def test_a_run_in_which_secrets_are_shown_fails(tmp_path: Path) -> None:
    status, output = run(tmp_path, SHOWS)
    assert "8 passed" in output
    _, _, found = output.partition("tokens and secrets were shown")
    shown = [name for name in SHOWS.split() if name.startswith("test_")]
    for name in shown:
        is_seen = f"test_inner.py::{name.removesuffix('():')}" in found
        # Exceptions are watched from Python 3.12 on.
        assert is_seen or (name == "test_exception():" and sys.version_info < (3, 12))
    assert status == 1


def test_a_run_in_which_none_is_shown_does_not(tmp_path: Path) -> None:
    status, output = run(tmp_path, SHOWS_NOT)
    assert "were shown" not in output
    assert status == 0
