"""A Client prepares a request as a Session does, though it merges less."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import requests
from requests.structures import CaseInsensitiveDict

from alf import Client, NoAuth

SESSION_HEADERS: list[Any] = [
    CaseInsensitiveDict(),
    CaseInsensitiveDict({"A": "session"}),
    CaseInsensitiveDict({"A": "session", "b": None}),
    {"A": "session", "b": None},
]
HEADERS: list[Any] = [None, {}, {"a": "call"}, {"A": None}, CaseInsensitiveDict()]
SESSION_PARAMS: list[Any] = [{}, {"p": "session"}, {"p": None}, [("p", "session")]]
PARAMS: list[Any] = [None, {}, {"p": "call"}, {"p": None}, "p=call", [("p", "call")]]


def new_client() -> Client:
    return Client(token_endpoint="http://127.0.0.1:1/token", client_id="a", client_secret="b")


def outcome(session: requests.Session, request: requests.Request) -> Any:
    try:
        prepared = session.prepare_request(request)
    except Exception as error:
        return type(error), str(error)
    return prepared.method, prepared.url, list(prepared.headers.items()), prepared.body


@pytest.mark.parametrize("session_headers", SESSION_HEADERS)
def test_headers_and_parameters_are_merged_as_by_a_session(session_headers: Any) -> None:
    client, session = new_client(), requests.Session()
    for both in (client, session):
        both.headers = session_headers
    for session_params, headers, params in itertools.product(SESSION_PARAMS, HEADERS, PARAMS):
        client.params = session.params = session_params
        request = requests.Request("get", "http://api/", headers, params=params, auth=NoAuth())
        before = dict(vars(request))
        assert outcome(client, request) == outcome(session, request)
        assert vars(request) == before


def test_a_prepared_request_has_headers_of_its_own() -> None:
    client = new_client()
    prepared = client.prepare_request(requests.Request("GET", "http://api/", auth=NoAuth()))
    prepared.headers["X"] = "y"
    assert "X" not in client.headers
    assert client.params == {}


def test_who_overrides_prepare_request_sees_the_request_itself() -> None:
    seen: list[requests.Request] = []

    class Mixin(requests.Session):
        def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
            seen.append(request)
            return super().prepare_request(request)

    class MixedClient(Client, Mixin):
        """The mixin stands between Client and Session."""

    class MyRequest(requests.Request):
        """A class of the caller's own."""

    options = {"token_endpoint": "http://127.0.0.1:1/token", "client_id": "a"}
    client = MixedClient(**options, client_secret="b")  # type: ignore[arg-type]
    request = requests.Request("GET", "http://api/", auth=NoAuth())
    client.prepare_request(request)
    assert seen == [request]
    prepared = new_client().prepare_request(MyRequest("GET", "http://api/", auth=NoAuth()))
    assert prepared.url == "http://api/"
