"""How a token is asked for: one form POST, its retries, and what its answer means."""

from __future__ import annotations

import logging
import re
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, inf
from typing import Any, Literal
from urllib.parse import urlsplit

import requests
import urllib3
from urllib3.exceptions import HTTPError, InvalidHeader, MaxRetryError, ProtocolError
from urllib3.util.retry import Retry

from alf._answers import find_error, read_body, read_members
from alf._certificates import thumbprint
from alf._clocks import Clock
from alf._discovery import Metadata, metadata_urls, parse_metadata
from alf._forks import forget_connections
from alf._redaction import Secret, SecretURL, redact_error, redact_response, secrets_of, shown
from alf._texts import check_utf8
from alf._urls import shown_misfit, shown_url
from alf.adapters import retry_for_post
from alf.client_auth import ClientAuth, Credentials, Sign, choose_client_auth
from alf.dpop import DPoPKey
from alf.tokens import Token, TokenError

__all__ = ["Answer", "TokenEndpoint"]

logger = logging.getLogger("alf")

_Endpoint = Literal["token_endpoint", "revocation_endpoint"]

#: Seconds to connect, and seconds to wait for each part of the answer.
DEFAULT_TIMEOUT = 10.0

#: Seconds after which an idle connection is not used again: by then something on the way may
#: have forgotten it, and not every router says so.
_IDLE = 60.0

#: A header's value as http.client can write it.
_SENDABLE = re.compile(r"[^\r\n\u0100-\U0010ffff]*")

#: A longer `Retry-After`, in seconds, is not waited for: its answer goes back to the caller.
_LONGEST_WAIT = 60.0


@dataclass(frozen=True)
class Answer:
    """A token, and the monotonic time at which the request that brought it was sent."""

    token: Token
    asked_at: float


