"""What a client learns from its issuer."""

from __future__ import annotations

import copy
import json
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
import trustme
from urllib3.util.retry import Retry

from alf import Client, TokenError
from alf._discovery import parse_metadata
from alf.client_auth import ClientSecretPost, PrivateKeyJWT
from tests.servers import Api, Reply, Request, TokenServer, TurnedClock, hang_up, running
from tests.test_client_auth import EC_KEY

MakeClient = Callable[..., Client]

SECRET = "a secret of at least 64 bytes, as HS512 wants: " + "x" * 32

OAUTH = "/.well-known/oauth-authorization-server/tenant"
OPENID = "/tenant/.well-known/openid-configuration"


class Issuer:
    """A token server that publishes metadata: what, and where, is the test's to say."""

    def __init__(self, tokens: TokenServer) -> None:
        self.tokens = tokens
        self.url = f"{tokens.url}/tenant"
        self.pages: dict[str, Any] = {}
        self.asked: list[str] = []
        tokens.script = self.answer
        self.publish()

    def publish(self, path: str = OAUTH, **members: Any) -> None:
        self.pages = {path: {"issuer": self.url, "token_endpoint": f"{self.url}/token", **members}}

    def answer(self, request: Request) -> Reply:
        if request.method == "POST":
            return self.tokens.grant(request)
        self.asked.append(request.path)
        page = self.pages.get(request.path, Reply(404, b"<html>nothing here</html>"))
        if callable(page):
            page = page(request)
        return page if isinstance(page, Reply) else Reply(body=page)

    @property
    def logins(self) -> list[Request]:
        return [request for request in self.tokens.requests if request.method == "POST"]


@pytest.fixture
def issuer(tokens: TokenServer) -> Issuer:
    return Issuer(tokens)


@pytest.fixture
def discover(make_client: MakeClient, issuer: Issuer) -> MakeClient:
    def make(**options: Any) -> Client:
        given = {"token_endpoint": None, "issuer": issuer.url, "client_secret": SECRET}
        return make_client(**{**given, **options})

    return make


# -- where it is -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [OAUTH, OPENID])
def test_the_issuer_says_where_the_token_endpoint_is(
    discover: MakeClient, issuer: Issuer, api: Api, path: str
) -> None:
    issuer.publish(path)
    assert discover().get(api.url).status_code == 200
    [login] = issuer.logins
    assert login.path == "/tenant/token"
    assert login.pairs == [("grant_type", "client_credentials")]


@pytest.mark.parametrize("suffix", ["", "/"])
def test_an_issuer_without_a_path(discover: MakeClient, issuer: Issuer, suffix: str) -> None:
    issuer.url = issuer.tokens.url + suffix
    issuer.publish("/.well-known/openid-configuration")
    discover().renew_token()
    assert issuer.asked == [
        "/.well-known/oauth-authorization-server",
        "/.well-known/openid-configuration",
    ]


def test_the_issuer_is_asked_when_it_is_first_needed_and_once(
    discover: MakeClient, issuer: Issuer, api: Api
) -> None:
    client = discover()
    assert not issuer.tokens.requests
    client.get(api.url)
    client.renew_token()
    assert issuer.asked == [OAUTH]
    assert len(issuer.logins) == 2


def test_threads_share_what_the_issuer_said(discover: MakeClient, issuer: Issuer, api: Api) -> None:
    client = discover()
    start = threading.Barrier(8)

    def call() -> None:
        start.wait(10)
        client.get(api.url)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(api.requests) == 8
    assert issuer.asked == [OAUTH]
    assert len(issuer.logins) == 1


