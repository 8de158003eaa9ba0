"""Fails the whole run if a token or a secret is shown anywhere that it must not be.

Watched through every test: log records of alf down to DEBUG, and those of requests and urllib3 that
are on; what is written to stdout and stderr; warnings; and, from Python 3.12 on, the text of every
exception that leaves a function of alf's client and managers. A test that wants to show a token
reads its own output (``capsys.readouterr()``).
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator
from types import CodeType
from typing import Any

import pytest

#: What the clients of the tests know and the servers of the tests grant: the secret, the same as
#: HTTP Basic sends it, and every token.
SECRET = "top-secret"
SHOWN = re.compile(rf"{SECRET}|Y2xpZW50LWlkOnRvcC1zZWNyZXQ|\btoken-\d+\b")

_WATCHED = ("alf", "requests", "urllib3")
_GATES = ("alf/client.py", "alf/managers.py")


class LeakWatch(logging.Handler):
    """A plugin of pytest that looks at all output."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def look(self, where: str, *texts: str, test: str = "") -> None:
        test = test or os.environ.get("PYTEST_CURRENT_TEST", "between two tests")
        for text in texts:
            for shown in SHOWN.finditer(text):
                excerpt = text[max(0, shown.start() - 60) : shown.end() + 60]
                self.found.append(f"{test}: {where}: {excerpt!r}")

    def emit(self, record: logging.LogRecord) -> None:
        # Not the traceback: it cites the source of the test.
        self.look(f"log of {record.name}", record.getMessage())
        if record.exc_info:
            self.look(f"log of {record.name}", *_texts(record.exc_info[1]))

    def see_exception(self, code: CodeType, _offset: int, error: BaseException) -> None:
        if code.co_filename.endswith(_GATES):
            self.look(f"exception out of {code.co_qualname}", *_texts(error))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Iterator[None]:
        loggers = [logging.getLogger(name) for name in _WATCHED]
        for logger in loggers:
            logger.addHandler(self)
        logging.getLogger("alf").setLevel(logging.DEBUG)
        monitoring: Any = getattr(sys, "monitoring", None)
        if monitoring:
            tool, event = 4, monitoring.events.PY_UNWIND
            monitoring.use_tool_id(tool, "leaks")
            monitoring.register_callback(tool, event, self.see_exception)
            monitoring.set_events(tool, event)
        try:
            return (yield)
        finally:
            if monitoring:
                monitoring.set_events(tool, 0)
                monitoring.free_tool_id(tool)
            for logger in loggers:
                logger.removeHandler(self)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.look("stdout", report.capstdout, test=report.nodeid)
        self.look("stderr", report.capstderr, test=report.nodeid)

    def pytest_warning_recorded(self, warning_message: Any, nodeid: str) -> None:
        self.look("warning", str(warning_message.message), test=nodeid)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.found:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.found:
            terminalreporter.section("tokens and secrets were shown", red=True)
            for line in sorted(set(self.found)):
                terminalreporter.line(line)


def _texts(error: BaseException | None) -> Iterator[str]:
    """What a traceback shows of an exception and those before it."""
    while error is not None:
        yield from (str(error), repr(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
