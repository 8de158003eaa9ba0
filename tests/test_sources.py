"""Where a token of somebody else's is read from: files and callables, good and bad."""

from __future__ import annotations

import functools
import operator
import pickle
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from alf import TokenError
from alf._sources import Source

HEADER = "eyJhbGciOiJSUzI1NiJ9"
JWT = f"{HEADER}.eyJzdWIiOiJ3b3JrbG9hZCJ9.c2lnbmF0dXJl"
ENCRYPTED_JWT = f"{HEADER}.a2V5.aXY.Y2lwaGVydGV4dA.dGFn"
FACTS = {"audience": "https://id.example.com", "client_id": "client-id"}


def read(source: Any, **options: Any) -> str:
    return str(Source(source, **options).read(**FACTS))


@pytest.mark.parametrize("content", [JWT, f"{JWT}\n", f"{JWT}\r\n", f"\ufeff{JWT}", ENCRYPTED_JWT])
@pytest.mark.parametrize("form", [str, Path])
def test_a_file_is_read_anew_each_time(
    tmp_path: Path, content: str, form: Callable[[Path], Any]
) -> None:
    path = tmp_path / "token"
    path.write_text("another")
    source = Source(form(path))
    path.write_text(content, encoding="utf-8")
    assert source.read(**FACTS) == content.strip("\r\n\ufeff")
    path.write_text(JWT[::-1])
    assert source.read(**FACTS) == JWT[::-1]


def test_a_relative_path_survives_a_change_of_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(JWT)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    source = Source("token")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert source.read(**FACTS) == JWT
    assert source.identity == str(tmp_path / "token")


@pytest.mark.parametrize("content", [None, "", HEADER])
def test_a_file_that_is_missing_or_incomplete_for_a_moment_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    pauses: list[float] = []

    def rotate(seconds: float) -> None:
        pauses.append(seconds)
        path.write_text(JWT)

    monkeypatch.setattr(time, "sleep", rotate)
    assert read(path) == JWT
    [pause] = pauses
    assert pause < 0.1


def test_a_callable_gets_what_it_requires_and_no_more() -> None:
    got: list[tuple[Any, ...]] = []

    def note(*given: Any) -> str:
        got.append(given)
        return f"{JWT}\n"

    def with_other(audience: str, optional: str = "o", **others: Any) -> str:
        return note(audience, optional, others)

    def by_place(client_id: str, audience: str, /, *rest: Any) -> str:
        return note(client_id, audience, rest)

    def optional(audience: str = "mine") -> str:
        return note(audience)

    sources: list[Any] = [
        note,
        lambda client_id: note(client_id),
        lambda *, audience: note(audience),
        with_other,
        by_place,
        optional,
        functools.partial(by_place, "given"),
        Mock(return_value=JWT),
    ]
    for source in sources[:-2]:
        assert read(source) == JWT
    with pytest.raises(TypeError):
        # As it would be without alf: the first place is taken.
        functools.partial(by_place, "given")()
    assert read(sources[-2]) == JWT
    assert read(sources[-1]) == JWT
    audience, client_id = FACTS["audience"], FACTS["client_id"]
    assert got == [
        (),
        (client_id,),
        (audience,),
        (audience, "o", {}),
        (client_id, audience, ()),
        ("mine",),
        ("given", audience, ()),
    ]


def test_a_callable_that_does_not_tell_its_parameters_gets_none() -> None:
    read_token = operator.methodcaller("strip")
    with pytest.raises(TypeError):
        read(read_token)  # as if it had been called without arguments


@pytest.mark.parametrize("name", ["scope", "url"])
def test_a_callable_that_requires_anything_else_is_refused_at_once(name: str) -> None:
    source = eval(f"lambda audience, {name}: ''")
    with pytest.raises(TypeError, match=f"assertion: .* audience and client_id, not {name}"):
        Source(source, "assertion")


