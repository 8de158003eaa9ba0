"""Other libraries work with a Client as they do with a Session."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cachecontrol
import pytest
import requests
import requests_mock
import responses
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from requests_toolbelt import MultipartEncoder, MultipartEncoderMonitor, threaded
from requests_toolbelt.adapters.source import SourceAddressAdapter
from requests_toolbelt.auth.guess import GuessAuth
from requests_toolbelt.sessions import BaseUrlSession
from requests_toolbelt.streaming_iterator import StreamingIterator
from requests_toolbelt.utils import dump

from alf import BearerTokenAuth, Client, TokenError
from tests.servers import Api, Reply, Request, TokenServer

MakeClient = Callable[..., Client]

TOKEN_ENDPOINT = "https://id.example.com/token"
API = "https://api.example.com/reports"


@pytest.fixture
def mocked(make_client: MakeClient) -> Client:
    """A client of hosts that do not exist."""
    return make_client(token_endpoint=TOKEN_ENDPOINT)


# -- responses ---------------------------------------------------------------------------------


@responses.activate
def test_responses_answers_for_the_endpoint_and_the_api(mocked: Client) -> None:
    responses.post(TOKEN_ENDPOINT, json={"access_token": "a", "expires_in": 3600})
    responses.get(API, json={"page": 1})
    assert [mocked.get(API).json() for _ in range(2)] == [{"page": 1}] * 2
    responses.assert_call_count(TOKEN_ENDPOINT, 1)
    responses.assert_call_count(API, 2)
    assert responses.calls[1].request.headers["Authorization"] == "Bearer a"


@responses.activate(registry=responses.registries.OrderedRegistry)
def test_responses_sees_a_refusal_healed(mocked: Client) -> None:
    responses.post(TOKEN_ENDPOINT, json={"access_token": "a", "expires_in": 3600})
    responses.put(API, status=401)
    responses.post(TOKEN_ENDPOINT, json={"access_token": "b", "expires_in": 3600})
    responses.put(
        API,
        body="done",
        match=[
            responses.matchers.header_matcher({"Authorization": "Bearer b"}),
            responses.matchers.json_params_matcher({"name": "alf"}),
        ],
    )
    assert mocked.put(API, json={"name": "alf"}, stream=True).text == "done"


@responses.activate
def test_responses_can_fail_a_token_request(mocked: Client) -> None:
    responses.post(TOKEN_ENDPOINT, body=requests.ConnectTimeout("too long"))
    with pytest.raises(requests.ConnectTimeout):
        mocked.get(API)
    responses.replace(responses.POST, TOKEN_ENDPOINT, status=400, json={"error": "invalid_scope"})
    assert mocked.get(API).json() == {"error": "invalid_scope"}
    with pytest.raises(TokenError, match="invalid_scope"):
        mocked.renew_token()


# -- requests-mock -----------------------------------------------------------------------------


def test_requests_mock_answers_for_all_sessions(mocked: Client) -> None:
    with requests_mock.Mocker() as mock:
        mock.post(TOKEN_ENDPOINT, json={"access_token": "a", "expires_in": "3600"})
        mock.get(API, [{"status_code": 401}, {"text": "page"}])
        mock.post(TOKEN_ENDPOINT, [{"json": {"access_token": token}} for token in "ab"])
        assert mocked.get(API).text == "page"
    sent = [request.headers["Authorization"] for request in mock.request_history[1::2]]
    assert sent == ["Bearer a", "Bearer b"]


def test_requests_mock_answers_for_one_session(client: Client, tokens: TokenServer) -> None:
    with requests_mock.Mocker(session=client) as mock:
        mock.get(API, text="page")
        assert client.get(API).text == "page"
    assert mock.last_request.headers["Authorization"] == "Bearer token-1"
    # The token came over the network.
    assert len(tokens.requests) == 1


def test_requests_mock_as_an_adapter(client: Client) -> None:
    adapter = requests_mock.Adapter()
    adapter.register_uri("GET", "mock://api/reports", text="page")
    client.mount("mock://", adapter)
    assert client.get("mock://api/reports").text == "page"
    assert adapter.last_request.headers["Authorization"] == "Bearer token-1"


# -- requests-toolbelt -------------------------------------------------------------------------


class BaseUrlFirst(BaseUrlSession, Client):  # type: ignore[misc]
    def __init__(self, base_url: str, **options: Any) -> None:
        Client.__init__(self, **options)
        self.base_url = base_url


class ClientFirst(Client, BaseUrlSession):  # type: ignore[misc]
    def __init__(self, base_url: str, **options: Any) -> None:
        super().__init__(**options)
        self.base_url = base_url


@pytest.mark.parametrize("cls", [BaseUrlFirst, ClientFirst])
def test_a_base_url_and_a_token(
    make_client: MakeClient, tokens: TokenServer, api: Api, cls: type[Client]
) -> None:
    client = make_client(cls, base_url=f"{api.url}/v1/")
    assert client.get("reports", params={"page": 2}).status_code == 200
    tokens.alive.clear()
    assert client.get("reports").status_code == 200
    prepared = client.prepare_request(requests.Request("GET", "prepared"))
    assert client.send(prepared).status_code == 200
    paths = ["/v1/reports?page=2", "/v1/reports", "/v1/reports", "/v1/prepared"]
    assert [request.path for request in api.requests] == paths
    assert len(tokens.requests) == 2


def test_no_token_at_a_base_url_is_the_endpoints_answer(
    make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    tokens.replies = [Reply(503)]
    assert make_client(ClientFirst, base_url=api.url).get("/").status_code == 503
    assert not api.requests


@pytest.mark.parametrize("wrap", [lambda encoder: encoder, MultipartEncoderMonitor])
def test_a_multipart_encoder_is_sent_and_never_twice(
    client: Client, tokens: TokenServer, api: Api, wrap: Any
) -> None:
    def upload() -> requests.Response:
        data = wrap(MultipartEncoder({"file": ("a.txt", io.BytesIO(b"content"), "text/plain")}))
        return client.post(api.url, data=data, headers={"Content-Type": data.content_type})

    assert upload().status_code == 200
    assert b"content" in api.requests[0].body
    # It cannot be rewound.
    tokens.alive.clear()
    assert upload().status_code == 401
    assert upload().status_code == 200
    assert len(api.requests) == 3


def test_a_streaming_iterator_is_sent(client: Client, api: Api) -> None:
    data = StreamingIterator(6, iter([b"abc", b"def"]))
    assert client.post(api.url, data=data).status_code == 200
    assert api.requests[0].body == b"abcdef"


def test_an_adapter_of_the_toolbelt_carries_the_calls_and_not_the_token_request(
    client: Client, tokens: TokenServer, api: Api
) -> None:
    peers = []

    class Adapter(SourceAddressAdapter):
        def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
            peers.append(request.url)
            return super().send(request, **options)

    client.mount("http://", Adapter("127.0.0.1"))
    client.renew_token()
    tokens.alive.clear()
    assert client.get(api.url).status_code == 200
    assert peers == [f"{api.url}/"] * 2


def test_guessing_basic_or_digest_for_a_call(client: Client, api: Api) -> None:
    def basic(request: Request) -> Reply:
        if request.authorization == "Basic dXNlcjpwYXNz":
            return Reply(200)
        return Reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'})

    api.script = basic
    assert client.get(api.url, auth=GuessAuth("user", "pass")).status_code == 200
    assert [request.authorization for request in api.requests] == [None, "Basic dXNlcjpwYXNz"]


def test_threads_of_the_toolbelt_share_a_client(
    client: Client, tokens: TokenServer, api: Api
) -> None:
    urls = [api.url] * 20
    pool = threaded.pool.Pool.from_urls(urls, session=lambda: client, num_processes=4)
    pool.join_all()
    assert [str(answer.status_code) for answer in pool.responses()] == ["200"] * 20
    assert len(tokens.requests) == 1


def test_a_dump_shows_the_request_that_was_answered(
    client: Client, tokens: TokenServer, api: Api
) -> None:
    tokens.replies = [Reply(body={"access_token": "revoked"})]
    text = dump.dump_all(client.get(f"{api.url}/reports")).decode()
    assert "Authorization: Bearer token-1" in text
    assert "revoked" not in text
    assert "GET /reports" in text


# -- CacheControl ------------------------------------------------------------------------------


@pytest.fixture
def cached(client: Client) -> Client:
    with_cache: Client = cachecontrol.CacheControl(client)
    assert with_cache is client
    return with_cache


def test_what_is_in_the_cache_costs_no_call(cached: Client, tokens: TokenServer, api: Api) -> None:
    api.pages["/"] = Reply(200, b"page", {"Cache-Control": "max-age=60"})
    assert [cached.get(api.url).text for _ in range(3)] == ["page"] * 3
    assert (len(api.requests), len(tokens.requests)) == (1, 1)


def test_no_token_comes_out_of_the_cache(cached: Client, tokens: TokenServer) -> None:
    tokens.replies = [
        Reply(200, {"access_token": name, "expires_in": 60}, {"Cache-Control": "max-age=60"})
        for name in "ab"
    ]
    assert [cached.renew_token().access_token for _ in range(2)] == ["a", "b"]


def test_a_page_is_revalidated_with_a_new_token(
    cached: Client, tokens: TokenServer, api: Api
) -> None:
    def page(request: Request) -> Reply:
        headers = {"ETag": '"1"', "Cache-Control": "no-cache"}
        if request.headers["If-None-Match"] == '"1"':
            return Reply(304, headers={**headers, "Content-Length": "0"})
        return Reply(200, b"page", headers)

    api.pages["/"] = page
    assert cached.get(api.url).text == "page"
    tokens.alive.clear()
    response = cached.get(api.url)
    assert (response.status_code, response.text) == (200, "page")
    conditions = [request.headers["If-None-Match"] for request in api.requests]
    # The second was refused, the third healed, and answered by a 304.
    assert conditions == [None, '"1"', '"1"']


# -- HTTPie ------------------------------------------------------------------------------------


class Plugin(requests.adapters.HTTPAdapter):
    """A transport plugin of HTTPie's kind."""

    calls = 0

    def send(self, *arguments: Any, **options: Any) -> requests.Response:
        self.calls += 1
        return super().send(*arguments, **options)


