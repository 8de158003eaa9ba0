"""``alf`` on the command line: a token, a request with one, and what an endpoint answers."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import getpass
import io
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import requests
from requests.structures import CaseInsensitiveDict

import alf
from alf._advice import advise
from alf._environment import (
    SETTINGS,
    lacks_secret,
    missing_variables,
    parse_header,
    parse_number,
    read_environment,
    read_settings,
)
from alf._inspection import describe, reason
from alf._redaction import printable
from alf._urls import shown_url
from alf.client import Client
from alf.tokens import Token, TokenError

__all__ = ["main"]

PREFIX = "ALF_"

OK, REFUSED, USAGE, NETWORK, API_ERROR = range(5)

#: What a shell makes of a command that SIGINT or SIGPIPE has ended.
INTERRUPTED, PIPE_CLOSED = 130, 141

EXIT_CODES = """\
exit codes:
  0    all is well
  1    the token endpoint refused, or answered without a token
  2    wrong usage or configuration; output that cannot be written
  3    no answer: name, connection, TLS, timeout
  4    with --fail: the API answered 4xx or 5xx
  130  interrupted
"""

#: These are no options: others could read the secret in the process list, and no command revokes.
_NO_OPTIONS = {"client_secret", "private_key_password", "revocation_endpoint"}

#: Seconds that a token request may take before a terminal is told what takes so long.
_SLOW = 2.0

#: The name of an option, without its value.
_LONG_OPTION = re.compile("--[A-Za-z][A-Za-z_-]*")


class _UsageError(Exception):
    """The command cannot be run as given; nothing was sent."""


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(
            # An abbreviation could be taken for the option that there must not be.
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog=EXIT_CODES,
            **options,
        )
        self.add_argument("--client-secret", nargs="?", action=_Refuse, help=argparse.SUPPRESS)

    def error(self, message: str) -> NoReturn:
        # A value in the wrong place may be a secret.
        message = re.sub(r"(invalid choice|explicit argument).*?( \(choose|$)", r"\1\2", message)
        _complain(f"{message} (see {self.prog} --help)")
        raise SystemExit(USAGE)

    def parse(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        """Parse the arguments; an unknown one is named without its value."""
        given, unknown = self.parse_known_args(arguments)
        if unknown:
            names = [found[0] for text in unknown if (found := _LONG_OPTION.match(text))]
            given.parser.error(f"unrecognized arguments: {', '.join(names) or len(unknown)}")
        return given


class _Refuse(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        parser.error(
            "a secret as an argument is there for all to see in the process list: "
            f"use {PREFIX}CLIENT_SECRET, --client-secret-file or the prompt"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    :param arguments: by default those of the process.
    :returns: the exit code.
    :raises SystemExit: the arguments are wrong, or are a request for help.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What a server says may be more than this terminal or pipe can show.
        sys.stdout.reconfigure(errors="backslashreplace")
    given = _parser().parse(arguments)
    try:
        status: int = given.run(given)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _give_up_output()
        return PIPE_CLOSED
    except requests.exceptions.RequestException as error:
        hint = "; 'alf inspect' says what to try" if isinstance(error, TokenError) else ""
        return _fail(error, hint)
    except (_UsageError, ValueError) as error:
        _complain(f"{error} (see {given.parser.prog} --help)")
        return USAGE
    except OSError as error:
        _give_up_output()
        _complain(f"the output could not be written: {error.strerror}")
        return USAGE
    return status


def _parser() -> _Parser:
    parser = _Parser(prog="alf", description="OAuth 2.0 tokens for machines, and calls with them.")
    parser.add_argument("--version", action="version", version=f"alf {alf.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    token = commands.add_parser("token", help="print a token", description=_run_token.__doc__)
    form = token.add_mutually_exclusive_group()
    form.add_argument(
        "--header", action="store_true", help="as a header line, for curl -H @- to read"
    )
    form.add_argument(
        "--json", action="store_true", help="as JSON, with its type, scope and time of expiry"
    )
    token.add_argument("--show", action="store_true", help="in full on a terminal, too")
    token.add_argument("--renew", action="store_true", help="a new one, even if one is stored")
    token.set_defaults(run=_run_token, parser=token)

    request = commands.add_parser(
        "request", help="call an API with a token", description=_run_request.__doc__
    )
    request.add_argument("method", metavar="METHOD", help="GET, POST, ...")
    request.add_argument("url", metavar="URL")
    request.add_argument(
        "-d",
        "--data",
        metavar="DATA",
        help="the body: text, @FILE or, for standard input, @-",
    )
    request.add_argument(
        "-H",
        "--header",
        metavar="'NAME: VALUE'",
        dest="headers",
        action="append",
        default=[],
        type=_header,
        help="a header; may be repeated",
    )
    request.add_argument(
        "--fail", action="store_true", help="exit with 4 where it answers 4xx, 5xx"
    )
    request.add_argument("--timeout", metavar="SECONDS", type=_seconds, help="to wait for the API")
    request.set_defaults(run=_run_request, parser=request)

    inspect = commands.add_parser(
        "inspect", help="explain what the endpoint answers", description=_run_inspect.__doc__
    )
    inspect.set_defaults(run=_run_inspect, parser=inspect)

    for command in (token, request, inspect):
        group = command.add_argument_group(
            "configuration",
            f"Each may be in the environment, too: {PREFIX}SCOPE for --scope. The client's secret "
            f"is in {PREFIX}CLIENT_SECRET or in a file; on a terminal there is a prompt.",
        )
        group.add_argument(
            "--prefix",
            default=PREFIX,
            help=f"what the variables' names begin with (default: {PREFIX})",
        )
        for setting in SETTINGS:
            if setting.name not in _NO_OPTIONS:
                group.add_argument(
                    _option(setting.name), dest=setting.name, metavar="VALUE", help=setting.meaning
                )
    return parser


def _run_token(given: argparse.Namespace) -> int:
    """Print a token: masked on a terminal, plain into a pipe or a file."""
    with _client(given) as client, _note_when_slow(client):
        token = client.renew_token() if given.renew else client.ensure_token()
    text = token.access_token
    if sys.stdout.isatty() and not given.show:
        text = f"{'*' * 12} ({len(text)} characters; --show prints them)"
    if given.json:
        text = json.dumps(_described(token, text), indent=2)
    elif given.header:
        text = f"Authorization: {token.authorization.partition(' ')[0]} {text}"
    print(text)  # noqa: T201
    return OK


def _described(token: Token, text: str) -> dict[str, Any]:
    """The members of a token endpoint's answer (RFC 6749 §5.1), as of now, and when it expires."""
    left = None if token.expires_at is None else int(token.expires_at - time.time())
    return {
        "access_token": text,
        "token_type": token.token_type,
        "expires_in": left,
        "expires_at": token.expires_at,
        "scope": token.scope,
    }


