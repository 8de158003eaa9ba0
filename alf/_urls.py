"""Parts of URLs: their origin, and what may be shown of them."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

__all__ = ["bare_url", "is_key", "is_loopback", "origin_of", "shown_misfit", "shown_url"]


_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:)?//")

_HOST = re.compile(r"(\[[^\]]*\]|[^:?#]*)(:[0-9]*)?")

#: A host name without a scheme, perhaps with a path.
_HOST_NAME = re.compile(r"([a-z0-9-]{1,30}\.)+[a-z]{2,10}(:[0-9]+)?(/[a-z0-9/._-]*)?")

_SHORTEST_KEY = 24
_KEY_PART = re.compile(r"(?=[A-Za-z]*[0-9])[A-Za-z0-9]{10,}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

#: Ports that http.client omits from the ``Host`` header, and RFC 6454 §6 from an origin.
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def origin_of(url: str | None) -> str:
    """Scheme, host and port (RFC 6454 §6), without userinfo and without the default port."""
    parts = urlsplit(url or "")
    host = parts.netloc.rpartition("@")[2]
    port = _DEFAULT_PORTS.get(parts.scheme)
    return f"{parts.scheme}://{host if port is None else host.removesuffix(port)}"


def is_loopback(host: str) -> bool:
    """Whether this host is loopback."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bare_url(url: str) -> str:
    """The URL without userinfo, query and fragment."""
    scheme, place = _split(url)
    return scheme + re.split("[?#]", place, maxsplit=1)[0]


def shown_url(url: str) -> str:
    """The part of a URL that may be shown: without userinfo, query and keys in the path."""
    scheme, slashes, place = bare_url(url).rpartition("//")
    host, *segments = place.split("/")
    return scheme + slashes + "/".join([host, *("***" if is_key(s) else s for s in segments)])


def shown_misfit(text: str) -> str:
    """How a message shows a text that should be a URL, but may be a secret."""
    shown = shown_url(text)
    is_place = "://" in shown or _HOST_NAME.fullmatch(shown)
    return repr(shown[:300]) if is_place else "a text without a scheme"


def is_key(segment: str) -> bool:
    """Whether a path segment looks like a key: it is long and has a long part with digits."""
    return (
        len(segment) >= _SHORTEST_KEY
        and _KEY_PART.search(segment) is not None
        and not _UUID.fullmatch(segment)
    )


def _split(url: str) -> tuple[str, str]:
    """The scheme with its slashes, and the rest without userinfo.

    A password may contain unescaped "?", "#", "@" and even "/".
    """
    found = _SCHEME.match(url)
    scheme = "" if found is None else found[0]
    place = url[len(scheme) :]
    if not scheme:
        return "", place if place.startswith("/") else place.rpartition("@")[2]
    host, slash, rest = place.partition("/")
    if "@" in host:
        return scheme, host.rpartition("@")[2] + slash + rest
    if "@" in rest and not _HOST.fullmatch(host):
        return scheme, place.rpartition("@")[2]
    return scheme, place
