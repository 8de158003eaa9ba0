"""When a token is due for a refresh, when it counts as expired, and when it dies."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

from alf._clocks import Clock
from alf.tokens import Token, parse_expires_in

__all__ = ["NEVER", "CachedToken", "Deadline", "Margins", "cache_token"]

#: A token counts as expired a little before it dies, so that it does not die on its way to an API:
#: by this many seconds or this fraction of its life, whichever is less.
_LEEWAY, _LEEWAY_FRACTION = 10.0, 1 / 20

#: The refresh window is this last fraction of the life, at most this many seconds: enough to
#: survive an outage of 20 minutes.
_WINDOW, _WINDOW_FRACTION = 22 * 60.0, 3 / 8

#: The user's margins are cut to this fraction of the life. A token that is due as soon as it
#: arrives would be requested at every call.
_LARGEST_MARGIN = 1 / 2

#: The window opens earlier by a random part of itself, up to this fraction, so that clients that
#: started together do not refresh together.
_EARLIER = 1 / 4

#: A refresh at the server's ``refresh_in`` is delayed by a random part of the remaining life, up
#: to this fraction.
_LATER = 1 / 10

#: A refresh that extends the life by no more than this many seconds was in vain: the server
#: returned the same token. The next one comes after half of the remaining life, and no earlier
#: than after this many seconds.
_GAIN = 1.0
_REPEAT_AFTER = 30.0

#: Seconds for which a token is still used when the endpoint returns it again with no life left.
_REISSUED_LIFE = 1.0


@dataclass(frozen=True)
class Deadline:
    """A moment that has passed as soon as either clock says so.

    Monotonic time stands still while a laptop sleeps, and the wall clock may be set to any time.
    """

    __slots__ = ("monotonic", "wall")

    monotonic: float
    wall: float

    def has_passed(self, clock: Clock) -> bool:
        """Whether it has passed by either clock."""
        return clock.monotonic() >= self.monotonic or clock.time() >= self.wall

    def left(self, clock: Clock) -> float:
        """Seconds until then by the clock that is ahead; negative once it has passed."""
        return min(self.monotonic - clock.monotonic(), self.wall - clock.time())

    def __add__(self, seconds: float) -> Deadline:
        return Deadline(self.monotonic + seconds, self.wall + seconds)

    def earliest(self, other: Deadline) -> Deadline:
        """The earlier of the two on each clock."""
        return Deadline(min(self.monotonic, other.monotonic), min(self.wall, other.wall))

    def latest(self, other: Deadline) -> Deadline:
        """The later of the two on each clock."""
        return Deadline(max(self.monotonic, other.monotonic), max(self.wall, other.wall))


NEVER = Deadline(math.inf, math.inf)


@dataclass(frozen=True, eq=False, repr=False)
class Margins:
    """The user's margins for refreshing; ``None`` means a fraction of each token's life.

    :param window: a token is refreshed in its last so-many seconds; 0: not before it has expired.
    :param leeway: a token counts as expired this many seconds before its death.
    """

    window: float | None = None
    leeway: float | None = None


@dataclass(frozen=True, eq=False, repr=False)
class CachedToken:
    """A token in memory, and its deadlines.

    :param token: the token.
    :param sequence: its place in the order of this process's token requests and refusals.
    :param refresh_at: when to refresh it, while callers go on using it.
    :param expires_at: when it starts to count as expired.
    :param dies_at: when APIs stop accepting it.
    :param store_at: when to try again to store it; ``None`` if there is no need to.
    """

    token: Token
    sequence: int
    refresh_at: Deadline
    expires_at: Deadline
    dies_at: Deadline
    store_at: Deadline | None = None

    def __post_init__(self) -> None:
        # A call checks only this deadline: until then there is nothing to do.
        due = self.refresh_at if self.store_at is None else self.refresh_at.earliest(self.store_at)
        object.__setattr__(self, "due_at", due)

    due_at: Deadline = NEVER

    def is_good(self, clock: Clock) -> bool:
        """Whether it has not expired."""
        return not self.expires_at.has_passed(clock)

    def is_alive(self, clock: Clock) -> bool:
        """Whether APIs accept it, even if it counts as expired."""
        return not self.dies_at.has_passed(clock)

    def outlives(self, other: CachedToken) -> bool:
        """Whether it lives noticeably longer than the other token."""
        return self.dies_at.monotonic > other.dies_at.monotonic + _GAIN

    def without_refresh(self) -> CachedToken:
        """The same token, not due for a refresh before it has expired."""
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
    :param requested_at: the monotonic time of its request; ``None`` if it is from a storage.
    :param margins: the user's margins for refreshing.
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
            # Some servers return the same token until it is nearly dead. Its first end counts.
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
    """The user's seconds or the default, cut to a fraction of the life."""
    if life is None:
        return 0.0
    if chosen is None:
        return min(seconds, life * fraction)
    return min(chosen, life * _LARGEST_MARGIN)
