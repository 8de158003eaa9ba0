"""Assertions that somebody else issues, as a client sends them: from files and callables."""

from __future__ import annotations

import copy
import itertools
import pickle
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jwt
import pytest

import alf
from alf import Client, TokenError
from alf.client_auth import ClientAssertion
from tests.servers import Api, Reply, Request, TokenServer

MakeClient = Callable[..., Client]

JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
JWT_SPIFFE = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe"

INVALID_CLIENT = Reply(401, {"error": "invalid_client"})


def issue(number: object = 1) -> str:
    """An assertion of somebody else's."""
    return jwt.encode({"sub": "workload", "jti": str(number)}, "k" * 32, "HS256")


def sent(tokens: TokenServer) -> list[str]:
    return [request.form["client_assertion"] for request in tokens.requests]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(issue() + "\n")
    return path


@pytest.mark.parametrize("form", [str, Path])
def test_the_assertion_in_a_file_is_read_for_each_token_request(
    make_client: MakeClient, tokens: TokenServer, api: Api, file: Path, form: Any
) -> None:
    client = make_client(client_auth=ClientAssertion(form(file)), client_secret=None)
    assert client.get(api.url).status_code == 200
    file.write_text(issue(2))
    client.renew_token()
    assert sent(tokens) == [issue(), issue(2)]
    assert tokens.requests[0].authorization is None
    assert tokens.requests[0].pairs == [
        ("grant_type", "client_credentials"),
        ("client_id", "client-id"),
        ("client_assertion_type", JWT_BEARER),
        ("client_assertion", issue()),
    ]


