"""With which secret a token was obtained, as far as a process knows."""

from __future__ import annotations

from alf import Token
from alf._obtained import is_of_another_secret, note_obtained


def test_only_another_secret_is_told_apart() -> None:
    token = Token("obtained-here")
    assert not is_of_another_secret(token, "a-secret")
    note_obtained(token, None)
    assert not is_of_another_secret(token, "a-secret")
    note_obtained(token, "a-secret")
    assert not is_of_another_secret(token, "a-secret")
    assert not is_of_another_secret(token, None)
    assert is_of_another_secret(token, "another")


def test_old_tokens_are_forgotten() -> None:
    first = Token("first-of-many")
    note_obtained(first, "a-secret")
    for number in range(4096):
        note_obtained(Token(f"one-of-many-{number}"), "a-secret")
    assert not is_of_another_secret(first, "another")
