"""Redacts requests, exceptions and text from outside, so that they can be shown."""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from http.client import HTTPException
from typing import Any
from urllib.parse import unquote_plus, urlsplit

import requests
from urllib3.exceptions import HTTPError, LocationValueError, MaxRetryError, ProtocolError

from alf._urls import is_key, shown_url

__all__ = [
    "Secret",
    "SecretBytes",
    "SecretURL",
    "masked",
    "masked_key",
    "masked_url",
    "printable",
    "redact_error",
    "redact_response",
    "secrets_of",
    "shown",
    "without_secrets",
]

#: At most this many characters of a text from outside are shown.
_LIMIT = 300

#: Secrets are searched for in this many characters of a text from outside. These are more than are
#: shown, so that a secret that begins in the shown part is found as a whole.
_WINDOW = 16_384

#: Headers and form parameters of the token request that may be shown. Any other may hold a key.
_HARMLESS = frozenset(
    ("Accept", "Accept-Encoding", "Connection", "Content-Length", "Content-Type", "User-Agent")
)
_HARMLESS_MEMBERS = frozenset(
    (
        "actor_token_type",
        "audience",
        "client_assertion_type",
        "client_id",
        "grant_type",
        "requested_token_type",
        "resource",
        "response_type",
        "scope",
        "subject_token_type",
        "token_type_hint",
    )
)

#: Members of a JWK that make it a private or secret key (RFC 7518 §6).
_PRIVATE_MEMBERS = frozenset(("d", "dp", "dq", "k", "oth", "p", "q", "qi"))

#: A shorter value may be an ordinary word. It is redacted only where it stands alone, and only if
#: its name marks it as a secret.
_LONG = 8
_SECRET_NAME = re.compile("secret|pass|pwd|pin$|key|token|code|cred|auth|sig|assert", re.IGNORECASE)

#: How a text may be escaped: as in URLs, HTML, JSON and Python.
_PERCENT = re.compile(rb"%[0-9A-Fa-f]{2}")
_ENTITY = re.compile(rb"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});")
_BACKSLASH = re.compile(
    rb"\\u(?P<pair>[dD][89abAB][0-9A-Fa-f]{2}\\u[dD][c-fC-F][0-9A-Fa-f]{2})"
    rb"|\\(?:u(?P<u4>[0-9A-Fa-f]{4})|U(?P<u8>[0-9A-Fa-f]{8})|x(?P<x>[0-9A-Fa-f]{2}))"
    rb"|\\(?P<char>[^uUx])"
)

#: Exceptions from the code between alf and the network.
_LIBRARY_ERRORS = (requests.exceptions.RequestException, HTTPError, OSError)

#: How many layers of escapes are removed, and how many readings of a text are searched.
_DEPTH = 4
_MOST_READINGS = 60


class Secret(str):
    """A text whose ``repr`` does not show it: error reports show local variables."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


class SecretBytes(bytes):
    """Like :class:`Secret`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "b'***'"


class SecretURL(Secret):
    """A URL whose ``repr`` shows only what may be shown."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(shown_url(self))


def masked(value: Any) -> Any:
    """The same argument, with its texts replaced by ones whose ``repr`` does not show them."""
    if isinstance(value, str):
        return value if type(value) is Secret else Secret(value)
    if isinstance(value, Mapping):
        return {name: masked(part) for name, part in value.items()}
    if type(value) in (tuple, list):
        return type(value)(map(masked, value))
    return value


def masked_key(key: Any) -> Any:
    """The same private key, PEM or JWK, with a ``repr`` that does not show it."""
    if isinstance(key, bytes):
        return SecretBytes(key)
    if isinstance(key, Mapping):
        return {n: masked(part) if n in _PRIVATE_MEMBERS else part for n, part in key.items()}
    return masked(key) if isinstance(key, str) else key


def masked_url(url: Any) -> Any:
    """The same URL, with a ``repr`` that shows only what may be shown."""
    return SecretURL(url) if isinstance(url, str) and type(url) is not SecretURL else url


def printable(text: str) -> str:
    """The text without characters that break a log line or control a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def shown(text: str, secrets: Collection[str] = ()) -> str:
    """A text from outside in a form that may be shown: short, printable, without these secrets.

    Escaped secrets are found, too.
    """
    text = text[:_WINDOW]
    pieces = []
    position = 0
    for start, end in _secret_spans(text, secrets):
        if start >= _LIMIT:
            break
        pieces += [text[position:start], "***"] if start >= position else []
        position = max(position, end)
    pieces.append(text[position:_LIMIT])
    return printable("".join(pieces))


