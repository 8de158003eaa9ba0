"""Time, outages, revocations and calls in any order: what callers are promised always holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from alf import Client, TokenError, TokenManager
from tests.servers import Api, Reply, Request, TokenServer, TurnedClock


class Endpoint(TokenServer):
    """A token endpoint in a state that can be changed."""

    def __init__(self, clock: TurnedClock) -> None:
        super().__init__()
        self.clock = clock
        self.how = "grants"
        self.life: float | None = 3600
        self.last: tuple[str, float] | None = None
        #: When each token dies, by both clocks, as far as the endpoint has said.
        self.ends: dict[str, tuple[float, float]] = {}

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
        name, life = reply.body["access_token"], reply.body["expires_in"]
        life = inf if life is None else min(life, 2.0**31 - 1)
        end = (self.clock.monotonic() + life, self.clock.time() + life)
        old = self.ends.get(name, end)
        self.ends[name] = (max(end[0], old[0]), max(end[1], old[1]))
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
        self.held: str | None = None
        #: Whether token requests failed, or the API refused a token, since the last quiet hour.
        self.is_troubled = False

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
        """When something begins or ends for the token in hand."""
        end = inf if self.held is None else self.endpoint.ends[self.held][0]
        if end < inf:
            life = self.endpoint.life or 3600
            window = min(22 * 60, life * 3 / 8)
            yield from (end - window * 1.25, end - window, end - min(10, life / 20), end)

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
        self.check(lambda: str(self.client.get(self.api.url).status_code))

    @rule()
    def renew(self) -> None:
        self.check(lambda: self.client.renew_token().access_token, is_forced=True)

    @rule()
    def take_the_token(self) -> None:
        self.check(lambda: self.client.ensure_token().access_token)

    @precondition(lambda self: self.held is not None)
    @rule()
    def reset(self) -> None:
        self.manager.reset_token()
        self.held = None

    @rule()
    def a_quiet_hour(self) -> None:
        """What failed is forgotten."""
        self.endpoint.how, self.is_audience_wrong = "grants", False
        self.clock.turn(3600)
        self.is_troubled = False

    # -- what must come of it --------------------------------------------------------------

    def left(self) -> float:
        """Seconds of life that the token in hand has left, by the clock that is ahead."""
        if self.held is None:
            return -inf
        end, end_wall = self.endpoint.ends[self.held]
        return min(end - self.clock.monotonic(), end_wall - self.clock.time())

    def check(self, act: Callable[[], str], *, is_forced: bool = False) -> None:
        asked, sent = len(self.endpoint.requests), len(self.api.requests)
        left, held = self.left(), self.held
        is_accepted = held in self.endpoint.alive and not self.is_audience_wrong
        is_up = self.endpoint.how == "grants"
        is_good_life = self.endpoint.life is None or self.endpoint.life > 0
        try:
            end = act()
        except TokenError as error:
            end = f"failed with {getattr(error.response, 'status_code', None)}"
        asked = len(self.endpoint.requests) - asked
        requests = self.api.requests[sent:]
        assert asked <= 2, "more token requests than needed"
        assert len(requests) <= 3, "more calls than allowed"
        for request in requests:
            assert str(request.authorization).startswith("Bearer token-")
        is_call = end.isdecimal()
        if left > 0 and is_accepted and is_call:
            assert end == "200", "there was a good token"
        if left > 1.25 * 22 * 60 and is_accepted and not is_forced:
            assert asked == 0, "a fresh token is not replaced"
        if is_up and is_good_life and not self.is_troubled and not self.is_audience_wrong:
            assert end == "200" or end.startswith("token-"), "the endpoint grants tokens"
        if left <= 0 and not is_up and self.endpoint.how != "same again":
            assert end in ("503", "429") or end.startswith("failed with"), "there is no token"
            assert not requests, "nothing is sent without a token"
        self.is_troubled |= not is_up or self.is_audience_wrong or not (held is None or is_accepted)
        current = self.client.token
        self.held = None if current is None else current.access_token

    @invariant()
    def reading_the_token_requests_none(self) -> None:
        before = len(self.endpoint.requests)
        assert self.client.token is None or self.client.token.access_token in self.endpoint.ends
        assert len(self.endpoint.requests) == before


TestTokenLife = TokenLife.TestCase
TestTokenLife.settings = settings(stateful_step_count=40, max_examples=60)