def httpie(session: requests.Session, request: requests.Request) -> requests.Response:
    """Sends as HTTPie does: prepared first, with settings merged beforehand, hop by hop."""
    prepared = session.prepare_request(request)
    settings = session.merge_environment_settings(
        prepared.url, proxies={}, stream=True, verify=True, cert=None
    )
    response = session.send(prepared, **settings, allow_redirects=False, timeout=20)
    while response.next is not None:
        with response:
            response = session.send(response.next, **settings, allow_redirects=False, timeout=20)
    with response:
        assert response.content
    return response


def test_prepared_and_sent_hop_by_hop(client: Client, tokens: TokenServer, api: Api) -> None:
    plugin = Plugin()
    client.mount("http://", plugin)
    api.pages["/old"] = Reply(307, headers={"Location": "/new"})
    assert httpie(client, requests.Request("PUT", f"{api.url}/old", json={"a": 1})).ok
    tokens.alive.clear()
    assert httpie(client, requests.Request("PUT", f"{api.url}/old", json={"a": 1})).ok
    paths = [request.path for request in api.requests]
    assert paths == ["/old", "/new", "/old", "/old", "/new"]
    assert {request.body for request in api.requests} == {b'{"a": 1}'}
    assert plugin.calls == 5


def test_a_session_that_is_kept_in_a_file(
    make_client: MakeClient, tokens: TokenServer, api: Api, tmp_path: Path
) -> None:
    path = tmp_path / "session.json"
    first = make_client()
    first.headers["X-Team"] = "reports"
    first.cookies.set("seen", "yes")
    response = httpie(first, requests.Request("GET", api.url))
    # As HTTPie does: the headers of the request are those of the session next time.
    kept = {"headers": dict(response.request.headers), "cookies": first.cookies.get_dict()}
    path.write_text(json.dumps(kept), encoding="utf-8")
    tokens.alive.clear()

    second = make_client()
    restored = json.loads(path.read_text(encoding="utf-8"))
    assert restored["headers"]["Authorization"] == "Bearer token-1"
    second.headers.update(restored["headers"])
    second.cookies.update(restored["cookies"])
    assert httpie(second, requests.Request("GET", api.url)).ok
    sent = api.requests[-1]
    # The token of then gives way to a good one.
    assert sent.authorization == "Bearer token-2"
    assert (sent.headers["X-Team"], sent.headers["Cookie"]) == ("reports", "seen=yes")
    assert "Cookie" not in tokens.requests[-1].headers
    assert "X-Team" not in tokens.requests[-1].headers


