"""What writes a token on a request, in the way requests wants it: as ``auth=``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase

from alf.tokens import Token

__all__ = ["BearerTokenAuth", "NoAuth"]


class TokenHeader(str):
    """An ``Authorization`` header that alf wrote: the token in it, and on whose behalf.

    requests copies header values by reference, and removes or replaces those that must not go
    on: a request whose header is still such an object is one that carries our token.
    """

    __slots__ = ("owner", "token")
    owner: object
    token: Token

    def __new__(cls, token: Token, owner: object) -> TokenHeader:
        header = super().__new__(cls, token.authorization)
        header.owner = owner
        header.token = token
        return header

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        # A pickled request carries its header like any other, and no more than that.
        return (str, (str(self),))


class BearerTokenAuth(AuthBase):
    """Writes ``Authorization: Bearer …`` (RFC 6750 §2.1) on a request of any Session.

    :param access_token: the token: a string, a :class:`~alf.tokens.Token`, or a callable that is
        asked for one of these at each request.
    :param hosts: the hosts that may see the token, such as ``"api.example.com"`` or
        ``"*.example.com"`` (every host below it); ``None``: every host it is sent to.
    :raises ValueError: not a non-empty string of visible ASCII, or not a host name.
    :raises TypeError: of another type than these.
    """

    def __init__(
        self,
        access_token: str | Token | Callable[[], str | Token],
        hosts: Sequence[str] | None = None,
    ) -> None:
        self._source = access_token if callable(access_token) else None
        self._hosts = None if hosts is None else parse_hosts(hosts)
        #: Tells the headers of this object, and of those made by with_token(), from others.
        self._owner = object()
        self._carrier: BearerTokenAuth | None = None
        if not callable(access_token):
            self._header = TokenHeader(_as_token(access_token), self._owner)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._source is not None:
            if self.allows(request.url):
                self.with_token(_as_token(self._source()))(request)
        elif self._hosts is None or self.allows(request.url):
            request.headers["Authorization"] = self._header
        return request

    def with_token(self, token: Token) -> BearerTokenAuth:
        """An auth object that writes this very token, to the same hosts, on behalf of this one."""
        carrier = self._carrier
        if carrier is None or carrier._header.token is not token:
            carrier = copy.copy(self)
            carrier._source = None
            carrier._header = TokenHeader(token, self._owner)
            self._carrier = carrier
        return carrier

    @property
    def has_carried(self) -> bool:
        """Whether a token has ever been there to carry."""
        return self._carrier is not None

    def token_on(self, request: requests.PreparedRequest) -> Token | None:
        """The token that this object wrote on this very request, if it is still there."""
        header: Any = request.headers.get("Authorization")
        if isinstance(header, TokenHeader) and header.owner is self._owner:
            return header.token
        return None

    def allows(self, url: str | None) -> bool:
        """Whether the host of this prepared URL may see the token."""
        if self._hosts is None:
            return True
        host = (urlsplit(url or "").hostname or "").rstrip(".")
        return any(
            host.endswith(allowed[1:]) if allowed.startswith("*.") else host == allowed
            for allowed in self._hosts
        )


class NoAuth(AuthBase):
    """``auth=NoAuth()``: this call goes without the token, and without a ``.netrc`` entry.

    For the target of a redirect requests looks into ``.netrc`` all the same.
    """

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


def parse_hosts(hosts: Sequence[str]) -> tuple[str, ...]:
    """Host names and patterns in the form in which requests prepares them.

    :raises TypeError: not a sequence of strings.
    :raises ValueError: one of them is no host name.
    """
    if isinstance(hosts, (str, bytes)) or not all(isinstance(host, str) for host in hosts):
        message = f"token_hosts must be a sequence of host names, got {hosts!r}"
        raise TypeError(message)
    return tuple(_parse_host(host) for host in hosts)


def _parse_host(host: str) -> str:
    below = host.startswith("*.")
    name = host[2:] if below else host
    prepared = requests.PreparedRequest()
    try:
        prepared.prepare_url(f"http://{name}/", None)
    except requests.exceptions.RequestException:
        prepared.url = None
    parts = urlsplit(prepared.url or "")
    if (
        not parts.hostname
        or parts.netloc.lower().strip("[]") != parts.hostname
        or parts[2:] != ("/", "", "")
        # What no host name has in it, and urllib3 1.26 lets pass; but an IPv6 zone has a %.
        or (":" not in parts.hostname and not {"%", "*"}.isdisjoint(parts.hostname))
    ):
        message = f"token_hosts: expected host names such as 'api.example.com', got {host!r}"
        raise ValueError(message)
    hostname = parts.hostname.rstrip(".")
    return f"*.{hostname}" if below else hostname


def _as_token(value: str | Token) -> Token:
    if isinstance(value, Token):
        return value
    if isinstance(value, str):
        return Token(value)
    message = f"access_token must be a str or an alf.tokens.Token, got {type(value).__name__}"
    raise TypeError(message)
