"""Measure alf and its peers against one local server: ``make bench``.

Prints a table. A whole run (no ``--only``, no ``--peers``) also writes it to results.md, with a
chart in results.svg. The measurements are in scenarios.py, the peers and their use in peers.py.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from peers import CONTROLS, PEERS, Peer
from scenarios import OUTAGE_CALLS, OUTAGE_LIFE, RENEWAL_LIFE, RENEWAL_LIFETIMES, TROUBLES, Result

HERE = Path(__file__).resolve().parent

#: The hot path is measured in so many processes a peer; the table has their median and range.
HOT_PATH_PROCESSES = 3

#: How many environment variables the measured processes have.
VARIABLES = 20

#: By scenario and peer; more than one only of the hot path.
Results = dict[tuple[str, str], list[Result]]


def the(key: str, form: str = ",.0f") -> Callable[[list[Result]], str]:
    return lambda results: format(statistics.median(one[key] for one in results), form)


def _ratio_range(results: list[Result]) -> str:
    ratios = [result["ratio"] for result in results]
    return f"{min(ratios):.3f} to {max(ratios):.3f}"


def _renewal(scenario: str, title: str) -> list[tuple[str, str, Callable[[list[Result]], str]]]:
    return [
        (scenario, f"{title}: calls", the("calls")),
        (scenario, "… slower than 250 ms", the("slow")),
        (scenario, "… failed", the("failed")),
        (scenario, "… the slowest, seconds", the("slowest", ".2f")),
        (scenario, "… token requests a lifetime", the("requests", ".1f")),
    ]


#: By the names that --only takes: the lines of the table, each with its scenario.
GROUPS = {
    "one-flight": [
        ("cold", "64 threads start without a token: token requests", the("requests")),
        ("cold", "… seconds until all have their answer", the("seconds", ".2f")),
        ("revoked", "32 threads, all tokens revoked: calls that end in a 401", the("seen_401")),
        ("revoked", "… token requests", the("requests")),
        ("failing", "32 threads, the endpoint says 503 after 1 s: requests", the("requests")),
        ("failing", "… seconds until all have their answer", the("seconds", ".2f")),
    ],
    "renewal": [
        *_renewal("renewal", f"16 threads, tokens of {RENEWAL_LIFE:.0f} s"),
        *_renewal("renewal, tuned", "The same, tuned"),
    ],
    "outage": [
        (
            f"outage, {trouble}{tuned}",
            f"Endpoint in trouble, {trouble}{tuned}: failed calls of {OUTAGE_CALLS}",
            the("failed"),
        )
        for tuned in ("", ", tuned")
        for trouble in TROUBLES
    ],
    "refused": [
        ("refused", "1,000 calls, every token refused: token requests", the("requests")),
    ],
    "hot-path": [
        ("hot path", "CPU a call, a bare Session's being 1", the("ratio", ".3f")),
        ("hot path", "… lowest and highest of the processes", _ratio_range),
        ("hot path", "… µs more or less than it", the("µs", "+.0f")),
        ("memory", "Memory added to a Session's own, kB", the("kilobytes", ".1f")),
        ("storage reads", "Storage reads in 1,000 calls", the("reads")),
    ],
}

#: The chart: scenario, key and heading of each panel; lower is better in all of them.
PANELS = [
    ("cold", "requests", "Token requests when\n64 threads start at once"),
    ("revoked", "seen_401", "Calls that end in a 401, of 32,\nwhen the token is revoked"),
    ("failing", "requests", "Token requests of 32 threads\nwhile the endpoint says 503"),
    (
        "renewal",
        "hurt_percent",
        "Calls that renewal slows or fails, %\n(tokens of 3 s, default settings)",
    ),
    (
        "outage, 503",
        "failed",
        f"Failed calls of {OUTAGE_CALLS} with a live token\nin an outage (default settings)",
    ),
    ("refused", "requests", "Token requests in 1,000 refused calls\n(1: a refusal renews nothing)"),
    ("hot path", "ratio", "CPU a call\n(bare Session: 1)"),
    ("memory", "kilobytes", "Memory added to\na Session's own, kB"),
]

CAVEATS = f"""
- One machine, loopback, plain HTTP, one run. Times vary with the machine's load, and so do, by a
  few calls, the counts that depend on the moment at which a token dies (renewal, outage). One
  server, in a process of its own, answers all. Each measurement has an endpoint of its own in it,
  and is made in a process of its own, in an environment that holds one peer and what it needs.
