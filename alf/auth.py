"""Auth objects for requests, which write a token on a request: ``auth=``."""

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

#: Tokens that are recognised by their text where a request lost what alf wrote.
_MOST_KNOWN = 16


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

    def __repr__(self) -> str:
        # Error reports show the headers of a request.
        return f"'{self.token.token_type} ***'"

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        # A pickled request carries its header like any other, and no more than that.
        return (str, (str(self),))


class BearerTokenAuth(AuthBase):
    """Writes ``Authorization: Bearer …`` (RFC 6750 §2.1) on a request of any Session.

    :param access_token: the token: a string, a :class:`~alf.tokens.Token`, or a callable that
        returns one of these and is called for each request.
    :param hosts: the hosts that may see the token, as ``token_hosts`` of a Client; ``None``: every
        host that a request is sent to.
    :raises ValueError: not a non-empty string of visible ASCII, or not a host name.
    :raises TypeError: of another type than these.
    """

    def __init__(
        self,
        access_token: str | Token | Callable[[], str | Token],
        hosts: Hosts | None = None,
    ) -> None:
        access_token = masked(access_token)
        self._source = access_token if callable(access_token) else None
        self._hosts = None if hosts is None else _token_hosts(hosts)
        #: Tells this object's headers from others without holding on to what it knows.
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
        """Whether this prepared URL may see the token."""
        return self._hosts is None or self._hosts.allow(url)


class _Identity(Protocol):
    """What a Client is to its auth object."""

    _dpop_key: DPoPKey | None

    @property
    def manager(self) -> TokenManager: ...
    def ensure_token(self) -> Token: ...
    def is_token_refused(self, response: requests.Response) -> bool: ...


class _WrittenToken(AuthBase):
    """Writes one token on requests, whatever their URL; its Client heals what is refused."""

    __slots__ = ("header", "token")

    def __init__(self, token: Token, owner: object) -> None:
        self.token = token
        self.header = TokenHeader(token, owner)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self.header
        return request


class ClientCredentialsAuth(BearerTokenAuth):
    """``client.auth``: a Client's token on a request of any Session, or of none.

    >>> requests.get("https://api.example.com/reports", auth=client.auth)

    A token is requested if there is no good one; if the API refuses it the request is sent again
    with another, as a Client does it, and the refused response is in ``response.history``. It
    can be copied and pickled, and takes the options of its Client along.

    :raises TokenError: there is no token, when a request is prepared. A token that could not be
        renewed after a refusal leaves the API's answer as it is, and one WARNING.
    """

    def __init__(self, client: _Identity, hosts: Hosts | None) -> None:
        super().__init__(client.ensure_token, hosts)
        self._client = client
        self._written: _WrittenToken | None = None
        #: The headers that were written last.
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
        """Whether a token has been written before."""
        return self._written is not None

    def with_token(self, token: Token) -> AuthBase:
        """An auth object that writes this very token, on behalf of this one."""
        written = self._written
        if written is None or written.token is not token:
            written = _WrittenToken(token, self._owner)
            # Replaced as a whole: other threads read it.
            self._known = (*self._known[1 - _MOST_KNOWN :], written.header)
            self._written = written
        return written

    def write(self, request: requests.PreparedRequest, token: Token) -> None:
        """Write the token on the request, and a proof of the key that it is bound to."""
        self.with_token(token)(request)
        if self._client._dpop_key is not None:
            self._client._dpop_key.attach_proof(request, token)

    def token_on(self, request: requests.PreparedRequest) -> Token | None:
        """The token that this object wrote on this request, if it is still there.

        Tools copy headers, and a pickled request has plain ones: the same text is still our
        token, unless another auth object has written it.
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
        """The token to send the request with once more; ``None``: the refusal stands.

        Raises as :meth:`Healing.next_token`.
        """
        if self._client._dpop_key is not None and asks_for_nonce(response):
            has_nonce = "DPoP-Nonce" in response.headers
            return healing.after_nonce(refused, can_send_again=can_send_again, has_nonce=has_nonce)
        return healing.next_token(refused, can_send_again=can_send_again)

    def heal(self, response: requests.Response, settings: dict[str, Any]) -> requests.Response:
        """The response to show in place of this one, on a Session that knows nothing of alf."""
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
        # The Session goes on with the request that it has: it carries the new token in what
        # follows, redirects for example. The refused response shows what was refused.
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
    """The response hook by which a request heals on a Session that knows nothing of alf.

    A request that is pickled leaves it behind. It does not hold on to the auth object either: no
    secret can be reached from a request or a response.
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
    """``auth=NoAuth()``: this call goes without the token, and without a ``.netrc`` entry.

    For the target of a redirect requests looks into ``.netrc`` all the same.
    """

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


def _token_hosts(hosts: Hosts) -> TokenHosts:
    from alf._token_hosts import TokenHosts  # hardly any program has them

    return TokenHosts(hosts)


def _as_token(value: str | Token) -> Token:
    if isinstance(value, Token):
        return value
    if isinstance(value, str):
        value = masked(value)  # error reports show local variables
        return Token(str(value))
    message = f"access_token must be a str or an alf.tokens.Token, got {type(value).__name__}"
    raise TypeError(message)
