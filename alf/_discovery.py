"""What an issuer publishes about itself: its endpoints, and how clients may say who they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests

from alf._answers import read_members
from alf._redaction import SecretURL, shown
from alf._urls import is_loopback, shown_misfit

__all__ = ["Metadata", "check_issuer", "metadata_urls", "parse_metadata"]


@dataclass(frozen=True)
class Metadata:
    """What is known of an authorization server (RFC 8414 §2).

    :param token_endpoint: URL of the token endpoint.
    :param revocation_endpoint: URL of the revocation endpoint; ``None``: not known.
    :param auth_methods: the ways of client authentication that the server takes.
    """

    token_endpoint: str
    revocation_endpoint: str | None = None
    auth_methods: tuple[str, ...] = ("client_secret_basic",)


def check_issuer(issuer: object) -> str:
    """The issuer's identifier, if it can be one (RFC 8414 §2).

    :raises TypeError: it is no string.
    :raises ValueError: it is no https URL without query and fragment. On loopback http will do.
    """
    if not isinstance(issuer, str):
        message = f"issuer must be a URL, got {type(issuer).__name__}"
        raise TypeError(message)
    issuer = SecretURL(issuer.strip())
    if not _is_safe(issuer) or any(mark in issuer for mark in "?#@"):
        got = shown_misfit(issuer)
        message = f"issuer must be an https URL of no more than host and path, got {got}"
        raise ValueError(message)
    return issuer


def metadata_urls(issuer: str) -> tuple[str, str]:
    """Where the metadata may be: as OAuth has it (RFC 8414 §3), and as OpenID Connect has it."""
    parts = urlsplit(issuer.rstrip("/"))
    oauth = parts._replace(path=f"/.well-known/oauth-authorization-server{parts.path}")
    openid = parts._replace(path=f"{parts.path}/.well-known/openid-configuration")
    return oauth.geturl(), openid.geturl()


def parse_metadata(response: requests.Response, issuer: str, *, has_cert: bool) -> Metadata:
    """The metadata in the response.

    :param issuer: whom the document must be about: compared exactly (RFC 8414 §3.3).
    :param has_cert: whether the endpoints for clients with a certificate are wanted, where
        there are any (RFC 8705 §5).
    :raises ValueError: there is none that can be used; the text says why.
    """
    members = read_members(response)
    if response.status_code != 200 or isinstance(members, str):
        what = "" if response.status_code != 200 else f" with {members}"
        message = f"answered {response.status_code}{what}"
        raise ValueError(message)
    if members.get("issuer") != issuer:
        message = f"is about the issuer {_shown(members.get('issuer'))}, expected {issuer!r}"
        raise ValueError(message)
    aliases = members.get("mtls_endpoint_aliases") if has_cert else None
    places = {**members, **aliases} if isinstance(aliases, Mapping) else members
    for name in ("token_endpoint", "revocation_endpoint"):
        url = places.get(name)
        if not _is_safe(url) and (name == "token_endpoint" or url is not None):
            message = f"has the {name} {_shown(url)}, expected an https URL"
            raise ValueError(message)
    methods = members.get("token_endpoint_auth_methods_supported")
    return Metadata(
        places["token_endpoint"],
        places.get("revocation_endpoint"),
        # Left out, it means Basic.
        tuple(map(str, methods)) if isinstance(methods, list) else Metadata.auth_methods,
    )


def _is_safe(url: Any) -> bool:
    """Whether this is an absolute https URL, or an http URL of this very machine."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except (AttributeError, TypeError, ValueError):
        return False
    # urlsplit() takes blanks and line breaks out, others do not.
    if not isinstance(url, str) or not host or not url.isprintable() or " " in url:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))


def _shown(value: object) -> str:
    return repr(shown(value)) if isinstance(value, str) else shown(repr(value))
