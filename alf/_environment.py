"""A Client's arguments as text: what environment variables, and a command line, can say."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from alf._redaction import Secret, SecretURL
from alf._texts import without_line_break

__all__ = [
    "SETTINGS",
    "Setting",
    "lacks_secret",
    "missing_variables",
    "parse_header",
    "parse_number",
    "read_environment",
    "read_settings",
]


@dataclass(frozen=True)
class Setting:
    """An argument of a Client that can be given as text.

    :param name: the variable has it in capitals, after the prefix.
    :param meaning: its description, for the help text.
    :param parse: makes the argument of the text. A ``ValueError`` says what was expected and
        does not show the text, which may be a secret.
    :param argument: the Client's argument, where its name is another one.
    """

    name: str
    meaning: str
    parse: Callable[[str], Any] = str
    argument: str = ""

    @property
    def keyword(self) -> str:
        return self.argument or self.name

    def read(self, text: str, source: str) -> Any:
        """The argument that the text means.

        :param source: the variable or option that it comes from.
        :raises ValueError: it means none.
        """
        try:
            return self.parse(text)
        except (TypeError, ValueError) as error:
            message = f"{source}: {error}"
        # Not as a consequence of that error, which may hold the text.
        raise ValueError(message)


@dataclass(frozen=True)
class _KeyFile:
    """What is in a key file, until it is known what goes with it.

    :param source: the variable or option that names the file.
    """

    key: Any = field(repr=False)
    source: str = ""

    def make(self, details: Mapping[str, Any]) -> Any:
        """The way to authenticate with this key.

        :raises ValueError: the key cannot be read, or the details do not fit it.
        """
        from alf.client_auth import PrivateKeyJWT

        try:
            return PrivateKeyJWT(key=self.key, **details)
        except (TypeError, ValueError) as error:
            message = f"{self.source}: {error}"
        # Not as a consequence of that error, which may hold the key.
        raise ValueError(message)


def parse_header(text: str) -> tuple[str, str]:
    """The name and the value in ``Name: value``.

    :raises ValueError: there is no colon, or nothing before it.
    """
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        message = "expected 'Name: value'"
        raise ValueError(message)
    return name.strip(), value.strip()


def parse_number(text: str) -> float:
    """The number that the text is.

    :raises ValueError: it is not a number.
    """
    try:
        return float(text)
    except ValueError:
        message = "expected a number"
        raise ValueError(message) from None


def _parse_retry(text: str) -> int:
    if not text.isdecimal():
        message = "expected a whole number"
        raise ValueError(message)
    return int(text)


def _parse_yes(text: str) -> bool:
    answers = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
    if text.lower() not in answers:
        message = "expected yes or no"
        raise ValueError(message)
    return answers[text.lower()]


def _parse_headers(text: str) -> dict[str, str]:
    headers = (parse_header(line) for line in text.splitlines() if line.strip())
    return {name: Secret(value) for name, value in headers}


def _parse_params(text: str) -> list[tuple[str, str]]:
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True)
    except ValueError:
        message = "expected name=value&name=value, form-encoded"
        raise ValueError(message) from None
    return [(name, Secret(value)) for name, value in pairs]


def _parse_cert(text: str) -> str | tuple[str, str]:
    certificate, separator, key = text.partition(os.pathsep)
    if not all(map(_is_file, (certificate, key) if separator else (text,))):
        message = f"expected the path of a file, or two with {os.pathsep!r} between: no such file"
        raise ValueError(message)
    return (certificate, key) if separator else text


def _parse_list(text: str) -> list[str]:
    return [Secret(part) for part in text.split()]


def _parse_hosts(text: str) -> list[str]:
    return _parse_list(text.replace(",", " "))


def _parse_storage(text: str) -> Any:
    if text != "file":
        message = "expected file"
        raise ValueError(message)
    from alf.storages import FileStorage

    return FileStorage()


def _parse_key_file(text: str) -> Any:
    if text != "-" and _is_file(text) and Path(text).read_bytes().startswith(b"0"):
        # DER or PKCS #12, which the error that follows tells apart.
        return _KeyFile(Path(text))
    return _KeyFile(_read_text(text))


def _parse_certificate_file(text: str) -> Path:
    if not _is_file(text):
        message = "expected the path of a file: no such file"
        raise ValueError(message)
    return Path(text)


def _parse_assertion_file(text: str) -> Any:
    from alf.client_auth import ClientAssertion

    client_auth = ClientAssertion(text)
    if text == "-":
        message = "expected the path of a file, which is read for every token request"
        raise ValueError(message)
    _read_text(text)  # raises now if something is wrong with the file
    return client_auth


def _parse_secret_file(text: str) -> str | Callable[[], str]:
    secret = _read_text(text)  # raises now if something is wrong with the file
    if text != "-":
        return functools.partial(_read_text, text)
    return Secret(without_line_break(secret))


def _read_text(path: str) -> str:
    """What is in a file, which may be another secret each time.

    :raises ValueError: there is no such file, or no text in it. A path that leads nowhere is not
        shown: it may be the secret itself.
    """
    text, reason = Secret(), "is empty"
    try:
        text = Secret(
            sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8-sig")
        )
    except UnicodeDecodeError:
        reason = "is not UTF-8"
    except (OSError, ValueError) as error:
        reason = f"cannot be read: {getattr(error, 'strerror', None) or 'not a path'}"
    if text.strip():
        return text
    place = repr(str(path)) if path == "-" or _is_file(path) else "the file"
    message = f"{place} {reason}"
    raise ValueError(message)


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # too long, or with a null byte
        return False


SETTINGS = (
    Setting("token_endpoint", "URL of the token endpoint", SecretURL),
    Setting("issuer", "URL of the issuer, in place of the token endpoint", SecretURL),
    Setting("client_id", "the client's identifier"),
    Setting("client_secret", "the client's secret", Secret),
    Setting(
        "client_secret_file",
        "path of a file with the client's secret; -: standard input",
        _parse_secret_file,
        argument="client_secret",
    ),
    Setting("client_auth", "how the client authenticates, such as client_secret_post", Secret),
    Setting(
        "private_key_file",
        "path of the key for private_key_jwt, PEM or JWK",
        _parse_key_file,
        argument="client_auth",
    ),
    Setting("private_key_id", "the kid by which the server knows that key", Secret),
    Setting("private_key_algorithm", "what it signs with, such as PS256 or ES256", Secret),
    Setting(
        "private_key_certificate",
        "path of its certificate, for servers that know the key by that, such as Entra",
        _parse_certificate_file,
    ),
    Setting("private_key_password", "its password, if it is encrypted", Secret),
    Setting(
        "client_assertion_file",
        "path of a file with an assertion of another issuer, read for each token request",
        _parse_assertion_file,
        argument="client_auth",
    ),
    Setting("scope", "the scope to request, blanks between the names"),
    Setting("audience", "the API that the token is for, if the server expects this parameter"),
    Setting("resource", "the URI of that API (RFC 8707); blanks between several", _parse_list),
    Setting("token_params", "other parameters of the token request: a=1&b=2", _parse_params),
    Setting("token_headers", "other headers of it: 'Name: value', one a line", _parse_headers),
    Setting("token_cert", "path of a client certificate, or certificate:key", _parse_cert),
    Setting("dpop", "yes: have tokens bound to a new key (RFC 9449)", _parse_yes),
    Setting("token_timeout", "seconds for a token request in all (default: 10)", parse_number),
    Setting("token_retry", "how often to retry, on 429 and 5xx, too (default: 0)", _parse_retry),
    Setting("token_settle_time", "seconds that the API may take to know it", parse_number),
    Setting("token_hosts", "the hosts that may see the token, commas between", _parse_hosts),
    Setting("token_storage", "file: keep the token for the next run", _parse_storage),
    Setting("revocation_endpoint", "URL of the revocation endpoint"),
)

#: Each says where the token endpoint is: the one that is given takes the other's place.
_PLACES = {"token_endpoint", "issuer"}

#: What goes with a key file, and the argument of a PrivateKeyJWT that it becomes.
_KEY_DETAILS = {
    "private_key_id": "key_id",
    "private_key_algorithm": "algorithm",
    "private_key_certificate": "certificate",
    "private_key_password": "password",
}


def read_settings(texts: Iterable[tuple[Setting, str, str]]) -> dict[str, Any]:
    """The keyword arguments that settings, each with its source and its text, mean.

    :raises ValueError: a text is not what it should be, or two say the same thing.
    """
    arguments: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for setting, source, text in texts:
        keyword = setting.keyword
        if keyword in sources:
            message = f"{sources[keyword]} and {source} are both there, for the same thing"
            raise ValueError(message)
        sources[keyword] = source
        value = setting.read(text, source)
        arguments[keyword] = replace(value, source=source) if type(value) is _KeyFile else value
    return arguments


def read_environment(prefix: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """A Client's keyword arguments: those given, and what the environment says besides.

    :param prefix: what the variables' names begin with. An empty variable counts as none.
    :param given: keyword arguments that take the place of variables.
    :raises ValueError: as :func:`read_settings`.
    """
    taken = set(given)
    if taken & _PLACES:
        taken |= _PLACES
    named = [(setting, prefix + setting.name.upper()) for setting in SETTINGS]
    texts = [
        (setting, name, Secret(os.environ[name]))
        for setting, name in named
        if os.environ.get(name) and setting.keyword not in taken
    ]
    return _with_key({**read_settings(texts), **given}, is_ours="client_auth" not in given)


def _with_key(options: dict[str, Any], *, is_ours: bool) -> dict[str, Any]:
    """The arguments with one PrivateKeyJWT in the place of the key file and its details.

    :param is_ours: whether ``client_auth`` comes from the environment, if it is there.
    :raises ValueError: there are details and no key file, or they do not fit the key.
    """
    details = {name: options.pop(name) for name in _KEY_DETAILS if name in options}
    key_file = options.get("client_auth")
    if isinstance(key_file, _KeyFile):
        arguments = {_KEY_DETAILS[name]: value for name, value in details.items()}
        options["client_auth"] = key_file.make(arguments)
    elif details and is_ours:
        message = f"{' and '.join(details)} without private_key_file"
        raise ValueError(message)
    return options


def lacks_secret(options: Mapping[str, Any]) -> bool:
    """Whether a client secret is needed, and not there."""
    if _is_without_client(options):
        return False
    client_auth = options.get("client_auth")
    if client_auth is None:
        # An issuer may take the certificate instead.
        has_other = options.get("issuer") is not None and options.get("token_cert") is not None
        client_auth = None if has_other else "client_secret_basic"
    is_needed = isinstance(client_auth, str) and client_auth.startswith("client_secret_")
    return is_needed and options.get("client_secret") is None


def missing_variables(prefix: str, options: Mapping[str, Any]) -> list[str]:
    """The variables to set before these keyword arguments make a Client."""
    missing = []
    if all(options.get(keyword) is None for keyword in _PLACES):
        missing.append(f"{prefix}TOKEN_ENDPOINT (or {prefix}ISSUER)")
    if options.get("client_id") is None and not _is_without_client(options):
        missing.append(f"{prefix}CLIENT_ID")
    if lacks_secret(options):
        missing.append(f"{prefix}CLIENT_SECRET (or {prefix}CLIENT_SECRET_FILE)")
    return missing


def _is_without_client(options: Mapping[str, Any]) -> bool:
    """Whether the grant does not need a client."""
    names = ("client_id", "client_secret", "client_auth")
    return options.get("grant") is not None and all(options.get(name) is None for name in names)
