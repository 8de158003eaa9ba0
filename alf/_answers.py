"""Reads the answers of an authorization server: their members and errors."""

from __future__ import annotations

import codecs
import contextlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from email.message import Message
from typing import Any
from urllib.parse import parse_qsl

import requests

from alf._redaction import shown

#: Content types of forms; all but the first are used for other things as well.
_FORM_TYPES = ("application/x-www-form-urlencoded", "text/plain", "")

_BYTE_ORDER_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)

#: These take minutes for a mebibyte.
_SLOW_CODECS = ("idna", "punycode")


class _Members(dict[str, Any]):
    """The members of an answer, hidden from error reports that show local variables."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} members>"


def read_members(response: requests.Response) -> dict[str, Any] | str:
    """The members of the answer, or a description of an answer without members.

    JSON and forms are recognised by their content, because servers send them with any content type
    and in any charset.
    """
    content_type = Message()
    content_type["Content-Type"] = response.headers.get("Content-Type", "")
    media_type = content_type.get_content_type() if content_type["Content-Type"] else ""
    answer: Any = None
    is_json = False
    texts = list(_decodings(response.content, content_type.get_content_charset()))
    for text in texts:
        with contextlib.suppress(ValueError, RecursionError):
            answer, is_json = json.loads(text), True
            break
    if isinstance(answer, dict):
        return _Members(answer)
    if media_type in _FORM_TYPES:
        form = _Members(parse_qsl(texts[0]))
        if media_type == _FORM_TYPES[0] or "access_token" in form or "error" in form:
            return form
    if is_json:
        return f"a JSON {type(answer).__name__}"
    shown_type = shown(media_type) or "no content type"
    return f"{len(response.content)} bytes of {shown_type} that are not JSON"


def _decodings(body: bytes, charset: str | None) -> Iterator[str]:
    """The text decoded by its byte order mark, the declared charset, or the rules of JSON."""
    detected = json.detect_encoding(body)
    if charset is not None and not body.startswith(_BYTE_ORDER_MARKS):
        with contextlib.suppress(LookupError, ValueError):  # a null character, for example
            if codecs.lookup(charset).name not in _SLOW_CODECS:
                yield body.decode(charset, "replace")
    yield body.decode(detected, "replace")


#: Where servers put the error code and its description, besides RFC 6749 §5.2.
_ERROR_CODES = ("error", "errorCode", "ErrorCode", "error_type", "errorcode", "code", "name")
_ERROR_DESCRIPTIONS = (
    "error_description",
    "errorSummary",
    "error_message",
    "message",
    "Error",
    "faultstring",
    "title",
)
_ERROR_PARENTS = ("errors", "error", "fault", "response", "detail")


def find_error(
    response: requests.Response, secrets: Collection[str] = ()
) -> tuple[str | None, str | None]:
    """The error code and its description, if the answer has them.

    :param secrets: texts that must not be shown: some gateways quote the request.
    """
    answer = read_members(response)
    return (None, None) if isinstance(answer, str) else _find_error(answer, secrets)


def _find_error(
    answer: Mapping[str, Any], secrets: Collection[str], depth: int = 3
) -> tuple[str | None, str | None]:
    code = _first_text(answer, _ERROR_CODES, secrets)
    description = _first_text(answer, _ERROR_DESCRIPTIONS, secrets)
    for name in _ERROR_PARENTS if depth else ():
        nested = answer.get(name)
        if isinstance(nested, list) and nested:
            nested = nested[0]
        if isinstance(nested, Mapping):
            inner_code, inner_description = _find_error(nested, secrets, depth - 1)
            code, description = inner_code or code, inner_description or description
    return code, description


def _first_text(
    answer: Mapping[str, Any], names: Sequence[str], secrets: Collection[str]
) -> str | None:
    for name in names:
        value = answer.get(name)
        if isinstance(value, str) and value:
            return shown(value, secrets)
    return None
