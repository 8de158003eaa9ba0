"""alf and its peers, each used the way its own documentation shows.

Each function imports what its peer's environment has, and nothing else.
"""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import requests

CREDENTIALS = ("client-id", "client-secret")

#: What is mounted on, and what a caller calls with a URL.
Made = tuple[requests.Session, Callable[[str], requests.Response]]

# Of all functions: `timeout` is how many seconds to wait for the token endpoint, `leeway` how many
# seconds before its expiry to renew a token, where the peer has a setting for it.


def alf(endpoint: str, timeout: float = 10.0, storage: Any = None) -> Made:
    from alf.client import Client

    session = Client(
        token_endpoint=endpoint,
        client_id=CREDENTIALS[0],
        client_secret=CREDENTIALS[1],
        token_storage=storage,
        token_request_params={"timeout": timeout},
    )
    return session, session.get


def requests_oauthlib(endpoint: str, timeout: float = 10.0) -> Made:
    os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"  # the endpoint is on loopback
    from oauthlib.oauth2 import BackendApplicationClient, TokenExpiredError
    from requests_oauthlib import OAuth2Session

    session = OAuth2Session(client=BackendApplicationClient(CREDENTIALS[0]))

    def get(url: str) -> Any:
        if not session.authorized:
            session.fetch_token(endpoint, auth=CREDENTIALS, timeout=timeout)
        try:
            return session.get(url)
        except TokenExpiredError:
            session.fetch_token(endpoint, auth=CREDENTIALS, timeout=timeout)
            return session.get(url)

    return session, get


def authlib(endpoint: str, timeout: float = 10.0, **leeway: float) -> Made:
    from authlib.integrations.requests_client import OAuth2Session

    options = {"grant_type": "client_credentials", "default_timeout": timeout, **leeway}
    session = OAuth2Session(*CREDENTIALS, token_endpoint=endpoint, **options)

    def get(url: str) -> Any:
        if not session.token:
            session.fetch_token()
        return session.get(url)

    return session, get


def requests_oauth2client(endpoint: str, timeout: float = 10.0, **leeway: float) -> Made:
    from requests_oauth2client import OAuth2Client, OAuth2ClientCredentialsAuth

    # testing: the endpoint is on loopback
    client = OAuth2Client(token_endpoint=endpoint, auth=CREDENTIALS, testing=True)
    session = requests.Session()
    session.auth = OAuth2ClientCredentialsAuth(
        client, requests_kwargs={"timeout": timeout}, **leeway
    )
    return session, session.get


def requests_auth(endpoint: str, timeout: float = 10.0, leeway: float | None = None) -> Made:
    from requests_auth import OAuth2ClientCredentials

    session = requests.Session()
    options = {"timeout": timeout, "early_expiry": leeway}
    session.auth = OAuth2ClientCredentials(endpoint, *CREDENTIALS, **options)
    return session, session.get


def google_auth(endpoint: str, timeout: float = 10.0, leeway: float | None = None) -> Made:
    from google.auth.credentials import Credentials
    from google.auth.exceptions import RefreshError
    from google.auth.transport.requests import AuthorizedSession

    headers = {
        "Authorization": f"Basic {b64encode(':'.join(CREDENTIALS).encode()).decode()}",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    body = urlencode({"grant_type": "client_credentials"}).encode()

    class ClientCredentials(Credentials):  # type: ignore[misc]
        def refresh(self, request: Any) -> None:
            response = request(endpoint, method="POST", headers=headers, body=body)
            if response.status != 200:
                raise RefreshError(response.status)
            answer = json.loads(response.data)
            now = datetime.now(timezone.utc).replace(tzinfo=None)
            self.expiry = now + timedelta(seconds=answer["expires_in"])
            self.token = answer["access_token"]

    credentials = ClientCredentials()
    if leeway is not None:
        credentials.with_non_blocking_refresh()
    session = AuthorizedSession(credentials)
    return session, lambda url: session.get(url, timeout=timeout)


def bare(_endpoint: str) -> Made:
    session = requests.Session()
    session.headers["Authorization"] = "Bearer ".ljust(47, "x")
    return session, session.get


def bare_without_netrc(endpoint: str) -> Made:
    session, get = bare(endpoint)
    session.auth = lambda request: request
    return session, get


@dataclass(frozen=True)
class Peer:
    """A library to measure: how to install it, how to use it, and what to know of that use."""

    name: str
    requirement: str
    make: Callable[..., Made]
    note: str
    tuned: str = ""  # what its settings can do for tokens that live a few seconds, if anything
    has_storage: bool = False


_ALF = f"--editable={Path(__file__).resolve().parent.parent}"
_UNHEALED = "A refused token is the caller's business."
_FETCHED = """The first token is fetched by the caller's code: a program that does so before it
  starts its threads makes 1 request where the table says 64."""

PEERS = {
    peer.name: peer
    for peer in [
        Peer("alf", _ALF, alf, "`alf.Client`, nothing set but the time-out.", has_storage=True),
        Peer(
            "alf 0.7.1",
            "alf==0.7.1",
            alf,
            "As alf. It has no leeway: a token is used up to its last moment.",
            has_storage=True,
        ),
        Peer(
            "requests-oauthlib",
            "requests-oauthlib",
            requests_oauthlib,
            f"""`BackendApplicationClient`; on `TokenExpiredError` the caller's code fetches the
  next token. {_FETCHED} No leeway. {_UNHEALED}""",
        ),
        Peer(
            "Authlib",
            "Authlib",
            authlib,
            f"""`OAuth2Session(token_endpoint=…, grant_type='client_credentials')`, which renews
  60 s before expiry. {_FETCHED} {_UNHEALED}""",
            tuned="`leeway=`",
        ),
        Peer(
            "requests-oauth2client",
            "requests-oauth2client",
            requests_oauth2client,
            f"""`Session.auth = OAuth2ClientCredentialsAuth(…)`, which renews 20 s before expiry.
  {_UNHEALED}""",
            tuned="`leeway=`",
        ),
        Peer(
            "requests_auth",
            "requests_auth",
            requests_auth,
            f"""`Session.auth = OAuth2ClientCredentials(…)`, which renews 30 s before expiry, one
  thread after another under one lock. {_UNHEALED}""",
            tuned="`early_expiry=`",
        ),
        Peer(
            "google-auth",
            "google-auth[requests]",
            google_auth,
            """`AuthorizedSession`, which renews 225 s before expiry; no setting changes that. It
  has no client credentials grant, so the bench brings a `Credentials` with a `refresh()`, the
  extension point that it documents (its `refresh_handler=` takes no token that lives under
  225 s).""",
            tuned="`with_non_blocking_refresh()`",
        ),
    ]
}

#: On the hot path: the bare Session against itself, which is the noise, and what it costs where an
#: `auth` that does nothing keeps it from looking for a `.netrc` file.
CONTROLS = {
    peer.name: peer
    for peer in [
        Peer("requests", "requests", bare, ""),
        Peer("requests, no .netrc", "requests", bare_without_netrc, ""),
    ]
}
