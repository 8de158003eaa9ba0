"""Client authentication at the token endpoint (RFC 6749 §2.3).

A way of doing so is a :class:`ClientAuth`. Its ``flow()`` yields what signs the token request,
in the form in which requests takes an ``auth=``, and is sent the answer; what it yields next is
tried next. A signature is made anew for every try.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any, Literal, TypeVar

import requests

from alf._answers import find_error
from alf._assertions import Assertion
from alf._discovery import check_issuer
from alf._jose import SigningKey, hmac_signer
from alf._redaction import masked, masked_key
from alf._signing import (
    Basic,
    ClientAuth,
    Credentials,
    Flow,
    InForm,
    Sign,
    encoded,
    is_refused,
    with_secret,
)
from alf._sources import Source
from alf._texts import check_text

__all__ = [
    "AuthMethod",
    "ClientAssertion",
    "ClientAuth",
    "ClientSecretBasic",
    "ClientSecretJWT",
    "ClientSecretPost",
    "Credentials",
    "NoClientAuth",
    "PrivateKeyJWT",
    "TLSClientAuth",
]

logger = logging.getLogger("alf")

#: The methods that a name is enough for, as ``token_endpoint_auth_methods_supported`` has them.
AuthMethod = Literal[
    "client_secret_basic",
    "client_secret_post",
    "client_secret_jwt",
    "tls_client_auth",
    "none",
]

#: The type of an assertion that is a JWT (RFC 7523 §2.2).
JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

#: The parameters of the form that hold an assertion.
ASSERTION_PARAMS = ("client_id", "client_assertion", "client_assertion_type")

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[\x21-\x7e]+")

_K = TypeVar("_K")
_V = TypeVar("_V")

#: Seconds for which an id and secret that were refused in both forms are sent in one form only.
_REFUSED_FOR = 300.0

#: Endpoints, clients and refused secrets that one object remembers.
_MOST_REMEMBERED = 1000

#: Error codes with which servers refuse a client whose header they could not make sense of.
_REFUSALS = ("invalid_client", "unauthorized_client", "invalid_grant", "invalid_request")


class ClientSecretBasic(ClientAuth):
    """The secret by HTTP Basic: id and secret form-encoded first (RFC 6749 §2.3.1).

    Many servers do not decode them. Where encoding changes the id or the secret and the server
    refuses the client, the request is sent once more in the other form, with both as they are.
    The form that worked is remembered for that endpoint and client.
    """

    method = "client_secret_basic"
    has_secret = True
    params = ()

    def __init__(self) -> None:
        #: By endpoint and client: whether id and secret are sent as they are, not encoded.
        self._is_raw: dict[tuple[str, str], bool] = {}
        #: By endpoint, client and hash of the secret: the time until which one form only is tried.
        self._refused_until: dict[tuple[str, str, bytes], float] = {}

    def __getstate__(self) -> dict[str, Any]:
        # The times are of this machine's monotonic clock.
        return {**self.__dict__, "_refused_until": {}}

    def flow(self, credentials: Credentials, url: str, now: float) -> Flow:
        client_id = credentials.client_id
        # A colon in an id that is not encoded would end the id.
        can_be_raw = ":" not in client_id
        is_raw = can_be_raw and self._is_raw.get((url, client_id), False)
        secret, response = yield from with_secret(
            credentials, lambda secret: Basic(client_id, secret, is_raw)
        )
        if not can_be_raw or encoded(client_id + secret) == client_id + secret:
            return response
        pair = (url, client_id, hashlib.sha256(secret.encode()).digest())
        if _may_be_the_form(response) and now >= self._refused_until.get(pair, -inf):
            first, is_raw = response, not is_raw
            response = yield Basic(client_id, secret, is_raw)
            if _may_be_the_form(response):
                _remember(self._refused_until, pair, now + _REFUSED_FOR)
                return first
        if response.ok and not is_refused(response):
            _remember(self._is_raw, (url, client_id), is_raw)
        return response


class ClientSecretPost(ClientAuth):
    """The secret in the form (RFC 6749 §2.3.1)."""

    method = "client_secret_post"
    has_secret = True
    params = ("client_id", "client_secret")

    def flow(self, credentials: Credentials, url: str, now: float) -> Flow:
        del url, now
        client_id = ("client_id", credentials.client_id)
        _, response = yield from with_secret(
            credentials, lambda secret: InForm(client_id, ("client_secret", secret))
        )
        return response


class NoClientAuth(ClientAuth):
    """A public client: its id in the form, and nothing that proves it."""

    method = "none"

    def flow(self, credentials: Credentials, url: str, now: float) -> Flow:
        del url, now
        return (yield InForm(("client_id", credentials.client_id)))


class TLSClientAuth(NoClientAuth):
    """The client's certificate, as the connection is made, and its id in the form (RFC 8705 §2)."""

    method = "tls_client_auth"
    needs_tls = True


