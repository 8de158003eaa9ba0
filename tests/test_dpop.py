"""Tokens bound to a key, as the token endpoint and the API see them."""

from __future__ import annotations

import base64
import copy
import hashlib
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jwt.algorithms import ECAlgorithm
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from alf import Client, TokenError
from alf.client_auth import PrivateKeyJWT
from alf.dpop import DPoPKey
from tests.servers import Reply, Request, Server, TokenServer, hang_up, running

MakeClient = Callable[..., Client]

KEY = ec.generate_private_key(ec.SECP256R1())
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class Guard:
    """Checks proofs as a server does (RFC 9449 §4.3), and takes none twice."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.headers: list[dict[str, Any]] = []
        self.nonce: str | None = None

    def fault(self, request: Request, server: Server, token: str | None) -> str | None:
        """What is wrong with the request's proof."""
        [proof] = request.headers.get_all("DPoP") or ["missing.proof."]
        header = jwt.get_unverified_header(proof)
        claims = jwt.decode(proof, jwt.PyJWK(header["jwk"], header["alg"]), [header["alg"]])
        ids = [earlier["jti"] for earlier in self.seen]
        self.seen.append(claims)
        self.headers.append(header)
        assert header.keys() == {"typ", "alg", "jwk"}
        assert header["typ"] == "dpop+jwt"
        assert not {"d", "p", "q"} & header["jwk"].keys()
        assert claims["htm"] == request.method
        assert claims["htu"] == f"{server.url}{request.path.partition('?')[0]}"
        assert abs(claims["iat"] - time.time()) < 60
        assert claims["jti"] not in ids
        assert claims.get("ath") == (None if token is None else sha256(token))
        return None if claims.get("nonce") == self.nonce else "use_dpop_nonce"


