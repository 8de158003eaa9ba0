"""Processes that share a storage, in any order of calls, outages, revocations and accidents.

Each process is a Client of its own on one storage. What must hold: while the endpoint grants, no
call fails; while it does not, none fails for which there is a token that is good, in the process or
in the storage; and what one process has got no other asks for.
"""

from __future__ import annotations

import functools
import json
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from alf import Client, TokenManager
from tests.servers import Api, Reply, TokenServer, TurnedClock

processes = st.integers(0, 2)


class FleetLife(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = TurnedClock()
        self.endpoint = TokenServer()
        self.api = Api(self.endpoint)
        self.storage: dict[str, Any] = {}
        self.is_up = True
        #: Until when each token lives, and when it was granted.
        self.ends: dict[str, float] = {}
        self.granted_at: dict[str, float] = {}
        self.endpoint.script = lambda _request: self.grant()
        self.clients = [self.start() for _ in range(3)]
        #: The token of each process's last call, and how often it asked in vain since.
        self.held: list[str | None] = [None] * 3
        self.failures = [0] * 3

    def start(self) -> Client:
        manager = staticmethod(functools.partial(TokenManager, clock=self.clock))
        cls = type("ClockedClient", (Client,), {"token_manager_class": manager})
        client: Client = cls(
            token_endpoint=self.endpoint.endpoint,
            client_id="client-id",
            client_secret="top-secret",
            token_storage=self.storage,
            token_refresh="blocking",
        )
        return client

    def grant(self) -> Reply:
        if not self.is_up:
            return Reply(503)
        reply = self.endpoint.granted()
        token = reply.body["access_token"]
        self.granted_at[token] = self.clock.time()
        self.ends[token] = self.clock.time() + self.endpoint.expires_in
        return reply

    def teardown(self) -> None:
        for client in self.clients:
            client.close()
        self.api.stop()
        self.endpoint.stop()

    # -- the world changes -----------------------------------------------------------------

    @rule(seconds=st.sampled_from([1, 20, 50, 235, 600, 3400]))
    def time_passes(self, seconds: float) -> None:
        self.clock.turn(seconds)

    @rule(is_up=st.booleans())
    def endpoint_changes(self, is_up: bool) -> None:
        self.is_up = is_up

    @rule(life=st.sampled_from([300, 3600]))
    def lifetimes_change(self, life: float) -> None:
        self.endpoint.expires_in = life

    @rule()
    def all_tokens_are_revoked(self) -> None:
        # More often than each 10 s it would use up an origin's budget of token requests.
        self.clock.turn(15)
        self.endpoint.alive.clear()

    @rule(number=processes)
    def a_process_starts_anew(self, number: int) -> None:
        self.clients[number].close()
        self.clients[number] = self.start()
        self.held[number] = None
        self.failures[number] = 0

    @rule(value=st.sampled_from([None, "rubbish", b"\xff", 7, "{}"]))
    def the_entry_is_lost(self, value: Any) -> None:
        for key in list(self.storage):
            if value is None:
                del self.storage[key]
            else:
                self.storage[key] = value

    # -- a process calls -------------------------------------------------------------------

    @rule(number=processes)
    def call(self, number: int) -> None:
        mine, shared = self.held[number], self.stored()
        asked, sent = len(self.endpoint.requests), len(self.api.requests)
        status = self.clients[number].get(self.api.url).status_code
        asked = len(self.endpoint.requests) - asked
        tokens = [str(seen.authorization).split()[1] for seen in self.api.requests[sent:]]
        if self.is_good(mine) or self.is_good(shared):
            assert status == 200, "there was a token"
        elif self.is_up:
            # From the third failure in a row on they are spaced out.
            assert status == 200 or self.failures[number] >= 3
        elif not (self.may_be_good(mine) or self.may_be_good(shared)):
            assert status == 503
        if self.is_fresh(mine) or self.is_fresh(shared):
            assert asked == 0, "there was a token, and nobody had to ask"
        assert asked <= 2
        if asked:
            self.failures[number] = 0 if self.is_up else self.failures[number] + asked
        assert all(self.clock.time() < self.ends[token] for token in tokens)
        if status == 200:
            self.held[number] = tokens[-1]
        now_shared = self.stored()
        if shared is not None and now_shared is not None:
            assert self.granted_at[now_shared] >= self.granted_at[shared], "an older token stored"

    def stored(self) -> str | None:
        """The token in the storage, if its entry is in order."""
        for entry in self.storage.values():
            if isinstance(entry, str) and "access_token" in entry:
                token: str = json.loads(entry)["access_token"]
                return token
        return None

    def left(self, token: str | None) -> tuple[float, float]:
        """Seconds of life that it has left, and had."""
        if token is None or token not in self.endpoint.alive:
            return -1.0, 1.0
        return self.ends[token] - self.clock.time(), self.ends[token] - self.granted_at[token]

    def is_fresh(self, token: str | None) -> bool:
        left, life = self.left(token)
        # The refresh window opens up to a quarter earlier.
        return left > 1.25 * min(22 * 60, life * 3 / 8)

    def is_good(self, token: str | None) -> bool:
        left, life = self.left(token)
        return left > min(10, life / 20)

    def may_be_good(self, token: str | None) -> bool:
        return self.left(token)[0] > 0


TestFleetLife = FleetLife.TestCase
TestFleetLife.settings = settings(stateful_step_count=40)
