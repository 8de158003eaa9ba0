"""Assertion grants: a token for a signed JWT (RFC 7523 §2.1), or for another token (RFC 8693).

A :class:`Grant` takes the place of the client credentials. What it sends is made or read anew for
every try of a token request: assertions expire, and servers accept each of them once.
"""

from __future__ import annotations

import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from os import PathLike
from typing import Any

import requests

from alf._assertions import Assertion
from alf._inspection import decode_jwt
from alf._jose import SigningKey
from alf._redaction import Secret, masked, masked_key
from alf._signing import ClientAuth, Credentials, Flow, InForm, Sign
from alf._sources import Source
from alf._texts import check_text
from alf.tokens import TokenError

__all__ = ["Grant", "JWTBearerGrant", "TokenExchange"]

#: What RFC 8693 §3 registers, and what the names begin with in the request.
_TOKEN_TYPES = ("access_token", "refresh_token", "id_token", "jwt", "saml1", "saml2")
_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:"

#: Arguments of JWTBearerGrant that go with a key.
_ABOUT_KEY = (
    "password",
    "issuer",
    "subject",
    "audience",
    "algorithm",
    "key_id",
    "lifetime",
    "claims",
)

_SourceLike = str | PathLike[str] | Callable[..., str]


class Grant(ABC):
    """What a token is granted for, in place of client credentials (RFC 6749 §4.5)."""

    #: The ``grant_type`` of the token request.
    grant_type: str
    #: The other parameters that it may send.
    params: Collection[str]

    _about = ""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._about})"

    @property
    @abstractmethod
    def identity(self) -> str | None:
        """What distinguishes its tokens from those of another grant; ``None``: it is not known."""

    @property
    def fixed_form(self) -> list[tuple[str, str]]:
        """The pairs of the form that are the same in every token request."""
        return [("grant_type", self.grant_type)]

    @abstractmethod
    def fresh_form(self, credentials: Credentials) -> list[tuple[str, str]]:
        """The pairs of the form that are made anew for every try.

        :raises TokenError: a source does not have a usable token. What a callable raises is
            passed on.
        """

    def add_to(self, sign: Sign, credentials: Credentials) -> Sign:
        """What adds the fresh pairs to a token request, and then signs it."""

        def add(request: requests.PreparedRequest) -> requests.PreparedRequest:
            return sign(InForm(*self.fresh_form(credentials))(request))

        return add


class JWTBearerGrant(Grant):
    """A token for a JWT, which says who issued it and about whom (RFC 7523 §2.1).

    The JWT comes from a source, or is signed here:

    >>> grant = JWTBearerGrant("/var/run/secrets/assertion")
    >>> grant = JWTBearerGrant(
    ...     key=Path("key.pem"),
    ...     issuer="client-id",
    ...     subject="robot@example.com",
    ...     audience="https://id.example.com",
    ... )

    :param source: where the JWT is read anew for each token request: the path of a file, or a
        callable that returns it. The callable may require the parameters ``audience`` (the issuer
        or the token endpoint) and ``client_id``.
    :param key: the private key to sign with, as in :class:`~alf.client_auth.PrivateKeyJWT`.
    :param password: the password of an encrypted PEM.
    :param issuer: the ``iss`` claim: who signs. Many servers expect the client's identifier.
    :param subject: the ``sub`` claim: whom the token is for. RFC 7523 §3 requires it. By default
        it is left out, as Google expects it for the service account itself.
    :param audience: the ``aud`` claim, as the server documents it.
    :param algorithm: the signature's algorithm, as in ``PrivateKeyJWT``.
    :param key_id: the ``kid`` by which the server knows the key; by default the JWK's own.
    :param lifetime: seconds for which each JWT is valid (default: 60).
    :param claims: other claims, such as the ``scope`` of servers that read it from the JWT.
    :param allow_short_key: whether an RSA key of less than 2,048 bits is accepted.
    :param identity: whose JWT a callable returns: part of the key of the entry in a
        ``token_storage``. A file is known by its path and by the ``iss`` and ``sub`` of its JWT.
    :raises TypeError: an argument is missing, of the wrong type, or not for this use.
    :raises ValueError: an argument does not have a usable value.
    :raises ImportError: a key is given, and the extra ``jwt`` is not installed.
    """

    grant_type = "urn:ietf:params:oauth:grant-type:jwt-bearer"
    params = ("assertion",)

    def __init__(
        self,
        source: _SourceLike | None = None,
        *,
        key: Any = None,
        password: str | bytes | None = None,
        issuer: str | None = None,
        subject: str | None = None,
        audience: str | Sequence[str] | None = None,
        algorithm: str | None = None,
        key_id: str | None = None,
        lifetime: float | None = None,
        claims: Mapping[str, Any] | None = None,
        allow_short_key: bool = False,
        identity: str | None = None,
    ) -> None:
        # Error reports show local variables; these may be tokens, given by mistake.
        source, key, password = masked(source), masked_key(key), masked_key(password)
        arguments = locals()
        if (source is None) == (key is None):
            message = "JWTBearerGrant needs a source of JWTs, or a key to sign them: give one"
            raise TypeError(message)
        self._identity = _checked("identity", identity)
        self._source = None if source is None else _Token(source)
        if self._source is not None:
            unused = [name for name in _ABOUT_KEY if arguments[name] is not None]
            if unused:
                message = f"{', '.join(unused)}: only for JWTs that are signed here, with a key"
                raise TypeError(message)
            self._about = repr(self._source)
            return
        self._issuer = check_text("issuer", issuer)
        self._subject = _checked("subject", subject)
        if not audience:
            message = "audience is missing: whom the JWT is for, as the server documents it"
            raise TypeError(message)
        self._key = SigningKey(key, algorithm, password=password, allow_short_key=allow_short_key)
        self._assertion = Assertion(
            self._key.algorithm,
            key_id=self._key.key_id if key_id is None else key_id,
            audience=audience,
            lifetime=60 if lifetime is None else lifetime,
            claims=claims,
        )
        if identity is None:
            audiences = audience if isinstance(audience, str) else list(audience)
            about = [issuer, subject, audiences, dict(claims or {})]
            self._identity = json.dumps(about, sort_keys=True)
        self._about = f"issuer={issuer!r}, subject={subject!r}"

    @property
    def identity(self) -> str | None:
        if self._source is None or self._identity is not None:
            return self._identity
        return self._source.identity

    def fresh_form(self, credentials: Credentials) -> list[tuple[str, str]]:
        if self._source is not None:
            return [("assertion", self._source.read_for(credentials))]
        assertion = self._assertion.encode(
            self._key.sign, issuer=self._issuer, subject=self._subject, audience=""
        )
        return [("assertion", assertion)]