def sha256(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


class DPoPTokenServer(TokenServer):
    def __init__(self) -> None:
        super().__init__()
        self.guard = Guard()
        self.members = {"token_type": "DPoP"}
        self.script = self.answer

    def answer(self, request: Request) -> Reply:
        fault = self.guard.fault(request, self, None)
        headers = {"DPoP-Nonce": self.guard.nonce or ""}
        if fault is not None:
            return Reply(400, {"error": fault}, headers)
        reply = self.grant(request)
        return Reply(reply.status, reply.body, {**headers, **reply.headers})


class DPoPApi(Server):
    def __init__(self, tokens: TokenServer) -> None:
        super().__init__(self.answer)
        self.guard = Guard()
        self.tokens = tokens
        self.replies: list[Reply | Callable[[Request], Reply]] = []

    def answer(self, request: Request) -> Reply:
        scheme, _, token = (request.authorization or "").partition(" ")
        assert scheme == "DPoP"
        fault = self.guard.fault(request, self, token)
        headers = {"DPoP-Nonce": self.guard.nonce or ""}
        if fault is None and token not in self.tokens.alive:
            fault = "invalid_token"
        if fault is not None:
            headers["WWW-Authenticate"] = f'DPoP error="{fault}", algs="ES256"'
            return Reply(401, {"error": fault}, headers)
        reply: Any = self.replies.pop(0) if self.replies else Reply(body={"hello": "world"})
        reply = reply(request) if callable(reply) else reply
        return Reply(reply.status, reply.body, {**headers, **reply.headers})


@pytest.fixture
def tokens() -> Iterator[DPoPTokenServer]:
    with running(DPoPTokenServer()) as server:
        yield server


@pytest.fixture
def api(tokens: DPoPTokenServer) -> Iterator[DPoPApi]:
    with running(DPoPApi(tokens)) as server:
        yield server


@pytest.fixture
def client(make_client: MakeClient) -> Client:
    return make_client(dpop=True)


# -- proofs ------------------------------------------------------------------------------------


def test_every_request_has_a_proof_of_its_own(
    client: Client, tokens: DPoPTokenServer, api: DPoPApi
) -> None:
    for _ in range(3):
        assert client.put(f"{api.url}/thing?a=b#c", data=b"x").status_code == 200
    assert client.ensure_token().token_type == "DPoP"
    assert api.requests[0].authorization == "DPoP token-1"
    assert (len(tokens.requests), len(api.requests)) == (1, 3)
    keys = [header["jwk"] for header in tokens.guard.headers + api.guard.headers]
    assert all(key == keys[0] for key in keys)
    assert keys[0]["crv"] == "P-256"


def test_a_path_is_never_empty_and_userinfo_never_shown(client: Client, api: DPoPApi) -> None:
    client.get(api.url)
    client.get(f"http://user:pass@127.0.0.1:{api.port}/a/b;c")
    assert [claims["htu"] for claims in api.guard.seen] == [f"{api.url}/", f"{api.url}/a/b;c"]


@pytest.mark.parametrize(
    ("dpop", "algorithm"),
    [
        (KEY, "ES256"),
        (PEM, "ES256"),
        (ECAlgorithm.to_jwk(KEY), "ES256"),
        (DPoPKey(rsa.generate_private_key(65537, 2048)), "RS256"),
        (DPoPKey(rsa.generate_private_key(65537, 2048), algorithm="PS256"), "PS256"),
        (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
        (DPoPKey(), "ES256"),
    ],
)
def test_a_key_of_the_users_own(
    make_client: MakeClient, api: DPoPApi, dpop: Any, algorithm: str
) -> None:
    assert make_client(dpop=dpop).get(api.url).status_code == 200
    assert api.guard.headers[0]["alg"] == algorithm


def test_the_client_still_says_who_it_is(make_client: MakeClient, tokens: DPoPTokenServer) -> None:
    way = PrivateKeyJWT(key=KEY)
    make_client(dpop=True, client_auth=way, client_secret=None).renew_token()
    assert "client_assertion" in tokens.requests[0].form


def test_a_prepared_request_may_be_sent_twice(client: Client, api: DPoPApi) -> None:
    prepared = client.prepare_request(requests.Request("GET", api.url))
    assert client.send(prepared).status_code == 200
    assert client.send(prepared).status_code == 200
    assert client.send(prepared.copy()).status_code == 200
    assert len(api.guard.seen) == 3


def test_a_pickled_request_takes_its_proof_along_but_no_key(client: Client, api: DPoPApi) -> None:
    prepared = client.prepare_request(requests.Request("GET", api.url))
    client.send(prepared)
    clone = pickle.loads(pickle.dumps(prepared))
    assert clone.headers == prepared.headers
    assert type(clone.headers["DPoP"]) is str


def test_auth_of_the_users_own_goes_without_a_proof(client: Client, api: DPoPApi) -> None:
    with running(Server(lambda _request: Reply(200))) as open_api:
        client.get(open_api.url, auth=("user", "pass"))
        prepared = client.prepare_request(requests.Request("GET", api.url))
        client.send(prepared)
        prepared.headers["Authorization"] = "Basic dXNlcjpwYXNz"
        prepared.url = open_api.url
        client.send(prepared)
    assert [request.headers["DPoP"] for request in open_api.requests] == [None, None]


def test_a_header_of_that_name_of_the_users_own_is_left_alone(
    make_client: MakeClient,
) -> None:
    with running(Server(lambda _request: Reply(200))) as open_api:
        client = make_client(dpop=True)
        client.get(open_api.url, auth=("user", "pass"), headers={"DPoP": "mine"})
        assert open_api.requests[0].headers["DPoP"] == "mine"


def test_without_dpop_there_is_no_proof(make_client: MakeClient) -> None:
    with running(TokenServer()) as plain:
        make_client(token_endpoint=plain.endpoint, dpop=False).get(plain.url)
        assert [request.headers["DPoP"] for request in plain.requests] == [None, None]


def test_a_token_that_is_not_bound_is_an_error(
    client: Client, tokens: DPoPTokenServer, api: DPoPApi
) -> None:
    tokens.members = {"token_type": "Bearer"}
    with pytest.raises(TokenError, match="token_type 'DPoP' that was requested"):
        client.get(api.url)
    assert not api.requests


# -- never the same proof twice ----------------------------------------------------------------


def test_each_try_of_the_token_request_has_a_new_proof(
    make_client: MakeClient, tokens: DPoPTokenServer
) -> None:
    client = make_client(dpop=True, token_retry=Retry(total=5, status_forcelist=[503]))
    client.renew_token()
    tokens.replies = [hang_up, hang_up, Reply(503)]
    client.renew_token()
    assert len(tokens.guard.seen) == 5


def test_a_retry_by_a_mounted_adapter_has_a_new_proof(client: Client, api: DPoPApi) -> None:
    retry = Retry(total=3, status_forcelist=[503], allowed_methods=None)
    client.mount("http://", HTTPAdapter(max_retries=retry))
    api.replies = [Reply(503), hang_up, Reply(503)]
    assert client.post(api.url, data=b"x").status_code == 200
    assert len(api.guard.seen) == 4


def test_a_retry_through_a_proxy_has_a_new_proof(
    client: Client, api: DPoPApi, tokens: DPoPTokenServer
) -> None:
    tokens.guard = api.guard
    client.renew_token()
    retry = Retry(total=3, status_forcelist=[503])
    client.mount("http://api.example.com", HTTPAdapter(max_retries=retry))
    client.proxies = {"http://api.example.com": api.url}
    proofs: list[str] = []

    def forward(request: Request) -> Reply:
        proofs.extend(request.headers.get_all("DPoP") or [])
        return Reply(503 if len(proofs) < 3 else 200)

    api.script = forward
    assert client.get("http://api.example.com/thing").status_code == 200
    assert len(set(proofs)) == 3


def test_another_session_heals_with_a_new_proof(
    client: Client, tokens: DPoPTokenServer, api: DPoPApi
) -> None:
    assert requests.get(api.url, auth=client.auth).status_code == 200
    tokens.alive.clear()
    api.guard.nonce = "a-nonce"
    response = requests.post(api.url, data=b"x", auth=client.auth)
    assert response.status_code == 200
    assert {answer.status_code for answer in response.history} == {401}
    assert len({claims["jti"] for claims in api.guard.seen}) == len(api.guard.seen)


def test_a_redirect_has_a_new_proof(client: Client, api: DPoPApi) -> None:
    api.replies = [Reply(302, b"", {"Location": "/elsewhere"})]
    assert client.post(api.url, data=b"x").status_code == 200
    assert [(claims["htm"], claims["htu"]) for claims in api.guard.seen] == [
        ("POST", f"{api.url}/"),
        ("GET", f"{api.url}/elsewhere"),
    ]


def test_neither_token_nor_proof_follow_to_another_host(client: Client, api: DPoPApi) -> None:
    with running(Server(lambda _request: Reply(200))) as other:
        api.replies = [Reply(307, b"", {"Location": f"{other.url}/elsewhere"})]
        assert client.post(api.url, data=b"x").status_code == 200
        [request] = other.requests
    assert (request.authorization, request.headers["DPoP"]) == (None, None)


def test_a_healed_request_has_a_new_proof_of_the_new_token(
    client: Client, tokens: DPoPTokenServer, api: DPoPApi
) -> None:
    client.get(api.url)
    tokens.alive.clear()
    assert client.post(api.url, data=b"precious").status_code == 200
    assert [request.authorization for request in api.requests] == [
        "DPoP token-1",
        "DPoP token-1",
        "DPoP token-2",
    ]
    assert api.requests[-1].body == b"precious"


# -- nonces ------------------------------------------------------------------------------------


def test_the_nonce_of_the_token_endpoint_costs_one_more_try(
    client: Client, tokens: DPoPTokenServer
) -> None:
    tokens.guard.nonce = "nonce-1"
    assert client.renew_token().access_token == "token-1"
    assert [claims.get("nonce") for claims in tokens.guard.seen] == [None, "nonce-1"]
    client.renew_token()
    assert len(tokens.requests) == 3


def test_a_new_nonce_is_taken_from_any_response(
    client: Client, tokens: DPoPTokenServer, api: DPoPApi
) -> None:
    tokens.replies = [lambda _request: Reply(200, tokens.granted().body, {"DPoP-Nonce": "as"})]
    api.replies = [Reply(200, b"", {"DPoP-Nonce": "rs"})]
    client.get(api.url)
    tokens.guard.nonce, api.guard.nonce = "as", "rs"
    client.get(api.url)
    client.renew_token()
    assert (len(tokens.requests), len(api.requests)) == (2, 2)


def test_the_nonce_goes_with_a_new_assertion(
    make_client: MakeClient, tokens: DPoPTokenServer
) -> None:
    tokens.guard.nonce = "nonce-1"
    make_client(dpop=True, client_auth=PrivateKeyJWT(key=KEY), client_secret=None).renew_token()
    first, second = (request.form["client_assertion"] for request in tokens.requests)
    assert first != second


def test_a_token_endpoint_that_is_never_content_is_asked_twice(
    client: Client, tokens: DPoPTokenServer, api: DPoPApi
) -> None:
    refusal = Reply(400, {"error": "use_dpop_nonce"}, {"DPoP-Nonce": "another"})
    tokens.script = lambda _request: refusal
    assert client.get(api.url).json() == {"error": "use_dpop_nonce"}
    assert len(tokens.requests) == 2


def test_a_token_endpoint_that_gives_no_nonce_is_asked_once(
    client: Client, tokens: DPoPTokenServer, api: DPoPApi
) -> None:
    tokens.script = lambda _request: Reply(400, {"error": "use_dpop_nonce"})
    assert client.get(api.url).status_code == 400
    assert len(tokens.requests) == 1


def test_the_nonce_of_an_api_costs_one_more_try_and_no_token(
    client: Client, tokens: DPoPTokenServer, api: DPoPApi
) -> None:
    api.guard.nonce = "nonce-1"
    response = client.post(api.url, data=b"precious")
    assert response.status_code == 200
    assert response.history == []
    assert [claims.get("nonce") for claims in api.guard.seen] == [None, "nonce-1"]
    assert [request.body for request in api.requests] == [b"precious", b"precious"]
    assert client.get(api.url).status_code == 200
    assert (len(tokens.requests), len(api.requests)) == (1, 3)
    assert {request.connection for request in api.requests} == {1}


def test_the_nonce_does_not_spend_the_renewal_of_a_refused_token(
    client: Client, tokens: DPoPTokenServer, api: DPoPApi
) -> None:
    client.get(api.url)
    tokens.alive.clear()
    api.guard.nonce = "nonce-1"
    assert client.get(api.url).status_code == 200
    assert [request.authorization for request in api.requests[1:]] == [
        "DPoP token-1",
        "DPoP token-1",
        "DPoP token-2",
    ]


def test_a_nonce_that_expires_during_the_renewal_is_answered_too(
    client: Client, tokens: DPoPTokenServer, api: DPoPApi
) -> None:
    api.guard.nonce = "nonce-1"
    client.get(api.url)
    tokens.alive.clear()

    def expire() -> None:
        api.guard.nonce = "nonce-2"

    tokens.on_grant = expire
    assert client.get(api.url).status_code == 200
    assert len(tokens.requests) == 2


def test_each_server_has_a_nonce_of_its_own(
    client: Client, tokens: DPoPTokenServer, api: DPoPApi
) -> None:
    with running(DPoPApi(tokens)) as other:
        tokens.guard.nonce, api.guard.nonce, other.guard.nonce = "as", "one", "two"
        for _ in range(2):
            assert client.get(api.url).status_code == 200
            assert client.get(other.url).status_code == 200
        assert (len(api.requests), len(other.requests)) == (3, 3)


def test_an_api_that_is_never_content_costs_no_token(
    client: Client, tokens: DPoPTokenServer, api: DPoPApi
) -> None:
    challenge = {"WWW-Authenticate": 'DPoP error="use_dpop_nonce"', "DPoP-Nonce": "another"}
    api.script = lambda _request: Reply(401, b"", challenge)
    assert client.get(api.url).status_code == 401
    assert (len(tokens.requests), len(api.requests)) == (1, 2)


def test_an_api_that_gives_no_nonce_is_asked_once(
    client: Client, tokens: DPoPTokenServer, api: DPoPApi
) -> None:
    challenge = {"WWW-Authenticate": 'DPoP error="use_dpop_nonce"'}
    api.script = lambda _request: Reply(401, b"", challenge)
    assert client.get(api.url).status_code == 401
    assert (len(tokens.requests), len(api.requests)) == (1, 1)


@pytest.mark.parametrize(
    ("challenge", "body", "wants_nonce"),
    [
        ('DPoP algs="ES256", error="use_dpop_nonce"', b"", True),
        ("DPoP error=use_dpop_nonce", b"", True),
        ('dpop  Error = "use_dpop_nonce"', b"", True),
        ('Bearer realm="x", error="invalid_token", DPoP error="use_dpop_nonce"', b"", True),
        ('DPoP error="invalid_token", error_description="not use_dpop_nonce"', b"", False),
        ('Bearer error="use_dpop_nonce"', b"", False),
        ('Bearer realm="DPoP error=\\"use_dpop_nonce\\""', b"", False),
        ('DPoP error="invalid_token"', {"error": "use_dpop_nonce"}, False),
        ("", {"error": "use_dpop_nonce"}, True),
        ('DPoP algs="ES256"', {"error": "use_dpop_nonce"}, True),
        ("", {"error": "invalid_token"}, False),
        ("", {"error": "use_dpop_nonce", "padding": "x" * 10_000}, False),
    ],
)
def test_where_an_api_says_that_it_wants_a_nonce(
    client: Client,
    tokens: DPoPTokenServer,
    api: DPoPApi,
    challenge: str,
    body: Any,
    wants_nonce: bool,
) -> None:
    headers = {"WWW-Authenticate": challenge, "DPoP-Nonce": "nonce-1"}
    answers = iter([Reply(401, body, headers)])
    api.script = lambda _request: next(answers, Reply())
    with client.get(api.url, stream=True) as response:
        assert response.status_code == 200
    assert (len(tokens.requests), len(api.requests)) == (1 if wants_nonce else 2, 2)


@pytest.mark.parametrize(
    ("url", "htu"),
    [
        ("http://127.0.0.1:80/a?b", "http://127.0.0.1/a"),
        ("https://u:p@api.test:443/a;b", "https://api.test/a;b"),
        ("https://[::1]:443", "https://[::1]/"),
        ("https://api.test:80/", "https://api.test:80/"),
        ("http://api.test:443/", "http://api.test:443/"),
        ("http://api.test:8080/", "http://api.test:8080/"),
    ],
)
def test_a_proof_names_no_default_port(url: str, htu: str) -> None:
    request = requests.Request("GET", url).prepare()
    DPoPKey().attach_proof(request)
    claims = jwt.decode(request.headers["DPoP"], options={"verify_signature": False})
    assert claims["htu"] == htu


def test_a_body_that_cannot_be_read_again_is_not_sent_again(
    client: Client, tokens: DPoPTokenServer, api: DPoPApi
) -> None:
    api.guard.nonce = "nonce-1"
    assert client.post(api.url, data=iter([b"once"])).status_code == 401
    assert client.post(api.url, data=iter([b"once"])).status_code == 200
    assert (len(tokens.requests), len(api.requests)) == (1, 2)


def test_a_client_of_very_many_servers_forgets_nonces(
    client: Client, tokens: DPoPTokenServer
) -> None:
    asked: list[str | None] = []

    def proxy(request: Request) -> Reply:
        claims = jwt.decode(request.headers["DPoP"], options={"verify_signature": False})
        asked.append(claims.get("nonce"))
        return Reply(200, b"", {"DPoP-Nonce": "n"})

    with running(Server(proxy)) as server:
        client.renew_token()
        client.proxies = {"http": server.url}
        for number in range(1001):
            client.get(f"http://host-{number}.example.com/")
        client.get("http://host-1000.example.com/")
        client.get("http://host-0.example.com/")
    assert asked[-2:] == ["n", None]


# -- whose key it is ---------------------------------------------------------------------------


def keys_seen(api: DPoPApi) -> list[Any]:
    return [header["jwk"]["x"] for header in api.guard.headers]


TRAVELS = [copy.deepcopy, lambda client: pickle.loads(pickle.dumps(client))]


@pytest.mark.parametrize("travel", TRAVELS)
@pytest.mark.parametrize(("dpop", "is_kept"), [(True, False), (KEY, True), (DPoPKey(), True)])
def test_only_a_key_that_was_given_travels_with_the_client(
    make_client: MakeClient, api: DPoPApi, travel: Any, dpop: Any, is_kept: bool
) -> None:
    client = make_client(dpop=dpop)
    client.get(api.url)
    with travel(client) as clone:
        assert clone.get(api.url).status_code == 200
    first, second = keys_seen(api)
    assert (first == second) is is_kept


def test_a_deep_copy_shares_the_key_and_what_servers_said_to_it(
    make_client: MakeClient, tokens: DPoPTokenServer
) -> None:
    tokens.guard.nonce = "nonce-1"
    client = make_client(dpop=DPoPKey())
    client.renew_token()
    with copy.deepcopy(client) as clone:
        clone.renew_token()
    assert [claims.get("nonce") for claims in tokens.guard.seen] == [None, "nonce-1", "nonce-1"]
    first, *others = [header["jwk"]["x"] for header in tokens.guard.headers]
    assert others == [first, first]


def test_a_stored_token_is_used_with_the_key_that_it_is_bound_to_and_no_other(
    make_client: MakeClient, tokens: DPoPTokenServer, api: DPoPApi
) -> None:
    storage: dict[str, Any] = {}
    key = DPoPKey()
    for dpop in (key, key, True, DPoPKey(), True):
        make_client(dpop=dpop, token_storage=storage).get(api.url)
    assert [request.authorization for request in api.requests] == [
        "DPoP token-1",
        "DPoP token-1",
        "DPoP token-2",
        "DPoP token-3",
        "DPoP token-4",
    ]


def test_the_thumbprint_is_the_one_of_rfc_7638() -> None:
    # The example of RFC 7638 §3.1 is a public key; this is RFC 8037's, appendix A.
    jwk = {
        "kty": "OKP",
        "crv": "Ed25519",
        "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    }
    assert DPoPKey(jwk).thumbprint == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_no_repr_shows_the_key() -> None:
    key = DPoPKey(KEY)
    assert repr(key) == f"<DPoPKey ES256 {key.thumbprint}>"


# -- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dpop", "error", "words"),
    [
        (lambda data: data, TypeError, "not a callable"),
        (7, TypeError, "must be a private key"),
        (b"no key", ValueError, "found neither"),
        (KEY.public_key(), TypeError, "must be a private key"),
    ],
)
def test_bad_input_is_an_error_at_construction(
    make_client: MakeClient, dpop: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        make_client(dpop=dpop)


def test_without_the_extra_an_error_names_it(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jwt", None)
    with pytest.raises(ImportError, match=r"pip install 'alf\[jwt\]'"):
        make_client(dpop=True)
