"""How a client says who it is, as the token endpoint sees it."""

from __future__ import annotations

import base64
import contextlib
import copy
import logging
import pickle
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_plus

import jwt
import pytest
import requests
import trustme
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from requests.auth import AuthBase, HTTPDigestAuth
from urllib3.exceptions import ProtocolError
from urllib3.util.retry import Retry

from alf import Client, TokenError
from alf.client_auth import (
    ClientSecretBasic,
    ClientSecretJWT,
    ClientSecretPost,
    Credentials,
    PrivateKeyJWT,
)
from tests.servers import Api, Reply, Request, TokenServer, hang_up, running

MakeClient = Callable[..., Client]

#: All that a form encodes, and what a latin-1 header cannot hold.
AWKWARD = "a:b%/+= ü漢~"

INVALID_CLIENT = Reply(401, {"error": "invalid_client"})


def basic(request: Request) -> tuple[str, str]:
    scheme, _, credentials = (request.authorization or "").partition(" ")
    assert scheme == "Basic"
    client_id, _, secret = base64.b64decode(credentials).decode().partition(":")
    return client_id, secret


def decoded(request: Request) -> tuple[str, str]:
    client_id, secret = basic(request)
    return unquote_plus(client_id), unquote_plus(secret)


@pytest.fixture
def endpoint(tokens: TokenServer) -> str:
    """A URL of its own for every test: what a server takes is kept in mind for the process."""
    return f"{tokens.url}/{uuid.uuid4()}"


class Logins:
    """A token server that knows one client and reads Basic in one of the two ways."""

    def __init__(
        self,
        tokens: TokenServer,
        read: Callable[[Request], tuple[str, str]],
        client_id: str = "client-id",
        secret: str = AWKWARD,
        refusal: Reply = INVALID_CLIENT,
    ) -> None:
        self.client_id = client_id
        self.secret = secret
        self.refusal = refusal
        self.read = read
        self.seen: list[tuple[str, str]] = []
        self._tokens = tokens
        tokens.script = self.answer

    def answer(self, request: Request) -> Reply:
        self.seen.append(basic(request))
        if self.read(request) == (self.client_id, self.secret):
            return self._tokens.granted()
        return self.refusal


# -- Basic -------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", ["plain", "a:b%/+=", AWKWARD])
@pytest.mark.parametrize("client_id", ["client-id", "urn:client:id", "ünï"])
def test_basic_is_form_encoded_first(
    make_client: MakeClient, tokens: TokenServer, endpoint: str, client_id: str, secret: str
) -> None:
    logins = Logins(tokens, decoded, client_id, secret)
    make_client(token_endpoint=endpoint, client_id=client_id, client_secret=secret).renew_token()
    assert len(logins.seen) == 1


def test_a_server_that_decodes_percent_signs_only_understands_a_blank(
    make_client: MakeClient, tokens: TokenServer, endpoint: str
) -> None:
    def percent_decoded(request: Request) -> tuple[str, str]:
        client_id, secret = basic(request)
        return unquote(client_id), unquote(secret)

    Logins(tokens, percent_decoded, secret="a%41 +")
    client = make_client(token_endpoint=endpoint, client_secret="a%41 +")
    assert client.ensure_token().access_token == "token-1"


@pytest.mark.parametrize(
    "refusal",
    [
        INVALID_CLIENT,
        Reply(401, b"who?"),
        Reply(403),
        Reply(403, {"error": "access_denied"}),
        Reply(403, b"<html>Forbidden</html>", {"Content-Type": "text/html"}),
        Reply(400, {"error": "invalid_client"}),
        Reply(400, {"error": "unauthorized_client"}),
        Reply(400, {"error": "invalid_grant"}),
        Reply(400, {"error": "invalid_request"}),
        Reply(400, {"message": "who are you?"}),
        Reply(400, b"<html>Bad request</html>", {"Content-Type": "text/html"}),
        Reply(400),
        Reply(200, {"error": "invalid_client"}),
        Reply(404, {"error": "invalid_client"}),
    ],
)
def test_a_server_that_does_not_decode_is_asked_in_its_own_way(
    make_client: MakeClient, tokens: TokenServer, endpoint: str, refusal: Reply
) -> None:
    logins = Logins(tokens, basic, refusal=refusal)
    client = make_client(token_endpoint=endpoint, client_secret=AWKWARD)
    assert client.ensure_token().access_token == "token-1"
    assert len(logins.seen) == 2


def test_the_form_that_worked_is_remembered_for_the_endpoint_and_the_client(
    make_client: MakeClient, tokens: TokenServer, endpoint: str
) -> None:
    logins = Logins(tokens, basic)
    auth = ClientSecretBasic()

    def renew(client_id: str, url: str) -> list[bool]:
        logins.client_id, seen = client_id, len(logins.seen)
        client = make_client(
            token_endpoint=url, client_id=client_id, client_secret=AWKWARD, client_auth=auth
        )
        client.renew_token()
        return [secret == AWKWARD for _, secret in logins.seen[seen:]]

    assert renew("client-id", endpoint) == [False, True]
    assert renew("client-id", endpoint) == [True]
    assert renew("other-id", endpoint) == [False, True]
    assert renew("client-id", f"{endpoint}/other") == [False, True]


