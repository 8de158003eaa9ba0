"""The page of failures names tests: each of them is there, and no row is without one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import docutils.core
import docutils.nodes

ROOT = Path(__file__).parent.parent


def rows() -> list[list[str]]:
    text = (ROOT / "docs" / "failures.rst").read_text(encoding="utf-8")
    document = docutils.core.publish_doctree(text, settings_overrides={"halt_level": 2})
    return [
        [entry.astext() for entry in row.findall(docutils.nodes.entry)]
        for body in document.findall(docutils.nodes.tbody)
        for row in body.findall(docutils.nodes.row)
    ]


def test_all_48_failures_are_there() -> None:
    assert [row[0] for row in rows()] == [str(number) for number in range(1, 49)]


def test_each_row_says_what_happens_and_names_tests_that_exist() -> None:
    for number, failure, outcome, shown_by in rows():
        assert failure
        assert outcome
        named = re.findall(r"^(tests/\S+\.py)::(test_\w+)$", shown_by, re.MULTILINE)
        assert len(named) == len(shown_by.split()) >= 1, f"row {number}"
        for file, test in named:
            module = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            defined = {node.name for node in module.body if isinstance(node, ast.FunctionDef)}
            assert test in defined, f"row {number}: there is no {file}::{test}"
