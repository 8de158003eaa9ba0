from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import pytest
import requests

from alf import Token, TokenError
from alf.tokens import parse_expires_in

LONGEST = 2**31 - 1


@pytest.mark.parametrize(
    ("expires_in", "seconds"),
    [
        (3600, 3600.0),
        (3599.5, 3599.5),
        ("3600", 3600.0),
        (" 3600 ", 3600.0),
        ("3599.5", 3599.5),
        (0, 0.0),
        (-5, -5.0),
        ("-5", -5.0),
        (10**12, LONGEST),
        (10**400, LONGEST),
        (-(10**400), -LONGEST),
        ("1e300", LONGEST),
        (None, None),
        (True, None),
        ("", None),
        ("soon", None),
        (float("nan"), None),
        (float("inf"), None),
        ("NaN", None),
        ("1e999", None),
        ([3600], None),
        ({"seconds": 3600}, None),
    ],
)
def test_every_form_of_expires_in(expires_in: object, seconds: float | None) -> None:
    assert parse_expires_in(expires_in) == seconds


def test_token_from_an_answer_keeps_what_it_does_not_know() -> None:
    answer = {
        "access_token": "abc",
        "token_type": "bearer",
        "expires_in": "60",
        "scope": "read write",
        "instance_url": "https://eu1.example.com",
    }
    token = Token.from_answer(answer, issued_at=1000.0)
    assert token == Token("abc", "Bearer", 1060.0, 1000.0, "read write", token.extra)
    assert token.extra == {"instance_url": "https://eu1.example.com"}
    assert token.lifetime == 60.0
    assert token.authorization == "Bearer abc"


def test_token_without_a_lifetime() -> None:
    token = Token.from_answer({"access_token": "abc"}, issued_at=1000.0)
    assert (token.expires_at, token.lifetime, token.scope) == (None, None, None)


@pytest.mark.parametrize(
    ("scope", "expected"), [("a b", "a b"), (["a", "b", 3], "a b"), (None, None), (7, None)]
)
def test_scope_is_text_whatever_the_server_makes_of_it(scope: object, expected: object) -> None:
    assert Token.from_answer({"access_token": "abc", "scope": scope}, 0.0).scope == expected


@pytest.mark.parametrize(
    "token_type",
    ["Bearer", "bearer", "BEARER", "BearerToken", "Application Access Token", None, 3, ""],
)
def test_unknown_and_missing_token_types_go_out_as_bearer(token_type: object) -> None:
    token = Token.from_answer({"access_token": "abc", "token_type": token_type}, 0.0)
    assert token.authorization == "Bearer abc"


@pytest.mark.parametrize("token_type", ["mac", "MAC", "pop", "DPoP"])
def test_a_token_type_that_needs_a_proof_is_no_bearer(token_type: str) -> None:
    with pytest.raises(ValueError, match=f"token_type '{token_type.lower()}'"):
        Token.from_answer({"access_token": "abc", "token_type": token_type}, 0.0)


@pytest.mark.parametrize("token_type", ["Bearer", None])
def test_a_token_that_is_not_bound_to_the_key_is_no_dpop_token(token_type: str | None) -> None:
    answer = {"access_token": "abc", "token_type": token_type}
    with pytest.raises(ValueError, match="'DPoP' that was requested"):
        Token.from_answer(answer, 0.0, token_type="DPoP")


def test_a_dpop_token_that_was_asked_for() -> None:
    answer = {"access_token": "abc", "token_type": "dpop"}
    assert Token.from_answer(answer, 0.0, token_type="DPoP").authorization == "DPoP abc"


@pytest.mark.parametrize(
    "access_token", ["", "two words", "a\nb", "a\r\nX: y", "a\tb", "a\x00", "tök", "a ", 7, ["a"]]
)
def test_what_no_header_can_carry_is_no_token(access_token: Any) -> None:
    with pytest.raises(ValueError, match="visible ASCII") as failure:
        Token.from_answer({"access_token": access_token}, 0.0)
    with pytest.raises(ValueError, match="visible ASCII"):
        Token(access_token)
    assert access_token == "" or repr(access_token) not in str(failure.value)