- Renewal: {RENEWAL_LIFETIMES} lifetimes, the endpoint takes 300 ms, each thread pauses 50 ms
  between its calls. Peers that renew a fixed time before expiry renew such tokens at every call.
  "Tuned" is what their settings can do about that: a leeway of a twentieth of the life, which is
  alf's, or google-auth's renewal in a thread. alf renews at three quarters of a token's life,
  hence more than one request a lifetime.
- Outage: the token lives {OUTAGE_LIFE:.0f} s, the endpoint is in trouble once it is out, and
  {OUTAGE_CALLS} calls are spread over its life but the last fiftieth. That stands for the stretch
  before expiry in which a peer wants to renew. All wait 1 s for the endpoint.
- Refused tokens: 200 calls a second. A peer with 1 token request never heals a refused token.
- The measured processes have {VARIABLES} environment variables, as a small container has: requests
  reads all of them twice at each call, so their number weighs on its cost.
- Hot path: GETs through an adapter that answers at once, 400 rounds of 20 calls that take turns
  with rounds of a bare `requests.Session` with the token in its `headers`, all in one process;
  `time.process_time`, ratio of medians, the median of {HOT_PATH_PROCESSES} processes. It is
  below 1 because a Session without `auth` looks for a `.netrc` file at each call, and one with
  `auth` does not. "requests" is the bare Session against itself: the noise. "requests, no .netrc"
  is the bare Session with an `auth` that does nothing: what a client has more than that is its own.
- Memory: `tracemalloc`, 50 clients that have a token and have made a call, with their connection
  to the endpoint where they keep one, less 50 bare Sessions that have made a call.
- A dash: the peer has no such setting, or takes no storage that reads could be counted in.
"""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def environment(peer: Peer) -> str:
    """The interpreter of the peer's own environment, which is made where it is missing."""
    home = HERE / ".venvs" / peer.name.partition(",")[0].replace(" ", "-")
    python = home / ("Scripts" if os.name == "nt" else "bin") / "python"
    stamp = home / "installed"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != peer.requirement:
        say(f"installing {peer.name} …")
        venv.create(home, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*pip, peer.requirement, "requests"], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        stamp.write_text(peer.requirement, encoding="utf-8")
    return str(python)


def versions(peer: Peer) -> str:
    # -I: the distribution in the working directory is not the one that was measured.
    code = "import sys, importlib.metadata as m; print(*map(m.version, sys.argv[1:]))"
    names = [peer.name.partition(" ")[0], "requests", "urllib3"]
    found = subprocess.check_output(
        [environment(peer), "-I", "-c", code, *names], text=True
    ).split()
    return ", ".join(map(" ".join, zip(names, found, strict=True)))


@contextmanager
def serving() -> Iterator[str]:
    """The server's address, while it runs."""
    command, pipe = [sys.executable, str(HERE / "server.py")], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()  # it ends when the pipe to it is closed


def measure(scenario: str, peer: Peer, server: str) -> Result:
    start = time.monotonic()
    command = [environment(peer), str(HERE / "scenarios.py"), scenario, peer.name, server]
    variables = {name: os.environ[name] for name in ("HOME", "SYSTEMROOT") if name in os.environ}
    variables |= {f"SETTING_{number}": "value" for number in range(VARIABLES - len(variables))}
    done = subprocess.run(command, capture_output=True, text=True, env=variables)
    if done.returncode:
        message = f"{scenario}, {peer.name}:\n{done.stderr}"
        raise SystemExit(message)
    result: Result = json.loads(done.stdout)
    shown = ", ".join(f"{key} {value:.6g}" for key, value in result.items())
    say(f"  {scenario}, {peer.name}: {shown}  [{time.monotonic() - start:.1f} s]")
    return result


