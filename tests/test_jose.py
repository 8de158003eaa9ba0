"""The forms in which people have a private key, and what is no such key."""

from __future__ import annotations

import copy
import json
import os
import pickle
from base64 import urlsafe_b64encode
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates
from cryptography.x509.oid import NameOID
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


@pytest.mark.parametrize("form", [PrivateFormat.TraditionalOpenSSL, PrivateFormat.OpenSSH])
@pytest.mark.parametrize("key", [RSA, P256])
def test_pem_of_other_kinds(
    make_client: MakeClient, tokens: TokenServer, key: Any, form: PrivateFormat
) -> None:
    way = PrivateKeyJWT(key=pem(key, form))
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


@pytest.mark.parametrize(
    ("algorithm", "signature", "words"),
    [
        ("ES256", None, r"64 bytes .* ES256 .* of DER, .*: convert .* decode_dss_signature"),
        ("ES384", None, "must return the 96 bytes"),
        ("ES512", b"s" * 131, "must return the 132 bytes .* got 131 bytes of others"),
        ("EdDSA", b"", "must return the 64 bytes"),
    ],
)
def test_a_callable_that_signs_in_another_form_is_told_so(
    make_client: MakeClient, algorithm: str, signature: bytes | None, words: str
) -> None:
    """Key services return DER for curves, JWS has the two numbers one after the other."""

    def kms(signing_input: bytes) -> bytes:
        return P256.sign(signing_input, ec.ECDSA(SHA256())) if signature is None else signature

    way = PrivateKeyJWT(key=kms, algorithm=algorithm)
    with pytest.raises(ValueError, match=words):
        make_client(client_auth=way, client_secret=None).renew_token()


@pytest.mark.parametrize("password", ["pass wörd", "pass wörd".encode()])
@pytest.mark.parametrize("use", [PrivateKeyJWT, DPoPKey])
def test_an_encrypted_pem_is_opened_with_its_password(
    tmp_path: Path, use: Callable[..., Any], password: Any
) -> None:
    lock = BestAvailableEncryption("pass wörd".encode())
    for key in (RSA, P256, ED25519):
        path = tmp_path / "key.pem"
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
        use(key=path, password=password)
        use(key=path.read_text(), password=password)
        with pytest.raises(ValueError, match=r"is encrypted: give its password="):
            use(key=path)
        with pytest.raises(ValueError, match=r"cannot be decrypted: password= is wrong") as failure:
            use(key=path, password="top-secret")
        assert "top-secret" not in repr(failure.value)


@pytest.mark.parametrize(
    ("key", "password", "error", "words"),
    [
        (pem(RSA), "x", ValueError, "is not encrypted, but password= is given"),
        (RSA, "x", ValueError, "the key is not in PEM"),
        (jwk_of(RSA), "x", ValueError, "the key is not in PEM"),
        (sign_with_p256, "x", ValueError, "the key is a callable"),
        (pem(RSA), 7, TypeError, "password must be a str or bytes, got int"),
    ],
)
def test_a_password_that_is_of_no_use_is_an_error(
    key: Any, password: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        PrivateKeyJWT(key=key, password=password, algorithm="ES256" if callable(key) else None)


def certificate_of(key: Any, name: str = "client") -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, None if key is ED25519 else SHA256())
    )


def pem_of(certificate: x509.Certificate) -> str:
    return str(certificate.public_bytes(Encoding.PEM), "ascii")


RSA_CERTIFICATE = certificate_of(RSA)


