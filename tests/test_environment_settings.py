"""What requests makes of the environment is remembered, and is never out of date."""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import requests

from alf import Client

URL = "https://api.example.com/v1"
MakeClient = Callable[..., Client]


def merged(session: requests.Session, **settings: Any) -> dict[str, Any]:
    arguments = {"proxies": {}, "stream": None, "verify": None, "cert": None, **settings}
    return dict(session.merge_environment_settings(URL, **arguments))


@pytest.fixture
def warm(make_client: MakeClient) -> Client:
    """A Client whose answer is remembered."""
    client = make_client()
    merged(client), merged(client)
    return client


@pytest.fixture
def switching() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("settings", [{}, {"verify": "/ca.pem", "cert": ("/c.pem", "/k.pem")}])
def test_what_is_known_is_not_looked_up_again(
    make_client: MakeClient, settings: dict[str, Any]
) -> None:
    client, called = make_client(), []

    def note(frame: Any, event: str, _argument: Any) -> None:
        if event == "call":
            called.append(frame.f_code.co_name)

    def look_up() -> int:
        called.clear()
        sys.setprofile(note)
        try:
            merged(client, **settings)
        finally:
            sys.setprofile(None)
        return called.count("get_environ_proxies")

    # Under variables that no other test has set.
    with mock.patch.dict(os.environ, {"ALF_TEST_OF_SETTINGS": repr(settings)}):
        assert [look_up() for _ in range(3)] == [1, 0, 0]


def test_a_variable_that_is_set_counts_for_the_next_call(
    warm: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/first.pem")
    assert merged(warm)["verify"] == "/first.pem"
    assert merged(warm)["verify"] == "/first.pem"
    os.environ["REQUESTS_CA_BUNDLE"] = "/second.pem"
    assert merged(warm)["verify"] == "/second.pem"
    os.environb[b"REQUESTS_CA_BUNDLE"] = b"/third.pem"
    assert merged(warm)["verify"] == "/third.pem"
    del os.environ["REQUESTS_CA_BUNDLE"]
    assert merged(warm)["verify"] is True
    monkeypatch.setenv("Https_Proxy", "http://proxy:3128")
    assert merged(warm)["proxies"] == {"https": "http://proxy:3128"}
    monkeypatch.setenv("no_proxy", "example.com")
    assert merged(warm)["proxies"] == {}


def test_an_answer_may_be_changed_by_its_receiver(warm: Client) -> None:
    answer = merged(warm)
    answer["proxies"]["https"] = "http://elsewhere"
    assert merged(warm)["proxies"] == {}


def test_one_is_not_true(warm: Client) -> None:
    merged(warm, verify=True)
    assert type(merged(warm, verify=1)["verify"]) is int
    assert merged(warm, verify=["unhashable"])["verify"] == ["unhashable"]
    name = type("Name", (str,), {})("/cert.pem")
    merged(warm, cert=("/cert.pem", "/key.pem"))
    assert type(merged(warm, cert=(name, "/key.pem"))["cert"][0]) is not str


@pytest.mark.parametrize("name", ["environ", "environ.get"])
def test_a_replaced_environment_is_read(warm: Client, name: str) -> None:
    bundle = {"REQUESTS_CA_BUNDLE": "/replaced.pem"}
    value = bundle if name == "environ" else bundle.get
    with mock.patch(f"os.{name}", value):
        assert merged(warm)["verify"] == "/replaced.pem"
    assert merged(warm)["verify"] is True


@pytest.mark.parametrize(
    "name",
    [
        "requests.sessions.get_environ_proxies",
        "requests.utils.getproxies",
        "urllib.request.getproxies_environment",
    ],
)
def test_replaced_functions_are_called(warm: Client, name: str) -> None:
    with mock.patch(name, return_value={"http": "http://patched"}) as function:
        plain = merged(requests.Session())
        count = function.call_count
        assert merged(warm) == plain
        assert function.call_count == 2 * count > 0


def test_a_wrapped_method_of_requests_is_called(warm: Client) -> None:
    inner = requests.Session.merge_environment_settings

    def wrapper(*args: Any) -> Any:
        return {**inner(*args), "timeout": 3}

    with mock.patch.object(requests.Session, "merge_environment_settings", wrapper):
        assert merged(warm)["timeout"] == 3
    assert "timeout" not in merged(warm)


@pytest.mark.parametrize("url", [b"https://api.example.com", "http://[bad", "http://[bad]:80/"])
def test_requests_judges_an_unusual_url(warm: Client, url: Any) -> None:
    def answer(session: requests.Session) -> Any:
        try:
            return session.merge_environment_settings(url, {}, None, None, None)
        except ValueError as error:
            return str(error)

    assert answer(warm) == answer(requests.Session())


def test_a_mixin_behind_the_client_is_asked(make_client: MakeClient) -> None:
    class CompanyProxy(requests.Session):
        def merge_environment_settings(self, *args: Any) -> Any:
            return {**super().merge_environment_settings(*args), "verify": "/company.pem"}

    class CompanyClient(Client, CompanyProxy):
        pass

    client = make_client(CompanyClient)
    merged(make_client()), merged(make_client())
    assert merged(client)["verify"] == "/company.pem"
    assert merged(client)["verify"] == "/company.pem"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REQUESTS_CA_BUNDLE", "/passing.pem"),
        ("HTTPS_PROXY", "http://passing:3128"),
        ("ALWAYS_THERE", "/passing.pem"),
    ],
)
@pytest.mark.parametrize("bundle", [None, "/ca.pem"])
def test_an_answer_is_discarded_if_the_environment_moved_while_it_was_made(
    make_client: MakeClient,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    bundle: str | None,
) -> None:
    """The variable is there, or has another value, only while requests reads the environment."""
    monkeypatch.setenv("ALWAYS_THERE", "/there.pem")
    if bundle is not None:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
    before = os.environ.get(name)

    class Moving(Client):
        reads = 0

        @property
        def trust_env(self) -> bool:
            self.reads += 1
            if self.reads == 2:  # the first was alf's
                os.environ[name] = value
            return True

        @trust_env.setter
        def trust_env(self, _value: bool) -> None:
            self.reads = 0

        @property
        def verify(self) -> bool:
            if self.reads == 2:
                if before is None:
                    del os.environ[name]
                else:
                    os.environ[name] = before
            return True

        @verify.setter
        def verify(self, _value: bool) -> None:
            pass

    moving = make_client(Moving)
    moving.trust_env = True
    merged(moving)
    assert moving.reads == 2
    assert os.environ.get(name) == before
    assert merged(make_client()) == merged(requests.Session())