def test_a_callable_may_be_told_whom_the_assertion_is_for(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    def mint(audience: str, client_id: str) -> str:
        return issue(f"{client_id} at {audience}")

    make_client(client_auth=ClientAssertion(mint), client_secret=None).renew_token()
    assert sent(tokens) == [issue(f"client-id at {tokens.endpoint}")]


def test_with_an_issuer_the_audience_is_the_issuer(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    metadata = Reply(body={"issuer": tokens.url, "token_endpoint": tokens.endpoint})
    tokens.script = lambda request: metadata if request.method == "GET" else tokens.grant(request)
    way = ClientAssertion(lambda audience: issue(audience))
    make_client(
        token_endpoint=None, issuer=tokens.url, client_auth=way, client_secret=None
    ).renew_token()
    assert tokens.requests[-1].form["client_assertion"] == issue(tokens.url)


def test_another_type_of_assertion(make_client: MakeClient, tokens: TokenServer) -> None:
    saml = "urn:ietf:params:oauth:client-assertion-type:saml2-bearer"
    for kind, assertion in ((JWT_SPIFFE, issue()), (saml, "PHNhbWw-")):
        way = ClientAssertion(lambda text=assertion: text, assertion_type=kind)
        make_client(client_auth=way, client_secret=None).renew_token()
        form = tokens.requests[-1].form
        assert (form["client_assertion_type"], form["client_assertion"]) == (kind, assertion)


def test_each_try_reads_the_assertion_anew(make_client: MakeClient, tokens: TokenServer) -> None:
    numbers = itertools.count(1)
    way = ClientAssertion(lambda: issue(next(numbers)))
    tokens.replies = [Reply(503), Reply(503)]
    make_client(client_auth=way, client_secret=None, token_retry=2).renew_token()
    assert sent(tokens) == [issue(1), issue(2), issue(3)]


def test_an_assertion_that_was_replaced_while_it_was_refused_is_sent_again(
    make_client: MakeClient, tokens: TokenServer, file: Path
) -> None:
    def refuse(_request: Request) -> Reply:
        file.write_text(issue(2))
        return INVALID_CLIENT

    tokens.replies = [refuse]
    make_client(client_auth=ClientAssertion(file), client_secret=None).renew_token()
    assert sent(tokens) == [issue(), issue(2)]


@pytest.mark.parametrize("source", ["file", "callable"])
def test_a_refused_assertion_is_not_sent_again(
    make_client: MakeClient, tokens: TokenServer, api: Api, file: Path, source: str
) -> None:
    tokens.script = lambda _request: INVALID_CLIENT
    numbers = itertools.count(1)
    way = ClientAssertion(file if source == "file" else lambda: issue(next(numbers)))
    client = make_client(client_auth=way, client_secret=None)
    assert client.get(api.url).json() == {"error": "invalid_client"}
    assert len(tokens.requests) == 1


def test_a_file_that_went_away_is_a_token_error_and_costs_no_call_while_a_token_lives(
    make_client: MakeClient, tokens: TokenServer, api: Api, file: Path, clock: Any
) -> None:
    client = make_client(
        client_auth=ClientAssertion(file),
        client_secret=None,
        clock=clock,
        token_refresh="blocking",
    )
    client.renew_token()
    file.unlink()
    clock.turn(3000)
    assert client.get(api.url).status_code == 200
    clock.turn(3000)
    with pytest.raises(TokenError, match=f"the file '{file}' does not exist"):
        client.get(api.url)
    file.write_text(issue(2))
    clock.turn(60)
    assert client.get(api.url).status_code == 200
    assert sent(tokens) == [issue(), issue(2)]


def test_a_callable_that_fails_costs_no_call_while_a_token_lives(
    make_client: MakeClient, tokens: TokenServer, api: Api, clock: Any
) -> None:
    answers: list[Any] = [issue()]

    def mint() -> str:
        return str(answers.pop())  # an IndexError in the end

    client = make_client(
        client_auth=ClientAssertion(mint),
        client_secret=None,
        clock=clock,
        token_refresh="blocking",
    )
    client.renew_token()
    clock.turn(3000)
    assert client.get(api.url).status_code == 200
    clock.turn(3000)
    with pytest.raises(IndexError):
        client.get(api.url)
    assert len(tokens.requests) == 1


# -- sharing -----------------------------------------------------------------------------------


class Workload:
    def __init__(self, identity: str) -> None:
        self.identity = identity

    def __call__(self) -> str:
        return issue(self.identity)


def test_a_stored_token_is_for_the_source_of_its_assertion(
    make_client: MakeClient, tokens: TokenServer, tmp_path: Path
) -> None:
    storage: dict[str, Any] = {}
    paths = [tmp_path / name for name in ("one", "two")]
    for path in paths:
        path.write_text(issue(path.name))
    sources: list[Any] = [*paths, str(paths[0]), Workload("a"), Workload("b"), Workload("a")]
    seen = [
        make_client(
            token_storage=storage, client_auth=ClientAssertion(source), client_secret=None
        ).ensure_token()
        for source in sources
    ]
    assert [token.access_token for token in seen] == [f"token-{n}" for n in (1, 2, 1, 3, 4, 3)]
    assert not any("one" in key for key in storage)


def test_a_callable_without_a_name_needs_a_key_for_its_tokens(make_client: MakeClient) -> None:
    way = ClientAssertion(lambda: issue())
    with pytest.raises(TypeError, match=r"needs a token_storage_key: .*attribute identity"):
        make_client(token_storage={}, client_auth=way, client_secret=None)
    client = make_client(
        token_storage={}, token_storage_key="mine", client_auth=way, client_secret=None
    )
    assert client.ensure_token().access_token == "token-1"


def test_a_refused_assertion_is_not_held_against_the_next_one(
    make_client: MakeClient, tokens: TokenServer, api: Api, file: Path
) -> None:
    """Another process may have another assertion by now: its refusal is not shared."""
    storage: dict[str, Any] = {}
    tokens.replies = [INVALID_CLIENT]
    options = {"token_storage": storage, "client_secret": None}
    first, second = (make_client(client_auth=ClientAssertion(file), **options) for _ in range(2))
    assert first.get(api.url).status_code == 401
    assert second.get(api.url).status_code == 200


@pytest.mark.parametrize(
    "travel", [copy.deepcopy, lambda client: pickle.loads(pickle.dumps(client))]
)
def test_the_source_travels_with_the_client(
    make_client: MakeClient, tokens: TokenServer, file: Path, travel: Any
) -> None:
    for source in (file, Workload("a")):
        client = make_client(client_auth=ClientAssertion(source), client_secret=None)
        with travel(client) as clone:
            clone.renew_token()
    assert sent(tokens) == [issue(), issue("a")]


# -- wrong input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: ClientAssertion(issue()), ValueError, "source must be the path .* token itself"),
        (lambda: ClientAssertion(7), TypeError, "source must be a path or a callable, got int"),
        (lambda: ClientAssertion(lambda url: url), TypeError, "not url"),
        (lambda: ClientAssertion("token", assertion_type=""), ValueError, "must not be empty"),
        (lambda: ClientAssertion("token", assertion_type=7), TypeError, "must be a str"),
        (
            lambda: ClientAssertion("token", assertion_type="jwt-spiffe"),
            ValueError,
            "assertion_type must be an absolute URI, got 'jwt-spiffe'",
        ),
    ],
)
def test_wrong_input_is_an_error_at_construction(
    make: Callable[[], object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as failure:
        make()
    assert issue() not in str(failure.value)


def test_a_secret_besides_is_of_no_use(make_client: MakeClient, file: Path) -> None:
    with pytest.raises(TypeError, match="client_auth 'client_assertion' has no use for it"):
        make_client(client_auth=ClientAssertion(file))


@pytest.mark.parametrize("name", ["client_assertion", "client_assertion_type"])
def test_an_assertion_among_the_parameters_is_told_where_to_go(
    make_client: MakeClient, name: str
) -> None:
    with pytest.raises(ValueError, match=r"such as alf\.client_auth\.ClientAssertion"):
        make_client(token_params={name: issue()})


def test_a_repr_says_the_source_and_not_what_is_in_it(file: Path) -> None:
    assert repr(ClientAssertion(file)) == f"ClientAssertion(Source('{file}'))"
    assert repr(ClientAssertion(Workload("a"))) == "ClientAssertion(Source(Workload))"
    assert repr(object.__new__(ClientAssertion)) == "ClientAssertion('')"


# -- the environment ---------------------------------------------------------------------------


def test_a_variable_names_the_file(
    monkeypatch: pytest.MonkeyPatch, tokens: TokenServer, file: Path
) -> None:
    monkeypatch.setenv("ALF_TOKEN_ENDPOINT", tokens.endpoint)
    monkeypatch.setenv("ALF_CLIENT_ID", "client-id")
    monkeypatch.setenv("ALF_CLIENT_ASSERTION_FILE", str(file))
    with Client.from_env() as client:
        client.renew_token()
        file.write_text(issue(2))
        client.renew_token()
    assert sent(tokens) == [issue(), issue(2)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (issue(), "got the token itself"),
        ("/nowhere/token", "the file cannot be read: No such file"),
        ("-", "expected the path of a file"),
    ],
)
def test_a_variable_without_a_file_is_an_error_that_does_not_show_it(
    monkeypatch: pytest.MonkeyPatch, tokens: TokenServer, text: str, words: str
) -> None:
    monkeypatch.setenv("ALF_TOKEN_ENDPOINT", tokens.endpoint)
    monkeypatch.setenv("ALF_CLIENT_ID", "client-id")
    monkeypatch.setenv("ALF_CLIENT_ASSERTION_FILE", text)
    with pytest.raises(ValueError, match=f"ALF_CLIENT_ASSERTION_FILE: .*{words}") as failure:
        alf.Client.from_env()
    assert issue() not in str(failure.value)


# -- rotation under load -----------------------------------------------------------------------


class Kubelet:
    """Replaces the files of a volume as kubelet does: by a link to another directory."""

    def __init__(self, volume: Path) -> None:
        self.path = volume / "token"
        self.issued: list[str] = []
        self._volume = volume
        self._folder: Path | None = None
        self.rotate()
        self.path.symlink_to(Path("..data") / "token")

    def rotate(self) -> None:
        before = self._folder
        self._folder = self._volume / f"..{len(self.issued)}"
        self._folder.mkdir()
        self.issued.append(issue(len(self.issued)))
        (self._folder / "token").write_text(self.issued[-1])
        link = self._volume / "..data_tmp"
        link.symlink_to(self._folder.name)
        link.replace(self._volume / "..data")
        if before is not None:
            shutil.rmtree(before)


class Careless:
    """Replaces a file by writing it again, as ``echo`` into it does, or by removing it first."""

    def __init__(self, volume: Path) -> None:
        self.path = volume / "token"
        self.issued: list[str] = []
        self.rotate()

    def rotate(self) -> None:
        self.issued.append(issue(len(self.issued)))
        if len(self.issued) % 2:
            self.path.unlink(missing_ok=True)
        self.path.write_text(self.issued[-1])


@pytest.mark.parametrize(("make_writer", "pause"), [(Kubelet, 0.002), (Careless, 0.05)])
def test_a_rotation_under_load_costs_no_request(
    make_client: MakeClient, tokens: TokenServer, tmp_path: Path, make_writer: Any, pause: float
) -> None:
    writer = make_writer(tmp_path)
    is_over = threading.Event()

    def rotate() -> None:
        while not is_over.wait(pause):
            writer.rotate()

    def check(request: Request) -> Reply:
        # The issuer's earlier assertions are valid for a while longer.
        is_known = request.form["client_assertion"] in writer.issued
        return tokens.grant(request) if is_known else INVALID_CLIENT

    tokens.script = check
    clients = [
        make_client(client_auth=ClientAssertion(writer.path), client_secret=None) for _ in range(8)
    ]

    def renew(client: Client) -> int:
        return len({client.renew_token().access_token for _ in range(25)})

    thread = threading.Thread(target=rotate)
    thread.start()
    try:
        with ThreadPoolExecutor(16) as pool:
            counts = list(pool.map(renew, clients * 2))
    finally:
        is_over.set()
        thread.join()
    assert len(set(sent(tokens))) > 2
    assert min(counts) > 1