def test_a_client_learns_nothing_from_another_one(
    make_client: MakeClient, tokens: TokenServer, endpoint: str
) -> None:
    """What one Client has learnt may be true of its own registration only."""
    logins = Logins(tokens, basic)
    for _ in range(2):
        make_client(token_endpoint=endpoint, client_secret=AWKWARD).renew_token()
    assert [secret == AWKWARD for _, secret in logins.seen] == [False, True, False, True]


def test_a_bounded_number_of_endpoints_is_remembered(
    make_client: MakeClient, tokens: TokenServer, endpoint: str
) -> None:
    Logins(tokens, basic)
    auth = ClientSecretBasic()
    credentials = Credentials("client-id", AWKWARD)
    granted, refused = requests.Response(), requests.Response()
    granted.status_code, refused.status_code = 200, 401
    for status in (granted, refused):
        status._content = b"{}"

    def try_both_forms(url: str) -> None:
        flow = auth.flow(credentials, url, 0.0)
        next(flow)
        with contextlib.suppress(StopIteration):
            flow.send(refused)
            flow.send(granted)

    for number in range(1001):
        try_both_forms(f"https://{number}.test/")
    logins = Logins(tokens, basic)
    make_client(token_endpoint=endpoint, client_secret=AWKWARD, client_auth=auth).renew_token()
    assert len(pickle.dumps(auth)) < 10_000
    assert len(logins.seen) == 2


def test_a_server_known_to_decode_is_not_tried_with_the_raw_form(
    make_client: MakeClient, tokens: TokenServer, endpoint: str
) -> None:
    logins = Logins(tokens, decoded)
    client = make_client(token_endpoint=endpoint, client_secret=AWKWARD)
    client.renew_token()
    logins.secret = "another by now"
    with pytest.raises(TokenError):
        client.renew_token()
    forms = [secret == AWKWARD for _, secret in logins.seen]
    assert forms == [False, False, True], "one probe, and no more"
    with pytest.raises(TokenError):
        client.renew_token()
    assert len(logins.seen) == 4


def test_a_server_that_learnt_to_decode_is_asked_by_the_book_again(
    make_client: MakeClient, tokens: TokenServer, endpoint: str
) -> None:
    logins = Logins(tokens, basic)
    client = make_client(token_endpoint=endpoint, client_secret=AWKWARD)
    client.renew_token()
    logins.read = decoded
    # What oidc-provider says of a percent sign that encodes nothing.
    logins.refusal = Reply(400, {"error": "invalid_request"})
    client.renew_token()
    client.renew_token()
    assert [secret == AWKWARD for _, secret in logins.seen[1:]] == [True, True, False, False]


def test_a_wrong_secret_costs_one_probe_and_not_one_a_request(
    make_client: MakeClient, tokens: TokenServer, endpoint: str, clock: Any
) -> None:
    logins = Logins(tokens, decoded)
    client = make_client(token_endpoint=endpoint, client_secret="wr%ng", clock=clock)
    for _ in range(2):
        with pytest.raises(TokenError):
            client.renew_token()
    assert [secret for _, secret in logins.seen] == ["wr%25ng", "wr%ng", "wr%25ng"]


def test_after_a_while_the_raw_form_is_tried_again(
    make_client: MakeClient, tokens: TokenServer, endpoint: str, clock: Any
) -> None:
    logins = Logins(tokens, basic)
    logins.secret = "not%yet"
    client = make_client(token_endpoint=endpoint, client_secret=AWKWARD, clock=clock)
    with pytest.raises(TokenError):
        client.renew_token()
    logins.secret = AWKWARD
    clock.turn(301)
    assert client.renew_token().access_token == "token-1"


def test_the_answer_to_a_fruitless_probe_is_the_one_to_the_books_form(
    make_client: MakeClient, tokens: TokenServer, endpoint: str, api: Api
) -> None:
    tokens.replies = [INVALID_CLIENT, Reply(400, {"error": "invalid_request"})]
    client = make_client(token_endpoint=endpoint, client_secret=AWKWARD)
    assert client.get(api.url).json() == {"error": "invalid_client"}


def test_an_outage_during_the_probe_leaves_the_question_open(
    make_client: MakeClient, tokens: TokenServer, endpoint: str, api: Api
) -> None:
    logins = Logins(tokens, basic)
    answer = logins.answer
    outages = [Reply(503)]

    def flaky(request: Request) -> Reply:
        reply = answer(request)
        return outages.pop() if reply.status == 200 and outages else reply

    tokens.script = flaky
    client = make_client(token_endpoint=endpoint, client_secret=AWKWARD)
    assert client.get(api.url).status_code == 503
    assert client.get(api.url).status_code == 200


