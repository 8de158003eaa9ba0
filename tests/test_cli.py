"""The command line: what it prints, and where, and the exit codes."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from alf import Client
from alf._cli import main
from alf._environment import SETTINGS
from tests.servers import Api, Reply, TokenServer, hang_up
from tests.test_documentation import ROOT, examples

SECRET = "top-s3cret"

pty = pytest.importorskip("pty")  # Windows has none


@dataclass
class Done:
    """What a run has left."""

    status: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.decode().splitlines()


Run = Callable[..., Done]


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch, tokens: TokenServer) -> dict[str, str]:
    variables = {
        "ALF_TOKEN_ENDPOINT": tokens.endpoint,
        "ALF_CLIENT_ID": "client-id",
        "ALF_CLIENT_SECRET": SECRET,
    }
    for name in os.environ:
        if name.startswith("ALF_"):
            monkeypatch.delenv(name)
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    return variables


@pytest.fixture
def run(capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command in this process. Whatever it does, it says one line at most of trouble."""

    def run(*arguments: str, stdin: bytes = b"", **variables: str) -> Done:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.MonkeyPatch.context() as patch:
            for name, text in variables.items():
                patch.setenv(name, text)
            try:
                status: Any = main(arguments)
            except SystemExit as end:
                status = end.code
        captured = capsysbinary.readouterr()
        err = captured.err.decode()
        assert SECRET not in err
        assert "token-1" not in err
        assert err == "" or (err.startswith("alf: ") and err.endswith("\n"))
        assert err.count("\n") <= 1
        assert err.rstrip("\n").isprintable()
        return Done(status, captured.out, err)

    return run


def start(
    *arguments: str, command: Sequence[str] = ("-m", "alf"), **options: Any
) -> subprocess.Popen[bytes]:
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, *command, *arguments],
        cwd=ROOT,
        **{
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            **options,
        },
    )


class Screen(io.StringIO):
    """What a terminal is written, without what the terminal makes of it."""

    def isatty(self) -> bool:
        return True


@contextlib.contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """Both ends of one: what a user has, and what a program has."""
    user, program = os.openpty()
    try:
        yield user, program
    finally:
        os.close(user)
        os.close(program)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


# -- alf token ---------------------------------------------------------------------------------


def test_a_token_goes_plain_into_a_pipe(run: Run, tokens: TokenServer) -> None:
    done = run("token")
    assert (done.status, done.out) == (0, b"token-1\n")
    assert (
        tokens.requests[0].authorization
        == "Basic " + base64.b64encode(f"client-id:{SECRET}".encode()).decode()
    )


