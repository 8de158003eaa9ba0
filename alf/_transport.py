"""Sends requests to an authorization server."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.utils import select_proxy
from urllib3.exceptions import (
    DecodeError,
    HTTPError,
    InvalidHeader,
    LocationValueError,
    MaxRetryError,
    ProtocolError,
    ReadTimeoutError,
)
from urllib3.exceptions import SSLError as TLSError

from alf._clocks import Clock
from alf._forks import forget_connections
from alf._redaction import Secret, redact_error, redact_response, secrets_of, shown
from alf._responses import close_response, plain_response, read_content
from alf._signing import Sign
from alf._time_limits import LimitedAdapter, TimeLimit
from alf._urls import shown_url
from alf.dpop import DPoPKey

__all__ = ["Exchange", "Session", "Transport", "urllib3_error"]

#: A connection is not reused after it was idle for this many seconds: routers drop idle connections
#: without notice.
_IDLE = 60.0

#: The real Session of requests, even if something, usually a cache, has replaced it.
Session: Any = next(
    (cls for cls in requests.Session.__mro__ if cls.__module__ == "requests.sessions"),
    requests.Session,
)

#: What lower layers raise for odd input or answers, besides requests' own exceptions.
_FOREIGN_ERRORS = (HTTPError, HTTPException, ValueError, TypeError)


@dataclass(frozen=True, eq=False, repr=False)
class Exchange:
    """A response without secrets, and the secrets of its request, longest first."""

    response: requests.Response
    secrets: Sequence[Secret]


class Transport:
    """Sends requests to an authorization server.

    It does not follow redirects or keep cookies. If a kept-alive connection turns out to be dead,
    it sends the request once more. All its exceptions are of requests' family.

    :param session: the session to use; ``None``: one of its own, which HTTP caches do not affect.
    :param cert: the client certificate, as in requests; ``None``: the session's.
    :param clock: what tells the time.
    """

    __slots__ = (
        "_answered_at",
        "_cert",
        "_clock",
        "_followed",
        "_headers",
        "_is_handed_in",
        "_session",
        "_settings",
    )

    def __init__(
        self,
        session: requests.Session | None = None,
        *,
        cert: str | tuple[str, str] | None = None,
        clock: Clock = time,
    ) -> None:
        self._session = session
        self._is_handed_in = session is not None
        self._cert = cert
        self._clock = clock
        # Without compression an answer is as large as it seems.
        self._headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if session is not None:
            # The session may have an HTTP cache.
            self._headers["Cache-Control"] = "no-store"
        self._followed: weakref.ref[requests.Session] | None = None
        self._settings: tuple[Any, ...] | None = None
        #: When the last answer arrived, by both clocks.
        self._answered_at: tuple[float, float] | None = None

    def follow(self, session: requests.Session) -> None:
        """Use this session's ``verify``, ``cert``, ``proxies`` and ``trust_env`` from now on."""
        self._followed = weakref.ref(session)

    @property
    def cert(self) -> str | tuple[str, str] | None:
        """The client certificate to present, if there is one."""
        if self._cert:
            return self._cert
        followed = None if self._followed is None else self._followed()
        session = self._session if self._is_handed_in else followed
        return None if session is None else session.cert

    @property
    def has_cert(self) -> bool:
        """Whether there is a client certificate to show."""
        return bool(self.cert)

    @property
    def may_have_cert(self) -> bool:
        """The same, but the adapters of the user's session may have one as well."""
        return self._is_handed_in or self.has_cert

    def close(self) -> None:
        """Close the connections, unless the session is the user's."""
        if self._session is not None and not self._is_handed_in:
            self._session.close()
        self._answered_at = None

    def forget_connections(self) -> None:
        """Leave the connections to the parent process after a fork."""
        if self._session is not None:
            forget_connections(self._session)
        self._answered_at = None

    def send(
        self,
        url: str,
        headers: Mapping[str, str],
        limit: TimeLimit,
        *,
        form: Sequence[tuple[str, str]] | None = None,
        sign: Sign | None = None,
        dpop_key: DPoPKey | None = None,
    ) -> Exchange:
        """Send a GET, or a POST with a form.

        :param url: where to.
        :param headers: headers in addition to those of every request.
        :param limit: its time limit.
        :param form: the pairs of the form.
        :param sign: adds the credentials to the request, like ``auth`` in requests.
        :param dpop_key: the key for a DPoP proof.
        :raises requests.exceptions.RequestException: there was no complete answer.
        """
        signature = _Signature(sign, dpop_key, may_be_sent_again=self._is_handed_in)
        with limit:
            try:
                return self._send(url, headers, limit, form, signature)
            except requests.exceptions.ConnectionError as error:
                # Only using a kept-alive connection shows that the server has closed it.
                was_kept_alive = self._answered_at is not None and error is not signature.error
                self._answered_at = None
                if not was_kept_alive or not isinstance(urllib3_error(error), ProtocolError):
                    raise
            return self._send(url, headers, limit, form, signature)

    def _send(
        self,
        url: str,
        headers: Mapping[str, str],
        limit: TimeLimit,
        form: Sequence[tuple[str, str]] | None,
        signature: _Signature,
    ) -> Exchange:
        session = self._ready_session()
        signature.is_answered = False
        try:
            call = session.get if form is None else partial(session.post, data=form)
            response = call(
                url,
                headers={**self._headers, **headers},
                # Never None: requests would use an entry of .netrc instead.
                auth=signature,
                timeout=limit.for_requests(),
                # RFC 9700 §4.12: credentials follow no redirect.
                allow_redirects=False,
                stream=True,
                cert=self._cert,
                **self._overrides(url, session),
            )
            signature.is_answered = False
            signature.give_back_target(response)
            secrets = secrets_of(response.request)
            redact_response(response, secrets)
            if self._is_handed_in:
                # The user's own requests before this one do not count.
                limit = limit.renewed()
            try:
                content = read_content(response, limit, is_handed_in=self._is_handed_in)
            except ProtocolError as broken:
                # Not a ConnectionError: the server has seen the request.
                raise requests.exceptions.ChunkedEncodingError(broken) from None
            finally:
                close_response(response)
        except Exception as caught:
            if caught is signature.error:
                raise
            if signature.response is not None:
                close_response(signature.response)
            error = _as_requests_error(caught, url, limit, is_answered=signature.is_answered)
            redact_error(error)
            if not isinstance(error, requests.exceptions.RequestException):
                raise
            # Without the frames below this one: they hold the request.
            raise error.with_traceback(None) from error.__cause__
        self._answered_at = (self._clock.monotonic(), self._clock.time())
        # A hook may have kept the response to read it later.
        response._content = content
        response._content_consumed = True
        return Exchange(plain_response(response, content), secrets)

    def _ready_session(self) -> requests.Session:
        if self._session is None:
            self._session = _new_session()
        session = self._session
        if self._is_handed_in:
            return session
        followed = None if self._followed is None else self._followed()
        if followed is not None:
            session.verify = followed.verify
            session.cert = followed.cert
            session.proxies = dict(followed.proxies or {})
            session.trust_env = followed.trust_env
        settings = (session.verify, session.cert, session.proxies, session.trust_env)
        if self._is_idle() or settings != self._settings:
            session.close()
            self._answered_at = None
        self._settings = settings
        return session

    def _is_idle(self) -> bool:
        if self._answered_at is None:
            return False
        # The monotonic clock stands still while a machine sleeps.
        since = zip((self._clock.monotonic(), self._clock.time()), self._answered_at, strict=True)
        return any(now - then > _IDLE for now, then in since)

    def _overrides(self, url: str, session: requests.Session) -> dict[str, Any]:
        """The Client's own settings, where requests would prefer those of the environment."""
        if self._is_handed_in:
            return {}
        overrides: dict[str, Any] = {}
        if session.verify is not True:
            overrides["verify"] = session.verify
        proxy = select_proxy(url, session.proxies)
        if proxy is not None:
            overrides["proxies"] = {urlsplit(url).scheme: proxy}
        return overrides