class SignedClientAuth(ClientAuth):
    """A JWT that says who the client is, signed anew for each try (RFC 7523 §2.2)."""

    params = ASSERTION_PARAMS

    def __init__(self, issuer: str | None, assertion: Assertion) -> None:
        self.issuer = None if issuer is None else check_issuer(issuer)
        self._assertion = assertion

    def __repr__(self) -> str:
        # Error reports show objects that are not complete yet.
        return f"{type(self).__name__}({getattr(self, '_assertion', '')})"

    def _assert(self, credentials: Credentials, sign: Callable[[bytes], bytes]) -> Sign:
        is_issuer = self.issuer is not None or credentials.is_issuer

        def add_assertion(request: requests.PreparedRequest) -> requests.PreparedRequest:
            assertion = self._assertion.encode(
                sign,
                issuer=credentials.client_id,
                subject=credentials.client_id,
                audience=self.issuer or credentials.audience,
                # A server that is not named by its issuer may be one from before RFC 10070.
                typ="client-authentication+jwt" if is_issuer else "JWT",
            )
            return _in_form(credentials, JWT_BEARER, assertion)(request)

        return add_assertion


class ClientSecretJWT(SignedClientAuth):
    """A JWT signed with the secret (OpenID Connect Core §9); needs the extra ``jwt``.

    :param algorithm: ``HS256``, ``HS384`` or ``HS512``.
    :param issuer: the issuer's identifier, for a Client with a ``token_endpoint``; by default the
        ``issuer`` of the Client.
    :param audience: whom the JWT is for, one or several; by default the issuer if it is known, or
        else the token endpoint.
    :param typ: the ``typ`` of the JWT's header; by default ``client-authentication+jwt`` if the
        issuer is known (RFC 10070), or else ``JWT``.
    :param lifetime: seconds for which each JWT is valid.
    :param headers: other members of the JWT's header.
    :param claims: other claims.
    :raises TypeError: an argument is of the wrong type.
    :raises ValueError: an argument has no usable value.
    :raises ImportError: the extra is not installed.
    """

    method = "client_secret_jwt"
    has_secret = True

    def __init__(
        self,
        *,
        algorithm: str = "HS256",
        issuer: str | None = None,
        audience: str | Sequence[str] | None = None,
        typ: str | None = None,
        lifetime: float = 60,
        headers: Mapping[str, Any] | None = None,
        claims: Mapping[str, Any] | None = None,
    ) -> None:
        assertion = Assertion(
            algorithm,
            typ=typ,
            headers=headers,
            audience=audience,
            lifetime=lifetime,
            claims=claims,
        )
        super().__init__(issuer, assertion)
        self._algorithm = algorithm
        self._has_warned = False
        hmac_signer(algorithm, "")  # raises if it is unknown, or the extra is not installed

    def flow(self, credentials: Credentials, url: str, now: float) -> Flow:
        del url, now

        def sign_with(secret: str) -> Sign:
            self._warn_of_short(secret, credentials.client_id)
            return self._assert(credentials, hmac_signer(self._algorithm, secret))

        _, response = yield from with_secret(credentials, sign_with)
        return response

    def _warn_of_short(self, secret: str, client_id: str) -> None:
        """Warn once: the provider chose the secret, so a short one is not refused."""
        least = int(self._algorithm.removeprefix("HS")) // 8
        if len(secret.encode()) < least and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "the client_secret of client_id %r is shorter than the %d bytes that %s requires "
                "(RFC 7518 §3.2): ask the provider for a longer one, or use private_key_jwt",
                client_id,
                least,
                self._algorithm,
            )