def test_a_token_is_masked_on_a_terminal(
    run: Run, tokens: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with terminal() as (user, program), open(program, "w", closefd=False) as screen:
        monkeypatch.setattr(sys, "stdout", screen)
        assert run("token").status == 0
        assert os.read(user, 1000).decode() == "************ (7 characters; --show prints them)\r\n"
        assert run("token", "--show").status == 0
        assert os.read(user, 1000) == b"token-2\r\n"


def test_a_token_as_a_header(run: Run, tokens: TokenServer) -> None:
    assert run("token", "--header").out == b"Authorization: Bearer token-1\n"
    tokens.members = {"token_type": "DPoP"}
    assert run("token", "--header", "--dpop=yes").out == b"Authorization: DPoP token-2\n"


def test_a_token_as_json(run: Run, tokens: TokenServer) -> None:
    tokens.members = {"scope": "read write"}
    shown = json.loads(run("token", "--json").out)
    assert shown == {
        "access_token": "token-1",
        "token_type": "Bearer",
        "expires_in": pytest.approx(3600, abs=60),
        "expires_at": pytest.approx(time.time() + 3600, abs=60),
        "scope": "read write",
    }
    tokens.expires_in = None
    shown = json.loads(run("token", "--json").out)
    assert (shown["expires_in"], shown["expires_at"]) == (None, None)


@pytest.mark.parametrize("form", ["--header", "--json"])
def test_no_form_of_a_token_shows_it_on_a_terminal(
    run: Run, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    with terminal() as (user, program), open(program, "w", closefd=False) as screen:
        monkeypatch.setattr(sys, "stdout", screen)
        assert run("token", form).status == 0
        shown = os.read(user, 1000).decode()
        assert "************ (7 characters; --show prints them)" in shown
        assert "token-1" not in shown
        assert run("token", form, "--show").status == 0
        assert b"token-2" in os.read(user, 1000)


def test_another_prefix_is_another_profile(run: Run, tokens: TokenServer) -> None:
    reports = {
        "REPORTS_TOKEN_ENDPOINT": f"{tokens.url}/reports",
        "REPORTS_CLIENT_ID": "reports",
        "REPORTS_CLIENT_SECRET": SECRET,
    }
    for command in ("token", "inspect"):
        assert run(command, "--prefix", "REPORTS_", ALF_SCOPE="read", **reports).status == 0
    assert [request.path for request in tokens.requests] == ["/reports"] * 2
    assert "scope" not in tokens.requests[0].form
    done = run("token", "--prefix=OTHER_")
    assert done.status == 2
    assert "not set: OTHER_TOKEN_ENDPOINT (or OTHER_ISSUER), OTHER_CLIENT_ID" in done.err


def test_a_token_request_that_takes_long_is_mentioned_on_a_terminal(tokens: TokenServer) -> None:
    noted = threading.Event()

    def answer(_request: Any) -> Reply:
        noted.wait(20)
        return tokens.granted()

    tokens.replies = [answer]
    with terminal() as (user, program):
        process = start("token", stderr=program)
        shown = b""
        while not shown.endswith(b"\n"):
            shown += os.read(user, 1000)
        noted.set()
        printed, _ = process.communicate(timeout=30)
    assert shown == b"alf: still waiting for the token endpoint\r\n"
    assert (process.returncode, printed) == (0, b"token-1\n")


def test_an_api_that_takes_long_is_not_the_token_endpoint(tokens: TokenServer, api: Api) -> None:
    def answer(_request: Any) -> Reply:
        time.sleep(2.5)  # longer than a token request may take unmentioned
        return Reply(200, b"late")

    api.pages["/"] = answer
    with terminal() as (user, program):
        process = start("request", "GET", api.url, stderr=program)
        printed, _ = process.communicate(timeout=30)
        os.set_blocking(user, False)
        with pytest.raises(BlockingIOError):
            os.read(user, 1000)
    assert (process.returncode, printed) == (0, b"late")


def test_a_token_can_be_written_to_any_stream(run: Run) -> None:
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream):
        assert run("token").status == 0
    assert stream.getvalue() == "token-1\n"


def test_options_say_what_variables_say(run: Run, tokens: TokenServer, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("of the file\n")
    done = run(
        "token",
        "--token-endpoint",
        f"{tokens.url}/other",
        "--client-id=me",
        f"--client-secret-file={path}",
        "--client-auth",
        "client_secret_post",
        "--scope",
        "read write",
        "--token-params",
        "a=1",
        ALF_SCOPE="of the environment",
    )
    assert done.status == 0
    assert tokens.requests[0].path == "/other"
    assert tokens.requests[0].form == {
        "grant_type": "client_credentials",
        "client_id": "me",
        "client_secret": "of the file",
        "scope": "read write",
        "a": "1",
    }


def test_a_token_is_kept_in_a_file_for_the_next_run(
    run: Run, tokens: TokenServer, api: Api, tmp_path: Path
) -> None:
    variables = {"ALF_TOKEN_STORAGE": "file", "XDG_CACHE_HOME": str(tmp_path)}
    assert [run("token", **variables).out for _ in range(2)] == [b"token-1\n"] * 2
    assert run("request", "GET", api.url, **variables).status == 0
    assert len(tokens.requests) == 1
    assert run("token", "--renew", **variables).out == b"token-2\n"
    assert run("token", **variables).out == b"token-2\n"
    # What is inspected is the endpoint, and what is kept stays.
    assert run("inspect", **variables).status == 0
    assert len(tokens.requests) == 3
    assert run("token", **variables).out == b"token-2\n"


def test_an_endpoint_that_refuses(run: Run, tokens: TokenServer) -> None:
    description = "no\x1b[31m\nsuch client"
    tokens.replies = [Reply(401, {"error": "invalid_client", "error_description": description})]
    done = run("token")
    assert (done.status, done.out) == (1, b"")
    assert "401 invalid_client (no [31m such client); 'alf inspect' says what to try" in done.err


def test_an_endpoint_that_answers_with_something_else(run: Run, tokens: TokenServer) -> None:
    tokens.replies = [Reply(200, "<html>", {"Content-Type": "text/html"})]
    done = run("token")
    assert (done.status, done.out) == (1, b"")
    assert "text/html" in done.err


def test_no_endpoint_at_all(run: Run) -> None:
    port = closed_port()
    endpoint = f"http://user:{SECRET}@127.0.0.1:{port}/token?key={SECRET}"
    done = run("token", "--token-endpoint", endpoint)
    assert (done.status, done.out) == (3, b"")
    assert done.err == f"alf: no answer from http://127.0.0.1:{port}/token: Connection refused\n"


# -- what the user gets wrong ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "required: COMMAND (see alf --help)"),
        (("tokens",), "invalid choice (choose from"),
        (("token", "--scop", SECRET), "unrecognized arguments: --scop (see alf token --help)"),
        (("request", "GET"), "URL (see alf request --help)"),
        (("inspect", "--token-timeout", "soon"), "(see alf inspect --help)"),
        (("token", "--json", "--header"), "not allowed with argument --json (see alf token"),
        (("token", "--private-key-id", SECRET), "private_key_id without private_key_file"),
        (
            ("token", "--private-key-password", SECRET),
            "unrecognized arguments: --private-key-password",
        ),
        (("token", "--private-key-certificate", SECRET), "expected the path of a file: no such"),
        (("token", f"--secret={SECRET}", f"-s{SECRET}"), "unrecognized arguments: --secret (see"),
        (("token", SECRET), "unrecognized arguments: 1 (see"),
        ((SECRET,), "invalid choice (choose from"),
        (("token", f"--show={SECRET}"), "ignored explicit argument (see"),
        (("token", "--client-secret-file", SECRET), "the file cannot be read: No such file"),
        (("token", "--private-key-file", SECRET), "the file cannot be read: No such file"),
        (("token", "--token-cert", SECRET), "--token-cert: expected the path of a file"),
        (("token", "--token-hosts", f"{SECRET}/x"), "token_hosts: expected host names"),
        (("token", "--resource", SECRET), "resource must be an absolute URI"),
        (("token", "--token-endpoint", SECRET), "got a text without a scheme"),
        (("token", "--issuer", SECRET), "got a text without a scheme"),
        (("token", "--client-auth", SECRET), "client_auth must be one of"),
        (("token", "--token-timeout", "soon"), "--token-timeout: expected a number"),
        (("token", "--token-timeout", "-1"), "token_timeout must be above 0"),
        (("token", "--token-endpoint", "id.example.com"), "must be an http or https URL"),
        (("token", "--issuer", "https://a", "--token-endpoint", "https://b"), "issuer"),
        (("token", "--client-auth", "password"), "client_auth must be one of"),
        (("token", "--client-secret-file", "/nowhere"), "the file cannot be read: No such file"),
        (
            ("token", "--client-auth", "none", "--private-key-file", "key.pem"),
            "--client-auth and --private-key-file",
        ),
        (("token", "--token-storage", "redis"), "--token-storage: expected file"),
        (("request", "GET"), "required: URL"),
        (("request", "GET", "example.com"), "No schem"),
        (("request", "GET", "http://"), "No host supplied"),
        (("request", "GET", "ftp://example.com"), "ftp://example.com"),
        (
            ("request", "GET", "http://a", "-H", f"X {SECRET}"),
            "-H/--header: expected 'Name: value'",
        ),
        (("request", "GET", "http://a", "-H", f"X: {SECRET}\nY: z"), "control character"),
        (("request", "GET", "http://a", "-H", "authorization: x"), "is what alf writes"),
        (("request", "GET", "http://a", "-H", "Schlüssel: x"), "ascii"),
        (("request", "GET", "http://a", "-d", "@/nowhere"), "'/nowhere' cannot be read: No such"),
        (("request", "GET", "http://a", "--timeout", "soon"), "--timeout: expected a number"),
        (("request", "GET", "http://a", "--timeout", "0"), "--timeout: expected a number above 0"),
        (
            ("request", "GET", "http://a", "-d", "@-", "--client-secret-file", "-"),
            "cannot both be standard input",
        ),
    ],
)
def test_wrong_usage_is_said_before_anything_is_sent(
    run: Run, tokens: TokenServer, arguments: tuple[str, ...], words: str
) -> None:
    done = run(*arguments)
    assert (done.status, done.out) == (2, b"")
    assert words in done.err


