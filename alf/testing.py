"""For tests of code that uses alf: a token endpoint and an API, and a Client without them.

>>> with FakeTokenEndpoint() as endpoint, FakeAPI(endpoint) as api:
...     with Client(**endpoint.credentials) as client:
...         assert client.get(api.url).status_code == 200
...     assert len(endpoint.requests) == 1

Not for production.
"""

from __future__ import annotations

import base64
import functools
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Any
from urllib.parse import parse_qs, unquote_plus, urlsplit

from alf._fake_server import Answer, FakeServer, Request
from alf._lifetimes import NEVER, Deadline
from alf.client import Client
from alf.tokens import Token, parse_expires_in

__all__ = ["FakeAPI", "FakeTokenEndpoint", "Request", "StaticToken", "TokenRequest"]

_CLIENT_CREDENTIALS = "client_credentials"
_JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"

#: The grant types, and the parameters that each of them requires.
_GRANT_TYPES = {
    _CLIENT_CREDENTIALS: (),
    _JWT_BEARER: ("assertion",),
    _TOKEN_EXCHANGE: ("subject_token", "subject_token_type"),
}

_METADATA_PATHS = ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration")


@dataclass(frozen=True)
class TokenRequest:
    """A token request as the endpoint saw it.

    :param form: the values of each parameter, such as ``{"scope": ["read write"]}``.
    :param headers: the headers, whose names are compared without case.
    """

    form: Mapping[str, list[str]]
    headers: Message


@dataclass(frozen=True)
class _Grant:
    client_id: str
    token_type: str
    dies_at: Deadline


