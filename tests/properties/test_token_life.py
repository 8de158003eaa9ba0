"""Time, outages, revocations and calls in any order, against a small model of what callers see.

The model says the rules once more, in its own words. Where alf throws dice, for the pause after
failed token requests, the model knows the shortest and the longest pause, and takes in between
what it sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from alf import Client, TokenError, TokenManager
from tests.servers import Api, Reply, Request, TokenServer, TurnedClock


@dataclass
class Held:
    """The token that a caller has in hand, as the model sees it."""

    name: str
    ends: float
    ends_wall: float
    life: float
    is_early_renewal_worth_it: bool = True
    is_handed_out_again: bool = False

    def has(self, seconds: float, now: float, wall: float) -> bool:
        return now < self.ends - seconds and wall < self.ends_wall - seconds

    @property
    def leeway(self) -> float:
        return 0.0 if self.is_handed_out_again else min(10.0, self.life / 20)

    @property
    def stretch(self) -> float:
        return min(60.0, self.life / 5) if self.is_early_renewal_worth_it else 0.0

    def is_good(self, now: float, wall: float) -> bool:
        return self.has(self.leeway, now, wall)

    def is_fresh(self, now: float, wall: float) -> bool:
        return self.has(self.leeway + self.stretch, now, wall)


@dataclass
class Pause:
    """It lasts until some time between these two."""

    shortest: float = -inf
    longest: float = -inf

    @classmethod
    def after(cls, now: float, failures: int, at_least: float) -> Pause:
        longest = min(30.0, 2.0 ** min(failures, 9))
        shortest = max(1.0, longest / 2)
        return cls(now + max(at_least, shortest), now + max(at_least, longest))

    def lasts(self, now: float, has_asked: bool) -> bool:
        if now < self.shortest:
            return True
        return now < self.longest and not has_asked


class Failed(Exception):
    """No token: how the endpoint answered."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


class Endpoint(TokenServer):
    """A token endpoint in a state that can be changed."""

    def __init__(self, clock: TurnedClock) -> None:
        super().__init__()
        self.clock = clock
        self.how = "grants"
        self.life: float | None = 3600
        self.last: tuple[str, float] | None = None
        #: What the model has not yet taken note of: the tokens and their lives.
        self.handed_out: list[tuple[str, float | None]] = []

    def grant(self, request: Request) -> Reply:
        if self.how.isdigit():
            return Reply(int(self.how), {"error": "temporarily_unavailable"})
        if self.how.startswith("429"):
            return Reply(429, b"", {"Retry-After": self.how.split()[1]})
        if self.how == "html":
            return Reply(200, b"<html>")
        if self.how == "grants" or self.last is None:
            self.expires_in = self.life
            reply = self.granted()
            ends = inf if self.life is None else self.clock.monotonic() + self.life
            self.last = (reply.body["access_token"], ends)
        else:
            # Some servers hand the same token out again for as long as it lives.
            name, ends = self.last
            left = None if ends == inf else max(0, ends - self.clock.monotonic())
            reply = Reply(body={"access_token": name, "expires_in": left})
        self.handed_out.append((reply.body["access_token"], reply.body["expires_in"]))
        return reply