def _secret_spans(text: str, secrets: Collection[str]) -> list[tuple[int, int]]:
    """The spans of the text that hold a secret, in order; they may overlap."""
    if not secrets:
        return []
    pattern = re.compile(b"|".join(map(_pattern, secrets)), re.IGNORECASE)
    spans: set[tuple[int, int]] = set()
    characters = [character.encode("utf-8", "surrogatepass") for character in text]
    places = [(at, at + 1) for at, encoded in enumerate(characters) for _ in encoded]
    readings = {b"".join(characters): (places, 0)}
    to_read = list(readings)
    for data in to_read:
        places, depth = readings[data]
        spans.update(
            (places[found.start()][0], places[found.end() - 1][1])
            for found in pattern.finditer(data)
        )
        for escape, meaning in _ESCAPES if depth < _DEPTH else ():
            plain, origins = _unescape(data, places, escape, meaning)
            if plain not in readings and len(readings) < _MOST_READINGS:
                readings[plain] = (origins, depth + 1)
                to_read.append(plain)
    return sorted(spans)


def _pattern(secret: str) -> bytes:
    encoded = secret.encode("utf-8", "surrogatepass")
    # A form writes a blank as a plus sign.
    pattern = re.escape(encoded).replace(rb"\ ", rb"[ +]")
    if len(secret) >= _LONG:
        return pattern
    before = rb"(?<![0-9A-Za-z])" if encoded[:1].isalnum() else b""
    after = rb"(?![0-9A-Za-z])" if encoded[-1:].isalnum() else b""
    return before + pattern + after


def _unescape(
    data: bytes,
    places: list[tuple[int, int]],
    escape: re.Pattern[bytes],
    meaning: Callable[[re.Match[bytes]], bytes],
) -> tuple[bytes, list[tuple[int, int]]]:
    """The text with one layer of escapes removed, and the origin of each of its bytes."""
    pieces: list[bytes] = []
    origins: list[tuple[int, int]] = []
    position = 0
    for found in escape.finditer(data):
        plain = meaning(found)
        start, end = found.span()
        pieces += [data[position:start], plain]
        origins += places[position:start]
        origins += [(places[start][0], places[end - 1][1])] * len(plain)
        position = end
    return b"".join([*pieces, data[position:]]), origins + places[position:]


def _percent_meaning(escape: re.Match[bytes]) -> bytes:
    return bytes.fromhex(escape[0][1:].decode())


def _entity_meaning(escape: re.Match[bytes]) -> bytes:
    import html  # its tables take long to import, and hardly anybody needs them

    return html.unescape(escape[0].decode()).encode("utf-8", "surrogatepass")


def _backslash_meaning(escape: re.Match[bytes]) -> bytes:
    kind = str(escape.lastgroup)
    value = escape[kind]
    if kind == "char":
        return value
    if kind == "pair":
        text = bytes.fromhex(value.replace(b"\\u", b"").decode()).decode("utf-16-be")
    else:
        code = int(value, 16)
        text = chr(code) if code <= 0x10FFFF else "?"
    return text.encode("utf-8", "surrogatepass")


def _byte_meaning(escape: re.Match[bytes]) -> bytes:
    # In Python `\xe9` is a character of a str, and a byte of bytes.
    byte = escape["x"]
    return _backslash_meaning(escape) if byte is None else bytes.fromhex(byte.decode())


_ESCAPES = (
    (_PERCENT, _percent_meaning),
    (_ENTITY, _entity_meaning),
    (_BACKSLASH, _backslash_meaning),
    (_BACKSLASH, _byte_meaning),
)


def secrets_of(request: Any) -> list[Secret]:
    """The parts of the request that must not be shown, longest first."""
    if not isinstance(request, requests.PreparedRequest):
        return []
    found: set[Secret] = set()
    for name, value in (*_header_values(request), *_form_values(request), *_url_values(request)):
        for text in (value, unquote_plus(value)):
            if len(text) >= _LONG or (text and _SECRET_NAME.search(name)):
                found.add(Secret(text))
    return sorted(found, key=len, reverse=True)


def _header_values(request: requests.PreparedRequest) -> Iterator[tuple[str, str]]:
    for name in set(request.headers) - _HARMLESS:
        header: Any = request.headers[name]
        value = header.decode("latin-1") if isinstance(header, bytes) else str(header)
        scheme, _, credentials = value.partition(" ")
        yield from ((name, value), (name, credentials))
        # A list, or parameters.
        yield from (("", piece) for piece in re.split(r'[\s,;="]+', value))
        if scheme.lower() == "basic":
            with contextlib.suppress(ValueError):  # the user's own headers may hold anything
                yield name, base64.b64decode(credentials).decode().partition(":")[2]


def _form_values(request: requests.PreparedRequest) -> Iterator[tuple[str, str]]:
    body = request.body.decode() if isinstance(request.body, bytes) else request.body
    # A form with an assertion is another one each time it is sent.
    for form in (body, *getattr(body, "forms", ())) if isinstance(body, str) else ():
        for member in form.split("&"):
            name, _, value = member.partition("=")
            if name not in _HARMLESS_MEMBERS:
                yield name, value