@pytest.mark.usefixtures("switching")
def test_no_answer_is_out_of_date_whatever_other_threads_set(make_client: MakeClient) -> None:
    client, is_over = make_client(), threading.Event()

    def disturb(name: str, value: str) -> None:
        while not is_over.is_set():
            os.environ[name] = value
            del os.environ[name]

    def call() -> None:
        while not is_over.is_set():
            # requests itself cannot bear that a variable goes while it reads them all.
            with contextlib.suppress(KeyError):
                merged(client)

    threads = [
        threading.Thread(target=disturb, args=("REQUESTS_CA_BUNDLE", "/passing.pem")),
        threading.Thread(target=disturb, args=("HTTPS_PROXY", "http://passing")),
        *[threading.Thread(target=call) for _ in range(3)],
    ]
    for thread in threads:
        thread.start()
    is_over.wait(1)
    is_over.set()
    for thread in threads:
        thread.join()
    for _ in range(3):
        assert merged(client) == merged(requests.Session())


def test_however_many_settings_there_are_the_answers_are_right(make_client: MakeClient) -> None:
    client = make_client()
    for _ in range(2):
        for number in range(200):
            assert merged(client, verify=f"/{number}.pem")["verify"] == f"/{number}.pem"


def test_copies_and_pickles_of_a_client_answer_as_it_does(warm: Client) -> None:
    for clone in (copy.copy(warm), copy.deepcopy(warm), pickle.loads(pickle.dumps(warm))):
        assert merged(clone) == merged(warm)
        clone.verify = "/its-own.pem"
        assert merged(clone)["verify"] == "/its-own.pem"
        assert merged(warm)["verify"] is True


def test_an_environment_that_is_replaced_before_the_import_is_read() -> None:
    program = """
import os
os.environ = dict(os.environ)
import alf
client = alf.Client(token_endpoint="https://id.example.com", client_id="id", client_secret="s")
for path in ("/first.pem", "/second.pem"):
    os.environ["REQUESTS_CA_BUNDLE"] = path
    answer = client.merge_environment_settings("https://api.example.com", {}, None, None, None)
    assert answer["verify"] == path
"""
    subprocess.run([sys.executable, "-c", program], check=True)