class _Signature:
    """Signs a request, and remembers if that failed, so that it does not count as a network error.

    It also hides cookies and the redirect target of the response from requests, which would
    otherwise prepare a request for that target.
    """

    def __init__(
        self, sign: Sign | None, dpop_key: DPoPKey | None, *, may_be_sent_again: bool
    ) -> None:
        self._sign = sign or _unsigned
        self._dpop_key = dpop_key
        self._may_be_sent_again = may_be_sent_again
        self._target: str | None = None
        self.error: Exception | None = None
        self.response: requests.Response | None = None
        #: Whether the session's own hooks run now.
        self.is_answered = False

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        unsigned = request.copy()
        try:
            request = self._sign(request)
            _check_sendable(request)
            if self._dpop_key is not None:
                self._dpop_key.attach_proof(request)
        except Exception as error:
            self.error = error
            raise
        body = request.body
        if self._may_be_sent_again and isinstance(body, str) and "assertion=" in body:
            request.body = _FreshForm(body, lambda: str(self._sign(unsigned.copy()).body))
        # Not as hooks=, which would replace the hooks of the user's session.
        request.register_hook("response", self._receive)
        return request

    def _receive(self, response: requests.Response, **_kwargs: Any) -> None:
        self.is_answered = True
        self.response = response
        self._target = response.headers.pop("Location", None)
        for one in (response, *response.history):
            # requests fills the session's cookie jar from this.
            original = getattr(getattr(one, "raw", None), "_original_response", None)
            message = getattr(original, "msg", None)
            if message is not None and "Set-Cookie" in message:
                del message["Set-Cookie"]

    def give_back_target(self, response: requests.Response) -> None:
        if self._target is not None:
            response.headers["Location"] = self._target


