"""Caches the settings that requests reads from the environment while that stays the same.

requests reads every environment variable twice per call to find proxies. That takes half of a
call's CPU time with 20 variables, and nearly all of it with thousands. No rule of requests is
repeated here: an answer of its own method is reused as long as the environment is equal to the
snapshot that was taken with that answer.
"""

from __future__ import annotations

import os
import urllib.request
from operator import is_
from types import FunctionType, MethodType
from typing import Any
from urllib.parse import urlsplit

import requests
from requests import sessions, utils

#: At most this many answers are kept with a snapshot: one for each combination of settings.
_MAX_ANSWERS = 64

#: Types whose equal values are the same setting. 1 and True are equal, but not the same.
_PLAIN_TYPES = frozenset({type(None), bool, str})

_ENVIRONMENT_TYPE = getattr(os, "_Environ", None)
_ENVIRONMENT_ATTRIBUTES = len(getattr(os.environ, "__dict__", ()))
_MERGE = requests.Session.merge_environment_settings
# The stubs lack some of their attributes.
_sessions: Any = sessions
_utils: Any = utils
_stdlib: Any = urllib.request


def _functions() -> tuple[Any, ...]:
    """The functions that an answer depends on and that a program may replace."""
    return (
        _sessions.merge_setting,
        _sessions.get_environ_proxies,
        _utils.should_bypass_proxies,
        _utils.getproxies,
        _utils.proxy_bypass,
        _stdlib.getproxies_environment,
        _stdlib.proxy_bypass_environment,
    )


def _are_original() -> bool:
    """Whether these functions are those of requests and of the standard library.

    Never on macOS and Windows, where the settings of the system count as well.
    """
    modules = (_sessions, _sessions, _utils, _utils, *[_stdlib] * 4)
    return (
        all(
            isinstance(function, FunctionType) and function.__globals__ is vars(module)
            for function, module in zip((_MERGE, *_FUNCTIONS), modules, strict=True)
        )
        and _utils.getproxies is _stdlib.getproxies_environment
        and _utils.proxy_bypass is _stdlib.proxy_bypass_environment
    )


_FUNCTIONS = _functions()
_ARE_ORIGINAL = _are_original()


class _Snapshot:
    """The environment at one moment, and the answers of requests at that moment."""

    __slots__ = ("answers", "has_proxies", "variables")

    def __init__(self, variables: dict[bytes, bytes]) -> None:
        self.variables = variables
        self.has_proxies = any(name[-6:].lower() == b"_proxy" for name in variables)
        self.answers: dict[tuple[Any, ...], dict[str, Any]] = {}


class EnvironmentSettings:
    """Answers ``Session.merge_environment_settings`` from memory, or lets requests answer.

    One object serves all Sessions and threads of the process. It needs no lock: a snapshot is
    replaced as a whole, and an answer is stored only with the snapshot that it belongs to.
    """

    def __init__(self) -> None:
        self._snapshot = _Snapshot({})

    def merge(
        self,
        session: requests.Session,
        merge: Any,
        url: Any,
        proxies: Any,
        stream: Any,
        verify: Any,
        cert: Any,
    ) -> Any:
        """What ``merge`` returns for these arguments.

        :param merge: the session's next ``merge_environment_settings``. It is always called if
            it is not requests' own method, or if anything about the call is unusual.
        """
        variables = _variables()
        if (
            variables is None
            or type(merge) is not MethodType
            or merge.__func__ is not _MERGE
            or session.trust_env is not True
            or type(proxies) is not dict
            or type(session.proxies) is not dict
            or proxies
            or session.proxies
            or not _can_be_parsed(url)
        ):
            return merge(url, proxies, stream, verify, cert)
        settings = (stream, verify, cert, session.stream, session.verify, session.cert)
        if not _PLAIN_TYPES.issuperset(map(type, settings)) and not all(map(_is_plain, settings)):
            return merge(url, proxies, stream, verify, cert)
        snapshot = self._snapshot
        if snapshot.variables != variables:
            snapshot = self._snapshot = _Snapshot(variables.copy())
        if snapshot.has_proxies:
            return merge(url, proxies, stream, verify, cert)
        answer = snapshot.answers.get(settings)
        if answer is not None:
            return _copy(answer)
        before = variables.copy()
        answer = merge(url, proxies, stream, verify, cert)
        if (
            len(snapshot.answers) < _MAX_ANSWERS
            and before == snapshot.variables
            and _variables() is variables
            and _is_untouched(before, variables.copy())
            and _can_be_kept(answer, settings, before)
        ):
            snapshot.answers[settings] = _copy(answer)
        return answer


environment_settings = EnvironmentSettings()


def _variables() -> dict[bytes, bytes] | None:
    """CPython's dict behind ``os.environ``; ``None`` if anything about it is not standard."""
    environment = os.environ
    if (
        type(environment) is not _ENVIRONMENT_TYPE
        # A test may have replaced os.environ.get.
        or len(vars(environment)) != _ENVIRONMENT_ATTRIBUTES
        or not _ARE_ORIGINAL
        or _functions() != _FUNCTIONS
    ):
        return None
    variables = vars(environment).get("_data")
    return variables if type(variables) is dict else None


def _can_be_parsed(url: Any) -> bool:
    """Whether the URL has a host for requests. Without proxies it does not matter which."""
    if type(url) is not str:
        return False
    try:
        # The same arguments as from urlparse(), because the result is cached by them.
        urlsplit(url, "", True)
    except ValueError:
        return False
    return True


def _is_plain(value: Any) -> bool:
    if type(value) is tuple:
        return all(type(one) is str for one in value)
    return type(value) in _PLAIN_TYPES


def _is_untouched(before: dict[bytes, bytes], after: dict[bytes, bytes]) -> bool:
    """Whether no variable was changed in the meantime, not even back and forth.

    A variable that was removed and set again is another object at another place. One that was
    added and removed again leaves no trace here: see :func:`_can_be_kept`.
    """
    return (
        len(before) == len(after)
        and all(map(is_, before, after))
        and all(map(is_, before.values(), after.values()))
    )


def _can_be_kept(
    answer: dict[str, Any], settings: tuple[Any, ...], variables: dict[bytes, bytes]
) -> bool:
    """Whether an answer has only immutable, known values besides its empty proxies.

    Anything else comes from a variable that another thread set for a moment.
    """
    others = dict(answer)
    proxies = others.pop("proxies", None)
    return (
        isinstance(proxies, dict)
        and not proxies
        and all(
            _is_plain(value)
            and (
                value in settings
                or (type(value) is str and os.fsencode(value) in variables.values())
            )
            for value in others.values()
        )
    )


def _copy(answer: dict[str, Any]) -> dict[str, Any]:
    """A copy of the answer that the caller may change."""
    return {**answer, "proxies": answer["proxies"].copy()}