def _run_request(given: argparse.Namespace) -> int:
    """Call an API with a token, and write the body of its response, whatever its status."""
    if given.data == "@-" and given.client_secret_file == "-":
        message = "the body and the secret cannot both be standard input"
        raise _UsageError(message)
    with (
        _client(given) as client,
        _body(given.data) as body,
        _note_when_slow(client),
        client.request(
            given.method,
            given.url,
            data=body,
            headers=_combined(given.headers),
            timeout=given.timeout,
            stream=True,
        ) as response,
    ):
        if sys.stdout.isatty():
            _show(response)
        else:
            for piece in response.iter_content(65536):
                sys.stdout.buffer.write(piece)
                sys.stdout.buffer.flush()
    if response.status_code < 400:
        return OK
    status = f"{response.status_code} {response.reason}"
    _complain(f"{given.method} {shown_url(given.url)} answered {status}")
    return API_ERROR if given.fail else OK


def _show(response: requests.Response) -> None:
    """Write the body to a terminal: text only, without what would move its cursor."""
    is_binary, end = False, "\n"
    try:
        for text in codecs.iterdecode(response.iter_content(65536), "utf-8", "backslashreplace"):
            is_binary = "\0" in text
            if is_binary:
                break
            sys.stdout.write(_escaped(text.replace("\r\n", "\n")))
            sys.stdout.flush()
            end = text[-1]
    finally:
        if end != "\n":  # an error has a line of its own
            print(flush=True)  # noqa: T201
    if is_binary:
        _complain("the body is binary: redirect it to a file or a pipe")


