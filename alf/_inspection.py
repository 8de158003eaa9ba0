"""The text of ``alf inspect``: what an answer means, and what went wrong."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.exceptions import ProxyError, RequestException, SSLError, Timeout

from alf._answers import read_members
from alf._urls import shown_url
from alf.tokens import Token, TokenError, parse_expires_in

__all__ = ["causes", "decode_jwt", "describe", "reason"]

#: Claims that are seconds since the epoch (RFC 7519 §4.1, OpenID Connect Core §2).
_TIMES = {"auth_time", "exp", "iat", "nbf"}

#: Seconds by which two clocks, or two ways to say a lifetime, may differ unmentioned.
_TOLERANCE = 60


def describe(
    token: Token, response: requests.Response, options: Mapping[str, Any]
) -> Iterator[str]:
    """What the token endpoint granted, a line for each thing; what is odd about it comes last.

    :param token: the token in the answer.
    :param response: the answer.
    :param options: the Client's keyword arguments.
    """
    members = read_members(response)
    assert isinstance(members, dict)
    jwt = decode_jwt(token.access_token)
    rows = {
        "token endpoint": shown_url(response.url),
        "client id": options["client_id"],
        "answer": f"{response.status_code} after {response.elapsed.total_seconds():.2f} s",
        "token type": json.dumps(members.get("token_type")),
        "lifetime": _lifetime(token),
        "scope": token.scope if token.scope is not None else "not named: the scope asked for",
        "other members": ", ".join(sorted(token.extra)) or "none",
        "token": f"{len(token.access_token)} characters, "
        + ("opaque" if jwt is None else "a JWT; decoded here, its signature not verified"),
    }
    for name, value in rows.items():
        yield f"{name:16}{value}"
    if jwt is not None:
        for part, content in zip(("header", "claim"), jwt, strict=True):
            for name, value in content.items():
                yield f"  {part:8}{name:14}{_shown(name, value)}"
    for note in _notes(token, members, response, options, jwt):
        yield f"note: {note}"


def reason(error: RequestException) -> str:
    """In a few words why there is no answer, or why it is not usable, without secrets."""
    if isinstance(error, (TokenError, ValueError)):
        return str(error)
    url = getattr(error.request, "url", None)
    where = f"no answer from {shown_url(url)}: " if url else ""
    chain = list(causes(error))
    if isinstance(error, ProxyError):
        return f"{where}the proxy did not connect ({_words(chain[-1])})"
    if isinstance(error, SSLError):
        return f"{where}TLS failed ({_words(chain[-1])})"
    if isinstance(error, Timeout):
        return f"{where}it took too long"
    if any(isinstance(cause, socket.gaierror) for cause in chain):
        return f"{where}its name could not be resolved"
    return f"{where}{_words(chain[-1])}"


def decode_jwt(text: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Header and claims, if it is a signed JWT (RFC 7515 §3.1). The signature is not verified."""
    parts = text.split(".")
    if len(parts) != 3:
        return None
    try:
        header, claims = (
            json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
            for part in parts[:2]
        )
    except (ValueError, RecursionError):
        return None
    if not isinstance(header, dict) or not isinstance(claims, dict):
        return None
    return header, claims


def _notes(
    token: Token,
    members: Mapping[str, Any],
    response: requests.Response,
    options: Mapping[str, Any],
    jwt: tuple[dict[str, Any], dict[str, Any]] | None,
) -> Iterator[str]:
    url = urlsplit(response.url)
    if url.scheme == "http" and url.hostname not in ("localhost", "127.0.0.1", "::1"):
        yield "http: secret and token can be read on the way; RFC 6749 §3.2 demands TLS"
    expires_in = members.get("expires_in")
    if token.lifetime is None:
        said = "no expires_in" if expires_in is None else f"expires_in {json.dumps(expires_in)}"
        yield f"{said}: alf uses the token until an API refuses it with a 401"
    elif expires_in is None:
        yield "no expires_in, which RFC 6749 §5.1 recommends: alf goes by the time of expiry"
    elif token.lifetime <= 0:
        yield f"expires_in {json.dumps(expires_in)}: alf asks for a new token at every call"
    elif isinstance(expires_in, str):
        yield "expires_in is a string, where RFC 6749 §5.1 has a number; alf takes both"
    token_type = members.get("token_type")
    if str(token_type).lower() not in ("bearer", "dpop"):
        yield f"token_type {json.dumps(token_type)}: alf sends the token as {token.token_type}"
    if token.scope is not None:
        missing = set(options.get("scope", "").split()) - set(token.scope.split())
        if missing:
            yield f"scope asked for and not granted: {' '.join(sorted(missing))}"
    if "refresh_token" in members:
        yield "the refresh_token is not used: this grant asks anew (RFC 6749 §4.4.3)"
    if jwt is not None:
        yield from _notes_on_times(token, jwt[1])


def _notes_on_times(token: Token, claims: Mapping[str, Any]) -> Iterator[str]:
    issued, expires = (parse_expires_in(claims.get(name)) for name in ("iat", "exp"))
    age = None if issued is None else time.time() - issued
    if age is not None and abs(age) > _TOLERANCE:
        yield (
            f"by its iat and this machine's clock the JWT is {age:.0f} s old: one of the clocks "
            "is wrong, or the endpoint hands the same token out again"
        )
    if expires is not None and token.expires_at is not None:
        longer = expires - token.expires_at
        if abs(longer) > _TOLERANCE:
            yield (
                f"by its exp the JWT lives {abs(longer):.0f} s {'longer' if longer > 0 else 'less'}"
                " than expires_in says, which alf goes by"
            )


def _lifetime(token: Token) -> str:
    if token.lifetime is None:
        return "not known"
    return f"{token.lifetime:.0f} s, until {_moment(token.expires_at)}"


def _shown(name: str, value: Any) -> str:
    text = json.dumps(value)
    return f"{text} ({_moment(value)})" if name in _TIMES else text


def _moment(value: Any) -> str:
    try:
        return f"{datetime.fromtimestamp(value, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
    except (OSError, OverflowError, TypeError, ValueError):
        return "no point in time"


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from, down to the first cause, through all that wrap it."""
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        nested = [
            getattr(cause, "reason", None),
            *cause.args,
            cause.__cause__,
            None if cause.__suppress_context__ else cause.__context__,
        ]
        cause = next((inner for inner in nested if isinstance(inner, BaseException)), None)


def _words(cause: BaseException) -> str:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return cause.verify_message
    if isinstance(cause, ssl.SSLError):
        return str(cause.reason or cause.strerror)
    strerror = getattr(cause, "strerror", None)
    return strerror if isinstance(strerror, str) else type(cause).__name__
