"""The token request: one form POST, its retries, and what its answer means."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Literal
from urllib.parse import urlsplit

import requests
from urllib3.util.retry import Retry

from alf._answers import find_error, read_members
from alf._auth_choice import choose_client_auth
from alf._certificates import thumbprint
from alf._clocks import Clock
from alf._discovery import Discovery, Metadata
from alf._forks import notice_fork
from alf._redaction import Secret, SecretURL, shown
from alf._retries import LONGEST_RETRYING, LONGEST_WAIT, next_try, retry_for_post
from alf._texts import check_utf8
from alf._time_limits import DEFAULT_TIMEOUT, TimeLimit, Timeout
from alf._transport import Exchange, Transport, urllib3_error
from alf._urls import shown_misfit, shown_url
from alf.client_auth import ClientAuth, Credentials
from alf.dpop import DPoPKey, endpoint_asks_for_nonce
from alf.grants import Grant
from alf.tokens import Token, TokenError

__all__ = ["DEFAULT_TIMEOUT", "Answer", "TokenEndpoint"]

logger = logging.getLogger("alf")

#: Shared: a ``Retry`` does not change.
_NO_RETRY = Retry(0)

_Endpoint = Literal["token_endpoint", "revocation_endpoint"]


@dataclass(frozen=True, eq=False, repr=False)
class Answer:
    """A token, and the monotonic time at which the request that brought it was sent."""

    token: Token
    asked_at: float


class TokenEndpoint:
    """The token endpoint of one client (RFC 6749 §3.2).

    :param url: its URL, or the issuer's, whose metadata are read at the first token request.
    :param credentials: the client's identifier and secret.
    :param client_auth: authenticates the client in every try; ``None``: as the metadata say.
    :param is_issuer: whether the URL is that of the issuer.
    :param revocation_endpoint: URL for revocation (RFC 7009); by default from the metadata.
    :param params: the pairs of the form, as :func:`token_form` gives them.
    :param grant: adds its pairs to the form in every try; ``None``: client credentials.
    :param headers: headers to send in addition to ``Accept: application/json``.
    :param dpop_key: the key that tokens are bound to (RFC 9449); ``None``: they are not bound.
    :param cert: the client certificate, as in requests; ``None``: the session's.
    :param retry: urllib3's ``Retry`` or a number of retries; ``None``: none.
    :param timeout: seconds in all for each try, or a pair: seconds to connect and for the rest.
    :param session: the session to use; ``None``: one of its own.
    :param clock: the clock.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        client_auth: ClientAuth | None,
        *,
        is_issuer: bool = False,
        revocation_endpoint: str | None = None,
        params: Sequence[tuple[str, str]],
        grant: Grant | None = None,
        headers: Mapping[str, str] | None = None,
        dpop_key: DPoPKey | None = None,
        cert: str | tuple[str, str] | None = None,
        retry: Retry | int | None = None,
        timeout: Timeout = DEFAULT_TIMEOUT,
        session: requests.Session | None = None,
        clock: Clock = time,
    ) -> None:
        self.url = url
        self._credentials = credentials
        self._given_auth = self._client_auth = client_auth
        #: The client authentication, with the name it uses if that is not the id; ``None`` if not
        #: known yet.
        self.identity = "discovered" if client_auth is None else client_auth.identity
        self._revocation_endpoint = revocation_endpoint
        self._metadata = None if is_issuer else Metadata(url, revocation_endpoint)
        if client_auth is not None and client_auth.needs_tls and urlsplit(url).scheme != "https":
            message = f"client_auth {client_auth.method!r} needs https, not {self}"
            raise ValueError(message)
        self.params = tuple(params)
        self._grant = grant
        self.headers = dict(headers or {})
        self._dpop_key = dpop_key
        self._cert = cert
        self._retry = _NO_RETRY if retry is None else retry_for_post(retry)
        self._timeout: Timeout = check_timeout(timeout)
        self._transport = Transport(session, cert=cert, clock=clock)
        self._discovery = Discovery(url, self._transport, clock) if is_issuer else None
        self._clock = clock
        self._scope_granted: str | None = None
        #: An endpoint of the same client, whose connections and metadata this one uses.
        self._shared: TokenEndpoint | None = None

    @property
    def token_type(self) -> str:
        """The type of the tokens that are requested."""
        return "Bearer" if self._dpop_key is None else "DPoP"

    @property
    def client_id(self) -> str:
        """The client's identifier."""
        return self._credentials.client_id

    @property
    def fixed_secret(self) -> str | None:
        """The client's secret; ``None`` if it has no secret or one that may change."""
        secret = self._credentials.client_secret
        return None if callable(secret) else secret

    def __str__(self) -> str:
        if self._metadata is None:
            return self._place("issuer", self.url)
        return self._place("token endpoint", self._metadata.token_endpoint)

    def _describe(self, name: _Endpoint) -> str:
        if name == "revocation_endpoint" and self._metadata is not None:
            return self._place("revocation endpoint", str(self._metadata.revocation_endpoint))
        return str(self)

    def _place(self, name: str, url: str) -> str:
        who = f"client_id {self.client_id!r}" if self.client_id else str(self._grant)
        return f"{name} {shown(shown_url(url))} ({who})"

    @property
    def binding(self) -> str:
        """What tokens depend on besides the form: authentication, grant, key and certificate."""
        grant = None if self._grant is None else self._grant.identity
        jkt = None if self._dpop_key is None else self._dpop_key.thumbprint
        cert = self._transport.cert
        x5t = thumbprint(cert) if cert else None
        return " ".join(filter(None, (self.identity, grant, jkt, x5t)))

    @property
    def max_duration(self) -> float:
        """Seconds that a token request may take, including retries."""
        a_try = TimeLimit(self._timeout).total
        retries = self._retry.total if isinstance(self._retry.total, int) else 0
        pauses = min(retries, 10) * LONGEST_WAIT
        return min((retries + 1) * (a_try + 1) + pauses, LONGEST_RETRYING + a_try + 1)

    def share(self, other: TokenEndpoint) -> None:
        """Use the connections and the metadata of another endpoint object of the same client."""
        self._shared = other
        self._transport = other._transport

    def follow(self, session: requests.Session) -> None:
        """Use this session's ``verify``, ``cert``, ``proxies`` and ``trust_env`` from now on."""
        self._transport.follow(session)

    def close(self) -> None:
        """Close the connections, unless the session was handed in."""
        self._transport.close()

    def forget_connections(self) -> None:
        """After a fork: leave the connections to the parent."""
        self._transport.forget_connections()

    def request(self) -> Answer:
        """Request a token, with retries.

        :raises TokenError: the answer is an error or holds no usable token.
        :raises requests.exceptions.RequestException: there was no answer.
        """
        exchange, asked_at, issued_at = self._request("token_endpoint", self.params)
        token = _read_token(exchange, issued_at, self.token_type, str(self))
        self._note_scope(token)
        return Answer(token, asked_at)

    def revoke(self, access_token: str) -> None:
        """Have the server revoke the token (RFC 7009 §2), with retries.

        :raises ValueError: the revocation endpoint is not known.
        :raises TokenError: the server did not revoke the token, which may still be good.
        :raises requests.exceptions.RequestException: there was no answer.
        """
        access_token = Secret(access_token)
        form = [("token", access_token), ("token_type_hint", "access_token")]
        exchange, _, _ = self._request("revocation_endpoint", form)
        if exchange.response.status_code >= 300:
            raise _error(exchange, self._describe("revocation_endpoint"))
        logger.info("%s: token revoked", self)

    def _request(
        self, name: _Endpoint, form: Sequence[tuple[str, str]]
    ) -> tuple[Exchange, float, float]:
        """The successful answer, and when it was requested by both clocks.

        :raises TokenError: the answer is an error.
        :raises requests.exceptions.RequestException: there was no answer.
        """
        notice_fork()
        retry: Retry | None = self._retry
        give_up_at = self._clock.monotonic() + LONGEST_RETRYING
        while True:
            asked_at, issued_at = self._clock.monotonic(), self._clock.time()
            try:
                exchange = self._try(name, form)
            except requests.exceptions.RequestException as error:
                retry = next_try(retry, self._clock, give_up_at, error=urllib3_error(error))
                if retry is None:
                    raise
                continue
            if exchange.response.ok:
                return exchange, asked_at, issued_at
            retry = next_try(retry, self._clock, give_up_at, response=exchange.response)
            if retry is None:
                raise _error(exchange, self._describe(name))

    def _try(self, name: _Endpoint, form: Sequence[tuple[str, str]]) -> Exchange:
        # One limit for everything in a try: metadata, Basic's second form, a DPoP nonce.
        limit = TimeLimit(self._timeout)
        known = self._metadata
        outage = self._discover(limit)
        if outage is not None:
            return outage
        url = self._url(name)
        exchange = self._post(url, form, limit, name)
        is_gone = exchange.response.status_code in (404, 410)
        if is_gone and self._discovery is not None and known is self._metadata:
            self._read_again(self._discovery, limit)
            if self._url(name) != url:
                exchange = self._post(self._url(name), form, limit, name)
        return exchange

    def _url(self, name: _Endpoint) -> str:
        url: str | None = getattr(self._metadata, name)
        if url is None:
            message = f"{self} has no known revocation endpoint: give revocation_endpoint"
            raise ValueError(message)
        return url

    def _post(
        self,
        url: str,
        form: Sequence[tuple[str, str]],
        limit: TimeLimit,
        name: _Endpoint,
    ) -> Exchange:
        """The answer to the form, which is sent with each of the client's ways to authenticate."""
        assert self._client_auth is not None
        if self._client_auth.needs_tls and not self._transport.may_have_cert:
            message = (
                f"{self} needs a client certificate to know the client by: give token_cert, "
                "or the Client a cert"
            )
            raise TokenError(message)
        is_token = name == "token_endpoint"
        dpop_key, grant = (self._dpop_key, self._grant) if is_token else (None, None)
        flow = self._client_auth.flow(self._credentials, url, self._clock.monotonic())
        sign = next(flow)
        secrets: set[Secret] = set()

        def send() -> requests.Response:
            signed = sign if grant is None else grant.add_to(sign, self._credentials)
            exchange = self._transport.send(
                url, self.headers, limit, form=form, sign=signed, dpop_key=dpop_key
            )
            secrets.update(exchange.secrets)
            return exchange.response

        while True:
            response = send()
            has_nonce = dpop_key is not None and dpop_key.store_nonce(response)
            if dpop_key is not None and has_nonce and endpoint_asks_for_nonce(response):
                response = send()
                dpop_key.store_nonce(response)
            try:
                sign = flow.send(response)
            except StopIteration as end:
                return Exchange(end.value, sorted(secrets, key=len, reverse=True))

    def _discover(self, limit: TimeLimit) -> Exchange | None:
        """Read the issuer's metadata if they are due. Returns the issuer's answer in an outage.

        :raises TokenError: there are no metadata, or they demand what the client cannot do.
        :raises requests.exceptions.RequestException: there was no answer.
        """
        if self._shared is not None:
            outage = self._shared._discover(limit)
            self._client_auth, self._metadata = self._shared._client_auth, self._shared._metadata
            return outage
        discovery = self._discovery
        if discovery is None or not discovery.is_due(has_cert=self._has_cert):
            return None
        if self._metadata is None:
            return self._read_metadata(discovery, limit)
        # The old metadata will do in an outage, with some time left for the token request.
        self._read_again(discovery, limit.part(1 / 4))
        return None

    def _read_again(self, discovery: Discovery, limit: TimeLimit) -> None:
        if self._shared is not None:
            self._shared._read_again(discovery, limit)
            self._metadata = self._shared._metadata
            return
        try:
            self._read_metadata(discovery, limit)
        except requests.exceptions.RequestException as error:
            logger.warning("%s: its metadata could not be read again: %s", self, error)

    def _read_metadata(self, discovery: Discovery, limit: TimeLimit) -> Exchange | None:
        try:
            metadata = discovery.read(limit, has_cert=self._has_cert)
        except ValueError as reasons:
            message = f"{self} has no metadata that can be used: {reasons}"
            raise TokenError(message) from None
        if isinstance(metadata, Exchange):
            return metadata
        auth = self._given_auth
        if auth is None:
            has_secret = self._credentials.client_secret is not None
            auth = choose_client_auth(metadata.auth_methods, has_secret=has_secret)
        if auth is None:
            takes = shown(", ".join(metadata.auth_methods))
            message = f"{self} takes {takes}: none goes with what the client has"
            raise TokenError(message)
        if self._revocation_endpoint is not None:
            metadata = replace(metadata, revocation_endpoint=self._revocation_endpoint)
        self._client_auth, self._metadata = auth, metadata
        return None

    @property
    def _has_cert(self) -> bool:
        needs_tls = self._given_auth is not None and self._given_auth.needs_tls
        return needs_tls or self._transport.has_cert

    def _note_scope(self, token: Token) -> None:
        """Log once that the granted scope is smaller than the requested one (RFC 6749 §3.3)."""
        granted = token.scope
        if granted is None or granted == self._scope_granted:
            return
        self._scope_granted = granted
        missing = _scopes(dict(self.params).get("scope", "")) - _scopes(granted)
        if missing:
            logger.warning(
                "%s granted less than the requested scope, without %s",
                self,
                shown(", ".join(sorted(missing))),
            )


