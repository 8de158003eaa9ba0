"""Auth objects for requests (``auth=``), which add a token to a request."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import requests
from requests.auth import AuthBase
from requests.exceptions import RequestException

from alf._failure_log import is_logged
from alf._healing import Healing, HeldBody, carry_cookies, discard, rewind
from alf._inspection import reason
from alf._redaction import masked
from alf._types import Hosts
from alf._urls import origin_of
from alf.dpop import DPoPKey, asks_for_nonce
from alf.managers import TokenManager
from alf.tokens import Token

if TYPE_CHECKING:
    from alf._token_hosts import TokenHosts

__all__ = ["BearerTokenAuth", "ClientCredentialsAuth", "NoAuth"]

logger = logging.getLogger("alf")

#: Tokens that are recognised by their text when a request has lost the header object.
_MOST_KNOWN = 16


class TokenHeader(str):
    """An ``Authorization`` header written by alf, with its token and its auth object.

    requests copies header values by reference, and removes or replaces those that must not be sent
    on. So a request whose header is still this object carries our token.
    """

    __slots__ = ("owner", "token")
    owner: object
    token: Token

    def __new__(cls, token: Token, owner: object) -> TokenHeader:
        header = super().__new__(cls, token.authorization)
        header.owner = owner
        header.token = token
        return header

    def __repr__(self) -> str:
        # Error reports show the headers of a request.
        return f"'{self.token.token_type} ***'"

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        # A pickled request keeps its header as a plain str.
        return (str, (str(self),))


class BearerTokenAuth(AuthBase):
    """Adds ``Authorization: Bearer …`` (RFC 6750 §2.1) to a request of any Session.

    :param access_token: the token: a string, a :class:`~alf.tokens.Token`, or a callable that
        returns one of these and is called for each request.
    :param hosts: the hosts that get the token, as ``token_hosts`` of a Client; ``None``: all.
    :raises ValueError: the token is not a non-empty string of visible ASCII, or a host name is not
        valid.
    :raises TypeError: an argument is of another type.
    """

    def __init__(
        self,
        access_token: str | Token | Callable[[], str | Token],
        hosts: Hosts | None = None,
    ) -> None:
        access_token = masked(access_token)
        self._source = access_token if callable(access_token) else None
        self._hosts = None if hosts is None else _token_hosts(hosts)
        #: Identifies this object's headers without a reference to the object.
        self._owner = object()
        if not callable(access_token):
            self._header = TokenHeader(_as_token(access_token), self._owner)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self.allows(request.url):
            source = self._source
            token = None if source is None else _as_token(source())
            header = self._header if token is None else TokenHeader(token, self._owner)
            request.headers["Authorization"] = header
        return request

    def allows(self, url: str | None) -> bool:
        """Whether this prepared URL gets the token."""
        return self._hosts is None or self._hosts.allow(url)


class _Identity(Protocol):
    """What an auth object needs of its Client."""

    _dpop_key: DPoPKey | None

    @property
    def manager(self) -> TokenManager: ...
    def ensure_token(self) -> Token: ...
    def is_token_refused(self, response: requests.Response) -> bool: ...


class _WrittenToken(AuthBase):
    """Adds one token to requests for any URL; its Client handles refusals."""

    __slots__ = ("header", "token")

    def __init__(self, token: Token, owner: object) -> None:
        self.token = token
        self.header = TokenHeader(token, owner)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self.header
        return request


class ClientCredentialsAuth(BearerTokenAuth):
    """``client.auth``: adds a Client's token to requests of any Session.

    >>> requests.get("https://api.example.com/reports", auth=client.auth)

    It requests a token if there is no good one. If the API refuses the token, the request is sent
    again with another, as by a Client, and the refused response is in ``response.history``. It can
    be copied and pickled, together with the options of its Client.

    :raises TokenError: no token could be obtained when a request was prepared. If none can be
        obtained after a refusal, the API's answer is returned and one WARNING is logged.
    """

    def __init__(self, client: _Identity, hosts: Hosts | None) -> None:
        super().__init__(client.ensure_token, hosts)
        self._client = client
        self._written: _WrittenToken | None = None
        #: The last headers that it wrote.
        self._known: tuple[TokenHeader, ...] = ()

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self.allows(request.url):
            self.write(request, self._client.manager.token())
            request.register_hook("response", HealingHook(self))
        return request

    def __reduce__(self) -> tuple[Any, ...]:
        return (getattr, (self._client, "_token_auth"))

    @property
    def has_written(self) -> bool:
        """Whether this object has written a header before."""
        return self._written is not None

    def with_token(self, token: Token) -> AuthBase:
        """An auth object that adds this token on behalf of this object."""
        written = self._written
        if written is None or written.token is not token:
            written = _WrittenToken(token, self._owner)
            # Replaced as a whole: other threads read it.
            self._known = (*self._known[1 - _MOST_KNOWN :], written.header)
            self._written = written
        return written

    def write(self, request: requests.PreparedRequest, token: Token) -> None:
        """Add the token to the request, and the proof if it is bound to a key."""
        self.with_token(token)(request)
        if self._client._dpop_key is not None:
            self._client._dpop_key.attach_proof(request, token)

    def token_on(self, request: requests.PreparedRequest) -> Token | None:
        """The token that this object wrote on this request, if it is still there.

        Tools copy headers, and a pickled request has plain ones. The same text still is our token,
        unless another auth object wrote it.
        """
        header: Any = request.headers.get("Authorization")
        if isinstance(header, TokenHeader):
            return header.token if header.owner is self._owner else None
        if header is None:
            return None
        text = header.decode("latin-1") if isinstance(header, bytes) else header
        current = self._client.manager.peek()
        if current is not None and text == current.authorization:
            return current
        return next((known.token for known in self._known if known == text), None)

    def is_refused(self, response: requests.Response) -> bool:
        """Whether the token was refused, or only its proof lacked the server's nonce."""
        is_refused = self._client.is_token_refused(response)
        key = self._client._dpop_key
        if key is None:
            return is_refused
        key.store_nonce(response)
        return is_refused or asks_for_nonce(response)

    def next_token(
        self,
        healing: Healing,
        refused: Token,
        response: requests.Response,
        *,
        can_send_again: bool,
    ) -> Token | None:
        """The token to send the request with once more; ``None`` if the refusal is final.

        Raises as :meth:`Healing.next_token`.
        """
        if self._client._dpop_key is not None and asks_for_nonce(response):
            has_nonce = "DPoP-Nonce" in response.headers
            return healing.after_nonce(refused, can_send_again=can_send_again, has_nonce=has_nonce)
        return healing.next_token(refused, can_send_again=can_send_again)

    def heal(self, response: requests.Response, settings: dict[str, Any]) -> requests.Response:
        """The response to return instead of this one, on a Session that is not a Client."""
        request = response.request
        token = self.token_on(request)
        healing = Healing(self._client.manager, origin_of(request.url))
        while token is not None:
            if not self.is_refused(response):
                healing.accepted(token)
                break
            connection = getattr(response, "connection", None)
            try:
                can_send_again = connection is not None and rewind(request)
                token = self.next_token(healing, token, response, can_send_again=can_send_again)
            except RequestException as error:
                logger.log(
                    logging.DEBUG if is_logged(error) else logging.WARNING,
                    "%s refused the token, and it was not renewed: %s",
                    *(origin_of(request.url), reason(error)),
                )
                break
            if token is None:
                break
            response = self._send_again(response, token, settings)
        return response

    def _send_again(
        self, refused: requests.Response, token: Token, settings: dict[str, Any]
    ) -> requests.Response:
        request = refused.request
        # The Session keeps using its request, for redirects for example, so that gets the new
        # token. The refused response gets a copy of what was refused.
        refused.request = request.copy()
        if settings.get("stream"):
            discard(refused)
        else:
            HeldBody(refused).discard()
        carry_cookies(request, refused)
        self.write(request, token)
        response: requests.Response = refused.connection.send(request, **settings)
        response.history = [*refused.history, refused]
        response.request = request
        return response


