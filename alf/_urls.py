"""Parts of URLs: where they lead, and what of them may be shown."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

__all__ = ["origin_of", "shown_url"]


#: Ports that http.client leaves out of the ``Host`` header, and RFC 6454 §6 of an origin.
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def origin_of(url: str | None) -> str:
    """Scheme, host and port (RFC 6454 §6), without userinfo and without the default port."""
    parts = urlsplit(url or "")
    host = parts.netloc.rpartition("@")[2]
    port = _DEFAULT_PORTS.get(parts.scheme)
    return f"{parts.scheme}://{host if port is None else host.removesuffix(port)}"


def shown_url(url: str) -> str:
    """As much of a URL as may be shown, whatever its form: neither userinfo nor query."""
    place = re.split("[?#]", url, maxsplit=1)[0]
    _, at, rest = place.rpartition("@")
    scheme = re.match("[A-Za-z][A-Za-z0-9+.-]*://", place) if at else None
    return rest if scheme is None else scheme[0] + rest
