"""What an authorization server answers: the body, its members, the error in it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

import requests

from alf._redaction import printable

#: Bytes of an answer that are read; the largest tokens known are a hundredth of it.
_LARGEST_ANSWER = 1024 * 1024


def read_body(response: requests.Response) -> None:
    """Read the body, up to the limit, to where ``response.content`` has it.

    :raises requests.exceptions.RequestException: it ends before its ``Content-Length``, or its
        connection does.
    """
    # What urllib3 2 does by itself, and 1.26 if told.
    response.raw.enforce_content_length = True
    chunks: list[bytes] = []
    size = 0
    for chunk in response.iter_content(8192):
        chunks.append(chunk)
        size += len(chunk)
        if size > _LARGEST_ANSWER:
            # Not left to requests, which takes the body below for all there is.
            response.raw.close()
            break
    response._content = b"".join(chunks)[:_LARGEST_ANSWER]
    response._content_consumed = True


def read_members(response: requests.Response) -> dict[str, Any] | str:
    """The members of the answer, or what the answer is instead.

    The content type is not asked for JSON: servers send it under any name. Some old ones send
    a form.
    """
    body = response.content
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media_type == "application/x-www-form-urlencoded":
        return dict(parse_qsl(body.decode("utf-8", "replace")))
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        shown_type = printable(media_type[:500]) or "no content type"
        return f"{len(body)} bytes of {shown_type} that are not JSON"
    if not isinstance(answer, dict):
        return f"a JSON {type(answer).__name__}"
    return answer


#: Where servers put the error code and its description, beside RFC 6749 §5.2.
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
    """The error code and its description, where the answer has them.

    :param secrets: what must not be shown: some gateways cite what they were sent.
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
            for secret in secrets:
                value = value.replace(secret, "***")
            return printable(value[:500])
    return None
