"""Each failure on the page has tests on the page of its tests, and those tests exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import docutils.core
import docutils.nodes

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "failures.rst"
TESTS = ROOT / "docs" / "failures-tests.rst"


def rows() -> list[list[str]]:
    """The cells of the tables of failures."""
    # Roles are Sphinx's.
    text = re.sub(r":doc:`[^`]+`", "", PAGE.read_text(encoding="utf-8"))
    document = docutils.core.publish_doctree(text, settings_overrides={"halt_level": 2})
    return [
        [" ".join(entry.astext().split()) for entry in row.findall(docutils.nodes.entry)]
        for body in document.findall(docutils.nodes.tbody)
        for row in body.findall(docutils.nodes.row)
    ]


def shown_by() -> dict[str, tuple[str, list[str]]]:
    """By number: the failure, and the tests named for it."""
    found: dict[str, tuple[str, list[str]]] = {}
    for block in re.split(r"^(?=\d+\. )", TESTS.read_text(encoding="utf-8"), flags=re.MULTILINE)[
        1:
    ]:
        number, _, rest = block.partition(". ")
        failure, _, names = rest.partition(":\n")
        found[number] = (failure.replace("``", ""), re.findall(r"^   \* ``(.+)``$", names, re.M))
    return found


def test_all_48_failures_are_there() -> None:
    numbers = [str(number) for number in range(1, 49)]
    assert [row[0] for row in rows()] == numbers
    assert list(shown_by()) == numbers


def test_each_row_says_what_happens_and_has_tests_that_exist() -> None:
    tests = shown_by()
    for number, failure, outcome in rows():
        assert failure
        assert outcome
        title, named = tests[number]
        assert title == failure
        assert named, f"row {number}"
        for name in named:
            file, _, test = name.partition("::")
            module = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            defined = {node.name for node in module.body if isinstance(node, ast.FunctionDef)}
            assert test in defined, f"row {number}: there is no {name}"
