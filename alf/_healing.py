"""Handles a refused token: which token comes next, when to stop, and what can be sent again.

:class:`Healing` is the rule. The Client, the auth objects and other HTTP clients follow it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import requests
from requests.cookies import extract_cookies_to_jar, get_cookie_header
from requests.exceptions import RequestException, UnrewindableBodyError
from requests.utils import rewind_body

from alf.tokens import Token

__all__ = ["Healing", "HeldBody", "carry_cookies", "discard", "rewind"]

logger = logging.getLogger("alf")

#: A call is sent at most this often, not counting the times when only a nonce was missing.
_MOST_SENDS = 3

#: A refused response is read only if it is short and quick: this many bytes, and this many seconds
#: in all and for each read. Otherwise its connection is closed.
_QUICK_SIZE = 16 * 1024
_QUICK_TIME = 0.3
_QUICK_PIECE = 8
_QUICK_PIECE_TIME = 0.1

#: Bytes of a refused response that a caller without ``stream=True`` waits for.
_HELD_SIZE = 1024 * 1024


class Healing:
    """The tokens that one call is sent with after its own was refused.

    A call is sent at most three times: first as it was, then with another token that is known
    already, then with a token requested after the refusal. A missing DPoP nonce adds one more time
    for each token (RFC 9449 §9).

    :param manager: a :class:`~alf.managers.TokenManager`, or an object with its ``refusal()``.
    :param origin: scheme, host and port of the API.
    """

    def __init__(self, manager: Any, origin: str) -> None:
        self._manager = manager
        self._origin = origin
        self._refusal: Any = None
        self._sends = 1
        self._nonced: Token | None = None

    def next_token(self, refused: Token, *, can_send_again: bool) -> Token | None:
        """The token to send the call with once more; ``None`` if the refusal is final.

        If the call cannot be sent again, the token is replaced for the next call.

        :raises TokenError: the token endpoint did not return a token.
        :raises requests.exceptions.RequestException: the token endpoint could not be reached.
        """
        if self._refusal is None:
            self._refusal = self._manager.refusal(self._origin)
        may_send = can_send_again and self._sends < _MOST_SENDS
        self._sends += 1
        if may_send and self._refusal.wait_to_settle(refused):
            return refused
        try:
            other: Token | None = self._refusal.replacement(refused)
        except RequestException:
            if can_send_again:
                raise
            # The API's own answer to this request is the more useful one.
            return None
        return other if may_send else None

    def after_nonce(self, token: Token, *, can_send_again: bool, has_nonce: bool) -> Token | None:
        """The same after a server demanded a nonce in the proof; another token would not help."""
        if not (can_send_again and has_nonce) or self._nonced is token:
            return None
        self._nonced = token
        return token

    def accepted(self, token: Token) -> None:
        """The API accepted this replacement."""
        if self._refusal is not None:
            self._refusal.accepted(token)


def rewind(request: requests.PreparedRequest) -> bool:
    """Rewind the body to be sent again; return whether that is possible."""
    body: Any = request.body
    if body is None or isinstance(body, (str, bytes, bytearray, memoryview)):
        return True
    if request._body_position is None:
        return False
    try:
        rewind_body(request)
    except UnrewindableBodyError:
        return False
    return True


def carry_cookies(request: requests.PreparedRequest, response: requests.Response) -> None:
    """Add the response's cookies to the request, as after a redirect.

    A ``Cookie`` header from the caller is not changed.
    """
    jar: Any = request._cookies
    raw: Any = getattr(response, "raw", None)
    if jar is None or not getattr(raw, "_original_response", None):
        return
    written = request.headers.pop("Cookie", None)
    if written is not None and written != get_cookie_header(jar, request):
        request.headers["Cookie"] = written
    extract_cookies_to_jar(jar, request, raw)
    request.prepare_cookies(jar)


class HeldBody:
    """The body of a refused response, of which the first part has been read.

    A Session reads the whole body before it returns the response. An endless body would prevent
    the retry.
    """

    def __init__(self, response: requests.Response) -> None:
        self._response = response
        self._rest: Iterator[bytes] | None = None
        if getattr(response, "_content", None) is not False:
            return
        pieces = response.iter_content(8192)
        read = bytearray()
        try:
            while piece := next(pieces, b""):
                read += piece
                if len(read) > _HELD_SIZE:
                    self._rest = pieces
                    break
        except Exception as error:
            self._rest = _raising(error)
        response._content = bytes(read)

    def release(self) -> None:
        """Read the rest, as a Session does."""
        if self._rest is not None:
            read: Any = self._response._content
            self._response._content = read + b"".join(self._rest)

    def discard(self) -> None:
        """Close the response."""
        if self._rest is not None:
            with suppress(Exception):
                self._response.raw.close()
        discard(self._response)


def _raising(error: Exception) -> Iterator[bytes]:
    raise error
    yield b""


def discard(response: requests.Response) -> None:
    """Close a response that the caller does not get.

    Its body is read if that is quick, so that the connection can be reused.
    """
    try:
        if not response._content_consumed and not _read_quickly(response):
            response.raw.close()
        response.close()
    except Exception as error:
        # Without its text, which may quote the body.
        logger.debug("a refused response could not be read to its end (%s)", type(error).__name__)


def _read_quickly(response: requests.Response) -> bool:
    """Read the body to its end; return whether that was quick."""
    length = response.headers.get("Content-Length", "")
    if not length.isdecimal() or int(length) > _QUICK_SIZE:
        return False
    connection = getattr(response.raw, "connection", None)
    sock = getattr(connection, "sock", None)
    if sock is None and connection is not None:
        # The server closes the connection, so it cannot be reused.
        return False
    deadline = time.monotonic() + _QUICK_TIME
    usual = None if sock is None else sock.gettimeout()
    read = bytearray()
    try:
        if sock is not None:
            sock.settimeout(_QUICK_PIECE_TIME)
        for piece in response.iter_content(_QUICK_PIECE):
            read += piece
            if time.monotonic() > deadline or len(read) > 4 * _QUICK_SIZE:
                return False
    finally:
        response._content = bytes(read)
        if sock is not None:
            with suppress(OSError):
                sock.settimeout(usual)
    return True
