"""The shared entry: its key, its format, and when it is read and written."""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
from collections import UserDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from requests.auth import HTTPBasicAuth

from alf import Client, Token, TokenError, TokenManager
from alf._entries import entry_key
from alf._token_storage import TokenStorage
from tests.servers import Api, Reply, Request, TokenServer, TurnedClock
from tests.storage_doubles import (
    NOW,
    Adding,
    Expiring,
    Faulty,
    Locking,
    Odd,
    Plain,
    entry,
    only,
    warnings_of,
)

MakeClient = Callable[..., Client]

ENDPOINT = "https://id.example.com/token"
PARAMS = [("grant_type", "client_credentials"), ("scope", "read write")]


# -- the key -----------------------------------------------------------------------------------


def test_the_key_can_be_read_and_fits_every_storage() -> None:
    key = entry_key(ENDPOINT, "client-id", PARAMS)
    assert key.startswith("alf:2:id.example.com:client-id:")
    ugly = entry_key(f"https://{'long.' * 40}example.com/ü", "id \n\x00ü" * 100, PARAMS)
    for each in (key, ugly):
        assert each.isascii()
        assert each.isprintable()
        assert " " not in each
        assert len(each) < 200


def test_the_key_is_the_same_for_the_same_token() -> None:
    key = entry_key(ENDPOINT, "client-id", PARAMS, {"X-Tenant": "a", "X-More": "b"}, "post")
    params = [("scope", " write  read read"), ("grant_type", "client_credentials")]
    headers = {"x-more": "b", "x-tenant": "a"}
    assert key == entry_key(
        "https://user:secret@ID.example.com/token", "client-id", params, headers, "post"
    )


def test_the_key_is_the_same_in_the_next_version_of_alf() -> None:
    """Processes of both versions share tokens while a fleet is updated."""
    names = (
        *("actor_token_type", "audience", "client_id", "grant_type", "organization"),
        *("requested_token_type", "resource", "response_type", "scope", "subject_token_type"),
        "tenant",
    )
    headers = {"Accept": "a", "Accept-Language": "b", "Content-Type": "c", "User-Agent": "d"}
    key = entry_key(ENDPOINT, "client-id", [(name, name) for name in names], headers)
    assert key == "alf:2:id.example.com:client-id:4159adf857e73ef7554970e9b545ec9066e9b79f"
    secret = entry_key(ENDPOINT, "client-id", [("password", "secret")], {"X-Api-Key": "secret"})
    assert secret == "alf:2:id.example.com:client-id:a097384f84a8fc27346a3c77105e76c9ecfb4d54"


@pytest.mark.parametrize(
    "change",
    [
        {"token_endpoint": "https://id.example.com/other/token"},
        {"token_endpoint": "https://id.example.com:8443/token"},
        {"token_endpoint": "https://id.example.com/token?tenant=b"},
        {"client_id": "Client-id"},
        {"params": [("grant_type", "client_credentials"), ("scope", "read")]},
        {"params": [("grant_type", "client_credentials"), ("scope", "readwrite")]},
        {"params": [*PARAMS, ("audience", "a")]},
        {"params": [*PARAMS, ("resource", "a")]},
        {"params": [*PARAMS, ("resource", "a"), ("resource", "b")]},
        {"headers": {"X-Tenant": "a"}},
        {"headers": {"X-Tenant": "b"}},
        {"binding": "private_key_jwt"},
        {"binding": "tls_client_auth:5f"},
    ],
    ids=str,
)
def test_the_key_differs_for_every_different_token(change: dict[str, Any]) -> None:
    given: dict[str, Any] = {"token_endpoint": ENDPOINT, "client_id": "client-id", "params": PARAMS}
    assert entry_key(**given) != entry_key(**{**given, **change})


def test_the_secret_is_no_part_of_the_key(make_client: MakeClient) -> None:
    storage: dict[str, str] = {}
    for secret in ("one", "another"):
        assert make_client(client_secret=secret, token_storage=storage).ensure_token()
    assert len(storage) == 1


