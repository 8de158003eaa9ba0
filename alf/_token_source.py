"""Where a flight gets its token: from the storage if it has a good one, else the endpoint."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from alf._clocks import Clock
from alf._endpoint import Answer, TokenEndpoint
from alf._failure_log import log_failure
from alf._failures import Failures, is_of_endpoint
from alf._lifetimes import CachedToken, Deadline, Margins, cache_token
from alf._notices import Notices
from alf._redaction import Secret, shown
from alf._single_flight import Make, SingleFlight, Wanted
from alf.events import Reason, RenewalFailed, Source, TokenObtained
from alf.tokens import Token

if TYPE_CHECKING:
    from alf._shared_refusals import SharedRefusals
    from alf._token_storage import TokenStorage

__all__ = ["TokenSource", "next_sequence"]

#: A stored token that was issued more than this many seconds in the future is not used: the clock
#: of the process that stored it was wrong.
_CLOCK_SKEW = 60.0

#: ``CachedToken.sequence`` of a token from a storage: older than any refusal in this process.
_NOT_REQUESTED = -1

#: At most this many discarded tokens are remembered.
_MOST_DISCARDED = 8

_sequence = itertools.count()


def next_sequence() -> int:
    """A number that puts token requests and refusals in order.

    Two of them may happen at the same reading of the clock.
    """
    return next(_sequence)


class TokenSource:
    """The storage and the endpoint of one token.

    :param endpoint: the token endpoint.
    :param storage: the token's entry in a storage; ``None`` if the token is not shared.
    :param flight: the flights of the token, and the current one.
    :param margins: the user's margins for refreshing.
    :param notices: the events and log lines of a flight.
    :param clock: the clock.
    """

    __slots__ = (
        "_clock",
        "_discarded",
        "_endpoint",
        "_flight",
        "_margins",
        "_notices",
        "_shared_refusals",
        "_storage",
        "failures",
    )

    def __init__(
        self,
        endpoint: TokenEndpoint,
        storage: TokenStorage | None,
        flight: SingleFlight[CachedToken],
        margins: Margins,
        notices: Notices,
        clock: Clock,
    ) -> None:
        self._endpoint = endpoint
        self._storage = storage
        self._flight = flight
        self._margins = margins
        self._notices = notices
        self._clock = clock
        self._shared_refusals: SharedRefusals | None = None
        if storage is not None:
            from alf._shared_refusals import SharedRefusals

            self._shared_refusals = SharedRefusals(storage, endpoint)
        self.failures = Failures(clock)
        #: The last access tokens that were refused, revoked or reset. They are not used again.
        self._discarded: list[str] = []

    def make(self, wanted: Wanted[CachedToken], reason: Reason) -> Make[CachedToken]:
        """The function with which a flight gets a wanted token."""

        def make(land: Callable[[CachedToken], None]) -> CachedToken:
            storage, started_at = self._storage, self._clock.monotonic()
            if storage is None:
                self._check_pause(reason)
                return self._request(reason)
            stored = storage.load()
            if stored is None or not is_wanted(stored):
                self._check_pause(reason)
                # While the token is alive no caller waits for another process.
                with storage.exclusive(is_wanted, wait=reason != "expiring") as stored:
                    if stored is None:
                        cached = self._request(reason)
                        land(cached)
                        self.store(cached)
                        return cached
            self._tell_obtained(stored, reason, started_at, "storage")
            self._notices.log(logging.DEBUG, "%s: token taken from storage", self._endpoint)
            return self._cache(stored)

        def is_wanted(token: Token) -> bool:
            return (
                not self.is_discarded(token)
                and token.token_type == self._endpoint.token_type
                and token.issued_at <= self._clock.time() + _CLOCK_SKEW
                and wanted(self._cache(token), False)
            )

        return make

    def store(self, cached: CachedToken) -> None:
        """Store the token. If that fails, the current token notes when to try again."""
        assert self._storage is not None
        retry_at = self._storage.save(cached.token)
        store_at = None if retry_at is None else Deadline(retry_at, inf)
        self._flight.replace(cached, replace(cached, store_at=store_at))

    def stored(self) -> Token | None:
        """The token in the storage, good or not."""
        return None if self._storage is None else self._storage.load()

    def revoke(self, token: Token) -> None:
        """Have the server revoke the token, and remove it from the storage."""
        self._endpoint.revoke(token.access_token)
        self.discard(token.access_token)
        if self._storage is not None:
            self._storage.remove(token)

    def discard(self, access_token: str) -> None:
        """Do not use this token again."""
        if access_token not in self._discarded:
            self._discarded.append(Secret(access_token))
            del self._discarded[:-_MOST_DISCARDED]

    def is_discarded(self, token: Token) -> bool:
        """Whether the token was recently refused, revoked or reset."""
        return token.access_token in self._discarded

    def _check_pause(self, reason: Reason) -> None:
        if reason != "expiring":
            self.failures.raise_if_paused()

    def _request(self, reason: Reason) -> CachedToken:
        sequence = next_sequence()
        started_at = self._clock.monotonic()
        try:
            answer = self._send_request(is_forced=reason == "forced")
        except Exception as error:
            if is_of_endpoint(error):
                current = self._flight.current
                left = 0.0 if current is None else current.dies_at.left(self._clock)
                self.failures.note(error, left, is_refresh=reason == "expiring")
            duration = self._clock.monotonic() - started_at
            self._notices.tell(RenewalFailed, reason=reason, duration=duration, error=error)
            if reason != "expiring":
                # A failed refresh leaves a good token; the refresher logs its own warning.
                self._notices.add(partial(log_failure, error))
            raise
        self.failures.succeed()
        token = answer.token
        self._tell_obtained(token, reason, started_at, "endpoint")
        self._notices.log(
            logging.INFO,
            "%s: token obtained, lifetime %s s, scope %r",
            self._endpoint,
            "unknown" if token.lifetime is None else round(token.lifetime),
            None if token.scope is None else shown(token.scope),
        )
        return self._cache(token, sequence, answer.asked_at)

    def _tell_obtained(
        self, token: Token, reason: Reason, started_at: float, source: Source
    ) -> None:
        self._notices.tell(
            TokenObtained,
            reason=reason,
            duration=self._clock.monotonic() - started_at,
            lifetime=token.lifetime,
            scope=token.scope,
            source=source,
        )

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
