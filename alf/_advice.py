"""What to try about a token request that failed."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Mapping
from typing import Any

import requests
from requests.exceptions import ProxyError, RequestException, SSLError, Timeout

from alf._answers import read_members
from alf._inspection import causes
from alf._known_errors import WRONG_SECRET, advise_on_words
from alf._retries import retry_after
from alf._texts import has_outer_blanks, without_line_break
from alf.client_auth import ClientAssertion, ClientSecretJWT, PrivateKeyJWT, SignedClientAuth
from alf.tokens import TokenError

__all__ = ["advise"]


def advise(error: RequestException, options: Mapping[str, Any]) -> Iterator[str]:
    """What to try about it, the likeliest first.

    :param error: the failure.
    :param options: the Client's keyword arguments.
    """
    response = error.response
    if response is not None and _may_be_the_secret(response, options.get("client_secret")):
        yield "the client secret without the white space that it begins or ends with"
    if isinstance(error, TokenError) and response is not None:
        yield from _advise_on_assertion(error, response, options)
    if not isinstance(error, TokenError):
        yield from _advise_without_answer(error)
    elif response is None:
        yield "what the message names: an option, a file, or the issuer's URL, letter by letter"
    elif known := advise_on_words(response.status_code, error.error, error.error_description):
        yield from known
    elif error.error == "unauthorized_client" and response.status_code == 401:
        # RFC 6749 §5.2 has 401 for invalid_client alone.
        yield from (*_ADVICE["invalid_client"][:1], *_ADVICE["unauthorized_client"])
    elif error.error == "invalid_scope" and "," in str(options.get("scope")):
        yield "blanks, not commas, between the scopes (RFC 6749 §3.3)"
    elif (error.error or "") in _ADVICE:
        yield from _ADVICE[error.error or ""]
    elif response.ok:
        yield from _advise_on_success(response)
    else:
        yield from _advise_on_status(response)
    wait = None if response is None else retry_after(response)
    if wait is not None:
        yield f"again in {wait:.0f} s: it says so (Retry-After)"


_ADVICE: Mapping[str, tuple[str, ...]] = {
    "invalid_client": (
        WRONG_SECRET,
        "whether the client still exists there, and is enabled",
        "another way to say who you are: --client-auth client_secret_post",
    ),
    "unauthorized_client": (
        "to have the client credentials grant (machine to machine) enabled for this client",
        "with grant=: to have that grant enabled for this client",
    ),
    "unsupported_grant_type": (
        "whether this is the token endpoint: another of the server may offer the grant",
        "another grant type, where the provider wants it: --token-params grant_type=...",
    ),
    "invalid_scope": (
        "the spelling of the scope, and whether it was granted to this client",
        "no scope at all, or the form that the provider wants, such as {resource}/.default",
    ),
    "invalid_target": (
        "the --audience or --resource that the provider lists for the API, letter by letter",
    ),
    "invalid_request": (
        "what the provider demands besides: --audience, --resource, --scope, --token-params",
        "another way to say who you are: --client-auth client_secret_post",
    ),
    "invalid_grant": (
        "whether the client is set up for this grant: an account, a role or a consent is missing",
        "with grant=: the issuer, subject and audience of the assertion, and this machine's clock",
    ),
    "access_denied": ("to have this client granted access to the API that --audience names",),
    "invalid_dpop_proof": ("this machine's clock: the endpoint compares it with its own",),
    "use_dpop_nonce": ("--dpop yes",),
    "server_error": (
        "again in a while, with --token-retry 3",
        "the client's settings: some servers call a wrong one a server_error",
    ),
    "temporarily_unavailable": ("again in a while, with --token-retry 3",),
}


#: Error codes with which servers refuse a client's assertion.
_ASSERTION_REFUSALS = ("invalid_client", "unauthorized_client", "invalid_grant", "invalid_request")


def _advise_on_assertion(
    error: TokenError, response: requests.Response, options: Mapping[str, Any]
) -> Iterator[str]:
    """What may be wrong with an assertion that was refused."""
    if response.status_code != 401 and error.error not in _ASSERTION_REFUSALS:
        return
    client_auth = options.get("client_auth")
    if isinstance(client_auth, ClientAssertion):
        yield "whether the server trusts the assertion's issuer, for its subject and its audience"
    if client_auth == ClientSecretJWT.method:
        client_auth = ClientSecretJWT()
    if not isinstance(client_auth, SignedClientAuth):
        return
    if isinstance(client_auth, PrivateKeyJWT):
        yield "whether the server has the public key, by the key_id= or certificate= that is sent"
    if client_auth.issuer is not None or options.get("issuer") is not None:
        yield "audience='<the token endpoint>' for the assertion: it was for the issuer (RFC 10070)"
        yield "typ='JWT' for the assertion: it was client-authentication+jwt (RFC 10070)"
    else:
        yield "issuer= for the assertion: some servers want it as the audience, with another typ"
        yield "audience= and typ= for the assertion, as the server documents them"
    yield "this machine's clock: the server compares the assertion's times with its own"


def _may_be_the_secret(response: requests.Response, client_secret: Any) -> bool:
    if response.status_code not in (400, 401, 403):
        return False
    secret = client_secret() if callable(client_secret) else client_secret
    return isinstance(secret, str) and has_outer_blanks(without_line_break(secret))


def _advise_without_answer(error: RequestException) -> Iterator[str]:
    chain = list(causes(error))
    if isinstance(error, ProxyError):
        yield "the proxy's address and password in HTTPS_PROXY; NO_PROXY for hosts that need none"
    elif alert := _alert_about_certificate(chain):
        yield alert
    elif any(isinstance(cause, ssl.SSLCertVerificationError) for cause in chain):
        yield "REQUESTS_CA_BUNDLE=/path/to/ca.pem, where the certificate is of a private authority"
        yield "whether the host's name is the one in the certificate, and the certificate in date"
    elif isinstance(error, SSLError):
        yield "whether the port speaks TLS, and wants a client certificate: --token-cert"
    elif isinstance(error, Timeout):
        yield "whether a firewall drops what goes there, and HTTPS_PROXY where one is needed"
        yield "a longer --token-timeout"
    elif any(isinstance(cause, socket.gaierror) for cause in chain):
        yield "the spelling of the host's name"
        yield "the VPN or the DNS server that knows it, or HTTPS_PROXY where one is needed"
    elif isinstance(error, ValueError):
        yield "a URL such as https://id.example.com/oauth/token"
    else:
        yield "whether the server runs, and listens on this port; http for https, or the reverse"


#: TLS alerts about a client's certificate (RFC 8446 §6.2), in OpenSSL's names.
_CERTIFICATE_ALERTS = {
    "CERTIFICATE_REQUIRED": "--token-cert: the server demands a client certificate",
    "ALERT_HANDSHAKE_FAILURE": "--token-cert, if the server demands a client certificate",
    "ALERT_CERTIFICATE_EXPIRED": "a new client certificate: the server says that it has expired",
    "ALERT_UNKNOWN_CA": "a client certificate of an authority that the server knows",
    "ALERT_BAD_CERTIFICATE": "another client certificate: the server refuses this one",
    "ALERT_CERTIFICATE_UNKNOWN": "another client certificate: the server refuses this one",
    "ALERT_CERTIFICATE_REVOKED": "another client certificate: this one has been revoked",
}


def _alert_about_certificate(chain: list[BaseException]) -> str | None:
    reasons = [str(cause.reason) for cause in chain if isinstance(cause, ssl.SSLError)]
    for name, advice in _CERTIFICATE_ALERTS.items():
        if any(reason.endswith(name) for reason in reasons):
            return advice
    return None


def _advise_on_success(response: requests.Response) -> Iterator[str]:
    if response.is_redirect:
        yield "as --token-endpoint the place that it redirects to, if you trust it"
    elif isinstance(read_members(response), str):
        yield "the URL: pages that are no JSON come from logins, portals and proxies"
        yield "the provider's metadata: --issuer finds the token endpoint by itself"
    else:
        yield "the URL: this answers, but not as a token endpoint does (RFC 6749 §5.1)"


def _advise_on_status(response: requests.Response) -> Iterator[str]:
    status = response.status_code
    if status == 401:
        yield from _ADVICE["invalid_client"]
    elif status == 403:
        yield "whether this address or network may call it, and the client may have tokens"
    elif status in (404, 405, 410, 501):
        yield "the path of the URL: this one is no token endpoint"
        yield "the provider's metadata: --issuer finds the token endpoint by itself"
    elif status == 407:
        yield "the proxy's password in HTTPS_PROXY"
    elif status == 429:
        yield "fewer tokens: one is good for many calls, and processes can share it"
    elif status >= 500:
        yield from _ADVICE["temporarily_unavailable"]
    else:
        yield from _ADVICE["invalid_request"]