class _FreshForm(str):
    """A form whose assertion is made anew each time that it is sent.

    Servers accept an assertion only once, and an adapter may send a request again (urllib3's
    retries).
    """

    __slots__ = ("_make", "forms")
    _make: Callable[[], str]
    #: What was written so far, and must not be shown.
    forms: list[str]

    def __new__(cls, form: str, make: Callable[[], str]) -> _FreshForm:
        body = super().__new__(cls, form)
        body._make = make
        body.forms = []
        return body

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        """Called by urllib3 and http.client before they send it."""
        form = self._make() if self.forms else str(self)
        # Its length was sent in a header.
        form = form if len(form) == len(self) else str(self)
        self.forms.append(form)
        return form.encode(encoding, errors)


def _unsigned(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _new_session() -> requests.Session:
    session: requests.Session = Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, LimitedAdapter())
    return session


def _as_requests_error(
    error: Exception, url: str, limit: TimeLimit, *, is_answered: bool
) -> Exception:
    """The equivalent exception of requests' family."""
    request = getattr(error, "request", None)
    if limit.has_passed:
        return limit.error(shown_url(url), request)
    if isinstance(error, requests.exceptions.RequestException) or is_answered:
        # A hook of the user's session may raise anything.
        return error
    if not isinstance(error, _FOREIGN_ERRORS):
        return error
    if isinstance(error, (LocationValueError, UnicodeError)):
        return requests.exceptions.InvalidURL(error, request=request)
    if isinstance(error, InvalidHeader):
        return requests.exceptions.InvalidHeader(error, request=request)
    if isinstance(error, TLSError):
        return requests.exceptions.SSLError(error, request=request)
    if isinstance(error, DecodeError):
        return requests.exceptions.ContentDecodingError(error, request=request)
    if isinstance(error, ReadTimeoutError):
        return requests.exceptions.ReadTimeout(error, request=request)
    cause = error if isinstance(error, HTTPError) else ProtocolError("not HTTP", error)
    return requests.exceptions.ConnectionError(cause, request=request)


def _check_sendable(request: requests.PreparedRequest) -> None:
    """Raise for a header that http.client would refuse, whose message would show the value."""
    # Headers are kept out of local variables, which error reports show.
    name = next((name for name in request.headers if not _is_sendable(request.headers[name])), None)
    if name is not None:
        message = f"client_auth set a value of the header {shown(name)!r} that cannot be sent"
        raise requests.exceptions.InvalidHeader(message)


def _is_sendable(value: Any) -> bool:
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    # As http.client can write it.
    return all(character <= "\xff" and character not in "\r\n" for character in text)


def urllib3_error(error: requests.exceptions.RequestException) -> HTTPError | None:
    """The error of urllib3 behind that of requests; ``None`` if a retry is useless."""
    if isinstance(error, requests.exceptions.SSLError):
        return None
    cause: object = error.args[0] if error.args else None
    if isinstance(cause, MaxRetryError):
        cause = cause.reason
    return cause if isinstance(cause, HTTPError) else None