@pytest.mark.parametrize(
    "form",
    [
        lambda _folder: RSA_CERTIFICATE,
        lambda _folder: pem_of(RSA_CERTIFICATE),
        lambda _folder: pem_of(RSA_CERTIFICATE).encode(),
        lambda folder: in_a_file(pem_of(RSA_CERTIFICATE), folder),
        lambda folder: str(in_a_file(pem_of(RSA_CERTIFICATE), folder)),
        lambda folder: in_a_file(pem(RSA) + pem_of(RSA_CERTIFICATE), folder),
        # The chain, in whatever order.
        lambda _folder: pem_of(certificate_of(P256)) + pem_of(RSA_CERTIFICATE),
    ],
)
def test_the_header_names_the_certificate(
    make_client: MakeClient, tokens: TokenServer, tmp_path: Path, form: Any
) -> None:
    way = PrivateKeyJWT(key=RSA, certificate=form(tmp_path))
    header = header_once_used(make_client, tokens, way, RSA.public_key())
    sha1, sha256 = (RSA_CERTIFICATE.fingerprint(kind) for kind in (SHA1(), SHA256()))
    assert header["x5t"] == urlsafe_b64encode(sha1).decode().rstrip("=")
    assert header["x5t#S256"] == urlsafe_b64encode(sha256).decode().rstrip("=")
    header_once_used(make_client, tokens, pickle.loads(pickle.dumps(way)), RSA.public_key())


def test_the_certificate_of_a_callable_is_the_first(
    make_client: MakeClient, tokens: TokenServer
) -> None:
    chain = pem_of(certificate_of(P256)) + pem_of(RSA_CERTIFICATE)
    way = PrivateKeyJWT(key=sign_with_p256, algorithm="ES256", certificate=chain)
    one = PrivateKeyJWT(key=P256, certificate=chain)
    headers = [header_once_used(make_client, tokens, w, P256.public_key()) for w in (way, one)]
    assert headers[0] == headers[1]


def der_file(content: bytes, folder: Path) -> Path:
    path = folder / "file"
    path.write_bytes(content)
    return path


DER_CERTIFICATE = RSA_CERTIFICATE.public_bytes(Encoding.DER)
PKCS12 = serialize_key_and_certificates(b"it", RSA, RSA_CERTIFICATE, None, NoEncryption())


@pytest.mark.parametrize(
    ("certificate", "error", "words"),
    [
        (certificate_of(P256), ValueError, "certificate: it is for another key"),
        (pem_of(certificate_of(P256)), ValueError, "certificate: it is for another key"),
        (certificate_of(ED25519), ValueError, "certificate: it is for another key"),
        (7, TypeError, "certificate must be PEM, the path .* got int"),
        (RSA.public_key(), TypeError, "certificate must be PEM, the path .* got .*RSAPublicKey"),
        (pem(RSA), ValueError, "certificate: the value holds a PEM of 'private key', expected a"),
        (b"nothing", ValueError, "certificate: the value holds something else"),
        ("nowhere.pem", ValueError, "certificate: the str is not PEM, and as a path cannot be"),
        (Path("nowhere.pem"), ValueError, "certificate: nowhere.pem cannot be read: No such file"),
        (DER_CERTIFICATE, ValueError, "certificate: .* DER, .* 'openssl x509 -inform DER'"),
        (PKCS12, ValueError, "certificate: .* PKCS #12, .* 'openssl pkcs12 -nodes'"),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
            ValueError,
            "certificate: a certificate in the value is damaged",
        ),
    ],
)
def test_a_certificate_of_no_use_is_an_error_at_construction(
    certificate: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        PrivateKeyJWT(key=RSA, certificate=certificate)


def test_a_certificate_is_not_named_twice() -> None:
    with pytest.raises(ValueError, match="headers must not hold x5t: certificate= sets it"):
        PrivateKeyJWT(key=RSA, certificate=RSA_CERTIFICATE, headers={"x5t": "abc"})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (RSA.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), "DER, .* -inform"),
        (P256.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), "DER, .* pkey"),
        (PKCS12, "PKCS #12, expected PEM or a JWK: convert it with 'openssl pkcs12 -nodes', or"),
    ],
)
def test_a_key_in_a_binary_form_is_named_with_what_to_do(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = der_file(content, tmp_path)
    for key, place in ((path, f"the file '{path}'"), (str(path), f"'{path}'"), (content, "value")):
        with pytest.raises(ValueError, match=f"key: .*{place} holds {words}"):
            PrivateKeyJWT(key=key)


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
        (f'{{"private_key": "{SECRET_TEXT}"}}', None, ValueError, "give its member 'private_key'"),
        (pem(RSA).replace("\n", "\\n"), None, ValueError, r"'\\n' written out"),
        (pem_of(RSA_CERTIFICATE), None, ValueError, "holds a PEM of 'certificate'"),
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