def test_a_wrong_secret_gets_no_token_of_another_client_in_the_process(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    storage: dict[str, str] = {}
    right = make_client(client_secret="right", token_storage=storage)
    right.ensure_token()
    tokens.replies = [Reply(401, {"error": "invalid_client"})] * 2
    wrong = make_client(client_secret="wrong", token_storage=storage)
    with pytest.raises(TokenError, match="invalid_client"):
        wrong.ensure_token()
    tokens.replies = []
    # The same secret shares, and so does one that is not known beforehand.
    assert make_client(client_secret="right", token_storage=storage).ensure_token() == right.token
    assert make_client(client_secret=lambda: "any", token_storage=storage).ensure_token()
    assert len([sent for sent in tokens.requests if sent.path == "/token"]) <= 3


def test_a_rotated_secret_makes_a_token_request_of_its_own(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    storage: dict[str, str] = {}
    old = make_client(client_secret="old", token_storage=storage).ensure_token()
    new = make_client(client_secret="new", token_storage=storage).ensure_token()
    assert (old.access_token, new.access_token) == ("token-1", "token-2")
    assert make_client(client_secret="new", token_storage=storage).ensure_token() == new
    assert len(tokens.requests) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"client_id": "another"},
        {"scope": "read"},
        {"audience": "a"},
        {"resource": "https://api.example.com"},
        {"token_params": {"tenant": "b"}},
        {"token_headers": {"X-Tenant": "b"}},
        {"client_auth": "client_secret_post"},
        {"dpop": True},
    ],
    ids=str,
)
def test_clients_of_different_tokens_share_no_entry(
    make_client: MakeClient, tokens: TokenServer, options: dict[str, Any]
) -> None:
    storage: dict[str, str] = {}
    assert make_client(token_storage=storage).ensure_token()
    if "dpop" in options:
        tokens.members = {"token_type": "DPoP"}
    assert make_client(token_storage=storage, **options).ensure_token()
    assert len(storage) == len(tokens.requests) == 2


def test_a_key_of_the_users_own(make_client: MakeClient) -> None:
    storage: dict[str, str] = {"token-of-alf-0.7_access_token": "untouched"}
    assert make_client(token_storage=storage, token_storage_key="mine").ensure_token()
    assert set(storage) == {"token-of-alf-0.7_access_token", "mine"}


@pytest.mark.parametrize(
    ("key", "error"),
    [
        (b"bytes", TypeError),
        ("", ValueError),
        ("a b", ValueError),
        ("ü", ValueError),
        ("a\n", ValueError),
        ("a" * 241, ValueError),
    ],
)
def test_a_key_that_is_none(make_client: MakeClient, key: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="token_storage_key"):
        make_client(token_storage={}, token_storage_key=key)


@pytest.mark.parametrize(
    ("one", "another"),
    [
        (("tenant-a", "s"), ("tenant-b", "s")),
        (HTTPBasicAuth("tenant-a", "s"), HTTPBasicAuth("tenant-b", "s")),
        (HTTPBasicAuth(b"tenant-a", b"s"), HTTPBasicAuth(b"tenant-b", b"s")),
    ],
    ids=["pairs", "HTTPBasicAuth", "bytes"],
)
def test_two_tenants_under_one_client_id_share_no_entry(
    make_client: MakeClient, one: Any, another: Any
) -> None:
    storage: dict[str, str] = {}
    for auth in (one, another, one):
        assert make_client(
            client_auth=auth, client_secret=None, token_storage=storage
        ).ensure_token()
    assert len(storage) == 2


class Signing:
    """Signs requests as a client that only it knows."""

    def __call__(self, request: Any) -> Any:
        return request


class Named(Signing):
    def __init__(self, identity: str) -> None:
        self.identity = identity


