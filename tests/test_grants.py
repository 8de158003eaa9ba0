"""Assertion grants: what is sent, what distinguishes their tokens, and what goes wrong."""

from __future__ import annotations

import copy
import logging
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
from joserfc.jwk import ECKey, RSAKey
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from alf import Client, TokenError, TokenManager
from alf.events import Event
from alf.grants import JWTBearerGrant, TokenExchange
from alf.storages import FileStorage
from alf.testing import FakeTokenEndpoint
from tests.servers import Api, Reply, Server, TokenServer, TurnedClock, running
from tests.test_redaction import everything_on

MakeClient = Callable[..., Client]

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
TYPE = "urn:ietf:params:oauth:token-type:"

#: Nobody gave a client: `make_client` would.
WITHOUT_CLIENT: dict[str, Any] = {"client_id": None, "client_secret": None}

CLAIMS = {"issuer": "robot", "subject": "user@example.com", "audience": "https://id.example.com"}


def unsigned(**claims: Any) -> str:
    """A JWT of an issuer elsewhere."""
    return jwt.encode(claims, "a key of an issuer elsewhere, long enough", "HS256")


def exchange(subject_token: Any, **options: Any) -> TokenExchange:
    return TokenExchange(
        **{"subject_token": subject_token, "subject_token_type": "access_token", **options}
    )


class Tokens:
    """A source whose tokens are all different; it can be pickled."""

    def __init__(self, word: str = "subject", identity: str | None = None) -> None:
        self.calls = 0
        self.word = word
        self.identity = identity
        self.error: Exception | None = None

    def __call__(self) -> str:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return f"{self.word}-{self.calls}"


@pytest.fixture(scope="module")
def key() -> RSAKey:
    return RSAKey.generate_key(2048)


@pytest.fixture
def signed(key: RSAKey) -> Callable[..., JWTBearerGrant]:
    """A grant with JWTs of our own."""
    pem = key.as_pem(private=True)

    def make(**options: Any) -> JWTBearerGrant:
        return JWTBearerGrant(**{"key": pem, **CLAIMS, **options})

    return make


Signed = Callable[..., JWTBearerGrant]


# -- JWT bearer --------------------------------------------------------------------------------


def test_a_jwt_is_signed_anew_for_each_token_request(
    make_client: MakeClient, tokens: TokenServer, signed: Signed, key: RSAKey
) -> None:
    grant = signed(key_id="key-1", lifetime=300, claims={"scope": "signature impersonation"})
    client = make_client(grant=grant, **WITHOUT_CLIENT)
    for _ in range(2):
        assert client.renew_token().access_token
    first, second = tokens.requests
    for request in (first, second):
        assert [name for name, _ in request.pairs] == ["grant_type", "assertion"]
        assert request.form["grant_type"] == JWT_BEARER
        assert request.authorization is None
        assertion = request.form["assertion"]
        assert jwt.get_unverified_header(assertion) == {
            "typ": "JWT",
            "alg": "RS256",
            "kid": "key-1",
        }
        claims = jwt.decode(
            assertion, key.as_pem(private=False), ["RS256"], audience=CLAIMS["audience"]
        )
        assert claims.pop("exp") == claims.pop("iat") + 300
        assert claims.pop("jti")
        assert claims == {
            "iss": "robot",
            "sub": "user@example.com",
            "aud": "https://id.example.com",
            "scope": "signature impersonation",
        }
    assert first.form["assertion"] != second.form["assertion"]


def test_a_jwt_is_never_of_the_type_of_a_client_assertion_and_may_have_no_subject(
    make_client: MakeClient, signed: Signed, key: RSAKey
) -> None:
    logins: list[dict[str, str]] = []

    def answer(request: Any) -> Reply:
        if request.method == "GET":
            metadata = {"issuer": server.url, "token_endpoint": f"{server.url}/token"}
            return Reply(body=metadata)
        logins.append(request.form)
        return Reply(body={"access_token": "token-1", "token_type": "Bearer"})

    with running(Server(answer)) as server:
        grant = signed(subject=None, audience=["a", "b"])
        client = make_client(issuer=server.url, token_endpoint=None, grant=grant, **WITHOUT_CLIENT)
        client.ensure_token()
    (form,) = logins
    assert jwt.get_unverified_header(form["assertion"])["typ"] == "JWT"
    claims = jwt.decode(form["assertion"], options={"verify_signature": False})
    assert claims["aud"] == ["a", "b"]
    assert "sub" not in claims
    assert "client_id" not in form


