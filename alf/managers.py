"""Combines the parts that request, keep, refresh and share a token."""

from __future__ import annotations

import time
from collections.abc import Callable, MutableMapping
from functools import partial
from typing import Any

import requests
from requests.exceptions import RequestException
from urllib3.util.retry import Retry

from alf._clocks import Clock
from alf._failures import fresh_copy
from alf._forks import register_after_fork
from alf._lifetimes import CachedToken
from alf._notices import Notices
from alf._options import Options, masked_options
from alf._redaction import masked, masked_url
from alf._refresher import Refresher
from alf._refusals import Refusal, Refusals
from alf._single_flight import FlightOverdueError, RecursiveFlightError, SingleFlight, Wanted
from alf._token_source import TokenSource, next_sequence
from alf._types import Storage
from alf.events import Reason, StorageFailed, TokenRefused
from alf.tokens import Token

__all__ = ["Refusal", "TokenManager"]

#: Seconds that a flight may take beyond its token request, with a storage and without one.
_STORAGE_TIME = 5.0
_SPARE_TIME = 1.0


class TokenManager:
    """Always has a good token: requests it, keeps it, refreshes it, shares it.

    Use it with HTTP clients other than requests: take ``client.manager``, or make one.

    >>> manager = TokenManager("https://id.example.com/token", "client-id", "secret")
    >>> headers = {"Authorization": manager.token().authorization}

    :param options: the options of :class:`alf.Client` that concern tokens.
    :param clock: tells the time; tests replace it.
    :raises TypeError: an option is missing, unknown or of the wrong type.
    :raises ValueError: an option does not have a usable value.

    All methods are thread-safe.
    """

    def __init__(
        self,
        token_endpoint: str | None = None,
        client_id: str | None = None,
        client_secret: str | Callable[[], str] | None = None,
        token_storage: Storage | MutableMapping[str, Any] | None = None,
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
        self._endpoint = endpoint = given.make_endpoint(clock)
        self._notices = Notices(given.on_event, endpoint.url, endpoint.client_id)
        storage = given.make_storage(endpoint, partial(self._notices.tell, StorageFailed), clock)
        spare_time = _SPARE_TIME if storage is None else _STORAGE_TIME
        self._flight: SingleFlight[CachedToken] = SingleFlight(
            self._merge,
            lambda: endpoint.max_duration + spare_time,
            RequestException,
            fresh_copy,
        )
        self._source = TokenSource(
            endpoint, storage, self._flight, given.margins, self._notices, clock
        )
        self._refresher = Refresher(
            self._source,
            self._flight,
            self._notices,
            clock,
            is_background=given.token_refresh == "background",
        )
        self._settle_time = given.token_settle_time
        #: The token before the current one. An API may know it, and not know the new one yet.
        self._previous: CachedToken | None = None
        register_after_fork(self)

    # -- the current token -----------------------------------------------------------------

    def peek(self, *, is_fresh: bool = False) -> Token | None:
        """The current token, from memory; ``None`` without a live token.

        :param is_fresh: return the token only if it is not due for a refresh yet.
        """
        cached = self._flight.current
        if cached is None:
            return None
        deadline = cached.due_at if is_fresh else cached.dies_at
        return None if deadline.has_passed(self._clock) else cached.token

    def token(self) -> Token:
        """The current token. Requests a new one if there is no good one.

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
            self._refresher.refresh(cached)
            # The refresh has replaced it if this caller did the refresh or waited for it.
            cached = self._flight.current or cached
            if cached.is_alive(clock):
                return cached.token
        return self._obtain(self._is_good, "expired").token

    def replace(self, refused: Token, origin: str = "") -> Token | None:
        """A token to use instead of one that an API has refused.

        Returns a newer token if there is one already, and requests one otherwise. Returns ``None``
        if there is no other token, or if this origin has refused too many.

        :param refused: the token that was refused.
        :param origin: the API's scheme, host and port.
        :raises TokenError: the token endpoint did not return a token.
        :raises requests.exceptions.RequestException: the token endpoint could not be reached.
        """
        return self.refusal(origin).replacement(refused)

    def renew(self) -> Token:
        """Request a new token, even if the current one is good; raises as :meth:`token`."""
        since = next_sequence()
        return self._obtain(lambda cached, _landed: cached.sequence > since, "forced").token

    def revoke(self) -> None:
        """Have the server revoke the current token; remove it from memory and from the storage.

        Does nothing without a token.

        :raises ValueError: the revocation endpoint is not known.
        :raises TokenError: the server did not revoke the token.
        :raises requests.exceptions.RequestException: the server could not be reached.
        """
        cached = self._flight.current
        token = self._source.stored() if cached is None else cached.token
        if token is not None:
            self._source.revoke(token)
            self._forget(token)

    def refusal(self, origin: str) -> Refusal:
        """Decides what to do about a token that an API has just refused.

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
        token = self._source.stored() if cached is None else cached.token
        if token is not None:
            self._source.discard(token.access_token)
            self._forget(token)

    # -- the connections to the endpoint ---------------------------------------------------

    def follow(self, session: requests.Session) -> None:
        """Use this session's ``verify``, ``cert``, ``proxies`` and ``trust_env`` from now on."""
        self._endpoint.follow(session)

    def share_connections(self, other: TokenManager) -> None:
        """Use the token connection and the metadata of another manager of the same client."""
        self._endpoint.share(other._endpoint)

    def close(self) -> None:
        """Close the connections to the token endpoint; a later call opens new ones."""
        self._endpoint.close()

    def _after_fork(self) -> None:
        self._endpoint.forget_connections()

    # -- used by refusals -----------------------------------------------------------------

    def known(self, refused: set[str]) -> CachedToken | None:
        """A good token in memory that is not one of the refused ones."""
        for access_token in refused:
            self._source.discard(access_token)
        current, previous = self._flight.current, self._previous
        if current is not None and current.token.access_token not in refused:
            return current if current.is_good(self._clock) else None
        if previous is None or self._source.is_discarded(previous.token):
            return None
        return previous if previous.is_good(self._clock) else None

    @property
    def _refusals(self) -> Refusals:
        """What is known of refusals; most managers never see one."""
        refusals: Refusals | None = self.__dict__.get("_made_refusals")
        if refusals is None:
            refusals = Refusals(
                self,
                self._clock,
                settle_time=self._settle_time,
                endpoint=self._endpoint,
                tell=self._tell_refused,
            )
            # Another thread may have been first.
            first: Refusals = self.__dict__.setdefault("_made_refusals", refusals)
            return first
        return refusals

    def fetch(self, wanted: Wanted[CachedToken]) -> CachedToken:
        """A token that is wanted after a refusal; raises as :meth:`token`."""
        return self._obtain(wanted, "refused")

    def _tell_refused(self, **details: Any) -> None:
        self._notices.tell(TokenRefused, **details)
        self._notices.flush()

    def _forget(self, token: Token) -> None:
        # The same token has a new entry once it has been stored, or could not be refreshed.
        cached = self._flight.current
        while cached is not None and cached.token.access_token == token.access_token:
            self._flight.replace(cached, None)
            cached = self._flight.current

    # -- one flight ------------------------------------------------------------------------

    def _is_good(self, cached: CachedToken, has_landed: bool) -> bool:
        return has_landed or cached.is_good(self._clock)

    def _obtain(self, wanted: Wanted[CachedToken], reason: Reason) -> CachedToken:
        """A wanted token: from memory, from the flight under way, or by leading a flight."""
        try:
            return self._flight.obtain(wanted, self._source.make(wanted, reason))
        except RecursiveFlightError:
            message = f"requesting a token from {self._endpoint} needs a token of the same client"
            raise RuntimeError(message) from None
        except FlightOverdueError:
            message = f"{self._endpoint} did not answer in time"
            raise requests.exceptions.ReadTimeout(message) from None
        finally:
            self._notices.flush()

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
        # This token is for the waiting calls only; refreshing the current one gains nothing.
        return None if current is None else current.without_refresh()
