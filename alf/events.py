"""What happens to tokens, told to whoever wants metrics of it. Imports nothing of alf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Event", "RenewalFailed", "StorageFailed", "TokenObtained", "TokenRefused"]

#: Why a token is asked for: there was none, it has expired or will soon, it was refused by an
#: API, or :meth:`alf.Client.renew_token` was called.
Reason = Literal["missing", "expired", "expiring", "refused", "forced"]


@dataclass(frozen=True)
class Event:
    """Something that happened. No event holds a token or a secret.

    :param endpoint: the token endpoint's URL, or its issuer's, without userinfo and query.
    :param client_id: the client's identifier.
    """

    endpoint: str
    client_id: str


@dataclass(frozen=True)
class TokenObtained(Event):
    """The token endpoint granted a token. One that storage had is not told of.

    :param reason: why it was asked for.
    :param duration: seconds that the token request took, retries included.
    :param lifetime: seconds that the token lives; ``None``: the endpoint did not say.
    :param scope: the scope granted; ``None``: the one asked for.
    """

    reason: Reason
    duration: float
    lifetime: float | None
    scope: str | None


@dataclass(frozen=True)
class RenewalFailed(Event):
    """No token was to be had. Where the old one still lives no caller notices.

    :param reason: why it was asked for.
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
    :param age: seconds since the token was asked for.
    :param is_fresh: whether the token was asked for because the API had refused another one, so
        that its 401 reaches the caller.
    """

    origin: str
    age: float
    is_fresh: bool


@dataclass(frozen=True)
class StorageFailed(Event):
    """The token storage is in trouble, and calls go on without it; told once an outage.

    :param operation: ``reading``, ``writing`` or ``locking``.
    :param error: the class of what the storage raised, such as ``redis.exceptions.TimeoutError``;
        ``None``: it said that it failed. Its text might quote the token.
    """

    operation: str
    error: str | None
