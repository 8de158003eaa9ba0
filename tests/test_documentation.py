"""Every example of the README and the documentation, run as it stands but for the hosts.

Each runs in an interpreter of its own, as a reader would run it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import docutils.core
import docutils.nodes
import docutils.utils
import pytest

from tests.servers import Api, Reply, Request, TokenServer

ROOT = Path(__file__).parent.parent
PAGES = [
    "README.rst",
    "docs/index.rst",
    "docs/explanation.rst",
    "docs/guides.rst",
    "docs/other-clients.rst",
    "docs/storage.rst",
]

#: What some examples need to be there.
BEFORE = {
    "client.": """
import alf
client = alf.Client(token_endpoint=TOKEN_ENDPOINT, client_id="client-id", client_secret="secret")
""",
    "TokenAuth(client)": """
import alf
client = alf.Client(token_endpoint=TOKEN_ENDPOINT, client_id="client-id", client_secret="secret")
""",
    "django": """
import django.conf
django.conf.settings.configure()
""",
}

#: What calls what some examples define.
AFTER = {
    "def application(": """
statuses = []
assert application({}, lambda status, headers: statuses.append(status)) == [b'{"hello": "world"}']
""",
    "def fetch_report(": """
assert fetch_report.apply(args=[7]).get() == {"hello": "world"}
""",
    '@app.get("/reports")': """
assert app.test_client().get("/reports").get_json() == {"hello": "world"}
""",
    "def handler(": """
assert handler({}, None) == {"statusCode": 200, "body": '{"hello": "world"}'}
""",
    "def make_client(": """
client, another = make_client(), make_client()
assert client.ensure_token() == another.ensure_token()
""",
    "def session(": """
assert session() is session()
assert session().get(API).json() == {"hello": "world"}
""",
    "class ReportsClient(": """
client = ReportsClient(
    token_endpoint=TOKEN_ENDPOINT, client_id="client-id", client_secret="secret"
)
""",
}

#: Each session that an example makes can call the API; with a wrong secret it says why not.
CALLS = """
import requests
from alf import TokenError
sessions = [made for made in globals().values() if isinstance(made, requests.Session)]
for session in sessions:
    if IS_SECRET_WRONG:
        try:
            session.get(API)
        except TokenError:
            pass
        else:
            raise AssertionError("no TokenError")
    elif session is not globals().get("identity") and not session.proxies:
        assert session.get(API).status_code == 200
    session.close()
assert sessions
"""


def examples(page: str, language: str = "python") -> list[str]:
    """The examples of a page."""
    document = docutils.core.publish_doctree(
        (ROOT / page).read_text(encoding="utf-8").replace(".. toctree::", ".. comment::"),
        source_path=str(ROOT / page),
        settings_overrides={
            # Roles are Sphinx's, which checks them itself.
            "report_level": docutils.utils.Reporter.SEVERE_LEVEL,
            "halt_level": docutils.utils.Reporter.WARNING_LEVEL
            if page == "README.rst"
            else docutils.utils.Reporter.SEVERE_LEVEL,
            "file_insertion_enabled": False,
        },
    )
    return [
        block.astext()
        for block in document.findall(docutils.nodes.literal_block)
        if language in block["classes"]
    ]


def code_blocks() -> list[pytest.param]:
    return [
        pytest.param(block, id=f"{page}-{number}")
        for page in PAGES
        for number, block in enumerate(examples(page), 1)
    ]


@pytest.mark.parametrize("block", code_blocks())
def test_an_example_runs(
    block: str, tokens: TokenServer, api: Api, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    def grant(asked: Request) -> Reply:
        if asked.authorization == "Basic Y2xpZW50LWlkOnNlY3JldA==":  # client-id:secret
            return tokens.granted()
        return Reply(401, {"error": "invalid_client"})

    tokens.script = grant
    tokens.alive.add("a-token")
    original = api.script
    api.script = lambda asked: Reply() if asked.path in ("/health", "/legacy") else original(asked)
    before = "".join(code for word, code in BEFORE.items() if word in block)
    after = "".join(code for word, code in AFTER.items() if word in block)
    code = f"{before}{block}\n{after}"
    if "6379" in code:
        code = code.replace("6379", str(request.getfixturevalue("redis_port")))
    for there, here in {
        "http://example.com/token": tokens.endpoint,
        "https://id.example.com": tokens.url,
        "http://example.com": api.url,
        "https://api.example.com": api.url,
        '"api.example.com"': '"127.0.0.1"',
    }.items():
        code = code.replace(there, here)
    names = {
        "TOKEN_ENDPOINT": tokens.endpoint,
        "API": api.url,
        "IS_SECRET_WRONG": 'client_secret="wrong"' in block,
    }
    set_up = "".join(f"{name} = {value!r}\n" for name, value in names.items())
    done = subprocess.run(
        [sys.executable, "-c", f"{set_up}{code}\n{CALLS}"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OAUTHLIB_INSECURE_TRANSPORT": "1",
            "XDG_CACHE_HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert tokens.requests or "proxies" in block


def test_the_readme_names_pages_that_exist() -> None:
    text = (ROOT / "README.rst").read_text(encoding="utf-8")
    named = re.findall(r"``((?:docs|benchmarks)/\S+\.\w+|[A-Z]+\.rst)``", text)
    assert len(named) > 12
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_readme_shows_one_way_to_import_first() -> None:
    assert examples("README.rst")[0].startswith("from alf import Client\n")


def tutorial(*options: str, code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    is_typed = "-i" in options
    return subprocess.run(
        [sys.executable, "-W", "error", *options, *([] if is_typed else ["tutorial.py"])],
        input=code if is_typed else None,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_tutorial_as_a_file(tmp_path: Path) -> None:
    code = "\n".join(examples("docs/tutorial.rst"))
    (tmp_path / "tutorial.py").write_text(code, encoding="utf-8")
    done = tutorial(code=code, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_tutorial_typed_into_a_prompt_that_is_left_before_its_end(tmp_path: Path) -> None:
    code = "\n".join(examples("docs/tutorial.rst")[:-1])
    done = tutorial("-i", "-q", code=f"{code}\n", cwd=tmp_path)
    assert done.returncode == 0
    # What the prompt prints besides itself is an error.
    assert re.sub(r"(>>>|\.\.\.) ", "", done.stderr).strip() == ""
    assert "Token(token_type='Bearer'" in done.stdout
