"""The page of authorization servers says what the tests run."""

from __future__ import annotations

from tests.integration.servers_page import PAGE, make_page


def test_the_table_is_the_one_that_the_tests_make() -> None:
    assert PAGE.read_text(encoding="utf-8") == make_page(), "run make servers-page"
