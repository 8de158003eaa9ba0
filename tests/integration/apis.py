"""APIs that believe nothing: they ask the authorization server, or check its signature."""

from __future__ import annotations

import base64
import hashlib
import time
import uuid
from typing import Any

import requests
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, RSAKey, import_key
from joserfc.jws import JWSRegistry

from tests.servers import Reply, Request, Server

#: A proof holds its key, and an RSA key is longer than the headers that joserfc takes.
PROOFS = JWSRegistry(algorithms=["ES256", "RS256", "EdDSA"])
PROOFS.max_header_length = 2048


class AuthorizationServer:
    """A running authorization server, as the operator of an API knows it.

    :param verify: the CA that vouches for it, as requests takes it.
    """

    def __init__(self, issuer: str, verify: bool | str = True) -> None:
        self.issuer = issuer
        self.verify = verify
        metadata = self._read_metadata()
        self.token_endpoint: str = metadata["token_endpoint"]
        self.introspection_endpoint: str = metadata["introspection_endpoint"]
        self.revocation_endpoint: str = metadata["revocation_endpoint"]
        self.jwks_uri: str | None = metadata.get("jwks_uri")

    def _read_metadata(self) -> dict[str, Any]:
        for name in ("oauth-authorization-server", "openid-configuration"):
            response = requests.get(f"{self.issuer}/.well-known/{name}", verify=self.verify)
            if response.ok:
                return response.json()
        message = f"{self.issuer} has no metadata"
        raise RuntimeError(message)

    def introspect(self, token: str) -> dict[str, Any]:
        """What the server knows of a token (RFC 7662)."""
        response = requests.post(
            self.introspection_endpoint,
            data={"token": token},
            auth=("resource-server", "secret"),
            verify=self.verify,
        )
        response.raise_for_status()
        return response.json()

    def is_active(self, token: str) -> bool:
        return self.introspect(token)["active"]

    def revoke(self, token: str, client_id: str, client_secret: str) -> None:
        """Revoke a token (RFC 7009), as the client that it was granted to."""
        form = {"token": token, "client_id": client_id, "client_secret": client_secret}
        requests.post(self.revocation_endpoint, data=form, verify=self.verify).raise_for_status()

    def keys(self) -> KeySet:
        return KeySet.import_key_set(requests.get(self.jwks_uri, verify=self.verify).json())


class ForeignIssuer(Server):
    """An OpenID provider elsewhere: it publishes its key, and signs what it is given."""

    def __init__(self) -> None:
        super().__init__(lambda request: Reply(body=self._jwks))
        self._key = RSAKey.generate_key(2048, {"kid": "foreign-key", "alg": "RS256", "use": "sig"})
        self._jwks = KeySet([self._key]).as_dict(private=False)

    @property
    def private_key(self) -> bytes:
        return self._key.as_pem(private=True)

    def sign(self, subject: str, audience: str, **claims: Any) -> str:
        """A JWT about the subject that lives a minute."""
        now = int(time.time())
        own = {"iss": self.url, "sub": subject, "aud": audience, "iat": now, "exp": now + 60}
        header = {"alg": "RS256", "kid": "foreign-key"}
        return jwt.encode(header, {**own, "jti": str(uuid.uuid4()), **claims}, self._key)


class ProtectedApi(Server):
    """Answers with what the authorization server knows of the token, or refuses it."""

    def __init__(self, authorization_server: AuthorizationServer) -> None:
        super().__init__(self.answer)
        self.authorization_server = authorization_server
        self.refused = 0

    @property
    def tokens(self) -> list[str]:
        """The tokens that it was shown, in order."""
        return [(request.authorization or "").partition(" ")[2] for request in self.requests]

    def answer(self, request: Request) -> Reply:
        scheme, _, token = (request.authorization or "").partition(" ")
        if scheme == "Bearer" and token:
            known = self.look_up(token)
            if known["active"]:
                return Reply(body=known)
        self.refused += 1
        return Reply(
            401, {"error": "invalid_token"}, {"WWW-Authenticate": 'Bearer error="invalid_token"'}
        )

    def look_up(self, token: str) -> dict[str, Any]:
        return self.authorization_server.introspect(token)


class JwtApi(ProtectedApi):
    """Reads JWT access tokens itself (RFC 9068): signature, issuer, audience, expiry."""

    def __init__(self, authorization_server: AuthorizationServer, audience: str) -> None:
        super().__init__(authorization_server)
        self.audience = audience
        #: Read once, so that the API does not need the server any more.
        self.keys = authorization_server.keys()

    def look_up(self, token: str) -> dict[str, Any]:
        registry = jwt.JWTClaimsRegistry(
            iss={"essential": True, "value": self.authorization_server.issuer},
            aud={"essential": True, "value": self.audience},
            exp={"essential": True},
        )
        try:
            claims = jwt.decode(token, self.keys).claims
            registry.validate(claims)
        except JoseError:
            return {"active": False}
        return {"active": True, **claims}


class DPoPApi(Server):
    """Takes tokens bound to a key, with a proof for each request and a nonce (RFC 9449 §7, §9)."""

    def __init__(self, authorization_server: AuthorizationServer) -> None:
        super().__init__(self.answer)
        self.authorization_server = authorization_server
        self.nonce = "nonce-1"
        self.refusals: list[str] = []
        self.redirects: dict[str, str] = {}
        self._seen: set[str] = set()

    def answer(self, request: Request) -> Reply:
        scheme, _, token = (request.authorization or "").partition(" ")
        known = self.authorization_server.introspect(token)
        is_live = scheme == "DPoP" and known["active"]
        error = self.find_fault(request, token, known) if is_live else "invalid_token"
        if error is None:
            headers = {"DPoP-Nonce": self.nonce}
            if request.path in self.redirects:
                return Reply(307, headers={**headers, "Location": self.redirects[request.path]})
            return Reply(body=known, headers=headers)
        self.refusals.append(error)
        challenge = f'DPoP error="{error}", algs="ES256"'
        return Reply(401, b"", {"WWW-Authenticate": challenge, "DPoP-Nonce": self.nonce})

    def find_fault(self, request: Request, token: str, known: dict[str, Any]) -> str | None:
        """What is wrong with the proof (RFC 9449 §4.3), as the code of an error."""
        try:
            proof = jwt.decode(
                request.headers["DPoP"] or "",
                lambda got: import_key(got.headers()["jwk"]),
                registry=PROOFS,
            )
        except JoseError:
            return "invalid_dpop_proof"
        key, claims = proof.header["jwk"], proof.claims
        digest = hashlib.sha256(token.encode()).digest()
        is_good = (
            proof.header["typ"] == "dpop+jwt"
            and "d" not in key
            and import_key(key).thumbprint() == known["cnf"]["jkt"]
            and claims["htm"] == request.method
            and claims["htu"] == self.url + request.path.partition("?")[0]
            and claims["ath"] == base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
            and abs(time.time() - claims["iat"]) < 60
            and claims["jti"] not in self._seen
        )
        self._seen.add(claims["jti"])
        if not is_good:
            return "invalid_dpop_proof"
        return None if claims.get("nonce") == self.nonce else "use_dpop_nonce"
