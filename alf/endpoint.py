"""How a token is asked for: one form POST, its retries, and what its answer means."""

from __future__ import annotations

import json
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

import requests
import urllib3
from urllib3.exceptions import HTTPError, InvalidHeader, MaxRetryError, ProtocolError
from urllib3.util.retry import Retry

from alf.adapters import forget_connections, retry_for_post
from alf.tokens import Token, TokenError

__all__ = ["Answer", "Clock", "TokenEndpoint"]

#: Seconds to connect, and seconds to wait for each part of the answer.
DEFAULT_TIMEOUT = 10.0

#: Bytes of an answer that are read; the largest tokens known are a hundredth of it.
_LARGEST_ANSWER = 1024 * 1024

#: Seconds after which an idle connection is not used again: by then something on the way may
#: have forgotten it, and not every router says so.
_IDLE = 60.0

#: A longer `Retry-After`, in seconds, is not waited for: its answer goes back to the caller.
_LONGEST_WAIT = 60.0


class Clock(Protocol):
    """What tells the time: the :mod:`time` module, or a stand-in that tests turn by hand."""

    def monotonic(self) -> float: ...

    def time(self) -> float: ...

    def sleep(self, seconds: float, /) -> None: ...


@dataclass(frozen=True)
class Answer:
    """A token, and the monotonic time at which the request that brought it was sent."""

    token: Token
    asked_at: float


class TokenEndpoint:
    """The token endpoint of one client (RFC 6749 §3.2).

    :param url: where it is.
    :param client_id: the client's identifier; here for messages only.
    :param client_auth: an auth object of requests, called for every try.
    :param params: the pairs of the form.
    :param headers: headers to send besides ``Accept: application/json``.
    :param retry: urllib3's ``Retry`` or a number of retries; ``None``: none.
    :param timeout: as in requests: seconds, a pair (connect, read), or ``None``.
    :param session: the session to ask with; ``None``: one of its own.
    :param clock: what tells the time.
    """

    def __init__(
        self,
        url: str,
        client_id: str,
        client_auth: Callable[[requests.PreparedRequest], requests.PreparedRequest],
        *,
        params: Sequence[tuple[str, str]],
        headers: Mapping[str, str] | None = None,
        retry: Retry | int | None = None,
        timeout: float | tuple[float | None, float | None] | None = DEFAULT_TIMEOUT,
        session: requests.Session | None = None,
        clock: Clock = time,
    ) -> None:
        self._url = url
        self._client_id = client_id
        self._client_auth = client_auth
        self._params = list(params)
        self._headers = {"Accept": "application/json", **(headers or {})}
        self._retry = Retry(0) if retry is None else retry_for_post(retry)
        self._timeout = check_timeout(timeout)
        self._session = session
        self._is_handed_in = session is not None
        self._followed: weakref.ref[requests.Session] | None = None
        self._clock = clock
        self._answered_at: float | None = None

    def __str__(self) -> str:
        # Userinfo and query may hold what must not be shown.
        parts = urlsplit(self._url)
        place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        return f"token endpoint {place} (client_id {self._client_id!r})"

    @property
    def patience(self) -> float:
        """Seconds that a request may take, roughly, its retries included."""
        timeout = self._timeout if isinstance(self._timeout, tuple) else (self._timeout,) * 2
        a_try = sum(DEFAULT_TIMEOUT if part is None else part for part in timeout)
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
        retry: Retry | None = self._retry
        while True:
            asked_at, issued_at = self._clock.monotonic(), self._clock.time()
            try:
                response = self._post_reconnecting()
            except requests.exceptions.RequestException as error:
                retry = self._next_try(retry, error=_urllib3_error(error))
                if retry is None:
                    raise
                continue
            if response.ok:
                return Answer(self._read_token(response, issued_at), asked_at)
            retry = self._next_try(retry, response=response)
            if retry is None:
                raise self._error(response)

    def close(self) -> None:
        """Close the connections, unless the session was handed in."""
        if self._session is not None and not self._is_handed_in:
            self._session.close()

    def forget_connections(self) -> None:
        """After a fork: leave the connections to the parent."""
        if self._session is not None:
            forget_connections(self._session)
        self._answered_at = None

    def _post_reconnecting(self) -> requests.Response:
        try:
            return self._post()
        except requests.exceptions.ConnectionError as error:
            # A kept-alive connection that the endpoint has closed meanwhile shows only in use.
            was_kept_alive = self._answered_at is not None
            self._answered_at = None
            if not was_kept_alive or not isinstance(_urllib3_error(error), ProtocolError):
                raise
        return self._post()

    def _post(self) -> requests.Response:
        session = self._ready_session()
        response = session.post(
            self._url,
            data=self._params,
            headers=self._headers,
            # Always one: without it requests would add an entry of .netrc.
            auth=self._client_auth,
            timeout=self._timeout,
            # RFC 9700 §4.12: credentials follow no redirect.
            allow_redirects=False,
            stream=True,
        )
        with response:
            _read_body(response)
        self._answered_at = self._clock.monotonic()
        # What the caller may get to see holds no secret.
        response.request = response.request.copy()
        response.request.headers.pop("Authorization", None)
        response.request.body = None
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
        if response.status_code >= 300:
            target = urlsplit(response.headers.get("Location", ""))
            place = f"{target.scheme}://{target.netloc.rpartition('@')[2]}{target.path}"
            message = (
                f"{self} answered {response.status_code}, a redirect to {place!r}, which is never "
                "followed: expected a 200 with a token"
            )
            raise TokenError(message, response)
        answer = _read_members(response)
        if isinstance(answer, str):
            message = (
                f"{self} answered {response.status_code} with {answer}: expected a JSON object "
                "with an access_token"
            )
            raise TokenError(message, response)
        if answer.get("error"):
            raise self._error(response)
        try:
            return Token.from_answer(answer, issued_at)
        except ValueError as reason:
            message = f"the answer of {self} ({response.status_code}) {reason}"
            raise TokenError(message, response) from None

    def _error(self, response: requests.Response) -> TokenError:
        answer = _read_members(response)
        error, description = (None, None) if isinstance(answer, str) else _find_error(answer)
        words = " ".join(filter(None, (str(response.status_code), error)))
        message = f"{self} answered {words}"
        if description:
            message += f" ({description})"
        return TokenError(message, response, error=error, error_description=description)