def _read_token(exchange: Exchange, issued_at: float, token_type: str, place: str) -> Token:
    """The token in the answer.

    :raises TokenError: there is no usable token.
    """
    response, secrets = exchange.response, exchange.secrets
    if response.status_code >= 300:
        target = response.headers.get("Location")
        what = ""
        if target is not None:
            what = f", a redirect to {shown(shown_url(target), secrets)!r}, not followed"
        message = f"{place} answered {response.status_code}{what}: expected a 200 with a token"
        raise TokenError(message, response)
    answer = read_members(response)
    if isinstance(answer, str):
        message = (
            f"{place} answered {response.status_code} with {shown(answer, secrets)}: "
            "expected a JSON object with an access_token"
        )
        raise TokenError(message, response)
    is_error = not answer.get("access_token") and find_error(response) != (None, None)
    if is_error or answer.get("error"):
        raise _error(exchange, place)
    try:
        return Token.from_answer(answer, issued_at, token_type)
    except ValueError as error:
        reason = shown(str(error), secrets)
    # Not chained to that error, whose frames hold the answer.
    message = f"the answer of {place} ({response.status_code}) {reason}"
    raise TokenError(message, response)


def _error(exchange: Exchange, place: str) -> TokenError:
    response = exchange.response
    error, description = find_error(response, exchange.secrets)
    words = " ".join(filter(None, (str(response.status_code), error)))
    message = f"{place} answered {words}"
    if description:
        message += f" ({description})"
    return TokenError(message, response, error=error, error_description=description)


