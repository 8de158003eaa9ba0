"""Which way of client authentication an option, or an issuer, means."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, cast

from alf._signing import Basic, ClientAuth, Credentials, Flow, Sign
from alf.client_auth import (
    ClientSecretBasic,
    ClientSecretJWT,
    ClientSecretPost,
    NoClientAuth,
    PrivateKeyJWT,
    TLSClientAuth,
)

__all__ = ["as_client_auth", "choose_client_auth"]


class OtherClientAuth(ClientAuth):
    """What requests takes as ``auth=``, in the user's hands."""

    params = ()

    def __init__(self, sign: Sign) -> None:
        self._sign = sign
        self.method = getattr(sign, "__qualname__", type(sign).__qualname__)

    @property
    def identity(self) -> str | None:
        """The method, and as whom it authenticates the client."""
        for name in ("identity", "username"):  # of the user's own, and requests' HTTPBasicAuth
            value = getattr(self._sign, name, None)
            if isinstance(value, bytes):
                value = value.decode("latin-1")
            if isinstance(value, str):
                return f"{self.method}:{value}"
        return None

    def flow(self, credentials: Credentials, url: str, now: float) -> Flow:
        del credentials, url, now
        return (yield self._sign)


_METHODS: dict[str, Callable[[], ClientAuth]] = {
    auth.method: auth
    for auth in (
        ClientSecretBasic,
        ClientSecretPost,
        ClientSecretJWT,
        TLSClientAuth,
        NoClientAuth,
    )
}


def as_client_auth(client_auth: Any, client_secret: object) -> ClientAuth:
    """The way that is meant by the name of a method, a ClientAuth, or an auth of requests.

    ``None`` means Basic.

    :raises TypeError: it is something else, or the secret is missing, or is given without use.
    :raises ValueError: there is no method of this name.
    """
    if client_auth is None:
        client_auth = ClientSecretBasic.method
    is_class = isinstance(client_auth, type)
    if client_auth == PrivateKeyJWT.method:
        message = (
            f"client_auth {client_auth!r} needs a key: "
            "give client_auth=alf.client_auth.PrivateKeyJWT(key=...)"
        )
        raise TypeError(message)
    if isinstance(client_auth, str):
        if client_auth not in _METHODS:
            message = f"client_auth must be one of {', '.join(_METHODS)}, got {client_auth!r}"
            raise ValueError(message)
        auth = _METHODS[client_auth]()
    elif isinstance(client_auth, ClientAuth):
        auth = client_auth
    elif (
        isinstance(client_auth, tuple)
        and len(client_auth) == 2
        and all(isinstance(part, str) for part in client_auth)
    ):
        auth = OtherClientAuth(Basic(client_auth[0], client_auth[1], is_raw=True))
    elif callable(client_auth) and not is_class:
        auth = OtherClientAuth(cast("Sign", client_auth))
    else:
        message = (
            "client_auth must be the name of a method, an object of alf.client_auth or what "
            f"requests takes as auth, got {client_auth if is_class else type(client_auth).__name__}"
        )
        raise TypeError(message)
    if auth.has_secret and client_secret is None:
        message = f"client_secret is missing: client_auth {auth.method!r} needs it"
        raise TypeError(message)
    if not auth.has_secret and client_secret is not None:
        message = f"client_secret is given, and client_auth {auth.method!r} has no use for it"
        raise TypeError(message)
    return auth


def choose_client_auth(methods: Collection[str], *, has_secret: bool) -> ClientAuth | None:
    """The method that fits what the server takes and the client has; ``None`` if nothing fits.

    A client is registered for one, which is Basic where nothing else was said (RFC 7591 §2): so
    that comes first.
    """
    ways: dict[str, Callable[[], ClientAuth]]
    if has_secret:
        ways = {way.method: way for way in (ClientSecretBasic, ClientSecretPost, ClientSecretJWT)}
    else:
        ways = dict.fromkeys((TLSClientAuth.method, "self_signed_tls_client_auth"), TLSClientAuth)
    return next((way() for method, way in ways.items() if method in methods), None)
