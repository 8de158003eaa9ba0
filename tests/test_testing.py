"""The test kit, used as its users would."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import freezegun
import pytest
import requests
import time_machine

from alf import Client, TokenError
from alf.testing import FakeAPI, FakeTokenEndpoint, StaticToken
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


# -- what a real server would refuse ------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("POST", "/oauth/token", 404, "/token and /revoke, not /oauth/token"),
        ("POST", "/token/", 404, "not /token/"),
        ("GET", "/token", 405, "POST"),
        ("PUT", "/revoke", 405, "POST"),
        ("POST", "/.well-known/oauth-authorization-server", 405, "GET"),
    ],
)
def test_another_path_or_method_is_an_error(
    endpoint: FakeTokenEndpoint, method: str, path: str, status: int, words: str
) -> None:
    response = requests.request(method, endpoint.issuer + path, timeout=10)
    assert response.status_code == status
    assert words in response.text
    assert not endpoint.requests
    assert not endpoint.granted


def test_a_wrong_url_fails_the_call(endpoint: FakeTokenEndpoint) -> None:
    wrong = {**endpoint.credentials, "token_endpoint": f"{endpoint.issuer}/oauth2/token"}
    with Client(**wrong, raise_token_error=True) as client, pytest.raises(TokenError, match="404"):
        client.renew_token()


def token_error(endpoint: FakeTokenEndpoint, form: dict[str, str], path: str = "/token") -> Any:
    identity = {"client_id": "client-id", "client_secret": "client-secret"}
    response = requests.post(endpoint.issuer + path, data={**identity, **form}, timeout=10)
    assert response.status_code in (400, 401)
    return response.json()


@pytest.mark.parametrize(
    ("path", "form", "error", "words"),
    [
        ("/token", {}, "invalid_request", "grant_type is missing"),
        ("/token", {"grant_type": "password"}, "unsupported_grant_type", "client_credentials"),
        (
            "/token",
            {"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange"},
            "invalid_request",
            "missing: subject_token, subject_token_type",
        ),
        ("/revoke", {}, "invalid_request", "missing: token"),
        ("/revoke", {"token": "a", "client_secret": "x"}, "invalid_client", "client_secret"),
    ],
)
def test_a_form_that_is_not_complete_is_an_error(
    endpoint: FakeTokenEndpoint, path: str, form: dict[str, str], error: str, words: str
) -> None:
    answer = token_error(endpoint, form, path)
    assert answer["error"] == error
    assert words in answer["error_description"]


def test_a_body_that_is_not_a_form_is_an_error(endpoint: FakeTokenEndpoint) -> None:
    response = requests.post(endpoint.url, json={"grant_type": "client_credentials"}, timeout=10)
    assert (response.status_code, response.json()["error"]) == (400, "invalid_request")


@pytest.mark.parametrize("authorization", ["Basic %", "Basic /w==", "Bearer a"])
def test_an_authorization_that_cannot_be_read_is_another_client(
    endpoint: FakeTokenEndpoint, authorization: str
) -> None:
    response = requests.post(
        endpoint.url,
        data={"grant_type": "client_credentials"},
        headers={"Authorization": authorization},
        timeout=10,
    )
    assert (response.status_code, response.json()["error"]) == (401, "invalid_client")


@pytest.mark.parametrize(
    "form",
    [
        {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": "a.b.c"},
        {
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "subject_token": "a.b.c",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "client_id": "client-id",
            "client_secret": "client-secret",
        },
    ],
)
def test_other_grant_types_get_tokens(endpoint: FakeTokenEndpoint, form: dict[str, str]) -> None:
    answer = requests.post(endpoint.url, data=form, timeout=10).json()
    assert [answer["access_token"]] == endpoint.granted
    assert ("issued_token_type" in answer) == ("subject_token" in form)


# -- the life of a token -------------------------------------------------------------------------


def test_revoke_token_revokes(client: Client, endpoint: FakeTokenEndpoint) -> None:
    token = client.ensure_token()
    assert endpoint.accepts(token.authorization)
    client.revoke_token()
    assert not endpoint.accepts(token.authorization)
    assert client.token is None


def test_a_token_that_is_not_known_counts_as_revoked(endpoint: FakeTokenEndpoint) -> None:
    form = {"token": "unknown", "client_id": "client-id", "client_secret": "client-secret"}
    assert requests.post(endpoint.revocation_url, data=form, timeout=10).status_code == 200


def test_the_issuer_s_metadata_name_the_endpoints(endpoint: FakeTokenEndpoint) -> None:
    with Client(
        issuer=endpoint.issuer, client_id="client-id", client_secret="client-secret"
    ) as client:
        token = client.ensure_token()
        assert endpoint.accepts(token.authorization)
        client.revoke_token()
    assert not endpoint.accepts(token.authorization)
    assert len(endpoint.requests) == 1


def test_a_second_client_has_its_own_tokens(client: Client, endpoint: FakeTokenEndpoint) -> None:
    with Client(**endpoint.add_client("second", "its secret")) as second:
        token = second.ensure_token()
    assert endpoint.accepts(token.authorization)
    theirs = token_error(endpoint, {"token": token.access_token}, "/revoke")
    assert theirs["error"] == "unauthorized_client"
    assert endpoint.accepts(token.authorization)
    assert client.ensure_token().access_token != token.access_token
    with (
        Client(**{**endpoint.credentials, "client_id": "second"}, raise_token_error=True) as wrong,
        pytest.raises(TokenError, match="invalid_client"),
    ):
        wrong.renew_token()


def test_a_token_of_the_members_is_the_one_granted() -> None:
    with (
        FakeTokenEndpoint(members={"access_token": "a.b.c"}) as endpoint,
        Client(**endpoint.credentials) as client,
    ):
        assert endpoint.accepts(client.ensure_token().authorization)
        assert endpoint.granted == ["a.b.c"]


@pytest.mark.parametrize("expires_in", [0, -1, "0", 1e-9])
def test_a_token_without_life_is_dead(expires_in: Any) -> None:
    with (
        FakeTokenEndpoint(expires_in=expires_in) as endpoint,
        Client(**endpoint.credentials) as client,
    ):
        assert not endpoint.accepts(client.ensure_token().authorization)


def test_a_bound_token_has_its_scheme(endpoint: FakeTokenEndpoint) -> None:
    with FakeAPI(endpoint) as api, Client(**endpoint.credentials, dpop=True) as client:
        assert client.get(api.url).status_code == 200
        assert "DPoP" in api.requests[0].headers
    assert not endpoint.accepts(f"Bearer {endpoint.granted[0]}")


def travel_with_freezegun() -> Any:
    frozen = freezegun.freeze_time("2026-05-01")
    return frozen, lambda clock, seconds: clock.tick(timedelta(seconds=seconds))


def travel_with_time_machine() -> Any:
    travelling = time_machine.travel("2026-05-01", tick=False)
    return travelling, lambda clock, seconds: clock.shift(seconds)


@pytest.mark.parametrize("library", [travel_with_freezegun, travel_with_time_machine])
def test_libraries_that_turn_the_clock(endpoint: FakeTokenEndpoint, library: Any) -> None:
    travelling, shift = library()
    with (
        travelling as clock,
        FakeAPI(endpoint) as api,
        Client(**endpoint.credentials, token_refresh="blocking") as client,
    ):
        first = client.ensure_token()
        shift(clock, 1800)
        assert client.get(api.url).status_code == 200
        assert endpoint.granted == [first.access_token]
        shift(clock, 1800)
        assert not endpoint.accepts(first.authorization)
        assert client.get(api.url).status_code == 200
        assert client.ensure_token().issued_at - first.issued_at == 3600
        assert len(endpoint.granted) == 2
        assert [request.path for request in api.requests] == ["/", "/"]


@pytest.mark.parametrize("library", [travel_with_freezegun, travel_with_time_machine])
def test_a_background_refresh_sees_the_turned_clock(
    endpoint: FakeTokenEndpoint, library: Any
) -> None:
    travelling, shift = library()
    renewed = threading.Event()

    def note(event: object) -> None:
        if getattr(event, "reason", None) == "expiring":
            renewed.set()

    with travelling as clock, Client(**endpoint.credentials, on_event=note) as client:
        first = client.ensure_token()
        shift(clock, 3000)
        assert client.ensure_token() == first
        assert renewed.wait(30)
        assert client.ensure_token().issued_at - first.issued_at == 3000


@pytest.mark.parametrize("library", [travel_with_freezegun, travel_with_time_machine])
def test_a_request_times_out_though_the_clock_stands(
    endpoint: FakeTokenEndpoint, library: Any
) -> None:
    travelling, _ = library()
    with (
        travelling,
        endpoint.held(),
        Client(**endpoint.credentials, token_timeout=0.1) as client,
        pytest.raises(requests.Timeout),
    ):
        client.renew_token()


# -- delays and outages --------------------------------------------------------------------------


def test_latency(client: Client, endpoint: FakeTokenEndpoint) -> None:
    endpoint.latency = 0.2
    started = time.monotonic()
    client.renew_token()
    assert time.monotonic() - started >= 0.2


def test_an_outage_and_its_end(client: Client, endpoint: FakeTokenEndpoint) -> None:
    with endpoint.outage(), pytest.raises(requests.ConnectionError):
        client.renew_token()
    assert not endpoint.requests
    assert client.renew_token().access_token in endpoint.granted


def test_an_outage_that_begins_while_an_answer_is_held(
    client: Client, endpoint: FakeTokenEndpoint
) -> None:
    with ThreadPoolExecutor(1) as pool, ExitStack() as outage:
        with endpoint.held():
            pending = pool.submit(client.renew_token)
            while not endpoint.requests and not pending.done():
                time.sleep(0.01)
            outage.enter_context(endpoint.outage())
        with pytest.raises(requests.ConnectionError):
            pending.result(30)
    assert not endpoint.granted


# -- FakeAPI -------------------------------------------------------------------------------------


def test_an_api_accepts_live_tokens_only(client: Client, endpoint: FakeTokenEndpoint) -> None:
    with FakeAPI(endpoint) as api:
        response = client.post(f"{api.url}/reports?page=1", data=b"body")
        assert (response.status_code, response.json()) == (200, {})
        assert client.head(api.url).status_code == 200
        request = api.requests[0]
        assert (request.method, request.path, request.body) == ("POST", "/reports?page=1", b"body")
        assert endpoint.accepts(request.headers["Authorization"])
        without = requests.get(api.url, timeout=10)
        assert (without.status_code, without.headers["WWW-Authenticate"]) == (401, "Bearer")
        with StaticToken("another") as other:
            refused = other.get(api.url)
        assert refused.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
        assert len(api.requests) == 4


def test_a_revoked_token_is_healed(client: Client, endpoint: FakeTokenEndpoint) -> None:
    with FakeAPI(endpoint) as api:
        client.get(api.url)
        endpoint.revoke()
        assert client.get(api.url).status_code == 200
        assert len(api.requests) == 3
    assert len(endpoint.granted) == 2


def test_an_api_answers_what_it_is_told(client: Client, endpoint: FakeTokenEndpoint) -> None:
    with FakeAPI(endpoint) as api:
        api.answer(429, {"error": "slow down"}, {"Retry-After": "7"}, times=1)
        # Who has no token does not use the answer up.
        assert requests.get(api.url, timeout=10).status_code == 401
        response = client.get(api.url)
        assert (response.status_code, response.headers["Retry-After"]) == (429, "7")
        api.answer(200, b"text")
        assert [client.get(api.url).text for _ in range(2)] == ["text", "text"]
        with api.outage(), pytest.raises(requests.ConnectionError):
            client.get(api.url)


# -- the plugin of pytest ------------------------------------------------------------------------


def run_pytest(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_plugin_imports_alf_when_a_test_wants_a_fixture(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("""
import sys

def test_that_wants_nothing():
    assert "_alf_pytest" in sys.modules
    assert "alf" not in sys.modules

def test_that_wants_a_client(alf_client, alf_api, alf_endpoint):
    assert alf_client.get(alf_api.url).ok
    assert len(alf_endpoint.requests) == 1
""")
    assert "2 passed" in run_pytest(tmp_path, "-p", "_alf_pytest")


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
    run_pytest(tmp_path, "-p", "_alf_pytest", "-p", "requests_mock")
