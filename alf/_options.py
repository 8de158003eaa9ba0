"""The options that concern tokens, each with its type, default and check.

To add an option, add a field and a check here, the parameter with its description to
:class:`alf.Client`, and a line to ``alf/_environment.py`` if text can express it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from math import inf
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal

import requests
from urllib3.util.retry import Retry

from alf._auth_choice import as_client_auth
from alf._certificates import check_cert
from alf._clocks import Clock
from alf._discovery import check_issuer
from alf._endpoint import DEFAULT_TIMEOUT, TokenEndpoint, check_url
from alf._form import check_headers, token_form
from alf._lifetimes import Margins
from alf._redaction import Secret, masked, masked_key, masked_url
from alf._signing import Sign
from alf._texts import check_text, without_line_break
from alf._transport import Session
from alf._urls import bare_url
from alf.client_auth import ClientAuth, Credentials
from alf.dpop import as_dpop_key
from alf.events import Event
from alf.grants import Grant, WithoutClient

if TYPE_CHECKING:
    from alf._entries import EntryKey
    from alf._token_storage import TokenStorage

__all__ = ["OPTION_NAMES", "Options", "masked_options"]

logger = logging.getLogger("alf")


@dataclass(eq=False, repr=False)
class Options:
    """The options of a :class:`~alf.managers.TokenManager`; :class:`alf.Client` describes them.

    :raises TypeError: an option is missing, unknown or of the wrong type.
    :raises ValueError: an option does not have a usable value.
    """

    token_endpoint: str | None = None
    client_id: str | None = None
    client_secret: str | Callable[[], str] | None = None
    token_storage: Any = None
    token_retries: Retry | int | None = None
    token_request_params: dict[str, Any] | None = None
    issuer: str | None = None
    revocation_endpoint: str | None = None
    client_auth: str | tuple[str, str] | ClientAuth | Sign | None = None
    grant: Grant | None = None
    scope: str | Sequence[str] | None = None
    audience: str | None = None
    resource: str | Sequence[str] | None = None
    token_params: Mapping[str, str] | Sequence[tuple[str, str]] | None = None
    token_headers: Mapping[str, str] | None = None
    token_cert: str | tuple[str, str] | None = None
    dpop: Any = None
    token_storage_key: str | None = None
    token_retry: Retry | int | None = None
    token_timeout: float | tuple[float | None, float | None] | None = None
    token_session: requests.Session | None = None
    token_refresh: Literal["background", "blocking"] = "background"
    token_refresh_window: float | None = None
    token_leeway: float | None = None
    token_settle_time: float = 0.0
    on_event: Callable[[Event], object] | None = None

    #: How the client authenticates; ``None``: as the issuer's metadata say.
    auth: ClientAuth | None = field(init=False, default=None)
    #: The form of the token request, without the client authentication.
    form: list[tuple[str, str]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        # Error reports show local variables and attributes, but not these.
        for name, value in masked_options(vars(self)).items():
            setattr(self, name, value)
        self._check_alternatives()
        self._check_choices()
        self._check_identity()
        self._check_request()

    @property
    def url(self) -> str:
        """The URL of the token endpoint, or the issuer whose metadata name it."""
        url = self.token_endpoint if self.issuer is None else self.issuer
        assert url is not None
        return url

    @property
    def margins(self) -> Margins:
        return Margins(self.token_refresh_window, self.token_leeway)

    def make_endpoint(self, clock: Clock) -> TokenEndpoint:
        """The token endpoint of this client."""
        assert self.client_id is not None
        timeout = self.token_timeout
        return TokenEndpoint(
            self.url,
            Credentials(
                self.client_id,
                self.client_secret,
                audience=bare_url(self.url),
                is_issuer=self.issuer is not None,
            ),
            self.auth,
            is_issuer=self.issuer is not None,
            revocation_endpoint=self.revocation_endpoint,
            params=self.form,
            grant=self.grant,
            headers=self.token_headers,
            dpop_key=self.dpop,
            cert=self.token_cert,
            retry=self.token_retry,
            timeout=DEFAULT_TIMEOUT if timeout is None else timeout,
            session=self.token_session,
            clock=clock,
        )

    def make_storage(
        self, endpoint: TokenEndpoint, on_failure: Callable[..., object], clock: Clock
    ) -> TokenStorage | None:
        """The token's entry in the storage, if there is a storage."""
        if self.token_storage is None:
            return None
        from alf._entries import EntryKey
        from alf._token_storage import TokenStorage

        key: str | EntryKey | None = self.token_storage_key
        if key is None:
            if endpoint.identity is None:
                message = (
                    "token_storage needs a token_storage_key: the client_auth callable does not "
                    "tell which client it authenticates, unless it has an attribute identity, a str"
                )
                raise TypeError(message)
            if self.grant is not None and self.grant.identity is None:
                message = (
                    "token_storage needs a token_storage_key or the grant's identity: a callable "
                    "does not tell whose tokens it returns"
                )
                raise TypeError(message)
            key = EntryKey(
                self.url, endpoint.client_id, self.form, endpoint.headers, lambda: endpoint.binding
            )
        return TokenStorage(
            self.token_storage,
            key,
            max_duration=endpoint.max_duration,
            secret=self.client_secret if isinstance(self.client_secret, str) else None,
            on_failure=on_failure,
            clock=clock,
        )

    def _check_alternatives(self) -> None:
        """Check that only one of two options with the same meaning is given."""
        if self.token_retries is not None:
            if self.token_retry is not None:
                message = "token_retries is the old name of token_retry: give one of them"
                raise TypeError(message)
            self.token_retry = self.token_retries
        if self.issuer is not None and self.token_endpoint is not None:
            message = "issuer says where the token endpoint is: give issuer or token_endpoint"
            raise TypeError(message)
        if self.token_storage is None and self.token_storage_key is not None:
            message = "token_storage_key is the key of an entry in token_storage: give that, too"
            raise TypeError(message)
        old = self.token_request_params or {}
        unknown = sorted(set(old) - {"timeout"})
        if unknown:
            message = f"token_request_params may have a timeout only, got {', '.join(unknown)}"
            raise TypeError(message)
        if old.get("timeout") is not None:
            if self.token_timeout is not None:
                message = (
                    "token_timeout and token_request_params['timeout'] are the same: "
                    "give one of them"
                )
                raise TypeError(message)
            self.token_timeout = old["timeout"]

    def _check_choices(self) -> None:
        if self.token_refresh not in ("background", "blocking"):
            message = (
                f"token_refresh must be 'background' or 'blocking', got {self.token_refresh!r}"
            )
            raise ValueError(message)
        _check_seconds("token_settle_time", self.token_settle_time)
        _check_seconds("token_refresh_window", self.token_refresh_window)
        _check_seconds("token_leeway", self.token_leeway)
        session = self.token_session
        if session is not None and not isinstance(session, Session):
            message = f"token_session must be a requests.Session, got {session!r}"
            raise TypeError(message)
        if self.on_event is not None and not callable(self.on_event):
            message = f"on_event must be callable, got {self.on_event!r}"
            raise TypeError(message)

    def _check_identity(self) -> None:
        if not isinstance(self.grant, (Grant, NoneType)):
            message = f"grant must be an object of alf.grants, got {type(self.grant).__name__}"
            raise TypeError(message)
        self._check_client()
        if self.issuer is None:
            self.token_endpoint = check_url(self.token_endpoint)
        else:
            self.issuer = check_issuer(self.issuer)
        if self.revocation_endpoint is not None:
            self.revocation_endpoint = check_url(self.revocation_endpoint, "revocation_endpoint")

    def _check_client(self) -> None:
        given = (self.client_id, self.client_secret, self.client_auth)
        if self.grant is not None and given == (None, None, None):
            self.client_id, self.auth = "", WithoutClient()
            return
        if self.client_id is None:
            message = "client_id is missing: only a grant may do without a client"
            raise TypeError(message)
        self.client_id = check_text("client_id", self.client_id).strip()
        secret = self.client_secret
        if secret is not None and not callable(secret):
            self.client_secret = _check_secret(secret, self.client_id)
        # By default the issuer's metadata say how to authenticate with what the client has.
        has_something = secret is not None or self.token_cert is not None
        if self.grant is not None and self.client_auth is None and not has_something:
            message = (
                f"client_secret is missing for client_id {self.client_id!r}: give it, or "
                "client_auth ('none' for a public client), or a grant without a client_id"
            )
            raise TypeError(message)
        if self.issuer is None or self.client_auth is not None or not has_something:
            self.auth = as_client_auth(self.client_auth, self.client_secret)

    def _check_request(self) -> None:
        self.form = token_form(
            self.scope, self.audience, self.resource, self.token_params, self.auth, self.grant
        )
        self.token_headers = check_headers(self.token_headers)
        self.dpop = as_dpop_key(self.dpop)
        self.token_cert = check_cert(self.token_cert)


#: The names of the options, each a parameter of :class:`alf.Client` as well.
OPTION_NAMES = tuple(each.name for each in dataclass_fields(Options) if each.init)


def masked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that may hold a secret, wrapped so that ``repr`` does not show it."""
    masks: dict[str, Callable[[Any], Any]] = {
        **dict.fromkeys(("client_secret", "token_params", "token_headers"), masked),
        **dict.fromkeys(("token_endpoint", "issuer", "revocation_endpoint"), masked_url),
        "dpop": masked_key,
    }
    if isinstance(options.get("client_auth"), tuple):
        masks["client_auth"] = masked
    return {name: mask(options[name]) for name, mask in masks.items() if name in options}


def _check_seconds(name: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        message = f"{name} must be seconds, got {value!r}"
        raise TypeError(message)
    if not 0 <= value < inf:
        message = f"{name} must not be negative, got {value!r}"
        raise ValueError(message)


def _check_secret(client_secret: str, client_id: str) -> Secret:
    secret = without_line_break(check_text("client_secret", client_secret))
    if secret != client_secret:
        logger.warning(
            "the client_secret of client_id %r ends with a line break, which was removed", client_id
        )
    same: Secret = masked(client_secret if secret == client_secret else secret)
    return same