def test_the_auth_of_a_client_on_a_plain_session(client: Client, api: Api) -> None:
    with requests.Session() as session:
        session.auth = BearerTokenAuth(client.ensure_token)
        assert httpie(session, requests.Request("GET", api.url)).ok


# -- OpenTelemetry -----------------------------------------------------------------------------


class Trace:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("tests")

    @property
    def spans(self) -> list[ReadableSpan]:
        """Those of requests, in the order of their beginning."""
        ended = [span for span in self.exporter.get_finished_spans() if span.kind.name == "CLIENT"]
        return sorted(ended, key=lambda span: span.start_time or 0)

    @property
    def calls(self) -> list[tuple[Any, ...]]:
        names = ("http.method", "http.url", "http.status_code")
        return [tuple((span.attributes or {})[name] for name in names) for span in self.spans]


@pytest.fixture
def trace() -> Iterator[Trace]:
    trace = Trace()
    instrumentor = RequestsInstrumentor()
    instrumentor.instrument(tracer_provider=trace.provider)
    yield trace
    instrumentor.uninstrument()
    trace.provider.shutdown()


def test_one_span_for_each_request_the_token_request_included(
    client: Client, tokens: TokenServer, api: Api, trace: Trace
) -> None:
    url = f"{api.url}/"
    with trace.tracer.start_as_current_span("work") as work:
        for _ in range(2):
            assert client.get(url).status_code == 200
    assert trace.calls == [
        ("POST", tokens.endpoint, 200),
        ("GET", url, 200),
        ("GET", url, 200),
    ]
    # None within another, all within what the caller did.
    assert {span.parent and span.parent.span_id for span in trace.spans} == {
        work.get_span_context().span_id
    }
    assert "traceparent" in api.requests[0].headers


