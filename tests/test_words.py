"""Turns of phrase that nobody should write again are counted: the count may only go down.

``python -m tests.test_words`` shows each of them with its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXTS = ["alf/*.py", "docs/*.rst", "docs/*.svg", "README.rst", "SECURITY.rst", "CHANGELOG.rst"]

#: How many there may be. Lower it when you have rewritten some.
MOST = 7


def hits() -> Iterator[tuple[str, int, str]]:
    """File, line and text of each."""
    lines = (ROOT / "tests" / "words.txt").read_text(encoding="utf-8").splitlines()
    words = [line for line in lines if line and not line.startswith("#")]
    # A turn of phrase may go on in the next line, which may be a comment.
    pattern = re.compile("|".join(words).replace(" ", r"[\s#]+"), re.IGNORECASE)
    for path in sorted(path for glob in TEXTS for path in ROOT.glob(glob)):
        text = path.read_text(encoding="utf-8")
        for hit in pattern.finditer(text):
            line = text.count("\n", 0, hit.start()) + 1
            yield str(path.relative_to(ROOT)), line, " ".join(hit.group().split())


def test_there_are_no_more_hits_than_there_were() -> None:
    found = list(hits())
    assert len(found) <= MOST, found


if __name__ == "__main__":
    for file, line, words in hits():
        print(f"{file}:{line}: {words}")  # noqa: T201