def test_the_kid_and_the_algorithm_of_a_jwk_are_used(
    make_client: MakeClient, tokens: TokenServer, signed: Signed
) -> None:
    jwk = ECKey.generate_key("P-256", {"kid": "jwk-1", "alg": "ES256"}).as_dict(private=True)
    make_client(grant=signed(key=jwk), **WITHOUT_CLIENT).ensure_token()
    header = jwt.get_unverified_header(tokens.requests[0].form["assertion"])
    assert header == {"typ": "JWT", "alg": "ES256", "kid": "jwk-1"}


def test_an_encrypted_key_is_opened_with_its_password(
    make_client: MakeClient, tokens: TokenServer, key: RSAKey
) -> None:
    encrypted = key.as_pem(private=True, password="top-secret")
    grant = JWTBearerGrant(key=encrypted, password="top-secret", **CLAIMS)
    make_client(grant=grant).renew_token()
    assertion = tokens.requests[0].form["assertion"]
    jwt.decode(assertion, key.as_pem(private=False), ["RS256"], audience=CLAIMS["audience"])
    with pytest.raises(ValueError, match="give its password=") as failure:
        JWTBearerGrant(key=encrypted, **CLAIMS)
    assert not [text for text in everything_on(failure.value) if "top-secret" in text]
    with pytest.raises(TypeError, match="password: only for JWTs that are signed here"):
        JWTBearerGrant("path", password="top-secret")


def test_a_jwt_in_a_file_is_read_anew_for_each_token_request(
    make_client: MakeClient, tokens: TokenServer, tmp_path: Path
) -> None:
    path = tmp_path / "assertion"
    path.write_text(unsigned(n=1))
    client = make_client(grant=JWTBearerGrant(path), **WITHOUT_CLIENT)
    client.renew_token()
    path.write_text(unsigned(n=2))
    client.renew_token()
    assertions = [request.form["assertion"] for request in tokens.requests]
    assert assertions == [unsigned(n=1), unsigned(n=2)]


