"""Signed JWTs (RFC 7515, RFC 7519), by way of PyJWT and cryptography: the extra ``jwt``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, cast

from alf._keys import (
    base64url,
    certificate_thumbprints,
    import_extra,
    key_as_pem,
    load_certificate,
    load_key,
)
from alf._redaction import masked_key

__all__ = ["SigningKey", "encode_jwt", "hmac_signer"]

#: The members of a public JWK that make up its thumbprint (RFC 7638 §3.2, RFC 8037 §2).
_MEMBERS = {
    "EC": ("crv", "kty", "x", "y"),
    "OKP": ("crv", "kty", "x"),
    "RSA": ("e", "kty", "n"),
}

_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}

#: Bytes of a signature, where the algorithm alone tells.
_SIGNATURE_LENGTHS = {"ES256": 64, "ES384": 96, "ES512": 132, "EdDSA": 64}

_HMAC = ("HS256", "HS384", "HS512")

#: Bits of an RSA key, at least (RFC 7518 §3.3).
_SHORTEST_RSA = 2048

_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")


class SigningKey:
    """A private key, and the algorithm that it signs with (RFC 7518 §3.1).

    :param key: PEM text, a JWK as a mapping or as JSON text, either of them as bytes, the path
        of a file with one of them, a private key of ``cryptography``, or a callable that is
        given the bytes to sign and returns the signature as JWS has it (RFC 7518 §3).
    :param algorithm: such as ``RS256``; ``None``: the usual one for the key, or the JWK's own.
    :param password: the password of an encrypted PEM.
    :param allow_short_key: whether an RSA key of less than 2,048 bits is accepted.
    :raises TypeError: the key is of another type, or is a callable, and no algorithm is given.
    :raises ValueError: there is no private key in it that can be read, or the key is too short,
        or of another kind than the algorithm wants.
    :raises ImportError: the extra ``jwt`` is not installed.
    """

    def __init__(
        self,
        key: Any,
        algorithm: str | None = None,
        *,
        password: str | bytes | None = None,
        allow_short_key: bool = False,
    ) -> None:
        key, password = masked_key(key), masked_key(password)
        #: The JWK's ``kid``, where the key came as one.
        self.key_id: str | None = None
        if callable(key):
            if algorithm is None:
                message = "algorithm is missing: a callable that signs does not tell it"
                raise TypeError(message)
            if password is not None:
                message = "password is for an encrypted PEM only: the key is a callable"
                raise ValueError(message)
            known = {*_CURVES.values(), *_RSA, "EdDSA"}
            self._sign: Callable[[bytes], bytes] | None = cast("Callable[[bytes], bytes]", key)
        else:
            key, jwk = load_key(key, password)
            self.key_id = jwk.get("kid")
            algorithm = jwk.get("alg") if algorithm is None else algorithm
            fitting = _algorithms_of(key)
            if fitting == _RSA and key.key_size < _SHORTEST_RSA and not allow_short_key:
                message = (
                    f"key: an RSA key must have at least {_SHORTEST_RSA} bits (RFC 7518 §3.3), "
                    f"this one has {key.key_size}: make a new one, or give allow_short_key=True"
                )
                raise ValueError(message)
            algorithm = fitting[0] if algorithm is None else algorithm
            known = set(fitting)
            self._sign = None
            self._key = key
            _algorithm(fitting[0])  # says so if it cannot be had
        if algorithm not in known:
            message = f"algorithm must be one of {', '.join(sorted(known))}, got {algorithm!r}"
            raise ValueError(message)
        self.algorithm = algorithm

    def __deepcopy__(self, memo: dict[int, Any]) -> SigningKey:
        return self

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if self._sign is None:
            state["_key"] = key_as_pem(self._key)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._sign is None:
            self._key, _ = load_key(self._key)

    def sign(self, signing_input: bytes) -> bytes:
        """The signature of these bytes; what the callable raises is passed on."""
        if self._sign is None:
            own: bytes = _algorithm(self.algorithm).sign(signing_input, self._key)
            return own
        signature = self._sign(signing_input)
        if not isinstance(signature, bytes):
            message = f"the callable that signs must return bytes, got {type(signature).__name__}"
            raise TypeError(message)
        length = _SIGNATURE_LENGTHS.get(self.algorithm, len(signature))
        if len(signature) != length:
            kind = "DER, as key services return it" if signature.startswith(b"\x30") else "others"
            message = (
                f"the callable that signs must return the {length} bytes that JWS has for "
                f"{self.algorithm} (RFC 7518 §3.4, RFC 8037 §3.1), got {len(signature)} bytes of "
                f"{kind}: convert DER with cryptography's decode_dss_signature"
            )
            raise ValueError(message)
        return signature

    def thumbprints_of(self, certificate: Any) -> dict[str, str]:
        """The header members that name the key's certificate (RFC 7515 §4.1.7 and §4.1.8).

        :raises TypeError: it is not a certificate.
        :raises ValueError: it cannot be read, or is for another key. A callable's is not known.
        """
        key = self._key if self._sign is None else None
        return certificate_thumbprints(load_certificate(masked_key(certificate), key))

    @cached_property
    def public_jwk(self) -> dict[str, str]:
        """The public key, as a JWK with its required members alone (RFC 7517 §4)."""
        jwk = _algorithm(self.algorithm).to_jwk(self._key.public_key(), as_dict=True)
        return {name: jwk[name] for name in _MEMBERS[jwk["kty"]]}

    @cached_property
    def thumbprint(self) -> str:
        """The SHA-256 thumbprint of the public key (RFC 7638)."""
        canonical = json.dumps(self.public_jwk, separators=(",", ":"), sort_keys=True)
        return base64url(hashlib.sha256(canonical.encode()).digest())


def encode_jwt(
    claims: Mapping[str, Any], header: Mapping[str, Any], sign: Callable[[bytes], bytes]
) -> str:
    """The signed JWT in its compact form (RFC 7515 §7.1)."""
    parts = [
        base64url(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims)
    ]
    signature = sign(".".join(parts).encode())
    return ".".join([*parts, base64url(signature)])


def hmac_signer(algorithm: str, secret: str) -> Callable[[bytes], bytes]:
    """What signs with this secret.

    :raises ValueError: the algorithm is not one of HMAC.
    :raises ImportError: the extra ``jwt`` is not installed.
    """
    if algorithm not in _HMAC:
        message = f"algorithm must be one of {', '.join(_HMAC)}, got {algorithm!r}"
        raise ValueError(message)
    hmac = _algorithm(algorithm)

    def sign(signing_input: bytes) -> bytes:
        signature: bytes = hmac.sign(signing_input, secret.encode())
        return signature

    return sign


def generate_key() -> Any:
    """A new private key, for ES256."""
    ec = import_extra("cryptography.hazmat.primitives.asymmetric.ec")
    return ec.generate_private_key(ec.SECP256R1())


def _algorithm(name: str) -> Any:
    return import_extra("jwt").get_algorithm_by_name(name)


def _algorithms_of(key: Any) -> tuple[str, ...]:
    """The algorithms that this private key can sign with, the usual one first."""
    kinds = "cryptography.hazmat.primitives.asymmetric"
    ec = import_extra(f"{kinds}.ec")
    if isinstance(key, import_extra(f"{kinds}.rsa").RSAPrivateKey):
        return _RSA
    if isinstance(key, import_extra(f"{kinds}.ed25519").Ed25519PrivateKey):
        return ("EdDSA",)
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        return (_CURVES[key.curve.name],)
    message = (
        "key must be a private key of RSA, of a curve P-256, P-384 or P-521, or of Ed25519, "
        f"got {type(key).__name__}"
    )
    raise TypeError(message)
