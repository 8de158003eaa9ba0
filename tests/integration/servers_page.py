"""The table of docs/servers.rst, made from the tests of real authorization servers.

A test that is marked with ``capability`` stands for a cell. ``make servers-page`` writes the page.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.integration.programs import ROOT

PAGE = ROOT / "docs" / "servers.rst"

#: The columns, by the fixture that runs the server.
SERVERS = {
    "oidc_provider": "oidc-provider",
    "tls_oidc_provider": "oidc-provider",
    "django_oauth_toolkit": "Django OAuth Toolkit",
    "authlib_server": "Authlib",
    "keycloak": "Keycloak",
}

#: The rows, in order.
CAPABILITIES = [
    "client_secret_basic",
    "client_secret_post",
    "client_secret_jwt",
    *(f"private_key_jwt, {name}" for name in ("RS256", "PS256", "ES256", "EdDSA")),
    "tls_client_auth",
    "self_signed_tls_client_auth",
    "mtls_endpoint_aliases",
    "Client assertions of another issuer",
    "none",
    "Discovery",
    "Revocation",
    "Scopes",
    "Resource indicators",
    "Audience",
    "JWT access tokens",
    "Certificate-bound tokens",
    "DPoP",
    "DPoP with nonces of the token endpoint",
    "Token exchange (RFC 8693)",
    "JWT authorization grant (RFC 7523)",
]

BEGIN = ".. The table is made by the tests: make servers-page\n\n"
END = "\n.. End of the table\n"


class Collector:
    """A plugin of pytest that notes what the tests it collects stand for."""

    def __init__(self) -> None:
        self.cells: set[tuple[str, str]] = set()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            for mark in item.iter_markers("capability"):
                self.cells.update(_cells(item, mark.args[0]))


def _cells(item: pytest.Item, capability: str) -> Iterator[tuple[str, str]]:
    params = item.callspec.params if hasattr(item, "callspec") else {}
    name = capability.format(**params)
    if name not in CAPABILITIES:
        message = f"{item.nodeid}: {name!r} is not a row of the table"
        raise ValueError(message)
    fixtures = [params.get("authorization_server"), *getattr(item, "fixturenames", [])]
    for fixture in fixtures:
        if fixture in SERVERS:
            yield SERVERS[fixture], name


def make_table() -> str:
    """The table, in reStructuredText, of all tests in this folder."""
    collector = Collector()
    options = ["--collect-only", "--quiet", "--quiet", "-p", "no:cacheprovider"]
    # pytest would rewrite all that is installed with the fixtures of alf.testing: this module, too.
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    status = pytest.main([*options, str(ROOT / "tests" / "integration")], plugins=[collector])
    assert status == pytest.ExitCode.OK
    columns = list(dict.fromkeys(SERVERS.values()))
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in [["", *columns], *(_row(name, columns, collector.cells) for name in CAPABILITIES)]:
        lines += [f"   {'*' if at == 0 else ' '} - {cell}".rstrip() for at, cell in enumerate(row)]
    return "\n".join(lines) + "\n"


def _row(name: str, columns: list[str], cells: set[tuple[str, str]]) -> list[str]:
    return [name, *("yes" if (column, name) in cells else "no" for column in columns)]


def make_page() -> str:
    """The page, with its table anew."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    # In a process of its own: pytest does not run within pytest.
    command = [sys.executable, "-m", __spec__.name, "--table"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    table = done.stdout[done.stdout.index(".. list-table::") :]
    return f"{before}{BEGIN}{table}{END}{after}"


if __name__ == "__main__":
    if sys.argv[1:] == ["--table"]:
        sys.stdout.write(make_table())
    else:
        PAGE.write_text(make_page(), encoding="utf-8")