def test_what_is_not_set_is_named(run: Run, variables: dict[str, str]) -> None:
    done = run("token", **dict.fromkeys(variables, ""))
    assert done.status == 2
    for name in variables:
        assert name in done.err


def test_two_variables_for_the_same_thing(run: Run) -> None:
    done = run("token", ALF_CLIENT_SECRET_FILE="/nowhere")
    assert done.status == 2
    assert "ALF_CLIENT_SECRET and ALF_CLIENT_SECRET_FILE are both there" in done.err


def test_an_extra_that_is_not_installed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jwt", None)
    done = run("token", "--dpop", "yes")
    assert done.status == 2
    assert "alf[jwt]" in done.err


# -- the secret --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("token", "--client-secret", SECRET),
        ("token", f"--client-secret={SECRET}"),
        ("token", "--client-secret"),
        ("--client-secret", SECRET, "token"),
        (f"--client-secret={SECRET}", "request", "GET", "http://a"),
    ],
)
def test_the_secret_is_no_argument(
    run: Run, tokens: TokenServer, arguments: tuple[str, ...]
) -> None:
    done = run(*arguments)
    assert (done.status, done.out) == (2, b"")
    assert "process list" in done.err
    assert not tokens.requests


def test_the_secret_from_standard_input(run: Run, tokens: TokenServer) -> None:
    done = run(
        "token", "--client-secret-file=-", "--client-auth=client_secret_post", stdin=b"piped\n"
    )
    assert done.status == 0
    assert tokens.requests[0].form["client_secret"] == "piped"


@pytest.mark.parametrize(
    ("typed", "status", "out"), [(b"typed\n", 0, b"token-1\n"), (b"\x04", 2, b"")]
)
def test_the_secret_is_asked_for_on_a_terminal(
    tokens: TokenServer,
    monkeypatch: pytest.MonkeyPatch,
    typed: bytes,
    status: int,
    out: bytes,
) -> None:
    monkeypatch.delenv("ALF_CLIENT_SECRET")
    monkeypatch.setenv("ALF_CLIENT_AUTH", "client_secret_post")
    with terminal() as (user, program):
        # A session of its own: the terminal of whoever runs the tests is not asked.
        process = start("token", stdin=program, start_new_session=True)
        assert process.stderr is not None
        prompt = b""
        while not prompt.endswith(b"Client secret: "):
            prompt += process.stderr.read(1)
        os.write(user, typed)
        printed, complaint = process.communicate(timeout=30)
        assert (process.returncode, printed) == (status, out)
        complaints = complaint.decode().splitlines()
        assert complaints == [
            "",
            *([] if out else ["alf: no client secret (see alf token --help)"]),
        ]
        os.set_blocking(user, False)
        with contextlib.suppress(BlockingIOError):
            assert b"typed" not in os.read(user, 1000)
    assert [request.form["client_secret"] for request in tokens.requests] == ["typed"] * bool(out)