class FakeTokenEndpoint(FakeServer):
    """An authorization server on a free port of loopback, for a ``with`` block.

    It has a token endpoint (RFC 6749 §3.2), a revocation endpoint (RFC 7009) and metadata
    (RFC 8414). Each token request gets a new token. A request that a real server would not
    understand is an error here, too: another path, method, content type or grant type, or a
    parameter that is missing. Everything may be changed at any time, from any thread.

    :param expires_in: the ``expires_in`` of the answers, in seconds; ``None``: none.
    :param members: other members of the answers, such as ``scope``.
    :param client_id: the client that may have tokens.
    :param client_secret: its secret. A request with another id or secret, by Basic or in the
        form, is refused as ``invalid_client``. Client assertions, the assertion of a JWT bearer
        grant, subject tokens and DPoP proofs are accepted without being verified.
    """

    def __init__(
        self,
        *,
        expires_in: Any = 3600,
        members: Mapping[str, Any] | None = None,
        client_id: str = "client-id",
        client_secret: str = "client-secret",
    ) -> None:
        super().__init__()
        self.expires_in = expires_in
        self.members = dict(members or {})
        self.client_id = client_id
        self.client_secret = client_secret
        #: The token requests so far, refused ones included.
        self.requests: list[TokenRequest] = []
        #: The access tokens granted so far.
        self.granted: list[str] = []
        self._other_clients: dict[str, str] = {}
        self._grants: dict[str, _Grant] = {}
        self._revoked: set[str] = set()

    @property
    def url(self) -> str:
        """The URL of the token endpoint; after the ``with`` block connections are refused.

        :raises RuntimeError: the block has not begun.
        """
        return f"{self._origin}/token"

    @property
    def revocation_url(self) -> str:
        """The URL of the revocation endpoint."""
        return f"{self._origin}/revoke"

    @property
    def issuer(self) -> str:
        """The issuer, whose metadata name both endpoints: ``Client(issuer=endpoint.issuer, …)``."""
        return self._origin

    @property
    def credentials(self) -> dict[str, Any]:
        """The keyword arguments of a Client for this endpoint."""
        return self._credentials(self.client_id, self.client_secret)

    def add_client(self, client_id: str, client_secret: str = "client-secret") -> dict[str, Any]:
        """Let one more client have tokens.

        :returns: its :attr:`credentials`.
        """
        with self._lock:
            self._other_clients[client_id] = client_secret
        return self._credentials(client_id, client_secret)

    def refuse(self, error: str = "invalid_client", *, times: int | None = None) -> None:
        """Answer token requests with an error response (RFC 6749 §5.2).

        :param error: its code.
        :param times: how often; ``None``: until :meth:`grant`.
        """
        status = 401 if error == "invalid_client" else 400
        self.answer(status, {"error": error}, times=times)

    def fail(self, status: int = 503, *, times: int | None = None) -> None:
        """Answer with a status and an empty body; ``times`` as in :meth:`refuse`."""
        self.answer(status, times=times)

    def grant(self) -> None:
        """Grant tokens again."""
        self.answer(200, times=0)

    def revoke(self, access_token: str | None = None) -> None:
        """Revoke a token; by default all that were granted so far."""
        with self._lock:
            self._revoked.update(self.granted if access_token is None else [access_token])

    def accepts(self, authorization: str | None) -> bool:
        """Whether an API should accept a request with this ``Authorization`` header.

        It should if the header has a token that was granted here, has neither expired nor been
        revoked, and is sent with the scheme of its type.
        """
        scheme, _, access_token = (authorization or "").partition(" ")
        with self._lock:
            grant = self._grants.get(access_token)
            return (
                grant is not None
                and access_token not in self._revoked
                and not grant.dies_at.has_passed(time)
                and scheme.lower() == grant.token_type
            )

    def _credentials(self, client_id: str, client_secret: str) -> dict[str, Any]:
        return {
            "token_endpoint": self.url,
            "revocation_endpoint": self.revocation_url,
            "client_id": client_id,
            "client_secret": client_secret,
        }

    def _record(self, request: Request) -> None:
        if (request.method, request.path.partition("?")[0]) == ("POST", "/token"):
            with self._lock:
                self.requests.append(TokenRequest(_form(request), request.headers))

    def _reply(self, request: Request) -> Answer:
        path = urlsplit(request.path).path
        if path in _METADATA_PATHS:
            return self._metadata() if request.method == "GET" else _not_allowed("GET")
        if path not in ("/token", "/revoke"):
            return Answer(404, f"The paths here are /token and /revoke, not {path}.\n".encode())
        if request.method != "POST":
            return _not_allowed("POST")
        if path == "/token" and (scripted := self._scripted()) is not None:
            return scripted
        if request.headers.get_content_type() != "application/x-www-form-urlencoded":
            return _error("invalid_request", "expected application/x-www-form-urlencoded")
        form = _form(request)
        return self._token(request, form) if path == "/token" else self._revocation(request, form)

    def _metadata(self) -> Answer:
        return Answer(
            200,
            {
                "issuer": self.issuer,
                "token_endpoint": self.url,
                "revocation_endpoint": self.revocation_url,
                "grant_types_supported": list(_GRANT_TYPES),
                "response_types_supported": [],
                "token_endpoint_auth_methods_supported": [
                    "client_secret_basic",
                    "client_secret_post",
                    "client_secret_jwt",
                    "private_key_jwt",
                ],
            },
        )

    def _token(self, request: Request, form: Mapping[str, list[str]]) -> Answer:
        grant_type = form.get("grant_type", [""])[0]
        if not grant_type:
            return _error("invalid_request", "grant_type is missing")
        if grant_type not in _GRANT_TYPES:
            return _error("unsupported_grant_type", f"expected one of {', '.join(_GRANT_TYPES)}")
        client_id = self._client(request, form)
        if client_id is None:
            return _error("invalid_client", "another client_id or client_secret was expected")
        missing = [name for name in _GRANT_TYPES[grant_type] if not form.get(name)]
        if missing:
            return _error("invalid_request", f"missing: {', '.join(missing)}")
        return Answer(200, self._new_token(client_id, grant_type, "DPoP" in request.headers))

    def _new_token(self, client_id: str, grant_type: str, is_bound: bool) -> dict[str, Any]:
        lifetime = parse_expires_in(self.expires_in)
        now = Deadline(time.monotonic(), time.time())
        dies_at = NEVER if lifetime is None else now + lifetime
        with self._lock:
            members: dict[str, Any] = {
                "access_token": f"token-{len(self.granted) + 1}-{secrets.token_urlsafe(12)}",
                "token_type": "DPoP" if is_bound else "Bearer",
            }
            if grant_type == _TOKEN_EXCHANGE:
                members["issued_token_type"] = "urn:ietf:params:oauth:token-type:access_token"
            if self.expires_in is not None:
                members["expires_in"] = self.expires_in
            members.update(self.members)
            self.granted.append(members["access_token"])
            scheme = "dpop" if str(members["token_type"]).lower() == "dpop" else "bearer"
            self._grants[members["access_token"]] = _Grant(client_id, scheme, dies_at)
        return members

    def _revocation(self, request: Request, form: Mapping[str, list[str]]) -> Answer:
        """Revoke a token of the client; any other token counts as revoked (RFC 7009 §2.2)."""
        client_id = self._client(request, form)
        if client_id is None:
            return _error("invalid_client", "another client_id or client_secret was expected")
        if not form.get("token"):
            return _error("invalid_request", "missing: token")
        (access_token, *_) = form["token"]
        with self._lock:
            grant = self._grants.get(access_token)
        if grant is not None:
            if grant.client_id != client_id:
                return _error("unauthorized_client", "the token is another client's")
            self.revoke(access_token)
        return Answer()

    def _client(self, request: Request, form: Mapping[str, list[str]]) -> str | None:
        """Which client the request comes from: by Basic, by the form, or by an assertion."""
        scheme, _, credentials = (request.headers["Authorization"] or "").partition(" ")
        client_id, secret = (form.get(name, [""])[0] for name in ("client_id", "client_secret"))
        if scheme.lower() == "basic":
            client_id, secret = _basic_credentials(credentials)
        with self._lock:
            clients = {**self._other_clients, self.client_id: self.client_secret}
        if "client_assertion" in form:
            return client_id or self.client_id
        is_granted = "assertion" in form or "subject_token" in form
        if is_granted and not (scheme or client_id):  # optional, by RFC 7523 §3.1, RFC 8693 §2.1
            return self.client_id
        return client_id if clients.get(client_id) == secret else None


