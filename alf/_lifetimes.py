"""When a token is due for a refresh, when it counts as expired, and when it dies."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

from alf._clocks import Clock
from alf.tokens import Token, parse_expires_in

__all__ = ["NEVER", "CachedToken", "Deadline", "Margins", "cache_token"]

#: A token counts as expired a little before it dies, so that none dies on its way to an API:
#: the smaller of these seconds and this fraction of its life.
_LEEWAY, _LEEWAY_FRACTION = 10.0, 1 / 20

#: The refresh window is the last part of the life, but no longer than these seconds: enough to
#: outlive an outage of 20 minutes.
_WINDOW, _WINDOW_FRACTION = 22 * 60.0, 3 / 8

#: Margins that the user sets are cut to this fraction of the life: a token that is due as soon
#: as it is there would be requested at every call.
_LARGEST_MARGIN = 1 / 2

#: The window opens at a random moment, earlier by up to this fraction of it, so that clients
#: that started together do not refresh together.
_EARLIER = 1 / 4

#: A server's ``refresh_in`` is put off by up to this fraction of the rest of the life.
_LATER = 1 / 10

#: A refresh that prolongs the life by no more than these seconds has gained nothing. It is
#: repeated after half of what is left of the life, and these seconds at the earliest.
_GAIN = 1.0
_REPEAT_AFTER = 30.0

#: Seconds for which a token is used on that the endpoint hands out again with no life left.
_REISSUED_LIFE = 1.0


@dataclass(frozen=True)
class Deadline:
    """A moment on both clocks, which has passed as soon as either says so.

    Monotonic time stands still while a laptop sleeps, and the wall clock may be set to any time.
    """

    __slots__ = ("monotonic", "wall")

    monotonic: float
    wall: float

    def has_passed(self, clock: Clock) -> bool:
        """Whether it has passed, by either clock."""
        return clock.monotonic() >= self.monotonic or clock.time() >= self.wall

    def left(self, clock: Clock) -> float:
        """Seconds until then, by the clock that is ahead; negative once it has passed."""
        return min(self.monotonic - clock.monotonic(), self.wall - clock.time())

    def __add__(self, seconds: float) -> Deadline:
        return Deadline(self.monotonic + seconds, self.wall + seconds)

    def earliest(self, other: Deadline) -> Deadline:
        """The earlier one, on each clock."""
        return Deadline(min(self.monotonic, other.monotonic), min(self.wall, other.wall))

    def latest(self, other: Deadline) -> Deadline:
        """The later one, on each clock."""
        return Deadline(max(self.monotonic, other.monotonic), max(self.wall, other.wall))


NEVER = Deadline(math.inf, math.inf)


@dataclass(frozen=True)
class Margins:
    """What the user says about refreshing; ``None``: a fraction of each token's life.

    :param window: seconds before its death in which a token is refreshed; 0: not before it has
        expired.
    :param leeway: seconds before its death from which on a token counts as expired.
    """

    window: float | None = None
    leeway: float | None = None


@dataclass(frozen=True)
class CachedToken:
    """A token in memory, and its deadlines.

    :param token: the token.
    :param sequence: its place in the order of this process's token requests and refusals.
    :param refresh_at: from then on it should be replaced, while callers go on using it.
    :param expires_at: from then on it counts as expired.
    :param dies_at: from then on no API accepts it.
    :param store_at: when to try again to store it; ``None``: it is stored, or need not be.
    """

    token: Token
    sequence: int
    refresh_at: Deadline
    expires_at: Deadline
    dies_at: Deadline
    store_at: Deadline | None = None

    def __post_init__(self) -> None:
        # What a call looks at: until then there is nothing to do.
        due = self.refresh_at if self.store_at is None else self.refresh_at.earliest(self.store_at)
        object.__setattr__(self, "due_at", due)

    due_at: Deadline = NEVER

    def is_good(self, clock: Clock) -> bool:
        """Whether it has not expired."""
        return not self.expires_at.has_passed(clock)

    def is_alive(self, clock: Clock) -> bool:
        """Whether it has not died, though it may count as expired."""
        return not self.dies_at.has_passed(clock)

    def outlives(self, other: CachedToken) -> bool:
        """Whether it lives noticeably longer than the other token."""
        return self.dies_at.monotonic > other.dies_at.monotonic + _GAIN

    def without_refresh(self) -> CachedToken:
        """The same token, which is not due for a refresh before it has expired."""
        return replace(self, refresh_at=self.expires_at)


def cache_token(
    token: Token,
    clock: Clock,
    previous: CachedToken | None,
    *,
    sequence: int,
    requested_at: float | None = None,
    margins: Margins = Margins(),
) -> CachedToken:
    """Give a token its deadlines.

    :param token: the token, new from the endpoint or from a storage.
    :param clock: the clock.
    :param previous: the entry that it will replace.
    :param sequence: its place in the order of token requests and refusals.
    :param requested_at: the monotonic time of the request for it; ``None``: it is from a storage.
    :param margins: what the user says about refreshing.
    """
    now = Deadline(clock.monotonic(), clock.time())
    if token.expires_at is None or token.lifetime is None:
        dies_at = NEVER
    elif requested_at is None:
        dies_at = now + (token.expires_at - now.wall)
    else:
        dies_at = Deadline(requested_at + token.lifetime, token.expires_at)
    leeway = _margin(margins.leeway, _LEEWAY, _LEEWAY_FRACTION, token.lifetime)
    refresh_at = _refresh_at(token, dies_at, margins)
    if previous is not None and previous.refresh_at.has_passed(clock):
        is_new = requested_at is not None or token.issued_at > previous.token.issued_at
        is_same = token.access_token == previous.token.access_token
        if is_new and is_same and dies_at.monotonic <= previous.dies_at.monotonic + _GAIN:
            # Some servers hand out the same token until it is nearly dead. It lives that long.
            leeway = 0.0
            dies_at = dies_at.latest(previous.dies_at.earliest(NEVER)).latest(now + _REISSUED_LIFE)
        if dies_at.monotonic <= previous.dies_at.monotonic + _GAIN:
            refresh_at = now + max(_REPEAT_AFTER, dies_at.left(clock) / 2)
    expires_at = dies_at + -leeway
    return CachedToken(token, sequence, refresh_at.earliest(expires_at), expires_at, dies_at)


def _refresh_at(token: Token, dies_at: Deadline, margins: Margins) -> Deadline:
    life = token.lifetime
    if life is None:
        return NEVER
    refresh_in = parse_expires_in(token.extra.get("refresh_in"))
    if margins.window is None and refresh_in is not None and 0 < refresh_in < life:
        rest = life - refresh_in
        return dies_at + -(rest - random.uniform(0, rest * _LATER))  # noqa: S311
    window = _margin(margins.window, _WINDOW, _WINDOW_FRACTION, life)
    return dies_at + -(window + random.uniform(0, window * _EARLIER))  # noqa: S311


def _margin(chosen: float | None, seconds: float, fraction: float, life: float | None) -> float:
    """The chosen seconds, or the default ones, cut to a fraction of the life."""
    if life is None:
        return 0.0
    if chosen is None:
        return min(seconds, life * fraction)
    return min(chosen, life * _LARGEST_MARGIN)
