"""The Session that sends the token with each request. Others request it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

import requests
from requests.auth import AuthBase
from requests.cookies import extract_cookies_to_jar
from requests.exceptions import RequestException
from requests.hooks import dispatch_hook
from requests.sessions import merge_hooks
from requests.structures import CaseInsensitiveDict
from urllib3.util.retry import Retry

from alf._environment_settings import environment_settings
from alf._forks import forget_connections, notice_fork, register_after_fork
from alf._healing import Healing, HeldBody, carry_cookies, discard, rewind
from alf._legacy import wrap_legacy_manager
from alf._options import OPTION_NAMES
from alf._redaction import masked, masked_key, masked_url
from alf._signing import Sign
from alf._types import Hosts, Storage
from alf._urls import bare_url, origin_of, shown_url
from alf.auth import ClientCredentialsAuth, HealingHook, NoAuth
from alf.client_auth import AuthMethod, ClientAuth
from alf.dpop import as_dpop_key
from alf.events import Event
from alf.grants import Grant
from alf.managers import TokenManager
from alf.tokens import Token, TokenError

if TYPE_CHECKING:
    # Type checkers know this package without having it installed.
    from typing_extensions import Unpack, overload

    from alf._siblings import Siblings

__all__ = ["Client", "ClientOptions", "Health"]

#: The positional parameters of requests.Session.request after method and URL.
_REQUEST_ARGUMENTS: tuple[str, ...] = (
    "params",
    "data",
    "headers",
    "cookies",
    "files",
    "auth",
    "timeout",
    "allow_redirects",
    "proxies",
    "hooks",
    "stream",
    "verify",
    "cert",
    "json",
)

_NO_AUTH = NoAuth()

_PREPARE = requests.Session.prepare_request

#: Options that are objects or functions rather than settings.
_PLACES = (
    "token_storage",
    "token_session",
    "client_secret",
    "client_auth",
    "grant",
    "dpop",
    "on_event",
)

#: Options that may differ between the Clients of one identity.
_OWN_OPTIONS = {
    "grant",
    "scope",
    "audience",
    "resource",
    "token_params",
    "token_headers",
    "token_storage_key",
    "token_settle_time",
}

#: Marks an argument that was left out.
_SAME: Any = object()

_C = TypeVar("_C", bound="Client")


class ClientOptions(TypedDict, total=False):
    """The keyword arguments of a :class:`Client` besides ``token_endpoint`` and ``issuer``.

    A subclass can have them: ``def __init__(self, **options: Unpack[ClientOptions])``.
    """

    client_id: str | None
    revocation_endpoint: str | None
    client_secret: str | Callable[[], str] | None
    client_auth: AuthMethod | tuple[str, str] | ClientAuth | Sign | None
    grant: Grant | None
    scope: str | Sequence[str] | None
    audience: str | None
    resource: str | Sequence[str] | None
    token_params: Mapping[str, str] | Sequence[tuple[str, str]] | None
    token_headers: Mapping[str, str] | None
    token_cert: str | tuple[str, str] | None
    dpop: Any
    token_storage: Storage | MutableMapping[str, Any] | None
    token_storage_key: str | None
    token_retry: Retry | int | None
    token_retries: Retry | int | None
    token_timeout: float | tuple[float | None, float | None] | None
    token_request_params: dict[str, Any] | None
    token_session: requests.Session | None
    token_hosts: Hosts | None
    token_refresh: Literal["background", "blocking"] | None
    token_refresh_window: float | None
    token_leeway: float | None
    token_settle_time: float | None
    on_event: Callable[[Event], object] | None
    raise_token_error: bool


class Client(requests.Session):
    """A :class:`requests.Session` that always has a good token.

    It behaves like any Session of requests. Before its first request it requests a token with the
    client credentials grant (RFC 6749 §4.4). It sends the token with every request as
    ``Authorization: Bearer …`` (RFC 6750 §2.1) and renews it before it expires. If an API refuses
    the token with a 401, it requests a new one and sends the request once more.

    >>> client = Client(
    ...     token_endpoint="https://id.example.com/token",
    ...     client_id="client-id",
    ...     client_secret="secret",
    ... )

    :param token_endpoint: URL of the token endpoint.
    :param issuer: the issuer's URL instead of ``token_endpoint``. Its metadata name the endpoints
        and the methods of client authentication (RFC 8414, or OpenID Connect). They are read with
        the first token request, and daily from then on.
    :param revocation_endpoint: URL of the revocation endpoint, for :meth:`revoke_token`. By default
        it comes from the issuer's metadata.
    :param client_id: the client's identifier. Only with a ``grant`` it may be left out.
    :param client_secret: the client's secret; or, for a secret that changes, a callable that
        returns it and is called for each token request.
    :param client_auth: how the client authenticates (RFC 6749 §2.3): ``"client_secret_basic"``
        (default), ``"client_secret_post"``, ``"client_secret_jwt"``, ``"tls_client_auth"``,
        ``"none"``, an object of :mod:`alf.client_auth` such as
        :class:`~alf.client_auth.PrivateKeyJWT` or
        :class:`~alf.client_auth.ClientAssertion`, or anything that requests takes as ``auth``: a
        pair or a callable.
    :param grant: a grant other than client credentials: an object of :mod:`alf.grants`. Without
        ``client_id``, ``client_secret`` and ``client_auth`` the request names no client.
    :param scope: the scope to request: a string, or a sequence of names (RFC 6749 §3.3).
    :param audience: the API that the token is for, if the server expects this parameter.
    :param resource: the URI of the API that the token is for, or a sequence of these (RFC 8707).
    :param token_params: other parameters of the token request, a mapping or pairs. A
        ``grant_type`` replaces ``client_credentials``.
    :param token_headers: additional headers of the token request.
    :param token_cert: the client certificate for the token request: a path, or a pair of paths
        (certificate, key). The default is this Client's ``cert``.
    :param dpop: ``True`` binds tokens to a new key (DPoP, RFC 9449): each request carries a proof
        that its sender has the key. A :class:`~alf.dpop.DPoPKey`, or its ``key`` argument, binds
        them to that key. Only such a key is pickled with the Client.
    :param token_storage: where to share the token with other processes: any object with
        ``get(key)`` and ``set(key, value)``, or a mutable mapping.
    :param token_storage_key: the key of the token's entry in ``token_storage``. The default differs
        for every different token.
    :param token_retry: how to retry the token request: a number of retries after failed connections
        and 429, 500, 502, 503 and 504, with growing pauses; or urllib3's ``Retry``, which is used
        unchanged. By default there are no retries.
    :param token_retries: the name of ``token_retry`` in alf 0.7.
    :param token_timeout: seconds that a token request may take in all (default: 10), or a pair:
        seconds to connect, and for the rest. Each retry may take as long again; none begins after
        5 minutes. The lookup of the host name is not limited.
    :param token_request_params: a dict with the ``timeout`` of the token request, as in alf 0.7.
    :param token_session: the Session for token requests. By default alf uses one of its own, with
        this Client's ``verify``, ``cert``, ``proxies`` and ``trust_env``.
    :param token_hosts: the hosts that get the token, such as ``["api.example.com",
        "*.internal.example.com"]``; by default every host that is called. A bare name allows
        https on any port, and on loopback also http. ``"http://api.internal:8080"`` allows only
        this scheme, host and port (without a port: the scheme's default).
    :param token_refresh: who renews a token that will soon expire: ``"background"``, a thread
        (default), or ``"blocking"``, one of the callers.
    :param token_refresh_window: a token is refreshed in its last so-many seconds, while calls go on
        using it. By default it is refreshed at the server's ``refresh_in``, or else in the last
        three eighths of its life, 22 minutes at most, starting up to a quarter earlier at
        random. Give 0 for servers on which a new token kills the old one.
    :param token_leeway: a token counts as expired this many seconds before its end: by default a
        twentieth of its life, 10 seconds at most. Both are cut to half of the life.
    :param token_settle_time: seconds that the API may take to know a new token (default: 0). A
        token that is refused earlier is tried once more before a new one is requested.
    :param on_event: called with events, for metrics: see :mod:`alf.events`. It runs in the thread
        that caused the event. Its exceptions are logged.
    :param raise_token_error: whether to raise the token endpoint's error responses as
        :class:`~alf.tokens.TokenError` instead of returning them (default: no).
    :raises TypeError: an argument is missing, unknown or of the wrong type.
    :raises ValueError: an argument does not have a usable value.
    """

    #: The class that manages the token: :class:`~alf.managers.TokenManager`, or one with its
    #: ``get_token()`` and ``reset_token()``. It is called with those keyword arguments of the
    #: Client that concern tokens.
    token_manager_class: Any = TokenManager

    __attrs__: list[str] = [  # noqa: RUF012
        *requests.Session.__attrs__,
        "raise_token_error",
        "_token_options",
        "_token_hosts",
    ]

    if TYPE_CHECKING:  # either token_endpoint or issuer is required

        @overload
        def __init__(self, *, token_endpoint: str, **options: Unpack[ClientOptions]) -> None: ...
        @overload
        def __init__(self, *, issuer: str, **options: Unpack[ClientOptions]) -> None: ...

    def __init__(
        self,
        *,
        client_id: str | None = None,
        token_endpoint: str | None = None,
        issuer: str | None = None,
        revocation_endpoint: str | None = None,
        client_secret: str | Callable[[], str] | None = None,
        client_auth: AuthMethod | tuple[str, str] | ClientAuth | Sign | None = None,
        grant: Grant | None = None,
        scope: str | Sequence[str] | None = None,
        audience: str | None = None,
        resource: str | Sequence[str] | None = None,
        token_params: Mapping[str, str] | Sequence[tuple[str, str]] | None = None,
        token_headers: Mapping[str, str] | None = None,
        token_cert: str | tuple[str, str] | None = None,
        dpop: Any = None,
        token_storage: Storage | MutableMapping[str, Any] | None = None,
        token_storage_key: str | None = None,
        token_retry: Retry | int | None = None,
        token_retries: Retry | int | None = None,
        token_timeout: float | tuple[float | None, float | None] | None = None,
        token_request_params: dict[str, Any] | None = None,
        token_session: requests.Session | None = None,
        token_hosts: Hosts | None = None,
        token_refresh: Literal["background", "blocking"] | None = None,
        token_refresh_window: float | None = None,
        token_leeway: float | None = None,
        token_settle_time: float | None = None,
        on_event: Callable[[Event], object] | None = None,
        raise_token_error: bool = False,
    ) -> None:
        super().__init__()
        # Error reports show local variables; these hide their value.
        client_secret, token_params, token_headers = map(
            masked, (client_secret, token_params, token_headers)
        )
        token_endpoint, issuer, revocation_endpoint = map(
            masked_url, (token_endpoint, issuer, revocation_endpoint)
        )
        dpop = masked_key(dpop)
        if isinstance(client_auth, tuple):
            client_auth = masked(client_auth)
        self.raise_token_error = raise_token_error
        if not isinstance(dpop, bool):
            # The user's key is pickled with the Client, in a form that can be pickled.
            dpop = as_dpop_key(dpop)
        given = locals()
        # Only the given ones: the user's own manager class may not know the others.
        self._token_options = {
            name: given[name] for name in OPTION_NAMES if given[name] is not None
        }
        self._token_hosts = token_hosts
        self._set_up_token()

    def _set_up_token(self) -> None:
        options = dict(self._token_options)
        self._dpop_key = as_dpop_key(options.pop("dpop", None))
        if self._dpop_key is not None:
            options["dpop"] = self._dpop_key
        manager: TokenManager = wrap_legacy_manager(self.token_manager_class(**options))
        self._token_manager = manager
        manager.follow(self)
        #: The Client whose with_options() made this one.
        self._identity: Client | None = None
        self._token_auth = ClientCredentialsAuth(self, self._token_hosts)
        self.auth = self._token_auth
        register_after_fork(self)

    @classmethod
    def from_env(cls: type[_C], prefix: str = "ALF_", **overrides: Any) -> _C:
        """A Client from environment variables.

        >>> client = Client.from_env("REPORTS_", token_hosts=["api.example.com"])

        The variable of an argument is its name in capitals after the prefix: ``ALF_CLIENT_ID``.
        An empty variable counts as not set. The names are ``TOKEN_ENDPOINT``, ``ISSUER``,
        ``CLIENT_ID``, ``CLIENT_SECRET``, ``CLIENT_AUTH``, ``SCOPE``, ``AUDIENCE``, ``RESOURCE``
        (blanks between several), ``TOKEN_PARAMS`` (``a=1&b=2``), ``TOKEN_HEADERS`` (``Name:
        value``, one a line), ``TOKEN_CERT`` (a path, or two with a colon between), ``DPOP``
        (``yes``), ``TOKEN_TIMEOUT``, ``TOKEN_RETRY`` (how often, on 429, 500, 502, 503 and 504,
        too), ``TOKEN_SETTLE_TIME``, ``TOKEN_HOSTS`` (commas between), ``TOKEN_STORAGE`` (``file``)
        and ``REVOCATION_ENDPOINT``; besides, ``CLIENT_SECRET_FILE``, the path of a file that the
        secret is read from at each token request, ``PRIVATE_KEY_FILE``, the path of the key (PEM
        or JWK) for ``private_key_jwt``, with ``PRIVATE_KEY_ID``, ``PRIVATE_KEY_ALGORITHM``,
        ``PRIVATE_KEY_CERTIFICATE`` (a path) and ``PRIVATE_KEY_PASSWORD``, and
        ``CLIENT_ASSERTION_FILE``, the path of a file with an assertion that somebody else issues,
        read at each token request.

        :param prefix: the beginning of the variables' names.
        :param overrides: arguments of the Client that take precedence over variables.
        :raises ValueError: a variable is missing or does not have a usable value; it is named.
        :raises TypeError: an argument is unknown, or does not go with the others.
        """
        from alf._environment import missing_variables, read_environment

        options = read_environment(prefix, overrides)
        try:
            return cls(**options)
        except TypeError:
            missing = missing_variables(prefix, options)
            if missing:
                message = f"environment variables are not set: {', '.join(missing)}"
                raise ValueError(message) from None
            raise

    def with_options(
        self: _C,
        *,
        grant: Grant | None = _SAME,
        scope: str | Sequence[str] | None = _SAME,
        audience: str | None = _SAME,
        resource: str | Sequence[str] | None = _SAME,
        token_params: Mapping[str, str] | Sequence[tuple[str, str]] | None = _SAME,
        token_headers: Mapping[str, str] | None = _SAME,
        token_storage_key: str | None = None,
        token_hosts: Hosts | None = _SAME,
        token_settle_time: float | None = _SAME,
        raise_token_error: bool = _SAME,
    ) -> _C:
        """A Client for another token of the same identity.

        >>> reports = client.with_options(audience="https://reports.example.com/")

        Both share the credentials, the issuer's metadata, the connections to the token endpoint
        and to the APIs, the cookies and the storage. Headers, hooks and the other settings of the
        Session are copied. The new Client has its own token; Clients made with the same options
        have the same token. Closing one of them closes the connections of all; a later call
        opens new ones.

        An argument that is left out keeps its value; ``None`` means the default. Each token has
        its own entry in a storage.

        :raises TypeError: an argument is unknown or of the wrong type.
        :raises ValueError: an argument does not have a usable value.
        """
        changes: dict[str, Any] = {
            "grant": grant,
            "scope": scope,
            "audience": audience,
            "resource": resource,
            "token_params": masked(token_params),
            "token_headers": masked(token_headers),
            "token_storage_key": token_storage_key,
            "token_settle_time": token_settle_time,
        }
        options = {**self._token_options, "dpop": self._dpop_key}
        options.update((k, v) for k, v in changes.items() if v is not _SAME)
        options = {k: v for k, v in options.items() if v is not None}
        clone = type(self).__new__(type(self))
        clone.__dict__.update(self.__dict__)
        clone.headers = self.headers.copy()
        clone.params = copy.copy(self.params)
        clone.proxies = copy.copy(self.proxies)
        clone.hooks = {event: list(hooks) for event, hooks in self.hooks.items()}
        if token_hosts is not _SAME:
            clone._token_hosts = token_hosts
        if raise_token_error is not _SAME:
            clone.raise_token_error = raise_token_error
        clone._token_options = options
        # The token connection follows the settings of the first Client.
        clone._identity = self._identity or self
        siblings = clone._identity._siblings
        clone._token_manager = siblings.get(clone._own_options(), clone._make_sibling)
        clone._token_auth = ClientCredentialsAuth(clone, clone._token_hosts)
        if self.auth is self._token_auth:
            clone.auth = clone._token_auth
        register_after_fork(clone)
        return clone

    @property
    def token(self) -> Token | None:
        """The current token, from memory; ``None`` without a live token.

        Reading it never requests a token; :meth:`ensure_token` does.
        """
        return self._token_manager.peek()

    @property
    def manager(self) -> TokenManager:
        """The :class:`~alf.managers.TokenManager` that requests, keeps and renews the token."""
        return self._token_manager

    def ensure_token(self) -> Token:
        """The current token. Requests a new one if there is no good one.

        :raises TokenError: the token endpoint did not return a token.
        :raises requests.exceptions.RequestException: the token endpoint could not be reached.
        """
        return self._token_manager.token()

    def health(self) -> Health:
        """The state of the token, from memory: for readiness probes and metrics."""
        token = self.token
        if token is None:
            return Health(is_ready=False)
        age = max(0.0, time.time() - token.issued_at)
        expires_in = None if token.lifetime is None else max(0.0, token.lifetime - age)
        return Health(is_ready=True, age=age, expires_in=expires_in, scope=token.scope)

    def renew_token(self) -> Token:
        """Request a new token, even if the current one is good; raises as :meth:`ensure_token`."""
        return self._token_manager.renew()

    def revoke_token(self) -> None:
        """Have the server revoke the current token (RFC 7009).

        It is removed from memory and from the storage; the next call requests a new one. Does
        nothing without a token.

        :raises ValueError: the revocation endpoint is not known.
        :raises TokenError: the server did not revoke the token, which may be good still.
        :raises requests.exceptions.RequestException: the server could not be reached.
        """
        self._token_manager.revoke()

    def is_token_refused(self, response: requests.Response) -> bool:
        """Whether the API refused the token that the request carried: a 401 (RFC 6750 §3.1).

        Override it for an API that refuses tokens in another way. It is called for responses to
        requests with the Client's token, before any response hook runs.
        """
        return response.status_code == 401

    def request(self, method: str, url: Any, *args: Any, **kwargs: Any) -> requests.Response:
        """As :meth:`requests.Session.request`, with the token.

        If no token can be obtained, the request is not sent. The token endpoint's error response
        (status 400 to 599) is returned, or raised with ``raise_token_error``.

        :raises TokenError: the token endpoint answered with neither a token nor an error status.
        :raises requests.exceptions.RequestException: the API or the token endpoint could not be
            reached; and for every other reason that requests has.
        """
        if args:
            # By keyword, as wrappers and mixins of Session.request expect them.
            named = dict(zip(_REQUEST_ARGUMENTS, args, strict=False))
            if len(named) < len(args) or not named.keys().isdisjoint(kwargs):
                return super().request(method, url, *args, **kwargs)  # which says what is wrong
            kwargs.update(named)
        try:
            auth = kwargs.get("auth")
            # Before anything else, so that no body is read for a request that will not be sent.
            if auth is self._token_auth or (auth is None and self.auth is self._token_auth):
                auth = self._auth_for(url, kwargs.get("params"))
                if auth is not None:
                    kwargs["auth"] = auth
            return super().request(method, url, **kwargs)
        except TokenError as error:
            response = error.response
            is_error = response is not None and 400 <= response.status_code < 600
            if self.raise_token_error or response is None or not is_error:
                raise
        return self._deliver_error(response, kwargs)

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        """As :meth:`requests.Session.prepare_request`, with the token."""
        prepare: Any = super().prepare_request
        if getattr(prepare, "__func__", None) is _PREPARE:
            request = _lean(request, self)
        prepared: requests.PreparedRequest = prepare(request)
        hooks: Any = prepared.hooks.get("response")
        if hooks:
            # On other Sessions the auth object's hook replaces a refused token. Here send() does.
            prepared.hooks["response"], _ = self._hooks_of(prepared)
        return prepared

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """As :meth:`requests.Session.send`; replaces a refused token.

        :raises TokenError: the token was refused, and no new one could be obtained.
        :raises requests.exceptions.RequestException: what requests raises.
        """
        if not isinstance(request, requests.PreparedRequest):
            return super().send(request, **kwargs)  # which says what is wrong with it
        notice_fork()
        hooks, call = self._hooks_of(request)
        token = self._token_auth.token_on(request)
        if token is not None and not self._token_auth.allows(request.url):
            # The URL has changed since the request was prepared.
            del request.headers["Authorization"]
            token = None
        if token is None:
            request.hooks = {**request.hooks, "response": hooks}
            if self._dpop_key is not None:
                self._dpop_key.remove_proof(request)
            return super().send(request, **kwargs)
        if call is not None:
            return self._send_with_token(request, token, call.hop(hooks), kwargs)
        call = _Watch(self, hooks)
        response = self._send_with_token(request, token, call, kwargs)
        if call.error is not None:
            raise call.error
        return response

    def merge_environment_settings(
        self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any
    ) -> Any:
        """As :meth:`requests.Session.merge_environment_settings`, with its answers cached.

        Reading the environment takes half of the CPU time of a call. Here it is read again only
        after it has changed.
        """
        merge = super().merge_environment_settings
        return environment_settings.merge(self, merge, url, proxies, stream, verify, cert)

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """As :meth:`requests.Session.get_redirect_target`, but ``None`` for a refusal."""
        if getattr(resp, "_refused_by_alf", False):
            return None
        target: str | None = super().get_redirect_target(resp)
        return target

    def rebuild_auth(
        self, prepared_request: requests.PreparedRequest, response: requests.Response
    ) -> None:
        """As :meth:`requests.Session.rebuild_auth`, but ``.netrc`` does not replace the token."""
        is_ours = self._token_auth.token_on(prepared_request) is not None
        urls: Any = (response.request.url, prepared_request.url)
        if not is_ours or self.should_strip_auth(*urls):
            super().rebuild_auth(prepared_request, response)
        elif self._token_auth.token_on(response.request) is not None:
            # It is a copy of the first request of that hop; its token may have been refused.
            prepared_request.headers["Authorization"] = response.request.headers["Authorization"]

    def close(self) -> None:
        """Close the connections to the API and to the token endpoint."""
        super().close()
        self._token_manager.close()

    def __repr__(self) -> str:
        options = getattr(self, "_token_options", {})
        url = str(options.get("token_endpoint") or options.get("issuer"))
        parts = [shown_url(url), f"client_id={options.get('client_id')!r}"]
        if "grant" in options:
            parts.append(f"grant={options['grant']!r}")
        scope = options.get("scope")
        if scope is not None:
            names = [scope] if isinstance(scope, str) or not isinstance(scope, Sequence) else scope
            parts.append(f"scope={' '.join(map(str, names))!r}")
        if hasattr(self, "_token_manager"):
            parts.append(str(self.health()))
        return f"<{type(self).__name__} {' '.join(parts)}>"

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        if state["auth"] is self._token_auth:
            del state["auth"]
        options = state["_token_options"]
        if "token_storage" in options:
            from alf._backends import PickledStorage

            storage = PickledStorage(options["token_storage"])
            state["_token_options"] = {**options, "token_storage": storage}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "token_storage" in self._token_options:
            pickled = self._token_options["token_storage"]
            self._token_options = {**self._token_options, "token_storage": pickled.storage}
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
        """The auth object for this URL; ``None``: not known until the URL is absolute."""
        if not self._token_auth.has_written or self._token_hosts is not None:
            prepared = requests.PreparedRequest()
            try:
                prepared.prepare_url(url, params)
            except Exception:
                # requests raises for it later, unless a subclass completes the URL.
                return None
            try:
                self.get_adapter(str(prepared.url))
            except RequestException:  # requests raises for it, too, so no token is needed
                return _NO_AUTH
            if not self._token_auth.allows(prepared.url):
                return _NO_AUTH
        return self._token_auth.with_token(self._token_manager.token())

    def _deliver_error(
        self, response: requests.Response, kwargs: dict[str, Any]
    ) -> requests.Response:
        """The token endpoint's error response, after the hooks for the API's response."""
        response.url = bare_url(response.url or "")
        hooks = merge_hooks(requests.Request(hooks=kwargs.get("hooks")).hooks, self.hooks)
        settings = {
            "stream": self.stream,
            "timeout": None,
            "verify": self.verify,
            "cert": self.cert,
            "proxies": self.proxies,
        }
        settings.update((k, kwargs[k]) for k in settings.keys() & kwargs if kwargs[k] is not None)
        delivered: requests.Response = dispatch_hook("response", hooks, response, **settings)
        return delivered

    def _hooks_of(self, request: requests.PreparedRequest) -> tuple[list[Any], _Watch | None]:
        """The caller's own response hooks, and the watch of the call that was redirected."""
        hooks = request.hooks.get("response")
        own: list[Any] = []
        if not hooks:
            return own, None
        watch = None
        for hook in [hooks] if callable(hooks) else hooks:
            if isinstance(hook, _Watch):
                watch = hook
                own += hook.hooks
            elif not (isinstance(hook, HealingHook) and hook.belongs_to(self._token_auth)):
                own.append(hook)
        # A redirect's request is a copy of one under way, and another thread may send this same
        # request.
        return own, None if watch is None or watch.request is request else watch

    def _send_with_token(
        self,
        request: requests.PreparedRequest,
        token: Token,
        watch: _Watch,
        kwargs: dict[str, Any],
    ) -> requests.Response:
        """Send it until its token is accepted or the refusal is final."""
        auth = self._token_auth
        healing: Healing | None = None
        while True:
            if self._dpop_key is not None:
                # Only now: each hop and each try has its own proof.
                self._dpop_key.attach_proof(request, token)
            response = self._send_once(request, watch, kwargs)
            if not watch.is_refused:
                if healing is not None:
                    healing.accepted(token)
                return response
            if healing is None:
                healing = Healing(self._token_manager, origin_of(request.url))
            try:
                other = auth.next_token(healing, token, response, can_send_again=rewind(request))
            except RequestException as error:
                # Raised by the outermost send(), so that no redirect goes on and no code in between
                # sees an exception that a plain Session would not have raised.
                watch.discard(response)
                watch.fail(error)
                return response
            if other is None:
                return self._deliver(response, watch)
            watch.discard(response)
            request = request.copy()
            carry_cookies(request, response)
            token = other
            auth.with_token(token)(request)

    def _send_once(
        self, request: requests.PreparedRequest, watch: _Watch, kwargs: dict[str, Any]
    ) -> requests.Response:
        """Send it as a Session does. Afterwards the watch knows whether the token was refused."""
        watched: dict[str, Any] = {**request.hooks, "response": [watch]}
        request.hooks = watched
        watch.start(request)
        try:
            response = super().send(request, **kwargs)
        finally:
            # Copies for redirects share the dict.
            watched["response"] = watch.hooks
        if not watch.has_run:
            # The code that sent it does not run response hooks.
            watch.is_refused = self._token_auth.is_refused(response)
        return response

    def _deliver(
        self,
        response: requests.Response,
        watch: _Watch,
    ) -> requests.Response:
        """Return the refused response with its hooks run, as a Session does."""
        if not watch.has_run:
            return response
        watch.release()
        refused = response
        response = dispatch_hook("response", {"response": watch.hooks}, refused, **watch.settings)
        if response is not refused:
            for answer in (*response.history, response):
                extract_cookies_to_jar(self.cookies, answer.request, answer.raw)
            if not watch.settings.get("stream"):
                _ = response.content
        return response

    @property
    def _siblings(self) -> Siblings:
        """The managers of this identity's tokens. Most Clients have no more than their own."""
        from alf._siblings import Siblings

        siblings: Siblings | None = self.__dict__.get("_made_siblings")
        if siblings is None:
            siblings = Siblings(self._own_options(), self._token_manager)
            # Another thread may have been first.
            first: Siblings = self.__dict__.setdefault("_made_siblings", siblings)
            return first
        return siblings

    def _own_options(self) -> dict[str, Any]:
        """The options that distinguish its token from others of the same identity."""
        return {k: v for k, v in self._token_options.items() if k in _OWN_OPTIONS}

    def _make_sibling(self) -> Any:
        assert self._identity is not None
        manager = wrap_legacy_manager(self.token_manager_class(**self._token_options))
        manager.follow(self._identity)
        if isinstance(manager, TokenManager):
            manager.share_connections(self._identity._token_manager)
        return manager

    def _after_fork(self) -> None:
        forget_connections(self)


@dataclass(frozen=True)
class Health:
    """The state of a Client's token; see :meth:`Client.health`.

    :param is_ready: whether there is a live token. Before the first call there is not:
        :meth:`Client.ensure_token` requests one.
    :param age: seconds since the token was requested; ``None`` without a token.
    :param expires_in: seconds until it expires; ``None`` if not known.
    :param scope: the scope that was granted, if the server named it.
    """

    is_ready: bool
    age: float | None = None
    expires_in: float | None = None
    scope: str | None = None

    def __str__(self) -> str:
        if not self.is_ready:
            return "without a token"
        if self.expires_in is None:
            return "with a token of unknown lifetime"
        return f"with a token that expires in {self.expires_in:.0f} s"


def _lean(request: requests.Request, session: requests.Session) -> requests.Request:
    """The same request, with ``None`` for headers and parameters that it does not have.

    For requests that means what an empty dict means, and it saves a fifth of a call's CPU time: it
    need not merge the session's settings with nothing. A header that the session has as ``None``
    is one that only merging removes.
    """
    if type(request) is not requests.Request:
        return request
    changes: dict[str, None] = {}
    if _is_empty(request.params) and _is_empty(session.params):
        changes["params"] = None
    headers: Any = session.headers
    if (
        _is_empty(request.headers)
        and type(headers) is CaseInsensitiveDict
        and None not in headers.values()
    ):
        changes["headers"] = None
    lean = requests.Request.__new__(requests.Request)
    lean.__dict__.update(request.__dict__, **changes)
    return lean


def _is_empty(value: Any) -> bool:
    return type(value) is dict and not value


class _Watch:
    """The response hook of a request under way. Notices a refused token before other hooks run.

    The requests of redirects are copies and get a watch of their own for the same call. A request
    that is pickled meanwhile keeps only the caller's hooks.
    """

    __slots__ = (
        *("_body", "_client", "_outer"),
        *("error", "has_run", "hooks", "is_refused", "request", "settings"),
    )

    def __init__(self, client: Client, hooks: list[Any], outer: _Watch | None = None) -> None:
        self._client = client
        self._outer = outer
        self._body: HeldBody | None = None
        self.hooks = hooks
        self.request: requests.PreparedRequest | None = None
        self.has_run = False
        self.is_refused = False
        self.settings: dict[str, Any] = {}
        #: Why a refused token could not be replaced, in this send() or in that of a redirect.
        self.error: Exception | None = None

    def hop(self, hooks: list[Any]) -> _Watch:
        """The watch of a redirect's request."""
        return _Watch(self._client, hooks, self)

    def start(self, request: requests.PreparedRequest) -> None:
        """Prepare for sending the request."""
        self.request = request
        self.has_run = self.is_refused = False
        self._body = None

    def __call__(self, response: requests.Response, **settings: Any) -> Any:
        self.has_run = True
        self.settings = settings
        self.is_refused = self._client._token_auth.is_refused(response)
        if not self.is_refused:
            if not self.hooks:
                return response
            return dispatch_hook("response", {"response": self.hooks}, response, **settings)
        if response.is_redirect:
            response._refused_by_alf = True  # type: ignore[attr-defined]
        if not settings.get("stream"):
            self._body = HeldBody(response)
        return response

    def __reduce__(self) -> tuple[Any, ...]:
        return (_Hooks, (self.hooks,))

    def fail(self, error: Exception) -> None:
        """Keep the error for the outermost call."""
        outermost = self
        while outermost._outer is not None:
            outermost = outermost._outer
        outermost.error = error

    def release(self) -> None:
        """Deliver the refused response."""
        if self._body is not None:
            self._body.release()

    def discard(self, response: requests.Response) -> None:
        """Drop the refused response."""
        if self._body is not None:
            self._body.discard()
        else:
            discard(response)


class _Hooks:
    """The caller's response hooks as one function."""

    def __init__(self, hooks: list[Any]) -> None:
        self._hooks = hooks

    def __call__(self, response: requests.Response, **settings: Any) -> Any:
        return dispatch_hook("response", {"response": self._hooks}, response, **settings)
