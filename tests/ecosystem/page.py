"""``docs/works-with.rst``, made of what the trials saw."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.ecosystem.cases import CASES

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "works-with.rst"

HEAD = """\
Works with
==========

A Client works with any library that takes a :class:`requests.Session`. If a library takes only an
``auth`` object, ``client.auth`` does the same on the library's own Session. ``make ecosystem`` runs
each row below, in the version shown, against a token endpoint and an API on loopback, and writes
this page from the results.

In each row the first call requests one token. It has the same result as with a plain
:class:`requests.Session` whose token never expires, and makes as many requests to the API.

Expired
    The token expired before the call: how many requests the API refused.
Revoked
    The token was revoked before the call: how many requests the API refused. The call succeeds.
Plain
    The same with a plain Session: how many requests the API refused. The call fails.

A row that says *fails* does not work yet, and gives the reason.

.. list-table::
   :header-rows: 1
   :widths: 22 10 40 8 8 8

   * - Library
     - Version
     - With a Client
     - Expired
     - Revoked
     - Plain
"""


def versions(group: str) -> dict[str, str]:
    """The pinned versions, by the names of the distributions in lower case."""
    text = (HERE / "requirements" / f"{group}.txt").read_text()
    pinned = re.findall(r"^([\w.-]+)(?:\[.*\])?==(\S+)", text, re.MULTILINE)
    return {name.lower().replace("_", "-"): version for name, version in pinned}


def make_page(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The page, which says the same for the same results."""
    rows = []
    for case in sorted(CASES.values(), key=lambda case: case.name.lower()):
        seen = results[case.name]
        version = versions(case.group)[case.package.lower().replace("_", "-")]
        how = " ".join(part for part in (f"{case.how}.", case.note, case.fails) if part)
        counts: list[Any] = ["fails"] * 3
        if not case.fails:
            revoked = case.otherwise.get("revoked_refused", seen["revoked_refused"])
            if isinstance(revoked, range):
                revoked = f"{revoked[0]} to {revoked[-1]}"
            counts = [seen["expired_refused"], revoked, seen["plain_refused"]]
        cells = [case.package, version, how, *counts]
        rows.append(
            "".join(f"   {'*' if not n else ' '} - {cell}\n" for n, cell in enumerate(cells))
        )
    return HEAD + "".join(rows)