@pytest.mark.parametrize(
    "reply",
    [
        Reply(400, {"error": "invalid_scope"}),
        Reply(400, {"error": "unsupported_grant_type"}),
        Reply(404),
        Reply(429),
        Reply(500, {"error": "invalid_request"}),
        Reply(503),
    ],
)
def test_other_errors_start_no_probe(
    make_client: MakeClient, tokens: TokenServer, endpoint: str, api: Api, reply: Reply
) -> None:
    tokens.script = lambda _request: reply
    client = make_client(token_endpoint=endpoint, client_secret=AWKWARD)
    assert client.get(api.url).status_code == reply.status
    assert len(tokens.requests) == 1


@pytest.mark.parametrize(
    ("client_id", "secret"), [("client-id", "top-secret"), ("urn:id", "top-secret")]
)
def test_there_is_no_probe_where_there_is_no_second_form(
    make_client: MakeClient, tokens: TokenServer, api: Api, client_id: str, secret: str
) -> None:
    tokens.script = lambda _request: INVALID_CLIENT
    client = make_client(client_id=client_id, client_secret=secret)
    assert client.get(api.url).status_code == 401
    assert len(tokens.requests) == 1


def test_an_id_with_a_colon_is_encoded_even_where_others_are_not(
    make_client: MakeClient, tokens: TokenServer, endpoint: str
) -> None:
    Logins(tokens, basic)
    make_client(token_endpoint=endpoint, client_secret=AWKWARD).renew_token()
    logins = Logins(tokens, decoded, client_id="urn:id")
    make_client(token_endpoint=endpoint, client_id="urn:id", client_secret=AWKWARD).renew_token()
    assert logins.seen[0][0] == "urn%3Aid"


# -- the other methods -------------------------------------------------------------------------


