"""Errors that providers word in a way of their own, and what each of them means."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["WRONG_SECRET", "advise_on_words"]


class _Known(NamedTuple):
    """An error that a provider is known to answer with.

    :param error: the error code; ``""``: the answer has none; ``None``: any.
    :param words: a regular expression for the description.
    :param advice: what to try, the likeliest first.
    :param statuses: the status codes; none: any.
    """

    error: str | None
    words: str
    advice: tuple[str, ...]
    statuses: tuple[int, ...] = ()


#: The first thing to try after a refusal of the client.
WRONG_SECRET = (
    "whether client id and secret are those of this endpoint, and the secret has not expired"
)

# The first that fits counts. Only codes and phrases that were seen; docs/command-line.rst has
# them as a table, which the tests read.
_KNOWN = (
    # Keycloak.
    _Known(
        "unauthorized_client",
        "service account",
        ("to turn on 'Service accounts roles' for this client: Keycloak's name for the grant",),
    ),
    _Known("unauthorized_client", "invalid client", (WRONG_SECRET,), (401,)),
    # Auth0.
    _Known(
        "access_denied",
        "no audience parameter",
        ("--audience, with the identifier of the API: this tenant has no default",),
    ),
    _Known("access_denied", "service not found", ("the --audience, letter by letter",)),
    _Known(
        "access_denied",
        "client-grant",
        ("to authorize this client for the API that --audience names, in the API's settings",),
    ),
    _Known("access_denied", "", (WRONG_SECRET,), (401,)),
    # Entra ID.
    _Known(None, "AADSTS7000215", ("the secret's value: its id is shown beside it", WRONG_SECRET)),
    _Known(None, "AADSTS7000222", ("a new secret: this one has expired",)),
    _Known(
        None,
        "AADSTS(700016|90002)",
        ("the tenant in the URL, and whether the client id belongs to that tenant",),
    ),
    _Known(
        None,
        "AADSTS(1002012|70011)",
        ("as --scope one resource, followed by /.default: api://.../.default",),
    ),
    _Known(None, "AADSTS500011", ("the resource in --scope, which this tenant does not know",)),
    _Known(
        None,
        "AADSTS70002(16|18)",
        ("a secret, or --client-auth private_key_jwt with a key: neither was sent",),
    ),
    # Okta.
    _Known(
        "invalid_dpop_proof",
        "missing",
        ("--dpop yes: this client's tokens are bound to a key (RFC 9449)",),
    ),
    _Known(
        "invalid_scope",
        "default scopes",
        ("--scope: this authorization server has no default",),
    ),
    _Known(
        "invalid_scope",
        "cannot request '?openid",
        ("a --scope without openid, profile and email, which are for users",),
    ),
    # Salesforce.
    _Known(
        "invalid_grant",
        "not supported on this domain",
        ("the URL of your own domain, https://....my.salesforce.com/services/oauth2/token",),
    ),
    _Known(
        "invalid_grant",
        "no client credentials user",
        ("to name a user that the app runs as, in its client credentials settings",),
    ),
    # ServiceNow.
    _Known(
        "server_error",
        "access_denied",
        ("to turn on the client credentials grant: ServiceNow calls this a server_error",),
    ),
    # Twitch has no error code, but a message.
    _Known("", "^invalid client", (WRONG_SECRET,)),
)


def advise_on_words(status: int, error: str | None, description: str | None) -> tuple[str, ...]:
    """What to try about an error, if its code and description are known; else nothing."""
    for known in _KNOWN:
        if known.error not in (None, error or "") or status not in (known.statuses or (status,)):
            continue
        if re.search(known.words, description or "", re.IGNORECASE):
            return known.advice
    return ()
