"""Puts the parts together that request a token, keep it, refresh it and share it."""

from __future__ import annotations

import copy
import itertools
import logging
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import inf
from typing import Any

import requests
from requests.exceptions import RequestException
from urllib3.util.retry import Retry

from alf._background import run_in_background
from alf._backoff import Backoff, jittered
from alf._clocks import Clock
from alf._endpoint import Answer
from alf._failure_log import log_failure
from alf._forks import register_after_fork
from alf._lifetimes import CachedToken, Deadline, cache_token
from alf._options import Options, masked_options
from alf._redaction import Secret, masked, masked_url, shown
from alf._refusals import Refusal, Refusals
from alf._retries import retry_after
from alf._shared_refusals import SharedRefusals
from alf._single_flight import FlightOverdueError, Make, RecursiveFlightError, SingleFlight
from alf._token_storage import LockBusyError
from alf._urls import shown_url
from alf.client_auth import Credentials
from alf.events import Event, Reason, RenewalFailed, StorageFailed, TokenObtained, TokenRefused
from alf.tokens import Token

__all__ = ["Refusal", "TokenManager"]

logger = logging.getLogger("alf")

#: The pause after a failed refresh: this fraction of what is left of the token's life, and these
#: seconds at most.
_REFRESH_PAUSE_FRACTION = 1 / 4
_LONGEST_REFRESH_PAUSE = 30.0

#: While a token lives its ``Retry-After`` is obeyed for this fraction of what is left of it;
#: without one for these seconds at most.
_RETRY_AFTER_FRACTION = 1 / 2
_LONGEST_RETRY_AFTER = 60.0

#: Failed token requests in a row that are not spaced out: each is its caller's answer.
_FREE_FAILURES = 2

#: In the expiry margin a caller waits for this fraction of what is left of the life at most.
_MARGIN_WAIT_FRACTION = 1 / 4

#: Another process refreshes the token: the next look comes after this fraction of what is left.
_NEXT_LOOK_FRACTION = 1 / 2

#: A stored token issued this many seconds in the future was stored by a wrong clock.
_CLOCK_SKEW = 60.0

#: ``CachedToken.sequence`` of a token from a storage: no refusal of ours came before it.
_NOT_REQUESTED = -1

#: Seconds after which storing a token is tried again, should the try be cut off.
_STORE_AGAIN = 60.0

#: Seconds that a flight may take besides its token request, for the storage.
_STORAGE_TIME = 5.0

#: Orders token requests and refusals in this process; clocks may show both at the same time.
_order = itertools.count()