def test_client_secret_post_is_in_the_form_alone(
    make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    client = make_client(client_auth="client_secret_post", client_secret=AWKWARD)
    assert client.get(api.url).status_code == 200
    [request] = tokens.requests
    assert request.authorization is None
    assert request.pairs == [
        ("grant_type", "client_credentials"),
        ("client_id", "client-id"),
        ("client_secret", AWKWARD),
    ]
    assert request.headers["Content-Length"] == str(len(request.body))


def test_a_public_client_sends_its_id_alone(
    make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    assert make_client(client_auth="none", client_secret=None).get(api.url).status_code == 200
    [request] = tokens.requests
    assert request.authorization is None
    assert request.pairs == [("grant_type", "client_credentials"), ("client_id", "client-id")]


def test_an_object_does_as_its_name(make_client: MakeClient, tokens: TokenServer, api: Api) -> None:
    make_client(client_auth=ClientSecretPost()).get(api.url)
    assert ("client_secret", "top-secret") in tokens.requests[0].pairs


class KeyHeader(AuthBase):
    def __init__(self, key: str) -> None:
        self.key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["X-Api-Key"] = self.key
        return request


def key_header(request: requests.PreparedRequest) -> requests.PreparedRequest:
    request.headers["X-Api-Key"] = "s3cr3t"
    return request


@pytest.mark.parametrize("client_auth", [KeyHeader("s3cr3t"), key_header])
def test_any_auth_of_requests_will_do(
    make_client: MakeClient, tokens: TokenServer, api: Api, client_auth: Any
) -> None:
    client = make_client(client_auth=client_auth, client_secret=None)
    assert client.get(api.url).status_code == 200
    [request] = tokens.requests
    assert request.headers["X-Api-Key"] == "s3cr3t"
    assert request.authorization is None
    assert request.pairs == [("grant_type", "client_credentials")]


def test_a_pair_goes_out_as_it_is(
    make_client: MakeClient, tokens: TokenServer, endpoint: str
) -> None:
    logins = Logins(tokens, basic, client_id="other-id")
    client = make_client(
        token_endpoint=endpoint, client_auth=("other-id", AWKWARD), client_secret=None
    )
    client.renew_token()
    assert logins.seen == [("other-id", AWKWARD)]


def test_digest_is_a_way_too(make_client: MakeClient, tokens: TokenServer) -> None:
    challenge = {"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth"'}
    tokens.replies = [Reply(401, b"", challenge)]
    digest = HTTPDigestAuth("user", "pass")
    make_client(client_auth=digest, client_secret=None).renew_token()
    assert [(request.authorization or "")[:16] for request in tokens.requests] == [
        "",
        "Digest username=",
    ]
    assert tokens.requests[1].pairs == [("grant_type", "client_credentials")]


@pytest.mark.parametrize(
    "client_auth", ["client_secret_post", "none", KeyHeader("s3cr3t"), ("id", "secret")]
)
def test_netrc_adds_no_second_method(
    make_client: MakeClient,
    tokens: TokenServer,
    client_auth: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    secret = "top-secret" if client_auth == "client_secret_post" else None
    make_client(client_auth=client_auth, client_secret=secret).renew_token()
    expected = "Basic aWQ6c2VjcmV0" if isinstance(client_auth, tuple) else None
    assert tokens.requests[0].authorization == expected


# -- assertions --------------------------------------------------------------------------------

SECRET = "a secret of at least 64 bytes, as HS512 wants: " + "x" * 32
EC_KEY = ec.generate_private_key(ec.SECP256R1())
PKCS8 = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def assertion(request: Request, key: Any, algorithm: str) -> dict[str, Any]:
    """The claims of the assertion in the form, its signature checked."""
    assert request.authorization is None
    names = [name for name, _ in request.pairs]
    assert names == ["grant_type", "client_id", "client_assertion_type", "client_assertion"]
    assert request.form["client_id"] == "client-id"
    kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    assert request.form["client_assertion_type"] == kind
    options: Any = {"verify_aud": False}
    token = request.form["client_assertion"]
    return jwt.decode(token, key, [algorithm], options=options)


def header(request: Request) -> dict[str, Any]:
    return jwt.get_unverified_header(request.form["client_assertion"])


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_client_secret_jwt(make_client: MakeClient, tokens: TokenServer, algorithm: str) -> None:
    way = "client_secret_jwt" if algorithm == "HS256" else ClientSecretJWT(algorithm=algorithm)
    make_client(client_auth=way, client_secret=SECRET).renew_token()
    claims = assertion(tokens.requests[0], SECRET, algorithm)
    assert (claims["iss"], claims["sub"]) == ("client-id", "client-id")
    assert claims["aud"] == tokens.endpoint
    assert claims["exp"] - claims["iat"] == 60


def test_a_secret_that_is_too_short_to_sign_with_is_warned_of_once(
    make_client: MakeClient, tokens: TokenServer, caplog: pytest.LogCaptureFixture
) -> None:
    for algorithm, least in (("HS256", 32), ("HS384", 48), ("HS512", 64)):
        for length in (least, least - 1):
            caplog.clear()
            auth = ClientSecretJWT(algorithm=algorithm)
            client = make_client(client_secret="s" * length, client_auth=auth)
            client.renew_token()
            client.renew_token()
            warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
            assert len(warnings) == (length < least)
            assert all(f"shorter than the {least} bytes" in text for text in warnings)


def test_private_key_jwt(make_client: MakeClient, tokens: TokenServer) -> None:
    before = int(time.time())
    way = PrivateKeyJWT(key=EC_KEY, key_id="key-1")
    make_client(client_auth=way, client_secret=None).renew_token()
    [request] = tokens.requests
    claims = assertion(request, EC_KEY.public_key(), "ES256")
    assert claims.keys() == {"iss", "sub", "aud", "jti", "iat", "exp"}
    assert (claims["iss"], claims["sub"]) == ("client-id", "client-id")
    assert claims["aud"] == tokens.endpoint
    assert before <= claims["iat"] <= time.time()
    assert claims["exp"] == claims["iat"] + 60
    assert header(request) == {"alg": "ES256", "kid": "key-1", "typ": "JWT"}
    assert request.headers["Content-Length"] == str(len(request.body))


def test_what_an_assertion_says_can_be_set(make_client: MakeClient, tokens: TokenServer) -> None:
    way = PrivateKeyJWT(
        key=EC_KEY,
        audience=["https://id.example.com", "https://other.example.com"],
        lifetime=300,
        headers={"x5t": "abc", "typ": "client-authentication+jwt"},
    )
    make_client(client_auth=way, client_secret=None).renew_token()
    [request] = tokens.requests
    claims = assertion(request, EC_KEY.public_key(), "ES256")
    assert claims["aud"] == ["https://id.example.com", "https://other.example.com"]
    assert claims["exp"] == claims["iat"] + 300
    assert header(request) == {"alg": "ES256", "typ": "client-authentication+jwt", "x5t": "abc"}


@pytest.mark.parametrize(
    ("options", "place", "audience", "typ"),
    [
        ({}, "issuer", "issuer", "client-authentication+jwt"),
        ({}, "token_endpoint", "token_endpoint", "JWT"),
        (
            {"issuer": "https://id.example.com/"},
            "token_endpoint",
            "https://id.example.com/",
            "client-authentication+jwt",
        ),
        ({"typ": "JWT"}, "issuer", "issuer", "JWT"),
        ({"audience": "the-audience"}, "issuer", "the-audience", "client-authentication+jwt"),
        ({"typ": "special+jwt"}, "token_endpoint", "token_endpoint", "special+jwt"),
        ({"audience": "the-audience"}, "token_endpoint", "the-audience", "JWT"),
    ],
)
@pytest.mark.parametrize("way", [PrivateKeyJWT, ClientSecretJWT])
def test_an_assertion_is_for_the_issuer_if_it_is_known(
    make_client: MakeClient,
    tokens: TokenServer,
    way: Any,
    options: dict[str, str],
    place: str,
    audience: str,
    typ: str,
) -> None:
    """RFC 10070; otherwise for the token endpoint, as RFC 7523 §3 allows."""
    places = {"issuer": tokens.url, "token_endpoint": tokens.endpoint}
    metadata = Reply(body={"issuer": tokens.url, "token_endpoint": tokens.endpoint})
    tokens.script = lambda request: metadata if request.method == "GET" else tokens.grant(request)
    if way is PrivateKeyJWT:
        key, secret = EC_KEY.public_key(), None
        client_auth = way(key=EC_KEY, **options)
    else:
        key = secret = SECRET
        client_auth = way(**options)
    make_client(
        **{"token_endpoint": None, place: places[place]},
        client_auth=client_auth,
        client_secret=secret,
    ).renew_token()
    request = tokens.requests[-1]
    claims = assertion(request, key, header(request)["alg"])
    assert claims["aud"] == places.get(audience, audience)
    assert header(request)["typ"] == typ


def test_the_audience_of_an_assertion_is_the_endpoint_without_userinfo_and_query(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    url = tokens.endpoint.replace("://", "://user:pass@") + "?api-version=1"
    make_client(
        token_endpoint=url, client_auth=PrivateKeyJWT(key=EC_KEY), client_secret=None
    ).renew_token()
    claims = assertion(tokens.requests[0], EC_KEY.public_key(), "ES256")
    assert claims["aud"] == tokens.endpoint


def test_an_assertion_may_have_other_claims(make_client: MakeClient, tokens: TokenServer) -> None:
    claims = {"tenant": "7", "roles": ["a"]}
    for way, secret, key in (
        (PrivateKeyJWT(key=EC_KEY, claims=claims), None, EC_KEY.public_key()),
        (ClientSecretJWT(claims=claims), SECRET, SECRET),
    ):
        make_client(client_auth=way, client_secret=secret).renew_token()
        request = tokens.requests[-1]
        said = assertion(request, key, header(request)["alg"])
        assert (said["tenant"], said["roles"], said["sub"]) == ("7", ["a"], "client-id")


def test_no_assertion_is_sent_twice(make_client: MakeClient, tokens: TokenServer) -> None:
    way = PrivateKeyJWT(key=EC_KEY)
    retry = Retry(total=5, status_forcelist=[503])
    client = make_client(client_auth=way, client_secret=None, token_retry=retry)
    client.renew_token()
    # The first is the end of a connection that was kept alive, the second of a new one.
    tokens.replies = [hang_up, hang_up, Reply(503)]
    client.renew_token()
    assert len(tokens.requests) == 5
    ids = {assertion(request, EC_KEY.public_key(), "ES256")["jti"] for request in tokens.requests}
    assert len(ids) == 5


def test_a_rotated_secret_signs_a_new_assertion(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    tokens.replies = [INVALID_CLIENT]
    secrets = iter([SECRET, SECRET[::-1]])
    client = make_client(client_auth="client_secret_jwt", client_secret=lambda: next(secrets))
    client.renew_token()
    first, second = tokens.requests
    assert (
        assertion(first, SECRET, "HS256")["jti"] != assertion(second, SECRET[::-1], "HS256")["jti"]
    )


def test_what_a_callable_that_signs_raises_reaches_the_caller(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    def kms(signing_input: bytes) -> bytes:
        raise PermissionError

    way = PrivateKeyJWT(key=kms, algorithm="RS256")
    with pytest.raises(PermissionError):
        make_client(client_auth=way, client_secret=None).renew_token()
    assert not tokens.requests


@pytest.mark.parametrize(
    "travel", [copy.deepcopy, lambda client: pickle.loads(pickle.dumps(client))]
)
def test_a_key_travels_with_the_client(
    make_client: MakeClient, tokens: TokenServer, travel: Any
) -> None:
    way = PrivateKeyJWT(key=EC_KEY, key_id="key-1")
    with travel(make_client(client_auth=way, client_secret=None)) as client:
        client.renew_token()
    assertion(tokens.requests[0], EC_KEY.public_key(), "ES256")
    assert header(tokens.requests[0])["kid"] == "key-1"


def test_one_object_serves_several_clients(make_client: MakeClient, tokens: TokenServer) -> None:
    way = PrivateKeyJWT(key=EC_KEY)
    for client_id in ("one", "two"):
        make_client(client_auth=way, client_secret=None, client_id=client_id).renew_token()
    claims = [
        jwt.decode(request.form["client_assertion"], options={"verify_signature": False})
        for request in tokens.requests
    ]
    assert [claim["sub"] for claim in claims] == ["one", "two"]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: PrivateKeyJWT(key=EC_KEY, key_id=7), TypeError, "key_id must be a str"),
        (lambda: PrivateKeyJWT(key=EC_KEY, audience=7), TypeError, "audience must be a str"),
        (lambda: PrivateKeyJWT(key=EC_KEY, audience=[b"x"]), TypeError, "audience must be a str"),
        (lambda: PrivateKeyJWT(key=EC_KEY, lifetime="60"), TypeError, "lifetime must be seconds"),
        (lambda: PrivateKeyJWT(key=EC_KEY, lifetime=True), TypeError, "lifetime must be seconds"),
        (lambda: PrivateKeyJWT(key=EC_KEY, lifetime=0), ValueError, "lifetime must be at least"),
        (lambda: PrivateKeyJWT(key=EC_KEY, headers=[]), TypeError, "headers must be a mapping"),
        (lambda: PrivateKeyJWT(key=EC_KEY, headers={"x": b""}), TypeError, "JSON"),
        (lambda: PrivateKeyJWT(key=EC_KEY, headers={"alg": "x"}), ValueError, "not hold alg"),
        (
            lambda: PrivateKeyJWT(key=EC_KEY, key_id="a", headers={"kid": "b"}),
            ValueError,
            "not hold kid",
        ),
        (
            lambda: PrivateKeyJWT(key=EC_KEY, typ="a", headers={"typ": "b"}),
            ValueError,
            "not hold typ: typ= sets it",
        ),
        (lambda: PrivateKeyJWT(key=EC_KEY, typ=7), TypeError, "typ must be a str"),
        (lambda: PrivateKeyJWT(key=EC_KEY, issuer="id"), ValueError, "issuer must be an https URL"),
        (lambda: ClientSecretJWT(issuer=7), TypeError, "issuer must be a URL"),
        (lambda: PrivateKeyJWT(key=EC_KEY, claims=[]), TypeError, "claims must be a mapping"),
        (lambda: PrivateKeyJWT(key=EC_KEY, claims={"x": b""}), TypeError, "JSON"),
        *(
            (
                lambda name=name: ClientSecretJWT(claims={name: "x"}),
                ValueError,
                f"claims must not hold {name}: {what} sets it",
            )
            for name, what in (
                ("iss", "alf"),
                ("sub", "alf"),
                ("aud", "audience="),
                ("jti", "alf"),
                ("iat", "alf"),
                ("exp", "lifetime="),
            )
        ),
        (lambda: ClientSecretJWT(algorithm="RS256"), ValueError, "one of HS256, HS384, HS512"),
    ],
)
def test_bad_input_for_an_assertion_is_an_error_at_construction(
    make: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(
    ("missing", "make"),
    [
        ("jwt", ClientSecretJWT),
        ("jwt", lambda: PrivateKeyJWT(key=EC_KEY)),
        ("cryptography", lambda: PrivateKeyJWT(key=EC_KEY.private_bytes(*PKCS8))),
    ],
)
def test_without_the_extra_an_error_names_it(
    missing: str, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'alf\[jwt\]'"):
        make()


def test_importing_alf_imports_no_extra() -> None:
    code = "import sys; sys.modules['cryptography'] = sys.modules['jwt'] = None; import alf"
    subprocess.run([sys.executable, "-c", code], check=True)


# -- certificates ------------------------------------------------------------------------------


@dataclass
class Certificates:
    """A token server that lets clients show certificates, and one such certificate."""

    tokens: TokenServer
    bundle: str
    client: str


@pytest.fixture
def certificates(tmp_path: Path) -> Iterator[Certificates]:
    authority = trustme.CA()
    bundle, client = str(tmp_path / "ca.pem"), str(tmp_path / "client.pem")
    authority.cert_pem.write_to_path(bundle)
    authority.issue_cert("client.example.com").private_key_and_cert_chain_pem.write_to_path(client)
    with running(TokenServer()) as server:
        server.use_tls(authority.issue_cert("127.0.0.1"), clients=authority)
        yield Certificates(server, bundle, client)


@pytest.mark.parametrize("place", ["token_cert", "pair", "path", "cert"])
def test_tls_client_auth(make_client: MakeClient, certificates: Certificates, place: str) -> None:
    cert: Any = {
        "token_cert": certificates.client,
        "pair": (certificates.client, certificates.client),
        "path": Path(certificates.client),
        "cert": None,
    }[place]
    client = make_client(
        token_endpoint=certificates.tokens.endpoint,
        client_auth="tls_client_auth",
        client_secret=None,
        token_cert=cert,
    )
    client.verify = certificates.bundle
    if place == "cert":
        client.cert = certificates.client
    client.renew_token()
    [request] = certificates.tokens.requests
    assert request.certificate == "client.example.com"
    assert request.authorization is None
    assert request.pairs == [("grant_type", "client_credentials"), ("client_id", "client-id")]


def test_the_certificate_of_the_token_request_is_for_that_alone(
    make_client: MakeClient, certificates: Certificates
) -> None:
    client = make_client(
        token_endpoint=certificates.tokens.endpoint, token_cert=certificates.client
    )
    client.verify = certificates.bundle
    client.get(f"{certificates.tokens.url}/api")
    assert [request.certificate for request in certificates.tokens.requests] == [
        "client.example.com",
        None,
    ]


def test_a_stored_token_is_for_the_certificate_that_it_was_asked_for_with(
    make_client: MakeClient, tokens: TokenServer, tmp_path: Path
) -> None:
    authority = trustme.CA()
    first, again, second, junk = (tmp_path / name for name in ("1.pem", "1b.pem", "2.pem", "junk"))
    authority.issue_cert("1.example.com").private_key_and_cert_chain_pem.write_to_path(str(first))
    again.write_bytes(first.read_bytes())
    authority.issue_cert("2.example.com").private_key_and_cert_chain_pem.write_to_path(str(second))
    junk.write_text("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----")
    storage: dict[str, Any] = {}
    seen = [
        make_client(token_storage=storage, token_cert=cert).ensure_token().access_token
        for cert in (first, (again, again), second, junk, junk, None)
    ]
    assert seen == [f"token-{number}" for number in (1, 1, 2, 3, 3, 4)]
    nowhere = make_client(token_storage=storage, token_cert=tmp_path / "nowhere")
    with pytest.raises(OSError, match="nowhere"):
        nowhere.renew_token()


def test_a_session_that_was_handed_in_may_know_the_certificate(
    make_client: MakeClient, certificates: Certificates
) -> None:
    with requests.Session() as session:
        session.verify, session.cert = certificates.bundle, certificates.client
        make_client(
            token_endpoint=certificates.tokens.endpoint,
            client_auth="tls_client_auth",
            client_secret=None,
            token_session=session,
        ).renew_token()
    assert certificates.tokens.requests[0].certificate == "client.example.com"


def test_tls_client_auth_without_a_certificate_is_told_so(
    make_client: MakeClient, certificates: Certificates
) -> None:
    client = make_client(
        token_endpoint=certificates.tokens.endpoint,
        client_auth="tls_client_auth",
        client_secret=None,
    )
    with pytest.raises(TokenError, match=r"needs a client certificate .* give token_cert"):
        client.renew_token()


# -- secrets that change -----------------------------------------------------------------------


def test_a_callable_is_asked_for_the_secret_at_each_token_request(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    secrets = iter(["first", "second"])
    client = make_client(client_secret=lambda: next(secrets))
    client.renew_token()
    client.renew_token()
    assert [basic(request)[1] for request in tokens.requests] == ["first", "second"]


@pytest.mark.parametrize("client_auth", ["client_secret_basic", "client_secret_post"])
def test_a_secret_that_was_just_rotated_is_asked_for_once_more(
    make_client: MakeClient, tokens: TokenServer, api: Api, client_auth: str
) -> None:
    secrets = iter(["old", "new"])
    tokens.replies = [INVALID_CLIENT]
    client = make_client(client_auth=client_auth, client_secret=lambda: next(secrets))
    assert client.get(api.url).status_code == 200
    sent = [
        basic(request)[1] if request.authorization else request.form["client_secret"]
        for request in tokens.requests
    ]
    assert sent == ["old", "new"]


def test_a_secret_that_did_not_change_is_not_sent_again(
    make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    tokens.script = lambda _request: INVALID_CLIENT
    client = make_client(client_secret=lambda: "the-same")
    assert client.get(api.url).status_code == 401
    assert len(tokens.requests) == 1


def test_a_rotated_secret_finds_its_form_too(
    make_client: MakeClient, tokens: TokenServer, endpoint: str
) -> None:
    secrets = iter(["o%d", AWKWARD])
    logins = Logins(tokens, basic)
    make_client(token_endpoint=endpoint, client_secret=lambda: next(secrets)).renew_token()
    assert [secret == AWKWARD for _, secret in logins.seen] == [False, False, True]


def test_what_the_callable_raises_reaches_the_caller(
    make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    error = requests.exceptions.ConnectionError("the vault is sealed", request="the vault's")

    def sealed() -> str:
        raise error

    client = make_client(client_secret=sealed)
    with pytest.raises(requests.exceptions.ConnectionError, match="the vault is sealed") as failure:
        client.get(api.url)
    assert failure.value is error
    assert failure.value.request == "the vault's"
    assert not tokens.requests
    assert not api.requests


def test_what_signs_may_fail_like_a_network(make_client: MakeClient, tokens: TokenServer) -> None:
    error = requests.exceptions.ConnectionError(
        ProtocolError("the vault hung up"), request="the vault's"
    )
    calls: list[None] = []

    def sign(request: requests.PreparedRequest) -> requests.PreparedRequest:
        calls.append(None)
        if len(calls) > 1:
            raise error
        return request

    client = make_client(client_auth=sign, client_secret=None)
    client.renew_token()
    # By now there is a connection that was kept alive, and this is not its end.
    with pytest.raises(requests.exceptions.ConnectionError, match="the vault hung up") as failure:
        client.renew_token()
    assert failure.value is error
    assert failure.value.request == "the vault's"
    assert len(calls) == 2


def test_a_callable_that_raises_is_called_for_each_caller(
    make_client: MakeClient, clock: Any
) -> None:
    calls: list[None] = []

    def sealed() -> str:
        calls.append(None)
        raise KeyError

    client = make_client(client_secret=sealed, clock=clock)
    for _ in range(5):
        with pytest.raises(KeyError):
            client.renew_token()
    assert len(calls) == 5, "its exception is not remembered, and raised again to others"


@pytest.mark.parametrize("secret", [None, b"bytes", ""])
def test_a_callable_that_gives_no_secret_is_told_so(make_client: MakeClient, secret: Any) -> None:
    client = make_client(client_secret=lambda: secret)
    with pytest.raises(TypeError, match="client_secret of client_id 'client-id'"):
        client.renew_token()


# -- wrong combinations ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"client_secret": None}, TypeError, "client_secret is missing"),
        (
            {"client_secret": None, "client_auth": "client_secret_post"},
            TypeError,
            "client_secret is missing",
        ),
        ({"client_secret": ""}, ValueError, "client_secret must not be empty"),
        ({"client_secret": b"bytes"}, TypeError, "client_secret must be a str, got bytes"),
        ({"client_auth": "none"}, TypeError, "no use for it"),
        ({"client_auth": key_header}, TypeError, "no use for it"),
        ({"client_auth": "client_secret_bsaic"}, ValueError, "one of client_secret_basic, "),
        ({"client_auth": ClientSecretPost}, TypeError, "got <class"),
        ({"client_auth": "private_key_jwt"}, TypeError, r"needs a key: .*PrivateKeyJWT\(key"),
        ({"client_auth": PrivateKeyJWT(key=EC_KEY)}, TypeError, "no use for it"),
        (
            {"client_auth": "tls_client_auth", "client_secret": None},
            ValueError,
            "'tls_client_auth' needs https, not token endpoint http:",
        ),
        ({"client_auth": 7}, TypeError, "got int"),
        ({"client_auth": ("only-one",)}, TypeError, "got tuple"),
        ({"client_auth": ("id", b"bytes")}, TypeError, "got tuple"),
    ],
)
def test_a_wrong_combination_is_an_error_at_construction(
    make_client: MakeClient, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        make_client(**options)


# -- nothing shows a secret, and everything travels --------------------------------------------


@pytest.mark.parametrize("client_auth", ["client_secret_post", ClientSecretPost()])
@pytest.mark.parametrize(
    "travel", [copy.deepcopy, lambda client: pickle.loads(pickle.dumps(client))]
)
def test_the_way_travels_with_the_client(
    make_client: MakeClient, tokens: TokenServer, api: Api, client_auth: Any, travel: Any
) -> None:
    with travel(make_client(client_auth=client_auth, scope=["a", "b"])) as client:
        assert client.get(api.url).status_code == 200
    assert tokens.requests[0].form["client_secret"] == "top-secret"
    assert tokens.requests[0].form["scope"] == "a b"


def the_secret() -> str:
    return "from-the-vault"


def test_a_callable_travels_with_the_client(make_client: MakeClient, tokens: TokenServer) -> None:
    client = make_client(client_secret=the_secret)
    for clone in (copy.deepcopy(client), pickle.loads(pickle.dumps(client))):
        with clone:
            clone.renew_token()
    assert [basic(request)[1] for request in tokens.requests] == ["from-the-vault"] * 2


def test_a_copy_of_a_key_shares_what_signs(make_client: MakeClient, tokens: TokenServer) -> None:
    class Vault:
        def __init__(self) -> None:
            self.lock = threading.Lock()  # cannot be copied

        def sign(self, signing_input: bytes) -> bytes:
            with self.lock:
                signature: bytes = jwt.get_algorithm_by_name("ES256").sign(signing_input, EC_KEY)
                return signature

    key = PrivateKeyJWT(key=Vault().sign, algorithm="ES256")
    make_client(client_auth=copy.deepcopy(key), client_secret=None).renew_token()
    assert assertion(tokens.requests[0], EC_KEY.public_key(), "ES256")["sub"] == "client-id"


def test_a_copy_shares_what_cannot_be_copied(make_client: MakeClient, tokens: TokenServer) -> None:
    class Vault:
        def __deepcopy__(self, memo: Any) -> Vault:
            raise NotImplementedError

        def secret(self) -> str:
            return "from-the-vault"

    with copy.deepcopy(make_client(client_secret=Vault().secret)) as clone:
        clone.renew_token()
    assert basic(tokens.requests[0])[1] == "from-the-vault"