def applies(scenario: str, peer: Peer) -> bool:
    if scenario.endswith("tuned"):
        return bool(peer.tuned)
    return peer.has_storage or scenario != "storage reads"


def measure_all(groups: list[str], peers: list[Peer]) -> Results:
    results: Results = {}
    with serving() as server, ThreadPoolExecutor() as pool:
        for group in groups:
            say(group)
            scenarios = list(dict.fromkeys(scenario for scenario, *_ in GROUPS[group]))
            if group == "outage":
                # Hardly any load, and counts only: all of one peer's at once.
                for peer in peers:
                    named = [scenario for scenario in scenarios if applies(scenario, peer)]
                    jobs = {one: pool.submit(measure, one, peer, server) for one in named}
                    results |= {(one, peer.name): [job.result()] for one, job in jobs.items()}
                continue
            for scenario in scenarios:
                is_hot = scenario == "hot path"
                for _ in range(HOT_PATH_PROCESSES if is_hot else 1):
                    for peer in [*peers, *CONTROLS.values()] if is_hot else peers:
                        if applies(scenario, peer):
                            result = measure(scenario, peer, server)
                            results.setdefault((scenario, peer.name), []).append(result)
    return results


def table(groups: list[str], peers: list[Peer], results: Results) -> str:
    names = [peer.name for peer in peers] + list(CONTROLS) * ("hot-path" in groups)
    lines = [["", *names]]
    for scenario, label, cell in (row for group in groups for row in GROUPS[group]):
        found = [results.get((scenario, name)) for name in names]
        lines.append([label, *("-" if one is None else cell(one) for one in found)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    padded = (
        [cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines
    )
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def report(made: str, peers: list[Peer]) -> str:
    notes = [
        f"- **{peer.name}** ({versions(peer)}). {peer.note}"
        + (f" Tuned: {peer.tuned}." if peer.tuned else "")
        for peer in peers
    ]
    return f"""# alf and its peers, measured

Made by `make bench` on {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC with Python
{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores.

![The same in a chart](results.svg)

{made}

## What to know when reading it
{CAVEATS}
## The peers, and how each is used

{chr(10).join(notes)}
"""


def chart(peers: list[Peer], results: Results, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "alf", "font.size": 9})
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 4, sharey=True, figsize=(13, 5.6), layout="constrained")
    names = [peer.name for peer in peers]
    colours = ["#c8402f" if name == "alf" else "#9aa5b1" for name in names]
    for panel, (scenario, key, heading) in zip(axes.flat, PANELS, strict=True):
        form = {"ratio": ".2f", "hurt_percent": ".1f"}.get(key, ",.0f")
        values = [statistics.median(one[key] for one in results[scenario, name]) for name in names]
        bars = panel.barh(names, values, color=colours)
        panel.bar_label(bars, [format(value, form) for value in values], padding=3)
        panel.set_title(heading, fontsize=9, loc="left")
        panel.set_xlim(0, max(*values, 1) * 1.25)
        panel.xaxis.set_visible(False)
        panel.spines[["top", "right", "bottom"]].set_visible(False)
        panel.tick_params(left=False)
    axes[0][0].invert_yaxis()
    figure.supxlabel("Less is better. How this was measured, and what to know of it: results.md")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    chosen = parser.parse_args()
    groups = [group for group in GROUPS if group in chosen.only]
    peers = [peer for name, peer in PEERS.items() if name in chosen.peers]
    for peer in [*peers, *CONTROLS.values()]:
        environment(peer)
    start = time.monotonic()
    results = measure_all(groups, peers)
    say(f"measured in {time.monotonic() - start:.0f} s")
    made = table(groups, peers, results)
    print(made)
    if len(groups) == len(GROUPS) and len(peers) == len(PEERS):
        (HERE / "results.md").write_text(report(made, peers), encoding="utf-8")
        chart(peers, results, HERE / "results.svg")
        say(f"written: {HERE / 'results.md'} and results.svg")


if __name__ == "__main__":
    main()
