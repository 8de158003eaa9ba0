"""The forms in which people have a private key, and what is no such key."""

from __future__ import annotations

import copy
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, OKPAlgorithm, RSAAlgorithm

from alf import Client
from alf.client_auth import PrivateKeyJWT
from alf.dpop import DPoPKey
from tests.servers import TokenServer

MakeClient = Callable[..., Client]

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
P256 = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
P521 = ec.generate_private_key(ec.SECP521R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()


def pem(key: Any, form: PrivateFormat = PrivateFormat.PKCS8) -> str:
    return str(key.private_bytes(Encoding.PEM, form, NoEncryption()), "ascii")


def header_once_used(
    make_client: MakeClient, tokens: TokenServer, way: PrivateKeyJWT, public_key: Any
) -> dict[str, Any]:
    """The header of an assertion whose signature the public key confirms."""
    make_client(client_auth=way, client_secret=None).renew_token()
    assertion = tokens.requests[-1].form["client_assertion"]
    header = jwt.get_unverified_header(assertion)
    options: Any = {"verify_aud": False}
    jwt.decode(assertion, public_key, [header["alg"]], options=options)
    return header


@pytest.mark.parametrize(
    ("key", "algorithms"),
    [
        (RSA, ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]),
        (P256, ["ES256"]),
        (P384, ["ES384"]),
        (P521, ["ES512"]),
        (ED25519, ["EdDSA"]),
    ],
)
def test_every_algorithm(
    make_client: MakeClient, tokens: TokenServer, key: Any, algorithms: list[str]
) -> None:
    for algorithm in algorithms:
        way = PrivateKeyJWT(key=key, algorithm=algorithm)
        header = header_once_used(make_client, tokens, way, key.public_key())
        assert header["alg"] == algorithm
    usual = header_once_used(make_client, tokens, PrivateKeyJWT(key=key), key.public_key())
    assert usual["alg"] == algorithms[0]


def jwk_of(key: Any, **members: str) -> dict[str, Any]:
    algorithm = RSAAlgorithm if key is RSA else OKPAlgorithm if key is ED25519 else ECAlgorithm
    return {**algorithm.to_jwk(key, as_dict=True), **members}


def in_a_file(text: str, folder: Path) -> Path:
    path = folder / "key"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "form",
    [
        lambda key, _folder: pem(key),
        lambda key, _folder: pem(key).encode(),
        lambda key, _folder: f"Bag Attributes\n    friendlyName: it\n{pem(key)}",
        lambda key, folder: in_a_file(pem(key), folder),
        lambda key, folder: str(in_a_file(pem(key), folder)),
        lambda key, folder: os.path.relpath(in_a_file(pem(key), folder)),
        lambda key, _folder: jwk_of(key),
        lambda key, _folder: json.dumps(jwk_of(key), indent=2),
        lambda key, _folder: json.dumps(jwk_of(key)).encode(),
        lambda key, folder: in_a_file(json.dumps(jwk_of(key)), folder),
        lambda key, _folder: key,
    ],
)
@pytest.mark.parametrize("key", [RSA, P256, ED25519])
def test_every_form_of_a_key(
    make_client: MakeClient, tokens: TokenServer, tmp_path: Path, key: Any, form: Any
) -> None:
    way = PrivateKeyJWT(key=form(key, tmp_path))
    header_once_used(make_client, tokens, way, key.public_key())


@pytest.mark.parametrize("key", [RSA, P256])
def test_pem_of_the_traditional_kind(
    make_client: MakeClient, tokens: TokenServer, key: Any
) -> None:
    way = PrivateKeyJWT(key=pem(key, PrivateFormat.TraditionalOpenSSL))
    header_once_used(make_client, tokens, way, key.public_key())


