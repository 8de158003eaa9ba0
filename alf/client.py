"""The Session that always has a token. Says nothing about how tokens come to be."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import requests
from requests.auth import AuthBase
from requests.cookies import extract_cookies_to_jar
from requests.exceptions import RequestException, UnrewindableBodyError
from requests.hooks import dispatch_hook
from requests.utils import rewind_body
from urllib3.util.retry import Retry

from alf._environment import missing_variables, read_environment
from alf._forks import forget_connections, register_after_fork
from alf._legacy import wrap_legacy_manager
from alf._urls import origin_of
from alf.auth import BearerTokenAuth, NoAuth
from alf.client_auth import ClientAuth, Sign
from alf.dpop import as_dpop_key, asks_for_nonce
from alf.events import Event
from alf.managers import Refusal, TokenManager
from alf.tokens import Token, TokenError

__all__ = ["Client"]

logger = logging.getLogger("alf")

#: Pieces of 8 KiB of a refused response that are read to keep its connection.
_DRAINED_PIECES = 128

_NO_AUTH = NoAuth()

#: Options that are places or functions, not settings.
_PLACES = ("token_storage", "token_session", "client_secret", "client_auth", "dpop", "on_event")

_C = TypeVar("_C", bound="Client")


class Client(requests.Session):
    """A :class:`requests.Session` that always has a good token.

    Everything that requests says of a Session holds. Before the first request a token is asked
    for with the client credentials grant (RFC 6749 §4.4); it goes out with every request as
    ``Authorization: Bearer …`` (RFC 6750 §2.1), is renewed before it expires, and where an API
    refuses it with a 401 a new one is asked for and the request is sent once more.

    >>> client = Client(
    ...     token_endpoint="https://id.example.com/token",
    ...     client_id="client-id",
    ...     client_secret="secret",
    ... )

    :param token_endpoint: URL of the token endpoint.
    :param issuer: the issuer's URL, in place of ``token_endpoint``: its metadata says where that
        is, and how clients may say who they are (RFC 8414, or OpenID Connect). It is read once,
        when the first token is asked for.
    :param revocation_endpoint: URL of the revocation endpoint, for :meth:`revoke_token`; an
        issuer may say it.
    :param client_id: the client's identifier.
    :param client_secret: the client's secret, or a callable that is asked for it at each token
        request, for secrets that change.
    :param client_auth: how the client says who it is (RFC 6749 §2.3): ``"client_secret_basic"``
        (default), ``"client_secret_post"``, ``"client_secret_jwt"``, ``"tls_client_auth"``,
        ``"none"``, an object of :mod:`alf.client_auth` such as
        :class:`~alf.client_auth.PrivateKeyJWT`, or what requests takes as ``auth``: a pair, a
        callable.
    :param scope: the scope to ask for: a string, or a sequence of names (RFC 6749 §3.3).
    :param audience: the API that the token is for, where the server wants it said so.
    :param resource: the URI of the API that the token is for, or a sequence of these (RFC 8707).
    :param token_params: other parameters of the token request, a mapping or pairs. A
        ``grant_type`` takes the place of ``client_credentials``.
    :param token_headers: other headers of the token request.
    :param token_cert: the client certificate for the token request: a path, or a pair of paths
        (certificate, key). By default it is this Client's ``cert``.
    :param dpop: ``True`` has tokens bound to a new key (DPoP, RFC 9449), which proves with each
        request that whoever sends the token has the key; a key in place of ``True`` has them
        bound to that one: a :class:`~alf.dpop.DPoPKey`, or what makes one. Only a key that was
        given travels with a pickled Client.
    :param token_storage: where to share the token with other processes: any object with
        ``get(key)`` and ``set(key, value)``, or a mutable mapping.
    :param token_storage_key: the key of the token's entry in ``token_storage``. By default one
        that differs for every different token.
    :param token_retry: how to retry the token request: urllib3's ``Retry``, or a number of
        retries. By default there are none.
    :param token_retries: the name of ``token_retry`` in alf 0.7.
    :param token_timeout: seconds to connect to the token endpoint and to wait for its answer, or
        a pair of these (default: 10).
    :param token_request_params: a dict with the ``timeout`` of the token request, as in alf 0.7.
    :param token_session: a Session to ask for tokens with. By default alf has one of its own that
        follows this Client's ``verify``, ``cert``, ``proxies`` and ``trust_env``.
    :param token_hosts: the hosts that may see the token, such as ``["api.example.com",
        "*.internal.example.com"]``. By default every host that is called.
    :param token_refresh: who renews a token that will soon expire: ``"background"``, a thread
        (default), or ``"blocking"``, one of the callers.
    :param token_settle_time: seconds that the API may take to know a new token (default: 0). One
        that is refused earlier than that is tried once more before a new one is asked for.
    :param on_event: called with what happens to tokens, for metrics: see :mod:`alf.events`. It is
        called in the thread where that happens, and what it raises is logged.
    :param raise_token_error: whether an error response of the token endpoint is raised as a
        :class:`~alf.tokens.TokenError` (default: no, it is returned).
    :raises TypeError: an argument is missing, unknown or of the wrong type.
    :raises ValueError: an argument has no usable value.
    """

    #: The class that manages the token: :class:`~alf.managers.TokenManager`, or one with its
    #: ``get_token()`` and ``reset_token()``. It is called with the token's keyword arguments
    #: that the Client was given.
    token_manager_class: Any = TokenManager

    __attrs__: list[str] = [  # noqa: RUF012
        *requests.Session.__attrs__,
        "raise_token_error",
        "_token_options",
        "_token_hosts",
    ]

    def __init__(
        self,
        *,
        client_id: str,
        token_endpoint: str | None = None,
        issuer: str | None = None,
        revocation_endpoint: str | None = None,
        client_secret: str | Callable[[], str] | None = None,
        client_auth: str | tuple[str, str] | ClientAuth | Sign | None = None,
        scope: str | Sequence[str] | None = None,
        audience: str | None = None,
        resource: str | Sequence[str] | None = None,
        token_params: Mapping[str, str] | Sequence[tuple[str, str]] | None = None,
        token_headers: Mapping[str, str] | None = None,
        token_cert: str | tuple[str, str] | None = None,
        dpop: Any = None,
        token_storage: Any = None,
        token_storage_key: str | None = None,
        token_retry: Retry | int | None = None,
        token_retries: Retry | int | None = None,
        token_timeout: float | tuple[float | None, float | None] | None = None,
        token_request_params: dict[str, Any] | None = None,
        token_session: requests.Session | None = None,
        token_hosts: Sequence[str] | None = None,
        token_refresh: Literal["background", "blocking"] | None = None,
        token_settle_time: float | None = None,
        on_event: Callable[[Event], object] | None = None,
        raise_token_error: bool = False,
    ) -> None:
        super().__init__()
        self.raise_token_error = raise_token_error
        options = {
            "token_endpoint": token_endpoint,
            "issuer": issuer,
            "revocation_endpoint": revocation_endpoint,
            "client_id": client_id,
            "client_secret": client_secret,
            "client_auth": client_auth,
            "scope": scope,
            "audience": audience,
            "resource": resource,
            "token_params": token_params,
            "token_headers": token_headers,
            "token_cert": token_cert,
            # A key that was given travels with a pickled Client, in a form that can be pickled.
            "dpop": dpop if isinstance(dpop, bool) else as_dpop_key(dpop),
            "token_storage": token_storage,
            "token_storage_key": token_storage_key,
            "token_retry": token_retry,
            "token_retries": token_retries,
            "token_timeout": token_timeout,
            "token_request_params": token_request_params,
            "token_session": token_session,
            "token_refresh": token_refresh,
            "token_settle_time": token_settle_time,
            "on_event": on_event,
        }
        # Only what was given: a manager of the user's own need not know the rest.
        self._token_options = {k: v for k, v in options.items() if v is not None}
        self._token_hosts = token_hosts
        self._set_up_token()

    def _set_up_token(self) -> None:
        options = dict(self._token_options)
        self._dpop_key = as_dpop_key(options.pop("dpop", None))
        if self._dpop_key is not None:
            options["dpop"] = self._dpop_key
        self._token_manager: TokenManager = wrap_legacy_manager(self.token_manager_class(**options))
        self._token_manager.follow(self)
        self._bearer = BearerTokenAuth(self._token_manager.token, self._token_hosts)
        self.auth = self._bearer
        register_after_fork(self)

    @classmethod
    def from_env(cls: type[_C], prefix: str = "ALF_", **overrides: Any) -> _C:
        """A Client that environment variables describe.

        >>> client = Client.from_env("REPORTS_", token_hosts=["api.example.com"])

        An argument's variable has its name in capitals, after the prefix: ``ALF_CLIENT_ID``.
        One that is empty counts as not set. There are ``TOKEN_ENDPOINT``, ``ISSUER``,
        ``CLIENT_ID``, ``CLIENT_SECRET``, ``CLIENT_AUTH``, ``SCOPE``, ``AUDIENCE``, ``RESOURCE``
        (blanks between several), ``TOKEN_PARAMS`` (``a=1&b=2``), ``TOKEN_HEADERS`` (``Name:
        value``, one a line), ``TOKEN_CERT`` (a path, or two with a colon between), ``DPOP``
        (``yes``), ``TOKEN_TIMEOUT``, ``TOKEN_RETRY`` (how often, on 429, 500, 502, 503 and 504,
        too), ``TOKEN_SETTLE_TIME``, ``TOKEN_HOSTS`` (commas between), ``TOKEN_STORAGE`` (``file``)
        and ``REVOCATION_ENDPOINT``; besides, ``CLIENT_SECRET_FILE``, the path of a file that the
        secret is read from at each token request, and ``PRIVATE_KEY_FILE``, the path of the key
        (PEM or JWK) for ``private_key_jwt``.

        :param prefix: what the variables' names begin with.
        :param overrides: arguments of the Client that take the place of variables.
        :raises ValueError: a variable is missing, which is named, or has no usable value.
        :raises TypeError: an argument is unknown, or does not go with the others.
        """
        options = read_environment(prefix, overrides)
        try:
            return cls(**options)
        except TypeError:
            missing = missing_variables(prefix, options)
            if missing:
                message = f"environment variables are not set: {', '.join(missing)}"
                raise ValueError(message) from None
            raise

    @property
    def token(self) -> Token | None:
        """The current token, from memory; ``None`` if there is no token that is alive.

        Reading it requests nothing; :meth:`ensure_token` does.
        """
        return self._token_manager.peek()

    @property
    def manager(self) -> TokenManager:
        """The :class:`~alf.managers.TokenManager` that requests, keeps and renews the token."""
        return self._token_manager

    def ensure_token(self) -> Token:
        """The current token; a new one is requested if there is no good one.

        :raises TokenError: the token endpoint did not return a token.
        :raises requests.exceptions.RequestException: the token endpoint could not be reached.
        """
        return self._token_manager.token()

    def renew_token(self) -> Token:
        """Request a new token, whatever the current one; raises as :meth:`ensure_token`."""
        return self._token_manager.renew()

    def revoke_token(self) -> None:
        """Have the server revoke the current token (RFC 7009), and forget it.

        It is forgotten in the storage, too; the next call asks for a new one. Where there is no
        token, nothing is done.

        :raises ValueError: the revocation endpoint is not known.
        :raises TokenError: the server did not revoke the token, which may be good still.
        :raises requests.exceptions.RequestException: the server could not be reached.
        """
        self._token_manager.revoke()

    def is_token_refused(self, response: requests.Response) -> bool:
        """Whether the API refused the token that the request carried: a 401 (RFC 6750 §3.1).

        Override it for an API that says so otherwise. It is asked about responses to requests
        that carried the Client's token, before any response hook runs.
        """
        return response.status_code == 401

    def request(
        self,
        method: str,
        url: Any,
        params: Any = None,
        data: Any = None,
        headers: Any = None,
        cookies: Any = None,
        files: Any = None,
        auth: Any = None,
        timeout: Any = None,
        allow_redirects: bool = True,
        proxies: Any = None,
        hooks: Any = None,
        stream: bool | None = None,
        verify: Any = None,
        cert: Any = None,
        json: Any = None,
    ) -> requests.Response:
        """As :meth:`requests.Session.request`, with the token.

        Where no token could be had, nothing is sent, and the token endpoint's error response
        (status 400 and up) is returned, or raised if ``raise_token_error`` says so.

        :raises TokenError: the token endpoint answered with neither a token nor an error status.
        :raises requests.exceptions.RequestException: the API or the token endpoint could not be
            reached, and all else that requests raises.
        """
        try:
            # First of all, so that no body is read for a request that will not be sent.
            if auth is None and self.auth is self._bearer:
                auth = self._auth_for(url, params)
            return super().request(
                method,
                url,
                params,
                data,
                headers,
                cookies,
                files,
                auth,
                timeout,
                allow_redirects,
                proxies,
                hooks,
                stream,
                verify,
                cert,
                json,
            )
        except TokenError as error:
            response = error.response
            if self.raise_token_error or response is None or response.status_code < 400:
                raise
            return response

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """As :meth:`requests.Session.send`; a refused token is replaced on the way.

        :raises TokenError: the token was refused, and no new one could be had.
        :raises requests.exceptions.RequestException: what requests raises.
        """
        if not isinstance(request, requests.PreparedRequest):
            return super().send(request, **kwargs)  # which says what is wrong with it
        hooks = request.hooks.get("response") or []
        # A redirect's request is a copy of one that is on its way, our hook included.
        hooks = [hooks] if callable(hooks) else [h for h in hooks if type(h) is not _RefusalHook]
        token = self._bearer.token_on(request)
        if token is None:
            request.hooks = {**request.hooks, "response": hooks}
            if self._dpop_key is not None:
                self._dpop_key.remove_proof(request)
            return super().send(request, **kwargs)
        refusal: Refusal | None = None
        nonced: Token | None = None
        while True:
            if self._dpop_key is not None:
                # Not before: each hop, and each time that a request is sent, has its own proof.
                self._dpop_key.attach_proof(request, token)
            try:
                response = self._send_once(request, hooks, kwargs)
            except _RefusedError as error:
                refused = error
            else:
                if refusal is not None:
                    refusal.accepted(token)
                return response
            other: Token | None = None
            if self._dpop_key is not None and asks_for_nonce(refused.response):
                # RFC 9449 §9: the request once more with the nonce. Another token is no help.
                if "DPoP-Nonce" in refused.response.headers and nonced is not token:
                    other = nonced = token if _rewind(request) else None
            else:
                if refusal is None:
                    refusal = self._token_manager.refusal(origin_of(request.url))
                other = self._other_token(refusal, token, request, refused.response)
            if other is None:
                return self._conclude(request, hooks, refused)
            _drain(refused.response)
            token = other
            request = request.copy()
            self._bearer.with_token(token)(request)

    def rebuild_auth(
        self, prepared_request: requests.PreparedRequest, response: requests.Response
    ) -> None:
        """As :meth:`requests.Session.rebuild_auth`, but ``.netrc`` does not replace the token."""
        is_ours = self._bearer.token_on(prepared_request) is not None
        urls: Any = (response.request.url, prepared_request.url)
        if not is_ours or self.should_strip_auth(*urls):
            super().rebuild_auth(prepared_request, response)
        elif self._bearer.token_on(response.request) is not None:
            # A copy of what was sent first on that hop, and may have been refused since.
            prepared_request.headers["Authorization"] = response.request.headers["Authorization"]

    def close(self) -> None:
        """Close the connections to the API and to the token endpoint."""
        super().close()
        self._token_manager.close()

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        if state["auth"] is self._bearer:
            del state["auth"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._set_up_token()
        if "auth" in state:
            self.auth = state["auth"]

    def __deepcopy__(self, memo: dict[int, Any]) -> Client:
        # A copy shares them.
        for name in _PLACES:
            place = self._token_options.get(name)
            memo[id(place)] = place
        clone = type(self).__new__(type(self))
        memo[id(self)] = clone
        clone.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return clone

    def _auth_for(self, url: Any, params: Any) -> AuthBase | None:
        """What writes a token on the request for this URL; ``None``: not known before it is one."""
        if not self._bearer.has_carried or self._token_hosts is not None:
            prepared = requests.PreparedRequest()
            try:
                prepared.prepare_url(url, params)
            except Exception:
                # requests will say so itself, unless a subclass makes a whole URL of it.
                return None
            try:
                self.get_adapter(str(prepared.url))
            except RequestException:  # which says this one, too: no token is asked for in vain
                return _NO_AUTH
            if not self._bearer.allows(prepared.url):
                return _NO_AUTH
        return self._bearer.with_token(self._token_manager.token())

    def _send_once(
        self, request: requests.PreparedRequest, hooks: list[Any], kwargs: dict[str, Any]
    ) -> requests.Response:
        """Send it as a Session does; a refused token is an exception.

        :raises _RefusedError: before the user's hooks run: one that raises for the 401 would hide
            a curable refusal.
        """
        request.hooks = {**request.hooks, "response": [_RefusalHook(self), *hooks]}
        try:
            return super().send(request, **kwargs)
        finally:
            request.hooks = {**request.hooks, "response": hooks}

    def _other_token(
        self,
        refusal: Refusal,
        token: Token,
        request: requests.PreparedRequest,
        response: requests.Response,
    ) -> Token | None:
        """The token to send the request once more with; ``None``: the refusal stands."""
        can_send_again = _rewind(request)
        if can_send_again and refusal.settle(token):
            return token
        try:
            other = refusal.replacement(token)
        except RequestException:
            if not can_send_again:
                # What the API said of this request is the truth about it.
                return None
            _drain(response)
            raise
        return other if can_send_again else None

    def _conclude(
        self, request: requests.PreparedRequest, hooks: list[Any], refused: _RefusedError
    ) -> requests.Response:
        """Hand the refused response out, as a Session would have done had it not been stopped."""
        response: requests.Response = dispatch_hook(
            "response", {"response": hooks}, refused.response, **refused.kwargs
        )
        extract_cookies_to_jar(self.cookies, request, response.raw)
        if not refused.kwargs.get("stream"):
            _ = response.content
        return response

    def _after_fork(self) -> None:
        forget_connections(self)


class _RefusedError(Exception):
    """Takes a response that refused the token out of :meth:`requests.Session.send`."""

    def __init__(self, response: requests.Response, kwargs: dict[str, Any]) -> None:
        super().__init__(f"the API answered {response.status_code}")
        self.response = response
        self.kwargs = kwargs


class _RefusalHook:
    """The response hook that notices a refused token, there as long as a request is on its way.

    A request that is pickled meanwhile leaves it behind, and with it the Client and its secret.
    """

    __slots__ = ("_client",)

    def __init__(self, client: Client) -> None:
        self._client = client

    def __call__(self, response: requests.Response, **kwargs: Any) -> None:
        client = self._client
        is_refused = client.is_token_refused(response)
        if client._dpop_key is not None:
            client._dpop_key.store_nonce(response)
            is_refused = is_refused or asks_for_nonce(response)
        if is_refused:
            raise _RefusedError(response, kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_no_hook, ())


def _no_hook() -> Callable[..., None]:
    return _do_nothing


def _do_nothing(_response: requests.Response, **_kwargs: Any) -> None:
    """A response hook."""


def _rewind(request: requests.PreparedRequest) -> bool:
    """Make the body ready to be sent again; whether that is possible."""
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


def _drain(response: requests.Response) -> None:
    """Read a response that nobody will see, so that its connection can be used again."""
    try:
        for piece, _ in enumerate(response.iter_content(8192)):
            if piece == _DRAINED_PIECES:
                break
    except Exception:
        logger.debug("a refused response could not be read to its end", exc_info=True)
    finally:
        response.close()
