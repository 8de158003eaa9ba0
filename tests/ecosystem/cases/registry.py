"""The cases, by name.

A case is a function that gets a :class:`tests.ecosystem.trial.Lab`, says what the API answers,
puts ``lab.session()`` or ``lab.auth()`` into the library and returns a function that makes one
call: ``call(number)``, whose result is the same for each number and can become JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Any

Make = Callable[[Any], Callable[[int], Any]]

#: Of what the trial sees, what must be so where a case says nothing else.
USUAL = {
    "client_refused": 0,
    "client_tokens": 1,
    "expired_refused": 0,
    "expired_tokens": 1,
    "revoked_refused": 1,
    "revoked_tokens": 1,
}

CASES: dict[str, Case] = {}


@dataclass(frozen=True)
class Case:
    """A way in which a library is used.

    :param name: of the case.
    :param package: the name of its distribution on PyPI.
    :param group: of its environment: ``requirements/<group>.txt``.
    :param how: how it is given a Client, for the page: reStructuredText.
    :param make: see above.
    :param before: called first of all, in the fresh process: imports that patch things.
    :param otherwise: what is not as usual.
    :param note: for the page: what the library does of its own.
    :param fails: why it does not work yet; for the page, too.
    """

    name: str
    package: str
    group: str
    how: str
    make: Make
    before: Callable[[], object] | None = None
    otherwise: Mapping[str, int | range] = field(default_factory=dict)
    note: str = ""
    fails: str = ""


def case(
    package: str,
    group: str,
    how: str,
    *,
    name: str | None = None,
    before: Callable[[], object] | None = None,
    otherwise: Mapping[str, int | range] | None = None,
    note: str = "",
    fails: str = "",
) -> Callable[[Make], Make]:
    """Make a case of the function."""

    def register(make: Make) -> Make:
        key = name or package
        assert key not in CASES, key
        CASES[key] = Case(key, package, group, how, make, before, otherwise or {}, note, fails)
        return make

    return register


def faults(case: Case, seen: Mapping[str, Any]) -> list[str]:
    """What is not as it should be in what was seen."""
    found = [
        f"{name} is {seen[name]}, expected {wanted}"
        for name, wanted in {**USUAL, **case.otherwise}.items()
        if not (seen[name] in wanted if isinstance(wanted, Container) else seen[name] == wanted)
    ]
    found.extend(
        f"{when}_result is {seen[f'{when}_result']!r}, not {seen['result']!r}"
        for when in ("client", "expired", "revoked")
        if seen[f"{when}_result"] != seen["result"]
    )
    if seen["client_requests"] != seen["plain_requests"]:
        found.append(
            f"{seen['client_requests']} requests a call; "
            f"with a plain Session it is {seen['plain_requests']}"
        )
    if not seen["plain_requests"]:
        found.append("the API saw no request")
    return found
