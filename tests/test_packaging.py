"""The distribution: what is in it, what it needs, and that it works where nothing else is."""

from __future__ import annotations

import configparser
import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.message import Message
from pathlib import Path

import pytest

import alf
from tests.servers import Api, TokenServer
from tests.test_documentation import ROOT, examples

#: What a checkout of the project has in it, and more.
SOURCES = ["alf", "benchmarks", "docs", "examples", "tests"]


def run(*command: str | Path, cwd: Path) -> str:
    """What the command prints; nothing of this environment is there for it."""
    kept = {"HOME", "LANG", "PATH", "TMPDIR"}
    settings = {
        name: text
        for name, text in os.environ.items()
        if name in kept or name.startswith("PIP_") or name.lower().endswith("_proxy")
    }
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=settings,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that is built from it."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        shutil.copytree(
            ROOT / name,
            source / name,
            ignore=shutil.ignore_patterns("node_modules", "_build", ".venvs"),
        )
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, source)
    built = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", built, cwd=source)
    return built


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    (path,) = distributions.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"alf-{alf.__version__}.dist-info/METADATA").decode()
    return email.message_from_string(text)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment in which the wheel was installed, and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    run(programs / "python", "-m", "pip", "install", "--quiet", wheel, cwd=folder)
    return programs


def modules(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if name.startswith(f"{folder}/") and name.endswith(".py")}


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    package = [str(path.relative_to(ROOT)) for path in (ROOT / "alf").rglob("*.py")]
    assert sorted(names) == sorted([*package, "alf/py.typed", "_alf_pytest.py"])


def test_the_sdist_holds_the_tests_and_the_documentation(distributions: Path) -> None:
    (path,) = distributions.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    for folder in SOURCES:
        here = [str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*.py")]
        here = [name for name in here if "node_modules" not in name and ".venvs" not in name]
        assert modules(folder, here) == modules(folder, names)
    for name in ("CHANGELOG.rst", "LICENSE", "Makefile", "README.rst", "SECURITY.rst", "tox.ini"):
        assert name in names
    assert not [name for name in names if "node_modules" in name or name.endswith(".pyc")]


def test_a_package_index_can_show_it(distributions: Path) -> None:
    paths = [str(path) for path in distributions.iterdir()]
    assert len(paths) == 2
    run(sys.executable, "-m", "twine", "check", "--strict", *paths, cwd=distributions)


def test_it_needs_requests_and_urllib3_alone(metadata: Message) -> None:
    needed = [name for name in metadata.get_all("Requires-Dist", []) if "extra ==" not in name]
    assert len(needed) == 2
    # What is named as the oldest is what the suite is run with.
    tox = configparser.ConfigParser()
    tox.read(ROOT / "tox.ini")
    oldest = tox["testenv"]["deps"].replace("oldest: ", "").split()
    assert sorted(needed) == sorted(name.replace("==", ">=") for name in oldest)


def test_the_license_is_an_spdx_expression(metadata: Message) -> None:
    assert metadata["License-Expression"] == "MIT"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert not [text for text in metadata.get_all("Classifier", []) if text.startswith("License")]


def test_the_pythons_of_the_classifiers_are_those_of_the_matrix(metadata: Message) -> None:
    tox = configparser.ConfigParser()
    tox.read(ROOT / "tox.ini")
    (minors,) = re.findall(r"py3\{([\d,]+)\}", tox["tox"]["envlist"])
    classifiers = metadata.get_all("Classifier", [])
    named = [text for text in classifiers if re.search(r":: 3\.\d+$", text)]
    prefix = "Programming Language :: Python :: 3."
    assert named == [f"{prefix}{minor}" for minor in minors.split(",")]
    assert metadata["Requires-Python"] == f">=3.{minors.split(',')[0]}"


def test_the_benchmarks_come_with_their_results(distributions: Path) -> None:
    (path,) = distributions.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    assert {"benchmarks/results.md", "benchmarks/results.svg"} <= set(names)


def test_the_version_is_said_once(metadata: Message) -> None:
    assert metadata["Version"] == alf.__version__


def test_nothing_else_is_installed_with_it(installed: Path) -> None:
    listed = run(installed / "python", "-m", "pip", "list", "--format=freeze", cwd=installed)
    names = {line.partition("==")[0].lower() for line in listed.splitlines()}
    of_requests = {"certifi", "charset-normalizer", "idna", "requests", "urllib3"}
    assert names - {"pip", "setuptools", "wheel"} == {"alf", *of_requests}


def test_the_readme_example_of_alf_0_7_runs_where_nothing_else_is(
    installed: Path, tokens: TokenServer, api: Api, tmp_path: Path
) -> None:
    [example] = [code for code in examples("README.rst") if "alf.put(" in code]
    example = example.replace("http://example.com/token", tokens.endpoint)
    script = tmp_path / "example.py"
    script.write_text(example.replace("http://example.com", api.url), encoding="utf-8")
    run(installed / "python", "-W", "error", script, cwd=tmp_path)
    assert [request.method for request in api.requests] == ["PUT", "GET", "DELETE"]
    assert api.requests[0].body == b'{"name": "alf"}'
    assert api.refused == 0
    assert len(tokens.requests) == 1


@pytest.mark.parametrize("command", [["alf"], ["python", "-m", "alf"]])
def test_the_command_is_installed(
    installed: Path, tokens: TokenServer, tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "secret").write_text("secret\n")
    printed = run(
        installed / command[0],
        *command[1:],
        "token",
        f"--token-endpoint={tokens.endpoint}",
        "--client-id=client-id",
        "--client-secret-file=secret",
        cwd=tmp_path,
    )
    assert printed == "token-1\n"


def test_pytest_finds_the_fixtures(wheel: Path, tmp_path: Path) -> None:
    folder = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder]
    run(*pip, wheel, cwd=tmp_path)
    (tmp_path / "conftest.py").write_text("import sys; assert 'alf' not in sys.modules")
    (tmp_path / "test_it.py").write_text(
        "def test(alf_client, alf_api): assert alf_client.get(alf_api.url).ok"
    )
    code = f"import sys, pytest; sys.path.insert(0, {str(folder)!r}); sys.exit(pytest.main())"
    assert "1 passed" in run(sys.executable, "-c", code, cwd=tmp_path)


def test_every_module_can_be_imported_without_extras(installed: Path, tmp_path: Path) -> None:
    names = [f"alf.{path.stem}" for path in (ROOT / "alf").glob("*.py") if path.stem[0] != "_"]
    assert "alf.client" in names
    code = f"import {', '.join(names)}"
    run(installed / "python", "-W", "error", "-c", code, cwd=tmp_path)


def test_importing_alf_imports_requests_and_nothing_else(installed: Path, tmp_path: Path) -> None:
    code = """
import sys, requests
before = set(sys.modules)
import alf
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(new - set(sys.stdlib_module_names)))
"""
    assert run(installed / "python", "-c", code, cwd=tmp_path) == "['alf']\n"