class TokenManager:
    """Always has a good token: requests it, keeps it, refreshes it, shares it.

    It brings the token to whatever sends the requests: ``client.manager``, or one of its own.

    >>> manager = TokenManager("https://id.example.com/token", "client-id", "secret")
    >>> headers = {"Authorization": manager.token().authorization}

    :param options: those of :class:`alf.Client` that are about tokens.
    :param clock: what tells the time; for tests.
    :raises TypeError: an option is missing, unknown or of the wrong type.
    :raises ValueError: an option does not have a usable value.

    All methods may be called by any number of threads at once.
    """

    def __init__(
        self,
        token_endpoint: str | None = None,
        client_id: str | None = None,
        client_secret: str | Callable[[], str] | None = None,
        token_storage: Any = None,
        token_retries: Retry | int | None = None,
        token_request_params: dict[str, Any] | None = None,
        *,
        clock: Clock = time,
        **options: Any,
    ) -> None:
        # Error reports show local variables, but not these.
        token_endpoint, client_secret = masked_url(token_endpoint), masked(client_secret)
        options.update(masked_options(options))
        given = Options(
            token_endpoint,
            client_id,
            client_secret,
            token_storage,
            token_retries,
            token_request_params,
            **options,
        )
        self._clock = clock
        self._on_event = given.on_event
        self._margins = given.margins
        self._is_background = given.token_refresh == "background"
        self._endpoint = given.make_endpoint(clock)
        self._storage = given.make_storage(
            self._endpoint, partial(self._tell, StorageFailed), clock
        )
        self._shared_refusals = (
            None if self._storage is None else SharedRefusals(self._storage, self._endpoint)
        )
        self._flight: SingleFlight[CachedToken] = SingleFlight(
            self._merge,
            lambda: self._endpoint.max_duration + (_STORAGE_TIME if self._storage else 1.0),
            RequestException,
            _fresh_copy,
        )
        self._refusals = Refusals(
            self,
            clock,
            settle_time=given.token_settle_time,
            endpoint=self._endpoint,
            tell=self._tell_refused,
        )
        self._failures = Backoff(clock, free=_FREE_FAILURES)
        self._last_error: Exception | None = None
        self._refresh_paused_until = -inf
        #: The token before the current one, which an API may know while it does not know the new.
        self._previous: CachedToken | None = None
        #: The last access tokens that were refused, revoked or reset: not taken from anywhere.
        self._discarded: deque[str] = deque(maxlen=8)
        #: What to tell and to log once the flight has landed: who is told may use the Client.
        self._notices: deque[Callable[[], object]] = deque()
        register_after_fork(self)

    # -- the current token -----------------------------------------------------------------

    def peek(self, *, is_fresh: bool = False) -> Token | None:
        """The current token, from memory; ``None`` if there is no token that is alive.

        :param is_fresh: only a token that is not due for a refresh yet.
        """
        cached = self._flight.current
        if cached is None:
            return None
        deadline = cached.due_at if is_fresh else cached.dies_at
        return None if deadline.has_passed(self._clock) else cached.token

    def token(self) -> Token:
        """The current token; a new one is requested if there is no good one.

        :raises TokenError: the endpoint did not return a token.
        :raises requests.exceptions.RequestException: the endpoint could not be reached.
        """
        cached = self._flight.current
        if cached is None:
            return self._obtain(self._is_good, "missing").token
        clock, due_at = self._clock, cached.due_at
        if clock.monotonic() < due_at.monotonic and clock.time() < due_at.wall:
            return cached.token
        if cached.is_alive(clock):
            self._refresh(cached)
            # Replaced by now, if this caller has done it or waited for it.
            cached = self._flight.current or cached
            if cached.is_alive(clock):
                return cached.token
        return self._obtain(self._is_good, "expired").token

    def replace(self, refused: Token, origin: str = "") -> Token | None:
        """Another token than one that an API has refused.

        A newer one that is there already, or else one that is requested now. ``None``: there is
        no other, or this origin has refused too many.

        :param refused: the token that was refused.
        :param origin: the API's scheme, host and port.
        :raises TokenError: the token endpoint did not return a token.
        :raises requests.exceptions.RequestException: the token endpoint could not be reached.
        """
        return self.refusal(origin).replacement(refused)

    def renew(self) -> Token:
        """A token that is requested now, whatever the current one; raises as :meth:`token`."""
        since = self.next_sequence()
        return self._obtain(lambda cached, _landed: cached.sequence > since, "forced").token

    def revoke(self) -> None:
        """Have the server revoke the current token, and forget it, here and in the storage.

        Without a token nothing is done.

        :raises ValueError: the revocation endpoint is not known.
        :raises TokenError: the server did not revoke the token.
        :raises requests.exceptions.RequestException: the server could not be reached.
        """
        cached = self._flight.current
        token = self._known_token(cached)
        if token is None:
            return
        self._endpoint.revoke(token.access_token)
        self._discarded.append(Secret(token.access_token))
        self._flight.replace(cached, None)
        if self._storage is not None:
            self._storage.remove(token)

    def refusal(self, origin: str) -> Refusal:
        """What to do about a token that an API has just refused.

        :param origin: the API's scheme, host and port.
        """
        return self._refusals.start(origin)

    # -- as in alf 0.7 ---------------------------------------------------------------------

    def get_token(self) -> str:
        """The current access token as a string; raises as :meth:`token`."""
        return self.token().access_token

    def reset_token(self) -> None:
        """Have the next call get another token than the current one."""
        cached = self._flight.current
        token = self._known_token(cached)
        if token is not None:
            self._discarded.append(Secret(token.access_token))
        self._flight.replace(cached, None)

    # -- the connections to the endpoint ---------------------------------------------------

    def follow(self, session: requests.Session) -> None:
        """From now on use this session's ``verify``, ``cert``, ``proxies`` and ``trust_env``."""
        self._endpoint.follow(session)

    def share_connections(self, other: TokenManager) -> None:
        """Use the token connection and the metadata of another manager of the same client."""
        self._endpoint.share(other._endpoint)

    def close(self) -> None:
        """Close the connections to the token endpoint; a later call opens new ones."""
        self._endpoint.close()

    def _after_fork(self) -> None:
        self._endpoint.forget_connections()

    # -- what refusals need ----------------------------------------------------------------

    def next_sequence(self) -> int:
        """The place of something that happens now in the order of requests and refusals."""
        return next(_order)

    def known(self, refused: set[str]) -> CachedToken | None:
        """A good token in memory that is not one of the refused ones."""
        current, previous = self._flight.current, self._previous
        self._discarded.extend(refused.difference(self._discarded))
        for cached in (current, previous):
            if (
                cached is not None
                and cached.is_good(self._clock)
                and cached.token.access_token not in refused
                and (cached is current or cached.token.access_token not in self._discarded)
            ):
                return cached
        return None

    def fetch(self, wanted: Callable[[CachedToken, bool], bool]) -> CachedToken:
        """A token that is wanted after a refusal; raises as :meth:`token`."""
        return self._obtain(wanted, "refused")

    # -- one flight ------------------------------------------------------------------------

    def _is_good(self, cached: CachedToken, has_landed: bool) -> bool:
        return has_landed or cached.is_good(self._clock)

    def _obtain(self, wanted: Callable[[CachedToken, bool], bool], reason: Reason) -> CachedToken:
        """What is wanted: from memory, from the flight under way, or by a flight of one's own."""
        try:
            return self._flight.obtain(wanted, self._make(wanted, reason))
        except RecursiveFlightError:
            message = f"requesting a token from {self._endpoint} needs a token of the same client"
            raise RuntimeError(message) from None
        except FlightOverdueError:
            message = f"{self._endpoint} did not answer in time"
            raise requests.exceptions.ReadTimeout(message) from None
        finally:
            self._flush_notices()

    def _make(
        self, wanted: Callable[[CachedToken, bool], bool], reason: Reason
    ) -> Make[CachedToken]:
        """How a flight gets its token: from the storage, if that will do, or from the endpoint."""

        def make(land: Callable[[CachedToken], None]) -> CachedToken:
            storage = self._storage
            if storage is None:
                self._raise_if_paused(reason)
                return self._request(reason)
            stored = storage.load()
            if stored is None or not is_wanted(stored):
                self._raise_if_paused(reason)
                # While a token lives nobody waits for another process.
                with storage.exclusive(is_wanted, wait=reason != "expiring") as stored:
                    if stored is None:
                        cached = self._request(reason)
                        land(cached)
                        self._store(cached)
                        return cached
            logger.debug("%s: token taken from storage", self._endpoint)
            return self._cache(stored)

        def is_wanted(token: Token) -> bool:
            return (
                token.access_token not in self._discarded
                and token.token_type == self._endpoint.token_type
                and token.issued_at <= self._clock.time() + _CLOCK_SKEW
                and wanted(self._cache(token), False)
            )

        return make

    def _request(self, reason: Reason) -> CachedToken:
        sequence = self.next_sequence()
        started_at = self._clock.monotonic()
        try:
            answer = self._send_request(is_forced=reason == "forced")
        except Exception as error:
            if isinstance(error, RequestException) or _is_of_secret(error):
                self._note_failure(error, reason)
            duration = self._clock.monotonic() - started_at
            self._tell(RenewalFailed, reason=reason, duration=duration, error=error)
            if reason != "expiring":
                # Otherwise the token still serves, and a warning of its own says so.
                self._notices.append(partial(log_failure, error))
            raise
        self._failures.succeed()
        self._refresh_paused_until = -inf
        token = answer.token
        duration = self._clock.monotonic() - started_at
        self._tell(
            TokenObtained,
            reason=reason,
            duration=duration,
            lifetime=token.lifetime,
            scope=token.scope,
        )
        self._log(
            logging.INFO,
            "%s: token obtained, lifetime %s s, scope %r",
            self._endpoint,
            "unknown" if token.lifetime is None else round(token.lifetime),
            None if token.scope is None else shown(token.scope),
        )
        return self._cache(token, sequence, answer.asked_at)

    def _send_request(self, *, is_forced: bool) -> Answer:
        if self._shared_refusals is None:
            return self._endpoint.request()
        return self._shared_refusals.request(is_forced=is_forced)

    def _cache(
        self, token: Token, sequence: int = _NOT_REQUESTED, requested_at: float | None = None
    ) -> CachedToken:
        return cache_token(
            token,
            self._clock,
            self._flight.current,
            sequence=sequence,
            requested_at=requested_at,
            margins=self._margins,
        )

    def _merge(
        self, current: CachedToken | None, landed: CachedToken, is_latest: bool
    ) -> CachedToken | None:
        """The next current token, when a flight lands."""
        if current is not None and not is_latest and current.sequence >= landed.sequence:
            return current
        if landed.is_good(self._clock):
            if current is not None and current.token.access_token != landed.token.access_token:
                self._previous = current
            return landed
        # It is for the calls at hand only: a refresh gains nothing here.
        return None if current is None else current.without_refresh()

    def _store(self, cached: CachedToken) -> None:
        """Store the token; if that fails, a caller tries again after a while."""
        assert self._storage is not None
        retry_at = self._storage.save(cached.token)
        store_at = None if retry_at is None else Deadline(retry_at, inf)
        self._flight.replace(cached, replace(cached, store_at=store_at))

    def _store_again(self, cached: CachedToken) -> None:
        # Whoever puts it off does it.
        later = Deadline(self._clock.monotonic() + _STORE_AGAIN, inf)
        mine = replace(cached, store_at=later)
        if self._flight.replace(cached, mine):
            job = partial(self._store, mine)
            if not (self._is_background and run_in_background(job)):
                job()
            self._flush_notices()

    def _known_token(self, cached: CachedToken | None) -> Token | None:
        """The token in memory, or else the one in storage, whether they are good or not."""
        if cached is not None:
            return cached.token
        return None if self._storage is None else self._storage.load()

    # -- refresh ---------------------------------------------------------------------------

    def _refresh(self, cached: CachedToken) -> None:
        """Have a living token replaced, or stored, unless that is under way or was just tried."""
        clock = self._clock
        is_expired = not cached.is_good(clock)
        if not cached.refresh_at.has_passed(clock):
            self._store_again(cached)
            return
        if clock.monotonic() < self._refresh_paused_until:
            return
        seconds = cached.dies_at.left(clock) * _MARGIN_WAIT_FRACTION
        flight = self._start(cached, self._make_refresh(cached))
        if is_expired and flight is not None:
            self._flight.wait(flight, seconds)

    def _start(self, cached: CachedToken, make: Make[CachedToken]) -> Any:
        """Start a flight that nobody needs: if it fails, the token in use still serves."""

        def run(lead: Callable[[], object]) -> None:
            def job() -> None:
                try:
                    lead()
                except LockBusyError:
                    # Another process is at it: its token will be there at the next look.
                    left = cached.dies_at.left(self._clock) * _NEXT_LOOK_FRACTION
                    look_at = Deadline(self._clock.monotonic(), self._clock.time()) + jittered(left)
                    self._flight.replace(cached, replace(cached, refresh_at=look_at))
                except Exception as error:
                    if not self._note_unrenewed(error):
                        raise
                finally:
                    self._flush_notices()

            if not (self._is_background and run_in_background(job)):
                job()

        return self._flight.start(cached, make, run)

    def _make_refresh(self, cached: CachedToken) -> Make[CachedToken]:
        def wanted(other: CachedToken, _landed: bool) -> bool:
            # One that was requested since is all that a request brings, though it gain no life.
            is_newer = other.token.issued_at > cached.token.issued_at
            return (is_newer or other.outlives(cached)) and other.is_good(self._clock)

        return self._make(wanted, "expiring")

    def _note_unrenewed(self, error: Exception) -> bool:
        """Log why the token was not renewed; false if the error is meant for this very caller."""
        is_expected = isinstance(error, RequestException)
        if not is_expected and not self._is_background and not _is_of_secret(error):
            return False  # a time limit of the caller's, for example
        self._log(
            logging.WARNING,
            "the token was not renewed, and is used until it expires: %s",
            error,
            exc_info=None if is_expected else error,
        )
        return True

    # -- failures --------------------------------------------------------------------------

    def _note_failure(self, error: Exception, reason: Reason) -> None:
        response = getattr(error, "response", None)
        asked = (retry_after(response) if response is not None else None) or 0.0
        cached = self._flight.current
        left = 0.0 if cached is None else cached.dies_at.left(self._clock)
        if left > 0:
            pause = jittered(min(left * _REFRESH_PAUSE_FRACTION, _LONGEST_REFRESH_PAUSE))
            pause = max(pause, min(asked, left * _RETRY_AFTER_FRACTION))
            self._refresh_paused_until = self._clock.monotonic() + pause
        if reason != "expiring" and isinstance(error, RequestException):
            # Only such an error may be raised again, to others.
            self._last_error = _fresh_copy(error)
            self._failures.fail(min(asked, _LONGEST_RETRY_AFTER))

    def _raise_if_paused(self, reason: Reason) -> None:
        if reason != "expiring" and self._failures.is_paused and self._last_error is not None:
            raise _fresh_copy(self._last_error)

    # -- events and log lines --------------------------------------------------------------

    def _tell(self, event: type[Event], **details: Any) -> None:
        if self._on_event is not None:
            place = shown_url(self._endpoint.url)
            happened = event(place, self._endpoint.client_id, **details)
            self._notices.append(partial(self._call_back, self._on_event, happened))

    def _tell_refused(self, **details: Any) -> None:
        self._tell(TokenRefused, **details)
        self._flush_notices()

    def _call_back(self, on_event: Callable[[Event], object], event: Event) -> None:
        try:
            on_event(event)
        except Exception:
            logger.warning("on_event failed at a %s", type(event).__name__, exc_info=True)

    def _log(self, level: int, message: str, *args: object, exc_info: Any = None) -> None:
        self._notices.append(partial(logger.log, level, message, *args, exc_info=exc_info))

    def _flush_notices(self) -> None:
        while self._notices:
            try:
                notice = self._notices.popleft()
            except IndexError:  # another thread was faster
                return
            notice()


def _is_of_secret(error: BaseException) -> bool:
    """Whether the user's secret callable raised it: that is a failing endpoint, too."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code is Credentials.secret.__code__ for frame, _ in frames)


def _fresh_copy(error: Exception) -> Exception:
    """The error for one more caller: a traceback and a response of its own."""
    try:
        fresh = copy.copy(error)
    except Exception:  # an exception class of somebody else's that cannot be copied
        return error
    response = getattr(fresh, "response", None)
    if isinstance(response, requests.Response):
        fresh.response = copy.copy(response)  # type: ignore[attr-defined]
    return fresh.with_traceback(None)