@pytest.mark.parametrize("token_type", ["", "Bearer\r\nX: y", "a b", "Bearer ", "é", None, 7])
def test_what_is_no_scheme_is_no_token_type(token_type: Any) -> None:
    with pytest.raises(ValueError, match="token_type must be an authentication scheme") as failure:
        Token("the-token", token_type)
    assert "the-token" not in str(failure.value)


@pytest.mark.parametrize("answer", [{}, {"access_token": None}, {"token": "abc"}])
def test_an_answer_without_access_token(answer: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no access_token"):
        Token.from_answer(answer, 0.0)


def test_a_token_is_a_frozen_value_that_shows_no_secret() -> None:
    token = Token("s3cr3t", extra={"id_token": "s3cr3t"})
    assert "s3cr3t" not in repr(token) + str(token)
    with pytest.raises(dataclasses.FrozenInstanceError):
        token.access_token = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        token.extra["id_token"] = "other"  # type: ignore[index]


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))]
)
def test_a_token_can_be_copied_and_pickled(duplicate: Any) -> None:
    token = Token("abc", expires_at=60.0, scope="read", extra={"list": [1]})
    assert duplicate(token) == token
    assert hash(duplicate(token)) == hash(token)


def test_token_errors_belong_to_requests() -> None:
    response = requests.Response()
    error = TokenError("no", response, error="invalid_client", error_description="unknown")
    assert isinstance(error, requests.exceptions.RequestException)
    assert (error.response, error.error) == (response, "invalid_client")
    assert error.error_description == "unknown"


def test_a_token_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(TokenError("no", error="invalid_client")))
    assert (str(error), error.error) == ("no", "invalid_client")


NOW = 1_764_046_800.25  # 25 November 2025, 05:00:00.25 UTC


@pytest.mark.parametrize(
    ("members", "lifetime"),
    [
        ({"expires_in": NOW + 3600}, 3600.0),
        ({"expires_in": str(NOW + 3600)}, 3600.0),
        ({"expires_in": NOW - 60}, -60.0),
        ({"expires_in": NOW - 100_000}, NOW - 100_000),
        ({"expires_in": NOW + 11 * 365 * 86400}, NOW + 11 * 365 * 86400),
        ({"expires_at": NOW + 3600}, 3600.0),
        ({"expires_on": f"{NOW + 3600:.2f}"}, 3600.0),
        ({"expires_at": round((NOW + 3600) * 1000)}, 3600.0),
        ({"expires_at": "2025-11-25T06:00:00.25Z"}, 3599.75),
        ({"expires_at": "2025-11-25T07:00:00.1234567+01:00"}, 3599.75),
        ({"expires_on": "2025-11-25 06:00:00+00:00"}, 3599.75),
        ({"expires_in": None, "expires_on": NOW + 60}, 60.0),
        ({"expires_in": "junk", "expires_on": NOW + 60}, 60.0),
        ({"expires_in": 300, "expires_at": NOW + 3600}, 300.0),
        ({"expires_at": "junk", "expires_on": NOW + 60}, 60.0),
        ({"expires_at": NOW - 86400}, -86400.0),
        ({"expires_at": NOW + 10 * 365 * 86400}, 10 * 365 * 86400.0),
        ({"expires_at": NOW - 86401}, None),
        ({"expires_at": 3600}, None),
        ({"expires_at": "2025-11-25T06:00:00"}, None),
        ({"expires_at": "2025-11-25T"}, None),
        ({"expires_at": "06-11-25"}, None),
        ({"expires_at": True}, None),
        ({"expires_at": float("nan")}, None),
        ({"expires_at": 10**400}, None),
        ({"expires_at": NOW + 11 * 365 * 86400}, None),
        ({"expires_at": {"time": NOW}}, None),
    ],
)
def test_a_time_of_expiry_counts_where_it_is_unmistakable(
    members: dict[str, Any], lifetime: float | None
) -> None:
    token = Token.from_answer({"access_token": "abc", **members}, issued_at=NOW)
    assert token.lifetime == (None if lifetime is None else pytest.approx(lifetime, abs=0.01))


def test_a_clock_that_starts_in_1970_takes_no_lifetime_for_a_time() -> None:
    answer = {"access_token": "abc", "expires_in": 3600, "expires_at": 7200}
    assert Token.from_answer(answer, issued_at=5000.0).lifetime == 3600.0
    del answer["expires_in"]
    assert Token.from_answer(answer, issued_at=5000.0).lifetime is None
