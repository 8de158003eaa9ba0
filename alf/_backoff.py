"""Pauses after failures: random, and longer with each failure in a row."""

from __future__ import annotations

import math
import random

from alf._clocks import Clock

__all__ = ["Backoff", "Pause", "jittered"]


def jittered(seconds: float) -> float:
    """A random part of the seconds, at least half, so that a fleet does not act at once."""
    return random.uniform(seconds / 2, seconds)  # noqa: S311


class Pause:
    """A time in which something is not tried.

    If the clock shows a time before the pause began, it is another clock: a test had frozen time,
    for example. Then the pause is over instead of lasting for decades.

    :param clock: the clock to measure the pause with.
    """

    __slots__ = ("_began_at", "_clock", "until")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began_at = -math.inf
        #: When the pause ends, in monotonic time.
        self.until = -math.inf

    @property
    def is_on(self) -> bool:
        """Whether it is too early for the next try."""
        return self._began_at <= self._clock.monotonic() < self.until

    def begin(self, seconds: float) -> None:
        """Pause for this many seconds from now on."""
        self._began_at = self._clock.monotonic()
        self.until = self._began_at + seconds

    def end(self) -> None:
        """Do not pause any longer."""
        self.until = -math.inf


class Backoff:
    """A streak of failures, and the pause after the last of them.

    The pauses grow from ``shortest`` to ``longest`` seconds: 1, 2, 4, 8 … with jitter.

    :param clock: the clock to measure the pauses with.
    :param shortest: seconds of the first pause.
    :param longest: seconds of the longest pause.
    :param free: the number of failures in a row that cause no pause.
    """

    __slots__ = ("_failures", "_free", "_longest", "_pause", "_shortest")

    def __init__(
        self, clock: Clock, *, shortest: float = 1.0, longest: float = 30.0, free: int = 0
    ) -> None:
        self._shortest = shortest
        self._longest = longest
        self._free = free
        self._failures = 0
        self._pause = Pause(clock)

    @property
    def is_failing(self) -> bool:
        """Whether the last try failed."""
        return self._failures > 0

    @property
    def is_paused(self) -> bool:
        """Whether it is too early for the next try."""
        return self._pause.is_on

    @property
    def paused_until(self) -> float:
        """When the pause ends, in monotonic time."""
        return self._pause.until

    def fail(self, at_least: float = 0.0) -> float:
        """Record a failure.

        :param at_least: the shortest pause in seconds, such as a ``Retry-After``.
        :returns: when the pause ends, in monotonic time.
        """
        self._failures += 1
        # Beyond 2**32 every pause is the longest; larger exponents would overflow a float.
        exponent = min(self._failures - self._free - 1, 32)
        pause = 0.0
        if exponent >= 0:
            pause = max(self._shortest, jittered(min(self._longest, self._shortest * 2**exponent)))
        self._pause.begin(max(pause, at_least))
        return self.paused_until

    def succeed(self) -> None:
        """Record a success, which ends the streak."""
        self._failures = 0
        self._pause.end()