def test_a_callable_has_to_say_which_client_it_authenticates(make_client: MakeClient) -> None:
    storage: dict[str, str] = {}
    options: dict[str, Any] = {"client_secret": None, "token_storage": storage}
    with pytest.raises(TypeError, match="token_storage_key"):
        make_client(client_auth=Signing(), **options)
    assert make_client(client_auth=Signing(), token_storage_key="mine", **options).ensure_token()
    for identity in ("a", "b", "a"):
        assert make_client(client_auth=Named(identity), **options).ensure_token()
    assert len(storage) == 3


@pytest.fixture
def certs(tmp_path: Path) -> list[str]:
    """Paths of two files; the endpoint speaks plain HTTP, so nobody reads them."""
    paths = [tmp_path / "a.pem", tmp_path / "b.pem"]
    for path in paths:
        path.write_text("")
    return [str(path) for path in paths]


def test_the_certificate_in_effect_is_part_of_the_key(
    make_client: MakeClient, certs: list[str]
) -> None:
    storage: dict[str, str] = {}
    for cert in (*certs, certs[0]):
        client = make_client(token_storage=storage)
        client.cert = cert
        assert client.ensure_token()
    assert len(storage) == 2


def test_the_certificate_of_a_session_that_was_handed_in_is_part_of_the_key(
    make_client: MakeClient, certs: list[str]
) -> None:
    storage: dict[str, str] = {}
    for cert in (None, certs[0], None):
        with requests.Session() as session:
            session.cert = cert
            assert make_client(token_storage=storage, token_session=session).ensure_token()
    assert len(storage) == 2


def test_a_no_break_space_does_not_separate_scopes() -> None:
    keys = {
        entry_key(ENDPOINT, "client-id", [("scope", scope)])
        for scope in ("a\xa0b", "a b", "b a", "b\xa0a")
    }
    assert len(keys) == 3


def test_the_key_does_not_help_to_guess_a_password() -> None:
    params = [("grant_type", "password"), ("password", "hunter2")]
    key = entry_key(ENDPOINT, "client-id", params)
    plain = json.dumps([ENDPOINT, "client-id", sorted(params), [], ""])
    assert hashlib.sha256(plain.encode()).hexdigest()[:40] not in key
    others = {
        entry_key(ENDPOINT, "client-id", [params[0], ("password", "hunter3")]),
        entry_key(ENDPOINT, "another", params),
        entry_key(ENDPOINT + "/other", "client-id", params),
    }
    assert len({key, *others}) == 4


def test_a_key_for_no_storage(make_client: MakeClient) -> None:
    with pytest.raises(TypeError, match="token_storage_key"):
        make_client(token_storage_key="mine")


# -- the entry ---------------------------------------------------------------------------------


def test_one_key_and_one_value_with_a_format_version(
    make_client: MakeClient, tokens: TokenServer, clock: TurnedClock
) -> None:
    tokens.members = {"scope": "read", "tenant": "t"}
    storage = Plain()
    client = make_client(token_storage=storage, clock=clock)
    assert client.ensure_token()
    (key,) = storage.entries
    assert key.startswith("alf:2:127.0.0.1:client-id:")
    assert json.loads(only(storage)) == {
        "v": 2,
        "key": key,
        "sequence": 1,
        "took": 0.0,
        "access_token": "token-1",
        "token_type": "Bearer",
        "issued_at": NOW,
        "expires_at": NOW + 3600,
        "scope": "read",
        "extra": {"tenant": "t"},
    }
    assert make_client(token_storage=storage, clock=clock).ensure_token() == client.ensure_token()
    assert len(tokens.requests) == 1


@pytest.mark.parametrize("make", [dict, UserDict, Plain, Expiring, Locking, Adding, Faulty])
def test_a_token_that_another_process_stored_is_used(
    make_client: MakeClient, tokens: TokenServer, api: Api, make: type[Any]
) -> None:
    storage = make()
    for _ in range(3):
        assert make_client(token_storage=storage).get(api.url).status_code == 200
    assert len(tokens.requests) == 1


