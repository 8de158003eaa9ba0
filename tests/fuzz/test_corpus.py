"""The fuzz target over its corpus: what broke alf once, and one of each kind of answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.fuzz_parsers import target

CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())


@pytest.mark.parametrize("file", CORPUS, ids=[file.name for file in CORPUS])
def test_no_answer_breaks_a_parser(file: Path) -> None:
    target(file.read_bytes())


def test_there_is_a_corpus() -> None:
    assert len(CORPUS) > 10