class TokenEndpoint:
    """The token endpoint of one client (RFC 6749 §3.2).

    :param url: where it is, or the issuer to ask for that; it is asked when it is first needed.
    :param credentials: who the client is.
    :param client_auth: how it says so, anew for every try; ``None``: as the issuer wants it.
    :param is_issuer: whether the URL is the issuer's.
    :param revocation_endpoint: where tokens are revoked (RFC 7009); by default the issuer says.
    :param params: the pairs of the form, as :func:`token_form` gives them.
    :param headers: headers to send besides ``Accept: application/json``.
    :param dpop_key: the key to have tokens bound to (RFC 9449); ``None``: to none.
    :param cert: the client certificate, as in requests; ``None``: the session's.
    :param retry: urllib3's ``Retry`` or a number of retries; ``None``: none.
    :param timeout: as in requests: seconds, a pair (connect, read), or ``None``.
    :param session: the session to ask with; ``None``: one of its own.
    :param clock: what tells the time.
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
        headers: Mapping[str, str] | None = None,
        dpop_key: DPoPKey | None = None,
        cert: str | tuple[str, str] | None = None,
        retry: Retry | int | None = None,
        timeout: float | tuple[float | None, float | None] | None = DEFAULT_TIMEOUT,
        session: requests.Session | None = None,
        clock: Clock = time,
    ) -> None:
        self.url = url
        self._credentials = credentials
        self._client_auth = client_auth
        self._method = "discovered" if client_auth is None else client_auth.method
        self._revocation_endpoint = revocation_endpoint
        self._metadata = None if is_issuer else Metadata(url, revocation_endpoint)
        if client_auth is not None and client_auth.needs_tls and urlsplit(url).scheme != "https":
            message = f"client_auth {client_auth.method!r} needs https, not {self}"
            raise ValueError(message)
        self.params = tuple(params)
        self.headers = dict(headers or {})
        self._dpop_key = dpop_key
        self._cert = cert
        self._retry = Retry(0) if retry is None else retry_for_post(retry)
        self._timeout = check_timeout(timeout)
        self._session = session
        self._is_handed_in = session is not None
        self._followed: weakref.ref[requests.Session] | None = None
        self._clock = clock
        self._answered_at: float | None = None
        self._scope_granted: str | None = None
        #: The secrets in the requests of these answers.
        self._sent: weakref.WeakKeyDictionary[requests.Response, list[Secret]]
        self._sent = weakref.WeakKeyDictionary()

    @property
    def token_type(self) -> str:
        """The scheme of the tokens that are asked for."""
        return "Bearer" if self._dpop_key is None else "DPoP"

    @property
    def client_id(self) -> str:
        """The client's identifier."""
        return self._credentials.client_id

    def __str__(self) -> str:
        if self._metadata is None:
            return self._place("issuer", self.url)
        return self._place("token endpoint", self._metadata.token_endpoint)

    def _place(self, name: str, url: str) -> str:
        return f"{name} {shown_url(url)} (client_id {self.client_id!r})"

    @property
    def binding(self) -> str:
        """What makes a token another one: client authentication, key and certificate."""
        jkt = None if self._dpop_key is None else self._dpop_key.thumbprint
        x5t = None if self._cert is None else thumbprint(self._cert)
        return " ".join(filter(None, (self._method, jkt, x5t)))

    @property
    def max_duration(self) -> float:
        """Seconds that a request may take, roughly, its retries included."""
        timeout = self._timeout if isinstance(self._timeout, tuple) else (self._timeout,) * 2
        a_try = sum(DEFAULT_TIMEOUT if part is None else part for part in timeout)
        if self._metadata is None:
            a_try *= 1 + len(metadata_urls(self.url))
        retries = self._retry.total if isinstance(self._retry.total, int) else 0
        return (retries + 1) * (a_try + 1) + min(retries, 10) * _LONGEST_WAIT

    def follow(self, session: requests.Session) -> None:
        """Use this session's ``verify``, ``cert``, ``proxies`` and ``trust_env`` from now on."""
        self._followed = weakref.ref(session)

    def request(self) -> Answer:
        """Ask for a token, as often as the retries say.

        :raises TokenError: the answer is an error or holds no usable token.
        :raises requests.exceptions.RequestException: there was no answer.
        """
        response, asked_at, issued_at = self._ask("token_endpoint", self.params)
        token = self._read_token(response, issued_at)
        self._note_scope(token)
        return Answer(token, asked_at)

    def revoke(self, access_token: str) -> None:
        """Have the token revoked (RFC 7009 §2), as often as the retries say.

        :raises ValueError: nobody has said where.
        :raises TokenError: the answer is not that it was: the token may be good still.
        :raises requests.exceptions.RequestException: there was no answer.
        """
        form = [("token", Secret(access_token)), ("token_type_hint", "access_token")]
        response, _, _ = self._ask("revocation_endpoint", form)
        if response.status_code >= 300:
            raise self._error(response, "revocation_endpoint")
        logger.info("%s: token revoked", self)

    def _ask(
        self, name: _Endpoint, form: Sequence[tuple[str, str]]
    ) -> tuple[requests.Response, float, float]:
        """The answer that is no error, and when it was asked for, by both clocks.

        :raises TokenError: the answer is an error.
        :raises requests.exceptions.RequestException: there was no answer.
        """
        retry: Retry | None = self._retry
        while True:
            asked_at, issued_at = self._clock.monotonic(), self._clock.time()
            try:
                response = self._try(name, form)
            except requests.exceptions.RequestException as error:
                retry = self._next_try(retry, error=_urllib3_error(error))
                if retry is None:
                    raise
                continue
            if response.ok:
                return response, asked_at, issued_at
            retry = self._next_try(retry, response=response)
            if retry is None:
                raise self._error(response, name)

    def _try(self, name: _Endpoint, form: Sequence[tuple[str, str]]) -> requests.Response:
        if self._metadata is None:
            outage = self._discover()
            if outage is not None:
                return outage
        url: str | None = getattr(self._metadata, name)
        if url is None:
            message = f"{self} has no revocation endpoint that is known: give revocation_endpoint"
            raise ValueError(message)
        return self._post(url, form, self._dpop_key if name == "token_endpoint" else None)

    def _discover(self) -> requests.Response | None:
        """Read the issuer's metadata, once; returns the answer of an issuer that is out of order.

        :raises TokenError: there is no metadata, or it leaves the client no way to say who it is.
        """
        auth = self._client_auth
        has_cert = self._cert is not None or (auth is not None and auth.needs_tls)
        outage = None
        reasons = []
        for url in metadata_urls(self.url):
            response = self._send_reconnecting(url, None, _unsigned)
            if response.status_code == 429 or response.status_code >= 500:
                outage = response
            try:
                metadata = parse_metadata(response, self.url, has_cert=has_cert)
            except ValueError as reason:
                reasons.append(f"{url} {reason}")
                continue
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
        if outage is not None:
            return outage
        message = f"{self} has no metadata that can be used: {'; '.join(reasons)}"
        raise TokenError(message)

    def close(self) -> None:
        """Close the connections, unless the session was handed in."""
        if self._session is not None and not self._is_handed_in:
            self._session.close()

    def forget_connections(self) -> None:
        """After a fork: leave the connections to the parent."""
        if self._session is not None:
            forget_connections(self._session)
        self._answered_at = None

    def _post(
        self, url: str, form: Sequence[tuple[str, str]], dpop_key: DPoPKey | None
    ) -> requests.Response:
        """The answer to the form, signed in each of the ways that the client has."""
        assert self._client_auth is not None
        flow = self._client_auth.flow(self._credentials, url, self._clock.monotonic())
        sign = next(flow)
        while True:
            response = self._send_reconnecting(url, form, sign, dpop_key)
            if dpop_key is not None and dpop_key.store_nonce(response) and _wants_nonce(response):
                response = self._send_reconnecting(url, form, sign, dpop_key)
                dpop_key.store_nonce(response)
            try:
                sign = flow.send(response)
            except StopIteration as end:
                answer: requests.Response = end.value
                return answer

    def _send_reconnecting(
        self,
        url: str,
        form: Sequence[tuple[str, str]] | None,
        sign: Sign,
        dpop_key: DPoPKey | None = None,
    ) -> requests.Response:
        signing = _Signing(sign, dpop_key)
        try:
            return self._send(url, form, signing)
        except requests.exceptions.ConnectionError as error:
            # A kept-alive connection that the endpoint has closed meanwhile shows only in use.
            was_kept_alive = self._answered_at is not None and error is not signing.error
            self._answered_at = None
            if not was_kept_alive or not isinstance(_urllib3_error(error), ProtocolError):
                raise
        return self._send(url, form, signing)

    def _send(
        self, url: str, form: Sequence[tuple[str, str]] | None, signing: _Signing
    ) -> requests.Response:
        session = self._ready_session()
        needs_tls = self._client_auth is not None and self._client_auth.needs_tls
        if needs_tls and not (self._is_handed_in or self._cert or session.cert):
            message = (
                f"{self} needs a client certificate to know the client by: give token_cert, "
                "or the Client a cert"
            )
            raise TokenError(message)
        headers = {"Accept": "application/json"}
        call = session.get
        if form is not None:
            headers.update(self.headers)
            call = partial(session.post, data=form)
        try:
            response = call(
                url,
                headers=headers,
                # Always one: without it requests would add an entry of .netrc.
                auth=signing,
                timeout=self._timeout,
                # RFC 9700 §4.12: credentials follow no redirect.
                allow_redirects=False,
                stream=True,
                cert=self._cert,
            )
            signing.give_back_target(response)
            with response:
                read_body(response)
        except requests.exceptions.RequestException as error:
            if error is signing.error:
                raise
            redact_error(error)
            # Without the frames below this one: they hold the request.
            raise error.with_traceback(None) from error.__cause__
        self._answered_at = self._clock.monotonic()
        # What the caller may get to see holds no secret.
        self._sent[response] = secrets_of(response.request)
        redact_response(response, self._sent[response])
        return response

    def _ready_session(self) -> requests.Session:
        session = self._session
        if session is None:
            session = self._session = requests.Session()
        if self._is_handed_in:
            return session
        followed = None if self._followed is None else self._followed()
        if followed is not None:
            session.verify = followed.verify
            session.cert = followed.cert
            session.proxies = followed.proxies
            session.trust_env = followed.trust_env
        if self._answered_at is not None and self._clock.monotonic() - self._answered_at > _IDLE:
            session.close()
            self._answered_at = None
        return session

    def _next_try(
        self,
        retry: Retry | None,
        *,
        response: requests.Response | None = None,
        error: HTTPError | None = None,
    ) -> Retry | None:
        """The retries that are left when it is time for the next one; ``None``: there is none."""
        assert retry is not None
        raw = None
        if response is not None:
            wait = retry_after(response) if retry.respect_retry_after_header else None
            if not retry.is_retry("POST", response.status_code, wait is not None):
                return None
            if wait is not None and wait > _LONGEST_WAIT:
                return None
            headers = {} if wait is None else {"Retry-After": str(ceil(wait))}
            raw = urllib3.HTTPResponse(status=response.status_code, headers=headers)
        elif error is None:
            return None
        try:
            retry = retry.increment("POST", str(self), response=raw, error=error)
        except HTTPError:  # MaxRetryError, or the error itself
            return None
        retry.sleep(raw)
        return retry

    def _read_token(self, response: requests.Response, issued_at: float) -> Token:
        secrets = self._sent[response]
        if response.status_code >= 300:
            target = response.headers.get("Location")
            what = ""
            if target is not None:
                what = f", a redirect to {shown(shown_url(target), secrets)!r}, not followed"
            message = f"{self} answered {response.status_code}{what}: expected a 200 with a token"
            raise TokenError(message, response)
        answer = read_members(response)
        if isinstance(answer, str):
            message = (
                f"{self} answered {response.status_code} with {shown(answer, secrets)}: "
                "expected a JSON object with an access_token"
            )
            raise TokenError(message, response)
        is_error = not answer.get("access_token") and find_error(response) != (None, None)
        if is_error or answer.get("error"):
            raise self._error(response)
        try:
            return Token.from_answer(answer, issued_at, self.token_type)
        except ValueError as error:
            reason = shown(str(error), secrets)
        # Not as a consequence of that error, whose frames hold the answer.
        message = f"the answer of {self} ({response.status_code}) {reason}"
        raise TokenError(message, response)

    def _note_scope(self, token: Token) -> None:
        """Tell, once, of a scope that is smaller than the one asked for (RFC 6749 §3.3)."""
        granted = token.scope
        if granted is None or granted == self._scope_granted:
            return
        self._scope_granted = granted
        missing = _scopes(dict(self.params).get("scope", "")) - _scopes(granted)
        if missing:
            logger.warning(
                "%s granted less than the scope asked for, without %s",
                self,
                shown(", ".join(sorted(missing))),
            )

    def _error(self, response: requests.Response, name: _Endpoint = "token_endpoint") -> TokenError:
        error, description = find_error(response, self._sent[response])
        words = " ".join(filter(None, (str(response.status_code), error)))
        place = str(self)
        if name == "revocation_endpoint" and self._metadata is not None:
            place = self._place("revocation endpoint", str(self._metadata.revocation_endpoint))
        message = f"{place} answered {words}"
        if description:
            message += f" ({description})"
        return TokenError(message, response, error=error, error_description=description)


