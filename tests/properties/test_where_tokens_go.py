"""Whatever the URL, and wherever redirects lead: the token reaches no host that it should not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
import pytest
import requests
import trustme
from hypothesis import given
from hypothesis import strategies as st

from alf import Client, NoAuth
from alf.dpop import DPoPKey
from tests.servers import Reply, Request, Server, TokenServer, running

#: A name and a password for every host that there is.
NETRC = "default login netrc password netrc\n"
BASIC_OF_NETRC = "Basic bmV0cmM6bmV0cmM="

KEY = DPoPKey()


@dataclass(frozen=True)
class Hop:
    """One place on the way, and how it sends on: with which status, and to which form of URL."""

    origin: str
    status: int = 302
    spelling: str = "{origin}/{number}"
    refuses: bool = False

    def url(self, number: int) -> str:
        scheme, _, place = self.origin.partition("://")
        return self.spelling.format(
            origin=self.origin, scheme=scheme, place=place, upper=place.upper(), number=number
        )


@dataclass
class Way:
    """A chain of redirects, and what was seen at each of its hops."""

    hops: list[Hop]
    seen: list[tuple[str, int, str | None]] = field(default_factory=list)
    dead: set[str] = field(default_factory=set)
    proofs: list[str | None] = field(default_factory=list)

    def answer(self, origin: str, number: int, request: Request) -> Reply:
        authorization = request.authorization
        self.seen.append((origin, number, authorization))
        self.proofs.append(request.headers["DPoP"])
        hop = self.hops[number]
        if hop.refuses and (authorization or "").startswith(("Bearer", "DPoP")) and not self.dead:
            self.dead.add(authorization)
        if authorization in self.dead:
            return Reply(401, b"", {"WWW-Authenticate": "Bearer"})
        if number + 1 == len(self.hops):
            return Reply(body={"hello": "world"})
        return Reply(hop.status, b"", {"Location": self.hops[number + 1].url(number + 1)})


def hops(origins: list[str]) -> st.SearchStrategy[list[Hop]]:
    """Chains over these origins that come back to one often enough."""
    spellings = [
        "{origin}/{number}",
        "{origin}/{number}?a=b#c",
        "{scheme}://{upper}/{number}",
        "{scheme}://user:pass@{place}/{number}",
        "{scheme}://api.example.com@{place}/{number}",
        "{scheme}://api.example.com%40{place}@{place}/{number}",
    ]
    hop = st.builds(
        Hop,
        origin=st.sampled_from(origins[:2]) | st.sampled_from(origins),
        status=st.sampled_from([301, 302, 303, 307, 308]),
        spelling=st.sampled_from(spellings),
        refuses=st.booleans(),
    )
    return st.lists(hop, min_size=1, max_size=5)


@pytest.fixture(scope="module")
def module_tokens() -> Iterator[TokenServer]:
    with running(TokenServer()) as server:
        yield server


@pytest.fixture
def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For whom asks with trust_env: the others are told not to."""
    file = tmp_path / "netrc"
    file.write_text(NETRC)
    monkeypatch.setenv("NETRC", str(file))


def client_of(tokens: TokenServer, **options: Any) -> Client:
    return Client(
        token_endpoint=tokens.endpoint,
        client_id="client-id",
        client_secret="top-secret",
        **options,
    )


def travel(
    way: Way,
    tokens: TokenServer,
    *,
    trust_env: bool,
    token_hosts: list[str] | None = None,
    is_bound: bool = False,
    **options: Any,
) -> requests.Response:
    tokens.requests.clear()
    tokens.members = {"token_type": "DPoP"} if is_bound else {}
    dpop = KEY if is_bound else None
    with client_of(tokens, token_hosts=token_hosts, dpop=dpop) as client:
        client.trust_env = trust_env
        return client.get(way.hops[0].url(0), **options)


def check(way: Way, *, allowed: bool, is_netrc_there: bool) -> None:
    """What must hold of a way that began with the token, if its first host may see it."""
    first = way.seen[0][0]
    others = {None, BASIC_OF_NETRC} if is_netrc_there else {None}
    has_left = False
    for origin, _, authorization in way.seen:
        has_left = has_left or origin != first
        if allowed and not has_left:
            assert re.fullmatch(r"(Bearer|DPoP) token-\d+", authorization or ""), way.seen
        else:
            assert authorization in others, way.seen