@pytest.mark.parametrize("where", ["options", "variables"])
def test_what_goes_with_a_key_file(
    run: Run,
    tokens: TokenServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    jwt = pytest.importorskip("jwt")
    key = ec.generate_private_key(ec.SECP256R1())
    path = tmp_path / "key.pem"
    path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
    settings = {
        "private_key_file": str(path),
        "private_key_id": "key-1",
        "private_key_algorithm": "ES256",
    }
    variables = {f"ALF_{name.upper()}": text for name, text in settings.items()}
    monkeypatch.delenv("ALF_CLIENT_SECRET")
    options = [f"--{name.replace('_', '-')}={text}" for name, text in settings.items()]
    done = run("token", **variables) if where == "variables" else run("token", *options)
    assert (done.status, done.err) == (0, "")
    header = jwt.get_unverified_header(tokens.requests[0].form["client_assertion"])
    assert (header["kid"], header["alg"]) == ("key-1", "ES256")
    done = run("token", *options, "--private-key-algorithm=RS256")
    assert done.status == 2
    assert "algorithm must be one of ES256" in done.err


# -- alf request -------------------------------------------------------------------------------


def test_the_body_goes_to_standard_output_as_it_is(run: Run, api: Api) -> None:
    body = bytes(range(256)) * 1000
    api.pages["/"] = Reply(200, body, {"Content-Type": "text/plain; charset=utf-16"})
    done = run("request", "get", api.url)
    assert (done.status, done.out, done.err) == (0, body, "")
    assert api.requests[0].method == "GET"
    assert api.requests[0].authorization == "Bearer token-1"


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b"Gr\xc3\xbc\xc3\x9fe\tline\r\nmore\n", "Grüße\tline\nmore\n"),
        (b"\x1b[2J\xc2\x9b\xff\x07", r"\x1b[2J\x9b\xff\x07" + "\n"),
        (b"no line break", "no line break\n"),
        (b"cut \xc3", r"cut \xc3" + "\n"),
        (b"", ""),
    ],
)
def test_a_terminal_is_shown_text_alone(
    run: Run, api: Api, monkeypatch: pytest.MonkeyPatch, body: bytes, shown: str
) -> None:
    api.pages["/"] = Reply(200, body)
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    assert run("request", "GET", api.url).status == 0
    assert screen.getvalue() == shown