class TokenExchange(Grant):
    """A token for another token, which says whom it is for (RFC 8693).

    >>> grant = TokenExchange(subject_token="/var/run/secrets/token", subject_token_type="jwt")

    Whether the audience, the resource and the scope may be chosen is up to the server: they are
    options of the Client. The ``issued_token_type`` is in ``Token.extra``.

    :param subject_token: where the token is read anew for each token request: the path of a file,
        or a callable that returns it. The callable may require the parameters ``audience`` (the
        issuer or the token endpoint) and ``client_id``.
    :param subject_token_type: its type: ``access_token``, ``refresh_token``, ``id_token``,
        ``jwt``, ``saml1``, ``saml2`` (RFC 8693 §3), or the URI of another.
    :param actor_token: where the token of who acts for the subject is read, in the same way.
    :param actor_token_type: its type.
    :param requested_token_type: the type of the token to issue; by default the server chooses.
    :param identity: whose tokens callables return: part of the key of the entry in a
        ``token_storage``. A file is known by its path and by the ``iss`` and ``sub`` of its JWT.
    :raises TypeError: an argument is missing or of the wrong type.
    :raises ValueError: an argument does not have a usable value.
    """

    grant_type = "urn:ietf:params:oauth:grant-type:token-exchange"
    params = (
        "subject_token",
        "subject_token_type",
        "actor_token",
        "actor_token_type",
        "requested_token_type",
    )

    def __init__(
        self,
        *,
        subject_token: _SourceLike,
        subject_token_type: str,
        actor_token: _SourceLike | None = None,
        actor_token_type: str | None = None,
        requested_token_type: str | None = None,
        identity: str | None = None,
    ) -> None:
        subject_token, actor_token = masked(subject_token), masked(actor_token)
        if (actor_token is None) != (actor_token_type is None):
            message = "actor_token and actor_token_type go together: give both or neither of them"
            raise TypeError(message)
        self._identity = _checked("identity", identity)
        self._tokens = {"subject_token": _Token(subject_token, "subject_token", is_jwt=False)}
        types = {"subject_token_type": subject_token_type}
        if actor_token is not None and actor_token_type is not None:
            self._tokens["actor_token"] = _Token(actor_token, "actor_token", is_jwt=False)
            types["actor_token_type"] = actor_token_type
        if requested_token_type is not None:
            types["requested_token_type"] = requested_token_type
        self._types = [(name, _token_type(name, value)) for name, value in types.items()]
        self._about = ", ".join(f"{name}={token!r}" for name, token in self._tokens.items())

    @property
    def identity(self) -> str | None:
        if self._identity is not None:
            return self._identity
        identities = [token.identity for token in self._tokens.values()]
        return None if None in identities else json.dumps(identities)

    @property
    def fixed_form(self) -> list[tuple[str, str]]:
        return [*super().fixed_form, *self._types]

    def fresh_form(self, credentials: Credentials) -> list[tuple[str, str]]:
        return [(name, token.read_for(credentials)) for name, token in self._tokens.items()]


class WithoutClient(ClientAuth):
    """No client authentication and no client: the grant says it all (RFC 7521 §4.1)."""

    method = "no client"

    def flow(self, credentials: Credentials, url: str, now: float) -> Flow:
        del credentials, url, now
        return (yield InForm())


class _Token(Source):
    """A token from a source, known by whose it is as well."""

    _owner: tuple[object, ...] = ()

    @property
    def identity(self) -> str | None:
        """For a file its path and the owner of the token in it: other machines may have others."""
        place = super().identity
        if not self.is_file:
            return place
        with contextlib.suppress(TokenError):  # it may just be replaced
            jwt = decode_jwt(self.read(audience="", client_id=""))
            self._owner = () if jwt is None else (jwt[1].get("iss"), jwt[1].get("sub"))
        return json.dumps([place, *self._owner])

    def read_for(self, credentials: Credentials) -> Secret:
        return self.read(audience=credentials.audience, client_id=credentials.client_id)


def _token_type(name: str, value: str) -> str:
    """The URI of the type."""
    value = check_text(name, value).strip()
    if value in _TOKEN_TYPES:
        return _TOKEN_TYPE + value
    if ":" not in value:
        message = f"{name} must be a URI or one of {', '.join(_TOKEN_TYPES)}"
        raise ValueError(message)
    return value


def _checked(name: str, text: str | None) -> str | None:
    return None if text is None else check_text(name, text)