def test_the_metadata_is_asked_for_without_credentials(
    discover: MakeClient, issuer: Issuer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    discover(token_headers={"X-Key": "s3cr3t"}).renew_token()
    question, login = issuer.tokens.requests
    assert (question.authorization, question.headers["X-Key"]) == (None, None)
    assert question.headers["Accept"] == "application/json"
    assert login.headers["X-Key"] == "s3cr3t"


@pytest.mark.parametrize(
    "travel", [copy.deepcopy, lambda client: pickle.loads(pickle.dumps(client))]
)
def test_a_copy_asks_for_itself(discover: MakeClient, issuer: Issuer, travel: Any) -> None:
    client = discover()
    client.renew_token()
    with travel(client) as clone:
        clone.renew_token()
    assert issuer.asked == [OAUTH, OAUTH]


# -- how the client says who it is -------------------------------------------------------------


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        (None, "client_secret_basic"),
        (7, "client_secret_basic"),
        (["client_secret_post", "client_secret_basic"], "client_secret_basic"),
        (["private_key_jwt", "client_secret_jwt", "client_secret_post"], "client_secret_post"),
        (["private_key_jwt", "client_secret_jwt"], "client_secret_jwt"),
    ],
)
def test_the_way_is_one_that_both_sides_know(
    discover: MakeClient, issuer: Issuer, methods: Any, expected: str
) -> None:
    issuer.publish(token_endpoint_auth_methods_supported=methods)
    discover().renew_token()
    [login] = issuer.logins
    seen = "client_secret_post"
    if login.authorization:
        seen = "client_secret_basic"
    elif "client_assertion" in login.form:
        seen = "client_secret_jwt"
    assert seen == expected


def test_the_way_that_was_asked_for_is_gone_whatever_the_issuer_says(
    discover: MakeClient, issuer: Issuer
) -> None:
    issuer.publish(token_endpoint_auth_methods_supported=["client_secret_basic"])
    discover(client_auth=ClientSecretPost()).renew_token()
    assert issuer.logins[0].form["client_secret"] == SECRET


def test_no_common_way_is_an_error_that_says_so(discover: MakeClient, issuer: Issuer) -> None:
    issuer.publish(token_endpoint_auth_methods_supported=["private_key_jwt", "none"])
    with pytest.raises(TokenError, match=r"takes private_key_jwt, none: none goes with"):
        discover().renew_token()
    assert not issuer.logins


def test_an_assertion_is_for_the_issuer(discover: MakeClient, issuer: Issuer) -> None:
    discover(client_auth=PrivateKeyJWT(key=EC_KEY), client_secret=None).renew_token()
    assertion = issuer.logins[0].form["client_assertion"]
    claims = jwt.decode(assertion, EC_KEY.public_key(), ["ES256"], audience=issuer.url)
    assert claims["aud"] == issuer.url


@pytest.fixture
def mtls(tmp_path: Path) -> Iterator[tuple[Issuer, str, str]]:
    """An issuer with another token endpoint for clients with a certificate."""
    authority = trustme.CA()
    bundle, client = str(tmp_path / "ca.pem"), str(tmp_path / "client.pem")
    authority.cert_pem.write_to_path(bundle)
    authority.issue_cert("client.example.com").private_key_and_cert_chain_pem.write_to_path(client)
    with running(TokenServer()) as server:
        server.use_tls(authority.issue_cert("127.0.0.1"), clients=authority)
        issuer = Issuer(server)
        issuer.publish(
            token_endpoint_auth_methods_supported=["self_signed_tls_client_auth", "none"],
            mtls_endpoint_aliases={"token_endpoint": f"{issuer.url}/mtls"},
        )
        yield issuer, bundle, client


@pytest.mark.parametrize("client_auth", [None, "tls_client_auth"])
def test_a_client_with_a_certificate_has_endpoints_of_its_own(
    make_client: MakeClient, mtls: tuple[Issuer, str, str], client_auth: str | None
) -> None:
    issuer, bundle, cert = mtls
    options: dict[str, Any] = {"token_endpoint": None, "issuer": issuer.url, "client_secret": None}
    client = make_client(**options, token_cert=cert, client_auth=client_auth)
    client.verify = bundle
    client.renew_token()
    [login] = issuer.logins
    assert login.path == "/tenant/mtls"
    assert login.certificate == "client.example.com"
    assert login.form["client_id"] == "client-id"


def test_the_certificate_may_be_the_clients_own(
    make_client: MakeClient, mtls: tuple[Issuer, str, str]
) -> None:
    issuer, bundle, cert = mtls
    client = make_client(
        token_endpoint=None, issuer=issuer.url, client_secret=None, client_auth="none"
    )
    client.verify = bundle
    client.renew_token()
    client.cert = cert
    client.renew_token()
    assert [login.path for login in issuer.logins] == ["/tenant/token", "/tenant/mtls"]
    assert issuer.logins[1].certificate == "client.example.com"


