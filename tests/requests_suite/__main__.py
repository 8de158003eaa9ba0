"""Run requests' own test suite with a Client in the place of its Session.

``python -m tests.requests_suite [OPTION OF PYTEST …]``. The tests are those in requests' source
distribution on PyPI. A test that fails with a plain Session as well says nothing about alf.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
HOME = ROOT / ".venvs" / "requests-suite"

VERSION = "2.34.2"
REQUIREMENTS = [f"requests[socks]=={VERSION}", "pytest", "pytest-httpbin", "pytest-mock", "trustme"]

#: What a Client does otherwise on purpose: it sends its token, not a password from .netrc.
DIFFERENT = {
    "tests.test_requests.TestRequests::test_basicauth_with_netrc",
    "tests.test_requests.TestRequests::test_basicauth_with_netrc_leak",
}


def set_up() -> None:
    """Make the environment and unpack the suite, if they are not there."""
    stamp = HOME / "stamp"
    wanted = hashlib.sha256(repr((REQUIREMENTS, sys.version)).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", HOME], check=True)
    pip = [HOME / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", *REQUIREMENTS], check=True)
    source = ["--no-deps", "--no-binary", "requests", f"requests=={VERSION}"]
    subprocess.run([*pip, "download", *source, "--dest", HOME], check=True)
    with tarfile.open(HOME / f"requests-{VERSION}.tar.gz") as archive:
        archive.extractall(HOME)
    stamp.write_text(wanted)


def failures(*options: str) -> tuple[set[str], int]:
    """The tests that failed, and how many ran."""
    report = HOME / "report.xml"
    report.unlink(missing_ok=True)
    # Not from the root of alf, whose tests are a package of the same name.
    shutil.copy(HERE / "client_as_session.py", HOME)
    variables = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    variables["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(HOME)])
    pytest = [HOME / "bin" / "python", "-m", "pytest", "-q", "--override-ini=addopts=", "-Wignore"]
    subprocess.run(
        [*pytest, f"--junit-xml={report}", "--tb=short", *options, "tests"],
        cwd=HOME / f"requests-{VERSION}",
        env=variables,
        check=False,
    )
    cases = list(ET.parse(report).iter("testcase"))
    failed = {
        f"{case.get('classname')}::{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    }
    return failed, len(cases)


def main() -> int:
    set_up()
    print("== with a Client", flush=True)
    with_client, count = failures("-p", "client_as_session", *sys.argv[1:])
    print("== those that failed, with a Session", flush=True)
    with_session, _ = failures("--last-failed", "--last-failed-no-failures=none", *sys.argv[1:])
    different = with_client - with_session
    if not sys.argv[1:] and not different >= DIFFERENT:
        print("== the tests that must be different are not: did a Client take the Session's place?")
        return 1
    print(f"== {count} tests; different with a Client: {', '.join(sorted(different)) or 'none'}")
    unexpected = different - DIFFERENT
    if unexpected:
        print("== not on purpose:", *sorted(unexpected), sep="\n   ")
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
