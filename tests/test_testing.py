"""The test kit, used as its users would."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from alf import Client, TokenError
from alf.testing import FakeTokenEndpoint, StaticToken
from tests.servers import Api
from tests.test_documentation import ROOT, examples


@pytest.fixture
def endpoint() -> Iterator[FakeTokenEndpoint]:
    with FakeTokenEndpoint() as endpoint:
        yield endpoint


@pytest.fixture
def client(endpoint: FakeTokenEndpoint) -> Iterator[Client]:
    with Client(**endpoint.credentials, raise_token_error=True) as client:
        yield client


def test_it_grants_a_new_token_each_time(client: Client, endpoint: FakeTokenEndpoint) -> None:
    first, second = client.ensure_token().access_token, client.renew_token().access_token
    assert [first, second] == endpoint.granted
    assert first != second
    assert client.ensure_token().lifetime == 3600


def test_requests_are_kept_as_they_came(endpoint: FakeTokenEndpoint) -> None:
    with Client(
        **endpoint.credentials, scope="read write", token_headers={"X-Merchant": "7"}
    ) as client:
        client.renew_token()
    (request,) = endpoint.requests
    assert request.form == {"grant_type": ["client_credentials"], "scope": ["read write"]}
    assert request.headers["x-merchant"] == "7"


def test_lifetime_and_members_can_be_set_and_changed() -> None:
    with (
        FakeTokenEndpoint(expires_in="60", members={"scope": "read"}) as endpoint,
        Client(**endpoint.credentials) as client,
    ):
        assert (client.ensure_token().lifetime, client.ensure_token().scope) == (60, "read")
        endpoint.expires_in = None
        endpoint.members["instance_url"] = "https://eu.example.com"
        token = client.renew_token()
        assert token.lifetime is None
        assert token.extra == {"instance_url": "https://eu.example.com"}


@pytest.mark.parametrize(("secret", "is_right"), [("s3:cr%t é", True), ("wrong", False)])
@pytest.mark.parametrize("client_auth", ["client_secret_basic", "client_secret_post"])
def test_credentials_are_checked(secret: str, is_right: bool, client_auth: str) -> None:
    with (
        FakeTokenEndpoint(client_id="me:2", client_secret="s3:cr%t é") as endpoint,
        Client(
            token_endpoint=endpoint.url,
            client_id="me:2",
            client_secret=secret,
            client_auth=client_auth,
            raise_token_error=True,
        ) as client,
    ):
        if is_right:
            assert client.ensure_token().access_token in endpoint.granted
            return
        with pytest.raises(TokenError, match="401 invalid_client"):
            client.renew_token()
        assert not endpoint.granted


def test_a_client_assertion_is_taken_as_it_is(endpoint: FakeTokenEndpoint) -> None:
    with Client(
        token_endpoint=endpoint.url,
        client_id="client-id",
        client_secret="a secret that is long enough to sign with it",
        client_auth="client_secret_jwt",
    ) as client:
        assert client.ensure_token().access_token in endpoint.granted


def test_refusing_and_granting_again(client: Client, endpoint: FakeTokenEndpoint) -> None:
    endpoint.refuse("invalid_scope")
    for _ in range(2):
        with pytest.raises(TokenError, match="400 invalid_scope"):
            client.renew_token()
    endpoint.grant()
    assert client.ensure_token().access_token in endpoint.granted


@pytest.mark.parametrize(("error", "status"), [("invalid_client", 401), ("invalid_scope", 400)])
def test_a_refusal_has_the_status_of_its_code(
    endpoint: FakeTokenEndpoint, error: str, status: int
) -> None:
    endpoint.refuse(error)
    with Client(**endpoint.credentials) as client:
        assert client.get("http://127.0.0.1:1/").status_code == status


def test_failing_for_some_times(endpoint: FakeTokenEndpoint) -> None:
    endpoint.fail(503, times=2)
    with Client(**endpoint.credentials) as client:
        for _ in range(2):
            with pytest.raises(TokenError, match="503"):
                client.renew_token()
        assert client.renew_token().access_token in endpoint.granted
    endpoint.fail(503, times=1)
    with Client(**endpoint.credentials, token_retry=1) as client:
        assert client.renew_token().access_token in endpoint.granted


@pytest.mark.parametrize(
    ("body", "content_type"), [(b"<html>", "text/plain"), ({"a": 1}, "application/json")]
)
def test_answering_with_anything(
    client: Client, endpoint: FakeTokenEndpoint, body: Any, content_type: str
) -> None:
    endpoint.answer(418, body, {"X-Tea": "green"}, times=1)
    with pytest.raises(TokenError) as failure:
        client.renew_token()
    response = failure.value.response
    assert response is not None
    assert response.headers["Content-Type"] == content_type
    assert response.headers["X-Tea"] == "green"
    assert response.content == (body if isinstance(body, bytes) else b'{"a": 1}')


def test_threads_that_come_while_answers_are_held_share_one(
    client: Client, endpoint: FakeTokenEndpoint
) -> None:
    ready = threading.Barrier(9)

    def ask(_: int) -> str:
        ready.wait()
        return client.ensure_token().access_token

    with ThreadPoolExecutor(8) as pool:
        with endpoint.held():
            tokens = pool.map(ask, range(8))
            ready.wait()
        assert len(set(tokens)) == 1
    assert len(endpoint.requests) == 1


def test_a_held_answer_can_time_out(endpoint: FakeTokenEndpoint) -> None:
    with (
        Client(**endpoint.credentials, token_timeout=0.05) as client,
        endpoint.held(),
        pytest.raises(requests.Timeout),
    ):
        client.renew_token()
    assert len(endpoint.requests) == 1


def test_revoking(client: Client, endpoint: FakeTokenEndpoint) -> None:
    first, second = client.ensure_token(), client.renew_token()
    assert endpoint.accepts(first.authorization)
    endpoint.revoke(first.access_token)
    assert not endpoint.accepts(first.authorization)
    assert endpoint.accepts(second.authorization)
    endpoint.revoke()
    assert not endpoint.accepts(second.authorization)
    assert endpoint.accepts(client.renew_token().authorization)


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer other"])
def test_what_no_api_should_let_in(endpoint: FakeTokenEndpoint, authorization: str | None) -> None:
    assert not endpoint.accepts(authorization)


def test_after_the_block_nobody_answers_and_no_thread_is_left() -> None:
    threads = threading.active_count()
    with FakeTokenEndpoint() as endpoint, Client(**endpoint.credentials) as client:
        client.renew_token()
    assert threading.active_count() == threads
    with Client(**endpoint.credentials) as client, pytest.raises(requests.ConnectionError):
        client.renew_token()


def test_before_the_block_there_is_no_url() -> None:
    with pytest.raises(RuntimeError, match="with block"):
        _ = FakeTokenEndpoint().url


def test_a_bug_of_a_test_is_not_kept_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    with (
        FakeTokenEndpoint(members={"scope": object()}) as endpoint,  # no JSON
        Client(**endpoint.credentials) as client,
        pytest.raises(requests.ConnectionError),
    ):
        client.renew_token()
    assert "not JSON serializable" in capfd.readouterr().err


def test_a_client_that_has_gone_is_no_bug(capfd: pytest.CaptureFixture[str]) -> None:
    with (
        # More than all buffers on the way hold.
        FakeTokenEndpoint(members={"filler": "x" * 20_000_000}) as endpoint,
        Client(**endpoint.credentials, token_timeout=0.05) as client,
        endpoint.held(),
        pytest.raises(requests.Timeout),
    ):
        client.renew_token()
    assert not capfd.readouterr().err


def test_importing_it_imports_no_pytest() -> None:
    code = "import sys, alf.testing; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- StaticToken -------------------------------------------------------------------------------


def test_a_static_token_goes_out_and_nobody_is_asked_for_one(api: Api) -> None:
    api.tokens.alive.add("a-token")
    with StaticToken("a-token") as client:
        assert client.get(api.url).status_code == 200
        assert client.ensure_token().access_token == client.renew_token().access_token == "a-token"
    assert not api.tokens.requests


def test_a_static_token_that_is_refused_is_refused(api: Api) -> None:
    with StaticToken("a-token") as client:
        assert client.get(api.url).status_code == 401
    assert len(api.requests) == 1


def test_a_static_token_takes_the_place_of_a_client(api: Api) -> None:
    client = StaticToken(
        token_endpoint="https://id.example.com/token",
        client_id="client-id",
        client_secret="secret",
        token_hosts=["api.example.com"],
    )
    with client:
        assert isinstance(client, Client)
        assert client.get(api.url).status_code == 401
    assert api.requests[0].authorization is None
    with pytest.raises(TypeError, match="token_hots"):
        StaticToken(token_hots=[])


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))]
)
def test_a_static_token_can_be_copied_and_pickled(duplicate: Any) -> None:
    with StaticToken("a-token") as client, duplicate(client) as other:
        assert other.ensure_token().access_token == "a-token"


def test_its_token_must_be_one() -> None:
    with pytest.raises(ValueError, match="visible ASCII"):
        StaticToken("a b")


# -- the documentation -------------------------------------------------------------------------


def test_the_examples_of_the_documentation_pass(tmp_path: Path) -> None:
    blocks = examples("docs/testing.rst")
    assert len(blocks) > 3
    for number, block in enumerate(blocks):
        # The first is the module under test, the rest are the tests of it.
        name = f"test_{number}.py" if number else "reports.py"
        (tmp_path / name).write_text(block + "\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