def test_a_terminal_is_not_shown_what_is_binary(
    run: Run, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.pages["/"] = Reply(200, b"text" * 20_000 + bytes(range(256)))
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    done = run("request", "GET", api.url)
    assert (done.status, done.err) == (
        0,
        "alf: the body is binary: redirect it to a file or a pipe\n",
    )
    assert screen.getvalue().rstrip("tex\n") == ""


def test_an_error_has_a_line_of_its_own_on_a_terminal(tokens: TokenServer, api: Api) -> None:
    api.pages["/"] = Reply(404, b"no such page")
    with terminal() as (user, program):
        process = start("request", "GET", api.url, stdout=program, stderr=program)
        assert process.wait(30) == 0
        os.set_blocking(user, False)
        assert os.read(user, 1000).decode().splitlines() == [
            "no such page",
            f"alf: GET {api.url} answered 404 Not Found",
        ]


def test_data_and_headers_go_out(run: Run, api: Api) -> None:
    done = run(
        "request",
        "PATCH",
        f"{api.url}/reports?page=2",
        *("-d", "é=1"),
        *("-H", "Content-Type: text/plain"),
        *("-H", "X-Name:  Käse "),
        *("--header", "x-list: a"),
        *("-H", "X-List: b"),
    )
    assert done.status == 0
    (request,) = api.requests
    assert (request.method, request.path) == ("PATCH", "/reports?page=2")
    assert request.body == "é=1".encode()
    assert request.headers["Content-Type"] == "text/plain"
    assert request.headers["X-Name"].encode("latin-1").decode() == "Käse"
    assert request.headers["X-List"] == "a, b"


@pytest.mark.parametrize("source", ["file", "pipe"])
def test_a_body_from_a_file_or_a_pipe_is_sent_again_after_a_401(
    run: Run, tokens: TokenServer, api: Api, tmp_path: Path, source: str
) -> None:
    body = os.urandom(200_000)
    path = tmp_path / "body"
    path.write_bytes(body)
    tokens.replies = [Reply(200, {"access_token": "revoked", "expires_in": 3600})]
    if source == "file":
        done = run("request", "PUT", api.url, "-d", f"@{path}")
    else:
        done = run("request", "PUT", api.url, "--data", "@-", stdin=body)
    assert done.status == 0
    assert [request.body for request in api.requests] == [body, body]


def test_an_api_that_says_no(run: Run, api: Api) -> None:
    api.pages["/x"] = Reply(404, {"no": "such page"})
    for arguments, status in (((), 0), (("--fail",), 4)):
        done = run("request", "GET", f"{api.url}/x?key={SECRET}", *arguments)
        assert (done.status, done.out) == (status, b'{"no": "such page"}')
        assert done.err == f"alf: GET {api.url}/x answered 404 Not Found\n"


def test_an_api_that_is_content(run: Run, api: Api) -> None:
    assert run("request", "GET", api.url, "--fail").status == 0


def test_an_api_that_cannot_be_reached(run: Run) -> None:
    port = closed_port()
    done = run("request", "GET", f"http://127.0.0.1:{port}/x?key={SECRET}")
    assert (done.status, done.out) == (3, b"")
    assert done.err == f"alf: no answer from http://127.0.0.1:{port}/x: Connection refused\n"


def test_an_api_that_hangs_up(run: Run, api: Api) -> None:
    api.pages["/"] = hang_up
    done = run("request", "GET", api.url)
    assert (done.status, done.out) == (3, b"")
    assert "RemoteDisconnected" in done.err


def test_an_api_that_takes_too_long(run: Run, api: Api) -> None:
    done = threading.Event()
    api.pages["/"] = lambda _request: Reply(200 if done.wait(20) else 500)
    assert run("request", "GET", api.url, "--timeout", "0.1").status == 3
    done.set()


def test_a_body_cut_short(run: Run, api: Api) -> None:
    api.pages["/"] = Reply(200, b"half", {"Content-Encoding": "gzip"})
    assert run("request", "GET", api.url).status == 3


def test_the_endpoint_refuses_and_the_api_is_not_called(
    run: Run, tokens: TokenServer, api: Api
) -> None:
    tokens.replies = [Reply(404)]
    done = run("request", "GET", api.url)
    assert (done.status, done.out) == (1, b"")
    assert "token endpoint" in done.err
    assert not api.requests


def test_the_body_is_passed_on_while_it_comes(tokens: TokenServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = start("request", "GET", f"http://127.0.0.1:{listener.getsockname()[1]}/")
        assert process.stdout is not None
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for part in (b"first", b"other"):
                connection.sendall(b"5\r\n" + part + b"\r\n")
                # Before the next part is sent.
                assert process.stdout.read(5) == part
            connection.sendall(b"0\r\n\r\n")
    assert process.communicate(timeout=30) == (b"", b"")
    assert process.returncode == 0


def test_a_reader_that_goes_away(api: Api) -> None:
    api.pages["/"] = Reply(200, b"x" * 10_000_000)
    process = start("request", "GET", api.url)
    assert process.stdout is not None
    assert process.stdout.read(5) == b"xxxxx"
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait(30) == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this platform has no /dev/full")
def test_output_that_cannot_be_written(api: Api) -> None:
    with Path("/dev/full").open("wb") as full:
        process = start("request", "GET", api.url, stdout=full)
        _, complaint = process.communicate(timeout=30)
    assert process.returncode == 2
    assert complaint == b"alf: the output could not be written: No space left on device\n"


def test_an_interrupt(tokens: TokenServer) -> None:
    arrived, done = threading.Event(), threading.Event()

    def dawdle(_request: Any) -> Reply:
        arrived.set()
        done.wait(30)
        return tokens.granted()

    tokens.replies = [dawdle]
    # A process that is started in the background may be told to ignore interrupts.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from alf._cli import main; sys.exit(main(['token']))"
    )
    process = start(command=["-c", code])
    assert arrived.wait(30)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == (b"", b"")
    assert process.returncode == 130
    done.set()


# -- alf inspect -------------------------------------------------------------------------------


def jwt(claims: Any, header: Any = None) -> str:
    def part(content: Any) -> str:
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        return base64.urlsafe_b64encode(text).decode().rstrip("=")

    return ".".join([part({"alg": "none"} if header is None else header), part(claims), "c2ln"])


def test_inspect_explains_an_answer(run: Run, tokens: TokenServer) -> None:
    tokens.members = {"scope": "read", "instance_url": "https://eu.example.com", "id": "x\x1b[0m"}
    done = run("inspect", "--scope", "read write admin")
    assert (done.status, done.err) == (0, "")
    text = done.out.decode()
    for words in (
        f"token endpoint  {tokens.endpoint}\n",
        "client id       client-id\n",
        "answer          200 after ",
        'token type      "Bearer"\n',
        "lifetime        3600 s, until 2",
        "scope           read\n",
        "other members   id, instance_url\n",
        "token           7 characters, opaque\n",
        "note: scope asked for and not granted: admin write\n",
    ):
        assert words in text
    assert "token-1" not in text
    assert text.count("note:") == 1


def test_inspect_shows_the_claims_of_a_jwt(run: Run, tokens: TokenServer) -> None:
    now = int(time.time())
    claims = {
        "iss": "https://id.example.com",
        "aud": ["a", "b"],
        "iat": now,
        "exp": now + 3600,
        "auth_time": 1e300,
        "nbf": "x\x1b[0m",
        "title": "Käse\n",
    }
    token = jwt(claims, {"alg": "RS256", "kid": "key-1"})
    tokens.members = {"access_token": token, "scope": "read write"}
    done = run("inspect", "--scope", "read")
    assert done.status == 0
    text = done.out.decode()
    for words in (
        f"{len(token)} characters, a JWT; decoded here, its signature not verified",
        '  header  kid           "key-1"\n',
        '  claim   aud           ["a", "b"]\n',
        f"  claim   exp           {now + 3600} (20",
        "1e+300 (no point in time)",
        '"x\\u001b[0m" (no point in time)',
        '"K\\u00e4se\\n"\n',
    ):
        assert words in text
    assert token not in text
    assert "note:" not in text


@pytest.mark.parametrize(
    "token",
    [
        "a.b.c",
        "a.b",
        jwt(b"\xff"),
        jwt([]),
        jwt({}, "header"),
        jwt(b"[" * 100_000),
    ],
)
def test_what_only_looks_like_a_jwt(run: Run, tokens: TokenServer, token: str) -> None:
    tokens.members = {"access_token": token}
    done = run("inspect")
    assert done.status == 0
    assert b"characters, opaque\n" in done.out


@pytest.mark.parametrize(
    ("members", "note"),
    [
        ({"expires_in": None}, "no expires_in: alf uses the token until an API refuses it"),
        ({"expires_in": "soon"}, 'expires_in "soon": alf uses the token until'),
        ({"expires_in": 0}, "expires_in 0: alf asks for a new token at every call"),
        ({"expires_in": "1"}, "expires_in is a string"),
        (
            {"expires_in": None, "expires_at": int(time.time()) + 3600},
            "no expires_in, which RFC 6749 §5.1 recommends: alf goes by the time of expiry",
        ),
        ({"token_type": None}, "token_type null: alf sends the token as Bearer"),
        ({"token_type": "BearerToken"}, 'token_type "BearerToken": alf sends'),
        ({"refresh_token": "r"}, "the refresh_token is not used"),
    ],
)
def test_inspect_notes_what_is_odd(
    run: Run, tokens: TokenServer, members: dict[str, Any], note: str
) -> None:
    tokens.members = members
    done = run("inspect")
    assert done.status == 0
    (line,) = [line for line in done.lines if line.startswith("note:")]
    assert note in line


@pytest.mark.parametrize(
    ("claim", "offset", "note"),
    [
        ("iat", -7200, r"the JWT is 7\d\d\d s old"),
        ("iat", 7200, r"the JWT is -7\d\d\d s old"),
        ("exp", 600, r"lives (2|3)\d\d\d s less than expires_in says"),
        ("exp", 7200, r"lives 3\d\d\d s longer than expires_in says"),
    ],
)
def test_inspect_notes_times_that_do_not_agree(
    run: Run, tokens: TokenServer, claim: str, offset: int, note: str
) -> None:
    tokens.members = {"access_token": jwt({claim: int(time.time()) + offset})}
    done = run("inspect")
    assert done.status == 0
    (line,) = [line for line in done.lines if line.startswith("note:")]
    assert re.search(note, line)


def test_a_life_that_is_not_known_and_a_jwt_that_knows(run: Run, tokens: TokenServer) -> None:
    tokens.expires_in = None
    tokens.members = {"access_token": jwt({"exp": int(time.time()) + 60})}
    done = run("inspect")
    assert "lifetime        not known" in done.lines
    assert not [line for line in done.lines if "by its exp" in line]


def test_inspect_warns_of_a_way_that_others_can_read(
    run: Run, tokens: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The token server as a proxy: it answers for any host.
    done = run(
        "inspect",
        "--token-endpoint=http://id.example.com/token",
        http_proxy=tokens.url,
        no_proxy="",
    )
    assert done.status == 0
    assert "note: http: secret and token can be read on the way" in done.out.decode()


def test_inspect_asks_the_endpoint_itself(run: Run, tokens: TokenServer) -> None:
    assert run("inspect").status == 0
    assert run("inspect").status == 0
    assert len(tokens.requests) == 2


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(401, {"error": "invalid_client"}), "--client-auth client_secret_post"),
        (Reply(401), "--client-auth client_secret_post"),
        (Reply(400, {"error": "unauthorized_client"}), "client credentials grant"),
        (Reply(401, {"error": "unauthorized_client"}), "client credentials grant"),
        (Reply(401, {"error": "unauthorized_client"}), "the secret has not expired"),
        (Reply(400, {"error": "unsupported_grant_type"}), "--token-params grant_type=..."),
        (Reply(400, {"error": "invalid_scope"}), "{resource}/.default"),
        (Reply(400, {"error": "invalid_target"}), "--audience or --resource"),
        (Reply(400, {"error": "invalid_request"}), "--token-params"),
        (Reply(400, {"error": "invalid_grant"}), "role or a consent"),
        (Reply(403, {"error": "access_denied"}), "--audience"),
        (Reply(400, {"error": "use_dpop_nonce"}), "--dpop yes"),
        (Reply(400, {"error": "invalid_dpop_proof"}), "clock"),
        (Reply(500, {"error": "server_error"}), "a wrong one a server_error"),
        (Reply(503, {"error": "temporarily_unavailable"}), "--token-retry 3"),
        (Reply(200, {"error": "invalid_scope"}), "spelling of the scope"),
        (Reply(400, {"error": "E17"}), "--audience, --resource, --scope"),
        (Reply(403, "<html>"), "address or network"),
        (Reply(404), "no token endpoint"),
        (Reply(405), "--issuer finds the token endpoint"),
        (Reply(407), "HTTPS_PROXY"),
        (Reply(429, headers={"Retry-After": "420"}), "again in 420 s"),
        (Reply(502, "<html>"), "--token-retry 3"),
        (Reply(302, headers={"Location": "/oauth/token?x"}), "redirects to, if you"),
        (Reply(200, "<html>"), "no JSON"),
        (Reply(200, {"token": "x"}), "not as a token endpoint does"),
    ],
)
def test_inspect_says_what_to_try(run: Run, tokens: TokenServer, reply: Reply, words: str) -> None:
    tokens.replies = [reply]
    done = run("inspect")
    assert done.status == 1
    assert str(reply.status) in done.err
    assert "alf inspect" not in done.err
    assert all(line.startswith("try: ") for line in done.lines)
    assert words in done.out.decode()