class _Signing:
    """What signs a try, and remembers its failure, so that it is not taken for the network's.

    It also keeps the target of a redirect from requests, which prepares the request to it even
    where it must not send it: secrets in it, the whole body read before, however long it is, and
    broken by a target that is no URL.
    """

    def __init__(self, sign: Sign, dpop_key: DPoPKey | None) -> None:
        self._sign = sign
        self._dpop_key = dpop_key
        self._target: str | None = None
        self.error: Exception | None = None

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        # Not as hooks=, which would take the place of the hooks of a session handed in.
        request.register_hook("response", self._take_target)
        try:
            request = self._sign(request)
            _check_sendable(request.headers)
            if self._dpop_key is not None:
                self._dpop_key.attach_proof(request)
        except Exception as error:
            self.error = error
            raise
        return request

    def _take_target(self, response: requests.Response, **_kwargs: Any) -> None:
        self._target = response.headers.pop("Location", None)

    def give_back_target(self, response: requests.Response) -> None:
        if self._target is not None:
            response.headers["Location"] = self._target


def _check_sendable(headers: Mapping[str, Any]) -> None:
    """Raise, without the value, for a header that http.client would refuse in full."""
    for name, value in headers.items():
        text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
        if not _SENDABLE.fullmatch(text):
            message = f"client_auth wrote a value of the header {shown(name)!r} that cannot be sent"
            raise requests.exceptions.InvalidHeader(message)


