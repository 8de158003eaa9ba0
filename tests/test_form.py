"""What a token request says: scope, audience, resource, and all else that a server may want."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from alf import Client
from tests.servers import TokenServer

MakeClient = Callable[..., Client]

GRANT = ("grant_type", "client_credentials")


@pytest.mark.parametrize(
    ("options", "pairs"),
    [
        ({}, []),
        ({"scope": "read write"}, [("scope", "read write")]),
        ({"scope": ["read", "write"]}, [("scope", "read write")]),
        ({"scope": ""}, []),
        ({"scope": []}, []),
        ({"audience": "https://api.example.com"}, [("audience", "https://api.example.com")]),
        ({"audience": ""}, []),
        ({"resource": "urn:api"}, [("resource", "urn:api")]),
        (
            {"resource": ("https://a.example.com/x?y", "https://b.example.com")},
            [("resource", "https://a.example.com/x?y"), ("resource", "https://b.example.com")],
        ),
        ({"token_params": {"organization": "acme", "empty": ""}}, [("organization", "acme")]),
        ({"token_params": [("a", "1"), ["a", "ü"]]}, [("a", "1"), ("a", "ü")]),
        ({"token_params": {"client_id": "client-id"}}, [("client_id", "client-id")]),
    ],
)
def test_every_request_has_the_parameters(
    make_client: MakeClient, tokens: TokenServer, options: dict[str, Any], pairs: Any
) -> None:
    client = make_client(**options)
    client.renew_token()
    client.renew_token()
    for request in tokens.requests:
        assert request.pairs == [GRANT, *pairs]


def test_a_grant_type_of_the_users_own(make_client: MakeClient, tokens: TokenServer) -> None:
    params = {"grant_type": "account_credentials", "account_id": "42"}
    make_client(token_params=params).renew_token()
    assert tokens.requests[0].form == params


def test_every_request_has_the_headers(make_client: MakeClient, tokens: TokenServer) -> None:
    client = make_client(token_headers={"x-merchant-id": "42", "accept": "*/*", "x-empty": ""})
    client.renew_token()
    client.renew_token()
    for request in tokens.requests:
        assert request.headers["X-Merchant-Id"] == "42"
        assert request.headers.get_all("Accept") == ["*/*"]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"scope": b"read"}, TypeError, "scope must be"),
        ({"scope": {"read"}}, TypeError, "scope must be"),
        ({"scope": ["read", None]}, TypeError, "scope must be"),
        ({"audience": ["a", "b"]}, TypeError, "audience must be a str"),
        ({"resource": 7}, TypeError, "resource must be"),
        ({"resource": "api.example.com"}, ValueError, "resource must be an absolute URI"),
        ({"resource": "https://a.example.com/#x"}, ValueError, "without a fragment"),
        ({"resource": ["urn:api", ""]}, ValueError, "resource must be an absolute URI"),
        ({"token_params": "a=1"}, TypeError, "token_params must be"),
        ({"token_params": 7}, TypeError, "token_params must be"),
        ({"token_params": {"a": 1}}, TypeError, "token_params must be"),
        ({"token_params": [("a", "1", "2")]}, TypeError, "token_params must be"),
        ({"token_params": iter([("a", "1")])}, TypeError, "token_params must be"),
        ({"token_params": {"client_secret": "x"}}, ValueError, "not hold client_secret"),
        ({"token_params": {"client_assertion": "x"}}, ValueError, "not hold client_assertion"),
        (
            {"token_params": {"client_id": "x"}, "client_auth": "client_secret_post"},
            ValueError,
            "not hold client_id",
        ),
        ({"token_params": {"scope": "x"}, "scope": "y"}, ValueError, "scope is given twice"),
        ({"token_params": [("resource", "x")], "resource": "urn:y"}, ValueError, "given twice"),
        ({"token_headers": [("a", "1")]}, TypeError, "token_headers must be"),
        ({"token_headers": {"a": 1}}, TypeError, "token_headers must be"),
        ({"token_headers": {"authorization": "Basic x"}}, ValueError, "must not hold auth"),
        ({"token_headers": {"DPoP": "x"}}, ValueError, "must not hold DPoP"),
        ({"token_headers": {"a": "1\r\nb: 2"}}, ValueError, "token_headers: 'a'"),
        ({"token_headers": {"a": " 1"}}, ValueError, "token_headers: 'a'"),
        ({"token_headers": {"a": "漢"}}, ValueError, "token_headers: 'a'"),
        ({"token_headers": {"a b": "1"}}, ValueError, "token_headers: 'a b'"),
        ({"token_headers": {"": "1"}}, ValueError, "token_headers: ''"),
        ({"token_cert": 7}, TypeError, "token_cert must be the path"),
        ({"token_cert": ("cert", "key", "more")}, TypeError, "token_cert must be the path"),
        ({"token_cert": ("cert", None)}, TypeError, "token_cert must be the path"),
    ],
)
def test_bad_input_is_an_error_at_construction(
    make_client: MakeClient, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        make_client(**options)


# -- a scope smaller than the one asked for ----------------------------------------------------


def test_a_smaller_scope_is_told_of_once_per_change(
    make_client: MakeClient, tokens: TokenServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "alf")
    client = make_client(scope="read write admin")
    for granted in ("read write admin", "write read", "write read", "read", "admin write read x"):
        tokens.members = {"scope": granted}
        assert client.renew_token().scope == granted
        assert client.ensure_token().scope == granted
    warnings = [record.getMessage().partition(", ")[2] for record in caplog.records]
    assert warnings == ["without admin", "without admin, write"]


@pytest.mark.parametrize("granted", [None, "a,b", "b a", ["a", "b"]])
def test_a_scope_that_was_granted_in_full_is_not_told_of(
    make_client: MakeClient,
    tokens: TokenServer,
    caplog: pytest.LogCaptureFixture,
    granted: Any,
) -> None:
    caplog.set_level(logging.WARNING, "alf")
    tokens.members = {"scope": granted}
    make_client(scope="a b").renew_token()
    make_client().renew_token()
    assert not caplog.records