def check_url(url: object) -> str:
    """The token endpoint's URL, if it is one.

    :raises TypeError: it is missing, or no string.
    :raises ValueError: it is no absolute http or https URL, or has a fragment (RFC 6749 §3.2).
    """
    if not isinstance(url, str):
        message = f"token_endpoint must be a URL, got {url!r}"
        raise TypeError(message)
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.fragment
        _ = parts.port
    except ValueError:
        is_good = False
    if not is_good:
        message = f"token_endpoint must be an http or https URL without a fragment, got {url!r}"
        raise ValueError(message)
    return url


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
    if any(number and part <= 0 for part, number in zip(parts, is_number, strict=True)):
        message = f"token_timeout must be above 0 seconds, got {timeout!r}"
        raise ValueError(message)
    return timeout


def retry_after(response: requests.Response) -> float | None:
    """Seconds that the response asks to wait (RFC 9110 §10.2.3); ``None`` if it does not."""
    value = response.headers.get("Retry-After")
    if value is None:
        return None
    try:
        return Retry().parse_retry_after(value)
    except InvalidHeader:
        return None


def _read_body(response: requests.Response) -> None:
    """Read the body, up to the limit, to where ``response.content`` has it."""
    chunks: list[bytes] = []
    size = 0
    for chunk in response.iter_content(8192):
        chunks.append(chunk)
        size += len(chunk)
        if size > _LARGEST_ANSWER:
            # Not left to requests, which takes the body below for all there is.
            response.raw.close()
            break
    response._content = b"".join(chunks)[:_LARGEST_ANSWER]
    response._content_consumed = True


def _read_members(response: requests.Response) -> dict[str, Any] | str:
    """The members of the answer, or what the answer is instead.

    The content type is not asked for JSON: servers send it under any name. Some old ones send
    a form.
    """
    body = response.content
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media_type == "application/x-www-form-urlencoded":
        return dict(parse_qsl(body.decode("utf-8", "replace")))
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return f"{len(body)} bytes of {media_type or 'no content type'} that are not JSON"
    if not isinstance(answer, dict):
        return f"a JSON {type(answer).__name__}"
    return answer


#: Where servers put the error code and its description, beside RFC 6749 §5.2.
_ERROR_CODES = ("error", "errorCode", "ErrorCode", "error_type", "errorcode", "code", "name")
_ERROR_DESCRIPTIONS = (
    "error_description",
    "errorSummary",
    "error_message",
    "message",
    "Error",
    "faultstring",
    "title",
)
_ERROR_PARENTS = ("errors", "error", "fault", "response", "detail")


def _find_error(answer: Mapping[str, Any], depth: int = 3) -> tuple[str | None, str | None]:
    """The error code and its description, in any of the shapes that servers are known to use."""
    code = _first_text(answer, _ERROR_CODES)
    description = _first_text(answer, _ERROR_DESCRIPTIONS)
    for name in _ERROR_PARENTS if depth else ():
        nested = answer.get(name)
        if isinstance(nested, list) and nested:
            nested = nested[0]
        if isinstance(nested, Mapping):
            inner_code, inner_description = _find_error(nested, depth - 1)
            code, description = inner_code or code, inner_description or description
    return code, description


def _first_text(answer: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first of these members that is text, fit for a log line."""
    for name in names:
        value = answer.get(name)
        if isinstance(value, str) and value:
            return "".join(c if c.isprintable() else " " for c in value[:500])
    return None


def _urllib3_error(error: requests.exceptions.RequestException) -> HTTPError | None:
    """What urllib3 said before requests put it in other words; ``None`` where trying is no use."""
    if isinstance(error, requests.exceptions.SSLError):
        return None
    cause: object = error.args[0] if error.args else None
    if isinstance(cause, MaxRetryError):
        cause = cause.reason
    if isinstance(cause, OSError) and not isinstance(cause, HTTPError):
        return ProtocolError(str(cause), cause)
    return cause if isinstance(cause, HTTPError) else None