@pytest.mark.parametrize("convert", [str.encode, lambda value: bytearray(value.encode())])
def test_a_storage_that_gives_bytes(
    make_client: MakeClient, tokens: TokenServer, convert: Callable[[str], Any]
) -> None:
    storage = Plain()
    assert make_client(token_storage=storage).ensure_token()
    (key,) = storage.entries
    storage.entries[key] = convert(storage.entries[key])
    assert make_client(token_storage=storage).ensure_token().access_token == "token-1"


class NoValue:
    """As dogpile.cache has one."""

    def __bool__(self) -> bool:
        return False


@pytest.mark.parametrize("absent", [None, b"", "", False, NoValue()])
def test_what_storages_give_where_there_is_nothing(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture, absent: Any
) -> None:
    storage = Plain()
    storage.entries["mine"] = absent
    assert make_client(token_storage=storage, token_storage_key="mine").ensure_token()
    assert json.loads(only(storage))["access_token"] == "token-1"
    assert not warnings_of(caplog)


@pytest.mark.parametrize("error", [KeyError("mine"), FileNotFoundError()])
def test_storages_that_raise_where_there_is_nothing(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    storage = Faulty()
    storage.get_error = error
    assert make_client(token_storage=storage).ensure_token()
    assert json.loads(only(storage))["access_token"] == "token-1"
    assert not warnings_of(caplog)


GOOD = json.loads(entry("stored-token"))


@pytest.mark.parametrize(
    "value",
    [
        b"\xff\xfe stored-token",
        '{"access_token": "stored-token"',
        '["stored-token"]',
        '"stored-token"',
        "17",
        "[" * 100_000,
        json.dumps({**GOOD, "v": 1}),
        json.dumps({name: value for name, value in GOOD.items() if name != "v"}),
        json.dumps({**GOOD, "key": "theirs"}),
        json.dumps({**GOOD, "sequence": "1"}),
        json.dumps({**GOOD, "extra": {"padding": "x" * 300_000}}),
        3_000_000_000,
        json.dumps({name: value for name, value in GOOD.items() if name != "expires_at"}),
        json.dumps({**GOOD, "access_token": "stored-token\r\nX-Header: y"}),
        json.dumps({**GOOD, "token_type": "Bearer x\r\nX-Header: y"}),
        json.dumps({**GOOD, "token_type": None}),
        json.dumps({**GOOD, "expires_at": float("nan")}),
        json.dumps({**GOOD, "expires_at": "soon"}),
        json.dumps({**GOOD, "issued_at": None}),
        json.dumps({**GOOD, "issued_at": float("inf")}),
        json.dumps({**GOOD, "scope": ["read"]}),
        json.dumps({**GOOD, "extra": 17}),
        17,
        {"access_token": "stored-token"},
        object(),
        Odd(),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_rubbish_is_logged_once_and_replaced(
    make_client: MakeClient,
    api: Api,
    clock: TurnedClock,
    caplog: pytest.LogCaptureFixture,
    value: Any,
) -> None:
    caplog.set_level(logging.DEBUG, logger="alf")
    storage = Locking()
    storage.entries["mine"] = value
    client = make_client(token_storage=storage, token_storage_key="mine", clock=clock)
    assert client.get(api.url).status_code == 200
    assert json.loads(only(storage))["access_token"] == "token-1"
    (warning,) = warnings_of(caplog)
    assert "mine" in warning
    assert "stored-token" not in caplog.text


@pytest.mark.parametrize("scheme", ["DPoP", "Basic", "bearer-but-not-quite"])
def test_a_stored_token_of_another_scheme_is_replaced(
    make_client: MakeClient, api: Api, clock: TurnedClock, scheme: str
) -> None:
    storage = {"mine": json.dumps({**GOOD, "token_type": scheme})}
    client = make_client(token_storage=storage, token_storage_key="mine", clock=clock)
    assert client.get(api.url).status_code == 200
    assert [request.authorization for request in api.requests] == ["Bearer token-1"]
    assert json.loads(storage["mine"])["access_token"] == "token-1"


def test_members_that_a_later_version_adds_are_ignored(
    make_client: MakeClient, clock: TurnedClock
) -> None:
    storage = {"mine": json.dumps({**GOOD, "more": 1})}
    client = make_client(token_storage=storage, token_storage_key="mine", clock=clock)
    assert client.ensure_token().access_token == "stored-token"


@pytest.mark.parametrize(
    "stored",
    [
        entry("stored-token", expires_at=NOW),
        entry("stored-token", issued_at=NOW - 3590, expires_at=NOW + 5),
        entry("stored-token", issued_at=NOW + 3600, expires_at=NOW + 7200),
    ],
    ids=["dead", "dead within the leeway", "of a wrong clock"],
)
def test_a_stored_token_that_is_not_good_is_replaced(
    make_client: MakeClient, clock: TurnedClock, stored: str
) -> None:
    storage = {"mine": stored}
    client = make_client(token_storage=storage, token_storage_key="mine", clock=clock)
    assert client.ensure_token().access_token == "token-1"
    assert json.loads(only(storage))["access_token"] == "token-1"


@pytest.mark.parametrize("expires_in", [0, -1])
def test_a_dead_token_is_never_stored(
    make_client: MakeClient, tokens: TokenServer, clock: TurnedClock, expires_in: int
) -> None:
    storage = Locking()
    client = make_client(token_storage=storage, clock=clock)
    tokens.expires_in = expires_in
    for _ in range(3):
        assert client.ensure_token()
    assert not storage.entries
    # From the second on they are not asked for one process after the other, either.
    assert len(storage.taken) == 1
    tokens.expires_in = 3600
    assert client.ensure_token()
    assert client.renew_token()
    assert len(storage.taken) == 2


# -- when storage is read ----------------------------------------------------------------------


def test_a_call_with_a_good_token_touches_no_storage(make_client: MakeClient, api: Api) -> None:
    storage = Faulty()
    client = make_client(token_storage=storage)
    client.get(api.url)
    storage.calls.clear()
    for _ in range(20):
        assert client.get(api.url).status_code == 200
    assert not storage.calls


def test_a_refused_token_is_replaced_from_storage(
    make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    storage = Locking()
    first, second = (make_client(token_storage=storage) for _ in range(2))
    assert first.get(api.url).status_code == second.get(api.url).status_code == 200
    tokens.alive.clear()
    assert first.get(api.url).status_code == 200
    assert second.get(api.url).status_code == 200
    assert len(tokens.requests) == 2


def test_storage_holds_the_refused_token_only_and_the_endpoint_gives_none(
    make_client: MakeClient, tokens: TokenServer, api: Api
) -> None:
    storage = Locking()
    client = make_client(token_storage=storage)
    assert client.get(api.url).status_code == 200
    before = dict(storage.entries)
    tokens.alive.clear()
    tokens.replies = [Reply(503)]
    assert client.get(api.url).status_code == 503
    assert storage.entries == before  # neither emptied nor replaced
    assert not storage.held
    assert client.get(api.url).status_code == 200
    assert json.loads(only(storage))["access_token"] == "token-2"


def test_early_renewal_takes_what_another_process_has_renewed(
    make_client: MakeClient, tokens: TokenServer, clock: TurnedClock
) -> None:
    storage = Plain()
    first, second = (
        make_client(token_storage=storage, clock=clock, token_refresh="blocking") for _ in range(2)
    )
    assert first.ensure_token().access_token == second.ensure_token().access_token == "token-1"
    clock.turn(3560)
    assert first.ensure_token().access_token == second.ensure_token().access_token == "token-2"
    assert len(tokens.requests) == 2


def test_a_token_that_is_handed_out_until_it_is_dead_is_asked_for_by_one_process(
    make_client: MakeClient, tokens: TokenServer, clock: TurnedClock
) -> None:
    def same(_request: Request) -> Reply:
        life = NOW + 3600 - clock.time()
        return Reply(body={"access_token": "same", "token_type": "Bearer", "expires_in": life})

    tokens.replies = [same] * 10
    storage = Locking()
    clients = [
        make_client(token_storage=storage, clock=clock, token_refresh="blocking") for _ in range(4)
    ]

    def call_all() -> int:
        for client in clients:
            for _ in range(3):
                assert client.ensure_token().access_token == "same"
        return len(tokens.requests)

    assert call_all() == 1
    clock.turn(3560)  # into the stretch for early renewal
    assert call_all() == 2
    clock.turn(25)  # a refresh that gained no life is repeated after 30 s at the earliest
    assert call_all() == 2


@pytest.mark.parametrize("expires_at", [NOW + 3600, None])
def test_a_newer_entry_is_not_overwritten_by_an_older_token(
    make_client: MakeClient, tokens: TokenServer, clock: TurnedClock, expires_at: float | None
) -> None:
    storage: dict[str, str] = {}
    client = make_client(token_storage=storage, token_storage_key="mine", clock=clock)

    def overtaken(_request: Request) -> Reply:
        clock.turn(2)
        storage["mine"] = entry("newer", issued_at=NOW + 1, expires_at=expires_at)
        return tokens.granted()

    tokens.replies = [overtaken]
    assert client.renew_token().access_token == "token-1"
    assert json.loads(storage["mine"])["access_token"] == "newer"
    assert client.renew_token().access_token == "token-2"
    assert json.loads(storage["mine"])["access_token"] == "token-2"


@pytest.mark.parametrize(
    "other",
    [
        entry("older", issued_at=NOW - 1),
        entry("dead", issued_at=NOW + 1, expires_at=NOW + 2),
        entry("of a fast clock", issued_at=NOW + 30).replace(" of a", "of-a").replace(" ", "-"),
    ],
    ids=["older", "dead", "of a fast clock"],
)
def test_an_entry_that_is_not_newer_is_overwritten(
    make_client: MakeClient, tokens: TokenServer, clock: TurnedClock, other: str
) -> None:
    storage: dict[str, str] = {}
    client = make_client(token_storage=storage, token_storage_key="mine", clock=clock)

    def overtaken(_request: Request) -> Reply:
        clock.turn(2)
        storage["mine"] = other
        return tokens.granted()

    tokens.replies = [overtaken]
    client.renew_token()
    assert json.loads(storage["mine"])["access_token"] == "token-1"


def test_a_reset_manager_takes_a_newer_token_of_another_process(tokens: TokenServer) -> None:
    storage: dict[str, str] = {}
    first, second = (
        TokenManager(tokens.endpoint, "client-id", "top-secret", storage) for _ in range(2)
    )
    assert first.get_token() == second.get_token() == "token-1"
    first.reset_token()
    assert first.get_token() == "token-2"
    second.reset_token()
    assert second.get_token() == "token-2"
    first.close()
    second.close()


# -- values that are not entries ---------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        pickle.UnpicklingError(),
        EOFError(),
        ModuleNotFoundError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_value_that_the_storage_cannot_decode_is_replaced(
    make_client: MakeClient,
    tokens: TokenServer,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    class Decoding(Expiring):
        is_spoilt = True

        def get(self, key: str) -> Any:
            if self.is_spoilt and not key.endswith(":refused"):
                raise error
            return super().get(key)

        def set(self, key: str, value: str, ttl: int | None = None) -> Any:
            self.is_spoilt = False
            return super().set(key, value, ttl)

    storage = Decoding()
    for _ in range(2):
        assert make_client(token_storage=storage).ensure_token()
    assert len(tokens.requests) == 1
    (warning,) = warnings_of(caplog)
    assert "will be replaced" in warning


class WrongType(Expiring):
    """Says what Redis says about a list, until it is replaced."""

    def get(self, key: str) -> Any:
        if not self.entries:
            message = "WRONGTYPE Operation against a key holding the wrong kind of value"
            raise RuntimeError(message)
        return super().get(key)


def test_a_list_under_a_key_of_alf_is_replaced(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    storage = WrongType()
    for _ in range(2):
        assert make_client(token_storage=storage).ensure_token()
    assert len(tokens.requests) == 1


def test_a_list_under_a_key_of_the_user_is_left_alone(
    make_client: MakeClient, tokens: TokenServer, caplog: pytest.LogCaptureFixture
) -> None:
    storage = WrongType()
    client = make_client(token_storage=storage, token_storage_key="mine")
    for number in (1, 2, 3):
        assert client.renew_token().access_token == f"token-{number}"
    assert not storage.entries
    (warning,) = warnings_of(caplog)
    assert "left alone" in warning


def test_secrets_of_the_answer_are_not_stored(
    make_client: MakeClient, tokens: TokenServer, clock: TurnedClock
) -> None:
    tokens.members = {"refresh_token": "r", "id_token": "i", "tenant": "t", "refresh_in": 60}
    storage = Plain()
    assert make_client(token_storage=storage, clock=clock).ensure_token()
    assert json.loads(only(storage))["extra"] == {"tenant": "t", "refresh_in": 60}


def test_a_late_writer_does_not_replace_a_token_that_was_requested_after_its_own() -> None:
    storage: dict[str, Any] = {}
    slow, fast = (TokenStorage(storage, "mine") for _ in range(2))
    assert slow.load() is None
    # By a clock that is behind; only the order of the requests tells which one is newer.
    for number in (1, 2):
        fast.save(Token(f"fast-{number}", issued_at=1.0))
    slow.save(Token("slow", issued_at=2.0))
    assert slow.load() == Token("fast-2", issued_at=1.0)


# -- a refusal of the client -------------------------------------------------------------------


def test_a_refusal_is_for_the_same_credential_and_for_a_short_time() -> None:
    storage: dict[str, Any] = {}
    clock = TurnedClock()
    first, second = (TokenStorage(storage, "mine", clock=clock) for _ in range(2))
    assert second.load_refusal("top-secret") is None
    first.save_refusal("top-secret", 401, "invalid_client", "no such client", seconds=3600)
    assert "top-secret" not in str(storage)
    refusal = second.load_refusal("top-secret")
    assert refusal is not None
    assert (refusal.status, refusal.error) == (401, "invalid_client")
    assert refusal.description == "no such client"
    assert second.load_refusal("another-secret") is None
    clock.turn(30)
    assert second.load_refusal("top-secret") is None
    first.save_refusal("top-secret", 429, seconds=0)
    assert second.load_refusal("top-secret") is None


@pytest.mark.parametrize("value", ["rubbish", b"\xff", 7, "{}", json.dumps({"v": 2, "key": "x"})])
def test_a_refusal_that_is_not_one_is_ignored(value: Any) -> None:
    storage = TokenStorage({"mine:refused": value}, "mine")
    assert storage.load_refusal("top-secret") is None


@pytest.mark.parametrize(
    "change", [{"status": 200}, {"status": "401"}, {"error": 7}, {"until": NOW + 3600}], ids=str
)
def test_a_refusal_with_odd_members_is_ignored(change: dict[str, Any]) -> None:
    stored: dict[str, Any] = {}
    storage = TokenStorage(stored, "mine", clock=TurnedClock())
    storage.save_refusal("top-secret", 401)
    stored["mine:refused"] = json.dumps({**json.loads(stored["mine:refused"]), **change})
    assert storage.load_refusal("top-secret") is None


def test_a_storage_that_takes_no_refusal(
    clock: TurnedClock, caplog: pytest.LogCaptureFixture
) -> None:
    storage = Faulty()
    storage.set_error = ConnectionError()
    shared = TokenStorage(storage, "mine", clock=clock)
    for _ in range(2):
        shared.save_refusal("top-secret", 401)
    assert storage.calls == ["set"]
    assert len(warnings_of(caplog)) == 1
