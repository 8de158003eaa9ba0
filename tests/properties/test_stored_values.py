"""Whatever a storage holds or does: no exception, no dead token for good, the entry replaced."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alf import Client
from tests.servers import Api, TokenServer

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)
odd_values = st.one_of(
    json_values,
    st.sampled_from(
        [
            "Bearer\r\nX-Evil: 1",
            "a\nb",
            "",
            "DPoP",
            "mac",
            1e308,
            -1e308,
            10**100,
            float("nan"),
            float("inf"),
            "9" * 5000,
            1_700_000_000,
            "1700000000",
            2**31,
        ]
    ),
)


class Odd:
    """A value that no parser expects."""

    def __str__(self) -> str:
        message = "no"
        raise ValueError(message)

    __bytes__ = __bool__ = __len__ = __iter__ = __repr__ = __str__


#: What takes the place of an entry.
strange = st.one_of(
    json_values,
    json_values.map(json.dumps),
    st.binary(max_size=50),
    st.text(max_size=50),
    st.builds(Odd),
    st.sampled_from(
        ["[" * 100_000, b"\xff\xfe", "{}", "[]", b"null", '"a"', "1e999", b"\x80\x04N."]
    ),
    st.binary(max_size=20).map(bytearray),
    st.binary(max_size=20).map(memoryview),
)


#: The members of an entry.
NAMES = ["v", "access_token", "token_type", "expires_at", "issued_at", "scope", "extra"]

#: Changes to the text of an entry, each a function; which one does not depend on the entry.
tampering = st.one_of(
    st.dictionaries(st.sampled_from(NAMES), odd_values, min_size=1).map(
        lambda changes: lambda text: json.dumps({**json.loads(text), **changes})
    ),
    st.dictionaries(st.text(max_size=8), json_values, min_size=1).map(
        lambda more: lambda text: json.dumps({**more, **json.loads(text)})
    ),
    st.sampled_from(NAMES).map(
        lambda less: (
            lambda text: json.dumps(
                {name: value for name, value in json.loads(text).items() if name != less}
            )
        )
    ),
    st.integers(0, 99).map(lambda percent: lambda text: text[: len(text) * percent // 100]),
    st.sampled_from(["utf-8", "utf-16", "utf-8-sig"]).map(
        lambda encoding: lambda text: text.encode(encoding)
    ),
    st.just(lambda text: json.dumps(list(json.loads(text).items()))),
)


@pytest.fixture(scope="module")
def lines() -> Iterator[list[str]]:
    """All that alf logs, tracebacks included."""
    found: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(handler.format(record))  # type: ignore[method-assign]
    logger = logging.getLogger("alf")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield found
    logger.removeHandler(handler)
    logger.setLevel(before)


def call(tokens: TokenServer, api: Api, storage: Any) -> int:
    """A call in a process of its own; returns how many tokens it asked for."""
    before = len(tokens.requests)
    with Client(
        token_endpoint=tokens.endpoint,
        client_id="client-id",
        client_secret="top-secret",
        token_storage=storage,
    ) as client:
        assert client.get(api.url).status_code == 200
    return len(tokens.requests) - before


def check_what_was_sent(api: Api, lines: list[str]) -> None:
    for request in api.requests:
        assert sorted(request.headers) == [
            "Accept",
            "Accept-Encoding",
            "Authorization",
            "Connection",
            "Host",
            "User-Agent",
        ]
        scheme, _, token = str(request.authorization).partition(" ")
        assert scheme == "Bearer"
        assert not any(len(token) > 4 and token in line for line in lines)


@given(strange.map(lambda value: lambda _text: value) | tampering)
def test_any_value_in_the_entry(
    tokens: TokenServer, api: Api, lines: list[str], change: Callable[[str], Any]
) -> None:
    storage: dict[str, Any] = {}
    api.requests.clear()
    lines.clear()
    assert call(tokens, api, storage) == 1
    [key] = storage
    storage[key] = change(storage[key])
    # One token at the most, and none where what is there is a token that the API takes.
    assert call(tokens, api, storage) <= 1
    # It was replaced by one that others can use, or could be used as it was.
    assert call(tokens, api, storage) == 0
    check_what_was_sent(api, lines)


class Failing:
    """A storage each call of which gives what the test says, or raises it."""

    def __init__(self, answers: list[Any]) -> None:
        self._answers = answers
        self.calls = 0

    def _next(self) -> Any:
        answer = self._answers[self.calls % len(self._answers)] if self._answers else None
        self.calls += 1
        if isinstance(answer, Exception):
            raise answer
        return answer

    def get(self, key: str) -> Any:
        return self._next()

    def set(self, key: str, value: str) -> Any:
        return self._next()


@given(
    st.lists(
        strange | st.sampled_from([OSError("no"), KeyError("no"), ValueError("no"), TypeError()]),
        max_size=5,
    )
)
def test_any_behaviour_of_a_storage(
    tokens: TokenServer, api: Api, lines: list[str], answers: list[Any]
) -> None:
    api.requests.clear()
    lines.clear()
    storage = Failing(answers)
    assert call(tokens, api, storage) <= 1
    assert storage.calls > 0
    check_what_was_sent(api, lines)
