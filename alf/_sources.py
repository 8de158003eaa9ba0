"""Tokens that somebody else issues: read anew for each use, from a file or a callable."""

from __future__ import annotations

import inspect
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from alf._redaction import Secret, masked
from alf._urls import is_key
from alf.tokens import TokenError

__all__ = ["Source"]

#: Seconds after which a file without a token is read again: somebody may just be replacing it.
_ROTATION_PAUSES = (0.01, 0.1, 0.3)

#: What a callable may be told: each parameter that it requires must have one of these names.
_FACTS = ("audience", "client_id")

_VISIBLE = re.compile(r"[\x21-\x7e]+")
_BASE64URL = r"[A-Za-z0-9_-]"
#: The compact form of a signed JWT (RFC 7515 §7.1), or of an encrypted one (RFC 7516 §7.1).
_JWT = re.compile(rf"{_BASE64URL}+(\.{_BASE64URL}*){{2}}((\.{_BASE64URL}*){{2}})?")


class Source:
    """Where to read a token that somebody else issues and replaces.

    :param source: the path of a file, or a callable that returns the token. The callable gets
        ``audience`` and ``client_id`` if it has required parameters of these names.
    :param name: the argument's name, for messages.
    :param is_jwt: whether the token must be a JWT.
    :raises TypeError: the source is neither, or the callable requires other parameters.
    :raises ValueError: the source is empty, or a JWT instead of a path.
    """

    def __init__(self, source: Any, name: str = "source", *, is_jwt: bool = True) -> None:
        source = masked(source)
        self._name = name
        self._is_jwt = is_jwt
        self._call: Callable[..., object] | None = None
        self._path, self._place = Secret(), ""
        if callable(source):
            self._call = cast("Callable[..., object]", source)
            list(_arguments(self._call, name, dict.fromkeys(_FACTS, "")))  # raises now
        elif isinstance(source, (str, os.PathLike)):
            self._path = Secret(_checked_path(source, name))
            self._place = _shown_path(source)
        else:
            message = f"{name} must be a path or a callable, got {type(source).__name__}"
            raise TypeError(message)

    def __repr__(self) -> str:
        if self._call is not None:
            return f"Source({getattr(self._call, '__qualname__', type(self._call).__qualname__)})"
        return f"Source({self._place})"

    @property
    def is_file(self) -> bool:
        """Whether the token is read from a file."""
        return self._call is None

    @property
    def identity(self) -> str | None:
        """The path, or the callable's attribute ``identity``; ``None`` if it has none."""
        if self._call is None:
            return str.__str__(self._path)
        identity = getattr(self._call, "identity", None)
        return identity if isinstance(identity, str) else None

    def read(self, **facts: str) -> Secret:
        """Read the token.

        :param facts: ``audience`` and ``client_id``.
        :raises TokenError: there is no usable token. What the callable raises is passed on.
        """
        if self._call is None:
            token, place = self._read_file(), f"the file {self._place}"
        else:
            token, place = self._read_callable(facts), "the callable's result"
        if not token:
            message = f"{self._name}: {place} is empty, expected a token"
            raise TokenError(message)
        if not self._is_valid(token):
            expected = "a JWT" if self._is_jwt else "a token without blanks and control characters"
            message = f"{self._name}: {place} is not a valid token, expected {expected}"
            raise TokenError(message)
        return token

    def _read_callable(self, facts: dict[str, str]) -> Secret:
        assert self._call is not None
        arguments = list(_arguments(self._call, self._name, facts))
        by_position = [fact for name, fact in arguments if name is None]
        by_name = {name: fact for name, fact in arguments if name is not None}
        given = self._call(*by_position, **by_name)
        kind, token = type(given).__name__, Secret(given) if isinstance(given, str) else None
        del given  # error reports show local variables
        if token is None:
            message = f"{self._name}: the callable must return a str, got {kind}"
            raise TokenError(message)
        return Secret(token.strip())

    def _is_valid(self, token: str) -> bool:
        return (_JWT if self._is_jwt else _VISIBLE).fullmatch(token) is not None

    def _read_file(self) -> Secret:
        """What is in the file, which may be missing, empty or incomplete while it is replaced."""
        token = self._try_file()
        for pause in _ROTATION_PAUSES:
            if token is not None and self._is_valid(token):
                break
            time.sleep(pause)
            token = self._try_file()
        if token is None:
            message = f"{self._name}: the file {self._place} does not exist"
            raise TokenError(message)
        return token

    def _try_file(self) -> Secret | None:
        """What is in the file; ``None``: it does not exist."""
        try:
            return Secret(Path(self._path).read_bytes().decode("utf-8-sig", "replace").strip())
        except FileNotFoundError:
            return None
        except OSError as error:
            reason = error.strerror
        # Not as a consequence of that error, which names the path.
        message = f"{self._name}: the file {self._place} cannot be read: {reason}"
        raise TokenError(message)


def _checked_path(source: str | os.PathLike[Any], name: str) -> str:
    path = Secret(os.fsdecode(source))
    if not path.strip() or "\0" in path:
        message = f"{name} must be the path of a file, got an empty str or one with a null byte"
        raise ValueError(message)
    is_path = not isinstance(source, str) or Path(path).is_file()
    if not is_path and (_JWT.fullmatch(path.strip()) or not path.isprintable()):
        message = (
            f"{name} must be the path of a file with the token, or a callable that returns it, "
            "got the token itself"
        )
        raise ValueError(message)
    # A program that changes its directory still finds it.
    return str(Path(path).absolute())


def _shown_path(source: str | os.PathLike[Any]) -> str:
    """The path as messages show it. A str that leads nowhere may be a token, given by mistake."""
    path = Path(os.fsdecode(source))
    if isinstance(source, str) and not path.exists():
        is_path = len(path.parts) > 2 if path.is_absolute() else len(path.parts) > 1
        if not is_path or any(map(is_key, path.parts)):
            return "given"
    return repr(str(path))


def _arguments(
    call: Callable[..., object], name: str, facts: dict[str, str]
) -> Iterator[tuple[str | None, str]]:
    """What to pass: for each required parameter its name, or ``None`` if by position, and fact.

    :raises TypeError: a required parameter has another name.
    """
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):  # callables written in C may not tell
        return
    for parameter in parameters:
        is_variable = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if is_variable or parameter.default is not parameter.empty:
            continue
        if parameter.name not in facts:
            message = (
                f"{name}: the callable may require the parameters {' and '.join(_FACTS)}, "
                f"not {parameter.name}"
            )
            raise TypeError(message)
        is_by_name = parameter.kind is not parameter.POSITIONAL_ONLY
        yield (parameter.name if is_by_name else None), facts[parameter.name]
