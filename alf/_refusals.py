"""Which token to try after a refusal; origins that refuse every token, or some at random."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Protocol

from alf._clocks import Clock
from alf._forks import register_after_fork
from alf._lifetimes import CachedToken
from alf._redaction import Secret
from alf._token_source import next_sequence
from alf.tokens import Token

__all__ = ["Refusal", "Refusals"]

logger = logging.getLogger("alf")

#: The longest pause, in seconds, between token requests for an origin that refuses new tokens.
_LONGEST_GUARD = 60.0

#: An origin without a refusal for this many seconds is forgotten: the next one is a new outage.
_MEMORY = 120.0

#: The budget of token requests that one origin's refusals of accepted tokens may cause: a burst,
#: and one more per this many seconds. A bad node behind a load balancer refuses good tokens.
_BURST = 4.0
_REFILL = 10.0


class _Tokens(Protocol):
    """What refusals need of the manager."""

    def known(self, refused: set[str]) -> CachedToken | None:
        """A good token in memory that is not one of the refused ones."""
        ...

    def fetch(self, wanted: Callable[[CachedToken, bool], bool]) -> CachedToken:
        """A wanted token, from memory, the storage or the endpoint."""
        ...


@dataclass(eq=False, repr=False)
class _Origin:
    """What is known about an origin that has recently refused a token."""

    refused_at: float
    budget: float = _BURST
    budget_at: float = -inf
    #: The token that was requested last because of a refusal here.
    fresh: str | None = None
    requested_at: float = -inf
    sequence: int = -1
    #: How many new tokens were refused in a row, and whether the last one was.
    refusals: int = 0
    is_fresh_refused: bool = False
    #: The last replacement that this origin accepted, and when.
    accepted: str | None = None
    accepted_at: float = -inf
    is_warned: bool = False

    @property
    def paused_until(self) -> float:
        """Until then a refusal here causes no token request."""
        if not self.is_fresh_refused:
            return -inf
        return self.requested_at + min(_LONGEST_GUARD, 2.0 ** (self.refusals - 1))


class Refusals:
    """The origins that refuse tokens.

    :param tokens: where to find another token.
    :param clock: the clock.
    :param settle_time: seconds that an API may take to know a new token.
    :param endpoint: names the token endpoint in log lines.
    :param tell: called for each refusal with ``origin``, ``age`` and ``is_fresh``.
    """

    def __init__(
        self,
        tokens: _Tokens,
        clock: Clock,
        *,
        settle_time: float,
        endpoint: object,
        tell: Callable[..., None],
    ) -> None:
        self.tokens = tokens
        self.clock = clock
        self.settle_time = settle_time
        self.endpoint = endpoint
        self.tell = tell
        self._origins: dict[str, _Origin] = {}
        # Re-entrant, because a signal handler may interrupt this very code.
        self._lock = threading.RLock()
        register_after_fork(self)

    def start(self, origin: str) -> Refusal:
        """A call was refused by this origin."""
        return Refusal(self, origin)

    def note_refused(self, origin: str, token: Token, *, is_retry: bool) -> None:
        """The origin has refused the token; ``is_retry``: not this call's first refusal."""
        now = self.clock.monotonic()
        with self._lock:
            for other, known in list(self._origins.items()):
                if not 0 <= now - known.refused_at <= _MEMORY:
                    del self._origins[other]
            state = self._origin(origin)
            state.refused_at = now
            is_new_here = token.access_token == state.fresh != state.accepted
            if is_new_here and not state.is_fresh_refused and not is_retry:
                state.is_fresh_refused = True
                state.refusals += 1

    def note_requested(self, origin: str, cached: CachedToken, *, is_refused: bool) -> None:
        """A refusal has caused a token request. ``is_refused``: it returned the refused token."""
        now = self.clock.monotonic()
        with self._lock:
            state = self._origin(origin)
            if cached.sequence <= state.sequence:
                return  # another call of the same flight has recorded it
            self._refill(state)
            if not is_refused and self._counts(state):
                state.budget -= 1
            state.sequence = cached.sequence
            state.fresh, state.requested_at = cached.token.access_token, now
            state.is_fresh_refused = is_refused
            state.refusals += is_refused

    def note_accepted(self, origin: str, token: Token) -> None:
        """The origin has accepted a replacement."""
        with self._lock:
            state = self._origins.get(origin)
            if state is None:
                return
            state.accepted, state.accepted_at = token.access_token, self.clock.monotonic()
            if token.access_token == state.fresh:
                state.is_fresh_refused, state.refusals = False, 0

    def may_request(self, origin: str) -> bool:
        """Whether a new token may be requested because of a refusal by this origin."""
        with self._lock:
            state = self._origin(origin)
            self._refill(state)
            # A time before the request comes from another clock: a test had frozen time.
            is_paused = state.requested_at <= self.clock.monotonic() < state.paused_until
            return not is_paused and (state.budget >= 1 or not self._counts(state))

    def is_flapping(self, origin: str) -> bool:
        """Whether the origin recently accepted a replacement: it may accept this token, too."""
        with self._lock:
            return self._is_flapping(self._origin(origin))

    def warn(self, origin: str, message: str) -> None:
        """Log one WARNING per outage; the rest is logged at DEBUG."""
        with self._lock:
            state = self._origin(origin)
            is_warned, state.is_warned = state.is_warned, True
        level = logging.DEBUG if is_warned else logging.WARNING
        logger.log(level, message, origin, self.endpoint)

    def _origin(self, origin: str) -> _Origin:
        """What is known of the origin; nothing, if it was forgotten while a call was under way."""
        return self._origins.setdefault(origin, _Origin(self.clock.monotonic()))

    def _is_flapping(self, state: _Origin) -> bool:
        return 0 <= self.clock.monotonic() - state.accepted_at < _MEMORY

    def _counts(self, state: _Origin) -> bool:
        """Whether the next request costs budget. Pauses limit those for tokens never accepted."""
        return not state.is_fresh_refused or self._is_flapping(state)

    def _refill(self, state: _Origin) -> None:
        now = self.clock.monotonic()
        elapsed = max(0.0, now - state.budget_at)
        state.budget = min(_BURST, state.budget + elapsed / _REFILL)
        state.budget_at = now

    def _after_fork(self) -> None:
        self._lock = threading.RLock()