class TokenLife(RuleBasedStateMachine):
    """One Client, one API; token requests in the calling thread."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = TurnedClock()
        self.endpoint = Endpoint(self.clock)
        self.api = Api(self.endpoint)
        self.is_audience_wrong = False
        protect = self.api.script
        self.api.script = lambda request: Reply(401) if self.is_audience_wrong else protect(request)

        def manager(**options: Any) -> TokenManager:
            self.manager = TokenManager(**options, clock=self.clock)
            return self.manager

        class ClockedClient(Client):
            token_manager_class = staticmethod(manager)

        self.client = ClockedClient(
            token_endpoint=self.endpoint.endpoint,
            client_id="client-id",
            client_secret="top-secret",
            token_refresh="blocking",
        )
        # What the model knows.
        self.held: Held | None = None
        self.distrusted: str | None = None
        self.failures = 0
        self.last_failure = ""
        self.pause = Pause()
        self.early_pause = Pause()
        # Of the origin that refuses fresh tokens: the last of them, and how many in a row.
        self.fresh: str | None = None
        self.fetched_at = -inf
        self.is_fresh_refused = False
        self.refusals = 0

    def teardown(self) -> None:
        self.client.close()
        self.api.stop()
        self.endpoint.stop()

    # -- the world changes -----------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.5, 2, 30, 240, 3600]), calls=st.integers(0, 3))
    def time_passes(self, seconds: float, calls: int) -> None:
        self.clock.turn(seconds)
        for _ in range(calls):
            self.call()

    @rule(which=st.integers(0, 5), offset=st.sampled_from([-0.125, 0.125]), calls=st.integers(1, 3))
    def time_passes_to_where_things_change(self, which: int, offset: float, calls: int) -> None:
        now = self.clock.monotonic()
        moments = sorted({moment + offset for moment in self.moments() if now < moment + offset})
        self.time_passes(moments[which % len(moments)] - now if moments else 1.0, calls)

    def moments(self) -> Iterator[float]:
        """When something that the model knows of begins or ends."""
        held = self.held
        if held is not None and held.ends < inf:
            leeway, stretch = min(10.0, held.life / 20), min(60.0, held.life / 5)
            yield held.ends - leeway - stretch
            yield held.ends - leeway
            yield held.ends
        for pause in (self.pause, self.early_pause):
            yield pause.shortest
            yield pause.longest
        if self.refusals:
            yield self.fetched_at + min(60, 2 ** (self.refusals - 1))
            yield self.fetched_at + 120

    @rule(seconds=st.sampled_from([-3600, -60, 60, 3600]))
    def wall_clock_is_set(self, seconds: float) -> None:
        self.clock.turn_wall(seconds)

    @rule(how=st.sampled_from(["grants", "same again", "503", "429 7", "429 9999", "html"]))
    def endpoint_changes(self, how: str) -> None:
        self.endpoint.how = how

    @rule(life=st.sampled_from([None, 3600, 60, 20, 5, 0, -60, 10**12]))
    def lifetimes_change(self, life: float | None) -> None:
        self.endpoint.life = life

    @rule()
    def all_tokens_are_revoked(self) -> None:
        self.endpoint.alive.clear()

    @rule(is_wrong=st.booleans())
    def audience_changes(self, is_wrong: bool) -> None:
        self.is_audience_wrong = is_wrong

    # -- what callers do -------------------------------------------------------------------

    @rule()
    def call(self) -> None:
        def end() -> str:
            try:
                return str(self.client.get(self.api.url).status_code)
            except TokenError as error:
                return self.shown(error)

        self.check(end, self.expected_of_call)

    @rule()
    def renew(self) -> None:
        self.check(lambda: self.client.renew_token().access_token, self.expected_of_renewal)

    @rule()
    def take_the_token(self) -> None:
        self.check(lambda: self.client.ensure_token().access_token, self.expected_of_token)

    @precondition(lambda self: self.held is not None)
    @rule()
    def reset(self) -> None:
        assert self.held is not None
        self.manager.reset_token()
        self.distrusted = self.held.name
        self.held = None

    # -- what must come of it --------------------------------------------------------------

    def shown(self, error: TokenError) -> str:
        assert error.response is not None
        return f"failed with {error.response.status_code}"

    def check(self, act: Callable[[], str], expect: Callable[[], str]) -> None:
        asked, sent = len(self.endpoint.requests), len(self.api.requests)
        try:
            end = act()
        except TokenError as error:
            end = self.shown(error)
        #: How many token requests the model may still account for.
        self.asked = len(self.endpoint.requests) - asked
        assert self.asked <= 2
        try:
            expected = expect()
        except Failed as failure:
            expected = failure.how
        if act.__name__ == "end" and expected.startswith("failed with") and expected[-3:] >= "400":
            expected = expected[-3:]
        assert end == expected
        assert not self.asked, "more token requests than needed"
        for request in self.api.requests[sent:]:
            assert str(request.authorization).startswith("Bearer token-")

    def expected_of_token(self) -> str:
        now, wall = self.clock.monotonic(), self.clock.time()
        if self.held is None or not self.held.has(0.0, now, wall):
            return self.fetch().name
        if not self.held.is_good(now, wall) and not self.failures:
            # It may die on the wire: better one that does not, if there is one to be had.
            try:
                return self.fetch().name
            except Failed:
                return self.held.name
        if not self.held.is_fresh(now, wall) and not self.early_pause.lasts(now, self.asked > 0):
            self.renew_early()
        return self.held.name

    def expected_of_renewal(self) -> str:
        return self.fetch().name

    def expected_of_call(self) -> str:
        name = self.expected_of_token()
        if self.is_taken(name):
            return "200"
        if name == self.fresh and not self.is_fresh_refused:
            self.note_fresh_refused()
        now = self.clock.monotonic()
        if self.is_fresh_refused and now < self.fetched_at + min(60, 2 ** (self.refusals - 1)):
            return "401"
        new = self.fetch()
        # Fruitless tries of long ago do not count.
        if now - self.fetched_at > 120:
            self.refusals = 0
        self.fresh, self.fetched_at, self.is_fresh_refused = new.name, now, False
        if new.name == name:
            self.note_fresh_refused()
            return "401"
        if self.is_taken(new.name):
            self.fresh, self.fetched_at, self.refusals = None, -inf, 0
            return "200"
        self.note_fresh_refused()
        return "401"

    def is_taken(self, name: str) -> bool:
        return name in self.endpoint.alive and not self.is_audience_wrong

    def note_fresh_refused(self) -> None:
        self.is_fresh_refused = True
        self.refusals += 1

    def ask(self) -> Held:
        assert self.asked, "a token request was due"
        self.asked -= 1
        now, wall = self.clock.monotonic(), self.clock.time()
        how = self.endpoint.how
        if how not in ("grants", "same again"):
            self.failures += 1
            status = {"html": "200"}.get(how, how[:3])
            wait = min(300.0, float(how.split()[1])) if " " in how else 0.0
            self.last_failure = f"failed with {status}"
            self.early_pause = Pause.after(now, self.failures - 1, wait)
            if self.failures >= 3:
                self.pause = Pause.after(now, self.failures - 3, wait)
            raise Failed(self.last_failure)
        self.failures, self.pause, self.early_pause = 0, Pause(), Pause()
        name, expires_in = self.endpoint.handed_out.pop(0)
        life = inf if expires_in is None else min(expires_in, 2.0**31 - 1)
        return Held(name, now + life, wall + life, life)

    def fetch(self) -> Held:
        now, wall = self.clock.monotonic(), self.clock.time()
        if self.pause.lasts(now, self.asked > 0):
            raise Failed(self.last_failure)
        new = self.ask()
        self.take(new, now, wall)
        return new

    def renew_early(self) -> None:
        now, wall = self.clock.monotonic(), self.clock.time()
        assert self.held is not None
        if self.pause.lasts(now, self.asked > 0):
            return
        try:
            new = self.ask()
        except Failed:
            return
        self.take(new, now, wall)

    def take(self, new: Held, now: float, wall: float) -> None:
        old = self.held
        if old is not None and not old.is_fresh(now, wall) and new.ends <= old.ends + 1:
            new.is_early_renewal_worth_it = False
            if new.name == old.name:
                new.is_handed_out_again = True
                new.ends = max(new.ends, old.ends, now + 1)
                new.ends_wall = max(new.ends_wall, wall + 1)
        if new.is_good(now, wall):
            self.held = new
        elif old is not None:
            old.is_early_renewal_worth_it = False

    @invariant()
    def nothing_is_asked_for_but_by_a_call(self) -> None:
        assert not getattr(self, "asked", 0)


TestTokenLife = TokenLife.TestCase
TestTokenLife.settings = settings(stateful_step_count=40)