def test_a_jwk_may_say_its_algorithm_and_its_name(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    jwk = jwk_of(RSA, alg="PS384", kid="key-7")
    header = header_once_used(make_client, tokens, PrivateKeyJWT(key=jwk), RSA.public_key())
    assert header == {"typ": "JWT", "alg": "PS384", "kid": "key-7"}
    way = PrivateKeyJWT(key=jwk, algorithm="RS256", key_id="another")
    header = header_once_used(make_client, tokens, way, RSA.public_key())
    assert header == {"typ": "JWT", "alg": "RS256", "kid": "another"}


def test_a_callable_that_signs(make_client: MakeClient, tokens: TokenServer) -> None:
    seen: list[bytes] = []

    def kms(signing_input: bytes) -> bytes:
        seen.append(signing_input)
        return jwt.get_algorithm_by_name("ES256").sign(signing_input, P256)

    way = PrivateKeyJWT(key=kms, algorithm="ES256")
    header_once_used(make_client, tokens, way, P256.public_key())
    assert len(seen) == 1
    assert repr(copy.deepcopy(way)) == "PrivateKeyJWT(algorithm='ES256', key_id=None)"


def sign_with_p256(signing_input: bytes) -> bytes:
    return jwt.get_algorithm_by_name("ES256").sign(signing_input, P256)


def test_a_callable_travels_if_it_can(make_client: MakeClient, tokens: TokenServer) -> None:
    way = pickle.loads(pickle.dumps(PrivateKeyJWT(key=sign_with_p256, algorithm="ES256")))
    header_once_used(make_client, tokens, way, P256.public_key())
    stuck = PrivateKeyJWT(key=lambda _signing_input: b"", algorithm="ES256")
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        pickle.dumps(stuck)


def test_a_callable_that_signs_to_no_bytes_is_told_so(make_client: MakeClient) -> None:
    way = PrivateKeyJWT(key=lambda _signing_input: "signature", algorithm="ES256")
    with pytest.raises(TypeError, match="must return bytes, got str"):
        make_client(client_auth=way, client_secret=None).renew_token()


def test_an_object_can_be_pickled(make_client: MakeClient, tokens: TokenServer) -> None:
    for key in (RSA, P256, ED25519, jwk_of(P256)):
        public_key = (P256 if isinstance(key, dict) else key).public_key()
        way = pickle.loads(pickle.dumps(PrivateKeyJWT(key=key)))
        header_once_used(make_client, tokens, way, public_key)


SECRET_TEXT = "MC4CAQAwBQYDK2VwBCIEIO"

PUBLIC = str(
    RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), "ascii"
)

ENCRYPTED = [
    str(RSA.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"x")), "ascii")
    for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL)
]


@pytest.mark.parametrize(
    ("key", "algorithm", "error", "words"),
    [
        (RSA, "ES256", ValueError, "one of PS256, PS384, PS512, RS256, .*got 'ES256'"),
        (P256, "RS256", ValueError, "algorithm must be one of ES256, got 'RS256'"),
        (P384, "ES256", ValueError, "algorithm must be one of ES384, got 'ES256'"),
        (ED25519, "HS256", ValueError, "algorithm must be one of EdDSA, got 'HS256'"),
        (RSA, "none", ValueError, "got 'none'"),
        (jwk_of(RSA, alg="RSA-OAEP"), None, ValueError, "got 'RSA-OAEP'"),
        (lambda data: data, None, TypeError, "algorithm is missing"),
        (lambda data: data, "HS256", ValueError, "got 'HS256'"),
        (ENCRYPTED[0], None, ValueError, "is encrypted"),
        (ENCRYPTED[1], None, ValueError, "is encrypted"),
        (PUBLIC, None, ValueError, "no private key in the PEM"),
        (f"-----BEGIN PRIVATE KEY-----\n{SECRET_TEXT}", None, ValueError, "no private key"),
        (RSA.public_key(), None, TypeError, "must be a private key .* got .*RSAPublicKey"),
        (jwk_of(P256.public_key()), None, TypeError, "must be a private key"),
        ({**jwk_of(P256), "d": SECRET_TEXT}, None, ValueError, "no key in the JWK"),
        ({"d": SECRET_TEXT}, None, ValueError, "no key in the JWK"),
        (HMACAlgorithm.to_jwk(SECRET_TEXT), None, TypeError, "got bytes"),
        (f'{{"kty": "RSA", "d": "{SECRET_TEXT}', None, ValueError, "neither"),
        (b"[1]", None, ValueError, "neither"),
        (SECRET_TEXT, None, ValueError, "the str is neither PEM nor a JWK, and as a path"),
        (f"{SECRET_TEXT}\0", None, ValueError, "cannot be read: no path"),
        (SECRET_TEXT.encode(), None, ValueError, "neither"),
        (Path("nowhere/key.pem"), None, ValueError, "nowhere/key.pem cannot be read: No such"),
        (7, None, TypeError, "got int"),
        (None, None, TypeError, "got NoneType"),
        (ed448.Ed448PrivateKey.generate(), None, TypeError, "got .*Ed448PrivateKey"),
        (ec.generate_private_key(ec.SECP256K1()), None, TypeError, "P-256, P-384 or P-521"),
        (pem(dsa.generate_private_key(2048)), None, TypeError, "got .*DSAPrivateKey"),
    ],
)
def test_what_is_no_usable_key_is_an_error_at_construction(
    key: Any, algorithm: str | None, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as failure:
        PrivateKeyJWT(key=key, algorithm=algorithm)
    seen: BaseException | None = failure.value
    while seen is not None:
        assert SECRET_TEXT not in str(seen)
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)


SHORT_RSA = rsa.generate_private_key(public_exponent=65537, key_size=1024)


@pytest.mark.parametrize("use", [PrivateKeyJWT, DPoPKey])
def test_a_short_rsa_key_is_refused_unless_it_is_allowed(use: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"at least 2048 bits.* has 1024"):
        use(key=SHORT_RSA)
    pickle.loads(pickle.dumps(use(key=SHORT_RSA, allow_short_key=True)))
    use(key=RSA)
