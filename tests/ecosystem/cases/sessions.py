"""Sessions of other kinds, mixins, recorders and mocks."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.ecosystem.cases.registry import case

Call = Callable[[int], Any]

#: The numbers of the first call with a plain Session and with a Client.
FIRST = (1, 3)


def _reports(lab: Any) -> Callable[[Any, int], Any]:
    """A call of a page of its own for each number."""
    lab.pages({f"/reports/{number}": {"title": "May"} for number in range(10)})

    def get(session: Any, number: int) -> Any:
        response = session.get(f"{lab.url}/reports/{number}", timeout=20)
        response.raise_for_status()
        return response

    return get


@case(
    "requests-cache",
    "sessions",
    "``class CachedClient(CacheMixin, Client)``",
)
def cache_mixin(lab: Any) -> Call:
    from requests_cache import CacheMixin

    get = _reports(lab)
    session = lab.session(CacheMixin, backend="memory")

    def call(number: int) -> Any:
        answers = [get(session, number) for _ in range(2)]
        return [[answer.json(), answer.from_cache] for answer in answers]

    return call


def _import_alf() -> None:
    import alf  # noqa: F401  (so that Session is replaced after that)


def _install_cache() -> None:
    import requests_cache

    requests_cache.install_cache(backend="memory")


@case(
    "requests-cache",
    "sessions",
    "``install_cache()`` after ``import alf``",
    name="requests-cache, installed after alf",
    before=_import_alf,
    note="A Client is not cached.",
)
def cache_installed(lab: Any) -> Call:
    import requests_cache

    if not requests_cache.is_installed():
        _install_cache()
    get = _reports(lab)
    session = lab.session()
    return lambda number: get(session, number).json()


@case(
    "requests-cache",
    "sessions",
    "``install_cache()`` before ``import alf``",
    name="requests-cache, installed before alf",
    before=_install_cache,
    note="Every Client is cached.",
)
def cache_installed_first(lab: Any) -> Call:
    get = _reports(lab)
    session = lab.session()

    def call(number: int) -> Any:
        answers = [get(session, number) for _ in range(2)]
        return [[answer.json(), answer.from_cache] for answer in answers]

    return call


@case(
    "requests-cache",
    "sessions",
    "``Client(token_session=CachedSession())``",
    name="requests-cache, for token requests",
    note="Token requests are not cached.",
)
def cache_token_session(lab: Any) -> Call:
    from requests_cache import CachedSession

    get = _reports(lab)
    allow = {"allowable_methods": ("GET", "HEAD", "POST")}
    session = lab.token_session(CachedSession(backend="memory", **allow))
    return lambda number: get(session, number).json()


@case("requests-ratelimiter", "sessions", "``class LimitedClient(LimiterMixin, Client)``")
def limiter_mixin(lab: Any) -> Call:
    from requests_ratelimiter import LimiterMixin

    get = _reports(lab)
    session = lab.session(LimiterMixin, per_second=50)
    return lambda number: get(session, number).json()


@case(
    "requests-ratelimiter",
    "sessions",
    "``client.mount(url, LimiterAdapter(per_second=5))``",
    name="requests-ratelimiter, as an adapter",
)
def limiter_adapter(lab: Any) -> Call:
    from requests_ratelimiter import LimiterAdapter

    get = _reports(lab)
    session = lab.session()
    session.mount(lab.url, LimiterAdapter(per_second=50))
    return lambda number: get(session, number).json()


@case("requests-futures", "sessions", "``FuturesSession(session=client)``")
def futures(lab: Any) -> Call:
    from requests_futures.sessions import FuturesSession

    _reports(lab)
    session = FuturesSession(session=lab.session())

    def call(number: int) -> Any:
        response = session.get(f"{lab.url}/reports/{number}").result(timeout=20)
        response.raise_for_status()
        return response.json()

    return call


@case("requests-html", "older", "``class HTMLClient(Client, HTMLSession)``")
def html(lab: Any) -> Call:
    from requests_html import HTMLSession

    lab.pages({"/page": [200, {"Content-Type": "text/html"}, "<p id=a>hello</p>"]})
    session = lab.session(HTMLSession)

    def call(number: int) -> Any:
        response = session.get(f"{lab.url}/page")
        response.raise_for_status()
        return response.html.find("#a", first=True).text

    return call


@case("httmock", "sessions", "``with HTTMock(handler): client.get(url)``")
def httmock(lab: Any) -> Call:
    from httmock import HTTMock, urlmatch

    @urlmatch(netloc=r"mocked\.example\.com")
    def mocked(url: Any, request: Any) -> Any:
        assert request.headers["Authorization"].startswith("Bearer ")
        return {"status_code": 200, "content": "mocked"}

    get = _reports(lab)
    session = lab.session()

    def call(number: int) -> Any:
        with HTTMock(mocked):
            real = get(session, number).json()
            return [real, session.get("http://mocked.example.com/").text]

    return call


@case("pook", "sessions", "``with pook.use(network=True): client.get(url)``")
def pook(lab: Any) -> Call:
    import pook

    get = _reports(lab)
    session = lab.session()

    def call(number: int) -> Any:
        with pook.use(network=True):
            mock = pook.get("http://mocked.example.com/")
            mock.header("Authorization", pook.regex("Bearer .+")).reply(200).body("mocked")
            real = get(session, number).json()
            return [real, session.get("http://mocked.example.com/").text]

    return call


@case(
    "vcrpy",
    "sessions",
    "``with vcr.use_cassette(path): client.get(url)``",
    note="The cassette also contains token requests and healed refusals; use its filters.",
)
def vcrpy(lab: Any) -> Call:
    import vcr

    get = _reports(lab)
    session = lab.session()
    folder = tempfile.mkdtemp()

    def call(number: int) -> Any:
        path = str(Path(folder, f"{number}.yaml"))
        with vcr.use_cassette(path):
            answer = get(session, number).json()
        if number in FIRST:
            with vcr.use_cassette(path) as cassette:
                assert get(session, number).json() == answer
                assert cassette.play_count
        return answer

    return call


@case(
    "betamax",
    "sessions",
    "``with Betamax(client).use_cassette(name): client.get(url)``",
    note="Records the calls, not the token requests.",
)
def betamax(lab: Any) -> Call:
    from betamax import Betamax

    get = _reports(lab)
    session = lab.session()
    folder = tempfile.mkdtemp()

    def call(number: int) -> Any:
        recorder = Betamax(session, cassette_library_dir=folder)
        with recorder.use_cassette(f"call-{number}", record="once"):
            answer = get(session, number).json()
        if number in FIRST:
            with recorder.use_cassette(f"call-{number}", record="none"):
                assert get(session, number).json() == answer
        return answer

    return call