def check_proofs(way: Way) -> None:
    """A proof goes where the token goes, is of this very place, and is never used twice."""
    ids = set()
    for (origin, number, authorization), proof in zip(way.seen, way.proofs, strict=True):
        assert (proof is not None) is (authorization or "").startswith("DPoP")
        if proof is not None:
            claims = jwt.decode(proof, options={"verify_signature": False})
            assert origin_of(claims["htu"]) == origin
            assert urlsplit(claims["htu"])[2:] == (f"/{number}", "", "")
            ids.add(claims["jti"])
    assert len(ids) == len(way.proofs) - way.proofs.count(None)


def origin_of(url: str) -> str:
    parts = urlsplit(url)
    return f"http {parts.hostname} {parts.port or 80}"


# -- hosts that are there ----------------------------------------------------------------------


@dataclass
class Hosts:
    """Servers at several addresses of this machine, which all tell the way they are given."""

    origins: list[str]
    bundle: str
    way: Way

    def answer(self, origin: str, request: Request) -> Reply:
        number = int(urlsplit(request.path).path.lstrip("/"))
        # By the server's own address, and by the name that it was called.
        name = urlsplit(f"//{request.headers['Host']}").hostname
        return self.way.answer(f"{origin} as {name}", number, request)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    ca = trustme.CA()
    bundle = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(str(bundle))
    all_hosts = Hosts([], str(bundle), Way([]))
    with (
        running(Server(lambda request: all_hosts.answer("first", request))) as first,
        running(Server(lambda request: all_hosts.answer("second", request))) as second,
        running(Server(lambda request: all_hosts.answer("third", request), "127.0.0.2")) as third,
        running(Server(lambda request: all_hosts.answer("fourth", request))) as fourth,
    ):
        fourth.use_tls(ca.issue_cert("127.0.0.1", "localhost"))
        all_hosts.origins = [
            first.url,
            f"http://localhost:{first.port}",
            second.url,
            third.url,
            fourth.url,
            f"https://localhost:{fourth.port}",
        ]
        yield all_hosts


@given(st.data(), st.booleans())
def test_redirects_between_hosts(
    hosts: Hosts, module_tokens: TokenServer, netrc: None, data: st.DataObject, trust_env: bool
) -> None:
    way = hosts.way = Way(data.draw(hops(hosts.origins)))
    response = travel(way, module_tokens, trust_env=trust_env, verify=hosts.bundle)
    check(way, allowed=True, is_netrc_there=trust_env)
    # A refusal on the way was healed where the token was refused, and only there.
    assert response.status_code == 200
    assert len(module_tokens.requests) == 1 + len(way.dead)
    arrivals = [number for _, number, _ in way.seen]
    assert len(arrivals) == len(way.hops) + len(way.dead)


@given(st.data(), st.booleans(), st.sampled_from([("user", "pass"), NoAuth()]))
def test_redirects_of_a_call_with_auth_of_its_own(
    hosts: Hosts,
    module_tokens: TokenServer,
    netrc: None,
    data: st.DataObject,
    trust_env: bool,
    auth: Any,
) -> None:
    way = hosts.way = Way(data.draw(hops(hosts.origins)))
    travel(way, module_tokens, auth=auth, trust_env=trust_env, verify=hosts.bundle)
    assert not module_tokens.requests
    assert not [seen for _, _, seen in way.seen if seen is not None and "Bearer" in seen]


# -- hosts of any name, by way of a proxy --------------------------------------------------------

NAMES = [
    "api.example.com",
    "api.example.com.",
    "API.example.com",
    "example.com",
    "api.example.com.evil.example",
    "evil-api.example.com",
    "deep.api.example.com",
    "xn--bcher-kva.example",
    "127.0.0.1",
    "127.0.0.2",
    "2130706433",
    "0x7f.1",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "localhost",
]
PORTS = ["", ":80", ":8080"]


@dataclass
class Proxy:
    """Plays every host that it is asked for."""

    url: str
    way: Way

    def answer(self, request: Request) -> Reply:
        assert request.path.startswith("http://"), "not by way of the proxy"
        number = int(urlsplit(request.path).path.lstrip("/"))
        return self.way.answer(origin_of(request.path), number, request)


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    played = Proxy("", Way([]))
    with running(Server(played.answer)) as server:
        played.url = server.url
        yield played


@pytest.fixture
def plain_proxy() -> Iterator[Server]:
    with running(Server(lambda _request: Reply(body={"hello": "world"}))) as server:
        yield server


origins = st.builds("http://{}{}".format, st.sampled_from(NAMES), st.sampled_from(PORTS))
patterns = st.sampled_from(
    [
        "api.example.com",
        "API.EXAMPLE.COM",
        "api.example.com.",
        "*.example.com",
        "*.example.com.",
        "*.API.example.com",
        "bücher.example",
        "xn--bcher-kva.example",
        "127.0.0.1",
        "[::1]",
        "localhost",
        "http://api.example.com",
        "http://*.example.com:8080",
        "http://127.0.0.1:80",
        "https://api.example.com",
    ]
)