class HealingHook:
    """The response hook that replaces a refused token on a Session that is not a Client.

    It is not pickled with a request. It has no reference to the auth object, so that no secret
    can be reached from a request or response.
    """

    __slots__ = ("_auth",)

    def __init__(self, auth: ClientCredentialsAuth) -> None:
        self._auth = weakref.ref(auth)

    def __call__(self, response: requests.Response, **settings: Any) -> requests.Response:
        auth = self._auth()
        return response if auth is None else auth.heal(response, settings)

    def belongs_to(self, auth: ClientCredentialsAuth) -> bool:
        """Whether this is a hook of that auth object."""
        return self._auth() is auth

    def __deepcopy__(self, _memo: Any) -> HealingHook:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (_no_hook, ())


def _no_hook() -> Callable[..., None]:
    return _do_nothing


def _do_nothing(_response: requests.Response, **_settings: Any) -> None:
    """A response hook."""


class NoAuth(AuthBase):
    """``auth=NoAuth()``: this call is sent without the token and without a ``.netrc`` entry.

    For the target of a redirect, however, requests does look into ``.netrc``.
    """

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


def _token_hosts(hosts: Hosts) -> TokenHosts:
    from alf._token_hosts import TokenHosts  # few programs have them

    return TokenHosts(hosts)


def _as_token(value: str | Token) -> Token:
    if isinstance(value, Token):
        return value
    if isinstance(value, str):
        value = masked(value)  # error reports show local variables
        return Token(str(value))
    message = f"access_token must be a str or an alf.tokens.Token, got {type(value).__name__}"
    raise TypeError(message)
