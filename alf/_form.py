"""The form and the headers of a token request, without client authentication."""

from __future__ import annotations

import re
from collections.abc import ItemsView, Mapping, Sequence
from types import NoneType
from typing import Any

from alf._redaction import Secret
from alf._texts import check_utf8
from alf.client_auth import ClientAuth
from alf.grants import Grant

__all__ = ["check_headers", "token_form"]

#: Simplified from RFC 3986 §4.3: a scheme and anything else but a fragment.
_ABSOLUTE_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^#\s]+")

#: RFC 9110 §5.1 and §5.5, within what http.client can send.
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"([!-~\xa0-\xff]([\t -~\xa0-\xff]*[!-~\xa0-\xff])?)?")


def token_form(
    scope: str | Sequence[str] | None = None,
    audience: str | None = None,
    resource: str | Sequence[str] | None = None,
    token_params: Mapping[str, str] | Sequence[tuple[str, str]] | None = None,
    client_auth: ClientAuth | None = None,
    grant: Grant | None = None,
) -> list[tuple[str, str]]:
    """The pairs of the token request's form, without empty ones (RFC 6749 §3.2).

    :param scope: the scope to request, or its names (RFC 6749 §3.3).
    :param audience: the API that the token is for.
    :param resource: the absolute URI, or URIs, of the API that the token is for (RFC 8707 §2).
    :param token_params: other parameters; ``grant_type`` replaces ``client_credentials``.
    :param client_auth: adds its own parameters; ``None`` if not known yet.
    :param grant: the grant; ``None``: client credentials.
    :raises TypeError: an argument is of the wrong type.
    :raises ValueError: a parameter is given twice, or is one that ``client_auth`` or ``grant``
        sends, or a ``resource`` is not an absolute URI without a fragment.
    """
    if not isinstance(audience, (str, NoneType)):
        message = f"audience must be a str, got {audience!r}"
        raise TypeError(message)
    form = [("scope", " ".join(_texts("scope", scope))), ("audience", audience or "")]
    for uri in _texts("resource", resource):
        if not _ABSOLUTE_URI.fullmatch(uri):
            message = f"resource must be an absolute URI without a fragment, got {uri!r}"
            raise ValueError(message)
        form.append(("resource", uri))
    form = [pair for pair in form if pair[1]]
    for name, value in form:
        check_utf8(name, value)
    signed = {"client_secret", "client_assertion", "client_assertion_type"}
    signed.update(ClientAuth.params if client_auth is None else client_auth.params)
    granted = set() if grant is None else {"grant_type", *grant.params}
    given = {name for name, _ in form}
    extra = _pairs(token_params)
    for name, _ in extra:
        if name in signed:
            message = f"token_params must not hold {name}: client_auth sends it"
            if name.startswith("client_assertion"):
                message += ", such as alf.client_auth.ClientAssertion"
            raise ValueError(message)
        if name in granted:
            message = f"token_params must not hold {name}: grant sends it"
            raise ValueError(message)
        if name in given:
            message = f"{name} is given twice, as an argument and in token_params"
            raise ValueError(message)
    if grant is not None:
        form[:0] = grant.fixed_form
    elif not any(name == "grant_type" for name, _ in extra):
        form.insert(0, ("grant_type", "client_credentials"))
    return [*form, *((name, value) for name, value in extra if value)]


def check_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Headers for the token request.

    :raises TypeError: they are not a mapping of str to str.
    :raises ValueError: one cannot be sent, or is one that ``client_auth`` sets.
    """
    if headers is None:
        return {}
    if not isinstance(headers, Mapping) or not all(
        isinstance(part, str) for pair in headers.items() for part in pair
    ):
        message = "token_headers must be a mapping of str to str"
        raise TypeError(message)
    for name, value in headers.items():
        if name.lower() in ("authorization", "dpop"):
            message = f"token_headers must not hold {name}: client_auth sets it"
            raise ValueError(message)
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            message = f"token_headers: {name!r} is not a valid header name, or has an invalid value"
            raise ValueError(message)
    return {name: Secret(value) for name, value in headers.items()}


def _texts(name: str, value: str | Sequence[str] | None) -> list[str]:
    """The texts in an argument that takes one or several."""
    if value is None:
        return []
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        message = f"{name} must be a str or a sequence of these, got {value!r}"
        raise TypeError(message)
    return list(texts)


def _pairs(
    token_params: Mapping[str, str] | Sequence[tuple[str, str]] | None,
) -> list[tuple[str, str]]:
    if token_params is None:
        return []
    pairs = token_params.items() if isinstance(token_params, Mapping) else token_params
    extra: list[Any] = list(pairs) if isinstance(pairs, (Sequence, ItemsView)) else [pairs]
    for pair in extra:
        if not isinstance(pair, (tuple, list)) or [isinstance(part, str) for part in pair] != [
            True,
            True,
        ]:
            message = "token_params must be a mapping of str to str, or pairs of these"
            raise TypeError(message)
    for name, value in extra:
        check_utf8(f"{name!r} of token_params", value)
    return [(name, Secret(value)) for name, value in extra]