@pytest.mark.parametrize("place", ["--token-endpoint", "--issuer"])
@pytest.mark.parametrize("way", ["key", "secret"])
@pytest.mark.parametrize(
    "reply",
    [Reply(401), *(Reply(400, {"error": code}) for code in ("invalid_client", "invalid_grant"))],
)
def test_inspect_names_the_switches_of_a_signed_assertion_that_is_refused(
    run: Run, tokens: TokenServer, tmp_path: Path, place: str, way: str, reply: Reply
) -> None:
    pytest.importorskip("jwt")
    from alf._jose import generate_key
    from alf._keys import key_as_pem

    (tmp_path / "key.pem").write_text(key_as_pem(generate_key()))
    metadata = {"issuer": tokens.url, "token_endpoint": tokens.endpoint}
    tokens.script = lambda request: Reply(body=metadata) if request.method == "GET" else reply
    url = tokens.url if place == "--issuer" else tokens.endpoint
    if way == "key":
        options = ["--private-key-file", str(tmp_path / "key.pem")]
        secret = ""
    else:
        options, secret = ["--client-auth", "client_secret_jwt"], "top-secret" * 4
    done = run("inspect", place, url, *options, ALF_CLIENT_SECRET=secret)
    tried = [line for line in done.out.decode().splitlines() if "for the assertion" in line]
    if place == "--issuer":
        assert "audience='<the token endpoint>'" in tried[0]
        assert "typ='JWT'" in tried[1]
    else:
        assert "issuer=" in tried[0]
        assert "audience= and typ=" in tried[1]
    assert ("key_id=" in done.out.decode()) == (way == "key")


