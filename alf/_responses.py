"""Reads the body of any kind of response within limits."""

from __future__ import annotations

import contextlib
import io
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import requests
import urllib3
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import DecodeError

from alf._time_limits import TimeLimit

__all__ = ["close_response", "plain_response", "read_content"]

#: At most this many bytes of an answer are read: a hundred times the largest known token.
_LARGEST_ANSWER = 1024 * 1024

#: The size of a read, in bytes.
_PIECE = 8192

#: The argument of zlib for each coding. Some servers send "deflate" without its header.
_WINDOWS = {
    "gzip": (zlib.MAX_WBITS | 16,),
    "x-gzip": (zlib.MAX_WBITS | 16,),
    "deflate": (zlib.MAX_WBITS, -zlib.MAX_WBITS),
}


def read_content(response: requests.Response, limit: TimeLimit, *, is_handed_in: bool) -> bytes:
    """The decoded body, up to the size limit."""
    if isinstance(response._content, bytes):  # a hook or a cache has read it already
        return response._content[:_LARGEST_ANSWER]
    if response.raw is None:
        return b""
    is_urllib3s = isinstance(response.raw, urllib3.HTTPResponse)
    if not is_urllib3s:
        pieces: Iterator[bytes] = response.iter_content(_PIECE)
    elif is_handed_in:
        pieces = _small_pieces(response.raw)
    else:
        pieces = _pieces(lambda: response.raw.read(_PIECE, decode_content=False))
    if is_urllib3s:
        # urllib3 2 does so by default, 1.26 only with this argument.
        response.raw.enforce_content_length = True
    content = bytearray()
    for piece in pieces:
        limit.left()
        content += piece
        if len(content) > _LARGEST_ANSWER:
            break
    body = bytes(content[:_LARGEST_ANSWER])
    return _decode(body, response.headers.get("Content-Encoding")) if is_urllib3s else body


def _small_pieces(raw: Any) -> Iterator[bytes]:
    """The pieces as they arrive: a whole piece may take long."""
    read = getattr(raw, "read1", None)
    if read is None:  # pragma: no cover (urllib3 1.26)
        return _pieces(lambda: raw.read(1, decode_content=False))
    return _pieces(lambda: read(_PIECE, decode_content=False))


def _pieces(read: Callable[[], bytes]) -> Iterator[bytes]:
    return iter(read, b"")


def _decode(body: bytes, codings: str | None) -> bytes:
    names = [name.strip().lower() for name in (codings or "").split(",")]
    names = [name for name in names if name not in ("", "identity")]
    if not names or not body:
        return body
    if len(names) > 1 or names[0] not in _WINDOWS:
        message = "the Content-Encoding cannot be decoded: nothing but identity was accepted"
        raise DecodeError(message)
    for window in _WINDOWS[names[0]]:
        decoder = zlib.decompressobj(window)
        with contextlib.suppress(zlib.error):
            decoded = decoder.decompress(body, _LARGEST_ANSWER)
            if decoder.eof or len(decoded) == _LARGEST_ANSWER:
                return decoded
    message = f"the answer cannot be decoded as {names[0]}"
    raise DecodeError(message)


def close_response(response: requests.Response) -> None:
    # A hand-made response may have nothing to close.
    with contextlib.suppress(Exception):
        response.raw.close()
        response.raw.release_conn()


def plain_response(response: requests.Response, content: bytes) -> requests.Response:
    """A copy of the answer as a plain Response of requests, without a connection."""
    plain = requests.Response()
    plain.status_code = response.status_code
    plain.reason = response.reason
    plain.url = response.url
    plain.headers = CaseInsensitiveDict(response.headers)
    plain.encoding = response.encoding
    plain.elapsed = response.elapsed
    plain.request = response.request
    plain.raw = urllib3.HTTPResponse(
        io.BytesIO(content), status=response.status_code, preload_content=False
    )
    plain._content = content
    plain._content_consumed = True
    return plain