def _escaped(text: str) -> str:
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def _run_inspect(given: argparse.Namespace) -> int:
    """Request a new token, and explain the answer; for a failure, what to try."""
    options = _options(given)
    # What is looked at is the endpoint, not what others keep of it.
    options.pop("token_storage", None)
    answers: list[requests.Response] = []
    with (
        requests.Session() as session,
        _make(given.prefix, token_session=session, **options) as client,
    ):
        session.hooks["response"].append(lambda response, **_: answers.append(response))
        try:
            with _note_when_slow(client):
                token = client.renew_token()
        except requests.exceptions.RequestException as error:
            status = _fail(error)
            _print(*(f"try: {line}" for line in advise(error, options)))
            return status
        _print(*describe(token, answers[-1], options))
    return OK


def _fail(error: requests.exceptions.RequestException, hint: str = "") -> int:
    _complain(reason(error) + hint)
    if isinstance(error, TokenError):
        return REFUSED
    # No URL, no header: nothing was sent.
    return USAGE if isinstance(error, ValueError) else NETWORK


def _client(given: argparse.Namespace) -> Client:
    return _make(given.prefix, **_options(given))


@contextlib.contextmanager
def _note_when_slow(client: Client) -> Iterator[None]:
    """Say on a terminal that there is still no token."""

    def note() -> None:
        if client.token is None:
            _complain("still waiting for the token endpoint")

    timer = threading.Timer(_SLOW, note)
    timer.daemon = True
    if sys.stderr is not None and sys.stderr.isatty():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _options(given: argparse.Namespace) -> dict[str, Any]:
    """The Client's keyword arguments, from options and environment; prompts for a secret."""
    try:
        arguments = read_settings(
            (setting, _option(setting.name), text)
            for setting in SETTINGS
            if (text := getattr(given, setting.name, None)) is not None
        )
        options = read_environment(given.prefix, arguments)
    except (ImportError, ValueError) as error:
        raise _UsageError(str(error)) from None
    if lacks_secret(options) and sys.stdin is not None and sys.stdin.isatty():
        try:
            options["client_secret"] = getpass.getpass("Client secret: ")
        except EOFError:
            print(file=sys.stderr)  # noqa: T201 (the prompt ends without a line break)
            message = "no client secret"
            raise _UsageError(message) from None
    return options


def _make(prefix: str, **options: Any) -> Client:
    missing = missing_variables(prefix, options)
    if missing:
        message = f"not set: {', '.join(missing)}; there are options, too"
        raise _UsageError(message)
    try:
        return Client(
            **options,
            # What a thread would do in the background ends with this process.
            token_refresh="blocking",
            raise_token_error=True,
        )
    except (ImportError, TypeError, ValueError) as error:
        raise _UsageError(str(error)) from None


@contextlib.contextmanager
def _body(data: str | None) -> Iterator[Any]:
    """What ``-d`` names. A pipe is read to its end: after a 401 the body is sent once more."""
    if data is None or not data.startswith("@"):
        yield None if data is None else data.encode()
    elif data == "@-":
        yield sys.stdin.buffer.read()
    else:
        try:
            file = Path(data[1:]).open("rb")  # noqa: SIM115 (only what opening it raises is caught)
        except OSError as error:
            message = f"{data[1:]!r} cannot be read: {error.strerror}"
            raise _UsageError(message) from None
        with file:
            yield file


def _header(text: str) -> tuple[str, str]:
    try:
        name, value = parse_header(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if name.lower() == "authorization":
        message = "Authorization is what alf writes"
        raise argparse.ArgumentTypeError(message)
    if not text.isprintable():
        message = "expected no line break and no other control character"
        raise argparse.ArgumentTypeError(message)
    return name, value


def _combined(headers: Sequence[tuple[str, str]]) -> CaseInsensitiveDict[bytes]:
    """One header a name: the values of several become a list (RFC 9110 §5.3)."""
    combined: CaseInsensitiveDict[bytes] = CaseInsensitiveDict()
    for name, value in headers:
        before = combined.get(name)
        combined[name] = value.encode() if before is None else before + b", " + value.encode()
    return combined


def _seconds(text: str) -> float:
    try:
        seconds = parse_number(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not 0 < seconds < float("inf"):
        message = "expected a number above 0"
        raise argparse.ArgumentTypeError(message)
    return seconds


def _give_up_output() -> None:
    """What is still buffered goes nowhere: at exit it would be one more error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _print(*lines: str) -> None:
    for line in lines:
        print(printable(line), flush=True)  # noqa: T201


def _complain(text: str) -> None:
    """One line on standard error, without what would move a terminal's cursor."""
    print(f"alf: {' '.join(printable(text).split())}", file=sys.stderr)  # noqa: T201
