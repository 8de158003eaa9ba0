"""What ``alf inspect`` advises where a provider words its errors in a way of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from alf._cli import main
from tests.servers import Reply, TokenServer

PAGE = Path(__file__).parent.parent / "docs" / "command-line.rst"


def rows() -> list[tuple[str, ...]]:
    """The table of the page: provider, status and error code, description, advice."""
    row = re.compile(r"   \* - (.+)\n     - ``(.+?)``: (.+)\n     - (.+)\n")
    return row.findall(PAGE.read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def variables(tokens: TokenServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALF_TOKEN_ENDPOINT", tokens.endpoint)
    monkeypatch.setenv("ALF_CLIENT_ID", "client-id")
    monkeypatch.setenv("ALF_CLIENT_SECRET", "top-secret")


def advice(capsys: pytest.CaptureFixture[str], *options: str) -> list[str]:
    assert main(["inspect", *options]) == 1
    return capsys.readouterr().out.splitlines()


def test_the_page_has_a_table() -> None:
    assert len(rows()) >= 20
    assert len({provider for provider, *_ in rows()}) >= 7


@pytest.mark.parametrize(("provider", "code", "description", "words"), rows())
def test_each_mistake_on_the_page_gets_its_advice(
    tokens: TokenServer,
    capsys: pytest.CaptureFixture[str],
    provider: str,
    code: str,
    description: str,
    words: str,
) -> None:
    status, _, error = code.partition(" ")
    body = {"error": error, "error_description": description} if error else {"message": description}
    tokens.replies = [Reply(int(status), body)] * 2
    first, *_ = advice(capsys)
    assert first.startswith(f"try: {words}"), provider


def test_an_error_without_known_words_gets_the_general_advice(
    tokens: TokenServer, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens.replies = [Reply(400, {"error": "unauthorized_client", "error_description": "no"})]
    assert advice(capsys) == [
        "try: to have the client credentials grant (machine to machine) enabled for this client",
        "try: with grant=: to have that grant enabled for this client",
    ]


def test_a_code_of_the_standard_gets_its_advice_though_twitch_words_an_error_so(
    tokens: TokenServer, capsys: pytest.CaptureFixture[str]
) -> None:
    description = "Invalid client or Invalid client credentials"
    answer = {"error": "invalid_client", "error_description": description}
    tokens.replies = [Reply(401, answer)] * 2
    assert "try: whether the client still exists there, and is enabled" in advice(capsys)


def test_commas_between_scopes_are_named(
    tokens: TokenServer, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens.replies = [Reply(400, {"error": "invalid_scope"})]
    assert "blanks, not commas" in advice(capsys, "--scope", "read,write")[0]