def _url_values(request: requests.PreparedRequest) -> Iterator[tuple[str, str]]:
    parts = urlsplit(request.url or "")
    for userinfo in parts.netloc.rpartition("@")[0].split(":"):
        yield "password", userinfo
    for member in re.split("[&;]", parts.query):
        name, _, value = member.rpartition("=")
        yield name, value
    yield from (("key", segment) for segment in parts.path.split("/") if is_key(segment))


def without_secrets(request: Any) -> Any:
    """A copy of the request that may be shown; ``None`` if it was not prepared."""
    if not isinstance(request, requests.PreparedRequest):
        return None
    safe = request.copy()
    safe.url = None if safe.url is None else shown_url(safe.url)
    safe.body = None
    safe.hooks = {"response": []}
    safe._cookies = None
    for name in set(safe.headers) - _HARMLESS:
        del safe.headers[name]
    return safe


#: Attributes of exceptions, and what is shown instead. Connections know the proxy's password.
_ATTRIBUTES: dict[str, Callable[[Any], Any]] = {
    "request": without_secrets,
    "response": lambda response: response,
    "pool": str,
    "conn": str,
    "url": lambda url: shown_url(str(url)),
    "location": lambda _: "***",
}


def redact_response(response: requests.Response, secrets: Collection[str] = ()) -> None:
    """Remove from the response, in place, whatever shows the request that it answers."""
    for earlier in response.history:
        redact_response(earlier, secrets)
    response.request = without_secrets(response.request)
    response.url = shown_url(response.url or "")
    response.reason = shown(str(response.reason or ""), secrets)
    response._next = None


def redact_error(error: Exception) -> None:
    """Remove from the exception and those that led to it, in place, what shows the request.

    Exceptions that do not come from requests, urllib3 or the system keep their text and frames:
    a hook may raise anything.
    """
    request, response = (getattr(error, name, None) for name in ("request", "response"))
    secrets = secrets_of(getattr(response, "request", None) if request is None else request)
    is_sent = request is not None
    for cause in _causes(error):
        if isinstance(cause, _LIBRARY_ERRORS):
            cause.args = _shown_arguments(cause, secrets, is_sent=is_sent)
            # The frames hold the request.
            cause.__traceback__ = None
            is_suppressed = cause.__suppress_context__
            cause.__cause__ = _shown_link(cause.__cause__)
            cause.__context__ = _shown_link(cause.__context__)
            # Setting a cause, even None, hides the context.
            cause.__suppress_context__ = is_suppressed
        for name, show in _ATTRIBUTES.items():
            value = vars(cause).get(name)
            if isinstance(value, requests.Response):
                redact_response(value, secrets)
            elif value is not None:
                setattr(cause, name, show(value))


def _causes(error: BaseException) -> list[BaseException]:
    """The exception, and all exceptions among its arguments, reasons, causes and contexts."""
    found: list[BaseException] = []
    to_see: list[Any] = [error]
    while to_see:
        cause = to_see.pop()
        if isinstance(cause, BaseException) and not any(cause is other for other in found):
            found.append(cause)
            reason = getattr(cause, "reason", None)
            to_see += [*cause.args, reason, cause.__cause__, cause.__context__]
    # Those that led to an exception come first: its text is made of theirs.
    return found[::-1]


def _shown_link(cause: BaseException | None) -> BaseException | None:
    """The cause, unless it may quote what was sent or received."""
    is_told = isinstance(cause, (OSError, HTTPError)) and not isinstance(cause, HTTPException)
    return cause if is_told else None


def _shown_arguments(
    cause: BaseException, secrets: Collection[str], *, is_sent: bool
) -> tuple[Any, ...]:
    last = cause.args[-1] if cause.args else None
    if isinstance(cause, MaxRetryError):
        return MaxRetryError(cause.pool, shown_url(cause.url or ""), cause.reason).args
    if isinstance(cause, ProtocolError) and isinstance(last, HTTPException):
        return (f"The answer broke off or is not HTTP: {type(last).__name__}",)
    if is_sent and isinstance(cause, (LocationValueError, requests.exceptions.InvalidURL)):
        # The URL of the request was valid, so this is that of a proxy and may hold a password.
        return ("the URL of a proxy is not valid",)
    if isinstance(cause, requests.exceptions.InvalidHeader):
        return ("a header of the token request is not valid",)
    return tuple(_shown_text(a, secrets) if isinstance(a, str) else a for a in cause.args)


def _shown_text(text: str, secrets: Collection[str]) -> str:
    """The text of an exception that may hold a URL."""
    text = re.sub(r"//.*@", "//***@", text, flags=re.DOTALL)
    return shown(re.sub(r"[?#]\S+", "", text), secrets)