class FakeAPI(FakeServer):
    """An API on a free port of loopback that accepts only live tokens, for a ``with`` block.

    Any path and method is answered with 200 and an empty JSON object, or with what
    :meth:`answer` was given; without a live token, with 401 (RFC 6750 §3).

    :param endpoint: the endpoint that grants the tokens.
    """

    def __init__(self, endpoint: FakeTokenEndpoint) -> None:
        super().__init__()
        self._endpoint = endpoint
        #: The requests so far, refused ones included.
        self.requests: list[Request] = []

    @property
    def url(self) -> str:
        """Its URL, without a slash at the end.

        :raises RuntimeError: the block has not begun.
        """
        return self._origin

    def _record(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)

    def _reply(self, request: Request) -> Answer:
        authorization = request.headers["Authorization"]
        if not self._endpoint.accepts(authorization):
            challenge = 'Bearer error="invalid_token"' if authorization else "Bearer"
            return Answer(401, {"error": "invalid_token"}, {"WWW-Authenticate": challenge})
        return self._scripted() or Answer(200, {})


def _form(request: Request) -> dict[str, list[str]]:
    return parse_qs(request.body.decode(errors="replace"), keep_blank_values=True)


def _error(code: str, description: str) -> Answer:
    headers = {"WWW-Authenticate": "Basic"} if code == "invalid_client" else {}
    status = 401 if code == "invalid_client" else 400
    return Answer(status, {"error": code, "error_description": description}, headers)


def _not_allowed(allowed: str) -> Answer:
    return Answer(405, f"The method here is {allowed}.\n".encode(), {"Allow": allowed})


def _basic_credentials(encoded: str) -> tuple[str, str]:
    try:
        client_id, _, secret = base64.b64decode(encoded).decode().partition(":")
    except ValueError:
        return "", ""
    return unquote_plus(client_id), unquote_plus(secret)


class _Static:
    """A token manager that always has the same token."""

    def __init__(self, access_token: str, **_: Any) -> None:
        self._access_token = Token(access_token).access_token

    def get_token(self) -> str:
        return self._access_token

    def reset_token(self) -> None:
        pass


class StaticToken(Client):
    """A Client that has this token and requests none.

    Its calls go over the network, or to the mock that a library such as ``responses`` puts in its
    place. A 401 is returned at once.

    >>> client = StaticToken("a-token")

    :param access_token: the token.
    :param options: a :class:`~alf.Client`'s arguments, so that this class can take its place.
        Their names are checked; only ``token_hosts`` has an effect.
    :raises ValueError: ``access_token`` cannot be sent in a header.
    """

    __attrs__: list[str] = [*Client.__attrs__, "token_manager_class"]  # noqa: RUF012

    def __init__(self, access_token: str = "static-token", **options: Any) -> None:
        self.token_manager_class = functools.partial(_Static, access_token)
        place: dict[str, Any] = {
            "token_endpoint": "https://static.invalid/token",
            "client_id": "static",
        }
        super().__init__(**{**place, **options})
