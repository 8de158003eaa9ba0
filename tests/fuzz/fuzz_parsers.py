"""A fuzz target: all that alf reads of what others send it, fed with any bytes.

``make fuzz`` looks for bytes that break it, with atheris: for ten minutes, or for as many seconds
as ``ARGS=-max_total_time=…`` says. What breaks it is written to a file ``crash-…``: fix the bug,
and move the file to the corpus, over which the test suite runs the target (``test_corpus.py``),
without atheris.

The first line of the input is the value of the headers that alf looks at; the rest is the body, the
token and the stored entry.
"""

from __future__ import annotations

import contextlib
import io
import math
import sys
from datetime import timedelta
from typing import Any

import requests
import urllib3

from alf._answers import find_error, read_members
from alf._discovery import check_issuer, parse_metadata
from alf._inspection import decode_jwt, describe
from alf._retries import retry_after
from alf._token_storage import TokenStorage
from alf._urls import shown_url
from alf.dpop import asks_for_nonce
from alf.tokens import Token, parse_expires_in

HEADERS = ("Content-Type", "Location", "Retry-After", "WWW-Authenticate")
ISSUER = "https://id.example.com"


def target(data: bytes) -> None:
    """Read the bytes in every way; whatever they are, what comes of it is in order."""
    header, _, body = data.partition(b"\n")
    text = body.decode("utf-8", "surrogateescape")
    response = answer(200, header.decode("latin-1").strip(), body)
    members = read_members(response)
    if isinstance(members, dict):
        check_members(members, response)
    else:
        assert members.isprintable()
        assert len(members) < 1000
    for shown in find_error(response, [text[:20]] if text else []):
        assert shown is None or (shown.isprintable() and len(shown) <= 500)
    wait = retry_after(response)
    assert wait is None or wait >= 0
    assert asks_for_nonce(response) is False
    asks_for_nonce(answer(401, header.decode("latin-1").strip(), body))
    with contextlib.suppress(ValueError):
        metadata = parse_metadata(response, ISSUER, has_cert=True)
        assert metadata.token_endpoint.startswith(("https://", "http://"))
    with contextlib.suppress(ValueError):
        assert check_issuer(text) == text.strip()
    assert not set("?#@") & set(shown_url(text))
    jwt = decode_jwt(text)
    assert jwt is None or all(isinstance(part, dict) for part in jwt)
    check_stored(body)


def answer(status: int, header: str, body: bytes) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    response.url = "https://id.example.com/token"
    response.elapsed = timedelta(seconds=1)
    response.headers.update(dict.fromkeys(HEADERS, header))
    response.raw = urllib3.HTTPResponse(io.BytesIO(body), preload_content=False)
    response._content = body
    return response


def check_members(members: dict[str, Any], response: requests.Response) -> None:
    lifetime = parse_expires_in(members.get("expires_in"))
    assert lifetime is None or math.isfinite(lifetime)
    with contextlib.suppress(ValueError):
        token = Token.from_answer(members, 1_700_000_000.0)
        check_token(token)
        list(describe(token, response, {"client_id": "client-id", "scope": "read write"}))


def check_token(token: Token) -> None:
    """No header can be forged with it, and neither of its texts shows it."""
    assert token.authorization.isascii()
    assert token.authorization.isprintable()
    assert token.authorization.count(" ") == 1
    assert token.access_token not in repr(token) or len(token.access_token) < 8
    assert token.lifetime is None or math.isfinite(token.lifetime)


def check_stored(entry: bytes) -> None:
    storage: dict[str, Any] = {"key": entry}
    token = TokenStorage(storage, "key").load()
    if token is not None:
        check_token(token)
        TokenStorage(storage, "other").save(token)


def main() -> None:
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