def test_the_spans_of_a_refusal_healed(
    client: Client, tokens: TokenServer, api: Api, trace: Trace
) -> None:
    client.renew_token()
    tokens.alive.clear()
    trace.exporter.clear()
    url = f"{api.url}/reports"
    with trace.tracer.start_as_current_span("work") as work:
        assert client.put(url, data=b"x").status_code == 200
    assert trace.calls == [
        ("PUT", url, 401),
        ("POST", tokens.endpoint, 200),
        ("PUT", url, 200),
    ]
    assert {span.parent and span.parent.span_id for span in trace.spans} == {
        work.get_span_context().span_id
    }
    # Each request says which of the spans it is.
    parents = [request.headers["traceparent"].split("-")[2] for request in api.requests]
    contexts = [span.context for span in trace.spans if span.context]
    assert parents == [f"{contexts[0].span_id:016x}", f"{contexts[2].span_id:016x}"]


def test_the_spans_of_a_token_request_that_is_retried(
    make_client: MakeClient, tokens: TokenServer, api: Api, trace: Trace
) -> None:
    retry = requests.packages.urllib3.util.Retry(total=1, status_forcelist=[503])
    tokens.replies = [Reply(503)]
    assert make_client(token_retry=retry).get(api.url).status_code == 200
    assert [call[2] for call in trace.calls] == [503, 200, 200]


def test_no_span_holds_a_token_or_a_secret(
    client: Client, tokens: TokenServer, api: Api, trace: Trace
) -> None:
    client.renew_token()
    tokens.alive.clear()
    assert client.get(api.url).status_code == 200
    written = "".join(span.to_json() for span in trace.exporter.get_finished_spans())
    assert "http.url" in written
    for secret in ("top-secret", "token-1", "token-2"):
        assert secret not in written