def check_url(url: object, name: str = "token_endpoint") -> str:
    """Check the URL of an endpoint.

    :raises TypeError: it is missing or not a string.
    :raises ValueError: it is not an absolute http or https URL, or has a fragment
        (RFC 6749 §3.2).
    """
    if not isinstance(url, str):
        message = f"{name} must be a URL, got {type(url).__name__}"
        raise TypeError(message)
    if not (isinstance(url, SecretURL) and url == url.strip()):
        url = SecretURL(url.strip())
    check_utf8(name, url)
    if not _is_endpoint(url):
        got = shown_misfit(url)
        message = f"{name} must be an http or https URL without a fragment, got {got}"
        raise ValueError(message)
    return url


def _is_endpoint(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    is_absolute = parts.scheme in ("http", "https") and bool(parts.hostname)
    return is_absolute and not parts.fragment and url.isprintable()


def check_timeout(timeout: Any) -> Any:
    """Check a timeout in the form that requests takes.

    :raises TypeError: it is neither a number, nor a pair of numbers, nor ``None``.
    :raises ValueError: it is not above 0.
    """
    parts = timeout if isinstance(timeout, tuple) else (timeout,)
    is_number = [isinstance(part, (int, float)) and not isinstance(part, bool) for part in parts]
    if (isinstance(timeout, tuple) and len(parts) != 2) or not all(
        number or part is None for part, number in zip(parts, is_number, strict=True)
    ):
        message = f"token_timeout must be seconds, or a pair (connect, read), got {timeout!r}"
        raise TypeError(message)
    if any(number and not 0 < part < inf for part, number in zip(parts, is_number, strict=True)):
        message = f"token_timeout must be above 0 seconds and finite, got {timeout!r}"
        raise ValueError(message)
    return timeout


def _scopes(scope: str) -> set[str]:
    # Some servers put commas between the names.
    return set(scope.replace(",", " ").split())
