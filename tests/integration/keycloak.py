"""Keycloak on loopback, for the tests: fetched from Maven Central, built once, run per session.

``make servers`` runs this module, which installs Keycloak into .venv. It needs Maven and Java.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import requests

from alf import Client
from tests.integration.apis import AuthorizationServer
from tests.integration.programs import ROOT

VERSION = "26.7.3"
HOME = ROOT / ".venv" / f"keycloak-{VERSION}"

#: Java releases that Keycloak runs on; it says that it will drop 17.
OLDEST_JAVA = 17

#: Seconds that it may take to start or to end, on a busy machine.
PATIENCE = 240

#: What is not tested is not loaded.
UNUSED_FEATURES = (
    "account account-api admin admin-fine-grained-authz authorization ciba device-flow docker "
    "identity-brokering-api impersonation kerberos opentelemetry opentelemetry-logs "
    "opentelemetry-metrics organization par passkeys passkeys-conditional-ui-authenticator "
    "recovery-codes step-up-authentication step-up-authentication-saml update-email web-authn "
    "workflows"
)
BUILD_OPTIONS = [
    "--db=dev-file",
    "--https-client-auth=request",
    f"--features-disabled={UNUSED_FEATURES.replace(' ', ',')}",
]

#: Small and quick to start, at the price of speed later on.
JAVA_OPTIONS = (
    "-Xms64m -Xmx512m -XX:MaxMetaspaceSize=256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 "
    "-Djava.security.egd=file:/dev/urandom"
)

ADMIN_SECRET = "admin secret of a test"
REALM = "alf"


def find_java() -> Path | None:
    """The home of the newest Java here, if there is one that Keycloak runs on."""
    homes = [Path(os.environ["JAVA_HOME"])] if "JAVA_HOME" in os.environ else []
    homes += Path("/usr/lib/jvm").glob("*")
    if java := shutil.which("java"):
        homes.append(Path(java).resolve().parents[1])
    releases = {}
    for home in homes:
        release = home / "release"
        text = release.read_text() if release.is_file() else ""
        if found := re.search(r'^JAVA_VERSION="(\d+)', text, re.MULTILINE):
            releases[int(found[1])] = home
    newest = max(releases, default=0)
    return releases[newest] if newest >= OLDEST_JAVA else None


def keycloak_or_skip() -> Path:
    """The home of Java; skips the test where Java or Keycloak is not installed."""
    java = find_java()
    if java is None:
        pytest.skip(f"Java {OLDEST_JAVA} or newer is not installed")
    if not _built().is_file():
        pytest.skip(f"Keycloak {VERSION} is not installed: run make servers")
    return java


def install() -> None:
    """Fetch Keycloak and build it with the features that the tests need."""
    options = " ".join(BUILD_OPTIONS)
    if _built().is_file() and _built().read_text() == options:
        return
    java = find_java()
    if java is None:
        message = f"Keycloak needs Java {OLDEST_JAVA} or newer"
        raise SystemExit(message)
    shutil.rmtree(HOME, ignore_errors=True)
    artifact = f"org.keycloak:keycloak-quarkus-dist:{VERSION}:zip"
    with tempfile.TemporaryDirectory() as folder:
        target = ["dependency:copy", f"-Dartifact={artifact}", f"-DoutputDirectory={folder}"]
        subprocess.run(["mvn", "--batch-mode", "--quiet", *target], check=True, cwd=folder)
        shutil.unpack_archive(next(Path(folder).glob("*.zip")), HOME.parent)
    subprocess.run(
        ["sh", HOME / "bin/kc.sh", "build", *BUILD_OPTIONS], check=True, env=_environment(java)
    )
    _built().write_text(options)


def _built() -> Path:
    """The options that Keycloak was built with."""
    return HOME / "built-for-tests"


def _environment(java: Path) -> dict[str, str]:
    return {**os.environ, "JAVA_HOME": str(java), "JAVA_OPTS": JAVA_OPTIONS}


class Keycloak:
    """A Keycloak of the tests' own, over TLS, with its database in ``folder``.

    :param files: the PEM files ``certificate``, ``key`` and ``ca``, the authority that vouches
        for Keycloak and for its clients.
    """

    def __init__(self, java: Path, folder: Path, files: Mapping[str, Path]) -> None:
        self._environment = {
            **_environment(java),
            "KC_BOOTSTRAP_ADMIN_CLIENT_ID": "admin",
            "KC_BOOTSTRAP_ADMIN_CLIENT_SECRET": ADMIN_SECRET,
        }
        self._folder = folder
        self._files = files
        self._port = _free_port()
        self._program: subprocess.Popen[bytes] | None = None
        self.url = f"https://127.0.0.1:{self._port}"
        self.verify = str(files["ca"])
        self.issuer = f"{self.url}/realms/{REALM}"

    def start(self) -> None:
        """Start it, and return when it answers."""
        command = [
            *("sh", HOME / "bin/kc.sh", "start", "--optimized", "--cache=local"),
            *("--http-host=127.0.0.1", f"--https-port={self._port}", f"--hostname={self.url}"),
            f"--https-certificate-file={self._files['certificate']}",
            f"--https-certificate-key-file={self._files['key']}",
            f"--https-trust-store-file={self._files['ca']}",
            f"--db-url=jdbc:h2:file:{self._folder}/keycloak;NON_KEYWORDS=VALUE",
        ]
        with (self._folder / "log").open("ab") as log:
            self._program = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self._folder, env=self._environment
            )
        deadline = time.monotonic() + PATIENCE
        while not self._is_ready():
            if self._program.poll() is not None or time.monotonic() > deadline:
                message = f"Keycloak did not start:\n{(self._folder / 'log').read_text()}"
                raise RuntimeError(message)
            time.sleep(0.2)

    def stop(self) -> None:
        """End it, and return when it has ended."""
        if self._program is None:
            return
        self._program.terminate()
        try:
            self._program.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._program.kill()
            raise
        finally:
            self._program = None

    def _is_ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/realms/master", verify=self.verify, timeout=10).ok
        except requests.RequestException:
            return False

    def admin(self) -> Client:
        """A client of the admin REST API."""
        client = Client(
            issuer=f"{self.url}/realms/master", client_id="admin", client_secret=ADMIN_SECRET
        )
        client.verify = self.verify
        client.trust_env = False  # REQUESTS_CA_BUNDLE would win
        return client

    def create_realm(self, realm: dict[str, Any]) -> AuthorizationServer:
        with self.admin() as admin:
            response = admin.post(f"{self.url}/admin/realms", json={"realm": REALM, **realm})
            assert response.status_code == 201, response.text
        return AuthorizationServer(self.issuer, verify=self.verify)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


if __name__ == "__main__":
    install()
