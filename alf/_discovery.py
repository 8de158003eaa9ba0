"""An issuer's metadata: its endpoints and the client authentication that it accepts."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

import requests

from alf._answers import read_members
from alf._clocks import Clock
from alf._redaction import SecretURL, shown
from alf._time_limits import TimeLimit
from alf._transport import Exchange, Transport
from alf._urls import is_loopback, shown_misfit, shown_url

__all__ = ["Discovery", "Metadata", "check_issuer", "metadata_urls", "parse_metadata"]

#: Seconds after which metadata are read again, and after which a failed attempt is repeated.
_GOOD_FOR = 24 * 3600.0
_TRY_AGAIN_AFTER = 3600.0


@dataclass(frozen=True, eq=False, repr=False)
class Metadata:
    """The metadata of an authorization server that alf uses (RFC 8414 §2).

    :param token_endpoint: URL of the token endpoint.
    :param revocation_endpoint: URL of the revocation endpoint; ``None`` if not known.
    :param auth_methods: the methods of client authentication that the server accepts.
    """

    token_endpoint: str
    revocation_endpoint: str | None = None
    auth_methods: tuple[str, ...] = ("client_secret_basic",)


class Discovery:
    """The metadata of an issuer, read when first needed and at least daily from then on.

    :param issuer: the issuer's identifier.
    :param transport: sends the requests.
    :param clock: the clock.
    """

    def __init__(self, issuer: str, transport: Transport, clock: Clock) -> None:
        self._issuer = issuer
        self._transport = transport
        self._clock = clock
        self._has_cert = False
        self._due_at: tuple[float, float] | None = None

    def is_due(self, *, has_cert: bool) -> bool:
        """Whether the metadata must be read, for a client with or without a certificate."""
        if self._due_at is None or has_cert != self._has_cert:
            return True
        monotonic, wall = self._due_at
        return self._clock.monotonic() >= monotonic or self._clock.time() >= wall

    def read(self, limit: TimeLimit, *, has_cert: bool) -> Metadata | Exchange:
        """The metadata, or the answer of an issuer in an outage.

        :raises ValueError: there are no usable metadata; the text says why.
        :raises requests.exceptions.RequestException: there was no answer.
        """
        self._has_cert = has_cert
        if self._due_at is not None:
            self._wait(_TRY_AGAIN_AFTER)
        outage = None
        reasons = []
        for url in metadata_urls(self._issuer):
            exchange = self._transport.send(url, {}, limit)
            status = exchange.response.status_code
            if status == 429 or status >= 500:
                outage = exchange
            try:
                metadata = parse_metadata(exchange.response, self._issuer, has_cert=has_cert)
            except ValueError as reason:
                reasons.append(f"{url} {reason}")
                continue
            self._wait(_GOOD_FOR)
            return metadata
        if outage is not None:
            return outage
        message = "; ".join(reasons)
        raise ValueError(message)

    def _wait(self, seconds: float) -> None:
        self._due_at = (self._clock.monotonic() + seconds, self._clock.time() + seconds)


def check_issuer(issuer: object) -> str:
    """Check an issuer's identifier (RFC 8414 §2).

    :raises TypeError: it is not a string.
    :raises ValueError: it is not an https URL without query and fragment (http on loopback).
    """
    if not isinstance(issuer, str):
        message = f"issuer must be a URL, got {type(issuer).__name__}"
        raise TypeError(message)
    issuer = SecretURL(issuer.strip())
    before, well_known, after = issuer.partition("/.well-known/")
    if well_known:
        path = after.partition("/")[2]
        value = shown_url(f"{before}/{path}" if path else before)
        message = (
            f"issuer must be the issuer's identifier, not the URL of its metadata: try {value!r}"
        )
        raise ValueError(message)
    if not _is_safe(issuer) or any(mark in issuer for mark in "?#@"):
        got = shown_misfit(issuer)
        message = f"issuer must be an https URL of no more than host and path, got {got}"
        raise ValueError(message)
    return issuer


def metadata_urls(issuer: str) -> tuple[str, str]:
    """The URLs where metadata may be, by OAuth (RFC 8414 §3) and by OpenID Connect."""
    parts = urlsplit(issuer.rstrip("/"))
    oauth = parts._replace(path=f"/.well-known/oauth-authorization-server{parts.path}")
    openid = parts._replace(path=f"{parts.path}/.well-known/openid-configuration")
    return oauth.geturl(), openid.geturl()


def parse_metadata(response: requests.Response, issuer: str, *, has_cert: bool) -> Metadata:
    """The metadata in the response.

    :param issuer: the issuer that the document must name exactly (RFC 8414 §3.3).
    :param has_cert: whether to prefer the endpoints for clients with a certificate (RFC 8705 §5).
    :raises ValueError: the metadata are not usable; the text says why.
    """
    members = read_members(response)
    if response.status_code != 200 or isinstance(members, str):
        what = "" if response.status_code != 200 else f" with {members}"
        target = response.headers.get("Location")
        if response.is_redirect and target is not None:
            what = f"; its redirect to {shown(shown_url(target))!r} is not followed"
        message = f"answered {response.status_code}{what}"
        raise ValueError(message)
    found = members.get("issuer")
    if found != issuer:
        message = f"is about the issuer {_shown(found)}, expected {issuer!r}"
        if isinstance(found, str) and found.rstrip("/") == issuer.rstrip("/"):
            message += f": give issuer={_shown(found)}"
        raise ValueError(message)
    aliases = members.get("mtls_endpoint_aliases") if has_cert else None
    places = {**members, **aliases} if isinstance(aliases, Mapping) else members
    for name in ("token_endpoint", "revocation_endpoint"):
        url = places.get(name)
        is_optional = name != "token_endpoint" and url is None
        if not is_optional and not _is_endpoint(url, issuer):
            message = f"has the {name} {_shown(url)}, expected an https URL of another machine"
            if _is_local(issuer):
                message = f"has the {name} {_shown(url)}, expected an https URL"
            raise ValueError(message)
    methods = members.get("token_endpoint_auth_methods_supported")
    return Metadata(
        places["token_endpoint"],
        places.get("revocation_endpoint"),
        # Without this member it is Basic.
        tuple(map(str, methods)) if isinstance(methods, list) else Metadata.auth_methods,
    )


def _is_safe(url: Any) -> bool:
    """Whether this is an absolute https URL, or an http URL on loopback."""
    parts = _parse(url)
    if parts is None:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))


def _is_endpoint(url: Any, issuer: str) -> bool:
    """Whether this issuer may name this URL: a remote issuer must not name loopback."""
    parts = _parse(url)
    if parts is None or parts.username is not None or parts.fragment:
        return False
    return _is_safe(url) and (_is_local(issuer) or not _leads_here(parts.hostname or ""))


def _leads_here(host: str) -> bool:
    """Whether the system may resolve this host, in any notation, to loopback."""
    name = host.rstrip(".")
    with contextlib.suppress(
        OSError
    ):  # not one of the old notations: 127.1, 0x7f000001, 2130706433
        name = socket.inet_ntoa(socket.inet_aton(name))
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def _is_local(issuer: str) -> bool:
    parts = _parse(issuer)
    return parts is not None and is_loopback(parts.hostname or "")


def _parse(url: Any) -> SplitResult | None:
    """The parts of an absolute URL as requests sees them; ``None`` for anything else."""
    # Parsers disagree about backslashes and about what they remove.
    if not isinstance(url, str) or not url.isprintable() or not {" ", "\\"}.isdisjoint(url):
        return None
    request = requests.PreparedRequest()
    try:
        request.prepare_url(url, None)
        parts = urlsplit(str(request.url))
        host, _ = parts.hostname, parts.port
    except (requests.exceptions.RequestException, ValueError):
        return None
    return parts if host else None


def _shown(value: object) -> str:
    return repr(shown(value)) if isinstance(value, str) else shown(repr(value))