def test_inspect_says_little_of_a_signed_assertion_if_something_else_is_wrong(
    run: Run, tokens: TokenServer
) -> None:
    pytest.importorskip("jwt")
    tokens.replies = [Reply(400, {"error": "invalid_scope"})]
    done = run("inspect", "--client-auth", "client_secret_jwt")
    assert "for the assertion" not in done.out.decode()
    assert "spelling of the scope" in done.out.decode()


def test_inspect_of_an_assertion_of_another_issuer_that_is_refused(
    run: Run, tokens: TokenServer, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("e30.e30.c2ln")
    tokens.replies = [Reply(401, {"error": "invalid_client"})]
    path = str(tmp_path / "token")
    done = run("inspect", "--client-assertion-file", path, ALF_CLIENT_SECRET="")
    assert "trusts the assertion's issuer" in done.out.decode()
    (tmp_path / "token").write_text("not a token")
    done = run("inspect", "--client-assertion-file", path, ALF_CLIENT_SECRET="")
    assert f"the file '{path}' is not a valid token" in done.err
    assert "not a token" not in done.err + done.out.decode()


@pytest.mark.parametrize("secret", [f" {SECRET}", f"{SECRET} \n"])
@pytest.mark.parametrize("is_file", [False, True])
def test_inspect_names_blanks_around_a_refused_secret(
    run: Run, tokens: TokenServer, tmp_path: Path, secret: str, is_file: bool
) -> None:
    tokens.script = lambda _request: Reply(401)
    if is_file:
        (tmp_path / "secret").write_text(secret)
        done = run(
            "inspect", "--client-secret-file", str(tmp_path / "secret"), ALF_CLIENT_SECRET=""
        )
    else:
        done = run("inspect", ALF_CLIENT_SECRET=secret)
    assert b"try: the client secret without the white space" in done.out
    assert b"white space" not in run("inspect").out


def test_inspect_of_an_issuer_without_metadata(run: Run, tokens: TokenServer) -> None:
    tokens.replies = [Reply(404), Reply(404)]
    done = run("inspect", "--issuer", tokens.url)
    assert done.status == 1
    assert "letter by letter" in done.out.decode()


@pytest.mark.parametrize(
    ("endpoint", "reason", "advice"),
    [
        ("http://127.0.0.1:1/token", "Connection refused", "whether the server runs"),
        ("https://nowhere.invalid/token", "could not be resolved", "spelling of the host's name"),
        ("https://{tokens}/token", "TLS failed (", "whether the port speaks TLS"),
    ],
)
def test_inspect_says_what_to_try_where_nobody_answers(
    run: Run, tokens: TokenServer, endpoint: str, reason: str, advice: str
) -> None:
    endpoint = endpoint.replace("{tokens}", f"127.0.0.1:{tokens.port}")
    done = run("inspect", "--token-endpoint", endpoint)
    assert done.status == 3
    assert reason in done.err
    assert advice in done.out.decode()


def test_inspect_of_what_is_no_url(run: Run) -> None:
    done = run("inspect", "--token-endpoint", "http://*.example.com/token")
    assert done.status == 2
    assert "https://id.example.com/oauth/token" in done.out.decode()


def test_inspect_of_an_endpoint_that_takes_too_long(run: Run, tokens: TokenServer) -> None:
    done = threading.Event()
    tokens.replies = [lambda _request: Reply(200 if done.wait(20) else 500)]
    inspected = run("inspect", "--token-timeout", "0.1")
    done.set()
    assert inspected.status == 3
    assert "it took too long" in inspected.err
    assert "--token-timeout" in inspected.out.decode()


def test_inspect_behind_a_proxy_that_is_not_there(run: Run) -> None:
    done = run(
        "inspect",
        "--token-endpoint=https://id.example.com/token",
        https_proxy=f"http://user:{SECRET}@127.0.0.1:{closed_port()}",
        no_proxy="",
    )
    assert done.status == 3
    assert "the proxy did not connect (Connection refused)" in done.err
    assert "HTTPS_PROXY" in done.out.decode()


def test_inspect_of_a_certificate_that_nobody_vouches_for(run: Run) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            context.wrap_socket(connection, server_side=True).close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        port = listener.getsockname()[1]
        done = run("inspect", "--token-endpoint", f"https://127.0.0.1:{port}/token")
        thread.join()
    assert done.status == 3
    assert "TLS failed (unable to get local issuer certificate)" in done.err
    assert "REQUESTS_CA_BUNDLE" in done.out.decode()


@pytest.mark.parametrize(
    ("is_expired", "words"),
    [(None, "demands a client certificate"), (True, "has expired"), (False, "an authority that")],
)
def test_inspect_of_a_server_that_refuses_the_client_certificate(
    run: Run, tmp_path: Path, is_expired: bool | None, words: str
) -> None:
    authority, others = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    options = []
    if is_expired is not None:
        issuer = authority if is_expired else others
        past = datetime(2020, 1, 1, tzinfo=timezone.utc)
        certificate = issuer.issue_cert("c@example.com", not_after=past if is_expired else None)
        certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "client.pem"))
        options = ["--token-cert", str(tmp_path / "client.pem")]

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection.dup() as spare:
            with contextlib.suppress(ssl.SSLError):
                context.wrap_socket(connection, server_side=True)
            # Unread bytes would make a reset of the end, and the alert would be lost.
            spare.shutdown(socket.SHUT_WR)
            while spare.recv(1024):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        endpoint = f"https://127.0.0.1:{listener.getsockname()[1]}/token"
        done = run(
            *("inspect", "--token-endpoint", endpoint, *options),
            REQUESTS_CA_BUNDLE=str(tmp_path / "ca.pem"),
        )
        thread.join()
    assert done.status == 3
    assert words in done.out.decode()