def test_what_a_callable_raises_is_passed_on() -> None:
    def fails() -> str:
        raise KeyError(*FACTS)

    with pytest.raises(KeyError, match="audience"):
        read(fails)


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        (7, TypeError, "source must be a path or a callable, got int"),
        (None, TypeError, "got NoneType"),
        (b"/var/run/token", TypeError, "got bytes"),
        ("", ValueError, "got an empty str"),
        (" \n", ValueError, "got an empty str"),
        ("a\0b", ValueError, "null byte"),
        (JWT, ValueError, "got the token itself"),
        (f"{JWT}\n", ValueError, "got the token itself"),
        (ENCRYPTED_JWT, ValueError, "got the token itself"),
        ("header.payload.signature", ValueError, "got the token itself"),
        ("a token\nwith lines", ValueError, "got the token itself"),
    ],
)
def test_what_cannot_be_a_source_is_an_error_at_construction(
    source: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as failure:
        Source(source)
    if isinstance(source, str) and source.strip():
        assert source.strip() not in shown(failure.value)


def shown(error: BaseException) -> str:
    """All that an error report with local variables shows of the frames of alf."""
    report = traceback.TracebackException.from_exception(error, capture_locals=True)
    texts = [str(error), repr(error)]
    seen: traceback.TracebackException | None = report
    while seen is not None:
        texts += [str(seen)]
        for frame in seen.stack:
            if "/alf/" in frame.filename:
                texts += [f"{name}={value}" for name, value in (frame.locals or {}).items()]
        seen = seen.__cause__ or seen.__context__
    return "\n".join(texts)


BAD_CONTENTS = [
    (b"", "is empty"),
    (b" \n\n", "is empty"),
    (b"one-part-only", "expected a JWT"),
    (b'{"value": "a.b.c-very-secret"}', "expected a JWT"),
    (f"{JWT}\n{JWT}".encode(), "expected a JWT"),
    (JWT.encode("utf-16"), "expected a JWT"),
    (b"\xff\xfe\x00very-secret", "expected a JWT"),
    (f"Bearer {JWT}".encode(), "expected a JWT"),
]


@pytest.mark.parametrize(("content", "words"), BAD_CONTENTS)
def test_a_file_without_a_token_is_an_error_that_does_not_show_it(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(TokenError, match=words) as failure:
        Source(path, "assertion").read(**FACTS)
    assert f"assertion: the file {str(path)!r}" in str(failure.value)
    for secret in (JWT, "one-part-only", "very-secret"):
        assert secret not in shown(failure.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "must return a str, got NoneType"),
        (JWT.encode(), "must return a str, got bytes"),
        ("", "result is empty"),
        ("very-secret", "expected a JWT"),
        ("very secret", "expected a JWT"),
    ],
)
def test_a_callable_without_a_token_is_an_error_that_does_not_show_it(
    given: Any, words: str
) -> None:
    with pytest.raises(TokenError, match=f"assertion: the callable.*{words}") as failure:
        read(lambda: given, name="assertion")
    for secret in (JWT, "very-secret", "very secret"):
        assert secret not in shown(failure.value)


def test_a_token_need_not_be_a_jwt_where_any_will_do(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("opaque~token/+=\n")
    assert read(path, is_jwt=False) == "opaque~token/+="
    assert read(lambda: "opaque", is_jwt=False) == "opaque"
    path.write_text("two words")
    with pytest.raises(TokenError, match="without blanks and control characters"):
        read(path, is_jwt=False)


def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(TokenError, match=f"'{tmp_path}' cannot be read: Is a directory"):
        read(tmp_path)
    with pytest.raises(TokenError, match=f"'{tmp_path}/nowhere/token' does not exist"):
        read(tmp_path / "nowhere" / "token")
    with pytest.raises(TokenError, match=f"'{tmp_path}/nowhere/token' does not exist"):
        read(str(tmp_path / "nowhere" / "token"))
    with pytest.raises(TokenError, match="'nowhere/token' does not exist"):
        read("nowhere/token")


@pytest.mark.parametrize("token", ["opaque-secret", "/c2VjcmV0", "a/0123456789abcdefghijklmnop"])
def test_a_str_that_leads_nowhere_is_not_shown(token: str) -> None:
    """It may be the token, given in the place of its path."""
    source = Source(token)
    with pytest.raises(TokenError, match="source: the file given does not exist") as failure:
        source.read(**FACTS)
    assert token not in shown(failure.value) + repr(source)


class Named:
    identity = "the workload"

    def __call__(self) -> str:
        return JWT


def the_token() -> str:
    return JWT


def test_a_source_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "token"
    assert repr(Source(path)) == f"Source({str(path)!r})"
    assert repr(Source(the_token)) == "Source(the_token)"
    assert repr(Source(Named())) == "Source(Named)"
    assert Source(path).identity == str(path)
    assert Source(Named()).identity == "the workload"
    assert Source(the_token).identity is None
    assert Source(path).is_file
    assert not Source(the_token).is_file


def test_a_source_can_be_pickled(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(JWT)
    for source in (path, the_token, Named()):
        copied = pickle.loads(pickle.dumps(Source(source)))
        assert copied.read(**FACTS) == JWT
        assert copied.identity == Source(source).identity
