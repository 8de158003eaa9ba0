"""Which URLs get the token: the meaning of ``token_hosts``."""

from __future__ import annotations

import ipaddress
import logging
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

import requests

from alf._types import Hosts
from alf._urls import is_loopback, origin_of

__all__ = ["TokenHosts"]

logger = logging.getLogger("alf")

_PORTS = {"http": 80, "https": 443}

#: At most this many origins are remembered as warned about.
_MOST_WARNED = 100


@dataclass(frozen=True)
class _Entry:
    """One entry: a host or all hosts below it, and perhaps a scheme and port."""

    scheme: str | None
    host: str
    port: int | None
    is_below: bool

    def names(self, host: str) -> bool:
        return host.endswith(f".{self.host}") if self.is_below else host == self.host

    def allows(self, parts: SplitResult, host: str) -> bool:
        if self.scheme is None:
            return parts.scheme != "http" or is_loopback(host)
        return (parts.scheme, _port_of(parts)) == (self.scheme, self.port)


class TokenHosts:
    """The hosts that get the token.

    A bare name allows https on any port, and on loopback also http: ``"api.example.com"``,
    ``"*.example.com"`` (all hosts below it), ``"::1"``. An origin allows only its scheme and port,
    or the default port: ``"http://api.internal:8080"``.

    :raises TypeError: not a sequence of strings.
    :raises ValueError: an entry is not a valid host name or origin.
    """

    def __init__(self, hosts: Hosts) -> None:
        if isinstance(hosts, (str, bytes)) or not all(isinstance(host, str) for host in hosts):
            message = f"token_hosts must be a sequence of host names, got {hosts!r}"
            raise TypeError(message)
        self._entries = [_parse(host) for host in hosts]
        self._warned: set[str] = set()

    def allow(self, url: str | None) -> bool:
        """Whether this prepared URL gets the token."""
        parts = urlsplit(url or "")
        host = (parts.hostname or "").rstrip(".")
        named = [entry for entry in self._entries if entry.names(host)]
        if any(entry.allows(parts, host) for entry in named):
            return True
        if named and parts.scheme == "http":
            self._warn(origin_of(url))
        return False

    def _warn(self, origin: str) -> None:
        if origin not in self._warned and len(self._warned) < _MOST_WARNED:
            self._warned.add(origin)
            logger.warning(
                "the token is not sent to %s, because that is plain http; to have it sent all the "
                "same, add %r to token_hosts",
                origin,
                origin,
            )


def _parse(entry: str) -> _Entry:
    scheme, separator, rest = entry.rpartition("://")
    scheme = scheme.lower()
    name = rest.removesuffix("/") if separator else rest
    is_below = name.startswith("*.")
    name = name[2:] if is_below else name
    if not separator and _is_ipv6(name):
        name = f"[{name}]"
    prepared = requests.PreparedRequest()
    try:
        prepared.prepare_url(f"http://{name}/", None)
        parts = urlsplit(prepared.url or "")
        port = parts.port
    except (requests.exceptions.RequestException, ValueError):
        parts, port = urlsplit(""), None
    hostname = parts.hostname or ""
    written = parts.netloc.lower() if port is None else parts.netloc.lower().rpartition(":")[0]
    if (
        not hostname
        or written.strip("[]") != hostname
        or parts[2:] != ("/", "", "")
        or (separator and scheme not in _PORTS)
        or (port is not None and not separator)
        # Host names do not contain these, but urllib3 1.26 lets them pass; an IPv6 zone has a %.
        or (":" not in hostname and not {"%", "*"}.isdisjoint(hostname))
    ):
        message = (
            "token_hosts: expected host names such as 'api.example.com', or origins such as "
            f"'https://api.example.com:8443', got {entry!r}"
        )
        raise ValueError(message)
    if separator and port is None:
        port = _PORTS[scheme]
    return _Entry(scheme or None, hostname.rstrip("."), port, is_below)


def _is_ipv6(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).version == 6
    except ValueError:
        return False


def _port_of(parts: SplitResult) -> int | None:
    try:
        return parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None