class Refusal:
    """Decides for one call which token to try next, and when to stop.

    First comes a token that is known already, then one that is requested after the refusal.
    """

    def __init__(self, refusals: Refusals, origin: str) -> None:
        self._all = refusals
        self._origin = origin
        self._since = next_sequence()
        self._refused: set[str] = set()
        self._settled: set[str] = set()
        self._has_tried_known = False
        self._is_repeated = False
        self._last: CachedToken | None = None

    def wait_to_settle(self, refused: Token) -> bool:
        """Wait for the API if this token may be too new for it; return whether to try it again."""
        clock, settle_time = self._all.clock, self._all.settle_time
        age = clock.time() - refused.issued_at
        if not 0 <= age < settle_time or refused.access_token in self._settled:
            return False
        self._settled.add(Secret(refused.access_token))
        self._has_tried_known = True
        clock.sleep(settle_time - age)
        return True

    def replacement(self, refused: Token) -> Token | None:
        """The token to try after this one; ``None`` if the refusal is final.

        :raises TokenError: the endpoint did not return a token.
        :raises requests.exceptions.RequestException: the endpoint could not be reached.
        """
        refusals, origin = self._all, self._origin
        age = refusals.clock.time() - refused.issued_at
        is_fresh = self._last is not None and self._last.sequence > self._since
        self._refused.add(Secret(refused.access_token))
        is_retry = self._last is not None and not is_fresh
        refusals.note_refused(origin, refused, is_retry=is_retry)
        try:
            # Events and log lines come after the token request: handlers may use the Client.
            return None if is_fresh or self._is_repeated else self._next(refused)
        finally:
            refusals.tell(origin=origin, age=age, is_fresh=is_fresh)
            is_new = "a new token" if is_fresh else "the token"
            refusals.warn(origin, f"%s refused {is_new} of %s")

    def accepted(self, token: Token) -> None:
        """The API has accepted this replacement."""
        self._all.note_accepted(self._origin, token)

    def _next(self, refused: Token) -> Token | None:
        refusals = self._all
        # Also if a known token has been tried: the refused ones are not taken from anywhere again.
        known = refusals.tokens.known(self._refused)
        if known is not None and not self._has_tried_known:
            self._last = known
            self._has_tried_known = True
            return known.token
        if not refusals.may_request(self._origin):
            if not self._has_tried_known and refusals.is_flapping(self._origin):
                self._is_repeated = True
                return refused
            logger.debug("%s refuses new tokens: the next token request has to wait", self._origin)
            return None
        cached = self._last = refusals.tokens.fetch(self._is_wanted)
        is_refused = cached.token.access_token in self._refused
        if cached.sequence > self._since:
            # A token from before the refusal says nothing about new tokens.
            refusals.note_requested(self._origin, cached, is_refused=is_refused)
        else:
            self._has_tried_known = True
        return None if is_refused else cached.token

    def _is_wanted(self, cached: CachedToken, has_landed: bool) -> bool:
        is_requested = cached.sequence > self._since
        if cached.token.access_token in self._refused:
            # The endpoint returned the refused token again: there is no other.
            return has_landed and is_requested
        if self._has_tried_known and not is_requested:
            return False
        return has_landed or cached.is_good(self._all.clock)
