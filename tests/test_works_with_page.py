"""docs/works-with.rst, which ``make ecosystem`` writes, is about the versions that are pinned."""

from __future__ import annotations

import re

import pytest

from tests.ecosystem.cases import CASES
from tests.ecosystem.page import PAGE, versions


@pytest.fixture(scope="module")
def rows() -> list[tuple[str, str]]:
    """The libraries and versions on the page."""
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(r"^   \* - (\S+)\n     - (\S+)$", text, re.MULTILINE)[1:]


def test_the_page_has_a_row_for_each_way_in_which_a_library_is_used(
    rows: list[tuple[str, str]],
) -> None:
    assert sorted(name for name, _ in rows) == sorted(case.package for case in CASES.values())


def test_the_versions_on_the_page_are_those_that_are_installed(
    rows: list[tuple[str, str]],
) -> None:
    pinned = {case.package: versions(case.group)[_plain(case.package)] for case in CASES.values()}
    assert dict(rows) == pinned


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")
