"""A Client makes of the environment exactly what a Session makes of it, whatever changes."""

from __future__ import annotations

import contextlib
import copy
import os
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import requests
from hypothesis import given
from hypothesis import strategies as st

from alf import Client

#: A change of the environment: variable and new value; None removes it.
Change = tuple[str, "str | None"]

names = st.sampled_from(
    [
        *["PATH", "SETTING", "REQUEST_METHOD", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"],
        *["http_proxy", "HTTPS_PROXY", "No_Proxy", "no_proxy", "FTP_PROXY", "MY_PROXY_HOST"],
    ]
)
values = st.sampled_from(["", "x", "/etc/ca.pem", "http://proxy:3128", "localhost,.example.com"])
# Most changes leave the environment without a proxy: under one requests itself answers always.
changes = st.one_of(
    st.tuples(names, st.none()),
    st.tuples(st.sampled_from(["SETTING", "PATH", "MY_PROXY_HOST"]), values),
    st.tuples(st.sampled_from(["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]), values),
    st.tuples(names, values),
)

verifications = st.sampled_from([None, True, False, "/call/ca.pem", "", 1, 0])
certificates = st.sampled_from([None, "/cert.pem", ("/cert.pem", "/key.pem"), ["/cert.pem"]])
flags = st.sampled_from([None, True, False, 1])
urls = st.sampled_from(
    [
        *["https://api.example.com/v1", "http://localhost:8080/", "http://[::1]/?a[b]=c"],
        *["http://10.0.0.1/", "mailto:somebody", "http://[bad", "http://[bad]:80/", b"http://b/"],
    ]
)
proxies: st.SearchStrategy[Callable[[], Any]] = st.sampled_from(
    [dict, dict, dict, dict, lambda: None, lambda: {"http": "http://p"}, lambda: {"no_proxy": "*"}]
)
calls = st.tuples(urls, proxies, flags, verifications, certificates)
#: What programs pass. These are called at every step, and are what can be remembered.
PLAIN_CALLS = [
    ("https://api.example.com/v1", dict, stream, verify, cert)
    for stream in (None, True)
    for verify in (None, True, False, "/call/ca.pem")
    for cert in (None, "/cert.pem", ("/cert.pem", "/key.pem"))
]
attributes = st.one_of(
    st.tuples(st.just("verify"), verifications),
    st.tuples(st.just("cert"), certificates),
    st.tuples(st.just("stream"), flags),
    st.tuples(st.just("trust_env"), st.sampled_from([True, True, True, False, 1])),
    st.tuples(st.just("proxies"), st.sampled_from([{}, {}, {}, None, {"https": "http://p"}])),
)
steps = st.lists(
    st.tuples(changes | st.none(), attributes | st.none(), st.lists(calls, max_size=3)),
    min_size=1,
    max_size=8,
)


class Watch:
    """Counts the answers for which requests' own method did not run."""

    def __init__(self) -> None:
        self._code = requests.Session.merge_environment_settings.__code__
        self._has_run = False
        self.remembered = 0

    def merge(self, session: requests.Session, *arguments: Any) -> Any:
        self._has_run = False
        sys.setprofile(self._see)
        try:
            return answer_of(session, *arguments)
        finally:
            sys.setprofile(None)
            self.remembered += not self._has_run

    def _see(self, frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code is self._code:
            self._has_run = True


def answer_of(
    session: requests.Session,
    url: Any,
    make_proxies: Callable[[], Any],
    stream: Any,
    verify: Any,
    cert: Any,
) -> Any:
    """The answer, or the type of the exception; and what became of the proxies handed in."""
    given_proxies = make_proxies()
    try:
        answer: Any = session.merge_environment_settings(url, given_proxies, stream, verify, cert)
    except Exception as error:
        return type(error)
    return answer, given_proxies


def typed(value: Any) -> Any:
    """The value with the types of all that is in it: 1 == True."""
    if isinstance(value, dict):
        return type(value), [(key, typed(one)) for key, one in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [typed(one) for one in value]
    return type(value), value


def spoil(answer: Any, *sessions: requests.Session) -> None:
    """Change what can be changed in an answer, as its receiver may."""
    if isinstance(answer, tuple):
        settings, _ = answer
        # requests may hand out the Session's own proxies.
        if all(settings["proxies"] is not session.proxies for session in sessions):
            settings["proxies"]["https"] = "http://spoilt"
        settings["verify"] = "spoilt"


@contextlib.contextmanager
def empty_environment() -> Iterator[None]:
    before = dict(os.environ)
    try:
        os.environ.clear()  # the fewer there are, the sooner requests has read them
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def test_answers_are_those_of_requests(make_client: Callable[..., Client]) -> None:
    watch = Watch()

    @given(steps)
    def compare(steps: list[Any]) -> None:
        client, session = make_client(), requests.Session()
        with empty_environment():
            for change, attribute, some_calls in steps:
                if change is not None:
                    name, value = change
                    os.environ.pop(name, None)
                    if value is not None:
                        os.environ[name] = value
                if attribute is not None:
                    name, value = attribute
                    setattr(client, name, copy.copy(value))
                    setattr(session, name, copy.copy(value))
                for call in [*PLAIN_CALLS, *some_calls]:
                    expected = typed(answer_of(session, *call))
                    for _ in range(6):
                        answer = watch.merge(client, *call)
                        assert typed(answer) == expected
                        spoil(answer, client, session)

    compare()
    assert watch.remembered >= 20_000
