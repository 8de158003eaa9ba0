"""Events about tokens, for metrics and logs. Imports nothing from alf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Event", "RenewalFailed", "StorageFailed", "TokenObtained", "TokenRefused"]

#: Why a token is requested: it is missing, has expired, will expire soon, or was refused by an
#: API, or :meth:`alf.Client.renew_token` was called.
Reason = Literal["missing", "expired", "expiring", "refused", "forced"]

#: Where a token comes from.
Source = Literal["endpoint", "storage"]


@dataclass(frozen=True)
class Event:
    """The base of all events. No event holds a token or a secret.

    :param endpoint: the token endpoint's URL, or its issuer's, without userinfo and query.
    :param client_id: the client's identifier; empty for a grant without a client.
    """

    endpoint: str
    client_id: str


@dataclass(frozen=True)
class TokenObtained(Event):
    """The Client has another token. Using it again is not an event.

    :param reason: why a token was needed.
    :param duration: seconds that the token request took, retries included; for a token from the
        storage, seconds that it took to read it, waiting for another process included.
    :param lifetime: seconds that the token lives; ``None``: the endpoint did not say.
    :param scope: the scope granted; ``None``: the requested one.
    :param source: ``"endpoint"``, or ``"storage"`` if another process or run had requested it.
    """

    reason: Reason
    duration: float
    lifetime: float | None
    scope: str | None
    source: Source = "endpoint"


@dataclass(frozen=True)
class RenewalFailed(Event):
    """A token request failed. While the old token is good, no caller notices.

    :param reason: why it was requested.
    :param duration: seconds that the token request took, retries included.
    :param error: what went wrong: a :class:`~alf.TokenError`, or an exception of requests.
    """

    reason: Reason
    duration: float
    error: Exception


@dataclass(frozen=True)
class TokenRefused(Event):
    """An API refused the token.

    :param origin: the API's scheme, host and port.
    :param age: seconds since the token was requested.
    :param is_fresh: whether the token was requested because the API had refused another one, so
        that its 401 reaches the caller.
    """

    origin: str
    age: float
    is_fresh: bool


@dataclass(frozen=True)
class StorageFailed(Event):
    """The token storage fails and calls go on without it. One event per outage.

    :param operation: ``reading``, ``writing`` or ``locking``.
    :param error: the class of the exception, such as ``redis.exceptions.TimeoutError``, without
        its text, which might quote the token; ``None``: the storage reported a failure otherwise.
    """

    operation: str
    error: str | None