def test_a_client_without_a_certificate_has_not(
    make_client: MakeClient, mtls: tuple[Issuer, str, str]
) -> None:
    issuer, bundle, _ = mtls
    client = make_client(
        token_endpoint=None, issuer=issuer.url, client_secret=None, client_auth="none"
    )
    client.verify = bundle
    client.renew_token()
    assert issuer.logins[0].path == "/tenant/token"


# -- what is no metadata -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (Reply(200, b"<html>a portal</html>", {"Content-Type": "text/html"}), "21 bytes of text/h"),
        (Reply(200, []), "answered 200 with a JSON list"),
        (Reply(401, {"error": "who"}), "answered 401; "),
        (Reply(302, b"", {"Location": "/elsewhere"}), "answered 302; "),
        (
            {"issuer": "https://evil.example.com"},
            "about the issuer 'https://evil.example.com', exp",
        ),
        ({"issuer": None}, "about the issuer None, expected 'http"),
        ({"issuer": "="}, "has the token_endpoint None, expected"),
        ({"issuer": "=", "token_endpoint": 7}, "token_endpoint 7"),
        ({"issuer": "=", "token_endpoint": "/token"}, "token_endpoint '/token'"),
        ({"issuer": "=", "token_endpoint": "http://id.example.com"}, "expected an https URL"),
        ({"issuer": "=", "token_endpoint": "https://[x/"}, "token_endpoint 'https://"),
        ({"issuer": "=", "token_endpoint": " https://id.example.com"}, "expected an https URL"),
        ({"issuer": "=", "token_endpoint": "https://id\n.example.com"}, "expected an https URL"),
        (
            {
                "issuer": "=",
                "token_endpoint": "https://id.example.com/token",
                "revocation_endpoint": "ftp://id.example.com",
            },
            "revocation_endpoint 'ftp://id.example.com'",
        ),
    ],
)
def test_what_is_no_metadata_is_an_error_that_says_why(
    discover: MakeClient, issuer: Issuer, api: Api, page: Any, words: str
) -> None:
    if isinstance(page, dict):
        page = {**page, "issuer": issuer.url if page["issuer"] == "=" else page["issuer"]}
    issuer.pages = {OAUTH: page}
    with pytest.raises(TokenError) as failure:
        discover().get(api.url)
    message = str(failure.value)
    assert f"issuer {issuer.url} (client_id 'client-id') has no metadata" in message
    assert f"{issuer.tokens.url}{OAUTH} " in message
    assert words in message
    assert f"{issuer.tokens.url}{OPENID} answered 404" in message
    assert not issuer.logins
    assert not api.requests


def test_a_failure_is_not_remembered(discover: MakeClient, issuer: Issuer, api: Api) -> None:
    client = discover()
    issuer.pages = {}
    with pytest.raises(TokenError):
        client.get(api.url)
    issuer.publish()
    assert client.get(api.url).status_code == 200


def test_an_issuer_that_is_out_of_order_answers_the_caller(
    discover: MakeClient, issuer: Issuer, api: Api
) -> None:
    issuer.pages = {OAUTH: Reply(503, b"down for maintenance")}
    client = discover()
    response = client.get(api.url)
    assert (response.status_code, response.text) == (503, "down for maintenance")
    assert not issuer.logins


def test_one_place_that_is_out_of_order_is_not_the_last_word(
    discover: MakeClient, issuer: Issuer, api: Api
) -> None:
    issuer.publish(OPENID)
    issuer.pages[OAUTH] = Reply(500)
    assert discover().get(api.url).status_code == 200


def test_the_retries_of_the_token_request_are_for_the_issuer_too(
    discover: MakeClient, issuer: Issuer, api: Api
) -> None:
    troubles = [hang_up, lambda _request: Reply(503)]
    metadata = issuer.pages[OAUTH]
    issuer.pages[OAUTH] = lambda request: (
        troubles.pop(0)(request) if troubles else Reply(body=metadata)
    )
    client = discover(token_retry=Retry(total=2, status_forcelist=[503]))
    assert client.get(api.url).status_code == 200


def test_no_answer_at_all_is_requests_own_error(discover: MakeClient, issuer: Issuer) -> None:
    client = discover()
    issuer.tokens.stop()
    with pytest.raises(requests.exceptions.ConnectionError):
        client.renew_token()


# -- where an issuer may send a client ---------------------------------------------------------


