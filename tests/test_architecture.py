"""The pages for maintainers name modules and functions: each exists, and the layers are true."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "alf"
PAGES = ["docs/architecture.rst", "docs/decisions.rst", "CONTRIBUTING.rst"]
BEHAVIOURS = [
    "When a token counts as expired",
    "The refresh window",
    "The 401 retry",
    "Rewinding the body",
    "One request for many threads",
    "One request for many processes",
    "Background renewal",
    "Spacing of failures",
    "An API that refuses every token",
    "What is returned when the endpoint says 500",
    "A DPoP proof on a retry",
    "What happens after a fork",
    "The deadline of a token request",
    "Redaction",
]


def layers() -> dict[str, int]:
    """Each module of the drawing, and its row, counted from the top."""
    text = (ROOT / "docs" / "architecture.rst").read_text(encoding="utf-8")
    drawing = text.partition("   ENTRY ")[2].partition("\n\n")[0]
    rows = re.split(r"^ *\|\n +[A-Z]+ ", drawing, flags=re.MULTILINE)
    return {name: number for number, row in enumerate(rows) for name in re.findall(r"\w+", row)}


def imports(module: str) -> set[str]:
    """The modules of alf that this one imports when it is imported."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    names = {node.module for node in tree.body if isinstance(node, ast.ImportFrom) and node.module}
    return {name.removeprefix("alf.") for name in names if name.startswith("alf.")}


@pytest.mark.parametrize("page", [page for page in PAGES if (ROOT / page).exists()])
def test_each_name_on_a_page_for_maintainers_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for name in re.findall(r"``(alf\.[\w.]+)``", text):
        parts = name.split(".")
        found = importlib.import_module(".".join(parts[:2]))
        for part in parts[2:]:
            assert hasattr(found, part), f"{page}: {name} does not exist"
            found = getattr(found, part)


def test_the_index_has_each_behaviour_that_a_newcomer_looks_for() -> None:
    index = (ROOT / "docs" / "architecture.rst").read_text(encoding="utf-8")
    index = index.partition("Where to find it")[2]
    for behaviour in BEHAVIOURS:
        assert f"* - {behaviour}" in index


def test_the_drawing_has_each_module_once() -> None:
    assert sorted(layers()) == sorted(path.stem for path in PACKAGE.glob("*.py"))


def test_a_module_imports_only_from_its_own_row_or_below() -> None:
    rows = layers()
    for module, row in rows.items():
        for other in imports(module):
            assert rows[other] >= row, f"{module} imports {other}, which the drawing puts above it"


def test_no_import_leads_back_to_where_it_started() -> None:
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way, module))
        if module not in done:
            for other in imports(module):
                visit(other, (*way, module))
            done.add(module)

    for module in layers():
        visit(module, ())
