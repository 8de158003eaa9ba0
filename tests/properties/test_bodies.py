"""A request that is refused is sent again with the very same bytes, or is not sent again."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from alf import Client
from tests.servers import Api, Reply, Server, TokenServer, running


class NoTell:
    """A body in one piece of which requests knows the length, and no way back."""

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)
        self.len = len(content)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._file)


class NoSeek(NoTell):
    """It says where it is, and cannot go there."""

    def tell(self) -> int:
        return self._file.tell()


class BrokenTell(NoTell):
    def tell(self) -> int:
        message = "not here"
        raise OSError(message)

    def seek(self, offset: int) -> int:
        raise AssertionError


class BrokenSeek(NoSeek):
    def seek(self, offset: int) -> int:
        message = "not here"
        raise OSError(message)


@dataclass(frozen=True)
class Body:
    """A body, made anew for each call."""

    kind: str
    make: Callable[[], dict[str, Any]]
    can_be_sent_again: bool = True


texts = st.text(max_size=20)
# urllib3 1.26 leaves a str to http.client, which takes Latin-1 alone.
letters = st.characters(max_codepoint=0xFF if urllib3.__version__.startswith("1.") else None)
# More than one write of http.client now and then.
contents = st.binary(max_size=40) | st.binary(min_size=1, max_size=3).map(lambda b: b * 30_000)
pairs = st.lists(st.tuples(st.text(min_size=1, max_size=5), texts), max_size=4)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=4,
)


@st.composite
def bodies(draw: st.DrawFn, folder: Path) -> Body:
    content, text = draw(contents), draw(st.text(letters, max_size=20))
    offset = draw(st.integers(0, len(content)))
    form, value = draw(pairs), draw(values)

    def at_offset(file: Any) -> Any:
        file.seek(offset)
        return file

    def in_memory() -> Any:
        return at_offset(io.BytesIO(content))

    def on_disk() -> Any:
        path = folder / "body"
        path.write_bytes(content)
        return at_offset(path.open("rb"))

    # An empty piece ends the body where requests is old.
    pieces = [piece for piece in (content[:offset], content[offset:], b"end") if piece]
    return draw(
        st.sampled_from(
            [
                Body("none", dict),
                Body("bytes", lambda: {"data": content}),
                Body("bytearray", lambda: {"data": bytearray(content)}),
                Body("str", lambda: {"data": text}),
                Body("form", lambda: {"data": dict(form)}),
                Body("form of pairs", lambda: {"data": form}),
                Body("json", lambda: {"json": value}),
                Body("file in memory", lambda: {"data": in_memory()}),
                Body("file", lambda: {"data": on_disk()}),
                Body("text in memory", lambda: {"data": at_offset(io.StringIO(content.hex()))}),
                Body("multipart", lambda: {"data": dict(form), "files": {"f": in_memory()}}),
                Body("multipart file", lambda: {"files": {"f": ("name", on_disk(), "a/b")}}),
                Body("generator", lambda: {"data": (piece for piece in pieces)}, False),
                Body("iterator", lambda: {"data": iter(pieces)}, False),
                Body("no tell", lambda: {"data": NoTell(content)}, False),
                Body("no seek", lambda: {"data": NoSeek(content)}, False),
                Body("broken tell", lambda: {"data": BrokenTell(content)}, False),
                Body("broken seek", lambda: {"data": BrokenSeek(content)}, False),
            ]
        )
    )


@pytest.fixture
def plain_api() -> Iterator[Server]:
    with running(Server(lambda _request: Reply())) as server:
        yield server


def close(options: dict[str, Any]) -> None:
    for value in [options.get("data"), *options.get("files", {}).values()]:
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, io.IOBase):
                part.close()


@given(st.data(), st.sampled_from(["POST", "PUT", "PATCH", "DELETE", "GET"]), st.booleans())
def test_bodies_of_every_kind(
    tokens: TokenServer,
    api: Api,
    plain_api: Server,
    tmp_path: Path,
    data: st.DataObject,
    method: str,
    is_redirected: bool,
) -> None:
    body = data.draw(bodies(tmp_path))
    for server in (tokens, api, plain_api):
        server.requests.clear()
    with requests.Session() as session:
        options = body.make()
        session.request(method, plain_api.url, **options)
        close(options)
    expected = plain_api.requests[0].body
    # Of a redirect that keeps the method only what can be sent twice comes to its end.
    is_redirected = is_redirected and body.can_be_sent_again
    api.pages["/"] = Reply(body={"hello": "world"})
    api.pages["/moved"] = Reply(307, b"", {"Location": "/"})
    with Client(
        token_endpoint=tokens.endpoint, client_id="client-id", client_secret="top-secret"
    ) as client:
        client.get(api.url)
        tokens.alive.clear()
        api.requests.clear()
        options = body.make()
        response = client.request(method, api.url + "/moved" * is_redirected, **options)
        close(options)
        seen = list(api.requests)
        assert {request.method for request in seen} == {method}
        delivered = [request.body for request in seen]
        if body.kind.startswith("multipart"):
            # Their boundaries are drawn by chance: one request has one.
            expected = delivered[0]
            assert expected
        if body.can_be_sent_again:
            assert response.status_code == 200
            assert delivered == [expected] * (2 + is_redirected)
            assert len({str(request.headers["Content-Length"]) for request in seen}) == 1
        else:
            assert response.status_code == 401
            assert delivered == [expected]
        # Whatever came of it, the next call has a token that is alive.
        api.requests.clear()
        assert client.get(api.url).status_code == 200
        assert len(api.requests) == 1
        assert len(tokens.requests) == 2