def metadata(issuer: str, **members: Any) -> requests.Response:
    response = requests.Response()
    response.status_code = 200
    response._content = json.dumps({"issuer": issuer, **members}).encode()
    return response


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://id.example.com/token",
        "http://localhost/token",
        "https://localhost/token",
        "https://localhost./token",
        "https://LOCALHOST/token",
        "https://id.localhost/token",
        "https://127.0.0.1/token",
        "https://127.1/token",
        "https://2130706433/token",
        "https://0x7f000001/token",
        "https://0177.0.0.1/token",
        "https://0.0.0.0/token",
        "https://[::1]/token",
        "https://[::]/token",
        "https://[::ffff:127.0.0.1]/token",
        "https://\uff11\uff12\uff17.0.0.1/token",
        "http://evil\\@localhost/",
        "https://evil\\@localhost/",
        "https://user:password@id.example.com/token",
        "https://id.example.com/token#fragment",
    ],
)
@pytest.mark.parametrize("name", ["token_endpoint", "revocation_endpoint", "mtls"])
def test_an_issuer_elsewhere_sends_no_client_to_itself_or_over_plain_http(
    endpoint: str, name: str
) -> None:
    members: dict[str, Any] = {"token_endpoint": "https://id.example.com/token"}
    if name == "mtls":
        members["mtls_endpoint_aliases"] = {"token_endpoint": endpoint}
    else:
        members[name] = endpoint
    issuer = "https://id.example.com"
    with pytest.raises(ValueError, match="expected an https URL of another machine"):
        parse_metadata(metadata(issuer, **members), issuer, has_cert=True)


@pytest.mark.parametrize(
    "endpoint",
    ["https://login.example.net/token", "https://10.0.0.1:8443/token", "https://[2001:db8::1]/t"],
)
def test_an_issuer_may_name_endpoints_of_other_hosts(endpoint: str) -> None:
    issuer = "https://id.example.com"
    found = parse_metadata(metadata(issuer, token_endpoint=endpoint), issuer, has_cert=False)
    assert found.token_endpoint == endpoint


def test_a_redirect_of_the_metadata_is_named(discover: MakeClient, issuer: Issuer) -> None:
    target = "https://user:s3cr3t@new.example.com/tenant?key=s3cr3t"
    issuer.pages = {OAUTH: Reply(301, b"", {"Location": target})}
    with pytest.raises(TokenError) as failure:
        discover().ensure_token()
    assert "redirect to 'https://new.example.com/tenant' is not followed" in str(failure.value)
    assert "s3cr3t" not in str(failure.value)


@pytest.mark.parametrize("is_missing", [True, False])
def test_a_slash_at_the_end_of_the_issuer_that_is_wrong_is_named(
    discover: MakeClient, issuer: Issuer, is_missing: bool
) -> None:
    right = f"{issuer.url}/" if is_missing else issuer.url
    issuer.publish(OAUTH)
    issuer.pages[OAUTH]["issuer"] = right
    with pytest.raises(TokenError, match=f"give issuer='{right}'"):
        discover(issuer=issuer.url if is_missing else f"{issuer.url}/").ensure_token()


@pytest.mark.parametrize(
    ("given", "right"),
    [
        ("https://id.example.com/.well-known/openid-configuration", "https://id.example.com"),
        ("https://id.example.com/a/.well-known/openid-configuration", "https://id.example.com/a"),
        (
            "https://id.example.com/.well-known/oauth-authorization-server/a/b",
            "https://id.example.com/a/b",
        ),
    ],
)
def test_the_url_of_the_metadata_as_issuer_is_explained(
    make_client: MakeClient, given: str, right: str
) -> None:
    with pytest.raises(ValueError, match=f"not the URL of its metadata: try '{right}'"):
        make_client(token_endpoint=None, issuer=given)


# -- when they are read again ------------------------------------------------------------------


@pytest.mark.parametrize("status", [404, 410])
def test_metadata_are_read_again_when_the_endpoint_is_gone(
    discover: MakeClient, issuer: Issuer, status: int
) -> None:
    client = discover()
    client.renew_token()
    issuer.publish(token_endpoint=f"{issuer.url}/new")
    issuer.tokens.replies = [Reply(status)]
    client.renew_token()
    assert [login.path for login in issuer.logins] == [
        "/tenant/token",
        "/tenant/token",
        "/tenant/new",
    ]
    assert issuer.asked == [OAUTH, OAUTH]