class PrivateKeyJWT(SignedClientAuth):
    """A JWT signed with the client's private key (OpenID Connect Core §9, RFC 7523 §2.2).

    >>> client_auth = PrivateKeyJWT(key=Path("key.pem"), algorithm="ES256", key_id="key-1")

    :param key: the private key: PEM text, the path of a file with it, a JWK as a mapping or as
        text, a key of ``cryptography``; or a callable that is given the bytes to sign and
        returns the signature as JWS has it (RFC 7518 §3), for keys that never leave their
        place. All but the last need the extra ``jwt``.
    :param password: the password of an encrypted PEM.
    :param certificate: the certificate of the key, for servers that know the key by it, such as
        Entra: PEM, the path of a file with it, or a certificate of ``cryptography``. Its
        thumbprints go into the header (``x5t`` and ``x5t#S256``).
    :param algorithm: such as ``RS256``, ``PS256``, ``ES256`` or ``EdDSA``; by default the JWK's
        own, or the usual one for the key. A callable has none: it must be given.
    :param key_id: the ``kid`` by which the server knows the key; by default the JWK's own.
    :param issuer: the issuer's identifier, for a Client with a ``token_endpoint``; by default the
        ``issuer`` of the Client.
    :param audience: whom the JWT is for, one or several; by default the issuer if it is known, or
        else the token endpoint.
    :param typ: the ``typ`` of the JWT's header; by default ``client-authentication+jwt`` if the
        issuer is known (RFC 10070), or else ``JWT``.
    :param lifetime: seconds for which each JWT is valid.
    :param headers: other members of the JWT's header.
    :param claims: other claims.
    :param allow_short_key: whether an RSA key of less than 2,048 bits is accepted, which is not
        secure (RFC 7518 §3.3).
    :raises TypeError: an argument is of the wrong type.
    :raises ValueError: an argument does not have a usable value: the key cannot be read, is
        encrypted, is too short, or is of another kind than the algorithm wants, or the certificate
        is for another key.
    :raises ImportError: the extra is not installed.
    """

    method = "private_key_jwt"

    def __init__(
        self,
        *,
        key: Any,
        password: str | bytes | None = None,
        certificate: Any = None,
        algorithm: str | None = None,
        key_id: str | None = None,
        issuer: str | None = None,
        audience: str | Sequence[str] | None = None,
        typ: str | None = None,
        lifetime: float = 60,
        headers: Mapping[str, Any] | None = None,
        claims: Mapping[str, Any] | None = None,
        allow_short_key: bool = False,
    ) -> None:
        key, password = masked_key(key), masked_key(password)
        certificate = masked_key(certificate)
        self._key = SigningKey(key, algorithm, password=password, allow_short_key=allow_short_key)
        assertion = Assertion(
            self._key.algorithm,
            key_id=self._key.key_id if key_id is None else key_id,
            typ=typ,
            thumbprints=None if certificate is None else self._key.thumbprints_of(certificate),
            headers=headers,
            audience=audience,
            lifetime=lifetime,
            claims=claims,
        )
        super().__init__(issuer, assertion)

    def flow(self, credentials: Credentials, url: str, now: float) -> Flow:
        del url, now
        return (yield self._assert(credentials, self._key.sign))


class ClientAssertion(ClientAuth):
    """An assertion that somebody else issues, such as a workload's identity (RFC 7521 §4.2).

    >>> client_auth = ClientAssertion("/var/run/secrets/tokens/token")

    It is read anew for every token request, and sent unchanged. Nothing has to be installed.

    :param source: the path of a file with the assertion, which may be replaced at any time; or a
        callable that returns it. The callable gets ``audience`` (the issuer, or the token
        endpoint) and ``client_id`` if it has required parameters of these names. With a
        ``token_storage`` it needs an attribute ``identity``, a str that tells whose tokens these
        are, or the Client a ``token_storage_key``.
    :param assertion_type: the ``client_assertion_type``, a URI: by default that of a JWT.
    :raises TypeError: an argument is of the wrong type, or the callable requires other parameters.
    :raises ValueError: the source is the assertion itself, or the type is not a URI.

    A token request without a usable assertion is a :class:`~alf.TokenError`. It names the file and
    does not show its content.
    """

    method = "client_assertion"
    params = ASSERTION_PARAMS

    def __init__(
        self,
        source: str | os.PathLike[str] | Callable[..., str],
        *,
        assertion_type: str = JWT_BEARER,
    ) -> None:
        # Error reports show local variables, and a str may be the assertion itself.
        source = masked(source)
        assertion_type = check_text("assertion_type", assertion_type)
        if not _URI.fullmatch(assertion_type):
            message = f"assertion_type must be an absolute URI, got {assertion_type!r}"
            raise ValueError(message)
        self._type = assertion_type
        self._source = Source(source, is_jwt="saml" not in assertion_type)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({getattr(self, '_source', '')!r})"

    @property
    def identity(self) -> str | None:
        """The method and the source: a path, or what the callable calls itself."""
        identity = self._source.identity
        return None if identity is None else f"{self.method}:{identity}"

    def flow(self, credentials: Credentials, url: str, now: float) -> Flow:
        del url, now
        assertion = self._read(credentials)
        response = yield _in_form(credentials, self._type, assertion)
        if self._source.is_file and is_refused(response):
            fresh = self._read(credentials)
            if fresh != assertion:  # replaced meanwhile
                response = yield _in_form(credentials, self._type, fresh)
        return response

    def _read(self, credentials: Credentials) -> str:
        return self._source.read(audience=credentials.audience, client_id=credentials.client_id)


def _in_form(credentials: Credentials, kind: str, assertion: str) -> InForm:
    """The assertion in the form (RFC 7521 §4.2)."""
    return InForm(
        ("client_id", credentials.client_id),
        ("client_assertion_type", kind),
        ("client_assertion", assertion),
    )


def _may_be_the_form(response: requests.Response) -> bool:
    """Whether the server may have refused the client because of the form of id and secret."""
    status, code = response.status_code, find_error(response)[0]
    if status in (401, 403) or (status == 400 and code is None):
        return True
    return status < 500 and code in _REFUSALS


def _remember(table: dict[_K, _V], key: _K, value: _V) -> None:
    if len(table) >= _MOST_REMEMBERED and key not in table:
        table.clear()
    table[key] = value
