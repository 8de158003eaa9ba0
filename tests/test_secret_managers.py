"""The examples of docs/secret-managers.rst, each run against a stand-in for its library."""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.servers import Reply, Request, TokenServer
from tests.test_documentation import examples

PAGE = "docs/secret-managers.rst"


class Manager:
    """Holds a secret, and counts how often it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reads = 0
        self.rotate("secret")

    def rotate(self, secret: str) -> None:
        self.secret = secret
        self.path.write_text(f"{secret}\n", encoding="utf-8")

    def read(self) -> str:
        self.reads += 1
        return self.secret


def vault(manager: Manager) -> dict[str, Any]:
    def read_secret_version(*, path: str, raise_on_deleted_version: bool) -> dict[str, Any]:
        assert (path, raise_on_deleted_version) == ("reports", True)
        return {"data": {"data": {"client_secret": manager.read()}, "metadata": {"version": 3}}}

    def make(*, url: str, timeout: float) -> Any:
        assert (url, timeout) == ("https://vault.example.com", 5)
        v2 = SimpleNamespace(read_secret_version=read_secret_version)
        return SimpleNamespace(secrets=SimpleNamespace(kv=SimpleNamespace(v2=v2)))

    return {"hvac": {"Client": make}}


def aws(manager: Manager) -> dict[str, Any]:
    def get_secret_value(*, SecretId: str) -> dict[str, str]:  # noqa: N803
        return {"Name": SecretId, "SecretString": manager.read()}

    def make(service: str) -> Any:
        assert service == "secretsmanager"
        return SimpleNamespace(get_secret_value=get_secret_value)

    return {"boto3": {"client": make}}


def google(manager: Manager) -> dict[str, Any]:
    def access_secret_version(*, name: str, timeout: float) -> Any:
        assert name.endswith("/versions/latest")
        assert timeout == 5
        return SimpleNamespace(payload=SimpleNamespace(data=manager.read().encode()))

    service = SimpleNamespace(access_secret_version=access_secret_version)
    secretmanager = SimpleNamespace(SecretManagerServiceClient=lambda: service)
    return {"google.cloud": {"secretmanager": secretmanager}}


def azure(manager: Manager) -> dict[str, Any]:
    def get_secret(name: str) -> Any:
        return SimpleNamespace(name=name, value=manager.read())

    def make(vault_url: str, credential: object) -> Any:
        assert (vault_url, credential) == ("https://example.vault.azure.net", "a credential")
        return SimpleNamespace(get_secret=get_secret)

    return {
        "azure.identity": {"DefaultAzureCredential": lambda: "a credential"},
        "azure.keyvault.secrets": {"SecretClient": make},
    }


#: By what the example imports.
STAND_INS: dict[str, Callable[[Manager], dict[str, Any]]] = {
    "import pathlib": lambda _manager: {},
    "import hvac": vault,
    "import boto3": aws,
    "from google.cloud": google,
    "from azure": azure,
}


def test_each_example_has_a_stand_in() -> None:
    assert len(examples(PAGE)) == len(STAND_INS)


@pytest.mark.parametrize("imported", STAND_INS)
def test_a_rotated_secret_is_used_from_the_next_token_request_on(
    imported: str, tokens: TokenServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [example] = [code for code in examples(PAGE) if imported in code]
    manager = Manager(tmp_path / "client-secret")
    for name, members in STAND_INS[imported](manager).items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)

    def grant(request: Request) -> Reply:
        pair = base64.b64encode(f"client-id:{manager.secret}".encode()).decode()
        is_right = request.authorization == f"Basic {pair}"
        return tokens.granted() if is_right else Reply(401, {"error": "invalid_client"})

    tokens.script = grant
    code = example.replace("https://id.example.com", tokens.url)
    code = code.replace("/run/secrets/client-secret", str(manager.path))
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    with namespace["client"] as client:
        first = client.ensure_token()
        assert client.ensure_token() is first
        manager.rotate("another-secret")
        assert client.renew_token() != first
    assert len(tokens.requests) == 2
    assert manager.reads == (0 if imported == "import pathlib" else 2)