# -- the rest ----------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("--help",), ("token", "--help"), ("request", "--help")])
def test_help_names_the_exit_codes(run: Run, arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert (done.status, done.err) == (0, "")
    assert b"exit codes:\n  0    all is well" in done.out
    assert b"--client-secret " not in done.out


def test_the_version(run: Run) -> None:
    assert run("--version").out == b"alf 1.0.0\n"


def test_a_terminal_of_few_letters(tokens: TokenServer) -> None:
    tokens.members = {"scope": "größe"}
    process = start("inspect", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    printed, complaint = process.communicate(timeout=30)
    assert (process.returncode, complaint) == (0, b"")
    assert b"scope           gr\\xf6\\xdfe\n" in printed


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_examples_of_the_documentation_run(
    tokens: TokenServer, api: Api, tmp_path: Path
) -> None:
    script = "\n".join(examples("docs/command-line.rst", "sh"))
    for there, here in {
        "https://id.example.com": tokens.url,
        "https://api.example.com/": f"{api.url}/",
        "/run/secrets/client-secret": "client-secret",
    }.items():
        script = script.replace(there, here)
    (tmp_path / "client-secret").write_text(f"{SECRET}\n")
    environ = {name: text for name, text in os.environ.items() if not name.startswith("ALF_")}
    done = subprocess.run(
        ["/bin/sh", "-eu", "-c", f'alf() {{ "{sys.executable}" -m alf "$@"; }}\n{script}'],
        cwd=tmp_path,
        env={**environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr.count("alf:")) == (0, 0), done.stderr
    assert [request.method for request in api.requests] == ["GET", "GET", "POST", "PUT", "PUT"]
    assert api.refused == 0
    assert "characters, opaque" in done.stdout


def test_the_documentation_names_every_variable() -> None:
    page = (ROOT / "docs" / "command-line.rst").read_text(encoding="utf-8")
    from_env = str(Client.from_env.__doc__)
    for setting in SETTINGS:
        assert f"``ALF_{setting.name.upper()}``" in page
        assert f"``{setting.name.upper()}``" in from_env