def _wants_nonce(response: requests.Response) -> bool:
    """Whether the server wants its nonce in the proof (RFC 9449 §8)."""
    return find_error(response)[0] == "use_dpop_nonce"


def _unsigned(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def check_url(url: object, name: str = "token_endpoint") -> str:
    """The endpoint's URL, if it is one.

    :raises TypeError: it is missing, or no string.
    :raises ValueError: it is no absolute http or https URL, or has a fragment (RFC 6749 §3.2).
    """
    if not isinstance(url, str):
        message = f"{name} must be a URL, got {type(url).__name__}"
        raise TypeError(message)
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
    """A time-out as requests takes it.

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


def retry_after(response: requests.Response) -> float | None:
    """Seconds that the response asks to wait (RFC 9110 §10.2.3); ``None`` if it does not."""
    value = response.headers.get("Retry-After")
    if value is None:
        return None
    try:
        return Retry().parse_retry_after(value)
    except (InvalidHeader, ValueError, OverflowError):  # junk, or a date outside the calendar
        return None


def _urllib3_error(error: requests.exceptions.RequestException) -> HTTPError | None:
    """What urllib3 said before requests put it in other words; ``None`` where trying is no use."""
    if isinstance(error, requests.exceptions.SSLError):
        return None
    cause: object = error.args[0] if error.args else None
    if isinstance(cause, MaxRetryError):
        cause = cause.reason
    return cause if isinstance(cause, HTTPError) else None


def _scopes(scope: str) -> set[str]:
    # Some servers have commas between the names.
    return set(scope.replace(",", " ").split())