def test_a_client_for_another_token_shares_what_is_read_again(
    discover: MakeClient, issuer: Issuer
) -> None:
    client = discover()
    client.renew_token()
    other = client.with_options(scope="write")
    other.renew_token()
    issuer.publish(token_endpoint=f"{issuer.url}/new")
    issuer.tokens.replies = [Reply(404)]
    other.renew_token()
    client.renew_token()
    assert [login.path for login in issuer.logins][2:] == ["/tenant/token", *["/tenant/new"] * 2]
    assert issuer.asked == [OAUTH, OAUTH]


def test_an_endpoint_that_is_gone_and_nothing_new_is_the_callers_error(
    discover: MakeClient, issuer: Issuer, api: Api
) -> None:
    issuer.tokens.replies = [Reply(404), Reply(404)]
    client = discover()
    assert client.get(api.url).status_code == 404
    assert issuer.asked == [OAUTH]  # they had just been read
    issuer.pages = {}
    assert client.get(api.url).status_code == 404
    assert issuer.asked == [OAUTH, OAUTH, OPENID]
    assert client.get(api.url).status_code == 200


@pytest.mark.parametrize("turn", ["turn", "turn_wall"])
def test_metadata_are_read_again_daily(
    discover: MakeClient, issuer: Issuer, clock: TurnedClock, turn: str
) -> None:
    client = discover(clock=clock)
    client.renew_token()
    getattr(clock, turn)(24 * 3600 - 1)
    client.renew_token()
    assert issuer.asked == [OAUTH]
    issuer.publish(token_endpoint=f"{issuer.url}/new")
    getattr(clock, turn)(1)
    client.renew_token()
    client.renew_token()
    assert issuer.asked == [OAUTH, OAUTH]
    assert [login.path for login in issuer.logins][2:] == ["/tenant/new"] * 2


@pytest.mark.parametrize("page", [Reply(503), Reply(404), hang_up, {"issuer": "another"}])
def test_what_is_known_will_do_while_the_issuer_has_trouble(
    discover: MakeClient, issuer: Issuer, clock: TurnedClock, page: Any
) -> None:
    client = discover(clock=clock)
    client.renew_token()
    issuer.pages = {OAUTH: page}
    clock.turn(24 * 3600)
    client.renew_token()
    tries = len(issuer.asked)
    client.renew_token()
    assert len(issuer.asked) == tries > 1
    issuer.publish(token_endpoint=f"{issuer.url}/new")
    clock.turn(3600)
    client.renew_token()
    assert [login.path for login in issuer.logins] == ["/tenant/token"] * 3 + ["/tenant/new"]


# -- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"token_endpoint": "https://id.example.com/token"}, TypeError, "issuer or token_endpoint"),
        ({"issuer": 7}, TypeError, "issuer must be a URL, got int"),
        ({"issuer": "id.example.com"}, ValueError, "issuer must be an https URL"),
        ({"issuer": "https://"}, ValueError, "issuer must be an https URL"),
        ({"issuer": "http://id.example.com"}, ValueError, "issuer must be an https URL"),
        ({"issuer": "https://id.example.com?x"}, ValueError, "issuer must be an https URL"),
        ({"issuer": "https://id.example.com#x"}, ValueError, "issuer must be an https URL"),
        ({"issuer": "https://a:b@id.example.com"}, ValueError, "'https://id.example.com'"),
        ({"issuer": "https://[x/"}, ValueError, "issuer must be an https URL"),
        ({"client_secret": None}, TypeError, "client_secret is missing"),
        ({"client_auth": "none"}, TypeError, "has no use for it"),
        ({"token_params": {"client_id": "x"}}, ValueError, "must not hold client_id"),
        ({"revocation_endpoint": "here"}, ValueError, "revocation_endpoint must be an http"),
    ],
)
def test_bad_input_is_an_error_at_construction(
    discover: MakeClient, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        discover(**options)


def test_the_issuer_may_be_on_loopback(make_client: MakeClient) -> None:
    for host in ("localhost", "127.0.0.1:8080", "[::1]"):
        make_client(token_endpoint=None, issuer=f"http://{host}/tenant")