def is_allowed(origin: str, token_hosts: list[str]) -> bool:
    """Once more, in other words than alf's."""
    _, host, port = origin.split(" ")
    host = host.rstrip(".")
    for pattern in token_hosts:
        scheme, _, rest = pattern.lower().rpartition("://")
        if scheme:
            rest, _, listed = rest.partition(":")
            if scheme != "http" or port != (listed or "80"):
                continue
        elif host not in ("127.0.0.1", "127.0.0.2", "::1", "localhost"):
            continue
        name = rest.rstrip(".").strip("[]").replace("bücher", "xn--bcher-kva")
        if host == name or (name[:2] == "*." and host.endswith(name[1:]) and host != name[2:]):
            return True
    return False


@given(
    st.lists(origins, min_size=2, max_size=4, unique=True).flatmap(hops),
    st.none() | st.lists(patterns, max_size=3),
    st.booleans(),
    st.booleans(),
)
def test_redirects_between_hosts_of_any_name(
    proxy: Proxy,
    module_tokens: TokenServer,
    netrc: None,
    chain: list[Hop],
    token_hosts: list[str] | None,
    trust_env: bool,
    is_bound: bool,
) -> None:
    way = proxy.way = Way(chain)
    response = travel(
        way,
        module_tokens,
        trust_env=trust_env,
        token_hosts=token_hosts,
        is_bound=is_bound,
        proxies={"http": proxy.url},
    )
    allowed = token_hosts is None or is_allowed(origin_of(chain[0].origin), token_hosts)
    check(way, allowed=allowed, is_netrc_there=trust_env)
    check_proofs(way)
    assert response.status_code == 200
    if not allowed:
        assert not module_tokens.requests, "a token was asked for in vain"


#: Parts of URLs that parsers are known to disagree about.
PIECES = [
    *NAMES,
    *[
        "http://",
        "https://",
        "HTTP://",
        "//",
        "/",
        "\\",
        "@",
        ":",
        "?",
        "#",
        ";",
        "%40",
        "%2e",
        "%",
    ],
    *["user", "80", "0", "..", " ", "\t", "\n", "。", "ⓛocalhost", "bücher.example", "ß"],
]


def plain_session() -> requests.Session:
    """A Session with a token that somebody keeps by hand."""

    def carry(request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = "Bearer by-hand"
        return request

    session = requests.Session()
    session.auth = carry
    return session


def end_of(session: requests.Session, url: str, proxy: Server) -> tuple[Any, list[Request]]:
    """The status or the error, and what was seen on the way."""
    proxy.requests.clear()
    try:
        end: Any = session.get(url, proxies={"http": proxy.url, "https": proxy.url}).status_code
    except Exception as error:
        end = type(error)
    return end, list(proxy.requests)


texts = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)


@given(texts, st.lists(patterns, min_size=1, max_size=2))
def test_urls_of_any_form(
    plain_proxy: Server, module_tokens: TokenServer, text: str, token_hosts: list[str]
) -> None:
    """A token only for the hosts named; and for the rest, what a plain Session makes of it."""
    with plain_session() as plain, client_of(module_tokens, token_hosts=token_hosts) as client:
        expected, seen_of_plain = end_of(plain, f"http://{text}", plain_proxy)
        end, seen = end_of(client, f"http://{text}", plain_proxy)
    assert end == expected
    assert [request.path for request in seen] == [request.path for request in seen_of_plain]
    for request in seen:
        assert (request.authorization is not None) is is_allowed(
            origin_of(request.path), token_hosts
        )


@given(st.sampled_from(["http://", "HTTP:", "//", "/", "https://", ""]), texts)
def test_redirects_to_targets_of_any_form(
    plain_proxy: Server, module_tokens: TokenServer, scheme: str, text: str
) -> None:
    """The token goes on to the same origin alone; and the rest is as with a plain Session."""
    home = "http://api.example.com/"
    location = f"{scheme}{text}".replace("\n", "").encode().decode("latin-1")

    def answer(request: Request) -> Reply:
        return Reply(302, b"", {"Location": location}) if request.path == home else Reply()

    plain_proxy.script = answer
    with plain_session() as plain, client_of(module_tokens) as client:
        expected, seen_of_plain = end_of(plain, home, plain_proxy)
        end, seen = end_of(client, home, plain_proxy)
    assert end == expected
    assert [request.path for request in seen] == [request.path for request in seen_of_plain]
    for request in seen:
        is_home = origin_of(request.path) == origin_of(home)
        assert (request.authorization is not None) is is_home