def test_a_callable_is_called_for_each_token_request_with_what_it_requires(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    given: list[tuple[str, str]] = []

    def assertion(audience: str, client_id: str) -> str:
        given.append((audience, client_id))
        return unsigned(n=len(given))

    client = make_client(grant=JWTBearerGrant(assertion))
    client.renew_token()
    client.renew_token()
    assert given == [(tokens.endpoint, "client-id")] * 2
    assertions = [request.form["assertion"] for request in tokens.requests]
    assert assertions == [unsigned(n=1), unsigned(n=2)]


# -- Token exchange ----------------------------------------------------------------------------


def test_a_token_is_exchanged_and_what_was_issued_is_said(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    tokens.members = {"issued_token_type": f"{TYPE}access_token"}
    grant = TokenExchange(
        subject_token=Tokens(),
        subject_token_type="id_token",
        actor_token=Tokens("actor"),
        actor_token_type="urn:ietf:params:aws:token-type:aws4_request",
        requested_token_type="access_token",
    )
    options = {"audience": "orders", "resource": ["urn:a", "urn:b"], "scope": ["read", "write"]}
    client = make_client(grant=grant, **options)
    assert client.renew_token().extra == {"issued_token_type": f"{TYPE}access_token"}
    client.renew_token()
    first, second = tokens.requests
    assert first.pairs == [
        ("grant_type", TOKEN_EXCHANGE),
        ("subject_token_type", f"{TYPE}id_token"),
        ("actor_token_type", "urn:ietf:params:aws:token-type:aws4_request"),
        ("requested_token_type", f"{TYPE}access_token"),
        ("scope", "read write"),
        ("audience", "orders"),
        ("resource", "urn:a"),
        ("resource", "urn:b"),
        ("subject_token", "subject-1"),
        ("actor_token", "actor-1"),
    ]
    assert (second.form["subject_token"], second.form["actor_token"]) == ("subject-2", "actor-2")
    assert (first.authorization or "").startswith("Basic ")


def test_the_token_of_another_client_is_renewed_before_it_is_exchanged(
    make_client: MakeClient, tokens: TokenServer, clock: TurnedClock
) -> None:
    front = make_client(client_id="front", clock=clock)
    grant = exchange(lambda: front.ensure_token().access_token)
    client = make_client(grant=grant, clock=clock)
    assert client.ensure_token().access_token == "token-2"
    clock.turn(3601)
    assert client.ensure_token().access_token == "token-4"
    forms = [request.form for request in tokens.requests]
    assert [form.get("subject_token") for form in forms] == [None, "token-1", None, "token-3"]


def test_the_error_of_that_client_is_the_callers_answer(
    make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    tokens.replies = [Reply(400, {"error": "invalid_scope"})]
    front = make_client(client_id="front")
    client = make_client(grant=exchange(lambda: front.ensure_token().access_token))
    assert client.get(api.url).json() == {"error": "invalid_scope"}
    assert len(tokens.requests) == 1
    assert client.get(api.url).status_code == 200


# -- The client --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"client_secret": None, "client_auth": "none"}, ["client_id"]),
        ({"client_auth": "client_secret_post"}, ["client_id", "client_secret"]),
        ({}, []),
        (WITHOUT_CLIENT, []),
    ],
)
def test_the_client_is_sent_as_its_authentication_says(
    make_client: MakeClient, tokens: TokenServer, options: dict[str, Any], names: list[str]
) -> None:
    make_client(grant=exchange(Tokens()), **options).ensure_token()
    (request,) = tokens.requests
    sent = [name for name, _ in request.pairs]
    assert sent == ["grant_type", "subject_token_type", "subject_token", *names]
    assert (request.authorization is not None) == (options == {})


def test_no_entry_of_netrc_is_sent_without_a_client(
    make_client: MakeClient, tokens: TokenServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret")
    monkeypatch.setenv("NETRC", str(netrc))
    make_client(grant=exchange(Tokens()), **WITHOUT_CLIENT).ensure_token()
    assert tokens.requests[0].authorization is None


def test_a_token_is_revoked_without_the_grant(make_client: MakeClient, tokens: TokenServer) -> None:
    source = Tokens()
    options = {"revocation_endpoint": f"{tokens.url}/revoke", **WITHOUT_CLIENT}
    client = make_client(grant=exchange(source), **options)
    client.ensure_token()
    client.revoke_token()
    assert [name for name, _ in tokens.requests[1].pairs] == ["token", "token_type_hint"]
    assert source.calls == 1


def test_a_manager_of_its_own_takes_a_grant(tokens: TokenServer) -> None:
    manager = TokenManager(tokens.endpoint, grant=exchange(Tokens()))
    assert manager.get_token() == "token-1"
    manager.close()


def test_a_401_is_healed_by_another_exchange(
    make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    client = make_client(grant=exchange(Tokens()), **WITHOUT_CLIENT)
    assert client.get(api.url).status_code == 200
    tokens.alive.clear()
    assert client.get(api.url).status_code == 200
    assert [request.form["subject_token"] for request in tokens.requests] == [
        "subject-1",
        "subject-2",
    ]


# -- Every try ---------------------------------------------------------------------------------


def test_every_retry_has_an_assertion_of_its_own(
    make_client: MakeClient, tokens: TokenServer, signed: Signed
) -> None:
    tokens.replies = [Reply(503), Reply(503)]
    retry = Retry(total=2, status_forcelist=[503])
    make_client(grant=signed(), token_retry=retry, **WITHOUT_CLIENT).ensure_token()
    assert len({request.form["assertion"] for request in tokens.requests}) == 3


def test_a_retry_by_the_adapter_of_a_session_has_one_too(
    make_client: MakeClient, tokens: TokenServer, signed: Signed
) -> None:
    tokens.replies = [Reply(503)]
    retry: Any = Retry(total=1, status_forcelist=[503], allowed_methods=None)
    with requests.Session() as session:
        session.mount("http://", HTTPAdapter(max_retries=retry))
        client = make_client(grant=signed(), token_session=session, **WITHOUT_CLIENT)
        assert client.ensure_token().access_token == "token-1"
    assert len({request.form["assertion"] for request in tokens.requests}) == 2


@pytest.mark.parametrize("outage", [[], [Reply(503)]])
def test_what_such_a_session_has_sent_is_not_shown(
    make_client: MakeClient, tokens: TokenServer, signed: Signed, outage: list[Any]
) -> None:
    def echo(request: Any) -> Reply:
        words = f"what is {request.form['assertion']}?"
        return Reply(400, {"error": "invalid_grant", "error_description": words})

    tokens.replies = [*outage, echo]
    retry: Any = Retry(total=1, status_forcelist=[503], allowed_methods=None)
    with requests.Session() as session:
        session.mount("http://", HTTPAdapter(max_retries=retry))
        client = make_client(grant=signed(), token_session=session, **WITHOUT_CLIENT)
        with pytest.raises(TokenError, match=r"what is \*\*\*"):
            client.ensure_token()


def test_a_nonce_of_the_endpoint_brings_another_assertion(
    make_client: MakeClient, tokens: TokenServer, signed: Signed
) -> None:
    tokens.replies = [
        Reply(400, {"error": "use_dpop_nonce"}, {"DPoP-Nonce": "n"}),
        Reply(body={"access_token": "token-1", "token_type": "DPoP", "expires_in": 60}),
    ]
    token = make_client(grant=signed(), dpop=True, **WITHOUT_CLIENT).ensure_token()
    assert token.token_type == "DPoP"
    assert len({request.form["assertion"] for request in tokens.requests}) == 2


@pytest.mark.parametrize("refresh", ["background", "blocking"])
def test_a_source_that_fails_while_the_token_lives_is_a_failing_endpoint(
    make_client: MakeClient,
    api: Api,
    clock: TurnedClock,
    refresh: str,
) -> None:
    source = Tokens()
    client = make_client(
        grant=exchange(source), clock=clock, token_refresh=refresh, **WITHOUT_CLIENT
    )
    client.ensure_token()
    source.error = OSError("no subject now")
    clock.turn(3595)
    assert client.get(api.url).status_code == 200
    clock.turn(10)
    with pytest.raises(OSError, match="no subject now"):
        client.get(api.url)


def test_a_key_that_does_not_sign_while_the_token_lives_is_a_failing_endpoint(
    make_client: MakeClient, api: Api, clock: TurnedClock, signed: Signed
) -> None:
    signatures = [b"signature"]
    grant = signed(key=lambda _: signatures.pop(), algorithm="RS256")
    client = make_client(grant=grant, clock=clock, token_refresh="blocking", **WITHOUT_CLIENT)
    client.ensure_token()
    clock.turn(3595)
    assert client.get(api.url).status_code == 200
    clock.turn(10)
    with pytest.raises(IndexError):
        client.get(api.url)


def test_a_file_that_is_missing_fails_no_call_while_the_token_lives(
    make_client: MakeClient, tokens: TokenServer, api: Api, clock: TurnedClock, tmp_path: Path
) -> None:
    path = tmp_path / "token"
    path.write_text("subject")
    client = make_client(
        grant=exchange(path), clock=clock, token_refresh="blocking", **WITHOUT_CLIENT
    )
    client.ensure_token()
    path.unlink()
    clock.turn(3595)
    assert client.get(api.url).status_code == 200
    clock.turn(10)
    with pytest.raises(TokenError, match=rf"subject_token: the file '{path}' does not exist"):
        client.get(api.url)
    path.write_text("another")
    assert client.get(api.url).status_code == 200
    assert len(tokens.requests) == 2


# -- The entry in a storage --------------------------------------------------------------------


def keys_of(make_client: MakeClient, *grants: Any, **options: Any) -> list[str]:
    """The key of the entry that a Client with each of the grants uses."""
    keys = []
    for grant in grants:
        storage: dict[str, str] = {}
        make_client(
            grant=grant, token_storage=storage, **{**WITHOUT_CLIENT, **options}
        ).renew_token()
        (key,) = (name for name in storage if not name.endswith(":lock"))
        keys.append(key)
    return keys


def test_the_key_is_that_of_the_claims_and_not_of_the_assertion(
    make_client: MakeClient, signed: Signed
) -> None:
    keys = keys_of(
        make_client,
        signed(),
        signed(issuer="another"),
        signed(subject="another"),
        signed(subject=None),
        signed(audience="https://another.example.com"),
        signed(audience=["https://id.example.com", "https://another.example.com"]),
        signed(claims={"scope": "read"}),
    )
    assert len(set(keys)) == len(keys)
    other_key = ECKey.generate_key("P-256").as_pem(private=True)
    same = keys_of(make_client, signed(), signed(lifetime=120, key_id="2"), signed(key=other_key))
    assert set(same) == {keys[0]}
    assert keys_of(make_client, signed(identity="mine")) not in ([key] for key in keys)


def test_the_key_is_that_of_the_path_and_the_owner_and_not_of_the_token(
    make_client: MakeClient, tmp_path: Path
) -> None:
    path, other = tmp_path / "token", tmp_path / "other"
    seen = []
    for place, claims in (
        (path, {"iss": "a", "sub": "one", "n": 1}),
        (path, {"iss": "a", "sub": "one", "n": 2}),
        (path, {"iss": "a", "sub": "two"}),
        (path, {"iss": "b", "sub": "one"}),
        (other, {"iss": "a", "sub": "one"}),
    ):
        place.write_text(unsigned(**claims))
        seen += keys_of(make_client, JWTBearerGrant(place))
        seen += keys_of(make_client, exchange(place))
    assert seen[:2] == seen[2:4]
    assert len(set(seen)) == 8
    path.write_text("opaque-1")
    opaque = keys_of(make_client, exchange(path))
    path.write_text("opaque-2")
    assert keys_of(make_client, exchange(path)) == opaque


def test_a_client_keeps_its_key_while_a_file_is_replaced(
    make_client: MakeClient, tokens: TokenServer, tmp_path: Path
) -> None:
    path = tmp_path / "token"
    path.write_text(unsigned(iss="a", sub="one"))
    storage: dict[str, str] = {}
    grant = exchange(path)
    make_client(grant=grant, token_storage=storage, **WITHOUT_CLIENT).ensure_token()
    path.unlink()
    make_client(grant=grant, token_storage=storage, **WITHOUT_CLIENT).ensure_token()
    assert len(tokens.requests) == 1


def test_each_part_of_an_exchange_is_in_the_key(make_client: MakeClient) -> None:
    def named(identity: str) -> Tokens:
        return Tokens(identity=identity)

    grants = [
        exchange(named("a")),
        exchange(named("b")),
        exchange(named("a"), subject_token_type="jwt"),
        exchange(named("a"), requested_token_type="jwt"),
        exchange(named("a"), actor_token=named("c"), actor_token_type="jwt"),
        exchange(named("a"), actor_token=named("d"), actor_token_type="jwt"),
        exchange(Tokens(), identity="a"),
    ]
    keys = keys_of(make_client, *grants)
    assert len(set(keys)) == len(keys)
    assert keys_of(make_client, exchange(named("a"))) == keys[:1]
    with_client = keys_of(make_client, grants[0], client_id="client-id", client_auth="none")
    assert with_client != keys[:1]


@pytest.mark.parametrize(
    "make",
    [
        lambda source: JWTBearerGrant(source),
        lambda source: exchange(source),
        lambda source: exchange(
            Tokens(identity="known"), actor_token=source, actor_token_type="jwt"
        ),
    ],
)
def test_whose_tokens_a_callable_returns_has_to_be_said(
    make_client: MakeClient, tokens: TokenServer, make: Callable[[Any], Any]
) -> None:
    with pytest.raises(TypeError, match="the grant's identity"):
        make_client(grant=make(Tokens()), token_storage={}, **WITHOUT_CLIENT)
    options = {"token_storage": {}, "token_storage_key": "mine", **WITHOUT_CLIENT}
    assert make_client(grant=make(lambda: unsigned()), **options).ensure_token()
    assert list(options["token_storage"]) == ["mine"]
    # Without a storage there is no key.
    assert make_client(grant=make(lambda: unsigned()), **WITHOUT_CLIENT).ensure_token()


def test_a_stored_token_says_what_was_issued(
    make_client: MakeClient, tokens: TokenServer, tmp_path: Path
) -> None:
    tokens.members = {"issued_token_type": f"{TYPE}access_token"}
    for _ in range(2):
        client = make_client(
            grant=exchange(Tokens(), identity="mine"),
            token_storage=FileStorage(tmp_path),
            **WITHOUT_CLIENT,
        )
        assert client.ensure_token().extra["issued_token_type"] == f"{TYPE}access_token"
    assert len(tokens.requests) == 1


def test_a_refusal_of_an_assertion_is_not_shared(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    tokens.replies = [Reply(400, {"error": "unauthorized_client"})]
    storage: dict[str, str] = {}
    for expected in ("unauthorized_client", None):
        grant = exchange(Tokens(), identity="mine")
        client = make_client(grant=grant, token_storage=storage, **WITHOUT_CLIENT)
        if expected is None:
            assert client.ensure_token()
        else:
            with pytest.raises(TokenError, match=expected):
                client.ensure_token()


# -- with_options, copies, the environment -----------------------------------------------------


def test_another_subject_of_the_same_client_has_a_token_of_its_own(
    make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    first, second = exchange(Tokens("first")), exchange(Tokens("second"))
    client = make_client(grant=first)
    other = client.with_options(grant=second)
    orders = client.with_options(audience="orders")
    plain = client.with_options(grant=None)
    for each in (client, other, orders, plain, client.with_options(grant=second)):
        assert each.get(api.url).status_code == 200
    assert [request.form.get("subject_token") for request in tokens.requests] == [
        "first-1",
        "second-1",
        "first-2",
        None,
    ]
    assert tokens.requests[3].form == {"grant_type": "client_credentials"}
    assert {request.connection for request in tokens.requests} == {1}


def test_a_grant_travels_and_a_copy_shares_it(
    make_client: MakeClient, tokens: TokenServer, signed: Signed, tmp_path: Path
) -> None:
    path = tmp_path / "token"
    path.write_text(unsigned(iss="a"))
    for grant in (signed(), exchange(Tokens()), JWTBearerGrant(path)):
        client = make_client(grant=grant, **WITHOUT_CLIENT)
        for clone in (pickle.loads(pickle.dumps(client)), copy.deepcopy(client)):
            with clone:
                assert clone.renew_token()
    assert len(tokens.requests) == 6
    assert copy.deepcopy(client)._token_options["grant"] is grant


def test_an_environment_without_a_client_does_for_a_grant(
    tokens: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STS_TOKEN_ENDPOINT", tokens.endpoint)
    with Client.from_env("STS_", grant=exchange(Tokens())) as client:
        assert client.ensure_token()
    with pytest.raises(TypeError, match="token_hots"):
        Client.from_env("STS_", grant=exchange(Tokens()), token_hots=["a"])
    with pytest.raises(ValueError, match="STS_CLIENT_ID"):
        Client.from_env("STS_", grant=exchange(Tokens()), client_auth="none")
    with pytest.raises(ValueError, match="STS_CLIENT_SECRET"):
        Client.from_env("STS_", grant=exchange(Tokens()), client_id="client-id")


def test_the_fake_endpoint_takes_grants_with_and_without_a_client(signed: Signed) -> None:
    with FakeTokenEndpoint() as endpoint:
        for grant in (signed(), exchange(Tokens())):
            for client in ({"token_endpoint": endpoint.url}, endpoint.credentials):
                with Client(grant=grant, **client) as made:
                    assert made.ensure_token().access_token == endpoint.granted[-1]
            wrong = {**endpoint.credentials, "client_secret": "wrong"}
            with Client(grant=grant, **wrong) as made, pytest.raises(TokenError):
                made.ensure_token()
        form = {"grant_type": "client_credentials"}
        assert requests.post(endpoint.url, data=form).status_code == 401


# -- What is shown -----------------------------------------------------------------------------


def test_a_client_without_an_id_is_named_by_its_grant(
    make_client: MakeClient,
    tokens: TokenServer,
    signed: Signed,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "alf")
    path = tmp_path / "token"
    path.write_text("top-secret")
    events: list[Event] = []
    for grant, name in (
        (signed(), "JWTBearerGrant(issuer='robot', subject='user@example.com')"),
        (exchange(path), f"TokenExchange(subject_token=Source('{path}'))"),
    ):
        tokens.replies = [Reply(400, {"error": "invalid_grant"})]
        client = make_client(grant=grant, on_event=events.append, **WITHOUT_CLIENT)
        with pytest.raises(TokenError) as failure:
            client.ensure_token()
        assert (
            str(failure.value)
            == f"token endpoint {tokens.endpoint} ({name}) answered 400 invalid_grant"
        )
        assert f"grant={name}" in repr(client)
        assert name in caplog.text
    assert {event.client_id for event in events} == {""}


@pytest.mark.parametrize("way", ["refused", "echoed", "unreachable", "html"])
def test_no_assertion_is_shown(
    make_client: MakeClient,
    tokens: TokenServer,
    signed: Signed,
    caplog: pytest.LogCaptureFixture,
    way: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    sent: list[str] = []

    def answer(request: Any) -> Reply:
        secret = [
            value
            for name, value in request.pairs
            if name in ("assertion", "subject_token", "actor_token")
        ]
        sent.extend(secret)
        if way == "html":
            return Reply(200, f"<p>{secret}</p>", {"Content-Type": "text/html"})
        description = f"what is {secret}?" if way == "echoed" else "no"
        return Reply(400, {"error": "invalid_grant", "error_description": description})

    tokens.script = answer
    tokens_of_grants = exchange(
        Tokens("secret-subject"), actor_token=Tokens("secret-actor"), actor_token_type="jwt"
    )
    for grant in (signed(), JWTBearerGrant(lambda: unsigned(n=1)), tokens_of_grants):
        options = {"token_endpoint": "http://127.0.0.1:9"} if way == "unreachable" else {}
        client = make_client(grant=grant, **options, **WITHOUT_CLIENT)
        with pytest.raises(requests.exceptions.RequestException) as failure:
            client.ensure_token()
        texts = [
            *everything_on(failure.value),
            *traceback.format_exception(failure.value),
            caplog.text,
            repr(client),
            repr(grant),
        ]
        hidden = [*sent, unsigned(n=1), "secret-subject", "secret-actor"]
        assert not [text for text in texts if any(secret in text for secret in hidden)]
    assert bool(sent) == (way != "unreachable")


@pytest.mark.parametrize(
    "make",
    [
        lambda secret: JWTBearerGrant(secret),
        lambda secret: JWTBearerGrant(secret, issuer="me"),
        lambda secret: exchange(secret),
        lambda secret: exchange("path", actor_token=secret),
        lambda secret: exchange(secret, actor_token=b"x", actor_token_type="jwt"),
    ],
)
def test_a_token_in_the_wrong_place_is_not_shown(make: Callable[[str], Any]) -> None:
    secret = unsigned(n=1)
    with pytest.raises((TypeError, ValueError)) as failure:
        make(secret)
    locals_ = [
        repr(value)
        for frame, _ in traceback.walk_tb(failure.value.__traceback__)
        if "/alf/" in frame.f_code.co_filename
        for value in frame.f_locals.values()
    ]
    assert locals_
    assert not [text for text in (*locals_, str(failure.value)) if secret in text]


# -- Bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"grant": "jwt-bearer"}, TypeError, "grant must be an object of alf.grants, got str"),
        ({"grant": JWTBearerGrant}, TypeError, "grant must be an object of alf.grants"),
        ({"client_id": None}, TypeError, "client_id is missing"),
        ({"client_id": None, "client_secret": None}, TypeError, "client_id is missing"),
        (
            {"grant": exchange(Tokens()), "client_secret": None},
            TypeError,
            "client_secret is missing for client_id 'client-id'",
        ),
        ({"grant": exchange(Tokens()), "client_id": None}, TypeError, "client_id is missing"),
        (
            {"grant": exchange(Tokens()), **WITHOUT_CLIENT, "client_auth": "none"},
            TypeError,
            "client_id is missing",
        ),
        (
            {"grant": exchange(Tokens()), "client_id": "", "client_secret": None},
            ValueError,
            "client_id must not be empty",
        ),
        (
            {"grant": exchange(Tokens()), "token_params": {"grant_type": "x"}},
            ValueError,
            "token_params must not hold grant_type: grant",
        ),
        (
            {"grant": exchange(Tokens()), "token_params": {"subject_token": "x"}},
            ValueError,
            "token_params must not hold subject_token: grant",
        ),
        (
            {"grant": JWTBearerGrant(unsigned), "token_params": {"assertion": "x"}},
            ValueError,
            "token_params must not hold assertion: grant",
        ),
        ({"grant": exchange(Tokens()), "garnt": 1}, TypeError, "garnt"),
    ],
)
def test_a_client_with_bad_options_is_an_error_at_construction(
    make_client: MakeClient,
    tokens: TokenServer,
    options: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    with pytest.raises(error, match=words):
        make_client(**options)
    assert not tokens.requests


BAD_GRANTS: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    (JWTBearerGrant, {}, TypeError, "a source of JWTs, or a key"),
    (JWTBearerGrant, {"source": "path", "key": "pem"}, TypeError, "a source of JWTs, or a key"),
    (
        JWTBearerGrant,
        {"source": "path", "issuer": "a", "lifetime": 1},
        TypeError,
        "issuer, lifetime: only for JWTs that are signed here",
    ),
    (JWTBearerGrant, {"source": 1}, TypeError, "source must be a path or a callable, got int"),
    (JWTBearerGrant, {"source": "path", "identity": 1}, TypeError, "identity must be a str"),
    (JWTBearerGrant, {"source": "path", "isuer": "a"}, TypeError, "isuer"),
    (JWTBearerGrant, {**CLAIMS, "issuer": None}, TypeError, "issuer must be a str, got NoneType"),
    (JWTBearerGrant, {**CLAIMS, "subject": ""}, ValueError, "subject must not be empty"),
    (JWTBearerGrant, {**CLAIMS, "audience": None}, TypeError, "audience is missing"),
    (JWTBearerGrant, {**CLAIMS, "audience": 1}, TypeError, "audience must be"),
    (JWTBearerGrant, {**CLAIMS, "lifetime": 0}, ValueError, "lifetime must be at least"),
    (JWTBearerGrant, {**CLAIMS, "claims": {"iss": "a"}}, ValueError, "claims must not hold iss"),
    (JWTBearerGrant, {**CLAIMS, "claims": 1}, TypeError, "claims must be a mapping"),
    (JWTBearerGrant, {**CLAIMS, "algorithm": "RS256"}, ValueError, "algorithm must be one of"),
    (TokenExchange, {"subject_token": 1}, TypeError, "subject_token must be a path or a callable"),
    (TokenExchange, {"subject_token_type": None}, TypeError, "subject_token_type must be a str"),
    (TokenExchange, {"subject_token_type": "acces_token"}, ValueError, "a URI or one of access_"),
    (TokenExchange, {"requested_token_type": ""}, ValueError, "requested_token_type must not be"),
    (TokenExchange, {"actor_token": "path"}, TypeError, "actor_token and actor_token_type"),
    (TokenExchange, {"actor_token_type": "jwt"}, TypeError, "actor_token and actor_token_type"),
    (TokenExchange, {"actor": "path"}, TypeError, "actor"),
    (TokenExchange, {"identity": ""}, ValueError, "identity must not be empty"),
]


@pytest.mark.parametrize(("make", "options", "error", "words"), BAD_GRANTS)
def test_a_grant_with_bad_arguments_is_an_error_at_construction(
    make: Any, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    base: dict[str, Any] = {"subject_token": "path", "subject_token_type": "jwt"}
    if make is JWTBearerGrant:
        is_signed = "issuer" in options and "source" not in options
        base = {"key": ECKey.generate_key("P-256").as_pem(private=True)} if is_signed else {}
    with pytest.raises(error, match=words):
        make(**{**base, **options})
